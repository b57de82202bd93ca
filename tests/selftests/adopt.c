// SPDX-License-Identifier: MIT
/* Checkpointed blocks after their pool, after a detach, and after the module itself. */
#include <sys/mman.h>
#include <sys/syscall.h>

#include "test.h"

#define BLOCKS 32
#define DRAM 8
#define KEPT 12

FIXTURE(adopt)
{
	char disk[KVT_TEXT];
	char store[KVT_TEXT];
	struct manifest manifest;
};

FIXTURE_SETUP(adopt)
{
	if (!spare_disk(self->disk))
		SKIP(return, "no free disk with the serial kv1");
	ASSERT_EQ(0, store_up(self->disk, self->store));
}

FIXTURE_TEARDOWN(adopt)
{
	if (!access(self->store, F_OK))
		EXPECT_EQ(0, store_down(self->store));
}

static int keeping_pool(struct pool *pool, const char *store)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, 2 * BLOCKS);

	request.flags = KVTIER_POOL_KEEP;
	request.budget[KVTIER_TIER_NVME].nodes = 1ULL << store_number(store);
	return pool_open(pool, &request);
}

/* Twelve sealed blocks from block 4 on. */
static int make_manifest(struct pool *pool, struct manifest *m)
{
	int ret;

	fill(pool, 0, BLOCKS, 1);
	ret = op(pool, KVTIER_OP_SEAL, 4, KEPT);
	return ret ? ret : checkpoint_blocks(pool, m, 4, KEPT);
}

static void expect_adopted(struct __test_metadata *_metadata, struct pool *pool,
			   const struct manifest *m)
{
	uint64_t i;

	for (i = 0; i < KEPT; i++) {
		EXPECT_EQ(KVTIER_BLOCK_COLD, info(pool, 4 + i).state);
		EXPECT_EQ(m->slots[i].generation, info(pool, 4 + i).generation);
		EXPECT_EQ(m->slots[i].slot, info(pool, 4 + i).slot);
		EXPECT_EQ(m->slots[i].crc32c, info(pool, 4 + i).crc32c);
	}
	EXPECT_EQ(0, check(pool, 4, KEPT, 1));
	EXPECT_EQ(SIGBUS, try_write(at(pool, 5)));
	EXPECT_EQ(0, check_zero(pool, 0, 4));
}

/* A new pool on the same store; the slots stay reserved until they are released. */
TEST_F(adopt, after_the_pool)
{
	struct manifest *m = &self->manifest;
	struct pool pool, other;
	long long used;

	ASSERT_EQ(0, keeping_pool(&pool, self->store));
	ASSERT_EQ(0, make_manifest(&pool, m));
	pool_close(&pool);
	EXPECT_EQ(1, store_attr(self->store, "reservations"));
	EXPECT_EQ(KEPT << SHIFT, store_attr(self->store, "used_bytes"));
	ASSERT_EQ(0, keeping_pool(&pool, self->store));
	ASSERT_EQ(0, adopt_blocks(&pool, m));
	ASSERT_EQ(0, keeping_pool(&other, self->store));
	ASSERT_EQ(0, adopt_blocks(&other, m)); /* several pools may have one slot */
	fill(&other, 16, 16, 2);
	ASSERT_EQ(0, op(&other, KVTIER_OP_DEMOTE, 0, BLOCKS));
	expect_adopted(_metadata, &pool, m);
	EXPECT_EQ(0, release_key(&pool, m));
	EXPECT_EQ(-ENOENT, release_key(&pool, m));
	pool_close(&pool);
	EXPECT_EQ(0, check(&other, 4, KEPT, 1)); /* adopted blocks keep theirs */
	EXPECT_EQ(0, check(&other, 16, 16, 2));
	used = store_attr(self->store, "used_bytes");
	EXPECT_GE(used, KEPT << SHIFT);
	pool_close(&other);
	EXPECT_EQ(0, store_attr(self->store, "used_bytes"));
}

