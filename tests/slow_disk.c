// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "slow_disk.h"

#define GROUPS "/sys/fs/cgroup/blkio"

static bool attach(struct loop_disk *d, int backing)
{
	struct loop_config config = { .fd = (uint32_t)backing,
				      .info = { .lo_flags = LO_FLAGS_AUTOCLEAR } };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), number;
	struct stat st;

	if (control < 0)
		return false;
	number = ioctl(control, LOOP_CTL_GET_FREE);
	close(control);
	if (number < 0)
		return false;
	snprintf(d->path, sizeof(d->path), "/dev/loop%d", number);
	d->fd = open(d->path, O_RDWR | O_CLOEXEC);
	if (d->fd < 0)
		return false;
	if (!ioctl(d->fd, LOOP_CONFIGURE, &config) && !fstat(d->fd, &st)) {
		d->number = st.st_rdev;
		return true;
	}
	close(d->fd);
	return false;
}

bool loop_attach(struct loop_disk *d, const char *file, uint64_t bytes)
{
	int backing = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600), tries;
	bool made = false;

	if (backing < 0)
		return false;
	/* Another program may take the number that was free a moment ago. */
	for (tries = 0; !ftruncate(backing, (off_t)bytes) && tries < 16 && !made; tries++)
		made = attach(d, backing);
	close(backing);
	return made;
}

static bool write_text(const char *dir, const char *file, const char *text)
{
	char path[256];
	bool done;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	if (fd >= 0)
		close(fd);
	return done;
}

bool throttle_set(const struct throttle *t, const char *what, uint64_t bytes_per_s)
{
	char text[64], file[64];

	snprintf(file, sizeof(file), "blkio.throttle.%s_bps_device", what);
	snprintf(text, sizeof(text), "%u:%u %llu", major(t->number), minor(t->number),
		 (unsigned long long)bytes_per_s);
	return write_text(t->dir, file, text);
}

bool throttle_begin(struct throttle *t, const struct loop_disk *d, pid_t pid)
{
	char text[32];

	t->number = d->number;
	snprintf(t->dir, sizeof(t->dir), GROUPS "/kvtier-test.%d", (int)getpid());
	if (mkdir(t->dir, 0700))
		return false;
	snprintf(text, sizeof(text), "%d", (int)pid);
	if (throttle_set(t, "read", 0) && write_text(t->dir, "cgroup.procs", text))
		return true;
	rmdir(t->dir);
	return false;
}

bool throttle_leave(void)
{
	return write_text(GROUPS, "cgroup.procs", "0");
}

bool throttle_end(const struct throttle *t)
{
	return !rmdir(t->dir) || errno == ENOENT;
}
