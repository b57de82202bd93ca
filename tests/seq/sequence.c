// SPDX-License-Identifier: MIT
/* sequence: appending, forking, truncating, batches; and what must be refused. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

static struct kvt_seq *create(const struct place *p)
{
	struct kvt_seq *seq;

	CHECK_EQ(kvt_seq_create(p->cache, &seq), 0);
	return seq;
}

static struct kvt_seq *fork_of(const struct kvt_seq *seq)
{
	struct kvt_seq *fork;

	CHECK_EQ(kvt_seq_fork(seq, &fork), 0);
	return fork;
}

/* 8 blocks, two layers of a block each: four extents of 16 tokens. */
static void pool_full(const char *dir)
{
	static const float rows[4096];
	struct place p;
	struct kvt_seq *a, *b;

	place_open(&p, dir, &(struct place_config){ .blocks = 8, .dram = 8, .block_tokens = 16 });
	a = create(&p);
	b = create(&p);
	story_append(a, 1, 0, 40);
	story_append(b, 2, 0, 10);
	CHECK_ERR(kvt_seq_append_float(a, KVT_ALL_LAYERS, 30, rows, rows), -ENOSPC,
		  "the pool is full");
	CHECK_ERR(kvt_seq_append_float(a, 1, 30, rows, rows), -ENOSPC, "the pool is full");
	CHECK_EQ(kvt_seq_tokens(a), 40);
	CHECK_EQ(kvt_seq_layer_tokens(a, 1), 40);
	CHECK_EQ(story_check(a, 1, 0, 40), 0);
	CHECK_EQ(story_check(b, 2, 0, 10), 0);
	kvt_seq_destroy(b);
	story_append(a, 1, 40, 24);
	CHECK_EQ(story_check(a, 1, 0, 64), 0);
	kvt_seq_destroy(a);
	place_close(&p);
}

/* A copy for a writer needs room too: a fork of a full pool can be read, not appended to. */
static void fork_full(const char *dir)
{
	static const float rows[4096];
	struct place p;
	struct kvt_seq *a, *b;

	place_open(&p, dir, &(struct place_config){ .blocks = 4, .dram = 4, .block_tokens = 16 });
	a = create(&p);
	story_append(a, 1, 0, 20);
	b = fork_of(a);
	CHECK_ERR(kvt_seq_append_float(b, KVT_ALL_LAYERS, 1, rows, rows), -ENOSPC,
		  "the pool is full");
	CHECK_EQ(story_check(b, 1, 0, 20), 0);
	CHECK_EQ(kvt_seq_truncate(b, 16), 0);
	story_append(a, 1, 20, 12);
	CHECK_EQ(story_check(a, 1, 0, 32), 0);
	CHECK_EQ(story_check(b, 1, 0, 16), 0);
	kvt_seq_destroy(a);
	kvt_seq_destroy(b);
	place_close(&p);
}

static void batch_all_or_none(const char *dir)
{
	static const float rows[65536];
	struct place p;
	struct kvt_seq *a, *b;
	struct kvt_batch_item items[2];
	struct kvt_cache_stats before, after;

	place_open(&p, dir, &(struct place_config){ .blocks = 8, .dram = 8, .block_tokens = 16 });
	a = create(&p);
	b = create(&p);
	story_append(a, 1, 0, 16);
	story_append(b, 2, 0, 15);
	items[0] = (struct kvt_batch_item){ .seq = a, .tokens = 1, .k = rows, .v = rows };
	items[1] = (struct kvt_batch_item){ .seq = b, .tokens = 40, .k = rows, .v = rows };
	kvt_cache_stats(p.cache, &before);
	CHECK_ERR(kvt_batch_append(items, 2, KVT_ALL_LAYERS), -ENOSPC, "the pool is full");
	kvt_cache_stats(p.cache, &after);
	CHECK_EQ(after.free_blocks, before.free_blocks);
	CHECK_EQ(kvt_seq_tokens(a), 16);
	CHECK_EQ(kvt_seq_tokens(b), 15);
	items[1].seq = a;
	CHECK_ERR(kvt_batch_append(items, 2, KVT_ALL_LAYERS), -EINVAL, "the same");
	items[1].seq = b;
	items[1].k = NULL;
	CHECK_ERR(kvt_batch_append(items, 2, KVT_ALL_LAYERS), -EINVAL, "NULL");
	CHECK_EQ(story_check(a, 1, 0, 16), 0);
	CHECK_EQ(story_check(b, 2, 0, 15), 0);
	kvt_seq_destroy(a);
	kvt_seq_destroy(b);
	place_close(&p);
}

