/* SPDX-License-Identifier: MIT */
/*
 * Sequences over a pool.
 *
 * An extent is @layout.tokens rows of keys and values for every layer.  It takes
 * one block of the pool for each group of layers.  A piece is one sequence's use of
 * an extent: which positions it stands for there, and how many of its rows.
 *
 *	sequence_cache.c	the pool's blocks: layout, free ones, taken ones
 *	sequence_extent.c	extents: made, shared, copied for a writer, given back
 *	sequence_hold.c		keep blocks in memory while rows are copied
 *	sequence.c		sequences come, fork, shrink and go
 *	sequence_append.c	reserve room, write rows, advance
 *	sequence_read.c		rows out, and where they are
 *	sequence_float.c	rows as floats
 *	sequence_compress.c	old extents in smaller types
 *	sequence_place.c	seal, demote, promote
 *	sequence_plan.c		tell kvtierd what attention reads next
 *	sequence_dedup.c	identical extents become one
 *
 * An extent that one sequence alone refers to and that is not sealed is written in
 * place; any other is copied first (kvt_extent_writable()).
 */
#ifndef KVT_SEQUENCE_H
#define KVT_SEQUENCE_H

#include <pthread.h>
#include <stdbool.h>

#include "kvtier_seq.h"

#define KVT_HOLD_MAX 32
#define KVT_ROW_ALIGN 64
#define KVT_ID_BYTES 16
#define KVT_INDEX_BUCKETS 4096 /* of the index of contents; a power of two */

/* How rows lie in a block. */
struct kvt_layout {
	uint32_t k_type, v_type;
	uint32_t k_bytes, v_bytes; /* of a row */
	uint32_t tokens; /* rows of an extent */
	uint32_t v_offset; /* from the layer's first byte */
	uint32_t layer_bytes;
};

enum kvt_layout_id { KVT_HOT, KVT_COLDER, KVT_NR_LAYOUTS };

struct kvt_extent {
	uint32_t refs; /* under kvt_cache.lock, like @sealed */
	uint8_t layout; /* enum kvt_layout_id */
	bool sealed; /* nobody writes to it any more */
	bool settled; /* ... and the pager has sealed its blocks; under kvt_cache.lock */
	uint32_t mark; /* its number in the manifest being written, from 1; else 0 */
	bool indexed; /* by its content: @hash and @next hold; under kvt_cache.lock */
	struct kvt_sketch *sketch; /* of its keys; set once, under kvt_cache.lock */
	uint64_t hash;
	struct kvt_extent *next;
	struct kvtier_slot *slots; /* that a checkpoint reserved, one a block; NULL: not yet */
	uint32_t blocks[]; /* of the pool, one a group of layers */
};

struct kvt_piece {
	struct kvt_extent *extent;
	uint32_t position; /* of the first row */
	uint32_t rows; /* that may be used: all of the extent's, unless cut */
	uint32_t span; /* positions that they stand for */
	uint32_t uses; /* how often it got attention, for policies */
	uint64_t used; /* when it did, on the sequence's clock */
	float mass; /* of attention that it got */
};

struct kvt_cache {
	struct kvt_pool *pool;
	struct kvt_geometry geometry;
	struct kvt_layout layouts[KVT_NR_LAYOUTS];
	uint32_t groups; /* blocks of an extent */
	uint8_t id[KVT_ID_BYTES]; /* random: names this cache in streams */
	bool has_nvme; /* the pool has such a tier: a block may be lost */
	struct kvt_stream *stream; /* attention reads ahead by it; NULL: none */

	pthread_mutex_t save_lock; /* before @lock; guards marks and slots of extents */
	pthread_mutex_t lock; /* guards the fields below, and refs and sealed of extents */
	uint32_t *free; /* stack of block numbers */
	uint32_t nr_free;
	uint32_t *limbo; /* blocks that could not be discarded yet */
	uint32_t nr_limbo;
	uint32_t seal_lag;
	struct kvt_extent **index; /* buckets of extents by their content */
	struct kvt_cache_stats stats;
	pthread_t planner; /* the thread that plans, once there is one */
	bool announced; /* an append has published a round */
	bool has_planner;

	uint64_t planned; /* the planner's, once there is one: signature of the plan; 0: none */
	uint32_t plan_layer; /* ... and the layer that comes next in it */
};

struct kvt_policy_state;

struct kvt_seq {
	struct kvt_cache *cache;
	struct kvt_piece *pieces; /* by position; gaps are dropped tokens */
	uint32_t nr_pieces;
	uint32_t room; /* for pieces */
	uint32_t nr_sealed; /* leading pieces that need not be looked at for sealing */
	uint64_t clock;
	struct kvt_policy_state *policy; /* NULL: nothing is ever dropped */
	uint8_t (*path)[KVT_ID_BYTES]; /* caches that it came through */
	uint32_t nr_path;
	uint32_t length[]; /* tokens of each layer */
};

/* sequence_plan.c: before and after attention to a layer. */
void kvt_seq_plan(uint32_t layer, const struct kvt_seq_query *queries, uint32_t nr);
/* An append is about to begin a step. */
void kvt_seq_announce(struct kvt_seq *seq, uint32_t layer);
void kvt_seq_planned(uint32_t layer, const struct kvt_seq_query *queries, uint32_t nr);

