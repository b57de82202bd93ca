// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "interval.h"
#include "print.h"
#include "problems.h"
#include "size.h"
#include "text.h"
#include "top_frame.h"

#define BAR 20

const char *const top_sorts[TOP_NR_SORTS] = { "read", "late", "dram", "size", "name" };

struct row {
	const struct kvt_stat_file *pool;
	struct kvtier_stats s; /* of the interval */
	double in[KVTIER_NR_TIERS], out[KVTIER_NR_TIERS]; /* bytes a second */
	double late, faults; /* a second */
};

__attribute__((format(printf, 3, 4))) static void add(struct top_frame *f, enum top_style style,
						      const char *fmt, ...)
{
	va_list args;

	if (f->nr == TOP_LINES)
		return;
	va_start(args, fmt);
	vsnprintf(f->line[f->nr], TOP_WIDTH, fmt, args);
	va_end(args);
	f->style[f->nr++] = (uint8_t)style;
}

/* ---- rows ---------------------------------------------------------------------- */

static struct row row_of(const struct kvt_stat_file *pool, const struct pools *pools_before,
			 double seconds)
{
	const struct kvt_stat_file *before = interval_before(pools_before, pool);
	struct row r = { .pool = pool, .s = interval_since(pool, before) };
	int t;

	if (seconds <= 0 || !before)
		return r;
	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++) {
		r.in[t] = (double)r.s.tier[t].bytes_in / seconds;
		r.out[t] = (double)r.s.tier[t].bytes_out / seconds;
	}
	r.late = (double)r.s.late_faults / seconds;
	r.faults = (double)r.s.faults / seconds;
	return r;
}

static double key_of(const struct row *r, enum top_sort sort)
{
	switch (sort) {
	case TOP_BY_READ:
		return r->out[KVTIER_TIER_NVME];
	case TOP_BY_LATE:
		return r->late;
	case TOP_BY_DRAM:
		return (double)r->s.tier[KVTIER_TIER_DRAM].used_bytes;
	default:
		return (double)r->s.bytes;
	}
}

static int compare(const void *a, const void *b, void *sort)
{
	const struct row *x = a, *y = b;
	enum top_sort by = *(const enum top_sort *)sort;
	double difference = by == TOP_BY_NAME ? 0 : key_of(y, by) - key_of(x, by);
	int names = strcmp(x->pool->name, y->pool->name);

	if (difference != 0)
		return difference > 0 ? 1 : -1;
	return names ? names : (int)x->pool->pid - (int)y->pool->pid;
}

/* All pools, sorted: the caller frees them.  NULL: none, or no memory. */
static struct row *rows_of(const struct top_look *look, size_t *nr)
{
	const struct pools *own = &look->now->pools, *shared = &look->now->shared;
	size_t all = own->nr + shared->nr, i;
	struct row *rows = all ? calloc(all, sizeof(*rows)) : NULL;
	enum top_sort sort = look->sort;

	*nr = rows ? all : 0;
	if (!rows)
		return NULL;
	for (i = 0; i < own->nr; i++)
		rows[i] = row_of(&own->pool[i], look->before, look->seconds);
	for (i = 0; i < shared->nr; i++)
		rows[own->nr + i] = row_of(&shared->pool[i], look->shared_before, look->seconds);
	qsort_r(rows, all, sizeof(*rows), compare, &sort);
	return rows;
}

static struct row sum_of(const struct row *rows, size_t nr)
{
	struct row sum = { 0 };
	size_t i;
	int t;

	for (i = 0; i < nr; i++) {
		sum.late += rows[i].late;
		sum.faults += rows[i].faults;
		sum.s.transfer_ns += rows[i].s.transfer_ns;
		sum.s.fault_wait_ns += rows[i].s.fault_wait_ns;
		for (t = 0; t < KVTIER_NR_TIERS; t++) {
			sum.s.tier[t].budget_bytes += rows[i].s.tier[t].budget_bytes;
			sum.s.tier[t].used_bytes += rows[i].s.tier[t].used_bytes;
			sum.in[t] += rows[i].in[t];
			sum.out[t] += rows[i].out[t];
		}
	}
	return sum;
}

static uint64_t tenant_read(const struct top_look *look, const struct kvt_daemon_tenant *t)
{
	uint32_t i;

	for (i = 0; i < look->nr_tenants_before; i++)
		if (!strcmp(look->tenants_before[i].name, t->name) && look->seconds > 0)
			return (uint64_t)((double)(t->promoted_bytes -
						   look->tenants_before[i].promoted_bytes) /
					  look->seconds);
	return 0;
}

/* ---- lines --------------------------------------------------------------------- */

