// SPDX-License-Identifier: MIT
/*
 * kvtier trace record: what a pool's pager sees of the accesses to it.
 *
 * The user pager adds each touch that it sees to a ring in the pool's file while a reader
 * asks for it (libkvtier/stat_file.h): faults, and blocks that were mapped ahead of their
 * use and that the learned order says were passed.  The module tells of each touch of a
 * block that is not mapped by a trace event (trace_events.h), which does not say whether it
 * was a store.  Touches of blocks that are mapped are not seen by anybody.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "blocks.h"
#include "command.h"
#include "option.h"
#include "print.h"
#include "trace_command.h"
#include "trace_events.h"

#define LEASE_NS 2000000000ull /* how long the pager goes on when we are gone */
#define LOOK_US 20000

static const struct option options[] = {
	{ "output", required_argument, NULL, 'o' },
	{ "seconds", required_argument, NULL, 's' },
	OPTIONS_OF_ALL,
};

struct recording {
	const char *path;
	double seconds; /* 0: until interrupted or the pool is gone */
	FILE *out;
	char pool[64];
	uint64_t block_bytes, nr_blocks;
	uint64_t begun_ns;
	uint64_t written, lost;

	/* Of the user pager. */
	struct kvt_stat_file *file; /* NULL: it is the module's */
	size_t bytes;
	uint64_t taken; /* accesses of the ring that were written or lost */

	struct trace_events events;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int signal)
{
	(void)signal;
	interrupted = 1;
}

static int help(void)
{
	puts("usage: kvtier trace record -o FILE [OPTION...] POOL\n\n"
	     "Record the accesses to a running pool that its pager sees, until it ends or until\n"
	     "interrupted, for `kvtier trace replay`. A pool of the module is recorded by its\n"
	     "trace events, which needs root.\n\n"
	     "  -o, --output FILE  where to\n"
	     "  --seconds N        no longer than that\n"
	     "  --json             the summary as one JSON object\n"
	     "  -h, --help         show this help\n\n"
	     "Exit status: 0; 1 the pool is not there, cannot be asked, or the file cannot be\n"
	     "written; 2 usage.");
	return 0;
}

static int take_option(void *command, int option)
{
	struct recording *r = command;

	if (option == 's')
		return option_number("seconds", optarg, 0.1, 1e6, &r->seconds);
	r->path = optarg;
	return 0;
}

