// SPDX-License-Identifier: MIT
/*
 * The mapping of a shared pool.
 *
 * Of a memory file every fault is the daemon's: pages that the file does not have
 * (missing), pages that it has and we do not map (minor: they may not be verified
 * yet), and stores to protected ones.  We keep a descriptor of the userfaultfd, so
 * that its faults wait for the next daemon when one dies; closing it would let them
 * see the file as it is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"
#include "error.h"
#include "uffd.h"
#include "vma.h"

static int watch_faults(struct kvt_shared *s)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)s->kernel.pool.addr, .len = s->kernel.pool.bytes },
		.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR |
			UFFDIO_REGISTER_MODE_WP,
	};

	s->uffd = kvt_uffd_open_shared(&s->user_only);
	if (s->uffd < 0)
		return s->uffd;
	if (ioctl(s->uffd, UFFDIO_REGISTER, &reg))
		return kvt_fail(-errno, "cannot register the pool with userfaultfd: %s",
				strerror(errno));
	return 0;
}

int kvt_map_shared(struct kvt_shared *s)
{
	struct kvt_pool *pool = &s->kernel.pool;
	int error;

	pool->addr = kvt_vma_reserve(pool->bytes);
	if (!pool->addr)
		return kvt_fail(-errno, "cannot reserve %llu MiB of address space: %s",
				(unsigned long long)pool->bytes >> 20, strerror(errno));
	if (mmap(pool->addr, pool->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 s->kernel.fd, 0) == MAP_FAILED) {
		error = errno;
		munmap(pool->addr, pool->bytes);
		pool->addr = NULL;
		return kvt_fail(-error, "cannot map the pool: %s", strerror(error));
	}
	madvise(pool->addr, pool->bytes, MADV_DONTFORK);
	madvise(pool->addr, pool->bytes, MADV_DONTDUMP);
	if (s->module)
		return 0;
	error = watch_faults(s);
	if (error)
		kvt_unmap_shared(s);
	return error;
}

/* First the mapping: without its userfaultfd it would show the file as it is. */
void kvt_unmap_shared(struct kvt_shared *s)
{
	if (s->kernel.pool.addr)
		munmap(s->kernel.pool.addr, s->kernel.pool.bytes);
	s->kernel.pool.addr = NULL;
	if (s->uffd >= 0)
		close(s->uffd);
	s->uffd = -1;
}

/* An empty file in place of the pool: every touch is SIGBUS.  Threads that wait try again. */
void kvt_map_bury(struct kvt_shared *s)
{
	struct kvt_pool *pool = &s->kernel.pool;
	struct uffdio_range range = { .start = (uintptr_t)pool->addr, .len = pool->bytes };
	int fd;

	if (s->dead)
		return;
	s->dead = true;
	if (s->module)
		return;
	fd = memfd_create("kvtier-lost", MFD_CLOEXEC);
	if (fd < 0 || mmap(pool->addr, pool->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			   fd, 0) == MAP_FAILED)
		mprotect(pool->addr, pool->bytes, PROT_NONE);
	if (fd >= 0)
		close(fd);
	if (s->uffd >= 0) {
		ioctl(s->uffd, UFFDIO_WAKE, &range);
		close(s->uffd);
	}
	s->uffd = -1;
}
