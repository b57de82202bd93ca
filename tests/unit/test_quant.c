// SPDX-License-Identifier: MIT
/* Description: element types: layouts, rounding, what is not a number, requantization. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <kvtier.h>
#include <kvtier_attend.h>

#include "number.h"
#include "unit.h"

/* Every half there is, from the definition. */
static double half_value(uint16_t u)
{
	int e = u >> 10 & 31, m = u & 1023;
	double x = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);

	if (e == 31)
		return m ? NAN : u >> 15 ? -INFINITY : INFINITY;
	return u >> 15 ? -x : x;
}

static void every_half(void **state)
{
	uint32_t u;
	float x;

	(void)state;
	for (u = 0; u < 65536; u++) {
		x = kvt_from_f16((uint16_t)u);
		if (isnan(half_value((uint16_t)u))) {
			assert_true(isnan(x));
			continue;
		}
		assert_true((double)x == half_value((uint16_t)u));
		assert_int_equal(kvt_to_f16(x), u);
	}
}

/* Halfway between two neighbours: the even one; a little off: the nearer. */
static void halves_round(void **state)
{
	uint16_t u;

	(void)state;
	for (u = 0; u < 0x7bff; u += 7) {
		float low = kvt_from_f16(u), high = kvt_from_f16(u + 1), middle = (low + high) / 2;

		assert_int_equal(kvt_to_f16(middle), u % 2 ? u + 1 : u);
		assert_int_equal(kvt_to_f16(nextafterf(middle, 0)), u);
		assert_int_equal(kvt_to_f16(nextafterf(middle, 1e9f)), u + 1);
	}
	assert_int_equal(kvt_to_f16(65519), 0x7bff);
	assert_int_equal(kvt_to_f16(65520), 0x7c00);
	assert_int_equal(kvt_to_f16(-INFINITY), 0xfc00);
}

static void every_byte(void **state)
{
	uint32_t u;

	(void)state;
	for (u = 0; u < 256; u++) {
		float a = kvt_from_e5m2((uint8_t)u), b = kvt_from_e4m3((uint8_t)u);
		double e = half_value((uint16_t)(u << 8));

		assert_true(isnan(e) ? isnan(a) : (double)a == e);
		assert_true(isnan(a) || kvt_to_e5m2(a) == u);
		assert_true(isnan(b) ? (u & 0x7f) == 0x7f : kvt_to_e4m3(b) == u);
	}
	assert_true(kvt_from_e4m3(0x7e) == 448);
	assert_true(kvt_from_e4m3(1) == 0x1p-9f);
	assert_int_equal(kvt_to_e4m3(1e9f), 0x7e);
	assert_int_equal(kvt_to_e4m3(-INFINITY), 0xfe);
	assert_int_equal(kvt_to_e5m2(1e9f), 0x7c);
	assert_int_equal(kvt_to_bf16(1 + 0x1p-8f), 0x3f80);
	assert_int_equal(kvt_to_bf16(1 + 0x1.8p-7f), 0x3f82);
}

