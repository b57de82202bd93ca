// SPDX-License-Identifier: GPL-2.0-only
/*
 * One block to or from its slot, by one bio.
 *
 * An io has two holders: its owner, who waits for it, and the device.  If the device
 * takes longer than the deadline, the owner leaves; the last holder to go cleans up,
 * which for the device means in a worker: the frame that a late read still wrote to,
 * and the slot that a late write still changed, are free only then.  The module stays
 * loaded so long, and kvt_io_exit() waits for all.
 *
 * Submitting can block too, when the device has no free request or is frozen.  So
 * where that is likely, a worker of the device does it, and the owner still waits no
 * longer than the deadline; an io that no worker has taken yet is then withdrawn.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/ioprio.h>
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "store.h"
#include "trace.h"

#define KVT_GIVE_WAY_MS 20 /* how long a background write lets reads go first */
#define KVT_METER_NS (20 * NSEC_PER_MSEC) /* of a sample of the bandwidth */

struct kvt_io {
	struct bio bio;
	struct bio_vec vec;
	struct kvt_store *store;
	struct kvt_queue *queue; /* of the device */
	u32 requests; /* how many it will take there */
	u32 bytes;
	struct folio *folio; /* NULL: a flush */
	struct kvt_pool *pool; /* NULL: a header or a flush; so for the next two */
	u64 nr;
	u32 unit;
	unsigned long start; /* jiffies */
	u64 start_ns;
	atomic_t holders; /* its owner and the device */
	int error;
	struct completion done;
	/* What its owner left behind. */
	struct kvt_frame *frame;
	bool give_up_slot;
	struct work_struct submit, late;
};

static struct kmem_cache *kvt_io_cache;
static struct workqueue_struct *kvt_io_wq; /* what the device did late */
static atomic_t kvt_io_count;
static DECLARE_WAIT_QUEUE_HEAD(kvt_io_none);

static bool kvt_io_is_write(const struct kvt_io *io)
{
	return op_is_write(bio_op(&io->bio));
}

/* ---- figures ------------------------------------------------------------------ */

static void kvt_meter_add(struct kvt_meter *meter, struct kvt_span *span, u64 bytes)
{
	u64 now = kvt_span_ns(span), busy, rate;
	unsigned long flags;

	spin_lock_irqsave(&meter->lock, flags);
	meter->bytes += bytes;
	busy = now - meter->since;
	if (now > meter->since && busy >= KVT_METER_NS) {
		rate = mul_u64_u64_div_u64(meter->bytes, NSEC_PER_SEC, busy);
		WRITE_ONCE(meter->rate, meter->rate ? (meter->rate * 3 + rate) / 4 : rate);
		meter->bytes = 0;
		meter->since = now;
	}
	spin_unlock_irqrestore(&meter->lock, flags);
}

static void kvt_io_account_start(struct kvt_io *io)
{
	struct kvt_store *store = io->store;
	struct kvt_tier_counters *tier = &io->pool->io[KVTIER_TIER_NVME];

	if (kvt_io_is_write(io)) {
		kvt_span_begin(&store->write);
		kvt_span_begin(&tier->write);
	} else {
		atomic_inc(&store->reads);
		kvt_span_begin(&store->read);
		kvt_span_begin(&tier->read);
	}
}

static void kvt_io_account_write(struct kvt_io *io, u64 bytes)
{
	struct kvt_store *store = io->store;
	struct kvt_tier_counters *tier = &io->pool->io[KVTIER_TIER_NVME];

	atomic64_add(bytes, &store->bytes_written);
	atomic64_add(bytes, &tier->bytes_in);
	kvt_meter_add(&store->write_meter, &store->write, bytes);
	kvt_span_end(&store->write);
	kvt_span_end(&tier->write);
}

static void kvt_io_account_read(struct kvt_io *io, u64 bytes)
{
	struct kvt_store *store = io->store;
	struct kvt_tier_counters *tier = &io->pool->io[KVTIER_TIER_NVME];

	atomic64_add(bytes, &store->bytes_read);
	atomic64_add(bytes, &tier->bytes_out);
	kvt_meter_add(&store->read_meter, &store->read, bytes);
	kvt_span_end(&store->read);
	kvt_span_end(&tier->read);
	if (atomic_dec_and_test(&store->reads) && wq_has_sleeper(&store->quiet))
		wake_up_all(&store->quiet);
}

static void kvt_io_account_end(struct kvt_io *io)
{
	u64 bytes = io->error ? 0 : io->bytes;

	atomic_sub(io->requests, &io->queue->requests);
	if (!io->pool)
		return;
	trace_kvtier_io(io->store->id, io->unit, io->bytes, kvt_io_is_write(io),
			ktime_get_ns() - io->start_ns, io->error);
	if (kvt_io_is_write(io))
		kvt_io_account_write(io, bytes);
	else
		kvt_io_account_read(io, bytes);
}

/* ---- an io's life --------------------------------------------------------------- */

