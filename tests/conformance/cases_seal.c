// SPDX-License-Identifier: MIT
/* Sealed blocks are immutable until discarded. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "conf.h"

static void refuse_write_everywhere(struct kvt_pool *pool, uint64_t block)
{
	conf_expect_bus_write(pool, block, 0);
	conf_expect_bus_write(pool, block, kvt_pool_block_bytes(pool) / 2);
	conf_expect_bus_write(pool, block, kvt_pool_block_bytes(pool) - 1);
}

static int seal_refuses_writes(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	uint64_t generation;

	conf_fill(pool, 0, 6 * block, 1);
	CONF_RET(kvt_seal(pool, 2 * block, 2 * block), 0);
	CONF_RET(kvt_seal(pool, 2 * block, block), 0); /* again: nothing to do */
	generation = conf_info(pool, 2).generation;
	conf_check(pool, 0, 6 * block, 1);
	refuse_write_everywhere(pool, 2);
	CONF_EQ(conf_info(pool, 2).generation, generation);
	conf_fill(pool, block, block, 2); /* the neighbours stay open */
	conf_fill(pool, 4 * block, block, 2);
	conf_check(pool, 2 * block, 2 * block, 1);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static int seal_survives_demotion(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	uint64_t generation;

	conf_fill(pool, 0, 4 * block, 1);
	CONF_RET(kvt_seal(pool, 0, 4 * block), 0);
	generation = conf_info(pool, 1).generation;
	CONF_RET(kvt_demote(pool, 0, 4 * block), 0);
	refuse_write_everywhere(pool, 0); /* first touch after demotion is the store */
	CONF_RET(kvt_promote(pool, 0, 4 * block), 0);
	refuse_write_everywhere(pool, 1);
	conf_check(pool, 0, 4 * block, 1);
	CONF_EQ(conf_info(pool, 1).generation, generation);
	CONF_EQ(conf_info(pool, 1).state, KVTIER_BLOCK_CLEAN);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* Sealed while its only copy is on NVMe. */
static int seal_cold(struct conf *c)
{
	struct conf_spec spec = { .blocks = 8, .dram = 4, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);

	conf_fill(pool, 0, 4 * block, 1);
	conf_demote_all(pool);
	CONF_RET(kvt_seal(pool, 0, 2 * block), 0);
	CONF_EQ(conf_info(pool, 1).state, KVTIER_BLOCK_COLD);
	refuse_write_everywhere(pool, 1);
	conf_check(pool, 0, 4 * block, 1);
	conf_fill(pool, 2 * block, block, 2);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static int seal_empty(struct conf *c)
{
	struct conf_spec spec = { .blocks = 8, .dram = 4 };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);

	conf_fill(pool, 0, block, 1);
	CONF_RET(kvt_seal(pool, 0, 2 * block), -ENODATA);
	conf_fill(pool, 0, block, 2); /* refused whole: the first is still open */
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static int seal_then_free_demote(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	struct kvtier_stats before, after;

	conf_fill(pool, 0, 4 * block, 1);
	CONF_RET(kvt_seal(pool, 0, 4 * block), 0);
	CONF_RET(kvt_writeback(pool, 0, 4 * block), 0);
	before = conf_stats(pool);
	CONF_EQ(before.blocks[KVTIER_BLOCK_CLEAN], 4);
	CONF_RET(kvt_demote(pool, 0, 4 * block), 0);
	after = conf_stats(pool);
	CONF_EQ(after.written_blocks, before.written_blocks);
	CONF_EQ(after.clean_drops - before.clean_drops, 4);
	conf_check(pool, 0, 4 * block, 1);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* Stores to a block in the very moment in which it appears at its address. */
struct racer {
	struct kvt_pool *pool;
	atomic_uint round; /* a promotion is about to begin */
	atomic_uint ended; /* ... has ended */
	atomic_uint stored;
	bool stop; /* with the last round */
};

static void *store_at_once(void *arg)
{
	struct racer *r = arg;
	volatile uint64_t *word = (uint64_t *)conf_addr(r->pool, 1);
	unsigned char there = 0;
	unsigned int round;

	for (round = 1;; round++) {
		while (atomic_load(&r->round) < round)
			sched_yield();
		if (r->stop)
			return NULL;
		there = 0;
		while (!(there & 1) && atomic_load(&r->ended) < round)
			mincore(conf_addr(r->pool, 1), 4096, &there);
		*word = conf_word(round, 2);
		atomic_store(&r->stored, round);
	}
}

/* The store came first: what is sealed, cloned or demoted afterwards has it. */
static void seal_after_store(struct racer *r, unsigned int round)
{
	size_t block = kvt_pool_block_bytes(r->pool);

	CONF_RET(kvt_discard(r->pool, block, 2 * block), 0);
	conf_fill(r->pool, block, block, 1);
	CONF_RET(kvt_demote(r->pool, block, block), 0);
	atomic_store(&r->round, round);
	CONF_RET(kvt_promote(r->pool, block, block), 0);
	atomic_store(&r->ended, round);
	while (atomic_load(&r->stored) < round)
		sched_yield();
	if (round & 1)
		CONF_RET(kvt_seal(r->pool, block, block), 0);
	CONF_RET(kvt_clone(r->pool, 2 * block, r->pool, block, block), 0);
	CONF_EQ(*(uint64_t *)conf_addr(r->pool, 2) == conf_word(round, 2), true);
	CONF_RET(kvt_discard(r->pool, 2 * block, block), 0);
	CONF_RET(kvt_demote(r->pool, block, block), 0);
	CONF_EQ(*(uint64_t *)conf_addr(r->pool, 1) == conf_word(round, 2), true);
	conf_check(r->pool, block + 8, block - 8, 1);
}

/* The same without a clone that might notice: sealing alone must not lose it. */
static void seal_only(struct racer *r, unsigned int round)
{
	size_t block = kvt_pool_block_bytes(r->pool);

	CONF_RET(kvt_discard(r->pool, block, block), 0);
	conf_fill(r->pool, block, block, 1);
	CONF_RET(kvt_demote(r->pool, block, block), 0);
	atomic_store(&r->round, round);
	CONF_RET(kvt_promote(r->pool, block, block), 0);
	atomic_store(&r->ended, round);
	while (atomic_load(&r->stored) < round)
		sched_yield();
	CONF_RET(kvt_seal(r->pool, block, block), 0);
	CONF_RET(kvt_demote(r->pool, block, block), 0);
	CONF_EQ(*(uint64_t *)conf_addr(r->pool, 1) == conf_word(round, 2), true);
	conf_expect_bus_write(r->pool, 1, 0);
}

static int seal_keeps_last_store(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8, .flags = KVT_NO_PREDICT };
	struct racer r = { .pool = conf_pool(c, &spec) };
	uint64_t end = conf_now_ms() + 1500;
	unsigned int round = 0;
	pthread_t thread;

	CONF_EQ(pthread_create(&thread, NULL, store_at_once, &r), 0);
	while (conf_now_ms() < end) {
		seal_after_store(&r, ++round);
		seal_only(&r, ++round);
	}
	CONF_GE(round, 2);
	r.stop = true;
	atomic_store(&r.round, round + 1);
	pthread_join(thread, NULL);
	kvt_pool_destroy(r.pool);
	return CONF_PASS;
}

const struct conf_case conf_seal_cases[] = {
	CONF_CASE(seal_refuses_writes, "a sealed block reads; a store to it is a SIGBUS"),
	CONF_CASE(seal_survives_demotion, "a sealed block is sealed wherever it goes"),
	CONF_CASE(seal_cold, "a block on NVMe can be sealed without bringing it in"),
	CONF_CASE(seal_empty, "a block without content cannot be sealed"),
	CONF_CASE(
		seal_keeps_last_store,
		"a store in the moment of promotion is in what is sealed, cloned and demoted after"),
	CONF_CASE(seal_then_free_demote, "a sealed and written block leaves memory for free"),
	{ .name = NULL },
};
