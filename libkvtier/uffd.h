/* SPDX-License-Identifier: MIT */
/*
 * userfaultfd: the user pager's MMU.  Missing faults bring blocks in, write
 * faults on protected blocks tell which ones change.
 */
#ifndef KVT_UFFD_H
#define KVT_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kvt_uffd {
	int fd;
	bool can_move; /* UFFDIO_MOVE, Linux 6.8 */
	bool can_poison; /* UFFDIO_POISON, Linux 6.6 */
	bool user_only; /* faults of system calls are not served: -EFAULT there */
};

struct kvt_fault {
	uintptr_t addr;
	uint32_t tid;
	bool write;
	bool wp; /* the block is mapped but write-protected */
};

/* Errors: -EPERM forbidden here, -ENOSYS kernel without userfaultfd or write-protection. */
int kvt_uffd_open(struct kvt_uffd *u);
void kvt_uffd_close(struct kvt_uffd *u);
/*
 * A descriptor for the mapping of a memory file whose faults another process serves.
 * Errors as above, and -EOPNOTSUPP: Linux 5.19 is needed to protect such memory.
 */
int kvt_uffd_open_shared(bool *user_only);
/* @missing: faults on absent pages are ours too (the pool); else only targets of moves (arenas). */
int kvt_uffd_register(const struct kvt_uffd *u, void *addr, size_t len, bool missing);
/* Next fault: 1, none: 0, or a negative errno. */
int kvt_uffd_next(const struct kvt_uffd *u, struct kvt_fault *fault);

/*
 * Move pages without waking who waits for them: all or none.  -EBUSY: a page is pinned
 * (GUP).  -EIO: some moved, and those could not be moved back.
 */
int kvt_uffd_move(const struct kvt_uffd *u, void *dst, void *src, size_t len);
/* Copy into new pages without waking; write-protected from the first moment when @wp. */
int kvt_uffd_copy(const struct kvt_uffd *u, void *dst, const void *src, size_t len, bool wp);
int kvt_uffd_protect(const struct kvt_uffd *u, void *addr, size_t len);
/* Allow writes again and wake who waits to write. */
int kvt_uffd_unprotect(const struct kvt_uffd *u, void *addr, size_t len);
void kvt_uffd_wake(const struct kvt_uffd *u, void *addr, size_t len);
/* Touches of @addr get SIGBUS until its pages are dropped. */
int kvt_uffd_poison(const struct kvt_uffd *u, void *addr, size_t len);
/* Fail one waiting access with SIGBUS; si_addr says where. */
void kvt_uffd_sigbus(uint32_t tid, uintptr_t addr);

#endif
