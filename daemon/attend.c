// SPDX-License-Identifier: MIT
/*
 * The attention service: queries of clients that have not the memory next to them.
 *
 * A query is copied and checked here; its blocks are brought into memory and held, a
 * part at a time if they are many; a thread of its own computes (kvt_attend() spreads
 * that over threads pinned node by node); parts are merged; the output goes into the
 * client's ring.  The loop never computes, and the thread never touches a block that
 * is not held.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "kvtierd.h"

#define BLOCKS_MAX (1u << 20)
/* Blocks of the pool that a query's rows touch, counted once a block of rows: they are looked at
 * each time that it tries.  Rows of one query overlap only where keys and values interleave. */
#define LOOKS_A_BLOCK 8ull
#define LOOKS_A_POOL 4ull
#define RETRY_NS (NS_PER_MS / 2)
#define RING_FDS 2 /* a bell each way */

struct attend_ring {
	struct attachment *a; /* NULL: its client is gone */
	struct kvt_attend_ring *ring;
	size_t bytes;
	struct tenant *tenant; /* for whom it is counted */
	uint64_t metadata_bytes;
	int bell; /* an eventfd that the client has too */
	int answer; /* a bell of ours */
	struct watch *watch;
	struct query *query; /* under way */
};

/* A query as it was checked; the thread's while it is computed. */
struct query {
	struct query *next;
	struct attend_ring *r;
	struct pool *pool;
	struct kvt_attend_query q;
	struct kvt_attend_places at;
	struct kvt_seq_block *blocks;
	uint32_t from, to; /* the part under way */
	uint32_t held; /* blocks of the pool that are held for it, each once */
	uint32_t *hold;
	uint64_t *is_held; /* a bit a block */
	uint64_t since_ns; /* when the part began to want its memory */
	float *out, *lse; /* of the part */
	float *whole, *whole_lse; /* of those before */
	int error;
};

struct attend_service {
	struct kvtierd *d;
	pthread_t thread;
	struct watch *watch;
	int done_fd;
	struct query *waiting; /* for memory */
	uint64_t retry_ns; /* after which they try again */
	pthread_mutex_t lock; /* guards the fields below */
	pthread_cond_t more;
	struct query *todo, **todo_end; /* who came first is computed first */
	struct query *done;
	bool stop;
};

/* ---- the thread -------------------------------------------------------------------------- */

static int compute(struct kvt_attend *team, struct query *q)
{
	struct kvt_attend_params params = KVT_ATTEND_PARAMS_INIT;
	struct kvt_attend_seq seq = KVT_ATTEND_SEQ_INIT;

	params.flags = q->q.flags;
	params.q_heads = q->q.q_heads;
	params.kv_heads = q->q.kv_heads;
	params.k_dim = q->q.k_dim;
	params.v_dim = q->q.v_dim;
	params.scale = q->q.scale;
	params.softcap = q->q.softcap;
	params.window = q->q.window;
	params.sinks = q->q.sinks;
	seq.q_tokens = q->q.q_tokens;
	seq.q_position = q->q.q_position;
	seq.q = (const void *)(q->r->ring->data + q->at.q);
	seq.out = q->out;
	seq.lse = q->lse;
	seq.blocks = q->blocks + q->from;
	seq.nr_blocks = q->to - q->from;
	return kvt_attend(team, &params, &seq, 1);
}

static int merge(struct query *q)
{
	struct kvt_attend_part parts[] = { { q->whole, q->whole_lse }, { q->out, q->lse } };
	uint32_t rows = q->q.q_tokens * q->q.q_heads;

	if (q->from)
		return kvt_attend_merge(parts, 2, rows, q->q.v_dim, q->whole, q->whole_lse);
	memcpy(q->whole, q->out, (size_t)rows * q->q.v_dim * sizeof(float));
	memcpy(q->whole_lse, q->lse, (size_t)rows * sizeof(float));
	return 0;
}

