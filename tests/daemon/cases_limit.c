// SPDX-License-Identifier: MIT
/* Limits of one tenant: what passes one is refused by its name, and others go on. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client.h"
#include "fixture.h"

#define ALICE 12345
#define BOB 12346

/* Bob is in no section. */
#define SECTION "[tenant alice]\nuser = 12345\n"

static int refused_by(int ret, const char *limit)
{
	if (ret == -EDQUOT && strstr(kvt_error_detail(), limit) &&
	    strstr(kvt_error_detail(), "alice"))
		return 0;
	printf("# expected -EDQUOT for %s, got %d (%s)\n", limit, ret, kvt_error_detail());
	fflush(stdout);
	return 1;
}

static int make(struct kvt_client *c, const char *name, uint64_t bytes, struct kvt_pool **p)
{
	struct kvt_shared_config config = KVT_SHARED_CONFIG_INIT;

	config.name = name;
	config.model = "test";
	config.bytes = bytes;
	config.block_bytes = BLOCK;
	config.dram_bytes = 4 * BLOCK;
	return kvt_shared_create(c, &config, p);
}

static int works(void)
{
	struct kvt_client *c = client();
	struct kvt_pool *p = pool(c, "other", 8 * BLOCK, 4 * BLOCK, 0);

	fill_block(p, 7, 1);
	if (wrong_words(p, 7, 1))
		return 2;
	kvt_pool_destroy(p);
	kvt_client_close(c);
	return 0;
}

/* ---- connections ------------------------------------------------------------------------- */

/* As many as may be, and twenty more; and one as soon as there is room again. */
static int three_clients(void)
{
	struct kvt_client *c[3], *more;
	int i;

	for (i = 0; i < 3; i++)
		OK(kvt_client_open(NULL, &c[i]));
	for (i = 0; i < 20; i++)
		if (refused_by(kvt_client_open(NULL, &more), "max-clients"))
			return 2;
	kvt_client_close(c[0]);
	for (i = 0; i < 400 && kvt_client_open(NULL, &more); i++)
		pause_ms(5);
	pause_ms(500);
	return i < 400 ? 0 : 4;
}

static int two_clients(void)
{
	struct kvt_client *c[2], *more;
	int i;

	for (i = 0; i < 2; i++)
		OK(kvt_client_open(NULL, &c[i]));
	return refused_by(kvt_client_open(NULL, &more), "max-clients");
}

static void clients_of_one(void)
{
	pid_t alice;

	need_root();
	daemon_start_for_all(SECTION "max-clients = 3\n");
	alice = as(ALICE, three_clients);
	EVENTUALLY(daemon_metric("kvtier_tenant_refusals_total{tenant=\"alice\"}") >= 20,
		   "expected refusals to be counted");
	CHECK(!end_of(as(BOB, works)), "expected bob to be served meanwhile");
	CHECK(!end_of(alice), "alice");
	daemon_configure(SECTION "max-clients = 2\n");
	kill(daemon_.pid, SIGHUP);
	EVENTUALLY(daemon_metric("kvtier_tenant_max_clients{tenant=\"alice\"}") == 2,
		   "expected the new limit");
	EVENTUALLY(daemon_metric("kvtier_tenant_connected_clients{tenant=\"alice\"}") == 0,
		   "expected alice's to be gone");
	CHECK(!end_of(as(ALICE, two_clients)), "alice, with the new limit");
}

/* All connections are taken: whoever came with a message of his own hears why. */
static int fill_daemon(void)
{
	struct kvt_client *c;
	int i, ret = 0;

	for (i = 0; i < 8 && !ret; i++)
		ret = kvt_client_open(NULL, &c);
	CHECK(ret == -ENOSPC && strstr(kvt_error_detail(), "max-clients"), "got %d (%s)", ret,
	      kvt_error_detail());
	pause_ms(1000);
	return 0;
}

static void administrator(void)
{
	pid_t alice;

	need_root();
	daemon_start_for_all("[daemon]\nmax-clients = 5\n");
	alice = as(ALICE, fill_daemon);
	EVENTUALLY(daemon_metric("kvtier_refused_connections_total") >= 1, "expected a refusal");
	CHECK(!end_of(as(0, works)), "expected the administrator to be let in");
	CHECK(!end_of(alice), "alice");
}

/* ---- tenants ------------------------------------------------------------------------------ */

