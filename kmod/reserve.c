// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reservations: slots that a checkpoint's manifest names.  They are users of their
 * slots, known by a key.  They live in memory only; the headers say whether there
 * are any, and a store that is attached with that mark is on hold, because nobody
 * knows yet which of its slots a manifest somewhere still needs.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitmap.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "store.h"

void kvt_reserve_init(struct kvt_store *store)
{
	mutex_init(&store->reserve_lock);
	INIT_LIST_HEAD(&store->reservations);
}

static void kvt_reservation_free(struct kvt_reservation *reservation)
{
	xa_destroy(&reservation->slots);
	kfree(reservation);
}

void kvt_reserve_exit(struct kvt_store *store)
{
	struct kvt_reservation *reservation, *next;

	list_for_each_entry_safe(reservation, next, &store->reservations, link)
		kvt_reservation_free(reservation);
	mutex_destroy(&store->reserve_lock);
}

static struct kvt_reservation *kvt_reservation_new(struct kvt_store *store, const u8 *key)
{
	struct kvt_reservation *reservation = kzalloc(sizeof(*reservation), GFP_KERNEL_ACCOUNT);

	if (!reservation)
		return NULL;
	memcpy(reservation->key, key, sizeof(reservation->key));
	xa_init(&reservation->slots);
	list_add_tail(&reservation->link, &store->reservations);
	return reservation;
}

static struct kvt_reservation *kvt_reservation_find(struct kvt_store *store, const u8 *key)
{
	struct kvt_reservation *reservation;

	lockdep_assert_held(&store->reserve_lock);
	list_for_each_entry(reservation, &store->reservations, link) {
		if (!memcmp(reservation->key, key, sizeof(reservation->key)))
			return reservation;
	}
	return NULL;
}

static u32 kvt_shift_units(u32 shift)
{
	return 1U << (shift - KVT_UNIT_SHIFT);
}

static bool kvt_reservation_has(struct kvt_reservation *reservation, u32 unit, u32 shift)
{
	return xa_load(&reservation->slots, kvt_slot_index(unit)) == xa_mk_value(shift);
}

/* Add a slot: 1, 0 if it has it already, or a negative errno. */
static int kvt_reservation_add(struct kvt_store *store, struct kvt_reservation *reservation,
			       u32 unit, u32 shift)
{
	unsigned long index = kvt_slot_index(unit);
	int error;

	if (kvt_reservation_has(reservation, unit, shift))
		return 0;
	error = kvt_slot_take(store, unit, kvt_shift_units(shift));
	if (error)
		return error;
	error = xa_err(xa_store(&reservation->slots, index, xa_mk_value(shift),
				GFP_KERNEL_ACCOUNT));
	if (error)
		kvt_slot_put(store, unit, kvt_shift_units(shift));
	return error ?: 1;
}

static void kvt_reservation_remove(struct kvt_store *store, struct kvt_reservation *reservation,
				   u32 unit, u32 shift)
{
	xa_erase(&reservation->slots, kvt_slot_index(unit));
	kvt_slot_put(store, unit, kvt_shift_units(shift));
}

/* Add all slots or none. */
static int kvt_reservation_add_all(struct kvt_store *store, struct kvt_reservation *reservation,
				   const u32 *units, u32 nr, u32 shift)
{
	unsigned long *added = kvcalloc(BITS_TO_LONGS(nr), sizeof(long), GFP_KERNEL_ACCOUNT);
	int ret = added || !nr ? 0 : -ENOMEM;
	u32 i;

	for (i = 0; i < nr && ret >= 0; i++) {
		ret = kvt_reservation_add(store, reservation, units[i], shift);
		if (ret > 0)
			__set_bit(i, added);
		cond_resched();
	}
	if (ret < 0 && added)
		for_each_set_bit(i, added, nr)
			kvt_reservation_remove(store, reservation, units[i], shift);
	kvfree(added);
	return min(ret, 0);
}

static int kvt_reserve_mark(struct kvt_store *store, bool hold)
{
	bool reserved = hold || !list_empty(&store->reservations);

	lockdep_assert_held(&store->reserve_lock);
	return reserved == store->marked ? 0 : kvt_header_mark(store, reserved);
}

/* The mark may stay although nothing is reserved: that is safe, and is tried again. */
static void kvt_reserve_unmark(struct kvt_store *store)
{
	int error = kvt_reserve_mark(store, store->hold);

	if (error)
		pr_warn_ratelimited("store%u: still marked as reserved: cannot write its header (error %d)\n",
				    store->id, error);
}

