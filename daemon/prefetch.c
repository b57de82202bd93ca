// SPDX-License-Identifier: MIT
/*
 * Promote ahead of the cursors.
 *
 * How far: as many bytes as the device delivers while one read takes (bandwidth times
 * latency, both measured), twice, so that a client that runs at the device's speed never
 * waits; what lies ahead and is in memory already does not count, and as long as memory
 * is free there is no bound.  Who is next: the
 * tenant that has had the fewest bytes for its weight, and of its plans the one whose
 * next block is due first.
 */
#include <errno.h>

#include "kvtierd.h"

#define WINDOW_MIN (1ull << 20)
#define IN_FLIGHT_MIN (2ull << 20)
#define IN_FLIGHT_MAX (64ull << 20)
#define LOOK_MAX 4096u /* positions a plan and turn: the rest in the next */
#define DEFAULT_BANDWIDTH (1ull << 30)
#define DEFAULT_LATENCY (2 * NS_PER_MS)
#define PERIOD_NS (20 * NS_PER_MS)

/* One read came back. */
void prefetch_measure(struct kvtierd *d, uint64_t bytes, uint64_t latency_ns)
{
	uint64_t now = now_ns(), span;

	d->latency_ns = d->latency_ns ? (15 * d->latency_ns + latency_ns) / 16 : latency_ns;
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

static uint64_t window(const struct kvtierd *d, const struct pool *p)
{
	uint64_t most = p->t->budget[KVTIER_TIER_DRAM];

	/* What is brought in must not push out what was, before it is used. */
	if (most < p->t->bytes)
		most /= 4;
	return clamp(2 * product(d), most < WINDOW_MIN ? most : WINDOW_MIN, most);
}

/* Memory that nobody uses yet: a turn that is announced brings a session back whole. */
static bool has_room(const struct pool *p)
{
	return !p->module &&
	       (uint64_t)(p->nr_frames + 1) * p->block_bytes <= p->t->budget[KVTIER_TIER_DRAM] &&
	       !tenant_room(p->d, p->tenant, KVTIER_TIER_DRAM, p->block_bytes);
}

static bool hungry(const struct kvtierd *d, const struct plan *plan)
{
	const struct pool *p = plan->a->pool;

	return !plan->dead && plan->blocked_ns != d->turn_ns && plan->hand < plan->nr &&
	       plan_block_at(plan, plan->hand) != NO_BLOCK &&
	       !p->removed &&
	       ((uint64_t)plan->ahead * p->block_bytes < window(d, p) || has_room(p));
}

static uint64_t due_ns(const struct plan *plan)
{
	return plan->moved_ns + plan->hand * plan->pace_ns;
}

static bool before(const struct plan *a, const struct plan *b)
{
	const struct tenant *ta = a->a->pool->tenant, *tb = b->a->pool->tenant;

	if (ta != tb)
		return ta->virtual_time < tb->virtual_time;
	return due_ns(a) < due_ns(b);
}

static struct plan *next_plan(struct kvtierd *d)
{
	struct plan *plan, *best = NULL;

	for (plan = d->plans; plan; plan = plan->next)
		if (hungry(d, plan) && (!best || before(plan, best)))
			best = plan;
	return best;
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
	p->d->count.promoted_ahead++;
	p->tenant->virtual_time += p->block_bytes / p->tenant->weight;
	p->d->virtual_now = p->tenant->virtual_time;
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

void prefetch_run(struct kvtierd *d)
{
	uint64_t most = clamp(2 * product(d), IN_FLIGHT_MIN, IN_FLIGHT_MAX);
	struct plan *plan;

	while (d->reading < most && (plan = next_plan(d))) {
		step(d, plan);
		plan_wake_again(plan);
	}
}
