// SPDX-License-Identifier: MIT
/* kvtier run: an unmodified engine with its KV cache in tiers. */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
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
#include "session.h"

#define SHIM "libkvtier-preload.so"

static const struct option options[] = {
	{ "dram", required_argument, NULL, 'd' },
	{ "cxl", required_argument, NULL, 'c' },
	{ "nvme", required_argument, NULL, 'n' },
	{ "block", required_argument, NULL, 'b' },
	{ "stats", required_argument, NULL, 's' },
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static int help(void)
{
	puts("usage: kvtier run [OPTION...] -- COMMAND [ARGUMENT...]\n\n"
	     "Run COMMAND with its llama.cpp KV cache in DRAM, CXL memory and NVMe.\n\n"
	     "  --dram SIZE         DRAM for the KV caches of each process\n"
	     "                      (default: half of the memory available now)\n"
	     "  --cxl NODE:SIZE     memory on a NUMA node as a second tier (default: none)\n"
	     "  --nvme PATH[:SIZE]  directory, new file or free block device for the rest\n"
	     "                      (default: a directory on a disk, as large as needed)\n"
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
	char shim[PATH_MAX];
};

static int take_option(struct run *r, int option)
{
	switch (option) {
	case 'd':
		return budget_dram(&r->budgets, optarg);
	case 'c':
		return budget_cxl(&r->budgets, optarg);
	case 'n':
		return budget_nvme(&r->budgets, optarg);
	case 'b':
		return budget_block(&r->budgets, optarg);
	case 's':
		r->stats = optarg;
		return 0;
	case 'j':
		json_errors = true;
		return 0;
	default:
		return -1;
	}
}

static int parse(struct run *r, int argc, char **argv)
{
	int option, ret;

	opterr = 0;
	while ((option = getopt_long(argc, argv, "+:h", options, NULL)) != -1) {
		if (option == 'h')
			exit(help());
		if (option == ':')
			return fail(EXIT_OWN, "%s needs a value: see `kvtier run --help`",
				    argv[optind - 1]);
		if (option == '?')
			return fail(EXIT_OWN, "unknown option '%s': see `kvtier run --help`",
				    argv[optind - 1]);
		ret = take_option(r, option);
		if (ret)
			return ret;
	}
	if (optind == argc)
		return fail(EXIT_OWN, "no COMMAND: kvtier run [OPTION...] -- COMMAND [ARGUMENT...]");
	return 0;
}

static int check_command(const char *command)
{
	char path[PATH_MAX];
	int ret = find_program(command, path, sizeof(path));

	if (ret == -ENOENT)
		return fail(EXIT_NOT_FOUND, "%s: not found", command);
	if (ret)
		return fail(EXIT_CANNOT_EXEC, "%s: not an executable file", command);
	ret = is_dynamic(path);
	if (ret < 0)
		return fail(EXIT_CANNOT_EXEC, "%s: not a program that can be run: %s", path,
			    strerror(-ret));
	if (!ret)
		return fail(EXIT_OWN, "%s is linked statically (or is 32-bit): its cache cannot be "
				      "intercepted; use a build with shared ggml libraries "
				      "(-DBUILD_SHARED_LIBS=ON)", path);
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
	ret |= setenv("KVTIER_NVME", b->nvme_path, 1);
	ret |= setenv("KVTIER_SESSION", session, 1);
	ret |= setenv("KVTIER_KEEP_STATS", "1", 1);
	return ret ? fail(EXIT_OWN, "cannot set the environment: %s", strerror(errno)) : 0;
}

static volatile sig_atomic_t child;

static void forward(int signal)
{
	if (child > 0)
		kill(child, signal);
}

static void forward_signals(void)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 };
	struct sigaction action = { .sa_handler = forward, .sa_flags = SA_RESTART };
	size_t i;

	for (i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &action, NULL);
}

static int spawn(char **argv, int *status)
{
	pid_t pid = fork();

	if (pid < 0)
		return fail(EXIT_OWN, "cannot fork: %s", strerror(errno));
	if (!pid) {
		execvp(argv[0], argv);
		fprintf(stderr, "kvtier run: %s: %s\n", argv[0], strerror(errno));
		_exit(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_EXEC);
	}
	child = pid;
	forward_signals();
	while (waitpid(pid, status, 0) < 0)
		if (errno != EINTR)
			return fail(EXIT_OWN, "cannot wait for %s: %s", argv[0], strerror(errno));
	return 0;
}

static int judge(const struct session *s, const char *command, int status)
{
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS && s->pools)
		return fail(128 + SIGBUS, "%s touched a part of its cache that could not be served: %s",
			    command, s->last_error[0] ? s->last_error : "no cause was recorded");
	if (WIFSIGNALED(status))
		return 128 + WTERMSIG(status);
	if (WEXITSTATUS(status) || s->pools || s->refused)
		return WEXITSTATUS(status);
	if (s->plain) {
		fprintf(stderr, "kvtier run: the KV cache fits in the DRAM budget: nothing was tiered\n");
		return 0;
	}
	return fail(EXIT_OWN, "%s allocated no KV cache through ggml_backend_alloc_ctx_tensors_from_buft:"
			      " no context was made, ggml is linked statically, or it is another engine",
		    command);
}

int cmd_run(int argc, char **argv)
{
	struct run r = { .budgets = { .cxl_node = -1 } };
	struct session session;
	int ret, status;

	ret = parse(&r, argc, argv);
	if (!ret)
		ret = check_command(argv[optind]);
	if (!ret)
		ret = budgets_complete(&r.budgets);
	if (!ret)
		ret = find_shim(&r);
	if (!ret)
		ret = session_begin(&session);
	if (ret)
		return ret;
	ret = set_environment(&r, session.path);
	if (!ret)
		ret = spawn(argv + optind, &status);
	if (session_end(&session, r.stats) && !ret)
		ret = EXIT_OWN;
	return ret ? ret : judge(&session, argv[optind], status);
}
