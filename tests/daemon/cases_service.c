// SPDX-License-Identifier: MIT
/* Write-back, metrics, the service manager, and machines under load. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture.h"
#include "kvtier_seq.h"

/* Sealed blocks that were used again are written early; others are spared. */
static void wear(void)
{
	struct kvt_plan_range r = { 0, BLOCK };
	struct kvtier_stats st;
	struct kvt_client *c;
	struct kvt_pool *p;
	uint64_t b;

	if (want_module)
		skip("the module has a write-back of its own");
	daemon_start("[idle]\nafter-ms = 600000\n");
	c = client();
	p = pool(c, "wear", 32 * BLOCK, 32 * BLOCK, 0);
	for (b = 0; b < 8; b++)
		fill_block(p, b, 1);
	OK(kvt_seal(p, 0, 8 * BLOCK));
	pause_ms(400);
	OK(kvt_stats(p, &st));
	CHECK(!st.written_blocks,
	      "expected what was not used again to be spared, %llu were written",
	      (unsigned long long)st.written_blocks);
	/* A plan that comes by uses block 0 again. */
	OK(kvt_plan_publish(p, &r, 1, KVT_PLAN_REPEAT));
	OK(kvt_plan_wait(p, 20000));
	OK(kvt_plan_passed(p, 1));
	EVENTUALLY(state_of(p, 0) == KVTIER_BLOCK_CLEAN,
		   "expected the block used again to be written");
	CHECK(state_of(p, 5) == KVTIER_BLOCK_SEALED, "expected the others to be spared still");
	OK(kvt_plan_idle(p));
	EVENTUALLY(state_of(p, 5) == KVTIER_BLOCK_CLEAN, "expected an idle pool to be written");
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static void rate(void)
{
	struct kvt_client *c;
	struct kvt_pool *p;
	double begun;
	uint64_t b;

	if (want_module)
		skip("the module has a write-back of its own");
	daemon_start("[writeback]\nrate = 4M\nwear-filter = no\n");
	c = client();
	p = pool(c, "rate", 96 * BLOCK, 96 * BLOCK, 0);
	for (b = 0; b < 96; b++)
		fill_block(p, b, 1);
	begun = now_s();
	OK(kvt_seal(p, 0, 96 * BLOCK));
	EVENTUALLY(state_of(p, 95) == KVTIER_BLOCK_CLEAN, "expected all to be written");
	/* 6 MiB at 4 MiB a second, less what was saved up before. */
	CHECK(now_s() - begun > 0.5, "expected the rate to be kept, it took %.3f s",
	      now_s() - begun);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static void metrics(void)
{
	struct kvt_client *c;
	struct kvt_pool *p;

	daemon_start(NULL);
	c = client();
	p = pool(c, "seen", 16 * BLOCK, 8 * BLOCK, 0);
	fill_block(p, 0, 1);
	CHECK(daemon_metric("kvtier_live_pools ") == 1, "expected one pool");
	CHECK(daemon_metric("kvtier_connected_clients ") == 1, "expected one client");
	if (!want_module)
		CHECK(daemon_metric("kvtier_pool_used_bytes{pool=\"seen\"") >= 0 &&
		      daemon_metric("kvtier_tier_used_bytes{tier=\"dram\"}") == BLOCK,
		      "expected one block in memory");
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static void views(void)
{
	struct kvt_daemon_status s;
	struct kvt_daemon_pool pools[4];
	struct kvt_daemon_tier tiers[4];
	struct kvtier_stats st;
	struct kvt_client *c;
	struct kvt_pool *p;
	char name[32];
	int i, nr;

	daemon_start("[tiers]\nnvme = 100G\n");
	c = client();
	OK(kvt_daemon_status(c, &s));
	CHECK(s.pid == (uint32_t)daemon_.pid && !strcmp(s.backend, want_module ? "module" : "user"),
	      "status");
	p = pool(c, "view", 16 * BLOCK, 8 * BLOCK, KVT_SHARED_KEEP);
	for (i = 0; i < 3; i++) {
		struct kvt_pool *q;

		snprintf(name, sizeof(name), "view-%d", i);
		q = pool(c, name, 16 * BLOCK, 8 * BLOCK, KVT_SHARED_KEEP);
		kvt_pool_destroy(q);
	}
	CHECK(kvt_daemon_pools(c, pools, 4) == 4, "expected four pools");
	CHECK(kvt_daemon_pools(c, pools, 1) == 4, "expected a count beyond the room");
	CHECK(!strcmp(pools[0].model, "test") && pools[0].budget[KVTIER_TIER_DRAM] == 8 * BLOCK,
	      "a pool");
	nr = kvt_daemon_tiers(c, tiers, 4);
	CHECK(nr == 2 && tiers[1].tier == KVTIER_TIER_NVME && tiers[1].limit == 100ull << 30,
	      "tiers");
	OK(kvt_daemon_stats(c, pools[0].id, &st));
	CHECK(st.nr_blocks == 16, "stats");
	OK(kvt_daemon_set_budget(c, pools[0].id, 4 * BLOCK));
	ERROR(kvt_daemon_set_budget(c, pools[0].id, BLOCK), -EINVAL);
	CHECK(kvt_daemon_pools(c, pools, 1) == 4 && pools[0].budget[KVTIER_TIER_DRAM] == 4 * BLOCK,
	      "expected the new budget");
	OK(kvt_daemon_set_quota(c, pools[0].tenant, KVTIER_TIER_DRAM, MIB));
	ERROR(kvt_daemon_set_quota(c, "nobody", KVTIER_TIER_DRAM, MIB), -ENOENT);
	for (i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "view-%d", i);
		OK(kvt_shared_remove(c, name));
	}
	kvt_pool_destroy(p);
	OK(kvt_shared_remove(c, "view"));
	kvt_client_close(c);
}

#define HEADS 8
#define KV_HEADS 2
#define DIM 64

static float chance(uint64_t *x)
{
	*x = *x * 6364136223846793005ull + 1442695040888963407ull;
	return (float)((double)(*x >> 33) / (double)(1u << 31) * 2 - 1);
}

/* ---- two engines and eight sessions ------------------------------------------------------ */

#define ENGINES 2
#define SESSIONS 8
#define ENGINE_BLOCKS 128u
#define SESSION_BLOCKS 32u

struct pace {
	double step_s; /* median of the steps */
	uint64_t wrong;
	uint64_t steps;
	uint64_t ready;
};

static int later(const void *a, const void *b)
{
	double d = *(const double *)a - *(const double *)b;

	return d > 0 ? 1 : d < 0 ? -1 : 0;
}

static struct kvt_pool *sealed(struct kvt_client *c, const char *name, uint64_t blocks,
			       uint64_t dram)
{
	struct kvt_shared_config config = KVT_SHARED_CONFIG_INIT;
	struct kvt_pool *p;
	uint64_t b;

	config.name = name;
	config.model = "test";
	config.bytes = blocks * 4 * BLOCK;
	config.block_bytes = 4 * BLOCK;
	config.dram_bytes = dram;
	OK(kvt_shared_create(c, &config, &p));
	for (b = 0; b < blocks; b++)
		fill_block(p, b, 1);
	OK(kvt_seal(p, 0, blocks * 4 * BLOCK));
	return p;
}

static void announce(struct kvt_pool *p, uint32_t flags)
{
	struct kvt_plan_range ranges[ENGINE_BLOCKS];
	uint32_t b, nr = (uint32_t)blocks_of(p);

	for (b = 0; b < nr; b++)
		ranges[b] = (struct kvt_plan_range){ b * 4 * BLOCK, 4 * BLOCK };
	OK(kvt_plan_publish(p, ranges, nr, flags));
}

static uint64_t read_all(struct kvt_pool *p)
{
	uint64_t b, i, wrong = 0;

	for (b = 0; b < blocks_of(p); b++) {
		const volatile uint64_t *w = (void *)((char *)kvt_pool_addr(p) + b * 4 * BLOCK);

		/* Attention reads every byte; a look at each line is enough to have it there. */
		for (i = 0; i < 4 * BLOCK / 8; i += 8)
			wrong += w[i] != word_of(b, 1, i);
		OK(kvt_plan_passed(p, 1));
	}
	return wrong;
}

/* All engines are measured at the same time. */
static void meet(struct pace *paces)
{
	int i;

	for (i = 0; i < ENGINES; i++)
		while (!__atomic_load_n(&paces[i].ready, __ATOMIC_ACQUIRE))
			pause_ms(1);
}

static void decode(int number, double seconds, struct pace *paces)
{
	struct pace *pace = &paces[number];
	static double steps[10000];
	struct kvt_client *c = client();
	char name[32];
	struct kvt_pool *p;
	double end;

	snprintf(name, sizeof(name), "engine-%d", number);
	p = sealed(c, name, ENGINE_BLOCKS, 0);
	announce(p, KVT_PLAN_REPEAT);
	pace->wrong += read_all(p);
	__atomic_store_n(&pace->ready, 1, __ATOMIC_RELEASE);
	meet(paces);
	for (end = now_s() + seconds; now_s() < end && pace->steps < 10000; pace->steps++) {
		double t = now_s();

		pace->wrong += read_all(p);
		steps[pace->steps] = now_s() - t;
	}
	qsort(steps, pace->steps, sizeof(steps[0]), later);
	pace->step_s = steps[pace->steps / 2];
	kvt_pool_destroy(p);
	kvt_client_close(c);
	_exit(0);
}

/* Raw reads of @blocks blocks of 256 KiB through this daemon: what the disk gives now. */
static double raw_s(struct kvt_client *c, struct kvt_pool *p)
{
	double t;

	OK(kvt_demote(p, 0, kvt_pool_bytes(p)));
	t = now_s();
	OK(kvt_promote(p, 0, kvt_pool_bytes(p)));
	(void)c;
	return now_s() - t;
}

static void engines(void)
{
	struct pace *paces =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct kvt_pool *sessions[SESSIONS];
	double token[5], raw[5], seconds = want_long ? 10 : 2;
	struct kvt_client *c;
	pid_t pids[ENGINES];
	char name[32];
	int i, status;

	if (want_module)
		skip("times of an emulated machine say nothing");
	CHECK(paces != MAP_FAILED, "mmap: %m");
	/* 2 x 32 MiB and 8 x 8 MiB over 32 MiB: four times as much as there is memory. */
	daemon_start("[tiers]\ndram = 32M\n[idle]\nafter-ms = 200\ndrain-above = 0\n");
	c = client();
	for (i = 0; i < SESSIONS; i++) {
		snprintf(name, sizeof(name), "session-%d", i);
		sessions[i] = sealed(c, name, SESSION_BLOCKS, 0);
		OK(kvt_plan_idle(sessions[i]));
	}
	for (i = 0; i < ENGINES; i++) {
		pids[i] = fork();
		if (!pids[i])
			decode(i, seconds, paces);
	}
	meet(paces);
	/* In between sessions have their turns: a token reads all of its session. */
	for (i = 0; i < 5; i++) {
		double t;

		pause_ms(300);
		raw[i] = raw_s(c, sessions[7]);
		OK(kvt_plan_idle(sessions[7]));
		OK(kvt_demote(sessions[i], 0, kvt_pool_bytes(sessions[i])));
		t = now_s();
		announce(sessions[i], 0);
		CHECK(!read_all(sessions[i]), "session %d", i);
		token[i] = now_s() - t;
		OK(kvt_plan_idle(sessions[i]));
	}
	for (i = 0; i < ENGINES; i++) {
		CHECK(waitpid(pids[i], &status, 0) == pids[i] && !status, "engine %d: %#x", i,
		      status);
		CHECK(!paces[i].wrong && paces[i].steps, "engine %d read wrong words", i);
	}
	qsort(token, 5, sizeof(token[0]), later);
	qsort(raw, 5, sizeof(raw[0]), later);
	figure("engines.step_ratio", paces[0].step_s / paces[1].step_s, "ratio");
	figure("engines.step_ms", 500 * (paces[0].step_s + paces[1].step_s), "ms");
	figure("engines.bandwidth_used", daemon_metric("kvtier_nvme_bandwidth_bytes") / 1e6,
	       "MB/s");
	figure("session.token_ms", 1000 * token[2], "ms");
	figure("session.read_ms", 1000 * raw[2], "ms");
	figure("session.token_vs_read", token[2] / raw[2], "ratio");
	for (i = 0; i < SESSIONS; i++)
		kvt_pool_destroy(sessions[i]);
	kvt_client_close(c);
}

/* A sequence over a shared pool: attention publishes what comes next by itself. */
static void planned_sequence(void)
{
	struct kvt_geometry geometry = KVT_GEOMETRY_INIT;
	struct kvt_attend_params params = KVT_ATTEND_PARAMS_INIT;
	struct kvt_seq_query query = { 0 };
	static float rows[64 * KV_HEADS * DIM], q[HEADS * DIM], out[HEADS * DIM];
	struct kvt_daemon_pool shown[2];
	struct kvt_attend *attend;
	struct kvt_cache *cache;
	struct kvt_client *c;
	struct kvt_pool *p;
	struct kvt_seq *seq;
	uint64_t x = 3;
	uint32_t step, layer, i;

	daemon_start(NULL);
	c = client();
	p = pool(c, "sequence", 64 * BLOCK, 16 * BLOCK, 0);
	geometry.layers = 4;
	geometry.kv_heads = KV_HEADS;
	geometry.k_dim = geometry.v_dim = DIM;
	geometry.block_tokens = 64;
	OK(kvt_cache_create(p, &geometry, &cache));
	OK(kvt_seq_create(cache, &seq));
	OK(kvt_attend_create(NULL, &attend));
	for (i = 0; i < 64 * KV_HEADS * DIM; i++)
		rows[i] = chance(&x);
	for (i = 0; i < HEADS * DIM; i++)
		q[i] = chance(&x);
	params.q_heads = HEADS;
	params.kv_heads = KV_HEADS;
	params.k_dim = params.v_dim = DIM;
	query.seq = seq;
	query.q_tokens = 1;
	query.q = q;
	query.out = out;
	/* Before there is any attention, what an append adds to is what comes next. */
	for (step = 0; step < 2; step++)
		for (layer = 0; layer < 4; layer++)
			OK(kvt_seq_append_float(seq, layer, 64, rows, rows));
	EVENTUALLY(kvt_daemon_pools(c, shown, 2) == 1 && shown[0].plan_left == 4,
		   "expected a plan of one extent in 4 layers");
	for (; step < 12; step++) {
		for (layer = 0; layer < 4; layer++)
			OK(kvt_seq_append_float(seq, layer, 64, rows, rows));
		for (layer = 0; layer < 4; layer++)
			OK(kvt_seq_attend(attend, &params, layer, &query, 1));
	}
	for (step = 0; step < 4; step++)
		for (layer = 0; layer < 4; layer++)
			OK(kvt_seq_attend(attend, &params, layer, &query, 1));
	OK(kvt_plan_wait(p, 20000));
	EVENTUALLY(kvt_daemon_pools(c, shown, 2) == 1 && shown[0].plan_left == 48,
		   "expected a plan of 12 extents in 4 layers");
	EVENTUALLY(daemon_metric("kvtier_passed_ranges_total") >= 48,
		   "expected layers to be passed");
	kvt_seq_destroy(seq);
	kvt_cache_destroy(cache);
	kvt_attend_destroy(attend);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

const struct test_case service_cases[] = {
	{ "planned_sequence", "appends and attention publish their plans by themselves",
	  planned_sequence, false },
	{ "engines", "two engines and eight idle sessions over a quarter of their memory", engines,
	  false },
	{ "wear", "a block earns its write", wear, false },
	{ "rate", "write-back keeps its rate", rate, false },
	{ "metrics", "counters over the socket", metrics, false },
	{ "views", "what an operator sees and sets", views, false },
	{ 0 },
};
