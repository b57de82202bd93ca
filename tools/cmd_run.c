// SPDX-License-Identifier: MIT
/* kvtier run: an unmodified engine with its KV cache in tiers. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "budgets.h"
#include "command.h"
#include "elf_check.h"
#include "option.h"
#include "session.h"

#define SHIM "libkvtier-preload.so"

static const struct option options[] = {
	{ "pager", required_argument, NULL, 'p' },
	{ "dram", required_argument, NULL, 'd' },
	{ "cxl", required_argument, NULL, 'c' },
	{ "nvme", required_argument, NULL, 'n' },
	{ "block", required_argument, NULL, 'b' },
	{ "stats", required_argument, NULL, 's' },
	OPTIONS_OF_ALL,
};

static int help(void)
{
	puts("usage: kvtier run [OPTION...] -- COMMAND [ARGUMENT...]\n\n"
	     "Run COMMAND with its llama.cpp KV cache in DRAM, CXL memory and NVMe.\n\n"
	     "  --dram SIZE         DRAM for the KV caches of each process\n"
	     "                      (default: half of the memory available now)\n"
	     "  --cxl NODE:SIZE     memory on a NUMA node as a second tier (default: none)\n"
	     "  --nvme PATH[:SIZE]  directory, new file or free block device for the rest\n"
	     "                      (default: a directory on a disk, as large as needed);\n"
	     "                      the kernel pager has its stores and takes :SIZE alone\n"
	     "  --pager NAME        user, kernel or auto (default: kernel if /dev/kvtier has a\n"
	     "                      store and no PATH is given, else user)\n"
	     "  --block SIZE        unit of tiering, 64K to 2M (default: chosen)\n"
	     "  --stats FILE        write the pools' last figures to FILE as JSON\n"
	     "  --json              errors of kvtier itself as JSON\n"
	     "  -h, --help          show this help\n\n"
	     "Exit status: COMMAND's own; 128+N when signal N ended it; 125 kvtier failed or\n"
	     "no KV cache was recognised; 126 COMMAND cannot be run; 127 it was not found.");
	return 0;
}

struct run {
	struct budgets budgets;
	const char *stats;
	char program[PATH_MAX]; /* COMMAND as found */
	char shim[PATH_MAX];
};

static int take_option(void *command, int option)
{
	struct run *r = command;

	switch (option) {
	case 'd':
		return budget_dram(&r->budgets, optarg);
	case 'c':
		return budget_cxl(&r->budgets, optarg);
	case 'n':
		return budget_nvme(&r->budgets, optarg);
	case 'p':
		return budget_pager(&r->budgets, optarg);
	case 'b':
		return budget_block(&r->budgets, optarg);
	default:
		r->stats = optarg;
		return session_check_stats(optarg);
	}
}

/* 0, an exit code, or -1: help was asked for. */
static int parse(struct run *r, int argc, char **argv)
{
	static const struct option_set set = { "+:h", options, EXIT_OWN, take_option };
	int ret = option_take(argc, argv, &set, r);

	if (!ret && optind == argc)
		return fail(EXIT_OWN,
			    "no COMMAND: kvtier run [OPTION...] -- COMMAND [ARGUMENT...]");
	return ret;
}

static int check_command(struct run *r, const char *command)
{
	int ret = find_program(command, r->program, sizeof(r->program));

	if (ret == -ENOENT)
		return fail(EXIT_NOT_FOUND, "%s: not found", command);
	if (ret)
		return fail(EXIT_CANNOT_EXEC, "%s: not an executable file", command);
	ret = is_dynamic(r->program);
	if (ret < 0)
		return fail(EXIT_CANNOT_EXEC, "%s: not a program that can be run: %s", r->program,
			    strerror(-ret));
	if (!ret)
		return fail(EXIT_OWN,
			    "%s is linked statically (or is 32-bit): its cache cannot be "
			    "intercepted; use a build with shared ggml libraries "
			    "(-DBUILD_SHARED_LIBS=ON)",
			    r->program);
	return 0;
}

/* Beside this very program (the build folder), else where it was installed. */
static int find_shim(struct run *r)
{
	ssize_t n = readlink("/proc/self/exe", r->shim, sizeof(r->shim) - sizeof(SHIM));

	if (n > 0) {
		r->shim[n] = '\0';
		memcpy(strrchr(r->shim, '/') + 1, SHIM, sizeof(SHIM));
		if (!access(r->shim, R_OK))
			return 0;
	}
	snprintf(r->shim, sizeof(r->shim), "%s/%s", KVTIER_LIBDIR, SHIM);
	if (!access(r->shim, R_OK))
		return 0;
	return fail(EXIT_OWN, "%s is neither beside kvtier nor in %s: run `make install`", SHIM,
		    KVTIER_LIBDIR);
}

static int set_number(const char *name, uint64_t value)
{
	char text[32];

	if (!value)
		return unsetenv(name);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	return setenv(name, text, 1);
}

static int set_environment(const struct run *r, const char *session)
{
	const struct budgets *b = &r->budgets;
	const char *old = getenv("LD_PRELOAD");
	char text[2 * PATH_MAX];
	int ret;

	snprintf(text, sizeof(text), "%d:%llu", b->cxl_node, (unsigned long long)b->cxl_bytes);
	ret = b->cxl_node >= 0 ? setenv("KVTIER_CXL", text, 1) : unsetenv("KVTIER_CXL");
	snprintf(text, sizeof(text), "%s%s%s", r->shim, old && *old ? ":" : "", old ? old : "");
	ret |= setenv("LD_PRELOAD", text, 1);
	ret |= set_number("KVTIER_DRAM", b->dram_bytes);
	ret |= set_number("KVTIER_NVME_BYTES", b->nvme_bytes);
	ret |= set_number("KVTIER_BLOCK", b->block_bytes);
	ret |= b->nvme_path[0] ? setenv("KVTIER_NVME", b->nvme_path, 1) : unsetenv("KVTIER_NVME");
	ret |= setenv("KVTIER_PAGER", b->pager == KVT_PAGER_KERNEL ? "kernel" : "user", 1);
	ret |= setenv("KVTIER_SESSION", session, 1);
	ret |= setenv("KVTIER_KEEP_STATS", "1", 1);
	return ret ? fail(EXIT_OWN, "cannot set the environment: %s", strerror(errno)) : 0;
}

