// SPDX-License-Identifier: MIT
/* policy: bounded sequences, compression, sketches and drafts; and attention over all of it. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "check.h"

#define BT 8
#define HEADS 2
#define DIM 8
#define WIDTH (HEADS * DIM)
#define Q_HEADS 4

static const struct place_config plain = { .blocks = 160, .dram = 16, .nvme = 320,
					   .block_tokens = BT };

static struct kvt_seq *bounded(const struct place *p, const struct kvt_policy *policy)
{
	struct kvt_seq *seq;

	CHECK_EQ(kvt_seq_create(p->cache, &seq), 0);
	CHECK_EQ(kvt_seq_set_policy(seq, policy), 0);
	return seq;
}

static void window(const char *dir)
{
	struct kvt_policy policy = KVT_POLICY_INIT;
	struct kvt_seq *seq;
	struct place p;
	uint32_t at;

	place_open(&p, dir, &plain);
	policy.kind = KVT_WINDOW;
	policy.sinks = 4;
	policy.window = 20;
	seq = bounded(&p, &policy);
	for (at = 0; at < 200; at++) {
		story_append(seq, 1, at, 1);
		CHECK(kvt_seq_kept_tokens(seq) <= BT + 20 + 2 * BT);
	}
	CHECK_EQ(story_check(seq, 1, 0, 4), 0);
	CHECK_EQ(story_check(seq, 1, 180, 20), 0);
	CHECK_ERR(story_check(seq, 1, 100, 1), -ENODATA, "dropped");
	CHECK_ERR(kvt_seq_truncate(seq, 150), -ENODATA, "dropped");
	CHECK_EQ(kvt_seq_tokens(seq), 200);
	CHECK_EQ(story_check(seq, 1, 180, 20), 0);
	kvt_seq_destroy(seq);
	place_close(&p);
}

/* What may be rolled back is kept beyond the window. */
static void lookahead(const char *dir)
{
	struct kvt_policy policy = KVT_POLICY_INIT;
	struct kvt_seq *seq;
	struct place p;
	uint32_t round, at = 100;

	place_open(&p, dir, &plain);
	policy.kind = KVT_WINDOW;
	policy.window = 20;
	policy.lookahead = 9;
	seq = bounded(&p, &policy);
	story_append(seq, 1, 0, at);
	for (round = 0; round < 40; round++) { /* guess nine, keep two of them */
		story_append(seq, 1, at, 2);
		story_append(seq, 9, at + 2, 7);
		CHECK_EQ(kvt_seq_truncate(seq, at + 2), 0);
		at += 2;
		CHECK_EQ(story_check(seq, 1, at - 20, 20), 0);
	}
	kvt_seq_destroy(seq);
	place_close(&p);
}

static void refusals(const char *dir)
{
	struct kvt_policy policy = KVT_POLICY_INIT;
	struct kvt_seq *seq;
	struct place p;

	place_open(&p, dir, &plain);
	CHECK_EQ(kvt_seq_create(p.cache, &seq), 0);
	story_append(seq, 1, 0, 40);
	policy.kind = KVT_LRU;
	policy.sinks = 4;
	policy.window = 16;
	policy.budget = 19;
	CHECK_ERR(kvt_seq_set_policy(seq, &policy), -EINVAL, "below 4 sinks + 16 window");
	policy.budget = 25;
	CHECK_ERR(kvt_seq_set_policy(seq, &policy), -EINVAL, "need 32");
	policy.lookahead = 8;
	policy.budget = 27;
	CHECK_ERR(kvt_seq_set_policy(seq, &policy), -EINVAL, "below 4 sinks + 24 window");
	policy.window = 0;
	CHECK_ERR(kvt_seq_set_policy(seq, &policy), -EINVAL, "window of 0");
	policy.kind = 17;
	CHECK_ERR(kvt_seq_set_policy(seq, &policy), -EINVAL, "no policy 17");
	policy.kind = KVT_WINDOW;
	policy.flags = 64;
	CHECK_ERR(kvt_seq_set_policy(seq, &policy), -EINVAL, "flags");
	policy.flags = KVT_POLICY_MERGE;
	CHECK_ERR(kvt_seq_set_policy(seq, &policy), -EINVAL, "merge");
	policy.flags = 0;
	policy.window = 8;
	policy.hot = 16;
	CHECK_ERR(kvt_seq_set_policy(seq, &policy), -EINVAL, "cold types");
	policy.size = 3;
	CHECK_ERR(kvt_seq_set_policy(seq, &policy), -EINVAL, "KVT_POLICY_INIT");
	CHECK_EQ(kvt_seq_kept_tokens(seq), 40);
	CHECK_EQ(story_check(seq, 1, 0, 40), 0);
	kvt_seq_destroy(seq);
	place_close(&p);
}

