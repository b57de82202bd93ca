/* SPDX-License-Identifier: MIT */
/* Rows as floats, eight elements at a time; steps.h comes before it. */
#ifndef KVT_DECODE_H
#define KVT_DECODE_H

#include "quant.h"

static void decode_f16(const void *row, uint32_t dim, float *out)
{
	const uint8_t *at = row;
	uint32_t i;

	for (i = 0; i < dim; i += 8)
		_mm256_storeu_ps(out + i,
				 _mm256_cvtph_ps(_mm_loadu_si128((const void *)(at + 2 * i))));
}

static void decode_bf16(const void *row, uint32_t dim, float *out)
{
	const uint8_t *at = row;
	__m256i x;
	uint32_t i;

	for (i = 0; i < dim; i += 8) {
		x = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(at + 2 * i)));
		_mm256_storeu_ps(out + i, _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)));
	}
}

/* E5M2 is the upper byte of a half. */
static void decode_e5m2(const void *row, uint32_t dim, float *out)
{
	const uint8_t *at = row;
	__m128i x;
	uint32_t i;

	for (i = 0; i < dim; i += 8) {
		x = _mm_unpacklo_epi8(_mm_setzero_si128(), _mm_loadl_epi64((const void *)(at + i)));
		_mm256_storeu_ps(out + i, _mm256_cvtph_ps(x));
	}
}

/*
 * E4M3 shifted into a half's place is a half 2^8 times too small, denormals included;
 * only its NaN has to be seen to.
 */
static void decode_e4m3(const void *row, uint32_t dim, float *out)
{
	const __m128i most = _mm_set1_epi16(0x7f);
	const uint8_t *at = row;
	__m128i x, low, sign;
	__m256 y, nan;
	uint32_t i;

	for (i = 0; i < dim; i += 8) {
		x = _mm_cvtepu8_epi16(_mm_loadl_epi64((const void *)(at + i)));
		low = _mm_and_si128(x, most);
		sign = _mm_slli_epi16(_mm_xor_si128(x, low), 8);
		y = _mm256_cvtph_ps(_mm_or_si128(_mm_slli_epi16(low, 7), sign));
		nan = _mm256_castsi256_ps(_mm256_cvtepi16_epi32(_mm_cmpeq_epi16(low, most)));
		_mm256_storeu_ps(out + i, _mm256_or_ps(_mm256_mul_ps(y, _mm256_set1_ps(256)), nan));
	}
}

/* @nr bytes, a multiple of 8, times a scale. */
INLINE void decode_bytes(const uint8_t *at, uint32_t nr, float scale, float *out)
{
	__m256 times = _mm256_set1_ps(scale);
	uint32_t i;

	for (i = 0; i < nr; i += 8)
		_mm256_storeu_ps(out + i, _mm256_mul_ps(times, eight_bytes(at + i)));
}

static void decode_int8(const void *row, uint32_t dim, float *out)
{
	const uint8_t *at = row;
	float scale;

	memcpy(&scale, at, sizeof(scale));
	decode_bytes(at + 4, dim, kvt_scale(scale), out);
}

INLINE float half_scale(const uint8_t *at)
{
	return kvt_scale(_cvtsh_ss(kvt_load_half(at)));
}

static void decode_q8_0(const void *row, uint32_t dim, float *out)
{
	const uint8_t *at = row;
	uint32_t i;

	for (i = 0; i < dim; i += KVT_GROUP, at += 34)
		decode_bytes(at + 2, KVT_GROUP, half_scale(at), out + i);
}

/* 32 elements of 16 bytes. */
INLINE void decode_nibbles(const uint8_t *at, float scale, float *out)
{
	const __m128i low = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
	__m128i x = _mm_loadu_si128((const void *)at);
	uint8_t bytes[KVT_GROUP];

	_mm_storeu_si128((void *)bytes, _mm_sub_epi8(_mm_and_si128(x, low), eight));
	_mm_storeu_si128((void *)(bytes + 16),
			 _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(x, 4), low), eight));
	decode_bytes(bytes, KVT_GROUP, scale, out);
}

static void decode_q4_0(const void *row, uint32_t dim, float *out)
{
	const uint8_t *at = row;
	uint32_t i;

	for (i = 0; i + KVT_GROUP <= dim; i += KVT_GROUP, at += 18)
		decode_nibbles(at + 2, half_scale(at), out + i);
	if (i < dim) /* the short last group of KVT_INT4 */
		kvt_types[KVT_INT4].decode(at, dim - i, out + i);
}

/* All but the name of an instruction set that has no more than these. */
#define KVT_ISA_STEPS                                                                              \
	.decode = {                                                                                \
		[KVT_F16] = decode_f16,                                                            \
		[KVT_BF16] = decode_bf16,                                                          \
		[KVT_E4M3] = decode_e4m3,                                                          \
		[KVT_E5M2] = decode_e5m2,                                                          \
		[KVT_INT8] = decode_int8,                                                          \
		[KVT_INT4] = decode_q4_0,                                                          \
		[KVT_Q8_0] = decode_q8_0,                                                          \
		[KVT_Q4_0] = decode_q4_0,                                                          \
	},                                                                                         \
	.cap = cap, .softmax = softmax, .blend = blend

#endif
