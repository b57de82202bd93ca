// SPDX-License-Identifier: GPL-2.0-only
/*
 * The header of a device: which store it belongs to, which device of its stripe it
 * is, and whether slots are reserved.  It lies in one sector, which a device writes
 * wholly or not at all, so a power cut leaves the old one or the new one.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/build_bug.h>
#include <linux/crc32c.h>
#include <linux/random.h>
#include <linux/string.h>

#include "store.h"

#define KVT_HEADER_MAGIC "kvtierSt"
#define KVT_HEADER_VERSION 1
#define KVT_HEADER_RESERVED 1U /* a flag: there are, or were, reservations */
#define KVT_HEADER_ORDER 4 /* of the folio that reads and blanks the space before the data */
#define KVT_HEADER_STEP (PAGE_SIZE << KVT_HEADER_ORDER)
#define KVT_HEADER_DEADLINE msecs_to_jiffies(KVTIER_DEADLINE_MS)

struct kvt_header {
	u8 magic[8];
	__le32 version;
	__le32 crc; /* CRC32C of the header with 0 here */
	u8 uuid[KVTIER_UUID_BYTES];
	__le32 stripe_index;
	__le32 stripe_count;
	__le64 device_units; /* of data on each device of the stripe */
	__le32 flags;
	u8 reserved[460];
};

static_assert(sizeof(struct kvt_header) == 512);

static struct folio *kvt_header_folio(unsigned int order)
{
	return folio_alloc(GFP_KERNEL | __GFP_ZERO, order);
}

static u32 kvt_header_crc(const struct kvt_header *header)
{
	struct kvt_header copy = *header;

	copy.crc = 0;
	return ~crc32c(~0, &copy, sizeof(copy));
}

static u64 kvt_header_units(struct kvt_store *store) /* of each device */
{
	return store->nr_units / store->nr_devices;
}

static int kvt_header_write(struct kvt_store *store, u32 device, bool reserved,
			    unsigned long deadline)
{
	struct folio *folio = kvt_header_folio(0);
	struct kvt_header *header;
	int error;

	if (!folio)
		return -ENOMEM;
	header = folio_address(folio);
	memcpy(header->magic, KVT_HEADER_MAGIC, sizeof(header->magic));
	header->version = cpu_to_le32(KVT_HEADER_VERSION);
	memcpy(header->uuid, store->uuid, sizeof(header->uuid));
	header->stripe_index = cpu_to_le32(device);
	header->stripe_count = cpu_to_le32(store->nr_devices);
	header->device_units = cpu_to_le64(kvt_header_units(store));
	header->flags = cpu_to_le32(reserved ? KVT_HEADER_RESERVED : 0);
	header->crc = cpu_to_le32(kvt_header_crc(header));
	error = kvt_io_sync(store, device, REQ_OP_WRITE | REQ_SYNC | REQ_PREFLUSH | REQ_FUA, 0,
			    folio, deadline);
	folio_put(folio);
	return error;
}

static int kvt_header_write_all(struct kvt_store *store, bool reserved, unsigned long deadline)
{
	int error = 0;
	u32 i;

	for (i = 0; i < store->nr_devices && !error; i++)
		error = kvt_header_write(store, i, reserved, deadline);
	return error;
}

/*
 * On failure the devices may disagree, and a write that was given up may land at any
 * time: as long as one can, nothing that is written now could be relied on.
 */
int kvt_header_mark(struct kvt_store *store, bool reserved, unsigned long deadline)
{
	int error;

	lockdep_assert_held(&store->reserve_lock);
	if (store->mark_unsure && atomic64_read(&store->stalled))
		return -ETIMEDOUT;
	error = kvt_header_write_all(store, reserved, deadline);
	store->mark_unsure = error;
	store->marked = reserved;
	return !error || error == -ETIMEDOUT || error == -ENOMEM ? error : -EIO;
}

/* ---- format ------------------------------------------------------------------- */

