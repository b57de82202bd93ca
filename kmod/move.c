// SPDX-License-Identifier: GPL-2.0-only
/*
 * The steps of a block's life.  Each needs the block's owner and leaves the block in
 * one of the states of <linux/kvtier.h>, whether it succeeds or fails.
 *
 *   fetch    slot (or zeroes) -> frame
 *   save     frame -> slot, staying resident
 *   drop     give the frame back; its slot has the content
 *   migrate  frame -> frame of another node or tier
 *   unshare  a frame of its own for a block that shares one
 *
 * Transfers with a store have a start and a finish, so that many can be under way.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/crc32c.h>
#include <linux/highmem.h>
#include <linux/pagemap.h>
#include <linux/slab.h>

#include "kvtier.h"
#include "trace.h"

/* CRC32C of a block as <linux/kvtier.h> defines it. */
static u32 folio_crc(struct kvt_pool *pool, struct folio *folio)
{
	u32 crc = ~0U, i;

	for (i = 0; i < 1U << pool->order; i++) {
		void *page = kmap_local_page(folio_page(folio, i));

		crc = crc32c(crc, page, PAGE_SIZE);
		kunmap_local(page);
		if (!(i % 64))
			cond_resched();
	}
	return ~crc;
}

void kvt_set_dirty(struct kvt_block *block)
{
	if (!test_and_set_bit(KVT_BLOCK_DIRTY, &block->flags))
		block->generation++;
}

void kvt_set_bad(struct kvt_pool *pool, u64 nr, struct kvt_block *block, int error)
{
	if (test_and_set_bit(KVT_BLOCK_BAD, &block->flags))
		return;
	block->error = error;
	kvt_count(pool, KVT_BAD_BLOCKS);
	kvt_event(pool, KVTIER_EVENT_BAD_BLOCK, error, nr, 1, block->generation);
}

/* Give back a slot that a block of this pool had or was to have. */
void kvt_put_unit(struct kvt_pool *pool, u32 unit)
{
	kvt_slot_put(pool->store, unit, kvt_units(pool));
	kvt_uncharge(&pool->share[KVTIER_TIER_NVME]);
}

/*
 * A slot is charged to the pool once, by one of the clones that have it.  If that one
 * gives it up, another pays; true: there is none.
 */
static bool stop_paying(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	struct kvt_block *other;
	u32 at;

	lockdep_assert_held(&pool->lru_lock);
	if (!test_and_clear_bit(KVT_BLOCK_PAID, &block->flags))
		return false;
	for (at = block->next; at != nr; at = other->next) {
		other = kvt_block_peek(pool, at);
		if (other->unit == block->unit) {
			set_bit(KVT_BLOCK_PAID, &other->flags);
			return false;
		}
	}
	return true;
}

/* Exchange the block's slot; returns the old one, and whether it was paid for. */
static u32 change_slot(struct kvt_pool *pool, u64 nr, struct kvt_block *block, u32 unit, u32 crc,
		       bool pay, bool *paid)
{
	u32 old;

	spin_lock(&pool->lru_lock);
	*paid = stop_paying(pool, nr, block);
	old = block->unit;
	kvt_count_saved(pool, block, -1);
	block->unit = unit;
	kvt_count_saved(pool, block, 1);
	block->crc = crc;
	if (pay)
		set_bit(KVT_BLOCK_PAID, &block->flags);
	spin_unlock(&pool->lru_lock);
	return old;
}

void kvt_set_slot(struct kvt_pool *pool, u64 nr, struct kvt_block *block, u32 unit, u32 crc,
		  bool pay)
{
	bool paid;
	u32 old = change_slot(pool, nr, block, unit, crc, pay, &paid);

	if (old != KVT_NO_UNIT)
		kvt_slot_put(pool->store, old, kvt_units(pool));
	if (paid)
		kvt_tab_settle(pool, old);
}

void kvt_put_slot(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	if (block->unit != KVT_NO_UNIT)
		kvt_set_slot(pool, nr, block, KVT_NO_UNIT, 0, false);
}

