// SPDX-License-Identifier: MIT
/*
 * The CXL tier.  To the user pager it is any NUMA node: node 0 stands in where there
 * is no other, and every rule but the speed of the memory is the same.
 */
#include "conf.h"

#define BLOCKS 48u
#define DRAM 8u
#define CXL 12u

static struct kvt_pool *tiered_pool(struct conf *c, bool no_nvme)
{
	struct conf_spec spec = { .blocks = no_nvme ? DRAM + CXL : BLOCKS, .dram = DRAM,
				  .no_nvme = no_nvme };
	struct kvt_config config = conf_config(c, &spec);
	struct kvt_pool *pool;

	config.cxl_node = c->cxl_node;
	config.cxl_bytes = CXL * c->block;
	CONF_RET(kvt_pool_create(&config, &pool), 0);
	return pool;
}

static uint32_t blocks_in(struct kvt_pool *pool, uint32_t tier)
{
	uint32_t b, n = 0;

	for (b = 0; b < conf_blocks(pool); b++)
		n += conf_info(pool, b).tier == tier;
	return n;
}

static int move(struct kvt_pool *pool, uint32_t op, uint32_t tier, uint64_t block)
{
	struct kvtier_range range = { .offset = block * kvt_pool_block_bytes(pool),
				      .length = kvt_pool_block_bytes(pool) };
	int ret = kvt_range_op(pool, op, tier, 0, &range, 1);

	return ret < 0 ? ret : range.result;
}

/* Both memories are filled before anything leaves for NVMe, and neither beyond its budget. */
static int cxl_round_trip(struct conf *c)
{
	struct kvt_pool *pool = tiered_pool(c, false);
	uint64_t bytes = kvt_pool_bytes(pool);
	struct kvtier_stats stats;
	int turn;

	conf_fill(pool, 0, bytes, 1);
	for (turn = 0; turn < 4; turn++)
		conf_check(pool, 0, bytes, 1);
	stats = conf_stats(pool);
	CONF_LE(stats.tier[KVTIER_TIER_DRAM].peak_bytes, DRAM * c->block);
	CONF_LE(stats.tier[KVTIER_TIER_CXL].peak_bytes, CXL * c->block);
	CONF_GE(stats.tier[KVTIER_TIER_CXL].peak_bytes, (CXL - 1) * c->block);
	CONF_GE(blocks_in(pool, KVTIER_TIER_CXL), CXL / 2);
	CONF_GE(stats.tier[KVTIER_TIER_NVME].bytes_in, (BLOCKS - DRAM - CXL) * c->block);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* Between the memories by name; the content, the state and the mapping stay. */
static int cxl_between_memories(struct conf *c)
{
	struct kvt_pool *pool = tiered_pool(c, false);
	uint64_t block = kvt_pool_block_bytes(pool);

	conf_fill(pool, 0, 2 * block, 7);
	CONF_RET(kvt_seal(pool, block, block), 0);
	CONF_RET(move(pool, KVTIER_OP_DEMOTE, KVTIER_TIER_CXL, 0), 0);
	CONF_RET(move(pool, KVTIER_OP_DEMOTE, KVTIER_TIER_CXL, 1), 0);
	CONF_EQ(conf_info(pool, 0).tier, KVTIER_TIER_CXL);
	CONF_EQ(conf_info(pool, 0).node, c->cxl_node);
	CONF_EQ(conf_info(pool, 0).state, KVTIER_BLOCK_OPEN);
	CONF_EQ(conf_info(pool, 1).state, KVTIER_BLOCK_SEALED);
	CONF_EQ(conf_stats(pool).tier[KVTIER_TIER_NVME].bytes_in, 0);
	conf_check(pool, 0, 2 * block, 7);
	CONF_RET(move(pool, KVTIER_OP_PROMOTE, KVTIER_TIER_DRAM, 0), 0);
	CONF_EQ(conf_info(pool, 0).tier, KVTIER_TIER_DRAM);
	CONF_RET(move(pool, KVTIER_OP_DEMOTE, KVTIER_TIER_NVME, 1), 0);
	CONF_RET(move(pool, KVTIER_OP_PROMOTE, KVTIER_TIER_CXL, 1), 0);
	CONF_EQ(conf_info(pool, 1).tier, KVTIER_TIER_CXL);
	conf_check(pool, 0, 2 * block, 7);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* Two memories alone hold a pool that neither could. */
static int cxl_without_nvme(struct conf *c)
{
	struct kvt_pool *pool = tiered_pool(c, true);
	uint64_t bytes = kvt_pool_bytes(pool);

	conf_fill(pool, 0, bytes, 3);
	conf_check(pool, 0, bytes, 3);
	CONF_EQ(blocks_in(pool, KVTIER_TIER_DRAM), DRAM);
	CONF_EQ(blocks_in(pool, KVTIER_TIER_CXL), CXL);
	CONF_RET(move(pool, KVTIER_OP_DEMOTE, KVTIER_TIER_NVME, 0), -ENODEV);
	CONF_RET(move(pool, KVTIER_OP_PROMOTE, KVTIER_TIER_NVME, 0), -EINVAL);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* A pool without the tier says so. */
static int cxl_absent(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8 };
	struct kvt_pool *pool = conf_pool(c, &spec);

	conf_fill(pool, 0, kvt_pool_block_bytes(pool), 1);
	CONF_RET(move(pool, KVTIER_OP_DEMOTE, KVTIER_TIER_CXL, 0), -ENODEV);
	CONF_RET(move(pool, KVTIER_OP_PROMOTE, KVTIER_TIER_CXL, 0), -ENODEV);
	conf_check(pool, 0, kvt_pool_block_bytes(pool), 1);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

const struct conf_case conf_cxl_cases[] = {
	CONF_CASE(cxl_round_trip, "DRAM, then CXL, then NVMe, each within its budget",
		  .needs = CONF_NEEDS_CXL),
	CONF_CASE(cxl_between_memories, "blocks move between the memories by name",
		  .needs = CONF_NEEDS_CXL),
	CONF_CASE(cxl_without_nvme, "two memories hold what neither could",
		  .needs = CONF_NEEDS_CXL),
	CONF_CASE(cxl_absent, "the tier is refused where it is not there"),
	{ .name = NULL },
};
