// SPDX-License-Identifier: MIT
/*
 * A block comes from its slot, goes to it, leaves memory.  The order of stores to the
 * table is that of file_table.c.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "crc.h"
#include "kvtierd.h"
#include "retry.h"

#define FULL_RETRY_NS (100 * NS_PER_MS)
#define WRITE_BYTES_MAX (16u << 20)
#define VERIFY_BYTES (2u << 20) /* a turn */

struct io {
	struct op op;
	struct io *next; /* of the free ones, or of those that came */
	struct pool *pool;
	uint64_t start_ns;
	uint64_t generation;
	uint64_t again_ns; /* it failed, and is tried again then; 0: it is under way */
	uint32_t tries;
	uint32_t block;
	int res; /* of a read that came */
	bool came; /* it is read, and not verified yet */
	bool write;
	bool late;
};

static struct io ios[MAX_IOS];
static struct io *free_ios;
static struct io *came, **came_end = &came;
static uint32_t busy_ios, nr_came; /* of those that are busy, so many came */
static bool ios_ready;

static struct io *take_io(void)
{
	struct io *io;

	if (!ios_ready) {
		for (int i = 0; i < MAX_IOS; i++) {
			ios[i].next = free_ios;
			free_ios = &ios[i];
		}
		ios_ready = true;
	}
	io = free_ios;
	if (io) {
		free_ios = io->next;
		busy_ios++;
	}
	return io;
}

static void put_io(struct io *io)
{
	io->pool = NULL;
	io->next = free_ios;
	free_ios = io;
	busy_ios--;
}

/* ---- frames ------------------------------------------------------------------------------ */

static void add_frame(struct pool *p, uint32_t b)
{
	uint64_t used;

	block_of(p, b)->frame = p->nr_frames;
	p->frames[p->nr_frames++] = b;
	tenant_charge(p->d, p->tenant, KVTIER_TIER_DRAM, p->block_bytes);
	used = (uint64_t)p->nr_frames << p->shift;
	if (used > p->stats.tier[KVTIER_TIER_DRAM].peak_bytes)
		p->stats.tier[KVTIER_TIER_DRAM].peak_bytes = used;
}

static void free_frame(struct pool *p, uint32_t b)
{
	struct block *blk = block_of(p, b);
	uint32_t last = p->frames[--p->nr_frames];

	p->frames[blk->frame] = last;
	block_of(p, last)->frame = blk->frame;
	blk->frame = NO_BLOCK;
	fallocate(p->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		  (off_t)((uint64_t)b << p->shift), p->block_bytes);
	tenant_charge(p->d, p->tenant, KVTIER_TIER_DRAM, -(int64_t)p->block_bytes);
}

/* Why there is no room for one more block: -ENOBUFS its own budget, else as tenant_room(). */
static int room(const struct pool *p)
{
	if ((uint64_t)(p->nr_frames + 1) << p->shift > p->t->budget[KVTIER_TIER_DRAM])
		return -ENOBUFS;
	return tenant_room(p->d, p->tenant, KVTIER_TIER_DRAM, p->block_bytes);
}

/* What is @distance ahead in one pool's plan is so far ahead in another's, by their paces. */
static uint64_t translate(const struct pool *p, uint64_t distance, const struct pool *to)
{
	uint64_t mine = plan_pace(p), other = plan_pace(to);

	if (p == to || !distance || !mine || !other)
		return p == to ? distance : 0;
	distance = distance * mine / other;
	return distance ? distance : 1;
}

/*
 * Memory for @b, making room if need be by what is used later than in @next_use
 * positions.  -EAGAIN: not now.
 */
