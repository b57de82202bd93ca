// SPDX-License-Identifier: MIT
/*
 * What a node is worth, and the heap of leaves.
 *
 * Worth is hits x the cost of computing its tokens again, plus the worth of what was
 * evicted last (greedy-dual with frequency): what is not hit falls behind.  The cost
 * of a token grows with what it attends to.
 */
#include <errno.h>
#include <stdlib.h>

#include "error.h"
#include "prefix.h"

#define ATTENTION_TOKENS 8192.0 /* position at which attention costs as much as the rest */

static void put(struct kvt_prefix *p, uint32_t at, struct kvt_prefix_node *node)
{
	p->heap[at] = node;
	node->heap = at;
}

static void sift_up(struct kvt_prefix *p, uint32_t at)
{
	struct kvt_prefix_node *node = p->heap[at];

	while (at && p->heap[(at - 1) / 2]->worth > node->worth) {
		put(p, at, p->heap[(at - 1) / 2]);
		at = (at - 1) / 2;
	}
	put(p, at, node);
}

static void sift_down(struct kvt_prefix *p, uint32_t at)
{
	struct kvt_prefix_node *node = p->heap[at];
	uint32_t child;

	while ((child = 2 * at + 1) < p->nr_heap) {
		if (child + 1 < p->nr_heap && p->heap[child + 1]->worth < p->heap[child]->worth)
			child++;
		if (p->heap[child]->worth >= node->worth)
			break;
		put(p, at, p->heap[child]);
		at = child;
	}
	put(p, at, node);
}

static void settle(struct kvt_prefix *p, uint32_t at)
{
	sift_up(p, at);
	sift_down(p, at);
}

/* A node that has no children (any more) can be evicted. */
int kvt_prefix_leaf(struct kvt_prefix *p, struct kvt_prefix_node *node)
{
	struct kvt_prefix_node **heap;
	uint32_t room = p->heap_room ? 2 * p->heap_room : 64;

	if (p->nr_heap == p->heap_room) {
		heap = realloc(p->heap, (size_t)room * sizeof(struct kvt_prefix_node *));
		if (!heap)
			return kvt_fail(-ENOMEM, "no memory for %u leaves of a prefix tree", room);
		p->heap = heap;
		p->heap_room = room;
	}
	put(p, p->nr_heap++, node);
	sift_up(p, node->heap);
	return 0;
}

void kvt_prefix_unleaf(struct kvt_prefix *p, struct kvt_prefix_node *node)
{
	uint32_t at = node->heap;

	if (at == KVT_NOT_IN_HEAP)
		return;
	node->heap = KVT_NOT_IN_HEAP;
	if (at == --p->nr_heap)
		return;
	put(p, at, p->heap[p->nr_heap]);
	settle(p, at);
}

void kvt_prefix_revalue(struct kvt_prefix *p, struct kvt_prefix_node *node)
{
	double cost = node->nr_tokens * (1 + node->position / ATTENTION_TOKENS);

	node->worth = p->inflation + (1.0 + node->hits) * cost;
	if (node->heap != KVT_NOT_IN_HEAP)
		settle(p, node->heap);
}

/* The least valuable leaf, but not the one that the call at work is at: there is but one. */
static struct kvt_prefix_node *victim(const struct kvt_prefix *p)
{
	struct kvt_prefix_node *node, *best = NULL;
	uint32_t i;

	for (i = 0; i < 3 && i < p->nr_heap; i++) {
		node = p->heap[i];
		if (node->visit != p->visit && (!best || node->worth < best->worth))
			best = node;
		if (best && !i)
			break;
	}
	return best;
}

bool kvt_prefix_evict_one(struct kvt_prefix *p)
{
	struct kvt_prefix_node *node = victim(p), *parent;

	if (!node)
		return false;
	parent = node->parent->parent ? node->parent : NULL; /* a root may be gone after this */
	p->inflation = node->worth;
	kvt_prefix_unleaf(p, node);
	kvt_prefix_unlink(p, node);
	p->stats.evicted++;
	/* A slot of the heap has just become free. */
	if (parent && !parent->children)
		kvt_prefix_leaf(p, parent);
	return true;
}

uint32_t kvt_prefix_evict(struct kvt_prefix *p, uint32_t extents)
{
	uint32_t gone = 0;

	pthread_mutex_lock(&p->lock);
	p->visit++;
	while (gone < extents && kvt_prefix_evict_one(p))
		gone++;
	pthread_mutex_unlock(&p->lock);
	return gone;
}
