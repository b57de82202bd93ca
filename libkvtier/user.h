/* SPDX-License-Identifier: MIT */
/*
 * The user pager: one thread that owns all of a pool's blocks.
 *
 * A byte's way through the files, in this order:
 *
 *	user_fault.c	a thread touched a block that is not mapped, or wrote to
 *			a protected one: learn from it, then bring the block in
 *	user_promote.c	take a frame, read the slot into it, verify its checksum
 *	user_map.c	put a frame under a block's address, or take it out again
 *	user_demote.c	choose a victim, take it out, write it if it must be, free
 *			its frame
 *	user_prefetch.c	promote what the order says comes next
 *	user_command.c	the same steps on request of the pool API
 *	user_fetch.c	... and for readers that say what they will read
 *	pager_user.c	the loop that calls them; create and destroy
 *
 * Locking: everything below is touched by the pager thread alone, except what
 * @lock guards.  Other threads hand it commands and wait (user_command.c).
 */
#ifndef KVT_USER_H
#define KVT_USER_H

#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>

#include "arena.h"
#include "nvme.h"
#include "order.h"
#include "pool.h"
#include "slot.h"
#include "stat_file.h"
#include "uffd.h"

#define KVT_EVENTS 256

/* Where the only valid content of a block is. */
enum kvt_where {
	KVT_EMPTY, /* nowhere: it reads as zeroes */
	KVT_MAPPED, /* in a frame at the block's address */
	KVT_STAGED, /* in a frame in the arena, one move away */
	KVT_READING, /* in its slot, and on the way into a frame */
	KVT_WRITING, /* in a frame in the arena, and on the way into its slot */
	KVT_COLD, /* in its slot */
	KVT_BAD, /* lost: checksum or medium */
};

#define KVT_B_DIRTY (1u << 0) /* differs from its slot, or has none */
#define KVT_B_SEALED (1u << 1)
#define KVT_B_HINT (1u << 2) /* hinted cold: first victim */
#define KVT_B_PROTECTED (1u << 3) /* mapped write-protected */
#define KVT_B_AHEAD (1u << 4) /* prefetched, the cursor has not passed it yet */
#define KVT_B_TRIP (1u << 5) /* stays unmapped until touched, to show progress */
#define KVT_B_RETURN (1u << 6) /* to be mapped again once it is written */
#define KVT_B_STALLED (1u << 7) /* its I/O passed the deadline and was given up */
#define KVT_B_LEASE (1u << 8) /* stays unmapped for a reader who takes it from its frame */
#define KVT_B_UNSURE (1u << 9) /* mapped as clean; a store before its protection is not known yet */
#define KVT_B_REREAD (1u << 10) /* its checksum did not match: it is read a second time */

struct kvt_block {
	uint64_t generation;
	uint64_t held_until_ns; /* could not be evicted: leave it alone until then */
	uint32_t slot; /* KVT_SLOT_NONE: none */
	uint32_t place; /* in the arena of @tier while staged, reading or writing */
	uint32_t crc; /* of the slot's content */
	uint32_t written; /* order clock of the last write fault */
	uint32_t batch; /* of the reads ahead that it came with */
	uint32_t seen_ms; /* when it was last seen in use, from created_ms on, + 1; 0: never */
	int32_t error; /* why it is bad */
	uint16_t flags;
	uint16_t pins;
	uint16_t busy; /* commands at work on it */
	uint16_t holds; /* readers (user_fetch.c): its frame stays where it is */
	uint8_t where;
	uint8_t tier; /* of its frame: KVTIER_TIER_DRAM or _CXL */
};

/* A thread waiting in a fault. */
struct kvt_wait {
	uint64_t since_ns;
	uintptr_t addr;
	uint32_t block;
	uint32_t tid;
	bool write;
	bool slow; /* counted in slow_waits: it waits for the NVMe tier */
};

struct kvt_command;

/* One transfer under way; the io_uring user_data is its index. */
struct kvt_io {
	uint64_t start_ns;
	uint64_t again_ns; /* a read that failed is tried again then; 0: it is on its way */
	uint32_t block;
	uint32_t tries; /* that failed */
	bool write;
	bool busy;
};

#define KVT_IOS 128

struct kvt_user {
	struct kvt_pool pool; /* first: the API's handle */

	struct kvt_block *blocks;
	uint32_t nr_blocks;
	struct kvt_arena arena[KVTIER_NR_TIERS]; /* DRAM and CXL only */
	struct kvt_slots slots;
	struct kvt_nvme nvme;
	struct kvt_uffd uffd;
	struct kvt_order order;
	void *mapping; /* of the pool's addresses */
	size_t mapping_bytes;
	uint32_t flags; /* KVT_* of the config */
	uint64_t deadline_ns;

