// SPDX-License-Identifier: MIT
/* The keys and values that are attended to, and what must come of them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <kvtier_attend.h>

#include "attend.h"

#define HUGE_PAGE (2ul << 20)

double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* About normally distributed. */
static float noise(uint64_t *state)
{
	float sum = 0;
	int i;

	for (i = 0; i < 4; i++) {
		*state = *state * 6364136223846793005ull + 1442695040888963407ull;
		sum += (float)(*state >> 40) * 0x1p-24f - 0.5f;
	}
	return sum * 1.7320508f;
}

/* A table of distinct rows, repeated: making noise is slower than copying it. */
static void fill(struct cache *c)
{
	enum { ROWS = 4096 };
	size_t row, all = c->bytes / c->stride, made = all < ROWS ? all : ROWS;
	float in[KV_HEADS * DIM];
	uint64_t state = 1;
	int i;

	for (row = 0; row < made; row++) {
		for (i = 0; i < KV_HEADS * DIM; i++)
			in[i] = noise(&state);
		kvt_quantize(c->type, DIM, KV_HEADS, 1, in, c->rows + row * c->stride, 0);
	}
	for (; row < all; row++) /* another order each time */
		memcpy(c->rows + row * c->stride,
		       c->rows + (row * 2654435761u + row / ROWS) % ROWS * c->stride, c->stride);
	for (i = 0; i < OUT_FLOATS; i++)
		c->q[i] = noise(&state);
}

int cache_init(struct cache *c, uint32_t type, uint32_t tokens, size_t bytes)
{
	size_t layer;

	c->type = type;
	c->tokens = tokens;
	c->stride = KV_HEADS * kvt_row_bytes(type, DIM);
	layer = 2 * tokens * c->stride;
	c->layers = (uint32_t)((bytes + layer - 1) / layer);
	c->bytes = c->layers * layer;
	c->rows = aligned_alloc(HUGE_PAGE, (c->bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
	if (!c->rows)
		return -1;
	madvise(c->rows, c->bytes, MADV_HUGEPAGE);
	fill(c);
	return 0;
}

void cache_exit(struct cache *c)
{
	free(c->rows);
}

static void reference_head(const struct cache *c, const float *keys, const float *values,
			   const float *q, double *out)
{
	double m = -INFINITY, l = 0, *score = malloc(c->tokens * sizeof(*score));
	uint32_t t, i;

	if (!score)
		abort();
	for (t = 0; t < c->tokens; t++) {
		score[t] = 0;
		for (i = 0; i < DIM; i++)
			score[t] += (double)q[i] * (double)keys[(size_t)t * DIM + i];
		score[t] /= sqrt(DIM);
		m = score[t] > m ? score[t] : m;
	}
	memset(out, 0, DIM * sizeof(*out));
	for (t = 0; t < c->tokens; t++) {
		double p = exp(score[t] - m);

		l += p;
		for (i = 0; i < DIM; i++)
			out[i] += p * (double)values[(size_t)t * DIM + i];
	}
	for (i = 0; i < DIM; i++)
		out[i] /= l;
	free(score);
}

void cache_reference(const struct cache *c, double *out)
{
	size_t head_bytes = kvt_row_bytes(c->type, DIM), floats = (size_t)c->tokens * DIM;
	float *keys = malloc(2 * floats * sizeof(*keys));
	uint32_t head, g;

	if (!keys)
		abort();
	for (head = 0; head < KV_HEADS; head++) {
		kvt_dequantize(c->type, DIM, 1, c->tokens, cache_keys(c, 0) + head * head_bytes,
			       c->stride, keys);
		kvt_dequantize(c->type, DIM, 1, c->tokens, cache_values(c, 0) + head * head_bytes,
			       c->stride, keys + floats);
		for (g = 0; g < GROUP; g++)
			reference_head(c, keys, keys + floats, c->q + (head * GROUP + g) * DIM,
				       out + (head * GROUP + g) * DIM);
	}
	free(keys);
}

double cache_error(const double *reference, const float *out)
{
	double most = 0, error = 0;
	int i;

	for (i = 0; i < OUT_FLOATS; i++) {
		most = fmax(most, fabs(reference[i]));
		error = fmax(error, fabs(reference[i] - (double)out[i]));
		if (out[i] != out[i])
			return NAN;
	}
	return error / most;
}
