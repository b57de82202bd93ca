/* SPDX-License-Identifier: MIT */
/*
 * The steps of a tile in vectors of VL floats; a vec_*.h comes before it.
 *
 * What is computed for a query row is the same whatever rows are computed beside it:
 * its score with a token is one chain of multiply-adds for each lane, and a tree over
 * the lanes; its output is one chain over the tokens for each element.
 */
#ifndef KVT_STEPS_H
#define KVT_STEPS_H

#include "isa.h"
#include "number.h"

#define NEAR 8 /* rows that are brought into the inner cache ahead of their use */
#define AGAIN 8192 /* bytes */

#define INLINE static inline __attribute__((always_inline))

/* Bytes of an element, for what a step uses up. */
INLINE uint32_t width_of(uint32_t type)
{
	return type == KVT_F32 ? 4 : 2;
}

/*
 * A step of what is fetched ahead.  Each line is asked for once more a little later, since
 * the processor drops requests when it has many under way.
 */
INLINE const uint8_t *fetch_step(const uint8_t *at, uint32_t pace, uint32_t lines)
{
	kvt_ahead_step(at - AGAIN, 0, lines);
	return kvt_ahead_step(at, pace, lines);
}

/* Vectors that a line of memory holds. */
INLINE int line_vectors(uint32_t type)
{
	return (int)(64 / (VL * width_of(type)));
}

/* @dim elements from @p on as a vector: VL, or 8. */
INLINE vec take(uint32_t type, const uint8_t *p, uint32_t i, bool half)
{
	switch (type) {
	case KVT_F16:
		return half ? vec_f16_half(p + 2 * (size_t)i) : vec_f16(p + 2 * (size_t)i);
	case KVT_BF16:
		return half ? vec_bf16_half(p + 2 * (size_t)i) : vec_bf16(p + 2 * (size_t)i);
	default:
		return half ? vec_load_half((const float *)(const void *)p + i)
			    : vec_load((const float *)(const void *)p + i);
	}
}

/* One vector of each of @nr query rows with one of each of @nt tokens. */
INLINE void score_vector(uint32_t type, int nr, int nt, const uint8_t *const *token,
			 const char *queries, uint32_t query_bytes, uint32_t i, bool half, vec *acc)
{
	vec k[NR_ACC], q;
	int r, t;

	KVT_UNROLL
	for (t = 0; t < nt; t++)
		k[t] = take(type, token[t], i, half);
	KVT_UNROLL
	for (r = 0; r < nr; r++) {
		const float *row = (const void *)(queries + (size_t)r * query_bytes);

		q = half ? vec_load_half(row + i) : vec_load(row + i);
		KVT_UNROLL
		for (t = 0; t < nt; t++)
			acc[r * nt + t] = vec_fma(q, k[t], acc[r * nt + t]);
	}
}

/* @nr query rows with @nt tokens from @first on; @nr * @nt is NR_ACC. */
INLINE const uint8_t *score_block(uint32_t type, int nr, int nt, const struct kvt_rows *keys,
				  uint32_t first, const char *queries, uint32_t query_bytes,
				  float *s, const uint8_t *ahead, uint32_t pace)
{
	const uint8_t *token[NR_ACC];
	float sums[NR_ACC] __attribute__((aligned(64)));
	vec acc[NR_ACC];
	uint32_t i, last = keys->nr - 1;
	size_t near = (nt < NEAR ? NEAR : nt) * keys->stride;
	int r, t;

	KVT_UNROLL
	for (t = 0; t < nt; t++)
		token[t] = keys->base +
			   (first + t < last ? first + (uint32_t)t : last) * keys->stride;
	KVT_UNROLL
	for (t = 0; t < NR_ACC; t++)
		acc[t] = vec_zero();
	for (i = 0; i + VL <= keys->dim; i += VL) {
		score_vector(type, nr, nt, token, queries, query_bytes, i, false, acc);
		KVT_UNROLL
		for (t = 0; t < nt; t++)
			kvt_near(token[t] + i * width_of(type), near);
		ahead = fetch_step(ahead, pace, (uint32_t)nt * VL * width_of(type) / 64);
	}
	if (i < keys->dim)
		score_vector(type, nr, nt, token, queries, query_bytes, i, true, acc);
	vec_store(sums, vec_reduce(acc));
	KVT_UNROLL
	for (r = 0; r < nr; r++)
		memcpy(s + r * KVT_TILE + first, sums + r * nt, (size_t)nt * sizeof(*s));
	return ahead;
}

INLINE void score_rows(uint32_t type, int nr, const struct kvt_rows *keys, const char *queries,
		       uint32_t query_bytes, float *s, struct kvt_ahead *ahead)
{
	const uint32_t step = NR_ACC / nr;
	uint32_t steps = (keys->nr + step - 1) / step * ((keys->dim + VL - 1) / VL), t;
	uint32_t pace = kvt_ahead_pace(ahead, steps);
	const uint8_t *at = ahead->at;

	for (t = 0; t < keys->nr; t += step)
		at = score_block(type, nr, step, keys, t, queries, query_bytes, s, at, pace);
	ahead->at = at;
}

