// SPDX-License-Identifier: MIT
/*
 * Linked into a kvtierd of the tests' own: transfers of blocks come back with errors, as
 * often as $KVTIER_TEST_SPOIL (a file that both sides map) says.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "spoil.h"

static struct spoil *spoil;

__attribute__((constructor)) static void find(void)
{
	const char *path = getenv("KVTIER_TEST_SPOIL");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

	if (fd < 0)
		return;
	spoil = mmap(NULL, sizeof(*spoil), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (spoil == MAP_FAILED)
		spoil = NULL;
	close(fd);
}

/* A poll that is about to be begun becomes an operation that ends with the error. */
static void spoil_polls(struct io_uring *ring)
{
	struct io_uring_sq *sq = &ring->sq;
	unsigned int at;

	for (at = sq->sqe_head; spoil && at != sq->sqe_tail; at++) {
		struct io_uring_sqe *sqe = &sq->sqes[at & sq->ring_mask];

		if (sqe->opcode != IORING_OP_POLL_ADD || spoil->polls <= 0)
			continue;
		sqe->opcode = IORING_OP_NOP;
		sqe->flags = 0;
		sqe->rw_flags = 1; /* IORING_NOP_INJECT_RESULT: of Linux 6.10, before it is 0 */
		sqe->len = (unsigned int)-ENOMEM;
		spoil->polls--;
	}
}

/* The loop's, here: what has come by then passes through our hands. */
int io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned nr,
				     struct __kernel_timespec *ts, sigset_t *mask)
{
	static int (*next)(struct io_uring *, struct io_uring_cqe **, unsigned,
			   struct __kernel_timespec *, sigset_t *);
	unsigned int head;
	int ret;

	if (!next)
		*(void **)&next = dlsym(RTLD_NEXT, "io_uring_submit_and_wait_timeout");
	spoil_polls(ring);
	ret = next(ring, cqe, nr, ts, mask);
	io_uring_for_each_cqe(ring, head, *cqe)
	{
		if (!spoil || (*cqe)->res != SPOIL_BLOCK || spoil->failures <= 0)
			continue;
		(*cqe)->res = spoil->error;
		spoil->failures--;
	}
	return ret;
}
