// SPDX-License-Identifier: MIT
/* Rows out of a sequence, and where they are. */
#include <errno.h>
#include <string.h>

#include "error.h"
#include "sequence.h"

int kvt_check_read(const struct kvt_seq *seq, uint32_t layer, uint64_t first, uint64_t tokens)
{
	if (layer >= seq->cache->geometry.layers)
		return kvt_fail(-EINVAL, "there is no layer %u: the model has %u", layer,
				seq->cache->geometry.layers);
	if (first > seq->length[layer] || first + tokens > seq->length[layer])
		return kvt_fail(-EINVAL, "tokens %llu to %llu of layer %u: it has %u",
				(unsigned long long)first, (unsigned long long)(first + tokens) - 1,
				layer, seq->length[layer]);
	return 0;
}

int kvt_gone(uint64_t token, const char *how)
{
	return kvt_fail(-ENODATA, "token %llu was %s: its exact rows are not there any more",
			(unsigned long long)token, how);
}

static int read_piece(const struct kvt_seq *seq, const struct kvt_piece *p, uint32_t layer,
		      uint32_t row, uint32_t nr, char *k, char *v)
{
	struct kvt_cache *c = seq->cache;
	const struct kvt_layout *layout = kvt_layout_of(c, p->extent);
	struct kvt_hold hold;
	int ret = kvt_hold(&hold, c, &p->extent->blocks[kvt_group_of(c, layer)], 1);

	if (ret)
		return ret;
	if (k)
		memcpy(k, kvt_k_row(c, p->extent, layer, row), (uint64_t)nr * layout->k_bytes);
	if (v && layout->v_bytes)
		memcpy(v, kvt_v_row(c, p->extent, layer, row), (uint64_t)nr * layout->v_bytes);
	kvt_unhold(&hold);
	return 0;
}

int kvt_seq_read(const struct kvt_seq *seq, uint32_t layer, uint64_t first, uint32_t tokens,
		 void *k, void *v)
{
	const struct kvt_geometry *g = &seq->cache->geometry;
	uint64_t at = first, end = first + tokens;
	int ret = kvt_check_read(seq, layer, first, tokens);

	while (!ret && at < end) {
		const struct kvt_piece *p = kvt_piece_at(seq, at);
		uint64_t done = at - first, nr;

		if (!p || p->position + (uint64_t)p->span <= at)
			return kvt_gone(at, "dropped");
		if (p->span != p->rows)
			return kvt_gone(at, "merged with others");
		if (p->extent->layout != KVT_HOT)
			return kvt_gone(at, "compressed");
		nr = p->position + (uint64_t)p->rows - at;
		if (nr > end - at)
			nr = end - at;
		ret = read_piece(seq, p, layer, (uint32_t)(at - p->position), (uint32_t)nr,
				 k ? (char *)k + done * g->k_bytes : NULL,
				 v ? (char *)v + done * g->v_bytes : NULL);
		at += nr;
	}
	return ret;
}

static struct kvt_seq_block describe(const struct kvt_seq *seq, const struct kvt_piece *p,
				     uint32_t layer)
{
	const struct kvt_cache *c = seq->cache;
	const struct kvt_layout *layout = kvt_layout_of(c, p->extent);
	uint32_t rows = kvt_piece_rows(seq, p, layer);

	return (struct kvt_seq_block){
		.k = kvt_k_row(c, p->extent, layer, 0),
		.v = layout->v_bytes ? kvt_v_row(c, p->extent, layer, 0) : NULL,
		.position = p->position,
		.tokens = rows,
		.span = p->span == p->rows ? rows : p->span,
		.offset = (uint64_t)p->extent->blocks[kvt_group_of(c, layer)] *
			  kvt_pool_block_bytes(c->pool),
		.k_type = layout->k_type,
		.v_type = layout->v_type,
		.k_stride = layout->k_bytes,
		.v_stride = layout->v_bytes,
	};
}

int kvt_seq_view(const struct kvt_seq *seq, uint32_t layer, struct kvt_seq_block *blocks,
		 uint32_t nr)
{
	uint32_t i, used = 0;

	if (layer >= seq->cache->geometry.layers)
		return kvt_fail(-EINVAL, "there is no layer %u: the model has %u", layer,
				seq->cache->geometry.layers);
	for (i = 0; i < seq->nr_pieces; i++) {
		if (!kvt_piece_rows(seq, &seq->pieces[i], layer))
			break;
		if (used < nr)
			blocks[used] = describe(seq, &seq->pieces[i], layer);
		used++;
	}
	return (int)used;
}
