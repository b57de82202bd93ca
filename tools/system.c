// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "system.h"
#include "text.h"

/* ---- the daemon ---------------------------------------------------------------- */

static void note_daemon(struct system *s, int error)
{
	s->daemon_error = error;
	snprintf(s->daemon_detail, sizeof(s->daemon_detail), "%s",
		 kvt_error_detail()[0] ? kvt_error_detail() : kvt_strerror(error));
	text_clean(s->daemon_detail);
}

void system_open(struct system *s)
{
	int ret;

	memset(s, 0, sizeof(*s));
	setenv("KVTIER_PATIENCE_MS", "2000", 0); /* a person waits */
	ret = kvt_client_open(NULL, &s->client);
	if (ret) {
		s->client = NULL;
		note_daemon(s, ret);
	}
}

static void forget_lists(struct system *s)
{
	free(s->daemon_pools);
	free(s->tenants);
	free(s->tiers);
	pools_free(&s->shared);
	s->daemon_pools = NULL;
	s->tenants = NULL;
	s->tiers = NULL;
	s->nr_daemon_pools = s->nr_tenants = s->nr_tiers = 0;
}

/* Lists grow while they are read: ask with some more room than was said. */
#define READ_LIST(s, call, list, nr)                                             \
	({                                                                       \
		int n_ = call((s)->client, NULL, 0), got_ = n_;                  \
		if (n_ > 0) {                                                    \
			n_ += 16;                                                \
			(s)->list = calloc((size_t)n_, sizeof(*(s)->list));      \
			got_ = (s)->list ? call((s)->client, (s)->list, (uint32_t)n_) : -ENOMEM; \
		}                                                                \
		if (got_ > 0)                                                    \
			(s)->nr = (uint32_t)(got_ < n_ ? got_ : n_);             \
		got_ < 0 ? got_ : 0;                                             \
	})

static void clean_names(struct system *s)
{
	uint32_t i;

	for (i = 0; i < s->nr_daemon_pools; i++) {
		text_clean(s->daemon_pools[i].name);
		text_clean(s->daemon_pools[i].tenant);
		text_clean(s->daemon_pools[i].model);
	}
	for (i = 0; i < s->nr_tenants; i++)
		text_clean(s->tenants[i].name);
	for (i = 0; i < s->nr_tiers; i++)
		text_clean(s->tiers[i].where);
}

static int read_daemon(struct system *s)
{
	int ret = kvt_daemon_status(s->client, &s->status);

	if (!ret)
		ret = READ_LIST(s, kvt_daemon_pools, daemon_pools, nr_daemon_pools);
	if (!ret)
		ret = READ_LIST(s, kvt_daemon_tenants, tenants, nr_tenants);
	if (!ret)
		ret = READ_LIST(s, kvt_daemon_tiers, tiers, nr_tiers);
	clean_names(s);
	return ret;
}

/* ---- figures of the daemon's pools ------------------------------------------------ */

/* Where nothing else is known. */
static void stats_from_list(const struct kvt_daemon_pool *p, struct kvtier_stats *stats)
{
	int t;

	*stats = (struct kvtier_stats){ .bytes = p->bytes };
	stats->block_shift = p->block_bytes ? (uint32_t)__builtin_ctzll(p->block_bytes) : 0;
	stats->nr_blocks = p->bytes >> stats->block_shift;
	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++) {
		stats->tier[t].budget_bytes = p->budget[t];
		stats->tier[t].used_bytes = p->used[t];
	}
}

/* One that does not answer is not asked for a thousand others. */
static bool ask_stats(struct system *s, const struct kvt_daemon_pool *p, struct kvtier_stats *stats)
{
	int ret = kvt_daemon_stats(s->client, p->id, stats);

	if (ret && ret != -ENOENT && ret != -EACCES)
		note_daemon(s, ret);
	return !ret;
}

static struct kvt_stat_file *module_entry(struct system *s, const char *device)
{
	char name[32];
	size_t i;

	for (i = 0; i < s->pools.nr; i++) {
		snprintf(name, sizeof(name), "pool%d", s->pools.pool[i].kernel_id);
		if (s->pools.pool[i].kernel_id >= 0 && !strcmp(name, device))
			return &s->pools.pool[i];
	}
	return NULL;
}

