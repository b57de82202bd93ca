// SPDX-License-Identifier: MIT
/* Range operations as io_uring commands. */
#include <liburing.h>
#include <sys/mman.h>

#include "test.h"

#define BLOCKS 64
#define DRAM 16
#define DEPTH 64

FIXTURE(uring)
{
	struct pool pool;
	struct io_uring ring;
};

FIXTURE_VARIANT(uring)
{
	unsigned int flags; /* of the ring */
	unsigned int sqe_flags;
};

FIXTURE_VARIANT_ADD(uring, sqe64)
{
	.flags = 0,
};

FIXTURE_VARIANT_ADD(uring, sqe128)
{
	.flags = IORING_SETUP_SQE128,
};

/* By workers of io_uring's, which wait. */
FIXTURE_VARIANT_ADD(uring, async)
{
	.sqe_flags = IOSQE_ASYNC,
};

static unsigned int sqe_flags; /* of the variant */

FIXTURE_SETUP(uring)
{
	int ret = io_uring_queue_init(DEPTH, &self->ring, variant->flags);

	sqe_flags = variant->sqe_flags;
	if (ret)
		SKIP(return, "no such ring: %s", strerror(-ret));
	ASSERT_EQ(0, pool_new(&self->pool, SHIFT, BLOCKS, DRAM, BLOCKS, KVTIER_POOL_NO_PREDICT));
}

FIXTURE_TEARDOWN(uring)
{
	io_uring_queue_exit(&self->ring);
	pool_close(&self->pool);
}

static struct io_uring_sqe *next_sqe(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (sqe)
		memset((void *)sqe, 0, ring->flags & IORING_SETUP_SQE128 ? 128 : 64);
	return sqe;
}

static struct kvtier_uring_cmd *prepare(struct io_uring *ring, int fd, uint32_t which,
					uint64_t first, uint32_t nr, uint64_t tag)
{
	struct io_uring_sqe *sqe = next_sqe(ring);
	struct kvtier_uring_cmd *cmd = (struct kvtier_uring_cmd *)((char *)sqe + 48);

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->flags = (__u8)sqe_flags;
	sqe->fd = fd;
	sqe->cmd_op = which;
	sqe->user_data = tag;
	cmd->first_block = first;
	cmd->nr_blocks = nr;
	return cmd;
}

static int wait_one(struct io_uring *ring, uint64_t *tag)
{
	struct __kernel_timespec limit = { .tv_sec = 60 };
	struct io_uring_cqe *cqe;
	int ret = io_uring_wait_cqe_timeout(ring, &cqe, &limit);

	if (ret)
		return ret;
	ret = cqe->res;
	if (tag)
		*tag = cqe->user_data;
	io_uring_cqe_seen(ring, cqe);
	return ret;
}

static int once(struct io_uring *ring, struct pool *pool, uint32_t which, uint64_t first,
		uint32_t nr)
{
	prepare(ring, pool->fd, which, first, nr, 0);
	io_uring_submit(ring);
	return wait_one(ring, NULL);
}

