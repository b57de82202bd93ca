// SPDX-License-Identifier: MIT
/* The public pool API: arguments are checked here, once, for every pager. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "kernel.h"

#define MIB (1ULL << 20)

/* Frames a pool needs to move at all: one faulting, one coming, one leaving, one spare. */
#define FRAMES_MIN 4

/*
 * Measured (Documentation/design.rst, "Block size"): larger blocks cost fewer
 * faults and moves a byte, but a budget of few blocks has no room to read ahead.
 */
#define FRAMES_WANTED 128

size_t kvt_block_bytes_for(uint64_t pool_bytes, uint64_t dram_bytes)
{
	uint64_t memory = dram_bytes && dram_bytes < pool_bytes ? dram_bytes : pool_bytes;
	size_t block = KVT_BLOCK_MAX;

	while (block > KVT_BLOCK_MIN && memory / block < FRAMES_WANTED)
		block >>= 1;
	return block;
}

uint64_t kvt_dram_bytes_min(size_t block_bytes)
{
	return FRAMES_MIN * (uint64_t)block_bytes;
}

static int check_block_bytes(uint64_t block)
{
	if (block >= KVT_BLOCK_MIN && block <= KVT_BLOCK_MAX && !(block & (block - 1)))
		return 0;
	return kvt_fail(-EINVAL, "block size %llu is not a power of two from %lu to %lu bytes",
			(unsigned long long)block, KVT_BLOCK_MIN, KVT_BLOCK_MAX);
}

static int check_budgets(const struct kvt_config *c)
{
	uint64_t least = kvt_dram_bytes_min(c->block_bytes);
	uint64_t memory = c->dram_bytes + c->cxl_bytes;

	if (least > c->bytes)
		least = c->bytes;
	if (c->dram_bytes < least)
		return kvt_fail(-EINVAL,
				"a DRAM budget of %llu KiB is too small: blocks of %llu KiB "
				"need at least %llu KiB",
				(unsigned long long)c->dram_bytes >> 10,
				(unsigned long long)c->block_bytes >> 10,
				(unsigned long long)least >> 10);
	if (memory < c->bytes && !c->nvme_bytes)
		return kvt_fail(-ENOSPC, "the pool has %llu MiB, its memory budgets only %llu MiB: "
					 "raise them or add an NVMe tier",
				(unsigned long long)(c->bytes / MIB),
				(unsigned long long)(memory / MIB));
	if (memory < c->bytes && c->nvme_bytes < c->bytes - memory + least)
		return kvt_fail(-ENOSPC,
				"the pool has %llu MiB; %llu MiB of memory and %llu MiB of "
				"NVMe cannot hold it: give NVMe at least %llu MiB",
				(unsigned long long)(c->bytes / MIB),
				(unsigned long long)(memory / MIB),
				(unsigned long long)(c->nvme_bytes / MIB),
				(unsigned long long)((c->bytes - memory + least + MIB - 1) / MIB));
	return 0;
}

/*
 * A path asks for the user pager's NVMe tier, the path or bytes for the kernel's,
 * which has stores.
 */
static void complete_nvme(struct kvt_config *c, const struct kvt_pager_ops *ops)
{
	if (c->nvme_path && !c->nvme_bytes)
		c->nvme_bytes = c->bytes;
	c->nvme_bytes &= ~(c->block_bytes - 1);
	if (!c->nvme_path && ops == &kvt_pager_user)
		c->nvme_bytes = 0;
}