/* Sequences join and leave at every step; each step appends one token to who is there. */
static void continuous_batch(const char *dir)
{
	struct place p;
	struct kvt_seq *seqs[16] = { 0 };
	uint32_t story[16] = { 0 }, length[16] = { 0 }, step, i;

	place_open(&p, dir, &(struct place_config){ .blocks = 120, .dram = 8, .nvme = 240,
						    .block_tokens = 8, .layers = 3 });
	for (step = 0; step < 120; step++) {
		i = step * 7 % 16;
		if (seqs[i]) {
			CHECK_EQ(story_check(seqs[i], story[i], 0, length[i]), 0);
			kvt_seq_destroy(seqs[i]);
			seqs[i] = NULL;
		} else {
			seqs[i] = create(&p);
			story[i] = step;
			length[i] = 0;
		}
		for (i = 0; i < 16; i++)
			if (seqs[i])
				story_append(seqs[i], story[i], length[i]++, 1);
	}
	for (i = 0; i < 16; i++) {
		if (seqs[i])
			CHECK_EQ(story_check(seqs[i], story[i], 0, length[i]), 0);
		kvt_seq_destroy(seqs[i]);
	}
	place_close(&p);
}

/* The table's shape must depend on positions alone: an attention over it then has the same bits. */
static void chunks(const char *dir)
{
	static const uint32_t sizes[] = { 1, 3, 16, 17, 50, 100 };
	struct kvt_seq_block want[16], got[16];
	struct place p;
	struct kvt_seq *seq;
	uint32_t s, at, nr, i;
	int blocks;

	place_open(&p, dir, &(struct place_config){ .blocks = 64, .dram = 64, .block_tokens = 16 });
	seq = create(&p);
	story_append(seq, 5, 0, 100);
	blocks = kvt_seq_view(seq, 1, want, 16);
	for (s = 0; s < 6; s++) {
		struct kvt_seq *other = create(&p);

		for (at = 0; at < 100; at += nr) {
			nr = 100 - at < sizes[s] ? 100 - at : sizes[s];
			story_append(other, 5, at, nr);
		}
		CHECK_EQ(story_check(other, 5, 0, 100), 0);
		CHECK_EQ(kvt_seq_view(other, 1, got, 16), blocks);
		for (i = 0; i < (uint32_t)blocks; i++) {
			CHECK_EQ(got[i].position, want[i].position);
			CHECK_EQ(got[i].tokens, want[i].tokens);
		}
		kvt_seq_destroy(other);
	}
	kvt_seq_destroy(seq);
	place_close(&p);
}

static uint64_t read_bytes(const struct place *p)
{
	struct kvtier_stats stats = { .size = sizeof(stats) };

	CHECK_EQ(kvt_stats(p->pool, &stats), 0);
	return stats.tier[KVTIER_TIER_NVME].bytes_out;
}

