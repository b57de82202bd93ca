/* SPDX-License-Identifier: MIT */
/* The blocks of somebody else's pool, from whoever can tell. */
#ifndef KVT_BLOCKS_H
#define KVT_BLOCKS_H

#include "system.h"

#define BLOCKS_WHY 512

struct blocks {
	struct kvt_stat_block *block;
	uint64_t nr;
	uint64_t block_bytes;
	const char *source; /* "file", "module" or "daemon" */
	bool heat; /* the source knows which blocks are in use */
	char why[BLOCKS_WHY]; /* they cannot be had */
};

/*
 * Of a pool of the user pager: it is asked through its file (libkvtier/stat_file.h).  Of
 * the module: a descriptor is borrowed from a process that has it (holder.h).  Of the
 * daemon: it is asked.  0, or -1 and @why.
 */
int blocks_read(const struct system *s, const struct pool_ref *ref, struct blocks *blocks);
void blocks_free(struct blocks *blocks);

/* Map the file of a user pool for writing, to ask for what it shows; NULL and @why. */
struct kvt_stat_file *view_open(const char *path, size_t *bytes, char why[BLOCKS_WHY]);

#endif
