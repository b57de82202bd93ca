/* SPDX-License-Identifier: MIT */
/* Which pool of the module a descriptor is, of this process or of another. */
#ifndef KVT_DEVICE_FD_H
#define KVT_DEVICE_FD_H

#include <stdint.h>

/*
 * The number of the pool that is open as @fd in process @pid: /sys/class/kvtier/pool<it>.
 * -1: it is none, or this process may not look at that one.
 */
int kvt_device_pool(uint32_t pid, int fd);

#endif
