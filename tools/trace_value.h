/* SPDX-License-Identifier: MIT */
/*
 * How likely a block is used again soon, learned from the trace so far and nothing else.
 *
 * Blocks that were last used by the same request, as often as each other, are a group.
 * Groups are of a class: how often their blocks were used (1, 2, 3, more) and why the
 * answer ended (tool, turn, unknown).  For each class and age (on a logarithmic scale)
 * it counts how many groups reached that age and how many of them were used again in
 * it: a hazard.  A group's value is the probability, by the hazards of its class from
 * its age on, that it is used again within a horizon: the time that the cache takes to
 * fill with new blocks.
 */
#ifndef KVT_TRACE_VALUE_H
#define KVT_TRACE_VALUE_H

#include "trace.h"

#define VALUE_AGES 96
#define VALUE_USES 4
#define VALUE_CLASSES (VALUE_USES * TRACE_NR_STOPS)

struct value_group {
	double since; /* when its request was answered */
	size_t request; /* its blocks are among that request's */
	uint32_t nr; /* blocks that were not used again since */
	uint32_t nr_in; /* of these, how many the owner of the cache has in it */
	uint8_t class;
	uint8_t age; /* up to here it was counted as exposed */
	size_t counted; /* the last request that used some of it, + 1 */
};

struct value {
	const struct trace *t;
	struct value_group *group; /* the oldest request first; dead ones go now and then */
	size_t nr, room, nr_dead;
	uint32_t *group_of; /* of a block; TRACE_NONE: not used yet */
	uint8_t *uses;
	double used[VALUE_CLASSES][VALUE_AGES];
	double exposed[VALUE_CLASSES][VALUE_AGES];
	double chance[VALUE_CLASSES][VALUE_AGES];
	double refreshed;
	double scale; /* ages a second: the least age is a second, of a recorded trace a ms */
};

/* 0 or -ENOMEM. */
int value_init(struct value *v, const struct trace *t);
void value_free(struct value *v);
/* Request @i was served at @now, its blocks are all in the cache: 0 or -ENOMEM. */
int value_served(struct value *v, size_t i, double now);
/* Bring value_of() up to date when it is due. */
void value_refresh(struct value *v, double now, double horizon);
double value_of(const struct value *v, const struct value_group *g, double now);

#endif
