// SPDX-License-Identifier: MIT
/*
 * property: random programs of sequence operations against a plain model.
 *
 *	property [--ops N] [--seed S] [--dir DIR] [--pager user|kernel]
 *
 * Every operation either does what the model does or fails and changes nothing.
 * What is read back is byte for byte what the model says.  Each geometry is a KTAP
 * case; a failure names the seed and the number of the operation.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model.h"

#define SEQS 20
#define LENGTH_MAX 260

struct options {
	uint64_t ops;
	uint64_t seed;
	const char *dir;
	enum kvt_pager pager;
};

struct shape {
	const char *name;
	uint32_t layers, layers_per_block, block_tokens, k_bytes, v_bytes, seal_lag;
	uint32_t blocks, dram, nvme;
};

static const struct shape shapes[] = {
	{ "three layers, a block each", 3, 1, 16, 40, 24, 0, 200, 10, 4000 },
	{ "five layers, two to a block", 5, 2, 7, 64, 64, 5, 160, 8, 4000 },
	{ "values inside the keys, least memory", 2, 1, 11, 72, 0, 3, 120, 4, 4000 },
	{ "all in memory, no NVMe", 2, 2, 32, 16, 16, 0, 64, 64, 0 },
};

struct entry {
	struct kvt_seq *seq; /* NULL: unused */
	struct model *model;
	bool bounded; /* a policy may have dropped tokens */
	uint32_t keep; /* ... but not of the last so many */
	uint32_t budget;
};

struct world {
	const struct options *options;
	const struct shape *shape;
	char *file; /* the pool's store, which outlives it */
	char *manifest;
	struct kvt_pool *pool;
	struct kvt_cache *cache;
	const struct kvt_geometry *g;
	struct entry entries[SEQS];
	uint64_t random;
	uint64_t stamps;
	uint64_t op; /* at work */
	uint64_t refused; /* operations that had no room */
	uint64_t mismatches;
	uint64_t twins; /* extents given up for identical ones */
	uint64_t kept; /* slots that this pool's manifests may have reserved */
};

static uint32_t below(struct world *w, uint32_t n)
{
	return n ? (uint32_t)(model_random(&w->random) % n) : 0;
}

static void mismatch(struct world *w, const char *what, long long expected, long long got)
{
	w->mismatches++;
	printf("# seed %llu, operation %llu: %s: expected %lld, got %lld (%s)\n",
	       (unsigned long long)w->options->seed, (unsigned long long)w->op, what, expected,
	       got, kvt_error_detail());
}

static void expect(struct world *w, const char *what, long long expected, long long got)
{
	if (expected != got)
		mismatch(w, what, expected, got);
}

/* True when the call failed for want of room, which a random program may meet. */
static bool refused(struct world *w, int ret)
{
	if (ret != -ENOSPC)
		return false;
	w->refused++;
	return true;
}

static void make_pool(struct world *w)
{
	const struct shape *s = w->shape;
	struct kvt_config config = KVT_CONFIG_INIT;
	struct kvt_geometry g = KVT_GEOMETRY_INIT;
	int ret;

	config.pager = w->options->pager;
	config.flags = KVT_NO_STATS_FILE | (s->nvme ? KVT_KEEP_FILE : 0);
	config.block_bytes = KVT_BLOCK_MIN;
	config.bytes = s->blocks * KVT_BLOCK_MIN;
	config.dram_bytes = s->dram * KVT_BLOCK_MIN;
	config.nvme_bytes = s->nvme * KVT_BLOCK_MIN;
	config.nvme_path = s->nvme && config.pager == KVT_PAGER_USER ? w->file : NULL;
	ret = kvt_pool_create(&config, &w->pool);
	if (ret)
		errx(1, "pool: %s", kvt_error_detail());
	g.layers = s->layers;
	g.layers_per_block = s->layers_per_block;
	g.block_tokens = s->block_tokens;
	g.k_bytes = s->k_bytes;
	g.v_bytes = s->v_bytes;
	ret = kvt_cache_create(w->pool, &g, &w->cache);
	if (ret)
		errx(1, "cache: %s", kvt_error_detail());
	kvt_cache_set_seal_lag(w->cache, s->seal_lag);
	w->g = kvt_cache_geometry(w->cache);
}

