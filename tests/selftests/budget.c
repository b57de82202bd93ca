// SPDX-License-Identifier: MIT
/* Budgets: hard for every tier, at any time, and waits for room that end. */
#include <linux/futex.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "test.h"

#define BLOCKS 64
#define DRAM 8
#define DEADLINE_MS 1500

FIXTURE(budget)
{
	struct pool pool;
	struct kvtier_pool_create request;
};

FIXTURE_SETUP(budget)
{
	self->request = pool_request(SHIFT, BLOCKS, DRAM, BLOCKS);
	self->request.io_deadline_ms = DEADLINE_MS;
	ASSERT_EQ(0, pool_open(&self->pool, &self->request));
}

FIXTURE_TEARDOWN(budget)
{
	pool_close(&self->pool);
}

struct sampler {
	struct pool *pool;
	volatile bool stop;
	uint64_t most[KVTIER_NR_TIERS];
};

static void *sample(void *arg)
{
	struct sampler *s = arg;
	int tier;

	while (!s->stop) {
		struct kvtier_stats now = stats(s->pool);

		for (tier = 0; tier < KVTIER_NR_TIERS; tier++)
			if (now.tier[tier].used_bytes > s->most[tier])
				s->most[tier] = now.tier[tier].used_bytes;
	}
	return NULL;
}

static int hammer(struct pool *pool, uint64_t seed)
{
	uint64_t i, block;

	for (i = 0; i < 1500; i++) {
		block = next_random(&seed) % BLOCKS;
		if (next_random(&seed) % 2)
			fill_word((uint64_t *)at(pool, block) + seed % 100, i, seed);
		else
			(void)*(volatile char *)at(pool, block);
	}
	return 0;
}

/* Several processes, one budget. */
TEST_F(budget, hard)
{
	struct pool *pool = &self->pool;
	struct sampler s = { .pool = pool };
	struct kvtier_stats end;
	pthread_t thread;
	int i, status;
	pid_t pid[4];

	ASSERT_EQ(0, pthread_create(&thread, NULL, sample, &s));
	for (i = 0; i < 4; i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (!pid[i])
			_exit(hammer(pool, 77 + (uint64_t)i));
	}
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(pid[i], waitpid(pid[i], &status, 0));
		EXPECT_EQ(0, status);
	}
	s.stop = true;
	pthread_join(thread, NULL);
	end = stats(pool);
	EXPECT_LE(s.most[KVTIER_TIER_DRAM], DRAM * pool->block);
	EXPECT_LE(end.tier[KVTIER_TIER_DRAM].peak_bytes, DRAM * pool->block);
	EXPECT_LE(end.tier[KVTIER_TIER_NVME].peak_bytes, BLOCKS * pool->block);
	EXPECT_GE(s.most[KVTIER_TIER_DRAM], (DRAM - 2) * pool->block);
	EXPECT_GT(end.demoted, 100);
}

/* Every frame held by a pipe: a touch waits for the deadline, then says so. */
TEST_F(budget, exhausted)
{
	struct pool *pool = &self->pool;
	struct kvtier_event event;
	struct iovec part;
	uint64_t begin, i;
	char back[4096];
	int fds[2];

	ASSERT_EQ(0, pipe(fds));
	fill(pool, 0, DRAM, 1);
	fill(pool, 20, 1, 2);
	ASSERT_EQ(0, op(pool, KVTIER_OP_DEMOTE, 20, 1));
	fill(pool, 0, DRAM, 1);
	for (i = 0; i < DRAM; i++) {
		part = (struct iovec){ at(pool, i), 4096 };
		ASSERT_EQ(4096, vmsplice(fds[1], &part, 1, 0));
	}
	begin = now_ms();
	EXPECT_EQ(SIGBUS, try_read(at(pool, 20)));
	EXPECT_GE(fault_addr, (uintptr_t)at(pool, 20));
	EXPECT_LT(fault_addr, (uintptr_t)at(pool, 21));
	EXPECT_GE(now_ms() - begin, DEADLINE_MS / 2);
	EXPECT_LE(now_ms() - begin, DEADLINE_MS * 60);
	ASSERT_TRUE(next_event(pool, KVTIER_EVENT_PRESSURE, 20000, &event));
	EXPECT_EQ(-ENOSPC, event.error);
	EXPECT_EQ(20 * pool->block, event.offset);
	EXPECT_EQ(KVTIER_BLOCK_COLD_OPEN, info(pool, 20).state);
	for (i = 0; i < DRAM; i++)
		ASSERT_EQ(4096, read(fds[0], back, sizeof(back)));
	EXPECT_EQ(0, check(pool, 20, 1, 2)); /* it kept its content */
	EXPECT_EQ(0, check(pool, 0, DRAM, 1));
	EXPECT_EQ(0, stats(pool).bad_blocks);
}

