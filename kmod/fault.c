// SPDX-License-Identifier: GPL-2.0-only
/*
 * A touch of a block that is not mapped, or not as it is needed: bring it into
 * memory (frame.c, move.c), then give its folio to the core, which maps it.
 *
 * If that may take long, the lock under which the fault was called is let go first
 * and the fault is tried again afterwards, so that other threads can map and unmap
 * memory while this one waits for a disk.
 */
#include <linux/file.h>
#include <linux/page-flags.h>
#include <linux/pagemap.h>

#include "kvtier.h"
#include "trace.h"

/* What a touch had to wait for; see struct kvtier_stats. */
enum kind { SOFT, HARD, LATE, ZERO, NR_KINDS };

static const enum kvt_counter counters[NR_KINDS] = {
	[SOFT] = KVT_SOFT_FAULTS,
	[HARD] = KVT_HARD_FAULTS,
	[LATE] = KVT_LATE_FAULTS,
	[ZERO] = KVT_ZERO_FAULTS,
};

static void account(struct kvt_pool *pool, u64 nr, struct kvt_block *block, enum kind kind)
{
	kvt_count(pool, KVT_FAULTS);
	kvt_count(pool, counters[kind]);
	trace_kvtier_fault(pool->id, nr, kind);
	if ((kind == HARD || kind == LATE) && pool->flags & KVTIER_POOL_FAULT_EVENTS)
		kvt_event(pool, kind == HARD ? KVTIER_EVENT_FAULT : KVTIER_EVENT_LATE, 0, nr, 1,
			  block->generation);
}

/* Why a touch of this block can never succeed as it is, or 0. */
static int refusal(const struct kvt_block *block, bool write)
{
	if (test_bit(KVT_BLOCK_BAD, &block->flags))
		return -EIO;
	if (write && test_bit(KVT_BLOCK_SEALED, &block->flags))
		return -EPERM;
	return 0;
}

static bool ready(u64 nr, const struct kvt_block *block, bool write)
{
	return block->frame && !(write && kvt_is_lent(nr, block));
}

/* Make it ready; the caller owns the block.  -EAGAIN: not before there is room for it. */
static int bring(struct kvt_pool *pool, u64 nr, struct kvt_block *block, bool write)
{
	int ret = refusal(block, write);

	if (!ret && !block->frame)
		ret = kvt_fetch(pool, nr, block, KVTIER_TIER_NONE);
	if (!ret && !ready(nr, block, write))
		ret = kvt_unshare(pool, nr, block);
	if (!ret)
		block->error = 0;
	return ret;
}

/* The touch that follows must not wait for room once more. */
static void no_room(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	cmpxchg(&block->error, 0, -ENOSPC); /* of a BAD block it is what made it so */
	kvt_event(pool, KVTIER_EVENT_PRESSURE, -ENOSPC, nr, 1, READ_ONCE(block->generation));
}

static enum kind kind_of(struct kvt_pool *pool, const struct kvt_block *block, bool was_busy)
{
	if (block->frame)
		return was_busy ? LATE : SOFT;
	return block->unit == KVT_NO_UNIT ? ZERO : HARD;
}

/* Until it is ready and owned, or there is a reason why not.  Waits for room as no owner. */
static int bring_until(struct kvt_pool *pool, u64 nr, struct kvt_block *block, bool write,
		       unsigned long until)
{
	int ret;

	while ((ret = bring(pool, nr, block, write))) {
		kvt_block_unlock_vain(block);
		if (ret == -EAGAIN)
			ret = kvt_wait_for_room(pool, TASK_KILLABLE, until);
		if (!ret)
			ret = kvt_block_lock_killable(block);
		if (ret)
			return ret;
	}
	return 0;
}

/* The block's owner afterwards; -EINTR: a fatal signal came first. */
static int bring_and_own(struct kvt_pool *pool, u64 nr, struct kvt_block *block, bool write,
			 bool first)
{
	unsigned long until = jiffies + pool->deadline;
	bool busy = !kvt_block_try(block);
	bool moving = busy && test_bit(KVT_BLOCK_MOVING, &block->flags);
	bool waits = moving || (!READ_ONCE(block->frame) && READ_ONCE(block->unit) != KVT_NO_UNIT);
	int ret;

	if (waits)
		kvt_span_begin(&pool->fault_wait);
	ret = busy ? kvt_block_lock_killable(block) : 0;
	if (!ret) {
		if (first && !refusal(block, write))
			account(pool, nr, block, kind_of(pool, block, moving));
		ret = bring_until(pool, nr, block, write, until);
		if (ret == -ENOSPC)
			no_room(pool, nr, block);
	}
	if (waits)
		kvt_span_end(&pool->fault_wait);
	return ret;
}

/*
 * Hand the block's folio to the core, and let go of the block.  Of a page with a memory error
 * the core would take the folio out of the page cache, where it is not, by a count of
 * references that it has no right to set.
 */
