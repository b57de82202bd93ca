// SPDX-License-Identifier: MIT
/* Range operations, clones, queries and budgets, as the module's ioctls. */
#include <errno.h>
#include <string.h>

#include "error.h"
#include "kernel.h"

int kvt_kernel_resize(struct kvt_pool *pool, uint64_t dram_bytes)
{
	struct kvtier_pool_budget arg = {
		.size = sizeof(arg),
		.tier = KVTIER_TIER_DRAM,
		.budget.bytes = dram_bytes,
	};
	int ret = kvt_kernel_call(kvt_kernel_of(pool)->fd, KVTIER_IOC_POOL_BUDGET, &arg);

	if (ret == -ENOSPC)
		return kvt_fail(ret,
				"the other tiers cannot take what has to leave DRAM, or the host "
				"has no more to give: the old budget stays");
	return ret ? kvt_fail(ret, "the budget of DRAM stays as it was: %s", strerror(-ret)) : 0;
}

/*
 * One ioctl's worth of ranges.  A signal ends the work at a range, whose result and
 * that of all after it is -EINTR: go on there.
 */
static int run_ranges(struct kvt_kernel *k, struct kvtier_range_op *arg,
		      struct kvtier_range *ranges, uint32_t nr)
{
	uint32_t at = 0, done = 0;
	int ret;

	while (at < nr) {
		arg->nr = nr - at;
		arg->ranges = (uintptr_t)(ranges + at);
		ret = kvt_kernel_call(k->fd, KVTIER_IOC_RANGE_OP, arg);
		if (ret)
			return ret;
		while (at < nr && ranges[at].result != -EINTR)
			done += !ranges[at++].result;
	}
	return (int)done;
}

static void fail_ranges(struct kvtier_range *ranges, uint32_t nr, int error)
{
	uint32_t i;

	for (i = 0; i < nr; i++)
		ranges[i].result = error;
}

int kvt_kernel_range_op(struct kvt_pool *pool, uint32_t op, uint32_t tier, uint32_t flags,
			struct kvtier_range *ranges, uint32_t nr)
{
	struct kvtier_range_op arg = { .size = sizeof(arg), .op = op, .flags = flags,
				       .tier = tier };
	uint32_t at, now;
	int ret, done = 0;

	for (at = 0; at < nr; at += now) {
		now = nr - at < KVTIER_ARRAY_MAX ? nr - at : KVTIER_ARRAY_MAX;
		ret = run_ranges(kvt_kernel_of(pool), &arg, ranges + at, now);
		if (ret < 0 && !at)
			return kvt_fail(ret, "the module refuses the operation: %s",
					strerror(-ret));
		if (ret < 0) {
			fail_ranges(ranges + at, nr - at, ret);
			break;
		}
		done += ret;
	}
	return done;
}

int kvt_kernel_clone_from(struct kvt_pool *dst, uint64_t dst_offset, int src_fd,
			  uint64_t src_offset, uint64_t length)
{
	struct kvtier_clone arg = {
		.size = sizeof(arg),
		.src_fd = src_fd,
		.src_offset = src_offset,
		.dst_offset = dst_offset,
		.length = length,
	};
	int ret, fd = kvt_kernel_of(dst)->fd;

	/* After a signal it must go on, not begin anew: the target is in use already. */
	while ((ret = kvt_kernel_try(fd, KVTIER_IOC_CLONE, &arg)) == -EINTR) {
		arg.src_offset += arg.done;
		arg.dst_offset += arg.done;
		arg.length -= arg.done;
		if (!arg.length)
			return 0;
	}
	return ret ? kvt_fail(ret, "the module refuses the clone: %s", kvt_strerror(ret)) : 0;
}

int kvt_kernel_clone(struct kvt_pool *dst, uint64_t dst_offset, struct kvt_pool *src,
		     uint64_t src_offset, uint64_t length)
{
	if (dst->block_shift != src->block_shift)
		return kvt_fail(-EXDEV, "a clone needs pools of one block size: %u KiB and %u KiB",
				dst->block_bytes >> 10, src->block_bytes >> 10);
	return kvt_kernel_clone_from(dst, dst_offset, kvt_kernel_of(src)->fd, src_offset, length);
}

int kvt_kernel_query(struct kvt_pool *pool, uint64_t first, uint32_t nr,
		     struct kvtier_block_info *infos)
{
	struct kvtier_query arg = {
		.size = sizeof(arg),
		.first_block = first,
		.infos = (uintptr_t)infos,
		.nr = nr,
	};

	return kvt_kernel_call(kvt_kernel_of(pool)->fd, KVTIER_IOC_QUERY, &arg);
}
