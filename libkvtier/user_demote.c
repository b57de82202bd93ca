// SPDX-License-Identifier: MIT
/* Choose a victim, take it out, write it if it must be, free its frame. */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>

#include "crc.h"
#include "error.h"
#include "user.h"

/* Bytes that may be on their way to the device at once. */
#define WRITE_BYTES_MAX (8u << 20)
#define FULL_RETRY_NS 100000000ull
#define SEARCH_MAX 65536
#define SWEEP_MAX 256
/* Rows back in the order in which the blocks of one are looked for. */
#define ROW_SOON 4
/* A block that a device or the kernel has pinned is tried again after this. */
#define HOLD_NS 20000000ull

/* Frames kept free so that a fault need not wait for a write. */
uint32_t kvt_user_reserve(const struct kvt_user *u)
{
	uint32_t frames = u->arena[KVTIER_TIER_DRAM].limit;

	return frames >= 256 ? 8 : frames >= 64 ? 4 : frames >= 8 ? 1 : 0;
}

/* Is there room for one more write, and a device that takes it? */
bool kvt_user_may_write(const struct kvt_user *u)
{
	return kvt_user_io_room(u) && u->slots.nr &&
	       (uint64_t)u->writes * u->pool.block_bytes < WRITE_BYTES_MAX &&
	       u->now_ns >= u->full_until_ns;
}

void kvt_user_drop_slot(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);

	if (blk->slot != KVT_SLOT_NONE)
		kvt_slot_put(&u->slots, blk->slot);
	blk->slot = KVT_SLOT_NONE;
}

/* staged and clean -> cold */
void kvt_user_drop(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);

	assert(blk->where == KVT_STAGED && !(blk->flags & KVT_B_DIRTY));
	u->stats.tier[blk->tier].bytes_out += u->pool.block_bytes;
	kvt_arena_drop(&u->arena[blk->tier], blk->place);
	blk->place = KVT_PLACE_NONE;
	blk->tier = KVTIER_TIER_NONE;
	blk->where = KVT_COLD;
	blk->flags &= ~(KVT_B_HINT | KVT_B_TRIP | KVT_B_LEASE);
	kvt_user_unahead(u, b, false);
	u->stats.demoted++;
}

/* A resident block does not need its slot as long as it is dirty or can become so. */
static bool steal_slot(struct kvt_user *u)
{
	uint32_t b;

	for (b = 0; b < u->nr_blocks; b++) {
		struct kvt_block *blk = kvt_block(u, b);

		if (blk->where != KVT_MAPPED || blk->slot == KVT_SLOT_NONE || kvt_moving(blk) ||
		    blk->busy || kvt_slot_shared(&u->slots, blk->slot))
			continue;
		kvt_user_drop_slot(u, b);
		blk->flags |= KVT_B_DIRTY;
		return true;
	}
	return false;
}

/* A slot that this block may overwrite. */
static int own_slot(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);

	if (blk->slot != KVT_SLOT_NONE && kvt_slot_shared(&u->slots, blk->slot))
		kvt_user_drop_slot(u, b);
	if (blk->slot != KVT_SLOT_NONE)
		return 0;
	blk->slot = kvt_slot_get(&u->slots, b);
	if (blk->slot == KVT_SLOT_NONE && steal_slot(u))
		blk->slot = kvt_slot_get(&u->slots, b);
	return blk->slot == KVT_SLOT_NONE ? -ENOSPC : 0;
}

/* staged -> writing */
int kvt_user_write(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);
	int ret;

	assert(blk->where == KVT_STAGED);
	if (!kvt_user_may_write(u))
		return -EAGAIN;
	ret = own_slot(u, b);
	if (ret)
		return ret;
	blk->crc = kvt_crc32c(kvt_frame_addr(u, b), u->pool.block_bytes);
	blk->flags &= ~KVT_B_DIRTY;
	blk->where = KVT_WRITING;
	return kvt_user_submit(u, b, true, kvt_frame_addr(u, b));
}

static void write_failed(struct kvt_user *u, uint32_t b, int error)
{
	struct kvt_block *blk = kvt_block(u, b);

	blk->flags |= KVT_B_DIRTY;
	u->full_until_ns = kvt_now_ns() + FULL_RETRY_NS;
	if (error == -ENOSPC || error == -EDQUOT || error == -EFBIG)
		u->stats.enospc++;
	u->stats.tier[KVTIER_TIER_NVME].io_errors++;
	kvt_user_event(u, KVTIER_EVENT_IO_ERROR, b, error);
	kvt_user_note_error(u, "block %u could not be written to %s: %s; it stays in memory", b,
			    u->nvme.path, kvt_strerror(error));
}

