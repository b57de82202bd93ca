// SPDX-License-Identifier: MIT
/*
 * poolscan: read a pool larger than its memory over and over, in order, as a
 * decode does; print what it read from NVMe a second, as JSON.  The file stays,
 * so that another program can read the very same one.
 */
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <kvtier.h>

#define SCANS 4

struct scan {
	struct kvt_config config;
	struct kvt_pool *pool;
	uint64_t *words;
	size_t nr;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t word(size_t i)
{
	return i * 0x9e3779b97f4a7c15ull;
}

static void fill(struct scan *s)
{
	size_t i;

	for (i = 0; i < s->nr; i++)
		s->words[i] = word(i);
}

/* One word a cache line; how many of them are wrong. */
static size_t read_all(const struct scan *s)
{
	size_t i, wrong = 0;

	for (i = 0; i < s->nr; i += 8)
		wrong += s->words[i] != word(i);
	return wrong;
}

static int measure(struct scan *s)
{
	struct kvtier_stats before, after;
	size_t wrong = 0;
	double start;
	int i;

	fill(s);
	wrong += read_all(s); /* writes what has never been written, and learns the order */
	wrong += read_all(s);
	if (kvt_stats(s->pool, &before))
		return 1;
	start = now();
	for (i = 0; i < SCANS; i++)
		wrong += read_all(s);
	start = now() - start;
	if (kvt_stats(s->pool, &after))
		return 1;
	printf("{\"bytes_per_s\":%.0f,\"block_bytes\":%zu,\"seconds\":%.4f,\"wrong\":%zu}\n",
	       (double)(after.tier[KVTIER_TIER_NVME].bytes_out -
			before.tier[KVTIER_TIER_NVME].bytes_out) / start,
	       kvt_pool_block_bytes(s->pool), start, wrong);
	return wrong != 0;
}

static int parse(struct scan *s, int argc, char **argv)
{
	static const struct option options[] = {
		{ "file", required_argument, NULL, 'f' },
		{ "mib", required_argument, NULL, 'm' },
		{ "dram-mib", required_argument, NULL, 'd' },
		{ "block-kib", required_argument, NULL, 'b' },
		{ NULL, 0, NULL, 0 },
	};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'f':
			s->config.nvme_path = optarg;
			break;
		case 'm':
			s->config.bytes = strtoull(optarg, NULL, 10) << 20;
			break;
		case 'd':
			s->config.dram_bytes = strtoull(optarg, NULL, 10) << 20;
			break;
		case 'b':
			s->config.block_bytes = strtoull(optarg, NULL, 10) << 10;
			break;
		default:
			return -1;
		}
	}
	return s->config.nvme_path && s->config.bytes ? 0 : -1;
}

int main(int argc, char **argv)
{
	struct scan s = { .config = KVT_CONFIG_INIT };
	int ret;

	s.config.flags = KVT_KEEP_FILE;
	if (parse(&s, argc, argv)) {
		fprintf(stderr,
			"usage: poolscan --file F --mib N [--dram-mib N] [--block-kib N]\n");
		return 2;
	}
	if (kvt_pool_create(&s.config, &s.pool)) {
		fprintf(stderr, "poolscan: %s\n", kvt_error_detail());
		return 1;
	}
	s.words = kvt_pool_addr(s.pool);
	s.nr = kvt_pool_bytes(s.pool) / sizeof(*s.words);
	ret = measure(&s);
	kvt_pool_destroy(s.pool);
	return ret;
}
