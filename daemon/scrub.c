// SPDX-License-Identifier: MIT
/*
 * Verify blocks that nobody reads: what is in their slots is compared with its checksum,
 * at a bounded rate, one block at a time.  The module verifies what it brings in, and
 * what it verified goes back again, without a write.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "crc.h"
#include "kvtierd.h"
#include "retry.h"

#define LOOK_MAX 4096u /* blocks a turn */

static struct scrub_read {
	struct op op;
	struct kvtierd *d;
	uint32_t pool;
	uint32_t block;
	uint32_t slot;
	uint64_t generation;
	uint64_t start_ns;
	uint32_t tries;
	bool again; /* it failed, and is tried again when the timer says so */
} reading;

static bool to_verify(struct pool *p, uint32_t b)
{
	const struct block *blk;

	if (p->module)
		return device_to_verify(p, b);
	blk = block_of(p, b);
	return blk->slot != KVT_SLOT_NONE && !(blk->flags & B_DIRTY) &&
	       (blk->where == W_COLD || blk->where == W_RESIDENT);
}

static uint64_t left_of(struct pool *p)
{
	uint64_t left = 0;
	uint32_t b;

	if (p->module)
		return device_cold_blocks(p);
	for (b = p->scrub_at; b < p->nr_blocks; b++)
		left += to_verify(p, b);
	return left;
}

int scrub_begin(struct kvtierd *d, struct pool *only)
{
	struct pool *p;

	if (d->scrub.pool)
		return kvt_fail(-EBUSY, "a scrub is under way: see `kvtier scrub --status`");
	if (!d->scrub.buffer && posix_memalign((void **)&d->scrub.buffer, 4096, KVT_BLOCK_MAX))
		return -ENOMEM;
	memset(&d->scrub.result, 0, sizeof(d->scrub.result));
	d->scrub.all = !only;
	for (p = d->pools; p; p = p->next) {
		if (only && p != only)
			continue;
		p->scrub_at = 0;
		d->scrub.result.left += left_of(p);
		if (p->id > d->scrub.pool)
			d->scrub.pool = p->id;
	}
	d->scrub.result.running = d->scrub.pool != 0;
	log_line(LOG_INFO, "scrub_begun", "pool=%u blocks=%llu", only ? only->id : 0,
		 (unsigned long long)d->scrub.result.left);
	timer_within(d, &d->scrub_timer, 0);
	return 0;
}

static void finish(struct kvtierd *d)
{
	d->scrub.pool = 0;
	d->scrub.result.running = 0;
	d->scrub.result.left = 0;
	log_line(d->scrub.result.bad ? LOG_ERROR : LOG_INFO, "scrub_done", "verified=%llu bad=%llu",
		 (unsigned long long)d->scrub.result.verified,
		 (unsigned long long)d->scrub.result.bad);
	if (d->config.scrub_every_s)
		timer_within(d, &d->scrub_timer, d->config.scrub_every_s * NS_PER_S);
}

/* The pool after this one: lists grow at their front, ids do not change. */
static struct pool *next_pool(struct kvtierd *d, uint32_t id)
{
	struct pool *p, *best = NULL;

	for (p = d->pools; p; p = p->next)
		if (!p->removed && p->id < id && (!best || p->id > best->id))
			best = p;
	return best;
}

void scrub_forget(struct kvtierd *d, const struct pool *p)
{
	struct pool *next;

	if (d->scrub.pool != p->id)
		return;
	if (p->module)
		d->scrub.reading = false; /* its end is not told any more */
	timer_within(d, &d->scrub_timer, 0);
	next = d->scrub.all ? next_pool(d, p->id) : NULL;
	d->scrub.pool = next ? next->id : 0;
	if (!next)
		finish(d);
}

static void count(struct kvtierd *d)
{
	d->scrub.result.verified++;
	d->count.scrubbed++;
	if (d->scrub.result.left)
		d->scrub.result.left--;
}

static void judge(struct kvtierd *d, struct pool *p, int res)
{
	struct block *blk = block_of(p, reading.block);
	bool wrong;

	/* It was written anew, moved or discarded meanwhile: that read tells nothing. */
	if (blk->generation != reading.generation || blk->slot != reading.slot ||
	    !to_verify(p, reading.block))
		return;
	count(d);
	wrong = res != (int)p->block_bytes ||
		kvt_crc32c(d->scrub.buffer, p->block_bytes) != blk->crc;
	if (!wrong)
		return;
	d->scrub.result.bad++;
	d->count.scrub_bad++;
	log_line(LOG_ERROR, "scrub_bad", "pool=%u name=%s block=%u slot=%u", p->id, p->t->name,
		 reading.block, blk->slot);
	if (blk->where == W_RESIDENT)
		file_dirty(p, reading.block); /* memory still has it: it is written anew */
	else
		file_bad(p, reading.block, res < 0 ? res : -EILSEQ);
	if (blk->where == W_RESIDENT && blk->flags & B_SEALED)
		writeback_queue(p, reading.block);
}

