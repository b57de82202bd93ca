// SPDX-License-Identifier: MIT
/* kvtier trace replay: hit rates of kvtier's tiers beside infinite, LRU and Belady. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cjson/cJSON.h>

#include "command.h"
#include "option.h"
#include "print.h"
#include "progress.h"
#include "size.h"
#include "trace_cache.h"
#include "trace_command.h"
#include "trace_pool.h"

#define SIZES_MAX 32

static const struct option options[] = {
	{ "sizes", required_argument, NULL, 's' },
	{ "nvme", required_argument, NULL, 'n' },
	{ "lookahead", required_argument, NULL, 'l' },
	{ "announce", required_argument, NULL, 'a' },
	{ "read", required_argument, NULL, 'r' },
	{ "prefill", required_argument, NULL, 'p' },
	{ "token", required_argument, NULL, 't' },
	{ "limit", required_argument, NULL, 'm' },
	{ "speed", required_argument, NULL, 'x' },
	{ "pool", required_argument, NULL, 'P' },
	OPTIONS_OF_ALL,
};

struct replay {
	struct trace trace;
	uint32_t size[SIZES_MAX];
	int nr_sizes;
	double nvme; /* blocks; NAN: all */
	double lookahead, announce, prefill, speed, limit;
	uint64_t read_bytes, token_bytes;
	const char *pool; /* where its NVMe tier is */
	double infinite; /* per cent */
};

struct row {
	uint32_t size;
	double lru, belady;
	struct tiers_result alone, ahead;
};

/* ---- options ------------------------------------------------------------------- */

static int help(void)
{
	puts("usage: kvtier trace replay [OPTION...] FILE...\n\n"
	     "Replay requests to a serving engine and show the part of their blocks that was in\n"
	     "each tier, beside caches that are infinite, LRU and Belady's, at several sizes.\n\n"
	     "  --sizes LIST        DRAM in blocks (default: 1k,5k,10k,30k,50k)\n"
	     "  --nvme BLOCKS       room on NVMe (default: for all blocks)\n"
	     "  --lookahead N       most waiting requests that are known (default: all)\n"
	     "  --announce SECONDS  how early a session's client tells of its next turn\n"
	     "                      (default: 0)\n"
	     "  --read SIZE         bytes a second from NVMe (default: 6G)\n"
	     "  --prefill TOKENS    tokens a second that the engine computes (default: 40000)\n"
	     "  --token SIZE        bytes of a token's keys and values (default: 128K)\n"
	     "  --limit N           the first N requests only\n"
	     "  --pool DIR          move real bytes in a pool whose NVMe tier is in DIR\n"
	     "  --speed X           X seconds of the trace a second (default: no pauses)\n"
	     "  --json              one JSON object\n"
	     "  -h, --help          show this help\n\n"
	     "FILE is a Mooncake trace (lines), an agentic session (one object) or a recorded\n"
	     "trace. Exit status: 0; 1 a trace is wrong or a byte was; 2 usage.");
	return 0;
}

/* "1k" is a thousand: blocks are counted, not measured. */
static int take_count(const char *option, const char *text, double least, double *value)
{
	char *end;

	*value = strtod(text, &end);
	if (end != text && (*end == 'k' || *end == 'K')) {
		*value *= 1000;
		end++;
	}
	if (end == text || *end || !(*value >= least) || *value > 4e9)
		return fail(EXIT_USAGE, "--%s: '%s' is not a number from %g to 4e9", option, text,
			    least);
	return 0;
}

static int take_sizes(struct replay *r, char *list)
{
	double value;
	char *item;

	r->nr_sizes = 0;
	while ((item = strsep(&list, ","))) {
		if (r->nr_sizes == SIZES_MAX)
			return fail(EXIT_USAGE, "--sizes: more than %d sizes", SIZES_MAX);
		if (take_count("sizes", item, 1, &value))
			return EXIT_USAGE;
		r->size[r->nr_sizes++] = (uint32_t)value;
	}
	return 0;
}

