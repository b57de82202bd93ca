// SPDX-License-Identifier: MIT
/* A cache: how rows lie in the pool's blocks, and which blocks are taken. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "error.h"
#include "sequence.h"
#include "kvtier_attend.h"

#define COLD_RUN_MAX 8 /* hot extents that become one cold one */

static uint32_t align_rows(uint64_t bytes)
{
	return (uint32_t)((bytes + KVT_ROW_ALIGN - 1) / KVT_ROW_ALIGN * KVT_ROW_ALIGN);
}

static void set_tokens(struct kvt_layout *layout, uint32_t tokens)
{
	layout->tokens = tokens;
	layout->v_offset = align_rows((uint64_t)tokens * layout->k_bytes);
	layout->layer_bytes = layout->v_offset + align_rows((uint64_t)tokens * layout->v_bytes);
}

/* The most rows of which @layers layers fit a block. */
static uint32_t rows_that_fit(const struct kvt_layout *layout, uint64_t block, uint32_t layers)
{
	struct kvt_layout trial = *layout;
	uint64_t row = (uint64_t)layout->k_bytes + layout->v_bytes;
	uint32_t tokens = (uint32_t)(block / layers / row);

	for (set_tokens(&trial, tokens); tokens && (uint64_t)trial.layer_bytes * layers > block;
	     set_tokens(&trial, tokens))
		tokens--;
	return tokens;
}

static int row_bytes(const struct kvt_geometry *g, uint32_t type, uint32_t dim, uint32_t *bytes)
{
	uint64_t head = kvt_row_bytes(type, dim);

	if (!head || head * g->kv_heads > UINT32_MAX)
		return kvt_fail(-EINVAL,
				"type %u cannot hold heads of %u elements: name a type "
				"and dimensions it fits, or the bytes of a row",
				type, dim);
	*bytes = (uint32_t)(head * g->kv_heads);
	return 0;
}

static int complete_hot(struct kvt_geometry *g)
{
	int ret = 0;

	if (!g->k_bytes)
		ret = row_bytes(g, g->k_type, g->k_dim, &g->k_bytes);
	if (!ret && !g->v_bytes && g->v_dim)
		ret = row_bytes(g, g->v_type, g->v_dim, &g->v_bytes);
	return ret;
}

static int check_geometry(const struct kvt_geometry *g)
{
	if (g->size != sizeof(*g))
		return kvt_fail(-EINVAL, "kvt_geometry.size is %u; this library knows %zu: start "
					 "from KVT_GEOMETRY_INIT", g->size, sizeof(*g));
	if (!g->layers || g->layers > 4096)
		return kvt_fail(-EINVAL, "a model of %u layers: 1 to 4096 are possible", g->layers);
	if (g->layers_per_block > g->layers)
		return kvt_fail(-EINVAL, "%u layers to a block, but the model has %u",
				g->layers_per_block, g->layers);
	if (!g->k_bytes && (!g->kv_heads || !g->k_dim))
		return kvt_fail(-EINVAL, "kv_heads and k_dim, or k_bytes, must say how large a "
					 "token's keys are");
	if (g->cold > 1)
		return kvt_fail(-EINVAL, "kvt_geometry.cold is %u: 0 or 1", g->cold);
	return 0;
}

static int layout_hot(struct kvt_cache *c)
{
	struct kvt_geometry *g = &c->geometry;
	struct kvt_layout *hot = &c->layouts[KVT_HOT];
	uint64_t block = kvt_pool_block_bytes(c->pool);
	uint32_t most;

	*hot = (struct kvt_layout){ .k_type = g->k_type, .v_type = g->v_type,
				    .k_bytes = g->k_bytes, .v_bytes = g->v_bytes };
	most = rows_that_fit(hot, block, g->layers_per_block);
	if (!most)
		return kvt_fail(-EINVAL, "a block of %llu bytes cannot hold one token of %u layers "
					 "(%llu bytes): use larger blocks or fewer layers a block",
				(unsigned long long)block, g->layers_per_block,
				(unsigned long long)g->layers_per_block *
					((uint64_t)g->k_bytes + g->v_bytes));
	if (g->block_tokens > most)
		return kvt_fail(-EINVAL, "a block holds %u tokens, not %u", most, g->block_tokens);
	set_tokens(hot, g->block_tokens ? g->block_tokens : most);
	return 0;
}

