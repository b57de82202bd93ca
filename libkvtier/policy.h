/* SPDX-License-Identifier: MIT */
/*
 * Bounded sequences.  Whole pieces go, those of all layers together.
 *
 *	policy.c		which pieces may go, and which goes next
 *	policy_merge.c		two neighbours become one of averaged rows
 *	policy_summary.c	a fixed-size memory of all that was dropped
 */
#ifndef KVT_POLICY_H
#define KVT_POLICY_H

#include "sequence.h"

struct kvt_summary {
	uint64_t tokens; /* that it holds */
	float *memory; /* layer, head, k_dim, v_dim: sum of phi(key) x value */
	float *norm; /* layer, head, k_dim: sum of phi(key) */
	float *keys; /* layer, head, k_dim: sum of keys */
};

struct kvt_policy_state {
	struct kvt_policy policy;
	struct kvt_summary *summary; /* NULL: not wanted */
	uint64_t compressed; /* up to here there is nothing to compress */
};

/* @tokens: that all layers have. */
bool kvt_piece_droppable(const struct kvt_seq *seq, const struct kvt_piece *p, uint64_t tokens);
void kvt_piece_remove(struct kvt_seq *seq, struct kvt_piece *p);
/* What a piece is worth keeping for: the least goes first. */
double kvt_piece_worth(const struct kvt_seq *seq, const struct kvt_piece *p);

/* 1 merged, 0 there is no pair to merge, or a negative errno. */
int kvt_policy_merge(struct kvt_seq *seq);

int kvt_summary_new(const struct kvt_geometry *g, struct kvt_summary **summary);
int kvt_summary_copy(const struct kvt_geometry *g, const struct kvt_summary *from,
		     struct kvt_summary **to);
void kvt_summary_free(struct kvt_summary *summary);
void kvt_summary_clear(const struct kvt_geometry *g, struct kvt_summary *summary);
int kvt_summary_add(struct kvt_seq *seq, const struct kvt_piece *p);

#endif
