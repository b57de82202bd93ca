/* SPDX-License-Identifier: MIT */
/*
 * The KV buffers of this process and how they share its budgets.
 *
 * A buffer that fits beside the others is plain memory; one that does not is a
 * pool.  Each pool gets the least that it works with, and the pools divide the
 * rest of the DRAM budget in proportion to their sizes.  CXL memory and NVMe
 * space go to whoever comes first, as far as they last.
 */
#ifndef KVT_PRELOAD_BUFFERS_H
#define KVT_PRELOAD_BUFFERS_H

#include <stdbool.h>
#include <stddef.h>

#include "cache.h"

/* A pool for the cache: its address; NULL with *@plain: it fits, NULL without: refused. */
void *kvt_buffer_add(const struct kvt_cache *cache, size_t bytes, bool *plain);
/* Plain memory at @addr holds a cache of this size. */
void kvt_buffer_add_plain(void *addr, size_t bytes);
/* True when @addr was a pool and is gone now; false: it is not ours to free. */
bool kvt_buffer_remove(void *addr);
enum kvt_owner {
	KVT_NOT_OURS,
	KVT_PLAIN, /* a cache in memory of the allocator's */
	KVT_POOL,
	KVT_INHERITED, /* a pool of the process that forked this one: not there */
};
/* Whose memory begins at @addr, and *@bytes of it, unless it is not ours. */
enum kvt_owner kvt_buffer_owner(void *addr, size_t *bytes);
/* True when @addr is the start of a pool and it now reads as zeroes. */
bool kvt_buffer_zero(void *addr);

#endif
