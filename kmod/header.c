// SPDX-License-Identifier: GPL-2.0-only
/*
 * The header of a device: which store it belongs to, which device of its stripe it
 * is, and whether slots are reserved.  There are two copies, at both ends of what lies before
 * the data, written one after the other, each with the number of its writing.  A power cut, or
 * a sector that goes bad, leaves at least one; of two that are whole the later one counts.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/build_bug.h>
#include <linux/crc32c.h>
#include <linux/random.h>
#include <linux/string.h>

#include "store.h"

#define KVT_HEADER_MAGIC "kvtierSt"
#define KVT_HEADER_VERSION 2 /* version 1 had the first copy alone */
#define KVT_HEADER_RESERVED 1U /* a flag: there are, or were, reservations */
#define KVT_HEADER_ORDER 4 /* of the folio that reads and blanks the space before the data */
#define KVT_HEADER_STEP (PAGE_SIZE << KVT_HEADER_ORDER)
#define KVT_HEADER_DEADLINE msecs_to_jiffies(KVTIER_DEADLINE_MS)
#define KVT_HEADER_COPIES 2

struct kvt_header {
	u8 magic[8];
	__le32 version;
	__le32 crc; /* CRC32C of the header with 0 here */
	u8 uuid[KVTIER_UUID_BYTES];
	__le32 stripe_index;
	__le32 stripe_count;
	__le64 device_units; /* of data on each device of the stripe */
	__le32 flags;
	__le32 reserved;
	__le64 generation; /* counts writings; 0 in version 1 */
	u8 unused[448];
};

static_assert(sizeof(struct kvt_header) == 512);

static const u64 kvt_header_at[KVT_HEADER_COPIES] = { 0, KVT_DATA_OFFSET - PAGE_SIZE };

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

static void kvt_header_fill(struct kvt_store *store, u32 device, bool reserved,
			    struct kvt_header *header)
{
	memcpy(header->magic, KVT_HEADER_MAGIC, sizeof(header->magic));
	header->version = cpu_to_le32(KVT_HEADER_VERSION);
	memcpy(header->uuid, store->uuid, sizeof(header->uuid));
	header->stripe_index = cpu_to_le32(device);
	header->stripe_count = cpu_to_le32(store->nr_devices);
	header->device_units = cpu_to_le64(kvt_header_units(store));
	header->flags = cpu_to_le32(reserved ? KVT_HEADER_RESERVED : 0);
	header->generation = cpu_to_le64(store->header_generation);
	header->crc = cpu_to_le32(kvt_header_crc(header));
}

static int kvt_header_write(struct kvt_store *store, u32 device, bool reserved,
			    unsigned long deadline)
{
	struct folio *folio = kvt_header_folio(0);
	int error = 0;
	u32 i;

	if (!folio)
		return -ENOMEM;
	kvt_header_fill(store, device, reserved, folio_address(folio));
	for (i = 0; i < KVT_HEADER_COPIES && !error; i++)
		error = kvt_io_sync(store, device, REQ_OP_WRITE | REQ_SYNC | REQ_PREFLUSH | REQ_FUA,
				    kvt_header_at[i], folio, deadline);
	folio_put(folio);
	return error;
}

