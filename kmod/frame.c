// SPDX-License-Identifier: GPL-2.0-only
/*
 * Frames: memory of a tier, within a pool's budget there.  A budget is charged
 * before anything is allocated.  A pool keeps a few frames that it no longer needs
 * (spare): they cost neither an allocation of many pages nor, on kernels that zero
 * what they allocate, a pass over them.  They are never seen by another pool.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/highmem.h>
#include <linux/page-flags.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "kvtier.h"

#define SPARE_MAX 32

static struct kmem_cache *frames;

int kvt_frame_init(void)
{
	frames = kmem_cache_create("kvtier_frames", sizeof(struct kvt_frame), 0, SLAB_ACCOUNT,
				   NULL);
	return frames ? 0 : -ENOMEM;
}

void kvt_frame_exit(void)
{
	kmem_cache_destroy(frames);
}

/* Charge one block to a budget, which is never exceeded, however short. */
bool kvt_charge(struct kvt_share *share)
{
	s64 used = atomic64_read(&share->used), peak;

	do {
		if (used >= (s64)READ_ONCE(share->budget))
			return false;
	} while (!atomic64_try_cmpxchg(&share->used, &used, used + 1));
	for (peak = atomic64_read(&share->peak); used + 1 > peak;) {
		if (atomic64_try_cmpxchg(&share->peak, &peak, used + 1))
			break;
	}
	return true;
}

void kvt_uncharge(struct kvt_share *share)
{
	atomic64_dec(&share->used);
}

static struct page *alloc_on(struct kvt_pool *pool, int node)
{
	gfp_t gfp = GFP_HIGHUSER | __GFP_COMP | __GFP_THISNODE | __GFP_NOWARN | __GFP_NORETRY |
		    __GFP_ACCOUNT;
	struct mem_cgroup *old = set_active_memcg(pool->memcg);
	struct page *page = alloc_pages_node(node, gfp, pool->order);

	set_active_memcg(old);
	return page;
}

/* From the node that the thread runs on if it belongs to the tier, else any. */
static struct page *alloc_in_tier(struct kvt_pool *pool, enum kvtier_tier tier)
{
	nodemask_t nodes = kvt_tiers[tier].nodes;
	u64 wanted = pool->share[tier].nodes;
	int here = numa_mem_id(), node;
	struct page *page = NULL;

	if (node_isset(here, nodes) && (!wanted || (here < 64 && wanted >> here & 1)))
		page = alloc_on(pool, here);
	for_each_node_mask(node, nodes) {
		if (page)
			break;
		if (node != here && node_online(node) &&
		    (!wanted || (node < 64 && wanted >> node & 1)))
			page = alloc_on(pool, node);
	}
	return page;
}

static struct kvt_frame *frame_new(struct kvt_pool *pool, enum kvtier_tier tier)
{
	struct kvt_frame *frame = kmem_cache_zalloc(frames, GFP_KERNEL);
	struct page *page;

	if (!frame)
		return NULL;
	page = alloc_in_tier(pool, tier);
	if (!page) {
		kmem_cache_free(frames, frame);
		return NULL;
	}
	frame->folio = page_folio(page);
	frame->folio->private = frame;
	frame->node = page_to_nid(page);
	frame->tier = tier;
	INIT_LIST_HEAD(&frame->lru);
	return frame;
}

bool kvt_frame_poisoned(struct kvt_pool *pool, struct kvt_frame *frame)
{
	u32 i;

	for (i = 0; i < 1U << pool->order; i++) {
		if (PageHWPoison(folio_page(frame->folio, i)))
			return true;
	}
	return false;
}

/* The folio lives on while somebody else holds it; nothing of ours points to it. */
static void frame_free(struct kvt_pool *pool, struct kvt_frame *frame)
{
	struct folio *folio = frame->folio;

	folio_lock(folio);
	folio->mapping = NULL;
	folio->private = NULL;
	folio_unlock(folio);
	folio_put(folio);
	kvt_uncharge(&pool->share[frame->tier]);
	kmem_cache_free(frames, frame);
}

static struct kvt_frame *spare_take(struct kvt_pool *pool, enum kvtier_tier tier)
{
	struct kvt_share *share = &pool->share[tier];
	struct kvt_frame *frame;

	spin_lock(&pool->lru_lock);
	frame = list_first_entry_or_null(&share->spare, struct kvt_frame, lru);
	if (frame) {
		list_del_init(&frame->lru);
		share->nr_spare--;
	}
	spin_unlock(&pool->lru_lock);
	return frame;
}

struct kvt_frame *kvt_frame_try(struct kvt_pool *pool, enum kvtier_tier tier)
{
	struct kvt_share *share = &pool->share[tier];
	struct kvt_frame *frame;

	frame = spare_take(pool, tier);
	if (frame || !kvt_charge(share))
		return frame;
	frame = frame_new(pool, tier);
	if (!frame)
		kvt_uncharge(share);
	return frame;
}

