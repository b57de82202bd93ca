// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who pays for slots that reservations keep.  A slot is charged to a pool once: by a
 * block that has it (KVT_BLOCK_PAID), or, when no block of the pool has it any more, by
 * the pool's tab, as long as a reservation that the pool made keeps it.
 *
 * So for each slot on a tab one of the two pays.  A block that gives up its slot passes
 * the charge on to the tab, one that adopts the slot takes it back, and who removes the
 * slot from the tab gives the charge back.  A tab outlives its pool, with the
 * reservations; then nobody is charged any more.
 */
#include <linux/slab.h>

#include "store.h"

struct kvt_tab {
	struct kref ref; /* the pool's and its reservations' */
	struct kvt_pool *pool; /* NULL: gone; the lock of .slots, as the entries */
	struct xarray slots; /* kvt_slot_index(unit) -> how often it is kept * 2, + 1: it pays */
};

struct kvt_tab *kvt_tab_new(struct kvt_pool *pool)
{
	struct kvt_tab *tab = kzalloc(sizeof(*tab), GFP_KERNEL_ACCOUNT);

	if (!tab)
		return NULL;
	kref_init(&tab->ref);
	tab->pool = pool;
	xa_init(&tab->slots);
	return tab;
}

static void kvt_tab_free(struct kref *ref)
{
	struct kvt_tab *tab = container_of(ref, struct kvt_tab, ref);

	xa_destroy(&tab->slots);
	kfree(tab);
}

struct kvt_tab *kvt_tab_get(struct kvt_tab *tab)
{
	kref_get(&tab->ref);
	return tab;
}

void kvt_tab_put(struct kvt_tab *tab)
{
	kref_put(&tab->ref, kvt_tab_free);
}

void kvt_tab_close(struct kvt_tab *tab)
{
	if (!tab)
		return;
	xa_lock(&tab->slots);
	tab->pool = NULL;
	xa_unlock(&tab->slots);
	kvt_tab_put(tab);
}

static unsigned long kvt_tab_entry(struct kvt_tab *tab, u32 unit)
{
	void *entry = xa_load(&tab->slots, kvt_slot_index(unit));

	return entry ? xa_to_value(entry) : 0;
}

static int kvt_tab_set(struct kvt_tab *tab, u32 unit, unsigned long entry)
{
	return xa_err(__xa_store(&tab->slots, kvt_slot_index(unit), xa_mk_value(entry),
				 GFP_NOWAIT));
}

/* Once more; if it is new on the tab, a block pays for it, or @charge says to do so. */
static int kvt_tab_count(struct kvt_tab *tab, u32 unit, bool charge)
{
	unsigned long entry = kvt_tab_entry(tab, unit);
	bool pay = !entry && charge;
	struct kvt_share *nvme;
	int error;

	if (!tab->pool) /* not as long as one of its calls is under way */
		return -ENODEV;
	nvme = &tab->pool->share[KVTIER_TIER_NVME];
	if (pay && !kvt_charge(nvme))
		return -ENOSPC;
	error = kvt_tab_set(tab, unit, entry + 2 + pay);
	if (error && pay)
		kvt_uncharge(nvme);
	return error;
}

int kvt_tab_add(struct kvt_tab *tab, u32 unit, bool charge)
{
	unsigned long index = kvt_slot_index(unit);
	int error;

	do { /* memory for the entry first, as in kvt_slot_try_share() */
		error = xa_reserve(&tab->slots, index, GFP_KERNEL_ACCOUNT);
		if (error)
			return error;
		xa_lock(&tab->slots);
		error = kvt_tab_count(tab, unit, charge);
		xa_unlock(&tab->slots);
	} while (error == -ENOMEM);
	if (error)
		xa_release(&tab->slots, index);
	return error;
}

void kvt_tab_remove(struct kvt_tab *tab, u32 unit)
{
	unsigned long entry;

	xa_lock(&tab->slots);
	entry = kvt_tab_entry(tab, unit);
	if (entry >= 4) {
		kvt_tab_set(tab, unit, entry - 2); /* the entry is there: needs no memory */
	} else {
		__xa_erase(&tab->slots, kvt_slot_index(unit));
		if (entry & 1 && tab->pool)
			kvt_uncharge(&tab->pool->share[KVTIER_TIER_NVME]);
	}
	xa_unlock(&tab->slots);
}

/* Let the tab pay, or not; false: the slot is not on it, or that is so already. */
static bool kvt_tab_change(struct kvt_pool *pool, u32 unit, bool pay)
{
	struct kvt_tab *tab = pool->tab;
	unsigned long entry;
	bool change;

	if (!tab)
		return false;
	xa_lock(&tab->slots);
	entry = kvt_tab_entry(tab, unit);
	change = entry && (entry & 1) != pay;
	if (change)
		kvt_tab_set(tab, unit, entry ^ 1);
	xa_unlock(&tab->slots);
	return change;
}

void kvt_tab_settle(struct kvt_pool *pool, u32 unit)
{
	if (!kvt_tab_change(pool, unit, true))
		kvt_uncharge(&pool->share[KVTIER_TIER_NVME]);
}

bool kvt_tab_charge(struct kvt_pool *pool, u32 unit)
{
	return kvt_tab_change(pool, unit, false) || kvt_charge(&pool->share[KVTIER_TIER_NVME]);
}

bool kvt_tab_has(struct kvt_pool *pool, u32 unit)
{
	return pool->tab && kvt_tab_entry(pool->tab, unit);
}
