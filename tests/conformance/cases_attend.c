// SPDX-License-Identifier: MIT
/*
 * Attention over a pool that is larger than its memory: the bits are those of the same
 * bytes in plain memory, wherever the blocks are and whatever else happens to them.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conf.h"
#include "kvtier_stream.h"

#define BLOCKS 48u
#define DRAM 12u
#define LAYERS 4u
#define ROWS 24u
#define Q_HEADS 4u
#define KV_HEADS 2u
#define DIM 64u
#define STEPS 4

/* Each layer has BLOCKS / LAYERS blocks, cut into two sequences. */
struct bed {
	struct kvt_pool *pool;
	struct kvt_attend *attend;
	struct kvt_stream *stream;
	struct kvt_attend_params params;
	uint32_t type;
	size_t row;
	char *plain; /* the same rows, in malloc()ed memory */
	struct kvt_seq_block tables[BLOCKS], plain_tables[BLOCKS];
	float q[2 * 3 * Q_HEADS * DIM]; /* of two sequences, up to 3 tokens each */
	float out[2][3 * Q_HEADS * DIM], want[2][3 * Q_HEADS * DIM];
	uint32_t nr; /* entries of a layer */
};

/* The very same bits, not equal numbers. */
static bool same_bits(const void *a, const void *b, size_t bytes)
{
	return !memcmp(a, b, bytes);
}

static float noise(uint64_t *state)
{
	return (float)(conf_random(state) >> 40) / (float)(1 << 23) - 1;
}

static void make_rows(const struct bed *t, char *rows, uint64_t stamp)
{
	float row[KV_HEADS * DIM];
	uint32_t i, token;

	for (token = 0; token < ROWS; token++, rows += t->row) {
		for (i = 0; i < KV_HEADS * DIM; i++)
			row[i] = noise(&stamp);
		CONF_RET(kvt_quantize(t->type, DIM, KV_HEADS, 1, row, rows, 0), 0);
	}
}

/* Keys and values of an entry, at these offsets of the pool and in plain memory. */
static void make_entry(struct bed *t, uint32_t i, uint64_t k, uint64_t v)
{
	char *plain = t->plain + (size_t)i * 2 * ROWS * t->row, *base = kvt_pool_addr(t->pool);
	struct kvt_seq_block b = {
		.position = (uint64_t)(i % t->nr) * ROWS, .tokens = ROWS, .k_type = t->type,
		.v_type = t->type, .k_stride = (uint32_t)t->row, .v_stride = (uint32_t)t->row,
	};

	make_rows(t, plain, 2 * i + 1);
	make_rows(t, plain + ROWS * t->row, 2 * i + 2);
	memcpy(base + k, plain, ROWS * t->row);
	memcpy(base + v, plain + ROWS * t->row, ROWS * t->row);
	t->plain_tables[i] = t->tables[i] = b;
	t->plain_tables[i].k = plain;
	t->plain_tables[i].v = plain + ROWS * t->row;
	t->tables[i].k = base + k;
	t->tables[i].v = base + v;
}

static void make_engine(struct bed *t, uint32_t threads)
{
	struct kvt_attend_config config = KVT_ATTEND_CONFIG_INIT;
	struct kvt_stream_config stream = KVT_STREAM_CONFIG_INIT;
	uint64_t seed = 7;
	size_t i;

	config.threads = threads;
	CONF_RET(kvt_attend_create(&config, &t->attend), 0);
	stream.attend = t->attend;
	stream.pool = t->pool;
	CONF_RET(kvt_stream_create(&stream, &t->stream), 0);
	t->params = (struct kvt_attend_params)KVT_ATTEND_PARAMS_INIT;
	t->params.q_heads = Q_HEADS;
	t->params.kv_heads = KV_HEADS;
	t->params.k_dim = t->params.v_dim = DIM;
	for (i = 0; i < sizeof(t->q) / sizeof(*t->q); i++)
		t->q[i] = 3 * noise(&seed);
}

static struct bed *bed_in(struct conf *c, struct kvt_pool *pool, uint32_t type, uint32_t threads)
{
	struct bed *t = calloc(1, sizeof(*t));
	uint32_t i;

	(void)c;
	CONF_EQ(t != NULL, true);
	t->pool = pool;
	t->type = type;
	t->row = KV_HEADS * kvt_row_bytes(type, DIM);
	t->nr = BLOCKS / LAYERS;
	t->plain = calloc((size_t)BLOCKS * 2 * ROWS, t->row);
	CONF_EQ(t->plain != NULL, true);
	make_engine(t, threads);
	for (i = 0; i < BLOCKS; i++)
		make_entry(t, i, (uint64_t)i * kvt_pool_block_bytes(pool),
			   (uint64_t)i * kvt_pool_block_bytes(pool) +
				   kvt_pool_block_bytes(pool) / 2);
	return t;
}

