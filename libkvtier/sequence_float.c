// SPDX-License-Identifier: MIT
/* Rows as floats, in and out, whatever the cache's types. */
#include <errno.h>
#include <stdlib.h>

#include "error.h"
#include "kvtier_attend.h"
#include "sequence.h"

int kvt_geometry_typed(const struct kvt_geometry *g)
{
	if (g->kv_heads && g->k_dim &&
	    kvt_row_bytes(g->k_type, g->k_dim) * g->kv_heads == g->k_bytes &&
	    (!g->v_bytes || kvt_row_bytes(g->v_type, g->v_dim) * g->kv_heads == g->v_bytes))
		return 0;
	return kvt_fail(-EINVAL,
			"the geometry gives bytes alone: floats need kv_heads, k_dim, v_dim "
			"and types");
}

static int convert(const struct kvt_geometry *g, uint64_t rows, const float *k, const float *v,
		   void *k_rows, void *v_rows)
{
	int ret = 0;

	if (rows > UINT32_MAX)
		return kvt_fail(-EINVAL, "more than 2^32 - 1 rows in one call");
	if (k)
		ret = kvt_quantize(g->k_type, g->k_dim, g->kv_heads, (uint32_t)rows, k, k_rows, 0);
	if (!ret && v && g->v_bytes)
		ret = kvt_quantize(g->v_type, g->v_dim, g->kv_heads, (uint32_t)rows, v, v_rows, 0);
	return ret;
}

int kvt_seq_append_float(struct kvt_seq *seq, uint32_t layer, uint32_t tokens, const float *k,
			 const float *v)
{
	const struct kvt_geometry *g = &seq->cache->geometry;
	uint64_t rows = (uint64_t)tokens * (layer == KVT_ALL_LAYERS ? g->layers : 1);
	char *k_rows, *v_rows;
	int ret = kvt_geometry_typed(g);

	if (!ret && (!k || (!v && g->v_bytes)))
		ret = kvt_fail(-EINVAL, "no rows to append: k or v is NULL");
	if (ret || !tokens)
		return ret ? ret : kvt_seq_append(seq, layer, 0, k, v);
	k_rows = malloc(rows * g->k_bytes + 1);
	v_rows = malloc(rows * g->v_bytes + 1);
	if (!k_rows || !v_rows)
		ret = kvt_fail(-ENOMEM, "no memory to convert %u tokens", tokens);
	if (!ret)
		ret = convert(g, rows, k, v, k_rows, v_rows);
	if (!ret)
		ret = kvt_seq_append(seq, layer, tokens, k_rows, v_rows);
	free(k_rows);
	free(v_rows);
	return ret;
}

static int load_piece(const struct kvt_seq *seq, const struct kvt_piece *p, uint32_t layer,
		      uint32_t row, uint32_t nr, float *k, float *v)
{
	const struct kvt_geometry *g = &seq->cache->geometry;
	struct kvt_cache *c = seq->cache;
	const struct kvt_layout *layout = kvt_layout_of(c, p->extent);
	struct kvt_hold hold;
	int ret = kvt_hold(&hold, c, &p->extent->blocks[kvt_group_of(c, layer)], 1);

	if (ret)
		return ret;
	if (k)
		ret = kvt_dequantize(layout->k_type, g->k_dim, g->kv_heads, nr,
				     kvt_k_row(c, p->extent, layer, row), 0, k);
	if (!ret && v && layout->v_bytes)
		ret = kvt_dequantize(layout->v_type, g->v_dim, g->kv_heads, nr,
				     kvt_v_row(c, p->extent, layer, row), 0, v);
	kvt_unhold(&hold);
	return ret;
}

int kvt_seq_read_float(const struct kvt_seq *seq, uint32_t layer, uint64_t first, uint32_t tokens,
		       float *k, float *v)
{
	const struct kvt_geometry *g = &seq->cache->geometry;
	size_t k_width = (size_t)g->kv_heads * g->k_dim, v_width = (size_t)g->kv_heads * g->v_dim;
	uint64_t at = first, end = first + tokens, nr;
	int ret = kvt_geometry_typed(g);

	if (!ret)
		ret = kvt_check_read(seq, layer, first, tokens);
	for (; !ret && at < end; at += nr) {
		const struct kvt_piece *p = kvt_piece_at(seq, at);
		size_t done = at - first;

		if (!p || p->position + (uint64_t)p->span <= at)
			return kvt_gone(at, "dropped");
		if (p->span != p->rows)
			return kvt_gone(at, "merged with others");
		nr = p->position + (uint64_t)p->rows - at;
		nr = nr > end - at ? end - at : nr;
		ret = load_piece(seq, p, layer, (uint32_t)(at - p->position), (uint32_t)nr,
				 k ? k + done * k_width : NULL, v ? v + done * v_width : NULL);
	}
	return ret;
}
