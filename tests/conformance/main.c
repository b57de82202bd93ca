// SPDX-License-Identifier: MIT
/* conformance - run the cases against a pager and report in KTAP. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <ftw.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conf.h"

#define TIMED_OUT 1000

static const struct conf_case *const tables[] = {
	conf_content_cases,  conf_residency_cases, conf_dirty_cases,   conf_seal_cases,
	conf_discard_cases,  conf_clone_cases,	   conf_budget_cases,  conf_concurrent_cases,
	conf_damage_cases,   conf_device_cases,	   conf_space_cases,   conf_checkpoint_cases,
	conf_event_cases,    conf_process_cases,   conf_syscall_cases, conf_cxl_cases,
	conf_argument_cases, conf_attend_cases,
};

struct run {
	struct conf conf;
	char *base;    /* of the cases' folders */
	char **wanted; /* names or patterns; none: all */
	int nr_wanted;
	unsigned int slow; /* time limits are multiplied by this */
	unsigned int number, failed, passed;
};

typedef void (*visit_fn)(struct run *r, const struct conf_case *cs);

static bool is_wanted(const struct run *r, const char *name)
{
	int i;

	for (i = 0; i < r->nr_wanted; i++)
		if (!fnmatch(r->wanted[i], name, 0))
			return true;
	return !r->nr_wanted;
}

