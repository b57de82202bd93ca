// SPDX-License-Identifier: MIT
/* Append: reserve room for all rows, write them, and only then advance. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "sequence.h"

struct rows {
	struct kvt_seq *seq;
	uint32_t first_layer, end_layer;
	uint32_t tokens;
	const char *k, *v; /* of the first layer */
};

static uint32_t longest(const struct kvt_seq *seq, uint32_t layer)
{
	uint32_t i, most = 0;

	if (layer != KVT_ALL_LAYERS)
		return seq->length[layer];
	for (i = 0; i < seq->cache->geometry.layers; i++)
		if (seq->length[i] > most)
			most = seq->length[i];
	return most;
}

static uint32_t shortest(const struct kvt_seq *seq, uint32_t layer)
{
	return layer != KVT_ALL_LAYERS ? seq->length[layer] : (uint32_t)kvt_seq_tokens(seq);
}

/* The piece gets an extent that nobody else has and that is open. */
static int make_writable(struct kvt_seq *seq, struct kvt_piece *p)
{
	struct kvt_cache *c = seq->cache;
	struct kvt_extent *copy;
	uint32_t *rows, layer;
	int ret;

	if (kvt_extent_writable(c, p->extent))
		return 0;
	rows = calloc(c->geometry.layers, sizeof(*rows));
	if (!rows)
		return kvt_fail(-ENOMEM, "no memory to copy an extent");
	for (layer = 0; layer < c->geometry.layers; layer++)
		rows[layer] = kvt_piece_rows(seq, p, layer);
	ret = kvt_extent_copy(c, p->extent, rows, &copy);
	free(rows);
	if (ret)
		return ret;
	kvt_extent_put(c, p->extent);
	p->extent = copy;
	return 0;
}

static int add_piece(struct kvt_seq *seq)
{
	uint32_t tokens = seq->cache->layouts[KVT_HOT].tokens;
	struct kvt_piece *last = seq->nr_pieces ? &seq->pieces[seq->nr_pieces - 1] : NULL;
	uint32_t position = last ? last->position + last->span : longest(seq, KVT_ALL_LAYERS);
	struct kvt_extent *extent;
	int ret;

	/* Where an extent begins depends on the position alone, so that results do too. */
	tokens -= position % tokens;
	ret = kvt_pieces_room(seq, seq->nr_pieces + 1);
	if (!ret)
		ret = kvt_extent_new(seq->cache, KVT_HOT, &extent);
	if (ret)
		return ret;
	seq->pieces[seq->nr_pieces++] = (struct kvt_piece){
		.extent = extent, .position = position, .rows = tokens, .span = tokens,
		.used = seq->clock
	};
	return 0;
}

static uint64_t covered(const struct kvt_seq *seq)
{
	const struct kvt_piece *last;

	if (!seq->nr_pieces)
		return 0;
	last = &seq->pieces[seq->nr_pieces - 1];
	return (uint64_t)last->position + last->span;
}

/* That have to be added for tokens up to @end. */
static uint64_t extents_for(const struct kvt_seq *seq, uint64_t end)
{
	uint32_t tokens = seq->cache->layouts[KVT_HOT].tokens;

	return (end + tokens - 1) / tokens - (covered(seq) + tokens - 1) / tokens;
}

/* On failure the sequence is as before; *@nr_before is what kvt_seq_unreserve() wants. */
int kvt_seq_reserve(struct kvt_seq *seq, uint32_t layer, uint32_t tokens, uint32_t *nr_before)
{
	uint64_t first = shortest(seq, layer);
	uint64_t end = (uint64_t)longest(seq, layer) + tokens;
	struct kvt_piece *p = kvt_piece_at(seq, first);
	int ret = 0;

	*nr_before = seq->nr_pieces;
	if (end > UINT32_MAX)
		return kvt_fail(-EFBIG, "a sequence has at most %u tokens", UINT32_MAX);
	if (end > covered(seq))
		ret = kvt_blocks_check(seq->cache, extents_for(seq, end) * seq->cache->groups);
	for (; !ret && p && p < seq->pieces + seq->nr_pieces && p->position < end; p++)
		if (p->position + (uint64_t)p->span > first)
			ret = make_writable(seq, p);
	while (!ret && (covered(seq) < end || !seq->nr_pieces))
		ret = add_piece(seq);
	if (ret)
		kvt_seq_unreserve(seq, *nr_before);
	return ret;
}

