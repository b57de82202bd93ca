// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>

#include "conf.h"

uint32_t conf_min_dram(struct conf *c, size_t block)
{
	if (!block)
		block = c->block;
	CONF_GE(block, KVT_BLOCK_MIN);
	return (uint32_t)((kvt_dram_bytes_min(block) + block - 1) / block);
}

struct kvt_config conf_config(struct conf *c, const struct conf_spec *spec)
{
	struct kvt_config config = KVT_CONFIG_INIT;
	size_t block = spec->block ? spec->block : c->block;
	uint32_t dram = spec->dram;

	if (!dram) {
		dram = conf_min_dram(c, block);
		if (dram > spec->blocks)
			dram = spec->blocks;
	}
	config.pager = c->pager;
	config.flags = spec->flags | KVT_NO_STATS_FILE;
	config.block_bytes = block;
	config.bytes = (uint64_t)spec->blocks * block;
	config.dram_bytes = (uint64_t)dram * block;
	config.nvme_bytes = (uint64_t)spec->nvme * block;
	config.nvme_path = spec->no_nvme ? NULL : spec->path ? spec->path : c->dir;
	config.io_deadline_ms = spec->deadline_ms;
	config.name = "conformance";
	return config;
}

int conf_pool_try(struct conf *c, const struct conf_spec *spec, struct kvt_pool **pool)
{
	struct kvt_config config = conf_config(c, spec);

	*pool = NULL;
	return kvt_pool_create(&config, pool);
}

struct kvt_pool *conf_pool(struct conf *c, const struct conf_spec *spec)
{
	struct kvt_pool *pool;

	CONF_RET(conf_pool_try(c, spec, &pool), 0);
	return pool;
}

char *conf_addr(struct kvt_pool *pool, uint64_t block)
{
	return (char *)kvt_pool_addr(pool) + block * kvt_pool_block_bytes(pool);
}

uint32_t conf_blocks(struct kvt_pool *pool)
{
	return (uint32_t)(kvt_pool_bytes(pool) / kvt_pool_block_bytes(pool));
}

struct kvtier_block_info conf_info(struct kvt_pool *pool, uint64_t block)
{
	struct kvtier_block_info info;

	CONF_RET(kvt_query(pool, block, 1, &info), 0);
	return info;
}

struct kvtier_stats conf_stats(struct kvt_pool *pool)
{
	struct kvtier_stats stats;

	CONF_RET(kvt_stats(pool, &stats), 0);
	return stats;
}

bool conf_resident(struct kvt_pool *pool, uint64_t block)
{
	uint32_t tier = conf_info(pool, block).tier;

	return tier == KVTIER_TIER_DRAM || tier == KVTIER_TIER_CXL;
}

void conf_demote_all(struct kvt_pool *pool)
{
	uint32_t i;

	CONF_RET(kvt_demote(pool, 0, kvt_pool_bytes(pool)), 0);
	for (i = 0; i < conf_blocks(pool); i++)
		CONF_EQ(conf_resident(pool, i), false);
}

char *conf_path(struct conf *c, const char *name)
{
	char *path;

	CONF_SYS(asprintf(&path, "%s/%s", c->dir, name));
	return path;
}
