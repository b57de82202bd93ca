// SPDX-License-Identifier: MIT
/*
 * GET /metrics over a UNIX socket and, where a port is named, the loopback: libmicrohttpd,
 * which is told by us when its descriptors are ready and has no thread of its own.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "kvtierd.h"

#define TIMEOUT_S 10u
#define CONNECTIONS 64u
#define TURNS_MAX 256
#define TURN_NS (5 * NS_PER_MS)

struct http {
	struct server {
		struct MHD_Daemon *mhd;
		struct kvtierd *d;
		struct watch *watch;
		int epoll_fd;
	} server[2]; /* the socket's and the port's */

	/* Written once a turn, however many ask. */
	struct shown {
		uint64_t turn_ns;
		char *text;
		size_t bytes;
	} shown[2]; /* without and with pools */
};

static enum MHD_Result respond(struct MHD_Connection *c, unsigned int status, const char *text,
			       size_t bytes, const char *type)
{
	struct MHD_Response *r =
		MHD_create_response_from_buffer(bytes, (void *)text, MHD_RESPMEM_MUST_COPY);
	enum MHD_Result ret;

	if (!r)
		return MHD_NO;
	MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	ret = MHD_queue_response(c, status, r);
	MHD_destroy_response(r);
	return ret;
}

/* Over the socket we know who asks; over the loopback it may be anybody. */
static bool shows_pools(const struct server *s, struct MHD_Connection *c)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct ucred who = { 0 };
	socklen_t bytes = sizeof(who);

	if (s->d->config.metrics_pools)
		return true;
	return s == &s->d->http->server[0] && info &&
	       !getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &who, &bytes) &&
	       is_admin(who.uid);
}

static const struct shown *show(struct kvtierd *d, bool pools)
{
	struct shown *shown = &d->http->shown[pools];
	FILE *out;

	if (shown->turn_ns == d->turn_ns)
		return shown;
	free(shown->text);
	*shown = (struct shown){ 0 };
	out = open_memstream(&shown->text, &shown->bytes);
	if (!out)
		return NULL;
	metrics_write(d, out, pools);
	if (fclose(out))
		return NULL;
	shown->turn_ns = d->turn_ns;
	return shown;
}

static enum MHD_Result answer(void *arg, struct MHD_Connection *c, const char *url,
			      const char *method, const char *version, const char *data,
			      size_t *data_bytes, void **state)
{
	static const char plain[] = "text/plain; charset=utf-8";
	const struct server *s = arg;
	const struct shown *shown;

	(void)version, (void)data, (void)state;
	if (*data_bytes) {
		*data_bytes = 0; /* a body says nothing to us */
		return MHD_YES;
	}
	if (strcmp(method, "GET"))
		return respond(c, MHD_HTTP_METHOD_NOT_ALLOWED, "GET only\n", 9, plain);
	if (strcmp(url, "/metrics"))
		return respond(c, MHD_HTTP_NOT_FOUND, "see /metrics\n", 13, plain);
	shown = show(s->d, shows_pools(s, c));
	if (!shown)
		return MHD_NO;
	return respond(c, MHD_HTTP_OK, shown->text, shown->bytes,
		       "application/openmetrics-text; version=1.0.0; charset=utf-8");
}

/* Until what libmicrohttpd waits for itself: the end of a silent connection. */
static void wake_within(struct server *s)
{
	MHD_UNSIGNED_LONG_LONG ms;

	if (MHD_get_timeout(s->mhd, &ms) == MHD_YES)
		timer_within(s->d, &s->d->http_timer, (ms < 1000 ? 1000 : ms) * NS_PER_MS);
}

static void ready(void *arg)
{
	struct server *s = arg;
	struct pollfd more = { .fd = s->epoll_fd, .events = POLLIN };
	uint64_t begun = now_ns();
	MHD_UNSIGNED_LONG_LONG ms;
	int turns;

	/* We are told of changes alone: go on until there is nothing to do at once. */
	for (turns = 0; turns < TURNS_MAX && now_ns() - begun < TURN_NS; turns++) {
		MHD_run(s->mhd);
		if ((MHD_get_timeout(s->mhd, &ms) != MHD_YES || ms) && poll(&more, 1, 0) <= 0) {
			wake_within(s);
			return;
		}
	}
	watch_stop(s->watch);
	s->watch = watch_start(s->d, s->epoll_fd, ready, s);
	wake_within(s);
}

/* At its bound of connections it does not listen: nothing but time brings it on. */
void http_run(struct kvtierd *d)
{
	int i;

	for (i = 0; d->http && i < 2; i++)
		if (d->http->server[i].mhd)
			ready(&d->http->server[i]);
}

static int serve(struct kvtierd *d, struct server *s, int sock, const char *what)
{
	const union MHD_DaemonInfo *info;

	s->d = d;
	s->mhd = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, answer, s, MHD_OPTION_LISTEN_SOCKET,
				  sock, MHD_OPTION_CONNECTION_TIMEOUT, TIMEOUT_S,
				  MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS, MHD_OPTION_END);
	if (!s->mhd) {
		close(sock);
		return kvt_fail(-EIO, "%s: cannot serve metrics there", what);
	}
	info = MHD_get_daemon_info(s->mhd, MHD_DAEMON_INFO_EPOLL_FD);
	s->epoll_fd = info ? info->epoll_fd : -1;
	s->watch = info ? watch_start(d, info->epoll_fd, ready, s) : NULL;
	return s->watch ? 0 : -ENOMEM;
}

static int listen_unix(struct kvtierd *d, struct server *s)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(to.sun_path, sizeof(to.sun_path), "%s", d->config.metrics_socket);
	unlink(to.sun_path);
	if (sock < 0 || bind(sock, (struct sockaddr *)&to, sizeof(to)) ||
	    chmod(to.sun_path, d->config.socket_mode) || listen(sock, 64)) {
		int error = errno;

		if (sock >= 0)
			close(sock);
		return kvt_fail(-error, "%s: cannot listen there: %s", to.sun_path,
				strerror(error));
	}
	return serve(d, s, sock, to.sun_path);
}

static int listen_loopback(struct kvtierd *d, struct server *s)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)d->config.http_port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;

	if (sock >= 0)
		setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (sock < 0 || bind(sock, (struct sockaddr *)&to, sizeof(to)) || listen(sock, 64)) {
		int error = errno;

		if (sock >= 0)
			close(sock);
		return kvt_fail(-error, "127.0.0.1:%u: cannot listen there: %s",
				d->config.http_port, strerror(error));
	}
	return serve(d, s, sock, "the loopback");
}

int http_open(struct kvtierd *d)
{
	struct http *h = calloc(1, sizeof(*h));
	int ret = 0;

	if (!h)
		return -ENOMEM;
	d->http = h;
	if (d->config.metrics_socket[0])
		ret = listen_unix(d, &h->server[0]);
	if (!ret && d->config.http_port)
		ret = listen_loopback(d, &h->server[1]);
	return ret;
}

void http_close(struct kvtierd *d)
{
	int i;

	for (i = 0; d->http && i < 2; i++) {
		watch_stop(d->http->server[i].watch);
		if (d->http->server[i].mhd)
			MHD_stop_daemon(d->http->server[i].mhd);
	}
	if (d->http && d->config.metrics_socket[0])
		unlink(d->config.metrics_socket);
	for (i = 0; d->http && i < 2; i++)
		free(d->http->shown[i].text);
	free(d->http);
	d->http = NULL;
}
