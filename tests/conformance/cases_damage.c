// SPDX-License-Identifier: MIT
/*
 * Damage to the NVMe tier's file, done behind the pager's back.  The contract
 * has a slot's bytes at slot number times block size.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "conf.h"

struct damaged {
	struct kvt_pool *pool;
	size_t block;
	char *path;
	int fd;
};

/* A pool of 16 blocks stamped 1, none of them in memory, over a file of ours. */
static struct damaged cold_pool(struct conf *c)
{
	struct damaged d = { .path = conf_path(c, "slots"), .block = c->block };
	struct conf_spec spec = {
		.blocks = 16, .dram = 8, .path = d.path, .flags = KVT_NO_PREDICT | KVT_KEEP_FILE
	};

	d.pool = conf_pool(c, &spec);
	d.fd = (int)CONF_SYS(open(d.path, O_RDWR | O_CLOEXEC));
	conf_fill(d.pool, 0, kvt_pool_bytes(d.pool), 1);
	conf_demote_all(d.pool);
	return d;
}

static void end(struct damaged *d)
{
	kvt_pool_destroy(d->pool);
	close(d->fd);
	free(d->path);
}

static off_t slot_offset(struct damaged *d, uint64_t block)
{
	struct kvtier_block_info info = conf_info(d->pool, block);

	CONF_EQ(info.slot != KVTIER_NO_SLOT, true);
	return (off_t)(info.slot * d->block);
}

static char *read_slot(struct damaged *d, uint64_t block)
{
	char *bytes = malloc(d->block);

	CONF_EQ(bytes != NULL, true);
	CONF_EQ(pread(d->fd, bytes, d->block, slot_offset(d, block)), d->block);
	return bytes;
}

static void write_slot(struct damaged *d, uint64_t block, const char *bytes)
{
	CONF_EQ(pwrite(d->fd, bytes, d->block, slot_offset(d, block)), d->block);
	CONF_SYS(fsync(d->fd));
}

static void flip_bit(struct damaged *d, uint64_t block, size_t byte)
{
	char *bytes = read_slot(d, block);

	bytes[byte] ^= 0x10;
	write_slot(d, block, bytes);
	free(bytes);
}

static void expect_bad(struct damaged *d, uint64_t block)
{
	conf_expect_bus_read(d->pool, block, d->block / 2);
	conf_expect_bus_read(d->pool, block, 0);
	conf_expect_bus_read(d->pool, block, d->block - 1);
	conf_expect_bus_write(d->pool, block, 4096);
	CONF_EQ(conf_info(d->pool, block).state, KVTIER_BLOCK_BAD);
	CONF_RET(kvt_promote(d->pool, block * d->block, d->block), -EIO);
	CONF_RET(kvt_seal(d->pool, block * d->block, d->block), -EIO);
	CONF_RET(kvt_pin(d->pool, block * d->block, d->block), -EIO);
}

/* The others are as they were, and the bad one can be used again. */
static void expect_recovery(struct damaged *d, uint64_t block)
{
	uint64_t i;

	for (i = 0; i < conf_blocks(d->pool); i++)
		if (i != block)
			conf_check(d->pool, i * d->block, d->block, 1);
	CONF_RET(kvt_discard(d->pool, block * d->block, d->block), 0);
	CONF_EQ(conf_info(d->pool, block).state, KVTIER_BLOCK_EMPTY);
	conf_check_zero(d->pool, block * d->block, d->block);
	conf_fill(d->pool, block * d->block, d->block, 1);
	conf_demote_all(d->pool);
	conf_check(d->pool, 0, kvt_pool_bytes(d->pool), 1);
	CONF_EQ(conf_stats(d->pool).bad_blocks, 0);
}

static int bit_flip(struct conf *c)
{
	struct damaged d = cold_pool(c);
	struct kvtier_event event;

	flip_bit(&d, 5, d.block - 1);
	expect_bad(&d, 5);
	CONF_EQ(conf_stats(d.pool).crc_errors, 1);
	CONF_EQ(conf_stats(d.pool).bad_blocks, 1);
	CONF_EQ(conf_wait_event(d.pool, KVTIER_EVENT_BAD_BLOCK, 2000, &event), true);
	CONF_EQ(event.offset, 5 * d.block);
	CONF_EQ(event.length, d.block);
	CONF_EQ(event.error < 0, true);
	expect_recovery(&d, 5);
	end(&d);
	return CONF_PASS;
}

/* Found on request instead of on touch; every bit position class, a few bytes. */
static int bit_flip_promote(struct conf *c)
{
	struct damaged d = cold_pool(c);
	size_t bytes[] = { 0, 1, 4095, 4096, d.block / 2 + 7, d.block - 8 };
	uint32_t i;

	for (i = 0; i < 6; i++)
		flip_bit(&d, i, bytes[i]);
	for (i = 0; i < 6; i++)
		CONF_RET(kvt_promote(d.pool, i * d.block, d.block), -EIO);
	CONF_RET(kvt_promote(d.pool, 6 * d.block, 4 * d.block), 0);
	conf_check(d.pool, 6 * d.block, 10 * d.block, 1);
	CONF_EQ(conf_stats(d.pool).crc_errors, 6);
	CONF_EQ(conf_stats(d.pool).bad_blocks, 6);
	end(&d);
	return CONF_PASS;
}

