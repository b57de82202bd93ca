// SPDX-License-Identifier: MIT
/* Each type's rows: how long they are, what they say, how they are made. */
#include <math.h>
#include <string.h>

#include "number.h"
#include "quant.h"

static uint32_t bytes_four(uint32_t dim)
{
	return 4 * dim;
}

static uint32_t bytes_two(uint32_t dim)
{
	return 2 * dim;
}

static uint32_t bytes_one(uint32_t dim)
{
	return dim;
}

static uint32_t bytes_int8(uint32_t dim)
{
	return 4 + dim;
}

static uint32_t bytes_int4(uint32_t dim)
{
	return 2 * kvt_groups(dim) + dim / 2;
}

static uint32_t bytes_q8_0(uint32_t dim)
{
	return dim / KVT_GROUP * 34;
}

static uint32_t bytes_q4_0(uint32_t dim)
{
	return dim / KVT_GROUP * 18;
}

static void decode_f32(const void *row, uint32_t dim, float *out)
{
	memcpy(out, row, 4 * (size_t)dim);
}

static void encode_f32(const float *in, uint32_t dim, void *row)
{
	memcpy(row, in, 4 * (size_t)dim);
}

/* decode_NAME, encode_NAME of a type whose elements stand alone. */
#define SMALL(name, word)                                                                          \
	static void decode_##name(const void *row, uint32_t dim, float *out)                       \
	{                                                                                          \
		const uint8_t *at = row;                                                           \
		uint32_t i;                                                                        \
		word u;                                                                            \
												   \
		for (i = 0; i < dim; i++) {                                                        \
			memcpy(&u, at + i * sizeof(u), sizeof(u));                                 \
			out[i] = kvt_from_##name(u);                                               \
		}                                                                                  \
	}                                                                                          \
												   \
	static void encode_##name(const float *in, uint32_t dim, void *row)                        \
	{                                                                                          \
		uint8_t *at = row;                                                                 \
		uint32_t i;                                                                        \
		word u;                                                                            \
												   \
		for (i = 0; i < dim; i++) {                                                        \
			u = kvt_to_##name(in[i]);                                                  \
			memcpy(at + i * sizeof(u), &u, sizeof(u));                                 \
		}                                                                                  \
	}

SMALL(f16, uint16_t)
SMALL(bf16, uint16_t)
SMALL(e4m3, uint8_t)
SMALL(e5m2, uint8_t)

/* The largest magnitude; NaN if there is a NaN or an infinity. */
static float largest(const float *in, uint32_t nr)
{
	float most = 0, sum = 0;
	uint32_t i;

	for (i = 0; i < nr; i++) {
		most = fmaxf(most, fabsf(in[i]));
		sum += in[i] - in[i]; /* 0 or NaN */
	}
	return most + sum;
}

static int clamp_round(float x, int low, int high)
{
	long n = lrintf(x);

	return n < low ? low : n > high ? high : (int)n;
}

/* One over a scale; 0 for 0 and NaN, so that the numbers are defined. */
static float inverse(float scale)
{
	float x = 1 / scale;

	return isfinite(scale) && isfinite(x) ? x : 0;
}

static void decode_int8(const void *row, uint32_t dim, float *out)
{
	const uint8_t *at = row;
	float scale;
	uint32_t i;

	memcpy(&scale, at, sizeof(scale));
	scale = kvt_scale(scale);
	for (i = 0; i < dim; i++)
		out[i] = scale * (float)(int8_t)at[4 + i];
}

static void encode_int8(const float *in, uint32_t dim, void *row)
{
	float scale = largest(in, dim) / 127, times = inverse(scale);
	uint8_t *at = row;
	uint32_t i;

	memcpy(at, &scale, sizeof(scale));
	for (i = 0; i < dim; i++)
		at[4 + i] = (uint8_t)(int8_t)clamp_round(in[i] * times, -127, 127);
}

/* A group of 4-bit numbers: the first half in the low nibbles. */
static void decode_nibbles(const uint8_t *at, uint32_t nr, float scale, float *out)
{
	uint32_t i, half = nr / 2;

	for (i = 0; i < half; i++) {
		out[i] = scale * (float)((at[i] & 15) - 8);
		out[half + i] = scale * (float)((at[i] >> 4) - 8);
	}
}