static struct query *next_query(struct attend_service *s)
{
	struct query *q;

	pthread_mutex_lock(&s->lock);
	while (!s->todo && !s->stop)
		pthread_cond_wait(&s->more, &s->lock);
	q = s->todo;
	if (q)
		s->todo = q->next;
	if (!s->todo)
		s->todo_end = &s->todo;
	pthread_mutex_unlock(&s->lock);
	return q;
}

static void *attend_thread(void *arg)
{
	struct attend_service *s = arg;
	struct kvt_attend_config config = KVT_ATTEND_CONFIG_INIT;
	struct kvt_attend *team = NULL;
	struct query *q;
	int ret;

	prctl(PR_SET_NAME, "kvtierd-attend");
	config.threads = s->d->config.attend_threads;
	ret = kvt_attend_create(&config, &team);
	while ((q = next_query(s))) {
		q->error = ret ? ret : compute(team, q);
		if (!q->error)
			q->error = merge(q);
		pthread_mutex_lock(&s->lock);
		q->next = s->done;
		s->done = q;
		pthread_mutex_unlock(&s->lock);
		eventfd_write(s->done_fd, 1);
	}
	kvt_attend_destroy(team);
	return NULL;
}

/* ---- memory for a part ------------------------------------------------------------------- */

static void release(struct query *q)
{
	while (q->held) {
		uint32_t b = q->hold[--q->held];

		block_of(q->pool, b)->busy--;
		q->is_held[b / 64] &= ~(1ull << b % 64);
	}
}

/* -EAGAIN: not there yet, or held for as many others as can be counted. */
static int hold_block(struct query *q, uint32_t b)
{
	struct pool *p = q->pool;
	struct block *blk = block_of(p, b);

	if (q->is_held[b / 64] & 1ull << b % 64)
		return 0;
	if (blk->where == W_BAD)
		return -EIO;
	if (blk->where == W_EMPTY && !file_zero_fill(p, b))
		file_serve(p, b); /* who has been waiting for it */
	if (blk->where == W_COLD)
		file_read(p, b, 0);
	if ((blk->where != W_RESIDENT && blk->where != W_WRITING) || blk->busy == UINT8_MAX)
		return -EAGAIN;
	blk->busy++;
	q->is_held[b / 64] |= 1ull << b % 64;
	q->hold[q->held++] = b;
	return 0;
}

/* Pool blocks that rows [offset, offset + bytes) touch are held; -EAGAIN: not there yet. */
static int hold_rows(struct query *q, const void *rows, uint64_t bytes)
{
	struct pool *p = q->pool;
	uint64_t offset = (uint64_t)((const char *)rows - p->alias);
	uint32_t b = (uint32_t)(offset >> p->shift), last = (uint32_t)((offset + bytes - 1) >> p->shift);
	int missing = 0;

	for (; b <= last; b++) {
		int ret = hold_block(q, b);

		if (ret && ret != -EAGAIN)
			return ret;
		if (ret)
			missing = ret;
	}
	return missing;
}

static uint64_t row_span(uint32_t stride, uint32_t tokens, size_t row)
{
	return (uint64_t)(tokens - 1) * (stride ? stride : row) + row;
}

static uint64_t k_bytes(const struct query *q, const struct kvt_seq_block *b)
{
	return row_span(b->k_stride, b->tokens, kvt_row_bytes(b->k_type, q->q.k_dim) * q->q.kv_heads);
}

static uint64_t v_bytes(const struct query *q, const struct kvt_seq_block *b)
{
	return row_span(b->v_stride, b->tokens, kvt_row_bytes(b->v_type, q->q.v_dim) * q->q.kv_heads);
}

