// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the core asks of when the host is short of memory: spare frames and frames of
 * saved blocks (evict.c).  Objects are frames.
 */
#include "compat/shrinker.h"
#include "kvtier.h"
#include "worker.h"

#define BATCH 16 /* frames asked for at a time: up to 32 MiB */

static struct shrinker *shrinker;

static unsigned long count(struct shrinker *s, struct shrink_control *sc)
{
	return kvt_shrink_count() ?: SHRINK_EMPTY;
}

static unsigned long scan(struct shrinker *s, struct shrink_control *sc)
{
	/* Page tables are taken apart, which needs locks of the file's mapping. */
	if (!(sc->gfp_mask & __GFP_FS))
		return SHRINK_STOP;
	return kvt_shrink_scan(sc->nr_to_scan) ?: SHRINK_STOP;
}

int kvt_shrink_init(void)
{
	int ret;

	shrinker = kvt_shrinker_alloc();
	if (!shrinker)
		return -ENOMEM;
	shrinker->count_objects = count;
	shrinker->scan_objects = scan;
	shrinker->seeks = DEFAULT_SEEKS;
	shrinker->batch = BATCH;
	ret = kvt_shrinker_register(shrinker);
	if (ret)
		kvt_shrinker_free(shrinker);
	return ret;
}

void kvt_shrink_exit(void)
{
	kvt_shrinker_free(shrinker);
}
