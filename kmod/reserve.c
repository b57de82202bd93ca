// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reservations: slots that a checkpoint's manifest names.  They are users of their
 * slots, known by a key, and on the tab of the pool that made them (tab.c).  Pools that
 * add to one key have a struct each.  They live in memory only; the headers say whether
 * there are any, and a store that is attached with that mark is on hold, because nobody
 * knows yet which of its slots a manifest somewhere still needs.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitmap.h>
#include <linux/random.h>
#include <linux/sched/signal.h>
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
	list_del(&reservation->link);
	kvt_tab_put(reservation->tab);
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

static struct kvt_reservation *kvt_reservation_new(struct kvt_pool *pool, const u8 *key)
{
	struct kvt_reservation *reservation = kzalloc(sizeof(*reservation), GFP_KERNEL_ACCOUNT);

	if (!reservation)
		return NULL;
	memcpy(reservation->key, key, sizeof(reservation->key));
	reservation->tab = kvt_tab_get(pool->tab);
	xa_init(&reservation->slots);
	list_add_tail(&reservation->link, &pool->store->reservations);
	return reservation;
}

/* The key's next reservation after @from (NULL: its first), of whichever pool. */
static struct kvt_reservation *kvt_reservation_next(struct kvt_store *store, const u8 *key,
						    struct kvt_reservation *from)
{
	struct kvt_reservation *reservation;

	lockdep_assert_held(&store->reserve_lock);
	reservation = list_prepare_entry(from, &store->reservations, link);
	list_for_each_entry_continue(reservation, &store->reservations, link) {
		if (!memcmp(reservation->key, key, sizeof(reservation->key)))
			return reservation;
	}
	return NULL;
}

static struct kvt_reservation *kvt_reservation_of(struct kvt_pool *pool, const u8 *key)
{
	struct kvt_reservation *reservation = NULL;

	do
		reservation = kvt_reservation_next(pool->store, key, reservation);
	while (reservation && reservation->tab != pool->tab);
	return reservation;
}

static u32 kvt_shift_units(u32 shift)
{
	return 1U << (shift - KVT_UNIT_SHIFT);
}

static bool kvt_key_has(struct kvt_pool *pool, const u8 *key, u32 unit)
{
	void *shift = xa_mk_value(pool->block_shift);
	struct kvt_reservation *reservation = NULL;

	while ((reservation = kvt_reservation_next(pool->store, key, reservation))) {
		if (xa_load(&reservation->slots, kvt_slot_index(unit)) == shift)
			return true;
	}
	return false;
}

/* Be a user of the slot, with the tab's knowledge. */
static int kvt_reservation_hold(struct kvt_pool *pool, u32 unit, bool charge)
{
	int error = kvt_slot_take(pool->store, unit, kvt_units(pool));

	if (error)
		return error;
	error = kvt_tab_add(pool->tab, unit, charge);
	if (error)
		kvt_slot_put(pool->store, unit, kvt_units(pool));
	return error;
}

static void kvt_reservation_let_go(struct kvt_store *store, struct kvt_reservation *reservation,
				   u32 unit, u32 shift)
{
	kvt_slot_put(store, unit, kvt_shift_units(shift));
	kvt_tab_remove(reservation->tab, unit);
}

/* Add a slot: 1, 0 if the key has it already, or a negative errno. */
static int kvt_reservation_add(struct kvt_pool *pool, struct kvt_reservation *reservation,
			       u32 unit, bool charge)
{
	int error;

	if (kvt_key_has(pool, reservation->key, unit))
		return 0;
	error = kvt_reservation_hold(pool, unit, charge);
	if (error)
		return error;
	error = xa_err(xa_store(&reservation->slots, kvt_slot_index(unit),
				xa_mk_value(pool->block_shift), GFP_KERNEL_ACCOUNT));
	if (error)
		kvt_reservation_let_go(pool->store, reservation, unit, pool->block_shift);
	return error ?: 1;
}

static void kvt_reservation_remove(struct kvt_pool *pool, struct kvt_reservation *reservation,
				   u32 unit)
{
	xa_erase(&reservation->slots, kvt_slot_index(unit));
	kvt_reservation_let_go(pool->store, reservation, unit, pool->block_shift);
}

/* Add all slots or none. */
static int kvt_reservation_add_all(struct kvt_pool *pool, struct kvt_reservation *reservation,
				   const u32 *units, u32 nr, bool charge)
{
	unsigned long *added = kvcalloc(BITS_TO_LONGS(nr), sizeof(long), GFP_KERNEL_ACCOUNT);
	int ret = added || !nr ? 0 : -ENOMEM;
	u32 i;

	for (i = 0; i < nr && ret >= 0; i++) {
		ret = kvt_reservation_add(pool, reservation, units[i], charge);
		if (ret > 0)
			__set_bit(i, added);
		if (ret >= 0 && fatal_signal_pending(current))
			ret = -EINTR; /* others wait for the lock */
		cond_resched();
	}
	if (ret < 0 && added)
		for_each_set_bit(i, added, nr)
			kvt_reservation_remove(pool, reservation, units[i]);
	kvfree(added);
	return min(ret, 0);
}

/* A header that is not known to say so is written, even if it should. */
static int kvt_reserve_mark(struct kvt_store *store, bool hold, unsigned long deadline)
{
	bool reserved = hold || !list_empty(&store->reservations);

	lockdep_assert_held(&store->reserve_lock);
	if (reserved == store->marked && !store->mark_unsure)
		return 0;
	return kvt_header_mark(store, reserved, deadline);
}

