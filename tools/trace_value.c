// SPDX-License-Identifier: MIT
/* Learned chances of reuse: see trace_value.h. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "trace_value.h"

/*
 * Four ages a doubling, from a second on: exponent and first two bits of the mantissa of a
 * float, which is quick and near enough to a logarithm.
 */
#define AGE_ONE (127 << 2)

static uint8_t age_of(double seconds)
{
	float f = (float)seconds;
	uint32_t bits;

	if (seconds < 1)
		return 0;
	memcpy(&bits, &f, sizeof(bits));
	bits = (bits >> 21) - AGE_ONE + 1;
	return bits < VALUE_AGES ? (uint8_t)bits : VALUE_AGES - 1;
}

static double age_begins(int age)
{
	uint32_t bits = (uint32_t)(age - 1 + AGE_ONE) << 21;
	float f;

	memcpy(&f, &bits, sizeof(f));
	return age ? (double)f : 0;
}

int value_init(struct value *v, const struct trace *t)
{
	memset(v, 0, sizeof(*v));
	v->t = t;
	v->refreshed = -INFINITY;
	v->scale = t->prefix ? 1 : 1000;
	v->group_of = malloc((t->nr_blocks + 1) * sizeof(*v->group_of));
	v->uses = calloc((size_t)t->nr_blocks + 1, 1);
	if (!v->group_of || !v->uses) {
		value_free(v);
		return -ENOMEM;
	}
	memset(v->group_of, 0xff, (t->nr_blocks + 1) * sizeof(*v->group_of));
	return 0;
}

void value_free(struct value *v)
{
	free(v->group);
	free(v->group_of);
	free(v->uses);
	v->group = NULL;
	v->group_of = NULL;
	v->uses = NULL;
}

/* The group has reached this age without being used. */
static void expose(struct value *v, struct value_group *g, double now)
{
	uint8_t age;

	if (now < g->since)
		return;
	for (age = age_of(now - g->since); g->age < age; g->age++)
		v->exposed[g->class][g->age]++;
}

/* ---- a request ----------------------------------------------------------------- */

/* Groups whose blocks are all in newer ones are of no more use. */
static void drop_dead(struct value *v)
{
	uint32_t *to = malloc((v->nr + 1) * sizeof(*to));
	size_t i, n = 0;
	uint32_t b;

	if (!to)
		return; /* later */
	for (i = 0; i < v->nr; i++) {
		to[i] = (uint32_t)n;
		if (v->group[i].nr)
			v->group[n++] = v->group[i];
	}
	v->nr = n;
	v->nr_dead = 0;
	for (b = 0; b < v->t->nr_blocks; b++)
		if (v->group_of[b] != TRACE_NONE)
			v->group_of[b] = to[v->group_of[b]];
	free(to);
}

/* Room for the groups of request @i, and the groups, still empty. */
static int new_groups(struct value *v, size_t i, double now)
{
	struct value_group *grown;
	int uses;

	if (v->nr_dead > 1024 && v->nr_dead > v->nr / 2)
		drop_dead(v);
	if (v->nr + VALUE_USES > v->room) {
		grown = realloc(v->group, (2 * v->room + 256) * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		v->group = grown;
		v->room = 2 * v->room + 256;
	}
	for (uses = 0; uses < VALUE_USES; uses++) {
		v->group[v->nr + (size_t)uses] = (struct value_group){
			.since = now,
			.request = i,
			.class = (uint8_t)(v->t->request[i].stop * VALUE_USES + uses),
		};
	}
	return 0;
}

/* A block is used again; the first of a group's tells that the group was. */
static void leave(struct value *v, uint32_t b, size_t i, double now)
{
	struct value_group *g;

	if (v->group_of[b] == TRACE_NONE)
		return;
	g = &v->group[v->group_of[b]];
	v->group_of[b] = TRACE_NONE;
	if (g->counted != i + 1) {
		expose(v, g, now);
		v->used[g->class][age_of(fmax(0, now - g->since))]++;
		g->counted = i + 1;
	}
	g->nr_in--;
	v->nr_dead += !--g->nr;
}

static void join(struct value *v, uint32_t b)
{
	uint32_t uses = v->uses[b] < VALUE_USES ? v->uses[b] : VALUE_USES - 1;

	if (v->group_of[b] != TRACE_NONE) /* twice in one request */
		return;
	v->uses[b] = (uint8_t)(uses + 1);
	v->group_of[b] = (uint32_t)v->nr + uses;
	v->group[v->nr + uses].nr++;
	v->group[v->nr + uses].nr_in++;
}

int value_served(struct value *v, size_t i, double now)
{
	const struct trace_request *r = &v->t->request[i];
	const uint32_t *b = trace_blocks(v->t, i);
	uint32_t k;

	now *= v->scale;
	if (new_groups(v, i, now + r->busy * v->scale))
		return -ENOMEM;
	for (k = 0; k < r->nr; k++)
		leave(v, b[k], i, now);
	for (k = 0; k < r->nr; k++)
		join(v, b[k]);
	for (k = 0; k < VALUE_USES; k++)
		v->nr_dead += !v->group[v->nr + k].nr;
	v->nr += VALUE_USES;
	return 0;
}

/* ---- the table ----------------------------------------------------------------- */

/* The hazards of all classes together stand in where a class has seen little. */
static void pool_hazards(const struct value *v, double pooled[VALUE_AGES])
{
	double used, reached;
	int age, class;

	for (age = 0; age < VALUE_AGES; age++) {
		used = 0.02;
		reached = 1;
		for (class = 0; class < VALUE_CLASSES; class++) {
			used += v->used[class][age];
			reached += v->used[class][age] + v->exposed[class][age];
		}
		pooled[age] = used / reached;
	}
}

/* Of a group of @class that is @age old: used within @horizon seconds? */
static double chance(const struct value *v, int class, int age, double horizon,
		     const double pooled[VALUE_AGES])
{
	double alive = 1, used = 0, begun = age_begins(age), hazard, part;
	int a;

	for (a = age; a < VALUE_AGES && age_begins(a) - begun < horizon; a++) {
		hazard = (v->used[class][a] + 2 * pooled[a]) /
			 (v->used[class][a] + v->exposed[class][a] + 2);
		part = fmin(1, (horizon - (age_begins(a) - begun)) /
				       (age_begins(a + 1) - age_begins(a)));
		used += alive * hazard * part;
		alive *= 1 - hazard * part;
	}
	return used;
}

/* A table lives for some time: it changes slowly, and making it costs. */
void value_refresh(struct value *v, double now, double horizon)
{
	double pooled[VALUE_AGES];
	int class, age;
	size_t i;

	now *= v->scale;
	horizon *= v->scale;
	if (now - v->refreshed < fmin(5, horizon / 16))
		return;
	v->refreshed = now;
	for (i = 0; i < v->nr; i++)
		if (v->group[i].nr)
			expose(v, &v->group[i], now);
	pool_hazards(v, pooled);
	for (class = 0; class < VALUE_CLASSES; class++)
		for (age = 0; age < VALUE_AGES; age++)
			v->chance[class][age] = chance(v, class, age, horizon, pooled);
}

/* While its request is being answered, its session cannot come back. */
double value_of(const struct value *v, const struct value_group *g, double now)
{
	now *= v->scale;
	if (now < g->since)
		return 0.9 * v->chance[g->class][0];
	return v->chance[g->class][age_of(now - g->since)];
}
