// SPDX-License-Identifier: MIT
/*
 * A block device as the NVMe tier.  A loop device over a file of the case's
 * folder plays it, and a cgroup that throttles it makes it stall.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "conf.h"

#define BLOCKS 16
#define DEADLINE_MS 500
#define STALL_S 4 /* for one block */

struct device {
	char path[32];
	dev_t number;
	int fd; /* keeps it attached; it detaches itself with the last one */
};

static bool attach(struct device *d, int backing)
{
	struct loop_config config = { .fd = (uint32_t)backing,
				      .info = { .lo_flags = LO_FLAGS_AUTOCLEAR } };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	struct stat st;
	int number;

	if (control < 0)
		return false;
	number = ioctl(control, LOOP_CTL_GET_FREE);
	close(control);
	if (number < 0)
		return false;
	snprintf(d->path, sizeof(d->path), "/dev/loop%d", number);
	d->fd = open(d->path, O_RDWR | O_CLOEXEC);
	if (d->fd < 0)
		return false;
	if (ioctl(d->fd, LOOP_CONFIGURE, &config) || fstat(d->fd, &st)) {
		close(d->fd);
		return false;
	}
	d->number = st.st_rdev;
	return true;
}

/* Another program may take the number that was free a moment ago. */
static bool make_device(struct conf *c, struct device *d, uint32_t blocks)
{
	char *file = conf_path(c, "device");
	int tries, backing = (int)CONF_SYS(open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	bool made = false;

	CONF_SYS(ftruncate(backing, (off_t)(blocks * c->block)));
	for (tries = 0; tries < 16 && !made; tries++)
		made = attach(d, backing);
	close(backing);
	free(file);
	return made;
}

static struct conf_spec spec_on(const struct device *d)
{
	return (struct conf_spec){ .blocks = BLOCKS,
				   .dram = 8,
				   .nvme = BLOCKS + 4,
				   .deadline_ms = DEADLINE_MS,
				   .flags = KVT_NO_PREDICT,
				   .path = d->path };
}

static int block_device(struct conf *c)
{
	struct conf_spec spec;
	struct kvt_pool *pool;
	struct device d;

	if (!make_device(c, &d, BLOCKS + 4))
		return conf_skip("no loop device here (needs root)");
	spec = spec_on(&d);
	spec.deadline_ms = 0;
	pool = conf_pool(c, &spec);
	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	conf_demote_all(pool);
	conf_check(pool, 0, kvt_pool_bytes(pool), 1);
	CONF_GE(conf_stats(pool).tier[KVTIER_TIER_NVME].bytes_out, kvt_pool_bytes(pool));
	kvt_pool_destroy(pool);
	/* The device is free again. */
	pool = conf_pool(c, &spec);
	conf_check_zero(pool, 0, kvt_pool_bytes(pool));
	kvt_pool_destroy(pool);
	close(d.fd);
	return CONF_PASS;
}

static int device_refused(struct conf *c)
{
	struct kvt_pool *pool, *second;
	struct conf_spec spec;
	struct device d;
	int other;

	if (!make_device(c, &d, BLOCKS))
		return conf_skip("no loop device here (needs root)");
	spec = spec_on(&d);
	CONF_RET(conf_pool_try(c, &spec, &pool), -ENOSPC);
	CONF_EQ(strstr(kvt_error_detail(), d.path) != NULL, true);
	spec.nvme = BLOCKS;
	other = (int)CONF_SYS(open(d.path, O_RDONLY | O_EXCL | O_CLOEXEC));
	CONF_RET(conf_pool_try(c, &spec, &pool), -EBUSY);
	CONF_EQ(strstr(kvt_error_detail(), "in use") != NULL, true);
	close(other);
	pool = conf_pool(c, &spec);
	CONF_RET(conf_pool_try(c, &spec, &second), -EBUSY);
	kvt_pool_destroy(pool);
	close(d.fd);
	return CONF_PASS;
}

/* A cgroup of this process's own that limits one device; v1. */
struct throttle {
	char dir[64];
	const char *rule; /* file */
	dev_t number;
};

static bool write_text(const char *dir, const char *file, const char *text)
{
	char path[256];
	int fd;
	bool done;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	if (fd >= 0)
		close(fd);
	return done;
}

static bool set_rate(const struct throttle *t, uint64_t bytes_per_s)
{
	char text[64];

	snprintf(text, sizeof(text), "%u:%u %llu", major(t->number), minor(t->number),
		 (unsigned long long)bytes_per_s);
	return write_text(t->dir, t->rule, text);
}

/* From now on each block takes STALL_S seconds. */
static bool stall(struct conf *c, struct throttle *t, const struct device *d)
{
	snprintf(t->dir, sizeof(t->dir), "/sys/fs/cgroup/blkio/kvtier-conf.%d", (int)getpid());
	t->number = d->number;
	if (mkdir(t->dir, 0700))
		return false;
	if (set_rate(t, c->block / STALL_S) && write_text(t->dir, "cgroup.procs", "0"))
		return true;
	rmdir(t->dir);
	return false;
}

static void recover(const struct throttle *t)
{
	CONF_EQ(set_rate(t, 0), true);
}

static void leave(const struct throttle *t)
{
	CONF_EQ(write_text("/sys/fs/cgroup/blkio", "cgroup.procs", "0"), true);
	CONF_SYS(rmdir(t->dir));
}

static uint32_t wait_not_bad(struct kvt_pool *pool, uint64_t block)
{
	uint64_t end = conf_now_ms() + 1000 * 4 * STALL_S;

	while (conf_info(pool, block).state == KVTIER_BLOCK_BAD && conf_now_ms() < end)
		usleep(20000);
	return conf_info(pool, block).state;
}

static int device_stalls_reads(struct conf *c)
{
	struct kvtier_event event;
	struct conf_spec spec;
	struct kvt_pool *pool;
	struct throttle t = { .rule = "blkio.throttle.read_bps_device" };
	struct device d;
	uint64_t start;

	if (!make_device(c, &d, BLOCKS + 4))
		return conf_skip("no loop device here (needs root)");
	spec = spec_on(&d);
	pool = conf_pool(c, &spec);
	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	conf_demote_all(pool);
	CONF_RET(kvt_promote(pool, 0, 4 * c->block), 0);
	if (!stall(c, &t, &d))
		return conf_skip("no blkio cgroup that throttles here");
	start = conf_now_ms();
	conf_expect_bus_read(pool, 9, 0);
	CONF_GE(conf_now_ms() - start, DEADLINE_MS / 2);
	/* What is in memory goes on, and what waits for the device ends, too. */
	conf_check(pool, 0, 4 * c->block, 1);
	CONF_RET(kvt_promote(pool, 10 * c->block, c->block), -ETIMEDOUT);
	CONF_EQ(conf_wait_event(pool, KVTIER_EVENT_BAD_BLOCK, 2000, &event), true);
	CONF_EQ(event.error, -ETIMEDOUT);
	recover(&t);
	/* The late bytes are the block's, and only now may be seen. */
	CONF_EQ(wait_not_bad(pool, 9) != KVTIER_BLOCK_BAD, true);
	CONF_EQ(wait_not_bad(pool, 10) != KVTIER_BLOCK_BAD, true);
	conf_check(pool, 0, kvt_pool_bytes(pool), 1);
	kvt_pool_destroy(pool);
	leave(&t);
	close(d.fd);
	return CONF_PASS;
}

static int device_stalls_writes(struct conf *c)
{
	struct kvtier_event event;
	struct conf_spec spec;
	struct kvt_pool *pool;
	struct throttle t = { .rule = "blkio.throttle.write_bps_device" };
	struct device d;

	if (!make_device(c, &d, BLOCKS + 4))
		return conf_skip("no loop device here (needs root)");
	spec = spec_on(&d);
	pool = conf_pool(c, &spec);
	conf_fill(pool, 0, 4 * c->block, 1);
	if (!stall(c, &t, &d))
		return conf_skip("no blkio cgroup that throttles here");
	CONF_RET(kvt_demote(pool, 0, c->block), -ETIMEDOUT);
	CONF_EQ(conf_wait_event(pool, KVTIER_EVENT_IO_ERROR, 2000, &event), true);
	CONF_EQ(event.error, -ETIMEDOUT);
	conf_check(pool, c->block, 3 * c->block, 1);
	recover(&t);
	conf_check(pool, 0, 4 * c->block, 1);
	conf_fill(pool, 0, kvt_pool_bytes(pool), 2);
	conf_check(pool, 0, kvt_pool_bytes(pool), 2);
	CONF_EQ(conf_stats(pool).bad_blocks, 0);
	kvt_pool_destroy(pool);
	leave(&t);
	close(d.fd);
	return CONF_PASS;
}

const struct conf_case conf_device_cases[] = {
	CONF_CASE(block_device, "a block device holds the slots and is free again afterwards",
		  .needs = CONF_NEEDS_FILE),
	CONF_CASE(device_refused, "a device that is too small or in use is refused by name",
		  .needs = CONF_NEEDS_FILE),
	CONF_CASE(device_stalls_reads, "a stalled read fails its block alone, and is not lost",
		  .seconds = 60, .needs = CONF_NEEDS_FILE),
	CONF_CASE(device_stalls_writes, "a stalled write fails in time, and loses nothing",
		  .seconds = 60, .needs = CONF_NEEDS_FILE),
	{ .name = NULL },
};
