// SPDX-License-Identifier: MIT
/* What happens to a block is told by the events of tracefs, in its pool's name. */
#include <stdarg.h>
#include <sys/mman.h>

#include "test.h"

#define TRACING "/sys/kernel/tracing/"
#define BLOCKS 32
#define DRAM 8

FIXTURE(trace)
{
	struct pool pool;
};

static int empty_trace(void)
{
	int fd = open(TRACING "trace", O_WRONLY | O_TRUNC | O_CLOEXEC);

	if (fd >= 0)
		close(fd);
	return fd < 0 ? -1 : 0;
}

FIXTURE_SETUP(trace)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, BLOCKS);

	if (access(TRACING "events/kvtier/enable", W_OK))
		SKIP(return, "this kernel has no trace events");
	if (cxl_node() >= 0)
		request.budget[KVTIER_TIER_CXL].bytes = DRAM << SHIFT;
	request.flags = KVTIER_POOL_NO_PREDICT;
	ASSERT_EQ(0, pool_open(&self->pool, &request));
	ASSERT_EQ(0, empty_trace());
	ASSERT_EQ(0, attr_write(TRACING "events/kvtier/enable", "1"));
}

FIXTURE_TEARDOWN(trace)
{
	attr_write(TRACING "events/kvtier/enable", "0");
	pool_close(&self->pool);
}

/* How often an event with this text was told. */
static __attribute__((format(printf, 1, 2))) int told(const char *fmt, ...)
{
	char text[KVT_TEXT], line[1024];
	FILE *file = fopen(TRACING "trace", "re");
	int nr = 0;
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	while (file && fgets(line, sizeof(line), file))
		nr += strstr(line, text) != NULL;
	if (file)
		fclose(file);
	return nr;
}

TEST_F(trace, first_touch)
{
	struct pool *pool = &self->pool;

	EXPECT_EQ(0, try_read(at(pool, 3)));
	EXPECT_EQ(1, told("kvtier_fault: pool=%u block=3 kind=zero", pool->id));
	EXPECT_LE(1, told("kvtier_map: pool=%u block=3 tier=1", pool->id));
}

TEST_F(trace, out_and_in)
{
	struct pool *pool = &self->pool;

	fill(pool, 5, 2, 1);
	ASSERT_EQ(0, op_to(pool, KVTIER_OP_DEMOTE, KVTIER_TIER_NVME, 5, 2));
	EXPECT_EQ(1, told("kvtier_writeback: pool=%u block=5 error=0", pool->id));
	EXPECT_EQ(1, told("kvtier_demote: pool=%u block=5 tier=3", pool->id));
	EXPECT_LE(2, told("bytes=%llu write ns=", (unsigned long long)pool->block));
	EXPECT_EQ(0, check(pool, 5, 1, 1));
	EXPECT_EQ(1, told("kvtier_fault: pool=%u block=5 kind=hard", pool->id));
	EXPECT_EQ(1, told("kvtier_promote: pool=%u block=5 error=0", pool->id));
	EXPECT_LE(1, told("bytes=%llu read ns=", (unsigned long long)pool->block));
	EXPECT_LE(1, told("kvtier_map: pool=%u block=5 tier=1", pool->id));
	ASSERT_EQ(0, op(pool, KVTIER_OP_PROMOTE, 6, 1));
	EXPECT_EQ(0, check(pool, 6, 1, 1));
	EXPECT_EQ(0, told("kvtier_fault: pool=%u block=6 kind=hard", pool->id));
}

TEST_F(trace, between_memories)
{
	struct pool *pool = &self->pool;

	if (cxl_node() < 0)
		SKIP(return, "no node without CPUs");
	fill(pool, 7, 1, 1);
	ASSERT_EQ(0, op_to(pool, KVTIER_OP_DEMOTE, KVTIER_TIER_CXL, 7, 1));
	EXPECT_EQ(1, told("kvtier_migrate: pool=%u block=7 from=1 to=2 error=0", pool->id));
	EXPECT_EQ(0, check(pool, 7, 1, 1));
	EXPECT_LE(1, told("kvtier_map: pool=%u block=7 tier=2", pool->id));
	ASSERT_EQ(0, op_to(pool, KVTIER_OP_PROMOTE, KVTIER_TIER_DRAM, 7, 1));
	EXPECT_EQ(1, told("kvtier_migrate: pool=%u block=7 from=2 to=1 error=0", pool->id));
	EXPECT_EQ(0, told("block=8 ")); /* and of nothing else */
}

KVT_MAIN(NEEDS_STORE | NEEDS_ROOT)
