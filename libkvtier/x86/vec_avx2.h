/* SPDX-License-Identifier: MIT */
/* Eight floats. */
#ifndef KVT_VEC_H
#define KVT_VEC_H

#include <immintrin.h>

#include "isa.h"

#define VL 8
#define NR_ACC 8 /* sums that reduce() takes at once */
#define STEP_DIMS 2 /* vectors of an output row that add() holds for each of four rows */

typedef __m256 vec;

#define vec_load _mm256_loadu_ps
#define vec_store _mm256_storeu_ps
#define vec_set _mm256_set1_ps
#define vec_zero _mm256_setzero_ps
#define vec_add _mm256_add_ps
#define vec_sub _mm256_sub_ps
#define vec_mul _mm256_mul_ps
#define vec_div _mm256_div_ps
#define vec_fma _mm256_fmadd_ps
#define vec_fnma _mm256_fnmadd_ps
#define vec_max _mm256_max_ps /* of a NaN and a number: the second */
#define vec_min _mm256_min_ps
static inline vec vec_round(vec x)
{
	return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* x * 2^n, for n from -126 to 127 */
static inline vec vec_scale(vec x, vec n)
{
	__m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));

	return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(e, 23)));
}

/* x where @at is at least @least, else 0 */
static inline vec vec_keep(vec x, vec at, vec least)
{
	return _mm256_and_ps(x, _mm256_cmp_ps(at, least, _CMP_NLT_UQ));
}

static inline vec vec_f16(const void *p)
{
	return _mm256_cvtph_ps(_mm_loadu_si128(p));
}

static inline vec vec_bf16(const void *p)
{
	return _mm256_castsi256_ps(
		_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}

/* Half a vector of AVX-512 is a whole one here; rows never end in less. */
static inline vec vec_load_half(const float *p)
{
	return vec_load(p);
}

static inline void vec_store_half(float *p, vec x)
{
	vec_store(p, x);
}

static inline vec vec_f16_half(const void *p)
{
	return vec_f16(p);
}

static inline vec vec_bf16_half(const void *p)
{
	return vec_bf16(p);
}

static inline float vec_sum(vec x)
{
	__m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

	y = _mm_add_ps(y, _mm_movehl_ps(y, y));
	return _mm_cvtss_f32(_mm_add_ss(y, _mm_shuffle_ps(y, y, 1)));
}

static inline float vec_most(vec x)
{
	__m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

	y = _mm_max_ps(y, _mm_movehl_ps(y, y));
	return _mm_cvtss_f32(_mm_max_ss(y, _mm_shuffle_ps(y, y, 1)));
}

/* The sums of 8 vectors, in order. */
static inline vec vec_reduce(vec *v)
{
	int i;

	KVT_UNROLL
	for (i = 0; i < 4; i++)
		v[i] = vec_add(_mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]),
			       _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]));
	KVT_UNROLL
	for (i = 0; i < 2; i++)
		v[i] = vec_add(_mm256_shuffle_ps(v[2 * i], v[2 * i + 1], 0x44),
			       _mm256_shuffle_ps(v[2 * i], v[2 * i + 1], 0xee));
	return vec_add(_mm256_permute2f128_ps(v[0], v[1], 0x20),
		       _mm256_permute2f128_ps(v[0], v[1], 0x31));
}

/* Eight signed bytes, small numbers, as floats. */
static inline __m256 eight_bytes(const void *p)
{
	return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
}

#endif
