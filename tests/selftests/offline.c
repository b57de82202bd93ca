// SPDX-License-Identifier: MIT
/* A node of CXL memory that is taken away: its blocks move, or it is refused. */
#include <glob.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "test.h"

#define BLOCKS 64
#define DRAM 8
#define CXL 24
#define NODES KVT_CLASS "cxl/nodes"

FIXTURE(offline)
{
	struct pool pool;
	char nodes[KVT_TEXT]; /* as they were */
	int node;
};

FIXTURE_SETUP(offline)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, BLOCKS);

	ASSERT_EQ(0, attr_read(NODES, self->nodes));
	self->node = cxl_node();
	request.budget[KVTIER_TIER_CXL].bytes = CXL << SHIFT;
	request.flags = KVTIER_POOL_NO_PREDICT;
	ASSERT_EQ(0, pool_open(&self->pool, &request));
	fill(&self->pool, 0, BLOCKS, 1);
	ASSERT_EQ(0, op_to(&self->pool, KVTIER_OP_DEMOTE, KVTIER_TIER_NVME, 0, BLOCKS));
	ASSERT_EQ(0, op_to(&self->pool, KVTIER_OP_PROMOTE, KVTIER_TIER_CXL, 0, 16));
	ASSERT_EQ(self->node, info(&self->pool, 3).node);
}

FIXTURE_TEARDOWN(offline)
{
	attr_writef(NODES, "%s\n", self->nodes);
	pool_close(&self->pool);
}

static uint64_t blocks_on(struct pool *pool, int node)
{
	uint64_t i, nr = 0;

	for (i = 0; i < BLOCKS; i++)
		nr += info(pool, i).node == node;
	return nr;
}

TEST_F(offline, taken_out_of_the_tier)
{
	struct pool *pool = &self->pool;
	struct kvtier_event event;

	fill(pool, 4, 4, 2); /* dirty ones too */
	ASSERT_EQ(0, attr_write(NODES, "\n"));
	EXPECT_EQ(0, blocks_on(pool, self->node));
	EXPECT_EQ(-1, cxl_node());
	ASSERT_TRUE(next_event(pool, KVTIER_EVENT_NODE_OFFLINE, 20000, &event));
	EXPECT_EQ(KVTIER_TIER_CXL, event.tier);
	EXPECT_EQ(self->node, event.node);
	EXPECT_EQ(0, check(pool, 0, 4, 1));
	EXPECT_EQ(0, check(pool, 4, 4, 2));
	EXPECT_EQ(0, check(pool, 8, BLOCKS - 8, 1));
	EXPECT_EQ(0, blocks_on(pool, self->node));
	fill(pool, 0, BLOCKS, 3);
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 3));
	ASSERT_EQ(0, attr_writef(NODES, "%s\n", self->nodes));
	EXPECT_EQ(self->node, cxl_node());
	ASSERT_EQ(0, op_to(pool, KVTIER_OP_DEMOTE, KVTIER_TIER_NVME, 0, BLOCKS));
	EXPECT_EQ(0, op_to(pool, KVTIER_OP_PROMOTE, KVTIER_TIER_CXL, 0, 8));
	EXPECT_EQ(8, blocks_on(pool, self->node));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 3));
}

/* While threads read and write. */
static int hammer(struct pool *pool, uint64_t first)
{
	uint64_t end = now_ms() + 4000, stamp;

	for (stamp = 1; now_ms() < end; stamp++) {
		fill(pool, first, 8, stamp);
		if (check(pool, first, 8, stamp))
			return 1;
	}
	return 0;
}

TEST_F(offline, under_load)
{
	struct pool *pool = &self->pool;
	pid_t pid[3];
	int i, status, ret;

	for (i = 0; i < 3; i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (!pid[i])
			_exit(hammer(pool, (uint64_t)i * 8));
	}
	for (i = 0; i < 10; i++) {
		ret = attr_write(NODES, "\n");
		EXPECT_TRUE(!ret || ret == -EBUSY) TH_LOG("%d", ret);
		if (!ret)
			EXPECT_EQ(0, blocks_on(pool, self->node));
		EXPECT_EQ(0, attr_writef(NODES, "%s\n", self->nodes));
		usleep(100000);
	}
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(pid[i], waitpid(pid[i], &status, 0));
		EXPECT_EQ(0, status);
	}
	EXPECT_EQ(0, check(pool, 24, BLOCKS - 24, 1));
}

