/* SPDX-License-Identifier: MIT */
/* What kvtier's subcommands share: their table, exit codes and error lines. */
#ifndef KVT_COMMAND_H
#define KVT_COMMAND_H

#include <stdbool.h>

/* As env(1) and timeout(1): the command's own status is passed through below these. */
#define EXIT_USAGE 2
#define EXIT_OWN 125 /* kvtier run itself failed */
#define EXIT_CANNOT_EXEC 126
#define EXIT_NOT_FOUND 127

int cmd_run(int argc, char **argv);
int cmd_stat(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_trace(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_map(int argc, char **argv);
int cmd_tier(int argc, char **argv);
int cmd_pool(int argc, char **argv);
int cmd_scrub(int argc, char **argv);
int cmd_show(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_report(int argc, char **argv);

/* Errors as {"error": ...} on standard output instead of a line on standard error. */
extern bool json_errors;

/* One line: "kvtier SUBCOMMAND: message"; returns @code. */
__attribute__((format(printf, 2, 3))) int fail(int code, const char *fmt, ...);

extern const char *command_name; /* for fail(): "kvtier", "kvtier run", ... */

#endif
