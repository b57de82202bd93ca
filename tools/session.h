/* SPDX-License-Identifier: MIT */
/*
 * What the processes of one `kvtier run` did: each writes a line to the
 * session's file when it makes, passes over or refuses a KV buffer.
 */
#ifndef KVT_SESSION_H
#define KVT_SESSION_H

#include <stdint.h>

struct session {
	char path[512];
	uint32_t *pids; /* processes with a pool */
	uint32_t nr_pids;
	uint32_t pools;
	uint32_t plain; /* KV buffers that fit in the budget */
	uint32_t refused;
	char last_error[256]; /* of any pool */
};

int session_begin(struct session *s);
/* Read the file, collect the pools' last figures into @stats_path (NULL: nowhere), clean up. */
int session_end(struct session *s, const char *stats_path);

#endif
