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
	CHECK(!st.written_blocks, "expected what was not used again to be spared, %llu were written",
	      (unsigned long long)st.written_blocks);
	/* A plan that comes by uses block 0 again. */
	OK(kvt_plan_publish(p, &r, 1, KVT_PLAN_REPEAT));
	OK(kvt_plan_wait(p, 20000));
	OK(kvt_plan_passed(p, 1));
	EVENTUALLY(state_of(p, 0) == KVTIER_BLOCK_CLEAN, "expected the block used again to be written");
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
	CHECK(now_s() - begun > 0.5, "expected the rate to be kept, it took %.3f s", now_s() - begun);
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
	CHECK(!strcmp(pools[0].model, "test") && pools[0].budget[KVTIER_TIER_DRAM] == 8 * BLOCK, "a pool");
	nr = kvt_daemon_tiers(c, tiers, 4);
	CHECK(nr == 2 && tiers[1].tier == KVTIER_TIER_NVME && tiers[1].limit == 100ull << 30, "tiers");
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

/* ---- attention -------------------------------------------------------------------------------- */

#define HEADS 8
#define KV_HEADS 2
#define DIM 64
#define RUN 64 /* tokens of a table's entry */

static float chance(uint64_t *x)
{
	*x = *x * 6364136223846793005ull + 1442695040888963407ull;
	return (float)((double)(*x >> 33) / (double)(1u << 31) * 2 - 1);
}

/* A table over a pool whose rows are of chance; a copy of them in @mirror. */
static struct kvt_seq_block *make_table(struct kvt_pool *p, char *mirror, uint32_t nr, bool mirrored)
{
	struct kvt_seq_block *table = calloc(nr, sizeof(*table));
	size_t row = KV_HEADS * DIM * sizeof(float);
	uint32_t i;

	CHECK(table, "calloc");
	for (i = 0; i < nr; i++) {
		char *base = mirrored ? mirror : kvt_pool_addr(p);

		table[i].k = base + 2ull * i * RUN * row;
		table[i].v = base + (2ull * i + 1) * RUN * row;
		table[i].position = (uint64_t)i * RUN;
		table[i].tokens = RUN;
		table[i].k_stride = table[i].v_stride = (uint32_t)row;
		table[i].k_type = table[i].v_type = KVT_F32;
	}
	return table;
}

static void attend_over(uint32_t nr, uint64_t frames, bool exact)
{
	struct kvt_attend_params params = KVT_ATTEND_PARAMS_INIT;
	struct kvt_attend_seq seq = KVT_ATTEND_SEQ_INIT;
	size_t bytes = 2ull * nr * RUN * KV_HEADS * DIM * sizeof(float), i;
	static float q[HEADS * DIM], here[HEADS * DIM], there[HEADS * DIM], lse[2][HEADS];
	float *mirror = malloc(bytes);
	struct kvt_seq_block *table;
	struct kvt_attend *attend;
	struct kvt_client *c;
	struct kvt_pool *p;
	uint64_t x = 5;

	CHECK(mirror, "malloc");
	c = client();
	p = pool(c, "attended", bytes, frames * BLOCK, 0);
	for (i = 0; i < bytes / sizeof(float); i++)
		mirror[i] = chance(&x);
	memcpy(kvt_pool_addr(p), mirror, bytes);
	for (i = 0; i < HEADS * DIM; i++)
		q[i] = chance(&x);
	params.q_heads = HEADS;
	params.kv_heads = KV_HEADS;
	params.k_dim = params.v_dim = DIM;
	seq.q_tokens = 1;
	seq.q_position = (uint64_t)nr * RUN;
	seq.q = q;
	seq.nr_blocks = nr;
	OK(kvt_attend_create(NULL, &attend));
	seq.blocks = table = make_table(p, (char *)mirror, nr, true);
	seq.out = here;
	seq.lse = lse[0];
	OK(kvt_attend(attend, &params, &seq, 1));
	free(table);
	OK(kvt_demote(p, 0, bytes));
	seq.blocks = table = make_table(p, NULL, nr, false);
	seq.out = there;
	seq.lse = lse[1];
	OK(kvt_shared_attend(p, &params, &seq, 1));
	for (i = 0; i < HEADS * DIM; i++)
		CHECK(exact ? here[i] == there[i] :
			      here[i] - there[i] < 1e-5f && there[i] - here[i] < 1e-5f,
		      "element %zu: %g computed here, %g by the daemon", i, (double)here[i],
		      (double)there[i]);
	for (i = 0; i < HEADS; i++)
		CHECK(lse[0][i] - lse[1][i] < 1e-4f && lse[1][i] - lse[0][i] < 1e-4f, "log-sum-exp %zu", i);
	/* What is wrong is refused, and the next is served. */
	table[0].k_stride = 1u << 30;
	ERROR(kvt_shared_attend(p, &params, &seq, 1), -EBADMSG);
	table[0].k_stride = table[0].v_stride;
	table[0].k_type = 77;
	ERROR(kvt_shared_attend(p, &params, &seq, 1), -EBADMSG);
	table[0].k_type = KVT_F32;
	params.top_k = 3;
	ERROR(kvt_shared_attend(p, &params, &seq, 1), -EOPNOTSUPP);
	params.top_k = 0;
	daemon_kill(SIGKILL);
	daemon_spawn();
	OK(kvt_shared_attend(p, &params, &seq, 1));
	CHECK(here[3] - there[3] < 1e-5f && there[3] - here[3] < 1e-5f, "after a restart");
	free(table);
	free(mirror);
	kvt_attend_destroy(attend);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static void attended(void)
{
	if (want_module)
		skip("the attention service has not the module's pools");
	daemon_start("[attend]\nthreads = 2\n");
	attend_over(8, 16, true);
	attend_over(64, 24, false);
}

const struct test_case service_cases[] = {
	{ "attended", "the daemon computes attention over blocks that are not in memory", attended,
	  false },
	{ "wear", "a block earns its write", wear, false },
	{ "rate", "write-back keeps its rate", rate, false },
	{ "metrics", "counters over the socket", metrics, false },
	{ "views", "what an operator sees and sets", views, false },
	{ 0 },
};
