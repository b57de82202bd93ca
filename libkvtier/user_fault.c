// SPDX-License-Identifier: MIT
/* Threads that touched what is not mapped, or wrote to what is protected. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "user.h"

#define WAITS_FIRST 64
/* Faults handled in a row. */
#define FAULTS_MAX 64

static bool is_slow(const struct kvt_block *blk)
{
	return blk->where == KVT_COLD || blk->where == KVT_READING || blk->where == KVT_WRITING;
}

static void remove_wait(struct kvt_user *u, uint32_t i)
{
	if (u->waits[i].slow && !--u->slow_waits)
		u->stats.fault_wait_ns += kvt_now_ns() - u->slow_since_ns;
	u->waits[i] = u->waits[--u->nr_waits];
}

/* As many as there are threads; without memory for one more, that thread faults again. */
static bool grow_waits(struct kvt_user *u)
{
	uint32_t max = u->max_waits ? 2 * u->max_waits : WAITS_FIRST;
	struct kvt_wait *grown = realloc(u->waits, max * sizeof(*grown));

	if (!grown)
		return false;
	u->waits = grown;
	u->max_waits = max;
	return true;
}

static void add_wait(struct kvt_user *u, const struct kvt_fault *f, uint32_t b)
{
	struct kvt_wait *w;
	uint32_t i;

	for (i = 0; i < u->nr_waits; i++)
		if (u->waits[i].tid == f->tid)
			remove_wait(u, i--);
	if (u->nr_waits == u->max_waits && !grow_waits(u)) {
		kvt_uffd_wake(&u->uffd, kvt_block_addr(u, b), u->pool.block_bytes);
		return;
	}
	w = &u->waits[u->nr_waits++];
	*w = (struct kvt_wait){ .since_ns = kvt_now_ns(), .addr = f->addr, .block = b,
				.tid = f->tid, .write = f->write,
				.slow = is_slow(kvt_block(u, b)) };
	if (w->slow && !u->slow_waits++)
		u->slow_since_ns = w->since_ns;
}

bool kvt_user_wanted(const struct kvt_user *u, uint32_t b, bool *write)
{
	bool wanted = false;
	uint32_t i;

	*write = false;
	for (i = 0; i < u->nr_waits; i++) {
		if (u->waits[i].block != b)
			continue;
		wanted = true;
		*write |= u->waits[i].write;
	}
	return wanted;
}

/* The block is mapped: whoever waits for it goes on. */
void kvt_user_wake_block(struct kvt_user *u, uint32_t b)
{
	bool any = false;
	uint32_t i;

	for (i = 0; i < u->nr_waits; i++) {
		if (u->waits[i].block != b)
			continue;
		remove_wait(u, i--);
		any = true;
	}
	if (any)
		kvt_uffd_wake(&u->uffd, kvt_block_addr(u, b), u->pool.block_bytes);
}

/* The block cannot be had: each access that waits for it ends in SIGBUS. */
void kvt_user_fail_block(struct kvt_user *u, uint32_t b)
{
	bool poisoned = kvt_block(u, b)->where == KVT_BAD && u->uffd.can_poison;
	uint32_t i;

	for (i = 0; i < u->nr_waits; i++) {
		if (u->waits[i].block != b)
			continue;
		if (!poisoned)
			kvt_uffd_sigbus(u->waits[i].tid, u->waits[i].addr);
		remove_wait(u, i--);
	}
	if (poisoned)
		kvt_uffd_wake(&u->uffd, kvt_block_addr(u, b), u->pool.block_bytes);
}

static int make_room(struct kvt_user *u)
{
	if (!kvt_user_room(u))
		kvt_user_evict_one(u, true);
	return kvt_user_room(u) ? 0 : -EAGAIN;
}

/* Take the next step towards having a wanted block mapped. */
static void serve_block(struct kvt_user *u, uint32_t b)
{
	struct kvt_block *blk = kvt_block(u, b);
	bool write;

	if (blk->where == KVT_COLD || blk->where == KVT_EMPTY) {
		if (make_room(u))
			return;
		if (blk->where == KVT_COLD)
			kvt_user_read(u, b, KVTIER_TIER_NONE);
		else
			kvt_user_zero_fill(u, b);
	}
	if (blk->where == KVT_STAGED && kvt_user_wanted(u, b, &write))
		kvt_user_map(u, b, write);
}

static void count_fault(struct kvt_user *u, const struct kvt_block *blk)
{
	switch (blk->where) {
	case KVT_EMPTY:
		u->stats.zero_faults++;
		break;
	case KVT_STAGED:
		u->stats.soft_faults++;
		break;
	case KVT_COLD:
		u->stats.hard_faults++;
		break;
	default:
		u->stats.late_faults++;
	}
}

