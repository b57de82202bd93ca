// SPDX-License-Identifier: MIT
/* kvtier: the command.  One table; no arguments means `show`. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "command.h"
#include "kvtier.h"
#include "text.h"

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *full_name;
	const char *summary;
} commands[] = {
	{ "show", cmd_show, "kvtier show", "the system on one screen (default)" },
	{ "run", cmd_run, "kvtier run", "run an engine with its KV cache in tiers" },
	{ "stat", cmd_stat, "kvtier stat", "show the running pools and their tiers" },
	{ "top", cmd_top, "kvtier top", "the same, live: tenants, pools, tiers, bandwidth" },
	{ "map", cmd_map, "kvtier map", "a picture of a pool's blocks by tier and heat" },
	{ "pool", cmd_pool, "kvtier pool", "list, show and set pools" },
	{ "tier", cmd_tier, "kvtier tier", "list, show and set tiers" },
	{ "scrub", cmd_scrub, "kvtier scrub", "verify what the daemon's pools have on NVMe" },
	{ "plan", cmd_plan, "kvtier plan",
	  "a model's bytes a token, and the context each tier holds" },
	{ "trace", cmd_trace, "kvtier trace", "replay or record which blocks are read when" },
	{ "report", cmd_report, "kvtier report", "one HTML file with plots" },
	{ "doctor", cmd_doctor, "kvtier doctor", "say what this host lacks and what mends it" },
};

#define NR_COMMANDS (sizeof(commands) / sizeof(commands[0]))

bool json_errors;
const char *command_name = "kvtier";

int fail(int code, const char *fmt, ...)
{
	char line[1024];
	va_list args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	text_clean(line);
	if (json_errors) {
		cJSON *object = cJSON_CreateObject();
		char *text;

		cJSON_AddStringToObject(object, "error", line);
		text = cJSON_PrintUnformatted(object);
		puts(text ? text : "{\"error\":\"out of memory\"}");
		cJSON_free(text);
		cJSON_Delete(object);
	} else {
		fprintf(stderr, "%s: %s\n", command_name, line);
	}
	return code;
}

static int help(void)
{
	size_t i;

	printf("usage: kvtier [COMMAND] [ARGUMENT...]\n\n");
	for (i = 0; i < NR_COMMANDS; i++)
		printf("  %-8s %s\n", commands[i].name, commands[i].summary);
	printf("\nWithout a command, kvtier takes the options of `kvtier show`.\n\n"
	       "  -h, --help     show this help; `kvtier COMMAND --help` for a command's\n"
	       "  -V, --version  show the version\n"
	       "  --json         output and errors as JSON, in every command\n");
	return 0;
}

/* An unknown command has no option table; --json still shapes its error. */
static int unknown(int argc, char **argv)
{
	int i;

	for (i = 2; i < argc && strcmp(argv[i], "--"); i++)
		json_errors |= !strcmp(argv[i], "--json");
	return fail(EXIT_USAGE, "there is no command '%s': see `kvtier --help`", argv[1]);
}

/* A full disk behind standard output, say: nobody gets half an answer and a 0. */
static int finish(int ret)
{
	if (!fflush(stdout) && !ferror(stdout))
		return ret;
	json_errors = false; /* that way is closed */
	return fail(ret ? ret : 1, "cannot write the output: %s", strerror(errno));
}

static int run(int argc, char **argv)
{
	size_t i;

	if (argc > 1 && !strcmp(argv[1], "--json")) {
		json_errors = true;
		argc--;
		argv++;
	}
	if (argc < 2)
		return cmd_show(argc, argv);
	if (!strcmp(argv[1], "-h") || !strcmp(argv[1], "--help"))
		return help();
	if (!strcmp(argv[1], "-V") || !strcmp(argv[1], "--version")) {
		printf("kvtier %s\n", kvt_version());
		return 0;
	}
	if (argv[1][0] == '-')
		return cmd_show(argc, argv);
	for (i = 0; i < NR_COMMANDS; i++) {
		if (strcmp(argv[1], commands[i].name))
			continue;
		command_name = commands[i].full_name;
		return commands[i].run(argc - 1, argv + 1);
	}
	return unknown(argc, argv);
}

int main(int argc, char **argv)
{
	return finish(run(argc, argv));
}
