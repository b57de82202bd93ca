// SPDX-License-Identifier: MIT
/* What a call reads: which blocks of the pool, and which entries of its tables need them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "pool.h"
#include "stream.h"

/* Blocks [first, end) of the pool; none when both are equal. */
struct span {
	uint32_t first, end;
};

static struct span span_of(const struct kvt_pool *pool, const void *base, size_t bytes)
{
	uintptr_t start = (uintptr_t)pool->addr, at = (uintptr_t)base;
	struct span none = { 0, 0 };

	if (!bytes || at >= start + pool->bytes || at + bytes <= start)
		return none;
	if (at < start) {
		bytes -= start - at;
		at = start;
	}
	if (at + bytes > start + pool->bytes)
		bytes = start + pool->bytes - at;
	return (struct span){ .first = (uint32_t)((at - start) >> pool->block_shift),
			      .end = (uint32_t)((at - start + bytes - 1) >> pool->block_shift) +
				     1 };
}

static size_t rows_bytes(uint32_t tokens, uint32_t stride, uint32_t type, uint32_t heads,
			 uint32_t dim)
{
	return tokens ? (size_t)(tokens - 1) * stride + heads * kvt_row_bytes(type, dim) : 0;
}

/* Where the keys and the values of a table's block lie in the pool. */
static void spans(const struct kvt_pool *pool, const struct kvt_attend_params *p,
		  const struct kvt_seq_block *b, struct span *k, struct span *v)
{
	*k = span_of(pool, b->k,
		     rows_bytes(b->tokens, b->k_stride, b->k_type, p->kv_heads, p->k_dim));
	*v = (struct span){ 0, 0 };
	if (b->v)
		*v = span_of(pool, b->v,
			     rows_bytes(b->tokens, b->v_stride, b->v_type, p->kv_heads, p->v_dim));
}

/* ---- items and entries --------------------------------------------------- */

static uint32_t item_for(struct kvt_stream_call *c, uint32_t block)
{
	uint32_t *item = &c->stream->item_of[block];

	if (*item == KVT_ITEM_NONE) {
		*item = c->nr_items++;
		c->items[*item].block = block;
	}
	return *item;
}

/* Without those of @but: keys and values may share blocks, and each is named once. */
static void add_span(struct kvt_stream_call *c, struct kvt_entry *e, struct span s, struct span but)
{
	uint32_t b;

	for (b = s.first; b < s.end; b++) {
		uint32_t item = item_for(c, b);

		c->items[item].mapped |= s.end - s.first > 1;
		if (b >= but.first && b < but.end)
			continue;
		c->entry_items[e->first_item + e->nr_items++] = item;
		c->items[item].nr_entries++;
	}
}

static void add_entries(struct kvt_stream_call *c, const struct kvt_work *w)
{
	uint32_t s, b, at = 0, entry = 0;

	for (s = 0; s < c->nr_seqs; s++) {
		for (b = 0; b < c->seqs[s].nr_blocks; b++) {
			struct kvt_entry *e = &c->entries[entry++];
			struct span k, v;

			*e = (struct kvt_entry){ .seq = s, .block = b, .first_item = at };
			if (!kvt_work_wants(w, s, b))
				continue;
			spans(c->stream->pool, &w->params, &c->seqs[s].blocks[b], &k, &v);
			add_span(c, e, k, (struct span){ 0, 0 });
			add_span(c, e, v, k);
			at += e->nr_items;
		}
	}
}

/* The other direction: which entries an item lets go on. */
static void add_users(struct kvt_stream_call *c)
{
	uint32_t i, at = 0, entry;

	for (i = 0; i < c->nr_items; i++) {
		c->items[i].first_entry = at;
		at += c->items[i].nr_entries;
		c->items[i].nr_entries = 0;
	}
	for (entry = 0; entry < c->nr_entries; entry++) {
		const struct kvt_entry *e = &c->entries[entry];

		for (i = 0; i < e->nr_items; i++) {
			struct kvt_item *item = &c->items[c->entry_items[e->first_item + i]];

			c->item_entries[item->first_entry + item->nr_entries++] = entry;
		}
	}
}

/* ---- a call's memory ----------------------------------------------------- */

/* How much there is to be: entries, and places for their items. */
static size_t measure(struct kvt_stream_call *c, const struct kvt_attend_params *p)
{
	size_t places = 0;
	uint32_t s, b;

	for (s = 0; s < c->nr_seqs; s++) {
		c->nr_entries += c->seqs[s].nr_blocks;
		for (b = 0; b < c->seqs[s].nr_blocks; b++) {
			struct span k, v;

			spans(c->stream->pool, p, &c->seqs[s].blocks[b], &k, &v);
			places += k.end - k.first + v.end - v.first;
		}
	}
	return places;
}

