// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who pays for slots that reservations keep.  A slot is charged to a pool once: by a
 * block that has it (KVT_BLOCK_PAID), or, when no block of the pool has it any more, by
 * the pool's tab, as long as a reservation that the pool made keeps it.
 *
 * So for each slot on a tab one of the two pays.  A block that gives up its slot passes
 * the charge on to the tab, one that adopts the slot takes it back, and who removes the
 * slot from the tab gives the charge back.  A tab outlives its pool, with the
 * reservations; then its slots are kept on the account of the pool's user (claim.c), until
 * they are released, or a pool that adopts them has them on its own tab.
 */
#include <linux/slab.h>

#include "store.h"

struct kvt_tab {
	struct kref ref; /* the pool's, and one for each slot that a key has by it */
	struct kvt_store *store; /* outlives it: pool and reservations do not */
	struct kvt_account *account; /* of the pool's user; NULL: nothing is kept any more */
	u32 order; /* of a slot, in units */
	struct kvt_pool *pool; /* NULL: gone; the lock of .slots, as the next and the entries */
	u64 nr; /* of entries */
	struct xarray slots; /* kvt_slot_index(unit) -> how often it is kept * 2, + 1: it pays */
};

struct kvt_tab *kvt_tab_new(struct kvt_pool *pool)
{
	struct kvt_tab *tab = kzalloc(sizeof(*tab), GFP_KERNEL_ACCOUNT);

	if (!tab)
		return NULL;
	tab->account = kvt_account_get(pool->store);
	if (!tab->account) {
		kfree(tab);
		return NULL;
	}
	kref_init(&tab->ref);
	tab->store = pool->store;
	tab->order = kvt_order(pool);
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

/* With no pool and no slots it has nothing to do with its store any more. */
static void kvt_tab_let_go(struct kvt_tab *tab)
{
	if (tab->pool || tab->nr)
		return;
	kvt_account_put(tab->store, tab->account);
	tab->account = NULL;
}

void kvt_tab_close(struct kvt_tab *tab)
{
	xa_lock(&tab->slots);
	WRITE_ONCE(tab->pool, NULL);
	kvt_account_keep(tab->store, tab->account, tab->order, tab->nr);
	kvt_tab_let_go(tab);
	xa_unlock(&tab->slots);
}

bool kvt_tab_closed(const struct kvt_tab *tab)
{
	return !READ_ONCE(tab->pool);
}

struct kvt_account *kvt_tab_account(const struct kvt_tab *tab)
{
	return tab->account;
}

u32 kvt_tab_units(const struct kvt_tab *tab)
{
	return 1U << tab->order;
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

/* 1: by what was due of the pool, which is charged already. */
static int kvt_tab_pay(struct kvt_tab *tab, enum kvt_pay pay)
{
	if (pay == KVT_PAY_DUE && kvt_use_due(tab->pool, tab->account))
		return 1;
	return kvt_charge(&tab->pool->share[KVTIER_TIER_NVME]) ? 0 : -ENOSPC;
}

static void kvt_tab_unpay(struct kvt_tab *tab, bool due)
{
	kvt_return_due(tab->pool, tab->account, due);
	kvt_uncharge(&tab->pool->share[KVTIER_TIER_NVME]);
}

/* Once more; if it is new on the tab, a block pays for it, or @pay says how to do so. */
static int kvt_tab_count(struct kvt_tab *tab, u32 unit, enum kvt_pay pay)
{
	unsigned long entry = kvt_tab_entry(tab, unit);
	bool pays = !entry && pay;
	int error, due = 0;

	if (!tab->pool) /* not as long as one of its calls is under way */
		return -ENODEV;
	if (pays)
		due = kvt_tab_pay(tab, pay);
	if (due < 0)
		return due;
	error = kvt_tab_set(tab, unit, entry + 2 + pays);
	if (error && pays)
		kvt_tab_unpay(tab, due);
	if (!error && !entry) {
		tab->nr++;
		kvt_account_reserve(tab->store, tab->account, 1 << tab->order);
	}
	return error ?: due;
}

int kvt_tab_add(struct kvt_tab *tab, u32 unit, enum kvt_pay pay)
{
	unsigned long index = kvt_slot_index(unit);
	int ret;

	do { /* memory for the entry first, as in kvt_slot_try_share() */
		ret = xa_reserve(&tab->slots, index, GFP_KERNEL_ACCOUNT);
		if (ret)
			return ret;
		xa_lock(&tab->slots);
		ret = kvt_tab_count(tab, unit, pay);
		xa_unlock(&tab->slots);
	} while (ret == -ENOMEM);
	if (ret < 0)
		xa_release(&tab->slots, index);
	return ret;
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
		tab->nr--;
		kvt_account_reserve(tab->store, tab->account, -(1 << tab->order));
		if (!tab->pool)
			kvt_account_keep(tab->store, tab->account, tab->order, -1);
		else if (entry & 1)
			kvt_uncharge(&tab->pool->share[KVTIER_TIER_NVME]);
		kvt_tab_let_go(tab);
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