/* ---- what nobody's pool has any more ---------------------------------------------------- */

/* In a child, as another user: how a pool with this much NVMe is refused; 0: it is not. */
static int as_another_user(const char *store, uint64_t nvme)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, nvme);
	int status, fd = device_open(O_RDWR);
	pid_t pid = fork();

	request.flags = KVTIER_POOL_KEEP;
	request.budget[KVTIER_TIER_NVME].nodes = 1ULL << store_number(store);
	if (!pid)
		_exit(setresuid(65534, 65534, 65534) ?
			      255 : -call(fd, KVTIER_IOC_POOL_CREATE, &request));
	close(fd);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -EIO;
	return -WEXITSTATUS(status);
}

static int pool_with(struct pool *pool, const char *store, uint64_t nvme)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, nvme);

	request.flags = KVTIER_POOL_KEEP;
	request.budget[KVTIER_TIER_NVME].nodes = 1ULL << store_number(store);
	return pool_open(pool, &request);
}

/*
 * What outlives its pool is promised to nobody else, and whose pool it was can have all of
 * the store again, to adopt it: then it is charged to the new pool.
 */
TEST_F(adopt, reservations_stay_claimed)
{
	struct manifest *m = &self->manifest;
	const uint64_t all = (uint64_t)store_attr(self->store, "size_bytes") >> SHIFT;
	const long long kept = (long long)KEPT << SHIFT;
	struct pool pool, other;

	ASSERT_EQ(0, pool_with(&pool, self->store, all));
	ASSERT_EQ(0, make_manifest(&pool, m));
	EXPECT_EQ(0, store_attr(self->store, "kept_bytes"));
	pool_close(&pool);
	EXPECT_EQ(kept, store_attr(self->store, "kept_bytes"));
	EXPECT_EQ(-ENOSPC, as_another_user(self->store, all));
	EXPECT_EQ(0, as_another_user(self->store, all - KEPT));
	ASSERT_EQ(0, pool_with(&pool, self->store, all));
	EXPECT_EQ(KEPT, used_blocks(&pool, KVTIER_TIER_NVME)); /* it is to adopt these */
	EXPECT_EQ(-ENOSPC, as_another_user(self->store, BLOCKS));
	EXPECT_EQ(-ENOSPC, pool_with(&other, self->store, BLOCKS));
	fill(&pool, 4, 1, 2);
	EXPECT_EQ(-EEXIST, adopt_blocks(&pool, m)); /* nothing has changed by that */
	EXPECT_EQ(KEPT, used_blocks(&pool, KVTIER_TIER_NVME));
	EXPECT_EQ(kept, store_attr(self->store, "kept_bytes"));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_DISCARD, 4, 1));
	ASSERT_EQ(0, adopt_blocks(&pool, m));
	EXPECT_EQ(KEPT, used_blocks(&pool, KVTIER_TIER_NVME));
	EXPECT_EQ(0, store_attr(self->store, "kept_bytes"));
	EXPECT_EQ(-ENOSPC, as_another_user(self->store, BLOCKS));
	expect_adopted(_metadata, &pool, m);
	ASSERT_EQ(0, op(&pool, KVTIER_OP_DISCARD, 0, BLOCKS));
	EXPECT_EQ(KEPT, used_blocks(&pool, KVTIER_TIER_NVME)); /* as if it had made them */
	pool_close(&pool);
	EXPECT_EQ(kept, store_attr(self->store, "kept_bytes"));
	EXPECT_EQ(0, store_attr(self->store, "claimed_bytes"));
	ASSERT_EQ(0, keeping_pool(&pool, self->store));
	EXPECT_EQ(0, used_blocks(&pool, KVTIER_TIER_NVME)); /* there is room for both */
	EXPECT_EQ(0, release_key(&pool, m));
	pool_close(&pool);
	EXPECT_EQ(0, store_attr(self->store, "kept_bytes"));
	EXPECT_EQ(0, store_attr(self->store, "used_bytes"));
	EXPECT_EQ(0, as_another_user(self->store, all));
}

