// SPDX-License-Identifier: MIT
/*
 * What a client asks for that needs the disk of state-dir: one errand after the other, each
 * in steps.  What is decided is decided in the loop; what may block runs in the second
 * thread.  A disk that stalls holds up errands alone, and who waits for one not longer than
 * until its deadline.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvtierd.h"

#define LOOK_NS (100 * NS_PER_MS)

static void answer(struct errand *e, int ret)
{
	if (ret)
		request_end(e->request, ret, NULL, 0);
	else
		request_close(e->request);
	manifest_free(&e->manifest);
	free(e);
}

/* The one under way has come to its end. */
static void finish(struct kvtierd *d, int ret)
{
	struct errand *e = d->errand;

	d->errand = NULL;
	answer(e, ret);
}

static struct errand *take_first(struct kvtierd *d)
{
	struct errand *e = d->errands;

	d->errands = e->next;
	if (!d->errands)
		d->errands_end = &d->errands;
	return e;
}

static void next(struct kvtierd *d)
{
	struct errand *e;
	int ret;

	while (!d->stop && !d->errand && d->errands) {
		e = d->errand = take_first(d);
		kvt_fail(0, "%s", "");
		ret = e->request->client->gone ? 0 : e->begin(e);
		if (ret == ERRAND_WORKS)
			return;
		finish(d, ret);
	}
}

/* ---- work -------------------------------------------------------------------------------- */

static int do_work(struct job *job)
{
	struct errand *e = (struct errand *)job;
	int ret = e->work(e);

	if (ret)
		snprintf(e->why, sizeof(e->why), "%s", kvt_error_detail());
	return ret;
}

static void work_done(struct job *job, int result)
{
	struct errand *e = (struct errand *)job;
	struct kvtierd *d = e->d;
	int ret;

	if (result)
		kvt_fail(result, "%s", e->why[0] ? e->why : strerror(-result));
	ret = e->then(e, result);
	if (ret == ERRAND_WORKS)
		return;
	finish(d, ret);
	next(d);
}

int errand_work(struct errand *e, int (*work)(struct errand *e),
		int (*then)(struct errand *e, int result))
{
	e->work = work;
	e->then = then;
	e->why[0] = 0;
	if (e->d->stop) /* the second thread has ended, or does not begin anything more */
		return then(e, work(e));
	e->job = (struct job){ .work = do_work, .done = work_done };
	job_submit(e->d, &e->job);
	return ERRAND_WORKS;
}

/* ---- come and go ------------------------------------------------------------------------- */

int errand_new(struct client *c, const struct kvt_msg *msg, struct errand **errand)
{
	struct errand *e = calloc(1, sizeof(*e));
	int ret;

	if (!e)
		return kvt_fail(-ENOMEM, "no memory for a request");
	ret = request_begin(c, msg, &e->request);
	if (ret) {
		free(e);
		return ret;
	}
	e->d = c->d;
	e->tenant = c->tenant;
	e->fd = -1;
	e->until_ns = c->d->turn_ns + ERRAND_NS;
	*errand = e;
	return 0;
}

void errand_run(struct errand *e)
{
	struct kvtierd *d = e->d;

	e->next = NULL;
	*d->errands_end = e;
	d->errands_end = &e->next;
	timer_within(d, &d->errand_timer, LOOK_NS);
	next(d);
}

struct client *errand_client(const struct errand *e)
{
	return e->request && !e->request->client->gone ? e->request->client : NULL;
}

static bool expire(struct errand *e)
{
	struct kvtierd *d = e->d;

	if (!e->request || d->turn_ns < e->until_ns)
		return false;
	d->count.deadline_misses++;
	kvt_fail(-ETIMEDOUT, "the disk of %s does not answer", d->config.state_dir);
	request_end(e->request, -ETIMEDOUT, NULL, 0);
	e->request = NULL;
	return true;
}

/* Who has waited for too long is told so; what was begun comes to its end, however late. */
void errands_expire(struct kvtierd *d)
{
	struct errand **at = &d->errands, *e;

	if (d->errand)
		expire(d->errand);
	while ((e = *at)) {
		if (!expire(e)) {
			at = &e->next;
			continue;
		}
		*at = e->next;
		free(e);
	}
	d->errands_end = at;
	if (d->errand || d->errands)
		timer_within(d, &d->errand_timer, LOOK_NS);
}

/* The daemon ends: nothing of these was begun. */
void errands_stop(struct kvtierd *d)
{
	while (d->errands)
		answer(take_first(d), 0);
}
