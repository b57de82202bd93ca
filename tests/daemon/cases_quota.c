// SPDX-License-Identifier: MIT
/* Tenants: names, quotas, back-pressure. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture.h"

#define ALICE 12345
#define BOB 12346

static const char tenants[] = "[tenant alice]\nuser = 12345\ndram = 1M\nnvme = 32M\nweight = 2\n"
			      "[tenant bob]\nuser = 12346\ndram = 2M\n";

static int make_hidden(void)
{
	struct kvt_client *c = client();
	struct kvt_pool *p = pool(c, "hidden", 8 * BLOCK, 8 * BLOCK, KVT_SHARED_KEEP);

	fill_block(p, 0, 1);
	kvt_pool_destroy(p);
	kvt_client_close(c);
	return 0;
}

static int look_for_hidden(void)
{
	struct kvt_daemon_pool pools[8];
	struct kvtier_stats st;
	struct kvt_client *c = client();
	struct kvt_pool *p;

	ERROR(kvt_shared_attach(c, "hidden", "test", &p), -ENOENT);
	ERROR(kvt_shared_remove(c, "hidden"), -ENOENT);
	ERROR(kvt_daemon_stats(c, 1, &st), -ENOENT);
	ERROR(kvt_daemon_set_budget(c, 1, MIB), -ENOENT);
	ERROR(kvt_daemon_checkpoint(c, 1), -ENOENT);
	ERROR(kvt_daemon_scrub(c, 1), -ENOENT);
	ERROR(kvt_daemon_set_quota(c, "alice", KVTIER_TIER_DRAM, 0), -EPERM);
	CHECK(kvt_daemon_pools(c, pools, 8) == 0, "expected not to see others' pools");
	/* The same name is another pool here. */
	p = pool(c, "hidden", 8 * BLOCK, 8 * BLOCK, 0);
	CHECK(!*(volatile uint64_t *)kvt_pool_addr(p), "expected a pool of its own");
	kvt_pool_destroy(p);
	kvt_client_close(c);
	return 0;
}

static void names(void)
{
	struct kvt_daemon_pool pools[8];
	struct kvt_client *c;

	need_root();
	daemon_start_for_all(tenants);
	CHECK(!end_of(as(ALICE, make_hidden)), "alice's pool");
	CHECK(!end_of(as(BOB, look_for_hidden)), "expected alice's pool to be hidden from bob");
	c = client();
	CHECK(kvt_daemon_pools(c, pools, 8) == 1 && !strcmp(pools[0].tenant, "alice"),
	      "expected the administrator to see it");
	kvt_client_close(c);
}

/* ---- quotas ------------------------------------------------------------------------------ */

static int stay_in_quota(void)
{
	struct kvt_shared_config config = KVT_SHARED_CONFIG_INIT;
	struct kvt_daemon_tenant t[4];
	struct kvt_client *c = client();
	struct kvt_pool *a, *b, *refused;
	uint64_t i, round;

	config.name = "large";
	config.bytes = 4 * MIB;
	config.block_bytes = BLOCK;
	config.dram_bytes = 2 * MIB;
	ERROR(kvt_shared_create(c, &config, &refused), -EDQUOT);
	config.dram_bytes = 0;
	config.nvme_bytes = 64 * MIB;
	ERROR(kvt_shared_create(c, &config, &refused), -EDQUOT);
	/* Two pools of 4 MiB that may have 1 MiB each, and 1 MiB together. */
	a = pool(c, "a", 4 * MIB, MIB, 0);
	b = pool(c, "b", 4 * MIB, MIB, 0);
	for (round = 0; round < 2; round++) {
		for (i = 0; i < 64; i++) {
			fill_block(a, i, round);
			fill_block(b, i, round + 10);
		}
		CHECK(kvt_daemon_tenants(c, t, 4) == 1, "expected to see itself alone");
		CHECK(t[0].used[KVTIER_TIER_DRAM] <= MIB, "expected at most 1 MiB, got %llu",
		      (unsigned long long)t[0].used[KVTIER_TIER_DRAM]);
		for (i = 0; i < 64; i++)
			if (wrong_words(a, i, round) || wrong_words(b, i, round + 10))
				return 2;
	}
	CHECK(t[0].waits, "expected waits for the quota to be counted");
	kvt_pool_destroy(a);
	kvt_pool_destroy(b);
	kvt_client_close(c);
	return 0;
}