/* Note attention to the extent of @position alone. */
static void attend_to(struct kvt_seq *seq, uint64_t position, float share)
{
	struct kvt_seq_block blocks[64];
	float mass[64] = { 0 };
	int nr = kvt_seq_view(seq, 0, blocks, 64), i;

	for (i = 0; i < nr; i++)
		if (blocks[i].position == position)
			mass[i] = share;
	kvt_seq_note(seq, blocks, mass, (uint32_t)nr);
}

static bool there(const struct kvt_seq *seq, uint32_t position)
{
	return !story_check(seq, 1, position, BT);
}

/* Which extent goes, by each policy: 16 was much used long ago, 24 a little just now. */
static void victims(const char *dir)
{
	static const struct {
		uint32_t kind;
		bool at8, at16, at24;
	} want[] = {
		{ KVT_FIFO, false, true, true }, { KVT_LRU, false, true, true },
		{ KVT_LFU, false, true, true }, { KVT_HEAVY, false, true, true },
	};
	struct kvt_policy policy = KVT_POLICY_INIT;
	struct place p;
	uint32_t i, step;

	place_open(&p, dir, &plain);
	for (i = 0; i < 4; i++) {
		struct kvt_seq *seq;

		policy.kind = want[i].kind;
		policy.sinks = BT;
		policy.window = BT;
		policy.budget = 6 * BT;
		seq = bounded(&p, &policy);
		story_append(seq, 1, 0, 6 * BT);
		for (step = 0; step < 4; step++)
			attend_to(seq, 16, 0.9f);
		attend_to(seq, 24, 0.5f);
		attend_to(seq, 32, 0.6f);
		story_append(seq, 1, 6 * BT, 1); /* one must go */
		CHECK_EQ(there(seq, 0), true);
		CHECK_EQ(there(seq, 8), want[i].at8);
		CHECK_EQ(there(seq, 16), want[i].at16);
		CHECK_EQ(there(seq, 24), want[i].at24);
		story_append(seq, 1, 6 * BT + 1, BT); /* and another */
		CHECK_EQ(there(seq, 16), want[i].kind == KVT_LFU || want[i].kind == KVT_HEAVY);
		CHECK_EQ(there(seq, 24), want[i].kind == KVT_LRU || want[i].kind == KVT_FIFO);
		kvt_seq_destroy(seq);
	}
	place_close(&p);
}

static float *random_floats(uint32_t nr, uint32_t seed)
{
	float *f = malloc(nr * sizeof(*f));
	uint32_t i;

	if (!f)
		err(1, "floats");
	srand(seed);
	for (i = 0; i < nr; i++)
		f[i] = (float)rand() / (float)RAND_MAX * 2 - 1;
	return f;
}

/* Exact attention of the last query over rows that the caller has; weights a row. */
static void reference(const float *q, const float *k, const float *v, const double *weight,
		      uint32_t nr, float *out)
{
	double score[512], sum, most;
	uint32_t h, t, i;

	for (h = 0; h < Q_HEADS; h++) {
		uint32_t kv = h / (Q_HEADS / HEADS);

		for (most = -1e30, t = 0; t < nr; t++) {
			for (score[t] = 0, i = 0; i < DIM; i++)
				score[t] += (double)q[h * DIM + i] *
					    (double)k[t * WIDTH + kv * DIM + i];
			score[t] /= sqrt(DIM);
			most = score[t] > most ? score[t] : most;
		}
		for (sum = 0, t = 0; t < nr; t++)
			sum += score[t] = weight[t] * exp(score[t] - most);
		for (i = 0; i < DIM; i++) {
			double o = 0;

			for (t = 0; t < nr; t++)
				o += score[t] / sum * (double)v[t * WIDTH + kv * DIM + i];
			out[h * DIM + i] = (float)o;
		}
	}
}

static struct kvt_attend *attention(void)
{
	struct kvt_attend_config config = KVT_ATTEND_CONFIG_INIT;
	struct kvt_attend *attend;

	config.threads = 1;
	CHECK_EQ(kvt_attend_create(&config, &attend), 0);
	return attend;
}

static const struct kvt_attend_params params = { .size = sizeof(params), .flags = KVT_CAUSAL,
	.q_heads = Q_HEADS, .kv_heads = HEADS, .k_dim = DIM, .v_dim = DIM };

static void ask(struct kvt_attend *attend, struct kvt_seq *seq, const float *q, uint32_t cold,
		float *out)
{
	struct kvt_seq_query query = { .seq = seq, .q_tokens = 1, .cold_blocks = cold,
				       .q_position = kvt_seq_tokens(seq) - 1, .q = q, .out = out };

	CHECK_EQ(kvt_seq_attend(attend, &params, 1, &query, 1), 0);
}

