// SPDX-License-Identifier: MIT
/*
 * Fetches of the kernel pager: io_uring commands of the module.
 *
 * A wanted block is pinned, which brings it in, and unpinned when it is given back; with
 * a hint, if it is to go first.  What is read ahead is promoted and not pinned.  Residency
 * is asked for once, when blocks are wanted: it decides what counts for the window.
 * There is no thread: whoever waits for a block reaps completions, for all.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "error.h"
#include "fetch.h"
#include "kernel.h"

#define RING_ENTRIES 256
/* Commands under way at once: the module works on each in a thread of its own. */
#define COMMANDS_MAX 128
/* How often to look for room that the pool's other fetches left, and how many times. */
#define LOOK_NS 1000000
#define LOOKS_MAX 10000
/* Where the command begins in an entry of 64 bytes; older headers do not name it. */
#define SQE_CMD_OFFSET 48

/* What a block is to a fetch: one of the first five, and a bit. */
#define AT_NONE 0
#define AT_AHEAD 1 /* read ahead: coming */
#define AT_UNCLAIMED 2 /* read ahead: come */
#define AT_COMING 3
#define AT_HELD 4
#define AT_MASK 7
#define AT_STREAMED 8 /* counts for the window */
#define AT_NAMED 16 /* in the lists that are taken in now */
#define AT_STALE 32 /* read ahead, coming, and no longer in any list */

struct kvt_kernel_fetch {
	struct kvt_fetch fetch; /* first: the reader's handle */
	uint32_t nr_blocks;
	uint32_t pins_max; /* of all fetches of the pool, so that others can still fault */

	pthread_mutex_t lock; /* guards all below; reaping waits without it */
	pthread_cond_t come;
	struct io_uring ring;
	bool reaping;
	bool starving; /* one more block than the window, for a reader that cannot go on */
	bool paused; /* no wants begin: other fetches have pinned what there is */
	uint32_t nr_looks; /* at that, since a block arrived */
	uint8_t *at; /* a block: AT_* */
	struct kvt_want *wants, *ahead;
	uint32_t next_want, nr_wants, next_ahead, nr_ahead;
	uint32_t *unclaimed; /* blocks read ahead, coming or come */
	uint32_t nr_unclaimed;
	uint32_t nr_commands; /* under way */
	uint32_t nr_pins; /* blocks coming and held */
	uint32_t nr_window; /* of these and the unclaimed: streamed */
	struct kvt_arrival *arrivals; /* a ring of nr_blocks */
	uint32_t first_arrival, nr_arrivals;
	struct kvtier_block_info *infos;
};

static struct kvt_kernel_fetch *fetch_of(struct kvt_fetch *f)
{
	return (struct kvt_kernel_fetch *)f;
}

/* Fetches that each had all would stand still, each with blocks that want another's place. */
static uint32_t pins_share(const struct kvt_kernel_fetch *f)
{
	uint32_t share = f->pins_max / atomic_load(&kvt_kernel_of(f->fetch.pool)->nr_fetches);

	return share ? share : 1;
}

static void set_at(struct kvt_kernel_fetch *f, uint32_t b, uint8_t at)
{
	f->at[b] = (uint8_t)((f->at[b] & ~AT_MASK) | at);
}

static void deliver(struct kvt_kernel_fetch *f, uint32_t b, int error)
{
	const struct kvt_pool *pool = f->fetch.pool;

	f->starving = false;
	f->nr_looks = 0;
	f->arrivals[(f->first_arrival + f->nr_arrivals++) % f->nr_blocks] = (struct kvt_arrival){
		.block = b,
		.error = error,
		.addr = pool->addr + ((uint64_t)b << pool->block_shift),
		.streamed = f->at[b] & AT_STREAMED,
	};
	pthread_cond_broadcast(&f->come);
}

static void leave_window(struct kvt_kernel_fetch *f, uint32_t b)
{
	if (f->at[b] & AT_STREAMED)
		f->nr_window--;
	f->at[b] &= AT_NAMED; /* all else is over */
}

/* ---- commands ------------------------------------------------------------ */