static int swapped_slots(struct conf *c)
{
	struct damaged d = cold_pool(c);
	char *four = read_slot(&d, 4), *nine = read_slot(&d, 9);

	write_slot(&d, 4, nine);
	write_slot(&d, 9, four);
	expect_bad(&d, 4);
	expect_bad(&d, 9);
	write_slot(&d, 9, nine); /* too late: bad until discarded */
	conf_expect_bus_read(d.pool, 9, 0);
	CONF_RET(kvt_discard(d.pool, 9 * d.block, d.block), 0);
	conf_fill(d.pool, 9 * d.block, d.block, 1);
	expect_recovery(&d, 4);
	free(four);
	free(nine);
	end(&d);
	return CONF_PASS;
}

/* The right block's own bytes, but of an earlier generation. */
static int stale_slot(struct conf *c)
{
	struct damaged d = cold_pool(c);
	char *old = read_slot(&d, 7);

	conf_fill(d.pool, 7 * d.block, d.block, 2);
	conf_demote_all(d.pool);
	write_slot(&d, 7, old);
	expect_bad(&d, 7);
	expect_recovery(&d, 7);
	free(old);
	end(&d);
	return CONF_PASS;
}

/* A bad slot under a clone must not spread, and both sides must see it. */
static int bit_flip_clone(struct conf *c)
{
	struct damaged d = cold_pool(c);

	CONF_RET(kvt_discard(d.pool, 8 * d.block, 8 * d.block), 0);
	CONF_RET(kvt_clone(d.pool, 8 * d.block, d.pool, 0, 2 * d.block), 0);
	conf_demote_all(d.pool);
	flip_bit(&d, 1, 77);
	expect_bad(&d, 1);
	expect_bad(&d, 9);
	CONF_RET(kvt_clone(d.pool, 10 * d.block, d.pool, d.block, d.block), -EIO);
	CONF_RET(kvt_discard(d.pool, 9 * d.block, d.block), 0);
	conf_expect_bus_read(d.pool, 1, 0);
	conf_check(d.pool, 0, d.block, 1);
	/* A clone onto a bad block ends that state too. */
	CONF_RET(kvt_clone(d.pool, d.block, d.pool, 2 * d.block, d.block), 0);
	CONF_EQ(*(uint64_t *)conf_addr(d.pool, 1) == conf_word(2 * d.block, 1), true);
	end(&d);
	return CONF_PASS;
}

static int short_file(struct conf *c)
{
	struct damaged d = cold_pool(c);
	struct kvtier_event event;
	off_t cut = (off_t)(8 * d.block);
	uint32_t i, lost = 0;

	CONF_RET(kvt_promote(d.pool, 12 * d.block, 2 * d.block), 0);
	CONF_SYS(ftruncate(d.fd, cut));
	for (i = 0; i < 16; i++) {
		if (slot_offset(&d, i) < cut || i == 12 || i == 13)
			continue;
		expect_bad(&d, i);
		lost++;
	}
	CONF_GE(lost, 4);
	conf_check(d.pool, 12 * d.block, 2 * d.block, 1);
	CONF_EQ(conf_wait_event(d.pool, KVTIER_EVENT_BAD_BLOCK, 2000, &event), true);
	for (i = 0; i < 16; i++)
		if (conf_info(d.pool, i).state != KVTIER_BLOCK_BAD)
			conf_check(d.pool, i * d.block, d.block, 1);
	/* Writing grows the file again. */
	CONF_RET(kvt_discard(d.pool, 0, kvt_pool_bytes(d.pool)), 0);
	conf_fill(d.pool, 0, kvt_pool_bytes(d.pool), 2);
	conf_check(d.pool, 0, kvt_pool_bytes(d.pool), 2);
	end(&d);
	return CONF_PASS;
}

/* A deleted file is still ours as long as it is open. */
static int deleted_file(struct conf *c)
{
	struct damaged d = cold_pool(c);

	CONF_SYS(unlink(d.path));
	conf_check(d.pool, 0, kvt_pool_bytes(d.pool), 1);
	conf_fill(d.pool, 0, kvt_pool_bytes(d.pool), 2);
	conf_check(d.pool, 0, kvt_pool_bytes(d.pool), 2);
	end(&d);
	CONF_EQ(conf_file_count(c->dir), 0);
	return CONF_PASS;
}

const struct conf_case conf_damage_cases[] = {
	CONF_CASE(bit_flip, "a flipped bit is a SIGBUS on every byte, an event, and nothing else",
		  .needs = CONF_NEEDS_FILE),
	CONF_CASE(bit_flip_promote, "promotion finds flipped bits anywhere in a block",
		  .needs = CONF_NEEDS_FILE),
	CONF_CASE(bit_flip_clone, "a bad slot is bad for both sides of a clone",
		  .needs = CONF_NEEDS_FILE),
	CONF_CASE(swapped_slots, "another block's bytes are never taken for this one's",
		  .needs = CONF_NEEDS_FILE),
	CONF_CASE(stale_slot, "an earlier version's bytes are never taken for this one's",
		  .needs = CONF_NEEDS_FILE),
	CONF_CASE(short_file, "a file truncated underneath loses only what it lost",
		  .needs = CONF_NEEDS_FILE),
	CONF_CASE(deleted_file, "a file deleted underneath goes on serving",
		  .needs = CONF_NEEDS_FILE),
	{ .name = NULL },
};
