// SPDX-License-Identifier: MIT
/* Description: attention of every type, shape and instruction set against double precision. */
#include <errno.h>

#include "attend_case.h"

/* Compute it with one instruction set, and compare. */
static void problem_check(const struct problem *p, const char *isa)
{
	struct kvt_attend *attend = attend_with(isa, 1);
	size_t rows = problem_rows(p), i;
	float *out, *lse;

	if (!attend)
		return;
	out = need(rows * p->shape.v_dim * sizeof(float));
	lse = need(rows * sizeof(float));
	problem_run(p, attend, out, lse);
	for (i = 0; i < rows; i++)
		check_row(p, isa, i, out + i * p->shape.v_dim, lse[i]);
	free(out);
	free(lse);
	kvt_attend_destroy(attend);
}

static void shape_check(const struct shape *shape)
{
	struct problem p;
	size_t i;

	problem_init(&p, shape);
	problem_ready(&p);
	for (i = 0; i < sizeof(isas) / sizeof(isas[0]); i++)
		problem_check(&p, isas[i]);
	problem_exit(&p);
}

static void every_type(void **state)
{
	struct shape s = { .q_heads = 8, .kv_heads = 2, .k_dim = 128, .v_dim = 128, .tokens = 333,
			   .block = 100, .flags = KVT_CAUSAL, .q_tokens = 2 };

	(void)state;
	for (s.k_type = 0; s.k_type < KVT_TYPES; s.k_type++) {
		s.v_type = s.k_type;
		shape_check(&s);
	}
}

static void types_differ(void **state)
{
	struct shape s = { .q_heads = 4, .kv_heads = 2, .k_dim = 96, .v_dim = 64, .tokens = 70 };

	(void)state;
	for (s.k_type = 0; s.k_type < KVT_TYPES; s.k_type++)
		for (s.v_type = 0; s.v_type < KVT_TYPES; s.v_type++)
			shape_check(&s);
}

static bool fits(uint32_t type, uint32_t dim)
{
	return kvt_row_bytes(type, dim) != 0;
}

static void every_dim(void **state)
{
	static const uint32_t types[] = { KVT_F32, KVT_F16, KVT_BF16, KVT_INT8, KVT_INT4,
					  KVT_Q8_0 };
	struct shape s = { .q_heads = 5, .kv_heads = 1, .tokens = 37, .block = 30 };
	size_t i;

	(void)state;
	for (s.k_dim = 8; s.k_dim <= KVT_DIM_MAX; s.k_dim += s.k_dim < 136 ? 8 : 40)
		for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
			s.v_dim = s.k_dim;
			s.k_type = s.v_type = types[i];
			if (fits(s.k_type, s.k_dim))
				shape_check(&s);
		}
}

/* MHA, GQA with odd groups, MQA. */
static void head_groups(void **state)
{
	static const uint32_t heads[][2] = { { 1, 1 }, { 6, 6 }, { 6, 3 }, { 9, 3 }, { 14, 2 },
					     { 71, 1 }, { 40, 8 } };
	struct shape s = { .k_dim = 64, .v_dim = 64, .tokens = 130 };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
		for (s.k_type = 0; s.k_type < KVT_TYPES; s.k_type++) {
			s.q_heads = heads[i][0];
			s.kv_heads = heads[i][1];
			s.v_type = s.k_type;
			shape_check(&s);
		}
}

/* Latent 512 and rope 64: values are the first 512 of the keys. */
static void latent(void **state)
{
	struct shape s = { .q_heads = 16, .kv_heads = 1, .k_dim = 576, .v_dim = 512, .tokens = 150,
			   .block = 64, .part = true, .scale = 0.0722f };

	(void)state;
	for (s.k_type = 0; s.k_type < KVT_TYPES; s.k_type++) {
		s.v_type = s.k_type;
		shape_check(&s);
	}
}

static void many_query_tokens(void **state)
{
	static const uint32_t types[] = { KVT_F16, KVT_INT8 };
	struct shape s = { .q_heads = 4, .kv_heads = 2, .k_dim = 64, .v_dim = 80, .tokens = 300,
			   .block = 77, .flags = KVT_CAUSAL };
	static const uint32_t tokens[] = { 2, 3, 8, 33, 300 };
	size_t i, j;

	(void)state;
	for (i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++)
		for (j = 0; j < sizeof(types) / sizeof(types[0]); j++) {
			s.q_tokens = tokens[i];
			s.k_type = s.v_type = types[j];
			shape_check(&s);
		}
}

static void windows(void **state)
{
	static const uint32_t window[][2] = { { 1, 0 },	 { 50, 0 },   { 64, 4 },
					      { 7, 70 }, { 200, 3 }, { 1000, 4 } };
	struct shape s = { .q_heads = 4, .kv_heads = 2, .k_dim = 64, .v_dim = 64, .tokens = 290,
			   .block = 70, .flags = KVT_CAUSAL, .q_tokens = 5 };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(window) / sizeof(window[0]); i++)
		for (s.k_type = KVT_F32; s.k_type <= KVT_INT8; s.k_type += KVT_INT8) {
			s.window = window[i][0];
			s.sinks = window[i][1];
			s.v_type = s.k_type;
			shape_check(&s);
		}
}

