// SPDX-License-Identifier: MIT
/*
 * Slots of a shared pool, as a manifest of sequences wants them.
 *
 * Where a block lies is the daemon's matter, and content comes back with the pool, each
 * block in its place (kvt_shared_checkpoint(), kvt_shared_attach()).  So a block's slot
 * is its own number here, and adopting it is to find it there as it was.
 */
#include <errno.h>
#include <stdlib.h>

#include "client.h"
#include "error.h"

#define QUERY_MAX 1024u

static bool is_sealed(const struct kvtier_block_info *i)
{
	return i->state == KVTIER_BLOCK_SEALED || i->state == KVTIER_BLOCK_CLEAN ||
	       i->state == KVTIER_BLOCK_COLD;
}

/* What identifies the blocks from @first on. */
static int describe(struct kvt_pool *pool, uint64_t first, uint32_t nr, struct kvtier_slot *slots)
{
	struct kvtier_block_info *infos = calloc(nr, sizeof(*infos));
	uint32_t i;
	int ret = infos ? kvt_query(pool, first, nr, infos) : -ENOMEM;

	for (i = 0; !ret && i < nr; i++) {
		if (!is_sealed(&infos[i]))
			ret = kvt_fail(-EBUSY, "block %llu is not sealed",
				       (unsigned long long)(first + i));
		slots[i] = (struct kvtier_slot){ .block = first + i, .slot = first + i,
						 .generation = infos[i].generation };
	}
	free(infos);
	return ret;
}

int kvt_shared_slots(struct kvt_pool *pool, uint64_t offset, uint64_t length,
		     struct kvtier_slot *slots)
{
	uint64_t first = offset / pool->block_bytes, nr = length / pool->block_bytes, at;
	uint32_t part;
	int ret = kvt_writeback(pool, offset, length);

	for (at = 0; !ret && at < nr; at += part) {
		part = nr - at < QUERY_MAX ? (uint32_t)(nr - at) : QUERY_MAX;
		ret = describe(pool, first + at, part, slots + at);
	}
	return ret ? ret : (int)nr;
}

static int find(struct kvt_pool *pool, const struct kvtier_slot *slot)
{
	struct kvtier_block_info info;
	int ret;

	if (slot->slot != slot->block)
		return kvt_fail(-EINVAL,
				"block %llu was block %llu: sequences of a shared pool come "
				"back into a cache that takes blocks in the same order",
				(unsigned long long)slot->block, (unsigned long long)slot->slot);
	if (slot->block >= pool->bytes / pool->block_bytes)
		return kvt_fail(-EINVAL, "block %llu: the pool is smaller",
				(unsigned long long)slot->block);
	ret = kvt_query(pool, slot->block, 1, &info);
	if (ret)
		return ret;
	if (!is_sealed(&info) || info.generation != slot->generation)
		return kvt_fail(-EINVAL,
				"block %llu is not what was saved: the pool was written to or "
				"is of another checkpoint",
				(unsigned long long)slot->block);
	return 0;
}

int kvt_shared_find(struct kvt_pool *pool, const struct kvtier_slot *slots, uint32_t nr)
{
	uint32_t i;
	int ret = 0;

	for (i = 0; !ret && i < nr; i++)
		ret = find(pool, &slots[i]);
	return ret;
}
