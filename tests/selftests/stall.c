// SPDX-License-Identifier: MIT
/*
 * A disk that stops answering: every wait ends at the pool's deadline, what was under
 * way is neither lost nor used twice, and everything can end meanwhile.
 */
#include <liburing.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/utsname.h>

#include "dm.h"
#include "test.h"

#define BLOCKS 32
#define DRAM 8
#define DEADLINE_MS 2000
#define PATIENCE_MS (DEADLINE_MS * 30) /* an interpreted machine has time */

FIXTURE(stall)
{
	char disk[KVT_TEXT];
	char store[KVT_TEXT];
	struct dm dm;
	struct pool pool;
};

FIXTURE_SETUP(stall)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, 2 * BLOCKS);
	int ret;

	if (!spare_disk(self->disk))
		SKIP(return, "no free disk with the serial kv1");
	ret = dm_create(&self->dm, "kvtier-stall", self->disk);
	if (ret == -ENODEV)
		SKIP(return, "no device mapper");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, store_up(self->dm.path, self->store));
	request.flags = KVTIER_POOL_NO_PREDICT | KVTIER_POOL_KEEP;
	request.io_deadline_ms = DEADLINE_MS;
	request.budget[KVTIER_TIER_NVME].nodes = 1ULL << store_number(self->store);
	ASSERT_EQ(0, pool_open(&self->pool, &request));
	fill(&self->pool, 0, BLOCKS, 1);
	ASSERT_EQ(0, op(&self->pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
}

FIXTURE_TEARDOWN(stall)
{
	int tries = 1200;

	dm_suspend(&self->dm, false);
	if (self->pool.mem)
		pool_close(&self->pool);
	while (store_down(self->store) && tries--) /* what was given up has to come back */
		usleep(50000);
	EXPECT_LT(0, tries);
	EXPECT_EQ(0, dm_remove(&self->dm));
}

static bool settled(const char *store)
{
	char path[2 * KVT_TEXT];
	int tries = 1200;

	snprintf(path, sizeof(path), "%s/stalled", store);
	while (attr_number(path) != 0 && tries--)
		usleep(50000);
	return attr_number(path) == 0;
}

#define EXPECT_IN_TIME(begin)                                \
	do {                                                 \
		EXPECT_GE(now_ms() - (begin), DEADLINE_MS / 2); \
		EXPECT_LE(now_ms() - (begin), PATIENCE_MS);  \
	} while (0)

/* A read that does not come back: SIGBUS in time, and BAD until the disk let go of it. */
TEST_F(stall, touch)
{
	struct pool *pool = &self->pool;
	struct kvtier_event event;
	uint64_t begin;

	ASSERT_EQ(0, op(pool, KVTIER_OP_PROMOTE, 8, 2));
	ASSERT_EQ(0, dm_suspend(&self->dm, true));
	begin = now_ms();
	EXPECT_EQ(SIGBUS, try_read(at(pool, 3)));
	EXPECT_IN_TIME(begin);
	ASSERT_TRUE(next_event(pool, KVTIER_EVENT_BAD_BLOCK, 20000, &event));
	EXPECT_EQ(-ETIMEDOUT, event.error);
	EXPECT_EQ(3 * pool->block, event.offset);
	EXPECT_EQ(KVTIER_BLOCK_BAD, info(pool, 3).state);
	begin = now_ms();
	EXPECT_EQ(-ETIMEDOUT, op(pool, KVTIER_OP_PROMOTE, 3, 1));
	EXPECT_EQ(-ETIMEDOUT, op(pool, KVTIER_OP_PIN, 3, 1));
	EXPECT_LE(now_ms() - begin, DEADLINE_MS / 2); /* known already */
	EXPECT_EQ(-EBUSY, op(pool, KVTIER_OP_DISCARD, 3, 1));
	EXPECT_EQ(-EBUSY, clone_blocks(pool, 3, pool, 8, 1));
	EXPECT_EQ(0, check(pool, 8, 2, 1)); /* everything else goes on */
	fill(pool, 9, 1, 2);
	ASSERT_EQ(0, dm_suspend(&self->dm, false));
	ASSERT_TRUE(settled(self->store));
	EXPECT_EQ(0, op(pool, KVTIER_OP_DISCARD, 3, 1));
	EXPECT_EQ(0, check_zero(pool, 3, 1));
	EXPECT_EQ(0, check(pool, 4, 5, 1));
	EXPECT_EQ(0, check(pool, 9, 1, 2));
	EXPECT_EQ(0, check(pool, 10, BLOCKS - 10, 1));
}

TEST_F(stall, promote)
{
	struct pool *pool = &self->pool;
	uint64_t begin = now_ms();

	ASSERT_EQ(0, dm_suspend(&self->dm, true));
	EXPECT_EQ(-ETIMEDOUT, op(pool, KVTIER_OP_PROMOTE, 0, 4));
	EXPECT_IN_TIME(begin);
	ASSERT_EQ(0, dm_suspend(&self->dm, false));
	ASSERT_TRUE(settled(self->store));
	EXPECT_EQ(0, check(pool, 8, BLOCKS - 8, 1));
}

/* A write that does not come back: the block stays, dirty; later it leaves all the same. */
TEST_F(stall, writeback)
{
	struct pool *pool = &self->pool;
	struct kvtier_event event;
	uint64_t begin;

	fill(pool, 0, 4, 2);
	ASSERT_EQ(0, dm_suspend(&self->dm, true));
	begin = now_ms();
	EXPECT_EQ(-ETIMEDOUT, op(pool, KVTIER_OP_WRITEBACK, 0, 2));
	EXPECT_IN_TIME(begin);
	EXPECT_EQ(-ETIMEDOUT, op(pool, KVTIER_OP_DEMOTE, 2, 2));
	ASSERT_TRUE(next_event(pool, KVTIER_EVENT_IO_ERROR, 20000, &event));
	EXPECT_EQ(-ETIMEDOUT, event.error);
	EXPECT_EQ(0, check(pool, 0, 4, 2));
	EXPECT_EQ(0, stats(pool).bad_blocks);
	fill(pool, 0, 4, 3);
	ASSERT_EQ(0, dm_suspend(&self->dm, false));
	ASSERT_TRUE(settled(self->store));
	EXPECT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, 4));
	EXPECT_EQ(0, check(pool, 0, 4, 3));
	EXPECT_EQ(0, check(pool, 4, BLOCKS - 4, 1));
}