static double difference(const float *a, const float *b)
{
	double most = 0;
	uint32_t i;

	for (i = 0; i < Q_HEADS * DIM; i++)
		most = fmax(most, fabs((double)a[i] - (double)b[i]));
	return most;
}

static void fill(struct kvt_seq *seq, const float *k, const float *v, uint32_t nr)
{
	CHECK_EQ(kvt_seq_append_float(seq, 0, nr, k, v), 0);
	CHECK_EQ(kvt_seq_append_float(seq, 1, nr, k, v), 0);
}

static void ones(double *weight, uint32_t nr)
{
	uint32_t i;

	for (i = 0; i < nr; i++)
		weight[i] = 1;
}

static struct kvt_stream *stream_over(const struct place *p, struct kvt_attend *attend)
{
	struct kvt_stream_config config = KVT_STREAM_CONFIG_INIT;
	struct kvt_stream *stream;

	config.attend = attend;
	config.pool = p->pool;
	CHECK_EQ(kvt_stream_create(&config, &stream), 0);
	CHECK_EQ(kvt_cache_set_stream(p->cache, stream), 0);
	return stream;
}

/* The same bits wherever the blocks are, and the right ones. */
static void attends(const char *dir)
{
	float *k = random_floats(400 * WIDTH, 1), *v = random_floats(400 * WIDTH, 2);
	float *q = random_floats(Q_HEADS * DIM, 3), want[Q_HEADS * DIM];
	float out[2][Q_HEADS * DIM];
	struct kvt_attend *attend = attention();
	struct kvt_attend_params other = params;
	const void *a, *b; /* the bits count */
	struct kvt_stream_stats stats = { .size = sizeof(stats) };
	struct kvt_stream *stream;
	struct kvt_seq_query query;
	double weight[400];
	struct kvt_seq *seq;
	struct place p;

	ones(weight, 400);
	place_open(&p, dir, &plain);
	CHECK_EQ(kvt_seq_create(p.cache, &seq), 0);
	fill(seq, k, v, 400);
	reference(q, k, v, weight, 400, want);
	ask(attend, seq, q, 0, out[0]);
	CHECK(difference(out[0], want) < 1e-5);
	CHECK_EQ(kvt_seq_place(seq, KVTIER_OP_DEMOTE, 0, KVT_ALL_LAYERS, 0, KVT_TO_END), 0);
	ask(attend, seq, q, 0, out[1]);
	a = out[0];
	b = out[1];
	CHECK(!memcmp(a, b, sizeof(out[0])));
	CHECK_EQ(kvt_seq_place(seq, KVTIER_OP_DEMOTE, 0, KVT_ALL_LAYERS, 0, KVT_TO_END), 0);
	stream = stream_over(&p, attend);
	ask(attend, seq, q, 0, out[1]);
	CHECK(!memcmp(a, b, sizeof(out[0])));
	ask(NULL, seq, q, 0, out[1]);
	CHECK(!memcmp(a, b, sizeof(out[0])));
	CHECK_EQ(kvt_stream_stats(stream, &stats), 0);
	CHECK(stats.calls == 2 && stats.streamed > 0);
	CHECK_EQ(kvt_cache_set_stream(p.cache, NULL), 0);
	kvt_stream_destroy(stream);
	other.k_dim = 16;
	query = (struct kvt_seq_query){ .seq = seq, .q_tokens = 1, .q = q, .out = out[0] };
	CHECK_ERR(kvt_seq_attend(attend, &other, 0, &query, 1), -EINVAL, "the cache has");
	CHECK_ERR(kvt_seq_attend(attend, &params, 2, &query, 1), -EINVAL, "no layer 2");
	CHECK_ERR(kvt_seq_attend(NULL, &params, 0, &query, 1), -EINVAL, "attend is NULL");
	query.q_tokens = 0;
	CHECK_ERR(kvt_seq_attend(attend, &params, 0, &query, 1), -EINVAL, "0 tokens");
	kvt_seq_destroy(seq);
	kvt_attend_destroy(attend);
	place_close(&p);
	free(k);
	free(v);
	free(q);
}

