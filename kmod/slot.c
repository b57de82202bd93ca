// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which units of a store are whose.  A bit per unit says that it is used, another
 * that a slot begins with it.  A slot has users: blocks and reservations.  Nearly
 * all have one; of the others an xarray counts the further users.  Its lock is held
 * whenever a user comes to a slot that has one, or leaves; store->lock, inside it,
 * guards the bits.
 */
#include <linux/bitmap.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "store.h"

#define KVT_SEARCH_UNITS (1U << 18) /* looked through without letting go of the lock */

int kvt_slot_init(struct kvt_store *store)
{
	size_t bytes = BITS_TO_LONGS(store->nr_units) * sizeof(long);

	store->used = kvzalloc(bytes, GFP_KERNEL);
	store->first = kvzalloc(bytes, GFP_KERNEL);
	return store->used && store->first ? 0 : -ENOMEM; /* kvt_slot_exit() frees */
}

void kvt_slot_exit(struct kvt_store *store)
{
	kvfree(store->used);
	kvfree(store->first);
	xa_destroy(&store->extra);
}

static void kvt_slot_set(struct kvt_store *store, u32 unit, u32 units)
{
	lockdep_assert_held(&store->lock);

	bitmap_set(store->used, unit, units);
	__set_bit(unit, store->first);
	store->nr_used += units;
}

static void kvt_slot_clear(struct kvt_store *store, u32 unit, u32 units)
{
	lockdep_assert_held(&store->lock);

	bitmap_clear(store->used, unit, units);
	__clear_bit(unit, store->first);
	store->nr_used -= units;
}

/* Take the first free and aligned units between @from and @to. */
static bool kvt_slot_search(struct kvt_store *store, u32 from, u32 to, u32 units, u32 *unit)
{
	unsigned long at;
	bool found;

	spin_lock(&store->lock);
	at = bitmap_find_next_zero_area(store->used, to, from, units, units - 1);
	found = at + units <= to;
	if (found) {
		kvt_slot_set(store, at, units);
		store->hand = at + units;
		*unit = at;
	}
	spin_unlock(&store->lock);
	return found;
}

/*
 * Next fit: all units once, from the hand on, then those of the hand's segment again.
 * The lock is let go of between segments, since a large store has many of them.
 */
int kvt_slot_alloc(struct kvt_store *store, u32 units, u32 *unit)
{
	u32 segments = DIV_ROUND_UP(store->nr_units, KVT_SEARCH_UNITS) + 1;
	u32 from = READ_ONCE(store->hand);

	might_sleep();
	if (READ_ONCE(store->hold))
		return -EROFS;
	if (store->nr_units - READ_ONCE(store->nr_used) < units)
		return -ENOSPC;
	for (; segments; segments--) {
		u32 to;

		if (from >= store->nr_units)
			from = 0;
		to = min_t(u64, store->nr_units, ALIGN_DOWN(from, KVT_SEARCH_UNITS) +
						 (u64)KVT_SEARCH_UNITS);
		if (kvt_slot_search(store, from, to, units, unit))
			return 0;
		from = to;
		cond_resched();
	}
	return -ENOSPC;
}

static unsigned long kvt_slot_extra(struct kvt_store *store, unsigned long index)
{
	void *entry = xa_load(&store->extra, index);

	return entry ? xa_to_value(entry) : 0;
}

/* Count one more user; the lock of .extra is held, and xa_reserve() was called before. */
static int kvt_slot_count(struct kvt_store *store, unsigned long index)
{
	void *count = xa_mk_value(kvt_slot_extra(store, index) + 1);

	return xa_err(__xa_store(&store->extra, index, count, GFP_NOWAIT));
}

/*
 * xa_reserve() makes the node, so that the count can be changed under the lock.  That
 * fails only if another user left in between and took the node along: then again.
 */
int kvt_slot_try_share(struct kvt_store *store, u32 unit)
{
	unsigned long index = kvt_slot_index(unit);
	int error;

	do {
		error = xa_reserve(&store->extra, index, GFP_KERNEL);
		if (error)
			return error;
		xa_lock(&store->extra);
		error = kvt_slot_count(store, index);
		xa_unlock(&store->extra);
	} while (error);
	return 0;
}

/* The same without sleeping; gives up sooner. */
int kvt_slot_share_atomic(struct kvt_store *store, u32 unit)
{
	int error;

	xa_lock(&store->extra);
	error = kvt_slot_count(store, kvt_slot_index(unit));
	xa_unlock(&store->extra);
	return error;
}

static void kvt_slot_free(struct kvt_store *store, u32 unit, u32 units)
{
	spin_lock(&store->lock);
	if (!WARN_ON_ONCE(!test_bit(unit, store->first)))
		kvt_slot_clear(store, unit, units);
	spin_unlock(&store->lock);
}

void kvt_slot_put(struct kvt_store *store, u32 unit, u32 units)
{
	unsigned long index = kvt_slot_index(unit), extra;

	xa_lock(&store->extra);
	extra = kvt_slot_extra(store, index);
	if (extra > 1) /* needs no memory: the entry is there */
		__xa_store(&store->extra, index, xa_mk_value(extra - 1), 0);
	else if (extra)
		__xa_erase(&store->extra, index);
	else
		kvt_slot_free(store, unit, units);
	xa_unlock(&store->extra);
}

bool kvt_slot_shared(struct kvt_store *store, u32 unit)
{
	return kvt_slot_extra(store, kvt_slot_index(unit));
}

/* Whether exactly these units are a slot. */
static bool kvt_slot_is(struct kvt_store *store, u32 unit, u32 units)
{
	u32 end = unit + units;

	return test_bit(unit, store->first) &&
	       find_next_bit(store->first, end, unit + 1) >= end &&
	       find_next_zero_bit(store->used, end, unit) >= end &&
	       (end == store->nr_units || !test_bit(end, store->used) ||
		test_bit(end, store->first));
}

/* 1: it was free and is the caller's now; 0: it is a slot; -EINVAL. */
static int kvt_slot_claim(struct kvt_store *store, u32 unit, u32 units)
{
	int ret = -EINVAL;

	spin_lock(&store->lock);
	if (find_next_bit(store->used, unit + units, unit) >= unit + units) {
		kvt_slot_set(store, unit, units);
		ret = 1;
	} else if (kvt_slot_is(store, unit, units)) {
		ret = 0;
	}
	spin_unlock(&store->lock);
	return ret;
}

int kvt_slot_take(struct kvt_store *store, u32 unit, u32 units)
{
	unsigned long index = kvt_slot_index(unit);
	int ret;

	if (unit % units || unit >= store->nr_units || units > store->nr_units - unit)
		return -EINVAL;
	do {
		ret = xa_reserve(&store->extra, index, GFP_KERNEL);
		if (ret)
			return ret;
		xa_lock(&store->extra);
		ret = kvt_slot_claim(store, unit, units);
		if (!ret)
			ret = kvt_slot_count(store, index);
		xa_unlock(&store->extra);
	} while (ret == -ENOMEM);
	xa_release(&store->extra, index); /* if it was not needed */
	return min(ret, 0);
}
