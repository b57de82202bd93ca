// SPDX-License-Identifier: MIT
/* Where blocks are, who decides it, and what a touch costs. */
#include <pthread.h>
#include <stdatomic.h>

#include "conf.h"

static int states(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);

	CONF_EQ(conf_info(pool, 3).state, KVTIER_BLOCK_EMPTY);
	CONF_EQ(conf_info(pool, 3).tier, KVTIER_TIER_NONE);
	conf_fill(pool, 3 * block, block, 1);
	CONF_EQ(conf_info(pool, 3).state, KVTIER_BLOCK_OPEN);
	CONF_EQ(conf_info(pool, 3).tier, KVTIER_TIER_DRAM);
	CONF_RET(kvt_demote(pool, 3 * block, block), 0);
	CONF_EQ(conf_info(pool, 3).state, KVTIER_BLOCK_COLD_OPEN);
	CONF_EQ(conf_info(pool, 3).tier, KVTIER_TIER_NVME);
	CONF_EQ(conf_info(pool, 3).slot != KVTIER_NO_SLOT, true);
	CONF_RET(kvt_promote(pool, 3 * block, block), 0);
	CONF_EQ(conf_info(pool, 3).state, KVTIER_BLOCK_OPEN);
	CONF_EQ(conf_info(pool, 3).tier, KVTIER_TIER_DRAM);
	conf_fill(pool, 3 * block, 8, 1);
	CONF_RET(kvt_seal(pool, 3 * block, block), 0);
	CONF_EQ(conf_info(pool, 3).state, KVTIER_BLOCK_SEALED);
	CONF_RET(kvt_writeback(pool, 3 * block, block), 0);
	CONF_EQ(conf_info(pool, 3).state, KVTIER_BLOCK_CLEAN);
	CONF_EQ(conf_resident(pool, 3), true);
	CONF_RET(kvt_demote(pool, 3 * block, block), 0);
	CONF_EQ(conf_info(pool, 3).state, KVTIER_BLOCK_COLD);
	conf_check(pool, 3 * block, block, 1);
	CONF_EQ(conf_info(pool, 3).state, KVTIER_BLOCK_CLEAN);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* The counts of blocks by state and the tiers' use agree with each block's own. */
