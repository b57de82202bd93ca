// SPDX-License-Identifier: GPL-2.0-only
/* Counters of a pool, as KVTIER_IOC_STATS and sysfs show them. */
#include <linux/ktime.h>

#include "kvtier.h"

void kvt_span_init(struct kvt_span *span)
{
	spin_lock_init(&span->lock);
}

void kvt_span_begin(struct kvt_span *span)
{
	unsigned long flags;

	spin_lock_irqsave(&span->lock, flags);
	if (!span->nr++)
		span->since = ktime_get_ns();
	spin_unlock_irqrestore(&span->lock, flags);
}

void kvt_span_end(struct kvt_span *span)
{
	unsigned long flags;

	spin_lock_irqsave(&span->lock, flags);
	if (!--span->nr)
		span->total += ktime_get_ns() - span->since;
	spin_unlock_irqrestore(&span->lock, flags);
}

u64 kvt_span_ns(struct kvt_span *span)
{
	unsigned long flags;
	u64 ns;

	spin_lock_irqsave(&span->lock, flags);
	ns = span->total + (span->nr ? ktime_get_ns() - span->since : 0);
	spin_unlock_irqrestore(&span->lock, flags);
	return ns;
}

static void tier_stats(struct kvt_pool *pool, enum kvtier_tier tier, struct kvtier_tier_stats *s)
{
	const struct kvt_share *share = &pool->share[tier];
	struct kvt_tier_counters *io = &pool->io[tier];
	u32 shift = pool->block_shift;

	s->budget_bytes = READ_ONCE(share->budget) << shift;
	s->used_bytes = max_t(s64, atomic64_read(&share->used) - READ_ONCE(share->nr_spare), 0)
			<< shift;
	s->peak_bytes = atomic64_read(&share->peak) << shift;
	s->bytes_in = atomic64_read(&io->bytes_in);
	s->bytes_out = atomic64_read(&io->bytes_out);
	s->io_errors = atomic64_read(&io->io_errors);
	s->read_ns = kvt_span_ns(&io->read);
	s->write_ns = kvt_span_ns(&io->write);
}

/* Under the lock a frame that a block has cannot go. */
static void count_chunk(struct kvt_pool *pool, const struct kvt_block *chunk, u64 nr, u64 *blocks)
{
	u64 i;

	spin_lock(&pool->lru_lock);
	for (i = 0; i < nr; i++) {
		if (test_bit(KVT_BLOCK_MOVING, &chunk[i].flags))
			blocks[KVTIER_BLOCK_MOVING]++;
		else
			blocks[kvt_block_state(&chunk[i])]++;
	}
	spin_unlock(&pool->lru_lock);
}

static void count_blocks(struct kvt_pool *pool, u64 *blocks)
{
	u64 first, nr;

	for (first = 0; first < pool->nr_blocks; first += KVT_CHUNK_BLOCKS) {
		const struct kvt_block *chunk = READ_ONCE(pool->chunks[first >> KVT_CHUNK_SHIFT]);

		nr = min_t(u64, KVT_CHUNK_BLOCKS, pool->nr_blocks - first);
		if (chunk)
			count_chunk(pool, chunk, nr, blocks);
		else
			blocks[KVTIER_BLOCK_EMPTY] += nr;
		if (!(first % 65536))
			cond_resched();
	}
}

void kvt_counters(struct kvt_pool *pool, struct kvtier_stats *stats)
{
	const atomic64_t *c = pool->counter;
	enum kvtier_tier tier;

	*stats = (struct kvtier_stats){ .size = sizeof(*stats) };
	stats->block_shift = pool->block_shift;
	stats->bytes = pool->bytes;
	stats->nr_blocks = pool->nr_blocks;
	stats->faults = atomic64_read(&c[KVT_FAULTS]);
	stats->soft_faults = atomic64_read(&c[KVT_SOFT_FAULTS]);
	stats->hard_faults = atomic64_read(&c[KVT_HARD_FAULTS]);
	stats->late_faults = atomic64_read(&c[KVT_LATE_FAULTS]);
	stats->zero_faults = atomic64_read(&c[KVT_ZERO_FAULTS]);
	stats->wp_faults = atomic64_read(&c[KVT_WP_FAULTS]);
	stats->fault_wait_ns = kvt_span_ns(&pool->fault_wait);
	stats->prefetched = atomic64_read(&c[KVT_PREFETCHED]);
	stats->prefetch_used = atomic64_read(&c[KVT_PREFETCH_USED]);
	stats->prefetch_wasted = atomic64_read(&c[KVT_PREFETCH_WASTED]);
	stats->promoted = atomic64_read(&c[KVT_PROMOTED]);
	stats->demoted = atomic64_read(&c[KVT_DEMOTED]);
	stats->written_blocks = atomic64_read(&c[KVT_WRITTEN]);
	stats->clean_drops = atomic64_read(&c[KVT_CLEAN_DROPS]);
	stats->crc_errors = atomic64_read(&c[KVT_CRC_ERRORS]);
	stats->bad_blocks = atomic64_read(&c[KVT_BAD_BLOCKS]);
	stats->enospc = atomic64_read(&c[KVT_ENOSPC]);
	stats->transfer_ns = kvt_span_ns(&pool->io[KVTIER_TIER_NVME].read);
	for (tier = KVTIER_TIER_DRAM; tier < KVTIER_NR_TIERS; tier++)
		tier_stats(pool, tier, &stats->tier[tier]);
}

void kvt_stats(struct kvt_pool *pool, struct kvtier_stats *stats)
{
	kvt_counters(pool, stats);
	count_blocks(pool, stats->blocks);
}
