// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stores: opening their devices, attaching and detaching them, and pools that come and go.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/blkdev.h>
#include <linux/slab.h>

#include "store.h"

#define KVT_QUEUE_WORKERS 4 /* that may block in submitting, per device */

static LIST_HEAD(kvt_stores);
static DECLARE_BITMAP(kvt_store_ids, KVT_STORES_MAX); /* until the last trace of a store is gone */
static DEFINE_MUTEX(kvt_stores_lock); /* both, and .closed against new pools */
static DECLARE_WAIT_QUEUE_HEAD(kvt_stores_gone); /* no number is taken */
static struct workqueue_struct *kvt_store_wq; /* takes away what is in sysfs */

static void kvt_store_id_put(u32 id)
{
	mutex_lock(&kvt_stores_lock);
	clear_bit(id, kvt_store_ids);
	mutex_unlock(&kvt_stores_lock);
	wake_up_all(&kvt_stores_gone);
}

/* ---- one store's life --------------------------------------------------------------- */

static void kvt_store_close(struct kvt_store *store)
{
	u32 i;

	for (i = 0; i < store->nr_devices; i++) {
		kvt_bdev_close(&store->device[i]);
		destroy_workqueue(store->queue[i].wq);
	}
}

static void kvt_store_destroy(struct kvt_store *store)
{
	kvt_reserve_exit(store);
	kvt_accounts_exit(store);
	kvt_slot_exit(store);
	kfree(store);
}

/* Waits for those who are in its files of sysfs; a detach is one, so it leaves this to a worker. */
static void kvt_store_remove(struct work_struct *work)
{
	struct kvt_store *store = container_of(work, struct kvt_store, remove);
	u32 id = store->id;

	device_unregister(store->dev);
	kvt_store_destroy(store);
	kvt_store_id_put(id);
}

/* Nothing uses the devices any more. */
static void kvt_store_release(struct kref *ref)
{
	struct kvt_store *store = container_of(ref, struct kvt_store, ref);

	kvt_store_close(store);
	if (store->dev)
		queue_work(kvt_store_wq, &store->remove);
	else
		kvt_store_destroy(store);
}

void kvt_store_unref(struct kvt_store *store)
{
	kref_put(&store->ref, kvt_store_release);
}

static void kvt_meter_init(struct kvt_meter *meter)
{
	spin_lock_init(&meter->lock);
}

static struct kvt_store *kvt_store_new(void)
{
	struct kvt_store *store = kzalloc(sizeof(*store), GFP_KERNEL);

	if (!store)
		return NULL;
	kref_init(&store->ref);
	store->closed = true;
	spin_lock_init(&store->lock);
	init_waitqueue_head(&store->quiet);
	kvt_span_init(&store->read);
	kvt_span_init(&store->write);
	kvt_meter_init(&store->read_meter);
	kvt_meter_init(&store->write_meter);
	xa_init(&store->extra);
	INIT_LIST_HEAD(&store->accounts);
	INIT_WORK(&store->remove, kvt_store_remove);
	if (!kvt_reserve_init(store))
		return store;
	kfree(store);
	return NULL;
}

/* ---- its devices ---------------------------------------------------------------------- */

static int kvt_store_check_device(struct kvt_store *store, u32 device)
{
	struct block_device *bdev = store->device[device].bdev;
	u32 i;

	for (i = 0; i < device; i++) {
		if (store->device[i].bdev == bdev) {
			pr_warn_ratelimited("%pg is named twice\n", bdev);
			return -EINVAL;
		}
	}
	if (bdev_is_zoned(bdev) || bdev_logical_block_size(bdev) > PAGE_SIZE) {
		pr_warn_ratelimited("%pg cannot be a store: it is zoned, or its sectors are larger than %lu bytes\n",
				    bdev, PAGE_SIZE);
		return -EINVAL;
	}
	return 0;
}

static const char *kvt_store_open_fault(int error)
{
	switch (error) {
	case -EBUSY:
		return "it is mounted or in use";
	case -EROFS:
		return "it is read-only";
	case -ENOTBLK:
		return "it is no block device";
	case -ENOENT:
		return "there is no such file";
	default:
		return "its driver or its folder does not allow it";
	}
}

