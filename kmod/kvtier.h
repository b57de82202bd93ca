/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of the module share: the structs of a pool, a block, a frame and
 * a store, the locks that guard them, and what each file offers to the others.
 *
 * A touch goes fault.c -> frame.c (a place in memory) -> move.c (its content) ->
 * map.c (the page table entry).  An operation goes ioctl.c or uring.c -> range.c ->
 * move.c.  Below move.c are io.c (NVMe) and copy.c (memory to memory).
 *
 * Owners and locks
 * ----------------
 * A block has at most one owner at a time: who holds its bit KVT_BLOCK_BUSY
 * (block.c).  The owner may sleep and do I/O.  All fields of a block are read and
 * changed by its owner alone, but for what its comment says.  Who owns a block waits
 * for no other, but takes it with kvt_block_try(); nor does it wait for room.
 *
 * Order, outermost first:
 *
 *   mmap_lock or VMA lock
 *     block owner (BUSY)
 *       folio lock
 *         i_mmap_rwsem, page table locks     (inside unmap_mapping_range)
 *       pool->lru_lock
 *       store->lock
 *       pool->event_lock
 *
 * User memory is never touched by the owner of a block: it might be pool memory.
 */
#ifndef KVTIER_KMOD_H
#define KVTIER_KMOD_H

#include <linux/bio.h>
#include <linux/bitmap.h>
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/nodemask.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include <linux/kvtier.h>

#include "compat/compat.h"

#define KVT_UNIT_SHIFT KVTIER_SHIFT_MIN /* stores are divided into units of 64 KiB */
#define KVT_NO_UNIT (~0U)
#define KVT_STORES_MAX 64
#define KVT_CHUNK_SHIFT 6 /* blocks are allocated 64 at a time, on first use */
#define KVT_CHUNK_BLOCKS (1U << KVT_CHUNK_SHIFT)
#define KVT_BATCH 32 /* blocks that one operation moves at a time */

#define KVT_HEAT_USE 64 /* what a use adds to a frame's heat */

struct kvt_event_ring;
struct kvt_frame;
struct kvt_group;
struct kvt_io;
struct kvt_pool;
struct kvt_request;
struct kvt_store;
struct kvt_tab;

/* Bits of kvt_block.flags. */
enum kvt_block_bit {
	KVT_BLOCK_BUSY, /* has an owner */
	KVT_BLOCK_MOVING, /* its owner moves it: what a query shows */
	KVT_BLOCK_SEALED,
	KVT_BLOCK_DIRTY, /* set under the folio lock too, by a store (map.c) */
	KVT_BLOCK_BAD, /* content lost, see .error */
	KVT_BLOCK_STALLED, /* a read that was given up may still arrive (cleared by it) */
	KVT_BLOCK_MAPPED, /* at least one page table may map it; set under the folio lock too */
	KVT_BLOCK_PAID, /* its slot is charged to the pool by this block; pool->lru_lock */
};

/* One block of a pool.  Owner: see above.  40 bytes, since there are many. */
struct kvt_block {
	unsigned long flags; /* enum kvt_block_bit; atomic bit operations */
	struct kvt_frame *frame; /* NULL: not resident */
	u64 generation; /* also grows under the folio lock, with DIRTY */
	u32 unit; /* first unit of its slot, or KVT_NO_UNIT; lru_lock too, to change it */
	u32 crc; /* of its slot's content */
	u32 next; /* next of the ring of its clones in the pool; pool->lru_lock */
	u16 pins;
	s16 error; /* of a BAD block; -ENOSPC: a touch has waited for room in vain */
};

/*
 * Clones in a pool form a ring as long as they have the same content.  They share a
 * frame and a slot, as far as each has one, and are mapped read-only.  Who is to
 * be written to leaves the ring first (kvt_unshare).
 */

/* Where a frame that has blocks waits to be a victim. */
enum kvt_list {
	KVT_LIST_ACTIVE,
	KVT_LIST_COLD, /* hinted: the first victims */
	KVT_LIST_HELD, /* somebody holds its pages: looked at again when there are no others */
};

/*
 * Memory that holds the content of one block, or of clones.  A frame that is in no
 * block is on share->spare.  The folio's own reference belongs to the frame; every other one is
 * a page table's, or somebody's who pinned it.
 */
struct kvt_frame {
	struct folio *folio;
	struct list_head lru; /* pool->share[tier].{active,cold,held,spare}; pool->lru_lock */
	u32 block; /* a block that has it; pool->lru_lock */
	u32 sharers; /* how many have it; pool->lru_lock */
	u32 pinned; /* how many of them are pinned; if any, it is on no list; pool->lru_lock */
	s16 node;
	u8 tier;
	u8 heat; /* 0 cold to 255 (scan.c); racy by design */
	u8 list; /* enum kvt_list; pool->lru_lock */
	bool probed; /* taken out of the page tables to see whether it is used; owner */
	/*
	 * Another block has, or had, it too, and who holds its pages may have found them
	 * there: it is mapped read-only until that is out of the question (take_alone()).
	 * Set under pool->lru_lock, cleared by an owner with the folio's lock besides.
	 */
	bool lent;
	u32 placed; /* share->placements when it was; pool->lru_lock */
};

