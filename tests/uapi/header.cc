// SPDX-License-Identifier: MIT
/* The header as C++ sees it: included first, twice, and every struct usable. */
#include <linux/kvtier.h>
#include <linux/kvtier.h>

template <typename T, unsigned bytes> struct is_bytes {
	static_assert(sizeof(T) == bytes, "another size than in C");
	T value;
};

struct every {
	is_bytes<kvtier_info, 88> info;
	is_bytes<kvtier_tier_budget, 16> tier_budget;
	is_bytes<kvtier_pool_create, 128> pool_create;
	is_bytes<kvtier_pool_budget, 24> pool_budget;
	is_bytes<kvtier_range, 24> range;
	is_bytes<kvtier_range_op, 32> range_op;
	is_bytes<kvtier_uring_cmd, 16> uring_cmd;
	is_bytes<kvtier_clone, 48> clone;
	is_bytes<kvtier_block_info, 32> block_info;
	is_bytes<kvtier_query, 32> query;
	is_bytes<kvtier_tier_stats, 64> tier_stats;
	is_bytes<kvtier_stats, 488> stats;
	is_bytes<kvtier_event, 48> event;
	is_bytes<kvtier_slot, 32> slot;
	is_bytes<kvtier_checkpoint, 72> checkpoint;
	is_bytes<kvtier_adopt, 56> adopt;
	is_bytes<kvtier_release, 24> release;
};

unsigned long size_of_every();

unsigned long size_of_every()
{
	every all = every();

	all.range_op.value.op = KVTIER_OP_PROMOTE;
	all.range_op.value.flags = KVTIER_OP_NOWAIT;
	all.block_info.value.slot = KVTIER_NO_SLOT;
	return sizeof(all) + KVTIER_IOC_RANGE_OP;
}