/* Fill in what the caller left to us; sizes become whole blocks. */
static int complete(struct kvt_config *c, const struct kvt_pager_ops *ops)
{
	int ret;

	if (!c->bytes)
		return kvt_fail(-EINVAL, "a pool of 0 bytes");
	if (!c->block_bytes)
		c->block_bytes = kvt_block_bytes_for(c->bytes, c->dram_bytes);
	ret = check_block_bytes(c->block_bytes);
	if (ret)
		return ret;
	if (c->bytes > UINT64_MAX / 4 || c->bytes / c->block_bytes >= UINT32_MAX)
		return kvt_fail(-EINVAL, "a pool of %llu MiB is too large for blocks of %llu KiB",
				(unsigned long long)(c->bytes / MIB),
				(unsigned long long)c->block_bytes >> 10);
	c->bytes = (c->bytes + c->block_bytes - 1) & ~(c->block_bytes - 1);
	if (!c->dram_bytes || c->dram_bytes > c->bytes)
		c->dram_bytes = c->bytes;
	c->dram_bytes &= ~(c->block_bytes - 1);
	if (c->cxl_node < 0)
		c->cxl_bytes = 0;
	if (c->cxl_bytes > c->bytes)
		c->cxl_bytes = c->bytes;
	c->cxl_bytes &= ~(c->block_bytes - 1);
	complete_nvme(c, ops);
	if (ops == &kvt_pager_user && c->nvme_bytes / c->block_bytes >= UINT32_MAX)
		return kvt_fail(-EINVAL, "%llu MiB of NVMe are too many for blocks of %llu KiB",
				(unsigned long long)(c->nvme_bytes / MIB),
				(unsigned long long)c->block_bytes >> 10);
	if (!c->io_deadline_ms)
		c->io_deadline_ms = 30000;
	return check_budgets(c);
}

static const struct kvt_pager_ops *choose_pager(const struct kvt_config *c)
{
	if (c->pager == KVT_PAGER_KERNEL)
		return &kvt_pager_kernel;
	if (c->pager == KVT_PAGER_AUTO && kvt_kernel_serves(c))
		return &kvt_pager_kernel;
	return &kvt_pager_user;
}

int kvt_pool_create(const struct kvt_config *config, struct kvt_pool **pool)
{
	struct kvt_config c = KVT_CONFIG_INIT;
	const struct kvt_pager_ops *ops;
	int ret;

	*pool = NULL;
	if (config->size < offsetof(struct kvt_config, bytes) || config->size > sizeof(c))
		return kvt_fail(-EINVAL, "kvt_config.size is %u; this library knows %zu: "
					 "start from KVT_CONFIG_INIT", config->size, sizeof(c));
	memcpy(&c, config, config->size);
	if (c.flags & ~(KVT_NO_PREDICT | KVT_KEEP_FILE | KVT_NO_STATS_FILE))
		return kvt_fail(-EINVAL, "unknown flags %#x in kvt_config", c.flags);
	if ((unsigned int)c.pager > KVT_PAGER_KERNEL)
		return kvt_fail(-EINVAL, "there is no pager %d", (int)c.pager);
	ops = choose_pager(&c);
	ret = complete(&c, ops);
	if (ret)
		return ret;
	ret = ops->create(&c, pool);
	if (ret)
		return ret;
	(*pool)->ops = ops;
	return 0;
}

void kvt_pool_destroy(struct kvt_pool *pool)
{
	if (pool)
		pool->ops->destroy(pool);
}

void *kvt_pool_addr(const struct kvt_pool *pool)
{
	return pool->addr;
}

size_t kvt_pool_bytes(const struct kvt_pool *pool)
{
	return pool->bytes;
}

size_t kvt_pool_block_bytes(const struct kvt_pool *pool)
{
	return pool->block_bytes;
}

const char *kvt_pool_pager(const struct kvt_pool *pool)
{
	return pool->ops->name;
}

static int check_owner(const struct kvt_pool *pool)
{
	if (pool->pid == getpid())
		return 0;
	return kvt_fail(-ECHILD, "the pool belongs to process %d, which forked this one",
			pool->pid);
}

