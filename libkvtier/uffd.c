// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "error.h"
#include "uffd.h"

/* Newer than Debian 12's headers; from include/uapi/linux/userfaultfd.h. */
#define FEATURE_POISON (1 << 14)
#define FEATURE_MOVE (1 << 16)

struct move_args {
	__u64 dst, src, len, mode;
	__s64 moved;
};

struct poison_args {
	struct uffdio_range range;
	__u64 mode;
	__s64 updated;
};

#define IOC_MOVE _IOWR(UFFDIO, 0x05, struct move_args)
#define IOC_POISON _IOWR(UFFDIO, 0x08, struct poison_args)
#define MOVE_DONTWAKE 1
#define MOVE_ALLOW_SRC_HOLES 2

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

static int open_fd(bool *user_only)
{
	int flags = O_CLOEXEC | O_NONBLOCK;
	int fd, dev;

	*user_only = false;
	fd = (int)syscall(SYS_userfaultfd, flags);
	if (fd >= 0 || errno == ENOSYS)
		return fd >= 0 ? fd : -ENOSYS;
	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, flags);
		close(dev);
		if (fd >= 0)
			return fd;
	}
	*user_only = true;
	fd = (int)syscall(SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY);
	return fd >= 0 ? fd : -errno;
}

static int handshake(int fd, __u64 want, __u64 *have)
{
	struct uffdio_api api = { .api = UFFD_API, .features = want };

	if (ioctl(fd, UFFDIO_API, &api))
		return -errno;
	*have = api.features;
	return 0;
}

/* A descriptor takes one handshake only, so ask a throw-away one what there is. */
static int probe_features(__u64 *have)
{
	bool user_only;
	int fd = open_fd(&user_only);
	int ret;

	if (fd < 0)
		return fd;
	ret = handshake(fd, 0, have);
	close(fd);
	return ret;
}

static int refused(int error)
{
	if (error == -EPERM || error == -EACCES)
		return kvt_fail(
			-EPERM,
			"userfaultfd is forbidden here (seccomp or vm.unprivileged_userfaultfd): "
			"run `sysctl -w vm.unprivileged_userfaultfd=1` as root or allow the system call");
	if (error == -ENOSYS)
		return kvt_fail(-ENOSYS, "this kernel has no userfaultfd: Linux 5.7 or newer with "
					 "CONFIG_USERFAULTFD is needed");
	return kvt_fail(error, "cannot open a userfaultfd: %s", strerror(-error));
}

int kvt_uffd_open(struct kvt_uffd *u)
{
	const char *force = getenv("KVTIER_UFFD");
	__u64 have = 0, want = UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	int ret;

	ret = probe_features(&have);
	if (ret)
		return refused(ret);
	if ((have & want) != want)
		return kvt_fail(-ENOSYS, "this kernel's userfaultfd lacks write-protection: "
					 "Linux 5.7 or newer is needed");
	u->can_move = (have & FEATURE_MOVE) && !(force && !strcmp(force, "copy"));
	u->can_poison = have & FEATURE_POISON;
	if (u->can_move)
		want |= FEATURE_MOVE;
	if (u->can_poison)
		want |= FEATURE_POISON;
	u->fd = open_fd(&u->user_only);
	if (u->fd < 0)
		return refused(u->fd);
	ret = handshake(u->fd, want, &have);
	if (ret) {
		kvt_uffd_close(u);
		return kvt_fail(ret, "userfaultfd refused its features: %s", strerror(-ret));
	}
	return 0;
}

int kvt_uffd_open_shared(bool *user_only)
{
	__u64 want = UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_PAGEFAULT_FLAG_WP |
		     UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM |
		     UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
	__u64 have = 0;
	int fd, ret = probe_features(&have);

	if (ret)
		return refused(ret);
	if ((have & want) != want)
		return kvt_fail(-EOPNOTSUPP,
				"this kernel's userfaultfd cannot serve shared memory: "
				"Linux 6.4 or newer, or the module, is needed");
	fd = open_fd(user_only);
	if (fd < 0)
		return refused(fd);
	ret = handshake(fd, want | (have & FEATURE_POISON), &have);
	if (ret) {
		close(fd);
		return kvt_fail(ret, "userfaultfd refused its features: %s", strerror(-ret));
	}
	return fd;
}

void kvt_uffd_close(struct kvt_uffd *u)
{
	if (u->fd >= 0)
		close(u->fd);
	u->fd = -1;
}

