// SPDX-License-Identifier: MIT
/* What one program may take of the host, beyond the budgets that it asked for. */
#include <dirent.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "test.h"

#define HELD 8 /* blocks; a pipe has room for a page of each */

static bool wait_until(bool (*done)(const void *arg), const void *arg, uint64_t ms)
{
	uint64_t until = now_ms() + ms;

	while (!done(arg)) {
		if (now_ms() > until)
			return false;
		usleep(20000);
	}
	return true;
}

/* A page of each block, in a pipe. */
static int hold(struct pool *pool, uint64_t first, uint64_t nr, int to)
{
	struct iovec part = { .iov_len = 4096 };
	uint64_t i;

	for (i = first; i < first + nr; i++) {
		part.iov_base = at(pool, i);
		if (vmsplice(to, &part, 1, 0) != 4096)
			return -errno;
	}
	return 0;
}

static int let_go(int from, int nr)
{
	char page[4096];

	while (nr--) {
		if (read(from, page, sizeof(page)) != sizeof(page))
			return -errno;
	}
	return 0;
}

/* ---- memory that somebody holds ---------------------------------------------------- */

FIXTURE(held)
{
	int pipe[2];
	long long used, claimed, limit;
};

FIXTURE_VARIANT(held)
{
	uint32_t shift;
};

FIXTURE_VARIANT_ADD(held, small)
{
	.shift = SHIFT,
};

FIXTURE_VARIANT_ADD(held, huge)
{
	.shift = HUGE_SHIFT,
};

#define DRAM_USED KVT_CLASS "dram/used_bytes"
#define DRAM_CLAIMED KVT_CLASS "dram/claimed_bytes"
#define DRAM_LIMIT KVT_CLASS "dram/limit_bytes"

FIXTURE_SETUP(held)
{
	ASSERT_EQ(0, pipe(self->pipe));
	self->used = attr_number(DRAM_USED);
	self->claimed = attr_number(DRAM_CLAIMED);
	self->limit = attr_number(DRAM_LIMIT);
}

FIXTURE_TEARDOWN(held)
{
	attr_writef(DRAM_LIMIT, "%lld", self->limit);
	close(self->pipe[0]);
	close(self->pipe[1]);
}

static bool is_used(const void *bytes)
{
	return attr_number(DRAM_USED) == *(const long long *)bytes;
}

/* A pool that goes leaves the host's limit no freer than its memory. */
TEST_F(held, after_the_pool_has_gone)
{
	long long bytes = (long long)HELD << variant->shift;
	struct pool pool, next;

	ASSERT_EQ(0, pool_new(&pool, variant->shift, HELD, HELD, 0, 0));
	fill(&pool, 0, HELD, 1);
	ASSERT_EQ(0, hold(&pool, 0, HELD, self->pipe[1]));
	pool_close(&pool);
	EXPECT_EQ(self->used + bytes, attr_number(DRAM_USED));
	EXPECT_EQ(self->claimed + bytes, attr_number(DRAM_CLAIMED));
	ASSERT_EQ(0, attr_writef(DRAM_LIMIT, "%lld", self->claimed + bytes));
	EXPECT_EQ(-ENOSPC, pool_new(&next, variant->shift, HELD, HELD, 0, 0));
	ASSERT_EQ(0, let_go(self->pipe[0], HELD));
	EXPECT_EQ(0, pool_new(&next, variant->shift, HELD, HELD, 0, 0));
	pool_close(&next);
	EXPECT_TRUE(wait_until(is_used, &self->used, 20000));
	EXPECT_EQ(self->claimed, attr_number(DRAM_CLAIMED));
}

/* Those that are let go of while the pool lives are its own again. */
TEST_F(held, some_are_let_go_of_before)
{
	long long left = self->used + ((long long)(HELD / 2) << variant->shift);
	struct pool pool;

	ASSERT_EQ(0, pool_new(&pool, variant->shift, HELD, HELD, 0, 0));
	fill(&pool, 0, HELD, 1);
	ASSERT_EQ(0, hold(&pool, 0, HELD, self->pipe[1]));
	ASSERT_EQ(0, let_go(self->pipe[0], HELD / 2));
	pool_close(&pool);
	EXPECT_EQ(left, attr_number(DRAM_USED));
	ASSERT_EQ(0, let_go(self->pipe[0], HELD / 2));
	EXPECT_TRUE(wait_until(is_used, &self->used, 20000));
	EXPECT_EQ(self->claimed, attr_number(DRAM_CLAIMED));
}

