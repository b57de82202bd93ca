// SPDX-License-Identifier: MIT
/* Connect; send a request and wait for its answer. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "client.h"
#include "error.h"

#define PATIENCE_MS 30000
#define FULL_MS 20 /* the socket may be another by then */

int kvt_client_ask_now(int sock, const struct kvt_ask *ask)
{
	struct kvt_msg *answer;
	int fds[KVT_MSG_FDS], nr_fds = 0;
	int ret = kvt_link_send(sock, ask, 0);

	if (!ret || ret == -EPIPE) /* it may have said why it does not listen */
		ret = kvt_link_receive(sock, &answer, fds, &nr_fds);
	if (ret)
		return kvt_fail(ret, "the daemon went away");
	return kvt_link_answer(ask, answer, fds, nr_fds);
}

/* ---- a call ---------------------------------------------------------------------- */

static int wait_for_link(struct kvt_client *c)
{
	while (c->link == KVT_LINK_DOWN)
		pthread_cond_wait(&c->changed, &c->lock);
	return c->link == KVT_LINK_UP ? 0 : -ECONNRESET;
}

static void forget(struct kvt_client *c, struct kvt_call *call)
{
	struct kvt_call **at;

	for (at = &c->calls; *at; at = &(*at)->next) {
		if (*at == call) {
			*at = call->next;
			return;
		}
	}
}

/* Under the lock.  A new daemon may have given the pool another number, or not have it. */
static int name_pool(const struct kvt_ask *ask)
{
	if (!ask->pool)
		return 0;
	if (ask->pool->dead)
		return -ESTALE;
	memcpy((void *)ask->body, &ask->pool->id, sizeof(ask->pool->id));
	return 0;
}

/*
 * Under the lock, which is given up while the socket is full: the thread needs it to take
 * the answers that the daemon waits to be rid of.
 */
static int send_call(struct kvt_client *c, const struct kvt_ask *ask, struct kvt_call *call)
{
	int ret;

	while ((ret = kvt_link_try_send(c->sock, ask, call->id)) == -EAGAIN && !call->ended) {
		struct pollfd p = { .fd = c->sock, .events = POLLOUT };

		pthread_mutex_unlock(&c->lock);
		poll(&p, 1, FULL_MS);
		pthread_mutex_lock(&c->lock);
		if (call->ended)
			return 0; /* lost meanwhile, with the daemon */
	}
	return ret;
}

/* Under the lock: one try.  0: it has an answer; -EAGAIN: lost on the way. */
static int try_call(struct kvt_client *c, const struct kvt_ask *ask, struct kvt_call *call)
{
	int ret = name_pool(ask);

	if (ret)
		return ret;
	call->id = ++c->last_id;
	call->ended = call->lost = false;
	call->next = c->calls;
	c->calls = call;
	ret = send_call(c, ask, call);
	if (ret == -EPIPE || ret == -ECONNRESET || ret == -ENOTCONN) {
		/* The thread is about to see it too: not before that may we ask again. */
		while (c->link == KVT_LINK_UP)
			pthread_cond_wait(&c->changed, &c->lock);
		forget(c, call);
		return -EAGAIN;
	}
	if (ret) {
		forget(c, call);
		return ret;
	}
	while (!call->ended)
		pthread_cond_wait(&call->done, &c->lock);
	return call->lost ? -EAGAIN : 0;
}

/* Under the lock: the thread does not return it to a new daemon any more. */
static void leave(struct kvt_client *c, const struct kvt_shared *s)
{
	struct kvt_shared **at;

	for (at = &c->pools; *at && *at != s; at = &(*at)->next)
		;
	if (*at)
		*at = s->next;
}

int kvt_client_ask(struct kvt_client *c, const struct kvt_ask *ask)
{
	struct kvt_call call = { .done = PTHREAD_COND_INITIALIZER };
	int ret;

	if (c->pid != getpid())
		return kvt_fail(-ECHILD,
				"the connection belongs to process %d, which forked this one",
				c->pid);
	pthread_mutex_lock(&c->lock);
	do {
		ret = wait_for_link(c);
		if (!ret)
			ret = try_call(c, ask, &call);
	} while (ret == -EAGAIN);
	if (ask->leaves)
		leave(c, ask->pool);
	pthread_mutex_unlock(&c->lock);
	pthread_cond_destroy(&call.done);
	if (ret == -ESTALE)
		return kvt_fail(-ECONNRESET, "pool %s was lost with its daemon", ask->pool->name);
	if (ret == -ECONNRESET)
		return kvt_fail(ret, "%s: the daemon went away and did not come back in %u ms",
				c->path, c->patience_ms);
	if (ret)
		return kvt_fail(ret, "cannot send to the daemon: %s", strerror(-ret));
	return kvt_link_answer(ask, call.answer, call.fds, call.nr_fds);
}

/* ---- open and close ---------------------------------------------------------------- */

static unsigned int patience(void)
{
	const char *text = getenv("KVTIER_PATIENCE_MS");
	char *end;
	unsigned long ms;

	if (!text || !*text)
		return PATIENCE_MS;
	ms = strtoul(text, &end, 10);
	return *end || ms > 86400000 ? PATIENCE_MS : (unsigned int)ms;
}

static const char *choose_path(const char *path)
{
	const char *own = getenv("KVTIER_SOCKET");

	if (path)
		return path;
	return own && *own ? own : KVT_DAEMON_SOCKET;
}

static int set_up(struct kvt_client *c)
{
	struct kvt_hello hello;
	int ret;

	c->sock = kvt_link_connect(c->path, &hello);
	if (c->sock < 0)
		return c->sock;
	c->module = hello.module;
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->wake_fd < 0) {
		ret = kvt_fail(-errno, "cannot make an eventfd: %s", strerror(errno));
		goto close_sock;
	}
	ret = kvt_link_start(c);
	if (!ret)
		return 0;
	close(c->wake_fd);
close_sock:
	close(c->sock);
	return ret;
}

int kvt_client_open(const char *path, struct kvt_client **client)
{
	struct kvt_client *c = calloc(1, sizeof(*c));
	int ret;

	*client = NULL;
	if (!c)
		return -ENOMEM;
	path = choose_path(path);
	if (snprintf(c->path, sizeof(c->path), "%s", path) >= (int)sizeof(c->path)) {
		free(c);
		return kvt_fail(-ENAMETOOLONG, "%s: the path of a socket has at most %zu bytes",
				path, sizeof(c->path) - 1);
	}
	c->pid = getpid();
	c->patience_ms = patience();
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->changed, NULL);
	ret = set_up(c);
	if (ret) {
		pthread_cond_destroy(&c->changed);
		pthread_mutex_destroy(&c->lock);
		free(c);
		return ret;
	}
	*client = c;
	return 0;
}

void kvt_client_close(struct kvt_client *c)
{
	if (!c)
		return;
	if (c->pid == getpid()) {
		pthread_mutex_lock(&c->lock);
		c->stop = true;
		pthread_mutex_unlock(&c->lock);
		eventfd_write(c->wake_fd, 1);
		pthread_join(c->thread, NULL);
	}
	close(c->wake_fd);
	pthread_cond_destroy(&c->changed);
	pthread_mutex_destroy(&c->lock);
	free(c);
}
