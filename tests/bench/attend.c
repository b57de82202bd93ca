// SPDX-License-Identifier: MIT
/*
 * bench-attend: one query token's attention for one element type: ours, a plain read of
 * the same bytes, and ggml's, in turns.  Prints "NAME VALUE" lines, one a sample.
 */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvtier.h>
#include <kvtier_attend.h>

#include "attend.h"

struct options {
	const char *type;
	const char *engine;
	uint32_t tokens;
	uint32_t threads;
	uint32_t rounds;
	uint32_t mib;
};

struct bench {
	struct options o;
	char name[32];
	struct cache cache;
	struct kvt_attend *attend;
	struct peer *peer;
	double reference[OUT_FLOATS];
	float out[OUT_FLOATS];
};

static double ours(struct bench *b)
{
	struct kvt_attend_params params = KVT_ATTEND_PARAMS_INIT;
	struct kvt_attend_seq seq = KVT_ATTEND_SEQ_INIT;
	struct kvt_seq_block block = { .tokens = b->cache.tokens,
				       .k_type = b->cache.type,
				       .v_type = b->cache.type,
				       .k_stride = (uint32_t)b->cache.stride,
				       .v_stride = (uint32_t)b->cache.stride };
	static float rest[OUT_FLOATS];
	double start = now();
	uint32_t i;

	params.q_heads = Q_HEADS;
	params.kv_heads = KV_HEADS;
	params.k_dim = DIM;
	params.v_dim = DIM;
	seq.q_tokens = 1;
	seq.q = b->cache.q;
	seq.blocks = &block;
	seq.nr_blocks = 1;
	for (i = 0; i < b->cache.layers; i++) {
		block.k = cache_keys(&b->cache, i);
		block.v = cache_values(&b->cache, i);
		seq.out = i ? rest : b->out;
		if (kvt_attend(b->attend, &params, &seq, 1)) {
			fprintf(stderr, "bench-attend: %s\n", kvt_error_detail());
			exit(1);
		}
	}
	return now() - start;
}

static void sample(const struct bench *b, const char *what, double value)
{
	printf("attend.%s.%s %.9g\n", b->name, what, value);
}

static void one_round(struct bench *b)
{
	double read, attend, peer;

	read = probe_read(&b->cache, b->o.threads);
	attend = ours(b);
	read = (read + probe_read(&b->cache, b->o.threads)) / 2;
	sample(b, "GBps", (double)b->cache.bytes / attend / 1e9);
	sample(b, "read_GBps", (double)b->cache.bytes / read / 1e9);
	sample(b, "pct_read", 100 * read / attend);
	if (!b->peer)
		return;
	peer = peer_run(b->peer);
	sample(b, "ggml_GBps", (double)b->cache.bytes / peer / 1e9);
	sample(b, "vs_ggml", peer / attend);
}

static void errors(struct bench *b)
{
	float out[OUT_FLOATS];

	cache_reference(&b->cache, b->reference);
	sample(b, "max_error", cache_error(b->reference, b->out));
	if (!b->peer)
		return;
	peer_output(b->peer, out);
	sample(b, "ggml_max_error", cache_error(b->reference, out));
}

static int number(const char *text, uint32_t most, uint32_t *value)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	*value = (uint32_t)n;
	return *text && !*end && n && n <= most ? 0 : -1;
}

static int parse(struct options *o, int argc, char **argv)
{
	static const struct option options[] = {
		{ "type", required_argument, NULL, 't' },
		{ "engine", required_argument, NULL, 'e' },
		{ "tokens", required_argument, NULL, 'n' },
		{ "threads", required_argument, NULL, 'p' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "mib", required_argument, NULL, 'm' },
		{ NULL, 0, NULL, 0 },
	};
	int option, bad = 0;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 't':
			o->type = optarg;
			break;
		case 'e':
			o->engine = optarg;
			break;
		case 'n':
			bad |= number(optarg, 1u << 24, &o->tokens);
			break;
		case 'p':
			bad |= number(optarg, 256, &o->threads);
			break;
		case 'r':
			bad |= number(optarg, 1000, &o->rounds);
			break;
		case 'm':
			bad |= number(optarg, 1u << 20, &o->mib);
			break;
		default:
			bad = 1;
		}
	}
	return bad || !o->type || optind < argc ? -1 : 0;
}

static int set_up(struct bench *b)
{
	struct kvt_attend_config config = KVT_ATTEND_CONFIG_INIT;
	int type = kvt_type_named(b->o.type);

	config.threads = b->o.threads;
	if (type < 0 || kvt_attend_create(&config, &b->attend)) {
		fprintf(stderr, "bench-attend: %s\n", kvt_error_detail());
		return -1;
	}
	b->o.threads = kvt_attend_threads(b->attend);
	snprintf(b->name, sizeof(b->name), "%s%s", b->o.type, b->o.threads == 1 ? ".1t" : "");
	if (cache_init(&b->cache, (uint32_t)type, b->o.tokens, (size_t)b->o.mib << 20)) {
		fprintf(stderr, "bench-attend: no memory for %u MiB\n", b->o.mib);
		return -1;
	}
	if (!b->o.engine || !peer_takes((uint32_t)type))
		return 0;
	b->peer = peer_load(b->o.engine);
	return b->peer ? peer_open(b->peer, &b->cache, b->o.threads) : -1;
}

int main(int argc, char **argv)
{
	static struct bench b = { .o = { .tokens = 32768, .rounds = 5, .mib = 512 } };
	uint32_t i;

	if (parse(&b.o, argc, argv)) {
		fprintf(stderr, "usage: bench-attend --type TYPE [--engine DIR] [--tokens N] "
				"[--threads N] [--rounds N] [--mib N]\n");
		return 2;
	}
	if (set_up(&b))
		return 1;
	ours(&b); /* threads, pages and plans are there after that */
	for (i = 0; i < b.o.rounds; i++)
		one_round(&b);
	errors(&b);
	if (b.peer)
		peer_close(b.peer);
	kvt_attend_destroy(b.attend);
	cache_exit(&b.cache);
	return 0;
}
