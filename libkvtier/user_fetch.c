// SPDX-License-Identifier: MIT
/*
 * Fetches of the user pager.
 *
 * A reader leaves its wants in the fetch's mail and wakes the pager thread,
 * which keeps three lists for each fetch: blocks wanted and not begun, blocks to
 * read ahead when nothing is wanted, and the window: what is on its way or in a
 * reader's hands and had to come from NVMe.  A block that is read for a fetch is
 * a lease: it stays in the frame that it was read into, so it costs no move, no
 * protection and no second checksum, and is forgotten when it is given back.
 *
 * What is read ahead is held by nobody: it can be taken away for a thread that
 * waits, and is wanted again then.
 *
 * The window is as small as keeps the device busy.  It grows for readers that
 * compute other things between their calls, who come back to a window that is
 * full of what they want next while nothing is on its way any more.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "fetch.h"
#include "user_command.h"

enum entry_state {
	ENTRY_AHEAD, /* read ahead: coming, or come and unclaimed */
	ENTRY_WANTED, /* coming */
	ENTRY_HELD, /* in a reader's hands */
};

struct entry {
	uint32_t block;
	uint8_t state;
	bool mapped; /* must be at its own address */
};

/* A call that meets an idle device weighs as much as so many that do not. */
#define IDLE_WEIGHT 4
#define IDLE_ENOUGH 32 /* such weight widens the window */
#define CALM_CALLS 256 /* so many calls in a row that do not let it shrink again */

#define MARK_WANTED 1
#define MARK_AHEAD 2

struct done {
	uint32_t block;
	bool keep;
};

/* A list that is filled at one end and used up at the other. */
struct want_list {
	struct kvt_want *at;
	uint32_t nr, next;
};

struct kvt_user_fetch {
	struct kvt_fetch fetch; /* first: the reader's handle */

	/* The pager thread's. */
	struct kvt_user_fetch *next;
	struct want_list wants, ahead;
	struct done *returned;
	struct entry window[KVT_FETCH_WINDOW_MAX];
	uint32_t nr_window;
	uint8_t *marks; /* a block: MARK_*, while wants are taken in */
	bool exceeds; /* one more block than the window, for a reader that starves */
	uint32_t least, most; /* the window may have; equal: it was chosen by the reader */
	uint32_t idle, calm; /* what calls have met lately: see adapt_window() */
	uint64_t blocked_ns; /* since when the first want finds no frame; 0: it does */

	atomic_bool mail; /* something below is new */
	atomic_bool starving;
	pthread_mutex_t lock; /* guards the fields below */
	pthread_cond_t come;
	struct want_list new_wants, new_ahead;
	struct done *done;
	uint32_t nr_done;
	struct kvt_arrival *arrivals; /* a ring of nr_blocks */
	uint32_t first_arrival, nr_arrivals;
};

static struct kvt_user_fetch *fetch_of(struct kvt_fetch *f)
{
	return (struct kvt_user_fetch *)f;
}

static struct kvt_user *user_of(const struct kvt_user_fetch *f)
{
	return kvt_user_of(f->fetch.pool);
}

/* ---- the reader's side --------------------------------------------------- */

static void ring_bell(struct kvt_user_fetch *f)
{
	if (!atomic_exchange(&f->mail, true))
		eventfd_write(user_of(f)->wake_fd, 1);
}

static void append(struct want_list *l, const struct kvt_want *wants, uint32_t nr)
{
	if (nr)
		memcpy(l->at + l->nr, wants, nr * sizeof(*wants));
	l->nr += nr;
}

static void want(struct kvt_fetch *fetch, const struct kvt_want *wants, uint32_t nr,
		 const struct kvt_want *ahead, uint32_t nr_ahead)
{
	struct kvt_user_fetch *f = fetch_of(fetch);

	pthread_mutex_lock(&f->lock);
	append(&f->new_wants, wants, nr);
	f->new_ahead.nr = 0;
	append(&f->new_ahead, ahead, nr_ahead);
	pthread_mutex_unlock(&f->lock);
	ring_bell(f);
}