static void fork_of_cold(const char *dir)
{
	struct place p;
	struct kvt_seq *seq, *fork;
	uint64_t before;

	place_open(&p, dir, &(struct place_config){ .blocks = 64, .dram = 8, .nvme = 128,
						    .block_tokens = 16 });
	seq = create(&p);
	story_append(seq, 1, 0, 320);
	CHECK_EQ(kvt_seq_place(seq, KVTIER_OP_DEMOTE, 0, KVT_ALL_LAYERS, 0, KVT_TO_END), 0);
	before = read_bytes(&p);
	fork = fork_of(seq);
	CHECK_EQ(read_bytes(&p), before);
	story_append(fork, 1, 320, 5); /* begins an extent: still nothing to read */
	CHECK_EQ(read_bytes(&p), before);
	CHECK_EQ(story_check(fork, 1, 0, 325), 0);
	CHECK_EQ(kvt_seq_truncate(fork, 300), 0);
	story_append(fork, 2, 300, 10); /* ... and this one copies */
	CHECK_EQ(story_check(fork, 1, 0, 300), 0);
	CHECK_EQ(story_check(fork, 2, 300, 10), 0);
	CHECK_EQ(story_check(seq, 1, 0, 320), 0);
	kvt_seq_destroy(seq);
	kvt_seq_destroy(fork);
	place_close(&p);
}

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static uint64_t anonymous_kib(void)
{
	FILE *f = fopen("/proc/self/status", "r");
	unsigned long kib = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %lu kB", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib;
}

/* 128k tokens of 1 KiB in extents of 64: 128 MiB, shared by a thousand. */
static void forks(const char *dir)
{
	static struct kvt_seq *fork[1000];
	struct kvt_cache_stats stats;
	uint64_t start, us[1000], before, after, i, least = UINT64_MAX, most = 0, sum = 0;
	struct place p;
	struct kvt_seq *seq;
	uint32_t at;

	place_open(&p, dir, &(struct place_config){ .blocks = 2048, .dram = 2048, .layers = 2,
						    .layers_per_block = 2, .kv_heads = 4,
						    .dim = 16, .block_tokens = 64 });
	seq = create(&p);
	for (at = 0; at < 131072; at += 4096)
		story_append(seq, 1, at, 4096);
	before = anonymous_kib();
	for (i = 0; i < 1000; i++) {
		start = now_us();
		fork[i] = fork_of(seq);
		us[i] = now_us() - start;
		least = us[i] < least ? us[i] : least;
		most = us[i] > most ? us[i] : most;
		sum += us[i];
	}
	after = anonymous_kib();
	kvt_cache_stats(p.cache, &stats);
	printf("# seq.fork_us=%llu (least %llu, most %llu) of 131072 tokens\n",
	       (unsigned long long)sum / 1000, (unsigned long long)least, (unsigned long long)most);
	printf("# seq.forks.anonymous_kib=%llu before, %llu after 1000 forks of %u KiB\n",
	       (unsigned long long)before, (unsigned long long)after,
	       131072 / 1024 * 2 * (p.g->k_bytes + p.g->v_bytes));
	CHECK_EQ(stats.shared_extents, stats.extents);
	/* The tables of all forks take less than one copy of the content would. */
	CHECK(after < before + 131072);
	CHECK_EQ(story_check(fork[999], 1, 131000, 72), 0);
	for (i = 0; i < 1000; i++)
		kvt_seq_destroy(fork[i]);
	kvt_seq_destroy(seq);
	place_close(&p);
}

static void truncated(const char *dir)
{
	struct place p;
	struct kvt_seq *seq;
	uint32_t at;

	place_open(&p, dir, &(struct place_config){ .blocks = 64, .dram = 8, .nvme = 128,
						    .block_tokens = 16 });
	kvt_cache_set_seal_lag(p.cache, 4);
	seq = create(&p);
	story_append(seq, 1, 0, 100);
	CHECK_ERR(kvt_seq_truncate(seq, 101), -EINVAL, "the sequence has 100");
	for (at = 100; at > 60; at -= 8) { /* speculate by 5, take 13 back, of which 5 are wrong */
		story_append(seq, 9, at, 5);
		CHECK_EQ(kvt_seq_truncate(seq, at - 8), 0);
		CHECK_EQ(story_check(seq, 1, 0, at - 8), 0);
	}
	story_append(seq, 1, at, 100 - at);
	CHECK_EQ(story_check(seq, 1, 0, 100), 0);
	CHECK_EQ(kvt_seq_truncate(seq, 0), 0);
	CHECK_EQ(kvt_seq_tokens(seq), 0);
	kvt_seq_destroy(seq);
	place_close(&p);
}

