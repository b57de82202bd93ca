// SPDX-License-Identifier: MIT
/*
 * Hand-over on one machine.  The receiver says hello and which pager it has; the sender
 * passes a memory file with a stream, or, when both have the module, with a map of blocks
 * and the descriptor of its pool beside it; the receiver says how it went.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "error.h"
#include "kernel.h"
#include "transfer.h"

#define GREETING 0x4b565431u /* "1TVK" */
#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

struct note {
	uint32_t greeting;
	uint32_t kernel; /* the sender of the note has (hello), or what follows needs, the module */
	uint64_t block_bytes;
	int32_t error; /* of an answer */
	uint32_t reserved;
};

struct passed {
	struct msghdr msg;
	struct iovec iov;
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(2 * sizeof(int))];
	} control;
};

static void prepare(struct passed *p, void *data, size_t bytes, size_t control)
{
	memset(p, 0, sizeof(*p));
	p->iov.iov_base = data;
	p->iov.iov_len = bytes;
	p->msg.msg_iov = &p->iov;
	p->msg.msg_iovlen = 1;
	p->msg.msg_control = control ? p->control.room : NULL;
	p->msg.msg_controllen = control;
}

static int await(int socket, short events, int timeout_ms)
{
	struct pollfd poll_fd = { .fd = socket, .events = events };
	int ret;

	do {
		ret = poll(&poll_fd, 1, timeout_ms);
	} while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return kvt_fail(-errno, "cannot wait for the socket: %s", strerror(errno));
	if (poll_fd.revents & POLLNVAL)
		return kvt_fail(-EBADF, "descriptor %d is not open", socket);
	return ret ? 0 : kvt_fail(-ETIMEDOUT, "the other end of the socket did nothing for %d ms",
				  timeout_ms);
}

