// SPDX-License-Identifier: MIT
/* Clients that touched what they have not mapped, or may not write. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvtierd.h"

#ifndef UFFDIO_CONTINUE_MODE_WP
#define UFFDIO_CONTINUE_MODE_WP (1ull << 1)
#endif
#define PAGE 4096u
#define SERVE_NS (2 * NS_PER_MS)
#define READS_MAX 16 /* a turn */
#define TRIES_MAX 64
#define DEFER_NS (100 * NS_PER_MS)
#define DEFERRED_MAX 64u /* looked at each time */

/* ---- a client's page tables -------------------------------------------------------------- */

/*
 * -EAGAIN has one cause: events of that userfaultfd wait to be read, which
 * file_pool_map() does not admit.
 */
static int refused(struct attachment *a)
{
	log_line(LOG_WARNING, "mapping_refused", "pool=%u pid=%d reason=\"its userfaultfd is kept "
		 "busy\"", a->pool->id, a->client->pid);
	client_give_up(a->client);
	return -EAGAIN;
}

/* 0, or -EAGAIN: there was no memory for it; some of it may be done. */
static int set_protection(struct attachment *a, uint32_t b, uint64_t mode)
{
	struct pool *p = a->pool;
	struct uffdio_writeprotect args = {
		.range = { .start = a->addr + ((uint64_t)b << p->shift), .len = p->block_bytes },
		.mode = mode,
	};
	int tries;

	for (tries = 0; tries < TRIES_MAX; tries++) {
		if (!ioctl(a->uffd, UFFDIO_WRITEPROTECT, &args))
			return 0;
		if (errno == ENOMEM)
			return -EAGAIN;
		if (errno != EAGAIN)
			return 0; /* the client is ending, or has unmapped it */
	}
	return refused(a);
}

/* No store of any client gets through from now on; unless -EAGAIN: not now. */
int file_protect(struct pool *p, uint32_t b)
{
	struct attachment *a;
	int ret = 0;

	for (a = p->attachments; a && !ret; a = a->next)
		if (a->uffd >= 0)
			ret = set_protection(a, b, UFFDIO_WRITEPROTECT_MODE_WP);
	return ret;
}

static void unprotect(struct pool *p, uint32_t b)
{
	struct attachment *a;

	for (a = p->attachments; a; a = a->next)
		if (a->uffd >= 0)
			set_protection(a, b, 0);
}

static void wake(struct attachment *a, uint32_t b)
{
	struct uffdio_range range = {
		.start = a->addr + ((uint64_t)b << a->pool->shift),
		.len = a->pool->block_bytes,
	};

	ioctl(a->uffd, UFFDIO_WAKE, &range);
}

/* Map the file's pages, around those that are mapped; -EFAULT: the file has them no more. */
static int map_pages(struct attachment *a, uint32_t b, uint64_t mode)
{
	uint64_t start = a->addr + ((uint64_t)b << a->pool->shift);
	uint64_t at = 0, len = a->pool->block_bytes;
	int tries = 0;

	while (at < len) {
		struct uffdio_continue args = {
			.range = { .start = start + at, .len = len - at },
			.mode = mode | UFFDIO_CONTINUE_MODE_DONTWAKE,
		};

		if (!ioctl(a->uffd, UFFDIO_CONTINUE, &args))
			break;
		if (args.mapped > 0)
			at += (uint64_t)args.mapped;
		else if (errno == EEXIST)
			at += PAGE;
		else if (errno != EAGAIN)
			return -errno;
		else if (++tries == TRIES_MAX)
			return refused(a);
	}
	return 0;
}

void file_map_block(struct attachment *a, uint32_t b, bool write)
{
	struct pool *p = a->pool;
	struct block *blk = block_of(p, b);
	bool sealed = blk->flags & B_SEALED;
	uint64_t mode;

	if (a->uffd < 0)
		return;
	if (write && !sealed && blk->where == W_RESIDENT && !(blk->flags & B_DIRTY))
		file_dirty(p, b);
	mode = sealed || !(blk->flags & B_DIRTY) || blk->where == W_WRITING ?
		       UFFDIO_CONTINUE_MODE_WP : 0;
	if (map_pages(a, b, mode) == -EFAULT && blk->where == W_RESIDENT) {
		log_line(LOG_ERROR, "block_lost",
			 "pool=%u block=%u pid=%d reason=\"a client took its "
			 "pages out of the memory file\"",
			 p->id, b, a->client->pid);
		file_bad(p, b, -EIO);
	}
	wake(a, b);
}

