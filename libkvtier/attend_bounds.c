// SPDX-License-Identifier: MIT
/* The smallest and largest elements of a block's keys. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "attend.h"
#include "error.h"

static void widen(float *low, float *high, const float *row, uint32_t dim)
{
	uint32_t i;

	for (i = 0; i < dim; i++) {
		float x = row[i];

		if (isnan(x)) {
			low[i] = -INFINITY;
			high[i] = INFINITY;
			continue;
		}
		low[i] = x < low[i] ? x : low[i];
		high[i] = x > high[i] ? x : high[i];
	}
}

int kvt_key_bounds(uint32_t kv_heads, uint32_t k_dim, const struct kvt_seq_block *block,
		   float *bounds)
{
	size_t width = kv_heads * (size_t)k_dim, i;
	float *row;
	uint32_t token, head;
	int ret = 0;

	if (!block || !bounds || !block->k || !block->tokens)
		return kvt_fail(-EINVAL, "bounds of nothing: a block with keys and tokens is "
					 "needed");
	if (!kv_heads || kv_heads > KVT_HEADS_MAX || !kvt_row_bytes(block->k_type, k_dim))
		return kvt_fail(-EINVAL, "bounds of %u heads with %u elements: no such keys",
				kv_heads, k_dim);
	row = malloc(width * sizeof(*row));
	if (!row)
		return kvt_fail(-ENOMEM, "no memory for a row of keys");
	for (i = 0; i < 2 * width; i++)
		bounds[i] = i / k_dim % 2 ? -INFINITY : INFINITY;
	for (token = 0; !ret && token < block->tokens; token++) {
		const char *keys = (const char *)block->k + (size_t)token * block->k_stride;

		ret = kvt_dequantize(block->k_type, k_dim, kv_heads, 1, keys, 0, row);
		for (head = 0; !ret && head < kv_heads; head++) {
			float *low = bounds + (size_t)head * 2 * k_dim;

			widen(low, low + k_dim, row + (size_t)head * k_dim, k_dim);
		}
	}
	free(row);
	return ret;
}
