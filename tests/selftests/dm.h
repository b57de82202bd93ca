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
	unsigned long long sectors;
};

/* -ENODEV: there is no device mapper here. */
int dm_create(struct dm *dm, const char *name, const char *below);
/* Suspended, it keeps what it is sent until it is resumed. */
int dm_suspend(struct dm *dm, bool suspend);
/* Failing, it answers reads and writes with EIO. */
int dm_fail(struct dm *dm, bool fail);
int dm_remove(struct dm *dm);

#endif
