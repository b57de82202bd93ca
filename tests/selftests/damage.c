// SPDX-License-Identifier: MIT
/*
 * Bytes changed on the disk behind the module's back, and disks that fail.  The store
 * is made on the free disk, below a device-mapper device where that is there.
 */
#include <sys/mman.h>

#include "dm.h"
#include "test.h"

#define BLOCKS 32
#define DRAM 16
#define DATA_OFFSET (1 << 20) /* of a store's first slot on its only device */

FIXTURE(damage)
{
	char disk[KVT_TEXT];
	char store[KVT_TEXT];
	struct pool pool;
	int fd; /* of the disk, for what the module does not see */
};

FIXTURE_SETUP(damage)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, 2 * BLOCKS);

	if (!spare_disk(self->disk))
		SKIP(return, "no free disk with the serial kv1");
	ASSERT_EQ(0, store_up(self->disk, self->store));
	request.flags = KVTIER_POOL_NO_PREDICT | KVTIER_POOL_KEEP;
	request.budget[KVTIER_TIER_NVME].nodes = 1ULL << store_number(self->store);
	ASSERT_EQ(0, pool_open(&self->pool, &request));
	self->fd = open(self->disk, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	fill(&self->pool, 0, BLOCKS, 1);
	ASSERT_EQ(0, op(&self->pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
}

FIXTURE_TEARDOWN(damage)
{
	close(self->fd);
	pool_close(&self->pool);
	EXPECT_EQ(0, store_down(self->store));
}

static char *buffer(void)
{
	static char bytes[1 << SHIFT] __attribute__((aligned(4096)));

	return bytes;
}

static off_t place(struct pool *pool, uint64_t block)
{
	return (off_t)(DATA_OFFSET + info(pool, block).slot * pool->block);
}

static char *read_slot(int fd, struct pool *pool, uint64_t block)
{
	char *bytes = buffer();

	return pread(fd, bytes, pool->block, place(pool, block)) == (ssize_t)pool->block ? bytes :
											   NULL;
}

static int write_slot(int fd, struct pool *pool, uint64_t block, const char *bytes)
{
	return pwrite(fd, bytes, pool->block, place(pool, block)) == (ssize_t)pool->block ? 0 : -1;
}

static int flip_bit(int fd, struct pool *pool, uint64_t block, size_t byte)
{
	char *bytes = read_slot(fd, pool, block);

	if (!bytes)
		return -1;
	bytes[byte] ^= 0x10;
	return write_slot(fd, pool, block, bytes);
}

static void expect_bad(struct __test_metadata *_metadata, struct pool *pool, uint64_t block)
{
	EXPECT_EQ(SIGBUS, try_read(at(pool, block) + pool->block / 2));
	EXPECT_GE(fault_addr, (uintptr_t)at(pool, block));
	EXPECT_LT(fault_addr, (uintptr_t)at(pool, block + 1));
	EXPECT_EQ(SIGBUS, try_read(at(pool, block)));
	EXPECT_EQ(SIGBUS, try_write(at(pool, block + 1) - 1));
	EXPECT_EQ(KVTIER_BLOCK_BAD, info(pool, block).state);
	EXPECT_EQ(-EIO, op(pool, KVTIER_OP_PROMOTE, block, 1));
	EXPECT_EQ(-EIO, op(pool, KVTIER_OP_PIN, block, 1));
	EXPECT_EQ(-EIO, op(pool, KVTIER_OP_SEAL, block, 1));
	EXPECT_EQ(-EIO, op(pool, KVTIER_OP_WRITEBACK, block, 1));
	EXPECT_EQ(-EIO, clone_blocks(pool, (block + 16) % BLOCKS, pool, block, 1));
}

TEST_F(damage, flipped_bit)
{
	struct pool *pool = &self->pool;
	struct kvtier_event event;

	ASSERT_EQ(0, flip_bit(self->fd, pool, 5, pool->block - 1));
	expect_bad(_metadata, pool, 5);
	ASSERT_TRUE(next_event(pool, KVTIER_EVENT_BAD_BLOCK, 20000, &event));
	EXPECT_EQ(-EILSEQ, event.error);
	EXPECT_EQ(5 * pool->block, event.offset);
	EXPECT_EQ(pool->block, event.length);
	EXPECT_EQ(1, stats(pool).crc_errors);
	EXPECT_EQ(1, stats(pool).bad_blocks);
	EXPECT_EQ(0, check(pool, 0, 5, 1));
	EXPECT_EQ(0, check(pool, 6, BLOCKS - 6, 1));
	ASSERT_EQ(0, op(pool, KVTIER_OP_DISCARD, 5, 1));
	EXPECT_EQ(0, check_zero(pool, 5, 1));
	fill(pool, 5, 1, 1);
	ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	EXPECT_EQ(0, stats(pool).bad_blocks);
}

/* Any bit, wherever it is in the block. */
TEST_F(damage, anywhere)
{
	struct pool *pool = &self->pool;
	const size_t bytes[] = { 0, 1, 511, 512, 4095, 4096, pool->block / 2 + 7, pool->block - 8 };
	uint64_t i;

	for (i = 0; i < 8; i++)
		ASSERT_EQ(0, flip_bit(self->fd, pool, i, bytes[i]));
	EXPECT_EQ(-EIO, op(pool, KVTIER_OP_PROMOTE, 0, 12)); /* the rest of it is done */
	for (i = 0; i < 8; i++)
		EXPECT_EQ(KVTIER_BLOCK_BAD, info(pool, i).state);
	for (i = 8; i < 12; i++)
		EXPECT_EQ(KVTIER_BLOCK_OPEN, info(pool, i).state);
	EXPECT_EQ(8, stats(pool).crc_errors);
}

TEST_F(damage, another_blocks_bytes)
{
	struct pool *pool = &self->pool;
	char *nine = malloc(pool->block);

	ASSERT_NE(NULL, nine);
	memcpy(nine, read_slot(self->fd, pool, 9), pool->block);
	ASSERT_EQ(0, write_slot(self->fd, pool, 4, memcpy(buffer(), nine, pool->block)));
	expect_bad(_metadata, pool, 4);
	EXPECT_EQ(0, check(pool, 9, 1, 1));
	free(nine);
}

/* The right block's own bytes, but those of before. */
TEST_F(damage, stale_bytes)
{
	struct pool *pool = &self->pool;
	char *old = malloc(pool->block);

	ASSERT_NE(NULL, old);
	memcpy(old, read_slot(self->fd, pool, 7), pool->block);
	fill(pool, 7, 1, 2);
	ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 7, 1));
	ASSERT_EQ(0, write_slot(self->fd, pool, 7, memcpy(buffer(), old, pool->block)));
	expect_bad(_metadata, pool, 7);
	free(old);
}