/* As many users as one can have in a namespace of his own: they come and go, and so do we. */
static void many_users(void)
{
	struct kvt_client *c;
	uint32_t i;

	need_root();
	daemon_start_for_all(NULL);
	c = client();
	for (i = 0; i < 1100; i++) {
		struct kvt_client *other;

		CHECK(!seteuid(100000 + i), "seteuid: %m");
		OK(kvt_client_open(NULL, &other));
		CHECK(!seteuid(0), "seteuid: %m");
		kvt_client_close(other);
	}
	CHECK(daemon_metric("kvtier_tenant_connected_clients{tenant=\"user-0\"}") == 1,
	      "expected who is connected not to be forgotten");
	CHECK(daemon_metric("kvtier_tenant_connected_clients{tenant=\"user-100000\"}") < 0,
	      "expected the first of them to be forgotten");
	kvt_client_close(c);
}

/* ---- pools ------------------------------------------------------------------------------- */

static int two_pools(void)
{
	struct kvt_client *c = client();
	struct kvt_pool *p[2], *more;
	int ret;

	OK(make(c, "a", 8 * BLOCK, &p[0]));
	OK(make(c, "b", 8 * BLOCK, &p[1]));
	if (refused_by(make(c, "c", 8 * BLOCK, &more), "max-pools"))
		return 2;
	fill_block(p[1], 3, 1); /* those go on */
	kvt_pool_destroy(p[0]);
	for (ret = -EDQUOT; ret == -EDQUOT; pause_ms(1))
		ret = make(c, "c", 8 * BLOCK, &more);
	OK(ret);
	return wrong_words(p[1], 3, 1) ? 3 : 0;
}

static void pools_of_one(void)
{
	need_root();
	daemon_start_for_all(SECTION "max-pools = 2\n");
	CHECK(!end_of(as(ALICE, two_pools)), "alice");
	CHECK(!end_of(as(BOB, works)), "bob");
}

/* ---- metadata ---------------------------------------------------------------------------- */

#define MANY 200000u

static int much_metadata(void)
{
	static struct kvt_plan_range ranges[MANY];
	struct kvt_client *c = client();
	struct kvt_pool *p, *more;
	uint32_t i;

	if (refused_by(make(c, "table", 65536 * BLOCK, &more), "max-metadata"))
		return 2;
	OK(make(c, "a", 64 * BLOCK, &p));
	fill_block(p, 3, 1);
	/* A ring; and positions of a plan: what is too much ends the ring and not the client. */
	for (i = 0; i < MANY; i++)
		ranges[i] = (struct kvt_plan_range){ 0, BLOCK };
	if (refused_by(kvt_plan_publish(p, ranges, MANY, 0), "max-metadata"))
		return 3;
	for (i = 0; i < 4000; i++)
		ranges[i].length = 64 * BLOCK;
	OK(kvt_plan_publish(p, ranges, 4000, 0));
	ERROR(kvt_plan_wait(p, 20000), -EDQUOT);
	OK(kvt_plan_publish(p, ranges, 100, 0));
	OK(kvt_plan_wait(p, 20000));
	CHECK(!wrong_words(p, 3, 1), "expected the pool to go on");
	kvt_pool_destroy(p);
	/* One that is kept has more, and gives all of it back when it is removed. */
	p = pool(c, "kept", 64 * BLOCK, 8 * BLOCK, KVT_SHARED_KEEP);
	OK(kvt_shared_checkpoint(p, "note", 4));
	OK(kvt_pin(p, 0, BLOCK));
	OK(kvt_shared_remove(c, "kept"));
	kvt_pool_destroy(p);
	kvt_client_close(c);
	return 0;
}

static void metadata_of_one(void)
{
	need_root();
	if (want_module)
		skip("the module has not so large a pool here");
	daemon_start_for_all(SECTION "max-metadata = 1M\n");
	CHECK(!end_of(as(ALICE, much_metadata)), "alice");
	CHECK(!end_of(as(BOB, works)), "bob");
	/* All of it is given back. */
	EVENTUALLY(daemon_metric("kvtier_tenant_metadata_bytes{tenant=\"alice\"}") == 0 &&
		   daemon_metric("kvtier_tenant_open_descriptors{tenant=\"alice\"}") == 0,
		   "expected nothing to be counted for alice, got %g bytes, %g descriptors",
		   daemon_metric("kvtier_tenant_metadata_bytes{tenant=\"alice\"}"),
		   daemon_metric("kvtier_tenant_open_descriptors{tenant=\"alice\"}"));
}

