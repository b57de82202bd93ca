/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Inside a store: what store.c, header.c, slot.c, claim.c, tab.c, reserve.c, io.c and
 * store_sysfs.c offer to each other.
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

/* claim.c: what is promised of a store; slots and blocks of a size are counted */
struct kvt_account;
struct kvt_account *kvt_account_get(struct kvt_store *store); /* of the current user, or NULL */
void kvt_account_put(struct kvt_store *store, struct kvt_account *account);
void kvt_accounts_exit(struct kvt_store *store);
uid_t kvt_account_uid(const struct kvt_account *account);
/* So many units more are reserved. */
void kvt_account_reserve(struct kvt_store *store, struct kvt_account *account, s32 units);
bool kvt_account_is_over(struct kvt_store *store, const struct kvt_account *account);
/* One more key, which has a reference then; false: the user has too many. */
bool kvt_account_add_key(struct kvt_store *store, struct kvt_account *account);
void kvt_account_remove_key(struct kvt_store *store, struct kvt_account *account);
/* So many reserved slots more have no pool. */
void kvt_account_keep(struct kvt_store *store, struct kvt_account *account, u32 order, s64 slots);
/* The pool adopts a slot that it was charged for when it was made; false: none is left. */
bool kvt_use_due(struct kvt_pool *pool, struct kvt_account *account);
void kvt_return_due(struct kvt_pool *pool, struct kvt_account *account, u32 nr);
void kvt_forget_due(struct kvt_pool *pool, struct kvt_account *account); /* the pool goes */
/* Units that a pool of the current user may claim; @keep: with what his pools left. */
u64 kvt_claimable(struct kvt_store *store, u32 order, bool keep);
/* So many blocks; with @account some of them may be due.  -ENOSPC. */
int kvt_claim(struct kvt_pool *pool, u64 blocks, struct kvt_account *account);

/* tab.c */
bool kvt_tab_closed(const struct kvt_tab *tab); /* its pool has gone */
struct kvt_account *kvt_tab_account(const struct kvt_tab *tab);
u32 kvt_tab_units(const struct kvt_tab *tab); /* of each of its slots */

/* reserve.c */
int kvt_reserve_init(struct kvt_store *store);
void kvt_reserve_exit(struct kvt_store *store); /* forget them; slots stay used */
void kvt_reserve_settle(struct kvt_store *store); /* before a detach: tidy the headers */
int kvt_reserve_lift_hold(struct kvt_store *store);
/* End a reservation, for an administrator. */
int kvt_reserve_end(struct kvt_store *store, const u8 *key); /* -ENOENT */
#define KVT_KEY_LINE 64 /* bytes of a line about one */
int kvt_reserve_show(struct kvt_store *store, char *buf, loff_t at, size_t bytes);

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
