// SPDX-License-Identifier: MIT
/* Extents: made, shared, copied for a writer, given back. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "sequence.h"

int kvt_extent_new(struct kvt_cache *c, enum kvt_layout_id layout, struct kvt_extent **extent)
{
	struct kvt_extent *e = calloc(1, sizeof(*e) + c->groups * sizeof(e->blocks[0]));
	int ret;

	if (!e)
		return kvt_fail(-ENOMEM, "no memory for an extent");
	ret = kvt_blocks_take(c, e->blocks, c->groups);
	if (ret) {
		free(e);
		return ret;
	}
	e->refs = 1;
	e->layout = (uint8_t)layout;
	pthread_mutex_lock(&c->lock);
	c->stats.extents++;
	c->stats.references++;
	pthread_mutex_unlock(&c->lock);
	*extent = e;
	return 0;
}

void kvt_extent_get(struct kvt_cache *c, struct kvt_extent *e)
{
	pthread_mutex_lock(&c->lock);
	c->stats.references++;
	if (e->refs++ == 1)
		c->stats.shared_extents++;
	pthread_mutex_unlock(&c->lock);
}

void kvt_extent_put(struct kvt_cache *c, struct kvt_extent *e)
{
	uint32_t left;

	pthread_mutex_lock(&c->lock);
	left = --e->refs;
	c->stats.references--;
	if (left == 1)
		c->stats.shared_extents--;
	if (!left) {
		c->stats.extents--;
		kvt_dedup_forget(c, e);
	}
	pthread_mutex_unlock(&c->lock);
	if (left)
		return;
	kvt_blocks_give(c, e->blocks, c->groups);
	free(e->sketch);
	free(e->slots);
	free(e);
}

bool kvt_extent_shared(struct kvt_cache *c, const struct kvt_extent *e)
{
	bool shared;

	pthread_mutex_lock(&c->lock);
	shared = e->refs > 1;
	pthread_mutex_unlock(&c->lock);
	return shared;
}

bool kvt_extent_writable(struct kvt_cache *c, const struct kvt_extent *e)
{
	bool writable;

	pthread_mutex_lock(&c->lock);
	writable = e->refs == 1 && !e->sealed;
	pthread_mutex_unlock(&c->lock);
	return writable;
}

static void copy_rows(struct kvt_cache *c, const struct kvt_extent *from,
		      const struct kvt_extent *to, uint32_t group, const uint32_t *rows)
{
	const struct kvt_layout *layout = kvt_layout_of(c, from);
	uint32_t layer = group * c->geometry.layers_per_block;
	uint32_t end = layer + c->geometry.layers_per_block;

	for (; layer < end && layer < c->geometry.layers; layer++) {
		memcpy(kvt_layer_addr(c, to, layer), kvt_layer_addr(c, from, layer),
		       (uint64_t)rows[layer] * layout->k_bytes);
		memcpy(kvt_v_row(c, to, layer, 0), kvt_v_row(c, from, layer, 0),
		       (uint64_t)rows[layer] * layout->v_bytes);
	}
}

/*
 * An open block that is on NVMe alone is best shared: its content need not come into
 * memory before it is written to.  The kernel's pager shares resident blocks too.  A
 * clone of a sealed block would be sealed.
 */
static bool worth_cloning(struct kvt_cache *c, const struct kvt_extent *from, uint32_t group)
{
	struct kvtier_block_info info;

	if (!strcmp(kvt_pool_pager(c->pool), "kernel"))
		return true;
	return !kvt_query(c->pool, from->blocks[group], 1, &info) &&
	       info.state == KVTIER_BLOCK_COLD_OPEN;
}

/* False: it has to be copied.  Another thread may have sealed the block meanwhile. */
static bool clone_group(struct kvt_cache *c, const struct kvt_extent *from,
			const struct kvt_extent *to, uint32_t group)
{
	uint64_t bytes = kvt_pool_block_bytes(c->pool);
	uint64_t target = to->blocks[group] * bytes;
	struct kvtier_block_info info;

	if (!worth_cloning(c, from, group) ||
	    kvt_clone(c->pool, target, c->pool, from->blocks[group] * bytes, bytes))
		return false;
	if (!kvt_query(c->pool, to->blocks[group], 1, &info) &&
	    (info.state == KVTIER_BLOCK_COLD_OPEN || info.state == KVTIER_BLOCK_OPEN))
		return true;
	kvt_discard(c->pool, target, bytes);
	return false;
}

static bool has_rows(const struct kvt_cache *c, uint32_t group, const uint32_t *rows)
{
	uint32_t layer = group * c->geometry.layers_per_block;
	uint32_t end = layer + c->geometry.layers_per_block;

	for (; layer < end && layer < c->geometry.layers; layer++)
		if (rows[layer])
			return true;
	return false;
}

static int copy_group(struct kvt_cache *c, const struct kvt_extent *from,
		      const struct kvt_extent *to, uint32_t group, const uint32_t *rows)
{
	uint32_t blocks[2] = { from->blocks[group], to->blocks[group] };
	struct kvt_hold hold;
	int ret;

	if (!has_rows(c, group, rows) || clone_group(c, from, to, group))
		return 0;
	ret = kvt_hold(&hold, c, blocks, 2);
	if (ret)
		return ret;
	copy_rows(c, from, to, group, rows);
	kvt_unhold(&hold);
	return 0;
}

/* A private, open copy; @rows says how many rows of each layer are wanted. */
int kvt_extent_copy(struct kvt_cache *c, struct kvt_extent *from, const uint32_t *rows,
		    struct kvt_extent **copy)
{
	struct kvt_extent *to;
	uint32_t group;
	int ret = kvt_extent_new(c, from->layout, &to);

	if (ret)
		return ret;
	for (group = 0; !ret && group < c->groups; group++)
		ret = copy_group(c, from, to, group, rows);
	if (ret) {
		kvt_extent_put(c, to);
		return ret;
	}
	pthread_mutex_lock(&c->lock);
	c->stats.copied_extents++;
	pthread_mutex_unlock(&c->lock);
	*copy = to;
	return 0;
}
