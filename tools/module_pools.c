// SPDX-License-Identifier: MIT
/* Pools of the kernel pager, as sysfs shows them: one value a file. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "module.h"
#include "text.h"

struct folder {
	char path[512]; /* of one pool */
	int id;
};

static bool read_line(const struct folder *f, const char *name, char *line, size_t len)
{
	char path[640];
	FILE *file;
	bool good;

	snprintf(path, sizeof(path), "%s/%s", f->path, name);
	file = fopen(path, "re");
	if (!file)
		return false;
	good = fgets(line, (int)len, file);
	fclose(file);
	if (good) {
		line[strcspn(line, "\n")] = '\0';
		text_clean(line);
	}
	return good;
}

/* 0 for a file that is not there: a counter that this module does not have. */
static uint64_t number(const struct folder *f, const char *name)
{
	char line[64];

	return read_line(f, name, line, sizeof(line)) ? strtoull(line, NULL, 10) : 0;
}

static void read_tier(const struct folder *f, int t, struct kvtier_tier_stats *tier)
{
	const struct {
		const char *name;
		__u64 *value;
	} fields[] = {
		{ "budget_bytes", &tier->budget_bytes }, { "used_bytes", &tier->used_bytes },
		{ "peak_bytes", &tier->peak_bytes },	 { "bytes_in", &tier->bytes_in },
		{ "bytes_out", &tier->bytes_out },	 { "io_errors", &tier->io_errors },
		{ "read_ns", &tier->read_ns },		 { "write_ns", &tier->write_ns },
	};
	char name[64];
	size_t i;

	for (i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		snprintf(name, sizeof(name), "%s_%s", tier_names[t], fields[i].name);
		*fields[i].value = number(f, name);
	}
}

static void read_stats(const struct folder *f, struct kvtier_stats *s)
{
	const struct {
		const char *name;
		__u64 *value;
	} fields[] = {
		{ "bytes", &s->bytes },
		{ "nr_blocks", &s->nr_blocks },
		{ "faults", &s->faults },
		{ "soft_faults", &s->soft_faults },
		{ "hard_faults", &s->hard_faults },
		{ "late_faults", &s->late_faults },
		{ "zero_faults", &s->zero_faults },
		{ "wp_faults", &s->wp_faults },
		{ "fault_wait_ns", &s->fault_wait_ns },
		{ "prefetched", &s->prefetched },
		{ "prefetch_used", &s->prefetch_used },
		{ "prefetch_wasted", &s->prefetch_wasted },
		{ "promoted", &s->promoted },
		{ "demoted", &s->demoted },
		{ "written_blocks", &s->written_blocks },
		{ "clean_drops", &s->clean_drops },
		{ "crc_errors", &s->crc_errors },
		{ "bad_blocks", &s->bad_blocks },
		{ "enospc", &s->enospc },
		{ "transfer_ns", &s->transfer_ns },
	};
	uint64_t block = number(f, "block_bytes");
	size_t i;
	int t;

	for (i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		*fields[i].value = number(f, fields[i].name);
	s->block_shift = block ? (uint32_t)__builtin_ctzll(block) : 0;
	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++)
		read_tier(f, t, &s->tier[t]);
}

static struct kvt_stat_file *find(struct pools *pools, int id)
{
	size_t i;

	for (i = 0; i < pools->nr; i++)
		if (pools->pool[i].kernel_id == id)
			return &pools->pool[i];
	return NULL;
}

/* A pool whose process shows itself elsewhere, or not at all. */
static int add(struct pools *pools, const struct folder *f)
{
	struct kvt_stat_file pool = { .kernel_id = f->id, .pager = "kernel" };

	read_line(f, "name", pool.name, sizeof(pool.name));
	return pools_add(pools, &pool, "");
}

static int read_pool(struct pools *pools, const struct folder *f)
{
	struct kvt_stat_file *pool = find(pools, f->id);
	struct kvtier_stats stats = { 0 };

	read_stats(f, &stats);
	if (!stats.nr_blocks) /* it went meanwhile */
		return 0;
	if (!pool && add(pools, f))
		return -ENOMEM;
	if (!pool)
		pool = &pools->pool[pools->nr - 1];
	memcpy(stats.blocks, pool->stats.blocks, sizeof(stats.blocks));
	pool->stats = stats;
	read_line(f, "store", pool->nvme_path, sizeof(pool->nvme_path));
	return 0;
}

static int is_pool(const struct dirent *entry)
{
	int end = 0, id;

	return sscanf(entry->d_name, "pool%d%n", &id, &end) == 1 && !entry->d_name[end];
}

int module_pools(struct pools *pools, const char *class)
{
	struct dirent **names;
	struct folder f;
	int nr = scandir(class, &names, is_pool, versionsort), i, ret = 0;

	if (nr < 0)
		return errno == ENOMEM ? -ENOMEM : 0; /* no module */
	for (i = 0; i < nr; i++) {
		f.id = atoi(names[i]->d_name + strlen("pool"));
		if (!ret && snprintf(f.path, sizeof(f.path), "%s/%s", class, names[i]->d_name) <
				    (int)sizeof(f.path))
			ret = read_pool(pools, &f);
		free(names[i]);
	}
	free(names);
	return ret;
}
