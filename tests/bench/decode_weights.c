// SPDX-License-Identifier: MIT
/*
 * What a decode step reads besides the cache: the model's weights.  After each layer's
 * attention its share of them, 4 bits a weight, is multiplied with the attention's output on
 * all threads, so that a step takes as long as a model's and the disk has that time to read.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "decode.h"

#define THREADS_MAX 256
#define MIB ((size_t)1 << 20)
#define LANES 64
#define DEPTH 8 /* 2 * 8 products of at most 15 * 127 fit in 16 bits */

struct weights {
	uint8_t *bytes; /* rows of two weights a byte */
	size_t row_bytes, layer_rows;
	int8_t *low, *high; /* the vector: for the low and the high half of each byte */
	uint32_t threads;
	pthread_t thread[THREADS_MAX];
	pthread_barrier_t begin, end;

	/* Written before @begin by the thread that calls weights_run(). */
	uint32_t layer;
	bool stop;
	uint64_t sum[THREADS_MAX]; /* of a thread's rows; read after @end */
};

struct share {
	struct weights *w;
	uint32_t number;
};

/* @nr bytes' products with the vector, in 16 bits a lane for as long as they fit. */
static int32_t dot(const uint8_t *row, const int8_t *low, const int8_t *high, size_t nr)
{
	int32_t sum = 0;
	size_t at, i, j;

	for (at = 0; at < nr; at += LANES * DEPTH) {
		int16_t lanes[LANES] = { 0 };

		for (i = at; i < at + LANES * DEPTH && i < nr; i += LANES)
			for (j = 0; j < LANES; j++)
				lanes[j] = (int16_t)(lanes[j] + (row[i + j] & 15) * low[i + j] +
						     (row[i + j] >> 4) * high[i + j]);
		for (j = 0; j < LANES; j++)
			sum += lanes[j];
	}
	return sum;
}

static void multiply(struct weights *w, uint32_t number)
{
	size_t from = w->layer_rows * number / w->threads;
	size_t to = w->layer_rows * (number + 1) / w->threads;
	const uint8_t *row = w->bytes + (w->layer * w->layer_rows + from) * w->row_bytes;
	uint64_t sum = 0;

	for (; from < to; from++, row += w->row_bytes)
		sum += (uint64_t)dot(row, w->low, w->high, w->row_bytes) * (2 * from + 1);
	w->sum[number] = sum;
}

static void *work(void *arg)
{
	struct share *s = arg;
	struct weights *w = s->w;
	uint32_t number = s->number;

	free(s);
	for (;;) {
		pthread_barrier_wait(&w->begin);
		if (w->stop)
			return NULL;
		multiply(w, number);
		pthread_barrier_wait(&w->end);
	}
}

static void start_threads(struct weights *w)
{
	uint32_t i;

	pthread_barrier_init(&w->begin, NULL, w->threads);
	pthread_barrier_init(&w->end, NULL, w->threads);
	for (i = 1; i < w->threads; i++) {
		struct share *s = malloc(sizeof(*s));

		if (!s)
			die("no memory");
		*s = (struct share){ .w = w, .number = i };
		if (pthread_create(&w->thread[i], NULL, work, s))
			die("cannot start a thread");
	}
}

static void fill(uint8_t *bytes, size_t size)
{
	uint64_t *words = (uint64_t *)bytes, x = 1;
	size_t i;

	for (i = 0; i < size / sizeof(*words); i++) {
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		words[i] = x ^ (x >> 29);
	}
}

struct weights *weights_new(const struct options *o)
{
	size_t width = (size_t)o->q_heads * o->dim, bytes;
	struct weights *w = calloc(1, sizeof(*w));

	if (!w)
		die("no memory");
	w->threads = o->threads ? o->threads : (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
	if (w->threads > THREADS_MAX)
		w->threads = THREADS_MAX;
	w->row_bytes = width / 2;
	if (w->row_bytes % LANES)
		die("rows of %zu bytes: not a multiple of %d", w->row_bytes, LANES);
	w->layer_rows = o->weights_mib * MIB / o->layers / w->row_bytes;
	bytes = o->layers * w->layer_rows * w->row_bytes;
	w->bytes = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	w->low = malloc(width);
	if (w->bytes == MAP_FAILED || !w->low)
		die("no memory for %zu MiB of weights", o->weights_mib);
	w->high = w->low + w->row_bytes;
	madvise(w->bytes, bytes, MADV_HUGEPAGE);
	fill(w->bytes, bytes);
	start_threads(w);
	return w;
}

/* The layer's weights times @x, to eight bits; what comes out is a number of all of it. */
uint64_t weights_run(struct weights *w, uint32_t layer, const float *x)
{
	uint64_t sum = 0;
	uint32_t i;

	for (i = 0; i < 2 * w->row_bytes; i++) {
		float v = x[i] * 256;

		w->low[i] = (int8_t)(v > 127 ? 127 : v < -127 ? -127 : v);
	}
	w->layer = layer;
	pthread_barrier_wait(&w->begin);
	multiply(w, 0);
	pthread_barrier_wait(&w->end);
	for (i = 0; i < w->threads; i++)
		sum += w->sum[i];
	return sum;
}

void weights_free(struct weights *w)
{
	uint32_t i;

	w->stop = true;
	pthread_barrier_wait(&w->begin);
	for (i = 1; i < w->threads; i++)
		pthread_join(w->thread[i], NULL);
	pthread_barrier_destroy(&w->begin);
	pthread_barrier_destroy(&w->end);
	/* The pages go with the process: it ends now. */
	free(w->low);
	free(w);
}
