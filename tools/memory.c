// SPDX-License-Identifier: MIT
/* How much memory there is for this process: the host's, within its cgroup. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host.h"

/* Of one memory cgroup, version 1 or 2. */
struct cgroup_files {
	const char *root;
	const char *limit;
	const char *used;
	const char *cache[2]; /* lines of memory.stat: given back when needed */
};

static const struct cgroup_files v1 = {
	"/sys/fs/cgroup/memory",
	"memory.limit_in_bytes",
	"memory.usage_in_bytes",
	{ "total_inactive_file", "total_active_file" },
};
static const struct cgroup_files v2 = {
	"/sys/fs/cgroup",
	"memory.max",
	"memory.current",
	{ "inactive_file", "active_file" },
};

struct cgroup_memory {
	uint64_t limit; /* UINT64_MAX: none */
	uint64_t left;
};

/* The number after @key on a line of its own; NULL: on the first line.  0: none. */
static uint64_t read_number(const char *path, const char *key)
{
	unsigned long long n = 0;
	char line[256];
	size_t len = key ? strlen(key) : 0;
	FILE *f = fopen(path, "re");

	while (f && fgets(line, sizeof(line), f)) {
		if (key && (strncmp(line, key, len) || (line[len] != ' ' && line[len] != ':')))
			continue;
		if (sscanf(line + len + (key != NULL), "%llu", &n) != 1)
			n = 0;
		break;
	}
	if (f)
		fclose(f);
	return n;
}

static uint64_t group_number(const struct cgroup_files *g, const char *group, const char *file,
			     const char *key)
{
	char path[4400];

	snprintf(path, sizeof(path), "%s%s/%s", g->root, group, file);
	return read_number(path, key);
}

static void narrow(struct cgroup_memory *m, const struct cgroup_files *g, const char *group)
{
	uint64_t limit = group_number(g, group, g->limit, NULL);
	uint64_t used = group_number(g, group, g->used, NULL);
	uint64_t cache = group_number(g, group, "memory.stat", g->cache[0]) +
			 group_number(g, group, "memory.stat", g->cache[1]);

	if (!limit) /* "max", or no such file */
		return;
	used -= cache < used ? cache : used;
	if (limit < m->limit)
		m->limit = limit;
	if (m->left > (limit > used ? limit - used : 0))
		m->left = limit > used ? limit - used : 0;
}

/* A group is bound by its ancestors too; inside a container only those are visible. */
static void narrow_all(struct cgroup_memory *m, const struct cgroup_files *g, char *group)
{
	char *slash;

	while ((slash = strrchr(group, '/'))) {
		narrow(m, g, slash == group && !group[1] ? "" : group);
		if (slash == group && !group[1])
			break;
		slash[slash == group] = '\0';
	}
}

static struct cgroup_memory cgroup_memory(void)
{
	struct cgroup_memory m = { UINT64_MAX, UINT64_MAX };
	char line[4096], *v1_group;
	FILE *f = fopen("/proc/self/cgroup", "re");

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		v1_group = strstr(line, ":memory:");
		if (v1_group)
			narrow_all(&m, &v1, v1_group + strlen(":memory:"));
		else if (!strncmp(line, "0::", 3))
			narrow_all(&m, &v2, line + 3);
	}
	if (f)
		fclose(f);
	return m;
}

uint64_t host_memory(void)
{
	uint64_t available = read_number("/proc/meminfo", "MemAvailable") << 10;
	uint64_t left = cgroup_memory().left;

	return available < left ? available : left;
}

uint64_t host_memory_limit(void)
{
	uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t limit = cgroup_memory().limit;

	return all < limit ? all : limit;
}

uint64_t host_swap(void)
{
	return read_number("/proc/meminfo", "SwapTotal") << 10;
}
