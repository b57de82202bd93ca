/* SPDX-License-Identifier: MIT */
/* All that can be seen of kvtier on this host: pools, module, daemon. */
#ifndef KVT_SYSTEM_H
#define KVT_SYSTEM_H

#include "kvtier_daemon.h"
#include "module.h"
#include "pools.h"

struct system {
	struct pools pools; /* of processes, and the module's; not the daemon's */
	struct module module;

	struct kvt_client *client; /* NULL: no daemon answers */
	int daemon_error; /* why not */
	char daemon_detail[256];
	struct kvt_daemon_status status;
	struct kvt_daemon_pool *daemon_pools;
	struct pools shared; /* the same pools with their figures: an entry each, in their order */
	struct kvt_daemon_tenant *tenants;
	struct kvt_daemon_tier *tiers;
	uint32_t nr_daemon_pools, nr_tenants, nr_tiers;
};

/* Connect to the daemon if there is one; its absence is not an error. */
void system_open(struct system *s);
/* Look again at everything: 0 or -errno of reading the pools' files. */
int system_read(struct system *s);
/* The same two, and 1 after one line where that failed. */
int system_look(struct system *s);
void system_close(struct system *s);

/* Is a daemon there that does not answer, or not to this user?  @daemon_detail says why. */
bool system_daemon_silent(const struct system *s);

/* The daemon's client, or NULL after one line said that there is no daemon. */
struct kvt_client *system_need_daemon(struct system *s, int *ret);

/*
 * One pool, as a user names it: its number in /sys/class/kvtier (pool3), the id of its
 * process, or its name; a pool of the daemon by its name, its poolN or TENANT/NAME.
 */
struct pool_ref {
	const struct kvt_stat_file *file;
	const char *path; /* of its file; "": it has none */
	const struct kvt_daemon_pool *daemon; /* NULL: of a process, or the module */
};

/* 0, or an exit code after one line said what is wrong. */
int system_find(const struct system *s, const char *text, struct pool_ref *ref);

#endif
