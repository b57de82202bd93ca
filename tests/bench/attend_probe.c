// SPDX-License-Identifier: MIT
/* How fast plain loads read a buffer, with threads pinned as those of attention are. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "attend.h"

#define LINE 64
#define THREADS_MAX 256

typedef uint64_t line __attribute__((vector_size(LINE), may_alias));

/* One stream. */
static void read_plain(const line *at, size_t nr, line *sum)
{
	size_t i;

	for (i = 0; i < nr; i++)
		*sum ^= at[i];
}

/* One stream, with lines asked for ahead. */
static void read_ahead(const line *at, size_t nr, line *sum)
{
	size_t i;

	for (i = 0; i < nr; i++) {
		__builtin_prefetch((const char *)&at[i] + (16 << 10), 0, 2);
		*sum ^= at[i];
	}
}

/* Four streams. */
static void read_streams(const line *at, size_t nr, line *sum)
{
	size_t i, quarter = nr / 4;

	for (i = 0; i < quarter; i++)
		*sum ^= at[i] ^ at[quarter + i] ^ at[2 * quarter + i] ^ at[3 * quarter + i];
}

/* A piece at a time: fetched into the cache, and then read. */
static void read_pieces(const line *at, size_t nr, line *sum)
{
	enum { PIECE = 1024 };
	size_t i, j;

	for (i = 0; i + PIECE <= nr; i += PIECE) {
		for (j = 0; j < PIECE; j++)
			__builtin_prefetch(&at[i + j], 0, 2);
		read_plain(at + i, PIECE, sum);
	}
}

static void (*const patterns[])(const line *at, size_t nr, line *sum) = {
	read_plain, read_ahead, read_streams, read_pieces,
};

/* What the threads share: they take chunks as attention takes leaves. */
struct probe {
	const struct cache *c;
	unsigned int pattern;
	atomic_size_t next;
	atomic_ullong sink;
	pthread_barrier_t ready;
};

#define CHUNK (1ul << 20)

static void *read_chunks(void *arg)
{
	struct probe *p = arg;
	line sum = { 0 };
	size_t at;

	pthread_barrier_wait(&p->ready);
	while ((at = atomic_fetch_add(&p->next, CHUNK)) + CHUNK <= p->c->bytes)
		patterns[p->pattern]((const line *)(const void *)(p->c->rows + at), CHUNK / LINE,
				     &sum);
	atomic_fetch_add(&p->sink, sum[0] ^ sum[7]);
	return NULL;
}

static void pin(pthread_t thread, uint32_t number)
{
	cpu_set_t all, one;
	int cpu;

	if (sched_getaffinity(0, sizeof(all), &all))
		return;
	number %= (uint32_t)CPU_COUNT(&all);
	for (cpu = 0; number || !CPU_ISSET(cpu, &all); cpu++)
		number -= CPU_ISSET(cpu, &all) != 0;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	pthread_setaffinity_np(thread, sizeof(one), &one);
}

static double probe_once(const struct cache *c, uint32_t threads, unsigned int pattern)
{
	struct probe p = { .c = c, .pattern = pattern };
	pthread_t thread[THREADS_MAX];
	double start;
	uint32_t i;

	pthread_barrier_init(&p.ready, NULL, threads + 1);
	for (i = 0; i < threads; i++) {
		if (pthread_create(&thread[i], NULL, read_chunks, &p))
			abort();
		if (threads > 1)
			pin(thread[i], i);
	}
	start = now();
	pthread_barrier_wait(&p.ready);
	for (i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	start = now() - start;
	pthread_barrier_destroy(&p.ready);
	return start;
}

double probe_read(const struct cache *c, uint32_t threads)
{
	double best = 1e9, seconds;
	unsigned int i;

	for (i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
		seconds = probe_once(c, threads < THREADS_MAX ? threads : THREADS_MAX, i);
		best = seconds < best ? seconds : best;
	}
	return best;
}
