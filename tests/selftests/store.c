// SPDX-License-Identifier: MIT
/* Stores: what may not become one, what may not be taken for one, and who decides. */
#include <glob.h>
#include <linux/blkpg.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "dm.h"
#include "test.h"

#define FORMAT KVT_CLASS "format_store"
#define ATTACH KVT_CLASS "attach_store"
#define HEAD 4096

FIXTURE(store)
{
	char disk[KVT_TEXT];
	char name[KVT_TEXT]; /* of the disk, without /dev/ */
	char head[HEAD] __attribute__((aligned(4096))); /* what is there at first */
};

static int transfer_at(const char *path, off_t at, char *bytes, size_t nr, bool write)
{
	int fd = open(path, (write ? O_WRONLY : O_RDONLY) | O_DIRECT | O_CLOEXEC), ret = 0;

	if (fd < 0)
		return -errno;
	if ((write ? pwrite(fd, bytes, nr, at) : pread(fd, bytes, nr, at)) != (ssize_t)nr)
		ret = -EIO;
	close(fd);
	return ret;
}

static int transfer(const char *path, char *bytes, size_t nr, bool write)
{
	return transfer_at(path, 0, bytes, nr, write);
}

static int wipe(const char *path)
{
	static char zeroes[1 << 20] __attribute__((aligned(4096)));

	return transfer(path, zeroes, sizeof(zeroes), true);
}

FIXTURE_SETUP(store)
{
	if (!spare_disk(self->disk))
		SKIP(return, "no free disk with the serial kv1");
	snprintf(self->name, sizeof(self->name), "%s", self->disk + strlen("/dev/"));
	ASSERT_EQ(0, wipe(self->disk));
	memset(self->head, 'k', HEAD);
}

FIXTURE_TEARDOWN(store)
{
	char path[KVT_TEXT];

	if (store_of(self->name, path))
		EXPECT_EQ(0, store_down(path));
	EXPECT_EQ(0, wipe(self->disk));
}

TEST_F(store, life)
{
	char path[KVT_TEXT], file[2 * KVT_TEXT], uuid[KVT_TEXT], again[KVT_TEXT];

	EXPECT_EQ(0, attr_write(FORMAT, self->disk));
	EXPECT_FALSE(store_of(self->name, path));
	ASSERT_EQ(0, attr_write(ATTACH, self->disk));
	ASSERT_TRUE(store_of(self->name, path));
	snprintf(file, sizeof(file), "%s/uuid", path);
	ASSERT_EQ(0, attr_read(file, uuid));
	EXPECT_EQ(36, strlen(uuid));
	EXPECT_TRUE(device_info().nodes[KVTIER_TIER_NVME] >> store_number(path) & 1);
	EXPECT_GT(0, attr_write(ATTACH, self->disk)); /* it is attached already */
	EXPECT_GT(0, attr_writef(FORMAT, "%s force", self->disk)); /* and in use */
	ASSERT_EQ(0, store_down(path));
	EXPECT_FALSE(store_of(self->name, path));
	ASSERT_EQ(0, attr_write(ATTACH, self->disk));
	ASSERT_TRUE(store_of(self->name, path));
	snprintf(file, sizeof(file), "%s/uuid", path);
	ASSERT_EQ(0, attr_read(file, again));
	EXPECT_EQ(0, strcmp(uuid, again)); /* the same store */
	ASSERT_EQ(0, store_down(path));
	EXPECT_EQ(-EEXIST, attr_write(FORMAT, self->disk)); /* it is not blank */
	EXPECT_EQ(0, attr_writef(FORMAT, "%s force", self->disk));
	ASSERT_EQ(0, attr_write(ATTACH, self->disk));
	ASSERT_TRUE(store_of(self->name, path));
	snprintf(file, sizeof(file), "%s/uuid", path);
	ASSERT_EQ(0, attr_read(file, again));
	EXPECT_NE(0, strcmp(uuid, again)); /* another one */
}