/* What a pool may use and uses of one tier; counts are blocks. */
struct kvt_share {
	u64 budget; /* pool->budget_lock to change */
	u64 nodes; /* bit per node or store, 0: all of the tier */
	atomic64_t used; /* frames or slots, charged before they are allocated */
	atomic64_t peak;
	/* The frames in memory; pool->lru_lock. */
	struct list_head active; /* least recently placed first */
	struct list_head cold; /* in the order of the hints */
	struct list_head held; /* those whose pages somebody holds */
	struct list_head spare; /* allocated and charged, in no block */
	struct list_head lingering; /* the same, and somebody holds their pages */
	u32 nr_active, nr_cold, nr_spare; /* active: with those that are held or pinned */
	u32 nr_lingering;
	u32 placements; /* frames that were given to blocks so far; wraps */
};

/* Counters of a pool, in the order of struct kvtier_stats; see stat.c. */
enum kvt_counter {
	KVT_FAULTS, KVT_SOFT_FAULTS, KVT_HARD_FAULTS, KVT_LATE_FAULTS, KVT_ZERO_FAULTS,
	KVT_WP_FAULTS, KVT_PREFETCHED, KVT_PREFETCH_USED, KVT_PREFETCH_WASTED,
	KVT_PROMOTED, KVT_DEMOTED, KVT_WRITTEN, KVT_CLEAN_DROPS, KVT_CRC_ERRORS,
	KVT_BAD_BLOCKS, /* a gauge */
	KVT_ENOSPC,
	KVT_DMA_COPIES, KVT_CPU_COPIES, KVT_DMA_ERRORS, KVT_UNMAPS, KVT_PINNED_BUSY,
	KVT_NR_COUNTERS
};

/* Time during which at least one of something was under way. */
struct kvt_span {
	spinlock_t lock; /* also taken in I/O completion: irq-safe */
	u32 nr;
	u64 since, total;
};

struct kvt_tier_counters {
	atomic64_t bytes_in, bytes_out, io_errors;
	struct kvt_span read, write;
};

#define KVT_SCAN_WINDOW 4096 /* blocks */

/* How far a look at accessed bits has come: of these blocks, in which of the mappings (scan.c). */
struct kvt_scan {
	u64 first; /* of the window */
	u32 mapping; /* the next, in the order of the pool's */
	u64 block; /* and where it goes on there */
	DECLARE_BITMAP(used, KVT_SCAN_WINDOW);
};

/* Operations that may wait for room, and the others, which may make it and do not wait behind. */
enum kvt_queue_nr { KVT_QUEUE_BRING, KVT_QUEUE_OTHER, KVT_NR_QUEUES };

struct kvt_pool {
	struct kref ref; /* the file, I/O and commands that are under way */
	u32 id;
	kuid_t owner; /* who made it: policy/max_pools */
	u32 flags; /* KVTIER_POOL_* */
	u32 tiers; /* bit per tier that it was made with */
	char name[KVTIER_NAME_BYTES];
	u64 bytes;
	u64 nr_blocks;
	u32 block_shift;
	u32 order; /* of a frame: block_shift - PAGE_SHIFT */
	unsigned long deadline; /* jiffies */
	struct inode *inode;
	struct address_space *mapping;
	struct kvt_block **chunks; /* set once each, with cmpxchg */
	struct kvt_share share[KVTIER_NR_TIERS];
	spinlock_t lru_lock;
	atomic_t *in_hand; /* per node: frames on the way to a block, or from one; lingering */
	u64 nr_saved; /* blocks with a frame and a slot; lru_lock */
	u64 slot_hand; /* where the search for one of them begins; racy */
	atomic64_t nr_pinned; /* blocks with pins */
	wait_queue_head_t room; /* woken when a frame became free or a block became idle */
	struct kvt_store *store; /* NULL without NVMe */
	atomic_t told_gone; /* that its store is */
	struct kvt_tab *tab; /* slots that are reserved (tab.c); NULL without KVTIER_POOL_KEEP */
	u64 due; /* blocks of NVMe charged for what it is to adopt (claim.c); store->lock */
	struct list_head owes; /* the account's pools with .due; store->lock */
	struct mem_cgroup *memcg; /* charged for frames; NULL without memcg */
	struct mutex budget_lock; /* changes of budgets */
	struct workqueue_struct *wq[KVT_NR_QUEUES]; /* NOWAIT operations and commands */
	atomic_t nr_later; /* NOWAIT operations that are not done */
	bool dying; /* is being released: keep nothing, begin nothing, wait for nothing */
	bool gone; /* was released: what it gives back now is the tier's; lru_lock */

