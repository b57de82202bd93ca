// SPDX-License-Identifier: MIT
/*
 * The real pool of kvtier trace replay --pool.  Block n of the trace is block n of the
 * pool.  The model (trace_tiers.h) decides; the pool moves real bytes; what is counted is
 * where the pool says that a block is at the moment of its turn.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "command.h"
#include "trace_pool.h"

#define BATCH 256
#define TRANSIT 32 /* frames beyond the model's room: transfers under way */

struct mirror {
	const struct trace *t;
	struct tiers model;
	struct kvt_pool *pool;
	struct trace_pool_result *result;
	uint64_t *pattern; /* one block, as it should be */
	size_t block_bytes;
	uint8_t *written;
	struct kvtier_range range[2][BATCH]; /* to demote, to promote */
	uint32_t nr[2];
	bool in_turn;
	int error;
};

/* ---- bytes --------------------------------------------------------------------- */

static void make_pattern(struct mirror *m, uint32_t block)
{
	uint64_t word = ((uint64_t)block + 1) * 0x9e3779b97f4a7c15ull;
	size_t i, nr = m->block_bytes / sizeof(word);

	for (i = 0; i < nr; i++, word += 0xd1342543de82ef95ull)
		m->pattern[i] = word;
}

static char *address(const struct mirror *m, uint32_t block)
{
	return (char *)kvt_pool_addr(m->pool) + (size_t)block * m->block_bytes;
}

static void read_block(struct mirror *m, uint32_t block)
{
	make_pattern(m, block);
	if (memcmp(address(m, block), m->pattern, m->block_bytes))
		m->result->wrong_blocks++;
}

static int write_block(struct mirror *m, uint32_t block)
{
	make_pattern(m, block);
	memcpy(address(m, block), m->pattern, m->block_bytes);
	m->written[block] = 1;
	return kvt_seal(m->pool, (uint64_t)block * m->block_bytes, m->block_bytes);
}

/* ---- moves --------------------------------------------------------------------- */

/* Transfers are started, not waited for: what is late is late. */
static void flush(struct mirror *m, bool promoted)
{
	uint32_t op = promoted ? KVTIER_OP_PROMOTE : KVTIER_OP_DEMOTE;
	int ret = m->nr[promoted] ? kvt_range_op(m->pool, op, KVTIER_TIER_NONE, KVTIER_OP_NOWAIT,
						 m->range[promoted], m->nr[promoted]) :
				    0;

	m->nr[promoted] = 0;
	if (ret < 0 && !m->error)
		m->error = ret;
}

static void moved(void *arg, uint32_t block, bool promoted)
{
	struct mirror *m = arg;

	if ((promoted && m->in_turn) || !m->written[block]) /* the touch itself brings it in */
		return;
	flush(m, !promoted); /* in order */
	m->range[promoted][m->nr[promoted]++] = (struct kvtier_range){
		.offset = (uint64_t)block * m->block_bytes, .length = m->block_bytes
	};
	if (m->nr[promoted] == BATCH)
		flush(m, promoted);
}

/* ---- turns --------------------------------------------------------------------- */

static int count(struct mirror *m, uint32_t block)
{
	struct kvtier_block_info info;
	int ret = kvt_query(m->pool, block, 1, &info);

	if (ret < 0)
		return ret;
	if (info.state != KVTIER_BLOCK_MOVING &&
	    (info.tier == KVTIER_TIER_DRAM || info.tier == KVTIER_TIER_CXL))
		m->result->dram_hits++;
	else
		m->result->nvme_hits++;
	return 0;
}

static int turn(struct mirror *m, size_t i)
{
	const uint32_t *b = trace_blocks(m->t, i);
	bool leading = true;
	uint32_t k;
	int ret = 0;

	flush(m, false);
	flush(m, true);
	for (k = 0; k < m->t->request[i].nr && !ret; k++) {
		if (m->t->prefix)
			leading = leading && m->written[b[k]];
		else
			leading = m->written[b[k]];
		if (leading)
			ret = count(m, b[k]);
		else
			m->result->missed++;
	}
	for (k = 0; k < m->t->request[i].nr && !ret; k++) {
		if (m->written[b[k]])
			read_block(m, b[k]);
		else
			ret = write_block(m, b[k]);
	}
	return ret;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void pause_until(double when)
{
	double left = when - now();
	struct timespec t = { .tv_sec = (time_t)left,
			      .tv_nsec = (long)((left - (double)(time_t)left) * 1e9) };

	if (left > 0)
		nanosleep(&t, NULL);
}

static int replay(struct mirror *m, double speed, void (*progress)(void *, size_t), void *arg)
{
	double begun = now();
	size_t i;
	int ret = 0;

	for (i = 0; i < m->t->nr_requests && !ret; i++) {
		m->in_turn = false;
		tiers_until_turn(&m->model, i);
		if (speed > 0)
			pause_until(begun + m->t->request[i].at / speed);
		ret = turn(m, i);
		m->in_turn = true;
		if (!ret)
			ret = tiers_turn(&m->model, i);
		if (!ret)
			ret = m->error;
		progress(arg, i + 1);
	}
	m->result->seconds = now() - begun;
	return ret;
}

static int make_pool(struct mirror *m, const struct kvt_config *given, uint32_t dram)
{
	struct kvt_config config = *given;
	uint64_t least;

	config.block_bytes = config.block_bytes ?: KVT_BLOCK_MIN;
	m->block_bytes = config.block_bytes;
	least = kvt_dram_bytes_min(config.block_bytes);
	config.bytes = (uint64_t)m->t->nr_blocks * config.block_bytes;
	config.dram_bytes = ((uint64_t)dram + TRANSIT) * config.block_bytes;
	if (config.dram_bytes < least)
		config.dram_bytes = least;
	if (config.dram_bytes >= config.bytes)
		config.dram_bytes = 0;
	if (kvt_pool_create(&config, &m->pool))
		return fail(1, "cannot make a pool of %u blocks: %s", m->t->nr_blocks,
			    kvt_error_detail());
	m->pattern = malloc(m->block_bytes);
	m->written = calloc(m->t->nr_blocks, 1);
	return m->pattern && m->written ? 0 : fail(1, "out of memory");
}

int trace_pool_run(const struct trace *t, const struct tiers_config *config,
		   const struct kvt_config *pool, double speed, struct trace_pool_result *result,
		   void (*progress)(void *arg, size_t done), void *arg)
{
	struct mirror m = { .t = t, .result = result };
	int ret;

	memset(result, 0, sizeof(*result));
	if (tiers_init(&m.model, t, config))
		return fail(1, "out of memory");
	m.model.moved = moved;
	m.model.moved_arg = &m;
	ret = make_pool(&m, pool, config->dram);
	if (!ret) {
		ret = replay(&m, speed, progress, arg);
		if (ret)
			ret = fail(1, "the pool failed: %s", kvt_strerror(ret));
		kvt_stats(m.pool, &result->stats);
		strncpy(result->pager, kvt_pool_pager(m.pool), sizeof(result->pager) - 1);
	}
	kvt_pool_destroy(m.pool);
	tiers_free(&m.model);
	free(m.pattern);
	free(m.written);
	return ret;
}
