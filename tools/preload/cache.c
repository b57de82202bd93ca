// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "kvtier.h"

#define LAYERS_MAX 4096
/* At most this part of the budget for the tensors' last blocks. */
#define TAIL_SHARE 3

typedef struct ggml_tensor *(*first_fn)(const struct ggml_context *);
typedef struct ggml_tensor *(*next_fn)(const struct ggml_context *, struct ggml_tensor *);
typedef const char *(*name_fn)(const struct ggml_tensor *);
typedef size_t (*nbytes_fn)(const struct ggml_tensor *);

/* "cache_k_l7", "cache_swa_v_l7": 7; -1 when there is no layer. */
static int layer_of(const char *name)
{
	const char *l = strstr(name, "_l");
	char *end;
	long n;

	if (!l)
		return -1;
	n = strtol(l + 2, &end, 10);
	return end == l + 2 || n < 0 || n >= LAYERS_MAX ? -1 : (int)n;
}

bool kvt_is_cache(const struct ggml_context *ctx, const void *caller, struct kvt_cache *cache)
{
	first_fn first = (first_fn)kvt_engine_symbol("ggml_get_first_tensor", caller);
	next_fn next = (next_fn)kvt_engine_symbol("ggml_get_next_tensor", caller);
	name_fn name = (name_fn)kvt_engine_symbol("ggml_get_name", caller);
	nbytes_fn nbytes = (nbytes_fn)kvt_engine_symbol("ggml_nbytes", caller);
	struct ggml_tensor *t;
	uint64_t *layers;

	memset(cache, 0, sizeof(*cache));
	if (!first || !next || !name || !nbytes)
		return false;
	t = first(ctx);
	if (!t || strncmp(name(t), "cache_", 6))
		return false;
	layers = calloc(LAYERS_MAX, sizeof(*layers));
	if (!layers)
		return false;
	for (; t; t = next(ctx, t)) {
		int l = layer_of(name(t));

		if (strstr(name(t), "(view)")) /* shares another tensor's bytes */
			continue;
		cache->bytes += nbytes(t);
		cache->tensors++;
		if (l >= 0)
			layers[l] += nbytes(t);
		if (l >= 0 && layers[l] > cache->layer_bytes)
			cache->layer_bytes = layers[l];
	}
	free(layers);
	return true;
}

uint64_t kvt_cache_dram_min(const struct kvt_cache *cache, uint64_t block_bytes)
{
	uint64_t least = cache->layer_bytes + kvt_dram_bytes_min(block_bytes);
	uint64_t whole = (cache->bytes + block_bytes - 1) & ~(block_bytes - 1);

	return least < whole ? least : whole;
}

uint64_t kvt_cache_block_bytes(const struct kvt_cache *cache, uint64_t dram_bytes)
{
	uint64_t block = kvt_block_bytes_for(cache->bytes, dram_bytes);

	while (block > KVT_BLOCK_MIN && block * cache->tensors > dram_bytes / TAIL_SHARE)
		block >>= 1;
	return block;
}
