// SPDX-License-Identifier: MIT
/* manifest: whose checksum is right and whose content is not, and saves that are cut short. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "../../libkvtier/manifest.h" /* the format */
#include "check.h"

#define BT 8
#define TOKENS 100

static const struct place_config config = { .blocks = 64, .dram = 8, .nvme = 256,
					    .block_tokens = BT, .cold = 1, .cold_type = KVT_INT8,
					    .file = "forged.pool" };

struct image {
	char *path;
	char *bytes;
	size_t nr;
	/* Where things are: the first sequence's lengths and pieces, the tree's last node. */
	size_t lengths, pieces, node;
};

/* CRC-32C, a bit at a time. */
static uint32_t crc32c(const char *bytes, size_t nr)
{
	uint32_t crc = UINT32_MAX;
	int bit;

	while (nr--) {
		crc ^= (uint8_t)*bytes++;
		for (bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return ~crc;
}

static uint32_t word_at(const struct image *m, size_t at)
{
	uint32_t word;

	memcpy(&word, m->bytes + at, sizeof(word));
	return word;
}

/* Write the manifest with another word at @at, and a checksum that says it is so. */
static void write_image(const struct image *m, size_t at, uint32_t word)
{
	uint32_t was = word_at(m, at), crc;
	FILE *f = fopen(m->path, "w");

	memcpy(m->bytes + at, &word, sizeof(word));
	crc = crc32c(m->bytes, m->nr - sizeof(crc));
	CHECK(f && fwrite(m->bytes, m->nr - sizeof(crc), 1, f) == 1 &&
	      fwrite(&crc, sizeof(crc), 1, f) == 1 && !fclose(f));
	memcpy(m->bytes + at, &was, sizeof(was));
}

static void read_image(struct image *m)
{
	struct kvt_manifest_header h;
	FILE *f = fopen(m->path, "r");

	m->bytes = calloc(1, 1 << 16);
	m->nr = f ? fread(m->bytes, 1, 1 << 16, f) : 0;
	CHECK(f && !fclose(f) && m->nr > sizeof(h));
	memcpy(&h, m->bytes, sizeof(h));
	m->lengths = sizeof(h) + h.extents * (4 + 20ul * h.groups) + 4 + 1; /* "a" */
	m->pieces = m->lengths + h.geometry.layers * 4ul + 4 + 4 + 8 + 4;
	m->node = m->nr - 4 - (16 + BT * 4); /* parent, extent, hits, tokens */
}

/* A sequence with old tokens in the cold types, and a tree of its own. */
static void save(const char *dir, struct image *m)
{
	struct kvt_prefix_config tree = KVT_PREFIX_CONFIG_INIT;
	struct kvt_named_seq named = { .name = "a" };
	uint32_t tokens[TOKENS] = { 0 };
	struct kvt_prefix *prefix;
	struct kvt_seq *seq;
	struct place p;

	if (asprintf(&m->path, "%s/forged.manifest", dir) < 0)
		err(1, "name");
	place_open(&p, dir, &config);
	CHECK_EQ(kvt_prefix_create(p.cache, &tree, &prefix), 0);
	CHECK_EQ(kvt_seq_create(p.cache, &seq), 0);
	story_append(seq, 2, 0, 3 * BT);
	CHECK_EQ(kvt_prefix_insert(prefix, NULL, tokens, 3 * BT, seq), 3);
	CHECK_EQ(kvt_seq_create(p.cache, &named.seq), 0);
	story_append(named.seq, 1, 0, TOKENS);
	CHECK(kvt_seq_compress(named.seq, KVT_TO_END) > 0);
	CHECK_EQ(kvt_manifest_save(p.cache, m->path, &named, 1, prefix), 0);
	kvt_seq_destroy(named.seq);
	kvt_seq_destroy(seq);
	kvt_prefix_destroy(prefix);
	place_close(&p);
	read_image(m);
}

static int restore(const struct place *p, const struct image *m, struct kvt_prefix *prefix,
		   struct kvt_seq **seq)
{
	struct kvt_manifest *manifest;
	int ret = kvt_manifest_open(m->path, &manifest);

	*seq = NULL;
	if (ret)
		return ret;
	ret = kvt_manifest_restore(manifest, p->cache, prefix, seq);
	kvt_manifest_close(manifest);
	return ret;
}

/* One after the other in one cache: what is refused has taken nothing. */
static void forged(const char *dir)
{
	struct kvt_prefix_config tree = KVT_PREFIX_CONFIG_INIT;
	struct kvt_prefix_stats stats;
	struct kvt_prefix *prefix;
	struct image m = { 0 };
	struct kvt_seq *seq;
	struct place p;
	uint32_t i;

	save(dir, &m);
	place_open(&p, dir, &config);
	CHECK_EQ(kvt_prefix_create(p.cache, &tree, &prefix), 0);
	CHECK_EQ(word_at(&m, m.lengths), TOKENS);
	CHECK_EQ(word_at(&m, m.node + 12), BT);
	const struct {
		const char *what;
		size_t at;
		uint32_t word;
	} forgeries[] = {
		{ "a layer that ends inside compressed rows", m.lengths, 3 },
		{ "a layer that ends past its extents", m.lengths, 1000 },
		{ "a piece of more rows than its extent", m.pieces + 8, 1u << 30 },
		{ "a piece that ends past all tokens", m.pieces + 12, UINT32_MAX },
		{ "pieces out of order", m.pieces + 4, 90 },
		{ "an extent that is not there", m.pieces, 1000 },
		{ "an exact piece of fewer rows", m.pieces + 32 + 8, 3 },
		{ "a node of fewer tokens", m.node + 12, 3 },
		{ "a node without parent", m.node, 9 },
		{ "a node of another layout's extent", m.node + 4, 1000 },
		{ "another number of blocks in an extent",
		  offsetof(struct kvt_manifest_header, groups), 1 },
	};
	for (i = 0; i < sizeof(forgeries) / sizeof(forgeries[0]); i++) {
		printf("# %s\n", forgeries[i].what);
		write_image(&m, forgeries[i].at, forgeries[i].word);
		CHECK_ERR(restore(&p, &m, prefix, &seq), -EILSEQ, "manifest");
		kvt_seq_destroy(seq);
		kvt_prefix_stats(prefix, &stats);
		CHECK_EQ(stats.extents, 0);
		kvt_prefix_evict(prefix, UINT32_MAX);
	}
	write_image(&m, 0, word_at(&m, 0));
	CHECK_EQ(restore(&p, &m, prefix, &seq), 0);
	if (!check_failed()) {
		CHECK_EQ(story_check(seq, 1, TOKENS - 8, 8), 0);
		kvt_seq_destroy(seq);
	}
	kvt_prefix_destroy(prefix);
	unlink(p.file);
	place_close(&p);
	unlink(m.path);
	free(m.path);
	free(m.bytes);
}

#define WORKERS 3
#define ROUNDS 120

struct worker {
	struct place *place;
	struct kvt_prefix *prefix;
	uint32_t number;
	uint32_t wrong;
	bool done;
};

/* Full extents that are not sealed yet get into the tree, and are sealed while it is saved. */
static void *decode(void *arg)
{
	struct worker *w = arg;
	uint32_t tokens[6 * BT], round, i;
	struct kvt_seq *seq, *fork;

	for (round = 0; round < ROUNDS; round++) {
		uint32_t story = 1000 * w->number + round;

		for (i = 0; i < 6 * BT; i++)
			tokens[i] = story;
		w->wrong += kvt_seq_create(w->place->cache, &seq) != 0;
		story_append(seq, story, 0, 3 * BT);
		w->wrong += kvt_prefix_insert(w->prefix, NULL, tokens, 3 * BT, seq) < 0;
		w->wrong += kvt_seq_fork(seq, &fork) != 0;
		for (i = 3 * BT; i < 6 * BT; i++)
			story_append(seq, story, i, 1);
		w->wrong += kvt_seq_truncate(fork, 3 * BT - 2) != 0;
		story_append(fork, story + 500, 3 * BT - 2, BT);
		w->wrong += story_check(seq, story, 0, 6 * BT) ||
			    story_check(fork, story, 0, 3 * BT - 2) ||
			    story_check(fork, story + 500, 3 * BT - 2, BT);
		kvt_seq_destroy(fork);
		kvt_seq_destroy(seq);
	}
	__atomic_store_n(&w->done, true, __ATOMIC_RELEASE);
	return NULL;
}

/* The tree is saved all the while. */
static void *save_on(void *arg)
{
	struct worker *w = arg;
	char *path;

	if (asprintf(&path, "%s.%u", w->place->file, w->number) < 0)
		err(1, "name");
	while (!__atomic_load_n(&w->done, __ATOMIC_ACQUIRE)) {
		int ret = kvt_manifest_save(w->place->cache, path, NULL, 0, w->prefix);

		w->wrong += ret && ret != -ENOSPC; /* slots are kept: they come to an end */
		if (ret && ret != -ENOSPC)
			printf("# save: %d %s\n", ret, kvt_error_detail());
	}
	unlink(path);
	free(path);
	return NULL;
}

static void saved_while_written(const char *dir)
{
	static const struct place_config busy = { .blocks = 300, .dram = 8, .nvme = 20000,
						  .block_tokens = BT, .file = "busy.pool" };
	struct kvt_prefix_config tree = { .size = sizeof(tree), .max_extents = 20 };
	struct worker workers[WORKERS + 1] = { 0 };
	pthread_t ids[WORKERS + 1];
	struct kvt_prefix *prefix;
	struct place p;
	uint32_t i;

	place_open(&p, dir, &busy);
	kvt_cache_set_seal_lag(p.cache, BT);
	CHECK_EQ(kvt_prefix_create(p.cache, &tree, &prefix), 0);
	for (i = 0; i <= WORKERS; i++) {
		workers[i] = (struct worker){ .place = &p, .prefix = prefix, .number = i };
		CHECK_EQ(pthread_create(&ids[i], NULL, i < WORKERS ? decode : save_on,
					&workers[i]), 0);
	}
	for (i = 0; i <= WORKERS; i++) {
		pthread_join(ids[i], NULL);
		CHECK_EQ(workers[i].wrong, 0);
		if (i == WORKERS - 1)
			__atomic_store_n(&workers[WORKERS].done, true, __ATOMIC_RELEASE);
	}
	kvt_prefix_destroy(prefix);
	unlink(p.file);
	place_close(&p);
}

static const struct check_case cases[] = {
	{ "saved_while_written", "a tree is saved while its extents are still being sealed",
	  saved_while_written },
	{ "forged", "content that makes no sense is refused and takes nothing", forged },
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
