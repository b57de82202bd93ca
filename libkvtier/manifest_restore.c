// SPDX-License-Identifier: MIT
/*
 * Build sequences and tree from extents that are still empty, and only then adopt what they
 * hold: a manifest that makes no sense has taken no slot.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "manifest.h"
#include "policy.h"
#include "transfer.h"

struct restore {
	const struct kvt_manifest *manifest;
	struct kvt_cache *cache;
	struct kvt_bytes bytes;
	struct kvt_extent **extents;
	struct kvtier_slot *slots; /* to adopt, a row of them an extent */
};

static int inconsistent(const char *what)
{
	return kvt_fail(-EILSEQ, "the manifest is inconsistent: %s", what);
}

static int get_extent(struct restore *r, uint32_t number)
{
	struct kvt_cache *c = r->cache;
	struct kvtier_slot *slots = r->slots + (size_t)number * c->groups;
	uint32_t layout = kvt_get_u32(&r->bytes), group;
	struct kvt_extent *e;
	int ret;

	if (layout >= KVT_NR_LAYOUTS || !c->layouts[layout].tokens)
		return inconsistent("an extent has an unknown layout");
	ret = kvt_extent_new(c, layout, &e);
	if (ret)
		return ret;
	r->extents[number] = e;
	for (group = 0; group < c->groups; group++) {
		slots[group].block = e->blocks[group];
		slots[group].slot = kvt_get_u64(&r->bytes);
		slots[group].generation = kvt_get_u64(&r->bytes);
		slots[group].crc32c = kvt_get_u32(&r->bytes);
	}
	return r->bytes.error;
}

/* The right to the slots, where there is more to it than the right to their file. */
static int take_key(struct restore *r)
{
	static const struct kvt_key none;
	const struct kvt_key *key = &r->manifest->header.key;
	int ret = memcmp(key, &none, sizeof(none)) != 0 ? kvt_pool_set_key(r->cache->pool, key) : 0;

	return ret ? kvt_fail(ret, "the manifest's key does not open its slots: %s",
			      kvt_strerror(ret)) : 0;
}

static int adopt(struct restore *r)
{
	uint64_t nr = (uint64_t)r->manifest->header.extents * r->cache->groups, at;
	uint32_t part, i;
	int ret = nr ? take_key(r) : 0;

	for (at = 0; !ret && at < nr; at += part) {
		part = nr - at < KVTIER_ARRAY_MAX ? (uint32_t)(nr - at) : KVTIER_ARRAY_MAX;
		ret = kvt_adopt(r->cache->pool, r->slots + at, part);
	}
	if (ret)
		return ret;
	for (i = 0; i < r->manifest->header.extents; i++)
		r->extents[i]->sealed = r->extents[i]->settled = true;
	/* From now on the manifest's slots are this pool's to keep. */
	return kvt_keep_slots(r->cache, r->extents, r->manifest->header.extents);
}

static int get_extents(struct restore *r)
{
	uint32_t nr = r->manifest->header.extents, i;
	int ret = 0;

	r->extents = calloc(nr ? nr : 1, sizeof(struct kvt_extent *));
	r->slots = calloc((size_t)nr * r->cache->groups + 1, sizeof(*r->slots));
	if (!r->extents || !r->slots)
		return kvt_fail(-ENOMEM, "no memory for %u extents", nr);
	for (i = 0; !ret && i < nr; i++)
		ret = get_extent(r, i);
	return ret;
}

static int get_path(struct kvt_bytes *b, struct kvt_seq *seq)
{
	uint32_t nr = kvt_get_count(b, sizeof(*seq->path));

	if (!nr)
		return b->error;
	seq->path = calloc(nr, sizeof(*seq->path));
	if (!seq->path)
		return kvt_fail(-ENOMEM, "no memory for a sequence's path");
	seq->nr_path = nr;
	kvt_get(b, seq->path, nr * sizeof(*seq->path));
	return b->error;
}

static void get_summary(struct kvt_bytes *b, const struct kvt_geometry *g, struct kvt_summary *s)
{
	size_t keys = (size_t)g->layers * g->kv_heads * g->k_dim;

	s->tokens = kvt_get_u64(b);
	kvt_get(b, s->memory, keys * g->v_dim * sizeof(float));
	kvt_get(b, s->norm, keys * sizeof(float));
	kvt_get(b, s->keys, keys * sizeof(float));
}

/* Before there are pieces, so that nothing is dropped by it. */
static int get_policy(struct kvt_bytes *b, struct kvt_seq *seq)
{
	struct kvt_policy policy;
	int ret;

	if (!kvt_get_u32(b))
		return b->error;
	kvt_get(b, &policy, sizeof(policy));
	ret = b->error ? b->error : kvt_seq_set_policy(seq, &policy);
	if (!ret && seq->policy->summary)
		get_summary(b, &seq->cache->geometry, seq->policy->summary);
	return ret ? ret : b->error;
}

/* Rows that can be appended to reach up to where the next extent begins. */
static bool fits(const struct kvt_seq *seq, const struct kvt_piece *p)
{
	const struct kvt_piece *before = seq->nr_pieces ? p - 1 : NULL;
	uint32_t hot = seq->cache->layouts[KVT_HOT].tokens;

	return p->rows && p->rows <= kvt_layout_of(seq->cache, p->extent)->tokens &&
	       p->span && !(p->span % p->rows) && (uint64_t)p->position + p->span <= UINT32_MAX &&
	       (!kvt_piece_grows(p) || p->position % hot + p->rows == hot) &&
	       (!before || p->position >= before->position + (uint64_t)before->span);
}

