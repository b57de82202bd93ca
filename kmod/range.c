// SPDX-License-Identifier: GPL-2.0-only
/*
 * Range operations, as the table in <linux/kvtier.h> says.  A range is worked on in
 * batches: own as many blocks as can be had, take them out of the page tables
 * together, start all transfers, finish them, let go.
 */
#include <linux/delay.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "kvtier.h"
#include "trace.h"

/* Whether to stop halfway. */
static int stopped(const struct kvt_op *op)
{
	if (op->request && kvt_request_ended(op->request))
		return -ECANCELED;
	return signal_pending(current) ? -EINTR : 0;
}

/* Wait to own a block; what nobody wants any more has waited in vain. */
static int own_one(struct kvt_pool *pool, const struct kvt_op *op, struct kvt_block *block)
{
	int ret = kvt_block_lock_interruptible(block);

	if (!ret && op->request && kvt_request_ended(op->request)) {
		kvt_block_unlock(pool, block);
		ret = -ECANCELED;
	}
	return ret;
}

static bool has(const struct kvt_pool *pool, enum kvtier_tier tier)
{
	return READ_ONCE(pool->share[tier].budget) != 0;
}

int kvt_range_check(struct kvt_pool *pool, const struct kvt_op *op)
{
	if (op->op < KVTIER_OP_PROMOTE || op->op > KVTIER_OP_COLD)
		return -EINVAL;
	if (op->flags & ~KVTIER_OP_NOWAIT || op->tier >= KVTIER_NR_TIERS)
		return -EINVAL;
	if (op->op == KVTIER_OP_PROMOTE)
		return op->tier == KVTIER_TIER_NVME ? -EINVAL : 0;
	if (op->op == KVTIER_OP_DEMOTE)
		return op->tier == KVTIER_TIER_DRAM ? -EINVAL : 0;
	return op->tier == KVTIER_TIER_NONE ? 0 : -EINVAL;
}

/* ---- before anything changes --------------------------------------------------- */

static int check_tiers(struct kvt_pool *pool, const struct kvt_op *op)
{
	if (op->tier != KVTIER_TIER_NONE)
		return has(pool, op->tier) ? 0 : -ENODEV;
	if (op->op == KVTIER_OP_WRITEBACK)
		return pool->store ? 0 : -ENODEV;
	if (op->op == KVTIER_OP_DEMOTE)
		return pool->store || has(pool, KVTIER_TIER_CXL) ? 0 : -ENODEV;
	if (op->op == KVTIER_OP_SEAL && pool->flags & KVTIER_POOL_PINNABLE)
		return -EOPNOTSUPP;
	return 0;
}

static u64 frames_of(struct kvt_pool *pool, enum kvtier_tier tier)
{
	if (tier != KVTIER_TIER_NONE)
		return READ_ONCE(pool->share[tier].budget);
	return READ_ONCE(pool->share[KVTIER_TIER_DRAM].budget) +
	       READ_ONCE(pool->share[KVTIER_TIER_CXL].budget);
}

static int check_room(struct kvt_pool *pool, const struct kvt_op *op, u64 fresh)
{
	u64 pinned = atomic64_read(&pool->nr_pinned);
	u64 frames = frames_of(pool, op->tier);

	if (op->op == KVTIER_OP_PROMOTE && pinned + fresh > frames)
		return -ENOSPC;
	if (op->op == KVTIER_OP_PIN && pool->nr_blocks > frames &&
	    pinned + fresh + KVTIER_FRAMES_MIN > frames)
		return -ENOSPC;
	return 0;
}

static int check_block(const struct kvt_block *block, u32 op)
{
	switch (op) {
	case KVTIER_OP_SEAL:
		return !block || kvt_block_state(block) == KVTIER_BLOCK_EMPTY ? -ENODATA : 0;
	case KVTIER_OP_DISCARD:
		return block && block->pins ? -EBUSY : 0;
	case KVTIER_OP_PIN:
		return block && block->pins == U16_MAX ? -EINVAL : 0;
	case KVTIER_OP_UNPIN:
		return !block || !block->pins ? -EINVAL : 0;
	}
	return 0;
}

