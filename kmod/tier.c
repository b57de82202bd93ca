// SPDX-License-Identifier: GPL-2.0-only
/*
 * The memory tiers of the host: nodes with CPUs are DRAM, nodes without are CXL.
 * Nodes come and go; an administrator may take one out of a tier, which moves what
 * pools have there.
 *
 * The frames of pools are not movable by the core, so memory that holds one cannot
 * be taken offline (EBUSY) until its node was taken out of its tier.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/math64.h>
#include <linux/memory.h>
#include <linux/node.h>
#include <linux/nodemask.h>

#include "kvtier.h"

struct kvt_tier kvt_tiers[KVTIER_NR_TIERS] = {
	[KVTIER_TIER_NONE] = { .name = "none" },
	[KVTIER_TIER_DRAM] = { .name = "dram" },
	[KVTIER_TIER_CXL] = { .name = "cxl" },
	[KVTIER_TIER_NVME] = { .name = "nvme" },
};
DEFINE_MUTEX(kvt_tier_lock);
static DEFINE_MUTEX(nodes_lock); /* changes of nodes, one at a time; held while blocks leave one */

static nodemask_t excluded; /* taken out by the administrator; kvt_tier_lock */
static nodemask_t told; /* said once that it is of no use; kvt_tier_lock */

/*
 * Frames cannot live in ZONE_MOVABLE: a long-term pin of one would make the kernel try
 * for ever to move it.
 */
static bool has_fixed_memory(int node)
{
	enum zone_type zone;

	for (zone = 0; zone < ZONE_MOVABLE; zone++) {
		if (populated_zone(&NODE_DATA(node)->node_zones[zone]))
			return true;
	}
	return false;
}

static bool usable(int node)
{
	lockdep_assert_held(&kvt_tier_lock);
	if (node_isset(node, excluded) || !node_state(node, N_MEMORY))
		return false;
	if (has_fixed_memory(node))
		return true;
	if (!node_isset(node, told))
		pr_warn("node %d has movable memory only and is not used: online it with memhp_default_state=online_kernel\n",
			node);
	node_set(node, told);
	return false;
}

static void find_nodes(void)
{
	nodemask_t dram = NODE_MASK_NONE, cxl = NODE_MASK_NONE;
	int node;

	lockdep_assert_held(&kvt_tier_lock);
	for_each_online_node(node) {
		if (!usable(node))
			continue;
		if (node_state(node, N_CPU))
			node_set(node, dram);
		else
			node_set(node, cxl);
	}
	kvt_tiers[KVTIER_TIER_DRAM].nodes = dram;
	kvt_tiers[KVTIER_TIER_CXL].nodes = cxl;
}

u64 kvt_tier_capacity(enum kvtier_tier tier)
{
	u64 pages = 0;
	int node;

	for_each_node_mask(node, kvt_tiers[tier].nodes)
		pages += node_present_pages(node);
	return pages << PAGE_SHIFT;
}

/* What pools may claim in all until an administrator says otherwise. */
static u64 default_limit(enum kvtier_tier tier)
{
	u64 capacity = kvt_tier_capacity(tier);

	return tier == KVTIER_TIER_DRAM ? capacity / 4 * 3 : capacity;
}

u64 kvt_tier_limit(enum kvtier_tier tier)
{
	u64 limit = READ_ONCE(kvt_tiers[tier].limit);

	return limit ? limit : default_limit(tier);
}

int kvt_tier_claim(enum kvtier_tier tier, u64 bytes)
{
	struct kvt_tier *t = &kvt_tiers[tier];
	u64 limit;
	int ret = 0;

	kvt_linger_reap_orphans();
	mutex_lock(&kvt_tier_lock);
	limit = kvt_tier_limit(tier);
	if (bytes && (t->claimed > limit || bytes > limit - t->claimed))
		ret = -ENOSPC;
	else
		t->claimed += bytes;
	mutex_unlock(&kvt_tier_lock);
	return ret;
}

void kvt_tier_unclaim(enum kvtier_tier tier, u64 bytes)
{
	mutex_lock(&kvt_tier_lock);
	kvt_tiers[tier].claimed -= bytes;
	mutex_unlock(&kvt_tier_lock);
}

void kvt_tier_orphan(enum kvtier_tier tier, u64 bytes, u64 left)
{
	mutex_lock(&kvt_tier_lock);
	kvt_tiers[tier].claimed -= bytes - left;
	kvt_tiers[tier].orphaned += left;
	mutex_unlock(&kvt_tier_lock);
}

