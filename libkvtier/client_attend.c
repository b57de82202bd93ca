// SPDX-License-Identifier: MIT
/* Attention that the daemon computes: a query into a ring, the answer out of it. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attend.h"
#include "client.h"
#include "error.h"

#define LOOK_MS 100

void kvt_asked_init(struct kvt_asked *asked)
{
	pthread_mutex_init(&asked->lock, NULL);
	asked->bell = asked->answer = -1;
}

static void drop_ring(struct kvt_asked *asked)
{
	if (asked->ring)
		munmap(asked->ring, asked->bytes);
	if (asked->bell >= 0)
		close(asked->bell);
	if (asked->answer >= 0)
		close(asked->answer);
	asked->ring = NULL;
	asked->bell = asked->answer = -1;
}

void kvt_asked_exit(struct kvt_asked *asked)
{
	drop_ring(asked);
	pthread_mutex_destroy(&asked->lock);
}

static uint64_t comings(struct kvt_client *c)
{
	uint64_t n;

	pthread_mutex_lock(&c->lock);
	n = c->comings;
	pthread_mutex_unlock(&c->lock);
	return n;
}

/* A ring with room for @bytes of data, of the daemon that is there now. */
static int make_ring(struct kvt_shared *s, uint64_t bytes)
{
	struct kvt_asked *asked = &s->asked;
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_ATTEND);
	struct kvt_pool_id id = { .value = sizeof(struct kvt_attend_ring) + bytes };
	int fds[KVT_MSG_FDS], ret;
	void *ring;

	drop_ring(asked);
	asked->comings = comings(s->client);
	ask.pool = s;
	ask.body = &id;
	ask.bytes = sizeof(id);
	ask.fds = fds;
	ret = kvt_client_ask(s->client, &ask);
	if (ret < 0)
		return ret;
	ring = mmap(NULL, id.value, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	ret = ring == MAP_FAILED ? -errno : 0;
	if (fds[0] >= 0)
		close(fds[0]);
	asked->bell = fds[1];
	asked->answer = fds[2];
	if (ret)
		return kvt_fail(ret, "cannot map the ring of queries: %s", strerror(-ret));
	asked->ring = ring;
	asked->bytes = id.value;
	return 0;
}

/* What kvt_attend() checks, and that all rows are in the pool. */
static int check(const struct kvt_pool *pool, const struct kvt_attend_params *p,
		 const struct kvt_attend_seq *s, uint32_t number)
{
	uint32_t i;

	for (i = 0; i < s->nr_blocks; i++) {
		const struct kvt_seq_block *b = &s->blocks[i];
		uint64_t k = (uintptr_t)b->k - (uintptr_t)pool->addr, k_bytes, v_bytes;
		uint64_t v = (uintptr_t)b->v - (uintptr_t)pool->addr;

		k_bytes = kvt_remote_rows(b->k_type, b->k_stride, b->tokens, p->kv_heads, p->k_dim);
		v_bytes = kvt_remote_rows(b->v_type, b->v_stride, b->tokens, p->kv_heads, p->v_dim);
		if (k >= pool->bytes || k_bytes > pool->bytes - k ||
		    (b->v && (v >= pool->bytes || v_bytes > pool->bytes - v)))
			return kvt_fail(-EINVAL,
					"sequence %u, block %u is not in the pool: the daemon "
					"attends to nothing else",
					number, i);
	}
	return 0;
}

static uint32_t count_bounds(const struct kvt_attend_seq *s)
{
	uint32_t i, nr = 0;

	for (i = 0; s->bounds && i < s->nr_blocks; i++)
		nr += s->bounds[i] != NULL;
	return nr;
}

