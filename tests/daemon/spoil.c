// SPDX-License-Identifier: MIT
/*
 * Linked into a kvtierd of the tests' own: transfers of blocks come back with errors, as
 * often as $KVTIER_TEST_SPOIL (a file that both sides map) says.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
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
