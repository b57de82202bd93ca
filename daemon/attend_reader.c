// SPDX-License-Identifier: MIT
/*
 * Blocks for a lane that computes: it says which, the loop has them brought in.
 *
 * Blocks of a memory file are held from when they are begun until they are given back, a
 * fair share of the pool's memory at once; a reader that cannot go on with that gets more,
 * one of a pool's readers at a time.  Blocks of the module are promoted and not held: pins
 * would outlive us, and a block that leaves again before it is read comes back by a fault.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attention.h"
#include "vma.h"

#define GO_FIRST (1u << 31)
/* What readers of a pool may hold, or have on its way, beside what one that starves may. */
#define SHARE_OF 4
#define ON_ITS_WAY_MAX 128u
#define COMES 1

static struct reader *reader_of(struct kvt_fetch *f)
{
	return (struct reader *)((char *)f - offsetof(struct reader, fetch));
}

static uint32_t frames_of(const struct pool *p)
{
	uint64_t bytes = __atomic_load_n(&p->t->budget[KVTIER_TIER_DRAM], __ATOMIC_RELAXED) +
			 __atomic_load_n(&p->t->budget[KVTIER_TIER_CXL], __ATOMIC_RELAXED);

	return (uint32_t)(bytes >> p->shift);
}

/* ---- the lane's side ---------------------------------------------------------------------- */

/* The lock is held. */
static void kick(struct reader *r)
{
	if (!r->kicked)
		eventfd_write(r->kick_fd, 1);
	r->kicked = true;
}

static void want(struct kvt_fetch *fetch, const struct kvt_want *wants, uint32_t nr,
		 const struct kvt_want *ahead, uint32_t nr_ahead)
{
	struct reader *r = reader_of(fetch);
	uint32_t i;

	(void)ahead, (void)nr_ahead;
	pthread_mutex_lock(&r->lock);
	assert(nr <= r->room && r->nr_taken == r->nr_arrived);
	for (i = 0; i < nr; i++)
		r->wants[i] = wants[i].block;
	r->nr = nr;
	r->next = r->nr_arrived = r->nr_taken = 0;
	r->failed = r->cancelled ? -ECANCELED : 0;
	kick(r);
	pthread_mutex_unlock(&r->lock);
}

/* Once nobody serves us any more, what was not begun comes with an error. */
static void take_failed(struct reader *r)
{
	if (r->cancelled && r->nr_taken == r->nr_arrived && r->next < r->nr)
		r->arrivals[r->nr_arrived++] = (struct kvt_arrival){ .block = r->wants[r->next++],
								     .error = -ECANCELED };
}

static int take(struct kvt_fetch *fetch, struct kvt_arrival *arrival, bool wait)
{
	struct reader *r = reader_of(fetch);
	int ret = 0;

	pthread_mutex_lock(&r->lock);
	take_failed(r);
	while (wait && r->nr_taken == r->nr_arrived) {
		if (r->nr_back)
			kick(r);
		pthread_cond_wait(&r->come, &r->lock);
		take_failed(r);
	}
	if (r->nr_taken < r->nr_arrived) {
		*arrival = r->arrivals[r->nr_taken++];
		ret = 1;
	}
	pthread_mutex_unlock(&r->lock);
	return ret;
}

/* What was read once and is more than memory holds leaves before what stays. */
static void done(struct kvt_fetch *fetch, const struct kvt_arrival *arrival, bool keep)
{
	struct reader *r = reader_of(fetch);
	uint32_t frames = frames_of(r->pool);

	pthread_mutex_lock(&r->lock);
	keep |= r->nr <= frames / 2;
	r->back[r->nr_back++] = arrival->block | (keep ? 0 : GO_FIRST);
	if (r->nr_back > r->share / 4)
		kick(r);
	pthread_mutex_unlock(&r->lock);
}

