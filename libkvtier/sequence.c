// SPDX-License-Identifier: MIT
/* Sequences: they come, fork, shrink and go. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "sequence.h"

int kvt_seq_create(struct kvt_cache *c, struct kvt_seq **seq)
{
	struct kvt_seq *s = calloc(1, sizeof(*s) + c->geometry.layers * sizeof(s->length[0]));

	*seq = NULL;
	if (!s)
		return kvt_fail(-ENOMEM, "no memory for a sequence");
	s->cache = c;
	pthread_mutex_lock(&c->lock);
	c->stats.sequences++;
	pthread_mutex_unlock(&c->lock);
	*seq = s;
	return 0;
}

void kvt_seq_destroy(struct kvt_seq *seq)
{
	uint32_t i;

	if (!seq)
		return;
	for (i = 0; i < seq->nr_pieces; i++)
		kvt_extent_put(seq->cache, seq->pieces[i].extent);
	pthread_mutex_lock(&seq->cache->lock);
	seq->cache->stats.sequences--;
	pthread_mutex_unlock(&seq->cache->lock);
	kvt_policy_free(seq);
	free(seq->path);
	free(seq->pieces);
	free(seq);
}

int kvt_pieces_room(struct kvt_seq *seq, uint32_t nr)
{
	uint32_t room = seq->room ? seq->room : 8;
	struct kvt_piece *pieces;

	if (nr <= seq->room)
		return 0;
	while (room < nr)
		room *= 2;
	pieces = realloc(seq->pieces, (size_t)room * sizeof(*pieces));
	if (!pieces)
		return kvt_fail(-ENOMEM, "no memory for a table of %u extents", room);
	seq->pieces = pieces;
	seq->room = room;
	return 0;
}

static void share_pieces(struct kvt_cache *c, const struct kvt_seq *from, struct kvt_seq *to)
{
	uint32_t i;

	memcpy(to->pieces, from->pieces, from->nr_pieces * sizeof(*to->pieces));
	pthread_mutex_lock(&c->lock);
	for (i = 0; i < from->nr_pieces; i++)
		if (from->pieces[i].extent->refs++ == 1)
			c->stats.shared_extents++;
	c->stats.references += from->nr_pieces;
	pthread_mutex_unlock(&c->lock);
	to->nr_pieces = from->nr_pieces;
}

static int copy_path(const struct kvt_seq *from, struct kvt_seq *to)
{
	if (!from->nr_path)
		return 0;
	to->path = calloc(from->nr_path, sizeof(*to->path));
	if (!to->path)
		return kvt_fail(-ENOMEM, "no memory for a sequence's path");
	memcpy(to->path, from->path, from->nr_path * sizeof(*to->path));
	to->nr_path = from->nr_path;
	return 0;
}

int kvt_seq_fork(const struct kvt_seq *seq, struct kvt_seq **fork)
{
	struct kvt_cache *c = seq->cache;
	struct kvt_seq *s;
	int ret = kvt_seq_create(c, &s);

	*fork = NULL;
	if (ret)
		return ret;
	ret = seq->nr_pieces ? kvt_pieces_room(s, seq->nr_pieces) : 0;
	if (!ret)
		ret = copy_path(seq, s);
	if (!ret)
		ret = kvt_policy_fork(seq, s);
	if (ret) {
		kvt_seq_destroy(s);
		return ret;
	}
	if (seq->nr_pieces)
		share_pieces(c, seq, s);
	memcpy(s->length, seq->length, c->geometry.layers * sizeof(s->length[0]));
	s->clock = seq->clock;
	s->nr_sealed = seq->nr_sealed;
	*fork = s;
	return 0;
}

uint64_t kvt_seq_tokens(const struct kvt_seq *seq)
{
	uint32_t i, least = UINT32_MAX;

	for (i = 0; i < seq->cache->geometry.layers; i++)
		if (seq->length[i] < least)
			least = seq->length[i];
	return least;
}

uint64_t kvt_seq_layer_tokens(const struct kvt_seq *seq, uint32_t layer)
{
	return layer < seq->cache->geometry.layers ? seq->length[layer] : 0;
}

uint64_t kvt_seq_kept_tokens(const struct kvt_seq *seq)
{
	uint64_t tokens = kvt_seq_tokens(seq), kept = 0, rest;
	uint32_t i;

	for (i = 0; i < seq->nr_pieces && seq->pieces[i].position < tokens; i++) {
		rest = tokens - seq->pieces[i].position;
		kept += rest < seq->pieces[i].rows ? rest : seq->pieces[i].rows;
	}
	return kept;
}

struct kvt_cache *kvt_seq_cache(const struct kvt_seq *seq)
{
	return seq->cache;
}

/* The last piece that begins at or before @position; NULL: there is none. */
struct kvt_piece *kvt_piece_at(const struct kvt_seq *seq, uint64_t position)
{
	uint32_t low = 0, high = seq->nr_pieces;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (seq->pieces[middle].position <= position)
			low = middle + 1;
		else
			high = middle;
	}
	return low ? &seq->pieces[low - 1] : NULL;
}

