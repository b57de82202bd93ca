/* SPDX-License-Identifier: MIT */
/* A trace replayed against a real pool, with every byte that is read compared. */
#ifndef KVT_TRACE_POOL_H
#define KVT_TRACE_POOL_H

#include "kvtier.h"
#include "trace_tiers.h"

struct trace_pool_result {
	uint64_t dram_hits; /* blocks that were in memory when their turn came */
	uint64_t nvme_hits; /* that were on NVMe, or on their way */
	uint64_t missed; /* written for the first time */
	uint64_t wrong_blocks;
	double seconds;
	struct kvtier_stats stats;
	char pager[16];
};

/*
 * Replay @t as the model of @config decides: its promotions and demotions are done in a
 * pool made of @pool (bytes and DRAM budget are set here).  @speed: trace seconds a
 * second; 0: as fast as possible.  0, or an exit code after one line said why.
 */
int trace_pool_run(const struct trace *t, const struct tiers_config *config,
		   const struct kvt_config *pool, double speed, struct trace_pool_result *result,
		   void (*progress)(void *arg, size_t done), void *arg);

#endif
