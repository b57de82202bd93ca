// SPDX-License-Identifier: GPL-2.0-only
/*
 * Victims: which frames are given up when others are needed, and how.
 *
 * First those that were hinted cold, in the order of the hints.  Then the coldest of
 * a sample, half of it from the frames placed last, half from those placed first;
 * among equals the one placed last.  A frame that was just placed has a heat of 1:
 * more than one that accessed bits have shown to be idle, less than one that is used.
 * So a scan that is larger than memory keeps what it has and streams the rest through
 * a few frames, where least recently used would miss always.  The very newest are
 * spared: the touch that they were placed for has yet to come.
 */
#include <linux/delay.h>
#include <linux/pagemap.h>

#include "kvtier.h"
#include "trace.h"

#define VICTIMS 8 /* given up together, so that their writes overlap */
#define SAMPLE 32 /* from each end of the list */

static bool spared(const struct kvt_share *share, const struct kvt_frame *frame)
{
	u64 guard = min_t(u64, share->budget / 4, 64);

	return share->placements - frame->placed < guard;
}

/* Could this frame be given up?  Without its owner's lock: to be checked again. */
static bool eligible(struct kvt_pool *pool, const struct kvt_frame *frame, bool clean_only)
{
	const struct kvt_block *block = kvt_block_peek(pool, frame->block);

	return !test_bit(KVT_BLOCK_BUSY, &block->flags) && !block->pins &&
	       !(clean_only && kvt_block_unsaved(block));
}

struct pick {
	struct kvt_frame *best;
	u32 score;
};

static void consider(struct pick *pick, struct kvt_frame *frame)
{
	u32 score = frame->heat;

	if (!pick->best || score < pick->score) {
		pick->best = frame;
		pick->score = score;
	}
}

static struct kvt_frame *pick_cold(struct kvt_pool *pool, struct kvt_share *share, bool clean_only)
{
	struct kvt_frame *frame;
	u32 seen = 0;

	list_for_each_entry(frame, &share->cold, lru) {
		if (eligible(pool, frame, clean_only))
			return frame;
		if (++seen == SAMPLE)
			break;
	}
	return NULL;
}

static struct kvt_frame *pick_coldest(struct kvt_pool *pool, struct kvt_share *share,
				      bool clean_only, bool spare_new)
{
	struct kvt_frame *frame;
	struct pick pick = {};
	u32 seen = 0;

	list_for_each_entry_reverse(frame, &share->active, lru) {
		if (spare_new && spared(share, frame))
			continue;
		if (eligible(pool, frame, clean_only))
			consider(&pick, frame);
		if (++seen == SAMPLE)
			break;
	}
	list_for_each_entry(frame, &share->active, lru) {
		if (seen-- == 0 || (spare_new && spared(share, frame)))
			break;
		if (eligible(pool, frame, clean_only))
			consider(&pick, frame);
	}
	return pick.best;
}

/* The next victim, owned; NULL: there is none now. */
static struct kvt_block *victim(struct kvt_pool *pool, enum kvtier_tier tier, bool clean_only,
				u64 *nr)
{
	struct kvt_share *share = &pool->share[tier];
	struct kvt_block *block = NULL;
	struct kvt_frame *frame;

	spin_lock(&pool->lru_lock);
	frame = pick_cold(pool, share, clean_only);
	if (!frame)
		frame = pick_coldest(pool, share, clean_only, true);
	if (!frame)
		frame = pick_coldest(pool, share, clean_only, false);
	if (frame) {
		*nr = frame->block;
		block = kvt_block_peek(pool, *nr);
		if (!kvt_block_try(block))
			block = NULL;
	}
	spin_unlock(&pool->lru_lock);
	if (block && (block->pins || !block->frame)) {
		kvt_block_unlock(pool, block);
		return NULL;
	}
	return block;
}

static struct kvt_frame *cxl_room(struct kvt_pool *pool)
{
	struct kvt_frame *to;

	if (!READ_ONCE(pool->share[KVTIER_TIER_CXL].budget))
		return NULL;
	to = kvt_frame_try(pool, KVTIER_TIER_CXL);
	if (!to && pool->store && kvt_evict(pool, KVTIER_TIER_CXL, 1))
		to = kvt_frame_try(pool, KVTIER_TIER_CXL);
	return to;
}

/* Frames that several blocks share go one at a time, with all their blocks. */
static bool evict_group(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	struct kvt_move move = {};
	struct kvt_group group;
	bool done = false;
	u32 i;

	if (kvt_group_lock(pool, nr, block, &group))
		return false;
	for (i = 0; i < group.nr; i++) {
		if (group.block[i]->pins)
			goto unlock;
	}
	for (i = 0; i < group.nr; i++) {
		move = (struct kvt_move){ .nr = group.at[i], .block = group.block[i] };
		if (kvt_save_start(pool, &move, false) || kvt_save_finish(pool, &move) ||
		    kvt_drop(pool, &move))
			break;
		done = true;
	}
unlock:
	kvt_group_unlock(pool, &group);
	return done;
}