/* A kernel that touches a block of its own accord, without looking at signals. */
static void wake_op(void *word)
{
	uint32_t other = 0;

	for (;;)
		syscall(SYS_futex, &other, FUTEX_WAKE_OP_PRIVATE, 1, 1, word,
			FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_EQ, 0));
}

/* Its status after @ms at most; -1: it has not ended. */
static int wait_bounded(pid_t pid, unsigned int ms)
{
	uint64_t end = now_ms() + ms;
	int status;

	while (now_ms() < end) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		usleep(20000);
	}
	return -1;
}

/* Who waits for room where nothing interrupts a fault ends all the same when it is killed. */
TEST_F(budget, killed_while_it_waits)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, BLOCKS);
	struct iovec part;
	struct pool pool;
	char back[4096];
	int fds[2], i;
	pid_t pid;

	request.io_deadline_ms = 600000;
	ASSERT_EQ(0, pool_open(&pool, &request));
	ASSERT_EQ(0, pipe(fds));
	fill(&pool, 0, DRAM, 1);
	for (i = 0; i < DRAM; i++) {
		part = (struct iovec){ at(&pool, i), 4096 };
		ASSERT_EQ(4096, vmsplice(fds[1], &part, 1, 0));
	}
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		wake_op(at(&pool, 20));
	usleep(300000);
	EXPECT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(SIGKILL, wait_bounded(pid, 30000));
	for (i = 0; i < DRAM; i++)
		ASSERT_EQ(4096, read(fds[0], back, sizeof(back)));
	EXPECT_EQ(0, check(&pool, 0, DRAM, 1));
	pool_close(&pool);
}

/* As long a call as there is: each range is the pool, and is refused at its last block. */
static int discard_long(struct pool *pool)
{
	static struct kvtier_range ranges[KVTIER_ARRAY_MAX];
	struct kvtier_range_op arg = {
		.size = sizeof(arg),
		.op = KVTIER_OP_DISCARD,
		.flags = KVTIER_OP_NOWAIT,
		.nr = KVTIER_ARRAY_MAX,
		.ranges = (uintptr_t)ranges,
	};
	uint32_t i;

	for (i = 0; i < KVTIER_ARRAY_MAX; i++)
		ranges[i].length = pool->bytes;
	return call(pool->fd, KVTIER_IOC_RANGE_OP, &arg);
}

/* A call that looks at blocks for minutes ends when its process is killed. */
TEST_F(budget, killed_while_it_looks)
{
	const uint64_t blocks = 16384, chunk = 64;
	struct pool pool;
	uint64_t i;
	pid_t pid;

	if (device_info().free_bytes[KVTIER_TIER_NVME] < (blocks + 8) << SHIFT)
		SKIP(return, "the store is too small");
	ASSERT_EQ(0, pool_new(&pool, SHIFT, blocks, 64, blocks + 8, KVTIER_POOL_NO_PREDICT));
	for (i = 0; i < blocks; i += chunk)
		(void)*(volatile char *)at(&pool, i);
	ASSERT_EQ(0, op(&pool, KVTIER_OP_PIN, blocks - 1, 1));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(discard_long(&pool) ? 1 : 0);
	usleep(300000);
	EXPECT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(SIGKILL, wait_bounded(pid, 20000));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_UNPIN, blocks - 1, 1));
	pool_close(&pool);
}

