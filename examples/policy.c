// SPDX-License-Identifier: MIT
/*
 * policy: what sequences of 4,000 tokens keep under different policies, and how far the
 * attention of their last token is from that over all of it.
 *
 *	policy [FOLDER]		FOLDER: where the NVMe tier is, default .
 */
#include <err.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <kvtier_seq.h>

#define TOKENS 4000
#define HEADS 2
#define DIM 32
#define WIDTH (HEADS * DIM)

static float k[TOKENS * WIDTH], v[TOKENS * WIDTH], q[WIDTH], exact[WIDTH];

static int64_t must(int64_t ret)
{
	if (ret < 0)
		errx(1, "%s", kvt_error_detail());
	return ret;
}

static struct kvt_cache *make_cache(const char *folder)
{
	struct kvt_config config = KVT_CONFIG_INIT;
	struct kvt_geometry g = KVT_GEOMETRY_INIT;
	struct kvt_cache *cache;
	struct kvt_pool *pool;

	config.bytes = 16 << 20;
	config.dram_bytes = 2 << 20;
	config.block_bytes = 64 << 10;
	config.nvme_path = folder;
	must(kvt_pool_create(&config, &pool));
	g.layers = 1;
	g.kv_heads = HEADS;
	g.k_dim = g.v_dim = DIM;
	g.block_tokens = 32;
	g.cold = 1; /* old tokens may go into int8 */
	g.cold_k_type = g.cold_v_type = KVT_INT8;
	must(kvt_cache_create(pool, &g, &cache));
	return cache;
}

/* Decode: a token, its attention, of which the policy is told. */
static void decode(struct kvt_attend *attend, struct kvt_seq *seq, float *out)
{
	struct kvt_attend_params params = KVT_ATTEND_PARAMS_INIT;
	struct kvt_seq_query query = { .seq = seq, .q_tokens = 1, .q = q, .out = out };
	uint32_t i;

	params.flags = KVT_CAUSAL;
	params.q_heads = params.kv_heads = HEADS;
	params.k_dim = params.v_dim = DIM;
	for (i = 0; i < TOKENS; i++) {
		must(kvt_seq_append_float(seq, 0, 1, k + i * WIDTH, v + i * WIDTH));
		query.q_position = i;
		if (i % 8 == 7) /* often enough for an example */
			must(kvt_seq_attend(attend, &params, 0, &query, 1));
	}
}

static void show(struct kvt_attend *attend, struct kvt_cache *cache, const char *name,
		 struct kvt_policy policy)
{
	float out[WIDTH];
	struct kvt_seq *seq;
	double worst = 0;
	uint32_t i;

	policy.size = sizeof(policy);
	must(kvt_seq_create(cache, &seq));
	must(kvt_seq_set_policy(seq, &policy));
	decode(attend, seq, out);
	for (i = 0; i < WIDTH; i++) {
		if (policy.kind == KVT_KEEP_ALL && !policy.hot)
			exact[i] = out[i];
		worst = fmax(worst, fabs((double)out[i] - (double)exact[i]));
	}
	printf("%-34s keeps %4llu of %d, off by %.5f\n", name,
	       (unsigned long long)kvt_seq_kept_tokens(seq), TOKENS, worst);
	kvt_seq_destroy(seq);
}

int main(int argc, char **argv)
{
	struct kvt_cache *cache = make_cache(argc > 1 ? argv[1] : ".");
	struct kvt_pool *pool = kvt_cache_pool(cache);
	struct kvt_attend *attend;
	uint32_t i;

	for (i = 0; i < TOKENS * WIDTH; i++) {
		k[i] = (float)rand() / (float)RAND_MAX - 0.5f;
		v[i] = (float)rand() / (float)RAND_MAX - 0.5f;
	}
	for (i = 0; i < WIDTH; i++) {
		q[i] = k[1000 * WIDTH + i] * 8; /* token 1000 is what it looks for */
		k[1000 * WIDTH + i] *= 8;
	}
	must(kvt_attend_create(NULL, &attend));
	show(attend, cache, "keep all: old blocks go to NVMe", (struct kvt_policy){ 0 });
	show(attend, cache, "keep all, int8 but for the last 256",
	     (struct kvt_policy){ .hot = 256 });
	show(attend, cache, "sinks and a window",
	     (struct kvt_policy){ .kind = KVT_WINDOW, .sinks = 32, .window = 512 });
	show(attend, cache, "the same with a summary",
	     (struct kvt_policy){ .kind = KVT_WINDOW, .sinks = 32, .window = 512,
				  .flags = KVT_POLICY_SUMMARY });
	show(attend, cache, "least recently used go",
	     (struct kvt_policy){ .kind = KVT_LRU, .window = 64, .budget = 512 });
	show(attend, cache, "heavy hitters stay",
	     (struct kvt_policy){ .kind = KVT_HEAVY, .window = 64, .budget = 512 });
	show(attend, cache, "heavy hitters stay, others merge",
	     (struct kvt_policy){ .kind = KVT_HEAVY, .window = 64, .budget = 512,
				  .flags = KVT_POLICY_MERGE });
	kvt_attend_destroy(attend);
	kvt_cache_destroy(cache);
	kvt_pool_destroy(pool);
	return 0;
}
