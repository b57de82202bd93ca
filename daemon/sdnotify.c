// SPDX-License-Identifier: MIT
/*
 * The service manager's protocol (sd_notify(3), sd_listen_fds(3)), by hand: datagrams
 * of KEY=VALUE lines to $NOTIFY_SOCKET, descriptors beside them.  libsystemd would be
 * a large dependency for one socket, and this side of the protocol is promised stable.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "kvtierd.h"

#define FIRST_FD 3
#define STORE_NAME "FDNAME="
#define RETRY_NS (50 * NS_PER_MS)
#define LAST_TRIES 40

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

static unsigned long long number_of(const char *name)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : 0;
}

/* One datagram; -EAGAIN and the like: not now. */
static int send_note(const char *text, int fd)
{
	struct sockaddr_un to = { 0 };
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { (void *)text, strlen(text) };
	struct msghdr msg = { .msg_name = &to, .msg_iov = &iov, .msg_iovlen = 1 };
	int sock, ret;

	if (notify_address(&to, &msg.msg_namelen))
		return 0;
	sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return -errno;
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
	ret = sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
	close(sock);
	return ret;
}

/* ---- what the manager has not taken yet -------------------------------------------------- */

/*
 * Its queue may be full, or it is being replaced: nobody waits for that.  Notes keep their
 * order, and are tried again until they are taken.
 */
struct note {
	struct note *next;
	int fd; /* a copy; -1: none */
	char text[];
};

static struct note *notes, **notes_end = &notes;
static uint32_t nr_stored; /* descriptors that the manager has of us, or will */
static struct kvtierd *owner;

static void again(struct kvtierd *d)
{
	if (notes)
		timer_within(d, &d->notes, RETRY_NS);
}

static void put_off(const char *text, int fd, int error)
{
	struct note *n = malloc(sizeof(*n) + strlen(text) + 1);

	if (!notes)
		log_line(LOG_WARNING, "notify_late",
			 "error=\"%s\" note=\"the service manager is told "
			 "later\"",
			 strerror(-error));
	if (!n)
		return;
	*n = (struct note){ .fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, FIRST_FD) };
	memcpy(n->text, text, strlen(text) + 1);
	*notes_end = n;
	notes_end = &n->next;
	if (owner)
		again(owner);
}

static void say(const char *text, int fd)
{
	int ret = notes ? -EAGAIN : send_note(text, fd);

	if (ret)
		put_off(text, fd, ret);
}

static int send_notes(void)
{
	struct note *n;
	int ret;

	while ((n = notes)) {
		ret = send_note(n->text, n->fd);
		if (ret)
			return ret;
		notes = n->next;
		if (n->fd >= 0)
			close(n->fd);
		free(n);
	}
	notes_end = &notes;
	log_line(LOG_INFO, "notify_caught_up", "note=\"the service manager was told all\"");
	return 0;
}

static void retry(struct kvtierd *d)
{
	if (notes)
		send_notes();
	again(d);
}

void sd_open(struct kvtierd *d)
{
	owner = d;
	timer_add(d, &d->notes, retry);
	again(d);
}

/* The last chance, of a bounded length. */
void sd_close(void)
{
	int tries;

	for (tries = 0; notes && send_notes() && tries < LAST_TRIES; tries++)
		usleep(RETRY_NS / 1000);
}

/* Does a note that waits name it? */
static bool is_pending(const char *prefix)
{
	const struct note *n;
	const char *name;

	for (n = notes; n; n = n->next) {
		name = strstr(n->text, STORE_NAME);
		if (name && !strncmp(name + strlen(STORE_NAME), prefix, strlen(prefix)))
			return true;
	}
	return false;
}

void sd_notifyf(const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	say(text, -1);
}

void sd_store(int fd, const char *name)
{
	char text[128];

	snprintf(text, sizeof(text), "FDSTORE=1\n" STORE_NAME "%s", name);
	nr_stored++;
	say(text, fd);
}

void sd_unstore(const char *name)
{
	nr_stored--;
	sd_notifyf("FDSTOREREMOVE=1\n" STORE_NAME "%s", name);
}

bool sd_has_room(uint32_t fds)
{
	unsigned long long most = number_of("FDSTORE"); /* since systemd 254 */

	return !most || nr_stored + fds <= most;
}

bool sd_is_stored(const char *prefix)
{
	return sd_has_manager() && !is_pending(prefix);
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
	nr_stored = nr > 0 ? (uint32_t)nr : 0;
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
