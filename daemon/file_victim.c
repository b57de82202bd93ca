// SPDX-License-Identifier: MIT
/*
 * Which block leaves memory.
 *
 * The plan says when each block is used next; the one whose use is the furthest goes
 * (Belady), found among a few that are drawn at random: the best of 48 is among the
 * furthest few in a hundred.  Without a plan chance alone decides, which is what a
 * cyclic scan, that LRU always loses, suffers least from.  First of all go blocks that
 * were hinted cold, and of equals those that need not be written.
 */
#include <errno.h>

#include "kvtierd.h"

#define DRAWS 48u
/* So much nearer may the next use of a clean block be that it goes rather than a dirty one. */
#define CLEAN_BONUS 4

static uint32_t draw(struct pool *p, uint32_t below)
{
	p->random ^= p->random << 13;
	p->random ^= p->random >> 7;
	p->random ^= p->random << 17;
	return (uint32_t)(((p->random >> 32) * below) >> 32);
}

static bool may_go(const struct pool *p, uint32_t b)
{
	const struct block *blk = block_of(p, b);

	return blk->where == W_RESIDENT && !blk->pins && !blk->busy && !wanted_of(p, b);
}

/* Greater: goes rather. */
static uint64_t score(const struct pool *p, uint32_t b)
{
	const struct block *blk = block_of(p, b);
	uint64_t next = plan_next_use(p, b);

	if (blk->flags & B_HINT)
		return UINT64_MAX;
	if (next == UINT64_MAX)
		next = 1ull << 40; /* in no plan */
	return blk->flags & B_DIRTY ? next / CLEAN_BONUS : next;
}

/* A block whose next use is further than @nearer_than positions away, or NO_BLOCK. */
uint32_t file_victim(struct pool *p, uint64_t nearer_than)
{
	uint32_t draws = p->nr_frames < 2 * DRAWS ? p->nr_frames : DRAWS, i, best = NO_BLOCK;
	uint32_t start = p->nr_frames ? draw(p, p->nr_frames) : 0;
	uint64_t most = 0;

	for (i = 0; i < draws; i++) {
		uint32_t at = draws == p->nr_frames ? (start + i) % p->nr_frames :
						      draw(p, p->nr_frames);
		uint32_t b = p->frames[at];
		uint64_t s;

		if (!may_go(p, b))
			continue;
		s = score(p, b);
		if (s > most || best == NO_BLOCK) {
			most = s;
			best = b;
		}
	}
	if (best != NO_BLOCK && nearer_than && plan_next_use(p, best) <= nearer_than)
		return NO_BLOCK;
	return best;
}

static bool less_deserving(const struct pool *p, const struct pool *than)
{
	if (!than)
		return true;
	if (p->idle != than->idle)
		return p->idle;
	return p->nr_frames > than->nr_frames;
}

/*
 * A tenant's quota or the host's limit is reached: from which pool a block goes.  A
 * tenant that is at its quota takes from itself alone.
 */
struct pool *file_victim_pool(struct pool *p, int why)
{
	struct pool *q, *worst = NULL;

	for (q = p->d->pools; q; q = q->next) {
		if (q->module || q->removed || !q->nr_frames)
			continue;
		if (why == -EDQUOT && q->tenant != p->tenant)
			continue;
		/* Of another tenant's only what is idle, or what is beyond an equal share. */
		if (q->tenant != p->tenant && !q->idle &&
		    q->tenant->used[KVTIER_TIER_DRAM] / q->tenant->weight <=
			    p->tenant->used[KVTIER_TIER_DRAM] / p->tenant->weight)
			continue;
		if (less_deserving(q, worst))
			worst = q;
	}
	return worst;
}