/* No frame can be freed, since nothing can be written: a touch waits, and no longer. */
TEST_F(stall, room)
{
	struct pool *pool = &self->pool;
	uint64_t begin;

	fill(pool, 0, DRAM, 2);
	ASSERT_EQ(0, dm_suspend(&self->dm, true));
	begin = now_ms();
	EXPECT_EQ(SIGBUS, try_read(at(pool, 20)));
	EXPECT_IN_TIME(begin);
	EXPECT_EQ(0, check(pool, 0, 4, 2));
	ASSERT_EQ(0, dm_suspend(&self->dm, false));
	ASSERT_TRUE(settled(self->store));
	EXPECT_EQ(0, check(pool, 0, DRAM, 2));
	EXPECT_EQ(0, check(pool, 21, BLOCKS - 21, 1));
}

/* Calls that wait for the disk end too. */
TEST_F(stall, checkpoint_and_clone)
{
	struct pool *pool = &self->pool;
	struct kvtier_slot slots[4];
	struct kvtier_checkpoint arg = {
		.size = sizeof(arg),
		.length = 4 * pool->block,
		.slots = (uintptr_t)slots,
		.nr = 4,
	};
	uint64_t begin;
	int ret;

	fill(pool, 0, 4, 2);
	ASSERT_EQ(0, op(pool, KVTIER_OP_SEAL, 0, 4));
	ASSERT_EQ(0, dm_suspend(&self->dm, true));
	begin = now_ms();
	ret = call(pool->fd, KVTIER_IOC_CHECKPOINT, &arg);
	EXPECT_EQ(-ETIMEDOUT, ret);
	EXPECT_IN_TIME(begin);
	ASSERT_EQ(0, dm_suspend(&self->dm, false));
	ASSERT_TRUE(settled(self->store));
	EXPECT_EQ(0, check(pool, 0, 4, 2));
}

static void *touch(void *arg)
{
	struct pool *pool = arg;

	op(pool, KVTIER_OP_PROMOTE, 0, 4);
	return NULL;
}

