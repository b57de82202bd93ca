// SPDX-License-Identifier: MIT
/*
 * Plans: what clients will touch next, from rings that they write.
 *
 * A ring's memory is its client's to spoil, so nothing in it is believed: counters are
 * checked against what they can be, entries are copied and the copies checked.  What is
 * wrong ends that ring, not the client and nobody else.
 *
 * The plan is kept as positions, one a block.  For each block three numbers (its first,
 * last and next position) and for each position that of the same block's next use make
 * "when is it used next" a subtraction, however the cursor moves.  Those are kept one
 * higher than they are, so that memory which was never touched says that there is none.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvtierd.h"

#define POSITIONS_MAX (64u << 20)
#define WOKEN_NS (100 * NS_PER_MS) /* so long after a touch of an idle pool its plan is a turn */
#define WORK_MAX 65536u /* positions a turn and plan: the others wait meanwhile */
#define TURN_MAX (8 * WORK_MAX) /* ... of all plans; half of it for those that waited */
#define PLAN_FDS 1 /* the doorbell */

/* ---- positions --------------------------------------------------------------------------- */

uint64_t plan_next_use(const struct pool *p, uint32_t b)
{
	const struct attachment *a;
	uint64_t least = UINT64_MAX;

	for (a = p->attachments; a; a = a->next) {
		const struct plan *plan = a->plan;
		uint64_t distance;
		uint32_t at;

		if (!plan || plan->dead || !plan->nr || !plan->at[b])
			continue;
		at = plan->at[b] - 1;
		distance = at >= plan->pos ? at - plan->pos : (uint64_t)at + plan->nr - plan->pos;
		if (distance < least)
			least = distance;
	}
	return least;
}

uint64_t plan_pace(const struct pool *p)
{
	const struct attachment *a;

	for (a = p->attachments; a; a = a->next)
		if (a->plan && !a->plan->dead && a->plan->nr)
			return a->plan->pace_ns;
	return 0;
}

uint32_t plan_block_at(const struct plan *plan, uint32_t distance)
{
	uint64_t at = (uint64_t)plan->pos + distance;

	if (distance >= plan->nr || (!plan->cycle && at >= plan->nr))
		return NO_BLOCK;
	return plan->order[at >= plan->nr ? at - plan->nr : at];
}

uint64_t plan_left(const struct plan *plan)
{
	if (!plan || plan->dead)
		return 0;
	return plan->cycle ? plan->nr_ranges : plan->nr_ranges - plan->range;
}

static void not_ahead(struct plan *plan, uint32_t b, bool used)
{
	struct block *blk;

	if (plan->brought) {
		plan->ahead -= plan->brought[b];
		plan->brought[b] = 0;
		return;
	}
	blk = block_of(plan->a->pool, b);
	if (!(blk->flags & B_AHEAD))
		return;
	blk->flags &= (uint16_t)~B_AHEAD;
	if (plan->ahead)
		plan->ahead--;
	if (used)
		plan->a->pool->stats.prefetch_used++;
}

static void forget_all(struct plan *plan)
{
	uint32_t b, nr = plan->a->pool->nr_blocks;

	for (b = 0; b < nr && plan->ahead; b++)
		not_ahead(plan, b, false);
	memset(plan->first, 0, nr * sizeof(*plan->first));
	memset(plan->last, 0, nr * sizeof(*plan->last));
	memset(plan->at, 0, nr * sizeof(*plan->at));
}

/* Takes as long as it took to be told, or as the pool is large. */
static void forget(struct plan *plan)
{
	uint32_t i, b;

	if (plan->nr >= plan->a->pool->nr_blocks / 4)
		forget_all(plan);
	else
		for (i = 0; i < plan->nr; i++) {
			b = plan->order[i];
			not_ahead(plan, b, false);
			plan->first[b] = plan->last[b] = plan->at[b] = 0;
		}
	plan->part_nr = 0;
	plan->nr = plan->nr_ranges = 0;
	plan->range = plan->pos = plan->hand = 0;
	plan->seen = 0;
	plan->cycle = false;
}

static struct tenant *tenant_of_plan(const struct plan *plan)
{
	return plan->a->client->tenant;
}

/* Our memory for the plan grows, as far as its tenant may have it. */
static int charge(struct plan *plan, uint64_t bytes)
{
	int ret = tenant_take(plan->a->pool->d, tenant_of_plan(plan), bytes, 0);

	if (!ret)
		plan->metadata_bytes += bytes;
	return ret;
}

