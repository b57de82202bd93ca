// SPDX-License-Identifier: MIT
/*
 * Identical extents become one.
 *
 * The cache keeps an index of extents by a hash of their rows.  Equal hashes only
 * make a candidate: its rows are compared byte for byte before it is shared.  The
 * index holds no reference: an extent leaves it when it is given back.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "crc.h"
#include "error.h"
#include "sequence.h"

static struct kvt_extent **bucket_of(struct kvt_cache *c, uint64_t hash)
{
	return &c->index[hash & (KVT_INDEX_BUCKETS - 1)];
}

/* With the cache's lock held, by whoever gives the extent back. */
void kvt_dedup_forget(struct kvt_cache *c, struct kvt_extent *e)
{
	struct kvt_extent **link;

	if (!e->indexed)
		return;
	for (link = bucket_of(c, e->hash); *link != e; link = &(*link)->next)
		;
	*link = e->next;
	e->indexed = false;
}

static uint64_t mix(uint64_t hash, uint32_t crc)
{
	hash = (hash ^ crc) * 0xbf58476d1ce4e5b9ULL;
	return hash ^ (hash >> 29);
}

/* Of all rows of all layers; the unused bytes between them do not count. */
static int hash_rows(struct kvt_cache *c, const struct kvt_extent *e, uint64_t *hash)
{
	const struct kvt_layout *layout = kvt_layout_of(c, e);
	uint32_t layer, group;
	struct kvt_hold hold;
	int ret = 0;

	*hash = e->layout;
	for (layer = 0; !ret && layer < c->geometry.layers; layer++) {
		group = kvt_group_of(c, layer);
		ret = kvt_hold(&hold, c, &e->blocks[group], 1);
		if (ret)
			break;
		*hash = mix(*hash, kvt_crc32c(kvt_k_row(c, e, layer, 0),
					      (size_t)layout->tokens * layout->k_bytes));
		*hash = mix(*hash, kvt_crc32c(kvt_v_row(c, e, layer, 0),
					      (size_t)layout->tokens * layout->v_bytes));
		kvt_unhold(&hold);
	}
	return ret;
}

/* 1 the same, 0 not, or a negative errno. */
static int same_rows(struct kvt_cache *c, const struct kvt_extent *a, const struct kvt_extent *b)
{
	const struct kvt_layout *layout = kvt_layout_of(c, a);
	uint32_t layer, blocks[2];
	struct kvt_hold hold;
	int ret = 1;

	for (layer = 0; ret == 1 && layer < c->geometry.layers; layer++) {
		blocks[0] = a->blocks[kvt_group_of(c, layer)];
		blocks[1] = b->blocks[kvt_group_of(c, layer)];
		ret = kvt_hold(&hold, c, blocks, 2);
		if (ret)
			return ret;
		ret = !memcmp(kvt_k_row(c, a, layer, 0), kvt_k_row(c, b, layer, 0),
			      (size_t)layout->tokens * layout->k_bytes) &&
		      !memcmp(kvt_v_row(c, a, layer, 0), kvt_v_row(c, b, layer, 0),
			      (size_t)layout->tokens * layout->v_bytes);
		kvt_unhold(&hold);
	}
	return ret;
}

/* The first candidate after @after, with a reference, so that it stays while it is compared. */
static struct kvt_extent *candidate(struct kvt_cache *c, const struct kvt_extent *e,
				    uint64_t hash, struct kvt_extent *after)
{
	struct kvt_extent *other;

	pthread_mutex_lock(&c->lock);
	other = after && after->indexed ? after->next : *bucket_of(c, hash);
	while (other && (other == e || other->hash != hash || other->layout != e->layout))
		other = other->next;
	if (other && other->refs++ == 1)
		c->stats.shared_extents++;
	c->stats.references += other != NULL;
	pthread_mutex_unlock(&c->lock);
	return other;
}

static void remember(struct kvt_cache *c, struct kvt_extent *e, uint64_t hash)
{
	struct kvt_extent **bucket = bucket_of(c, hash);

	pthread_mutex_lock(&c->lock);
	if (!e->indexed) {
		e->hash = hash;
		e->indexed = true;
		e->next = *bucket;
		*bucket = e;
	}
	pthread_mutex_unlock(&c->lock);
}

/* An identical extent, with a reference; NULL in @*twin: there is none. */
static int find_twin(struct kvt_cache *c, const struct kvt_extent *e, uint64_t hash,
		     struct kvt_extent **twin)
{
	struct kvt_extent *other = candidate(c, e, hash, NULL), *next;
	int ret = 0;

	*twin = NULL;
	while (other) {
		ret = same_rows(c, e, other);
		if (ret == 1) {
			*twin = other;
			return 0;
		}
		next = ret ? NULL : candidate(c, e, hash, other);
		kvt_extent_put(c, other);
		other = next;
	}
	return ret;
}

static int dedup_piece(struct kvt_cache *c, struct kvt_piece *p)
{
	struct kvt_extent *twin;
	uint64_t hash;
	int ret = hash_rows(c, p->extent, &hash);

	if (!ret)
		ret = find_twin(c, p->extent, hash, &twin);
	if (ret)
		return ret;
	if (!twin) {
		remember(c, p->extent, hash);
		return 0;
	}
	pthread_mutex_lock(&c->lock);
	c->stats.deduplicated_extents++;
	pthread_mutex_unlock(&c->lock);
	kvt_extent_put(c, p->extent);
	p->extent = twin;
	return 1;
}

/* Sealed, all rows in use by this sequence, and not known to the index already. */
static bool eligible(struct kvt_cache *c, const struct kvt_seq *seq, const struct kvt_piece *p)
{
	bool sealed;

	pthread_mutex_lock(&c->lock);
	sealed = p->extent->sealed && !p->extent->indexed;
	pthread_mutex_unlock(&c->lock);
	return sealed && p->rows == kvt_layout_of(c, p->extent)->tokens &&
	       p->position + (uint64_t)p->span <= kvt_seq_tokens(seq);
}

int kvt_seq_dedup(struct kvt_seq *seq)
{
	struct kvt_cache *c = seq->cache;
	struct kvt_piece *p;
	int ret, given_up = 0;

	for (p = seq->pieces; p < seq->pieces + seq->nr_pieces; p++) {
		if (!eligible(c, seq, p))
			continue;
		ret = dedup_piece(c, p);
		if (ret < 0)
			return ret;
		given_up += ret;
	}
	return given_up;
}
