// SPDX-License-Identifier: MIT
/*
 * A connection comes, attaches pools, and dies at any point: whatever it held goes with
 * it, and nothing else.  Requests that are being worked on keep the struct, not more; it
 * is freed at the end of a turn.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kvtierd.h"

/* Of one client before the others get their turn. */
#define MESSAGES_MAX 16

/* One buffer for all: a message is dealt with before the next is read. */
static char message[KVT_MSG_MAX + 1] __attribute__((aligned(8)));

static void drop_attachment(struct attachment *a);

static void free_client(struct client *c)
{
	if (c->prev)
		c->prev->next = c->next;
	else
		c->d->clients = c->next;
	if (c->next)
		c->next->prev = c->prev;
	free(c);
}

void client_close(struct client *c, const char *why)
{
	struct attachment *a, *next;

	if (c->gone)
		return;
	c->gone = true;
	log_line(LOG_DEBUG, "client_gone", "pid=%d tenant=%s reason=\"%s\"", c->pid, c->tenant->name,
		 why);
	for (a = c->attachments; a; a = next) {
		next = a->next_of_client;
		drop_attachment(a);
	}
	c->attachments = NULL;
	watch_stop(c->watch);
	close(c->sock);
	c->d->nr_clients--;
	c->tenant->clients--;
	c->d->clients_gone = true;
}

/* Those that are broken; those that are gone and that no request refers to any more. */
void clients_reap(struct kvtierd *d)
{
	struct client *c, *next;

	d->clients_gone = false;
	for (c = d->clients; c; c = next) {
		next = c->next;
		if (c->broken)
			client_close(c, "does not read its answers");
		if (c->gone && !c->requests)
			free_client(c);
	}
}

/* ---- receive ----------------------------------------------------------------------------- */

static int take_fds(struct msghdr *msg, int *fds)
{
	struct cmsghdr *c;
	int nr = 0;

	for (c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		nr = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), (size_t)nr * sizeof(int));
	}
	return nr;
}

