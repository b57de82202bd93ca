// SPDX-License-Identifier: MIT
/* The path of the NVMe tier: found unfit before an engine is started, not after. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "host.h"
#include "kvtier.h"
#include "size.h"
#include "store.h"

struct reason {
	char *text;
	size_t len;
};

__attribute__((format(printf, 3, 4))) static int unfit(const struct reason *r, int error,
						       const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(r->text, r->len, fmt, args);
	va_end(args);
	return error;
}

static int check_room(const char *dir, uint64_t bytes, const struct reason *r)
{
	char want[SIZE_TEXT], have[SIZE_TEXT];
	struct statvfs fs;
	uint64_t left;

	if (statvfs(dir, &fs))
		return unfit(r, -errno, "%s: %s", dir, strerror(errno));
	left = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (!bytes)
		bytes = KVT_BLOCK_MAX;
	if (bytes <= left)
		return 0;
	return unfit(r, -ENOSPC, "%s has %s free, %s are wanted: free some or name another path",
		     dir, size_text(left, have), size_text(bytes, want));
}

static int check_directory(const char *dir, uint64_t bytes, const struct reason *r)
{
	int ret;

	if (access(dir, W_OK | X_OK))
		return unfit(r, -errno, "%s cannot be written to: %s; name a directory of your own",
			     dir, strerror(errno));
	if (host_is_memory_fs(dir))
		return unfit(r, -EOPNOTSUPP,
			     "%s is itself in memory (tmpfs): name a directory on a disk", dir);
	ret = check_room(dir, bytes, r);
	if (ret)
		return ret;
	ret = host_direct_io(dir);
	if (ret == -EINVAL || ret == -EOPNOTSUPP)
		return unfit(r, ret, "%s has no O_DIRECT (an overlay?): name a directory on a disk",
			     dir);
	return ret ? unfit(r, ret, "%s: %s", dir, strerror(-ret)) : 0;
}

static int check_device(const char *path, uint64_t bytes, const struct reason *r)
{
	char want[SIZE_TEXT], have[SIZE_TEXT];
	int fd = open(path, O_RDWR | O_EXCL | O_CLOEXEC);
	uint64_t size = 0;

	if (fd < 0 && errno == EBUSY)
		return unfit(r, -EBUSY, "%s is mounted or in use: name a free device", path);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size)) {
		int error = errno;

		if (fd >= 0)
			close(fd);
		return unfit(r, -error, "%s: %s; name a device that you may write to", path,
			     strerror(error));
	}
	close(fd);
	if (bytes > size)
		return unfit(r, -ENOSPC, "%s has %s, %s are wanted", path, size_text(size, have),
			     size_text(bytes, want));
	return 0;
}

static int check_file(const char *path, const struct stat *st, uint64_t bytes,
		      const struct reason *r)
{
	int fd;

	if (st->st_size)
		return unfit(r, -EEXIST,
			     "%s has data that would be overwritten: name a directory or a "
			     "new file",
			     path);
	if (host_is_memory_fs(path))
		return unfit(r, -EOPNOTSUPP,
			     "%s is itself in memory (tmpfs): name a file on a disk", path);
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		return unfit(r, -errno, "%s: %s", path,
			     errno == EINVAL ? "no O_DIRECT there" : strerror(errno));
	close(fd);
	return check_room(path, bytes, r);
}

static int check_new(const char *path, uint64_t bytes, const struct reason *r)
{
	char dir[4096], *slash;
	struct stat st;

	if (snprintf(dir, sizeof(dir), "%s", path) >= (int)sizeof(dir))
		return unfit(r, -ENAMETOOLONG, "its path is too long");
	slash = strrchr(dir, '/');
	if (slash)
		slash[slash == dir] = '\0';
	else
		strcpy(dir, ".");
	if (stat(dir, &st) || !S_ISDIR(st.st_mode))
		return unfit(r, -ENOENT, "there is no directory %s: make it or name another", dir);
	return check_directory(dir, bytes, r);
}

int store_check(const char *path, uint64_t bytes, char *why, size_t len)
{
	const struct reason r = { why, len };
	struct stat st;

	if (stat(path, &st)) {
		if (errno == ENOENT)
			return check_new(path, bytes, &r);
		return unfit(&r, -errno, "%s cannot be reached: %s; name a directory of your own",
			     path, strerror(errno));
	}
	if (S_ISDIR(st.st_mode))
		return check_directory(path, bytes, &r);
	if (S_ISBLK(st.st_mode))
		return check_device(path, bytes, &r);
	if (S_ISREG(st.st_mode))
		return check_file(path, &st, bytes, &r);
	return unfit(&r, -EINVAL, "%s is neither a directory, a file nor a block device", path);
}
