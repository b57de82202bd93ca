/* SPDX-License-Identifier: MIT */
/*
 * Fetch: blocks brought in for a reader that knows which it wants.
 *
 * A reader names the blocks of its next piece of work, gets each one as soon as
 * it is in memory, in whatever order they come, and gives it back when it has
 * read it.  Until then the block is held: it stays where it is, so that the
 * reader neither faults nor meets a block that turns bad under it.  Blocks that
 * had to come from NVMe use a window of frames that go from one to the next;
 * what else is resident stays so.
 *
 *	want	the reader's blocks, and those to read ahead after them
 *	take	one that has come (or has failed)
 *	done	give it back: to be kept in memory, or to go first
 *	starve	nothing that was handed out is being read, and a wait follows: if nothing is
 *		on its way either, for the window is full of blocks that wait for others,
 *		it is exceeded
 *
 * A pager may hand out a block from where it was read to (a lease): not at its
 * own address, and not mapped there meanwhile.  A reader that needs several
 * blocks in a row, or their own addresses, says so.
 *
 * One thread at a time calls want; any number take and give back.
 */
#ifndef KVT_FETCH_H
#define KVT_FETCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "kvtier.h"

/* Blocks that one fetch may have on their way or in readers' hands, beyond resident ones. */
#define KVT_FETCH_WINDOW_MAX 256

struct kvt_fetch;

struct kvt_want {
	uint32_t block;
	bool mapped; /* it must be at its own address */
};

struct kvt_arrival {
	uint32_t block;
	int32_t error; /* 0, or why it cannot be had: nothing is held then */
	const char *addr; /* of the block's first byte */
	bool streamed; /* it came from NVMe for this fetch */
};

struct kvt_fetch_ops {
	void (*close)(struct kvt_fetch *f);
	void (*want)(struct kvt_fetch *f, const struct kvt_want *wants, uint32_t nr,
		     const struct kvt_want *ahead, uint32_t nr_ahead);
	/* 1 and *@arrival, or 0: none has come and not @wait. */
	int (*take)(struct kvt_fetch *f, struct kvt_arrival *arrival, bool wait);
	void (*done)(struct kvt_fetch *f, const struct kvt_arrival *arrival, bool keep);
	void (*starve)(struct kvt_fetch *f);
};

struct kvt_fetch {
	const struct kvt_fetch_ops *ops;
	struct kvt_pool *pool;
	atomic_uint window; /* blocks; the pager may change it */
};

/* @window: blocks, 0 chooses.  Errors: -ENOMEM, -EINVAL, what io_uring says. */
int kvt_fetch_open(struct kvt_pool *pool, uint32_t window, struct kvt_fetch **fetch);
/* Nothing may be held or wanted any more. */
void kvt_fetch_close(struct kvt_fetch *f);

/*
 * Windows within a fourth of a budget of @frames blocks: the least that keeps a device busy,
 * and the most, for readers that compute other things between their calls.
 */
uint32_t kvt_fetch_window_least(uint32_t frames, uint32_t block_bytes);
uint32_t kvt_fetch_window_most(uint32_t frames, uint32_t block_bytes);

#endif