/* A cold extent takes the place of a whole number of hot ones, at least two. */
static int layout_cold(struct kvt_cache *c)
{
	struct kvt_geometry *g = &c->geometry;
	struct kvt_layout *hot = &c->layouts[KVT_HOT], *cold = &c->layouts[KVT_COLDER];
	uint32_t most, ratio, fit;
	int ret;

	if (!g->cold)
		return 0;
	ret = kvt_geometry_typed(g);
	if (ret)
		return ret;
	*cold = (struct kvt_layout){ .k_type = g->cold_k_type, .v_type = g->cold_v_type };
	ret = row_bytes(g, g->cold_k_type, g->k_dim, &cold->k_bytes);
	if (!ret && g->v_dim)
		ret = row_bytes(g, g->cold_v_type, g->v_dim, &cold->v_bytes);
	if (ret)
		return ret;
	if (!cold->k_bytes)
		return kvt_fail(-EINVAL, "cold keys of no bytes");
	most = rows_that_fit(cold, kvt_pool_block_bytes(c->pool), g->layers_per_block);
	ratio = (g->k_bytes + g->v_bytes + (cold->k_bytes + cold->v_bytes) / 2) /
		(cold->k_bytes + cold->v_bytes);
	fit = most / (ratio ? ratio : 1);
	if (ratio >= 2 && !g->block_tokens && fit && fit < hot->tokens)
		set_tokens(hot, fit);
	if (most / hot->tokens < 2)
		return kvt_fail(-EINVAL, "a block holds %u tokens in the cold types, less than two "
					 "extents of %u: make block_tokens %u or less",
				most, hot->tokens, most / 2);
	most /= hot->tokens;
	set_tokens(cold, (most < COLD_RUN_MAX ? most : COLD_RUN_MAX) * hot->tokens);
	return 0;
}

static int init_layouts(struct kvt_cache *c)
{
	struct kvt_geometry *g = &c->geometry;
	int ret = check_geometry(g);

	if (!g->layers_per_block)
		g->layers_per_block = 1;
	if (!ret)
		ret = complete_hot(g);
	if (!ret)
		ret = layout_hot(c);
	if (!ret)
		ret = layout_cold(c);
	if (ret)
		return ret;
	g->block_tokens = c->layouts[KVT_HOT].tokens;
	c->groups = (g->layers + g->layers_per_block - 1) / g->layers_per_block;
	return 0;
}

static int look_at_tiers(struct kvt_cache *c)
{
	struct kvtier_stats stats = { .size = sizeof(stats) };
	int ret = kvt_stats(c->pool, &stats);

	c->has_nvme = stats.tier[KVTIER_TIER_NVME].budget_bytes > 0;
	return ret;
}

static int init_blocks(struct kvt_cache *c)
{
	uint64_t nr = kvt_pool_bytes(c->pool) / kvt_pool_block_bytes(c->pool);
	uint32_t i;

	if (nr < c->groups)
		return kvt_fail(-ENOSPC,
				"the pool has %llu blocks; %u tokens of this model take %u",
				(unsigned long long)nr, c->geometry.block_tokens, c->groups);
	c->free = calloc(nr, sizeof(*c->free));
	c->limbo = calloc(nr, sizeof(*c->limbo));
	c->index = calloc(KVT_INDEX_BUCKETS, sizeof(struct kvt_extent *));
	if (!c->free || !c->limbo || !c->index)
		return kvt_fail(-ENOMEM, "no memory for a table of %llu blocks",
				(unsigned long long)nr);
	/* Taken from the end: ascending, so that the pager sees runs. */
	for (i = 0; i < nr; i++)
		c->free[i] = (uint32_t)nr - 1 - i;
	c->nr_free = (uint32_t)nr;
	c->stats.blocks = nr;
	c->stats.extent_blocks = c->groups;
	return 0;
}

int kvt_cache_create(struct kvt_pool *pool, const struct kvt_geometry *geometry,
		     struct kvt_cache **cache)
{
	struct kvt_cache *c = calloc(1, sizeof(*c));
	int ret;

	*cache = NULL;
	if (!c)
		return kvt_fail(-ENOMEM, "no memory for a cache");
	c->pool = pool;
	c->geometry = *geometry;
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->save_lock, NULL);
	ret = init_layouts(c);
	if (!ret)
		ret = init_blocks(c);
	if (!ret)
		ret = look_at_tiers(c);
	if (!ret && getrandom(c->id, sizeof(c->id), 0) != (ssize_t)sizeof(c->id))
		ret = kvt_fail(-EIO, "getrandom() gave no random bytes");
	if (ret) {
		kvt_cache_destroy(c);
		return ret;
	}
	*cache = c;
	return 0;
}

void kvt_cache_destroy(struct kvt_cache *c)
{
	if (!c)
		return;
	pthread_mutex_destroy(&c->save_lock);
	pthread_mutex_destroy(&c->lock);
	free((void *)c->index);
	free(c->limbo);
	free(c->free);
	free(c);
}

struct kvt_pool *kvt_cache_pool(const struct kvt_cache *c)
{
	return c->pool;
}

const struct kvt_geometry *kvt_cache_geometry(const struct kvt_cache *c)
{
	return &c->geometry;
}

void kvt_cache_set_seal_lag(struct kvt_cache *c, uint32_t tokens)
{
	__atomic_store_n(&c->seal_lag, tokens, __ATOMIC_RELAXED);
}

void kvt_cache_stats(struct kvt_cache *c, struct kvt_cache_stats *stats)
{
	pthread_mutex_lock(&c->lock);
	*stats = c->stats;
	stats->free_blocks = c->nr_free;
	pthread_mutex_unlock(&c->lock);
}

