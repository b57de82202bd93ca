/* SPDX-License-Identifier: MIT */
/* A case of attention: random or chosen numbers, its answer in double, and how far off is right. */
#ifndef UNIT_ATTEND_CASE_H
#define UNIT_ATTEND_CASE_H

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <kvtier.h>
#include <kvtier_attend.h>

#include "unit.h"

static const char *const isas[] = { "c", "avx2", "avx512", "avx512vnni" };

/* What a case looks like; zeroes are the usual. */
struct shape {
	uint32_t q_heads, kv_heads, k_dim, v_dim;
	uint32_t q_tokens, tokens, block;
	uint32_t k_type, v_type;
	uint32_t flags, window, sinks, span;
	float softcap, scale;
	bool part; /* values are a part of the keys */
	bool sink_logits, masked;
	float spread; /* of the keys and queries; 0: 1 */
};

struct problem {
	struct shape shape;
	struct kvt_attend_params params;
	struct kvt_attend_seq seq;
	struct kvt_seq_block *blocks;
	float *k, *v; /* as stored, [token][head][dim] */
	float *logits;
	uint8_t *mask;
	float *q;
	double *out, *lse;
	double *most_value, *most_score; /* of each row, for what its error may be */
};

static uint64_t noise_state = 1;

static inline float noise(void)
{
	noise_state = noise_state * 6364136223846793005ull + 1442695040888963407ull;
	return (float)(noise_state >> 40) * 0x1p-23f - 1;
}

static inline void *need(size_t bytes)
{
	void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);

	assert_non_null(p);
	memset(p, 0, (bytes + 63) / 64 * 64);
	return p;
}

static inline bool integer_type(uint32_t type)
{
	return type >= KVT_INT8;
}

static inline uint32_t block_rows(const struct shape *s, uint32_t i)
{
	return s->tokens - i * s->block < s->block ? s->tokens - i * s->block : s->block;
}

/* Store the floats of a block, and put back what was stored. */
static inline void store(float *from, uint32_t type, uint32_t heads, uint32_t dim, uint32_t tokens,
		  const void **rows, uint32_t *stride)
{
	size_t bytes = heads * kvt_row_bytes(type, dim);
	void *to;

	assert_true(bytes);
	*stride = (uint32_t)((bytes + 7) / 4 * 4); /* with a gap */
	to = need((size_t)*stride * tokens);
	assert_int_equal(kvt_quantize(type, dim, heads, tokens, from, to, *stride), 0);
	assert_int_equal(kvt_dequantize(type, dim, heads, tokens, to, *stride, from), 0);
	*rows = to;
}

static inline void make_blocks(struct problem *p)
{
	const struct shape *s = &p->shape;
	uint32_t i, nr = (s->tokens + s->block - 1) / s->block;
	uint64_t position = 0;

	p->blocks = need(nr * sizeof(*p->blocks));
	for (i = 0; i < nr; i++) {
		struct kvt_seq_block *b = &p->blocks[i];
		size_t first = (size_t)i * s->block;

		b->tokens = block_rows(s, i);
		b->span = s->span ? b->tokens * s->span : 0;
		b->position = position;
		position += b->span ? b->span : b->tokens;
		b->k_type = s->k_type;
		b->v_type = s->v_type;
		store(p->k + first * s->kv_heads * s->k_dim, s->k_type, s->kv_heads, s->k_dim,
		      b->tokens, &b->k, &b->k_stride);
		if (!s->part)
			store(p->v + first * s->kv_heads * s->v_dim, s->v_type, s->kv_heads,
			      s->v_dim, b->tokens, &b->v, &b->v_stride);
	}
	p->seq.blocks = p->blocks;
	p->seq.nr_blocks = nr;
	p->seq.q_position = position - (s->q_tokens < position ? s->q_tokens : 0);
}

static inline void make_params(struct problem *p)
{
	const struct shape *s = &p->shape;
	uint32_t i, bytes = (p->seq.nr_blocks + 7) / 8;

	p->params = (struct kvt_attend_params){
		.size = sizeof(p->params), .flags = s->flags, .q_heads = s->q_heads,
		.kv_heads = s->kv_heads, .k_dim = s->k_dim, .v_dim = s->v_dim, .scale = s->scale,
		.softcap = s->softcap, .window = s->window, .sinks = s->sinks
	};
	if (s->sink_logits) {
		p->logits = need(s->q_heads * sizeof(float));
		for (i = 0; i < s->q_heads; i++)
			p->logits[i] = noise() * 3;
		p->params.sink_logits = p->logits;
	}
	if (s->masked) { /* another for each head */
		p->mask = need((size_t)bytes * s->kv_heads);
		for (i = 0; i < bytes * s->kv_heads; i++)
			p->mask[i] = (uint8_t)(noise() * 128 + 128);
		p->seq.mask = p->mask;
		p->seq.mask_stride = bytes;
	}
}

