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

struct target {
	struct dm_target_spec spec;
	char text[1024];
};

struct request {
	struct dm_ioctl head;
	struct target target[2];
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

static struct target *add(struct request *r, unsigned long long start, unsigned long long length,
			  const char *type)
{
	struct target *t = &r->target[r->head.target_count++];

	t->spec.sector_start = start;
	t->spec.length = length;
	t->spec.next = sizeof(*t);
	snprintf(t->spec.target_type, sizeof(t->spec.target_type), "%s", type);
	return t;
}

static int load(const struct dm *dm, const char *type)
{
	struct target *target;
	struct request r;

	begin(&r, dm);
	target = add(&r, 0, dm->sectors, type);
	if (!strcmp(type, "linear"))
		snprintf(target->text, sizeof(target->text), "%s %llu", dm->below, dm->start);
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

static int create(struct dm *dm)
{
	struct request r;
	int ret;

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

int dm_create_part(struct dm *dm, const char *name, const char *below, int part, int parts)
{
	int ret;

	memset(dm, 0, sizeof(*dm));
	snprintf(dm->name, sizeof(dm->name), "%s", name);
	snprintf(dm->below, sizeof(dm->below), "%s", below);
	ret = size_of(below, &dm->sectors);
	if (ret)
		return ret;
	dm->sectors = dm->sectors / parts & ~2047ULL;
	dm->start = part * dm->sectors;
	return create(dm);
}

int dm_create(struct dm *dm, const char *name, const char *below)
{
	return dm_create_part(dm, name, below, 0, 1);
}

int dm_fail(struct dm *dm, bool fail)
{
	int ret = dm_suspend(dm, true);

	if (!ret)
		ret = load(dm, fail ? "error" : "linear");
	return ret ? ret : dm_suspend(dm, false);
}

int dm_delay(struct dm *dm, unsigned long long sectors, unsigned int ms)
{
	struct target *target;
	struct request r;
	int ret = dm_suspend(dm, true);

	if (ret)
		return ret;
	begin(&r, dm);
	target = add(&r, 0, sectors, "delay"); /* reads, writes, flushes */
	snprintf(target->text, sizeof(target->text), "%s %llu 0 %s %llu %u %s %llu 0", dm->below,
		 dm->start, dm->below, dm->start, ms, dm->below, dm->start);
	target = add(&r, sectors, dm->sectors - sectors, "linear");
	snprintf(target->text, sizeof(target->text), "%s %llu", dm->below, dm->start + sectors);
	ret = control(DM_TABLE_LOAD, &r);
	return dm_suspend(dm, false) ?: ret;
}

int dm_remove(struct dm *dm)
{
	struct request r;

	begin(&r, dm);
	return control(DM_DEV_REMOVE, &r);
}
