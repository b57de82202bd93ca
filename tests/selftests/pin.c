// SPDX-License-Identifier: MIT
/* Pins: counted, all or none for a range, and never at the price of the others' room. */
#include "test.h"

#define BLOCKS 64
#define DRAM 16

FIXTURE(pin)
{
	struct pool pool;
};

FIXTURE_SETUP(pin)
{
	ASSERT_EQ(0, pool_new(&self->pool, SHIFT, BLOCKS, DRAM, BLOCKS, 0));
}

FIXTURE_TEARDOWN(pin)
{
	pool_close(&self->pool);
}

static uint64_t pinned(struct pool *pool)
{
	uint64_t i, nr = 0;

	for (i = 0; i < pool->blocks; i++)
		nr += !!(info(pool, i).flags & KVTIER_BLOCKF_PINNED);
	return nr;
}

TEST_F(pin, stays_under_pressure)
{
	struct pool *pool = &self->pool;
	uint64_t i;

	fill(pool, 0, BLOCKS, 1);
	ASSERT_EQ(0, op(pool, KVTIER_OP_PIN, 10, 4));
	for (i = 0; i < BLOCKS; i++) {
		fill_word((uint64_t *)at(pool, i), i * pool->block, 1);
		EXPECT_EQ(KVTIER_TIER_DRAM, info(pool, 10 + i % 4).tier);
	}
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	EXPECT_EQ(4, pinned(pool));
	EXPECT_EQ(-EBUSY, op(pool, KVTIER_OP_DEMOTE, 10, 1));
	EXPECT_EQ(-EBUSY, op(pool, KVTIER_OP_DISCARD, 8, 4));
	EXPECT_EQ(0, check(pool, 8, 4, 1)); /* refused before anything changed */
	EXPECT_EQ(0, op(pool, KVTIER_OP_WRITEBACK, 10, 4));
	EXPECT_EQ(0, op(pool, KVTIER_OP_COLD, 10, 4));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	EXPECT_EQ(KVTIER_TIER_DRAM, info(pool, 10).tier);
	ASSERT_EQ(0, op(pool, KVTIER_OP_UNPIN, 10, 4));
	EXPECT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
	EXPECT_EQ(0, used_blocks(pool, KVTIER_TIER_DRAM));
}

TEST_F(pin, counted)
{
	struct pool *pool = &self->pool;
	int i;

	for (i = 0; i < 65535; i++)
		if (op(pool, KVTIER_OP_PIN, 3, 1))
			break;
	EXPECT_EQ(65535, i);
	EXPECT_EQ(-EINVAL, op(pool, KVTIER_OP_PIN, 3, 1));
	EXPECT_EQ(-EINVAL, op(pool, KVTIER_OP_PIN, 2, 3));
	EXPECT_EQ(1, pinned(pool));
	for (i = 0; i < 65535; i++)
		if (op(pool, KVTIER_OP_UNPIN, 3, 1))
			break;
	EXPECT_EQ(65535, i);
	EXPECT_EQ(-EINVAL, op(pool, KVTIER_OP_UNPIN, 3, 1));
	EXPECT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 3, 1));
}

/* KVTIER_FRAMES_MIN frames are the others', whoever pins. */
TEST_F(pin, leaves_room)
{
	struct pool *pool = &self->pool;

	fill(pool, 0, BLOCKS, 1);
	EXPECT_EQ(-ENOSPC, op(pool, KVTIER_OP_PIN, 0, DRAM - KVTIER_FRAMES_MIN + 1));
	EXPECT_EQ(0, pinned(pool));
	EXPECT_EQ(0, op(pool, KVTIER_OP_PIN, 0, DRAM - KVTIER_FRAMES_MIN));
	EXPECT_EQ(-ENOSPC, op(pool, KVTIER_OP_PIN, 40, 1));
	EXPECT_EQ(0, op(pool, KVTIER_OP_PIN, 0, DRAM - KVTIER_FRAMES_MIN)); /* no new frames */
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	fill(pool, 0, BLOCKS, 2);
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 2));
	EXPECT_EQ(-EINVAL, set_budget(pool, KVTIER_TIER_DRAM, 3));
	ASSERT_EQ(0, op(pool, KVTIER_OP_UNPIN, 0, DRAM - KVTIER_FRAMES_MIN));
	EXPECT_EQ(DRAM - KVTIER_FRAMES_MIN, pinned(pool));
	ASSERT_EQ(0, op(pool, KVTIER_OP_UNPIN, 0, DRAM - KVTIER_FRAMES_MIN));
	EXPECT_EQ(0, pinned(pool));
}

/* Where memory holds the whole pool, all of it may be pinned. */
TEST_F(pin, whole_pool)
{
	struct pool pool;

	ASSERT_EQ(0, pool_new(&pool, SHIFT, 32, 32, 0, 0));
	EXPECT_EQ(0, op(&pool, KVTIER_OP_PIN, 0, 32));
	EXPECT_EQ(32, pinned(&pool));
	fill(&pool, 0, 32, 1);
	EXPECT_EQ(0, check(&pool, 0, 32, 1));
	pool_close(&pool);
}

/* An unpin that names a block without a pin changes none. */
TEST_F(pin, unpin_is_checked_first)
{
	struct pool *pool = &self->pool;

	ASSERT_EQ(0, op(pool, KVTIER_OP_PIN, 4, 3));
	EXPECT_EQ(-EINVAL, op(pool, KVTIER_OP_UNPIN, 4, 4));
	EXPECT_EQ(3, pinned(pool));
	EXPECT_EQ(0, op(pool, KVTIER_OP_UNPIN, 4, 3));
}

/* Pins are the pool's: a child's count with its parent's, and end with the pool alone. */
TEST_F(pin, shared_by_processes)
{
	struct pool *pool = &self->pool;
	int status;
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid)
		_exit(op(pool, KVTIER_OP_PIN, 0, 2) ? 1 : 0);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(2, pinned(pool));
	EXPECT_EQ(-EBUSY, op(pool, KVTIER_OP_DEMOTE, 1, 1));
	EXPECT_EQ(0, op(pool, KVTIER_OP_UNPIN, 0, 2));
}

/* In CXL memory as in DRAM; a pinned block does not change its tier. */
TEST_F(pin, in_cxl)
{
	struct kvtier_pool_create request = pool_request(SHIFT, 32, 8, 32);
	struct pool pool;

	if (cxl_node() < 0)
		SKIP(return, "no node without CPUs");
	request.budget[KVTIER_TIER_CXL].bytes = 16 << SHIFT;
	ASSERT_EQ(0, pool_open(&pool, &request));
	fill(&pool, 0, 4, 1);
	ASSERT_EQ(0, op_to(&pool, KVTIER_OP_DEMOTE, KVTIER_TIER_CXL, 0, 4));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_PIN, 0, 4));
	EXPECT_EQ(KVTIER_TIER_CXL, info(&pool, 2).tier);
	EXPECT_EQ(-EBUSY, op_to(&pool, KVTIER_OP_PROMOTE, KVTIER_TIER_DRAM, 0, 4));
	fill(&pool, 4, 28, 2);
	EXPECT_EQ(KVTIER_TIER_CXL, info(&pool, 2).tier);
	EXPECT_EQ(0, check(&pool, 0, 4, 1));
	pool_close(&pool);
}

KVT_MAIN(NEEDS_STORE)