static struct bed *bed(struct conf *c, uint32_t type, uint32_t threads)
{
	struct conf_spec spec = { .blocks = BLOCKS, .dram = DRAM };

	return bed_in(c, conf_pool(c, &spec), type, threads);
}

static void bed_end(struct bed *t)
{
	kvt_stream_destroy(t->stream);
	kvt_attend_destroy(t->attend);
	kvt_pool_destroy(t->pool);
	free(t->plain);
	free(t);
}

/* Two sequences of a layer: some blocks are the first's alone, all are the second's. */
static void sequences(struct bed *t, const struct kvt_seq_block *tables, uint32_t layer,
		      float (*out)[3 * Q_HEADS * DIM], struct kvt_attend_seq *seqs)
{
	uint32_t s;

	for (s = 0; s < 2; s++) {
		seqs[s] = (struct kvt_attend_seq)KVT_ATTEND_SEQ_INIT;
		seqs[s].q_tokens = s ? 3 : 1;
		seqs[s].q_position = (uint64_t)t->nr * ROWS;
		seqs[s].q = t->q + (size_t)s * 3 * Q_HEADS * DIM;
		seqs[s].out = out[s];
		seqs[s].blocks = tables + (size_t)layer * t->nr;
		seqs[s].nr_blocks = s ? t->nr : t->nr / 2;
	}
}

static int attend_layer(struct bed *t, uint32_t layer, int *results)
{
	struct kvt_attend_seq seqs[2];
	struct kvt_stream_table next = {
		.blocks = t->tables + (size_t)((layer + 1) % LAYERS) * t->nr,
		.nr_blocks = t->nr,
	};

	memset(t->out, 0x55, sizeof(t->out));
	sequences(t, t->tables, layer, t->out, seqs);
	return kvt_stream_attend(t->stream, &t->params, seqs, 2, &next, 1, results);
}

static void want_layer(struct bed *t, uint32_t layer)
{
	struct kvt_attend_seq seqs[2];

	memset(t->want, 0x55, sizeof(t->want));
	sequences(t, t->plain_tables, layer, t->want, seqs);
	CONF_RET(kvt_attend(t->attend, &t->params, seqs, 2), 0);
}

static void check_layer(struct bed *t, uint32_t layer)
{
	CONF_RET(attend_layer(t, layer, NULL), 0);
	want_layer(t, layer);
	CONF_EQ(same_bits(t->out, t->want, sizeof(t->out)), true);
}

static void check_steps(struct bed *t, int steps)
{
	uint32_t layer;

	while (steps--)
		for (layer = 0; layer < LAYERS; layer++)
			check_layer(t, layer);
}

static int attend_streams(struct conf *c)
{
	struct bed *t = bed(c, KVT_F16, 2);
	struct kvt_stream_stats s = { .size = sizeof(s) };
	struct kvtier_stats before, after;

	CONF_RET(kvt_seal(t->pool, 0, kvt_pool_bytes(t->pool)), 0);
	check_steps(t, 2);
	before = conf_stats(t->pool);
	check_steps(t, STEPS);
	after = conf_stats(t->pool);
	CONF_RET(kvt_stream_stats(t->stream, &s), 0);
	CONF_EQ(s.calls, (2 + STEPS) * LAYERS);
	CONF_EQ(s.resident + s.streamed, (2 + STEPS) * BLOCKS);
	CONF_GE(s.streamed, STEPS * (BLOCKS - DRAM));
	CONF_EQ(after.hard_faults + after.late_faults, before.hard_faults + before.late_faults);
	CONF_LE(after.tier[KVTIER_TIER_DRAM].peak_bytes, DRAM * c->block);
	bed_end(t);
	return CONF_PASS;
}

/* A part of memory stays from step to step, so less than all is read. */
static int attend_keeps_a_part(struct conf *c)
{
	struct bed *t = bed(c, KVT_INT8, 2);
	struct kvt_stream_stats before = { .size = sizeof(before) }, after = before;

	CONF_RET(kvt_seal(t->pool, 0, kvt_pool_bytes(t->pool)), 0);
	check_steps(t, 4);
	CONF_RET(kvt_stream_stats(t->stream, &before), 0);
	check_steps(t, STEPS);
	CONF_RET(kvt_stream_stats(t->stream, &after), 0);
	CONF_GE(after.resident - before.resident, STEPS * DRAM / 4);
	bed_end(t);
	return CONF_PASS;
}