	struct io_uring ring;
	struct kvt_io ios[KVT_IOS];
	uint32_t reads; /* under way */
	uint32_t writes;
	struct kvt_command *sync_for; /* while @syncing; NULL: it has given up */

	struct kvt_wait *waits;
	uint32_t nr_waits;
	uint32_t max_waits;
	uint32_t slow_waits;
	uint32_t agains; /* of the reads: wait to be tried again */
	uint64_t slow_since_ns;
	uint64_t read_since_ns;
	uint64_t write_since_ns;
	uint64_t full_until_ns; /* do not try to write before: the device was full */

	/* Prefetch (user_prefetch.c). */
	uint32_t hand; /* last block looked at, on the ring */
	uint32_t ahead; /* blocks with KVT_B_AHEAD */
	uint32_t window; /* how many there may be */
	uint32_t since_trip;
	uint32_t batch; /* of the last reads ahead */
	uint32_t last_tick; /* order clock of the last adjustment */
	uint32_t again_credit; /* what blocks read twice have cost lately */
	uint32_t reuse_hold; /* cycles until the reuse window may shrink again */
	bool held_back; /* the window, not the device, limited prefetch */
	bool fetch_blocked; /* a fetch waits for a frame */

	bool more_faults; /* than one turn takes */
	bool syncing; /* the file is being made durable, one command's wish at a time */
	bool ending; /* no read is tried again */

	uint8_t victim_tier; /* only blocks of this tier may go; KVTIER_TIER_NONE: any */
	uint32_t sweep; /* where the search among blocks off the ring goes on */
	uint64_t now_ns; /* when this turn of the loop began */

	/* Blocks hinted cold, oldest first; entries may be outdated. */
	uint32_t *hints;
	uint32_t hint_first;
	uint32_t nr_hints;

	struct kvtier_stats stats; /* published by user_stat.c */
	struct kvt_stat_out stat;
	uint64_t published_ns;
	uint64_t created_ms;
	char last_error[256];

	pthread_t thread;
	int wake_fd; /* eventfd: a command or the end */

	pthread_mutex_t lock; /* guards the fields below */
	struct kvt_command *inbox;
	bool stop;
	struct kvtier_event events[KVT_EVENTS];
	uint32_t event_first;
	uint32_t nr_events;
	bool events_lost;
	int event_fd;

	struct kvt_command *active; /* the pager thread's own list */
	struct kvt_user_fetch *fetches; /* as well */
};

static inline struct kvt_user *kvt_user_of(struct kvt_pool *pool)
{
	return (struct kvt_user *)pool;
}

static inline struct kvt_block *kvt_block(struct kvt_user *u, uint32_t b)
{
	return &u->blocks[b];
}

static inline char *kvt_block_addr(const struct kvt_user *u, uint32_t b)
{
	return u->pool.addr + ((uint64_t)b << u->pool.block_shift);
}

static inline char *kvt_frame_addr(const struct kvt_user *u, uint32_t b)
{
	return kvt_place_addr(&u->arena[u->blocks[b].tier], u->blocks[b].place);
}

/* Frames that can be taken now. */
static inline uint32_t kvt_user_room(const struct kvt_user *u)
{
	return kvt_arena_room(&u->arena[KVTIER_TIER_DRAM]) +
	       kvt_arena_room(&u->arena[KVTIER_TIER_CXL]);
}

static inline bool kvt_resident(const struct kvt_block *blk)
{
	return blk->where == KVT_MAPPED || blk->where == KVT_STAGED;
}

static inline bool kvt_moving(const struct kvt_block *blk)
{
	return blk->where == KVT_READING || blk->where == KVT_WRITING;
}

/* user_data of what is not a transfer */
#define KVT_TAG_FAULTS UINT64_MAX
#define KVT_TAG_WAKE (UINT64_MAX - 1)
#define KVT_TAG_SYNC (UINT64_MAX - 2)

uint64_t kvt_now_ns(void);

/* user_fault.c */
void kvt_user_faults(struct kvt_user *u);
void kvt_user_serve(struct kvt_user *u);
void kvt_user_wake_block(struct kvt_user *u, uint32_t b);
void kvt_user_fail_block(struct kvt_user *u, uint32_t b);
bool kvt_user_wanted(const struct kvt_user *u, uint32_t b, bool *write);

/* user_promote.c */
int kvt_user_take_frame(struct kvt_user *u, struct kvt_block *blk, uint8_t wanted, bool *fresh);
int kvt_user_zero_fill(struct kvt_user *u, uint32_t b);
int kvt_user_read(struct kvt_user *u, uint32_t b, uint8_t tier);
void kvt_user_read_done(struct kvt_user *u, uint32_t b, int res);
void kvt_user_bad(struct kvt_user *u, uint32_t b, int error);

