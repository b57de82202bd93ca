// SPDX-License-Identifier: MIT
/*
 * Keep blocks in memory while the library itself reads or writes them.
 *
 * A touch of a lost block is SIGBUS, so none is touched before the pager has said
 * that it is there.  Where memory is too small to pin one block more, promotion
 * says so too; only a block that leaves memory and is lost in between would not be
 * noticed then.
 */
#include <errno.h>

#include "error.h"
#include "sequence.h"

static int explain(int error)
{
	switch (error) {
	case -ETIMEDOUT:
		return kvt_fail(error, "a block of the sequence did not come into memory in time: "
				       "the NVMe tier stalls, or has no room for what must leave");
	case -EIO:
		return kvt_fail(error, "a block of the sequence is lost (%s): drop the sequence "
				       "or truncate it before the block", kvt_strerror(error));
	default:
		return kvt_fail(error, "a block of the sequence cannot be brought into memory: %s",
				kvt_strerror(error));
	}
}

static void fill(const struct kvt_hold *h, struct kvtier_range *ranges)
{
	uint64_t bytes = kvt_pool_block_bytes(h->cache->pool);
	uint32_t i;

	for (i = 0; i < h->nr; i++)
		ranges[i] =
			(struct kvtier_range){ .offset = h->blocks[i] * bytes, .length = bytes };
}

static int settle(struct kvt_hold *h, uint32_t i, const struct kvtier_range *range)
{
	h->pinned[i] = !range->result;
	if (range->result == -ENOSPC)
		return kvt_promote(h->cache->pool, range->offset, range->length);
	return range->result;
}

int kvt_hold(struct kvt_hold *h, struct kvt_cache *c, const uint32_t *blocks, uint32_t nr)
{
	struct kvtier_range ranges[KVT_HOLD_MAX];
	uint32_t i;
	int ret, one;

	h->cache = c;
	h->blocks = blocks;
	h->nr = nr;
	fill(h, ranges);
	ret = kvt_range_op(c->pool, KVTIER_OP_PIN, KVTIER_TIER_NONE, 0, ranges, nr);
	if (ret < 0) {
		h->nr = 0;
		return ret;
	}
	for (ret = 0, i = 0; i < nr; i++) {
		one = settle(h, i, &ranges[i]);
		if (one && !ret)
			ret = explain(one);
	}
	if (ret)
		kvt_unhold(h);
	return ret;
}

void kvt_unhold(struct kvt_hold *h)
{
	struct kvtier_range ranges[KVT_HOLD_MAX], pinned[KVT_HOLD_MAX];
	uint32_t i, nr = 0;

	fill(h, ranges);
	for (i = 0; i < h->nr; i++)
		if (h->pinned[i])
			pinned[nr++] = ranges[i];
	if (nr)
		kvt_range_op(h->cache->pool, KVTIER_OP_UNPIN, KVTIER_TIER_NONE, 0, pinned, nr);
	h->nr = 0;
}
