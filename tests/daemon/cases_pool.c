// SPDX-License-Identifier: MIT
/* Pools shared by processes. */
#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture.h"

/* Run in a process of its own; 0: it went well. */
static int in_child(int (*run)(void))
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(run());
	CHECK(waitpid(pid, &status, 0) == pid, "waitpid: %m");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int check_and_answer(void)
{
	struct kvt_client *c = client();
	struct kvt_pool *p;
	uint64_t b;

	OK(kvt_shared_attach(c, "shared", "test", &p));
	for (b = 0; b < blocks_of(p); b++)
		if (wrong_words(p, b, 1))
			return 2;
	for (b = 0; b < blocks_of(p); b += 2)
		fill_block(p, b, 2);
	kvt_pool_destroy(p);
	kvt_client_close(c);
	return 0;
}

static void shared(void)
{
	struct kvt_client *c;
	struct kvt_pool *p;
	uint64_t b;

	daemon_start(NULL);
	c = client();
	p = pool(c, "shared", 4 * MIB, 1 * MIB, 0);
	for (b = 0; b < blocks_of(p); b++)
		fill_block(p, b, 1);
	CHECK(!in_child(check_and_answer), "expected the other process to see what this one wrote");
	for (b = 0; b < blocks_of(p); b++)
		CHECK(!wrong_words(p, b, b % 2 ? 1 : 2), "block %llu is not what the other wrote",
		      (unsigned long long)b);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static void budget(void)
{
	struct kvtier_stats st;
	struct kvt_client *c;
	struct kvt_pool *p;
	uint64_t b, round;

	daemon_start(NULL);
	c = client();
	p = pool(c, "small", 8 * MIB, 1 * MIB, 0);
	for (round = 0; round < 3; round++) {
		for (b = 0; b < blocks_of(p); b++) {
			CHECK(!round || !wrong_words(p, b, round - 1), "block %llu of round %llu",
			      (unsigned long long)b, (unsigned long long)round);
			fill_block(p, b, round);
		}
	}
	OK(kvt_stats(p, &st));
	CHECK(st.tier[KVTIER_TIER_DRAM].peak_bytes <= MIB, "expected at most 1 MiB ever, got %llu",
	      (unsigned long long)st.tier[KVTIER_TIER_DRAM].peak_bytes);
	CHECK(st.faults && st.promoted, "expected faults that promote");
	OK(kvt_pool_resize(p, 512 * KIB));
	OK(kvt_stats(p, &st));
	CHECK(st.tier[KVTIER_TIER_DRAM].used_bytes <= 512 * KIB,
	      "expected a budget of 512 KiB to hold");
	for (b = 0; b < blocks_of(p); b++)
		CHECK(!wrong_words(p, b, 2), "block %llu after the budget was lowered",
		      (unsigned long long)b);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* ---- operations -------------------------------------------------------------------------- */

static sigjmp_buf caught;

static void on_bus(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)info, (void)context;
	siglongjmp(caught, 1);
}

static bool store_is_bus(struct kvt_pool *p, uint64_t b)
{
	struct sigaction act = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };

	sigaction(SIGBUS, &act, NULL);
	if (sigsetjmp(caught, 1))
		return true;
	*(volatile char *)((char *)kvt_pool_addr(p) + b * BLOCK) = 1;
	return false;
}

