// SPDX-License-Identifier: MIT
/*
 * The service manager's protocol (sd_notify(3), sd_listen_fds(3)), by hand: datagrams
 * of KEY=VALUE lines to $NOTIFY_SOCKET, descriptors beside them.  libsystemd would be
 * a large dependency for one socket, and this side of the protocol is promised stable.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "kvtierd.h"

#define FIRST_FD 3
#define BARRIER_MS 5000

static int notify_address(struct sockaddr_un *to, socklen_t *bytes)
{
	const char *path = getenv("NOTIFY_SOCKET");

	if (!path || (*path != '/' && *path != '@') || strlen(path) >= sizeof(to->sun_path))
		return -ENOENT;
	to->sun_family = AF_UNIX;
	snprintf(to->sun_path, sizeof(to->sun_path), "%s", path);
	*bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (*path == '@')
		to->sun_path[0] = 0;
	return 0;
}

bool sd_has_manager(void)
{
	struct sockaddr_un to;
	socklen_t bytes;

	return !notify_address(&to, &bytes);
}

static void send_note(const char *text, int fd)
{
	struct sockaddr_un to = { 0 };
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { (void *)text, strlen(text) };
	struct msghdr msg = { .msg_name = &to, .msg_iov = &iov, .msg_iovlen = 1 };
	int sock;

	if (notify_address(&to, &msg.msg_namelen))
		return;
	sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return;
	if (fd >= 0) {
		struct cmsghdr *c;

		msg.msg_control = control.room;
		msg.msg_controllen = sizeof(control.room);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	if (sendmsg(sock, &msg, MSG_NOSIGNAL) < 0)
		log_line(LOG_WARNING, "notify_failed", "error=\"%s\"", strerror(errno));
	close(sock);
}

void sd_notifyf(const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	send_note(text, -1);
}

void sd_store(int fd, const char *name)
{
	char text[128];

	snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%s", name);
	send_note(text, fd);
}

void sd_unstore(const char *name)
{
	sd_notifyf("FDSTOREREMOVE=1\nFDNAME=%s", name);
}

/* The manager closes our pipe's end when it has come to this message. */
void sd_barrier(void)
{
	int fds[2];
	struct pollfd end;

	if (!sd_has_manager() || pipe2(fds, O_CLOEXEC))
		return;
	send_note("BARRIER=1", fds[1]);
	close(fds[1]);
	end = (struct pollfd){ .fd = fds[0] };
	poll(&end, 1, BARRIER_MS);
	close(fds[0]);
}

static unsigned long long number_of(const char *name)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : 0;
}

uint64_t sd_watchdog_ns(void)
{
	unsigned long long pid = number_of("WATCHDOG_PID");

	if (pid && pid != (unsigned long long)getpid())
		return 0;
	return number_of("WATCHDOG_USEC") * 1000 / 2;
}

void sd_take_fds(void (*take)(void *arg, int fd, const char *name), void *arg)
{
	int nr = (int)number_of("LISTEN_FDS"), i;
	const char *names = getenv("LISTEN_FDNAMES");
	char *copy, *name, *rest = NULL;

	if (number_of("LISTEN_PID") != (unsigned long long)getpid() || !names)
		return;
	copy = strdup(names);
	if (!copy)
		return;
	name = strtok_r(copy, ":", &rest);
	for (i = 0; i < nr; i++) {
		if (!fcntl(FIRST_FD + i, F_SETFD, FD_CLOEXEC))
			take(arg, FIRST_FD + i, name ? name : "");
		else
			log_line(LOG_ERROR, "descriptor_missing", "fd=%d name=%s reason=\"%s\"",
				 FIRST_FD + i, name ? name : "", strerror(errno));
		name = name ? strtok_r(NULL, ":", &rest) : NULL;
	}
	free(copy);
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDNAMES");
}