static u64 kvt_device_units(struct block_device *bdev)
{
	u64 bytes = bdev_nr_bytes(bdev);

	if (bytes < KVT_DEVICE_MIN)
		return 0;
	return ALIGN_DOWN((bytes - KVT_DATA_OFFSET) >> KVT_UNIT_SHIFT, KVT_CHUNK_UNITS);
}

static int kvt_header_read_part(struct kvt_store *store, u32 device, u64 at, struct folio *folio)
{
	int error = kvt_io_sync(store, device, REQ_OP_READ | REQ_SYNC, at, folio,
				KVT_HEADER_DEADLINE);

	if (error)
		pr_warn_ratelimited("cannot read %pg (error %d)\n", store->device[device].bdev,
				    error);
	return error;
}

/* -EEXIST if there is anything before the data. */
static int kvt_header_check_blank(struct kvt_store *store, u32 device, struct folio *folio)
{
	u64 at;
	int error;

	for (at = 0; at < KVT_DATA_OFFSET; at += KVT_HEADER_STEP) {
		error = kvt_header_read_part(store, device, at, folio);
		if (error)
			return error;
		if (memchr_inv(folio_address(folio), 0, KVT_HEADER_STEP)) {
			pr_warn_ratelimited("format_store: %pg is not blank: to destroy what it holds, add the word force\n",
					    store->device[device].bdev);
			return -EEXIST;
		}
	}
	return 0;
}

static int kvt_header_blank(struct kvt_store *store, u32 device, struct folio *zeroes)
{
	int error = 0;
	u64 at;

	for (at = 0; at < KVT_DATA_OFFSET && !error; at += KVT_HEADER_STEP)
		error = kvt_io_sync(store, device, REQ_OP_WRITE | REQ_SYNC, at, zeroes,
				    KVT_HEADER_DEADLINE);
	return error;
}

/* What each device of a new stripe can hold: as much as the smallest. */
static int kvt_header_size(struct kvt_store *store)
{
	u64 units = KVT_UNITS_MAX / store->nr_devices;
	u32 i;

	for (i = 0; i < store->nr_devices; i++) {
		u64 has = kvt_device_units(store->device[i].bdev);

		if (!has) {
			pr_warn_ratelimited("format_store: %pg is too small: it needs at least 64 MiB\n",
					    store->device[i].bdev);
			return -ENOSPC;
		}
		units = min(units, has);
	}
	store->nr_units = ALIGN_DOWN(units, KVT_CHUNK_UNITS) * store->nr_devices;
	return 0;
}

typedef int (*kvt_header_step)(struct kvt_store *store, u32 device, struct folio *folio);

/* A step on all devices.  The folio is the step's own: one given up may still use it. */
static int kvt_header_each(struct kvt_store *store, kvt_header_step step)
{
	int error = 0;
	u32 i;

	for (i = 0; i < store->nr_devices && !error; i++) {
		struct folio *folio = kvt_header_folio(KVT_HEADER_ORDER);

		if (!folio)
			return -ENOMEM;
		error = step(store, i, folio);
		folio_put(folio);
	}
	return error;
}

/* Everything is checked on all devices before anything is written to one. */
int kvt_header_format(struct kvt_store *store, bool force)
{
	int error = kvt_header_size(store);

	if (!error && !force)
		error = kvt_header_each(store, kvt_header_check_blank);
	if (error)
		return error;
	generate_random_uuid(store->uuid);
	error = kvt_header_each(store, kvt_header_blank);
	if (!error)
		error = kvt_header_write_all(store, false, KVT_HEADER_DEADLINE);
	if (error)
		pr_warn_ratelimited("format_store: cannot write to the devices (error %d): they are no store now\n",
				    error);
	return error;
}

/* ---- attach ------------------------------------------------------------------- */

/* What is wrong with a header in itself; NULL: nothing. */
static const char *kvt_header_fault(const struct kvt_header *header)
{
	u64 units = le64_to_cpu(header->device_units);
	u32 count = le32_to_cpu(header->stripe_count);

	if (le32_to_cpu(header->crc) != kvt_header_crc(header))
		return "its header is damaged";
	if (!count || count > KVT_STRIPE_MAX || le32_to_cpu(header->stripe_index) >= count ||
	    !units || units % KVT_CHUNK_UNITS || units > KVT_UNITS_MAX / count ||
	    le32_to_cpu(header->flags) & ~KVT_HEADER_RESERVED)
		return "its header makes no sense";
	return NULL;
}

