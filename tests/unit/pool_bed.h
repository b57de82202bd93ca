/* SPDX-License-Identifier: MIT */
/* A folder, and what a small pool of the user pager in it is like, for tests of the pager's steps. */
#ifndef POOL_BED_H
#define POOL_BED_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "kvtier.h"

#define BED_DIR 32

/* A new folder @dir, in the build folder if that is there. */
static inline bool bed_folder(char dir[BED_DIR], const char *name)
{
	snprintf(dir, BED_DIR, "build/%s-XXXXXX", name);
	if (mkdtemp(dir))
		return true;
	snprintf(dir, BED_DIR, "%s-XXXXXX", name);
	return mkdtemp(dir);
}

static inline struct kvt_config bed_config(const char *dir, uint32_t blocks, uint32_t frames,
					   uint32_t block_bytes)
{
	struct kvt_config config = KVT_CONFIG_INIT;

	config.pager = KVT_PAGER_USER;
	config.bytes = (uint64_t)blocks * block_bytes;
	config.block_bytes = block_bytes;
	config.dram_bytes = (uint64_t)frames * block_bytes;
	config.nvme_path = dir;
	config.flags = KVT_NO_STATS_FILE;
	return config;
}

#endif