/* ---- pins -------------------------------------------------------------------------------- */

static int pin_all(void)
{
	struct kvt_client *c = client();
	struct kvt_pool *a = pool(c, "a", 16 * BLOCK, 16 * BLOCK, 0);
	struct kvt_pool *b = pool(c, "b", 16 * BLOCK, 16 * BLOCK, 0);

	OK(kvt_pin(a, 0, 16 * BLOCK));
	OK(kvt_pin(a, 0, 16 * BLOCK)); /* once more: that takes no memory */
	ERROR(kvt_pin(b, 0, 16 * BLOCK), -EDQUOT);
	OK(kvt_pin(b, 0, 8 * BLOCK));
	ERROR(kvt_pin(b, 8 * BLOCK, BLOCK), -EDQUOT);
	OK(kvt_unpin(a, 0, BLOCK));
	ERROR(kvt_pin(b, 8 * BLOCK, BLOCK), -EDQUOT);
	OK(kvt_unpin(a, 0, BLOCK));
	OK(kvt_pin(b, 8 * BLOCK, BLOCK));
	pause_ms(500);
	return 0;
}

static int pin_some(void)
{
	struct kvt_client *c = client();
	struct kvt_pool *p = pool(c, "p", 32 * BLOCK, 32 * BLOCK, 0);
	uint64_t b;

	OK(kvt_pin(p, 0, 12 * BLOCK));
	ERROR(kvt_pin(p, 16 * BLOCK, BLOCK), -ENOSPC);
	/* The quarter that is free of pins is enough to go on. */
	for (b = 0; b < 32; b++)
		fill_block(p, b, 2);
	for (b = 0; b < 32; b++)
		if (wrong_words(p, b, 2))
			return 2;
	return 0;
}

static void pins_of_one(void)
{
	pid_t alice;

	need_root();
	if (want_module)
		skip("the module bounds pins by budgets, which are reserved");
	daemon_start_for_all("[tiers]\ndram = 3M\n" SECTION "dram = 1536K\n");
	alice = as(ALICE, pin_all);
	EVENTUALLY(daemon_metric("kvtier_tenant_pinned_bytes{tenant=\"alice\"}") == 24.0 * BLOCK,
		   "expected alice to pin her quota");
	CHECK(!end_of(as(BOB, pin_some)), "expected bob to have a part of the host's");
	CHECK(!end_of(alice), "alice");
	EVENTUALLY(daemon_metric("kvtier_tenant_pinned_bytes{tenant=\"alice\"}") == 0,
		   "expected nothing to stay pinned");
}

/* ---- budgets of the module ----------------------------------------------------------------- */

/* Its descriptor is the client's; what its tenant may have is not. */
static int raise_own_budget(void)
{
	struct kvtier_pool_budget b = { .size = sizeof(b), .tier = KVTIER_TIER_DRAM,
					.budget.bytes = 16 * BLOCK };
	struct kvt_client *c = client();
	struct kvt_pool *p = pool(c, "p", 16 * BLOCK, 4 * BLOCK, 0);
	int fd = kvt_shared_of(p)->kernel.fd;
	struct kvtier_stats st;
	uint64_t i;

	CHECK(ioctl(fd, KVTIER_IOC_POOL_BUDGET, &b) < 0 && errno == EACCES,
	      "expected the module to refuse it, got %m");
	ERROR(kvt_pool_resize(p, 16 * BLOCK), -EDQUOT);
	OK(kvt_pool_resize(p, 8 * BLOCK));
	for (i = 0; i < 16; i++)
		fill_block(p, i, 1);
	OK(kvt_pool_resize(p, 4 * BLOCK)); /* what has to leave leaves */
	OK(kvt_stats(p, &st));
	CHECK(st.tier[KVTIER_TIER_DRAM].budget_bytes == 4 * BLOCK &&
	      st.tier[KVTIER_TIER_DRAM].used_bytes <= 4 * BLOCK, "expected the old budget again");
	for (i = 0; i < 16; i++)
		CHECK(!wrong_words(p, i, 1), "block %llu", (unsigned long long)i);
	kvt_pool_destroy(p);
	kvt_client_close(c);
	return 0;
}

