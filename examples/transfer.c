// SPDX-License-Identifier: MIT
/*
 * transfer: one process computes a prompt, another decodes from it.
 *
 *	transfer [FOLDER]	FOLDER: where the NVMe tiers are, default .
 *
 * Here over a socket between two processes of one machine; any descriptor will do.
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <kvtier_seq.h>

#define LAYERS 4
#define TOKENS 1000
#define ROW (8 * 64)
#define TIMEOUT_MS 10000

static float rows[LAYERS * TOKENS * ROW], got[TOKENS * ROW];

static int must(int ret)
{
	if (ret < 0)
		errx(1, "%s", kvt_error_detail());
	return ret;
}

/* Both processes make a pool of their own; the caches must be of one geometry and model. */
static struct kvt_cache *make_cache(const char *folder)
{
	struct kvt_config config = KVT_CONFIG_INIT;
	struct kvt_geometry g = KVT_GEOMETRY_INIT;
	struct kvt_cache *cache;
	struct kvt_pool *pool;

	config.bytes = 64 << 20;
	config.dram_bytes = 4 << 20;
	config.block_bytes = 128 << 10;
	config.nvme_path = folder;
	must(kvt_pool_create(&config, &pool));
	g.layers = LAYERS;
	g.kv_heads = 8;
	g.k_dim = g.v_dim = 64;
	memcpy(g.model, "an example", 10);
	must(kvt_cache_create(pool, &g, &cache));
	return cache;
}

static void end(struct kvt_cache *cache, struct kvt_seq *seq)
{
	struct kvt_pool *pool = kvt_cache_pool(cache);

	kvt_seq_destroy(seq);
	kvt_cache_destroy(cache);
	kvt_pool_destroy(pool);
}

static void prefill(const char *folder, int fd)
{
	struct kvt_cache *cache = make_cache(folder);
	struct kvt_seq *seq;

	must(kvt_seq_create(cache, &seq));
	must(kvt_seq_append_float(seq, KVT_ALL_LAYERS, TOKENS, rows, rows));
	must(kvt_seq_export(seq, fd, TIMEOUT_MS));
	printf("prefill: %llu tokens handed over\n", (unsigned long long)kvt_seq_tokens(seq));
	end(cache, seq);
}

static void decode(const char *folder, int fd)
{
	struct kvt_cache *cache = make_cache(folder);
	struct kvt_seq *seq;
	size_t i;

	must(kvt_seq_import(cache, fd, 0, TIMEOUT_MS, &seq));
	must(kvt_seq_read_float(seq, LAYERS - 1, 0, TOKENS, got, NULL));
	for (i = 0; i < TOKENS * ROW; i++)
		if (got[i] != rows[(size_t)(LAYERS - 1) * TOKENS * ROW + i])
			errx(1, "not what was sent");
	must(kvt_seq_append_float(seq, KVT_ALL_LAYERS, 1, rows, rows));
	printf("decode: goes on, %llu tokens\n", (unsigned long long)kvt_seq_tokens(seq));
	end(cache, seq);
}

int main(int argc, char **argv)
{
	const char *folder = argc > 1 ? argv[1] : ".";
	int fd[2], status;
	size_t i;
	pid_t pid;

	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		rows[i] = (float)rand() / (float)RAND_MAX;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd))
		err(1, "socketpair");
	pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (!pid) {
		prefill(folder, fd[1]);
		return 0;
	}
	close(fd[1]);
	decode(folder, fd[0]);
	if (waitpid(pid, &status, 0) < 0 || status)
		errx(1, "prefill failed");
	return 0;
}