/* A frame that a block leaves behind with somebody is one less for the pool. */
TEST_F(held, after_a_copy)
{
	struct pool pool;
	uint64_t i;

	ASSERT_EQ(0, pool_new(&pool, variant->shift, HELD, HELD, 0, KVTIER_POOL_NO_PREDICT));
	for (i = 0; i < HELD - 1; i++) {
		fill(&pool, 0, 1, i);
		ASSERT_EQ(0, clone_blocks(&pool, 1, &pool, 0, 1));
		ASSERT_EQ(0, hold(&pool, 0, 1, self->pipe[1]));
		ASSERT_EQ(0, op(&pool, KVTIER_OP_DISCARD, 1, 1));
		fill(&pool, 0, 1, i + 1); /* in a copy */
		EXPECT_EQ(i + 2, used_blocks(&pool, KVTIER_TIER_DRAM));
	}
	ASSERT_EQ(0, let_go(self->pipe[0], HELD - 1));
	fill(&pool, 1, HELD - 1, 1); /* which all of the budget is needed for */
	EXPECT_EQ(0, check(&pool, 0, 1, HELD - 1));
	EXPECT_EQ(0, check(&pool, 1, HELD - 1, 1));
	pool_close(&pool);
	EXPECT_EQ(self->used, attr_number(DRAM_USED));
}

/* ---- threads ------------------------------------------------------------------------- */

/* Of the kernel, at work for this pool now: who has a queue's work says so in its name. */
static int threads_of(const struct pool *pool)
{
	char path[300], name[64], wanted[32];
	struct dirent *entry;
	DIR *dir = opendir("/proc");
	int nr = 0;
	FILE *f;

	snprintf(wanted, sizeof(wanted), "+kvtier-%u", pool->id);
	while (dir && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		f = fopen(path, "r");
		nr += f && fgets(name, sizeof(name), f) && strstr(name, wanted);
		if (f)
			fclose(f);
	}
	if (dir)
		closedir(dir);
	return nr;
}

static bool are_many(const void *pool)
{
	return threads_of(pool) >= 8;
}

static bool has_left(const void *pool)
{
	return info((struct pool *)pool, 8).tier == KVTIER_TIER_DRAM;
}

/* Half of the frames are pinned, the others held: what brings blocks in has to wait. */
static int crowd(struct pool *pool, int to)
{
	int ret;

	fill(pool, 0, 16, 1);
	ret = op(pool, KVTIER_OP_PIN, 0, 4);
	if (!ret)
		ret = op(pool, KVTIER_OP_PROMOTE, 4, 4);
	return ret ? ret : hold(pool, 4, 4, to);
}

/* Operations that wait take few threads, and do not keep those waiting that help them. */
TEST(queued)
{
	struct kvtier_pool_create request = pool_request(SHIFT, 16, 8, 16);
	struct pool pool;
	int fds[2], i;

	request.io_deadline_ms = 120000;
	request.flags = KVTIER_POOL_NO_PREDICT;
	ASSERT_EQ(0, pipe(fds));
	ASSERT_EQ(0, pool_open(&pool, &request));
	ASSERT_EQ(0, crowd(&pool, fds[1]));
	for (i = 0; i < 200; i++)
		ASSERT_EQ(0, op_flags(&pool, KVTIER_OP_PROMOTE, KVTIER_OP_NOWAIT, 8, 1));
	EXPECT_TRUE(wait_until(are_many, &pool, 30000));
	sleep(1);
	EXPECT_LE(threads_of(&pool), 64);
	EXPECT_EQ(KVTIER_TIER_NVME, info(&pool, 8).tier);
	ASSERT_EQ(0, op_flags(&pool, KVTIER_OP_UNPIN, KVTIER_OP_NOWAIT, 0, 1));
	EXPECT_TRUE(wait_until(has_left, &pool, 60000));
	EXPECT_EQ(0, check(&pool, 8, 1, 1));
	pool_close(&pool);
	close(fds[0]);
	close(fds[1]);
}

/* ---- pools ------------------------------------------------------------------------------ */

#define MAX_POOLS KVT_CLASS "policy/max_pools"

static int count_pools(void)
{
	struct dirent *entry;
	DIR *dir = opendir(KVT_CLASS);
	int nr = 0;

	while (dir && (entry = readdir(dir)))
		nr += !strncmp(entry->d_name, "pool", 4);
	if (dir)
		closedir(dir);
	return nr;
}

/* As another user; the exit status says what came of it. */
static int create_as(uid_t uid, int fd, struct kvtier_pool_create *request)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		if (setuid(uid))
			_exit(255);
		_exit(-call(fd, KVTIER_IOC_POOL_CREATE, request));
	}
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? -WEXITSTATUS(status) :
								      -ECHILD;
}

