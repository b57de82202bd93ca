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
 *
 * What cannot go is not in the way of what can: pinned frames are on no list, and those
 * whose pages somebody holds are set aside until there are no others.  However many frames
 * there are, a bounded number is looked at under the lock.
 */
#include <linux/delay.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>

#include "kvtier.h"
#include "trace.h"

#define VICTIMS 8 /* given up together, so that their writes overlap */
#define SAMPLE 32 /* from each end of the list */
#define LOOK_MAX 256 /* frames that are looked at for that */

static bool spared(const struct kvt_share *share, const struct kvt_frame *frame)
{
	u64 guard = min_t(u64, share->budget / 4, 64);

	return share->placements - frame->placed < guard;
}

/* Could this frame be given up?  Without its owner's lock: to be checked again. */
static bool eligible(struct kvt_pool *pool, const struct kvt_frame *frame, bool clean_only)
{
	const struct kvt_block *block = kvt_block_peek(pool, frame->block);

	return !test_bit(KVT_BLOCK_BUSY, &block->flags) &&
	       !(clean_only && kvt_block_unsaved(block));
}

/* Pinned by get_user_pages(), perhaps for long: not to be looked at each time. */
static bool set_aside(struct kvt_pool *pool, struct kvt_frame *frame)
{
	if (!folio_maybe_dma_pinned(frame->folio))
		return false;
	kvt_frame_list(pool, frame, KVT_LIST_HELD);
	return true;
}

struct pick {
	struct kvt_frame *best;
	u32 score, seen, looked;
};

/* false: enough of this end. */
static bool consider(struct kvt_pool *pool, struct pick *pick, struct kvt_frame *frame,
		     bool clean_only)
{
	u32 score = frame->heat;

	if (++pick->looked > LOOK_MAX)
		return false;
	if (set_aside(pool, frame) || !eligible(pool, frame, clean_only))
		return true;
	if (!pick->best || score < pick->score) {
		pick->best = frame;
		pick->score = score;
	}
	return ++pick->seen < SAMPLE;
}

static struct kvt_frame *pick_cold(struct kvt_pool *pool, struct kvt_share *share, bool clean_only)
{
	struct kvt_frame *frame, *next;
	u32 looked = 0;

	list_for_each_entry_safe(frame, next, &share->cold, lru) {
		if (++looked > LOOK_MAX)
			break;
		if (!set_aside(pool, frame) && eligible(pool, frame, clean_only))
			return frame;
	}
	return NULL;
}

static struct kvt_frame *pick_coldest(struct kvt_pool *pool, struct kvt_share *share,
				      bool clean_only, bool spare_new)
{
	struct kvt_frame *frame, *next;
	struct pick pick = {};

	list_for_each_entry_safe_reverse(frame, next, &share->active, lru) {
		if (spare_new && spared(share, frame))
			pick.looked++;
		else if (!consider(pool, &pick, frame, clean_only))
			break;
	}
	pick.seen = 0;
	pick.looked = 0;
	list_for_each_entry_safe(frame, next, &share->active, lru) {
		if ((spare_new && spared(share, frame)) ||
		    !consider(pool, &pick, frame, clean_only))
			break;
	}
	return pick.best;
}

static struct kvt_frame *pick(struct kvt_pool *pool, struct kvt_share *share, bool clean_only)
{
	struct kvt_frame *frame = pick_cold(pool, share, clean_only);

	if (!frame)
		frame = pick_coldest(pool, share, clean_only, true);
	if (!frame)
		frame = pick_coldest(pool, share, clean_only, false);
	return frame;
}

/* Of those that were held, back to the others with what no longer seems to be. */
static void look_at_held(struct kvt_pool *pool, struct kvt_share *share)
{
	struct kvt_frame *frame, *next;
	u32 looked = 0;

	list_for_each_entry_safe(frame, next, &share->held, lru) {
		if (++looked > LOOK_MAX)
			break;
		if (folio_maybe_dma_pinned(frame->folio))
			list_move_tail(&frame->lru, &share->held);
		else
			kvt_frame_list(pool, frame, KVT_LIST_ACTIVE);
	}
}

