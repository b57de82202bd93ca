// SPDX-License-Identifier: MIT
/* The pool's counters: filled in for the API, published for `kvtier stat`. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "user.h"

#define PUBLISH_NS 200000000ull

static uint32_t state_of(const struct kvt_block *blk)
{
	bool sealed = blk->flags & KVT_B_SEALED;

	switch (blk->where) {
	case KVT_EMPTY:
		return KVTIER_BLOCK_EMPTY;
	case KVT_READING:
	case KVT_WRITING:
		return KVTIER_BLOCK_MOVING;
	case KVT_COLD:
		return sealed ? KVTIER_BLOCK_COLD : KVTIER_BLOCK_COLD_OPEN;
	case KVT_BAD:
		return KVTIER_BLOCK_BAD;
	default:
		if (!sealed)
			return KVTIER_BLOCK_OPEN;
		return blk->flags & KVT_B_DIRTY ? KVTIER_BLOCK_SEALED : KVTIER_BLOCK_CLEAN;
	}
}

void kvt_user_info(struct kvt_user *u, uint32_t b, struct kvtier_block_info *info)
{
	const struct kvt_block *blk = kvt_block(u, b);

	memset(info, 0, sizeof(*info));
	info->generation = blk->generation;
	info->slot = blk->slot == KVT_SLOT_NONE ? KVTIER_NO_SLOT : blk->slot;
	info->crc32c = blk->slot == KVT_SLOT_NONE || (blk->flags & KVT_B_DIRTY) ? 0 : blk->crc;
	info->tier = kvt_resident(blk) || kvt_moving(blk) ? blk->tier :
		     blk->where == KVT_COLD		  ? KVTIER_TIER_NVME :
							    KVTIER_TIER_NONE;
	info->node = (int16_t)(info->tier == KVTIER_TIER_CXL ? u->arena[KVTIER_TIER_CXL].node :
							       KVTIER_NO_NODE);
	info->state = (uint8_t)state_of(blk);
	info->flags =
		(blk->flags & KVT_B_DIRTY && blk->where != KVT_EMPTY ? KVTIER_BLOCKF_DIRTY : 0) |
		(blk->pins ? KVTIER_BLOCKF_PINNED : 0) |
		(blk->flags & KVT_B_HINT ? KVTIER_BLOCKF_COLD : 0) |
		(blk->where == KVT_MAPPED ? KVTIER_BLOCKF_MAPPED : 0) |
		(blk->slot != KVT_SLOT_NONE && kvt_slot_shared(&u->slots, blk->slot) ?
			 KVTIER_BLOCKF_SHARED :
			 0);
}

static void fill_tiers(struct kvt_user *u)
{
	struct kvtier_stats *s = &u->stats;
	uint8_t t;

	for (t = KVTIER_TIER_DRAM; t <= KVTIER_TIER_CXL; t++) {
		const struct kvt_arena *a = &u->arena[t];

		s->tier[t].budget_bytes = (uint64_t)a->limit << u->pool.block_shift;
		s->tier[t].used_bytes = (uint64_t)(a->nr_used + a->nr_ready) << u->pool.block_shift;
		s->tier[t].peak_bytes = (uint64_t)a->peak << u->pool.block_shift;
	}
	s->tier[t].budget_bytes = (uint64_t)u->slots.nr << u->pool.block_shift;
	s->tier[t].used_bytes = (uint64_t)(u->slots.nr - u->slots.nr_free) << u->pool.block_shift;
	if (s->tier[t].peak_bytes < s->tier[t].used_bytes)
		s->tier[t].peak_bytes = s->tier[t].used_bytes;
}

/* Bring the figures that are derived from the blocks up to date. */
void kvt_user_stat_fill(struct kvt_user *u)
{
	struct kvtier_stats *s = &u->stats;
	uint64_t now = kvt_now_ns();
	uint32_t b;

	s->size = sizeof(*s);
	s->block_shift = u->pool.block_shift;
	s->bytes = u->pool.bytes;
	s->nr_blocks = u->nr_blocks;
	memset(s->blocks, 0, sizeof(s->blocks));
	for (b = 0; b < u->nr_blocks; b++)
		s->blocks[state_of(kvt_block(u, b))]++;
	s->bad_blocks = s->blocks[KVTIER_BLOCK_BAD];
	s->transfer_ns =
		s->tier[KVTIER_TIER_NVME].read_ns + (u->reads ? now - u->read_since_ns : 0);
	fill_tiers(u);
}

