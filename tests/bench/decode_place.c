// SPDX-License-Identifier: MIT
/*
 * Where a cache can be:
 *
 *	memory	all of it in memory; in a cgroup with less, this is swap
 *	stream	a pool with a part of the memory, streamed
 *	touch	the same pool, read as if it were memory
 *	map	a file, mapped; how much of it is in memory is the cgroup's limit
 *	pread	a part in memory, the rest read with pread() before each layer is attended to
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "decode.h"

static char *map_memory(size_t bytes)
{
	char *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (base == MAP_FAILED)
		die("no memory: %s", strerror(errno));
	return base;
}

static int attend_plain(struct place *p, struct model *m, uint32_t layer,
			const struct kvt_attend_seq *seq)
{
	(void)p;
	(void)layer;
	return kvt_attend(m->attend, &m->params, seq, 1);
}

/* ---- memory --------------------------------------------------------------------------- */

static int open_memory(struct place *p, struct model *m)
{
	p->base = map_memory(m->bytes);
	return 0;
}

static void close_memory(struct place *p, struct model *m)
{
	munmap(p->base, m->bytes);
}

/* ---- a pool ----------------------------------------------------------------------------- */

static int open_pool(struct place *p, struct model *m)
{
	struct kvt_config config = KVT_CONFIG_INIT;
	int ret;

	config.bytes = m->bytes;
	config.block_bytes = m->o->block_bytes;
	config.dram_bytes = m->bytes / m->o->times;
	config.nvme_path = m->o->path;
	config.pager = KVT_PAGER_USER;
	ret = kvt_pool_create(&config, &p->pool);
	p->base = ret ? NULL : kvt_pool_addr(p->pool);
	return ret;
}

static int open_stream(struct place *p, struct model *m)
{
	struct kvt_stream_config config = KVT_STREAM_CONFIG_INIT;
	int ret = open_pool(p, m);

	if (ret)
		return ret;
	config.attend = m->attend;
	config.pool = p->pool;
	config.window_bytes = m->o->window_bytes;
	return kvt_stream_create(&config, &p->stream);
}

static int seal(struct place *p, struct model *m)
{
	return kvt_seal(p->pool, 0, m->bytes);
}

static int attend_stream(struct place *p, struct model *m, uint32_t layer,
			 const struct kvt_attend_seq *seq)
{
	struct kvt_stream_table next[64];
	uint32_t i, nr = m->o->ahead < 64 ? m->o->ahead : 64;

	for (i = 0; i < nr; i++)
		next[i] = (struct kvt_stream_table){
			.blocks = m->tables +
				  (size_t)((layer + 1 + i) % m->o->layers) * m->layer_blocks,
			.nr_blocks = m->layer_blocks,
		};
	return kvt_stream_attend(p->stream, &m->params, seq, 1, next, nr, NULL);
}

static void begin_pool(struct place *p, struct model *m)
{
	(void)m;
	kvt_stats(p->pool, &p->before);
	p->stream_before.size = sizeof(p->stream_before);
	if (p->stream)
		kvt_stream_stats(p->stream, &p->stream_before);
}

static void report_pool(struct place *p, struct model *m, uint32_t steps)
{
	struct kvtier_stats s;
	struct kvt_stream_stats t = { .size = sizeof(t) };

	(void)m;
	kvt_stats(p->pool, &s);
	printf(",\"read_bytes\":%.0f,\"transfer_s\":%.6f,\"fault_wait_s\":%.6f,\"faults\":%.1f,"
	       "\"peak_bytes\":%llu",
	       (double)(s.tier[KVTIER_TIER_NVME].bytes_out -
			p->before.tier[KVTIER_TIER_NVME].bytes_out) / steps,
	       (double)(s.transfer_ns - p->before.transfer_ns) * 1e-9 / steps,
	       (double)(s.fault_wait_ns - p->before.fault_wait_ns) * 1e-9 / steps,
	       (double)(s.faults - p->before.faults) / steps,
	       (unsigned long long)s.tier[KVTIER_TIER_DRAM].peak_bytes);
	if (!p->stream)
		return;
	kvt_stream_stats(p->stream, &t);
	printf(",\"wait_s\":%.6f,\"streamed\":%.1f,\"resident\":%.1f,\"kept\":%.1f",
	       (double)(t.wait_ns - p->stream_before.wait_ns) * 1e-9 / steps,
	       (double)(t.streamed - p->stream_before.streamed) / steps,
	       (double)(t.resident - p->stream_before.resident) / steps,
	       (double)(t.kept - p->stream_before.kept) / steps);
}

