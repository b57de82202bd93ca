/* SPDX-License-Identifier: MIT */
/*
 * The attention service: queries of clients that have not the memory next to them.
 *
 *	attend.c	rings: a client rings, gets its answer, goes away at any point
 *	attend_query.c	a query, copied out of its ring and checked
 *	attend_lane.c	threads that compute, and whose query is next
 *	attend_node.c	the NUMA nodes that they are on
 *	attend_reader.c	brings a query's blocks into memory while its lane computes
 *
 * The loop copies and checks a query, puts it in line, and gives it to a lane: a thread
 * on the CPUs of a node, which computes it by kvt_stream_attend(), as a client with a pool of
 * its own would.  So the bits are those of kvt_attend(), however little memory there is.
 *
 * The lane sees the pool through a reader, which is a pager to it: it says which blocks it
 * wants, the loop has them brought in and says when they have come.  A lane touches no block
 * of a memory file that was not said to have come and is held; of a pool of the module it may,
 * since the module serves the fault, and what cannot be had is an error of that query alone.
 */
#ifndef ATTENTION_H
#define ATTENTION_H

#include <pthread.h>

#include "fetch.h"
#include "kvtier_stream.h"
#include "kvtierd.h"
#include "pool.h"

#define ATTEND_NODES 16
#define ATTEND_LANES 64 /* of a node, at most */

struct attend_service;

/*
 * What a lane takes for a pool, and the blocks that it wants of it.  The loop's alone are
 * @pool, @coming, @held and @blocked_ns.
 */
struct reader {
	struct kvt_pool view; /* first: the stream's pool */
	struct kvt_fetch fetch;
	struct pool *pool;
	int kick_fd; /* an eventfd of the loop */
	uint32_t *coming, nr_coming; /* begun, and not come */
	uint32_t held; /* blocks of the memory file that stay for it */
	uint64_t blocked_ns; /* since when it gets no memory; 0: it does */

	pthread_mutex_t lock; /* guards the fields below */
	pthread_cond_t come;
	uint32_t room; /* of the lists below */
	uint32_t *wants, next, nr; /* those from next on are not begun */
	struct kvt_arrival *arrivals;
	uint32_t nr_arrived, nr_taken;
	uint32_t share; /* blocks that it may have at once */
	uint32_t *back, nr_back; /* given back; with the bit GO_FIRST: to leave first */
	bool starving;
	bool kicked; /* the loop knows */
	bool cancelled;
	int failed; /* all that is still wanted comes with this error */
};

void reader_init(struct reader *r, struct pool *p, int kick_fd);
void reader_exit(struct reader *r);
/* Lists for so many different blocks; no call is under way. */
int reader_provide(struct reader *r, uint32_t nr);
/* The pool's address for lanes: a mapping of our own, if it is the module's. */
int reader_map(struct reader *r);
void reader_unmap(struct reader *r);
/* In the loop: go on; true: it has to be looked at again soon. */
bool reader_pump(struct attend_service *s, struct reader *r);
void reader_cancel(struct reader *r);

/* A query as it was checked; its lane's while it is computed. */
struct query {
	struct query *next; /* in line */
	struct attend_ring *ring;
	struct pool *pool;
	struct kvt_attend_query q;
	struct kvt_attend_params params;
	struct kvt_attend_seq seq;
	struct kvt_seq_block *blocks;
	const float **bounds;
	uint8_t *mask;
	float *sinks;
	uint32_t touched; /* different blocks of the pool, at most */
	uint32_t node; /* index in the service's nodes */
	uint64_t spent_ns;
	int error;
};

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
	struct reader reader;
	struct kvt_stream *stream; /* over the reader; NULL: none yet */
};

/* A thread that computes one query at a time, and those that help it. */
struct lane {
	struct attend_service *s;
	struct attend_node *node;
	pthread_t thread;
	pthread_cond_t more;
	struct query *running; /* the loop's: what it was given; NULL: it is free */
	struct query *query; /* s->lock */
	bool stop; /* s->lock */
	struct kvt_attend *attend; /* the lane's */
	struct guard *guard;
};

/* CPUs that are next to some memory. */
struct attend_node {
	int number;
	struct lane *lanes[ATTEND_LANES];
	uint32_t nr_lanes;
};

/* All but what the lock guards is the loop's. */
struct attend_service {
	struct kvtierd *d;
	struct watch *watch;
	int kick_fd; /* a lane has something for us */
	struct attend_node nodes[ATTEND_NODES];
	uint32_t nr_nodes;
	struct query *waiting; /* in the order in which they came */
	uint64_t served; /* what the tenant had that was served last */
	uint64_t retry_ns; /* after which blocks that did not come are tried again */
	pthread_mutex_t lock; /* guards lanes' queries and the list of those that are done */
	struct query *done;
};

/* attend_query.c: the ring's query, copied and checked; *@q is to be freed on errors too. */
int query_take(struct attend_ring *r, struct query **q);
void query_free(struct query *q);

/* attend_node.c */
void nodes_find(struct attend_service *s);
uint32_t nodes_choose(struct attend_service *s, const struct query *q);

/* attend_lane.c */
/* Queries in a node's lanes, of one tenant or of all (NULL). */
uint32_t lanes_running(const struct attend_node *n, const struct tenant *t);
int lanes_start(struct attend_service *s);
/* The threads end, each after its query; then, once these are answered: */
void lanes_stop(struct attend_service *s);
void lanes_free(struct attend_service *s);
/* Choose its node, and put it in line. */
void lanes_queue(struct attend_service *s, struct query *q);
/* Take it out; false: it is being computed. */
bool lanes_forget(struct attend_service *s, struct query *q);
/* Give free lanes something to do. */
void lanes_go(struct attend_service *s);
/* Queries that are computed, as a list; their lanes are free again. */
struct query *lanes_done(struct attend_service *s);
/* Each query that is in a lane. */
#define for_each_running(s, n, l, q)                                                            \
	for ((n) = (s)->nodes; (n) < (s)->nodes + (s)->nr_nodes; (n)++)                         \
		for ((l) = (n)->lanes; (l) < (n)->lanes + (n)->nr_lanes; (l)++)                 \
			if (((q) = (*(l))->running))

#endif
