// SPDX-License-Identifier: MIT
/* Description: transfers that fail for a moment lose no block, and none keeps the pager waiting. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <liburing.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pool.h"
#include "pool_bed.h"
#include "unit.h"

#define BLOCKS 16
#define FRAMES 8
#define BLOCK_BYTES (64u << 10)

static atomic_int failures; /* so many transfers come back with ... */
static atomic_int failure;

static void spoil(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	unsigned int head;

	io_uring_for_each_cqe(ring, head, cqe)
	{
		if (cqe->res != BLOCK_BYTES || atomic_load(&failures) <= 0)
			continue;
		cqe->res = atomic_load(&failure);
		atomic_fetch_sub(&failures, 1);
	}
}

/* The pager's, here: what has come by then passes through our hands. */
int io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned nr,
				     struct __kernel_timespec *ts, sigset_t *mask)
{
	static int (*next)(struct io_uring *, struct io_uring_cqe **, unsigned,
			   struct __kernel_timespec *, sigset_t *);
	int ret;

	if (!next)
		*(void **)&next = dlsym(RTLD_NEXT, "io_uring_submit_and_wait_timeout");
	ret = next(ring, cqe, nr, ts, mask);
	spoil(ring);
	return ret;
}

static atomic_int waited; /* for the disk, by whoever called it */

int fdatasync(int fd)
{
	(void)fd;
	atomic_fetch_add(&waited, 1);
	return 0;
}

int fsync(int fd)
{
	return fdatasync(fd);
}

static void fail_next(int nr, int error)
{
	atomic_store(&failure, error);
	atomic_store(&failures, nr);
}

struct bed {
	struct kvt_pool *pool;
	char dir[BED_DIR], file[48];
};

static uint64_t word(uint64_t at)
{
	return at * 0x9e3779b97f4a7c15ull + 1;
}

static int make_bed(void **state, uint32_t flags)
{
	struct bed *t = calloc(1, sizeof(*t));
	struct kvt_config config;
	uint64_t *words, i;

	*state = t;
	if (!t || !bed_folder(t->dir, "read"))
		return -1;
	config = bed_config(t->dir, BLOCKS, FRAMES, BLOCK_BYTES);
	snprintf(t->file, sizeof(t->file), "%s/slots", t->dir);
	if (flags & KVT_KEEP_FILE)
		config.nvme_path = t->file;
	config.flags |= KVT_NO_PREDICT | flags;
	if (kvt_pool_create(&config, &t->pool))
		return 0; /* the tests skip */
	words = kvt_pool_addr(t->pool);
	for (i = 0; i < config.bytes / 8; i++)
		words[i] = word(i);
	return kvt_demote(t->pool, 0, config.bytes);
}

static int set_up(void **state)
{
	return make_bed(state, 0);
}

static int set_up_kept(void **state)
{
	return make_bed(state, KVT_KEEP_FILE);
}

static int tear_down(void **state)
{
	struct bed *t = *state;

	kvt_pool_destroy(t->pool);
	unlink(t->file);
	rmdir(t->dir);
	free(t);
	return 0;
}

static void check(struct bed *t, uint32_t first, uint32_t nr)
{
	const uint64_t *words = kvt_pool_addr(t->pool);
	uint64_t i;

	for (i = first * (BLOCK_BYTES / 8); i < (first + nr) * (BLOCK_BYTES / 8); i++)
		assert_int_equal(words[i], word(i));
}

/* Promote until all failures have been met; a transfer may slip past them. */
static int promote_through(struct bed *t)
{
	int ret, round;

	for (round = 0; round < 1000; round++) {
		ret = kvt_promote(t->pool, 0, 4 * BLOCK_BYTES);
		if (ret || !atomic_load(&failures))
			return ret;
		ret = kvt_demote(t->pool, 0, 4 * BLOCK_BYTES);
		if (ret)
			return ret;
	}
	return -ETIME;
}

static void expect_none_bad(struct bed *t)
{
	struct kvtier_stats stats;

	assert_int_equal(kvt_stats(t->pool, &stats), 0);
	assert_int_equal(stats.bad_blocks, 0);
	assert_int_equal(stats.crc_errors, 0);
	check(t, 0, BLOCKS);
}

/* "Again", as the kernel says when it has no memory: as often as it likes. */
static void passing(void **state)
{
	struct bed *t = *state;

	if (!t->pool)
		skip();
	fail_next(50, -EAGAIN);
	assert_int_equal(promote_through(t), 0);
	fail_next(50, -ENOMEM);
	assert_int_equal(promote_through(t), 0);
	expect_none_bad(t);
}

/* The medium, once; and half of what was asked for. */
static void once(void **state)
{
	struct bed *t = *state;

	if (!t->pool)
		skip();
	fail_next(1, -EIO);
	assert_int_equal(promote_through(t), 0);
	fail_next(1, BLOCK_BYTES / 2);
	assert_int_equal(promote_through(t), 0);
	expect_none_bad(t);
}

/* For good: an error soon, and the other blocks are as they were. */
static void lasting(void **state)
{
	struct bed *t = *state;
	int ret, round = 0;

	if (!t->pool)
		skip();
	fail_next(INT_MAX, -EIO);
	do
		ret = kvt_promote(t->pool, 0, BLOCK_BYTES);
	while (!ret && !kvt_demote(t->pool, 0, BLOCK_BYTES) && ++round < 1000);
	assert_int_equal(ret, -EIO);
	fail_next(0, 0);
	assert_int_equal(kvt_promote(t->pool, 0, BLOCK_BYTES), -EIO);
	check(t, 1, BLOCKS - 1);
}

/* The pool ends while it tries. */
static void ending(void **state)
{
	struct bed *t = *state;
	struct kvtier_range range = { .offset = 0, .length = 4 * BLOCK_BYTES };

	if (!t->pool)
		skip();
	fail_next(INT_MAX, -EAGAIN);
	assert_int_equal(kvt_range_op(t->pool, KVTIER_OP_PROMOTE, KVTIER_TIER_NONE,
				      KVTIER_OP_NOWAIT, &range, 1),
			 1);
	usleep(20000);
	kvt_pool_destroy(t->pool);
	t->pool = NULL;
	fail_next(0, 0);
}

/* A disk takes as long as it likes: whoever waits for it there serves no fault meanwhile. */
static void durable(void **state)
{
	struct bed *t = *state;
	struct kvtier_slot slots[BLOCKS];

	if (!t->pool)
		skip();
	atomic_store(&waited, 0);
	assert_int_equal(kvt_seal(t->pool, 0, kvt_pool_bytes(t->pool)), 0);
	assert_int_equal(kvt_checkpoint(t->pool, 0, kvt_pool_bytes(t->pool), slots), BLOCKS);
	assert_int_equal(kvt_checkpoint(t->pool, 0, BLOCK_BYTES, slots), 1);
	assert_int_equal(atomic_load(&waited), 0);
	check(t, 0, BLOCKS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(passing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(once, set_up, tear_down),
		cmocka_unit_test_setup_teardown(lasting, set_up, tear_down),
		cmocka_unit_test_setup_teardown(ending, set_up, tear_down),
		cmocka_unit_test_setup_teardown(durable, set_up_kept, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
