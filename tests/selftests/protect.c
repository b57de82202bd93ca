// SPDX-License-Identifier: MIT
/* Write tracking, and sealed blocks: every way to store must be seen or refused. */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "test.h"

#define BLOCKS 32

FIXTURE(protect)
{
	struct pool pool;
};

FIXTURE_VARIANT(protect)
{
	uint32_t shift;
};

FIXTURE_VARIANT_ADD(protect, small)
{
	.shift = SHIFT,
};

FIXTURE_VARIANT_ADD(protect, huge)
{
	.shift = HUGE_SHIFT,
};

FIXTURE_SETUP(protect)
{
	ASSERT_EQ(0, pool_new(&self->pool, variant->shift, BLOCKS, 16, BLOCKS,
			      KVTIER_POOL_NO_PREDICT));
}

FIXTURE_TEARDOWN(protect)
{
	pool_close(&self->pool);
}

static bool dirty(struct pool *pool, uint64_t block)
{
	return info(pool, block).flags & KVTIER_BLOCKF_DIRTY;
}

/* Reading makes nothing dirty; a store to any page of a block does, once. */
TEST_F(protect, tracking)
{
	struct pool *pool = &self->pool;
	uint64_t generation, page, written;

	fill(pool, 0, 4, 1);
	EXPECT_TRUE(dirty(pool, 0));
	ASSERT_EQ(0, op(pool, KVTIER_OP_WRITEBACK, 0, 4));
	EXPECT_FALSE(dirty(pool, 0));
	EXPECT_EQ(0, check(pool, 0, 4, 1));
	EXPECT_FALSE(dirty(pool, 0));
	for (page = 0; page < pool->block; page += pool->block / 16) {
		generation = info(pool, 1).generation;
		*(volatile char *)(at(pool, 1) + page) ^= 1;
		EXPECT_TRUE(dirty(pool, 1));
		EXPECT_EQ(generation + 1, info(pool, 1).generation);
		*(volatile char *)(at(pool, 1) + page) ^= 1;
		EXPECT_EQ(generation + 1, info(pool, 1).generation);
		EXPECT_FALSE(dirty(pool, 0));
		EXPECT_FALSE(dirty(pool, 2));
		ASSERT_EQ(0, op(pool, KVTIER_OP_WRITEBACK, 0, 4));
	}
	written = stats(pool).written_blocks;
	ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, 4));
	EXPECT_EQ(written, stats(pool).written_blocks);
	EXPECT_EQ(4, stats(pool).clean_drops);
	EXPECT_EQ(0, check(pool, 0, 4, 1));
}

/* Stores by the kernel on the program's behalf count too. */
TEST_F(protect, system_calls_are_tracked)
{
	struct pool *pool = &self->pool;
	int fds[2];

	ASSERT_EQ(0, pipe(fds));
	fill(pool, 0, 1, 1);
	ASSERT_EQ(0, op(pool, KVTIER_OP_WRITEBACK, 0, 1));
	ASSERT_EQ(5, write(fds[1], "hello", 5));
	ASSERT_EQ(5, read(fds[0], at(pool, 0) + 100, 5));
	EXPECT_TRUE(dirty(pool, 0));
	ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, 1));
	EXPECT_EQ(0, memcmp(at(pool, 0) + 100, "hello", 5));
}

static void expect_sealed(struct __test_metadata *_metadata, struct pool *pool, uint64_t block)
{
	uint64_t at_bytes;

	for (at_bytes = 0; at_bytes < pool->block; at_bytes += pool->block / 4) {
		EXPECT_EQ(SIGBUS, try_write(at(pool, block) + at_bytes));
		EXPECT_GE(fault_addr, (uintptr_t)at(pool, block));
		EXPECT_LT(fault_addr, (uintptr_t)at(pool, block + 1));
	}
	EXPECT_EQ(SIGBUS, try_write(at(pool, block + 1) - 1));
}

/* Wherever it is, mapped or not, and whatever maps it. */
TEST_F(protect, sealed)
{
	struct pool *pool = &self->pool;
	char *second = map_aligned(pool->fd, pool->bytes, PROT_READ | PROT_WRITE);

	ASSERT_NE(MAP_FAILED, (void *)second);
	fill(pool, 0, 6, 1);
	second[3 * pool->block] = pool->mem[3 * pool->block]; /* writable there too */
	ASSERT_EQ(0, op(pool, KVTIER_OP_SEAL, 2, 2));
	expect_sealed(_metadata, pool, 2);
	expect_sealed(_metadata, pool, 3);
	EXPECT_EQ(SIGBUS, try_write(second + 3 * pool->block));
	ASSERT_EQ(0, op(pool, KVTIER_OP_WRITEBACK, 2, 2));
	expect_sealed(_metadata, pool, 2);
	ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 2, 2));
	expect_sealed(_metadata, pool, 2);
	EXPECT_EQ(SIGBUS, try_write(second + 3 * pool->block));
	EXPECT_EQ(0, check(pool, 0, 6, 1));
	fill(pool, 0, 2, 2);
	fill(pool, 4, 2, 2);
	ASSERT_EQ(0, op(pool, KVTIER_OP_DISCARD, 2, 1));
	fill(pool, 2, 1, 2);
	EXPECT_EQ(0, check(pool, 0, 3, 2));
	EXPECT_EQ(0, check(pool, 3, 1, 1));
	munmap(second, pool->bytes);
}

