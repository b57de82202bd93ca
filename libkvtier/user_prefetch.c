// SPDX-License-Identifier: MIT
/*
 * Promote what the order says comes next.
 *
 * Blocks read ahead are mapped before they are touched, so they do not fault;
 * every few blocks one is left unmapped (a trip wire) to tell how far the
 * engine has come.  How many blocks to be ahead is learned: more when the
 * engine had to wait although the device was idle, slowly fewer otherwise.
 */
#include "user.h"

/* Bytes of reads under way at once: more only lengthens the wait of a fault. */
#define READ_BYTES (4u << 20)
#define WINDOW_MIN 4
#define TRIPS_PER_WINDOW 4
#define REUSE_MIN 2
/* Cycles for which a reuse window that proved necessary is kept. */
#define REUSE_HOLD 8
/* Bytes that are read into a row of frames and mapped at once, and the part of the frames. */
#define BATCH_BYTES (1u << 20)
#define BATCH_SHARE 32
#define BATCH_SOON 4 /* batches ahead in which the blocks of one are looked for */
/* A block that has to be read twice costs as much as this many that are read ahead. */
#define AGAIN_COST 4

static uint32_t frames(const struct kvt_user *u)
{
	return u->arena[KVTIER_TIER_DRAM].limit + u->arena[KVTIER_TIER_CXL].limit;
}

static uint32_t reuse_max(const struct kvt_user *u)
{
	return frames(u) * 3 / 4;
}

static uint32_t window_max(const struct kvt_user *u)
{
	uint32_t taken = u->order.reuse + kvt_user_reserve(u) + 1;

	return frames(u) > taken + WINDOW_MIN ? frames(u) - taken : WINDOW_MIN;
}

static uint32_t reads_max(const struct kvt_user *u)
{
	uint32_t most = READ_BYTES >> u->pool.block_shift;

	return most < 4 ? 4 : most > 64 ? 64 : most;
}

/* A block is no longer ahead: passed by the cursor, or evicted before it was. */
void kvt_user_unahead(struct kvt_user *u, uint32_t b, bool used)
{
	struct kvt_block *blk = kvt_block(u, b);

	if (!(blk->flags & KVT_B_AHEAD))
		return;
	blk->flags &= ~KVT_B_AHEAD;
	u->ahead--;
	if (used)
		u->stats.prefetch_used++;
	else
		u->stats.prefetch_wasted++;
}

static void passed(void *ctx, uint32_t b)
{
	struct kvt_user *u = ctx;

	if (u->hand == KVT_ORDER_NONE || u->hand == u->order.prev[b])
		u->hand = b;
	if (kvt_block(u, b)->flags & KVT_B_AHEAD)
		kvt_user_stat_seen(u, b, KVT_STAT_PASSED, false);
	kvt_user_unahead(u, b, true);
}

static bool absent(void *ctx, uint32_t b)
{
	return kvt_block(ctx, b)->where != KVT_MAPPED;
}

void kvt_user_prefetch_init(struct kvt_user *u)
{
	u->order.passed = passed;
	u->order.absent = absent;
	u->order.ctx = u;
	u->hand = KVT_ORDER_NONE;
	u->window = reads_max(u) * 2;
	kvt_order_set_reuse(&u->order, frames(u) / 8 > 2 ? frames(u) / 8 : 2);
}

/* The DRAM budget has changed: so has what the windows may be. */
void kvt_user_prefetch_resized(struct kvt_user *u)
{
	if (u->order.reuse > reuse_max(u))
		kvt_order_set_reuse(&u->order, reuse_max(u));
	if (u->window > window_max(u))
		u->window = window_max(u);
}

static void widen(struct kvt_user *u)
{
	u->window += u->window / 8 + 1;
	if (u->window > window_max(u))
		u->window = window_max(u);
}

/*
 * A block was read twice in a cycle.  A window that reaches back to it costs one
 * frame, so one more read, for each block it grows by: grow when that is cheaper.
 */
static void lengthen_reuse(struct kvt_user *u, uint32_t distance)
{
	uint32_t need = distance + distance / 16 + 1;

	if (need > reuse_max(u))
		need = reuse_max(u);
	u->reuse_hold = REUSE_HOLD;
	u->again_credit += AGAIN_COST;
	if (need <= u->order.reuse || u->again_credit < need - u->order.reuse)
		return;
	u->again_credit = 0;
	kvt_order_set_reuse(&u->order, need);
}

/* Once a cycle: give back a little of what was learned, lest it only grows. */
static void relax(struct kvt_user *u)
{
	if (u->order.clock - u->last_tick < u->order.count)
		return;
	u->last_tick = u->order.clock;
	u->again_credit /= 2;
	if (u->window > WINDOW_MIN + 32)
		u->window -= u->window / 32;
	if (u->reuse_hold)
		u->reuse_hold--;
	else if (u->order.reuse > REUSE_MIN)
		kvt_order_set_reuse(&u->order, u->order.reuse - u->order.reuse / 16 - 1);
}

/* A touch was seen; @missed: it had to wait for the device. */
void kvt_user_learn(struct kvt_user *u, uint32_t b, bool missed)
{
	uint32_t distance = 0;

	if (u->hand == b)
		u->hand = u->order.cursor == b ? KVT_ORDER_NONE : u->order.cursor;
	switch (kvt_order_touch(&u->order, b, reuse_max(u), &distance)) {
	case KVT_TOUCH_AGAIN:
		if (missed)
			lengthen_reuse(u, distance);
		break;
	case KVT_TOUCH_AHEAD:
		if (missed && u->held_back)
			widen(u);
		break;
	default:
		break;
	}
	/* It was foreseen and not read: it left memory after the hand had gone by. */
	if (missed && kvt_block(u, b)->where == KVT_COLD)
		u->hand = u->order.cursor;
	if (u->window > window_max(u))
		u->window = window_max(u);
	kvt_user_unahead(u, b, true);
	relax(u);
}

