// SPDX-License-Identifier: MIT
/* The model of trace_tiers.h. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "trace_tiers.h"

int tiers_init(struct tiers *s, const struct trace *t, const struct tiers_config *config)
{
	size_t n = (size_t)t->nr_blocks + 1;

	memset(s, 0, sizeof(*s));
	s->t = t;
	s->config = *config;
	s->where = calloc(n, 1);
	s->wanted = malloc(n * sizeof(*s->wanted));
	s->nvme_next = malloc(n * sizeof(*s->nvme_next));
	s->nvme_prev = malloc(n * sizeof(*s->nvme_prev));
	if (!s->where || !s->wanted || !s->nvme_next || !s->nvme_prev ||
	    value_init(&s->value, t)) {
		tiers_free(s);
		return -ENOMEM;
	}
	memset(s->wanted, 0xff, n * sizeof(*s->wanted));
	s->nvme_next[t->nr_blocks] = s->nvme_prev[t->nr_blocks] = t->nr_blocks;
	return 0;
}

void tiers_free(struct tiers *s)
{
	free(s->where);
	free(s->wanted);
	free(s->nvme_next);
	free(s->nvme_prev);
	value_free(&s->value);
}

/* ---- NVMe ---------------------------------------------------------------------- */

static void nvme_unlink(struct tiers *s, uint32_t b)
{
	s->nvme_next[s->nvme_prev[b]] = s->nvme_next[b];
	s->nvme_prev[s->nvme_next[b]] = s->nvme_prev[b];
}

static void nvme_link(struct tiers *s, uint32_t b)
{
	uint32_t head = s->t->nr_blocks;

	s->nvme_next[b] = s->nvme_next[head];
	s->nvme_prev[b] = head;
	s->nvme_prev[s->nvme_next[b]] = b;
	s->nvme_next[head] = b;
}

/* The copy that was used the longest ago goes when there is no room. */
static void nvme_write(struct tiers *s, uint32_t b)
{
	uint32_t oldest;

	if (!s->config.nvme)
		return;
	if (s->where[b] & TIERS_NVME) {
		nvme_unlink(s, b);
		nvme_link(s, b);
		return;
	}
	if (s->result.nvme_used == s->config.nvme) {
		oldest = s->nvme_prev[s->t->nr_blocks];
		nvme_unlink(s, oldest);
		s->where[oldest] &= (uint8_t)~TIERS_NVME;
		s->result.nvme_used--;
	}
	nvme_link(s, b);
	s->where[b] |= TIERS_NVME;
	s->result.nvme_used++;
	s->result.written++;
}

/* ---- what leaves DRAM ---------------------------------------------------------- */

static void demote(struct tiers *s, uint32_t b)
{
	nvme_write(s, b);
	s->result.wasted += !!(s->where[b] & TIERS_AHEAD);
	s->where[b] &= (uint8_t)~(TIERS_DRAM | TIERS_AHEAD);
	s->nr_dram--;
	s->value.group[s->value.group_of[b]].nr_in--;
	if (s->moved)
		s->moved(s->moved_arg, b, false);
}

/* From the tail of a group: a block is of no use without the ones before it. */
static void demote_group(struct tiers *s, const struct value_group *g, uint32_t *need)
{
	const uint32_t *b = trace_blocks(s->t, g->request);
	uint32_t k = s->t->request[g->request].nr, group = (uint32_t)(g - s->value.group);

	while (k-- && *need) {
		if (s->value.group_of[b[k]] != group || !(s->where[b[k]] & TIERS_DRAM) ||
		    s->wanted[b[k]] != TRACE_NONE)
			continue;
		demote(s, b[k]);
		--*need;
	}
}

struct candidate {
	double value;
	size_t group;
};

/* The least valuable on top, of equals the oldest. */
static bool lesser(const struct candidate *x, const struct candidate *y)
{
	return x->value != y->value ? x->value < y->value : x->group < y->group;
}

static void sift(struct candidate *c, size_t nr, size_t i)
{
	struct candidate moved = c[i];
	size_t down;

	while ((down = 2 * i + 1) < nr) {
		if (down + 1 < nr && lesser(&c[down + 1], &c[down]))
			down++;
		if (!lesser(&c[down], &moved))
			break;
		c[i] = c[down];
		i = down;
	}
	c[i] = moved;
}

