/* SPDX-License-Identifier: MIT */
/* Recognise the context of an engine's KV cache, and what its attention needs at once. */
#ifndef KVT_PRELOAD_CACHE_H
#define KVT_PRELOAD_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine.h"

struct kvt_cache {
	uint64_t bytes; /* of all tensors */
	uint64_t layer_bytes; /* largest K + V of one layer */
	uint32_t tensors;
};

/* True when the context's tensors are named cache_*; fills in @cache. */
bool kvt_is_cache(const struct ggml_context *ctx, const void *caller, struct kvt_cache *cache);

/*
 * Least DRAM of a pool: attention sweeps a layer's keys and values once per head, so they
 * must fit together; plus what the pager needs to move.
 */
uint64_t kvt_cache_dram_min(const struct kvt_cache *cache, uint64_t block_bytes);

/* Block size: each tensor's last block is written every step and should stay in memory. */
uint64_t kvt_cache_block_bytes(const struct kvt_cache *cache, uint64_t dram_bytes);

#endif
