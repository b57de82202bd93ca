// SPDX-License-Identifier: MIT
/* kvtier tier: what the tiers of this host are, and their settings. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include <cjson/cJSON.h>

#include "command.h"
#include "host.h"
#include "option.h"
#include "print.h"
#include "size.h"
#include "sysfs.h"
#include "system.h"

static int help(void)
{
	puts("usage: kvtier tier [list]\n"
	     "       kvtier tier show dram|cxl|storeN|policy\n"
	     "       kvtier tier set dram|cxl|storeN|policy NAME VALUE\n"
	     "       kvtier tier quota TENANT dram|cxl|nvme SIZE\n\n"
	     "List the tiers; show and set what the module lets set (/sys/class/kvtier); set what\n"
	     "a tenant of the daemon may have (0: no limit).\n\n"
	     "  --json      one JSON object\n"
	     "  -h, --help  show this help\n\n"
	     "Exit status: 0; 1 it is not there or was refused; 2 usage.");
	return 0;
}

/* ---- list ---------------------------------------------------------------------- */

static void add_tier(cJSON *array, const char *by, const char *name, const char *where,
		     double limit, double used)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "by", by);
	cJSON_AddStringToObject(o, "tier", name);
	cJSON_AddStringToObject(o, "where", where);
	cJSON_AddNumberToObject(o, "limit_bytes", limit);
	cJSON_AddNumberToObject(o, "used_bytes", used);
	cJSON_AddItemToArray(array, o);
}

static double member(const cJSON *folder, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(folder, name);

	return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

static const char *text_of(const cJSON *folder, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(folder, name);

	return cJSON_IsString(item) ? item->valuestring : "";
}

static void add_module_tier(cJSON *array, const char *name)
{
	cJSON *folder = sysfs_folder(name);
	char nodes[64];
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(folder, "nodes");

	if (!folder)
		return;
	if (cJSON_IsNumber(item)) /* a single node looks like a number */
		snprintf(nodes, sizeof(nodes), "nodes %.0f", item->valuedouble);
	else
		snprintf(nodes, sizeof(nodes), "nodes %s", text_of(folder, "nodes"));
	add_tier(array, "module", name, nodes, member(folder, "limit_bytes"),
		 member(folder, "used_bytes"));
	cJSON_Delete(folder);
}

static int is_store(const struct dirent *e)
{
	return !strncmp(e->d_name, "store", 5) && e->d_name[5] &&
	       strspn(e->d_name + 5, "0123456789") == strlen(e->d_name + 5);
}

static void add_stores(cJSON *array)
{
	struct dirent **names;
	char where[512];
	cJSON *folder;
	int nr = scandir(module_class(), &names, is_store, versionsort), i;

	for (i = 0; i < nr; i++) {
		folder = sysfs_folder(names[i]->d_name);
		snprintf(where, sizeof(where), "%.32s %.400s", names[i]->d_name,
			 text_of(folder, "devices"));
		add_tier(array, "module", "nvme", where, member(folder, "size_bytes"),
			 member(folder, "used_bytes"));
		cJSON_Delete(folder);
		free(names[i]);
	}
	if (nr >= 0)
		free(names);
}

static void add_daemon_tiers(cJSON *array, const struct system *s)
{
	char where[192];
	uint32_t i;

	for (i = 0; i < s->nr_tiers; i++) {
		const struct kvt_daemon_tier *t = &s->tiers[i];

		if (t->node >= 0)
			snprintf(where, sizeof(where), "node %d", t->node);
		else
			snprintf(where, sizeof(where), "%s", t->where);
		add_tier(array, "daemon", tier_names[t->tier % KVTIER_NR_TIERS], where,
			 (double)t->limit, (double)t->used);
	}
}

/* What pools of processes have: the user pager's tiers. */
static void add_host_tiers(cJSON *array, const struct system *s)
{
	double used[KVTIER_NR_TIERS] = { 0 };
	struct statvfs fs;
	char dir[4096];
	size_t i;
	int t;

	for (i = 0; i < s->pools.nr; i++)
		for (t = 0; t < KVTIER_NR_TIERS && s->pools.pool[i].kernel_id < 0; t++)
			used[t] += (double)s->pools.pool[i].stats.tier[t].used_bytes;
	add_tier(array, "processes", "dram", "available memory",
		 (double)host_memory() + used[KVTIER_TIER_DRAM], used[KVTIER_TIER_DRAM]);
	if (used[KVTIER_TIER_CXL] > 0)
		add_tier(array, "processes", "cxl", "", 0, used[KVTIER_TIER_CXL]);
	if (host_nvme_dir(dir, sizeof(dir)) && !statvfs(dir, &fs))
		add_tier(array, "processes", "nvme", dir,
			 (double)fs.f_bavail * (double)fs.f_frsize + used[KVTIER_TIER_NVME],
			 used[KVTIER_TIER_NVME]);
}

static void print_tier(const cJSON *o)
{
	char limit[SIZE_TEXT], used[SIZE_TEXT];
	double most = member(o, "limit_bytes");

	printf("%-10s %-5s %8s of %-8s  %s\n", text_of(o, "by"), text_of(o, "tier"),
	       size_text((uint64_t)member(o, "used_bytes"), used),
	       most > 0 ? size_text((uint64_t)most, limit) : "-", text_of(o, "where"));
}

static int list(void)
{
	cJSON *array = cJSON_CreateArray(), *o;
	struct system s;
	int ret;

	ret = system_look(&s);
	if (!ret) {
		add_module_tier(array, "dram");
		add_module_tier(array, "cxl");
		add_stores(array);
		add_daemon_tiers(array, &s);
		add_host_tiers(array, &s);
	}
	system_close(&s);
	if (!ret && json_errors)
		return print_object(array);
	cJSON_ArrayForEach(o, array)
	{
		print_tier(o);
	}
	cJSON_Delete(array);
	return ret;
}

/* ---- show, set, quota ---------------------------------------------------------- */

static bool is_name(const char *text)
{
	return *text && strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789") == strlen(text);
}

static int show(const char *folder)
{
	cJSON *o, *item;

	if (!is_name(folder))
		return fail(EXIT_USAGE, "there is nothing called '%s': dram, cxl, storeN or policy",
			    folder);
	o = sysfs_folder(folder);
	if (!o)
		return fail(1, "there is no %s/%s: the kernel module is not loaded, or has no such "
			       "tier", module_class(), folder);
	if (json_errors)
		return print_object(o);
	cJSON_ArrayForEach(item, o)
	{
		if (cJSON_IsNumber(item))
			printf("%-18s %.0f\n", item->string, item->valuedouble);
		else
			printf("%-18s %s\n", item->string, item->valuestring);
	}
	cJSON_Delete(o);
	return 0;
}

static int set(char **argv)
{
	int ret = is_name(argv[0]) ? sysfs_set(argv[0], argv[1], argv[2]) :
				     fail(EXIT_USAGE, "there is nothing called '%s': dram, cxl, "
						      "storeN or policy", argv[0]);

	return ret ?: json_errors ? show(argv[0]) : 0;
}

static int tier_of(const char *name)
{
	int t;

	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++)
		if (!strcmp(tier_names[t], name))
			return t;
	return 0;
}