/* Begin to give up a block's frame; true: kvt_save_finish() and kvt_drop() are to follow. */
static bool evict_start(struct kvt_pool *pool, struct kvt_move *move, bool *freed)
{
	struct kvt_block *block = move->block;
	struct kvt_frame *to;

	if (block->frame->tier == KVTIER_TIER_DRAM) {
		to = cxl_room(pool);
		if (to) {
			*freed = !kvt_migrate(pool, move->nr, block, to);
			return false;
		}
	}
	if (!pool->store)
		return false;
	if (kvt_frame_shared(block->frame)) {
		*freed = evict_group(pool, move->nr, block);
		return false;
	}
	if (kvt_isolate(pool, move->nr, block))
		return false;
	move->isolated = true;
	if (!kvt_block_unsaved(block))
		kvt_count(pool, KVT_CLEAN_DROPS);
	return !kvt_save_start(pool, move, false);
}

/* A victim that could not go is not the first choice next time. */
static void put_back(struct kvt_pool *pool, struct kvt_block *block)
{
	struct kvt_frame *frame = block->frame;

	if (!frame)
		return;
	kvt_frame_set_cold(pool, frame, false);
	frame->heat = 255;
}

static u32 evict_batch(struct kvt_pool *pool, enum kvtier_tier tier, u32 want)
{
	struct kvt_move moves[VICTIMS] = {};
	u32 nr, i, freed = 0;

	for (nr = 0; nr < min_t(u32, want, VICTIMS); nr++) {
		struct kvt_move *move = &moves[nr];
		bool gone = false;

		move->block = victim(pool, tier, false, &move->nr);
		if (!move->block)
			break;
		if (evict_start(pool, move, &gone))
			continue; /* finished below */
		if (gone)
			freed++;
		else
			put_back(pool, move->block);
		kvt_block_unlock(pool, move->block);
		move->block = NULL;
	}
	for (i = 0; i < nr; i++) {
		struct kvt_move *move = &moves[i];

		if (!move->block)
			continue;
		if (kvt_save_finish(pool, move) || kvt_drop(pool, move))
			put_back(pool, move->block);
		else
			freed++;
		kvt_block_unlock(pool, move->block);
	}
	return freed;
}

u32 kvt_evict(struct kvt_pool *pool, enum kvtier_tier tier, u32 want)
{
	u32 freed = 0, now;

	do {
		now = evict_batch(pool, tier, want - freed);
		freed += now;
	} while (now && freed < want);
	return freed;
}

void kvt_hint_cold(struct kvt_pool *pool, struct kvt_block *block)
{
	if (block->frame)
		kvt_frame_set_cold(pool, block->frame, true);
}

/* ---- slots -------------------------------------------------------------------------- */

/* A block that is in memory and has a slot besides, not reserved; owned. */
static struct kvt_block *saved_block(struct kvt_pool *pool, const struct list_head *list, u64 *nr)
{
	struct kvt_frame *frame;
	struct kvt_block *block;

	lockdep_assert_held(&pool->lru_lock);
	list_for_each_entry(frame, list, lru) {
		*nr = frame->block;
		block = kvt_block_peek(pool, *nr);
		if (READ_ONCE(block->unit) == KVT_NO_UNIT || kvt_tab_has(pool, block->unit) ||
		    !kvt_block_try(block))
			continue;
		if (block->unit != KVT_NO_UNIT)
			return block;
		clear_bit_unlock(KVT_BLOCK_BUSY, &block->flags);
	}
	return NULL;
}

static bool reclaim_slot(struct kvt_pool *pool)
{
	struct kvt_block *block = NULL;
	enum kvtier_tier tier;
	u64 nr;

	spin_lock(&pool->lru_lock);
	for (tier = KVTIER_TIER_DRAM; !block && tier <= KVTIER_TIER_CXL; tier++) {
		block = saved_block(pool, &pool->share[tier].active, &nr);
		if (!block)
			block = saved_block(pool, &pool->share[tier].cold, &nr);
	}
	spin_unlock(&pool->lru_lock);
	if (!block)
		return false;
	set_bit(KVT_BLOCK_DIRTY, &block->flags); /* the content is what it was */
	kvt_put_slot(pool, nr, block);
	kvt_block_unlock(pool, block);
	return true;
}

int kvt_reclaim_slots(struct kvt_pool *pool, u64 want)
{
	while (want--) {
		if (!reclaim_slot(pool))
			return -ENOSPC;
	}
	return 0;
}

/* ---- nodes that leave ------------------------------------------------------------------ */