void kvt_user_write_done(struct kvt_user *u, uint32_t b, int res)
{
	struct kvt_block *blk = kvt_block(u, b);
	bool back = blk->flags & KVT_B_RETURN, write;

	blk->flags &= ~(KVT_B_RETURN | KVT_B_STALLED);
	blk->where = KVT_STAGED;
	if (res != (int)u->pool.block_bytes) {
		write_failed(u, b, res < 0 ? res : -ENOSPC);
	} else {
		u->stats.written_blocks++;
		u->stats.tier[KVTIER_TIER_NVME].bytes_in += u->pool.block_bytes;
	}
	if (kvt_user_wanted(u, b, &write) || back)
		kvt_user_map(u, b, write);
	else if (!(blk->flags & KVT_B_DIRTY))
		kvt_user_drop(u, b);
}

/* staged -> cold, by way of writing when it is dirty. */
static int leave(struct kvt_user *u, uint32_t b)
{
	if (kvt_block(u, b)->where == KVT_COLD)
		return 0;
	if (kvt_block(u, b)->flags & KVT_B_DIRTY)
		return kvt_user_write(u, b);
	u->stats.clean_drops++;
	kvt_user_drop(u, b);
	return 0;
}

/* mapped or staged -> cold */
int kvt_user_evict(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);
	int ret;

	if (blk->holds || blk->pins)
		return -EBUSY;
	ret = blk->where == KVT_MAPPED ? kvt_user_unmap(u, b) : 0;
	return ret ? ret : leave(u, b);
}

/*
 * Likely to be written again soon, as the last block of each tensor is at every
 * step?  It was, in this cycle or the last; when that is not known, because
 * writes to a dirty block are not seen, it is protected to find out.
 */
static bool often_written(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);

	if (blk->slot == KVT_SLOT_NONE || !kvt_order_has(&u->order, b))
		return false;
	if (u->order.clock - blk->written < u->order.count + u->order.count / 2)
		return true;
	if (blk->where != KVT_MAPPED || (blk->flags & KVT_B_PROTECTED) || kvt_user_protect(u, b))
		return false;
	blk->written = u->order.clock;
	return true;
}

static bool evictable(struct kvt_user *u, uint32_t b, bool clean_only, bool spare_written)
{
	const struct kvt_block *blk = kvt_block(u, b);
	bool write;

	if (!kvt_resident(blk) || blk->pins || blk->busy || blk->holds ||
	    blk->held_until_ns > u->now_ns)
		return false;
	if (u->victim_tier != KVTIER_TIER_NONE && blk->tier != u->victim_tier)
		return false;
	if (blk->flags & KVT_B_DIRTY) {
		if (clean_only)
			return false;
		if (spare_written && often_written(u, b))
			return false;
	}
	return !kvt_user_wanted(u, b, &write);
}

/* Its next use is the furthest: let it go first. */
void kvt_user_hint(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);

	if (!kvt_resident(blk) || (blk->flags & KVT_B_HINT) || u->nr_hints == u->nr_blocks)
		return;
	blk->flags |= KVT_B_HINT;
	u->hints[(u->hint_first + u->nr_hints++) % u->nr_blocks] = b;
}

static uint32_t hinted_victim(struct kvt_user *u, bool clean_only)
{
	while (u->nr_hints) {
		uint32_t b = u->hints[u->hint_first];

		u->hint_first = (u->hint_first + 1) % u->nr_blocks;
		u->nr_hints--;
		if ((kvt_block(u, b)->flags & KVT_B_HINT) && evictable(u, b, clean_only, false)) {
			kvt_block(u, b)->flags &= ~KVT_B_HINT;
			return b;
		}
		kvt_block(u, b)->flags &= ~KVT_B_HINT;
	}
	return KVT_ORDER_NONE;
}

/* Walk backwards over the ring from @from, until @stop or a full turn. */
static uint32_t search_back(struct kvt_user *u, uint32_t from, uint32_t stop, bool clean_only,
			    bool spare)
{
	const struct kvt_order *o = &u->order;
	uint32_t b = from, i;

	for (i = 0; i < o->count && i < SEARCH_MAX; i++, b = o->prev[b]) {
		if (b == stop)
			break;
		if (evictable(u, b, clean_only, spare))
			return b;
	}
	return KVT_ORDER_NONE;
}

/* The furthest next use: backwards from the tail, down to what is about to be used. */
static uint32_t ordered_victim(struct kvt_user *u, bool clean_only, bool spare)
{
	const struct kvt_order *o = &u->order;
	uint32_t stop = u->hand == KVT_ORDER_NONE ? o->cursor : u->hand;

	if (!o->count)
		return KVT_ORDER_NONE;
	return search_back(u, o->tail == o->cursor ? o->prev[o->tail] : o->tail, stop, clean_only,
			   spare);
}

