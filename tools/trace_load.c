// SPDX-License-Identifier: MIT
/* Read traces: every line and member is checked, and named when it is wrong. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cjson/cJSON.h>

#include "command.h"
#include "trace.h"

#define MOONCAKE_TOKENS 512
#define IDS_MAX (1ull << 40)
#define SCOPES_MAX (1u << 23)
#define BLOCKS_MAX (1u << 28)
#define FILE_MAX (1u << 30)

/* Where a complaint points to. */
struct place {
	const char *path;
	size_t line; /* 0: the file is one object */
	size_t request;
};

__attribute__((format(printf, 2, 3))) static int wrong(const struct place *p, const char *fmt, ...)
{
	char text[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (p->line)
		return fail(1, "%s: line %zu: %s", p->path, p->line, text);
	return fail(1, "%s: request %zu: %s", p->path, p->request, text);
}

/* ---- numbers of blocks --------------------------------------------------------- */

static size_t place_of(const struct trace *t, uint64_t key)
{
	size_t i = (key * 0x9e3779b97f4a7c15ull >> 20) & (t->nr_places - 1);

	while (t->key[i] && t->key[i] != key)
		i = (i + 1) & (t->nr_places - 1);
	return i;
}

static int grow_places(struct trace *t)
{
	struct trace old = *t;
	size_t i, at;

	t->nr_places = old.nr_places ? 2 * old.nr_places : 1 << 12;
	t->key = calloc(t->nr_places, sizeof(*t->key));
	t->number = calloc(t->nr_places, sizeof(*t->number));
	if (!t->key || !t->number) {
		free(t->key);
		free(t->number);
		t->key = old.key;
		t->number = old.number;
		t->nr_places = old.nr_places;
		return -ENOMEM;
	}
	for (i = 0; i < old.nr_places; i++) {
		if (!old.key[i])
			continue;
		at = place_of(t, old.key[i]);
		t->key[at] = old.key[i];
		t->number[at] = old.number[i];
	}
	free(old.key);
	free(old.number);
	return 0;
}

/* The number of block @id of @scope; TRACE_NONE: no memory. */
static uint32_t number_of(struct trace *t, uint32_t scope, uint64_t id)
{
	uint64_t key = ((uint64_t)scope << 40 | id) + 1;
	size_t at;

	if (2 * (size_t)t->nr_blocks >= t->nr_places && grow_places(t))
		return TRACE_NONE;
	at = place_of(t, key);
	if (!t->key[at]) {
		if (t->nr_blocks == BLOCKS_MAX)
			return TRACE_NONE;
		t->key[at] = key;
		t->number[at] = t->nr_blocks++;
	}
	return t->number[at];
}

/* ---- one request --------------------------------------------------------------- */

static struct trace_request *new_request(struct trace *t)
{
	struct trace_request *grown;

	if (t->nr_requests == t->room_requests) {
		t->room_requests = t->room_requests ? 2 * t->room_requests : 1024;
		grown = realloc(t->request, t->room_requests * sizeof(*grown));
		if (!grown)
			return NULL;
		t->request = grown;
	}
	grown = &t->request[t->nr_requests];
	*grown = (struct trace_request){ .first = t->nr_accesses,
					 .session = TRACE_NONE,
					 .order = (uint32_t)t->nr_requests };
	return grown;
}

static int add_block(struct trace *t, uint32_t number)
{
	uint32_t *grown;

	if (t->nr_accesses == t->room_accesses) {
		t->room_accesses = t->room_accesses ? 2 * t->room_accesses : 1 << 14;
		grown = realloc(t->block, t->room_accesses * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		t->block = grown;
	}
	t->block[t->nr_accesses++] = number;
	return 0;
}

/* A number from @least on, or @otherwise where the member is absent. */
static int take_number(const struct place *p, const cJSON *o, const char *name, double otherwise,
		       double *value)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, name);

	*value = otherwise;
	if (!item && !isnan(otherwise))
		return 0;
	if (!item || !cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble > 1e12)
		return wrong(p, "'%s' is not a number from 0 on", name);
	*value = item->valuedouble;
	return 0;
}

static int take_blocks(struct trace *t, const struct place *p, const cJSON *o, uint32_t scope,
		       struct trace_request *r)
{
	const cJSON *ids = cJSON_GetObjectItemCaseSensitive(o, "hash_ids"), *id;
	uint32_t number;

	if (!cJSON_IsArray(ids))
		return wrong(p, "'hash_ids' is not an array");
	cJSON_ArrayForEach(id, ids)
	{
		if (!cJSON_IsNumber(id) || !(id->valuedouble >= 0) ||
		    id->valuedouble >= (double)IDS_MAX || id->valuedouble != floor(id->valuedouble))
			return wrong(p, "an entry of 'hash_ids' is not a whole number below 2^40");
		number = number_of(t, scope, (uint64_t)id->valuedouble);
		if (number == TRACE_NONE || add_block(t, number))
			return fail(1, "out of memory");
		r->nr++;
	}
	return 0;
}