static int kvt_header_check(struct block_device *bdev, const struct kvt_header *header)
{
	const char *fault;

	if (memcmp(header->magic, KVT_HEADER_MAGIC, sizeof(header->magic))) {
		pr_warn_ratelimited("attach_store: %pg is no store: make it one with format_store\n",
				    bdev);
		return -EINVAL;
	}
	if (le32_to_cpu(header->version) != KVT_HEADER_VERSION) {
		pr_warn_ratelimited("attach_store: %pg has unknown version %u: this module knows version %u\n",
				    bdev, le32_to_cpu(header->version), KVT_HEADER_VERSION);
		return -EINVAL;
	}
	fault = kvt_header_fault(header);
	if (fault) {
		pr_warn_ratelimited("attach_store: %pg: %s: format it anew, or restore the header\n",
				    bdev, fault);
		return -EINVAL;
	}
	if (kvt_device_units(bdev) < le64_to_cpu(header->device_units)) {
		pr_warn_ratelimited("attach_store: %pg is smaller than when it was formatted\n",
				    bdev);
		return -ENOSPC;
	}
	return 0;
}

/* Take over what the first header says; the others have to say the same. */
static int kvt_header_join(struct kvt_store *store, u32 device, const struct kvt_header *header)
{
	struct block_device *bdev = store->device[device].bdev;
	u64 units = le64_to_cpu(header->device_units);
	u32 count = le32_to_cpu(header->stripe_count);

	if (!device) {
		memcpy(store->uuid, header->uuid, sizeof(store->uuid));
		store->nr_units = units * store->nr_devices;
	}
	if (memcmp(store->uuid, header->uuid, sizeof(store->uuid)) ||
	    units != kvt_header_units(store)) {
		pr_warn_ratelimited("attach_store: %pg belongs to another store than %pg\n", bdev,
				    store->device[0].bdev);
		return -EINVAL;
	}
	if (count != store->nr_devices) {
		pr_warn_ratelimited("attach_store: %pg is one of %u devices, and %u are given: name exactly those\n",
				    bdev, count, store->nr_devices);
		return count > store->nr_devices ? -ENXIO : -EINVAL;
	}
	if (le32_to_cpu(header->flags) & KVT_HEADER_RESERVED)
		store->hold = true;
	return 0;
}

/* Read a device's header and note its place in the stripe in @places. */
static int kvt_header_get(struct kvt_store *store, u32 device, struct kvt_bdev *places)
{
	struct folio *folio = kvt_header_folio(0);
	struct kvt_header *header;
	u32 index;
	int error;

	if (!folio)
		return -ENOMEM;
	error = kvt_header_read_part(store, device, 0, folio);
	if (error)
		goto put_folio;
	header = folio_address(folio);
	error = kvt_header_check(store->device[device].bdev, header);
	if (!error)
		error = kvt_header_join(store, device, header);
	if (error)
		goto put_folio;
	index = le32_to_cpu(header->stripe_index);
	if (places[index].bdev) {
		pr_warn_ratelimited("attach_store: %pg and %pg are copies of one device\n",
				    places[index].bdev, store->device[device].bdev);
		error = -EINVAL;
		goto put_folio;
	}
	places[index] = store->device[device];
put_folio:
	folio_put(folio);
	return error;
}

int kvt_header_read(struct kvt_store *store)
{
	struct kvt_bdev places[KVT_STRIPE_MAX] = {};
	int error = 0;
	u32 i;

	for (i = 0; i < store->nr_devices && !error; i++)
		error = kvt_header_get(store, i, places);
	if (error)
		return error;
	memcpy(store->device, places, sizeof(places));
	store->marked = store->hold;
	return 0;
}
