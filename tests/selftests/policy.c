// SPDX-License-Identifier: MIT
/*
 * What happens without being asked for: who leaves first, what is written back early, what
 * a host that is short of memory gets back, and whom memory is charged to.
 */
#include <sys/mman.h>
#include <sys/stat.h>

#include "test.h"

#define BLOCKS 64
#define POLICY KVT_CLASS "policy/"

FIXTURE(policy)
{
	struct pool pool;
};

FIXTURE_SETUP(policy)
{
}

FIXTURE_TEARDOWN(policy)
{
	if (self->pool.mem)
		pool_close(&self->pool);
}

static bool resident(struct pool *pool, uint64_t block)
{
	return info(pool, block).tier == KVTIER_TIER_DRAM;
}

static uint64_t nr_in_state(struct pool *pool, uint8_t state)
{
	uint64_t block, nr = 0;

	for (block = 0; block < pool->blocks; block++)
		nr += info(pool, block).state == state;
	return nr;
}

/* Those that were hinted leave before all others, in the order of the hints. */
TEST_F(policy, cold_goes_first)
{
	struct pool *pool = &self->pool;
	uint64_t block;

	ASSERT_EQ(0, pool_new(pool, SHIFT, BLOCKS, 16, BLOCKS, KVTIER_POOL_NO_PREDICT));
	fill(pool, 0, 16, 1);
	ASSERT_EQ(0, op(pool, KVTIER_OP_COLD, 9, 1));
	ASSERT_EQ(0, op(pool, KVTIER_OP_COLD, 3, 1));
	fill(pool, 16, 1, 1);
	EXPECT_FALSE(resident(pool, 9));
	EXPECT_TRUE(resident(pool, 3));
	fill(pool, 17, 1, 1);
	EXPECT_FALSE(resident(pool, 3));
	for (block = 0; block < 18; block++)
		EXPECT_EQ(block != 9 && block != 3, resident(pool, block));
	EXPECT_EQ(0, check(pool, 0, 18, 1));
}

static uint64_t wait_for_clean(struct pool *pool, uint64_t nr, unsigned int ms)
{
	uint64_t end = now_ms() + ms, clean;

	while ((clean = nr_in_state(pool, KVTIER_BLOCK_CLEAN)) < nr && now_ms() < end)
		usleep(50000);
	return clean;
}

/* Sealed blocks of a pool that is to be kept are written early, by themselves. */
TEST_F(policy, sealed_blocks_are_written)
{
	struct pool *pool = &self->pool;

	ASSERT_EQ(0, pool_new(pool, SHIFT, BLOCKS, BLOCKS, BLOCKS, KVTIER_POOL_KEEP));
	fill(pool, 0, BLOCKS, 1);
	ASSERT_EQ(0, op(pool, KVTIER_OP_SEAL, 0, BLOCKS / 2));
	EXPECT_EQ(BLOCKS / 2, wait_for_clean(pool, BLOCKS / 2, 60000));
	EXPECT_EQ(BLOCKS / 2, nr_in_state(pool, KVTIER_BLOCK_OPEN)); /* the others are not */
	EXPECT_EQ(BLOCKS / 2 * pool->block, stats(pool).tier[KVTIER_TIER_NVME].bytes_in);
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
}

/* ... unless the administrator says that nothing is to be. */
TEST_F(policy, no_rate_no_writes)
{
	struct pool *pool = &self->pool;
	char rate[KVT_TEXT];

	ASSERT_EQ(0, attr_read(POLICY "writeback_rate", rate));
	if (attr_write(POLICY "writeback_rate", "0"))
		SKIP(return, "only an administrator may change the rate");
	EXPECT_EQ(0, pool_new(pool, SHIFT, BLOCKS, BLOCKS, BLOCKS, KVTIER_POOL_KEEP));
	fill(pool, 0, BLOCKS, 1);
	EXPECT_EQ(0, op(pool, KVTIER_OP_SEAL, 0, BLOCKS));
	EXPECT_EQ(0, wait_for_clean(pool, 1, 3000));
	EXPECT_EQ(0, attr_write(POLICY "writeback_rate", rate));
	EXPECT_EQ(BLOCKS, wait_for_clean(pool, BLOCKS, 60000));
}