static void starve(struct kvt_fetch *fetch)
{
	struct reader *r = reader_of(fetch);

	pthread_mutex_lock(&r->lock);
	r->starving = r->nr_taken == r->nr_arrived;
	if (r->starving)
		kick(r);
	pthread_mutex_unlock(&r->lock);
}

static void close_fetch(struct kvt_fetch *fetch)
{
	(void)fetch;
}

static const struct kvt_fetch_ops fetch_ops = {
	.close = close_fetch,
	.want = want,
	.take = take,
	.done = done,
	.starve = starve,
};

static int open_fetch(struct kvt_pool *view, uint32_t window, struct kvt_fetch **fetch)
{
	struct reader *r = (struct reader *)view;

	(void)window;
	r->fetch.window = frames_of(r->pool) / SHARE_OF;
	*fetch = &r->fetch;
	return 0;
}

/* All that a stream asks for is how much memory there is. */
static int view_stats(struct kvt_pool *view, struct kvtier_stats *st)
{
	const struct pool *p = ((struct reader *)view)->pool;

	memset(st, 0, sizeof(*st));
	st->tier[KVTIER_TIER_DRAM].budget_bytes = (uint64_t)frames_of(p) << p->shift;
	return 0;
}

static const struct kvt_pager_ops view_ops = {
	.name = "attention",
	.stats = view_stats,
	.fetch_open = open_fetch,
};

/* ---- in the loop: a block begins to come --------------------------------------------------- */

static void hold(struct block *blk)
{
	blk->busy++;
	blk->flags &= (uint16_t)~B_HINT;
}

/* 0: it is there, COMES, -EAGAIN: not now, or why it cannot be had. */
static int begin_file(struct pool *p, uint32_t b)
{
	struct block *blk = block_of(p, b);
	int ret = 0;

	if (blk->where == W_BAD)
		return -EIO;
	if (blk->busy == UINT8_MAX)
		return -EAGAIN;
	if (blk->where == W_EMPTY) {
		ret = file_zero_fill(p, b);
		if (!ret)
			file_serve(p, b); /* who has been waiting for it */
	} else if (blk->where == W_COLD) {
		ret = file_read(p, b, 0);
	}
	if (ret)
		return ret;
	hold(blk);
	return blk->where == W_READING ? COMES : 0;
}

static void promoted(struct pool *p, uint32_t b, int res);

/* What is on its way to another tier is there as well: a touch waits for it. */
static int begin_device(struct pool *p, uint32_t b)
{
	struct kvtier_block_info info;
	int ret = device_pool_query(p, b, 1, &info);

	if (ret)
		return ret;
	if (info.state == KVTIER_BLOCK_BAD)
		return -EIO;
	if (info.state != KVTIER_BLOCK_COLD && info.state != KVTIER_BLOCK_COLD_OPEN)
		return 0;
	return device_verify(p, b, promoted) ? -EAGAIN : COMES;
}

/* ---- in the loop: it has come -------------------------------------------------------------- */

static void deliver(struct reader *r, uint32_t b, int error, bool streamed)
{
	r->arrivals[r->nr_arrived++] = (struct kvt_arrival){ .block = b, .error = error,
		.addr = r->view.addr + ((uint64_t)b << r->view.block_shift), .streamed = streamed };
	if (error && !r->failed)
		r->failed = error;
	r->blocked_ns = 0;
	pthread_cond_broadcast(&r->come);
}

static void begun(struct reader *r, uint32_t b, int how)
{
	r->next++;
	if (how >= 0)
		r->held += !r->pool->module;
	if (how == COMES)
		r->coming[r->nr_coming++] = b;
	else
		deliver(r, b, how, false);
}

static void come(struct reader *r, uint32_t at, int error)
{
	uint32_t b = r->coming[at];

	r->coming[at] = r->coming[--r->nr_coming];
	if (error && !r->pool->module) {
		block_of(r->pool, b)->busy--;
		r->held--;
	}
	deliver(r, b, error, true);
}

