// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pools.h"

const char *const tier_names[KVTIER_NR_TIERS] = { "none", "dram", "cxl", "nvme" };

/* Field 22 of /proc/PID/stat; 0: there is no such process. */
static uint64_t start_time_of(uint32_t pid)
{
	unsigned long long ticks = 0;
	char path[64], line[1024], *p;
	FILE *f;
	int i;

	snprintf(path, sizeof(path), "/proc/%u/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	p = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
	for (i = 0; p && i < 20; i++)
		p = strchr(p + 1, ' ');
	if (p)
		ticks = strtoull(p, NULL, 10);
	fclose(f);
	return ticks;
}

bool pool_alive(const struct kvt_stat_file *pool)
{
	return !pool->closed && start_time_of(pool->pid) == pool->start_time;
}

/* A consistent copy: the writer may be at work. */
static bool copy_file(const char *path, struct kvt_stat_file *copy)
{
	const struct kvt_stat_file *f;
	bool good = false;
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), i;

	if (fd < 0)
		return false;
	if (fstat(fd, &st) || st.st_size < (off_t)sizeof(*f)) {
		close(fd);
		return false;
	}
	f = mmap(NULL, sizeof(*f), PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (f == MAP_FAILED)
		return false;
	for (i = 0; i < 1000 && !good; i++) {
		uint32_t seq = __atomic_load_n(&f->seq, __ATOMIC_ACQUIRE);

		memcpy(copy, f, sizeof(*copy));
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		good = !(seq & 1) && seq == __atomic_load_n(&f->seq, __ATOMIC_RELAXED);
		if (!good)
			usleep(10);
	}
	munmap((void *)f, sizeof(*f));
	return copy->magic == KVT_STAT_MAGIC && copy->version == KVT_STAT_VERSION &&
	       copy->bytes == sizeof(*copy);
}

static int add(struct pools *pools, const struct kvt_stat_file *pool, const char *path)
{
	void *grown = realloc(pools->pool, (pools->nr + 1) * sizeof(*pools->pool));

	if (!grown)
		return -ENOMEM;
	pools->pool = grown;
	grown = realloc(pools->path, (pools->nr + 1) * sizeof(*pools->path));
	if (!grown)
		return -ENOMEM;
	pools->path = grown;
	pools->pool[pools->nr] = *pool;
	snprintf(pools->path[pools->nr++], sizeof(*pools->path), "%s", path);
	return 0;
}

static int is_pool_file(const struct dirent *entry)
{
	const char *dot = strrchr(entry->d_name, '.');

	return dot && !strcmp(dot, ".pool");
}

static int read_one(struct pools *pools, const char *path,
		    bool (*want)(const struct kvt_stat_file *, void *), void *arg)
{
	struct kvt_stat_file pool;

	if (!copy_file(path, &pool))
		return 0;
	if (want ? want(&pool, arg) : pool_alive(&pool))
		return add(pools, &pool, path);
	/* A closed one waits for the `kvtier run` that asked for it; a dead one for nobody. */
	if (!pool.closed && !pool_alive(&pool))
		unlink(path);
	return 0;
}

int pools_read(struct pools *pools, bool (*want)(const struct kvt_stat_file *, void *), void *arg)
{
	char dir[256], path[512];
	struct dirent **names;
	int nr, i, ret = 0;

	memset(pools, 0, sizeof(*pools));
	if (kvt_stat_dir(dir, sizeof(dir)))
		return -ENAMETOOLONG;
	nr = scandir(dir, &names, is_pool_file, versionsort);
	if (nr < 0)
		return errno == ENOENT ? 0 : -errno;
	for (i = 0; i < nr; i++) {
		if (!ret && snprintf(path, sizeof(path), "%s/%s", dir, names[i]->d_name) <
				    (int)sizeof(path))
			ret = read_one(pools, path, want, arg);
		free(names[i]);
	}
	free(names);
	return ret;
}

void pools_free(struct pools *pools)
{
	free(pools->pool);
	free(pools->path);
	memset(pools, 0, sizeof(*pools));
}

double stats_hidden(const struct kvtier_stats *s)
{
	if (!s->transfer_ns || s->fault_wait_ns >= s->transfer_ns)
		return s->transfer_ns ? 0 : 1;
	return 1 - (double)s->fault_wait_ns / (double)s->transfer_ns;
}

double stats_accuracy(const struct kvtier_stats *s)
{
	uint64_t known = s->prefetch_used + s->prefetch_wasted;

	return known ? (double)s->prefetch_used / (double)known : 1;
}

static cJSON *tier_json(const struct kvtier_tier_stats *t)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddNumberToObject(o, "budget_bytes", (double)t->budget_bytes);
	cJSON_AddNumberToObject(o, "used_bytes", (double)t->used_bytes);
	cJSON_AddNumberToObject(o, "peak_bytes", (double)t->peak_bytes);
	cJSON_AddNumberToObject(o, "bytes_in", (double)t->bytes_in);
	cJSON_AddNumberToObject(o, "bytes_out", (double)t->bytes_out);
	cJSON_AddNumberToObject(o, "io_errors", (double)t->io_errors);
	cJSON_AddNumberToObject(o, "read_ns", (double)t->read_ns);
	cJSON_AddNumberToObject(o, "write_ns", (double)t->write_ns);
	return o;
}