/* No layer goes on past the last extent, or ends within rows that cannot be appended to. */
static bool lengths_fit(const struct kvt_seq *seq)
{
	const struct kvt_piece *p, *end = seq->pieces + seq->nr_pieces;
	uint64_t tokens = kvt_seq_tokens(seq), most = 0;
	uint32_t layer;

	for (p = seq->pieces; p < end; p++) {
		most = p->position + (uint64_t)p->span;
		if (!kvt_piece_grows(p) && most > tokens)
			return false;
	}
	for (layer = 0; layer < seq->cache->geometry.layers; layer++)
		if (seq->length[layer] > most)
			return false;
	return true;
}

static int get_piece(struct restore *r, struct kvt_seq *seq)
{
	struct kvt_bytes *b = &r->bytes;
	struct kvt_piece *p = &seq->pieces[seq->nr_pieces];
	uint32_t extent = kvt_get_u32(b);

	*p = (struct kvt_piece){ .position = kvt_get_u32(b) };
	p->rows = kvt_get_u32(b);
	p->span = kvt_get_u32(b);
	p->uses = kvt_get_u32(b);
	p->used = kvt_get_u64(b);
	kvt_get(b, &p->mass, sizeof(p->mass));
	if (b->error)
		return b->error;
	if (extent >= r->manifest->header.extents)
		return inconsistent("a sequence names an extent that is not there");
	p->extent = r->extents[extent];
	if (!fits(seq, p))
		return inconsistent("a sequence's extents do not fit together");
	kvt_extent_get(seq->cache, p->extent);
	seq->nr_pieces++;
	return 0;
}

static int get_pieces(struct restore *r, struct kvt_seq *seq)
{
	uint32_t nr, i;
	int ret;

	seq->clock = kvt_get_u64(&r->bytes);
	nr = kvt_get_count(&r->bytes, 32);
	ret = r->bytes.error;
	if (!ret && nr)
		ret = kvt_pieces_room(seq, nr);
	for (i = 0; !ret && i < nr; i++)
		ret = get_piece(r, seq);
	if (!ret && !lengths_fit(seq))
		ret = inconsistent("a sequence's extents do not have all its tokens");
	return ret;
}

static int get_lengths(struct restore *r, struct kvt_seq *seq)
{
	kvt_get(&r->bytes, seq->length, r->cache->geometry.layers * sizeof(seq->length[0]));
	return r->bytes.error;
}

static int get_seq(struct restore *r, struct kvt_seq **seq)
{
	char name[KVT_NAME_MAX + 1];
	uint32_t nr;
	int ret = kvt_seq_create(r->cache, seq);

	if (ret)
		return ret;
	nr = kvt_get_count(&r->bytes, 1);
	if (nr > KVT_NAME_MAX)
		return inconsistent("a name is too long");
	kvt_get(&r->bytes, name, nr);
	ret = get_lengths(r, *seq);
	if (!ret)
		ret = get_path(&r->bytes, *seq);
	if (!ret)
		ret = get_policy(&r->bytes, *seq);
	return ret ? ret : get_pieces(r, *seq);
}

static int get_all(struct restore *r, struct kvt_prefix *prefix, struct kvt_seq **seqs)
{
	const struct kvt_manifest_header *h = &r->manifest->header;
	uint32_t i;
	int ret = get_extents(r);

	for (i = 0; !ret && i < h->seqs; i++)
		ret = get_seq(r, &seqs[i]);
	if (!ret && prefix)
		ret = kvt_prefix_load(prefix, &r->bytes, h->nodes, r->extents, h->extents);
	if (!ret) {
		ret = adopt(r);
		if (ret && prefix)
			kvt_prefix_evict(prefix, UINT32_MAX);
	}
	/* Sequences and nodes have references of their own. */
	for (i = 0; r->extents && i < h->extents; i++)
		if (r->extents[i])
			kvt_extent_put(r->cache, r->extents[i]);
	for (i = 0; ret && i < h->seqs; i++) {
		kvt_seq_destroy(seqs[i]);
		seqs[i] = NULL;
	}
	free(r->extents);
	free(r->slots);
	return ret;
}

static int check_target(const struct kvt_manifest *m, struct kvt_cache *c,
			const struct kvt_prefix *prefix)
{
	uint64_t block = kvt_pool_block_bytes(c->pool);
	int ret;

	if (m->header.block_bytes != block)
		return kvt_fail(
			-EINVAL, "the manifest is of blocks of %llu bytes, the pool has %llu",
			(unsigned long long)m->header.block_bytes, (unsigned long long)block);
	if (prefix && prefix->cache != c)
		return kvt_fail(-EINVAL, "the prefix tree is of another cache");
	if (prefix && prefix->stats.extents)
		return kvt_fail(-EINVAL, "the prefix tree is not empty");
	ret = kvt_geometry_match(&m->header.geometry, &c->geometry, "the manifest");
	if (!ret && m->header.groups != c->groups)
		ret = inconsistent("its extents have another number of blocks");
	return ret;
}

int kvt_manifest_restore(const struct kvt_manifest *m, struct kvt_cache *c,
			 struct kvt_prefix *prefix, struct kvt_seq **seqs)
{
	struct restore r = { .manifest = m, .cache = c };
	int ret = check_target(m, c, prefix);

	if (ret)
		return ret;
	if (m->header.seqs)
		memset((void *)seqs, 0, m->header.seqs * sizeof(struct kvt_seq *));
	r.bytes.data = m->data + sizeof(m->header);
	r.bytes.nr = m->bytes - sizeof(m->header) - sizeof(uint32_t);
	return get_all(&r, prefix, seqs);
}
