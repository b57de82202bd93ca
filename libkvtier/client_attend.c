// SPDX-License-Identifier: MIT
/* Attention that the daemon computes: a query into a ring, the answer out of it. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

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

static int check(const struct kvt_attend_params *p, const struct kvt_attend_seq *s)
{
	if (p->size != sizeof(*p) || s->size != sizeof(*s))
		return kvt_fail(-EINVAL, "size is not that of the struct: start from the INIT macros");
	if (p->epsilon != 0 || p->top_k || p->sink_logits || p->flags & ~KVT_CAUSAL ||
	    (s->mask && s->mask_stride) || s->mass)
		return kvt_fail(-EOPNOTSUPP, "the daemon serves neither epsilon, top_k, sink_logits, bf16 "
					     "output, masks of single heads nor mass: use kvt_attend()");
	if (!s->q_tokens || s->q_tokens > KVT_QUERY_MAX || !p->q_heads || p->q_heads > KVT_HEADS_MAX ||
	    p->k_dim > KVT_DIM_MAX || p->v_dim > KVT_DIM_MAX)
		return kvt_fail(-EINVAL, "a query has 1 to %d tokens, 1 to %d heads and at most %d "
					 "elements a head", KVT_QUERY_MAX, KVT_HEADS_MAX, KVT_DIM_MAX);
	return 0;
}

/* What a mask leaves out is not sent: all heads share it. */
static bool is_wanted(const struct kvt_attend_seq *s, uint32_t block)
{
	return !s->mask || s->mask[block / 8] >> block % 8 & 1;
}

static uint32_t wanted_blocks(const struct kvt_attend_seq *s)
{
	uint32_t i, nr = 0;

	for (i = 0; i < s->nr_blocks; i++)
		nr += is_wanted(s, i);
	return nr;
}

static void fill_query(struct kvt_attend_query *q, const struct kvt_attend_params *p,
		       const struct kvt_attend_seq *s)
{
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
		.q_tokens = s->q_tokens,
		.nr_blocks = wanted_blocks(s),
	};
}

static int put_blocks(struct kvt_pool *pool, const struct kvt_attend_seq *s,
		      struct kvt_remote_block *to)
{
	uint32_t i;

	for (i = 0; i < s->nr_blocks; i++) {
		const struct kvt_seq_block *b = &s->blocks[i];
		uint64_t k = (uintptr_t)b->k - (uintptr_t)pool->addr;
		uint64_t v = b->v ? (uintptr_t)b->v - (uintptr_t)pool->addr : UINT64_MAX;

		if (!is_wanted(s, i))
			continue;
		if (k >= pool->bytes || (b->v && v >= pool->bytes))
			return kvt_fail(-EINVAL, "block %u is not in the pool", i);
		*to++ = (struct kvt_remote_block){ k, v, b->position, b->tokens, b->span, b->k_type,
						   b->v_type, b->k_stride, b->v_stride };
	}
	return 0;
}

/* Nothing is attended to. */
static void fill_empty(const struct kvt_attend_params *p, const struct kvt_attend_seq *s)
{
	size_t row = (size_t)p->q_heads * p->v_dim * sizeof(float), i;

	for (i = 0; i < s->q_tokens; i++)
		memset((char *)s->out + i * (s->out_stride ? s->out_stride : row), 0, row);
	for (i = 0; s->lse && i < (size_t)s->q_tokens * p->q_heads; i++)
		s->lse[i] = -INFINITY;
}

static void copy_rows(char *to, size_t to_stride, const char *from, size_t from_stride, size_t row,
		      uint32_t rows)
{
	uint32_t i;

	for (i = 0; i < rows; i++)
		memcpy(to + i * (to_stride ? to_stride : row), from + i * (from_stride ? from_stride : row),
		       row);
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
			return -errno;
		if (asked->comings != comings(s->client))
			return -EAGAIN;
	}
	return asked->ring->error;
}

static int ask_once(struct kvt_shared *s, const struct kvt_attend_params *p,
		    const struct kvt_attend_seq *seq)
{
	struct kvt_asked *asked = &s->asked;
	struct kvt_attend_query q;
	struct kvt_attend_places at;
	uint64_t number;
	int ret = 0;

	fill_query(&q, p, seq);
	if (!q.nr_blocks) {
		fill_empty(p, seq);
		return 0;
	}
	at = kvt_attend_places(&q);
	if (!asked->ring || asked->bytes < sizeof(*asked->ring) + at.bytes ||
	    asked->comings != comings(s->client))
		ret = make_ring(s, at.bytes < 65536 ? 65536 : at.bytes);
	if (!ret)
		ret = put_blocks(&s->kernel.pool, seq, (void *)asked->ring->data);
	if (ret)
		return ret;
	copy_rows(asked->ring->data + at.q, 0, (const char *)seq->q, seq->q_stride,
		  (size_t)p->q_heads * p->k_dim * sizeof(float), seq->q_tokens);
	number = asked->ring->query.number + 1;
	q.number = number;
	asked->ring->query = q;
	eventfd_write(asked->bell, 1);
	ret = wait_for_answer(s, number);
	if (ret)
		return ret;
	copy_rows(seq->out, seq->out_stride, asked->ring->data + at.out, 0,
		  (size_t)p->q_heads * p->v_dim * sizeof(float), seq->q_tokens);
	if (seq->lse)
		memcpy(seq->lse, asked->ring->data + at.lse,
		       (size_t)seq->q_tokens * p->q_heads * sizeof(float));
	return 0;
}

int kvt_shared_attend(struct kvt_pool *pool, const struct kvt_attend_params *params,
		      const struct kvt_attend_seq *seqs, uint32_t nr)
{
	struct kvt_shared *s = kvt_shared_of(pool);
	uint32_t i;
	int ret = 0;

	if (!kvt_is_shared(pool))
		return kvt_fail(-EOPNOTSUPP, "the pool is this process's own: use kvt_attend()");
	for (i = 0; i < nr && !ret; i++)
		ret = check(params, &seqs[i]);
	pthread_mutex_lock(&s->asked.lock);
	for (i = 0; i < nr && !ret; i++) {
		do
			ret = s->dead ? -ECONNRESET : ask_once(s, params, &seqs[i]);
		while (ret == -EAGAIN);
		if (ret && !kvt_error_detail()[0])
			kvt_fail(ret, "the daemon could not compute: %s", strerror(-ret));
	}
	pthread_mutex_unlock(&s->asked.lock);
	return ret;
}