/* How long the cache takes to be filled anew, at the rate so far. */
static double horizon(const struct tiers *s, double now)
{
	double begun = s->t->prefix ? 3 : 0.1; /* before it is known how fast it fills */

	return fmax(begun / 3, 0.7 * s->config.dram * (now + begun) / (double)(s->inserted + 1));
}

/* Demote up to @need blocks that no known request wants. */
static int demote_unwanted(struct tiers *s, double now, uint32_t *need)
{
	struct candidate *c = malloc((s->value.nr + 1) * sizeof(*c));
	size_t i, nr = 0;

	if (!c)
		return -ENOMEM;
	value_refresh(&s->value, now, horizon(s, now));
	for (i = 0; i < s->value.nr; i++)
		if (s->value.group[i].nr_in)
			c[nr++] = (struct candidate){
				value_of(&s->value, &s->value.group[i], now), i
			};
	for (i = nr / 2; i--;)
		sift(c, nr, i);
	while (nr && *need) {
		demote_group(s, &s->value.group[c[0].group], need);
		c[0] = c[--nr];
		sift(c, nr, 0);
	}
	free(c);
	return 0;
}

/* Demote up to @need blocks that requests from the latest known one down to @than want. */
static void demote_later(struct tiers *s, size_t than, uint32_t *need)
{
	size_t i;
	uint32_t k;

	for (i = s->known; i-- > than + 1 && *need;) {
		const uint32_t *b = trace_blocks(s->t, i);

		for (k = s->t->request[i].nr; k-- && *need;) {
			if (!(s->where[b[k]] & TIERS_DRAM) || s->wanted[b[k]] != i)
				continue;
			demote(s, b[k]);
			--*need;
		}
	}
}

/* ---- what is promoted ahead ---------------------------------------------------- */

static double known_at(const struct tiers *s, size_t i)
{
	const struct trace_request *r = &s->t->request[i];

	return r->session == TRACE_NONE ? r->at : fmax(r->heard, r->at - s->config.announce);
}

/* Requests that are known at @now; @i is the next to be served. */
static void learn_of(struct tiers *s, size_t i, double now)
{
	uint32_t k;

	while (s->known < s->t->nr_requests && s->known <= i + s->config.lookahead &&
	       (s->known <= i || known_at(s, s->known) <= now)) {
		for (k = 0; k < s->t->request[s->known].nr; k++) {
			uint32_t *wanted = &s->wanted[trace_blocks(s->t, s->known)[k]];

			if (*wanted == TRACE_NONE)
				*wanted = (uint32_t)s->known;
		}
		s->known++;
	}
}

/* The leading blocks of request @i that are only on NVMe. */
static uint32_t absent(const struct tiers *s, size_t i)
{
	const uint32_t *b = trace_blocks(s->t, i);
	uint32_t k, nr = 0;

	for (k = 0; k < s->t->request[i].nr; k++) {
		if (!(s->where[b[k]] & (TIERS_DRAM | TIERS_NVME))) {
			if (s->t->prefix)
				break;
			continue;
		}
		nr += !(s->where[b[k]] & TIERS_DRAM);
	}
	return nr;
}

static void promote(struct tiers *s, uint32_t b)
{
	s->where[b] |= TIERS_DRAM;
	s->nr_dram++;
	s->inserted++;
	if (s->value.group_of[b] != TRACE_NONE)
		s->value.group[s->value.group_of[b]].nr_in++;
	if (s->moved)
		s->moved(s->moved_arg, b, true);
}

/* Room for @need blocks of request @i: what it gets of it. */
static uint32_t make_room(struct tiers *s, size_t i, uint32_t need)
{
	uint32_t room = s->config.dram - (s->nr_dram < s->config.dram ? s->nr_dram :
									s->config.dram);
	uint32_t more = need > room ? need - room : 0;

	if (more && demote_unwanted(s, s->disk_at, &more))
		return 0;
	if (more)
		demote_later(s, i, &more);
	return need - more;
}

