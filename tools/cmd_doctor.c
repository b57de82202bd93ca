// SPDX-License-Identifier: MIT
/* kvtier doctor: what this host lacks, and the command that mends it. */
#define _GNU_SOURCE
#include <errno.h>
#include <numa.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "command.h"
#include "host.h"
#include "kvtier.h"
#include "module.h"
#include "option.h"
#include "print.h"
#include "size.h"
#include "store.h"

#define SWAPPINESS_LOW 10

enum verdict {
	OK,
	NOTE,	 /* works, with a consequence */
	MISSING, /* `kvtier run` does not work */
};

struct finding {
	enum verdict verdict;
	char text[256];
	char mend[256]; /* the command; "": none is needed */
};

__attribute__((format(printf, 3, 4))) static void say(struct finding *f, enum verdict verdict,
						      const char *fmt, ...)
{
	va_list args;

	f->verdict = verdict;
	va_start(args, fmt);
	vsnprintf(f->text, sizeof(f->text), fmt, args);
	va_end(args);
}

static void mend(struct finding *f, const char *command)
{
	snprintf(f->mend, sizeof(f->mend), "%s", command);
}

static void check_kernel(struct finding *f, const char *nvme)
{
	int v = host_kernel();

	(void)nvme;
	if (v >= 6008) {
		say(f, OK, "Linux %d.%d moves frames without a copy", v / 1000, v % 1000);
	} else if (v >= 5013) {
		say(f, NOTE,
		    "Linux %d.%d copies each block once more: 6.8 moves frames; and memory that "
		    "O_DIRECT or a device writes to must be pinned (kvt_pin)",
		    v / 1000, v % 1000);
		mend(f, "apt-get install -t bookworm-backports linux-image-amd64");
	} else {
		say(f, MISSING, "Linux %d.%d is too old: 5.13 is needed", v / 1000, v % 1000);
		mend(f, "apt-get install linux-image-amd64");
	}
}

static void check_uffd(struct finding *f, const char *nvme)
{
	bool allowed = host_sysctl("/proc/sys/vm/unprivileged_userfaultfd") == 1 || !geteuid();
	struct host_uffd u;

	(void)nvme;
	host_uffd(&u);
	if (u.error == -EPERM && allowed) {
		say(f, MISSING, "userfaultfd is forbidden by seccomp: no cache can be tiered");
		mend(f, "docker run --security-opt seccomp=unconfined ...");
	} else if (u.error == -EPERM) {
		say(f, MISSING, "userfaultfd is forbidden: no cache can be tiered");
		mend(f, "sysctl -w vm.unprivileged_userfaultfd=1");
	} else if (u.error) {
		say(f, MISSING, "%s", kvt_error_detail());
		mend(f, "apt-get install linux-image-amd64");
	} else if (u.user_only) {
		say(f, NOTE,
		    "userfaultfd serves the engine's own accesses; system calls on a tiered "
		    "cache, as in saving a session, can fail with EFAULT");
		mend(f, "sysctl -w vm.unprivileged_userfaultfd=1");
	} else {
		say(f, OK, "userfaultfd works%s", u.can_move ? ", with UFFDIO_MOVE" : "");
	}
}

static void check_io_uring(struct finding *f, const char *nvme)
{
	int ret = host_io_uring();

	(void)nvme;
	if (!ret) {
		say(f, OK, "io_uring works");
		return;
	}
	say(f, MISSING, "%s", host_io_uring_text(ret));
	if (host_sysctl("/proc/sys/kernel/io_uring_disabled") > 0)
		mend(f, "sysctl -w kernel.io_uring_disabled=0");
	else if (ret == -ENOMEM)
		mend(f, "ulimit -l 65536");
	else if (ret == -ENOSYS)
		mend(f, "apt-get install linux-image-amd64");
	else
		mend(f, "docker run --security-opt seccomp=unconfined ...");
}

static void check_memlock(struct finding *f, const char *nvme)
{
	struct rlimit limit;
	char text[SIZE_TEXT];

	(void)nvme;
	if (getrlimit(RLIMIT_MEMLOCK, &limit) || limit.rlim_cur == RLIM_INFINITY) {
		say(f, OK, "memlock is not limited");
	} else if (host_kernel() >= 5012 || limit.rlim_cur >= (1u << 20)) {
		say(f, OK, "memlock limit %s is enough", size_text(limit.rlim_cur, text));
	} else {
		say(f, MISSING, "memlock limit %s is too small for io_uring on this kernel",
		    size_text(limit.rlim_cur, text));
		mend(f, "ulimit -l 1024");
	}
}

static void check_direct_io(struct finding *f, const char *nvme)
{
	char buf[4096];
	const char *dir = nvme ? nvme : host_nvme_dir(buf, sizeof(buf));
	char why[256];

	if (!dir) {
		say(f, MISSING, "no directory on a disk for the NVMe tier was found");
		mend(f, "kvtier run --nvme /path/on/a/disk ...");
		return;
	}
	if (!store_check(dir, 0, why, sizeof(why))) {
		say(f, OK, "O_DIRECT works in %s", dir);
		return;
	}
	say(f, MISSING, "%s", why);
	mend(f, "kvtier run --nvme /path/on/a/disk ...");
}

static bool has_cpus(int node)
{
	struct bitmask *cpus = numa_allocate_cpumask();
	bool any = !numa_node_to_cpus(node, cpus) && numa_bitmask_weight(cpus);

	numa_free_cpumask(cpus);
	return any;
}