/* All of the part is held (0), not yet (-EAGAIN, and nothing is), or cannot be. */
static int hold_part(struct query *q)
{
	uint32_t i;
	int ret = 0, now;

	for (i = q->from; i < q->to && (!ret || ret == -EAGAIN); i++) {
		const struct kvt_seq_block *b = &q->blocks[i];

		now = hold_rows(q, b->k, k_bytes(q, b));
		if (now)
			ret = now;
		now = b->v && (!ret || ret == -EAGAIN) ? hold_rows(q, b->v, v_bytes(q, b)) : 0;
		if (now)
			ret = now;
	}
	if (ret)
		release(q);
	return ret;
}

/* As many blocks as a quarter of the pool's memory holds, at least one; all, if that holds all. */
static void choose_part(struct query *q)
{
	struct pool *p = q->pool;
	bool whole = p->t->budget[KVTIER_TIER_DRAM] >= p->t->bytes;
	uint64_t most = p->t->budget[KVTIER_TIER_DRAM] / 4, used = 0;

	q->since_ns = p->d->turn_ns;
	q->from = q->to;
	while (q->to < q->q.nr_blocks) {
		const struct kvt_seq_block *b = &q->blocks[q->to];

		/* Rows may begin and end inside a block of the pool. */
		used += k_bytes(q, b) + (b->v ? v_bytes(q, b) : 0) + p->block_bytes / 2;
		if (!whole && q->to > q->from && used > most)
			break;
		q->to++;
	}
}

/* ---- a query ----------------------------------------------------------------------------- */

