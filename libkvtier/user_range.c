// SPDX-License-Identifier: MIT
/*
 * Range operations.  A range is worked on in two passes that overlap: start
 * each block's transfer (as many as fit), then see each one settled.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "user_command.h"

/* Blocks of one command under way at once. */
#define ISSUE_MAX 32

static uint32_t all_frames(const struct kvt_user *u, uint32_t tier)
{
	if (tier == KVTIER_TIER_DRAM || tier == KVTIER_TIER_CXL)
		return u->arena[tier].limit;
	return u->arena[KVTIER_TIER_DRAM].limit + u->arena[KVTIER_TIER_CXL].limit;
}

static int start_read(struct kvt_user *u, uint32_t b, uint8_t tier)
{
	int ret = kvt_user_read(u, b, tier);

	if (ret == -ENOMEM && kvt_user_evict_from(u, tier))
		ret = kvt_user_read(u, b, tier);
	return ret == -ENOMEM ? -EAGAIN : ret;
}

static bool take_place(struct kvt_user *u, uint8_t tier, uint32_t *place)
{
	bool fresh;

	*place = kvt_arena_take(&u->arena[tier], &fresh);
	return *place != KVT_PLACE_NONE;
}

/* Copy a resident block into a frame of another memory tier; it ends up staged. */
static int change_tier(struct kvt_user *u, uint32_t b, uint8_t tier)
{
	struct kvt_block *blk = kvt_block(u, b);
	uint32_t place;
	int ret;

	if (blk->tier == tier)
		return 0;
	if (blk->holds)
		return -EBUSY;
	if (!take_place(u, tier, &place))
		return -EAGAIN;
	ret = blk->where == KVT_MAPPED ? kvt_user_unmap(u, b) : 0;
	if (ret || blk->where != KVT_STAGED) {
		kvt_arena_drop(&u->arena[tier], place);
		return ret;
	}
	memcpy(kvt_place_addr(&u->arena[tier], place), kvt_frame_addr(u, b), u->pool.block_bytes);
	u->stats.tier[blk->tier].bytes_out += u->pool.block_bytes;
	u->stats.tier[tier].bytes_in += u->pool.block_bytes;
	kvt_arena_drop(&u->arena[blk->tier], blk->place);
	blk->tier = tier;
	blk->place = place;
	return 0;
}

static int map_if_staged(struct kvt_user *u, uint32_t b)
{
	int ret;

	if (kvt_block(u, b)->where != KVT_STAGED)
		return 0;
	ret = kvt_user_map(u, b, false);
	return ret == -EBUSY ? -EAGAIN : ret;
}

/* Move a resident block to the tier that was asked for, and see it mapped. */
static int promote_resident(struct kvt_user *u, uint32_t b, uint8_t tier)
{
	const struct kvt_block *blk = kvt_block(u, b);
	int ret = 0;

	if (tier != KVTIER_TIER_NONE && blk->tier != tier) {
		if (blk->pins)
			return -EBUSY;
		ret = change_tier(u, b, tier);
		if (ret == -EAGAIN && kvt_user_evict_from(u, tier))
			ret = change_tier(u, b, tier);
	}
	return ret ? ret : map_if_staged(u, b);
}

static int promote_start(struct kvt_user *u, struct kvt_command *c, uint32_t b)
{
	const struct kvt_block *blk = kvt_block(u, b);

	switch (blk->where) {
	case KVT_COLD:
		return start_read(u, b, (uint8_t)c->tier);
	case KVT_BAD:
		return blk->error == -ETIMEDOUT ? -ETIMEDOUT : -EIO;
	case KVT_MAPPED:
	case KVT_STAGED:
		return promote_resident(u, b, (uint8_t)c->tier);
	default:
		return 0;
	}
}

static int promote_settled(struct kvt_user *u, struct kvt_command *c, uint32_t b)
{
	const struct kvt_block *blk = kvt_block(u, b);

	(void)c;
	if (kvt_moving(blk))
		return 0;
	if (blk->where == KVT_BAD)
		return blk->error == -ETIMEDOUT ? -ETIMEDOUT : -EIO;
	return 1;
}

