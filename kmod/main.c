// SPDX-License-Identifier: GPL-2.0-only
/* Loading and unloading, and the character device. */
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/seq_file.h>

#include "kvtier.h"

static int open(struct inode *inode, struct file *file)
{
	file->private_data = NULL; /* misc_open() left its own there */
	return 0;
}

static int release(struct inode *inode, struct file *file)
{
	struct kvt_pool *pool = kvt_pool_of(file);

	if (pool)
		kvt_pool_release(pool);
	return 0;
}

/* Which pool a descriptor is: who may look at its process may know. */
static void show_fdinfo(struct seq_file *seq, struct file *file)
{
	struct kvt_pool *pool = kvt_pool_of(file);

	if (pool)
		seq_printf(seq, "kvtier-pool:\t%u\n", pool->id);
}

const struct file_operations kvt_fops = {
	.owner = THIS_MODULE,
	.open = open,
	.release = release,
	.mmap = kvt_mmap,
	.get_unmapped_area = thp_get_unmapped_area,
	.unlocked_ioctl = kvt_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.uring_cmd = kvt_uring_cmd,
	.read = kvt_event_read,
	.poll = kvt_event_poll,
	.show_fdinfo = show_fdinfo,
	.llseek = noop_llseek,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "kvtier",
	.fops = &kvt_fops,
	.mode = 0660, /* the group is the udev rule's */
};

/* In the order in which they need each other; undone in reverse. */
static const struct step {
	int (*init)(void);
	void (*exit)(void);
} steps[] = {
	{ kvt_block_init, kvt_block_exit },
	{ kvt_frame_init, kvt_frame_exit },
	{ kvt_tier_init, kvt_tier_exit },
	{ kvt_sysfs_init, kvt_sysfs_exit },
	{ kvt_io_init, kvt_io_exit },
	{ kvt_copy_init, kvt_copy_exit },
	{ kvt_worker_init, kvt_worker_exit },
};

static void undo(int nr)
{
	while (nr--)
		steps[nr].exit();
}

static int __init kvtier_init(void)
{
	int nr, ret;

	for (nr = 0; nr < ARRAY_SIZE(steps); nr++) {
		ret = steps[nr].init();
		if (ret)
			goto undo;
	}
	ret = kvt_store_init(kvt_class);
	if (ret)
		goto undo;
	ret = misc_register(&device);
	if (ret)
		goto exit_store;
	return 0;

exit_store:
	kvt_store_exit();
undo:
	undo(nr);
	return ret;
}

static void __exit kvtier_exit(void)
{
	misc_deregister(&device);
	kvt_store_exit();
	undo(ARRAY_SIZE(steps));
}

module_init(kvtier_init);
module_exit(kvtier_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Memory for KV caches that spans DRAM, CXL memory and NVMe");
