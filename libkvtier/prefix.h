/* SPDX-License-Identifier: MIT */
/*
 * A tree of prefixes.
 *
 * A node is one extent and its tokens; its ancestors are what comes before it.  Each
 * tenant has a root of its own.  The children of a node are in the order of their tokens,
 * so that those that share most with a prompt are neighbours of its place: it does not
 * matter how many begin alike, and the longest match may end inside a node.  Only leaves
 * are evicted: they are in a heap, the least valuable on top.
 *
 *	prefix.c	find, insert, match
 *	prefix_evict.c	what a node is worth, and the heap of leaves
 *	prefix_save.c	to and from a manifest
 */
#ifndef KVT_PREFIX_H
#define KVT_PREFIX_H

#include "sequence.h"

#define KVT_NOT_IN_HEAP UINT32_MAX

struct kvt_prefix_node {
	struct kvt_prefix_node *parent; /* NULL: a tenant's root */
	struct kvt_prefix_node *next, *prev; /* of all nodes, parents first; of a root: next root */
	struct kvt_prefix_node **child; /* in the order of their tokens */
	struct kvt_extent *extent;
	char *tenant; /* of a root only */
	uint32_t position; /* of its first token */
	uint32_t nr_tokens;
	uint32_t children;
	uint32_t room; /* for children */
	uint32_t hits;
	uint32_t heap; /* index among the leaves, or KVT_NOT_IN_HEAP */
	uint32_t mark; /* number in the manifest being written */
	uint64_t visit; /* number of the call that came by last */
	double worth;
	uint32_t tokens[];
};

struct kvt_prefix {
	struct kvt_cache *cache;
	uint32_t max_extents;

	pthread_mutex_t lock; /* before kvt_cache.lock; guards the fields below */
	struct kvt_prefix_node *roots;
	struct kvt_prefix_node *first, *last; /* of all nodes but roots, the oldest first */
	struct kvt_prefix_node **heap;
	uint32_t nr_heap;
	uint32_t heap_room;
	double inflation; /* worth of the last node evicted: ages those that stay */
	uint64_t visit;
	struct kvt_prefix_stats stats;
};

/* prefix.c */
/* Of @tenant; NULL in @*root: there is none, and @make is false. */
int kvt_prefix_root(struct kvt_prefix *p, const char *tenant, bool make,
		    struct kvt_prefix_node **root);
int kvt_prefix_add(struct kvt_prefix *p, struct kvt_prefix_node *parent, const uint32_t *tokens,
		   uint32_t nr, struct kvt_extent *extent, struct kvt_prefix_node **node);
void kvt_prefix_unlink(struct kvt_prefix *p, struct kvt_prefix_node *node);

/* prefix_evict.c */
int kvt_prefix_leaf(struct kvt_prefix *p, struct kvt_prefix_node *node);
void kvt_prefix_unleaf(struct kvt_prefix *p, struct kvt_prefix_node *node);
void kvt_prefix_revalue(struct kvt_prefix *p, struct kvt_prefix_node *node);
bool kvt_prefix_evict_one(struct kvt_prefix *p);

#endif