/* A ragged batch in one call has the bits of each alone, with a stream and without. */
static void batched(const char *dir)
{
	static const uint32_t lengths[] = { 130, 7, 300, 64 };
	float *k = random_floats(300 * WIDTH, 1), *v = random_floats(300 * WIDTH, 2);
	float *q = random_floats(4 * Q_HEADS * DIM, 3);
	float alone[4][Q_HEADS * DIM], out[4][Q_HEADS * DIM];
	const void *a = alone, *b = out; /* the bits count */
	struct kvt_attend *attend = attention();
	struct kvt_seq_query queries[4];
	struct kvt_stream *stream;
	struct kvt_seq *seqs[4];
	struct place p;
	uint32_t i;

	place_open(&p, dir, &plain);
	for (i = 0; i < 4; i++) {
		CHECK_EQ(kvt_seq_create(p.cache, &seqs[i]), 0);
		fill(seqs[i], k, v, lengths[i]);
		queries[i] = (struct kvt_seq_query){ .seq = seqs[i], .q_tokens = 1,
						     .q_position = lengths[i] - 1,
						     .q = q + (size_t)i * Q_HEADS * DIM };
		ask(attend, seqs[i], queries[i].q, 0, alone[i]);
		queries[i].out = out[i];
	}
	CHECK_EQ(kvt_seq_attend(attend, &params, 1, queries, 4), 0);
	CHECK(!memcmp(a, b, sizeof(out)));
	stream = stream_over(&p, attend);
	memset(out, 0, sizeof(out));
	CHECK_EQ(kvt_seq_attend(attend, &params, 1, queries, 4), 0);
	CHECK(!memcmp(a, b, sizeof(out)));
	CHECK_ERR(kvt_seq_attend(attend, &params, 2, queries, 4), -EINVAL, "no layer 2");
	CHECK_EQ(kvt_cache_set_stream(p.cache, NULL), 0);
	kvt_stream_destroy(stream);
	for (i = 0; i < 4; i++)
		kvt_seq_destroy(seqs[i]);
	kvt_attend_destroy(attend);
	place_close(&p);
	free(k);
	free(v);
	free(q);
}

/* Values that are a part of the keys: the latent of absorbed projections. */
static void latent(const char *dir)
{
	struct kvt_attend_params p = KVT_ATTEND_PARAMS_INIT;
	float *k = random_floats(100 * 24, 1), *q = random_floats(Q_HEADS * 24, 3);
	struct kvt_geometry g = KVT_GEOMETRY_INIT;
	float out[Q_HEADS * 16], score[100], sum, want;
	struct kvt_attend *attend = attention();
	struct kvt_seq_query query;
	struct kvt_cache *cache;
	struct kvt_seq *seq;
	struct place place;
	uint32_t h, t, i;

	place_open(&place, dir, &(struct place_config){ .blocks = 16, .dram = 16 });
	kvt_cache_destroy(place.cache); /* one that place_open() does not know */
	g.layers = 1;
	g.kv_heads = 1;
	g.k_dim = 24; /* 16 latent, 8 rotated */
	g.block_tokens = 16;
	CHECK_EQ(kvt_cache_create(place.pool, &g, &cache), 0);
	CHECK_EQ(kvt_seq_create(cache, &seq), 0);
	CHECK_EQ(kvt_seq_append_float(seq, 0, 100, k, NULL), 0);
	p.flags = KVT_CAUSAL;
	p.q_heads = Q_HEADS;
	p.kv_heads = 1;
	p.k_dim = 24;
	p.v_dim = 16;
	query = (struct kvt_seq_query){ .seq = seq, .q_tokens = 1, .q_position = 99, .q = q,
					.out = out };
	CHECK_EQ(kvt_seq_attend(attend, &p, 0, &query, 1), 0);
	for (h = 0; h < Q_HEADS; h++) {
		for (sum = 0, t = 0; t < 100; t++) {
			for (score[t] = 0, i = 0; i < 24; i++)
				score[t] += q[h * 24 + i] * k[t * 24 + i];
			sum += score[t] = expf(score[t] / sqrtf(24));
		}
		for (i = 0; i < 16; i++) {
			for (want = 0, t = 0; t < 100; t++)
				want += score[t] / sum * k[t * 24 + i];
			CHECK(fabsf(out[h * 16 + i] - want) < 1e-4f);
		}
	}
	kvt_seq_destroy(seq);
	kvt_cache_destroy(cache);
	kvt_pool_destroy(place.pool);
	kvt_attend_destroy(attend);
	free(k);
	free(q);
}

