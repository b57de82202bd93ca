// SPDX-License-Identifier: MIT
/*
 * A stripe of two disks, one of which is frozen: its queue takes no request any more, so
 * that to submit one would block.  The other's blocks come and go all the same.
 */
#include <linux/loop.h>
#include <pthread.h>
#include <stdatomic.h>

#include "dm.h"
#include "test.h"

#define BLOCKS 128
#define DRAM 16
#define CHUNK 32 /* blocks of one disk in a row */
#define DEADLINE_MS 8000 /* more than what is not frozen takes on a slow machine */
#define PATIENCE_MS (DEADLINE_MS * 10) /* an interpreted machine has time */

/* The first disk is a loop device over what can be suspended: it has a queue to freeze. */
FIXTURE(stripe)
{
	char disk[KVT_TEXT];
	char store[KVT_TEXT];
	struct dm dm[2];
	char loop_path[KVT_TEXT];
	int loop, below;
	struct pool pool;
};

static int make_loop(const char *path, int *loop, int *below, char name[KVT_TEXT])
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), number;
	struct loop_config config = { .info.lo_flags = LO_FLAGS_DIRECT_IO };

	if (control < 0)
		return -ENODEV;
	number = ioctl(control, LOOP_CTL_GET_FREE);
	close(control);
	snprintf(name, KVT_TEXT, "/dev/loop%d", number);
	*below = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	*loop = open(name, O_RDWR | O_CLOEXEC);
	if (*loop < 0 || *below < 0)
		return -errno;
	config.fd = (__u32)*below;
	return ioctl(*loop, LOOP_CONFIGURE, &config) ? -errno : 0;
}

static int make_store(const char *first, const char *second, char store[KVT_TEXT])
{
	char devices[KVT_TEXT];
	int ret = attr_writef(KVT_CLASS "format_store", "%s %s force", first, second);

	if (!ret)
		ret = attr_writef(KVT_CLASS "attach_store", "%s %s", first, second);
	if (ret)
		return ret;
	snprintf(devices, sizeof(devices), "%.100s %.100s", strrchr(first, '/') + 1,
		 strrchr(second, '/') + 1);
	return store_of(devices, store) ? 0 : -ENOENT;
}

FIXTURE_SETUP(stripe)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, 2 * BLOCKS);
	int ret;

	if (!spare_disk(self->disk))
		SKIP(return, "no free disk with the serial kv1");
	ret = dm_create_part(&self->dm[0], "kvtier-frozen", self->disk, 0, 2);
	if (ret == -ENODEV)
		SKIP(return, "no device mapper");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, dm_create_part(&self->dm[1], "kvtier-other", self->disk, 1, 2));
	ret = make_loop(self->dm[0].path, &self->loop, &self->below, self->loop_path);
	if (ret == -ENODEV)
		SKIP(return, "no loop devices");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, make_store(self->loop_path, self->dm[1].path, self->store));
	request.flags = KVTIER_POOL_NO_PREDICT;
	request.io_deadline_ms = DEADLINE_MS;
	request.budget[KVTIER_TIER_NVME].nodes = 1ULL << store_number(self->store);
	ASSERT_EQ(0, pool_open(&self->pool, &request));
	fill(&self->pool, 0, BLOCKS, 1);
	ASSERT_EQ(0, op(&self->pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
}

FIXTURE_TEARDOWN(stripe)
{
	int tries = 1200;

	pool_close(&self->pool);
	while (store_down(self->store) && tries--)
		usleep(50000);
	EXPECT_LT(0, tries);
	ioctl(self->loop, LOOP_CLR_FD);
	close(self->loop);
	close(self->below);
	EXPECT_EQ(0, dm_remove(&self->dm[1]));
	for (tries = 1200; dm_remove(&self->dm[0]) && tries; tries--) /* the loop lets go of it */
		usleep(50000);
	EXPECT_LT(0, tries);
}

/* The @nr'th block on a disk of the stripe. */
static uint64_t block_on(struct pool *pool, unsigned int disk, unsigned int nr)
{
	uint64_t block;

	for (block = 0; block < BLOCKS; block++) {
		if (info(pool, block).slot / CHUNK % 2 == disk && !nr--)
			break;
	}
	return block;
}

/* ---- what does not end before the disk answers ---------------------------------- */

struct stuck {
	struct pool *pool;
	uint64_t block;
	int loop;
	atomic_bool thawed;
	pthread_t reader, freezer;
};

static void *read_block(void *arg)
{
	struct stuck *stuck = arg;

	op(stuck->pool, KVTIER_OP_PROMOTE, stuck->block, 1);
	return NULL;
}

/* Freezes the queue first, then waits for what is under way. */
static void *freeze(void *arg)
{
	struct stuck *stuck = arg;
	struct loop_info64 info;

	if (!ioctl(stuck->loop, LOOP_GET_STATUS64, &info))
		ioctl(stuck->loop, LOOP_SET_STATUS64, &info);
	atomic_store(&stuck->thawed, true);
	return NULL;
}

static int freeze_disk(struct stuck *stuck, struct dm *dm)
{
	int ret = dm_suspend(dm, true);

	if (!ret)
		ret = pthread_create(&stuck->reader, NULL, read_block, stuck);
	usleep(300000);
	if (!ret)
		ret = pthread_create(&stuck->freezer, NULL, freeze, stuck);
	usleep(300000);
	return ret;
}

/* A touch of one that does not come would end the test, with the disk frozen. */
static bool comes(struct pool *pool, uint64_t block)
{
	return !op(pool, KVTIER_OP_PROMOTE, block, 1) && !check(pool, block, 1, 1);
}

TEST_F(stripe, frozen)
{
	struct pool *pool = &self->pool;
	struct stuck stuck = { .pool = pool, .loop = self->loop, .block = block_on(pool, 0, 0) };
	uint64_t cold = block_on(pool, 0, 1), begin, block;
	unsigned int i;

	ASSERT_GT(BLOCKS, block_on(pool, 0, 15));
	ASSERT_GT(BLOCKS, block_on(pool, 1, 15));
	ASSERT_EQ(0, freeze_disk(&stuck, &self->dm[0]));
	for (i = 0; i < 8; i++)
		EXPECT_TRUE(comes(pool, block_on(pool, 1, i)));
	begin = now_ms();
	EXPECT_EQ(-ETIMEDOUT, op(pool, KVTIER_OP_PROMOTE, cold, 1));
	EXPECT_LE(now_ms() - begin, PATIENCE_MS);
	for (i = 8; i < 16; i++)
		EXPECT_TRUE(comes(pool, block_on(pool, 1, i)));
	EXPECT_FALSE(atomic_load(&stuck.thawed)); /* it was frozen all the time */
	ASSERT_EQ(0, dm_suspend(&self->dm[0], false));
	pthread_join(stuck.reader, NULL);
	pthread_join(stuck.freezer, NULL);
	ASSERT_TRUE(store_settled(self->store));
	for (block = 0; block < BLOCKS; block++) {
		if (block != stuck.block && block != cold)
			EXPECT_TRUE(comes(pool, block));
	}
}

KVT_MAIN(NEEDS_STORE | NEEDS_ROOT)
