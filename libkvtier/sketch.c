// SPDX-License-Identifier: MIT
/* Sketches made from keys. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "sketch.h"

#define POWER_STEPS 12

struct keys { /* of one head, row after row */
	float *at;
	size_t stride;
	uint32_t rows, dim;
};

static size_t head_floats(const struct kvt_geometry *g, uint32_t rank, uint32_t rows)
{
	return g->k_dim + (size_t)rank * g->k_dim + (size_t)rows * rank;
}

static float *head_of(const struct kvt_geometry *g, struct kvt_sketch *s, uint32_t layer,
		      uint32_t head)
{
	return s->data + ((size_t)layer * g->kv_heads + head) * head_floats(g, s->rank, s->rows);
}

static void center(const struct keys *k, float *mean)
{
	uint32_t t, i;

	memset(mean, 0, k->dim * sizeof(*mean));
	for (t = 0; t < k->rows; t++)
		for (i = 0; i < k->dim; i++)
			mean[i] += k->at[t * k->stride + i] / (float)k->rows;
	for (t = 0; t < k->rows; t++)
		for (i = 0; i < k->dim; i++)
			k->at[t * k->stride + i] -= mean[i];
}

static float dot(const float *a, const float *b, uint32_t dim)
{
	float sum = 0;
	uint32_t i;

	for (i = 0; i < dim; i++)
		sum += a[i] * b[i];
	return sum;
}

static bool normalise(float *v, uint32_t dim)
{
	float length = sqrtf(dot(v, v, dim));
	uint32_t i;

	if (!(length > 1e-20f) || !isfinite(length))
		return false;
	for (i = 0; i < dim; i++)
		v[i] /= length;
	return true;
}

/* The longest row: never orthogonal to all directions that matter. */
static const float *longest_row(const struct keys *k)
{
	const float *best = k->at;
	uint32_t t;

	for (t = 1; t < k->rows; t++)
		if (dot(k->at + t * k->stride, k->at + t * k->stride, k->dim) >
		    dot(best, best, k->dim))
			best = k->at + t * k->stride;
	return best;
}

/* The direction in which the rows vary most; @next is room for another. */
static bool direction(const struct keys *k, float *v, float *next)
{
	uint32_t step, t, i;

	memcpy(v, longest_row(k), k->dim * sizeof(*v));
	if (!normalise(v, k->dim))
		return false;
	for (step = 0; step < POWER_STEPS; step++) {
		memset(next, 0, k->dim * sizeof(*next));
		for (t = 0; t < k->rows; t++) {
			const float *row = k->at + t * k->stride;
			float weight = dot(row, v, k->dim);

			for (i = 0; i < k->dim; i++)
				next[i] += weight * row[i];
		}
		if (!normalise(next, k->dim))
			return true;
		memcpy(v, next, k->dim * sizeof(*v));
	}
	return true;
}

/* Take the direction out of the rows, and note how much of it each had. */
static void deflate(const struct keys *k, const float *v, float *weights, uint32_t rank)
{
	uint32_t t, i;

	for (t = 0; t < k->rows; t++) {
		float *row = k->at + t * k->stride, weight = dot(row, v, k->dim);

		weights[(size_t)t * rank] = weight;
		for (i = 0; i < k->dim; i++)
			row[i] -= weight * v[i];
	}
}

static void sketch_head(const struct keys *k, uint32_t rank, float *mean, float *room)
{
	float *basis = mean + k->dim, *weights = basis + (size_t)rank * k->dim;
	uint32_t i;

	center(k, mean);
	for (i = 0; i < rank && direction(k, basis + (size_t)i * k->dim, room); i++)
		deflate(k, basis + (size_t)i * k->dim, weights + i, rank);
	/* The rest are zeroes: the rows have no more directions than that. */
	for (; i < rank; i++)
		memset(basis + (size_t)i * k->dim, 0, k->dim * sizeof(*basis));
}

static int sketch_layer(struct kvt_cache *c, const struct kvt_extent *e, struct kvt_sketch *s,
			uint32_t layer, float *room)
{
	const struct kvt_geometry *g = &c->geometry;
	const struct kvt_layout *layout = kvt_layout_of(c, e);
	struct keys k = { .stride = (size_t)g->kv_heads * g->k_dim, .rows = s->rows,
			  .dim = g->k_dim };
	struct kvt_hold hold;
	uint32_t head;
	int ret = kvt_hold(&hold, c, &e->blocks[kvt_group_of(c, layer)], 1);

	if (ret)
		return ret;
	ret = kvt_dequantize(layout->k_type, g->k_dim, g->kv_heads, s->rows,
			     kvt_k_row(c, e, layer, 0), 0, room);
	kvt_unhold(&hold);
	for (head = 0; !ret && head < g->kv_heads; head++) {
		k.at = room + (size_t)head * g->k_dim;
		sketch_head(&k, s->rank, head_of(g, s, layer, head), room + s->rows * k.stride);
	}
	return ret;
}

static struct kvt_sketch *sketch_extent(struct kvt_cache *c, const struct kvt_extent *e,
					uint32_t rank, int *ret)
{
	const struct kvt_geometry *g = &c->geometry;
	uint32_t rows = kvt_layout_of(c, e)->tokens, layer;
	size_t floats = (size_t)g->layers * g->kv_heads * head_floats(g, rank, rows);
	struct kvt_sketch *s = calloc(1, sizeof(*s) + floats * sizeof(float));
	float *room = calloc(((size_t)rows * g->kv_heads + 1) * g->k_dim, sizeof(*room));

	*ret = s && room ? 0 : kvt_fail(-ENOMEM, "no memory for a sketch");
	if (!*ret) {
		s->rank = rank;
		s->rows = rows;
	}
	for (layer = 0; !*ret && layer < g->layers; layer++)
		*ret = sketch_layer(c, e, s, layer, room);
	free(room);
	if (!*ret)
		return s;
	free(s);
	return NULL;
}

