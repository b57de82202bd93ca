// SPDX-License-Identifier: MIT
/*
 * A connection comes, attaches pools, and dies at any point: whatever it held goes with
 * it, and nothing else.  Requests that are being worked on keep the struct, not more; it
 * is freed at the end of a turn.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kvtierd.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

/* Of one client before the others get their turn. */
#define MESSAGES_MAX 16
/* The kernel's bound for one message: what we had no room for would be closed on the spot. */
#define FDS_MAX 253

/*
 * A client's socket holds few large answers, and threads that ask at once may be slow to
 * take theirs: answers wait here, and no more messages are taken meanwhile.  Who takes
 * none for so long, or asked for so much, is closed.
 */
#define UNSENT_NS (10 * NS_PER_S)
#define UNSENT_MAX (16u << 20)
/* What a request takes beside its message. */
#define REQUEST_BYTES 256u

struct unsent {
	struct unsent *next;
	size_t bytes;
	int fds[KVT_MSG_FDS], nr_fds;
	char data[];
};

/* Of an attachment: its bell and the userfaultfd. */
#define ATTACHMENT_FDS 2

/* One buffer for all: a message is dealt with before the next is read. */
static char message[KVT_MSG_MAX + 1] __attribute__((aligned(8)));

static void drop_attachment(struct attachment *a);
static void drop_unsent(struct client *c);
static void send_unsent(void *client);

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
	log_line(LOG_DEBUG, "client_gone", "pid=%d tenant=%s reason=\"%s\"", c->pid,
		 c->tenant->name, why);
	for (a = c->attachments; a; a = next) {
		next = a->next_of_client;
		drop_attachment(a);
	}
	c->attachments = NULL;
	while (c->unsent)
		drop_unsent(c);
	watch_stop(c->room);
	watch_stop(c->watch);
	close_elsewhere(c->d, c->sock); /* what it had sent and we did not take goes with it */
	c->d->nr_clients--;
	c->tenant->clients--;
	tenant_give(c->tenant, sizeof(*c), 1);
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
			client_close(c, "does not read its answers, or served no faults");
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
static ssize_t receive(int sock, int *fds, int *nr_fds)
{
	union {
		char room[CMSG_SPACE(FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { message, sizeof(message) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.room,
		.msg_controllen = sizeof(control.room),
	};
	ssize_t n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

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
	int fds[FDS_MAX] = { 0 }, nr_fds, i;
	ssize_t n = receive(c->sock, fds, &nr_fds);
	bool good = n > 0 && well_formed(msg, n) && nr_fds <= KVT_MSG_FDS;

	if (!n)
		return false;
	if (good) {
		c->d->count.messages++;
		client_message(c, msg, fds, nr_fds);
	}
	for (i = 0; i < nr_fds; i++)
		if (fds[i] >= 0)
			close_elsewhere(c->d, fds[i]);
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
	return !c->gone && !c->broken && !c->unsent;
}

static void client_ready(void *arg);

static void watch_client(struct client *c)
{
	c->watch = watch_start(c->d, c->sock, client_ready, c);
	if (!c->watch)
		client_give_up(c);
}

/* There may be more, of which the watch has told already. */
static void look_again(struct client *c)
{
	watch_stop(c->watch);
	watch_client(c);
}

static void client_ready(void *arg)
{
	struct client *c = arg;
	int left = MESSAGES_MAX;

	if (c->broken)
		return;
	if (c->unsent) {
		send_unsent(c); /* or it has hung up */
		return;
	}
	while (left && take_message(c))
		left--;
	if (!left && !c->gone && !c->broken && !c->unsent)
		look_again(c);
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

static int send_now(int sock, const struct iovec *iov, int nr_iov, const int *fds, int nr_fds)
{
	union {
		char room[CMSG_SPACE(KVT_MSG_FDS * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)nr_iov };
	ssize_t n;

	if (fds && nr_fds)
		put_fds(&msg, control.room, fds, nr_fds);
	do
		n = sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

/*
 * It is closed at the end of the turn, not here: whoever answers may be in the middle of a
 * list of its pool.
 */
void client_give_up(struct client *c)
{
	c->broken = c->d->clients_gone = true;
}

static void drop_unsent(struct client *c)
{
	struct unsent *u = c->unsent;
	int i;

	c->unsent = u->next;
	c->unsent_bytes -= u->bytes;
	tenant_give(c->tenant, u->bytes, (uint32_t)u->nr_fds);
	for (i = 0; i < u->nr_fds; i++)
		if (u->fds[i] >= 0)
			close(u->fds[i]);
	free(u);
}

static void send_unsent(void *client)
{
	struct client *c = client;
	int ret = 0;

	while (!c->broken && c->unsent) {
		struct iovec iov = { c->unsent->data, c->unsent->bytes };

		ret = send_now(c->sock, &iov, 1, c->unsent->fds, c->unsent->nr_fds);
		if (ret)
			break;
		drop_unsent(c);
		c->unsent_since_ns = c->d->turn_ns;
	}
	if (ret && ret != -EAGAIN)
		client_give_up(c);
	if (c->broken || c->unsent)
		return;
	watch_stop(c->room);
	c->room = NULL;
	look_again(c);
}

/* Who has not taken an answer for long. */
void clients_unread(struct kvtierd *d)
{
	struct client *c;
	bool any = false;

	for (c = d->clients; c; c = c->next) {
		if (c->gone || !c->unsent)
			continue;
		any = true;
		if (d->turn_ns >= c->unsent_since_ns + UNSENT_NS)
			client_give_up(c);
	}
	if (any)
		timer_within(d, &d->unread, NS_PER_S);
}

static void keep(struct client *c, const struct iovec iov[2], const int *fds, int nr_fds)
{
	size_t bytes = iov[0].iov_len + iov[1].iov_len;
	struct unsent *u = c->unsent_bytes + bytes > UNSENT_MAX ? NULL : malloc(sizeof(*u) + bytes);
	int i;

	if (!u) {
		client_give_up(c);
		return;
	}
	*u = (struct unsent){ .bytes = bytes, .nr_fds = nr_fds };
	for (i = 0; i < nr_fds; i++)
		u->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
	memcpy(u->data, iov[0].iov_base, iov[0].iov_len);
	if (iov[1].iov_len)
		memcpy(u->data + iov[0].iov_len, iov[1].iov_base, iov[1].iov_len);
	if (c->unsent)
		c->unsent_last->next = u;
	else
		c->unsent = u;
	c->unsent_last = u;
	c->unsent_bytes += bytes;
	tenant_took(c->tenant, bytes, (uint32_t)nr_fds);
	if (c->room)
		return;
	c->unsent_since_ns = c->d->turn_ns;
	c->room = watch_room(c->d, c->sock, send_unsent, c);
	timer_within(c->d, &c->d->unread, NS_PER_S);
	if (!c->room)
		client_give_up(c);
}

void client_reply(struct client *c, uint16_t type, uint32_t id, int error, const void *body,
		  size_t bytes, const int *fds, int nr_fds)
{
	const char *why = error == -EBADMSG || !kvt_error_detail()[0] ? strerror(-error) :
									 kvt_error_detail();
	struct kvt_msg head = { .type = type, .id = id, .error = error };
	struct iovec iov[2] = { { &head, sizeof(head) }, { (void *)body, bytes } };
	int ret;

	if (c->gone || c->broken)
		return;
	if (error)
		iov[1] = (struct iovec){ (void *)why, strlen(why) };
	if (error || !fds)
		nr_fds = 0;
	head.size = (uint32_t)(sizeof(head) + iov[1].iov_len);
	ret = c->unsent ? -EAGAIN : send_now(c->sock, iov, 2, fds, nr_fds);
	if (ret == -EAGAIN)
		keep(c, iov, fds, nr_fds);
	else if (ret)
		client_give_up(c);
}

/* It and what works on it have a copy of the message. */
int request_begin(struct client *c, const struct kvt_msg *msg, struct request **request)
{
	uint64_t bytes = sizeof(**request) + REQUEST_BYTES + msg->size;
	int ret = tenant_take(c->d, c->tenant, bytes, 0);
	struct request *r;

	if (ret)
		return ret;
	r = malloc(sizeof(*r));
	if (!r) {
		tenant_give(c->tenant, bytes, 0);
		return kvt_fail(-ENOMEM, "no memory for a request");
	}
	*r = (struct request){ .client = c, .bytes = bytes, .type = msg->type, .id = msg->id };
	c->requests++;
	*request = r;
	return 0;
}

void request_end(struct request *r, int error, const void *body, size_t bytes)
{
	if (!r)
		return;
	client_reply(r->client, r->type, r->id, error, body, bytes, NULL, 0);
	request_close(r);
}

/* One that was answered. */
void request_close(struct request *r)
{
	struct client *c;

	if (!r)
		return;
	c = r->client;
	tenant_give(c->tenant, r->bytes, 0);
	c->requests--;
	c->d->clients_gone |= c->gone;
	free(r);
}

/* Of who connected, and not of who has its number by now; negative: it is gone, or hidden. */
static int peer_of(int sock, int pid)
{
	socklen_t bytes = sizeof(int);
	int fd;

	if (!getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &fd, &bytes))
		return fd;
	/* Before Linux 6.5 the number is all there is. */
	return errno == ENOPROTOOPT && pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -errno;
}

/* Send it a signal (0: is it there?); 0 or a negative errno. */
int client_signal(int sock, int pid, int signal)
{
	int peer = peer_of(sock, pid), ret;

	if (peer < 0)
		return peer;
	ret = syscall(SYS_pidfd_send_signal, peer, signal, NULL, 0) ? -errno : 0;
	close(peer);
	return ret;
}

/* ---- come -------------------------------------------------------------------------------- */

/*
 * It hears why.  What it had sent is taken first, and no more comes: of a socket that is
 * closed over unread messages a peer gets nothing but a reset.
 */
static void refuse(struct kvtierd *d, int sock, int error)
{
	const char *why = kvt_error_detail();
	struct kvt_msg head = { .size = (uint32_t)(sizeof(head) + strlen(why)),
				.type = KVT_MSG_HELLO, .error = error };
	struct iovec iov[2] = { { &head, sizeof(head) }, { (void *)why, strlen(why) } };
	int fds[FDS_MAX], nr, i;

	d->count.connections_refused++;
	log_line(LOG_DEBUG, "connection_refused", "clients=%u reason=\"%s\"", d->nr_clients, why);
	send_now(sock, iov, 2, NULL, 0);
	shutdown(sock, SHUT_RD);
	while (receive(sock, fds, &nr) > 0)
		for (i = 0; i < nr; i++)
			close_elsewhere(d, fds[i]);
	close_elsewhere(d, sock);
}

/* Beyond the others' connections the administrator has a few, to see what is wrong. */
#define ADMIN_CLIENTS 16

static int admit(struct kvtierd *d, struct client *c)
{
	uint32_t most = d->config.max_clients + (c->admin ? ADMIN_CLIENTS : 0);
	int ret;

	if (d->nr_clients >= most)
		return kvt_fail(-ENOSPC, "the daemon has %u connections, its max-clients",
				d->nr_clients);
	ret = tenant_client_room(c->tenant);
	if (!ret)
		ret = tenant_take(d, c->tenant, sizeof(*c), 1);
	if (!ret || !c->admin || c->tenant->clients >= c->tenant->max_clients + ADMIN_CLIENTS)
		return ret;
	tenant_took(c->tenant, sizeof(*c), 1);
	return 0;
}

/* NULL: it is refused, and @error says why. */
static struct client *make_client(struct kvtierd *d, int sock, int *error)
{
	struct ucred who = { 0 };
	socklen_t bytes = sizeof(who);
	struct client *c = calloc(1, sizeof(*c));

	if (!c) {
		*error = kvt_fail(-ENOMEM, "no memory for a connection");
		return NULL;
	}
	*c = (struct client){ .d = d, .sock = sock };
	*error = getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &who, &bytes) ?
			 kvt_fail(-errno, "who is it? %s", strerror(errno)) : 0;
	if (!*error)
		c->tenant = tenant_of(d, who.uid, who.pid);
	c->pid = who.pid;
	c->uid = who.uid;
	c->admin = is_admin(who.uid);
	/* By its number we looked into its group: was that still its own? */
	if (!*error && c->tenant && client_signal(sock, who.pid, 0) == -ESRCH)
		*error = kvt_fail(-ESRCH, "the process that connected is gone");
	if (!*error)
		*error = c->tenant ? admit(d, c) :
				     kvt_fail(-ENOSPC, "the daemon has too many tenants");
	if (!*error)
		return c;
	free(c);
	return NULL;
}

void client_accept(struct kvtierd *d, int sock)
{
	int error;
	struct client *c = make_client(d, sock, &error);

	if (!c) {
		refuse(d, sock, error);
		return;
	}
	c->tenant->clients++;
	c->next = d->clients;
	if (d->clients)
		d->clients->prev = c;
	d->clients = c;
	d->nr_clients++;
	d->count.connections++;
	watch_client(c);
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

int attachment_new(struct client *c, struct pool *p, int *event_fd)
{
	struct attachment *a = calloc(1, sizeof(*a));
	int ret = a ? tenant_take(c->d, c->tenant, sizeof(*a), ATTACHMENT_FDS) :
		      kvt_fail(-ENOMEM, "no memory for another use of the pool");

	if (ret) {
		free(a);
		return ret;
	}
	a->pool = p;
	a->client = c;
	a->uffd = -1;
	ret = bell_make(&a->event_fd, event_fd);
	if (ret) {
		tenant_give(c->tenant, sizeof(*a), ATTACHMENT_FDS);
		free(a);
		return kvt_fail(ret, "cannot make a bell: %s", strerror(-ret));
	}
	a->next = p->attachments;
	p->attachments = a;
	a->next_of_client = c->attachments;
	c->attachments = a;
	p->clients++;
	p->linger_until_ns = 0;
	return 0;
}

void attachment_used(struct attachment *a)
{
	a->used_ns = a->pool->d->turn_ns;
	a->told_idle = false;
	pool_activity(a->pool);
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
	if (a->pins)
		tenant_give(a->client->tenant, p->nr_blocks * sizeof(*a->pins), 0);
	tenant_give(a->client->tenant, sizeof(*a), ATTACHMENT_FDS);
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
