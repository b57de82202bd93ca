/* SPDX-License-Identifier: MIT */
/*
 * A call that is streamed, and who does what in it.
 *
 *	stream.c	create, destroy, attend; which sequences failed
 *	stream_call.c	what a call reads: items (blocks of the pool) and entries (blocks
 *			of its tables), each knowing the other
 *	stream_source.c	hands an entry's tasks to workers once all its items have come,
 *			and an item back once all its entries are computed
 *	stream_share.c	how much of a call may stay in memory
 */
#ifndef KVT_STREAM_H
#define KVT_STREAM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "attend.h"
#include "fetch.h"
#include "kvtier_stream.h"

#define KVT_NODES 16 /* queues of tasks; of more nodes some share one */
#define KVT_ITEM_NONE UINT32_MAX

/* A block of the pool that a call reads. */
struct kvt_item {
	uint32_t block;
	bool mapped; /* an entry goes over its end: it must be at its own address */
	uint32_t first_entry, nr_entries; /* in item_entries[] */
	atomic_uint left; /* entries to compute, in this pass */
	struct kvt_arrival arrival;
};

/* A block of a table; its number is kvt_work_block()'s. */
struct kvt_entry {
	uint32_t seq, block;
	uint32_t first_item, nr_items; /* in entry_items[]; none: it need not be waited for */
	uint32_t missing; /* items, in this pass; the call's lock */
	atomic_uint left; /* tasks, in this pass */
};

struct kvt_ready {
	uint32_t *tasks;
	uint32_t first, nr;
};

struct kvt_stream_call {
	struct kvt_source source; /* first: what workers call */
	struct kvt_stream *stream;
	const struct kvt_work *work;
	const struct kvt_attend_seq *seqs; /* the caller's */
	struct kvt_attend_seq *copies; /* with tables whose pointers follow the arrivals */
	struct kvt_seq_block *blocks;
	uint32_t nr_seqs;

	struct kvt_item *items;
	struct kvt_entry *entries;
	uint32_t *item_entries, *entry_items;
	uint32_t nr_items, nr_entries;
	struct kvt_want *wants, *ahead;
	uint32_t nr_ahead;

	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t ready_cond;
	struct kvt_ready ready[KVT_NODES];
	uint32_t *ready_tasks;
	uint32_t nr_ready, nr_given, nr_done; /* tasks of this pass */
	uint32_t nr_missing; /* items that have not come */
	bool fetching; /* a worker waits for the pager */
	int error;
	int *failed; /* of each sequence */
	uint32_t quota, resident, kept; /* blocks to keep; found in memory; kept so far */
	uint64_t wait_ns;
};

struct kvt_stream {
	struct kvt_attend *attend;
	struct kvt_pool *pool;
	struct kvt_fetch *fetch;
	uint32_t nr_blocks;

	pthread_mutex_t lock; /* held over a call; guards all below */
	uint32_t *item_of; /* a block of the pool: the call's item */
	uint32_t anchor; /* the block at which a cycle is said to begin */
	uint32_t position, cycle; /* blocks since then, and in the last cycle; 0: not known */
	uint32_t frames;
	uint32_t resident; /* blocks that were in memory and stayed, or came to, in this cycle */
	uint32_t allowance; /* streamed blocks that may stay: frames that are free, or hinted */
	struct kvt_stream_stats stats;
};

uint64_t kvt_stream_now(void);

/* Other threads compute from now on; no call is under way. */
void kvt_stream_move(struct kvt_stream *s, struct kvt_attend *attend);

/* stream_call.c */
int kvt_call_init(struct kvt_stream_call *c, struct kvt_stream *s,
		  const struct kvt_attend_params *params, const struct kvt_attend_seq *seqs,
		  uint32_t nr);
/* @w: made from the call's copies. */
void kvt_call_plan(struct kvt_stream_call *c, const struct kvt_work *w);
/* The blocks of the tables that come next, without those of this call, which is planned. */
int kvt_call_ahead(struct kvt_stream_call *c, const struct kvt_attend_params *params,
		   const struct kvt_stream_table *next, uint32_t nr);
void kvt_call_exit(struct kvt_stream_call *c);

/* stream_source.c */
int kvt_call_start(struct kvt_stream_call *c, const struct kvt_work *w);
/* Give back what came for a call that failed before it was read. */
void kvt_call_drain(struct kvt_stream_call *c);

/* stream_share.c */
void kvt_share_begin(struct kvt_stream_call *c);
/* The call's lock is held. */
bool kvt_share_keep(struct kvt_stream_call *c, const struct kvt_arrival *arrival);

#endif
