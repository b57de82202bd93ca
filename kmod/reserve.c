// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reservations: slots that a checkpoint's manifest names.  They are users of their
 * slots, known by a key, and on the tab of the pool that made them (tab.c).  Several pools
 * may add to one key.  They live in memory only; the headers say whether there are any,
 * and a store that is attached with that mark is on hold, because nobody knows yet which
 * of its slots a manifest somewhere still needs.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitmap.h>
#include <linux/random.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "store.h"

#define KVT_KEY_HEADS 4096 /* lists of keys */

struct kvt_reservation {
	struct hlist_node node; /* in store->keys */
	struct list_head link; /* store->reservations */
	u8 key[KVTIER_KEY_BYTES];
	struct kvt_account *account; /* of who made the key */
	u64 nr_units;
	struct xarray slots; /* kvt_slot_index(unit) -> the tab that it is on, with a reference */
};

int kvt_reserve_init(struct kvt_store *store)
{
	store->keys = kvcalloc(KVT_KEY_HEADS, sizeof(*store->keys), GFP_KERNEL);
	if (!store->keys)
		return -ENOMEM;
	mutex_init(&store->reserve_lock);
	INIT_LIST_HEAD(&store->reservations);
	return 0;
}

static void kvt_reservation_free(struct kvt_reservation *reservation)
{
	hlist_del(&reservation->node);
	list_del(&reservation->link);
	xa_destroy(&reservation->slots);
	kfree(reservation);
}

void kvt_reserve_exit(struct kvt_store *store)
{
	struct kvt_reservation *reservation, *next;
	struct kvt_tab *tab;
	unsigned long index;

	list_for_each_entry_safe(reservation, next, &store->reservations, link) {
		xa_for_each(&reservation->slots, index, tab)
			kvt_tab_put(tab);
		kvt_reservation_free(reservation);
	}
	kvfree(store->keys);
	mutex_destroy(&store->reserve_lock);
}

/* Keys are random. */
static struct hlist_head *kvt_key_head(struct kvt_store *store, const u8 *key)
{
	return &store->keys[(key[0] | key[1] << 8) % KVT_KEY_HEADS];
}

static struct kvt_reservation *kvt_reservation_of(struct kvt_store *store, const u8 *key)
{
	struct kvt_reservation *reservation;

	lockdep_assert_held(&store->reserve_lock);
	hlist_for_each_entry(reservation, kvt_key_head(store, key), node) {
		if (!memcmp(reservation->key, key, sizeof(reservation->key)))
			return reservation;
	}
	return NULL;
}

/* ERR_PTR(-ENOMEM, -ENOSPC: the user has too many). */
static struct kvt_reservation *kvt_reservation_new(struct kvt_pool *pool, const u8 *key)
{
	struct kvt_account *account = kvt_tab_account(pool->tab);
	struct kvt_reservation *reservation = kzalloc(sizeof(*reservation), GFP_KERNEL_ACCOUNT);
	struct kvt_store *store = pool->store;

	if (!reservation)
		return ERR_PTR(-ENOMEM);
	if (!kvt_account_add_key(store, account)) {
		kfree(reservation);
		return ERR_PTR(-ENOSPC);
	}
	memcpy(reservation->key, key, sizeof(reservation->key));
	reservation->account = account;
	xa_init(&reservation->slots);
	hlist_add_head(&reservation->node, kvt_key_head(store, key));
	list_add_tail(&reservation->link, &store->reservations);
	WRITE_ONCE(store->nr_keys, store->nr_keys + 1);
	return reservation;
}

/* ---- its slots ------------------------------------------------------------------ */

static struct kvt_tab *kvt_reservation_tab(struct kvt_reservation *reservation, u32 unit)
{
	return xa_load(&reservation->slots, kvt_slot_index(unit));
}

static bool kvt_reservation_has(struct kvt_pool *pool, struct kvt_reservation *reservation,
				u32 unit)
{
	struct kvt_tab *tab = kvt_reservation_tab(reservation, unit);

	return tab && kvt_tab_units(tab) == kvt_units(pool);
}