/* What a pool was to adopt is released: it may use that much otherwise. */
TEST_F(adopt, released_before_it_is_adopted)
{
	struct manifest *m = &self->manifest;
	const uint64_t all = (uint64_t)store_attr(self->store, "size_bytes") >> SHIFT;
	struct pool pool;

	ASSERT_EQ(0, keeping_pool(&pool, self->store));
	ASSERT_EQ(0, make_manifest(&pool, m));
	pool_close(&pool);
	ASSERT_EQ(0, pool_with(&pool, self->store, all - KEPT / 2));
	EXPECT_EQ(KEPT - KEPT / 2, used_blocks(&pool, KVTIER_TIER_NVME));
	EXPECT_EQ(0, release_key(&pool, m));
	EXPECT_EQ(0, used_blocks(&pool, KVTIER_TIER_NVME));
	EXPECT_EQ(-ENOSPC, as_another_user(self->store, BLOCKS));
	pool_close(&pool);
	EXPECT_EQ(0, as_another_user(self->store, all));
}

static int read_keys(const char *store, char *text, size_t room)
{
	char path[2 * KVT_TEXT];
	ssize_t n, done = 0;
	int fd;

	snprintf(path, sizeof(path), "%s/keys", store);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* In parts, which are no whole lines. */
	while ((n = read(fd, text + done, room - done > 50 ? 50 : room - done)) > 0)
		done += n;
	close(fd);
	return n < 0 ? -errno : (int)done;
}

/* The administrator sees who keeps what, and may end it. */
TEST_F(adopt, administrator_ends_a_reservation)
{
	struct manifest *m = &self->manifest, second = { .nr = 0 };
	char text[1024], key[2 * KVTIER_KEY_BYTES + 1], path[2 * KVT_TEXT];
	unsigned long long bytes;
	unsigned int uid;
	struct pool pool;
	int i, fd;

	ASSERT_EQ(0, keeping_pool(&pool, self->store));
	EXPECT_EQ(0, read_keys(self->store, text, sizeof(text)));
	ASSERT_EQ(0, make_manifest(&pool, m));
	ASSERT_EQ(0, checkpoint_blocks(&pool, &second, 5, 2));
	pool_close(&pool);
	ASSERT_EQ(2 * 64, read_keys(self->store, text, sizeof(text)));
	text[2 * 64] = '\0';
	ASSERT_EQ(3, sscanf(text, "%32[0-9a-f] %u %llu\n", key, &uid, &bytes));
	for (i = 0; i < KVTIER_KEY_BYTES; i++)
		snprintf(text + 200 + 2 * i, 3, "%02x", m->key[i]);
	EXPECT_EQ(0, strcmp(key, text + 200));
	EXPECT_EQ(0, uid);
	EXPECT_EQ(KEPT << SHIFT, bytes);
	EXPECT_EQ(-EINVAL, store_write(self->store, "release", "all"));
	EXPECT_EQ(-EINVAL, store_write(self->store, "release", key + 1));
	key[0] ^= 1;
	EXPECT_EQ(-ENOENT, store_write(self->store, "release", key));
	key[0] ^= 1;
	snprintf(path, sizeof(path), "%s/release", self->store);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	if (!fork())
		_exit(setresuid(65534, 65534, 65534) || write(fd, key, 32) >= 0 || errno != EPERM);
	ASSERT_LT(0, wait(&i));
	EXPECT_EQ(0, i);
	close(fd);
	EXPECT_EQ(0, store_write(self->store, "release", key));
	EXPECT_EQ(-ENOENT, store_write(self->store, "release", key));
	EXPECT_EQ(2 << SHIFT, store_attr(self->store, "used_bytes"));
	EXPECT_EQ(1, store_attr(self->store, "reservations"));
	ASSERT_EQ(0, keeping_pool(&pool, self->store));
	EXPECT_EQ(-ENOENT, adopt_blocks(&pool, m));
	EXPECT_EQ(0, release_key(&pool, &second));
	pool_close(&pool);
}

