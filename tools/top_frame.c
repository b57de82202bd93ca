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
#include "top_frame.h"

#define BAR 20

const char *const top_sorts[TOP_NR_SORTS] = { "read", "late", "dram", "size", "name" };

struct row {
	const struct kvt_stat_file *pool;
	struct kvtier_stats s; /* of the interval */
	double read, write, late, faults; /* a second */
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

static struct row row_of(const struct top_look *look, const struct kvt_stat_file *pool)
{
	const struct kvt_stat_file *before = interval_before(look->before, pool);
	struct row r = { .pool = pool, .s = interval_since(pool, before) };
	double seconds = look->seconds > 0 && before ? look->seconds : 0;

	if (seconds > 0) {
		r.read = (double)r.s.tier[KVTIER_TIER_NVME].bytes_out / seconds;
		r.write = (double)r.s.tier[KVTIER_TIER_NVME].bytes_in / seconds;
		r.late = (double)r.s.late_faults / seconds;
		r.faults = (double)r.s.faults / seconds;
	}
	return r;
}

static double key_of(const struct row *r, enum top_sort sort)
{
	switch (sort) {
	case TOP_BY_READ:
		return r->read;
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

/* Sorted; the caller frees them.  NULL: none, or no memory. */
static struct row *rows_of(const struct top_look *look)
{
	const struct pools *pools = &look->now->pools;
	struct row *rows = pools->nr ? calloc(pools->nr, sizeof(*rows)) : NULL;
	enum top_sort sort = look->sort;
	size_t i;

	if (!rows)
		return NULL;
	for (i = 0; i < pools->nr; i++)
		rows[i] = row_of(look, &pools->pool[i]);
	qsort_r(rows, pools->nr, sizeof(*rows), compare, &sort);
	return rows;
}

static struct row sum_of(const struct row *rows, size_t nr)
{
	struct row sum = { 0 };
	size_t i;
	int t;

	for (i = 0; i < nr; i++) {
		sum.read += rows[i].read;
		sum.write += rows[i].write;
		sum.late += rows[i].late;
		sum.faults += rows[i].faults;
		sum.s.transfer_ns += rows[i].s.transfer_ns;
		sum.s.fault_wait_ns += rows[i].s.fault_wait_ns;
		for (t = 0; t < KVTIER_NR_TIERS; t++) {
			sum.s.tier[t].budget_bytes += rows[i].s.tier[t].budget_bytes;
			sum.s.tier[t].used_bytes += rows[i].s.tier[t].used_bytes;
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
	add(f, TOP_HEAD, "kvtier top  %s  by %s  pools %zu  %s%s", clock, top_sorts[look->sort],
	    s->pools.nr + s->nr_daemon_pools,
	    s->client && !s->daemon_error ? "daemon " : "no daemon",
	    s->client && !s->daemon_error ? s->status.backend : "");
}

static void draw_tier(struct top_frame *f, int t, uint64_t used, uint64_t budget)
{
	static const char full[] = "||||||||||||||||||||";
	int filled = budget ? (int)(BAR * (double)(used < budget ? used : budget) /
				    (double)budget) :
			      0;
	char text[2][SIZE_TEXT];

	if (budget || t == KVTIER_TIER_DRAM)
		add(f, TOP_PLAIN, "  %-5s [%.*s%*s] %7s of %s", tier_names[t], filled, full,
		    BAR - filled, "", size_text(used, text[0]), size_text(budget, text[1]));
}

static void draw_sum(struct top_frame *f, const struct top_look *look, const struct row *sum)
{
	uint64_t used, budget;
	char text[2][SIZE_TEXT], hidden[PERCENT_TEXT];
	uint32_t i;
	int t;

	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++) {
		used = sum->s.tier[t].used_bytes;
		budget = sum->s.tier[t].budget_bytes;
		for (i = 0; i < look->now->nr_daemon_pools; i++) {
			used += look->now->daemon_pools[i].used[t];
			budget += look->now->daemon_pools[i].budget[t];
		}
		draw_tier(f, t, used, budget);
	}
	add(f, TOP_PLAIN, "  read %s/s  written %s/s  faults %.0f/s  late %.0f/s  hidden %s",
	    size_text((uint64_t)sum->read, text[0]), size_text((uint64_t)sum->write, text[1]),
	    sum->faults, sum->late, percent_text(stats_hidden(&sum->s), hidden));
}

static void draw_tenants(struct top_frame *f, const struct top_look *look)
{
	char text[4][SIZE_TEXT];
	uint32_t i;

	if (!look->now->nr_tenants)
		return;
	add(f, TOP_HEAD, "%-16s %5s %7s %7s %7s %7s %9s %8s", "TENANT", "POOLS", "CLIENTS", "DRAM",
	    "CXL", "NVME", "READ/s", "WAITS");
	for (i = 0; i < look->now->nr_tenants; i++) {
		const struct kvt_daemon_tenant *t = &look->now->tenants[i];

		add(f, TOP_PLAIN, "%-16.16s %5u %7u %7s %7s %7s %9s %8llu", t->name, t->pools,
		    t->clients, size_text(t->used[KVTIER_TIER_DRAM], text[0]),
		    size_text(t->used[KVTIER_TIER_CXL], text[1]),
		    size_text(t->used[KVTIER_TIER_NVME], text[2]),
		    size_text(tenant_read(look, t), text[3]), (unsigned long long)t->waits);
	}
}

static void draw_pool(struct top_frame *f, const struct row *r)
{
	const struct kvtier_stats *s = &r->s;
	char text[6][SIZE_TEXT], hidden[PERCENT_TEXT];

	add(f, s->bad_blocks ? TOP_WRONG : TOP_PLAIN,
	    "%-13.13s %7u %6s %6s %6s %6s %7s %7s %6.0f %7s", r->pool->name, r->pool->pid,
	    size_text(s->bytes, text[0]), size_text(s->tier[KVTIER_TIER_DRAM].used_bytes, text[1]),
	    size_text(s->tier[KVTIER_TIER_CXL].used_bytes, text[2]),
	    size_text(s->tier[KVTIER_TIER_NVME].used_bytes, text[3]),
	    size_text((uint64_t)r->read, text[4]), size_text((uint64_t)r->write, text[5]), r->late,
	    percent_text(stats_hidden(s), hidden));
}

static void draw_daemon_pool(struct top_frame *f, const struct kvt_daemon_pool *p)
{
	char text[4][SIZE_TEXT], name[128];

	snprintf(name, sizeof(name), "%s/%s", p->tenant, p->name);
	add(f, TOP_PLAIN, "%-13.13s %7s %6s %6s %6s %6s  %u clients, idle %llu s", name, "daemon",
	    size_text(p->bytes, text[0]), size_text(p->used[KVTIER_TIER_DRAM], text[1]),
	    size_text(p->used[KVTIER_TIER_CXL], text[2]),
	    size_text(p->used[KVTIER_TIER_NVME], text[3]), p->clients,
	    (unsigned long long)p->idle_ms / 1000);
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
	struct row *rows = rows_of(look), sum = sum_of(rows, rows ? look->now->pools.nr : 0);
	size_t i;

	f->nr = 0;
	draw_head(f, look);
	draw_sum(f, look, &sum);
	draw_problems(f, look->now);
	draw_tenants(f, look);
	add(f, TOP_HEAD, "%-13s %7s %6s %6s %6s %6s %7s %7s %6s %7s", "POOL", "PID", "SIZE", "DRAM",
	    "CXL", "NVME", "READ/s", "WRITE/s", "LATE/s", "HIDDEN");
	f->first_pool = f->nr;
	for (i = 0; rows && i < look->now->pools.nr; i++)
		draw_pool(f, &rows[i]);
	for (i = 0; i < look->now->nr_daemon_pools; i++)
		draw_daemon_pool(f, &look->now->daemon_pools[i]);
	if (f->nr == f->first_pool)
		add(f, TOP_PLAIN, "no pools");
	free(rows);
}

/* ---- JSON ---------------------------------------------------------------------- */

static cJSON *row_json(const struct row *r)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "name", r->pool->name);
	cJSON_AddNumberToObject(o, "pid", r->pool->pid);
	cJSON_AddNumberToObject(o, "read_bytes_per_s", r->read);
	cJSON_AddNumberToObject(o, "written_bytes_per_s", r->write);
	cJSON_AddNumberToObject(o, "faults_per_s", r->faults);
	cJSON_AddNumberToObject(o, "late_per_s", r->late);
	cJSON_AddNumberToObject(o, "hidden_fraction", stats_hidden(&r->s));
	cJSON_AddNumberToObject(o, "dram_bytes", (double)r->s.tier[KVTIER_TIER_DRAM].used_bytes);
	cJSON_AddNumberToObject(o, "nvme_bytes", (double)r->s.tier[KVTIER_TIER_NVME].used_bytes);
	return o;
}

static cJSON *tenant_json(const struct top_look *look, const struct kvt_daemon_tenant *t)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "name", t->name);
	cJSON_AddNumberToObject(o, "pools", t->pools);
	cJSON_AddNumberToObject(o, "clients", t->clients);
	cJSON_AddNumberToObject(o, "dram_bytes", (double)t->used[KVTIER_TIER_DRAM]);
	cJSON_AddNumberToObject(o, "nvme_bytes", (double)t->used[KVTIER_TIER_NVME]);
	cJSON_AddNumberToObject(o, "read_bytes_per_s", (double)tenant_read(look, t));
	cJSON_AddNumberToObject(o, "waits", (double)t->waits);
	return o;
}

cJSON *top_json(const struct top_look *look)
{
	cJSON *o = cJSON_CreateObject(), *array = cJSON_AddArrayToObject(o, "pools");
	struct row *rows = rows_of(look);
	size_t i;

	for (i = 0; rows && i < look->now->pools.nr; i++)
		cJSON_AddItemToArray(array, row_json(&rows[i]));
	array = cJSON_AddArrayToObject(o, "tenants");
	for (i = 0; i < look->now->nr_tenants; i++)
		cJSON_AddItemToArray(array, tenant_json(look, &look->now->tenants[i]));
	cJSON_AddItemToObject(o, "problems", problems_of(look->now));
	free(rows);
	return o;
}