/* Rows that stand for several positions each, as after a merge. */
static void spans(void **state)
{
	struct shape s = { .q_heads = 4,
			   .kv_heads = 2,
			   .k_dim = 64,
			   .v_dim = 64,
			   .tokens = 90,
			   .block = 40,
			   .flags = KVT_CAUSAL,
			   .q_tokens = 7,
			   .span = 3,
			   .window = 100,
			   .sinks = 10 };

	(void)state;
	shape_check(&s);
}

static void caps_scales_sinks_masks(void **state)
{
	struct shape s = { .q_heads = 8, .kv_heads = 4, .k_dim = 64, .v_dim = 64, .tokens = 400,
			   .block = 24 };
	uint32_t which;

	(void)state;
	for (which = 0; which < 16; which++) {
		s.softcap = which & 1 ? 5 : 0;
		s.scale = which & 2 ? 0.3f : 0;
		s.sink_logits = which & 4;
		s.masked = which & 8;
		s.k_type = s.v_type = which % 2 ? KVT_F16 : KVT_Q8_0;
		shape_check(&s);
	}
}

static void one_token(void **state)
{
	struct shape s = { .q_heads = 2, .kv_heads = 1, .k_dim = 64, .v_dim = 64, .tokens = 1 };

	(void)state;
	for (s.k_type = 0; s.k_type < KVT_TYPES; s.k_type++) {
		s.v_type = s.k_type;
		shape_check(&s);
	}
}

/* Scores up to thousands: all but a few weights are 0. */
static void large_logits(void **state)
{
	struct shape s = { .q_heads = 4, .kv_heads = 2, .k_dim = 128, .v_dim = 64, .tokens = 200,
			   .spread = 30 };

	(void)state;
	for (s.k_type = 0; s.k_type < KVT_TYPES; s.k_type++) {
		s.v_type = s.k_type;
		shape_check(&s);
	}
}

/* Denormal halves and floats are numbers like others. */
static void denormals(void **state)
{
	struct shape s = { .q_heads = 4, .kv_heads = 2, .k_dim = 64, .v_dim = 64, .tokens = 100 };
	struct problem p;
	size_t i;
	uint32_t j;

	(void)state;
	for (s.k_type = KVT_F32; s.k_type <= KVT_BF16; s.k_type++) {
		float tiny = s.k_type == KVT_F16 ? 0x1p-22f : 0x1p-130f;

		s.v_type = s.k_type;
		problem_init(&p, &s);
		for (i = 0; i < (size_t)s.tokens * s.kv_heads * s.k_dim; i++) {
			p.k[i] *= tiny;
			p.v[i] *= tiny;
		}
		for (i = 0; i < (size_t)s.q_heads * s.k_dim; i++)
			p.q[i] /= s.k_type == KVT_F16 ? tiny : 0x1p-120f;
		problem_ready(&p);
		for (j = 0; j < sizeof(isas) / sizeof(isas[0]); j++)
			problem_check(&p, isas[j]);
		/* Not flushed to zero: the values are far larger than what is allowed to be lost. */
		assert_true(fabs(p.out[0]) > 0);
		problem_exit(&p);
	}
}

static void out_as_bf16(void **state)
{
	struct shape s = { .q_heads = 4, .kv_heads = 2, .k_dim = 64, .v_dim = 40, .tokens = 50,
			   .q_tokens = 3, .flags = KVT_OUT_BF16 };
	uint16_t out[3][256];
	struct problem p;
	struct kvt_attend *attend = attend_with(NULL, 2);
	uint32_t t, i;
	float x;

	(void)state;
	problem_init(&p, &s);
	problem_ready(&p);
	memset(out, 0x55, sizeof(out));
	p.seq.out = out;
	p.seq.out_stride = sizeof(out[0]);
	assert_int_equal(kvt_attend(attend, &p.params, &p.seq, 1), 0);
	for (t = 0; t < 3; t++) {
		for (i = 0; i < 160; i++) {
			uint32_t bits = (uint32_t)out[t][i] << 16;
			double right = p.out[t * 160 + i];

			memcpy(&x, &bits, sizeof(x));
			assert_true(fabs((double)x - right) <=
				    fabs(right) * 0x1p-8 + out_bound(&p, "c", t));
		}
		assert_int_equal(out[t][160], 0x5555); /* what lies between is left alone */
	}
	problem_exit(&p);
	kvt_attend_destroy(attend);
}

