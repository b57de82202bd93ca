/* SPDX-License-Identifier: MIT */
#ifndef KVT_ELF_CHECK_H
#define KVT_ELF_CHECK_H

#include <stdbool.h>
#include <stddef.h>

/* Find @command along PATH as execvp() would.  0, -ENOENT or -EACCES. */
int find_program(const char *command, char *path, size_t len);

/*
 * Can LD_PRELOAD reach this program?  Follows "#!" to the interpreter.  1 yes,
 * 0 no: it is linked statically, or a negative errno (no program at all).
 */
int is_dynamic(const char *path);

/* Does @text occur in the file? */
bool has_text(const char *path, const char *text);

#endif
