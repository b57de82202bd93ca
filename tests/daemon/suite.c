// SPDX-License-Identifier: MIT
/*
 * suite [--module] [--long] [--slow N] [--rounds N] [--dir DIR] [CASE...]: cases of kvtierd,
 * as KTAP.  Each runs in a process of its own, with a daemon of its own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture.h"

#define EXIT_SKIP 4
#define CASE_S 60u
#define LOG_LINES 40u

unsigned int patience_factor = 1;
bool want_module, want_long;
unsigned int want_rounds = 6;
static char base[200] = "build/test";

static const struct test_case *const lists[] = { pool_cases,	quota_cases,	  limit_cases,
						 plan_cases,	bad_cases,	  disk_cases,
						 restart_cases, checkpoint_cases, service_cases,
						 attend_cases,	hostile_cases };

/* The last lines of the daemon's log: its folder may be gone with the machine. */
static void show_log(void)
{
	char line[512], last[LOG_LINES][512] = { 0 };
	FILE *file = fopen(daemon_.log, "re");
	unsigned int nr = 0, i;

	while (file && fgets(line, sizeof(line), file))
		memcpy(last[nr++ % LOG_LINES], line, sizeof(line));
	if (file)
		fclose(file);
	for (i = nr > LOG_LINES ? nr - LOG_LINES : 0; i < nr; i++)
		printf("# log: %s", last[i % LOG_LINES]);
}

void fail_at(const char *file, int line, const char *fmt, ...)
{
	va_list args;

	printf("# %s:%d: ", file, line);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
	show_log();
	fflush(stdout);
	_exit(1); /* the case's group ends with it, the daemon too */
}

void skip(const char *fmt, ...)
{
	va_list args;

	printf("# SKIP ");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
	_exit(EXIT_SKIP);
}

void figure(const char *name, double value, const char *unit)
{
	printf("# figure %s %.6g %s\n", name, value, unit);
	fflush(stdout);
}

static void run_here(const struct test_case *c)
{
	char command[400];

	snprintf(daemon_.dir, sizeof(daemon_.dir), "%s/kvtierd-XXXXXX", base);
	if (!mkdtemp(daemon_.dir)) {
		printf("# %s: %s\n", daemon_.dir, strerror(errno));
		_exit(1);
	}
	snprintf(daemon_.socket, sizeof(daemon_.socket), "%s/socket", daemon_.dir);
	snprintf(daemon_.config, sizeof(daemon_.config), "%s/kvtierd.conf", daemon_.dir);
	snprintf(daemon_.log, sizeof(daemon_.log), "%s/log", daemon_.dir);
	c->run();
	daemon_end();
	snprintf(command, sizeof(command), "rm -rf '%s'", daemon_.dir);
	if (system(command))
		printf("# %s stays\n", daemon_.dir);
	fflush(stdout);
	_exit(0);
}

/* The case's process and all it started are one group, which ends with it. */
static int run_case(const struct test_case *c)
{
	uint64_t until = now_ms() + 1000ull * CASE_S * patience_factor * (want_long ? 20 : 1);
	int status = 0;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		setpgid(0, 0);
		run_here(c);
	}
	setpgid(pid, pid);
	while (!waitpid(pid, &status, WNOHANG)) {
		if (now_ms() > until) {
			printf("# expected an end within %u s\n", CASE_S * patience_factor);
			kill(-pid, SIGKILL);
		}
		pause_ms(5);
	}
	kill(-pid, SIGKILL);
	if (WIFSIGNALED(status))
		printf("# ended by signal %d\n", WTERMSIG(status));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static bool wanted(const struct test_case *c, char **names, int nr)
{
	int i;

	if (!nr)
		return !c->slow || want_long;
	for (i = 0; i < nr; i++)
		if (!strcmp(names[i], c->name))
			return true;
	return false;
}

static void options(int argc, char **argv)
{
	static const struct option known[] = {
		{ "module", no_argument, NULL, 'm' },
		{ "long", no_argument, NULL, 'l' },
		{ "slow", required_argument, NULL, 's' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "dir", required_argument, NULL, 'd' },
		{ 0 },
	};
	int o;

	while ((o = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (o) {
		case 'm':
			want_module = true;
			break;
		case 'l':
			want_long = true;
			break;
		case 's':
			patience_factor = (unsigned int)atoi(optarg);
			break;
		case 'r':
			want_rounds = (unsigned int)atoi(optarg);
			break;
		case 'd':
			snprintf(base, sizeof(base), "%s", optarg);
			break;
		default:
			exit(2);
		}
	}
}

/* As a service manager, a login and the VM give it; cases that need more raise it. */
static void few_descriptors(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur > 1024)
		limit.rlim_cur = 1024;
	setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv)
{
	int number = 0, failed = 0;
	char *whole;
	size_t i;

	options(argc, argv);
	few_descriptors();
	mkdir(base, 0755);
	whole = realpath(base, NULL);
	/* Sockets have short paths. */
	snprintf(base, sizeof(base), "%s", whole && strlen(whole) < 60 ? whole : "/var/tmp");
	free(whole);
	puts("KTAP version 1");
	for (i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		const struct test_case *c;

		for (c = lists[i]; c->name; c++) {
			int status;

			if (!wanted(c, argv + optind, argc - optind))
				continue;
			printf("# %s: Description: %s\n", c->name, c->description);
			status = run_case(c);
			printf("%sok %d %s%s\n", status && status != EXIT_SKIP ? "not " : "",
			       ++number, c->name, status == EXIT_SKIP ? " # SKIP" : "");
			failed += status && status != EXIT_SKIP;
		}
	}
	printf("1..%d\n", number);
	return failed || !number;
}
