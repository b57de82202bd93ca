/* SPDX-License-Identifier: MIT */
/*
 * A sequence as a stream of bytes, little-endian:
 *
 *	header		struct kvt_wire_header, its CRC32C
 *	path		ids of the caches it came through, their CRC32C
 *	each piece	struct kvt_wire_piece, its CRC32C;
 *			then for each layer the rows of keys, those of values, their CRC32C
 *	end		struct kvt_wire_end, its CRC32C
 *
 * A reader believes nothing before it has verified its checksum.
 *
 *	transfer_io.c		whole buffers over any descriptor, with a limit on waiting
 *	transfer_export.c	a sequence out
 *	transfer_import.c	... and in
 *	transfer_fd.c		both over a UNIX socket, by descriptor
 */
#ifndef KVT_TRANSFER_H
#define KVT_TRANSFER_H

#include "sequence.h"

#define KVT_WIRE_MAGIC "KVTSEQ\r\n"
#define KVT_MAP_MAGIC "KVTMAP\r\n" /* numbers of blocks where the rows would be */
#define KVT_WIRE_VERSION 1
#define KVT_PATH_MAX 16

struct kvt_wire_header {
	char magic[8];
	uint32_t version;
	uint32_t bytes; /* of this struct */
	struct kvt_geometry geometry;
	uint32_t tokens;
	uint32_t pieces;
	uint32_t path;
	uint32_t reserved;
};

struct kvt_wire_piece {
	uint32_t number; /* in the stream */
	uint32_t position;
	uint32_t rows;
	uint32_t span;
	uint32_t layout;
	uint32_t reserved;
};

struct kvt_wire_end {
	uint32_t pieces;
	uint32_t crc; /* sum of all CRCs before */
};

struct kvt_wire {
	int fd;
	int timeout_ms;
	bool is_socket;
	bool is_file;
	bool map; /* pieces name the sender's blocks */
	uint64_t bytes; /* so far */
	uint32_t crc; /* sum of those so far */
};

/* -EBADF: not a descriptor. */
int kvt_wire_open(struct kvt_wire *s, int fd, int timeout_ms);
/* @bytes of @buf and their checksum. */
int kvt_wire_put(struct kvt_wire *s, const void *buf, size_t bytes);
/* The same in; -EILSEQ when they do not match, -EPIPE when the stream ends before. */
int kvt_wire_get(struct kvt_wire *s, void *buf, size_t bytes, const char *what);

/* As a stream, or (@map) as a map of the sender's blocks. */
int kvt_wire_export(const struct kvt_seq *seq, int fd, bool map, int timeout_ms);
/* @src: descriptor of the pool whose blocks a map names, to be cloned; -1: a stream. */
int kvt_wire_import(struct kvt_cache *cache, int fd, int src, uint32_t flags, int timeout_ms,
		    struct kvt_seq **seq);

/* Sequences of @a may become sequences of @b; else -EINVAL and why. */
int kvt_geometry_match(const struct kvt_geometry *a, const struct kvt_geometry *b,
		       const char *what);

#endif