static int take(struct kvt_fetch *fetch, struct kvt_arrival *arrival, bool wait)
{
	struct kvt_user_fetch *f = fetch_of(fetch);
	int ret = 0;

	pthread_mutex_lock(&f->lock);
	while (wait && !f->nr_arrivals)
		pthread_cond_wait(&f->come, &f->lock);
	if (f->nr_arrivals) {
		*arrival = f->arrivals[f->first_arrival];
		f->first_arrival = (f->first_arrival + 1) % user_of(f)->nr_blocks;
		f->nr_arrivals--;
		ret = 1;
	}
	pthread_mutex_unlock(&f->lock);
	return ret;
}

static void done(struct kvt_fetch *fetch, const struct kvt_arrival *arrival, bool keep)
{
	struct kvt_user_fetch *f = fetch_of(fetch);

	if (arrival->error)
		return;
	pthread_mutex_lock(&f->lock);
	f->done[f->nr_done++] = (struct done){ .block = arrival->block, .keep = keep };
	pthread_mutex_unlock(&f->lock);
	ring_bell(f);
}

static void starve(struct kvt_fetch *fetch)
{
	struct kvt_user_fetch *f = fetch_of(fetch);

	atomic_store(&f->starving, true);
	ring_bell(f);
}

/* ---- the window ---------------------------------------------------------- */

static struct entry *find_entry(struct kvt_user_fetch *f, uint32_t b)
{
	uint32_t i;

	for (i = 0; i < f->nr_window; i++)
		if (f->window[i].block == b)
			return &f->window[i];
	return NULL;
}

static void add_entry(struct kvt_user_fetch *f, const struct kvt_want *w, enum entry_state state)
{
	assert(f->nr_window < KVT_FETCH_WINDOW_MAX);
	f->exceeds = false;
	f->window[f->nr_window++] =
		(struct entry){ .block = w->block, .state = (uint8_t)state, .mapped = w->mapped };
}

static void remove_entry(struct kvt_user_fetch *f, struct entry *e)
{
	*e = f->window[--f->nr_window];
}

static void deliver(struct kvt_user_fetch *f, uint32_t b, int error, const char *addr,
		    bool streamed)
{
	uint32_t nr = user_of(f)->nr_blocks;

	pthread_mutex_lock(&f->lock);
	f->arrivals[(f->first_arrival + f->nr_arrivals++) % nr] = (struct kvt_arrival){
		.block = b, .error = error, .addr = addr, .streamed = streamed,
	};
	pthread_cond_signal(&f->come);
	pthread_mutex_unlock(&f->lock);
}

/* A resident block goes to the reader, from where it is. */
static void hand_out(struct kvt_user_fetch *f, uint32_t b, bool streamed)
{
	struct kvt_user *u = user_of(f);
	struct kvt_block *blk = kvt_block(u, b);

	blk->holds++;
	deliver(f, b, 0, blk->where == KVT_MAPPED ? kvt_block_addr(u, b) : kvt_frame_addr(u, b),
		streamed);
}

/* A free frame, or -EAGAIN once a victim is being written, which will leave one. */
static int find_room(struct kvt_user *u)
{
	if (!kvt_user_room(u) && !u->writes)
		kvt_user_evict_one(u, true);
	return kvt_user_room(u) ? 0 : -EAGAIN;
}

/* Frames for what is about to be read, so that dirty victims are written side by side. */
static void make_room(struct kvt_user_fetch *f, uint32_t nr)
{
	struct kvt_user *u = user_of(f);
	uint32_t need = f->nr_window < f->fetch.window ? f->fetch.window - f->nr_window : 0;

	if (need > nr)
		need = nr;
	while (kvt_user_room(u) + u->writes < need)
		if (!kvt_user_evict_one(u, true))
			return;
}

static int start_read(struct kvt_user *u, const struct kvt_want *w)
{
	int ret = find_room(u);

	if (ret)
		return ret;
	ret = kvt_user_read(u, w->block, KVTIER_TIER_NONE);
	if (!ret && !w->mapped)
		kvt_block(u, w->block)->flags |= KVT_B_LEASE;
	return ret == -ENOMEM ? -EAGAIN : ret;
}

