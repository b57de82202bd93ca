// SPDX-License-Identifier: MIT
/* Requests of other threads: queue, wait, and the ones that are not range operations. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "error.h"
#include "user_command.h"

int kvt_user_execute(struct kvt_user *u, struct kvt_command *c)
{
	pthread_cond_init(&c->done, NULL);
	pthread_mutex_lock(&u->lock);
	c->next = u->inbox;
	u->inbox = c;
	eventfd_write(u->wake_fd, 1);
	while (!c->finished)
		pthread_cond_wait(&c->done, &u->lock);
	pthread_mutex_unlock(&u->lock);
	pthread_cond_destroy(&c->done);
	return c->result;
}

/* The caller may free the command as soon as the lock is gone. */
static void finish(struct kvt_user *u, struct kvt_command *c)
{
	pthread_mutex_lock(&u->lock);
	c->finished = true;
	pthread_cond_signal(&c->done);
	pthread_mutex_unlock(&u->lock);
}

/* The inbox is a stack: append it to the active list in order of arrival. */
void kvt_user_take_commands(struct kvt_user *u)
{
	struct kvt_command *c, *in_order = NULL, **end = &u->active;

	pthread_mutex_lock(&u->lock);
	c = u->inbox;
	u->inbox = NULL;
	pthread_mutex_unlock(&u->lock);
	while (c) {
		struct kvt_command *next = c->next;

		c->next = in_order;
		in_order = c;
		c = next;
	}
	while (*end)
		end = &(*end)->next;
	*end = in_order;
}

void kvt_user_run_commands(struct kvt_user *u)
{
	struct kvt_command **link = &u->active;

	while (*link) {
		struct kvt_command *c = *link;

		if (!c->deadline_ns)
			c->deadline_ns = u->now_ns + u->deadline_ns;
		if (!c->step(u, c)) {
			link = &c->next;
			continue;
		}
		*link = c->next;
		finish(u, c);
	}
}

void kvt_user_cancel_commands(struct kvt_user *u)
{
	kvt_user_take_commands(u);
	u->sync_for = NULL;
	while (u->active) {
		struct kvt_command *c = u->active;

		u->active = c->next;
		c->result = -ECANCELED;
		finish(u, c);
	}
}

static int expired(struct kvt_user *u, struct kvt_command *c, int error)
{
	if (u->now_ns < c->deadline_ns)
		return 0;
	c->result = error;
	return 1;
}

/* Evict until the pool fits, then give the pages back. */
static int resize_step(struct kvt_user *u, struct kvt_command *c)
{
	struct kvt_arena *a = &u->arena[KVTIER_TIER_DRAM];
	uint32_t limit = (uint32_t)(c->dram_bytes >> u->pool.block_shift);
	int i;

	if (!c->begun) {
		c->begun = true;
		c->first = a->limit;
		a->limit = limit;
	}
	for (i = 0; i < 64 && a->nr_used > limit; i++)
		if (!kvt_user_evict_one(u, true))
			break;
	kvt_arena_trim(a);
	if (a->nr_used + a->nr_ready <= limit) {
		kvt_user_prefetch_resized(u);
		return 1;
	}
	if (!expired(u, c, -ENOSPC))
		return 0;
	a->limit = c->first;
	return 1;
}

int kvt_user_resize(struct kvt_pool *pool, uint64_t dram_bytes)
{
	struct kvt_command c = { .step = resize_step, .dram_bytes = dram_bytes };
	int ret = kvt_user_execute(kvt_user_of(pool), &c);

	if (ret == -ENOSPC)
		return kvt_fail(ret,
				"the pool cannot shrink to %llu MiB of DRAM: what has to leave "
				"is pinned or finds no room on NVMe",
				(unsigned long long)dram_bytes >> 20);
	return ret;
}

int kvt_user_range_op(struct kvt_pool *pool, uint32_t op, uint32_t tier, uint32_t flags,
		      struct kvtier_range *ranges, uint32_t nr)
{
	struct kvt_command c = { .step = kvt_user_range_step, .op = op, .tier = tier,
				 .flags = flags, .ranges = ranges, .nr = nr };

	return kvt_user_execute(kvt_user_of(pool), &c);
}

/* Source clean, target empty: then both share the slot. */
static int clone_one(struct kvt_user *u, uint32_t dst, uint32_t src)
{
	struct kvt_block *from = kvt_block(u, src), *to = kvt_block(u, dst);
	int ret;

	if (from->where == KVT_EMPTY)
		return 1;
	ret = kvt_user_clean_step(u, src);
	if (ret <= 0)
		return ret;
	ret = kvt_slot_share(&u->slots, from->slot);
	if (ret)
		return ret;
	to->slot = from->slot;
	to->crc = from->crc;
	to->generation++;
	to->flags = from->flags & KVT_B_SEALED;
	to->where = KVT_COLD;
	return 1;
}