/* Entries that go over the ends of blocks. */
static int attend_across_blocks(struct conf *c)
{
	struct bed *t = bed(c, KVT_F16, 2);
	uint64_t block = kvt_pool_block_bytes(t->pool);
	uint32_t i;

	for (i = 0; i + 1 < BLOCKS; i++)
		make_entry(t, i, (i + 1) * block - 8 * t->row, i * block + block / 2);
	make_entry(t, i, i * block + block / 4, i * block + block / 2);
	check_steps(t, STEPS);
	bed_end(t);
	return CONF_PASS;
}

struct mover {
	struct kvt_pool *pool;
	atomic_bool stop;
};

static void *move_about(void *arg)
{
	struct mover *m = arg;
	uint64_t seed = 3, block = kvt_pool_block_bytes(m->pool);

	while (!atomic_load(&m->stop)) {
		uint64_t at = conf_random(&seed) % BLOCKS * block;
		int ret = conf_random(&seed) % 2 ? kvt_demote(m->pool, at, block) :
						   kvt_promote(m->pool, at, block);

		if (ret && ret != -EBUSY && ret != -ENOSPC)
			CONF_RET(ret, 0);
		conf_touch(m->pool, conf_random(&seed) % BLOCKS);
	}
	return NULL;
}

/* Others demote, promote and touch the same blocks all the time. */
static int attend_under_motion(struct conf *c)
{
	struct bed *t = bed(c, KVT_BF16, 2);
	struct mover m = { .pool = t->pool };
	pthread_t thread;

	CONF_RET(kvt_seal(t->pool, 0, kvt_pool_bytes(t->pool)), 0);
	CONF_EQ(pthread_create(&thread, NULL, move_about, &m), 0);
	check_steps(t, 2 * STEPS);
	atomic_store(&m.stop, true);
	pthread_join(thread, NULL);
	bed_end(t);
	return CONF_PASS;
}

/* Blocks are still written to between calls, as the last of a sequence is. */
static int attend_after_writes(struct conf *c)
{
	struct bed *t = bed(c, KVT_F32, 1);
	uint64_t block = kvt_pool_block_bytes(t->pool);
	uint32_t i;

	for (i = 0; i < 2 * BLOCKS; i += 5) {
		char *rows = t->plain + (size_t)(i % BLOCKS) * 2 * ROWS * t->row;

		make_rows(t, rows, 1000 + i);
		memcpy(conf_addr(t->pool, i % BLOCKS), rows, ROWS * t->row);
		check_layer(t, i % BLOCKS / t->nr);
	}
	CONF_EQ(conf_stats(t->pool).tier[KVTIER_TIER_DRAM].peak_bytes <= DRAM * block, true);
	bed_end(t);
	return CONF_PASS;
}

/* Bad bytes of one sequence: its output is left alone, the other's is right. */
static int attend_bad_block(struct conf *c)
{
	char *path = conf_path(c, "slots"), byte = 0x11;
	struct conf_spec spec = { .blocks = BLOCKS, .dram = DRAM, .path = path,
				  .flags = KVT_KEEP_FILE };
	struct bed *t = bed_in(c, conf_pool(c, &spec), KVT_F16, 2);
	uint32_t bad = t->nr - 1; /* of the first layer, and of the second sequence alone */
	int results[2] = { 1, 1 }, fd;
	char untouched[sizeof(t->out[1])];

	CONF_RET(kvt_seal(t->pool, 0, kvt_pool_bytes(t->pool)), 0);
	conf_demote_all(t->pool);
	fd = (int)CONF_SYS(open(path, O_RDWR | O_CLOEXEC));
	CONF_EQ(pwrite(fd, &byte, 1, (off_t)(conf_info(t->pool, bad).slot * c->block + 77)), 1);
	CONF_SYS(fsync(fd));
	close(fd);
	memset(untouched, 0x55, sizeof(untouched));
	CONF_EQ(attend_layer(t, 0, NULL) < 0, true);
	CONF_EQ(same_bits(t->out[0], untouched, Q_HEADS * DIM * 4), true);
	CONF_EQ(same_bits(t->out[1], untouched, sizeof(untouched)), true);
	CONF_EQ(attend_layer(t, 0, results) < 0, true);
	CONF_RET(results[0], 0);
	CONF_EQ(results[1] < 0, true);
	want_layer(t, 0);
	CONF_EQ(same_bits(t->out[0], t->want[0], Q_HEADS * DIM * 4), true);
	CONF_EQ(same_bits(t->out[1], untouched, sizeof(untouched)), true);
	check_layer(t, 1);
	bed_end(t);
	free(path);
	return CONF_PASS;
}