static bool command(struct kvt_kernel_fetch *f, uint32_t b, enum kvtier_op op)
{
	struct kvtier_uring_cmd arg = { .first_block = b, .nr_blocks = 1 };
	struct io_uring_sqe *sqe;

	if (f->nr_commands >= COMMANDS_MAX)
		return false;
	sqe = io_uring_get_sqe(&f->ring);
	if (!sqe)
		return false;
	memset((void *)sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = kvt_kernel_of(f->fetch.pool)->fd;
	sqe->off = op; /* cmd_op, and the reserved half */
	memcpy((char *)sqe + SQE_CMD_OFFSET, &arg, sizeof(arg));
	sqe->user_data = (uint64_t)op << 32 | b;
	f->nr_commands++;
	return true;
}

static void drop_unclaimed(struct kvt_kernel_fetch *f, uint32_t b)
{
	uint32_t i;

	for (i = 0; i < f->nr_unclaimed; i++) {
		if (f->unclaimed[i] != b)
			continue;
		f->unclaimed[i] = f->unclaimed[--f->nr_unclaimed];
		return;
	}
}

/* A hint costs nothing if it comes late or never. */
static void forget_ahead(struct kvt_kernel_fetch *f, uint32_t b)
{
	drop_unclaimed(f, b);
	leave_window(f, b);
	command(f, b, KVTIER_OP_COLD);
}

/* What was read ahead makes way for what is wanted now. */
static bool make_entry(struct kvt_kernel_fetch *f)
{
	uint32_t i = f->nr_unclaimed;

	while (f->nr_window >= f->fetch.window && i--)
		if ((f->at[f->unclaimed[i]] & AT_MASK) == AT_UNCLAIMED)
			forget_ahead(f, f->unclaimed[i]);
	return f->nr_window < f->fetch.window;
}

static bool begin_want(struct kvt_kernel_fetch *f, uint32_t b)
{
	uint8_t at = f->at[b] & AT_MASK;
	bool ahead = at == AT_AHEAD || at == AT_UNCLAIMED;

	if ((f->nr_pins >= pins_share(f) && !f->starving) || at == AT_COMING || at == AT_HELD)
		return false;
	if (!ahead && (f->at[b] & AT_STREAMED) && !make_entry(f) && !f->starving)
		return false;
	if (!command(f, b, KVTIER_OP_PIN))
		return false;
	if (ahead)
		drop_unclaimed(f, b);
	else if (f->at[b] & AT_STREAMED)
		f->nr_window++;
	f->nr_pins++;
	set_at(f, b, AT_COMING);
	return true;
}

static void begin_ahead(struct kvt_kernel_fetch *f)
{
	while (f->next_ahead < f->nr_ahead && f->nr_window < f->fetch.window) {
		uint32_t b = f->ahead[f->next_ahead].block;

		if ((f->at[b] & AT_MASK) == AT_NONE && (f->at[b] & AT_STREAMED)) {
			if (!command(f, b, KVTIER_OP_PROMOTE))
				return;
			set_at(f, b, AT_AHEAD);
			f->unclaimed[f->nr_unclaimed++] = b;
			f->nr_window++;
		}
		f->next_ahead++;
	}
}

/* Begin what there is room for. */
static void pump(struct kvt_kernel_fetch *f)
{
	while (!f->paused && f->next_want < f->nr_wants &&
	       begin_want(f, f->wants[f->next_want].block))
		f->next_want++;
	if (f->next_want == f->nr_wants) {
		f->next_want = f->nr_wants = 0;
		begin_ahead(f);
	}
	io_uring_submit(&f->ring);
}

/* ---- completions --------------------------------------------------------- */

/*
 * Others have pinned what we may: wait for our own to come back, if there are any, or for
 * those of the pool's other fetches.
 */
static bool try_again(struct kvt_kernel_fetch *f, uint32_t b)
{
	bool alone = atomic_load(&kvt_kernel_of(f->fetch.pool)->nr_fetches) == 1;

	if (alone && (!f->nr_pins || f->starving))
		return false;
	if (!alone && f->nr_looks >= LOOKS_MAX)
		return false;
	f->paused = !alone;
	if (f->next_want)
		f->wants[--f->next_want] = (struct kvt_want){ .block = b };
	else
		f->wants[f->nr_wants++] = (struct kvt_want){ .block = b };
	return true;
}

static void pinned(struct kvt_kernel_fetch *f, uint32_t b, int error)
{
	if (!error) {
		set_at(f, b, AT_HELD);
		deliver(f, b, 0);
		return;
	}
	f->nr_pins--;
	if (f->at[b] & AT_STREAMED)
		f->nr_window--;
	set_at(f, b, AT_NONE);
	if (error == -ENOSPC && try_again(f, b))
		return;
	deliver(f, b, error);
	f->at[b] = AT_NONE;
}

static void promoted(struct kvt_kernel_fetch *f, uint32_t b, int error)
{
	if ((f->at[b] & AT_MASK) != AT_AHEAD)
		return; /* claimed while it came: the pin says more */
	if (!error && !(f->at[b] & AT_STALE))
		set_at(f, b, AT_UNCLAIMED);
	else
		forget_ahead(f, b);
}

static void reap(struct kvt_kernel_fetch *f)
{
	struct io_uring_cqe *cqe;

	while (!io_uring_peek_cqe(&f->ring, &cqe)) {
		uint32_t b = (uint32_t)cqe->user_data, op = (uint32_t)(cqe->user_data >> 32);
		int res = cqe->res;

		io_uring_cqe_seen(&f->ring, cqe);
		f->nr_commands--;
		if (op == KVTIER_OP_PIN)
			pinned(f, b, res);
		else if (op == KVTIER_OP_PROMOTE)
			promoted(f, b, res);
	}
	pump(f);
}

/* The other fetches do not know who waits for what they give back. */
static void look_again(struct kvt_kernel_fetch *f)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += LOOK_NS;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_cond_timedwait(&f->come, &f->lock, &until);
	if (!f->paused || f->nr_arrivals)
		return;
	f->paused = false;
	f->starving = true;
	f->nr_looks++;
	pump(f);
}

