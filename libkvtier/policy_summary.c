// SPDX-License-Identifier: MIT
/*
 * A compressive summary of dropped tokens, after Infini-attention: for each head
 *
 *	memory = sum of phi(key) x value	norm = sum of phi(key)
 *
 * with phi = elu + 1.  A query reads phi(q) memory / (phi(q) norm).  It has one size,
 * whatever it holds.  How much weight the result deserves against exact attention is
 * what the model's gate would say; without one, the number of tokens times the score
 * of their mean key is a lower bound of their mass (Jensen).
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "kvtier_attend.h"
#include "policy.h"

static size_t heads_of(const struct kvt_geometry *g)
{
	return (size_t)g->layers * g->kv_heads;
}

int kvt_summary_new(const struct kvt_geometry *g, struct kvt_summary **summary)
{
	struct kvt_summary *s = calloc(1, sizeof(*s));

	if (s) {
		s->memory = calloc(heads_of(g) * g->k_dim * g->v_dim, sizeof(float));
		s->norm = calloc(heads_of(g) * g->k_dim, sizeof(float));
		s->keys = calloc(heads_of(g) * g->k_dim, sizeof(float));
	}
	if (!s || !s->memory || !s->norm || !s->keys) {
		kvt_summary_free(s);
		return kvt_fail(-ENOMEM, "no memory for a summary");
	}
	*summary = s;
	return 0;
}

int kvt_summary_copy(const struct kvt_geometry *g, const struct kvt_summary *from,
		     struct kvt_summary **to)
{
	int ret = kvt_summary_new(g, to);

	if (ret)
		return ret;
	(*to)->tokens = from->tokens;
	memcpy((*to)->memory, from->memory,
	       heads_of(g) * g->k_dim * g->v_dim * sizeof(float));
	memcpy((*to)->norm, from->norm, heads_of(g) * g->k_dim * sizeof(float));
	memcpy((*to)->keys, from->keys, heads_of(g) * g->k_dim * sizeof(float));
	return 0;
}

void kvt_summary_free(struct kvt_summary *s)
{
	if (!s)
		return;
	free(s->memory);
	free(s->norm);
	free(s->keys);
	free(s);
}

void kvt_summary_clear(const struct kvt_geometry *g, struct kvt_summary *s)
{
	s->tokens = 0;
	memset(s->memory, 0, heads_of(g) * g->k_dim * g->v_dim * sizeof(float));
	memset(s->norm, 0, heads_of(g) * g->k_dim * sizeof(float));
	memset(s->keys, 0, heads_of(g) * g->k_dim * sizeof(float));
}

static float phi(float x)
{
	return x > 0 ? x + 1 : expf(x);
}

static void add_row(const struct kvt_geometry *g, struct kvt_summary *s, size_t head,
		    const float *k, const float *v, float weight)
{
	float *memory = s->memory + head * g->k_dim * g->v_dim;
	float *norm = s->norm + head * g->k_dim, *keys = s->keys + head * g->k_dim;
	uint32_t i, j;

	for (i = 0; i < g->k_dim; i++) {
		float f = weight * phi(k[i]);

		norm[i] += f;
		keys[i] += weight * k[i];
		for (j = 0; j < g->v_dim; j++)
			memory[(size_t)i * g->v_dim + j] += f * v[j];
	}
}

static void add_layer(struct kvt_seq *seq, const struct kvt_piece *p, uint32_t layer, float *k,
		      float *v)
{
	const struct kvt_cache *c = seq->cache;
	const struct kvt_geometry *g = &c->geometry;
	const struct kvt_layout *layout = kvt_layout_of(c, p->extent);
	uint32_t row, head;

	kvt_dequantize(layout->k_type, g->k_dim, g->kv_heads, p->rows,
		       kvt_k_row(c, p->extent, layer, 0), 0, k);
	kvt_dequantize(layout->v_type, g->v_dim, g->kv_heads, p->rows,
		       kvt_v_row(c, p->extent, layer, 0), 0, v);
	for (row = 0; row < p->rows; row++)
		for (head = 0; head < g->kv_heads; head++)
			add_row(g, seq->policy->summary, (size_t)layer * g->kv_heads + head,
				k + ((size_t)row * g->kv_heads + head) * g->k_dim,
				v + ((size_t)row * g->kv_heads + head) * g->v_dim,
				(float)p->span / p->rows);
}

static int add_group(struct kvt_seq *seq, const struct kvt_piece *p, uint32_t group, float *k,
		     float *v)
{
	const struct kvt_geometry *g = &seq->cache->geometry;
	uint32_t layer = group * g->layers_per_block, end = layer + g->layers_per_block;
	struct kvt_hold hold;
	int ret = kvt_hold(&hold, seq->cache, &p->extent->blocks[group], 1);

	if (ret)
		return ret;
	for (; layer < end && layer < g->layers; layer++)
		add_layer(seq, p, layer, k, v);
	kvt_unhold(&hold);
	return 0;
}

int kvt_summary_add(struct kvt_seq *seq, const struct kvt_piece *p)
{
	const struct kvt_geometry *g = &seq->cache->geometry;
	float *k = calloc((size_t)p->rows * g->kv_heads * g->k_dim, sizeof(*k));
	float *v = calloc((size_t)p->rows * g->kv_heads * g->v_dim, sizeof(*v));
	uint32_t group;
	int ret = k && v ? 0 : kvt_fail(-ENOMEM, "no memory to summarise an extent");

	for (group = 0; !ret && group < seq->cache->groups; group++)
		ret = add_group(seq, p, group, k, v);
	if (!ret)
		seq->policy->summary->tokens += p->span;
	free(k);
	free(v);
	return ret;
}

static float attend_head(const struct kvt_geometry *g, const struct kvt_summary *s, size_t head,
			 const float *q, float scale, float *out)
{
	const float *memory = s->memory + head * g->k_dim * g->v_dim;
	const float *norm = s->norm + head * g->k_dim, *keys = s->keys + head * g->k_dim;
	float sum = 0, score = 0;
	uint32_t i, j;

	memset(out, 0, g->v_dim * sizeof(*out));
	for (i = 0; i < g->k_dim; i++) {
		float f = phi(q[i]);

		sum += f * norm[i];
		score += q[i] * keys[i];
		for (j = 0; j < g->v_dim; j++)
			out[j] += f * memory[(size_t)i * g->v_dim + j];
	}
	if (!(sum > 0)) { /* too little to tell: it has no part in the result */
		memset(out, 0, g->v_dim * sizeof(*out));
		return -INFINITY;
	}
	for (j = 0; j < g->v_dim; j++)
		out[j] /= sum;
	return logf((float)s->tokens) + scale * score / (float)s->tokens;
}

int kvt_seq_summary_attend(const struct kvt_seq *seq, uint32_t layer, uint32_t q_heads,
			   const float *q, float scale, float *out, float *lse)
{
	const struct kvt_geometry *g = &seq->cache->geometry;
	const struct kvt_summary *s = seq->policy ? seq->policy->summary : NULL;
	uint32_t head, group;

	if (!s)
		return kvt_fail(-EINVAL, "the sequence keeps no summary: set a policy with "
					 "KVT_POLICY_SUMMARY");
	if (layer >= g->layers || !q_heads || q_heads % g->kv_heads)
		return kvt_fail(-EINVAL, "layer %u, %u query heads: there are %u layers, and query "
					 "heads come in multiples of %u", layer, q_heads, g->layers,
				g->kv_heads);
	group = q_heads / g->kv_heads;
	for (head = 0; head < q_heads; head++) {
		float *o = out + (size_t)head * g->v_dim;

		if (s->tokens) {
			lse[head] = attend_head(g, s, (size_t)layer * g->kv_heads + head / group,
						q + (size_t)head * g->k_dim, scale, o);
			continue;
		}
		memset(o, 0, g->v_dim * sizeof(*o));
		lse[head] = -INFINITY;
	}
	return 0;
}
