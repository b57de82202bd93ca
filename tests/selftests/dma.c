// SPDX-License-Identifier: MIT
/*
 * Copies between DRAM and CXL by a DMA engine: the test's own, in software, which is made
 * to fail, to be silent, to report late and to go away.  Whatever it does, the bytes are
 * right and the processor does what the engine did not.
 */
#include <pthread.h>
#include <sys/mman.h>

#include "test.h"

#define BLOCKS 32
#define ENGINE "/sys/module/kvtier_test_dma/parameters/"
#define DRIVER "/sys/bus/platform/drivers/kvtier_test_dma/"
#define POLICY KVT_CLASS "policy/"

FIXTURE(dma)
{
	struct pool pool;
	long long threshold, timeout; /* as they were */
};

static int load_engine(const char *parameters)
{
	char command[KVT_TEXT];

	snprintf(command, sizeof(command), "modprobe kvtier_test_dma %s 2>/dev/null", parameters);
	return system(command);
}

/* The module holds a channel for some seconds after the last copy. */
static int unload_engine(void)
{
	int tries = 1200, ret;

	do
		ret = system("rmmod kvtier_test_dma 2>/dev/null");
	while (ret && tries-- && !usleep(100000));
	return ret;
}

static int engine_set(const char *name, unsigned int value)
{
	char path[KVT_TEXT];

	snprintf(path, sizeof(path), ENGINE "%s", name);
	return attr_writef(path, "%u", value);
}

static long long engine_get(const char *name)
{
	char path[KVT_TEXT];

	snprintf(path, sizeof(path), ENGINE "%s", name);
	return attr_number(path);
}

static long long counter(struct pool *pool, const char *name)
{
	char path[KVT_TEXT];

	snprintf(path, sizeof(path), KVT_CLASS "pool%u/%s", pool->id, name);
	return attr_number(path);
}

static int new_pool(struct pool *pool, uint32_t shift)
{
	struct kvtier_pool_create request = pool_request(shift, BLOCKS, BLOCKS, BLOCKS);

	request.flags = KVTIER_POOL_NO_PREDICT;
	request.budget[KVTIER_TIER_CXL].bytes = (uint64_t)BLOCKS << shift;
	return pool_open(pool, &request);
}

FIXTURE_SETUP(dma)
{
	if (load_engine("nchan=2"))
		SKIP(return, "no module kvtier_test_dma");
	self->threshold = attr_number(POLICY "dma_threshold");
	self->timeout = attr_number(POLICY "dma_timeout_ms");
	ASSERT_EQ(0, attr_writef(POLICY "dma_threshold", "%u", 1U << SHIFT));
	/* One that was let go because it failed is asked for again after ten seconds. */
	ASSERT_EQ(0, new_pool(&self->pool, SHIFT));
	fill(&self->pool, 0, BLOCKS, 1);
}

FIXTURE_TEARDOWN(dma)
{
	pool_close(&self->pool);
	attr_writef(POLICY "dma_threshold", "%lld", self->threshold);
	attr_writef(POLICY "dma_timeout_ms", "%lld", self->timeout);
	EXPECT_EQ(0, unload_engine());
}

static int to_cxl(struct pool *pool)
{
	return op_to(pool, KVTIER_OP_DEMOTE, KVTIER_TIER_CXL, 0, BLOCKS);
}

static int to_dram(struct pool *pool)
{
	return op_to(pool, KVTIER_OP_PROMOTE, KVTIER_TIER_DRAM, 0, BLOCKS);
}

/* Move all of it to and fro until the engine was asked; false: it never was. */
static bool until(struct pool *pool, const char *name, long long least)
{
	uint64_t end = now_ms() + 240000;

	while (counter(pool, name) < least) {
		if (to_cxl(pool) || to_dram(pool) || now_ms() > end)
			return false;
		usleep(20000);
	}
	return true;
}

static uint64_t in_tier(struct pool *pool, uint32_t tier)
{
	uint64_t i, nr = 0;

	for (i = 0; i < BLOCKS; i++)
		nr += info(pool, i).tier == tier;
	return nr;
}

TEST_F(dma, copies)
{
	struct pool *pool = &self->pool;
	char text[KVT_TEXT];
	long long copies;

	ASSERT_TRUE(until(pool, "dma_copies", 1));
	copies = counter(pool, "dma_copies");
	ASSERT_EQ(0, to_cxl(pool));
	EXPECT_EQ(BLOCKS, in_tier(pool, KVTIER_TIER_CXL));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	ASSERT_EQ(0, to_dram(pool));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	EXPECT_GE(counter(pool, "dma_copies"), copies + 1);
	EXPECT_EQ(counter(pool, "dma_copies"), engine_get("copied"));
	EXPECT_EQ(0, counter(pool, "dma_errors"));
	ASSERT_EQ(0, attr_read(POLICY "dma_channels", text));
	EXPECT_EQ(0, strncmp(text, "dma", 3)) TH_LOG("%s", text);
}