/* Pairs of rows become their means, which weigh twice; the rest is exact. */
static void merges(const char *dir)
{
	float *k = random_floats(64 * WIDTH, 1), *v = random_floats(64 * WIDTH, 2);
	float *q = random_floats(Q_HEADS * DIM, 3), want[Q_HEADS * DIM], out[Q_HEADS * DIM];
	struct kvt_policy policy = KVT_POLICY_INIT;
	struct kvt_attend *attend = attention();
	struct kvt_seq_block blocks[16];
	double weight[64];
	struct kvt_seq *seq;
	struct place p;
	uint32_t t, i;

	place_open(&p, dir, &plain);
	policy.kind = KVT_FIFO;
	policy.flags = KVT_POLICY_MERGE;
	policy.window = BT;
	policy.budget = 7 * BT;
	seq = bounded(&p, &policy);
	fill(seq, k, v, 8 * BT); /* the first two extents are merged */
	CHECK_EQ(kvt_seq_kept_tokens(seq), 7 * BT);
	CHECK_EQ(kvt_seq_view(seq, 1, blocks, 16), 7);
	CHECK_EQ(blocks[0].span, 2 * BT);
	ones(weight, 64);
	for (t = 0; t < BT; t++) {
		weight[t] = 2;
		for (i = 0; i < WIDTH; i++) {
			k[t * WIDTH + i] = (k[2 * t * WIDTH + i] + k[(2 * t + 1) * WIDTH + i]) / 2;
			v[t * WIDTH + i] = (v[2 * t * WIDTH + i] + v[(2 * t + 1) * WIDTH + i]) / 2;
		}
	}
	memmove(k + BT * WIDTH, k + 2 * BT * WIDTH, 6 * BT * WIDTH * sizeof(*k));
	memmove(v + BT * WIDTH, v + 2 * BT * WIDTH, 6 * BT * WIDTH * sizeof(*v));
	reference(q, k, v, weight, 7 * BT, want);
	ask(attend, seq, q, 0, out);
	CHECK(difference(out, want) < 1e-5);
	CHECK_ERR(kvt_seq_truncate(seq, 12), -ENODATA, "merged");
	CHECK_EQ(kvt_seq_tokens(seq), 8 * BT);
	kvt_seq_destroy(seq);
	kvt_attend_destroy(attend);
	place_close(&p);
	free(k);
	free(v);
	free(q);
}

/* Dropped tokens with equal keys: the summary is their exact attention. */
static void summarises(const char *dir)
{
	float *k = random_floats(64 * WIDTH, 1), *v = random_floats(64 * WIDTH, 2);
	float *q = random_floats(Q_HEADS * DIM, 3), want[Q_HEADS * DIM], out[Q_HEADS * DIM];
	struct kvt_policy policy = KVT_POLICY_INIT;
	struct kvt_attend *attend = attention();
	struct kvt_seq *seq, *fork;
	float low[Q_HEADS * DIM];
	double weight[64];
	struct place p;
	uint32_t t;

	place_open(&p, dir, &plain);
	policy.kind = KVT_WINDOW;
	policy.flags = KVT_POLICY_SUMMARY;
	policy.window = 2 * BT;
	seq = bounded(&p, &policy);
	for (t = 1; t < 48; t++)
		memcpy(k + t * WIDTH, k, WIDTH * sizeof(*k));
	fill(seq, k, v, 64);
	CHECK_EQ(kvt_seq_kept_tokens(seq), 16);
	ones(weight, 64);
	reference(q, k, v, weight, 64, want);
	CHECK_EQ(kvt_seq_fork(seq, &fork), 0);
	ask(attend, seq, q, 0, out);
	CHECK(difference(out, want) < 1e-4);
	ask(attend, fork, q, 0, out);
	CHECK(difference(out, want) < 1e-4);
	for (t = 0; t < Q_HEADS * DIM; t++)
		low[t] = -200; /* no feature of it is greater than nothing */
	CHECK_EQ(kvt_seq_summary_attend(fork, 1, Q_HEADS, low, 1, out, want), 0);
	CHECK(isfinite(out[0]) && want[0] == -INFINITY);
	reference(q, k, v, weight, 64, want);
	policy.window = 3 * BT; /* what was dropped before stays in the summary */
	CHECK_EQ(kvt_seq_set_policy(fork, &policy), 0);
	ask(attend, fork, q, 0, out);
	CHECK(difference(out, want) < 1e-4);
	kvt_seq_destroy(seq);
	kvt_seq_destroy(fork);
	kvt_attend_destroy(attend);
	place_close(&p);
	free(k);
	free(v);
	free(q);
}

