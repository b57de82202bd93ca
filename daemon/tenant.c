// SPDX-License-Identifier: MIT
/*
 * Whose a process is, and what that tenant may occupy.
 *
 * The kernel says who is at the other end of a socket.  A section of the configuration
 * names a tenant's cgroup or users; who is in none is a tenant of his own, with the
 * quotas of [default].
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvtierd.h"

struct tenant *tenant_named(struct kvtierd *d, const char *name)
{
	struct tenant *t;

	for (t = d->tenants; t && strcmp(t->name, name); t = t->next)
		;
	return t;
}

static const struct tenant_config *section_of(struct kvtierd *d, const char *name)
{
	uint32_t i;

	for (i = 0; i < d->config.nr_tenants; i++)
		if (!strcmp(d->config.tenants[i].name, name))
			return &d->config.tenants[i];
	return &d->config.default_tenant;
}

static void configure(struct kvtierd *d, struct tenant *t)
{
	const struct tenant_config *c = section_of(d, t->name);

	memcpy(t->quota, c->quota, sizeof(t->quota));
	t->weight = c->weight ? c->weight : 1;
}

void tenants_reconfigure(struct kvtierd *d)
{
	struct tenant *t;

	for (t = d->tenants; t; t = t->next)
		configure(d, t);
}

/* Is @path the group @under or inside it? */
static bool in_cgroup(const char *path, const char *under)
{
	size_t n = strlen(under);

	while (n > 1 && under[n - 1] == '/')
		n--;
	return !strncmp(path, under, n) && (path[n] == 0 || path[n] == '/' || n == 1);
}

/*
 * Does any hierarchy of the process have it in the group?  A line is as long as the path
 * that whoever made the group chose: what is not its beginning says nothing.
 */
static bool process_in(int pid, const char *group)
{
	char path[64], *line = NULL;
	bool found = false;
	size_t room = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	file = fopen(path, "re");
	if (!file)
		return false;
	while (!found && getline(&line, &room, file) > 0) {
		char *at = strchr(line, ':');

		at = at ? strchr(at + 1, ':') : NULL;
		if (!at)
			continue;
		at[strcspn(at, "\n")] = 0;
		found = in_cgroup(at + 1, group);
	}
	free(line);
	fclose(file);
	return found;
}

static void choose_name(struct kvtierd *d, uint32_t uid, int pid, char *name, size_t room)
{
	uint32_t i;

	for (i = 0; i < d->config.nr_tenants; i++) {
		const struct tenant_config *c = &d->config.tenants[i];

		if (c->cgroup[0] ? process_in(pid, c->cgroup) :
				   uid >= c->uid_first && uid <= c->uid_last) {
			snprintf(name, room, "%s", c->name);
			return;
		}
	}
	snprintf(name, room, "user-%u", uid);
}

static struct tenant *tenant_new(struct kvtierd *d, const char *name, uint32_t uid)
{
	struct tenant *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	snprintf(t->name, sizeof(t->name), "%s", name);
	t->uid = uid;
	configure(d, t);
	t->next = d->tenants;
	d->tenants = t;
	return t;
}

/* Of a pool that a predecessor made: the one whose name it has, whoever has come yet. */
struct tenant *tenant_again(struct kvtierd *d, const char *name, uint32_t uid)
{
	struct tenant *t = tenant_named(d, name);

	return t ? t : tenant_new(d, name, uid);
}

struct tenant *tenant_of(struct kvtierd *d, uint32_t uid, int pid)
{
	char name[32];

	choose_name(d, uid, pid, name, sizeof(name));
	return tenant_again(d, name, uid);
}

int tenant_room(struct kvtierd *d, const struct tenant *t, uint32_t tier, uint64_t bytes)
{
	if (t->quota[tier] && t->used[tier] + bytes > t->quota[tier])
		return -EDQUOT;
	if (d->config.limit[tier] && d->used[tier] + bytes > d->config.limit[tier])
		return -ENOSPC;
	return 0;
}

void tenant_charge(struct kvtierd *d, struct tenant *t, uint32_t tier, int64_t bytes)
{
	t->used[tier] += (uint64_t)bytes;
	d->used[tier] += (uint64_t)bytes;
}
