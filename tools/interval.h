/* SPDX-License-Identifier: MIT */
/* Figures of the time between two looks at the pools. */
#ifndef KVT_INTERVAL_H
#define KVT_INTERVAL_H

#include "pools.h"

/* The same pool at the look before; NULL: it was not there, or @before is NULL. */
const struct kvt_stat_file *interval_before(const struct pools *before,
					    const struct kvt_stat_file *pool);
/*
 * Its counters since then (NULL: since it was made): those of faults, prefetch and
 * transfers; occupancy is as it is now.
 */
struct kvtier_stats interval_since(const struct kvt_stat_file *pool,
				   const struct kvt_stat_file *before);

#endif
