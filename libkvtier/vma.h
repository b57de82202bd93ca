/* SPDX-License-Identifier: MIT */
#ifndef KVT_VMA_H
#define KVT_VMA_H

#include <stddef.h>

/*
 * Reserve @bytes of private anonymous memory, aligned to 2 MiB, without pages,
 * not inherited by children, named @name in /proc/PID/smaps where the kernel
 * can.  Huge pages are asked for when @block_bytes is one.  *@base lies inside
 * *@mapping, which with *@mapping_bytes is what munmap() takes.
 */
int kvt_vma_map(size_t bytes, size_t block_bytes, const char *name, void **mapping,
		size_t *mapping_bytes, void **base);

/* Address space of @bytes at a multiple of 2 MiB, that cannot be accessed; NULL: there is none. */
char *kvt_vma_reserve(size_t bytes);

#endif
