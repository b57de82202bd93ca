// SPDX-License-Identifier: MIT
/* kvtier report: one HTML file, which needs nothing else, with plots of what is and was measured. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "blocks.h"
#include "command.h"
#include "heatmap.h"
#include "option.h"
#include "plot.h"
#include "print.h"
#include "problems.h"
#include "size.h"
#include "system.h"
#include "text.h"

#define FILE_MAX (64 << 20)
#define MAPS_MAX 16

static const struct option options[] = {
	{ "bench", required_argument, NULL, 'b' },
	{ "stats", required_argument, NULL, 's' },
	OPTIONS_OF_ALL,
};

struct report {
	cJSON *bench; /* array of {name, value, unit, target}; NULL: none given */
	cJSON *pools; /* of --stats; NULL: those that run */
	struct system system;
};

static int help(void)
{
	puts("usage: kvtier report [OPTION...] OUT.html\n\n"
	     "Write one HTML file with plots: pools by tier, faults, transfers, block maps,\n"
	     "benchmark results. It needs no other file and no network.\n\n"
	     "  --bench FILE  results of `make bench...` (build/bench.json)\n"
	     "  --stats FILE  pools of `kvtier run --stats` or `kvtier stat --json`, instead of\n"
	     "                those that run now\n"
	     "  --json        what was written, or the error, as one JSON object\n"
	     "  -h, --help    show this help\n\n"
	     "Exit status: 0; 1 a file cannot be read or written; 2 usage.");
	return 0;
}

/* ---- input --------------------------------------------------------------------- */

/* A file may hold anything. */
static void clean(cJSON *array)
{
	cJSON *object, *item;

	cJSON_ArrayForEach(object, array)
	{
		cJSON_ArrayForEach(item, object)
		{
			if (cJSON_IsString(item))
				text_clean(item->valuestring);
		}
	}
}

static int read_array(const char *option, const char *path, cJSON **array)
{
	FILE *f = fopen(path, "re");
	struct stat st;
	char *text = NULL;
	int ret = 0;

	cJSON_Delete(*array);
	*array = NULL;
	if (!f || fstat(fileno(f), &st))
		ret = fail(1, "--%s: cannot read %s: %s", option, path, strerror(errno));
	else if (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX)
		ret = fail(1, "--%s: %s is not a file of at most 64 MiB", option, path);
	else
		text = calloc((size_t)st.st_size + 1, 1);
	if (text && fread(text, 1, (size_t)st.st_size, f) == (size_t)st.st_size)
		*array = cJSON_Parse(text);
	clean(*array);
	if (f)
		fclose(f);
	free(text);
	if (!ret && !cJSON_IsArray(*array))
		ret = fail(1, "--%s: %s is not a JSON array", option, path);
	return ret;
}

static int take_option(void *command, int option)
{
	struct report *r = command;

	return option == 'b' ? read_array("bench", optarg, &r->bench) :
			       read_array("stats", optarg, &r->pools);
}

/* 0, an exit code, or -1: help was asked for. */
static int parse(struct report *r, int argc, char **argv)
{
	static const struct option_set set = { ":h", options, EXIT_USAGE, take_option };
	int ret = option_take(argc, argv, &set, r);

	if (!ret && optind + 1 != argc)
		return fail(EXIT_USAGE, "one OUT.html is wanted: see `kvtier report --help`");
	return ret;
}

static int take_pools(struct report *r)
{
	size_t i;

	if (system_look(&r->system))
		return 1;
	if (r->pools)
		return 0;
	r->pools = cJSON_CreateArray();
	for (i = 0; i < r->system.pools.nr; i++)
		cJSON_AddItemToArray(r->pools, pool_json(&r->system.pools.pool[i]));
	for (i = 0; i < r->system.shared.nr; i++)
		cJSON_AddItemToArray(r->pools, pool_json(&r->system.shared.pool[i]));
	return 0;
}

/* ---- sections ------------------------------------------------------------------ */

static double number(const cJSON *o, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, name);

	return cJSON_IsNumber(item) ? item->valuedouble : NAN;
}

static const char *text_of(const cJSON *o, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, name);

	return cJSON_IsString(item) ? item->valuestring : "";
}

static const cJSON *tier(const cJSON *pool, int t)
{
	return cJSON_GetObjectItemCaseSensitive(
		cJSON_GetObjectItemCaseSensitive(pool, "tiers"), tier_names[t]);
}

static void label_of(const cJSON *pool, char label[PLOT_LABEL])
{
	const char *name = text_of(pool, "name");
	double pid = number(pool, "pid");

	snprintf(label, PLOT_LABEL, "%.*s %.0f", text_bytes(name, 20), name, isnan(pid) ? 0 : pid);
}

