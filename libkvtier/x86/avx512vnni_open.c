// SPDX-License-Identifier: MIT
/* Rows of each type as rows of signed bytes, and their scales side by side. */
#include "x86/avx512vnni.h"

/* Turn @groups rows of KVT_TILE halves into floats. */
static void widen(const uint16_t *halves, uint32_t groups, float *scales)
{
	__m512 x;
	uint32_t i;

	for (i = 0; i < groups * KVT_TILE; i += 16) {
		x = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(halves + i)));
		_mm512_storeu_ps(scales + i, _mm512_add_ps(x, _mm512_sub_ps(x, x)));
	}
}

static void open_int8(struct vnni_tile *t, const struct kvt_rows *rows, float *scales)
{
	float scale;
	uint32_t i;

	for (i = 0; i < rows->nr; i++) {
		memcpy(&scale, rows->base + i * rows->stride, sizeof(scale));
		scales[i] = kvt_scale(scale);
	}
	t->base = rows->base + 4;
	t->stride = rows->stride;
	t->group = rows->dim;
	t->groups = 1;
}

/* 32 signed bytes of 16 bytes of nibbles. */
static __m256i widen_nibbles(const uint8_t *at)
{
	__m128i x = _mm_loadu_si128((const void *)at);
	__m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(x), _mm_srli_epi16(x, 4), 1);

	return _mm256_sub_epi8(_mm256_and_si256(both, _mm256_set1_epi8(15)), _mm256_set1_epi8(8));
}

/* The short last group of KVT_INT4. */
static void widen_rest(const uint8_t *at, uint32_t nr, uint8_t *to)
{
	uint32_t i;

	for (i = 0; i < nr / 2; i++) {
		to[i] = (uint8_t)((at[i] & 15) - 8);
		to[nr / 2 + i] = (uint8_t)((at[i] >> 4) - 8);
	}
}

/* @bytes of a group is a constant. */
static inline __attribute__((always_inline)) __m256i widen_group(const uint8_t *at, int bytes)
{
	return bytes == KVT_GROUP ? _mm256_loadu_si256((const void *)at) : widen_nibbles(at);
}

static inline __attribute__((always_inline)) void
open_row(const uint8_t *at, uint32_t dim, int bytes, uint8_t *to, uint16_t *halves)
{
	uint32_t i = 0;
	__m512i x;

	for (; i + COLUMN <= dim; i += COLUMN, at += 2 * (2 + bytes), halves += 2 * KVT_TILE) {
		halves[0] = kvt_load_half(at);
		halves[KVT_TILE] = kvt_load_half(at + 2 + bytes);
		x = _mm512_castsi256_si512(widen_group(at + 2, bytes));
		x = _mm512_inserti64x4(x, widen_group(at + 4 + bytes, bytes), 1);
		_mm512_storeu_si512(to + i, x);
	}
	for (; i + KVT_GROUP <= dim; i += KVT_GROUP, at += 2 + bytes, halves += KVT_TILE) {
		*halves = kvt_load_half(at);
		_mm256_storeu_si256((void *)(to + i), widen_group(at + 2, bytes));
	}
	if (i < dim) {
		*halves = kvt_load_half(at);
		widen_rest(at + 2, dim - i, to + i);
	}
}

static inline __attribute__((always_inline)) void
open_groups(struct vnni_tile *t, const struct kvt_rows *rows, int bytes, float *scales, uint8_t *to)
{
	uint16_t halves[KVT_DIM_MAX / KVT_GROUP * KVT_TILE];
	uint32_t i;

	t->group = KVT_GROUP;
	t->groups = kvt_groups(rows->dim);
	t->base = to;
	t->stride = (rows->dim + COLUMN - 1) / COLUMN * COLUMN;
	for (i = 0; i < t->groups; i++) /* those of tokens that there are not */
		memset(halves + i * KVT_TILE + rows->nr, 0, 2 * (KVT_TILE - rows->nr));
	for (i = 0; i < rows->nr; i++)
		open_row(rows->base + i * rows->stride, rows->dim, bytes, to + i * t->stride,
			 halves + i);
	widen(halves, t->groups, scales);
}

struct vnni_tile vnni_open(uint32_t type, const struct kvt_rows *rows, struct kvt_scratch *scratch)
{
	struct vnni_tile t = { .nr = rows->nr, .dim = rows->dim, .scales = scratch->scales };

	if (type == KVT_INT8)
		open_int8(&t, rows, scratch->scales);
	else if (type == KVT_Q8_0)
		open_groups(&t, rows, KVT_GROUP, scratch->scales, scratch->bytes);
	else
		open_groups(&t, rows, KVT_GROUP / 2, scratch->scales, scratch->bytes);
	return t;
}
