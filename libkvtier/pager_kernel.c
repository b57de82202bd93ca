// SPDX-License-Identifier: MIT
/* The kernel pager: how a pool of /dev/kvtier comes and goes. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "error.h"
#include "kernel.h"
#include "vma.h"

/* A child made by fork() has no use for it, and must not write to it unawares. */
static int map_pool(struct kvt_kernel *k)
{
	char *addr = kvt_vma_reserve(k->pool.bytes);
	int error;

	if (!addr)
		return kvt_fail(-errno, "cannot reserve %llu MiB of address space: %s",
				(unsigned long long)k->pool.bytes >> 20, strerror(errno));
	if (mmap(addr, k->pool.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, k->fd, 0) ==
	    MAP_FAILED) {
		error = -errno;
		munmap(addr, k->pool.bytes);
		return kvt_fail(error, "cannot map the pool: %s", strerror(-error));
	}
	madvise(addr, k->pool.bytes, MADV_DONTFORK);
	k->pool.addr = addr;
	return 0;
}

/* Free whatever has been set up. */
static void tear_down(struct kvt_kernel *k)
{
	if (k->pool.addr)
		munmap(k->pool.addr, k->pool.bytes);
	if (k->fd >= 0)
		close(k->fd);
	pthread_mutex_destroy(&k->lock);
	free(k);
}

static int set_up(struct kvt_kernel *k, const struct kvt_config *c)
{
	int ret;

	k->fd = kvt_kernel_open();
	if (k->fd < 0)
		return k->fd;
	ret = kvt_kernel_create(k->fd, c, &k->id);
	return ret ? ret : map_pool(k);
}

static int create(const struct kvt_config *c, struct kvt_pool **pool)
{
	struct kvt_kernel *k = calloc(1, sizeof(*k));
	int ret;

	if (!k)
		return -ENOMEM;
	k->fd = -1;
	k->pool.pid = getpid();
	k->pool.bytes = c->bytes;
	k->pool.block_bytes = (uint32_t)c->block_bytes;
	k->pool.block_shift = (uint32_t)__builtin_ctzll(c->block_bytes);
	pthread_mutex_init(&k->lock, NULL);
	ret = set_up(k, c);
	if (ret) {
		tear_down(k);
		return ret;
	}
	kvt_kernel_stat_open(k, c);
	*pool = &k->pool;
	return 0;
}

/* In a child made by fork() the mapping is not there; its address may be another's. */
static void destroy(struct kvt_pool *pool)
{
	struct kvt_kernel *k = kvt_kernel_of(pool);

	if (pool->pid == getpid()) {
		kvt_kernel_stat_close(k);
	} else {
		kvt_stat_forget(&k->stat);
		pool->addr = NULL;
	}
	tear_down(k);
}

const struct kvt_pager_ops kvt_pager_kernel = {
	.name = "kernel",
	.create = create,
	.destroy = destroy,
	.resize = kvt_kernel_resize,
	.range_op = kvt_kernel_range_op,
	.clone = kvt_kernel_clone,
	.query = kvt_kernel_query,
	.stats = kvt_kernel_stats,
	.event_fd = kvt_kernel_event_fd,
	.event_read = kvt_kernel_event_read,
	.checkpoint = kvt_kernel_checkpoint,
	.adopt = kvt_kernel_adopt,
	.fetch_open = kvt_kernel_fetch_open,
	.key = kvt_kernel_key,
	.set_key = kvt_kernel_set_key,
	.release = kvt_kernel_release,
};
