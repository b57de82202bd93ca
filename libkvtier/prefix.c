// SPDX-License-Identifier: MIT
/* The tree itself: find, insert, match. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "prefix.h"

int kvt_prefix_create(struct kvt_cache *cache, const struct kvt_prefix_config *config,
		      struct kvt_prefix **prefix)
{
	struct kvt_prefix *p;

	*prefix = NULL;
	if (config->size != sizeof(*config))
		return kvt_fail(-EINVAL, "kvt_prefix_config.size is %u; this library knows %zu: "
					 "start from KVT_PREFIX_CONFIG_INIT", config->size,
				sizeof(*config));
	p = calloc(1, sizeof(*p));
	if (!p)
		return kvt_fail(-ENOMEM, "no memory for a prefix tree");
	p->cache = cache;
	p->max_extents = config->max_extents ? config->max_extents : UINT32_MAX;
	pthread_mutex_init(&p->lock, NULL);
	*prefix = p;
	return 0;
}

static void free_root(struct kvt_prefix_node *root)
{
	free((void *)root->child);
	free(root->tenant);
	free(root);
}

void kvt_prefix_destroy(struct kvt_prefix *p)
{
	struct kvt_prefix_node *node;

	if (!p)
		return;
	kvt_prefix_evict(p, UINT32_MAX);
	while (p->roots) {
		node = p->roots;
		p->roots = node->next;
		free_root(node);
	}
	pthread_mutex_destroy(&p->lock);
	free((void *)p->heap);
	free(p);
}

int kvt_prefix_root(struct kvt_prefix *p, const char *tenant, bool make,
		    struct kvt_prefix_node **root)
{
	struct kvt_prefix_node *node;

	tenant = tenant ? tenant : "";
	if (strlen(tenant) > KVT_TENANT_MAX)
		return kvt_fail(-EINVAL, "a tenant's name has at most %d bytes, not %zu",
				KVT_TENANT_MAX, strlen(tenant));
	for (node = p->roots; node; node = node->next)
		if (!strcmp(node->tenant, tenant))
			break;
	if (!node && make) {
		node = calloc(1, sizeof(*node));
		if (node)
			node->tenant = strdup(tenant);
		if (!node || !node->tenant) {
			free(node);
			return kvt_fail(-ENOMEM, "no memory for a tenant");
		}
		node->heap = KVT_NOT_IN_HEAP;
		node->next = p->roots;
		p->roots = node;
	}
	if (node)
		node->visit = p->visit; /* it stays while this call is at it */
	*root = node;
	return 0;
}

static uint32_t common(const struct kvt_prefix_node *node, const uint32_t *tokens, uint32_t nr)
{
	uint32_t n = 0;

	while (n < node->nr_tokens && n < nr && node->tokens[n] == tokens[n])
		n++;
	return n;
}

/* Of two that begin alike the shorter comes first. */
static int compare(const struct kvt_prefix_node *node, const uint32_t *tokens, uint32_t nr)
{
	uint32_t n = common(node, tokens, nr);

	if (n < node->nr_tokens && n < nr)
		return node->tokens[n] < tokens[n] ? -1 : 1;
	return node->nr_tokens < nr ? -1 : node->nr_tokens > nr;
}