static uint32_t next_cold(struct kvt_user *u)
{
	const struct kvt_order *o = &u->order;
	uint32_t b;

	if (u->hand == KVT_ORDER_NONE)
		u->hand = o->cursor;
	for (b = o->next[u->hand]; b != o->cursor; b = o->next[b]) {
		if (kvt_block(u, b)->where == KVT_COLD)
			return b;
		u->hand = b;
	}
	return KVT_ORDER_NONE;
}

uint32_t kvt_user_batch(const struct kvt_user *u)
{
	uint32_t most = BATCH_BYTES >> u->pool.block_shift;

	if (most > frames(u) / BATCH_SHARE)
		most = frames(u) / BATCH_SHARE;
	return u->uffd.can_move && most ? most : 1;
}

/* Room for @nr, or at least for one. */
static bool make_room(struct kvt_user *u, uint32_t nr)
{
	uint32_t spare = kvt_user_reserve(u) / 2;

	while (kvt_user_room(u) < spare + nr)
		if (!kvt_user_evict_row(u, nr) || u->writes)
			break;
	return kvt_user_room(u) > spare;
}

/*
 * How many blocks from @b on follow each other and are wanted soon: keys and values are read
 * in turns, so those that follow each other are not next to each other in the order.
 */
static uint32_t row_length(const struct kvt_user *u, uint32_t b)
{
	const struct kvt_order *o = &u->order;
	uint32_t most = kvt_user_batch(u), nr = 1, left = most * BATCH_SOON, at;

	for (at = o->next[b]; nr < most && left-- && at != o->cursor; at = o->next[at])
		if (at == b + nr && u->blocks[at].where == KVT_COLD)
			nr++;
	return nr;
}

/* Part of the same row, and not yet where it belongs. */
static bool of_row(const struct kvt_user *u, uint32_t b, uint32_t next)
{
	const struct kvt_block *one = &u->blocks[b], *two = &u->blocks[next];

	return one->batch == two->batch && one->tier == two->tier && one->place + 1 == two->place &&
	       (one->flags & two->flags & KVT_B_AHEAD) && !((one->flags | two->flags) & KVT_B_TRIP);
}

static bool comes(const struct kvt_block *blk)
{
	return (blk->where == KVT_STAGED || blk->where == KVT_READING) &&
	       !(blk->flags & (KVT_B_DIRTY | KVT_B_STALLED | KVT_B_LEASE)) && !blk->holds;
}

/* Map the row that @b is of, if no other block of it is still to come. */
static void map_row(struct kvt_user *u, uint32_t b)
{
	uint32_t first = b, last = b, i;

	while (first && comes(kvt_block(u, first - 1)) && of_row(u, first - 1, first))
		first--;
	while (last + 1 < u->nr_blocks && comes(kvt_block(u, last + 1)) &&
	       of_row(u, last, last + 1))
		last++;
	for (i = first; i <= last; i++)
		if (kvt_block(u, i)->where == KVT_READING)
			return;
	if (first < last && !kvt_user_map_row(u, first, last - first + 1))
		return;
	for (i = first; i <= last; i++)
		kvt_user_map(u, i, false);
}

static bool waits_for_row(const struct kvt_user *u, uint32_t b)
{
	const struct kvt_block *blk = &u->blocks[b];

	return blk->where == KVT_STAGED && (blk->flags & KVT_B_AHEAD) &&
	       !(blk->flags & KVT_B_TRIP) && comes(blk);
}

/* A read has ended: @b, or what waited for it, may be mapped. */
void kvt_user_came_ahead(struct kvt_user *u, uint32_t b)
{
	if (waits_for_row(u, b)) {
		map_row(u, b);
		return;
	}
	if (b && waits_for_row(u, b - 1))
		map_row(u, b - 1);
	if (b + 1 < u->nr_blocks && waits_for_row(u, b + 1))
		map_row(u, b + 1);
}

static bool read_ahead(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);

	if (kvt_user_room(u) <= kvt_user_reserve(u) / 2 || blk->where != KVT_COLD ||
	    kvt_user_read(u, b, KVTIER_TIER_NONE))
		return false;
	u->ahead++;
	u->stats.prefetched++;
	blk->flags |= KVT_B_AHEAD;
	blk->batch = u->batch;
	u->since_trip++;
	return true;
}

/* @b, and what follows it; the first of them may be a trip wire. */
static bool promote_ahead(struct kvt_user *u, uint32_t b)
{
	uint32_t nr = row_length(u, b), i;

	u->batch++;
	if (!make_room(u, nr) || !read_ahead(u, b))
		return false;
	u->hand = b;
	if (u->since_trip >= u->window / TRIPS_PER_WINDOW) {
		u->since_trip = 0;
		kvt_block(u, b)->flags |= KVT_B_TRIP;
	}
	for (i = 1; i < nr; i++)
		if (!read_ahead(u, b + i))
			break;
	return true;
}

/* While readers say what they will read there is nothing to guess. */
void kvt_user_prefetch(struct kvt_user *u)
{
	if ((u->flags & KVT_NO_PREDICT) || !u->order.count || u->fetches)
		return;
	u->held_back = false;
	while (u->reads < reads_max(u) && kvt_user_io_room(u)) {
		uint32_t b = next_cold(u);

		if (b == KVT_ORDER_NONE)
			return;
		if (u->ahead >= u->window) {
			u->held_back = u->reads == 0;
			return;
		}
		if (!promote_ahead(u, b))
			return;
	}
}