static int take_bytes(const char *option, const char *text, uint64_t *bytes)
{
	if (size_parse(text, bytes))
		return fail(EXIT_USAGE, "--%s: '%s' is not a size such as 128K or 6G", option,
			    text);
	return 0;
}

static int take_option(void *command, int option)
{
	struct replay *r = command;

	switch (option) {
	case 's':
		return take_sizes(r, optarg);
	case 'n':
		return take_count("nvme", optarg, 0, &r->nvme);
	case 'l':
		return take_count("lookahead", optarg, 0, &r->lookahead);
	case 'a':
		return take_count("announce", optarg, 0, &r->announce);
	case 'r':
		return take_bytes("read", optarg, &r->read_bytes);
	case 'p':
		return take_count("prefill", optarg, 1, &r->prefill);
	case 't':
		return take_bytes("token", optarg, &r->token_bytes);
	case 'm':
		return take_count("limit", optarg, 1, &r->limit);
	case 'x':
		return take_count("speed", optarg, 0.001, &r->speed);
	default:
		r->pool = optarg;
		return 0;
	}
}

/* 0, an exit code, or -1: help was asked for. */
static int parse(struct replay *r, int argc, char **argv)
{
	static const struct option_set set = { ":h", options, EXIT_USAGE, take_option };
	int ret = option_take(argc, argv, &set, r);

	if (ret)
		return ret;
	if (optind == argc)
		return fail(EXIT_USAGE, "no FILE: kvtier trace replay [OPTION...] FILE...");
	for (; optind < argc; optind++) {
		ret = trace_add(&r->trace, argv[optind]);
		if (ret)
			return ret;
	}
	return trace_finish(&r->trace, (size_t)r->limit);
}

/* ---- measuring ----------------------------------------------------------------- */

static struct tiers_config config_of(const struct replay *r, uint32_t size)
{
	const struct trace *t = &r->trace;
	double bytes = t->prefix ? (double)t->block_tokens * (double)r->token_bytes :
				   (double)t->block_bytes;

	return (struct tiers_config){
		.dram = size,
		.nvme = isnan(r->nvme) ? t->nr_blocks : (uint32_t)r->nvme,
		.lookahead = isnan(r->lookahead) ? t->nr_requests : (size_t)r->lookahead,
		.announce = r->announce,
		.block_seconds = bytes / (double)r->read_bytes,
		.token_seconds = 1 / r->prefill,
	};
}

static double percent(const struct replay *r, uint64_t hits)
{
	return 100 * (double)hits / (double)r->trace.nr_accesses;
}

static double of_belady(const struct replay *r, const struct row *row, uint64_t hits)
{
	return row->belady > 0 ? 100 * percent(r, hits) / row->belady : NAN;
}

struct pace {
	const struct replay *r;
	struct progress bar;
	struct timespec begun;
};

static void pace_begin(struct pace *p, const struct replay *r, const char *what)
{
	p->r = r;
	progress_begin(&p->bar, what, r->trace.nr_requests);
	clock_gettime(CLOCK_MONOTONIC, &p->begun);
}

/* Called after each request; with --speed the next one is waited for. */
static void pace_at(void *arg, size_t done)
{
	struct pace *p = arg;
	const struct trace *t = &p->r->trace;
	struct timespec until = p->begun;
	double seconds;

	progress_at(&p->bar, done);
	if (!p->r->speed || p->r->pool || done == t->nr_requests)
		return;
	seconds = t->request[done].at / p->r->speed + (double)until.tv_nsec / 1e9;
	until.tv_sec += (time_t)seconds;
	until.tv_nsec = (long)((seconds - floor(seconds)) * 1e9);
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}

