// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/kvtier.h>

#include "device_fd.h"
#include "holder.h"

struct search {
	int id;
	int own; /* the borrowed descriptor; -1: not found yet */
	uint32_t refused_by; /* a process that has it, and did not lend it; 0: none */
	uint32_t hidden; /* processes that may not be looked at */
};

/* Whatever the path is in that process's root: it ends like the device's. */
static bool may_be_device(const char *dir, const char *name)
{
	const char *base = strrchr(KVTIER_DEVICE, '/');
	char path[512], target[512];
	ssize_t n;

	if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
		return false;
	n = readlink(path, target, sizeof(target) - 1);
	if (n < (ssize_t)strlen(base))
		return false;
	target[n] = '\0';
	return !strcmp(target + n - strlen(base), base);
}

static void borrow(struct search *s, uint32_t pid, int fd)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (pidfd >= 0) {
		s->own = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
		close(pidfd);
	}
	if (s->own < 0)
		s->refused_by = pid;
}

static void look_into(struct search *s, uint32_t pid)
{
	struct dirent *e;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%u/fd", pid);
	dir = opendir(path);
	if (!dir) {
		s->hidden += errno == EACCES;
		return;
	}
	while (s->own < 0 && (e = readdir(dir)))
		if (may_be_device(path, e->d_name) &&
		    kvt_device_pool(pid, atoi(e->d_name)) == s->id)
			borrow(s, pid, atoi(e->d_name));
	closedir(dir);
}

int holder_borrow(int id, uint32_t likely, char *why, size_t room)
{
	struct search s = { .id = id, .own = -1 };
	struct dirent *e;
	DIR *proc;

	if (likely)
		look_into(&s, likely);
	proc = s.own < 0 ? opendir("/proc") : NULL;
	while (proc && s.own < 0 && (e = readdir(proc)))
		if (strspn(e->d_name, "0123456789") == strlen(e->d_name))
			look_into(&s, (uint32_t)strtoul(e->d_name, NULL, 10));
	if (proc)
		closedir(proc);
	if (s.own >= 0)
		return s.own;
	if (s.refused_by)
		snprintf(why, room,
			 "process %u has pool%d and may not be traced by this user: ask as "
			 "root",
			 s.refused_by, id);
	else if (s.hidden)
		snprintf(why, room, "no process that this user may look at has pool%d open: ask as "
			 "root", id);
	else
		snprintf(why, room,
			 "no process has pool%d open: it lives on in mappings alone, and "
			 "cannot be asked",
			 id);
	return -1;
}
