// SPDX-License-Identifier: GPL-2.0-only
/*
 * Background write-back.  A sealed block never changes, so it can be written once and
 * early; then giving up its frame costs nothing.  But disks wear, so a block has to earn
 * its write: by being meant to outlive the pool (KVTIER_POOL_KEEP), or by being about
 * to leave memory.  In a pool that memory holds, none does; in one that is half full
 * those do that are not in use, and in one that is nearly full all do.
 *
 * Blocks are taken in the order of their numbers, which is that of the tokens, so that
 * neighbours get neighbouring slots.
 */
#include <linux/sched.h>

#include "kvtier.h"
#include "worker.h"

#define LOOK_MAX 65536 /* blocks looked at in a call */
#define IN_USE 64 /* heat of a frame that was used since the last scan, or soon before */

/* What the worker, of which there is one, has under way. */
static struct kvt_move moves[KVT_BATCH];

struct search {
	u32 heat_max; /* of a block that earns its write */
	u64 left; /* blocks to look at */
	bool found; /* a block that is not saved, whether it earns that or not */
};

static u64 frames_used(const struct kvt_share *share)
{
	return (u64)READ_ONCE(share->nr_active) + READ_ONCE(share->nr_cold);
}

/* Does any block earn a write?  @heat_max: how warm it may be. */
static bool is_worth_it(struct kvt_pool *pool, u32 *heat_max)
{
	const struct kvt_share *dram = &pool->share[KVTIER_TIER_DRAM];
	const struct kvt_share *cxl = &pool->share[KVTIER_TIER_CXL];
	u64 budget = READ_ONCE(dram->budget) + READ_ONCE(cxl->budget);
	u64 used = frames_used(dram) + frames_used(cxl);

	*heat_max = U8_MAX;
	if (pool->flags & KVTIER_POOL_KEEP)
		return true;
	if (budget >= pool->nr_blocks || used < budget / 2)
		return false;
	if (used < budget - budget / 8)
		*heat_max = IN_USE - 1;
	return true;
}

/* A new slot for each write of a batch; where there is none, a write would cost others' slots. */
static bool has_slots(struct kvt_pool *pool, u32 nr)
{
	const struct kvt_share *nvme = &pool->share[KVTIER_TIER_NVME];

	return (u64)atomic64_read(&nvme->used) + nr <= READ_ONCE(nvme->budget);
}

/* Without its owner's lock: to be checked again. */
static bool seems_unsaved(const struct kvt_block *block)
{
	unsigned long flags = READ_ONCE(block->flags);

	return flags & BIT(KVT_BLOCK_SEALED) && !(flags & BIT(KVT_BLOCK_BAD)) &&
	       READ_ONCE(block->frame) &&
	       (flags & BIT(KVT_BLOCK_DIRTY) || READ_ONCE(block->unit) == KVT_NO_UNIT);
}

/* Own the block if it is to be written. */
static bool take(struct kvt_pool *pool, struct kvt_block *block, const struct search *search)
{
	if (!kvt_block_try(block))
		return false;
	if (seems_unsaved(block) && block->frame->heat <= search->heat_max)
		return true;
	kvt_block_unlock(pool, block);
	return false;
}

/* The next block to write, owned, from the pool's hand on; false: there is none. */
static bool next(struct kvt_pool *pool, struct search *search, struct kvt_move *move)
{
	struct kvt_block *block;
	u64 nr;

	while (search->left) {
		nr = pool->scrub_hand;
		block = kvt_block_peek(pool, nr);
		pool->scrub_hand = nr + 1 < pool->nr_blocks ? nr + 1 : 0;
		search->left--;
		if (!block || !seems_unsaved(block))
			continue;
		search->found = true;
		if (take(pool, block, search)) {
			*move = (struct kvt_move){ .nr = nr, .block = block };
			return true;
		}
	}
	return false;
}

/*
 * Write up to @want blocks side by side; how many were.  Reads go first; who owns a
 * block with a frame keeps the store from going meanwhile.
 */
static u32 write_batch(struct kvt_pool *pool, struct search *search, u32 want, int *error)
{
	u32 nr, i, written = 0;

	for (nr = 0; nr < want && next(pool, search, &moves[nr]); nr++) {
		if (!nr)
			kvt_io_give_way(pool->store);
		moves[nr].error = kvt_save_start(pool, &moves[nr], true);
	}
	for (i = 0; i < nr; i++) {
		if (!moves[i].error)
			moves[i].error = kvt_save_finish(pool, &moves[i]);
		if (moves[i].error)
			*error = moves[i].error;
		else
			written++;
		kvt_block_unlock(pool, moves[i].block);
	}
	return written;
}

/* The number of unsaved sealed blocks lags; after a look at all of them it is known. */
static void correct_hint(struct kvt_pool *pool, const struct search *search, int hint)
{
	if (!search->left && !search->found && pool->nr_blocks <= LOOK_MAX)
		atomic_cmpxchg(&pool->nr_sealed_dirty, hint, 0);
}

struct kvt_written kvt_writeback(struct kvt_pool *pool, u64 max_bytes)
{
	struct search search = { .left = min_t(u64, pool->nr_blocks, LOOK_MAX) };
	int hint = atomic_read(&pool->nr_sealed_dirty);
	u64 left = max_bytes >> pool->block_shift;
	struct kvt_written result = {};
	u32 now, want;

	if (hint <= 0 || !is_worth_it(pool, &search.heat_max))
		return result;
	do {
		want = min_t(u64, READ_ONCE(kvt_policy.writeback_depth), left);
		result.more = !want;
		if (!want || !has_slots(pool, want))
			break;
		now = write_batch(pool, &search, want, &result.error);
		result.bytes += (u64)now << pool->block_shift;
		left -= now;
		cond_resched();
	} while (now && !result.error);
	correct_hint(pool, &search, hint);
	return result;
}
