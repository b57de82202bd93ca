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

static int open_trial(const char *path)
{
	char dir[4096], *slash;
	struct stat st;

	snprintf(dir, sizeof(dir), "%s", path);
	if (stat(dir, &st) || !S_ISDIR(st.st_mode)) {
		slash = strrchr(dir, '/');
		snprintf(slash ? slash + (slash == dir) : dir, 2, "%s", slash ? "" : ".");
	}
	return open(dir, O_RDWR | O_DIRECT | O_TMPFILE | O_CLOEXEC, 0600);
}

int host_direct_io(const char *path)
{
	char *buf = aligned_alloc(4096, 2 * TRIAL_BYTES);
	int fd = open_trial(path), ret = 0;

	if (!buf || fd < 0) {
		ret = buf ? -errno : -ENOMEM;
		goto out;
	}
	memset(buf, 0xa5, TRIAL_BYTES);
	memset(buf + TRIAL_BYTES, 0, TRIAL_BYTES);
	if (pwrite(fd, buf, TRIAL_BYTES, 0) != TRIAL_BYTES ||
	    pread(fd, buf + TRIAL_BYTES, TRIAL_BYTES, 0) != TRIAL_BYTES)
		ret = errno ? -errno : -EIO;
	else if (memcmp(buf, buf + TRIAL_BYTES, TRIAL_BYTES))
		ret = -EIO;
out:
	if (fd >= 0)
		close(fd);
	free(buf);
	return ret;
}

static uint64_t read_number(const char *path)
{
	unsigned long long n = 0;
	FILE *f = fopen(path, "re");

	if (!f)
		return 0;
	if (fscanf(f, "%llu", &n) != 1)
		n = 0;
	fclose(f);
	return n;
}

static uint64_t mem_available(void)
{
	unsigned long long kib = 0;
	char line[256];
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib << 10;
}

/* Left in this process's memory cgroup; UINT64_MAX: no limit. */
static uint64_t cgroup_left(void)
{
	char line[4096], path[4400], *rest;
	uint64_t limit = 0, used = 0;
	FILE *f = fopen("/proc/self/cgroup", "re");

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		rest = strstr(line, ":memory:");
		if (rest) {
			snprintf(path, sizeof(path), "/sys/fs/cgroup/memory%s/memory.limit_in_bytes",
				 rest + 8);
			limit = read_number(path);
			snprintf(path, sizeof(path), "/sys/fs/cgroup/memory%s/memory.usage_in_bytes",
				 rest + 8);
			used = read_number(path);
			break;
		}
		if (!strncmp(line, "0::", 3)) {
			snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.max", line + 3);
			limit = read_number(path);
			snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.current", line + 3);
			used = read_number(path);
		}
	}
	if (f)
		fclose(f);
	return limit ? (limit > used ? limit - used : 0) : UINT64_MAX;
}

uint64_t host_memory(void)
{
	uint64_t available = mem_available(), left = cgroup_left();

	return available < left ? available : left;
}

bool host_is_memory_fs(const char *path)
{
	struct statfs fs;

	return !statfs(path, &fs) && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

const char *host_nvme_dir(char *buf, size_t len)
{
	const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	const char *choices[] = { "/var/tmp", buf, "/tmp", "." };
	size_t i;

	buf[0] = '\0';
	if (cache && *cache)
		snprintf(buf, len, "%s", cache);
	else if (home && *home)
		snprintf(buf, len, "%s/.cache", home);
	for (i = 0; i < sizeof(choices) / sizeof(choices[0]); i++)
		if (choices[i][0] && !host_is_memory_fs(choices[i]) && !host_direct_io(choices[i]))
			return choices[i];
	return NULL;
}
