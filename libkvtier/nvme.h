/* SPDX-License-Identifier: MIT */
/* The NVMe tier's file or block device: opened, measured and reserved here. */
#ifndef KVT_NVME_H
#define KVT_NVME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kvt_nvme {
	int fd; /* O_DIRECT; -1: no NVMe tier */
	char *path;
};

/*
 * Open @path and make sure that it holds @bytes.  A directory gets an unnamed
 * file.  A new file loses its name at once unless @keep, so that nothing stays
 * behind however the process ends; one with data in it is taken only with
 * @keep.  A block device is opened exclusively, a file is locked (flock): no two
 * pools write to the same one.
 *
 * Errors: -ENOSPC too small or full; -EINVAL no O_DIRECT; -EBUSY the device is
 * in use, or another pool has the file; -EEXIST the file has data; others from
 * open(2) and flock(2).
 */
int kvt_nvme_open(struct kvt_nvme *n, const char *path, uint64_t bytes, bool keep);
/* Let the next pool have the file, even where a child made by fork() still has the descriptor. */
void kvt_nvme_release(struct kvt_nvme *n);
void kvt_nvme_close(struct kvt_nvme *n);

#endif