static void encode_nibbles(const float *in, uint32_t nr, float times, int low, uint8_t *at)
{
	uint32_t i, half = nr / 2;

	for (i = 0; i < half; i++)
		at[i] = (uint8_t)((clamp_round(in[i] * times, low, 7) + 8) |
				  (clamp_round(in[half + i] * times, low, 7) + 8) << 4);
}

static uint32_t group_of(uint32_t dim, uint32_t first)
{
	return dim - first < KVT_GROUP ? dim - first : KVT_GROUP;
}

static void decode_int4(const void *row, uint32_t dim, float *out)
{
	const uint8_t *at = row;
	uint32_t i, nr;

	for (i = 0; i < dim; i += nr, at += 2 + nr / 2) {
		nr = group_of(dim, i);
		decode_nibbles(at + 2, nr, kvt_scale(kvt_from_f16(kvt_load_half(at))), out + i);
	}
}

/* A scale as a half; the numbers are made with what it became. */
static float store_scale(float scale, uint8_t *at)
{
	uint16_t half = kvt_to_f16(scale);

	memcpy(at, &half, sizeof(half));
	return inverse(kvt_from_f16(half));
}

static void encode_int4(const float *in, uint32_t dim, void *row)
{
	uint8_t *at = row;
	uint32_t i, nr;

	for (i = 0; i < dim; i += nr, at += 2 + nr / 2) {
		nr = group_of(dim, i);
		encode_nibbles(in + i, nr, store_scale(largest(in + i, nr) / 7, at), -7, at + 2);
	}
}

static void decode_q8_0(const void *row, uint32_t dim, float *out)
{
	const uint8_t *at = row;
	uint32_t i, j;
	float scale;

	for (i = 0; i < dim; i += KVT_GROUP, at += 34) {
		scale = kvt_scale(kvt_from_f16(kvt_load_half(at)));
		for (j = 0; j < KVT_GROUP; j++)
			out[i + j] = scale * (float)(int8_t)at[2 + j];
	}
}

static void encode_q8_0(const float *in, uint32_t dim, void *row)
{
	uint8_t *at = row;
	uint32_t i, j;
	float times;

	for (i = 0; i < dim; i += KVT_GROUP, at += 34) {
		times = store_scale(largest(in + i, KVT_GROUP) / 127, at);
		for (j = 0; j < KVT_GROUP; j++)
			at[2 + j] = (uint8_t)(int8_t)clamp_round(in[i + j] * times, -127, 127);
	}
}

/* ggml's scale has the sign that makes the largest element -8. */
static float scale_q4_0(const float *in)
{
	float scale = largest(in, KVT_GROUP) / 8;
	uint32_t i;

	for (i = 0; i < KVT_GROUP; i++)
		if (in[i] > 0 && in[i] / 8 == scale)
			return -scale;
	return scale;
}

static void encode_q4_0(const float *in, uint32_t dim, void *row)
{
	uint8_t *at = row;
	uint32_t i;

	for (i = 0; i < dim; i += KVT_GROUP, at += 18)
		encode_nibbles(in + i, KVT_GROUP, store_scale(scale_q4_0(in + i), at), -8, at + 2);
}

#define decode_q4_0 decode_int4
#define TYPE(name, align, multiple, bytes)                                                         \
	{                                                                                          \
		#name, align, multiple, bytes, decode_##name, encode_##name                        \
	}

const struct kvt_type_ops kvt_types[KVT_TYPES] = {
	[KVT_F32] = TYPE(f32, 4, 8, bytes_four),
	[KVT_F16] = TYPE(f16, 2, 8, bytes_two),
	[KVT_BF16] = TYPE(bf16, 2, 8, bytes_two),
	[KVT_E4M3] = TYPE(e4m3, 1, 8, bytes_one),
	[KVT_E5M2] = TYPE(e5m2, 1, 8, bytes_one),
	[KVT_INT8] = TYPE(int8, 4, 8, bytes_int8),
	[KVT_INT4] = TYPE(int4, 2, 8, bytes_int4),
	[KVT_Q8_0] = TYPE(q8_0, 2, 32, bytes_q8_0),
	[KVT_Q4_0] = TYPE(q4_0, 2, 32, bytes_q4_0),
};