/* 0, an exit code, or -1: help was asked for. */
static int parse(struct recording *r, int argc, char **argv)
{
	static const struct option_set set = { ":o:h", options, EXIT_USAGE, take_option };
	int ret = option_take(argc, argv, &set, r);

	if (ret)
		return ret;
	if (!r->path)
		return fail(EXIT_USAGE, "no FILE: kvtier trace record -o FILE POOL");
	if (optind + 1 != argc)
		return fail(EXIT_USAGE, "one POOL is wanted: `kvtier pool` lists them");
	return 0;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void write_access(struct recording *r, uint64_t ns, uint64_t block, const char *how,
			 bool missed)
{
	double ms = ns > r->begun_ns ? (double)(ns - r->begun_ns) / 1e6 : 0;

	fprintf(r->out, "{\"timestamp\":%.3f,\"hash_ids\":[%llu],\"how\":\"%s\",\"missed\":%s}\n",
		ms, (unsigned long long)block, how, missed ? "true" : "false");
	r->written++;
}

/* ---- the user pager's ring --------------------------------------------------------- */

static void take_access(struct recording *r, const struct kvt_stat_access *a)
{
	static const char *const how[] = {
		[KVT_STAT_READ] = "read", [KVT_STAT_WRITE] = "write", [KVT_STAT_PASSED] = "passed",
	};

	/* The file is its process's: it may hold anything. */
	if (a->how < sizeof(how) / sizeof(how[0]) && a->block < r->nr_blocks)
		write_access(r, a->ns, a->block, how[a->how], a->missed);
}

/* All that the ring has; what was overwritten meanwhile is lost, and counted. */
static void drain_ring(struct recording *r)
{
	uint64_t head = __atomic_load_n(&r->file->nr_accesses, __ATOMIC_ACQUIRE), after;
	struct kvt_stat_access a;

	while (r->taken < head) {
		if (head - r->taken >= KVT_STAT_ACCESSES) {
			r->lost += head - r->taken - KVT_STAT_ACCESSES / 2;
			r->taken = head - KVT_STAT_ACCESSES / 2;
		}
		a = kvt_stat_ring(r->file)[r->taken % KVT_STAT_ACCESSES];
		after = __atomic_load_n(&r->file->nr_accesses, __ATOMIC_ACQUIRE);
		if (after - r->taken >= KVT_STAT_ACCESSES) {
			head = after;
			continue;
		}
		take_access(r, &a);
		r->taken++;
	}
}

/* ---- the module's events ----------------------------------------------------------- */

static bool module_pool_alive(int id)
{
	char path[512];

	return snprintf(path, sizeof(path), "%s/pool%d", module_class(), id) < (int)sizeof(path) &&
	       !access(path, F_OK);
}

static void drain_events(struct recording *r)
{
	struct trace_event event;

	while (trace_events_take(&r->events, &event))
		write_access(r, event.ns, event.block, "touch", event.missed);
	r->lost = r->events.lost;
}

/* ---- from the beginning to the end ------------------------------------------------- */

/* Is there more to come?  The user pager goes on for as long as it is asked to. */
static bool goes_on(struct recording *r, uint64_t now, uint64_t end)
{
	if (interrupted || now >= end || ferror(r->out))
		return false;
	if (!r->file)
		return module_pool_alive(r->events.pool);
	__atomic_store_n(&r->file->accesses_until_ns, now + LEASE_NS, __ATOMIC_RELEASE);
	return pool_alive(r->file);
}

static void record(struct recording *r)
{
	uint64_t end = r->seconds > 0 ? r->begun_ns + (uint64_t)(r->seconds * 1e9) : UINT64_MAX;
	bool more = true;

	if (r->file)
		r->taken = __atomic_load_n(&r->file->nr_accesses, __ATOMIC_ACQUIRE);
	while (more) {
		more = goes_on(r, now_ns(), end);
		if (more)
			usleep(LOOK_US);
		else if (!r->file)
			trace_events_stop(&r->events);
		if (r->file)
			drain_ring(r);
		else
			drain_events(r);
	}
	if (r->file)
		__atomic_store_n(&r->file->accesses_until_ns, 0, __ATOMIC_RELEASE);
}

static void write_head(struct recording *r)
{
	cJSON *o = cJSON_CreateObject();
	char *text;

	cJSON_AddNumberToObject(o, "kvtier_trace", 1);
	cJSON_AddStringToObject(o, "pool", r->pool);
	cJSON_AddNumberToObject(o, "block_bytes", (double)r->block_bytes);
	cJSON_AddNumberToObject(o, "nr_blocks", (double)r->nr_blocks);
	text = cJSON_PrintUnformatted(o);
	fprintf(r->out, "%s\n", text ? text : "");
	cJSON_free(text);
	cJSON_Delete(o);
}

static int summary(const struct recording *r)
{
	cJSON *o;

	if (!json_errors) {
		printf("%llu accesses in %s, %llu lost\n", (unsigned long long)r->written, r->path,
		       (unsigned long long)r->lost);
		return 0;
	}
	o = cJSON_CreateObject();
	cJSON_AddStringToObject(o, "file", r->path);
	cJSON_AddNumberToObject(o, "accesses", (double)r->written);
	cJSON_AddNumberToObject(o, "lost", (double)r->lost);
	return print_object(o);
}

static int record_to_file(struct recording *r)
{
	bool failed;

	r->out = fopen(r->path, "we");
	if (!r->out)
		return fail(1, "--output: cannot write %s: %s", r->path, strerror(errno));
	write_head(r);
	r->begun_ns = now_ns();
	record(r);
	failed = ferror(r->out);
	failed |= fclose(r->out) != 0;
	return failed ? fail(1, "--output: cannot write %s: %s", r->path, strerror(errno)) :
			summary(r);
}

static int open_pool(struct recording *r, const struct pool_ref *ref)
{
	const struct kvt_stat_file *f = ref->file;
	char why[BLOCKS_WHY];

	snprintf(r->pool, sizeof(r->pool), "%s", f->name);
	r->block_bytes = 1ull << f->stats.block_shift;
	r->nr_blocks = f->stats.nr_blocks;
	if (f->kernel_id >= 0)
		return trace_events_open(&r->events, f->kernel_id, why, sizeof(why)) ?
			       fail(1, "%s", why) : 0;
	if (ref->daemon)
		return fail(1, "%s is in kvtierd's own pager, which does not tell of accesses: "
			       "pools of the module and of processes can be recorded", f->name);
	r->file = view_open(ref->path, &r->bytes, why);
	if (!r->file)
		return fail(1, "%s", why);
	r->nr_blocks = r->file->view_blocks;
	return 0;
}

static int find_pool(struct recording *r, const char *name)
{
	struct pool_ref ref;
	struct system s;
	int ret = system_look(&s) ?: system_find(&s, name, &ref);

	if (!ret)
		ret = open_pool(r, &ref);
	system_close(&s);
	return ret;
}

int trace_record(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct recording *r = calloc(1, sizeof(*r));
	int ret;

	if (!r)
		return fail(1, "out of memory");
	r->events.pipe = -1;
	ret = parse(r, argc, argv);
	sigaction(SIGINT, &action, NULL); /* before there is something to remove */
	sigaction(SIGTERM, &action, NULL);
	if (!ret)
		ret = find_pool(r, argv[optind]);
	if (!ret)
		ret = record_to_file(r);
	if (r->file)
		munmap(r->file, r->bytes);
	trace_events_close(&r->events);
	free(r);
	return ret < 0 ? help() : ret;
}
