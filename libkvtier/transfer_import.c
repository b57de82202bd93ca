// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "kernel.h"
#include "transfer.h"

#define KVT_IMPORT_FLAGS KVT_IMPORT_AGAIN

struct import {
	struct kvt_wire stream;
	struct kvt_wire_header header;
	struct kvt_seq *seq;
	char *rows;
	int src; /* pool that a map's blocks are in; -1: rows come along */
};

int kvt_geometry_match(const struct kvt_geometry *a, const struct kvt_geometry *b,
		       const char *what)
{
	static const struct {
		const char *name;
		size_t at;
	} fields[] = {
#define FIELD(name) { #name, offsetof(struct kvt_geometry, name) }
		FIELD(size),	    FIELD(layers),	  FIELD(kv_heads),
		FIELD(k_dim),	    FIELD(v_dim),	  FIELD(k_type),
		FIELD(v_type),	    FIELD(cold_k_type),	  FIELD(cold_v_type),
		FIELD(k_bytes),	    FIELD(v_bytes),	  FIELD(block_tokens),
		FIELD(layers_per_block), FIELD(cold),
#undef FIELD
	};
	uint32_t i, x, y;

	for (i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		memcpy(&x, (const char *)a + fields[i].at, sizeof(x));
		memcpy(&y, (const char *)b + fields[i].at, sizeof(y));
		if (x != y)
			return kvt_fail(-EINVAL,
					"%s has another geometry: %s is %u there and %u here", what,
					fields[i].name, x, y);
	}
	if (memcmp(a->model, b->model, sizeof(a->model)))
		return kvt_fail(-EINVAL, "%s is of another model: the fingerprints differ", what);
	return 0;
}

/* What is not yet known to be a header of ours must not be judged by its checksum alone. */
static int check_header(struct import *in)
{
	const struct kvt_wire_header *h = &in->header;

	if (memcmp(h->magic, in->src < 0 ? KVT_WIRE_MAGIC : KVT_MAP_MAGIC, sizeof(h->magic)) != 0)
		return kvt_fail(-EILSEQ, "the stream does not begin like a sequence");
	if (h->version != KVT_WIRE_VERSION || h->bytes != sizeof(*h))
		return kvt_fail(-EPROTONOSUPPORT, "the stream has format version %u; this library "
						  "knows version %u", h->version,
				KVT_WIRE_VERSION);
	if (!h->path || h->path > KVT_PATH_MAX || h->reserved)
		return kvt_fail(-EILSEQ, "the stream's header makes no sense");
	return 0;
}

static int get_path(struct import *in, struct kvt_cache *c, uint32_t flags)
{
	uint32_t i, nr = in->header.path;
	int ret;

	in->seq->path = calloc(nr, sizeof(*in->seq->path));
	if (!in->seq->path)
		return kvt_fail(-ENOMEM, "no memory for a sequence's path");
	in->seq->nr_path = nr;
	ret = kvt_wire_get(&in->stream, in->seq->path, nr * sizeof(*in->seq->path), "the path");
	for (i = 0; !ret && i < nr && !(flags & KVT_IMPORT_AGAIN); i++)
		if (!memcmp(in->seq->path[i], c->id, sizeof(c->id)))
			ret = kvt_fail(-ELOOP, "the sequence was in this cache before: a cycle of "
					       "hand-overs (KVT_IMPORT_AGAIN allows it)");
	return ret;
}

static int get_header(struct import *in, struct kvt_cache *c, uint32_t flags)
{
	int ret = kvt_wire_get(&in->stream, &in->header, sizeof(in->header), "the header");

	/* A later version's header may be longer: look before the checksum is judged. */
	if (ret == -EILSEQ && !memcmp(in->header.magic, KVT_WIRE_MAGIC, 8) &&
	    in->header.version > KVT_WIRE_VERSION && in->header.bytes > sizeof(in->header))
		return check_header(in);
	if (!ret)
		ret = check_header(in);
	if (!ret)
		ret = kvt_geometry_match(&in->header.geometry, &c->geometry, "the stream");
	return ret ? ret : get_path(in, c, flags);
}

/*
 * Pieces come in order, do not overlap, fit their extents, and the last one ends the sequence:
 * it alone may end before the next extent of exact rows would begin.
 */
static int check_piece(const struct import *in, const struct kvt_wire_piece *p, uint32_t number)
{
	const struct kvt_cache *c = in->seq->cache;
	const struct kvt_piece *last =
		in->seq->nr_pieces ? &in->seq->pieces[in->seq->nr_pieces - 1] : NULL;
	uint64_t end = (uint64_t)p->position + p->span;
	uint32_t hot = c->layouts[KVT_HOT].tokens, filled = p->position % hot + p->rows;

	if (p->number == number && p->layout < KVT_NR_LAYOUTS && !p->reserved && p->rows &&
	    c->layouts[p->layout].tokens && p->rows <= c->layouts[p->layout].tokens &&
	    p->span && !(p->span % p->rows) && end <= in->header.tokens &&
	    (p->layout != KVT_HOT || p->span != p->rows || filled == hot ||
	     (filled < hot && end == in->header.tokens)) &&
	    (!last || p->position >= last->position + (uint64_t)last->span))
		return 0;
	return kvt_fail(-EILSEQ, "extent %u of the stream makes no sense", number);
}