TEST_F(store, bad_words)
{
	static const char *const words[] = {
		"\n", "   ", "force", "/dev/null", "/no/such/disk", "/proc", "/proc/self/stat",
		"nvme", "/dev/a /dev/b /dev/c /dev/d /dev/e /dev/f /dev/g /dev/h /dev/i",
	};
	size_t i;

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		EXPECT_GT(0, attr_write(FORMAT, words[i])) TH_LOG("'%s'", words[i]);
		EXPECT_GT(0, attr_write(ATTACH, words[i])) TH_LOG("'%s'", words[i]);
	}
	EXPECT_EQ(-ENOENT, attr_write(FORMAT, "/no/such/disk"));
	EXPECT_EQ(-ENOTBLK, attr_write(FORMAT, "/proc/self/stat"));
	EXPECT_EQ(-EINVAL, attr_write(FORMAT, "force"));
	EXPECT_GT(0, attr_writef(FORMAT, "%s %s", self->disk, self->disk)); /* twice */
	EXPECT_GT(0, attr_writef(FORMAT, "%s forse", self->disk));
	EXPECT_GT(0, attr_writef(ATTACH, "%s force", self->disk));
	/* Nothing was done to it. */
	ASSERT_EQ(0, transfer(self->disk, self->head, HEAD, false));
	EXPECT_EQ(0, self->head[0]);
}

/* Content that is not ours is destroyed by order alone. */
TEST_F(store, foreign_content)
{
	char now[HEAD] __attribute__((aligned(4096)));

	ASSERT_EQ(0, transfer(self->disk, self->head, HEAD, true));
	EXPECT_EQ(-EEXIST, attr_write(FORMAT, self->disk));
	EXPECT_EQ(-EINVAL, attr_write(ATTACH, self->disk));
	ASSERT_EQ(0, transfer(self->disk, now, HEAD, false));
	EXPECT_EQ(0, memcmp(now, self->head, HEAD));
	EXPECT_EQ(0, attr_writef(FORMAT, "%s force", self->disk));
	EXPECT_EQ(0, attr_write(ATTACH, self->disk));
}

TEST_F(store, not_formatted)
{
	EXPECT_EQ(-EINVAL, attr_write(ATTACH, self->disk));
}

/* ---- the two copies of the header ------------------------------------------------- */

#define COPIES 2

static const off_t copy_at[COPIES] = { 0, (1 << 20) - HEAD };

struct copies {
	char bytes[COPIES][HEAD] __attribute__((aligned(4096)));
};

static int get_copies(const char *disk, struct copies *c)
{
	int ret = 0, i;

	for (i = 0; i < COPIES && !ret; i++)
		ret = transfer_at(disk, copy_at[i], c->bytes[i], HEAD, false);
	return ret;
}

static int put_copies(const char *disk, struct copies *c)
{
	int ret = 0, i;

	for (i = 0; i < COPIES && !ret; i++)
		ret = transfer_at(disk, copy_at[i], c->bytes[i], HEAD, true);
	return ret;
}

static bool same_copies(const struct copies *c)
{
	return !memcmp(c->bytes[0], c->bytes[1], HEAD);
}

/* Any byte that changed is noticed, in either; where both changed there is no store. */
TEST_F(store, damaged_header)
{
	static const size_t at[] = { 0, 7, 8, 12, 16, 31, 32, 40, 48, 56, 100, 511 };
	char path[KVT_TEXT];
	struct copies c;
	size_t i, j;

	ASSERT_EQ(0, attr_write(FORMAT, self->disk));
	ASSERT_EQ(0, get_copies(self->disk, &c));
	EXPECT_TRUE(same_copies(&c));
	for (i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		for (j = 0; j < COPIES; j++)
			c.bytes[j][at[i]] ^= 1;
		ASSERT_EQ(0, put_copies(self->disk, &c));
		EXPECT_EQ(-EINVAL, attr_write(ATTACH, self->disk)) TH_LOG("byte %zu", at[i]);
		for (j = 0; j < COPIES; j++)
			c.bytes[j][at[i]] ^= 1;
	}
	ASSERT_EQ(0, put_copies(self->disk, &c));
	EXPECT_EQ(0, store_attach(self->disk, path));
}

