/* SPDX-License-Identifier: GPL-2.0-only */
/* Between copy.c and copy_dma.c, and what both offer to the worker and to sysfs. */
#ifndef KVT_COPY_H
#define KVT_COPY_H

#include "kvtier.h"

/*
 * Copy by a DMA engine.  0: done.  -EAGAIN: there is no channel, or none is free.  Any
 * other error: an engine failed, and is done with both folios.  1: it may still write to
 * @to; see kvt_copy().
 */
int kvt_dma_copy(struct folio *to, struct folio *from, u64 bytes);
/* Let go of channels that have had nothing to do; take back those that finished late. */
void kvt_dma_trim(void);
void kvt_dma_exit(void);
/* The names of the channels that are held, for a sysfs file. */
ssize_t kvt_dma_show(char *page);

#endif
