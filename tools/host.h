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

/* 0 when a file in @dir (or beside file @dir) can be written and read back with O_DIRECT. */
int host_direct_io(const char *dir);

/* Bytes this process may use: MemAvailable, or what its cgroup leaves. */
uint64_t host_memory(void);

/* A directory on a disk for the NVMe tier; NULL: none found. */
const char *host_nvme_dir(char *buf, size_t len);
/* True for tmpfs and the like, which are memory themselves. */
bool host_is_memory_fs(const char *path);

#endif