/* Without being its owner: its frame may go at any time. */
static bool seems_empty(const struct kvt_block *block)
{
	return !READ_ONCE(block->frame) && READ_ONCE(block->unit) == KVT_NO_UNIT &&
	       !test_bit(KVT_BLOCK_BAD, &block->flags);
}

static int check_one(struct kvt_pool *pool, const struct kvt_op *op, struct kvt_block *block)
{
	int ret;

	if (!block || op->op != KVTIER_OP_SEAL)
		return check_block(block, op->op);
	ret = kvt_block_lock_interruptible(block); /* its state must not be seen half */
	if (ret)
		return ret;
	ret = check_block(block, op->op);
	kvt_block_unlock(pool, block);
	return ret;
}

/* Will it need a frame that is not pinned yet? */
static bool is_fresh(const struct kvt_op *op, const struct kvt_block *block)
{
	if (op->op == KVTIER_OP_PIN)
		return !block || !block->pins;
	return op->op == KVTIER_OP_PROMOTE && block && !block->pins && !seems_empty(block);
}

/* Nothing has been done yet, so nobody minds; there may be many blocks. */
static int given_up(const struct kvt_op *op)
{
	cond_resched();
	if (op->request && kvt_request_ended(op->request))
		return -ECANCELED;
	return fatal_signal_pending(current) ? -EINTR : 0;
}

static int check_blocks(struct kvt_pool *pool, const struct kvt_op *op, u64 first, u64 nr)
{
	u64 i, fresh = 0;
	int ret = 0;

	for (i = first; !ret && i < first + nr; i++) {
		struct kvt_block *block = kvt_block_peek(pool, i);

		ret = check_one(pool, op, block);
		fresh += is_fresh(op, block);
		if (!ret && !(i % 1024))
			ret = given_up(op);
		if (!block && op->op != KVTIER_OP_PIN)
			i |= KVT_CHUNK_BLOCKS - 1; /* the others of its chunk are absent too */
	}
	return ret ? ret : check_room(pool, op, fresh);
}

/* ---- promote, pin ---------------------------------------------------------------- */

/* 0: the block may be brought in, or is in. */
static int fetchable(const struct kvt_block *block)
{
	if (!test_bit(KVT_BLOCK_BAD, &block->flags))
		return 0;
	return block->error == -ETIMEDOUT ? -ETIMEDOUT : -EIO;
}

/* Move a resident block to the tier that was asked for; -EAGAIN: there is no room there now. */
static int change_tier(struct kvt_pool *pool, u64 nr, struct kvt_block *block,
		       enum kvtier_tier tier)
{
	struct kvt_frame *to;

	if (tier == KVTIER_TIER_NONE || !block->frame || block->frame->tier == tier)
		return 0;
	if (block->pins)
		return -EBUSY;
	to = kvt_frame_soon(pool, tier);
	return to ? kvt_migrate(pool, nr, block, to) : -EAGAIN;
}

bool kvt_pins_fit(struct kvt_pool *pool)
{
	u64 pinned = atomic64_read(&pool->nr_pinned);
	u64 frames = frames_of(pool, KVTIER_TIER_NONE);

	return !pinned || pool->nr_blocks <= frames || pinned + KVTIER_FRAMES_MIN <= frames;
}

static int pin_block(struct kvt_pool *pool, struct kvt_block *block)
{
	if (block->pins == U16_MAX)
		return -EINVAL;
	if (!block->pins) {
		/* Others pin at the same time, so what was checked before may not hold. */
		atomic64_inc(&pool->nr_pinned);
		smp_mb__after_atomic(); /* with set_budget() */
		if (!kvt_pins_fit(pool)) {
			atomic64_dec(&pool->nr_pinned);
			return -ENOSPC;
		}
		kvt_frame_pin(pool, block, true);
	}
	block->pins++;
	return 0;
}

static int unpin_block(struct kvt_pool *pool, struct kvt_block *block)
{
	if (!block->pins)
		return -EINVAL;
	if (!--block->pins) {
		kvt_frame_pin(pool, block, false);
		atomic64_dec(&pool->nr_pinned);
	}
	return 0;
}

static int bring_one(struct kvt_pool *pool, const struct kvt_op *op, u64 nr,
		     struct kvt_block *block)
{
	int ret = fetchable(block);

