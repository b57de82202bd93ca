// SPDX-License-Identifier: MIT
/* What may block (fsync, rename) runs in a second thread; its end comes to the loop. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "kvtierd.h"

struct jobs {
	struct kvtierd *d;
	pthread_t thread;
	struct watch *watch;
	int done_fd;

	pthread_mutex_t lock; /* guards the fields below */
	pthread_cond_t more;
	struct job *todo, **todo_end;
	struct finished {
		struct job *job;
		int result;
	} *finished;
	uint32_t nr_finished, room;
	bool stop;
};

static struct job *next_job(struct jobs *j)
{
	struct job *job;

	pthread_mutex_lock(&j->lock);
	while (!j->todo && !j->stop)
		pthread_cond_wait(&j->more, &j->lock);
	job = j->todo;
	if (job) {
		j->todo = job->next;
		if (!j->todo)
			j->todo_end = &j->todo;
	}
	pthread_mutex_unlock(&j->lock);
	return job;
}

static void *job_thread(void *arg)
{
	struct jobs *j = arg;
	struct job *job;

	prctl(PR_SET_NAME, "kvtierd-job");
	while ((job = next_job(j))) {
		int result = job->work(job);

		pthread_mutex_lock(&j->lock);
		j->finished[j->nr_finished++] = (struct finished){ job, result };
		pthread_mutex_unlock(&j->lock);
		eventfd_write(j->done_fd, 1);
	}
	return NULL;
}

static void jobs_done(void *arg)
{
	struct jobs *j = arg;
	struct finished f;
	eventfd_t ignored;

	eventfd_read(j->done_fd, &ignored);
	for (;;) {
		pthread_mutex_lock(&j->lock);
		f = j->nr_finished ? j->finished[--j->nr_finished] : (struct finished){ NULL, 0 };
		if (f.job)
			j->room--;
		pthread_mutex_unlock(&j->lock);
		if (!f.job)
			return;
		f.job->done(f.job, f.result);
	}
}

int job_start(struct kvtierd *d)
{
	struct jobs *j = calloc(1, sizeof(*j));
	sigset_t all, old;
	int ret;

	if (!j)
		return -ENOMEM;
	j->d = d;
	j->todo_end = &j->todo;
	pthread_mutex_init(&j->lock, NULL);
	pthread_cond_init(&j->more, NULL);
	j->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (j->done_fd < 0)
		return kvt_fail(-errno, "cannot make an eventfd: %s", strerror(errno));
	d->jobs = j;
	j->watch = watch_start(d, j->done_fd, jobs_done, j);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&j->thread, NULL, job_thread, j);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ret ? kvt_fail(-ret, "cannot start a thread: %s", strerror(ret)) : 0;
}

/* Jobs that were begun are finished. */
void job_stop(struct kvtierd *d)
{
	struct jobs *j = d->jobs;

	if (!j)
		return;
	pthread_mutex_lock(&j->lock);
	j->stop = true;
	pthread_cond_signal(&j->more);
	pthread_mutex_unlock(&j->lock);
	pthread_join(j->thread, NULL);
	jobs_done(j);
	watch_stop(j->watch);
	close(j->done_fd);
	free(j->finished);
	free(j);
	d->jobs = NULL;
}

void job_submit(struct kvtierd *d, struct job *job)
{
	struct jobs *j = d->jobs;
	struct finished *finished;

	pthread_mutex_lock(&j->lock);
	/* Room for its end is made now, so that its end cannot fail. */
	finished = realloc(j->finished, (j->room + 1) * sizeof(*finished));
	if (finished) {
		j->finished = finished;
		j->room++;
		job->next = NULL;
		*j->todo_end = job;
		j->todo_end = &job->next;
		pthread_cond_signal(&j->more);
	}
	pthread_mutex_unlock(&j->lock);
	if (!finished)
		job->done(job, -ENOMEM);
}