static void draw_head(struct top_frame *f, const struct top_look *look)
{
	const struct system *s = look->now;
	time_t now = time(NULL);
	char clock[16] = "";
	struct tm tm;

	if (localtime_r(&now, &tm))
		strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
	add(f, TOP_HEAD, "kvtier top  %s  by %s  pools %zu  daemon: %s", clock,
	    top_sorts[look->sort], s->pools.nr + s->nr_daemon_pools,
	    system_daemon_silent(s) ? "cannot be asked" : s->client ? s->status.backend : "none");
}

static void draw_tier(struct top_frame *f, int t, const struct row *sum)
{
	uint64_t used = sum->s.tier[t].used_bytes, budget = sum->s.tier[t].budget_bytes;
	static const char full[] = "||||||||||||||||||||";
	int filled = budget ? (int)(BAR * (double)(used < budget ? used : budget) /
				    (double)budget) :
			      0;
	char text[4][SIZE_TEXT];

	if (budget || t == KVTIER_TIER_DRAM)
		add(f, TOP_PLAIN, "  %-5s [%.*s%*s] %7s of %-7s in %s/s out %s/s", tier_names[t],
		    filled, full, BAR - filled, "", size_text(used, text[0]),
		    size_text(budget, text[1]), size_text((uint64_t)sum->in[t], text[2]),
		    size_text((uint64_t)sum->out[t], text[3]));
}

static void draw_sum(struct top_frame *f, const struct row *sum)
{
	char hidden[PERCENT_TEXT];
	int t;

	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++)
		draw_tier(f, t, sum);
	add(f, TOP_PLAIN, "  faults %.0f/s  late %.0f/s  hidden %s", sum->faults, sum->late,
	    percent_text(stats_hidden(&sum->s), hidden));
}

static void draw_tenants(struct top_frame *f, const struct top_look *look)
{
	char text[4][SIZE_TEXT], name[TEXT_COLUMN];
	uint32_t i;

	if (!look->now->nr_tenants)
		return;
	add(f, TOP_HEAD, "%-16s %5s %7s %7s %7s %7s %9s %8s", "TENANT", "POOLS", "CLIENTS", "DRAM",
	    "CXL", "NVME", "READ/s", "WAITS");
	for (i = 0; i < look->now->nr_tenants && i < TOP_TENANTS; i++) {
		const struct kvt_daemon_tenant *t = &look->now->tenants[i];

		add(f, TOP_PLAIN, "%s %5u %7u %7s %7s %7s %9s %8llu",
		    text_column(t->name, 16, name), t->pools, t->clients,
		    size_text(t->used[KVTIER_TIER_DRAM], text[0]),
		    size_text(t->used[KVTIER_TIER_CXL], text[1]),
		    size_text(t->used[KVTIER_TIER_NVME], text[2]),
		    size_text(tenant_read(look, t), text[3]), (unsigned long long)t->waits);
	}
	if (i < look->now->nr_tenants)
		add(f, TOP_PLAIN, "and %u more tenants", look->now->nr_tenants - i);
}

static void draw_pool(struct top_frame *f, const struct row *r)
{
	const struct kvtier_stats *s = &r->s;
	char text[6][SIZE_TEXT], hidden[PERCENT_TEXT], name[TEXT_COLUMN], owner[POOL_OWNER];

	add(f, s->bad_blocks ? TOP_WRONG : TOP_PLAIN,
	    "%s %7s %6s %6s %6s %6s %7s %7s %6.0f %7s", text_column(r->pool->name, 13, name),
	    pool_owner(r->pool, owner), size_text(s->bytes, text[0]),
	    size_text(s->tier[KVTIER_TIER_DRAM].used_bytes, text[1]),
	    size_text(s->tier[KVTIER_TIER_CXL].used_bytes, text[2]),
	    size_text(s->tier[KVTIER_TIER_NVME].used_bytes, text[3]),
	    size_text((uint64_t)r->out[KVTIER_TIER_NVME], text[4]),
	    size_text((uint64_t)r->in[KVTIER_TIER_NVME], text[5]), r->late,
	    percent_text(stats_hidden(s), hidden));
}

static void draw_problems(struct top_frame *f, const struct system *s)
{
	cJSON *array = problems_of(s), *item;
	int left = 3;

	cJSON_ArrayForEach(item, array)
		if (left-- > 0)
			add(f, TOP_WRONG, "! %s", item->valuestring);
	cJSON_Delete(array);
}

void top_draw(struct top_frame *f, const struct top_look *look)
{
	size_t nr, i;
	struct row *rows = rows_of(look, &nr), sum = sum_of(rows, nr);

	f->nr = 0;
	draw_head(f, look);
	draw_sum(f, &sum);
	draw_problems(f, look->now);
	draw_tenants(f, look);
	add(f, TOP_HEAD, "%-13s %7s %6s %6s %6s %6s %7s %7s %6s %7s", "POOL", "OF", "SIZE", "DRAM",
	    "CXL", "NVME", "READ/s", "WRITE/s", "LATE/s", "HIDDEN");
	f->first_pool = f->nr;
	for (i = 0; i < nr && f->nr < TOP_LINES - 1; i++)
		draw_pool(f, &rows[i]);
	if (i < nr)
		add(f, TOP_PLAIN, "and %zu more: `kvtier pool`", nr - i);
	if (!nr)
		add(f, TOP_PLAIN, "no pools");
	free(rows);
}

