/* SPDX-License-Identifier: MIT */
/* One query token's attention over several layers: the bytes, and who reads them. */
#ifndef BENCH_ATTEND_H
#define BENCH_ATTEND_H

#include <stddef.h>
#include <stdint.h>

#define Q_HEADS 32
#define KV_HEADS 8
#define GROUP (Q_HEADS / KV_HEADS)
#define DIM 128
#define OUT_FLOATS (Q_HEADS * DIM)

/*
 * @rows:   layer after layer, the keys of all tokens and then their values
 * @stride: bytes of a token's keys in a layer; its values take as many
 */
struct cache {
	uint32_t type;
	uint32_t tokens;
	uint32_t layers;
	size_t stride;
	size_t bytes;
	char *rows;
	float q[OUT_FLOATS];
};

int cache_init(struct cache *c, uint32_t type, uint32_t tokens, size_t bytes);
void cache_exit(struct cache *c);

static inline const char *cache_keys(const struct cache *c, uint32_t layer)
{
	return c->rows + 2 * (size_t)layer * c->tokens * c->stride;
}

static inline const char *cache_values(const struct cache *c, uint32_t layer)
{
	return cache_keys(c, layer) + (size_t)c->tokens * c->stride;
}

/* Layer 0's output in double precision, from the stored bytes. */
void cache_reference(const struct cache *c, double *out);
/* The largest difference, as a part of the largest output. */
double cache_error(const double *reference, const float *out);

double now(void);

/* Seconds that the fastest of several patterns of plain loads takes for all of it. */
double probe_read(const struct cache *c, uint32_t threads);

/* ggml's flash attention over the same bytes. */
struct peer;
/* NULL, with a line on stderr: not to be had. */
struct peer *peer_load(const char *engine);
/* Can it read this type? */
int peer_takes(uint32_t type);
/* Get ready for a cache; @out: layer 0's output of each run. */
int peer_open(struct peer *peer, const struct cache *c, uint32_t threads);
double peer_run(struct peer *peer);
void peer_output(const struct peer *peer, float *out);
void peer_close(struct peer *peer);

#endif