static int quota(char **argv)
{
	struct system s;
	uint64_t bytes = 0;
	int tier = tier_of(argv[1]), ret;
	cJSON *o;

	if (!tier)
		return fail(EXIT_USAGE, "'%s' is not dram, cxl or nvme", argv[1]);
	if (strcmp(argv[2], "0") && size_parse(argv[2], &bytes))
		return fail(EXIT_USAGE, "'%s' is not a size such as 0, 512M or 8G", argv[2]);
	if (system_need_daemon(&s, &ret)) {
		ret = kvt_daemon_set_quota(s.client, argv[0], (uint32_t)tier, bytes);
		if (ret)
			ret = fail(1, "the daemon refuses that quota of %s: %s", argv[0],
				   kvt_error_detail()[0] ? kvt_error_detail() : kvt_strerror(ret));
	}
	system_close(&s);
	if (ret || !json_errors)
		return ret;
	o = cJSON_CreateObject();
	cJSON_AddStringToObject(o, "tenant", argv[0]);
	cJSON_AddStringToObject(o, "tier", argv[1]);
	cJSON_AddNumberToObject(o, "quota_bytes", (double)bytes);
	return print_object(o);
}

static int run(int argc, char **argv)
{
	if (!argc || (argc == 1 && !strcmp(argv[0], "list")))
		return list();
	if (argc == 2 && !strcmp(argv[0], "show"))
		return show(argv[1]);
	if (argc == 4 && !strcmp(argv[0], "set"))
		return set(argv + 1);
	if (argc == 4 && !strcmp(argv[0], "quota"))
		return quota(argv + 1);
	if (!strcmp(argv[0], "list") || !strcmp(argv[0], "show") || !strcmp(argv[0], "set") ||
	    !strcmp(argv[0], "quota"))
		return fail(EXIT_USAGE, "%s wants other arguments: see `kvtier tier --help`",
			    argv[0]);
	return fail(EXIT_USAGE, "'%s' is not list, show, set or quota: see `kvtier tier --help`",
		    argv[0]);
}

int cmd_tier(int argc, char **argv)
{
	int ret = option_take_none(argc, argv);

	if (ret)
		return ret < 0 ? help() : ret;
	return run(argc - optind, argv + optind);
}
