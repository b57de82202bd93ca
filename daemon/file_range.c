// SPDX-License-Identifier: MIT
/*
 * Range operations of clients on memory files: what each does in each state is said in
 * <linux/kvtier.h>.  A command works through its blocks in order; what takes time is
 * begun a little ahead of where it waits.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvtierd.h"

#define AHEAD 64u
#define VISITS_MAX 65536u /* blocks that a pool's commands look at in a turn */

struct command {
	struct command *next;
	struct request *request; /* NULL: answered already (NOWAIT), or its client is gone */
	struct client *client;
	struct attachment *a;
	uint32_t range; /* at work on */
	uint32_t block; /* ... on this one of it */
	uint32_t begun; /* ... and what is begun, up to here */
	bool checked;
	bool undo; /* a pin failed: take back up to @block */
	struct kvt_ranges body; /* with its ranges behind it */
};

static struct kvtier_range *range_of(struct command *c)
{
	return &c->body.ranges[c->range];
}

static uint32_t first_of(struct pool *p, const struct kvtier_range *r)
{
	return (uint32_t)(r->offset >> p->shift);
}

static uint32_t nr_of(struct pool *p, const struct kvtier_range *r)
{
	return (uint32_t)(r->length >> p->shift);
}

/* ---- before anything changes ------------------------------------------------------------- */

static int check_memory(struct pool *p, const struct kvtier_range *r, bool pin)
{
	uint32_t frames = (uint32_t)(p->t->budget[KVTIER_TIER_DRAM] >> p->shift), b, more = 0;

	for (b = first_of(p, r); b < first_of(p, r) + nr_of(p, r); b++)
		more += !block_of(p, b)->pins && (pin || block_of(p, b)->where != W_EMPTY);
	if (!pin)
		return more + p->pinned > frames ? -ENOSPC : 0;
	if (frames != p->nr_blocks && more + p->pinned + KVTIER_FRAMES_MIN > frames)
		return -ENOSPC;
	return tenant_pin_room(p->d, p->tenant, (uint64_t)more << p->shift);
}

static int check_blocks(struct pool *p, uint32_t op, const struct kvtier_range *r)
{
	uint32_t b;

	for (b = first_of(p, r); b < first_of(p, r) + nr_of(p, r); b++) {
		const struct block *blk = block_of(p, b);

		if (op == KVTIER_OP_SEAL && blk->where == W_EMPTY)
			return -ENODATA;
		if (op == KVTIER_OP_DISCARD && blk->pins)
			return -EBUSY;
		if (op == KVTIER_OP_UNPIN && !blk->pins)
			return -EINVAL;
	}
	return 0;
}

static int check_range(struct pool *p, struct command *c)
{
	uint32_t op = c->body.op;

	if (op == KVTIER_OP_PROMOTE || op == KVTIER_OP_PIN)
		return check_memory(p, range_of(c), op == KVTIER_OP_PIN);
	if (op == KVTIER_OP_SEAL || op == KVTIER_OP_DISCARD || op == KVTIER_OP_UNPIN)
		return check_blocks(p, op, range_of(c));
	return 0;
}

/* ---- one block --------------------------------------------------------------------------- */

static int promote(struct pool *p, uint32_t b, bool fill)
{
	struct block *blk = block_of(p, b);
	int ret;

	switch (blk->where) {
	case W_RESIDENT:
	case W_WRITING:
		return 0;
	case W_EMPTY:
		ret = fill ? file_zero_fill(p, b) : 0;
		if (!ret)
			file_serve(p, b); /* who has been waiting for it */
		return ret;
	case W_COLD:
		file_read(p, b, 0);
		return -EAGAIN;
	case W_BAD:
		return blk->error == -ETIMEDOUT ? -ETIMEDOUT : -EIO;
	default:
		return -EAGAIN;
	}
}

