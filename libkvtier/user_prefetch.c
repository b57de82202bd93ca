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

static bool room_for_one(struct kvt_user *u)
{
	uint32_t spare = kvt_user_reserve(u) / 2;

	if (kvt_user_room(u) > spare)
		return true;
	return kvt_user_evict_one(u, false) && kvt_user_room(u) > spare;
}

static bool promote_ahead(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);

	if (!room_for_one(u) || blk->where != KVT_COLD || kvt_user_read(u, b, KVTIER_TIER_NONE))
		return false;
	u->hand = b;
	u->ahead++;
	u->stats.prefetched++;
	blk->flags |= KVT_B_AHEAD;
	if (++u->since_trip >= u->window / TRIPS_PER_WINDOW) {
		u->since_trip = 0;
		blk->flags |= KVT_B_TRIP;
	}
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
