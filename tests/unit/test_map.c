// SPDX-License-Identifier: MIT
/* Description: moves of pages that fail half way lose nothing in silence. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pool.h"
#include "pool_bed.h"
#include "unit.h"

#define BLOCKS 16
#define FRAMES 8
#define BLOCK_BYTES (64u << 10)

/* Newer than Debian 12's headers. */
struct move_args {
	__u64 dst, src, len, mode;
	__s64 moved;
};

#define IOC_MOVE _IOWR(UFFDIO, 0x05, struct move_args)

static atomic_int torn_moves; /* this many calls: the first moves half, the others nothing */
static atomic_int failed_protects;

static int fail_with(int error)
{
	errno = error;
	return -1;
}

static int half_move(int fd, struct move_args *args)
{
	__u64 whole = args->len;

	args->len = whole / 2;
	if (syscall(SYS_ioctl, fd, IOC_MOVE, args))
		return -1;
	args->len = whole;
	return fail_with(EAGAIN);
}

/* The library's, here: its calls come this way. */
int ioctl(int fd, unsigned long request, ...)
{
	struct move_args *args;
	int left;
	va_list list;

	va_start(list, request);
	args = va_arg(list, struct move_args *);
	va_end(list);
	left = atomic_load(&torn_moves);
	if (request == IOC_MOVE && left) {
		atomic_store(&torn_moves, left - 1);
		if (left == 3)
			return half_move(fd, args);
		args->moved = -ENOMEM;
		return fail_with(ENOMEM);
	}
	if (request == UFFDIO_WRITEPROTECT && atomic_load(&failed_protects)) {
		atomic_fetch_sub(&failed_protects, 1);
		return fail_with(ENOMEM);
	}
	return (int)syscall(SYS_ioctl, fd, request, args);
}

struct bed {
	struct kvt_pool *pool;
	char dir[BED_DIR];
};

static uint64_t word(uint64_t at)
{
	return at * 0x9e3779b97f4a7c15ull + 1;
}

static uint64_t *block_words(struct bed *t, uint32_t b)
{
	return (uint64_t *)((char *)kvt_pool_addr(t->pool) + (size_t)b * BLOCK_BYTES);
}

static void fill(struct bed *t, uint32_t b)
{
	uint32_t i;

	for (i = 0; i < BLOCK_BYTES / 8; i++)
		block_words(t, b)[i] = word(b + i);
}

static void check(struct bed *t, uint32_t b)
{
	uint32_t i;

	for (i = 0; i < BLOCK_BYTES / 8; i++)
		assert_int_equal(block_words(t, b)[i], word(b + i));
}

static int set_up(void **state)
{
	struct bed *t = calloc(1, sizeof(*t));
	struct kvt_config config;
	uint32_t b;

	*state = t;
	if (!t || !bed_folder(t->dir, "map"))
		return -1;
	config = bed_config(t->dir, BLOCKS, FRAMES, BLOCK_BYTES);
	config.flags |= KVT_NO_PREDICT;
	if (kvt_pool_create(&config, &t->pool))
		return 0; /* the tests skip */
	for (b = 0; b < BLOCKS; b++)
		fill(t, b);
	return kvt_demote(t->pool, 0, kvt_pool_bytes(t->pool));
}

static int tear_down(void **state)
{
	struct bed *t = *state;

	kvt_pool_destroy(t->pool);
	rmdir(t->dir);
	free(t);
	return 0;
}

/* True when nothing used what was to fail: this kernel copies. */
static bool unused(atomic_int *count)
{
	return atomic_exchange(count, 0);
}

/* Moved, but not protected: back, and once more. */
static void unprotected(void **state)
{
	struct bed *t = *state;

	if (!t->pool)
		skip();
	atomic_store(&failed_protects, 1);
	kvt_promote(t->pool, 0, BLOCK_BYTES);
	if (unused(&failed_protects))
		skip();
	assert_int_equal(kvt_promote(t->pool, 0, BLOCK_BYTES), 0);
	check(t, 0);
	block_words(t, 0)[5] = 5;
	assert_int_equal(kvt_demote(t->pool, 0, BLOCK_BYTES), 0);
	assert_int_equal(block_words(t, 0)[5], 5);
}

/* A clean block torn on its way in: it is read again. */
static void torn_clean(void **state)
{
	struct bed *t = *state;
	struct kvtier_stats stats;

	if (!t->pool)
		skip();
	atomic_store(&torn_moves, 3);
	kvt_promote(t->pool, 0, BLOCK_BYTES);
	if (unused(&torn_moves))
		skip();
	check(t, 0);
	assert_int_equal(kvt_stats(t->pool, &stats), 0);
	assert_int_equal(stats.bad_blocks, 0);
}

static sigjmp_buf escape;

static void on_bus(int sig)
{
	(void)sig;
	siglongjmp(escape, 1);
}

/* A dirty one torn on its way out cannot be had: nobody may take half of it for zeroes. */
static void torn_dirty(void **state)
{
	struct bed *t = *state;
	struct kvtier_block_info info;
	struct sigaction action, old;
	volatile bool hit = false;
	uint32_t b;
	int ret;

	if (!t->pool)
		skip();
	block_words(t, 0)[0] = word(0);
	atomic_store(&torn_moves, 3);
	ret = kvt_demote(t->pool, 0, BLOCK_BYTES);
	if (unused(&torn_moves))
		skip();
	assert_int_not_equal(ret, 0);
	assert_int_equal(kvt_query(t->pool, 0, 1, &info), 0);
	assert_int_equal(info.state, KVTIER_BLOCK_BAD);
	memset(&action, 0, sizeof(action));
	action.sa_handler = on_bus;
	sigaction(SIGBUS, &action, &old);
	if (!sigsetjmp(escape, 1))
		(void)*(volatile uint64_t *)block_words(t, 0);
	else
		hit = true;
	sigaction(SIGBUS, &old, NULL);
	assert_true(hit);
	for (b = 1; b < BLOCKS; b++)
		check(t, b);
	assert_int_equal(kvt_discard(t->pool, 0, BLOCK_BYTES), 0);
	fill(t, 0);
	assert_int_equal(kvt_demote(t->pool, 0, kvt_pool_bytes(t->pool)), 0);
	for (b = 0; b < BLOCKS; b++)
		check(t, b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(unprotected, set_up, tear_down),
		cmocka_unit_test_setup_teardown(torn_clean, set_up, tear_down),
		cmocka_unit_test_setup_teardown(torn_dirty, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