/* A note, and up to two descriptors with it. */
static int put_note(int socket, const struct note *note, const int *fds, uint32_t nr,
		    int timeout_ms)
{
	struct note copy = *note;
	struct passed p;
	struct cmsghdr *c;
	ssize_t n = -1;
	int ret;

	prepare(&p, &copy, sizeof(copy), nr ? CMSG_SPACE(nr * sizeof(int)) : 0);
	if (nr) {
		c = CMSG_FIRSTHDR(&p.msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nr * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nr * sizeof(int));
	}
	do {
		ret = await(socket, POLLOUT, timeout_ms);
		if (!ret)
			n = sendmsg(socket, &p.msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (!ret && n < 0 && (errno == EINTR || errno == EAGAIN));
	if (!ret && n != (ssize_t)sizeof(copy))
		ret = kvt_fail(errno == EPIPE ? -EPIPE : -EPROTO,
			       "the other end of the socket does not take a sequence: %s",
			       strerror(errno));
	return ret;
}

static uint32_t take_descriptors(struct passed *p, int fds[2])
{
	struct cmsghdr *c = CMSG_FIRSTHDR(&p->msg);
	size_t bytes;

	if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
		return 0;
	bytes = c->cmsg_len - CMSG_LEN(0);
	if (bytes > 2 * sizeof(int))
		bytes = 2 * sizeof(int);
	memcpy(fds, CMSG_DATA(c), bytes);
	return (uint32_t)(bytes / sizeof(int));
}

/*
 * Returns how many descriptors came with it; the caller closes them, also after an error.
 * The other end may be slow in the middle of a note: every part of it is waited for.
 */
static int get_note(int socket, struct note *note, int fds[2], int timeout_ms)
{
	struct passed p;
	size_t done = 0;
	ssize_t n;
	int ret, nr = 0;

	fds[0] = fds[1] = -1;
	while (done < sizeof(*note)) {
		ret = await(socket, POLLIN, timeout_ms);
		if (ret)
			return ret;
		prepare(&p, (char *)note + done, sizeof(*note) - done,
			nr ? 0 : sizeof(p.control.room));
		n = recvmsg(socket, &p.msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (!n || (n < 0 && errno == ECONNRESET))
			return kvt_fail(-EPIPE, "the other end of the socket is gone");
		if (n < 0)
			return kvt_fail(-errno, "cannot receive from descriptor %d: %s", socket,
					strerror(errno));
		if (!nr)
			nr = (int)take_descriptors(&p, fds);
		done += (size_t)n;
	}
	if (note->greeting != GREETING || note->reserved)
		return kvt_fail(-EPROTO, "what came over the socket is not of a hand-over");
	return nr;
}

static void close_both(int fds[2])
{
	if (fds[0] >= 0)
		close(fds[0]);
	if (fds[1] >= 0)
		close(fds[1]);
}

static bool has_module(const struct kvt_cache *c)
{
	return !strcmp(kvt_pool_pager(c->pool), "kernel");
}

/* What is cloned must not change under the receiver's hands. */
static int seal_all(const struct kvt_seq *seq)
{
	uint32_t i;
	int ret = 0;

	for (i = 0; !ret && i < seq->nr_pieces; i++)
		ret = kvt_extent_seal(seq->cache, seq->pieces[i].extent);
	return ret;
}

/* The stream or map in a file that only memory holds, and that nobody can change any more. */
static int pack(const struct kvt_seq *seq, bool map)
{
	int fd = memfd_create("kvtier-sequence", MFD_CLOEXEC | MFD_ALLOW_SEALING), ret;

	if (fd < 0)
		return kvt_fail(-errno, "cannot make a memory file: %s", strerror(errno));
	ret = map ? seal_all(seq) : 0;
	if (!ret)
		ret = kvt_wire_export(seq, fd, map, -1);
	if (!ret && fcntl(fd, F_ADD_SEALS, SEALS))
		ret = kvt_fail(-errno, "cannot seal a memory file: %s", strerror(errno));
	if (!ret)
		return fd;
	close(fd);
	return ret;
}

static int await_answer(int socket, int timeout_ms)
{
	struct note answer = { 0 };
	int fds[2], ret = get_note(socket, &answer, fds, timeout_ms);

	close_both(fds);
	if (ret < 0)
		return ret;
	if (answer.error)
		return kvt_fail(-EREMOTEIO, "the other end could not take the sequence: %s",
				kvt_strerror(answer.error));
	return 0;
}

int kvt_seq_send(const struct kvt_seq *seq, int socket, int timeout_ms)
{
	struct note note = { .greeting = GREETING }, hello = { 0 };
	struct kvt_cache *c = seq->cache;
	int fds[2], ret = get_note(socket, &hello, fds, timeout_ms);

	close_both(fds);
	if (ret < 0)
		return ret;
	note.block_bytes = kvt_pool_block_bytes(c->pool);
	note.kernel = has_module(c) && hello.kernel && hello.block_bytes == note.block_bytes;
	ret = pack(seq, note.kernel);
	if (ret < 0)
		return ret;
	fds[0] = ret;
	fds[1] = note.kernel ? kvt_event_fd(c->pool) : -1;
	ret = put_note(socket, &note, fds, note.kernel ? 2 : 1, timeout_ms);
	close(fds[0]);
	return ret ? ret : await_answer(socket, timeout_ms);
}

/* A file of another kind could make its reader wait, or change meanwhile. */
static bool is_packed(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);

	return seals >= 0 && (seals & SEALS) == SEALS;
}

static int unpack(struct kvt_cache *c, const struct note *note, const int fds[2], int nr,
		  uint32_t flags, struct kvt_seq **seq)
{
	if (nr != (note->kernel ? 2 : 1) || (note->kernel && !has_module(c)) ||
	    !is_packed(fds[0]))
		return kvt_fail(-EPROTO, "what came over the socket is not of a hand-over");
	if (lseek(fds[0], 0, SEEK_SET))
		return kvt_fail(-errno, "cannot read what came over the socket: %s",
				strerror(errno));
	return kvt_wire_import(c, fds[0], note->kernel ? fds[1] : -1, flags, 0, seq);
}

int kvt_seq_receive(struct kvt_cache *c, int socket, uint32_t flags, int timeout_ms,
		    struct kvt_seq **seq)
{
	struct note hello = { .greeting = GREETING, .kernel = has_module(c),
			      .block_bytes = kvt_pool_block_bytes(c->pool) };
	struct note note = { 0 }, answer = { .greeting = GREETING };
	int fds[2], ret = put_note(socket, &hello, NULL, 0, timeout_ms), nr;

	*seq = NULL;
	if (ret)
		return ret;
	nr = get_note(socket, &note, fds, timeout_ms);
	if (nr < 0) {
		close_both(fds);
		return nr;
	}
	ret = unpack(c, &note, fds, nr, flags, seq);
	close_both(fds);
	answer.error = ret;
	/* A sender that is gone by now has lost nothing, and neither have we. */
	put_note(socket, &answer, NULL, 0, timeout_ms);
	return ret;
}
