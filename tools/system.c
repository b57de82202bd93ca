// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "system.h"

/* ---- the daemon ---------------------------------------------------------------- */

static void note_daemon(struct system *s, int error)
{
	s->daemon_error = error;
	snprintf(s->daemon_detail, sizeof(s->daemon_detail), "%s",
		 kvt_error_detail()[0] ? kvt_error_detail() : kvt_strerror(error));
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

static int read_daemon(struct system *s)
{
	int ret = kvt_daemon_status(s->client, &s->status);

	if (!ret)
		ret = READ_LIST(s, kvt_daemon_pools, daemon_pools, nr_daemon_pools);
	if (!ret)
		ret = READ_LIST(s, kvt_daemon_tenants, tenants, nr_tenants);
	if (!ret)
		ret = READ_LIST(s, kvt_daemon_tiers, tiers, nr_tiers);
	return ret;
}

struct kvt_client *system_need_daemon(struct system *s, int *ret)
{
	system_open(s);
	*ret = s->client ? 0 :
			   fail(1, "no kvtierd answers (%s): start it, or name its socket in "
				   "KVTIER_SOCKET", s->daemon_detail);
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
	return ret;
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

	if (!strcmp(text, pool->name))
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
		ref->file = NULL;
		ref->daemon = &s->daemon_pools[i];
		found++;
	}
	if (!found)
		return fail(1, "there is no pool '%s': `kvtier pool` lists them", text);
	if (found > 1)
		return fail(1, "%u pools are called '%s': name one by its process or TENANT/NAME",
			    found, text);
	return 0;
}