static void row_lengths(void **state)
{
	static const struct {
		uint32_t type, dim, bytes;
	} rows[] = {
		{ KVT_F32, 8, 32 },	{ KVT_F16, 128, 256 },	 { KVT_BF16, 576, 1152 },
		{ KVT_E4M3, 80, 80 },	{ KVT_INT8, 128, 132 },	 { KVT_INT4, 128, 72 },
		{ KVT_INT4, 80, 46 },	{ KVT_Q8_0, 128, 136 },	 { KVT_Q4_0, 128, 72 },
		{ KVT_Q8_0, 80, 0 },	{ KVT_F16, 12, 0 },	 { KVT_F16, 584, 0 },
		{ KVT_F16, 0, 0 },	{ KVT_TYPES, 128, 0 },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_int_equal(kvt_row_bytes(rows[i].type, rows[i].dim), rows[i].bytes);
	for (i = 0; i < KVT_TYPES; i++)
		assert_int_equal(kvt_type_named(kvt_type_name((uint32_t)i)), i);
	assert_int_equal(kvt_type_named("q5_1"), -EINVAL);
	assert_null(kvt_type_name(KVT_TYPES));
}

/* Half a step of the type, as a part of the largest element of a group. */
static void rounding(void **state)
{
	static const float step[KVT_TYPES] = { 0, 0x1p-11f, 0x1p-8f, 0x1p-4f, 0x1p-3f,
					       0.502f / 127, 0.502f / 7, 0.502f / 127, 1.01f / 8 };
	float in[3 * 2 * 96], out[3 * 2 * 96];
	char rows[4096];
	uint32_t type, i;

	(void)state;
	for (i = 0; i < 3 * 2 * 96; i++)
		in[i] = sinf((float)i * 1.7f) * 3;
	for (type = 0; type < KVT_TYPES; type++) {
		assert_int_equal(kvt_quantize(type, 96, 2, 3, in, rows, 1000), 0);
		assert_int_equal(kvt_dequantize(type, 96, 2, 3, rows, 1000, out), 0);
		for (i = 0; i < 3 * 2 * 96; i++)
			assert_true(fabsf(in[i] - out[i]) <= 3 * step[type]);
		/* What was stored once is stored again as it is. */
		assert_int_equal(kvt_quantize(type, 96, 2, 3, out, rows, 1000), 0);
		assert_int_equal(kvt_dequantize(type, 96, 2, 3, rows, 1000, in), 0);
		for (i = 0; i < 3 * 2 * 96; i++)
			assert_true(fabsf(in[i] - out[i]) <= 3 * step[type] * 0.2f);
	}
}

static void zeroes_and_nan(void **state)
{
	float in[64] = { 0 }, out[64];
	char rows[256];
	uint32_t type, i;

	(void)state;
	for (type = 0; type < KVT_TYPES; type++) {
		memset(in, 0, sizeof(in));
		assert_int_equal(kvt_quantize(type, 64, 1, 1, in, rows, 0), 0);
		assert_int_equal(kvt_dequantize(type, 64, 1, 1, rows, 0, out), 0);
		for (i = 0; i < 64; i++)
			assert_true(out[i] == 0);
		in[3] = NAN;
		assert_int_equal(kvt_quantize(type, 64, 1, 1, in, rows, 0), 0);
		assert_int_equal(kvt_dequantize(type, 64, 1, 1, rows, 0, out), 0);
		assert_true(isnan(out[3]));
		assert_true(type == KVT_INT8 ? isnan(out[63]) : out[63] == 0);
	}
}

/* ggml's own rows: a scale of 0.5 and numbers in order. */
static void ggml_layouts(void **state)
{
	uint8_t q8[34] = { 0x00, 0x38 }, q4[18] = { 0x00, 0x38 };
	float out[32];
	int i;

	(void)state;
	for (i = 0; i < 32; i++)
		q8[2 + i] = (uint8_t)(i - 16);
	for (i = 0; i < 16; i++)
		q4[2 + i] = (uint8_t)(i | (15 - i) << 4);
	kvt_dequantize(KVT_Q8_0, 32, 1, 1, q8, 0, out);
	for (i = 0; i < 32; i++)
		assert_true(out[i] == 0.5f * (float)(i - 16));
	kvt_dequantize(KVT_Q4_0, 32, 1, 1, q4, 0, out);
	for (i = 0; i < 16; i++) {
		assert_true(out[i] == 0.5f * (float)(i - 8));
		assert_true(out[16 + i] == 0.5f * (float)(7 - i));
	}
}

static struct kvt_requantize requantize_of(uint32_t from, uint32_t to, const void *src, void *dst)
{
	struct kvt_requantize r = KVT_REQUANTIZE_INIT;

	r.from = from;
	r.to = to;
	r.dim = 64;
	r.heads = 2;
	r.tokens = 5;
	r.src = src;
	r.dst = dst;
	return r;
}

/* In place gives what two steps give, with the error that they make. */
static void in_place(void **state)
{
	static float in[5 * 2 * 64], there[5 * 2 * 64], out[5 * 2 * 64];
	static char rows[8192], whole[8192];
	struct kvt_requantize r;
	uint32_t from, to, i;
	float most;

	(void)state;
	for (i = 0; i < 640; i++)
		in[i] = cosf((float)i * 0.7f);
	for (from = 0; from < KVT_TYPES; from++)
		for (to = 0; to < KVT_TYPES; to++) {
			if (kvt_row_bytes(to, 64) > kvt_row_bytes(from, 64))
				continue;
			kvt_quantize(from, 64, 2, 5, in, rows, 0);
			kvt_dequantize(from, 64, 2, 5, rows, 0, there);
			kvt_quantize(to, 64, 2, 5, there, whole, 0);
			kvt_dequantize(to, 64, 2, 5, whole, 0, out);
			for (i = 0, most = 0; i < 640; i++)
				most = fmaxf(most, fabsf(out[i] - there[i]));
			r = requantize_of(from, to, rows, rows);
			r.flags = KVT_LOSSY;
			assert_int_equal(kvt_requantize(&r), 0);
			assert_memory_equal(rows, whole, 10 * kvt_row_bytes(to, 64));
			assert_true(r.max_error == most);
			assert_true(r.rms_error <= r.max_error);
		}
}

static void only_when_asked(void **state)
{
	static float in[640];
	static char rows[8192], before[8192];
	struct kvt_requantize r = requantize_of(KVT_F32, KVT_INT8, rows, rows);
	int i;

	(void)state;
	for (i = 0; i < 640; i++)
		in[i] = sinf((float)i);
	kvt_quantize(KVT_F32, 64, 2, 5, in, rows, 0);
	memcpy(before, rows, sizeof(rows));
	assert_int_equal(kvt_requantize(&r), -EDOM);
	assert_memory_equal(before, rows, sizeof(rows));
	assert_true(r.max_error > 0);
	for (i = 0; i < 640; i++) /* exact in the smaller type: nobody has to ask */
		in[i] = (float)(i % 9);
	kvt_quantize(KVT_F32, 64, 2, 5, in, rows, 0);
	r = requantize_of(KVT_F32, KVT_F16, rows, rows);
	assert_int_equal(kvt_requantize(&r), 0);
	assert_true(r.max_error == 0);
}

static void bad_input(void **state)
{
	static char rows[8192];
	static float floats[1024];
	struct kvt_requantize r = requantize_of(KVT_INT8, KVT_F16, rows, rows);

	(void)state;
	assert_int_equal(kvt_requantize(&r), -EINVAL); /* grows */
	assert_non_null(strstr(kvt_error_detail(), "in place"));
	r = requantize_of(KVT_F16, KVT_INT8, rows, rows + 64);
	assert_int_equal(kvt_requantize(&r), -EINVAL);
	assert_non_null(strstr(kvt_error_detail(), "overlap"));
	r = requantize_of(KVT_F16, 99, rows, rows + 4096);
	assert_int_equal(kvt_requantize(&r), -EINVAL);
	r = requantize_of(KVT_F16, KVT_INT8, rows, rows + 4096);
	r.size = 1;
	assert_int_equal(kvt_requantize(&r), -EINVAL);
	assert_int_equal(kvt_requantize(NULL), -EINVAL);
	assert_int_equal(kvt_quantize(KVT_Q8_0, 40, 1, 1, floats, rows, 0), -EINVAL);
	assert_int_equal(kvt_quantize(KVT_F16, 64, 1, 1, NULL, rows, 0), -EINVAL);
	assert_int_equal(kvt_quantize(KVT_F16, 64, 1, 1, floats, NULL, 0), -EINVAL);
	assert_int_equal(kvt_quantize(KVT_F16, 64, 2, 1, floats, rows, 130), -EINVAL);
	assert_int_equal(kvt_quantize(KVT_F16, 64, 0, 1, floats, rows, 0), -EINVAL);
	assert_int_equal(kvt_dequantize(KVT_F16, 64, 1, 0, rows, 0, floats), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_half),	cmocka_unit_test(halves_round),
		cmocka_unit_test(every_byte),	cmocka_unit_test(row_lengths),
		cmocka_unit_test(rounding),	cmocka_unit_test(zeroes_and_nan),
		cmocka_unit_test(ggml_layouts),	cmocka_unit_test(in_place),
		cmocka_unit_test(only_when_asked), cmocka_unit_test(bad_input),
	};

	return cmocka_run_group_tests_name("quant", tests, NULL, NULL);
}