/* A bad slot is bad for all that have it, and for each ends by itself. */
TEST_F(damage, clones)
{
	struct pool *pool = &self->pool;

	ASSERT_EQ(0, op(pool, KVTIER_OP_DISCARD, 8, 8));
	ASSERT_EQ(0, clone_blocks(pool, 8, pool, 0, 2));
	ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
	ASSERT_EQ(0, flip_bit(self->fd, pool, 1, 77));
	EXPECT_EQ(SIGBUS, try_read(at(pool, 1)));
	EXPECT_EQ(SIGBUS, try_read(at(pool, 9)));
	ASSERT_EQ(0, op(pool, KVTIER_OP_DISCARD, 9, 1));
	EXPECT_EQ(SIGBUS, try_read(at(pool, 1)));
	EXPECT_EQ(0, check_as(pool, 8, 0, 1));
	EXPECT_EQ(0, clone_blocks(pool, 1, pool, 2, 1)); /* ends it too */
	EXPECT_EQ(0, check_as(pool, 1, 2, 1));
}

/* A pin of a range with a bad block holds none of the range. */
TEST_F(damage, pin_is_all_or_none)
{
	struct pool *pool = &self->pool;
	uint64_t i;

	ASSERT_EQ(0, flip_bit(self->fd, pool, 6, 0));
	EXPECT_EQ(-EIO, op(pool, KVTIER_OP_PIN, 2, 8));
	for (i = 0; i < BLOCKS; i++)
		EXPECT_FALSE(info(pool, i).flags & KVTIER_BLOCKF_PINNED);
	EXPECT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, 6));
}

/* A manifest whose bytes are not on the disk any more. */
TEST_F(damage, adopted)
{
	struct pool *pool = &self->pool;
	struct manifest m = { .nr = 0 };

	ASSERT_EQ(0, op(pool, KVTIER_OP_SEAL, 0, 4));
	ASSERT_EQ(0, checkpoint_blocks(pool, &m, 0, 4));
	ASSERT_EQ(0, flip_bit(self->fd, pool, 2, 100));
	ASSERT_EQ(0, op(pool, KVTIER_OP_DISCARD, 0, 4));
	m.slots[3].crc32c ^= 4;
	ASSERT_EQ(0, adopt_blocks(pool, &m)); /* it reads nothing */
	EXPECT_EQ(0, check(pool, 0, 2, 1));
	EXPECT_EQ(SIGBUS, try_read(at(pool, 2)));
	EXPECT_EQ(SIGBUS, try_read(at(pool, 3)));
	EXPECT_EQ(0, release_key(pool, &m));
}

/* ---- a disk that answers with errors ------------------------------------------------ */