/* How much one user may reserve is the administrator's to say. */
TEST_F(adopt, limits_of_a_user)
{
	struct kvtier_pool_create request = pool_request(HUGE_SHIFT, KEPT, KEPT, 2 * KEPT);
	struct manifest m[3] = { { .nr = 0 } };
	struct pool pool;

	request.flags = KVTIER_POOL_KEEP;
	request.budget[KVTIER_TIER_NVME].nodes = 1ULL << store_number(self->store);
	ASSERT_EQ(0, pool_open(&pool, &request));
	fill(&pool, 0, KEPT, 1);
	ASSERT_EQ(0, op(&pool, KVTIER_OP_SEAL, 0, KEPT));
	ASSERT_EQ(0, attr_write(KVT_CLASS "policy/max_keys", "2"));
	EXPECT_EQ(0, checkpoint_blocks(&pool, &m[0], 0, 2));
	EXPECT_EQ(0, checkpoint_blocks(&pool, &m[1], 0, 2));
	EXPECT_EQ(-ENOSPC, checkpoint_blocks(&pool, &m[2], 0, 2));
	EXPECT_EQ(0, checkpoint_blocks(&pool, &m[1], 2, 2));
	EXPECT_EQ(0, release_key(&pool, &m[1]));
	EXPECT_EQ(0, checkpoint_blocks(&pool, &m[2], 0, 2));
	EXPECT_EQ(2, store_attr(self->store, "reservations"));
	EXPECT_EQ(0, attr_write(KVT_CLASS "policy/max_keys", "65536"));
	ASSERT_EQ(0, attr_write(KVT_CLASS "policy/max_reserved_percent", "1")); /* 20 MiB */
	EXPECT_EQ(0, checkpoint_blocks(&pool, &m[2], 2, 6));
	EXPECT_EQ(-ENOSPC, checkpoint_blocks(&pool, &m[2], 8, 4));
	EXPECT_EQ(KEPT, used_blocks(&pool, KVTIER_TIER_NVME)); /* those are saved all the same */
	EXPECT_EQ(0, attr_write(KVT_CLASS "policy/max_reserved_percent", "100"));
	EXPECT_EQ(0, checkpoint_blocks(&pool, &m[2], 8, 4));
	EXPECT_EQ(0, release_key(&pool, &m[0]));
	EXPECT_EQ(0, release_key(&pool, &m[2]));
	pool_close(&pool);
}

/* What is reserved is written by nobody, whatever becomes of the blocks. */
TEST_F(adopt, reserved_slots_are_not_reused)
{
	struct manifest *m = &self->manifest;
	struct pool pool;
	uint64_t stamp;

	ASSERT_EQ(0, keeping_pool(&pool, self->store));
	ASSERT_EQ(0, make_manifest(&pool, m));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_DISCARD, 0, BLOCKS));
	for (stamp = 2; stamp < 6; stamp++) {
		fill(&pool, 0, BLOCKS, stamp);
		ASSERT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
	}
	EXPECT_EQ(0, check(&pool, 0, BLOCKS, 5));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_DISCARD, 0, BLOCKS));
	ASSERT_EQ(0, adopt_blocks(&pool, m));
	expect_adopted(_metadata, &pool, m);
	EXPECT_EQ(0, release_key(&pool, m));
	pool_close(&pool);
}