/* Sealed, and its rows are all in use: they will not change any more. */
static bool eligible(struct kvt_cache *c, const struct kvt_seq *seq, const struct kvt_piece *p)
{
	bool wanted;

	pthread_mutex_lock(&c->lock);
	wanted = p->extent->sealed && !p->extent->sketch;
	pthread_mutex_unlock(&c->lock);
	return wanted && p->rows == kvt_layout_of(c, p->extent)->tokens &&
	       p->position + (uint64_t)p->span <= kvt_seq_tokens(seq);
}

int kvt_seq_sketch(struct kvt_seq *seq, uint32_t rank)
{
	struct kvt_cache *c = seq->cache;
	struct kvt_sketch *s;
	uint32_t i;
	int ret = kvt_geometry_typed(&c->geometry), made = 0;

	if (!ret && (!rank || rank > KVT_SKETCH_RANK_MAX || rank > c->geometry.k_dim))
		ret = kvt_fail(-EINVAL,
			       "a sketch of rank %u: 1 to %d, at most the keys' %u elements", rank,
			       KVT_SKETCH_RANK_MAX, c->geometry.k_dim);
	for (i = 0; !ret && i < seq->nr_pieces; i++) {
		if (!eligible(c, seq, &seq->pieces[i]))
			continue;
		s = sketch_extent(c, seq->pieces[i].extent, rank, &ret);
		pthread_mutex_lock(&c->lock);
		if (s && !seq->pieces[i].extent->sketch) {
			/* Whoever sees it sees all of it. */
			__atomic_store_n(&seq->pieces[i].extent->sketch, s, __ATOMIC_RELEASE);
			s = NULL;
			made++;
		}
		pthread_mutex_unlock(&c->lock);
		free(s); /* another thread's was there first */
	}
	return ret ? ret : made;
}

/* log of the sum of exp(scale x score) over the rows. */
static float estimate_head(const struct kvt_geometry *g, struct kvt_sketch *s, uint32_t layer,
			   uint32_t head, const float *q, float scale)
{
	const float *mean = head_of(g, s, layer, head), *basis = mean + g->k_dim;
	const float *weights = basis + (size_t)s->rank * g->k_dim;
	float base = scale * dot(q, mean, g->k_dim), along[KVT_SKETCH_RANK_MAX];
	float most, sum = 1, score;
	uint32_t t, i;

	for (i = 0; i < s->rank; i++)
		along[i] = scale * dot(q, basis + (size_t)i * g->k_dim, g->k_dim);
	most = base + dot(along, weights, s->rank);
	for (t = 1; t < s->rows; t++) {
		score = base + dot(along, weights + (size_t)t * s->rank, s->rank);
		if (score > most) {
			sum = sum * expf(most - score) + 1;
			most = score;
		} else {
			sum += expf(score - most);
		}
	}
	return most + logf(sum);
}

/* The most that any query token and head would give to the extent. */
static float estimate(const struct kvt_geometry *g, const struct kvt_attend_params *p,
		      struct kvt_sketch *s, uint32_t layer, const struct kvt_seq_query *q)
{
	float scale = p->scale != 0 ? p->scale : 1 / sqrtf((float)p->k_dim), most = -INFINITY, one;
	uint32_t group = p->q_heads / p->kv_heads, token, head;

	for (token = 0; token < q->q_tokens; token++)
		for (head = 0; head < p->q_heads; head++) {
			one = estimate_head(g, s, layer, head / group,
					    q->q + ((size_t)token * p->q_heads + head) * p->k_dim,
					    scale);
			most = one > most ? one : most;
		}
	return most;
}

struct rank {
	float worth;
	uint32_t block;
};

static int by_worth(const void *a, const void *b)
{
	const struct rank *x = a, *y = b;

	if (x->worth != y->worth)
		return x->worth > y->worth ? -1 : 1;
	return x->block < y->block ? -1 : x->block > y->block;
}

static bool on_nvme(struct kvt_cache *c, uint64_t offset)
{
	struct kvtier_block_info info;

	return !kvt_query(c->pool, offset / kvt_pool_block_bytes(c->pool), 1, &info) &&
	       (info.state == KVTIER_BLOCK_COLD || info.state == KVTIER_BLOCK_COLD_OPEN);
}

int kvt_sketch_select(const struct kvt_seq *seq, const struct kvt_attend_params *params,
		      uint32_t layer, const struct kvt_seq_query *query,
		      const struct kvt_seq_block *blocks, uint32_t nr, uint8_t *wanted)
{
	struct kvt_cache *c = seq->cache;
	struct rank *ranks = malloc((nr + 1) * sizeof(*ranks));
	uint32_t i, ranked = 0;

	if (!ranks)
		return kvt_fail(-ENOMEM, "no memory to choose blocks");
	for (i = 0; i < nr; i++) {
		struct kvt_sketch *s = __atomic_load_n(&seq->pieces[i].extent->sketch,
						       __ATOMIC_ACQUIRE);

		if (!s || !on_nvme(c, blocks[i].offset))
			continue;
		ranks[ranked].block = i;
		ranks[ranked++].worth = estimate(&c->geometry, params, s, layer, query);
	}
	qsort(ranks, ranked, sizeof(*ranks), by_worth);
	for (i = query->cold_blocks; i < ranked; i++)
		wanted[ranks[i].block] = 0;
	free(ranks);
	return 0;
}
