// SPDX-License-Identifier: MIT
/* kvtier pool: list, show and set pools, of processes, of the module and of the daemon. */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "command.h"
#include "option.h"
#include "print.h"
#include "size.h"
#include "system.h"
#include "text.h"

static int help(void)
{
	puts("usage: kvtier pool [list]\n"
	     "       kvtier pool show POOL\n"
	     "       kvtier pool set POOL dram SIZE\n"
	     "       kvtier pool checkpoint POOL\n\n"
	     "List the pools of processes, of the module and of the daemon; show one; set the DRAM\n"
	     "budget of one of the daemon; make its content durable. POOL is a name, a process,\n"
	     "poolN of the module, or TENANT/NAME of the daemon.\n\n"
	     "  --json      JSON: an array of pools, or one object\n"
	     "  -h, --help  show this help\n\n"
	     "Exit status: 0; 1 it is not there or was refused; 2 usage.");
	return 0;
}

static void add_tiers(cJSON *o, const uint64_t *budget, const uint64_t *used)
{
	cJSON *tiers = cJSON_AddObjectToObject(o, "tiers"), *tier;
	int t;

	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++) {
		tier = cJSON_AddObjectToObject(tiers, tier_names[t]);
		cJSON_AddNumberToObject(tier, "budget_bytes", (double)budget[t]);
		cJSON_AddNumberToObject(tier, "used_bytes", (double)used[t]);
	}
}

static cJSON *daemon_json(const struct kvt_daemon_pool *p, const struct kvtier_stats *stats)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "name", p->name);
	cJSON_AddStringToObject(o, "tenant", p->tenant);
	cJSON_AddStringToObject(o, "pager", "daemon");
	cJSON_AddStringToObject(o, "device", p->device);
	cJSON_AddStringToObject(o, "model", p->model);
	cJSON_AddNumberToObject(o, "clients", p->clients);
	cJSON_AddNumberToObject(o, "bytes", (double)p->bytes);
	cJSON_AddNumberToObject(o, "block_bytes", (double)p->block_bytes);
	cJSON_AddNumberToObject(o, "idle_ms", (double)p->idle_ms);
	cJSON_AddBoolToObject(o, "kept", p->flags & KVT_SHARED_KEEP);
	cJSON_AddBoolToObject(o, "outlives_daemon", p->flags & KVT_POOL_OUTLIVES);
	cJSON_AddNumberToObject(o, "checkpoint_age_s",
				p->checkpoint == UINT32_MAX ? NAN : p->checkpoint);
	cJSON_AddNumberToObject(o, "plan_left", (double)p->plan_left);
	cJSON_AddNumberToObject(o, "late_faults", (double)stats->late_faults);
	cJSON_AddNumberToObject(o, "hidden_fraction", stats_hidden(stats));
	add_tiers(o, p->budget, p->used);
	return o;
}

/* ---- list ---------------------------------------------------------------------- */

static void print_line(const char *name, const char *owner, uint64_t bytes, const uint64_t *used,
		       const char *note)
{
	char text[4][SIZE_TEXT], column[2][TEXT_COLUMN];

	printf("%s %s %7s %7s %7s %7s  %s\n", text_column(name, 24, column[0]),
	       text_column(owner, 14, column[1]), size_text(bytes, text[0]),
	       size_text(used[KVTIER_TIER_DRAM], text[1]),
	       size_text(used[KVTIER_TIER_CXL], text[2]),
	       size_text(used[KVTIER_TIER_NVME], text[3]), note);
}

static void print_file(const struct kvt_stat_file *f)
{
	uint64_t used[KVTIER_NR_TIERS];
	char owner[32];
	int t;

	for (t = 0; t < KVTIER_NR_TIERS; t++)
		used[t] = f->stats.tier[t].used_bytes;
	if (f->kernel_id >= 0)
		snprintf(owner, sizeof(owner), "pool%d", f->kernel_id);
	else
		snprintf(owner, sizeof(owner), "pid %u", f->pid);
	print_line(f->name, owner, f->stats.bytes, used, f->stats.bad_blocks ? "bad blocks" : "");
}

static void print_daemon(const struct kvt_daemon_pool *p)
{
	char owner[64], note[64];

	snprintf(owner, sizeof(owner), "%s/", p->tenant);
	snprintf(note, sizeof(note), "%u clients%s%s", p->clients,
		 p->checkpoint == UINT32_MAX ? "" : ", checkpointed",
		 p->flags & KVT_POOL_OUTLIVES ? "" : ", ends with the daemon");
	print_line(p->name, owner, p->bytes, p->used, note);
}

