// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "transfer.h"

/* Tokens that only some layers have yet are not part of it. */
static uint32_t rows_of(const struct kvt_seq *seq, const struct kvt_piece *p)
{
	uint64_t tokens = kvt_seq_tokens(seq);

	if (p->span != p->rows)
		return p->rows;
	if (tokens <= p->position)
		return 0;
	return tokens - p->position < p->rows ? (uint32_t)(tokens - p->position) : p->rows;
}

static uint32_t count(const struct kvt_seq *seq)
{
	uint32_t n = 0;

	while (n < seq->nr_pieces && rows_of(seq, &seq->pieces[n]))
		n++;
	return n;
}

static int put_header(struct kvt_wire *s, const struct kvt_seq *seq)
{
	struct kvt_wire_header header = {
		.version = KVT_WIRE_VERSION,
		.bytes = sizeof(header),
		.geometry = seq->cache->geometry,
		.tokens = (uint32_t)kvt_seq_tokens(seq),
		.pieces = count(seq),
		.path = seq->nr_path + 1,
	};
	uint8_t path[KVT_PATH_MAX][KVT_ID_BYTES];
	int ret;

	if (header.path > KVT_PATH_MAX)
		return kvt_fail(-ELOOP, "the sequence was handed over %u times already: at most %u "
					"are allowed", seq->nr_path, KVT_PATH_MAX - 1);
	memcpy(header.magic, s->map ? KVT_MAP_MAGIC : KVT_WIRE_MAGIC, sizeof(header.magic));
	if (seq->nr_path)
		memcpy(path, seq->path, seq->nr_path * sizeof(*path));
	memcpy(path[seq->nr_path], seq->cache->id, sizeof(*path));
	ret = kvt_wire_put(s, &header, sizeof(header));
	return ret ? ret : kvt_wire_put(s, path, header.path * sizeof(*path));
}

static int put_layer(struct kvt_wire *s, const struct kvt_seq *seq, const struct kvt_piece *p,
		     uint32_t layer, char *rows)
{
	struct kvt_cache *c = seq->cache;
	const struct kvt_layout *layout = kvt_layout_of(c, p->extent);
	uint64_t nr = rows_of(seq, p);
	struct kvt_hold hold;
	int ret = kvt_hold(&hold, c, &p->extent->blocks[kvt_group_of(c, layer)], 1);

	if (ret)
		return ret;
	memcpy(rows, kvt_k_row(c, p->extent, layer, 0), nr * layout->k_bytes);
	if (layout->v_bytes)
		memcpy(rows + nr * layout->k_bytes, kvt_v_row(c, p->extent, layer, 0),
		       nr * layout->v_bytes);
	kvt_unhold(&hold);
	/* Not while held: the other end may be slow. */
	return kvt_wire_put(s, rows, nr * (layout->k_bytes + layout->v_bytes));
}

static int put_piece(struct kvt_wire *s, const struct kvt_seq *seq, uint32_t number, char *rows)
{
	const struct kvt_piece *p = &seq->pieces[number];
	uint32_t nr = rows_of(seq, p), layer;
	struct kvt_wire_piece piece = { .number = number, .position = p->position, .rows = nr,
					  .span = p->span == p->rows ? nr : p->span,
					  .layout = p->extent->layout };
	int ret = kvt_wire_put(s, &piece, sizeof(piece));

	if (!ret && s->map)
		return kvt_wire_put(s, p->extent->blocks,
				    seq->cache->groups * sizeof(p->extent->blocks[0]));
	for (layer = 0; !ret && layer < seq->cache->geometry.layers; layer++)
		ret = put_layer(s, seq, p, layer, rows);
	return ret;
}

int kvt_wire_export(const struct kvt_seq *seq, int fd, bool map, int timeout_ms)
{
	struct kvt_wire s;
	struct kvt_wire_end end = { .pieces = count(seq) };
	char *rows = malloc(kvt_pool_block_bytes(seq->cache->pool));
	uint32_t i;
	int ret;

	if (!rows)
		return kvt_fail(-ENOMEM, "no memory to send an extent");
	ret = kvt_wire_open(&s, fd, timeout_ms);
	s.map = map;
	if (!ret)
		ret = put_header(&s, seq);
	for (i = 0; !ret && i < end.pieces; i++)
		ret = put_piece(&s, seq, i, rows);
	end.crc = s.crc;
	if (!ret)
		ret = kvt_wire_put(&s, &end, sizeof(end));
	free(rows);
	return ret;
}

int kvt_seq_export(const struct kvt_seq *seq, int fd, int timeout_ms)
{
	return kvt_wire_export(seq, fd, false, timeout_ms);
}