static void arguments(const char *dir)
{
	static const float rows[64];
	struct kvt_geometry g = KVT_GEOMETRY_INIT;
	struct kvt_cache *cache;
	struct place p;
	struct kvt_seq *seq;
	float out[64];

	place_open(&p, dir, &(struct place_config){ .blocks = 8, .dram = 8, .block_tokens = 16 });
	seq = create(&p);
	CHECK_EQ(kvt_seq_append_float(seq, 0, 0, rows, rows), 0); /* nothing is no error */
	CHECK_ERR(kvt_seq_append_float(seq, 2, 1, rows, rows), -EINVAL, "no layer 2");
	CHECK_ERR(kvt_seq_append_float(seq, 0, 1, NULL, rows), -EINVAL, "NULL");
	CHECK_ERR(kvt_seq_append(seq, 0, 1, rows, NULL), -EINVAL, "NULL");
	CHECK_ERR(kvt_seq_append(seq, KVT_ALL_LAYERS, UINT32_MAX, rows, rows), -ENOSPC, "full");
	CHECK_ERR(kvt_seq_read_float(seq, 0, 0, 1, out, out), -EINVAL, "it has 0");
	CHECK_ERR(kvt_seq_read_float(seq, 0, UINT64_MAX, 2, out, out), -EINVAL, "it has 0");
	CHECK_ERR(kvt_seq_place(seq, KVTIER_OP_DISCARD, 0, 0, 0, 1), -EINVAL, "does not move");
	CHECK_ERR(kvt_seq_place(seq, KVTIER_OP_PROMOTE, 99, 0, 0, 1), -EINVAL, "flags");
	CHECK_ERR(kvt_seq_compress(seq, 1), -EINVAL, "no cold types");
	CHECK_ERR(kvt_seq_view(seq, 9, NULL, 0), -EINVAL, "no layer 9");
	CHECK_EQ(kvt_seq_tokens(seq), 0);
	g.layers = 2;
	CHECK_ERR(kvt_cache_create(p.pool, &g, &cache), -EINVAL, "k_dim");
	g.kv_heads = 8;
	g.k_dim = g.v_dim = 7;
	CHECK_ERR(kvt_cache_create(p.pool, &g, &cache), -EINVAL, "7 elements");
	g.k_dim = g.v_dim = 576;
	g.layers_per_block = 2;
	CHECK_ERR(kvt_cache_create(p.pool, &g, &cache), -EINVAL, "cannot hold one token");
	g.layers_per_block = 3;
	CHECK_ERR(kvt_cache_create(p.pool, &g, &cache), -EINVAL, "the model has 2");
	g.layers_per_block = 1;
	g.block_tokens = 100;
	CHECK_ERR(kvt_cache_create(p.pool, &g, &cache), -EINVAL, "not 100");
	g.block_tokens = 0;
	g.layers = 9;
	CHECK_ERR(kvt_cache_create(p.pool, &g, &cache), -ENOSPC, "take 9");
	/* Rows that are given in bytes cannot be brought into other types. */
	g = (struct kvt_geometry){ .size = sizeof(g), .layers = 1, .kv_heads = 64, .k_dim = 64,
				   .v_dim = 64, .k_bytes = 64, .v_bytes = 64, .block_tokens = 1,
				   .cold = 1, .cold_k_type = KVT_INT8, .cold_v_type = KVT_INT8 };
	CHECK_ERR(kvt_cache_create(p.pool, &g, &cache), -EINVAL, "types");
	g.size = 8;
	CHECK_ERR(kvt_cache_create(p.pool, &g, &cache), -EINVAL, "KVT_GEOMETRY_INIT");
	kvt_seq_destroy(seq);
	place_close(&p);
}

