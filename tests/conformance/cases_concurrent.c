// SPDX-License-Identifier: MIT
/* Many threads, one pool, and blocks that come and go under them. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "conf.h"

#define WRITERS 3
#define BLOCKS 48
#define PAGE 4096

struct writer {
	struct kvt_pool *pool;
	uint32_t number; /* pages whose number modulo WRITERS is this are ours */
	uint64_t seed;
	uint64_t end_ms;
	uint64_t stamp[BLOCKS];
	uint64_t rounds;
};

typedef void (*visit_fn)(struct kvt_pool *pool, uint64_t offset, uint64_t length, uint64_t stamp);

/* Every block is shared by all writers, page by page. */
static void visit_stripe(const struct writer *w, uint64_t block, visit_fn visit)
{
	size_t bytes = kvt_pool_block_bytes(w->pool), at;

	for (at = w->number * PAGE; at < bytes; at += WRITERS * PAGE)
		visit(w->pool, block * bytes + at, PAGE, w->stamp[block]);
}

static void *write_stripes(void *arg)
{
	struct writer *w = arg;

	while (conf_now_ms() < w->end_ms || w->rounds < 3) { /* however slow it goes */
		uint64_t block = conf_random(&w->seed) % BLOCKS;

		if (w->stamp[block])
			visit_stripe(w, block, conf_check);
		w->stamp[block] = conf_random(&w->seed) | 1;
		visit_stripe(w, block, conf_fill);
		w->rounds++;
	}
	return NULL;
}

struct mover {
	struct kvt_pool *pool;
	uint64_t seed;
	uint64_t end_ms;
	uint64_t moves;
};

/* Races with the writers may leave a range where it was, but only with these errors. */
static void expect_moved(int ret)
{
	if (ret && ret != -ENOSPC && ret != -EBUSY)
		CONF_RET(ret, 0);
}

static void *move_ranges(void *arg)
{
	struct mover *m = arg;
	size_t block = kvt_pool_block_bytes(m->pool);

	while (conf_now_ms() < m->end_ms) {
		uint64_t first = conf_random(&m->seed) % BLOCKS;
		uint64_t nr = 1 + conf_random(&m->seed) % 6;

		if (nr > BLOCKS - first)
			nr = BLOCKS - first;
		switch (conf_random(&m->seed) % 4) {
		case 0:
			expect_moved(kvt_promote(m->pool, first * block, nr * block));
			break;
		case 1:
			expect_moved(kvt_writeback(m->pool, first * block, nr * block));
			break;
		case 2:
			expect_moved(kvt_cold(m->pool, first * block, nr * block));
			break;
		default:
			expect_moved(kvt_demote(m->pool, first * block, nr * block));
		}
		m->moves++;
	}
	return NULL;
}

static void write_under_motion(struct conf *c, uint64_t seed, uint32_t flags)
{
	struct conf_spec spec = { .blocks = BLOCKS, .dram = 12, .flags = flags };
	struct kvt_pool *pool = conf_pool(c, &spec);
	uint64_t end = conf_now_ms() + 1500;
	struct writer *writers = calloc(WRITERS, sizeof(*writers));
	struct mover mover = { .pool = pool, .seed = seed, .end_ms = end };
	pthread_t threads[WRITERS + 1];
	uint32_t i, b;

	CONF_EQ(writers != NULL, true);
	for (i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer){
			.pool = pool, .number = i, .end_ms = end, .seed = seed * 1000 + i
		};
		CONF_EQ(pthread_create(&threads[i], NULL, write_stripes, &writers[i]), 0);
	}
	CONF_EQ(pthread_create(&threads[i], NULL, move_ranges, &mover), 0);
	for (i = 0; i <= WRITERS; i++)
		pthread_join(threads[i], NULL);
	for (i = 0; i < WRITERS; i++)
		for (b = 0; b < BLOCKS; b++)
			if (writers[i].stamp[b])
				visit_stripe(&writers[i], b, conf_check);
	for (i = 0; i < WRITERS; i++)
		CONF_GE(writers[i].rounds, 3);
	CONF_GE(mover.moves, 3);
	CONF_GE(conf_stats(pool).demoted, 10);
	CONF_EQ(conf_stats(pool).crc_errors, 0);
	free(writers);
	kvt_pool_destroy(pool);
}

static int writers_and_evictions(struct conf *c)
{
	uint64_t seed;

	for (seed = 1; seed <= 4; seed++)
		write_under_motion(c, seed, seed & 1 ? 0 : KVT_NO_PREDICT);
	return CONF_PASS;
}

