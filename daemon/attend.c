// SPDX-License-Identifier: MIT
/* Rings of the attention service: a client rings, gets its answer, goes away at any point. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attention.h"

#define RETRY_NS (NS_PER_MS / 2)
#define RING_FDS 2 /* a bell each way */
/* Numbers of a block in a reader's lists: wanted, coming, come, and given back twice. */
#define LISTED_BYTES (4 * sizeof(uint32_t) + sizeof(struct kvt_arrival))

/* ---- answers -------------------------------------------------------------------------------- */

static void free_ring(struct attend_ring *r)
{
	kvt_stream_destroy(r->stream);
	reader_exit(&r->reader);
	watch_stop(r->watch);
	if (r->ring)
		munmap(r->ring, r->bytes);
	if (r->bell >= 0)
		close(r->bell);
	if (r->answer >= 0)
		close(r->answer);
	tenant_give(r->tenant, r->metadata_bytes, RING_FDS);
	free(r);
}

/* What a client sees of -EAGAIN is that its daemon has gone. */
static void answer(struct attend_ring *r, uint64_t number, int error)
{
	r->ring->error = error == -EAGAIN ? -EBUSY : error;
	__atomic_store_n(&r->ring->done, number, __ATOMIC_RELEASE);
	bell_ring(r->answer);
}

static void finish(struct query *q, int error)
{
	struct attend_ring *r = q->ring;
	struct pool *p = q->pool;

	p->d->count.attend_queries += !error;
	r->query = NULL;
	if (r->a)
		answer(r, q->q.number, error);
	else
		free_ring(r);
	query_free(q);
	p->ios--;
	file_progress(p);
}

/* ---- turns ---------------------------------------------------------------------------------- */

/* What lanes want and have given back.  It takes a fifth of the loop's time, at most. */
void attend_run(struct kvtierd *d)
{
	struct attend_service *s = d->attend;
	uint64_t begun = now_ns(), spent;
	struct attend_node *n;
	struct lane **l;
	struct query *q;
	bool again = false;

	if (!s)
		return;
	for_each_running(s, n, l, q)
		again |= reader_pump(s, &q->ring->reader);
	spent = now_ns() - begun;
	s->retry_ns = 5 * spent > RETRY_NS ? 5 * spent : RETRY_NS;
	if (again)
		timer_within(d, &d->attend_timer, s->retry_ns);
}

/* A block of the pool has come, or memory has become free. */
void attend_progress(struct pool *p)
{
	struct attend_service *s = p->d->attend;
	struct attend_node *n;
	struct lane **l;
	struct query *q;

	for_each_running(s, n, l, q)
		if (q->pool == p && reader_pump(s, &q->ring->reader))
			timer_within(p->d, &p->d->attend_timer, s->retry_ns);
}

static void finish_done(struct attend_service *s)
{
	struct query *q, *next;

	for (q = lanes_done(s); q; q = next) {
		next = q->next;
		reader_pump(s, &q->ring->reader);
		finish(q, q->error);
	}
}

static void kicked(void *arg)
{
	struct attend_service *s = arg;
	eventfd_t ignored;

	eventfd_read(s->kick_fd, &ignored);
	finish_done(s);
	lanes_go(s);
	attend_run(s->d);
}

static void bell(void *arg)
{
	struct attend_ring *r = arg;
	struct attend_service *s = r->reader.pool->d->attend;
	struct query *q;
	eventfd_t ignored;
	int ret;

	read_now(r->bell, &ignored, sizeof(ignored));
	if (r->query || r->ring->query.number == r->ring->done)
		return;
	pool_activity(r->reader.pool);
	ret = query_take(r, &q);
	if (!q) {
		answer(r, r->ring->query.number, ret);
		return;
	}
	r->query = q;
	q->pool->ios++;
	if (ret) {
		finish(q, ret);
		return;
	}
	lanes_queue(s, q);
	lanes_go(s);
}

/* ---- the service ---------------------------------------------------------------------------- */