/* sequence_cache.c */
/* Are so many free, or may become so?  Says so before anything is taken. */
int kvt_blocks_check(struct kvt_cache *c, uint64_t nr);
int kvt_blocks_take(struct kvt_cache *c, uint32_t *blocks, uint32_t nr);
void kvt_blocks_give(struct kvt_cache *c, const uint32_t *blocks, uint32_t nr);

/* sequence_extent.c */
int kvt_extent_new(struct kvt_cache *c, enum kvt_layout_id layout, struct kvt_extent **extent);
void kvt_extent_get(struct kvt_cache *c, struct kvt_extent *extent);
void kvt_extent_put(struct kvt_cache *c, struct kvt_extent *extent);
bool kvt_extent_shared(struct kvt_cache *c, const struct kvt_extent *extent);
bool kvt_extent_writable(struct kvt_cache *c, const struct kvt_extent *extent);
int kvt_extent_copy(struct kvt_cache *c, struct kvt_extent *from, const uint32_t *rows,
		    struct kvt_extent **copy);

/* sequence_hold.c */
struct kvt_hold {
	struct kvt_cache *cache;
	const uint32_t *blocks;
	uint32_t nr;
	bool pinned[KVT_HOLD_MAX];
};
int kvt_hold(struct kvt_hold *hold, struct kvt_cache *c, const uint32_t *blocks, uint32_t nr);
void kvt_unhold(struct kvt_hold *hold);

/* sequence.c */
void kvt_cut_cold(struct kvt_seq *seq, uint32_t tokens);
int kvt_pieces_room(struct kvt_seq *seq, uint32_t nr);
struct kvt_piece *kvt_piece_at(const struct kvt_seq *seq, uint64_t position);
uint32_t kvt_piece_rows(const struct kvt_seq *seq, const struct kvt_piece *piece, uint32_t layer);

/* sequence_read.c */
int kvt_check_read(const struct kvt_seq *seq, uint32_t layer, uint64_t first, uint64_t tokens);
int kvt_gone(uint64_t token, const char *how);

/* sequence_float.c: 0 when rows of the cache can be told as floats. */
int kvt_geometry_typed(const struct kvt_geometry *g);

/* sequence_append.c */
int kvt_seq_reserve(struct kvt_seq *seq, uint32_t layer, uint32_t tokens, uint32_t *nr_before);
void kvt_seq_unreserve(struct kvt_seq *seq, uint32_t nr_before);

/* sequence_place.c */
void kvt_seq_seal_full(struct kvt_seq *seq);
int kvt_extent_seal(struct kvt_cache *c, struct kvt_extent *extent);
int kvt_extent_op(struct kvt_cache *c, const struct kvt_extent *extent, uint32_t op, uint32_t flags,
		  uint32_t group, uint32_t nr);

/* sequence_dedup.c */
void kvt_dedup_forget(struct kvt_cache *c, struct kvt_extent *extent);

/* policy.c */
void kvt_policy_enforce(struct kvt_seq *seq);
int kvt_policy_fork(const struct kvt_seq *from, struct kvt_seq *to);
void kvt_policy_free(struct kvt_seq *seq);
uint32_t kvt_policy_window(const struct kvt_seq *seq);
/* Is there a summary of dropped tokens?  And: nothing was dropped. */
bool kvt_policy_summarised(const struct kvt_seq *seq);
void kvt_policy_forget(struct kvt_seq *seq);

/* Exact rows in the cache's types: what is appended to while a layer ends in them. */
static inline bool kvt_piece_grows(const struct kvt_piece *p)
{
	return p->extent->layout == KVT_HOT && p->span == p->rows;
}

static inline const struct kvt_layout *kvt_layout_of(const struct kvt_cache *c,
						     const struct kvt_extent *extent)
{
	return &c->layouts[extent->layout];
}

static inline uint32_t kvt_group_of(const struct kvt_cache *c, uint32_t layer)
{
	return layer / c->geometry.layers_per_block;
}

static inline char *kvt_layer_addr(const struct kvt_cache *c, const struct kvt_extent *extent,
				   uint32_t layer)
{
	uint64_t block = extent->blocks[kvt_group_of(c, layer)];

	return (char *)kvt_pool_addr(c->pool) + block * kvt_pool_block_bytes(c->pool) +
	       (uint64_t)(layer % c->geometry.layers_per_block) *
		       kvt_layout_of(c, extent)->layer_bytes;
}

static inline char *kvt_k_row(const struct kvt_cache *c, const struct kvt_extent *extent,
			      uint32_t layer, uint32_t row)
{
	return kvt_layer_addr(c, extent, layer) + (uint64_t)row * kvt_layout_of(c, extent)->k_bytes;
}

static inline char *kvt_v_row(const struct kvt_cache *c, const struct kvt_extent *extent,
			      uint32_t layer, uint32_t row)
{
	const struct kvt_layout *layout = kvt_layout_of(c, extent);

	return kvt_layer_addr(c, extent, layer) + layout->v_offset +
	       (uint64_t)row * layout->v_bytes;
}

#endif