/* Four query rows at a time, as they share what is loaded; then the rest. */
INLINE void score(uint32_t type, const struct kvt_rows *keys, const char *queries,
		  uint32_t query_bytes, uint32_t nr, float *s, struct kvt_scratch *scratch)
{
	struct kvt_ahead none = { (const void *)s, 0 }, *ahead = &scratch->ahead_keys;
	uint32_t r;

	for (r = 0; r < nr; ahead = &none) {
		const char *row = queries + (size_t)r * query_bytes;

		if (nr - r >= 4) {
			score_rows(type, 4, keys, row, query_bytes, s + r * KVT_TILE, ahead);
			r += 4;
		} else if (nr - r >= 2) {
			score_rows(type, 2, keys, row, query_bytes, s + r * KVT_TILE, ahead);
			r += 2;
		} else {
			score_rows(type, 1, keys, row, query_bytes, s + r * KVT_TILE, ahead);
			r++;
		}
	}
}

/* @nd vectors of the outputs of @nr rows, from element @i on. */
INLINE const uint8_t *add_block(uint32_t type, int nr, int nd, bool half,
				const struct kvt_rows *values, uint32_t i, const float *p,
				const float *shrink, float *o, uint32_t o_pad,
				const uint8_t *ahead, uint32_t pace)
{
	vec acc[16], v[8], weight;
	size_t near = NEAR * values->stride;
	uint32_t t;
	int r, d;

	KVT_UNROLL
	for (r = 0; r < nr; r++) {
		KVT_UNROLL
		for (d = 0; d < nd; d++) {
			float *at = o + r * o_pad + i + d * VL;

			acc[r * nd + d] = vec_mul(half ? vec_load_half(at) : vec_load(at),
						  vec_set(shrink[r]));
		}
	}
	for (t = 0; t < values->nr; t++) {
		KVT_UNROLL
		for (d = 0; d < nd; d++)
			v[d] = take(type, values->base + t * values->stride, i + (uint32_t)d * VL,
				    half);
		KVT_UNROLL
		for (r = 0; r < nr; r++) {
			weight = vec_set(p[r * KVT_TILE + t]);
			KVT_UNROLL
			for (d = 0; d < nd; d++)
				acc[r * nd + d] = vec_fma(weight, v[d], acc[r * nd + d]);
		}
		KVT_UNROLL
		for (d = 0; d < nd; d += line_vectors(type))
			kvt_near(values->base + t * values->stride +
				 (i + (uint32_t)d * VL) * width_of(type), near);
		ahead = fetch_step(ahead, pace,
				   ((uint32_t)nd * VL * width_of(type) + 63) / 64);
	}
	KVT_UNROLL
	for (r = 0; r < nr; r++) {
		KVT_UNROLL
		for (d = 0; d < nd; d++) {
			float *at = o + r * o_pad + i + d * VL;

			if (half)
				vec_store_half(at, acc[r * nd + d]);
			else
				vec_store(at, acc[r * nd + d]);
		}
	}
	return ahead;
}

INLINE void add_rows(uint32_t type, int nr, const struct kvt_rows *values, const float *p,
		     const float *shrink, float *o, uint32_t o_pad, struct kvt_ahead *ahead)
{
	const uint32_t nd = nr == 1 ? 2 * STEP_DIMS : STEP_DIMS;
	uint32_t sweeps = (values->dim + nd * VL - 1) / (nd * VL), i = 0;
	uint32_t pace = kvt_ahead_pace(ahead, sweeps * values->nr);
	const uint8_t *at = ahead->at;

	for (; i + nd * VL <= values->dim; i += nd * VL)
		at = add_block(type, nr, nd, false, values, i, p, shrink, o, o_pad, at, pace);
	for (; i + VL <= values->dim; i += VL)
		at = add_block(type, nr, 1, false, values, i, p, shrink, o, o_pad, at, pace);
	if (i < values->dim)
		at = add_block(type, nr, 1, true, values, i, p, shrink, o, o_pad, at, pace);
	ahead->at = at;
}

INLINE void add(uint32_t type, const struct kvt_rows *values, const float *p, const float *shrink,
		uint32_t nr, float *o, uint32_t o_pad, struct kvt_scratch *scratch)
{
	struct kvt_ahead none = { (const void *)p, 0 }, *ahead = &scratch->ahead_values;
	uint32_t r;

	for (r = 0; r + 4 <= nr; r += 4, ahead = &none)
		add_rows(type, 4, values, p + r * KVT_TILE, shrink + r, o + (size_t)r * o_pad,
			 o_pad, ahead);
	if (r + 2 <= nr) {
		add_rows(type, 2, values, p + r * KVT_TILE, shrink + r, o + (size_t)r * o_pad,
			 o_pad, ahead);
		r += 2;
		ahead = &none;
	}
	if (r < nr)
		add_rows(type, 1, values, p + r * KVT_TILE, shrink + r, o + (size_t)r * o_pad,
			 o_pad, ahead);
}