/* Has an entry's block come?  True when the entry has nothing more to wait for. */
static void settle_entry(struct kvt_user_fetch *f, struct entry *e)
{
	struct kvt_user *u = user_of(f);
	struct kvt_want w = { .block = e->block, .mapped = e->mapped };
	struct kvt_block *blk = kvt_block(u, e->block);

	switch (blk->where) {
	case KVT_COLD: /* its read was given up, or it was taken away for somebody else */
		start_read(u, &w);
		return;
	case KVT_STAGED:
		if (e->mapped && kvt_user_map(u, e->block, false))
			return;
		break;
	case KVT_MAPPED:
		break;
	case KVT_BAD:
	case KVT_EMPTY: /* discarded meanwhile */
		deliver(f, e->block, blk->where == KVT_BAD ? blk->error : -ENODATA, NULL, true);
		remove_entry(f, e);
		return;
	default:
		return;
	}
	e->state = ENTRY_HELD;
	hand_out(f, e->block, true);
}

/* Backwards, since an entry may go and the last take its place. */
static void settle(struct kvt_user_fetch *f)
{
	uint32_t i = f->nr_window;

	while (i--) {
		struct entry *e = &f->window[i];
		uint8_t where = kvt_block(user_of(f), e->block)->where;

		if (e->state == ENTRY_WANTED)
			settle_entry(f, e);
		else if (e->state == ENTRY_AHEAD &&
			 (where == KVT_COLD || where == KVT_BAD || where == KVT_EMPTY))
			remove_entry(f, e);
	}
}

/* ---- begin what is wanted ------------------------------------------------ */

/* Nobody asked for it in the end; mapped, it has become somebody else's. */
static void forget_ahead(struct kvt_user_fetch *f, struct entry *e)
{
	struct kvt_user *u = user_of(f);
	struct kvt_block *blk = kvt_block(u, e->block);

	blk->flags &= ~KVT_B_LEASE;
	if (blk->where == KVT_STAGED && !blk->holds)
		kvt_user_evict(u, e->block);
	remove_entry(f, e);
}

/* What was read ahead makes way for what is wanted now. */
static bool make_entry(struct kvt_user_fetch *f)
{
	uint32_t i = f->nr_window;

	if (i < f->fetch.window || f->exceeds)
		return true;
	while (i--) {
		struct entry *e = &f->window[i];

		if (e->state != ENTRY_AHEAD || kvt_moving(kvt_block(user_of(f), e->block)))
			continue;
		forget_ahead(f, e);
		return true;
	}
	return false;
}

static int fill_empty(struct kvt_user *u, uint32_t b)
{
	int ret = find_room(u);

	if (!ret)
		ret = kvt_user_zero_fill(u, b);
	return ret == -ENOMEM ? -EAGAIN : ret;
}

/* Resident: hand it out, at its own address if it must be. */
static int begin_resident(struct kvt_user_fetch *f, const struct kvt_want *w)
{
	struct kvt_user *u = user_of(f);
	struct kvt_block *blk = kvt_block(u, w->block);

	if (blk->where == KVT_STAGED && (w->mapped || !(blk->flags & KVT_B_LEASE)) &&
	    kvt_user_map(u, w->block, false) && (w->mapped || !kvt_resident(blk)))
		return -EAGAIN;
	hand_out(f, w->block, false);
	return 0;
}

static int begin_absent(struct kvt_user_fetch *f, const struct kvt_want *w)
{
	struct kvt_user *u = user_of(f);
	int ret = 0;

	if (!make_entry(f))
		return -EAGAIN;
	if (kvt_block(u, w->block)->where == KVT_COLD)
		ret = start_read(u, w);
	if (!ret)
		add_entry(f, w, ENTRY_WANTED);
	return ret;
}

