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
#define ROOM_BESIDE (4ULL << 20) /* that a memory cgroup keeps for all else */
#define ROOM_ORDER PAGE_ALLOC_COSTLY_ORDER /* of the pieces in which it is looked for */
#define CROWDED (HZ / 10) /* until it is looked for again in vain */

static struct kmem_cache *frames;

int kvt_frame_init(void)
{
	frames = kmem_cache_create("kvtier_frames", sizeof(struct kvt_frame), 0, SLAB_ACCOUNT,
				   NULL);
	return frames ? 0 : -ENOMEM;
}

void kvt_frame_exit(void)
{
	kvt_linger_exit();
	kmem_cache_destroy(frames);
}

void kvt_frame_delete(struct kvt_frame *frame)
{
	kmem_cache_free(frames, frame);
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

	return alloc_pages_node(node, gfp, pool->order);
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

/* Can as much as is to be left be charged?  That reclaims: page cache is no obstacle. */
static bool room_can_be_had(void)
{
	const gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_COMP | __GFP_NOWARN | __GFP_NORETRY;
	struct page *page, *next;
	LIST_HEAD(pages);
	u64 bytes;

	for (bytes = 0; bytes < ROOM_BESIDE; bytes += PAGE_SIZE << ROOM_ORDER) {
		page = alloc_pages(gfp, ROOM_ORDER);
		if (!page)
			break;
		list_add(&page->lru, &pages);
	}
	list_for_each_entry_safe(page, next, &pages, lru)
		__free_pages(page, ROOM_ORDER);
	return bytes >= ROOM_BESIDE;
}

/*
 * A frame is not worth an OOM kill, which is how the core ends a charge that has to succeed
 * in a group that is full: page tables, the program's own memory.
 */
static bool leaves_room(struct kvt_pool *pool)
{
	if (kvt_memcg_room(pool->memcg) >= ROOM_BESIDE || room_can_be_had())
		return true;
	WRITE_ONCE(pool->crowded, jiffies);
	return false;
}

/* Has its group been found full just now?  Then what cannot be reclaimed is not tried again. */
static bool is_crowded(struct kvt_pool *pool)
{
	return time_before(jiffies, READ_ONCE(pool->crowded) + CROWDED) &&
	       kvt_memcg_room(pool->memcg) < kvt_block_bytes(pool) + ROOM_BESIDE;
}

static struct page *alloc_and_look(struct kvt_pool *pool, enum kvtier_tier tier)
{
	struct page *page = is_crowded(pool) ? NULL : alloc_in_tier(pool, tier);

	if (page && !leaves_room(pool)) {
		__free_pages(page, pool->order);
		page = NULL;
	}
	return page;
}

static struct kvt_frame *frame_new(struct kvt_pool *pool, enum kvtier_tier tier)
{
	struct mem_cgroup *old = set_active_memcg(pool->memcg);
	struct kvt_frame *frame = kmem_cache_zalloc(frames, GFP_KERNEL);
	struct page *page = frame ? alloc_and_look(pool, tier) : NULL;

	set_active_memcg(old);
	if (!page) {
		if (frame)
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

static struct kvt_frame *spare_or_new(struct kvt_pool *pool, enum kvtier_tier tier)
{
	struct kvt_share *share = &pool->share[tier];
	struct kvt_frame *frame;

	while ((frame = spare_take(pool, tier))) {
		if (node_isset(frame->node, kvt_tiers[tier].nodes))
			return frame;
		kvt_frame_free(pool, frame); /* its node left the tier meanwhile */
	}
	while (!kvt_charge(share)) {
		if (!kvt_linger_reap(pool, tier))
			return NULL;
	}
	frame = frame_new(pool, tier);
	/* Its memory cgroup may have no room for one because of what is spare of the other tier. */
	if (!frame && kvt_frames_drop_spare(pool, U64_MAX))
		frame = frame_new(pool, tier);
	if (!frame)
		kvt_uncharge(share);
	return frame;
}

struct kvt_frame *kvt_frame_try(struct kvt_pool *pool, enum kvtier_tier tier)
{
	struct kvt_frame *frame;

	while ((frame = spare_or_new(pool, tier))) {
		atomic_inc(&pool->in_hand[frame->node]);
		smp_mb__after_atomic(); /* with kvt_evict_node(): it sees this, or we that */
		if (node_isset(frame->node, kvt_tiers[tier].nodes))
			break;
		kvt_frame_put(pool, frame); /* its node has left the tier just now */
	}
	return frame;
}

static bool reusable(const struct kvt_frame *frame)
{
	return !kvt_frame_held(frame) && !kvt_frame_poisoned(frame) &&
	       node_isset(frame->node, kvt_tiers[frame->tier].nodes);
}

/* Keep the frame for later?  Not those that would outlive their pool. */
static bool make_spare(struct kvt_pool *pool, struct kvt_frame *frame)
{
	struct kvt_share *share = &pool->share[frame->tier];
	bool spare;

	spin_lock(&pool->lru_lock);
	spare = !pool->dying && share->nr_spare < min_t(u64, SPARE_MAX, share->budget / 16 + 1) &&
		(u64)atomic64_read(&share->used) <= share->budget;
	if (spare) {
		list_add(&frame->lru, &share->spare);
		share->nr_spare++;
	}
	spin_unlock(&pool->lru_lock);
	return spare;
}

void kvt_frame_put(struct kvt_pool *pool, struct kvt_frame *frame)
{
	bool spare = false;

	atomic_dec(&pool->in_hand[frame->node]);
	if (reusable(frame)) {
		frame->folio->mapping = NULL;
		folio_clear_dirty(frame->folio);
		folio_clear_referenced(frame->folio);
		spare = make_spare(pool, frame);
	}
	if (!spare)
		kvt_frame_free(pool, frame);
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
	atomic_dec(&pool->in_hand[frame->node]);
	frame->folio->mapping = NULL;
	frame->folio->private = NULL;
	kvt_frame_delete(frame);
}

/* In a memory cgroup that is full, others have more use for what is spare. */
void kvt_frames_make_way(struct kvt_pool *pool)
{
	if (kvt_memcg_room(pool->memcg) < ROOM_BESIDE)
		kvt_frames_drop_spare(pool, U64_MAX);
}

u64 kvt_frames_drop_spare(struct kvt_pool *pool, u64 max)
{
	struct kvt_frame *frame;
	enum kvtier_tier tier;
	u64 nr = 0;

	for (tier = KVTIER_TIER_DRAM; tier <= KVTIER_TIER_CXL; tier++) {
		while (nr < max && (frame = spare_take(pool, tier))) {
			kvt_frame_free(pool, frame);
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

/* ---- on which list it is ----------------------------------------------------- */

/* One that is pinned is on none: it cannot go. */
static void list_insert(struct kvt_pool *pool, struct kvt_frame *frame)
{
	struct kvt_share *share = &pool->share[frame->tier];
	struct list_head *lists[] = {
		[KVT_LIST_ACTIVE] = &share->active,
		[KVT_LIST_COLD] = &share->cold,
		[KVT_LIST_HELD] = &share->held,
	};

	lockdep_assert_held(&pool->lru_lock);
	if (!frame->pinned)
		list_add_tail(&frame->lru, lists[frame->list]);
	if (frame->list == KVT_LIST_COLD)
		share->nr_cold++;
	else
		share->nr_active++;
}

static void list_remove(struct kvt_pool *pool, struct kvt_frame *frame)
{
	struct kvt_share *share = &pool->share[frame->tier];

	lockdep_assert_held(&pool->lru_lock);
	list_del_init(&frame->lru);
	if (frame->list == KVT_LIST_COLD)
		share->nr_cold--;
	else
		share->nr_active--;
}

void kvt_frame_list(struct kvt_pool *pool, struct kvt_frame *frame, enum kvt_list list)
{
	if (frame->list == list)
		return;
	list_remove(pool, frame);
	frame->list = list;
	list_insert(pool, frame);
}

static void add_pinned(struct kvt_pool *pool, struct kvt_frame *frame, int pinned)
{
	list_remove(pool, frame);
	frame->pinned += pinned;
	list_insert(pool, frame);
}

void kvt_frame_pin(struct kvt_pool *pool, struct kvt_block *block, bool pin)
{
	spin_lock(&pool->lru_lock);
	add_pinned(pool, block->frame, pin ? 1 : -1);
	spin_unlock(&pool->lru_lock);
}

/* ---- which blocks have it ------------------------------------------------------ */

void kvt_count_saved(struct kvt_pool *pool, const struct kvt_block *block, int sign)
{
	lockdep_assert_held(&pool->lru_lock);
	if (block->frame && block->unit != KVT_NO_UNIT)
		pool->nr_saved += sign;
}

static void set_frame(struct kvt_pool *pool, struct kvt_block *block, struct kvt_frame *frame)
{
	kvt_count_saved(pool, block, -1);
	WRITE_ONCE(block->frame, frame);
	kvt_count_saved(pool, block, 1);
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
	frame->pinned = block->pins ? 1 : 0;
	frame->lent = false;
	frame->probed = false;
	frame->heat = 1; /* see evict.c */
	frame->list = KVT_LIST_ACTIVE;
	frame->placed = ++share->placements;
	list_insert(pool, frame);
	set_frame(pool, block, frame);
	spin_unlock(&pool->lru_lock);
	atomic_dec(&pool->in_hand[frame->node]); /* it is a block's, for all to see */
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
	set_frame(pool, block, NULL);
	if (--frame->sharers == 0) {
		atomic_inc(&pool->in_hand[frame->node]);
		list_remove(pool, frame);
	} else {
		if (block->pins)
			add_pinned(pool, frame, -1);
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

/* Its length is bounded, since it is walked with a lock held. */
int kvt_ring_join(struct kvt_pool *pool, u64 from_nr, struct kvt_block *from, u64 nr,
		  struct kvt_block *block)
{
	u32 at, length = 1;

	spin_lock(&pool->lru_lock);
	for (at = from->next; at != from_nr; at = kvt_block_peek(pool, at)->next)
		length++;
	if (length < KVTIER_CLONES_MAX) {
		block->next = from->next;
		WRITE_ONCE(from->next, (u32)nr);
	}
	spin_unlock(&pool->lru_lock);
	return length < KVTIER_CLONES_MAX ? 0 : -ENOSPC;
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
		frame->lent = true;
		if (block->pins)
			add_pinned(pool, frame, 1);
		set_frame(pool, block, frame);
	}
	spin_unlock(&pool->lru_lock);
	return frame;
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
	frame->list = KVT_LIST_ACTIVE;
	frame->lent = sharers > 1; /* of the new memory nobody else has a page */
	frame->placed = ++share->placements;
	list_insert(pool, frame);
	atomic_inc(&pool->in_hand[to->node]);
	atomic_dec(&pool->in_hand[frame->node]);
	spin_unlock(&pool->lru_lock);
	return 0;
}

/* ---- to have one ---------------------------------------------------------------- */

static struct kvt_frame *try_any(struct kvt_pool *pool, enum kvtier_tier tier)
{
	struct kvt_frame *frame;

	if (tier != KVTIER_TIER_NONE)
		return kvt_frame_try(pool, tier);
	frame = kvt_frame_try(pool, KVTIER_TIER_DRAM);
	return frame ? frame : kvt_frame_try(pool, KVTIER_TIER_CXL);
}

/* What is in DRAM may all be pinned, or held. */
static bool evict_any(struct kvt_pool *pool, enum kvtier_tier tier)
{
	if (tier != KVTIER_TIER_NONE)
		return kvt_evict(pool, tier, 1);
	return kvt_evict(pool, KVTIER_TIER_DRAM, 1) || kvt_evict(pool, KVTIER_TIER_CXL, 1);
}

#define SOON_TRIES 4 /* others may take what was made free */

struct kvt_frame *kvt_frame_soon(struct kvt_pool *pool, enum kvtier_tier tier)
{
	struct kvt_frame *frame = try_any(pool, tier);
	int try;

	for (try = 0; !frame && try < SOON_TRIES && evict_any(pool, tier); try++)
		frame = try_any(pool, tier);
	return frame;
}

int kvt_wait_for_room(struct kvt_pool *pool, int state, unsigned long until)
{
	long left = until - jiffies;
	DEFINE_WAIT(wait);
	int ret = 0;

	if (READ_ONCE(pool->dying))
		return -ECANCELED;
	if (left < 0)
		return -ENOSPC;
	prepare_to_wait(&pool->room, &wait, state);
	if (signal_pending_state(state, current))
		ret = -EINTR;
	else
		schedule_timeout(min_t(long, HZ / 50 + 1, left + 1));
	finish_wait(&pool->room, &wait);
	return ret;
}
