// SPDX-License-Identifier: MIT
/*
 * Whole buffers over any descriptor.  Nothing waits longer than the limit without
 * progress, whether or not the descriptor blocks, and a peer that went away is an
 * error, not a signal.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "crc.h"
#include "error.h"
#include "transfer.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "streams are written as they lie");
_Static_assert(sizeof(struct kvt_geometry) == 88, "part of the stream's format");

int kvt_wire_open(struct kvt_wire *s, int fd, int timeout_ms)
{
	struct stat st;

	*s = (struct kvt_wire){ .fd = fd, .timeout_ms = timeout_ms };
	if (fstat(fd, &st))
		return kvt_fail(-errno, "cannot use descriptor %d for a stream: %s", fd,
				strerror(errno));
	s->is_socket = S_ISSOCK(st.st_mode);
	s->is_file = S_ISREG(st.st_mode);
	return 0;
}

static int await(const struct kvt_wire *s, short events)
{
	struct pollfd p = { .fd = s->fd, .events = events };
	int ret;

	if (s->is_file)
		return 0;
	do {
		ret = poll(&p, 1, s->timeout_ms);
	} while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return kvt_fail(-errno, "cannot wait for descriptor %d: %s", s->fd,
				strerror(errno));
	if (!ret)
		return kvt_fail(-ETIMEDOUT, "the other end of the stream did nothing for %d ms",
				s->timeout_ms);
	return 0;
}

/* write() to a pipe without reader raises a signal that the program did not ask for. */
static ssize_t write_quietly(int fd, const void *buf, size_t bytes)
{
	struct timespec now = { 0 };
	sigset_t pipe, pending, old;
	bool was_pending;
	ssize_t ret;
	int error;

	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	sigpending(&pending);
	was_pending = sigismember(&pending, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe, &old);
	ret = write(fd, buf, bytes);
	error = errno;
	if (ret < 0 && error == EPIPE && !was_pending)
		sigtimedwait(&pipe, NULL, &now);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	errno = error;
	return ret;
}

/* What poll() promised not to block: all of a socket's room, PIPE_BUF of a pipe's. */
static ssize_t write_some(const struct kvt_wire *s, const void *buf, size_t bytes)
{
	if (s->is_socket)
		return send(s->fd, buf, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (!s->is_file && bytes > PIPE_BUF)
		bytes = PIPE_BUF;
	return write_quietly(s->fd, buf, bytes);
}

static int put(struct kvt_wire *s, const char *buf, size_t bytes)
{
	ssize_t n;
	int ret;

	while (bytes) {
		ret = await(s, POLLOUT);
		if (ret)
			return ret;
		n = write_some(s, buf, bytes);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			return kvt_fail(-errno, "the stream broke after %llu bytes: %s",
					(unsigned long long)s->bytes, strerror(errno));
		buf += n;
		bytes -= (size_t)n;
		s->bytes += (size_t)n;
	}
	return 0;
}

int kvt_wire_put(struct kvt_wire *s, const void *buf, size_t bytes)
{
	uint32_t crc = kvt_crc32c(buf, bytes);
	int ret = put(s, buf, bytes);

	s->crc += crc;
	return ret ? ret : put(s, (const char *)&crc, sizeof(crc));
}

static int get(struct kvt_wire *s, char *buf, size_t bytes, const char *what)
{
	ssize_t n;
	int ret;

	while (bytes) {
		ret = await(s, POLLIN);
		if (ret)
			return ret;
		n = read(s->fd, buf, bytes);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0 && errno != ECONNRESET)
			return kvt_fail(-errno, "the stream broke after %llu bytes: %s",
					(unsigned long long)s->bytes, strerror(errno));
		if (n <= 0)
			return kvt_fail(-EPIPE, "the stream ends after %llu bytes, inside %s",
					(unsigned long long)s->bytes, what);
		buf += n;
		bytes -= (size_t)n;
		s->bytes += (size_t)n;
	}
	return 0;
}

int kvt_wire_get(struct kvt_wire *s, void *buf, size_t bytes, const char *what)
{
	uint64_t at = s->bytes;
	uint32_t crc, got;
	int ret = get(s, buf, bytes, what);

	if (!ret)
		ret = get(s, (char *)&crc, sizeof(crc), what);
	if (ret)
		return ret;
	got = kvt_crc32c(buf, bytes);
	s->crc += got;
	if (got != crc)
		return kvt_fail(-EILSEQ,
				"the stream is damaged: %s at byte %llu does not match its "
				"checksum",
				what, (unsigned long long)at);
	return 0;
}