/* Be a user of the slot, with the tab's knowledge: 1: it was due. */
static int kvt_reservation_hold(struct kvt_pool *pool, u32 unit, enum kvt_pay pay)
{
	int ret = kvt_slot_take(pool->store, unit, kvt_units(pool));

	if (ret)
		return ret;
	ret = kvt_tab_add(pool->tab, unit, pay);
	if (ret < 0)
		kvt_slot_put(pool->store, unit, kvt_units(pool));
	return ret;
}

static int kvt_reservation_set(struct kvt_pool *pool, struct kvt_reservation *reservation, u32 unit)
{
	int error = xa_err(xa_store(&reservation->slots, kvt_slot_index(unit),
				    kvt_tab_get(pool->tab), GFP_KERNEL_ACCOUNT));

	if (error)
		kvt_tab_put(pool->tab);
	return error;
}

/* Put a slot on the pool's tab instead of that of a pool that has gone. */
static void kvt_reservation_take(struct kvt_pool *pool, struct kvt_reservation *reservation,
				 u32 unit, enum kvt_pay pay)
{
	struct kvt_tab *from = kvt_reservation_tab(reservation, unit);

	if (!kvt_tab_closed(from) || kvt_tab_add(pool->tab, unit, pay))
		return;
	kvt_reservation_set(pool, reservation, unit); /* needs no memory: the entry is there */
	kvt_tab_remove(from, unit);
	kvt_tab_put(from);
}

static void kvt_reservation_remove(struct kvt_store *store, struct kvt_reservation *reservation,
				   u32 unit)
{
	struct kvt_tab *tab = xa_erase(&reservation->slots, kvt_slot_index(unit));

	reservation->nr_units -= kvt_tab_units(tab);
	kvt_slot_put(store, unit, kvt_tab_units(tab));
	kvt_tab_remove(tab, unit);
	kvt_tab_put(tab);
}

/* Add a slot: 1, 0 if the key has it already, or a negative errno. */
static int kvt_reservation_add(struct kvt_pool *pool, struct kvt_reservation *reservation,
			       u32 unit, enum kvt_pay pay)
{
	int ret;

	if (kvt_reservation_has(pool, reservation, unit)) {
		kvt_reservation_take(pool, reservation, unit, pay);
		return 0;
	}
	ret = kvt_reservation_hold(pool, unit, pay);
	if (ret < 0)
		return ret;
	ret = kvt_reservation_set(pool, reservation, unit);
	if (ret) {
		kvt_slot_put(pool->store, unit, kvt_units(pool));
		kvt_tab_remove(pool->tab, unit);
		return ret;
	}
	reservation->nr_units += kvt_units(pool);
	return 1;
}

/* Add all slots or none. */
static int kvt_reservation_add_all(struct kvt_pool *pool, struct kvt_reservation *reservation,
				   const u32 *units, u32 nr, enum kvt_pay pay)
{
	unsigned long *added = kvcalloc(BITS_TO_LONGS(nr), sizeof(long), GFP_KERNEL_ACCOUNT);
	int ret = added || !nr ? 0 : -ENOMEM;
	u32 i;

	for (i = 0; i < nr && ret >= 0; i++) {
		ret = kvt_reservation_add(pool, reservation, units[i], pay);
		if (ret > 0)
			__set_bit(i, added);
		if (ret >= 0 && fatal_signal_pending(current))
			ret = -EINTR; /* others wait for the lock */
		cond_resched();
	}
	if (ret < 0 && added)
		for_each_set_bit(i, added, nr)
			kvt_reservation_remove(pool->store, reservation, units[i]);
	kvfree(added);
	return min(ret, 0);
}

/* ---- the mark on the devices ------------------------------------------------------ */

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

/* ---- keys --------------------------------------------------------------------------- */

static void kvt_reservation_drop(struct kvt_store *store, struct kvt_reservation *reservation)
{
	struct kvt_account *account = reservation->account;
	unsigned long index;
	struct kvt_tab *tab;

	xa_for_each(&reservation->slots, index, tab) {
		kvt_reservation_remove(store, reservation, kvt_slot_unit(index));
		cond_resched();
	}
	kvt_reservation_free(reservation);
	kvt_account_remove_key(store, account);
	WRITE_ONCE(store->nr_keys, store->nr_keys - 1);
}