static void kvt_reservation_drop(struct kvt_store *store, struct kvt_reservation *reservation)
{
	unsigned long index;
	void *shift;

	xa_for_each(&reservation->slots, index, shift) {
		kvt_slot_put(store, kvt_slot_unit(index), kvt_shift_units(xa_to_value(shift)));
		cond_resched();
	}
	list_del(&reservation->link);
	kvt_reservation_free(reservation);
	kvt_reserve_unmark(store);
}

/* Add to the reservation of @key, which is made if there is none. */
static int kvt_reserve_locked(struct kvt_store *store, const u8 *key, const u32 *units, u32 nr,
			      u32 shift)
{
	struct kvt_reservation *reservation = kvt_reservation_find(store, key);
	bool is_new = !reservation;
	int error;

	if (is_new)
		reservation = kvt_reservation_new(store, key);
	if (!reservation)
		return -ENOMEM;
	error = kvt_reserve_mark(store, store->hold);
	if (!error)
		error = kvt_reservation_add_all(store, reservation, units, nr, shift);
	if (error && is_new)
		kvt_reservation_drop(store, reservation);
	return error;
}

int kvt_reserve(struct kvt_store *store, u8 key[KVTIER_KEY_BYTES], const u32 *units, u32 nr,
		u32 shift)
{
	u8 wanted[KVTIER_KEY_BYTES];
	int error = -ENOENT;

	memcpy(wanted, key, sizeof(wanted));
	mutex_lock(&store->reserve_lock);
	if (!memchr_inv(key, 0, KVTIER_KEY_BYTES))
		get_random_bytes(wanted, sizeof(wanted));
	else if (!kvt_reservation_find(store, key))
		goto unlock;
	error = kvt_reserve_locked(store, wanted, units, nr, shift);
	if (!error)
		memcpy(key, wanted, sizeof(wanted));
unlock:
	mutex_unlock(&store->reserve_lock);
	return error;
}

int kvt_reserve_again(struct kvt_store *store, const u8 *key, const u32 *units, u32 nr, u32 shift)
{
	int error = -ENOENT;

	mutex_lock(&store->reserve_lock);
	if (store->hold && memchr_inv(key, 0, KVTIER_KEY_BYTES))
		error = kvt_reserve_locked(store, key, units, nr, shift);
	mutex_unlock(&store->reserve_lock);
	return error;
}

int kvt_reserved(struct kvt_store *store, const u8 *key, u32 unit, u32 shift)
{
	struct kvt_reservation *reservation;
	bool has;

	mutex_lock(&store->reserve_lock);
	reservation = kvt_reservation_find(store, key);
	has = reservation && kvt_reservation_has(reservation, unit, shift);
	mutex_unlock(&store->reserve_lock);
	return has ? 0 : -ENOENT;
}

/* No release can come between the look and the use. */
int kvt_reserve_share(struct kvt_store *store, const u8 *key, u32 unit, u32 shift)
{
	struct kvt_reservation *reservation;
	int error = -ENOENT;

	mutex_lock(&store->reserve_lock);
	reservation = kvt_reservation_find(store, key);
	if (reservation && kvt_reservation_has(reservation, unit, shift))
		error = kvt_slot_try_share(store, unit);
	mutex_unlock(&store->reserve_lock);
	return error;
}

int kvt_unreserve(struct kvt_store *store, const u8 *key)
{
	struct kvt_reservation *reservation;

	mutex_lock(&store->reserve_lock);
	reservation = kvt_reservation_find(store, key);
	if (reservation)
		kvt_reservation_drop(store, reservation);
	mutex_unlock(&store->reserve_lock);
	return reservation ? 0 : -ENOENT;
}

int kvt_reserve_lift_hold(struct kvt_store *store)
{
	int error = 0;

	mutex_lock(&store->reserve_lock);
	if (store->hold)
		error = kvt_reserve_mark(store, false);
	if (!error)
		WRITE_ONCE(store->hold, false);
	mutex_unlock(&store->reserve_lock);
	return error;
}

/* An earlier failure to write the headers may have left the mark. */
void kvt_reserve_settle(struct kvt_store *store)
{
	mutex_lock(&store->reserve_lock);
	kvt_reserve_unmark(store);
	mutex_unlock(&store->reserve_lock);
}

u32 kvt_reserve_count(struct kvt_store *store)
{
	struct list_head *link;
	u32 nr = 0;

	mutex_lock(&store->reserve_lock);
	list_for_each(link, &store->reservations)
		nr++;
	mutex_unlock(&store->reserve_lock);
	return nr;
}
