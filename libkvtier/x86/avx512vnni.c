// SPDX-License-Identifier: MIT
/* AVX-512 with VNNI: numbers with scales are multiplied as integers, the others as before. */
#include <string.h>

#include "x86/vec_avx512.h"
/* The steps are written in terms of the vectors above. */
#include "x86/steps.h"
#include "x86/decode.h"
#include "x86/avx512vnni.h"

static bool usable(void)
{
	return kvt_isa_avx512.usable() && __builtin_cpu_supports("avx512vnni");
}

static uint32_t vnni_query_bytes(uint32_t dim)
{
	return (4 * kvt_pad(dim) + (uint32_t)sizeof(struct vnni_query) + 63) / 64 * 64;
}

/* The four bytes from @i on, of what is left of @n after the high bytes are taken off. */
static void split(const int *n, uint32_t i, struct vnni_query *row)
{
	int8_t high[4], low[4];
	int j;

	for (j = 0; j < 4; j++) {
		high[j] = (int8_t)((n[j] + 128) >> 8);
		low[j] = (int8_t)(n[j] - high[j] * 256);
		row->sum += n[j];
		row->sums[i / KVT_GROUP] += n[j];
	}
	memcpy(&row->high[i / 4], high, 4);
	memcpy(&row->low[i / 4], low, 4);
}

static void vnni_prepare(const float *q, uint32_t dim, void *to)
{
	struct vnni_query *row = (void *)((char *)to + 4 * (size_t)kvt_pad(dim));
	float most = 0, times;
	uint32_t i, j;
	int n[4];

	prepare(q, dim, to);
	memset(row, 0, sizeof(*row));
	for (i = 0; i < dim; i++)
		most = fmaxf(most, fabsf(q[i]));
	row->scale = most / (float)vnni_most(dim);
	times = most > 0x1p-100f ? (float)vnni_most(dim) / most : 0;
	for (i = 0; i < dim; i += 4) {
		for (j = 0; j < 4; j++)
			n[j] = (int)lrintf(q[i + j] * times);
		split(n, i, row);
	}
}

/* score_TYPE and add_TYPE of a type of small integers. */
#define INTEGER(name, type)                                                                        \
	static void score_##name(const struct kvt_rows *keys, const char *queries,                 \
				 uint32_t query_bytes, uint32_t nr, float *s,                      \
				 struct kvt_scratch *scratch)                                      \
	{                                                                                          \
		kvt_vnni_score(type, keys, queries, query_bytes, nr, s, scratch);                  \
	}                                                                                          \
												   \
	static void add_##name(const struct kvt_rows *values, const float *p,                      \
			       const float *shrink, uint32_t nr, float *o, uint32_t o_pad,         \
			       struct kvt_scratch *scratch)                                        \
	{                                                                                          \
		kvt_vnni_add(type, values, p, shrink, nr, o, o_pad, scratch);                      \
	}

INTEGER(int8, KVT_INT8)
INTEGER(int4, KVT_INT4)
INTEGER(q8_0, KVT_Q8_0)
INTEGER(q4_0, KVT_Q4_0)

const struct kvt_isa kvt_isa_avx512vnni = {
	.name = "avx512vnni",
	.usable = usable,
	KVT_ISA_STEPS,
	.query_bytes = vnni_query_bytes,
	.prepare = vnni_prepare,
	.score = { [KVT_F32] = score_f32, [KVT_F16] = score_f16, [KVT_BF16] = score_bf16,
		   [KVT_INT8] = score_int8, [KVT_INT4] = score_int4, [KVT_Q8_0] = score_q8_0,
		   [KVT_Q4_0] = score_q4_0 },
	.add = { [KVT_F32] = add_f32, [KVT_F16] = add_f16, [KVT_BF16] = add_bf16,
		 [KVT_INT8] = add_int8, [KVT_INT4] = add_int4, [KVT_Q8_0] = add_q8_0,
		 [KVT_Q4_0] = add_q4_0 },
	.few = { [KVT_F32] = UINT32_MAX, [KVT_F16] = 4, [KVT_BF16] = 4, [KVT_INT8] = UINT32_MAX,
		 [KVT_INT4] = UINT32_MAX, [KVT_Q8_0] = UINT32_MAX, [KVT_Q4_0] = UINT32_MAX },
};