/* How long a header may take: the pool's deadline, but never so short that it fails often. */
static unsigned long kvt_reserve_deadline(const struct kvt_pool *pool)
{
	return clamp(pool->deadline, (unsigned long)HZ, msecs_to_jiffies(KVTIER_DEADLINE_MS));
}

/* Add to what is reserved under the key, the first time if need be. */
static int kvt_reserve_locked(struct kvt_pool *pool, const u8 *key, const u32 *units, u32 nr,
			      enum kvt_pay pay)
{
	struct kvt_store *store = pool->store;
	struct kvt_reservation *reservation = kvt_reservation_of(store, key);
	bool is_new = !reservation;
	int error;

	if (is_new)
		reservation = kvt_reservation_new(pool, key);
	if (IS_ERR(reservation))
		return PTR_ERR(reservation);
	error = kvt_reserve_mark(store, store->hold, kvt_reserve_deadline(pool));
	if (!error)
		error = kvt_reservation_add_all(pool, reservation, units, nr, pay);
	if (error && is_new) {
		kvt_reservation_drop(store, reservation);
		kvt_reserve_unmark(store, kvt_reserve_deadline(pool));
	}
	return error;
}

int kvt_reserve(struct kvt_pool *pool, u8 key[KVTIER_KEY_BYTES], const u32 *units, u32 nr)
{
	struct kvt_store *store = pool->store;
	u8 wanted[KVTIER_KEY_BYTES];
	int error = -ENOENT;

	if (kvt_account_is_over(store, kvt_tab_account(pool->tab)))
		return -ENOSPC;
	memcpy(wanted, key, sizeof(wanted));
	if (mutex_lock_killable(&store->reserve_lock))
		return -EINTR;
	if (!memchr_inv(key, 0, KVTIER_KEY_BYTES))
		get_random_bytes(wanted, sizeof(wanted));
	else if (!kvt_reservation_of(store, key))
		goto unlock;
	error = kvt_reserve_locked(pool, wanted, units, nr, KVT_PAY_NOTHING);
	if (!error)
		memcpy(key, wanted, sizeof(wanted));
unlock:
	mutex_unlock(&store->reserve_lock);
	return error;
}

/* ---- adopting ------------------------------------------------------------------------ */

static int kvt_reserve_has_all(struct kvt_pool *pool, const u8 *key, const u32 *units, u32 nr)
{
	struct kvt_reservation *reservation = kvt_reservation_of(pool->store, key);
	u32 i;

	for (i = 0; i < nr; i++) {
		if (!reservation || !kvt_reservation_has(pool, reservation, units[i]))
			return -ENOENT;
		if (!(i % 1024)) {
			cond_resched();
			if (fatal_signal_pending(current))
				return -EINTR;
		}
	}
	return 0;
}

/* What the user's own pools have left may be due of this one. */
static enum kvt_pay kvt_pay_for(struct kvt_pool *pool, struct kvt_reservation *reservation,
				u32 unit)
{
	struct kvt_tab *tab = kvt_reservation_tab(reservation, unit);

	return kvt_tab_closed(tab) && kvt_tab_account(tab) == kvt_tab_account(pool->tab) ?
		       KVT_PAY_DUE : KVT_PAY;
}

void kvt_reserve_undue(struct kvt_pool *pool, u32 dues)
{
	kvt_return_due(pool, kvt_tab_account(pool->tab), dues);
}

static int kvt_reserve_hold_all(struct kvt_pool *pool, struct kvt_reservation *reservation,
				const u32 *units, u32 nr, u32 *dues)
{
	int ret = 0;
	u32 i;

	for (i = 0; i < nr && ret >= 0; i++) {
		ret = fatal_signal_pending(current) ? -EINTR :
		      kvt_reservation_hold(pool, units[i],
					   kvt_pay_for(pool, reservation, units[i]));
		if (ret > 0)
			++*dues;
		cond_resched();
	}
	if (ret < 0) {
		kvt_reserve_undue(pool, *dues);
		kvt_reserve_drop(pool, units, i - 1);
	}
	return min(ret, 0);
}