	if (!ret && block->frame)
		ret = change_tier(pool, nr, block, op->tier);
	if (!ret && !block->frame &&
	    (op->op == KVTIER_OP_PIN || block->unit != KVT_NO_UNIT))
		ret = kvt_fetch(pool, nr, block, op->tier);
	if (!ret && op->op == KVTIER_OP_PIN)
		ret = pin_block(pool, block);
	return ret;
}

/* Waits for room as the owner of nothing. */
static int bring_alone(struct kvt_pool *pool, const struct kvt_op *op, u64 nr)
{
	struct kvt_block *block = kvt_block_get(pool, nr);
	unsigned long until = jiffies + pool->deadline;
	int ret;

	if (!block)
		return -ENOMEM;
	do {
		ret = own_one(pool, op, block);
		if (ret)
			return ret;
		ret = bring_one(pool, op, nr, block);
		if (ret != -EAGAIN) {
			kvt_block_unlock(pool, block);
			return ret;
		}
		kvt_block_unlock_vain(block);
		ret = kvt_wait_for_room(pool, TASK_INTERRUPTIBLE, until);
	} while (!ret);
	return ret;
}

/* Start the read of a block that is in its slot; the move owns it then.  Never waits. */
static bool bring_start(struct kvt_pool *pool, const struct kvt_op *op, struct kvt_move *move)
{
	struct kvt_block *block = kvt_block_peek(pool, move->nr);

	if (!block || !kvt_block_try(block))
		return false;
	if (!block->frame && block->unit != KVT_NO_UNIT && !fetchable(block)) {
		move->frame = kvt_frame_soon(pool, op->tier);
		if (move->frame) {
			move->block = block;
			move->error = kvt_fetch_start(pool, move);
			return true;
		}
	}
	kvt_block_unlock(pool, block);
	return false;
}

/* The reads of a batch go side by side; whatever that left undone, one by one. */
static int bring_batch(struct kvt_pool *pool, const struct kvt_op *op, u64 first, u32 nr,
		       int *error)
{
	struct kvt_move *moves = kcalloc(nr, sizeof(*moves), GFP_KERNEL);
	int ret = 0, one;
	u32 i;

	for (i = 0; moves && i < nr; i++) {
		moves[i].nr = first + i;
		bring_start(pool, op, &moves[i]);
	}
	for (i = 0; moves && i < nr; i++) {
		if (!moves[i].block)
			continue;
		if (!moves[i].error)
			moves[i].error = kvt_fetch_finish(pool, &moves[i]);
		kvt_block_unlock(pool, moves[i].block);
	}
	kfree(moves);
	for (i = 0; i < nr && !ret; i++) {
		one = bring_alone(pool, op, first + i);
		if (one == -EINTR)
			ret = -EINTR;
		else if (one && !*error)
			*error = one;
		if (one && i + 1 < nr) /* each may have waited for long */
			ret = ret ? ret : stopped(op);
	}
	return ret;
}

/* ---- demote, write-back ------------------------------------------------------------- */

static int to_cxl(struct kvt_pool *pool, const struct kvt_op *op, struct kvt_move *move,
		  bool *done)
{
	struct kvt_block *block = move->block;
	struct kvt_frame *to;

	*done = false;
	if (op->tier == KVTIER_TIER_NVME || !has(pool, KVTIER_TIER_CXL))
		return 0;
	if (block->frame->tier == KVTIER_TIER_CXL) {
		*done = op->tier == KVTIER_TIER_CXL;
		return 0;
	}
	to = kvt_frame_try(pool, KVTIER_TIER_CXL);
	if (!to && op->tier == KVTIER_TIER_CXL && kvt_evict(pool, KVTIER_TIER_CXL, 1))
		to = kvt_frame_try(pool, KVTIER_TIER_CXL);
	if (!to)
		return op->tier == KVTIER_TIER_CXL || !pool->store ? -ENOSPC : 0;
	*done = true;
	return kvt_migrate(pool, move->nr, block, to);
}

static int leave_start(struct kvt_pool *pool, const struct kvt_op *op, struct kvt_move *move)
{
	struct kvt_block *block = move->block;
	bool done;
	int ret;

	if (block->pins)
		return -EBUSY;
	if (!block->frame)
		return 0;
	ret = to_cxl(pool, op, move, &done);
	if (ret || done)
		return ret;
	if (!pool->store)
		return -ENODEV;
	ret = kvt_withdraw(pool, move->nr, block, &move->isolated);
	if (ret)
		return ret;
	move->leaves = true;
	return kvt_save_start(pool, move, false);
}