/* Read ahead for request @i until @end; false: the disk's time is over. */
static bool promote_request(struct tiers *s, size_t i, double end)
{
	const uint32_t *b = trace_blocks(s->t, i);
	uint32_t k, need, room;

	s->disk_at = fmax(s->disk_at, known_at(s, i));
	need = absent(s, i);
	if (!need)
		return true;
	if (s->disk_at + s->config.block_seconds > end)
		return false;
	room = make_room(s, i, (uint32_t)fmin(need, (end - s->disk_at) / s->config.block_seconds));
	for (k = 0; k < s->t->request[i].nr && room; k++) {
		if (s->where[b[k]] & TIERS_DRAM || !(s->where[b[k]] & TIERS_NVME))
			continue;
		promote(s, b[k]);
		s->where[b[k]] |= TIERS_AHEAD;
		s->result.promoted++;
		s->disk_at += s->config.block_seconds;
		room--;
	}
	return true;
}

void tiers_until_turn(struct tiers *s, size_t i)
{
	double turn = fmax(s->free_at, s->t->request[i].at);
	size_t j;

	learn_of(s, i, turn);
	s->result.queued += (double)(s->known - i - 1);
	if (!s->config.lookahead)
		return;
	for (j = i; j < s->known; j++)
		if (!promote_request(s, j, turn))
			return;
}

/* ---- a turn -------------------------------------------------------------------- */

static void count_hits(struct tiers *s, size_t i, uint32_t *late)
{
	const struct trace_request *r = &s->t->request[i];
	const uint32_t *b = trace_blocks(s->t, i);
	uint32_t k, dram = 0;

	*late = 0;
	for (k = 0; k < r->nr; k++) {
		if (!(s->where[b[k]] & (TIERS_DRAM | TIERS_NVME))) {
			if (s->t->prefix)
				break;
			continue;
		}
		dram += !!(s->where[b[k]] & TIERS_DRAM);
		*late += !(s->where[b[k]] & TIERS_DRAM);
	}
	s->result.dram_hits += dram;
	s->result.nvme_hits += *late;
	s->result.missed += r->nr - dram - *late;
}

/* The request has been served: who of the known ones wants its blocks next? */
static void want_next(struct tiers *s, size_t i)
{
	const struct trace_request *r = &s->t->request[i];
	const uint32_t *b = trace_blocks(s->t, i);
	uint32_t k;
	size_t j;

	for (k = 0; k < r->nr; k++)
		if (s->wanted[b[k]] == i)
			s->wanted[b[k]] = TRACE_NONE;
	for (j = i + 1; j < s->known; j++) {
		const uint32_t *c = trace_blocks(s->t, j);

		for (k = 0; k < s->t->request[j].nr; k++)
			if (s->wanted[c[k]] == TRACE_NONE)
				s->wanted[c[k]] = (uint32_t)j;
	}
}

int tiers_turn(struct tiers *s, size_t i)
{
	const struct trace_request *r = &s->t->request[i];
	const uint32_t *b = trace_blocks(s->t, i);
	double turn = fmax(s->free_at, r->at), wait;
	uint64_t missed = s->result.missed;
	uint32_t k, late, over;

	count_hits(s, i, &late);
	missed = s->result.missed - missed;
	wait = late ? fmax(0, s->disk_at - turn) + late * s->config.block_seconds : 0;
	s->disk_at = fmax(s->disk_at, turn + wait); /* no time before a decision serves it */
	s->result.waited += wait;
	s->free_at = turn + wait + (double)missed * s->t->block_tokens * s->config.token_seconds;
	s->result.seconds = s->free_at;
	for (k = 0; k < r->nr; k++) {
		if (!(s->where[b[k]] & TIERS_DRAM))
			promote(s, b[k]);
		s->where[b[k]] &= (uint8_t)~TIERS_AHEAD;
	}
	want_next(s, i);
	if (value_served(&s->value, i, turn))
		return -ENOMEM;
	over = s->nr_dram > s->config.dram ? s->nr_dram - s->config.dram : 0;
	if (over && demote_unwanted(s, turn, &over))
		return -ENOMEM;
	if (over)
		demote_later(s, i, &over);
	return 0;
}

int tiers_run(const struct trace *t, const struct tiers_config *config,
	      struct tiers_result *result, void (*progress)(void *arg, size_t done), void *arg)
{
	struct tiers s;
	size_t i;
	int ret = tiers_init(&s, t, config);

	if (ret)
		return ret;
	for (i = 0; i < t->nr_requests && !ret; i++) {
		tiers_until_turn(&s, i);
		ret = tiers_turn(&s, i);
		if (progress)
			progress(arg, i + 1);
	}
	*result = s.result;
	result->queued /= (double)t->nr_requests;
	tiers_free(&s);
	return ret;
}