/* Reads of a memory file end in the table.  One that turned bad may be cold again by now. */
static void look_at_coming(struct reader *r)
{
	uint32_t i = r->nr_coming;

	while (!r->pool->module && i--) {
		uint8_t where = block_of(r->pool, r->coming[i])->where;

		if (where == W_RESIDENT || where == W_WRITING)
			come(r, i, 0);
		else if (where != W_READING)
			come(r, i, -EIO);
	}
}

static void take_back(struct reader *r)
{
	while (r->nr_back) {
		uint32_t entry = r->back[--r->nr_back], b = entry & ~GO_FIRST;
		struct block *blk;

		if (r->pool->module) {
			if (entry & GO_FIRST)
				device_command(r->pool, KVTIER_OP_COLD, KVTIER_TIER_NONE, b, 1);
			continue;
		}
		blk = block_of(r->pool, b);
		blk->busy--;
		r->held--;
		if (entry & GO_FIRST && blk->where == W_RESIDENT)
			blk->flags |= B_HINT;
	}
}

/* ---- in the loop: how much ---------------------------------------------------------------- */

struct others {
	uint32_t readers, held;
	bool exceed;
};

/* Of a pool that is in memory as a whole nobody waits for what is held. */
static uint32_t share_of(const struct pool *p, uint32_t readers)
{
	uint32_t frames = frames_of(p), share = frames / SHARE_OF / readers;

	if (frames >= p->nr_blocks)
		return p->nr_blocks;
	return share ? share : 1;
}

static struct others others_of(struct attend_service *s, const struct reader *r)
{
	struct others o = { 0 };
	struct attend_node *n;
	struct lane **l;
	struct query *q;

	for_each_running(s, n, l, q) {
		const struct reader *other = &q->ring->reader;

		if (q->pool != r->pool || other == r)
			continue;
		o.readers++;
		o.held += other->held;
	}
	for_each_running(s, n, l, q)
		if (q->pool == r->pool && &q->ring->reader != r &&
		    q->ring->reader.held > share_of(r->pool, o.readers + 1))
			o.exceed = true;
	return o;
}

/* 0: one more may be begun, -EAGAIN: not now, -ENOSPC: memory does not hold what it wants at once. */
static int may_begin(struct reader *r, const struct others *o)
{
	uint32_t frames = frames_of(r->pool);

	if (r->pool->module)
		return r->nr_coming < (r->share < ON_ITS_WAY_MAX ? r->share : ON_ITS_WAY_MAX) ?
			       0 :
			       -EAGAIN;
	if (r->held < r->share)
		return 0;
	if (!r->starving || r->nr_coming || r->nr_taken < r->nr_arrived)
		return -EAGAIN;
	if (r->held + o->held + 1 >= frames && r->pool->nr_blocks > frames)
		return -ENOSPC;
	return o->exceed ? -EAGAIN : 0;
}

/* It waits for memory no longer than an access would. */
static int blocked(struct reader *r)
{
	const struct pool *p = r->pool;

	if (!r->blocked_ns)
		r->blocked_ns = p->d->turn_ns;
	if (p->d->turn_ns < r->blocked_ns + (uint64_t)p->t->deadline_ms * NS_PER_MS)
		return -EAGAIN;
	return -ETIMEDOUT;
}

static void begin(struct attend_service *s, struct reader *r)
{
	struct others o = others_of(s, r);

	r->share = share_of(r->pool, o.readers + 1);
	while (r->next < r->nr) {
		uint32_t b = r->wants[r->next];
		int ret = r->failed ? r->failed : may_begin(r, &o);

		if (ret == -EAGAIN)
			return;
		if (!ret)
			ret = r->pool->module ? begin_device(r->pool, b) : begin_file(r->pool, b);
		if (ret == -EAGAIN)
			ret = blocked(r);
		if (ret == -EAGAIN)
			return;
		r->starving = false;
		r->blocked_ns = 0;
		begun(r, b, ret);
	}
}