/* Numbers that a test may still change, before problem_ready(). */
static inline void problem_init(struct problem *p, const struct shape *shape)
{
	float spread = shape->spread != 0 ? shape->spread : 1;
	size_t i, k, v, q;

	memset(p, 0, sizeof(*p));
	p->shape = *shape;
	if (!p->shape.block)
		p->shape.block = shape->tokens;
	if (!p->shape.q_tokens)
		p->shape.q_tokens = 1;
	k = (size_t)shape->tokens * shape->kv_heads * shape->k_dim;
	v = (size_t)shape->tokens * shape->kv_heads * shape->v_dim;
	q = (size_t)p->shape.q_tokens * shape->q_heads * shape->k_dim;
	p->k = need(k * sizeof(float));
	p->v = need(v * sizeof(float));
	p->q = need(q * sizeof(float));
	for (i = 0; i < k; i++)
		p->k[i] = noise() * spread;
	for (i = 0; i < v; i++)
		p->v[i] = noise() * 2;
	for (i = 0; i < q; i++)
		p->q[i] = noise() * 2 * spread;
}

static inline uint64_t position_of(const struct problem *p, uint32_t token)
{
	const struct kvt_seq_block *b = &p->blocks[token / p->shape.block];
	uint64_t row = token % p->shape.block;

	return b->position + (b->span ? row * b->span / b->tokens : row);
}

static inline bool sees(const struct problem *p, uint32_t query, uint32_t head, uint32_t token)
{
	uint64_t at = p->seq.q_position + query, position = position_of(p, token);
	uint32_t block = token / p->shape.block;

	if (p->mask && !(p->mask[head * p->seq.mask_stride + block / 8] >> block % 8 & 1))
		return false;
	if (!(p->params.flags & KVT_CAUSAL))
		return true;
	if (position > at)
		return false;
	return !p->params.window || position + p->params.window > at || position < p->params.sinks;
}

static inline double capped(const struct problem *p, double score)
{
	return p->params.softcap != 0 ? p->params.softcap * tanh(score / p->params.softcap) : score;
}

/* How far off a row may be: see Documentation/attention.rst. */
static inline double lse_bound(const struct problem *p, const char *isa, size_t row)
{
	bool coarse = !strcmp(isa, "avx512vnni") && integer_type(p->shape.k_type);

	return 0x1p-18 + (coarse ? 0x1p-14 : 0x1p-18) * (p->most_score[row] + p->params.softcap);
}

static inline double out_bound(const struct problem *p, const char *isa, size_t row)
{
	bool coarse = !strcmp(isa, "avx512vnni") &&
		      integer_type(p->shape.part ? p->shape.k_type : p->shape.v_type);

	return p->most_value[row] * ((coarse ? 0x1p-10 : 0x1p-16) + lse_bound(p, isa, row));
}