static int start(struct kvtierd *d)
{
	struct attend_service *s = d->attend ? NULL : calloc(1, sizeof(*s));
	int ret;

	if (!s)
		return d->attend ? 0 : -ENOMEM;
	s->d = d;
	s->retry_ns = RETRY_NS;
	pthread_mutex_init(&s->lock, NULL);
	s->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->watch = s->kick_fd < 0 ? NULL : watch_start(d, s->kick_fd, kicked, s);
	ret = s->watch ? lanes_start(s) : kvt_fail(-ENOMEM, "cannot start the attention service");
	if (ret) {
		lanes_stop(s);
		lanes_free(s);
		watch_stop(s->watch);
		if (s->kick_fd >= 0)
			close(s->kick_fd);
		free(s);
		return ret;
	}
	d->attend = s;
	log_line(LOG_INFO, "attention_started", "nodes=%u queries=%u threads=%u", s->nr_nodes,
		 d->config.attend_queries, d->config.attend_threads);
	return 0;
}

void attend_stop(struct kvtierd *d)
{
	struct attend_service *s = d->attend;
	struct attend_node *n;
	struct lane **l;
	struct query *q;

	if (!s)
		return;
	for_each_running(s, n, l, q)
		reader_cancel(&q->ring->reader);
	lanes_stop(s);
	finish_done(s);
	while ((q = s->waiting)) {
		lanes_forget(s, q);
		finish(q, -ECANCELED);
	}
	lanes_free(s);
	watch_stop(s->watch);
	close(s->kick_fd);
	pthread_mutex_destroy(&s->lock);
	free(s);
	d->attend = NULL;
}

/* ---- come and go ---------------------------------------------------------------------------- */

void attend_ring_free(struct attachment *a)
{
	struct attend_ring *r = a->attend;

	a->attend = NULL;
	if (!r)
		return;
	r->a = NULL;
	watch_stop(r->watch);
	r->watch = NULL;
	if (!r->query)
		free_ring(r);
	else if (lanes_forget(a->pool->d->attend, r->query))
		finish(r->query, -ECANCELED);
	else
		reader_cancel(&r->reader);
}

static int make_ring(struct attend_ring *r, int *ring_fd, int *answer_fd)
{
	int fd = memfd_create("kvtier-attend", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *ring = MAP_FAILED;

	r->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd >= 0 && r->bell >= 0 && !bell_make(&r->answer, answer_fd) &&
	    !ftruncate(fd, (off_t)r->bytes) &&
	    !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		ring = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ring == MAP_FAILED) {
		if (fd >= 0)
			close(fd);
		if (r->answer >= 0)
			close(*answer_fd);
		return kvt_fail(-ENOMEM, "cannot make a ring of queries: %s", strerror(errno));
	}
	r->ring = ring;
	*ring_fd = fd;
	return 0;
}

int attend_ring_make(struct attachment *a, uint64_t bytes, int fds[3])
{
	struct kvtierd *d = a->pool->d;
	struct attend_ring *r;
	int ret;

	if (bytes < sizeof(struct kvt_attend_ring) + 4096 || bytes > KVT_ATTEND_RING_MAX)
		return kvt_fail(-EINVAL, "a ring of queries has at most %llu bytes",
				KVT_ATTEND_RING_MAX);
	ret = start(d);
	if (ret)
		return ret;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->a = a;
	r->bytes = bytes;
	r->bell = r->answer = -1;
	r->tenant = a->client->tenant;
	/* A query is copied, and its output made twice. */
	r->metadata_bytes = sizeof(*r) + 3 * bytes + a->pool->nr_blocks * LISTED_BYTES;
	ret = tenant_take(d, r->tenant, r->metadata_bytes, RING_FDS);
	if (ret) {
		free(r);
		return ret;
	}
	reader_init(&r->reader, a->pool, d->attend->kick_fd);
	ret = make_ring(r, &fds[0], &fds[2]);
	if (!ret) {
		r->watch = watch_start(d, r->bell, bell, r);
		if (!r->watch) {
			close(fds[0]);
			close(fds[2]);
			ret = -ENOMEM;
		}
	}
	if (ret) {
		free_ring(r);
		return ret;
	}
	attend_ring_free(a);
	a->attend = r;
	fds[1] = r->bell;
	return 0;
}
