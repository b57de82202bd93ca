// SPDX-License-Identifier: MIT
/*
 * agentic: a trace of coding agents through the prefix tree.
 *
 *	agentic [--dir DIR] TRACE
 *
 * A line of TRACE is a request, in the order of time: its session and the ids of its
 * blocks of 64 tokens, which are the session's own.  DRAM holds a tenth of all blocks.
 * The reuse must be that of a cache without limits, and what is reused the right bytes.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <stdlib.h>

#include "check.h"
#include "model.h"

#define BLOCK 64
#define IDS_MAX 8192
#define KNOWN (1u << 20) /* a power of two */

struct request {
	uint32_t session;
	uint32_t nr;
	uint32_t ids[IDS_MAX];
};

struct trace {
	struct kvt_pool *pool;
	struct kvt_cache *cache;
	struct kvt_prefix *prefix;
	uint64_t *known; /* chains of ids that an infinite cache has: a hash set */
	uint64_t *lru; /* the same, thrown away when a tenth is full; oldest first */
	uint64_t *lru_used;
	uint32_t lru_room, lru_nr;
	uint64_t asked, infinite, found, lru_found, clock;
	uint64_t random;
	uint32_t requests, wrong;
};

static bool read_request(FILE *f, struct request *r)
{
	static char *line;
	static size_t room;
	char *at, *end;

	if (getline(&line, &room, f) < 0) {
		free(line);
		line = NULL;
		return false;
	}
	r->session = (uint32_t)strtoul(line, &at, 10);
	for (r->nr = 0; r->nr < IDS_MAX; r->nr++, at = end) {
		r->ids[r->nr] = (uint32_t)strtoul(at, &end, 10);
		if (end == at)
			break;
	}
	return true;
}

static uint64_t chain(uint64_t before, uint32_t session, uint32_t id)
{
	uint64_t state = before ^ ((uint64_t)session << 32 | id);

	return model_random(&state) | 1;
}

/* True when it was there already. */
static bool know(uint64_t *set, uint64_t key)
{
	uint32_t at = (uint32_t)(key & (KNOWN - 1));

	while (set[at] && set[at] != key)
		at = (at + 1) & (KNOWN - 1);
	if (set[at])
		return true;
	set[at] = key;
	return false;
}

static bool lru_touch(struct trace *t, uint64_t key)
{
	uint32_t i, oldest = 0;

	for (i = 0; i < t->lru_nr; i++) {
		if (t->lru[i] == key) {
			t->lru_used[i] = ++t->clock;
			return true;
		}
		if (t->lru_used[i] < t->lru_used[oldest])
			oldest = i;
	}
	if (t->lru_nr < t->lru_room)
		oldest = t->lru_nr++;
	t->lru[oldest] = key;
	t->lru_used[oldest] = ++t->clock;
	return false;
}

/* What caches that keep everything, and that keep a tenth, would have had. */
static void simulate(struct trace *t, const struct request *r)
{
	bool whole = true, whole_lru = true;
	uint64_t key = 1;
	uint32_t i;

	for (i = 0; i < r->nr; i++) {
		key = chain(key, r->session, r->ids[i]);
		whole &= know(t->known, key);
		whole_lru &= lru_touch(t, key);
		t->infinite += whole;
		t->lru_found += whole_lru;
	}
	t->asked += r->nr;
}

static void rows(uint32_t session, uint32_t id, uint8_t *k)
{
	uint32_t i;

	for (i = 0; i < BLOCK; i++)
		model_row((uint64_t)session << 40 | (uint64_t)id << 8 | i, false, k + i * 16, 16);
}

static void check_block(struct trace *t, const struct request *r, const struct kvt_seq *seq,
			uint32_t at)
{
	uint8_t want[BLOCK * 16], got[BLOCK * 16];

	rows(r->session, r->ids[at], want);
	if (!kvt_seq_read(seq, 0, (uint64_t)at * BLOCK, BLOCK, got, NULL) &&
	    !memcmp(want, got, sizeof(want)))
		return;
	t->wrong++;
	printf("# request %u: block %u is not what it was\n", t->requests, at);
}

static void compute(struct trace *t, const struct request *r, struct kvt_seq *seq, uint32_t at)
{
	uint8_t k[BLOCK * 16];

	for (; at < r->nr; at++) {
		rows(r->session, r->ids[at], k);
		while (kvt_seq_append(seq, 0, BLOCK, k, k) == -ENOSPC)
			if (!kvt_prefix_evict(t->prefix, 64))
				errx(1, "%s", kvt_error_detail());
	}
}

