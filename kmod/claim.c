// SPDX-License-Identifier: GPL-2.0-only
/*
 * How much of a store is promised to whom, so that no pool is promised what another has.
 *
 * A chunk has slots of one size, and a slot that is smaller goes to a chunk with others
 * of its size as long as one has room (slot.c).  So the slots of a size never need more
 * chunks than they have already, or than all that is promised of that size would fill: what a
 * pool claims can be had, however the slots of others lie.
 *
 * Promised are the budgets of pools, and the slots that reservations keep although their
 * pool has gone.  Those are counted for the user whose pool it was.  An engine that comes
 * back makes its pool before it adopts, and the store need not have room for both: so what a
 * user's pools have left counts as room for that user's next pool.  What it takes of that
 * is due: it counts as used by the pool until the pool adopts or somebody releases it.
 */
#include <linux/cred.h>
#include <linux/slab.h>

#include "store.h"

/* What the pools of a user reserve of a store. */
struct kvt_account {
	struct list_head link; /* store->accounts; its lock, as all of the struct */
	kuid_t user;
	u32 refs; /* tabs and reservations */
	u32 nr_keys;
	u64 reserved; /* units, whether their pool is there or not */
	u64 kept[KVT_ORDERS]; /* units, by the size of slots: those whose pool has gone */
	u64 due[KVT_ORDERS]; /* units of these that pools are to adopt; at most as many */
	struct list_head debtors; /* pools with ->due */
};

/* ---- accounts ----------------------------------------------------------------- */

static struct kvt_account *kvt_account_of(struct kvt_store *store, kuid_t user)
{
	struct kvt_account *account;

	lockdep_assert_held(&store->lock);
	list_for_each_entry(account, &store->accounts, link) {
		if (uid_eq(account->user, user))
			return account;
	}
	return NULL;
}

struct kvt_account *kvt_account_get(struct kvt_store *store)
{
	struct kvt_account *fresh = kzalloc(sizeof(*fresh), GFP_KERNEL_ACCOUNT), *account;

	if (!fresh)
		return NULL;
	fresh->user = current_uid();
	INIT_LIST_HEAD(&fresh->debtors);
	spin_lock(&store->lock);
	account = kvt_account_of(store, fresh->user);
	if (!account) {
		list_add_tail(&fresh->link, &store->accounts);
		account = fresh;
		fresh = NULL;
	}
	account->refs++;
	spin_unlock(&store->lock);
	kfree(fresh);
	return account;
}

void kvt_account_put(struct kvt_store *store, struct kvt_account *account)
{
	bool last;

	spin_lock(&store->lock);
	last = !--account->refs;
	if (last)
		list_del(&account->link);
	spin_unlock(&store->lock);
	if (last)
		kfree(account);
}

/* Of what is still reserved when the store goes. */
void kvt_accounts_exit(struct kvt_store *store)
{
	struct kvt_account *account, *next;

	list_for_each_entry_safe(account, next, &store->accounts, link)
		kfree(account);
}

uid_t kvt_account_uid(const struct kvt_account *account)
{
	return from_kuid_munged(current_user_ns(), account->user);
}

void kvt_account_reserve(struct kvt_store *store, struct kvt_account *account, s32 units)
{
	spin_lock(&store->lock);
	account->reserved += units;
	spin_unlock(&store->lock);
}

bool kvt_account_is_over(struct kvt_store *store, const struct kvt_account *account)
{
	u64 most = store->nr_units * READ_ONCE(kvt_policy.max_reserved_percent) / 100;

	return READ_ONCE(account->reserved) > most;
}

bool kvt_account_add_key(struct kvt_store *store, struct kvt_account *account)
{
	bool fits;

	spin_lock(&store->lock);
	fits = account->nr_keys < READ_ONCE(kvt_policy.max_keys);
	if (fits) {
		account->nr_keys++;
		account->refs++;
	}
	spin_unlock(&store->lock);
	return fits;
}

void kvt_account_remove_key(struct kvt_store *store, struct kvt_account *account)
{
	spin_lock(&store->lock);
	account->nr_keys--;
	spin_unlock(&store->lock);
	kvt_account_put(store, account);
}

/* ---- what a user's pools have left -------------------------------------------- */

static void kvt_set_due(struct kvt_pool *pool, struct kvt_account *account, s64 more)
{
	s64 units = more * kvt_units(pool);

	lockdep_assert_held(&pool->store->lock);
	pool->due += more;
	account->due[kvt_order(pool)] += units;
	pool->store->promised[kvt_order(pool)] -= units;
	if (!pool->due)
		list_del_init(&pool->owes);
	else if (list_empty(&pool->owes))
		list_add_tail(&pool->owes, &account->debtors);
}

