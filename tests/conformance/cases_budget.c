// SPDX-License-Identifier: MIT
/* Budgets are checked before anything is allocated and hold ever after. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "conf.h"

static void refused(struct conf *c, const struct conf_spec *spec, int error)
{
	struct kvt_pool *pool;

	CONF_RET(conf_pool_try(c, spec, &pool), error);
	CONF_EQ(pool == NULL, true);
	CONF_EQ(strlen(kvt_error_detail()) > 0, true);
	CONF_EQ(conf_file_count(c->dir), 0);
}

static int budget_too_small(struct conf *c)
{
	uint32_t least = conf_min_dram(c, 0);
	char want[32];

	refused(c, &(struct conf_spec){ .blocks = 64, .dram = 32, .no_nvme = true }, -ENOSPC);
	refused(c, &(struct conf_spec){ .blocks = 64, .dram = 16, .nvme = 32 }, -ENOSPC);
	refused(c, &(struct conf_spec){ .blocks = 0, .dram = 16 }, -EINVAL);
	refused(c, &(struct conf_spec){ .blocks = 64, .dram = least - 1 }, -EINVAL);
	/* The least budget is said, in KiB. */
	snprintf(want, sizeof(want), "%llu KiB",
		 (unsigned long long)kvt_dram_bytes_min(c->block) >> 10);
	CONF_EQ(strstr(kvt_error_detail(), want) != NULL, true);
	return CONF_PASS;
}