/* Sequences of one call do not influence each other; each is as if alone. */
static void ragged_batch(void **state)
{
	static const uint32_t tokens[] = { 1, 300, 64, 1000 }, queries[] = { 1, 4, 64, 2 };
	struct kvt_attend *attend = attend_with(NULL, 2);
	struct kvt_attend_seq seqs[4];
	struct problem p[4];
	float *out[4], *alone;
	uint32_t i;

	(void)state;
	for (i = 0; i < 4; i++) {
		struct shape s = { .q_heads = 6, .kv_heads = 2, .k_dim = 64, .v_dim = 64,
				   .tokens = tokens[i], .block = 128, .q_tokens = queries[i],
				   .flags = KVT_CAUSAL, .k_type = KVT_F16, .v_type = KVT_INT8 };

		problem_init(&p[i], &s);
		problem_ready(&p[i]);
		seqs[i] = p[i].seq;
		seqs[i].out = out[i] = need(problem_rows(&p[i]) * 64 * sizeof(float));
	}
	assert_int_equal(kvt_attend(attend, &p[0].params, seqs, 4), 0);
	for (i = 0; i < 4; i++) {
		alone = need(problem_rows(&p[i]) * 64 * sizeof(float));
		problem_run(&p[i], attend, alone, NULL);
		assert_memory_equal(alone, out[i], problem_rows(&p[i]) * 64 * sizeof(float));
		free(alone);
		free(out[i]);
		problem_exit(&p[i]);
	}
	kvt_attend_destroy(attend);
}

/* Parts of a table, attended to apart and merged, are the whole. */
static void merged_parts(void **state)
{
	struct shape s = { .q_heads = 4, .kv_heads = 2, .k_dim = 64, .v_dim = 64, .tokens = 500,
			   .block = 50 };
	struct kvt_attend *attend = attend_with(NULL, 1);
	struct kvt_attend_part parts[3];
	float out[3][256], lse[3][4];
	struct problem p;
	uint32_t i;

	(void)state;
	problem_init(&p, &s);
	problem_ready(&p);
	for (i = 0; i < 3; i++) {
		struct kvt_attend_seq seq = p.seq;

		seq.blocks = p.blocks + 3 * i;
		seq.nr_blocks = i < 2 ? 3 : 4;
		seq.out = out[i];
		seq.lse = lse[i];
		assert_int_equal(kvt_attend(attend, &p.params, &seq, 1), 0);
		parts[i] = (struct kvt_attend_part){ out[i], lse[i] };
	}
	assert_int_equal(kvt_attend_merge(parts, 3, 4, 64, out[0], lse[0]), 0);
	for (i = 0; i < 4; i++)
		check_row(&p, kvt_attend_isa(attend), i, out[0] + (size_t)i * 64, lse[0][i]);
	problem_exit(&p);
	kvt_attend_destroy(attend);
}

/* A block's share: all of them make 1; and it is what its tokens' weights say. */
static void masses(void **state)
{
	struct shape s = { .q_heads = 4, .kv_heads = 2, .k_dim = 64, .v_dim = 64, .tokens = 500,
			   .block = 100, .q_tokens = 3 };
	struct kvt_attend *attend = attend_with(NULL, 2);
	float out[3 * 256], lse[12], part_lse[12], mass[5], sum = 0;
	struct kvt_attend_seq seq;
	struct problem p;
	double share = 0;
	uint32_t i;

	(void)state;
	problem_init(&p, &s);
	problem_ready(&p);
	p.seq.mass = mass;
	problem_run(&p, attend, out, lse);
	for (i = 0; i < 5; i++)
		sum += mass[i];
	assert_true(fabsf(sum - 1) < 1e-5f);
	seq = p.seq;
	seq.blocks++;
	seq.nr_blocks = 1;
	seq.mass = NULL;
	seq.out = out;
	seq.lse = part_lse;
	assert_int_equal(kvt_attend(attend, &p.params, &seq, 1), 0);
	for (i = 0; i < 12; i++)
		share += exp((double)part_lse[i] - (double)lse[i]) / 12;
	assert_true(fabs(share - (double)mass[1]) < 1e-5);
	problem_exit(&p);
	kvt_attend_destroy(attend);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_type),
		cmocka_unit_test(types_differ),
		cmocka_unit_test(every_dim),
		cmocka_unit_test(head_groups),
		cmocka_unit_test(latent),
		cmocka_unit_test(many_query_tokens),
		cmocka_unit_test(windows),
		cmocka_unit_test(spans),
		cmocka_unit_test(caps_scales_sinks_masks),
		cmocka_unit_test(one_token),
		cmocka_unit_test(large_logits),
		cmocka_unit_test(denormals),
		cmocka_unit_test(out_as_bf16),
		cmocka_unit_test(ragged_batch),
		cmocka_unit_test(merged_parts),
		cmocka_unit_test(masses),
	};

	return cmocka_run_group_tests_name("attend", tests, NULL, NULL);
}