/* One copy is enough, whichever it is, and what is damaged is mended by the next writing. */
TEST_F(store, one_copy_of_the_header)
{
	char path[KVT_TEXT];
	struct copies c, now;
	int i;

	ASSERT_EQ(0, attr_write(FORMAT, self->disk));
	for (i = 0; i < COPIES; i++) {
		ASSERT_EQ(0, get_copies(self->disk, &c));
		memset(c.bytes[i] + 20, 'x', 100); /* a write that was torn */
		ASSERT_EQ(0, put_copies(self->disk, &c));
		ASSERT_EQ(0, store_attach(self->disk, path)) TH_LOG("copy %d", i);
		EXPECT_EQ(0, store_attr(path, "hold"));
		ASSERT_EQ(0, store_detach(path));
		ASSERT_EQ(0, get_copies(self->disk, &now));
		EXPECT_TRUE(same_copies(&now));
		EXPECT_EQ(0, memcmp(now.bytes[i] + 16, c.bytes[!i] + 16, 16)); /* the UUID */
	}
}

/* A pool on a store, with a reservation. */
static int reserve_some(struct pool *pool, const char *store, struct manifest *m)
{
	struct kvtier_pool_create request = pool_request(SHIFT, 32, 16, 64);
	int ret;

	request.flags = KVTIER_POOL_KEEP;
	request.budget[KVTIER_TIER_NVME].nodes = 1ULL << store_number(store);
	ret = pool_open(pool, &request);
	if (ret)
		return ret;
	fill(pool, 0, 4, 1);
	ret = op(pool, KVTIER_OP_SEAL, 0, 4);
	return ret ? ret : checkpoint_blocks(pool, m, 0, 4);
}

/* Of two whole copies the later one counts, whatever it says; a torn one never does. */
TEST_F(store, power_cut_between_the_copies)
{
	struct manifest m = { .nr = 0 };
	struct copies before, after, cut;
	char path[KVT_TEXT];
	struct pool pool;
	int i;

	ASSERT_EQ(0, attr_write(FORMAT, self->disk));
	ASSERT_EQ(0, get_copies(self->disk, &before));
	ASSERT_EQ(0, store_attach(self->disk, path));
	ASSERT_EQ(0, reserve_some(&pool, path, &m));
	pool_close(&pool);
	ASSERT_EQ(0, store_detach(path));
	ASSERT_EQ(0, get_copies(self->disk, &after));
	for (i = 0; i < COPIES; i++) {
		cut = after;
		memcpy(cut.bytes[i], before.bytes[i], HEAD);
		ASSERT_EQ(0, put_copies(self->disk, &cut));
		ASSERT_EQ(0, store_attach(self->disk, path));
		EXPECT_EQ(1, store_attr(path, "hold"));
		ASSERT_EQ(0, store_detach(path));
	}
	cut = before;
	memset(cut.bytes[0], 'x', 300);
	ASSERT_EQ(0, put_copies(self->disk, &cut));
	ASSERT_EQ(0, store_attach(self->disk, path));
	EXPECT_EQ(0, store_attr(path, "hold"));
}

