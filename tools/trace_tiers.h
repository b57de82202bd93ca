/* SPDX-License-Identifier: MIT */
/*
 * kvtier's tiers under a trace: a model, with a clock.
 *
 * Requests arrive when the trace says and are served in that order, one prefill at a
 * time: those that wait are a known future.  A request's turn takes as long as its
 * blocks that are nowhere take to be computed, plus the reads that it has to wait for.
 *
 * DRAM has room for a number of blocks.  What leaves it is in the NVMe tier (full blocks
 * never change, so each is written once).  From a request's arrival, or @announce
 * seconds earlier where its client tells, until its turn, the disk promotes its blocks,
 * one after the other at the given rate, the earliest request's first.  A block counts
 * as a hit in DRAM only when it is there, whole, at the moment of the turn.
 *
 * What leaves DRAM: first what no known request wants, the least valuable group first
 * (trace_value.h), from its tail; then what the latest of the known requests wants.
 */
#ifndef KVT_TRACE_TIERS_H
#define KVT_TRACE_TIERS_H

#include "trace.h"
#include "trace_value.h"

struct tiers_config {
	uint32_t dram; /* blocks */
	uint32_t nvme; /* blocks; 0: none */
	size_t lookahead; /* most requests known before their turn; 0: none */
	double announce; /* seconds */
	double block_seconds; /* to read one from NVMe */
	double token_seconds; /* to compute one */
};

struct tiers_result {
	uint64_t dram_hits, nvme_hits, missed;
	uint64_t promoted; /* ahead of their turn */
	uint64_t wasted; /* of these, gone before any use */
	uint64_t written; /* blocks to NVMe */
	uint32_t nvme_used;
	double waited; /* seconds in which turns waited for NVMe */
	double queued; /* requests known at a turn, on average */
	double seconds; /* until the last turn ended */
};

/* Where a block is. */
#define TIERS_DRAM 1
#define TIERS_NVME 2
#define TIERS_AHEAD 4 /* promoted, not used yet */

struct tiers {
	const struct trace *t;
	struct tiers_config config;
	struct tiers_result result;
	struct value value;
	uint8_t *where;
	uint32_t *wanted; /* by which known request first; TRACE_NONE: none */
	uint32_t *nvme_next, *nvme_prev; /* ring of NVMe's blocks, by age; last entry: head */
	uint32_t nr_dram;
	size_t known; /* requests before this one are known */
	double free_at; /* when the engine, and the disk, are done with what they do */
	double disk_at;
	uint64_t inserted;
	void (*moved)(void *arg, uint32_t block, bool promoted); /* a mirror, or NULL */
	void *moved_arg;
};

/* 0 or -ENOMEM; @t must stay. */
int tiers_init(struct tiers *s, const struct trace *t, const struct tiers_config *config);
/* Serve the next request, @i: first what happens until its turn, then the turn itself. */
void tiers_until_turn(struct tiers *s, size_t i);
int tiers_turn(struct tiers *s, size_t i);
void tiers_free(struct tiers *s);

/* All of the trace; @progress, if any, is told how many requests are done. */
int tiers_run(const struct trace *t, const struct tiers_config *config,
	      struct tiers_result *result, void (*progress)(void *arg, size_t done), void *arg);

#endif
