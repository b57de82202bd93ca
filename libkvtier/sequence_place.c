// SPDX-License-Identifier: MIT
/* Where extents are: sealing full ones, and moving runs of them between tiers. */
#include <errno.h>
#include <stdlib.h>

#include "error.h"
#include "sequence.h"

int kvt_extent_op(struct kvt_cache *c, const struct kvt_extent *e, uint32_t op, uint32_t flags,
		  uint32_t group, uint32_t nr)
{
	uint64_t bytes = kvt_pool_block_bytes(c->pool);
	struct kvtier_range ranges[KVT_HOLD_MAX];
	uint32_t i, part;
	int ret, result = 0;

	for (; nr; nr -= part, group += part) {
		part = nr < KVT_HOLD_MAX ? nr : KVT_HOLD_MAX;
		for (i = 0; i < part; i++)
			ranges[i] = (struct kvtier_range){ .offset = e->blocks[group + i] * bytes,
							   .length = bytes };
		ret = kvt_range_op(c->pool, op, KVTIER_TIER_NONE, flags, ranges, part);
		if (ret < 0)
			return ret;
		for (i = 0; !result && i < part; i++)
			result = ranges[i].result;
	}
	return result;
}

static bool is_open(struct kvt_cache *c, const struct kvt_extent *e)
{
	bool open;

	pthread_mutex_lock(&c->lock);
	open = !e->sealed;
	pthread_mutex_unlock(&c->lock);
	return open;
}

/* A load: somebody else may be sealing the block.  An empty one gets zeroes. */
static void touch(const struct kvt_cache *c, uint32_t block)
{
	(void)*((volatile char *)kvt_pool_addr(c->pool) +
		(uint64_t)block * kvt_pool_block_bytes(c->pool));
}

static void mark(struct kvt_cache *c, bool *flag)
{
	pthread_mutex_lock(&c->lock);
	*flag = true;
	pthread_mutex_unlock(&c->lock);
}

/*
 * Marked first: from then on nobody writes to it, also where only some of its blocks could
 * be sealed.  Can be done again, and by two threads at once.
 */
static int seal(struct kvt_cache *c, struct kvt_extent *e)
{
	int ret;

	mark(c, &e->sealed);
	ret = kvt_extent_op(c, e, KVTIER_OP_SEAL, 0, 0, c->groups);
	if (!ret)
		mark(c, &e->settled);
	return ret;
}

/* Touch what is empty yet, so that it can be sealed and has a slot. */
static int fill_empty(struct kvt_cache *c, const struct kvt_extent *e)
{
	struct kvt_hold hold;
	uint32_t group, part;
	int ret;

	for (group = 0; group < c->groups; group += part) {
		part = c->groups - group < KVT_HOLD_MAX ? c->groups - group : KVT_HOLD_MAX;
		ret = kvt_hold(&hold, c, e->blocks + group, part);
		if (ret)
			return ret;
		for (ret = 0; (uint32_t)ret < part; ret++)
			if (!hold.pinned[ret])
				touch(c, e->blocks[group + (uint32_t)ret]);
		kvt_unhold(&hold);
	}
	return 0;
}

/* Seal an extent that may have empty or half-filled blocks; its sequences' next appends copy. */
int kvt_extent_seal(struct kvt_cache *c, struct kvt_extent *e)
{
	bool settled, open;
	int ret;

	pthread_mutex_lock(&c->lock);
	settled = e->settled;
	open = !e->sealed;
	pthread_mutex_unlock(&c->lock);
	if (settled)
		return 0;
	ret = open ? fill_empty(c, e) : 0;
	if (!ret)
		ret = seal(c, e);
	return ret ? kvt_fail(ret, "an extent cannot be sealed: %s", kvt_strerror(ret)) : 0;
}

/*
 * A block that cannot be sealed is lost, which whoever reads it next will be told; to have
 * been appended to is no reason to fail.
 */
void kvt_seq_seal_full(struct kvt_seq *seq)
{
	uint64_t tokens = kvt_seq_tokens(seq);
	uint32_t lag = __atomic_load_n(&seq->cache->seal_lag, __ATOMIC_RELAXED);
	const struct kvt_piece *p;

	for (; seq->nr_sealed < seq->nr_pieces; seq->nr_sealed++) {
		p = &seq->pieces[seq->nr_sealed];
		if (p->position + (uint64_t)p->rows + lag > tokens)
			return;
		if (is_open(seq->cache, p->extent))
			seal(seq->cache, p->extent);
	}
}

static int check_run(const struct kvt_seq *seq, uint32_t op, uint32_t flags, uint32_t layer)
{
	if (op != KVTIER_OP_PROMOTE && op != KVTIER_OP_DEMOTE && op != KVTIER_OP_WRITEBACK &&
	    op != KVTIER_OP_PIN && op != KVTIER_OP_UNPIN && op != KVTIER_OP_COLD)
		return kvt_fail(-EINVAL, "operation %u does not move extents: use promote, demote, "
					 "writeback, pin, unpin or cold", op);
	if (flags & ~(uint32_t)KVTIER_OP_NOWAIT)
		return kvt_fail(-EINVAL, "unknown flags %#x", flags);
	if (layer != KVT_ALL_LAYERS && layer >= seq->cache->geometry.layers)
		return kvt_fail(-EINVAL, "there is no layer %u: the model has %u", layer,
				seq->cache->geometry.layers);
	return 0;
}

int kvt_seq_place(const struct kvt_seq *seq, uint32_t op, uint32_t flags, uint32_t layer,
		  uint64_t first, uint64_t tokens)
{
	struct kvt_cache *c = seq->cache;
	uint32_t group = layer == KVT_ALL_LAYERS ? 0 : kvt_group_of(c, layer);
	uint32_t nr = layer == KVT_ALL_LAYERS ? c->groups : 1;
	uint64_t end = tokens > UINT64_MAX - first ? UINT64_MAX : first + tokens;
	const struct kvt_piece *p = kvt_piece_at(seq, first);
	int ret = check_run(seq, op, flags, layer), one;

	if (ret)
		return ret;
	if (!p || p->position + (uint64_t)p->span <= first)
		p = p ? p + 1 : seq->pieces;
	for (; p < seq->pieces + seq->nr_pieces && p->position < end; p++) {
		one = kvt_extent_op(c, p->extent, op, flags, group, nr);
		if (one && !ret)
			ret = kvt_fail(one, "the extent of tokens %u to %u: %s", p->position,
				       p->position + p->span - 1, kvt_strerror(one));
	}
	return ret;
}
