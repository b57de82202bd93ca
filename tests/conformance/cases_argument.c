// SPDX-License-Identifier: MIT
/* Bad arguments: refused, explained, and without effect. */
#include <string.h>

#include "conf.h"

/* The errno and that something was said. */
#define REFUSED(call, error)                            \
	do {                                            \
		CONF_RET(call, error);                  \
		CONF_GE(strlen(kvt_error_detail()), 1); \
	} while (0)

static struct kvt_pool *small(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8, .flags = KVT_NO_PREDICT };

	return conf_pool(c, &spec);
}

static int bad_ranges(struct conf *c)
{
	int (*const ops[])(struct kvt_pool *, uint64_t, uint64_t) = {
		kvt_promote, kvt_demote, kvt_writeback, kvt_seal,
		kvt_discard, kvt_pin,	 kvt_unpin,	kvt_cold,
	};
	struct kvt_pool *pool = small(c);
	uint64_t block = kvt_pool_block_bytes(pool), i;

	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	for (i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		REFUSED(ops[i](pool, 1, block), -EINVAL);
		REFUSED(ops[i](pool, 0, block - 4096), -EINVAL);
		REFUSED(ops[i](pool, 0, 0), -EINVAL);
		REFUSED(ops[i](pool, 16 * block, block), -EINVAL);
		REFUSED(ops[i](pool, 15 * block, 2 * block), -EINVAL);
		REFUSED(ops[i](pool, 0, ~0ULL & ~(block - 1)), -EINVAL);
		REFUSED(ops[i](pool, ~0ULL & ~(block - 1), 2 * block), -EINVAL);
	}
	conf_check(pool, 0, kvt_pool_bytes(pool), 1);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static int bad_operations(struct conf *c)
{
	struct kvt_pool *pool = small(c);
	struct kvtier_range range = { .length = kvt_pool_block_bytes(pool) };

	REFUSED(kvt_range_op(pool, 0, 0, 0, &range, 1), -EINVAL);
	REFUSED(kvt_range_op(pool, 99, 0, 0, &range, 1), -EINVAL);
	REFUSED(kvt_range_op(pool, KVTIER_OP_PROMOTE, 17, 0, &range, 1), -EINVAL);
	REFUSED(kvt_range_op(pool, KVTIER_OP_SEAL, KVTIER_TIER_NVME, 0, &range, 1), -EINVAL);
	REFUSED(kvt_range_op(pool, KVTIER_OP_PROMOTE, 0, 0x80000000, &range, 1), -EINVAL);
	range.__reserved = 1;
	REFUSED(kvt_range_op(pool, KVTIER_OP_DEMOTE, 0, 0, &range, 1), -EINVAL);
	range.__reserved = 0;
	CONF_RET(kvt_range_op(pool, KVTIER_OP_DEMOTE, 0, 0, &range, 0), 0);
	CONF_RET(kvt_range_op(pool, KVTIER_OP_DEMOTE, 0, 0, &range, 1), 1);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* One bad range does not spoil the others, and each has its own result. */
static int results_per_range(struct conf *c)
{
	struct kvt_pool *pool = small(c);
	uint64_t block = kvt_pool_block_bytes(pool);
	struct kvtier_range ranges[3] = {
		{ .offset = 0, .length = 2 * block },
		{ .offset = 4 * block, .length = 2 * block }, /* empty: cannot be sealed */
		{ .offset = 2 * block, .length = block },
	};

	conf_fill(pool, 0, 3 * block, 1);
	CONF_RET(kvt_range_op(pool, KVTIER_OP_SEAL, 0, 0, ranges, 3), 2);
	CONF_RET(ranges[0].result, 0);
	CONF_RET(ranges[1].result, -ENODATA);
	CONF_RET(ranges[2].result, 0);
	conf_expect_bus_write(pool, 1, 0);
	conf_expect_bus_write(pool, 2, 0);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static int bad_queries(struct conf *c)
{
	struct kvt_pool *pool = small(c);
	struct kvtier_block_info infos[16];

	CONF_RET(kvt_query(pool, 0, 16, infos), 0);
	CONF_RET(kvt_query(pool, 0, 0, infos), 0);
	REFUSED(kvt_query(pool, 0, 17, infos), -EINVAL);
	REFUSED(kvt_query(pool, 16, 1, infos), -EINVAL);
	REFUSED(kvt_query(pool, ~0ULL, 2, infos), -EINVAL);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static void config_refused(struct kvt_config config, int error)
{
	struct kvt_pool *pool = (struct kvt_pool *)&config; /* must be overwritten */

	REFUSED(kvt_pool_create(&config, &pool), error);
	CONF_EQ(pool == NULL, true);
}

static int bad_configs(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8 };
	struct kvt_config good = conf_config(c, &spec), bad;

	bad = good;
	bad.size = 4;
	config_refused(bad, -EINVAL);
	bad = good;
	bad.size = sizeof(bad) + 8;
	config_refused(bad, -EINVAL);
	bad = good;
	bad.flags = 1U << 30;
	config_refused(bad, -EINVAL);
	bad = good;
	bad.pager = (enum kvt_pager)77;
	config_refused(bad, -EINVAL);
	bad = good;
	bad.block_bytes = KVT_BLOCK_MIN + 4096;
	config_refused(bad, -EINVAL);
	bad.block_bytes = KVT_BLOCK_MIN / 2;
	config_refused(bad, -EINVAL);
	bad.block_bytes = KVT_BLOCK_MAX * 2;
	config_refused(bad, -EINVAL);
	bad = good;
	bad.bytes = UINT64_MAX;
	config_refused(bad, -EINVAL);
	bad = good;
	bad.cxl_node = 4000;
	bad.cxl_bytes = 8 * c->block;
	config_refused(bad, -ENODEV);
	CONF_EQ(conf_file_count(c->dir), 0);
	return CONF_PASS;
}

/* An older caller's smaller struct is understood. */
static int config_grows(struct conf *c)
{
	struct conf_spec spec = { .blocks = 8, .dram = 8, .no_nvme = true };
	struct kvt_config config = conf_config(c, &spec);
	struct kvt_pool *pool;

	config.size = offsetof(struct kvt_config, name);
	CONF_RET(kvt_pool_create(&config, &pool), 0);
	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	kvt_pool_destroy(pool);
	kvt_pool_destroy(NULL);
	return CONF_PASS;
}

static int words(struct conf *c)
{
	(void)c;
	CONF_EQ(strlen(kvt_strerror(-ENOSPC)) > 0, true);
	CONF_EQ(strlen(kvt_strerror(-EILSEQ)) > 0, true);
	CONF_EQ(strlen(kvt_strerror(0)) > 0, true);
	CONF_EQ(kvt_version()[0] == '0' + KVT_VERSION_MAJOR, true);
	return CONF_PASS;
}

const struct conf_case conf_argument_cases[] = {
	CONF_CASE(bad_ranges, "unaligned, empty and outside ranges, for every operation"),
	CONF_CASE(bad_operations, "unknown operations, tiers, flags, reserved fields"),
	CONF_CASE(results_per_range, "each range has its own result"),
	CONF_CASE(bad_queries, "queries past the end"),
	CONF_CASE(bad_configs, "each bad field of a configuration"),
	CONF_CASE(config_grows, "a configuration of an older caller is understood"),
	CONF_CASE(words, "errors and the version have words"),
	{ .name = NULL },
};