/* One thread waits in the kernel, for all; the lock is free meanwhile. */
static void wait_for_one(struct kvt_kernel_fetch *f)
{
	struct io_uring_cqe *cqe;

	if (f->paused && !f->nr_commands) {
		look_again(f);
		return;
	}
	if (f->reaping || !f->nr_commands) {
		pthread_cond_wait(&f->come, &f->lock);
		return;
	}
	f->reaping = true;
	pthread_mutex_unlock(&f->lock);
	io_uring_wait_cqe(&f->ring, &cqe);
	pthread_mutex_lock(&f->lock);
	f->reaping = false;
	reap(f);
	pthread_cond_broadcast(&f->come);
}

/* ---- the reader's side --------------------------------------------------- */

static void see_residency(struct kvt_kernel_fetch *f, uint32_t first, uint32_t nr)
{
	uint32_t i;

	if (kvt_kernel_query(f->fetch.pool, first, nr, f->infos))
		return;
	for (i = 0; i < nr; i++) {
		uint8_t state = f->infos[i].state;

		if ((f->at[first + i] & AT_MASK) != AT_NONE)
			continue;
		if (state == KVTIER_BLOCK_COLD || state == KVTIER_BLOCK_COLD_OPEN ||
		    state == KVTIER_BLOCK_MOVING)
			f->at[first + i] |= AT_STREAMED;
		else
			f->at[first + i] &= (uint8_t)~AT_STREAMED;
	}
}

/* Runs of neighbours in one query each. */
static void take_list(struct kvt_kernel_fetch *f, const struct kvt_want *wants, uint32_t nr)
{
	uint32_t i, first = 0;

	for (i = 0; i < nr; i++) {
		f->at[wants[i].block] |= AT_NAMED;
		f->at[wants[i].block] &= (uint8_t)~AT_STALE;
		if (i + 1 < nr && wants[i + 1].block == wants[i].block + 1)
			continue;
		see_residency(f, wants[first].block, i + 1 - first);
		first = i + 1;
	}
}