TEST_F(uring, every_operation)
{
	struct io_uring *ring = &self->ring;
	struct pool *pool = &self->pool;

	fill(pool, 0, 8, 1);
	EXPECT_EQ(0, once(ring, pool, KVTIER_OP_DEMOTE, 0, 8));
	EXPECT_EQ(KVTIER_BLOCK_COLD_OPEN, info(pool, 0).state);
	EXPECT_EQ(0, once(ring, pool, KVTIER_OP_PROMOTE, 0, 8));
	EXPECT_EQ(KVTIER_BLOCK_OPEN, info(pool, 7).state);
	fill(pool, 0, 8, 2);
	EXPECT_EQ(0, once(ring, pool, KVTIER_OP_WRITEBACK, 0, 8));
	EXPECT_FALSE(info(pool, 3).flags & KVTIER_BLOCKF_DIRTY);
	EXPECT_EQ(0, once(ring, pool, KVTIER_OP_SEAL, 0, 4));
	EXPECT_EQ(SIGBUS, try_write(at(pool, 3)));
	EXPECT_EQ(0, once(ring, pool, KVTIER_OP_PIN, 2, 4));
	EXPECT_EQ(-EBUSY, once(ring, pool, KVTIER_OP_DEMOTE, 2, 1));
	EXPECT_EQ(0, once(ring, pool, KVTIER_OP_UNPIN, 2, 4));
	EXPECT_EQ(-EINVAL, once(ring, pool, KVTIER_OP_UNPIN, 2, 4));
	EXPECT_EQ(0, once(ring, pool, KVTIER_OP_COLD, 2, 4));
	EXPECT_EQ(0, check(pool, 0, 8, 2));
	EXPECT_EQ(0, once(ring, pool, KVTIER_OP_DISCARD, 0, 8));
	EXPECT_EQ(KVTIER_BLOCK_EMPTY, info(pool, 0).state);
	EXPECT_EQ(-ENODATA, once(ring, pool, KVTIER_OP_SEAL, 0, 1));
	EXPECT_EQ(-ENOSPC, once(ring, pool, KVTIER_OP_PIN, 0, DRAM));
}

/* A command takes no buffer, so it takes none of io_uring's flags for one. */
TEST_F(uring, fixed_buffer)
{
	static char buffer[4096];
	struct iovec part = { buffer, sizeof(buffer) };
	struct io_uring *ring = &self->ring;
	struct io_uring_sqe *sqe;

	if (io_uring_register_buffers(ring, &part, 1))
		SKIP(return, "no buffer can be registered");
	fill(&self->pool, 0, 1, 1);
	sqe = (void *)((char *)prepare(ring, self->pool.fd, KVTIER_OP_DEMOTE, 0, 1, 0) - 48);
	sqe->rw_flags = 1; /* IORING_URING_CMD_FIXED */
	io_uring_submit(ring);
	EXPECT_EQ(-EINVAL, wait_one(ring, NULL));
	EXPECT_EQ(KVTIER_TIER_DRAM, info(&self->pool, 0).tier);
}

TEST_F(uring, refused)
{
	struct io_uring *ring = &self->ring;
	struct pool *pool = &self->pool;
	int fd = device_open(O_RDWR), reader = device_open(O_RDONLY);

	EXPECT_EQ(-EINVAL, once(ring, pool, 0, 0, 1));
	EXPECT_EQ(-EINVAL, once(ring, pool, 99, 0, 1));
	EXPECT_EQ(-EINVAL, once(ring, pool, KVTIER_OP_DEMOTE, 0, 0));
	EXPECT_EQ(-EINVAL, once(ring, pool, KVTIER_OP_DEMOTE, BLOCKS, 1));
	EXPECT_EQ(-EINVAL, once(ring, pool, KVTIER_OP_DEMOTE, BLOCKS - 1, 2));
	EXPECT_EQ(-EINVAL, once(ring, pool, KVTIER_OP_DEMOTE, ~0ULL, 2));
	EXPECT_EQ(-EINVAL, once(ring, pool, KVTIER_OP_DEMOTE, 0, ~0U));
	prepare(ring, pool->fd, KVTIER_OP_DEMOTE, 0, 1, 0)->__reserved = 1;
	io_uring_submit(ring);
	EXPECT_EQ(-EINVAL, wait_one(ring, NULL));
	prepare(ring, pool->fd, KVTIER_OP_DEMOTE, 0, 1, 0)->flags = 2;
	io_uring_submit(ring);
	EXPECT_EQ(-EINVAL, wait_one(ring, NULL));
	prepare(ring, pool->fd, KVTIER_OP_PROMOTE, 0, 1, 0)->tier = KVTIER_TIER_NVME;
	io_uring_submit(ring);
	EXPECT_EQ(-EINVAL, wait_one(ring, NULL));
	prepare(ring, pool->fd, KVTIER_OP_PROMOTE, 0, 1, 0)->tier = 200;
	io_uring_submit(ring);
	EXPECT_EQ(-EINVAL, wait_one(ring, NULL));
	prepare(ring, fd, KVTIER_OP_DEMOTE, 0, 1, 0);
	io_uring_submit(ring);
	EXPECT_EQ(-ENXIO, wait_one(ring, NULL));
	prepare(ring, reader, KVTIER_OP_DEMOTE, 0, 1, 0);
	io_uring_submit(ring);
	EXPECT_EQ(-ENXIO, wait_one(ring, NULL));
	if (variant->flags & IORING_SETUP_SQE128) {
		struct kvtier_uring_cmd *cmd = prepare(ring, pool->fd, KVTIER_OP_DEMOTE, 0, 1, 0);

		((char *)(cmd + 1))[63] = 1; /* the last byte of the entry */
		io_uring_submit(ring);
		EXPECT_EQ(-EINVAL, wait_one(ring, NULL));
	}
	close(fd);
	close(reader);
}