static int get_layer(struct import *in, const struct kvt_piece *p, uint32_t layer)
{
	struct kvt_cache *c = in->seq->cache;
	const struct kvt_layout *layout = kvt_layout_of(c, p->extent);
	uint64_t nr = p->rows;
	struct kvt_hold hold;
	int ret = kvt_wire_get(&in->stream, in->rows, nr * (layout->k_bytes + layout->v_bytes),
				 "an extent");

	if (!ret)
		ret = kvt_hold(&hold, c, &p->extent->blocks[kvt_group_of(c, layer)], 1);
	if (ret)
		return ret;
	memcpy(kvt_k_row(c, p->extent, layer, 0), in->rows, nr * layout->k_bytes);
	if (layout->v_bytes)
		memcpy(kvt_v_row(c, p->extent, layer, 0), in->rows + nr * layout->k_bytes,
		       nr * layout->v_bytes);
	kvt_unhold(&hold);
	return 0;
}

/* Nothing is copied: the module lets both pools have the blocks. */
static int get_blocks(struct import *in, const struct kvt_piece *p)
{
	struct kvt_cache *c = in->seq->cache;
	uint64_t bytes = kvt_pool_block_bytes(c->pool);
	uint32_t *blocks = calloc(c->groups, sizeof(*blocks)), group;
	int ret = blocks ? 0 : kvt_fail(-ENOMEM, "no memory for a map of blocks");

	if (!ret)
		ret = kvt_wire_get(&in->stream, blocks, c->groups * sizeof(*blocks), "an extent");
	for (group = 0; !ret && group < c->groups; group++)
		ret = kvt_kernel_clone_from(c->pool, p->extent->blocks[group] * bytes, in->src,
					    blocks[group] * bytes, bytes);
	free(blocks);
	p->extent->sealed = true;
	return ret;
}

static int get_piece(struct import *in, uint32_t number)
{
	struct kvt_seq *seq = in->seq;
	struct kvt_wire_piece head;
	struct kvt_piece *p;
	uint32_t layer;
	int ret = kvt_wire_get(&in->stream, &head, sizeof(head), "an extent's head");

	if (!ret)
		ret = check_piece(in, &head, number);
	if (!ret)
		ret = kvt_pieces_room(seq, number + 1);
	if (ret)
		return ret;
	p = &seq->pieces[number];
	*p = (struct kvt_piece){ .position = head.position, .rows = head.rows, .span = head.span };
	ret = kvt_extent_new(seq->cache, head.layout, &p->extent);
	if (ret)
		return ret;
	seq->nr_pieces++;
	if (in->src >= 0)
		return get_blocks(in, p);
	for (layer = 0; !ret && layer < seq->cache->geometry.layers; layer++)
		ret = get_layer(in, p, layer);
	return ret;
}

static int get_end(struct import *in)
{
	struct kvt_wire_end end, want = { .pieces = in->header.pieces, .crc = in->stream.crc };
	int ret = kvt_wire_get(&in->stream, &end, sizeof(end), "the end");

	if (!ret && (end.pieces != want.pieces || end.crc != want.crc))
		ret = kvt_fail(-EILSEQ, "the stream's end does not match what came before");
	return ret;
}

/* A tail that was cut short takes appends again; what is not the tail is full as it is. */
static void finish(struct import *in)
{
	struct kvt_seq *seq = in->seq;
	struct kvt_piece *last = seq->nr_pieces ? &seq->pieces[seq->nr_pieces - 1] : NULL;
	uint32_t layer, tokens = seq->cache->layouts[KVT_HOT].tokens;

	for (layer = 0; layer < seq->cache->geometry.layers; layer++)
		seq->length[layer] = in->header.tokens;
	if (last && last->extent->layout == KVT_HOT && last->span == last->rows)
		last->rows = last->span = tokens - last->position % tokens;
	kvt_seq_seal_full(seq);
}

/* What a policy keeps always has the last token. */
static int check_end(const struct import *in)
{
	const struct kvt_seq *seq = in->seq;
	const struct kvt_piece *last = seq->nr_pieces ? &seq->pieces[seq->nr_pieces - 1] : NULL;
	uint64_t end = last ? last->position + (uint64_t)last->span : 0;

	if (end == in->header.tokens)
		return 0;
	return kvt_fail(-EILSEQ, "the stream's extents end at token %llu, the sequence has %u",
			(unsigned long long)end, in->header.tokens);
}

static int receive(struct import *in, struct kvt_cache *c, uint32_t flags)
{
	uint32_t i;
	int ret = get_header(in, c, flags);

	for (i = 0; !ret && i < in->header.pieces; i++)
		ret = get_piece(in, i);
	if (!ret)
		ret = check_end(in);
	return ret ? ret : get_end(in);
}

int kvt_wire_import(struct kvt_cache *cache, int fd, int src, uint32_t flags, int timeout_ms,
		    struct kvt_seq **seq)
{
	struct import in = { .src = src, .rows = malloc(kvt_pool_block_bytes(cache->pool)) };
	int ret;

	*seq = NULL;
	if (flags & ~KVT_IMPORT_FLAGS)
		ret = kvt_fail(-EINVAL, "unknown flags %#x", flags);
	else if (!in.rows)
		ret = kvt_fail(-ENOMEM, "no memory to receive an extent");
	else
		ret = kvt_seq_create(cache, &in.seq);
	if (!ret)
		ret = kvt_wire_open(&in.stream, fd, timeout_ms);
	if (!ret)
		ret = receive(&in, cache, flags);
	free(in.rows);
	if (ret) {
		kvt_seq_destroy(in.seq);
		return ret;
	}
	finish(&in);
	*seq = in.seq;
	return 0;
}

int kvt_seq_import(struct kvt_cache *cache, int fd, uint32_t flags, int timeout_ms,
		   struct kvt_seq **seq)
{
	return kvt_wire_import(cache, fd, -1, flags, timeout_ms, seq);
}
