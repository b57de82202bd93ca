/* SPDX-License-Identifier: MIT */
/* What every subcommand does around getopt_long(). */
#ifndef KVT_OPTION_H
#define KVT_OPTION_H

#include <getopt.h>

/* Look ahead for --json, so that an error in an option before it is JSON too. */
void option_json(int argc, char **argv, const char *letters, const struct option *options);

/* One line on what getopt_long() returned '?' or ':' for; returns @code. */
int option_bad(int code, int found, char **argv, const struct option *options);

#endif
