// SPDX-License-Identifier: GPL-2.0-only
/*
 * The table of blocks.  A pool may be far larger than what is ever touched of it, so
 * blocks come in chunks that are allocated on first use and stay until the pool goes.
 */
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/wait_bit.h>

#include "kvtier.h"

static struct kmem_cache *chunks;

int kvt_block_init(void)
{
	chunks = kmem_cache_create("kvtier_blocks", KVT_CHUNK_BLOCKS * sizeof(struct kvt_block),
				   0, SLAB_ACCOUNT, NULL);
	return chunks ? 0 : -ENOMEM;
}

void kvt_block_exit(void)
{
	kmem_cache_destroy(chunks);
}

static u64 chunks_of(const struct kvt_pool *pool)
{
	return DIV_ROUND_UP_ULL(pool->nr_blocks, KVT_CHUNK_BLOCKS);
}

int kvt_block_table_init(struct kvt_pool *pool)
{
	pool->chunks = kvcalloc(chunks_of(pool), sizeof(*pool->chunks), GFP_KERNEL_ACCOUNT);
	return pool->chunks ? 0 : -ENOMEM;
}

void kvt_block_table_exit(struct kvt_pool *pool)
{
	u64 i;

	for (i = 0; pool->chunks && i < chunks_of(pool); i++) {
		if (pool->chunks[i])
			kmem_cache_free(chunks, pool->chunks[i]);
	}
	kvfree(pool->chunks);
}

struct kvt_block *kvt_block_peek(struct kvt_pool *pool, u64 nr)
{
	struct kvt_block *chunk = READ_ONCE(pool->chunks[nr >> KVT_CHUNK_SHIFT]);

	return chunk ? &chunk[nr & (KVT_CHUNK_BLOCKS - 1)] : NULL;
}

struct kvt_block *kvt_block_get(struct kvt_pool *pool, u64 nr)
{
	struct kvt_block **slot = &pool->chunks[nr >> KVT_CHUNK_SHIFT];
	struct kvt_block *block = kvt_block_peek(pool, nr), *fresh;
	struct mem_cgroup *old;
	unsigned int i;

	if (block)
		return block;
	old = set_active_memcg(pool->memcg);
	fresh = kmem_cache_zalloc(chunks, GFP_KERNEL);
	set_active_memcg(old);
	if (!fresh)
		return NULL;
	for (i = 0; i < KVT_CHUNK_BLOCKS; i++) {
		fresh[i].unit = KVT_NO_UNIT;
		fresh[i].next = (u32)round_down(nr, KVT_CHUNK_BLOCKS) + i;
	}
	/* A full barrier: who finds the chunk finds its blocks as they were made. */
	if (cmpxchg(slot, NULL, fresh))
		kmem_cache_free(chunks, fresh); /* another thread was faster */
	return kvt_block_peek(pool, nr);
}

static int lock_state(struct kvt_block *block, int state)
{
	return wait_on_bit_lock(&block->flags, KVT_BLOCK_BUSY, state) ? -EINTR : 0;
}

void kvt_block_lock(struct kvt_block *block)
{
	lock_state(block, TASK_UNINTERRUPTIBLE);
}

int kvt_block_lock_killable(struct kvt_block *block)
{
	return lock_state(block, TASK_KILLABLE);
}

int kvt_block_lock_interruptible(struct kvt_block *block)
{
	return lock_state(block, TASK_INTERRUPTIBLE);
}

bool kvt_block_try(struct kvt_block *block)
{
	return !test_and_set_bit_lock(KVT_BLOCK_BUSY, &block->flags);
}

void kvt_block_unlock_vain(struct kvt_block *block)
{
	WARN_ON_ONCE(!test_bit(KVT_BLOCK_BUSY, &block->flags));
	clear_bit(KVT_BLOCK_MOVING, &block->flags);
	clear_bit_unlock(KVT_BLOCK_BUSY, &block->flags);
	/* With the one of prepare_to_wait(): who waits is seen below, or has seen the bit. */
	smp_mb__after_atomic();
	wake_up_bit(&block->flags, KVT_BLOCK_BUSY);
}

