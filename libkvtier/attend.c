// SPDX-License-Identifier: MIT
/* A call of attention, from its arguments to its outputs. */
#include <errno.h>
#include <fenv.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attend.h"
#include "error.h"

#define THREADS_MAX 1024

static void plain_start(struct kvt_source *source, const struct kvt_work *work)
{
	struct kvt_source_plain *plain = (struct kvt_source_plain *)source;

	plain->nr_tasks = work->nr_tasks;
	atomic_store(&plain->next, 0);
}

static int64_t plain_next(struct kvt_source *source, unsigned int worker, bool wait)
{
	struct kvt_source_plain *plain = (struct kvt_source_plain *)source;
	uint32_t task = atomic_fetch_add(&plain->next, 1);

	(void)worker;
	(void)wait;
	return task < plain->nr_tasks ? (int64_t)task : KVT_TASK_NONE;
}

void kvt_source_plain_init(struct kvt_source_plain *plain)
{
	memset(plain, 0, sizeof(*plain));
	plain->source.start = plain_start;
	plain->source.next = plain_next;
}

/* What the workers of a pass share. */
struct pass {
	struct kvt_attend *attend;
	struct kvt_work *work;
	struct kvt_source *source;
	atomic_uint next_merge;
};

static void run_tasks(void *arg, unsigned int worker)
{
	struct pass *pass = arg;
	struct kvt_source *source = pass->source;
	struct kvt_work *w = pass->work;
	int64_t task = source->next(source, worker, true), after;
	int none = 0;

	while (task >= 0 && !atomic_load(&w->error)) {
		after = source->next(source, worker, false);
		kvt_task_run(w, &w->tasks[task], after >= 0 ? &w->tasks[after] : NULL,
			     &pass->attend->scratch[worker]);
		if (source->done)
			source->done(source, (uint32_t)task, worker);
		if (after == KVT_TASK_LATER)
			after = source->next(source, worker, true);
		task = after;
	}
	if (task < KVT_TASK_LATER)
		atomic_compare_exchange_strong(&w->error, &none, (int)(task + 2));
}

static void run_merges(void *arg, unsigned int worker)
{
	struct pass *pass = arg;
	const struct kvt_work *w = pass->work;
	uint32_t item, nr = w->nr_seqs * w->params.kv_heads;

	(void)worker;
	while ((item = atomic_fetch_add(&pass->next_merge, 1)) < nr)
		kvt_merge_head(w, item / w->params.kv_heads, item % w->params.kv_heads);
}

static int run_pass(struct pass *pass, uint32_t number)
{
	struct kvt_work *w = pass->work;
	uint32_t i;

	kvt_work_start(w, number);
	atomic_store(&pass->next_merge, 0);
	if (pass->source->start)
		pass->source->start(pass->source, w);
	kvt_team_run(pass->attend->team, run_tasks, pass);
	if (atomic_load(&w->error))
		return atomic_load(&w->error);
	kvt_team_run(pass->attend->team, run_merges, pass);
	for (i = 0; i < w->nr_seqs; i++)
		if (w->seqs[i].mass)
			kvt_merge_mass(w, i);
	return 0;
}

static int run_passes(struct pass *pass)
{
	uint32_t i;
	int ret = 0;

	for (i = 0; !ret && i < pass->work->passes; i++)
		ret = run_pass(pass, i);
	for (i = 0; !ret && i < pass->work->nr_seqs; i++)
		kvt_merge_write(pass->work, i);
	return ret;
}

int kvt_work_run(struct kvt_attend *attend, struct kvt_work *w, struct kvt_source *source)
{
	struct pass pass = { .attend = attend, .work = w, .source = source };
	fenv_t caller;
	int ret;

	/* The caller's rounding and treatment of denormals are not to be seen in the bits. */
	fegetenv(&caller);
	fesetenv(FE_DFL_ENV);
	ret = run_passes(&pass);
	fesetenv(&caller);
	return ret;
}