	spinlock_t event_lock; /* ring */
	struct kvt_event_ring *events;
	wait_queue_head_t event_wait;

	atomic64_t counter[KVT_NR_COUNTERS];
	struct kvt_tier_counters io[KVTIER_NR_TIERS];
	struct kvt_span fault_wait;

	atomic_t nr_sealed_dirty; /* a hint for write-back; may lag */
	unsigned long pressed; /* jiffies of the last event of pressure; racy */
	unsigned long crowded; /* jiffies when its memory cgroup was found full; racy */
	struct kvt_scan scan; /* the worker's alone */
	u32 scrub_hand;

	struct list_head link; /* kvt_pools; kvt_pools_lock */
	struct device *dev; /* /sys/class/kvtier/pool<id> */
};

extern struct list_head kvt_pools;
extern struct mutex kvt_pools_lock; /* outermost: never taken by the owner of a block */

static inline u64 kvt_block_bytes(const struct kvt_pool *pool)
{
	return 1ULL << pool->block_shift;
}

static inline u32 kvt_order(const struct kvt_pool *pool) /* of a slot, in units */
{
	return pool->block_shift - KVT_UNIT_SHIFT;
}

static inline u32 kvt_units(const struct kvt_pool *pool) /* units of a slot */
{
	return 1U << kvt_order(pool);
}

static inline void kvt_count(struct kvt_pool *pool, enum kvt_counter which)
{
	atomic64_inc(&pool->counter[which]);
}

/* ---- pool.c: a pool's life ------------------------------------------------- */

int kvt_pool_create(struct file *file, struct kvtier_pool_create *arg);
void kvt_pool_release(struct kvt_pool *pool); /* last close: gives everything back */
void kvt_pool_put(struct kvt_pool *pool);
/* That with the lowest number above @id, and a reference; NULL: none.  kvt_pools_lock. */
struct kvt_pool *kvt_pool_after(s64 id);
struct kvt_pool *kvt_pool_of(struct file *file); /* NULL if the file is no pool (yet) */
int kvt_pool_set_budget(struct kvt_pool *pool, enum kvtier_tier tier, u64 bytes);

/* ---- block.c: the table of blocks, and who owns one ------------------------- */

struct kvt_block *kvt_block_get(struct kvt_pool *pool, u64 nr); /* NULL: ENOMEM */
struct kvt_block *kvt_block_peek(struct kvt_pool *pool, u64 nr); /* NULL: never used */
void kvt_block_lock(struct kvt_block *block);
int kvt_block_lock_killable(struct kvt_block *block); /* -EINTR on a fatal signal */
int kvt_block_lock_interruptible(struct kvt_block *block);
bool kvt_block_try(struct kvt_block *block);
void kvt_block_unlock(struct kvt_pool *pool, struct kvt_block *block);
/* The same of one that there was no room for: or all who wait for room would wake each other. */
void kvt_block_unlock_vain(struct kvt_block *block);
enum kvtier_block_state kvt_block_state(const struct kvt_block *block);
bool kvt_block_unsaved(const struct kvt_block *block); /* its slot does not hold it */
void kvt_block_info(struct kvt_pool *pool, u64 nr, struct kvtier_block_info *info);
int kvt_block_table_init(struct kvt_pool *pool);
void kvt_block_table_exit(struct kvt_pool *pool);
int kvt_block_init(void);
void kvt_block_exit(void);

/* ---- tier.c: nodes and limits of the host ----------------------------------- */

/* One per tier of memory.  kvt_tier_lock guards what administrators change. */
struct kvt_tier {
	const char *name; /* "dram", "cxl" */
	nodemask_t nodes; /* usable now */
	u64 limit; /* bytes that pools may claim in all; 0: the default */
	u64 claimed; /* by the budgets of pools, and what those have left that are gone */
	s64 orphaned; /* the latter; below 0 while a pool goes */
	u32 watermark_low, watermark_high; /* percent of a budget kept free; 0: off */
	u64 bandwidth; /* bytes a second, measured by copies; racy */
	struct device *dev;
};

extern struct kvt_tier kvt_tiers[KVTIER_NR_TIERS];
extern struct mutex kvt_tier_lock; /* inside kvt_pools_lock and pool->budget_lock */

int kvt_tier_init(void);
void kvt_tier_exit(void);
int kvt_tier_claim(enum kvtier_tier tier, u64 bytes); /* -ENOSPC over the limit */
void kvt_tier_unclaim(enum kvtier_tier tier, u64 bytes);
/* A pool goes that claims @bytes, of which it has yet to give back @left (kvt_tier_disown). */
void kvt_tier_orphan(enum kvtier_tier tier, u64 bytes, u64 left);
void kvt_tier_disown(enum kvtier_tier tier, u64 bytes);
int kvt_tier_check_nodes(enum kvtier_tier tier, u64 nodes); /* -ENODEV */
u64 kvt_tier_node_bits(enum kvtier_tier tier);
u64 kvt_tier_free(enum kvtier_tier tier);
u64 kvt_tier_limit(enum kvtier_tier tier);
u64 kvt_tier_capacity(enum kvtier_tier tier);
void kvt_tier_measure(enum kvtier_tier tier, u64 bytes, u64 ns); /* a copy into it */
/* Add or remove a node; removing moves away what pools have there (-EBUSY: cannot). */
int kvt_tier_set_nodes(enum kvtier_tier tier, const nodemask_t *nodes);