/* The least budget that is accepted really works. */
static int budget_least(struct conf *c)
{
	struct conf_spec spec = { .blocks = 64, .dram = conf_min_dram(c, 0) };
	struct kvt_pool *pool = conf_pool(c, &spec);
	uint32_t pass;

	for (pass = 1; pass < 4; pass++) {
		conf_fill(pool, 0, kvt_pool_bytes(pool), pass);
		conf_check(pool, 0, kvt_pool_bytes(pool), pass);
	}
	CONF_LE(conf_stats(pool).tier[KVTIER_TIER_DRAM].peak_bytes, kvt_dram_bytes_min(c->block));
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* The least NVMe space that is accepted really works. */
static int budget_nvme_least(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 16, .nvme = 16 };
	struct kvt_pool *pool;
	uint32_t pass;

	while (conf_pool_try(c, &spec, &pool) == -ENOSPC)
		CONF_LE(++spec.nvme, 32);
	for (pass = 1; pass < 6; pass++) {
		conf_fill(pool, 0, kvt_pool_bytes(pool), pass);
		conf_check(pool, 0, kvt_pool_bytes(pool), pass);
		conf_check(pool, 0, kvt_pool_bytes(pool), pass);
	}
	CONF_LE(conf_stats(pool).tier[KVTIER_TIER_NVME].peak_bytes,
		spec.nvme * kvt_pool_block_bytes(pool));
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* All of the pool fits: nothing may ever leave memory. */
static int budget_whole(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 32, .no_nvme = true };
	struct kvt_pool *pool = conf_pool(c, &spec);
	struct kvtier_stats stats;

	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	conf_check(pool, 0, kvt_pool_bytes(pool), 1);
	stats = conf_stats(pool);
	CONF_EQ(stats.demoted, 0);
	CONF_EQ(stats.written_blocks, 0);
	CONF_EQ(stats.faults, 32);
	CONF_RET(kvt_demote(pool, 0, kvt_pool_block_bytes(pool)), -ENODEV);
	CONF_RET(kvt_writeback(pool, 0, kvt_pool_block_bytes(pool)), -ENODEV);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

struct user {
	struct kvt_pool *pool;
	uint32_t number; /* blocks whose number modulo 2 is this are ours */
	atomic_bool *stop;
	uint64_t stamp[128];
};

static void *use(void *arg)
{
	struct user *u = arg;
	size_t block = kvt_pool_block_bytes(u->pool);
	uint64_t seed = u->number + 1;

	while (!atomic_load(u->stop)) {
		uint64_t b = conf_random(&seed) % (conf_blocks(u->pool) / 2) * 2 + u->number;

		if (u->stamp[b])
			conf_check(u->pool, b * block, block, u->stamp[b]);
		u->stamp[b] = conf_random(&seed) | 1;
		conf_fill(u->pool, b * block, block, u->stamp[b]);
	}
	return NULL;
}

static void resize_to(struct kvt_pool *pool, uint32_t blocks)
{
	uint64_t bytes = blocks * kvt_pool_block_bytes(pool);
	struct kvtier_stats stats;

	CONF_RET(kvt_pool_resize(pool, bytes), 0);
	stats = conf_stats(pool);
	CONF_LE(stats.tier[KVTIER_TIER_DRAM].used_bytes, bytes);
	CONF_LE(stats.tier[KVTIER_TIER_DRAM].budget_bytes, bytes);
}

static int resize_in_use(struct conf *c)
{
	struct conf_spec spec = { .blocks = 64, .dram = 32 };
	struct kvt_pool *pool = conf_pool(c, &spec);
	uint32_t least = conf_min_dram(c, 0), i;
	uint64_t base = conf_rss_bytes(), end = conf_now_ms() + 2000;
	static struct user users[2];
	atomic_bool stop = false;
	pthread_t threads[2];

	for (i = 0; i < 2; i++) {
		users[i] = (struct user){ .pool = pool, .number = i, .stop = &stop };
		CONF_EQ(pthread_create(&threads[i], NULL, use, &users[i]), 0);
	}
	while (conf_now_ms() < end) {
		resize_to(pool, least + 2);
		CONF_LE(conf_rss_bytes(), base + (least + 2) * c->block + CONF_RSS_SLACK);
		resize_to(pool, 48);
		resize_to(pool, 12);
		resize_to(pool, 64);
	}
	atomic_store(&stop, true);
	for (i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	for (i = 0; i < 64; i++)
		if (users[i % 2].stamp[i])
			conf_check(pool, i * c->block, c->block, users[i % 2].stamp[i]);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static int resize_refusals(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 32, .no_nvme = true, .deadline_ms = 500 };
	struct kvt_pool *pool = conf_pool(c, &spec);

	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	CONF_RET(kvt_pool_resize(pool, 0), -EINVAL);
	CONF_RET(kvt_pool_resize(pool, kvt_dram_bytes_min(c->block) - 1), -EINVAL);
	CONF_RET(kvt_pool_resize(pool, 16 * c->block), -ENOSPC);
	CONF_EQ(conf_stats(pool).tier[KVTIER_TIER_DRAM].budget_bytes, 32 * c->block);
	conf_check(pool, 0, kvt_pool_bytes(pool), 1);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* What the pool says it has is what it was given, rounded to whole blocks. */
static int budget_rounding(struct conf *c)
{
	struct conf_spec spec = { .blocks = 10, .dram = 5 };
	struct kvt_config config = conf_config(c, &spec);
	struct kvt_pool *pool;

	config.bytes -= c->block - 1;
	CONF_RET(kvt_pool_create(&config, &pool), 0);
	CONF_EQ(kvt_pool_bytes(pool), 10 * c->block);
	CONF_EQ(kvt_pool_block_bytes(pool), c->block);
	CONF_EQ((uintptr_t)kvt_pool_addr(pool) % MIB(2), 0);
	CONF_LE(conf_stats(pool).tier[KVTIER_TIER_DRAM].budget_bytes, 5 * c->block);
	kvt_pool_destroy(pool);
	config.block_bytes = 0; /* the library chooses */
	config.bytes = MIB(64);
	config.dram_bytes = MIB(16);
	CONF_RET(kvt_pool_create(&config, &pool), 0);
	CONF_EQ(kvt_pool_block_bytes(pool), kvt_block_bytes_for(MIB(64), MIB(16)));
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

const struct conf_case conf_budget_cases[] = {
	CONF_CASE(budget_too_small,
		  "budgets that cannot hold the pool are refused, with the least"),
	CONF_CASE(budget_least, "the least DRAM budget accepted works", .seconds = 60),
	CONF_CASE(budget_nvme_least, "the least NVMe space accepted works", .seconds = 60),
	CONF_CASE(budget_whole, "a pool that fits in memory never leaves it"),
	CONF_CASE(budget_rounding, "sizes are whole blocks, and the address is aligned"),
	CONF_CASE(resize_in_use, "the budget grows and shrinks under running threads",
		  .seconds = 60),
	CONF_CASE(resize_refusals, "a budget that cannot be met leaves the old one"),
	{ .name = NULL },
};