static struct entry *unused(struct world *w)
{
	uint32_t i;

	for (i = 0; i < SEQS; i++)
		if (!w->entries[i].seq)
			return &w->entries[i];
	return NULL;
}

static struct entry *any(struct world *w)
{
	struct entry *e = &w->entries[below(w, SEQS)];

	return e->seq ? e : NULL;
}

static struct model *new_model(const struct model *from)
{
	struct model *m = malloc(sizeof(*m));

	if (!m)
		err(1, "model");
	if (from)
		*m = *from;
	else
		memset(m, 0, sizeof(*m));
	return m;
}

static void op_create(struct world *w)
{
	struct entry *e = unused(w);

	if (!e)
		return;
	expect(w, "create", 0, kvt_seq_create(w->cache, &e->seq));
	e->model = new_model(NULL);
	e->bounded = false;
}

static void check_lengths(struct world *w, const struct entry *e)
{
	uint32_t layer;

	for (layer = 0; layer < w->g->layers; layer++)
		expect(w, "length", e->model->length[layer], kvt_seq_layer_tokens(e->seq, layer));
	expect(w, "tokens", model_tokens(e->model, w->g->layers), kvt_seq_tokens(e->seq));
}

static uint32_t room(const struct world *w, const struct entry *e, uint32_t layer)
{
	uint32_t i, most = 0;

	for (i = 0; i < w->g->layers; i++)
		if ((layer == KVT_ALL_LAYERS || layer == i) && e->model->length[i] > most)
			most = e->model->length[i];
	return LENGTH_MAX - most;
}

/* Fresh stamps: what the model will hold once the append succeeds. */
static uint64_t *stamps_for(struct world *w, uint32_t nr)
{
	uint64_t *stamps = malloc(nr * sizeof(*stamps) + 1);
	uint32_t i;

	if (!stamps)
		err(1, "stamps");
	for (i = 0; i < nr; i++)
		stamps[i] = ++w->stamps;
	return stamps;
}

static void model_append(struct model *m, uint32_t first, uint32_t end, uint32_t tokens,
			 const uint64_t *stamps)
{
	for (; first < end; first++, stamps += tokens) {
		memcpy(&m->stamp[first][m->length[first]], stamps, tokens * sizeof(*stamps));
		m->length[first] += tokens;
	}
}

static void op_append(struct world *w)
{
	struct entry *e = any(w);
	bool all = below(w, 3);
	uint32_t layer = all ? KVT_ALL_LAYERS : below(w, w->g->layers);
	uint32_t layers = all ? w->g->layers : 1, tokens = 1 + below(w, below(w, 4) ? 3 : 60);
	uint8_t *k, *v;
	uint64_t *stamps;
	int ret;

	if (!e || tokens > room(w, e, layer))
		return;
	stamps = stamps_for(w, tokens * layers);
	model_rows(w->g, stamps, tokens * layers, &k, &v);
	ret = kvt_seq_append(e->seq, layer, tokens, k, v);
	if (!ret)
		model_append(e->model, all ? 0 : layer, all ? layers : layer + 1, tokens, stamps);
	else if (!refused(w, ret))
		mismatch(w, "append", 0, ret);
	check_lengths(w, e);
	free(stamps);
	free(k);
	free(v);
}

