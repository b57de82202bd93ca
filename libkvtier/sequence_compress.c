// SPDX-License-Identifier: MIT
/*
 * Old extents in smaller types: a run of neighbours becomes one extent, which takes the
 * room of one.  Extents that somebody else refers to stay: nothing would be saved.
 */
#include <errno.h>
#include <stdlib.h>

#include "error.h"
#include "kvtier_attend.h"
#include "policy.h"

/* Extents of the hot layout that fill one of the cold layout. */
static uint32_t run_of(const struct kvt_cache *c)
{
	return c->layouts[KVT_COLDER].tokens / c->layouts[KVT_HOT].tokens;
}

static bool whole_run(const struct kvt_seq *seq, const struct kvt_piece *p, uint64_t end)
{
	struct kvt_cache *c = seq->cache;
	uint32_t hot = c->layouts[KVT_HOT].tokens, nr = run_of(c), i;

	if ((uint32_t)(seq->pieces + seq->nr_pieces - p) < nr ||
	    p[0].position + (uint64_t)nr * hot > end)
		return false;
	for (i = 0; i < nr; i++)
		if (p[i].extent->layout != KVT_HOT || p[i].rows != hot || p[i].span != hot ||
		    p[i].position != p[0].position + i * hot || kvt_extent_shared(c, p[i].extent))
			return false;
	return true;
}

static int convert_layer(struct kvt_cache *c, const struct kvt_extent *from,
			 const struct kvt_extent *to, uint32_t layer, uint32_t row, float *room)
{
	const struct kvt_geometry *g = &c->geometry;
	const struct kvt_layout *hot = &c->layouts[KVT_HOT], *cold = &c->layouts[KVT_COLDER];
	int ret = kvt_dequantize(hot->k_type, g->k_dim, g->kv_heads, hot->tokens,
				 kvt_k_row(c, from, layer, 0), 0, room);

	if (!ret)
		ret = kvt_quantize(cold->k_type, g->k_dim, g->kv_heads, hot->tokens, room,
				   kvt_k_row(c, to, layer, row), 0);
	if (ret || !hot->v_bytes)
		return ret;
	ret = kvt_dequantize(hot->v_type, g->v_dim, g->kv_heads, hot->tokens,
			     kvt_v_row(c, from, layer, 0), 0, room);
	if (!ret)
		ret = kvt_quantize(cold->v_type, g->v_dim, g->kv_heads, hot->tokens, room,
				   kvt_v_row(c, to, layer, row), 0);
	return ret;
}

static int convert_group(struct kvt_cache *c, const struct kvt_extent *from,
			 const struct kvt_extent *to, uint32_t group, uint32_t row, float *room)
{
	uint32_t blocks[2] = { from->blocks[group], to->blocks[group] };
	uint32_t layer = group * c->geometry.layers_per_block;
	uint32_t end = layer + c->geometry.layers_per_block;
	struct kvt_hold hold;
	int ret = kvt_hold(&hold, c, blocks, 2);

	if (ret)
		return ret;
	for (; !ret && layer < end && layer < c->geometry.layers; layer++)
		ret = convert_layer(c, from, to, layer, row, room);
	kvt_unhold(&hold);
	return ret;
}

static int convert_run(struct kvt_cache *c, const struct kvt_piece *p, const struct kvt_extent *to)
{
	const struct kvt_geometry *g = &c->geometry;
	uint32_t hot = c->layouts[KVT_HOT].tokens, i, group;
	uint32_t dim = g->k_dim > g->v_dim ? g->k_dim : g->v_dim;
	float *room = malloc((size_t)hot * g->kv_heads * dim * sizeof(*room));
	int ret = room ? 0 : kvt_fail(-ENOMEM, "no memory to compress an extent");

	for (i = 0; !ret && i < run_of(c); i++)
		for (group = 0; !ret && group < c->groups; group++)
			ret = convert_group(c, p[i].extent, to, group, i * hot, room);
	free(room);
	return ret;
}

/* The first piece of the run takes the place of all. */
static void replace(struct kvt_seq *seq, struct kvt_piece *p, struct kvt_extent *cold)
{
	struct kvt_cache *c = seq->cache;
	uint32_t nr = run_of(c), i;

	for (i = 1; i < nr; i++) {
		p->mass += p[1].mass;
		p->uses += p[1].uses;
		p->used = p->used > p[1].used ? p->used : p[1].used;
		kvt_piece_remove(seq, p + 1);
	}
	kvt_extent_put(c, p->extent);
	p->extent = cold;
	p->rows = p->span = c->layouts[KVT_COLDER].tokens;
	pthread_mutex_lock(&c->lock);
	c->stats.compressed_tokens += p->rows;
	pthread_mutex_unlock(&c->lock);
}

static int compress_run(struct kvt_seq *seq, struct kvt_piece *p)
{
	struct kvt_extent *cold;
	int ret = kvt_extent_new(seq->cache, KVT_COLDER, &cold);

	if (ret)
		return ret;
	ret = convert_run(seq->cache, p, cold);
	if (!ret)
		ret = kvt_extent_seal(seq->cache, cold);
	if (ret) {
		kvt_extent_put(seq->cache, cold);
		return ret;
	}
	replace(seq, p, cold);
	return 0;
}

int64_t kvt_seq_compress(struct kvt_seq *seq, uint64_t end)
{
	struct kvt_cache *c = seq->cache;
	uint64_t tokens = kvt_seq_tokens(seq);
	int64_t done = 0;
	uint32_t i;
	int ret;

	if (!c->geometry.cold)
		return kvt_fail(-EINVAL, "the geometry has no cold types: set kvt_geometry.cold");
	end = end > tokens ? tokens : end;
	for (i = 0; i < seq->nr_pieces && seq->pieces[i].position < end; i++) {
		if (!whole_run(seq, &seq->pieces[i], end))
			continue;
		ret = compress_run(seq, &seq->pieces[i]);
		if (ret)
			return ret;
		done += c->layouts[KVT_COLDER].tokens;
	}
	return done;
}