/* ---- fetch ------------------------------------------------------------------- */

static void fetched(struct kvt_pool *pool, struct kvt_move *move)
{
	move->block->error = 0;
	kvt_frame_attach(pool, move->nr, move->block, move->frame);
	move->frame = NULL;
}

int kvt_fetch_start(struct kvt_pool *pool, struct kvt_move *move)
{
	struct kvt_block *block = move->block;

	if (kvt_frame_borrow(pool, move->nr, block)) {
		kvt_frame_put(pool, move->frame);
		move->frame = NULL;
		return 0;
	}
	if (block->unit == KVT_NO_UNIT) {
		kvt_frame_zero(pool, move->frame);
		kvt_set_dirty(block);
		fetched(pool, move);
		return 0;
	}
	set_bit(KVT_BLOCK_MOVING, &block->flags);
	move->io = kvt_io_start(pool, move->nr, block->unit, move->frame->folio, KVT_IO_READ);
	if (move->io)
		return 0;
	kvt_frame_put(pool, move->frame);
	move->frame = NULL;
	return -ENOMEM;
}

static int verify(struct kvt_pool *pool, struct kvt_move *move)
{
	if (folio_crc(pool, move->frame->folio) == move->block->crc)
		return 0;
	kvt_count(pool, KVT_CRC_ERRORS);
	atomic64_inc(&pool->io[KVTIER_TIER_NVME].io_errors);
	pr_err_ratelimited("pool%u: block %llu is not what was written to store%u (checksum)\n",
			   pool->id, move->nr, pool->store->id);
	return -EILSEQ;
}

int kvt_fetch_finish(struct kvt_pool *pool, struct kvt_move *move)
{
	struct kvt_block *block = move->block;
	int ret;

	if (!move->io)
		return 0; /* it was empty, or a clone had it */
	ret = kvt_io_finish(move->io, move->frame, false);
	move->io = NULL;
	if (ret == -ETIMEDOUT)
		move->frame = NULL; /* until the device is done with it */
	if (!ret)
		ret = verify(pool, move);
	trace_kvtier_promote(pool->id, move->nr, ret);
	if (!ret) {
		atomic64_add(kvt_block_bytes(pool), &pool->io[move->frame->tier].bytes_in);
		kvt_count(pool, KVT_PROMOTED);
		fetched(pool, move);
		return 0;
	}
	kvt_set_bad(pool, move->nr, block, ret);
	if (move->frame)
		kvt_frame_put(pool, move->frame);
	move->frame = NULL;
	return ret == -ETIMEDOUT ? ret : -EIO;
}

int kvt_fetch(struct kvt_pool *pool, u64 nr, struct kvt_block *block, enum kvtier_tier tier)
{
	struct kvt_move move = { .nr = nr, .block = block };
	int ret;

	if (kvt_frame_borrow(pool, nr, block))
		return 0;
	if (tier != KVTIER_TIER_NONE && !READ_ONCE(pool->share[tier].budget))
		return -ENODEV;
	move.frame = kvt_frame_soon(pool, tier);
	if (!move.frame)
		return -EAGAIN;
	ret = kvt_fetch_start(pool, &move);
	return ret ? ret : kvt_fetch_finish(pool, &move);
}

/* ---- save ---------------------------------------------------------------------- */

