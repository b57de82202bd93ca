// SPDX-License-Identifier: MIT
/* Outputs of values of small integers. */
#include <stddef.h>

#include "x86/avx512vnni.h"

#define WEIGHT_MOST (127 * 256)
#define FOURS (KVT_TILE / 4)

/*
 * What a query row multiplies a group of a tile's values with: p times scale, as
 * integers; back as floats they are @back times as large.
 */
struct weights {
	uint32_t high[FOURS];
	uint32_t low[FOURS];
	int32_t sum;
	float back;
};

/* Four tokens' elements [i, i + COLUMN): four vectors, of dwords of four tokens. */
static void pack_block(const struct vnni_tile *t, uint32_t token, uint32_t i, uint8_t *packed)
{
	__m512i r[4], ab[2], cd[2];

	vnni_load_rows(t, token, i, 4, r);
	ab[0] = _mm512_unpacklo_epi8(r[0], r[1]);
	ab[1] = _mm512_unpackhi_epi8(r[0], r[1]);
	cd[0] = _mm512_unpacklo_epi8(r[2], r[3]);
	cd[1] = _mm512_unpackhi_epi8(r[2], r[3]);
	_mm512_storeu_si512(packed, _mm512_unpacklo_epi16(ab[0], cd[0]));
	_mm512_storeu_si512(packed + 64, _mm512_unpackhi_epi16(ab[0], cd[0]));
	_mm512_storeu_si512(packed + 128, _mm512_unpacklo_epi16(ab[1], cd[1]));
	_mm512_storeu_si512(packed + 192, _mm512_unpackhi_epi16(ab[1], cd[1]));
}

/* Column after column, each of all tokens. */
static void pack(const struct vnni_tile *t, uint8_t *packed, struct kvt_ahead *ahead)
{
	uint32_t blocks = (t->nr + 3) / 4 * ((t->dim + COLUMN - 1) / COLUMN);
	uint32_t pace = kvt_ahead_pace(ahead, 2 * blocks), token, i; /* half of it here */

	for (i = 0; i < t->dim; i += COLUMN)
		for (token = 0; token < t->nr; token += 4) {
			pack_block(t, token, i, packed + (size_t)i * KVT_TILE + 64 * (size_t)token);
			kvt_ahead_fetch(ahead, pace);
		}
}

static void weigh(const float *p, const float *scales, uint32_t nr, struct weights *w)
{
	__m512 x[KVT_TILE / 16], most = _mm512_setzero_ps(), bad = most, times;
	__m512i n, high, sum = _mm512_setzero_si512();
	float largest;
	uint32_t i;

	KVT_UNROLL
	for (i = 0; i < KVT_TILE / 16; i++) {
		uint32_t left = nr > 16 * i ? nr - 16 * i : 0;
		__mmask16 there = left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1);

		x[i] = _mm512_maskz_mul_ps(there, _mm512_maskz_loadu_ps(there, p + 16 * i),
					   _mm512_maskz_loadu_ps(there, scales + 16 * i));
		most = _mm512_max_ps(most, _mm512_abs_ps(x[i]));
		bad = _mm512_add_ps(bad, _mm512_sub_ps(x[i], x[i])); /* 0 or NaN */
	}
	largest = _mm512_reduce_max_ps(most);
	w->back = largest / WEIGHT_MOST;
	if (_mm512_cmp_ps_mask(bad, bad, _CMP_UNORD_Q)) { /* NaN times any number will do */
		memset(w, 0, offsetof(struct weights, back));
		w->back = NAN;
		return;
	}
	times = _mm512_set1_ps(largest > 0x1p-100f ? WEIGHT_MOST / largest : 0);
	KVT_UNROLL
	for (i = 0; i < KVT_TILE / 16; i++) {
		n = _mm512_cvtps_epi32(_mm512_mul_ps(x[i], times));
		high = _mm512_srai_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(128)), 8);
		sum = _mm512_add_epi32(sum, n);
		_mm_storeu_si128((void *)(w->high + 4 * i), _mm512_cvtepi32_epi8(high));
		_mm_storeu_si128((void *)(w->low + 4 * i),
				 _mm512_cvtepi32_epi8(_mm512_sub_epi32(
					 n, _mm512_slli_epi32(high, 8))));
	}
	w->sum = _mm512_reduce_add_epi32(sum);
}

/* A column lies over two groups (or one that is longer): a pair of their numbers as lanes. */
static inline __m512i pair(uint32_t a, uint32_t b)
{
	return _mm512_mask_set1_epi32(_mm512_set1_epi32((int)a), 0xff00, (int)b);
}

/* Four vectors whose 128-bit lanes are to be columns. */
static void transpose(__m512 *x)
{
	__m512 a = _mm512_shuffle_f32x4(x[0], x[1], 0x44), b = _mm512_shuffle_f32x4(x[0], x[1], 0xee);
	__m512 c = _mm512_shuffle_f32x4(x[2], x[3], 0x44), d = _mm512_shuffle_f32x4(x[2], x[3], 0xee);

	x[0] = _mm512_shuffle_f32x4(a, c, 0x88);
	x[1] = _mm512_shuffle_f32x4(a, c, 0xdd);
	x[2] = _mm512_shuffle_f32x4(b, d, 0x88);
	x[3] = _mm512_shuffle_f32x4(b, d, 0xdd);
}

