// SPDX-License-Identifier: MIT
/* How pools and their users end: in order, in the middle of I/O, killed, or not at all. */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "test.h"

#define BLOCKS 64
#define DRAM 16

static int unload(void)
{
	return syscall(SYS_delete_module, "kvtier", O_NONBLOCK) ? -errno : 0;
}

static bool in_sysfs(const struct pool *pool)
{
	char path[KVT_TEXT];

	snprintf(path, sizeof(path), KVT_CLASS "pool%u", pool->id);
	return !access(path, F_OK);
}

/* What all pools claim, and what lies in the store. */
struct use {
	uint64_t free[KVTIER_NR_TIERS];
	long long store_used;
};

static struct use in_use(void)
{
	struct kvtier_info info = device_info();
	char path[KVT_TEXT];
	struct use use;
	int store = __builtin_ffsll((long long)info.nodes[KVTIER_TIER_NVME]) - 1;

	memcpy(use.free, info.free_bytes, sizeof(use.free));
	snprintf(path, sizeof(path), KVT_CLASS "store%d/used_bytes", store);
	use.store_used = attr_number(path);
	return use;
}

/* A killed process's last descriptor is closed a little after it is gone. */
static bool same_use(const struct use *before)
{
	uint64_t end = now_ms() + 60000;
	struct use now;

	do {
		now = in_use();
		if (!memcmp(&now, before, sizeof(now)))
			return true;
		usleep(50000);
	} while (now_ms() < end);
	return false;
}

static int churn(struct pool *pool, uint64_t rounds)
{
	uint64_t seed = 9, i;

	for (i = 0; i < rounds; i++) {
		fill_word((uint64_t *)at(pool, next_random(&seed) % BLOCKS), i, i);
		op_flags(pool, next_random(&seed) % 2 ? KVTIER_OP_DEMOTE : KVTIER_OP_PROMOTE,
			 KVTIER_OP_NOWAIT, next_random(&seed) % (BLOCKS - 8), 8);
	}
	return 0;
}

TEST(gives_everything_back)
{
	struct use before = in_use();
	struct pool pool;
	int i;

	for (i = 0; i < 50; i++) {
		ASSERT_EQ(0, pool_new(&pool, SHIFT, BLOCKS, DRAM, BLOCKS, 0));
		EXPECT_TRUE(in_sysfs(&pool));
		fill(&pool, 0, BLOCKS, 1);
		pool_close(&pool);
		EXPECT_FALSE(in_sysfs(&pool));
	}
	EXPECT_TRUE(same_use(&before));
}

/* The last of descriptor and mappings ends it, in whatever order. */
TEST(lives_by_its_mapping)
{
	struct use before = in_use();
	struct pool pool;
	char *second;

	ASSERT_EQ(0, pool_new(&pool, SHIFT, BLOCKS, DRAM, BLOCKS, 0));
	fill(&pool, 0, BLOCKS, 1);
	second = map_aligned(pool.fd, pool.bytes, PROT_READ);
	ASSERT_NE(MAP_FAILED, (void *)second);
	close(pool.fd);
	EXPECT_EQ(0, check(&pool, 0, BLOCKS, 1));
	fill(&pool, 0, BLOCKS, 2);
	munmap(pool.mem, pool.bytes);
	EXPECT_TRUE(in_sysfs(&pool));
	pool.mem = second;
	EXPECT_EQ(0, check(&pool, 0, BLOCKS, 2));
	munmap(second, pool.bytes - 4096);
	EXPECT_TRUE(in_sysfs(&pool));
	munmap(second + pool.bytes - 4096, 4096);
	EXPECT_FALSE(in_sysfs(&pool));
	EXPECT_TRUE(same_use(&before));
}

TEST(closed_in_the_middle_of_io)
{
	struct use before = in_use();
	struct pool pool;
	int i;

	for (i = 0; i < 30; i++) {
		ASSERT_EQ(0, pool_new(&pool, SHIFT, BLOCKS, DRAM, BLOCKS, 0));
		fill(&pool, 0, BLOCKS, 1);
		churn(&pool, (uint64_t)i * 3);
		pool_close(&pool);
	}
	EXPECT_TRUE(same_use(&before));
}

/* A thread in a call, another in a fault, and the descriptor is closed under them. */
static void *demote_always(void *arg)
{
	struct pool *pool = arg;

	while (op(pool, KVTIER_OP_DEMOTE, 0, BLOCKS) != -EBADF)
		;
	return NULL;
}

