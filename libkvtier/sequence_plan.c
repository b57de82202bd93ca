// SPDX-License-Identifier: MIT
/*
 * Plans that attention publishes by itself, where the pool is kvtierd's.
 *
 * Decoding attends to the same extents, layer by layer, at every step.  So the first
 * attention publishes that round, beginning with its own layer, as a plan that repeats;
 * each layer that is done is passed.  When an append has made an extent, or other
 * sequences are attended to, the next attention publishes anew.  One thread plans for a
 * cache; what others attend to at the same time is not planned for.
 *
 * Before there was any attention, the first append to a sequence that has content (one
 * that was restored, say) publishes the round that is about to begin.
 */
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "sequence.h"

static uint64_t mix(uint64_t hash, uint64_t value)
{
	return (hash ^ value) * 0x100000001b3ull;
}

/* What the round is of: changes when an extent comes or goes. */
static uint64_t signature(const struct kvt_seq_query *queries, uint32_t nr)
{
	uint64_t hash = 0xcbf29ce484222325ull;
	uint32_t i, p;

	for (i = 0; i < nr; i++) {
		const struct kvt_seq *seq = queries[i].seq;

		hash = mix(hash, (uintptr_t)seq);
		for (p = 0; p < seq->nr_pieces; p++)
			hash = mix(hash, (uintptr_t)seq->pieces[p].extent);
	}
	return hash ? hash : 1;
}

static uint64_t ranges_of_layer(const struct kvt_seq_query *queries, uint32_t nr)
{
	uint64_t ranges = 0;
	uint32_t i;

	for (i = 0; i < nr; i++)
		ranges += queries[i].seq->nr_pieces;
	return ranges;
}

static uint32_t put_layer(const struct kvt_cache *c, uint32_t layer,
			  const struct kvt_seq_query *queries, uint32_t nr,
			  struct kvt_plan_range *ranges)
{
	uint64_t bytes = kvt_pool_block_bytes(c->pool);
	uint32_t group = layer / c->geometry.layers_per_block, i, p, at = 0;

	for (i = 0; i < nr; i++) {
		const struct kvt_seq *seq = queries[i].seq;

		for (p = 0; p < seq->nr_pieces; p++)
			ranges[at++] = (struct kvt_plan_range){
				seq->pieces[p].extent->blocks[group] * bytes, bytes };
	}
	return at;
}

static bool publish(struct kvt_cache *c, uint32_t layer, const struct kvt_seq_query *queries,
		    uint32_t nr)
{
	uint64_t most = ranges_of_layer(queries, nr) * c->geometry.layers;
	struct kvt_plan_range *ranges;
	uint32_t l, at = 0;
	bool done;

	if (!most || most > KVT_PLAN_ENTRIES_MAX / 2)
		return false;
	ranges = malloc(most * sizeof(*ranges));
	if (!ranges)
		return false;
	for (l = 0; l < c->geometry.layers; l++)
		at += put_layer(c, (layer + l) % c->geometry.layers, queries, nr, ranges + at);
	done = !kvt_plan_publish(c->pool, ranges, at, KVT_PLAN_REPEAT);
	free(ranges);
	return done;
}

/* Is this thread the one that plans for the cache? */
static bool is_planner(struct kvt_cache *c)
{
	bool mine;

	pthread_mutex_lock(&c->lock);
	if (!c->has_planner) {
		c->has_planner = true;
		c->planner = pthread_self();
	}
	mine = pthread_equal(c->planner, pthread_self());
	pthread_mutex_unlock(&c->lock);
	return mine;
}

void kvt_seq_plan(uint32_t layer, const struct kvt_seq_query *queries, uint32_t nr)
{
	struct kvt_cache *c = nr ? queries[0].seq->cache : NULL;
	uint64_t now;
	uint32_t i;

	if (!c || !kvt_is_shared(c->pool) || !is_planner(c))
		return;
	for (i = 1; i < nr; i++)
		if (queries[i].seq->cache != c)
			return;
	now = signature(queries, nr);
	if (now == c->planned && layer == c->plan_layer)
		return;
	c->planned = publish(c, layer, queries, nr) ? now : 0;
	c->plan_layer = layer;
}

void kvt_seq_announce(struct kvt_seq *seq, uint32_t layer)
{
	struct kvt_seq_query query = { .seq = seq };
	struct kvt_cache *c = seq->cache;
	bool first;

	if (!kvt_is_shared(c->pool) || !seq->nr_pieces)
		return;
	pthread_mutex_lock(&c->lock);
	first = !c->has_planner && !c->announced;
	c->announced = true;
	pthread_mutex_unlock(&c->lock);
	layer %= c->geometry.layers;
	if (!first || !publish(c, layer, &query, 1))
		return;
	pthread_mutex_lock(&c->lock);
	if (!c->has_planner) {
		c->planned = signature(&query, 1);
		c->plan_layer = layer;
	}
	pthread_mutex_unlock(&c->lock);
}

void kvt_seq_planned(uint32_t layer, const struct kvt_seq_query *queries, uint32_t nr)
{
	struct kvt_cache *c = nr ? queries[0].seq->cache : NULL;

	if (!c || !kvt_is_shared(c->pool) || !is_planner(c) || !c->planned ||
	    layer != c->plan_layer)
		return;
	kvt_plan_passed(c->pool, ranges_of_layer(queries, nr));
	c->plan_layer = (layer + 1) % c->geometry.layers;
}
