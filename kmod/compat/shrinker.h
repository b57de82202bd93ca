/* SPDX-License-Identifier: GPL-2.0-only */
/* Shrinkers are allocated by the core from 6.7 on. */
#ifndef KVT_COMPAT_SHRINKER_H
#define KVT_COMPAT_SHRINKER_H

#include <linux/slab.h>
/* The header of 6.1 needs what the one above includes. */
#include <linux/shrinker.h>

#include "compat.h"

/* NULL: no memory. */
static inline struct shrinker *kvt_shrinker_alloc(void)
{
#if KVT_KERNEL(6, 7)
	return shrinker_alloc(0, "kvtier");
#else
	return kzalloc(sizeof(struct shrinker), GFP_KERNEL);
#endif
}

/* On failure it is still there. */
static inline int kvt_shrinker_register(struct shrinker *shrinker)
{
#if KVT_KERNEL(6, 7)
	shrinker_register(shrinker);
	return 0;
#else
	return register_shrinker(shrinker, "kvtier");
#endif
}

/* One that may not have been registered. */
static inline void kvt_shrinker_free(struct shrinker *shrinker)
{
#if KVT_KERNEL(6, 7)
	shrinker_free(shrinker);
#else
	unregister_shrinker(shrinker);
	kfree(shrinker);
#endif
}

#endif
