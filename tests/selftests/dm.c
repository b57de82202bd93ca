// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "dm.h"

struct request {
	struct dm_ioctl head;
	struct dm_target_spec target;
	char text[512];
};

static int control(unsigned long number, struct request *r)
{
	int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC), ret = 0;

	if (fd < 0)
		return -ENODEV;
	if (ioctl(fd, number, r) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

static void begin(struct request *r, const struct dm *dm)
{
	memset(r, 0, sizeof(*r));
	r->head.version[0] = DM_VERSION_MAJOR;
	r->head.data_size = sizeof(*r);
	r->head.data_start = sizeof(r->head);
	snprintf(r->head.name, sizeof(r->head.name), "%s", dm->name);
}

static int load(const struct dm *dm, const char *type)
{
	struct request r;

	begin(&r, dm);
	r.head.target_count = 1;
	r.target.length = dm->sectors;
	snprintf(r.target.target_type, sizeof(r.target.target_type), "%s", type);
	if (!strcmp(type, "linear"))
		snprintf(r.text, sizeof(r.text), "%s 0", dm->below);
	return control(DM_TABLE_LOAD, &r);
}

static int suspend(struct dm *dm, unsigned int flags)
{
	struct request r;

	begin(&r, dm);
	r.head.flags = flags;
	return control(DM_DEV_SUSPEND, &r);
}

int dm_suspend(struct dm *dm, bool stop)
{
	return suspend(dm, stop ? DM_SUSPEND_FLAG | DM_NOFLUSH_FLAG | DM_SKIP_LOCKFS_FLAG : 0);
}

static int size_of(const char *path, unsigned long long *sectors)
{
	unsigned long long bytes = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret = 0;

	if (fd < 0)
		return -errno;
	if (ioctl(fd, BLKGETSIZE64, &bytes))
		ret = -errno;
	close(fd);
	*sectors = bytes / 512;
	return ret;
}

static int make_node(struct dm *dm, unsigned long long number)
{
	snprintf(dm->path, sizeof(dm->path), "/dev/dm-%u", minor(number));
	if (mknod(dm->path, S_IFBLK | 0600, makedev(major(number), minor(number))) &&
	    errno != EEXIST)
		return -errno;
	return 0;
}

int dm_create(struct dm *dm, const char *name, const char *below)
{
	struct request r;
	int ret;

	memset(dm, 0, sizeof(*dm));
	snprintf(dm->name, sizeof(dm->name), "%s", name);
	snprintf(dm->below, sizeof(dm->below), "%s", below);
	ret = size_of(below, &dm->sectors);
	if (ret)
		return ret;
	begin(&r, dm);
	ret = control(DM_DEV_CREATE, &r);
	if (ret)
		return ret;
	ret = make_node(dm, r.head.dev);
	if (!ret)
		ret = load(dm, "linear");
	if (!ret)
		ret = dm_suspend(dm, false);
	if (ret)
		dm_remove(dm);
	return ret;
}

int dm_fail(struct dm *dm, bool fail)
{
	int ret = dm_suspend(dm, true);

	if (!ret)
		ret = load(dm, fail ? "error" : "linear");
	return ret ? ret : dm_suspend(dm, false);
}

int dm_remove(struct dm *dm)
{
	struct request r;

	begin(&r, dm);
	return control(DM_DEV_REMOVE, &r);
}