/* A clone may be in a slot already: have that too. */
static bool borrow_slot(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	struct kvt_block *other;
	u32 at, old = block->unit;
	bool done = false, paid = false;

	if (!kvt_has_clones(nr, block))
		return false;
	spin_lock(&pool->lru_lock); /* nobody leaves the ring or gives up a slot meanwhile */
	for (at = block->next; !done && at != nr; at = other->next) {
		other = kvt_block_peek(pool, at);
		if (other->unit == KVT_NO_UNIT || other->unit == old ||
		    test_bit(KVT_BLOCK_DIRTY, &other->flags) ||
		    test_bit(KVT_BLOCK_BAD, &other->flags) || /* its slot may be the reason */
		    kvt_slot_share_atomic(pool->store, other->unit))
			continue;
		paid = stop_paying(pool, nr, block);
		kvt_count_saved(pool, block, -1);
		block->unit = other->unit;
		kvt_count_saved(pool, block, 1);
		block->crc = other->crc;
		clear_bit(KVT_BLOCK_DIRTY, &block->flags);
		done = true;
	}
	spin_unlock(&pool->lru_lock);
	if (done && old != KVT_NO_UNIT)
		kvt_slot_put(pool->store, old, kvt_units(pool));
	if (paid)
		kvt_tab_settle(pool, old);
	return done;
}

/* The slot to write to: its own if nothing else needs what is there, else a new one. */
static int take_unit(struct kvt_pool *pool, struct kvt_move *move)
{
	struct kvt_block *block = move->block;
	int ret;

	if (block->unit != KVT_NO_UNIT && !kvt_slot_shared(pool->store, block->unit)) {
		move->unit = block->unit;
		return 0;
	}
	while (!kvt_charge(&pool->share[KVTIER_TIER_NVME])) {
		if (!kvt_reclaim_slot(pool))
			return -ENOSPC;
	}
	do /* in a store that is fragmented, the pool's own slots are of the right size */
		ret = kvt_slot_alloc(pool->store, kvt_units(pool), &move->unit);
	while (ret == -ENOSPC && kvt_reclaim_slot(pool));
	if (!ret)
		return 0;
	kvt_uncharge(&pool->share[KVTIER_TIER_NVME]);
	kvt_count(pool, KVT_ENOSPC);
	return -ENOSPC;
}

static void untake_unit(struct kvt_pool *pool, struct kvt_move *move)
{
	if (move->unit != move->block->unit)
		kvt_put_unit(pool, move->unit);
}

static int write_start(struct kvt_pool *pool, struct kvt_move *move, bool background)
{
	int ret;

	if (kvt_frame_poisoned(move->block->frame))
		return -EIO; /* to read it would stop the machine */
	ret = take_unit(pool, move);
	if (ret)
		return ret;
	move->written = true;
	if (move->isolated) {
		set_bit(KVT_BLOCK_MOVING, &move->block->flags);
		folio_clear_dirty(move->block->frame->folio);
		clear_bit(KVT_BLOCK_DIRTY, &move->block->flags);
	} else {
		kvt_write_protect(pool, move->block);
	}
	move->crc = folio_crc(pool, move->block->frame->folio);
	move->io = kvt_io_start(pool, move->nr, move->unit, move->block->frame->folio,
				background ? KVT_IO_BACKGROUND : KVT_IO_WRITE);
	if (move->io)
		return 0;
	set_bit(KVT_BLOCK_DIRTY, &move->block->flags);
	untake_unit(pool, move);
	return -ENOMEM;
}

int kvt_save_start(struct kvt_pool *pool, struct kvt_move *move, bool background)
{
	struct kvt_block *block = move->block;
	int ret;

	if (!kvt_block_unsaved(block))
		return 0;
	if (!pool->store)
		return -ENODEV;
	if (!kvt_has_clones(move->nr, block))
		return write_start(pool, move, background);
	if (borrow_slot(pool, move->nr, block))
		return 0;
	/* Written at once, so that the next of them finds it. */
	ret = write_start(pool, move, background);
	return ret ? ret : kvt_save_finish(pool, move);
}

static void saved(struct kvt_pool *pool, struct kvt_move *move)
{
	struct kvt_block *block = move->block;

	if (test_bit(KVT_BLOCK_SEALED, &block->flags))
		atomic_dec_if_positive(&pool->nr_sealed_dirty);
	if (move->unit == block->unit)
		block->crc = move->crc;
	else
		kvt_set_slot(pool, move->nr, block, move->unit, move->crc, true);
	kvt_count(pool, KVT_WRITTEN);
}