/*
 * The fault came before the block was mapped, or the program gave the page up
 * with madvise(MADV_DONTNEED): then it reads as zeroes, as private memory does.
 * A sealed block stays protected, and one that is known to be in its slot is read
 * again; if it cannot leave memory now, its slot is believed when it does.
 */
static void fill_hole(struct kvt_user *u, uint32_t b, const struct kvt_fault *f)
{
	static const char zeroes[4096] __attribute__((aligned(4096)));
	char *page = (char *)(f->addr & ~(uintptr_t)(sizeof(zeroes) - 1));
	struct kvt_block *blk = kvt_block(u, b);
	bool sealed = blk->flags & KVT_B_SEALED;

	if (!kvt_uffd_copy(&u->uffd, page, zeroes, sizeof(zeroes), sealed)) {
		if (!sealed || (blk->flags & (KVT_B_DIRTY | KVT_B_UNSURE)))
			kvt_user_dirty(u, b);
		else if (!blk->pins && !kvt_user_unmap(u, b) && blk->where == KVT_STAGED)
			kvt_user_drop(u, b);
	}
	kvt_uffd_wake(&u->uffd, kvt_block_addr(u, b), u->pool.block_bytes);
}

static void missing(struct kvt_user *u, uint32_t b, const struct kvt_fault *f)
{
	struct kvt_block *blk = kvt_block(u, b);

	if (blk->where == KVT_MAPPED) {
		fill_hole(u, b, f);
		return;
	}
	if (blk->where == KVT_BAD) {
		if (!u->uffd.can_poison)
			kvt_uffd_sigbus(f->tid, f->addr);
		else
			kvt_uffd_wake(&u->uffd, kvt_block_addr(u, b), u->pool.block_bytes);
		return;
	}
	u->stats.faults++;
	count_fault(u, blk);
	add_wait(u, f, b);
	kvt_user_stat_seen(u, b, f->write ? KVT_STAT_WRITE : KVT_STAT_READ, is_slow(blk));
	kvt_user_learn(u, b, is_slow(blk));
	serve_block(u, b);
}

static void write_to_protected(struct kvt_user *u, uint32_t b, const struct kvt_fault *f)
{
	struct kvt_block *blk = kvt_block(u, b);

	u->stats.wp_faults++;
	if (blk->flags & KVT_B_SEALED) {
		kvt_uffd_sigbus(f->tid, f->addr);
		return;
	}
	kvt_user_stat_seen(u, b, KVT_STAT_WRITE, false);
	kvt_user_dirty(u, b);
	blk->flags &= ~KVT_B_PROTECTED;
	kvt_uffd_unprotect(&u->uffd, kvt_block_addr(u, b), u->pool.block_bytes);
}

static void handle(struct kvt_user *u, const struct kvt_fault *f)
{
	uintptr_t start = (uintptr_t)u->pool.addr;
	uint32_t b;

	if (f->addr < start || f->addr - start >= u->pool.bytes)
		return;
	b = (uint32_t)((f->addr - start) >> u->pool.block_shift);
	if (f->wp && kvt_block(u, b)->where == KVT_MAPPED)
		write_to_protected(u, b, f);
	else
		missing(u, b, f);
}

/* A few at a time: threads that fault again at once must not keep transfers from being seen. */
void kvt_user_faults(struct kvt_user *u)
{
	struct kvt_fault f;
	int i;

	for (i = 0; i < FAULTS_MAX && kvt_uffd_next(&u->uffd, &f) == 1; i++)
		handle(u, &f);
	u->more_faults = i == FAULTS_MAX;
}

/* Waits that could not be served at once, for want of a frame; and their deadline. */
void kvt_user_serve(struct kvt_user *u)
{
	uint32_t i;

	for (i = 0; i < u->nr_waits; i++) {
		uint32_t b = u->waits[i].block, before = u->nr_waits;

		serve_block(u, b);
		if (u->nr_waits < before) {
			i--;
			continue;
		}
		if (u->now_ns < u->waits[i].since_ns + u->deadline_ns)
			continue;
		kvt_user_event(u, KVTIER_EVENT_PRESSURE, b, -ENOSPC);
		kvt_user_note_error(u,
				    "block %u found no room in %u ms: no other block could leave "
				    "memory",
				    b, (unsigned int)(u->deadline_ns / 1000000));
		kvt_user_fail_block(u, b);
		i--;
	}
}