static void fill_query(struct kvt_attend_query *q, const struct kvt_attend_params *p,
		       const struct kvt_attend_seq *s)
{
	bool skips = kvt_attend_skips(p);
	uint32_t nr_bounds = skips ? count_bounds(s) : 0;

	*q = (struct kvt_attend_query){
		.q_position = s->q_position,
		.flags = p->flags,
		.q_heads = p->q_heads,
		.kv_heads = p->kv_heads,
		.k_dim = p->k_dim,
		.v_dim = p->v_dim,
		.scale = p->scale,
		.softcap = p->softcap,
		.window = p->window,
		.sinks = p->sinks,
		.epsilon = p->epsilon,
		.top_k = p->top_k,
		.q_tokens = s->q_tokens,
		.nr_blocks = s->nr_blocks,
		.nr_bounds = nr_bounds,
		.mask_heads = s->mask && s->mask_stride ? p->kv_heads : 0,
		.asks = (s->mask ? KVT_ASKS_MASK : 0) | (p->sink_logits ? KVT_ASKS_SINKS : 0) |
			(nr_bounds ? KVT_ASKS_BOUNDS : 0) | (s->mass ? KVT_ASKS_MASS : 0) |
			(skips && s->skipped ? KVT_ASKS_SKIPPED : 0),
	};
}

static void put_blocks(const struct kvt_pool *pool, const struct kvt_attend_seq *s,
		       struct kvt_remote_block *to)
{
	uint32_t i;

	for (i = 0; i < s->nr_blocks; i++) {
		const struct kvt_seq_block *b = &s->blocks[i];

		to[i] = (struct kvt_remote_block){
			.k_offset = (uintptr_t)b->k - (uintptr_t)pool->addr,
			.v_offset = b->v ? (uintptr_t)b->v - (uintptr_t)pool->addr : UINT64_MAX,
			.position = b->position, .tokens = b->tokens, .span = b->span,
			.k_type = b->k_type, .v_type = b->v_type,
			.k_stride = b->k_stride, .v_stride = b->v_stride,
		};
	}
}

/* Which blocks have bounds, and those. */
static void put_bounds(const struct kvt_attend_query *q, const struct kvt_attend_seq *s, char *bits,
		       char *to)
{
	uint32_t i;

	memset(bits, 0, (q->nr_blocks + 7) / 8);
	for (i = 0; i < q->nr_blocks; i++) {
		if (!s->bounds[i])
			continue;
		bits[i / 8] |= (char)(1 << i % 8);
		memcpy(to, s->bounds[i], kvt_bounds_bytes(q));
		to += kvt_bounds_bytes(q);
	}
}

static void copy_rows(char *to, size_t to_stride, const char *from, size_t from_stride, size_t row,
		      uint32_t rows)
{
	uint32_t i;

	for (i = 0; i < rows; i++)
		memcpy(to + i * (to_stride ? to_stride : row),
		       from + i * (from_stride ? from_stride : row), row);
}

static int explain(int error)
{
	if (!error)
		return 0;
	if (error == -E2BIG)
		return kvt_fail(error,
				"the daemon refuses a query of which it would have to remember so "
				"much: fewer query tokens or blocks, or rows that overlap less");
	if (error == -ENOSPC)
		return kvt_fail(error,
				"rows of one block of the table are more than the pool's memory "
				"holds at once: give it more, or cut the table's blocks");
	return kvt_fail(error, "the daemon could not compute: %s", kvt_strerror(error));
}

/* Until the daemon has answered, or went away (-EAGAIN: ask the next one). */
static int wait_for_answer(struct kvt_shared *s, uint64_t number)
{
	struct kvt_asked *asked = &s->asked;
	struct pollfd p = { .fd = asked->answer, .events = POLLIN };
	char ignored[64];

	while (__atomic_load_n(&asked->ring->done, __ATOMIC_ACQUIRE) != number) {
		if (poll(&p, 1, LOOK_MS) > 0 && read(asked->answer, ignored, sizeof(ignored)) < 0 &&
		    errno != EAGAIN)
			return kvt_fail(-errno, "the daemon's bell: %s", strerror(errno));
		if (asked->comings != comings(s->client))
			return -EAGAIN;
	}
	return explain(asked->ring->error);
}