static vm_fault_t map(struct kvt_pool *pool, struct kvt_block *block, struct vm_fault *vmf)
{
	struct folio *folio = block->frame->folio;
	unsigned long sub = vmf->pgoff & ((1UL << pool->order) - 1);
#if !KVT_CORE_MAPS_FOLIO
	vm_fault_t ret;
#endif

	if (PageHWPoison(folio_page(folio, sub))) {
		kvt_block_unlock(pool, block);
		return VM_FAULT_HWPOISON;
	}
	folio_get(folio);
	folio_lock(folio);
	if (!kvt_frame_shared(block->frame))
		folio->index = (vmf->pgoff >> pool->order) << pool->order;
	/* mprotect() makes a read-only entry writable without a fault. */
	if (pool->flags & KVTIER_POOL_PINNABLE && vmf->vma->vm_flags & VM_MAYWRITE)
		kvt_set_dirty(block);
	set_bit(KVT_BLOCK_MAPPED, &block->flags);
	if (block->frame->probed) { /* so it is in use, whatever the accessed bits say */
		block->frame->probed = false;
		block->frame->heat = KVT_HEAT_USE;
	}
	trace_kvtier_map(pool->id, vmf->pgoff >> pool->order, block->frame->tier);
#if !KVT_CORE_MAPS_FOLIO
	if (kvt_inserts_blocks(pool) && !(vmf->flags & FAULT_FLAG_WRITE)) {
		ret = kvt_insert_block(pool, vmf, folio);
		folio_unlock(folio);
		folio_put(folio);
		kvt_block_unlock(pool, block);
		return ret;
	}
#endif
	kvt_block_unlock(pool, block);
	vmf->page = folio_page(folio, sub);
	return VM_FAULT_LOCKED;
}

/* A first touch for which there is memory needs to wait for nothing. */
static bool fill_now(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	struct kvt_move move = { .nr = nr, .block = block };

	if (block->frame || block->unit != KVT_NO_UNIT || kvt_has_clones(nr, block))
		return false;
	move.frame = kvt_frame_try(pool, KVTIER_TIER_DRAM);
	return move.frame && !kvt_fetch_start(pool, &move);
}

/* With the fault's lock let go of; the caller's mapping may be gone afterwards. */
static vm_fault_t bring_unlocked(struct kvt_pool *pool, u64 nr, struct kvt_block *block,
				 struct vm_fault *vmf)
{
	bool write = vmf->flags & FAULT_FLAG_WRITE;
	struct file *file;

	if (vmf->flags & FAULT_FLAG_RETRY_NOWAIT)
		return VM_FAULT_RETRY;
	file = get_file(vmf->vma->vm_file);
	kvt_release_fault_lock(vmf);
	if (!bring_and_own(pool, nr, block, write, true))
		kvt_block_unlock(pool, block);
	fput(file);
	return VM_FAULT_RETRY | VM_FAULT_MAJOR; /* without the second, some forget that they tried */
}

static vm_fault_t bring_locked(struct kvt_pool *pool, u64 nr, struct kvt_block *block,
			       struct vm_fault *vmf)
{
	bool write = vmf->flags & FAULT_FLAG_WRITE;
	int ret;

	/* Has the touch before this one waited for room in vain? */
	if (vmf->flags & FAULT_FLAG_TRIED && READ_ONCE(block->error) == -ENOSPC)
		return VM_FAULT_SIGBUS;
	ret = bring_and_own(pool, nr, block, write, !(vmf->flags & FAULT_FLAG_TRIED));
	if (!ret)
		return map(pool, block, vmf);
	/* Also after a fatal signal: some touch again until it is an error, and look at none. */
	return ret == -ENOMEM ? VM_FAULT_OOM : VM_FAULT_SIGBUS;
}

vm_fault_t kvt_fault(struct vm_fault *vmf)
{
	struct kvt_pool *pool = vmf->vma->vm_private_data;
	bool write = vmf->flags & FAULT_FLAG_WRITE;
	u64 nr = vmf->pgoff >> pool->order;
	struct kvt_block *block;

	if (nr >= pool->nr_blocks)
		return VM_FAULT_SIGBUS;
	block = kvt_block_get(pool, nr);
	if (!block)
		return VM_FAULT_OOM;
	if (kvt_block_try(block)) {
		if (refusal(block, write)) {
			kvt_block_unlock(pool, block);
			return VM_FAULT_SIGBUS;
		}
		if (ready(nr, block, write)) {
			if (!(vmf->flags & FAULT_FLAG_TRIED) &&
			    !test_bit(KVT_BLOCK_MAPPED, &block->flags))
				account(pool, nr, block, SOFT);
			return map(pool, block, vmf);
		}
		if (fill_now(pool, nr, block)) {
			account(pool, nr, block, ZERO);
			return map(pool, block, vmf);
		}
		kvt_block_unlock(pool, block);
	}
	if (fault_flag_allow_retry_first(vmf->flags))
		return bring_unlocked(pool, nr, block, vmf);
	return bring_locked(pool, nr, block, vmf);
}
