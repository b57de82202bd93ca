// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which units of a store are whose.  A bit per unit says that it is used, another
 * that a slot begins with it.  A slot has users: blocks and reservations.  Nearly
 * all have one; of the others an xarray counts the further users.  Its lock is held
 * whenever a user comes to a slot that has one, or leaves; store->lock, inside it,
 * guards the bits.
 *
 * Slots of different sizes do not share a chunk, and a chunk that is partly used is
 * filled before another of the same size is begun: claim.c counts on both.
 */
#include <linux/bitmap.h>
#include <linux/log2.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "store.h"

static u32 kvt_nr_chunks(const struct kvt_store *store)
{
	return store->nr_units / KVT_CHUNK_UNITS;
}

int kvt_slot_init(struct kvt_store *store)
{
	size_t bytes = BITS_TO_LONGS(store->nr_units) * sizeof(long);
	u32 chunks = kvt_nr_chunks(store), i;

	store->used = kvzalloc(bytes, GFP_KERNEL);
	store->first = kvzalloc(bytes, GFP_KERNEL);
	store->order = kvzalloc(chunks, GFP_KERNEL);
	store->empty = kvcalloc(BITS_TO_LONGS(chunks), sizeof(long), GFP_KERNEL);
	if (!store->used || !store->first || !store->order || !store->empty)
		return -ENOMEM; /* kvt_slot_exit() frees */
	for (i = 0; i < KVT_CHUNK_UNITS_SHIFT; i++) {
		store->partly[i] = kvcalloc(BITS_TO_LONGS(chunks), sizeof(long), GFP_KERNEL);
		if (!store->partly[i])
			return -ENOMEM;
	}
	bitmap_fill(store->empty, chunks);
	return 0;
}

void kvt_slot_exit(struct kvt_store *store)
{
	u32 i;

	for (i = 0; i < KVT_CHUNK_UNITS_SHIFT; i++)
		kvfree(store->partly[i]);
	kvfree(store->empty);
	kvfree(store->order);
	kvfree(store->used);
	kvfree(store->first);
	xa_destroy(&store->extra);
}

/* ---- chunks -------------------------------------------------------------------- */

static u32 kvt_chunk_used(const struct kvt_store *store, u32 chunk) /* bit per unit */
{
	u32 unit = chunk * KVT_CHUNK_UNITS;

	return store->used[BIT_WORD(unit)] >> (unit % BITS_PER_LONG);
}

/* It has slots of this size now, and has, or has not, room for more. */
static void kvt_chunk_note(struct kvt_store *store, u32 chunk, u32 order, bool room)
{
	if (order >= KVT_CHUNK_UNITS_SHIFT || test_bit(chunk, store->partly[order]) == room)
		return;
	__change_bit(chunk, store->partly[order]);
	store->nr_partly[order] += room ? 1 : -1;
}

static void kvt_chunk_set_order(struct kvt_store *store, u32 chunk, u32 order)
{
	if (test_and_clear_bit(chunk, store->empty)) {
		store->order[chunk] = order;
		store->chunks[order]++;
	} else if (store->order[chunk] != order && store->order[chunk] != KVT_MIXED) {
		kvt_chunk_note(store, chunk, store->order[chunk], false);
		store->chunks[store->order[chunk]]--;
		store->order[chunk] = KVT_MIXED;
		store->chunks[KVT_MIXED]++;
	}
}

static void kvt_slot_set(struct kvt_store *store, u32 unit, u32 units)
{
	u32 chunk = unit / KVT_CHUNK_UNITS;

	lockdep_assert_held(&store->lock);

	bitmap_set(store->used, unit, units);
	__set_bit(unit, store->first);
	store->nr_used += units;
	kvt_chunk_set_order(store, chunk, ilog2(units));
	kvt_chunk_note(store, chunk, store->order[chunk], ~kvt_chunk_used(store, chunk));
}

static void kvt_slot_clear(struct kvt_store *store, u32 unit, u32 units)
{
	u32 chunk = unit / KVT_CHUNK_UNITS, used;

	lockdep_assert_held(&store->lock);

	bitmap_clear(store->used, unit, units);
	__clear_bit(unit, store->first);
	store->nr_used -= units;
	used = kvt_chunk_used(store, chunk);
	kvt_chunk_note(store, chunk, store->order[chunk], used);
	if (!used) {
		set_bit(chunk, store->empty);
		store->chunks[store->order[chunk]]--;
	}
}

/* ---- a new slot ------------------------------------------------------------------ */

/* Where to look for room for a slot of this size: the bits of chunks, and the hand there. */
static unsigned long *kvt_chunk_map(struct kvt_store *store, u32 order, u32 **hand)
{
	bool partly = order < KVT_CHUNK_UNITS_SHIFT && READ_ONCE(store->nr_partly[order]);

	*hand = &store->hand[partly ? order : KVT_CHUNK_UNITS_SHIFT];
	return partly ? store->partly[order] : store->empty;
}

/* Next fit, without the lock, since a large store has many chunks; -ENOSPC. */
static s64 kvt_chunk_find(struct kvt_store *store, u32 order)
{
	u32 *hand, chunks = kvt_nr_chunks(store), chunk;
	unsigned long *map = kvt_chunk_map(store, order, &hand);

	chunk = find_next_bit(map, chunks, READ_ONCE(*hand));
	if (chunk >= chunks)
		chunk = find_first_bit(map, chunks);
	if (chunk < chunks)
		return chunk;
	return map == store->empty ? -ENOSPC : -EAGAIN;
}

/* Take the first room in a chunk; false: it is not what was looked for any more. */
static bool kvt_slot_take_in(struct kvt_store *store, u32 chunk, u32 order, u32 *unit)
{
	u32 used, at = 0, units = 1U << order, *hand;
	bool found;

	spin_lock(&store->lock);
	found = test_bit(chunk, kvt_chunk_map(store, order, &hand));
	if (found) {
		used = kvt_chunk_used(store, chunk);
		while ((u64)used >> at & ((1ULL << units) - 1))
			at += units;
		*unit = chunk * KVT_CHUNK_UNITS + at;
		kvt_slot_set(store, *unit, units);
		WRITE_ONCE(*hand, chunk);
		if (order < KVT_CHUNK_UNITS_SHIFT)
			WRITE_ONCE(store->hand[order], chunk);
	}
	spin_unlock(&store->lock);
	return found;
}

int kvt_slot_alloc(struct kvt_store *store, u32 units, u32 *unit)
{
	u32 order = ilog2(units);
	s64 chunk;

	might_sleep();
	if (READ_ONCE(store->hold))
		return -EROFS;
	do { /* others may have been faster */
		chunk = kvt_chunk_find(store, order);
		if (chunk >= 0 && kvt_slot_take_in(store, chunk, order, unit))
			return 0;
		cond_resched();
	} while (chunk != -ENOSPC);
	return -ENOSPC;
}

/* ---- users ------------------------------------------------------------------------- */

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