/* The next victim, owned; NULL: there is none now. */
static struct kvt_block *victim(struct kvt_pool *pool, enum kvtier_tier tier, bool clean_only,
				u64 *nr)
{
	struct kvt_share *share = &pool->share[tier];
	struct kvt_block *block = NULL;
	struct kvt_frame *frame;

	spin_lock(&pool->lru_lock);
	frame = pick(pool, share, clean_only);
	if (!frame && !list_empty(&share->held)) {
		look_at_held(pool, share);
		frame = pick(pool, share, clean_only);
	}
	if (frame) {
		*nr = frame->block;
		block = kvt_block_peek(pool, *nr);
		if (!kvt_block_try(block))
			block = NULL;
	}
	spin_unlock(&pool->lru_lock);
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

/*
 * Begin to give up a block's frame.  0: kvt_save_finish() and kvt_drop() are to follow; 1: it
 * is free.  A frame that clones have goes to the other tier with all of them; to the store
 * they go one by one, and the last one frees it.
 */
static int evict_start(struct kvt_pool *pool, struct kvt_move *move)
{
	struct kvt_block *block = move->block;
	struct kvt_frame *to;
	int ret;

	if (block->frame->tier == KVTIER_TIER_DRAM) {
		to = cxl_room(pool);
		if (to) {
			ret = kvt_migrate(pool, move->nr, block, to);
			if (ret != -EBUSY || !kvt_frame_shared(block->frame))
				return ret ? ret : 1;
		}
	}
	if (!pool->store)
		return -ENOSPC;
	ret = kvt_withdraw(pool, move->nr, block, &move->isolated);
	return ret ? ret : kvt_save_start(pool, move, false);
}

/* A victim that could not go is not the first choice next time. */
static void put_back(struct kvt_pool *pool, struct kvt_block *block, int error)
{
	struct kvt_frame *frame = block->frame;

	if (!frame)
		return;
	spin_lock(&pool->lru_lock);
	kvt_frame_list(pool, frame, error == -EBUSY ? KVT_LIST_HELD : KVT_LIST_ACTIVE);
	spin_unlock(&pool->lru_lock);
	frame->heat = 255;
}

/* Something was given up; of frames that clones have it may not have been the last. */
struct evicted {
	u32 frames;
	bool any;
};

static void evict_end(struct kvt_pool *pool, struct kvt_move *move, struct evicted *evicted)
{
	int ret = kvt_save_finish(pool, move);

	if (!ret)
		ret = kvt_drop(pool, move);
	evicted->frames += move->freed;
	if (ret) {
		put_back(pool, move->block, ret);
		kvt_block_unlock_vain(move->block);
	} else {
		evicted->any = true;
		kvt_block_unlock(pool, move->block);
	}
}

static struct evicted evict_batch(struct kvt_pool *pool, enum kvtier_tier tier, u32 want)
{
	struct kvt_move moves[VICTIMS] = {};
	struct evicted evicted = {};
	u32 nr, i;

	for (nr = 0; nr < min_t(u32, want, VICTIMS); nr++) {
		struct kvt_move *move = &moves[nr];

		move->block = victim(pool, tier, false, &move->nr);
		if (!move->block)
			break;
		move->error = evict_start(pool, move);
		if (!move->error)
			continue; /* finished below */
		if (move->error < 0)
			put_back(pool, move->block, move->error);
		else
			evicted.frames++;
		kvt_block_unlock(pool, move->block);
		move->block = NULL;
	}
	for (i = 0; i < nr; i++) {
		if (moves[i].block)
			evict_end(pool, &moves[i], &evicted);
	}
	evicted.any |= evicted.frames;
	return evicted;
}

/* Clones may take a frame back as often as they are made to give it up. */
#define VAIN_MAX (2 * KVTIER_CLONES_MAX)

u32 kvt_evict(struct kvt_pool *pool, enum kvtier_tier tier, u32 want)
{
	struct evicted now;
	u32 freed = 0, vain = 0;

	do {
		now = evict_batch(pool, tier, want - freed);
		freed += now.frames;
		vain = now.frames ? 0 : vain + 1;
	} while (now.any && freed < want && vain < VAIN_MAX);
	return freed;
}

void kvt_hint_cold(struct kvt_pool *pool, struct kvt_block *block)
{
	if (!block->frame)
		return;
	spin_lock(&pool->lru_lock);
	kvt_frame_list(pool, block->frame, KVT_LIST_COLD);
	spin_unlock(&pool->lru_lock);
}

/* ---- slots -------------------------------------------------------------------------- */

/* In memory, and in a slot besides that only blocks need. */
static bool is_saved(struct kvt_pool *pool, const struct kvt_block *block)
{
	u32 unit = READ_ONCE(block->unit);

	return READ_ONCE(block->frame) && unit != KVT_NO_UNIT && !kvt_tab_has(pool, unit);
}

/* In its slot alone, which only blocks need, and could be read. */
static bool is_away(struct kvt_pool *pool, const struct kvt_block *block)
{
	u32 unit = READ_ONCE(block->unit);

	return !READ_ONCE(block->frame) && unit != KVT_NO_UNIT && !kvt_tab_has(pool, unit) &&
	       !test_bit(KVT_BLOCK_BAD, &block->flags);
}

#define SEARCH_MAX (1U << 20) /* blocks looked at in a call; the next one goes on from there */

/* The next block from the hand on that is @wanted, owned; NULL: there is none here. */
static struct kvt_block *next_block(struct kvt_pool *pool,
				    bool (*wanted)(struct kvt_pool *pool,
						   const struct kvt_block *block), u64 *nr)
{
	u64 left = min_t(u64, pool->nr_blocks, SEARCH_MAX), at = READ_ONCE(pool->slot_hand);
	struct kvt_block *block = NULL;

	for (; left && !block; left--) {
		*nr = at;
		at = at + 1 < pool->nr_blocks ? at + 1 : 0;
		block = kvt_block_peek(pool, *nr);
		if (!(left % 1024))
			cond_resched();
		if (!block || !wanted(pool, block) || !kvt_block_try(block)) {
			block = NULL;
		} else if (!wanted(pool, block)) {
			kvt_block_unlock(pool, block);
			block = NULL;
		}
	}
	WRITE_ONCE(pool->slot_hand, at);
	return block;
}

bool kvt_reclaim_slot(struct kvt_pool *pool)
{
	struct kvt_block *block;
	u64 nr;

	if (!READ_ONCE(pool->nr_saved)) /* a search would be in vain */
		return false;
	block = next_block(pool, is_saved, &nr);
	if (!block)
		return false;
	if (!kvt_block_unsaved(block) && test_bit(KVT_BLOCK_SEALED, &block->flags))
		atomic_inc(&pool->nr_sealed_dirty);
	set_bit(KVT_BLOCK_DIRTY, &block->flags); /* the content is what it was */
	kvt_put_slot(pool, nr, block);
	kvt_block_unlock(pool, block);
	return true;
}

bool kvt_bring_back(struct kvt_pool *pool)
{
	struct kvt_move move = {};
	int ret = -ENOSPC;

	move.block = next_block(pool, is_away, &move.nr);
	if (!move.block)
		return false;
	move.frame = kvt_frame_try(pool, KVTIER_TIER_DRAM);
	if (!move.frame)
		move.frame = kvt_frame_try(pool, KVTIER_TIER_CXL);
	if (move.frame)
		ret = kvt_fetch_start(pool, &move);
	if (!ret)
		ret = kvt_fetch_finish(pool, &move);
	kvt_block_unlock(pool, move.block);
	return !ret;
}

/* ---- nodes that leave ------------------------------------------------------------------ */

static int leave_node(struct kvt_pool *pool, enum kvtier_tier tier, u64 nr,
		      struct kvt_block *block)
{
	enum kvtier_tier other = tier == KVTIER_TIER_DRAM ? KVTIER_TIER_CXL : KVTIER_TIER_DRAM;
	struct kvt_move move = { .nr = nr, .block = block };
	struct kvt_frame *to;
	int ret;

	to = kvt_frame_try(pool, tier);
	if (!to)
		to = kvt_frame_try(pool, other);
	if (to)
		return kvt_migrate(pool, nr, block, to);
	if (block->pins)
		return -EBUSY;
	ret = evict_start(pool, &move);
	if (!ret)
		ret = kvt_save_finish(pool, &move);
	else
		return min(ret, 0);
	return ret ? ret : kvt_drop(pool, &move);
}

/* Which blocks of a chunk are on the node. */
static u64 on_node(struct kvt_pool *pool, u64 first, int node)
{
	const struct kvt_block *block;
	u64 bits = 0;
	u32 i;

	BUILD_BUG_ON(KVT_CHUNK_BLOCKS > 64);
	spin_lock(&pool->lru_lock);
	for (i = 0; i < KVT_CHUNK_BLOCKS && first + i < pool->nr_blocks; i++) {
		block = kvt_block_peek(pool, first + i);
		if (block && block->frame && block->frame->node == node)
			bits |= 1ULL << i;
	}
	spin_unlock(&pool->lru_lock);
	return bits;
}

/* 0: it is gone from there. */
static int left_node(struct kvt_pool *pool, enum kvtier_tier tier, u64 nr, int node)
{
	struct kvt_block *block = kvt_block_peek(pool, nr);
	int ret = 0;

	if (!kvt_block_try(block))
		return -EBUSY;
	if (block->frame && block->frame->node == node)
		ret = leave_node(pool, tier, nr, block);
	kvt_block_unlock(pool, block);
	return ret;
}

struct leaving {
	u64 gone, left; /* blocks */
	bool in_vain; /* the disk stalls, or nobody wants it any more */
};

/* One look at all blocks, as long as no wait for a disk was in vain: each may be a deadline. */
static struct leaving leave(struct kvt_pool *pool, enum kvtier_tier tier, int node)
{
	struct leaving leaving = {};
	u64 first, bits;
	int ret;

	for (first = 0; first < pool->nr_blocks; first += KVT_CHUNK_BLOCKS) {
		bits = kvt_block_peek(pool, first) ? on_node(pool, first, node) : 0;
		for (; bits && !leaving.in_vain; bits &= bits - 1) {
			ret = left_node(pool, tier, first + __ffs64(bits), node);
			leaving.in_vain = ret == -ETIMEDOUT || signal_pending(current);
			leaving.gone += !ret;
			leaving.left += !!ret;
		}
		if (leaving.in_vain)
			break;
		cond_resched();
	}
	return leaving;
}

#define LEAVE_TRIES 100

int kvt_evict_node(struct kvt_pool *pool, enum kvtier_tier tier, int node)
{
	struct leaving leaving;
	u32 tries = 0;

	smp_mb(); /* the node is out of its tier, see kvt_frame_try() */
	for (;;) {
		kvt_frames_drop_spare(pool, U64_MAX);
		kvt_linger_reap(pool, tier);
		leaving = leave(pool, tier, node);
		if (leaving.in_vain)
			return -EBUSY;
		/* What was on its way there may have come to a block that was looked at before. */
		if (!leaving.left && !leaving.gone && !atomic_read(&pool->in_hand[node]))
			return 0;
		tries = leaving.gone ? 0 : tries + 1;
		if (tries == LEAVE_TRIES || msleep_interruptible(20))
			return -EBUSY;
	}
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

/*
 * Give up saved blocks only, and wait for no I/O and no owner: the caller may hold any lock.
 * kvt_drop() has patience (map.c) with a frame that a clone had in between.
 */
static u64 drop_clean(struct kvt_pool *pool, u64 max)
{
	struct kvt_move move = { .isolated = true };
	u64 freed = 0, tries;

	for (tries = 0; tries < max && pool->store; tries++) {
		move.freed = false;
		move.block = victim(pool, KVTIER_TIER_DRAM, true, &move.nr);
		if (!move.block)
			break;
		if (!kvt_frame_shared(move.block->frame) &&
		    !kvt_isolate_try(pool, move.nr, move.block) && !kvt_drop(pool, &move))
			freed++;
		else
			put_back(pool, move.block, -EBUSY);
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