/* What the module shows of it is not shown twice. */
static int add_shared(struct system *s, const struct kvt_daemon_pool *p)
{
	struct kvt_stat_file f = { .pid = s->status.pid, .kernel_id = -1, .created_ns = p->id },
			     *entry = p->device[0] ? module_entry(s, p->device) : NULL;

	snprintf(f.name, sizeof(f.name), "%.31s/%.31s", p->tenant, p->name);
	snprintf(f.pager, sizeof(f.pager), "daemon");
	if (entry) {
		f.stats = entry->stats;
		f.kernel_id = entry->kernel_id;
		snprintf(f.nvme_path, sizeof(f.nvme_path), "%s", entry->nvme_path);
		pools_remove(&s->pools, (size_t)(entry - s->pools.pool));
	} else if (s->daemon_error || !ask_stats(s, p, &f.stats)) {
		stats_from_list(p, &f.stats);
	}
	return pools_add(&s->shared, &f, "");
}

static int read_shared(struct system *s)
{
	uint32_t i;
	int ret = 0;

	for (i = 0; i < s->nr_daemon_pools && !ret; i++)
		ret = add_shared(s, &s->daemon_pools[i]);
	return ret;
}

bool system_daemon_silent(const struct system *s)
{
	return s->client ? s->daemon_error != 0 : s->daemon_error != -ENOENT;
}

struct kvt_client *system_need_daemon(struct system *s, int *ret)
{
	system_open(s);
	*ret = s->client ? 0 :
			   fail(1, "no kvtierd answers: %s", s->daemon_detail);
	return s->client;
}

/* ---- all ----------------------------------------------------------------------- */

int system_read(struct system *s)
{
	int ret;

	pools_free(&s->pools);
	forget_lists(s);
	module_ask(&s->module);
	ret = pools_read(&s->pools, NULL, NULL);
	if (!ret)
		ret = module_pools(&s->pools, module_class());
	if (!s->client)
		return ret;
	s->daemon_error = 0;
	if (read_daemon(s)) {
		note_daemon(s, -ECONNRESET);
		forget_lists(s);
	}
	return ret ?: read_shared(s);
}

int system_look(struct system *s)
{
	int ret;

	system_open(s);
	ret = system_read(s);
	return ret ? fail(1, "cannot read the pools' files: %s", strerror(-ret)) : 0;
}

void system_close(struct system *s)
{
	pools_free(&s->pools);
	forget_lists(s);
	if (s->client)
		kvt_client_close(s->client);
	s->client = NULL;
}

/* ---- one pool ------------------------------------------------------------------ */

static bool is_pool_file(const struct kvt_stat_file *pool, const char *text)
{
	char number[32];

	snprintf(number, sizeof(number), "%u", pool->pid);
	if (pool->pid && !strcmp(text, number))
		return true;
	snprintf(number, sizeof(number), "pool%d", pool->kernel_id);
	if (pool->kernel_id >= 0 && !strcmp(text, number))
		return true;
	return !strcmp(text, pool->name);
}

static bool is_daemon_pool(const struct kvt_daemon_pool *pool, const char *text)
{
	size_t n = strlen(pool->tenant);

	if (!strcmp(text, pool->name) || (*text && !strcmp(text, pool->device)))
		return true;
	return !strncmp(text, pool->tenant, n) && text[n] == '/' &&
	       !strcmp(text + n + 1, pool->name);
}

int system_find(const struct system *s, const char *text, struct pool_ref *ref)
{
	uint32_t found = 0, i;

	*ref = (struct pool_ref){ .path = "" };
	for (i = 0; i < s->pools.nr; i++) {
		if (!is_pool_file(&s->pools.pool[i], text))
			continue;
		ref->file = &s->pools.pool[i];
		ref->path = s->pools.path[i];
		found++;
	}
	for (i = 0; i < s->nr_daemon_pools; i++) {
		if (!is_daemon_pool(&s->daemon_pools[i], text))
			continue;
		ref->file = &s->shared.pool[i];
		ref->path = "";
		ref->daemon = &s->daemon_pools[i];
		found++;
	}
	if (!found && system_daemon_silent(s))
		return fail(1,
			    "there is no pool '%s' but perhaps of kvtierd, which cannot be asked: "
			    "%s",
			    text, s->daemon_detail);
	if (!found)
		return fail(1, "there is no pool '%s': `kvtier pool` lists them", text);
	if (found > 1)
		return fail(1, "%u pools are called '%s': name one by its process or TENANT/NAME",
			    found, text);
	return 0;
}
