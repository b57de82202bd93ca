// SPDX-License-Identifier: MIT
/* Pool memory in the hands of the kernel and of devices. */
#include <liburing.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "dm.h"
#include "test.h"

#define BLOCKS 64
#define DRAM 16

FIXTURE(gup)
{
	struct pool pool;
	char disk[KVT_TEXT];
	int fd; /* of a disk, for direct I/O; -1: none is free */
};

FIXTURE_VARIANT(gup)
{
	uint32_t shift;
	uint32_t flags;
};

FIXTURE_VARIANT_ADD(gup, tracked)
{
	.shift = SHIFT,
};

FIXTURE_VARIANT_ADD(gup, pinnable)
{
	.shift = SHIFT,
	.flags = KVTIER_POOL_PINNABLE,
};

FIXTURE_VARIANT_ADD(gup, huge)
{
	.shift = HUGE_SHIFT,
};

FIXTURE_SETUP(gup)
{
	ASSERT_EQ(0, pool_new(&self->pool, variant->shift, BLOCKS, DRAM, BLOCKS,
			      variant->flags | KVTIER_POOL_NO_PREDICT));
	self->fd = spare_disk(self->disk) ? open(self->disk, O_RDWR | O_DIRECT | O_CLOEXEC) : -1;
}

FIXTURE_TEARDOWN(gup)
{
	if (self->fd >= 0)
		close(self->fd);
	pool_close(&self->pool);
}

/* Out of the pool to a disk and back, by the disk's own DMA. */
TEST_F(gup, direct_io)
{
	struct pool *pool = &self->pool;
	uint64_t i;

	if (self->fd < 0)
		SKIP(return, "no free disk with the serial kv1");
	fill(pool, 0, BLOCKS, 1);
	for (i = 0; i < BLOCKS; i++)
		ASSERT_EQ(pool->block, pwrite(self->fd, at(pool, i), pool->block,
					      (off_t)(i * pool->block)));
	ASSERT_EQ(0, op(pool, KVTIER_OP_DISCARD, 0, BLOCKS));
	for (i = 0; i < BLOCKS; i++)
		ASSERT_EQ(pool->block, pread(self->fd, at(pool, i), pool->block,
					     (off_t)(i * pool->block)));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
}

struct demoter {
	struct pool *pool;
	volatile bool stop;
	int error;
	uint64_t done, busy;
};

static void *demote_always(void *arg)
{
	struct demoter *d = arg;
	uint64_t seed = 5;
	int ret;

	while (!d->stop) {
		ret = op(d->pool, KVTIER_OP_DEMOTE, next_random(&seed) % BLOCKS, 1);
		d->done += !ret;
		d->busy += ret == -EBUSY;
		if (ret && ret != -EBUSY)
			d->error = ret;
	}
	return NULL;
}

/* The same while the blocks are forced out all the time. */
TEST_F(gup, direct_io_under_motion)
{
	struct pool *pool = &self->pool;
	struct demoter d = { .pool = pool };
	uint64_t round, i;
	pthread_t thread;

	if (self->fd < 0)
		SKIP(return, "no free disk with the serial kv1");
	ASSERT_EQ(0, pthread_create(&thread, NULL, demote_always, &d));
	for (round = 1; round <= 3; round++) {
		fill(pool, 0, 24, round);
		for (i = 0; i < 24; i++)
			EXPECT_EQ(pool->block, pwrite(self->fd, at(pool, i), pool->block,
						      (off_t)(i * pool->block)));
		fill(pool, 0, 24, 77);
		for (i = 0; i < 24; i++)
			EXPECT_EQ(pool->block, pread(self->fd, at(pool, i), pool->block,
						     (off_t)(i * pool->block)));
		EXPECT_EQ(0, check(pool, 0, 24, round));
	}
	d.stop = true;
	pthread_join(thread, NULL);
	EXPECT_EQ(0, d.error);
	EXPECT_GT(d.done, 0);
}