static uint32_t crc32c(const uint8_t *bytes, size_t nr)
{
	uint32_t crc = ~0U;
	int i;

	while (nr--) {
		crc ^= *bytes++;
		for (i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

/* Make of a copy what a module of another version would have written. */
static void set_version(char *copy, uint32_t version)
{
	uint32_t crc = 0;

	memcpy(copy + 8, &version, 4);
	memset(copy + 56, 0, 8); /* the generation */
	memcpy(copy + 12, &crc, 4);
	crc = crc32c((const uint8_t *)copy, 512);
	memcpy(copy + 12, &crc, 4);
}

/* A store of version 1 is taken as it is, and has both copies from its next writing on. */
TEST_F(store, versions_of_the_header)
{
	char path[KVT_TEXT];
	struct copies c;

	ASSERT_EQ(0, attr_write(FORMAT, self->disk));
	ASSERT_EQ(0, get_copies(self->disk, &c));
	memset(c.bytes[1], 0, HEAD);
	set_version(c.bytes[0], 3);
	ASSERT_EQ(0, put_copies(self->disk, &c));
	EXPECT_EQ(-EINVAL, attr_write(ATTACH, self->disk));
	set_version(c.bytes[0], 1);
	ASSERT_EQ(0, put_copies(self->disk, &c));
	ASSERT_EQ(0, store_attach(self->disk, path));
	EXPECT_EQ(0, store_attr(path, "hold"));
	ASSERT_EQ(0, store_detach(path));
	ASSERT_EQ(0, get_copies(self->disk, &c));
	EXPECT_TRUE(same_copies(&c));
	EXPECT_EQ(2, c.bytes[0][8]);
}

TEST_F(store, in_use)
{
	int fd = open(self->disk, O_RDWR | O_EXCL | O_CLOEXEC);

	ASSERT_LE(0, fd);
	EXPECT_EQ(-EBUSY, attr_writef(FORMAT, "%s force", self->disk));
	EXPECT_EQ(-EBUSY, attr_write(ATTACH, self->disk));
	close(fd);
	EXPECT_EQ(0, attr_write(FORMAT, self->disk));
	fd = open(self->disk, O_RDWR | O_EXCL | O_CLOEXEC);
	EXPECT_EQ(-EBUSY, attr_write(ATTACH, self->disk));
	close(fd);
	ASSERT_EQ(0, attr_write(ATTACH, self->disk));
	/* A store keeps others out as well. */
	EXPECT_EQ(-1, open(self->disk, O_RDWR | O_EXCL | O_CLOEXEC));
	EXPECT_EQ(EBUSY, errno);
}

TEST_F(store, mounted)
{
	char command[2 * KVT_TEXT], dir[] = "/tmp/kvtier-mount-XXXXXX";

	snprintf(command, sizeof(command), "mkfs.ext2 %s >/dev/null 2>&1", self->disk);
	if (system(command))
		SKIP(return, "no mkfs.ext2");
	ASSERT_NE(NULL, mkdtemp(dir));
	if (mount(self->disk, dir, "ext2", 0, NULL) && mount(self->disk, dir, "ext4", 0, NULL))
		SKIP(return, "cannot mount it: %s", strerror(errno));
	EXPECT_EQ(-EBUSY, attr_writef(FORMAT, "%s force", self->disk));
	EXPECT_EQ(-EBUSY, attr_write(ATTACH, self->disk));
	EXPECT_EQ(0, umount(dir));
	EXPECT_EQ(-EEXIST, attr_write(FORMAT, self->disk));
	rmdir(dir);
}

/* A partition that is in use keeps the whole disk from becoming a store. */
TEST_F(store, partition_in_use)
{
	struct blkpg_partition part = { .start = 1 << 20, .length = 256 << 20, .pno = 1 };
	struct blkpg_ioctl_arg arg = {
		.op = BLKPG_ADD_PARTITION,
		.datalen = sizeof(part),
		.data = &part,
	};
	char path[KVT_TEXT + 8], number[KVT_TEXT];
	unsigned int major, minor;
	int disk = open(self->disk, O_RDWR | O_CLOEXEC), fd;

	ASSERT_LE(0, disk);
	if (ioctl(disk, BLKPG, &arg))
		SKIP(return, "no partitions: %s", strerror(errno));
	snprintf(path, sizeof(path), "/sys/class/block/%.200sp1/dev", self->name);
	ASSERT_EQ(0, attr_read(path, number));
	ASSERT_EQ(2, sscanf(number, "%u:%u", &major, &minor));
	snprintf(path, sizeof(path), "%.200sp1", self->disk);
	if (mknod(path, S_IFBLK | 0600, makedev(major, minor)))
		ASSERT_EQ(EEXIST, errno);
	fd = open(path, O_RDWR | O_EXCL | O_CLOEXEC);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EBUSY, attr_writef(FORMAT, "%s force", self->disk));
	EXPECT_EQ(-EBUSY, attr_writef(FORMAT, "%s force", path));
	close(fd);
	EXPECT_EQ(0, attr_writef(FORMAT, "%s force", path)); /* a partition may be one */
	arg.op = BLKPG_DEL_PARTITION;
	EXPECT_EQ(0, ioctl(disk, BLKPG, &arg));
	close(disk);
	unlink(path);
}

TEST_F(store, read_only)
{
	int fd = open(self->disk, O_RDONLY | O_CLOEXEC), on = 1;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, attr_write(FORMAT, self->disk));
	ASSERT_EQ(0, ioctl(fd, BLKROSET, &on));
	EXPECT_EQ(-EROFS, attr_writef(FORMAT, "%s force", self->disk));
	EXPECT_EQ(-EROFS, attr_write(ATTACH, self->disk));
	on = 0;
	EXPECT_EQ(0, ioctl(fd, BLKROSET, &on));
	close(fd);
	EXPECT_EQ(0, attr_write(ATTACH, self->disk));
}

/* A file of @mib as a disk; its path, or an empty string. */
static void make_loop(int mib, int *file, int *loop, char path[KVT_TEXT])
{
	char name[] = "/tmp/kvtier-loop-XXXXXX";
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), number;

	path[0] = '\0';
	*loop = -1;
	*file = mkstemp(name);
	unlink(name);
	if (control < 0 || *file < 0 || ftruncate(*file, (off_t)mib << 20))
		return;
	number = ioctl(control, LOOP_CTL_GET_FREE);
	close(control);
	if (number < 0)
		return;
	snprintf(path, KVT_TEXT, "/dev/loop%d", number);
	*loop = open(path, O_RDWR | O_CLOEXEC);
	if (*loop < 0 || ioctl(*loop, LOOP_SET_FD, *file))
		path[0] = '\0';
}

