// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/class/kvtier: tiers of memory, policy and pools; one value a file.  Stores are
 * in store_sysfs.c.  Documentation/ABI/testing/sysfs-class-kvtier describes all.  The
 * policy can be given when the module is loaded, too.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/capability.h>
#include <linux/ctype.h>
#include <linux/device.h>
#include <linux/kstrtox.h>
#include <linux/module.h>
#include <linux/nodemask.h>
#include <linux/sysfs.h>

#include "copy.h"
#include "kvtier.h"

struct class *kvt_class;

bool kvt_may_change(void)
{
	return capable(CAP_SYS_ADMIN);
}

/* ---- dram, cxl ---------------------------------------------------------------- */

static struct kvt_tier *tier_of(struct device *dev)
{
	return dev_get_drvdata(dev);
}

static enum kvtier_tier tier_nr(struct device *dev)
{
	return tier_of(dev) - kvt_tiers;
}

static ssize_t nodes_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%*pbl\n", nodemask_pr_args(&tier_of(dev)->nodes));
}

static ssize_t nodes_store(struct device *dev, struct device_attribute *attr, const char *buf,
			   size_t count)
{
	nodemask_t nodes;
	int ret;

	if (!kvt_may_change())
		return -EPERM;
	ret = nodelist_parse(buf, nodes);
	if (!ret)
		ret = kvt_tier_set_nodes(tier_nr(dev), &nodes);
	return ret ? ret : count;
}
static DEVICE_ATTR_RW(nodes);

static ssize_t capacity_bytes_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", kvt_tier_capacity(tier_nr(dev)));
}
static DEVICE_ATTR_RO(capacity_bytes);

static ssize_t limit_bytes_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", kvt_tier_limit(tier_nr(dev)));
}

static ssize_t limit_bytes_store(struct device *dev, struct device_attribute *attr,
				 const char *buf, size_t count)
{
	u64 limit;
	int ret;

	if (!kvt_may_change())
		return -EPERM;
	ret = kstrtou64(buf, 0, &limit);
	if (ret)
		return ret;
	if (limit > kvt_tier_capacity(tier_nr(dev)))
		return -EINVAL;
	WRITE_ONCE(tier_of(dev)->limit, limit);
	return count;
}
static DEVICE_ATTR_RW(limit_bytes);

static ssize_t claimed_bytes_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", READ_ONCE(tier_of(dev)->claimed));
}
static DEVICE_ATTR_RO(claimed_bytes);

static ssize_t used_bytes_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	enum kvtier_tier tier = tier_nr(dev);
	struct kvt_pool *pool;
	u64 used = 0;

	mutex_lock(&kvt_pools_lock);
	list_for_each_entry(pool, &kvt_pools, link)
		used += (u64)atomic64_read(&pool->share[tier].used) << pool->block_shift;
	mutex_unlock(&kvt_pools_lock);
	return sysfs_emit(buf, "%llu\n", used + max_t(s64, 0, READ_ONCE(tier_of(dev)->orphaned)));
}
static DEVICE_ATTR_RO(used_bytes);

static ssize_t bandwidth_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", READ_ONCE(tier_of(dev)->bandwidth));
}
static DEVICE_ATTR_RO(bandwidth);

static ssize_t percent_store(const char *buf, size_t count, u32 least, u32 most, u32 *value)
{
	u32 percent;
	int ret;

	if (!kvt_may_change())
		return -EPERM;
	ret = kstrtou32(buf, 0, &percent);
	if (ret)
		return ret;
	if (percent < least || percent > most)
		return -EINVAL;
	WRITE_ONCE(*value, percent);
	return count;
}

static ssize_t watermark_low_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(tier_of(dev)->watermark_low));
}

static ssize_t watermark_low_store(struct device *dev, struct device_attribute *attr,
				   const char *buf, size_t count)
{
	return percent_store(buf, count, 0, tier_of(dev)->watermark_high,
			     &tier_of(dev)->watermark_low);
}
static DEVICE_ATTR_RW(watermark_low);

static ssize_t watermark_high_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(tier_of(dev)->watermark_high));
}

static ssize_t watermark_high_store(struct device *dev, struct device_attribute *attr,
				    const char *buf, size_t count)
{
	return percent_store(buf, count, tier_of(dev)->watermark_low, 50,
			     &tier_of(dev)->watermark_high);
}
static DEVICE_ATTR_RW(watermark_high);

