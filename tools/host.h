/* SPDX-License-Identifier: MIT */
/* What this host can do: asked by trying it. */
#ifndef KVT_HOST_H
#define KVT_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Linux 6.8 is 6008. */
int host_kernel(void);

struct host_uffd {
	int error; /* 0, -EPERM: forbidden, -ENOSYS: no such kernel */
	bool user_only; /* system calls on cached memory would fail */
	bool can_move; /* Linux 6.8 */
	bool can_protect;
};
void host_uffd(struct host_uffd *uffd);

/* 0, -EPERM, -ENOSYS, -ENOMEM, ... */
int host_io_uring(void);
/* What such an error means here, and what mends it. */
const char *host_io_uring_text(int error);

/* What is in a file of one number below /proc/sys; -1: there is no such file. */
int host_sysctl(const char *path);

/* 0 when a file in @dir can be written and read back with O_DIRECT; leaves nothing there. */
int host_direct_io(const char *dir);

/* Bytes that are free for this process: MemAvailable, or what its cgroup leaves. */
uint64_t host_memory(void);
/* Bytes that it may ever have: of the host, or its cgroup's limit. */
uint64_t host_memory_limit(void);
/* Bytes of swap space. */
uint64_t host_swap(void);

/* A directory on a disk for the NVMe tier, in @buf; NULL, and "" there: none found. */
const char *host_nvme_dir(char *buf, size_t len);
/* True for tmpfs and the like, which are memory themselves. */
bool host_is_memory_fs(const char *path);

#endif
