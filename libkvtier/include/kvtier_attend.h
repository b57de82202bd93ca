/* SPDX-License-Identifier: MIT */
/*
 * kvtier_attend.h - attention over tables of blocks, and the element types of caches.
 *
 * A sequence is a table of blocks: runs of tokens whose keys and values lie together,
 * in a pool (kvtier_seq.h makes such tables) or in any other memory.  Attention over
 * it is computed piece by piece and merged in a fixed tree, so that the output has the
 * same bits for any number of threads, any order of arrival and any tier that the
 * bytes come from.  Documentation/attention.rst has the theory, the error bounds and
 * what happens to NaN, infinities and denormals.
 *
 * Every function returns 0 (or what it says) on success and a negative errno on
 * failure; kvt_error_detail() then says what was wrong and what to do about it.
 */
#ifndef KVTIER_ATTEND_H
#define KVTIER_ATTEND_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * enum kvt_type - how the elements of a key or value are stored
 *
 * A token's row holds its heads one after the other, each kvt_row_bytes() long:
 *
 * @KVT_F32:   IEEE single
 * @KVT_F16:   IEEE half
 * @KVT_BF16:  the upper half of a single
 * @KVT_E4M3:  8-bit float, OCP E4M3: no infinities, largest 448
 * @KVT_E5M2:  8-bit float, OCP E5M2: the upper half of an IEEE half
 * @KVT_INT8:  a float scale, then dim signed bytes: element = scale * byte
 * @KVT_INT4:  for every 32 elements (the last group may be shorter) a half scale and
 *             4-bit numbers n, the group's first half in the low nibbles and its second
 *             half in the high ones: element = scale * (n - 8)
 * @KVT_Q8_0:  ggml's: for every 32 elements a half scale and 32 signed bytes
 * @KVT_Q4_0:  ggml's: as KVT_INT4, of whole groups; made with another scale
 *
 * All numbers are little-endian.  A scale that is not finite makes its elements NaN.
 */
enum kvt_type {
	KVT_F32 = 0,
	KVT_F16 = 1,
	KVT_BF16 = 2,
	KVT_E4M3 = 3,
	KVT_E5M2 = 4,
	KVT_INT8 = 5,
	KVT_INT4 = 6,
	KVT_Q8_0 = 7,
	KVT_Q4_0 = 8,
};

#define KVT_TYPES 9

/* Limits of one call. */
#define KVT_DIM_MAX 576 /* elements of a head; also a multiple of 8 */
#define KVT_HEADS_MAX 1024
#define KVT_QUERY_MAX 512 /* query tokens of a sequence */

/*
 * kvt_row_bytes() - bytes of one head's row of @dim elements
 *
 * 0: no such type, or @dim does not fit it: all types want a multiple of 8 up to
 * KVT_DIM_MAX, KVT_Q8_0 and KVT_Q4_0 one of 32.
 */
size_t kvt_row_bytes(uint32_t type, uint32_t dim);

/* "f32", "f16", "bf16", "e4m3", "e5m2", "int8", "int4", "q8_0", "q4_0"; NULL: no such type. */
const char *kvt_type_name(uint32_t type);
/* The type of that name; -EINVAL: none. */
int kvt_type_named(const char *name);

/*
 * kvt_quantize() - store floats as rows of a type
 * @tokens, @heads, @dim: @in is [tokens][heads][dim], dense
 * @rows:   first token's row
 * @stride: bytes from a token's row to the next; 0: dense
 *
 * Rounds to the nearest.  What is too large for a float type becomes infinity, and the
 * largest number for KVT_E4M3; NaN stays NaN.  A group of a scaled type that has a NaN
 * or an infinity is NaN as a whole.  Errors: -EINVAL.
 *
 * kvt_dequantize() is the other direction; it is exact.
 */
int kvt_quantize(uint32_t type, uint32_t dim, uint32_t heads, uint32_t tokens, const float *in,
		 void *rows, size_t stride);
int kvt_dequantize(uint32_t type, uint32_t dim, uint32_t heads, uint32_t tokens, const void *rows,
		   size_t stride, float *out);

/* kvt_requantize.flags */
#define KVT_LOSSY (1u << 0) /* numbers may change */

/*
 * struct kvt_requantize - rows of one type turned into another
 * @size:      sizeof(struct kvt_requantize)
 * @flags:     KVT_LOSSY
 * @from, @to: types
 * @dim, @heads, @tokens: of the rows
 * @src, @src_stride: rows of type @from; stride 0: dense
 * @dst, @dst_stride: rows of type @to.  May be @src when the new rows are no longer
 *             than the old ones and their stride no larger; may not overlap otherwise.
 * @max_error, @rms_error: set to the largest and the root mean square difference of an
 *             element, over the elements that are finite before
 */
