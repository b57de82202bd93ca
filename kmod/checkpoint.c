// SPDX-License-Identifier: GPL-2.0-only
/*
 * Checkpoint, adopt, release: sealed blocks that outlive their pool, in slots that a
 * reservation of the store keeps (reserve.c).
 */
#include <linux/capability.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/uaccess.h>

#include "kvtier.h"

/* ---- checkpoint --------------------------------------------------------------- */

/*
 * The slot of a sealed block, held until kvt_reserve_drop().  From then on it is on the pool's
 * tab, so nothing takes it from the block to make room.  -EAGAIN: it is not saved.
 */
static int hold_slot(struct kvt_pool *pool, const struct kvt_block *block)
{
	int ret;

	if (test_bit(KVT_BLOCK_BAD, &block->flags))
		return -EIO;
	if (!test_bit(KVT_BLOCK_SEALED, &block->flags))
		return -EBUSY;
	if (kvt_block_unsaved(block))
		return -EAGAIN;
	ret = kvt_slot_try_share(pool->store, block->unit);
	if (ret)
		return ret;
	ret = kvt_tab_add(pool->tab, block->unit, KVT_PAY_NOTHING);
	if (ret)
		kvt_slot_put(pool->store, block->unit, kvt_units(pool));
	return ret;
}

static int collect_block(struct kvt_pool *pool, u64 nr, struct kvtier_slot *slot, u32 *unit)
{
	struct kvt_block *block = kvt_block_peek(pool, nr);
	int ret;

	if (!block)
		return -EBUSY; /* empty, so not sealed */
	if (kvt_block_lock_interruptible(block))
		return -EINTR;
	ret = hold_slot(pool, block);
	if (!ret) {
		*unit = block->unit;
		*slot = (struct kvtier_slot){
			.block = nr,
			.slot = block->unit / kvt_units(pool),
			.generation = block->generation,
			.crc32c = block->crc,
		};
	}
	kvt_block_unlock(pool, block);
	return ret;
}

#define SAVE_TRIES 8 /* until a block's slot is held before somebody else gives it up */

static int save_and_collect_block(struct kvt_pool *pool, u64 nr, struct kvtier_slot *slot,
				  u32 *unit)
{
	const struct kvt_op op = { .op = KVTIER_OP_WRITEBACK };
	u32 tries;
	int ret;

	ret = collect_block(pool, nr, slot, unit);
	for (tries = 0; ret == -EAGAIN && tries < SAVE_TRIES; tries++) {
		ret = kvt_range_run(pool, &op, nr, 1);
		if (!ret)
			ret = collect_block(pool, nr, slot, unit);
	}
	return ret == -EAGAIN ? -ENOSPC : ret;
}

/* Every block must be sealed before anything is written. */
static int check_sealed(struct kvt_pool *pool, u64 first, u64 nr)
{
	u64 i;

	for (i = first; i < first + nr; i++) {
		struct kvt_block *block = kvt_block_peek(pool, i);

		if (!block || !test_bit(KVT_BLOCK_SEALED, &block->flags))
			return block && test_bit(KVT_BLOCK_BAD, &block->flags) ? -EIO : -EBUSY;
		if (!(i % 1024)) {
			cond_resched();
			if (fatal_signal_pending(current))
				return -EINTR;
		}
	}
	return 0;
}

/* Batch by batch: a slot that is not held yet may be given up for the next block's. */
static int save_and_collect(struct kvt_pool *pool, u64 first, u64 nr, struct kvtier_slot *slots,
			    u32 *units)
{
	const struct kvt_op op = { .op = KVTIER_OP_WRITEBACK };
	u64 i;
	int ret = 0;

	for (i = 0; i < nr; i++) {
		if (!(i % KVT_BATCH))
			ret = kvt_range_run(pool, &op, first + i, min_t(u64, KVT_BATCH, nr - i));
		if (!ret)
			ret = save_and_collect_block(pool, first + i, &slots[i], &units[i]);
		if (ret)
			break;
		cond_resched();
	}
	if (ret)
		kvt_reserve_drop(pool, units, i);
	return ret;
}