static bool reusable(struct kvt_pool *pool, struct kvt_frame *frame)
{
	return folio_ref_count(frame->folio) == 1 && !kvt_frame_poisoned(pool, frame) &&
	       node_isset(frame->node, kvt_tiers[frame->tier].nodes) && !READ_ONCE(pool->dying);
}

void kvt_frame_put(struct kvt_pool *pool, struct kvt_frame *frame)
{
	struct kvt_share *share = &pool->share[frame->tier];
	bool spare = false;

	if (reusable(pool, frame)) {
		frame->folio->mapping = NULL;
		folio_clear_dirty(frame->folio);
		folio_clear_referenced(frame->folio);
		spin_lock(&pool->lru_lock);
		spare = share->nr_spare < min_t(u64, SPARE_MAX, share->budget / 16 + 1) &&
			(u64)atomic64_read(&share->used) <= share->budget;
		if (spare) {
			list_add(&frame->lru, &share->spare);
			share->nr_spare++;
		}
		spin_unlock(&pool->lru_lock);
	}
	if (!spare)
		frame_free(pool, frame);
	wake_up(&pool->room);
}

/*
 * Somebody may still write to this memory and cannot be stopped: it is lost to the
 * host until the next boot, and to the pool's budget as long as the pool lives.
 */
void kvt_frame_forget(struct kvt_pool *pool, struct kvt_frame *frame)
{
	pr_err_ratelimited("pool%u: gave up %llu bytes on node %d: a device may still write there\n",
			   pool->id, kvt_block_bytes(pool), frame->node);
	frame->folio->mapping = NULL;
	frame->folio->private = NULL;
	kmem_cache_free(frames, frame);
}

u64 kvt_frames_drop_spare(struct kvt_pool *pool, u64 max)
{
	struct kvt_frame *frame;
	enum kvtier_tier tier;
	u64 nr = 0;

	for (tier = KVTIER_TIER_DRAM; tier <= KVTIER_TIER_CXL; tier++) {
		while (nr < max && (frame = spare_take(pool, tier))) {
			frame_free(pool, frame);
			nr++;
		}
	}
	return nr;
}

void kvt_frame_zero(struct kvt_pool *pool, struct kvt_frame *frame)
{
	u32 i;

	for (i = 0; i < 1U << pool->order; i++) {
		clear_highpage(folio_page(frame->folio, i));
		if (!(i % 64))
			cond_resched();
	}
}

void kvt_frame_attach(struct kvt_pool *pool, u64 nr, struct kvt_block *block,
		      struct kvt_frame *frame)
{
	struct kvt_share *share = &pool->share[frame->tier];

	frame->folio->index = (pgoff_t)nr << pool->order;
	frame->folio->mapping = pool->mapping;
	spin_lock(&pool->lru_lock);
	frame->block = (u32)nr;
	frame->sharers = 1;
	frame->heat = 1; /* see evict.c */
	frame->is_cold = false;
	frame->placed = ++share->placements;
	list_add_tail(&frame->lru, &share->active);
	share->nr_active++;
	WRITE_ONCE(block->frame, frame);
	spin_unlock(&pool->lru_lock);
}

static void list_remove(struct kvt_pool *pool, struct kvt_frame *frame)
{
	struct kvt_share *share = &pool->share[frame->tier];

	lockdep_assert_held(&pool->lru_lock);
	list_del_init(&frame->lru);
	if (frame->is_cold)
		share->nr_cold--;
	else
		share->nr_active--;
	frame->is_cold = false;
}

/* Another clone that has the frame. */
static u32 other_sharer(struct kvt_pool *pool, u64 nr, struct kvt_block *block,
			const struct kvt_frame *frame)
{
	u32 at;

	lockdep_assert_held(&pool->lru_lock);
	for (at = block->next; at != nr; at = kvt_block_peek(pool, at)->next) {
		if (kvt_block_peek(pool, at)->frame == frame)
			break;
	}
	return at;
}

struct kvt_frame *kvt_frame_detach(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	struct kvt_frame *frame = block->frame;

	spin_lock(&pool->lru_lock);
	WRITE_ONCE(block->frame, NULL);
	if (--frame->sharers == 0) {
		list_remove(pool, frame);
	} else {
		if (frame->block == nr)
			frame->block = other_sharer(pool, nr, block, frame);
		frame = NULL;
	}
	spin_unlock(&pool->lru_lock);
	return frame;
}

bool kvt_frame_shared(const struct kvt_frame *frame)
{
	return READ_ONCE(frame->sharers) > 1;
}

void kvt_ring_join(struct kvt_pool *pool, struct kvt_block *from, u64 nr,
		   struct kvt_block *block)
{
	spin_lock(&pool->lru_lock);
	block->next = from->next;
	WRITE_ONCE(from->next, (u32)nr);
	spin_unlock(&pool->lru_lock);
}

