// SPDX-License-Identifier: MIT
/* Attention over a pool that is larger than its memory: create, destroy, attend. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "error.h"
#include "pool.h"
#include "stream.h"

uint64_t kvt_stream_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static int check_config(const struct kvt_stream_config *c)
{
	if (c->size != sizeof(*c))
		return kvt_fail(-EINVAL, "kvt_stream_config.size is %u, not %zu: start from "
					 "KVT_STREAM_CONFIG_INIT", c->size, sizeof(*c));
	if (c->flags)
		return kvt_fail(-EINVAL, "unknown flags %#x in kvt_stream_config", c->flags);
	if (!c->attend || !c->pool)
		return kvt_fail(-EINVAL, "a stream needs %s: kvt_stream_config.%s is NULL",
				c->attend ? "a pool" : "threads", c->attend ? "pool" : "attend");
	if (c->pool->pid != getpid() || c->attend->owner != getpid())
		return kvt_fail(-ECHILD, "the pool or the threads belong to the parent process");
	if (c->window_bytes && c->window_bytes < c->pool->block_bytes)
		return kvt_fail(-EINVAL, "a window of %llu bytes holds no block of %u",
				(unsigned long long)c->window_bytes, c->pool->block_bytes);
	return 0;
}

static void free_stream(struct kvt_stream *s)
{
	pthread_mutex_destroy(&s->lock);
	free(s->item_of);
	free(s);
}

int kvt_stream_create(const struct kvt_stream_config *config, struct kvt_stream **stream)
{
	struct kvt_stream *s;
	int ret = check_config(config);

	*stream = NULL;
	if (ret)
		return ret;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->attend = config->attend;
	s->pool = config->pool;
	s->nr_blocks = (uint32_t)(s->pool->bytes >> s->pool->block_shift);
	s->anchor = KVT_ITEM_NONE;
	pthread_mutex_init(&s->lock, NULL);
	s->item_of = malloc(s->nr_blocks * sizeof(*s->item_of));
	ret = s->item_of ? kvt_fetch_open(s->pool,
					  (uint32_t)(config->window_bytes >> s->pool->block_shift),
					  &s->fetch) :
			   -ENOMEM;
	if (ret) {
		free_stream(s);
		return ret;
	}
	memset(s->item_of, 0xff, s->nr_blocks * sizeof(*s->item_of));
	*stream = s;
	return 0;
}

void kvt_stream_destroy(struct kvt_stream *s)
{
	if (!s)
		return;
	if (s->pool->pid == getpid()) /* a child made by fork() has no pager */
		kvt_fetch_close(s->fetch);
	free_stream(s);
}

void kvt_stream_move(struct kvt_stream *s, struct kvt_attend *attend)
{
	pthread_mutex_lock(&s->lock);
	s->attend = attend;
	pthread_mutex_unlock(&s->lock);
}

/* ---- attend -------------------------------------------------------------- */

/* Both the plan and the run use memory of the threads. */
static int run_locked(struct kvt_stream *s, struct kvt_stream_call *c,
		      const struct kvt_attend_params *params, const struct kvt_stream_table *next,
		      uint32_t nr_next)
{
	struct kvt_work w;
	int ret = kvt_work_init(&w, s->attend, params, c->copies, c->nr_seqs);

	if (ret)
		return ret;
	kvt_call_plan(c, &w);
	ret = kvt_call_ahead(c, params, next, nr_next);
	if (!ret)
		ret = kvt_call_start(c, &w);
	if (!ret)
		ret = kvt_work_run(s->attend, &w, &c->source);
	kvt_call_drain(c);
	return ret;
}

static void count_call(struct kvt_stream *s, const struct kvt_stream_call *c)
{
	s->stats.wait_ns += c->wait_ns / kvt_team_threads(s->attend->team);
	s->stats.bytes = s->stats.streamed * s->pool->block_bytes;
}

/* What a call wants beside its sequences, and @failed: which of them had a block that is bad. */
struct request {
	struct kvt_stream *stream;
	const struct kvt_stream_table *next;
	uint32_t nr_next;
	int *failed;
};

static int attend_once(void *ctx, const struct kvt_attend_params *params,
		       const struct kvt_attend_seq *seqs, uint32_t nr)
{
	const struct request *r = ctx;
	struct kvt_stream *s = r->stream;
	struct kvt_stream_call c;
	int ret = kvt_call_init(&c, s, params, seqs, nr);

	if (ret)
		return ret;
	pthread_mutex_lock(&s->attend->lock);
	ret = run_locked(s, &c, params, r->next, r->nr_next);
	pthread_mutex_unlock(&s->attend->lock);
	if (c.error)
		ret = kvt_fail(c.error, "a block of a sequence could not be had: %s",
			       kvt_strerror(c.error));
	memcpy(r->failed, c.failed, nr * sizeof(*r->failed));
	count_call(s, &c);
	kvt_call_exit(&c);
	return ret;
}