static void operations(void)
{
	struct kvt_client *c;
	struct kvt_pool *p;
	uint64_t b;

	daemon_start(NULL);
	c = client();
	p = pool(c, "ops", 2 * MIB, 1 * MIB, 0);
	for (b = 0; b < 8; b++)
		fill_block(p, b, 1);
	CHECK(state_of(p, 0) == KVTIER_BLOCK_OPEN, "expected an open block");
	OK(kvt_seal(p, 0, 4 * BLOCK));
	CHECK(store_is_bus(p, 1), "expected SIGBUS of a store to a sealed block");
	CHECK(!wrong_words(p, 1, 1), "a sealed block changed");
	OK(kvt_writeback(p, 0, 4 * BLOCK));
	CHECK(state_of(p, 0) == KVTIER_BLOCK_CLEAN, "expected a clean block, got %u",
	      state_of(p, 0));
	OK(kvt_demote(p, 0, 8 * BLOCK));
	CHECK(state_of(p, 0) == KVTIER_BLOCK_COLD && state_of(p, 7) == KVTIER_BLOCK_COLD_OPEN,
	      "expected cold blocks, got %u and %u", state_of(p, 0), state_of(p, 7));
	OK(kvt_promote(p, 0, 8 * BLOCK));
	CHECK(state_of(p, 0) == KVTIER_BLOCK_CLEAN && state_of(p, 7) == KVTIER_BLOCK_OPEN,
	      "expected blocks in memory, got %u and %u", state_of(p, 0), state_of(p, 7));
	for (b = 0; b < 8; b++)
		CHECK(!wrong_words(p, b, 1), "block %llu changed", (unsigned long long)b);
	ERROR(kvt_seal(p, 20 * BLOCK, BLOCK), -ENODATA);
	ERROR(kvt_unpin(p, 0, BLOCK), -EINVAL);
	ERROR(kvt_promote(p, 0, 3 * MIB), -EINVAL);
	OK(kvt_pin(p, 0, BLOCK));
	ERROR(kvt_demote(p, 0, BLOCK), -EBUSY);
	ERROR(kvt_discard(p, 0, BLOCK), -EBUSY);
	ERROR(kvt_pin(p, 0, 2 * MIB), -ENOSPC);
	OK(kvt_unpin(p, 0, BLOCK));
	OK(kvt_discard(p, 0, 8 * BLOCK));
	CHECK(state_of(p, 0) == KVTIER_BLOCK_EMPTY, "expected an empty block");
	for (b = 0; b < BLOCK; b++)
		CHECK(!((volatile char *)kvt_pool_addr(p))[b], "a discarded block is not zeroes");
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* ---- many at once ------------------------------------------------------------------------ */

#define WRITERS 3
#define STEPS 400

/* Each process owns every WRITERSth block and rewrites it; all share the memory. */
static int scramble(uint32_t me)
{
	struct kvt_client *c = client();
	uint64_t versions[256] = { 0 }, x = me + 1;
	struct kvt_pool *p;
	uint32_t i;

	OK(kvt_shared_attach(c, "many", "test", &p));
	for (i = 0; i < STEPS; i++) {
		uint64_t b;

		x = x * 6364136223846793005ull + 1442695040888963407ull;
		b = (x >> 33) % (blocks_of(p) / WRITERS) * WRITERS + me;
		if (versions[b] && wrong_words(p, b, versions[b] * WRITERS + me))
			return 2;
		if (i % 7 == 3)
			kvt_demote(p, b * BLOCK, BLOCK);
		fill_block(p, b, ++versions[b] * WRITERS + me);
	}
	kvt_pool_destroy(p);
	kvt_client_close(c);
	return 0;
}

static void concurrent(void)
{
	struct kvt_client *c;
	struct kvt_pool *p;
	pid_t pids[WRITERS];
	uint32_t i;

	daemon_start(NULL);
	c = client();
	p = pool(c, "many", 192 * BLOCK, 24 * BLOCK, 0);
	for (i = 0; i < WRITERS; i++) {
		pids[i] = fork();
		if (!pids[i])
			_exit(scramble(i));
	}
	for (i = 0; i < WRITERS; i++) {
		int status = 1;

		CHECK(waitpid(pids[i], &status, 0) == pids[i], "waitpid: %m");
		CHECK(!status, "expected no wrong word in process %u, got status %#x", i, status);
	}
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static void killed_client(void)
{
	struct kvt_client *c;
	struct kvt_pool *p;
	uint64_t b, round;

	daemon_start(NULL);
	c = client();
	p = pool(c, "victim", 32 * BLOCK, 8 * BLOCK, 0);
	for (round = 0; round < 4; round++) {
		pid_t pid = fork();

		if (!pid) {
			struct kvt_client *own = client();
			struct kvt_pool *mine;

			OK(kvt_shared_attach(own, "victim", "test", &mine));
			for (;;)
				for (b = 16; b < 32; b++)
					fill_block(mine, b, 9);
		}
		for (b = 0; b < 16; b++)
			fill_block(p, b, round);
		pause_ms(20 + 13 * (unsigned int)round);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		for (b = 0; b < 16; b++)
			CHECK(!wrong_words(p, b, round), "block %llu after a client was killed",
			      (unsigned long long)b);
	}
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* What a pool held is never seen by the next, nor by whoever gets its slots. */
static void zeroed(void)
{
	struct kvt_client *c;
	struct kvt_pool *p;
	uint64_t b, i;

	daemon_start(NULL);
	c = client();
	p = pool(c, "secret", 16 * BLOCK, 4 * BLOCK, KVT_SHARED_KEEP);
	for (b = 0; b < 16; b++)
		fill_block(p, b, 7);
	kvt_pool_destroy(p);
	OK(kvt_shared_remove(c, "secret"));
	ERROR(kvt_shared_attach(c, "secret", "test", &p), -ENOENT);
	p = pool(c, "secret", 16 * BLOCK, 4 * BLOCK, 0);
	for (b = 0; b < 16; b++)
		for (i = 0; i < BLOCK; i += 512)
			CHECK(!((volatile char *)kvt_pool_addr(p))[b * BLOCK + i],
			      "block %llu shows what was there before", (unsigned long long)b);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* ---- many threads in faults -------------------------------------------------------------- */

#define CROWD_BLOCKS 2048u
#define CROWD_FAULTS 16000u

static struct crowd {
	struct kvt_pool *pool;
	uint32_t faults; /* of each */
	uint32_t wrong;
	pthread_barrier_t all;
} crowd;

static void *touch_blocks(void *arg)
{
	uint32_t first = (uint32_t)(uintptr_t)arg * crowd.faults, i;

	pthread_barrier_wait(&crowd.all);
	for (i = 0; i < crowd.faults; i++) {
		uint64_t b = (first + i) * 1031u % CROWD_BLOCKS;
		const volatile uint64_t *w =
			(void *)((char *)kvt_pool_addr(crowd.pool) + b * BLOCK);

		if (w[0] != word_of(b, 1, 0) || w[BLOCK / 8 - 1] != word_of(b, 1, BLOCK / 8 - 1))
			__atomic_add_fetch(&crowd.wrong, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* CPU time of the daemon for each of so many faults of so many threads, us. */
static double crowd_of(uint32_t nr)
{
	pthread_t *threads = calloc(nr, sizeof(*threads));
	double begun = daemon_cpu_s();
	pthread_attr_t attr;
	uint32_t i;

	CHECK(threads && !pthread_attr_init(&attr) && !pthread_barrier_init(&crowd.all, NULL, nr),
	      "no memory for threads");
	pthread_attr_setstacksize(&attr, 64 * KIB);
	crowd.faults = CROWD_FAULTS / nr;
	for (i = 0; i < nr; i++)
		CHECK(!pthread_create(&threads[i], &attr, touch_blocks, (void *)(uintptr_t)i),
		      "thread %u", i);
	for (i = 0; i < nr; i++)
		pthread_join(threads[i], NULL);
	pthread_attr_destroy(&attr);
	pthread_barrier_destroy(&crowd.all);
	free(threads);
	return (daemon_cpu_s() - begun) * 1e6 / CROWD_FAULTS;
}

/* Each gets its block, and none costs more because others wait too. */
static void waiting_threads(void)
{
	struct kvt_client *c;
	uint64_t b;

	daemon_start(NULL);
	c = client();
	crowd.pool = pool(c, "crowd", CROWD_BLOCKS * BLOCK, 64 * BLOCK, 0);
	for (b = 0; b < CROWD_BLOCKS; b++)
		fill_block(crowd.pool, b, 1);
	OK(kvt_demote(crowd.pool, 0, CROWD_BLOCKS * BLOCK));
	figure("fault.cpu_100_threads", crowd_of(100), "us");
	figure("fault.cpu_2000_threads", crowd_of(2000), "us");
	CHECK(!crowd.wrong, "expected what was written, %u blocks are wrong", crowd.wrong);
	kvt_pool_destroy(crowd.pool);
	kvt_client_close(c);
}

const struct test_case pool_cases[] = {
	{ "shared", "two processes see each other's writes", shared, false },
	{ "budget", "a pool larger than its memory, which is never exceeded", budget, false },
	{ "operations", "range operations in each state", operations, false },
	{ "concurrent", "three processes write to one pool under pressure", concurrent, false },
	{ "killed_client", "a client killed at work harms nobody", killed_client, false },
	{ "zeroed", "nothing of a pool is seen by the next", zeroed, false },
	{ "waiting_threads", "two thousand threads wait in faults, and each costs the same",
	  waiting_threads, false },
	{ 0 },
};
