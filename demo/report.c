// SPDX-License-Identifier: MIT
#include <cjson/cJSON.h>
#include <err.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "report.h"

uint64_t fnv_bytes(uint64_t fnv, const void *data, size_t bytes)
{
	const uint8_t *at = data;

	while (bytes--)
		fnv = (fnv ^ *at++) * FNV_PRIME;
	return fnv;
}

uint64_t fnv_words(uint64_t fnv, const void *data, size_t words)
{
	const uint8_t *at = data;
	uint32_t word;

	for (; words--; at += sizeof(word)) {
		memcpy(&word, at, sizeof(word));
		fnv = (fnv ^ word) * FNV_PRIME;
	}
	return fnv;
}

/* The sums over all turns; arrays stay with their turns. */
static struct turn total(const struct report *r)
{
	struct turn sum = { .loaded = r->turns[0].loaded };
	int i;

	for (i = 0; i < r->nr_turns; i++) {
		sum.prompt_tokens += r->turns[i].prompt_tokens;
		sum.prompt_s += r->turns[i].prompt_s;
		sum.gen_tokens += r->turns[i].gen_tokens;
		sum.gen_s += r->turns[i].gen_s;
	}
	return sum;
}

static int compare_seconds(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median_step(const struct report *r, int steps)
{
	double *all = malloc((steps + 1) * sizeof(*all)), median = 0;
	int i, n = 0;

	if (!all)
		err(1, "malloc");
	for (i = 0; i < r->nr_turns; i++) {
		memcpy(all + n, r->turns[i].step_s, r->turns[i].gen_tokens * sizeof(*all));
		n += r->turns[i].gen_tokens;
	}
	qsort(all, n, sizeof(*all), compare_seconds);
	if (n)
		median = (all[(n - 1) / 2] + all[n / 2]) / 2;
	free(all);
	return median;
}

static long status_kb(const char *key)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[256];
	long kb = 0;

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			kb = atol(line + strlen(key));
	if (f)
		fclose(f);
	return kb;
}

static double rate(int tokens, double seconds)
{
	return seconds > 0 ? tokens / seconds : 0;
}

void report_line(const struct report *r)
{
	struct turn sum = total(r);

	printf("prompt %d tokens %s in %.2f s", sum.prompt_tokens,
	       sum.loaded ? "loaded" : "decoded", sum.prompt_s);
	if (!sum.loaded)
		printf(" (%.1f/s)", rate(sum.prompt_tokens, sum.prompt_s));
	printf(", generated %d in %.2f s (%.2f/s, median step %.1f ms)", sum.gen_tokens, sum.gen_s,
	       rate(sum.gen_tokens, sum.gen_s), 1e3 * median_step(r, sum.gen_tokens));
	printf(", KV %.1f MiB, logits %016" PRIx64 "%s\n", r->kv_bytes / (1 << 20), r->logits_fnv,
	       r->complete ? "" : " (stopped early)");
}

static cJSON *hex(uint64_t value)
{
	char text[17];

	snprintf(text, sizeof(text), "%016" PRIx64, value);
	return cJSON_CreateString(text);
}

static cJSON *hex_array(const uint64_t *values, int nr)
{
	cJSON *array = cJSON_CreateArray();
	int i;

	for (i = 0; i < nr; i++)
		cJSON_AddItemToArray(array, hex(values[i]));
	return array;
}

static void add_counts(cJSON *to, const struct turn *t)
{
	cJSON_AddStringToObject(to, "prompt_source", t->loaded ? "loaded" : "decoded");
	cJSON_AddNumberToObject(to, "prompt_tokens", t->prompt_tokens);
	cJSON_AddNumberToObject(to, "prompt_s", t->prompt_s);
	if (t->loaded)
		cJSON_AddNullToObject(to, "prompt_tps");
	else
		cJSON_AddNumberToObject(to, "prompt_tps", rate(t->prompt_tokens, t->prompt_s));
	cJSON_AddNumberToObject(to, "gen_tokens", t->gen_tokens);
	cJSON_AddNumberToObject(to, "gen_s", t->gen_s);
	cJSON_AddNumberToObject(to, "gen_tps", rate(t->gen_tokens, t->gen_s));
}

static cJSON *turn_json(const struct turn *t)
{
	cJSON *json = cJSON_CreateObject();

	add_counts(json, t);
	cJSON_AddItemToObject(json, "gen_step_s",
			      cJSON_CreateDoubleArray(t->step_s, t->gen_tokens));
	cJSON_AddItemToObject(json, "gen_step_fnv", hex_array(t->step_fnv, t->gen_tokens));
	cJSON_AddItemToObject(json, "logits_fnv", hex(t->logits_fnv));
	return json;
}

static cJSON *report_object(const struct report *r)
{
	cJSON *json = cJSON_CreateObject(), *turns = cJSON_CreateArray();
	struct turn sum = total(r);
	struct rusage usage;
	int i;

	getrusage(RUSAGE_SELF, &usage);
	add_counts(json, &sum);
	cJSON_AddBoolToObject(json, "complete", r->complete);
	cJSON_AddNumberToObject(json, "gen_step_median_s", median_step(r, sum.gen_tokens));
	cJSON_AddItemToObject(json, "logits_fnv", hex(r->logits_fnv));
	cJSON_AddItemToObject(json, "text_fnv", hex(fnv_bytes(FNV_SEED, r->text, r->text_bytes)));
	cJSON_AddNumberToObject(json, "ctx", r->ctx);
	cJSON_AddNumberToObject(json, "kv_bytes", r->kv_bytes);
	cJSON_AddNumberToObject(json, "hwm_kb", status_kb("VmHWM:"));
	cJSON_AddNumberToObject(json, "major_faults", usage.ru_majflt);
	cJSON_AddStringToObject(json, "cpu", r->cpu);
	cJSON_AddNumberToObject(json, "threads", r->threads);
	for (i = 0; i < r->nr_turns; i++)
		cJSON_AddItemToArray(turns, turn_json(&r->turns[i]));
	cJSON_AddItemToObject(json, "contexts", turns);
	return json;
}

void write_file(const char *path, const void *data, size_t bytes)
{
	char temp[4096];
	FILE *f;

	if (!strcmp(path, "-")) {
		fwrite(data, 1, bytes, stdout);
		putchar('\n');
		return;
	}
	snprintf(temp, sizeof(temp), "%s.%d", path, (int)getpid());
	f = fopen(temp, "wxe");
	if (!f)
		err(1, "cannot write %s", path);
	if (fwrite(data, 1, bytes, f) != bytes || fclose(f) || rename(temp, path)) {
		unlink(temp);
		err(1, "cannot write %s", path);
	}
}

void report_json(const struct report *r, const char *path)
{
	cJSON *json = report_object(r);
	char *text = cJSON_Print(json);

	if (!text)
		err(1, "cannot write the report");
	write_file(path, text, strlen(text));
	cJSON_free(text);
	cJSON_Delete(json);
}