static void drop_loop(int file, int loop)
{
	ioctl(loop, LOOP_CLR_FD);
	close(loop);
	close(file);
}

TEST_F(store, too_small)
{
	int file, loop;
	char path[KVT_TEXT];

	make_loop(32, &file, &loop, path);
	if (!path[0])
		SKIP(return, "no loop devices");
	EXPECT_EQ(-ENOSPC, attr_writef(FORMAT, "%s force", path));
	EXPECT_EQ(-ENOSPC, attr_writef(FORMAT, "%s %s force", self->disk, path));
	ASSERT_EQ(0, transfer(self->disk, self->head, HEAD, false));
	EXPECT_EQ(0, self->head[0]); /* nothing was written to the other either */
	drop_loop(file, loop);
}

/* Two devices are one store: together, in any order, and not one alone. */
TEST_F(store, stripe)
{
	char path[KVT_TEXT], other[KVT_TEXT];
	struct kvtier_pool_create request = pool_request(SHIFT, 1024, 16, 1100);
	struct pool pool;
	int file, loop;

	make_loop(128, &file, &loop, other);
	if (!other[0])
		SKIP(return, "no loop devices");
	ASSERT_EQ(0, attr_writef(FORMAT, "%s %s force", self->disk, other));
	EXPECT_GT(0, attr_write(ATTACH, self->disk));
	EXPECT_GT(0, attr_write(ATTACH, other));
	EXPECT_GT(0, attr_writef(ATTACH, "%s %s", self->disk, self->disk));
	ASSERT_EQ(0, attr_writef(ATTACH, "%s %s", other, self->disk));
	snprintf(path, sizeof(path), "%.100s %.100s", self->name, other + strlen("/dev/"));
	ASSERT_TRUE(store_of(path, path)); /* in the order of the header */
	request.budget[KVTIER_TIER_NVME].nodes = 1ULL << store_number(path);
	ASSERT_EQ(0, pool_open(&pool, &request));
	fill(&pool, 0, pool.blocks, 1);
	ASSERT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, pool.blocks));
	EXPECT_EQ(0, check(&pool, 0, pool.blocks, 1));
	pool_close(&pool);
	EXPECT_EQ(0, store_down(path));
	drop_loop(file, loop);
}

