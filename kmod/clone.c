// SPDX-License-Identifier: GPL-2.0-only
/*
 * Clones.  Within a pool they share the frame, if there is one, and the slot, if it is
 * good; from pool to pool the slot, so a dirty source is written first.  Who writes
 * to a block that has clones gets a copy (move.c, kvt_unshare); who writes back a
 * block that shares its slot gets another slot.
 */
#include <linux/delay.h>
#include <linux/sched/signal.h>

#include "kvtier.h"
#include "trace.h"

static int check_pools(struct kvt_pool *dst, u64 dst_nr, struct kvt_pool *src, u64 src_nr,
		       u64 nr)
{
	if (dst == src && dst_nr < src_nr + nr && src_nr < dst_nr + nr)
		return -EINVAL;
	if ((dst->flags | src->flags) & KVTIER_POOL_PINNABLE)
		return -EOPNOTSUPP;
	if (dst->block_shift != src->block_shift)
		return -EXDEV;
	if (dst != src && (!dst->store || dst->store != src->store))
		return -EXDEV;
	return 0;
}

static int check_blocks(struct kvt_pool *dst, u64 dst_nr, struct kvt_pool *src, u64 src_nr,
			u64 nr)
{
	struct kvt_block *from, *to;
	u64 i;

	for (i = 0; i < nr; i++) {
		from = kvt_block_peek(src, src_nr + i);
		to = kvt_block_peek(dst, dst_nr + i);
		if (to && (to->pins || test_bit(KVT_BLOCK_STALLED, &to->flags)))
			return -EBUSY;
		if (from && test_bit(KVT_BLOCK_BAD, &from->flags))
			return -EIO;
		if (!(i % 1024)) {
			cond_resched();
			if (fatal_signal_pending(current))
				return -EINTR;
		}
	}
	return 0;
}

/* Own both, without an order between pools to keep. */
static int own_both(struct kvt_pool *src, struct kvt_block *from, struct kvt_block *to)
{
	int ret;

	for (;;) {
		ret = kvt_block_lock_interruptible(from);
		if (ret || kvt_block_try(to))
			return ret;
		kvt_block_unlock(src, from);
		if (signal_pending(current))
			return -EINTR;
		cond_resched();
		usleep_range(20, 100);
	}
}

/* The slot of another pool's block. */
static int share_slot(struct kvt_pool *dst, u64 dst_nr, struct kvt_block *from,
		      struct kvt_block *to)
{
	int ret;

	if (!kvt_charge(&dst->share[KVTIER_TIER_NVME]))
		return -ENOSPC;
	ret = kvt_slot_try_share(dst->store, from->unit);
	if (ret)
		kvt_uncharge(&dst->share[KVTIER_TIER_NVME]);
	else
		kvt_set_slot(dst, dst_nr, to, from->unit, from->crc, true);
	return ret;
}

/*
 * Make a block read-only, as all clones are; a slot that does not hold it is no use.
 * One that is lent is so already, as long as it is.
 */
static int make_clonable(struct kvt_pool *pool, u64 nr, struct kvt_block *from, bool *alone)
{
	int ret = 0;

	*alone = from->frame && !kvt_is_lent(nr, from);
	if (*alone)
		ret = kvt_isolate(pool, nr, from);
	if (!ret && !kvt_has_clones(nr, from) && kvt_block_unsaved(from))
		kvt_put_slot(pool, nr, from);
	return ret;
}

/* With the folio locked no store comes in between; -EAGAIN: the clones have gone. */
static int join(struct kvt_pool *pool, u64 src_nr, struct kvt_block *from, u64 dst_nr,
		struct kvt_block *to, bool alone)
{
	struct folio *folio = from->frame ? from->frame->folio : NULL;
	int ret = -EAGAIN;

	if (folio)
		folio_lock(folio);
	if (!folio || alone || kvt_is_lent(src_nr, from))
		ret = kvt_ring_join(pool, src_nr, from, dst_nr, to);
	if (folio)
		folio_unlock(folio);
	return ret;
}

static int take_slot(struct kvt_pool *pool, u64 dst_nr, struct kvt_block *to,
		     const struct kvt_block *from)
{
	int ret;

	if (from->unit == KVT_NO_UNIT)
		return 0;
	ret = kvt_slot_try_share(pool->store, from->unit);
	if (!ret)
		kvt_set_slot(pool, dst_nr, to, from->unit, from->crc, false);
	return ret;
}

