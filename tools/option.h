/* SPDX-License-Identifier: MIT */
/* What every subcommand does around getopt_long(). */
#ifndef KVT_OPTION_H
#define KVT_OPTION_H

#include <getopt.h>

/* The end of every table of options. */
#define OPTIONS_OF_ALL                           \
	{ "json", no_argument, NULL, 'j' },      \
	{ "help", no_argument, NULL, 'h' },      \
	{ NULL, 0, NULL, 0 }

/* How a subcommand takes its options; @take: 0, or an exit status after fail(). */
struct option_set {
	const char *letters; /* of getopt_long(); begins with ":" or "+:" */
	const struct option *options;
	int bad; /* exit status of an option that is none */
	int (*take)(void *command,
		    int option); /* all but --json and --help; NULL: there are none */
};

/*
 * Take all options, up to optind: 0, an exit status after one line, or -1: help is wanted.
 * --json is looked for first, so that an error in an option before it is JSON too.
 */
int option_take(int argc, char **argv, const struct option_set *set, void *command);
/* The same, of a subcommand that has --json and --help alone. */
int option_take_none(int argc, char **argv);

/* At most @nr arguments follow the options: 0, or EXIT_USAGE after one line. */
int option_end(int argc, char **argv, int nr);

/* The value of --@name, a number: 0, or EXIT_USAGE after one line. */
int option_number(const char *name, const char *text, double least, double most, double *value);

#endif