/* user_map.c */
int kvt_user_map(struct kvt_user *u, uint32_t b, bool for_write);
int kvt_user_map_row(struct kvt_user *u, uint32_t first, uint32_t nr);
int kvt_user_unmap(struct kvt_user *u, uint32_t b);
int kvt_user_make_sure(struct kvt_user *u, uint32_t b);
int kvt_user_unmap_row(struct kvt_user *u, uint32_t first, uint32_t nr);
int kvt_user_protect(struct kvt_user *u, uint32_t b);
void kvt_user_dirty(struct kvt_user *u, uint32_t b);

/* user_demote.c */
int kvt_user_evict(struct kvt_user *u, uint32_t b);
void kvt_user_hint(struct kvt_user *u, uint32_t b);
bool kvt_user_evict_one(struct kvt_user *u, bool desperate);
bool kvt_user_evict_row(struct kvt_user *u, uint32_t most);
bool kvt_user_evict_from(struct kvt_user *u, uint8_t tier);
void kvt_user_balance(struct kvt_user *u);
bool kvt_user_may_write(const struct kvt_user *u);
int kvt_user_write(struct kvt_user *u, uint32_t b);
void kvt_user_write_done(struct kvt_user *u, uint32_t b, int res);
void kvt_user_drop(struct kvt_user *u, uint32_t b);
void kvt_user_drop_slot(struct kvt_user *u, uint32_t b);
uint32_t kvt_user_reserve(const struct kvt_user *u);

/* user_prefetch.c */
void kvt_user_learn(struct kvt_user *u, uint32_t b, bool missed);
void kvt_user_prefetch(struct kvt_user *u);
/* Blocks that go in or out of the pool's addresses at once, at most. */
uint32_t kvt_user_batch(const struct kvt_user *u);
void kvt_user_came_ahead(struct kvt_user *u, uint32_t b);
void kvt_user_prefetch_init(struct kvt_user *u);
void kvt_user_prefetch_resized(struct kvt_user *u);
void kvt_user_unahead(struct kvt_user *u, uint32_t b, bool used);

/* user_io.c */
void kvt_user_submit_sync(struct kvt_user *u);
int kvt_user_submit(struct kvt_user *u, uint32_t b, bool write, void *addr);
void kvt_user_io_done(struct kvt_user *u, uint32_t io, int res);
void kvt_user_io_again(struct kvt_user *u, uint64_t now);
void kvt_user_io_deadlines(struct kvt_user *u, uint64_t now);
bool kvt_user_io_room(const struct kvt_user *u);

/* user_command.c */
void kvt_user_take_commands(struct kvt_user *u);
void kvt_user_run_commands(struct kvt_user *u);
void kvt_user_cancel_commands(struct kvt_user *u);
void kvt_user_sync_done(struct kvt_user *u, int res);
int kvt_user_resize(struct kvt_pool *pool, uint64_t dram_bytes);
int kvt_user_range_op(struct kvt_pool *pool, uint32_t op, uint32_t tier, uint32_t flags,
		      struct kvtier_range *ranges, uint32_t nr);
int kvt_user_clone(struct kvt_pool *dst, uint64_t dst_offset, struct kvt_pool *src,
		   uint64_t src_offset, uint64_t length);
int kvt_user_query(struct kvt_pool *pool, uint64_t first, uint32_t nr,
		   struct kvtier_block_info *infos);
int kvt_user_stats(struct kvt_pool *pool, struct kvtier_stats *stats);
int kvt_user_checkpoint(struct kvt_pool *pool, uint64_t offset, uint64_t length,
			struct kvtier_slot *slots);
int kvt_user_adopt(struct kvt_pool *pool, const struct kvtier_slot *slots, uint32_t nr);

/* user_fetch.c */
struct kvt_fetch;
void kvt_user_fetches(struct kvt_user *u);
int kvt_user_fetch_open(struct kvt_pool *pool, uint32_t window, struct kvt_fetch **fetch);

/* user_stat.c */
void kvt_user_stat_open(struct kvt_user *u, const char *name);
/* Unless @always, a few times a second at most. */
void kvt_user_stat_publish(struct kvt_user *u, bool always);
void kvt_user_stat_close(struct kvt_user *u);
/* @how: enum kvt_stat_how; @missed: it was not in memory. */
void kvt_user_stat_seen(struct kvt_user *u, uint32_t b, uint8_t how, bool missed);
void kvt_user_stat_fill(struct kvt_user *u);
__attribute__((format(printf, 2, 3))) void kvt_user_note_error(struct kvt_user *u,
							       const char *fmt, ...);

/* user_event.c */
void kvt_user_event(struct kvt_user *u, uint32_t type, uint32_t b, int error);
int kvt_user_event_fd(struct kvt_pool *pool);
int kvt_user_event_read(struct kvt_pool *pool, struct kvtier_event *events, uint32_t nr);

#endif