/* Nobody has the extent any more, so the pins on its blocks are nobody's, either. */
static int discard_pinned(struct kvt_cache *c, uint64_t offset, uint64_t bytes)
{
	int ret = kvt_discard(c->pool, offset, bytes);

	while (ret == -EBUSY && !kvt_unpin(c->pool, offset, bytes))
		ret = kvt_discard(c->pool, offset, bytes);
	return ret;
}

/*
 * Empty blocks of the pool, so that they hold neither frames nor slots.  Those that cannot be
 * emptied now (a read of theirs is stalled, or a device is at them) come to the end.
 */
static uint32_t discard(struct kvt_cache *c, uint32_t *blocks, uint32_t nr)
{
	uint64_t bytes = kvt_pool_block_bytes(c->pool);
	uint32_t i, done = 0, block;

	for (i = 0; i < nr; i++) {
		if (discard_pinned(c, blocks[i] * bytes, bytes))
			continue;
		block = blocks[done];
		blocks[done++] = blocks[i];
		blocks[i] = block;
	}
	return done;
}

static uint32_t discard_many(struct kvt_cache *c, uint32_t *blocks, uint32_t nr)
{
	uint64_t bytes = kvt_pool_block_bytes(c->pool);
	struct kvtier_range ranges[KVT_HOLD_MAX];
	uint32_t i;

	for (i = 0; i < nr; i++)
		ranges[i] = (struct kvtier_range){ .offset = blocks[i] * bytes, .length = bytes };
	if (kvt_range_op(c->pool, KVTIER_OP_DISCARD, KVTIER_TIER_NONE, 0, ranges, nr) == (int)nr)
		return nr;
	return discard(c, blocks, nr); /* some refused: find out which */
}

void kvt_blocks_give(struct kvt_cache *c, const uint32_t *blocks, uint32_t nr)
{
	uint32_t copy[KVT_HOLD_MAX], part, done, i;

	for (; nr; nr -= part, blocks += part) {
		part = nr < KVT_HOLD_MAX ? nr : KVT_HOLD_MAX;
		memcpy(copy, blocks, part * sizeof(*copy));
		done = discard_many(c, copy, part);
		pthread_mutex_lock(&c->lock);
		for (i = done; i--;)
			c->free[c->nr_free++] = copy[i];
		for (i = done; i < part; i++)
			c->limbo[c->nr_limbo++] = copy[i];
		pthread_mutex_unlock(&c->lock);
	}
}

/* Up to @nr of those that wait longest; returns how many. */
static uint32_t leave_limbo(struct kvt_cache *c, uint32_t *blocks, uint32_t nr)
{
	pthread_mutex_lock(&c->lock);
	if (nr > c->nr_limbo)
		nr = c->nr_limbo;
	memcpy(blocks, c->limbo, nr * sizeof(*blocks));
	c->nr_limbo -= nr;
	memmove(c->limbo, c->limbo + nr, c->nr_limbo * sizeof(*blocks));
	pthread_mutex_unlock(&c->lock);
	return nr;
}

/* What could not be emptied when it was given back may be now: all of it is tried once. */
static void retry_limbo(struct kvt_cache *c)
{
	uint32_t blocks[KVT_HOLD_MAX], left, nr;

	pthread_mutex_lock(&c->lock);
	left = c->nr_limbo;
	pthread_mutex_unlock(&c->lock);
	for (; left; left -= nr) {
		nr = leave_limbo(c, blocks, left < KVT_HOLD_MAX ? left : KVT_HOLD_MAX);
		if (!nr)
			return;
		kvt_blocks_give(c, blocks, nr);
	}
}

static bool take(struct kvt_cache *c, uint32_t *blocks, uint32_t nr)
{
	uint32_t i;
	bool enough;

	pthread_mutex_lock(&c->lock);
	enough = c->nr_free >= nr;
	for (i = 0; enough && i < nr; i++)
		blocks[i] = c->free[--c->nr_free];
	pthread_mutex_unlock(&c->lock);
	return enough;
}

static int full(struct kvt_cache *c, uint64_t nr)
{
	struct kvt_cache_stats stats;

	kvt_cache_stats(c, &stats);
	return kvt_fail(-ENOSPC, "the pool is full: %llu more blocks are needed, %llu of %llu are "
				 "free; drop sequences, set a policy or make the pool larger",
			(unsigned long long)nr, (unsigned long long)stats.free_blocks,
			(unsigned long long)stats.blocks);
}

int kvt_blocks_check(struct kvt_cache *c, uint64_t nr)
{
	bool enough;

	pthread_mutex_lock(&c->lock);
	enough = nr <= (uint64_t)c->nr_free + c->nr_limbo;
	pthread_mutex_unlock(&c->lock);
	return enough ? 0 : full(c, nr);
}

int kvt_blocks_take(struct kvt_cache *c, uint32_t *blocks, uint32_t nr)
{
	if (take(c, blocks, nr))
		return 0;
	retry_limbo(c);
	if (take(c, blocks, nr))
		return 0;
	return full(c, nr);
}