static void ring_unlink(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	struct kvt_block *at = block;

	lockdep_assert_held(&pool->lru_lock);
	while (at->next != nr)
		at = kvt_block_peek(pool, at->next);
	WRITE_ONCE(at->next, block->next);
	WRITE_ONCE(block->next, (u32)nr);
}

/* The block has no frame, or one of its own. */
void kvt_ring_leave(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	spin_lock(&pool->lru_lock);
	ring_unlink(pool, nr, block);
	spin_unlock(&pool->lru_lock);
}

/* Unless a clone has the frame: then the block is no nearer to being written to. */
bool kvt_ring_leave_alone(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	bool alone;

	spin_lock(&pool->lru_lock);
	alone = block->frame->sharers == 1;
	if (alone)
		ring_unlink(pool, nr, block);
	spin_unlock(&pool->lru_lock);
	return alone;
}

bool kvt_has_clones(u64 nr, const struct kvt_block *block)
{
	return READ_ONCE(block->next) != nr;
}

bool kvt_frame_borrow(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	struct kvt_frame *frame = NULL;
	u32 at;

	if (!kvt_has_clones(nr, block))
		return false;
	spin_lock(&pool->lru_lock);
	for (at = block->next; !frame && at != nr; at = kvt_block_peek(pool, at)->next)
		frame = kvt_block_peek(pool, at)->frame;
	if (frame) {
		frame->sharers++;
		WRITE_ONCE(block->frame, frame);
	}
	spin_unlock(&pool->lru_lock);
	return frame;
}

/* Put a frame on the list of the next victims, or take it from there. */
void kvt_frame_set_cold(struct kvt_pool *pool, struct kvt_frame *frame, bool cold)
{
	struct kvt_share *share = &pool->share[frame->tier];

	spin_lock(&pool->lru_lock);
	if (frame->is_cold != cold) {
		list_remove(pool, frame);
		list_add_tail(&frame->lru, cold ? &share->cold : &share->active);
		frame->is_cold = cold;
		if (cold)
			share->nr_cold++;
		else
			share->nr_active++;
	}
	spin_unlock(&pool->lru_lock);
}

/* The blocks that had @frame's memory have @to's from now on, and the other way round. */
int kvt_frame_swap(struct kvt_pool *pool, struct kvt_frame *frame, struct kvt_frame *to,
		   u32 sharers)
{
	struct kvt_share *share;

	spin_lock(&pool->lru_lock);
	if (frame->sharers != sharers) {
		spin_unlock(&pool->lru_lock);
		return -EBUSY; /* a clone has it since, and may have mapped it */
	}
	list_remove(pool, frame);
	swap(frame->folio, to->folio);
	swap(frame->node, to->node);
	swap(frame->tier, to->tier);
	frame->folio->index = to->folio->index;
	frame->folio->mapping = pool->mapping;
	frame->folio->private = frame;
	to->folio->mapping = NULL;
	to->folio->private = to;
	share = &pool->share[frame->tier];
	list_add_tail(&frame->lru, &share->active);
	share->nr_active++;
	frame->placed = ++share->placements;
	spin_unlock(&pool->lru_lock);
	return 0;
}

static struct kvt_frame *try_any(struct kvt_pool *pool, enum kvtier_tier tier)
{
	struct kvt_frame *frame;

	if (tier != KVTIER_TIER_NONE)
		return kvt_frame_try(pool, tier);
	frame = kvt_frame_try(pool, KVTIER_TIER_DRAM);
	return frame ? frame : kvt_frame_try(pool, KVTIER_TIER_CXL);
}

static bool wait_for_room(struct kvt_pool *pool, int state, unsigned long until)
{
	DEFINE_WAIT(wait);
	bool interrupted;

	prepare_to_wait(&pool->room, &wait, state);
	interrupted = signal_pending_state(state, current);
	if (!interrupted)
		schedule_timeout(min_t(long, HZ / 50 + 1, until - jiffies + 1));
	finish_wait(&pool->room, &wait);
	return !interrupted;
}

struct kvt_frame *kvt_frame_get(struct kvt_pool *pool, enum kvtier_tier tier, int state)
{
	enum kvtier_tier from = tier == KVTIER_TIER_NONE ? KVTIER_TIER_DRAM : tier;
	unsigned long until = jiffies + pool->deadline;
	struct kvt_frame *frame;

	if (tier != KVTIER_TIER_NONE && !READ_ONCE(pool->share[tier].budget))
		return ERR_PTR(-ENODEV);
	if (!READ_ONCE(pool->share[from].budget))
		from = KVTIER_TIER_CXL;
	while (!(frame = try_any(pool, tier))) {
		if (kvt_evict(pool, from, 1))
			continue;
		if (time_after(jiffies, until))
			return ERR_PTR(-ENOSPC);
		if (!wait_for_room(pool, state, until))
			return ERR_PTR(-EINTR);
	}
	return frame;
}