/* What a client holds on to is in its quota, until it lets go. */
static int keep_descriptor(void)
{
	struct kvt_client *c = client();
	struct kvt_pool *p = pool(c, "p", 16 * BLOCK, 8 * BLOCK, 0), *more;
	int kept = dup(kvt_shared_of(p)->kernel.fd);

	CHECK(kept >= 0, "dup: %m");
	kvt_pool_destroy(p);
	EVENTUALLY(kvt_daemon_pools(c, NULL, 0) == 0, "expected it to be gone");
	ERROR(make(c, "q", 16 * BLOCK, &more), -EDQUOT);
	close(kept);
	OK(make(c, "q", 16 * BLOCK, &more));
	kvt_pool_destroy(more);
	OK(make(c, "r", 16 * BLOCK, &more));
	kvt_client_close(c);
	return 0;
}

static void kept_descriptor(void)
{
	need_root();
	if (!want_module)
		skip("memory files are emptied");
	daemon_start_for_all(SECTION "dram = 512K\n");
	CHECK(!end_of(as(ALICE, keep_descriptor)), "alice");
	EVENTUALLY(daemon_metric("kvtier_tenant_used_bytes{tenant=\"alice\",tier=\"dram\"}") == 0,
		   "expected nothing to be counted");
}

static void fixed_budget(void)
{
	need_root();
	if (!want_module)
		skip("memory files have their budgets from the daemon");
	daemon_start_for_all(SECTION "dram = 512K\n");
	CHECK(!end_of(as(ALICE, raise_own_budget)), "alice");
	/* A daemon that was restarted is the same user. */
	CHECK(!end_of(as(BOB, works)), "bob");
	daemon_kill(SIGKILL);
	daemon_spawn();
	CHECK(!chmod(daemon_.socket, 0666), "chmod: %m");
	CHECK(!end_of(as(ALICE, raise_own_budget)), "alice, after a restart");
}

/* ---- who sees what ----------------------------------------------------------------------- */

static int look_at_metrics(void)
{
	CHECK(daemon_metric("kvtier_tenant_faults_total{tenant=\"user-0\"}") >= 0,
	      "sums of tenants");
	CHECK(daemon_metric("kvtier_pool_") < 0, "expected no pool to be named");
	return 0;
}

static void metrics_of_others(void)
{
	char path[300];
	struct kvt_client *c;
	struct kvt_pool *p;
	double faults;

	need_root();
	daemon_start_for_all(NULL);
	snprintf(path, sizeof(path), "%.90s/metrics", daemon_.dir);
	CHECK(!chmod(path, 0666), "chmod: %m");
	c = client();
	p = pool(c, "secret", 8 * BLOCK, 4 * BLOCK, 0);
	fill_block(p, 1, 1);
	CHECK(daemon_metric("kvtier_pool_used_bytes{pool=\"secret\"") >= 0,
	      "expected the administrator to see it");
	CHECK(!end_of(as(BOB, look_at_metrics)), "bob");
	/* A sum does not go back with a pool. */
	faults = daemon_metric("kvtier_tenant_faults_total{tenant=\"user-0\"}");
	CHECK(faults >= 1, "expected faults to be counted");
	kvt_pool_destroy(p);
	EVENTUALLY(daemon_metric("kvtier_live_pools") == 0, "expected the pool to go");
	CHECK(daemon_metric("kvtier_tenant_faults_total{tenant=\"user-0\"}") >= faults,
	      "expected the sum to stay");
	kvt_client_close(c);
}

const struct test_case limit_cases[] = {
	{ "clients_of_one", "a tenant's connections are bounded, and it hears so", clients_of_one,
	  false },
	{ "administrator", "is let in where all connections are taken", administrator, false },
	{ "many_users", "more users than the daemon keeps counters for", many_users, false },
	{ "pools_of_one", "a tenant's pools are bounded", pools_of_one, false },
	{ "metadata_of_one", "tables, rings and plans of a tenant are bounded", metadata_of_one,
	  false },
	{ "pins_of_one", "pins leave a tenant's quota and others their memory", pins_of_one,
	  false },
	{ "fixed_budget", "a client cannot raise its budget in the module", fixed_budget, false },
	{ "kept_descriptor", "a pool that a client holds on to is in its quota", kept_descriptor,
	  false },
	{ "metrics_of_others", "no pool is named to others, and sums stay", metrics_of_others,
	  false },
	{ 0 },
};
