/* SPDX-License-Identifier: GPL-2.0-only */
/* Between worker.c and what it does. */
#ifndef KVT_WORKER_H
#define KVT_WORKER_H

#include "kvtier.h"

/* worker.c */
void kvt_worker_kick(void); /* look at all pools now; any context */

/* writeback.c */
struct kvt_written {
	u64 bytes;
	bool more; /* to be written, had there been leave for it */
	int error; /* of a write that failed, or 0 */
};

/* Write sealed blocks of up to @max_bytes that are likely to leave memory. */
struct kvt_written kvt_writeback(struct kvt_pool *pool, u64 max_bytes);

/* shrink.c */
int kvt_shrink_init(void);
void kvt_shrink_exit(void);

#endif