static void add_counters(cJSON *o, const struct kvtier_stats *s)
{
	const struct {
		const char *name;
		uint64_t value;
	} counters[] = {
		{ "faults", s->faults },
		{ "zero_faults", s->zero_faults },
		{ "soft_faults", s->soft_faults },
		{ "late_faults", s->late_faults },
		{ "hard_faults", s->hard_faults },
		{ "wp_faults", s->wp_faults },
		{ "fault_wait_ns", s->fault_wait_ns },
		{ "transfer_ns", s->transfer_ns },
		{ "prefetched", s->prefetched },
		{ "prefetch_used", s->prefetch_used },
		{ "prefetch_wasted", s->prefetch_wasted },
		{ "promoted", s->promoted },
		{ "demoted", s->demoted },
		{ "written_blocks", s->written_blocks },
		{ "clean_drops", s->clean_drops },
		{ "crc_errors", s->crc_errors },
		{ "bad_blocks", s->bad_blocks },
		{ "enospc", s->enospc },
	};
	size_t i;

	for (i = 0; i < sizeof(counters) / sizeof(counters[0]); i++)
		cJSON_AddNumberToObject(o, counters[i].name, (double)counters[i].value);
}

cJSON *pool_json(const struct kvt_stat_file *pool)
{
	const struct kvtier_stats *s = &pool->stats;
	cJSON *o = cJSON_CreateObject(), *tiers;
	char address[32];
	int t;

	cJSON_AddStringToObject(o, "name", pool->name);
	cJSON_AddNumberToObject(o, "pid", pool->pid);
	cJSON_AddBoolToObject(o, "closed", pool->closed);
	cJSON_AddStringToObject(o, "pager", pool->pager);
	cJSON_AddBoolToObject(o, "uffd_move", pool->uffd_move);
	cJSON_AddNumberToObject(o, "bytes", (double)s->bytes);
	cJSON_AddNumberToObject(o, "block_bytes", (double)(1ull << s->block_shift));
	cJSON_AddNumberToObject(o, "nr_blocks", (double)s->nr_blocks);
	snprintf(address, sizeof(address), "0x%llx", (unsigned long long)pool->addr);
	cJSON_AddStringToObject(o, "addr", address);
	cJSON_AddNumberToObject(o, "addr_bytes", (double)pool->addr_bytes);
	snprintf(address, sizeof(address), "0x%llx", (unsigned long long)pool->arena_addr);
	cJSON_AddStringToObject(o, "arena_addr", address);
	cJSON_AddNumberToObject(o, "arena_bytes", (double)pool->arena_bytes);
	cJSON_AddStringToObject(o, "nvme_path", pool->nvme_path);
	add_counters(o, s);
	cJSON_AddNumberToObject(o, "hidden_fraction", stats_hidden(s));
	cJSON_AddNumberToObject(o, "prefetch_accuracy", stats_accuracy(s));
	cJSON_AddStringToObject(o, "last_error", pool->last_error);
	tiers = cJSON_AddObjectToObject(o, "tiers");
	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++)
		cJSON_AddItemToObject(tiers, tier_names[t], tier_json(&s->tier[t]));
	return o;
}
