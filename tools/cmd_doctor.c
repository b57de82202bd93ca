// SPDX-License-Identifier: MIT
/* kvtier doctor: what this host lacks, and the command that mends it. */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
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
#include "size.h"

enum verdict {
	OK,
	NOTE, /* works, with a consequence */
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
		say(f, NOTE, "Linux %d.%d copies each block once more: 6.8 moves frames", v / 1000,
		    v % 1000);
		mend(f, "apt-get install -t bookworm-backports linux-image-amd64");
	} else {
		say(f, MISSING, "Linux %d.%d is too old: 5.13 is needed", v / 1000, v % 1000);
		mend(f, "apt-get install linux-image-amd64");
	}
}

static void check_uffd(struct finding *f, const char *nvme)
{
	struct host_uffd u;

	(void)nvme;
	host_uffd(&u);
	if (u.error == -EPERM) {
		say(f, MISSING, "userfaultfd is forbidden (sysctl or seccomp)");
		mend(f, "sysctl -w vm.unprivileged_userfaultfd=1");
	} else if (u.error) {
		say(f, MISSING, "%s", kvt_error_detail());
	} else if (u.user_only) {
		say(f, NOTE, "userfaultfd serves this program's own accesses, not system calls on "
			     "cached memory");
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
	say(f, MISSING, "io_uring does not work: %s", strerror(-ret));
	mend(f, ret == -ENOMEM ? "ulimit -l unlimited" : "sysctl -w kernel.io_uring_disabled=0");
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
	int ret;

	if (!dir) {
		say(f, MISSING, "no directory on a disk for the NVMe tier was found");
		mend(f, "kvtier run --nvme /path/on/a/disk ...");
		return;
	}
	ret = host_is_memory_fs(dir) ? -EOPNOTSUPP : host_direct_io(dir);
	if (!ret) {
		say(f, OK, "O_DIRECT works in %s", dir);
		return;
	}
	say(f, MISSING, "%s cannot be the NVMe tier: %s", dir,
	    host_is_memory_fs(dir) ? "it is memory itself" : strerror(-ret));
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

static void check_module(struct finding *f, const char *nvme)
{
	(void)nvme;
	if (!access("/dev/kvtier", F_OK))
		say(f, NOTE, "/dev/kvtier is there, but this version uses the user pager only");
	else
		say(f, OK, "no kernel module: the user pager serves each process by itself");
}

static const struct {
	const char *name;
	void (*check)(struct finding *f, const char *nvme);
} checks[] = {
	{ "kernel", check_kernel },
	{ "userfaultfd", check_uffd },
	{ "io_uring", check_io_uring },
	{ "memlock", check_memlock },
	{ "o_direct", check_direct_io },
	{ "numa", check_nodes },
	{ "huge_pages", check_huge_pages },
	{ "module", check_module },
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
	char *text;
	size_t i;

	for (i = 0; i < NR_CHECKS; i++) {
		o = cJSON_CreateObject();
		cJSON_AddStringToObject(o, "check", checks[i].name);
		cJSON_AddStringToObject(o, "verdict", verdicts[findings[i].verdict]);
		cJSON_AddStringToObject(o, "text", findings[i].text);
		cJSON_AddStringToObject(o, "mend", findings[i].mend);
		cJSON_AddItemToArray(array, o);
	}
	text = cJSON_PrintUnformatted(array);
	cJSON_Delete(array);
	if (!text)
		return fail(1, "out of memory");
	puts(text);
	cJSON_free(text);
	return 0;
}

static const struct option options[] = {
	{ "json", no_argument, NULL, 'j' },
	{ "nvme", required_argument, NULL, 'n' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static int help(void)
{
	puts("usage: kvtier doctor [OPTION...]\n\n"
	     "Try everything that kvtier needs on this host; say what is missing and the\n"
	     "command that mends it.\n\n"
	     "  --nvme PATH  try this directory for the NVMe tier\n"
	     "  --json       one JSON array of checks\n"
	     "  -h, --help   show this help\n\n"
	     "Exit status: 0 when `kvtier run` can work here, 1 otherwise.");
	return 0;
}

int cmd_doctor(int argc, char **argv)
{
	struct finding findings[NR_CHECKS];
	const char *nvme = NULL;
	bool missing = false;
	int option, ret = 0;
	size_t i;

	opterr = 0;
	while ((option = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		if (option == 'h')
			return help();
		if (option == 'j')
			json_errors = true;
		else if (option == 'n')
			nvme = optarg;
		else
			return fail(EXIT_USAGE, "%s '%s': see `kvtier doctor --help`",
				    option == ':' ? "no value for" : "unknown option",
				    argv[optind - 1]);
	}
	if (optind < argc)
		return fail(EXIT_USAGE, "unexpected argument '%s': see `kvtier doctor --help`",
			    argv[optind]);
	memset(findings, 0, sizeof(findings));
	for (i = 0; i < NR_CHECKS; i++) {
		checks[i].check(&findings[i], nvme);
		missing |= findings[i].verdict == MISSING;
	}
	if (json_errors)
		ret = print_json(findings);
	else
		print_findings(findings);
	return ret ? ret : missing;
}
