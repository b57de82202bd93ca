/* SPDX-License-Identifier: MIT */
/*
 * How attention is cut up, and who may do what with the pieces.
 *
 * A call (struct kvt_work) is a ragged batch.  Each block of each table is cut into
 * leaves of at most KVT_LEAF rows, counted from the block's own first row.  A leaf
 * gives every query row a partial result: the largest score m, the sum l of
 * exp(score - m), and the sum o[] of exp(score - m) * value.  A partial depends on the
 * query row and on the leaf's rows alone.  The partials of a sequence are merged in
 * a binary tree over its leaves in the order of the table: neighbours first, then
 * pairs of neighbours.  So nothing depends on who computed which leaf, when, and from
 * which tier.
 *
 * A task is a leaf and some of its key/value heads: the unit of work.  Tasks of a call
 * may be run by any worker in any order, each once a pass, and write only to their own
 * partials.  A worker takes tasks from a source (struct kvt_source), which says
 * what is ready: the plain one counts, one over a pool waits for blocks to arrive.
 *
 * Query rows: a key/value head serves `group` query heads of each query token.  Its
 * rows are numbered token after token, and the heads of a token within it.
 * Partials of many query tokens are large, so a call is cut into passes of q_tile query
 * tokens; each pass goes over all tasks.  Rows never influence each other.
 *
 * Within a task, a tile is KVT_TILE rows of keys and values, for which all query rows of a
 * head are computed while they are in the cache, and the next tile is fetched ahead.
 */
#ifndef KVT_ATTEND_INTERNAL_H
#define KVT_ATTEND_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "isa.h"
#include "kvtier_attend.h"

#define KVT_LEAF 512 /* rows; a multiple of KVT_TILE */

/* Rows [first, first + rows) of a block of a sequence. */
struct kvt_leaf {
	uint32_t seq;
	uint32_t block;
	uint32_t first;
	uint32_t rows;
};

/* Heads [head, head + heads) of a leaf. */
struct kvt_task {
	uint32_t leaf;
	uint16_t head;
	uint16_t heads;
};

/*
 * struct kvt_block_state - what is known of a block of a table beyond the table
 * @mass: its share of the attention, summed over query rows; set by the merge
 */
struct kvt_block_state {
	double mass;
};

/*
 * struct kvt_work - a call under way
 * @params:    with defaults filled in
 * @group:     query heads of a key/value head
 * @q_tile:    query tokens of a pass; @pass: which one it is
 * @leaves:    of all sequences; those of sequence s are [seq_leaf[s], seq_leaf[s + 1])
 * @tasks:     of all leaves; those of a block follow each other, from
 *             block_task[] on (see kvt_work_block()) to the next block's
 * @states:    of all blocks of all sequences, in order
 * @queries:   this pass's query rows, in the form that the ISA wants
 * @bad:       of each query row: it has a NaN or an infinity, and so will its output
 * @outputs:   partials: rows of o[], v_pad floats apart
 * @sums:      partials: m and l of a row
 * @staged:    outputs of all passes, dense, until the call is through
 * @error:     the first failure of a source; the rest of the call is then skipped
 */
struct kvt_work {
	struct kvt_attend_params params;
	const struct kvt_attend_seq *seqs;
	uint32_t nr_seqs;
	const struct kvt_isa *isa;
	uint32_t group;
	uint32_t q_tile;
	uint32_t pass;
	uint32_t passes;
	uint32_t v_pad;
	uint32_t query_bytes;

	struct kvt_leaf *leaves;
	uint32_t nr_leaves;
	uint32_t *seq_leaf;
	struct kvt_task *tasks;
	uint32_t nr_tasks;
	uint32_t *seq_block;
	uint32_t *block_task;
	struct kvt_block_state *states;

	char *queries;
	uint8_t *bad;
	size_t *query_row;
	float *outputs;
	float *sums;
	size_t *partial_row;

	float *staged;
	float *staged_lse;
	size_t *staged_row;
	atomic_int error;
};

#define KVT_TASK_NONE (-1) /* all tasks of this pass were handed out */
#define KVT_TASK_LATER (-2) /* none is ready now */

/*
 * struct kvt_source - where a worker gets its tasks from
 * @start: a pass begins: all tasks are to be handed out, in any order, each once.
 *         Called by the calling thread, while no worker works.  May be NULL.
 * @next:  a task whose rows can be read, to be run by @worker (0, 1, ...).  Waits for
 *         one if @wait; else it is asked ahead of time, to know what to fetch,
 *         and KVT_TASK_LATER is no error.  Below that: a negative errno minus 2
 *         (see kvt_task_error()), and the call fails with it.
 * @done:  @worker is through with a task.  May be NULL.
 *
 * next() and done() are called by several workers at once.
 */
struct kvt_source {
	void (*start)(struct kvt_source *source, const struct kvt_work *work);
	int64_t (*next)(struct kvt_source *source, unsigned int worker, bool wait);
	void (*done)(struct kvt_source *source, uint32_t task, unsigned int worker);
};

static inline int64_t kvt_task_error(int error)
{
	return (int64_t)error - 2;
}

/* The plain source: everything is ready, in the order of the tables. */
struct kvt_source_plain {
	struct kvt_source source;
	uint32_t nr_tasks;
	atomic_uint next;
};

void kvt_source_plain_init(struct kvt_source_plain *plain);

/* Number of a sequence's block among all blocks of the call: index of states[]. */
static inline uint32_t kvt_work_block(const struct kvt_work *w, uint32_t seq, uint32_t block)
{
	return w->seq_block[seq] + block;
}

