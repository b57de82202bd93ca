// SPDX-License-Identifier: MIT
/* Rows of each type as a tile, and their scales side by side. */
#include "x86/avx512vnni.h"

/* Halves, in the lower words of dwords, as floats that are finite or NaN. */
static __m512 widen(__m512i halves)
{
	__m512 x = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(halves));

	return _mm512_add_ps(x, _mm512_sub_ps(x, x));
}

/* @bytes of a group, whose scale is in front of them. */
VNNI_INLINE void open_groups(struct vnni_tile *t, uint32_t bytes)
{
	const uint8_t *at = t->base;
	uint32_t token, g;
	__m512i x[4];

	for (token = 0; token < t->nr; token += VNNI_ROWS, at += VNNI_ROWS * t->stride) {
		for (g = 0; g < t->groups; g++) {
			vnni_dwords(at + (size_t)g * (2 + bytes), t->stride, false, x);
			_mm512_storeu_ps(t->scales + g * KVT_TILE + token, widen(x[0]));
		}
	}
}

static void open_int8(struct vnni_tile *t)
{
	float scale;
	uint32_t i;

	for (i = 0; i < t->nr; i++) {
		memcpy(&scale, t->base + i * t->stride, sizeof(scale));
		t->scales[i] = kvt_scale(scale);
	}
	t->layout = VNNI_BYTES;
	t->base += sizeof(scale);
	t->group = t->dim;
	t->groups = 1;
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

/* KVT_INT4 with a short last group, which the rest does not know: its scales are there by now. */
static void open_bytes(struct vnni_tile *t, uint8_t *to)
{
	uint32_t rows = (t->nr + VNNI_ROWS - 1) / VNNI_ROWS * VNNI_ROWS, i;

	for (i = 0; i < rows; i++)
		open_row(t->base + i * t->stride, t->dim, to + i * t->dim);
	t->layout = VNNI_BYTES;
	t->base = to;
	t->stride = t->dim;
}

/* Repeat the last row up to a multiple of VNNI_ROWS, in a copy. */
static void fill_up(struct vnni_tile *t, size_t bytes, uint8_t *to)
{
	uint32_t i;

	for (i = 0; i < t->nr; i++)
		memcpy(to + i * bytes, t->base + i * t->stride, bytes);
	for (; i % VNNI_ROWS; i++)
		memcpy(to + i * bytes, to + (i - 1) * bytes, bytes);
	t->base = to;
	t->stride = bytes;
}

struct vnni_tile kvt_vnni_open(uint32_t type, const struct kvt_rows *rows,
			       struct kvt_scratch *scratch)
{
	struct vnni_tile t = { .base = rows->base, .stride = rows->stride, .nr = rows->nr,
			       .dim = rows->dim, .group = KVT_GROUP,
			       .groups = kvt_groups(rows->dim), .scales = scratch->scales };

	if (t.nr % VNNI_ROWS || (type == KVT_INT4 && t.dim % KVT_GROUP))
		fill_up(&t, kvt_row_bytes(type, t.dim), scratch->rows);
	if (type == KVT_INT8) {
		open_int8(&t);
	} else if (type == KVT_Q8_0) {
		t.layout = VNNI_GROUPS;
		open_groups(&t, KVT_GROUP);
	} else {
		t.layout = VNNI_NIBBLES;
		open_groups(&t, KVT_GROUP / 2);
		if (t.dim % KVT_GROUP)
			open_bytes(&t, scratch->bytes);
	}
	return t;
}
