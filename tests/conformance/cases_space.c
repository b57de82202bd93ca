// SPDX-License-Identifier: MIT
/*
 * A full device, in the middle of use.  A small tmpfs in a mount namespace of
 * the case's own plays the device: the pool's file is made sparse behind the
 * pager's back and a ballast file takes what was freed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf.h"

#define DEADLINE_MS 1000

static bool mount_small(const char *dir, uint64_t bytes)
{
	char options[64];

	snprintf(options, sizeof(options), "size=%llu", (unsigned long long)bytes);
	return !unshare(CLONE_NEWNS) && !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) &&
	       !mount("kvtier-conformance", dir, "tmpfs", 0, options);
}

/* tmpfs has O_DIRECT since Linux 6.6. */
static bool has_direct(const char *dir)
{
	int fd = open(dir, O_RDWR | O_TMPFILE | O_DIRECT | O_CLOEXEC, 0600);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static void fill_disk(const char *ballast)
{
	static char chunk[65536];
	int fd = (int)CONF_SYS(open(ballast, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));

	memset(chunk, 1, sizeof(chunk));
	while (write(fd, chunk, sizeof(chunk)) > 0)
		;
	CONF_EQ(errno, ENOSPC);
	close(fd);
}

static void make_sparse(const char *path, uint64_t bytes)
{
	int fd = (int)CONF_SYS(open(path, O_RDWR | O_CLOEXEC));

	CONF_SYS(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes));
	close(fd);
}

/*
 * Memory is full of blocks that cannot be written: a touch of one more waits
 * for the deadline and no longer, and says where.
 */
static void expect_bounded_wait(struct kvt_pool *pool, uint64_t block)
{
	uint64_t start = conf_now_ms();

	conf_expect_bus_write(pool, block, 0);
	CONF_GE(conf_now_ms() - start, DEADLINE_MS / 2);
	CONF_LE(conf_now_ms() - start, DEADLINE_MS * 5);
}

static uint32_t fill_memory(struct kvt_pool *pool)
{
	size_t block = kvt_pool_block_bytes(pool);
	uint32_t i;

	for (i = 0; i < conf_blocks(pool); i++) {
		struct conf_bus bus = conf_try_write(conf_addr(pool, i), 1);

		if (bus.hit)
			return i;
		conf_fill(pool, i * block, block, 1);
	}
	CONF_FAIL_NOW("a full device: expected SIGBUS in some block, got none");
}

static void expect_report(struct kvt_pool *pool, int error)
{
	struct kvtier_event event;
	struct kvtier_stats stats = conf_stats(pool);

	CONF_GE(stats.enospc, 1);
	CONF_GE(stats.tier[KVTIER_TIER_NVME].io_errors, 1);
	CONF_EQ(stats.bad_blocks, 0);
	CONF_EQ(conf_wait_event(pool, KVTIER_EVENT_IO_ERROR, 2000, &event), true);
	CONF_EQ(event.error, error);
	CONF_EQ(conf_wait_event(pool, KVTIER_EVENT_PRESSURE, 2000, &event), true);
}

/* Once there is space again, everything goes on, the refused block included. */
static void expect_all_well(struct kvt_pool *pool, uint32_t reached)
{
	size_t block = kvt_pool_block_bytes(pool);

	conf_check(pool, 0, reached * block, 1);
	conf_fill(pool, reached * block, kvt_pool_bytes(pool) - reached * block, 1);
	conf_check(pool, 0, kvt_pool_bytes(pool), 1);
	CONF_EQ(conf_stats(pool).bad_blocks, 0);
}

static int disk_full(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32,
				  .dram = 8,
				  .deadline_ms = DEADLINE_MS,
				  .flags = KVT_NO_PREDICT | KVT_KEEP_FILE };
	char *dir = conf_path(c, "disk"), *path = conf_path(c, "disk/slots");
	char *ballast = conf_path(c, "disk/ballast");
	uint64_t bytes = 32 * c->block;
	struct kvt_pool *pool;
	uint32_t reached;

	CONF_SYS(mkdir(dir, 0700));
	if (!mount_small(dir, bytes + MIB(1)))
		return conf_skip("mounting a small disk needs root");
	if (!has_direct(dir))
		return conf_skip("tmpfs has no O_DIRECT before Linux 6.6");
	spec.path = path;
	pool = conf_pool(c, &spec);
	make_sparse(path, bytes);
	fill_disk(ballast);
	reached = fill_memory(pool);
	CONF_GE(reached, 4);
	CONF_LE(reached, 12);
	conf_check(pool, 0, reached * c->block, 1);
	expect_bounded_wait(pool, reached);
	CONF_RET(kvt_writeback(pool, 0, 2 * c->block), -ENOSPC);
	CONF_RET(kvt_demote(pool, 0, 2 * c->block), -ENOSPC);
	conf_check(pool, 0, reached * c->block, 1);
	expect_report(pool, -ENOSPC);
	CONF_SYS(unlink(ballast));
	expect_all_well(pool, reached);
	kvt_pool_destroy(pool);
	free(ballast);
	free(path);
	free(dir);
	return CONF_PASS;
}

