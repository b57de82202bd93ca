// SPDX-License-Identifier: GPL-2.0-only
/*
 * A pool's life: made by an ioctl on a fresh file, given back at the file's last
 * close, which the last mapping holds off.
 */
#include <linux/idr.h>
#include <linux/log2.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "kvtier.h"

LIST_HEAD(kvt_pools);
DEFINE_MUTEX(kvt_pools_lock);

static DEFINE_IDA(ids);

struct kvt_pool *kvt_pool_of(struct file *file)
{
	return smp_load_acquire(&file->private_data); /* kvt_pool_create() stores it */
}

static void pool_free(struct kref *ref)
{
	struct kvt_pool *pool = container_of(ref, struct kvt_pool, ref);

	kvt_tab_close(pool->tab);
	kvt_event_exit(pool);
	kvt_block_table_exit(pool);
	kvt_memcg_put(pool->memcg);
	kfree(pool->in_hand);
	kfree(pool);
}

void kvt_pool_put(struct kvt_pool *pool)
{
	kref_put(&pool->ref, pool_free);
}

/* ---- is the request sound? --------------------------------------------------- */

static int check_name(const char *name)
{
	return memchr(name, 0, KVTIER_NAME_BYTES) ? 0 : -EINVAL;
}

static int check_shape(const struct kvtier_pool_create *arg)
{
	const u32 flags = KVTIER_POOL_PINNABLE | KVTIER_POOL_KEEP | KVTIER_POOL_NO_PREDICT |
			  KVTIER_POOL_FAULT_EVENTS | KVTIER_POOL_FIXED_BUDGET;
	u64 mask;

	if (arg->flags & ~flags || arg->id || arg->__reserved)
		return -EINVAL;
	if (arg->block_shift < KVTIER_SHIFT_MIN || arg->block_shift > KVTIER_SHIFT_MAX)
		return -EINVAL;
	mask = (1ULL << arg->block_shift) - 1;
	if (!arg->bytes || arg->bytes & mask || arg->bytes >> arg->block_shift >= U32_MAX ||
	    arg->bytes > MAX_LFS_FILESIZE)
		return -EINVAL;
	if (arg->io_deadline_ms > kvt_policy.max_deadline_ms)
		return -EINVAL;
	if (arg->flags & KVTIER_POOL_KEEP && !arg->budget[KVTIER_TIER_NVME].bytes)
		return -EINVAL;
	return check_name(arg->name);
}

/* The least a pool's budget of DRAM may be, in blocks. */
static u64 dram_min(u64 nr_blocks)
{
	return min_t(u64, nr_blocks, KVTIER_FRAMES_MIN);
}

static int check_budgets(const struct kvtier_pool_create *arg)
{
	u64 nr_blocks = arg->bytes >> arg->block_shift;
	u64 mask = (1ULL << arg->block_shift) - 1;
	enum kvtier_tier tier;

	if (arg->budget[KVTIER_TIER_NONE].bytes || arg->budget[KVTIER_TIER_NONE].nodes)
		return -EINVAL;
	for (tier = KVTIER_TIER_DRAM; tier < KVTIER_NR_TIERS; tier++) {
		if (arg->budget[tier].bytes & mask || arg->budget[tier].bytes > MAX_LFS_FILESIZE)
			return -EINVAL;
		if (!arg->budget[tier].bytes && arg->budget[tier].nodes)
			return -EINVAL;
	}
	if (arg->budget[KVTIER_TIER_DRAM].bytes >> arg->block_shift < dram_min(nr_blocks))
		return -EINVAL;
	return 0;
}

/* Can budgets of these many blocks hold the pool, and exchange blocks? */
static int check_capacity(u64 nr_blocks, u64 dram, u64 cxl, u64 nvme)
{
	if (dram + cxl >= nr_blocks)
		return 0;
	return dram + cxl + nvme >= nr_blocks + KVTIER_FRAMES_MIN ? 0 : -ENOSPC;
}

