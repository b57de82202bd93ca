/* SPDX-License-Identifier: MIT */
/*
 * Arena: the frames of one byte-addressable tier (DRAM, or a CXL NUMA node).
 *
 * The arena is a range of addresses cut into places of one block each, many
 * more than it may have frames.  A place either has pages behind it or not:
 *
 *   empty   no pages: its frame is mapped at a block's address, or never was
 *   ready   pages whose content nobody needs
 *   (else)  pages holding a block that is not mapped: staged, read, written
 *
 * Physical use = ready + held + mapped <= limit, checked before a page exists.
 * Owned by the pager thread: no lock.
 */
#ifndef KVT_ARENA_H
#define KVT_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVT_PLACE_NONE UINT32_MAX

struct kvt_arena {
	char *base;
	void *mapping; /* what munmap() gets: base is aligned inside it */
	size_t mapping_bytes;
	size_t block_bytes;
	int node; /* NUMA node its pages come from; -1: any */
	uint32_t nr_places;
	uint32_t limit; /* frames it may have */
	uint32_t nr_ready;
	uint32_t nr_empty;
	uint32_t nr_used; /* held + mapped */
	uint32_t peak; /* most frames it ever had */
	uint32_t *ready; /* a stack of places */
	uint64_t *empty; /* a bit for each place */
	uint32_t first_empty; /* no place before it is empty */
};

int kvt_arena_init(struct kvt_arena *a, size_t block_bytes, uint32_t nr_places, uint32_t limit,
		   int node);
void kvt_arena_exit(struct kvt_arena *a);

static inline char *kvt_place_addr(const struct kvt_arena *a, uint32_t place)
{
	return a->base + (size_t)place * a->block_bytes;
}

/* Frames that can be taken now without evicting. */
static inline uint32_t kvt_arena_room(const struct kvt_arena *a)
{
	return a->limit > a->nr_used ? a->limit - a->nr_used : 0;
}

/* A place with a frame whose content is undefined; *@fresh: its pages will read as zeroes. */
uint32_t kvt_arena_take(struct kvt_arena *a, bool *fresh);
/* The content of a held place is no longer needed. */
void kvt_arena_drop(struct kvt_arena *a, uint32_t place);
/* The frame of a held place has been mapped: the place is empty now. */
void kvt_arena_mapped(struct kvt_arena *a, uint32_t place);
/* An empty place that is about to receive a mapped block's frame. */
uint32_t kvt_arena_unmap_place(struct kvt_arena *a);
/* The first of @nr such places in a row; KVT_PLACE_NONE: no such row was found. */
uint32_t kvt_arena_unmap_row(struct kvt_arena *a, uint32_t nr);
/* A mapped block's frame was freed at its address. */
void kvt_arena_lost(struct kvt_arena *a);
/* Give pages back to the system until use is within the limit or nothing is ready. */
void kvt_arena_trim(struct kvt_arena *a);

#endif
