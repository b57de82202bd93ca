/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Inside a store: what store.c, header.c, slot.c, reserve.c, io.c and store_sysfs.c
 * offer to each other.
 *
 * A store is one block device or a stripe of several.  The first MiB of each device
 * holds its header; chunks of 2 MiB follow, dealt out to the devices in turn.  A
 * slot is a power of two of units of 64 KiB, aligned to its size, so it lies within
 * one chunk, hence on one device.
 */
#ifndef KVT_STORE_H
#define KVT_STORE_H

#include <linux/blk_types.h>

#include "kvtier.h"

#define KVT_CHUNK_UNITS_SHIFT 5 /* units of a chunk of the stripe */
#define KVT_CHUNK_UNITS (1U << KVT_CHUNK_UNITS_SHIFT)
#define KVT_DATA_OFFSET (1ULL << 20) /* of the first chunk on a device */
#define KVT_DEVICE_MIN (64ULL << 20)
#define KVT_UNITS_MAX (1ULL << 31) /* of a store: 128 TiB */

/*
 * Where a slot is in an xarray.  Slots of any one size are then neighbours, and
 * a node of the xarray serves 64 of them.
 */
static inline unsigned long kvt_slot_index(u32 unit)
{
	return (unsigned long)(unit % KVT_CHUNK_UNITS) << 27 | unit >> KVT_CHUNK_UNITS_SHIFT;
}

static inline u32 kvt_slot_unit(unsigned long index)
{
	return (u32)(index & ((1UL << 27) - 1)) << KVT_CHUNK_UNITS_SHIFT | index >> 27;
}

/* store.c */
int kvt_store_format(char **paths, u32 nr, bool force);
int kvt_store_attach(char **paths, u32 nr);
int kvt_store_detach(struct kvt_store *store); /* -EBUSY: pools use it */
void kvt_store_unref(struct kvt_store *store); /* may sleep */

/* header.c: @name of a device in messages is that of its bdev */
int kvt_header_format(struct kvt_store *store, bool force);
/* Check the headers, sort the devices by them, and set uuid, nr_units and hold. */
int kvt_header_read(struct kvt_store *store);
/* Make durable whether there are reservations; reserve_lock.  -ETIMEDOUT, -ENOMEM, -EIO. */
int kvt_header_mark(struct kvt_store *store, bool reserved, unsigned long deadline);

/* slot.c */
int kvt_slot_init(struct kvt_store *store);
void kvt_slot_exit(struct kvt_store *store);
/* One more user of a slot that may have none yet.  -EINVAL: it overlaps others. */
int kvt_slot_take(struct kvt_store *store, u32 unit, u32 units);

/* reserve.c */
void kvt_reserve_init(struct kvt_store *store);
void kvt_reserve_exit(struct kvt_store *store); /* forget them; slots stay used */
void kvt_reserve_settle(struct kvt_store *store); /* before a detach: tidy the headers */
int kvt_reserve_lift_hold(struct kvt_store *store);

/* io.c */
/* Learn how much a device takes at a time. */
void kvt_io_measure(struct kvt_store *store, u32 device);
/*
 * @folio, or nothing (a flush), to or from @offset of a device; waits, but not for ever
 * (-ETIMEDOUT; the device may then still use the folio, which has a reference).
 */
int kvt_io_sync(struct kvt_store *store, u32 device, blk_opf_t opf, u64 offset,
		struct folio *folio, unsigned long deadline);

/* store_sysfs.c */
int kvt_store_sysfs_init(struct class *class);
void kvt_store_sysfs_exit(void);
int kvt_store_sysfs_add(struct kvt_store *store);

#endif
