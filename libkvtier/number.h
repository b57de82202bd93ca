/* SPDX-License-Identifier: MIT */
/*
 * The small floating point formats, bit by bit: to float exactly, from float rounded to
 * the nearest, ties to even.
 */
#ifndef KVT_NUMBER_H
#define KVT_NUMBER_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t kvt_bits(float x)
{
	uint32_t u;

	memcpy(&u, &x, sizeof(u));
	return u;
}

static inline float kvt_float(uint32_t u)
{
	float x;

	memcpy(&x, &u, sizeof(x));
	return x;
}

static inline uint16_t kvt_load_half(const void *p)
{
	uint16_t u;

	memcpy(&u, p, sizeof(u));
	return u;
}

static inline float kvt_from_bf16(uint16_t u)
{
	return kvt_float((uint32_t)u << 16);
}

static inline uint16_t kvt_to_bf16(float x)
{
	uint32_t u = kvt_bits(x);

	if (x != x)
		return (uint16_t)(u >> 16 | 0x40);
	return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/*
 * A format with @exp bits of exponent and @man of mantissa.  The exponent's largest
 * value is for infinity and NaN.
 */
static inline float kvt_from_small(uint32_t u, int exp, int man)
{
	int bias = (1 << (exp - 1)) - 1;
	uint32_t sign = u >> (exp + man) << 31;
	uint32_t e = u >> man & ((1u << exp) - 1);
	uint32_t m = u & ((1u << man) - 1);

	if (e == (1u << exp) - 1)
		return kvt_float(sign | 0x7f800000 | m << (23 - man));
	if (!e) /* exact: m has few bits, and the scale is a power of two */
		return kvt_float(
			sign | kvt_bits((float)m * kvt_float((uint32_t)(128 - bias - man) << 23)));
	return kvt_float(sign | (e + 127 - (uint32_t)bias) << 23 | m << (23 - man));
}

/* What a finite @x becomes, without its sign; may be as large as infinity and beyond. */
static inline uint32_t kvt_round_small(float x, int exp, int man)
{
	int bias = (1 << (exp - 1)) - 1;
	uint32_t u = kvt_bits(x) & 0x7fffffff;
	int e = (int)(u >> 23) - 127 + bias;
	int drop = 23 - man;

	if (e < 1) { /* subnormal: shift the whole mantissa down */
		drop += 1 - e;
		if (drop > 31)
			return 0;
		u = (u & 0x7fffff) | (u >> 23 ? 0x800000 : 0);
		return (u + (1u << (drop - 1)) - 1 + (u >> drop & 1)) >> drop;
	}
	u = (u & 0x7fffff) | (uint32_t)e << 23;
	return (u + (1u << (drop - 1)) - 1 + (u >> drop & 1)) >> drop;
}

/* The same with infinity and NaN; for formats that have them. */
static inline uint32_t kvt_to_small(float x, int exp, int man)
{
	uint32_t sign = kvt_bits(x) >> 31 << (exp + man);
	uint32_t inf = ((1u << exp) - 1) << man;
	uint32_t u;

	if (x != x)
		return sign | inf | 1u << (man - 1);
	u = isinf(x) ? inf : kvt_round_small(x, exp, man);
	return sign | (u < inf ? u : inf);
}

static inline float kvt_from_f16(uint16_t u)
{
	return kvt_from_small(u, 5, 10);
}

static inline uint16_t kvt_to_f16(float x)
{
	return (uint16_t)kvt_to_small(x, 5, 10);
}

static inline float kvt_from_e5m2(uint8_t u)
{
	return kvt_from_small(u, 5, 2);
}

static inline uint8_t kvt_to_e5m2(float x)
{
	return (uint8_t)kvt_to_small(x, 5, 2);
}

/* No infinity; all ones is NaN, and the numbers below it go on to 448. */
static inline float kvt_from_e4m3(uint8_t u)
{
	uint32_t sign = (uint32_t)(u >> 7) << 31;

	if ((u & 0x7f) == 0x7f)
		return kvt_float(sign | 0x7fc00000);
	if ((u & 0x78) == 0x78)
		return kvt_float(sign | (uint32_t)(127 + 8) << 23 | (uint32_t)(u & 7) << 20);
	return kvt_from_small(u, 4, 3);
}

static inline uint8_t kvt_to_e4m3(float x)
{
	uint8_t sign = (uint8_t)(kvt_bits(x) >> 31 << 7);
	uint32_t u;

	if (x != x)
		return sign | 0x7f;
	u = fabsf(x) >= 448 ? 0x7e : kvt_round_small(x, 4, 3);
	return (uint8_t)(sign | (u < 0x7e ? u : 0x7e));
}

/* exp(r) - 1 - r over r * r, for r from -log(2) / 2 to log(2) / 2. */
#define KVT_EXP_2 0x1.fffffap-2f
#define KVT_EXP_3 0x1.555492p-3f
#define KVT_EXP_4 0x1.5559aep-5f
#define KVT_EXP_5 0x1.123976p-7f
#define KVT_EXP_6 0x1.69931ep-10f
#define KVT_LOG2_E 0x1.715476p+0f
#define KVT_LN2_HIGH 0x1.62e400p-1f
#define KVT_LN2_LOW 0x1.7f7d1cp-20f
#define KVT_EXP_LEAST -87.33654f /* below it the result is 0 */

/*
 * exp(x): 2^n * 2^f with f from -1/2 to 1/2, by a polynomial in f * log(2).  Below 2^-126
 * it is 0, so that no denormal comes of it.  Relative error below 2^-22.
 */
static inline float kvt_exp(float x)
{
	float n, r, y;

	if (x != x)
		return x;
	if (x < KVT_EXP_LEAST)
		return 0;
	if (x > 88.72283f)
		return INFINITY;
	n = rintf(x * KVT_LOG2_E);
	r = x - n * KVT_LN2_HIGH;
	r = r - n * KVT_LN2_LOW;
	y = KVT_EXP_6;
	y = y * r + KVT_EXP_5;
	y = y * r + KVT_EXP_4;
	y = y * r + KVT_EXP_3;
	y = y * r + KVT_EXP_2;
	y = y * r * r + r + 1;
	if (n > 127)
		return y * 2 * kvt_float((uint32_t)(n + 126) << 23);
	return y * kvt_float((uint32_t)(n + 127) << 23);
}

/* A scale as its elements see it: NaN if it is not finite. */
static inline float kvt_scale(float s)
{
	return s + (s - s);
}

#endif
