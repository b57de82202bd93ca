/* SPDX-License-Identifier: MIT */
/*
 * The references that a cache of @room blocks is judged by.  Each returns the number
 * of accesses that hit: leading blocks of a request that are all there (in a recorded
 * trace, any block that is there).  TRACE_FAILED: out of memory.
 */
#ifndef KVT_TRACE_CACHE_H
#define KVT_TRACE_CACHE_H

#include "trace.h"

#define TRACE_FAILED UINT64_MAX

/* Everything seen before. */
uint64_t trace_infinite(const struct trace *t);
/* Least recently used, moved to the front in the order of access. */
uint64_t trace_lru(const struct trace *t, uint32_t room);
/* Belady: what is used again furthest in the future goes first; nothing is read ahead. */
uint64_t trace_belady(const struct trace *t, uint32_t room);

#endif