static int reserve(struct kvt_pool *pool, struct kvtier_checkpoint *arg,
		   const struct kvtier_slot *slots, const u32 *units, u64 nr)
{
	int ret;

	ret = kvt_store_flush(pool->store, pool->deadline);
	if (ret)
		return ret == -ETIMEDOUT || ret == -ENOMEM ? ret : -EIO;
	memcpy(arg->store, pool->store->uuid, sizeof(arg->store));
	if (copy_to_user(u64_to_user_ptr(arg->slots), slots, nr * sizeof(*slots)))
		return -EFAULT;
	ret = kvt_reserve(pool, arg->key, units, nr);
	if (!ret)
		arg->nr = nr;
	return ret;
}

int kvt_checkpoint(struct kvt_pool *pool, struct kvtier_checkpoint *arg)
{
	u64 first = arg->offset >> pool->block_shift, nr = arg->length >> pool->block_shift;
	const gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_NOWARN; /* the caller says how much */
	struct kvtier_slot *slots;
	u32 *units;
	int ret;

	if (!(pool->flags & KVTIER_POOL_KEEP) || arg->nr < nr)
		return -EINVAL;
	ret = check_sealed(pool, first, nr);
	if (ret)
		return ret;
	slots = kvmalloc_array(nr, sizeof(*slots), gfp);
	units = kvmalloc_array(nr, sizeof(*units), gfp);
	ret = slots && units ? save_and_collect(pool, first, nr, slots, units) : -ENOMEM;
	if (!ret) {
		ret = reserve(pool, arg, slots, units, nr);
		kvt_reserve_drop(pool, units, nr);
	}
	kvfree(units);
	kvfree(slots);
	return ret;
}

/* ---- adopt ------------------------------------------------------------------------ */

static int by_block(const void *a, const void *b)
{
	const struct kvtier_slot *x = a, *y = b;

	return x->block < y->block ? -1 : x->block > y->block;
}

static int by_slot(const void *a, const void *b)
{
	const struct kvtier_slot *x = a, *y = b;

	return x->slot < y->slot ? -1 : x->slot > y->slot;
}

static int check_slots(struct kvt_pool *pool, struct kvtier_slot *slots, u32 nr)
{
	u32 i;

	for (i = 0; i < nr; i++) {
		if (slots[i].flags || slots[i].block >= pool->nr_blocks ||
		    slots[i].slot >= pool->store->nr_units / kvt_units(pool))
			return -EINVAL;
	}
	sort(slots, nr, sizeof(*slots), by_slot, NULL);
	for (i = 1; i < nr; i++) {
		if (slots[i].slot == slots[i - 1].slot && slots[i].crc32c != slots[i - 1].crc32c)
			return -EINVAL;
	}
	sort(slots, nr, sizeof(*slots), by_block, NULL);
	for (i = 1; i < nr; i++) {
		if (slots[i].block == slots[i - 1].block)
			return -EINVAL;
	}
	return 0;
}

static u32 unit_of(struct kvt_pool *pool, const struct kvtier_slot *slot)
{
	return (u32)(slot->slot * kvt_units(pool));
}

static int adopt_owned(struct kvt_pool *pool, struct kvt_block *block,
		       const struct kvtier_slot *slot)
{
	u32 unit = unit_of(pool, slot);
	int ret;

	if (kvt_block_state(block) != KVTIER_BLOCK_EMPTY)
		return -EEXIST;
	if (!kvt_tab_charge(pool, unit))
		return -ENOSPC;
	ret = kvt_slot_try_share(pool->store, unit);
	if (ret) {
		kvt_tab_settle(pool, unit);
		return ret;
	}
	kvt_set_slot(pool, slot->block, block, unit, slot->crc32c, true);
	block->generation = slot->generation;
	set_bit(KVT_BLOCK_SEALED, &block->flags);
	return 0;
}