/* What lies in CXL memory is read there. */
static int attend_cxl_in_place(struct conf *c)
{
	struct conf_spec spec = { .blocks = BLOCKS, .dram = DRAM, .no_nvme = true };
	struct kvt_config config = conf_config(c, &spec);
	uint32_t b, there = 0, still = 0;
	struct kvt_pool *pool;
	struct bed *t;

	config.cxl_node = c->cxl_node;
	config.cxl_bytes = (uint64_t)(BLOCKS - DRAM) * c->block;
	CONF_RET(kvt_pool_create(&config, &pool), 0);
	t = bed_in(c, pool, KVT_F16, 2);
	for (b = 0; b < BLOCKS; b++)
		there += conf_info(pool, b).tier == KVTIER_TIER_CXL;
	CONF_GE(there, BLOCKS / 4);
	check_steps(t, STEPS);
	for (b = 0; b < BLOCKS; b++)
		still += conf_info(pool, b).tier == KVTIER_TIER_CXL;
	CONF_EQ(still, there);
	bed_end(t);
	return CONF_PASS;
}

struct caller {
	struct bed *t;
	struct kvt_attend *attend;
	struct kvt_stream *stream;
	uint32_t first;
	int failures;
};

static void *call_steps(void *arg)
{
	struct caller *a = arg;
	float out[2][3 * Q_HEADS * DIM], want[2][3 * Q_HEADS * DIM];
	struct kvt_attend_seq seqs[2];
	uint32_t i;

	for (i = 0; i < STEPS * LAYERS; i++) {
		uint32_t layer = (a->first + i) % LAYERS;

		sequences(a->t, a->t->plain_tables, layer, want, seqs);
		a->failures += kvt_attend(a->attend, &a->t->params, seqs, 2) != 0;
		sequences(a->t, a->t->tables, layer, out, seqs);
		a->failures += kvt_stream_attend(a->stream, &a->t->params, seqs, 2, NULL, 0,
						 NULL) != 0;
		a->failures += !same_bits(out[0], want[0], Q_HEADS * DIM * 4);
		a->failures += !same_bits(out[1], want[1], sizeof(out[1]));
	}
	return NULL;
}