/* ---- frame.c: frames within a pool's budgets --------------------------------- */

bool kvt_charge(struct kvt_share *share); /* one block; false: over the budget */
void kvt_uncharge(struct kvt_share *share);
/* A frame of exactly @tier if budget and memory allow it now: else NULL. */
struct kvt_frame *kvt_frame_try(struct kvt_pool *pool, enum kvtier_tier tier);
/*
 * A frame of @tier (NONE: DRAM, then CXL), making room if need be; NULL: others would have
 * to let go of something first.  It waits for no owner, so owners may call it.
 */
struct kvt_frame *kvt_frame_soon(struct kvt_pool *pool, enum kvtier_tier tier);
/*
 * Wait until there may be room.  -ENOSPC: it is after @until (jiffies); -EINTR: a signal, of
 * the kind that @state says (TASK_KILLABLE, TASK_INTERRUPTIBLE); -ECANCELED.  Owner of none.
 */
int kvt_wait_for_room(struct kvt_pool *pool, int state, unsigned long until);
void kvt_frame_put(struct kvt_pool *pool, struct kvt_frame *frame); /* one in no block */
void kvt_frame_forget(struct kvt_pool *pool, struct kvt_frame *frame); /* never reuse it */
void kvt_frame_zero(struct kvt_pool *pool, struct kvt_frame *frame);
/* Give a frame that nobody has to a block (owner), which has none. */
void kvt_frame_attach(struct kvt_pool *pool, u64 nr, struct kvt_block *block,
		      struct kvt_frame *frame);
/* Take the block's frame away (unmapped); returns it if no clone has it, else NULL. */
struct kvt_frame *kvt_frame_detach(struct kvt_pool *pool, u64 nr, struct kvt_block *block);
bool kvt_frame_shared(const struct kvt_frame *frame);
/* The ring of clones: let @block, which is in none, join that of @from (owner of both). */
int kvt_ring_join(struct kvt_pool *pool, u64 from_nr, struct kvt_block *from, u64 nr,
		  struct kvt_block *block); /* -ENOSPC: KVTIER_CLONES_MAX are in it */
void kvt_ring_leave(struct kvt_pool *pool, u64 nr, struct kvt_block *block);
bool kvt_ring_leave_alone(struct kvt_pool *pool, u64 nr, struct kvt_block *block);
bool kvt_has_clones(u64 nr, const struct kvt_block *block);
/* Have the frame of a clone that is in memory; false: none is. */
bool kvt_frame_borrow(struct kvt_pool *pool, u64 nr, struct kvt_block *block);
void kvt_frame_list(struct kvt_pool *pool, struct kvt_frame *frame,
		    enum kvt_list list); /* pool->lru_lock */
/* The block (owner) has its first pin from now on, or no more any. */
void kvt_frame_pin(struct kvt_pool *pool, struct kvt_block *block, bool pin);
/* Around a change of a block's frame or slot: -1 before, 1 after; pool->lru_lock. */
void kvt_count_saved(struct kvt_pool *pool, const struct kvt_block *block, int sign);
/* -EBUSY if the frame has other than @sharers blocks. */
int kvt_frame_swap(struct kvt_pool *pool, struct kvt_frame *frame, struct kvt_frame *to,
		   u32 sharers);
u64 kvt_frames_drop_spare(struct kvt_pool *pool, u64 max); /* how many were freed */
void kvt_frames_make_way(struct kvt_pool *pool); /* drop them if others need their memory */
void kvt_frame_delete(struct kvt_frame *frame); /* the struct alone */
int kvt_frame_init(void);
void kvt_frame_exit(void);

/* ---- linger.c: frames that no block has and somebody holds ---------------------- */

bool kvt_frame_held(const struct kvt_frame *frame); /* of one that is in no page table */
bool kvt_frame_poisoned(const struct kvt_frame *frame);
/* Give back memory and charge, at once or when nobody holds its pages any more. */
void kvt_frame_free(struct kvt_pool *pool, struct kvt_frame *frame);
/* Give back what nobody holds any more; how many frames that were. */
u32 kvt_linger_reap(struct kvt_pool *pool, enum kvtier_tier tier);
void kvt_linger_reap_orphans(void); /* of pools that are gone */
/* The pool goes: how many blocks it has yet to give back. */
void kvt_linger_leave(struct kvt_pool *pool, u64 left[KVTIER_NR_TIERS]);
void kvt_linger_exit(void);

/* ---- map.c: page tables ------------------------------------------------------- */

