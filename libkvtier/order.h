/* SPDX-License-Identifier: MIT */
/*
 * Order: what the pager knows of the future.
 *
 * An engine's step touches the same blocks in the same order as the last one,
 * so the blocks form a ring, learned from faults, and three places on it move
 * forward as the step goes on:
 *
 *      ... evictable ...  tail ... reuse window ...  cursor ... ahead ...
 *
 * The cursor is the last block known to be touched.  Blocks just behind it may
 * be read again at once (attention sweeps a layer's keys once per head): that
 * many, the reuse window, are left alone.  Behind the tail lie the blocks whose
 * next use is furthest away, the nearest to the tail the furthest: Belady's
 * choice for a cycle, and what leaves a fixed part of the ring resident.
 *
 * Pure bookkeeping: no memory or I/O is touched.  Owned by the pager thread.
 */
#ifndef KVT_ORDER_H
#define KVT_ORDER_H

#include <stdbool.h>
#include <stdint.h>

#define KVT_ORDER_NONE UINT32_MAX

struct kvt_order {
	uint32_t *next; /* per block; KVT_ORDER_NONE: not in the ring */
	uint32_t *prev;
	uint32_t *stamp; /* clock when the cursor last passed the block while present */
	uint32_t nr; /* blocks there can be */
	uint32_t count; /* blocks in the ring */
	uint32_t clock; /* steps the cursor has taken; wraps */
	uint32_t cursor;
	uint32_t tail;
	uint32_t lag; /* steps from tail to cursor */
	uint32_t reuse; /* wanted length of the reuse window */
	/* The cursor moved over this block. */
	void (*passed)(void *ctx, uint32_t block);
	/* This block would have faulted, had it been touched. */
	bool (*absent)(void *ctx, uint32_t block);
	void *ctx;
};

enum kvt_touch {
	KVT_TOUCH_NEW, /* not in the ring before */
	KVT_TOUCH_AHEAD, /* as foreseen, perhaps a few blocks further on */
	KVT_TOUCH_AGAIN, /* present a short while ago and evicted too early */
	KVT_TOUCH_MOVED, /* unforeseen: its place in the ring is now here */
};

int kvt_order_init(struct kvt_order *o, uint32_t nr);
void kvt_order_exit(struct kvt_order *o);

/*
 * Learn a touch of @block.  When it was present as the cursor passed it fewer
 * than @again steps ago, that is KVT_TOUCH_AGAIN, and *@distance says how many.
 */
enum kvt_touch kvt_order_touch(struct kvt_order *o, uint32_t block, uint32_t again,
			       uint32_t *distance);
void kvt_order_remove(struct kvt_order *o, uint32_t block);
void kvt_order_set_reuse(struct kvt_order *o, uint32_t reuse);

static inline bool kvt_order_has(const struct kvt_order *o, uint32_t block)
{
	return o->next[block] != KVT_ORDER_NONE;
}

/* Steps since the cursor last passed a block of the ring. */
static inline uint32_t kvt_order_age(const struct kvt_order *o, uint32_t block)
{
	return o->clock - o->stamp[block];
}

#endif
