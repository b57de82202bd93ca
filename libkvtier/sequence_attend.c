// SPDX-License-Identifier: MIT
/*
 * Attention over sequences, in one call a layer.
 *
 * The blocks of a sequence are of classes: exact rows, and rows that stand for 2, 4, ...
 * positions after merges.  Each class is attended to by itself; a row that stands for n
 * positions has n times the weight, which is log(n) more in the log-sum-exp of its class.
 * The compressive summary is one part more.  The parts are merged at the end.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "kvtier_attend.h"
#include "policy.h"
#include "sketch.h"
#include "stream.h"

struct job {
	struct kvt_attend *attend;
	struct kvt_attend_params params;
	const struct kvt_seq_query *query;
	uint32_t layer;
	struct kvt_seq_block *blocks; /* the view */
	uint32_t nr_blocks;
	struct kvt_seq_block *next_blocks; /* of the next layer, for a stream to read ahead */
	struct kvt_stream_table next;
	uint8_t *mask; /* blocks of the class at work that are wanted */
	uint8_t *wanted; /* a byte a block: what the sketches leave */
	float *mass;
	uint32_t rows; /* query tokens times heads */
	float *out, *lse; /* result so far */
	float *part, *part_lse;
};

static uint32_t ratio_of(const struct kvt_seq_block *b)
{
	return b->span && b->span > b->tokens ? b->span / b->tokens : 1;
}

/* Of the class: how many blocks it has, and their bits. */
static uint32_t set_mask(struct job *j, uint32_t ratio)
{
	uint32_t i, nr = 0;

	memset(j->mask, 0, (j->nr_blocks + 7) / 8);
	for (i = 0; i < j->nr_blocks; i++) {
		if (!j->wanted[i] || ratio_of(&j->blocks[i]) != ratio)
			continue;
		j->mask[i / 8] |= (uint8_t)(1u << i % 8);
		nr++;
	}
	return nr;
}

/* The next greater class; 0: none. */
static uint32_t next_ratio(const struct job *j, uint32_t ratio)
{
	uint32_t i, next = 0, r;

	for (i = 0; i < j->nr_blocks; i++) {
		r = ratio_of(&j->blocks[i]);
		if (r > ratio && (!next || r < next))
			next = r;
	}
	return next;
}

/* Shares of a class are shares of the whole once they are weighed with the class's own. */
static void add_mass(const struct job *j, float *total, const float *whole)
{
	double share = 0;
	uint32_t i;

	for (i = 0; i < j->rows; i++)
		if (isfinite(j->part_lse[i]))
			share += exp((double)j->part_lse[i] - (double)whole[i]);
	for (i = 0; i < j->nr_blocks; i++)
		if (j->mask[i / 8] >> i % 8 & 1)
			total[i] = (float)(j->mass[i] * share / j->rows);
}

/* ... and those of the classes before it become smaller. */
static void shrink_mass(const struct job *j, float *total, const float *before, const float *after)
{
	double share = 0;
	uint32_t i;

	for (i = 0; i < j->rows; i++)
		if (isfinite(before[i]))
			share += exp((double)before[i] - (double)after[i]);
	for (i = 0; i < j->nr_blocks; i++)
		total[i] = (float)(total[i] * share / j->rows);
}

static int merge_part(struct job *j, float *total)
{
	struct kvt_attend_part parts[] = { { j->out, j->lse }, { j->part, j->part_lse } };
	uint32_t v_dim = j->params.v_dim, i;
	float *before = malloc(j->rows * sizeof(*before));
	int ret;

	if (!before)
		return kvt_fail(-ENOMEM, "no memory for attention");
	memcpy(before, j->lse, j->rows * sizeof(*before));
	ret = kvt_attend_merge(parts, 2, j->rows, v_dim, j->out, j->lse);
	if (!ret) {
		shrink_mass(j, total, before, j->lse);
		add_mass(j, total, j->lse);
	}
	for (i = 0; i < j->nr_blocks; i++)
		j->mass[i] = 0;
	free(before);
	return ret;
}

/* To a sequence all damage is the same. */
static int lost(int error)
{
	return kvt_fail(error == -ETIMEDOUT ? error : -EIO,
			"a block of the sequence is lost (%s): drop the sequence or truncate it "
			"before the block", kvt_strerror(error));
}

/*
 * A touch of a lost block is a signal, so let the pager say first whether all can be had.
 * Where memory is too small for them some are read twice: a stream does better.
 */
