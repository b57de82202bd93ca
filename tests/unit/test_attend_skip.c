// SPDX-License-Identifier: MIT
/* Description: what epsilon and top_k leave out, against all of it in float64. */
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kvtier.h"
#include "kvtier_attend.h"
#include "unit.h"

#define BLOCKS 40
#define TOKENS 16
#define Q_HEADS 4
#define KV_HEADS 2
#define DIM 32
#define Q_TOKENS 3
#define ROWS (Q_TOKENS * Q_HEADS)

struct bed {
	struct kvt_attend *attend;
	struct kvt_attend_params params;
	struct kvt_seq_block blocks[BLOCKS];
	float k[BLOCKS][TOKENS][KV_HEADS][DIM], v[BLOCKS][TOKENS][KV_HEADS][DIM];
	float bounds[BLOCKS][KV_HEADS][2][DIM];
	const float *of_block[BLOCKS];
	float q[Q_TOKENS][Q_HEADS][DIM];
	float out[Q_TOKENS][Q_HEADS][DIM], lse[Q_TOKENS][Q_HEADS];
	float mass[BLOCKS];
	struct kvt_skipped skipped;
};

static uint64_t state;

static float noise(void)
{
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (float)(state >> 40) / (float)(1 << 23) - 1;
}

/* Keys of a block around a point of its own, as those of real text are. */
static void fill(struct bed *t, float spread, float size)
{
	float centre[KV_HEADS][DIM];
	uint32_t b, i, h, d;

	for (b = 0; b < BLOCKS; b++) {
		for (h = 0; h < KV_HEADS; h++)
			for (d = 0; d < DIM; d++)
				centre[h][d] = size * noise();
		for (i = 0; i < TOKENS; i++)
			for (h = 0; h < KV_HEADS; h++)
				for (d = 0; d < DIM; d++) {
					t->k[b][i][h][d] = centre[h][d] + spread * noise();
					t->v[b][i][h][d] = noise();
				}
	}
	for (i = 0; i < Q_TOKENS; i++)
		for (h = 0; h < Q_HEADS; h++)
			for (d = 0; d < DIM; d++)
				t->q[i][h][d] = 2 * noise();
}

static void make_bounds(struct bed *t)
{
	uint32_t b;

	for (b = 0; b < BLOCKS; b++) {
		assert_int_equal(
			kvt_key_bounds(KV_HEADS, DIM, &t->blocks[b], &t->bounds[b][0][0][0]), 0);
		t->of_block[b] = &t->bounds[b][0][0][0];
	}
}

static int set_up(void **arg)
{
	struct kvt_attend_config config = KVT_ATTEND_CONFIG_INIT;
	struct bed *t = calloc(1, sizeof(*t));
	uint32_t b;

	*arg = t;
	if (!t)
		return -1;
	state = 1;
	config.threads = 2;
	for (b = 0; b < BLOCKS; b++)
		t->blocks[b] = (struct kvt_seq_block){
			.k = t->k[b], .v = t->v[b], .position = (uint64_t)b * TOKENS,
			.tokens = TOKENS, .k_stride = sizeof(t->k[0][0]),
			.v_stride = sizeof(t->v[0][0]),
		};
	t->params = (struct kvt_attend_params)KVT_ATTEND_PARAMS_INIT;
	t->params.q_heads = Q_HEADS;
	t->params.kv_heads = KV_HEADS;
	t->params.k_dim = t->params.v_dim = DIM;
	return kvt_attend_create(&config, &t->attend);
}

static int tear_down(void **arg)
{
	struct bed *t = *arg;

	kvt_attend_destroy(t->attend);
	free(t);
	return 0;
}

static int attend(struct bed *t, const uint8_t *mask, uint32_t mask_stride, bool bounds)
{
	struct kvt_attend_seq seq = KVT_ATTEND_SEQ_INIT;

	seq.q_tokens = Q_TOKENS;
	seq.q_position = (uint64_t)BLOCKS * TOKENS - Q_TOKENS;
	seq.q = &t->q[0][0][0];
	seq.out = t->out;
	seq.lse = &t->lse[0][0];
	seq.blocks = t->blocks;
	seq.nr_blocks = BLOCKS;
	seq.mask = mask;
	seq.mask_stride = mask_stride;
	seq.mass = t->mass;
	seq.bounds = bounds ? t->of_block : NULL;
	seq.skipped = &t->skipped;
	return kvt_attend(t->attend, &t->params, &seq, 1);
}