static int make_room(struct plan *plan, uint32_t **array, uint32_t *room, uint64_t need)
{
	uint64_t more = *room ? *room : 1024;
	uint32_t *grown;
	int ret;

	while (more < need)
		more *= 2;
	if (more == *room)
		return 0;
	ret = charge(plan, (more - *room) * sizeof(**array));
	if (ret)
		return ret;
	grown = realloc(*array, more * sizeof(**array));
	if (!grown)
		return kvt_fail(-ENOMEM, "no memory for the plan");
	*array = grown;
	*room = (uint32_t)more;
	return 0;
}

static int make_positions(struct plan *plan, uint32_t nr)
{
	uint32_t room = plan->room;
	int ret;

	if (nr <= room - plan->nr && plan->nr_ranges < plan->room_ranges)
		return 0;
	if ((uint64_t)plan->nr + nr > POSITIONS_MAX)
		return kvt_fail(-E2BIG, "the plan names more than %u blocks", POSITIONS_MAX);
	ret = make_room(plan, &plan->starts, &plan->room_ranges, (uint64_t)plan->nr_ranges + 1);
	if (!ret)
		ret = make_room(plan, &plan->order, &room, (uint64_t)plan->nr + nr);
	return ret ? ret : make_room(plan, &plan->again, &plan->room, (uint64_t)plan->nr + nr);
}

/* Blocks of the range that was begun, as many as may be taken in this turn. */
static int append(struct plan *plan, uint32_t *work)
{
	uint32_t nr = plan->part_nr < *work ? plan->part_nr : *work, block = plan->part, i;
	int ret = make_positions(plan, nr);

	if (ret)
		return ret;
	*work -= nr;
	plan->part += nr;
	plan->part_nr -= nr;
	for (i = block; i < block + nr; i++) {
		uint32_t at = plan->nr++;

		plan->order[at] = i;
		plan->again[at] = 0;
		if (plan->last[i])
			plan->again[plan->last[i] - 1] = at + 1;
		else
			plan->first[i] = at + 1;
		/* Its next use, unless one comes before; one behind the cursor is a lap away. */
		if (!plan->at[i] || plan->at[i] - 1 < plan->pos)
			plan->at[i] = at + 1;
		plan->last[i] = at + 1;
	}
	plan->hand = 0;
	return 0;
}

/* ---- the cursor -------------------------------------------------------------------------- */

static void pass_position(struct plan *plan, uint32_t at)
{
	struct pool *p = plan->a->pool;
	uint32_t b = plan->order[at];

	plan->at[b] = plan->again[at];
	if (!plan->at[b] && plan->cycle)
		plan->at[b] = plan->first[b];
	not_ahead(plan, b, true);
	if (p->module)
		return;
	if (block_of(p, b)->heat < UINT32_MAX)
		block_of(p, b)->heat++;
	if (block_of(p, b)->flags & B_SEALED)
		block_of(p, b)->flags |= B_REUSED;
}

/* False: not in this turn, and not the whole of it. */
static bool pass_range(struct plan *plan, uint32_t *work)
{
	uint32_t end = plan->range + 1 < plan->nr_ranges ? plan->starts[plan->range + 1] : plan->nr;
	uint32_t nr = end - plan->pos < *work ? end - plan->pos : *work, to = plan->pos + nr;

	while (plan->pos < to)
		pass_position(plan, plan->pos++);
	plan->hand = plan->hand > nr ? plan->hand - nr : 0;
	*work -= nr;
	if (to < end || !*work)
		return false;
	if (++plan->range == plan->nr_ranges && plan->cycle)
		plan->range = plan->pos = 0;
	return true;
}

static void measure_pace(struct plan *plan, uint64_t ranges, uint64_t now)
{
	uint64_t each = plan->nr_ranges ? plan->nr / plan->nr_ranges + 1 : 1;
	uint64_t pace;

	if (!ranges)
		return;
	pace = (now - plan->moved_ns) / (ranges * each);
	plan->pace_ns = plan->pace_ns ? (3 * plan->pace_ns + pace) / 4 : pace;
	plan->moved_ns = now;
}

/*
 * A client that passes more than after which we wanted to be told passes that much at
 * once: of what it reads meanwhile we know that it is within it.
 */