static volatile sig_atomic_t child;

/* A terminal sends its signals to the whole group: COMMAND has those already. */
static void forward(int signal, siginfo_t *info, void *context)
{
	(void)context;
	if (info->si_code <= 0 && child > 0)
		kill(child, signal);
}

static const int forwarded[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 };

/* Held back until there is a child to send them to. */
static void block_signals(sigset_t *before)
{
	sigset_t set;
	size_t i;

	sigemptyset(&set);
	for (i = 0; i < sizeof(forwarded) / sizeof(forwarded[0]); i++)
		sigaddset(&set, forwarded[i]);
	sigprocmask(SIG_BLOCK, &set, before);
}

static void forward_signals(const sigset_t *before)
{
	struct sigaction action = { .sa_sigaction = forward, .sa_flags = SA_RESTART | SA_SIGINFO };
	size_t i;

	for (i = 0; i < sizeof(forwarded) / sizeof(forwarded[0]); i++)
		sigaction(forwarded[i], &action, NULL);
	sigprocmask(SIG_SETMASK, before, NULL);
}

static int spawn(char **argv, int *status)
{
	sigset_t before;
	pid_t pid;

	block_signals(&before);
	pid = fork();
	if (!pid) {
		sigprocmask(SIG_SETMASK, &before, NULL);
		execvp(argv[0], argv);
		fprintf(stderr, "kvtier run: %s: %s\n", argv[0], strerror(errno));
		_exit(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_EXEC);
	}
	child = pid;
	forward_signals(&before);
	if (pid < 0)
		return fail(EXIT_OWN, "cannot fork: %s", strerror(errno));
	while (waitpid(pid, status, 0) < 0)
		if (errno != EINTR)
			return fail(EXIT_OWN, "cannot wait for %s: %s", argv[0], strerror(errno));
	child = 0; /* its number may be another's from now on */
	return 0;
}

/* COMMAND succeeded, but not one KV cache went through the shim: why? */
static int explain_nothing(const struct session *s, const struct run *r, const char *command)
{
	if (s->elsewhere)
		return fail(EXIT_OWN,
			    "%s put its KV cache into another device's memory: keep it on "
			    "the CPU (llama.cpp: --no-kv-offload)",
			    command);
	if (s->engines)
		return fail(EXIT_OWN,
			    "%s loaded ggml but created no context with a KV cache: nothing "
			    "was tiered",
			    command);
	if (!s->loaded)
		return fail(EXIT_OWN,
			    "the preload shim did not get into %s: it is set-user-ID, or "
			    "clears LD_PRELOAD",
			    command);
	if (has_text(r->program, "ggml_backend"))
		return fail(EXIT_OWN,
			    "%s has ggml linked in statically: use a build with shared ggml "
			    "libraries (-DBUILD_SHARED_LIBS=ON)",
			    command);
	return fail(EXIT_OWN,
		    "no process of %s loaded a shared ggml library: it is not llama.cpp, or "
		    "has ggml linked in statically (build with -DBUILD_SHARED_LIBS=ON)",
		    command);
}

static int explain_success(const struct session *s, const struct run *r, const char *command)
{
	if (s->last_error[0])
		fprintf(stderr, "kvtier run: a pool met a problem: %s\n", s->last_error);
	if (s->pools || s->refused)
		return 0;
	if (!s->plain)
		return explain_nothing(s, r, command);
	fprintf(stderr, "kvtier run: the KV cache fits in the DRAM budget: nothing was tiered\n");
	return 0;
}

/* The signal that ended COMMAND, also one that a shell turned into an exit status; 0: none. */
static int ending_signal(int status)
{
	if (WIFSIGNALED(status))
		return WTERMSIG(status);
	return WEXITSTATUS(status) > 128 ? WEXITSTATUS(status) - 128 : 0;
}

static int judge(const struct session *s, const struct run *r, const char *command, int status)
{
	int signal = ending_signal(status);

	if (signal == SIGBUS && s->pools)
		return fail(128 + SIGBUS,
			    "%s touched a part of its cache that could not be served: %s", command,
			    s->last_error[0] ? s->last_error : "no cause was recorded");
	if (signal)
		return 128 + signal;
	return WEXITSTATUS(status) ? WEXITSTATUS(status) : explain_success(s, r, command);
}

static int prepare(struct run *r, int argc, char **argv, struct session *session)
{
	int ret = parse(r, argc, argv);

	if (!ret)
		ret = check_command(r, argv[optind]);
	if (!ret)
		ret = budgets_complete(&r->budgets);
	if (!ret)
		ret = find_shim(r);
	return ret ? ret : session_begin(session);
}

int cmd_run(int argc, char **argv)
{
	struct run r = { .budgets = { .cxl_node = -1 } };
	struct session session;
	int ret, status = 0;

	ret = prepare(&r, argc, argv, &session);
	if (ret)
		return ret < 0 ? help() : ret;
	ret = set_environment(&r, session.path);
	if (!ret)
		ret = spawn(argv + optind, &status);
	if (session_end(&session, r.stats, ending_signal(status)) && !ret)
		ret = EXIT_OWN;
	return ret ? ret : judge(&session, &r, argv[optind], status);
}
