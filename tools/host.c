// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "host.h"
#include "uffd.h"

#define TRIAL_BYTES 65536

int host_kernel(void)
{
	struct utsname name;
	int major = 0, minor = 0;

	if (uname(&name) || sscanf(name.release, "%d.%d", &major, &minor) != 2)
		return 0;
	return major * 1000 + minor;
}

void host_uffd(struct host_uffd *uffd)
{
	struct kvt_uffd u = { .fd = -1 };
	int ret = kvt_uffd_open(&u);

	memset(uffd, 0, sizeof(*uffd));
	uffd->error = ret;
	uffd->user_only = u.user_only;
	uffd->can_move = u.can_move;
	uffd->can_protect = !ret;
	kvt_uffd_close(&u);
}

int host_io_uring(void)
{
	struct io_uring ring;
	int ret = io_uring_queue_init(8, &ring, 0);

	if (!ret)
		io_uring_queue_exit(&ring);
	return ret;
}

const char *host_io_uring_text(int error)
{
	int disabled = host_sysctl("/proc/sys/kernel/io_uring_disabled");

	if ((error == -EPERM || error == -EACCES) && disabled > 0)
		return "io_uring is forbidden here: run `sysctl -w kernel.io_uring_disabled=0` as "
		       "root";
	if (error == -EPERM || error == -EACCES)
		return "io_uring is forbidden here by seccomp: allow the system call, as with "
		       "`docker run --security-opt seccomp=unconfined`";
	if (error == -ENOSYS)
		return "this kernel has no io_uring: Linux 5.13 or newer with CONFIG_IO_URING is "
		       "needed";
	if (error == -ENOMEM)
		return "io_uring gets no locked memory: run `ulimit -l 65536`, or as root";
	return "io_uring does not work here: `kvtier doctor` says more";
}

int host_sysctl(const char *path)
{
	int value = -1;
	FILE *f = fopen(path, "re");

	if (!f)
		return -1;
	if (fscanf(f, "%d", &value) != 1)
		value = -1;
	fclose(f);
	return value;
}

/* As the library opens its file: unnamed, or with a name that is removed at once. */
static int open_trial(const char *dir)
{
	const int flags = O_RDWR | O_DIRECT | O_CLOEXEC;
	int fd = open(dir, flags | O_TMPFILE, 0600);
	char name[4096];

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
		return fd;
	if (snprintf(name, sizeof(name), "%s/kvtier-XXXXXX", dir) >= (int)sizeof(name)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	fd = mkostemp(name, flags & ~O_RDWR);
	if (fd >= 0)
		unlink(name);
	return fd;
}

static int write_and_read(int fd, char *out, char *in)
{
	ssize_t n;

	memset(out, 0xa5, TRIAL_BYTES);
	memset(in, 0, TRIAL_BYTES);
	n = pwrite(fd, out, TRIAL_BYTES, 0);
	if (n == TRIAL_BYTES)
		n = pread(fd, in, TRIAL_BYTES, 0);
	if (n < 0)
		return -errno;
	return n == TRIAL_BYTES && !memcmp(out, in, TRIAL_BYTES) ? 0 : -EIO;
}

int host_direct_io(const char *dir)
{
	char *buf = aligned_alloc(4096, 2 * TRIAL_BYTES);
	int fd, ret;

	if (!buf)
		return -ENOMEM;
	fd = open_trial(dir);
	ret = fd < 0 ? -errno : write_and_read(fd, buf, buf + TRIAL_BYTES);
	if (fd >= 0)
		close(fd);
	free(buf);
	return ret;
}

bool host_is_memory_fs(const char *path)
{
	struct statfs fs;

	return !statfs(path, &fs) && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

const char *host_nvme_dir(char *buf, size_t len)
{
	const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	char own[4096] = "";
	const char *choices[] = { "/var/tmp", own, "/tmp", "." };
	size_t i;

	if (cache && *cache)
		snprintf(own, sizeof(own), "%s", cache);
	else if (home && *home)
		snprintf(own, sizeof(own), "%s/.cache", home);
	for (i = 0; i < sizeof(choices) / sizeof(choices[0]); i++) {
		if (!choices[i][0] || host_is_memory_fs(choices[i]) || host_direct_io(choices[i]))
			continue;
		snprintf(buf, len, "%s", choices[i]);
		return buf;
	}
	buf[0] = '\0';
	return NULL;
}