FIXTURE(failing)
{
	char disk[KVT_TEXT];
	char store[KVT_TEXT];
	struct dm dm;
	struct pool pool;
};

FIXTURE_SETUP(failing)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, 2 * BLOCKS);
	int ret;

	if (!spare_disk(self->disk))
		SKIP(return, "no free disk with the serial kv1");
	ret = dm_create(&self->dm, "kvtier-failing", self->disk);
	if (ret == -ENODEV)
		SKIP(return, "no device mapper");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, store_up(self->dm.path, self->store));
	request.flags = KVTIER_POOL_NO_PREDICT;
	request.io_deadline_ms = 2000;
	request.budget[KVTIER_TIER_NVME].nodes = 1ULL << store_number(self->store);
	ASSERT_EQ(0, pool_open(&self->pool, &request));
	fill(&self->pool, 0, BLOCKS, 1);
	ASSERT_EQ(0, op(&self->pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
}

FIXTURE_TEARDOWN(failing)
{
	dm_fail(&self->dm, false);
	pool_close(&self->pool);
	EXPECT_EQ(0, store_down(self->store));
	EXPECT_EQ(0, dm_remove(&self->dm));
}

/* A read that fails loses the block, and no other. */
TEST_F(failing, read)
{
	struct pool *pool = &self->pool;
	struct kvtier_event event;

	ASSERT_EQ(0, op(pool, KVTIER_OP_PROMOTE, 8, 2));
	ASSERT_EQ(0, dm_fail(&self->dm, true));
	EXPECT_EQ(SIGBUS, try_read(at(pool, 3)));
	EXPECT_EQ(-EIO, op(pool, KVTIER_OP_PROMOTE, 4, 1));
	ASSERT_TRUE(next_event(pool, KVTIER_EVENT_BAD_BLOCK, 20000, &event));
	EXPECT_EQ(3 * pool->block, event.offset);
	EXPECT_EQ(-EIO, event.error);
	EXPECT_EQ(0, check(pool, 8, 2, 1));
	EXPECT_EQ(2, stats(pool).bad_blocks);
	EXPECT_GE(stats(pool).tier[KVTIER_TIER_NVME].io_errors, 2);
	ASSERT_EQ(0, dm_fail(&self->dm, false));
	EXPECT_EQ(SIGBUS, try_read(at(pool, 3))); /* until it is discarded */
	EXPECT_EQ(0, check(pool, 5, BLOCKS - 5, 1));
}

/* A write that fails loses nothing: the block stays in memory, dirty. */
TEST_F(failing, write)
{
	struct pool *pool = &self->pool;
	struct kvtier_event event;

	fill(pool, 0, DRAM, 2); /* nothing is to be read from here on */
	ASSERT_EQ(0, dm_fail(&self->dm, true));
	EXPECT_EQ(-EIO, op(pool, KVTIER_OP_WRITEBACK, 0, 4));
	EXPECT_EQ(-EIO, op(pool, KVTIER_OP_DEMOTE, 4, 4));
	EXPECT_EQ(0, check(pool, 0, 8, 2));
	EXPECT_TRUE(info(pool, 5).flags & KVTIER_BLOCKF_DIRTY);
	EXPECT_EQ(0, stats(pool).bad_blocks);
	ASSERT_TRUE(next_event(pool, KVTIER_EVENT_IO_ERROR, 20000, &event));
	EXPECT_EQ(-EIO, event.error);
	/* Memory is full of what cannot leave: a touch ends in time. */
	EXPECT_EQ(SIGBUS, try_write(at(pool, 20)));
	ASSERT_EQ(0, dm_fail(&self->dm, false));
	EXPECT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 0, DRAM));
	EXPECT_EQ(0, check(pool, 0, DRAM, 2));
	EXPECT_EQ(0, check(pool, DRAM, BLOCKS - DRAM, 1));
}

/* A clone whose source cannot be written, and a checkpoint. */
TEST_F(failing, clone)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, 2 * BLOCKS);
	struct pool *pool = &self->pool, other;

	request.budget[KVTIER_TIER_NVME].nodes = 1ULL << store_number(self->store);
	ASSERT_EQ(0, pool_open(&other, &request));
	fill(pool, 0, 4, 2);
	ASSERT_EQ(0, dm_fail(&self->dm, true));
	EXPECT_GT(0, clone_blocks(&other, 0, pool, 0, 4));
	EXPECT_EQ(0, check(pool, 0, 4, 2));
	ASSERT_EQ(0, dm_fail(&self->dm, false));
	EXPECT_EQ(0, clone_blocks(&other, 0, pool, 0, 4));
	EXPECT_EQ(0, check(&other, 0, 4, 2));
	pool_close(&other);
}

KVT_MAIN(NEEDS_STORE | NEEDS_ROOT)