/* ---- what is promised of a store -------------------------------------------------- */

#define SMALL_CHUNKS 15 /* of 2 MiB, of the 31 of the least store */
#define PER_CHUNK 32 /* slots of 64 KiB */

/* The least store there can be, on a file; its path. */
static int small_store(int *file, int *loop, char path[KVT_TEXT])
{
	char device[KVT_TEXT];

	make_loop(64, file, loop, device);
	return device[0] ? store_up(device, path) : -ENODEV;
}

static int pool_on(struct pool *pool, const char *store, uint32_t shift, uint64_t blocks,
		   uint64_t nvme)
{
	struct kvtier_pool_create request = pool_request(shift, blocks, 8, nvme);

	request.flags = KVTIER_POOL_NO_PREDICT | KVTIER_POOL_KEEP;
	request.budget[KVTIER_TIER_NVME].nodes = 1ULL << store_number(store);
	return pool_open(pool, &request);
}

/* Leave one slot of each chunk that a pool has. */
static int thin_out(struct pool *pool)
{
	uint64_t i;
	int ret = 0;

	for (i = 0; i < pool->blocks && !ret; i++) {
		if (info(pool, i).slot % PER_CHUNK)
			ret = op(pool, KVTIER_OP_DISCARD, i, 1);
	}
	return ret;
}

static int fill_and_demote(struct pool *pool, uint64_t stamp)
{
	uint64_t i;
	int ret = 0;

	for (i = 0; i < pool->blocks && !ret; i += 8) {
		fill(pool, i, 8, stamp);
		ret = op(pool, KVTIER_OP_DEMOTE, i, 8);
	}
	return ret;
}

/* However small slots lie, a pool gets the large ones that it claimed. */
TEST_F(store, small_slots_leave_room_for_large_ones)
{
	const uint64_t blocks = SMALL_CHUNKS * PER_CHUNK, rest = 31 - SMALL_CHUNKS;
	struct pool small, large;
	char path[KVT_TEXT];
	int file, loop, ret = small_store(&file, &loop, path);

	if (ret == -ENODEV)
		SKIP(return, "no loop devices");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(31 << HUGE_SHIFT, store_attr(path, "size_bytes"));
	ASSERT_EQ(0, pool_on(&small, path, SHIFT, blocks, blocks));
	EXPECT_EQ(-ENOSPC, pool_on(&large, path, HUGE_SHIFT, rest, rest + 1));
	ASSERT_EQ(0, pool_on(&large, path, HUGE_SHIFT, rest, rest));
	ASSERT_EQ(0, fill_and_demote(&small, 1));
	ASSERT_EQ(0, thin_out(&small));
	ASSERT_EQ(0, fill_and_demote(&small, 2));
	EXPECT_EQ(0, fill_and_demote(&large, 3));
	EXPECT_EQ(31 << HUGE_SHIFT, store_attr(path, "used_bytes"));
	EXPECT_EQ(0, check(&small, 0, 64, 2));
	EXPECT_EQ(0, check(&large, 0, rest, 3));
	pool_close(&small);
	pool_close(&large);
	EXPECT_EQ(0, store_attr(path, "used_bytes"));
	EXPECT_EQ(0, store_down(path));
	drop_loop(file, loop);
}