static struct kvt_frame *on_node(const struct list_head *list, int node)
{
	struct kvt_frame *frame;

	list_for_each_entry(frame, list, lru) {
		if (frame->node == node)
			return frame;
	}
	return NULL;
}

/* A block on the node, owned if nobody else owns it; false: there is none. */
static bool next_on_node(struct kvt_pool *pool, enum kvtier_tier tier, int node, u64 *nr,
			 struct kvt_block **block)
{
	struct kvt_share *share = &pool->share[tier];
	struct kvt_frame *frame;

	*block = NULL;
	spin_lock(&pool->lru_lock);
	frame = on_node(&share->active, node);
	if (!frame)
		frame = on_node(&share->cold, node);
	if (frame) {
		*nr = frame->block;
		*block = kvt_block_peek(pool, *nr);
		if (!kvt_block_try(*block))
			*block = NULL;
	}
	spin_unlock(&pool->lru_lock);
	return frame;
}

static int leave_node(struct kvt_pool *pool, enum kvtier_tier tier, u64 nr,
		      struct kvt_block *block)
{
	enum kvtier_tier other = tier == KVTIER_TIER_DRAM ? KVTIER_TIER_CXL : KVTIER_TIER_DRAM;
	struct kvt_move move = { .nr = nr, .block = block };
	struct kvt_frame *to;
	bool gone;
	int ret;

	to = kvt_frame_try(pool, tier);
	if (!to)
		to = kvt_frame_try(pool, other);
	if (to)
		return kvt_migrate(pool, nr, block, to);
	if (block->pins)
		return -EBUSY;
	if (!evict_start(pool, &move, &gone))
		return -EBUSY;
	ret = kvt_save_finish(pool, &move);
	return ret ? ret : kvt_drop(pool, &move);
}

#define LEAVE_TRIES 100

int kvt_evict_node(struct kvt_pool *pool, enum kvtier_tier tier, int node)
{
	struct kvt_block *block;
	u32 tries = 0;
	int ret;
	u64 nr;

	kvt_frames_drop_spare(pool, U64_MAX);
	while (next_on_node(pool, tier, node, &nr, &block)) {
		ret = block ? leave_node(pool, tier, nr, block) : -EBUSY;
		if (block)
			kvt_block_unlock(pool, block);
		if (!ret) {
			tries = 0;
			continue;
		}
		if (++tries == LEAVE_TRIES || msleep_interruptible(20))
			return -EBUSY;
	}
	return 0;
}

/* ---- when the host is short of memory ---------------------------------------------- */

u64 kvt_shrink_count(void)
{
	struct kvt_pool *pool;
	u64 nr = 0;

	if (!mutex_trylock(&kvt_pools_lock))
		return 0;
	list_for_each_entry(pool, &kvt_pools, link) {
		struct kvt_share *share = &pool->share[KVTIER_TIER_DRAM];

		nr += share->nr_spare;
		if (pool->store)
			nr += (share->nr_active + share->nr_cold) / 2;
	}
	mutex_unlock(&kvt_pools_lock);
	return nr;
}

/* Give up saved blocks only, and wait for nothing: the caller may hold any lock. */
static u64 drop_clean(struct kvt_pool *pool, u64 max)
{
	struct kvt_move move = { .isolated = true };
	u64 freed = 0, tries;

	for (tries = 0; tries < max && pool->store; tries++) {
		move.block = victim(pool, KVTIER_TIER_DRAM, true, &move.nr);
		if (!move.block)
			break;
		if (!kvt_frame_shared(move.block->frame) &&
		    !kvt_isolate_try(pool, move.nr, move.block) && !kvt_drop(pool, &move)) {
			kvt_count(pool, KVT_CLEAN_DROPS);
			freed++;
		}
		kvt_block_unlock(pool, move.block);
	}
	return freed;
}

/* Tell the pool's owner, who may know better what can go; at most once a second. */
static void press(struct kvt_pool *pool)
{
	if (time_before(jiffies, READ_ONCE(pool->pressed) + HZ))
		return;
	WRITE_ONCE(pool->pressed, jiffies);
	kvt_event(pool, KVTIER_EVENT_PRESSURE, 0, 0, 0, 0);
}

u64 kvt_shrink_scan(u64 max)
{
	struct kvt_pool *pool;
	u64 freed = 0;

	if (!mutex_trylock(&kvt_pools_lock))
		return 0;
	list_for_each_entry(pool, &kvt_pools, link) {
		if (freed >= max)
			break;
		press(pool);
		freed += kvt_frames_drop_spare(pool, max - freed);
		freed += drop_clean(pool, max - freed);
		freed += kvt_frames_drop_spare(pool, max - freed);
	}
	mutex_unlock(&kvt_pools_lock);
	return freed;
}