static void put_query(char *data, const struct kvt_attend_query *q, const struct kvt_pool *pool,
		      const struct kvt_attend_params *p, const struct kvt_attend_seq *s)
{
	struct kvt_attend_places at = kvt_attend_places(q);

	put_blocks(pool, s, (void *)data);
	copy_rows(data + at.q, 0, (const char *)s->q, s->q_stride,
		  (size_t)q->q_heads * q->k_dim * sizeof(float), q->q_tokens);
	if (q->asks & KVT_ASKS_MASK)
		copy_rows(data + at.mask, 0, (const char *)s->mask, s->mask_stride,
			  ((size_t)q->nr_blocks + 7) / 8, q->mask_heads ? q->mask_heads : 1);
	if (q->asks & KVT_ASKS_SINKS)
		memcpy(data + at.sinks, p->sink_logits, q->q_heads * sizeof(float));
	if (q->asks & KVT_ASKS_BOUNDS)
		put_bounds(q, s, data + at.has_bounds, data + at.bounds);
}

static void take_answer(const char *data, const struct kvt_attend_query *q,
			const struct kvt_attend_seq *s)
{
	struct kvt_attend_places at = kvt_attend_places(q);
	size_t row = (size_t)q->q_heads * q->v_dim * (q->flags & KVT_OUT_BF16 ? 2 : 4);

	copy_rows(s->out, s->out_stride, data + at.out, 0, row, q->q_tokens);
	if (s->lse)
		memcpy(s->lse, data + at.lse, (size_t)q->q_tokens * q->q_heads * sizeof(float));
	if (s->mass)
		memcpy(s->mass, data + at.mass, q->nr_blocks * sizeof(float));
	if (q->asks & KVT_ASKS_SKIPPED)
		memcpy(s->skipped, data + at.skipped, sizeof(*s->skipped));
}

static int ask_once(struct kvt_shared *s, const struct kvt_attend_params *p,
		    const struct kvt_attend_seq *seq)
{
	struct kvt_asked *asked = &s->asked;
	struct kvt_attend_query q;
	uint64_t bytes;
	int ret = 0;

	fill_query(&q, p, seq);
	bytes = kvt_attend_places(&q).bytes;
	if (bytes > KVT_ATTEND_RING_MAX - sizeof(*asked->ring))
		return kvt_fail(-E2BIG,
				"a query of %llu MiB: the daemon takes %llu; give bounds to "
				"fewer blocks, or fewer query tokens",
				(unsigned long long)bytes >> 20, KVT_ATTEND_RING_MAX >> 20);
	if (!asked->ring || asked->bytes < sizeof(*asked->ring) + bytes ||
	    asked->comings != comings(s->client))
		ret = make_ring(s, bytes < 65536 ? 65536 : bytes);
	if (ret)
		return ret;
	put_query(asked->ring->data, &q, &s->kernel.pool, p, seq);
	q.number = asked->ring->query.number + 1;
	asked->ring->query = q;
	eventfd_write(asked->bell, 1);
	ret = wait_for_answer(s, q.number);
	if (!ret)
		take_answer(asked->ring->data, &q, seq);
	return ret;
}

int kvt_shared_attend(struct kvt_pool *pool, const struct kvt_attend_params *params,
		      const struct kvt_attend_seq *seqs, uint32_t nr)
{
	struct kvt_shared *s = kvt_shared_of(pool);
	uint32_t i;
	int ret;

	if (!kvt_is_shared(pool))
		return kvt_fail(-EOPNOTSUPP, "the pool is this process's own: use kvt_attend()");
	ret = kvt_attend_check(params, seqs, nr);
	if (!ret && params->epsilon > 0 && params->top_k)
		ret = kvt_fail(-EINVAL, "epsilon and top_k: choose one");
	for (i = 0; i < nr && !ret; i++)
		ret = check(pool, params, &seqs[i], i);
	pthread_mutex_lock(&s->asked.lock);
	for (i = 0; i < nr && !ret; i++) {
		do
			ret = s->dead ? kvt_fail(-ECONNRESET, "pool %s was lost with its daemon",
						 s->name) :
					ask_once(s, params, &seqs[i]);
		while (ret == -EAGAIN);
	}
	pthread_mutex_unlock(&s->asked.lock);
	return ret;
}
