/* SPDX-License-Identifier: MIT */
/*
 * Slots: the block-sized places of the NVMe tier.
 *
 * A slot is counted: clones share one, and a checkpoint holds one so that it
 * is not written again while a manifest may name it.  Allocation prefers the
 * slot asked for (a block's own number), so that neighbours in memory are
 * neighbours on the device.  Owned by the pager thread: no lock.
 */
#ifndef KVT_SLOT_H
#define KVT_SLOT_H

#include <stdint.h>

#define KVT_SLOT_NONE UINT32_MAX

struct kvt_slots {
	uint16_t *users; /* per slot; 0: free */
	uint32_t nr;
	uint32_t nr_free;
	uint32_t hand; /* where the search for a free one goes on */
};

int kvt_slots_init(struct kvt_slots *s, uint32_t nr);
void kvt_slots_exit(struct kvt_slots *s);
/* A free slot, @wish if that is free; KVT_SLOT_NONE when all are taken. */
uint32_t kvt_slot_get(struct kvt_slots *s, uint32_t wish);
/* Take exactly this slot; -EBUSY when it is taken, -EINVAL when there is none such. */
int kvt_slot_claim(struct kvt_slots *s, uint32_t slot);
/* One more user; -EMLINK at the limit. */
int kvt_slot_share(struct kvt_slots *s, uint32_t slot);
void kvt_slot_put(struct kvt_slots *s, uint32_t slot);
static inline int kvt_slot_shared(const struct kvt_slots *s, uint32_t slot)
{
	return s->users[slot] > 1;
}

#endif
