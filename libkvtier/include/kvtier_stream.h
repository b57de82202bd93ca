/* SPDX-License-Identifier: MIT */
/*
 * kvtier_stream.h - attention over a pool that is larger than its memory.
 *
 * kvt_attend() reads what it is pointed at, and waits in page faults for what is not in
 * memory.  A stream knows the blocks of a call beforehand: it attends at once to those that
 * are resident, asks for the others together and attends to each when it arrives, and
 * meanwhile reads ahead what the next calls will want.  The output has the same bits.
 * What is resident stays so, an even share of every call; the rest goes through a window
 * of frames.  Documentation/streaming.rst says how.
 *
 * Errors and kvt_error_detail() are as in kvtier.h.
 */
#ifndef KVTIER_STREAM_H
#define KVTIER_STREAM_H

#include "kvtier.h"
#include "kvtier_attend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvt_stream;

/*
 * struct kvt_stream_config - what attends to what
 * @size:   sizeof(struct kvt_stream_config)
 * @flags:  must be 0
 * @attend: the threads that compute; may serve several streams
 * @pool:   whose blocks are streamed.  Tables may also point elsewhere: that is read as
 *          it is.  Both must outlive the stream
 * @window_bytes: memory of the pool's budget for what is on its way; 0 chooses
 */
struct kvt_stream_config {
	uint32_t size;
	uint32_t flags;
	struct kvt_attend *attend;
	struct kvt_pool *pool;
	uint64_t window_bytes;
};

#define KVT_STREAM_CONFIG_INIT { .size = sizeof(struct kvt_stream_config) }

/*
 * kvt_stream_create() - get ready to stream
 *
 * While a pool has streams its user pager does not guess what will be touched next.
 *
 * Errors: -EINVAL a field is out of range or missing; -ENOMEM; -EPERM io_uring is
 * forbidden here (kernel pager).
 */
int kvt_stream_create(const struct kvt_stream_config *config, struct kvt_stream **stream);
/* No call may be under way.  NULL is allowed. */
void kvt_stream_destroy(struct kvt_stream *stream);

/* A table that a later call will attend to; of its fields only @k to @v_stride are read. */
struct kvt_stream_table {
	const struct kvt_seq_block *blocks;
	uint32_t nr_blocks;
};

/*
 * kvt_stream_attend() - kvt_attend(), streamed
 * @params, @seqs, @nr: as for kvt_attend().  Sealed blocks, and others that nobody writes to
 *           meanwhile, may be read from where they arrive instead of at their address.
 * @next:    what will be attended to next, in that order: the next layer's tables, perhaps
 *           those of several, and after the last layer those of the first.  The heads are
 *           taken to be those of @params.  May be NULL
 * @results: [@nr]: 0, or why a sequence could not be attended to; NULL: not wanted
 *
 * A block that cannot be had fails the call with its error, and touches no sequence's
 * output.  With @results only the sequences that need it fail: the others are computed, and the
 * call's error says that not all were.  Errors: those of kvt_attend(); -EIO, -EILSEQ a
 * block is bad; -ETIMEDOUT it did not come within the pool's deadline; -ECHILD.
 */
int kvt_stream_attend(struct kvt_stream *stream, const struct kvt_attend_params *params,
		      const struct kvt_attend_seq *seqs, uint32_t nr,
		      const struct kvt_stream_table *next, uint32_t nr_next, int *results);

/*
 * struct kvt_stream_stats - what a stream did since it was made
 * @size:     sizeof(struct kvt_stream_stats), set by the caller
 * @calls:    kvt_stream_attend()
 * @resident: blocks that were in memory when they were wanted
 * @streamed: blocks that were read for it, ahead or not
 * @kept:     ... and stayed, since their call had less than its share in memory
 * @bytes:    that @streamed are
 * @wait_ns:  time in which threads had nothing to attend to, as the mean over the threads
 * @busy_ns:  time in calls, beginning to end
 */
struct kvt_stream_stats {
	uint32_t size;
	uint32_t __reserved;
	uint64_t calls;
	uint64_t resident;
	uint64_t streamed;
	uint64_t kept;
	uint64_t bytes;
	uint64_t wait_ns;
	uint64_t busy_ns;
};

int kvt_stream_stats(struct kvt_stream *stream, struct kvt_stream_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
