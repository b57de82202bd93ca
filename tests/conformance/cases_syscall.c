// SPDX-License-Identifier: MIT
/* Pool memory as a buffer of system calls and devices, and as their subject. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "conf.h"

/* A file of the pool's size, word i stamped 6. */
static int stamped_file(struct conf *c, uint64_t bytes)
{
	char *path = conf_path(c, "data");
	int fd = (int)CONF_SYS(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	uint64_t words[512], at, i;

	for (at = 0; at < bytes; at += sizeof(words)) {
		for (i = 0; i < 512; i++)
			words[i] = conf_word(at + 8 * i, 6);
		CONF_EQ(write(fd, words, sizeof(words)), sizeof(words));
	}
	free(path);
	return fd;
}

static int syscall_buffers(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 8 };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool), at, bytes = kvt_pool_bytes(pool);
	int fd = stamped_file(c, bytes);
	char *base = kvt_pool_addr(pool);

	if (pread(fd, base, 4096, 0) < 0 && errno == EFAULT)
		return conf_skip("userfaultfd serves user-mode faults only for this user");
	for (at = 0; at < bytes; at += block)
		CONF_EQ(pread(fd, base + at, block, (off_t)at), block);
	conf_check(pool, 0, bytes, 6);
	CONF_SYS(ftruncate(fd, 0));
	for (at = 0; at < bytes; at += block)
		CONF_EQ(pwrite(fd, base + at, block, (off_t)at), block);
	CONF_RET(kvt_discard(pool, 0, bytes), 0);
	for (at = 0; at < bytes; at += block)
		CONF_EQ(pread(fd, base + at, block, (off_t)at), block);
	conf_check(pool, 0, bytes, 6);
	close(fd);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

struct demoter {
	struct kvt_pool *pool;
	atomic_bool stop;
};

static void *demote_always(void *arg)
{
	struct demoter *t = arg;
	size_t block = kvt_pool_block_bytes(t->pool);
	uint64_t seed = 3;

	while (!atomic_load(&t->stop)) {
		uint64_t b = conf_random(&seed) % conf_blocks(t->pool);
		int ret = kvt_demote(t->pool, b * block, block);

		if (ret && ret != -EBUSY) /* the kernel holds the pages */
			CONF_RET(ret, 0);
	}
	return NULL;
}

/* The device writes into pages that are on their way out: no byte may go astray. */
static int direct_io_under_motion(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 12 };
	struct demoter t = { .pool = conf_pool(c, &spec) };
	size_t block = kvt_pool_block_bytes(t.pool), at, bytes = kvt_pool_bytes(t.pool);
	int fd = stamped_file(c, bytes);
	uint64_t end = conf_now_ms() + 2500;
	char *base = kvt_pool_addr(t.pool);
	pthread_t thread;

	if (pread(fd, base, 4096, 0) < 0 && errno == EFAULT)
		return conf_skip("userfaultfd serves user-mode faults only for this user");
	CONF_SYS(fsync(fd));
	if (fcntl(fd, F_SETFL, O_DIRECT) && errno == EINVAL)
		return conf_skip("no O_DIRECT in %s", c->dir);
	CONF_EQ(pthread_create(&thread, NULL, demote_always, &t), 0);
	do {
		for (at = 0; at < bytes; at += block)
			CONF_EQ(pread(fd, base + at, block, (off_t)at), block);
		conf_check(t.pool, 0, bytes, 6);
		for (at = 0; at < bytes; at += block)
			CONF_EQ(pwrite(fd, base + at, block, (off_t)at), block);
		conf_fill(t.pool, 0, bytes, 7);
	} while (conf_now_ms() < end);
	atomic_store(&t.stop, true);
	pthread_join(thread, NULL);
	conf_check(t.pool, 0, bytes, 7);
	close(fd);
	kvt_pool_destroy(t.pool);
	return CONF_PASS;
}

/* Each page keeps what it held or reads as zeroes; nobody waits for ever. */
static int madvise_dontneed(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8 };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	uint32_t i;

	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	for (i = 0; i < 16; i++) {
		uint64_t offset = i * block + 8192, word;

		CONF_EQ(conf_touch(pool, i) == *(char *)conf_addr(pool, i), true);
		CONF_SYS(madvise(conf_addr(pool, i) + 8192, 4096, MADV_DONTNEED));
		word = *(volatile uint64_t *)(conf_addr(pool, i) + 8192);
		if (word && word != conf_word(offset, 1))
			CONF_FAIL_NOW("block %u after MADV_DONTNEED: expected 0 or its content, "
				      "got %016llx",
				      i, (unsigned long long)word);
	}
	CONF_RET(kvt_discard(pool, 0, kvt_pool_bytes(pool)), 0);
	conf_fill(pool, 0, kvt_pool_bytes(pool), 2);
	conf_check(pool, 0, kvt_pool_bytes(pool), 2);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* Sealed is sealed: the slot is not replaced by zeroes, and nobody may write. */