/* A block whose pages a pipe holds does not move, and goes on when it lets go. */
TEST_F(gup, held_by_a_pipe)
{
	struct pool *pool = &self->pool;
	struct iovec part = { at(pool, 3), 4096 };
	char back[4096];
	int fds[2];

	ASSERT_EQ(0, pipe(fds));
	fill(pool, 0, 8, 1);
	ASSERT_EQ(4096, vmsplice(fds[1], &part, 1, 0));
	EXPECT_EQ(-EBUSY, op(pool, KVTIER_OP_DEMOTE, 3, 1));
	EXPECT_EQ(-EBUSY, op(pool, KVTIER_OP_DEMOTE, 0, 8)); /* the others went */
	EXPECT_EQ(KVTIER_TIER_DRAM, info(pool, 3).tier);
	EXPECT_EQ(KVTIER_TIER_NVME, info(pool, 2).tier);
	EXPECT_EQ(KVTIER_TIER_NVME, info(pool, 4).tier);
	EXPECT_EQ(0, check(pool, 0, 8, 1));
	ASSERT_EQ(4096, read(fds[0], back, sizeof(back)));
	EXPECT_EQ(0, memcmp(back, at(pool, 3), 4096));
	EXPECT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, 8));
	EXPECT_EQ(0, check(pool, 0, 8, 1));
}

/* A held block that is emptied gives its new life no bytes, and its holder keeps the old. */
TEST_F(gup, held_while_discarded)
{
	struct pool *pool = &self->pool;
	struct iovec part = { at(pool, 3), 4096 };
	uint64_t back[512], i;
	int fds[2], ret;

	ASSERT_EQ(0, pipe(fds));
	fill(pool, 3, 1, 1);
	ASSERT_EQ(4096, vmsplice(fds[1], &part, 1, 0));
	ret = op(pool, KVTIER_OP_DISCARD, 3, 1);
	EXPECT_TRUE(!ret || ret == -EBUSY) TH_LOG("%d", ret);
	if (!ret) {
		EXPECT_EQ(0, check_zero(pool, 3, 1));
		fill(pool, 3, 1, 2);
	}
	ASSERT_EQ(4096, read(fds[0], back, sizeof(back)));
	for (i = 0; i < 512 && !ret; i++)
		EXPECT_EQ(word_of(3 * pool->block + i * 8, 1), back[i]);
	EXPECT_EQ(0, op(pool, KVTIER_OP_DISCARD, 3, 1));
	EXPECT_EQ(0, check_zero(pool, 3, 1));
}

typedef ssize_t (*transfer_fn)(pid_t pid, const struct iovec *local, unsigned long nr_local,
			       const struct iovec *remote, unsigned long nr_remote,
			       unsigned long flags);

/* A call pins what it is asked for, so that is less than there is memory for. */
static int transfer(transfer_fn fn, struct pool *pool, char *copy)
{
	struct iovec local = { copy, DRAM / 2 * pool->block }, remote = local;
	uint64_t i;

	for (i = 0; i < BLOCKS; i += DRAM / 2) {
		local.iov_base = copy + i * pool->block;
		remote.iov_base = at(pool, i);
		if (fn(getppid(), &local, 1, &remote, 1, 0) != (ssize_t)local.iov_len)
			return 1;
	}
	return 0;
}

/* Another process reads and writes it, wherever the blocks are. */
TEST_F(gup, process_vm)
{
	struct pool *pool = &self->pool;
	char *copy = mmap(NULL, pool->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);
	int status;
	pid_t pid;

	ASSERT_NE(MAP_FAILED, (void *)copy);
	fill(pool, 0, BLOCKS, 1);
	ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		munmap(pool->mem, pool->bytes);
		if (transfer(process_vm_readv, pool, copy))
			_exit(1);
		_exit(transfer(process_vm_writev, pool, copy) ? 2 : 0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	munmap(copy, pool->bytes);
}

/*
 * A long-term pin for writing: refused by the call that asks where stores are tracked;
 * on a pinnable pool the block stays where it is, and what a device writes counts.
 */
TEST_F(gup, registered_buffers)
{
	struct pool *pool = &self->pool;
	struct iovec part = { at(pool, 2), pool->block };
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	int fds[2], tries = 200, ret;

	ret = io_uring_queue_init(8, &ring, 0);
	if (ret)
		SKIP(return, "no io_uring: %s", strerror(-ret));
	fill(pool, 2, 1, 1);
	ret = io_uring_register_buffers(&ring, &part, 1);
	if (!(variant->flags & KVTIER_POOL_PINNABLE)) {
		EXPECT_TRUE(ret == -EFAULT || ret == -EOPNOTSUPP) TH_LOG("%d", ret);
		EXPECT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 2, 1));
		io_uring_queue_exit(&ring);
		return;
	}
	if (ret == -EOPNOTSUPP) {
		io_uring_queue_exit(&ring);
		SKIP(return, "this kernel registers no buffers of files");
	}
	ASSERT_EQ(0, ret);
	EXPECT_EQ(-EBUSY, op(pool, KVTIER_OP_DEMOTE, 2, 1));
	ASSERT_EQ(0, pipe(fds));
	ASSERT_EQ(8, write(fds[1], "registed", 8));
	io_uring_prep_read_fixed(io_uring_get_sqe(&ring), fds[0], at(pool, 2) + 512, 8, 0, 0);
	io_uring_submit(&ring);
	ASSERT_EQ(0, io_uring_wait_cqe(&ring, &cqe));
	EXPECT_EQ(8, cqe->res);
	io_uring_cqe_seen(&ring, cqe);
	ASSERT_EQ(0, io_uring_unregister_buffers(&ring));
	io_uring_queue_exit(&ring);
	while ((ret = op(pool, KVTIER_OP_DEMOTE, 2, 1)) == -EBUSY && tries--)
		usleep(50000); /* the ring's last reference goes later */
	EXPECT_EQ(0, ret);
	EXPECT_EQ(0, memcmp(at(pool, 2) + 512, "registed", 8));
}