static void quotas(void)
{
	need_root();
	if (want_module)
		skip("the module counts budgets, which cannot be shared");
	daemon_start_for_all(tenants);
	CHECK(!end_of(as(ALICE, stay_in_quota)), "alice");
}

/* Alice pins all that she may have, then faults: she alone waits, and gets SIGBUS in the end. */
static int exhaust(void)
{
	struct kvt_shared_config config = KVT_SHARED_CONFIG_INIT;
	struct kvt_client *c = client();
	struct kvt_pool *p, *q;
	uint64_t b;

	signal(SIGBUS, SIG_DFL); /* not a sanitizer's */
	config.name = "greedy";
	config.model = "test";
	config.bytes = MIB;
	config.block_bytes = BLOCK;
	config.dram_bytes = MIB;
	config.io_deadline_ms = 1500;
	OK(kvt_shared_create(c, &config, &p));
	OK(kvt_pin(p, 0, MIB));
	config.name = "more";
	OK(kvt_shared_create(c, &config, &q));
	for (b = 0; b < blocks_of(q); b++)
		fill_block(q, b, 1); /* ends here */
	return 0;
}

static int go_on(void)
{
	struct kvt_client *c = client();
	struct kvt_pool *p = pool(c, "calm", 4 * MIB, MIB, 0);
	double begun = now_s(), longest = 0;
	uint64_t b, round = 0;

	while (now_s() - begun < 1.0) {
		double t = now_s();

		for (b = 0; b < blocks_of(p); b++)
			fill_block(p, b, round);
		for (b = 0; b < blocks_of(p); b++)
			if (wrong_words(p, b, round))
				return 2;
		round++;
		longest = now_s() - t > longest ? now_s() - t : longest;
	}
	figure("quota.other_longest_s", longest, "s");
	kvt_pool_destroy(p);
	kvt_client_close(c);
	return 0;
}

static void back_pressure(void)
{
	pid_t greedy, calm;
	int status;

	need_root();
	if (want_module)
		skip("the module counts budgets, which cannot be shared");
	daemon_start_for_all(tenants);
	greedy = as(ALICE, exhaust);
	pause_ms(200);
	calm = as(BOB, go_on);
	CHECK(!end_of(calm), "expected bob to go on while alice waits");
	status = end_of(greedy);
	CHECK(status == 128 + SIGBUS, "expected alice's fault to end in SIGBUS, got %d", status);
	CHECK(daemon_logged("event=fault_expired"), "expected the log to say so");
}

/* ---- by cgroup --------------------------------------------------------------------------- */

static bool write_text(const char *path, const char *text)
{
	FILE *file = fopen(path, "we");
	bool done = file && fputs(text, file) >= 0;

	if (file && fclose(file))
		done = false;
	return done;
}

/* A control group of this case, and below it one of many names; skips where none can be made. */
static const char *group_dir(void)
{
	static const char *const roots[] = { "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/memory",
					     "/sys/fs/cgroup" };
	static char dir[256];
	char path[300];
	int i;

	need_root();
	for (i = 0; i < 3; i++) {
		snprintf(dir, sizeof(dir), "%s/kvtier-test-%d", roots[i], getpid());
		snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
		if (!access(roots[i], W_OK) && !mkdir(dir, 0755) && !access(path, W_OK))
			return dir;
		rmdir(dir);
	}
	skip("no cgroup can be made here");
}

static void start_grouped(const char *group)
{
	char text[300];

	snprintf(text, sizeof(text), "[tenant grouped]\ncgroup = %s\ndram = 4M\n", group);
	daemon_start(text);
}