/* In a child of that user, with the descriptor that we opened: 0, or what went wrong. */
static int change_as(struct pool *pool, uid_t uid, uint64_t blocks)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		if (setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
			_exit(255);
		_exit(-set_budget(pool, KVTIER_TIER_DRAM, blocks));
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return -WEXITSTATUS(status);
}

static int open_as(uid_t uid)
{
	struct stat st;
	int fd;

	if (stat(KVTIER_DEVICE, &st) || chmod(KVTIER_DEVICE, 0666) || seteuid(uid))
		return -1;
	fd = device_open(O_RDWR);
	if (seteuid(0) || chmod(KVTIER_DEVICE, st.st_mode & 07777))
		return -1;
	return fd;
}

/* Fixed: to who opened the file, whatever process of its, and to the administrator. */
TEST_F(budget, fixed)
{
	struct kvtier_pool_create request = self->request;
	struct kvtier_pool_budget grow = { .size = sizeof(grow), .tier = KVTIER_TIER_DRAM };
	struct pool *free = &self->pool, fixed;
	struct kvtier_info host = device_info();
	int kept;

	if (geteuid())
		SKIP(return, "only root can be other users");
	EXPECT_TRUE(host.features & KVTIER_FEATURE_FIXED_BUDGET);
	EXPECT_EQ(0, change_as(free, 12345, DRAM + 1));
	request.flags |= KVTIER_POOL_FIXED_BUDGET;
	ASSERT_EQ(0, pool_open(&fixed, &request));
	fill(&fixed, 0, BLOCKS, 1);
	EXPECT_EQ(-EACCES, change_as(&fixed, 12345, DRAM + 1));
	EXPECT_EQ(-EACCES, change_as(&fixed, 12345, DRAM - 2)); /* less is not its to take either */
	EXPECT_EQ(DRAM * fixed.block, stats(&fixed).tier[KVTIER_TIER_DRAM].budget_bytes);
	EXPECT_EQ(0, change_as(&fixed, 0, DRAM + 2));
	EXPECT_EQ(0, set_budget(&fixed, KVTIER_TIER_DRAM, DRAM));
	EXPECT_EQ(0, check(&fixed, 0, BLOCKS, 1));
	pool_close(&fixed);

	/* A file that another user opened is that user's, though root has it too. */
	kept = open_as(12345);
	ASSERT_LE(0, kept);
	request.id = 0;
	ASSERT_EQ(0, call(kept, KVTIER_IOC_POOL_CREATE, &request));
	fixed = self->pool;
	fixed.fd = kept;
	EXPECT_EQ(0, change_as(&fixed, 12345, DRAM + 1));
	EXPECT_EQ(-EACCES, change_as(&fixed, 12346, DRAM + 2));
	grow.budget.bytes = (DRAM + 3) * fixed.block;
	EXPECT_EQ(0, call(kept, KVTIER_IOC_POOL_BUDGET, &grow)); /* CAP_SYS_ADMIN */
	close(kept);
}

struct hammerer {
	struct pool *pool;
	volatile bool stop;
	uint64_t wrong;
	volatile uint64_t passes;
};

static void *write_and_check(void *arg)
{
	struct hammerer *h = arg;
	uint64_t stamp;

	for (stamp = 1; !h->stop; stamp++) {
		fill(h->pool, 0, 32, stamp);
		h->wrong += check(h->pool, 0, 32, stamp);
		h->passes++;
	}
	return NULL;
}

/* Up and down in use; on return the pool occupies no more. */
TEST_F(budget, changed_in_use)
{
	static const uint64_t sizes[] = { 4, 48, 12, 64, 5, 16 };
	struct pool *pool = &self->pool;
	struct hammerer h = { .pool = pool };
	pthread_t thread;
	uint64_t i;

	ASSERT_EQ(0, pthread_create(&thread, NULL, write_and_check, &h));
	while (!h.passes) /* it is in use */
		usleep(1000);
	for (i = 0; i < 24; i++) {
		ASSERT_EQ(0, set_budget(pool, KVTIER_TIER_DRAM, sizes[i % 6]));
		EXPECT_LE(used_blocks(pool, KVTIER_TIER_DRAM), sizes[i % 6]);
	}
	h.stop = true;
	pthread_join(thread, NULL);
	EXPECT_EQ(0, h.wrong);
	EXPECT_GT(h.passes, 0);
}

