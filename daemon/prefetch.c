// SPDX-License-Identifier: MIT
/*
 * Promote ahead of the cursors.
 *
 * How much is under way: the bytes that the device delivers while one read takes
 * (bandwidth times latency, both measured, the latency by the fastest read of late: the
 * others measure the queue that we make ourselves).  A longer queue delivers no more, and
 * who comes with something urgent waits behind it.  How far: a plan has twice so much
 * promoted that was not passed yet, as much under way as to be verified, and besides what
 * its client passes at once (a layer), within which the cursor does not say where it is.
 * Not further: what waits for its use takes the place of what could stay until the next
 * lap.  What lies ahead and is in memory already does not count, and as long as memory is
 * free there is no bound.
 *
 * Who is next: the tenant that has had the fewest bytes for its weight.  Of its plans,
 * turns of pools that were idle, for which somebody waits, in the order in which they
 * came; then the one that has had the fewest bytes.  Who needs less than its share is
 * seldom in this, as its window is full; so the others share what it leaves.  What is
 * touched before it was promoted is read at once, but not before a turn.
 */
#include <errno.h>

#include "kvtierd.h"

#define WINDOW_MIN (1ull << 20)
#define IN_FLIGHT_MIN (8ull << 20)
#define IN_FLIGHT_MAX (32ull << 20)
#define IN_FLIGHT_BLOCKS 4u
#define SUBMIT_BYTES (1ull << 20) /* at least, but for the last of a turn */
#define LOOK_MAX 4096u /* positions a plan and turn: the rest in the next */
#define DEFAULT_BANDWIDTH (1ull << 30)
#define DEFAULT_LATENCY (2 * NS_PER_MS)
#define PERIOD_NS (20 * NS_PER_MS)
#define LATENCY_PERIOD_NS (500 * NS_PER_MS)

/* The least of a period, and of the one that is under way: more is waiting in a queue. */
static void measure_latency(struct kvtierd *d, uint64_t now, uint64_t latency_ns)
{
	if (!d->latency_ns || latency_ns < d->latency_ns)
		d->latency_ns = latency_ns;
	if (!d->fastest_ns || latency_ns < d->fastest_ns)
		d->fastest_ns = latency_ns;
	if (now - d->fastest_since_ns < LATENCY_PERIOD_NS)
		return;
	d->latency_ns = d->fastest_ns;
	d->fastest_ns = 0;
	d->fastest_since_ns = now;
}

/* One read came back. */
void prefetch_measure(struct kvtierd *d, uint64_t bytes, uint64_t latency_ns)
{
	uint64_t now = now_ns(), span;

	measure_latency(d, now, latency_ns);
	if (!d->measured_since_ns || now - d->measured_since_ns > 10 * PERIOD_NS) {
		/* The device was idle: what it did not do then says nothing. */
		d->measured_since_ns = now;
		d->measured_bytes = 0;
		return;
	}
	d->measured_bytes += bytes;
	span = now - d->measured_since_ns;
	if (span < PERIOD_NS)
		return;
	span = d->measured_bytes * NS_PER_S / span;
	/* Slower is believed slowly: the clients may just not have asked for more. */
	d->bandwidth = span > d->bandwidth ? span : d->bandwidth - (d->bandwidth - span) / 32;
	d->measured_since_ns = now;
	d->measured_bytes = 0;
}

static uint64_t product(const struct kvtierd *d)
{
	uint64_t bandwidth = d->bandwidth ? d->bandwidth : DEFAULT_BANDWIDTH;
	uint64_t latency = d->latency_ns ? d->latency_ns : DEFAULT_LATENCY;

	return bandwidth / 1000 * (latency / 1000) / 1000;
}

static uint64_t clamp(uint64_t value, uint64_t least, uint64_t most)
{
	return value < least ? least : value > most ? most : value;
}

/* As much as keeps the device busy. */
uint64_t prefetch_in_flight(const struct pool *p)
{
	uint64_t blocks = IN_FLIGHT_BLOCKS * (uint64_t)p->block_bytes;

	return clamp(product(p->d), blocks > IN_FLIGHT_MIN ? blocks : IN_FLIGHT_MIN, IN_FLIGHT_MAX);
}

static uint64_t least(uint64_t a, uint64_t limit)
{
	return limit && limit < a ? limit : a;
}

/* The memory that the pool can hope for. */
static uint64_t memory(const struct kvtierd *d, const struct pool *p)
{
	uint64_t bytes = p->t->budget[KVTIER_TIER_DRAM];

	bytes = least(bytes, p->tenant->quota[KVTIER_TIER_DRAM]);
	return least(bytes, d->config.limit[KVTIER_TIER_DRAM]);
}