/* ---- one line of Mooncake's or of a recorded trace ----------------------------- */

static int add_line(struct trace *t, const struct place *p, const cJSON *o)
{
	struct trace_request *r = new_request(t);
	double at, tokens;
	int ret;

	if (!r)
		return fail(1, "out of memory");
	ret = take_number(p, o, "timestamp", NAN, &at);
	if (!ret)
		ret = take_number(p, o, "input_length", 0, &tokens);
	if (!ret)
		ret = take_blocks(t, p, o, 0, r);
	if (ret)
		return ret;
	r->at = at / 1000;
	r->tokens = tokens < 4e9 ? (uint32_t)tokens : UINT32_MAX;
	t->nr_requests++;
	return 0;
}

/* Blocks of one size: what differs cannot be one cache. */
static int set_kind(struct trace *t, const char *path, bool prefix, uint32_t tokens, uint64_t bytes)
{
	if (t->nr_requests && (t->prefix != prefix || t->block_tokens != tokens ||
			       t->block_bytes != bytes))
		return fail(1, "%s has blocks of another kind or size than the traces before it: "
			       "replay it alone", path);
	t->prefix = prefix;
	t->block_tokens = tokens;
	t->block_bytes = bytes;
	return 0;
}

static int set_recorded(struct trace *t, const struct place *p, const cJSON *o)
{
	const cJSON *version = cJSON_GetObjectItemCaseSensitive(o, "kvtier_trace");
	double bytes;

	if (!cJSON_IsNumber(version) || version->valuedouble != 1)
		return wrong(p, "a recorded trace of a version that is not 1: record it again");
	if (take_number(p, o, "block_bytes", NAN, &bytes))
		return 1;
	return set_kind(t, p->path, false, 0, (uint64_t)bytes);
}

static int read_line(struct trace *t, const struct place *p, const char *line)
{
	cJSON *o = cJSON_Parse(line);
	int ret = 0;

	if (!cJSON_IsObject(o))
		ret = wrong(p, "not a JSON object");
	else if (p->line == 1 && cJSON_HasObjectItem(o, "kvtier_trace"))
		ret = set_recorded(t, p, o);
	else if (p->line == 1)
		ret = set_kind(t, p->path, true, MOONCAKE_TOKENS, 0) ?: add_line(t, p, o);
	else
		ret = add_line(t, p, o);
	cJSON_Delete(o);
	return ret;
}

static int read_lines(struct trace *t, const char *path, char *text)
{
	struct place p = { .path = path };
	char *line, *next = text;
	int ret = 0;

	while (!ret && (line = strsep(&next, "\n"))) {
		p.line++;
		if (line[strspn(line, " \t\r")])
			ret = read_line(t, &p, line);
	}
	return ret;
}

/* ---- an agentic session -------------------------------------------------------- */

static enum trace_stop stop_of(const cJSON *o)
{
	const cJSON *stop = cJSON_GetObjectItemCaseSensitive(o, "stop");

	if (!cJSON_IsString(stop))
		return TRACE_STOP_UNKNOWN;
	if (!strcmp(stop->valuestring, "tool_use"))
		return TRACE_STOP_TOOL;
	return !strcmp(stop->valuestring, "end_turn") ? TRACE_STOP_TURN : TRACE_STOP_UNKNOWN;
}

static int add_turn(struct trace *t, const struct place *p, const cJSON *o)
{
	struct trace_request *r = new_request(t);
	double tokens;
	int ret;

	if (!r)
		return fail(1, "out of memory");
	ret = take_number(p, o, "t", NAN, &r->at);
	if (!ret)
		ret = take_number(p, o, "in", 0, &tokens);
	if (!ret)
		ret = take_number(p, o, "api_time", 0, &r->busy);
	if (!ret)
		ret = take_blocks(t, p, o, t->nr_sessions + 1, r);
	if (ret)
		return ret;
	r->tokens = tokens < 4e9 ? (uint32_t)tokens : UINT32_MAX;
	r->session = t->nr_sessions;
	r->stop = (uint8_t)stop_of(o);
	t->nr_requests++;
	return 0;
}

