// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "option.h"

static void look_for_json(int argc, char **argv, const char *letters, const struct option *options)
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

static int bad_option(int found, char **argv, const struct option_set *set)
{
	char letter[3];
	const char *text = offender(argv, set->options, letter);

	if (found == ':')
		return fail(set->bad, "%s needs a value: see `%s --help`", text, command_name);
	return fail(set->bad, "unknown option '%s': see `%s --help`", text, command_name);
}

int option_take(int argc, char **argv, const struct option_set *set, void *command)
{
	int found, ret;

	look_for_json(argc, argv, set->letters, set->options);
	while ((found = getopt_long(argc, argv, set->letters, set->options, NULL)) != -1) {
		if (found == 'h')
			return -1;
		if (found == '?' || found == ':')
			return bad_option(found, argv, set);
		ret = found == 'j' || !set->take ? 0 : set->take(command, found);
		if (ret)
			return ret;
	}
	return 0;
}

int option_take_none(int argc, char **argv)
{
	static const struct option options[] = { OPTIONS_OF_ALL };
	static const struct option_set set = { ":h", options, EXIT_USAGE, NULL };

	return option_take(argc, argv, &set, NULL);
}

int option_end(int argc, char **argv, int nr)
{
	if (optind + nr >= argc)
		return 0;
	return fail(EXIT_USAGE, "unexpected argument '%s': see `%s --help`", argv[optind + nr],
		    command_name);
}

int option_number(const char *name, const char *text, double least, double most, double *value)
{
	char *end;

	*value = strtod(text, &end);
	if (end != text && !*end && *value >= least && *value <= most)
		return 0;
	return fail(EXIT_USAGE, "--%s: '%s' is not a number from %g to %g", name, text, least,
		    most);
}