/* 0: begun, handed out or refused; -EAGAIN: later. */
static int begin(struct kvt_user_fetch *f, const struct kvt_want *w)
{
	struct kvt_user *u = user_of(f);
	struct kvt_block *blk = kvt_block(u, w->block);
	struct entry *e = find_entry(f, w->block);

	if (e) {
		if (e->state != ENTRY_AHEAD)
			return -EAGAIN; /* wanted again before it was given back */
		e->state = ENTRY_WANTED;
		e->mapped = w->mapped;
		settle_entry(f, e);
		return 0;
	}
	if (blk->where == KVT_EMPTY && fill_empty(u, w->block))
		return -EAGAIN;
	if (kvt_resident(blk))
		return begin_resident(f, w);
	if (blk->where != KVT_BAD)
		return begin_absent(f, w);
	deliver(f, w->block, blk->error, NULL, false);
	return 0;
}

/*
 * The first, and with it all that is absent and not on its way: waiting for each in
 * turn would take as many deadlines.
 */
static void fail_wants(struct kvt_user_fetch *f)
{
	struct want_list *l = &f->wants;
	uint32_t from, to = l->next;

	for (from = l->next; from < l->nr; from++) {
		const struct kvt_want *w = &l->at[from];
		const struct kvt_block *blk = kvt_block(user_of(f), w->block);

		if (from > l->next &&
		    (kvt_resident(blk) || kvt_moving(blk) || find_entry(f, w->block)))
			l->at[to++] = *w;
		else
			deliver(f, w->block, -ETIMEDOUT, NULL, false);
	}
	l->nr = to;
}

/* Wants for which nothing moves end in an error, as a fault does. */
static void check_blocked(struct kvt_user_fetch *f)
{
	struct kvt_user *u = user_of(f);
	struct want_list *l = &f->wants;

	u->fetch_blocked = true;
	if (!f->blocked_ns)
		f->blocked_ns = u->now_ns;
	if (u->now_ns < f->blocked_ns + u->deadline_ns)
		return;
	kvt_user_event(u, KVTIER_EVENT_PRESSURE, l->at[l->next].block, -ENOSPC);
	fail_wants(f);
	f->blocked_ns = 0;
}

/* Begin those of the list that were read ahead, or else those that are resident. */
static void begin_some(struct kvt_user_fetch *f, bool ahead)
{
	struct want_list *l = &f->wants;
	uint32_t from, to = l->next;

	for (from = l->next; from < l->nr; from++) {
		const struct kvt_want *w = &l->at[from];
		bool was_ahead = find_entry(f, w->block);

		if (was_ahead == ahead &&
		    (was_ahead || kvt_resident(kvt_block(user_of(f), w->block))) && !begin(f, w))
			continue;
		l->at[to++] = *w;
	}
	l->nr = to;
}

/* Nothing is read and nothing comes: what is held waits for what has no room. */
static void see_starving(struct kvt_user_fetch *f)
{
	uint32_t i;

	if (!atomic_exchange(&f->starving, false) || f->nr_window == KVT_FETCH_WINDOW_MAX)
		return;
	for (i = 0; i < f->nr_window; i++)
		if (f->window[i].state != ENTRY_HELD)
			return;
	pthread_mutex_lock(&f->lock);
	f->exceeds = !f->nr_arrivals && !f->nr_done;
	pthread_mutex_unlock(&f->lock);
}

static void begin_wants(struct kvt_user_fetch *f)
{
	struct want_list *l = &f->wants;

	see_starving(f);
	make_room(f, l->nr - l->next);
	while (l->next < l->nr && !begin(f, &l->at[l->next])) {
		l->next++;
		f->blocked_ns = 0;
	}
	if (l->next < l->nr)
		check_blocked(f);
	else
		l->next = l->nr = 0;
}

static void begin_ahead(struct kvt_user_fetch *f)
{
	struct kvt_user *u = user_of(f);
	struct want_list *l = &f->ahead;

	while (!f->wants.nr && l->next < l->nr && f->nr_window < f->fetch.window) {
		const struct kvt_want *w = &l->at[l->next];

		if (kvt_block(u, w->block)->where == KVT_COLD && !find_entry(f, w->block)) {
			if (start_read(u, w)) {
				u->fetch_blocked = true;
				return;
			}
			add_entry(f, w, ENTRY_AHEAD);
		}
		l->next++;
	}
}