/* A store that was attached anew is on hold: only what is to be kept is done first. */
TEST_F(adopt, after_a_detach)
{
	struct manifest *m = &self->manifest, wrong;
	struct pool pool, other;

	ASSERT_EQ(0, keeping_pool(&pool, self->store));
	ASSERT_EQ(0, make_manifest(&pool, m));
	EXPECT_EQ(-EBUSY, store_detach(self->store));
	pool_close(&pool);
	ASSERT_EQ(0, store_detach(self->store));
	ASSERT_EQ(0, store_attach(self->disk, self->store));
	EXPECT_EQ(1, store_attr(self->store, "hold"));
	EXPECT_EQ(0, store_attr(self->store, "used_bytes")); /* it has forgotten them */
	ASSERT_EQ(0, keeping_pool(&pool, self->store));
	wrong = *m;
	wrong.store[0] ^= 1;
	EXPECT_EQ(-ENODEV, adopt_blocks(&pool, &wrong));
	ASSERT_EQ(0, adopt_blocks(&pool, m));
	expect_adopted(_metadata, &pool, m);
	EXPECT_EQ(1, store_attr(self->store, "reservations"));
	fill(&pool, 20, 2, 3);
	EXPECT_GT(0, op(&pool, KVTIER_OP_DEMOTE, 20, 2)); /* nothing is written yet */
	EXPECT_EQ(0, check(&pool, 20, 2, 3));
	ASSERT_EQ(0, store_write(self->store, "hold", "0"));
	EXPECT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
	EXPECT_EQ(0, check(&pool, 4, KEPT, 1));
	EXPECT_EQ(0, check(&pool, 20, 2, 3));
	/* The reservation is there again, under the old key. */
	ASSERT_EQ(0, keeping_pool(&other, self->store));
	EXPECT_EQ(0, adopt_blocks(&other, m));
	pool_close(&other);
	EXPECT_EQ(0, release_key(&pool, m));
	pool_close(&pool);
}

/* Where nothing can be written, no pool goes that does not ask for it. */
TEST_F(adopt, held_store_is_the_last_choice)
{
	struct manifest *m = &self->manifest;
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, 0);
	uint64_t held, others, free_bytes;
	char path[KVT_TEXT], name[KVT_TEXT];
	struct pool pool, large;

	ASSERT_EQ(0, keeping_pool(&pool, self->store));
	ASSERT_EQ(0, make_manifest(&pool, m));
	pool_close(&pool);
	ASSERT_EQ(0, store_detach(self->store));
	ASSERT_EQ(0, store_attach(self->disk, self->store));
	ASSERT_EQ(1, store_attr(self->store, "hold"));
	/* Leave the others less room than the held one has. */
	held = 1ULL << store_number(self->store);
	others = device_info().nodes[KVTIER_TIER_NVME] & ~held;
	ASSERT_NE(0, others);
	free_bytes = device_info().free_bytes[KVTIER_TIER_NVME];
	request.budget[KVTIER_TIER_NVME].bytes = free_bytes - (64ULL << 20);
	request.budget[KVTIER_TIER_NVME].nodes = others;
	ASSERT_EQ(0, pool_open(&large, &request));
	ASSERT_EQ(0, pool_new(&pool, SHIFT, BLOCKS, DRAM, BLOCKS, 0));
	snprintf(path, sizeof(path), KVT_CLASS "pool%u/store", pool.id);
	ASSERT_EQ(0, attr_read(path, name));
	EXPECT_NE(0, strcmp(name, strrchr(self->store, '/') + 1));
	fill(&pool, 0, BLOCKS, 1);
	EXPECT_EQ(0, check(&pool, 0, BLOCKS, 1));
	pool_close(&pool);
	pool_close(&large);
	ASSERT_EQ(0, store_write(self->store, "hold", "0"));
}

/* Lifted without an adoption the slots are free, and the key is unknown. */
TEST_F(adopt, forgotten)
{
	struct manifest *m = &self->manifest;
	struct pool pool;

	ASSERT_EQ(0, keeping_pool(&pool, self->store));
	ASSERT_EQ(0, make_manifest(&pool, m));
	pool_close(&pool);
	ASSERT_EQ(0, store_detach(self->store));
	ASSERT_EQ(0, store_attach(self->disk, self->store));
	ASSERT_EQ(0, store_write(self->store, "hold", "0"));
	ASSERT_EQ(0, keeping_pool(&pool, self->store));
	EXPECT_EQ(-ENOENT, adopt_blocks(&pool, m));
	EXPECT_EQ(-ENOENT, release_key(&pool, m));
	fill(&pool, 0, BLOCKS, 2);
	ASSERT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
	EXPECT_EQ(0, check(&pool, 0, BLOCKS, 2));
	pool_close(&pool);
}

