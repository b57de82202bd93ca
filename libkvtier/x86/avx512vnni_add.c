// SPDX-License-Identifier: MIT
/* Outputs of values of small integers. */
#include "x86/avx512vnni.h"

#define WEIGHT_MOST (127 * 256)
#define COLUMN 64 /* bytes of a row that are packed at once */
#define FOURS (KVT_TILE / 4)

/*
 * What a query row multiplies a group of a tile's values with: p times scale, as
 * integers; back as floats they are @back times as large.
 */
struct weights {
	uint32_t high[FOURS];
	uint32_t low[FOURS];
	uint32_t off; /* minus the offset of the values times the sum of all */
	float back;
};

/* Elements [i, i + COLUMN) of a row, of which @left there are, offset. */
VNNI_INLINE __m512i load_column(enum vnni_layout layout, const uint8_t *row, uint32_t i,
				uint32_t left)
{
	const __m512i offset = _mm512_set1_epi8((char)0x80);
	const __m512i shift = _mm512_set_epi64(0x4000400040004, 0x4000400040004, 0, 0,
					       0x4000400040004, 0x4000400040004, 0, 0);
	const uint8_t *at = row + vnni_at(layout, i), *next = row + vnni_at(layout, i + KVT_GROUP);
	__m512i x;

	switch (layout) {
	case VNNI_GROUPS:
		x = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)at));
		if (left > KVT_GROUP)
			x = _mm512_inserti64x4(x, _mm256_loadu_si256((const void *)next), 1);
		return _mm512_xor_si512(x, offset);
	case VNNI_NIBBLES:
		x = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)at));
		if (left > KVT_GROUP)
			x = _mm512_mask_broadcast_i32x4(x, 0xff00,
							_mm_loadu_si128((const void *)next));
		return _mm512_and_si512(_mm512_srlv_epi16(x, shift), _mm512_set1_epi8(15));
	default:
		x = left >= COLUMN ? _mm512_loadu_si512(at)
				   : _mm512_maskz_loadu_epi8(((__mmask64)1 << left) - 1, at);
		return _mm512_xor_si512(x, offset);
	}
}

/* Four tokens' elements [i, i + COLUMN): four vectors, of dwords of four tokens. */
VNNI_INLINE void pack_block(enum vnni_layout layout, const uint8_t *row, size_t stride,
			    uint32_t i, uint32_t left, uint8_t *packed)
{
	__m512i r[4], ab[2], cd[2];
	int j;

	KVT_UNROLL
	for (j = 0; j < 4; j++)
		r[j] = load_column(layout, row + (size_t)j * stride, i, left);
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
VNNI_INLINE void pack_layout(enum vnni_layout layout, const struct vnni_tile *t, uint8_t *packed,
			     struct kvt_ahead *ahead, const struct kvt_ahead *keys)
{
	uint32_t blocks = (t->nr + 3) / 4 * ((t->dim + COLUMN - 1) / COLUMN);
	uint32_t pace = kvt_ahead_pace(ahead, 2 * blocks), token, i; /* half of it here */
	uint32_t pace_keys = kvt_ahead_pace(keys, blocks);
	const uint8_t *row = t->base, *far = ahead->at, *far_keys = keys->at;

	for (token = 0; token < t->nr; token += 4, packed += 256, row += 4 * t->stride) {
		for (i = 0; i + COLUMN <= t->dim; i += COLUMN) {
			pack_block(layout, row, t->stride, i, COLUMN,
				   packed + (size_t)i * KVT_TILE);
			far = kvt_ahead_step(far, pace, 2);
			far_keys = kvt_ahead_step(far_keys, pace_keys, 1);
		}
		if (i < t->dim)
			pack_block(layout, row, t->stride, i, t->dim - i,
				   packed + (size_t)i * KVT_TILE);
	}
	ahead->at = far;
}

static void pack(const struct vnni_tile *t, uint8_t *packed, struct kvt_ahead *ahead,
		 const struct kvt_ahead *keys)
{
	switch (t->layout) {
	case VNNI_BYTES:
		pack_layout(VNNI_BYTES, t, packed, ahead, keys);
		break;
	case VNNI_GROUPS:
		pack_layout(VNNI_GROUPS, t, packed, ahead, keys);
		break;
	case VNNI_NIBBLES:
		pack_layout(VNNI_NIBBLES, t, packed, ahead, keys);
		break;
	}
}

VNNI_INLINE float level_some(const float *x, uint32_t nr, float most, float *to)
{
	__m512i v[KVT_TILE / 16], top = _mm512_setzero_si512();
	__m512 times;
	uint32_t i, bits;
	float largest;

	KVT_UNROLL
	for (i = 0; i < KVT_TILE / 16; i++) {
		uint32_t left = nr > 16 * i ? nr - 16 * i : 0;

		v[i] = left >= 16 ? _mm512_loadu_si512(x + 16 * i)
				  : _mm512_maskz_loadu_epi32((__mmask16)((1u << left) - 1),
							     x + 16 * i);
		top = _mm512_max_epu32(top, _mm512_slli_epi32(v[i], 1)); /* less the sign */
	}
	bits = _mm512_reduce_max_epu32(top) >> 1; /* as integers, a NaN is the largest */
	memcpy(&largest, &bits, sizeof(largest));
	times = _mm512_set1_ps(largest > 0x1p-100f ? most / largest : 0);
	KVT_UNROLL
	for (i = 0; i < KVT_TILE / 16; i++)
		_mm512_storeu_ps(to + 16 * i, _mm512_mul_ps(_mm512_castsi512_ps(v[i]), times));
	return largest;
}

/*
 * @nr numbers so that the largest becomes @most, and zeros up to KVT_TILE.  Returns what
 * the largest was: NaN, and numbers of no account, if one of them is.
 */
static float level(const float *x, uint32_t nr, float most, float *to)
{
	return nr == KVT_TILE ? level_some(x, KVT_TILE, most, to) : level_some(x, nr, most, to);
}

/* The bytes of four vectors of 16 numbers of 16 bits: @low, or the upper ones, as dwords. */
static __m512i bytes_of(__m512i first, __m512i second, bool low)
{
	const __m512i half = _mm512_set1_epi16(128), byte = _mm512_set1_epi16(255);
	const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11,
						15);
	__m512i x;

	if (low)
		x = _mm512_packus_epi16(_mm512_and_si512(first, byte),
					_mm512_and_si512(second, byte));
	else
		x = _mm512_packs_epi16(_mm512_srai_epi16(_mm512_add_epi16(first, half), 8),
				       _mm512_srai_epi16(_mm512_add_epi16(second, half), 8));
	return _mm512_permutexvar_epi32(order, x);
}

