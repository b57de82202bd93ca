// SPDX-License-Identifier: MIT
/*
 * kvtier trace record: what a pool's pager sees of the accesses to it.
 *
 * The user pager adds each touch that it sees to a ring in the pool's file while a reader
 * asks for it (libkvtier/stat_file.h): faults, and blocks that were mapped ahead of their
 * use and that the learned order says were passed.  Touches of blocks that are mapped are
 * not seen by anybody.
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

#define LEASE_NS 2000000000ull /* how long the pager goes on when we are gone */
#define LOOK_US 20000

static const struct option options[] = {
	{ "output", required_argument, NULL, 'o' },
	{ "seconds", required_argument, NULL, 's' },
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

struct recording {
	const char *path;
	double seconds; /* 0: until interrupted or the pool is gone */
	FILE *out;
	struct kvt_stat_file *file;
	size_t bytes;
	uint64_t begun_ns;
	uint64_t taken; /* accesses of the ring that were written or lost */
	uint64_t written, lost;
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
	     "Record the accesses to a running pool of the user pager until it ends, or until\n"
	     "interrupted, for `kvtier trace replay`.\n\n"
	     "  -o, --output FILE  where to\n"
	     "  --seconds N        no longer than that\n"
	     "  --json             the summary as one JSON object\n"
	     "  -h, --help         show this help\n\n"
	     "Exit status: 0; 1 the pool is not there, cannot be asked, or the file cannot be\n"
	     "written; 2 usage.");
	return 0;
}

/* 0, an exit code, or -1: help was asked for. */
static int parse(struct recording *r, int argc, char **argv)
{
	char *end;
	int found;

	option_json(argc, argv, ":o:h", options);
	while ((found = getopt_long(argc, argv, ":o:h", options, NULL)) != -1) {
		if (found == 'h')
			return -1;
		if (found == '?' || found == ':')
			return option_bad(EXIT_USAGE, found, argv, options);
		if (found == 'o')
			r->path = optarg;
		if (found != 's')
			continue;
		r->seconds = strtod(optarg, &end);
		if (end == optarg || *end || !(r->seconds >= 0.1) || r->seconds > 1e6)
			return fail(EXIT_USAGE, "--seconds: '%s' is not a number from 0.1 to 1e6",
				    optarg);
	}
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

static void write_access(struct recording *r, const struct kvt_stat_access *a)
{
	static const char *const how[] = {
		[KVT_STAT_READ] = "read", [KVT_STAT_WRITE] = "write", [KVT_STAT_PASSED] = "passed",
	};
	double ms = a->ns > r->begun_ns ? (double)(a->ns - r->begun_ns) / 1e6 : 0;

	if (a->how >= sizeof(how) / sizeof(how[0]) || a->block >= r->file->view_blocks)
		return; /* the file is its process's: it may hold anything */
	fprintf(r->out, "{\"timestamp\":%.3f,\"hash_ids\":[%u],\"how\":\"%s\",\"missed\":%s}\n", ms,
		a->block, how[a->how], a->missed ? "true" : "false");
	r->written++;
}

/* All that the ring has; what was overwritten meanwhile is lost, and counted. */
static void drain(struct recording *r)
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
		write_access(r, &a);
		r->taken++;
	}
}

static void record(struct recording *r)
{
	uint64_t end = r->seconds > 0 ? r->begun_ns + (uint64_t)(r->seconds * 1e9) : UINT64_MAX;
	bool last = false;

	r->taken = __atomic_load_n(&r->file->nr_accesses, __ATOMIC_ACQUIRE);
	while (!last) {
		uint64_t now = now_ns();

		__atomic_store_n(&r->file->accesses_until_ns, now + LEASE_NS, __ATOMIC_RELEASE);
		last = interrupted || now >= end || !pool_alive(r->file) || ferror(r->out);
		if (!last)
			usleep(LOOK_US);
		drain(r);
	}
	__atomic_store_n(&r->file->accesses_until_ns, 0, __ATOMIC_RELEASE);
}

static void write_head(struct recording *r)
{
	cJSON *o = cJSON_CreateObject();
	char *text;

	cJSON_AddNumberToObject(o, "kvtier_trace", 1);
	cJSON_AddStringToObject(o, "pool", r->file->name);
	cJSON_AddNumberToObject(o, "block_bytes", (double)(1ull << r->file->stats.block_shift));
	cJSON_AddNumberToObject(o, "nr_blocks", (double)r->file->view_blocks);
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
	struct sigaction action = { .sa_handler = on_signal };
	bool failed;

	r->out = fopen(r->path, "we");
	if (!r->out)
		return fail(1, "--output: cannot write %s: %s", r->path, strerror(errno));
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	write_head(r);
	r->begun_ns = now_ns();
	record(r);
	failed = ferror(r->out);
	failed |= fclose(r->out) != 0;
	return failed ? fail(1, "--output: cannot write %s: %s", r->path, strerror(errno)) :
			summary(r);
}

static int find_pool(struct recording *r, const char *name)
{
	struct pool_ref ref;
	struct system s;
	int ret;

	system_open(&s);
	ret = system_read(&s);
	if (ret)
		ret = fail(1, "cannot read the pools' files: %s", strerror(-ret));
	if (!ret)
		ret = system_find(&s, name, &ref);
	if (!ret && (ref.daemon || ref.file->kernel_id >= 0))
		ret = fail(1, "%s is not a pool of the user pager, which alone can be recorded: use the "
			      "module's trace events (perf record -e 'kvtier:*')", name);
	if (!ret) {
		r->file = view_open(ref.path, &r->bytes);
		ret = r->file ? 0 : 1;
	}
	system_close(&s);
	return ret;
}

int trace_record(int argc, char **argv)
{
	struct recording r = { 0 };
	int ret = parse(&r, argc, argv);

	if (!ret)
		ret = find_pool(&r, argv[optind]);
	if (!ret)
		ret = record_to_file(&r);
	if (r.file)
		munmap(r.file, r.bytes);
	return ret < 0 ? help() : ret;
}