/* Memory for saved blocks is given back, and nothing else is. */
TEST_F(policy, short_of_memory)
{
	struct pool *pool = &self->pool;
	struct kvtier_event event;
	uint64_t block;

	ASSERT_EQ(0, pool_new(pool, SHIFT, BLOCKS, BLOCKS, BLOCKS, KVTIER_POOL_NO_PREDICT));
	fill(pool, 0, BLOCKS, 1);
	ASSERT_EQ(0, op(pool, KVTIER_OP_SEAL, 0, 48));
	ASSERT_EQ(0, op(pool, KVTIER_OP_WRITEBACK, 0, 48));
	ASSERT_EQ(0, op(pool, KVTIER_OP_PIN, 0, 4));
	if (attr_write("/proc/sys/vm/drop_caches", "2"))
		SKIP(return, "only an administrator may shrink");
	EXPECT_LT(0, nr_in_state(pool, KVTIER_BLOCK_COLD));
	EXPECT_LT(used_blocks(pool, KVTIER_TIER_DRAM), BLOCKS);
	for (block = 0; block < BLOCKS; block++) {
		if (block < 4 || block >= 48)
			EXPECT_TRUE(resident(pool, block));
	}
	EXPECT_TRUE(next_event(pool, KVTIER_EVENT_PRESSURE, 20000, &event));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	EXPECT_EQ(0, op(pool, KVTIER_OP_UNPIN, 0, 4));
}

/* A page that the kernel was told is broken; 0, or why it was not. */
static int break_page(void *at)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(madvise(at, 4096, MADV_HWPOISON) && errno == EPERM ? EPERM : 0);
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 0; /* or killed, as it may be */
}

static int said(const char *text)
{
	char command[KVT_TEXT];

	snprintf(command, sizeof(command), "dmesg | grep -q '%s'", text);
	return !system(command);
}

/* A block with a memory error does not move, and its memory is not used again. */
TEST_F(policy, memory_error)
{
	struct pool *pool = &self->pool;

	ASSERT_EQ(0, pool_new(pool, SHIFT, BLOCKS, BLOCKS, BLOCKS, KVTIER_POOL_NO_PREDICT));
	fill(pool, 0, BLOCKS, 1);
	if (break_page(at(pool, 5) + 8192))
		SKIP(return, "only an administrator may break memory");
	if (!op(pool, KVTIER_OP_DEMOTE, 5, 1)) /* before 6.12 it is not marked */
		SKIP(return, "this kernel breaks no memory of a driver");
	EXPECT_EQ(-EIO, op(pool, KVTIER_OP_DEMOTE, 5, 1));
	EXPECT_EQ(-EIO, op(pool, KVTIER_OP_WRITEBACK, 5, 1));
	EXPECT_EQ(SIGBUS, try_read(at(pool, 5) + 8192));
	EXPECT_EQ(SIGBUS, try_write(at(pool, 5) + 8192));
	EXPECT_EQ(0, try_read(at(pool, 5)));
	EXPECT_EQ(0, try_write(at(pool, 5) + 4096));
	EXPECT_EQ(0, check(pool, 0, 5, 1));
	EXPECT_EQ(0, check(pool, 6, BLOCKS - 6, 1));
	ASSERT_EQ(0, op(pool, KVTIER_OP_DISCARD, 5, 1));
	EXPECT_TRUE(said("kvtier: gave up 65536 bytes on node [0-9]*: a memory error"));
	EXPECT_EQ(0, check_zero(pool, 5, 1));
	fill(pool, 5, 1, 2);
	EXPECT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
	EXPECT_EQ(0, check(pool, 5, 1, 2));
}

/* ---- memory control groups ------------------------------------------------------ */

#define CGROUP "/sys/fs/cgroup/"
#define OURS CGROUP "kvtier-test/"