int file_take_frame(struct pool *p, uint32_t b, uint64_t next_use)
{
	int why, tries;

	for (tries = 0; (why = room(p)); tries++) {
		struct pool *from = why == -ENOBUFS ? p : file_victim_pool(p, why);
		uint32_t victim = from ? file_victim(from, translate(p, next_use, from)) : NO_BLOCK;

		if (why != -ENOBUFS && !next_use)
			p->tenant->waits++;
		if (victim == NO_BLOCK || tries == 16)
			return -EAGAIN;
		if (file_evict(from, victim) || block_of(from, victim)->where == W_WRITING)
			return -EAGAIN;
	}
	add_frame(p, b);
	return 0;
}

int file_zero_fill(struct pool *p, uint32_t b)
{
	struct block *blk = block_of(p, b);
	int ret = file_take_frame(p, b, 0);

	assert(blk->where == W_EMPTY);
	if (ret)
		return ret;
	/* The file's hole is filled with zeroed pages, of which none is mapped by a client yet. */
	if (madvise(block_addr(p, b), p->block_bytes, MADV_POPULATE_WRITE))
		memset(block_addr(p, b), 0, p->block_bytes);
	file_dirty(p, b);
	blk->where = W_RESIDENT;
	return 0;
}

/* The content is about to differ from the slot's. */
void file_dirty(struct pool *p, uint32_t b)
{
	struct block *blk = block_of(p, b);

	blk->generation++;
	blk->flags |= B_DIRTY;
	if (blk->slot != KVT_SLOT_NONE) {
		kvt_slot_put(&p->slots, blk->slot);
		blk->slot = KVT_SLOT_NONE;
	}
}

void file_drop(struct pool *p, uint32_t b)
{
	struct block *blk = block_of(p, b);

	assert(blk->where == W_RESIDENT && !(blk->flags & B_DIRTY));
	blk->where = W_COLD;
	free_frame(p, b);
	blk->flags &= (uint16_t)~(B_HINT | B_AHEAD);
	p->stats.demoted++;
	p->stats.tier[KVTIER_TIER_DRAM].bytes_out += p->block_bytes;
}

void file_bad(struct pool *p, uint32_t b, int error)
{
	struct block *blk = block_of(p, b);

	blk->where = W_BAD;
	blk->error = (int16_t)error;
	if (blk->frame != NO_BLOCK && !(blk->flags & B_STALLED))
		free_frame(p, b);
	p->stats.tier[KVTIER_TIER_NVME].io_errors++;
	p->d->count.io_errors++;
	log_line(LOG_ERROR, "block_bad", "pool=%u name=%s block=%u slot=%u error=\"%s\"", p->id,
		 p->t->name, b, blk->slot,
		 error == -EILSEQ ? "its checksum does not match" : strerror(-error));
	pool_event(p, KVTIER_EVENT_BAD_BLOCK, b, error);
	file_fail_waits(p, b);
}

/* ---- transfers --------------------------------------------------------------------------- */

static void io_done(struct op *op, int res);

static void issue(struct io *io)
{
	struct pool *p = io->pool;
	uint64_t offset = (uint64_t)block_of(p, io->block)->slot << p->shift;
	struct io_uring_sqe *sqe = loop_sqe(p->d, &io->op);
	char *addr = block_addr(p, io->block);

	if (io->write)
		io_uring_prep_write(sqe, p->slots_fd, addr, p->block_bytes, offset);
	else
		io_uring_prep_read(sqe, p->slots_fd, addr, p->block_bytes, offset);
	/* Its memory is allocated on the way: where there are CPUs, by a thread of the ring's. */
	if (!io->write && p->d->many_cpus)
		io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
	io_uring_sqe_set_data(sqe, &io->op);
}

static void submit(struct pool *p, struct io *io, uint32_t b, bool write)
{
	*io = (struct io){ .op.done = io_done, .pool = p, .start_ns = now_ns(), .block = b,
			   .generation = block_of(p, b)->generation, .write = write };
	issue(io);
	p->ios++;
	p->d->begun++;
	if (write && !p->writes++)
		p->write_since_ns = io->start_ns;
	if (!write && !p->reads++)
		p->read_since_ns = io->start_ns;
	if (!write)
		p->d->reading += p->block_bytes;
	timer_within(p->d, &p->d->waits, 2 * NS_PER_MS);
}