int kvt_uffd_register(const struct kvt_uffd *u, void *addr, size_t len, bool missing)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)addr, .len = len },
		.mode = UFFDIO_REGISTER_MODE_WP | (missing ? UFFDIO_REGISTER_MODE_MISSING : 0),
	};

	if (ioctl(u->fd, UFFDIO_REGISTER, &reg))
		return kvt_fail(-errno, "cannot register %zu MiB with userfaultfd: %s", len >> 20,
				strerror(errno));
	return 0;
}

int kvt_uffd_next(const struct kvt_uffd *u, struct kvt_fault *fault)
{
	struct uffd_msg msg;
	ssize_t n;

	do {
		n = read(u->fd, &msg, sizeof(msg));
		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		if (n != sizeof(msg))
			return -EIO;
	} while (msg.event != UFFD_EVENT_PAGEFAULT);
	fault->addr = msg.arg.pagefault.address;
	fault->tid = msg.arg.pagefault.feat.ptid;
	fault->write = msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE;
	fault->wp = msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP;
	return 1;
}

/* Move what can be moved; *@done says how far it went. */
static int move_pages(const struct kvt_uffd *u, char *dst, char *src, size_t len, size_t *done)
{
	int tries = 0;

	for (*done = 0; *done < len;) {
		struct move_args args = {
			.dst = (uintptr_t)dst + *done,
			.src = (uintptr_t)src + *done,
			.len = len - *done,
			.mode = MOVE_DONTWAKE | MOVE_ALLOW_SRC_HOLES,
		};

		if (!ioctl(u->fd, IOC_MOVE, &args))
			return 0;
		if (args.moved > 0)
			*done += (size_t)args.moved;
		else if (errno == EBUSY && ++tries < 100)
			sched_yield(); /* a finished read may hold its pins a little longer */
		else if (errno != EAGAIN)
			return -errno;
	}
	return 0;
}

int kvt_uffd_move(const struct kvt_uffd *u, void *dst, void *src, size_t len)
{
	size_t done, undone;
	int ret = move_pages(u, dst, src, len, &done);

	if (!ret || !done)
		return ret;
	move_pages(u, src, dst, done, &undone);
	return undone == done ? ret : -EIO;
}

int kvt_uffd_copy(const struct kvt_uffd *u, void *dst, const void *src, size_t len, bool wp)
{
	size_t done = 0;

	while (done < len) {
		struct uffdio_copy args = {
			.dst = (uintptr_t)dst + done,
			.src = (uintptr_t)src + done,
			.len = len - done,
			.mode = UFFDIO_COPY_MODE_DONTWAKE | (wp ? UFFDIO_COPY_MODE_WP : 0),
		};

		if (!ioctl(u->fd, UFFDIO_COPY, &args))
			return 0;
		if (args.copy > 0)
			done += (size_t)args.copy;
		else if (errno != EAGAIN)
			return -errno;
	}
	return 0;
}

static int write_protect(const struct kvt_uffd *u, void *addr, size_t len, __u64 mode)
{
	struct uffdio_writeprotect args = {
		.range = { .start = (uintptr_t)addr, .len = len },
		.mode = mode,
	};

	while (ioctl(u->fd, UFFDIO_WRITEPROTECT, &args))
		if (errno != EAGAIN)
			return -errno;
	return 0;
}

int kvt_uffd_protect(const struct kvt_uffd *u, void *addr, size_t len)
{
	return write_protect(u, addr, len, UFFDIO_WRITEPROTECT_MODE_WP);
}

int kvt_uffd_unprotect(const struct kvt_uffd *u, void *addr, size_t len)
{
	return write_protect(u, addr, len, 0);
}

void kvt_uffd_wake(const struct kvt_uffd *u, void *addr, size_t len)
{
	struct uffdio_range range = { .start = (uintptr_t)addr, .len = len };

	ioctl(u->fd, UFFDIO_WAKE, &range);
}

int kvt_uffd_poison(const struct kvt_uffd *u, void *addr, size_t len)
{
	struct poison_args args = { .range = { .start = (uintptr_t)addr, .len = len } };

	if (!u->can_poison)
		return -EOPNOTSUPP;
	while (ioctl(u->fd, IOC_POISON, &args))
		if (errno != EAGAIN)
			return -errno;
	return 0;
}

/*
 * The kernel lets one thread send another only a negative si_code; the rest
 * of a memory fault's siginfo is as for any SIGBUS.
 */
void kvt_uffd_sigbus(uint32_t tid, uintptr_t addr)
{
	siginfo_t info;

	memset(&info, 0, sizeof(info));
	info.si_signo = SIGBUS;
	info.si_code = SI_QUEUE;
	info.si_addr = (void *)addr;
	syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, SIGBUS, &info);
}