void kvt_block_unlock(struct kvt_pool *pool, struct kvt_block *block)
{
	kvt_block_unlock_vain(block);
	if (waitqueue_active(&pool->room)) /* after the barrier above */
		wake_up(&pool->room);
}

bool kvt_block_unsaved(const struct kvt_block *block)
{
	const struct kvt_frame *frame = block->frame;

	return frame && (block->unit == KVT_NO_UNIT || test_bit(KVT_BLOCK_DIRTY, &block->flags) ||
			 folio_test_dirty(frame->folio));
}

enum kvtier_block_state kvt_block_state(const struct kvt_block *block)
{
	bool sealed = test_bit(KVT_BLOCK_SEALED, &block->flags);

	if (test_bit(KVT_BLOCK_BAD, &block->flags))
		return KVTIER_BLOCK_BAD;
	if (!block->frame && block->unit == KVT_NO_UNIT)
		return KVTIER_BLOCK_EMPTY;
	if (!block->frame)
		return sealed ? KVTIER_BLOCK_COLD : KVTIER_BLOCK_COLD_OPEN;
	if (!sealed)
		return KVTIER_BLOCK_OPEN;
	return kvt_block_unsaved(block) ? KVTIER_BLOCK_SEALED : KVTIER_BLOCK_CLEAN;
}

static u32 info_flags(struct kvt_pool *pool, struct kvt_block *block)
{
	struct kvt_frame *frame = block->frame;
	u32 flags = 0;

	if (kvt_block_unsaved(block))
		flags |= KVTIER_BLOCKF_DIRTY;
	if (block->pins)
		flags |= KVTIER_BLOCKF_PINNED;
	if (frame && frame->list == KVT_LIST_COLD)
		flags |= KVTIER_BLOCKF_COLD;
	if (test_bit(KVT_BLOCK_MAPPED, &block->flags))
		flags |= KVTIER_BLOCKF_MAPPED;
	if ((frame && kvt_frame_shared(frame)) ||
	    (block->unit != KVT_NO_UNIT && kvt_slot_shared(pool->store, block->unit)))
		flags |= KVTIER_BLOCKF_SHARED;
	return flags;
}

static void owned_info(struct kvt_pool *pool, struct kvt_block *block,
		       struct kvtier_block_info *info)
{
	info->state = kvt_block_state(block);
	info->flags = info_flags(pool, block);
	info->generation = block->generation;
	if (block->unit != KVT_NO_UNIT) {
		info->slot = block->unit / kvt_units(pool);
		info->tier = KVTIER_TIER_NVME;
		if (!(info->flags & KVTIER_BLOCKF_DIRTY))
			info->crc32c = block->crc;
	}
	if (block->frame) {
		info->tier = block->frame->tier;
		info->node = block->frame->node;
		info->heat = block->frame->heat;
	}
	if (info->state == KVTIER_BLOCK_BAD)
		info->tier = KVTIER_TIER_NONE;
}

/*
 * Most owners let go within microseconds; one that moves the block says so.  A
 * query does not wait for a transfer.
 */
static bool lock_unless_moving(struct kvt_block *block)
{
	unsigned long until = jiffies + HZ;

	while (!kvt_block_try(block)) {
		if (test_bit(KVT_BLOCK_MOVING, &block->flags) || time_after(jiffies, until))
			return false;
		wait_on_bit_timeout(&block->flags, KVT_BLOCK_BUSY, TASK_KILLABLE, 1);
		if (fatal_signal_pending(current))
			return false;
	}
	return true;
}

void kvt_block_info(struct kvt_pool *pool, u64 nr, struct kvtier_block_info *info)
{
	struct kvt_block *block = kvt_block_peek(pool, nr);

	*info = (struct kvtier_block_info){
		.slot = KVTIER_NO_SLOT,
		.node = KVTIER_NO_NODE,
		.state = KVTIER_BLOCK_EMPTY,
	};
	if (!block)
		return;
	if (lock_unless_moving(block)) {
		owned_info(pool, block, info);
		kvt_block_unlock(pool, block);
	} else {
		info->state = KVTIER_BLOCK_MOVING;
		info->generation = READ_ONCE(block->generation);
	}
}
