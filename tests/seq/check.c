// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <err.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "model.h"

#define CASE_SECONDS 240
#define SKIP 4

static bool failed;
static enum kvt_pager pager = KVT_PAGER_USER;

void check_fail(const char *file, int line, const char *fmt, ...)
{
	va_list args;

	failed = true;
	printf("# %s:%d: ", file, line);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
}

bool check_failed(void)
{
	return failed;
}

void check_skip(const char *why)
{
	printf("# skipped: %s\n", why);
	fflush(stdout);
	exit(SKIP);
}

/* exit() so that leaks are looked for. */
static int run(const struct check_case *c, const char *dir)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (!pid) {
		alarm(CASE_SECONDS);
		c->run(dir);
		fflush(stdout);
		exit(failed);
	}
	while (waitpid(pid, &status, 0) < 0)
		;
	if (WIFSIGNALED(status))
		printf("# ended by signal %d (%s)\n", WTERMSIG(status),
		       strsignal(WTERMSIG(status)));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static bool wanted(const char *name, char **names, int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		if (!strcmp(names[i], name))
			return true;
	return !nr;
}

int check_main(int argc, char **argv, const struct check_case *cases, unsigned int nr)
{
	static const struct option options[] = {
		{ "dir", required_argument, NULL, 'd' },
		{ "pager", required_argument, NULL, 'p' },
		{ 0 },
	};
	const char *dir = ".";
	unsigned int i, number = 0;
	int opt, result, bad = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'd')
			dir = optarg;
		else if (opt == 'p')
			pager = strcmp(optarg, "kernel") != 0 ? KVT_PAGER_USER : KVT_PAGER_KERNEL;
		else
			errx(2, "usage: %s [--dir DIR] [--pager user|kernel] [CASE...]", argv[0]);
	}
	printf("KTAP version 1\n");
	for (i = 0; i < nr; i++) {
		if (!wanted(cases[i].name, argv + optind, argc - optind))
			continue;
		result = run(&cases[i], dir);
		bad += result && result != SKIP;
		printf("%sok %u %s: %s%s\n", result && result != SKIP ? "not " : "", ++number,
		       cases[i].name, cases[i].what, result == SKIP ? " # SKIP" : "");
	}
	printf("1..%u\n", number);
	return bad != 0;
}

static void set_geometry(struct kvt_geometry *g, const struct place_config *c)
{
	g->layers = c->layers ? c->layers : 2;
	g->layers_per_block = c->layers_per_block;
	g->block_tokens = c->block_tokens;
	g->kv_heads = c->kv_heads ? c->kv_heads : 2;
	g->k_dim = g->v_dim = c->dim ? c->dim : 8;
	g->k_type = c->k_type;
	g->v_type = c->v_type;
	g->cold = c->cold;
	g->cold_k_type = g->cold_v_type = c->cold ? c->cold_type : 0;
	memset(g->model, c->model, sizeof(g->model));
}

void place_open(struct place *p, const char *dir, const struct place_config *c)
{
	struct kvt_config config = KVT_CONFIG_INIT;
	struct kvt_geometry g = KVT_GEOMETRY_INIT;

	memset(p, 0, sizeof(*p));
	if (c->file && asprintf(&p->file, "%s/%s", dir, c->file) < 0)
		err(1, "name");
	config.pager = pager;
	config.flags = KVT_NO_STATS_FILE | (c->file ? KVT_KEEP_FILE : 0);
	config.block_bytes = KVT_BLOCK_MIN;
	config.bytes = c->blocks * KVT_BLOCK_MIN;
	config.dram_bytes = c->dram * KVT_BLOCK_MIN;
	config.nvme_bytes = c->nvme * KVT_BLOCK_MIN;
	if (pager == KVT_PAGER_USER) /* the module has stores, not paths */
		config.nvme_path = c->file ? p->file : c->nvme ? dir : NULL;
	if (kvt_pool_create(&config, &p->pool))
		errx(1, "pool: %s", kvt_error_detail());
	set_geometry(&g, c);
	if (kvt_cache_create(p->pool, &g, &p->cache))
		errx(1, "cache: %s", kvt_error_detail());
	p->g = kvt_cache_geometry(p->cache);
}

void place_close(struct place *p)
{
	struct kvt_cache_stats stats;

	kvt_cache_stats(p->cache, &stats);
	CHECK_EQ(stats.sequences, 0);
	CHECK_EQ(stats.free_blocks, stats.blocks); /* nothing leaked */
	kvt_cache_destroy(p->cache);
	kvt_pool_destroy(p->pool);
	free(p->file);
}

static float element(uint32_t story, uint32_t layer, uint32_t token, uint32_t i, bool value)
{
	uint64_t state = ((uint64_t)story << 40) ^ ((uint64_t)token << 16) ^ (layer << 8) ^
			 (uint64_t)i << 1 ^ value;

	return (float)(int32_t)(model_random(&state) & 0xffff) / 32768.0f - 1;
}

static float *rows(const struct kvt_geometry *g, uint32_t story, uint32_t layer, uint32_t first,
		   uint32_t nr, bool value)
{
	uint32_t width = g->kv_heads * g->k_dim, t, i;
	float *rows = malloc(((size_t)nr * width + 1) * sizeof(*rows));

	if (!rows)
		err(1, "rows");
	for (t = 0; t < nr; t++)
		for (i = 0; i < width; i++)
			rows[(size_t)t * width + i] = element(story, layer, first + t, i, value);
	return rows;
}

void story_append(struct kvt_seq *seq, uint32_t story, uint32_t first, uint32_t nr)
{
	const struct kvt_geometry *g = kvt_cache_geometry(kvt_seq_cache(seq));
	uint32_t layer;
	float *k, *v;

	for (layer = 0; layer < g->layers; layer++) {
		k = rows(g, story, layer, first, nr, false);
		v = rows(g, story, layer, first, nr, true);
		CHECK_EQ(kvt_seq_append_float(seq, layer, nr, k, v), 0);
		free(k);
		free(v);
	}
}

static int compare(const struct kvt_seq *seq, uint32_t story, uint32_t layer, uint32_t first,
		   uint32_t nr)
{
	const struct kvt_geometry *g = kvt_cache_geometry(kvt_seq_cache(seq));
	size_t bytes = (size_t)nr * g->kv_heads * g->k_dim * sizeof(float);
	float *k = rows(g, story, layer, first, nr, false),
	      *v = rows(g, story, layer, first, nr, true);
	float *got_k = malloc(bytes + 1), *got_v = malloc(bytes + 1);
	int ret;

	if (!got_k || !got_v)
		err(1, "rows");
	ret = kvt_seq_read_float(seq, layer, first, nr, got_k, got_v);
	if (!ret && (memcmp(k, got_k, bytes) || memcmp(v, got_v, bytes)))
		ret = 1;
	free(k);
	free(v);
	free(got_k);
	free(got_v);
	return ret;
}

int story_check(const struct kvt_seq *seq, uint32_t story, uint32_t first, uint32_t nr)
{
	uint32_t layer;
	int ret = 0;

	for (layer = 0; !ret && layer < kvt_cache_geometry(kvt_seq_cache(seq))->layers; layer++)
		ret = compare(seq, story, layer, first, nr);
	return ret;
}