static int dontneed_sealed(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	uint64_t word;
	uint32_t i;

	conf_fill(pool, 0, 4 * block, 1);
	CONF_RET(kvt_seal(pool, 0, 4 * block), 0);
	CONF_RET(kvt_demote(pool, 0, 2 * block), 0);
	CONF_RET(kvt_writeback(pool, 2 * block, 2 * block), 0);
	for (i = 0; i < 4; i++) {
		uint64_t offset = i * block + 8192;

		conf_touch(pool, i);
		CONF_SYS(madvise(conf_addr(pool, i) + 8192, 4096, MADV_DONTNEED));
		word = *(volatile uint64_t *)(conf_addr(pool, i) + 8192);
		CONF_EQ(word == 0 || word == conf_word(offset, 1), true);
		conf_expect_bus_write(pool, i, 8192);
		conf_expect_bus_write(pool, i, 0);
	}
	CONF_RET(kvt_writeback(pool, 0, 4 * block), 0);
	conf_demote_all(pool);
	conf_check(pool, 0, 4 * block, 1);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

struct dropper {
	char *page;
	atomic_bool stop;
};

static void *drop_always(void *arg)
{
	struct dropper *d = arg;

	while (!atomic_load(&d->stop))
		CONF_SYS(madvise(d->page, 4096, MADV_DONTNEED));
	return NULL;
}

/* A page is given up and not touched again before its block is moved; then at the same time. */
static int dontneed_then_move(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	struct dropper d = { .page = conf_addr(pool, 1) + 8192 };
	uint64_t end, word;
	pthread_t thread;

	conf_fill(pool, 0, 4 * block, 1);
	CONF_SYS(madvise(conf_addr(pool, 0) + 8192, 4096, MADV_DONTNEED));
	CONF_RET(kvt_demote(pool, 0, block), 0);
	word = *(volatile uint64_t *)(conf_addr(pool, 0) + 8192);
	CONF_EQ(word == 0 || word == conf_word(8192, 1), true);
	conf_check(pool, 0, 8192, 1);
	conf_check(pool, 12288, block - 12288, 1);
	CONF_EQ(pthread_create(&thread, NULL, drop_always, &d), 0);
	for (end = conf_now_ms() + 700; conf_now_ms() < end;) {
		conf_fill(pool, block, 8192, 2);
		CONF_RET(kvt_writeback(pool, block, block), 0);
		CONF_RET(kvt_demote(pool, block, block), 0);
	}
	atomic_store(&d.stop, true);
	pthread_join(thread, NULL);
	conf_check(pool, block, 8192, 2);
	conf_check(pool, block + 12288, 3 * block - 12288, 1);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/*
 * A pipe holds the first page of block 1, as a device would.  What the program stores
 * afterwards must be what the holder sees: nothing may have put another page there.
 */
static void expect_same_page(struct kvt_pool *pool, const int pipe_fds[2], uint64_t stamp)
{
	uint64_t *word = (uint64_t *)conf_addr(pool, 1), seen[512];

	*(volatile uint64_t *)word = stamp;
	CONF_EQ(read(pipe_fds[0], seen, sizeof(seen)), sizeof(seen));
	CONF_EQ(seen[0], stamp);
}

static int pinned_pages_stay(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8, .flags = KVT_NO_PREDICT };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool);
	struct iovec page = { .iov_base = conf_addr(pool, 1), .iov_len = 4096 };
	int pipe_fds[2], ret;

	CONF_SYS(pipe(pipe_fds));
	conf_fill(pool, 0, 4 * block, 1);
	CONF_RET(kvt_pin(pool, block, block), 0);
	CONF_EQ(vmsplice(pipe_fds[1], &page, 1, 0), 4096);
	ret = kvt_writeback(pool, block, block);
	CONF_RET(ret == -EBUSY ? 0 : ret, 0);
	expect_same_page(pool, pipe_fds, 7);
	CONF_EQ(vmsplice(pipe_fds[1], &page, 1, 0), 4096);
	ret = kvt_clone(pool, 8 * block, pool, block, block);
	CONF_RET(ret == -EBUSY ? 0 : ret, 0);
	if (!ret)
		CONF_EQ(*(uint64_t *)conf_addr(pool, 8), 7);
	else
		conf_check_zero(pool, 8 * block, block); /* refused: the target is as it was */
	CONF_RET(kvt_demote(pool, block, block), -EBUSY);
	conf_check(pool, block + 8, block - 8, 1);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	CONF_RET(kvt_unpin(pool, block, block), 0);
	CONF_RET(kvt_writeback(pool, block, block), 0);
	CONF_RET(kvt_demote(pool, block, block), 0);
	conf_check(pool, block + 8, block - 8, 1);
	CONF_EQ(*(uint64_t *)conf_addr(pool, 1), 7);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

const struct conf_case conf_syscall_cases[] = {
	CONF_CASE(syscall_buffers, "read(2) and write(2) work on pool memory"),
	CONF_CASE(madvise_dontneed, "a careless madvise loses at most the page it names",
		  .seconds = 10),
	CONF_CASE(pinned_pages_stay,
		  "pages of a pinned block that somebody holds are not replaced"),
	CONF_CASE(dontneed_sealed, "a page of a sealed block that was given up is no hole in it"),
	CONF_CASE(dontneed_then_move, "a block with a page given up moves like any other",
		  .seconds = 20),
	CONF_CASE(direct_io_under_motion, "O_DIRECT into blocks that are being demoted",
		  .seconds = 60, .needs = CONF_NEEDS_HELD_PAGES),
	{ .name = NULL },
};