/* One word, incremented while its block is forced out again and again. */
struct counter {
	struct kvt_pool *pool;
	atomic_bool stop;
	uint64_t value;
};

static void *count(void *arg)
{
	struct counter *k = arg;
	volatile uint64_t *word = (uint64_t *)conf_addr(k->pool, 1);

	while (!atomic_load_explicit(&k->stop, memory_order_relaxed)) {
		if (*word != k->value)
			CONF_FAIL_NOW("counter: expected %llu, got %llu",
				      (unsigned long long)k->value, (unsigned long long)*word);
		*word = ++k->value;
	}
	return NULL;
}

static int counter_under_motion(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8, .flags = KVT_NO_PREDICT };
	struct counter k = { .pool = conf_pool(c, &spec) };
	size_t block = kvt_pool_block_bytes(k.pool);
	uint64_t end = conf_now_ms() + 3000, moves = 0;
	pthread_t thread;

	CONF_EQ(pthread_create(&thread, NULL, count, &k), 0);
	while (conf_now_ms() < end) {
		if (moves++ & 1)
			CONF_RET(kvt_demote(k.pool, block, block), 0);
		else
			CONF_RET(kvt_writeback(k.pool, block, block), 0);
	}
	atomic_store(&k.stop, true);
	pthread_join(thread, NULL);
	CONF_EQ(*(uint64_t *)conf_addr(k.pool, 1), k.value);
	CONF_GE(moves, 20);
	CONF_GE(conf_stats(k.pool).written_blocks, 10);
	kvt_pool_destroy(k.pool);
	return CONF_PASS;
}

/* A sequence as an engine keeps it: full blocks are read, the last one grows. */
struct sequence {
	struct kvt_pool *pool;
	_Atomic uint64_t bytes; /* written so far */
	uint64_t end_ms;
};

static void *append(void *arg)
{
	struct sequence *s = arg;
	size_t row = 4096, block = kvt_pool_block_bytes(s->pool);
	uint64_t at;

	for (at = 0; at < kvt_pool_bytes(s->pool) && conf_now_ms() < s->end_ms; at += row) {
		conf_fill(s->pool, at, row, 5);
		atomic_store(&s->bytes, at + row);
		if ((at + row) % block == 0)
			CONF_RET(kvt_seal(s->pool, at + row - block, block), 0);
	}
	return NULL;
}

static void *read_prefix(void *arg)
{
	struct sequence *s = arg;

	while (conf_now_ms() < s->end_ms)
		conf_check(s->pool, 0, atomic_load(&s->bytes), 5);
	return NULL;
}

