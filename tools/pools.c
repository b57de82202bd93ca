// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pools.h"
#include "text.h"

const char *const tier_names[KVTIER_NR_TIERS] = { "none", "dram", "cxl", "nvme" };

/* Field 22 of /proc/PID/stat; 0: there is no such process, or it has ended. */
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
	fclose(f);
	if (!p || strlen(p) < 3 || p[2] == 'Z' || p[2] == 'X')
		return 0;
	for (i = 0; p && i < 20; i++)
		p = strchr(p + 1, ' ');
	if (p)
		ticks = strtoull(p, NULL, 10);
	return ticks;
}

bool process_alive(uint32_t pid)
{
	return start_time_of(pid) != 0;
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
	/* The file is its process's: it may hold anything. */
	copy->name[sizeof(copy->name) - 1] = copy->pager[sizeof(copy->pager) - 1] = '\0';
	copy->nvme_path[sizeof(copy->nvme_path) - 1] = '\0';
	copy->last_error[sizeof(copy->last_error) - 1] = '\0';
	text_clean(copy->name);
	text_clean(copy->pager);
	text_clean(copy->nvme_path);
	text_clean(copy->last_error);
	return copy->magic == KVT_STAT_MAGIC && copy->version == KVT_STAT_VERSION &&
	       copy->bytes == sizeof(*copy);
}

int pools_add(struct pools *pools, const struct kvt_stat_file *pool, const char *path)
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

void pools_remove(struct pools *pools, size_t nr)
{
	size_t rest = --pools->nr - nr;

	memmove(pools->pool + nr, pools->pool + nr + 1, rest * sizeof(*pools->pool));
	memmove(pools->path + nr, pools->path + nr + 1, rest * sizeof(*pools->path));
}

/* "<pid>-<number>.pool" or "run-<pid>-XXXXXX": the process that made it; 0: another file. */
static uint32_t maker_of(const char *name, bool *session)
{
	const char *dot = strrchr(name, '.');

	*session = !strncmp(name, SESSION_PREFIX, strlen(SESSION_PREFIX));
	if (*session)
		return (uint32_t)strtoul(name + strlen(SESSION_PREFIX), NULL, 10);
	return dot && !strcmp(dot, ".pool") ? (uint32_t)strtoul(name, NULL, 10) : 0;
}

static int is_ours(const struct dirent *entry)
{
	bool session;

	return maker_of(entry->d_name, &session) != 0;
}

/* Is any `kvtier run` at work, that would collect the pools of its processes? */
static bool sweep_sessions(struct dirent **names, int nr, const char *dir)
{
	bool any = false, session;
	char path[512];
	int i;

	for (i = 0; i < nr; i++) {
		uint32_t pid = maker_of(names[i]->d_name, &session);

		if (!session)
			continue;
		if (process_alive(pid))
			any = true;
		else if (snprintf(path, sizeof(path), "%s/%s", dir, names[i]->d_name) <
			 (int)sizeof(path))
			unlink(path);
	}
	return any;
}

struct reader {
	struct pools *pools;
	bool (*want)(const struct kvt_stat_file *pool, void *arg);
	void *arg;
	bool awaited; /* a `kvtier run` may still come for files without a process */
};

static int read_one(const struct reader *r, const char *path, uint32_t pid)
{
	struct kvt_stat_file pool;
	bool known = copy_file(path, &pool);

	if (known && (r->want ? r->want(&pool, r->arg) : pool_alive(&pool)))
		return pools_add(r->pools, &pool, path);
	/* A process killed while it made its pool leaves a file that says nothing. */
	if (!r->awaited && (known ? !pool_alive(&pool) : !process_alive(pid)))
		unlink(path);
	return 0;
}

static int read_all(struct reader *r, struct dirent **names, int nr, const char *dir)
{
	char path[512];
	bool session;
	int i, ret = 0;

	r->awaited = sweep_sessions(names, nr, dir);
	for (i = 0; i < nr && !ret; i++) {
		uint32_t pid = maker_of(names[i]->d_name, &session);

		if (!session && snprintf(path, sizeof(path), "%s/%s", dir, names[i]->d_name) <
					(int)sizeof(path))
			ret = read_one(r, path, pid);
	}
	return ret;
}

int pools_read(struct pools *pools, bool (*want)(const struct kvt_stat_file *, void *), void *arg)
{
	struct reader r = { .pools = pools, .want = want, .arg = arg };
	struct dirent **names;
	char dir[256];
	int nr, i, ret;

	memset(pools, 0, sizeof(*pools));
	if (kvt_stat_dir(dir, sizeof(dir)))
		return -ENAMETOOLONG;
	nr = scandir(dir, &names, is_ours, versionsort);
	if (nr < 0)
		return errno == ENOENT ? 0 : -errno;
	ret = read_all(&r, names, nr, dir);
	for (i = 0; i < nr; i++)
		free(names[i]);
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
	if (!s->transfer_ns)
		return NAN;
	if (s->fault_wait_ns >= s->transfer_ns)
		return 0;
	return 1 - (double)s->fault_wait_ns / (double)s->transfer_ns;
}

double stats_hits(const struct kvtier_stats *s)
{
	/* Late ones were under way: read ahead, or promoted on request. */
	uint64_t touched = s->hard_faults + s->zero_faults + s->soft_faults +
			   (s->prefetch_used > s->late_faults ? s->prefetch_used : s->late_faults);
	uint64_t waited = s->hard_faults + s->late_faults;

	if (!touched)
		return NAN;
	return touched > waited ? 1 - (double)waited / (double)touched : 0;
}

double stats_accuracy(const struct kvtier_stats *s)
{
	uint64_t known = s->prefetch_used + s->prefetch_wasted;

	return known ? (double)s->prefetch_used / (double)known : NAN;
}

const char *pool_owner(const struct kvt_stat_file *pool, char buf[POOL_OWNER])
{
	if (!strcmp(pool->pager, "daemon"))
		return "kvtierd";
	if (pool->pid)
		snprintf(buf, POOL_OWNER, "%u", pool->pid);
	else
		snprintf(buf, POOL_OWNER, "pool%d", pool->kernel_id);
	return buf;
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
	cJSON_AddBoolToObject(o, "tiered", true);
	cJSON_AddBoolToObject(o, "closed", pool->closed);
	cJSON_AddStringToObject(o, "pager", pool->pager);
	cJSON_AddBoolToObject(o, "uffd_move", pool->uffd_move);
	/* cJSON writes a NaN as null. */
	cJSON_AddNumberToObject(o, "kernel_id", pool->kernel_id < 0 ? NAN : pool->kernel_id);
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
	cJSON_AddNumberToObject(o, "hit_fraction", stats_hits(s));
	cJSON_AddNumberToObject(o, "hidden_fraction", stats_hidden(s));
	cJSON_AddNumberToObject(o, "prefetch_accuracy", stats_accuracy(s));
	cJSON_AddStringToObject(o, "last_error", pool->last_error);
	tiers = cJSON_AddObjectToObject(o, "tiers");
	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++)
		cJSON_AddItemToObject(tiers, tier_names[t], tier_json(&s->tier[t]));
	return o;
}
