/* SPDX-License-Identifier: MIT */
/* What every pager has in common, and the table by which a pool reaches its own. */
#ifndef KVT_POOL_H
#define KVT_POOL_H

#include <sys/types.h>

#include "kvtier.h"

struct kvt_fetch;

struct kvt_pager_ops {
	const char *name;
	/* @config is complete and checked; fills in addr, bytes and block_bytes. */
	int (*create)(const struct kvt_config *config, struct kvt_pool **pool);
	void (*destroy)(struct kvt_pool *pool);
	int (*resize)(struct kvt_pool *pool, uint64_t dram_bytes);
	int (*range_op)(struct kvt_pool *pool, uint32_t op, uint32_t tier, uint32_t flags,
			struct kvtier_range *ranges, uint32_t nr);
	int (*clone)(struct kvt_pool *dst, uint64_t dst_offset, struct kvt_pool *src,
		     uint64_t src_offset, uint64_t length);
	int (*query)(struct kvt_pool *pool, uint64_t first, uint32_t nr,
		     struct kvtier_block_info *infos);
	int (*stats)(struct kvt_pool *pool, struct kvtier_stats *stats);
	int (*event_fd)(struct kvt_pool *pool);
	int (*event_read)(struct kvt_pool *pool, struct kvtier_event *events, uint32_t nr);
	int (*checkpoint)(struct kvt_pool *pool, uint64_t offset, uint64_t length,
			  struct kvtier_slot *slots);
	int (*adopt)(struct kvt_pool *pool, const struct kvtier_slot *slots, uint32_t nr);
	/* Readers that say what they will read: fetch.h. */
	int (*fetch_open)(struct kvt_pool *pool, uint32_t window, struct kvt_fetch **fetch);
	/* NULL, all three, where the right to a file stands for the key. */
	int (*key)(struct kvt_pool *pool, struct kvt_key *key);
	int (*set_key)(struct kvt_pool *pool, const struct kvt_key *key);
	int (*release)(struct kvt_pool *pool, const struct kvt_key *key);
};

struct kvt_pool {
	const struct kvt_pager_ops *ops;
	char *addr;
	uint64_t bytes;
	uint32_t block_bytes;
	uint32_t block_shift;
	pid_t pid; /* the process that made it; a child may only destroy it */
};

extern const struct kvt_pager_ops kvt_pager_user;
extern const struct kvt_pager_ops kvt_pager_kernel;

#endif
