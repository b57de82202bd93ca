/* SPDX-License-Identifier: MIT */
/* Read the files in which pools show themselves (libkvtier/stat_file.h). */
#ifndef KVT_POOLS_H
#define KVT_POOLS_H

#include <stdbool.h>
#include <sys/types.h>

#include <cjson/cJSON.h>

#include "stat_file.h"

struct pools {
	struct kvt_stat_file *pool;
	char (*path)[512];
	size_t nr;
};

/* False: the pool is closed, or its process is gone. */
bool pool_alive(const struct kvt_stat_file *pool);

/*
 * All pools for which @want is true (NULL: all that are alive); files that no
 * process and no `kvtier run` has a use for any more are removed.  Returns 0 or
 * -errno.
 */
int pools_read(struct pools *pools, bool (*want)(const struct kvt_stat_file *, void *), void *arg);
/* Add a copy of @pool; 0 or -ENOMEM. */
int pools_add(struct pools *pools, const struct kvt_stat_file *pool, const char *path);
void pools_remove(struct pools *pools, size_t nr);
void pools_free(struct pools *pools);

cJSON *pool_json(const struct kvt_stat_file *pool);

/* Whose it is, in a column of 7: a process, "poolN" of the module, or "kvtierd". */
#define POOL_OWNER 16
const char *pool_owner(const struct kvt_stat_file *pool, char buf[POOL_OWNER]);

/* Is there a process @pid that has not ended? */
bool process_alive(uint32_t pid);
/* Session files are named SESSION_PREFIX<pid of kvtier run>-XXXXXX. */
#define SESSION_PREFIX "run-"

/* The next three are from 0 to 1, or NaN when nothing has happened yet. */

/* Part of the time that blocks were being read in which no thread waited. */
double stats_hidden(const struct kvtier_stats *s);
/* Part of the blocks that were touched without waiting for NVMe. */
double stats_hits(const struct kvtier_stats *s);
/* Part of the blocks read ahead that were then used. */
double stats_accuracy(const struct kvtier_stats *s);

extern const char *const tier_names[KVTIER_NR_TIERS];

#endif