/* Refuse before anything has changed. */
static int check_clone(struct kvt_user *u, const struct kvt_command *c)
{
	uint32_t i;

	for (i = 0; i < c->nr; i++) {
		const struct kvt_block *from = kvt_block(u, c->src + i);

		if (kvt_block(u, c->first + i)->pins)
			return -EBUSY;
		if (from->pins && !u->uffd.can_move && (from->flags & KVT_B_DIRTY))
			return -EBUSY;
		if (from->where == KVT_BAD)
			return -EIO;
	}
	return 0;
}

static int clone_step(struct kvt_user *u, struct kvt_command *c)
{
	if (!c->begun)
		c->result = check_clone(u, c);
	c->begun = true;
	while (!c->result && c->settled < c->nr) {
		uint32_t to = c->first + c->settled;
		int ret = kvt_user_discard_block(u, to);

		if (!ret)
			ret = clone_one(u, to, c->src + c->settled);
		if (!ret || ret == -EAGAIN)
			return expired(u, c, -ETIMEDOUT);
		if (ret < 0)
			c->result = ret;
		else
			c->settled++;
	}
	return 1;
}

int kvt_user_clone(struct kvt_pool *dst, uint64_t dst_offset, struct kvt_pool *src,
		   uint64_t src_offset, uint64_t length)
{
	struct kvt_user *u = kvt_user_of(dst);
	uint32_t shift = dst->block_shift;
	struct kvt_command c = { .step = clone_step,
				 .first = (uint32_t)(dst_offset >> shift),
				 .src = (uint32_t)(src_offset >> shift),
				 .nr = (uint32_t)(length >> shift) };

	if (dst != src)
		return kvt_fail(-EXDEV, "the user pager clones within one pool only");
	if (!u->slots.nr)
		return kvt_fail(-EOPNOTSUPP, "the user pager shares cloned blocks on NVMe: "
					     "give the pool an NVMe tier");
	return kvt_user_execute(u, &c);
}

static int query_step(struct kvt_user *u, struct kvt_command *c)
{
	uint32_t i;

	for (i = 0; i < c->nr; i++)
		kvt_user_info(u, c->first + i, &c->infos[i]);
	return 1;
}

int kvt_user_query(struct kvt_pool *pool, uint64_t first, uint32_t nr,
		   struct kvtier_block_info *infos)
{
	struct kvt_command c = { .step = query_step, .first = (uint32_t)first, .nr = nr,
				 .infos = infos };

	return kvt_user_execute(kvt_user_of(pool), &c);
}

static int stats_step(struct kvt_user *u, struct kvt_command *c)
{
	kvt_user_stat_fill(u);
	*c->stats = u->stats;
	return 1;
}

int kvt_user_stats(struct kvt_pool *pool, struct kvtier_stats *stats)
{
	struct kvt_command c = { .step = stats_step, .stats = stats };

	return kvt_user_execute(kvt_user_of(pool), &c);
}

static int note_slot(struct kvt_user *u, struct kvt_command *c, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);
	int ret = kvt_user_clean_step(u, b);

	if (ret <= 0)
		return ret;
	ret = kvt_slot_share(&u->slots, blk->slot);
	if (ret)
		return ret;
	c->slots[c->settled] = (struct kvtier_slot){ .block = b, .slot = blk->slot,
						     .generation = blk->generation,
						     .crc32c = blk->crc };
	return 1;
}

void kvt_user_sync_done(struct kvt_user *u, int res)
{
	struct kvt_command *c = u->sync_for;

	u->syncing = false;
	u->sync_for = NULL;
	if (!c)
		return;
	c->sync = KVT_SYNC_DONE;
	c->result = res < 0 ? res : 0;
}

/* The file durable: 1, or not yet: 0. */
static int sync_step(struct kvt_user *u, struct kvt_command *c)
{
	if (c->sync == KVT_SYNC_NONE && !u->syncing) {
		c->sync = KVT_SYNC_BEGUN;
		c->deadline_ns = u->now_ns + u->deadline_ns;
		u->syncing = true;
		u->sync_for = c;
		kvt_user_submit_sync(u);
	}
	if (c->sync == KVT_SYNC_DONE)
		return 1;
	if (!expired(u, c, -ETIMEDOUT))
		return 0;
	if (u->sync_for == c)
		u->sync_for = NULL;
	return 1;
}