static int check_request(const struct kvtier_pool_create *arg)
{
	u32 shift = arg->block_shift;
	int ret;

	ret = check_shape(arg);
	if (!ret)
		ret = check_budgets(arg);
	if (!ret)
		ret = kvt_tier_check_nodes(KVTIER_TIER_DRAM, arg->budget[KVTIER_TIER_DRAM].nodes);
	if (!ret && arg->budget[KVTIER_TIER_CXL].bytes)
		ret = kvt_tier_check_nodes(KVTIER_TIER_CXL, arg->budget[KVTIER_TIER_CXL].nodes);
	if (ret)
		return ret;
	return check_capacity(arg->bytes >> shift, arg->budget[KVTIER_TIER_DRAM].bytes >> shift,
			      arg->budget[KVTIER_TIER_CXL].bytes >> shift,
			      arg->budget[KVTIER_TIER_NVME].bytes >> shift);
}

/* ---- make one ------------------------------------------------------------------ */

static void init_share(struct kvt_share *share, const struct kvtier_tier_budget *budget, u32 shift)
{
	share->budget = budget->bytes >> shift;
	share->nodes = budget->nodes;
	INIT_LIST_HEAD(&share->active);
	INIT_LIST_HEAD(&share->cold);
	INIT_LIST_HEAD(&share->held);
	INIT_LIST_HEAD(&share->spare);
}

static struct kvt_pool *pool_alloc(const struct kvtier_pool_create *arg)
{
	struct kvt_pool *pool = kzalloc(sizeof(*pool), GFP_KERNEL_ACCOUNT);
	enum kvtier_tier tier;

	if (!pool)
		return NULL;
	pool->in_hand = kcalloc(nr_node_ids, sizeof(*pool->in_hand), GFP_KERNEL_ACCOUNT);
	if (!pool->in_hand) {
		kfree(pool);
		return NULL;
	}
	kref_init(&pool->ref);
	spin_lock_init(&pool->lru_lock);
	init_waitqueue_head(&pool->room);
	mutex_init(&pool->budget_lock);
	mutex_init(&pool->vma_lock);
	INIT_LIST_HEAD(&pool->vmas);
	INIT_LIST_HEAD(&pool->link);
	spin_lock_init(&pool->event_lock);
	init_waitqueue_head(&pool->event_wait);
	kvt_span_init(&pool->fault_wait);
	for (tier = 0; tier < KVTIER_NR_TIERS; tier++) {
		init_share(&pool->share[tier], &arg->budget[tier], arg->block_shift);
		kvt_span_init(&pool->io[tier].read);
		kvt_span_init(&pool->io[tier].write);
	}
	for (tier = KVTIER_TIER_DRAM; tier < KVTIER_NR_TIERS; tier++) {
		if (arg->budget[tier].bytes)
			pool->tiers |= BIT(tier);
	}
	pool->flags = arg->flags;
	pool->bytes = arg->bytes;
	pool->block_shift = arg->block_shift;
	pool->order = arg->block_shift - PAGE_SHIFT;
	pool->nr_blocks = arg->bytes >> arg->block_shift;
	pool->pressed = jiffies - HZ; /* the first may come at once */
	pool->crowded = jiffies - HZ;
	pool->deadline = msecs_to_jiffies(arg->io_deadline_ms ?: KVTIER_DEADLINE_MS);
	strscpy(pool->name, arg->name[0] ? arg->name : current->comm, sizeof(pool->name));
	return pool;
}

/* What it claims of the host: given back in reverse by give_back(). */
static int claim(struct kvt_pool *pool, const struct kvtier_pool_create *arg)
{
	u64 nvme = arg->budget[KVTIER_TIER_NVME].bytes;
	struct kvt_store *store;
	int ret;

	ret = kvt_tier_claim(KVTIER_TIER_DRAM, arg->budget[KVTIER_TIER_DRAM].bytes);
	if (ret)
		return ret;
	ret = kvt_tier_claim(KVTIER_TIER_CXL, arg->budget[KVTIER_TIER_CXL].bytes);
	if (ret)
		goto unclaim_dram;
	if (!nvme)
		return 0;
	store = kvt_store_get(arg->budget[KVTIER_TIER_NVME].nodes, nvme);
	if (IS_ERR(store)) {
		ret = PTR_ERR(store);
		goto unclaim_cxl;
	}
	pool->store = store;
	return 0;

unclaim_cxl:
	kvt_tier_unclaim(KVTIER_TIER_CXL, arg->budget[KVTIER_TIER_CXL].bytes);
unclaim_dram:
	kvt_tier_unclaim(KVTIER_TIER_DRAM, arg->budget[KVTIER_TIER_DRAM].bytes);
	return ret;
}

