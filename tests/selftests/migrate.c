// SPDX-License-Identifier: MIT
/*
 * migrate [COUNT]: blocks move among the tiers while four processes write to them and
 * four read them, until COUNT migrations are done (default 5000); every byte is
 * checked.  Each writer owns every fourth page of every block.  It says
 * in the board, under a sequence count, what it has written there, checks it before
 * it writes again, and readers check what they read against the board.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attr.h"
#include "fixture.h"

#define WRITERS 4
#define READERS 4
#define MOVERS 2
#define BLOCKS 96
#define DRAM 24
#define CXL 24
#define PAGE 4096
#define PAGES (BLOCKS << (SHIFT - 12))
#define WORDS (PAGE / 8)
#define DEFAULT_COUNT 5000

struct page_state {
	_Atomic uint32_t sequence; /* odd: being written */
	_Atomic uint64_t stamp; /* 0: never written */
};

static struct board {
	atomic_bool stop;
	_Atomic uint64_t wrong; /* bytes */
	_Atomic uint64_t writes, reads;
	_Atomic uint64_t refused; /* operations that may fail, and did */
	_Atomic uint64_t errors; /* operations that failed as they must not */
	struct page_state page[PAGES];
} *board;

static struct pool pool;

static uint64_t wrong_bytes(const volatile uint64_t *page, uint64_t number, uint64_t stamp)
{
	uint64_t i, want, wrong = 0;

	for (i = 0; i < WORDS; i++) {
		want = stamp ? word_of(number * PAGE + i * 8, stamp) : 0;
		wrong += page[i] != want ? 8 : 0;
	}
	return wrong;
}

static void say_wrong(const char *who, uint64_t number, uint64_t stamp, uint64_t wrong)
{
	if (atomic_fetch_add(&board->wrong, wrong) < 64)
		printf("# %s: page %llu of stamp %llu: %llu bytes are wrong\n", who,
		       (unsigned long long)number, (unsigned long long)stamp,
		       (unsigned long long)wrong);
	fflush(stdout);
}

static void write_page(char *mem, uint64_t number, uint64_t stamp)
{
	struct page_state *state = &board->page[number];
	volatile uint64_t *page = (uint64_t *)(mem + number * PAGE);
	uint64_t i, wrong = wrong_bytes(page, number, atomic_load(&state->stamp));

	if (wrong)
		say_wrong("writer", number, atomic_load(&state->stamp), wrong);
	atomic_fetch_add(&state->sequence, 1);
	for (i = 0; i < WORDS; i++)
		page[i] = word_of(number * PAGE + i * 8, stamp);
	atomic_store(&state->stamp, stamp);
	atomic_fetch_add(&state->sequence, 1);
}

static void read_page(char *mem, uint64_t number)
{
	struct page_state *state = &board->page[number];
	uint32_t before = atomic_load(&state->sequence);
	uint64_t stamp = atomic_load(&state->stamp), wrong;

	if (before & 1)
		return;
	wrong = wrong_bytes((uint64_t *)(mem + number * PAGE), number, stamp);
	if (wrong && atomic_load(&state->sequence) == before)
		say_wrong("reader", number, stamp, wrong);
}

/* Half of them by a mapping of their own, at another address. */
static char *own_mapping(int number)
{
	char *mem = pool.mem;

	if (number % 2) {
		mem = map_aligned(pool.fd, pool.bytes, PROT_READ | PROT_WRITE);
		munmap(pool.mem, pool.bytes);
	}
	return mem == MAP_FAILED ? NULL : mem;
}

static int write_always(int number)
{
	uint64_t seed = 0x1234567 + (uint64_t)number, page;
	char *mem = own_mapping(number);

	if (!mem)
		return 1;
	while (!atomic_load(&board->stop)) {
		page = next_random(&seed) % (PAGES / WRITERS) * WRITERS + (uint64_t)number;
		write_page(mem, page, next_random(&seed) | 1);
		atomic_fetch_add(&board->writes, 1);
	}
	return 0;
}

static int read_always(int number)
{
	uint64_t seed = 0x7654321 + (uint64_t)number;
	char *mem = own_mapping(number);

	if (!mem)
		return 1;
	while (!atomic_load(&board->stop)) {
		read_page(mem, next_random(&seed) % PAGES);
		atomic_fetch_add(&board->reads, 1);
	}
	return 0;
}

/* ---- the movers ------------------------------------------------------------------ */