static int list(const struct system *s)
{
	cJSON *array = json_errors ? cJSON_CreateArray() : NULL;
	size_t i;

	if (!array && (s->pools.nr || s->nr_daemon_pools))
		printf("%-24s %-14s %7s %7s %7s %7s\n", "POOL", "OF", "SIZE", "DRAM", "CXL",
		       "NVME");
	for (i = 0; i < s->pools.nr; i++) {
		if (array)
			cJSON_AddItemToArray(array, pool_json(&s->pools.pool[i]));
		else
			print_file(&s->pools.pool[i]);
	}
	for (i = 0; i < s->nr_daemon_pools; i++) {
		const struct kvt_daemon_pool *p = &s->daemon_pools[i];

		if (array)
			cJSON_AddItemToArray(array, daemon_json(p, &s->shared.pool[i].stats));
		else
			print_daemon(p);
	}
	if (array)
		return print_object(array);
	if (!s->pools.nr && !s->nr_daemon_pools)
		puts("no pools");
	return 0;
}

/* ---- one ----------------------------------------------------------------------- */

static void print_members(const cJSON *o, int indent)
{
	const cJSON *item;

	cJSON_ArrayForEach(item, o)
	{
		printf("%*s%-*s ", indent, "", 20 - indent, item->string);
		if (cJSON_IsObject(item)) {
			putchar('\n');
			print_members(item, indent + 2);
		} else if (cJSON_IsString(item)) {
			puts(item->valuestring);
		} else if (cJSON_IsBool(item)) {
			puts(cJSON_IsTrue(item) ? "yes" : "no");
		} else if (cJSON_IsNumber(item) && !isnan(item->valuedouble)) {
			printf(item->valuedouble == floor(item->valuedouble) ? "%.0f\n" : "%.3f\n",
			       item->valuedouble);
		} else {
			puts("-");
		}
	}
}

static int show(const struct pool_ref *ref)
{
	cJSON *o = ref->daemon ? daemon_json(ref->daemon, &ref->file->stats) :
				 pool_json(ref->file);

	if (json_errors)
		return print_object(o);
	print_members(o, 0);
	cJSON_Delete(o);
	return 0;
}

static int refused(const char *what, const char *pool, int error)
{
	return fail(1, "the daemon refuses %s of %s: %s", what, pool,
		    kvt_error_detail()[0] ? kvt_error_detail() : kvt_strerror(error));
}

/* With --json, what was done is said. */
static int done(const struct pool_ref *ref, const char *name, double value)
{
	cJSON *o;

	if (!json_errors)
		return 0;
	o = cJSON_CreateObject();
	cJSON_AddStringToObject(o, "name", ref->daemon->name);
	cJSON_AddStringToObject(o, "tenant", ref->daemon->tenant);
	cJSON_AddNumberToObject(o, name, value);
	return print_object(o);
}

static int need_daemon_pool(const struct pool_ref *ref, const char *what)
{
	if (ref->daemon)
		return 0;
	return fail(1, "%s is not a pool of kvtierd: only its own process can %s it",
		    ref->file->name, what);
}

static int set(const struct system *s, const struct pool_ref *ref, const char *name,
	       const char *size)
{
	uint64_t bytes;
	int ret;

	if (strcmp(name, "dram"))
		return fail(EXIT_USAGE, "'%s' cannot be set: dram can", name);
	if (size_parse(size, &bytes))
		return fail(EXIT_USAGE, "'%s' is not a size such as 512M or 8G", size);
	if (need_daemon_pool(ref, "resize"))
		return 1;
	ret = kvt_daemon_set_budget(s->client, ref->daemon->id, bytes);
	return ret ? refused("that budget", ref->daemon->name, ret) :
		     done(ref, "dram_bytes", (double)bytes);
}

static int checkpoint(const struct system *s, const struct pool_ref *ref)
{
	int ret;

	if (need_daemon_pool(ref, "checkpoint"))
		return 1;
	ret = kvt_daemon_checkpoint(s->client, ref->daemon->id);
	return ret < 0 ? refused("a checkpoint", ref->daemon->name, ret) :
			 done(ref, "checkpoint_age_s", 0);
}

static int run(const struct system *s, int argc, char **argv)
{
	struct pool_ref ref;

	if (argc < 2)
		return list(s);
	if (system_find(s, argv[1], &ref))
		return 1;
	if (!strcmp(argv[0], "show"))
		return show(&ref);
	if (!strcmp(argv[0], "checkpoint"))
		return checkpoint(s, &ref);
	return set(s, &ref, argv[2], argv[3]);
}

static int check(int argc, char **argv)
{
	static const struct {
		const char *name;
		int argc;
	} verbs[] = { { "list", 1 }, { "show", 2 }, { "set", 4 }, { "checkpoint", 2 } };
	size_t i;

	if (!argc)
		return 0;
	for (i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (strcmp(verbs[i].name, argv[0]))
			continue;
		return argc == verbs[i].argc ?
			       0 :
			       fail(EXIT_USAGE,
				    "%s wants other arguments: see `kvtier pool --help`", argv[0]);
	}
	return fail(EXIT_USAGE,
		    "'%s' is not list, show, set or checkpoint: see `kvtier pool --help`", argv[0]);
}

int cmd_pool(int argc, char **argv)
{
	struct system s;
	int ret = option_take_none(argc, argv) ?: check(argc - optind, argv + optind);

	if (ret)
		return ret < 0 ? help() : ret;
	ret = system_look(&s) ?: run(&s, argc - optind, argv + optind);
	system_close(&s);
	return ret;
}