/* Started, not waited for: the blocks come all the same. */
TEST_F(uring, nowait)
{
	struct io_uring *ring = &self->ring;
	struct pool *pool = &self->pool;
	uint64_t end = now_ms() + 60000;

	fill(pool, 0, 8, 1);
	ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, 8));
	prepare(ring, pool->fd, KVTIER_OP_PROMOTE, 0, 8, 0)->flags = KVTIER_OP_NOWAIT;
	io_uring_submit(ring);
	EXPECT_EQ(0, wait_one(ring, NULL));
	while (info(pool, 7).state != KVTIER_BLOCK_OPEN && now_ms() < end)
		usleep(1000);
	EXPECT_EQ(KVTIER_BLOCK_OPEN, info(pool, 7).state);
	EXPECT_EQ(0, check(pool, 0, 8, 1));
}

/* What can be seen at once is said at once: later there would be nobody to tell. */
TEST_F(uring, nowait_refused)
{
	struct io_uring *ring = &self->ring;
	struct pool *pool = &self->pool;

	fill(pool, 0, 4, 1);
	ASSERT_EQ(0, op(pool, KVTIER_OP_PIN, 0, 1));
	EXPECT_EQ(-EBUSY, op_flags(pool, KVTIER_OP_DISCARD, KVTIER_OP_NOWAIT, 0, 2));
	EXPECT_EQ(-EINVAL, op_flags(pool, KVTIER_OP_UNPIN, KVTIER_OP_NOWAIT, 0, 2));
	EXPECT_EQ(0, op(pool, KVTIER_OP_UNPIN, 0, 1));
	ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, 4));
	prepare(ring, pool->fd, KVTIER_OP_DEMOTE, 0, 1, 0)->tier = KVTIER_TIER_CXL;
	io_uring_submit(ring);
	EXPECT_EQ(-ENODEV, wait_one(ring, NULL));
	prepare(ring, pool->fd, KVTIER_OP_UNPIN, 0, 1, 0)->flags = KVTIER_OP_NOWAIT;
	io_uring_submit(ring);
	EXPECT_EQ(-EINVAL, wait_one(ring, NULL));
	EXPECT_EQ(0, check(pool, 0, 4, 1));
}

