// SPDX-License-Identifier: MIT
/* The tree's part of a manifest.  Parents come before their children. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "manifest.h"

#define IS_ROOT UINT32_MAX

int kvt_prefix_mark(struct kvt_prefix *p, struct kvt_marks *marks)
{
	struct kvt_prefix_node *node;
	int ret = 0;

	for (node = p->first; !ret && node; node = node->next)
		ret = kvt_mark(marks, node->extent);
	return ret;
}

static void put_node(struct kvt_bytes *b, const struct kvt_prefix_node *node)
{
	kvt_put_u32(b, node->parent->mark - 1);
	kvt_put_u32(b, node->extent->mark - 1);
	kvt_put_u32(b, node->hits);
	kvt_put_u32(b, node->nr_tokens);
	kvt_put(b, node->tokens, node->nr_tokens * sizeof(node->tokens[0]));
}

uint32_t kvt_prefix_save(struct kvt_prefix *p, struct kvt_bytes *b)
{
	struct kvt_prefix_node *node;
	uint32_t nr = 0;

	for (node = p->roots; node; node = node->next) {
		kvt_put_u32(b, IS_ROOT);
		kvt_put_u32(b, (uint32_t)strlen(node->tenant));
		kvt_put(b, node->tenant, strlen(node->tenant));
		node->mark = ++nr;
	}
	for (node = p->first; node; node = node->next) {
		put_node(b, node);
		node->mark = ++nr;
	}
	return nr;
}

static int load_root(struct kvt_prefix *p, struct kvt_bytes *b, struct kvt_prefix_node **node)
{
	char tenant[KVT_TENANT_MAX + 1] = { 0 };
	uint32_t nr = kvt_get_count(b, 1);

	if (nr > KVT_TENANT_MAX)
		return kvt_fail(-EILSEQ,
				"the manifest is inconsistent: a tenant's name is too long");
	kvt_get(b, tenant, nr);
	return b->error ? b->error : kvt_prefix_root(p, tenant, true, node);
}

/* What a sequence that begins there would take of the extent, so that pieces fit together. */
static bool fills(const struct kvt_prefix *p, const struct kvt_prefix_node *parent,
		  const struct kvt_extent *extent, uint32_t nr)
{
	uint32_t hot = p->cache->layouts[KVT_HOT].tokens;

	if (extent->layout != KVT_HOT)
		return nr && nr <= kvt_layout_of(p->cache, extent)->tokens;
	return nr == hot - (parent->position + parent->nr_tokens) % hot;
}

static int load_node(struct kvt_prefix *p, struct kvt_bytes *b, struct kvt_prefix_node *parent,
		     struct kvt_extent **extents, uint32_t nr_extents,
		     struct kvt_prefix_node **node)
{
	uint32_t extent = kvt_get_u32(b), hits = kvt_get_u32(b);
	uint32_t nr = kvt_get_count(b, sizeof(uint32_t)), *tokens;
	int ret;

	if (b->error)
		return b->error;
	if (extent >= nr_extents || !fills(p, parent, extents[extent], nr))
		return kvt_fail(-EILSEQ,
				"the manifest is inconsistent: a node's tokens do not fill "
				"an extent");
	tokens = malloc(nr * sizeof(*tokens));
	if (!tokens)
		return kvt_fail(-ENOMEM, "no memory for %u tokens", nr);
	kvt_get(b, tokens, nr * sizeof(*tokens));
	ret = b->error ? b->error : kvt_prefix_add(p, parent, tokens, nr, extents[extent], node);
	free(tokens);
	if (ret)
		return ret;
	(*node)->hits = hits;
	kvt_prefix_revalue(p, *node);
	return 0;
}

static int load_all(struct kvt_prefix *p, struct kvt_bytes *b, uint32_t nr_nodes,
		    struct kvt_extent **extents, uint32_t nr, struct kvt_prefix_node **nodes)
{
	uint32_t i, parent;
	int ret = 0;

	for (i = 0; !ret && i < nr_nodes; i++) {
		parent = kvt_get_u32(b);
		if (parent == IS_ROOT)
			ret = load_root(p, b, &nodes[i]);
		else if (parent >= i)
			ret = kvt_fail(-EILSEQ, "the manifest is inconsistent: a node's parent is "
						"missing");
		else
			ret = load_node(p, b, nodes[parent], extents, nr, &nodes[i]);
	}
	return ret;
}

int kvt_prefix_load(struct kvt_prefix *p, struct kvt_bytes *b, uint32_t nr_nodes,
		    struct kvt_extent **extents, uint32_t nr)
{
	struct kvt_prefix_node **nodes;
	int ret;

	if (nr_nodes > b->nr)
		return kvt_fail(-EILSEQ, "the manifest is inconsistent: it ends too early");
	nodes = calloc(nr_nodes ? nr_nodes : 1, sizeof(struct kvt_prefix_node *));
	if (!nodes)
		return kvt_fail(-ENOMEM, "no memory for %u nodes", nr_nodes);
	pthread_mutex_lock(&p->lock);
	p->visit++;
	ret = load_all(p, b, nr_nodes, extents, nr, nodes);
	pthread_mutex_unlock(&p->lock);
	free((void *)nodes);
	if (ret)
		kvt_prefix_evict(p, UINT32_MAX);
	return ret;
}
