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

enum kind {
	FREE,
	PLAIN, /* memory that the engine's allocator gave */
	POOL,
	INHERITED, /* a pool of the process that forked this one: not mapped here */
};

struct buffer {
	_Atomic(char *) addr; /* read without the lock by known() */
	enum kind kind;
	size_t bytes;
	struct kvt_pool *pool;
	uint64_t block_bytes;
	uint64_t least; /* DRAM that the pool needs to work */
	uint64_t cxl_bytes;
	uint64_t nvme_bytes;
};

/* Of all pools together. */
struct sums {
	uint64_t bytes;
	uint64_t least;
	uint64_t cxl_bytes;
	uint64_t nvme_bytes;
	uint64_t plain_bytes; /* of the buffers that are no pools */
};

/*
 * Who changes the entries has both, who reads them one of the two.  Pools are made, resized
 * and ended under the first, which may take long; fork() waits for the second alone.
 */
static pthread_mutex_t work = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct buffer buffers[BUFFERS_MAX];
static atomic_uint nr_buffers; /* entries from here on were never used; never goes down */

/*
 * Without the lock: free() of anything else must cost nothing, and is called
 * by this very file while it holds the lock.
 */
static bool known(const void *addr)
{
	unsigned int nr = atomic_load_explicit(&nr_buffers, memory_order_relaxed), i;

	for (i = 0; i < nr; i++)
		if (atomic_load_explicit(&buffers[i].addr, memory_order_relaxed) == addr)
			return addr != NULL;
	return false;
}

static struct buffer *find(const void *addr)
{
	unsigned int i;

	for (i = 0; i < atomic_load(&nr_buffers); i++)
		if (buffers[i].kind != FREE && buffers[i].addr == addr)
			return &buffers[i];
	return NULL;
}

static struct buffer *find_free(void)
{
	unsigned int i;

	for (i = 0; i < BUFFERS_MAX; i++)
		if (buffers[i].kind == FREE)
			return &buffers[i];
	return NULL;
}

/* @addr becomes visible to known() last. */
static void put(struct buffer *b, const struct buffer *new, char *addr)
{
	unsigned int index = (unsigned int)(b - buffers);

	pthread_mutex_lock(&lock);
	*b = *new;
	atomic_store(&b->addr, addr);
	if (index >= atomic_load(&nr_buffers))
		atomic_store(&nr_buffers, index + 1);
	pthread_mutex_unlock(&lock);
}

static void take_out(struct buffer *b)
{
	pthread_mutex_lock(&lock);
	atomic_store(&b->addr, NULL);
	memset(b, 0, sizeof(*b));
	pthread_mutex_unlock(&lock);
}

static void add_to(struct sums *s, const struct buffer *b)
{
	if (b->kind == PLAIN)
		s->plain_bytes += b->bytes;
	if (b->kind != POOL)
		return;
	s->bytes += b->bytes;
	s->least += b->least;
	s->cxl_bytes += b->cxl_bytes;
	s->nvme_bytes += b->nvme_bytes;
}

static struct sums sum_up(void)
{
	struct sums s = { 0 };
	unsigned int i;

	for (i = 0; i < BUFFERS_MAX; i++)
		add_to(&s, &buffers[i]);
	return s;
}

/* What the plain buffers leave to the pools. */
static uint64_t pool_budget(const struct sums *s)
{
	uint64_t dram = kvt_settings()->dram_bytes;

	return dram > s->plain_bytes ? dram - s->plain_bytes : 0;
}

static uint64_t share(const struct buffer *b, const struct sums *all)
{
	double spare = (double)(pool_budget(all) - all->least);
	double part = (double)(b->bytes - b->least) / (double)(all->bytes - all->least);

	return all->bytes > all->least ? b->least + (uint64_t)(spare * part) : b->least;
}

/* Give every pool its part; @all may hold one that is still to come. */
static int divide(const struct sums *all)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < BUFFERS_MAX && !ret; i++)
		if (buffers[i].kind == POOL)
			ret = kvt_pool_resize(buffers[i].pool, share(&buffers[i], all));
	return ret;
}