/* For a thread that waits: what was read ahead goes, furthest first, then what was just used. */
static uint32_t desperate_victim(struct kvt_user *u, bool clean_only)
{
	if (!u->order.count)
		return KVT_ORDER_NONE;
	return search_back(u, u->hand == KVT_ORDER_NONE ? u->order.prev[u->order.cursor] : u->hand,
			   KVT_ORDER_NONE, clean_only, false);
}

/* Blocks that were promoted by request and never touched are not on the ring. */
static uint32_t unordered_victim(struct kvt_user *u, bool clean_only)
{
	uint32_t most = u->nr_waits || u->nr_blocks < SWEEP_MAX ? u->nr_blocks : SWEEP_MAX, i;

	for (i = 0; i < most; i++) {
		u->sweep = u->sweep + 1 >= u->nr_blocks ? 0 : u->sweep + 1;
		if (!kvt_order_has(&u->order, u->sweep) &&
		    evictable(u, u->sweep, clean_only, false))
			return u->sweep;
	}
	return KVT_ORDER_NONE;
}

static uint32_t pick(struct kvt_user *u, bool clean_only, bool desperate)
{
	uint32_t b = hinted_victim(u, clean_only);

	if (b == KVT_ORDER_NONE)
		b = ordered_victim(u, clean_only, true);
	if (b == KVT_ORDER_NONE && !clean_only)
		b = ordered_victim(u, false, false);
	if (b == KVT_ORDER_NONE)
		b = unordered_victim(u, clean_only);
	if (b == KVT_ORDER_NONE && desperate)
		b = desperate_victim(u, clean_only);
	return b;
}

/*
 * Free one frame, or start the write that will; false when nothing can go.
 * @desperate: even what is expected to be used next.
 */
bool kvt_user_evict_one(struct kvt_user *u, bool desperate)
{
	int tries;

	for (tries = 0; tries < 16; tries++) {
		uint32_t b = pick(u, !kvt_user_may_write(u), desperate);

		if (b == KVT_ORDER_NONE)
			return false;
		if (!kvt_user_evict(u, b))
			return true;
		kvt_block(u, b)->held_until_ns = u->now_ns + HOLD_NS;
	}
	return false;
}

static bool in_row(struct kvt_user *u, uint32_t b, uint8_t tier)
{
	const struct kvt_block *blk = kvt_block(u, b);

	return blk->where == KVT_MAPPED && blk->tier == tier && evictable(u, b, true, false);
}

/* Of the blocks before @last in the order, those that also lie before it; the first of them. */
static uint32_t row_before(struct kvt_user *u, uint32_t last, uint32_t most)
{
	const struct kvt_order *o = &u->order;
	uint32_t stop = u->hand == KVT_ORDER_NONE ? o->cursor : u->hand;
	uint32_t first = last, left = most * ROW_SOON, at = o->prev[last];

	for (; last - first + 1 < most && left-- && at != stop && at != last; at = o->prev[at])
		if (at + 1 == first && in_row(u, at, kvt_block(u, last)->tier))
			first = at;
	return first;
}

/*
 * Free as many as @most frames at once: of the next victim and of those before it, which
 * would be among the next.
 */
bool kvt_user_evict_row(struct kvt_user *u, uint32_t most)
{
	uint32_t last = KVT_ORDER_NONE, first, i;

	if (most > 1 && !u->nr_hints)
		last = ordered_victim(u, !kvt_user_may_write(u), true);
	if (last == KVT_ORDER_NONE || !in_row(u, last, kvt_block(u, last)->tier))
		return kvt_user_evict_one(u, false);
	first = row_before(u, last, most);
	if (first == last || kvt_user_unmap_row(u, first, last - first + 1))
		return kvt_user_evict_one(u, false);
	for (i = last + 1; i-- > first;) /* so that the frames are taken as a row again */
		leave(u, i);
	return true;
}

/* Free a frame of one tier. */
bool kvt_user_evict_from(struct kvt_user *u, uint8_t tier)
{
	bool ret;

	u->victim_tier = tier;
	ret = kvt_user_evict_one(u, true);
	u->victim_tier = KVTIER_TIER_NONE;
	return ret;
}

/* Keep a few frames free ahead of the next fault. */
void kvt_user_balance(struct kvt_user *u)
{
	uint32_t want = kvt_user_reserve(u);
	int i;

	if (u->fetches) /* their frames come free all the time */
		return;
	for (i = 0; i < 8; i++) {
		if (kvt_user_room(u) + u->writes >= want ||
		    !kvt_user_evict_row(u, kvt_user_batch(u)))
			return;
	}
}