static int sums_agree(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	struct kvtier_block_info infos[32];
	uint64_t count[8] = { 0 };
	struct kvtier_stats stats;
	uint32_t i;

	conf_fill(pool, 0, 24 * block, 1);
	CONF_RET(kvt_seal(pool, 4 * block, 4 * block), 0);
	CONF_RET(kvt_demote(pool, 0, 6 * block), 0);
	CONF_RET(kvt_writeback(pool, 0, 24 * block), 0);
	CONF_RET(kvt_query(pool, 0, 32, infos), 0);
	stats = conf_stats(pool);
	for (i = 0; i < 32; i++)
		count[infos[i].state]++;
	for (i = 0; i < 8; i++)
		CONF_EQ(stats.blocks[i], count[i]);
	CONF_EQ(stats.nr_blocks, 32);
	CONF_EQ(stats.bytes, 32 * block);
	CONF_EQ(1ULL << stats.block_shift, block);
	CONF_EQ(count[KVTIER_BLOCK_EMPTY], 8);
	CONF_EQ(stats.tier[KVTIER_TIER_NVME].used_bytes, 24 * block);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

struct sampler {
	struct kvt_pool *pool;
	uint64_t budget;
	uint64_t base_rss;
	uint64_t most_rss;
	uint64_t samples;
	atomic_bool stop;
};

static void *sample(void *arg)
{
	struct sampler *s = arg;

	while (!atomic_load(&s->stop)) {
		struct kvtier_stats stats = conf_stats(s->pool);
		uint64_t rss = conf_rss_bytes();

		CONF_LE(stats.tier[KVTIER_TIER_DRAM].used_bytes, s->budget);
		CONF_LE(stats.tier[KVTIER_TIER_DRAM].peak_bytes, s->budget);
		CONF_LE(rss, s->base_rss + s->budget + CONF_RSS_SLACK);
		if (rss > s->most_rss)
			s->most_rss = rss;
		s->samples++;
	}
	return NULL;
}

static void churn(struct kvt_pool *pool, unsigned int ms)
{
	uint64_t end = conf_now_ms() + ms, seed = 1;

	while (conf_now_ms() < end) {
		uint64_t b = conf_random(&seed) % conf_blocks(pool);

		if (conf_random(&seed) & 1)
			conf_fill(pool, b * kvt_pool_block_bytes(pool), 4096, b);
		else
			conf_touch(pool, b);
	}
}

static int budget_sampled_flags(struct conf *c, uint32_t flags)
{
	struct conf_spec spec = { .blocks = 256, .dram = 64, .flags = flags };
	struct sampler s = { .base_rss = conf_rss_bytes() };
	pthread_t thread;

	s.pool = conf_pool(c, &spec);
	s.budget = 64 * kvt_pool_block_bytes(s.pool);
	CONF_EQ(pthread_create(&thread, NULL, sample, &s), 0);
	conf_fill(s.pool, 0, kvt_pool_bytes(s.pool), 1);
	conf_check(s.pool, 0, kvt_pool_bytes(s.pool), 1);
	churn(s.pool, 1500);
	atomic_store(&s.stop, true);
	pthread_join(thread, NULL);
	CONF_GE(s.samples, 10);
	/* The kernel did see the frames: the budget was not merely left unused. */
	CONF_GE(s.most_rss, s.base_rss + s.budget / 2);
	kvt_pool_destroy(s.pool);
	return CONF_PASS;
}

static int budget_sampled(struct conf *c)
{
	budget_sampled_flags(c, 0);
	return budget_sampled_flags(c, KVT_NO_PREDICT);
}

static int whole_block_fault(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	struct kvtier_stats before, after;
	uint64_t faults;
	uint32_t i;

	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	conf_demote_all(pool);
	before = conf_stats(pool);
	faults = conf_fault_count();
	for (i = 0; i < 16; i++)
		conf_check(pool, i * block, block, 1);
	faults = conf_fault_count() - faults;
	after = conf_stats(pool);
	CONF_EQ(after.faults - before.faults, 16);
	CONF_EQ(after.hard_faults - before.hard_faults, 16);
	/* The kernel may count a fault again when it is retried. */
	CONF_LE(faults, 2 * 16 + 4);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static int promote_ahead(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 16, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	struct kvtier_stats before, after;

	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	conf_demote_all(pool);
	CONF_RET(kvt_promote(pool, 8 * block, 8 * block), 0);
	before = conf_stats(pool);
	conf_check(pool, 8 * block, 8 * block, 1);
	after = conf_stats(pool);
	CONF_EQ(after.hard_faults - before.hard_faults, 0);
	CONF_EQ(after.late_faults - before.late_faults, 0);
	CONF_EQ(after.promoted, before.promoted);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* Started and not waited for: the blocks come all the same. */
static int promote_nowait(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	struct kvtier_range range = { .offset = 2 * block, .length = 4 * block };
	uint64_t end = conf_now_ms() + 5000;
	uint32_t i;

	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	conf_demote_all(pool);
	CONF_EQ(kvt_range_op(pool, KVTIER_OP_PROMOTE, KVTIER_TIER_NONE, KVTIER_OP_NOWAIT, &range,
			     1),
		1);
	CONF_RET(range.result, 0);
	for (i = 2; i < 6; i++)
		while (conf_info(pool, i).state != KVTIER_BLOCK_OPEN)
			CONF_LE(conf_now_ms(), end);
	conf_check(pool, 2 * block, 4 * block, 1);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static int cold_first_victim(struct conf *c)
{
	struct conf_spec spec = { .blocks = 64, .dram = 16, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	uint32_t i, gone = 0;
	uint64_t next = 10;

	conf_fill(pool, 0, 10 * block, 1);
	CONF_RET(kvt_writeback(pool, 0, 10 * block), 0);
	CONF_RET(kvt_cold(pool, 6 * block, block), 0);
	while (!gone && next < 40) {
		conf_fill(pool, next++ * block, 8, 1);
		for (i = 0; i < 10; i++)
			gone |= (uint32_t)!conf_resident(pool, i) << i;
	}
	CONF_EQ(gone, 1U << 6);
	conf_check(pool, 0, 10 * block, 1);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static int pin_stays(struct conf *c)
{
	struct conf_spec spec = { .blocks = 64, .dram = 16 };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	uint32_t i, pass;

	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	CONF_RET(kvt_pin(pool, 5 * block, 2 * block), 0);
	CONF_RET(kvt_pin(pool, 5 * block, block), 0); /* pins are counted */
	for (pass = 0; pass < 3; pass++) {
		for (i = 0; i < 64; i++) {
			conf_touch(pool, i);
			CONF_EQ(conf_resident(pool, 5) && conf_resident(pool, 6), true);
		}
	}
	CONF_EQ(!!(conf_info(pool, 5).flags & KVTIER_BLOCKF_PINNED), true);
	CONF_RET(kvt_demote(pool, 5 * block, block), -EBUSY);
	CONF_RET(kvt_discard(pool, 5 * block, block), -EBUSY);
	CONF_RET(kvt_unpin(pool, 5 * block, 2 * block), 0);
	CONF_RET(kvt_demote(pool, 5 * block, block), -EBUSY);
	CONF_RET(kvt_demote(pool, 6 * block, block), 0);
	CONF_RET(kvt_unpin(pool, 5 * block, block), 0);
	CONF_RET(kvt_unpin(pool, 5 * block, block), -EINVAL);
	CONF_RET(kvt_demote(pool, 5 * block, block), 0);
	conf_check(pool, 0, kvt_pool_bytes(pool), 1);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* Refused whole: nothing stays pinned, and the pool goes on working. */
static int pin_beyond_budget(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 8 };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	uint32_t i;

	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	CONF_RET(kvt_pin(pool, 0, 9 * block), -ENOSPC);
	for (i = 0; i < 32; i++)
		CONF_EQ(conf_info(pool, i).flags & KVTIER_BLOCKF_PINNED, 0);
	CONF_RET(kvt_promote(pool, 0, 9 * block), -ENOSPC);
	conf_check(pool, 0, kvt_pool_bytes(pool), 1);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

const struct conf_case conf_residency_cases[] = {
	CONF_CASE(states, "a block's state and tier after each operation of its life"),
	CONF_CASE(sums_agree, "stats and query tell the same"),
	CONF_CASE(
		budget_sampled,
		"neither our accounting nor the kernel's ever shows more than the budget (+4 MiB)",
		.seconds = 60),
	CONF_CASE(whole_block_fault, "one fault brings one whole block"),
	CONF_CASE(promote_ahead, "touches of promoted blocks wait for nothing"),
	CONF_CASE(promote_nowait, "promotion without waiting still happens"),
	CONF_CASE(cold_first_victim, "a block hinted cold is the first to go"),
	CONF_CASE(pin_stays, "a pinned block stays in memory until its last unpin"),
	CONF_CASE(pin_beyond_budget, "pinning or promoting more than memory holds is refused"),
	{ .name = NULL },
};