/* Of a row's weights, at most WEIGHT_MOST, and a group's scales, at most 1. */
static void weigh(const float *p, const float *scales, int offset, struct weights *w)
{
	const __m512i ones = _mm512_set1_epi16(1);
	__m512i n[KVT_TILE / 16], sum;
	uint32_t i;

	KVT_UNROLL
	for (i = 0; i < KVT_TILE / 16; i++)
		n[i] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(p + 16 * i),
							_mm512_loadu_ps(scales + 16 * i)));
	n[0] = _mm512_packs_epi32(n[0], n[1]);
	n[2] = _mm512_packs_epi32(n[2], n[3]);
	_mm512_storeu_si512(w->high, bytes_of(n[0], n[2], false));
	_mm512_storeu_si512(w->low, bytes_of(n[0], n[2], true));
	sum = _mm512_add_epi32(_mm512_madd_epi16(n[0], ones), _mm512_madd_epi16(n[2], ones));
	w->off = (uint32_t)-offset * (uint32_t)_mm512_reduce_add_epi32(sum);
}

/* Each group of a row. */
static void weigh_row(const struct vnni_tile *t, const float *largest, const float *p,
		      struct weights *w)
{
	float parts[KVT_TILE], most = level(p, t->nr, WEIGHT_MOST, parts);
	uint32_t g = 0;

	do {
		weigh(parts, t->scales + g * KVT_TILE, vnni_offset(t->layout), &w[g]);
		w[g].back = most * (largest[g] / WEIGHT_MOST);
	} while (++g < t->groups);
}

/* A column lies over two groups (or one that is longer): a pair of their numbers as lanes. */
VNNI_INLINE __m512i pair(const uint32_t *a, const uint32_t *b)
{
	return _mm512_mask_blend_epi32(0xff00, _mm512_set1_epi32((int)*a),
				       _mm512_set1_epi32((int)*b));
}

/* Four vectors whose 128-bit lanes are to be columns. */
static void transpose(__m512 *x)
{
	__m512 a = _mm512_shuffle_f32x4(x[0], x[1], 0x44),
	       b = _mm512_shuffle_f32x4(x[0], x[1], 0xee);
	__m512 c = _mm512_shuffle_f32x4(x[2], x[3], 0x44),
	       d = _mm512_shuffle_f32x4(x[2], x[3], 0xee);

	x[0] = _mm512_shuffle_f32x4(a, c, 0x88);
	x[1] = _mm512_shuffle_f32x4(a, c, 0xdd);
	x[2] = _mm512_shuffle_f32x4(b, d, 0x88);
	x[3] = _mm512_shuffle_f32x4(b, d, 0xdd);
}

