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

/* Who is too impatient would make everybody's transfers late ones. */
TEST(least_deadline)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, 2 * BLOCKS);
	const char *least = KVT_CLASS "policy/min_deadline_ms";
	long long before = attr_number(least);
	struct pool pool;

	ASSERT_LT(1, before);
	request.io_deadline_ms = before - 1;
	EXPECT_EQ(-EINVAL, pool_open(&pool, &request));
	request.io_deadline_ms = before;
	ASSERT_EQ(0, pool_open(&pool, &request));
	pool_close(&pool);
	ASSERT_EQ(0, attr_write(least, "1"));
	request.io_deadline_ms = 1;
	EXPECT_EQ(0, pool_open(&pool, &request));
	pool_close(&pool);
	EXPECT_EQ(0, attr_writef(least, "%lld", before));
	request.io_deadline_ms = 0;
	ASSERT_EQ(0, pool_open(&pool, &request));
	pool_close(&pool);
}

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
	ASSERT_TRUE(store_settled(self->store));
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
	ASSERT_TRUE(store_settled(self->store));
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
	ASSERT_TRUE(store_settled(self->store));
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
	ASSERT_TRUE(store_settled(self->store));
	EXPECT_EQ(0, check(pool, 0, DRAM, 2));
	EXPECT_EQ(0, check(pool, 21, BLOCKS - 21, 1));
}

/* Calls that wait for the disk end too. */
TEST_F(stall, checkpoint_and_clone)
{
	struct pool *pool = &self->pool;
	struct manifest m = { .nr = 0 };
	uint64_t begin;

	fill(pool, 0, 4, 2);
	ASSERT_EQ(0, op(pool, KVTIER_OP_SEAL, 0, 4));
	ASSERT_EQ(0, dm_suspend(&self->dm, true));
	begin = now_ms();
	EXPECT_EQ(-ETIMEDOUT, checkpoint_blocks(pool, &m, 0, 4));
	EXPECT_IN_TIME(begin);
	ASSERT_EQ(0, dm_suspend(&self->dm, false));
	ASSERT_TRUE(store_settled(self->store));
	EXPECT_EQ(0, check(pool, 0, 4, 2));
}

/* ---- a header that is written late --------------------------------------------- */

#define HEADER_SECTORS 2048
#define NEVER_MS 600000

/* Without lifting its hold; what the header says is all that is known afterwards. */
static int attach_again(const char *disk, char store[KVT_TEXT])
{
	int ret = store_detach(store);

	return ret ? ret : store_attach(disk, store);
}

/*
 * The header that says "nothing is reserved" is still on its way when something is: as
 * long as it may land, nothing is promised; and what is promised afterwards is there.
 */
TEST_F(stall, late_header)
{
	struct pool *pool = &self->pool;
	struct manifest first = { .nr = 0 }, second = { .nr = 0 };
	int ret;

	ASSERT_EQ(0, op(pool, KVTIER_OP_SEAL, 0, 4));
	ASSERT_EQ(0, checkpoint_blocks(pool, &first, 0, 4));
	ret = dm_delay(&self->dm, HEADER_SECTORS, NEVER_MS);
	if (ret == -EINVAL)
		SKIP(return, "this kernel cannot delay a disk");
	ASSERT_EQ(0, ret);
	EXPECT_EQ(0, release_key(pool, &first));
	EXPECT_EQ(1, store_attr(self->store, "stalled"));
	EXPECT_EQ(-ETIMEDOUT, checkpoint_blocks(pool, &second, 0, 4));
	EXPECT_EQ(1, store_attr(self->store, "stalled")); /* no other was sent after it */
	ASSERT_EQ(0, dm_fail(&self->dm, false));
	ASSERT_TRUE(store_settled(self->store));
	EXPECT_EQ(0, checkpoint_blocks(pool, &second, 0, 4));
	pool_close(pool);
	pool->mem = NULL;
	ASSERT_EQ(0, attach_again(self->dm.path, self->store));
	EXPECT_EQ(1, store_attr(self->store, "hold"));
}