TEST_F(budget, impossible_changes)
{
	struct pool *pool = &self->pool, memory;
	struct kvtier_pool_create request = pool_request(SHIFT, 32, 32, 0);

	fill(pool, 0, BLOCKS, 1);
	EXPECT_EQ(-ENOSPC, set_budget(pool, KVTIER_TIER_NVME, BLOCKS / 2));
	EXPECT_EQ(-EINVAL, set_budget(pool, KVTIER_TIER_DRAM, KVTIER_FRAMES_MIN - 1));
	EXPECT_EQ(-ENODEV, set_budget(pool, KVTIER_TIER_CXL, 8));
	EXPECT_EQ(0, check(pool, 0, BLOCKS, 1));
	ASSERT_EQ(0, pool_open(&memory, &request));
	fill(&memory, 0, 32, 1);
	EXPECT_EQ(-ENOSPC, set_budget(&memory, KVTIER_TIER_DRAM, 16));
	EXPECT_EQ(-ENODEV, set_budget(&memory, KVTIER_TIER_NVME, 64));
	EXPECT_EQ(32 * memory.block, stats(&memory).tier[KVTIER_TIER_DRAM].budget_bytes);
	EXPECT_EQ(0, check(&memory, 0, 32, 1));
	pool_close(&memory);
}

/* Shrinking below what is held fails at the deadline, and the old budget stays. */
TEST_F(budget, shrink_below_what_is_held)
{
	struct pool *pool = &self->pool;
	struct iovec part;
	char back[4096];
	int fds[2], i;

	ASSERT_EQ(0, pipe(fds));
	fill(pool, 0, DRAM, 1);
	for (i = 0; i < DRAM - 1; i++) {
		part = (struct iovec){ at(pool, i), 4096 };
		ASSERT_EQ(4096, vmsplice(fds[1], &part, 1, 0));
	}
	EXPECT_EQ(-ENOSPC, set_budget(pool, KVTIER_TIER_DRAM, 4));
	EXPECT_EQ(DRAM * pool->block, stats(pool).tier[KVTIER_TIER_DRAM].budget_bytes);
	for (i = 0; i < DRAM - 1; i++)
		ASSERT_EQ(4096, read(fds[0], back, sizeof(back)));
	EXPECT_EQ(0, set_budget(pool, KVTIER_TIER_DRAM, 4));
	EXPECT_LE(used_blocks(pool, KVTIER_TIER_DRAM), 4);
	EXPECT_EQ(0, check(pool, 0, DRAM, 1));
}

/* The administrator's limit holds for all pools together. */
TEST_F(budget, limit_of_the_host)
{
	const char *limit = KVT_CLASS "dram/limit_bytes";
	long long old = attr_number(limit), claimed = attr_number(KVT_CLASS "dram/claimed_bytes");
	struct kvtier_pool_create request = pool_request(SHIFT, 32, 32, 0);
	struct pool pool;

	if (geteuid())
		SKIP(return, "needs root");
	ASSERT_GE(claimed, (long long)(DRAM << SHIFT));
	ASSERT_EQ(0, attr_writef(limit, "%lld", claimed + (31 << SHIFT)));
	EXPECT_EQ(-ENOSPC, pool_open(&pool, &request));
	EXPECT_EQ(31 << SHIFT, device_info().free_bytes[KVTIER_TIER_DRAM]);
	EXPECT_EQ(0, set_budget(&self->pool, KVTIER_TIER_DRAM, DRAM + 31));
	EXPECT_EQ(-ENOSPC, set_budget(&self->pool, KVTIER_TIER_DRAM, DRAM + 32));
	EXPECT_EQ(0, set_budget(&self->pool, KVTIER_TIER_DRAM, DRAM));
	ASSERT_EQ(0, attr_writef(limit, "%lld", claimed + (32 << SHIFT)));
	EXPECT_EQ(0, pool_open(&pool, &request));
	pool_close(&pool);
	EXPECT_EQ(-EINVAL, attr_write(limit, "lots"));
	EXPECT_EQ(-EINVAL, attr_write(limit, "-1"));
	EXPECT_EQ(-EINVAL, attr_write(limit, "99999999999999999"));
	EXPECT_EQ(0, attr_writef(limit, "%lld", old));
}