static int adopt_one(struct kvt_pool *pool, const struct kvtier_slot *slot)
{
	struct kvt_block *block = kvt_block_get(pool, slot->block);
	int ret;

	if (!block)
		return -ENOMEM;
	if (kvt_block_lock_interruptible(block))
		return -EINTR;
	ret = adopt_owned(pool, block, slot);
	kvt_block_unlock(pool, block);
	return ret;
}

/* Or has somebody emptied it meanwhile, and perhaps put something else there? */
static bool is_as_adopted(struct kvt_pool *pool, const struct kvt_block *block,
			  const struct kvtier_slot *slot)
{
	return test_bit(KVT_BLOCK_SEALED, &block->flags) && block->unit == unit_of(pool, slot) &&
	       block->generation == slot->generation;
}

/* But for those that somebody has pinned or holds: they have been used already. */
static void abandon(struct kvt_pool *pool, const struct kvtier_slot *slots, u32 nr)
{
	struct kvt_block *block;

	while (nr) {
		block = kvt_block_peek(pool, slots[--nr].block);
		kvt_block_lock(block);
		if (is_as_adopted(pool, block, &slots[nr]))
			kvt_empty(pool, slots[nr].block, block);
		kvt_block_unlock(pool, block);
	}
}

static int adopt_slots(struct kvt_pool *pool, const struct kvtier_slot *slots, u32 nr)
{
	u32 i;
	int ret = 0;

	for (i = 0; i < nr && !ret; i++) {
		ret = adopt_one(pool, &slots[i]);
		cond_resched();
	}
	if (ret)
		abandon(pool, slots, i - 1);
	return ret;
}

/*
 * The slots are held meanwhile, so no owner of a block waits for who has the reservations.
 * On a store on hold an administrator says what is reserved.
 */
static int adopt_held(struct kvt_pool *pool, const u8 *key, const struct kvtier_slot *slots,
		      u32 nr, u32 *units)
{
	u32 dues, i;
	int ret;

	for (i = 0; i < nr; i++)
		units[i] = unit_of(pool, &slots[i]);
	ret = kvt_reserve_hold(pool, key, units, nr,
			       READ_ONCE(pool->store->hold) && capable(CAP_SYS_ADMIN), &dues);
	if (ret)
		return ret;
	ret = adopt_slots(pool, slots, nr);
	if (ret)
		kvt_reserve_undue(pool, dues);
	else
		kvt_reserve_take(pool, key, units, nr);
	kvt_reserve_drop(pool, units, nr);
	return ret;
}

static int adopt(struct kvt_pool *pool, const u8 *key, struct kvtier_slot *slots, u32 nr)
{
	u32 *units;
	int ret;

	ret = check_slots(pool, slots, nr);
	if (ret)
		return ret;
	units = kvmalloc_array(nr, sizeof(*units), GFP_KERNEL_ACCOUNT);
	if (!units)
		return -ENOMEM;
	ret = adopt_held(pool, key, slots, nr, units);
	kvfree(units);
	return ret;
}

int kvt_adopt(struct kvt_pool *pool, struct kvtier_adopt *arg)
{
	struct kvtier_slot *slots;
	int ret;

	if (!(pool->flags & KVTIER_POOL_KEEP) || arg->nr > KVTIER_ARRAY_MAX)
		return -EINVAL;
	if (memcmp(arg->store, pool->store->uuid, sizeof(arg->store)))
		return -ENODEV;
	if (!arg->nr)
		return 0;
	slots = vmemdup_user(u64_to_user_ptr(arg->slots), arg->nr * sizeof(*slots));
	if (IS_ERR(slots))
		return PTR_ERR(slots);
	ret = adopt(pool, arg->key, slots, arg->nr);
	kvfree(slots);
	return ret;
}

int kvt_release(struct kvt_pool *pool, const struct kvtier_release *arg)
{
	return pool->store ? kvt_unreserve(pool, arg->key) : -ENOENT;
}