static int check_range(const struct kvt_pool *pool, uint64_t offset, uint64_t length)
{
	uint64_t mask = pool->block_bytes - 1;

	if ((offset | length) & mask)
		return kvt_fail(
			-EINVAL, "offset %llu, length %llu: not multiples of the block size %u",
			(unsigned long long)offset, (unsigned long long)length, pool->block_bytes);
	if (!length || offset >= pool->bytes || length > pool->bytes - offset)
		return kvt_fail(-EINVAL, "offset %llu, length %llu: outside the pool of %llu bytes",
				(unsigned long long)offset, (unsigned long long)length,
				(unsigned long long)pool->bytes);
	return 0;
}

int kvt_pool_resize(struct kvt_pool *pool, uint64_t dram_bytes)
{
	uint64_t least = kvt_dram_bytes_min(pool->block_bytes);
	int ret = check_owner(pool);

	if (ret)
		return ret;
	dram_bytes &= ~((uint64_t)pool->block_bytes - 1);
	if (dram_bytes > pool->bytes)
		dram_bytes = pool->bytes;
	if (least > pool->bytes)
		least = pool->bytes;
	if (dram_bytes < least)
		return kvt_fail(-EINVAL, "a DRAM budget of %llu KiB is too small: blocks of %u KiB "
					 "need at least %llu KiB",
				(unsigned long long)dram_bytes >> 10, pool->block_bytes >> 10,
				(unsigned long long)least >> 10);
	return pool->ops->resize(pool, dram_bytes);
}

static int check_op(uint32_t op, uint32_t tier, uint32_t flags)
{
	if (op < KVTIER_OP_PROMOTE || op > KVTIER_OP_COLD)
		return kvt_fail(-EINVAL, "unknown range operation %u", op);
	if (flags & ~(uint32_t)KVTIER_OP_NOWAIT)
		return kvt_fail(-EINVAL, "unknown flags %#x in a range operation", flags);
	if (tier >= KVTIER_NR_TIERS)
		return kvt_fail(-EINVAL, "there is no tier %u", tier);
	if (tier != KVTIER_TIER_NONE && op != KVTIER_OP_PROMOTE && op != KVTIER_OP_DEMOTE)
		return kvt_fail(-EINVAL, "only promote and demote take a tier");
	if ((op == KVTIER_OP_PROMOTE && tier == KVTIER_TIER_NVME) ||
	    (op == KVTIER_OP_DEMOTE && tier == KVTIER_TIER_DRAM))
		return kvt_fail(-EINVAL, "promote goes to DRAM or CXL, demote to CXL or NVMe");
	return 0;
}

int kvt_range_op(struct kvt_pool *pool, uint32_t op, uint32_t tier, uint32_t flags,
		 struct kvtier_range *ranges, uint32_t nr)
{
	uint32_t i;
	int ret = check_owner(pool);

	if (!ret)
		ret = check_op(op, tier, flags);
	for (i = 0; !ret && i < nr; i++) {
		ranges[i].result = 0;
		if (ranges[i].__reserved)
			ret = kvt_fail(-EINVAL, "range %u: reserved field is not zero", i);
		else
			ret = check_range(pool, ranges[i].offset, ranges[i].length);
	}
	if (ret || !nr)
		return ret;
	return pool->ops->range_op(pool, op, tier, flags, ranges, nr);
}

static int one_range(struct kvt_pool *pool, uint32_t op, uint64_t offset, uint64_t length)
{
	struct kvtier_range range = { .offset = offset, .length = length };
	int ret = kvt_range_op(pool, op, KVTIER_TIER_NONE, 0, &range, 1);

	return ret < 0 ? ret : range.result;
}

int kvt_promote(struct kvt_pool *pool, uint64_t offset, uint64_t length)
{
	return one_range(pool, KVTIER_OP_PROMOTE, offset, length);
}

int kvt_demote(struct kvt_pool *pool, uint64_t offset, uint64_t length)
{
	return one_range(pool, KVTIER_OP_DEMOTE, offset, length);
}

int kvt_writeback(struct kvt_pool *pool, uint64_t offset, uint64_t length)
{
	return one_range(pool, KVTIER_OP_WRITEBACK, offset, length);
}

