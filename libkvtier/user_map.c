// SPDX-License-Identifier: MIT
/*
 * Put a frame under a block's address, or take it out again.
 *
 * With UFFDIO_MOVE the frame itself changes place: no copy, no allocation.  A
 * moved page is writable at once and only then write-protected, so a write in
 * between (another thread's, within microseconds) goes unseen: the block is
 * "unsure".  It is believed clean only if, once it is out of reach again, its
 * content still has the checksum of its slot, and whoever relies on the slot
 * before that makes sure first.  Sealing changes nothing of this: the store came
 * before.  Without UFFDIO_MOVE the block is copied into new pages, protected from
 * the first moment.
 *
 * Each move and each protection interrupts every CPU that runs a thread of the
 * process, which costs more than the work itself.  So blocks that follow each
 * other, in frames that do too, go in or out as one (a row).
 *
 * The pager never reads at a block's address: should the program have dropped a
 * page there, the pager would wait for itself.  To copy a block it takes the pages
 * away first (MREMAP_DONTUNMAP: the address stays ours, and registered), and reads
 * them where nothing is registered and a missing page is zeroes.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "crc.h"
#include "user.h"

/* @bytes: of one block, or of a row that @b begins. */
static int move_in(struct kvt_user *u, uint32_t b, size_t bytes, bool protect)
{
	int ret;

	ret = kvt_uffd_move(&u->uffd, kvt_block_addr(u, b), kvt_frame_addr(u, b), bytes);
	if (ret || !protect)
		return ret;
	ret = kvt_uffd_protect(&u->uffd, kvt_block_addr(u, b), bytes);
	if (ret && kvt_uffd_move(&u->uffd, kvt_frame_addr(u, b), kvt_block_addr(u, b), bytes))
		ret = -EIO;
	return ret;
}

/* Half at its address, half in its place: what is not in the slot as well is lost. */
static void torn(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);

	madvise(kvt_block_addr(u, b), u->pool.block_bytes, MADV_DONTNEED);
	blk->where = KVT_STAGED;
	if (blk->flags & (KVT_B_DIRTY | KVT_B_UNSURE))
		kvt_user_bad(u, b, -EIO);
	else
		kvt_user_drop(u, b);
	blk->flags &= ~(KVT_B_PROTECTED | KVT_B_UNSURE);
	kvt_uffd_wake(&u->uffd, kvt_block_addr(u, b), u->pool.block_bytes);
}

/* Was the block written between its move and its protection? */
static void check_clean(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);

	if (!u->uffd.can_move || (blk->flags & KVT_B_DIRTY))
		return;
	if (kvt_crc32c(kvt_frame_addr(u, b), u->pool.block_bytes) == blk->crc)
		return;
	if ((blk->flags & KVT_B_SEALED) && !(blk->flags & KVT_B_UNSURE))
		kvt_user_drop(u, b); /* sealed when it was mapped: the slot holds what was sealed */
	else
		kvt_user_dirty(u, b);
}

/* Back in its place before it could be protected: a store may have come even so. */
static void not_mapped(struct kvt_user *u, uint32_t b)
{
	if (!(kvt_block(u, b)->flags & KVT_B_SEALED))
		check_clean(u, b);
}

static void mapped(struct kvt_user *u, uint32_t b, bool protect)
{
	struct kvt_block *blk = kvt_block(u, b);

	kvt_arena_mapped(&u->arena[blk->tier], blk->place);
	blk->place = KVT_PLACE_NONE;
	blk->where = KVT_MAPPED;
	blk->flags &= ~(KVT_B_TRIP | KVT_B_LEASE | KVT_B_PROTECTED | KVT_B_UNSURE);
	if (protect)
		blk->flags |= KVT_B_PROTECTED;
	if (protect && u->uffd.can_move && !(blk->flags & KVT_B_SEALED))
		blk->flags |= KVT_B_UNSURE;
	kvt_user_wake_block(u, b);
}

static int copy_in(struct kvt_user *u, uint32_t b, bool protect)
{
	size_t bytes = u->pool.block_bytes;
	char *frame = kvt_frame_addr(u, b);
	int ret;

	ret = kvt_uffd_copy(&u->uffd, kvt_block_addr(u, b), frame, bytes, protect);
	if (ret)
		madvise(kvt_block_addr(u, b), bytes, MADV_DONTNEED);
	else
		madvise(frame, bytes, MADV_DONTNEED);
	return ret;
}

/*
 * staged -> mapped; wakes who waits.  -EBUSY: a device or a reader still holds the frame;
 * -EIO: it was torn, and is bad now or cold.
 */
int kvt_user_map(struct kvt_user *u, uint32_t b, bool for_write)
{
	struct kvt_block *blk = kvt_block(u, b);
	bool protect;
	int ret;

	assert(blk->where == KVT_STAGED);
	if (blk->holds)
		return -EBUSY;
	if (for_write && !(blk->flags & (KVT_B_SEALED | KVT_B_DIRTY)))
		kvt_user_dirty(u, b);
	protect = (blk->flags & KVT_B_SEALED) || !(blk->flags & KVT_B_DIRTY);
	ret = u->uffd.can_move ? move_in(u, b, u->pool.block_bytes, protect) :
			      copy_in(u, b, protect);
	if (ret == -EIO)
		torn(u, b);
	else if (ret)
		not_mapped(u, b);
	else
		mapped(u, b, protect);
	return ret;
}