static void unname(struct kvt_kernel_fetch *f, const struct kvt_want *wants, uint32_t nr)
{
	while (nr--)
		f->at[wants[nr].block] &= (uint8_t)~AT_NAMED;
}

static void forget_stale(struct kvt_kernel_fetch *f)
{
	uint32_t i = f->nr_unclaimed;

	while (i--) {
		uint32_t b = f->unclaimed[i];

		if (f->at[b] & AT_NAMED)
			continue;
		if ((f->at[b] & AT_MASK) == AT_UNCLAIMED)
			forget_ahead(f, b);
		else
			f->at[b] |= AT_STALE;
	}
}

/* What is resident first: it need not wait for room in the window. */
static void queue_wants(struct kvt_kernel_fetch *f, const struct kvt_want *wants, uint32_t nr,
			bool streamed)
{
	uint32_t i;

	for (i = 0; i < nr; i++)
		if (!(f->at[wants[i].block] & AT_STREAMED) == !streamed)
			f->wants[f->nr_wants++] = wants[i];
}

static void want(struct kvt_fetch *fetch, const struct kvt_want *wants, uint32_t nr,
		 const struct kvt_want *ahead, uint32_t nr_ahead)
{
	struct kvt_kernel_fetch *f = fetch_of(fetch);

	pthread_mutex_lock(&f->lock);
	if (nr_ahead)
		memcpy(f->ahead, ahead, nr_ahead * sizeof(*ahead));
	f->nr_ahead = nr_ahead;
	f->next_ahead = 0;
	take_list(f, wants, nr);
	take_list(f, ahead, nr_ahead);
	queue_wants(f, wants, nr, false);
	queue_wants(f, wants, nr, true);
	forget_stale(f);
	unname(f, wants, nr);
	unname(f, ahead, nr_ahead);
	pump(f);
	pthread_cond_broadcast(&f->come);
	pthread_mutex_unlock(&f->lock);
}

static int take(struct kvt_fetch *fetch, struct kvt_arrival *arrival, bool wait)
{
	struct kvt_kernel_fetch *f = fetch_of(fetch);
	int ret = 0;

	pthread_mutex_lock(&f->lock);
	if (!f->reaping)
		reap(f);
	while (wait && !f->nr_arrivals)
		wait_for_one(f);
	if (f->nr_arrivals) {
		*arrival = f->arrivals[f->first_arrival];
		f->first_arrival = (f->first_arrival + 1) % f->nr_blocks;
		f->nr_arrivals--;
		ret = 1;
	}
	pthread_mutex_unlock(&f->lock);
	return ret;
}

static void run(struct kvt_pool *pool, enum kvtier_op op, uint32_t b)
{
	struct kvtier_range range = { .offset = (uint64_t)b << pool->block_shift,
				      .length = pool->block_bytes };

	kvt_kernel_range_op(pool, op, KVTIER_TIER_NONE, 0, &range, 1);
}

static void done(struct kvt_fetch *fetch, const struct kvt_arrival *arrival, bool keep)
{
	struct kvt_kernel_fetch *f = fetch_of(fetch);

	if (arrival->error)
		return;
	if (!keep)
		run(fetch->pool, KVTIER_OP_COLD, arrival->block);
	run(fetch->pool, KVTIER_OP_UNPIN, arrival->block);
	pthread_mutex_lock(&f->lock);
	f->nr_pins--;
	leave_window(f, arrival->block);
	f->paused = false;
	pump(f);
	pthread_cond_broadcast(&f->come); /* there may be something to reap again */
	pthread_mutex_unlock(&f->lock);
}

/* It stays so until a block arrives, or fails for want of room. */
static void starve(struct kvt_fetch *fetch)
{
	struct kvt_kernel_fetch *f = fetch_of(fetch);

	pthread_mutex_lock(&f->lock);
	f->starving = !f->nr_commands && !f->nr_arrivals;
	pump(f);
	pthread_cond_broadcast(&f->come);
	pthread_mutex_unlock(&f->lock);
}

/* ---- open and close ------------------------------------------------------ */

