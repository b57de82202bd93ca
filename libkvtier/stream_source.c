// SPDX-License-Identifier: MIT
/*
 * Tasks over blocks that arrive.
 *
 * An entry's tasks are ready when all its items have come; an item is given back when all
 * its entries are computed.  Workers that find no task ready wait: one of them for the
 * pager, the others for it.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <numa.h>
#include <numaif.h>
#include <stdlib.h>

#include "pool.h"
#include "stream.h"

static struct kvt_stream_call *call_of(struct kvt_source *source)
{
	return (struct kvt_stream_call *)source;
}

/* ---- queues, one for each node ------------------------------------------- */

static uint32_t node_of(const void *addr)
{
	int node = 0;

	if (numa_available() < 0 || numa_max_node() == 0 ||
	    get_mempolicy(&node, NULL, 0, (void *)(uintptr_t)addr, MPOL_F_NODE | MPOL_F_ADDR) ||
	    node < 0)
		return 0;
	return (uint32_t)node % KVT_NODES;
}

static void push(struct kvt_stream_call *c, uint32_t node, uint32_t task)
{
	struct kvt_ready *r = &c->ready[node];

	r->tasks[(r->first + r->nr++) % c->work->nr_tasks] = task;
	c->nr_ready++;
}

static uint32_t pop(struct kvt_stream_call *c, uint32_t node)
{
	struct kvt_ready *r = &c->ready[node];
	uint32_t task = r->tasks[r->first];

	r->first = (r->first + 1) % c->work->nr_tasks;
	r->nr--;
	c->nr_ready--;
	c->nr_given++;
	return task;
}

/* Of the worker's own node if there is one, else of any. */
static uint32_t pop_for(struct kvt_stream_call *c, unsigned int worker)
{
	int node = kvt_team_node(c->stream->attend->team, worker);
	uint32_t i, first = node < 0 ? 0 : (uint32_t)node % KVT_NODES;

	for (i = 0; i < KVT_NODES; i++)
		if (c->ready[(first + i) % KVT_NODES].nr)
			return pop(c, (first + i) % KVT_NODES);
	assert(!"a task is counted and in no queue");
	return 0;
}

static void push_entry(struct kvt_stream_call *c, uint32_t entry, uint32_t node)
{
	const struct kvt_work *w = c->work;
	uint32_t task;

	for (task = w->block_task[entry]; task < w->block_task[entry + 1]; task++)
		push(c, node, task);
}

/* ---- arrivals ------------------------------------------------------------ */

static bool inside(const struct kvt_pool *pool, const void *at, uint32_t block, uint64_t *offset)
{
	*offset = (uintptr_t)at - (uintptr_t)pool->addr - ((uint64_t)block << pool->block_shift);
	return at && *offset < pool->block_bytes;
}

/* Rows that begin in the block are where the block has come to. */
static void follow(struct kvt_stream_call *c, const struct kvt_entry *e,
		   const struct kvt_item *item)
{
	const struct kvt_seq_block *from = &c->seqs[e->seq].blocks[e->block];
	uint32_t table = (uint32_t)(c->copies[e->seq].blocks - c->blocks);
	struct kvt_seq_block *to = &c->blocks[table + e->block];
	uint64_t offset;

	if (inside(c->stream->pool, from->k, item->block, &offset))
		to->k = item->arrival.addr + offset;
	if (inside(c->stream->pool, from->v, item->block, &offset))
		to->v = item->arrival.addr + offset;
}

static void fail(struct kvt_stream_call *c, const struct kvt_item *item)
{
	uint32_t i;

	c->error = item->arrival.error;
	for (i = 0; i < item->nr_entries; i++)
		c->failed[c->entries[c->item_entries[item->first_entry + i]].seq] = c->error;
}

static void arrived(struct kvt_stream_call *c, const struct kvt_arrival *arrival)
{
	struct kvt_item *item = &c->items[c->stream->item_of[arrival->block]];
	uint32_t i, node;

	item->arrival = *arrival;
	c->nr_missing--;
	if (arrival->error) {
		fail(c, item);
		return;
	}
	if (arrival->streamed)
		c->stream->stats.streamed++;
	else
		c->stream->stats.resident++;
	c->resident += !arrival->streamed;
	node = node_of(arrival->addr);
	for (i = 0; i < item->nr_entries; i++) {
		uint32_t entry = c->item_entries[item->first_entry + i];
		struct kvt_entry *e = &c->entries[entry];

		follow(c, e, item);
		if (!--e->missing)
			push_entry(c, entry, node);
	}
}

static bool take_all(struct kvt_stream_call *c)
{
	struct kvt_fetch *f = c->stream->fetch;
	struct kvt_arrival arrival;
	bool any = false;

	while (c->nr_missing && f->ops->take(f, &arrival, false)) {
		arrived(c, &arrival);
		any = true;
	}
	if (any)
		pthread_cond_broadcast(&c->ready_cond);
	return any;
}

/* Nobody else takes meanwhile, so that what this one waits for cannot go by it. */
static void wait_for_more(struct kvt_stream_call *c)
{
	struct kvt_fetch *f = c->stream->fetch;
	uint64_t start = kvt_stream_now();
	struct kvt_arrival arrival;

	if (c->nr_given == c->nr_done)
		f->ops->starve(f);
	if (c->fetching || !c->nr_missing) {
		pthread_cond_wait(&c->ready_cond, &c->lock);
	} else {
		c->fetching = true;
		pthread_mutex_unlock(&c->lock);
		f->ops->take(f, &arrival, true);
		pthread_mutex_lock(&c->lock);
		c->fetching = false;
		arrived(c, &arrival);
		pthread_cond_broadcast(&c->ready_cond);
	}
	c->wait_ns += kvt_stream_now() - start;
}

