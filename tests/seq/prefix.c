// SPDX-License-Identifier: MIT
/* prefix: the tree of prefixes, what it shares, whom it serves, and how it outlives a restart. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "model.h"

#define BT 8
#define TOKENS 64

static const struct place_config plain = { .blocks = 200, .dram = 8, .nvme = 400,
					   .block_tokens = BT };

/* A story's tokens are its number and their place. */
static void tokens_of(uint32_t *tokens, uint32_t story, uint32_t nr)
{
	uint32_t i;

	for (i = 0; i < nr; i++)
		tokens[i] = story * 1000 + i;
}

static struct kvt_prefix *tree(const struct place *p, uint32_t max)
{
	struct kvt_prefix_config config = KVT_PREFIX_CONFIG_INIT;
	struct kvt_prefix *prefix;

	config.max_extents = max;
	CHECK_EQ(kvt_prefix_create(p->cache, &config, &prefix), 0);
	return prefix;
}

/* Compute a story and offer it; returns what was new. */
static int offer(const struct place *p, struct kvt_prefix *prefix, const char *tenant,
		 uint32_t story, uint32_t nr)
{
	uint32_t tokens[TOKENS];
	struct kvt_seq *seq;
	int ret;

	tokens_of(tokens, story, nr);
	CHECK_EQ(kvt_seq_create(p->cache, &seq), 0);
	story_append(seq, story, 0, nr);
	ret = kvt_prefix_insert(prefix, tenant, tokens, nr, seq);
	kvt_seq_destroy(seq);
	return ret;
}

static int64_t found(struct kvt_prefix *prefix, const char *tenant, uint32_t story, uint32_t nr)
{
	uint32_t tokens[TOKENS];
	struct kvt_seq *seq;
	int64_t ret;

	tokens_of(tokens, story, nr);
	ret = kvt_prefix_match(prefix, tenant, tokens, nr, &seq);
	if (ret > 0)
		CHECK_EQ(story_check(seq, story, 0, (uint32_t)ret), 0);
	if (ret >= 0)
		kvt_seq_destroy(seq);
	return ret;
}

static void hits(const char *dir)
{
	struct kvt_prefix_stats stats;
	struct kvt_prefix *prefix;
	struct kvt_seq *seq;
	uint32_t tokens[TOKENS];
	struct place p;

	place_open(&p, dir, &plain);
	prefix = tree(&p, 0);
	CHECK_EQ(found(prefix, NULL, 1, 32), 0);
	CHECK_EQ(offer(&p, prefix, NULL, 1, 35), 4); /* full extents only */
	CHECK_EQ(offer(&p, prefix, NULL, 1, 32), 0); /* known */
	CHECK_EQ(found(prefix, NULL, 1, 32), 32);
	CHECK_EQ(found(prefix, NULL, 1, 60), 32);
	CHECK_EQ(found(prefix, NULL, 2, 32), 0);
	/* Inside an extent: what goes on differently gets its own copy. */
	tokens_of(tokens, 1, 32);
	tokens[20] = 7;
	CHECK_EQ(kvt_prefix_match(prefix, NULL, tokens, 32, &seq), 20);
	story_append(seq, 9, 20, 12);
	CHECK_EQ(story_check(seq, 1, 0, 20), 0);
	CHECK_EQ(story_check(seq, 9, 20, 12), 0);
	CHECK_EQ(kvt_prefix_insert(prefix, NULL, tokens, 32, seq), 2); /* from 16 on */
	CHECK_EQ(found(prefix, NULL, 1, 32), 32);
	kvt_seq_destroy(seq);
	CHECK_EQ(kvt_prefix_match(prefix, NULL, tokens, 32, &seq), 32);
	CHECK_EQ(story_check(seq, 9, 20, 12), 0);
	kvt_seq_destroy(seq);
	kvt_prefix_stats(prefix, &stats);
	CHECK_EQ(stats.extents, 6);
	CHECK_EQ(stats.hits, 3);
	CHECK_EQ(stats.partial_hits, 2);
	kvt_prefix_destroy(prefix);
	place_close(&p);
}