/* Where to, for each operation; the tier CXL is left out where there is none. */
static const struct {
	uint32_t which, tier;
} moves[] = {
	{ KVTIER_OP_DEMOTE, KVTIER_TIER_NONE },	 { KVTIER_OP_DEMOTE, KVTIER_TIER_NVME },
	{ KVTIER_OP_PROMOTE, KVTIER_TIER_NONE }, { KVTIER_OP_PROMOTE, KVTIER_TIER_DRAM },
	{ KVTIER_OP_WRITEBACK, KVTIER_TIER_NONE }, { KVTIER_OP_COLD, KVTIER_TIER_NONE },
	{ KVTIER_OP_DEMOTE, KVTIER_TIER_CXL },	 { KVTIER_OP_PROMOTE, KVTIER_TIER_CXL },
};

static bool has_cxl;

static void *move_always(void *arg)
{
	uint64_t seed = (uintptr_t)arg, first, nr, i;
	int ret;

	while (!atomic_load(&board->stop)) {
		i = next_random(&seed) % (has_cxl ? 8 : 6);
		first = next_random(&seed) % BLOCKS;
		nr = 1 + next_random(&seed) % 8;
		if (nr > BLOCKS - first)
			nr = BLOCKS - first;
		ret = op_to(&pool, moves[i].which, moves[i].tier, first, nr);
		if (ret == -ENOSPC || ret == -EBUSY) {
			atomic_fetch_add(&board->refused, 1);
		} else if (ret) {
			printf("# operation %u to tier %u: %s\n", moves[i].which, moves[i].tier,
			       strerror(-ret));
			atomic_fetch_add(&board->errors, 1);
		}
	}
	return NULL;
}

/* Into memory, between its tiers, and out of it. */
static uint64_t migrations(void)
{
	struct kvtier_stats s = stats(&pool);

	return (s.tier[KVTIER_TIER_DRAM].bytes_in + s.tier[KVTIER_TIER_CXL].bytes_in) / pool.block +
	       s.demoted;
}

/* ---- from beginning to end ---------------------------------------------------------- */

static int make_pool(void)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, BLOCKS);

	has_cxl = cxl_node() >= 0;
	if (has_cxl)
		request.budget[KVTIER_TIER_CXL].bytes = CXL << SHIFT;
	return pool_open(&pool, &request);
}

static void start(pid_t *pids)
{
	int i;

	fflush(stdout);
	for (i = 0; i < WRITERS + READERS; i++) {
		pids[i] = fork();
		if (pids[i])
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(i < WRITERS ? write_always(i) : read_always(i - WRITERS));
	}
}

static int finish(const pid_t *pids)
{
	int i, status, bad = 0;

	atomic_store(&board->stop, true);
	for (i = 0; i < WRITERS + READERS; i++) {
		if (waitpid(pids[i], &status, 0) != pids[i] || status) {
			printf("# %s %d ended with status %#x\n", i < WRITERS ? "writer" : "reader",
			       i, status);
			bad = 1;
		}
	}
	return bad;
}

static void check_all(void)
{
	uint64_t i, wrong;

	for (i = 0; i < PAGES; i++) {
		wrong = wrong_bytes((uint64_t *)(pool.mem + i * PAGE), i,
				    atomic_load(&board->page[i].stamp));
		if (wrong)
			say_wrong("the end", i, atomic_load(&board->page[i].stamp), wrong);
	}
}

static int verdict(int bad)
{
	struct kvtier_stats s = stats(&pool);

	bad |= s.crc_errors || s.bad_blocks;
	bad |= s.tier[KVTIER_TIER_DRAM].peak_bytes > DRAM << SHIFT;
	bad |= atomic_load(&board->wrong) || atomic_load(&board->errors);
	bad |= !atomic_load(&board->writes) || !atomic_load(&board->reads);
	printf("# %llu pages written, %llu read, %llu operations refused\n",
	       (unsigned long long)board->writes, (unsigned long long)board->reads,
	       (unsigned long long)board->refused);
	figure("kmod.migrations", (double)migrations(), "count");
	figure_of("kmod.wrong_bytes", (double)board->wrong, "bytes", 0);
	printf("%sok 1 %llu blocks moved under %d writers and %d readers\n", bad ? "not " : "",
	       (unsigned long long)migrations(), WRITERS, READERS);
	return bad;
}

int main(int argc, char **argv)
{
	uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : DEFAULT_COUNT;
	pthread_t movers[MOVERS];
	pid_t pids[WRITERS + READERS];
	uintptr_t i;
	int bad;

	require(NEEDS_STORE);
	printf("TAP version 13\n1..1\n");
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	if (!count || board == MAP_FAILED || make_pool()) {
		printf("not ok 1 expected a count and a pool, got none\n");
		return 1;
	}
	start(pids);
	for (i = 0; i < MOVERS; i++)
		pthread_create(&movers[i], NULL, move_always, (void *)(i + 99));
	while (migrations() < count && !atomic_load(&board->wrong) && !atomic_load(&board->errors))
		usleep(20000);
	bad = finish(pids);
	for (i = 0; i < MOVERS; i++)
		pthread_join(movers[i], NULL);
	check_all();
	return verdict(bad);
}