/* A row's column of outputs, from the sums of its products. */
static void finish(const struct weights *first, const struct weights *second, const __m512i *high,
		   const __m512i *low, float shrink, float *o, uint32_t left)
{
	__m512 back = _mm512_mask_mov_ps(_mm512_set1_ps(first->back), 0xff00,
					 _mm512_set1_ps(second->back));
	__m512 x[4], before;
	__mmask16 there;
	uint32_t j;

	KVT_UNROLL
	for (j = 0; j < 4; j++)
		x[j] = _mm512_mul_ps(_mm512_cvtepi32_ps(vnni_join(high[j], low[j])), back);
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
VNNI_INLINE void add_column(int nr, bool two, const struct weights *const *first,
			    const struct weights *const *second, const uint8_t *packed,
			    uint32_t fours, const float *shrink, float *o, uint32_t o_pad,
			    uint32_t left, struct vnni_fetch *fetch)
{
	__m512i high[2][4], low[2][4], v[4], x;
	uint32_t i;
	int r, j;

	KVT_UNROLL
	for (r = 0; r < nr; r++) {
		KVT_UNROLL
		for (j = 0; j < 4; j++) {
			high[r][j] = _mm512_setzero_si512();
			low[r][j] = pair(&first[r]->off, &second[r]->off);
		}
	}
	for (i = 0; i < fours; i++) {
		KVT_UNROLL
		for (j = 0; j < 4; j++)
			v[j] = _mm512_loadu_si512(packed + (size_t)(4 * i + (uint32_t)j) * 64);
		KVT_UNROLL
		for (r = 0; r < nr; r++) {
			x = two ? pair(&first[r]->high[i], &second[r]->high[i])
				: _mm512_set1_epi32((int)first[r]->high[i]);
			KVT_UNROLL
			for (j = 0; j < 4; j++)
				high[r][j] = vnni_dot(high[r][j], v[j], x);
			x = two ? pair(&first[r]->low[i], &second[r]->low[i])
				: _mm512_set1_epi32((int)first[r]->low[i]);
			KVT_UNROLL
			for (j = 0; j < 4; j++)
				low[r][j] = vnni_dot(low[r][j], v[j], x);
		}
		vnni_fetch(fetch);
	}
	KVT_UNROLL
	for (r = 0; r < nr; r++)
		finish(first[r], second[r], high[r], low[r], shrink[r], o + (size_t)r * o_pad,
		       left);
}

/* All columns of @nr rows; @largest: the scale of each group that is 1 now. */
VNNI_INLINE void add_rows(const struct vnni_tile *t, const float *largest, int nr, const float *p,
			  const float *shrink, const uint8_t *packed, float *o, uint32_t o_pad,
			  struct vnni_fetch *fetch)
{
	struct weights w[2][KVT_DIM_MAX / KVT_GROUP];
	const struct weights *first[2], *second[2];
	uint32_t fours = (t->nr + 3) / 4, g, i;
	bool two = t->groups > 1;
	int r;

	KVT_UNROLL
	for (r = 0; r < nr; r++)
		weigh_row(t, largest, p + r * KVT_TILE, w[r]);
	for (i = 0; i < t->dim; i += COLUMN) {
		KVT_UNROLL
		for (r = 0; r < nr; r++) {
			g = two ? i / KVT_GROUP : 0;
			first[r] = &w[r][g];
			second[r] = &w[r][g + 1 < t->groups ? g + 1 : g];
		}
		if (two)
			add_column(nr, true, first, second, packed + (size_t)i * KVT_TILE,
					fours, shrink, o + i, o_pad, t->dim - i, fetch);
		else
			add_column(nr, false, first, second, packed + (size_t)i * KVT_TILE,
					fours, shrink, o + i, o_pad, t->dim - i, fetch);
	}
}

void kvt_vnni_add(uint32_t type, const struct kvt_rows *values, const float *p, const float *shrink,
		  uint32_t nr, float *o, uint32_t o_pad, struct kvt_scratch *scratch)
{
	struct vnni_tile t = kvt_vnni_open(type, values, scratch);
	uint32_t steps = (t.nr + 3) / 4 * ((t.dim + COLUMN - 1) / COLUMN), r, g = 0;
	struct kvt_ahead *ahead = &scratch->ahead_values;
	struct vnni_fetch fetch = { .pace = kvt_ahead_pace(ahead, 2 * steps),
				    .soon = scratch->soon_keys };
	float largest[KVT_DIM_MAX / KVT_GROUP];

	do {
		largest[g] = level(t.scales + g * KVT_TILE, t.nr, 1, t.scales + g * KVT_TILE);
	} while (++g < t.groups); /* there is one at least */
	pack(&t, scratch->packed, ahead, &scratch->ahead_keys);
	fetch.ahead = ahead->at;
	for (r = 0; r + 2 <= nr; r += 2, fetch.pace = 0)
		add_rows(&t, largest, 2, p + r * KVT_TILE, shrink + r, scratch->packed,
			 o + (size_t)r * o_pad, o_pad, &fetch);
	if (r < nr)
		add_rows(&t, largest, 1, p + r * KVT_TILE, shrink + r, scratch->packed,
			 o + (size_t)r * o_pad, o_pad, &fetch);
}
