/* SPDX-License-Identifier: GPL-2.0-only */
/* A block device, opened exclusively: the interface changed in 6.5, 6.7 and 6.9. */
#ifndef KVT_COMPAT_BDEV_H
#define KVT_COMPAT_BDEV_H

#include <linux/blkdev.h>
#include <linux/err.h>
#include <linux/version.h>

struct kvt_bdev {
	struct block_device *bdev; /* NULL: not open */
	void *handle; /* what closing it takes */
};

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)

static inline int kvt_bdev_get(struct kvt_bdev *device, dev_t number, void *holder)
{
	struct file *file = bdev_file_open_by_dev(number, BLK_OPEN_READ | BLK_OPEN_WRITE, holder,
						  NULL);

	if (IS_ERR(file))
		return PTR_ERR(file);
	device->handle = file;
	device->bdev = file_bdev(file);
	return 0;
}

static inline void kvt_bdev_put(struct kvt_bdev *device)
{
	bdev_fput(device->handle);
}

#elif LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)

static inline int kvt_bdev_get(struct kvt_bdev *device, dev_t number, void *holder)
{
	struct bdev_handle *handle = bdev_open_by_dev(number, BLK_OPEN_READ | BLK_OPEN_WRITE,
						      holder, NULL);

	if (IS_ERR(handle))
		return PTR_ERR(handle);
	device->handle = handle;
	device->bdev = handle->bdev;
	return 0;
}

static inline void kvt_bdev_put(struct kvt_bdev *device)
{
	bdev_release(device->handle);
}

#else /* the block device itself is what was opened */

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
#define kvt_blkdev_get(number, holder) \
	blkdev_get_by_dev(number, BLK_OPEN_READ | BLK_OPEN_WRITE, holder, NULL)
#define kvt_blkdev_put(bdev, holder) blkdev_put(bdev, holder)
#else
#define KVT_BDEV_MODE (FMODE_READ | FMODE_WRITE | FMODE_EXCL)
#define kvt_blkdev_get(number, holder) blkdev_get_by_dev(number, KVT_BDEV_MODE, holder)
#define kvt_blkdev_put(bdev, holder) blkdev_put(bdev, KVT_BDEV_MODE)
#endif

static inline int kvt_bdev_get(struct kvt_bdev *device, dev_t number, void *holder)
{
	struct block_device *bdev = kvt_blkdev_get(number, holder);

	if (IS_ERR(bdev))
		return PTR_ERR(bdev);
	device->handle = holder;
	device->bdev = bdev;
	return 0;
}

static inline void kvt_bdev_put(struct kvt_bdev *device)
{
	kvt_blkdev_put(device->bdev, device->handle);
}

#endif

/*
 * Open @path for @holder alone: -EBUSY if it, a partition of it or the disk that it
 * is part of is mounted or held otherwise; -EROFS if it cannot be written.
 */
static inline int kvt_bdev_open(struct kvt_bdev *device, const char *path, void *holder)
{
	dev_t number;
	int error;

	error = lookup_bdev(path, &number);
	if (!error)
		error = kvt_bdev_get(device, number, holder);
	if (error)
		return error;
	if (bdev_read_only(device->bdev)) {
		kvt_bdev_put(device);
		device->bdev = NULL;
		return -EROFS;
	}
	return 0;
}

static inline void kvt_bdev_close(struct kvt_bdev *device)
{
	if (!device->bdev)
		return;
	/* Others read it through the page cache, which did not see what bios wrote. */
	invalidate_bdev(device->bdev);
	kvt_bdev_put(device);
	device->bdev = NULL;
}

#endif
