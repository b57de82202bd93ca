// SPDX-License-Identifier: MIT
/*
 * What goes through all blocks of a pool of the module: idle pools leave memory, blocks
 * on NVMe are verified.  Both are operations of the module; this says on what and when.
 *
 * Of an idle pool the colder half, by the module's heat, goes to NVMe; the rest to CXL
 * memory, if the pool has some, else to NVMe too.  Touches of a pool of the module are not
 * seen here, so only what its client said counts, or that it has none.
 */
#include <errno.h>

#include "kvtierd.h"

#define BATCH 128u
#define OPS_MAX 8u /* commands under way */
#define RUN_MAX 16u /* blocks of one */

enum sweep { MEASURE, COLD_HALF, THE_REST, DONE };

void device_sweep_again(struct pool *p)
{
	p->sweep = MEASURE;
	p->sweep_at = 0;
	p->sweep_heat = p->sweep_blocks = 0;
}

static bool in_memory(const struct kvtier_block_info *i)
{
	return i->tier == KVTIER_TIER_DRAM || i->tier == KVTIER_TIER_CXL;
}

/* Where a block should go; KVTIER_TIER_NONE: it stays. */
static uint32_t target(const struct pool *p, const struct kvtier_block_info *i)
{
	bool warm = p->sweep_blocks && i->heat > p->sweep_heat / p->sweep_blocks;

	if (!in_memory(i) || i->flags & KVTIER_BLOCKF_PINNED || i->state == KVTIER_BLOCK_MOVING)
		return KVTIER_TIER_NONE;
	if (p->sweep == COLD_HALF && warm)
		return KVTIER_TIER_NONE;
	if (!warm || !p->t->budget[KVTIER_TIER_CXL])
		return KVTIER_TIER_NVME;
	return i->tier == KVTIER_TIER_CXL ? KVTIER_TIER_NONE : KVTIER_TIER_CXL;
}

static void measure(struct pool *p, const struct kvtier_block_info *infos, uint32_t nr)
{
	uint32_t i;

	for (i = 0; i < nr; i++) {
		if (!in_memory(&infos[i]))
			continue;
		p->sweep_heat += infos[i].heat;
		p->sweep_blocks++;
	}
}

/* Neighbours with one target go together. */
static uint32_t run_of(const struct pool *p, const struct kvtier_block_info *infos, uint32_t nr)
{
	uint32_t to = target(p, &infos[0]), i;

	for (i = 1; i < nr && target(p, &infos[i]) == to; i++)
		;
	return i;
}

static bool can_pay(struct pool *p, const struct kvtier_block_info *infos, uint32_t nr)
{
	uint64_t dirty = 0;
	uint32_t i;

	for (i = 0; i < nr; i++)
		dirty += infos[i].flags & KVTIER_BLOCKF_DIRTY ? 1 : 0;
	return !dirty || writeback_spend(p->d, dirty << p->shift);
}

/* Demote of these what should go; how many are dealt with, fewer: the rate's bound is reached. */
static uint32_t demote(struct pool *p, const struct kvtier_block_info *infos, uint32_t nr)
{
	uint32_t at, run, to;

	for (at = 0; at < nr && p->ios < OPS_MAX; at += run) {
		run = run_of(p, infos + at, nr - at);
		to = target(p, &infos[at]);
		if (to == KVTIER_TIER_NONE)
			continue;
		if (run > RUN_MAX)
			run = RUN_MAX;
		if ((to == KVTIER_TIER_NVME && !can_pay(p, infos + at, run)) ||
		    device_command(p, KVTIER_OP_DEMOTE, to, p->sweep_at + at, run))
			break;
		p->d->count.drained_blocks += run;
	}
	return at < nr ? at : nr;
}

bool device_drained(const struct pool *p)
{
	return p->sweep == DONE;
}

bool device_drain(struct pool *p, bool *any)
{
	struct kvtier_block_info infos[BATCH];
	uint32_t nr = p->nr_blocks - p->sweep_at, done;

	nr = nr < BATCH ? nr : BATCH;
	*any = true;
	if (p->ios >= OPS_MAX || device_pool_query(p, p->sweep_at, nr, infos))
		return true;
	if (p->sweep == MEASURE)
		measure(p, infos, nr);
	done = p->sweep == MEASURE ? nr : demote(p, infos, nr);
	p->sweep_at += done;
	if (p->sweep_at == p->nr_blocks) {
		p->sweep++;
		p->sweep_at = 0;
	}
	return done == nr || p->ios >= OPS_MAX;
}

/* ---- scrub ------------------------------------------------------------------------------- */

uint64_t device_cold_blocks(struct pool *p)
{
	struct kvtier_stats st;

	device_pool_stats(p, &st);
	return st.blocks[KVTIER_BLOCK_COLD] + st.blocks[KVTIER_BLOCK_COLD_OPEN];
}

bool device_to_verify(struct pool *p, uint32_t b)
{
	struct kvtier_block_info info;

	return !device_pool_query(p, b, 1, &info) &&
	       (info.state == KVTIER_BLOCK_COLD || info.state == KVTIER_BLOCK_COLD_OPEN);
}

bool device_is_bad(struct pool *p, uint32_t b)
{
	struct kvtier_block_info info;

	return !device_pool_query(p, b, 1, &info) && info.state == KVTIER_BLOCK_BAD;
}
