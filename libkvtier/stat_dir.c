// SPDX-License-Identifier: MIT
/* Where pools show themselves; shared by the library and the tools. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stat_file.h"

int kvt_stat_dir(char *buf, size_t len)
{
	const char *own = getenv("KVTIER_RUNTIME_DIR");
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	int n;

	if (own && *own)
		n = snprintf(buf, len, "%s", own);
	else if (xdg && *xdg)
		n = snprintf(buf, len, "%s/kvtier", xdg);
	else if (geteuid() == 0) /* not /run/kvtier: others must reach kvtierd's socket there */
		n = snprintf(buf, len, "/run/kvtier-0");
	else
		n = snprintf(buf, len, "/tmp/kvtier-%u", (unsigned int)geteuid());
	return n < 0 || (size_t)n >= len ? -ENAMETOOLONG : 0;
}

int kvt_stat_dir_make(char *buf, size_t len)
{
	int fd, ret = kvt_stat_dir(buf, len);
	struct stat st;

	if (ret)
		return ret;
	if (mkdir(buf, 0700) && errno != EEXIST)
		return -errno;
	fd = open(buf, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (!fstat(fd, &st) && st.st_uid == geteuid() && !(st.st_mode & S_IWOTH))
		return fd;
	close(fd);
	return -EPERM;
}