/* As many at once as the ring holds, on overlapping blocks: each completes once. */
TEST_F(uring, many_in_flight)
{
	struct io_uring *ring = &self->ring;
	struct pool *pool = &self->pool;
	uint64_t seed = 1, tag, seen, i;
	int round, ret;

	fill(pool, 0, BLOCKS, 1);
	for (round = 0; round < 20; round++) {
		for (i = 0; i < DEPTH; i++)
			prepare(ring, pool->fd,
				next_random(&seed) % 2 ? KVTIER_OP_DEMOTE : KVTIER_OP_PROMOTE,
				next_random(&seed) % (BLOCKS - 4), 4, i);
		ASSERT_EQ(DEPTH, io_uring_submit(ring));
		for (i = 0, seen = 0; i < DEPTH; i++) {
			ret = wait_one(ring, &tag);
			EXPECT_TRUE(!ret || ret == -ENOSPC || ret == -EBUSY) TH_LOG("%d", ret);
			ASSERT_LT(tag, DEPTH);
			EXPECT_FALSE(seen >> tag & 1);
			seen |= 1ULL << tag;
		}
	}
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	EXPECT_LE(stats(pool).tier[KVTIER_TIER_DRAM].peak_bytes, DRAM * pool->block);
}

/* The ring, the descriptor and the mapping go while commands are under way. */
TEST_F(uring, exit_in_flight)
{
	struct io_uring ring;
	struct pool pool;
	int round;
	uint64_t i;

	for (round = 0; round < 10; round++) {
		ASSERT_EQ(0, io_uring_queue_init(DEPTH, &ring, variant->flags));
		ASSERT_EQ(0, pool_new(&pool, SHIFT, BLOCKS, DRAM, BLOCKS, 0));
		fill(&pool, 0, BLOCKS, 1);
		for (i = 0; i < DEPTH; i++)
			prepare(&ring, pool.fd, i % 2 ? KVTIER_OP_DEMOTE : KVTIER_OP_PROMOTE, 0, 8,
				i);
		ASSERT_EQ(DEPTH, io_uring_submit(&ring));
		if (round % 2) {
			pool_close(&pool);
			io_uring_queue_exit(&ring);
		} else {
			io_uring_queue_exit(&ring);
			EXPECT_EQ(0, check(&pool, 0, BLOCKS, 1));
			pool_close(&pool);
		}
	}
}

/* Cancelled or done: one completion for the command, one for the cancellation. */
TEST_F(uring, cancel)
{
	struct io_uring *ring = &self->ring;
	struct pool *pool = &self->pool;
	struct io_uring_sqe *sqe;
	uint64_t tag, i;
	int round, ret;

	fill(pool, 0, BLOCKS, 1);
	for (round = 0; round < 20; round++) {
		prepare(ring, pool->fd, round % 2 ? KVTIER_OP_DEMOTE : KVTIER_OP_PROMOTE, 0, 8, 1);
		sqe = next_sqe(ring);
		sqe->opcode = IORING_OP_ASYNC_CANCEL;
		sqe->fd = -1;
		sqe->addr = 1;
		sqe->user_data = 2;
		ASSERT_EQ(2, io_uring_submit(ring));
		for (i = 0; i < 2; i++) {
			ret = wait_one(ring, &tag);
			if (tag == 1) {
				EXPECT_TRUE(!ret || ret == -ECANCELED || ret == -EBUSY)
					TH_LOG("command: %d", ret);
			} else {
				EXPECT_TRUE(!ret || ret == -ENOENT || ret == -EALREADY)
					TH_LOG("cancellation: %d", ret);
			}
		}
	}
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
}

/* A child that is killed with commands under way takes nothing of its parent's. */
TEST_F(uring, killed_in_flight)
{
	struct pool *pool = &self->pool;
	struct io_uring ring;
	int round, status;
	uint64_t i;
	pid_t pid;

	fill(pool, 0, BLOCKS, 1);
	for (round = 0; round < 10; round++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			if (io_uring_queue_init(DEPTH, &ring, variant->flags))
				_exit(1);
			for (i = 0; i < DEPTH; i++)
				prepare(&ring, pool->fd,
					i % 2 ? KVTIER_OP_DEMOTE : KVTIER_OP_PROMOTE, i % 32, 8, i);
			io_uring_submit(&ring);
			kill(getpid(), SIGKILL);
		}
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_TRUE(WIFSIGNALED(status));
		EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	}
}

KVT_MAIN(NEEDS_STORE)
