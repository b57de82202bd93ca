// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "error.h"
#include "vma.h"

#define HUGE_BYTES (2UL << 20)

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

int kvt_vma_map(size_t bytes, size_t block_bytes, const char *name, void **mapping,
		size_t *mapping_bytes, void **base)
{
	size_t whole = bytes + HUGE_BYTES;
	uintptr_t start;
	void *map;

	map = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		   -1, 0);
	if (map == MAP_FAILED)
		return kvt_fail(-errno, "cannot reserve %zu MiB of address space: %s", whole >> 20,
				strerror(errno));
	start = ((uintptr_t)map + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);
	madvise(map, whole, MADV_DONTFORK);
	madvise(map, whole, MADV_DONTDUMP);
	madvise(map, whole, block_bytes >= HUGE_BYTES ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, map, whole, name);
	*mapping = map;
	*mapping_bytes = whole;
	*base = (void *)start;
	return 0;
}

char *kvt_vma_reserve(size_t bytes)
{
	size_t whole = bytes + HUGE_BYTES, head;
	char *map =
		mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (map == MAP_FAILED)
		return NULL;
	head = -(uintptr_t)map & (HUGE_BYTES - 1);
	if (head)
		munmap(map, head);
	munmap(map + head + bytes, HUGE_BYTES - head);
	return map + head;
}
