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

/* Places looked at for a row of empty ones. */
#define SEARCH_MAX 4096

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

/* ---- empty places ---------------------------------------------------------- */

static bool is_empty(const struct kvt_arena *a, uint32_t place)
{
	return a->empty[place / 64] >> place % 64 & 1;
}

static void put_empty(struct kvt_arena *a, uint32_t place)
{
	a->empty[place / 64] |= 1ull << place % 64;
	a->nr_empty++;
	if (place < a->first_empty)
		a->first_empty = place;
}

static void take_empty(struct kvt_arena *a, uint32_t place)
{
	assert(is_empty(a, place));
	a->empty[place / 64] &= ~(1ull << place % 64);
	a->nr_empty--;
}

/* The first empty place; there is one. */
static uint32_t find_empty(struct kvt_arena *a)
{
	uint32_t word = a->first_empty / 64;

	assert(a->nr_empty);
	while (!a->empty[word])
		word++;
	a->first_empty = word * 64 + (uint32_t)__builtin_ctzll(a->empty[word]);
	return a->first_empty;
}

static uint32_t take_first_empty(struct kvt_arena *a)
{
	uint32_t place = find_empty(a);

	take_empty(a, place);
	return place;
}

/* ---- the arena ------------------------------------------------------------- */

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
	a->empty = calloc((nr_places + 63) / 64, sizeof(*a->empty));
	a->first_empty = nr_places;
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
		put_empty(a, i);
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
		place = take_first_empty(a);
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
	put_empty(a, place);
}

uint32_t kvt_arena_unmap_place(struct kvt_arena *a)
{
	return take_first_empty(a);
}

uint32_t kvt_arena_unmap_row(struct kvt_arena *a, uint32_t nr)
{
	uint32_t at, end, length = 0;

	if (a->nr_empty < nr)
		return KVT_PLACE_NONE;
	at = find_empty(a);
	end = a->nr_places - at > SEARCH_MAX ? at + SEARCH_MAX : a->nr_places;
	for (; at < end && length < nr; at++)
		length = is_empty(a, at) ? length + 1 : 0;
	if (length < nr)
		return KVT_PLACE_NONE;
	for (length = 0; length < nr; length++)
		take_empty(a, --at);
	return at;
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
		put_empty(a, place);
	}
}