/* Rows of a piece that a layer has. */
uint32_t kvt_piece_rows(const struct kvt_seq *seq, const struct kvt_piece *p, uint32_t layer)
{
	uint32_t length = seq->length[layer];

	if (length <= p->position)
		return 0;
	return length - p->position < p->rows ? length - p->position : p->rows;
}

/* All positions from @first up to @end are there, one row each. */
static bool whole(const struct kvt_seq *seq, uint64_t first, uint64_t end)
{
	while (first < end) {
		const struct kvt_piece *p = kvt_piece_at(seq, first);

		if (!p || p->span != p->rows || p->position + p->rows <= first)
			return false;
		first = p->position + p->rows;
	}
	return true;
}

/* Some position from @first up to @end is in no piece: it was dropped. */
static bool has_gap(const struct kvt_seq *seq, uint64_t first, uint64_t end)
{
	while (first < end) {
		const struct kvt_piece *p = kvt_piece_at(seq, first);

		if (!p || p->position + (uint64_t)p->span <= first)
			return true;
		first = p->position + (uint64_t)p->span;
	}
	return false;
}

/* A summary does not tell positions apart: all that it holds is before a cut, or after it. */
static int check_summary(const struct kvt_seq *seq, uint64_t tokens)
{
	if (!kvt_policy_summarised(seq) || !has_gap(seq, tokens, kvt_seq_tokens(seq)) ||
	    !has_gap(seq, 0, tokens))
		return 0;
	return kvt_fail(-ENODATA, "cannot truncate to %llu tokens: the summary holds tokens before "
				  "and after it", (unsigned long long)tokens);
}

static int check_cut(const struct kvt_seq *seq, uint64_t tokens)
{
	uint64_t window = kvt_policy_window(seq);
	uint64_t first = tokens > window ? tokens - window : 0;

	if (tokens > kvt_seq_tokens(seq))
		return kvt_fail(-EINVAL, "cannot truncate to %llu tokens: the sequence has %llu",
				(unsigned long long)tokens,
				(unsigned long long)kvt_seq_tokens(seq));
	if (tokens && first > tokens - 1)
		first = tokens - 1;
	if (!whole(seq, first, tokens))
		return kvt_fail(-ENODATA,
				"cannot truncate to %llu tokens: some of the tokens %llu "
				"to %llu, which the next one needs, were dropped or merged",
				(unsigned long long)tokens, (unsigned long long)first,
				(unsigned long long)tokens - 1);
	return check_summary(seq, tokens);
}

static void cut_layers(struct kvt_seq *seq, uint32_t tokens)
{
	uint32_t i;

	for (i = 0; i < seq->cache->geometry.layers; i++)
		if (seq->length[i] > tokens)
			seq->length[i] = tokens;
}

/* Nothing can be appended to compressed rows: what follows gets an extent of its own. */
void kvt_cut_cold(struct kvt_seq *seq, uint32_t tokens)
{
	struct kvt_piece *p = seq->nr_pieces ? &seq->pieces[seq->nr_pieces - 1] : NULL;

	if (p && p->extent->layout != KVT_HOT && tokens - p->position < p->rows)
		p->rows = p->span = tokens - p->position;
}

int kvt_seq_truncate(struct kvt_seq *seq, uint64_t tokens)
{
	int ret = check_cut(seq, tokens);

	if (ret)
		return ret;
	if (has_gap(seq, tokens, kvt_seq_tokens(seq)))
		kvt_policy_forget(seq);
	cut_layers(seq, (uint32_t)tokens);
	while (seq->nr_pieces && seq->pieces[seq->nr_pieces - 1].position >= tokens)
		kvt_extent_put(seq->cache, seq->pieces[--seq->nr_pieces].extent);
	kvt_cut_cold(seq, (uint32_t)tokens);
	if (seq->nr_sealed + 1 > seq->nr_pieces)
		seq->nr_sealed = seq->nr_pieces ? seq->nr_pieces - 1 : 0;
	return 0;
}
