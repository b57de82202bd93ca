// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <numa.h>
#include <numaif.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "arena.h"
#include "error.h"
#include "vma.h"

static int bind_to_node(struct kvt_arena *a)
{
	unsigned long mask[16] = { 0 };

	if (a->node < 0)
		return 0;
	mask[a->node / (8 * sizeof(long))] |= 1UL << (a->node % (8 * sizeof(long)));
	if (mbind(a->mapping, a->mapping_bytes, MPOL_BIND, mask, 8 * sizeof(mask), 0))
		return kvt_fail(-errno, "cannot bind memory to NUMA node %d: %s", a->node,
				strerror(errno));
	return 0;
}

int kvt_arena_init(struct kvt_arena *a, size_t block_bytes, uint32_t nr_places, uint32_t limit,
		   int node)
{
	uint32_t i;
	int ret;

	memset(a, 0, sizeof(*a));
	a->block_bytes = block_bytes;
	a->nr_places = nr_places;
	a->limit = limit;
	a->node = node;
	a->ready = malloc((size_t)nr_places * sizeof(*a->ready));
	a->empty = malloc((size_t)nr_places * sizeof(*a->empty));
	if (!a->ready || !a->empty) {
		ret = -ENOMEM;
		goto free_stacks;
	}
	ret = kvt_vma_map((size_t)nr_places * block_bytes, block_bytes, "kvtier-arena",
			  &a->mapping, &a->mapping_bytes, (void **)&a->base);
	if (ret)
		goto free_stacks;
	ret = bind_to_node(a);
	if (ret)
		goto unmap;
	for (i = 0; i < nr_places; i++)
		a->empty[i] = nr_places - 1 - i;
	a->nr_empty = nr_places;
	return 0;
unmap:
	munmap(a->mapping, a->mapping_bytes);
free_stacks:
	free(a->ready);
	free(a->empty);
	memset(a, 0, sizeof(*a));
	return ret;
}

void kvt_arena_exit(struct kvt_arena *a)
{
	if (!a->mapping)
		return;
	munmap(a->mapping, a->mapping_bytes);
	free(a->ready);
	free(a->empty);
	memset(a, 0, sizeof(*a));
}

static void note_peak(struct kvt_arena *a)
{
	if (a->nr_used + a->nr_ready > a->peak)
		a->peak = a->nr_used + a->nr_ready;
}

uint32_t kvt_arena_take(struct kvt_arena *a, bool *fresh)
{
	uint32_t place;

	if (!kvt_arena_room(a))
		return KVT_PLACE_NONE;
	if (a->nr_ready) {
		place = a->ready[--a->nr_ready];
		*fresh = false;
	} else {
		place = a->empty[--a->nr_empty];
		*fresh = true;
	}
	a->nr_used++;
	note_peak(a);
	return place;
}

void kvt_arena_drop(struct kvt_arena *a, uint32_t place)
{
	assert(a->nr_used);
	a->nr_used--;
	a->ready[a->nr_ready++] = place;
	kvt_arena_trim(a);
}

void kvt_arena_mapped(struct kvt_arena *a, uint32_t place)
{
	a->empty[a->nr_empty++] = place;
}

uint32_t kvt_arena_unmap_place(struct kvt_arena *a)
{
	assert(a->nr_empty);
	return a->empty[--a->nr_empty];
}

void kvt_arena_lost(struct kvt_arena *a)
{
	assert(a->nr_used);
	a->nr_used--;
}

void kvt_arena_trim(struct kvt_arena *a)
{
	while (a->nr_ready && a->nr_used + a->nr_ready > a->limit) {
		uint32_t place = a->ready[--a->nr_ready];

		madvise(kvt_place_addr(a, place), a->block_bytes, MADV_DONTNEED);
		a->empty[a->nr_empty++] = place;
	}
}