/* ---- mail ---------------------------------------------------------------- */

static void give_back(struct kvt_user_fetch *f, const struct done *d)
{
	struct kvt_user *u = user_of(f);
	struct kvt_block *blk = kvt_block(u, d->block);
	struct entry *e = find_entry(f, d->block);
	bool streamed = e && e->state == ENTRY_HELD, write;

	assert(blk->holds);
	blk->holds--;
	if (streamed)
		remove_entry(f, e);
	if (blk->holds)
		return;
	if (kvt_user_wanted(u, d->block, &write) || (streamed && d->keep)) {
		if (blk->where == KVT_STAGED)
			kvt_user_map(u, d->block, write);
		return;
	}
	if (streamed && !d->keep && !blk->pins && !blk->busy)
		kvt_user_evict(u, d->block);
	else if (!d->keep)
		kvt_user_hint(u, d->block);
}

static void set_marks(struct kvt_user_fetch *f, const struct want_list *l, uint8_t mark)
{
	uint32_t i;

	for (i = l->next; i < l->nr; i++)
		f->marks[l->at[i].block] = mark;
}

/* What was read ahead for a step that did not come. */
static void forget_stale(struct kvt_user_fetch *f)
{
	uint32_t i = f->nr_window;

	set_marks(f, &f->ahead, MARK_AHEAD);
	set_marks(f, &f->wants, MARK_WANTED);
	while (i--) {
		struct entry *e = &f->window[i];

		if (e->state == ENTRY_AHEAD && !f->marks[e->block] &&
		    !kvt_moving(kvt_block(user_of(f), e->block)))
			forget_ahead(f, e);
	}
	set_marks(f, &f->ahead, 0);
	set_marks(f, &f->wants, 0);
}

static void swap_lists(struct want_list *a, struct want_list *b)
{
	struct want_list was = *a;

	*a = *b;
	*b = was;
}

static bool wants_cold(const struct kvt_user_fetch *f)
{
	const struct want_list *l = &f->wants;
	uint32_t i;

	for (i = l->next; i < l->nr; i++)
		if (kvt_block(user_of(f), l->at[i].block)->where == KVT_COLD)
			return true;
	return false;
}

/* A new call, whose wants are in the list. */
static void adapt_window(struct kvt_user_fetch *f)
{
	bool full = f->nr_window >= f->fetch.window;

	if (full && !user_of(f)->reads && wants_cold(f)) {
		f->calm = 0;
		f->idle += IDLE_WEIGHT;
	} else {
		f->calm++;
		f->idle -= f->idle > 0;
	}
	if (f->idle >= IDLE_ENOUGH && f->fetch.window < f->most) {
		f->fetch.window++;
		f->idle = 0;
	} else if (f->calm >= CALM_CALLS && f->fetch.window > f->least) {
		f->fetch.window--;
		f->calm = 0;
	}
}

static void read_mail(struct kvt_user_fetch *f)
{
	struct done *was;
	uint32_t nr, i;
	bool fresh;

	if (!atomic_exchange(&f->mail, false))
		return;
	pthread_mutex_lock(&f->lock);
	was = f->returned;
	f->returned = f->done;
	f->done = was;
	nr = f->nr_done;
	f->nr_done = 0;
	fresh = f->new_wants.nr;
	if (fresh) {
		append(&f->wants, f->new_wants.at, f->new_wants.nr);
		f->new_wants.nr = 0;
		swap_lists(&f->ahead, &f->new_ahead);
		f->ahead.next = f->new_ahead.nr = 0;
	}
	pthread_mutex_unlock(&f->lock);
	for (i = 0; i < nr; i++)
		give_back(f, &f->returned[i]);
	if (!fresh)
		return;
	adapt_window(f);
	/* What is here, or on its way, need not wait for its turn. */
	forget_stale(f);
	begin_some(f, false);
	begin_some(f, true);
}