/* ---- what workers call --------------------------------------------------- */

static int64_t next_locked(struct kvt_stream_call *c, unsigned int worker, bool wait)
{
	for (;;) {
		if (c->error)
			return kvt_task_error(c->error);
		if (c->nr_ready)
			return pop_for(c, worker);
		if (c->nr_given == c->work->nr_tasks)
			return KVT_TASK_NONE;
		if (!c->fetching && take_all(c))
			continue;
		if (!wait)
			return KVT_TASK_LATER;
		wait_for_more(c);
	}
}

static int64_t next(struct kvt_source *source, unsigned int worker, bool wait)
{
	struct kvt_stream_call *c = call_of(source);
	int64_t ret;

	pthread_mutex_lock(&c->lock);
	ret = next_locked(c, worker, wait);
	pthread_mutex_unlock(&c->lock);
	return ret;
}

static void release(struct kvt_stream_call *c, struct kvt_item *item)
{
	struct kvt_fetch *f = c->stream->fetch;
	bool keep;

	pthread_mutex_lock(&c->lock);
	keep = kvt_share_keep(c, &item->arrival);
	c->stream->stats.kept += keep && item->arrival.streamed;
	pthread_mutex_unlock(&c->lock);
	f->ops->done(f, &item->arrival, keep);
}

static void done(struct kvt_source *source, uint32_t task, unsigned int worker)
{
	struct kvt_stream_call *c = call_of(source);
	const struct kvt_leaf *leaf = &c->work->leaves[c->work->tasks[task].leaf];
	struct kvt_entry *e = &c->entries[kvt_work_block(c->work, leaf->seq, leaf->block)];
	uint32_t i;

	(void)worker;
	pthread_mutex_lock(&c->lock);
	c->nr_done++;
	pthread_mutex_unlock(&c->lock);
	if (atomic_fetch_sub(&e->left, 1) > 1)
		return;
	for (i = 0; i < e->nr_items; i++) {
		struct kvt_item *item = &c->items[c->entry_items[e->first_item + i]];

		if (atomic_fetch_sub(&item->left, 1) == 1)
			release(c, item);
	}
}

/* ---- a pass -------------------------------------------------------------- */

static void reset_entries(struct kvt_stream_call *c)
{
	uint32_t i;

	for (i = 0; i < c->nr_entries; i++) {
		struct kvt_entry *e = &c->entries[i];

		atomic_store(&e->left, c->work->block_task[i + 1] - c->work->block_task[i]);
		e->missing = e->nr_items;
		if (!e->missing)
			push_entry(c, i, 0);
	}
}

/* Between passes everything has been given back, so all is wanted again. */
static void start(struct kvt_source *source, const struct kvt_work *w)
{
	struct kvt_stream_call *c = call_of(source);
	struct kvt_fetch *f = c->stream->fetch;
	uint32_t i;

	c->work = w;
	pthread_mutex_lock(&c->lock);
	c->nr_ready = c->nr_given = c->nr_done = 0;
	for (i = 0; i < KVT_NODES; i++)
		c->ready[i].first = c->ready[i].nr = 0;
	reset_entries(c);
	for (i = 0; i < c->nr_items; i++) {
		atomic_store(&c->items[i].left, c->items[i].nr_entries);
		c->items[i].arrival.addr = NULL;
	}
	c->nr_missing = c->nr_items;
	kvt_share_begin(c);
	pthread_mutex_unlock(&c->lock);
	if (c->nr_items)
		f->ops->want(f, c->wants, c->nr_items, c->ahead, c->nr_ahead);
}

int kvt_call_start(struct kvt_stream_call *c, const struct kvt_work *w)
{
	uint32_t i;

	c->work = w;
	c->source = (struct kvt_source){ .start = start, .next = next, .done = done };
	c->ready_tasks = calloc((size_t)KVT_NODES * w->nr_tasks + 1, sizeof(*c->ready_tasks));
	if (!c->ready_tasks)
		return -ENOMEM;
	for (i = 0; i < KVT_NODES; i++)
		c->ready[i].tasks = c->ready_tasks + (size_t)i * w->nr_tasks;
	return 0;
}

static void give_back(struct kvt_stream_call *c, struct kvt_item *item)
{
	struct kvt_fetch *f = c->stream->fetch;

	if (item->arrival.addr && atomic_exchange(&item->left, 0) && !item->arrival.error)
		f->ops->done(f, &item->arrival, !item->arrival.streamed);
}

/* No worker is at work.  What came makes room for what is still to come. */
void kvt_call_drain(struct kvt_stream_call *c)
{
	struct kvt_fetch *f = c->stream->fetch;
	struct kvt_arrival arrival;
	uint32_t i;

	for (i = 0; i < c->nr_items; i++)
		give_back(c, &c->items[i]);
	while (c->nr_missing && f->ops->take(f, &arrival, true)) {
		arrived(c, &arrival);
		give_back(c, &c->items[c->stream->item_of[arrival.block]]);
	}
}