/* The device may write to it yet: it is the io's now, and so is its charge. */
static void leave_slot(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	bool paid;

	change_slot(pool, nr, block, KVT_NO_UNIT, 0, false, &paid);
}

/* The block stays as it was, dirty; what its slot holds now is not known. */
static void not_saved(struct kvt_pool *pool, struct kvt_move *move, int error)
{
	struct kvt_block *block = move->block;
	bool own = move->unit == block->unit;

	set_bit(KVT_BLOCK_DIRTY, &block->flags);
	if (error == -ETIMEDOUT && own)
		leave_slot(pool, move->nr, block);
	else if (error != -ETIMEDOUT)
		untake_unit(pool, move);
	kvt_event(pool, KVTIER_EVENT_IO_ERROR, error, move->nr, 1, block->generation);
	if (error == -ENOSPC)
		kvt_count(pool, KVT_ENOSPC);
}

int kvt_save_finish(struct kvt_pool *pool, struct kvt_move *move)
{
	int ret;

	if (!move->io)
		return 0; /* there was nothing to write, or it is written */
	ret = kvt_io_finish(move->io, NULL, true);
	move->io = NULL;
	trace_kvtier_writeback(pool->id, move->nr, ret);
	if (!ret) {
		saved(pool, move);
		return 0;
	}
	not_saved(pool, move, ret);
	return ret == -ETIMEDOUT || ret == -ENOSPC ? ret : -EIO;
}

/* ---- drop ----------------------------------------------------------------------- */

/*
 * With the folio locked, which has a reference of the caller: take the frame from the block,
 * which is in no page table.  1: it may be held, since a clone had it, and has gone; so it is
 * to be isolated first.
 */
static int detach(struct kvt_pool *pool, u64 nr, struct kvt_block *block, bool isolated,
		  struct kvt_frame **frame)
{
	const struct kvt_frame *had = block->frame;

	if ((!isolated || READ_ONCE(had->lent)) && !kvt_frame_shared(had) &&
	    folio_ref_count(had->folio) > 2)
		return 1;
	*frame = kvt_frame_detach(pool, nr, block);
	return 0;
}

static int drop_locked(struct kvt_pool *pool, struct kvt_move *move, struct kvt_frame **frame)
{
	kvt_unmap(pool, move->nr, 1);
	/* Its last clone may have gone meanwhile, and a store have come. */
	if (kvt_block_unsaved(move->block))
		return -EBUSY;
	return detach(pool, move->nr, move->block, move->isolated, frame);
}

static int take_frame(struct kvt_pool *pool, struct kvt_move *move, struct kvt_frame **frame)
{
	struct folio *folio = move->block->frame->folio;
	int ret;

	folio_get(folio);
	folio_lock(folio);
	ret = drop_locked(pool, move, frame);
	folio_unlock(folio);
	folio_put(folio);
	return ret;
}

int kvt_drop(struct kvt_pool *pool, struct kvt_move *move)
{
	struct kvt_frame *frame;
	int ret;

	while ((ret = take_frame(pool, move, &frame)) > 0) {
		ret = kvt_withdraw(pool, move->nr, move->block, &move->isolated);
		if (ret)
			return ret;
	}
	if (ret)
		return ret;
	kvt_count(pool, KVT_DEMOTED);
	if (!move->written)
		kvt_count(pool, KVT_CLEAN_DROPS);
	trace_kvtier_demote(pool->id, move->nr, KVTIER_TIER_NVME);
	move->freed = frame;
	if (frame) {
		atomic64_add(kvt_block_bytes(pool), &pool->io[frame->tier].bytes_out);
		kvt_frame_put(pool, frame);
	}
	return 0;
}

/* ---- shared frames ----------------------------------------------------------------- */