static void plot_tiers(FILE *out, const cJSON *pools)
{
	static const char *const parts[] = { "dram", "cxl", "nvme" };
	struct plot p = { .title = "Bytes in use, by tier", .parts = parts, .nr_parts = 3,
			  .bytes = true };
	const cJSON *pool;
	int t;

	cJSON_ArrayForEach(pool, pools)
	{
		struct plot_bar *bar = plot_bar(&p);

		if (!bar)
			break;
		label_of(pool, bar->label);
		for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++)
			bar->value[t - 1] = number(tier(pool, t), "used_bytes");
	}
	plot_draw(out, &p);
}

static void plot_faults(FILE *out, const cJSON *pools)
{
	static const char *const parts[] = { "first touch", "mapped", "late", "read" };
	static const char *const members[] = { "zero_faults", "soft_faults", "late_faults",
					       "hard_faults" };
	struct plot p = { .title = "Faults, by what they waited for",
			  .parts = parts,
			  .nr_parts = 4 };
	const cJSON *pool;
	int i;

	cJSON_ArrayForEach(pool, pools)
	{
		struct plot_bar *bar = plot_bar(&p);

		if (!bar)
			break;
		label_of(pool, bar->label);
		for (i = 0; i < 4; i++)
			bar->value[i] = number(pool, members[i]);
	}
	plot_draw(out, &p);
}

static void plot_transfers(FILE *out, const cJSON *pools)
{
	static const char *const parts[] = { "read from NVMe", "written to NVMe" };
	struct plot p = { .title = "Bytes moved", .parts = parts, .nr_parts = 2, .bytes = true };
	const cJSON *pool;

	cJSON_ArrayForEach(pool, pools)
	{
		struct plot_bar *bar = plot_bar(&p);

		if (!bar)
			break;
		label_of(pool, bar->label);
		bar->value[0] = number(tier(pool, KVTIER_TIER_NVME), "bytes_out");
		bar->value[1] = number(tier(pool, KVTIER_TIER_NVME), "bytes_in");
	}
	plot_draw(out, &p);
}

static void plot_parts(FILE *out, const cJSON *pools)
{
	static const char *const parts[] = { "%" };
	static const char *const members[] = { "hit_fraction", "hidden_fraction",
					       "prefetch_accuracy" };
	static const char *const titles[] = { "Touches that did not wait for NVMe, %",
					      "Transfer time that was hidden, %",
					      "Blocks read ahead that were used, %" };
	const cJSON *pool;
	int i;

	for (i = 0; i < 3; i++) {
		struct plot p = { .title = titles[i], .parts = parts, .nr_parts = 1, .most = 100 };

		cJSON_ArrayForEach(pool, pools)
		{
			struct plot_bar *bar = plot_bar(&p);

			if (!bar)
				break;
			label_of(pool, bar->label);
			bar->value[0] = 100 * number(pool, members[i]);
		}
		plot_draw(out, &p);
	}
}

static void draw_map(FILE *out, const struct system *s, const struct pool_ref *ref)
{
	struct blocks blocks;

	if (blocks_read(s, ref, &blocks)) {
		fputs("<p>", out);
		xml_text(out, ref->file->name);
		fputs(" has no map here: ", out);
		xml_text(out, blocks.why);
		fputs("</p>\n", out);
	} else {
		heatmap_svg(out, &blocks, ref->file->name, 96);
	}
	blocks_free(&blocks);
}

/* Blocks of pools that run. */
static void draw_maps(FILE *out, const struct system *s)
{
	size_t all = s->pools.nr + s->shared.nr, i;

	for (i = 0; i < all && i < MAPS_MAX; i++) {
		size_t shared = i - s->pools.nr;
		struct pool_ref ref = { .file = i < s->pools.nr ? &s->pools.pool[i] :
								  &s->shared.pool[shared],
					.path = i < s->pools.nr ? s->pools.path[i] : "",
					.daemon = i < s->pools.nr ? NULL :
								    &s->daemon_pools[shared] };

		draw_map(out, s, &ref);
	}
	if (i < all)
		fprintf(out, "<p>and %zu more pools without a map</p>\n", all - i);
}