/* What is smaller than the threshold is the processor's. */
TEST_F(dma, below_the_threshold)
{
	struct pool *pool = &self->pool;

	ASSERT_EQ(0, attr_writef(POLICY "dma_threshold", "%u", (1U << SHIFT) + 1));
	ASSERT_EQ(0, to_cxl(pool));
	ASSERT_EQ(0, to_dram(pool));
	EXPECT_EQ(0, counter(pool, "dma_copies"));
	EXPECT_EQ(2 * BLOCKS, counter(pool, "cpu_copies"));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
}

/* Half done and reported as an error: done again by the processor. */
TEST_F(dma, errors)
{
	struct pool *pool = &self->pool;

	ASSERT_EQ(0, engine_set("fail_every", 3));
	ASSERT_TRUE(until(pool, "dma_errors", 5));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	ASSERT_EQ(0, to_cxl(pool));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	EXPECT_EQ(counter(pool, "dma_errors"), engine_get("failed"));
	EXPECT_EQ(counter(pool, "dma_copies"), engine_get("copied"));
}

/* One that only fails is not asked for every block. */
TEST_F(dma, always_fails)
{
	struct pool *pool = &self->pool;

	ASSERT_EQ(0, engine_set("fail_every", 1));
	ASSERT_TRUE(until(pool, "dma_errors", 1));
	ASSERT_EQ(0, to_cxl(pool));
	ASSERT_EQ(0, to_dram(pool));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	EXPECT_EQ(0, counter(pool, "dma_copies"));
	EXPECT_GT(counter(pool, "cpu_copies"), 2 * BLOCKS);
}

/* Never reported: stopped after the time that is set, and copied by the processor. */
TEST_F(dma, lost)
{
	struct pool *pool = &self->pool;

	ASSERT_EQ(0, attr_write(POLICY "dma_timeout_ms", "50"));
	ASSERT_EQ(0, engine_set("drop_every", 4));
	ASSERT_TRUE(until(pool, "dma_errors", 3));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	ASSERT_EQ(0, to_cxl(pool));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	EXPECT_GE(engine_get("dropped"), 3);
}

/* One too large for the engine is refused by it, and the processor's. */
TEST_F(dma, too_large_for_it)
{
	struct pool *pool = &self->pool;

	ASSERT_EQ(0, engine_set("max_bytes", 4096));
	ASSERT_TRUE(until(pool, "dma_errors", 1));
	EXPECT_EQ(0, engine_get("copied"));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
}

/* A block as large as a PMD entry. */
TEST_F(dma, huge)
{
	struct pool pool;

	ASSERT_EQ(0, new_pool(&pool, HUGE_SHIFT));
	fill(&pool, 0, BLOCKS, 2);
	ASSERT_TRUE(until(&pool, "dma_copies", 1));
	ASSERT_EQ(0, to_cxl(&pool));
	EXPECT_EQ(0, check(&pool, 0, BLOCKS, 2));
	pool_close(&pool);
}

struct mover {
	struct pool *pool;
	volatile bool stop;
	int error;
	uint64_t moves;
};

static void *move_always(void *arg)
{
	struct mover *m = arg;
	uint64_t seed = 11;
	int ret;

	while (!m->stop) {
		ret = op_to(m->pool, next_random(&seed) % 2 ? KVTIER_OP_DEMOTE : KVTIER_OP_PROMOTE,
			    seed % 3 ? KVTIER_TIER_CXL : KVTIER_TIER_DRAM, seed % BLOCKS, 1);
		if (ret && ret != -EBUSY && ret != -EINVAL)
			m->error = ret;
		m->moves++;
	}
	return NULL;
}

/* Stores while an engine that fails and forgets copies what they are made to. */
TEST_F(dma, under_stores)
{
	struct pool *pool = &self->pool;
	struct mover m = { .pool = pool };
	uint64_t stamp;
	pthread_t thread;

	ASSERT_EQ(0, attr_write(POLICY "dma_timeout_ms", "20"));
	ASSERT_EQ(0, engine_set("delay_us", 100));
	ASSERT_EQ(0, engine_set("fail_every", 7));
	ASSERT_EQ(0, engine_set("drop_every", 23));
	ASSERT_EQ(0, pthread_create(&thread, NULL, move_always, &m));
	for (stamp = 2; stamp < 22; stamp++) {
		fill(pool, 0, BLOCKS, stamp);
		ASSERT_EQ(0, check(pool, 0, BLOCKS, stamp));
	}
	m.stop = true;
	pthread_join(thread, NULL);
	EXPECT_EQ(0, m.error);
	EXPECT_GT(m.moves, 0);
}