/* What is not there any more cannot be adopted: pools may use that much otherwise. */
static void kvt_trim_due(struct kvt_account *account, u32 order)
{
	struct kvt_pool *pool, *next;

	list_for_each_entry_safe(pool, next, &account->debtors, owes) {
		while (kvt_order(pool) == order && pool->due &&
		       account->due[order] > account->kept[order]) {
			kvt_set_due(pool, account, -1);
			kvt_uncharge(&pool->share[KVTIER_TIER_NVME]);
			wake_up(&pool->room);
		}
	}
}

void kvt_account_keep(struct kvt_store *store, struct kvt_account *account, u32 order, s64 slots)
{
	s64 units = slots * (1LL << order);

	spin_lock(&store->lock);
	account->kept[order] += units;
	store->promised[order] += units;
	store->kept += units;
	if (units < 0)
		kvt_trim_due(account, order);
	spin_unlock(&store->lock);
}

bool kvt_use_due(struct kvt_pool *pool, struct kvt_account *account)
{
	bool has;

	spin_lock(&pool->store->lock);
	has = pool->due;
	if (has)
		kvt_set_due(pool, account, -1);
	spin_unlock(&pool->store->lock);
	return has;
}

void kvt_return_due(struct kvt_pool *pool, struct kvt_account *account, u32 nr)
{
	if (!nr)
		return;
	spin_lock(&pool->store->lock);
	atomic64_add(nr, &pool->share[KVTIER_TIER_NVME].used);
	kvt_set_due(pool, account, nr);
	kvt_trim_due(account, kvt_order(pool));
	spin_unlock(&pool->store->lock);
}

/* ---- claims ---------------------------------------------------------------------- */

static u64 kvt_chunks_for(const struct kvt_store *store, u32 order)
{
	return max_t(u64, store->chunks[order],
		     DIV_ROUND_UP_ULL(store->promised[order], KVT_CHUNK_UNITS));
}

/* Units that can be promised yet, in slots of a size. */
static u64 kvt_room(const struct kvt_store *store, u32 order)
{
	u64 chunks = store->nr_units / KVT_CHUNK_UNITS, others = store->chunks[KVT_MIXED], units;
	u32 i;

	lockdep_assert_held(&store->lock);
	for (i = 0; i < KVT_ORDERS; i++)
		others += i == order ? 0 : kvt_chunks_for(store, i);
	if (others >= chunks)
		return 0;
	units = (chunks - others) * KVT_CHUNK_UNITS;
	return units > store->promised[order] ? units - store->promised[order] : 0;
}

/* Of what the user's pools have left, that which no other pool counts on. */
static u64 kvt_left_for(struct kvt_store *store, const struct kvt_account *account, u32 order)
{
	return account && account->kept[order] > account->due[order] ?
		       account->kept[order] - account->due[order] : 0;
}

u64 kvt_claimable(struct kvt_store *store, u32 order, bool keep)
{
	u64 units;

	spin_lock(&store->lock);
	units = kvt_room(store, order);
	if (keep)
		units += kvt_left_for(store, kvt_account_of(store, current_uid()), order);
	spin_unlock(&store->lock);
	return units;
}

static void kvt_add_claim(struct kvt_pool *pool, s64 blocks)
{
	pool->store->promised[kvt_order(pool)] += blocks * kvt_units(pool);
	pool->store->claimed += blocks * (s64)kvt_block_bytes(pool);
}

int kvt_claim(struct kvt_pool *pool, u64 blocks, struct kvt_account *account)
{
	struct kvt_store *store = pool->store;
	u32 order = kvt_order(pool);
	u64 room, lack;
	int error = -ENOSPC;

	spin_lock(&store->lock);
	room = kvt_room(store, order) >> order;
	lack = blocks > room ? blocks - room : 0;
	if (lack <= kvt_left_for(store, account, order) >> order) {
		kvt_add_claim(pool, blocks);
		if (lack)
			kvt_set_due(pool, account, lack);
		atomic64_add(lack, &pool->share[KVTIER_TIER_NVME].used);
		error = 0;
	}
	spin_unlock(&store->lock);
	return error;
}

int kvt_store_claim(struct kvt_pool *pool, u64 blocks)
{
	return kvt_claim(pool, blocks, NULL);
}

void kvt_store_unclaim(struct kvt_pool *pool, u64 blocks)
{
	spin_lock(&pool->store->lock);
	kvt_add_claim(pool, -(s64)blocks);
	spin_unlock(&pool->store->lock);
}

void kvt_forget_due(struct kvt_pool *pool, struct kvt_account *account)
{
	spin_lock(&pool->store->lock);
	if (pool->due)
		kvt_set_due(pool, account, -(s64)pool->due);
	spin_unlock(&pool->store->lock);
}
