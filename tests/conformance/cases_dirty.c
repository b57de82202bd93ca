// SPDX-License-Identifier: MIT
/* Write tracking: what did not change is not written again, what did is. */
#include "conf.h"

static uint64_t written(struct kvt_pool *pool)
{
	struct kvtier_stats stats = conf_stats(pool);

	/* Two counters of the same thing. */
	CONF_EQ(stats.tier[KVTIER_TIER_NVME].bytes_in,
		stats.written_blocks * kvt_pool_block_bytes(pool));
	return stats.written_blocks;
}

static struct kvt_pool *filled(struct conf *c, uint32_t flags)
{
	struct conf_spec spec = { .blocks = 32, .dram = 8, .flags = flags };
	struct kvt_pool *pool = conf_pool(c, &spec);

	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	CONF_RET(kvt_writeback(pool, 0, kvt_pool_bytes(pool)), 0);
	return pool;
}

static int clean_cycle(struct conf *c, uint32_t flags)
{
	struct kvt_pool *pool = filled(c, flags);
	uint64_t before = written(pool);
	uint32_t pass;

	CONF_GE(before, 32);
	for (pass = 0; pass < 4; pass++)
		conf_check(pool, 0, kvt_pool_bytes(pool), 1);
	CONF_EQ(written(pool), before);
	CONF_GE(conf_stats(pool).clean_drops, 32);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static int clean_never_rewritten(struct conf *c)
{
	clean_cycle(c, 0);
	return clean_cycle(c, KVT_NO_PREDICT);
}

static int one_byte_one_block(struct conf *c)
{
	struct kvt_pool *pool = filled(c, KVT_NO_PREDICT);
	size_t block = kvt_pool_block_bytes(pool);
	uint64_t before, generation;

	conf_demote_all(pool);
	before = written(pool);
	generation = conf_info(pool, 9).generation;
	conf_touch(pool, 9);
	conf_addr(pool, 9)[block - 1] ^= 0x40;
	CONF_GE(conf_info(pool, 9).generation, generation + 1);
	conf_demote_all(pool);
	CONF_EQ(written(pool), before + 1);
	conf_check(pool, 0, 10 * block - 8, 1);
	conf_addr(pool, 9)[block - 1] ^= 0x40;
	conf_demote_all(pool);
	conf_check(pool, 0, kvt_pool_bytes(pool), 1);
	CONF_EQ(written(pool), before + 2);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* The first access to a cold block is a store: the rest of it must survive. */
static int store_to_cold(struct conf *c)
{
	struct kvt_pool *pool = filled(c, KVT_NO_PREDICT);
	size_t block = kvt_pool_block_bytes(pool);
	uint32_t i;

	conf_demote_all(pool);
	for (i = 0; i < 32; i++)
		conf_fill(pool, i * block + 4096, 8, 2);
	conf_demote_all(pool);
	for (i = 0; i < 32; i++) {
		conf_check(pool, i * block, 4096, 1);
		conf_check(pool, i * block + 4096, 8, 2);
		conf_check(pool, i * block + 4104, block - 4104, 1);
	}
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* Stores after a write-back, while the block stays mapped, are seen too. */
static int store_after_writeback(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	uint64_t stamp;

	for (stamp = 1; stamp < 20; stamp++) {
		conf_fill(pool, 0, 4 * block, stamp);
		CONF_RET(kvt_writeback(pool, 0, 4 * block), 0);
		CONF_EQ(conf_info(pool, 2).flags & KVTIER_BLOCKF_DIRTY, 0);
		conf_fill(pool, 2 * block, block, stamp + 100);
		CONF_EQ(!!(conf_info(pool, 2).flags & KVTIER_BLOCKF_DIRTY), true);
		CONF_RET(kvt_demote(pool, 0, 4 * block), 0);
		conf_check(pool, 0, 2 * block, stamp);
		conf_check(pool, 2 * block, block, stamp + 100);
	}
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* Demoting what never held anything costs nothing and leaves nothing. */
static int empty_never_written(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8 };
	struct kvt_pool *pool = conf_pool(c, &spec);

	CONF_RET(kvt_demote(pool, 0, kvt_pool_bytes(pool)), 0);
	CONF_RET(kvt_writeback(pool, 0, kvt_pool_bytes(pool)), 0);
	CONF_EQ(written(pool), 0);
	CONF_EQ(conf_stats(pool).blocks[KVTIER_BLOCK_EMPTY], 16);
	conf_check_zero(pool, 0, kvt_pool_bytes(pool));
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

const struct conf_case conf_dirty_cases[] = {
	CONF_CASE(clean_never_rewritten, "read-only cycles write nothing"),
	CONF_CASE(one_byte_one_block, "one changed byte costs exactly one block written"),
	CONF_CASE(store_to_cold, "a store to a cold block keeps the rest of it"),
	CONF_CASE(store_after_writeback, "a store after a write-back is not lost"),
	CONF_CASE(empty_never_written, "empty blocks are neither written nor kept"),
	{ .name = NULL },
};
