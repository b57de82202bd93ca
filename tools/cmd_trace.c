// SPDX-License-Identifier: MIT
/* kvtier trace: replay and record. */
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "trace_command.h"

static int help(void)
{
	puts("usage: kvtier trace replay [OPTION...] FILE...\n"
	     "       kvtier trace record [OPTION...] POOL\n\n"
	     "  replay      requests of a trace against tiers, beside LRU and Belady\n"
	     "  record      the accesses to a running pool, as its pager sees them\n"
	     "  --json      errors as JSON\n"
	     "  -h, --help  show this help; `kvtier trace replay --help` for the options\n\n"
	     "Exit status: 0; 1 what is wrong is said; 2 usage.");
	return 0;
}

int cmd_trace(int argc, char **argv)
{
	int i;

	for (i = 1; i < argc && !strcmp(argv[i], "--json"); i++)
		json_errors = true;
	argc -= i - 1;
	argv += i - 1;
	if (argc < 2)
		return fail(EXIT_USAGE, "replay or record? see `kvtier trace --help`");
	if (!strcmp(argv[1], "-h") || !strcmp(argv[1], "--help"))
		return help();
	if (!strcmp(argv[1], "replay")) {
		command_name = "kvtier trace replay";
		return trace_replay(argc - 1, argv + 1);
	}
	if (!strcmp(argv[1], "record")) {
		command_name = "kvtier trace record";
		return trace_record(argc - 1, argv + 1);
	}
	for (i = 2; i < argc; i++)
		json_errors |= !strcmp(argv[i], "--json");
	return fail(EXIT_USAGE, "'%s' is neither replay nor record: see `kvtier trace --help`",
		    argv[1]);
}