static void free_ring(struct attend_ring *r)
{
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

static void answer(struct attend_ring *r, uint64_t number, int error)
{
	r->ring->error = error;
	__atomic_store_n(&r->ring->done, number, __ATOMIC_RELEASE);
	bell_ring(r->answer);
}

static void finish(struct query *q, int error)
{
	struct attend_ring *r = q->r;
	struct kvtierd *d = q->pool->d;
	uint64_t rows = (uint64_t)q->q.q_tokens * q->q.q_heads;

	release(q);
	if (!error) {
		memcpy(r->ring->data + q->at.out, q->whole, rows * q->q.v_dim * sizeof(float));
		memcpy(r->ring->data + q->at.lse, q->whole_lse, rows * sizeof(float));
		d->count.attend_queries++;
	}
	r->query = NULL;
	if (r->a)
		answer(r, q->q.number, error);
	else
		free_ring(r);
	q->pool->ios--;
	file_progress(q->pool);
	free(q->blocks);
	free(q->hold);
	free(q->is_held);
	free(q->out);
	free(q);
}

/* It waits for memory no longer than an access would. */
static bool is_late(const struct query *q)
{
	const struct pool *p = q->pool;

	return p->d->turn_ns >= q->since_ns + (uint64_t)p->t->deadline_ms * NS_PER_MS;
}

/* Hand the part to the thread once all of it is held. */
static void advance(struct attend_service *s, struct query *q)
{
	int ret = q->r->a ? hold_part(q) : -ECANCELED;

	if (ret == -EAGAIN && !is_late(q)) {
		q->next = s->waiting;
		s->waiting = q;
		timer_within(s->d, &s->d->attend_timer, s->retry_ns);
		return;
	}
	if (ret == -EAGAIN)
		ret = -ETIMEDOUT;
	if (ret) {
		finish(q, ret);
		return;
	}
	pthread_mutex_lock(&s->lock);
	q->next = NULL;
	*s->todo_end = q;
	s->todo_end = &q->next;
	pthread_cond_signal(&s->more);
	pthread_mutex_unlock(&s->lock);
}

/* Queries that wait for memory.  Looking for it takes a fifth of the loop's time, at most. */
void attend_run(struct kvtierd *d)
{
	struct attend_service *s = d->attend;
	struct query *q, *next;
	uint64_t begun = now_ns(), spent;

	if (!s)
		return;
	q = s->waiting;
	s->waiting = NULL;
	for (; q; q = next) {
		next = q->next;
		advance(s, q);
	}
	spent = now_ns() - begun;
	s->retry_ns = 5 * spent > RETRY_NS ? 5 * spent : RETRY_NS;
}

static void parts_done(void *arg)
{
	struct attend_service *s = arg;
	struct query *q, *next;
	eventfd_t ignored;

	eventfd_read(s->done_fd, &ignored);
	pthread_mutex_lock(&s->lock);
	q = s->done;
	s->done = NULL;
	pthread_mutex_unlock(&s->lock);
	for (; q; q = next) {
		next = q->next;
		release(q);
		if (q->error || q->to == q->q.nr_blocks) {
			finish(q, q->error);
			continue;
		}
		choose_part(q);
		advance(s, q);
	}
}

/* ---- check ------------------------------------------------------------------------------- */

static bool inside(const struct pool *p, uint64_t offset, uint64_t bytes)
{
	return offset < p->t->bytes && bytes <= p->t->bytes - offset && bytes;
}

static int take_block(struct query *q, const struct kvt_remote_block *shared,
		      struct kvt_seq_block *out)
{
	struct kvt_remote_block b;

	memcpy(&b, shared, sizeof(b));
	*out = (struct kvt_seq_block){ .position = b.position, .tokens = b.tokens, .span = b.span,
				       .k_type = b.k_type, .v_type = b.v_type,
				       .k_stride = b.k_stride, .v_stride = b.v_stride };
	if (!b.tokens || !kvt_row_bytes(b.k_type, q->q.k_dim) ||
	    !inside(q->pool, b.k_offset, k_bytes(q, out)))
		return -EBADMSG;
	out->k = q->pool->alias + b.k_offset;
	if (b.v_offset == UINT64_MAX)
		return 0;
	if (!kvt_row_bytes(b.v_type, q->q.v_dim) || !inside(q->pool, b.v_offset, v_bytes(q, out)))
		return -EBADMSG;
	out->v = q->pool->alias + b.v_offset;
	return 0;
}

/* Of rows that are inside the pool: no sum of these wraps. */
static uint64_t blocks_touched(const struct query *q, const struct kvt_seq_block *b)
{
	uint64_t k = (k_bytes(q, b) >> q->pool->shift) + 2;

	return b->v ? k + (v_bytes(q, b) >> q->pool->shift) + 2 : k;
}

static int take_query(struct query *q)
{
	struct attend_ring *r = q->r;
	uint64_t rows, looks = 0;
	uint32_t i;
	int ret = 0;

	memcpy(&q->q, &r->ring->query, sizeof(q->q));
	if (q->q.zero || !q->q.q_tokens || q->q.q_tokens > KVT_QUERY_MAX || !q->q.q_heads ||
	    q->q.q_heads > KVT_HEADS_MAX || !q->q.kv_heads || q->q.kv_heads > q->q.q_heads ||
	    !q->q.k_dim || q->q.k_dim > KVT_DIM_MAX || !q->q.v_dim || q->q.v_dim > KVT_DIM_MAX ||
	    q->q.nr_blocks > BLOCKS_MAX || !q->q.nr_blocks || q->q.flags & ~KVT_CAUSAL)
		return -EBADMSG;
	q->at = kvt_attend_places(&q->q);
	if (q->at.bytes > r->bytes - sizeof(*r->ring))
		return -EBADMSG;
	rows = (uint64_t)q->q.q_tokens * q->q.q_heads;
	q->blocks = calloc(q->q.nr_blocks, sizeof(*q->blocks));
	q->out = calloc(2 * rows * (q->q.v_dim + 1ull), sizeof(float));
	if (!q->blocks || !q->out)
		return -ENOMEM;
	q->lse = q->out + rows * q->q.v_dim;
	q->whole = q->lse + rows;
	q->whole_lse = q->whole + rows * q->q.v_dim;
	for (i = 0; i < q->q.nr_blocks && !ret; i++) {
		ret = take_block(q, (const struct kvt_remote_block *)r->ring->data + i, &q->blocks[i]);
		looks += ret ? 0 : blocks_touched(q, &q->blocks[i]);
	}
	if (ret)
		return ret;
	if (looks > LOOKS_A_BLOCK * q->q.nr_blocks + LOOKS_A_POOL * q->pool->nr_blocks)
		return -E2BIG;
	q->hold = malloc(q->pool->nr_blocks * sizeof(*q->hold));
	q->is_held = calloc(q->pool->nr_blocks / 64 + 1, sizeof(*q->is_held));
	return q->hold && q->is_held ? 0 : -ENOMEM;
}

static void bell(void *arg)
{
	struct attend_ring *r = arg;
	struct attend_service *s = r->a->pool->d->attend;
	struct query *q;
	eventfd_t ignored;
	int ret;

	read_now(r->bell, &ignored, sizeof(ignored));
	if (r->query || r->ring->query.number == r->ring->done)
		return;
	q = calloc(1, sizeof(*q));
	if (!q) {
		answer(r, r->ring->query.number, -ENOMEM);
		return;
	}
	q->r = r;
	q->pool = r->a->pool;
	pool_activity(q->pool);
	ret = take_query(q);
	r->query = q;
	q->pool->ios++;
	if (ret) {
		finish(q, ret);
		return;
	}
	choose_part(q);
	advance(s, q);
}

/* ---- come and go ------------------------------------------------------------------------- */

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
}

