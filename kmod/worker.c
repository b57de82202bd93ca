// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is done for pools without being asked, by one worker, pool after pool: sample
 * heat (scan.c), keep some of each memory free (watermarks), and write sealed blocks
 * back (writeback.c), at most writeback_rate bytes a second and store.
 *
 * The worker holds a reference to the pool that it works on, so its tables stay.  Its
 * release may go on at the same time: it waits for the owner of each block, and takes
 * every frame, so the worker finds nothing to do any more.  All that the pool gives
 * back besides, its store above all, is only used here under kvt_pools_lock or by the
 * owner of a block with a frame.
 */
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/workqueue.h>

#include "copy.h"
#include "worker.h"

#define IDLE_MS 1000 /* between looks at the pools while there is nothing to write */
#define BUSY_MS 20 /* while there is */
#define REST_NS (5 * NSEC_PER_SEC) /* for a store after a write that failed */
#define RATE_MAX (1ULL << 40) /* bytes a second: no limit; more would overflow */
#define EVICT_MAX 64 /* frames that are freed at a time for a watermark */

/* What may be written to a store now; the worker's alone. */
struct allowance {
	u64 bytes;
	u64 since; /* ns: when .bytes was right */
};

/* A pool that is looked at, with a reference. */
struct turn {
	struct kvt_pool *pool;
	struct allowance *allowance; /* of its store; NULL: nothing may be written there */
};

static struct workqueue_struct *queue;
static struct allowance allowances[KVT_STORES_MAX];
static unsigned long scanned; /* jiffies */
static s64 first_id; /* of the pool that was looked at first, the last time */

/* ---- how much may be written ------------------------------------------------------ */

static void refill(struct allowance *allowance)
{
	u64 rate = min_t(u64, READ_ONCE(kvt_policy.writeback_rate), RATE_MAX);
	u64 burst = max_t(u64, rate / 4, 1ULL << KVTIER_SHIFT_MAX);
	u64 now = ktime_get_ns(), passed;

	if (now < allowance->since)
		return; /* it rests */
	passed = min_t(u64, now - allowance->since, NSEC_PER_SEC);
	allowance->bytes += mul_u64_u64_div_u64(passed, rate, NSEC_PER_SEC);
	allowance->bytes = min(allowance->bytes, burst);
	allowance->since = now;
}

/* true: there is more to write. */
static bool write_back(const struct turn *turn)
{
	struct allowance *allowance = turn->allowance;
	struct kvt_written written;

	if (!allowance || !READ_ONCE(kvt_policy.writeback_rate))
		return false;
	refill(allowance);
	written = kvt_writeback(turn->pool, allowance->bytes);
	allowance->bytes -= written.bytes;
	if (written.error) {
		allowance->bytes = 0;
		allowance->since = ktime_get_ns() + REST_NS;
	}
	return written.more && !written.error;
}

/* ---- room ---------------------------------------------------------------------------- */

static u64 frames_free(const struct kvt_share *share, u64 budget)
{
	u64 used = atomic64_read(&share->used), spare = READ_ONCE(share->nr_spare);

	return budget + spare > used ? budget + spare - used : 0;
}

/* Free frames before a touch has to wait for that.  A pool that fits needs none. */
static void keep_room(struct kvt_pool *pool, enum kvtier_tier tier, u64 fits)
{
	const struct kvt_tier *t = &kvt_tiers[tier];
	const struct kvt_share *share = &pool->share[tier];
	u64 budget = READ_ONCE(share->budget);
	u64 low = div_u64(budget * READ_ONCE(t->watermark_low), 100);
	u64 high = div_u64(budget * READ_ONCE(t->watermark_high), 100);
	u64 free = frames_free(share, budget);

	if (fits < pool->nr_blocks && free < low)
		kvt_evict(pool, tier, min_t(u64, max(high, low) - free, EVICT_MAX));
}

static void keep_rooms(struct kvt_pool *pool)
{
	u64 dram = READ_ONCE(pool->share[KVTIER_TIER_DRAM].budget);
	u64 cxl = READ_ONCE(pool->share[KVTIER_TIER_CXL].budget);

	if (cxl)
		keep_room(pool, KVTIER_TIER_CXL, dram + cxl);
	keep_room(pool, KVTIER_TIER_DRAM, dram);
	kvt_linger_reap(pool, KVTIER_TIER_DRAM);
	kvt_linger_reap(pool, KVTIER_TIER_CXL);
	kvt_frames_make_way(pool);
}

/* ---- pool after pool -------------------------------------------------------------------- */

static struct allowance *allowance_of(struct kvt_pool *pool)
{
	const struct kvt_store *store = pool->store;

	lockdep_assert_held(&kvt_pools_lock);
	if (!store || kvt_store_watch(pool) || READ_ONCE(store->hold))
		return NULL;
	return &allowances[store->id];
}

/* The pool after @id in the order of ids, or the first; they come and go meanwhile. */
static bool next_turn(s64 id, struct turn *turn)
{
	mutex_lock(&kvt_pools_lock);
	turn->pool = kvt_pool_after(id) ?: kvt_pool_after(-1);
	if (turn->pool)
		turn->allowance = allowance_of(turn->pool);
	mutex_unlock(&kvt_pools_lock);
	return turn->pool;
}

static u32 count_pools(void)
{
	struct list_head *link;
	u32 nr = 0;

	mutex_lock(&kvt_pools_lock);
	list_for_each(link, &kvt_pools)
		nr++;
	mutex_unlock(&kvt_pools_lock);
	return nr;
}

static bool scan_is_due(void)
{
	u32 period = READ_ONCE(kvt_policy.scan_period_ms);

	if (!period || time_before(jiffies, scanned + msecs_to_jiffies(period)))
		return false;
	scanned = jiffies;
	return true;
}

/* Each pool once, another one first each time; true: there may be more to write. */
static bool look_at_pools(void)
{
	bool scan = scan_is_due(), more = false;
	u32 left = count_pools();
	s64 id = first_id;
	struct turn turn;

	for (first_id = -1; left && next_turn(id, &turn); left--) {
		id = turn.pool->id;
		if (first_id < 0)
			first_id = id;
		if (scan)
			kvt_scan_pool(turn.pool);
		keep_rooms(turn.pool);
		more |= write_back(&turn);
		kvt_pool_put(turn.pool);
	}
	return more;
}

/* ---- the worker ---------------------------------------------------------------------------- */

static void work(struct work_struct *work)
{
	u32 period = READ_ONCE(kvt_policy.scan_period_ms);
	bool more = look_at_pools();

	kvt_linger_reap_orphans();
	kvt_dma_trim();
	queue_delayed_work(queue, to_delayed_work(work),
			   msecs_to_jiffies(more ? BUSY_MS : min(period ?: IDLE_MS, IDLE_MS)));
}

static DECLARE_DELAYED_WORK(worker, work);

void kvt_worker_kick(void)
{
	mod_delayed_work(queue, &worker, 0);
}

int kvt_worker_init(void)
{
	int ret;

	queue = alloc_workqueue("kvtier_worker", WQ_UNBOUND | WQ_MEM_RECLAIM | WQ_FREEZABLE, 1);
	if (!queue)
		return -ENOMEM;
	ret = kvt_shrink_init();
	if (ret) {
		destroy_workqueue(queue);
		return ret;
	}
	first_id = -1;
	kvt_worker_kick();
	return 0;
}

void kvt_worker_exit(void)
{
	kvt_shrink_exit();
	cancel_delayed_work_sync(&worker);
	destroy_workqueue(queue);
}