/*
 * The same for clean blocks in a row of frames.  When it fails nothing has changed;
 * torn, they are cold again, and that is all.
 */
int kvt_user_map_row(struct kvt_user *u, uint32_t first, uint32_t nr)
{
	uint32_t i;
	int ret;

	assert(u->uffd.can_move);
	ret = move_in(u, first, (size_t)nr << u->pool.block_shift, true);
	for (i = 0; i < nr; i++) {
		if (ret == -EIO)
			torn(u, first + i);
		else if (ret)
			not_mapped(u, first + i);
		else
			mapped(u, first + i, true);
	}
	return ret == -EIO ? 0 : ret;
}

static int copy_out(struct kvt_user *u, uint32_t b, char *frame)
{
	size_t bytes = u->pool.block_bytes;
	char *addr = kvt_block_addr(u, b);
	char *pages = mremap(addr, bytes, bytes, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);

	if (pages == MAP_FAILED)
		return -errno;
	memcpy(frame, pages, bytes);
	munmap(pages, bytes);
	kvt_uffd_wake(&u->uffd, addr, bytes);
	return 0;
}

/* Out of reach, in its place. */
static void unmapped(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);

	blk->where = KVT_STAGED;
	check_clean(u, b);
	blk->flags &= ~(KVT_B_PROTECTED | KVT_B_UNSURE);
}

/*
 * mapped -> staged, or cold.  -EBUSY: pinned by a device or the kernel (GUP), of which a
 * copy cannot tell; -EIO: torn.
 */
int kvt_user_unmap(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);
	struct kvt_arena *a = &u->arena[blk->tier];
	uint32_t place;
	char *frame;
	int ret;

	assert(blk->where == KVT_MAPPED);
	if (blk->holds)
		return -EBUSY;
	place = kvt_arena_unmap_place(a);
	frame = kvt_place_addr(a, place);
	ret = u->uffd.can_move ?
		      kvt_uffd_move(&u->uffd, frame, kvt_block_addr(u, b), u->pool.block_bytes) :
		      copy_out(u, b, frame);
	if (ret && ret != -EIO) {
		kvt_arena_mapped(a, place);
		return ret;
	}
	blk->place = place;
	if (ret) {
		torn(u, b);
		return ret;
	}
	unmapped(u, b);
	return 0;
}

/* The same for clean blocks in a row of one tier, into a row of frames. */
int kvt_user_unmap_row(struct kvt_user *u, uint32_t first, uint32_t nr)
{
	struct kvt_arena *a = &u->arena[kvt_block(u, first)->tier];
	uint32_t place, i;
	int ret;

	if (!u->uffd.can_move)
		return -EOPNOTSUPP;
	place = kvt_arena_unmap_row(a, nr);
	if (place == KVT_PLACE_NONE)
		return -EAGAIN;
	ret = kvt_uffd_move(&u->uffd, kvt_place_addr(a, place), kvt_block_addr(u, first),
			    (size_t)nr << u->pool.block_shift);
	for (i = nr; ret && ret != -EIO && i-- > 0;)
		kvt_arena_mapped(a, place + i);
	for (i = nr; (!ret || ret == -EIO) && i-- > 0;) {
		struct kvt_block *blk = kvt_block(u, first + i);

		assert(blk->where == KVT_MAPPED && !blk->holds);
		blk->place = place + i;
		if (ret)
			torn(u, first + i);
		else
			unmapped(u, first + i);
	}
	return ret;
}

/*
 * For whoever is about to use the slot of a block that counts as clean: is it?
 * Dirty afterwards if not, or if somebody holds its pages and nobody can say.
 * -EAGAIN: a reader holds it; -EIO: it was lost.
 */
int kvt_user_make_sure(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);

	if (blk->where != KVT_MAPPED || !(blk->flags & KVT_B_UNSURE) || (blk->flags & KVT_B_DIRTY))
		return 0;
	if (blk->holds)
		return -EAGAIN;
	if (!kvt_user_unmap(u, b))
		kvt_user_map(u, b, false);
	else if (blk->where == KVT_MAPPED)
		kvt_user_dirty(u, b);
	return blk->where == KVT_BAD ? -EIO : 0;
}

int kvt_user_protect(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);
	int ret;

	if (blk->flags & KVT_B_PROTECTED)
		return 0;
	ret = kvt_uffd_protect(&u->uffd, kvt_block_addr(u, b), u->pool.block_bytes);
	if (!ret)
		blk->flags |= KVT_B_PROTECTED;
	return ret;
}

/* The content is about to differ from the slot's. */
void kvt_user_dirty(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);

	blk->flags |= KVT_B_DIRTY;
	blk->generation++;
	blk->written = u->order.clock;
}