static void measure_stride(struct plan *plan, uint32_t positions, uint64_t ranges)
{
	if (ranges > plan->asked && positions >= plan->stride)
		plan->stride = positions;
	else if (ranges)
		plan->stride -= (plan->stride + 15) / 16;
}

static void follow_cursor(struct plan *plan, uint32_t *work)
{
	uint64_t passed = __atomic_load_n(&plan->ring->passed, __ATOMIC_SEQ_CST);
	uint64_t delta = passed - plan->seen, i;
	uint32_t had = *work;

	if (!plan->nr_ranges || passed <= plan->seen)
		return; /* what goes back says nothing */
	if (delta > plan->nr_ranges)
		delta = plan->nr_ranges; /* a lap is as far as it can be told */
	for (i = 0; i < delta && plan->range < plan->nr_ranges; i++) {
		if (!pass_range(plan, work)) {
			plan->more = true;
			break;
		}
	}
	plan->seen = plan->more ? passed - (delta - i) : passed;
	plan->a->pool->d->count.passed += i;
	measure_stride(plan, had - *work, i);
	measure_pace(plan, i, plan->a->pool->d->turn_ns);
}

/* When to be told again: well before what was looked at, or is on its way, is used up. */
void plan_wake_again(struct plan *plan)
{
	uint64_t each = plan->nr_ranges ? plan->nr / plan->nr_ranges + 1 : 1;
	uint64_t step = plan->hand / each / 4;
	uint64_t most = prefetch_in_flight(plan->a->pool) / plan->a->pool->block_bytes / each / 4;

	if (step > most && plan->hand < plan->nr)
		step = most;
	plan->asked = step < 1 ? 1 : step;
	__atomic_store_n(&plan->ring->wake_at, plan->seen + plan->asked, __ATOMIC_SEQ_CST);
}

/* ---- the ring ---------------------------------------------------------------------------- */

static void refuse(struct plan *plan, int error)
{
	struct pool *p = plan->a->pool;

	p->d->count.plans_refused++;
	log_line(LOG_WARNING, "plan_refused", "pool=%u name=%s tenant=%s pid=%d reason=\"%s\"",
		 p->id, p->t->name, p->t->tenant, plan->a->client->pid, kvt_error_detail());
	forget(plan);
	plan->dead = true;
	watch_stop(plan->watch);
	plan->watch = NULL;
	__atomic_store_n(&plan->ring->error, error, __ATOMIC_RELEASE);
}

static int take_mark(struct plan *plan, uint32_t mark)
{
	switch (mark) {
	case KVT_PLAN_NEW:
		forget(plan);
		plan->turn = plan->woken;
		plan->a->pool->d->count.turns += plan->turn;
		plan->since_ns = plan->a->pool->d->turn_ns;
		return 0;
	case KVT_PLAN_CYCLE:
		plan->cycle = true;
		return 0;
	case KVT_PLAN_FLUSH:
		plan->a->pool->d->count.plans++;
		return 0;
	default:
		return kvt_fail(-EBADMSG, "an entry is neither a range nor a mark");
	}
}

static int begin_range(struct plan *plan, const struct kvt_plan_entry *e)
{
	int ret = make_positions(plan, e->nr);

	if (ret)
		return ret;
	plan->starts[plan->nr_ranges++] = plan->nr;
	plan->part = e->block;
	plan->part_nr = e->nr;
	plan->a->pool->d->count.plan_ranges++;
	return 0;
}

static int take_entry(struct plan *plan, uint64_t at)
{
	struct kvt_plan_entry *shared = &plan->ring->entry[at & (plan->entries - 1)], e;
	struct pool *p = plan->a->pool;

	e.block = __atomic_load_n(&shared->block, __ATOMIC_RELAXED);
	e.nr = __atomic_load_n(&shared->nr, __ATOMIC_RELAXED);
	if (!e.nr)
		return take_mark(plan, e.block);
	if (e.block >= p->nr_blocks || e.nr > p->nr_blocks - e.block)
		return kvt_fail(-EBADMSG, "blocks %u+%u: the pool has %u", e.block, e.nr,
				p->nr_blocks);
	return begin_range(plan, &e);
}

/* What a mark or the beginning of a range takes, in positions. */
#define ENTRY_WORK 1u