int kvt_map_init(void);
void kvt_map_exit(void);
int kvt_map_pool(struct kvt_pool *pool); /* make its inode */
void kvt_unmap_pool(struct kvt_pool *pool);
int kvt_mmap(struct file *file, struct vm_area_struct *vma);
vm_fault_t kvt_mkwrite(struct vm_fault *vmf);
/* Take blocks out of all page tables (owner of them, with the folios of all locked). */
void kvt_unmap(struct kvt_pool *pool, u64 nr, u64 blocks);
/*
 * Unmap a resident, unshared block and make sure that nobody else holds its pages;
 * what was written reaches DIRTY.  -EBUSY: held.  From 0 on the owner alone can get
 * at the frame, until the block's owner lets go of it.
 */
int kvt_isolate(struct kvt_pool *pool, u64 nr, struct kvt_block *block);
/* The same for one that may share its frame: then only its own entries go. */
int kvt_withdraw(struct kvt_pool *pool, u64 nr, struct kvt_block *block, bool *isolated);
int kvt_isolate_try(struct kvt_pool *pool, u64 nr, struct kvt_block *block); /* never waits */
int kvt_isolate_group(struct kvt_pool *pool, const struct kvt_group *group);
/* Make later stores to an unshared block visible as DIRTY, keeping it mapped. */
void kvt_write_protect(struct kvt_pool *pool, struct kvt_block *block);
bool kvt_is_our_vma(const struct vm_area_struct *vma, const struct kvt_pool *pool);
#if !KVT_CORE_MAPS_FOLIO
bool kvt_inserts_blocks(struct kvt_pool *pool);
vm_fault_t kvt_insert_block(struct kvt_pool *pool, struct vm_fault *vmf, struct folio *folio);
#endif

/* ---- fault.c -------------------------------------------------------------------- */

vm_fault_t kvt_fault(struct vm_fault *vmf);

/* ---- move.c: the steps of a block's life; all need the block's owner ------------- */

struct kvt_move { /* one block on its way, in a batch */
	u64 nr;
	struct kvt_block *block;
	struct kvt_frame *frame; /* where it is fetched to */
	struct kvt_io *io;
	u32 unit, crc; /* of the slot it is saved to */
	bool isolated; /* in no page table, and not shared */
	bool leaves; /* its frame is dropped once it is saved */
	bool written; /* it had to be */
	bool freed; /* no clone has the frame that it dropped */
	int error;
};

struct kvt_group { /* the blocks that share a frame, owned */
	u32 nr, room;
	u32 *at; /* their numbers; &one if it is one */
	u32 one;
};

/* A store to the block: its content is another from now on. */
void kvt_set_dirty(struct kvt_block *block);
void kvt_set_bad(struct kvt_pool *pool, u64 nr, struct kvt_block *block, int error);
/* Start and finish bringing an EMPTY, COLD or COLD_OPEN block into its move's frame. */
int kvt_fetch_start(struct kvt_pool *pool, struct kvt_move *move);
int kvt_fetch_finish(struct kvt_pool *pool, struct kvt_move *move);
/* Both, for one block; makes room.  -EAGAIN: there is no frame now; -ENODEV. */
int kvt_fetch(struct kvt_pool *pool, u64 nr, struct kvt_block *block, enum kvtier_tier tier);
/* Start and finish writing a resident block to its slot, if it is not saved. */
int kvt_save_start(struct kvt_pool *pool, struct kvt_move *move, bool background);
int kvt_save_finish(struct kvt_pool *pool, struct kvt_move *move);
/* Free a saved block's frame.  -EBUSY: it has been written to since. */
int kvt_drop(struct kvt_pool *pool, struct kvt_move *move);
/* Move a resident block to another frame. */
int kvt_migrate(struct kvt_pool *pool, u64 nr, struct kvt_block *block, struct kvt_frame *to);
/* May it not be written to as it is, since its content is, or was, others' too? */
bool kvt_is_lent(u64 nr, const struct kvt_block *block);
/* Make such a block, resident, writable.  -EAGAIN: there is no frame for a copy now. */
int kvt_unshare(struct kvt_pool *pool, u64 nr, struct kvt_block *block);
int kvt_seal(struct kvt_pool *pool, u64 nr, struct kvt_block *block);
int kvt_empty(struct kvt_pool *pool, u64 nr, struct kvt_block *block); /* discard */
/* Give the block a slot, with its charge (@pay) or a clone's; the old one goes. */
void kvt_set_slot(struct kvt_pool *pool, u64 nr, struct kvt_block *block, u32 unit, u32 crc,
		  bool pay);
void kvt_put_slot(struct kvt_pool *pool, u64 nr, struct kvt_block *block);
void kvt_put_unit(struct kvt_pool *pool, u32 unit); /* a slot that was charged to the pool */

/* ---- evict.c: victims --------------------------------------------------------------- */

/*
 * Free up to @want frames of a tier; returns how many were.  Owner of no resident block,
 * or of blocks that it took with kvt_block_try().
 */