static long long charged(void)
{
	return attr_number(OURS "memory.current");
}

/* In a child of the group: 0, or which step was not as it should be. */
static int charge(void)
{
	const long long bytes = BLOCKS << SHIFT;
	long long before;
	struct pool pool;
	int tries = 200;

	if (attr_write(OURS "cgroup.procs", "0"))
		return 1;
	before = charged();
	if (pool_new(&pool, SHIFT, BLOCKS, BLOCKS, 0, 0))
		return 2;
	fill(&pool, 0, BLOCKS, 1);
	if (charged() - before < bytes)
		return 3;
	pool_close(&pool);
	while (charged() - before > bytes / 2 && tries--)
		usleep(50000);
	return tries > 0 ? 0 : 4;
}

/* With a limit below its budget a pool makes do with fewer frames. */
static int make_do(void)
{
	struct pool pool;
	int ret = 0;

	if (attr_write(OURS "cgroup.procs", "0") || attr_write(OURS "memory.max", "16777216"))
		return 1;
	if (pool_new(&pool, SHIFT, 16 * BLOCKS, 8 * BLOCKS, 16 * BLOCKS, 0))
		return 2;
	fill(&pool, 0, pool.blocks, 1);
	if (check(&pool, 0, pool.blocks, 1))
		ret = 3;
	if (used_blocks(&pool, KVTIER_TIER_DRAM) << SHIFT > 16777216)
		ret = 4;
	pool_close(&pool);
	return ret;
}

/* What the group has read of a disk can go: it is no reason to have no frames. */
static int after_files(void)
{
	const size_t bytes = 1 << 20;
	char disk[KVT_TEXT], *buffer = malloc(bytes);
	struct pool pool;
	int fd, i;

	if (attr_write(OURS "cgroup.procs", "0") || attr_write(OURS "memory.max", "33554432"))
		return 1;
	fd = spare_disk(disk) ? open(disk, O_RDONLY | O_CLOEXEC) : -1;
	for (i = 0; i < 64 && buffer; i++)
		if (read(fd, buffer, bytes) != (ssize_t)bytes)
			return 2;
	if (charged() < 24 << 20) /* so what is left is less than the pool */
		return 3;
	if (pool_new(&pool, SHIFT, 2 * BLOCKS, 2 * BLOCKS, 0, 0))
		return 4;
	fill(&pool, 0, pool.blocks, 1);
	if (check(&pool, 0, pool.blocks, 1))
		return 5;
	pool_close(&pool);
	close(fd); /* the cache is there as long as somebody has the disk open */
	return 0;
}

static int in_group(int (*step)(void))
{
	int status = -1;
	pid_t pid = fork();

	if (!pid)
		_exit(step());
	waitpid(pid, &status, 0);
	return status;
}

static bool make_group(void)
{
	attr_write(CGROUP "cgroup.subtree_control", "+memory");
	mkdir(OURS, 0755);
	return charged() >= 0;
}

static void drop_group(struct __test_metadata *_metadata)
{
	int tries = 200;

	while (rmdir(OURS) && tries--)
		usleep(50000);
	EXPECT_LT(0, tries);
}

TEST_F(policy, charged_to_its_maker)
{
	if (!make_group())
		SKIP(return, "this system has no memory control groups of version 2");
	EXPECT_EQ(0, in_group(charge));
	drop_group(_metadata);
}

TEST_F(policy, limited_by_its_group)
{
	if (!make_group())
		SKIP(return, "this system has no memory control groups of version 2");
	EXPECT_EQ(0, in_group(make_do));
	drop_group(_metadata);
}

TEST_F(policy, takes_room_of_page_cache)
{
	char disk[KVT_TEXT];

	if (!make_group())
		SKIP(return, "this system has no memory control groups of version 2");
	if (!spare_disk(disk)) {
		drop_group(_metadata);
		SKIP(return, "no free disk with the serial kv1");
	}
	EXPECT_EQ(0, in_group(after_files));
	drop_group(_metadata);
}

KVT_MAIN(NEEDS_STORE)