/* ---- JSON ---------------------------------------------------------------------- */

static void add_used(cJSON *o, uint64_t dram, uint64_t cxl, uint64_t nvme)
{
	cJSON_AddNumberToObject(o, "dram_bytes", (double)dram);
	cJSON_AddNumberToObject(o, "cxl_bytes", (double)cxl);
	cJSON_AddNumberToObject(o, "nvme_bytes", (double)nvme);
}

static cJSON *row_json(const struct row *r)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "name", r->pool->name);
	cJSON_AddNumberToObject(o, "pid", r->pool->pid);
	cJSON_AddStringToObject(o, "pager", r->pool->pager);
	cJSON_AddNumberToObject(o, "kernel_id", r->pool->kernel_id < 0 ? NAN : r->pool->kernel_id);
	cJSON_AddNumberToObject(o, "bytes", (double)r->s.bytes);
	cJSON_AddNumberToObject(o, "read_bytes_per_s", r->out[KVTIER_TIER_NVME]);
	cJSON_AddNumberToObject(o, "written_bytes_per_s", r->in[KVTIER_TIER_NVME]);
	cJSON_AddNumberToObject(o, "faults_per_s", r->faults);
	cJSON_AddNumberToObject(o, "late_per_s", r->late);
	cJSON_AddNumberToObject(o, "hidden_fraction", stats_hidden(&r->s));
	add_used(o, r->s.tier[KVTIER_TIER_DRAM].used_bytes, r->s.tier[KVTIER_TIER_CXL].used_bytes,
		 r->s.tier[KVTIER_TIER_NVME].used_bytes);
	return o;
}

static cJSON *tenant_json(const struct top_look *look, const struct kvt_daemon_tenant *t)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "name", t->name);
	cJSON_AddNumberToObject(o, "pools", t->pools);
	cJSON_AddNumberToObject(o, "clients", t->clients);
	add_used(o, t->used[KVTIER_TIER_DRAM], t->used[KVTIER_TIER_CXL], t->used[KVTIER_TIER_NVME]);
	cJSON_AddNumberToObject(o, "read_bytes_per_s", (double)tenant_read(look, t));
	cJSON_AddNumberToObject(o, "waits", (double)t->waits);
	return o;
}

/* The sums of the screen, and the seconds that its figures are of. */
static cJSON *sum_json(const struct top_look *look, const struct row *sum)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddNumberToObject(o, "seconds", look->seconds);
	cJSON_AddNumberToObject(o, "read_bytes_per_s", sum->out[KVTIER_TIER_NVME]);
	cJSON_AddNumberToObject(o, "written_bytes_per_s", sum->in[KVTIER_TIER_NVME]);
	cJSON_AddNumberToObject(o, "faults_per_s", sum->faults);
	cJSON_AddNumberToObject(o, "late_per_s", sum->late);
	cJSON_AddNumberToObject(o, "hidden_fraction", stats_hidden(&sum->s));
	return o;
}

cJSON *top_json(const struct top_look *look)
{
	cJSON *o = cJSON_CreateObject(), *array, *tiers, *tier;
	size_t nr, i;
	struct row *rows = rows_of(look, &nr), sum = sum_of(rows, nr);
	int t;

	cJSON_AddItemToObject(o, "all", sum_json(look, &sum));
	tiers = cJSON_AddObjectToObject(o, "tiers");
	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++) {
		tier = cJSON_AddObjectToObject(tiers, tier_names[t]);
		cJSON_AddNumberToObject(tier, "budget_bytes", (double)sum.s.tier[t].budget_bytes);
		cJSON_AddNumberToObject(tier, "used_bytes", (double)sum.s.tier[t].used_bytes);
		cJSON_AddNumberToObject(tier, "in_bytes_per_s", sum.in[t]);
		cJSON_AddNumberToObject(tier, "out_bytes_per_s", sum.out[t]);
	}
	array = cJSON_AddArrayToObject(o, "pools");
	for (i = 0; i < nr; i++)
		cJSON_AddItemToArray(array, row_json(&rows[i]));
	array = cJSON_AddArrayToObject(o, "tenants");
	for (i = 0; i < look->now->nr_tenants; i++)
		cJSON_AddItemToArray(array, tenant_json(look, &look->now->tenants[i]));
	cJSON_AddItemToObject(o, "problems", problems_of(look->now));
	free(rows);
	return o;
}