static void kvt_io_free(struct kvt_io *io)
{
	struct kvt_store *store = io->store;
	struct kvt_pool *pool = io->pool;

	if (io->folio)
		folio_put(io->folio);
	bio_uninit(&io->bio);
	kmem_cache_free(kvt_io_cache, io);
	if (pool)
		kvt_pool_put(pool);
	kvt_store_unref(store);
	if (atomic_dec_and_test(&kvt_io_count))
		wake_up_all(&kvt_io_none);
}

/* Free it with what its owner left, after the device let go. */
static void kvt_io_clean(struct kvt_io *io)
{
	struct kvt_pool *pool = io->pool;

	if (io->frame) {
		folio_put(io->folio); /* before the frame may be used again */
		io->folio = NULL;
		kvt_frame_put(pool, io->frame);
	}
	if (io->give_up_slot)
		kvt_put_unit(pool, io->unit);
	kvt_io_free(io);
}

static void kvt_io_set_stalled(struct kvt_io *io, bool stalled)
{
	struct kvt_block *block;

	atomic64_add(stalled ? 1 : -1, &io->store->stalled);
	atomic_add(stalled ? 1 : -1, &io->queue->stalled);
	if (!io->pool || kvt_io_is_write(io))
		return;
	block = kvt_block_peek(io->pool, io->nr);
	if (stalled)
		set_bit(KVT_BLOCK_STALLED, &block->flags);
	else
		clear_bit(KVT_BLOCK_STALLED, &block->flags);
}

static void kvt_io_late(struct work_struct *work)
{
	struct kvt_io *io = container_of(work, struct kvt_io, late);
	struct kvt_pool *pool = io->pool;

	if (pool)
		kref_get(&pool->ref);
	kvt_io_set_stalled(io, false);
	kvt_io_clean(io);
	if (pool) {
		wake_up_all(&pool->room);
		kvt_pool_put(pool);
	}
	module_put(THIS_MODULE); /* kvt_io_exit() waits for this function's end */
}

static void kvt_io_end(struct bio *bio)
{
	struct kvt_io *io = container_of(bio, struct kvt_io, bio);

	io->error = blk_status_to_errno(bio->bi_status);
	if (io->error == -ETIMEDOUT) /* has a meaning of its own here: the owner left */
		io->error = -EIO;
	kvt_io_account_end(io);
	if (atomic_dec_and_test(&io->holders))
		queue_work(kvt_io_wq, &io->late);
	else
		complete(&io->done);
}

static void kvt_io_submit_work(struct work_struct *work)
{
	submit_bio(&container_of(work, struct kvt_io, submit)->bio);
}

static struct kvt_io *kvt_io_new(struct kvt_store *store, u32 device, blk_opf_t opf, u64 offset,
				 struct folio *folio, u32 bytes)
{
	struct kvt_io *io = kmem_cache_zalloc(kvt_io_cache, GFP_NOIO | __GFP_NOWARN);

	if (!io)
		return NULL;
	atomic_inc(&kvt_io_count);
	kref_get(&store->ref);
	io->store = store;
	io->queue = &store->queue[device];
	io->requests = DIV_ROUND_UP(bytes, io->queue->request_bytes) ?: 1;
	io->bytes = bytes;
	bio_init(&io->bio, store->device[device].bdev, &io->vec, folio ? 1 : 0, opf);
	io->bio.bi_end_io = kvt_io_end;
	io->bio.bi_iter.bi_sector = offset >> SECTOR_SHIFT;
	if (folio) {
		folio_get(folio);
		io->folio = folio;
		__bio_add_page(&io->bio, folio_page(folio, 0), bytes, 0);
	}
	atomic_set(&io->holders, 2);
	init_completion(&io->done);
	INIT_WORK(&io->submit, kvt_io_submit_work);
	INIT_WORK(&io->late, kvt_io_late);
	return io;
}

/* ---- to the device ---------------------------------------------------------------- */

/* Half of what a device takes leaves room for others who use the disk. */
void kvt_io_measure(struct kvt_store *store, u32 device)
{
	struct request_queue *q = bdev_get_queue(store->device[device].bdev);
	struct kvt_queue *queue = &store->queue[device];

	queue->limit = max_t(u32, q->nr_requests / 2, 1);
	queue->request_bytes = min_t(u64, (u64)queue_max_sectors(q) << SECTOR_SHIFT,
				     1ULL << KVTIER_SHIFT_MAX);
	store->stable |= bdev_stable_writes(store->device[device].bdev);
}

static bool kvt_io_may_block(struct kvt_io *io, int requests)
{
	struct request_queue *q = bdev_get_queue(io->bio.bi_bdev);

	return requests > io->queue->limit || READ_ONCE(q->mq_freeze_depth) ||
	       atomic_read(&io->queue->stalled);
}

static void kvt_io_submit(struct kvt_io *io)
{
	int requests = atomic_add_return(io->requests, &io->queue->requests);

	io->start = jiffies;
	io->start_ns = ktime_get_ns();
	if (kvt_io_may_block(io, requests))
		queue_work(io->queue->wq, &io->submit);
	else
		submit_bio(&io->bio);
}

