/* SPDX-License-Identifier: MIT */
/* A llama model whose keys and values are in a sequence of libkvtier. */
#ifndef DECODE_MODEL_H
#define DECODE_MODEL_H

#include <kvtier_seq.h>

#include "vocab.h"

#define CHUNK_MAX 64 /* tokens that are computed at once */

struct layer {
	float *attn_norm, *q, *k, *v, *o;
	float *ffn_norm, *gate, *up, *down;
};

struct model {
	struct gguf gguf;
	struct vocab vocab;
	uint64_t fingerprint; /* of the file */
	uint32_t dim, ffn, layers, heads, kv_heads, head_dim, rope_dims, ctx;
	float eps, rope_base;
	float *embd, *norm, *out;
	struct layer *layer;
};

void model_load(struct model *m, const char *path);
void model_free(struct model *m);

/* One that computes: a model (or its first layers), and where its attention comes from. */
struct runner {
	const struct model *model;
	uint32_t layers; /* fewer than the model's: a draft */
	struct kvt_attend *attend;
	struct kvt_seq *seq;
	uint32_t cold_blocks; /* of struct kvt_seq_query */
	float *room; /* of one chunk */
};

void runner_open(struct runner *r, const struct model *m, uint32_t layers,
		 struct kvt_attend *attend, struct kvt_seq *seq);
void runner_close(struct runner *r);

/*
 * Feed @nr tokens at the end of the sequence.  @logits: [nr][vocabulary], of all of them;
 * NULL: not wanted.
 */
void runner_feed(struct runner *r, const uint32_t *tokens, uint32_t nr, float *logits);

/* The likeliest token. */
uint32_t model_best(const struct model *m, const float *logits);

#endif