static int clone_in_pool(struct kvt_pool *pool, u64 dst_nr, struct kvt_block *to, u64 src_nr,
			 struct kvt_block *from)
{
	bool alone;
	int ret;

	do {
		ret = make_clonable(pool, src_nr, from, &alone);
		if (!ret)
			ret = take_slot(pool, dst_nr, to, from);
		if (ret)
			return ret;
		ret = join(pool, src_nr, from, dst_nr, to, alone);
		if (ret)
			kvt_put_slot(pool, dst_nr, to);
	} while (ret == -EAGAIN);
	if (ret)
		return ret;
	if (to->unit == KVT_NO_UNIT)
		set_bit(KVT_BLOCK_DIRTY, &to->flags);
	if (from->frame)
		kvt_frame_borrow(pool, dst_nr, to);
	return 0;
}

/*
 * From pool to pool: what the slot does not hold is written to it first.  A device that holds
 * pages of an open block may write to them after it was found clean, and marks them dirty
 * later still; so clean is only what nobody holds.
 */
static int save_source(struct kvt_pool *src, u64 nr, struct kvt_block *from)
{
	struct kvt_move move = { .nr = nr, .block = from };
	int ret;

	if (!from->frame)
		return 0;
	if (test_bit(KVT_BLOCK_SEALED, &from->flags) && !kvt_block_unsaved(from))
		return 0;
	ret = kvt_withdraw(src, nr, from, &move.isolated);
	if (ret)
		return ret;
	ret = kvt_save_start(src, &move, false);
	if (!ret)
		ret = kvt_save_finish(src, &move);
	if (!ret && kvt_block_unsaved(from))
		ret = -EBUSY; /* a store came meanwhile */
	return ret;
}

static int clone_content(struct kvt_pool *dst, u64 dst_nr, struct kvt_block *to,
			 struct kvt_pool *src, u64 src_nr, struct kvt_block *from)
{
	int ret;

	if (dst == src)
		return clone_in_pool(src, dst_nr, to, src_nr, from);
	ret = save_source(src, src_nr, from);
	return ret ? ret : share_slot(dst, dst_nr, from, to);
}

static int clone_owned(struct kvt_pool *dst, u64 dst_nr, struct kvt_block *to,
		       struct kvt_pool *src, u64 src_nr, struct kvt_block *from)
{
	int ret;

	if (test_bit(KVT_BLOCK_BAD, &from->flags))
		return -EIO;
	ret = kvt_empty(dst, dst_nr, to);
	if (ret || kvt_block_state(from) == KVTIER_BLOCK_EMPTY)
		return ret;
	ret = clone_content(dst, dst_nr, to, src, src_nr, from);
	if (ret)
		return ret;
	if (test_bit(KVT_BLOCK_SEALED, &from->flags)) {
		set_bit(KVT_BLOCK_SEALED, &to->flags);
		if (kvt_block_unsaved(to))
			atomic_inc(&dst->nr_sealed_dirty);
	}
	to->generation++;
	return 0;
}

static int clone_one(struct kvt_pool *dst, u64 dst_nr, struct kvt_pool *src, u64 src_nr)
{
	struct kvt_block *from = kvt_block_peek(src, src_nr);
	struct kvt_block *to = kvt_block_peek(dst, dst_nr);
	int ret;

	if (!from && !to)
		return 0; /* both were never touched */
	from = kvt_block_get(src, src_nr);
	to = kvt_block_get(dst, dst_nr);
	if (!from || !to)
		return -ENOMEM;
	ret = own_both(src, from, to);
	if (ret)
		return ret;
	ret = clone_owned(dst, dst_nr, to, src, src_nr, from);
	kvt_block_unlock(dst, to);
	kvt_block_unlock(src, from);
	return ret;
}

int kvt_clone(struct kvt_pool *dst, u64 dst_nr, struct kvt_pool *src, u64 src_nr, u64 nr,
	      u64 *done)
{
	int ret;

	*done = 0;
	ret = check_pools(dst, dst_nr, src, src_nr, nr);
	if (!ret)
		ret = check_blocks(dst, dst_nr, src, src_nr, nr);
	while (!ret && *done < nr) {
		ret = clone_one(dst, dst_nr + *done, src, src_nr + *done);
		if (!ret)
			++*done;
		cond_resched();
	}
	return ret;
}
