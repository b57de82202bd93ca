// SPDX-License-Identifier: MIT
/*
 * Plain O_DIRECT reads: a file that is read into memory of its size, through a ring.  Its
 * memory is of huge pages, since reads of few pages cost less; and each part has its own,
 * as what is read for somebody has: a disk of a virtual machine reads half as fast again
 * into a few buffers that never leave the CPU's cache.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "share.h"

#define HUGE_BYTES (2u << 20)
#define DEPTH_MAX 32
#define CHUNK (32u << 20) /* written at once; a multiple of all blocks */

struct way {
	size_t block;
	uint32_t depth;
};

struct reader {
	struct io_uring ring;
	int fd;
	size_t bytes; /* of the file */
	size_t at;
	char *memory;
	struct way way; /* the fastest */
};

static const struct way ways[] = {
	{ 256 << 10, 16 }, { 256 << 10, 32 }, { 1 << 20, 8 }, { 1 << 20, 16 }, { 2 << 20, 8 },
};
#define NR_WAYS (sizeof(ways) / sizeof(ways[0]))

static void write_all(struct reader *r, const char *path)
{
	uint64_t *words = (uint64_t *)r->memory, x = 1;
	size_t at, i;

	for (at = 0; at < r->bytes; at += CHUNK) {
		for (i = 0; i < CHUNK / sizeof(*words); i++)
			words[i] = x = x * 6364136223846793005ull + 1442695040888963407ull;
		if (pwrite(r->fd, r->memory, CHUNK, (off_t)at) != CHUNK)
			die("%s: cannot write: %s", path, strerror(errno));
	}
	if (fdatasync(r->fd))
		die("%s: %s", path, strerror(errno));
}

struct reader *reader_open(const char *path, size_t bytes)
{
	struct reader *r = calloc(1, sizeof(*r));

	if (!r)
		die("no memory");
	r->bytes = (bytes + CHUNK - 1) / CHUNK * CHUNK;
	if (posix_memalign((void **)&r->memory, HUGE_BYTES, r->bytes))
		die("no memory");
	madvise(r->memory, r->bytes, MADV_HUGEPAGE);
	memset(r->memory, 1, r->bytes);
	r->way = ways[0];
	r->fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
	if (r->fd < 0)
		die("%s: %s", path, strerror(errno));
	write_all(r, path);
	if (io_uring_queue_init(DEPTH_MAX, &r->ring, 0))
		die("cannot set up io_uring");
	return r;
}

static void submit(struct reader *r, const struct way *way)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	if (r->at + way->block > r->bytes)
		r->at = 0;
	io_uring_prep_read(sqe, r->fd, r->memory + r->at, (unsigned int)way->block, r->at);
	r->at += way->block;
}

/* Read @bytes, or until the clock says @until (0: it says nothing); bytes read. */
static size_t read_some(struct reader *r, const struct way *way, size_t bytes, double until)
{
	size_t begun = 0, done = 0;
	struct io_uring_cqe *cqe;
	uint32_t i;

	for (i = 0; i < way->depth && begun < bytes; i++, begun += way->block)
		submit(r, way);
	while (done < begun) {
		io_uring_submit(&r->ring);
		if (io_uring_wait_cqe(&r->ring, &cqe))
			die("io_uring failed");
		if (cqe->res != (int)way->block)
			die("a plain read failed: %s", strerror(cqe->res < 0 ? -cqe->res : EIO));
		io_uring_cqe_seen(&r->ring, cqe);
		done += way->block;
		if (begun < bytes && (until <= 0 || now() < until)) {
			submit(r, way);
			begun += way->block;
		}
	}
	return done;
}

double reader_read(struct reader *r, size_t bytes)
{
	double start = now();

	read_some(r, &r->way, bytes, 0);
	return now() - start;
}

static double rate(struct reader *r, const struct way *way, double seconds)
{
	double start = now();
	size_t bytes = read_some(r, way, SIZE_MAX, start + seconds);

	return (double)bytes / (now() - start);
}

double reader_rate(struct reader *r, double seconds)
{
	return rate(r, &r->way, seconds);
}

void reader_choose(struct reader *r)
{
	double best = 0, reached;
	size_t i;

	for (i = 0; i < 2 * NR_WAYS; i++) {
		reached = rate(r, &ways[i % NR_WAYS], 0.25);
		if (reached > best)
			r->way = ways[i % NR_WAYS];
		best = reached > best ? reached : best;
	}
}

void reader_close(struct reader *r)
{
	io_uring_queue_exit(&r->ring);
	close(r->fd);
	free(r->memory);
	free(r);
}