/* Bytes of the next message, 0 when there is none, or a negative errno: the end. */
static ssize_t receive(struct client *c, int *fds, int *nr_fds)
{
	union {
		char room[CMSG_SPACE(KVT_MSG_FDS * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { message, sizeof(message) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.room,
		.msg_controllen = sizeof(control.room),
	};
	ssize_t n = recvmsg(c->sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	*nr_fds = 0;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	*nr_fds = take_fds(&msg, fds);
	if (!n)
		return -ECONNRESET;
	if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return -EMSGSIZE;
	return n;
}

static bool well_formed(const struct kvt_msg *msg, ssize_t bytes)
{
	return bytes >= (ssize_t)sizeof(*msg) && bytes <= KVT_MSG_MAX &&
	       msg->size == (size_t)bytes && !msg->zero && !msg->error;
}

/* Deal with the next one; false: there is none, or the connection is at its end. */
static bool take_message(struct client *c)
{
	const struct kvt_msg *msg = (const struct kvt_msg *)message;
	int fds[KVT_MSG_FDS] = { 0 }, nr_fds, i;
	ssize_t n = receive(c, fds, &nr_fds);
	bool good = n > 0 && well_formed(msg, n);

	if (!n)
		return false;
	if (good) {
		c->d->count.messages++;
		client_message(c, msg, fds, nr_fds);
	}
	for (i = 0; i < nr_fds; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (n < 0 && n != -EMSGSIZE) {
		c->d->count.clients_died += c->attachments != NULL;
		client_close(c, "end of connection");
	} else if (!good) {
		c->d->count.refused++;
		log_line(LOG_WARNING, "message_refused", "pid=%d tenant=%s bytes=%zd reason=\"%s\"",
			 c->pid, c->tenant->name, n,
			 n < 0 ? "longer than a message may be" : "not a message");
		client_close(c, "malformed message");
	}
	return !c->gone && !c->broken;
}

static void client_ready(void *arg)
{
	struct client *c = arg;
	int left = MESSAGES_MAX;

	while (left && take_message(c))
		left--;
	if (!left && !c->gone && !c->broken) {
		/* There may be more, of which the watch has told already: look again. */
		watch_stop(c->watch);
		c->watch = watch_start(c->d, c->sock, client_ready, c);
	}
}

/* ---- answers ----------------------------------------------------------------------------- */

static void put_fds(struct msghdr *msg, char *room, const int *fds, int nr)
{
	struct cmsghdr *c;

	msg->msg_control = room;
	msg->msg_controllen = CMSG_SPACE((size_t)nr * sizeof(int));
	c = CMSG_FIRSTHDR(msg);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN((size_t)nr * sizeof(int));
	memcpy(CMSG_DATA(c), fds, (size_t)nr * sizeof(int));
}

/*
 * Who does not read its answers is closed: it would keep us waiting.  Not here, where
 * whoever answers may be in the middle of a list of its pool: at the end of the turn.
 */
void client_reply(struct client *c, uint16_t type, uint32_t id, int error, const void *body,
		  size_t bytes, const int *fds, int nr_fds)
{
	const char *why = error == -EBADMSG || !kvt_error_detail()[0] ? strerror(-error) :
									 kvt_error_detail();
	struct kvt_msg head = { .type = type, .id = id, .error = error };
	union {
		char room[CMSG_SPACE(KVT_MSG_FDS * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov[2] = { { &head, sizeof(head) }, { (void *)body, bytes } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	if (c->gone || c->broken)
		return;
	if (error) {
		iov[1] = (struct iovec){ (void *)why, strlen(why) };
		nr_fds = 0;
	}
	head.size = (uint32_t)(sizeof(head) + iov[1].iov_len);
	if (fds && nr_fds)
		put_fds(&msg, control.room, fds, nr_fds);
	if (sendmsg(c->sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EINTR)
		c->broken = c->d->clients_gone = true;
}

struct request *request_begin(struct client *c, const struct kvt_msg *msg)
{
	struct request *r = malloc(sizeof(*r));

	if (!r)
		return NULL;
	*r = (struct request){ .client = c, .type = msg->type, .id = msg->id };
	c->requests++;
	return r;
}

void request_end(struct request *r, int error, const void *body, size_t bytes)
{
	struct client *c;

	if (!r)
		return;
	c = r->client;
	client_reply(c, r->type, r->id, error, body, bytes, NULL, 0);
	c->requests--;
	c->d->clients_gone |= c->gone;
	free(r);
}

/* ---- come -------------------------------------------------------------------------------- */

void client_accept(struct kvtierd *d, int sock)
{
	struct ucred who = { 0 };
	socklen_t bytes = sizeof(who);
	struct client *c;

	if (d->nr_clients >= d->config.max_clients ||
	    getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &who, &bytes)) {
		d->count.connections_refused++;
		log_line(LOG_WARNING, "connection_refused", "clients=%u reason=\"max-clients\"",
			 d->nr_clients);
		close(sock);
		return;
	}
	c = calloc(1, sizeof(*c));
	if (!c) {
		close(sock);
		return;
	}
	*c = (struct client){ .d = d, .sock = sock, .pid = who.pid, .uid = who.uid,
			      .admin = !who.uid || who.uid == geteuid(), .next = d->clients };
	c->tenant = tenant_of(d, who.uid, who.pid);
	c->watch = c->tenant ? watch_start(d, sock, client_ready, c) : NULL;
	if (!c->watch) {
		close(sock);
		free(c);
		return;
	}
	c->tenant->clients++;
	if (d->clients)
		d->clients->prev = c;
	d->clients = c;
	d->nr_clients++;
	d->count.connections++;
}

/* ---- attachments ------------------------------------------------------------------------- */

struct attachment *attachment_of(struct client *c, uint32_t pool)
{
	struct attachment *a;

	for (a = c->attachments; a && a->pool->id != pool; a = a->next_of_client)
		;
	if (!a)
		kvt_fail(-ENOENT, "this connection has no pool %u", pool);
	return a;
}

struct attachment *attachment_new(struct client *c, struct pool *p)
{
	struct attachment *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->pool = p;
	a->client = c;
	a->uffd = -1;
	a->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (a->event_fd < 0) {
		free(a);
		return NULL;
	}
	a->next = p->attachments;
	p->attachments = a;
	a->next_of_client = c->attachments;
	c->attachments = a;
	p->clients++;
	p->linger_until_ns = 0;
	return a;
}

/* One that its client's list has no more. */
static void drop_attachment(struct attachment *a)
{
	struct pool *p = a->pool;
	struct attachment **at;

	for (at = &p->attachments; *at != a; at = &(*at)->next)
		;
	*at = a->next;
	file_cancel_commands(p, a->client);
	file_unpin_all(a);
	file_drop_waits(a);
	plan_free(a->plan);
	attend_ring_free(a);
	watch_stop(a->faults);
	if (a->uffd >= 0)
		close(a->uffd);
	close(a->event_fd);
	free(a->pins);
	free(a);
	if (!--p->clients)
		pool_unused(p);
}

void attachment_free(struct attachment *a)
{
	struct attachment **at;

	for (at = &a->client->attachments; *at != a; at = &(*at)->next_of_client)
		;
	*at = a->next_of_client;
	drop_attachment(a);
}
