// SPDX-License-Identifier: MIT
/* /dev/kvtier: whether it is there, what it offers, and why it refuses a pool. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "error.h"
#include "kernel.h"

#define MIB (1ULL << 20)

int kvt_kernel_try(int fd, unsigned long number, void *arg)
{
	return ioctl(fd, number, arg) < 0 ? -errno : 0;
}

int kvt_kernel_call(int fd, unsigned long number, void *arg)
{
	int ret;

	do
		ret = kvt_kernel_try(fd, number, arg);
	while (ret == -EINTR);
	return ret;
}

static int open_device(void)
{
	int fd = open(KVTIER_DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

int kvt_kernel_open(void)
{
	int fd = open_device();

	switch (fd) {
	case -ENOENT:
	case -ENXIO:
	case -ENODEV:
		return kvt_fail(-ENODEV, "there is no " KVTIER_DEVICE ": load the module with "
					 "`modprobe kvtier` as root, or use the user pager");
	case -EACCES:
	case -EPERM:
		return kvt_fail(fd, "no right to " KVTIER_DEVICE ": have root run `usermod -aG "
				    "kvtier USER` and log in again, or use the user pager");
	default:
		return fd < 0 ? kvt_fail(fd, KVTIER_DEVICE ": %s", strerror(-fd)) : fd;
	}
}

/* ---- what the host offers ---------------------------------------------------- */

static int ask(int fd, struct kvtier_info *info)
{
	*info = (struct kvtier_info){ .size = sizeof(*info) };
	return kvt_kernel_call(fd, KVTIER_IOC_INFO, info);
}

static bool has_node(const struct kvtier_info *info, int node)
{
	return node >= 0 && node < 64 && info->nodes[KVTIER_TIER_CXL] >> node & 1;
}

static bool offers(const struct kvtier_info *info, const struct kvt_config *c)
{
	if ((c->nvme_path || c->nvme_bytes) && !info->nodes[KVTIER_TIER_NVME])
		return false;
	return c->cxl_node < 0 || !c->cxl_bytes || has_node(info, c->cxl_node);
}

bool kvt_kernel_serves(const struct kvt_config *config)
{
	struct kvtier_info info;
	int fd = open_device();
	bool serves;

	if (fd < 0)
		return false;
	serves = !ask(fd, &info) && offers(&info, config);
	close(fd);
	return serves;
}

/* ---- make a pool --------------------------------------------------------------- */

static const char *const tier_names[] = { "", "DRAM", "CXL memory", "NVMe" };

/* Which tier the host has too little left of: the module says only that one has. */
static int explain_space(const struct kvtier_info *info, const struct kvtier_pool_create *arg)
{
	uint32_t t;

	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++) {
		if (arg->budget[t].bytes <= info->free_bytes[t])
			continue;
		return kvt_fail(
			-ENOSPC,
			"the pool wants %llu MiB of %s, the host has %llu MiB left to give: "
			"lower the budget, or raise the limit in /sys/class/kvtier",
			(unsigned long long)(arg->budget[t].bytes / MIB), tier_names[t],
			(unsigned long long)(info->free_bytes[t] / MIB));
	}
	return kvt_fail(-ENOSPC,
			"the budgets do not hold the pool, or the host has no more to give: "
			"see `kvtier doctor`");
}

static int explain_absence(const struct kvtier_info *info, const struct kvtier_pool_create *arg)
{
	if (arg->budget[KVTIER_TIER_NVME].bytes && !info->nodes[KVTIER_TIER_NVME])
		return kvt_fail(-ENODEV, "no store is attached: have root run `echo /dev/DISK > "
					 "/sys/class/kvtier/attach_store`, or use the user pager");
	return kvt_fail(-ENODEV, "a node or store that the pool wants is not there: "
				 "/sys/class/kvtier shows what is");
}

static int explain(int fd, const struct kvtier_pool_create *arg, int error)
{
	struct kvtier_info info;

	if ((error == -ENOSPC || error == -ENODEV) && ask(fd, &info))
		return kvt_fail(error, KVTIER_DEVICE ": %s", strerror(-error));
	switch (error) {
	case -ENOSPC:
		return explain_space(&info, arg);
	case -ENODEV:
		return explain_absence(&info, arg);
	case -EINVAL:
		return kvt_fail(error, "the module refuses the configuration: io_deadline_ms must "
				       "be 0, or between min_deadline_ms and max_deadline_ms of "
				       "/sys/class/kvtier/policy");
	case -EMFILE:
		return kvt_fail(error,
				"this user has as many pools as one may have: close some, or "
				"raise /sys/class/kvtier/policy/max_pools");
	default:
		return kvt_fail(error, "the module cannot make the pool: %s", strerror(-error));
	}
}

static int check_node(int fd, const struct kvt_config *c)
{
	struct kvtier_info info;
	int ret;

	if (!c->cxl_bytes)
		return 0;
	ret = ask(fd, &info);
	if (ret)
		return kvt_fail(ret, KVTIER_DEVICE ": %s", strerror(-ret));
	if (has_node(&info, c->cxl_node))
		return 0;
	return kvt_fail(-ENODEV, "NUMA node %d is none of the CXL tier's: "
				 "/sys/class/kvtier/cxl/nodes lists them", c->cxl_node);
}

static void fill_in(struct kvtier_pool_create *arg, const struct kvt_config *c)
{
	*arg = (struct kvtier_pool_create){
		.size = sizeof(*arg),
		.flags = (c->flags & KVT_NO_PREDICT ? KVTIER_POOL_NO_PREDICT : 0) |
			 (c->flags & KVT_KEEP_FILE ? KVTIER_POOL_KEEP : 0),
		.bytes = c->bytes,
		.block_shift = (uint32_t)__builtin_ctzll(c->block_bytes),
		.io_deadline_ms = c->io_deadline_ms,
	};
	arg->budget[KVTIER_TIER_DRAM].bytes = c->dram_bytes;
	arg->budget[KVTIER_TIER_NVME].bytes = c->nvme_bytes;
	if (c->cxl_bytes) {
		arg->budget[KVTIER_TIER_CXL].bytes = c->cxl_bytes;
		arg->budget[KVTIER_TIER_CXL].nodes = 1ULL << c->cxl_node;
	}
	snprintf(arg->name, sizeof(arg->name), "%s", c->name ? c->name : "");
}

int kvt_kernel_create(int fd, const struct kvt_config *config, uint32_t *id)
{
	struct kvtier_pool_create arg;
	int ret = check_node(fd, config);

	if (ret)
		return ret;
	fill_in(&arg, config);
	ret = kvt_kernel_call(fd, KVTIER_IOC_POOL_CREATE, &arg);
	if (ret)
		return explain(fd, &arg, ret);
	*id = arg.id;
	return 0;
}