/* No slot is left: a block that has none stays in memory, and touches end in time. */
TEST_F(budget, nvme_exhausted_by_reservations)
{
	struct kvtier_pool_create request = pool_request(SHIFT, 32, 16, 20);
	struct kvtier_slot slots[16];
	struct kvtier_checkpoint checkpoint = {
		.size = sizeof(checkpoint),
		.length = 16 << SHIFT,
		.slots = (uintptr_t)slots,
		.nr = 16,
	};
	struct kvtier_release release = { .size = sizeof(release) };
	struct kvtier_event event;
	struct pool pool;
	uint64_t i;

	request.io_deadline_ms = DEADLINE_MS;
	request.flags = KVTIER_POOL_KEEP;
	ASSERT_EQ(0, pool_open(&pool, &request));
	fill(&pool, 0, 16, 1);
	ASSERT_EQ(0, op(&pool, KVTIER_OP_SEAL, 0, 16));
	ASSERT_EQ(0, call(pool.fd, KVTIER_IOC_CHECKPOINT, &checkpoint));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_DISCARD, 0, 16));
	EXPECT_EQ(16, used_blocks(&pool, KVTIER_TIER_NVME)); /* reserved */
	/* 16 frames and 4 slots hold 20 blocks: those get in, one more does not. */
	for (i = 0; i < 32 && !try_write(at(&pool, i)); i++)
		;
	EXPECT_GE(i, 16);
	EXPECT_LE(i, 20);
	EXPECT_TRUE(next_event(&pool, KVTIER_EVENT_PRESSURE, 20000, &event));
	memcpy(release.key, checkpoint.key, sizeof(release.key));
	ASSERT_EQ(0, call(pool.fd, KVTIER_IOC_RELEASE, &release));
	fill(&pool, 0, 32, 3);
	EXPECT_EQ(0, check(&pool, 0, 32, 3));
	pool_close(&pool);
}

static int checkpoint(struct pool *pool, struct kvtier_checkpoint *arg, struct kvtier_slot *slots,
		      uint64_t first, uint64_t nr)
{
	arg->size = sizeof(*arg);
	arg->offset = first * pool->block;
	arg->length = nr * pool->block;
	arg->slots = (uintptr_t)slots;
	arg->nr = nr;
	return call(pool->fd, KVTIER_IOC_CHECKPOINT, arg);
}

/* A slot is paid for once: by a block, by the reservation, or by one that adopts it. */
TEST_F(budget, reservations_are_paid_once)
{
	struct kvtier_slot slots[16];
	struct kvtier_checkpoint first = {}, again = {};
	struct kvtier_release release = { .size = sizeof(release) };
	struct kvtier_adopt adopt = { .size = sizeof(adopt), .slots = (uintptr_t)slots, .nr = 16 };
	struct pool pool;

	ASSERT_EQ(0, pool_new(&pool, SHIFT, 32, 32, 16, KVTIER_POOL_KEEP));
	fill(&pool, 0, 16, 1);
	ASSERT_EQ(0, op(&pool, KVTIER_OP_SEAL, 0, 16));
	ASSERT_EQ(0, checkpoint(&pool, &first, slots, 0, 16));
	EXPECT_EQ(16, used_blocks(&pool, KVTIER_TIER_NVME));
	memcpy(again.key, first.key, sizeof(again.key));
	ASSERT_EQ(0, checkpoint(&pool, &again, slots, 0, 16));
	memset(again.key, 0, sizeof(again.key));
	ASSERT_EQ(0, checkpoint(&pool, &again, slots, 0, 16)); /* another key, the same slots */
	EXPECT_EQ(16, used_blocks(&pool, KVTIER_TIER_NVME));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_DISCARD, 0, 16));
	EXPECT_EQ(16, used_blocks(&pool, KVTIER_TIER_NVME));
	memcpy(release.key, first.key, sizeof(release.key));
	ASSERT_EQ(0, call(pool.fd, KVTIER_IOC_RELEASE, &release));
	EXPECT_EQ(16, used_blocks(&pool, KVTIER_TIER_NVME));
	memcpy(adopt.key, again.key, sizeof(adopt.key));
	memcpy(adopt.store, again.store, sizeof(adopt.store));
	ASSERT_EQ(0, call(pool.fd, KVTIER_IOC_ADOPT, &adopt));
	EXPECT_EQ(16, used_blocks(&pool, KVTIER_TIER_NVME));
	EXPECT_EQ(0, check(&pool, 0, 16, 1));
	memcpy(release.key, again.key, sizeof(release.key));
	ASSERT_EQ(0, call(pool.fd, KVTIER_IOC_RELEASE, &release));
	EXPECT_EQ(16, used_blocks(&pool, KVTIER_TIER_NVME)); /* the blocks' own */
	ASSERT_EQ(0, op(&pool, KVTIER_OP_DISCARD, 0, 16));
	EXPECT_EQ(0, used_blocks(&pool, KVTIER_TIER_NVME));
	pool_close(&pool);
}

