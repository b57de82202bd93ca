// SPDX-License-Identifier: MIT
/* kvtier alone: the system on one screen. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "command.h"
#include "host.h"
#include "option.h"
#include "print.h"
#include "problems.h"
#include "size.h"
#include "system.h"
#include "text.h"

#define POOLS_SHOWN 12

static int help(void)
{
	puts("usage: kvtier [show] [OPTION...]\n\n"
	     "Show the system on one screen: module, daemon, tiers, pools, and what is wrong.\n\n"
	     "  --json      one JSON object\n"
	     "  -h, --help  show this help\n\n"
	     "Exit status: 0; 1 the pools cannot be read; 2 usage.");
	return 0;
}

struct sums {
	uint64_t budget[KVTIER_NR_TIERS], used[KVTIER_NR_TIERS];
	uint64_t memory; /* available */
	uint64_t disk;
	char dir[4096];
};

static void add_pools(const struct pools *pools, struct sums *sums)
{
	size_t i;
	int t;

	for (i = 0; i < pools->nr; i++) {
		for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++) {
			sums->budget[t] += pools->pool[i].stats.tier[t].budget_bytes;
			sums->used[t] += pools->pool[i].stats.tier[t].used_bytes;
		}
	}
}

static void add_up(const struct system *s, struct sums *sums)
{
	struct statvfs fs;

	memset(sums, 0, sizeof(*sums));
	sums->memory = host_memory();
	if (host_nvme_dir(sums->dir, sizeof(sums->dir)) && !statvfs(sums->dir, &fs))
		sums->disk = (uint64_t)fs.f_bavail * fs.f_frsize;
	add_pools(&s->pools, sums);
	add_pools(&s->shared, sums);
}

/* ---- JSON ---------------------------------------------------------------------- */

static cJSON *module_json(const struct module *m)
{
	const char *mend, *lack = module_lack(m, &mend);
	cJSON *o = cJSON_CreateObject();

	cJSON_AddBoolToObject(o, "loaded", m->error != -ENODEV);
	cJSON_AddBoolToObject(o, "ready", module_ready(m));
	cJSON_AddStringToObject(o, "lack", lack ? lack : "");
	cJSON_AddStringToObject(o, "mend", lack ? mend : "");
	return o;
}

static cJSON *daemon_json(const struct system *s)
{
	cJSON *o = cJSON_CreateObject();
	bool up = s->client && !s->daemon_error;

	cJSON_AddBoolToObject(o, "running", up);
	cJSON_AddStringToObject(o, "detail", up ? "" : s->daemon_detail);
	if (!up)
		return o;
	cJSON_AddStringToObject(o, "version", s->status.version);
	cJSON_AddStringToObject(o, "backend", s->status.backend);
	cJSON_AddNumberToObject(o, "pid", s->status.pid);
	cJSON_AddNumberToObject(o, "clients", s->status.clients);
	cJSON_AddNumberToObject(o, "pools", s->status.pools);
	cJSON_AddNumberToObject(o, "tenants", s->status.tenants);
	return o;
}

static int print_json(const struct system *s, const struct sums *sums)
{
	cJSON *o = cJSON_CreateObject(), *tiers, *pools, *tier, *pool;
	size_t i;
	int t;

	cJSON_AddStringToObject(o, "version", kvt_version());
	cJSON_AddItemToObject(o, "module", module_json(&s->module));
	cJSON_AddItemToObject(o, "daemon", daemon_json(s));
	tiers = cJSON_AddObjectToObject(o, "tiers");
	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++) {
		tier = cJSON_AddObjectToObject(tiers, tier_names[t]);
		cJSON_AddNumberToObject(tier, "budget_bytes", (double)sums->budget[t]);
		cJSON_AddNumberToObject(tier, "used_bytes", (double)sums->used[t]);
	}
	cJSON_AddNumberToObject(o, "memory_available_bytes", (double)sums->memory);
	cJSON_AddNumberToObject(o, "disk_free_bytes", (double)sums->disk);
	pools = cJSON_AddArrayToObject(o, "pools");
	for (i = 0; i < s->pools.nr; i++)
		cJSON_AddItemToArray(pools, pool_json(&s->pools.pool[i]));
	pools = cJSON_AddArrayToObject(o, "daemon_pools");
	for (i = 0; i < s->nr_daemon_pools; i++) {
		pool = pool_json(&s->shared.pool[i]);
		cJSON_ReplaceItemInObject(pool, "name",
					  cJSON_CreateString(s->daemon_pools[i].name));
		cJSON_AddStringToObject(pool, "tenant", s->daemon_pools[i].tenant);
		cJSON_AddNumberToObject(pool, "clients", s->daemon_pools[i].clients);
		cJSON_AddItemToArray(pools, pool);
	}
	cJSON_AddItemToObject(o, "problems", problems_of(s));
	return print_object(o);
}