static void again(struct kvtierd *d, uint64_t bytes)
{
	d->scrub.reading = false;
	timer_within(d, &d->scrub_timer,
		     d->config.scrub_rate ? bytes * NS_PER_S / d->config.scrub_rate : 0);
}

/* The module brought a block in, or found that it is bad; or had no memory for it now. */
static void verified(struct pool *p, uint32_t b, int res)
{
	struct kvtierd *d = p->d;

	if (!res) {
		count(d);
		device_command(p, KVTIER_OP_DEMOTE, KVTIER_TIER_NVME, b, 1);
	} else if (device_is_bad(p, b)) {
		count(d);
		d->scrub.result.bad++;
		d->count.scrub_bad++;
		log_line(LOG_ERROR, "scrub_bad", "pool=%u name=%s block=%u", p->id, p->t->name, b);
	}
	again(d, p->block_bytes);
}

static void read_done(struct op *op, int res);

static void issue(struct kvtierd *d, struct pool *p)
{
	struct io_uring_sqe *sqe = loop_sqe(d, &reading.op);

	io_uring_prep_read(sqe, p->slots_fd, d->scrub.buffer, p->block_bytes,
			   (uint64_t)reading.slot << p->shift);
	io_uring_sqe_set_data(sqe, &reading.op);
}

static bool try_again(struct kvtierd *d, const struct pool *p, int res)
{
	if (res == (int)p->block_bytes || !kvt_read_may_pass(res, reading.tries) ||
	    now_ns() >= reading.start_ns + (uint64_t)p->t->deadline_ms * NS_PER_MS)
		return false;
	reading.tries++;
	reading.again = true;
	timer_within(d, &d->scrub_timer, KVT_READ_AGAIN_NS);
	return true;
}

static void read_done(struct op *op, int res)
{
	struct kvtierd *d = reading.d;
	struct pool *p = pool_by_id(d, reading.pool);
	uint64_t bytes = p ? p->block_bytes : KVT_BLOCK_MAX;

	(void)op;
	if (p && try_again(d, p, res))
		return;
	if (p) {
		p->ios--;
		judge(d, p, res);
		file_progress(p);
	}
	again(d, bytes);
}

static void read_block(struct kvtierd *d, struct pool *p, uint32_t b)
{
	if (p->module) {
		d->scrub.reading = !device_verify(p, b, verified);
		return;
	}
	reading = (struct scrub_read){ .op.done = read_done, .d = d, .pool = p->id, .block = b,
				       .slot = block_of(p, b)->slot,
				       .generation = block_of(p, b)->generation,
				       .start_ns = now_ns() };
	issue(d, p);
	d->scrub.reading = true;
	p->ios++;
}

/* The pool of a read that is under way stays until that ends. */
static void read_again(struct kvtierd *d)
{
	if (!reading.again)
		return;
	reading.again = false;
	issue(d, pool_by_id(d, reading.pool));
}

/* The next block; or, when nothing is under way, the scrub that is due. */
void scrub_run(struct kvtierd *d)
{
	uint32_t look = LOOK_MAX;
	struct pool *p;

	if (!d->scrub.pool) {
		if (d->config.scrub_every_s)
			scrub_begin(d, NULL);
		return;
	}
	if (d->scrub.reading) {
		read_again(d);
		return;
	}
	p = pool_by_id(d, d->scrub.pool);
	for (; p && p->scrub_at < p->nr_blocks && look; p->scrub_at++, look--) {
		if (!to_verify(p, p->scrub_at))
			continue;
		read_block(d, p, p->scrub_at++);
		return;
	}
	if (p && p->scrub_at < p->nr_blocks) {
		timer_within(d, &d->scrub_timer, 0); /* the others wait meanwhile */
		return;
	}
	p = d->scrub.all && p ? next_pool(d, p->id) : NULL;
	if (!p) {
		finish(d);
		return;
	}
	d->scrub.pool = p->id;
	timer_within(d, &d->scrub_timer, 0);
}