static uint64_t window(const struct kvtierd *d, const struct plan *plan)
{
	const struct pool *p = plan->a->pool;
	uint64_t most = memory(d, p), at_once = (uint64_t)plan->stride * p->block_bytes;
	uint64_t ahead = at_once + 2 * prefetch_in_flight(p);

	/* What is brought in must not push out what was, before it is used. */
	if (most < p->t->bytes)
		most /= 4;
	return clamp(ahead, most < WINDOW_MIN ? most : WINDOW_MIN, most);
}

/* Memory that nobody uses yet: a turn that is announced brings a session back whole. */
static bool has_room(struct pool *p)
{
	if (p->module)
		return device_has_room(p);
	return (uint64_t)(p->nr_frames + 1) * p->block_bytes <= p->t->budget[KVTIER_TIER_DRAM] &&
	       !tenant_room(p->d, p->tenant, KVTIER_TIER_DRAM, p->block_bytes);
}

static bool hungry(const struct kvtierd *d, const struct plan *plan)
{
	struct pool *p = plan->a->pool;

	return !plan->dead && plan->blocked_ns != d->turn_ns && plan->hand < plan->nr &&
	       plan_block_at(plan, plan->hand) != NO_BLOCK &&
	       !p->removed && !p->idle &&
	       ((uint64_t)plan->ahead * p->block_bytes < window(d, plan) || has_room(p));
}

/* Somebody whose pool was idle waits for a token. */
static bool is_turn(const struct plan *plan)
{
	return plan->turn && !plan->cycle;
}

static bool before(const struct plan *a, const struct plan *b)
{
	const struct tenant *ta = a->a->pool->tenant, *tb = b->a->pool->tenant;

	if (ta != tb)
		return ta->virtual_time < tb->virtual_time;
	if (is_turn(a) != is_turn(b))
		return is_turn(a);
	return is_turn(a) ? a->since_ns < b->since_ns : a->had_bytes < b->had_bytes;
}

static struct plan *next_plan(struct kvtierd *d)
{
	struct plan *plan, *best = NULL;

	for (plan = d->plans; plan; plan = plan->next)
		if (hungry(d, plan) && (!best || before(plan, best)))
			best = plan;
	return best;
}

/* A block is on its way for the plan. */
void prefetch_charge(struct plan *plan)
{
	struct pool *p = plan->a->pool;

	p->d->count.promoted_ahead++;
	/* Whoever waits as well has had no less: who comes anew begins there. */
	p->d->virtual_now = p->tenant->virtual_time;
	p->tenant->virtual_time += p->block_bytes / p->tenant->weight;
	if (!is_turn(plan))
		p->d->had_now = plan->had_bytes;
	plan->had_bytes += p->block_bytes;
}

/* Begin to read the block at the hand.  False: there is no room for it now. */
static bool promote(struct plan *plan, uint32_t b)
{
	struct pool *p = plan->a->pool;

	if (file_read(p, b, plan->hand ? plan->hand : 1))
		return false;
	block_of(p, b)->flags |= B_AHEAD;
	plan->ahead++;
	p->stats.prefetched++;
	prefetch_charge(plan);
	return true;
}

/* Move the hand to the next block that has to be read, and begin that. */
static void step(struct kvtierd *d, struct plan *plan)
{
	struct pool *p = plan->a->pool;
	uint32_t looked, b;

	if (p->module) {
		if (!device_pool_ahead(plan))
			plan->blocked_ns = d->turn_ns;
		return;
	}
	for (looked = 0; looked < LOOK_MAX; looked++) {
		b = plan_block_at(plan, plan->hand);
		if (b == NO_BLOCK)
			return;
		if (block_of(p, b)->where == W_COLD) {
			if (!promote(plan, b))
				plan->blocked_ns = d->turn_ns;
			else
				plan->hand++;
			return;
		}
		plan->hand++;
	}
	timer_within(d, &d->waits, NS_PER_MS);
	plan->blocked_ns = d->turn_ns;
}

/* A turn of the tenant's is being read in: faults of its other pools wait for that a little. */
bool prefetch_defers(const struct pool *p)
{
	const struct plan *plan;
	bool turn = false;

	for (plan = p->d->plans; plan; plan = plan->next) {
		const struct pool *other = plan->a->pool;

		if (!is_turn(plan) || other->tenant != p->tenant || !hungry(p->d, plan))
			continue;
		if (other == p)
			return false;
		turn = true;
	}
	return turn;
}

/* The device begins with the first while memory for the others is made. */
void prefetch_run(struct kvtierd *d)
{
	uint64_t submitted = d->reading;
	struct plan *plan;

	while ((plan = next_plan(d)) && d->reading < prefetch_in_flight(plan->a->pool)) {
		step(d, plan);
		plan_wake_again(plan);
		if (d->reading - submitted < SUBMIT_BYTES)
			continue;
		io_uring_submit(&d->ring);
		submitted = d->reading;
	}
}
