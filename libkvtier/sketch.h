/* SPDX-License-Identifier: MIT */
/*
 * Low-rank sketches of keys, kept in DRAM: what a block's scores would be, without
 * reading it.  For each layer and head of an extent
 *
 *	key of row t  ~  mean + sum over i of weight[t][i] x basis[i]
 *
 * with a few orthonormal directions found by power iteration.
 */
#ifndef KVT_SKETCH_H
#define KVT_SKETCH_H

#include "kvtier_attend.h"
#include "sequence.h"

#define KVT_SKETCH_RANK_MAX 16

struct kvt_sketch {
	uint32_t rank;
	uint32_t rows;
	float data[]; /* layer, head: mean [k_dim], basis [rank][k_dim], weights [rows][rank] */
};

/* Clear the bytes of blocks in @wanted that are on NVMe and not among the most promising. */
int kvt_sketch_select(const struct kvt_seq *seq, const struct kvt_attend_params *params,
		      uint32_t layer, const struct kvt_seq_query *query,
		      const struct kvt_seq_block *blocks, uint32_t nr, uint8_t *wanted);

#endif