static int attend_plain(void *ctx, const struct kvt_attend_params *params,
			const struct kvt_attend_seq *seqs, uint32_t nr)
{
	struct kvt_attend *attend = ctx;
	struct kvt_source_plain plain;
	struct kvt_work w;
	int ret;

	kvt_source_plain_init(&plain);
	pthread_mutex_lock(&attend->lock);
	ret = kvt_work_init(&w, attend, params, seqs, nr);
	if (!ret)
		ret = kvt_work_run(attend, &w, &plain.source);
	pthread_mutex_unlock(&attend->lock);
	return ret;
}

int kvt_attend(struct kvt_attend *attend, const struct kvt_attend_params *params,
	       const struct kvt_attend_seq *seqs, uint32_t nr)
{
	int ret;

	if (!attend)
		return kvt_fail(-EINVAL, "kvt_attend: attend is NULL; make one with "
				"kvt_attend_create()");
	if (attend->owner != getpid())
		return kvt_fail(-ECHILD, "the threads of this kvt_attend belong to the parent "
				"process; create another");
	ret = kvt_attend_check(params, seqs, nr);
	if (ret)
		return ret;
	if (kvt_attend_skips(params))
		return kvt_attend_skipping(params, seqs, nr, attend_plain, attend);
	return attend_plain(attend, params, seqs, nr);
}

static int check_config(const struct kvt_attend_config *c)
{
	if (c->size != sizeof(*c))
		return kvt_fail(-EINVAL, "config: use KVT_ATTEND_CONFIG_INIT");
	if (c->flags & ~KVT_ATTEND_NO_PIN)
		return kvt_fail(-EINVAL, "config: unknown flags %#x", c->flags);
	if (c->threads > THREADS_MAX)
		return kvt_fail(-EINVAL, "%u threads: at most %u", c->threads, THREADS_MAX);
	return 0;
}

static int create(struct kvt_attend *a, const struct kvt_attend_config *config)
{
	int ret = kvt_isa_find(config->isa, &a->isa);

	if (!ret)
		ret = kvt_team_create(&a->team, config->threads,
				      !(config->flags & KVT_ATTEND_NO_PIN));
	if (ret)
		return ret;
	a->scratch = aligned_alloc(64, kvt_team_threads(a->team) * sizeof(*a->scratch));
	return a->scratch ? 0 : kvt_fail(-ENOMEM, "no memory for %u threads",
					 kvt_team_threads(a->team));
}

int kvt_attend_create(const struct kvt_attend_config *config, struct kvt_attend **attend)
{
	static const struct kvt_attend_config defaults = KVT_ATTEND_CONFIG_INIT;
	struct kvt_attend *a;
	int ret;

	if (!attend)
		return kvt_fail(-EINVAL, "kvt_attend_create: attend is NULL");
	ret = check_config(config ? config : &defaults);
	if (ret)
		return ret;
	a = calloc(1, sizeof(*a));
	if (!a)
		return kvt_fail(-ENOMEM, "no memory");
	a->owner = getpid();
	pthread_mutex_init(&a->lock, NULL);
	ret = create(a, config ? config : &defaults);
	if (ret) {
		kvt_attend_destroy(a);
		return ret;
	}
	*attend = a;
	return 0;
}

void kvt_attend_destroy(struct kvt_attend *a)
{
	if (!a)
		return;
	if (a->team && a->owner == getpid())
		kvt_team_destroy(a->team);
	pthread_mutex_destroy(&a->lock);
	free(a->scratch);
	free(a->memory);
	free(a);
}

void kvt_attend_trim(struct kvt_attend *a, size_t bytes)
{
	pthread_mutex_lock(&a->lock);
	if (a->memory_bytes > bytes) {
		free(a->memory);
		a->memory = NULL;
		a->memory_bytes = 0;
	}
	pthread_mutex_unlock(&a->lock);
}

const char *kvt_attend_isa(const struct kvt_attend *attend)
{
	return attend->isa->name;
}

uint32_t kvt_attend_threads(const struct kvt_attend *attend)
{
	return kvt_team_threads(attend->team);
}
