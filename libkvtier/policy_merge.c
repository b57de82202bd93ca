// SPDX-License-Identifier: MIT
/*
 * Merge instead of drop: two neighbouring pieces of equal weight become one, whose
 * rows are the means of two neighbouring rows each.  A row of the result stands for
 * twice as many positions; attention accounts for that by adding log(span / rows) to
 * the log-sum-exp of the piece before it is merged with the others.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "error.h"
#include "kvtier_attend.h"
#include "policy.h"

static bool mergeable(const struct kvt_seq *seq, const struct kvt_piece *p, uint64_t tokens)
{
	const struct kvt_piece *next = p + 1;

	return kvt_piece_droppable(seq, p, tokens) &&
	       kvt_piece_droppable(seq, next, tokens) &&
	       p->extent->layout == KVT_HOT && next->extent->layout == KVT_HOT &&
	       p->position + p->span == next->position && p->rows == next->rows &&
	       p->span == next->span && !(p->rows & 1);
}

/* What is worth more than most is not averaged away: rather something else is dropped. */
static double worth_limit(const struct kvt_seq *seq)
{
	const struct kvt_piece *p;
	uint64_t tokens = kvt_seq_tokens(seq);
	double sum = 0;
	uint32_t nr = 0;

	if (seq->policy->policy.kind == KVT_FIFO)
		return HUGE_VAL;
	for (p = seq->pieces; p < seq->pieces + seq->nr_pieces; p++) {
		if (!kvt_piece_droppable(seq, p, tokens))
			continue;
		sum += kvt_piece_worth(seq, p);
		nr++;
	}
	return nr ? sum / nr : 0;
}

static struct kvt_piece *worst_pair(const struct kvt_seq *seq)
{
	struct kvt_piece *p, *worst = NULL;
	double worth, least = 0, limit = worth_limit(seq);
	uint64_t tokens = kvt_seq_tokens(seq);

	for (p = seq->pieces; p + 1 < seq->pieces + seq->nr_pieces; p++) {
		if (!mergeable(seq, p, tokens) || kvt_piece_worth(seq, p) > limit ||
		    kvt_piece_worth(seq, p + 1) > limit)
			continue;
		worth = kvt_piece_worth(seq, p) + kvt_piece_worth(seq, p + 1);
		if (worst && worth >= least)
			continue;
		worst = p;
		least = worth;
	}
	return worst;
}

/* Means of neighbouring rows, @width floats each, in place. */
static void average(float *rows, uint32_t nr, uint32_t width)
{
	uint32_t i, j;

	for (i = 0; i < nr / 2; i++)
		for (j = 0; j < width; j++)
			rows[(size_t)i * width + j] =
				0.5f * (rows[(size_t)2 * i * width + j] +
					rows[((size_t)2 * i + 1) * width + j]);
}

/* Half of @from's rows, averaged, into rows @at and on of @to. */
static void merge_layer(struct kvt_cache *c, const struct kvt_piece *from,
			const struct kvt_extent *to, uint32_t layer, uint32_t at, float *room)
{
	const struct kvt_geometry *g = &c->geometry;

	kvt_dequantize(g->k_type, g->k_dim, g->kv_heads, from->rows,
		       kvt_k_row(c, from->extent, layer, 0), 0, room);
	average(room, from->rows, g->k_dim * g->kv_heads);
	kvt_quantize(g->k_type, g->k_dim, g->kv_heads, from->rows / 2, room,
		     kvt_k_row(c, to, layer, at), 0);
	kvt_dequantize(g->v_type, g->v_dim, g->kv_heads, from->rows,
		       kvt_v_row(c, from->extent, layer, 0), 0, room);
	average(room, from->rows, g->v_dim * g->kv_heads);
	kvt_quantize(g->v_type, g->v_dim, g->kv_heads, from->rows / 2, room,
		     kvt_v_row(c, to, layer, at), 0);
}

static int merge_group(struct kvt_cache *c, const struct kvt_piece *pair,
		       const struct kvt_extent *to, uint32_t group, float *room)
{
	uint32_t blocks[] = { pair[0].extent->blocks[group], pair[1].extent->blocks[group],
			      to->blocks[group] };
	uint32_t layer = group * c->geometry.layers_per_block, i;
	uint32_t end = layer + c->geometry.layers_per_block;
	struct kvt_hold hold;
	int ret = kvt_hold(&hold, c, blocks, 3);

	if (ret)
		return ret;
	for (; layer < end && layer < c->geometry.layers; layer++)
		for (i = 0; i < 2; i++)
			merge_layer(c, &pair[i], to, layer, i * pair[0].rows / 2, room);
	kvt_unhold(&hold);
	return 0;
}

static int fill(struct kvt_cache *c, const struct kvt_piece *pair, const struct kvt_extent *to)
{
	const struct kvt_geometry *g = &c->geometry;
	uint32_t dim = g->k_dim > g->v_dim ? g->k_dim : g->v_dim, group;
	float *room = calloc((size_t)pair->rows * dim * g->kv_heads, sizeof(*room));
	int ret = room ? 0 : kvt_fail(-ENOMEM, "no memory to merge extents");

	for (group = 0; !ret && group < c->groups; group++)
		ret = merge_group(c, pair, to, group, room);
	free(room);
	return ret;
}

int kvt_policy_merge(struct kvt_seq *seq)
{
	struct kvt_piece *pair = worst_pair(seq);
	struct kvt_extent *merged;
	int ret;

	if (!pair)
		return 0;
	ret = kvt_extent_new(seq->cache, KVT_HOT, &merged);
	if (ret)
		return ret;
	ret = fill(seq->cache, pair, merged);
	if (!ret)
		ret = kvt_extent_seal(seq->cache, merged);
	if (ret) {
		kvt_extent_put(seq->cache, merged);
		return ret;
	}
	kvt_extent_put(seq->cache, pair->extent);
	pair->extent = merged;
	pair->span *= 2;
	pair->mass += pair[1].mass;
	pair->uses += pair[1].uses;
	pair->used = pair->used > pair[1].used ? pair->used : pair[1].used;
	kvt_piece_remove(seq, pair + 1);
	return 1;
}