/* The same through a file size limit: no root needed, another errno. */
static int write_error(struct conf *c)
{
	struct conf_spec spec = {
		.blocks = 32, .dram = 8, .deadline_ms = DEADLINE_MS, .flags = KVT_NO_PREDICT
	};
	struct kvt_pool *pool = conf_pool(c, &spec);
	struct rlimit old, none = { 0 };
	uint32_t reached;

	CONF_SYS(getrlimit(RLIMIT_FSIZE, &old));
	none.rlim_max = old.rlim_max;
	signal(SIGXFSZ, SIG_IGN);
	CONF_SYS(setrlimit(RLIMIT_FSIZE, &none));
	reached = fill_memory(pool);
	CONF_GE(reached, 4);
	conf_check(pool, 0, reached * c->block, 1);
	expect_bounded_wait(pool, reached);
	expect_report(pool, -EFBIG);
	CONF_SYS(setrlimit(RLIMIT_FSIZE, &old));
	expect_all_well(pool, reached);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static void refused(struct conf *c, const struct conf_spec *spec, int error)
{
	struct kvt_pool *pool;

	CONF_RET(conf_pool_try(c, spec, &pool), error);
	CONF_EQ(strlen(kvt_error_detail()) > 0, true);
}

/* Found out at creation, with nothing left behind. */
static int bad_paths(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 8 };
	char *missing = conf_path(c, "no/such/folder"), *file = conf_path(c, "file");
	char *below = conf_path(c, "file/below");

	spec.path = missing;
	refused(c, &spec, -ENOENT);
	close((int)CONF_SYS(open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)));
	spec.path = below;
	refused(c, &spec, -ENOTDIR);
	CONF_SYS(unlink(file));
	spec.path = "/dev/null";
	refused(c, &spec, -EINVAL);
	spec.path = file;
	spec.nvme = (uint32_t)(MIB(1) * MIB(4) / c->block); /* 4 EiB, or what 32 bits hold */
	refused(c, &spec, -ENOSPC);
	CONF_EQ(conf_file_count(c->dir), 0);
	spec.flags = KVT_KEEP_FILE;
	refused(c, &spec, -ENOSPC);
	CONF_EQ(conf_file_count(c->dir), 0);
	free(missing);
	free(below);
	free(file);
	return CONF_PASS;
}

/* What is on the disk while the pool lives, and after. */
static int files_left(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8 };
	char *file = conf_path(c, "slots");
	struct kvt_pool *pool = conf_pool(c, &spec);

	CONF_EQ(conf_file_count(c->dir), 0); /* a directory gets an unnamed file */
	kvt_pool_destroy(pool);
	spec.path = file; /* loses its name at once: a killed process leaves nothing either */
	pool = conf_pool(c, &spec);
	CONF_EQ(conf_file_count(c->dir), 0);
	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	conf_check(pool, 0, kvt_pool_bytes(pool), 1);
	kvt_pool_destroy(pool);
	CONF_EQ(conf_file_count(c->dir), 0);
	spec.flags = KVT_KEEP_FILE;
	pool = conf_pool(c, &spec);
	kvt_pool_destroy(pool);
	CONF_EQ(conf_file_count(c->dir), 1);
	spec.flags = 0; /* somebody's data is not ours to overwrite or remove */
	refused(c, &spec, -EEXIST);
	CONF_EQ(conf_file_count(c->dir), 1);
	spec.path = NULL;
	spec.flags = KVT_KEEP_FILE;
	refused(c, &spec, -EINVAL);
	free(file);
	return CONF_PASS;
}

const struct conf_case conf_space_cases[] = {
	CONF_CASE(disk_full, "a full device: reported, bounded, no byte lost, and it goes on after",
		  .seconds = 60, .needs = CONF_NEEDS_FILE),
	CONF_CASE(write_error, "a device that refuses writes: the same", .seconds = 60,
		  .needs = CONF_NEEDS_FILE),
	CONF_CASE(bad_paths, "an NVMe path that cannot be used is refused at once",
		  .needs = CONF_NEEDS_FILE),
	CONF_CASE(files_left, "files are left exactly where they were asked for",
		  .needs = CONF_NEEDS_FILE),
	{ .name = NULL },
};