static int demote(struct pool *p, uint32_t b)
{
	struct block *blk = block_of(p, b);
	int ret;

	if (blk->pins)
		return -EBUSY;
	if (blk->where == W_RESIDENT && blk->error) {
		ret = blk->error;
		blk->error = 0;
		return ret;
	}
	if (blk->where == W_WRITING && blk->flags & B_STALLED)
		return -ETIMEDOUT;
	if (blk->where == W_WRITING)
		blk->flags |= B_EVICT;
	if (blk->where == W_RESIDENT) {
		if (blk->busy)
			return -EAGAIN; /* attention reads it */
		ret = file_evict(p, b);
		return ret ? ret : blk->where == W_COLD ? 0 : -EAGAIN;
	}
	return blk->where == W_READING || blk->where == W_WRITING ? -EAGAIN : 0;
}

static int write_back(struct pool *p, uint32_t b)
{
	struct block *blk = block_of(p, b);
	int ret;

	if (blk->where == W_BAD)
		return -EIO;
	if (blk->where == W_WRITING && blk->flags & B_STALLED)
		return -ETIMEDOUT;
	if (blk->where == W_READING || blk->where == W_WRITING)
		return -EAGAIN;
	if (blk->where != W_RESIDENT || !(blk->flags & B_DIRTY))
		return 0;
	if (blk->error) {
		ret = blk->error;
		blk->error = 0;
		return ret;
	}
	ret = file_write(p, b, 0);
	return ret ? ret : -EAGAIN;
}

static int seal(struct pool *p, uint32_t b)
{
	struct block *blk = block_of(p, b);

	if (blk->where == W_BAD)
		return -EIO;
	if (blk->where == W_EMPTY)
		return -ENODATA;
	if (blk->flags & B_SEALED)
		return 0;
	if (file_protect(p, b))
		return -EAGAIN;
	blk->flags |= B_SEALED;
	if (blk->flags & B_DIRTY)
		writeback_queue(p, b);
	return 0;
}

static uint16_t *pins_of(struct attachment *a)
{
	uint64_t bytes = a->pool->nr_blocks * sizeof(*a->pins);

	if (a->pins || tenant_take(a->pool->d, a->client->tenant, bytes, 0))
		return a->pins;
	a->pins = calloc(a->pool->nr_blocks, sizeof(*a->pins));
	if (!a->pins)
		tenant_give(a->client->tenant, bytes, 0);
	return a->pins;
}

static void count_pin(struct pool *p)
{
	p->pinned++;
	tenant_pin(p->d, p->tenant, (int64_t)p->block_bytes);
}

static void uncount_pin(struct pool *p)
{
	p->pinned--;
	tenant_pin(p->d, p->tenant, -(int64_t)p->block_bytes);
}

static int pin(struct pool *p, struct attachment *a, uint32_t b)
{
	struct block *blk = block_of(p, b);
	uint16_t *pins = pins_of(a);
	int ret;

	if (!pins)
		return -ENOMEM;
	if (blk->pins == UINT16_MAX)
		return -ENOSPC;
	/* Others may have pinned since the whole range was looked at. */
	ret = blk->pins ? 0 : tenant_pin_room(p->d, p->tenant, p->block_bytes);
	if (!ret)
		ret = promote(p, b, true);
	if (ret)
		return ret;
	if (!blk->pins++)
		count_pin(p);
	pins[b]++;
	return 0;
}

static void unpin(struct pool *p, struct attachment *a, uint32_t b)
{
	struct block *blk = block_of(p, b);

	if (!a->pins || !a->pins[b])
		return;
	a->pins[b]--;
	if (!--blk->pins)
		uncount_pin(p);
	/* A device may have written to it unseen. */
	if (blk->flags & B_SEALED)
		return;
	if (blk->where == W_WRITING)
		blk->flags |= B_STORED;
	else if (blk->where == W_RESIDENT && !(blk->flags & B_DIRTY))
		file_dirty(p, b);
}

void file_unpin_all(struct attachment *a)
{
	uint32_t b;

	for (b = 0; a->pins && b < a->pool->nr_blocks; b++) {
		if (!a->pins[b])
			continue;
		block_of(a->pool, b)->pins -= (uint16_t)(a->pins[b] - 1);
		a->pins[b] = 1;
		unpin(a->pool, a, b);
	}
}