/* It does not bind who has CAP_SYS_RESOURCE, as this test has. */
TEST(pools_of_a_user)
{
	struct kvtier_pool_create request = pool_request(SHIFT, 1, 1, 0);
	long long old = attr_number(MAX_POOLS);
	int fd = device_open(O_RDWR), more = device_open(O_RDWR);
	struct pool one, two;

	ASSERT_LE(0, fd);
	ASSERT_LE(0, more);
	EXPECT_EQ(-EINVAL, attr_write(MAX_POOLS, "0"));
	ASSERT_EQ(0, attr_write(MAX_POOLS, "1"));
	EXPECT_EQ(0, create_as(65534, fd, &request));
	EXPECT_EQ(-EMFILE, create_as(65534, more, &request));
	ASSERT_EQ(0, pool_open(&one, &request));
	ASSERT_EQ(0, pool_open(&two, &request));
	pool_close(&one);
	pool_close(&two);
	close(fd);
	EXPECT_EQ(0, create_as(65534, more, &request));
	close(more);
	EXPECT_EQ(0, attr_writef(MAX_POOLS, "%lld", old));
}

/* One file becomes one pool, however many threads ask for that at once. */
#define CREATORS 8

struct creator {
	pthread_barrier_t *barrier;
	int fd, result;
};

static void *create_at_once(void *arg)
{
	struct kvtier_pool_create request = pool_request(SHIFT, 4, 4, 0);
	struct creator *c = arg;

	pthread_barrier_wait(c->barrier);
	c->result = call(c->fd, KVTIER_IOC_POOL_CREATE, &request);
	return NULL;
}

TEST(one_pool_of_a_file)
{
	struct creator creators[CREATORS];
	int round, i, made, before = count_pools();
	pthread_t threads[CREATORS];
	pthread_barrier_t barrier;

	pthread_barrier_init(&barrier, NULL, CREATORS);
	for (round = 0; round < 20; round++) {
		int fd = device_open(O_RDWR);

		ASSERT_LE(0, fd);
		for (i = 0; i < CREATORS; i++) {
			creators[i] = (struct creator){ .barrier = &barrier, .fd = fd };
			ASSERT_EQ(0,
				  pthread_create(&threads[i], NULL, create_at_once, &creators[i]));
		}
		for (made = 0, i = 0; i < CREATORS; i++) {
			pthread_join(threads[i], NULL);
			made += !creators[i].result;
			EXPECT_TRUE(!creators[i].result || creators[i].result == -EEXIST);
		}
		EXPECT_EQ(1, made);
		EXPECT_EQ(before + 1, count_pools());
		close(fd);
		EXPECT_EQ(before, count_pools());
	}
	pthread_barrier_destroy(&barrier);
}

/* ---- mappings ---------------------------------------------------------------------------- */

#define SCAN_PERIOD KVT_CLASS "policy/scan_period_ms"
#define BLOCKS 32
#define MAPPINGS 32

/* Of blocks of 2 MiB, where each is in the page tables page by page. */
static char *map_askew(struct pool *pool)
{
	char *place = reserve(pool->bytes + 4096);

	if (!place)
		return MAP_FAILED;
	return mmap(place + 4096, pool->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		    pool->fd, 0);
}

static bool are_told_apart(const void *arg)
{
	struct pool *pool = (struct pool *)arg;
	uint64_t i;

	for (i = 0; i < BLOCKS / 2; i++)
		try_read(at(pool, i));
	return info(pool, 0).heat >= 64 && info(pool, BLOCKS - 1).heat == 0;
}

/* A scan that does not end in time goes on where it was, and sees what the last mapping sees. */
TEST(heat_of_many_mappings)
{
	long long period = attr_number(SCAN_PERIOD);
	static char *maps[MAPPINGS];
	struct pool pool;
	uint64_t i, m;

	ASSERT_EQ(0, pool_new(&pool, HUGE_SHIFT, BLOCKS, BLOCKS, 0, KVTIER_POOL_NO_PREDICT));
	munmap(pool.mem, pool.bytes);
	for (m = 0; m < MAPPINGS; m++) {
		maps[m] = map_askew(&pool);
		ASSERT_NE(MAP_FAILED, (void *)maps[m]);
		for (i = 0; i < BLOCKS; i++)
			ASSERT_EQ(0, try_read(maps[m] + i * pool.block));
	}
	pool.mem = maps[MAPPINGS - 1];
	ASSERT_EQ(0, attr_write(SCAN_PERIOD, "20"));
	EXPECT_TRUE(wait_until(are_told_apart, &pool, 300000));
	EXPECT_EQ(0, attr_writef(SCAN_PERIOD, "%lld", period));
	for (m = 0; m < MAPPINGS; m++)
		munmap(maps[m], pool.bytes);
	close(pool.fd);
}

KVT_MAIN(NEEDS_STORE | NEEDS_ROOT)