struct kvt_requantize {
	uint32_t size;
	uint32_t flags;
	uint32_t from;
	uint32_t to;
	uint32_t dim;
	uint32_t heads;
	uint32_t tokens;
	const void *src;
	size_t src_stride;
	void *dst;
	size_t dst_stride;
	float max_error;
	float rms_error;
};

#define KVT_REQUANTIZE_INIT { .size = sizeof(struct kvt_requantize) }

/*
 * kvt_requantize() - for instance a cold block, in place
 *
 * Errors: -EINVAL; -EDOM a number would change and KVT_LOSSY was not given: nothing
 * was written, but the errors are set.
 */
int kvt_requantize(struct kvt_requantize *r);

/*
 * struct kvt_seq_block - a run of tokens that lies together: an entry of a table
 * @k, @v:     first row; token rows are k_stride and v_stride bytes apart.  @v NULL:
 *             a value is the first v_dim elements of its key (MLA)
 * @position:  of the first token in the sequence
 * @tokens:    rows
 * @span:      positions that the rows stand for: more than @tokens after a merge; row i
 *             is at @position + i * @span / @tokens.  0: as many as @tokens
 * @offset:    of the block in the pool, for range operations and kvt_query()
 * @k_type, @v_type: enum kvt_type
 */
struct kvt_seq_block {
	const void *k;
	const void *v;
	uint64_t position;
	uint32_t tokens;
	uint32_t span;
	uint64_t offset;
	uint32_t k_type;
	uint32_t v_type;
	uint32_t k_stride;
	uint32_t v_stride;
};

struct kvt_attend;

/* kvt_attend_config.flags */
#define KVT_ATTEND_NO_PIN (1u << 0) /* let the scheduler move the threads */

/*
 * struct kvt_attend_config - the threads that compute
 * @size:    sizeof(struct kvt_attend_config)
 * @flags:   KVT_ATTEND_NO_PIN
 * @threads: 0: one for each CPU that this thread may use.  1: the calling thread.
 *           Others are made by kvt_attend_create(), each pinned to one of these CPUs,
 *           node by node; the calling thread sleeps while they work.
 * @isa:     "c", "avx2", "avx512", "avx512vnni"; NULL: KVTIER_ISA, or the best there is
 */
struct kvt_attend_config {
	uint32_t size;
	uint32_t flags;
	uint32_t threads;
	const char *isa;
};

#define KVT_ATTEND_CONFIG_INIT { .size = sizeof(struct kvt_attend_config) }

/*
 * kvt_attend_create() - get ready to compute
 * @config: NULL: all defaults
 *
 * Errors: -EINVAL a field is out of range, or no instruction set has that name;
 * -EOPNOTSUPP this CPU lacks it; -EAGAIN or -ENOMEM no more threads.
 */
int kvt_attend_create(const struct kvt_attend_config *config, struct kvt_attend **attend);
/* No call may be under way.  NULL is allowed. */
void kvt_attend_destroy(struct kvt_attend *attend);
/* The instruction set in use. */
const char *kvt_attend_isa(const struct kvt_attend *attend);
uint32_t kvt_attend_threads(const struct kvt_attend *attend);

/* kvt_attend_params.flags */
#define KVT_CAUSAL (1u << 0) /* a query token attends to no later position than its own */
#define KVT_OUT_BF16 (1u << 1) /* output bf16 instead of f32 */

/*
 * struct kvt_attend_params - one layer's attention
 * @size:      sizeof(struct kvt_attend_params)
 * @flags:     KVT_CAUSAL, KVT_OUT_BF16
 * @q_heads:   query heads, a multiple of @kv_heads: MHA when equal, MQA when @kv_heads
 *             is 1.  Query head h uses key/value head h / (q_heads / kv_heads).
 * @k_dim:     elements of a query and of a key: a multiple of 8
 * @v_dim:     elements of a value and of an output; MLA: at most @k_dim
 * @scale:     of the scores; 0: 1 / sqrt(k_dim)
 * @softcap:   scores become softcap * tanh(score / softcap); 0: they stay
 * @window:    a query token attends to the last @window positions up to its own alone,
 *             and to the first @sinks of the sequence; 0: to all.  Wants KVT_CAUSAL.
 * @sink_logits: [q_heads]: a score that takes part in the softmax but has no value;
 *             NULL: none
 * @epsilon:   0, or how much of the attention of a query token and head may be left out,
 *             [0, 1): blocks whose bounds prove that together they have no more are not
 *             read.  An output is off by at most epsilon times the largest distance of
 *             two values
 * @top_k:     0, or how many blocks a key/value head attends to: those whose bounds
 *             promise most, beside blocks without bounds.  Not with @epsilon
 */