/* Budgets beyond what can be counted in blocks. */
static void large_budgets(const char *dir)
{
	struct kvt_config config = KVT_CONFIG_INIT;
	struct kvtier_stats stats = { .size = sizeof(stats) };
	struct kvt_pool *pool;

	config.pager = KVT_PAGER_USER;
	config.flags = KVT_NO_STATS_FILE;
	config.block_bytes = KVT_BLOCK_MIN;
	config.bytes = 16 * KVT_BLOCK_MIN;
	config.dram_bytes = 4 * KVT_BLOCK_MIN;
	config.nvme_path = dir;
	if (kvt_pool_create(&config, &pool))
		check_skip(kvt_error_detail());
	kvt_pool_destroy(pool);
	config.nvme_bytes = 1ull << 48;
	CHECK_ERR(kvt_pool_create(&config, &pool), -EINVAL, "NVMe");
	CHECK(!pool);
	config.nvme_bytes = UINT64_MAX;
	CHECK_ERR(kvt_pool_create(&config, &pool), -EINVAL, "NVMe");
	config.nvme_bytes = 0;
	config.cxl_node = 0;
	config.cxl_bytes = 1ull << 48; /* more than the pool is no use, but no mistake */
	CHECK_EQ(kvt_pool_create(&config, &pool), 0);
	if (!pool)
		return;
	CHECK_EQ(kvt_stats(pool, &stats), 0);
	CHECK_EQ(stats.tier[KVTIER_TIER_CXL].budget_bytes, config.bytes);
	kvt_pool_destroy(pool);
}

static void seals_full(const char *dir)
{
	struct kvtier_block_info info;
	struct kvt_seq_block blocks[8];
	struct place p;
	struct kvt_seq *seq;
	int nr, i;

	place_open(&p, dir, &(struct place_config){ .blocks = 16, .dram = 16, .block_tokens = 16 });
	seq = create(&p);
	story_append(seq, 1, 0, 40);
	nr = kvt_seq_view(seq, 0, blocks, 8);
	CHECK_EQ(nr, 3);
	for (i = 0; i < nr; i++) {
		CHECK_EQ(kvt_query(p.pool, blocks[i].offset / KVT_BLOCK_MIN, 1, &info), 0);
		CHECK_EQ(info.state, i < 2 ? KVTIER_BLOCK_SEALED : KVTIER_BLOCK_OPEN);
	}
	kvt_seq_destroy(seq);
	place_close(&p);
}

/* A sequence that goes takes its pins with it. */
static void pinned(const char *dir)
{
	struct kvt_seq *seq, *fork;
	struct place p;
	int i;

	place_open(&p, dir, &(struct place_config){ .blocks = 8, .dram = 8, .block_tokens = 16 });
	for (i = 0; i < 3; i++) {
		seq = create(&p);
		story_append(seq, 1, 0, 64);
		CHECK_EQ(kvt_seq_place(seq, KVTIER_OP_PIN, 0, KVT_ALL_LAYERS, 0, KVT_TO_END), 0);
		CHECK_EQ(kvt_seq_place(seq, KVTIER_OP_PIN, 0, 1, 0, 20), 0);
		CHECK_EQ(kvt_seq_fork(seq, &fork), 0);
		CHECK_EQ(kvt_seq_truncate(seq, 32), 0);
		kvt_seq_destroy(fork); /* what it had alone is pinned no more */
		story_append(seq, 2, 32, 32);
		CHECK_EQ(kvt_seq_place(seq, KVTIER_OP_UNPIN, 0, 1, 0, 20), 0);
		kvt_seq_destroy(seq);
	}
	place_close(&p);
}

/* Behind the pool's back: every byte of the kept file. */
static void damage(const char *path)
{
	static char junk[1 << 16];
	int fd = open(path, O_WRONLY);
	off_t at, end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);

	CHECK(fd >= 0 && end > 0);
	memset(junk, 0x5a, sizeof(junk));
	for (at = 0; at < end; at += (off_t)sizeof(junk))
		CHECK(pwrite(fd, junk, sizeof(junk), at) == (ssize_t)sizeof(junk));
	close(fd);
}

