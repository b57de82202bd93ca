// SPDX-License-Identifier: GPL-2.0-only
/*
 * A pool's life: made by an ioctl on a fresh file, given back at the file's last
 * close, which the last mapping holds off.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/idr.h>
#include <linux/log2.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "kvtier.h"

/*
 * Of operations that a pool does at the same time, on each of its queues (per node before
 * 6.9).  Each is a thread that may sleep for long, and is in no limit of the creator's.
 */
#define ACTIVE_MAX 32

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

	kvt_unmap_pool(pool); /* only now: the worker looks for its mappings */
	if (pool->tab)
		kvt_tab_put(pool->tab);
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

struct kvt_pool *kvt_pool_after(s64 id)
{
	struct kvt_pool *pool, *after = NULL;

	lockdep_assert_held(&kvt_pools_lock);
	list_for_each_entry(pool, &kvt_pools, link) {
		if (pool->id > id && (!after || pool->id < after->id))
			after = pool;
	}
	if (after)
		kref_get(&after->ref);
	return after;
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
	if (arg->io_deadline_ms && (arg->io_deadline_ms < kvt_policy.min_deadline_ms ||
				    arg->io_deadline_ms > kvt_policy.max_deadline_ms))
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
	INIT_LIST_HEAD(&share->lingering);
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
	INIT_LIST_HEAD(&pool->link);
	INIT_LIST_HEAD(&pool->owes);
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
	pool->owner = current_uid();
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

static void delete_queues(struct kvt_pool *pool)
{
	int i;

	for (i = 0; i < KVT_NR_QUEUES && pool->wq[i]; i++)
		destroy_workqueue(pool->wq[i]);
}

static int make_queues(struct kvt_pool *pool)
{
	int i;

	for (i = 0; i < KVT_NR_QUEUES; i++) {
		pool->wq[i] = alloc_workqueue("kvtier-%u%s", WQ_UNBOUND | WQ_FREEZABLE, ACTIVE_MAX,
					      pool->id, i == KVT_QUEUE_BRING ? "b" : "");
		if (!pool->wq[i]) {
			delete_queues(pool);
			return -ENOMEM;
		}
	}
	return 0;
}

/* What it claims of the host: given back in reverse by give_back(). */
static int claim(struct kvt_pool *pool, const struct kvtier_pool_create *arg)
{
	int ret;

	ret = kvt_tier_claim(KVTIER_TIER_DRAM, arg->budget[KVTIER_TIER_DRAM].bytes);
	if (ret)
		return ret;
	ret = kvt_tier_claim(KVTIER_TIER_CXL, arg->budget[KVTIER_TIER_CXL].bytes);
	if (ret)
		goto unclaim_dram;
	if (!arg->budget[KVTIER_TIER_NVME].bytes)
		return 0;
	ret = kvt_store_join(pool, arg->budget[KVTIER_TIER_NVME].nodes);
	if (!ret)
		return 0;
	kvt_tier_unclaim(KVTIER_TIER_CXL, arg->budget[KVTIER_TIER_CXL].bytes);
unclaim_dram:
	kvt_tier_unclaim(KVTIER_TIER_DRAM, arg->budget[KVTIER_TIER_DRAM].bytes);
	return ret;
}

/* But for frames that somebody still holds. */
static void give_back(struct kvt_pool *pool)
{
	u32 shift = pool->block_shift;
	u64 left[KVTIER_NR_TIERS];
	enum kvtier_tier tier;

	kvt_linger_leave(pool, left);
	if (pool->store)
		kvt_store_leave(pool);
	for (tier = KVTIER_TIER_CXL; tier >= KVTIER_TIER_DRAM; tier--)
		kvt_tier_orphan(tier, pool->share[tier].budget << shift, left[tier] << shift);
}

static int build(struct kvt_pool *pool, const struct kvtier_pool_create *arg)
{
	int ret;

	ret = claim(pool, arg); /* first: what it cannot have needs no tables */
	if (ret)
		return ret;
	pool->memcg = kvt_memcg_of_current();
	ret = kvt_event_init(pool);
	if (!ret)
		ret = kvt_block_table_init(pool);
	if (!ret)
		ret = kvt_map_pool(pool);
	if (ret)
		goto give_back;
	ret = ida_alloc(&ids, GFP_KERNEL);
	if (ret < 0)
		goto give_back;
	pool->id = ret;
	ret = make_queues(pool);
	if (ret)
		goto free_id;
	ret = kvt_sysfs_add_pool(pool);
	if (ret)
		goto delete_queues;
	return 0;

delete_queues:
	delete_queues(pool);
free_id:
	ida_free(&ids, pool->id);
give_back:
	give_back(pool);
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

/* The reverse of build(). */
static void dismantle(struct kvt_pool *pool)
{
	WRITE_ONCE(pool->dying, true);
	delete_queues(pool); /* NOWAIT operations stop at their next block */
	clear_blocks(pool);
	kvt_frames_drop_spare(pool, U64_MAX);
	give_back(pool);
	ida_free(&ids, pool->id);
}

void kvt_pool_release(struct kvt_pool *pool)
{
	kvt_sysfs_remove_pool(pool);
	mutex_lock(&kvt_pools_lock);
	list_del(&pool->link);
	mutex_unlock(&kvt_pools_lock);
	dismantle(pool);
	kvt_pool_put(pool);
}

/* ---- let it be known ----------------------------------------------------------------- */

/* May this file become a pool?  Each costs the host more than its budgets say. */
static int may_add(struct file *file)
{
	const struct kvt_pool *pool;
	u32 nr = 0;

	lockdep_assert_held(&kvt_pools_lock);
	if (kvt_pool_of(file))
		return -EEXIST;
	list_for_each_entry(pool, &kvt_pools, link)
		nr += uid_eq(pool->owner, current_uid());
	if (nr < READ_ONCE(kvt_policy.max_pools) || capable(CAP_SYS_RESOURCE))
		return 0;
	return -EMFILE;
}

/* With a pool that is complete: @file is that from now on; without: could it be? */
static int add(struct file *file, struct kvt_pool *pool)
{
	int ret;

	mutex_lock(&kvt_pools_lock);
	ret = may_add(file);
	if (!ret && pool) {
		list_add_tail(&pool->link, &kvt_pools);
		file->f_mapping = pool->mapping;
		smp_store_release(&file->private_data, pool); /* kvt_pool_of() */
	}
	mutex_unlock(&kvt_pools_lock);
	return ret;
}

static int build_and_add(struct file *file, struct kvt_pool *pool,
			 const struct kvtier_pool_create *arg)
{
	int ret = build(pool, arg);

	if (ret)
		return ret;
	ret = add(file, pool);
	if (ret) { /* another thread was faster */
		kvt_sysfs_remove_pool(pool);
		dismantle(pool);
	}
	return ret;
}

int kvt_pool_create(struct file *file, struct kvtier_pool_create *arg)
{
	struct kvt_pool *pool;
	int ret;

	ret = check_request(arg);
	if (!ret)
		ret = add(file, NULL);
	if (ret)
		return ret;
	pool = pool_alloc(arg);
	if (!pool)
		return -ENOMEM;
	ret = build_and_add(file, pool, arg);
	if (ret)
		kvt_pool_put(pool);
	else
		arg->id = pool->id;
	return ret;
}

/* ---- change a budget ----------------------------------------------------------------- */

static int claim_more(struct kvt_pool *pool, enum kvtier_tier tier, u64 blocks)
{
	if (tier == KVTIER_TIER_NVME)
		return kvt_store_claim(pool, blocks);
	return kvt_tier_claim(tier, blocks << pool->block_shift);
}

static void claim_less(struct kvt_pool *pool, enum kvtier_tier tier, u64 blocks)
{
	if (tier == KVTIER_TIER_NVME)
		kvt_store_unclaim(pool, blocks);
	else
		kvt_tier_unclaim(tier, blocks << pool->block_shift);
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
	bool any = kvt_linger_reap(pool, tier);

	any |= kvt_evict(pool, tier, min_t(u64, want, KVT_BATCH)) > 0;
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
	int ret;

	ret = check_new(pool, tier, blocks);
	if (!ret && blocks > old)
		ret = claim_more(pool, tier, blocks - old);
	if (ret)
		return ret;
	WRITE_ONCE(share->budget, blocks);
	if (blocks < old) {
		smp_mb(); /* with pin_block(): it sees the budget, or its pin is seen here */
		ret = kvt_pins_fit(pool) ? shrink(pool, tier, blocks) : -ENOSPC;
		if (ret)
			WRITE_ONCE(share->budget, old);
		else
			claim_less(pool, tier, old - blocks);
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
