/* SPDX-License-Identifier: MIT */
/*
 * A disk that can be made to stall or to fail: a device-mapper device over another,
 * made by the mapper's own ioctls.
 */
#ifndef KVT_SELFTEST_DM_H
#define KVT_SELFTEST_DM_H

#include <stdbool.h>

#include "attr.h"

struct dm {
	char name[32];
	char path[KVT_TEXT]; /* of the device */
	char below[KVT_TEXT];
	unsigned long long start, sectors; /* there */
};

/* -ENODEV: there is no device mapper here. */
int dm_create(struct dm *dm, const char *name, const char *below);
/* A part of the disk: the @part'th of @parts equal ones. */
int dm_create_part(struct dm *dm, const char *name, const char *below, int part, int parts);
/* Suspended, it keeps what it is sent until it is resumed. */
int dm_suspend(struct dm *dm, bool suspend);
/* Failing, it answers reads and writes with EIO. */
int dm_fail(struct dm *dm, bool fail);
/*
 * Writes to its first @sectors take @ms; nothing else is slow.  Ends, and lets out what it
 * keeps, by dm_fail(dm, false).  -EINVAL: this kernel cannot.
 */
int dm_delay(struct dm *dm, unsigned long long sectors, unsigned int ms);
int dm_remove(struct dm *dm);

#endif