/* Write back and hold every slot, then make them durable. */
static int checkpoint_step(struct kvt_user *u, struct kvt_command *c)
{
	uint32_t i;

	for (i = 0; !c->begun && i < c->nr; i++)
		if (!(kvt_block(u, c->first + i)->flags & KVT_B_SEALED))
			c->result = -EPERM; /* told apart from a block that cannot be moved */
	c->begun = true;
	while (!c->result && c->settled < c->nr) {
		int ret = note_slot(u, c, c->first + c->settled);

		if (!ret && !expired(u, c, -ETIMEDOUT))
			return 0;
		if (ret < 0)
			c->result = ret;
		if (ret == 1)
			c->settled++;
	}
	if (!c->result && !sync_step(u, c))
		return 0;
	for (i = 0; c->result && i < c->settled; i++)
		kvt_slot_put(&u->slots, (uint32_t)c->slots[i].slot);
	return 1;
}

int kvt_user_checkpoint(struct kvt_pool *pool, uint64_t offset, uint64_t length,
			struct kvtier_slot *slots)
{
	struct kvt_user *u = kvt_user_of(pool);
	struct kvt_command c = { .step = checkpoint_step, .slots = slots,
				 .first = (uint32_t)(offset >> pool->block_shift),
				 .nr = (uint32_t)(length >> pool->block_shift) };
	int ret;

	if (!(u->flags & KVT_KEEP_FILE) || u->nvme.fd < 0)
		return kvt_fail(-EINVAL, "a checkpoint needs a pool made with KVT_KEEP_FILE "
					 "over a file or device");
	ret = kvt_user_execute(u, &c);
	if (ret == -EPERM)
		return kvt_fail(-EBUSY, "a block of the range is not sealed: seal it first");
	if (ret == -EBUSY)
		return kvt_fail(ret, "a block of the range has to be written, and a device or the "
				     "kernel has its pages, or may have: unpin it first");
	return ret ? ret : (int)c.nr;
}

/* A slot that is taken may be shared with whoever says the same of its content. */
static int share_adopted(struct kvt_user *u, const struct kvtier_slot *s)
{
	uint32_t b;

	for (b = 0; b < u->nr_blocks; b++)
		if (kvt_block(u, b)->slot == s->slot)
			return kvt_block(u, b)->crc == s->crc32c &&
					       kvt_block(u, b)->where == KVT_COLD ?
				       kvt_slot_share(&u->slots, (uint32_t)s->slot) :
				       -EINVAL;
	return -EINVAL;
}

static int check_adopted(struct kvt_user *u, const struct kvtier_slot *s)
{
	int ret;

	if (s->block >= u->nr_blocks || s->slot >= u->slots.nr)
		return -EINVAL;
	if (kvt_block(u, (uint32_t)s->block)->where != KVT_EMPTY)
		return -EEXIST;
	ret = kvt_slot_claim(&u->slots, (uint32_t)s->slot);
	return ret == -EBUSY ? share_adopted(u, s) : ret;
}

static void take_adopted(struct kvt_user *u, const struct kvtier_slot *s)
{
	struct kvt_block *blk = kvt_block(u, (uint32_t)s->block);

	blk->slot = (uint32_t)s->slot;
	blk->crc = s->crc32c;
	blk->generation = s->generation;
	blk->flags = KVT_B_SEALED;
	blk->where = KVT_COLD;
}

static void give_back(struct kvt_user *u, const struct kvtier_slot *s)
{
	struct kvt_block *blk = kvt_block(u, (uint32_t)s->block);

	kvt_user_drop_slot(u, (uint32_t)s->block);
	blk->flags = 0;
	blk->generation = 0;
	blk->where = KVT_EMPTY;
}

/* All or nothing. */
static int adopt_step(struct kvt_user *u, struct kvt_command *c)
{
	uint32_t i;

	for (i = 0; i < c->nr; i++) {
		c->result = check_adopted(u, &c->adopted[i]);
		if (c->result)
			break;
		take_adopted(u, &c->adopted[i]);
	}
	while (c->result && i--)
		give_back(u, &c->adopted[i]);
	return 1;
}

int kvt_user_adopt(struct kvt_pool *pool, const struct kvtier_slot *slots, uint32_t nr)
{
	struct kvt_command c = { .step = adopt_step, .adopted = slots, .nr = nr };
	int ret = kvt_user_execute(kvt_user_of(pool), &c);

	if (ret == -EINVAL)
		return kvt_fail(
			ret,
			"a slot lies outside the file or the pool, or is taken by other content");
	if (ret == -EEXIST)
		return kvt_fail(ret, "a target block is not empty");
	return ret;
}