/* A ragged batch: some sequences, each by its own number of tokens, or none of them. */
static void op_batch(struct world *w)
{
	struct kvt_batch_item items[4];
	struct entry *of[4];
	uint8_t *k[4], *v[4];
	uint64_t *stamps[4];
	uint32_t i, nr = 0;
	int ret;

	for (i = below(w, SEQS); i < SEQS && nr < 4; i++) {
		struct entry *e = &w->entries[i];
		uint32_t tokens = below(w, 4);

		if (!e->seq || tokens > room(w, e, KVT_ALL_LAYERS))
			continue;
		of[nr] = e;
		stamps[nr] = stamps_for(w, tokens * w->g->layers);
		model_rows(w->g, stamps[nr], tokens * w->g->layers, &k[nr], &v[nr]);
		items[nr] = (struct kvt_batch_item){ .seq = e->seq, .tokens = tokens, .k = k[nr],
						     .v = v[nr] };
		nr++;
	}
	ret = kvt_batch_append(items, nr, KVT_ALL_LAYERS);
	if (ret && !refused(w, ret))
		mismatch(w, "batch", 0, ret);
	for (i = 0; i < nr; i++) {
		if (!ret)
			model_append(of[i]->model, 0, w->g->layers, items[i].tokens, stamps[i]);
		check_lengths(w, of[i]);
		free(stamps[i]);
		free(k[i]);
		free(v[i]);
	}
}

static void op_fork(struct world *w)
{
	struct entry *e = any(w), *f = unused(w);

	if (!e || !f)
		return;
	*f = *e;
	expect(w, "fork", 0, kvt_seq_fork(e->seq, &f->seq));
	f->model = new_model(e->model);
	check_lengths(w, f);
}

static void op_truncate(struct world *w)
{
	struct entry *e = any(w);
	uint32_t tokens, layer;
	int ret;

	if (!e)
		return;
	tokens = model_tokens(e->model, w->g->layers);
	expect(w, "truncate past the end", -EINVAL, kvt_seq_truncate(e->seq, tokens + 1ull));
	tokens -= below(w, tokens + 1 < 12 || !below(w, 6) ? tokens + 1 : 12);
	ret = kvt_seq_truncate(e->seq, tokens);
	if (!ret)
		for (layer = 0; layer < w->g->layers; layer++)
			if (e->model->length[layer] > tokens)
				e->model->length[layer] = tokens;
	if (ret && !(ret == -ENODATA && e->bounded))
		mismatch(w, "truncate", 0, ret);
	check_lengths(w, e);
}

static void drop(struct world *w, struct entry *e)
{
	(void)w;
	kvt_seq_destroy(e->seq);
	free(e->model);
	e->seq = NULL;
	e->model = NULL;
}

static void op_drop(struct world *w)
{
	struct entry *e = any(w);

	if (e)
		drop(w, e);
}

static void op_place(struct world *w)
{
	static const uint32_t ops[] = { KVTIER_OP_DEMOTE, KVTIER_OP_DEMOTE, KVTIER_OP_PROMOTE,
					KVTIER_OP_WRITEBACK, KVTIER_OP_COLD };
	uint32_t op = ops[below(w, 5)], layer = below(w, w->g->layers + 1), first;
	uint32_t flags = op != KVTIER_OP_COLD && below(w, 2) ? KVTIER_OP_NOWAIT : 0;
	struct entry *e = any(w);
	int ret;

	if (!e)
		return;
	if (layer == w->g->layers)
		layer = KVT_ALL_LAYERS;
	first = below(w, model_tokens(e->model, w->g->layers) + 1);
	ret = kvt_seq_place(e->seq, op, flags, layer, first,
			    below(w, 2) ? KVT_TO_END : below(w, 50));
	if (!w->shape->nvme && (op == KVTIER_OP_DEMOTE || op == KVTIER_OP_WRITEBACK)) {
		if (ret && ret != -ENODEV)
			mismatch(w, "move without NVMe", -ENODEV, ret);
	} else if (ret && !refused(w, ret)) {
		mismatch(w, "move", 0, ret);
	}
}

/* Of a bounded sequence: nothing in the window is missing, the rest is exact or gone. */
static void check_rows(struct world *w, const struct entry *e, uint32_t layer, uint32_t first,
		       uint32_t nr)
{
	uint32_t tokens = model_tokens(e->model, w->g->layers);
	int ret = model_check(e->model, e->seq, layer, first, nr);

	if (ret == -ENODATA && e->bounded && first + e->keep < tokens)
		return;
	if (ret)
		mismatch(w, "rows", 0, ret);
}