static void table_row(FILE *out, const cJSON *o)
{
	double value = number(o, "value"), target = number(o, "target");
	double low = number(o, "min"), high = number(o, "max");

	fputs("<tr><td>", out);
	xml_text(out, text_of(o, "name"));
	if (isnan(value))
		fputs("</td><td>-</td><td>", out);
	else
		fprintf(out, "</td><td>%.5g</td><td>", value);
	xml_text(out, text_of(o, "unit"));
	fputs("</td><td>", out);
	if (!isnan(low) && !isnan(high))
		fprintf(out, "%.5g to %.5g", low, high);
	fputs("</td><td>", out);
	if (!isnan(target))
		fprintf(out, "%.5g", target);
	fputs("</td></tr>\n", out);
}

/* What has a target in per cent, as bars; all of it in a table. */
static void draw_bench(FILE *out, const cJSON *bench)
{
	static const char *const parts[] = { "measured", "of the target" };
	struct plot p = { .title = "Measured, % of its target", .parts = parts, .nr_parts = 1 };
	const cJSON *o;

	cJSON_ArrayForEach(o, bench)
	{
		double value = number(o, "value"), target = number(o, "target");
		struct plot_bar *bar;

		if (isnan(value) || isnan(target) || target <= 0)
			continue;
		bar = plot_bar(&p);
		if (!bar)
			break;
		snprintf(bar->label, PLOT_LABEL, "%.*s", text_bytes(text_of(o, "name"), 32),
			 text_of(o, "name"));
		bar->value[0] = 100 * value / target;
	}
	plot_draw(out, &p);
	fputs("<table><tr><th>figure</th><th>value</th><th>unit</th><th>range</th><th>target</th>"
	      "</tr>\n", out);
	cJSON_ArrayForEach(o, bench)
	{
		table_row(out, o);
	}
	fputs("</table>\n", out);
}

static void draw_problems(FILE *out, const struct system *s)
{
	cJSON *array = problems_of(s), *item;

	fputs("<h2>What is wrong</h2>\n<ul>\n", out);
	cJSON_ArrayForEach(item, array)
	{
		fputs("<li>", out);
		xml_text(out, item->valuestring);
		fputs("</li>\n", out);
	}
	if (!cJSON_GetArraySize(array))
		fputs("<li>nothing</li>\n", out);
	fputs("</ul>\n", out);
	cJSON_Delete(array);
}

static void draw(FILE *out, const struct report *r)
{
	char when[64] = "", host[64] = "";
	int nr = cJSON_GetArraySize(r->pools);
	time_t now = time(NULL);
	struct tm tm;

	if (localtime_r(&now, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
	gethostname(host, sizeof(host) - 1);
	fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>kvtier</title>\n"
	      "<style>body{font:14px sans-serif;margin:2em;max-width:60em}svg{display:block;"
	      "margin:1em 0}table{border-collapse:collapse}td,th{padding:2px 10px;border-bottom:"
	      "1px solid #ddd;text-align:left}</style></head><body>\n<h1>kvtier</h1>\n<p>",
	      out);
	xml_text(out, kvt_version());
	fputs(" on ", out);
	xml_text(out, host);
	fprintf(out, ", %s</p>\n", when);
	draw_problems(out, &r->system);
	fputs("<h2>Pools</h2>\n", out);
	if (nr > PLOT_BARS)
		fprintf(out, "<p>%d, of which the first %d are drawn</p>\n", nr, PLOT_BARS);
	if (!nr)
		fputs("<p>none</p>\n", out);
	if (nr) {
		plot_tiers(out, r->pools);
		plot_faults(out, r->pools);
		plot_transfers(out, r->pools);
		plot_parts(out, r->pools);
	}
	draw_maps(out, &r->system);
	if (r->bench) {
		fputs("<h2>Benchmarks</h2>\n", out);
		draw_bench(out, r->bench);
	}
	fputs("</body></html>\n", out);
}

static int write_report(const struct report *r, const char *path)
{
	FILE *out = fopen(path, "we");
	bool failed;
	cJSON *o;

	if (!out)
		return fail(1, "cannot write %s: %s", path, strerror(errno));
	draw(out, r);
	failed = ferror(out);
	failed |= fclose(out) != 0;
	if (failed)
		return fail(1, "cannot write %s: %s", path, strerror(errno));
	if (!json_errors)
		return 0;
	o = cJSON_CreateObject();
	cJSON_AddStringToObject(o, "file", path);
	cJSON_AddNumberToObject(o, "pools", cJSON_GetArraySize(r->pools));
	return print_object(o);
}

int cmd_report(int argc, char **argv)
{
	struct report r = { 0 };
	int ret = parse(&r, argc, argv);

	if (!ret)
		ret = take_pools(&r);
	if (!ret)
		ret = write_report(&r, argv[optind]);
	system_close(&r.system);
	cJSON_Delete(r.bench);
	cJSON_Delete(r.pools);
	return ret < 0 ? help() : ret;
}
