// SPDX-License-Identifier: MIT
/*
 * Lanes: threads of each NUMA node that compute queries, and whose query is next.
 *
 * A query goes to the node next to most of its blocks.  There a few are computed at once, each by
 * threads on all of the node's CPUs, so that the scheduler divides these among them, and none
 * waits for another's disk.  A tenant that has a query in a lane does not get the node's last
 * free one.  Next is who has the fewest in lanes, then who had the least time for his weight;
 * of one tenant, who came first.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <numa.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "attention.h"
#include "stream.h"

/* A lane keeps so much memory for partial results between queries. */
#define KEEP_BYTES (64ul << 20)
/* Frames of a memory file's pool for each query over it that is computed. */
#define FRAMES_A_QUERY 8

/* ---- what cannot be had of a pool of the module -------------------------------------------- */

/*
 * Touching it is SIGBUS.  It hits the thread that touched it, and concerns the query alone for
 * which that mapping was made: zeroes take the mapping's place, and the query is an error.
 */
static struct guard {
	uintptr_t start, end; /* end 0: free */
	bool hit;
} guards[ATTEND_NODES * ATTEND_LANES];

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	uintptr_t at = (uintptr_t)info->si_addr;
	size_t i;

	(void)context;
	for (i = 0; i < sizeof(guards) / sizeof(guards[0]); i++) {
		uintptr_t end = __atomic_load_n(&guards[i].end, __ATOMIC_ACQUIRE);

		if (at < guards[i].start || at >= end)
			continue;
		__atomic_store_n(&guards[i].hit, true, __ATOMIC_RELEASE);
		if (mmap((void *)guards[i].start, end - guards[i].start, PROT_READ,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
			 0) != MAP_FAILED)
			return;
	}
	sigaction(signal, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL);
}

static void guard_begin(struct guard *g, const struct reader *r)
{
	if (!r->pool->module)
		return;
	g->start = (uintptr_t)r->view.addr;
	g->hit = false;
	__atomic_store_n(&g->end, g->start + r->view.bytes, __ATOMIC_RELEASE);
}

static bool guard_end(struct guard *g, struct reader *r)
{
	bool hit = __atomic_load_n(&g->hit, __ATOMIC_ACQUIRE);

	__atomic_store_n(&g->end, 0, __ATOMIC_RELEASE);
	if (hit && r->pool->module)
		reader_unmap(r);
	return hit && r->pool->module;
}

/* ---- a lane's thread ------------------------------------------------------------------------ */

static int ready(struct lane *l, struct attend_ring *r)
{
	struct kvt_attend_config config = KVT_ATTEND_CONFIG_INIT;
	struct kvt_stream_config over = KVT_STREAM_CONFIG_INIT;
	int ret = 0;

	config.threads = l->s->d->config.attend_threads;
	if (!l->attend)
		ret = kvt_attend_create(&config, &l->attend);
	if (ret)
		return ret;
	over.attend = l->attend;
	over.pool = &r->reader.view;
	if (!r->stream)
		return kvt_stream_create(&over, &r->stream);
	kvt_stream_move(r->stream, l->attend);
	return 0;
}

static int compute(struct lane *l, struct query *q)
{
	struct attend_ring *r = q->ring;
	struct guard *g = l->guard;
	int ret = ready(l, r);

	if (ret)
		return ret;
	guard_begin(g, &r->reader);
	ret = kvt_stream_attend(r->stream, &q->params, &q->seq, 1, NULL, 0, NULL);
	if (guard_end(g, &r->reader))
		ret = -EIO;
	kvt_attend_trim(l->attend, KEEP_BYTES);
	return ret;
}

static struct query *next_query(struct lane *l)
{
	struct query *q;

	pthread_mutex_lock(&l->s->lock);
	while (!l->query && !l->stop)
		pthread_cond_wait(&l->more, &l->s->lock);
	q = l->query;
	l->query = NULL;
	pthread_mutex_unlock(&l->s->lock);
	return q;
}

/* The threads that help it are made by it, on the CPUs that it may use. */
static void stay_on_node(const struct lane *l)
{
	struct bitmask *cpus;

	if (l->s->nr_nodes == 1)
		return;
	cpus = numa_allocate_cpumask();
	if (!numa_node_to_cpus(l->node->number, cpus))
		numa_sched_setaffinity(0, cpus);
	numa_free_cpumask(cpus);
}

static void *lane_thread(void *arg)
{
	struct lane *l = arg;
	struct query *q;

	prctl(PR_SET_NAME, "kvtierd-attend");
	stay_on_node(l);
	while ((q = next_query(l))) {
		uint64_t begun = now_ns();

		q->error = compute(l, q);
		q->spent_ns = now_ns() - begun;
		pthread_mutex_lock(&l->s->lock);
		q->next = l->s->done;
		l->s->done = q;
		pthread_mutex_unlock(&l->s->lock);
		eventfd_write(l->s->kick_fd, 1);
	}
	kvt_attend_destroy(l->attend);
	return NULL;
}

/* The daemon's signals are not for lanes; SIGBUS is for whom it concerns. */
static int start_thread(struct lane *l)
{
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&l->thread, NULL, lane_thread, l);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ret;
}

/* Lanes are made as they are needed. */
static struct lane *new_lane(struct attend_service *s, struct attend_node *n)
{
	struct lane *l = n->nr_lanes < s->d->config.attend_queries ? calloc(1, sizeof(*l)) : NULL;
	int ret;

