// SPDX-License-Identifier: MIT
/* Threads that wait for work together, each on a CPU of its own. */
#define _GNU_SOURCE
#include <errno.h>
#include <numa.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "attend.h"
#include "error.h"

struct worker {
	struct kvt_team *team;
	pthread_t thread;
	unsigned int number;
	int cpu; /* -1: any */
	int node;
};

/*
 * @lock:  guards all that follows
 * @turn:  counts calls of kvt_team_run(); a worker that sees a new one runs
 * @busy:  workers that have not finished this turn
 */
struct kvt_team {
	uint32_t threads;
	pthread_mutex_t lock;
	pthread_cond_t go;
	pthread_cond_t through;
	uint64_t turn;
	uint32_t busy;
	bool stop;
	void (*run)(void *arg, unsigned int worker);
	void *arg;
	struct worker workers[];
};

/* Wait for a turn after @turn; false: there will be none. */
static bool wait_turn(struct kvt_team *team, uint64_t turn)
{
	bool stop;

	pthread_mutex_lock(&team->lock);
	while (team->turn == turn && !team->stop)
		pthread_cond_wait(&team->go, &team->lock);
	stop = team->stop;
	pthread_mutex_unlock(&team->lock);
	return !stop;
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	struct kvt_team *team = worker->team;
	uint64_t turn;

	for (turn = 0; wait_turn(team, turn); turn++) {
		team->run(team->arg, worker->number);
		pthread_mutex_lock(&team->lock);
		if (!--team->busy)
			pthread_cond_signal(&team->through);
		pthread_mutex_unlock(&team->lock);
	}
	return NULL;
}

void kvt_team_run(struct kvt_team *team, void (*run)(void *arg, unsigned int worker), void *arg)
{
	if (team->threads == 1) {
		run(arg, 0);
		return;
	}
	pthread_mutex_lock(&team->lock);
	team->run = run;
	team->arg = arg;
	team->busy = team->threads;
	team->turn++;
	pthread_cond_broadcast(&team->go);
	while (team->busy)
		pthread_cond_wait(&team->through, &team->lock);
	pthread_mutex_unlock(&team->lock);
}

static int node_of(int cpu)
{
	return numa_available() < 0 ? 0 : numa_node_of_cpu(cpu);
}

static int by_node(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;

	return node_of(x) != node_of(y) ? node_of(x) - node_of(y) : x - y;
}

/* CPUs that this thread may use, node by node. */
static uint32_t own_cpus(int *cpus)
{
	uint32_t nr = 0;
	cpu_set_t set;
	int i;

	if (sched_getaffinity(0, sizeof(set), &set))
		return 0;
	for (i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &set))
			cpus[nr++] = i;
	qsort(cpus, nr, sizeof(*cpus), by_node);
	return nr;
}

/* The signals of the program are not for these threads; SIGBUS is for whom it concerns. */
static int start(struct worker *worker)
{
	sigset_t all, old;
	cpu_set_t set;
	int ret;

	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&worker->thread, NULL, work, worker);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret)
		return kvt_fail(-ret, "thread %u cannot be made: %s; ask for fewer", worker->number,
				strerror(ret));
	if (worker->cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET(worker->cpu, &set);
		/* A CPU that went away meanwhile: the thread runs elsewhere. */
		if (pthread_setaffinity_np(worker->thread, sizeof(set), &set))
			worker->node = -1;
	}
	return 0;
}

static void stop(struct kvt_team *team, uint32_t started)
{
	uint32_t i;

	pthread_mutex_lock(&team->lock);
	team->stop = true;
	pthread_cond_broadcast(&team->go);
	pthread_mutex_unlock(&team->lock);
	for (i = 0; i < started; i++)
		pthread_join(team->workers[i].thread, NULL);
	pthread_cond_destroy(&team->through);
	pthread_cond_destroy(&team->go);
	pthread_mutex_destroy(&team->lock);
	free(team);
}

static struct kvt_team *plan(uint32_t threads, bool pin)
{
	int cpus[CPU_SETSIZE];
	uint32_t nr = own_cpus(cpus), i;
	struct kvt_team *team;

	if (!threads)
		threads = nr ? nr : 1;
	team = calloc(1, sizeof(*team) + threads * sizeof(team->workers[0]));
	if (!team)
		return NULL;
	team->threads = threads;
	for (i = 0; i < threads; i++) {
		team->workers[i].team = team;
		team->workers[i].number = i;
		team->workers[i].cpu = pin && nr ? cpus[i % nr] : -1;
		team->workers[i].node = pin && nr ? node_of(cpus[i % nr]) : -1;
	}
	pthread_mutex_init(&team->lock, NULL);
	pthread_cond_init(&team->go, NULL);
	pthread_cond_init(&team->through, NULL);
	return team;
}

int kvt_team_create(struct kvt_team **result, uint32_t threads, bool pin)
{
	struct kvt_team *team = plan(threads, pin);
	uint32_t i;
	int ret;

	if (!team)
		return kvt_fail(-ENOMEM, "no memory for %u threads", threads);
	for (i = 0; team->threads > 1 && i < team->threads; i++) {
		ret = start(&team->workers[i]);
		if (ret) {
			stop(team, i);
			return ret;
		}
	}
	*result = team;
	return 0;
}

void kvt_team_destroy(struct kvt_team *team)
{
	stop(team, team->threads > 1 ? team->threads : 0);
}

uint32_t kvt_team_threads(const struct kvt_team *team)
{
	return team->threads;
}

int kvt_team_node(const struct kvt_team *team, unsigned int worker)
{
	return team->threads > 1 ? team->workers[worker].node : -1;
}