/* A block that a pipe holds stays, so the node does. */
TEST_F(offline, refused_while_held)
{
	struct pool *pool = &self->pool;
	struct iovec part = { at(pool, 3), 4096 };
	char text[KVT_TEXT], back[4096];
	int fds[2];

	ASSERT_EQ(0, pipe(fds));
	EXPECT_EQ(0, check(pool, 3, 1, 1));
	ASSERT_EQ(self->node, info(pool, 3).node);
	ASSERT_EQ(4096, vmsplice(fds[1], &part, 1, 0));
	EXPECT_EQ(-EBUSY, attr_write(NODES, "\n"));
	ASSERT_EQ(0, attr_read(NODES, text));
	EXPECT_EQ(0, strcmp(self->nodes, text));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	ASSERT_EQ(4096, read(fds[0], back, sizeof(back)));
	EXPECT_EQ(0, attr_write(NODES, "\n"));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
}

TEST_F(offline, bad_lists)
{
	char text[KVT_TEXT];

	EXPECT_EQ(-EINVAL, attr_write(NODES, "one\n"));
	EXPECT_EQ(-EINVAL, attr_write(NODES, "1-\n"));
	EXPECT_GT(0, attr_write(NODES, "99999\n"));
	ASSERT_EQ(0, attr_read(NODES, text));
	EXPECT_EQ(0, strcmp(self->nodes, text));
	EXPECT_EQ(16, blocks_on(&self->pool, self->node));
}

/* A pool made while the tier has no node. */
TEST_F(offline, no_node_left)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, BLOCKS);
	struct pool other;

	ASSERT_EQ(0, attr_write(NODES, "\n"));
	request.budget[KVTIER_TIER_CXL].bytes = CXL << SHIFT;
	EXPECT_EQ(-ENODEV, pool_open(&other, &request));
	request.budget[KVTIER_TIER_CXL].nodes = 1ULL << self->node;
	EXPECT_EQ(-ENODEV, pool_open(&other, &request));
}

/*
 * The node's memory itself is taken offline, block by block: that succeeds or is
 * refused in finite time, and no byte is lost either way.
 */
TEST_F(offline, memory_blocks)
{
	char pattern[KVT_TEXT], state[KVT_TEXT];
	struct pool *pool = &self->pool;
	unsigned int gone = 0;
	glob_t blocks;
	size_t i;

	if (geteuid())
		SKIP(return, "needs root");
	snprintf(pattern, sizeof(pattern), "/sys/devices/system/node/node%d/memory*/state",
		 self->node);
	if (glob(pattern, 0, NULL, &blocks))
		SKIP(return, "the node's memory cannot go offline");
	alarm(800);
	for (i = 0; i < blocks.gl_pathc; i++)
		gone += !attr_write(blocks.gl_pathv[i], "offline");
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	ASSERT_EQ(0, attr_write(NODES, "\n"));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	for (i = 0; i < blocks.gl_pathc; i++)
		gone += !attr_read(blocks.gl_pathv[i], state) && !strcmp(state, "online") &&
			!attr_write(blocks.gl_pathv[i], "offline");
	fill(pool, 0, BLOCKS, 2);
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 2));
	for (i = 0; i < blocks.gl_pathc; i++)
		if (!attr_read(blocks.gl_pathv[i], state) && strcmp(state, "online"))
			EXPECT_EQ(0, attr_write(blocks.gl_pathv[i], "online_kernel"));
	alarm(0);
	printf("# %u of %zu blocks of memory went offline\n", gone, blocks.gl_pathc);
	globfree(&blocks);
	EXPECT_EQ(0, attr_writef(NODES, "%s\n", self->nodes));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 2));
}

KVT_MAIN(NEEDS_STORE | NEEDS_CXL | NEEDS_ROOT)
