// SPDX-License-Identifier: MIT
/* Description: the caches of kvtier trace replay against the plainest ones. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "trace_cache.h"
#include "trace_tiers.h"
#include "unit.h"

#define BLOCKS 12
#define REQUESTS 200

static uint32_t random_state = 1;

static uint32_t pick(uint32_t below)
{
	random_state = random_state * 1664525u + 1013904223u;
	return (random_state >> 16) % below;
}

/* Requests of one block each, so that what is right can be found by trying everything. */
static void make(struct trace *t, struct trace_request *request, uint32_t *block)
{
	uint32_t i;

	*t = (struct trace){ .request = request,
			     .nr_requests = REQUESTS,
			     .block = block,
			     .nr_accesses = REQUESTS,
			     .nr_blocks = BLOCKS,
			     .block_tokens = 1,
			     .prefix = true };
	for (i = 0; i < REQUESTS; i++) {
		block[i] = pick(BLOCKS / 2) + (pick(3) ? 0 : BLOCKS / 2);
		request[i] = (struct trace_request){ .at = i, .first = i, .nr = 1,
						     .session = TRACE_NONE };
	}
}

static uint64_t plain_lru(const struct trace *t, uint32_t room)
{
	uint32_t stack[BLOCKS], nr = 0, i, k;
	uint64_t hits = 0;

	for (i = 0; i < t->nr_accesses; i++) {
		for (k = 0; k < nr && stack[k] != t->block[i]; k++)
			;
		hits += k < nr;
		if (k == nr && nr < room)
			nr++;
		else if (k == nr)
			k = nr - 1;
		memmove(stack + 1, stack, k * sizeof(*stack));
		stack[0] = t->block[i];
	}
	return hits;
}

/*
 * The most hits that any choice of what to keep gives: for each set of blocks that may be
 * in, the best so far.
 */
static uint64_t best_of_all(const struct trace *t, uint32_t room)
{
	static int best[1 << BLOCKS], next[1 << BLOCKS];
	int set, b, most = 0;
	size_t i;

	memset(best, 0xff, sizeof(best));
	best[0] = 0;
	for (i = 0; i < t->nr_accesses; i++) {
		int want = 1 << t->block[i];

		memset(next, 0xff, sizeof(next));
		for (set = 0; set < 1 << BLOCKS; set++) {
			int hits = best[set] + !!(set & want), full = set | want;

			if (best[set] < 0)
				continue;
			if (hits > next[set])
				next[set] = hits; /* it may stay out */
			if (__builtin_popcount((unsigned int)full) <= (int)room &&
			    hits > next[full])
				next[full] = hits;
			for (b = 0; b < BLOCKS; b++) {
				int without = full & ~(1 << b);

				if (__builtin_popcount((unsigned int)without) <= (int)room &&
				    hits > next[without])
					next[without] = hits;
			}
		}
		memcpy(best, next, sizeof(best));
	}
	for (set = 0; set < 1 << BLOCKS; set++)
		most = best[set] > most ? best[set] : most;
	return (uint64_t)most;
}

static void lru(void **state)
{
	struct trace_request request[REQUESTS];
	uint32_t block[REQUESTS], room;
	struct trace t;

	(void)state;
	make(&t, request, block);
	for (room = 1; room <= BLOCKS; room++)
		assert_int_equal(trace_lru(&t, room), plain_lru(&t, room));
	assert_int_equal(trace_lru(&t, BLOCKS), trace_infinite(&t));
}

static void belady(void **state)
{
	struct trace_request request[REQUESTS];
	uint32_t block[REQUESTS], room;
	struct trace t;

	(void)state;
	make(&t, request, block);
	for (room = 1; room <= BLOCKS; room += 2)
		assert_int_equal(trace_belady(&t, room), best_of_all(&t, room));
}

/* However it chooses: no more hits without a future than Belady, all of them with NVMe. */
static void tiers(void **state)
{
	struct trace_request request[REQUESTS];
	uint32_t block[REQUESTS], room;
	struct tiers_config config = { .block_seconds = 0.01, .token_seconds = 0.1 };
	struct tiers_result r;
	struct trace t;

	(void)state;
	make(&t, request, block);
	for (room = 1; room <= BLOCKS; room++) {
		config.dram = room;
		config.nvme = 0;
		config.lookahead = 0;
		assert_int_equal(tiers_run(&t, &config, &r, NULL, NULL), 0);
		assert_int_equal(r.nvme_hits + r.promoted + r.written, 0);
		assert_true(r.dram_hits <= trace_belady(&t, room));
		assert_int_equal(r.dram_hits + r.missed, REQUESTS);
		config.nvme = BLOCKS;
		config.lookahead = REQUESTS;
		assert_int_equal(tiers_run(&t, &config, &r, NULL, NULL), 0);
		assert_int_equal(r.dram_hits + r.nvme_hits, trace_infinite(&t));
		assert_true(r.written <= BLOCKS);
	}
}

/* DRAM never has more than its room between turns, whatever a request brings. */
static void room_is_kept(void **state)
{
	struct trace_request request[REQUESTS];
	uint32_t block[REQUESTS];
	struct tiers_config config = { .dram = 3, .nvme = 5, .lookahead = 7, .block_seconds = 0.3,
				       .token_seconds = 0.5 };
	struct tiers s;
	struct trace t;
	size_t i;
	uint32_t b, dram, nvme;

	(void)state;
	make(&t, request, block);
	assert_int_equal(tiers_init(&s, &t, &config), 0);
	for (i = 0; i < REQUESTS; i++) {
		tiers_until_turn(&s, i);
		assert_true(s.nr_dram <= config.dram);
		assert_int_equal(tiers_turn(&s, i), 0);
		for (b = 0, dram = 0, nvme = 0; b < BLOCKS; b++) {
			dram += !!(s.where[b] & TIERS_DRAM);
			nvme += !!(s.where[b] & TIERS_NVME);
		}
		assert_int_equal(dram, s.nr_dram);
		assert_true(dram <= config.dram);
		assert_int_equal(nvme, s.result.nvme_used);
		assert_true(nvme <= config.nvme);
	}
	tiers_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lru),
		cmocka_unit_test(belady),
		cmocka_unit_test(tiers),
		cmocka_unit_test(room_is_kept),
	};

	return cmocka_run_group_tests_name("trace", tests, NULL, NULL);
}