static int kvt_store_prepare_device(struct kvt_store *store, u32 device)
{
	struct block_device *bdev = store->device[device].bdev;
	int error = kvt_store_check_device(store, device);

	if (error)
		return error;
	error = sync_blockdev(bdev); /* bios go past the page cache: what others wrote must be out */
	if (error) {
		pr_warn_ratelimited("cannot write to %pg what is cached of it (error %d)\n", bdev,
				    error);
		return error;
	}
	invalidate_bdev(bdev);
	store->queue[device].wq = alloc_workqueue("kvtier_device", WQ_UNBOUND | WQ_MEM_RECLAIM,
						  KVT_QUEUE_WORKERS);
	return store->queue[device].wq ? 0 : -ENOMEM;
}

static int kvt_store_open_device(struct kvt_store *store, const char *path)
{
	struct kvt_bdev *device = &store->device[store->nr_devices];
	int error = kvt_bdev_open(device, path, store);

	if (error) {
		pr_warn_ratelimited("cannot open %s: %s (error %d)\n", path,
				    kvt_store_open_fault(error), error);
		return error;
	}
	error = kvt_store_prepare_device(store, store->nr_devices);
	if (error) {
		kvt_bdev_close(device);
		return error;
	}
	kvt_io_measure(store, store->nr_devices++);
	return 0;
}

static struct kvt_store *kvt_store_open(char **paths, u32 nr)
{
	struct kvt_store *store = kvt_store_new();
	int error = 0;
	u32 i;

	if (!store)
		return ERR_PTR(-ENOMEM);
	for (i = 0; i < nr && !error; i++)
		error = kvt_store_open_device(store, paths[i]);
	if (error) {
		kvt_store_unref(store);
		return ERR_PTR(error);
	}
	return store;
}

int kvt_store_flush(struct kvt_store *store, unsigned long deadline)
{
	int error = 0;
	u32 i;

	for (i = 0; i < store->nr_devices && !error; i++)
		error = kvt_io_sync(store, i, REQ_OP_WRITE | REQ_PREFLUSH, 0, NULL, deadline);
	return error;
}

/* ---- format, attach, detach -------------------------------------------------------------- */

int kvt_store_format(char **paths, u32 nr, bool force)
{
	struct kvt_store *store = kvt_store_open(paths, nr);
	int error;

	if (IS_ERR(store))
		return PTR_ERR(store);
	error = kvt_header_format(store, force);
	kvt_store_unref(store);
	return error;
}

/* A copy of a store would be taken for it by who adopts. */
static bool kvt_store_is_attached(const u8 *uuid)
{
	struct kvt_store *other;

	list_for_each_entry(other, &kvt_stores, link) {
		if (!memcmp(other->uuid, uuid, sizeof(other->uuid)))
			return true;
	}
	return false;
}

/* Take a number and enter it in the list, closed as it is. */
static int kvt_store_enter(struct kvt_store *store)
{
	lockdep_assert_held(&kvt_stores_lock);

	if (kvt_store_is_attached(store->uuid)) {
		pr_warn_ratelimited("attach_store: store %pUb is attached already\n", store->uuid);
		return -EEXIST;
	}
	store->id = find_first_zero_bit(kvt_store_ids, KVT_STORES_MAX);
	if (store->id == KVT_STORES_MAX) {
		pr_warn_ratelimited("attach_store: %u stores are attached already: detach one\n",
				    KVT_STORES_MAX);
		return -ENOSPC;
	}
	set_bit(store->id, kvt_store_ids);
	list_add_tail(&store->link, &kvt_stores);
	return 0;
}

static void kvt_store_announce(struct kvt_store *store)
{
	pr_info("store%u: %llu MiB on %u device(s), %pUb\n", store->id,
		kvt_store_bytes(store) >> 20, store->nr_devices, store->uuid);
	if (store->hold)
		pr_info("store%u: on hold, since slots were reserved: adopt what is to be kept, then write 0 to its attribute hold\n",
			store->id);
}

/*
 * What files of sysfs do may take kvt_stores_lock, so they come and go without it.  Once
 * it is not closed any more it may be detached, so that is the last of it.
 */
