/* SPDX-License-Identifier: MIT */
/*
 * What an instruction set has to offer to attention.  The portable one (isa_c.c) is
 * the specification; the others compute the same within the bounds that
 * Documentation/attention.rst states, and are compared with it and with float64.
 */
#ifndef KVT_ISA_H
#define KVT_ISA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvtier_attend.h"

#define KVT_TILE 64 /* tokens whose scores are in hand at once */
#define KVT_ROWS 32 /* query rows, likewise */
#define KVT_ROW_MAX (KVT_DIM_MAX / 32 * 34) /* bytes of a row of integers with scales */
#define KVT_PAD 16 /* rows of floats are a multiple of it apart */

static inline uint32_t kvt_pad(uint32_t dim)
{
	return (dim + KVT_PAD - 1) / KVT_PAD * KVT_PAD;
}

/*
 * struct kvt_ahead - memory that will be wanted next, fetched a little at a time
 * @at:    the next of it; can always be fetched
 * @bytes: to fetch while a tile of one head is computed
 */
struct kvt_ahead {
	const uint8_t *at;
	size_t bytes;
};

/*
 * struct kvt_soon - rows that are wanted right after those at hand, and are in the outer
 * cache by now: values while scores are computed, the next head's keys while outputs are
 */
struct kvt_soon {
	const uint8_t *at;
	size_t stride;
	uint32_t nr;
};

/* Rows of keys or values of one head: at most KVT_TILE of them. */
struct kvt_rows {
	const uint8_t *base;
	size_t stride;
	uint32_t nr;
	uint32_t dim;
};

/* Memory that a worker needs for itself; what is in it holds within a call of an ISA only. */
struct kvt_scratch {
	float keys[KVT_TILE * KVT_DIM_MAX] __attribute__((aligned(64)));
	float values[KVT_TILE * KVT_DIM_MAX] __attribute__((aligned(64)));
	float scores[KVT_ROWS * KVT_TILE] __attribute__((aligned(64)));
	uint8_t bytes[KVT_TILE * KVT_DIM_MAX] __attribute__((aligned(64)));
	uint8_t rows[KVT_TILE * KVT_ROW_MAX] __attribute__((aligned(64)));
	uint8_t packed[KVT_TILE * KVT_DIM_MAX] __attribute__((aligned(64)));
	float scales[KVT_DIM_MAX / 32 * KVT_TILE] __attribute__((aligned(64)));
	float shrink[KVT_ROWS];
	struct kvt_ahead ahead_keys;
	struct kvt_ahead ahead_values;
	struct kvt_soon soon_keys;
	struct kvt_soon soon_values;
};

/*
 * struct kvt_isa - the steps of a tile
 *
 * @query_bytes: of a query row as prepare() leaves it, a multiple of 64
 * @prepare:     a query row for score(); its elements are finite
 * @decode:      a row of a type as floats
 * @score:       s[row][token] = dot product, for @nr query rows (KVT_TILE floats apart);
 *               NULL: decode the keys first, then [KVT_F32] takes them
 * @add:         o[row] = o[row] * shrink[row] + sum of p[row][token] * values; likewise
 * @few:         with up to so many query rows a type's own score and add pay; more: decode
 * @cap:         s = cap * tanh(s * scale / cap), or s * scale for cap 0; KVT_TILE of them
 * @softmax:     turn KVT_TILE scores of each of @nr query rows into exp(score - m) with m
 *               the largest so far, update sums[2 * row] = m and the next one, l; shrink[row]
 *               is by what earlier sums shrink: KVT_ROWS floats, whatever @nr is
 * @blend:       x = x * a + y * b
 */
struct kvt_isa {
	const char *name;
	bool (*usable)(void);
	uint32_t (*query_bytes)(uint32_t dim);
	void (*prepare)(const float *q, uint32_t dim, void *row);
	void (*decode[KVT_TYPES])(const void *row, uint32_t dim, float *out);
	void (*score[KVT_TYPES])(const struct kvt_rows *keys, const char *queries,
				 uint32_t query_bytes, uint32_t nr, float *s,
				 struct kvt_scratch *scratch);
	void (*add[KVT_TYPES])(const struct kvt_rows *values, const float *p, const float *shrink,
			       uint32_t nr, float *o, uint32_t o_pad,
			       struct kvt_scratch *scratch);
	uint32_t few[KVT_TYPES];
	void (*cap)(float *s, float scale, float cap);
	void (*softmax)(float *s, uint32_t nr, float *sums, float *shrink);
	void (*blend)(float *x, float a, const float *y, float b, uint32_t nr);
};

extern const struct kvt_isa kvt_isa_c;
#if defined(__x86_64__)
extern const struct kvt_isa kvt_isa_avx2;
extern const struct kvt_isa kvt_isa_avx512;
extern const struct kvt_isa kvt_isa_avx512vnni;
#endif

/*
 * The instruction set of that name; NULL or "": the one that KVTIER_ISA names, or the
 * best there is.  -EINVAL no such name, -EOPNOTSUPP this CPU lacks it.
 */
int kvt_isa_find(const char *name, const struct kvt_isa **isa);

/* How far to go at each of @steps steps. */
static inline uint32_t kvt_ahead_pace(const struct kvt_ahead *a, uint32_t steps)
{
	return (uint32_t)((a->bytes + steps - 1) / steps);
}

static inline void kvt_ahead_fetch(struct kvt_ahead *a, uint32_t pace)
{
	const uint8_t *at = a->at, *end = at + pace;

	for (; at < end; at += 64)
		__builtin_prefetch(at, 0, 2);
	a->at = end;
}

/* A step of an inner loop: no branch, and as many lines as the loop itself uses up, a constant. */
static inline __attribute__((always_inline)) const uint8_t *
kvt_ahead_step(const uint8_t *at, uint32_t pace, uint32_t lines)
{
	uint32_t i;

	for (i = 0; i < lines; i++)
		__builtin_prefetch(at + 64 * i, 0, 2);
	return at + pace;
}

/* What the same loop will come to soon, from the outer cache into the inner one. */
static inline __attribute__((always_inline)) void kvt_near(const uint8_t *at, size_t distance)
{
	__builtin_prefetch(at + distance, 0, 3);
}

/* The next of these rows, or the first lines of it, into the inner cache. */
static inline __attribute__((always_inline)) void kvt_soon_step(struct kvt_soon *s)
{
	__builtin_prefetch(s->at, 0, 3);
	__builtin_prefetch(s->at + 64, 0, 3);
	__builtin_prefetch(s->at + 128, 0, 3);
	s->at += s->nr ? s->stride : 0;
	s->nr -= s->nr != 0;
}

/* Loops over a few vectors, which have to be in registers. */
#if defined(__clang__)
#define KVT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define KVT_UNROLL _Pragma("GCC unroll 16")
#endif

#endif
