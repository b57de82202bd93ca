// SPDX-License-Identifier: MIT
/* Description: blocks fetched for a reader: all of them come, right, once, and within the budget. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fetch.h"
#include "pool.h"
#include "pool_bed.h"
#include "unit.h"

#define BLOCKS 64
#define FRAMES 16
#define BLOCK_BYTES (64u << 10)
#define ROUNDS 6
#define CROWD 1200
#define SHORT_MS 2000 /* a deadline that a test waits for */

struct bed {
	struct kvt_pool *pool;
	struct kvt_fetch *fetch;
	char dir[BED_DIR];
};

static uint64_t word(uint64_t at)
{
	return at * 0x9e3779b97f4a7c15ull + 1;
}

static void fill(struct kvt_pool *pool)
{
	uint64_t *words = kvt_pool_addr(pool), i;

	for (i = 0; i < kvt_pool_bytes(pool) / 8; i++)
		words[i] = word(i);
}

static int make_bed(void **state, uint32_t deadline_ms)
{
	struct bed *t = calloc(1, sizeof(*t));
	struct kvt_config config;

	*state = t;
	if (!t || !bed_folder(t->dir, "fetch"))
		return -1;
	config = bed_config(t->dir, BLOCKS, FRAMES, BLOCK_BYTES);
	config.io_deadline_ms = deadline_ms;
	if (kvt_pool_create(&config, &t->pool))
		return 0; /* the tests skip */
	fill(t->pool);
	return kvt_fetch_open(t->pool, 4, &t->fetch);
}

static int set_up(void **state)
{
	return make_bed(state, 0);
}

static int set_up_short(void **state)
{
	return make_bed(state, SHORT_MS);
}

static int tear_down(void **state)
{
	struct bed *t = *state;

	kvt_fetch_close(t->fetch);
	kvt_pool_destroy(t->pool);
	rmdir(t->dir);
	free(t);
	return 0;
}

static void ask(struct bed *t, uint32_t first, uint32_t nr, uint32_t nr_ahead, bool mapped)
{
	struct kvt_want wants[2 * BLOCKS];
	uint32_t i;

	for (i = 0; i < nr + nr_ahead; i++)
		wants[i] = (struct kvt_want){ .block = (first + i) % BLOCKS, .mapped = mapped };
	t->fetch->ops->want(t->fetch, wants, nr, wants + nr, nr_ahead);
}

static void check_block(const struct kvt_arrival *a)
{
	const uint64_t *words = (const uint64_t *)a->addr;
	uint64_t first = (uint64_t)a->block * (BLOCK_BYTES / 8), i;

	for (i = 0; i < BLOCK_BYTES / 8; i++)
		assert_int_equal(words[i], word(first + i));
}

/* Takes @nr blocks from @first on, in any order; returns how many came from NVMe. */
static uint32_t take_all(struct bed *t, uint32_t first, uint32_t nr, bool mapped)
{
	bool seen[BLOCKS] = { false };
	uint32_t i, streamed = 0;

	for (i = 0; i < nr; i++) {
		struct kvt_arrival a;

		assert_int_equal(t->fetch->ops->take(t->fetch, &a, true), 1);
		assert_int_equal(a.error, 0);
		assert_true((a.block + BLOCKS - first) % BLOCKS < nr);
		assert_false(seen[a.block]);
		seen[a.block] = true;
		if (mapped)
			assert_ptr_equal(a.addr, (char *)kvt_pool_addr(t->pool) +
							 (size_t)a.block * BLOCK_BYTES);
		check_block(&a);
		streamed += a.streamed;
		t->fetch->ops->done(t->fetch, &a, !a.streamed);
	}
	return streamed;
}

static struct kvtier_stats stats(struct bed *t)
{
	struct kvtier_stats s;

	assert_int_equal(kvt_stats(t->pool, &s), 0);
	assert_true(s.tier[KVTIER_TIER_DRAM].peak_bytes <= (uint64_t)FRAMES * BLOCK_BYTES);
	assert_int_equal(s.crc_errors, 0);
	return s;
}

