// SPDX-License-Identifier: MIT
/* Infinite, LRU and Belady: the references of kvtier trace replay. */
#include <stdlib.h>
#include <string.h>

#include "trace_cache.h"

/* Hits of request @i when @in says which blocks are there. */
static uint64_t hits_of(const struct trace *t, size_t i, const uint8_t *in)
{
	const uint32_t *b = trace_blocks(t, i);
	uint64_t hits = 0;
	uint32_t k;

	for (k = 0; k < t->request[i].nr && (in[b[k]] || !t->prefix); k++)
		hits += in[b[k]];
	return hits;
}

uint64_t trace_infinite(const struct trace *t)
{
	uint8_t *in = calloc(t->nr_blocks, 1);
	uint64_t hits = 0;
	size_t i;
	uint32_t k;

	if (!in)
		return TRACE_FAILED;
	for (i = 0; i < t->nr_requests; i++) {
		hits += hits_of(t, i, in);
		for (k = 0; k < t->request[i].nr; k++)
			in[trace_blocks(t, i)[k]] = 1;
	}
	free(in);
	return hits;
}

/* ---- LRU ----------------------------------------------------------------------- */

/* A ring through all blocks that are in; the last entry is its head. */
struct ring {
	uint32_t *next, *prev;
	uint8_t *in;
	uint32_t head;
};

static void unlink_block(struct ring *r, uint32_t b)
{
	r->next[r->prev[b]] = r->next[b];
	r->prev[r->next[b]] = r->prev[b];
}

static void link_newest(struct ring *r, uint32_t b)
{
	r->next[b] = r->next[r->head];
	r->prev[b] = r->head;
	r->prev[r->next[b]] = b;
	r->next[r->head] = b;
}

static void touch(struct ring *r, uint32_t b, uint32_t *room)
{
	uint32_t oldest;

	if (r->in[b]) {
		unlink_block(r, b);
	} else if (*room) {
		(*room)--;
	} else {
		oldest = r->prev[r->head];
		unlink_block(r, oldest);
		r->in[oldest] = 0;
	}
	r->in[b] = 1;
	link_newest(r, b);
}

uint64_t trace_lru(const struct trace *t, uint32_t room)
{
	size_t n = (size_t)t->nr_blocks + 1, i;
	struct ring r = { .next = malloc(n * sizeof(*r.next)),
			  .prev = malloc(n * sizeof(*r.prev)),
			  .in = calloc(n, 1),
			  .head = t->nr_blocks };
	uint64_t hits = TRACE_FAILED;
	uint32_t k;

	if (r.next && r.prev && r.in) {
		hits = 0;
		r.next[r.head] = r.prev[r.head] = r.head;
		for (i = 0; i < t->nr_requests; i++) {
			hits += hits_of(t, i, r.in);
			for (k = 0; k < t->request[i].nr; k++)
				touch(&r, trace_blocks(t, i)[k], &room);
		}
	}
	free(r.next);
	free(r.prev);
	free(r.in);
	return hits;
}

/* ---- Belady -------------------------------------------------------------------- */

/* The block that is used again last is on top; entries that no longer hold stay in. */
struct heap {
	struct entry {
		uint64_t again;
		uint32_t block;
	} *e;
	size_t nr;
};

static void push(struct heap *h, uint64_t again, uint32_t block)
{
	size_t i = h->nr++, up;

	for (; i; i = up) {
		up = (i - 1) / 2;
		if (h->e[up].again >= again)
			break;
		h->e[i] = h->e[up];
	}
	h->e[i] = (struct entry){ again, block };
}

static struct entry pop(struct heap *h)
{
	struct entry top = h->e[0], last = h->e[--h->nr];
	size_t i = 0, down;

	while ((down = 2 * i + 1) < h->nr) {
		if (down + 1 < h->nr && h->e[down + 1].again > h->e[down].again)
			down++;
		if (h->e[down].again <= last.again)
			break;
		h->e[i] = h->e[down];
		i = down;
	}
	h->e[i] = last;
	return top;
}

/*
 * When each access's block is used again: the request's number, and its place there,
 * so that of one request's blocks the last goes first (without its parent it is of no use).
 */
static uint64_t *uses_again(const struct trace *t)
{
	uint64_t *again = malloc((t->nr_accesses + 1) * sizeof(*again));
	uint64_t *next = malloc((t->nr_blocks + 1) * sizeof(*next));
	size_t i = t->nr_requests;
	uint32_t k, b;

	if (!again || !next) {
		free(again);
		free(next);
		return NULL;
	}
	memset(next, 0xff, (t->nr_blocks + 1) * sizeof(*next));
	while (i--) {
		for (k = t->request[i].nr; k--;) {
			b = trace_blocks(t, i)[k];
			again[t->request[i].first + k] = next[b];
			next[b] = (uint64_t)i << 24 | (k < 0xffffff ? k : 0xffffff);
		}
	}
	free(next);
	return again;
}

struct belady {
	const struct trace *t;
	const uint64_t *again;
	uint64_t *now; /* of each block: when it is used again */
	uint8_t *in;
	struct heap heap;
	uint32_t nr, room;
};

static void belady_serve(struct belady *b, size_t i)
{
	const struct trace_request *r = &b->t->request[i];
	struct entry top;
	uint32_t k, block;

	for (k = 0; k < r->nr; k++) {
		block = trace_blocks(b->t, i)[k];
		b->now[block] = b->again[r->first + k];
		b->nr += !b->in[block];
		b->in[block] = 1;
		push(&b->heap, b->now[block], block);
	}
	while (b->nr > b->room) {
		top = pop(&b->heap);
		if (!b->in[top.block] || b->now[top.block] != top.again)
			continue;
		b->in[top.block] = 0;
		b->nr--;
	}
}

uint64_t trace_belady(const struct trace *t, uint32_t room)
{
	uint64_t *again = uses_again(t), hits = TRACE_FAILED;
	struct belady b = { .t = t,
			    .again = again,
			    .now = calloc(t->nr_blocks, sizeof(*b.now)),
			    .in = calloc(t->nr_blocks, 1),
			    .heap.e = malloc((t->nr_accesses + 1) * sizeof(struct entry)),
			    .room = room };
	size_t i;

	if (again && b.now && b.in && b.heap.e) {
		hits = 0;
		for (i = 0; i < t->nr_requests; i++) {
			hits += hits_of(t, i, b.in);
			belady_serve(&b, i);
		}
	}
	free(again);
	free(b.now);
	free(b.in);
	free(b.heap.e);
	return hits;
}