/* A system call that would store into a sealed block fails as for any bad address. */
TEST_F(protect, sealed_for_system_calls)
{
	struct pool *pool = &self->pool;
	struct iovec local = { (void *)"xxxx", 4 }, remote;
	int fds[2];

	ASSERT_EQ(0, pipe(fds));
	fill(pool, 0, 2, 1);
	ASSERT_EQ(0, op(pool, KVTIER_OP_SEAL, 0, 2));
	ASSERT_EQ(5, write(fds[1], "hello", 5));
	EXPECT_EQ(-1, read(fds[0], at(pool, 1), 5));
	EXPECT_EQ(EFAULT, errno);
	remote = (struct iovec){ at(pool, 0), 4 };
	EXPECT_EQ(-1, process_vm_writev(getpid(), &local, 1, &remote, 1, 0));
	EXPECT_EQ(EFAULT, errno);
	/* Reading from it works. */
	EXPECT_EQ(8, write(fds[1], at(pool, 1), 8));
	EXPECT_EQ(0, check(pool, 0, 2, 1));
}

/* After fork() a sealed block is sealed for both, and a store of either is tracked. */
TEST_F(protect, children)
{
	struct pool *pool = &self->pool;
	int status;
	pid_t pid;

	fill(pool, 0, 3, 1);
	ASSERT_EQ(0, op(pool, KVTIER_OP_WRITEBACK, 0, 3));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		int ret = op(pool, KVTIER_OP_SEAL, 0, 1);

		*(volatile char *)at(pool, 1) ^= 1;
		_exit(ret || try_write(at(pool, 0)) != SIGBUS);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(SIGBUS, try_write(at(pool, 0)));
	EXPECT_TRUE(dirty(pool, 1));
	EXPECT_FALSE(dirty(pool, 2));
}

/* ---- a store at the same time ------------------------------------------------------ */

struct racer {
	struct pool *pool;
	uint64_t block;
	volatile bool go;
	volatile uint64_t last; /* the last value whose store came through */
	sigjmp_buf out;
};

static struct racer *racing;

static void stop_racing(int signal, siginfo_t *info, void *context)
{
	siglongjmp(racing->out, 1);
}

static void *race(void *arg)
{
	struct racer *r = arg;
	volatile uint64_t *word = (uint64_t *)at(r->pool, r->block);
	uint64_t i;

	if (sigsetjmp(r->out, 1))
		return NULL;
	r->go = true;
	for (i = 1;; i++) {
		word[0] = i;
		word[r->pool->block / 8 - 1] = i;
		r->last = i;
	}
	return NULL;
}

/* What is sealed contains every store that came through, and never changes again. */
TEST_F(protect, seal_against_a_writer)
{
	struct sigaction action = { .sa_sigaction = stop_racing, .sa_flags = SA_SIGINFO };
	struct pool *pool = &self->pool;
	static struct racer r;
	uint64_t first, last;
	pthread_t thread;

	sigaction(SIGBUS, &action, NULL);
	racing = &r;
	r.pool = pool;
	for (r.block = 0; r.block < 12; r.block++) {
		fill(pool, r.block, 1, 1);
		r.go = false;
		ASSERT_EQ(0, pthread_create(&thread, NULL, race, &r));
		while (!r.go || r.last < 50)
			;
		ASSERT_EQ(0, op(pool, KVTIER_OP_SEAL, r.block, 1));
		first = *(volatile uint64_t *)at(pool, r.block);
		last = ((volatile uint64_t *)at(pool, r.block))[pool->block / 8 - 1];
		pthread_join(thread, NULL);
		EXPECT_EQ(first, *(volatile uint64_t *)at(pool, r.block));
		EXPECT_GE(first, r.last);
		EXPECT_GE(last, r.last);
		EXPECT_LE(first, r.last + 1);
		ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, r.block, 1));
		EXPECT_EQ(first, *(volatile uint64_t *)at(pool, r.block));
		r.last = 0;
	}
}

/* A store during write-back is kept and leaves the block dirty. */
static void *count(void *arg)
{
	struct racer *r = arg;
	volatile uint64_t *word = (uint64_t *)at(r->pool, r->block);

	while (r->go) {
		if (*word != r->last)
			return (void *)1;
		*word = ++r->last;
	}
	return NULL;
}

TEST_F(protect, writeback_against_a_writer)
{
	struct pool *pool = &self->pool;
	struct racer r = { .pool = pool, .block = 5, .go = true };
	uint64_t before;
	pthread_t thread;
	void *wrong;
	int i;

	ASSERT_EQ(0, pthread_create(&thread, NULL, count, &r));
	for (i = 0; i < 100; i++) {
		ASSERT_EQ(0, op(pool, i % 3 ? KVTIER_OP_WRITEBACK : KVTIER_OP_DEMOTE, 5, 1));
		/* The first may have been stored before, and told of after. */
		before = r.last;
		while (r.last < before + 2)
			sched_yield();
	}
	r.go = false;
	pthread_join(thread, &wrong);
	EXPECT_EQ(NULL, wrong);
	EXPECT_EQ(r.last, *(volatile uint64_t *)at(pool, 5));
	EXPECT_GT(stats(pool).written_blocks, 50);
}

KVT_MAIN(NEEDS_STORE)