static void free_fetch(struct kvt_kernel_fetch *f)
{
	free(f->at);
	free(f->wants);
	free(f->ahead);
	free(f->unclaimed);
	free(f->arrivals);
	free(f->infos);
	pthread_mutex_destroy(&f->lock);
	pthread_cond_destroy(&f->come);
	free(f);
}

static void close_fetch(struct kvt_fetch *fetch)
{
	struct kvt_kernel_fetch *f = fetch_of(fetch);
	struct io_uring_cqe *cqe;

	pthread_mutex_lock(&f->lock);
	f->nr_ahead = f->next_ahead = 0;
	while (f->nr_commands) {
		io_uring_wait_cqe(&f->ring, &cqe);
		reap(f);
	}
	while (f->nr_unclaimed) {
		run(fetch->pool, KVTIER_OP_COLD, f->unclaimed[0]);
		drop_unclaimed(f, f->unclaimed[0]);
	}
	pthread_mutex_unlock(&f->lock);
	atomic_fetch_sub(&kvt_kernel_of(fetch->pool)->nr_fetches, 1);
	io_uring_queue_exit(&f->ring);
	free_fetch(f);
}

static const struct kvt_fetch_ops ops = {
	.close = close_fetch,
	.want = want,
	.take = take,
	.done = done,
	.starve = starve,
};

static int allocate(struct kvt_kernel_fetch *f)
{
	size_t nr = f->nr_blocks;

	f->at = calloc(nr, 1);
	f->wants = calloc(2 * nr, sizeof(*f->wants));
	f->ahead = calloc(nr, sizeof(*f->ahead));
	f->unclaimed = calloc(KVT_FETCH_WINDOW_MAX, sizeof(*f->unclaimed));
	f->arrivals = calloc(nr, sizeof(*f->arrivals));
	f->infos = calloc(nr, sizeof(*f->infos));
	if (f->at && f->wants && f->ahead && f->unclaimed && f->arrivals && f->infos)
		return 0;
	return -ENOMEM;
}

/* The window, and how much may be pinned. */
static int size_up(struct kvt_kernel_fetch *f)
{
	const struct kvt_pool *pool = f->fetch.pool;
	struct kvtier_stats stats;
	uint32_t frames;
	int ret = kvt_kernel_stats(f->fetch.pool, &stats);

	if (ret)
		return kvt_fail(ret, "the module does not say what the pool's budgets are: %s",
				strerror(-ret));
	frames = (uint32_t)((stats.tier[KVTIER_TIER_DRAM].budget_bytes +
			     stats.tier[KVTIER_TIER_CXL].budget_bytes) >> pool->block_shift);
	if (!f->fetch.window)
		f->fetch.window = kvt_fetch_window_most(frames, pool->block_bytes);
	f->pins_max = frames > 2 * KVTIER_FRAMES_MIN ? frames - KVTIER_FRAMES_MIN - frames / 8 : 1;
	return 0;
}

static int init_ring(struct kvt_kernel_fetch *f)
{
	int ret = io_uring_queue_init(RING_ENTRIES, &f->ring, 0);

	if (ret == -EPERM || ret == -EACCES)
		return kvt_fail(-EPERM,
				"io_uring is forbidden here: run `sysctl -w "
				"kernel.io_uring_disabled=0` as root or allow the system call");
	return ret ? kvt_fail(ret, "cannot set up io_uring: %s", strerror(-ret)) : 0;
}

int kvt_kernel_fetch_open(struct kvt_pool *pool, uint32_t window, struct kvt_fetch **fetch)
{
	struct kvt_kernel_fetch *f = calloc(1, sizeof(*f));
	int ret;

	if (!f)
		return -ENOMEM;
	f->fetch = (struct kvt_fetch){ .ops = &ops, .pool = pool, .window = window };
	f->nr_blocks = (uint32_t)(pool->bytes >> pool->block_shift);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->come, NULL);
	ret = allocate(f);
	if (!ret)
		ret = size_up(f);
	if (!ret)
		ret = init_ring(f);
	if (ret) {
		free_fetch(f);
		return ret;
	}
	atomic_fetch_add(&kvt_kernel_of(pool)->nr_fetches, 1);
	*fetch = &f->fetch;
	return 0;
}