static void op_read(struct world *w)
{
	struct entry *e = any(w);
	uint32_t layer = below(w, w->g->layers), first, nr;

	if (!e || !e->model->length[layer])
		return;
	first = below(w, e->model->length[layer]);
	nr = 1 + below(w, e->model->length[layer] - first < 24 ?
				  e->model->length[layer] - first : 24);
	check_rows(w, e, layer, first, nr);
	expect(w, "read past the end", -EINVAL,
	       kvt_seq_read(e->seq, layer, e->model->length[layer], 1, NULL, NULL));
}

static void op_policy(struct world *w)
{
	struct kvt_policy p = KVT_POLICY_INIT;
	struct entry *e = any(w);
	uint32_t bt = w->g->block_tokens;

	if (!e || e->bounded)
		return;
	p.kind = 1 + below(w, KVT_HEAVY);
	p.sinks = below(w, 2 * bt);
	p.window = 1 + below(w, 2 * bt);
	p.budget = p.sinks + p.window - 1;
	if (p.kind != KVT_WINDOW || p.budget)
		expect(w, "budget below sinks + window", -EINVAL, kvt_seq_set_policy(e->seq, &p));
	p.budget += 4 * bt;
	expect(w, "policy", 0, kvt_seq_set_policy(e->seq, &p));
	e->bounded = true;
	e->keep = p.window;
	e->budget = p.budget;
}

static void op_note(struct world *w)
{
	struct entry *e = any(w);
	struct kvt_seq_block blocks[64];
	float mass[64];
	int i, nr;

	if (!e)
		return;
	nr = kvt_seq_view(e->seq, 0, blocks, 64);
	for (i = 0; i < nr && i < 64; i++)
		mass[i] = (float)below(w, 100) / 50 / (float)nr;
	kvt_seq_note(e->seq, blocks, mass, (uint32_t)(nr < 64 ? nr : 64));
}

/* Through a stream, into the same cache: what a policy dropped stays dropped. */
static void op_transfer(struct world *w)
{
	struct entry *e = any(w), *f = unused(w);
	uint32_t layer, tokens;
	int fd, ret;

	if (!e || !f)
		return;
	fd = memfd_create("stream", MFD_CLOEXEC);
	if (fd < 0)
		err(1, "memfd");
	ret = kvt_seq_export(e->seq, fd, -1);
	if (ret == -ELOOP) { /* this one went round often enough */
		close(fd);
		return;
	}
	if (ret)
		mismatch(w, "export", 0, ret);
	lseek(fd, 0, SEEK_SET);
	ret = kvt_seq_import(w->cache, fd, KVT_IMPORT_AGAIN, -1, &f->seq);
	close(fd);
	if (ret) {
		if (!refused(w, ret))
			mismatch(w, "import", 0, ret);
		return;
	}
	f->model = new_model(e->model);
	tokens = model_tokens(e->model, w->g->layers);
	for (layer = 0; layer < w->g->layers; layer++)
		f->model->length[layer] = tokens;
	f->bounded = e->bounded;
	f->keep = 0; /* without a policy it may be cut back to any token that is there */
	f->budget = LENGTH_MAX;
	check_lengths(w, f);
}

/* A second sequence computed to the same rows: its full extents become those of the first. */
static void op_twin(struct world *w)
{
	struct entry *e = any(w), *f = unused(w);
	uint32_t layer, tokens;
	uint8_t *k, *v;
	int ret = 0;

	if (!e || !f || e->bounded)
		return;
	op_create(w);
	tokens = model_tokens(e->model, w->g->layers);
	for (layer = 0; !ret && layer < w->g->layers; layer++) {
		model_rows(w->g, e->model->stamp[layer], tokens, &k, &v);
		ret = kvt_seq_append(f->seq, layer, tokens, k, v);
		if (!ret)
			model_append(f->model, layer, layer + 1, tokens, e->model->stamp[layer]);
		else if (!refused(w, ret))
			mismatch(w, "twin", 0, ret);
		free(k);
		free(v);
	}
	ret = kvt_seq_dedup(e->seq);
	if (ret >= 0)
		ret = kvt_seq_dedup(f->seq);
	if (ret < 0 && !refused(w, ret))
		mismatch(w, "dedup", 0, ret);
	w->twins += ret > 0 ? (uint64_t)ret : 0;
	check_lengths(w, f);
}