void kvt_tier_disown(enum kvtier_tier tier, u64 bytes)
{
	mutex_lock(&kvt_tier_lock);
	kvt_tiers[tier].claimed -= bytes;
	kvt_tiers[tier].orphaned -= bytes;
	mutex_unlock(&kvt_tier_lock);
}

u64 kvt_tier_free(enum kvtier_tier tier)
{
	u64 limit, claimed;

	mutex_lock(&kvt_tier_lock);
	limit = kvt_tier_limit(tier);
	claimed = kvt_tiers[tier].claimed;
	mutex_unlock(&kvt_tier_lock);
	return limit > claimed ? limit - claimed : 0;
}

u64 kvt_tier_node_bits(enum kvtier_tier tier)
{
	u64 bits = 0;
	int node;

	for_each_node_mask(node, kvt_tiers[tier].nodes) {
		if (node < 64)
			bits |= 1ULL << node;
	}
	return bits;
}

int kvt_tier_check_nodes(enum kvtier_tier tier, u64 nodes)
{
	u64 have = kvt_tier_node_bits(tier);

	if (nodes_empty(kvt_tiers[tier].nodes) || nodes & ~have)
		return -ENODEV;
	return 0;
}

/* A moving average; two copies at a time may lose one of their samples. */
void kvt_tier_measure(enum kvtier_tier tier, u64 bytes, u64 ns)
{
	struct kvt_tier *t = &kvt_tiers[tier];
	u64 now = div64_u64(bytes * NSEC_PER_SEC, max_t(u64, ns, 1));
	u64 old = READ_ONCE(t->bandwidth);

	WRITE_ONCE(t->bandwidth, old ? (old * 7 + now) / 8 : now);
}

/* ---- taking nodes out ---------------------------------------------------------- */

static struct kvt_pool *next_pool(s64 id)
{
	struct kvt_pool *pool;

	mutex_lock(&kvt_pools_lock);
	pool = kvt_pool_after(id);
	mutex_unlock(&kvt_pools_lock);
	return pool;
}

/*
 * Pools go meanwhile, as they may while the worker looks at them (worker.c).  Those that come
 * find the node gone from its tier.
 */
static int leave_node(enum kvtier_tier tier, int node)
{
	struct kvt_pool *pool;
	s64 id = -1;
	int ret = 0;

	while (!ret && (pool = next_pool(id))) {
		id = pool->id;
		kvt_event_node(pool, tier, node);
		ret = kvt_evict_node(pool, tier, node);
		kvt_pool_put(pool);
	}
	return ret;
}

/* Whether it is in the tier now or was taken out. */
static bool is_of_tier(int node, enum kvtier_tier tier)
{
	return node_state(node, N_MEMORY) && !!node_state(node, N_CPU) == (tier == KVTIER_TIER_DRAM);
}

int kvt_tier_set_nodes(enum kvtier_tier tier, const nodemask_t *nodes)
{
	nodemask_t before, leaving;
	int node, ret = 0;

	for_each_node_mask(node, *nodes) {
		if (!is_of_tier(node, tier) || !has_fixed_memory(node))
			return -ENODEV;
	}
	mutex_lock(&nodes_lock);
	mutex_lock(&kvt_tier_lock);
	before = excluded;
	nodes_andnot(leaving, kvt_tiers[tier].nodes, *nodes);
	nodes_or(excluded, excluded, leaving);
	nodes_andnot(excluded, excluded, *nodes);
	find_nodes();
	mutex_unlock(&kvt_tier_lock);
	for_each_node_mask(node, leaving) {
		ret = ret ? ret : leave_node(tier, node);
	}
	if (ret) {
		mutex_lock(&kvt_tier_lock);
		excluded = before;
		find_nodes();
		mutex_unlock(&kvt_tier_lock);
	}
	mutex_unlock(&nodes_lock);
	return ret;
}

/* ---- nodes that come and go --------------------------------------------------------- */

static int memory_event(struct notifier_block *block, unsigned long action, void *data)
{
	if (action == MEM_ONLINE || action == MEM_OFFLINE) {
		mutex_lock(&kvt_tier_lock);
		find_nodes();
		mutex_unlock(&kvt_tier_lock);
	}
	return NOTIFY_OK;
}

static struct notifier_block memory_notifier = {
	.notifier_call = memory_event,
};

int kvt_tier_init(void)
{
	mutex_lock(&kvt_tier_lock);
	find_nodes();
	mutex_unlock(&kvt_tier_lock);
	return register_memory_notifier(&memory_notifier);
}

void kvt_tier_exit(void)
{
	unregister_memory_notifier(&memory_notifier);
}
