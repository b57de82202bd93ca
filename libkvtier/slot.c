// SPDX-License-Identifier: MIT
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "slot.h"

int kvt_slots_init(struct kvt_slots *s, uint32_t nr)
{
	s->users = calloc(nr ? nr : 1, sizeof(*s->users));
	if (!s->users)
		return -ENOMEM;
	s->nr = s->nr_free = nr;
	s->hand = 0;
	return 0;
}

void kvt_slots_exit(struct kvt_slots *s)
{
	free(s->users);
	s->users = NULL;
	s->nr = s->nr_free = 0;
}

static uint32_t take(struct kvt_slots *s, uint32_t slot)
{
	s->users[slot] = 1;
	s->nr_free--;
	return slot;
}

uint32_t kvt_slot_get(struct kvt_slots *s, uint32_t wish)
{
	if (!s->nr_free)
		return KVT_SLOT_NONE;
	if (wish < s->nr && !s->users[wish])
		return take(s, wish);
	while (s->users[s->hand])
		s->hand = s->hand + 1 == s->nr ? 0 : s->hand + 1;
	return take(s, s->hand);
}

int kvt_slot_claim(struct kvt_slots *s, uint32_t slot)
{
	if (slot >= s->nr)
		return -EINVAL;
	if (s->users[slot])
		return -EBUSY;
	take(s, slot);
	return 0;
}

int kvt_slot_share(struct kvt_slots *s, uint32_t slot)
{
	assert(slot < s->nr && s->users[slot]);
	if (s->users[slot] == UINT16_MAX)
		return -EMLINK;
	s->users[slot]++;
	return 0;
}

void kvt_slot_put(struct kvt_slots *s, uint32_t slot)
{
	assert(slot < s->nr && s->users[slot]);
	if (!--s->users[slot])
		s->nr_free++;
}
