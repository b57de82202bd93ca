// SPDX-License-Identifier: MIT
#include "interval.h"

const struct kvt_stat_file *interval_before(const struct pools *before,
					    const struct kvt_stat_file *pool)
{
	size_t i;

	for (i = 0; before && i < before->nr; i++)
		if (before->pool[i].pid == pool->pid &&
		    before->pool[i].kernel_id == pool->kernel_id &&
		    before->pool[i].created_ns == pool->created_ns)
			return &before->pool[i];
	return NULL;
}

struct kvtier_stats interval_since(const struct kvt_stat_file *pool,
				   const struct kvt_stat_file *before)
{
	struct kvtier_stats s = pool->stats;
	const struct kvtier_stats *b;
	int t;

	if (!before)
		return s;
	b = &before->stats;
	s.faults -= b->faults;
	s.zero_faults -= b->zero_faults;
	s.soft_faults -= b->soft_faults;
	s.late_faults -= b->late_faults;
	s.hard_faults -= b->hard_faults;
	s.fault_wait_ns -= b->fault_wait_ns;
	s.transfer_ns = s.transfer_ns > b->transfer_ns ? s.transfer_ns - b->transfer_ns : 0;
	s.prefetched -= b->prefetched;
	s.prefetch_used -= b->prefetch_used;
	s.prefetch_wasted -= b->prefetch_wasted;
	for (t = 0; t < KVTIER_NR_TIERS; t++) {
		s.tier[t].bytes_in -= b->tier[t].bytes_in;
		s.tier[t].bytes_out -= b->tier[t].bytes_out;
		s.tier[t].read_ns -= b->tier[t].read_ns;
		s.tier[t].write_ns -= b->tier[t].write_ns;
	}
	return s;
}
