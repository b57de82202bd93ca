/* SPDX-License-Identifier: MIT */
/*
 * A disk that can be made to stall: a loop device over a file, and a control group (v1) that
 * throttles what a process reads and writes there.  Both need root.
 */
#ifndef SLOW_DISK_H
#define SLOW_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct loop_disk {
	char path[32]; /* of the device */
	dev_t number;
	int fd; /* keeps it attached; it detaches itself with the last use */
};

/* Over a file that is made with so many bytes; false: there are no loop devices here. */
bool loop_attach(struct loop_disk *d, const char *file, uint64_t bytes);

struct throttle {
	char dir[96];
	dev_t number;
};

/* @pid (0: this one) goes into a group of its own; false: there is none that throttles. */
bool throttle_begin(struct throttle *t, const struct loop_disk *d, pid_t pid);
/* @what: "read" or "write"; 0: as fast as it is. */
bool throttle_set(const struct throttle *t, const char *what, uint64_t bytes_per_s);
/* This process leaves its group. */
bool throttle_leave(void);
/* False: somebody is still in it. */
bool throttle_end(const struct throttle *t);

#endif
