// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "option.h"

void option_json(int argc, char **argv, const char *letters, const struct option *options)
{
	int found;

	opterr = 0;
	while ((found = getopt_long(argc, argv, letters, options, NULL)) != -1)
		json_errors |= found == 'j';
	optind = 0; /* glibc: start again */
}

/* A cluster of letters (-xw) is still being read when one is bad: name the letter. */
static const char *offender(char **argv, const struct option *options, char *letter)
{
	const char *last = argv[optind - 1];
	const struct option *o;

	if (!optopt)
		return last;
	for (o = options; o->name; o++)
		if (o->val == optopt && !strncmp(last, "--", 2) &&
		    !strncmp(last + 2, o->name, strcspn(last + 2, "=")))
			return last;
	snprintf(letter, 3, "-%c", optopt);
	return letter;
}

int option_bad(int code, int found, char **argv, const struct option *options)
{
	char letter[3];
	const char *text = offender(argv, options, letter);

	if (found == ':')
		return fail(code, "%s needs a value: see `%s --help`", text, command_name);
	return fail(code, "unknown option '%s': see `%s --help`", text, command_name);
}

int option_take(int argc, char **argv, const struct option_set *set, void *command)
{
	int found, ret;

	option_json(argc, argv, set->letters, set->options);
	while ((found = getopt_long(argc, argv, set->letters, set->options, NULL)) != -1) {
		if (found == 'h')
			return -1;
		if (found == '?' || found == ':')
			return option_bad(set->bad, found, argv, set->options);
		ret = set->take(command, found);
		if (ret)
			return ret;
	}
	return 0;
}
