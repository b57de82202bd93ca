/* SPDX-License-Identifier: MIT */
/* Files of /sys/class/kvtier and /proc, and the machine's disks. */
#ifndef KVT_SELFTEST_ATTR_H
#define KVT_SELFTEST_ATTR_H

#include <stdbool.h>
#include <stddef.h>

#define KVT_CLASS "/sys/class/kvtier/"
#define KVT_TEXT 256

/* Write a line to a file; 0 or a negative errno. */
int attr_write(const char *path, const char *text);
int attr_writef(const char *path, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The first line, without its end; 0 or a negative errno. */
int attr_read(const char *path, char text[KVT_TEXT]);
/* A number in a file; -1: there is none. */
long long attr_number(const char *path);

/* The disk with this serial, as "/dev/nvme1n1"; false: none. */
bool disk_by_serial(const char *serial, char path[KVT_TEXT]);
/* A disk that tests may overwrite: kv1, and nothing holds it. */
bool spare_disk(char path[KVT_TEXT]);
/* The path of storeN, which has this device ("nvme1n1"); false: none. */
bool store_of(const char *device, char path[KVT_TEXT]);
/* Make a store of the device and attach it; its path.  0 or a negative errno. */
int store_up(const char *device, char path[KVT_TEXT]);
/* Attach one that is there; its path.  0 or a negative errno. */
int store_attach(const char *device, char path[KVT_TEXT]);
int store_detach(const char *path);
/* Lift its hold and detach it. */
int store_down(const char *path);
/* A number in one of its files; -1: there is none.  And write to one. */
long long store_attr(const char *path, const char *name);
int store_write(const char *path, const char *name, const char *text);
/* Wait until its devices have ended what was given up; false: they do not. */
bool store_settled(const char *path);
/* Its number, of "/sys/class/kvtier/store3". */
int store_number(const char *path);

#endif