static void scan(struct bed *t, bool mapped)
{
	uint32_t round, first, streamed = 0;

	for (round = 0; round < ROUNDS; round++) {
		streamed = 0;
		for (first = 0; first < BLOCKS; first += 8) {
			ask(t, first, 8, 8, mapped);
			streamed += take_all(t, first, 8, mapped);
		}
		stats(t);
	}
	/* What is not streamed through the window stays. */
	assert_true(streamed >= BLOCKS - FRAMES);
	assert_true(streamed < BLOCKS);
}

/* A cyclic scan leaves a fixed part in memory; leased blocks are neither moved nor mapped. */
static void leases(void **state)
{
	struct bed *t = *state;
	struct kvtier_stats before, after;

	if (!t->pool)
		skip();
	before = stats(t);
	scan(t, false);
	after = stats(t);
	assert_int_equal(after.faults, before.faults);
	assert_int_equal(after.written_blocks - before.written_blocks <= BLOCKS, 1);
}

static void mapped(void **state)
{
	struct bed *t = *state;

	if (!t->pool)
		skip();
	scan(t, true);
}

/* What is held is not demoted or discarded; a fault on a lease waits for its end. */
static void holds(void **state)
{
	struct bed *t = *state;
	struct kvt_arrival a;
	const char *own;

	if (!t->pool)
		skip();
	assert_int_equal(kvt_demote(t->pool, 0, BLOCK_BYTES), 0);
	ask(t, 0, 1, 0, false);
	assert_int_equal(t->fetch->ops->take(t->fetch, &a, true), 1);
	assert_true(a.streamed);
	own = kvt_pool_addr(t->pool);
	assert_ptr_not_equal(a.addr, own);
	assert_int_equal(kvt_demote(t->pool, 0, BLOCK_BYTES), -EBUSY);
	check_block(&a);
	t->fetch->ops->done(t->fetch, &a, false);
	assert_int_equal(memcmp(own, &(uint64_t){ word(0) }, 8), 0);
	assert_int_equal(kvt_demote(t->pool, 0, BLOCK_BYTES), 0);
}

/* Steps that never come, in a pool that others use by touch. */
static void stale(void **state)
{
	struct bed *t = *state;
	uint32_t i;

	if (!t->pool)
		skip();
	for (i = 0; i < 200; i++) {
		uint32_t first = (i * 37) % BLOCKS;
		const uint64_t *words = kvt_pool_addr(t->pool);
		uint64_t at = (uint64_t)((i * 11) % BLOCKS) * (BLOCK_BYTES / 8);

		ask(t, first, 3, 5, i & 1);
		assert_int_equal(words[at], word(at));
		take_all(t, first, 3, i & 1);
	}
	stats(t);
}

