// SPDX-License-Identifier: MIT
/*
 * The table of a pool's blocks, in a memory file that the service manager keeps for our
 * successor, and the file of its slots.
 *
 * We may be killed between any two instructions, so what the table says must be true
 * at each of them.  A block's content is in the memory file only while where is
 * RESIDENT or WRITING, and in its slot only while B_DIRTY is clear and where is not
 * EMPTY.  Hence the order:
 *
 *	to memory	fill the pages, then RESIDENT, then let clients map them
 *	from memory	protect from stores, then COLD, then punch the pages out
 *	a store		B_DIRTY, then allow it
 *	a write		slot and crc while B_DIRTY is set, then clear B_DIRTY
 *	a discard	EMPTY, then punch the pages out
 *
 * A successor punches out the pages of all that is not RESIDENT.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "kvtierd.h"

#define TABLE_MAGIC 0x31656c626174766bull
#define TABLE_VERSION 1

static size_t table_size(const struct table *def)
{
	uint64_t nr = def->module ? 0 : def->bytes >> def->block_shift;

	return sizeof(*def) + nr * sizeof(struct block);
}

int table_create(struct pool *p, const struct table *def)
{
	void *map;

	p->table_bytes = table_size(def);
	p->table_fd = memfd_create("kvtier-table", MFD_CLOEXEC);
	if (p->table_fd < 0)
		return -errno;
	if (ftruncate(p->table_fd, (off_t)p->table_bytes)) {
		close(p->table_fd);
		return -errno;
	}
	map = mmap(NULL, p->table_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->table_fd, 0);
	if (map == MAP_FAILED) {
		close(p->table_fd);
		return -errno;
	}
	p->t = map;
	*p->t = *def;
	p->t->magic = TABLE_MAGIC;
	p->t->version = TABLE_VERSION;
	for (uint32_t b = 0; !p->module && b < p->nr_blocks; b++) {
		block_of(p, b)->slot = KVT_SLOT_NONE;
		block_of(p, b)->frame = NO_BLOCK;
	}
	return 0;
}

static bool sound(const struct table *t, size_t bytes)
{
	return t->magic == TABLE_MAGIC && t->version == TABLE_VERSION &&
	       t->block_shift >= KVTIER_SHIFT_MIN && t->block_shift <= KVTIER_SHIFT_MAX &&
	       t->bytes >> t->block_shift < UINT32_MAX && table_size(t) == bytes;
}

/* The table of a predecessor. */
int table_map(struct pool *p, int fd)
{
	struct stat st;
	void *map;

	if (fstat(fd, &st))
		return kvt_fail(-errno, "the table: %s", strerror(errno));
	if ((size_t)st.st_size < sizeof(*p->t))
		return kvt_fail(-EINVAL, "the table is too short");
	map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return kvt_fail(-errno, "the table: %s", strerror(errno));
	if (!sound(map, (size_t)st.st_size)) {
		munmap(map, (size_t)st.st_size);
		return kvt_fail(-EPROTO, "the table is of another version");
	}
	p->t = map;
	p->table_bytes = (size_t)st.st_size;
	p->id = p->t->id;
	p->module = p->t->module;
	p->shift = p->t->block_shift;
	p->block_bytes = 1u << p->shift;
	p->nr_blocks = (uint32_t)(p->t->bytes >> p->shift);
	return 0;
}

/* ---- slots ------------------------------------------------------------------------------- */

void slots_path(const struct pool *p, char *buf, size_t room)
{
	snprintf(buf, room, "%s/%s/%s.slots", p->d->config.state_dir, p->t->tenant, p->t->name);
}

static int explain_open(const char *path)
{
	int error = errno;

	if (error == EINVAL)
		return kvt_fail(-EINVAL,
				"%s: its filesystem has no O_DIRECT: set state-dir to a folder "
				"on a disk",
				path);
	return kvt_fail(-error, "%s: cannot make room for slots: %s", path, strerror(error));
}

/* A tenant's first folder outlives a power cut, as what is in it must. */
static void sync_name(const char *in)
{
	int fd = open(in, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fsync(fd))
		log_line(LOG_WARNING, "folder_not_durable", "path=%s error=\"%s\"", in,
			 strerror(errno));
	if (fd >= 0)
		close(fd);
}

static int open_named(struct pool *p)
{
	char path[512], dir[400];

	snprintf(dir, sizeof(dir), "%s/%s", p->d->config.state_dir, p->t->tenant);
	if (!mkdir(dir, 0700))
		sync_name(p->d->config.state_dir);
	slots_path(p, path, sizeof(path));
	p->slots_fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC | O_CREAT | O_TRUNC, 0600);
	return p->slots_fd < 0 ? explain_open(path) : 0;
}

static int reserve(struct pool *p)
{
	uint64_t bytes = p->t->budget[KVTIER_TIER_NVME];
	struct statvfs fs;

	/* Asked for first: fallocate() fills the disk before it says that it is full. */
	if (!fstatvfs(p->slots_fd, &fs) && (uint64_t)fs.f_bavail * fs.f_frsize < bytes)
		return kvt_fail(-ENOSPC, "%s has %llu MiB free, the pool needs %llu MiB there",
				p->d->config.state_dir,
				(unsigned long long)((uint64_t)fs.f_bavail * fs.f_frsize >> 20),
				(unsigned long long)bytes >> 20);
	if (!fallocate(p->slots_fd, 0, 0, (off_t)bytes))
		return 0;
	if (errno != EOPNOTSUPP)
		return kvt_fail(-errno, "%s: cannot reserve %llu MiB: %s", p->d->config.state_dir,
				(unsigned long long)bytes >> 20, strerror(errno));
	return ftruncate(p->slots_fd, (off_t)bytes) ? -errno : 0;
}

/* A pool that is kept has a file with its name, another one that goes with us. */
int slots_make(struct pool *p)
{
	int ret;

	if (p->t->flags & KVT_SHARED_KEEP) {
		ret = open_named(p);
	} else {
		p->slots_fd = open(p->d->config.state_dir,
				   O_RDWR | O_DIRECT | O_TMPFILE | O_CLOEXEC, 0600);
		ret = p->slots_fd < 0 ? explain_open(p->d->config.state_dir) : 0;
	}
	if (ret)
		return ret;
	ret = reserve(p);
	if (ret && p->t->flags & KVT_SHARED_KEEP) {
		char path[512];

		slots_path(p, path, sizeof(path));
		unlink(path);
	}
	return ret;
}

int slots_of_manifest(const char *path, const struct table *def)
{
	int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return kvt_fail(-errno, "%s: %s", path, strerror(errno));
	if (!fstat(fd, &st) && (uint64_t)st.st_size >= def->budget[KVTIER_TIER_NVME])
		return fd;
	close(fd);
	return kvt_fail(-EINVAL, "%s is shorter than its pool", path);
}
