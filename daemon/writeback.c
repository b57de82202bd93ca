// SPDX-License-Identifier: MIT
/*
 * Write sealed blocks early, so that leaving memory is free; and let idle pools leave.
 *
 * A block earns its write: it was used again after it was sealed, or it is about to be
 * evicted because memory is short or its pool is idle.  What does neither may be
 * discarded before it ever costs the device a write.  All this is bounded by a rate.
 */
#include <errno.h>

#include "kvtierd.h"

#define BURST_NS (100 * NS_PER_MS)
#define SOON_NS (10 * NS_PER_MS)
#define LATER_NS (250 * NS_PER_MS)
#define LOOK_MAX 64u
#define DRAWS 16u

void writeback_queue(struct pool *p, uint32_t b)
{
	struct block *blk = block_of(p, b);

	if (blk->flags & B_QUEUED || p->queue_nr == p->nr_blocks)
		return;
	blk->flags |= B_QUEUED;
	p->queue[(p->queue_first + p->queue_nr++) % p->nr_blocks] = b;
	writeback_kick(p->d);
}

void writeback_kick(struct kvtierd *d)
{
	timer_within(d, &d->writeback, SOON_NS);
}

/* ---- the rate ---------------------------------------------------------------------------- */

static void earn_credit(struct kvtierd *d)
{
	uint64_t span = d->turn_ns - d->write_credit_ns;
	uint64_t most = d->config.write_rate / 10 + KVT_BLOCK_MAX;

	if (span > BURST_NS)
		span = BURST_NS;
	d->write_credit += d->config.write_rate / 1000 * (span / 1000) / 1000;
	if (d->write_credit > most)
		d->write_credit = most;
	d->write_credit_ns = d->turn_ns;
}

bool writeback_spend(struct kvtierd *d, uint64_t bytes)
{
	if (!d->config.write_rate)
		return true; /* no bound */
	if (d->write_credit < bytes)
		return false;
	d->write_credit -= bytes;
	return true;
}

/* ---- what earns a write ------------------------------------------------------------------ */

static bool nearly(uint64_t used, uint64_t limit)
{
	return limit && used >= limit - limit / 8;
}

static bool memory_is_short(const struct pool *p)
{
	const struct kvtierd *d = p->d;
	uint64_t mine = (uint64_t)p->nr_frames << p->shift;

	return (p->t->budget[KVTIER_TIER_DRAM] < p->t->bytes &&
		nearly(mine, p->t->budget[KVTIER_TIER_DRAM])) ||
	       nearly(p->tenant->used[KVTIER_TIER_DRAM], p->tenant->quota[KVTIER_TIER_DRAM]) ||
	       nearly(d->used[KVTIER_TIER_DRAM], d->config.limit[KVTIER_TIER_DRAM]);
}

static bool earns_write(const struct pool *p, const struct block *blk)
{
	return !p->d->config.wear_filter || blk->flags & B_REUSED || p->idle || memory_is_short(p);
}

/* Write from the front of a pool's queue; false: the rate's bound is reached. */
static bool write_some(struct pool *p, bool *any)
{
	uint32_t look = p->queue_nr < LOOK_MAX ? p->queue_nr : LOOK_MAX;

	while (look--) {
		uint32_t b = p->queue[p->queue_first];
		struct block *blk = block_of(p, b);
		bool wanted = blk->where == W_RESIDENT && blk->flags & B_SEALED &&
			      blk->flags & B_DIRTY;
		bool earned = wanted && earns_write(p, blk);

		if (earned && !writeback_spend(p->d, p->block_bytes))
			return false;
		p->queue_first = (p->queue_first + 1) % p->nr_blocks;
		p->queue_nr--;
		blk->flags &= (uint16_t)~B_QUEUED;
		if (earned && !file_write(p, b, 0)) {
			p->d->count.writeback_blocks++;
			*any = true;
			continue;
		}
		p->d->count.writeback_spared += wanted && !earned;
		if (wanted && !(blk->flags & B_QUEUED)) {
			blk->flags |= B_QUEUED;
			p->queue[(p->queue_first + p->queue_nr++) % p->nr_blocks] = b;
		}
		if (earned)
			break; /* the device has enough for now */
	}
	return true;
}

/* ---- idle pools -------------------------------------------------------------------------- */

static bool above(const struct kvtierd *d, uint64_t used, uint64_t limit)
{
	return limit && used >= limit / 100 * d->config.drain_above;
}

static bool should_drain(const struct pool *p)
{
	const struct kvtierd *d = p->d;

	if (!p->idle || p->removed || (p->module ? device_drained(p) : !p->nr_frames))
		return false;
	/* Touches of a pool of the module are not seen here. */
	if (p->module && p->clients && !p->told_idle)
		return false;
	return !d->config.drain_above ||
	       above(d, p->tenant->used[KVTIER_TIER_DRAM], p->tenant->quota[KVTIER_TIER_DRAM]) ||
	       above(d, d->used[KVTIER_TIER_DRAM], d->config.limit[KVTIER_TIER_DRAM]);
}

/* The coldest of a few. */
static uint32_t coldest(struct pool *p)
{
	uint32_t i, best = NO_BLOCK, draws = p->nr_frames < DRAWS ? p->nr_frames : DRAWS;

	for (i = 0; i < draws; i++) {
		uint32_t b;

		p->random = p->random * 6364136223846793005ull + 1442695040888963407ull;
		b = p->frames[(p->random >> 33) % p->nr_frames];
		if (block_of(p, b)->where != W_RESIDENT || block_of(p, b)->pins ||
		    block_of(p, b)->busy || wanted_of(p, b))
			continue;
		if (best == NO_BLOCK || block_of(p, b)->heat < block_of(p, best)->heat)
			best = b;
	}
	return best;
}

/* False: the rate's bound is reached. */
static bool drain(struct pool *p, bool *any)
{
	uint32_t most = LOOK_MAX;

	while (most-- && should_drain(p)) {
		uint32_t b = coldest(p);
		bool dirty = b != NO_BLOCK && block_of(p, b)->flags & B_DIRTY;

		if (b == NO_BLOCK)
			return true;
		if (dirty && !writeback_spend(p->d, p->block_bytes))
			return false;
		if (file_evict(p, b))
			return true;
		p->d->count.drained_blocks++;
		*any = true;
	}
	return true;
}

/* False: the rate's bound is reached. */
static bool serve(struct pool *p, bool *any, bool *more)
{
	bool left = true;

	if (p->removed)
		return true;
	if (p->queue_nr)
		left = write_some(p, any);
	if (left && should_drain(p))
		left = p->module ? device_drain(p, any) : drain(p, any);
	*more |= p->queue_nr || should_drain(p);
	return left;
}

/* Pools in turn: who has much to write does not keep the others from it. */
void writeback_run(struct kvtierd *d)
{
	struct pool *first = d->write_next ? pool_by_id(d, d->write_next) : NULL, *p;
	bool any = false, more = false, left = true;
	uint32_t nr;

	earn_credit(d);
	p = first ? first : d->pools;
	for (nr = d->nr_pools; nr && left; nr--) {
		left = serve(p, &any, &more);
		p = p->next ? p->next : d->pools;
	}
	d->write_next = !left && p ? p->id : 0;
	if (more || !left)
		timer_within(d, &d->writeback, any || !left ? SOON_NS : LATER_NS);
}