/* No release can come between the look and the use. */
int kvt_reserve_hold(struct kvt_pool *pool, const u8 *key, const u32 *units, u32 nr, bool again,
		     u32 *dues)
{
	struct kvt_store *store = pool->store;
	int error;

	*dues = 0;
	if (mutex_lock_killable(&store->reserve_lock))
		return -EINTR;
	error = kvt_reserve_has_all(pool, key, units, nr);
	if (error == -ENOENT && again && store->hold && memchr_inv(key, 0, KVTIER_KEY_BYTES))
		error = kvt_reserve_locked(pool, key, units, nr, KVT_PAY);
	if (!error)
		error = kvt_reserve_hold_all(pool, kvt_reservation_of(store, key), units, nr, dues);
	mutex_unlock(&store->reserve_lock);
	return error;
}

void kvt_reserve_drop(struct kvt_pool *pool, const u32 *units, u32 nr)
{
	while (nr) {
		kvt_slot_put(pool->store, units[--nr], kvt_units(pool));
		kvt_tab_remove(pool->tab, units[nr]);
	}
}

void kvt_reserve_take(struct kvt_pool *pool, const u8 *key, const u32 *units, u32 nr)
{
	struct kvt_store *store = pool->store;
	struct kvt_reservation *reservation;
	u32 i;

	if (mutex_lock_killable(&store->reserve_lock))
		return; /* then the slots are on two tabs, until the key is released */
	reservation = kvt_reservation_of(store, key);
	for (i = 0; i < nr && reservation; i++) {
		if (kvt_reservation_has(pool, reservation, units[i]))
			kvt_reservation_take(pool, reservation, units[i], KVT_PAY_NOTHING);
		cond_resched();
	}
	mutex_unlock(&store->reserve_lock);
}

/* ---- the end of one ------------------------------------------------------------------- */

static int kvt_reserve_end_locked(struct kvt_store *store, const u8 *key, unsigned long deadline)
{
	struct kvt_reservation *reservation = kvt_reservation_of(store, key);

	if (!reservation)
		return -ENOENT;
	kvt_reservation_drop(store, reservation);
	kvt_reserve_unmark(store, deadline);
	return 0;
}

int kvt_unreserve(struct kvt_pool *pool, const u8 *key)
{
	struct kvt_store *store = pool->store;
	int error;

	if (mutex_lock_killable(&store->reserve_lock))
		return -EINTR;
	error = kvt_reserve_end_locked(store, key, kvt_reserve_deadline(pool));
	mutex_unlock(&store->reserve_lock);
	return error;
}

int kvt_reserve_end(struct kvt_store *store, const u8 *key)
{
	int error;

	if (mutex_lock_killable(&store->reserve_lock))
		return -EINTR;
	error = kvt_reserve_end_locked(store, key, msecs_to_jiffies(KVTIER_DEADLINE_MS));
	mutex_unlock(&store->reserve_lock);
	return error;
}

/* ---- what there is ---------------------------------------------------------------------- */

/* Exactly KVT_KEY_LINE bytes, so that a place in the file is one in the list. */
static void kvt_reservation_line(const struct kvt_reservation *reservation,
				 char line[KVT_KEY_LINE + 1])
{
	snprintf(line, KVT_KEY_LINE + 1, "%*phN %10u %19llu\n", KVTIER_KEY_BYTES, reservation->key,
		 kvt_account_uid(reservation->account), reservation->nr_units << KVT_UNIT_SHIFT);
}

int kvt_reserve_show(struct kvt_store *store, char *buf, loff_t at, size_t bytes)
{
	struct kvt_reservation *reservation;
	char line[KVT_KEY_LINE + 1];
	size_t done = 0, part;
	loff_t begin = 0;

	if (mutex_lock_killable(&store->reserve_lock))
		return -EINTR;
	list_for_each_entry(reservation, &store->reservations, link) {
		begin += KVT_KEY_LINE;
		if (begin <= at + (loff_t)done)
			continue;
		kvt_reservation_line(reservation, line);
		part = min_t(size_t, begin - (at + done), bytes - done);
		memcpy(buf + done, line + KVT_KEY_LINE - (begin - (at + done)), part);
		done += part;
		if (done == bytes)
			break;
	}
	mutex_unlock(&store->reserve_lock);
	return done;
}

/* ---- the store's hold --------------------------------------------------------------------- */

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
