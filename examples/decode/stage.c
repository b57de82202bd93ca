// SPDX-License-Identifier: MIT
#include <err.h>
#include <string.h>

#include "stage.h"

/* Small blocks suit small models; a block should hold a few tokens at least. */
static uint64_t block_bytes(uint64_t row)
{
	uint64_t block = KVT_BLOCK_MIN;

	while (block < KVT_BLOCK_MAX && block < 16 * row)
		block *= 2;
	return block;
}

static void geometry(struct kvt_geometry *g, const struct model *m, uint32_t layers, uint32_t type)
{
	g->layers = layers;
	g->kv_heads = m->kv_heads;
	g->k_dim = g->v_dim = m->head_dim;
	g->k_type = g->v_type = type;
	memcpy(g->model, &m->fingerprint, sizeof(m->fingerprint));
}

/* Attention that reads the next blocks while it is at these. */
static void open_stream(struct stage *s, struct kvt_attend *attend)
{
	struct kvt_stream_config config = KVT_STREAM_CONFIG_INIT;

	config.attend = attend;
	config.pool = s->pool;
	if (kvt_stream_create(&config, &s->stream) || kvt_cache_set_stream(s->cache, s->stream))
		errx(1, "%s", kvt_error_detail());
}

void stage_open(struct stage *s, const struct model *m, const struct options *o, uint32_t layers,
		uint32_t tokens, uint64_t dram, struct kvt_attend *attend)
{
	uint32_t type = o->type;
	uint64_t row = 2 * kvt_row_bytes(type, m->head_dim) * m->kv_heads, block, fit, blocks;
	struct kvt_config config = KVT_CONFIG_INIT;
	struct kvt_geometry g = KVT_GEOMETRY_INIT;

	memset(s, 0, sizeof(*s));
	block = block_bytes(row);
	fit = row ? (block - 128) / row : 0;
	if (!fit)
		errx(1, "heads of %u elements cannot be of type %s", m->head_dim,
		     kvt_type_name(type));
	geometry(&g, m, layers, type);
	g.block_tokens = o->block_tokens < fit ? o->block_tokens : (uint32_t)fit;
	blocks = (tokens / g.block_tokens + 4) * layers;
	config.pager = KVT_PAGER_USER;
	config.name = "decode";
	config.block_bytes = block;
	config.bytes = blocks * block;
	config.dram_bytes = dram && dram < config.bytes ? dram : config.bytes;
	config.nvme_path = config.dram_bytes < config.bytes ? o->nvme : NULL;
	if (kvt_pool_create(&config, &s->pool) || kvt_cache_create(s->pool, &g, &s->cache) ||
	    kvt_seq_create(s->cache, &s->seq))
		errx(1, "%s", kvt_error_detail());
	s->pool_bytes = config.bytes;
	if (config.nvme_path)
		open_stream(s, attend);
	s->dram_bytes = config.dram_bytes;
}

void stage_policy(struct stage *s, const struct options *o)
{
	struct kvt_policy policy = KVT_POLICY_INIT;

	if (o->policy == KVT_KEEP_ALL && !o->flags)
		return;
	policy.kind = o->policy;
	policy.flags = o->flags;
	policy.sinks = o->sinks;
	policy.window = o->policy == KVT_WINDOW && o->budget > o->sinks ? o->budget - o->sinks :
									  o->window;
	policy.budget = o->policy == KVT_WINDOW ? 0 : o->budget;
	if (kvt_seq_set_policy(s->seq, &policy))
		errx(1, "%s", kvt_error_detail());
}

void stage_close(struct stage *s)
{
	kvt_stream_destroy(s->stream);
	kvt_seq_destroy(s->seq);
	kvt_cache_destroy(s->cache);
	kvt_pool_destroy(s->pool);
}

uint64_t stage_read_bytes(const struct stage *s)
{
	struct kvtier_stats stats = { .size = sizeof(stats) };

	return kvt_stats(s->pool, &stats) ? 0 : stats.tier[KVTIER_TIER_NVME].bytes_out;
}

uint32_t stage_token_bytes(const struct stage *s)
{
	const struct kvt_geometry *g = kvt_cache_geometry(s->cache);

	return g->layers * (g->k_bytes + g->v_bytes);
}

uint64_t stage_block_bytes(const struct stage *s)
{
	return kvt_pool_block_bytes(s->pool);
}
