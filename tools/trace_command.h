/* SPDX-License-Identifier: MIT */
/* The two halves of kvtier trace; each gets its own name as argv[0]. */
#ifndef KVT_TRACE_COMMAND_H
#define KVT_TRACE_COMMAND_H

int trace_replay(int argc, char **argv);
int trace_record(int argc, char **argv);

#endif