u32 kvt_evict(struct kvt_pool *pool, enum kvtier_tier tier, u32 want);
void kvt_hint_cold(struct kvt_pool *pool, struct kvt_block *block);
/* Give back the slot of a block that is in memory too, and is dirty then; false: none can. */
bool kvt_reclaim_slot(struct kvt_pool *pool);
/* Bring a block into memory that is free, so that its slot can be given back; false: no. */
bool kvt_bring_back(struct kvt_pool *pool);
/* Move away what a pool has on a node that left the tier; -EBUSY: something is held. */
int kvt_evict_node(struct kvt_pool *pool, enum kvtier_tier tier, int node);
u64 kvt_shrink_count(void);
u64 kvt_shrink_scan(u64 nr);

/* ---- range.c, clone.c, checkpoint.c ---------------------------------------------------- */

struct kvt_op {
	u32 op, tier, flags;
	const struct kvt_request *request; /* that a worker does (uring.c); NULL: the caller waits */
};
int kvt_range_check(struct kvt_pool *pool, const struct kvt_op *op); /* of all ranges */
int kvt_range_later(struct kvt_pool *pool, const struct kvt_op *op, u64 first, u64 nr);
int kvt_range_run(struct kvt_pool *pool, const struct kvt_op *op, u64 first, u64 nr);
/* What it would say before anything changes, as far as that can be seen at once. */
int kvt_range_look(struct kvt_pool *pool, const struct kvt_op *op, u64 first, u64 nr);
bool kvt_pins_fit(struct kvt_pool *pool); /* they leave KVTIER_FRAMES_MIN to the others */
int kvt_clone(struct kvt_pool *dst, u64 dst_nr, struct kvt_pool *src, u64 src_nr, u64 nr,
	      u64 *done);
int kvt_checkpoint(struct kvt_pool *pool, struct kvtier_checkpoint *arg);
int kvt_adopt(struct kvt_pool *pool, struct kvtier_adopt *arg);
int kvt_release(struct kvt_pool *pool, const struct kvtier_release *arg);

/* ---- event.c, stat.c ----------------------------------------------------------------------- */

int kvt_event_init(struct kvt_pool *pool);
void kvt_event_exit(struct kvt_pool *pool);
void kvt_event(struct kvt_pool *pool, u32 type, int error, u64 nr, u64 blocks, u64 generation);
void kvt_event_node(struct kvt_pool *pool, u32 tier, s32 node);
ssize_t kvt_event_read(struct file *file, char __user *to, size_t bytes, loff_t *pos);
__poll_t kvt_event_poll(struct file *file, struct poll_table_struct *wait);
void kvt_counters(struct kvt_pool *pool, struct kvtier_stats *stats); /* all but .blocks */
void kvt_stats(struct kvt_pool *pool, struct kvtier_stats *stats);
void kvt_span_init(struct kvt_span *span);
void kvt_span_begin(struct kvt_span *span);
void kvt_span_end(struct kvt_span *span);
u64 kvt_span_ns(struct kvt_span *span);

/* ---- store.c, header.c, slot.c, reserve.c: block devices that hold slots (also store.h) ---- */

#define KVT_STRIPE_MAX 8

/* Slots have 2^0 to 2^5 units; a chunk of 2 MiB has slots of one size. */
#define KVT_ORDERS (KVTIER_SHIFT_MAX - KVT_UNIT_SHIFT + 1)
#define KVT_MIXED KVT_ORDERS /* of a chunk that an administrator's adoption gave several sizes */

/* What a device has to do, so that no thread waits for a request that it cannot get. */
struct kvt_queue {
	struct workqueue_struct *wq; /* submits what might have to wait for the device */
	atomic_t requests; /* under way, estimated */
	atomic_t stalled; /* given up and still under way */
	u32 limit; /* above this a worker submits */
	u32 request_bytes; /* what one request moves at most */
};

/* How fast one direction is while it is busy. */
struct kvt_meter {
	spinlock_t lock; /* in I/O completion: irq-safe */
	u64 bytes; /* moved since .since */
	u64 since; /* of the span's nanoseconds */
	u64 rate; /* bytes a second, moving average; read without the lock */
};

struct kvt_store {
	struct kref ref; /* being attached, pools, I/O; the last one closes the devices */
	u32 id;
	u32 nr_devices;
	struct kvt_bdev device[KVT_STRIPE_MAX]; /* compat/bdev.h: open, exclusive */
	struct kvt_queue queue[KVT_STRIPE_MAX];
	u64 nr_units; /* of data, over all devices */
	u8 uuid[KVTIER_UUID_BYTES];
	bool hold; /* written to only after the administrator lifts it; reserve_lock */
	bool closed; /* being attached or detached: no new pools; kvt_stores_lock */
	bool stable; /* what is written must not change meanwhile: digests; set before use */
	bool gone; /* a device was removed: no new pools; set once, without a lock */