/* The mark may stay although nothing is reserved: that is safe, and is tried again. */
static void kvt_reserve_unmark(struct kvt_store *store, unsigned long deadline)
{
	int error = kvt_reserve_mark(store, store->hold, deadline);

	if (error)
		pr_warn_ratelimited("store%u: still marked as reserved: cannot write its header (error %d)\n",
				    store->id, error);
}

static void kvt_reservation_drop(struct kvt_store *store, struct kvt_reservation *reservation)
{
	unsigned long index;
	void *shift;

	xa_for_each(&reservation->slots, index, shift) {
		kvt_reservation_let_go(store, reservation, kvt_slot_unit(index),
				       xa_to_value(shift));
		cond_resched();
	}
	kvt_reservation_free(reservation);
}

/* How long a header may take: the pool's deadline, but never so short that it fails often. */
static unsigned long kvt_reserve_deadline(const struct kvt_pool *pool)
{
	return clamp(pool->deadline, (unsigned long)HZ, msecs_to_jiffies(KVTIER_DEADLINE_MS));
}

/* Add to what the pool reserved under the key, the first time if need be. */
static int kvt_reserve_locked(struct kvt_pool *pool, const u8 *key, const u32 *units, u32 nr,
			      bool charge)
{
	struct kvt_reservation *reservation = kvt_reservation_of(pool, key);
	struct kvt_store *store = pool->store;
	bool new_key = !kvt_reservation_next(store, key, NULL), is_new = !reservation;
	int error;

	if (is_new)
		reservation = kvt_reservation_new(pool, key);
	if (!reservation)
		return -ENOMEM;
	error = kvt_reserve_mark(store, store->hold, kvt_reserve_deadline(pool));
	if (!error)
		error = kvt_reservation_add_all(pool, reservation, units, nr, charge);
	if (error && is_new) {
		kvt_reservation_drop(store, reservation);
		kvt_reserve_unmark(store, kvt_reserve_deadline(pool));
	} else if (!error && new_key) {
		WRITE_ONCE(store->nr_keys, store->nr_keys + 1);
	}
	return error;
}

int kvt_reserve(struct kvt_pool *pool, u8 key[KVTIER_KEY_BYTES], const u32 *units, u32 nr)
{
	struct kvt_store *store = pool->store;
	u8 wanted[KVTIER_KEY_BYTES];
	int error = -ENOENT;

	memcpy(wanted, key, sizeof(wanted));
	if (mutex_lock_killable(&store->reserve_lock))
		return -EINTR;
	if (!memchr_inv(key, 0, KVTIER_KEY_BYTES))
		get_random_bytes(wanted, sizeof(wanted));
	else if (!kvt_reservation_next(store, key, NULL))
		goto unlock;
	error = kvt_reserve_locked(pool, wanted, units, nr, false);
	if (!error)
		memcpy(key, wanted, sizeof(wanted));
unlock:
	mutex_unlock(&store->reserve_lock);
	return error;
}

int kvt_reserve_again(struct kvt_pool *pool, const u8 *key, const u32 *units, u32 nr)
{
	struct kvt_store *store = pool->store;
	int error = -ENOENT;

	if (mutex_lock_killable(&store->reserve_lock))
		return -EINTR;
	if (store->hold && memchr_inv(key, 0, KVTIER_KEY_BYTES))
		error = kvt_reserve_locked(pool, key, units, nr, true);
	mutex_unlock(&store->reserve_lock);
	return error;
}

int kvt_reserved(struct kvt_pool *pool, const u8 *key, u32 unit)
{
	bool has;

	if (mutex_lock_killable(&pool->store->reserve_lock))
		return -EINTR;
	has = kvt_key_has(pool, key, unit);
	mutex_unlock(&pool->store->reserve_lock);
	return has ? 0 : -ENOENT;
}

/* No release can come between the look and the use. */
int kvt_reserve_share(struct kvt_pool *pool, const u8 *key, u32 unit)
{
	int error = -ENOENT;

	if (mutex_lock_killable(&pool->store->reserve_lock))
		return -EINTR;
	if (kvt_key_has(pool, key, unit))
		error = kvt_slot_try_share(pool->store, unit);
	mutex_unlock(&pool->store->reserve_lock);
	return error;
}

int kvt_unreserve(struct kvt_pool *pool, const u8 *key)
{
	struct kvt_store *store = pool->store;
	struct kvt_reservation *reservation;
	int error = -ENOENT;

	if (mutex_lock_killable(&store->reserve_lock))
		return -EINTR;
	while ((reservation = kvt_reservation_next(store, key, NULL))) {
		kvt_reservation_drop(store, reservation);
		error = 0;
	}
	if (!error) {
		WRITE_ONCE(store->nr_keys, store->nr_keys - 1);
		kvt_reserve_unmark(store, kvt_reserve_deadline(pool));
	}
	mutex_unlock(&store->reserve_lock);
	return error;
}

int kvt_reserve_lift_hold(struct kvt_store *store)
{
	int error = 0;

	if (mutex_lock_killable(&store->reserve_lock))
		return -EINTR;
	if (store->hold)
		error = kvt_reserve_mark(store, false, msecs_to_jiffies(KVTIER_DEADLINE_MS));
	if (!error)
		WRITE_ONCE(store->hold, false);
	mutex_unlock(&store->reserve_lock);
	return error;
}

/* An earlier failure to write the headers may have left the mark. */
void kvt_reserve_settle(struct kvt_store *store)
{
	mutex_lock(&store->reserve_lock);
	kvt_reserve_unmark(store, msecs_to_jiffies(KVTIER_DEADLINE_MS));
	mutex_unlock(&store->reserve_lock);
}
