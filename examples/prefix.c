// SPDX-License-Identifier: MIT
/*
 * prefix: a system prompt that is computed once, for everybody, and outlives the program.
 *
 *	prefix [FOLDER]		run it twice: the second time it finds what the first left
 *
 * FOLDER gets example.pool and example.manifest; default .
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <kvtier_seq.h>

#define LAYERS 2
#define PROMPT 256

static float rows[LAYERS * PROMPT * 2 * 64];

static int64_t must(int64_t ret)
{
	if (ret < 0)
		errx(1, "%s", kvt_error_detail());
	return ret;
}

static struct kvt_cache *open_cache(const char *file)
{
	struct kvt_config config = KVT_CONFIG_INIT;
	struct kvt_geometry g = KVT_GEOMETRY_INIT;
	struct kvt_cache *cache;
	struct kvt_pool *pool;

	config.flags = KVT_KEEP_FILE; /* what a manifest names stays */
	config.pager = KVT_PAGER_USER;
	config.bytes = 8 << 20;
	config.dram_bytes = 1 << 20;
	config.block_bytes = 64 << 10;
	config.nvme_path = file;
	must(kvt_pool_create(&config, &pool));
	g.layers = LAYERS;
	g.kv_heads = 2;
	g.k_dim = g.v_dim = 64;
	g.k_type = g.v_type = KVT_F16;
	g.block_tokens = 32;
	g.model[0] = 42; /* caches of other models are refused */
	must(kvt_cache_create(pool, &g, &cache));
	return cache;
}

static void restore(const char *manifest, struct kvt_cache *cache, struct kvt_prefix *prefix)
{
	struct kvt_manifest *m;
	int ret = kvt_manifest_open(manifest, &m);

	if (ret == -ENOENT) {
		printf("nothing was kept yet\n");
		return;
	}
	must(ret);
	must(kvt_manifest_restore(m, cache, prefix, NULL)); /* no sequences in it */
	kvt_manifest_close(m);
}

/* A request: the prompt that all have, and a question. */
static void serve(struct kvt_prefix *prefix, const char *tenant, uint32_t question)
{
	uint32_t tokens[PROMPT], i;
	struct kvt_seq *seq;
	int64_t found;

	for (i = 0; i < PROMPT; i++)
		tokens[i] = i < PROMPT - 32 ? i : question * 1000 + i;
	found = must(kvt_prefix_match(prefix, tenant, tokens, PROMPT, &seq));
	printf("%s asks %u: %lld of %d tokens are there, %lld to compute\n", tenant, question,
	       (long long)found, PROMPT, (long long)(PROMPT - found));
	must(kvt_seq_append_float(seq, KVT_ALL_LAYERS, (uint32_t)(PROMPT - found), rows, rows));
	must(kvt_prefix_insert(prefix, tenant, tokens, PROMPT, seq));
	kvt_seq_destroy(seq); /* the tree keeps what it was offered */
}

int main(int argc, char **argv)
{
	const char *folder = argc > 1 ? argv[1] : ".";
	struct kvt_prefix_config config = KVT_PREFIX_CONFIG_INIT;
	struct kvt_prefix *prefix;
	struct kvt_cache *cache;
	struct kvt_pool *pool;
	char *file, *manifest;

	if (asprintf(&file, "%s/example.pool", folder) < 0 ||
	    asprintf(&manifest, "%s/example.manifest", folder) < 0)
		err(1, "names");
	cache = open_cache(file);
	pool = kvt_cache_pool(cache);
	must(kvt_prefix_create(cache, &config, &prefix));
	restore(manifest, cache, prefix);
	serve(prefix, "alice", 1);
	serve(prefix, "alice", 2);
	serve(prefix, "bob", 1); /* is not served what alice computed */
	must(kvt_manifest_save(cache, manifest, NULL, 0, prefix));
	kvt_prefix_destroy(prefix);
	kvt_cache_destroy(cache);
	kvt_pool_destroy(pool);
	free(file);
	free(manifest);
	return 0;
}