static int promote_blocks(struct kvt_cache *c, const struct kvt_seq_block *blocks,
			  const uint8_t *mask, uint32_t nr_blocks)
{
	struct kvtier_range *ranges = calloc(nr_blocks + 1, sizeof(*ranges));
	uint32_t i, nr = 0;
	int ret;

	if (!ranges)
		return kvt_fail(-ENOMEM, "no memory for attention over %u blocks", nr_blocks);
	for (i = 0; i < nr_blocks; i++)
		if (!mask || (mask[i / 8] >> i % 8 & 1))
			ranges[nr++] =
				(struct kvtier_range){ .offset = blocks[i].offset,
						       .length = kvt_pool_block_bytes(c->pool) };
	ret = nr ? kvt_range_op(c->pool, KVTIER_OP_PROMOTE, KVTIER_TIER_NONE, 0, ranges, nr) : 0;
	for (i = 0; ret >= 0 && i < nr; i++)
		if (ranges[i].result == -EIO || ranges[i].result == -ETIMEDOUT)
			ret = lost(ranges[i].result);
	free(ranges);
	return ret < 0 ? ret : 0;
}

static int attend_in_place(struct job *j, const struct kvt_attend_params *params,
			   const struct kvt_attend_seq *seq)
{
	struct kvt_cache *c = j->query->seq->cache;
	int ret = c->has_nvme ? promote_blocks(c, j->blocks, j->mask, j->nr_blocks) : 0;

	return ret ? ret : kvt_attend(j->attend, params, seq, 1);
}

static int attend_class(struct job *j, uint32_t ratio, float *total)
{
	const struct kvt_seq_query *q = j->query;
	struct kvt_attend_seq seq = KVT_ATTEND_SEQ_INIT;
	struct kvt_attend_params params = j->params;
	uint32_t i;
	int ret;

	if (!set_mask(j, ratio) && (ratio > 1 || !params.sink_logits))
		return 0;
	if (ratio > 1)
		params.sink_logits = NULL; /* they take part once */
	seq.q_tokens = q->q_tokens;
	seq.q_position = q->q_position;
	seq.q = q->q;
	seq.out = j->part;
	seq.lse = j->part_lse;
	seq.blocks = j->blocks;
	seq.nr_blocks = j->nr_blocks;
	seq.mask = j->mask;
	seq.mass = j->mass;
	if (q->seq->cache->stream)
		ret = kvt_stream_attend(q->seq->cache->stream, &params, &seq, 1, &j->next, 1, NULL);
	else
		ret = attend_in_place(j, &params, &seq);
	if (ret == -EILSEQ)
		ret = lost(-EIO);
	if (ret)
		return ret;
	for (i = 0; i < j->rows; i++)
		j->part_lse[i] += logf((float)ratio);
	return merge_part(j, total);
}

static int attend_summary(struct job *j, float *total)
{
	const struct kvt_attend_params *p = &j->params;
	const struct kvt_seq_query *q = j->query;
	size_t q_width = (size_t)p->q_heads * p->k_dim, v_width = (size_t)p->q_heads * p->v_dim;
	float scale = p->scale != 0 ? p->scale : 1 / sqrtf((float)p->k_dim);
	uint32_t i;
	int ret = 0;

	if (!kvt_policy_summarised(q->seq))
		return 0;
	for (i = 0; !ret && i < q->q_tokens; i++)
		ret = kvt_seq_summary_attend(q->seq, j->layer, p->q_heads, q->q + i * q_width,
					     scale, j->part + i * v_width,
					     j->part_lse + i * p->q_heads);
	memset(j->mask, 0, (j->nr_blocks + 7) / 8);
	return ret ? ret : merge_part(j, total);
}

static int compute(struct job *j, float *total)
{
	uint32_t i, ratio;
	int ret;

	for (i = 0; i < j->rows; i++)
		j->lse[i] = -INFINITY;
	memset(j->out, 0, (size_t)j->rows * j->params.v_dim * sizeof(float));
	for (ret = 0, ratio = 1; !ret && ratio; ratio = next_ratio(j, ratio))
		ret = attend_class(j, ratio, total);
	if (!ret)
		ret = attend_summary(j, total);
	return ret;
}

static int alloc_job(struct job *j)
{
	size_t width = (size_t)j->rows * j->params.v_dim;

	j->blocks = calloc(j->nr_blocks + 1, sizeof(*j->blocks));
	j->next_blocks = calloc(j->nr_blocks + 1, sizeof(*j->next_blocks));
	j->mask = calloc(j->nr_blocks / 8 + 1, 1);
	j->wanted = malloc(j->nr_blocks + 1);
	j->mass = calloc(j->nr_blocks + 1, sizeof(*j->mass));
	j->out = calloc(width, sizeof(float));
	j->lse = calloc(j->rows, sizeof(float));
	j->part = calloc(width, sizeof(float));
	j->part_lse = calloc(j->rows, sizeof(float));
	if (!j->blocks || !j->next_blocks || !j->mask || !j->wanted || !j->mass || !j->out ||
	    !j->lse || !j->part || !j->part_lse)
		return kvt_fail(-ENOMEM, "no memory for attention over %u blocks", j->nr_blocks);
	memset(j->wanted, 1, j->nr_blocks);
	return 0;
}