static struct attribute *tier_attrs[] = {
	&dev_attr_nodes.attr,
	&dev_attr_capacity_bytes.attr,
	&dev_attr_limit_bytes.attr,
	&dev_attr_claimed_bytes.attr,
	&dev_attr_used_bytes.attr,
	&dev_attr_bandwidth.attr,
	&dev_attr_watermark_low.attr,
	&dev_attr_watermark_high.attr,
	NULL
};
ATTRIBUTE_GROUPS(tier);

/* ---- policy ----------------------------------------------------------------------- */

struct kvt_policy kvt_policy = {
	.dma_threshold = 256 << 10,
	.dma_timeout_ms = 5000,
	.scan_period_ms = 1000,
	.writeback_rate = 256 << 20,
	.writeback_depth = 4,
	.min_deadline_ms = 100,
	.max_deadline_ms = 600000,
	.max_reserved_percent = 100,
	.max_keys = 65536,
	.max_pools = 256,
};

static struct device *policy;

#define POLICY(_name, _type, _param, _parse, _format, _min, _max)				\
module_param_named(_name, kvt_policy._name, _param, 0);						\
MODULE_PARM_DESC(_name, "policy/" #_name " from the start");					\
												\
static bool _name##_fits(void)									\
{												\
	return kvt_policy._name >= (_min) && kvt_policy._name <= (_max);			\
}												\
												\
static ssize_t _name##_show(struct device *dev, struct device_attribute *attr, char *buf)	\
{												\
	return sysfs_emit(buf, _format "\n", READ_ONCE(kvt_policy._name));			\
}												\
												\
static ssize_t _name##_store(struct device *dev, struct device_attribute *attr,		\
			     const char *buf, size_t count)					\
{												\
	_type value;										\
	int ret;										\
												\
	if (!kvt_may_change())									\
		return -EPERM;									\
	ret = _parse(buf, 0, &value);								\
	if (ret)										\
		return ret;									\
	if (value < (_min) || value > (_max))							\
		return -EINVAL;									\
	WRITE_ONCE(kvt_policy._name, value);							\
	return count;										\
}												\
static DEVICE_ATTR_RW(_name)

#define POLICY_U32(_name, _min, _max) \
	POLICY(_name, u32, uint, kstrtou32, "%u", _min, _max)

POLICY_U32(dma_threshold, 1, U32_MAX);
POLICY_U32(dma_timeout_ms, 1, 60000);
POLICY_U32(scan_period_ms, 0, 3600000);
POLICY(writeback_rate, u64, ullong, kstrtou64, "%llu", 0, U64_MAX);
POLICY_U32(writeback_depth, 1, KVT_BATCH);
POLICY_U32(min_deadline_ms, 1, 60000);
POLICY_U32(max_deadline_ms, 1, 3600000);
POLICY_U32(max_reserved_percent, 1, 100);
POLICY_U32(max_keys, 1, U32_MAX);
POLICY_U32(max_pools, 1, U32_MAX);

/* Files cannot be set out of their range; parameters can. */
static const struct {
	const char *name;
	bool (*fits)(void);
} parameters[] = {
	{ "dma_threshold", dma_threshold_fits },
	{ "dma_timeout_ms", dma_timeout_ms_fits },
	{ "scan_period_ms", scan_period_ms_fits },
	{ "writeback_rate", writeback_rate_fits },
	{ "writeback_depth", writeback_depth_fits },
	{ "min_deadline_ms", min_deadline_ms_fits },
	{ "max_deadline_ms", max_deadline_ms_fits },
	{ "max_reserved_percent", max_reserved_percent_fits },
	{ "max_keys", max_keys_fits },
	{ "max_pools", max_pools_fits },
};

static int check_parameters(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(parameters); i++) {
		if (parameters[i].fits())
			continue;
		pr_err("parameter %s is out of its range: see policy/%s in sysfs-class-kvtier\n",
		       parameters[i].name, parameters[i].name);
		return -EINVAL;
	}
	return 0;
}

static ssize_t dma_channels_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return kvt_dma_show(buf);
}
static DEVICE_ATTR_RO(dma_channels);

static struct attribute *policy_attrs[] = {
	&dev_attr_dma_channels.attr,
	&dev_attr_dma_threshold.attr,
	&dev_attr_dma_timeout_ms.attr,
	&dev_attr_scan_period_ms.attr,
	&dev_attr_writeback_rate.attr,
	&dev_attr_writeback_depth.attr,
	&dev_attr_min_deadline_ms.attr,
	&dev_attr_max_deadline_ms.attr,
	&dev_attr_max_reserved_percent.attr,
	&dev_attr_max_keys.attr,
	&dev_attr_max_pools.attr,
	NULL
};
ATTRIBUTE_GROUPS(policy);