/* cold -> reading.  -EAGAIN: no frame, or too much under way. */
int file_read(struct pool *p, uint32_t b, uint64_t next_use)
{
	struct block *blk = block_of(p, b);
	struct io *io;
	int ret;

	assert(blk->where == W_COLD);
	if (busy_ios + 1 >= MAX_IOS)
		return -EAGAIN;
	ret = file_take_frame(p, b, next_use);
	if (ret)
		return ret;
	io = take_io();
	if (!io) {
		free_frame(p, b);
		return -EAGAIN;
	}
	blk->where = W_READING;
	submit(p, io, b, false);
	return 0;
}

/* A slot that nothing durable names. */
static int own_slot(struct pool *p, struct block *blk, uint32_t b)
{
	if (blk->slot != KVT_SLOT_NONE)
		kvt_slot_put(&p->slots, blk->slot);
	blk->slot = kvt_slot_get(&p->slots, b);
	return blk->slot == KVT_SLOT_NONE ? -ENOSPC : 0;
}

/* resident -> writing; stays in memory unless @why says B_EVICT.  -EAGAIN: not now. */
int file_write(struct pool *p, uint32_t b, uint16_t why)
{
	struct block *blk = block_of(p, b);
	struct io *io;
	int ret;

	assert(blk->where == W_RESIDENT && blk->flags & B_DIRTY);
	if ((uint64_t)p->writes * p->block_bytes >= WRITE_BYTES_MAX ||
	    busy_ios - nr_came > MAX_IOS / 2 ||
	    (p->d->turn_ns < p->full_until_ns && !(why & B_CAPTURE)))
		return -EAGAIN;
	ret = own_slot(p, blk, b);
	if (ret) {
		/* A running checkpoint is worth less than that blocks can move. */
		checkpoint_starved(p);
		return ret;
	}
	if (file_protect(p, b))
		return -EAGAIN;
	io = take_io();
	if (!io)
		return -EAGAIN;
	blk->crc = kvt_crc32c(block_addr(p, b), p->block_bytes);
	blk->flags = (uint16_t)((blk->flags & ~(B_STORED | B_EVICT | B_CAPTURE)) | why);
	blk->error = 0;
	blk->where = W_WRITING;
	submit(p, io, b, true);
	return 0;
}

static void write_failed(struct pool *p, uint32_t b, int error)
{
	p->full_until_ns = now_ns() + FULL_RETRY_NS;
	if (error == -ENOSPC || error == -EDQUOT || error == -EFBIG)
		p->stats.enospc++;
	p->stats.tier[KVTIER_TIER_NVME].io_errors++;
	p->d->count.io_errors++;
	block_of(p, b)->error = (int16_t)error;
	pool_event(p, KVTIER_EVENT_IO_ERROR, b, error);
	log_line(LOG_WARNING, "write_failed",
		 "pool=%u name=%s block=%u error=\"%s\" note=\"it stays in "
		 "memory\"",
		 p->id, p->t->name, b, strerror(-error));
}

static void write_done(struct pool *p, uint32_t b, int res)
{
	struct block *blk = block_of(p, b);
	uint16_t why = blk->flags;

	blk->flags &= (uint16_t)~(B_EVICT | B_CAPTURE | B_STALLED | B_STORED);
	if (res != (int)p->block_bytes) {
		write_failed(p, b, res < 0 ? res : -ENOSPC);
	} else {
		p->stats.written_blocks++;
		p->stats.tier[KVTIER_TIER_NVME].bytes_in += p->block_bytes;
		p->d->count.write_bytes += p->block_bytes;
		blk->error = 0;
		if (!(why & B_STORED))
			blk->flags &= (uint16_t)~B_DIRTY;
	}
	blk->where = W_RESIDENT;
	if (why & B_CAPTURE)
		checkpoint_written(p, b);
	if (why & B_EVICT && !(blk->flags & B_DIRTY) && !blk->pins && !blk->busy &&
	    !wanted_of(p, b))
		file_drop(p, b);
}