static int one_block(struct pool *p, struct command *c, uint32_t b)
{
	switch (c->body.op) {
	case KVTIER_OP_PROMOTE:
		return promote(p, b, false);
	case KVTIER_OP_DEMOTE:
		return demote(p, b);
	case KVTIER_OP_WRITEBACK:
		return write_back(p, b);
	case KVTIER_OP_SEAL:
		return seal(p, b);
	case KVTIER_OP_DISCARD:
		return file_discard(p, b);
	case KVTIER_OP_PIN:
		return pin(p, c->a, b);
	case KVTIER_OP_UNPIN:
		if (!c->a->pins || !c->a->pins[b])
			return -EINVAL;
		unpin(p, c->a, b);
		return 0;
	default:
		if (block_of(p, b)->where == W_RESIDENT)
			block_of(p, b)->flags |= B_HINT;
		return 0;
	}
}

/* Begin what takes time, ahead of where the command waits. */
static void begin_ahead(struct pool *p, struct command *c)
{
	const struct kvtier_range *r = range_of(c);
	uint32_t end = first_of(p, r) + nr_of(p, r), last = c->block + AHEAD;

	if (last > end)
		last = end;
	if (c->begun < c->block)
		c->begun = c->block;
	for (; c->begun < last; c->begun++) {
		struct block *blk = block_of(p, c->begun);
		bool reads = c->body.op == KVTIER_OP_PROMOTE || c->body.op == KVTIER_OP_PIN;

		if (reads && blk->where == W_COLD && file_read(p, c->begun, 0))
			return;
		if (c->body.op == KVTIER_OP_DEMOTE && blk->where == W_RESIDENT && !blk->error &&
		    file_evict(p, c->begun) == -EAGAIN)
			return;
		if (c->body.op == KVTIER_OP_WRITEBACK && blk->where == W_RESIDENT && !blk->error &&
		    blk->flags & B_DIRTY && file_write(p, c->begun, 0))
			return;
	}
}

/* ---- a command --------------------------------------------------------------------------- */

static void undo_pins(struct pool *p, struct command *c)
{
	uint32_t b;

	for (b = first_of(p, range_of(c)); b < c->block; b++)
		unpin(p, c->a, b);
}

static void next_range(struct pool *p, struct command *c)
{
	c->body.done += !range_of(c)->result;
	c->range++;
	c->checked = false;
	if (c->range < c->body.nr)
		c->block = c->begun = first_of(p, range_of(c));
}

/* Blocks that may still be visited in this turn; the rest follows in the next. */
static uint32_t *visits_of(struct pool *p)
{
	if (p->visit_ns != p->d->turn_ns) {
		p->visit_ns = p->d->turn_ns;
		p->visits = VISITS_MAX;
	}
	if (!p->visits)
		timer_within(p->d, &p->d->waits, 0);
	return &p->visits;
}

static void visit(uint32_t *visits, uint32_t nr)
{
	*visits -= nr < *visits ? nr : *visits;
}

/* Work until it is done (true) or has to wait. */
static bool work(struct pool *p, struct command *c)
{
	bool nowait = c->body.flags & KVTIER_OP_NOWAIT && c->body.op != KVTIER_OP_PIN;
	uint32_t *visits = visits_of(p);

	while (c->range < c->body.nr) {
		struct kvtier_range *r = range_of(c);
		uint32_t end = first_of(p, r) + nr_of(p, r);
		int ret = 0;

		if (!*visits_of(p))
			return false;
		if (!c->checked) {
			ret = r->result = check_range(p, c);
			visit(visits, nr_of(p, r));
		}
		c->checked = true;
		if (ret) {
			next_range(p, c);
			continue;
		}
		begin_ahead(p, c);
		for (; c->block < end; c->block++, visit(visits, 1)) {
			if (!*visits_of(p))
				return false;
			ret = one_block(p, c, c->block);
			if (ret == -EAGAIN && nowait)
				ret = 0;
			if (ret == -EAGAIN)
				return false;
			if (ret && !r->result)
				r->result = ret;
			if (ret && c->body.op == KVTIER_OP_PIN) {
				undo_pins(p, c);
				break;
			}
		}
		next_range(p, c);
	}
	return true;
}