static void close_pool(struct place *p, struct model *m)
{
	(void)m;
	kvt_stream_destroy(p->stream);
	kvt_pool_destroy(p->pool);
}

/* ---- a file ------------------------------------------------------------------------------- */

/* Past the page cache, whose pages would be another cgroup's. */
static void write_file(struct place *p, struct model *m)
{
	size_t at;

	p->base = map_memory(m->bytes);
	model_fill(m, p->base);
	p->fd = open(m->o->path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
	if (p->fd < 0)
		die("%s: %s", m->o->path, strerror(errno));
	for (at = 0; at < m->bytes; at += m->layer_bytes)
		if (pwrite(p->fd, p->base + at, m->layer_bytes, (off_t)at) !=
		    (ssize_t)m->layer_bytes)
			die("%s: cannot write", m->o->path);
	fsync(p->fd);
	munmap(p->base, m->bytes);
}

static int open_write(struct place *p, struct model *m)
{
	write_file(p, m);
	return 0;
}

static int open_map(struct place *p, struct model *m)
{
	p->fd = open(m->o->path, O_RDONLY | O_CLOEXEC);
	if (p->fd < 0)
		return -errno;
	p->base = mmap(NULL, m->bytes, PROT_READ, MAP_SHARED, p->fd, 0);
	return p->base == MAP_FAILED ? -errno : 0;
}

static void close_file(struct place *p, struct model *m)
{
	if (p->base)
		munmap(p->base, m->bytes);
	close(p->fd);
}

/* Each layer keeps a part; the rest goes into a buffer of one layer. */
static int open_pread(struct place *p, struct model *m)
{
	uint32_t layer;

	p->kept = m->layer_blocks / m->o->times;
	p->fd = open(m->o->path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (p->fd < 0)
		return -errno;
	p->base = map_memory(m->o->layers * p->kept * m->o->block_bytes);
	p->buffer = map_memory(m->layer_bytes);
	p->table = calloc(m->layer_blocks, sizeof(*p->table));
	if (!p->table)
		return -ENOMEM;
	for (layer = 0; p->kept && layer < m->o->layers; layer++) {
		size_t bytes = p->kept * m->o->block_bytes;

		if (pread(p->fd, p->base + layer * bytes, bytes,
			  (off_t)(layer * m->layer_bytes)) != (ssize_t)bytes)
			return -EIO;
	}
	return 0;
}

static void move_block(struct kvt_seq_block *b, char *to)
{
	b->v = to + ((const char *)b->v - (const char *)b->k);
	b->k = to;
}

static int attend_pread(struct place *p, struct model *m, uint32_t layer,
			const struct kvt_attend_seq *seq)
{
	struct kvt_attend_seq moved = *seq;
	size_t size = m->o->block_bytes;
	uint32_t b;

	memcpy(p->table, seq->blocks, seq->nr_blocks * sizeof(*p->table));
	for (b = 0; b < seq->nr_blocks; b++) {
		char *to = b < p->kept ? p->base + ((size_t)layer * p->kept + b) * size :
					 p->buffer + b * size;

		move_block(&p->table[b], to);
		if (b >= p->kept &&
		    pread(p->fd, to, size, (off_t)(layer * m->layer_bytes + b * size)) !=
			    (ssize_t)size)
			return -EIO;
	}
	moved.blocks = p->table;
	return kvt_attend(m->attend, &m->params, &moved, 1);
}

static void close_pread(struct place *p, struct model *m)
{
	munmap(p->base, m->o->layers * p->kept * m->o->block_bytes);
	munmap(p->buffer, m->layer_bytes);
	free(p->table);
	close(p->fd);
}

static struct place places[] = {
	{ .name = "memory", .open = open_memory, .attend = attend_plain, .close = close_memory },
	{ .name = "stream", .open = open_stream, .filled = seal, .attend = attend_stream,
	  .begin = begin_pool, .report = report_pool, .close = close_pool },
	{ .name = "touch", .open = open_pool, .filled = seal, .attend = attend_plain,
	  .begin = begin_pool, .report = report_pool, .close = close_pool },
	{ .name = "write", .open = open_write, .close = close_file },
	{ .name = "map", .open = open_map, .attend = attend_plain, .close = close_file },
	{ .name = "pread", .open = open_pread, .attend = attend_pread, .close = close_pread },
};

struct place *place_named(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		if (!strcmp(places[i].name, name))
			return &places[i];
	return NULL;
}
