// SPDX-License-Identifier: MIT
/* Clones: in a pool and between pools, shared until one side is written to. */
#include <pthread.h>
#include <sys/mman.h>

#include "test.h"

#define BLOCKS 64

FIXTURE(clone)
{
	struct pool a, b;
};

FIXTURE_VARIANT(clone)
{
	uint32_t shift;
	uint64_t dram;
};

FIXTURE_VARIANT_ADD(clone, tight)
{
	.shift = SHIFT,
	.dram = 8,
};

FIXTURE_VARIANT_ADD(clone, roomy)
{
	.shift = SHIFT,
	.dram = BLOCKS,
};

FIXTURE_VARIANT_ADD(clone, huge)
{
	.shift = HUGE_SHIFT,
	.dram = 16,
};

FIXTURE_SETUP(clone)
{
	ASSERT_EQ(0, pool_new(&self->a, variant->shift, BLOCKS, variant->dram, 2 * BLOCKS,
			      KVTIER_POOL_NO_PREDICT));
	ASSERT_EQ(0, pool_new(&self->b, variant->shift, BLOCKS, variant->dram, 2 * BLOCKS,
			      KVTIER_POOL_NO_PREDICT));
}

FIXTURE_TEARDOWN(clone)
{
	pool_close(&self->b);
	pool_close(&self->a);
}

TEST_F(clone, within)
{
	struct pool *a = &self->a;
	uint64_t i;

	fill(a, 0, 8, 1);
	ASSERT_EQ(0, clone_blocks(a, 16, a, 0, 8));
	for (i = 0; i < 8; i++)
		EXPECT_EQ(0, check_as(a, 16 + i, i, 1));
	fill_word((uint64_t *)at(a, 0), 5, 5); /* the source changes */
	fill_word((uint64_t *)at(a, 17), 6, 6); /* the clone changes */
	EXPECT_EQ(0, check_as(a, 16, 0, 1));
	EXPECT_EQ(0, check(a, 1, 7, 1));
	EXPECT_EQ(1, check_as(a, 17, 1, 1));
	EXPECT_EQ(1, check(a, 0, 1, 1));
	ASSERT_EQ(0, op(a, KVTIER_OP_DEMOTE, 0, BLOCKS));
	EXPECT_EQ(0, check_as(a, 16, 0, 1));
	EXPECT_EQ(1, check_as(a, 17, 1, 1));
	EXPECT_EQ(word_of(6, 6), *(uint64_t *)at(a, 17));
	EXPECT_EQ(word_of(5, 5), *(uint64_t *)at(a, 0));
}

/* A clone of blocks in memory takes no frames before it is written to. */
TEST_F(clone, shares_frames)
{
	struct pool *a = &self->a;
	uint64_t used;

	if (variant->dram < BLOCKS)
		SKIP(return, "memory is too small to tell");
	fill(a, 0, 8, 1);
	used = used_blocks(a, KVTIER_TIER_DRAM);
	ASSERT_EQ(0, clone_blocks(a, 16, a, 0, 8));
	EXPECT_EQ(0, check_as(a, 20, 4, 1));
	EXPECT_EQ(used, used_blocks(a, KVTIER_TIER_DRAM));
	EXPECT_TRUE(info(a, 16).flags & KVTIER_BLOCKF_SHARED);
	fill_word((uint64_t *)at(a, 16), 0, 9);
	EXPECT_EQ(used + 1, used_blocks(a, KVTIER_TIER_DRAM));
	EXPECT_FALSE(info(a, 16).flags & KVTIER_BLOCKF_SHARED);
}

TEST_F(clone, between_pools)
{
	struct pool *a = &self->a, *b = &self->b;
	uint64_t i;

	fill(a, 0, 8, 1);
	ASSERT_EQ(0, op(a, KVTIER_OP_SEAL, 4, 2));
	fill(b, 8, 8, 2);
	ASSERT_EQ(0, clone_blocks(b, 8, a, 0, 12)); /* four of them empty */
	for (i = 0; i < 8; i++)
		EXPECT_EQ(0, check_as(b, 8 + i, i, 1));
	EXPECT_EQ(0, check_zero(b, 16, 4));
	EXPECT_EQ(SIGBUS, try_write(at(b, 12)));
	EXPECT_EQ(0, try_write(at(b, 10)));
	EXPECT_EQ(info(a, 5).slot, info(b, 13).slot);
	EXPECT_TRUE(info(b, 13).flags & KVTIER_BLOCKF_SHARED);
	fill(a, 0, 4, 3);
	ASSERT_EQ(0, op(a, KVTIER_OP_DISCARD, 4, 4));
	ASSERT_EQ(0, op(b, KVTIER_OP_DEMOTE, 0, BLOCKS));
	EXPECT_EQ(0, check_as(b, 8, 0, 1));
	EXPECT_EQ(0, check_as(b, 15, 7, 1));
}

/* A clone outlives the pool it came from. */
TEST_F(clone, outlives_its_source)
{
	struct pool *b = &self->b, c;

	ASSERT_EQ(0, pool_new(&c, variant->shift, BLOCKS, 8, 2 * BLOCKS, 0));
	fill(&c, 0, 16, 4);
	ASSERT_EQ(0, clone_blocks(b, 0, &c, 0, 16));
	pool_close(&c);
	ASSERT_EQ(0, pool_new(&c, variant->shift, BLOCKS, 8, 2 * BLOCKS, 0));
	fill(&c, 0, BLOCKS, 5); /* over what slots are free now */
	ASSERT_EQ(0, op(&c, KVTIER_OP_DEMOTE, 0, BLOCKS));
	EXPECT_EQ(0, check(b, 0, 16, 4));
	pool_close(&c);
}