static unsigned int for_each_case(struct run *r, visit_fn visit)
{
	const struct conf_case *cs;
	unsigned int count = 0;
	size_t i;

	for (i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		for (cs = tables[i]; cs->name; cs++) {
			if (!is_wanted(r, cs->name))
				continue;
			count++;
			if (visit)
				visit(r, cs);
		}
	}
	return count;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void remove_tree(const char *dir)
{
	nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static void run_child(struct run *r, const struct conf_case *cs)
{
	setpgid(0, 0);
	conf_bus_install();
	exit(cs->run(&r->conf));
}

/* Exit status of the case, or TIMED_OUT, or minus the signal that ended it. */
static int wait_child(pid_t pid, unsigned int seconds)
{
	struct pollfd fd = { .fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN };
	int status, ready;

	CONF_SYS(fd.fd);
	do
		ready = poll(&fd, 1, (int)seconds * 1000);
	while (ready < 0 && errno == EINTR);
	close(fd.fd);
	kill(-pid, SIGKILL); /* what the case left behind, or the case itself */
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	if (!ready)
		return TIMED_OUT;
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static int run_in_folder(struct run *r, const struct conf_case *cs, unsigned int seconds)
{
	char *dir;
	pid_t pid;
	int ret;

	CONF_SYS(asprintf(&dir, "%s/%s", r->base, cs->name));
	CONF_SYS(mkdir(dir, 0700));
	r->conf.dir = dir;
	fflush(stdout);
	pid = (pid_t)CONF_SYS(fork());
	if (!pid)
		run_child(r, cs);
	ret = wait_child(pid, seconds);
	remove_tree(dir);
	free(dir);
	return ret;
}

/* CONF_SKIP, with the reason, when the pager lacks what the case needs. */
static int check_needs(const struct run *r, const struct conf_case *cs)
{
	unsigned int lacks = cs->needs & ~r->conf.has;

	if (lacks & CONF_NEEDS_FILE)
		return conf_skip("this pager's slots are not in a file");
	if (lacks & CONF_NEEDS_HELD_PAGES)
		return conf_skip("without UFFDIO_MOVE (Linux 6.8) the pager cannot see which "
				 "pages a device holds");
	if (lacks & CONF_NEEDS_CXL)
		return conf_skip("no node is the CXL tier's");
	if (lacks & CONF_NEEDS_STORE)
		return conf_skip("this pager's pools have nothing in common");
	return CONF_PASS;
}

static void run_case(struct run *r, const struct conf_case *cs)
{
	unsigned int seconds = (cs->seconds ? cs->seconds : CONF_SECONDS) * r->slow;
	uint64_t start = conf_now_ms();
	int ret;

	printf("# %s: Description: %s\n", cs->name, cs->description);
	ret = check_needs(r, cs);
	if (!ret)
		ret = run_in_folder(r, cs, seconds);
	if (ret == TIMED_OUT)
		conf_note("expected an end within %u s, got none", seconds);
	else if (ret < 0)
		conf_note("expected exit 0, got signal %d (%s)", -ret, strsignal(-ret));
	r->number++;
	r->failed += ret != CONF_PASS && ret != CONF_SKIP;
	r->passed += ret == CONF_PASS;
	printf("%s %u %s%s # %llu ms\n", ret == CONF_PASS || ret == CONF_SKIP ? "ok" : "not ok",
	       r->number, cs->name, ret == CONF_SKIP ? " # SKIP see above" : "",
	       (unsigned long long)(conf_now_ms() - start));
	fflush(stdout);
}

static void list_case(struct run *r, const struct conf_case *cs)
{
	(void)r;
	printf("%-28s %s\n", cs->name, cs->description);
}

/* A pager that is not there skips the suite; any other failure is one. */
static int probe_pager(struct run *r)
{
	struct conf_spec spec = { .blocks = 1, .no_nvme = true };
	struct kvt_pool *pool;
	int ret = conf_pool_try(&r->conf, &spec, &pool);

	kvt_pool_destroy(pool);
	if (ret == -ENODEV || ret == -EPERM || ret == -ENOSYS) {
		printf("1..0 # SKIP no such pager here: %s\n", kvt_error_detail());
		return CONF_SKIP;
	}
	return CONF_PASS;
}

static int run_all(struct run *r)
{
	unsigned int total = for_each_case(r, NULL);
	int ret;

	printf("KTAP version 1\n");
	if (!total) {
		fprintf(stderr, "conformance: no such case; see --list\n");
		return CONF_FAIL;
	}
	/* In a child, so that cases start from a process that never had a pool. */
	fflush(stdout);
	if (!CONF_SYS(fork()))
		exit(probe_pager(r));
	CONF_SYS(wait(&ret));
	if (WIFEXITED(ret) && WEXITSTATUS(ret) == CONF_SKIP)
		return CONF_SKIP;
	printf("1..%u\n", total);
	CONF_SYS(asprintf(&r->base, "%s/kvtier-conformance-XXXXXX", r->conf.dir));
	if (!mkdtemp(r->base)) {
		fprintf(stderr, "conformance: cannot make a folder in %s: %s\n", r->conf.dir,
			strerror(errno));
		return CONF_FAIL;
	}
	for_each_case(r, run_case);
	remove_tree(r->base);
	free(r->base);
	return r->failed || !r->passed ? CONF_FAIL : CONF_PASS;
}

/* As libkvtier decides: the kernel's version, or by order of the environment. */
static bool moves_frames(void)
{
	const char *force = getenv("KVTIER_UFFD");
	unsigned int major = 0, minor = 0;
	struct utsname name;

	if (force && !strcmp(force, "copy"))
		return false;
	if (uname(&name) || sscanf(name.release, "%u.%u", &major, &minor) != 2)
		return false;
	return major > 6 || (major == 6 && minor >= 8);
}

/* The kernel says which nodes are; to the user pager any is as good as another. */
static int find_cxl_node(enum kvt_pager pager)
{
	struct kvtier_info info = { .size = sizeof(info) };
	int fd, ret;

	if (pager == KVT_PAGER_USER)
		return 0;
	fd = open(KVTIER_DEVICE, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ret = ioctl(fd, KVTIER_IOC_INFO, &info);
	close(fd);
	return ret ? -1 : __builtin_ffsll((long long)info.nodes[KVTIER_TIER_CXL]) - 1;
}

static unsigned int offered(const struct conf *c)
{
	unsigned int has = c->cxl_node >= 0 ? CONF_NEEDS_CXL : 0;

	if (c->pager == KVT_PAGER_KERNEL)
		return has | CONF_NEEDS_HELD_PAGES | CONF_NEEDS_STORE;
	return has | CONF_NEEDS_FILE | (moves_frames() ? CONF_NEEDS_HELD_PAGES : 0);
}

static void usage(FILE *out)
{
	fprintf(out,
		"usage: conformance [--pager user|kernel] [--dir DIR] [--block SIZE]\n"
		"                   [--slow FACTOR] [--list] [CASE...]\n"
		"DIR must be on a filesystem with O_DIRECT; SIZE is in KiB, 64 to 2048.\n"
		"CASE may be a shell pattern.  Exit: 0 all passed, 1 failed, 4 no such pager.\n");
}

static int bad_value(const char *option, const char *value)
{
	fprintf(stderr, "conformance: --%s: bad value '%s'; see --help\n", option, value);
	return CONF_FAIL;
}

static int parse_pager(struct run *r, const char *text)
{
	if (!strcmp(text, "user"))
		r->conf.pager = KVT_PAGER_USER;
	else if (!strcmp(text, "kernel"))
		r->conf.pager = KVT_PAGER_KERNEL;
	else
		return bad_value("pager", text);
	return 0;
}

static int parse_number(const char *option, const char *text, unsigned long max,
			unsigned long *value)
{
	char *end;

	*value = strtoul(text, &end, 10);
	if (end == text || *end || !*value || *value > max)
		return bad_value(option, text);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "pager", required_argument, NULL, 'p' },
		{ "dir", required_argument, NULL, 'd' },
		{ "block", required_argument, NULL, 'b' },
		{ "slow", required_argument, NULL, 's' },
		{ "list", no_argument, NULL, 'l' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct run r = { .conf = { .pager = KVT_PAGER_USER, .dir = ".", .block = KIB(256) },
			 .slow = 1 };
	visit_fn visit = run_case;
	unsigned long n;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'p' && parse_pager(&r, optarg))
			return CONF_FAIL;
		if (opt == 'd')
			r.conf.dir = optarg;
		if (opt == 'b') {
			if (parse_number("block", optarg, 2048, &n))
				return CONF_FAIL;
			r.conf.block = KIB(n);
		}
		if (opt == 's') {
			if (parse_number("slow", optarg, 100, &n))
				return CONF_FAIL;
			r.slow = (unsigned int)n;
		}
		if (opt == 'l')
			visit = list_case;
		if (opt == 'h' || opt == '?') {
			usage(opt == 'h' ? stdout : stderr);
			return opt == 'h' ? CONF_PASS : CONF_FAIL;
		}
	}
	r.conf.cxl_node = find_cxl_node(r.conf.pager);
	r.conf.has = offered(&r.conf);
	r.wanted = argv + optind;
	r.nr_wanted = argc - optind;
	if (visit == list_case)
		return for_each_case(&r, list_case) ? CONF_PASS : CONF_FAIL;
	return run_all(&r);
}
