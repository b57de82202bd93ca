// SPDX-License-Identifier: MIT
/* Caches in kvtierd's pools, and who decodes over them. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "share.h"

#define WARM_STEPS 6

/* ---- a cache in a pool -------------------------------------------------------------------- */

/* The layer's blocks are done with once it is attended to. */
static int attend_pool(struct place *p, struct model *m, uint32_t layer,
		       const struct kvt_attend_seq *seq)
{
	int ret = kvt_attend(m->attend, &m->params, seq, 1);

	(void)layer;
	return ret ? ret : kvt_plan_passed(p->pool, m->layer_blocks);
}

static void pool_open(struct place *p, struct model *m, struct kvt_client *c, const char *name)
{
	struct kvt_shared_config config = KVT_SHARED_CONFIG_INIT;

	config.name = name;
	config.model = "share";
	config.bytes = m->bytes;
	config.block_bytes = m->o->block_bytes;
	if (kvt_shared_create(c, &config, &p->pool))
		die("%s: %s", name, kvt_error_detail());
	p->base = kvt_pool_addr(p->pool);
	p->attend = attend_pool;
	model_place(m, p->base);
	model_fill(m, p->base);
	if (kvt_seal(p->pool, 0, m->bytes))
		die("%s: %s", name, kvt_error_detail());
}

/* All of the pool, in the order of a step. */
static void publish(struct place *p, const struct model *m, uint32_t flags)
{
	uint64_t nr = m->bytes / m->o->block_bytes, i;
	struct kvt_plan_range *ranges = calloc(nr, sizeof(*ranges));

	if (!ranges)
		die("no memory");
	for (i = 0; i < nr; i++)
		ranges[i] = (struct kvt_plan_range){ i * m->o->block_bytes, m->o->block_bytes };
	if (kvt_plan_publish(p->pool, ranges, (uint32_t)nr, flags))
		die("%s", kvt_error_detail());
	free(ranges);
}

static double timed_step(struct model *m, struct place *p)
{
	double start = now();

	if (model_step(m, p))
		die("a step: %s", kvt_error_detail());
	return now() - start;
}

/* ---- engines ------------------------------------------------------------------------------ */

static void wait_for(struct share *s, enum phase phase)
{
	while (s->phase < phase)
		usleep(1000);
}

/* The disk is being measured: say that we wait, and wait. */
static void hold(struct share *s, struct engine *e)
{
	if (s->phase != HOLD)
		return;
	__atomic_store_n(&e->held, 1, __ATOMIC_RELEASE);
	while (s->phase == HOLD)
		usleep(1000);
	e->nr = 0;
	__atomic_store_n(&e->held, 0, __ATOMIC_RELEASE);
}

/* A step counts for the phase in which all of it was. */
static void keep_time(struct engine *e, enum phase before, enum phase after, double seconds)
{
	if (before != after)
		return;
	if (before == QUIET && e->nr < STEPS)
		e->seconds[e->nr++] = seconds;
	if (before == TURNS) {
		e->nr_turns++;
		e->turns_s += seconds;
	}
}

void engine_run(struct share *s, struct engine *e, int number)
{
	struct place place = { 0 };
	struct kvt_client *c;
	struct model m;
	char name[32];
	uint32_t steps;

	wait_for(s, WARM);
	if (kvt_client_open(s->socket, &c))
		die("%s", kvt_error_detail());
	snprintf(name, sizeof(name), "engine-%d", number);
	model_init(&m, &s->engine);
	pool_open(&place, &m, c, name);
	publish(&place, &m, KVT_PLAN_REPEAT);
	for (steps = 0; s->phase < END; steps++) {
		enum phase before = s->phase;
		double seconds = timed_step(&m, &place);

		keep_time(e, before, s->phase, seconds);
		if (e->hash && m.hash != e->hash)
			die("engine %d: other bits than before", number);
		e->hash = m.hash;
		if (steps == WARM_STEPS)
			__atomic_store_n(&e->ready, 1, __ATOMIC_RELEASE);
		hold(s, e);
	}
	kvt_pool_destroy(place.pool);
	kvt_client_close(c);
	model_exit(&m);
}

static int attend_memory(struct place *p, struct model *m, uint32_t layer,
			 const struct kvt_attend_seq *seq)
{
	(void)p;
	(void)layer;
	return kvt_attend(m->attend, &m->params, seq, 1);
}

double resident_step(const struct options *o, uint64_t *hash)
{
	struct place place = { .attend = attend_memory };
	double seconds[WARM_STEPS];
	struct model m;
	int i;

	model_init(&m, o);
	place.base =
		mmap(NULL, m.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (place.base == MAP_FAILED)
		die("no memory for a cache of %zu MiB", m.bytes >> 20);
	model_place(&m, place.base);
	model_fill(&m, place.base);
	timed_step(&m, &place);
	for (i = 0; i < WARM_STEPS; i++)
		seconds[i] = timed_step(&m, &place);
	*hash = m.hash;
	munmap(place.base, m.bytes);
	model_exit(&m);
	return median(seconds, WARM_STEPS);
}

/* ---- sessions ----------------------------------------------------------------------------- */

void session_open(struct turn *t, struct kvt_client *c, const struct options *o, int number)
{
	char name[32];

	memset(t, 0, sizeof(*t));
	snprintf(name, sizeof(name), "session-%d", number);
	model_init(&t->model, o);
	pool_open(&t->place, &t->model, c, name);
	session_idle(t);
}

void session_idle(struct turn *t)
{
	if (kvt_plan_idle(t->place.pool))
		die("%s", kvt_error_detail());
}

double session_turn(struct turn *t)
{
	double start = now();

	publish(&t->place, &t->model, 0);
	timed_step(&t->model, &t->place);
	start = now() - start;
	if (t->hash && t->model.hash != t->hash)
		die("a session: other bits than before");
	t->hash = t->model.hash;
	return start;
}

void session_close(struct turn *t)
{
	kvt_pool_destroy(t->place.pool);
	model_exit(&t->model);
}
