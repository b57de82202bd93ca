// SPDX-License-Identifier: MIT
/*
 * Who waits in a fault, and for what: found by block and by thread, and of the blocks those
 * in a queue that lack memory or room for a transfer.  However many wait, each comes, is
 * found and goes in the same time.
 */
#include <errno.h>
#include <stdlib.h>

#include "kvtierd.h"

#define BUCKETS_MIN 64u

struct waits {
	uint32_t buckets; /* a power of two */
	struct wanted **blocks;
	struct wait **threads;
	struct wanted *first, *last; /* starved */
};

static struct wanted **bucket_of_block(const struct waits *ws, uint32_t b)
{
	return &ws->blocks[(b * 0x9e3779b1u >> 7) & (ws->buckets - 1)];
}

static struct wait **bucket_of_thread(const struct waits *ws, uint32_t tid)
{
	return &ws->threads[(tid * 0x9e3779b1u >> 7) & (ws->buckets - 1)];
}

/* ---- the tables -------------------------------------------------------------------------- */

static void move_all(struct waits *to, const struct waits *from)
{
	struct wanted *n, *next;
	struct wait *w, *after;
	uint32_t i;

	for (i = 0; i < from->buckets; i++) {
		for (n = from->blocks[i]; n; n = next) {
			next = n->next;
			n->next = *bucket_of_block(to, n->block);
			*bucket_of_block(to, n->block) = n;
		}
		for (w = from->threads[i]; w; w = after) {
			after = w->next_of_bucket;
			w->next_of_bucket = *bucket_of_thread(to, w->tid);
			*bucket_of_thread(to, w->tid) = w;
		}
	}
}

/* More waits than buckets: longer tables, or without memory for them longer searches. */
static int make_room(struct pool *p)
{
	struct waits *ws = p->waits, wider = { 0 };

	if (!ws)
		ws = p->waits = calloc(1, sizeof(*ws));
	if (!ws)
		return -ENOMEM;
	if (p->nr_waits < ws->buckets)
		return 0;
	wider = *ws;
	wider.buckets = ws->buckets ? 2 * ws->buckets : BUCKETS_MIN;
	wider.blocks = calloc(wider.buckets, sizeof(struct wanted *));
	wider.threads = calloc(wider.buckets, sizeof(struct wait *));
	if (!wider.blocks || !wider.threads) {
		free(wider.blocks);
		free(wider.threads);
		return ws->buckets ? 0 : -ENOMEM;
	}
	move_all(&wider, ws);
	free(ws->blocks);
	free(ws->threads);
	*ws = wider;
	return 0;
}

/* Of a pool that has no clients any more. */
void waits_exit(struct pool *p)
{
	if (!p->waits)
		return;
	free(p->waits->blocks);
	free(p->waits->threads);
	free(p->waits);
	p->waits = NULL;
}

/* ---- blocks ------------------------------------------------------------------------------ */

struct wanted *wanted_of(const struct pool *p, uint32_t b)
{
	struct wanted *n;

	if (!p->nr_waits)
		return NULL;
	for (n = *bucket_of_block(p->waits, b); n && n->block != b; n = n->next)
		;
	return n;
}

static struct wanted *want(struct pool *p, uint32_t b)
{
	struct wanted *n = wanted_of(p, b), **bucket = bucket_of_block(p->waits, b);

	if (n)
		return n;
	n = calloc(1, sizeof(*n));
	if (!n)
		return NULL;
	n->block = b;
	n->since_ns = now_ns();
	n->next = *bucket;
	*bucket = n;
	return n;
}

static void unqueue(struct waits *ws, struct wanted *n)
{
	if (n->before)
		n->before->after = n->after;
	else
		ws->first = n->after;
	if (n->after)
		n->after->before = n->before;
	else
		ws->last = n->before;
	n->before = n->after = NULL;
	n->starved = false;
}

static void unwant(struct pool *p, struct wanted *n)
{
	struct wanted **at = bucket_of_block(p->waits, n->block);

	if (n->waits)
		return;
	if (n->starved)
		unqueue(p->waits, n);
	while (*at != n)
		at = &(*at)->next;
	*at = n->next;
	free(n);
}

/* It could, or could not, be given what it lacks; it keeps its place. */
void wanted_starves(struct pool *p, struct wanted *n, bool starved)
{
	struct waits *ws = p->waits;

	if (n->starved == starved)
		return;
	if (!starved) {
		unqueue(ws, n);
		return;
	}
	n->starved = true;
	n->before = ws->last;
	if (ws->last)
		ws->last->after = n;
	else
		ws->first = n;
	ws->last = n;
}

struct wanted *wanted_first(const struct pool *p)
{
	return p->waits ? p->waits->first : NULL;
}

/* ---- threads ----------------------------------------------------------------------------- */

void wait_free(struct pool *p, struct wait *w)
{
	struct wait **at = bucket_of_thread(p->waits, w->tid);
	struct wanted *n = w->wanted;

	while (*at != w)
		at = &(*at)->next_of_bucket;
	*at = w->next_of_bucket;
	*w->at = w->next;
	if (w->next)
		w->next->at = w->at;
	free(w);
	unwant(p, n);
	if (!--p->nr_waits) {
		p->stats.fault_wait_ns += now_ns() - p->wait_since_ns;
		p->d->count.wait_ns += now_ns() - p->wait_since_ns;
	}
}

/* A thread waits for one thing: what it asked for before, it had, or a signal came between. */
static void forget_thread(struct attachment *a, uint32_t tid)
{
	struct pool *p = a->pool;
	struct wait *w, *next;

	for (w = *bucket_of_thread(p->waits, tid); w; w = next) {
		next = w->next_of_bucket;
		if (w->a == a && w->tid == tid)
			wait_free(p, w);
	}
}

int wait_add(struct attachment *a, uint32_t b, uint32_t tid, uint64_t addr, bool write)
{
	struct pool *p = a->pool;
	struct wait *w = malloc(sizeof(*w)), **bucket;
	struct wanted *n;

	if (!w || make_room(p)) {
		free(w);
		return -ENOMEM;
	}
	forget_thread(a, tid);
	n = want(p, b);
	if (!n) {
		free(w);
		return -ENOMEM;
	}
	bucket = bucket_of_thread(p->waits, tid);
	*w = (struct wait){ .next = n->waits,
			    .at = &n->waits,
			    .next_of_bucket = *bucket,
			    .wanted = n,
			    .a = a,
			    .since_ns = now_ns(),
			    .addr = addr,
			    .tid = tid,
			    .write = write };
	if (n->waits)
		n->waits->at = &w->next;
	n->waits = *bucket = w;
	if (!p->nr_waits++) {
		p->wait_since_ns = w->since_ns;
		p->waits_expire_ns = 0;
	}
	if (!p->waits_expire_ns)
		p->waits_expire_ns = w->since_ns + (uint64_t)p->t->deadline_ms * NS_PER_MS;
	return 0;
}

/* Call @visit with each, which may free that one. */
void waits_each(struct pool *p, void (*visit)(struct pool *p, struct wait *w, void *arg), void *arg)
{
	struct wait *w, *next;
	uint32_t i;

	for (i = 0; p->nr_waits && i < p->waits->buckets; i++) {
		for (w = p->waits->threads[i]; w; w = next) {
			next = w->next_of_bucket;
			visit(p, w, arg);
		}
	}
}