	if (!l)
		return NULL;
	l->s = s;
	l->node = n;
	l->guard = &guards[(size_t)(n - s->nodes) * ATTEND_LANES + n->nr_lanes];
	pthread_cond_init(&l->more, NULL);
	n->lanes[n->nr_lanes] = l;
	ret = start_thread(l);
	if (!ret) {
		n->nr_lanes++;
		return l;
	}
	pthread_cond_destroy(&l->more);
	free(l);
	if (!n->nr_lanes)
		kvt_fail(-ret, "cannot make a thread: %s", strerror(ret));
	return NULL;
}

static struct lane *free_lane(struct attend_service *s, struct attend_node *n)
{
	uint32_t i;

	for (i = 0; i < n->nr_lanes; i++)
		if (!n->lanes[i]->running)
			return n->lanes[i];
	return new_lane(s, n);
}

/* ---- whose query is next -------------------------------------------------------------------- */

uint32_t lanes_running(const struct attend_node *n, const struct tenant *t)
{
	uint32_t i, nr = 0;

	for (i = 0; i < n->nr_lanes; i++)
		nr += n->lanes[i]->running && (!t || n->lanes[i]->running->pool->tenant == t);
	return nr;
}

/* Readers that each held a few blocks of little memory would stand in each other's way. */
static bool has_memory(const struct pool *p)
{
	uint64_t frames = p->t->budget[KVTIER_TIER_DRAM] >> p->shift;

	return p->module || !p->attending || (p->attending + 1ull) * FRAMES_A_QUERY <= frames;
}

static bool comes_before(const struct attend_node *n, const struct query *a, const struct query *b)
{
	const struct tenant *t = a->pool->tenant, *u = b->pool->tenant;
	uint32_t x = lanes_running(n, t), y = lanes_running(n, u);

	return x != y ? x < y : t != u && t->attend_time < u->attend_time;
}

static struct query *pick(struct attend_service *s, const struct attend_node *n)
{
	uint32_t all = s->d->config.attend_queries, left = all - lanes_running(n, NULL);
	struct query *q, *best = NULL;

	for (q = s->waiting; q; q = q->next) {
		if (&s->nodes[q->node] != n || !has_memory(q->pool))
			continue;
		if (left == 1 && all > 1 && lanes_running(n, q->pool->tenant))
			continue;
		if (!best || comes_before(n, q, best))
			best = q;
	}
	return best;
}

static void hand_over(struct attend_service *s, struct lane *l, struct query *q)
{
	lanes_forget(s, q);
	s->served = q->pool->tenant->attend_time;
	q->pool->attending++;
	l->running = q;
	pthread_mutex_lock(&s->lock);
	l->query = q;
	pthread_cond_signal(&l->more);
	pthread_mutex_unlock(&s->lock);
}

void lanes_go(struct attend_service *s)
{
	struct attend_node *n;

	for (n = s->nodes; n < s->nodes + s->nr_nodes; n++) {
		while (lanes_running(n, NULL) < s->d->config.attend_queries) {
			struct query *q = pick(s, n);
			struct lane *l = q ? free_lane(s, n) : NULL;

			if (!l)
				break;
			hand_over(s, l, q);
		}
	}
}

/* Time that a tenant had nothing to do in is not made up for later. */
void lanes_queue(struct attend_service *s, struct query *q)
{
	struct tenant *t = q->pool->tenant;
	struct query **at = &s->waiting;

	if (t->attend_time < s->served)
		t->attend_time = s->served;
	while (*at)
		at = &(*at)->next;
	q->node = nodes_choose(s, q);
	q->next = NULL;
	*at = q;
}

bool lanes_forget(struct attend_service *s, struct query *q)
{
	struct query **at = &s->waiting;

	while (*at && *at != q)
		at = &(*at)->next;
	if (!*at)
		return false;
	*at = q->next;
	return true;
}

struct query *lanes_done(struct attend_service *s)
{
	struct query *list, *q, *other;
	struct attend_node *n;
	struct lane **l;

	pthread_mutex_lock(&s->lock);
	list = s->done;
	s->done = NULL;
	pthread_mutex_unlock(&s->lock);
	for (q = list; q; q = q->next) {
		q->pool->tenant->attend_time += q->spent_ns / q->pool->tenant->weight;
		q->pool->attending--;
		for_each_running(s, n, l, other)
			if (other == q)
				(*l)->running = NULL;
	}
	return list;
}

/* ---- come and go ---------------------------------------------------------------------------- */

int lanes_start(struct attend_service *s)
{
	struct sigaction act = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
	uint32_t i;

	nodes_find(s);
	sigaction(SIGBUS, &act, NULL);
	/* One each, so that there is a thread for whoever comes. */
	for (i = 0; i < s->nr_nodes; i++)
		if (!new_lane(s, &s->nodes[i]))
			return -EAGAIN;
	return 0;
}

void lanes_stop(struct attend_service *s)
{
	struct attend_node *n;
	uint32_t i;

	for (n = s->nodes; n < s->nodes + s->nr_nodes; n++) {
		for (i = 0; i < n->nr_lanes; i++) {
			struct lane *l = n->lanes[i];

			pthread_mutex_lock(&s->lock);
			l->stop = true;
			pthread_cond_signal(&l->more);
			pthread_mutex_unlock(&s->lock);
			pthread_join(l->thread, NULL);
		}
	}
}

void lanes_free(struct attend_service *s)
{
	struct attend_node *n;
	uint32_t i;

	for (n = s->nodes; n < s->nodes + s->nr_nodes; n++) {
		for (i = 0; i < n->nr_lanes; i++) {
			pthread_cond_destroy(&n->lanes[i]->more);
			free(n->lanes[i]);
		}
		n->nr_lanes = 0;
	}
}
