// SPDX-License-Identifier: MIT
/* Scores of keys of small integers. */
#include "x86/avx512vnni.h"

/* Elements [i, i + 16) of 16 tokens, or 8 of them; of nibbles, twice as many. */
VNNI_INLINE void pack_block(enum vnni_layout layout, const struct vnni_tile *t, uint32_t token,
			    uint32_t i, bool half, uint8_t *packed)
{
	const __m512i offset = _mm512_set1_epi8((char)0x80), low = _mm512_set1_epi8(15);
	__m512i x[4];
	int j;

	vnni_dwords(t->base + token * t->stride + vnni_at(layout, i), t->stride, half, x);
	packed += (size_t)i * KVT_TILE + 4 * (size_t)token;
	KVT_UNROLL
	for (j = 0; j < 4; j++, packed += 4 * KVT_TILE) {
		if (half && j == 2)
			break;
		if (layout != VNNI_NIBBLES) {
			_mm512_storeu_si512(packed, _mm512_xor_si512(x[j], offset));
			continue;
		}
		_mm512_storeu_si512(packed, _mm512_and_si512(x[j], low));
		_mm512_storeu_si512(packed + (size_t)16 * KVT_TILE,
				    _mm512_and_si512(_mm512_srli_epi16(x[j], 4), low));
	}
}

/* Columns of KVT_TILE dwords. */
VNNI_INLINE void pack_layout(enum vnni_layout layout, const struct vnni_tile *t, uint8_t *packed,
			     struct kvt_ahead *ahead)
{
	const uint32_t step = layout == VNNI_NIBBLES ? KVT_GROUP : 16;
	uint32_t blocks = (t->nr + VNNI_ROWS - 1) / VNNI_ROWS * ((t->dim + step - 1) / step);
	uint32_t pace = kvt_ahead_pace(ahead, 2 * blocks), token, i; /* half of it here */
	const uint8_t *far = ahead->at;

	for (token = 0; token < t->nr; token += VNNI_ROWS) {
		for (i = 0; i + 16 <= t->dim; i += step) {
			pack_block(layout, t, token, i, false, packed);
			far = kvt_ahead_step(far, pace, 2);
		}
		if (i < t->dim)
			pack_block(layout, t, token, i, true, packed);
	}
	ahead->at = far;
}

static void pack(const struct vnni_tile *t, uint8_t *packed, struct kvt_ahead *ahead)
{
	switch (t->layout) {
	case VNNI_BYTES:
		pack_layout(VNNI_BYTES, t, packed, ahead);
		break;
	case VNNI_GROUPS:
		pack_layout(VNNI_GROUPS, t, packed, ahead);
		break;
	case VNNI_NIBBLES:
		pack_layout(VNNI_NIBBLES, t, packed, ahead);
		break;
	}
}

/* Elements [from, to) of @nr query rows with 32 tokens, exactly; @off of each is taken off. */
VNNI_INLINE void
multiply(int nr, const struct vnni_query *const *q, const uint8_t *packed, uint32_t from,
	 uint32_t to, const uint32_t *off, __m512i (*dot)[2], struct vnni_fetch *fetch)
{
	__m512i high[4][2], low[4][2], k[2];
	uint32_t i;
	int r;

	KVT_UNROLL
	for (r = 0; r < nr; r++) {
		high[r][0] = high[r][1] = _mm512_setzero_si512();
		low[r][0] = low[r][1] = _mm512_set1_epi32((int)-off[r]);
	}
	for (i = from / 4; i < to / 4; i++) {
		vnni_fetch(fetch);
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
}

/* @nr query rows with 32 tokens from @token on. */
VNNI_INLINE void
score_block(const struct vnni_tile *t, int nr, const struct vnni_query *const *q,
	    const uint8_t *packed, uint32_t token, float *s, struct vnni_fetch *fetch)
{
	__m512 sum[4][2], scale[2];
	uint32_t g, from, to, off[4];
	__m512i dot[4][2];
	int r;

	KVT_UNROLL
	for (r = 0; r < nr; r++)
		sum[r][0] = sum[r][1] = _mm512_setzero_ps();
	for (g = 0; g < t->groups; g++) {
		from = g * t->group;
		to = from + t->group < t->dim ? from + t->group : t->dim;
		KVT_UNROLL
		for (r = 0; r < nr; r++)
			off[r] = (uint32_t)vnni_offset(t->layout) *
				 (uint32_t)(t->groups == 1 ? q[r]->sum : q[r]->sums[g]);
		multiply(nr, q, packed + 4 * (size_t)token, from, to, off, dot, fetch);
		scale[0] = _mm512_loadu_ps(t->scales + g * KVT_TILE + token);
		scale[1] = _mm512_loadu_ps(t->scales + g * KVT_TILE + token + 16);
		KVT_UNROLL
		for (r = 0; r < nr; r++) {
			sum[r][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r][0]), scale[0],
						    sum[r][0]);
			sum[r][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r][1]), scale[1],
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
}

VNNI_INLINE void
score_rows(const struct vnni_tile *t, int nr, const char *queries, uint32_t query_bytes,
	   const uint8_t *packed, float *s, struct vnni_fetch *fetch)
{
	const struct vnni_query *q[4];
	uint32_t token;
	int r;

	KVT_UNROLL
	for (r = 0; r < nr; r++)
		q[r] = vnni_query_of(queries + (size_t)r * query_bytes, t->dim);
	for (token = 0; token < t->nr; token += 32)
		score_block(t, nr, q, packed, token, s, fetch);
}

void kvt_vnni_score(uint32_t type, const struct kvt_rows *keys, const char *queries,
		    uint32_t query_bytes, uint32_t nr, float *s, struct kvt_scratch *scratch)
{
	struct vnni_tile t = kvt_vnni_open(type, keys, scratch);
	struct kvt_ahead ahead = { scratch->ahead_keys.at, scratch->ahead_keys.bytes / 4 * 3 };
	uint32_t steps = (t.nr + 31) / 32 * (t.dim / 4), r;
	struct vnni_fetch fetch = { .pace = kvt_ahead_pace(&ahead, 2 * steps),
				    .soon = scratch->soon_values };

	scratch->ahead_keys.at += ahead.bytes; /* the rest while outputs are computed */
	scratch->ahead_keys.bytes -= ahead.bytes;
	pack(&t, scratch->packed, &ahead);
	fetch.ahead = ahead.at;
	for (r = 0; r + 4 <= nr; r += 4, fetch.pace = 0)
		score_rows(&t, 4, queries + (size_t)r * query_bytes, query_bytes, scratch->packed,
			   s + r * KVT_TILE, &fetch);
	for (; r < nr; r++, fetch.pace = 0)
		score_rows(&t, 1, queries + (size_t)r * query_bytes, query_bytes, scratch->packed,
			   s + r * KVT_TILE, &fetch);
}