bool reader_pump(struct attend_service *s, struct reader *r)
{
	bool again;

	pthread_mutex_lock(&r->lock);
	r->kicked = false;
	take_back(r);
	look_at_coming(r);
	begin(s, r);
	again = r->blocked_ns || (r->starving && r->next < r->nr);
	pthread_mutex_unlock(&r->lock);
	return again;
}

static bool is_for_room(int res)
{
	return res == -ENOSPC || res == -EAGAIN || res == -EBUSY || res == -ENOMEM ||
	       res == -EINTR || res == -ECANCELED;
}

/* Who found no room asks by touching it; what is wrong with it is known then too. */
static void promoted(struct pool *p, uint32_t b, int res)
{
	struct attend_service *s = p->d->attend;
	struct attend_node *n;
	struct lane **l;
	struct query *q;
	uint32_t i;

	if (!s)
		return;
	for_each_running(s, n, l, q) {
		struct reader *r = &q->ring->reader;

		if (q->pool != p)
			continue;
		pthread_mutex_lock(&r->lock);
		for (i = 0; i < r->nr_coming && r->coming[i] != b; i++)
			;
		if (i < r->nr_coming)
			come(r, i, is_for_room(res) ? 0 : res);
		pthread_mutex_unlock(&r->lock);
	}
}

/* Its client is gone, or we are: what has not come does not. */
void reader_cancel(struct reader *r)
{
	pthread_mutex_lock(&r->lock);
	r->cancelled = true;
	take_back(r);
	while (r->nr_coming)
		come(r, r->nr_coming - 1, -ECANCELED);
	r->failed = -ECANCELED;
	while (r->next < r->nr)
		begun(r, r->wants[r->next], -ECANCELED);
	pthread_cond_broadcast(&r->come);
	pthread_mutex_unlock(&r->lock);
}

/* ---- come and go --------------------------------------------------------------------------- */

void reader_init(struct reader *r, struct pool *p, int kick_fd)
{
	r->view = (struct kvt_pool){ .ops = &view_ops, .addr = p->alias, .bytes = p->t->bytes,
				     .block_bytes = p->block_bytes, .block_shift = p->shift,
				     .pid = getpid() };
	r->fetch = (struct kvt_fetch){ .ops = &fetch_ops, .pool = &r->view };
	r->pool = p;
	r->kick_fd = kick_fd;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->come, NULL);
}

/* A block may be given back in one pass of a call before the loop has heard of the last. */
int reader_provide(struct reader *r, uint32_t nr)
{
	if (nr <= r->room)
		return 0;
	free(r->wants);
	free(r->coming);
	free(r->arrivals);
	free(r->back);
	r->wants = malloc(nr * sizeof(*r->wants));
	r->coming = malloc(nr * sizeof(*r->coming));
	r->arrivals = malloc(nr * sizeof(*r->arrivals));
	r->back = malloc(2ul * nr * sizeof(*r->back));
	r->room = r->wants && r->coming && r->arrivals && r->back ? nr : 0;
	return r->room ? 0 : -ENOMEM;
}

void reader_exit(struct reader *r)
{
	reader_unmap(r);
	free(r->wants);
	free(r->coming);
	free(r->arrivals);
	free(r->back);
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->come);
}

int reader_map(struct reader *r)
{
	void *map;
	int ret;

	if (r->view.addr)
		return 0;
	map = kvt_vma_reserve(r->view.bytes);
	if (!map)
		return -errno;
	if (mmap(map, r->view.bytes, PROT_READ, MAP_SHARED | MAP_FIXED, r->pool->fd, 0) ==
	    MAP_FAILED) {
		ret = -errno;
		munmap(map, r->view.bytes);
		return ret;
	}
	r->view.addr = map;
	return 0;
}

void reader_unmap(struct reader *r)
{
	if (!r->pool->module || !r->view.addr)
		return;
	munmap(r->view.addr, r->view.bytes);
	r->view.addr = NULL;
}