void kvt_seq_unreserve(struct kvt_seq *seq, uint32_t nr_before)
{
	while (seq->nr_pieces > nr_before)
		kvt_extent_put(seq->cache, seq->pieces[--seq->nr_pieces].extent);
}

/* The part of a layer's new rows that lies in piece @p. */
static void write_layer(const struct rows *r, const struct kvt_piece *p, uint32_t layer)
{
	const struct kvt_cache *c = r->seq->cache;
	const struct kvt_layout *layout = &c->layouts[KVT_HOT];
	uint64_t length = r->seq->length[layer], end = length + r->tokens;
	uint64_t from = length > p->position ? length : p->position;
	uint64_t to = p->position + (uint64_t)p->rows;
	uint64_t skip = (uint64_t)(layer - r->first_layer) * r->tokens + (from - length);
	uint32_t row = (uint32_t)(from - p->position);

	if (to > end)
		to = end;
	if (from >= to)
		return;
	memcpy(kvt_k_row(c, p->extent, layer, row), r->k + skip * layout->k_bytes,
	       (to - from) * layout->k_bytes);
	if (layout->v_bytes)
		memcpy(kvt_v_row(c, p->extent, layer, row), r->v + skip * layout->v_bytes,
		       (to - from) * layout->v_bytes);
}

static int write_groups(const struct rows *r, const struct kvt_piece *p, uint32_t group,
			uint32_t nr)
{
	struct kvt_cache *c = r->seq->cache;
	uint32_t layer = group * c->geometry.layers_per_block;
	uint32_t end = layer + nr * c->geometry.layers_per_block;
	struct kvt_hold hold;
	int ret = kvt_hold(&hold, c, p->extent->blocks + group, nr);

	if (ret)
		return ret;
	if (layer < r->first_layer)
		layer = r->first_layer;
	for (; layer < end && layer < r->end_layer; layer++)
		write_layer(r, p, layer);
	kvt_unhold(&hold);
	return 0;
}

static int write_rows(const struct rows *r)
{
	struct kvt_cache *c = r->seq->cache;
	bool all = r->end_layer - r->first_layer > 1;
	uint64_t first = shortest(r->seq, all ? KVT_ALL_LAYERS : r->first_layer);
	uint64_t end = (uint64_t)longest(r->seq, all ? KVT_ALL_LAYERS : r->first_layer) + r->tokens;
	uint32_t last = kvt_group_of(c, r->end_layer - 1) + 1;
	const struct kvt_piece *p = kvt_piece_at(r->seq, first);
	uint32_t group, part;
	int ret = 0;

	if (!p)
		p = r->seq->pieces;
	for (; !ret && p < r->seq->pieces + r->seq->nr_pieces && p->position < end; p++) {
		if (p->position + (uint64_t)p->span <= first)
			continue;
		for (group = kvt_group_of(c, r->first_layer); !ret && group < last; group += part) {
			part = last - group < KVT_HOLD_MAX ? last - group : KVT_HOLD_MAX;
			ret = write_groups(r, p, group, part);
		}
	}
	return ret;
}

static void advance(const struct rows *r)
{
	uint32_t layer;

	for (layer = r->first_layer; layer < r->end_layer; layer++)
		r->seq->length[layer] += r->tokens;
	kvt_seq_seal_full(r->seq);
	kvt_policy_enforce(r->seq);
}

