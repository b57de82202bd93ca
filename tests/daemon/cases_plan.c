// SPDX-License-Identifier: MIT
/* Plans: promotion ahead of the cursor, refusals, their price. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture.h"

static struct kvt_plan_range *whole(struct kvt_pool *p)
{
	struct kvt_plan_range *ranges = calloc(blocks_of(p), sizeof(*ranges));
	uint64_t b;

	CHECK(ranges, "calloc");
	for (b = 0; b < blocks_of(p); b++)
		ranges[b] = (struct kvt_plan_range){ b * BLOCK, BLOCK };
	return ranges;
}

static uint64_t sum_block(struct kvt_pool *p, uint64_t b)
{
	const volatile uint64_t *w = (void *)((char *)kvt_pool_addr(p) + b * BLOCK);
	uint64_t sum = 0, i;

	for (i = 0; i < BLOCK / 8; i += 8)
		sum += w[i];
	return sum;
}

static struct kvt_pool *sealed_pool(struct kvt_client *c, const char *name, uint64_t blocks,
				    uint64_t frames)
{
	struct kvt_pool *p = pool(c, name, blocks * BLOCK, frames * BLOCK, 0);
	uint64_t b;

	for (b = 0; b < blocks; b++)
		fill_block(p, b, 1);
	OK(kvt_seal(p, 0, blocks * BLOCK));
	OK(kvt_demote(p, 0, blocks * BLOCK));
	return p;
}

/* A scan over four times the memory: with a plan most of it is there before it is asked for. */
static void ahead(void)
{
	struct kvt_plan_range *ranges;
	struct kvtier_stats before, after;
	struct kvt_client *c;
	struct kvt_pool *p;
	uint64_t b, lap, faults;
	double hidden;

	daemon_start(NULL);
	c = client();
	p = sealed_pool(c, "scan", 256, 64);
	ranges = whole(p);
	OK(kvt_plan_publish(p, ranges, 256, KVT_PLAN_REPEAT));
	OK(kvt_plan_wait(p, 20000));
	OK(kvt_stats(p, &before));
	for (lap = 0; lap < 4; lap++) {
		for (b = 0; b < 256; b++) {
			sum_block(p, b);
			CHECK(!wrong_words(p, b, 1), "block %llu", (unsigned long long)b);
			pause_ms(b % 4 == 0); /* a step computes something */
			OK(kvt_plan_passed(p, 1));
		}
	}
	OK(kvt_stats(p, &after));
	faults = after.hard_faults - before.hard_faults;
	hidden = 1 - (double)(after.fault_wait_ns - before.fault_wait_ns) /
			     (double)(after.transfer_ns - before.transfer_ns);
	figure("plan.hard_faults", (double)faults, "faults");
	figure("plan.promoted", (double)(after.promoted - before.promoted), "blocks");
	figure("plan.hidden", hidden, "fraction");
	if (want_module)
		goto end; /* an emulated machine's times say nothing */
	CHECK(after.prefetched - before.prefetched > 100,
	      "expected blocks to be promoted ahead, %llu were",
	      (unsigned long long)(after.prefetched - before.prefetched));
	/* Belady keeps what it can: LRU would read all 1024. */
	CHECK(after.promoted - before.promoted < 1000,
	      "expected a part to stay in memory, %llu of 1024 "
	      "were read",
	      (unsigned long long)(after.promoted - before.promoted));
end:
	free(ranges);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static void appended(void)
{
	struct kvt_plan_range r[2] = { { 0, BLOCK }, { BLOCK, BLOCK } };
	struct kvt_daemon_pool pools[2];
	struct kvt_client *c;
	struct kvt_pool *p;

	daemon_start(NULL);
	c = client();
	p = sealed_pool(c, "growing", 16, 8);
	OK(kvt_plan_publish(p, r, 2, 0));
	OK(kvt_plan_wait(p, 20000));
	EVENTUALLY(state_of(p, 1) == KVTIER_BLOCK_CLEAN, "expected the plan's blocks to come");
	r[0].offset = 5 * BLOCK;
	OK(kvt_plan_publish(p, r, 1, KVT_PLAN_APPEND));
	OK(kvt_plan_wait(p, 20000));
	EVENTUALLY(state_of(p, 5) == KVTIER_BLOCK_CLEAN, "expected the block that was appended");
	CHECK(state_of(p, 6) == KVTIER_BLOCK_COLD, "expected what is in no plan to stay out");
	CHECK(kvt_daemon_pools(c, pools, 2) == 1 && pools[0].plan_left == 3,
	      "expected 3 ranges to come");
	OK(kvt_plan_passed(p, 2));
	EVENTUALLY(kvt_daemon_pools(c, pools, 2) == 1 && pools[0].plan_left == 1,
		   "expected 1 range to come");
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static void outside(void)
{
	struct kvt_plan_range r = { 15 * BLOCK, 2 * BLOCK };
	struct kvt_client *c;
	struct kvt_pool *p;

	daemon_start(NULL);
	c = client();
	p = sealed_pool(c, "bounded", 16, 8);
	ERROR(kvt_plan_publish(p, &r, 1, 0), -EINVAL);
	r = (struct kvt_plan_range){ 1, BLOCK };
	ERROR(kvt_plan_publish(p, &r, 1, 0), -EINVAL);
	r = (struct kvt_plan_range){ 0, BLOCK };
	ERROR(kvt_plan_publish(p, &r, 1, 8), -EINVAL);
	OK(kvt_plan_publish(p, &r, 1, 0));
	OK(kvt_plan_wait(p, 20000));
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static void million(void)
{
	const uint32_t nr = 1000000;
	struct kvt_plan_range *ranges = calloc(nr, sizeof(*ranges));
	double best = 1e9, begun;
	struct kvt_client *c;
	struct kvt_pool *p;
	uint32_t i;
	int round;

	CHECK(ranges, "calloc");
	daemon_start(NULL);
	c = client();
	p = pool(c, "large", 1024 * BLOCK, 64 * BLOCK, 0);
	for (i = 0; i < nr; i++)
		ranges[i] = (struct kvt_plan_range){ (i * 7919ull) % 1024 * BLOCK, BLOCK };
	for (round = 0; round < 3; round++) {
		begun = now_s();
		OK(kvt_plan_publish(p, ranges, nr, 0));
		OK(kvt_plan_wait(p, 20000 * patience_factor));
		best = now_s() - begun < best ? now_s() - begun : best;
	}
	figure("plan.million_ms", best * 1000, "ms");
	CHECK(daemon_metric("kvtier_plan_ranges_total") >= 3e6,
	      "expected all ranges to be counted");
	free(ranges);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* More plans than are taken in a turn: each comes to its end. */
#define PLANS 24

static void many(void)
{
	struct kvt_plan_range ranges[800];
	struct kvt_pool *p[PLANS];
	struct kvt_client *c;
	uint64_t i, round;
	char name[16];

	daemon_start(NULL);
	c = client();
	for (i = 0; i < 800; i++)
		ranges[i] = (struct kvt_plan_range){ 0, 256 * BLOCK };
	for (i = 0; i < PLANS; i++) {
		snprintf(name, sizeof(name), "many%u", (unsigned int)i);
		p[i] = pool(c, name, 256 * BLOCK, 8 * BLOCK, 0);
	}
	for (round = 0; round < 2; round++) {
		for (i = 0; i < PLANS; i++)
			OK(kvt_plan_publish(p[i], ranges, 800, 0));
		for (i = 0; i < PLANS; i++)
			OK(kvt_plan_wait(p[i], 20000 * patience_factor));
	}
	CHECK(daemon_metric("kvtier_plan_ranges_total") == 2 * PLANS * 800, "expected all of them");
	for (i = 0; i < PLANS; i++)
		kvt_pool_destroy(p[i]);
	kvt_client_close(c);
}

/* An idle session leaves memory; when its client announces a turn it comes back. */
static void turns(void)
{
	struct kvtier_stats st;
	struct kvt_plan_range *ranges;
	struct kvt_client *c;
	struct kvt_pool *p;
	uint64_t b;

	daemon_start("[idle]\nafter-ms = 100\ndrain-above = 0\n");
	c = client();
	p = pool(c, "session", 32 * BLOCK, 32 * BLOCK, 0);
	for (b = 0; b < 32; b++)
		fill_block(p, b, 1);
	OK(kvt_seal(p, 0, 32 * BLOCK));
	if (want_module) /* whose touches the daemon does not see */
		OK(kvt_plan_idle(p));
	EVENTUALLY(!kvt_stats(p, &st) && !st.tier[KVTIER_TIER_DRAM].used_bytes,
		   "expected an idle session to leave memory");
	ranges = whole(p);
	OK(kvt_plan_publish(p, ranges, 32, 0));
	EVENTUALLY(!kvt_stats(p, &st) && st.tier[KVTIER_TIER_DRAM].used_bytes == 32 * BLOCK,
		   "expected it to come back for its turn");
	for (b = 0; b < 32; b++)
		CHECK(!wrong_words(p, b, 1), "block %llu", (unsigned long long)b);
	OK(kvt_plan_idle(p));
	EVENTUALLY(!kvt_stats(p, &st) && !st.tier[KVTIER_TIER_DRAM].used_bytes,
		   "expected it to leave at once when its client says that no turn is near");
	free(ranges);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static uint64_t in_memory(struct kvt_pool *p)
{
	struct kvtier_stats st;

	OK(kvt_stats(p, &st));
	return st.tier[KVTIER_TIER_DRAM].used_bytes / BLOCK;
}

/* Of two clients one has no turn: what the other works with stays, until that says so, too. */
static void half_idle(void)
{
	struct kvt_client *c, *other;
	struct kvt_pool *p, *same;
	uint64_t b;

	daemon_start("[idle]\nafter-ms = 60000\ndrain-above = 0\n");
	c = client();
	other = client();
	p = pool(c, "session", 32 * BLOCK, 32 * BLOCK, 0);
	OK(kvt_shared_attach(other, "session", "test", &same));
	for (b = 0; b < 32; b++)
		fill_block(p, b, 1);
	OK(kvt_plan_idle(same));
	pause_ms(300);
	CHECK(in_memory(p) == 32, "expected blocks to stay while a client works with them");
	OK(kvt_plan_idle(p));
	EVENTUALLY(!in_memory(p), "expected it to leave memory once both are idle");
	CHECK(!wrong_words(same, 7, 1), "block 7");
	OK(kvt_plan_idle(p));
	pause_ms(300);
	CHECK(in_memory(p) == 1, "expected what the other touched to stay");
	OK(kvt_plan_idle(same));
	EVENTUALLY(!in_memory(p), "expected it to leave memory again");
	kvt_pool_destroy(same);
	kvt_pool_destroy(p);
	kvt_client_close(other);
	kvt_client_close(c);
}

/* Whatever of a turn the daemon sees first, its plan is one. */
static void turns_told(void)
{
	struct kvt_plan_range *ranges;
	struct kvt_client *c;
	struct kvt_pool *p;
	double before;
	int i;

	daemon_start("");
	c = client();
	p = pool(c, "session", 8 * BLOCK, 8 * BLOCK, 0);
	for (i = 0; i < 8; i++)
		fill_block(p, (uint64_t)i, 1);
	OK(kvt_seal(p, 0, 8 * BLOCK));
	ranges = whole(p);
	for (i = 0; i < 10; i++) {
		OK(kvt_plan_idle(p));
		OK(kvt_plan_publish(p, ranges, 8, 0));
		OK(kvt_plan_wait(p, 10000));
		OK(kvt_plan_passed(p, 8)); /* of which the daemon may hear after the next idle */
	}
	CHECK(daemon_metric("kvtier_turns_total") == 10, "expected 10 turns, counted %.0f",
	      daemon_metric("kvtier_turns_total"));
	/* A touch comes first; a slow machine may take too long between both. */
	for (i = 0; i < 100; i++) {
		OK(kvt_plan_idle(p));
		OK(kvt_demote(p, 0, 8 * BLOCK));
		OK(kvt_plan_idle(p));
		before = daemon_metric("kvtier_turns_total");
		CHECK(!wrong_words(p, 0, 1), "block 0");
		OK(kvt_plan_publish(p, ranges, 8, 0));
		OK(kvt_plan_wait(p, 10000));
		if (daemon_metric("kvtier_turns_total") > before)
			break;
	}
	CHECK(i < 100, "expected a plan right after a touch to be a turn");
	free(ranges);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

const struct test_case plan_cases[] = {
	{ "half_idle", "a session is idle when all its clients are", half_idle, false },
	{ "ahead", "blocks come before they are touched, and Belady's stay", ahead, false },
	{ "appended", "a plan grows", appended, false },
	{ "outside", "ranges outside the pool are refused", outside, false },
	{ "million", "a plan of 10^6 ranges", million, false },
	{ "many", "more plans at once than are taken in a turn", many, false },
	{ "turns", "an idle session leaves memory and returns for its turn", turns, false },
	{ "turns_told", "a plan for an idle pool is a turn, touched or not", turns_told, false },
	{ 0 },
};
