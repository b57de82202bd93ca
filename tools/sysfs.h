/* SPDX-License-Identifier: MIT */
/* The module's files: read, checked, and written. */
#ifndef KVT_SYSFS_H
#define KVT_SYSFS_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

/* Value of FOLDER/FILE below the class, without its newline; false: it is not there. */
bool sysfs_read(const char *folder, const char *file, char *value, size_t len);
/* All files of a folder as members; NULL: there is no such folder. */
cJSON *sysfs_folder(const char *folder);
/*
 * Check @value for FOLDER/FILE and write it.  Sizes may have units.  0, or an exit code
 * after one line said what is wrong with it.
 */
int sysfs_set(const char *folder, const char *file, const char *value);

#endif