static int kvt_store_publish(struct kvt_store *store)
{
	int error;

	flush_workqueue(kvt_store_wq); /* numbers of stores that are gone are free again */
	mutex_lock(&kvt_stores_lock);
	error = kvt_store_enter(store);
	mutex_unlock(&kvt_stores_lock);
	if (error)
		return error;
	error = kvt_store_sysfs_add(store);
	if (!error)
		kvt_store_announce(store);
	mutex_lock(&kvt_stores_lock);
	if (error)
		list_del(&store->link);
	else
		store->closed = false;
	mutex_unlock(&kvt_stores_lock);
	if (error)
		kvt_store_id_put(store->id);
	return error;
}

int kvt_store_attach(char **paths, u32 nr)
{
	struct kvt_store *store = kvt_store_open(paths, nr);
	int error;
	u32 i;

	if (IS_ERR(store))
		return PTR_ERR(store);
	error = kvt_header_read(store);
	for (i = 0; i < nr && !error; i++)
		kvt_io_measure(store, i); /* they were sorted */
	if (!error)
		error = kvt_slot_init(store);
	if (!error)
		error = kvt_store_publish(store);
	if (error)
		kvt_store_unref(store);
	return error;
}

/* Take it out of the list, if nothing uses it. */
static int kvt_store_withdraw(struct kvt_store *store)
{
	int error = 0;

	mutex_lock(&kvt_stores_lock);
	if (store->closed) {
		error = -ENODEV;
	} else if (READ_ONCE(store->nr_pools) || atomic64_read(&store->stalled)) {
		error = -EBUSY;
	} else {
		store->closed = true;
		list_del(&store->link);
	}
	mutex_unlock(&kvt_stores_lock);
	return error;
}

/* End being attached; what is under way ends the store. */
static void kvt_store_retire(struct kvt_store *store)
{
	kvt_reserve_settle(store);
	kvt_store_unref(store);
}

int kvt_store_detach(struct kvt_store *store)
{
	int error = kvt_store_withdraw(store);

	if (error == -EBUSY)
		pr_warn_ratelimited("store%u: cannot detach: %u pool(s) and %lld stalled transfer(s) use it\n",
				    store->id, READ_ONCE(store->nr_pools),
				    atomic64_read(&store->stalled));
	if (!error)
		kvt_store_retire(store);
	return error;
}

/* ---- devices that are removed ---------------------------------------------------------------- */

static bool kvt_store_lost_device(struct kvt_store *store)
{
	u32 i;

	for (i = 0; i < store->nr_devices; i++) {
		if (test_bit(GD_DEAD, &store->device[i].bdev->bd_disk->state))
			return true;
	}
	return false;
}

static bool kvt_store_check(struct kvt_store *store)
{
	if (READ_ONCE(store->gone))
		return false;
	if (!kvt_store_lost_device(store))
		return true;
	WRITE_ONCE(store->gone, true);
	pr_err_ratelimited("store%u: a device was removed: what is there is lost\n", store->id);
	return false;
}

bool kvt_store_watch(struct kvt_pool *pool)
{
	struct kvt_store *store = pool->store;

	if (kvt_store_check(store))
		return false;
	if (!atomic_xchg(&pool->told_gone, 1))
		kvt_event_node(pool, KVTIER_TIER_NVME, store->id);
	return true;
}

/* ---- pools ------------------------------------------------------------------------------------ */

static bool kvt_store_is_usable(struct kvt_store *store)
{
	return !store->closed && kvt_store_check(store);
}

/* One on hold, where nothing can be written, is taken only for want of others. */
static bool kvt_store_is_better(struct kvt_store *store, u64 room, struct kvt_store *than, u64 has)
{
	bool hold = READ_ONCE(store->hold);

	if (!than || hold != READ_ONCE(than->hold))
		return !than || !hold;
	return room > has;
}

/* That with the most room for slots of a size, in units: with that of what was kept, or not. */
static struct kvt_store *kvt_store_choose(u64 stores, u32 order, bool keep, u64 *has)
{
	struct kvt_store *store, *best = NULL;
	u64 room;

	lockdep_assert_held(&kvt_stores_lock);

	*has = 0;
	list_for_each_entry(store, &kvt_stores, link) {
		if ((stores && !(stores & BIT_ULL(store->id))) || !kvt_store_is_usable(store))
			continue;
		room = kvt_claimable(store, order, keep);
		if (kvt_store_is_better(store, room, best, *has)) {
			best = store;
			*has = room;
		}
	}
	return best;
}

