// SPDX-License-Identifier: MIT
/*
 * A decoder (examples/decode) whose sequence is in a pool of kvtierd.
 *
 *	compute	a prompt is computed, made durable, and its first token found; then goes
 *		on generating until it is killed
 *	restore	the sequence is taken back, and the first token found
 *
 * Prints one line of JSON with seconds and a hash over the first token's logits.
 */
#define _GNU_SOURCE
#include <err.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <kvtier_daemon.h>

#include "../../examples/decode/model.h"

#define POOL "restart"
#define BLOCK_TOKENS 16u

struct engine {
	struct model model;
	uint32_t *prompt, nr;
	struct kvt_attend *attend;
	struct kvt_client *client;
	struct kvt_pool *pool;
	struct kvt_cache *cache;
	struct kvt_seq *seq;
	char label[KVT_MODEL_NAME_BYTES];
	float *logits;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void check(int ret)
{
	if (ret)
		errx(1, "%s", kvt_error_detail());
}

/* The same prompt each time, of tokens by chance; the first few of a vocabulary are marks. */
static void make_prompt(struct engine *e)
{
	uint64_t x = 7;
	uint32_t i;

	e->prompt = calloc(e->nr, sizeof(*e->prompt));
	e->logits = calloc(e->model.vocab.nr, sizeof(*e->logits));
	if (!e->prompt || !e->logits)
		err(1, "no memory");
	for (i = 0; i < e->nr; i++) {
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		e->prompt[i] = (uint32_t)(3 + (x >> 33) % (e->model.vocab.nr - 3));
	}
}

static struct kvt_geometry geometry(const struct engine *e)
{
	struct kvt_geometry g = KVT_GEOMETRY_INIT;

	g.layers = e->model.layers;
	g.kv_heads = e->model.kv_heads;
	g.k_dim = g.v_dim = e->model.head_dim;
	g.k_type = g.v_type = KVT_F16;
	g.block_tokens = BLOCK_TOKENS;
	memcpy(g.model, &e->model.fingerprint, sizeof(e->model.fingerprint));
	return g;
}

static void make_cache(struct engine *e)
{
	struct kvt_geometry g = geometry(e);

	check(kvt_cache_create(e->pool, &g, &e->cache));
}

static void make_pool(struct engine *e)
{
	struct kvt_shared_config config = KVT_SHARED_CONFIG_INIT;

	config.name = POOL;
	config.model = e->label;
	config.flags = KVT_SHARED_KEEP;
	config.block_bytes = KVT_BLOCK_MIN;
	config.bytes = (2ull * e->nr / BLOCK_TOKENS + 8) * e->model.layers * KVT_BLOCK_MIN;
	check(kvt_shared_create(e->client, &config, &e->pool));
}

static uint64_t hash_logits(const struct engine *e)
{
	const unsigned char *at = (const unsigned char *)e->logits;
	uint64_t hash = 0xcbf29ce484222325ull;
	size_t i;

	for (i = 0; i < e->model.vocab.nr * sizeof(*e->logits); i++)
		hash = (hash ^ at[i]) * 0x100000001b3ull;
	return hash;
}

static void first_token(struct engine *e, struct runner *r)
{
	runner_open(r, &e->model, e->model.layers, e->attend, e->seq);
	runner_feed(r, &e->prompt[e->nr - 1], 1, e->logits);
}

static void compute(struct engine *e, const char *manifest)
{
	struct kvt_named_seq named = { .name = "prompt" };
	double prompt, durable, token;
	struct runner r;
	uint32_t best;

	make_pool(e);
	make_cache(e);
	check(kvt_seq_create(e->cache, &e->seq));
	runner_open(&r, &e->model, e->model.layers, e->attend, e->seq);
	prompt = now();
	runner_feed(&r, e->prompt, e->nr - 1, NULL);
	prompt = now() - prompt;
	runner_close(&r);
	durable = now();
	named.seq = e->seq;
	check(kvt_manifest_save(e->cache, manifest, &named, 1, NULL));
	check(kvt_shared_checkpoint(e->pool, NULL, 0));
	durable = now() - durable;
	token = now();
	first_token(e, &r);
	token = now() - token;
	printf("{\"seconds\":%.6f,\"durable_s\":%.6f,\"bytes\":%llu,\"hash\":\"%016llx\"}\n",
	       prompt + token, durable,
	       (unsigned long long)kvt_seq_tokens(e->seq) * 2 * e->model.layers *
		       e->model.kv_heads * e->model.head_dim * 2,
	       (unsigned long long)hash_logits(e));
	fflush(stdout);
	while (kvt_seq_tokens(e->seq) < 2ull * e->nr - BLOCK_TOKENS) {
		best = model_best(&e->model, e->logits);
		runner_feed(&r, &best, 1, e->logits);
	}
	for (;;)
		nanosleep(&(struct timespec){ .tv_sec = 1 }, NULL);
}

static void restore(struct engine *e, const char *path, double start)
{
	struct kvt_manifest *manifest;
	struct runner r;

	check(kvt_shared_attach(e->client, POOL, e->label, &e->pool));
	make_cache(e);
	check(kvt_manifest_open(path, &manifest));
	check(kvt_manifest_restore(manifest, e->cache, NULL, &e->seq));
	kvt_manifest_close(manifest);
	if (kvt_seq_tokens(e->seq) != e->nr - 1)
		errx(1, "expected a sequence of %u tokens, got %llu", e->nr - 1,
		     (unsigned long long)kvt_seq_tokens(e->seq));
	first_token(e, &r);
	printf("{\"seconds\":%.6f,\"hash\":\"%016llx\"}\n", now() - start,
	       (unsigned long long)hash_logits(e));
	/* Destroyed, the sequence would give up its blocks: the pool stays as it is. */
}

static const struct option names[] = {
	{ "socket", required_argument, NULL, 's' },   { "model", required_argument, NULL, 'm' },
	{ "tokens", required_argument, NULL, 't' },   { "threads", required_argument, NULL, 'j' },
	{ "manifest", required_argument, NULL, 'f' }, { NULL, 0, NULL, 0 },
};

int main(int argc, char **argv)
{
	struct kvt_attend_config config = KVT_ATTEND_CONFIG_INIT;
	const char *socket = NULL, *model = NULL, *manifest = NULL;
	struct engine e = { .nr = 1024 };
	double start;
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) >= 0) {
		switch (c) {
		case 's': socket = optarg; break;
		case 'm': model = optarg; break;
		case 't': e.nr = (uint32_t)strtoul(optarg, NULL, 10); break;
		case 'j': config.threads = (uint32_t)strtoul(optarg, NULL, 10); break;
		case 'f': manifest = optarg; break;
		default: errx(2, "see tests/bench/restart.c for the options");
		}
	}
	if (!socket || !model || !manifest || optind != argc - 1 || e.nr < 2 * BLOCK_TOKENS)
		errx(2, "--socket, --model, --manifest and compute or restore are needed");
	model_load(&e.model, model);
	make_prompt(&e);
	snprintf(e.label, sizeof(e.label), "%016llx", (unsigned long long)e.model.fingerprint);
	start = now();
	check(kvt_attend_create(&config, &e.attend));
	check(kvt_client_open(socket, &e.client));
	if (!strcmp(argv[optind], "compute"))
		compute(&e, manifest);
	else if (!strcmp(argv[optind], "restore"))
		restore(&e, manifest, start);
	else
		errx(2, "%s: neither compute nor restore", argv[optind]);
	return 0;
}
