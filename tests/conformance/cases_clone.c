// SPDX-License-Identifier: MIT
/* Clones share what is equal and nothing else. */
#include "conf.h"

static uint64_t nvme_blocks(struct kvt_pool *pool)
{
	return conf_stats(pool).tier[KVTIER_TIER_NVME].used_bytes / kvt_pool_block_bytes(pool);
}

static int clone_independent(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	uint32_t i;

	conf_fill(pool, 0, 4 * block, 1);
	CONF_RET(kvt_clone(pool, 16 * block, pool, 0, 4 * block), 0);
	conf_fill(pool, 0, block, 2);	       /* source changes */
	conf_fill(pool, 18 * block, block, 3); /* target changes; its words carry its own offset */
	CONF_RET(kvt_demote(pool, 0, kvt_pool_bytes(pool)), 0);
	conf_check(pool, 0, block, 2);
	conf_check(pool, block, 3 * block, 1);
	conf_check(pool, 18 * block, block, 3);
	for (i = 0; i < 4; i++)
		if (i != 2)
			CONF_EQ(*(uint64_t *)conf_addr(pool, 16 + i) == conf_word(i * block, 1),
				true);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static int clone_shares_slots(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);

	conf_fill(pool, 0, 4 * block, 1);
	CONF_RET(kvt_writeback(pool, 0, 4 * block), 0);
	CONF_EQ(nvme_blocks(pool), 4);
	CONF_RET(kvt_clone(pool, 16 * block, pool, 0, 4 * block), 0);
	CONF_EQ(nvme_blocks(pool), 4);
	CONF_EQ(conf_info(pool, 16).slot, conf_info(pool, 0).slot);
	CONF_EQ(!!(conf_info(pool, 16).flags & KVTIER_BLOCKF_SHARED), true);
	conf_fill(pool, 16 * block, 8, 9);
	CONF_RET(kvt_demote(pool, 0, kvt_pool_bytes(pool)), 0);
	CONF_EQ(nvme_blocks(pool), 5);
	CONF_EQ(conf_info(pool, 16).slot != conf_info(pool, 0).slot, true);
	CONF_RET(kvt_discard(pool, 0, 4 * block), 0);
	CONF_EQ(nvme_blocks(pool), 4);
	CONF_EQ(*(uint64_t *)conf_addr(pool, 17) == conf_word(block, 1), true);
	CONF_RET(kvt_discard(pool, 16 * block, 4 * block), 0);
	CONF_EQ(nvme_blocks(pool), 0);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* The target's old content goes; empty source blocks make empty target blocks. */
static int clone_replaces(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);

	conf_fill(pool, 0, block, 1);
	conf_fill(pool, 8 * block, 2 * block, 2);
	CONF_RET(kvt_clone(pool, 8 * block, pool, 0, 2 * block), 0);
	CONF_EQ(*(uint64_t *)conf_addr(pool, 8) == conf_word(0, 1), true);
	conf_check_zero(pool, 9 * block, block);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* A chain of clones, each changed a little, as speculative decoding makes them. */
static int clone_chain(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 8 };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	uint32_t i, j;

	conf_fill(pool, 0, block, 1);
	for (i = 1; i < 32; i++) {
		CONF_RET(kvt_clone(pool, i * block, pool, (i - 1) * block, block), 0);
		conf_fill(pool, i * block + i * 8, 8, i);
	}
	for (i = 0; i < 32; i++) {
		const uint64_t *word = (const uint64_t *)conf_addr(pool, i);

		for (j = 1; j <= i; j++)
			CONF_EQ(word[j] == conf_word(j * block + j * 8, j), true);
		CONF_EQ(word[i + 1] == conf_word((i + 1) * 8, 1), true);
	}
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static int clone_refusals(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8 };
	struct conf_spec memory = { .blocks = 8, .dram = 8, .no_nvme = true };
	struct kvt_pool *pool = conf_pool(c, &spec), *other = conf_pool(c, &memory);
	size_t block = kvt_pool_block_bytes(pool);

	conf_fill(pool, 0, 4 * block, 1);
	conf_fill(other, 0, block, 1);
	CONF_RET(kvt_clone(pool, block, pool, 0, 2 * block), -EINVAL);
	CONF_RET(kvt_clone(pool, 0, pool, block, 2 * block), -EINVAL);
	CONF_RET(kvt_clone(pool, 15 * block, pool, 0, 2 * block), -EINVAL);
	CONF_RET(kvt_clone(pool, 8 * block + 1, pool, 0, block), -EINVAL);
	CONF_RET(kvt_clone(pool, 8 * block, pool, 0, 0), -EINVAL);
	CONF_RET(kvt_pin(pool, 8 * block, block), 0);
	CONF_RET(kvt_clone(pool, 8 * block, pool, 0, block), -EBUSY);
	CONF_RET(kvt_unpin(pool, 8 * block, block), 0);
	/* The user pager has no common store, the kernel's pools are not on the same one. */
	CONF_RET(kvt_clone(pool, 8 * block, other, 0, block), -EXDEV);
	CONF_RET(kvt_clone(other, 4 * block, other, 0, block),
		 c->pager == KVT_PAGER_USER ? -EOPNOTSUPP : 0);
	CONF_RET(kvt_clone(pool, 8 * block, pool, 0, block), 0);
	conf_check(pool, 0, 4 * block, 1);
	kvt_pool_destroy(other);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* Two pools on one store: the source is written, the target shares its slots. */
static int clone_between_pools(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *from = conf_pool(c, &spec), *to = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(from);

	conf_fill(from, 0, 8 * block, 1);
	CONF_RET(kvt_seal(from, 0, 2 * block), 0);
	conf_fill(to, 0, 4 * block, 2);
	CONF_RET(kvt_clone(to, 0, from, 0, 8 * block), 0);
	CONF_EQ(conf_info(to, 3).slot, conf_info(from, 3).slot);
	conf_check(to, 0, 8 * block, 1);
	conf_expect_bus_write(to, 1, 0); /* sealed there, sealed here */
	conf_fill(to, 4 * block, block, 3);
	conf_fill(from, 5 * block, block, 4);
	conf_demote_all(to);
	conf_demote_all(from);
	conf_check(from, 4 * block, block, 1);
	conf_check(from, 5 * block, block, 4);
	kvt_pool_destroy(from);
	conf_check(to, 0, 4 * block, 1);
	conf_check(to, 4 * block, block, 3);
	conf_check(to, 5 * block, 3 * block, 1);
	kvt_pool_destroy(to);
	return CONF_PASS;
}

const struct conf_case conf_clone_cases[] = {
	CONF_CASE(clone_independent, "writes to either side are not seen by the other"),
	CONF_CASE(clone_shares_slots, "equal blocks take one slot until one changes"),
	CONF_CASE(clone_replaces, "the target's old content is gone"),
	CONF_CASE(clone_chain, "clones of clones keep their own history"),
	CONF_CASE(clone_between_pools, "pools on one store share slots, and nothing else",
		  .needs = CONF_NEEDS_STORE),
	CONF_CASE(clone_refusals, "each bad clone is refused with its own errno"),
	{ .name = NULL },
};
