// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "blocks.h"
#include "holder.h"

#define WAIT_MS 3000 /* a pager refreshes its view five times a second */
#define AT_ONCE 16384u

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

__attribute__((format(printf, 2, 3))) static int cannot(char why[BLOCKS_WHY], const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, BLOCKS_WHY, fmt, args);
	va_end(args);
	return -1;
}

static int make_room(struct blocks *b, uint64_t nr, const char *source)
{
	b->nr = nr;
	b->source = source;
	b->block = calloc(nr ? nr : 1, sizeof(*b->block));
	return b->block ? 0 :
			  cannot(b->why, "out of memory for %llu blocks", (unsigned long long)nr);
}

static void take_infos(struct kvt_stat_block *to, const struct kvtier_block_info *infos,
		       uint32_t nr, uint32_t *hottest)
{
	uint32_t i;

	for (i = 0; i < nr; i++) {
		to[i] = (struct kvt_stat_block){ .state = infos[i].state,
						 .tier = infos[i].tier,
						 .flags = (uint8_t)infos[i].flags,
						 .heat = (uint8_t)(infos[i].heat > 255 ? 255 :
										 infos[i].heat) };
		if (infos[i].heat > *hottest)
			*hottest = infos[i].heat;
	}
}

/* ---- a pool of the user pager -------------------------------------------------- */

struct kvt_stat_file *view_open(const char *path, size_t *bytes, char why[BLOCKS_WHY])
{
	struct kvt_stat_file *f = MAP_FAILED;
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;

	if (fd < 0) {
		cannot(why, "cannot ask the pool through %s: %s", path, strerror(errno));
		return NULL;
	}
	if (!fstat(fd, &st) && st.st_size >= (off_t)sizeof(*f)) {
		*bytes = (size_t)st.st_size;
		f = mmap(NULL, *bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	}
	close(fd);
	if (f == MAP_FAILED) {
		cannot(why, "%s cannot be read: is the pool of another version?", path);
		return NULL;
	}
	if (!f->view_blocks || f->view_blocks > *bytes || kvt_stat_bytes(f->view_blocks) > *bytes) {
		munmap(f, *bytes);
		cannot(why, "the pool of %s does not show its blocks", path);
		return NULL;
	}
	return f;
}

static bool refreshed(struct kvt_stat_file *f)
{
	uint64_t begun = now_ns(), now;

	__atomic_store_n(&f->blocks_until_ns, begun + 2 * WAIT_MS * 1000000ull, __ATOMIC_RELEASE);
	do {
		usleep(10000);
		now = now_ns();
		if (__atomic_load_n(&f->blocks_ns, __ATOMIC_ACQUIRE) >= begun)
			break;
	} while (now - begun < WAIT_MS * 1000000ull);
	__atomic_store_n(&f->blocks_until_ns, 0, __ATOMIC_RELEASE);
	return __atomic_load_n(&f->blocks_ns, __ATOMIC_ACQUIRE) >= begun;
}

static int read_file_pool(const struct pool_ref *ref, struct blocks *b)
{
	size_t bytes;
	struct kvt_stat_file *f = view_open(ref->path, &bytes, b->why);
	int ret;

	if (!f)
		return -1;
	if (!refreshed(f)) {
		munmap(f, bytes);
		return cannot(b->why, "process %u does not answer: is it stopped?", ref->file->pid);
	}
	ret = make_room(b, f->view_blocks, "file");
	if (!ret)
		memcpy(b->block, kvt_stat_blocks(f), b->nr * sizeof(*b->block));
	b->heat = true;
	munmap(f, bytes);
	return ret;
}

/* ---- a pool of the module ------------------------------------------------------ */

/* Heat has no unit: the hottest block is at 255. */
static void scale_heat(struct blocks *b, uint32_t hottest)
{
	uint64_t i;

	b->heat = hottest > 0;
	for (i = 0; hottest && hottest < 255 && i < b->nr; i++)
		b->block[i].heat = (uint8_t)((uint32_t)b->block[i].heat * 255 / hottest);
}

static int query_all(struct blocks *b, int (*query)(void *arg, uint64_t first, uint32_t nr,
						     struct kvtier_block_info *infos), void *arg)
{
	struct kvtier_block_info *infos = malloc(AT_ONCE * sizeof(*infos));
	uint32_t hottest = 0, nr;
	uint64_t first;
	int ret = infos ? 0 : -ENOMEM;

	for (first = 0; first < b->nr && ret >= 0; first += nr) {
		nr = b->nr - first < AT_ONCE ? (uint32_t)(b->nr - first) : AT_ONCE;
		ret = query(arg, first, nr, infos);
		if (ret >= 0)
			take_infos(b->block + first, infos, nr, &hottest);
	}
	free(infos);
	scale_heat(b, hottest);
	return ret < 0 ? cannot(b->why, "the pool's blocks cannot be asked for: %s",
				kvt_strerror(ret)) :
			 0;
}

static int query_module(void *arg, uint64_t first, uint32_t nr, struct kvtier_block_info *infos)
{
	struct kvtier_query q = { .size = sizeof(q),
				  .first_block = first,
				  .infos = (uintptr_t)infos,
				  .nr = nr };

	return ioctl(*(int *)arg, KVTIER_IOC_QUERY, &q) ? -errno : 0;
}

static int read_module_pool(const struct pool_ref *ref, struct blocks *b)
{
	int fd = holder_borrow(ref->file->kernel_id, ref->file->pid, b->why, sizeof(b->why)), ret;

	if (fd < 0)
		return -1;
	ret = make_room(b, ref->file->stats.nr_blocks, "module") ?: query_all(b, query_module, &fd);
	b->heat = true; /* also where all is cold */
	close(fd);
	return ret;
}

/* ---- a pool of the daemon ------------------------------------------------------ */

struct daemon_query {
	struct kvt_client *client;
	uint32_t id;
};

static int query_daemon(void *arg, uint64_t first, uint32_t nr, struct kvtier_block_info *infos)
{
	const struct daemon_query *q = arg;

	return kvt_daemon_query(q->client, q->id, first, nr, infos);
}

static int read_daemon_pool(const struct system *s, const struct pool_ref *ref, struct blocks *b)
{
	struct daemon_query q = { s->client, ref->daemon->id };
	uint64_t nr = ref->daemon->block_bytes ? ref->daemon->bytes / ref->daemon->block_bytes : 0;

	return make_room(b, nr, "daemon") ?: query_all(b, query_daemon, &q);
}

/* -------------------------------------------------------------------------------- */

int blocks_read(const struct system *s, const struct pool_ref *ref, struct blocks *b)
{
	*b = (struct blocks){ .block_bytes = ref->daemon ? ref->daemon->block_bytes :
							   1ull << ref->file->stats.block_shift };
	if (ref->daemon)
		return read_daemon_pool(s, ref, b);
	return ref->file->kernel_id >= 0 ? read_module_pool(ref, b) : read_file_pool(ref, b);
}

void blocks_free(struct blocks *b)
{
	free(b->block);
	b->block = NULL;
}