/* Pinned while a reader has it: giving it back must not take it away. */
static void pinned(void **state)
{
	struct bed *t = *state;
	struct kvtier_block_info info;
	struct kvt_arrival a;

	if (!t->pool)
		skip();
	assert_int_equal(kvt_demote(t->pool, 0, BLOCK_BYTES), 0);
	ask(t, 0, 1, 0, true);
	assert_int_equal(t->fetch->ops->take(t->fetch, &a, true), 1);
	assert_true(a.streamed);
	assert_int_equal(kvt_pin(t->pool, 0, BLOCK_BYTES), 0);
	t->fetch->ops->done(t->fetch, &a, false);
	/* The second answer comes after what was given back has been taken. */
	assert_int_equal(kvt_query(t->pool, 0, 1, &info), 0);
	assert_int_equal(kvt_query(t->pool, 0, 1, &info), 0);
	assert_int_equal(info.tier, KVTIER_TIER_DRAM);
	assert_true(info.flags & KVTIER_BLOCKF_MAPPED);
	assert_true(info.flags & KVTIER_BLOCKF_PINNED);
	assert_int_equal(kvt_unpin(t->pool, 0, BLOCK_BYTES), 0);
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Take every frame there is: a fetch of its own, whose blocks are not given back. */
static struct kvt_fetch *hold_all(struct bed *t, struct kvt_arrival *held, uint32_t *nr)
{
	struct kvt_fetch *other;
	uint32_t i;

	assert_int_equal(kvt_demote(t->pool, 0, kvt_pool_bytes(t->pool)), 0);
	assert_int_equal(kvt_fetch_open(t->pool, FRAMES, &other), 0);
	for (i = 0; i < FRAMES; i++) {
		other->ops->want(other, &(struct kvt_want){ .block = i }, 1, NULL, 0);
		if (i >= other->window)
			other->ops->starve(other);
		assert_int_equal(other->ops->take(other, &held[i], true), 1);
		if (held[i].error)
			break;
	}
	*nr = i;
	return other;
}

static void release_all(struct kvt_fetch *other, struct kvt_arrival *held, uint32_t nr)
{
	uint32_t i;

	for (i = 0; i < nr; i++) {
		check_block(&held[i]);
		other->ops->done(other, &held[i], false);
	}
	kvt_fetch_close(other);
}

/* No frame for any of them: all fail after one deadline, not after one each. */
static void no_room(void **state)
{
	struct bed *t = *state;
	struct kvt_arrival held[FRAMES], a;
	struct kvt_fetch *other;
	uint32_t i, nr;
	uint64_t begin;

	if (!t->pool)
		skip();
	other = hold_all(t, held, &nr);
	begin = now_ms();
	ask(t, FRAMES, BLOCKS - FRAMES, 0, false);
	for (i = 0; i < BLOCKS - FRAMES; i++) {
		assert_int_equal(t->fetch->ops->take(t->fetch, &a, true), 1);
		assert_int_equal(a.error, -ETIMEDOUT);
	}
	assert_true(now_ms() - begin < 10 * SHORT_MS);
	release_all(other, held, nr);
	ask(t, 0, BLOCKS / 2, 0, false);
	take_all(t, 0, BLOCKS / 2, false);
}

struct reader {
	struct bed *bed;
	uint64_t at; /* word */
	bool right;
};

static void *read_word(void *arg)
{
	struct reader *r = arg;
	const volatile uint64_t *words = kvt_pool_addr(r->bed->pool);

	r->right = words[r->at] == word(r->at);
	return NULL;
}

/* More threads in faults than anybody planned for: commands go on, and all are served in the end. */
static void crowd(void **state)
{
	struct bed *t = *state;
	static struct reader readers[CROWD];
	static pthread_t threads[CROWD];
	struct kvt_arrival held[FRAMES];
	struct kvt_fetch *other;
	struct kvtier_stats s;
	pthread_attr_t small;
	uint32_t i, nr, made;

	if (!t->pool)
		skip();
	other = hold_all(t, held, &nr);
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 128u << 10);
	for (made = 0; made < CROWD; made++) {
		uint64_t block = FRAMES + made % (BLOCKS - FRAMES);

		readers[made] = (struct reader){ .bed = t, .at = block * (BLOCK_BYTES / 8) + made };
		if (pthread_create(&threads[made], &small, read_word, &readers[made]))
			break; /* as many as may be made here */
	}
	for (i = 0; i < 5; i++) {
		assert_int_equal(kvt_stats(t->pool, &s), 0);
		usleep(20000);
	}
	release_all(other, held, nr);
	for (i = 0; i < made; i++) {
		assert_int_equal(pthread_join(threads[i], NULL), 0);
		assert_true(readers[i].right);
	}
	pthread_attr_destroy(&small);
	stats(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(leases, set_up, tear_down),
		cmocka_unit_test_setup_teardown(mapped, set_up, tear_down),
		cmocka_unit_test_setup_teardown(holds, set_up, tear_down),
		cmocka_unit_test_setup_teardown(stale, set_up, tear_down),
		cmocka_unit_test_setup_teardown(pinned, set_up, tear_down),
		cmocka_unit_test_setup_teardown(crowd, set_up, tear_down),
		cmocka_unit_test_setup_teardown(no_room, set_up_short, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