static void give_back(struct kvt_pool *pool)
{
	u32 shift = pool->block_shift;

	if (pool->store)
		kvt_store_put(pool->store, pool->share[KVTIER_TIER_NVME].budget << shift);
	kvt_tier_unclaim(KVTIER_TIER_CXL, pool->share[KVTIER_TIER_CXL].budget << shift);
	kvt_tier_unclaim(KVTIER_TIER_DRAM, pool->share[KVTIER_TIER_DRAM].budget << shift);
}

static int build(struct kvt_pool *pool, const struct kvtier_pool_create *arg)
{
	int ret;

	ret = claim(pool, arg); /* first: what it cannot have needs no tables */
	if (ret)
		return ret;
	if (pool->flags & KVTIER_POOL_KEEP) {
		pool->tab = kvt_tab_new(pool);
		ret = pool->tab ? 0 : -ENOMEM;
	}
	pool->memcg = kvt_memcg_of_current();
	if (!ret)
		ret = kvt_event_init(pool);
	if (!ret)
		ret = kvt_block_table_init(pool);
	if (!ret)
		ret = kvt_map_pool(pool);
	if (ret)
		goto give_back;
	ret = ida_alloc(&ids, GFP_KERNEL);
	if (ret < 0)
		goto unmap;
	pool->id = ret;
	ret = -ENOMEM;
	pool->wq = alloc_workqueue("kvtier-%u", WQ_UNBOUND | WQ_FREEZABLE, 0, pool->id);
	if (!pool->wq)
		goto free_id;
	ret = kvt_sysfs_add_pool(pool);
	if (ret)
		goto free_wq;
	return 0;

free_wq:
	destroy_workqueue(pool->wq);
free_id:
	ida_free(&ids, pool->id);
unmap:
	kvt_unmap_pool(pool);
give_back:
	give_back(pool);
	return ret;
}

int kvt_pool_create(struct file *file, struct kvtier_pool_create *arg)
{
	struct kvt_pool *pool;
	int ret;

	ret = check_request(arg);
	if (ret)
		return ret;
	pool = pool_alloc(arg);
	if (!pool)
		return -ENOMEM;
	mutex_lock(&kvt_pools_lock);
	ret = kvt_pool_of(file) ? -EEXIST : build(pool, arg);
	if (!ret) {
		list_add_tail(&pool->link, &kvt_pools);
		file->f_mapping = pool->mapping;
		smp_store_release(&file->private_data, pool); /* complete: kvt_pool_of() */
	}
	mutex_unlock(&kvt_pools_lock);
	if (ret)
		kvt_pool_put(pool);
	else
		arg->id = pool->id;
	return ret;
}

/* ---- give it back ----------------------------------------------------------------- */

/* Whatever state a block is in; nothing can map it any more. */
static void clear_block(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	struct kvt_frame *frame;

	kvt_block_lock(block);
	if (block->frame) {
		frame = kvt_frame_detach(pool, nr, block);
		if (frame)
			kvt_frame_put(pool, frame);
	}
	kvt_put_slot(pool, nr, block);
	kvt_block_unlock(pool, block);
}

static void clear_blocks(struct kvt_pool *pool)
{
	struct kvt_block *block;
	u64 nr;

	for (nr = 0; nr < pool->nr_blocks; nr++) {
		block = kvt_block_peek(pool, nr);
		if (!block) {
			nr |= KVT_CHUNK_BLOCKS - 1;
			continue;
		}
		clear_block(pool, nr, block);
		cond_resched();
	}
}

void kvt_pool_release(struct kvt_pool *pool)
{
	kvt_sysfs_remove_pool(pool);
	mutex_lock(&kvt_pools_lock);
	list_del(&pool->link);
	mutex_unlock(&kvt_pools_lock);
	WRITE_ONCE(pool->dying, true);
	destroy_workqueue(pool->wq); /* NOWAIT operations stop at their next block */
	clear_blocks(pool);
	kvt_frames_drop_spare(pool, U64_MAX);
	kvt_unmap_pool(pool);
	give_back(pool);
	ida_free(&ids, pool->id);
	kvt_pool_put(pool);
}

/* ---- change a budget ----------------------------------------------------------------- */