int kvt_seal(struct kvt_pool *pool, uint64_t offset, uint64_t length)
{
	return one_range(pool, KVTIER_OP_SEAL, offset, length);
}

int kvt_discard(struct kvt_pool *pool, uint64_t offset, uint64_t length)
{
	return one_range(pool, KVTIER_OP_DISCARD, offset, length);
}

int kvt_pin(struct kvt_pool *pool, uint64_t offset, uint64_t length)
{
	return one_range(pool, KVTIER_OP_PIN, offset, length);
}

int kvt_unpin(struct kvt_pool *pool, uint64_t offset, uint64_t length)
{
	return one_range(pool, KVTIER_OP_UNPIN, offset, length);
}

int kvt_cold(struct kvt_pool *pool, uint64_t offset, uint64_t length)
{
	return one_range(pool, KVTIER_OP_COLD, offset, length);
}

int kvt_clone(struct kvt_pool *dst, uint64_t dst_offset, struct kvt_pool *src,
	      uint64_t src_offset, uint64_t length)
{
	int ret = check_owner(dst);

	if (!ret)
		ret = check_owner(src);
	if (!ret)
		ret = check_range(dst, dst_offset, length);
	if (!ret)
		ret = check_range(src, src_offset, length);
	if (ret)
		return ret;
	if (dst == src && dst_offset < src_offset + length && src_offset < dst_offset + length)
		return kvt_fail(-EINVAL, "source and target of a clone overlap");
	if (dst->ops != src->ops)
		return kvt_fail(-EXDEV, "the pools are of two pagers: they cannot share blocks");
	return dst->ops->clone(dst, dst_offset, src, src_offset, length);
}

int kvt_query(struct kvt_pool *pool, uint64_t first, uint32_t nr, struct kvtier_block_info *infos)
{
	uint64_t blocks = pool->bytes >> pool->block_shift;
	int ret = check_owner(pool);

	if (ret)
		return ret;
	if (first > blocks || nr > blocks - first)
		return kvt_fail(-EINVAL, "blocks %llu+%u: the pool has %llu",
				(unsigned long long)first, nr, (unsigned long long)blocks);
	return nr ? pool->ops->query(pool, first, nr, infos) : 0;
}

int kvt_stats(struct kvt_pool *pool, struct kvtier_stats *stats)
{
	int ret = check_owner(pool);

	return ret ? ret : pool->ops->stats(pool, stats);
}

int kvt_event_fd(struct kvt_pool *pool)
{
	return pool->ops->event_fd(pool);
}

int kvt_event_read(struct kvt_pool *pool, struct kvtier_event *events, uint32_t nr)
{
	int ret = check_owner(pool);

	return ret ? ret : pool->ops->event_read(pool, events, nr);
}

int kvt_checkpoint(struct kvt_pool *pool, uint64_t offset, uint64_t length,
		   struct kvtier_slot *slots)
{
	int ret = check_owner(pool);

	if (!ret)
		ret = check_range(pool, offset, length);
	return ret ? ret : pool->ops->checkpoint(pool, offset, length, slots);
}

int kvt_adopt(struct kvt_pool *pool, const struct kvtier_slot *slots, uint32_t nr)
{
	int ret = check_owner(pool);

	return ret ? ret : pool->ops->adopt(pool, slots, nr);
}

int kvt_pool_key(struct kvt_pool *pool, struct kvt_key *key)
{
	int ret = check_owner(pool);

	memset(key, 0, sizeof(*key));
	if (ret || !pool->ops->key)
		return ret;
	return pool->ops->key(pool, key);
}

int kvt_pool_set_key(struct kvt_pool *pool, const struct kvt_key *key)
{
	int ret = check_owner(pool);

	if (ret || !pool->ops->set_key)
		return ret;
	return pool->ops->set_key(pool, key);
}

int kvt_release(struct kvt_pool *pool, const struct kvt_key *key)
{
	int ret = check_owner(pool);

	if (ret || !pool->ops->release)
		return ret;
	return pool->ops->release(pool, key);
}