	struct mutex reserve_lock; /* the next six; outside .lock and the lock of .extra */
	struct list_head reservations;
	struct hlist_head *keys; /* the same by their keys */
	u32 nr_keys; /* of reservations; read without the lock */
	u64 header_generation; /* of the last headers that were written or read */
	bool marked; /* the headers say that there are reservations */
	bool mark_unsure; /* a header could not be written: they may say either */

	struct xarray extra; /* kvt_slot_index(unit) -> users - 1 of a slot that has several */

	spinlock_t lock; /* the next twelve */
	unsigned long *used; /* bit per unit */
	unsigned long *first; /* bit per unit with which a slot begins */
	u64 nr_used; /* units */
	u8 *order; /* of the slots of each chunk that has any */
	unsigned long *empty; /* bit per chunk that has none */
	unsigned long *partly[KVT_ORDERS]; /* bit per chunk with slots of this size and room */
	u32 nr_partly[KVT_ORDERS];
	u32 hand[KVT_ORDERS]; /* where the search for one of these begins; the last: of .empty */
	u32 chunks[KVT_ORDERS + 1]; /* how many have slots of a size */
	u64 promised[KVT_ORDERS]; /* units, by the size of slots (claim.c) */
	struct list_head accounts; /* of users */
	u64 claimed; /* bytes of pools' budgets */
	u64 kept; /* units of reservations whose pool has gone */
	u32 nr_pools;

	atomic_t reads; /* of blocks, under way: write-back gives way to them */
	wait_queue_head_t quiet; /* reads became 0 */
	struct kvt_span read, write;
	struct kvt_meter read_meter, write_meter;
	atomic64_t bytes_read, bytes_written, io_errors;
	atomic64_t stalled; /* I/O that was given up and is still under way */
	struct list_head link; /* kvt_stores_lock */
	struct device *dev; /* /sys/class/kvtier/store<id> */
	struct work_struct remove; /* takes .dev away: the last of the store */
};

static inline u64 kvt_store_bytes(const struct kvt_store *store)
{
	return store->nr_units << KVT_UNIT_SHIFT;
}

/*
 * Let a pool, whose budget is set, come to a store of @stores (0: any): that with the most
 * room, if need be one on hold.  Sets the pool's store, with a reference, and its tab, and
 * claims the budget.  -ENODEV, -ENOSPC, -ENOMEM.
 */
int kvt_store_join(struct kvt_pool *pool, u64 stores);
void kvt_store_leave(struct kvt_pool *pool); /* which has no blocks: gives the claim back */
int kvt_store_claim(struct kvt_pool *pool, u64 blocks); /* more, for a larger budget */
void kvt_store_unclaim(struct kvt_pool *pool, u64 blocks);
u64 kvt_store_bits(void);
u64 kvt_store_free(void); /* bytes that new pools may claim, of the store with the most */
/* Has a device of the pool's store been removed?  The pool is told, once. */
bool kvt_store_watch(struct kvt_pool *pool);
int kvt_store_flush(struct kvt_store *store, unsigned long deadline); /* make writes durable */
int kvt_store_init(struct class *class); /* class attributes: attach_store, format_store */
void kvt_store_exit(void); /* before the class goes */

/* -ENOSPC; -EROFS: on hold, for which users have no errno: tell them ENOSPC. */
int kvt_slot_alloc(struct kvt_store *store, u32 units, u32 *unit);
/* One more user of a slot, for one who is a user; -ENOMEM. */
int kvt_slot_try_share(struct kvt_store *store, u32 unit);
int kvt_slot_share_atomic(struct kvt_store *store, u32 unit);
void kvt_slot_put(struct kvt_store *store, u32 unit, u32 units); /* cannot fail */
bool kvt_slot_shared(struct kvt_store *store, u32 unit);

/*
 * Reservations of checkpoints: all of @units or none, durably known.  A slot counts
 * once per key.  All may sleep and do I/O, and end early on a fatal signal (-EINTR).
 * The slots are on the pool's tab already.
 */
int kvt_reserve(struct kvt_pool *pool, u8 key[KVTIER_KEY_BYTES], const u32 *units,
		u32 nr); /* zero key: a new one, returned in it; else -ENOENT */
/*
 * For a pool that adopts: use all of these slots besides, and have them on the pool's tab,
 * charged to it, until kvt_reserve_drop(), whatever becomes of the key meanwhile.  @dues:
 * how many of them were due.  -ENOENT: not reserved by this key; on a store on hold, with
 * @again, they are reserved anew then.  -ENOSPC: over the budget.  -EINVAL: no such slot, or
 * it overlaps others.
 */
int kvt_reserve_hold(struct kvt_pool *pool, const u8 *key, const u32 *units, u32 nr, bool again,
		     u32 *dues);