static void shared(const char *dir)
{
	struct kvt_cache_stats before, after;
	struct kvt_prefix *prefix;
	struct kvt_seq *seqs[50];
	uint32_t tokens[TOKENS], i;
	struct place p;

	place_open(&p, dir, &plain);
	prefix = tree(&p, 0);
	CHECK_EQ(offer(&p, prefix, "a", 1, 64), 8);
	tokens_of(tokens, 1, 64);
	kvt_cache_stats(p.cache, &before);
	for (i = 0; i < 50; i++)
		CHECK_EQ(kvt_prefix_match(prefix, "a", tokens, 64, &seqs[i]), 64);
	kvt_cache_stats(p.cache, &after);
	CHECK_EQ(after.free_blocks, before.free_blocks);
	CHECK_EQ(kvt_prefix_evict(prefix, UINT32_MAX), 8);
	CHECK_EQ(story_check(seqs[49], 1, 0, 64), 0); /* sequences live on */
	for (i = 0; i < 50; i++)
		kvt_seq_destroy(seqs[i]);
	kvt_prefix_destroy(prefix);
	place_close(&p);
}

static void tenants(const char *dir)
{
	char longest[KVT_TENANT_MAX + 2];
	struct kvt_prefix *prefix;
	struct place p;

	place_open(&p, dir, &plain);
	prefix = tree(&p, 0);
	CHECK_EQ(offer(&p, prefix, "alice", 1, 32), 4);
	CHECK_EQ(found(prefix, "bob", 1, 32), 0);
	CHECK_EQ(found(prefix, NULL, 1, 32), 0);
	CHECK_EQ(found(prefix, "alic", 1, 32), 0);
	CHECK_EQ(found(prefix, "alice", 1, 32), 32);
	CHECK_EQ(kvt_prefix_evict(prefix, 100), 4); /* all that she had: she is forgotten */
	CHECK_EQ(found(prefix, "alice", 1, 32), 0);
	CHECK_EQ(offer(&p, prefix, "alice", 1, 32), 4);
	memset(longest, 'x', sizeof(longest));
	longest[sizeof(longest) - 1] = 0;
	CHECK_ERR(found(prefix, longest, 1, 32), -EINVAL, "tenant");
	kvt_prefix_destroy(prefix);
	place_close(&p);
}

static uint32_t alike(const uint32_t *a, const uint32_t *b, uint32_t nr)
{
	uint32_t i = 0;

	while (i < nr && a[i] == b[i])
		i++;
	return i;
}

/* Prompts of two words, which branch everywhere: the longest of all is found. */
static void branches(const char *dir)
{
	enum { PROMPTS = 60, LENGTH = 4 * BT };
	static uint32_t prompts[PROMPTS][LENGTH];
	struct kvt_prefix *prefix;
	struct kvt_seq *seq;
	uint32_t i, j, best, n;
	uint64_t random = 1;
	struct place p;

	place_open(&p, dir, &(struct place_config){ .blocks = 600, .dram = 8, .nvme = 1200,
						    .block_tokens = BT });
	prefix = tree(&p, 0);
	for (i = 0; i < PROMPTS; i++) {
		/* What is asked for next shares the beginning of something. */
		memcpy(prompts[i], prompts[i / 2], sizeof(prompts[i]));
		for (j = (uint32_t)(model_random(&random) % LENGTH); j < LENGTH; j++)
			prompts[i][j] = (uint32_t)(model_random(&random) % 2);
		for (best = 0, j = 0; j < i; j++) {
			n = alike(prompts[i], prompts[j], LENGTH);
			best = n > best ? n : best;
		}
		CHECK_EQ(kvt_prefix_match(prefix, NULL, prompts[i], LENGTH, &seq), best);
		if (best < LENGTH)
			story_append(seq, i, best, LENGTH - best);
		CHECK_EQ(kvt_prefix_insert(prefix, NULL, prompts[i], LENGTH, seq),
			 LENGTH / BT - best / BT);
		kvt_seq_destroy(seq);
	}
	for (i = 0; i < PROMPTS; i++) {
		CHECK_EQ(kvt_prefix_match(prefix, NULL, prompts[i], LENGTH, &seq), LENGTH);
		kvt_seq_destroy(seq);
	}
	CHECK_EQ(kvt_prefix_evict(prefix, 30), 30);
	kvt_prefix_destroy(prefix);
	place_close(&p);
}