/* The engine's device leaves its driver while copies go to it, and comes back. */
TEST_F(dma, engine_leaves)
{
	struct pool *pool = &self->pool;
	struct mover m = { .pool = pool };
	pthread_t thread;
	int i;

	ASSERT_TRUE(until(pool, "dma_copies", 1));
	ASSERT_EQ(0, pthread_create(&thread, NULL, move_always, &m));
	for (i = 0; i < 4; i++) {
		EXPECT_EQ(0, attr_write(DRIVER "unbind", "kvtier_test_dma"));
		usleep(100000);
		EXPECT_EQ(0, attr_write(DRIVER "bind", "kvtier_test_dma"));
		usleep(100000);
	}
	m.stop = true;
	pthread_join(thread, NULL);
	EXPECT_EQ(0, m.error);
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	ASSERT_TRUE(until(pool, "dma_copies", counter(pool, "dma_copies") + 1));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
}

/* ---- an engine that cannot be stopped, as Intel's ------------------------------------ */

FIXTURE(dsa)
{
	struct pool pool;
	long long threshold, timeout;
};

FIXTURE_SETUP(dsa)
{
	if (load_engine("nchan=2 idxd_like=1"))
		SKIP(return, "no module kvtier_test_dma");
	self->threshold = attr_number(POLICY "dma_threshold");
	self->timeout = attr_number(POLICY "dma_timeout_ms");
	ASSERT_EQ(0, attr_writef(POLICY "dma_threshold", "%u", 1U << SHIFT));
	ASSERT_EQ(0, attr_write(POLICY "dma_timeout_ms", "50"));
	ASSERT_EQ(0, new_pool(&self->pool, SHIFT));
	fill(&self->pool, 0, BLOCKS, 1);
}

FIXTURE_TEARDOWN(dsa)
{
	pool_close(&self->pool);
	attr_writef(POLICY "dma_threshold", "%lld", self->threshold);
	attr_writef(POLICY "dma_timeout_ms", "%lld", self->timeout);
	EXPECT_EQ(0, unload_engine());
}

static bool channel_is_lost(void)
{
	char text[KVT_TEXT];

	return !attr_read(POLICY "dma_channels", text) && strstr(text, "(lost)");
}

/*
 * Its copy may be done at any time, so nobody is given the memory it goes to; the block
 * stays where it is, and what is written late hits nothing.  When it has reported the
 * channel is used again.
 */
TEST_F(dsa, late)
{
	struct pool *pool = &self->pool;
	uint64_t end = now_ms() + 400000, stamp = 2;
	int ret;

	ASSERT_TRUE(until(pool, "dma_copies", 1));
	ASSERT_EQ(0, engine_set("late_ms", 3000));
	ASSERT_EQ(0, engine_set("drop_every", 5));
	while (!engine_get("dropped") && now_ms() < end) {
		to_cxl(pool);
		to_dram(pool);
	}
	ASSERT_EQ(0, engine_set("drop_every", 0));
	ASSERT_GE(engine_get("dropped"), 1);
	EXPECT_TRUE(channel_is_lost());
	/* From here on a copy that is only slow is none that is lost. */
	ASSERT_EQ(0, attr_write(POLICY "dma_timeout_ms", "60000"));
	while (engine_get("late") < engine_get("dropped") && now_ms() < end) {
		fill(pool, 0, BLOCKS, ++stamp);
		to_cxl(pool);
		EXPECT_EQ(0, check(pool, 0, BLOCKS, stamp));
		fill(pool, 0, BLOCKS, ++stamp);
		to_dram(pool);
		EXPECT_EQ(0, check(pool, 0, BLOCKS, stamp));
	}
	EXPECT_EQ(engine_get("late"), engine_get("dropped"));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, stamp));
	while (channel_is_lost() && now_ms() < end)
		usleep(50000);
	EXPECT_FALSE(channel_is_lost());
	/* What the late copies went to was given up, and counts in the budget. */
	ret = to_cxl(pool);
	EXPECT_TRUE(!ret || ret == -ENOSPC) TH_LOG("%d", ret);
	EXPECT_GE(in_tier(pool, KVTIER_TIER_CXL), BLOCKS - engine_get("dropped"));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, stamp));
}

KVT_MAIN(NEEDS_STORE | NEEDS_CXL | NEEDS_ROOT)