/* With epsilon or top_k nobody knows yet what the next call will read: nothing is, ahead. */
static int attend(struct kvt_stream *s, const struct kvt_attend_params *params,
		  const struct kvt_attend_seq *seqs, uint32_t nr,
		  const struct kvt_stream_table *next, uint32_t nr_next, int *failed)
{
	struct request r = { .stream = s, .next = next, .nr_next = nr_next, .failed = failed };

	if (!kvt_attend_skips(params))
		return attend_once(&r, params, seqs, nr);
	r.nr_next = 0;
	return kvt_attend_skipping(params, seqs, nr, attend_once, &r);
}

/* Those that have not failed; which ones do now. */
static int attend_good(struct kvt_stream *s, const struct kvt_attend_params *params,
		       const struct kvt_attend_seq *seqs, uint32_t nr, int *results,
		       struct kvt_attend_seq *good, int *failed)
{
	uint32_t i, n = 0;
	int ret;

	for (i = 0; i < nr; i++)
		if (!results[i])
			good[n++] = seqs[i];
	if (!n)
		return 0;
	ret = attend(s, params, good, n, NULL, 0, failed);
	for (i = n = 0; i < nr; i++)
		if (!results[i])
			results[i] = failed[n++];
	return ret;
}

static uint32_t count_failed(const int *results, uint32_t nr)
{
	uint32_t i, n = 0;

	for (i = 0; i < nr; i++)
		n += results[i] != 0;
	return n;
}

/*
 * After a failure: attend to the sequences that it does not concern.  Each turn at least
 * one more fails, or it is of another kind and concerns all.
 */
static void attend_rest(struct kvt_stream *s, const struct kvt_attend_params *params,
			const struct kvt_attend_seq *seqs, uint32_t nr, int *results, int ret)
{
	struct kvt_attend_seq *good = calloc(nr, sizeof(*good));
	int *failed = calloc(nr, sizeof(*failed));
	uint32_t i, before = 0, now = count_failed(results, nr);

	while (ret && now > before && good && failed) {
		before = now;
		ret = attend_good(s, params, seqs, nr, results, good, failed);
		now = count_failed(results, nr);
	}
	if (!good || !failed)
		ret = -ENOMEM;
	for (i = 0; ret && i < nr; i++)
		if (!results[i])
			results[i] = ret;
	free(good);
	free(failed);
}

static int check_call(const struct kvt_stream *s, const struct kvt_stream_table *next,
		      uint32_t nr_next)
{
	uint32_t i;

	if (s->attend->owner != getpid())
		return kvt_fail(-ECHILD, "the threads of this stream belong to the parent process");
	if (s->pool->pid != getpid())
		return kvt_fail(-ECHILD, "the pool belongs to process %d, which forked this one",
				s->pool->pid);
	if (nr_next && !next)
		return kvt_fail(-EINVAL, "%u tables come next, but next is NULL", nr_next);
	for (i = 0; i < nr_next; i++)
		if (next[i].nr_blocks && !next[i].blocks)
			return kvt_fail(-EINVAL, "table %u of next: %u blocks, but blocks is NULL",
					i, next[i].nr_blocks);
	return 0;
}

int kvt_stream_attend(struct kvt_stream *s, const struct kvt_attend_params *params,
		      const struct kvt_attend_seq *seqs, uint32_t nr,
		      const struct kvt_stream_table *next, uint32_t nr_next, int *results)
{
	uint64_t start = kvt_stream_now();
	int *failed, ret;

	if (!s)
		return kvt_fail(-EINVAL, "kvt_stream_attend: stream is NULL");
	ret = kvt_attend_check(params, seqs, nr);
	if (!ret)
		ret = check_call(s, next, nr_next);
	if (ret)
		return ret;
	failed = calloc(nr, sizeof(*failed));
	if (!failed)
		return -ENOMEM;
	pthread_mutex_lock(&s->lock);
	s->stats.calls++;
	ret = attend(s, params, seqs, nr, next, nr_next, failed);
	if (results)
		memcpy(results, failed, nr * sizeof(*results));
	if (ret && results)
		attend_rest(s, params, seqs, nr, results, ret);
	s->stats.busy_ns += kvt_stream_now() - start;
	pthread_mutex_unlock(&s->lock);
	free(failed);
	return ret;
}

int kvt_stream_stats(struct kvt_stream *s, struct kvt_stream_stats *stats)
{
	uint32_t size = stats->size;

	if (size < sizeof(stats->size) || size > sizeof(*stats))
		return kvt_fail(-EINVAL, "kvt_stream_stats.size is %u; this library knows %zu",
				size, sizeof(*stats));
	pthread_mutex_lock(&s->lock);
	memcpy(stats, &s->stats, size);
	pthread_mutex_unlock(&s->lock);
	stats->size = size;
	return 0;
}