static void divide_anew(void)
{
	struct sums now = sum_up();

	if (now.bytes && now.least <= pool_budget(&now))
		divide(&now);
}

static uint64_t least_of(const struct kvt_cache *cache, uint64_t block, uint64_t bytes)
{
	uint64_t least = kvt_cache_dram_min(cache, block);

	return least < bytes ? least : bytes;
}

/* The block size for the part that @b will get: smaller ones need less to work. */
static void choose_block(struct buffer *b, const struct kvt_cache *cache, const struct sums *others)
{
	double part = (double)b->bytes / (double)(others->bytes + b->bytes);
	uint64_t mine = (uint64_t)((double)pool_budget(others) * part);

	b->block_bytes = kvt_settings()->block_bytes;
	if (!b->block_bytes) {
		b->block_bytes = kvt_cache_block_bytes(cache, mine);
		while (b->block_bytes > KVT_BLOCK_MIN &&
		       least_of(cache, b->block_bytes, b->bytes) > mine)
			b->block_bytes >>= 1;
	}
	b->least = least_of(cache, b->block_bytes, b->bytes);
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* What the others left of the budgets that are not divided anew; false: nothing. */
static bool take_rest(struct buffer *b, const struct sums *others)
{
	const struct kvt_settings *s = kvt_settings();

	if (s->cxl_bytes > others->cxl_bytes)
		b->cxl_bytes = smaller(s->cxl_bytes - others->cxl_bytes, b->bytes);
	if (!s->nvme_bytes) /* as much as needed */
		return true;
	if (s->nvme_bytes <= others->nvme_bytes)
		return false;
	b->nvme_bytes = smaller(s->nvme_bytes - others->nvme_bytes, b->bytes + b->least);
	return true;
}

static struct kvt_pool *create(const struct buffer *b, uint64_t dram)
{
	const struct kvt_settings *s = kvt_settings();
	struct kvt_config c = KVT_CONFIG_INIT;
	struct kvt_pool *pool;

	c.bytes = b->bytes;
	c.dram_bytes = dram;
	c.block_bytes = b->block_bytes;
	c.cxl_node = b->cxl_bytes ? s->cxl_node : -1;
	c.cxl_bytes = b->cxl_bytes;
	c.pager = s->kernel ? KVT_PAGER_KERNEL : KVT_PAGER_USER;
	c.nvme_path = s->nvme_path;
	c.nvme_bytes = b->nvme_bytes;
	/* As much as needed: with no path the library cannot know that NVMe is wanted. */
	if (s->kernel && !c.nvme_bytes)
		c.nvme_bytes = b->bytes + KVT_BLOCK_MAX;
	if (kvt_pool_create(&c, &pool)) {
		kvt_refuse("%s", kvt_error_detail());
		return NULL;
	}
	return pool;
}

static unsigned long long mib(uint64_t bytes)
{
	return (bytes + (1 << 20) - 1) >> 20;
}

static bool budgets_suffice(struct buffer *b, const struct sums *others, const struct sums *all)
{
	if (all->least > pool_budget(all)) {
		kvt_refuse(
			"a KV cache of %lluM does not work with --dram %lluM: one layer's keys and "
			"values and the blocks on the move must fit; give `--dram %lluM` or more",
			mib(b->bytes), (unsigned long long)kvt_settings()->dram_bytes >> 20,
			mib(all->least + all->plain_bytes));
		return false;
	}
	if (!take_rest(b, others)) {
		kvt_refuse("a KV cache of %lluM comes when others have taken all NVMe space; give "
			   "--nvme PATH:SIZE a larger SIZE",
			   mib(b->bytes));
		return false;
	}
	return true;
}

/* The pools that are there shrink first, so that the budget is never exceeded. */
static bool make_pool(struct buffer *b, const struct kvt_cache *cache)
{
	struct sums others = sum_up(), all;

	choose_block(b, cache, &others);
	all = others;
	add_to(&all, b);
	if (!budgets_suffice(b, &others, &all))
		return false;
	if (divide(&all))
		kvt_refuse("the other caches could not make room: %s", kvt_error_detail());
	else
		b->pool = create(b, share(b, &all));
	if (!b->pool)
		divide_anew();
	return b->pool != NULL;
}

void *kvt_buffer_add(const struct kvt_cache *cache, size_t bytes, bool *plain)
{
	struct buffer new = { .kind = POOL, .bytes = bytes };
	struct buffer *entry, *stale;
	void *addr = NULL;
	struct sums now;

	pthread_mutex_lock(&work);
	now = sum_up();
	*plain = now.plain_bytes + now.bytes + bytes <= kvt_settings()->dram_bytes;
	if (*plain)
		goto unlock;
	entry = find_free();
	if (!entry) {
		kvt_refuse("a process can have %d KV caches at once", BUFFERS_MAX);
		goto unlock;
	}
	if (!make_pool(&new, cache))
		goto unlock;
	addr = kvt_pool_addr(new.pool);
	stale = find(addr);
	if (stale) /* the parent's pool was there, which this process never had */
		take_out(stale);
	put(entry, &new, addr);
	kvt_tell("pool %d %zu", getpid(), bytes);
unlock:
	pthread_mutex_unlock(&work);
	return addr;
}

void kvt_buffer_add_plain(void *addr, size_t bytes)
{
	const struct buffer new = { .kind = PLAIN, .bytes = bytes };
	struct buffer *entry;

	pthread_mutex_lock(&work);
	entry = find_free();
	if (entry)
		put(entry, &new, addr);
	kvt_tell("plain %d %zu", getpid(), bytes);
	pthread_mutex_unlock(&work);
}

bool kvt_buffer_remove(void *addr)
{
	struct buffer *b, old = { .kind = FREE };

	if (!known(addr))
		return false;
	pthread_mutex_lock(&work);
	b = find(addr);
	if (b) {
		old.kind = b->kind;
		old.pool = b->pool;
		take_out(b);
	}
	if (old.kind == POOL)
		kvt_pool_destroy(old.pool);
	if (old.kind == POOL || old.kind == PLAIN)
		divide_anew();
	pthread_mutex_unlock(&work);
	return old.kind == POOL || old.kind == INHERITED;
}

bool kvt_buffer_zero(void *addr)
{
	struct buffer *b;
	bool zeroed = false;

	if (!known(addr))
		return false;
	pthread_mutex_lock(&work);
	b = find(addr);
	if (b && b->kind == POOL) /* blocks that were never touched cost nothing */
		zeroed = !kvt_discard(b->pool, 0, kvt_pool_bytes(b->pool));
	pthread_mutex_unlock(&work);
	return zeroed;
}

enum kvt_owner kvt_buffer_owner(void *addr, size_t *bytes)
{
	static const enum kvt_owner owners[] = {
		[FREE] = KVT_NOT_OURS,
		[PLAIN] = KVT_PLAIN,
		[POOL] = KVT_POOL,
		[INHERITED] = KVT_INHERITED,
	};
	enum kvt_owner owner = KVT_NOT_OURS;
	struct buffer *b;

	if (!known(addr))
		return KVT_NOT_OURS;
	pthread_mutex_lock(&lock);
	b = find(addr);
	if (b) {
		owner = owners[b->kind];
		*bytes = b->bytes;
	}
	pthread_mutex_unlock(&lock);
	return owner;
}

/* fork() copies the locks and the entries, but no pool: its memory is not there. */
static void before_fork(void)
{
	pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
	pthread_mutex_unlock(&lock);
}

static void after_fork_in_child(void)
{
	unsigned int i;

	for (i = 0; i < BUFFERS_MAX; i++)
		if (buffers[i].kind == POOL)
			buffers[i].kind = INHERITED;
	pthread_mutex_init(&work, NULL); /* its holder is a thread of the parent's */
	pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(before_fork, after_fork, after_fork_in_child);
}