/* Two streams over one pool, with threads of their own. */
static int attend_two_streams(struct conf *c)
{
	struct bed *t = bed(c, KVT_F16, 1);
	struct kvt_attend_config config = KVT_ATTEND_CONFIG_INIT;
	struct kvt_stream_config stream = KVT_STREAM_CONFIG_INIT;
	struct caller a[2] = { { .t = t, .attend = t->attend, .stream = t->stream },
			       { .t = t, .first = 2 } };
	pthread_t threads[2];
	int i;

	CONF_RET(kvt_seal(t->pool, 0, kvt_pool_bytes(t->pool)), 0);
	config.threads = 1;
	CONF_RET(kvt_attend_create(&config, &a[1].attend), 0);
	stream.attend = a[1].attend;
	stream.pool = t->pool;
	CONF_RET(kvt_stream_create(&stream, &a[1].stream), 0);
	for (i = 0; i < 2; i++)
		CONF_EQ(pthread_create(&threads[i], NULL, call_steps, &a[i]), 0);
	for (i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	CONF_EQ(a[0].failures + a[1].failures, 0);
	kvt_stream_destroy(a[1].stream);
	kvt_attend_destroy(a[1].attend);
	bed_end(t);
	return CONF_PASS;
}

/* Layer 0 with epsilon or top_k, of the pool or of plain memory. */
static int attend_less(struct bed *t, bool plain, struct kvt_skipped *skipped)
{
	static float bounds[BLOCKS / LAYERS][KV_HEADS][2][DIM];
	const float *of_block[BLOCKS / LAYERS];
	struct kvt_attend_seq seqs[2];
	uint32_t b;

	for (b = 0; b < t->nr; b++) {
		CONF_RET(kvt_key_bounds(KV_HEADS, DIM, &t->plain_tables[b], &bounds[b][0][0][0]),
			 0);
		of_block[b] = &bounds[b][0][0][0];
	}
	sequences(t, plain ? t->plain_tables : t->tables, 0, plain ? t->want : t->out, seqs);
	for (b = 0; b < 2; b++) {
		seqs[b].bounds = of_block;
		seqs[b].skipped = &skipped[b];
	}
	return plain ? kvt_attend(t->attend, &t->params, seqs, 2) :
		       kvt_stream_attend(t->stream, &t->params, seqs, 2, NULL, 0, NULL);
}

/* The same bits and the same report as in plain memory, and fewer blocks are read. */
static int attend_reads_less(struct conf *c)
{
	struct bed *t = bed(c, KVT_F16, 2);
	struct kvt_stream_stats before = { .size = sizeof(before) }, after = before;
	struct kvt_skipped skipped[2], want[2];

	CONF_RET(kvt_seal(t->pool, 0, kvt_pool_bytes(t->pool)), 0);
	conf_demote_all(t->pool);
	t->params.top_k = 1;
	CONF_RET(attend_less(t, false, skipped), 0);
	CONF_RET(attend_less(t, true, want), 0);
	CONF_EQ(same_bits(t->out, t->want, sizeof(t->out)), true);
	CONF_EQ(same_bits(skipped, want, sizeof(want)), true);
	CONF_EQ(skipped[1].pairs, KV_HEADS * (t->nr - 1));
	CONF_RET(kvt_stream_stats(t->stream, &after), 0);
	CONF_LE(after.streamed + after.resident - before.streamed - before.resident, 2 * KV_HEADS);
	conf_demote_all(t->pool);
	t->params.top_k = 0;
	t->params.epsilon = 0.7f;
	CONF_RET(attend_less(t, false, skipped), 0);
	CONF_RET(attend_less(t, true, want), 0);
	CONF_EQ(same_bits(t->out, t->want, sizeof(t->out)), true);
	CONF_EQ(same_bits(skipped, want, sizeof(want)), true);
	CONF_EQ(skipped[1].share <= 0.7, true);
	bed_end(t);
	return CONF_PASS;
}

static int attend_bad_arguments(struct conf *c)
{
	struct bed *t = bed(c, KVT_F16, 1);
	struct kvt_stream_config config = KVT_STREAM_CONFIG_INIT;
	struct kvt_stream_stats stats = { .size = 1 << 20 };
	struct kvt_stream_table nothing = { .nr_blocks = 3 };
	struct kvt_attend_seq seqs[2];
	struct kvt_stream *stream;

	CONF_RET(kvt_stream_create(&config, &stream), -EINVAL);
	config.attend = t->attend;
	CONF_RET(kvt_stream_create(&config, &stream), -EINVAL);
	config.pool = t->pool;
	config.window_bytes = 1;
	CONF_RET(kvt_stream_create(&config, &stream), -EINVAL);
	config.window_bytes = 0;
	config.size--;
	CONF_RET(kvt_stream_create(&config, &stream), -EINVAL);
	CONF_RET(kvt_stream_stats(t->stream, &stats), -EINVAL);
	sequences(t, t->tables, 0, t->out, seqs);
	CONF_RET(kvt_stream_attend(NULL, &t->params, seqs, 2, NULL, 0, NULL), -EINVAL);
	CONF_RET(kvt_stream_attend(t->stream, &t->params, NULL, 2, NULL, 0, NULL), -EINVAL);
	CONF_RET(kvt_stream_attend(t->stream, &t->params, seqs, 2, NULL, 1, NULL), -EINVAL);
	CONF_RET(kvt_stream_attend(t->stream, &t->params, seqs, 2, &nothing, 1, NULL), -EINVAL);
	t->params.k_dim = 7;
	CONF_RET(attend_layer(t, 0, NULL), -EINVAL);
	t->params.k_dim = DIM;
	check_layer(t, 0);
	kvt_stream_destroy(NULL);
	bed_end(t);
	return CONF_PASS;
}

const struct conf_case conf_attend_cases[] = {
	CONF_CASE(attend_streams, "steps over four times the memory have the bits of plain memory"),
	CONF_CASE(attend_keeps_a_part, "a part of each layer stays in memory from step to step"),
	CONF_CASE(attend_across_blocks, "rows that go over the ends of blocks"),
	CONF_CASE(attend_under_motion, "the same bits while others move the blocks"),
	CONF_CASE(attend_after_writes, "what was written since the last call is attended to"),
	CONF_CASE(attend_bad_block, "a bad block fails the sequences that need it, and no other",
		  .needs = CONF_NEEDS_FILE),
	CONF_CASE(attend_cxl_in_place, "blocks in CXL memory are attended to there",
		  .needs = CONF_NEEDS_CXL),
	CONF_CASE(attend_two_streams, "two streams over one pool"),
	CONF_CASE(attend_reads_less, "what epsilon and top_k leave out is not fetched"),
	CONF_CASE(attend_bad_arguments, "wrong arguments are refused"),
	{ .name = NULL },
};
