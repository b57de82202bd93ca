// SPDX-License-Identifier: MIT
/*
 * A query, copied out of its ring and checked.
 *
 * All that decides where lanes read and write is copied first.  Left in the ring are numbers
 * that are computed with, whatever they are: query rows and bounds.  What does not lead
 * astray is checked by kvt_stream_attend() itself, with the words of kvt_attend().
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attention.h"

#define BLOCKS_MAX (1u << 20)
/* Blocks of the pool that a query's rows touch, counted once a block of rows: rows of one query
 * overlap only where keys and values interleave. */
#define LOOKS_A_BLOCK 8ull
#define LOOKS_A_POOL 4ull
/* What is remembered of a query while it is computed. */
#define PARTIALS_MAX (1ull << 30)
#define BOUNDS_MAX (256ull << 20)
#define LEAF_TOKENS 512

static bool inside(const struct pool *p, uint64_t offset, uint64_t bytes)
{
	return offset < p->t->bytes && bytes <= p->t->bytes - offset && bytes;
}

static uint64_t k_bytes(const struct query *q, const struct kvt_seq_block *b)
{
	return kvt_remote_rows(b->k_type, b->k_stride, b->tokens, q->q.kv_heads, q->q.k_dim);
}

static uint64_t v_bytes(const struct query *q, const struct kvt_seq_block *b)
{
	return kvt_remote_rows(b->v_type, b->v_stride, b->tokens, q->q.kv_heads, q->q.v_dim);
}

static int take_block(struct query *q, const struct kvt_remote_block *shared,
		      struct kvt_seq_block *out)
{
	const char *addr = q->ring->reader.view.addr;
	struct kvt_remote_block b;

	memcpy(&b, shared, sizeof(b));
	*out = (struct kvt_seq_block){ .position = b.position, .tokens = b.tokens, .span = b.span,
				       .k_type = b.k_type, .v_type = b.v_type,
				       .k_stride = b.k_stride, .v_stride = b.v_stride };
	if (!b.tokens || !kvt_row_bytes(b.k_type, q->q.k_dim) ||
	    !inside(q->pool, b.k_offset, k_bytes(q, out)))
		return -EBADMSG;
	out->k = addr + b.k_offset;
	if (b.v_offset == UINT64_MAX)
		return 0;
	if (!kvt_row_bytes(b.v_type, q->q.v_dim) || !inside(q->pool, b.v_offset, v_bytes(q, out)))
		return -EBADMSG;
	out->v = addr + b.v_offset;
	return 0;
}

/* Of rows that are inside the pool: no sum of these wraps. */
static uint64_t blocks_touched(const struct query *q, const struct kvt_seq_block *b)
{
	uint64_t k = (k_bytes(q, b) >> q->pool->shift) + 2;

	return b->v ? k + (v_bytes(q, b) >> q->pool->shift) + 2 : k;
}

static int take_blocks(struct query *q, const char *data)
{
	const struct kvt_remote_block *shared = (const void *)data;
	uint64_t looks = 0, leaves = 0;
	uint32_t i;
	int ret;

	q->blocks = calloc(q->q.nr_blocks, sizeof(*q->blocks));
	if (!q->blocks)
		return -ENOMEM;
	for (i = 0; i < q->q.nr_blocks; i++) {
		ret = take_block(q, &shared[i], &q->blocks[i]);
		if (ret)
			return ret;
		looks += blocks_touched(q, &q->blocks[i]);
		leaves += q->blocks[i].tokens / LEAF_TOKENS + 1;
	}
	if (looks > LOOKS_A_BLOCK * q->q.nr_blocks + LOOKS_A_POOL * q->pool->nr_blocks ||
	    leaves * q->q.q_heads * (q->q.v_dim + 2) * sizeof(float) > PARTIALS_MAX)
		return -E2BIG;
	q->touched = looks < q->pool->nr_blocks ? (uint32_t)looks : q->pool->nr_blocks;
	return 0;
}

static void *copy(const char *from, uint64_t bytes)
{
	void *to = malloc(bytes);

	if (to)
		memcpy(to, from, bytes);
	return to;
}

/* Which blocks have bounds is a bit each, and those that have follow each other. */
static int take_bounds(struct query *q, const char *bits, const char *bounds)
{
	uint64_t each = kvt_bounds_bytes(&q->q), nr = 0;
	uint32_t i;

	q->bounds = calloc(q->q.nr_blocks, sizeof(*q->bounds));
	if (!q->bounds)
		return -ENOMEM;
	for (i = 0; i < q->q.nr_blocks; i++) {
		if (!(((const volatile char *)bits)[i / 8] >> i % 8 & 1))
			continue;
		if (nr == q->q.nr_bounds)
			return -EBADMSG;
		q->bounds[i] = (const float *)(const void *)(bounds + nr++ * each);
	}
	return nr == q->q.nr_bounds ? 0 : -EBADMSG;
}