static inline const struct kvt_seq_block *kvt_leaf_block(const struct kvt_work *w,
							  const struct kvt_leaf *leaf)
{
	return &w->seqs[leaf->seq].blocks[leaf->block];
}

/* Query tokens of a sequence in this pass: may be 0. */
static inline uint32_t kvt_work_tokens(const struct kvt_work *w, uint32_t seq)
{
	uint32_t first = w->pass * w->q_tile, all = w->seqs[seq].q_tokens;

	return all <= first ? 0 : all - first < w->q_tile ? all - first : w->q_tile;
}

/* Query rows of a key/value head of it. */
static inline uint32_t kvt_work_rows(const struct kvt_work *w, uint32_t seq)
{
	return kvt_work_tokens(w, seq) * w->group;
}

/* Number of the first of these rows among all partial rows of a leaf and a head. */
static inline size_t kvt_work_partial(const struct kvt_work *w, uint32_t leaf, uint32_t head)
{
	uint32_t seq = w->leaves[leaf].seq;

	return w->partial_row[seq] +
	       ((size_t)(leaf - w->seq_leaf[seq]) * w->params.kv_heads + head) *
		       kvt_work_rows(w, seq);
}

/*
 * attend_skip.c: attend with epsilon or top_k, in calls of @attend that have neither, but
 * masks.  Nothing of it depends on where blocks are, so neither do the bits.
 */
typedef int (*kvt_attend_fn)(void *ctx, const struct kvt_attend_params *params,
			     const struct kvt_attend_seq *seqs, uint32_t nr);
int kvt_attend_skipping(const struct kvt_attend_params *params, const struct kvt_attend_seq *seqs,
			uint32_t nr, kvt_attend_fn attend, void *ctx);

static inline bool kvt_attend_skips(const struct kvt_attend_params *params)
{
	return params->epsilon > 0 || params->top_k;
}

/* attend_check.c: is all as kvtier_attend.h wants it? */
int kvt_attend_check(const struct kvt_attend_params *params, const struct kvt_attend_seq *seqs,
		     uint32_t nr);

/* Number of the first query row of a head of it among all query rows of this pass. */
static inline size_t kvt_work_query(const struct kvt_work *w, uint32_t seq, uint32_t head)
{
	return w->query_row[seq] + (size_t)head * kvt_work_rows(w, seq);
}

/*
 * attend_work.c: plan a call that was checked.  The plan lies in memory that @attend
 * keeps for the next one, so there is nothing to free.  The caller holds attend->lock.
 */
struct kvt_attend;
int kvt_work_init(struct kvt_work *w, struct kvt_attend *attend,
		  const struct kvt_attend_params *params, const struct kvt_attend_seq *seqs,
		  uint32_t nr);
/* Put the query rows of pass @pass in place. */
void kvt_work_start(struct kvt_work *w, uint32_t pass);
/* Does any query row of the call attend to this block? */
bool kvt_work_wants(const struct kvt_work *w, uint32_t seq, uint32_t block);

/*
 * attend_range.c: rows of a block that a query token attends to: first those in
 * [0, sink), then those in [low, high), with sink <= low unless there are none.
 */
struct kvt_range {
	uint32_t sink;
	uint32_t low;
	uint32_t high;
};

struct kvt_range kvt_range_of(const struct kvt_attend_params *p, const struct kvt_seq_block *b,
			      uint64_t position);

/* attend_task.c: compute a task's partials; fetch ahead what @after (NULL: nothing) needs. */
void kvt_task_run(const struct kvt_work *w, const struct kvt_task *task,
		  const struct kvt_task *after, struct kvt_scratch *scratch);
/* Is the mask's bit of this block set for this head? */
bool kvt_mask_has(const struct kvt_attend_seq *s, uint32_t head, uint32_t block);

/* attend_merge.c: merge the partials of a sequence's head and stage its output. */
void kvt_merge_head(const struct kvt_work *w, uint32_t seq, uint32_t head);
/* Add what this pass's rows gave to each block of a sequence to its state. */
void kvt_merge_mass(const struct kvt_work *w, uint32_t seq);
/* Write all outputs of a sequence. */
void kvt_merge_write(const struct kvt_work *w, uint32_t seq);

/*
 * attend_team.c: threads, pinned.  kvt_team_run() calls @run in each with its number,
 * and returns when all are through.  With one thread it is the caller's.
 */
struct kvt_team;
int kvt_team_create(struct kvt_team **team, uint32_t threads, bool pin);
void kvt_team_destroy(struct kvt_team *team);
uint32_t kvt_team_threads(const struct kvt_team *team);
/* NUMA node that a worker is pinned to; -1: not pinned. */
int kvt_team_node(const struct kvt_team *team, unsigned int worker);
void kvt_team_run(struct kvt_team *team, void (*run)(void *arg, unsigned int worker), void *arg);

/*
 * struct kvt_attend - what kvt_attend_create() makes
 * @scratch: of each worker
 * @lock:    held during a call; guards what is below
 * @memory:  for plans and partials
 */
struct kvt_attend {
	const struct kvt_isa *isa;
	struct kvt_team *team;
	struct kvt_scratch *scratch;
	pid_t owner; /* the process whose threads these are */
	pthread_mutex_t lock;
	void *memory;
	size_t memory_bytes;
};

/* attend.c: give back memory for plans that is more than @bytes; no call is under way. */
void kvt_attend_trim(struct kvt_attend *attend, size_t bytes);
/* ... and run all passes of a planned call; the caller holds attend->lock. */
int kvt_work_run(struct kvt_attend *attend, struct kvt_work *w, struct kvt_source *source);

#endif