static int check_layer(const struct kvt_cache *c, uint32_t layer)
{
	if (layer == KVT_ALL_LAYERS || layer < c->geometry.layers)
		return 0;
	return kvt_fail(-EINVAL, "there is no layer %u: the model has %u", layer,
			c->geometry.layers);
}

static struct rows rows_of(struct kvt_seq *seq, uint32_t layer, uint32_t tokens, const void *k,
			   const void *v)
{
	bool all = layer == KVT_ALL_LAYERS;

	return (struct rows){ .seq = seq, .first_layer = all ? 0 : layer,
			      .end_layer = all ? seq->cache->geometry.layers : layer + 1,
			      .tokens = tokens, .k = k, .v = v };
}

static int check_rows(const struct kvt_cache *c, const void *k, const void *v)
{
	if (!k || (!v && c->geometry.v_bytes))
		return kvt_fail(-EINVAL, "no rows to append: k or v is NULL");
	return 0;
}

int kvt_seq_append(struct kvt_seq *seq, uint32_t layer, uint32_t tokens, const void *k,
		   const void *v)
{
	struct kvt_batch_item item = { .seq = seq, .tokens = tokens, .k = k, .v = v };

	if (tokens)
		kvt_seq_announce(seq, layer == KVT_ALL_LAYERS ? 0 : layer);
	return kvt_batch_append(&item, 1, layer);
}

static int check_batch(const struct kvt_batch_item *items, uint32_t nr, uint32_t layer)
{
	uint32_t i, j;
	int ret = 0;

	for (i = 0; !ret && i < nr; i++) {
		ret = check_layer(items[i].seq->cache, layer);
		if (!ret && items[i].tokens)
			ret = check_rows(items[i].seq->cache, items[i].k, items[i].v);
		for (j = 0; !ret && j < i; j++)
			if (items[j].seq == items[i].seq)
				ret = kvt_fail(-EINVAL, "items %u and %u of the batch are the same "
							"sequence", j, i);
	}
	return ret;
}

static int reserve_all(const struct kvt_batch_item *items, uint32_t nr, uint32_t layer,
		       uint32_t *before)
{
	uint32_t i;
	int ret = 0;

	for (i = 0; i < nr && !ret; i++) {
		before[i] = items[i].seq->nr_pieces;
		if (items[i].tokens)
			ret = kvt_seq_reserve(items[i].seq, layer, items[i].tokens, &before[i]);
	}
	if (ret)
		for (nr = i, i = 0; i < nr; i++)
			kvt_seq_unreserve(items[i].seq, before[i]);
	return ret;
}

static int write_all(const struct kvt_batch_item *items, uint32_t nr, uint32_t layer,
		     const uint32_t *before)
{
	struct rows rows;
	uint32_t i;
	int ret = 0;

	for (i = 0; !ret && i < nr; i++) {
		rows = rows_of(items[i].seq, layer, items[i].tokens, items[i].k, items[i].v);
		ret = items[i].tokens ? write_rows(&rows) : 0;
	}
	for (i = 0; i < nr; i++) {
		rows = rows_of(items[i].seq, layer, items[i].tokens, items[i].k, items[i].v);
		if (ret)
			kvt_seq_unreserve(items[i].seq, before[i]);
		else if (items[i].tokens)
			advance(&rows);
	}
	return ret;
}

int kvt_batch_append(struct kvt_batch_item *items, uint32_t nr, uint32_t layer)
{
	uint32_t *before = NULL;
	int ret = check_batch(items, nr, layer);

	if (ret || !nr)
		return ret;
	before = calloc(nr, sizeof(*before));
	if (!before)
		return kvt_fail(-ENOMEM, "no memory for a batch of %u sequences", nr);
	ret = reserve_all(items, nr, layer, before);
	if (!ret)
		ret = write_all(items, nr, layer, before);
	free(before);
	return ret;
}