static void name_of(char *name, uint32_t i)
{
	snprintf(name, 16, "sequence %u", i);
}

static bool save(struct world *w)
{
	struct kvt_named_seq named[SEQS];
	char names[SEQS][16];
	struct kvt_cache_stats stats;
	uint32_t i, nr = 0;
	int ret;

	for (i = 0; i < SEQS; i++) {
		if (!w->entries[i].seq)
			continue;
		name_of(names[i], i);
		named[nr++] = (struct kvt_named_seq){ names[i], w->entries[i].seq };
	}
	kvt_cache_stats(w->cache, &stats);
	w->kept += stats.blocks - stats.free_blocks;
	ret = kvt_manifest_save(w->cache, w->manifest, named, nr, NULL);
	if (ret && !refused(w, ret))
		mismatch(w, "save", 0, ret);
	return !ret;
}

static void op_save(struct world *w)
{
	/* Reserved slots last as long as the pool: leave some for the blocks. */
	if (w->shape->nvme && !below(w, 8) && w->kept + 2 * w->shape->blocks < w->shape->nvme)
		save(w);
}

static void restore(struct world *w)
{
	struct kvt_manifest *m;
	struct kvt_seq *seqs[SEQS];
	uint32_t i, nr;
	int ret = kvt_manifest_open(w->manifest, &m);

	if (ret)
		errx(1, "manifest: %s", kvt_error_detail());
	nr = kvt_manifest_count(m);
	ret = kvt_manifest_restore(m, w->cache, NULL, seqs);
	if (ret)
		errx(1, "restore: %s", kvt_error_detail());
	for (i = 0; i < nr; i++) {
		uint32_t entry = (uint32_t)atoi(kvt_manifest_name(m, i) + strlen("sequence "));

		w->entries[entry].seq = seqs[i];
	}
	kvt_manifest_close(m);
}

/* A new life over the same file. */
static void op_restore(struct world *w)
{
	uint32_t i;

	if (!w->shape->nvme || below(w, 8) || !save(w))
		return;
	for (i = 0; i < SEQS; i++) {
		kvt_seq_destroy(w->entries[i].seq);
		w->entries[i].seq = NULL;
	}
	kvt_cache_destroy(w->cache);
	kvt_pool_destroy(w->pool);
	w->kept = 0;
	make_pool(w);
	restore(w);
	for (i = 0; i < SEQS; i++) {
		expect(w, "restored", w->entries[i].model != NULL, w->entries[i].seq != NULL);
		if (w->entries[i].seq)
			check_lengths(w, &w->entries[i]);
	}
}

/* What cannot be told from the rows: nothing leaks, budgets hold. */
static void check_cache(struct world *w)
{
	struct kvt_cache_stats stats;
	uint64_t seqs = 0;
	uint32_t i;

	for (i = 0; i < SEQS; i++) {
		const struct entry *e = &w->entries[i];

		seqs += e->seq != NULL;
		if (e->seq && e->bounded &&
		    kvt_seq_kept_tokens(e->seq) > e->budget + LENGTH_MAX / 4)
			mismatch(w, "kept tokens", e->budget,
				 (long long)kvt_seq_kept_tokens(e->seq));
	}
	kvt_cache_stats(w->cache, &stats);
	expect(w, "sequences", (long long)seqs, (long long)stats.sequences);
	expect(w, "blocks in use", (long long)(stats.blocks - stats.free_blocks),
	       (long long)(stats.extents * stats.extent_blocks));
}

static void check_all(struct world *w)
{
	uint32_t i, layer, at;

	for (i = 0; i < SEQS; i++) {
		const struct entry *e = &w->entries[i];

		for (layer = 0; e->seq && layer < w->g->layers; layer++)
			for (at = 0; at < e->model->length[layer]; at++)
				check_rows(w, e, layer, at, 1);
	}
	check_cache(w);
}

