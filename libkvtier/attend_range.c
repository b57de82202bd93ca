// SPDX-License-Identifier: MIT
/* Which rows a query token attends to, by their positions. */
#include "attend.h"

/* The first row of the block at @position or after it. */
static uint32_t row_from(const struct kvt_seq_block *b, uint64_t position)
{
	uint64_t ahead, row;

	if (position <= b->position)
		return 0;
	ahead = position - b->position;
	if (!b->span || b->span == b->tokens)
		return ahead < b->tokens ? (uint32_t)ahead : b->tokens;
	if (ahead >= b->span)
		return b->tokens;
	row = (ahead * b->tokens + b->span - 1) / b->span; /* row * span / tokens >= ahead */
	return row < b->tokens ? (uint32_t)row : b->tokens;
}

struct kvt_range kvt_range_of(const struct kvt_attend_params *p, const struct kvt_seq_block *b,
			      uint64_t position)
{
	struct kvt_range r = { 0, 0, b->tokens };

	if (!(p->flags & KVT_CAUSAL))
		return r;
	r.high = row_from(b, position + 1);
	if (!p->window || position + 1 <= p->window)
		return r;
	r.low = row_from(b, position + 1 - p->window);
	r.sink = row_from(b, p->sinks);
	if (r.sink > r.high)
		r.sink = r.high;
	if (r.low < r.sink)
		r.low = r.sink;
	return r;
}