void kvt_io_give_way(struct kvt_store *store)
{
	wait_event_timeout(store->quiet, !atomic_read(&store->reads),
			   msecs_to_jiffies(KVT_GIVE_WAY_MS));
}

static blk_opf_t kvt_io_opf(enum kvt_io_kind kind)
{
	switch (kind) {
	case KVT_IO_READ:
		return REQ_OP_READ | REQ_SYNC;
	case KVT_IO_WRITE: /* somebody waits: not to be throttled */
		return REQ_OP_WRITE | REQ_SYNC | REQ_IDLE;
	default:
		return REQ_OP_WRITE | REQ_BACKGROUND;
	}
}

static u32 kvt_unit_device(const struct kvt_store *store, u32 unit)
{
	return (unit >> KVT_CHUNK_UNITS_SHIFT) % store->nr_devices;
}

static u64 kvt_unit_offset(const struct kvt_store *store, u32 unit) /* on its device */
{
	u64 chunk = (unit >> KVT_CHUNK_UNITS_SHIFT) / store->nr_devices;
	u64 on_device = chunk << KVT_CHUNK_UNITS_SHIFT | (unit & (KVT_CHUNK_UNITS - 1));

	return KVT_DATA_OFFSET + (on_device << KVT_UNIT_SHIFT);
}

struct kvt_io *kvt_io_start(struct kvt_pool *pool, u64 nr, u32 unit, struct folio *folio,
			    enum kvt_io_kind kind)
{
	struct kvt_store *store = pool->store;
	struct kvt_io *io = kvt_io_new(store, kvt_unit_device(store, unit), kvt_io_opf(kind),
				       kvt_unit_offset(store, unit), folio,
				       kvt_block_bytes(pool));

	if (!io)
		return NULL;
	kref_get(&pool->ref);
	io->pool = pool;
	io->nr = nr;
	io->unit = unit;
	if (kind == KVT_IO_BACKGROUND)
		io->bio.bi_ioprio = IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, IOPRIO_NR_LEVELS - 1);
	kvt_io_account_start(io);
	kvt_io_submit(io);
	return io;
}

/* ---- and back ---------------------------------------------------------------------- */

static bool kvt_io_in_time(struct kvt_io *io, unsigned long deadline)
{
	unsigned long now = jiffies, end = io->start + deadline;

	return wait_for_completion_io_timeout(&io->done, time_after(end, now) ? end - now : 0);
}

/* Take an io back that no worker has submitted yet. */
static bool kvt_io_withdraw(struct kvt_io *io)
{
	if (!cancel_work(&io->submit))
		return false;
	io->error = -ETIMEDOUT;
	kvt_io_account_end(io);
	kvt_io_clean(io);
	return true;
}

/* Leave it to the device; false: that was done just now, so it is still the owner's. */
static bool kvt_io_leave(struct kvt_io *io)
{
	__module_get(THIS_MODULE);
	kvt_io_set_stalled(io, true);
	if (!atomic_dec_and_test(&io->holders))
		return true;
	wait_for_completion(&io->done); /* kvt_io_end() is on its last line */
	kvt_io_set_stalled(io, false);
	module_put(THIS_MODULE);
	return false;
}

/* Its error; frees it now, or when the device is done (-ETIMEDOUT). */
static int kvt_io_wait(struct kvt_io *io, unsigned long deadline)
{
	struct kvt_store *store = io->store;
	int error;

	if (!kvt_io_in_time(io, deadline) && (kvt_io_withdraw(io) || kvt_io_leave(io))) {
		error = -ETIMEDOUT;
	} else {
		error = io->error;
		kvt_io_free(io);
	}
	if (error)
		atomic64_inc(&store->io_errors);
	return error;
}

int kvt_io_finish(struct kvt_io *io, struct kvt_frame *frame, bool give_up_slot)
{
	struct kvt_pool *pool = io->pool;
	int error;

	io->frame = frame;
	io->give_up_slot = give_up_slot;
	error = kvt_io_wait(io, pool->deadline);
	if (error) {
		atomic64_inc(&pool->io[KVTIER_TIER_NVME].io_errors);
		kvt_store_watch(pool);
	}
	return error;
}

int kvt_io_sync(struct kvt_store *store, u32 device, blk_opf_t opf, u64 offset,
		struct folio *folio, unsigned long deadline)
{
	struct kvt_io *io = kvt_io_new(store, device, opf, offset, folio,
				       folio ? folio_size(folio) : 0);

	if (!io)
		return -ENOMEM;
	kvt_io_submit(io);
	return kvt_io_wait(io, deadline);
}

int kvt_io_init(void)
{
	kvt_io_cache = KMEM_CACHE(kvt_io, 0);
	if (!kvt_io_cache)
		return -ENOMEM;
	kvt_io_wq = alloc_workqueue("kvtier_late", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!kvt_io_wq) {
		kmem_cache_destroy(kvt_io_cache);
		return -ENOMEM;
	}
	return 0;
}

void kvt_io_exit(void)
{
	wait_event(kvt_io_none, !atomic_read(&kvt_io_count));
	destroy_workqueue(kvt_io_wq);
	kmem_cache_destroy(kvt_io_cache);
}
