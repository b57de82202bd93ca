// SPDX-License-Identifier: MIT
/* The loop: completions, descriptors that are ready, timers. */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "kvtierd.h"

#define RING_ENTRIES 1024
#define MANY_CPUS 4
#define ARM_AGAIN_NS (10 * NS_PER_MS)
#define SLEEP_MAX_NS (3600 * NS_PER_S)

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void arm_late(struct kvtierd *d);

int loop_init(struct kvtierd *d)
{
	struct io_uring_params params = { .flags = IORING_SETUP_CQSIZE, .cq_entries = 8192 };
	int ret = io_uring_queue_init_params(RING_ENTRIES, &d->ring, &params);

	if (ret)
		return kvt_fail(ret, "cannot set up io_uring: %s", strerror(-ret));
	d->started_ns = d->turn_ns = now_ns();
	timer_add(d, &d->late_timer, arm_late);
	d->many_cpus = sysconf(_SC_NPROCESSORS_ONLN) >= MANY_CPUS;
	return 0;
}

struct io_uring_sqe *loop_sqe(struct kvtierd *d, struct op *op)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&d->ring);

	while (!sqe) {
		io_uring_submit(&d->ring);
		sqe = io_uring_get_sqe(&d->ring);
	}
	/* Preparing resets the data: who prepares sets it again through this pointer. */
	io_uring_sqe_set_data(sqe, op);
	return sqe;
}

/* ---- watches ----------------------------------------------------------------------------- */

static void arm(struct watch *w)
{
	struct io_uring_sqe *sqe = loop_sqe(w->d, &w->op);

	io_uring_prep_poll_multishot(sqe, w->fd, (unsigned int)w->events);
	io_uring_sqe_set_data(sqe, &w->op);
}

static void watch_done(struct op *op, int res)
{
	struct watch *w = (struct watch *)op;

	w->error = res < 0 ? res : 0;
	if (w->ready && res >= 0)
		w->ready(w->arg);
}

/* The last completion of a watch: it is armed again, or gone. */
static void watch_ended(struct watch *w)
{
	struct kvtierd *d = w->d;

	if (!w->ready) {
		d->nr_watches--;
		free(w);
		return;
	}
	if (!w->error) {
		arm(w);
		return;
	}
	/* For want of memory, say; at once it would fail again.  Nothing is missed: a new poll
	 * tells what is ready by then. */
	w->next = d->late;
	d->late = w;
	timer_within(d, &d->late_timer, ARM_AGAIN_NS);
}

static void arm_late(struct kvtierd *d)
{
	struct watch *w, *next;

	w = d->late;
	d->late = NULL;
	for (; w; w = next) {
		next = w->next;
		w->error = 0;
		if (w->ready)
			arm(w);
		else
			watch_ended(w);
	}
}

static struct watch *start(struct kvtierd *d, int fd, short events, void (*ready)(void *arg),
			   void *arg)
{
	struct watch *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	*w = (struct watch){ .op.done = watch_done, .d = d, .fd = fd, .events = events,
			     .ready = ready, .arg = arg };
	d->nr_watches++;
	arm(w);
	return w;
}

struct watch *watch_start(struct kvtierd *d, int fd, void (*ready)(void *arg), void *arg)
{
	return start(d, fd, POLLIN, ready, arg);
}

struct watch *watch_room(struct kvtierd *d, int fd, void (*ready)(void *arg), void *arg)
{
	return start(d, fd, POLLOUT, ready, arg);
}

void watch_stop(struct watch *w)
{
	struct io_uring_sqe *sqe;

	if (!w)
		return;
	w->ready = NULL;
	sqe = loop_sqe(w->d, NULL);
	io_uring_prep_cancel(sqe, &w->op, 0);
	io_uring_sqe_set_data(sqe, NULL);
}

/* ---- what clients share with us ---------------------------------------------------------- */

void close_elsewhere(struct kvtierd *d, int fd)
{
	struct io_uring_sqe *sqe = loop_sqe(d, NULL);

	io_uring_prep_close(sqe, fd);
	io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
	io_uring_sqe_set_data(sqe, NULL);
}