static int take_entries(struct plan *plan, uint32_t *work)
{
	uint64_t head = __atomic_load_n(&plan->ring->head, __ATOMIC_ACQUIRE);
	int ret = plan->part_nr ? append(plan, work) : 0;

	if (head - plan->tail > plan->entries)
		return kvt_fail(-EBADMSG, "the ring's head is not where it can be");
	while (!ret && plan->tail != head && *work > ENTRY_WORK && !plan->part_nr) {
		uint32_t had = plan->nr;

		ret = take_entry(plan, plan->tail++);
		*work -= ENTRY_WORK;
		if (!ret && plan->part_nr)
			ret = append(plan, work);
		else if (had > plan->nr) /* forgotten: that took time too */
			*work -= had < *work ? had : *work;
	}
	if (ret)
		return ret;
	plan->more = plan->tail != head || plan->part_nr;
	/* Taken is what is taken whole. */
	__atomic_store_n(&plan->ring->tail, plan->tail - (plan->part_nr != 0), __ATOMIC_RELEASE);
	return 0;
}

/* What is left of this turn's positions. */
static uint32_t *turn_work(struct kvtierd *d)
{
	if (d->plan_turn_ns != d->turn_ns) {
		d->plan_turn_ns = d->turn_ns;
		d->plan_work = TURN_MAX;
	}
	return &d->plan_work;
}

/* The first touch of what is announced may be seen before the announcement is. */
static void rung(struct plan *plan)
{
	struct pool *p = plan->a->pool;

	attachment_used(plan->a);
	plan->woken = p->woken_ns && p->d->turn_ns - p->woken_ns < WOKEN_NS;
}

static void look(struct plan *plan)
{
	struct pool *p = plan->a->pool;
	uint32_t *turn = turn_work(p->d);
	uint64_t tail = plan->tail;
	uint32_t work = WORK_MAX;
	int ret;

	if (!plan->more)
		rung(plan);
	plan->more = false;
	if (p->tenant->virtual_time < p->d->virtual_now)
		p->tenant->virtual_time = p->d->virtual_now;
	if (plan->had_bytes < p->d->had_now)
		plan->had_bytes = p->d->had_now;
	ret = take_entries(plan, &work);
	if (!ret && tail != plan->tail)
		plan->moved_ns = p->d->turn_ns;
	if (!ret && !plan->more)
		follow_cursor(plan, &work);
	*turn -= WORK_MAX - work < *turn ? WORK_MAX - work : *turn;
	if (ret) {
		refuse(plan, ret);
		return;
	}
	plan_wake_again(plan);
	if (plan->more)
		timer_within(p->d, &p->d->plan_timer, 0);
}

/* Take what its client has written so far, if that is anything. */
void plan_catch_up(struct plan *plan)
{
	struct kvtierd *d = plan->a->pool->d;

	if (plan->dead || plan->more) /* more: the next turn comes to it */
		return;
	if (__atomic_load_n(&plan->ring->head, __ATOMIC_ACQUIRE) == plan->tail &&
	    __atomic_load_n(&plan->ring->passed, __ATOMIC_SEQ_CST) == plan->seen)
		return;
	if (*turn_work(d) > TURN_MAX / 2) {
		look(plan);
		return;
	}
	rung(plan);
	plan->more = true;
	timer_within(d, &d->plan_timer, 0);
}

static void doorbell(void *arg)
{
	struct plan *plan = arg;
	eventfd_t ignored;

	read_now(plan->doorbell, &ignored, sizeof(ignored));
	plan_catch_up(plan);
}

/* The list begins with @first from now on: who was not served is the next. */
static void turn_to(struct kvtierd *d, struct plan **first)
{
	struct plan *head = *first, *last;

	for (last = head; last->next; last = last->next)
		;
	last->next = d->plans;
	*first = NULL;
	d->plans = head;
}

/* Plans that were too much for one turn. */
void plans_run(struct kvtierd *d)
{
	struct plan **at;

	for (at = &d->plans; *at; at = &(*at)->next) {
		if (!(*at)->more || (*at)->dead)
			continue;
		if (*turn_work(d))
			look(*at);
		else
			break;
	}
	if (!*at)
		return;
	timer_within(d, &d->plan_timer, 0);
	if (at != &d->plans)
		turn_to(d, at);
}

/* ---- come and go ------------------------------------------------------------------------- */