/* Who has no right to the store cannot make a reservation again by naming slots. */
TEST_F(adopt, again_needs_an_administrator)
{
	struct manifest *m = &self->manifest;
	struct pool pool;
	int status;
	pid_t pid;

	ASSERT_EQ(0, keeping_pool(&pool, self->store));
	ASSERT_EQ(0, make_manifest(&pool, m));
	pool_close(&pool);
	ASSERT_EQ(0, store_detach(self->store));
	ASSERT_EQ(0, store_attach(self->disk, self->store));
	ASSERT_EQ(0, keeping_pool(&pool, self->store));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(setresuid(65534, 65534, 65534) || adopt_blocks(&pool, m) != -ENOENT);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, adopt_blocks(&pool, m));
	EXPECT_EQ(0, release_key(&pool, m));
	pool_close(&pool);
}

/* ---- over a reload of the module ------------------------------------------------------- */

static int load_module(const char *parameter)
{
	char command[KVT_TEXT];
	int tries = 100, fd;

	snprintf(command, sizeof(command), "modprobe kvtier %s 2>/dev/null", parameter);
	if (system(command))
		return -ENOENT;
	while ((fd = device_open(O_RDWR)) < 0 && tries--)
		usleep(50000);
	if (fd >= 0)
		close(fd);
	return fd < 0 ? fd : 0;
}

static int unload_module(void)
{
	int tries = 100, ret;

	do
		ret = syscall(SYS_delete_module, "kvtier", O_NONBLOCK) ? -errno : 0;
	while (ret && tries-- && !usleep(50000));
	return ret;
}

TEST_F(adopt, after_a_reload)
{
	struct manifest *m = &self->manifest;
	char first[KVT_TEXT], first_store[KVT_TEXT];
	bool had_first = disk_by_serial("kv0", first) &&
			 store_of(strrchr(first, '/') + 1, first_store);
	struct pool pool;

	ASSERT_EQ(0, keeping_pool(&pool, self->store));
	ASSERT_EQ(0, make_manifest(&pool, m));
	pool_close(&pool);
	ASSERT_EQ(0, store_detach(self->store));
	if (had_first)
		ASSERT_EQ(0, store_down(first_store));
	ASSERT_EQ(0, unload_module());
	EXPECT_NE(0, access(KVT_CLASS, F_OK));
	EXPECT_NE(0, load_module("scan_period_ms=3600001")); /* out of its range */
	EXPECT_NE(0, load_module("writeback_depth=0"));
	EXPECT_NE(0, access(KVT_CLASS, F_OK));
	ASSERT_EQ(0, load_module("writeback_depth=7"));
	EXPECT_EQ(7, attr_number(KVT_CLASS "policy/writeback_depth"));
	EXPECT_EQ(0, attr_write(KVT_CLASS "policy/writeback_depth", "4"));
	if (had_first)
		EXPECT_EQ(0, store_attach(first, first_store));
	ASSERT_EQ(0, store_attach(self->disk, self->store));
	EXPECT_EQ(1, store_attr(self->store, "hold"));
	ASSERT_EQ(0, keeping_pool(&pool, self->store));
	ASSERT_EQ(0, adopt_blocks(&pool, m));
	expect_adopted(_metadata, &pool, m);
	ASSERT_EQ(0, store_write(self->store, "hold", "0"));
	EXPECT_EQ(0, release_key(&pool, m));
	pool_close(&pool);
}

KVT_MAIN(NEEDS_STORE | NEEDS_ROOT)