/* The pool goes while reads and writes are stalled; nothing of it is used afterwards. */
TEST_F(stall, closed)
{
	struct pool *pool = &self->pool;
	pthread_t thread;
	uint64_t begin;

	fill(pool, 8, 4, 2);
	ASSERT_EQ(0, dm_suspend(&self->dm, true));
	op_flags(pool, KVTIER_OP_WRITEBACK, KVTIER_OP_NOWAIT, 8, 4);
	ASSERT_EQ(0, pthread_create(&thread, NULL, touch, pool));
	usleep(100000);
	begin = now_ms();
	pthread_join(thread, NULL);
	pool_close(pool);
	pool->mem = NULL;
	EXPECT_LE(now_ms() - begin, PATIENCE_MS);
	EXPECT_NE(0, store_down(self->store)); /* transfers are still under way */
	ASSERT_EQ(0, dm_suspend(&self->dm, false));
	EXPECT_TRUE(settled(self->store));
}

/* A process that waits for the disk can be killed. */
TEST_F(stall, killed)
{
	struct pool *pool = &self->pool;
	int status;
	pid_t pid;

	ASSERT_EQ(0, dm_suspend(&self->dm, true));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		(void)*(volatile char *)at(pool, 5);
		_exit(0);
	}
	usleep(200000);
	kill(pid, SIGKILL);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	ASSERT_EQ(0, dm_suspend(&self->dm, false));
	ASSERT_TRUE(settled(self->store));
	EXPECT_EQ(0, check(pool, 6, BLOCKS - 6, 1));
}

/* In a child: a command that nobody waits for. */
static void leave_command(struct pool *pool)
{
	struct kvtier_uring_cmd *cmd;
	struct io_uring_sqe *sqe;
	struct io_uring ring;

	if (io_uring_queue_init(4, &ring, 0))
		_exit(1);
	sqe = io_uring_get_sqe(&ring);
	memset(sqe, 0, sizeof(*sqe));
	cmd = (struct kvtier_uring_cmd *)((char *)sqe + 48);
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = pool->fd;
	sqe->cmd_op = KVTIER_OP_PROMOTE;
	cmd->nr_blocks = DRAM / 2;
	if (io_uring_submit(&ring) != 1)
		_exit(2);
	pause();
}

/* Only from Linux 6.7 on does a command hear that its process goes. */
static bool commands_can_be_cancelled(void)
{
	unsigned int major, minor;
	struct utsname name;

	return !uname(&name) && sscanf(name.release, "%u.%u", &major, &minor) == 2 &&
	       (major > 6 || (major == 6 && minor >= 7));
}

/* A process does not stay for a command of its that waits for the disk. */
TEST_F(stall, killed_with_a_command)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, 2 * BLOCKS);
	struct pool patient;
	uint64_t begin;
	int status;
	pid_t pid;

	if (!commands_can_be_cancelled())
		SKIP(return, "this kernel cannot cancel commands");
	request.io_deadline_ms = 60000;
	request.budget[KVTIER_TIER_NVME].nodes = 1ULL << store_number(self->store);
	ASSERT_EQ(0, pool_open(&patient, &request));
	fill(&patient, 0, BLOCKS, 1);
	ASSERT_EQ(0, op(&patient, KVTIER_OP_DEMOTE, 0, BLOCKS));
	ASSERT_EQ(0, dm_suspend(&self->dm, true));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		leave_command(&patient);
	usleep(500000);
	begin = now_ms();
	kill(pid, SIGKILL);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_LE(now_ms() - begin, 20000);
	ASSERT_EQ(0, dm_suspend(&self->dm, false));
	EXPECT_EQ(0, check(&patient, 0, BLOCKS, 1));
	pool_close(&patient);
}

/* What nobody waits for ends with its pool: each of these would wait for the deadline. */
TEST_F(stall, closed_with_operations)
{
	struct pool *pool = &self->pool;
	uint64_t begin, i;

	fill(pool, 0, 4, 2);
	ASSERT_EQ(0, dm_suspend(&self->dm, true));
	for (i = 0; i < 1000; i++)
		ASSERT_EQ(0, op_flags(pool, KVTIER_OP_WRITEBACK, KVTIER_OP_NOWAIT, 0, 4));
	usleep(200000);
	begin = now_ms();
	pool_close(pool);
	pool->mem = NULL;
	EXPECT_LE(now_ms() - begin, PATIENCE_MS);
	ASSERT_EQ(0, dm_suspend(&self->dm, false));
	EXPECT_TRUE(settled(self->store));
}

KVT_MAIN(NEEDS_STORE | NEEDS_ROOT)