void kvt_user_note_error(struct kvt_user *u, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(u->last_error, sizeof(u->last_error), fmt, args);
	va_end(args);
	kvt_user_stat_publish(u, true); /* now: what follows may end the process */
}

/* A pool that cannot show itself works all the same. */
void kvt_user_stat_open(struct kvt_user *u, const char *name)
{
	const struct kvt_arena *dram = &u->arena[KVTIER_TIER_DRAM];
	struct kvt_stat_file *f;

	u->created_ms = kvt_now_ns() / 1000000;
	if (u->flags & KVT_NO_STATS_FILE || kvt_stat_create(&u->stat, name, "user", u->nr_blocks))
		return;
	f = u->stat.file;
	f->addr = (uintptr_t)u->pool.addr;
	f->addr_bytes = u->pool.bytes;
	f->arena_addr = (uintptr_t)dram->base;
	f->arena_bytes = (uint64_t)dram->nr_places * dram->block_bytes;
	f->uffd_move = u->uffd.can_move;
	snprintf(f->nvme_path, sizeof(f->nvme_path), "%s", u->nvme.path ? u->nvme.path : "");
	kvt_user_stat_publish(u, true);
	kvt_stat_show(&u->stat);
}

/* 255 when it was seen in use within 16 ms, 16 less for each doubling of that age. */
static uint8_t heat_of(const struct kvt_user *u, const struct kvt_block *blk, uint64_t now)
{
	uint64_t age = (now / 1000000 - u->created_ms - (blk->seen_ms - 1)) / 16;
	int halvings = age ? 64 - __builtin_clzll(age) : 0;

	if (!blk->seen_ms)
		return 0;
	return halvings < 16 ? (uint8_t)(255 - 16 * halvings) : 0;
}

static void show_blocks(struct kvt_user *u, uint64_t now)
{
	struct kvt_stat_block *view = kvt_stat_blocks(u->stat.file);
	struct kvtier_block_info info;
	uint32_t b;

	for (b = 0; b < u->nr_blocks; b++) {
		kvt_user_info(u, b, &info);
		view[b] = (struct kvt_stat_block){ .state = info.state,
						   .tier = info.tier,
						   .flags = (uint8_t)info.flags,
						   .heat = heat_of(u, kvt_block(u, b), now) };
	}
	__atomic_store_n(&u->stat.file->blocks_ns, now, __ATOMIC_RELEASE);
}

/* A block was used: its heat, and the ring of who asked for it. */
void kvt_user_stat_seen(struct kvt_user *u, uint32_t b, uint8_t how, bool missed)
{
	uint64_t now = u->now_ns;

	kvt_block(u, b)->seen_ms = (uint32_t)(now / 1000000 - u->created_ms) + 1;
	if (!u->stat.file || !kvt_stat_wanted(&u->stat.file->accesses_until_ns, now) ||
	    !kvt_stat_view(&u->stat))
		return;
	kvt_stat_add(&u->stat, &(struct kvt_stat_access){
				       .ns = now, .block = b, .how = how, .missed = missed });
}

void kvt_user_stat_publish(struct kvt_user *u, bool always)
{
	uint64_t now = kvt_now_ns();

	if (!u->stat.file || (!always && now - u->published_ns < PUBLISH_NS))
		return;
	u->published_ns = now;
	kvt_user_stat_fill(u);
	kvt_stat_write(&u->stat, &u->stats, u->last_error);
	if (kvt_stat_wanted(&u->stat.file->blocks_until_ns, now) && kvt_stat_view(&u->stat))
		show_blocks(u, now);
}

void kvt_user_stat_close(struct kvt_user *u)
{
	if (!u->stat.file)
		return;
	kvt_user_stat_publish(u, true);
	kvt_stat_close(&u->stat);
}
