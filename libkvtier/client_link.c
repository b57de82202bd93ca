// SPDX-License-Identifier: MIT
/*
 * The connection: messages, and the thread that receives answers.
 *
 * When the daemon goes away, the calls under way are marked lost, and the thread
 * connects again until the patience ends: it says hello, attaches each pool again and
 * hands over its userfaultfd, so that threads that wait in a fault go on.  The lost
 * calls then ask again.  The thread never touches a pool's memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "error.h"

#define RETRY_MS 20

/* ---- messages ----------------------------------------------------------------- */

static int send_msg(int sock, const struct kvt_ask *ask, uint32_t id, int flags)
{
	struct kvt_msg head = {
		.size = (uint32_t)(sizeof(head) + ask->bytes + ask->more_bytes),
		.type = ask->type,
		.id = id,
	};
	struct iovec iov[] = {
		{ &head, sizeof(head) },
		{ (void *)ask->body, ask->bytes },
		{ (void *)ask->more, ask->more_bytes },
	};
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 3 };
	ssize_t n;

	if (ask->fd >= 0) {
		struct cmsghdr *c;

		msg.msg_control = control.room;
		msg.msg_controllen = sizeof(control.room);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &ask->fd, sizeof(int));
	}
	do
		n = sendmsg(sock, &msg, MSG_NOSIGNAL | flags);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

int kvt_link_send(int sock, const struct kvt_ask *ask, uint32_t id)
{
	return send_msg(sock, ask, id, 0);
}

/* -EAGAIN: the socket is full. */
int kvt_link_try_send(int sock, const struct kvt_ask *ask, uint32_t id)
{
	return send_msg(sock, ask, id, MSG_DONTWAIT);
}

static void take_fds(struct msghdr *msg, int *fds, int *nr_fds)
{
	struct cmsghdr *c;

	*nr_fds = 0;
	for (c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		*nr_fds = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), (size_t)*nr_fds * sizeof(int));
	}
}

/* The next message, malloc'ed; 0 or a negative errno (-ECONNRESET: the daemon went away). */
int kvt_link_receive(int sock, struct kvt_msg **answer, int *fds, int *nr_fds)
{
	union {
		char room[CMSG_SPACE(KVT_MSG_FDS * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { malloc(KVT_MSG_MAX), KVT_MSG_MAX };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.room,
		.msg_controllen = sizeof(control.room),
	};
	ssize_t n;

	if (!iov.iov_base)
		return -ENOMEM;
	do
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	*answer = iov.iov_base;
	if (n >= (ssize_t)sizeof(**answer) && (*answer)->size == (size_t)n) {
		take_fds(&msg, fds, nr_fds);
		return 0;
	}
	free(iov.iov_base);
	*answer = NULL;
	return -ECONNRESET;
}

static void close_fds(const int *fds, int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		close(fds[i]);
}

/* Hand an answer to its asker: bytes of its body or a negative errno.  Frees @answer. */
int kvt_link_answer(const struct kvt_ask *ask, struct kvt_msg *answer, int *fds, int nr_fds)
{
	size_t bytes = answer->size - sizeof(*answer);
	const char *body = (const char *)(answer + 1);
	int ret;

	if (answer->error < 0) {
		ret = kvt_fail(answer->error, "%.*s", (int)(bytes < 400 ? bytes : 400), body);
		close_fds(fds, nr_fds);
	} else if (bytes > ask->room) {
		ret = kvt_fail(-EPROTO, "the daemon answers at more length than it was asked");
		close_fds(fds, nr_fds);
	} else {
		if (bytes)
			memcpy(ask->answer, body, bytes);
		if (ask->fds) {
			memset(ask->fds, -1, KVT_MSG_FDS * sizeof(int));
			memcpy(ask->fds, fds, (size_t)nr_fds * sizeof(int));
		} else {
			close_fds(fds, nr_fds);
		}
		ret = (int)bytes;
	}
	free(answer);
	return ret;
}

/* ---- connect -------------------------------------------------------------------- */

static int explain(const char *path, int error)
{
	switch (error) {
	case -ENOENT:
	case -ECONNREFUSED:
		return kvt_fail(error, "%s: no kvtierd listens there: start it "
				       "(systemctl start kvtierd) or name its socket in "
				       "KVTIER_SOCKET", path);
	case -EACCES:
		return kvt_fail(error, "%s: no right to it: have root run "
				       "`usermod -aG kvtier USER` and log in again", path);
	default:
		return kvt_fail(error, "%s: %s", path, strerror(-error));
	}
}

static int say_hello(int sock, struct kvt_hello *hello)
{
	struct kvt_hello mine = { .version = KVT_PROTOCOL_VERSION };
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_HELLO);

	ask.body = &mine;
	ask.bytes = sizeof(mine);
	ask.answer = hello;
	ask.room = sizeof(*hello);
	return kvt_client_ask_now(sock, &ask);
}

/* A socket to the daemon that has said hello, or a negative errno with its detail. */
int kvt_link_connect(const char *path, struct kvt_hello *hello)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int sock, ret;

	if (strlen(path) >= sizeof(to.sun_path))
		return kvt_fail(-ENAMETOOLONG, "%s: the path of a socket has at most %zu bytes",
				path, sizeof(to.sun_path) - 1);
	memcpy(to.sun_path, path, strlen(path));
	sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return kvt_fail(-errno, "cannot make a socket: %s", strerror(errno));
	if (connect(sock, (struct sockaddr *)&to, sizeof(to))) {
		ret = explain(path, -errno);
	} else {
		ret = say_hello(sock, hello);
		if (ret >= 0 && hello->version == KVT_PROTOCOL_VERSION)
			return sock;
		if (ret >= 0)
			ret = kvt_fail(-EPROTO, "%s: the daemon speaks version %u, this library %d",
				       path, hello->version, KVT_PROTOCOL_VERSION);
	}
	close(sock);
	return ret;
}

