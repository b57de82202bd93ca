/* SPDX-License-Identifier: MIT */
/* What every subcommand does around getopt_long(). */
#ifndef KVT_OPTION_H
#define KVT_OPTION_H

#include <getopt.h>

/* Look ahead for --json, so that an error in an option before it is JSON too. */
void option_json(int argc, char **argv, const char *letters, const struct option *options);

/* One line on what getopt_long() returned '?' or ':' for; returns @code. */
int option_bad(int code, int found, char **argv, const struct option *options);

/* How a subcommand takes its options; @take: 0, or an exit status after fail(). */
struct option_set {
	const char *letters; /* of getopt_long(); begins with ":" or "+:" */
	const struct option *options;
	int bad; /* exit status of an option that is none */
	int (*take)(void *command, int option);
};

/* Take all options, up to optind; -1: help is wanted. */
int option_take(int argc, char **argv, const struct option_set *set, void *command);

#endif
