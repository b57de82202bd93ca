// SPDX-License-Identifier: MIT
/* The file in which a pool shows itself: made, written and left, for every pager. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "stat_file.h"

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static uint64_t start_time(void)
{
	unsigned long long ticks = 0;
	char line[1024], *p;
	FILE *f = fopen("/proc/self/stat", "re");

	if (!f)
		return 0;
	p = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
	if (p)
		sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
			      "%*d %*d %llu", &ticks);
	fclose(f);
	return ticks;
}

static int create_file(char *path, size_t len, size_t bytes)
{
	static atomic_uint number;
	int dir, fd;
	char folder[200], name[48];

	dir = kvt_stat_dir_make(folder, sizeof(folder));
	if (dir < 0)
		return -1;
	snprintf(name, sizeof(name), "%d-%u.pool", getpid(), atomic_fetch_add(&number, 1));
	snprintf(path, len, "%s/%s", folder, name);
	fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd >= 0 && (ftruncate(fd, (off_t)bytes) ||
			posix_fallocate(fd, 0, sizeof(struct kvt_stat_file)))) {
		unlinkat(dir, name, 0);
		close(fd);
		fd = -1;
	}
	close(dir);
	return fd;
}

int kvt_stat_create(struct kvt_stat_out *out, const char *name, const char *pager,
		    uint64_t blocks)
{
	struct kvt_stat_file *f;

	out->bytes = kvt_stat_bytes(blocks);
	out->view = 0;
	out->fd = create_file(out->path, sizeof(out->path), out->bytes);
	if (out->fd < 0)
		return -1;
	f = mmap(NULL, out->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, out->fd, 0);
	if (f == MAP_FAILED) {
		unlink(out->path);
		close(out->fd);
		return -1;
	}
	f->version = KVT_STAT_VERSION;
	f->bytes = sizeof(*f);
	f->pid = (uint32_t)getpid();
	f->start_time = start_time();
	f->created_ns = now_ns();
	f->kernel_id = -1;
	f->view_blocks = blocks;
	snprintf(f->name, sizeof(f->name), "%s", name ? name : program_invocation_short_name);
	snprintf(f->pager, sizeof(f->pager), "%s", pager);
	out->file = f;
	return 0;
}

bool kvt_stat_view(struct kvt_stat_out *out)
{
	if (!out->view)
		out->view = posix_fallocate(out->fd, 0, (off_t)out->bytes) ? -1 : 1;
	return out->view > 0;
}

void kvt_stat_show(struct kvt_stat_out *out)
{
	__atomic_store_n(&out->file->magic, KVT_STAT_MAGIC, __ATOMIC_RELEASE);
}

static void write_file(struct kvt_stat_out *out, const struct kvtier_stats *stats,
		       const char *last_error, bool closed)
{
	struct kvt_stat_file *f = out->file;

	__atomic_fetch_add(&f->seq, 1, __ATOMIC_ACQ_REL);
	f->updated_ns = now_ns();
	if (stats)
		f->stats = *stats;
	f->closed = closed;
	if (last_error)
		snprintf(f->last_error, sizeof(f->last_error), "%s", last_error);
	__atomic_fetch_add(&f->seq, 1, __ATOMIC_RELEASE);
}

void kvt_stat_write(struct kvt_stat_out *out, const struct kvtier_stats *stats,
		    const char *last_error)
{
	write_file(out, stats, last_error, false);
}

void kvt_stat_add(struct kvt_stat_out *out, const struct kvt_stat_access *access)
{
	struct kvt_stat_file *f = out->file;
	uint64_t nr = f->nr_accesses;

	kvt_stat_ring(f)[nr % KVT_STAT_ACCESSES] = *access;
	__atomic_store_n(&f->nr_accesses, nr + 1, __ATOMIC_RELEASE);
}

void kvt_stat_close(struct kvt_stat_out *out)
{
	write_file(out, NULL, NULL, true);
	kvt_stat_forget(out);
	if (!getenv("KVTIER_KEEP_STATS"))
		unlink(out->path);
}

void kvt_stat_forget(struct kvt_stat_out *out)
{
	if (out->file) {
		munmap(out->file, out->bytes);
		close(out->fd);
	}
	out->file = NULL;
}