static int read_session(struct trace *t, const char *path, const cJSON *o)
{
	const cJSON *size = cJSON_GetObjectItemCaseSensitive(o, "block_size");
	const cJSON *requests = cJSON_GetObjectItemCaseSensitive(o, "requests"), *request;
	struct place p = { .path = path };
	int ret;

	if (!cJSON_IsNumber(size) || !(size->valuedouble >= 1) || size->valuedouble > 1e6)
		return fail(1, "%s: 'block_size' is not a number of tokens", path);
	if (!cJSON_IsArray(requests))
		return fail(1, "%s: 'requests' is not an array", path);
	if (t->nr_sessions == SCOPES_MAX - 2)
		return fail(1, "more than %u sessions", SCOPES_MAX - 2);
	ret = set_kind(t, path, true, (uint32_t)size->valuedouble, 0);
	cJSON_ArrayForEach(request, requests)
	{
		p.request++;
		ret = ret ?: add_turn(t, &p, request);
	}
	t->nr_sessions++;
	return ret;
}

/* ---- files --------------------------------------------------------------------- */

static char *read_file(const char *path, int *ret)
{
	FILE *f = fopen(path, "re");
	struct stat st = { 0 };
	char *text = NULL;
	size_t n;

	if (!f || fstat(fileno(f), &st)) {
		*ret = fail(1, "cannot read %s: %s", path, strerror(errno));
	} else if (!S_ISREG(st.st_mode)) {
		*ret = fail(1, "%s is not a file", path);
	} else if (!st.st_size || st.st_size > FILE_MAX) {
		*ret = fail(1, "%s is %s", path, st.st_size ? "larger than 1 GiB" : "empty");
	} else {
		text = malloc((size_t)st.st_size + 1);
		n = text ? fread(text, 1, (size_t)st.st_size, f) : 0;
		if (text)
			text[n] = '\0';
		*ret = text && n == (size_t)st.st_size && strlen(text) == n ? 0 :
			       fail(1, "%s is not text that can be read", path);
	}
	if (f)
		fclose(f);
	return text;
}

int trace_add(struct trace *t, const char *path)
{
	int ret = 0;
	char *text = read_file(path, &ret);
	cJSON *whole;

	if (!ret) {
		whole = cJSON_Parse(text); /* of lines it takes the first */
		if (cJSON_HasObjectItem(whole, "requests"))
			ret = read_session(t, path, whole);
		else
			ret = read_lines(t, path, text);
		cJSON_Delete(whole);
	}
	free(text);
	return ret;
}

static int earlier(const void *a, const void *b)
{
	const struct trace_request *x = a, *y = b;

	if (x->at != y->at)
		return x->at < y->at ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

/* Numbers anew, in the order of first use, of the requests that stay. */
static int renumber(struct trace *t)
{
	uint32_t *to = malloc((t->nr_blocks + 1) * sizeof(*to)), nr = 0;
	uint32_t *block = malloc((t->nr_accesses + 1) * sizeof(*block));
	size_t i, n = 0;
	uint32_t k;

	if (!to || !block) {
		free(to);
		free(block);
		return fail(1, "out of memory");
	}
	memset(to, 0xff, (t->nr_blocks + 1) * sizeof(*to));
	for (i = 0; i < t->nr_requests; i++) {
		const uint32_t *old = trace_blocks(t, i);

		t->request[i].first = n;
		for (k = 0; k < t->request[i].nr; k++) {
			if (to[old[k]] == TRACE_NONE)
				to[old[k]] = nr++;
			block[n++] = to[old[k]];
		}
	}
	free(to);
	free(t->block);
	t->block = block;
	t->nr_accesses = n;
	t->nr_blocks = nr;
	return 0;
}

/* A session announces its next turn when it has the answer to the last, not before. */
static int link_sessions(struct trace *t)
{
	double *answered = calloc((size_t)t->nr_sessions + 1, sizeof(*answered));
	struct trace_request *r;
	size_t i;

	if (!answered)
		return fail(1, "out of memory");
	for (i = 0; i < t->nr_requests; i++) {
		r = &t->request[i];
		if (r->session == TRACE_NONE)
			continue;
		r->heard = answered[r->session] < r->at ? answered[r->session] : r->at;
		answered[r->session] = r->at + r->busy;
	}
	free(answered);
	return 0;
}

int trace_finish(struct trace *t, size_t limit)
{
	if (!t->nr_requests)
		return fail(1, "there are no requests in this trace");
	qsort(t->request, t->nr_requests, sizeof(*t->request), earlier);
	if (limit && limit < t->nr_requests)
		t->nr_requests = limit;
	t->seconds = t->request[t->nr_requests - 1].at;
	if (renumber(t) || link_sessions(t))
		return 1;
	return t->nr_accesses ? 0 : fail(1, "no request of this trace has a block");
}

void trace_free(struct trace *t)
{
	free(t->request);
	free(t->block);
	free(t->key);
	free(t->number);
	memset(t, 0, sizeof(*t));
}