/* Whatever moved since the last turn: mail, reads, frames. */
void kvt_user_fetches(struct kvt_user *u)
{
	struct kvt_user_fetch *f;

	u->fetch_blocked = false;
	for (f = u->fetches; f; f = f->next) {
		read_mail(f);
		settle(f);
		begin_wants(f);
		begin_ahead(f);
	}
}

/* ---- open and close ------------------------------------------------------ */

static int open_step(struct kvt_user *u, struct kvt_command *c)
{
	struct kvt_user_fetch *f = c->fetch;
	uint32_t frames = u->arena[KVTIER_TIER_DRAM].limit + u->arena[KVTIER_TIER_CXL].limit;

	f->least = f->most = f->fetch.window;
	if (!f->fetch.window) {
		f->least = kvt_fetch_window_least(frames, u->pool.block_bytes);
		f->most = kvt_fetch_window_most(frames, u->pool.block_bytes);
		f->fetch.window = f->least;
	}
	f->next = u->fetches;
	u->fetches = f;
	return 1;
}

/* A read ahead that is still under way ends as an ordinary one. */
static int close_step(struct kvt_user *u, struct kvt_command *c)
{
	struct kvt_user_fetch **at, *f = c->fetch;

	read_mail(f);
	while (f->nr_window)
		forget_ahead(f, &f->window[f->nr_window - 1]);
	for (at = &u->fetches; *at; at = &(*at)->next) {
		if (*at == f) {
			*at = f->next;
			break;
		}
	}
	return 1;
}

static void free_fetch(struct kvt_user_fetch *f)
{
	free(f->wants.at);
	free(f->ahead.at);
	free(f->new_wants.at);
	free(f->new_ahead.at);
	free(f->returned);
	free(f->done);
	free(f->arrivals);
	free(f->marks);
	pthread_mutex_destroy(&f->lock);
	pthread_cond_destroy(&f->come);
	free(f);
}

static void close_fetch(struct kvt_fetch *fetch)
{
	struct kvt_user_fetch *f = fetch_of(fetch);
	struct kvt_command c = { .step = close_step, .fetch = f };

	kvt_user_execute(user_of(f), &c);
	free_fetch(f);
}

static const struct kvt_fetch_ops ops = {
	.close = close_fetch,
	.want = want,
	.take = take,
	.done = done,
	.starve = starve,
};

/* A call may want each block once, and what was wanted before may still be in the list. */
static int allocate(struct kvt_user_fetch *f, uint32_t nr)
{
	f->wants.at = calloc(2 * (size_t)nr, sizeof(*f->wants.at));
	f->new_wants.at = calloc(nr, sizeof(*f->new_wants.at));
	f->ahead.at = calloc(nr, sizeof(*f->ahead.at));
	f->new_ahead.at = calloc(nr, sizeof(*f->new_ahead.at));
	f->returned = calloc(nr, sizeof(*f->returned));
	f->done = calloc(nr, sizeof(*f->done));
	f->arrivals = calloc(nr, sizeof(*f->arrivals));
	f->marks = calloc(nr, 1);
	return f->wants.at && f->new_wants.at && f->ahead.at && f->new_ahead.at && f->returned &&
			       f->done && f->arrivals && f->marks ?
		       0 :
		       -ENOMEM;
}

int kvt_user_fetch_open(struct kvt_pool *pool, uint32_t window, struct kvt_fetch **fetch)
{
	struct kvt_user *u = kvt_user_of(pool);
	struct kvt_user_fetch *f = calloc(1, sizeof(*f));
	struct kvt_command c = { .step = open_step, .fetch = f };
	int ret;

	if (!f)
		return -ENOMEM;
	f->fetch = (struct kvt_fetch){ .ops = &ops, .pool = pool, .window = window };
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->come, NULL);
	ret = allocate(f, u->nr_blocks);
	if (!ret)
		ret = kvt_user_execute(u, &c);
	if (ret)
		free_fetch(f);
	else
		*fetch = &f->fetch;
	return ret;
}