/* Attention fails, and says so; with a stream too. */
static void attend_lost(const struct place *p, struct kvt_seq *seq)
{
	struct kvt_attend_params params = KVT_ATTEND_PARAMS_INIT;
	struct kvt_attend_config config = KVT_ATTEND_CONFIG_INIT;
	struct kvt_stream_config stream_config = KVT_STREAM_CONFIG_INIT;
	float q[16] = { 1 }, out[16] = { 7 };
	struct kvt_seq_query query = { .seq = seq, .q_tokens = 1, .q_position = 39, .q = q,
				       .out = out };
	struct kvt_attend *attend;
	struct kvt_stream *stream;

	config.threads = 2;
	CHECK_EQ(kvt_attend_create(&config, &attend), 0);
	params.flags = KVT_CAUSAL;
	params.q_heads = params.kv_heads = 2;
	params.k_dim = params.v_dim = 8;
	CHECK_EQ(kvt_seq_attend(attend, &params, 0, &query, 1), -EIO);
	stream_config.attend = attend;
	stream_config.pool = p->pool;
	CHECK_EQ(kvt_stream_create(&stream_config, &stream), 0);
	CHECK_EQ(kvt_cache_set_stream(p->cache, stream), 0);
	CHECK_EQ(kvt_seq_attend(attend, &params, 0, &query, 1), -EIO);
	CHECK_EQ(kvt_cache_set_stream(p->cache, NULL), 0);
	CHECK(out[0] == 7);
	kvt_stream_destroy(stream);
	kvt_attend_destroy(attend);
}

static void lost_block(const char *dir)
{
	static const float rows[64];
	struct place p;
	struct kvt_seq *seq;
	float out[64];

	place_open(&p, dir, &(struct place_config){ .blocks = 16, .dram = 8, .nvme = 32,
						    .block_tokens = 16, .file = "lost.pool" });
	seq = create(&p);
	story_append(seq, 1, 0, 40);
	CHECK_EQ(kvt_seq_place(seq, KVTIER_OP_DEMOTE, 0, KVT_ALL_LAYERS, 0, KVT_TO_END), 0);
	damage(p.file);
	CHECK_ERR(kvt_seq_read_float(seq, 0, 3, 1, out, out), -EIO, "lost");
	CHECK_ERR(kvt_seq_append_float(seq, KVT_ALL_LAYERS, 1, rows, rows), -EIO, "lost");
	CHECK_EQ(kvt_seq_tokens(seq), 40);
	attend_lost(&p, seq);
	CHECK_EQ(kvt_seq_truncate(seq, 32), 0); /* the remedy that the message names */
	story_append(seq, 2, 32, 8);
	CHECK_EQ(story_check(seq, 2, 32, 8), 0);
	kvt_seq_destroy(seq);
	unlink(p.file);
	place_close(&p);
}

static const struct check_case cases[] = {
	{ "pool_full", "appending past the pool is refused and changes nothing", pool_full },
	{ "fork_full", "a writer's copy past the pool is refused and changes nothing", fork_full },
	{ "batch_all_or_none", "a batch is appended as a whole or not at all", batch_all_or_none },
	{ "continuous_batch", "sequences join and leave at every step", continuous_batch },
	{ "chunks", "results do not depend on how tokens are grouped", chunks },
	{ "fork_of_cold", "a fork of a sequence on NVMe reads nothing", fork_of_cold },
	{ "forks", "a thousand forks of 128k tokens share their memory", forks },
	{ "truncated", "a rollback is exact", truncated },
	{ "arguments", "wrong arguments are refused by name", arguments },
	{ "large_budgets", "budgets that cannot be counted in blocks are refused or cut",
	  large_budgets },
	{ "seals_full", "full blocks are sealed, the last is open", seals_full },
	{ "pinned", "pins go with the last sequence that has the extent", pinned },
	{ "lost_block", "a lost block is an error for those who need it", lost_block },
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
