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
#include <unistd.h>

#include "kvtierd.h"

bool is_admin(uint32_t uid)
{
	return !uid || uid == geteuid();
}

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
	t->max_metadata = c->max_metadata;
	t->max_clients = c->max_clients;
	t->max_pools = c->max_pools;
	t->weight = c->weight ? c->weight : 1;
}

void tenants_reconfigure(struct kvtierd *d)
{
	struct tenant *t;

	for (t = d->tenants; t; t = t->next)
		configure(d, t);
}

/* Is the path of so many bytes the group @under or inside it? */
static bool in_cgroup(const char *path, size_t bytes, const char *under)
{
	size_t n = strlen(under);

	while (n > 1 && under[n - 1] == '/')
		n--;
	return bytes >= n && !memcmp(path, under, n) && (bytes == n || path[n] == '/' || n == 1);
}

/* What the kernel says of the process's groups, to be freed; NULL: nothing. */
static char *groups_of(int pid)
{
	char path[64], *text = NULL;
	size_t room = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	file = fopen(path, "re");
	if (!file)
		return NULL;
	if (getdelim(&text, &room, 0, file) < 0) {
		free(text);
		text = NULL;
	}
	fclose(file);
	return text;
}

/*
 * Does any hierarchy have it in the group?  A line is as long as the path that whoever
 * made the group chose: what is not its beginning says nothing.
 */
static bool groups_have(const char *groups, const char *group)
{
	const char *line, *at;

	for (line = groups; line && *line; line = *line ? line + 1 : NULL) {
		size_t n = strcspn(line, "\n");

		at = memchr(line, ':', n);
		at = at ? memchr(at + 1, ':', n - (size_t)(at + 1 - line)) : NULL;
		if (at && in_cgroup(at + 1, (size_t)(line + n - at - 1), group))
			return true;
		line += n;
	}
	return false;
}

static void choose_name(struct kvtierd *d, uint32_t uid, int pid, char *name, size_t room)
{
	char *groups = NULL;
	bool asked = false;
	uint32_t i;

	snprintf(name, room, "user-%u", uid);
	for (i = 0; i < d->config.nr_tenants; i++) {
		const struct tenant_config *c = &d->config.tenants[i];

		if (c->cgroup[0] && !asked) {
			groups = groups_of(pid);
			asked = true;
		}
		if (c->cgroup[0] ? groups_have(groups, c->cgroup) :
				   uid >= c->uid_first && uid <= c->uid_last) {
			snprintf(name, room, "%s", c->name);
			break;
		}
	}
	free(groups);
}

/*
 * Who may make user namespaces has thousands of users.  Tenants of whom we have nothing are
 * forgotten then, with their counters.
 */
#define TENANTS_MAX 1024

static void forget_some(struct kvtierd *d)
{
	struct tenant **at = &d->tenants, *t;

	while ((t = *at)) {
		if (t->clients || t->pools || t->fds || t->metadata_bytes) {
			at = &t->next;
			continue;
		}
		*at = t->next;
		d->nr_tenants--;
		free(t);
	}
}

static struct tenant *tenant_new(struct kvtierd *d, const char *name, uint32_t uid)
{
	struct tenant *t;

	if (d->nr_tenants >= TENANTS_MAX)
		forget_some(d);
	t = d->nr_tenants < TENANTS_MAX ? calloc(1, sizeof(*t)) : NULL;
	if (!t)
		return NULL;
	snprintf(t->name, sizeof(t->name), "%s", name);
	t->uid = uid;
	configure(d, t);
	t->next = d->tenants;
	d->tenants = t;
	d->nr_tenants++;
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

/* Of a limit, where 0 is none. */
static bool is_over(uint64_t used, uint64_t more, uint64_t limit)
{
	return limit && (used > limit || more > limit - used);
}

int tenant_room(struct kvtierd *d, const struct tenant *t, uint32_t tier, uint64_t bytes)
{
	if (is_over(t->used[tier], bytes, t->quota[tier]))
		return -EDQUOT;
	return is_over(d->used[tier], bytes, d->config.limit[tier]) ? -ENOSPC : 0;
}

void tenant_charge(struct kvtierd *d, struct tenant *t, uint32_t tier, int64_t bytes)
{
	t->used[tier] += (uint64_t)bytes;
	d->used[tier] += (uint64_t)bytes;
}

/* ---- what else there is only so much of ----------------------------------------------------- */

int tenant_client_room(struct tenant *t)
{
	if (!is_over(t->clients, 1, t->max_clients))
		return 0;
	t->refusals++;
	return kvt_fail(-EDQUOT,
			"tenant %s has %u connections, its max-clients: close some, or have it "
			"raised",
			t->name, t->clients);
}

int tenant_pool_room(struct tenant *t)
{
	if (!is_over(t->pools, 1, t->max_pools))
		return 0;
	t->refusals++;
	return kvt_fail(-EDQUOT,
			"tenant %s has %u pools, its max-pools: remove some, or have it raised",
			t->name, t->pools);
}

/*
 * What is pinned is in nobody's reach: a quarter of the host's limit stays free of pins, so
 * that faults of all go on, and a tenant without a quota may take half at most.
 */
int tenant_pin_room(struct kvtierd *d, const struct tenant *t, uint64_t bytes)
{
	uint64_t limit = d->config.limit[KVTIER_TIER_DRAM], quota = t->quota[KVTIER_TIER_DRAM];

	if (is_over(t->pinned_bytes, bytes, quota ? quota : limit / 2))
		return -EDQUOT;
	return is_over(d->pinned_bytes, bytes, limit - limit / 4) ? -ENOSPC : 0;
}

void tenant_pin(struct kvtierd *d, struct tenant *t, int64_t bytes)
{
	t->pinned_bytes += (uint64_t)bytes;
	d->pinned_bytes += (uint64_t)bytes;
}

static int refuse_take(struct tenant *t, uint64_t bytes, uint32_t max_fds)
{
	t->refusals++;
	if (max_fds)
		return kvt_fail(-EDQUOT,
				"tenant %s has %u descriptors of the daemon, of %u that one may "
				"have: close connections, or end pools and plans",
				t->name, t->fds, max_fds);
	return kvt_fail(-EDQUOT,
			"this takes %llu KiB of the daemon's memory; tenant %s has used %llu of "
			"%llu KiB, its max-metadata: end pools and plans, or have it raised",
			(unsigned long long)bytes >> 10, t->name,
			(unsigned long long)t->metadata_bytes >> 10,
			(unsigned long long)t->max_metadata >> 10);
}

int tenant_take(struct kvtierd *d, struct tenant *t, uint64_t bytes, uint32_t fds)
{
	uint32_t max_fds = d->max_fds - d->max_fds / 4;

	if (fds && is_over(t->fds, fds, max_fds))
		return refuse_take(t, bytes, max_fds);
	if (is_over(t->metadata_bytes, bytes, t->max_metadata))
		return refuse_take(t, bytes, 0);
	tenant_took(t, bytes, fds);
	return 0;
}

/* Without asking: it is there already. */
void tenant_took(struct tenant *t, uint64_t bytes, uint32_t fds)
{
	t->metadata_bytes += bytes;
	t->fds += fds;
}

void tenant_give(struct tenant *t, uint64_t bytes, uint32_t fds)
{
	t->metadata_bytes -= bytes;
	t->fds -= fds;
}
