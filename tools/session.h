/* SPDX-License-Identifier: MIT */
/*
 * What the processes of one `kvtier run` did: the shim in each writes a line to
 * the session's file when it is loaded, meets ggml, and makes, passes over or
 * refuses a KV buffer.
 */
#ifndef KVT_SESSION_H
#define KVT_SESSION_H

#include <stdbool.h>
#include <stdint.h>

struct session {
	char path[512];
	uint64_t begun_ns; /* CLOCK_MONOTONIC, as kvt_stat_file.created_ns */
	uint32_t *pids; /* processes with a pool */
	uint32_t nr_pids;
	uint32_t loaded; /* the shim ran at all */
	uint32_t engines; /* a shared ggml was there */
	uint32_t pools;
	uint32_t plain; /* KV buffers that fit in the budget */
	uint32_t elsewhere; /* KV buffers that are not in main memory */
	uint32_t refused;
	char last_error[256]; /* of any pool */
};

/* Can the figures be written there later?  0, or an exit code after one line said why. */
int session_check_stats(const char *stats_path);
int session_begin(struct session *s);
/*
 * Read the file, collect the pools' last figures into @stats_path (NULL: nowhere),
 * clean up.  @killed: wait a moment for processes that are being killed.
 */
int session_end(struct session *s, const char *stats_path, bool killed);

#endif
