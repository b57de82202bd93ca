// SPDX-License-Identifier: MIT
/* Take a frame, read the slot into it, verify its checksum. */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "crc.h"
#include "user.h"

/* A frame for @blk from @wanted, or from the first tier with room; -ENOMEM: evict first. */
int kvt_user_take_frame(struct kvt_user *u, struct kvt_block *blk, uint8_t wanted, bool *fresh)
{
	uint8_t tier;

	for (tier = KVTIER_TIER_DRAM; tier <= KVTIER_TIER_CXL; tier++) {
		uint32_t place;

		if (wanted != KVTIER_TIER_NONE && tier != wanted)
			continue;
		place = kvt_arena_take(&u->arena[tier], fresh);
		if (place == KVT_PLACE_NONE)
			continue;
		blk->tier = tier;
		blk->place = place;
		return 0;
	}
	return -ENOMEM;
}

/* empty -> staged: zeroes, which no slot holds yet. */
int kvt_user_zero_fill(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);
	size_t bytes = u->pool.block_bytes;
	bool fresh;
	int ret;

	assert(blk->where == KVT_EMPTY);
	ret = kvt_user_take_frame(u, blk, KVTIER_TIER_NONE, &fresh);
	if (ret)
		return ret;
	if (!fresh || madvise(kvt_frame_addr(u, b), bytes, MADV_POPULATE_WRITE))
		memset(kvt_frame_addr(u, b), 0, bytes);
	blk->where = KVT_STAGED;
	kvt_user_dirty(u, b);
	return 0;
}

/* cold -> reading, into @tier or wherever there is room.  -ENOMEM: no frame; -EAGAIN: too much I/O under way. */
int kvt_user_read(struct kvt_user *u, uint32_t b, uint8_t tier)
{
	struct kvt_block *blk = kvt_block(u, b);
	bool fresh;
	int ret;

	assert(blk->where == KVT_COLD);
	if (!kvt_user_io_room(u))
		return -EAGAIN;
	ret = kvt_user_take_frame(u, blk, tier, &fresh);
	if (ret)
		return ret;
	blk->where = KVT_READING;
	blk->flags &= ~KVT_B_HINT;
	return kvt_user_submit(u, b, false, kvt_frame_addr(u, b));
}

static void drop_frame(struct kvt_user *u, struct kvt_block *blk)
{
	kvt_arena_drop(&u->arena[blk->tier], blk->place);
	blk->place = KVT_PLACE_NONE;
	blk->tier = KVTIER_TIER_NONE;
}

/* The block cannot be served: touches fail until it is discarded. */
void kvt_user_bad(struct kvt_user *u, uint32_t b, int error)
{
	struct kvt_block *blk = kvt_block(u, b);

	if (!(blk->flags & KVT_B_STALLED))
		drop_frame(u, blk);
	blk->where = KVT_BAD;
	blk->error = error;
	blk->flags &= ~(KVT_B_TRIP | KVT_B_LEASE);
	kvt_user_unahead(u, b, false);
	u->stats.tier[KVTIER_TIER_NVME].io_errors++;
	kvt_user_event(u, KVTIER_EVENT_BAD_BLOCK, b, error);
	kvt_user_note_error(u, "block %u (slot %u) could not be read: %s", b, blk->slot,
			    error == -EILSEQ ? "its checksum does not match" :
					       kvt_strerror(error));
	kvt_uffd_poison(&u->uffd, kvt_block_addr(u, b), u->pool.block_bytes);
	kvt_user_fail_block(u, b);
}

static int verify(struct kvt_user *u, uint32_t b, int res)
{
	if (res < 0)
		return res;
	if ((uint32_t)res != u->pool.block_bytes)
		return -EIO;
	if (kvt_crc32c(kvt_frame_addr(u, b), u->pool.block_bytes) == kvt_block(u, b)->crc)
		return 0;
	return -EILSEQ;
}

/* The medium may have it right, and only the way from there not: one more time. */
static bool read_again(struct kvt_user *u, uint32_t b, int error)
{
	struct kvt_block *blk = kvt_block(u, b);

	if (error != -EILSEQ || (blk->flags & (KVT_B_REREAD | KVT_B_STALLED)) || u->ending ||
	    !kvt_user_io_room(u))
		return false;
	blk->flags |= KVT_B_REREAD;
	kvt_user_submit(u, b, false, kvt_frame_addr(u, b));
	return true;
}

/* A read given up earlier has come back after all: the block may be tried again. */
static void stalled_read_done(struct kvt_user *u, uint32_t b, int error)
{
	struct kvt_block *blk = kvt_block(u, b);

	blk->flags &= ~KVT_B_STALLED;
	drop_frame(u, blk);
	if (error)
		return;
	madvise(kvt_block_addr(u, b), u->pool.block_bytes, MADV_DONTNEED);
	blk->where = KVT_COLD;
}

/* reading -> staged -> mapped, unless it is to show progress by a fault. */
void kvt_user_read_done(struct kvt_user *u, uint32_t b, int res)
{
	struct kvt_block *blk = kvt_block(u, b);
	int error = verify(u, b, res);
	bool write;

	if (read_again(u, b, error))
		return;
	blk->flags &= ~KVT_B_REREAD;
	u->stats.crc_errors += error == -EILSEQ;
	if (blk->flags & KVT_B_STALLED) {
		stalled_read_done(u, b, error);
		return;
	}
	if (error) {
		kvt_user_bad(u, b, error);
		return;
	}
	blk->where = KVT_STAGED;
	u->stats.promoted++;
	u->stats.tier[KVTIER_TIER_NVME].bytes_out += u->pool.block_bytes;
	u->stats.tier[blk->tier].bytes_in += u->pool.block_bytes;
	if (kvt_user_wanted(u, b, &write))
		kvt_user_map(u, b, write);
	else if (!(blk->flags & (KVT_B_TRIP | KVT_B_LEASE | KVT_B_AHEAD)))
		kvt_user_map(u, b, false);
	kvt_user_came_ahead(u, b);
}