TEST(closed_during_a_call)
{
	struct use before = in_use();
	struct pool pool;
	pthread_t thread;
	int i;

	for (i = 0; i < 10; i++) {
		ASSERT_EQ(0, pool_new(&pool, SHIFT, BLOCKS, DRAM, BLOCKS, 0));
		ASSERT_EQ(0, pthread_create(&thread, NULL, demote_always, &pool));
		fill(&pool, 0, BLOCKS, 1);
		close(pool.fd);
		EXPECT_EQ(0, check(&pool, 0, BLOCKS, 1));
		pthread_join(thread, NULL);
		munmap(pool.mem, pool.bytes);
	}
	EXPECT_TRUE(same_use(&before));
}

TEST(module_stays_while_in_use)
{
	struct pool pool;
	int fd;

	if (geteuid())
		SKIP(return, "needs root");
	fd = device_open(O_RDONLY);
	EXPECT_TRUE(unload() == -EWOULDBLOCK || unload() == -EBUSY);
	ASSERT_EQ(0, pool_new(&pool, SHIFT, BLOCKS, DRAM, BLOCKS, 0));
	close(fd);
	EXPECT_TRUE(unload() == -EWOULDBLOCK || unload() == -EBUSY);
	fill(&pool, 0, 4, 1);
	close(pool.fd); /* the mapping alone */
	EXPECT_TRUE(unload() == -EWOULDBLOCK || unload() == -EBUSY);
	EXPECT_EQ(0, check(&pool, 0, 4, 1));
	munmap(pool.mem, pool.bytes);
}

/* Owners killed at any moment leave nothing. */
TEST(killed_at_random)
{
	struct use before = in_use();
	uint64_t seed = 4711;
	struct pool pool;
	int i, status;
	pid_t pid;

	for (i = 0; i < 40; i++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			for (;;) {
				if (pool_new(&pool, SHIFT, BLOCKS, DRAM, BLOCKS, 0))
					_exit(1);
				churn(&pool, 200);
				pool_close(&pool);
			}
		}
		usleep((unsigned int)(next_random(&seed) % 60000));
		kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_EQ(SIGKILL, WTERMSIG(status));
	}
	EXPECT_TRUE(same_use(&before));
}

/* One of several users killed: the others' bytes are as they were. */
TEST(one_user_killed)
{
	uint64_t seed = 12;
	struct pool pool;
	int i, status;
	pid_t pid;

	ASSERT_EQ(0, pool_new(&pool, SHIFT, BLOCKS, DRAM, BLOCKS, 0));
	fill(&pool, 0, BLOCKS, 1);
	for (i = 0; i < 30; i++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			for (;;) {
				op(&pool,
				   next_random(&seed) % 2 ? KVTIER_OP_DEMOTE : KVTIER_OP_PROMOTE,
				   next_random(&seed) % (BLOCKS - 8), 8);
				(void)*(volatile char *)at(&pool, next_random(&seed) % BLOCKS);
			}
		}
		usleep((unsigned int)(next_random(&seed) % 40000));
		kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_EQ(0, check(&pool, 0, BLOCKS, 1));
	}
	EXPECT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
	pool_close(&pool);
}

static void ignore(int signal)
{
	(void)signal;
}

/* Signals end long operations; what was not done says EINTR and can be named again. */
TEST(signals)
{
	struct sigaction action = { .sa_handler = ignore };
	struct itimerval often = { .it_interval.tv_usec = 3000, .it_value.tv_usec = 3000 };
	struct itimerval never = { 0 };
	uint64_t interrupted = 0, round;
	int ret;
	struct pool pool;

	ASSERT_EQ(0, pool_new(&pool, SHIFT, BLOCKS, BLOCKS, BLOCKS, 0));
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	for (round = 0; round < 20 || (!interrupted && round < 500); round++) {
		fill(&pool, 0, BLOCKS, round + 1);
		ret = op(&pool, round % 2 ? KVTIER_OP_WRITEBACK : KVTIER_OP_DEMOTE, 0, BLOCKS);
		EXPECT_TRUE(!ret || ret == -EINTR) TH_LOG("%d", ret);
		interrupted += ret == -EINTR;
		EXPECT_EQ(0, check(&pool, 0, BLOCKS, round + 1));
	}
	setitimer(ITIMER_REAL, &never, NULL);
	EXPECT_GT(interrupted, 0);
	EXPECT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, BLOCKS));
	pool_close(&pool);
}

/* Exec closes the descriptor and unmaps the pool. */
TEST(exec)
{
	struct use before = in_use();
	struct pool pool;
	int status;
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid) {
		if (pool_new(&pool, SHIFT, BLOCKS, DRAM, BLOCKS, 0))
			_exit(1);
		fill(&pool, 0, BLOCKS, 1);
		execl("/bin/true", "true", NULL);
		_exit(127);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_TRUE(same_use(&before));
}

KVT_MAIN(NEEDS_STORE)