/* On a pinnable pool stores are not seen, so what was mapped writable is written. */
TEST_F(gup, pinnable_keeps_every_store)
{
	struct pool *pool = &self->pool;
	uint64_t stamp;

	for (stamp = 1; stamp < 8; stamp++) {
		fill(pool, 0, 8, stamp);
		ASSERT_EQ(0, op(pool, KVTIER_OP_WRITEBACK, 0, 8));
		fill(pool, 2, 3, stamp + 100);
		ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, 8));
		EXPECT_EQ(0, check(pool, 2, 3, stamp + 100));
		EXPECT_EQ(0, check(pool, 5, 3, stamp));
	}
}

struct reader {
	int fd;
	void *to;
	size_t bytes;
	ssize_t got;
};

static void *read_direct(void *arg)
{
	struct reader *r = arg;

	r->got = pread(r->fd, r->to, r->bytes, 0);
	return NULL;
}

/* A call as long as it says EBUSY, or until it does. */
static int repeat(int (*step)(struct pool *a, struct pool *b), struct pool *a, struct pool *b,
		  bool until_busy)
{
	int tries = 400, ret;

	while (((ret = step(a, b)) == -EBUSY) != until_busy && tries--)
		usleep(25000);
	return ret;
}

static int demote_block(struct pool *a, struct pool *b)
{
	return op(a, KVTIER_OP_DEMOTE, 2, 1);
}

static int clone_block(struct pool *a, struct pool *b)
{
	return clone_blocks(b, 0, a, 2, 1);
}

/* A device writes to a block that looks saved: no other pool takes the slot for its content. */
TEST_F(gup, cloned_while_a_device_writes)
{
	struct pool *pool = &self->pool, other;
	struct reader r = { .to = at(pool, 2), .bytes = pool->block };
	pthread_t thread;
	struct dm dm;

	if (self->fd < 0 || variant->flags & KVTIER_POOL_PINNABLE)
		SKIP(return, "needs a free disk with the serial kv1, and a tracked pool");
	if (dm_create(&dm, "kvtier-gup", self->disk))
		SKIP(return, "no device mapper");
	r.fd = open(dm.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, r.fd);
	ASSERT_EQ(0,
		  pool_new(&other, variant->shift, BLOCKS, DRAM, BLOCKS, KVTIER_POOL_NO_PREDICT));
	fill(pool, 2, 1, 7);
	ASSERT_EQ(pool->block, pwrite(r.fd, at(pool, 2), pool->block, 0));
	fill(pool, 2, 1, 1);
	ASSERT_EQ(0, dm_suspend(&dm, true));
	ASSERT_EQ(0, pthread_create(&thread, NULL, read_direct, &r));
	EXPECT_EQ(-EBUSY, repeat(demote_block, pool, &other, true));
	usleep(200000); /* it holds the pages, all of them */
	EXPECT_EQ(0, op(pool, KVTIER_OP_WRITEBACK, 2, 1));
	EXPECT_FALSE(info(pool, 2).flags & KVTIER_BLOCKF_DIRTY);
	EXPECT_EQ(-EBUSY, clone_block(pool, &other));
	EXPECT_EQ(0, dm_suspend(&dm, false));
	pthread_join(thread, NULL);
	EXPECT_EQ(pool->block, r.got);
	EXPECT_EQ(0, repeat(clone_block, pool, &other, false));
	EXPECT_EQ(0, check(pool, 2, 1, 7));
	EXPECT_EQ(0, check_as(&other, 0, 2, 7));
	pool_close(&other);
	close(r.fd);
	EXPECT_EQ(0, dm_remove(&dm));
}

KVT_MAIN(NEEDS_STORE)