static const struct {
	uint32_t weight;
	void (*op)(struct world *w);
} operations[] = {
	{ 4, op_create }, { 34, op_append }, { 5, op_batch }, { 7, op_fork }, { 8, op_truncate },
	{ 6, op_drop }, { 12, op_place }, { 20, op_read }, { 1, op_policy }, { 2, op_note },
	{ 1, op_save }, { 2, op_restore }, { 2, op_transfer }, { 1, op_twin },
};

static void step(struct world *w)
{
	uint32_t i, pick = below(w, 105);

	for (i = 0; pick >= operations[i].weight; i++)
		pick -= operations[i].weight;
	operations[i].op(w);
	if (w->op % 256 == 0)
		check_cache(w);
	if (w->op % 16384 == 0)
		check_all(w);
}

static void end(struct world *w)
{
	struct kvt_cache_stats stats;
	uint32_t i;

	check_all(w);
	for (i = 0; i < SEQS; i++)
		if (w->entries[i].seq)
			drop(w, &w->entries[i]);
	kvt_cache_stats(w->cache, &stats);
	expect(w, "blocks left", (long long)stats.blocks, (long long)stats.free_blocks);
	kvt_cache_destroy(w->cache);
	kvt_pool_destroy(w->pool);
	unlink(w->file);
	unlink(w->manifest);
	free(w->file);
	free(w->manifest);
}

static uint64_t run(const struct options *o, const struct shape *s, uint64_t ops)
{
	struct world w = { .options = o, .shape = s, .random = o->seed };
	uint64_t mismatches;

	if (asprintf(&w.file, "%s/property-%d.pool", o->dir, getpid()) < 0 ||
	    asprintf(&w.manifest, "%s/property-%d.manifest", o->dir, getpid()) < 0)
		err(1, "names");
	make_pool(&w);
	for (w.op = 1; w.op <= ops && w.mismatches < 10; w.op++)
		step(&w);
	printf("# %s: %llu operations, %llu without room, %llu twins, %llu mismatches\n", s->name,
	       (unsigned long long)w.op - 1, (unsigned long long)w.refused,
	       (unsigned long long)w.twins, (unsigned long long)w.mismatches);
	end(&w);
	mismatches = w.mismatches;
	return mismatches;
}

static void parse(int argc, char **argv, struct options *o)
{
	static const struct option names[] = {
		{ "ops", required_argument, NULL, 'o' },
		{ "seed", required_argument, NULL, 's' },
		{ "dir", required_argument, NULL, 'd' },
		{ "pager", required_argument, NULL, 'p' },
		{ 0 },
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (opt) {
		case 'o':
			o->ops = strtoull(optarg, NULL, 0);
			break;
		case 's':
			o->seed = strtoull(optarg, NULL, 0);
			break;
		case 'd':
			o->dir = optarg;
			break;
		case 'p':
			o->pager = strcmp(optarg, "kernel") ? KVT_PAGER_USER : KVT_PAGER_KERNEL;
			break;
		default:
			errx(2, "usage: property [--ops N] [--seed S] [--dir DIR] [--pager PAGER]");
		}
	}
}

int main(int argc, char **argv)
{
	const uint32_t nr = sizeof(shapes) / sizeof(shapes[0]);
	struct options o = { .ops = 40000, .seed = 1, .dir = ".", .pager = KVT_PAGER_USER };
	uint64_t mismatches = 0, found, done;
	uint32_t i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	parse(argc, argv, &o);
	done = o.ops / nr * nr;
	printf("KTAP version 1\n1..%u\n", nr);
	for (i = 0; i < nr; i++) {
		found = run(&o, &shapes[i], o.ops / nr);
		mismatches += found;
		printf("%sok %u %s\n", found ? "not " : "", i + 1, shapes[i].name);
	}
	printf("# seq.ops=%llu seq.mismatches=%llu\n", (unsigned long long)done,
	       (unsigned long long)mismatches);
	return mismatches ? 1 : 0;
}