/* What is rolled back leaves the summary too, or the rollback is refused. */
static void summary_truncated(const char *dir)
{
	float *k = random_floats(64 * WIDTH, 1), *v = random_floats(64 * WIDTH, 2);
	float *q = random_floats(Q_HEADS * DIM, 3), want[Q_HEADS * DIM], out[Q_HEADS * DIM];
	struct kvt_policy policy = KVT_POLICY_INIT;
	struct kvt_attend *attend = attention();
	double weight[64];
	struct kvt_seq *seq;
	struct place p;
	uint32_t i;

	place_open(&p, dir, &plain);
	policy.kind = KVT_WINDOW;
	policy.flags = KVT_POLICY_SUMMARY;
	policy.sinks = 2 * BT;
	policy.window = BT;
	seq = bounded(&p, &policy);
	fill(seq, k, v, 64);
	CHECK_EQ(kvt_seq_kept_tokens(seq), 3 * BT);
	CHECK_EQ(kvt_seq_truncate(seq, 2 * BT), 0); /* all that was dropped came later */
	ones(weight, 64);
	reference(q, k, v, weight, 2 * BT, want);
	ask(attend, seq, q, 0, out);
	CHECK(difference(out, want) < 1e-4);
	fill(seq, k, v, 48);
	CHECK_EQ(kvt_seq_tokens(seq), 64);
	CHECK_EQ(kvt_seq_truncate(seq, 0), 0);
	CHECK_EQ(kvt_seq_summary_attend(seq, 1, Q_HEADS, q, 1, out, want), 0);
	CHECK(want[0] == -INFINITY);
	kvt_seq_destroy(seq);
	/* Dropped on both sides: the summary cannot tell them apart. */
	policy = (struct kvt_policy){ .size = sizeof(policy), .kind = KVT_HEAVY, .window = BT,
				      .flags = KVT_POLICY_SUMMARY, .budget = 4 * BT };
	seq = bounded(&p, &policy);
	fill(seq, k, v, 4 * BT);
	attend_to(seq, 2 * BT, 1);
	for (i = 0; i < 4; i++)
		fill(seq, k, v, BT);
	CHECK_ERR(kvt_seq_truncate(seq, 3 * BT), -ENODATA, "summary");
	CHECK_EQ(kvt_seq_tokens(seq), 8 * BT);
	CHECK_EQ(kvt_seq_truncate(seq, 8 * BT - 1), 0);
	kvt_seq_destroy(seq);
	kvt_attend_destroy(attend);
	place_close(&p);
	free(k);
	free(v);
	free(q);
}

static void compress_type(const char *dir, uint32_t type, double most)
{
	struct place_config config = plain;
	float *k, *v, *q = random_floats(Q_HEADS * DIM, 3);
	float want[Q_HEADS * DIM], out[Q_HEADS * DIM];
	struct kvt_policy policy = KVT_POLICY_INIT;
	struct kvt_attend *attend = attention();
	struct kvt_cache_stats stats;
	struct kvt_seq *seq, *fork;
	double weight[300];
	struct place p;

	config.cold = 1;
	config.cold_type = type;
	config.block_tokens = 8;
	place_open(&p, dir, &config);
	k = random_floats(300 * WIDTH, 1);
	v = random_floats(300 * WIDTH, 2);
	ones(weight, 300);
	CHECK_EQ(kvt_seq_create(p.cache, &seq), 0);
	fill(seq, k, v, 300);
	reference(q, k, v, weight, 300, want);
	CHECK_EQ(kvt_seq_fork(seq, &fork), 0);
	CHECK_EQ(kvt_seq_compress(fork, 300), 0); /* nothing: all is shared */
	kvt_seq_destroy(fork);
	CHECK(kvt_seq_compress(seq, 299) > 0);
	ask(attend, seq, q, 0, out);
	printf("# type %s: attention differs by %.4f\n", kvt_type_name(type),
	       difference(out, want));
	CHECK(difference(out, want) < most);
	kvt_cache_stats(p.cache, &stats);
	CHECK(stats.compressed_tokens >= 200);
	/* Into the compressed part and on again. */
	CHECK_EQ(kvt_seq_truncate(seq, 101), 0);
	fill(seq, k + 101 * WIDTH, v + 101 * WIDTH, 199);
	ask(attend, seq, q, 0, out);
	CHECK(difference(out, want) < most);
	kvt_seq_destroy(seq);
	/* By the way. */
	policy.hot = 64;
	seq = bounded(&p, &policy);
	fill(seq, k, v, 300);
	ask(attend, seq, q, 0, out);
	CHECK(difference(out, want) < most);
	kvt_seq_destroy(seq);
	kvt_attend_destroy(attend);
	place_close(&p);
	free(k);
	free(v);
	free(q);
}

static void compresses(const char *dir)
{
	compress_type(dir, KVT_INT8, 0.01);
	compress_type(dir, KVT_E4M3, 0.05);
	compress_type(dir, KVT_INT4, 0.1);
}