/* Many clones of one block, then each on its own way. */
TEST_F(clone, many)
{
	struct pool *a = &self->a;
	uint64_t i;

	fill(a, 0, 1, 1);
	for (i = 1; i < BLOCKS; i++)
		ASSERT_EQ(0, clone_blocks(a, i, a, i / 2, 1));
	for (i = 0; i < BLOCKS; i += 2)
		fill_word((uint64_t *)at(a, i) + 1 + i, i, 7);
	ASSERT_EQ(0, op(a, KVTIER_OP_DEMOTE, 0, BLOCKS));
	for (i = 0; i < BLOCKS; i++)
		EXPECT_EQ(i % 2 ? 0 : 1, check_as(a, i, 0, 1));
	ASSERT_EQ(0, op(a, KVTIER_OP_DISCARD, 0, BLOCKS - 1));
	EXPECT_EQ(0, check_as(a, BLOCKS - 1, 0, 1));
	EXPECT_EQ(1, used_blocks(a, KVTIER_TIER_NVME));
}

TEST_F(clone, refused)
{
	struct pool *a = &self->a, *b = &self->b, other;
	struct kvtier_clone arg = { .size = sizeof(arg), .src_fd = a->fd, .length = 2 * a->block };

	ASSERT_EQ(0, pool_new(&other, SHIFT + 1, 16, 8, 16, 0));
	fill(a, 0, 4, 1);
	EXPECT_EQ(-EINVAL, clone_blocks(a, 1, a, 0, 2));
	EXPECT_EQ(-EINVAL, clone_blocks(a, 0, a, 1, 2));
	EXPECT_EQ(-EINVAL, clone_blocks(a, 0, a, 0, 1));
	EXPECT_EQ(-EINVAL, clone_blocks(a, BLOCKS - 1, a, 0, 2));
	EXPECT_EQ(-EINVAL, clone_blocks(a, 0, a, BLOCKS - 1, 2));
	EXPECT_EQ(-EINVAL, clone_blocks(a, 8, a, 0, 0));
	arg.dst_offset = 4096;
	EXPECT_EQ(-EINVAL, call(b->fd, KVTIER_IOC_CLONE, &arg));
	arg.dst_offset = 0;
	arg.src_offset = 4096;
	EXPECT_EQ(-EINVAL, call(b->fd, KVTIER_IOC_CLONE, &arg));
	EXPECT_EQ(-EXDEV, clone_blocks(&other, 0, a, 0, 1));
	ASSERT_EQ(0, op(b, KVTIER_OP_PIN, 9, 1));
	EXPECT_EQ(-EBUSY, clone_blocks(b, 8, a, 0, 4));
	EXPECT_EQ(KVTIER_BLOCK_EMPTY, info(b, 8).state); /* found before anything changed */
	ASSERT_EQ(0, op(b, KVTIER_OP_UNPIN, 9, 1));
	EXPECT_EQ(0, clone_blocks(b, 8, a, 0, 4));
	pool_close(&other);
}

/* While its source is written to, a clone is of one moment for each word, and stays. */
struct writer {
	struct pool *pool;
	volatile bool stop;
};

static void *write_always(void *arg)
{
	struct writer *w = arg;
	volatile uint64_t *words = (uint64_t *)w->pool->mem;
	uint64_t i, value;

	for (value = 1; !w->stop; value++)
		for (i = 0; i < 4; i++)
			words[i * w->pool->block / 8] = value;
	return NULL;
}

TEST_F(clone, of_a_block_being_written)
{
	struct pool *a = &self->a;
	struct writer w = { .pool = a };
	uint64_t seen[4], i, round;
	pthread_t thread;

	fill(a, 0, 4, 1);
	ASSERT_EQ(0, pthread_create(&thread, NULL, write_always, &w));
	for (round = 0; round < 40; round++) {
		ASSERT_EQ(0, clone_blocks(a, 8, a, 0, 4));
		for (i = 0; i < 4; i++)
			seen[i] = *(volatile uint64_t *)at(a, 8 + i);
		if (round % 4 == 0)
			ASSERT_EQ(0, op(a, KVTIER_OP_DEMOTE, 8, 4));
		for (i = 0; i < 4; i++)
			EXPECT_EQ(seen[i], *(volatile uint64_t *)at(a, 8 + i));
	}
	w.stop = true;
	pthread_join(thread, NULL);
	for (i = 0; i < 4; i++)
		EXPECT_EQ(1, check_as(a, i, i, 1)); /* all but the word that was written */
}

/* Nothing of a clone is left behind: the slots are free again. */
TEST_F(clone, leaves_nothing)
{
	struct pool *a = &self->a, *b = &self->b;
	int round;

	for (round = 1; round < 20; round++) {
		fill(a, 0, 16, round);
		ASSERT_EQ(0, clone_blocks(a, 16, a, 0, 16));
		ASSERT_EQ(0, clone_blocks(b, 0, a, 8, 16));
		ASSERT_EQ(0, op(a, KVTIER_OP_DEMOTE, 0, 32));
		EXPECT_EQ(0, check_as(b, 4, 12, round));
		ASSERT_EQ(0, op(a, KVTIER_OP_DISCARD, 0, BLOCKS));
		ASSERT_EQ(0, op(b, KVTIER_OP_DISCARD, 0, BLOCKS));
	}
	EXPECT_EQ(0, used_blocks(a, KVTIER_TIER_NVME));
	EXPECT_EQ(0, used_blocks(b, KVTIER_TIER_NVME));
}

KVT_MAIN(NEEDS_STORE)