/* A checkpoint takes slots of others to have room, and never those of its own blocks. */
TEST_F(budget, checkpoint_with_few_slots)
{
	struct kvtier_slot slots[64];
	struct kvtier_checkpoint arg = {}, other = {};
	struct kvtier_release release = { .size = sizeof(release) };
	struct pool pool;

	ASSERT_EQ(0, pool_new(&pool, SHIFT, 64, 64, 48, KVTIER_POOL_KEEP));
	fill(&pool, 0, 64, 1);
	ASSERT_EQ(0, op(&pool, KVTIER_OP_SEAL, 0, 64));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_WRITEBACK, 16, 48));
	EXPECT_EQ(-ENOSPC, checkpoint(&pool, &arg, slots, 0, 64));
	EXPECT_LE(used_blocks(&pool, KVTIER_TIER_NVME), 48);
	ASSERT_EQ(0, op(&pool, KVTIER_OP_WRITEBACK, 16, 48));
	ASSERT_EQ(0, checkpoint(&pool, &arg, slots, 0, 48));
	EXPECT_EQ(48, used_blocks(&pool, KVTIER_TIER_NVME));
	EXPECT_EQ(-ENOSPC, checkpoint(&pool, &other, slots, 48, 1));
	EXPECT_EQ(-ENOSPC, set_budget(&pool, KVTIER_TIER_NVME, 40));
	EXPECT_EQ(0, check(&pool, 0, 64, 1));
	memcpy(release.key, arg.key, sizeof(release.key));
	ASSERT_EQ(0, call(pool.fd, KVTIER_IOC_RELEASE, &release));
	ASSERT_EQ(0, set_budget(&pool, KVTIER_TIER_NVME, 4));
	EXPECT_LE(used_blocks(&pool, KVTIER_TIER_NVME), 4);
	EXPECT_EQ(0, check(&pool, 0, 64, 1));
	pool_close(&pool);
}

/* Clones share the slot that one of them pays for: it is free when all have given it up. */
TEST_F(budget, shrink_below_slots_of_clones)
{
	struct pool pool;

	ASSERT_EQ(0, pool_new(&pool, SHIFT, 64, 64, 32, 0));
	fill(&pool, 0, 16, 1);
	ASSERT_EQ(0, op(&pool, KVTIER_OP_SEAL, 0, 16));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_WRITEBACK, 0, 16));
	ASSERT_EQ(0, clone_blocks(&pool, 16, &pool, 0, 16));
	ASSERT_EQ(0, clone_blocks(&pool, 32, &pool, 0, 16));
	EXPECT_EQ(16, used_blocks(&pool, KVTIER_TIER_NVME));
	ASSERT_EQ(0, set_budget(&pool, KVTIER_TIER_NVME, 2));
	EXPECT_LE(used_blocks(&pool, KVTIER_TIER_NVME), 2);
	EXPECT_EQ(0, check(&pool, 0, 16, 1));
	EXPECT_EQ(0, check_as(&pool, 47, 15, 1));
	pool_close(&pool);
}

KVT_MAIN(NEEDS_STORE)