static void free_job(struct job *j)
{
	free(j->blocks);
	free(j->next_blocks);
	free(j->mask);
	free(j->wanted);
	free(j->mass);
	free(j->out);
	free(j->lse);
	free(j->part);
	free(j->part_lse);
}

/* After the last layer comes the first. */
static void look_ahead(struct job *j)
{
	const struct kvt_seq *seq = j->query->seq;
	uint32_t layer = (j->layer + 1) % seq->cache->geometry.layers;
	int nr = kvt_seq_view(seq, layer, j->next_blocks, j->nr_blocks);

	j->next.blocks = j->next_blocks;
	j->next.nr_blocks = (uint32_t)nr < j->nr_blocks ? (uint32_t)nr : j->nr_blocks;
}

static int run(struct job *j, float *total)
{
	const struct kvt_seq_query *q = j->query;
	int ret = 0;

	kvt_seq_view(q->seq, j->layer, j->blocks, j->nr_blocks);
	if (q->seq->cache->stream)
		look_ahead(j);
	if (q->cold_blocks)
		ret = kvt_sketch_select(q->seq, &j->params, j->layer, q, j->blocks, j->nr_blocks,
					j->wanted);
	if (!ret)
		ret = compute(j, total);
	if (ret)
		return ret;
	memcpy(q->out, j->out, (size_t)j->rows * j->params.v_dim * sizeof(float));
	if (q->lse)
		memcpy(q->lse, j->lse, j->rows * sizeof(float));
	if (q->seq->policy)
		kvt_seq_note(q->seq, j->blocks, total, j->nr_blocks);
	return 0;
}

static int attend_one(struct kvt_attend *attend, const struct kvt_attend_params *params,
		      uint32_t layer, const struct kvt_seq_query *q)
{
	struct job j = { .attend = attend, .params = *params, .query = q, .layer = layer,
			 .rows = q->q_tokens * params->q_heads };
	int ret = kvt_seq_view(q->seq, layer, NULL, 0);
	float *total;

	if (ret < 0)
		return ret;
	j.nr_blocks = (uint32_t)ret;
	total = calloc(j.nr_blocks + 1, sizeof(*total));
	ret = total ? alloc_job(&j) : kvt_fail(-ENOMEM, "no memory for attention");
	if (!ret)
		ret = run(&j, total);
	free_job(&j);
	free(total);
	return ret;
}

/* Exact rows alone, all of them wanted: nothing to weigh, and nobody to tell. */
static bool all_plain(const struct kvt_seq_query *queries, uint32_t nr)
{
	uint32_t i;

	for (i = 0; i < nr; i++)
		if (queries[i].seq->policy || queries[i].cold_blocks ||
		    queries[i].seq->cache != queries[0].seq->cache)
			return false;
	return true;
}

/* The tables of all sequences, one after the other, and where each begins. */
struct batch {
	struct kvt_seq_block *blocks, *next_blocks;
	struct kvt_attend_seq *seqs;
	struct kvt_stream_table *next;
	uint32_t nr_blocks;
};

static int alloc_batch(struct batch *b, uint32_t layer, const struct kvt_seq_query *queries,
		       uint32_t nr)
{
	uint32_t i;
	int blocks;

	for (i = 0; i < nr; i++) {
		blocks = kvt_seq_view(queries[i].seq, layer, NULL, 0);
		if (blocks < 0)
			return blocks;
		b->nr_blocks += (uint32_t)blocks;
	}
	b->blocks = calloc((size_t)b->nr_blocks + 1, sizeof(*b->blocks));
	b->next_blocks = calloc((size_t)b->nr_blocks + 1, sizeof(*b->next_blocks));
	b->seqs = calloc(nr, sizeof(*b->seqs));
	b->next = calloc(nr, sizeof(*b->next));
	if (!b->blocks || !b->next_blocks || !b->seqs || !b->next)
		return kvt_fail(-ENOMEM, "no memory for attention over %u blocks", b->nr_blocks);
	return 0;
}

static void free_batch(struct batch *b)
{
	free(b->blocks);
	free(b->next_blocks);
	free(b->seqs);
	free(b->next);
}