static bool is_sound(const struct kvt_attend_query *q)
{
	uint32_t all = KVT_ASKS_MASK | KVT_ASKS_SINKS | KVT_ASKS_BOUNDS | KVT_ASKS_MASS |
		       KVT_ASKS_SKIPPED;

	return !q->zero && !(q->asks & ~all) && q->q_tokens && q->q_tokens <= KVT_QUERY_MAX &&
	       q->q_heads && q->q_heads <= KVT_HEADS_MAX && q->kv_heads &&
	       q->kv_heads <= q->q_heads && q->k_dim && q->k_dim <= KVT_DIM_MAX && q->v_dim &&
	       q->v_dim <= KVT_DIM_MAX && q->nr_blocks && q->nr_blocks <= BLOCKS_MAX &&
	       q->nr_bounds <= q->nr_blocks && (!q->nr_bounds || q->asks & KVT_ASKS_BOUNDS) &&
	       (!q->mask_heads || q->mask_heads == q->kv_heads);
}

/* With epsilon or top_k it is remembered of each block how much it may matter to each row. */
static bool too_many_bounds(const struct kvt_attend_query *q)
{
	return (q->epsilon != 0 || q->top_k) &&
	       (uint64_t)q->q_heads * q->q_tokens * q->nr_blocks * sizeof(double) > BOUNDS_MAX;
}

static int take_options(struct query *q, const char *data, const struct kvt_attend_places *at)
{
	if (q->q.asks & KVT_ASKS_MASK && !(q->mask = copy(data + at->mask, kvt_mask_bytes(&q->q))))
		return -ENOMEM;
	if (q->q.asks & KVT_ASKS_SINKS &&
	    !(q->sinks = copy(data + at->sinks, q->q.q_heads * sizeof(float))))
		return -ENOMEM;
	return q->q.asks & KVT_ASKS_BOUNDS ?
		       take_bounds(q, data + at->has_bounds, data + at->bounds) :
		       0;
}

static void fill_in(struct query *q, char *data, const struct kvt_attend_places *at)
{
	q->params = (struct kvt_attend_params)KVT_ATTEND_PARAMS_INIT;
	q->params.flags = q->q.flags;
	q->params.q_heads = q->q.q_heads;
	q->params.kv_heads = q->q.kv_heads;
	q->params.k_dim = q->q.k_dim;
	q->params.v_dim = q->q.v_dim;
	q->params.scale = q->q.scale;
	q->params.softcap = q->q.softcap;
	q->params.window = q->q.window;
	q->params.sinks = q->q.sinks;
	q->params.sink_logits = q->sinks;
	q->params.epsilon = q->q.epsilon;
	q->params.top_k = q->q.top_k;
	q->seq = (struct kvt_attend_seq)KVT_ATTEND_SEQ_INIT;
	q->seq.q_tokens = q->q.q_tokens;
	q->seq.q_position = q->q.q_position;
	q->seq.q = (const void *)(data + at->q);
	q->seq.out = data + at->out;
	q->seq.lse = (void *)(data + at->lse);
	q->seq.blocks = q->blocks;
	q->seq.nr_blocks = q->q.nr_blocks;
	q->seq.mask = q->mask;
	q->seq.mask_stride = q->q.mask_heads ? (q->q.nr_blocks + 7) / 8 : 0;
	q->seq.mass = q->q.asks & KVT_ASKS_MASS ? (void *)(data + at->mass) : NULL;
	q->seq.bounds = q->bounds;
	q->seq.skipped = q->q.asks & KVT_ASKS_SKIPPED ? (void *)(data + at->skipped) : NULL;
}

int query_take(struct attend_ring *r, struct query **result)
{
	struct query *q = *result = calloc(1, sizeof(*q));
	struct kvt_attend_places at;
	int ret;

	if (!q)
		return -ENOMEM;
	q->ring = r;
	q->pool = r->reader.pool;
	memcpy(&q->q, &r->ring->query, sizeof(q->q));
	if (!is_sound(&q->q))
		return -EBADMSG;
	at = kvt_attend_places(&q->q);
	if (at.bytes > r->bytes - sizeof(*r->ring))
		return -EBADMSG;
	if (too_many_bounds(&q->q))
		return -E2BIG;
	ret = reader_map(&r->reader);
	if (!ret)
		ret = take_blocks(q, r->ring->data);
	if (!ret)
		ret = take_options(q, r->ring->data, &at);
	if (!ret)
		ret = reader_provide(&r->reader, q->touched);
	if (!ret)
		fill_in(q, r->ring->data, &at);
	return ret;
}

void query_free(struct query *q)
{
	free(q->blocks);
	free(q->bounds);
	free(q->mask);
	free(q->sinks);
	free(q);
}