static int claim_more(struct kvt_pool *pool, enum kvtier_tier tier, u64 bytes)
{
	if (tier == KVTIER_TIER_NVME)
		return kvt_store_claim(pool->store, bytes);
	return kvt_tier_claim(tier, bytes);
}

static void claim_less(struct kvt_pool *pool, enum kvtier_tier tier, u64 bytes)
{
	if (tier == KVTIER_TIER_NVME)
		kvt_store_unclaim(pool->store, bytes);
	else
		kvt_tier_unclaim(tier, bytes);
}

static u64 over(const struct kvt_share *share, u64 budget)
{
	u64 used = atomic64_read(&share->used);

	return used > budget ? used - budget : 0;
}

/* Of what is more than a budget of slots: have it in memory alone. */
static bool less_slots(struct kvt_pool *pool)
{
	return kvt_reclaim_slot(pool) || kvt_bring_back(pool);
}

static bool less_frames(struct kvt_pool *pool, enum kvtier_tier tier, u64 want)
{
	bool any = kvt_evict(pool, tier, min_t(u64, want, KVT_BATCH));

	return kvt_frames_drop_spare(pool, U64_MAX) || any;
}

/* With the new budget in force: make what is used fit. */
static int shrink(struct kvt_pool *pool, enum kvtier_tier tier, u64 budget)
{
	struct kvt_share *share = &pool->share[tier];
	/* Frames may be held for a while; of slots the only obstacle is a block's owner. */
	unsigned long until = jiffies + (tier == KVTIER_TIER_NVME ? HZ : pool->deadline);
	u64 more;
	bool any;

	while ((more = over(share, budget))) {
		any = tier == KVTIER_TIER_NVME ? less_slots(pool) : less_frames(pool, tier, more);
		if (signal_pending(current))
			return -EINTR;
		if (any)
			continue;
		if (time_after(jiffies, until))
			return -ENOSPC;
		schedule_timeout_interruptible(HZ / 50 + 1);
	}
	return 0;
}

static int check_new(struct kvt_pool *pool, enum kvtier_tier tier, u64 blocks)
{
	u64 b[KVTIER_NR_TIERS];
	enum kvtier_tier t;

	if (tier == KVTIER_TIER_DRAM && blocks < dram_min(pool->nr_blocks))
		return -EINVAL;
	if (tier == KVTIER_TIER_NVME && !blocks && pool->flags & KVTIER_POOL_KEEP)
		return -EINVAL;
	for (t = 0; t < KVTIER_NR_TIERS; t++)
		b[t] = t == tier ? blocks : pool->share[t].budget;
	if (!(pool->tiers & BIT(tier)) && blocks)
		return -ENODEV; /* the pool was made without it */
	return check_capacity(pool->nr_blocks, b[KVTIER_TIER_DRAM], b[KVTIER_TIER_CXL],
			      b[KVTIER_TIER_NVME]);
}

static int set_budget(struct kvt_pool *pool, enum kvtier_tier tier, u64 blocks)
{
	struct kvt_share *share = &pool->share[tier];
	u64 old = share->budget;
	u32 shift = pool->block_shift;
	int ret;

	ret = check_new(pool, tier, blocks);
	if (!ret && blocks > old)
		ret = claim_more(pool, tier, (blocks - old) << shift);
	if (ret)
		return ret;
	WRITE_ONCE(share->budget, blocks);
	if (blocks < old) {
		smp_mb(); /* with pin_block(): it sees the budget, or its pin is seen here */
		ret = kvt_pins_fit(pool) ? shrink(pool, tier, blocks) : -ENOSPC;
		if (ret)
			WRITE_ONCE(share->budget, old);
		else
			claim_less(pool, tier, (old - blocks) << shift);
	}
	wake_up(&pool->room);
	return ret;
}

int kvt_pool_set_budget(struct kvt_pool *pool, enum kvtier_tier tier, u64 bytes)
{
	int ret;

	if (bytes & (kvt_block_bytes(pool) - 1) || bytes > MAX_LFS_FILESIZE)
		return -EINVAL;
	if (mutex_lock_interruptible(&pool->budget_lock))
		return -EINTR;
	ret = set_budget(pool, tier, bytes >> pool->block_shift);
	mutex_unlock(&pool->budget_lock);
	return ret;
}