static bool wants_cxl(struct kvt_user *u, const struct kvt_command *c, const struct kvt_block *blk)
{
	if (c->tier == KVTIER_TIER_CXL)
		return true;
	return c->tier == KVTIER_TIER_NONE && blk->tier == KVTIER_TIER_DRAM &&
	       kvt_arena_room(&u->arena[KVTIER_TIER_CXL]);
}

static int demote_start(struct kvt_user *u, struct kvt_command *c, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);
	bool write;
	int ret;

	if (blk->pins)
		return -EBUSY;
	if (!kvt_resident(blk))
		return 0;
	if (wants_cxl(u, c, blk)) {
		ret = change_tier(u, b, KVTIER_TIER_CXL);
		if (ret == -EAGAIN && u->arena[KVTIER_TIER_CXL].limit == 0)
			return -ENODEV;
		return ret ? ret : map_if_staged(u, b);
	}
	if (!u->slots.nr)
		return -ENODEV;
	if (kvt_user_wanted(u, b, &write))
		return 0; /* it was touched at this very moment */
	return kvt_user_evict(u, b);
}

static int demote_settled(struct kvt_user *u, struct kvt_command *c, uint32_t b)
{
	const struct kvt_block *blk = kvt_block(u, b);

	(void)c;
	if (kvt_moving(blk))
		return 0;
	/* The write failed and the block had to stay. */
	if (blk->where == KVT_STAGED && (blk->flags & KVT_B_DIRTY) &&
	    u->full_until_ns > u->now_ns)
		return -ENOSPC;
	return 1;
}

/* Out of reach while it is written, back at its address afterwards. */
static int clean_start(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);
	bool mapped = blk->where == KVT_MAPPED;
	int ret;

	if (!u->slots.nr)
		return -ENODEV;
	ret = kvt_user_make_sure(u, b);
	if (ret)
		return ret;
	if (!kvt_resident(blk) || !(blk->flags & KVT_B_DIRTY))
		return 0;
	if (blk->pins && !u->uffd.can_move)
		return -EBUSY; /* a device may have its pages, and they would be replaced */
	if (blk->holds || !kvt_user_may_write(u))
		return -EAGAIN;
	ret = mapped ? kvt_user_unmap(u, b) : 0;
	if (ret)
		return ret;
	ret = kvt_user_write(u, b);
	if (!ret && mapped)
		blk->flags |= KVT_B_RETURN;
	else if (ret && mapped)
		kvt_user_map(u, b, false);
	return ret;
}

/* Used by commands that need a block's slot to be valid at this very moment. */
int kvt_user_clean_step(struct kvt_user *u, uint32_t b)
{
	const struct kvt_block *blk = kvt_block(u, b);
	int ret;

	if (blk->where == KVT_BAD)
		return -EIO;
	if (kvt_moving(blk))
		return 0;
	if (blk->where == KVT_EMPTY)
		return -ENODATA;
	ret = kvt_user_make_sure(u, b);
	if (!ret && !(blk->flags & KVT_B_DIRTY))
		return 1;
	if (!ret)
		ret = clean_start(u, b);
	return ret == -EAGAIN ? 0 : ret;
}

static int writeback_start(struct kvt_user *u, struct kvt_command *c, uint32_t b)
{
	const struct kvt_block *blk = kvt_block(u, b);

	(void)c;
	if (blk->where == KVT_BAD)
		return -EIO;
	return clean_start(u, b);
}

static int writeback_settled(struct kvt_user *u, struct kvt_command *c, uint32_t b)
{
	const struct kvt_block *blk = kvt_block(u, b);

	(void)c;
	if (kvt_moving(blk))
		return 0;
	if (kvt_resident(blk) && (blk->flags & KVT_B_DIRTY) && u->full_until_ns > u->now_ns)
		return -ENOSPC;
	return 1;
}

static int seal_start(struct kvt_user *u, struct kvt_command *c, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);
	int ret;

	(void)c;
	if (blk->where == KVT_BAD)
		return -EIO;
	if (blk->where == KVT_EMPTY)
		return -ENODATA;
	ret = blk->where == KVT_MAPPED ? kvt_user_protect(u, b) : 0;
	if (!ret)
		blk->flags |= KVT_B_SEALED;
	return ret;
}

