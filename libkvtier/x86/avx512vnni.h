/* SPDX-License-Identifier: MIT */
/*
 * Numbers of 4 and 8 bits with a scale, multiplied as integers (VNNI: 64 products of
 * bytes an instruction, summed in fours).
 *
 * The other factor, a query or a softmax weight times a value's scale, is made an
 * integer of 16 bits, q = 256 * high + low, and multiplied in two halves.  What is
 * stored is signed, and the instruction wants one side unsigned: it is offset by 128
 * (8 for nibbles), and as many times the sum of the other side are taken off again.  All
 * sums are exact; the rounding to 16 bits is the only loss.
 *
 * A tile is first packed: for scores, so that four elements of 16 tokens are a vector (a lane
 * is a token, and there is nothing to sum across lanes); for outputs, so that an
 * element of four tokens is a lane.
 */
#ifndef KVT_AVX512VNNI_H
#define KVT_AVX512VNNI_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "isa.h"
#include "number.h"
#include "quant.h"

/* How the elements of a row lie. */
enum vnni_layout {
	VNNI_BYTES, /* one after the other */
	VNNI_GROUPS, /* q8_0: for each 32, a half and then the bytes */
	VNNI_NIBBLES, /* q4_0: a half, and 16 bytes, whose lower nibbles are the first elements */
};

#define VNNI_ROWS 16 /* that are looked at together */

/*
 * A tile of whole rows in groups that share a scale.
 * @nr:     there are VNNI_ROWS of them, or more in steps of it: the last one is repeated
 * @scales: [groups][KVT_TILE]; of no account for tokens that there are not
 */
struct vnni_tile {
	enum vnni_layout layout;
	const uint8_t *base;
	size_t stride;
	uint32_t nr;
	uint32_t dim;
	uint32_t group; /* elements */
	uint32_t groups;
	float *scales;
};

/* A query row: dwords of four high and of four low bytes, and what they add up to. */
struct vnni_query {
	float scale;
	int32_t sums[KVT_DIM_MAX / KVT_GROUP]; /* of 256 * high + low, for each group of 32 */
	int32_t sum;
	uint32_t high[KVT_DIM_MAX / 4];
	uint32_t low[KVT_DIM_MAX / 4];
};

/* Where it is in a prepared row, behind the floats. */
static inline const struct vnni_query *vnni_query_of(const char *row, uint32_t dim)
{
	return (const void *)(row + 4 * (size_t)kvt_pad(dim));
}

/* The largest 16-bit factor: the sum over a whole row must fit 32 bits. */
static inline int vnni_most(uint32_t dim)
{
	return (dim > 512 ? 63 : 127) * 256;
}

/* avx512vnni_open.c: rows of a type as a tile. */
struct vnni_tile kvt_vnni_open(uint32_t type, const struct kvt_rows *rows,
			       struct kvt_scratch *scratch);

/* avx512vnni_score.c, avx512vnni_add.c: struct kvt_isa's score and add of a type. */
void kvt_vnni_score(uint32_t type, const struct kvt_rows *keys, const char *queries,
		    uint32_t query_bytes, uint32_t nr, float *s, struct kvt_scratch *scratch);
void kvt_vnni_add(uint32_t type, const struct kvt_rows *values, const float *p, const float *shrink,
		  uint32_t nr, float *o, uint32_t o_pad, struct kvt_scratch *scratch);

#define VNNI_INLINE static inline __attribute__((always_inline))

/* What is added to make elements unsigned. */
VNNI_INLINE int vnni_offset(enum vnni_layout layout)
{
	return layout == VNNI_NIBBLES ? 8 : 128;
}

/* Where the bytes of element @i, the first of a group or of half of one, are in a row. */
VNNI_INLINE size_t vnni_at(enum vnni_layout layout, uint32_t i)
{
	switch (layout) {
	case VNNI_GROUPS:
		return i / KVT_GROUP * (2 + KVT_GROUP) + 2 + i % KVT_GROUP;
	case VNNI_NIBBLES:
		return i / KVT_GROUP * (2 + KVT_GROUP / 2) + 2;
	default:
		return i;
	}
}

/* Four dwords of each of 16 tokens, from rows to columns. */
VNNI_INLINE void vnni_transpose(__m512i *x)
{
	__m512i a = _mm512_unpacklo_epi32(x[0], x[1]), b = _mm512_unpackhi_epi32(x[0], x[1]);
	__m512i c = _mm512_unpacklo_epi32(x[2], x[3]), d = _mm512_unpackhi_epi32(x[2], x[3]);

	x[0] = _mm512_unpacklo_epi64(a, c);
	x[1] = _mm512_unpackhi_epi64(a, c);
	x[2] = _mm512_unpacklo_epi64(b, d);
	x[3] = _mm512_unpackhi_epi64(b, d);
}

VNNI_INLINE __m128i vnni_load(const uint8_t *at, bool half)
{
	return half ? _mm_loadl_epi64((const void *)at) : _mm_loadu_si128((const void *)at);
}

/* 16 bytes of 16 rows, or 8 (@half): dword j of each in vector j. */
VNNI_INLINE void vnni_dwords(const uint8_t *row, size_t stride, bool half, __m512i *x)
{
	int j;

	KVT_UNROLL
	for (j = 0; j < 4; j++, row += stride) { /* inserted from memory, which takes no shuffle */
		x[j] = _mm512_castsi128_si512(vnni_load(row, half));
		x[j] = _mm512_inserti32x4(x[j], vnni_load(row + 4 * stride, half), 1);
		x[j] = _mm512_inserti32x4(x[j], vnni_load(row + 8 * stride, half), 2);
		x[j] = _mm512_inserti32x4(x[j], vnni_load(row + 12 * stride, half), 3);
	}
	vnni_transpose(x);
}

/* What the inner loops fetch: the next tile, and the rows that come right after these. */
struct vnni_fetch {
	const uint8_t *ahead;
	uint32_t pace;
	struct kvt_soon soon;
};

VNNI_INLINE void vnni_fetch(struct vnni_fetch *f)
{
	f->ahead = kvt_ahead_step(f->ahead, f->pace, 1);
	kvt_soon_step(&f->soon);
}

/*
 * sum + four products in each lane.  Not the intrinsic: compilers move the sums from
 * register to register around it.
 */
static inline __m512i vnni_dot(__m512i sum, __m512i bytes, __m512i by)
{
	__asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(by));
	return sum;
}

/* The same by one dword for all lanes. */
static inline __m512i vnni_dot_one(__m512i sum, __m512i bytes, const uint32_t *by)
{
	__asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(bytes), "m"(*by));
	return sum;
}

/* 256 * high + low */
static inline __m512i vnni_join(__m512i high, __m512i low)
{
	return _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
}

#endif
