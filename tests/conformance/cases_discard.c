// SPDX-License-Identifier: MIT
/* Discard: the block is empty again and holds nothing of any tier. */
#include "conf.h"

static int discard_reads_zero(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	uint64_t generation;

	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	generation = conf_info(pool, 3).generation;
	CONF_RET(kvt_discard(pool, 2 * block, 26 * block), 0); /* cold and resident ones */
	CONF_EQ(conf_info(pool, 3).state, KVTIER_BLOCK_EMPTY);
	CONF_EQ(conf_info(pool, 3).slot == KVTIER_NO_SLOT, true);
	CONF_GE(conf_info(pool, 3).generation, generation + 1);
	conf_check(pool, 0, 2 * block, 1);
	conf_check_zero(pool, 2 * block, 26 * block);
	conf_check(pool, 28 * block, 4 * block, 1);
	CONF_RET(kvt_discard(pool, 0, kvt_pool_bytes(pool)), 0);
	CONF_RET(kvt_discard(pool, 0, kvt_pool_bytes(pool)), 0); /* empty already */
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static int discard_frees(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	struct kvtier_stats stats;

	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	CONF_RET(kvt_writeback(pool, 0, kvt_pool_bytes(pool)), 0);
	CONF_EQ(conf_stats(pool).tier[KVTIER_TIER_NVME].used_bytes, 32 * block);
	CONF_RET(kvt_discard(pool, 0, 12 * block), 0);
	CONF_EQ(conf_stats(pool).tier[KVTIER_TIER_NVME].used_bytes, 20 * block);
	CONF_RET(kvt_discard(pool, 12 * block, 20 * block), 0);
	stats = conf_stats(pool);
	CONF_EQ(stats.tier[KVTIER_TIER_NVME].used_bytes, 0);
	CONF_EQ(stats.blocks[KVTIER_BLOCK_EMPTY], 32);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static int discard_unseals(struct conf *c)
{
	struct conf_spec spec = { .blocks = 8, .dram = 4, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);

	conf_fill(pool, 0, block, 1);
	CONF_RET(kvt_seal(pool, 0, block), 0);
	CONF_RET(kvt_discard(pool, 0, block), 0);
	conf_check_zero(pool, 0, block);
	conf_fill(pool, 0, block, 2);
	conf_demote_all(pool);
	conf_check(pool, 0, block, 2);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* Discard and refill over and over: the pool is too small for a single leak. */
static int discard_refill(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 4 };
	struct kvt_pool *pool = conf_pool(c, &spec);
	uint64_t stamp;

	for (stamp = 1; stamp < 40; stamp++) {
		conf_fill(pool, 0, kvt_pool_bytes(pool), stamp);
		conf_check(pool, 0, kvt_pool_bytes(pool), stamp);
		CONF_RET(kvt_discard(pool, 0, kvt_pool_bytes(pool)), 0);
	}
	CONF_EQ(conf_stats(pool).tier[KVTIER_TIER_NVME].used_bytes, 0);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

const struct conf_case conf_discard_cases[] = {
	CONF_CASE(discard_reads_zero, "a discarded block reads as zeroes"),
	CONF_CASE(discard_frees, "a discarded block gives back its slot and frame"),
	CONF_CASE(discard_unseals, "a discarded block is open again"),
	CONF_CASE(discard_refill, "forty lives of every block leak nothing", .seconds = 60),
	{ .name = NULL },
};