/* Any state -> empty; -EAGAIN while it moves. */
int kvt_user_discard_block(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);
	int ret;

	if (blk->pins || (blk->where == KVT_BAD && (blk->flags & KVT_B_STALLED)))
		return -EBUSY;
	if (kvt_moving(blk) || blk->holds)
		return -EAGAIN;
	if (blk->where == KVT_MAPPED) {
		ret = kvt_user_unmap(u, b);
		if (ret)
			return ret;
	}
	if (blk->where == KVT_BAD)
		madvise(kvt_block_addr(u, b), u->pool.block_bytes, MADV_DONTNEED);
	if (blk->where == KVT_STAGED)
		kvt_arena_drop(&u->arena[blk->tier], blk->place);
	kvt_user_unahead(u, b, false);
	kvt_user_drop_slot(u, b);
	if (u->hand == b)
		u->hand = KVT_ORDER_NONE;
	kvt_order_remove(&u->order, b);
	blk->place = KVT_PLACE_NONE;
	blk->tier = KVTIER_TIER_NONE;
	blk->where = KVT_EMPTY;
	blk->flags = 0;
	blk->error = 0;
	blk->generation++;
	return 0;
}

static int discard_start(struct kvt_user *u, struct kvt_command *c, uint32_t b)
{
	(void)c;
	return kvt_user_discard_block(u, b);
}

static int pin_start(struct kvt_user *u, struct kvt_command *c, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);
	int ret = 0;

	if (blk->where == KVT_EMPTY) {
		ret = kvt_user_zero_fill(u, b);
		if (ret == -ENOMEM) {
			kvt_user_evict_one(u, true);
			return -EAGAIN;
		}
	}
	return ret ? ret : promote_start(u, c, b);
}

static int pin_settled(struct kvt_user *u, struct kvt_command *c, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);
	int ret = promote_settled(u, c, b);

	if (ret <= 0)
		return ret;
	if (!kvt_resident(blk)) { /* it was on its way out when we came */
		ret = pin_start(u, c, b);
		return ret == -EAGAIN ? 0 : ret;
	}
	if (blk->where == KVT_STAGED && map_if_staged(u, b))
		return 0;
	if (blk->pins == UINT16_MAX)
		return -EINVAL; /* others have pinned it meanwhile */
	blk->pins++;
	return 1;
}

static int unpin_start(struct kvt_user *u, struct kvt_command *c, uint32_t b)
{
	(void)c;
	kvt_block(u, b)->pins--;
	return 0;
}

static int cold_start(struct kvt_user *u, struct kvt_command *c, uint32_t b)
{
	(void)c;
	kvt_user_hint(u, b);
	return 0;
}

static int always_settled(struct kvt_user *u, struct kvt_command *c, uint32_t b)
{
	(void)u;
	(void)c;
	(void)b;
	return 1;
}

static const struct {
	/* 0 started or nothing to do, -EAGAIN try again, else the range's error. */
	int (*start)(struct kvt_user *u, struct kvt_command *c, uint32_t b);
	/* 1 done, 0 not yet, or the range's error. */
	int (*settled)(struct kvt_user *u, struct kvt_command *c, uint32_t b);
} ops[] = {
	[KVTIER_OP_PROMOTE] = { promote_start, promote_settled },
	[KVTIER_OP_DEMOTE] = { demote_start, demote_settled },
	[KVTIER_OP_WRITEBACK] = { writeback_start, writeback_settled },
	[KVTIER_OP_SEAL] = { seal_start, always_settled },
	[KVTIER_OP_DISCARD] = { discard_start, always_settled },
	[KVTIER_OP_PIN] = { pin_start, pin_settled },
	[KVTIER_OP_UNPIN] = { unpin_start, always_settled },
	[KVTIER_OP_COLD] = { cold_start, always_settled },
};

static uint32_t count_pinned(const struct kvt_user *u)
{
	uint32_t b, n = 0;

	for (b = 0; b < u->nr_blocks; b++)
		n += u->blocks[b].pins != 0;
	return n;
}