/* Must a block be out of reach while it is written? */
static bool writes_stable(const struct kvt_pool *pool, const struct kvt_block *block)
{
	if (pool->flags & KVTIER_POOL_PINNABLE) /* where stores are not tracked */
		return true;
	return pool->store->stable && !test_bit(KVT_BLOCK_SEALED, &block->flags);
}

static int writeback_start(struct kvt_pool *pool, const struct kvt_op *op, struct kvt_move *move)
{
	struct kvt_block *block = move->block;
	int ret;

	if (test_bit(KVT_BLOCK_BAD, &block->flags))
		return -EIO;
	if (!block->frame || !kvt_block_unsaved(block))
		return 0;
	ret = writes_stable(pool, block) ? kvt_withdraw(pool, move->nr, block, &move->isolated) : 0;
	return ret ? ret : kvt_save_start(pool, move, false);
}

static void save_end(struct kvt_pool *pool, struct kvt_move *move)
{
	if (!move->error)
		move->error = kvt_save_finish(pool, move);
	if (!move->error && move->leaves)
		move->error = kvt_drop(pool, move);
	kvt_block_unlock(pool, move->block);
}

/*
 * Own as many of the batch, from its first on, as can be had without waiting while owning
 * one: whose owner waits for room may wait for ours.  0: a signal came, or an end.
 */
static u32 own(struct kvt_pool *pool, const struct kvt_op *op, struct kvt_move *moves, u64 first,
	       u32 nr)
{
	bool none = true;
	u32 i;

	for (i = 0; i < nr; i++) {
		struct kvt_block *block = kvt_block_peek(pool, first + i);

		if (block && (none ? own_one(pool, op, block) != 0 : !kvt_block_try(block)))
			break;
		moves[i] = (struct kvt_move){ .nr = first + i, .block = block };
		none &= !block;
	}
	return i;
}

/*
 * With their folios locked no fault is about to make an entry, so none is left that MAPPED
 * does not tell of.  Nobody else locks two of a pool's folios.
 */
static void unmap_run(struct kvt_pool *pool, struct kvt_move *moves, u32 nr)
{
	u32 i;

	for (i = 0; i < nr; i++)
		folio_lock(moves[i].block->frame->folio);
	kvt_unmap(pool, moves[0].nr, nr);
	for (i = 0; i < nr; i++)
		folio_unlock(moves[i].block->frame->folio);
}

/* One flush of the processors' TLBs for neighbours that all go. */
static void unmap_together(struct kvt_pool *pool, struct kvt_move *moves, u32 nr)
{
	u32 i, begin = 0;

	for (i = 0; i <= nr; i++) {
		if (i < nr && moves[i].block && moves[i].block->frame && !moves[i].block->pins &&
		    !kvt_frame_shared(moves[i].block->frame))
			continue;
		if (i > begin + 1)
			unmap_run(pool, moves + begin, i - begin);
		begin = i + 1;
	}
}

/* Write what is owned, all at once, and let go of it. */
static void save_owned(struct kvt_pool *pool, const struct kvt_op *op, struct kvt_move *moves,
		       u32 nr, int *error)
{
	u32 i;

	if (op->op == KVTIER_OP_DEMOTE)
		unmap_together(pool, moves, nr);
	for (i = 0; i < nr; i++) {
		if (!moves[i].block)
			continue;
		moves[i].error = op->op == KVTIER_OP_DEMOTE ?
					 leave_start(pool, op, &moves[i]) :
					 writeback_start(pool, op, &moves[i]);
	}
	for (i = 0; i < nr; i++) {
		if (!moves[i].block)
			continue;
		save_end(pool, &moves[i]);
		if (moves[i].error && !*error)
			*error = moves[i].error;
	}
}

static int save_batch(struct kvt_pool *pool, const struct kvt_op *op, u64 first, u32 nr,
		      int *error)
{
	struct kvt_move *moves = kmalloc_array(nr, sizeof(*moves), GFP_KERNEL);
	u32 done, owned;

	if (!moves)
		return -ENOMEM;
	for (done = 0; done < nr; done += owned) {
		owned = own(pool, op, moves, first + done, nr - done);
		if (!owned)
			break;
		save_owned(pool, op, moves, owned, error);
	}
	kfree(moves);
	return done < nr ? stopped(op) ?: -EINTR : 0;
}

