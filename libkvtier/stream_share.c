// SPDX-License-Identifier: MIT
/*
 * How much of a call stays in memory.
 *
 * Decoding reads the same blocks in the same order at each step.  For such a cycle the
 * best is a fixed part that stays, and it should be the same part of every layer: then each
 * layer has something to attend to while the rest of it is read.  So a call of n blocks
 * gets n / cycle of the frames, where the cycle is how many blocks went by until its first
 * one was wanted again.  A call that has more in memory hints the surplus cold; one that has
 * less keeps as much of what it streams as others have hinted, or as is free: more would
 * only push out what was kept before.
 */
#include "pool.h"
#include "stream.h"

/* Frames for others: faults, blocks that are written. */
#define SPARE 2

/* Of the cycle's first @position blocks so many stay. */
static uint32_t share(const struct kvt_stream *s, uint32_t position)
{
	uint32_t taken = s->fetch->window + SPARE;
	uint32_t frames = s->frames > taken ? s->frames - taken : 0;

	if (s->frames >= s->cycle || frames >= s->cycle)
		return position;
	return (uint32_t)((uint64_t)position * frames / s->cycle);
}

static void end_cycle(struct kvt_stream *s)
{
	struct kvtier_stats stats;
	uint32_t target;

	s->cycle = s->position;
	s->position = 0;
	if (!kvt_stats(s->pool, &stats))
		s->frames = (uint32_t)((stats.tier[KVTIER_TIER_DRAM].budget_bytes +
					stats.tier[KVTIER_TIER_CXL].budget_bytes) >>
				       s->pool->block_shift);
	target = share(s, s->cycle);
	if (target > s->resident && s->allowance < target - s->resident)
		s->allowance = target - s->resident;
	s->resident = 0;
}

void kvt_share_begin(struct kvt_stream_call *c)
{
	struct kvt_stream *s = c->stream;

	c->resident = c->kept = 0;
	if (!c->nr_items)
		return;
	if (s->anchor == KVT_ITEM_NONE || (s->cycle && s->position > 2 * s->cycle)) {
		s->anchor = c->items[0].block;
		s->position = s->cycle = s->resident = s->allowance = 0;
	} else if (s->item_of[s->anchor] != KVT_ITEM_NONE) {
		end_cycle(s);
	}
	c->quota = share(s, s->position + c->nr_items) - share(s, s->position);
	s->position += c->nr_items;
}

/* What is resident comes first, so @resident is known when streamed blocks are given back. */
bool kvt_share_keep(struct kvt_stream_call *c, const struct kvt_arrival *arrival)
{
	struct kvt_stream *s = c->stream;

	if (arrival->streamed) {
		if (!s->cycle || !s->allowance || c->resident >= c->quota)
			return false;
		c->resident++;
		s->allowance--;
	} else if (s->cycle && c->kept++ >= c->quota) {
		s->allowance++;
		return false;
	}
	s->resident++;
	return true;
}