/* Of chunks that reservations hold in part, nothing is promised to large slots. */
TEST_F(store, nothing_is_promised_of_parts)
{
	const uint64_t blocks = 31 * PER_CHUNK;
	struct manifest m = { .nr = 0 };
	struct pool small, large;
	char path[KVT_TEXT];
	int file, loop, ret = small_store(&file, &loop, path);
	uint64_t i;

	if (ret == -ENODEV)
		SKIP(return, "no loop devices");
	ASSERT_EQ(0, ret);
	ASSERT_EQ(0, pool_on(&small, path, SHIFT, blocks, blocks));
	for (i = 0; i < blocks; i++)
		fill_word((uint64_t *)at(&small, i), 0, i);
	ASSERT_EQ(0, op(&small, KVTIER_OP_DEMOTE, 0, blocks));
	ASSERT_EQ(0, thin_out(&small));
	for (i = 0; i < blocks; i++) {
		if (info(&small, i).state == KVTIER_BLOCK_EMPTY)
			continue;
		ASSERT_EQ(0, op(&small, KVTIER_OP_SEAL, i, 1));
		ASSERT_EQ(0, checkpoint_blocks(&small, &m, i, 1));
	}
	EXPECT_GE(m.nr, 31 - 8); /* those that were in memory have none, or another */
	pool_close(&small);
	EXPECT_EQ((long long)m.nr << SHIFT, store_attr(path, "kept_bytes"));
	EXPECT_EQ((long long)m.nr << SHIFT, store_attr(path, "used_bytes"));
	EXPECT_EQ(-ENOSPC, pool_on(&large, path, HUGE_SHIFT, 8, 31 - m.nr + 1));
	ASSERT_EQ(0, pool_on(&small, path, SHIFT, blocks, blocks)); /* they fit in the parts */
	EXPECT_EQ(0, adopt_blocks(&small, &m));
	EXPECT_EQ(0, release_key(&small, &m));
	pool_close(&small);
	ASSERT_EQ(0, pool_on(&large, path, HUGE_SHIFT, 16, 31));
	pool_close(&large);
	EXPECT_EQ(0, store_down(path));
	drop_loop(file, loop);
}

/* A store does not go while it is used, and its files take no nonsense. */
TEST_F(store, detach_and_hold)
{
	struct kvtier_pool_create request = pool_request(SHIFT, 64, 16, 64);
	char path[KVT_TEXT], detach[2 * KVT_TEXT], hold[2 * KVT_TEXT];
	struct pool pool;

	ASSERT_EQ(0, store_up(self->disk, path));
	snprintf(detach, sizeof(detach), "%s/detach", path);
	snprintf(hold, sizeof(hold), "%s/hold", path);
	request.budget[KVTIER_TIER_NVME].nodes = 1ULL << store_number(path);
	ASSERT_EQ(0, pool_open(&pool, &request));
	EXPECT_EQ(-EINVAL, attr_write(detach, "0"));
	EXPECT_EQ(-EINVAL, attr_write(detach, "maybe"));
	EXPECT_EQ(-EINVAL, attr_write(hold, "1")); /* it can only be lifted */
	EXPECT_EQ(-EINVAL, attr_write(hold, "perhaps"));
	EXPECT_EQ(0, attr_number(hold));
	EXPECT_EQ(-EBUSY, attr_write(detach, "1"));
	fill(&pool, 0, 64, 1);
	EXPECT_EQ(0, check(&pool, 0, 64, 1));
	pool_close(&pool);
	EXPECT_EQ(0, attr_write(detach, "1"));
	EXPECT_FALSE(store_of(self->name, path));
}

/* The file that takes the controller of the disk with a serial off its bus; false: none. */
static bool remover_of(const char *serial, char path[2 * KVT_TEXT])
{
	char text[KVT_TEXT];
	glob_t found;
	size_t i;

	path[0] = '\0';
	if (glob("/sys/class/nvme/nvme*", 0, NULL, &found))
		return false;
	for (i = 0; i < found.gl_pathc && !path[0]; i++) {
		snprintf(path, 2 * KVT_TEXT, "%.200s/serial", found.gl_pathv[i]);
		if (!attr_read(path, text) && !strncmp(text, serial, strlen(serial)))
			snprintf(path, 2 * KVT_TEXT, "%.200s/device/remove", found.gl_pathv[i]);
		else
			path[0] = '\0';
	}
	globfree(&found);
	return path[0];
}

/* A disk that is taken away while it is used, and comes again as another. */
static void bring_back(struct __test_metadata *_metadata, char disk[KVT_TEXT])
{
	int tries = 200;

	EXPECT_EQ(0, attr_write("/sys/bus/pci/rescan", "1"));
	while (!spare_disk(disk) && tries--)
		usleep(50000);
	EXPECT_LT(0, tries);
}