/* How many children come before @tokens. */
static uint32_t place_of(const struct kvt_prefix_node *parent, const uint32_t *tokens, uint32_t nr)
{
	uint32_t low = 0, high = parent->children;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (compare(parent->child[middle], tokens, nr) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The child that shares the most tokens, *@found of them; NULL: none shares any. */
static struct kvt_prefix_node *best_child(const struct kvt_prefix_node *parent,
					  const uint32_t *tokens, uint32_t nr, uint32_t *found)
{
	uint32_t at = place_of(parent, tokens, nr), i, n;
	struct kvt_prefix_node *best = NULL;

	*found = 0;
	for (i = at ? at - 1 : 0; i <= at && i < parent->children; i++) {
		n = common(parent->child[i], tokens, nr);
		if (n <= *found)
			continue;
		*found = n;
		best = parent->child[i];
	}
	if (!best || best->nr_tokens == *found)
		return best;
	/* One that ends there comes before those that go on; the match may go on from it. */
	at = place_of(parent, tokens, *found);
	return parent->child[at]->nr_tokens == *found ? parent->child[at] : best;
}

static int child_room(struct kvt_prefix_node *parent)
{
	uint32_t room = parent->room ? 2 * parent->room : 1;
	struct kvt_prefix_node **child;

	if (parent->children < parent->room)
		return 0;
	child = realloc((void *)parent->child, (size_t)room * sizeof(struct kvt_prefix_node *));
	if (!child)
		return kvt_fail(-ENOMEM, "no memory for a node of a prefix tree");
	parent->child = child;
	parent->room = room;
	return 0;
}

static void link_node(struct kvt_prefix *p, struct kvt_prefix_node *node)
{
	struct kvt_prefix_node *parent = node->parent;
	uint32_t at = place_of(parent, node->tokens, node->nr_tokens);

	memmove((void *)&parent->child[at + 1], (void *)&parent->child[at],
		(parent->children++ - at) * sizeof(struct kvt_prefix_node *));
	parent->child[at] = node;
	node->prev = p->last;
	*(p->last ? &p->last->next : &p->first) = node;
	p->last = node;
	p->stats.extents++;
}

static void unlink_node(struct kvt_prefix *p, struct kvt_prefix_node *node)
{
	struct kvt_prefix_node *parent = node->parent;
	uint32_t at = place_of(parent, node->tokens, node->nr_tokens);

	while (parent->child[at] != node)
		at++;
	memmove((void *)&parent->child[at], (void *)&parent->child[at + 1],
		(--parent->children - at) * sizeof(struct kvt_prefix_node *));
	*(node->prev ? &node->prev->next : &p->first) = node->next;
	*(node->next ? &node->next->prev : &p->last) = node->prev;
	p->stats.extents--;
}

int kvt_prefix_add(struct kvt_prefix *p, struct kvt_prefix_node *parent, const uint32_t *tokens,
		   uint32_t nr, struct kvt_extent *extent, struct kvt_prefix_node **added)
{
	struct kvt_prefix_node *node = calloc(1, sizeof(*node) + nr * sizeof(node->tokens[0]));
	int ret;

	if (!node)
		return kvt_fail(-ENOMEM, "no memory for a node of a prefix tree");
	node->parent = parent;
	node->extent = extent;
	node->position = parent->position + parent->nr_tokens;
	node->nr_tokens = nr;
	node->heap = KVT_NOT_IN_HEAP;
	node->visit = p->visit;
	memcpy(node->tokens, tokens, nr * sizeof(*tokens));
	kvt_prefix_revalue(p, node);
	ret = child_room(parent);
	if (!ret)
		ret = kvt_prefix_leaf(p, node);
	if (ret) {
		free(node);
		return ret;
	}
	link_node(p, node);
	kvt_prefix_unleaf(p, parent);
	kvt_extent_get(p->cache, extent);
	*added = node;
	return 0;
}

/* A tenant of whom nothing is left is forgotten. */
static void drop_root(struct kvt_prefix *p, struct kvt_prefix_node *root)
{
	struct kvt_prefix_node **link = &p->roots;

	if (root->parent || root->children)
		return;
	while (*link != root)
		link = &(*link)->next;
	*link = root->next;
	free_root(root);
}

void kvt_prefix_unlink(struct kvt_prefix *p, struct kvt_prefix_node *node)
{
	unlink_node(p, node);
	kvt_extent_put(p->cache, node->extent);
	if (node->parent->visit != p->visit) /* the call at work drops its own */
		drop_root(p, node->parent);
	free((void *)node->child);
	free(node);
}

static void visit(struct kvt_prefix *p, struct kvt_prefix_node *node, bool hit)
{
	node->visit = p->visit;
	node->hits += hit;
	kvt_prefix_revalue(p, node);
}

/* The piece of @seq that a node at @position could be made of; NULL: none, or not full. */
static const struct kvt_piece *full_piece(const struct kvt_seq *seq, uint32_t position,
					  uint32_t nr)
{
	const struct kvt_piece *piece = kvt_piece_at(seq, position);

	if (!piece || piece->position != position || piece->span != piece->rows ||
	    position + (uint64_t)piece->rows > nr)
		return NULL;
	return piece;
}

static int insert(struct kvt_prefix *p, struct kvt_prefix_node *node, const uint32_t *tokens,
		  uint32_t nr, const struct kvt_seq *seq)
{
	const struct kvt_piece *piece;
	struct kvt_prefix_node *child;
	uint32_t position = 0, found;
	int ret, added = 0;

	while ((piece = full_piece(seq, position, nr))) {
		child = best_child(node, tokens + position, nr - position, &found);
		if (!child || found < child->nr_tokens) {
			while (p->stats.extents >= p->max_extents)
				if (!kvt_prefix_evict_one(p))
					return added;
			ret = kvt_prefix_add(p, node, tokens + position, piece->rows,
					     piece->extent, &child);
			if (ret)
				return ret;
			added++;
		}
		visit(p, child, false);
		position += child->nr_tokens;
		node = child;
	}
	return added;
}

static bool has_start(const struct kvt_seq *seq)
{
	return seq->nr_pieces && !seq->pieces[0].position &&
	       seq->pieces[0].span == seq->pieces[0].rows;
}

int kvt_prefix_insert(struct kvt_prefix *p, const char *tenant, const uint32_t *tokens,
		      uint32_t nr, const struct kvt_seq *seq)
{
	struct kvt_prefix_node *root = NULL;
	int ret;

	if (seq->cache != p->cache)
		return kvt_fail(-EINVAL, "the sequence is in another cache than the prefix tree");
	if (nr > kvt_seq_tokens(seq))
		return kvt_fail(-EINVAL, "%u tokens to insert; the sequence has %llu", nr,
				(unsigned long long)kvt_seq_tokens(seq));
	if (nr && !has_start(seq))
		return kvt_fail(-ENODATA, "the sequence's first tokens were dropped or merged: no "
					  "prefix is left to share");
	pthread_mutex_lock(&p->lock);
	p->visit++;
	ret = kvt_prefix_root(p, tenant, true, &root);
	if (!ret)
		ret = insert(p, root, tokens, nr, seq);
	if (root)
		drop_root(p, root);
	pthread_mutex_unlock(&p->lock);
	return ret;
}

static int take(struct kvt_seq *seq, const struct kvt_prefix_node *node)
{
	uint32_t tokens = seq->cache->layouts[KVT_HOT].tokens;
	uint32_t rows = node->nr_tokens;
	int ret = kvt_pieces_room(seq, seq->nr_pieces + 1);

	if (ret)
		return ret;
	if (node->extent->layout == KVT_HOT)
		rows = tokens - node->position % tokens;
	kvt_extent_get(seq->cache, node->extent);
	seq->pieces[seq->nr_pieces++] = (struct kvt_piece){
		.extent = node->extent, .position = node->position, .rows = rows, .span = rows
	};
	return 0;
}

static int64_t match(struct kvt_prefix *p, struct kvt_prefix_node *node, const uint32_t *tokens,
		     uint32_t nr, struct kvt_seq *seq)
{
	uint32_t position = 0, found;
	int ret;

	do {
		node = best_child(node, tokens + position, nr - position, &found);
		if (!node)
			break;
		ret = take(seq, node);
		if (ret)
			return ret;
		visit(p, node, true);
		position += found;
	} while (found == node->nr_tokens && position < nr);
	return position;
}

static void count(struct kvt_prefix *p, uint32_t asked, int64_t found)
{
	p->stats.lookups++;
	p->stats.hits += found == asked;
	p->stats.partial_hits += found && found < asked;
	p->stats.tokens_asked += asked;
	p->stats.tokens_found += (uint64_t)found;
}

int64_t kvt_prefix_match(struct kvt_prefix *p, const char *tenant, const uint32_t *tokens,
			 uint32_t nr, struct kvt_seq **seq)
{
	struct kvt_prefix_node *root;
	struct kvt_seq *s;
	uint32_t layer;
	int64_t ret = kvt_seq_create(p->cache, &s);

	*seq = NULL;
	if (ret)
		return ret;
	pthread_mutex_lock(&p->lock);
	p->visit++;
	ret = kvt_prefix_root(p, tenant, false, &root);
	if (!ret && root)
		ret = match(p, root, tokens, nr, s);
	if (ret >= 0)
		count(p, nr, ret);
	pthread_mutex_unlock(&p->lock);
	if (ret < 0) {
		kvt_seq_destroy(s);
		return ret;
	}
	for (layer = 0; layer < p->cache->geometry.layers; layer++)
		s->length[layer] = (uint32_t)ret;
	kvt_cut_cold(s, (uint32_t)ret);
	*seq = s;
	return ret;
}

void kvt_prefix_stats(struct kvt_prefix *p, struct kvt_prefix_stats *stats)
{
	pthread_mutex_lock(&p->lock);
	*stats = p->stats;
	pthread_mutex_unlock(&p->lock);
}
