/* SPDX-License-Identifier: MIT */
/* A pool, a cache over it and a sequence in it. */
#ifndef DECODE_STAGE_H
#define DECODE_STAGE_H

#include "model.h"
#include "options.h"

struct stage {
	struct kvt_pool *pool;
	struct kvt_cache *cache;
	struct kvt_seq *seq;
	struct kvt_stream *stream; /* where not all is in memory */
	uint64_t pool_bytes, dram_bytes;
};

/* Room for @tokens tokens of the first @layers layers; @dram: budget, 0: all of it. */
void stage_open(struct stage *s, const struct model *m, const struct options *o, uint32_t layers,
		uint32_t tokens, uint64_t dram, struct kvt_attend *attend);
void stage_policy(struct stage *s, const struct options *o);
void stage_close(struct stage *s);
/* Bytes that came from NVMe so far. */
uint64_t stage_read_bytes(const struct stage *s);
/* Bytes of keys and values that one token leaves. */
uint32_t stage_token_bytes(const struct stage *s);
uint64_t stage_block_bytes(const struct stage *s);

#endif