/* ---- the others: one block at a time ---------------------------------------------------- */

static int one_block(struct kvt_pool *pool, u32 op, u64 nr, struct kvt_block *block)
{
	switch (op) {
	case KVTIER_OP_SEAL:
		return kvt_seal(pool, nr, block);
	case KVTIER_OP_DISCARD:
		return kvt_empty(pool, nr, block);
	case KVTIER_OP_UNPIN:
		return unpin_block(pool, block);
	case KVTIER_OP_COLD:
		kvt_hint_cold(pool, block);
		return 0;
	}
	return -EINVAL;
}

static int plain_batch(struct kvt_pool *pool, const struct kvt_op *op, u64 first, u32 nr,
		       int *error)
{
	struct kvt_block *block;
	int ret;
	u32 i;

	for (i = 0; i < nr; i++) {
		block = kvt_block_peek(pool, first + i);
		if (!block)
			continue;
		ret = 0;
		/* What is to be undone later must not stop halfway. */
		if (op->op == KVTIER_OP_UNPIN)
			kvt_block_lock(block);
		else
			ret = own_one(pool, op, block);
		if (ret)
			return ret;
		ret = one_block(pool, op->op, first + i, block);
		kvt_block_unlock(pool, block);
		if (ret && !*error)
			*error = ret;
	}
	return 0;
}

static int run_batch(struct kvt_pool *pool, const struct kvt_op *op, u64 first, u32 nr,
		     int *error)
{
	switch (op->op) {
	case KVTIER_OP_PROMOTE:
	case KVTIER_OP_PIN:
		return bring_batch(pool, op, first, nr, error);
	case KVTIER_OP_DEMOTE:
	case KVTIER_OP_WRITEBACK:
		return save_batch(pool, op, first, nr, error);
	default:
		return plain_batch(pool, op, first, nr, error);
	}
}

/* Pins are all or none: take back those that were made. */
static void unpin(struct kvt_pool *pool, u64 first, u64 nr)
{
	const struct kvt_op op = { .op = KVTIER_OP_UNPIN };
	int error = 0;

	if (nr)
		plain_batch(pool, &op, first, nr, &error);
}

static int pin(struct kvt_pool *pool, const struct kvt_op *op, u64 first, u64 nr)
{
	const struct kvt_op fetch = { .op = KVTIER_OP_PROMOTE, .request = op->request };
	int ret = 0, ignored = 0;
	u64 done;

	for (done = 0; done < nr && !ret; done++) {
		if (done && !(done % KVT_BATCH))
			ret = stopped(op);
		if (!ret && !(done % KVT_BATCH))
			ret = bring_batch(pool, &fetch, first + done,
					  min_t(u64, KVT_BATCH, nr - done), &ignored);
		if (!ret)
			ret = bring_alone(pool, op, first + done);
		if (ret)
			break;
	}
	if (ret)
		unpin(pool, first, done);
	return ret;
}

/* Without waiting for any block. */
int kvt_range_look(struct kvt_pool *pool, const struct kvt_op *op, u64 first, u64 nr)
{
	int ret = check_tiers(pool, op);

	return ret || op->op == KVTIER_OP_SEAL ? ret : check_blocks(pool, op, first, nr);
}

int kvt_range_run(struct kvt_pool *pool, const struct kvt_op *op, u64 first, u64 nr)
{
	u64 done, now;
	int error = 0, ret;

	ret = check_tiers(pool, op);
	if (!ret)
		ret = check_blocks(pool, op, first, nr);
	if (ret)
		return ret;
	if (op->op == KVTIER_OP_PIN)
		return pin(pool, op, first, nr);
	for (done = 0; done < nr; done += now) {
		now = min_t(u64, KVT_BATCH, nr - done);
		ret = run_batch(pool, op, first + done, now, &error);
		if (!ret && done + now < nr && op->op != KVTIER_OP_UNPIN)
			ret = stopped(op);
		if (ret)
			return ret;
		cond_resched();
	}
	return error;
}