static void check_nodes(struct finding *f, const char *nvme)
{
	char size[SIZE_TEXT];
	int node;

	(void)nvme;
	for (node = 0; numa_available() >= 0 && node <= numa_max_node(); node++) {
		long long bytes = numa_node_size64(node, NULL);

		if (bytes <= 0 || has_cpus(node))
			continue;
		say(f, OK, "NUMA node %d has %s and no CPUs: a CXL tier", node,
		    size_text((uint64_t)bytes, size));
		snprintf(f->mend, sizeof(f->mend), "kvtier run --cxl %d:SIZE ...", node);
		return;
	}
	say(f, NOTE, "no NUMA node without CPUs: there is no CXL tier here");
}

static void check_huge_pages(struct finding *f, const char *nvme)
{
	char line[128] = "";
	FILE *t = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");

	(void)nvme;
	if (t && !fgets(line, sizeof(line), t))
		line[0] = '\0';
	if (t)
		fclose(t);
	if (strstr(line, "[always]") || strstr(line, "[madvise]")) {
		say(f, OK, "huge pages back blocks of 2M");
		return;
	}
	say(f, NOTE, "transparent huge pages are off: blocks of 2M take 512 small pages each");
	mend(f, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
}

static void check_swap(struct finding *f, const char *nvme)
{
	uint64_t swap = host_swap();
	char text[SIZE_TEXT];

	(void)nvme;
	if (!swap) {
		say(f, OK, "no swap: what is in the DRAM tier stays in DRAM");
	} else if (host_sysctl("/proc/sys/vm/swappiness") <= SWAPPINESS_LOW) {
		say(f, OK, "swap of %s, used only when memory runs out", size_text(swap, text));
	} else {
		say(f, NOTE,
		    "swap of %s: the kernel may swap out the DRAM tier itself, which costs "
		    "more than the NVMe tier; keep --dram well below the free memory",
		    size_text(swap, text));
		mend(f, "sysctl -w vm.swappiness=10");
	}
}

static void check_module(struct finding *f, const char *nvme)
{
	const char *lack, *command;
	char size[SIZE_TEXT];
	struct module m;

	(void)nvme;
	module_ask(&m);
	lack = module_lack(&m, &command);
	if (!lack)
		say(f, OK, "the kernel pager can serve: stores have %s left to give",
		    size_text(m.store_free, size));
	else
		say(f, m.error == -ENODEV ? OK : NOTE,
		    "%s: the user pager serves each process by itself", lack);
	mend(f, command);
}

static const struct {
	const char *name;
	void (*check)(struct finding *f, const char *nvme);
	bool for_user_pager; /* what it finds missing matters to that alone */
} checks[] = {
	{ "kernel", check_kernel, true },
	{ "userfaultfd", check_uffd, true },
	{ "io_uring", check_io_uring, true },
	{ "memlock", check_memlock, true },
	{ "o_direct", check_direct_io, true },
	{ "numa", check_nodes, false },
	{ "huge_pages", check_huge_pages, true },
	{ "swap", check_swap, true },
	{ "module", check_module, false },
};

#define NR_CHECKS (sizeof(checks) / sizeof(checks[0]))

static const char *const verdicts[] = { "ok", "note", "missing" };

static void print_findings(const struct finding *findings)
{
	size_t i;

	for (i = 0; i < NR_CHECKS; i++) {
		printf("%-8s%-13s%s\n", verdicts[findings[i].verdict], checks[i].name,
		       findings[i].text);
		if (findings[i].mend[0])
			printf("        %-13s-> %s\n", "", findings[i].mend);
	}
}

static int print_json(const struct finding *findings)
{
	cJSON *array = cJSON_CreateArray(), *o;
	size_t i;

	for (i = 0; i < NR_CHECKS; i++) {
		o = cJSON_CreateObject();
		cJSON_AddStringToObject(o, "check", checks[i].name);
		cJSON_AddStringToObject(o, "verdict", verdicts[findings[i].verdict]);
		cJSON_AddStringToObject(o, "text", findings[i].text);
		cJSON_AddStringToObject(o, "mend", findings[i].mend);
		cJSON_AddItemToArray(array, o);
	}
	return print_object(array);
}

static const struct option options[] = {
	{ "nvme", required_argument, NULL, 'n' },
	OPTIONS_OF_ALL,
};

static int help(void)
{
	puts("usage: kvtier doctor [OPTION...]\n\n"
	     "Try everything that kvtier needs on this host; say what is missing and the\n"
	     "command that mends it.\n\n"
	     "  --nvme PATH  try this directory, file or device for the NVMe tier\n"
	     "  --json       one JSON array of checks\n"
	     "  -h, --help   show this help\n\n"
	     "Exit status: 0 when `kvtier run` can work here, 1 otherwise, 2 usage.");
	return 0;
}

static int take_nvme(void *nvme, int option)
{
	(void)option;
	*(const char **)nvme = optarg;
	return 0;
}

/* 0, an exit code, or -1: help was asked for. */
static int parse(const char **nvme, int argc, char **argv)
{
	static const struct option_set set = { ":h", options, EXIT_USAGE, take_nvme };

	return option_take(argc, argv, &set, nvme) ?: option_end(argc, argv, 0);
}

int cmd_doctor(int argc, char **argv)
{
	struct finding findings[NR_CHECKS] = { 0 };
	const char *nvme = NULL;
	bool missing = false;
	struct module m;
	int ret = parse(&nvme, argc, argv);
	size_t i;

	if (ret)
		return ret < 0 ? help() : ret;
	module_ask(&m);
	for (i = 0; i < NR_CHECKS; i++) {
		checks[i].check(&findings[i], nvme);
		if (findings[i].verdict == MISSING && checks[i].for_user_pager && module_ready(&m))
			findings[i].verdict = NOTE;
		missing |= findings[i].verdict == MISSING;
	}
	if (json_errors)
		ret = print_json(findings);
	else
		print_findings(findings);
	return ret ? ret : missing;
}