/* ---- the thread ------------------------------------------------------------------ */

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static bool stopped(struct kvt_client *c)
{
	bool stop;

	pthread_mutex_lock(&c->lock);
	stop = c->stop;
	pthread_mutex_unlock(&c->lock);
	return stop;
}

static void give_answer(struct kvt_client *c, struct kvt_msg *answer, const int *fds, int nr_fds)
{
	struct kvt_call **at, *call;

	pthread_mutex_lock(&c->lock);
	for (at = &c->calls; *at && (*at)->id != answer->id; at = &(*at)->next)
		;
	call = *at;
	if (call) {
		*at = call->next;
		call->answer = answer;
		memcpy(call->fds, fds, sizeof(call->fds));
		call->nr_fds = nr_fds;
		call->ended = true;
		pthread_cond_signal(&call->done);
	}
	pthread_mutex_unlock(&c->lock);
	if (!call) {
		close_fds(fds, nr_fds);
		free(answer);
	}
}

static void lose_calls(struct kvt_client *c)
{
	while (c->calls) {
		struct kvt_call *call = c->calls;

		c->calls = call->next;
		call->ended = call->lost = true;
		pthread_cond_signal(&call->done);
	}
}

static void set_link(struct kvt_client *c, enum kvt_link link, int sock)
{
	pthread_mutex_lock(&c->lock);
	c->comings += link != c->link;
	c->link = link;
	c->sock = sock;
	if (link != KVT_LINK_UP)
		lose_calls(c);
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

/* Attach all pools again.  One that the new daemon does not have is lost for good. */
static int return_pools(struct kvt_client *c, int sock)
{
	struct kvt_shared *s;
	int ret = 0;

	pthread_mutex_lock(&c->lock);
	for (s = c->pools; s && ret != -ECONNRESET && ret != -EPIPE; s = s->next) {
		if (s->dead)
			continue;
		ret = kvt_shared_return(s, sock);
		if (ret < 0 && ret != -ECONNRESET && ret != -EPIPE)
			kvt_map_bury(s);
	}
	pthread_mutex_unlock(&c->lock);
	return ret == -ECONNRESET || ret == -EPIPE ? ret : 0;
}

static void bury_pools(struct kvt_client *c)
{
	struct kvt_shared *s;

	pthread_mutex_lock(&c->lock);
	for (s = c->pools; s; s = s->next)
		if (!s->module)
			kvt_map_bury(s);
	pthread_mutex_unlock(&c->lock);
}

/* A new connection with all our pools on it; -1: none within our patience. */
static int come_back(struct kvt_client *c)
{
	uint64_t until = now_ms() + c->patience_ms;
	struct pollfd end = { .fd = c->wake_fd, .events = POLLIN };
	struct kvt_hello hello;

	while (!stopped(c) && now_ms() < until) {
		int sock = kvt_link_connect(c->path, &hello);

		if (sock >= 0 && !return_pools(c, sock))
			return sock;
		if (sock >= 0)
			close(sock);
		poll(&end, 1, RETRY_MS);
	}
	return -1;
}

/* Answers, until the connection breaks or the client ends. */
static void receive(struct kvt_client *c)
{
	struct pollfd what[] = {
		{ .fd = c->sock, .events = POLLIN },
		{ .fd = c->wake_fd, .events = POLLIN },
	};
	struct kvt_msg *answer;
	int fds[KVT_MSG_FDS], nr_fds = 0;

	for (;;) {
		if (poll(what, 2, -1) < 0 && errno != EINTR)
			return;
		if (what[1].revents || stopped(c))
			return;
		if (!what[0].revents)
			continue;
		if (kvt_link_receive(c->sock, &answer, fds, &nr_fds))
			return;
		give_answer(c, answer, fds, nr_fds);
	}
}

static void *link_thread(void *arg)
{
	struct kvt_client *c = arg;
	int sock;

	prctl(PR_SET_NAME, "kvtier-client");
	for (;;) {
		receive(c);
		close(c->sock);
		set_link(c, KVT_LINK_DOWN, -1);
		if (stopped(c))
			return NULL;
		sock = come_back(c);
		if (sock < 0)
			break;
		set_link(c, KVT_LINK_UP, sock);
	}
	if (!stopped(c))
		bury_pools(c);
	set_link(c, KVT_LINK_DEAD, -1);
	return NULL;
}

int kvt_link_start(struct kvt_client *c)
{
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&c->thread, NULL, link_thread, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ret ? kvt_fail(-ret, "cannot start the client's thread: %s", strerror(ret)) : 0;
}