TEST_F(store, removed)
{
	struct kvtier_pool_create request = pool_request(SHIFT, 32, 16, 64), late;
	char path[KVT_TEXT], remove[2 * KVT_TEXT];
	struct kvtier_event event;
	struct pool pool;
	uint64_t bit;

	if (!remover_of("kv1", remove))
		SKIP(return, "the disk cannot be removed");
	ASSERT_EQ(0, store_up(self->disk, path));
	bit = 1ULL << store_number(path);
	request.budget[KVTIER_TIER_NVME].nodes = bit;
	late = request;
	ASSERT_EQ(0, pool_open(&pool, &request));
	fill(&pool, 0, 32, 1);
	ASSERT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, 32));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_PROMOTE, 8, 4));
	ASSERT_EQ(0, attr_write(remove, "1"));
	EXPECT_EQ(SIGBUS, try_read(at(&pool, 0)));
	ASSERT_TRUE(next_event(&pool, KVTIER_EVENT_NODE_OFFLINE, 5000, &event));
	EXPECT_EQ(KVTIER_TIER_NVME, event.tier);
	EXPECT_EQ(store_number(path), event.node);
	EXPECT_EQ(KVTIER_BLOCK_BAD, info(&pool, 0).state);
	EXPECT_EQ(0, check(&pool, 8, 4, 1)); /* what is in memory goes on */
	fill(&pool, 9, 1, 2);
	EXPECT_EQ(-EIO, op(&pool, KVTIER_OP_DEMOTE, 9, 1));
	EXPECT_EQ(0, check(&pool, 9, 1, 2));
	EXPECT_FALSE(device_info().nodes[KVTIER_TIER_NVME] & bit);
	EXPECT_EQ(-ENODEV, pool_open(&(struct pool){}, &late));
	pool_close(&pool);
	EXPECT_EQ(0, store_down(path));
	bring_back(_metadata, self->disk);
	snprintf(self->name, sizeof(self->name), "%s", self->disk + strlen("/dev/"));
}

TEST_F(store, needs_an_administrator)
{
	static const char *const others[] = {
		"policy/writeback_rate", "policy/scan_period_ms", "dram/limit_bytes",
		"dram/watermark_low", "cxl/nodes",
	};
	int status, fd = open(FORMAT, O_WRONLY | O_CLOEXEC), other[5];
	pid_t pid;
	size_t i;

	for (i = 0; i < 5; i++) {
		char path[KVT_TEXT];

		snprintf(path, sizeof(path), KVT_CLASS "%s", others[i]);
		other[i] = open(path, O_WRONLY | O_CLOEXEC);
		ASSERT_LE(0, other[i]);
	}
	pid = fork();
	ASSERT_LE(0, fd);
	ASSERT_LE(0, pid);
	if (!pid) {
		if (setresuid(65534, 65534, 65534))
			_exit(1);
		if (!attr_write(FORMAT, self->disk) || !attr_write(ATTACH, self->disk))
			_exit(2);
		/* Not even by a descriptor that it was given. */
		for (i = 0; i < 5; i++) {
			if (write(other[i], "0", 1) >= 0 || errno != EPERM)
				_exit(4 + i);
		}
		_exit(write(fd, self->disk, strlen(self->disk)) >= 0 || errno != EPERM ? 3 : 0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	close(fd);
	for (i = 0; i < 5; i++)
		close(other[i]);
}

/* A disk that became smaller than it was when it was formatted. */
TEST_F(store, shrunken)
{
	int file, loop;
	char path[KVT_TEXT];

	make_loop(256, &file, &loop, path);
	if (!path[0])
		SKIP(return, "no loop devices");
	ASSERT_EQ(0, attr_write(FORMAT, path));
	ASSERT_EQ(0, ftruncate(file, 128 << 20));
	ASSERT_EQ(0, ioctl(loop, LOOP_SET_CAPACITY, 0));
	EXPECT_EQ(-ENOSPC, attr_write(ATTACH, path));
	drop_loop(file, loop);
}

KVT_MAIN(NEEDS_ROOT)