/* Own all blocks of a frame; the caller owns the first and lets go of the others. */
static int group_lock(struct kvt_pool *pool, struct kvt_block *block, struct kvt_group *group)
{
	struct kvt_block *other;
	u32 at;

	lockdep_assert_held(&pool->lru_lock);
	for (at = block->next; at != group->at[0]; at = other->next) {
		other = kvt_block_peek(pool, at);
		if (other->frame != block->frame)
			continue;
		if (group->nr == group->room || !kvt_block_try(other))
			return -EBUSY;
		group->at[group->nr++] = at;
	}
	return 0;
}

static void group_unlock(struct kvt_pool *pool, struct kvt_group *group)
{
	while (group->nr > 1)
		kvt_block_unlock(pool, kvt_block_peek(pool, group->at[--group->nr]));
	if (group->at != &group->one)
		kfree(group->at);
}

static int lock_group(struct kvt_pool *pool, u64 nr, struct kvt_block *block,
		      struct kvt_group *group)
{
	int ret;

	group->nr = 1;
	group->room = READ_ONCE(block->frame->sharers);
	group->at = &group->one;
	if (group->room > 1)
		group->at = kmalloc_array(group->room, sizeof(u32), GFP_KERNEL | __GFP_NOWARN);
	if (!group->at)
		return -EBUSY;
	group->at[0] = (u32)nr;
	spin_lock(&pool->lru_lock);
	ret = group_lock(pool, block, group);
	spin_unlock(&pool->lru_lock);
	if (ret)
		group_unlock(pool, group);
	return ret;
}

bool kvt_is_lent(u64 nr, const struct kvt_block *block)
{
	return kvt_has_clones(nr, block) || (block->frame && READ_ONCE(block->frame->lent));
}

/*
 * From a frame that others have, or hold, to one of the block's own.  Nobody has written to the
 * old one since the copy began: it is read-only as long as it is lent.
 */
static void change_frame(struct kvt_pool *pool, u64 nr, struct kvt_block *block,
			 struct kvt_frame *own)
{
	struct folio *folio = block->frame->folio;
	struct kvt_frame *left;

	folio_get(folio);
	folio_lock(folio);
	kvt_unmap(pool, nr, 1);
	left = kvt_frame_detach(pool, nr, block);
	kvt_frame_attach(pool, nr, block, own);
	folio_unlock(folio);
	folio_put(folio);
	if (left)
		kvt_frame_put(pool, left);
}

static int copy_frame(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	struct kvt_frame *own = kvt_frame_soon(pool, KVTIER_TIER_NONE);
	int ret;

	if (!own)
		return -EAGAIN;
	ret = kvt_copy(pool, own->folio, block->frame->folio, kvt_block_bytes(pool));
	if (!ret)
		change_frame(pool, nr, block, own);
	else if (ret > 0)
		kvt_frame_forget(pool, own);
	else
		kvt_frame_put(pool, own);
	if (ret > 0)
		return -EAGAIN; /* a device kept the frame: another one, by other means */
	return ret ? -EIO : 0;
}

/* Have the frame alone: as it is if nobody else has it or holds its pages, or a copy. */
static int take_over(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	if (!kvt_frame_shared(block->frame) &&
	    (!READ_ONCE(block->frame->lent) || !kvt_isolate_try(pool, nr, block)))
		return 0;
	return copy_frame(pool, nr, block);
}

int kvt_unshare(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	int ret;

	do {
		ret = take_over(pool, nr, block);
		if (ret || !kvt_has_clones(nr, block))
			return ret;
		kvt_set_dirty(block);
		kvt_put_slot(pool, nr, block);
	} while (!kvt_ring_leave_alone(pool, nr, block));
	return 0;
}

/* ---- migrate -------------------------------------------------------------------------- */

static int migrate_group(struct kvt_pool *pool, const struct kvt_group *group,
			 struct kvt_frame *to)
{
	struct kvt_block *block = kvt_block_peek(pool, group->at[0]);
	struct kvt_frame *frame = block->frame;
	u64 bytes = kvt_block_bytes(pool);
	u64 start;
	int ret;

