// SPDX-License-Identifier: MIT
/*
 * deny SYSCALL ERRNO COMMAND...: run COMMAND as on a host whose kernel lacks the
 * system call (ENOSYS) or forbids it (EPERM).  Exit status 77: seccomp is not to
 * be had here.
 */
#include <err.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define IOC_NEW _IO(0xaa, 0x00) /* USERFAULTFD_IOC_NEW, newer than Debian 12's header */

static const struct {
	const char *name;
	unsigned int number;
} names[] = {
	{ "userfaultfd", SYS_userfaultfd },
	{ "io_uring_setup", SYS_io_uring_setup },
	{ "ENOSYS", ENOSYS },
	{ "EPERM", EPERM },
};

static unsigned int number_of(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(name, names[i].name))
			return names[i].number;
	errx(1, "%s: unknown", name);
}

static void forbid(unsigned int call, unsigned int error)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 3, 0),
		/* /dev/userfaultfd is the other way to the first of them. */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IOC_NEW, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		err(77, "seccomp");
}

int main(int argc, char **argv)
{
	if (argc < 4)
		errx(1, "usage: deny SYSCALL ERRNO COMMAND...");
	forbid(number_of(argv[1]), number_of(argv[2]));
	execvp(argv[3], argv + 3);
	err(1, "%s", argv[3]);
}