void kvt_reserve_undue(struct kvt_pool *pool, u32 dues); /* they were not adopted; then: */
void kvt_reserve_drop(struct kvt_pool *pool, const u32 *units, u32 nr);
/* Such slots are this pool's reservation from now on if their own pool has gone. */
void kvt_reserve_take(struct kvt_pool *pool, const u8 *key, const u32 *units, u32 nr);
int kvt_unreserve(struct kvt_pool *pool, const u8 *key); /* -ENOENT */

/* ---- tab.c: who pays for slots that are reserved ------------------------------------------ */

enum kvt_pay {
	KVT_PAY_NOTHING, /* a block pays: owner of a block of the pool that has the slot */
	KVT_PAY, /* charge the pool, if the slot is new on the tab */
	KVT_PAY_DUE, /* the same, but first of what is due of the pool (claim.c) */
};

struct kvt_tab *kvt_tab_new(struct kvt_pool *pool); /* of the current user; NULL: ENOMEM */
struct kvt_tab *kvt_tab_get(struct kvt_tab *tab);
void kvt_tab_put(struct kvt_tab *tab);
void kvt_tab_close(struct kvt_tab *tab); /* its pool, which has no blocks, goes */
/* Put a slot on the tab once more: 0, 1: it was due, -ENOSPC: over the budget, -ENOMEM. */
int kvt_tab_add(struct kvt_tab *tab, u32 unit, enum kvt_pay pay);
void kvt_tab_remove(struct kvt_tab *tab, u32 unit); /* once */
bool kvt_tab_has(struct kvt_pool *pool, u32 unit);
/* A block that paid for its slot gives it up. */
void kvt_tab_settle(struct kvt_pool *pool, u32 unit);
/* A block is to have a slot and to pay for it; false: over the budget. */
bool kvt_tab_charge(struct kvt_pool *pool, u32 unit);

/* ---- io.c: one block to or from its slot --------------------------------------------------- */

enum kvt_io_kind { KVT_IO_READ, KVT_IO_WRITE, KVT_IO_BACKGROUND };

/* What writes in the background, and owns as little as it can, lets reads go first. */
void kvt_io_give_way(struct kvt_store *store);
/*
 * Start the transfer; never sleeps for long, and NULL means no memory.  The io holds
 * a reference to pool, store and folio until the device is done, whatever the caller
 * does.
 */
struct kvt_io *kvt_io_start(struct kvt_pool *pool, u64 nr, u32 unit, struct folio *folio,
			    enum kvt_io_kind kind);
/*
 * Wait for it, up to the pool's deadline from its start: 0, what the device said, or
 * -ETIMEDOUT; then the io goes on alone and, when the device lets go, frees @frame (of
 * a read; it is in no block) and, if @give_up_slot, one use of the slot (of a write).
 * Consumes @io.  The device itself never says -ETIMEDOUT: that becomes -EIO.
 */
int kvt_io_finish(struct kvt_io *io, struct kvt_frame *frame, bool give_up_slot);
int kvt_io_init(void);
void kvt_io_exit(void);

/* ---- copy.c: memory to memory ---------------------------------------------------------------- */

/*
 * Copy a block's folio; by a DMA engine where there is one and @bytes reach the
 * threshold, else by the CPU.  0; -EHWPOISON: the source has lost bytes; 1: a device
 * may still write to @to, which the caller must never use again.
 */
int kvt_copy(struct kvt_pool *pool, struct folio *to, struct folio *from, u64 bytes);
int kvt_copy_init(void);
void kvt_copy_exit(void);

/* ---- scan.c, writeback.c: workers --------------------------------------------------------------- */

int kvt_worker_init(void);
void kvt_worker_exit(void);
/* Sample the accessed bits of a pool's mappings into its frames' heat. */
void kvt_scan_pool(struct kvt_pool *pool);

/* ---- policy, sysfs.c, uring.c, trace.c ------------------------------------------------------------ */

/* What an administrator may change; plain loads, any value is safe. */
struct kvt_policy {
	u32 dma_threshold; /* bytes; a copy of at least these goes to a DMA engine */
	u32 dma_timeout_ms;
	u32 scan_period_ms; /* 0: no sampling */
	u64 writeback_rate; /* bytes a second and store; 0: no background write-back */
	u32 writeback_depth; /* writes at a time */
	u32 min_deadline_ms, max_deadline_ms; /* pools may not ask for less, nor for more */
	u32 max_reserved_percent; /* of a store, by the pools of one user */
	u32 max_keys; /* of reservations of one user in a store */
	u32 max_pools; /* of one user */
};
extern struct kvt_policy kvt_policy;

bool kvt_may_change(void); /* what is in sysfs: by a descriptor that was passed on, too */
int kvt_sysfs_init(void);
void kvt_sysfs_exit(void);
extern struct class *kvt_class;
int kvt_sysfs_add_pool(struct kvt_pool *pool);
void kvt_sysfs_remove_pool(struct kvt_pool *pool);

int kvt_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags);
bool kvt_request_ended(const struct kvt_request *request); /* nobody wants it any more */
extern const struct file_operations kvt_fops;
long kvt_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

#endif