void plan_free(struct plan *plan)
{
	struct plan **at;
	struct kvtierd *d;

	if (!plan)
		return;
	d = plan->a->pool->d;
	for (at = &d->plans; *at && *at != plan; at = &(*at)->next)
		;
	if (*at)
		*at = plan->next;
	if (plan->first && plan->last && plan->at)
		forget(plan);
	watch_stop(plan->watch);
	if (plan->ring)
		munmap(plan->ring, plan->ring_bytes);
	if (plan->doorbell >= 0)
		close(plan->doorbell);
	if (plan->a->plan == plan)
		plan->a->plan = NULL;
	free(plan->order);
	free(plan->again);
	free(plan->starts);
	free(plan->brought);
	free(plan->first);
	free(plan->last);
	free(plan->at);
	tenant_give(tenant_of_plan(plan), plan->metadata_bytes, PLAN_FDS);
	free(plan);
}

static int make_ring(struct plan *plan, int *ring_fd)
{
	int fd = memfd_create("kvtier-plan", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *ring;

	if (fd < 0 || ftruncate(fd, (off_t)plan->ring_bytes) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		goto fail;
	ring = mmap(NULL, plan->ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ring == MAP_FAILED)
		goto fail;
	plan->ring = ring;
	plan->ring->magic = KVT_PLAN_MAGIC;
	plan->ring->entries = plan->entries;
	*ring_fd = fd;
	return 0;
fail:
	if (fd >= 0)
		close(fd);
	return kvt_fail(-errno, "cannot make a plan's ring: %s", strerror(errno));
}

/* Of arrays with a number for each block. */
static uint64_t blocks_bytes(const struct pool *p)
{
	return (uint64_t)p->nr_blocks *
	       (3 * sizeof(uint32_t) + (p->module ? sizeof(*((struct plan *)0)->brought) : 0));
}

static int make_plan(struct plan *plan, int *ring_fd)
{
	struct pool *p = plan->a->pool;
	int ret;

	plan->first = calloc(p->nr_blocks, sizeof(uint32_t));
	plan->last = calloc(p->nr_blocks, sizeof(uint32_t));
	plan->at = calloc(p->nr_blocks, sizeof(uint32_t));
	plan->brought = p->module ? calloc(p->nr_blocks, 1) : NULL;
	if (!plan->first || !plan->last || !plan->at || (p->module && !plan->brought))
		return kvt_fail(-ENOMEM, "no memory for a plan");
	plan->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (plan->doorbell < 0)
		return kvt_fail(-errno, "cannot make an eventfd: %s", strerror(errno));
	ret = make_ring(plan, ring_fd);
	if (ret)
		return ret;
	plan->watch = watch_start(p->d, plan->doorbell, doorbell, plan);
	if (plan->watch)
		return 0;
	close(*ring_fd);
	return -ENOMEM;
}

/* A new ring for a client's use of a pool, in place of an older one. */
int plan_ring_make(struct attachment *a, uint64_t entries, int fds[2])
{
	struct plan *plan;
	int ret;

	if (entries < KVT_PLAN_ENTRIES_MIN || entries > KVT_PLAN_ENTRIES_MAX ||
	    entries & (entries - 1))
		return kvt_fail(-EINVAL, "a plan's ring has a power of two from %u to %u entries",
				KVT_PLAN_ENTRIES_MIN, KVT_PLAN_ENTRIES_MAX);
	plan = calloc(1, sizeof(*plan));
	if (!plan)
		return -ENOMEM;
	plan->a = a;
	plan->entries = (uint32_t)entries;
	plan->doorbell = -1;
	plan->ring_bytes = sizeof(*plan->ring) + entries * sizeof(plan->ring->entry[0]);
	plan->metadata_bytes = sizeof(*plan) + plan->ring_bytes + blocks_bytes(a->pool);
	ret = tenant_take(a->pool->d, a->client->tenant, plan->metadata_bytes, PLAN_FDS);
	if (ret) {
		free(plan);
		return ret;
	}
	ret = make_plan(plan, &fds[0]);
	if (ret) {
		plan_free(plan);
		return ret;
	}
	plan_free(a->plan);
	a->plan = plan;
	plan->next = a->pool->d->plans;
	a->pool->d->plans = plan;
	fds[1] = plan->doorbell;
	return 0;
}