	ret = kvt_isolate_group(pool, group);
	if (ret)
		return ret;
	set_bit(KVT_BLOCK_MOVING, &block->flags);
	start = ktime_get_ns();
	ret = kvt_copy(pool, to->folio, frame->folio, bytes);
	trace_kvtier_migrate(pool->id, group->at[0], frame->tier, to->tier, ret);
	if (ret)
		return ret;
	atomic64_add(bytes, &pool->io[frame->tier].bytes_out);
	atomic64_add(bytes, &pool->io[to->tier].bytes_in);
	kvt_tier_measure(to->tier, bytes, ktime_get_ns() - start);
	return kvt_frame_swap(pool, frame, to, group->nr);
}

/* Consumes @to.  -EBUSY: held, or one that shares the frame is. */
int kvt_migrate(struct kvt_pool *pool, u64 nr, struct kvt_block *block, struct kvt_frame *to)
{
	struct kvt_group group;
	int ret;

	ret = lock_group(pool, nr, block, &group);
	if (!ret) {
		ret = migrate_group(pool, &group, to);
		group_unlock(pool, &group);
	}
	if (ret > 0)
		kvt_frame_forget(pool, to);
	else
		kvt_frame_put(pool, to);
	if (ret == -EHWPOISON)
		pr_err_ratelimited("pool%u: memory error in block %llu\n", pool->id, nr);
	return ret == 0 || ret == -EBUSY ? ret : -EIO;
}

/* ---- seal, discard ------------------------------------------------------------------------ */

/* What is lent is read-only; with the folio locked, its clones' going makes no difference. */
static bool seal_clone(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	struct folio *folio = block->frame->folio;
	bool done;

	folio_lock(folio);
	done = kvt_is_lent(nr, block);
	if (done)
		set_bit(KVT_BLOCK_SEALED, &block->flags);
	folio_unlock(folio);
	return done;
}

int kvt_seal(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	int ret = 0;

	if (test_bit(KVT_BLOCK_BAD, &block->flags))
		return -EIO;
	if (!block->frame && block->unit == KVT_NO_UNIT)
		return -ENODATA;
	if (test_bit(KVT_BLOCK_SEALED, &block->flags))
		return 0;
	if (block->frame && !seal_clone(pool, nr, block))
		ret = kvt_isolate(pool, nr, block);
	if (ret)
		return ret;
	set_bit(KVT_BLOCK_SEALED, &block->flags);
	if (kvt_block_unsaved(block))
		atomic_inc(&pool->nr_sealed_dirty);
	return 0;
}

/* The frame of a block that is to be empty; -EBUSY: held. */
static int discard_frame(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	struct folio *folio = block->frame->folio;
	struct kvt_frame *frame;
	bool isolated;
	int ret;

	do {
		ret = kvt_withdraw(pool, nr, block, &isolated);
		if (ret)
			return ret;
		folio_get(folio);
		folio_lock(folio); /* a store that found the folio mapped may look (map.c) */
		kvt_unmap(pool, nr, 1);
		ret = detach(pool, nr, block, isolated, &frame);
		folio_unlock(folio);
		folio_put(folio);
	} while (ret);
	if (frame)
		kvt_frame_put(pool, frame);
	return 0;
}

int kvt_empty(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	int ret;

	if (block->pins || test_bit(KVT_BLOCK_STALLED, &block->flags))
		return -EBUSY;
	if (kvt_block_state(block) == KVTIER_BLOCK_EMPTY)
		return 0;
	ret = block->frame ? discard_frame(pool, nr, block) : 0;
	if (ret)
		return ret;
	kvt_put_slot(pool, nr, block);
	kvt_ring_leave(pool, nr, block);
	if (test_and_clear_bit(KVT_BLOCK_BAD, &block->flags))
		atomic64_dec(&pool->counter[KVT_BAD_BLOCKS]);
	clear_bit(KVT_BLOCK_SEALED, &block->flags);
	clear_bit(KVT_BLOCK_DIRTY, &block->flags);
	block->error = 0;
	block->generation++;
	return 0;
}