/* Names of whom the tree has nothing take no memory. */
static void passing_tenants(const char *dir)
{
	char name[KVT_TENANT_MAX + 1];
	uint32_t tokens[TOKENS], i;
	struct kvt_prefix *prefix;
	struct kvt_seq *seq;
	struct place p;
	size_t before;

	place_open(&p, dir, &plain);
	prefix = tree(&p, 0);
	tokens_of(tokens, 1, TOKENS);
	CHECK_EQ(kvt_seq_create(p.cache, &seq), 0);
	story_append(seq, 1, 0, BT - 1);
	before = mallinfo2().uordblks;
	for (i = 0; i < 5000; i++) {
		snprintf(name, sizeof(name), "tenant %u", i);
		CHECK_EQ(kvt_prefix_insert(prefix, name, tokens, BT - 1, seq), 0);
	}
	CHECK(mallinfo2().uordblks < before + (1 << 16));
	kvt_seq_destroy(seq);
	kvt_prefix_destroy(prefix);
	place_close(&p);
}

/* The least valuable goes: seldom hit, long ago. */
static void evicts(const char *dir)
{
	struct kvt_prefix_stats stats;
	struct kvt_prefix *prefix;
	struct place p;
	uint32_t i;

	place_open(&p, dir, &plain);
	prefix = tree(&p, 12);
	CHECK_EQ(offer(&p, prefix, NULL, 1, 32), 4);
	CHECK_EQ(offer(&p, prefix, NULL, 2, 32), 4);
	CHECK_EQ(offer(&p, prefix, NULL, 3, 32), 4);
	for (i = 0; i < 5; i++) {
		CHECK_EQ(found(prefix, NULL, 1, 32), 32);
		CHECK_EQ(found(prefix, NULL, 3, 32), 32);
	}
	CHECK_EQ(offer(&p, prefix, NULL, 4, 32), 4);
	kvt_prefix_stats(prefix, &stats);
	CHECK_EQ(stats.extents, 12);
	CHECK_EQ(stats.evicted, 4);
	CHECK_EQ(found(prefix, NULL, 1, 32), 32);
	CHECK_EQ(found(prefix, NULL, 2, 32), 0); /* a dropped prefix gives nothing, and no error */
	CHECK_EQ(found(prefix, NULL, 3, 32), 32);
	CHECK_EQ(found(prefix, NULL, 4, 32), 32);
	/* Hits of long ago wear off: a stream of new ones pushes the once popular out. */
	for (i = 10; i < 90; i++)
		offer(&p, prefix, NULL, i, 32);
	CHECK_EQ(found(prefix, NULL, 1, 32), 0);
	CHECK_EQ(found(prefix, NULL, 89, 32), 32);
	kvt_prefix_destroy(prefix);
	place_close(&p);
}

/* A sequence without its beginning is no prefix. */
static void dropped(const char *dir)
{
	struct kvt_policy policy = KVT_POLICY_INIT;
	struct kvt_prefix *prefix;
	struct kvt_seq *seq, *fork;
	uint32_t tokens[TOKENS];
	struct place p;

	place_open(&p, dir, &plain);
	prefix = tree(&p, 0);
	CHECK_EQ(kvt_seq_create(p.cache, &seq), 0);
	policy.kind = KVT_WINDOW;
	policy.window = 16;
	CHECK_EQ(kvt_seq_set_policy(seq, &policy), 0);
	story_append(seq, 1, 0, 64);
	tokens_of(tokens, 1, 64);
	CHECK_ERR(kvt_prefix_insert(prefix, NULL, tokens, 64, seq), -ENODATA, "dropped");
	CHECK_ERR(kvt_prefix_insert(prefix, NULL, tokens, 65, seq), -EINVAL, "has 64");
	CHECK_EQ(kvt_seq_fork(seq, &fork), 0);
	CHECK_ERR(kvt_seq_truncate(fork, 24), -ENODATA, "dropped");
	CHECK_EQ(kvt_seq_tokens(fork), 64);
	CHECK_EQ(story_check(fork, 1, 48, 16), 0);
	kvt_seq_destroy(fork);
	kvt_seq_destroy(seq);
	kvt_prefix_destroy(prefix);
	place_close(&p);
}

#define WORKERS 4
#define ROUNDS 60

struct worker {
	struct place *place;
	struct kvt_prefix *prefix;
	uint32_t number;
	uint32_t wrong;
};

