// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "error.h"
#include "nvme.h"

#define OPEN_FLAGS (O_RDWR | O_DIRECT | O_CLOEXEC)

static int open_failed(const char *path)
{
	int error = errno;

	if (error == EINVAL)
		return kvt_fail(-EINVAL, "%s: its filesystem has no O_DIRECT; "
					 "name a directory on a disk (ext4, xfs, btrfs)", path);
	if (error == EBUSY)
		return kvt_fail(-EBUSY, "%s: the device is mounted or in use; name a free one",
				path);
	if (error == EEXIST)
		return kvt_fail(-EEXIST, "%s: the file has data that would be overwritten; "
					 "name a directory or a new file", path);
	return kvt_fail(-error, "%s: cannot open it as the NVMe tier: %s", path, strerror(error));
}

static int open_unnamed(const char *dir)
{
	char *name;
	int fd = open(dir, OPEN_FLAGS | O_TMPFILE, 0600);

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
		return fd;
	if (asprintf(&name, "%s/kvtier-XXXXXX", dir) < 0)
		return -1;
	fd = mkostemp(name, OPEN_FLAGS & ~O_RDWR);
	if (fd >= 0)
		unlink(name);
	free(name);
	return fd;
}

static int check_device(int fd, const char *path, uint64_t bytes)
{
	uint64_t have;

	if (ioctl(fd, BLKGETSIZE64, &have))
		return kvt_fail(-errno, "%s: cannot read the device's size: %s", path,
				strerror(errno));
	if (have < bytes)
		return kvt_fail(-ENOSPC,
				"%s: the device has %llu MiB, the pool needs %llu MiB there", path,
				(unsigned long long)have >> 20, (unsigned long long)bytes >> 20);
	return 0;
}

static int reserve_file(int fd, const char *path, uint64_t bytes)
{
	struct statvfs fs;
	struct stat st;

	if (fstat(fd, &st) || fstatvfs(fd, &fs))
		return kvt_fail(-errno, "%s: cannot examine it: %s", path, strerror(errno));
	if ((uint64_t)st.st_blocks * 512 < bytes &&
	    (uint64_t)fs.f_bavail * fs.f_frsize < bytes - (uint64_t)st.st_blocks * 512)
		return kvt_fail(-ENOSPC, "%s: %llu MiB are free there, the pool needs %llu MiB; "
					 "free some or name another path", path,
				(unsigned long long)(fs.f_bavail * fs.f_frsize) >> 20,
				(unsigned long long)bytes >> 20);
	if (!fallocate(fd, 0, 0, (off_t)bytes))
		return 0;
	if (errno != EOPNOTSUPP)
		return kvt_fail(-errno, "%s: cannot reserve %llu MiB: %s", path,
				(unsigned long long)bytes >> 20, strerror(errno));
	if ((uint64_t)st.st_size < bytes && ftruncate(fd, (off_t)bytes))
		return kvt_fail(-errno, "%s: cannot grow to %llu MiB: %s", path,
				(unsigned long long)bytes >> 20, strerror(errno));
	return 0;
}

/* A file that is there: ours alone from now on, and only then looked at. */
static int take_file(int fd, const char *path, bool keep)
{
	struct stat st;

	if (flock(fd, LOCK_EX | LOCK_NB))
		return errno == EWOULDBLOCK ?
			       kvt_fail(-EBUSY, "%s: another pool has this file; destroy that one, "
						"or name another", path) :
			       kvt_fail(-errno, "%s: cannot lock the file, which two pools would "
						"overwrite: %s", path, strerror(errno));
	if (fstat(fd, &st))
		return kvt_fail(-errno, "%s: cannot examine it: %s", path, strerror(errno));
	if (st.st_size && !keep) {
		errno = EEXIST;
		return open_failed(path);
	}
	return 0;
}

/* The device that was opened to see what it is, now to the exclusion of others. */
static int take_device(int *fd, const char *path)
{
	struct stat was, st;
	int again;

	if (fstat(*fd, &was))
		return kvt_fail(-errno, "%s: cannot examine it: %s", path, strerror(errno));
	again = open(path, OPEN_FLAGS | O_EXCL);
	if (again < 0)
		return open_failed(path);
	close(*fd);
	*fd = again;
	if (fstat(again, &st) || !S_ISBLK(st.st_mode) || st.st_rdev != was.st_rdev)
		return kvt_fail(-EAGAIN, "%s: it was replaced while it was opened", path);
	return 0;
}

/*
 * Opened first and then asked what it is, so that nobody can put something else there
 * in between.  @fd is set as soon as there is one to close.
 */
static int open_path(const char *path, bool keep, int *fd, mode_t *mode, bool *made)
{
	struct stat st;

	*fd = open(path, OPEN_FLAGS);
	if (*fd < 0 && errno == EISDIR) {
		*mode = S_IFDIR;
		*fd = open_unnamed(path);
		return *fd < 0 ? open_failed(path) : 0;
	}
	if (*fd < 0 && errno == ENOENT) {
		*fd = open(path, OPEN_FLAGS | O_CREAT | O_EXCL, 0600);
		*made = *fd >= 0;
	}
	if (*fd < 0)
		return open_failed(path);
	if (fstat(*fd, &st))
		return kvt_fail(-errno, "%s: cannot examine it: %s", path, strerror(errno));
	*mode = st.st_mode & S_IFMT;
	if (S_ISREG(st.st_mode))
		return take_file(*fd, path, keep);
	return S_ISBLK(st.st_mode) ? take_device(fd, path) : 0;
}

static int reserve(int fd, const char *path, mode_t mode, uint64_t bytes, bool keep)
{
	switch (mode) {
	case S_IFDIR:
		if (keep)
			return kvt_fail(-EINVAL, "%s: a kept pool needs a file or a block device, "
						 "not a directory", path);
		/* fall through */
	case S_IFREG:
		return reserve_file(fd, path, bytes);
	case S_IFBLK:
		return check_device(fd, path, bytes);
	default:
		return kvt_fail(-EINVAL, "%s: neither a directory, a file nor a block device",
				path);
	}
}

int kvt_nvme_open(struct kvt_nvme *n, const char *path, uint64_t bytes, bool keep)
{
	bool made = false;
	mode_t mode = 0;
	int ret;

	n->path = strdup(path);
	if (!n->path)
		return -ENOMEM;
	ret = open_path(path, keep, &n->fd, &mode, &made);
	if (!ret)
		ret = reserve(n->fd, path, mode, bytes, keep);
	if (n->fd >= 0 && made && (ret || !keep))
		unlink(path);
	if (ret)
		kvt_nvme_close(n);
	return ret;
}

void kvt_nvme_release(struct kvt_nvme *n)
{
	if (n->fd >= 0)
		flock(n->fd, LOCK_UN);
}

void kvt_nvme_close(struct kvt_nvme *n)
{
	if (n->fd >= 0)
		close(n->fd);
	free(n->path);
	n->fd = -1;
	n->path = NULL;
}
