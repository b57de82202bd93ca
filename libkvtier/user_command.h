/* SPDX-License-Identifier: MIT */
/*
 * A request of another thread to the pager thread.
 *
 * The caller's stack holds the command; the caller sleeps until @finished.
 * The pager thread steps every active command once a turn of its loop, so that
 * several make progress side by side.
 */
#ifndef KVT_USER_COMMAND_H
#define KVT_USER_COMMAND_H

#include "user.h"

struct kvt_command {
	struct kvt_command *next;
	/* One step: 1 finished, 0 not yet. */
	int (*step)(struct kvt_user *u, struct kvt_command *c);
	pthread_cond_t done;
	bool finished; /* under kvt_user.lock */
	int result;
	int error; /* of the range at work */
	uint64_t deadline_ns;

	uint32_t op; /* range operations */
	uint32_t tier;
	uint32_t flags;
	struct kvtier_range *ranges;
	uint32_t nr;
	uint32_t at; /* range at work */
	bool begun; /* ... its checks are done */
	uint32_t first, end; /* its blocks */
	uint32_t issued, settled; /* how far work has been started, and seen to be done */

	uint64_t dram_bytes; /* resize */
	uint32_t src; /* clone: first source block */
	struct kvtier_block_info *infos; /* query */
	struct kvtier_stats *stats;
	struct kvtier_slot *slots; /* checkpoint */
	enum { KVT_SYNC_NONE, KVT_SYNC_BEGUN, KVT_SYNC_DONE } sync;
	const struct kvtier_slot *adopted;
	struct kvt_user_fetch *fetch;
};

/* Hand @c to the pager thread and wait until it is finished; returns its result. */
int kvt_user_execute(struct kvt_user *u, struct kvt_command *c);

/* user_range.c: one step of a range operation. */
int kvt_user_range_step(struct kvt_user *u, struct kvt_command *c);
/* Start and await the write-back of a block: 1 clean, 0 not yet, or a negative errno. */
int kvt_user_clean_step(struct kvt_user *u, uint32_t b);
int kvt_user_discard_block(struct kvt_user *u, uint32_t b);
/* user_stat.c */
void kvt_user_info(struct kvt_user *u, uint32_t b, struct kvtier_block_info *info);

#endif