static int measure(const struct replay *r, struct row *row)
{
	struct tiers_config config = config_of(r, row->size);
	struct pace pace;
	char what[32];
	uint64_t lru = trace_lru(&r->trace, row->size);
	uint64_t belady = trace_belady(&r->trace, row->size);
	int ret;

	snprintf(what, sizeof(what), "%u blocks", row->size);
	pace_begin(&pace, r, what);
	ret = lru == TRACE_FAILED || belady == TRACE_FAILED ||
	      tiers_run(&r->trace, &config, &row->ahead, pace_at, &pace);
	progress_end(&pace.bar);
	config.nvme = 0;
	config.lookahead = 0;
	if (ret || tiers_run(&r->trace, &config, &row->alone, NULL, NULL))
		return fail(1, "out of memory");
	row->lru = percent(r, lru);
	row->belady = percent(r, belady);
	return 0;
}

/* ---- showing ------------------------------------------------------------------- */

static void add_pct(cJSON *o, const char *name, double value)
{
	cJSON_AddNumberToObject(o, name, isnan(value) ? NAN : round(1e4 * value) / 1e4);
}

static cJSON *row_json(const struct replay *r, const struct row *row)
{
	cJSON *o = cJSON_CreateObject();
	const struct tiers_result *a = &row->ahead;

	cJSON_AddNumberToObject(o, "blocks", row->size);
	add_pct(o, "lru_pct", row->lru);
	add_pct(o, "belady_pct", row->belady);
	add_pct(o, "alone_pct", percent(r, row->alone.dram_hits));
	add_pct(o, "dram_pct", percent(r, a->dram_hits));
	add_pct(o, "nvme_pct", percent(r, a->nvme_hits));
	add_pct(o, "total_pct", percent(r, a->dram_hits + a->nvme_hits));
	add_pct(o, "alone_pct_belady", of_belady(r, row, row->alone.dram_hits));
	add_pct(o, "pct_belady", of_belady(r, row, a->dram_hits));
	cJSON_AddNumberToObject(o, "promoted", (double)a->promoted);
	cJSON_AddNumberToObject(o, "wasted", (double)a->wasted);
	cJSON_AddNumberToObject(o, "written", (double)a->written);
	cJSON_AddNumberToObject(o, "waited_s", a->waited);
	cJSON_AddNumberToObject(o, "queued", a->queued);
	return o;
}

static cJSON *trace_json(const struct replay *r)
{
	cJSON *o = cJSON_CreateObject();
	const struct trace *t = &r->trace;

	cJSON_AddNumberToObject(o, "requests", (double)t->nr_requests);
	cJSON_AddNumberToObject(o, "accesses", (double)t->nr_accesses);
	cJSON_AddNumberToObject(o, "distinct", t->nr_blocks);
	cJSON_AddNumberToObject(o, "block_tokens", t->block_tokens);
	cJSON_AddNumberToObject(o, "seconds", t->seconds);
	add_pct(o, "infinite_pct", r->infinite);
	return o;
}

static void print_head(const struct replay *r)
{
	const struct trace *t = &r->trace;

	printf("%zu requests in %.0f s read %zu blocks", t->nr_requests,
	       t->seconds, t->nr_accesses);
	if (t->prefix)
		printf(" of %u tokens", t->block_tokens);
	printf(", %u of them distinct; an infinite cache hits %.1f %%\n\n", t->nr_blocks,
	       r->infinite);
}

static void print_row(const struct replay *r, const struct row *row)
{
	const struct tiers_result *a = &row->ahead;

	printf("%7u  %6.1f %6.1f  %6.1f %4.0f %%  %6.1f %4.0f %%  %6.1f %6.1f  %7.0f s\n",
	       row->size, row->lru, row->belady, percent(r, row->alone.dram_hits),
	       of_belady(r, row, row->alone.dram_hits), percent(r, a->dram_hits),
	       of_belady(r, row, a->dram_hits), percent(r, a->nvme_hits),
	       percent(r, a->dram_hits + a->nvme_hits), a->waited);
}