/* End one waiting access with SIGBUS, as the kernel would for memory that is lost. */
static void fail_access(struct attachment *a, uint32_t tid, uint64_t addr)
{
	siginfo_t info;

	memset(&info, 0, sizeof(info));
	info.si_signo = SIGBUS;
	info.si_code = SI_QUEUE;
	info.si_addr = (void *)(uintptr_t)addr;
	a->pool->d->count.sigbus++;
	/* Who connected may be gone, and its number another's by now. */
	if (client_signal(a->client->sock, a->client->pid, 0) == -ESRCH) {
		client_give_up(a->client);
		return;
	}
	if (syscall(SYS_rt_tgsigqueueinfo, a->client->pid, tid, SIGBUS, &info) && errno != ESRCH) {
		log_line(LOG_WARNING, "sigbus_failed", "pid=%d tid=%u error=\"%s\"", a->client->pid,
			 tid, strerror(errno));
		client_signal(a->client->sock, a->client->pid, SIGBUS);
	}
}

/* ---- who waits --------------------------------------------------------------------------- */

static void add_wait(struct attachment *a, uint32_t b, uint32_t tid, uint64_t addr, bool write)
{
	if (wait_add(a, b, tid, addr, write))
		wake(a, b); /* no memory: it asks again */
	timer_within(a->pool->d, &a->pool->d->waits, SERVE_NS);
}

static void drop_of(struct pool *p, struct wait *w, void *attachment)
{
	if (w->a == attachment)
		wait_free(p, w);
}

void file_drop_waits(struct attachment *a)
{
	waits_each(a->pool, drop_of, a);
}

static void fail_wait(struct pool *p, struct wait *w)
{
	fail_access(w->a, w->tid, w->addr);
	wait_free(p, w);
}

void file_fail_waits(struct pool *p, uint32_t b)
{
	struct wanted *n;

	while ((n = wanted_of(p, b)))
		fail_wait(p, n->waits);
}

/* ---- serve ------------------------------------------------------------------------------- */

/* Once for each client, however many of its threads wait: all of them are woken. */
static void map_some(struct pool *p, uint32_t b, bool write, uint64_t pass)
{
	const struct block *blk = block_of(p, b);
	struct wanted *n = wanted_of(p, b);
	struct wait *w, *next;

	/* A checkpoint is taking its picture: a store waits for the end of that. */
	if (write && blk_held(blk))
		return;
	for (w = n ? n->waits : NULL; w && blk->where != W_BAD; w = next) {
		struct attachment *a = w->a;

		next = w->next;
		if (w->write != write)
			continue;
		wait_free(p, w);
		if (a->pass == pass)
			continue;
		a->pass = pass;
		file_map_block(a, b, write);
	}
}

static void map_for_all(struct pool *p, uint32_t b)
{
	uint64_t pass = ++p->passes;

	map_some(p, b, true, pass);
	map_some(p, b, false, pass);
}

/* Turns come first, but nobody waits for them for ever. */
static bool is_deferred(const struct pool *p, const struct wanted *n)
{
	return p->d->turn_ns <= n->since_ns + DEFER_NS && prefetch_defers(p);
}

/* The next step towards having a wanted block mapped. */
void file_serve(struct pool *p, uint32_t b)
{
	struct wanted *n = wanted_of(p, b);
	bool starved = false;

	if (!n)
		return;
	switch (block_of(p, b)->where) {
	case W_EMPTY:
		starved = file_zero_fill(p, b);
		if (!starved)
			map_for_all(p, b);
		break;
	case W_RESIDENT:
	case W_WRITING:
		map_for_all(p, b);
		break;
	case W_COLD:
		starved = is_deferred(p, n) || file_read(p, b, 0);
		break;
	case W_BAD:
		file_fail_waits(p, b);
		break;
	case W_READING:
	default:
		break;
	}
	n = wanted_of(p, b);
	if (n)
		wanted_starves(p, n, starved);
}

/* In the order in which they came, until there is neither room nor a way to make some. */
void file_serve_starved(struct pool *p)
{
	struct wanted *n, *next;
	uint32_t deferred = 0;

	for (n = wanted_first(p); n; n = next) {
		uint64_t begun = p->d->begun;
		uint32_t b = n->block;

		next = n->after;
		if (block_of(p, b)->where == W_COLD && is_deferred(p, n)) {
			if (++deferred == DEFERRED_MAX)
				break;
			continue;
		}
		file_serve(p, b);
		n = wanted_of(p, b);
		if (n && n->starved && p->d->begun == begun)
			break;
	}
}