struct kvt_attend_params {
	uint32_t size;
	uint32_t flags;
	uint32_t q_heads;
	uint32_t kv_heads;
	uint32_t k_dim;
	uint32_t v_dim;
	float scale;
	float softcap;
	uint32_t window;
	uint32_t sinks;
	const float *sink_logits;
	float epsilon;
	uint32_t top_k;
};

#define KVT_ATTEND_PARAMS_INIT { .size = sizeof(struct kvt_attend_params) }

/*
 * struct kvt_skipped - what was left out of a sequence's attention
 * @share:  provably no query token and head has lost more of its attention than this
 * @blocks: that no head has read
 * @pairs:  of a block and a key/value head; those of @blocks are among them
 * @bytes:  of keys and values that were not read
 */
struct kvt_skipped {
	double share;
	uint32_t blocks;
	uint32_t pairs;
	uint64_t bytes;
};

/*
 * kvt_key_bounds() - the smallest and the largest of each element of a block's keys
 * @bounds: set to [kv_heads][2][k_dim]: the smallest, then the largest
 *
 * Cheap to keep in memory while the block itself is elsewhere: 2 rows instead of all.  To be
 * made anew whenever rows are added or changed.  A block with a NaN has infinite bounds.
 * Errors: -EINVAL; -ENOMEM.
 */
int kvt_key_bounds(uint32_t kv_heads, uint32_t k_dim, const struct kvt_seq_block *block,
		   float *bounds);

/*
 * struct kvt_attend_seq - one sequence of a batch
 * @size:       sizeof(struct kvt_attend_seq)
 * @q_tokens:   1 to KVT_QUERY_MAX
 * @q_position: position of the first of them; the others follow
 * @q:          [q_tokens][q_heads][k_dim] floats
 * @out:        [q_tokens][q_heads][v_dim] floats, or bf16
 * @lse:        [q_tokens][q_heads] log-sum-exp of the scores; NULL: not wanted
 * @q_stride, @out_stride: bytes from a token to the next; 0: dense
 * @blocks:     the table, @nr_blocks long, in any order of positions
 * @mask:       bit i % 8 of byte i / 8: attend to block i; NULL: to all
 * @mask_stride: bytes from a key/value head's mask to the next; 0: one for all heads
 * @mass:       [nr_blocks], set to each block's share of the attention, the mean over
 *              query tokens and heads; NULL: not wanted
 * @bounds:     [nr_blocks], for epsilon and top_k: what kvt_key_bounds() made of each block,
 *              NULL for one that is to be read.  NULL: no block has bounds
 * @skipped:    set to what epsilon or top_k left out; NULL: not wanted
 *
 * Where nothing is attended to, the output is 0 and the log-sum-exp -infinity (or the
 * sink logit).
 */
struct kvt_attend_seq {
	uint32_t size;
	uint32_t q_tokens;
	uint64_t q_position;
	const float *q;
	void *out;
	float *lse;
	size_t q_stride;
	size_t out_stride;
	const struct kvt_seq_block *blocks;
	uint32_t nr_blocks;
	uint32_t mask_stride;
	const uint8_t *mask;
	float *mass;
	const float *const *bounds;
	struct kvt_skipped *skipped;
};

#define KVT_ATTEND_SEQ_INIT { .size = sizeof(struct kvt_attend_seq) }

/*
 * kvt_attend() - attention of a ragged batch of sequences
 *
 * Returns when all is computed.  Several threads may call at once; their calls are
 * served one after the other.  Outputs are written only once everything was checked
 * and computed: on failure they are as before.
 *
 * The blocks are read where they are: a block of a pool that went bad is SIGBUS, as it is
 * for any load.  kvt_stream_attend() of <kvtier_stream.h> and kvt_seq_attend() say -EIO.
 *
 * Errors: -EINVAL, with the field in kvt_error_detail(); -ENOMEM.
 */
int kvt_attend(struct kvt_attend *attend, const struct kvt_attend_params *params,
	       const struct kvt_attend_seq *seqs, uint32_t nr);

/*
 * struct kvt_attend_part - a part of a sequence, attended to somewhere
 * @out: [rows][v_dim] floats, as kvt_attend() made them
 * @lse: [rows]
 */
struct kvt_attend_part {
	const float *out;
	const float *lse;
};

/*
 * kvt_attend_merge() - the whole from parts that were computed apart
 * @parts:   each covers other tokens; a sink logit may be in one of them only
 * @rows:    query tokens times heads
 * @out, @lse: as of the whole; @lse may be NULL.  May be a part's own.
 *
 * The order of the parts decides the last bits, nothing else does.  Errors: -EINVAL;
 * -ENOMEM.
 */
int kvt_attend_merge(const struct kvt_attend_part *parts, uint32_t nr, uint32_t rows,
		     uint32_t v_dim, float *out, float *lse);

#ifdef __cplusplus
}
#endif
#endif