static int allocate(struct kvt_stream_call *c, size_t places)
{
	size_t items = places < c->stream->nr_blocks ? places : c->stream->nr_blocks;

	c->copies = calloc(c->nr_seqs, sizeof(*c->copies));
	c->failed = calloc(c->nr_seqs, sizeof(*c->failed));
	c->blocks = calloc(c->nr_entries + 1, sizeof(*c->blocks));
	c->entries = calloc(c->nr_entries + 1, sizeof(*c->entries));
	c->items = calloc(items + 1, sizeof(*c->items));
	c->wants = calloc(items + 1, sizeof(*c->wants));
	c->item_entries = calloc(places + 1, sizeof(*c->item_entries));
	c->entry_items = calloc(places + 1, sizeof(*c->entry_items));
	return c->copies && c->failed && c->blocks && c->entries && c->items && c->wants &&
			       c->item_entries && c->entry_items ?
		       0 :
		       -ENOMEM;
}

static void copy_tables(struct kvt_stream_call *c)
{
	struct kvt_seq_block *to = c->blocks;
	uint32_t s;

	for (s = 0; s < c->nr_seqs; s++) {
		c->copies[s] = c->seqs[s];
		c->copies[s].blocks = to;
		if (c->seqs[s].nr_blocks)
			memcpy(to, c->seqs[s].blocks, c->seqs[s].nr_blocks * sizeof(*to));
		to += c->seqs[s].nr_blocks;
	}
}

int kvt_call_init(struct kvt_stream_call *c, struct kvt_stream *s,
		  const struct kvt_attend_params *params, const struct kvt_attend_seq *seqs,
		  uint32_t nr)
{
	int ret;

	memset(c, 0, sizeof(*c));
	c->stream = s;
	c->seqs = seqs;
	c->nr_seqs = nr;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->ready_cond, NULL);
	ret = allocate(c, measure(c, params));
	if (ret)
		kvt_call_exit(c);
	else
		copy_tables(c);
	return ret;
}

void kvt_call_plan(struct kvt_stream_call *c, const struct kvt_work *w)
{
	uint32_t i;

	add_entries(c, w);
	add_users(c);
	for (i = 0; i < c->nr_items; i++)
		c->wants[i] = (struct kvt_want){ .block = c->items[i].block,
						 .mapped = c->items[i].mapped };
}

void kvt_call_exit(struct kvt_stream_call *c)
{
	uint32_t i;

	for (i = 0; i < c->nr_items; i++)
		c->stream->item_of[c->items[i].block] = KVT_ITEM_NONE;
	free(c->copies);
	free(c->failed);
	free(c->blocks);
	free(c->entries);
	free(c->items);
	free(c->wants);
	free(c->ahead);
	free(c->item_entries);
	free(c->entry_items);
	free(c->ready_tasks);
	pthread_mutex_destroy(&c->lock);
	pthread_cond_destroy(&c->ready_cond);
}

/* ---- what comes next ----------------------------------------------------- */

static void add_ahead(struct kvt_stream_call *c, struct span s)
{
	uint32_t b;

	for (b = s.first; b < s.end && c->nr_ahead < c->stream->nr_blocks; b++) {
		if (c->stream->item_of[b] != KVT_ITEM_NONE)
			continue; /* in this call, or in the list already */
		c->stream->item_of[b] = c->nr_items;
		c->ahead[c->nr_ahead++] = (struct kvt_want){ .block = b,
							     .mapped = s.end - s.first > 1 };
	}
}

int kvt_call_ahead(struct kvt_stream_call *c, const struct kvt_attend_params *params,
		   const struct kvt_stream_table *next, uint32_t nr)
{
	uint32_t i, b;

	if (!nr)
		return 0;
	c->ahead = calloc(c->stream->nr_blocks, sizeof(*c->ahead));
	if (!c->ahead)
		return -ENOMEM;
	for (i = 0; i < nr; i++) {
		for (b = 0; b < next[i].nr_blocks; b++) {
			struct span k, v;

			spans(c->stream->pool, params, &next[i].blocks[b], &k, &v);
			add_ahead(c, k);
			add_ahead(c, v);
		}
	}
	for (i = 0; i < c->nr_ahead; i++)
		c->stream->item_of[c->ahead[i].block] = KVT_ITEM_NONE;
	return 0;
}