static void expire_wait(struct pool *p, struct wait *w, void *arg)
{
	uint64_t at = w->since_ns + (uint64_t)p->t->deadline_ms * NS_PER_MS, *next = arg;
	uint32_t b = w->wanted->block;

	if (p->d->turn_ns < at) {
		if (!*next || *next > at)
			*next = at;
		return;
	}
	log_line(LOG_WARNING, "fault_expired", "pool=%u block=%u pid=%d tid=%u where=%u tenant=%s",
		 p->id, b, w->a->client->pid, w->tid, block_of(p, b)->where, p->tenant->name);
	pool_event(p, KVTIER_EVENT_PRESSURE, b, -ENOSPC);
	p->d->count.deadline_misses++;
	fail_wait(p, w);
}

static void expire_waits(struct pool *p)
{
	uint64_t next = 0;

	if (!p->nr_waits || p->d->turn_ns < p->waits_expire_ns)
		return;
	waits_each(p, expire_wait, &next);
	p->waits_expire_ns = next;
}

/* While anybody waits: for room that another pool made, and for the deadline. */
void file_wait_deadlines(struct kvtierd *d)
{
	struct pool *p, *next;
	bool any = false;

	for (p = d->pools; p; p = next) {
		next = p->next;
		if (!p->nr_waits && !p->ios && !p->commands && !p->checkpoint)
			continue;
		any = true;
		expire_waits(p);
		file_progress(p);
	}
	file_io_deadlines(d);
	if (any)
		timer_within(d, &d->waits, SERVE_NS);
}

/* ---- messages ---------------------------------------------------------------------------- */

static void count_fault(struct pool *p, const struct block *blk, bool minor)
{
	p->stats.faults++;
	p->d->count.faults++;
	switch (blk->where) {
	case W_EMPTY:
		p->stats.zero_faults++;
		break;
	case W_COLD:
		p->stats.hard_faults++;
		break;
	case W_READING:
		p->stats.late_faults++;
		p->d->count.late_faults++;
		break;
	default:
		(void)minor;
		p->stats.soft_faults++;
	}
}

static void store_to_protected(struct attachment *a, uint32_t b, uint32_t tid, uint64_t addr)
{
	struct pool *p = a->pool;
	struct block *blk = block_of(p, b);

	p->stats.wp_faults++;
	if (blk->flags & B_SEALED) {
		fail_access(a, tid, addr);
		return;
	}
	if (blk->where == W_WRITING && blk_held(blk)) {
		add_wait(a, b, tid, addr, true);
		return;
	}
	if (blk->where == W_WRITING) {
		blk->flags = (uint16_t)((blk->flags | B_STORED) & ~B_EVICT);
		blk->generation++;
		unprotect(p, b);
		return;
	}
	if (blk->where == W_RESIDENT) {
		if (!(blk->flags & B_DIRTY))
			file_dirty(p, b);
		unprotect(p, b);
		return;
	}
	wake(a, b); /* it left memory meanwhile: the access is tried again */
}

static void handle(struct attachment *a, const struct uffd_msg *msg)
{
	uint64_t addr = msg->arg.pagefault.address, flags = msg->arg.pagefault.flags;
	uint32_t tid = msg->arg.pagefault.feat.ptid, b;
	struct pool *p = a->pool;
	struct block *blk;

	if (msg->event != UFFD_EVENT_PAGEFAULT || addr < a->addr || addr - a->addr >= p->t->bytes)
		return;
	b = (uint32_t)((addr - a->addr) >> p->shift);
	blk = block_of(p, b);
	attachment_used(a);
	if (blk->heat < UINT32_MAX)
		blk->heat++;
	if (blk->flags & B_SEALED)
		blk->flags |= B_REUSED;
	if (flags & UFFD_PAGEFAULT_FLAG_WP) {
		store_to_protected(a, b, tid, addr);
		return;
	}
	count_fault(p, blk, flags & UFFD_PAGEFAULT_FLAG_MINOR);
	if (blk->where == W_BAD) {
		fail_access(a, tid, addr);
		return;
	}
	add_wait(a, b, tid, addr, flags & UFFD_PAGEFAULT_FLAG_WRITE);
	file_serve(p, b);
}

void file_faults(void *arg)
{
	struct attachment *a = arg;
	struct uffd_msg msgs[16];
	int i, left = READS_MAX;
	ssize_t n;

	while (left && (n = read_now(a->uffd, msgs, sizeof(msgs))) > 0) {
		for (i = 0; i < (int)(n / (ssize_t)sizeof(msgs[0])); i++)
			handle(a, &msgs[i]);
		left--;
	}
	if (!left) {
		/* The others first; there may be more, of which the watch has told already. */
		watch_stop(a->faults);
		a->faults = watch_start(a->pool->d, a->uffd, file_faults, a);
	}
}
