// SPDX-License-Identifier: GPL-2.0-only
/*
 * Frames that no block has any more, and whose pages somebody still holds: a pipe, a device,
 * a buffer of io_uring's.  They are memory that the pool took, so they stay charged to its
 * budget.  When the pool goes, what it has not given back by then stays claimed of the tier.
 *
 * Nobody tells when a holder lets go.  The worker looks, and who needs what they are charged.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/pagemap.h>
#include <linux/slab.h>

#include "kvtier.h"

#define LOOK_MAX 256 /* frames that are looked at under a lock */

static LIST_HEAD(orphans); /* of pools that are gone */
static u32 nr_orphans;
static DEFINE_SPINLOCK(orphans_lock); /* both; inside pool->lru_lock */

bool kvt_frame_held(const struct kvt_frame *frame)
{
	return folio_ref_count(frame->folio) > 1;
}

bool kvt_frame_poisoned(const struct kvt_frame *frame)
{
	long i;

	for (i = 0; i < folio_nr_pages(frame->folio); i++) {
		if (PageHWPoison(folio_page(frame->folio, i)))
			return true;
	}
	return false;
}

/*
 * Memory with an error is kept: the core takes such pages out of use one by one only, and
 * would hand out those of a larger folio again.
 */
static void give_memory(struct kvt_frame *frame)
{
	if (!kvt_frame_poisoned(frame))
		folio_put(frame->folio);
	else
		pr_err_ratelimited("gave up %zu bytes on node %d: a memory error is there\n",
				   folio_size(frame->folio), frame->node);
	kvt_frame_delete(frame);
}

/* What a frame of the pool cost: its budget's, or the tier's once the pool is gone. */
static void give_charge(struct kvt_pool *pool, enum kvtier_tier tier)
{
	bool gone;

	spin_lock(&pool->lru_lock);
	kvt_uncharge(&pool->share[tier]);
	gone = pool->gone;
	spin_unlock(&pool->lru_lock);
	if (gone)
		kvt_tier_disown(tier, kvt_block_bytes(pool));
}

/* One with a memory error is lost, whoever holds it, and is not waited for. */
static bool lingers(const struct kvt_frame *frame)
{
	return kvt_frame_held(frame) && !kvt_frame_poisoned(frame);
}

static void set_aside(struct kvt_pool *pool, struct kvt_frame *frame)
{
	struct kvt_share *share = &pool->share[frame->tier];

	spin_lock(&pool->lru_lock);
	if (!pool->gone) {
		list_add_tail(&frame->lru, &share->lingering);
		share->nr_lingering++;
		atomic_inc(&pool->in_hand[frame->node]);
	} else {
		kvt_uncharge(share);
		spin_lock(&orphans_lock);
		list_add_tail(&frame->lru, &orphans);
		nr_orphans++;
		spin_unlock(&orphans_lock);
	}
	spin_unlock(&pool->lru_lock);
}

/* The folio lives on while somebody else holds it; nothing of ours points to it. */
void kvt_frame_free(struct kvt_pool *pool, struct kvt_frame *frame)
{
	struct folio *folio = frame->folio;
	enum kvtier_tier tier = frame->tier;

	folio_lock(folio);
	folio->mapping = NULL;
	folio->private = NULL;
	folio_unlock(folio);
	if (lingers(frame)) {
		set_aside(pool, frame);
		return;
	}
	give_memory(frame);
	give_charge(pool, tier);
}

/* Take out of a list what nobody holds any more; how many were. */
static u32 sift(struct list_head *from, u32 nr, struct list_head *to)
{
	struct kvt_frame *frame;
	u32 left = min_t(u32, nr, LOOK_MAX), found = 0;

	for (; left; left--) {
		frame = list_first_entry(from, struct kvt_frame, lru);
		if (lingers(frame)) {
			list_rotate_left(from);
			continue;
		}
		list_move(&frame->lru, to);
		found++;
	}
	return found;
}

u32 kvt_linger_reap(struct kvt_pool *pool, enum kvtier_tier tier)
{
	struct kvt_share *share = &pool->share[tier];
	struct kvt_frame *frame, *next;
	LIST_HEAD(free);
	u32 nr;

	if (!READ_ONCE(share->nr_lingering))
		return 0;
	spin_lock(&pool->lru_lock);
	nr = sift(&share->lingering, share->nr_lingering, &free);
	share->nr_lingering -= nr;
	spin_unlock(&pool->lru_lock);
	list_for_each_entry_safe(frame, next, &free, lru) {
		atomic_dec(&pool->in_hand[frame->node]);
		give_memory(frame);
		give_charge(pool, tier);
	}
	if (nr)
		wake_up(&pool->room);
	return nr;
}

void kvt_linger_reap_orphans(void)
{
	struct kvt_frame *frame, *next;
	LIST_HEAD(free);

	if (!READ_ONCE(nr_orphans))
		return;
	spin_lock(&orphans_lock);
	nr_orphans -= sift(&orphans, nr_orphans, &free);
	spin_unlock(&orphans_lock);
	list_for_each_entry_safe(frame, next, &free, lru) {
		kvt_tier_disown(frame->tier, folio_size(frame->folio));
		give_memory(frame);
	}
}

/* The blocks that a pool which goes has yet to give back, one by one, from now on. */
void kvt_linger_leave(struct kvt_pool *pool, u64 left[KVTIER_NR_TIERS])
{
	enum kvtier_tier tier;

	spin_lock(&pool->lru_lock);
	pool->gone = true;
	for (tier = KVTIER_TIER_DRAM; tier <= KVTIER_TIER_CXL; tier++) {
		struct kvt_share *share = &pool->share[tier];

		left[tier] = atomic64_read(&share->used);
		atomic64_sub(share->nr_lingering, &share->used);
		spin_lock(&orphans_lock);
		list_splice_tail_init(&share->lingering, &orphans);
		nr_orphans += share->nr_lingering;
		spin_unlock(&orphans_lock);
		share->nr_lingering = 0;
	}
	spin_unlock(&pool->lru_lock);
}

/* Nobody is left who could look: who holds their pages has them as long as they like. */
void kvt_linger_exit(void)
{
	struct kvt_frame *frame, *next;

	list_for_each_entry_safe(frame, next, &orphans, lru)
		give_memory(frame);
}
