/* SPDX-License-Identifier: MIT */
#ifndef KVT_ELF_CHECK_H
#define KVT_ELF_CHECK_H

#include <stddef.h>

/* Find @command along PATH as execvp() would.  0, -ENOENT or -EACCES. */
int find_program(const char *command, char *path, size_t len);

/*
 * Can LD_PRELOAD reach this program?  Follows "#!" to the interpreter.  1 yes,
 * 0 no: it is linked statically, or a negative errno (no program at all).
 */
int is_dynamic(const char *path);

#endif