/* kvt_exp() up to 88.  NaN stays. */
INLINE vec exp_vector(vec x)
{
	vec n, r, y;

	n = vec_round(vec_mul(x, vec_set(KVT_LOG2_E)));
	r = vec_fnma(n, vec_set(KVT_LN2_HIGH), x);
	r = vec_fnma(n, vec_set(KVT_LN2_LOW), r);
	y = vec_fma(vec_set(KVT_EXP_6), r, vec_set(KVT_EXP_5));
	y = vec_fma(y, r, vec_set(KVT_EXP_4));
	y = vec_fma(y, r, vec_set(KVT_EXP_3));
	y = vec_fma(y, r, vec_set(KVT_EXP_2));
	y = vec_fma(vec_mul(y, r), r, r);
	y = vec_add(y, vec_set(1));
	return vec_keep(vec_scale(y, n), x, vec_set(KVT_EXP_LEAST));
}

static void cap(float *s, float scale, float most)
{
	vec one = vec_set(1), two = vec_set(2), x;
	uint32_t t;

	for (t = 0; t < KVT_TILE; t += VL) {
		x = vec_mul(vec_load(s + t), vec_set(scale));
		if (most != 0) {
			x = vec_mul(vec_div(x, vec_set(most)), two);
			x = vec_min(vec_set(88), x); /* whose tanh is 1; NaN stays */
			x = vec_sub(one, vec_div(two, vec_add(exp_vector(x), one)));
			x = vec_mul(x, vec_set(most));
		}
		vec_store(s + t, x);
	}
}

static float most_of(const float *s)
{
	vec most = vec_load(s);
	uint32_t t;

	for (t = VL; t < KVT_TILE; t += VL)
		most = vec_max(most, vec_load(s + t));
	return vec_most(most);
}

/* Turn scores into exp(score - @less); the sum of that. */
static float exp_row(float *s, float less)
{
	vec sum = vec_zero(), x;
	uint32_t t;

	for (t = 0; t < KVT_TILE; t += VL) {
		x = exp_vector(vec_sub(vec_load(s + t), vec_set(less)));
		vec_store(s + t, x);
		sum = vec_add(sum, x);
	}
	return vec_sum(sum);
}

static void softmax(float *s, uint32_t nr, float *sums, float *shrink)
{
	float less[KVT_ROWS], m;
	uint32_t r;

	for (r = 0; r < nr; r++) {
		m = most_of(s + r * KVT_TILE);
		m = m > sums[2 * r] ? m : sums[2 * r];
		less[r] = m == -INFINITY ? 0 : m; /* nothing yet: exp(-inf - 0) is 0, not NaN */
		shrink[r] = sums[2 * r] - less[r];
		sums[2 * r] = m;
	}
	for (r = 0; r < nr; r += VL)
		vec_store(shrink + r, exp_vector(vec_load(shrink + r)));
	for (r = 0; r < nr; r++)
		sums[2 * r + 1] = sums[2 * r + 1] * shrink[r] +
				  exp_row(s + r * KVT_TILE, less[r]);
}

/* @nr is a multiple of KVT_PAD. */
static void blend(float *x, float a, const float *y, float b, uint32_t nr)
{
	uint32_t i;

	for (i = 0; i < nr; i += VL)
		vec_store(x + i, vec_fma(vec_load(x + i), vec_set(a),
					 vec_mul(vec_load(y + i), vec_set(b))));
}

static uint32_t query_bytes_of(uint32_t dim)
{
	return 4 * kvt_pad(dim);
}

static void prepare(const float *q, uint32_t dim, void *row)
{
	memset(row, 0, query_bytes_of(dim));
	memcpy(row, q, 4 * (size_t)dim);
}

/* score_TYPE and add_TYPE of a type that is loaded as floats. */
#define DIRECT(name, type)                                                                         \
	static void score_##name(const struct kvt_rows *keys, const char *queries,                 \
				 uint32_t query_bytes, uint32_t nr, float *s,                      \
				 struct kvt_scratch *scratch)                                      \
	{                                                                                          \
		score(type, keys, queries, query_bytes, nr, s, scratch);                           \
	}                                                                                          \
												   \
	static void add_##name(const struct kvt_rows *values, const float *p,                      \
			       const float *shrink, uint32_t nr, float *o, uint32_t o_pad,         \
			       struct kvt_scratch *scratch)                                        \
	{                                                                                          \
		add(type, values, p, shrink, nr, o, o_pad, scratch);                               \
	}

DIRECT(f32, KVT_F32)
DIRECT(f16, KVT_F16)
DIRECT(bf16, KVT_BF16)

#endif