/* Two stories that begin alike, computed apart. */
static void dedups(const char *dir)
{
	struct kvt_cache_stats before, after;
	struct kvt_seq *a, *b, *c;
	struct place p;

	place_open(&p, dir, &plain);
	CHECK_EQ(kvt_seq_create(p.cache, &a), 0);
	CHECK_EQ(kvt_seq_create(p.cache, &b), 0);
	CHECK_EQ(kvt_seq_create(p.cache, &c), 0);
	story_append(a, 1, 0, 52);
	story_append(b, 1, 0, 32);
	story_append(b, 2, 32, 20);
	story_append(c, 3, 0, 52);
	CHECK_EQ(kvt_seq_place(a, KVTIER_OP_DEMOTE, 0, KVT_ALL_LAYERS, 0, KVT_TO_END), 0);
	kvt_cache_stats(p.cache, &before);
	CHECK_EQ(kvt_seq_dedup(a), 0);
	CHECK_EQ(kvt_seq_dedup(b), 4);
	CHECK_EQ(kvt_seq_dedup(c), 0);
	CHECK_EQ(kvt_seq_dedup(b), 0);
	kvt_cache_stats(p.cache, &after);
	CHECK_EQ(after.free_blocks, before.free_blocks + 8);
	CHECK_EQ(after.deduplicated_extents, 4);
	CHECK_EQ(story_check(b, 1, 0, 32), 0);
	CHECK_EQ(story_check(b, 2, 32, 20), 0);
	kvt_seq_destroy(a); /* the index forgets it */
	story_append(b, 2, 52, 20);
	CHECK_EQ(story_check(b, 1, 0, 32), 0);
	kvt_seq_destroy(b);
	CHECK_EQ(kvt_seq_create(p.cache, &a), 0);
	story_append(a, 1, 0, 52);
	CHECK_EQ(kvt_seq_dedup(a), 0);
	kvt_seq_destroy(a);
	kvt_seq_destroy(c);
	place_close(&p);
}

/* Query heads come in multiples of the cache's: nothing is asked of a sketch before that. */
static void refuses_heads(struct kvt_attend *attend, struct kvt_seq *seq, const float *q)
{
	float out[(HEADS + 1) * DIM];
	struct kvt_seq_query query = { .seq = seq, .q_tokens = 1, .cold_blocks = 1, .q = q,
				       .out = out };
	struct kvt_attend_params wrong = params;

	for (wrong.q_heads = 1; wrong.q_heads <= HEADS + 1; wrong.q_heads += HEADS)
		CHECK_ERR(kvt_seq_attend(attend, &wrong, 1, &query, 1), -EINVAL, "multiple");
}

/* One block of forty has the keys that the query looks for; all are on NVMe. */
static void sketches(const char *dir)
{
	float *k = random_floats(320 * WIDTH, 1), *v = random_floats(320 * WIDTH, 2);
	float *q = random_floats(Q_HEADS * DIM, 3), all[Q_HEADS * DIM], out[Q_HEADS * DIM];
	struct kvtier_stats before = { .size = sizeof(before) }, after = { .size = sizeof(after) };
	struct kvt_attend *attend = attention();
	struct kvt_seq *seq;
	struct place p;
	uint32_t t, h, i;

	place_open(&p, dir, &plain);
	CHECK_EQ(kvt_seq_create(p.cache, &seq), 0);
	for (t = 0; t < 320; t++)
		for (i = 0; i < WIDTH; i++)
			k[t * WIDTH + i] *= 0.1f;
	for (h = 1; h < Q_HEADS; h++)
		memcpy(q + h * DIM, q, DIM * sizeof(*q));
	for (t = 96; t < 104; t++)
		for (i = 0; i < WIDTH; i++)
			k[t * WIDTH + i] += 20 * q[i % DIM];
	fill(seq, k, v, 320);
	CHECK_ERR(kvt_seq_sketch(seq, 0), -EINVAL, "rank 0");
	CHECK_EQ(kvt_seq_sketch(seq, 2), 40);
	CHECK_EQ(kvt_seq_sketch(seq, 2), 0);
	ask(attend, seq, q, 0, all);
	CHECK_EQ(kvt_seq_place(seq, KVTIER_OP_DEMOTE, 0, KVT_ALL_LAYERS, 0, KVT_TO_END), 0);
	CHECK_EQ(kvt_stats(p.pool, &before), 0);
	ask(attend, seq, q, 1, out);
	CHECK_EQ(kvt_stats(p.pool, &after), 0);
	refuses_heads(attend, seq, q);
	/* The right block was read, and (nearly) no other. */
	CHECK(difference(out, all) < 1e-3);
	printf("# of 40 blocks on NVMe, %llu KiB were read\n",
	       (unsigned long long)(after.tier[KVTIER_TIER_NVME].bytes_out -
				    before.tier[KVTIER_TIER_NVME].bytes_out) >> 10);
	kvt_seq_destroy(seq);
	kvt_attend_destroy(attend);
	place_close(&p);
	free(k);
	free(v);
	free(q);
}