/* One that says "reserved" in vain is put right before the store goes. */
TEST_F(stall, late_header_in_vain)
{
	struct pool *pool = &self->pool;
	struct manifest never = { .nr = 0 };
	int ret;

	ASSERT_EQ(0, op(pool, KVTIER_OP_SEAL, 0, 4));
	ret = dm_delay(&self->dm, HEADER_SECTORS, NEVER_MS);
	if (ret == -EINVAL)
		SKIP(return, "this kernel cannot delay a disk");
	ASSERT_EQ(0, ret);
	EXPECT_EQ(-ETIMEDOUT, checkpoint_blocks(pool, &never, 0, 4));
	EXPECT_EQ(1, store_attr(self->store, "stalled"));
	ASSERT_EQ(0, dm_fail(&self->dm, false));
	ASSERT_TRUE(store_settled(self->store));
	pool_close(pool);
	pool->mem = NULL;
	ASSERT_EQ(0, attach_again(self->dm.path, self->store));
	EXPECT_EQ(0, store_attr(self->store, "hold"));
}

/* ---- ends ------------------------------------------------------------------------- */

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
	EXPECT_TRUE(store_settled(self->store));
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
	ASSERT_TRUE(store_settled(self->store));
	EXPECT_EQ(0, check(pool, 6, BLOCKS - 6, 1));
}

static struct io_uring_sqe *next_sqe(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (sqe)
		memset((void *)sqe, 0, 64);
	return sqe;
}

static void submit(struct io_uring *ring, struct pool *pool, uint32_t which, uint64_t first,
		   uint32_t nr, unsigned int flags)
{
	struct io_uring_sqe *sqe = next_sqe(ring);
	struct kvtier_uring_cmd *cmd = (struct kvtier_uring_cmd *)((char *)sqe + 48);

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->flags = (__u8)flags;
	sqe->fd = pool->fd;
	sqe->cmd_op = which;
	sqe->user_data = 1;
	cmd->first_block = first;
	cmd->nr_blocks = nr;
	io_uring_submit(ring);
}

/* The results of the command (-ETIME: it has not ended after @seconds) and of its cancellation. */
static int cancel(struct io_uring *ring, int seconds, int *of_cancel)
{
	struct io_uring_sqe *sqe = next_sqe(ring);
	struct __kernel_timespec limit = { .tv_sec = seconds };
	int i, results[2] = { -ETIME, -ETIME };
	struct io_uring_cqe *cqe;

	sqe->opcode = IORING_OP_ASYNC_CANCEL;
	sqe->fd = -1;
	sqe->addr = 1; /* the command's user_data */
	io_uring_submit(ring);
	for (i = 0; i < 2 && !io_uring_wait_cqe_timeout(ring, &cqe, &limit); i++) {
		results[cqe->user_data] = cqe->res;
		io_uring_cqe_seen(ring, cqe);
	}
	*of_cancel = results[0];
	return results[1];
}

/* A pool whose deadline lets nothing end by itself. */
static int patient_pool(struct pool *pool, const char *store)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, 2 * BLOCKS);
	int ret;

	request.io_deadline_ms = 60000;
	request.budget[KVTIER_TIER_NVME].nodes = 1ULL << store_number(store);
	ret = pool_open(pool, &request);
	if (ret)
		return ret;
	fill(pool, 0, BLOCKS, 1);
	return op(pool, KVTIER_OP_DEMOTE, 0, BLOCKS);
}

/*
 * A command that waits for the disk ends when it is cancelled, and a pin is not held.
 * io_uring finds only those that its own workers have.
 */
