// SPDX-License-Identifier: MIT
/* The portable steps: the specification of all others.  Keys and values come decoded. */
#include <math.h>
#include <string.h>

#include "isa.h"
#include "number.h"
#include "quant.h"

#define LANES 16

static bool usable(void)
{
	return true;
}

static uint32_t query_bytes(uint32_t dim)
{
	return 4 * kvt_pad(dim);
}

static void prepare(const float *q, uint32_t dim, void *row)
{
	memset(row, 0, query_bytes(dim));
	memcpy(row, q, 4 * (size_t)dim);
}

/* Sums of a few lanes, then of the lanes in a tree: the error grows with dim / LANES. */
static float dot(const float *a, const float *b, uint32_t dim)
{
	float lane[LANES] = { 0 };
	uint32_t i, j;

	for (i = 0; i + LANES <= dim; i += LANES)
		for (j = 0; j < LANES; j++)
			lane[j] += a[i + j] * b[i + j];
	for (j = 0; i + j < dim; j++)
		lane[j] += a[i + j] * b[i + j];
	for (i = LANES / 2; i; i /= 2)
		for (j = 0; j < i; j++)
			lane[j] += lane[j + i];
	return lane[0];
}

static void score(const struct kvt_rows *keys, const char *queries, uint32_t bytes, uint32_t nr,
		  float *s, struct kvt_scratch *scratch)
{
	uint32_t pace = kvt_ahead_pace(&scratch->ahead_keys, keys->nr), r, t;

	for (t = 0; t < keys->nr; t++) {
		for (r = 0; r < nr; r++)
			s[r * KVT_TILE + t] = dot((const void *)(queries + (size_t)r * bytes),
						  (const void *)(keys->base + t * keys->stride),
						  keys->dim);
		kvt_ahead_fetch(&scratch->ahead_keys, pace);
	}
}

static void add(const struct kvt_rows *values, const float *p, const float *shrink, uint32_t nr,
		float *o, uint32_t o_pad, struct kvt_scratch *scratch)
{
	uint32_t pace = kvt_ahead_pace(&scratch->ahead_values, values->nr * nr), r, t, i;

	for (r = 0; r < nr; r++, o += o_pad, p += KVT_TILE) {
		for (i = 0; i < values->dim; i++)
			o[i] *= shrink[r];
		for (t = 0; t < values->nr; t++) {
			const float *v = (const void *)(values->base + t * values->stride);

			for (i = 0; i < values->dim; i++)
				o[i] += p[t] * v[i];
			kvt_ahead_fetch(&scratch->ahead_values, pace);
		}
	}
}

static void cap(float *s, float scale, float most)
{
	uint32_t t;

	if (most == 0)
		for (t = 0; t < KVT_TILE; t++)
			s[t] *= scale;
	else
		for (t = 0; t < KVT_TILE; t++)
			s[t] = most * (1 - 2 / (kvt_exp(s[t] * scale / most * 2) + 1));
}

static float softmax_row(float *s, float *sums)
{
	float lane[LANES] = { 0 }, m = sums[0], less, shrink;
	uint32_t t, i;

	for (t = 0; t < KVT_TILE; t++)
		m = s[t] > m ? s[t] : m;
	less = m == -INFINITY ? 0 : m; /* nothing yet: exp(-inf - 0) is 0, not NaN */
	for (t = 0; t < KVT_TILE; t++) {
		s[t] = kvt_exp(s[t] - less);
		lane[t % LANES] += s[t];
	}
	for (i = LANES / 2; i; i /= 2)
		for (t = 0; t < i; t++)
			lane[t] += lane[t + i];
	shrink = kvt_exp(sums[0] - less);
	sums[0] = m;
	sums[1] = sums[1] * shrink + lane[0];
	return shrink;
}

static void softmax(float *s, uint32_t nr, float *sums, float *shrink)
{
	uint32_t r;

	for (r = 0; r < nr; r++)
		shrink[r] = softmax_row(s + r * KVT_TILE, sums + 2 * r);
}

static void blend(float *x, float a, const float *y, float b, uint32_t nr)
{
	uint32_t i;

	for (i = 0; i < nr; i++)
		x[i] = x[i] * a + y[i] * b;
}

/* Through the table, whose entries are not constant expressions. */
#define DECODE(type)                                                                               \
	static void decode_##type(const void *row, uint32_t dim, float *out)                       \
	{                                                                                          \
		kvt_types[type].decode(row, dim, out);                                             \
	}
DECODE(KVT_F16)
DECODE(KVT_BF16)
DECODE(KVT_E4M3)
DECODE(KVT_E5M2)
DECODE(KVT_INT8)
DECODE(KVT_INT4)
DECODE(KVT_Q8_0)
DECODE(KVT_Q4_0)

const struct kvt_isa kvt_isa_c = {
	.name = "c",
	.usable = usable,
	.query_bytes = query_bytes,
	.prepare = prepare,
	.decode = {
		[KVT_F16] = decode_KVT_F16,
		[KVT_BF16] = decode_KVT_BF16,
		[KVT_E4M3] = decode_KVT_E4M3,
		[KVT_E5M2] = decode_KVT_E5M2,
		[KVT_INT8] = decode_KVT_INT8,
		[KVT_INT4] = decode_KVT_INT4,
		[KVT_Q8_0] = decode_KVT_Q8_0,
		[KVT_Q4_0] = decode_KVT_Q4_0,
	},
	.score = { [KVT_F32] = score },
	.add = { [KVT_F32] = add },
	.few = { [KVT_F32] = UINT32_MAX },
	.cap = cap,
	.softmax = softmax,
	.blend = blend,
};