static int show_model(const struct replay *r)
{
	cJSON *o = json_errors ? trace_json(r) : NULL;
	cJSON *sizes = o ? cJSON_AddArrayToObject(o, "sizes") : NULL;
	int i;

	if (!json_errors) {
		print_head(r);
		puts("                         without NVMe       with NVMe, known requests promoted\n"
		     " blocks                  or look-ahead          ahead of their turn\n"
		     "in DRAM     LRU Belady    DRAM of Belady   DRAM of Belady   NVMe   both   waited");
	}
	for (i = 0; i < r->nr_sizes; i++) {
		struct row row = { .size = r->size[i] };

		if (measure(r, &row)) {
			cJSON_Delete(o);
			return 1;
		}
		if (o)
			cJSON_AddItemToArray(sizes, row_json(r, &row));
		else
			print_row(r, &row);
		fflush(stdout);
	}
	return o ? print_object(o) : 0;
}

static cJSON *pool_result_json(const struct replay *r, const struct trace_pool_result *p)
{
	cJSON *o = trace_json(r), *pool = cJSON_AddObjectToObject(o, "pool");

	cJSON_AddNumberToObject(pool, "blocks", r->size[0]);
	cJSON_AddStringToObject(pool, "pager", p->pager);
	add_pct(pool, "dram_pct", percent(r, p->dram_hits));
	add_pct(pool, "nvme_pct", percent(r, p->nvme_hits));
	add_pct(pool, "total_pct", percent(r, p->dram_hits + p->nvme_hits));
	cJSON_AddNumberToObject(pool, "written", (double)p->missed);
	cJSON_AddNumberToObject(pool, "promoted", (double)p->stats.promoted);
	cJSON_AddNumberToObject(pool, "demoted", (double)p->stats.demoted);
	cJSON_AddNumberToObject(pool, "wrong_blocks", (double)p->wrong_blocks);
	cJSON_AddNumberToObject(pool, "seconds", p->seconds);
	return o;
}

static int show_pool(const struct replay *r)
{
	struct tiers_config config = config_of(r, r->size[0]);
	struct kvt_config pool = KVT_CONFIG_INIT;
	struct trace_pool_result p;
	struct pace pace;
	int ret;

	pool.nvme_path = r->pool;
	pool.flags = KVT_NO_PREDICT;
	pool.name = "kvtier trace replay";
	pool.pager = KVT_PAGER_USER;
	pace_begin(&pace, r, "pool");
	ret = trace_pool_run(&r->trace, &config, &pool, r->speed, &p, pace_at, &pace);
	progress_end(&pace.bar);
	if (ret)
		return ret;
	if (p.wrong_blocks)
		return fail(1, "%llu blocks had wrong bytes", (unsigned long long)p.wrong_blocks);
	if (json_errors)
		return print_object(pool_result_json(r, &p));
	print_head(r);
	printf("in a pool (%s pager) with %u blocks in memory: %.1f %% of the blocks were there at "
	       "their turn,\n%.1f %% on NVMe; %llu were promoted, %llu demoted, in %.1f s; "
	       "every byte was right\n", p.pager, r->size[0], percent(r, p.dram_hits),
	       percent(r, p.nvme_hits), (unsigned long long)p.stats.promoted,
	       (unsigned long long)p.stats.demoted, p.seconds);
	return 0;
}

int trace_replay(int argc, char **argv)
{
	struct replay r = { .size = { 1000, 5000, 10000, 30000, 50000 },
			    .nr_sizes = 5,
			    .nvme = NAN,
			    .lookahead = NAN,
			    .prefill = 40000,
			    .read_bytes = 6ull << 30,
			    .token_bytes = 128 << 10 };
	int ret = parse(&r, argc, argv);
	uint64_t infinite;

	if (!ret) {
		infinite = trace_infinite(&r.trace);
		r.infinite = percent(&r, infinite);
		ret = infinite == TRACE_FAILED ? fail(1, "out of memory") :
		      r.pool		       ? show_pool(&r) :
						 show_model(&r);
	}
	trace_free(&r.trace);
	return ret < 0 ? help() : ret;
}
