// SPDX-License-Identifier: MIT
/* kvtier stat: the running pools and their tiers. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "command.h"
#include "interval.h"
#include "option.h"
#include "print.h"
#include "size.h"
#include "system.h"

static const struct option options[] = {
	{ "watch", required_argument, NULL, 'w' },
	OPTIONS_OF_ALL,
};

static int help(void)
{
	puts("usage: kvtier stat [OPTION...]\n\n"
	     "Show the running pools, of processes and of kvtierd: occupancy of each tier, faults,\n"
	     "transfers.\n\n"
	     "  --json               one JSON array of pools, counters since each was made\n"
	     "  -w, --watch SECONDS  again every SECONDS until interrupted: figures of the interval\n"
	     "  -h, --help           show this help\n\n"
	     "Exit status: 0, also when no pool is running; 1 the pools cannot be read; 2 usage.");
	return 0;
}

/* Bytes per second while the device was busy. */
static uint64_t rate(uint64_t bytes, uint64_t busy_ns)
{
	return busy_ns ? (uint64_t)((double)bytes * 1e9 / (double)busy_ns) : 0;
}

static void print_tier(int t, const struct kvtier_tier_stats *tier)
{
	char used[SIZE_TEXT], budget[SIZE_TEXT], peak[SIZE_TEXT], in[SIZE_TEXT], out[SIZE_TEXT];
	uint64_t most = tier->peak_bytes > tier->used_bytes ? tier->peak_bytes : tier->used_bytes;

	if (!tier->budget_bytes)
		return;
	printf("  %-5s %7s of %-7s peak %-7s in %-7s out %-7s", tier_names[t],
	       size_text(tier->used_bytes, used), size_text(tier->budget_bytes, budget),
	       size_text(most, peak), size_text(tier->bytes_in, in),
	       size_text(tier->bytes_out, out));
	if (t == KVTIER_TIER_NVME)
		printf(" read %s/s write %s/s",
		       size_text(rate(tier->bytes_out, tier->read_ns), used),
		       size_text(rate(tier->bytes_in, tier->write_ns), budget));
	if (tier->io_errors)
		printf(" errors %llu", (unsigned long long)tier->io_errors);
	putchar('\n');
}

/* Whose it is: a process, or what the kernel calls a pool of somebody else's. */
/* Whose it is: a process, kvtierd, or what the kernel calls a pool of somebody else's. */
static void print_owner(const struct kvt_stat_file *pool)
{
	bool shared = !strcmp(pool->pager, "daemon");

	printf("%s (", pool->name);
	if (shared)
		printf("kvtierd");
	else if (pool->pid)
		printf("pid %u, ", pool->pid);
	if (pool->kernel_id >= 0)
		printf("%skernel pager, pool%d", shared ? ", " : "", pool->kernel_id);
	else if (!shared)
		printf("%s pager", pool->pager);
	putchar(')');
}

static void print_pool(const struct kvt_stat_file *pool, const struct kvt_stat_file *before)
{
	struct kvtier_stats s = interval_since(pool, before);
	char size[SIZE_TEXT], block[SIZE_TEXT], part[PERCENT_TEXT], hidden[PERCENT_TEXT];
	int t;

	print_owner(pool);
	printf(": %s in blocks of %s\n", size_text(s.bytes, size),
	       size_text(1ull << s.block_shift, block));
	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++)
		print_tier(t, &s.tier[t]);
	printf("  hits %s  faults %llu: first touch %llu, mapped %llu, late %llu, read %llu\n",
	       percent_text(stats_hits(&s), part), (unsigned long long)s.faults,
	       (unsigned long long)s.zero_faults, (unsigned long long)s.soft_faults,
	       (unsigned long long)s.late_faults, (unsigned long long)s.hard_faults);
	printf("  prefetch: %llu blocks, %s used; %s of transfer time hidden\n",
	       (unsigned long long)s.prefetched, percent_text(stats_accuracy(&s), part),
	       percent_text(stats_hidden(&s), hidden));
	if (s.bad_blocks)
		printf("  bad blocks: %llu\n", (unsigned long long)s.bad_blocks);
	if (pool->last_error[0])
		printf("  last error: %s\n", pool->last_error);
}

static int print_json(const struct pools *pools)
{
	cJSON *array = cJSON_CreateArray();
	size_t i;

	for (i = 0; i < pools->nr; i++)
		cJSON_AddItemToArray(array, pool_json(&pools->pool[i]));
	return print_object(array);
}

static int show(const struct pools *pools, const struct pools *before)
{
	size_t i;

	if (json_errors)
		return print_json(pools);
	if (!pools->nr)
		puts("no pools are running: start an engine with `kvtier run -- COMMAND`");
	for (i = 0; i < pools->nr; i++)
		print_pool(&pools->pool[i], interval_before(before, &pools->pool[i]));
	return 0;
}

/* All of them in one list: the caller frees it. */
static int look(struct system *s, struct pools *pools)
{
	int ret = system_read(s);
	size_t i;

	for (i = 0; i < s->shared.nr && !ret; i++)
		ret = pools_add(&s->pools, &s->shared.pool[i], "");
	*pools = s->pools;
	s->pools = (struct pools){ 0 };
	return ret ? fail(1, "cannot read the pools' files: %s", strerror(-ret)) : 0;
}

/* @seconds: between two looks; 0: there is one. */
static int watch(struct system *s, double seconds)
{
	struct timespec pause = { .tv_sec = (time_t)seconds,
				  .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9) };
	struct pools before = { 0 }, now;
	int ret;

	while (1) {
		ret = look(s, &now) ?: show(&now, &before);
		pools_free(&before);
		before = now;
		if (ret || seconds <= 0 || fflush(stdout) || ferror(stdout))
			break;
		nanosleep(&pause, NULL);
		if (!json_errors)
			putchar('\n');
	}
	pools_free(&before);
	return ret;
}

static int take_option(void *seconds, int option)
{
	(void)option;
	return option_number("watch", optarg, 0.01, 86400, seconds);
}

/* 0, an exit code, or -1: help was asked for. */
static int parse(double *seconds, int argc, char **argv)
{
	static const struct option_set set = { ":w:h", options, EXIT_USAGE, take_option };

	return option_take(argc, argv, &set, seconds) ?: option_end(argc, argv, 0);
}

int cmd_stat(int argc, char **argv)
{
	double seconds = 0;
	struct system s;
	int ret = parse(&seconds, argc, argv);

	if (ret)
		return ret < 0 ? help() : ret;
	system_open(&s);
	ret = watch(&s, seconds);
	system_close(&s);
	return ret;
}