static void kvt_store_remove_pool(struct kvt_pool *pool)
{
	struct kvt_store *store = pool->store;

	spin_lock(&store->lock);
	store->nr_pools--;
	spin_unlock(&store->lock);
	kvt_store_unref(store);
}

static int kvt_store_add_pool(struct kvt_pool *pool, u64 stores)
{
	struct kvt_store *store;
	u64 room;

	store = kvt_store_choose(stores, kvt_order(pool), pool->flags & KVTIER_POOL_KEEP, &room);
	if (!store)
		return -ENODEV;
	kref_get(&store->ref);
	spin_lock(&store->lock);
	store->nr_pools++;
	spin_unlock(&store->lock);
	pool->store = store;
	return 0;
}

static int kvt_store_admit(struct kvt_pool *pool)
{
	if (pool->flags & KVTIER_POOL_KEEP) {
		pool->tab = kvt_tab_new(pool);
		if (!pool->tab)
			return -ENOMEM;
	}
	return kvt_claim(pool, pool->share[KVTIER_TIER_NVME].budget,
			 pool->tab ? kvt_tab_account(pool->tab) : NULL);
}

static int kvt_store_join_locked(struct kvt_pool *pool, u64 stores)
{
	int error = kvt_store_add_pool(pool, stores);

	if (error)
		return error;
	error = kvt_store_admit(pool);
	if (error) {
		if (pool->tab)
			kvt_tab_close(pool->tab);
		kvt_store_remove_pool(pool);
		pool->store = NULL;
	}
	return error;
}

/* What is chosen by its room has it until it is claimed. */
int kvt_store_join(struct kvt_pool *pool, u64 stores)
{
	int error;

	mutex_lock(&kvt_stores_lock);
	error = kvt_store_join_locked(pool, stores);
	mutex_unlock(&kvt_stores_lock);
	return error;
}

void kvt_store_leave(struct kvt_pool *pool)
{
	if (pool->tab) {
		kvt_forget_due(pool, kvt_tab_account(pool->tab));
		kvt_tab_close(pool->tab);
	}
	kvt_store_unclaim(pool, pool->share[KVTIER_TIER_NVME].budget);
	kvt_store_remove_pool(pool);
}

u64 kvt_store_bits(void)
{
	struct kvt_store *store;
	u64 bits = 0;

	mutex_lock(&kvt_stores_lock);
	list_for_each_entry(store, &kvt_stores, link) {
		if (kvt_store_is_usable(store))
			bits |= BIT_ULL(store->id);
	}
	mutex_unlock(&kvt_stores_lock);
	return bits;
}

u64 kvt_store_free(void)
{
	u64 units;

	mutex_lock(&kvt_stores_lock);
	kvt_store_choose(0, KVT_CHUNK_UNITS_SHIFT, false, &units);
	mutex_unlock(&kvt_stores_lock);
	return units << KVT_UNIT_SHIFT;
}

/* ---- the module ------------------------------------------------------------------------------ */

int kvt_store_init(struct class *class)
{
	int error;

	kvt_store_wq = alloc_workqueue("kvtier_stores", WQ_UNBOUND, 0);
	if (!kvt_store_wq)
		return -ENOMEM;
	error = kvt_store_sysfs_init(class);
	if (error)
		destroy_workqueue(kvt_store_wq);
	return error;
}

static struct kvt_store *kvt_store_take_any(void)
{
	struct kvt_store *store;

	mutex_lock(&kvt_stores_lock);
	store = list_first_entry_or_null(&kvt_stores, struct kvt_store, link);
	if (store) {
		store->closed = true;
		list_del(&store->link);
	}
	mutex_unlock(&kvt_stores_lock);
	return store;
}

/* No pool is left, but a detach or a stalled write of a header may be under way. */
void kvt_store_exit(void)
{
	struct kvt_store *store;

	kvt_store_sysfs_exit();
	while ((store = kvt_store_take_any()))
		kvt_store_retire(store);
	wait_event(kvt_stores_gone, bitmap_empty(kvt_store_ids, KVT_STORES_MAX));
	destroy_workqueue(kvt_store_wq);
}