static int start(struct kvtierd *d)
{
	struct attend_service *s;
	sigset_t all, old;
	int ret;

	if (d->attend)
		return 0;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->d = d;
	s->retry_ns = RETRY_NS;
	s->todo_end = &s->todo;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->more, NULL);
	s->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->watch = s->done_fd < 0 ? NULL : watch_start(d, s->done_fd, parts_done, s);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = s->watch ? pthread_create(&s->thread, NULL, attend_thread, s) : ENOMEM;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret) {
		watch_stop(s->watch);
		free(s);
		return kvt_fail(-ret, "cannot start the attention service: %s", strerror(ret));
	}
	d->attend = s;
	return 0;
}

void attend_stop(struct kvtierd *d)
{
	struct attend_service *s = d->attend;

	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	pthread_cond_signal(&s->more);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	parts_done(s);
	attend_run(d);
	watch_stop(s->watch);
	close(s->done_fd);
	free(s);
	d->attend = NULL;
}

static int make_ring(struct attend_ring *r, int *ring_fd, int *answer_fd)
{
	int fd = memfd_create("kvtier-attend", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *ring = MAP_FAILED;

	r->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd >= 0 && r->bell >= 0 && !bell_make(&r->answer, answer_fd) && !ftruncate(fd, (off_t)r->bytes) &&
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
	struct attend_ring *r;
	int ret;

	if (bytes < sizeof(struct kvt_attend_ring) + 4096 || bytes > KVT_ATTEND_RING_MAX)
		return kvt_fail(-EINVAL, "a ring of queries has at most %llu bytes", KVT_ATTEND_RING_MAX);
	if (a->pool->module)
		return kvt_fail(-EOPNOTSUPP, "the attention service has not the module's pools: use "
					     "kvt_attend()");
	ret = start(a->pool->d);
	if (ret)
		return ret;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->a = a;
	r->bytes = bytes;
	r->bell = r->answer = -1;
	r->tenant = a->client->tenant;
	/* A query is copied, its output made twice; what it holds is a number and a bit a block. */
	r->metadata_bytes = sizeof(*r) + 3 * bytes + a->pool->nr_blocks * 5ull;
	ret = tenant_take(a->pool->d, r->tenant, r->metadata_bytes, RING_FDS);
	if (ret) {
		free(r);
		return ret;
	}
	ret = make_ring(r, &fds[0], &fds[2]);
	if (!ret) {
		r->watch = watch_start(a->pool->d, r->bell, bell, r);
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
