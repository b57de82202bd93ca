/* SPDX-License-Identifier: MIT */
/* Sixteen floats. */
#ifndef KVT_VEC_H
#define KVT_VEC_H

#include <immintrin.h>

#include "isa.h"

#define VL 16
#define NR_ACC 16 /* sums that reduce() takes at once */
#define STEP_DIMS 4 /* vectors of an output row that add() holds for each of four rows */

typedef __m512 vec;

#define vec_load _mm512_loadu_ps
#define vec_store _mm512_storeu_ps
#define vec_set _mm512_set1_ps
#define vec_zero _mm512_setzero_ps
#define vec_add _mm512_add_ps
#define vec_sub _mm512_sub_ps
#define vec_mul _mm512_mul_ps
#define vec_div _mm512_div_ps
#define vec_fma _mm512_fmadd_ps
#define vec_fnma _mm512_fnmadd_ps
#define vec_max _mm512_max_ps /* of a NaN and a number: the second */
#define vec_min _mm512_min_ps
#define vec_sum _mm512_reduce_add_ps
#define vec_most _mm512_reduce_max_ps

static inline vec vec_round(vec x)
{
	return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* x * 2^n */
static inline vec vec_scale(vec x, vec n)
{
	return _mm512_scalef_ps(x, n);
}

/* x where @at is at least @least, else 0 */
static inline vec vec_keep(vec x, vec at, vec least)
{
	return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(at, least, _CMP_NLT_UQ), x);
}

/* Half a vector, for the end of a row; the other half is 0. */
static inline vec vec_load_half(const float *p)
{
	return _mm512_maskz_loadu_ps(0xff, p);
}

static inline void vec_store_half(float *p, vec x)
{
	_mm512_mask_storeu_ps(p, 0xff, x);
}

static inline vec vec_f16(const void *p)
{
	return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}

static inline vec vec_f16_half(const void *p)
{
	return _mm512_cvtph_ps(_mm256_castsi128_si256(_mm_loadu_si128(p)));
}

static inline vec vec_of_words(__m256i words)
{
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
}

static inline vec vec_bf16(const void *p)
{
	return vec_of_words(_mm256_loadu_si256(p));
}

static inline vec vec_bf16_half(const void *p)
{
	return vec_of_words(_mm256_castsi128_si256(_mm_loadu_si128(p)));
}

/* The sums of 16 vectors, in order. */
static inline vec vec_reduce(vec *v)
{
	int i;

	KVT_UNROLL
	for (i = 0; i < 8; i++)
		v[i] = vec_add(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]),
			       _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
	KVT_UNROLL
	for (i = 0; i < 4; i++)
		v[i] = vec_add(_mm512_shuffle_ps(v[2 * i], v[2 * i + 1], 0x44),
			       _mm512_shuffle_ps(v[2 * i], v[2 * i + 1], 0xee));
	KVT_UNROLL
	for (i = 0; i < 2; i++)
		v[i] = vec_add(_mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x44),
			       _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xee));
	return vec_add(_mm512_shuffle_f32x4(v[0], v[1], 0x88),
		       _mm512_shuffle_f32x4(v[0], v[1], 0xdd));
}

/* Eight signed bytes, small numbers, as floats. */
static inline __m256 eight_bytes(const void *p)
{
	return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
}

#endif