static double score(const struct bed *t, uint32_t token, uint32_t head, uint32_t b, uint32_t i)
{
	double scale = t->params.scale != 0 ? t->params.scale : 1 / sqrt(DIM), sum = 0;
	uint32_t d;

	for (d = 0; d < DIM; d++)
		sum += (double)t->q[token][head][d] * t->k[b][i][head / (Q_HEADS / KV_HEADS)][d];
	sum *= scale;
	return t->params.softcap > 0 ? t->params.softcap * tanh(sum / t->params.softcap) : sum;
}

static bool sees(const struct bed *t, uint32_t token, uint32_t b, uint32_t i)
{
	uint64_t at = (uint64_t)b * TOKENS + i, own = (uint64_t)BLOCKS * TOKENS - Q_TOKENS + token;

	if (!(t->params.flags & KVT_CAUSAL))
		return true;
	return at <= own && (!t->params.window || at + t->params.window > own ||
			     at < t->params.sinks);
}

/* Attention to everything, in float64: its log-sum-exp and output. */
static double reference(const struct bed *t, uint32_t token, uint32_t head, double *out)
{
	double most = -INFINITY, sum = 0;
	uint32_t b, i, d;

	memset(out, 0, DIM * sizeof(*out));
	for (b = 0; b < BLOCKS; b++)
		for (i = 0; i < TOKENS; i++)
			if (sees(t, token, b, i) && score(t, token, head, b, i) > most)
				most = score(t, token, head, b, i);
	for (b = 0; b < BLOCKS; b++)
		for (i = 0; i < TOKENS; i++) {
			double p =
				sees(t, token, b, i) ? exp(score(t, token, head, b, i) - most) : 0;

			sum += p;
			for (d = 0; d < DIM; d++)
				out[d] += p * t->v[b][i][head / (Q_HEADS / KV_HEADS)][d];
		}
	for (d = 0; d < DIM; d++)
		out[d] /= sum;
	return most + log(sum);
}

/* What is really lost is no more than what is said, and that no more than was allowed. */
static void check_bound(struct bed *t, double allowed)
{
	uint32_t token, head, d;
	double out[DIM];

	assert_true(t->skipped.share <= allowed);
	for (token = 0; token < Q_TOKENS; token++)
		for (head = 0; head < Q_HEADS; head++) {
			double whole = reference(t, token, head, out);
			double lost = 1 - exp(t->lse[token][head] - whole);

			assert_true(lost <= t->skipped.share + 1e-4);
			for (d = 0; d < DIM; d++) /* values lie between -1 and 1 */
				assert_true(fabs(out[d] - t->out[token][head][d]) <=
					    2 * t->skipped.share + 1e-4);
		}
}

static void run_epsilon(struct bed *t, float epsilon)
{
	t->params.epsilon = epsilon;
	make_bounds(t);
	assert_int_equal(attend(t, NULL, 0, true), 0);
	check_bound(t, epsilon);
}

static void epsilon_random(void **arg)
{
	static const float epsilons[] = { 1e-6f, 1e-3f, 0.01f, 0.1f, 0.5f, 0.99f };
	struct bed *t = *arg;
	uint32_t some = 0, i, turn;

	for (turn = 0; turn < 12; turn++) {
		fill(t, turn % 3 ? 0.05f : 1, (float)(turn % 4));
		for (i = 0; i < sizeof(epsilons) / sizeof(*epsilons); i++) {
			run_epsilon(t, epsilons[i]);
			some += t->skipped.pairs;
		}
	}
	assert_true(some > 0);
}

/* One token of one block has nearly all of it, and no other of that block says so. */
static void epsilon_needle(void **arg)
{
	struct bed *t = *arg;
	uint32_t d, turn;

	for (turn = 0; turn < 20; turn++) {
		fill(t, 0.01f, 0.2f);
		for (d = 0; d < DIM; d++)
			t->k[turn * 2][turn % TOKENS][0][d] = 8 * t->q[0][0][d];
		run_epsilon(t, 0.01f);
		run_epsilon(t, 0.4f);
		assert_true(t->skipped.pairs > 0);
	}
}

