// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "buffers.h"
#include "kvtier.h"
#include "settings.h"

#define BUFFERS_MAX 64

struct buffer {
	_Atomic(char *) addr; /* NULL: free entry; read without the lock by known() */
	size_t bytes;
	struct kvt_pool *pool; /* NULL: plain memory */
	struct kvt_cache cache;
	uint64_t block_bytes;
	bool fresh; /* nobody has cleared it yet */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static struct buffer buffers[BUFFERS_MAX];
static pid_t owner;

static atomic_uint nr_buffers;

/*
 * Without the lock: free() of anything else must cost nothing, and is called
 * by this very file while it holds the lock.
 */
static bool known(const void *addr)
{
	int i;

	if (!addr || !atomic_load_explicit(&nr_buffers, memory_order_relaxed))
		return false;
	for (i = 0; i < BUFFERS_MAX; i++)
		if (atomic_load_explicit(&buffers[i].addr, memory_order_relaxed) == addr)
			return true;
	return false;
}

static struct buffer *find(const void *addr)
{
	int i;

	for (i = 0; i < BUFFERS_MAX; i++)
		if (buffers[i].addr == addr)
			return &buffers[i];
	return NULL;
}

static void sum_up(uint64_t *plain, uint64_t *pooled)
{
	int i;

	*plain = *pooled = 0;
	for (i = 0; i < BUFFERS_MAX; i++) {
		if (!buffers[i].addr)
			continue;
		if (buffers[i].pool)
			*pooled += buffers[i].bytes;
		else
			*plain += buffers[i].bytes;
	}
}

static uint64_t share(uint64_t budget, uint64_t bytes, uint64_t all)
{
	return (uint64_t)((double)budget * (double)bytes / (double)all);
}

/* Give every pool its part of @budget, @all being the size of all pools. */
static int divide(uint64_t budget, uint64_t all)
{
	int i, ret = 0;

	for (i = 0; i < BUFFERS_MAX && !ret; i++)
		if (buffers[i].pool)
			ret = kvt_pool_resize(buffers[i].pool, share(budget, buffers[i].bytes, all));
	return ret;
}

static bool shares_suffice(uint64_t budget, uint64_t all)
{
	int i;

	for (i = 0; i < BUFFERS_MAX; i++) {
		const struct buffer *b = &buffers[i];

		if (b->pool && share(budget, b->bytes, all) <
				       kvt_cache_dram_min(&b->cache, b->block_bytes))
			return false;
	}
	return true;
}

static struct kvt_pool *create(const struct kvt_cache *cache, size_t bytes, uint64_t dram,
			       uint64_t block)
{
	const struct kvt_settings *s = kvt_settings();
	struct kvt_config c = KVT_CONFIG_INIT;
	struct kvt_pool *pool;

	(void)cache;
	c.bytes = bytes;
	c.dram_bytes = dram;
	c.block_bytes = block;
	c.cxl_node = s->cxl_node;
	c.cxl_bytes = s->cxl_bytes;
	c.nvme_path = s->nvme_path;
	c.nvme_bytes = s->nvme_bytes;
	if (kvt_pool_create(&c, &pool)) {
		kvt_tell(1, "refused: %s", kvt_error_detail());
		return NULL;
	}
	return pool;
}

static unsigned long long kib(uint64_t bytes)
{
	return (unsigned long long)(bytes + 1023) >> 10;
}

/* Under the lock: the new pool in @b, after the others have made room. */
static bool add_pool(struct buffer *b, uint64_t budget, uint64_t pooled)
{
	const struct kvt_settings *s = kvt_settings();
	uint64_t all = pooled + b->bytes, mine = share(budget, b->bytes, all), least;

	b->block_bytes = s->block_bytes ? s->block_bytes : kvt_cache_block_bytes(&b->cache, mine);
	least = kvt_cache_dram_min(&b->cache, b->block_bytes);
	if (mine < least || !shares_suffice(budget, all)) {
		kvt_tell(1, "refused: a KV cache of %llu KiB gets %llu KiB of DRAM, but one layer's keys "
			    "and values and the blocks on the move need %llu KiB; give `--dram %lluK` "
			    "or more", kib(b->bytes), kib(mine), kib(least),
			 kib(pooled ? (uint64_t)((double)least / (double)b->bytes * (double)all) :
				      least));
		return false;
	}
	if (pooled && divide(budget, all)) {
		kvt_tell(1, "refused: the other caches could not make room: %s", kvt_error_detail());
		divide(budget, pooled);
		return false;
	}
	b->pool = create(&b->cache, b->bytes, mine, b->block_bytes);
	if (!b->pool && pooled)
		divide(budget, pooled);
	return b->pool != NULL;
}

static void forget_parents(void)
{
	if (owner == getpid())
		return;
	memset(buffers, 0, sizeof(buffers));
	atomic_store(&nr_buffers, 0);
	owner = getpid();
}

void *kvt_buffer_add(const struct kvt_cache *cache, size_t bytes, bool *plain)
{
	const struct kvt_settings *s = kvt_settings();
	struct buffer *b, new = { .bytes = bytes, .cache = *cache, .fresh = true };
	uint64_t plain_bytes, pooled;
	void *addr = NULL;

	pthread_mutex_lock(&lock);
	forget_parents();
	sum_up(&plain_bytes, &pooled);
	b = find(NULL);
	*plain = plain_bytes + pooled + bytes <= s->dram_bytes;
	if (*plain || !b)
		goto unlock;
	if (!add_pool(&new, s->dram_bytes > plain_bytes ? s->dram_bytes - plain_bytes : 0, pooled))
		goto unlock;
	new.addr = addr = kvt_pool_addr(new.pool);
	*b = new;
	atomic_fetch_add(&nr_buffers, 1);
	kvt_tell(0, "pool %d %zu", getpid(), bytes);
unlock:
	pthread_mutex_unlock(&lock);
	return addr;
}

void kvt_buffer_add_plain(void *addr, size_t bytes)
{
	struct buffer *b;

	pthread_mutex_lock(&lock);
	forget_parents();
	b = find(NULL);
	if (b) {
		*b = (struct buffer){ .addr = addr, .bytes = bytes };
		atomic_fetch_add(&nr_buffers, 1);
	}
	kvt_tell(0, "plain %d %zu", getpid(), bytes);
	pthread_mutex_unlock(&lock);
}

bool kvt_buffer_remove(void *addr)
{
	const struct kvt_settings *s;
	struct kvt_pool *pool = NULL;
	uint64_t plain, pooled;
	bool inherited;
	struct buffer *b;

	if (!known(addr))
		return false;
	pthread_mutex_lock(&lock);
	inherited = owner != getpid();
	b = find(addr);
	if (b) {
		pool = b->pool;
		memset(b, 0, sizeof(*b));
		atomic_fetch_sub(&nr_buffers, 1);
	}
	if (pool && !inherited) {
		kvt_pool_destroy(pool);
		s = kvt_settings();
		sum_up(&plain, &pooled);
		if (pooled && s->dram_bytes > plain)
			divide(s->dram_bytes - plain, pooled);
	}
	pthread_mutex_unlock(&lock);
	return pool != NULL;
}

bool kvt_buffer_zero(void *addr)
{
	struct buffer *b;
	bool zeroed = false;

	if (!known(addr))
		return false;
	pthread_mutex_lock(&lock);
	b = owner == getpid() ? find(addr) : NULL;
	if (b && b->pool) {
		zeroed = b->fresh || !kvt_discard(b->pool, 0, kvt_pool_bytes(b->pool));
		b->fresh = false;
	}
	pthread_mutex_unlock(&lock);
	return zeroed;
}