/* ---- pools ----------------------------------------------------------------------------- */

static struct kvt_pool *pool_of(struct device *dev)
{
	return dev_get_drvdata(dev);
}

/* One line, whatever its creator put there. */
static ssize_t name_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	ssize_t bytes = sysfs_emit(buf, "%s\n", pool_of(dev)->name), i;

	for (i = 0; i < bytes - 1; i++) {
		if (iscntrl(buf[i]))
			buf[i] = '?';
	}
	return bytes;
}
static DEVICE_ATTR_RO(name);

static ssize_t store_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct kvt_store *store = pool_of(dev)->store;

	return store ? sysfs_emit(buf, "store%u\n", store->id) : sysfs_emit(buf, "none\n");
}
static DEVICE_ATTR_RO(store);

static ssize_t block_bytes_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", kvt_block_bytes(pool_of(dev)));
}
static DEVICE_ATTR_RO(block_bytes);

static ssize_t pinned_blocks_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%lld\n", (s64)atomic64_read(&pool_of(dev)->nr_pinned));
}
static DEVICE_ATTR_RO(pinned_blocks);

/* A field of struct kvtier_stats. */
struct stats_attr {
	struct device_attribute attr;
	size_t offset;
};

static ssize_t stats_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	const struct stats_attr *a = container_of(attr, struct stats_attr, attr);
	struct kvtier_stats stats = {};

	kvt_counters(pool_of(dev), &stats);
	return sysfs_emit(buf, "%llu\n", *(u64 *)((char *)&stats + a->offset));
}

/* How many blocks are in a state: the only ones that need to look at them all. */
static ssize_t blocks_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	const struct stats_attr *a = container_of(attr, struct stats_attr, attr);
	struct kvtier_stats stats = {};

	kvt_stats(pool_of(dev), &stats);
	return sysfs_emit(buf, "%llu\n", *(u64 *)((char *)&stats + a->offset));
}

/* One of the module's own counters. */
static ssize_t counter_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	const struct stats_attr *a = container_of(attr, struct stats_attr, attr);

	return sysfs_emit(buf, "%lld\n", (s64)atomic64_read(&pool_of(dev)->counter[a->offset]));
}

#define STATS_ATTR(_name, _mode, _show, _offset)			\
static struct stats_attr stats_##_name = {				\
	.attr = __ATTR(_name, _mode, _show, NULL),			\
	.offset = _offset,						\
}
#define STATS(_name) STATS_ATTR(_name, 0444, stats_show, offsetof(struct kvtier_stats, _name))
/* Not for all: to look at all blocks again and again slows the pool. */
#define BLOCKS(_name, _state) \
	STATS_ATTR(_name, 0400, blocks_show, offsetof(struct kvtier_stats, blocks[_state]))
#define COUNTER(_name, _which) STATS_ATTR(_name, 0444, counter_show, _which)
#define TIER(_tier, _nr, _field)				\
	STATS_ATTR(_tier##_##_field, 0444, stats_show,		\
		   offsetof(struct kvtier_stats, tier[_nr]._field))
#define TIERS(_field)					\
	TIER(dram, KVTIER_TIER_DRAM, _field);		\
	TIER(cxl, KVTIER_TIER_CXL, _field);		\
	TIER(nvme, KVTIER_TIER_NVME, _field)

STATS(bytes);
STATS(nr_blocks);
STATS(faults);
STATS(soft_faults);
STATS(hard_faults);
STATS(late_faults);
STATS(zero_faults);
STATS(wp_faults);
STATS(fault_wait_ns);
STATS(promoted);
STATS(demoted);
STATS(written_blocks);
STATS(clean_drops);
STATS(crc_errors);
STATS(bad_blocks);
STATS(enospc);
STATS(transfer_ns);
BLOCKS(blocks_empty, KVTIER_BLOCK_EMPTY);
BLOCKS(blocks_open, KVTIER_BLOCK_OPEN);
BLOCKS(blocks_sealed, KVTIER_BLOCK_SEALED);
BLOCKS(blocks_clean, KVTIER_BLOCK_CLEAN);
BLOCKS(blocks_cold_open, KVTIER_BLOCK_COLD_OPEN);
BLOCKS(blocks_cold, KVTIER_BLOCK_COLD);
COUNTER(dma_copies, KVT_DMA_COPIES);
COUNTER(cpu_copies, KVT_CPU_COPIES);
COUNTER(dma_errors, KVT_DMA_ERRORS);
COUNTER(unmaps, KVT_UNMAPS);
COUNTER(held, KVT_PINNED_BUSY);
TIERS(budget_bytes);
TIERS(used_bytes);
TIERS(peak_bytes);
TIERS(bytes_in);
TIERS(bytes_out);
TIERS(io_errors);
TIERS(read_ns);
TIERS(write_ns);

