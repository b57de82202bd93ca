// SPDX-License-Identifier: MIT
/* Scores of keys of small integers. */
#include "x86/avx512vnni.h"

/* Dwords of 16 tokens, from rows to columns. */
static void transpose(__m512i *r)
{
	__m512i t[16];
	int i;

	KVT_UNROLL
	for (i = 0; i < 8; i++) {
		t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
		t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
	}
	KVT_UNROLL
	for (i = 0; i < 4; i++) {
		r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
		r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
		r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
		r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
	}
	KVT_UNROLL
	for (i = 0; i < 4; i++) {
		t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
		t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
		t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
		t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
	}
	KVT_UNROLL
	for (i = 0; i < 4; i++) {
		r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
		r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
		r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
		r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
	}
}

/* 16 tokens' elements [i, i + COLUMN) into packed columns of KVT_TILE dwords. */
static void pack_block(const struct vnni_tile *t, uint32_t token, uint32_t i, uint8_t *packed)
{
	uint32_t bytes = t->dim - i < COLUMN ? t->dim - i : COLUMN, j;
	__m512i r[16];

	vnni_load_rows(t, token, i, 16, r);
	transpose(r);
	packed += (size_t)i * KVT_TILE + 4 * (size_t)token;
	KVT_UNROLL
	for (j = 0; j < 16; j++)
		if (4 * j < bytes)
			_mm512_storeu_si512(packed + j * 4 * KVT_TILE, r[j]);
}

static void pack(const struct vnni_tile *t, uint8_t *packed, struct kvt_ahead *ahead)
{
	uint32_t blocks = (t->nr + 15) / 16 * ((t->dim + COLUMN - 1) / COLUMN);
	uint32_t pace = kvt_ahead_pace(ahead, 2 * blocks), token, i; /* half of it here */

	for (token = 0; token < t->nr; token += 16)
		for (i = 0; i < t->dim; i += COLUMN) {
			pack_block(t, token, i, packed);
			kvt_ahead_fetch(ahead, pace);
		}
}

/* Elements [from, to) of @nr query rows with 32 tokens, exactly. */
static inline __attribute__((always_inline)) const uint8_t *
multiply(int nr, const struct vnni_query *const *q, const uint8_t *packed, uint32_t from,
	 uint32_t to, __m512i (*dot)[2], const uint8_t *ahead, uint32_t pace)
{
	__m512i high[4][2], low[4][2], k[2];
	uint32_t i;
	int r;

	KVT_UNROLL
	for (r = 0; r < nr; r++)
		high[r][0] = high[r][1] = low[r][0] = low[r][1] = _mm512_setzero_si512();
	for (i = from / 4; i < to / 4; i++) {
		ahead = kvt_ahead_step(ahead, pace, 1);
		k[0] = _mm512_loadu_si512(packed + (size_t)i * 4 * KVT_TILE);
		k[1] = _mm512_loadu_si512(packed + (size_t)i * 4 * KVT_TILE + 64);
		KVT_UNROLL
		for (r = 0; r < nr; r++) {
			high[r][0] = vnni_dot_one(high[r][0], k[0], &q[r]->high[i]);
			high[r][1] = vnni_dot_one(high[r][1], k[1], &q[r]->high[i]);
			low[r][0] = vnni_dot_one(low[r][0], k[0], &q[r]->low[i]);
			low[r][1] = vnni_dot_one(low[r][1], k[1], &q[r]->low[i]);
		}
	}
	KVT_UNROLL
	for (r = 0; r < nr; r++) {
		dot[r][0] = vnni_join(high[r][0], low[r][0]);
		dot[r][1] = vnni_join(high[r][1], low[r][1]);
	}
	return ahead;
}

/* @nr query rows with 32 tokens from @token on. */
static inline __attribute__((always_inline)) const uint8_t *
score_block(const struct vnni_tile *t, int nr, const struct vnni_query *const *q,
	    const uint8_t *packed, uint32_t token, float *s, const uint8_t *ahead,
	    uint32_t pace)
{
	__m512 sum[4][2], scale[2];
	__m512i dot[4][2], off;
	uint32_t g, from, to;
	int r;

	KVT_UNROLL
	for (r = 0; r < nr; r++)
		sum[r][0] = sum[r][1] = _mm512_setzero_ps();
	for (g = 0; g < t->groups; g++) {
		from = g * t->group;
		to = from + t->group < t->dim ? from + t->group : t->dim;
		ahead = multiply(nr, q, packed + 4 * (size_t)token, from, to, dot, ahead, pace);
		scale[0] = _mm512_loadu_ps(t->scales + g * KVT_TILE + token);
		scale[1] = _mm512_loadu_ps(t->scales + g * KVT_TILE + token + 16);
		KVT_UNROLL
		for (r = 0; r < nr; r++) {
			off = _mm512_set1_epi32(
				(int)(128u * (uint32_t)(t->groups == 1 ? q[r]->sum : q[r]->sums[g])));
			sum[r][0] = _mm512_fmadd_ps(
				_mm512_cvtepi32_ps(_mm512_sub_epi32(dot[r][0], off)), scale[0],
				sum[r][0]);
			sum[r][1] = _mm512_fmadd_ps(
				_mm512_cvtepi32_ps(_mm512_sub_epi32(dot[r][1], off)), scale[1],
				sum[r][1]);
		}
	}
	KVT_UNROLL
	for (r = 0; r < nr; r++) {
		_mm512_storeu_ps(s + r * KVT_TILE + token,
				 _mm512_mul_ps(sum[r][0], _mm512_set1_ps(q[r]->scale)));
		_mm512_storeu_ps(s + r * KVT_TILE + token + 16,
				 _mm512_mul_ps(sum[r][1], _mm512_set1_ps(q[r]->scale)));
	}
	return ahead;
}

static inline __attribute__((always_inline)) void
score_rows(const struct vnni_tile *t, int nr, const char *queries, uint32_t query_bytes,
	   const uint8_t *packed, float *s, struct kvt_ahead *ahead)
{
	uint32_t pace = kvt_ahead_pace(ahead, 2 * ((t->nr + 31) / 32 * (t->dim / 4))), token;
	const uint8_t *at = ahead->at;
	const struct vnni_query *q[4];
	int r;

	KVT_UNROLL
	for (r = 0; r < nr; r++)
		q[r] = vnni_query_of(queries + (size_t)r * query_bytes, t->dim);
	for (token = 0; token < t->nr; token += 32)
		at = score_block(t, nr, q, packed, token, s, at, pace);
	ahead->at = at;
}

void vnni_score(uint32_t type, const struct kvt_rows *keys, const char *queries,
		uint32_t query_bytes, uint32_t nr, float *s, struct kvt_scratch *scratch)
{
	struct vnni_tile t = vnni_open(type, keys, scratch);
	struct kvt_ahead none = { (const void *)s, 0 }, *ahead = &scratch->ahead_keys;
	uint32_t r;

	pack(&t, scratch->packed, ahead);
	for (r = 0; r + 4 <= nr; r += 4, ahead = &none)
		score_rows(&t, 4, queries + (size_t)r * query_bytes, query_bytes, scratch->packed,
			   s + r * KVT_TILE, ahead);
	for (; r < nr; r++, ahead = &none)
		score_rows(&t, 1, queries + (size_t)r * query_bytes, query_bytes, scratch->packed,
			   s + r * KVT_TILE, ahead);
}