/* Requests of five stories, each with an end of its own: match, compute, offer, fork, dedup. */
static void *work(void *arg)
{
	struct worker *w = arg;
	uint32_t round, tokens[TOKENS], i;

	for (round = 0; round < ROUNDS; round++) {
		uint32_t story = (round * 7 + w->number) % 5, own = 100 + w->number;
		struct kvt_seq *seq, *fork;
		int64_t found;

		tokens_of(tokens, story, 40);
		for (i = 40; i < TOKENS; i++)
			tokens[i] = own * 1000 + i;
		found = kvt_prefix_match(w->prefix, "t", tokens, TOKENS, &seq);
		if (found < 0) {
			w->wrong++;
			continue;
		}
		if (found < 40)
			story_append(seq, story, (uint32_t)found, 40 - (uint32_t)found);
		if (found < TOKENS)
			story_append(seq, own, found > 40 ? (uint32_t)found : 40,
				     TOKENS - (found > 40 ? (uint32_t)found : 40));
		w->wrong += kvt_prefix_insert(w->prefix, "t", tokens, TOKENS, seq) < 0;
		w->wrong += kvt_seq_dedup(seq) < 0;
		w->wrong += kvt_seq_fork(seq, &fork) != 0 || kvt_seq_truncate(fork, 30) != 0;
		story_append(fork, own, 30, 5);
		w->wrong += story_check(seq, story, 0, 40) || story_check(seq, own, 40, 24) ||
			    story_check(fork, story, 0, 30) || story_check(fork, own, 30, 5);
		if (round % 16 == 15)
			kvt_prefix_evict(w->prefix, 3);
		kvt_seq_destroy(fork);
		kvt_seq_destroy(seq);
	}
	return NULL;
}

static void threads(const char *dir)
{
	struct worker workers[WORKERS];
	pthread_t ids[WORKERS];
	struct place p;
	uint32_t i;

	place_open(&p, dir, &plain);
	for (i = 0; i < WORKERS; i++) {
		workers[i] = (struct worker){ .place = &p, .number = i };
		workers[i].prefix = i ? workers[0].prefix : tree(&p, 40);
	}
	for (i = 0; i < WORKERS; i++)
		CHECK_EQ(pthread_create(&ids[i], NULL, work, &workers[i]), 0);
	for (i = 0; i < WORKERS; i++) {
		pthread_join(ids[i], NULL);
		CHECK_EQ(workers[i].wrong, 0);
	}
	kvt_prefix_destroy(workers[0].prefix);
	place_close(&p);
}

static void save(const char *dir, const char *manifest)
{
	struct place_config config = plain;
	struct kvt_named_seq named = { .name = "first", .seq = NULL };
	struct kvt_prefix *prefix;
	struct place p;

	config.file = "prefix.pool";
	place_open(&p, dir, &config);
	prefix = tree(&p, 0);
	CHECK_EQ(offer(&p, prefix, "alice", 1, 40), 5);
	CHECK_EQ(offer(&p, prefix, "bob", 1, 16), 2);
	CHECK_EQ(kvt_seq_create(p.cache, &named.seq), 0);
	story_append(named.seq, 5, 0, 21);
	CHECK_EQ(kvt_manifest_save(p.cache, manifest, &named, 1, prefix), 0);
	story_append(named.seq, 6, 21, 9); /* after it was saved */
	CHECK_EQ(found(prefix, "alice", 1, 40), 40);
	kvt_seq_destroy(named.seq);
	kvt_prefix_destroy(prefix);
	place_close(&p);
}

static void names(const char *dir, char **manifest, char **file)
{
	if (asprintf(manifest, "%s/prefix.manifest", dir) < 0 ||
	    asprintf(file, "%s/prefix.pool", dir) < 0)
		err(1, "names");
}

