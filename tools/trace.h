/* SPDX-License-Identifier: MIT */
/*
 * Traces of requests to a serving engine: which blocks of the KV cache each one
 * reads, in order, and when.
 *
 * A request's blocks are a path from the root of a prefix tree: block k is of use
 * only when blocks 0..k-1 are there too.  In a recorded trace (kvtier trace record)
 * each request is one access and the blocks are independent: @prefix is false.
 */
#ifndef KVT_TRACE_H
#define KVT_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACE_NONE UINT32_MAX

/* Why the answer ended: all that an engine knows of when the session comes back. */
enum trace_stop {
	TRACE_STOP_UNKNOWN,
	TRACE_STOP_TOOL, /* it called a tool */
	TRACE_STOP_TURN, /* it is somebody's turn to speak */
	TRACE_NR_STOPS,
};

struct trace_request {
	double at; /* arrival, seconds from the start of the trace */
	double heard; /* when its session had its last answer: no sooner can it be announced */
	double busy; /* seconds that the engine worked on it, 0: unknown */
	size_t first; /* its blocks are trace->block[first .. first + nr) */
	uint32_t nr;
	uint32_t tokens; /* of its prompt */
	uint32_t session; /* of a conversation that the trace names; TRACE_NONE: none */
	uint32_t order; /* where it stood in its file: ties of @at stay in order */
	uint8_t stop; /* enum trace_stop */
};

struct trace {
	struct trace_request *request;
	size_t nr_requests;
	uint32_t *block; /* numbers from 0 to nr_blocks - 1 */
	size_t nr_accesses; /* entries of @block */
	uint32_t nr_blocks; /* distinct */
	uint32_t block_tokens; /* 0: recorded, blocks have bytes only */
	uint64_t block_bytes; /* of a recorded trace; 0: unknown */
	uint32_t nr_sessions;
	double seconds; /* from its start to the last arrival */
	bool prefix;

	/* While it is read. */
	size_t room_requests, room_accesses;
	uint64_t *key; /* open addressing: scope << 40 | id, + 1 */
	uint32_t *number;
	size_t nr_places;
};

/*
 * Add the requests of @path: Mooncake's lines, one agentic session, or a recorded
 * trace, told apart by their first line.  0, or an exit code after one line said what
 * is wrong and where.
 */
int trace_add(struct trace *t, const char *path);
/* Order all by arrival; at most @limit requests stay (0: all).  0 or an exit code. */
int trace_finish(struct trace *t, size_t limit);
void trace_free(struct trace *t);

static inline const uint32_t *trace_blocks(const struct trace *t, size_t request)
{
	return t->block + t->request[request].first;
}

#endif
