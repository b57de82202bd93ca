// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "problems.h"

__attribute__((format(printf, 2, 3))) static void add(cJSON *array, const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	cJSON_AddItemToArray(array, cJSON_CreateString(text));
}

static void of_pool(cJSON *array, const struct kvt_stat_file *f)
{
	const struct kvtier_stats *s = &f->stats;
	int t;

	if (s->bad_blocks)
		add(array, "%s: %llu bad blocks, which cannot be read", f->name,
		    (unsigned long long)s->bad_blocks);
	if (s->crc_errors)
		add(array, "%s: %llu blocks did not match their checksum", f->name,
		    (unsigned long long)s->crc_errors);
	if (s->enospc)
		add(array, "%s: %llu writes had no room: give it more NVMe", f->name,
		    (unsigned long long)s->enospc);
	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++)
		if (s->tier[t].io_errors)
			add(array, "%s: %llu transfers of %s failed", f->name,
			    (unsigned long long)s->tier[t].io_errors, tier_names[t]);
	if (f->last_error[0])
		add(array, "%s: %s", f->name, f->last_error);
}

/* A host without the module is not wrong; one whose module cannot serve is. */
static void of_module(cJSON *array, const struct module *m)
{
	const char *mend, *lack = module_lack(m, &mend);

	if (lack && m->error != -ENODEV)
		add(array, "%s: %s", lack, mend[0] ? mend : "see `kvtier doctor`");
}

static void of_daemon(cJSON *array, const struct system *s)
{
	uint32_t i;

	if (system_daemon_silent(s))
		add(array, "kvtierd %s: %s", s->client ? "does not answer" : "cannot be reached",
		    s->daemon_detail);
	for (i = 0; i < s->nr_tiers; i++)
		if (s->tiers[i].errors)
			add(array, "kvtierd: %llu transfers of %s failed",
			    (unsigned long long)s->tiers[i].errors,
			    tier_names[s->tiers[i].tier % KVTIER_NR_TIERS]);
	for (i = 0; i < s->nr_tenants; i++)
		if (s->tenants[i].waits)
			add(array, "tenant %s: %llu faults waited for its quota",
			    s->tenants[i].name, (unsigned long long)s->tenants[i].waits);
}

cJSON *problems_of(const struct system *s)
{
	cJSON *array = cJSON_CreateArray();
	size_t i;

	of_module(array, &s->module);
	of_daemon(array, s);
	for (i = 0; i < s->pools.nr; i++)
		of_pool(array, &s->pools.pool[i]);
	return array;
}