static void restarted(const char *dir)
{
	struct place_config config = plain;
	struct kvt_prefix *prefix;
	struct kvt_manifest *m;
	struct kvt_seq *seq;
	char *manifest, *file;
	struct place p;

	names(dir, &manifest, &file);
	save(dir, manifest);
	config.file = "prefix.pool";
	place_open(&p, dir, &config);
	prefix = tree(&p, 0);
	CHECK_EQ(kvt_manifest_open(manifest, &m), 0);
	CHECK_EQ(kvt_manifest_count(m), 1);
	CHECK(!strcmp(kvt_manifest_name(m, 0), "first") && !kvt_manifest_name(m, 1));
	CHECK_EQ(kvt_manifest_restore(m, p.cache, prefix, &seq), 0);
	kvt_manifest_close(m);
	CHECK_EQ(found(prefix, "alice", 1, 40), 40);
	CHECK_EQ(found(prefix, "bob", 1, 40), 16);
	CHECK_EQ(found(prefix, NULL, 1, 40), 0);
	CHECK_EQ(kvt_seq_tokens(seq), 21);
	CHECK_EQ(story_check(seq, 5, 0, 21), 0);
	story_append(seq, 5, 21, 9);
	CHECK_EQ(story_check(seq, 5, 0, 30), 0);
	kvt_seq_destroy(seq);
	kvt_prefix_destroy(prefix);
	place_close(&p);
	unlink(manifest);
	unlink(file);
	free(manifest);
	free(file);
}

static void refused(const char *dir, const struct place_config *config, const char *manifest,
		    const char *word)
{
	struct kvt_manifest *m;
	struct kvt_seq *seq;
	struct place p;

	place_open(&p, dir, config);
	CHECK_EQ(kvt_manifest_open(manifest, &m), 0);
	CHECK_ERR(kvt_manifest_restore(m, p.cache, NULL, &seq), word[0] == '!' ? -ENOSPC : -EINVAL,
		  word + (word[0] == '!'));
	kvt_manifest_close(m);
	place_close(&p); /* nothing was left */
}

static void manifest_refusals(const char *dir)
{
	struct place_config config = plain;
	struct kvt_manifest *m;
	char *manifest, *file, byte;
	struct stat st;
	FILE *f;
	long at;

	names(dir, &manifest, &file);
	save(dir, manifest);
	config.file = "prefix.pool";
	config.model = 'y';
	refused(dir, &config, manifest, "another model");
	config.model = 0;
	config.layers = 3;
	refused(dir, &config, manifest, "layers");
	config.layers = 0;
	config.blocks = config.dram = 8;
	refused(dir, &config, manifest, "!full");
	CHECK_EQ(stat(manifest, &st), 0);
	f = fopen(manifest, "r+");
	CHECK(f != NULL);
	for (at = 0; f && at < st.st_size; at++) { /* every byte */
		fseek(f, at, SEEK_SET);
		byte = (char)fgetc(f);
		fseek(f, at, SEEK_SET);
		fputc(byte ^ 1, f);
		fflush(f);
		CHECK_EQ(kvt_manifest_open(manifest, &m), -EILSEQ);
		fseek(f, at, SEEK_SET);
		fputc(byte, f);
		fflush(f);
	}
	if (f)
		fclose(f);
	for (at = st.st_size - 1; at >= 0; at--) {
		CHECK_EQ(truncate(manifest, at), 0);
		CHECK_EQ(kvt_manifest_open(manifest, &m), -EILSEQ);
	}
	unlink(manifest);
	CHECK_EQ(kvt_manifest_open(manifest, &m), -ENOENT);
	CHECK_EQ(kvt_manifest_open(dir, &m), -EILSEQ);
	CHECK_EQ(mkfifo(manifest, 0600), 0); /* nobody will ever write to it */
	CHECK_EQ(kvt_manifest_open(manifest, &m), -EILSEQ);
	unlink(manifest);
	unlink(file);
	free(manifest);
	free(file);
}

static const struct check_case cases[] = {
	{ "hits", "hit, partial hit and insertion, token by token", hits },
	{ "branches", "of many prompts that begin alike the longest is found", branches },
	{ "shared", "what is found is shared, and lives on when the tree lets go", shared },
	{ "tenants", "nobody is served another tenant's keys and values", tenants },
	{ "passing_tenants", "tenants of whom nothing is kept are forgotten", passing_tenants },
	{ "evicts", "what is worth least goes first", evicts },
	{ "dropped", "a sequence without its beginning is no prefix", dropped },
	{ "threads", "several threads, one tree, one cache", threads },
	{ "restarted", "tree and sequences survive a restart", restarted },
	{ "manifest_refusals", "a wrong, cut or damaged manifest is refused", manifest_refusals },
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