/* What can be refused is refused before anything has changed. */
static int check_whole(struct kvt_user *u, const struct kvt_command *c)
{
	uint32_t b, fresh = 0;
	uint32_t frames = all_frames(u, c->tier);
	uint32_t spare = kvt_dram_bytes_min(u->pool.block_bytes) >> u->pool.block_shift;

	if (!frames)
		return -ENODEV;
	for (b = c->first; b < c->end; b++) {
		const struct kvt_block *blk = kvt_block(u, b);

		if (c->op == KVTIER_OP_UNPIN && !blk->pins)
			return -EINVAL;
		if (c->op == KVTIER_OP_PIN && blk->pins == UINT16_MAX)
			return -EINVAL;
		if (c->op == KVTIER_OP_SEAL && blk->where == KVT_EMPTY)
			return -ENODATA;
		if (c->op == KVTIER_OP_DISCARD && blk->pins)
			return -EBUSY;
		fresh += !blk->pins;
	}
	if (c->op == KVTIER_OP_PIN && u->nr_blocks > frames &&
	    count_pinned(u) + fresh + spare > frames)
		return -ENOSPC;
	if (c->op == KVTIER_OP_PROMOTE && count_pinned(u) + fresh > frames)
		return -ENOSPC;
	return 0;
}

static void set_busy(struct kvt_user *u, struct kvt_command *c, int by)
{
	uint32_t b;

	for (b = c->first; b < c->end; b++)
		kvt_block(u, b)->busy = (uint16_t)(kvt_block(u, b)->busy + by);
}

static void begin(struct kvt_user *u, struct kvt_command *c)
{
	const struct kvtier_range *r = &c->ranges[c->at];

	c->first = c->issued = c->settled = (uint32_t)(r->offset >> u->pool.block_shift);
	c->end = c->first + (uint32_t)(r->length >> u->pool.block_shift);
	c->deadline_ns = u->now_ns + u->deadline_ns;
	c->begun = true;
	set_busy(u, c, 1);
	c->error = check_whole(u, c);
	if (c->error)
		c->issued = c->settled = c->end;
}

static void fail(struct kvt_command *c, int error)
{
	if (!c->error)
		c->error = error;
}

/* A pin that failed part-way holds nothing. */
static void undo_pins(struct kvt_user *u, struct kvt_command *c)
{
	uint32_t b;

	for (b = c->first; b < c->settled; b++)
		kvt_block(u, b)->pins--;
}

static void end_range(struct kvt_user *u, struct kvt_command *c)
{
	if (c->op == KVTIER_OP_PIN && c->error && c->settled < c->end)
		undo_pins(u, c);
	set_busy(u, c, -1);
	c->ranges[c->at++].result = c->error;
	c->result += !c->error;
	c->begun = false;
}

/* Unpins wait for nothing, and all see what check_whole() saw. */
static uint32_t issue_max(const struct kvt_command *c)
{
	return c->op == KVTIER_OP_UNPIN ? UINT32_MAX : ISSUE_MAX;
}

static void issue(struct kvt_user *u, struct kvt_command *c)
{
	while (c->issued < c->end && c->issued - c->settled < issue_max(c)) {
		int ret = ops[c->op].start(u, c, c->issued);

		if (ret == -EAGAIN)
			return;
		c->issued++;
		if (!ret)
			continue;
		fail(c, ret);
		if (c->op == KVTIER_OP_PIN)
			return;
	}
}

/* True when the range is done with. */
static bool settle(struct kvt_user *u, struct kvt_command *c)
{
	while (c->settled < c->issued) {
		int ret = ops[c->op].settled(u, c, c->settled);

		if (!ret)
			break;
		if (ret < 0)
			fail(c, ret);
		if (c->error && c->op == KVTIER_OP_PIN)
			return true;
		c->settled++;
	}
	return c->settled == c->end;
}

int kvt_user_range_step(struct kvt_user *u, struct kvt_command *c)
{
	while (c->at < c->nr) {
		bool done;

		if (!c->begun)
			begin(u, c);
		issue(u, c);
		done = settle(u, c) ||
		       ((c->flags & KVTIER_OP_NOWAIT) && c->op != KVTIER_OP_PIN &&
			c->issued == c->end);
		if (!done && u->now_ns < c->deadline_ns)
			return 0;
		if (!done)
			fail(c, -ETIMEDOUT);
		end_range(u, c);
	}
	return 1;
}
