/* SPDX-License-Identifier: MIT */
#ifndef KVT_STORE_H
#define KVT_STORE_H

#include <stddef.h>
#include <stdint.h>

/*
 * Can @path, a directory, a new or empty file or a block device, be the NVMe
 * tier with @bytes of room (0: as much as turns out to be needed)?  0, or
 * -errno with the reason and the remedy in @why.  Leaves nothing behind.
 */
int store_check(const char *path, uint64_t bytes, char *why, size_t len);

#endif