#define TIERS_OF(_field) \
	&stats_dram_##_field.attr.attr, &stats_cxl_##_field.attr.attr, \
	&stats_nvme_##_field.attr.attr

static struct attribute *pool_attrs[] = {
	&dev_attr_name.attr,
	&dev_attr_store.attr,
	&dev_attr_block_bytes.attr,
	&dev_attr_pinned_blocks.attr,
	&stats_bytes.attr.attr,
	&stats_nr_blocks.attr.attr,
	&stats_faults.attr.attr,
	&stats_soft_faults.attr.attr,
	&stats_hard_faults.attr.attr,
	&stats_late_faults.attr.attr,
	&stats_zero_faults.attr.attr,
	&stats_wp_faults.attr.attr,
	&stats_fault_wait_ns.attr.attr,
	&stats_promoted.attr.attr,
	&stats_demoted.attr.attr,
	&stats_written_blocks.attr.attr,
	&stats_clean_drops.attr.attr,
	&stats_crc_errors.attr.attr,
	&stats_bad_blocks.attr.attr,
	&stats_enospc.attr.attr,
	&stats_transfer_ns.attr.attr,
	&stats_blocks_empty.attr.attr,
	&stats_blocks_open.attr.attr,
	&stats_blocks_sealed.attr.attr,
	&stats_blocks_clean.attr.attr,
	&stats_blocks_cold_open.attr.attr,
	&stats_blocks_cold.attr.attr,
	&stats_dma_copies.attr.attr,
	&stats_cpu_copies.attr.attr,
	&stats_dma_errors.attr.attr,
	&stats_unmaps.attr.attr,
	&stats_held.attr.attr,
	TIERS_OF(budget_bytes),
	TIERS_OF(used_bytes),
	TIERS_OF(peak_bytes),
	TIERS_OF(bytes_in),
	TIERS_OF(bytes_out),
	TIERS_OF(io_errors),
	TIERS_OF(read_ns),
	TIERS_OF(write_ns),
	NULL
};
ATTRIBUTE_GROUPS(pool);

int kvt_sysfs_add_pool(struct kvt_pool *pool)
{
	pool->dev = device_create_with_groups(kvt_class, NULL, 0, pool, pool_groups, "pool%u",
					      pool->id);
	return PTR_ERR_OR_ZERO(pool->dev);
}

void kvt_sysfs_remove_pool(struct kvt_pool *pool)
{
	device_unregister(pool->dev); /* waits for those who read its files */
}

/* ---- the class ----------------------------------------------------------------------------- */

static int add_tier(enum kvtier_tier nr)
{
	struct kvt_tier *tier = &kvt_tiers[nr];

	tier->dev = device_create_with_groups(kvt_class, NULL, 0, tier, tier_groups, "%s",
					      tier->name);
	return PTR_ERR_OR_ZERO(tier->dev);
}

int kvt_sysfs_init(void)
{
	int ret;

	ret = check_parameters();
	if (ret)
		return ret;
	kvt_class = kvt_class_create("kvtier");
	if (IS_ERR(kvt_class))
		return PTR_ERR(kvt_class);
	ret = add_tier(KVTIER_TIER_DRAM);
	if (ret)
		goto destroy_class;
	ret = add_tier(KVTIER_TIER_CXL);
	if (ret)
		goto remove_dram;
	policy = device_create_with_groups(kvt_class, NULL, 0, NULL, policy_groups, "policy");
	ret = PTR_ERR_OR_ZERO(policy);
	if (ret)
		goto remove_cxl;
	return 0;

remove_cxl:
	device_unregister(kvt_tiers[KVTIER_TIER_CXL].dev);
remove_dram:
	device_unregister(kvt_tiers[KVTIER_TIER_DRAM].dev);
destroy_class:
	class_destroy(kvt_class);
	return ret;
}

void kvt_sysfs_exit(void)
{
	device_unregister(policy);
	device_unregister(kvt_tiers[KVTIER_TIER_CXL].dev);
	device_unregister(kvt_tiers[KVTIER_TIER_DRAM].dev);
	class_destroy(kvt_class);
}