void empty_elsewhere(struct kvtierd *d, int fd, uint64_t bytes)
{
	struct io_uring_sqe *sqe;

	if (io_uring_sq_space_left(&d->ring) < 2)
		io_uring_submit(&d->ring); /* a chain is submitted at once */
	sqe = loop_sqe(d, NULL);
	io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
				(off_t)bytes);
	io_uring_sqe_set_flags(sqe, IOSQE_IO_HARDLINK);
	io_uring_sqe_set_data(sqe, NULL);
	close_elsewhere(d, fd);
}

ssize_t read_now(int fd, void *buf, size_t bytes)
{
	struct iovec iov = { buf, bytes };
	ssize_t n = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
	int flags;

	if (n >= 0 || errno != EOPNOTSUPP)
		return n;
	/* A userfaultfd before Linux 6.10 knows its flag alone. */
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK)))
		return -1;
	return read(fd, buf, bytes);
}

int bell_make(int *ours, int *theirs)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK))
		return -errno;
	fcntl(fds[1], F_SETPIPE_SZ, 4096);
	*theirs = fds[0];
	*ours = fds[1];
	return 0;
}

/* Of a full one nobody has heard the last rings: one more says nothing new. */
void bell_ring(int ours)
{
	uint64_t one = 1;
	ssize_t n = write(ours, &one, sizeof(one));

	(void)n;
}

/* ---- timers ------------------------------------------------------------------------------ */

void timer_add(struct kvtierd *d, struct timer *t, void (*expire)(struct kvtierd *d))
{
	t->expire = expire;
	t->at_ns = 0;
	t->next = d->timers;
	d->timers = t;
}

void timer_within(struct kvtierd *d, struct timer *t, uint64_t ns)
{
	uint64_t at = d->turn_ns + ns;

	if (!t->at_ns || t->at_ns > at)
		t->at_ns = at;
}

static void expire(struct kvtierd *d)
{
	struct timer *t;

	for (t = d->timers; t; t = t->next) {
		if (!t->at_ns || t->at_ns > d->turn_ns)
			continue;
		t->at_ns = 0;
		t->expire(d);
	}
}

static uint64_t until_next(struct kvtierd *d)
{
	uint64_t now = now_ns(), least = SLEEP_MAX_NS;
	struct timer *t;

	for (t = d->timers; t; t = t->next) {
		if (!t->at_ns)
			continue;
		if (t->at_ns <= now)
			return 0;
		if (t->at_ns - now < least)
			least = t->at_ns - now;
	}
	return least;
}

/* ---- a turn ------------------------------------------------------------------------------ */

static void handle(const struct io_uring_cqe *cqe)
{
	struct op *op = io_uring_cqe_get_data(cqe);

	if (!op)
		return;
	op->done(op, cqe->res);
	if (op->done == watch_done && !(cqe->flags & IORING_CQE_F_MORE))
		watch_ended((struct watch *)op);
}

static void reap(struct kvtierd *d)
{
	struct io_uring_cqe *cqe;

	while (!io_uring_peek_cqe(&d->ring, &cqe)) {
		struct io_uring_cqe copy = *cqe;

		io_uring_cqe_seen(&d->ring, cqe);
		handle(&copy);
	}
}

void loop_run(struct kvtierd *d)
{
	while (!d->stop) {
		uint64_t ns = file_came() ? 0 : until_next(d);
		struct __kernel_timespec ts = { .tv_sec = (long long)(ns / NS_PER_S),
						.tv_nsec = (long long)(ns % NS_PER_S) };
		struct io_uring_cqe *cqe;

		if (ns)
			io_uring_submit_and_wait_timeout(&d->ring, &cqe, 1, &ts, NULL);
		else
			io_uring_submit(&d->ring);
		d->turn_ns = now_ns();
		reap(d);
		expire(d);
		prefetch_run(d);
		if (file_came()) {
			io_uring_submit(&d->ring);
			file_verify();
		}
		if (d->clients_gone)
			clients_reap(d);
	}
}

/* Watches that were stopped end with a completion. */
void loop_exit(struct kvtierd *d)
{
	struct __kernel_timespec ts = { .tv_nsec = 10 * NS_PER_MS };
	struct io_uring_cqe *cqe;
	int tries;

	arm_late(d);
	for (tries = 0; d->nr_watches && tries < 100; tries++) {
		io_uring_submit_and_wait_timeout(&d->ring, &cqe, 1, &ts, NULL);
		reap(d);
	}
	io_uring_queue_exit(&d->ring);
}