/* Bounds that promise much and keep nothing: correlated elements of opposite sign. */
static void epsilon_false_promise(void **arg)
{
	struct bed *t = *arg;
	uint32_t b, i, d;

	fill(t, 0.1f, 0.5f);
	for (b = 0; b < BLOCKS; b += 2)
		for (i = 0; i < TOKENS; i++)
			for (d = 0; d < DIM; d++)
				t->k[b][i][0][d] = (i % 2 ? 4 : -4) * (d % 2 ? 1.f : -1.f);
	run_epsilon(t, 0.05f);
}

static void epsilon_variants(void **arg)
{
	struct bed *t = *arg;

	fill(t, 0.1f, 3);
	t->params.softcap = 5;
	run_epsilon(t, 0.05f);
	t->params.softcap = 0;
	t->params.scale = -0.7f;
	run_epsilon(t, 0.05f);
	assert_true(t->skipped.pairs > 0);
	t->params.scale = 0;
	t->params.flags = KVT_CAUSAL;
	run_epsilon(t, 0.05f);
	t->params.window = 5 * TOKENS + 3;
	t->params.sinks = 4;
	run_epsilon(t, 0.05f);
	/* What no token sees is not counted as left out. */
	assert_true(t->skipped.pairs <= 8 * KV_HEADS);
	fill(t, 1, 40); /* scores beyond what exp() can take */
	t->params.flags = t->params.window = t->params.sinks = 0;
	run_epsilon(t, 0.05f);
	assert_true(t->skipped.pairs > BLOCKS / 2);
}

/* NaN and infinity promise everything; a block without bounds is read. */
static void unknown(void **arg)
{
	struct bed *t = *arg;
	uint32_t d;

	fill(t, 0.01f, 0.1f);
	t->blocks[7].k_type = KVT_F32;
	t->k[7][3][1][5] = NAN;
	assert_int_equal(kvt_key_bounds(KV_HEADS, DIM, &t->blocks[7], &t->bounds[7][0][0][0]), 0);
	assert_true(isinf(t->bounds[7][1][0][5]) && isinf(t->bounds[7][1][1][5]));
	t->k[7][3][1][5] = 0;
	t->params.epsilon = 0.5f;
	assert_int_equal(attend(t, NULL, 0, false), 0);
	assert_int_equal(t->skipped.pairs, 0);
	make_bounds(t);
	t->of_block[3] = NULL;
	assert_int_equal(attend(t, NULL, 0, true), 0);
	check_bound(t, 0.5);
	for (d = 0; d < DIM; d++)
		t->q[1][2][d] = NAN;
	assert_int_equal(attend(t, NULL, 0, true), 0);
	assert_true(isnan(t->lse[1][2]) || isnan(t->out[1][2][0]));
}

/* Top k: the blocks with the greatest bounds, as if they had been named. */
static void top_k(void **arg)
{
	struct bed *t = *arg;
	uint8_t all[BLOCKS / 8];
	float out[Q_TOKENS][Q_HEADS][DIM];
	uint32_t k;

	fill(t, 0.1f, 1);
	make_bounds(t);
	memset(all, 0xff, sizeof(all));
	for (k = 1; k <= BLOCKS; k += 13) {
		t->params.top_k = k;
		assert_int_equal(attend(t, all, 0, true), 0);
		assert_int_equal(t->skipped.pairs, KV_HEADS * (BLOCKS - k));
		check_bound(t, 1);
		memcpy(out, t->out, sizeof(out));
		assert_int_equal(attend(t, NULL, 0, true), 0);
		assert_memory_equal(out, t->out, sizeof(out));
	}
	t->params.top_k = BLOCKS;
	assert_int_equal(attend(t, NULL, 0, true), 0);
	assert_int_equal(t->skipped.pairs, 0);
	assert_true(t->skipped.share == 0);
	memcpy(out, t->out, sizeof(out));
	t->params.top_k = 0;
	assert_int_equal(attend(t, NULL, 0, true), 0);
	assert_memory_equal(out, t->out, sizeof(out));
}

