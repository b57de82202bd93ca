/* SPDX-License-Identifier: MIT */
/*
 * A connection to kvtierd, and the pools that came through it.
 *
 *	client.c	connect; send a request, wait for its answer
 *	client_link.c	the thread that receives answers, and comes back when the daemon does
 *	client_map.c	the mapping of a pool, and the userfaultfd that the daemon serves
 *	client_pool.c	create, attach, remove, destroy; the table of operations
 *	client_keep.c	what manifests of sequences want to know of blocks
 *	client_plan.c	plans
 *	client_attend.c	queries for the attention service
 *	client_view.c	what an operator sees and sets
 *
 * Locking: client->lock guards the fields below it.  A plan's lock is taken alone.
 */
#ifndef KVT_CLIENT_H
#define KVT_CLIENT_H

#include <pthread.h>
#include <stdbool.h>

#include "kernel.h"
#include "protocol.h"

enum kvt_link {
	KVT_LINK_UP,
	KVT_LINK_DOWN, /* the daemon is away; the thread tries to come back */
	KVT_LINK_DEAD, /* it stayed away for longer than our patience */
};

/* A request whose answer has not come; lives on its caller's stack. */
struct kvt_call {
	struct kvt_call *next;
	pthread_cond_t done;
	uint32_t id;
	bool ended;
	bool lost; /* the connection broke: ask again */
	struct kvt_msg *answer; /* malloc'ed */
	int fds[KVT_MSG_FDS];
	int nr_fds;
};

struct kvt_plan {
	pthread_mutex_t lock; /* guards the fields below */
	struct kvt_plan_ring *ring; /* NULL: none yet */
	size_t bytes;
	int doorbell;
	uint32_t entries; /* as we made it: what the ring says is not asked again */
	uint64_t head;
	uint64_t passed;
	struct kvt_plan_entry *last; /* the plan, to publish it again to a new daemon */
	uint64_t nr_last;
	uint64_t room_last;
	bool cycle;
};

/* A ring of the attention service. */
struct kvt_asked {
	pthread_mutex_t lock; /* guards the fields below; held over a query */
	struct kvt_attend_ring *ring; /* NULL: none yet */
	size_t bytes;
	int bell; /* ours to the daemon */
	int answer; /* the daemon's to us */
	uint64_t comings; /* of the connection that it came through */
};

struct kvt_shared {
	struct kvt_kernel kernel; /* first: the API's handle; kernel.fd: device or memory file */
	struct kvt_client *client;
	struct kvt_shared *next; /* client->lock */
	char name[KVT_POOL_NAME_BYTES];
	char model[KVT_MODEL_NAME_BYTES];
	uint64_t instance;
	uint32_t id;
	bool module;
	bool user_only; /* the daemon does not serve faults of our system calls */
	bool dead;
	int event_fd;
	int uffd;
	uint16_t *pins; /* client->lock; per block, as asked for; NULL: none yet */
	struct kvt_plan plan;
	struct kvt_asked asked;
};

struct kvt_client {
	char path[108];
	pid_t pid;
	pthread_t thread;
	int wake_fd; /* eventfd: the end */
	unsigned int patience_ms;
	bool module;

	pthread_mutex_t lock; /* guards the fields below */
	pthread_cond_t changed; /* of @link */
	enum kvt_link link;
	uint64_t comings; /* how often the link came up again */
	bool stop;
	int sock;
	uint32_t last_id;
	struct kvt_call *calls;
	struct kvt_shared *pools;
};

static inline struct kvt_shared *kvt_shared_of(struct kvt_pool *pool)
{
	return (struct kvt_shared *)pool;
}

/* client_keep.c: the table's checkpoint and adopt. */
int kvt_shared_slots(struct kvt_pool *pool, uint64_t offset, uint64_t length,
		     struct kvtier_slot *slots);
int kvt_shared_find(struct kvt_pool *pool, const struct kvtier_slot *slots, uint32_t nr);

/* Is it a pool of a daemon? */
bool kvt_is_shared(const struct kvt_pool *pool);

/* A request's parts and where its answer goes. */
struct kvt_ask {
	uint16_t type;
	struct kvt_shared *pool; /* whose number the body begins with, at each try; NULL: none */
	bool leaves; /* with the answer the pool is on no list of ours any more */
	const void *body;
	size_t bytes;
	const void *more; /* a second part of the body */
	size_t more_bytes;
	int fd; /* to send along; -1: none */
	void *answer; /* room for the answer's body */
	size_t room;
	int *fds; /* room for KVT_MSG_FDS descriptors; NULL: none are expected */
};

#define KVT_ASK_INIT(t) { .type = (t), .fd = -1 }

/*
 * Send a request and wait for its answer, over breaks of the connection too.  Returns
 * the bytes of the answer's body, or a negative errno with its detail.
 */
int kvt_client_ask(struct kvt_client *c, const struct kvt_ask *ask);
/* The same over a socket that the caller alone uses, without waiting for a new daemon. */
int kvt_client_ask_now(int sock, const struct kvt_ask *ask);

/* client_link.c */
int kvt_link_connect(const char *path, struct kvt_hello *hello);
int kvt_link_start(struct kvt_client *c);
int kvt_link_send(int sock, const struct kvt_ask *ask, uint32_t id);
int kvt_link_try_send(int sock, const struct kvt_ask *ask, uint32_t id);
int kvt_link_receive(int sock, struct kvt_msg **answer, int *fds, int *nr_fds);
int kvt_link_answer(const struct kvt_ask *ask, struct kvt_msg *answer, int *fds, int nr_fds);

/* client_map.c */
int kvt_map_shared(struct kvt_shared *s);
void kvt_unmap_shared(struct kvt_shared *s);
/* Touches of blocks that are not there are SIGBUS from now on. */
void kvt_map_bury(struct kvt_shared *s);

/* client_pool.c: tell the daemon on @sock again what we have; 0 or a negative errno. */
int kvt_shared_return(struct kvt_shared *s, int sock);

/* client_view.c: of a pool of ours, or of one by its number */
int kvt_view_query(struct kvt_client *client, struct kvt_shared *pool, uint32_t id, uint64_t first,
		   uint32_t nr, struct kvtier_block_info *infos);

/* client_attend.c */
void kvt_asked_init(struct kvt_asked *asked);
void kvt_asked_exit(struct kvt_asked *asked);

/* client_plan.c */
void kvt_plan_init(struct kvt_plan *plan);
void kvt_plan_exit(struct kvt_plan *plan);
void kvt_plan_return(struct kvt_shared *s, int sock);

#endif