static void answer(struct command *c)
{
	request_end(c->request, 0, &c->body,
		    sizeof(c->body) + c->body.nr * sizeof(c->body.ranges[0]));
	free(c);
}

void file_run_commands(struct pool *p)
{
	struct command **at = &p->commands;

	while (*at) {
		struct command *c = *at;

		if (!work(p, c)) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		answer(c);
	}
}

/* A client's use of the pool ends: what it asked for is not worked on any more. */
void file_cancel_commands(struct pool *p, struct client *client)
{
	struct command **at = &p->commands;

	while (*at) {
		struct command *c = *at;

		if (c->client != client) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		if (c->body.op == KVTIER_OP_PIN && c->range < c->body.nr)
			undo_pins(p, c);
		kvt_fail(-ECANCELED, "the pool went away before the work was done");
		request_end(c->request, -ECANCELED, NULL, 0);
		free(c);
	}
}

static int check_op(const struct pool *p, const struct kvt_ranges *body)
{
	uint32_t i, op = body->op, tier = body->tier;
	uint64_t mask = p->block_bytes - 1;

	if (op < KVTIER_OP_PROMOTE || op > KVTIER_OP_COLD || body->done ||
	    body->flags & ~KVTIER_OP_NOWAIT)
		return kvt_fail(-EINVAL, "unknown range operation %u, flags %#x", op, body->flags);
	if (tier >= KVTIER_NR_TIERS ||
	    (tier && op != KVTIER_OP_PROMOTE && op != KVTIER_OP_DEMOTE) ||
	    (op == KVTIER_OP_PROMOTE && tier == KVTIER_TIER_NVME) ||
	    (op == KVTIER_OP_DEMOTE && tier == KVTIER_TIER_DRAM))
		return kvt_fail(-EINVAL, "promote goes to DRAM or CXL, demote to CXL or NVMe");
	for (i = 0; i < body->nr; i++) {
		const struct kvtier_range *r = &body->ranges[i];

		if (r->__reserved || (r->offset | r->length) & mask || !r->length ||
		    r->offset >= p->t->bytes || r->length > p->t->bytes - r->offset)
			return kvt_fail(-EINVAL,
					"range %u (offset %llu, length %llu) is not of whole "
					"blocks inside the pool",
					i, (unsigned long long)r->offset,
					(unsigned long long)r->length);
	}
	return 0;
}

static void no_tier(struct command *c)
{
	uint32_t i;

	for (i = 0; i < c->body.nr; i++)
		c->body.ranges[i].result = -ENODEV;
	c->range = c->body.nr;
}

int file_range_op(struct client *client, const struct kvt_msg *msg, const struct kvt_ranges *body,
		  struct attachment *a)
{
	struct pool *p = a->pool;
	size_t bytes = sizeof(*body) + body->nr * sizeof(body->ranges[0]);
	struct command *c, **at;
	uint32_t i;
	int ret = check_op(p, body);

	if (ret)
		return ret;
	attachment_used(a);
	c = calloc(1, sizeof(*c) + body->nr * sizeof(body->ranges[0]));
	if (!c)
		return -ENOMEM;
	memcpy(&c->body, body, bytes);
	for (i = 0; i < body->nr; i++)
		c->body.ranges[i].result = 0;
	c->client = client;
	c->a = a;
	ret = request_begin(client, msg, &c->request);
	if (ret) {
		free(c);
		return ret;
	}
	if (body->tier == KVTIER_TIER_CXL)
		no_tier(c);
	if (c->range < body->nr)
		c->block = c->begun = first_of(p, range_of(c));
	if (work(p, c)) {
		answer(c);
		return 0;
	}
	for (at = &p->commands; *at; at = &(*at)->next)
		;
	*at = c;
	timer_within(p->d, &p->d->waits, 2 * NS_PER_MS);
	return 0;
}