/* A block's share is the mean over query tokens and heads, and all of them are one. */
static void mass(void **arg)
{
	struct bed *t = *arg;
	float sum = 0, want = 0;
	uint32_t b, token, head, i;
	double out[DIM];

	fill(t, 0.1f, 1);
	assert_int_equal(attend(t, NULL, 0, false), 0);
	for (b = 0; b < BLOCKS; b++)
		sum += t->mass[b];
	assert_true(fabsf(sum - 1) < 1e-4f);
	for (token = 0; token < Q_TOKENS; token++)
		for (head = 0; head < Q_HEADS; head++) {
			double lse = reference(t, token, head, out);

			for (i = 0; i < TOKENS; i++)
				want += (float)exp(score(t, token, head, 5, i) - lse) / ROWS;
		}
	assert_true(fabsf(want - t->mass[5]) < 1e-4f);
	t->params.top_k = 2;
	make_bounds(t);
	assert_int_equal(attend(t, NULL, 0, true), 0);
	for (b = 0, sum = 0; b < BLOCKS; b++)
		sum += t->mass[b];
	assert_true(fabsf(sum - 1) < 1e-4f);
}

static void bounds_of_types(void **arg)
{
	struct bed *t = *arg;
	static uint8_t rows[TOKENS * KV_HEADS * DIM * 4];
	float back[TOKENS][KV_HEADS][DIM], bounds[KV_HEADS][2][DIM];
	uint32_t type, i, h, d;

	fill(t, 1, 1);
	for (type = 0; type < KVT_TYPES; type++) {
		size_t row = KV_HEADS * kvt_row_bytes(type, DIM);
		struct kvt_seq_block b = { .k = rows, .tokens = TOKENS, .k_type = type,
					   .k_stride = (uint32_t)row };

		assert_int_equal(
			kvt_quantize(type, DIM, KV_HEADS, TOKENS, &t->k[0][0][0][0], rows, 0), 0);
		assert_int_equal(
			kvt_dequantize(type, DIM, KV_HEADS, TOKENS, rows, 0, &back[0][0][0]), 0);
		assert_int_equal(kvt_key_bounds(KV_HEADS, DIM, &b, &bounds[0][0][0]), 0);
		for (h = 0; h < KV_HEADS; h++)
			for (d = 0; d < DIM; d++) {
				float low = INFINITY, high = -INFINITY;

				for (i = 0; i < TOKENS; i++) {
					low = fminf(low, back[i][h][d]);
					high = fmaxf(high, back[i][h][d]);
				}
				assert_true(bounds[h][0][d] == low && bounds[h][1][d] == high);
			}
	}
}

static void bad_input(void **arg)
{
	struct bed *t = *arg;
	struct kvt_seq_block none = t->blocks[0];

	fill(t, 1, 1);
	make_bounds(t);
	t->params.epsilon = 0.5f;
	t->params.top_k = 3;
	assert_int_equal(attend(t, NULL, 0, true), -EINVAL);
	t->params.top_k = 0;
	t->params.epsilon = 1;
	assert_int_equal(attend(t, NULL, 0, true), -EINVAL);
	t->params.epsilon = -0.1f;
	assert_int_equal(attend(t, NULL, 0, true), -EINVAL);
	t->params.epsilon = NAN;
	assert_int_equal(attend(t, NULL, 0, true), -EINVAL);
	assert_int_equal(kvt_key_bounds(KV_HEADS, DIM, NULL, &t->bounds[0][0][0][0]), -EINVAL);
	assert_int_equal(kvt_key_bounds(KV_HEADS, 7, &none, &t->bounds[0][0][0][0]), -EINVAL);
	assert_int_equal(kvt_key_bounds(0, DIM, &none, &t->bounds[0][0][0][0]), -EINVAL);
	none.tokens = 0;
	assert_int_equal(kvt_key_bounds(KV_HEADS, DIM, &none, &t->bounds[0][0][0][0]), -EINVAL);
	assert_true(strlen(kvt_error_detail()) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(epsilon_random, set_up, tear_down),
		cmocka_unit_test_setup_teardown(epsilon_needle, set_up, tear_down),
		cmocka_unit_test_setup_teardown(epsilon_false_promise, set_up, tear_down),
		cmocka_unit_test_setup_teardown(epsilon_variants, set_up, tear_down),
		cmocka_unit_test_setup_teardown(unknown, set_up, tear_down),
		cmocka_unit_test_setup_teardown(top_k, set_up, tear_down),
		cmocka_unit_test_setup_teardown(mass, set_up, tear_down),
		cmocka_unit_test_setup_teardown(bounds_of_types, set_up, tear_down),
		cmocka_unit_test_setup_teardown(bad_input, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