/*
 * Draft and target decode on while the target outgrows the budget: the draft is bounded,
 * then sits out, then comes back; their sum never exceeds the budget, nothing is lost.
 */
static void drafts(const char *dir)
{
	static const struct place_config target_config = { .blocks = 200, .dram = 16, .nvme = 400,
							   .block_tokens = BT, .layers = 3 };
	static const struct place_config draft_config = { .blocks = 24, .dram = 24, .nvme = 24,
							  .block_tokens = BT, .layers = 1 };
	struct kvt_draft_config config = KVT_DRAFT_CONFIG_INIT;
	struct kvt_draft *pair;
	struct kvt_seq *target, *draft;
	struct place a, b;
	uint32_t at = 0, seen[3] = { 0 };
	int state = 0;

	place_open(&a, dir, &target_config);
	place_open(&b, dir, &draft_config);
	CHECK_EQ(kvt_seq_create(a.cache, &target), 0);
	CHECK_EQ(kvt_seq_create(b.cache, &draft), 0);
	config.dram_bytes = 30 * KVT_BLOCK_MIN;
	config.draft_bytes = 20 * KVT_BLOCK_MIN;
	config.window = 2 * BT;
	config.sinks = BT;
	config.lookahead = BT;
	CHECK_ERR(kvt_draft_create(target, target, &config, &pair), -EINVAL, "one cache");
	config.dram_bytes = 21 * KVT_BLOCK_MIN;
	CHECK_ERR(kvt_draft_create(target, draft, &config, &pair), -EINVAL, "at least");
	config.dram_bytes = 30 * KVT_BLOCK_MIN;
	CHECK_EQ(kvt_draft_create(target, draft, &config, &pair), 0);
	for (at = 0; at < 160; at += 3) {
		state = kvt_draft_balance(pair);
		CHECK(state >= 0);
		CHECK_EQ(kvt_draft_state(pair), state);
		seen[state > 0 ? state : 0]++;
		if (state != KVT_DRAFT_OUT) {
			uint32_t from = (uint32_t)kvt_seq_tokens(draft);

			CHECK(from == at || !from); /* in step, or begun anew */
			story_append(draft, 2, from, at - from + 5);
		}
		story_append(target, 1, at, 5);
		CHECK_EQ(kvt_draft_truncate(pair, at + 3), 0); /* two guesses were wrong */
		CHECK_EQ(kvt_seq_tokens(target), at + 3);
		if (state != KVT_DRAFT_OUT)
			CHECK_EQ(story_check(draft, 2, at, 3), 0);
	}
	printf("# %u steps with a whole draft, %u bounded, %u without\n", seen[0], seen[1],
	       seen[2]);
	CHECK(seen[KVT_DRAFT_BOUNDED] && seen[KVT_DRAFT_OUT]);
	CHECK_EQ(state, KVT_DRAFT_OUT);
	CHECK_EQ(story_check(target, 1, 0, at), 0);
	CHECK_EQ(kvt_draft_truncate(pair, at + 1), -EINVAL);
	CHECK_EQ(kvt_draft_truncate(pair, 9), 0); /* pressure is gone */
	CHECK_EQ(kvt_draft_balance(pair), KVT_DRAFT_WHOLE);
	story_append(draft, 2, 0, 9);
	CHECK_EQ(story_check(draft, 2, 0, 9), 0);
	kvt_draft_destroy(pair);
	kvt_seq_destroy(target);
	kvt_seq_destroy(draft);
	place_close(&a);
	place_close(&b);
}

static const struct check_case cases[] = {
	{ "window", "sinks and a window are kept, the rest is dropped", window },
	{ "lookahead", "a window can be rolled back by its lookahead", lookahead },
	{ "refusals", "policies that cannot be kept are refused by name", refusals },
	{ "victims", "each policy drops what it says", victims },
	{ "attends", "attention over a sequence, in any tier, in one call", attends },
	{ "batched", "a ragged batch in one call, the bits of each alone", batched },
	{ "latent", "values that are a part of the keys (MLA)", latent },
	{ "merges", "merged rows are means and weigh what they stand for", merges },
	{ "summarises", "attention includes the summary of what was dropped", summarises },
	{ "summary_truncated", "a rollback takes tokens out of the summary too",
	  summary_truncated },
	{ "compresses", "old tokens in int8, fp8 and int4, attended to and rolled back into",
	  compresses },
	{ "dedups", "identical extents become one, compared byte for byte", dedups },
	{ "sketches", "a sketch finds the block to read", sketches },
	{ "drafts", "under pressure the draft shrinks first, and decoding goes on", drafts },
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