static int readers_and_appender(struct conf *c)
{
	struct conf_spec spec = { .blocks = 48, .dram = 12 };
	struct sequence s = { .pool = conf_pool(c, &spec), .end_ms = conf_now_ms() + 4000 };
	pthread_t threads[3];
	uint32_t i;

	CONF_EQ(pthread_create(&threads[0], NULL, append, &s), 0);
	CONF_EQ(pthread_create(&threads[1], NULL, read_prefix, &s), 0);
	CONF_EQ(pthread_create(&threads[2], NULL, read_prefix, &s), 0);
	for (i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	CONF_GE(s.bytes, 14 * kvt_pool_block_bytes(s.pool));
	conf_check(s.pool, 0, s.bytes, 5);
	conf_check_zero(s.pool, s.bytes, kvt_pool_bytes(s.pool) - s.bytes);
	CONF_GE(conf_stats(s.pool).demoted, 2);
	kvt_pool_destroy(s.pool);
	return CONF_PASS;
}

/*
 * Two halves read in turns, as keys and values are, over and over: what is read ahead, mapped
 * and evicted together stays what it was, with stores in between.
 */
static int streams_in_turns(struct conf *c)
{
	struct conf_spec spec = { .blocks = 192, .dram = 64 };
	struct kvt_pool *pool = conf_pool(c, &spec);
	uint64_t block = kvt_pool_block_bytes(pool), seeds[192], random = 1;
	uint32_t i, b, cycle;

	for (b = 0; b < 192; b++)
		conf_fill(pool, b * block, block, seeds[b] = b + 1);
	for (cycle = 0; cycle < 4; cycle++) {
		for (i = 0; i < 192; i++) {
			b = i % 2 ? 96 + i / 2 : i / 2;
			conf_check(pool, b * block, block, seeds[b]);
			if (conf_random(&random) % 8 == 0)
				conf_fill(pool, b * block, block, seeds[b] = conf_random(&random));
		}
	}
	for (b = 0; b < 192; b++)
		conf_check(pool, b * block, block, seeds[b]);
	CONF_GE(conf_stats(pool).demoted, 4 * (192 - 64));
	CONF_EQ(conf_stats(pool).crc_errors, 0);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* Two pools in one process must not know of each other. */
static int two_pools(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 8 };
	struct kvt_pool *a = conf_pool(c, &spec), *b = conf_pool(c, &spec);
	uint64_t half = kvt_pool_bytes(a) / 2;

	conf_fill(a, 0, kvt_pool_bytes(a), 1);
	conf_fill(b, 0, kvt_pool_bytes(b), 2);
	conf_check(a, 0, half, 1);
	conf_check(b, 0, half, 2);
	conf_check(a, half, half, 1);
	kvt_pool_destroy(a);
	conf_check(b, 0, kvt_pool_bytes(b), 2);
	kvt_pool_destroy(b);
	return CONF_PASS;
}

/* Two threads give back pins of ranges that overlap; there is one pin for each block. */
#define PINS 80

struct unpinner {
	struct kvt_pool *pool;
	pthread_barrier_t *barrier;
	const bool *stop; /* set before the barrier */
	uint64_t first, nr; /* blocks */
};

static void *unpin_often(void *arg)
{
	struct unpinner *p = arg;
	size_t block = kvt_pool_block_bytes(p->pool);

	for (;;) {
		int ret;

		pthread_barrier_wait(p->barrier);
		if (*p->stop)
			return NULL;
		ret = kvt_unpin(p->pool, p->first * block, p->nr * block);
		CONF_RET(ret == -EINVAL ? 0 : ret, 0);
		pthread_barrier_wait(p->barrier);
	}
}

/* What the loser of the race was refused, block by block; then none has a pin. */
static void unpin_rest(struct kvt_pool *pool)
{
	struct kvtier_block_info infos[PINS];
	size_t block = kvt_pool_block_bytes(pool);
	uint32_t i;

	CONF_RET(kvt_query(pool, 0, PINS, infos), 0);
	for (i = 0; i < PINS; i++)
		if (infos[i].flags & KVTIER_BLOCKF_PINNED)
			CONF_RET(kvt_unpin(pool, i * block, block), 0);
	CONF_RET(kvt_query(pool, 0, PINS, infos), 0);
	for (i = 0; i < PINS; i++)
		CONF_EQ(infos[i].flags & KVTIER_BLOCKF_PINNED, 0);
}

static int unpins_overlap(struct conf *c)
{
	struct conf_spec spec = { .blocks = PINS, .dram = PINS };
	struct kvt_pool *pool = conf_pool(c, &spec);
	uint64_t end = conf_now_ms() + 1000, bytes = kvt_pool_bytes(pool);
	pthread_barrier_t barrier;
	bool stop = false;
	struct unpinner p[2] = { { pool, &barrier, &stop, 0, PINS },
				 { pool, &barrier, &stop, PINS / 2, PINS / 2 } };
	pthread_t threads[2];
	uint32_t i;

	CONF_EQ(pthread_barrier_init(&barrier, NULL, 3), 0);
	for (i = 0; i < 2; i++)
		CONF_EQ(pthread_create(&threads[i], NULL, unpin_often, &p[i]), 0);
	while (!stop) {
		CONF_RET(kvt_pin(pool, 0, bytes), 0);
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		unpin_rest(pool);
		stop = conf_now_ms() >= end;
	}
	pthread_barrier_wait(&barrier);
	for (i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	pthread_barrier_destroy(&barrier);
	CONF_RET(kvt_discard(pool, 0, bytes), 0);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

const struct conf_case conf_concurrent_cases[] = {
	CONF_CASE(writers_and_evictions,
		  "every byte of three writers survives forced motion, 4 seeds", .seconds = 90),
	CONF_CASE(streams_in_turns, "two halves read in turns, with stores, stay what they were",
		  .seconds = 90),
	CONF_CASE(counter_under_motion, "no increment is lost while its block is forced out",
		  .seconds = 60),
	CONF_CASE(readers_and_appender, "a growing sequence is read while its tail is written",
		  .seconds = 60),
	CONF_CASE(unpins_overlap, "pins that two threads give back at once are counted right"),
	CONF_CASE(two_pools, "two pools in a process keep apart", .seconds = 60),
	{ .name = NULL },
};
