/* SPDX-License-Identifier: MIT */
/*
 * A manifest: where the extents of sequences and of a prefix tree lie on NVMe, and
 * how they fit together.  Little-endian:
 *
 *	header		struct kvt_manifest_header
 *	extents		layout, then slot, generation and CRC32C of each of its blocks
 *	sequences	name, lengths, path, policy, summary, pieces
 *	prefix tree	nodes, parents first: tenant or tokens, extent, hits
 *	checksum	CRC32C of all before
 *
 *	manifest_bytes.c	numbers and arrays into a buffer, and out of it within bounds
 *	manifest_save.c		gather, seal, checkpoint, write, rename
 *	manifest_open.c		read and verify
 *	manifest_restore.c	adopt, and build sequences again
 *	prefix_save.c		the tree's part of both
 */
#ifndef KVT_MANIFEST_H
#define KVT_MANIFEST_H

#include "prefix.h"

#define KVT_MANIFEST_MAGIC "KVTMAN\r\n"
#define KVT_MANIFEST_VERSION 1
#define KVT_NAME_MAX 255
#define KVT_MANIFEST_MAX (4ull << 30) /* bytes: what is saved can be opened */

struct kvt_manifest_header {
	char magic[8];
	uint32_t version;
	uint32_t bytes; /* of this struct */
	uint64_t file_bytes;
	uint64_t block_bytes;
	struct kvt_geometry geometry;
	struct kvt_key key; /* of the slots; zeroes: none is needed */
	uint32_t groups;
	uint32_t extents;
	uint32_t seqs;
	uint32_t nodes;
};

struct kvt_bytes {
	char *data;
	size_t nr; /* written, or left to read */
	size_t room;
	int error; /* the first one; later puts and gets do nothing */
};

struct kvt_manifest {
	char *data;
	size_t bytes;
	struct kvt_manifest_header header;
	char **names;
};

void kvt_put(struct kvt_bytes *b, const void *data, size_t bytes);
void kvt_put_u32(struct kvt_bytes *b, uint32_t value);
void kvt_put_u64(struct kvt_bytes *b, uint64_t value);
void kvt_get(struct kvt_bytes *b, void *data, size_t bytes);
uint32_t kvt_get_u32(struct kvt_bytes *b);
uint64_t kvt_get_u64(struct kvt_bytes *b);
/* A count that is followed by at least @each bytes an element; an error if they are not there. */
uint32_t kvt_get_count(struct kvt_bytes *b, size_t each);

/* Give an extent its number in the manifest, from 1 on, and remember it in @list. */
struct kvt_marks {
	struct kvt_extent **list;
	uint32_t nr;
	uint32_t room;
};
int kvt_mark(struct kvt_marks *marks, struct kvt_extent *extent);

/* manifest_save.c: reserve the slots of extents that have none reserved yet. */
int kvt_keep_slots(struct kvt_cache *c, struct kvt_extent *const *list, uint32_t nr);

/* prefix_save.c */
int kvt_prefix_mark(struct kvt_prefix *p, struct kvt_marks *marks);
uint32_t kvt_prefix_save(struct kvt_prefix *p, struct kvt_bytes *b);
int kvt_prefix_load(struct kvt_prefix *p, struct kvt_bytes *b, uint32_t nodes,
		    struct kvt_extent **extents, uint32_t nr);

#endif
