/* SPDX-License-Identifier: MIT */
/*
 * bench-decode: decode steps over the cache of a model, one place of the cache a run.
 *
 *	decode.c	options, the places, and the result as JSON
 *	decode_model.c	the cache: its blocks, what is in them, and a step over it
 *	decode_weights.c	the weights that a step reads besides
 *	decode_place.c	where the blocks are: memory, a pool, a file
 */
#ifndef DECODE_H
#define DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvtier.h>
#include <kvtier_attend.h>
#include <kvtier_stream.h>

struct options {
	const char *place;
	const char *path; /* file or folder */
	uint32_t type;
	uint32_t layers, q_heads, kv_heads, dim, tokens;
	uint32_t times; /* the cache is so many times its memory */
	uint32_t threads;
	uint32_t warm, steps;
	uint32_t ahead; /* layers named as what comes next */
	size_t block_bytes;
	size_t window_bytes;
	size_t weights_mib; /* 0: the step is its attention alone */
};

struct model {
	const struct options *o;
	struct kvt_attend *attend;
	struct kvt_attend_params params;
	size_t row; /* bytes of a token's keys; its values take as many */
	uint32_t block_tokens, layer_blocks;
	size_t layer_bytes, bytes;
	struct kvt_seq_block *tables; /* layers * layer_blocks */
	float *q, *first_q, *out;
	struct weights *weights; /* or NULL */
	uint64_t hash; /* of all outputs of the last step */
};

/* What a place needs of a step; the model calls it for one layer after the other. */
struct place {
	const char *name;
	/* The cache's memory, at which the model's tables point. */
	int (*open)(struct place *p, struct model *m);
	/* All that is in the cache has been written. */
	int (*filled)(struct place *p, struct model *m);
	int (*attend)(struct place *p, struct model *m, uint32_t layer,
		      const struct kvt_attend_seq *seq);
	/* Figures of its own, as members of a JSON object that is open. */
	void (*report)(struct place *p, struct model *m, uint32_t steps);
	void (*begin)(struct place *p, struct model *m); /* before the steps that count */
	void (*close)(struct place *p, struct model *m);

	char *base;
	struct kvt_pool *pool;
	struct kvt_stream *stream;
	struct kvtier_stats before;
	struct kvt_stream_stats stream_before;
	int fd;
	uint32_t kept; /* layers' first blocks that stay in memory */
	char *buffer;
	struct kvt_seq_block *table;
};

double now(void);
/* Print why, and end. */
__attribute__((noreturn, format(printf, 1, 2))) void die(const char *fmt, ...);

/* decode_model.c */
void model_init(struct model *m, const struct options *o);
void model_place(struct model *m, char *base);
void model_fill(struct model *m, char *base);
int model_step(struct model *m, struct place *p);
void model_exit(struct model *m);

/* decode_weights.c */
struct weights *weights_new(const struct options *o);
uint64_t weights_run(struct weights *w, uint32_t layer, const float *x);
void weights_free(struct weights *w);

/* decode_place.c */
struct place *place_named(const char *name);

#endif