/* A row's column of outputs, from the sums of its products. */
static void finish(const struct weights *first, const struct weights *second, const __m512i *high,
		   const __m512i *low, float shrink, float *o, uint32_t left)
{
	__m512i off = pair(128u * (uint32_t)first->sum, 128u * (uint32_t)second->sum);
	__m512 back = _mm512_mask_mov_ps(_mm512_set1_ps(first->back), 0xff00,
					 _mm512_set1_ps(second->back));
	__m512 x[4], before;
	__mmask16 there;
	uint32_t j;

	KVT_UNROLL
	for (j = 0; j < 4; j++)
		x[j] = _mm512_mul_ps(
			_mm512_cvtepi32_ps(_mm512_sub_epi32(vnni_join(high[j], low[j]), off)), back);
	transpose(x);
	KVT_UNROLL
	for (j = 0; j < 4; j++) {
		if (16 * j >= left)
			break;
		there = left - 16 * j >= 16 ? 0xffff : 0xff;
		before = _mm512_maskz_loadu_ps(there, o + 16 * j);
		_mm512_mask_storeu_ps(o + 16 * j, there,
				      _mm512_fmadd_ps(before, _mm512_set1_ps(shrink), x[j]));
	}
}

/* A column of the outputs of @nr rows; @first and @second: its groups' weights. */
static inline __attribute__((always_inline)) const uint8_t *
add_column(int nr, bool two, const struct weights *const *first, const struct weights *const *second,
	   const uint8_t *packed, uint32_t fours, const float *shrink, float *o, uint32_t o_pad,
	   uint32_t left, const uint8_t *ahead, uint32_t pace)
{
	__m512i high[2][4], low[2][4], v[4], x;
	uint32_t i;
	int r, j;

	KVT_UNROLL
	for (r = 0; r < nr; r++) {
		KVT_UNROLL
		for (j = 0; j < 4; j++)
			high[r][j] = low[r][j] = _mm512_setzero_si512();
	}
	for (i = 0; i < fours; i++) {
		KVT_UNROLL
		for (j = 0; j < 4; j++)
			v[j] = _mm512_loadu_si512(packed + (size_t)(4 * i + (uint32_t)j) * 64);
		KVT_UNROLL
		for (r = 0; r < nr; r++) {
			x = two ? pair(first[r]->high[i], second[r]->high[i])
				: _mm512_set1_epi32((int)first[r]->high[i]);
			KVT_UNROLL
			for (j = 0; j < 4; j++)
				high[r][j] = vnni_dot(high[r][j], v[j], x);
			x = two ? pair(first[r]->low[i], second[r]->low[i])
				: _mm512_set1_epi32((int)first[r]->low[i]);
			KVT_UNROLL
			for (j = 0; j < 4; j++)
				low[r][j] = vnni_dot(low[r][j], v[j], x);
		}
		ahead = kvt_ahead_step(ahead, pace, 2);
	}
	KVT_UNROLL
	for (r = 0; r < nr; r++)
		finish(first[r], second[r], high[r], low[r], shrink[r], o + (size_t)r * o_pad, left);
	return ahead;
}

/* All columns of @nr rows. */
static inline __attribute__((always_inline)) void
add_rows(const struct vnni_tile *t, int nr, const float *p, const float *shrink,
	 const uint8_t *packed, float *o, uint32_t o_pad, struct kvt_ahead *ahead)
{
	struct weights w[2][KVT_DIM_MAX / KVT_GROUP];
	const struct weights *first[2], *second[2];
	uint32_t fours = (t->nr + 3) / 4, columns = (t->dim + COLUMN - 1) / COLUMN, g, i;
	uint32_t pace = kvt_ahead_pace(ahead, 2 * fours * columns);
	const uint8_t *at = ahead->at;
	bool two = t->groups > 1;
	int r;

	KVT_UNROLL
	for (r = 0; r < nr; r++)
		for (g = 0; g < t->groups; g++)
			weigh(p + r * KVT_TILE, t->scales + g * KVT_TILE, t->nr, &w[r][g]);
	for (i = 0; i < t->dim; i += COLUMN) {
		KVT_UNROLL
		for (r = 0; r < nr; r++) {
			g = two ? i / KVT_GROUP : 0;
			first[r] = &w[r][g];
			second[r] = &w[r][g + 1 < t->groups ? g + 1 : g];
		}
		if (two)
			at = add_column(nr, true, first, second, packed + (size_t)i * KVT_TILE,
				   fours, shrink, o + i, o_pad, t->dim - i, at, pace);
		else
			at = add_column(nr, false, first, second, packed + (size_t)i * KVT_TILE,
				   fours, shrink, o + i, o_pad, t->dim - i, at, pace);
	}
	ahead->at = at;
}

void vnni_add(uint32_t type, const struct kvt_rows *values, const float *p, const float *shrink,
	      uint32_t nr, float *o, uint32_t o_pad, struct kvt_scratch *scratch)
{
	struct vnni_tile t = vnni_open(type, values, scratch);
	struct kvt_ahead none = { (const void *)p, 0 }, *ahead = &scratch->ahead_values;
	uint32_t r;

	pack(&t, scratch->packed, ahead);
	for (r = 0; r + 2 <= nr; r += 2, ahead = &none)
		add_rows(&t, 2, p + r * KVT_TILE, shrink + r, scratch->packed,
			 o + (size_t)r * o_pad, o_pad, ahead);
	if (r < nr)
		add_rows(&t, 1, p + r * KVT_TILE, shrink + r, scratch->packed,
			 o + (size_t)r * o_pad, o_pad, ahead);
}