static int verify(struct pool *p, uint32_t b, int res)
{
	if (res < 0)
		return res;
	if ((uint32_t)res != p->block_bytes)
		return -EIO;
	if (kvt_crc32c(block_addr(p, b), p->block_bytes) == block_of(p, b)->crc)
		return 0;
	p->stats.crc_errors++;
	return -EILSEQ;
}

static void map_for_plans(struct pool *p, uint32_t b)
{
	struct attachment *a;

	for (a = p->attachments; a; a = a->next)
		if (a->plan && !a->plan->dead)
			file_map_block(a, b, false);
}

static void read_done(struct pool *p, uint32_t b, int res)
{
	struct block *blk = block_of(p, b);
	int error = verify(p, b, res);

	if (blk->flags & B_STALLED) {
		/* It was given up; should it have come after all, it may be tried again. */
		blk->flags &= (uint16_t)~B_STALLED;
		free_frame(p, b);
		if (!error && blk->where == W_BAD)
			blk->where = W_COLD;
		return;
	}
	if (error) {
		file_bad(p, b, error);
		return;
	}
	blk->where = W_RESIDENT;
	p->stats.promoted++;
	p->stats.tier[KVTIER_TIER_NVME].bytes_out += p->block_bytes;
	p->stats.tier[KVTIER_TIER_DRAM].bytes_in += p->block_bytes;
	p->d->count.read_bytes += p->block_bytes;
	p->tenant->promoted_bytes += p->block_bytes;
	if (blk->flags & B_AHEAD)
		map_for_plans(p, b);
}

static void account(struct io *io)
{
	struct pool *p = io->pool;
	struct kvtier_tier_stats *tier = &p->stats.tier[KVTIER_TIER_NVME];
	uint64_t now = now_ns();

	if (io->write && !--p->writes)
		tier->write_ns += now - p->write_since_ns;
	if (io->write)
		return;
	p->d->reading -= p->block_bytes;
	if (!--p->reads)
		tier->read_ns += now - p->read_since_ns;
	prefetch_measure(p->d, p->block_bytes, now - io->start_ns);
}

/* A write that failed leaves its block in memory, which is all it takes. */
static bool try_again(struct io *io, int res)
{
	struct pool *p = io->pool;
	uint64_t now = now_ns();

	if (io->write || io->late || res == (int)p->block_bytes ||
	    !kvt_read_may_pass(res, io->tries) ||
	    now >= io->start_ns + (uint64_t)p->t->deadline_ms * NS_PER_MS)
		return false;
	io->tries++;
	io->again_ns = now + KVT_READ_AGAIN_NS;
	timer_within(p->d, &p->d->waits, KVT_READ_AGAIN_NS);
	return true;
}

/* The block is where it was to go, or is lost: who waited for that goes on. */
static void io_end(struct io *io, int res)
{
	struct pool *p = io->pool;
	uint32_t b = io->block;
	bool write = io->write;

	p->ios--;
	put_io(io);
	if (write)
		write_done(p, b, res);
	else
		read_done(p, b, res);
	file_serve(p, b);
	file_progress(p);
}

/* What was read waits for file_verify(), so that the device has its next reads before. */
static void io_done(struct op *op, int res)
{
	struct io *io = (struct io *)op;

	if (try_again(io, res))
		return;
	account(io);
	if (io->write) {
		io_end(io, res);
		return;
	}
	io->res = res;
	io->came = true;
	io->next = NULL;
	*came_end = io;
	came_end = &io->next;
	nr_came++;
}

bool file_came(void)
{
	return nr_came;
}

/* Verify and map what was read, some of it a turn. */
void file_verify(void)
{
	uint64_t bytes = 0;

	while (came && bytes < VERIFY_BYTES) {
		struct io *io = came;

		bytes += io->pool->block_bytes;
		came = io->next;
		if (!came)
			came_end = &came;
		nr_came--;
		io_end(io, io->res);
	}
}

