// SPDX-License-Identifier: MIT
/*
 * sequence: a sequence of tokens larger than its memory; a fork, a rollback, attention.
 *
 *	sequence [FOLDER]	FOLDER: where the NVMe tier is, default .
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>

#include <kvtier_seq.h>

#define LAYERS 4
#define KV_HEADS 8
#define DIM 64
#define TOKENS 2000

static float rows[LAYERS * TOKENS * KV_HEADS * DIM];

/* Every call of the library is 0 (or a count), or a negative errno with a line that says why. */
static int must(int ret)
{
	if (ret < 0)
		errx(1, "%s", kvt_error_detail());
	return ret;
}

static struct kvt_pool *make_pool(const char *folder)
{
	struct kvt_config config = KVT_CONFIG_INIT;
	struct kvt_pool *pool;

	config.bytes = 32 << 20;
	config.dram_bytes = 4 << 20; /* an eighth */
	config.block_bytes = 128 << 10;
	config.nvme_path = folder;
	must(kvt_pool_create(&config, &pool));
	return pool;
}

static struct kvt_cache *make_cache(struct kvt_pool *pool)
{
	struct kvt_geometry g = KVT_GEOMETRY_INIT;
	struct kvt_cache *cache;

	g.layers = LAYERS;
	g.kv_heads = KV_HEADS;
	g.k_dim = g.v_dim = DIM;
	g.k_type = g.v_type = KVT_F16;
	must(kvt_cache_create(pool, &g, &cache));
	return cache;
}

static void attend(struct kvt_seq *seq)
{
	struct kvt_attend_params params = KVT_ATTEND_PARAMS_INIT;
	static float q[32 * DIM], out[32 * DIM];
	struct kvt_seq_query query = { .seq = seq, .q_tokens = 1,
				       .q_position = kvt_seq_tokens(seq) - 1, .q = q, .out = out };
	struct kvt_attend *threads;

	q[0] = 1;
	params.flags = KVT_CAUSAL;
	params.q_heads = 32; /* four for each of the keys' and values' heads */
	params.kv_heads = KV_HEADS;
	params.k_dim = params.v_dim = DIM;
	must(kvt_attend_create(NULL, &threads));
	must(kvt_seq_attend(threads, &params, 0, &query, 1));
	printf("attention of the last token: %.4f %.4f %.4f ...\n", (double)out[0], (double)out[1],
	       (double)out[2]);
	kvt_attend_destroy(threads);
}

static uint32_t resident(struct kvt_pool *pool)
{
	struct kvtier_block_info info;
	uint32_t i, nr = 0, blocks = (uint32_t)(kvt_pool_bytes(pool) / kvt_pool_block_bytes(pool));

	for (i = 0; i < blocks; i++) {
		must(kvt_query(pool, i, 1, &info));
		nr += info.tier == KVTIER_TIER_DRAM;
	}
	return nr;
}

static void show(const char *what, struct kvt_cache *cache, const struct kvt_seq *seq)
{
	struct kvt_cache_stats stats;

	kvt_cache_stats(cache, &stats);
	printf("%-28s %5llu tokens, %3llu extents, %3llu shared, %2u blocks in memory\n", what,
	       (unsigned long long)kvt_seq_tokens(seq), (unsigned long long)stats.extents,
	       (unsigned long long)stats.shared_extents,
	       resident(kvt_cache_pool(cache)));
}

int main(int argc, char **argv)
{
	struct kvt_pool *pool = make_pool(argc > 1 ? argv[1] : ".");
	struct kvt_cache *cache = make_cache(pool);
	struct kvt_seq *seq, *fork;
	size_t i;

	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		rows[i] = (float)rand() / (float)RAND_MAX - 0.5f;
	must(kvt_seq_create(cache, &seq));
	must(kvt_seq_append_float(seq, KVT_ALL_LAYERS, TOKENS, rows, rows));
	show("a prompt", cache, seq);
	must(kvt_seq_fork(seq, &fork)); /* nothing is copied */
	must(kvt_seq_append_float(fork, KVT_ALL_LAYERS, 5, rows, rows));
	show("a fork that goes on", cache, fork);
	must(kvt_seq_truncate(fork, TOKENS + 2)); /* three of the five were wrong */
	show("... and goes back", cache, fork);
	must(kvt_seq_place(seq, KVTIER_OP_DEMOTE, 0, KVT_ALL_LAYERS, 0, KVT_TO_END));
	show("all on NVMe", cache, seq);
	attend(seq); /* brings back what it needs, a block at a time */
	show("after attention", cache, seq);
	kvt_seq_destroy(fork);
	kvt_seq_destroy(seq);
	kvt_cache_destroy(cache);
	kvt_pool_destroy(pool);
	return 0;
}
