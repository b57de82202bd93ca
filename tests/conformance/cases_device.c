// SPDX-License-Identifier: MIT
/* A block device as the NVMe tier. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../slow_disk.h"
#include "conf.h"

#define BLOCKS 16
#define DEADLINE_MS 500
#define STALL_S 4 /* for one block */

static bool make_device(struct conf *c, struct loop_disk *d, uint32_t blocks)
{
	char *file = conf_path(c, "device");
	bool made = loop_attach(d, file, blocks * c->block);

	free(file);
	return made;
}

static struct conf_spec spec_on(const struct loop_disk *d)
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
	struct loop_disk d;

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
	struct loop_disk d;
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

/* From now on each block takes STALL_S seconds. */
static bool stall(struct conf *c, struct throttle *t, const struct loop_disk *d, const char *what)
{
	if (!throttle_begin(t, d, 0))
		return false;
	CONF_EQ(throttle_set(t, what, c->block / STALL_S), true);
	return true;
}

static void leave(const struct throttle *t)
{
	CONF_EQ(throttle_leave(), true);
	CONF_EQ(throttle_end(t), true);
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
	struct throttle t;
	struct loop_disk d;
	uint64_t start;

	if (!make_device(c, &d, BLOCKS + 4))
		return conf_skip("no loop device here (needs root)");
	spec = spec_on(&d);
	pool = conf_pool(c, &spec);
	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	conf_demote_all(pool);
	CONF_RET(kvt_promote(pool, 0, 4 * c->block), 0);
	if (!stall(c, &t, &d, "read"))
		return conf_skip("no blkio cgroup that throttles here");
	start = conf_now_ms();
	conf_expect_bus_read(pool, 9, 0);
	CONF_GE(conf_now_ms() - start, DEADLINE_MS / 2);
	/* What is in memory goes on, and what waits for the device ends, too. */
	conf_check(pool, 0, 4 * c->block, 1);
	CONF_RET(kvt_promote(pool, 10 * c->block, c->block), -ETIMEDOUT);
	CONF_EQ(conf_wait_event(pool, KVTIER_EVENT_BAD_BLOCK, 2000, &event), true);
	CONF_EQ(event.error, -ETIMEDOUT);
	CONF_EQ(throttle_set(&t, "read", 0), true);
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
	struct throttle t;
	struct loop_disk d;

	if (!make_device(c, &d, BLOCKS + 4))
		return conf_skip("no loop device here (needs root)");
	spec = spec_on(&d);
	pool = conf_pool(c, &spec);
	conf_fill(pool, 0, 4 * c->block, 1);
	if (!stall(c, &t, &d, "write"))
		return conf_skip("no blkio cgroup that throttles here");
	CONF_RET(kvt_demote(pool, 0, c->block), -ETIMEDOUT);
	CONF_EQ(conf_wait_event(pool, KVTIER_EVENT_IO_ERROR, 2000, &event), true);
	CONF_EQ(event.error, -ETIMEDOUT);
	conf_check(pool, c->block, 3 * c->block, 1);
	CONF_EQ(throttle_set(&t, "write", 0), true);
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