/* One query row in double precision. */
static inline void answer_row(const struct problem *p, size_t row)
{
	const struct shape *s = &p->shape;
	uint32_t query = (uint32_t)(row / s->q_heads), q_head = (uint32_t)(row % s->q_heads);
	uint32_t head = q_head / (s->q_heads / s->kv_heads), t, i;
	const float *q = p->q + row * s->k_dim;
	double scale = p->params.scale != 0 ? p->params.scale : 1 / sqrt(s->k_dim);
	double m = -INFINITY, l = 0, most_score = 0, most_value = 0, most_q = 0;
	double *score = need(s->tokens * sizeof(double)), *out = p->out + row * s->v_dim;

	for (i = 0; i < s->k_dim; i++)
		most_q = fmax(most_q, fabs((double)q[i]));
	for (t = 0; t < s->tokens; t++) {
		const float *k = p->k + ((size_t)t * s->kv_heads + head) * s->k_dim;
		double sum = 0;

		if (!sees(p, query, head, t))
			continue;
		score[t] = 0;
		for (i = 0; i < s->k_dim; i++) {
			score[t] += (double)q[i] * (double)k[i];
			sum += most_q * fabs((double)k[i]);
		}
		score[t] = capped(p, score[t] * scale);
		most_score = fmax(most_score, sum * fabs(scale));
		m = fmax(m, score[t]);
	}
	if (p->logits)
		m = fmax(m, (double)p->logits[q_head]);
	for (t = 0; t < s->tokens; t++) {
		const float *v = s->part ? p->k + ((size_t)t * s->kv_heads + head) * s->k_dim
					 : p->v + ((size_t)t * s->kv_heads + head) * s->v_dim;
		double weight;

		if (!sees(p, query, head, t))
			continue;
		weight = score[t] == -INFINITY ? 0 : exp(score[t] - m);
		l += weight;
		for (i = 0; i < s->v_dim; i++) {
			out[i] += weight * (double)v[i];
			most_value = fmax(most_value, fabs((double)v[i]));
		}
	}
	if (p->logits)
		l += exp((double)p->logits[q_head] - m);
	for (i = 0; i < s->v_dim; i++)
		out[i] = l == 0 ? 0 : out[i] / l;
	p->lse[row] = l == 0 ? -INFINITY : m + log(l);
	p->most_value[row] = most_value;
	p->most_score[row] = most_score;
	free(score);
}

static inline size_t problem_rows(const struct problem *p)
{
	return (size_t)p->shape.q_tokens * p->shape.q_heads;
}

/* Store the numbers, and know the answer. */
static inline void problem_ready(struct problem *p)
{
	size_t rows = problem_rows(p), i;

	p->seq.size = sizeof(p->seq);
	p->seq.q_tokens = p->shape.q_tokens;
	p->seq.q = p->q;
	make_blocks(p);
	make_params(p);
	p->out = need(rows * p->shape.v_dim * sizeof(double));
	p->lse = need(rows * sizeof(double));
	p->most_value = need(rows * sizeof(double));
	p->most_score = need(rows * sizeof(double));
	for (i = 0; i < rows; i++)
		answer_row(p, i);
}

static inline void problem_exit(struct problem *p)
{
	uint32_t i;

	for (i = 0; i < p->seq.nr_blocks; i++) {
		free((void *)(uintptr_t)p->blocks[i].k);
		free((void *)(uintptr_t)p->blocks[i].v);
	}
	free(p->blocks);
	free(p->k);
	free(p->v);
	free(p->q);
	free(p->logits);
	free(p->mask);
	free(p->out);
	free(p->lse);
	free(p->most_value);
	free(p->most_score);
}

/* NULL: this CPU has not got it. */
static inline struct kvt_attend *attend_with(const char *isa, uint32_t threads)
{
	struct kvt_attend_config config = KVT_ATTEND_CONFIG_INIT;
	struct kvt_attend *attend = NULL;
	int ret;

	config.isa = isa;
	config.threads = threads;
	ret = kvt_attend_create(&config, &attend);
	if (ret == -EOPNOTSUPP)
		return NULL;
	if (ret)
		fail_msg("kvt_attend_create: %s", kvt_error_detail());
	return attend;
}

static inline void problem_run(const struct problem *p, struct kvt_attend *attend, float *out,
			       float *lse)
{
	struct kvt_attend_seq seq = p->seq;

	seq.out = out;
	seq.lse = lse;
	if (kvt_attend(attend, &p->params, &seq, 1))
		fail_msg("kvt_attend: %s", kvt_error_detail());
}

static inline void check_row(const struct problem *p, const char *isa, size_t row, const float *out,
		      float lse)
{
	double most = out_bound(p, isa, row);
	uint32_t i;

	if (!(fabs((double)lse - p->lse[row]) <= lse_bound(p, isa, row)) &&
	    !(isinf(p->lse[row]) && (double)lse == p->lse[row]))
		fail_msg("%s %s/%s row %zu: lse %g, expected %g +- %g", isa,
			 kvt_type_name(p->shape.k_type), kvt_type_name(p->shape.v_type), row,
			 (double)lse, p->lse[row], lse_bound(p, isa, row));
	for (i = 0; i < p->shape.v_dim; i++)
		if (!(fabs((double)out[i] - p->out[row * p->shape.v_dim + i]) <= most))
			fail_msg("%s %s/%s row %zu element %u: %g, expected %g +- %g", isa,
				 kvt_type_name(p->shape.k_type), kvt_type_name(p->shape.v_type),
				 row, i, (double)out[i], p->out[row * p->shape.v_dim + i], most);
}

#endif