static int kvt_header_write_all(struct kvt_store *store, bool reserved, unsigned long deadline)
{
	int error = 0;
	u32 i;

	store->header_generation++;
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

static bool kvt_header_is_ours(const struct kvt_header *header)
{
	return !memcmp(header->magic, KVT_HEADER_MAGIC, sizeof(header->magic));
}

static bool kvt_header_is_whole(const struct kvt_header *header)
{
	return kvt_header_is_ours(header) &&
	       le32_to_cpu(header->crc) == kvt_header_crc(header);
}

static int kvt_header_check_fields(struct block_device *bdev, const struct kvt_header *header)
{
	u32 version = le32_to_cpu(header->version), count = le32_to_cpu(header->stripe_count);
	u64 units = le64_to_cpu(header->device_units);

	if (!version || version > KVT_HEADER_VERSION) {
		pr_warn_ratelimited("attach_store: %pg has unknown version %u: this module knows versions 1 to %u\n",
				    bdev, version, KVT_HEADER_VERSION);
		return -EINVAL;
	}
	if (!count || count > KVT_STRIPE_MAX || le32_to_cpu(header->stripe_index) >= count ||
	    !units || units % KVT_CHUNK_UNITS || units > KVT_UNITS_MAX / count ||
	    le32_to_cpu(header->flags) & ~KVT_HEADER_RESERVED) {
		pr_warn_ratelimited("attach_store: %pg: its header makes no sense: format it anew, or restore the header\n",
				    bdev);
		return -EINVAL;
	}
	if (kvt_device_units(bdev) < units) {
		pr_warn_ratelimited("attach_store: %pg is smaller than when it was formatted\n",
				    bdev);
		return -ENOSPC;
	}
	return 0;
}

/* Which copy counts; NULL: none. */
static const struct kvt_header *kvt_header_later(const struct kvt_header *first,
						 const struct kvt_header *second)
{
	if (!kvt_header_is_whole(first))
		return kvt_header_is_whole(second) ? second : NULL;
	if (!kvt_header_is_whole(second))
		return first;
	return le64_to_cpu(second->generation) > le64_to_cpu(first->generation) ? second : first;
}

/* The header of a device, from its copies; those that differ are written anew when one is. */
static int kvt_header_pick(struct kvt_store *store, u32 device, const struct kvt_header *first,
			   const struct kvt_header *second, const struct kvt_header **header)
{
	struct block_device *bdev = store->device[device].bdev;

	*header = kvt_header_later(first, second);
	if (*header) {
		if (memcmp(first, second, sizeof(*first))) {
			store->mark_unsure = true;
			if (le32_to_cpu((*header)->version) > 1)
				pr_warn_ratelimited("attach_store: %pg: one copy of its header is damaged or older: the other is used\n",
						    bdev);
		}
		return kvt_header_check_fields(bdev, *header);
	}
	if (kvt_header_is_ours(first) || kvt_header_is_ours(second))
		pr_warn_ratelimited("attach_store: %pg: its header is damaged: format it anew, or restore the header\n",
				    bdev);
	else
		pr_warn_ratelimited("attach_store: %pg is no store: make it one with format_store\n",
				    bdev);
	return -EINVAL;
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

/* Note the device's place in the stripe in @places. */
static int kvt_header_place(struct kvt_store *store, u32 device, const struct kvt_header *header,
			    struct kvt_bdev *places)
{
	u32 index = le32_to_cpu(header->stripe_index);

	if (places[index].bdev) {
		pr_warn_ratelimited("attach_store: %pg and %pg are copies of one device\n",
				    places[index].bdev, store->device[device].bdev);
		return -EINVAL;
	}
	places[index] = store->device[device];
	store->header_generation = max(store->header_generation, le64_to_cpu(header->generation));
	return 0;
}

static int kvt_header_get(struct kvt_store *store, u32 device, struct folio **copies,
			  struct kvt_bdev *places)
{
	const struct kvt_header *header;
	int error = 0;
	u32 i;

	for (i = 0; i < KVT_HEADER_COPIES && !error; i++) {
		copies[i] = kvt_header_folio(0);
		error = copies[i] ? kvt_header_read_part(store, device, kvt_header_at[i],
							 copies[i]) : -ENOMEM;
	}
	if (!error)
		error = kvt_header_pick(store, device, folio_address(copies[0]),
					folio_address(copies[1]), &header);
	if (!error)
		error = kvt_header_join(store, device, header);
	if (!error)
		error = kvt_header_place(store, device, header, places);
	return error;
}

static int kvt_header_read_one(struct kvt_store *store, u32 device, struct kvt_bdev *places)
{
	struct folio *copies[KVT_HEADER_COPIES] = {};
	int error = kvt_header_get(store, device, copies, places);
	u32 i;

	for (i = 0; i < KVT_HEADER_COPIES; i++) {
		if (copies[i])
			folio_put(copies[i]);
	}
	return error;
}

int kvt_header_read(struct kvt_store *store)
{
	struct kvt_bdev places[KVT_STRIPE_MAX] = {};
	int error = 0;
	u32 i;

	for (i = 0; i < store->nr_devices && !error; i++)
		error = kvt_header_read_one(store, i, places);
	if (error)
		return error;
	memcpy(store->device, places, sizeof(places));
	store->marked = store->hold;
	return 0;
}
