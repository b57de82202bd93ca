// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "order.h"

/* Absent blocks that a touch may skip and still count as foreseen. */
#define SKIP_MAX 16
/* Blocks to look ahead over; beyond, learning the place anew is cheaper. */
#define AHEAD_MAX 65536

int kvt_order_init(struct kvt_order *o, uint32_t nr)
{
	size_t bytes = (size_t)nr * sizeof(uint32_t);

	memset(o, 0, sizeof(*o));
	o->next = malloc(bytes);
	o->prev = malloc(bytes);
	o->stamp = calloc(nr, sizeof(uint32_t));
	if (!o->next || !o->prev || !o->stamp) {
		kvt_order_exit(o);
		return -ENOMEM;
	}
	memset(o->next, 0xff, bytes);
	memset(o->prev, 0xff, bytes);
	o->nr = nr;
	o->cursor = o->tail = KVT_ORDER_NONE;
	return 0;
}

void kvt_order_exit(struct kvt_order *o)
{
	free(o->next);
	free(o->prev);
	free(o->stamp);
	o->next = o->prev = o->stamp = NULL;
}

static void shorten_lag(struct kvt_order *o)
{
	while (o->lag && (o->lag > o->reuse || o->lag >= o->count)) {
		o->tail = o->next[o->tail];
		o->lag--;
	}
}

static void step(struct kvt_order *o)
{
	o->cursor = o->next[o->cursor];
	o->clock++;
	if (!o->absent || !o->absent(o->ctx, o->cursor))
		o->stamp[o->cursor] = o->clock;
	o->lag++;
	shorten_lag(o);
	if (o->passed)
		o->passed(o->ctx, o->cursor);
}

static void insert_first(struct kvt_order *o, uint32_t block)
{
	o->next[block] = o->prev[block] = block;
	o->cursor = o->tail = block;
	o->count = 1;
	o->clock++;
}

static void insert_after(struct kvt_order *o, uint32_t at, uint32_t block)
{
	o->next[block] = o->next[at];
	o->prev[block] = at;
	o->prev[o->next[block]] = block;
	o->next[at] = block;
	o->count++;
}

static uint32_t measure_lag(const struct kvt_order *o)
{
	uint32_t at, lag = 0;

	for (at = o->tail; at != o->cursor; at = o->next[at])
		lag++;
	return lag;
}

static void unlink_block(struct kvt_order *o, uint32_t block)
{
	uint32_t prev = o->prev[block], next = o->next[block];

	o->next[prev] = next;
	o->prev[next] = prev;
	if (o->tail == block)
		o->tail = o->cursor == block ? prev : next;
	if (o->cursor == block)
		o->cursor = prev;
	o->next[block] = o->prev[block] = KVT_ORDER_NONE;
	if (!--o->count)
		o->cursor = o->tail = KVT_ORDER_NONE;
}

void kvt_order_remove(struct kvt_order *o, uint32_t block)
{
	if (!kvt_order_has(o, block))
		return;
	unlink_block(o, block);
	o->lag = o->count ? measure_lag(o) : 0;
	if (o->count)
		shorten_lag(o);
}

void kvt_order_set_reuse(struct kvt_order *o, uint32_t reuse)
{
	o->reuse = reuse;
	if (!o->count)
		return;
	shorten_lag(o);
	while (o->lag < reuse && o->lag + 1 < o->count) {
		o->tail = o->prev[o->tail];
		o->lag++;
	}
}

/* Is @block ahead, with few blocks in between that ought to have faulted first? */
static bool lies_ahead(const struct kvt_order *o, uint32_t block)
{
	uint32_t at = o->cursor, skipped = 0, i;

	for (i = 0; i < AHEAD_MAX; i++) {
		at = o->next[at];
		if (at == block)
			return true;
		if (at == o->cursor)
			return false;
		if (o->absent && o->absent(o->ctx, at) && ++skipped > SKIP_MAX)
			return false;
	}
	return false;
}

static bool advance_to(struct kvt_order *o, uint32_t block)
{
	if (!lies_ahead(o, block))
		return false;
	while (o->cursor != block)
		step(o);
	return true;
}

/*
 * Caches grow at the end of each tensor, so a new block is most likely to be
 * read right after its neighbour; a first guess that later touches correct.
 */
static void learn_new(struct kvt_order *o, uint32_t block)
{
	uint32_t at = o->cursor;

	if (!o->count) {
		insert_first(o, block);
	} else {
		if (block && kvt_order_has(o, block - 1))
			at = block - 1;
		insert_after(o, at, block);
		o->lag = measure_lag(o);
		shorten_lag(o);
		advance_to(o, block);
	}
	o->stamp[block] = o->clock;
}

enum kvt_touch kvt_order_touch(struct kvt_order *o, uint32_t block, uint32_t again,
			       uint32_t *distance)
{
	if (!kvt_order_has(o, block)) {
		learn_new(o, block);
		return KVT_TOUCH_NEW;
	}
	*distance = kvt_order_age(o, block);
	if (block == o->cursor || *distance < again)
		return KVT_TOUCH_AGAIN;
	if (advance_to(o, block)) {
		o->stamp[block] = o->clock;
		return KVT_TOUCH_AHEAD;
	}
	unlink_block(o, block);
	o->lag = measure_lag(o);
	insert_after(o, o->cursor, block);
	step(o);
	o->stamp[block] = o->clock;
	return KVT_TOUCH_MOVED;
}