TEST_F(stall, cancelled)
{
	int of_cancel = 0, tries = 400;
	struct pool patient;
	struct io_uring ring;

	ASSERT_EQ(0, patient_pool(&patient, self->store));
	ASSERT_EQ(0, io_uring_queue_init(4, &ring, 0));
	ASSERT_EQ(0, dm_suspend(&self->dm, true));
	submit(&ring, &patient, KVTIER_OP_PROMOTE, 0, 2, IOSQE_ASYNC);
	usleep(200000);
	EXPECT_EQ(-ECANCELED, cancel(&ring, 20, &of_cancel));
	EXPECT_TRUE(!of_cancel || of_cancel == -EALREADY) TH_LOG("%d", of_cancel);
	submit(&ring, &patient, KVTIER_OP_PIN, 3, 1, IOSQE_ASYNC);
	usleep(200000);
	EXPECT_EQ(-ECANCELED, cancel(&ring, 20, &of_cancel));
	submit(&ring, &patient, KVTIER_OP_PROMOTE, 5, 1, 0);
	EXPECT_EQ(-ETIME, cancel(&ring, 2, &of_cancel)); /* it goes on */
	EXPECT_EQ(-ENOENT, of_cancel);
	ASSERT_EQ(0, dm_suspend(&self->dm, false));
	io_uring_queue_exit(&ring);
	EXPECT_EQ(0, check(&patient, 0, BLOCKS, 1)); /* waits for the read of the pin */
	while (info(&patient, 3).flags & KVTIER_BLOCKF_PINNED && tries--)
		usleep(50000);
	EXPECT_LT(0, tries);
	EXPECT_EQ(-EINVAL, op(&patient, KVTIER_OP_UNPIN, 3, 1));
	pool_close(&patient);
}

/* In a child: a command that nobody waits for. */
static void leave_command(struct pool *pool)
{
	struct io_uring ring;

	if (io_uring_queue_init(4, &ring, 0))
		_exit(1);
	submit(&ring, pool, KVTIER_OP_PROMOTE, 0, DRAM / 2, 0);
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
	struct pool patient;
	uint64_t begin;
	int status;
	pid_t pid;

	if (!commands_can_be_cancelled())
		SKIP(return, "this kernel cannot cancel commands");
	ASSERT_EQ(0, patient_pool(&patient, self->store));
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
	EXPECT_TRUE(store_settled(self->store));
}

struct checkpointer {
	struct pool *pool;
	struct kvtier_checkpoint *arg; /* on a page of its own */
	int result;
};

static void *make_checkpoint(void *arg)
{
	struct checkpointer *c = arg;

	c->result = call(c->pool->fd, KVTIER_IOC_CHECKPOINT, c->arg);
	return NULL;
}

/* Its key can be told to nobody, so it reserves nothing. */
TEST_F(stall, checkpoint_without_an_answer)
{
	struct pool *pool = &self->pool;
	struct kvtier_slot slots[4];
	struct checkpointer c = { .pool = pool };
	pthread_t thread;

	c.arg = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)c.arg);
	*c.arg = (struct kvtier_checkpoint){
		.size = sizeof(*c.arg),
		.length = 4 * pool->block,
		.slots = (uintptr_t)slots,
		.nr = 4,
	};
	fill(pool, 0, 4, 2);
	ASSERT_EQ(0, op(pool, KVTIER_OP_SEAL, 0, 4));
	ASSERT_EQ(0, dm_suspend(&self->dm, true));
	ASSERT_EQ(0, pthread_create(&thread, NULL, make_checkpoint, &c));
	usleep(200000);
	ASSERT_EQ(0, mprotect(c.arg, 4096, PROT_NONE));
	EXPECT_EQ(0, dm_suspend(&self->dm, false));
	pthread_join(thread, NULL);
	munmap(c.arg, 4096);
	EXPECT_TRUE(c.result == -EFAULT || c.result == -ETIMEDOUT) TH_LOG("%d", c.result);
	EXPECT_EQ(0, store_attr(self->store, "reservations"));
	EXPECT_EQ(0, check(pool, 0, 4, 2));
}

KVT_MAIN(NEEDS_STORE | NEEDS_ROOT)