/* ---- text ---------------------------------------------------------------------- */

static void print_module(const struct module *m)
{
	const char *mend, *lack = module_lack(m, &mend);
	char size[SIZE_TEXT];

	if (!lack)
		printf("module   ready: %d stores, %s free, CXL on %d nodes\n",
		       __builtin_popcountll(m->stores), size_text(m->store_free, size),
		       __builtin_popcountll(m->cxl_nodes));
	else if (m->error == -ENODEV)
		puts("module   not loaded: pools are the user pager's");
	else
		printf("module   %s\n", lack);
}

static void print_daemon(const struct system *s)
{
	if (s->client && !s->daemon_error)
		printf("daemon   kvtierd %s (%s), process %u: %u pools, %u clients, %u tenants\n",
		       s->status.version, s->status.backend, s->status.pid, s->status.pools,
		       s->status.clients, s->status.tenants);
	else if (system_daemon_silent(s))
		puts("daemon   cannot be asked: see below");
	else
		puts("daemon   none runs: each pool belongs to one process");
}

static void print_sums(const struct sums *sums)
{
	char text[3][SIZE_TEXT];
	int t;

	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++) {
		printf("%-8s %-5s %7s of %-7s", t == KVTIER_TIER_DRAM ? "tiers" : "", tier_names[t],
		       size_text(sums->used[t], text[0]), size_text(sums->budget[t], text[1]));
		if (t == KVTIER_TIER_DRAM)
			printf("  %s available", size_text(sums->memory, text[2]));
		if (t == KVTIER_TIER_NVME && sums->dir[0])
			printf("  %s free in %s", size_text(sums->disk, text[2]), sums->dir);
		putchar('\n');
	}
}

static void print_pool(const struct kvt_stat_file *f)
{
	const struct kvtier_stats *s = &f->stats;
	char size[4][SIZE_TEXT], hits[PERCENT_TEXT], hidden[PERCENT_TEXT], name[TEXT_COLUMN];
	char owner[POOL_OWNER];

	printf("         %s %7s %6s %6s %6s %6s %7s %7s %6llu\n", text_column(f->name, 12, name),
	       pool_owner(f, owner), size_text(s->bytes, size[0]),
	       size_text(s->tier[KVTIER_TIER_DRAM].used_bytes, size[1]),
	       size_text(s->tier[KVTIER_TIER_CXL].used_bytes, size[2]),
	       size_text(s->tier[KVTIER_TIER_NVME].used_bytes, size[3]),
	       percent_text(stats_hits(s), hits), percent_text(stats_hidden(s), hidden),
	       (unsigned long long)s->late_faults);
}

static void print_pools(const struct system *s)
{
	size_t all = s->pools.nr + s->nr_daemon_pools, i;

	if (!all) {
		puts("pools    none: start an engine with `kvtier run -- COMMAND`");
		return;
	}
	printf("%-8s %-12s %7s %6s %6s %6s %6s %7s %7s %6s\n", "pools", "", "OF", "SIZE", "DRAM",
	       "CXL", "NVME", "HITS", "HIDDEN", "LATE");
	for (i = 0; i < all && i < POOLS_SHOWN; i++) {
		if (i < s->pools.nr)
			print_pool(&s->pools.pool[i]);
		else
			print_pool(&s->shared.pool[i - s->pools.nr]);
	}
	if (all > POOLS_SHOWN)
		printf("%-8s and %zu more: `kvtier pool`\n", "", all - POOLS_SHOWN);
}

static void print_problems(const struct system *s)
{
	cJSON *array = problems_of(s), *item;
	const char *label = "wrong";

	if (!cJSON_GetArraySize(array))
		puts("wrong    nothing");
	cJSON_ArrayForEach(item, array)
	{
		printf("%-8s %s\n", label, item->valuestring);
		label = "";
	}
	cJSON_Delete(array);
}

static int print(const struct system *s, const struct sums *sums)
{
	char host[64] = "";

	gethostname(host, sizeof(host) - 1);
	printf("kvtier   %s on %s\n", kvt_version(), host);
	print_module(&s->module);
	print_daemon(s);
	print_sums(sums);
	print_pools(s);
	print_problems(s);
	return 0;
}

int cmd_show(int argc, char **argv)
{
	struct system s;
	struct sums sums;
	int ret = option_take_none(argc, argv) ?: option_end(argc, argv, 0);

	if (ret)
		return ret < 0 ? help() : ret;
	ret = system_look(&s);
	if (!ret) {
		add_up(&s, &sums);
		ret = json_errors ? print_json(&s, &sums) : print(&s, &sums);
	}
	system_close(&s);
	return ret;
}