/* A client in a group, and what it does there; dies with the case. */
static void run_in(const char *dir, void (*run)(struct kvt_client *c))
{
	char path[4400], number[16];

	if (fork())
		return;
	snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
	snprintf(number, sizeof(number), "%d", getpid());
	if (!write_text(path, number))
		_exit(3);
	run(client());
	_exit(0);
}

static void stay(struct kvt_client *c)
{
	(void)c;
	pause_ms(2000);
}

static void cgroup(void)
{
	const char *dir = group_dir();
	struct kvt_daemon_tenant t[8];
	struct kvt_client *c;
	int nr, i;

	start_grouped(strrchr(dir, '/'));
	run_in(dir, stay);
	c = client();
	for (i = 0, nr = 0; i < 400 && nr < 2; i++, pause_ms(5))
		nr = kvt_daemon_tenants(c, t, 8);
	CHECK(nr == 2, "expected two tenants, got %d", nr);
	CHECK(!strcmp(t[0].name, "grouped") || !strcmp(t[1].name, "grouped"),
	      "expected the process to be of its cgroup's tenant, got %s and %s", t[0].name,
	      t[1].name);
	kvt_client_close(c);
	wait(NULL);
	rmdir(dir);
}

static void make_private(struct kvt_client *c)
{
	fill_block(pool(c, "private", 8 * BLOCK, 8 * BLOCK, KVT_SHARED_KEEP), 0, 1);
}

/* After a restart a pool is its tenant's, though no client of that came yet. */
static void cgroup_restart(void)
{
	const char *dir = group_dir();
	struct kvt_daemon_pool pools[2];
	struct kvt_client *c;
	struct kvt_pool *p;

	start_grouped(strrchr(dir, '/'));
	run_in(dir, make_private);
	wait(NULL);
	rmdir(dir);
	daemon_kill(SIGKILL);
	daemon_spawn();
	c = client();
	CHECK(kvt_daemon_pools(c, pools, 2) == 1, "expected the pool to be taken back");
	CHECK(!strcmp(pools[0].tenant, "grouped"), "expected tenant grouped, got %s",
	      pools[0].tenant);
	ERROR(kvt_shared_attach(c, "private", "test", &p), -ENOENT);
	kvt_client_close(c);
}

/*
 * A path so long that /proc/PID/cgroup, read in pieces, has one that looks like a line of
 * its own, of another tenant's group: "ppp::/victim".
 */
static void cgroup_path(void)
{
	const char *dir = group_dir();
	struct kvt_daemon_tenant t[8];
	char path[2048], part[260];
	struct kvt_client *c;
	int nr, i, parts[8];
	size_t n;

	n = (size_t)snprintf(path, sizeof(path), "%s", dir);
	memset(part, 'p', sizeof(part));
	for (i = 0; i < 6; i++) {
		parts[i] = (int)n;
		n += (size_t)snprintf(path + n, sizeof(path) - n, i == 5 ? "/victim" : "/%.*s%s",
				      220, part, i == 4 ? "::" : "");
		CHECK(!mkdir(path, 0755), "%s: %m", path);
	}
	start_grouped("/victim");
	run_in(path, stay);
	c = client();
	EVENTUALLY(daemon_metric("kvtier_connected_clients") == 2,
		   "expected the process to connect");
	nr = kvt_daemon_tenants(c, t, 8);
	CHECK(nr == 1 && !strcmp(t[0].name, "user-0"), "expected user-0 alone, got %d, %s", nr,
	      t[0].name);
	kvt_client_close(c);
	wait(NULL);
	for (i = 5; i >= 0; i--) {
		rmdir(path);
		path[parts[i]] = 0;
	}
	rmdir(dir);
}

const struct test_case quota_cases[] = {
	{ "names", "no tenant can name another's pool", names, false },
	{ "quotas", "a tenant's pools stay within its quota together", quotas, false },
	{ "back_pressure", "who exhausts a quota waits, and nobody else", back_pressure, false },
	{ "cgroup", "a process is of its cgroup's tenant", cgroup, false },
	{ "cgroup_restart", "a pool stays its tenant's over a restart", cgroup_restart, false },
	{ "cgroup_path", "a group whose path reads like another's line", cgroup_path, false },
	{ 0 },
};
