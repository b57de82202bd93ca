// SPDX-License-Identifier: MIT
/* Rows of each type as a tile, and their scales side by side. */
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

static void open_int8(struct vnni_tile *t, const struct kvt_rows *rows)
{
	float scale;
	uint32_t i;

	for (i = 0; i < rows->nr; i++) {
		memcpy(&scale, rows->base + i * rows->stride, sizeof(scale));
		t->scales[i] = kvt_scale(scale);
	}
	for (; i < KVT_TILE; i++)
		t->scales[i] = 0;
	t->layout = VNNI_BYTES;
	t->base = rows->base + 4;
	t->group = rows->dim;
	t->groups = 1;
}

/* Scales of @groups groups, of @bytes each and a scale in front. */
VNNI_INLINE void open_scales(const uint8_t *at, uint32_t groups, uint32_t bytes, uint16_t *halves)
{
	uint32_t g;

	for (g = 0; g + 4 <= groups; g += 4, at += 4 * (2 + bytes), halves += 4 * KVT_TILE) {
		halves[0] = kvt_load_half(at);
		halves[KVT_TILE] = kvt_load_half(at + 2 + bytes);
		halves[2 * KVT_TILE] = kvt_load_half(at + 2 * (2 + bytes));
		halves[3 * KVT_TILE] = kvt_load_half(at + 3 * (2 + bytes));
	}
	for (; g < groups; g++, at += 2 + bytes, halves += KVT_TILE)
		*halves = kvt_load_half(at);
}

VNNI_INLINE void open_groups(struct vnni_tile *t, const struct kvt_rows *rows, uint32_t bytes)
{
	uint16_t halves[KVT_DIM_MAX / KVT_GROUP * KVT_TILE];
	uint32_t i;

	for (i = 0; i < t->groups; i++)
		memset(halves + i * KVT_TILE + rows->nr, 0, 2 * (KVT_TILE - rows->nr));
	for (i = 0; i < rows->nr; i++)
		open_scales(rows->base + i * rows->stride, t->groups, bytes, halves + i);
	widen(halves, t->groups, t->scales);
}

/* A row of nibbles as bytes; the last group may be short. */
static void open_row(const uint8_t *at, uint32_t dim, uint8_t *to)
{
	uint32_t half, i;

	for (; dim; dim -= 2 * half, at += 2 + half, to += 2 * half) {
		half = dim < KVT_GROUP ? dim / 2 : KVT_GROUP / 2;
		for (i = 0; i < half; i++) {
			to[i] = (uint8_t)((at[2 + i] & 15) - 8);
			to[half + i] = (uint8_t)((at[2 + i] >> 4) - 8);
		}
	}
}

/* KVT_INT4 with a short last group, which the rest does not know. */
static void open_bytes(struct vnni_tile *t, const struct kvt_rows *rows, uint8_t *to)
{
	uint32_t i;

	t->layout = VNNI_BYTES;
	t->base = to;
	t->stride = rows->dim;
	for (i = 0; i < rows->nr; i++)
		open_row(rows->base + i * rows->stride, rows->dim, to + i * t->stride);
}

struct vnni_tile vnni_open(uint32_t type, const struct kvt_rows *rows, struct kvt_scratch *scratch)
{
	struct vnni_tile t = { .base = rows->base, .stride = rows->stride, .nr = rows->nr,
			       .dim = rows->dim, .group = KVT_GROUP,
			       .groups = kvt_groups(rows->dim), .scales = scratch->scales };

	if (type == KVT_INT8) {
		open_int8(&t, rows);
	} else if (type == KVT_Q8_0) {
		t.layout = VNNI_GROUPS;
		open_groups(&t, rows, KVT_GROUP);
	} else {
		t.layout = VNNI_NIBBLES;
		open_groups(&t, rows, KVT_GROUP / 2);
		if (rows->dim % KVT_GROUP)
			open_bytes(&t, rows, scratch->bytes);
	}
	return t;
}