static void fill_batch(struct batch *b, uint32_t layer, const struct kvt_seq_query *queries,
		       uint32_t nr)
{
	uint32_t layers = queries->seq->cache->geometry.layers, at = 0, i;

	for (i = 0; i < nr; i++) {
		const struct kvt_seq_query *q = &queries[i];
		uint32_t own = (uint32_t)kvt_seq_view(q->seq, layer, b->blocks + at,
						      b->nr_blocks - at);
		uint32_t next = (uint32_t)kvt_seq_view(q->seq, (layer + 1) % layers,
						       b->next_blocks + at, own);

		b->seqs[i] = (struct kvt_attend_seq){ .size = sizeof(b->seqs[i]),
						      .q_tokens = q->q_tokens,
						      .q_position = q->q_position, .q = q->q,
						      .out = q->out, .lse = q->lse,
						      .blocks = b->blocks + at, .nr_blocks = own };
		b->next[i].blocks = b->next_blocks + at;
		b->next[i].nr_blocks = next < own ? next : own;
		at += own;
	}
}

/* All sequences at once: the threads have more to share, and a stream more to read ahead. */
static int attend_batch(struct kvt_attend *attend, const struct kvt_attend_params *params,
			uint32_t layer, const struct kvt_seq_query *queries, uint32_t nr)
{
	struct kvt_cache *c = queries->seq->cache;
	struct batch b = { 0 };
	int ret = alloc_batch(&b, layer, queries, nr);

	if (!ret)
		fill_batch(&b, layer, queries, nr);
	if (!ret && c->stream) {
		ret = kvt_stream_attend(c->stream, params, b.seqs, nr, b.next, nr, NULL);
	} else if (!ret) {
		ret = c->has_nvme ? promote_blocks(c, b.blocks, NULL, b.nr_blocks) : 0;
		if (!ret)
			ret = kvt_attend(attend, params, b.seqs, nr);
	}
	free_batch(&b);
	return ret == -EILSEQ ? lost(-EIO) : ret;
}

static int check_query(const struct kvt_attend *attend, const struct kvt_attend_params *params,
		       const struct kvt_seq_query *q)
{
	const struct kvt_geometry *g = &q->seq->cache->geometry;
	uint32_t v_dim = g->v_dim ? g->v_dim : params->v_dim;
	int ret = kvt_geometry_typed(g);

	if (ret)
		return ret;
	if (params->kv_heads != g->kv_heads || params->k_dim != g->k_dim || params->v_dim != v_dim)
		return kvt_fail(-EINVAL,
				"attention of %u heads of %u and %u, but the cache has %u "
				"of %u and %u",
				params->kv_heads, params->k_dim, params->v_dim, g->kv_heads,
				g->k_dim, v_dim);
	if (!q->q_tokens || q->q_tokens > KVT_QUERY_MAX || !params->q_heads ||
	    params->q_heads > KVT_HEADS_MAX || !q->q || !q->out)
		return kvt_fail(-EINVAL, "a query of %u tokens and %u heads: up to %d and %d, with "
					 "q and out", q->q_tokens, params->q_heads, KVT_QUERY_MAX,
				KVT_HEADS_MAX);
	if (params->q_heads % g->kv_heads)
		return kvt_fail(-EINVAL,
				"%u query heads over %u key/value heads: must be a multiple",
				params->q_heads, g->kv_heads);
	if (!attend && !q->seq->cache->stream)
		return kvt_fail(-EINVAL, "no threads to compute with: attend is NULL");
	if (params->flags & KVT_OUT_BF16)
		return kvt_fail(-EINVAL, "attention over sequences gives floats, not bf16");
	return 0;
}

int kvt_cache_set_stream(struct kvt_cache *c, struct kvt_stream *stream)
{
	if (stream && stream->pool != c->pool)
		return kvt_fail(-EINVAL, "the stream is over another pool than the cache");
	c->stream = stream;
	return 0;
}

int kvt_seq_attend(struct kvt_attend *attend, const struct kvt_attend_params *params,
		   uint32_t layer, const struct kvt_seq_query *queries, uint32_t nr)
{
	uint32_t i;
	int ret = 0;

	for (i = 0; !ret && i < nr; i++)
		ret = check_query(attend, params, &queries[i]);
	if (ret)
		return ret;
	kvt_seq_plan(layer, queries, nr);
	if (nr > 1 && all_plain(queries, nr))
		ret = attend_batch(attend, params, layer, queries, nr);
	else
		for (i = 0; !ret && i < nr; i++)
			ret = attend_one(attend, params, layer, &queries[i]);
	if (!ret)
		kvt_seq_planned(layer, queries, nr);
	return ret;
}
