/* SPDX-License-Identifier: MIT */
/* Touches of a pool of the module, as its trace event kvtier_fault tells of them. */
#ifndef KVT_TRACE_EVENTS_H
#define KVT_TRACE_EVENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct trace_event {
	uint64_t ns; /* CLOCK_MONOTONIC */
	uint64_t block;
	bool missed; /* it was not in memory */
};

/*
 * A trace instance of this process's own, so that nobody else's tracing is disturbed: an
 * opened one must be closed.  What a process that was killed left is removed first.
 */
struct trace_events {
	int pool;
	int pipe; /* trace_pipe; -1: none is open */
	char dir[128];
	char text[1 << 16]; /* read, not yet told */
	size_t nr, at;
	uint64_t lost; /* events that the kernel had no room for */
};

/* Begin to collect: 0, or -1 and @why. */
int trace_events_open(struct trace_events *e, int pool, char *why, size_t room);
/* Nothing more is collected; what was can still be taken. */
void trace_events_stop(struct trace_events *e);
/* The next one; false: there is none now. */
bool trace_events_take(struct trace_events *e, struct trace_event *event);
void trace_events_close(struct trace_events *e);

#endif
