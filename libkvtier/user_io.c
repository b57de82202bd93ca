// SPDX-License-Identifier: MIT
/* Transfers between frames and slots: io_uring, at most KVT_IOS at once. */
#include <assert.h>
#include <errno.h>

#include "retry.h"
#include "user.h"

bool kvt_user_io_room(const struct kvt_user *u)
{
	return u->reads + u->writes < KVT_IOS;
}

static struct kvt_io *free_io(struct kvt_user *u)
{
	uint32_t i;

	for (i = 0; i < KVT_IOS; i++)
		if (!u->ios[i].busy)
			return &u->ios[i];
	return NULL;
}

static struct io_uring_sqe *get_sqe(struct kvt_user *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	if (!sqe) {
		io_uring_submit(&u->ring);
		sqe = io_uring_get_sqe(&u->ring);
	}
	return sqe;
}

static void issue(struct kvt_user *u, struct kvt_io *io, void *addr)
{
	uint64_t offset = (uint64_t)kvt_block(u, io->block)->slot << u->pool.block_shift;
	struct io_uring_sqe *sqe = get_sqe(u);

	assert(sqe);
	if (io->write)
		io_uring_prep_write(sqe, u->nvme.fd, addr, u->pool.block_bytes, offset);
	else
		io_uring_prep_read(sqe, u->nvme.fd, addr, u->pool.block_bytes, offset);
	io_uring_sqe_set_data64(sqe, (uint64_t)(io - u->ios));
}

/* Start a transfer; the caller has checked kvt_user_io_room(). */
int kvt_user_submit(struct kvt_user *u, uint32_t b, bool write, void *addr)
{
	struct kvt_io *io = free_io(u);

	assert(io);
	*io = (struct kvt_io){ .start_ns = kvt_now_ns(), .block = b, .write = write, .busy = true };
	issue(u, io, addr);
	if (write && !u->writes++)
		u->write_since_ns = io->start_ns;
	if (!write && !u->reads++)
		u->read_since_ns = io->start_ns;
	return 0;
}

/* Make durable what has been written.  Here and not at once: faults are served meanwhile. */
void kvt_user_submit_sync(struct kvt_user *u)
{
	struct io_uring_sqe *sqe = get_sqe(u);

	assert(sqe);
	io_uring_prep_fsync(sqe, u->nvme.fd, IORING_FSYNC_DATASYNC);
	io_uring_sqe_set_data64(sqe, KVT_TAG_SYNC);
}

static void account(struct kvt_user *u, const struct kvt_io *io)
{
	struct kvtier_tier_stats *tier = &u->stats.tier[KVTIER_TIER_NVME];
	uint64_t now = kvt_now_ns();

	if (io->write && !--u->writes)
		tier->write_ns += now - u->write_since_ns;
	if (!io->write && !--u->reads)
		tier->read_ns += now - u->read_since_ns;
}

/* A write that failed leaves its block dirty, which is all it takes. */
static bool try_again(struct kvt_user *u, struct kvt_io *io, int res)
{
	uint64_t now = kvt_now_ns();

	if (io->write || u->ending || res == (int)u->pool.block_bytes ||
	    (kvt_block(u, io->block)->flags & KVT_B_STALLED) ||
	    !kvt_read_may_pass(res, io->tries) || now >= io->start_ns + u->deadline_ns)
		return false;
	io->tries++;
	io->again_ns = now + KVT_READ_AGAIN_NS;
	u->agains++;
	return true;
}

/* Reads whose pause is over. */
void kvt_user_io_again(struct kvt_user *u, uint64_t now)
{
	uint32_t i;

	for (i = 0; u->agains && i < KVT_IOS; i++) {
		struct kvt_io *io = &u->ios[i];

		if (!io->busy || !io->again_ns || (now < io->again_ns && !u->ending))
			continue;
		io->again_ns = 0;
		u->agains--;
		issue(u, io, kvt_frame_addr(u, io->block));
	}
}

void kvt_user_io_done(struct kvt_user *u, uint32_t index, int res)
{
	struct kvt_io *io = &u->ios[index];

	assert(index < KVT_IOS && io->busy);
	if (try_again(u, io, res))
		return;
	io->busy = false;
	account(u, io);
	if (io->write)
		kvt_user_write_done(u, io->block, res);
	else
		kvt_user_read_done(u, io->block, res);
}

/*
 * Give up on transfers that take too long.  The device may still use the
 * frame, so that stays taken until the transfer ends, however late.
 */
void kvt_user_io_deadlines(struct kvt_user *u, uint64_t now)
{
	uint32_t i;

	for (i = 0; i < KVT_IOS; i++) {
		struct kvt_io *io = &u->ios[i];
		struct kvt_block *blk = kvt_block(u, io->block);

		if (!io->busy || io->again_ns || (blk->flags & KVT_B_STALLED) ||
		    now < io->start_ns + u->deadline_ns)
			continue;
		blk->flags |= KVT_B_STALLED;
		if (!io->write) {
			kvt_user_bad(u, io->block, -ETIMEDOUT);
			continue;
		}
		kvt_user_fail_block(u, io->block);
		kvt_user_event(u, KVTIER_EVENT_IO_ERROR, io->block, -ETIMEDOUT);
	}
}