/* Who waited for the write waits no longer; stores that a checkpoint held back go on. */
static void give_up_write(struct pool *p, uint32_t b)
{
	struct block *blk = block_of(p, b);
	bool captured = blk->flags & B_CAPTURE;

	blk->flags &= (uint16_t)~(B_EVICT | B_CAPTURE);
	write_failed(p, b, -ETIMEDOUT);
	if (captured)
		checkpoint_written(p, b);
	file_serve(p, b);
}

/*
 * What is late is given up: the block is BAD, or stays in memory; the transfer may still
 * end.  Reads whose pause is over are begun again.
 */
void file_io_deadlines(struct kvtierd *d)
{
	int i;

	for (i = 0; i < MAX_IOS; i++) {
		struct io *io = &ios[i];
		struct pool *p = io->pool;
		struct block *blk;

		if (p && io->again_ns && d->turn_ns >= io->again_ns) {
			io->again_ns = 0;
			issue(io);
			continue;
		}
		if (!p || io->late || io->came || io->again_ns ||
		    d->turn_ns < io->start_ns + (uint64_t)p->t->deadline_ms * NS_PER_MS)
			continue;
		io->late = true;
		d->count.deadline_misses++;
		blk = block_of(p, io->block);
		blk->flags |= B_STALLED;
		if (io->write)
			give_up_write(p, io->block);
		else
			file_bad(p, io->block, -ETIMEDOUT);
	}
}

/* ---- leave memory ------------------------------------------------------------------------ */

/* A resident block leaves memory, at once if its slot holds it.  0: it does, or will. */
int file_evict(struct pool *p, uint32_t b)
{
	struct block *blk = block_of(p, b);

	if (blk->where != W_RESIDENT || blk->pins || blk->busy)
		return -EBUSY;
	if (blk->flags & B_DIRTY)
		return file_write(p, b, B_EVICT);
	if (file_protect(p, b))
		return -EAGAIN;
	p->stats.clean_drops++;
	file_drop(p, b);
	return 0;
}

/* -EAGAIN: on its way. */
int file_discard(struct pool *p, uint32_t b)
{
	struct block *blk = block_of(p, b);
	uint32_t slot = blk->slot;

	if (blk->pins)
		return -EBUSY; /* since the range was looked at */
	if (blk->where == W_EMPTY)
		return 0;
	if (blk->busy)
		return -EAGAIN; /* attention reads it */
	if (blk->where == W_READING || blk->where == W_WRITING || blk->flags & B_STALLED)
		return blk->where == W_BAD ? -EBUSY : -EAGAIN;
	blk->where = W_EMPTY;
	blk->generation++;
	blk->slot = KVT_SLOT_NONE;
	blk->flags &= B_QUEUED;
	blk->heat = 0;
	if (slot != KVT_SLOT_NONE)
		kvt_slot_put(&p->slots, slot);
	if (blk->frame != NO_BLOCK)
		free_frame(p, b);
	return 0;
}

/* Is the pool above a budget that was lowered? */
static void trim(struct pool *p)
{
	uint64_t budget = p->t->budget[KVTIER_TIER_DRAM];

	while ((uint64_t)(p->nr_frames - p->writes) << p->shift > budget) {
		uint32_t victim = file_victim(p, 0);

		if (victim == NO_BLOCK || file_evict(p, victim))
			return;
	}
}

/* Something ended: who waited for it goes on. */
void file_progress(struct pool *p)
{
	if (p->nr_waits)
		file_serve_starved(p);
	if (p->commands)
		file_run_commands(p);
	if (p->checkpoint)
		checkpoint_run(p);
	if (p->attending)
		attend_progress(p);
	if (!p->removed)
		trim(p);
	else if (!p->clients && !p->ios && !p->checkpoint)
		pool_destroy(p);
}