static void serve(struct trace *t, const struct request *r)
{
	static uint32_t tokens[IDS_MAX * BLOCK];
	struct kvt_seq *seq;
	uint32_t i, blocks;
	int64_t found;

	for (i = 0; i < r->nr * BLOCK; i++)
		tokens[i] = r->session << 20 ^ r->ids[i / BLOCK] * BLOCK ^ i % BLOCK;
	found = kvt_prefix_match(t->prefix, "agents", tokens, r->nr * BLOCK, &seq);
	if (found < 0)
		errx(1, "match: %s", kvt_error_detail());
	blocks = (uint32_t)found / BLOCK;
	t->found += blocks;
	if (blocks) {
		check_block(t, r, seq, blocks - 1);
		check_block(t, r, seq, (uint32_t)(model_random(&t->random) % blocks));
	}
	if (kvt_seq_truncate(seq, (uint64_t)blocks * BLOCK))
		errx(1, "truncate: %s", kvt_error_detail());
	compute(t, r, seq, blocks);
	if (kvt_prefix_insert(t->prefix, "agents", tokens, r->nr * BLOCK, seq) < 0)
		errx(1, "insert: %s", kvt_error_detail());
	kvt_seq_destroy(seq);
}

static uint32_t count_blocks(FILE *f, struct request *r)
{
	uint64_t *set = calloc(KNOWN, sizeof(*set)), key;
	uint32_t i, nr = 0;

	if (!set)
		err(1, "set");
	while (read_request(f, r))
		for (key = 1, i = 0; i < r->nr; i++) {
			key = chain(key, r->session, r->ids[i]);
			nr += !know(set, key);
		}
	rewind(f);
	free(set);
	return nr;
}

static void open_pool(struct trace *t, const char *dir, uint32_t blocks)
{
	struct kvt_prefix_config prefix = KVT_PREFIX_CONFIG_INIT;
	struct kvt_config config = KVT_CONFIG_INIT;
	struct kvt_geometry g = KVT_GEOMETRY_INIT;

	config.pager = KVT_PAGER_USER;
	config.flags = KVT_NO_STATS_FILE;
	config.block_bytes = KVT_BLOCK_MIN;
	config.bytes = (blocks + 64) * KVT_BLOCK_MIN;
	config.dram_bytes = (blocks / 10 + 4) * KVT_BLOCK_MIN;
	config.nvme_path = dir;
	if (kvt_pool_create(&config, &t->pool))
		errx(1, "pool: %s", kvt_error_detail());
	g.layers = 1;
	g.block_tokens = BLOCK;
	g.k_bytes = g.v_bytes = 16;
	if (kvt_cache_create(t->pool, &g, &t->cache) ||
	    kvt_prefix_create(t->cache, &prefix, &t->prefix))
		errx(1, "cache: %s", kvt_error_detail());
	t->known = calloc(KNOWN, sizeof(*t->known));
	t->lru_room = blocks / 10 + 4;
	t->lru = calloc(t->lru_room, sizeof(*t->lru));
	t->lru_used = calloc(t->lru_room, sizeof(*t->lru_used));
	if (!t->known || !t->lru || !t->lru_used)
		err(1, "sets");
}

static void close_pool(struct trace *t)
{
	kvt_prefix_destroy(t->prefix);
	kvt_cache_destroy(t->cache);
	kvt_pool_destroy(t->pool);
	free(t->known);
	free(t->lru);
	free(t->lru_used);
}

int main(int argc, char **argv)
{
	static struct request r;
	struct trace t = { .random = 3 };
	const char *dir = argc == 4 && !strcmp(argv[1], "--dir") ? argv[2] : ".";
	FILE *f = argc > 1 ? fopen(argv[argc - 1], "r") : NULL;
	uint32_t blocks;
	double gap;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!f)
		errx(2, "usage: agentic [--dir DIR] TRACE");
	printf("KTAP version 1\n1..1\n");
	blocks = count_blocks(f, &r);
	open_pool(&t, dir, blocks);
	for (; read_request(f, &r); t.requests++) {
		simulate(&t, &r);
		serve(&t, &r);
	}
	fclose(f);
	close_pool(&t);
	gap = t.infinite ? 100.0 * (double)(t.infinite - t.found) / (double)t.infinite : 100;
	printf("# %u requests, %u blocks, a tenth of them in DRAM; %llu asked, %.1f %% found, "
	       "infinite cache %.1f %%, LRU of a tenth %.1f %%\n",
	       t.requests, blocks, (unsigned long long)t.asked,
	       100.0 * (double)t.found / (double)t.asked,
	       100.0 * (double)t.infinite / (double)t.asked,
	       100.0 * (double)t.lru_found / (double)t.asked);
	printf("# seq.agentic.reuse_gap_pct=%.3f\n", gap);
	printf("%sok 1 agentic: reuse within 1 %% of an infinite cache, a tenth in DRAM\n",
	       gap >= 1 || t.wrong || !t.infinite ? "not " : "");
	return gap >= 1 || t.wrong || !t.infinite;
}
