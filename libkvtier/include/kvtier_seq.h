/* SPDX-License-Identifier: MIT */
/*
 * kvtier_seq.h - sequences of tokens over a pool.
 *
 * A cache cuts a pool into extents.  An extent holds the keys and values of a run
 * of tokens for all layers of a model.  A sequence is a table of extents, which
 * forks, prefix trees and other sequences may share; whoever writes to a shared or
 * sealed extent gets a copy of its own first.  Any extent may be in any tier.
 *
 * Every function returns 0 (or a count) on success and a negative errno on
 * failure; kvt_error_detail() then says what was wrong and what to do about it.  A
 * call that fails leaves its sequence as it was.  What needs a block in memory also
 * fails with -ETIMEDOUT, where the block does not come within the pool's deadline.
 * Sequences of one cache may be used by several threads at once, each by one thread
 * at a time.
 */
#ifndef KVTIER_SEQ_H
#define KVTIER_SEQ_H

#include <kvtier.h>
#include <kvtier_attend.h>
#include <kvtier_stream.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVT_MODEL_BYTES 32
#define KVT_ALL_LAYERS UINT32_MAX
/* The rest of a sequence, where a number of tokens is asked for. */
#define KVT_TO_END UINT64_MAX

struct kvt_cache;
struct kvt_seq;

/*
 * struct kvt_geometry - what one token leaves in a cache
 * @size:             sizeof(struct kvt_geometry), so that the struct can grow
 * @layers:           of the model
 * @kv_heads:         key/value heads of a layer; 1 for MLA
 * @k_dim:            elements of a head's key (MLA: latent + rope)
 * @v_dim:            elements of a head's value; 0: values are a part of the keys (MLA)
 * @k_type, @v_type:  element types, enum kvt_type of <kvtier_attend.h>
 * @cold_k_type, @cold_v_type: types that kvt_seq_compress() turns old tokens into
 * @k_bytes, @v_bytes: bytes of a token's keys and values in one layer; 0: computed
 *                    from the fields above
 * @block_tokens:     tokens of an extent; 0: as many as fit
 * @layers_per_block: layers that share a block of the pool; 0: 1
 * @cold:             1: compression will be used and @cold_*_type hold
 * @model:            fingerprint of the model, tokenizer and layout.  Nothing is
 *                    shared between caches whose fingerprints differ.
 */
struct kvt_geometry {
	uint32_t size;
	uint32_t layers;
	uint32_t kv_heads;
	uint32_t k_dim;
	uint32_t v_dim;
	uint32_t k_type;
	uint32_t v_type;
	uint32_t cold_k_type;
	uint32_t cold_v_type;
	uint32_t k_bytes;
	uint32_t v_bytes;
	uint32_t block_tokens;
	uint32_t layers_per_block;
	uint32_t cold;
	uint8_t model[KVT_MODEL_BYTES];
};

#define KVT_GEOMETRY_INIT { .size = sizeof(struct kvt_geometry) }

/*
 * kvt_cache_create() - use a pool for sequences of one geometry
 *
 * The pool must be empty, is used by this cache alone and has to outlive it.
 * Errors: -EINVAL a field is out of range, or a block cannot hold one token;
 * -ENOSPC the pool has fewer blocks than one extent needs; -ENOMEM.
 */
int kvt_cache_create(struct kvt_pool *pool, const struct kvt_geometry *geometry,
		     struct kvt_cache **cache);

/* Its sequences and prefix trees must be gone.  NULL is allowed. */
void kvt_cache_destroy(struct kvt_cache *cache);

struct kvt_pool *kvt_cache_pool(const struct kvt_cache *cache);
/* The geometry with all that was computed filled in. */
const struct kvt_geometry *kvt_cache_geometry(const struct kvt_cache *cache);

/*
 * kvt_cache_set_seal_lag() - how far behind its end a sequence seals full extents
 *
 * A truncation (speculative rollback) by no more than @tokens then never meets a
 * sealed extent, which would have to be copied.  0 at first.
 */
void kvt_cache_set_seal_lag(struct kvt_cache *cache, uint32_t tokens);

/*
 * kvt_cache_set_stream() - let kvt_seq_attend() of this cache's sequences stream
 *
 * Blocks on NVMe are then read ahead of the threads that attend, layer after layer,
 * instead of being waited for one by one (kvtier_stream.h).  @stream is over the cache's
 * pool and outlives its use; NULL: do not stream.  Errors: -EINVAL over another pool.
 */
int kvt_cache_set_stream(struct kvt_cache *cache, struct kvt_stream *stream);

/*
 * struct kvt_cache_stats - what a cache holds now
 * @blocks, @free_blocks: of the pool
 * @extents:        in use; each takes @extent_blocks blocks
 * @shared_extents: of them, those that more than one holder refers to
 * @references:     from sequences and prefix trees to extents
 * @sequences:      that exist
 * @copied_extents: copies made for a writer, since the cache was created
 * @dropped_tokens: that policies dropped, since the cache was created
 * @deduplicated_extents: given up for identical ones, since the cache was created
 * @compressed_tokens: brought into the cold types, since the cache was created
 */
struct kvt_cache_stats {
	uint64_t blocks;
	uint64_t free_blocks;
	uint64_t extents;
	uint64_t extent_blocks;
	uint64_t shared_extents;
	uint64_t references;
	uint64_t sequences;
	uint64_t copied_extents;
	uint64_t dropped_tokens;
	uint64_t deduplicated_extents;
	uint64_t compressed_tokens;
};

void kvt_cache_stats(struct kvt_cache *cache, struct kvt_cache_stats *stats);

/* An empty sequence. */
int kvt_seq_create(struct kvt_cache *cache, struct kvt_seq **seq);

/* Drop a sequence; what nobody else refers to is discarded.  NULL is allowed. */
void kvt_seq_destroy(struct kvt_seq *seq);

/*
 * kvt_seq_fork() - a second sequence with the same tokens
 *
 * Copies the table alone: no block is read, whatever its tier.
 */
int kvt_seq_fork(const struct kvt_seq *seq, struct kvt_seq **fork);

/* Tokens that all layers have. */
uint64_t kvt_seq_tokens(const struct kvt_seq *seq);
/* Tokens that one layer has; 0 for a layer that does not exist. */
uint64_t kvt_seq_layer_tokens(const struct kvt_seq *seq, uint32_t layer);
/* Tokens whose keys and values are still there: fewer after a policy dropped some. */
uint64_t kvt_seq_kept_tokens(const struct kvt_seq *seq);
struct kvt_cache *kvt_seq_cache(const struct kvt_seq *seq);

/*
 * kvt_seq_append() - add tokens at the end
 * @layer:  one layer, or KVT_ALL_LAYERS
 * @tokens: how many
 * @k, @v:  rows of k_bytes and v_bytes, token after token; with KVT_ALL_LAYERS
 *          first all rows of layer 0, then all of layer 1, ...
 *
 * The result does not depend on how tokens are grouped into calls.  Errors:
 * -EINVAL no such layer; -ENOSPC the pool has no room; -EIO the last block is lost;
 * -EFBIG more than 2^32 - 1 tokens.
 */
int kvt_seq_append(struct kvt_seq *seq, uint32_t layer, uint32_t tokens, const void *k,
		   const void *v);

/* The same from floats, converted to the cache's types. */
int kvt_seq_append_float(struct kvt_seq *seq, uint32_t layer, uint32_t tokens, const float *k,
		       const float *v);

/*
 * struct kvt_batch_item - what one sequence of a batch appends
 * @seq:    each sequence at most once
 * @tokens: may differ from item to item; 0: nothing
 */
struct kvt_batch_item {
	struct kvt_seq *seq;
	uint32_t tokens;
	const void *k;
	const void *v;
};

/* Append to all sequences of a ragged batch, or to none. */
int kvt_batch_append(struct kvt_batch_item *items, uint32_t nr, uint32_t layer);

/*
 * kvt_seq_truncate() - forget all tokens from @tokens on, exactly
 *
 * Errors: -EINVAL more tokens than there are; -ENODATA what the next token needs
 * (the policy's window before @tokens) was dropped, merged or never all there, or a summary
 * holds tokens from before @tokens and from after it.
 */
int kvt_seq_truncate(struct kvt_seq *seq, uint64_t tokens);

/*
 * kvt_seq_read() - copy rows out
 * @k, @v: room for @tokens rows each; NULL: not wanted
 *
 * Errors: -EINVAL past the end of the layer; -ENODATA a token was dropped, merged
 * or compressed; -EIO a block is lost.
 */
int kvt_seq_read(const struct kvt_seq *seq, uint32_t layer, uint64_t first, uint32_t tokens,
		 void *k, void *v);

/* The same as floats; reads compressed tokens too. */
int kvt_seq_read_float(const struct kvt_seq *seq, uint32_t layer, uint64_t first, uint32_t tokens,
		     float *k, float *v);

/*
 * kvt_seq_place() - a range operation on the extents of a run of tokens
 * @op:    KVTIER_OP_PROMOTE, DEMOTE, WRITEBACK, PIN, UNPIN or COLD
 * @flags: KVTIER_OP_NOWAIT
 * @layer: one layer or KVT_ALL_LAYERS
 *
 * Extents that several sequences share move for all of them.  A pin is the extent's: it
 * stays when a writer gets a copy, and goes with the last sequence that has the extent.
 * Returns 0 or the first failure; the others are done nevertheless.
 */
int kvt_seq_place(const struct kvt_seq *seq, uint32_t op, uint32_t flags, uint32_t layer,
		  uint64_t first, uint64_t tokens);

/*
 * kvt_seq_view() - where a layer's rows are, in the order of positions
 *
 * Returns how many blocks there are, of which the first @nr are filled in.  The
 * pointers hold until the sequence is next changed.
 */
int kvt_seq_view(const struct kvt_seq *seq, uint32_t layer, struct kvt_seq_block *blocks,
		 uint32_t nr);

/*
 * struct kvt_seq_query - what one sequence of a batch asks
 * @seq:         more than one query of a call may be of one sequence
 * @q_tokens:    1 to KVT_QUERY_MAX
 * @q_position:  of the first of them
 * @q:           [q_tokens][q_heads][k_dim]
 * @out:         [q_tokens][q_heads][v_dim]
 * @lse:         [q_tokens][q_heads] log-sum-exp of the scores; NULL: not wanted
 * @cold_blocks: 0, or how many of the blocks that are on NVMe and have a sketch are read:
 *               those that promise most.  An approximation.
 */
struct kvt_seq_query {
	struct kvt_seq *seq;
	uint32_t q_tokens;
	uint32_t cold_blocks;
	uint64_t q_position;
	const float *q;
	float *out;
	float *lse;
};

/*
 * kvt_seq_attend() - attention over sequences, one layer, one call
 *
 * @attend is not used, and may be NULL, where the cache has a stream.  Attended to is all
 * that a sequence keeps: exact rows, compressed ones, merged ones with the weight
 * of the positions that they stand for, and the summary of what was dropped if its policy
 * has one.  The policy is told of where the attention went (kvt_seq_note()).  Exact when
 * the sequence's policy is.  Errors: -EINVAL the parameters do not fit the cache; those of
 * kvt_attend().  Outputs of queries before the failing one may be written then.
 */
int kvt_seq_attend(struct kvt_attend *attend, const struct kvt_attend_params *params,
		   uint32_t layer, const struct kvt_seq_query *queries, uint32_t nr);

/*
 * kvt_seq_sketch() - keep a sketch in DRAM of what keys lie in each sealed extent
 * @rank: directions a head, 1 to 16: k_dim + rank * (k_dim + block_tokens) floats
 *
 * Reads what has no sketch yet; best done before it is demoted.  Sketches follow the
 * extents to forks and prefixes, not into manifests.  Returns how many were made.
 */
int kvt_seq_sketch(struct kvt_seq *seq, uint32_t rank);

/*
 * enum kvt_policy_kind - what a bounded sequence drops, an extent at a time
 * @KVT_KEEP_ALL: nothing; the pager demotes what memory cannot hold.  Exact.
 * @KVT_WINDOW:   all but the first @sinks and the last @window tokens.  Exact for
 *                models that attend to just these.
 * @KVT_FIFO:     the oldest
 * @KVT_LRU:      what was least recently given more attention than its share
 * @KVT_LFU:      what was least often given more attention than its share
 * @KVT_HEAVY:    what was given the least attention in all (heavy hitters stay)
 *
 * The last four approximate: what was dropped is missing from later attention.
 */
enum kvt_policy_kind {
	KVT_KEEP_ALL = 0,
	KVT_WINDOW = 1,
	KVT_FIFO = 2,
	KVT_LRU = 3,
	KVT_LFU = 4,
	KVT_HEAVY = 5,
};

/* kvt_policy.flags */
#define KVT_POLICY_MERGE (1u << 0) /* average neighbours where they would be dropped */
#define KVT_POLICY_SUMMARY (1u << 1) /* add what is dropped to a compressive summary */

/*
 * struct kvt_policy - how many tokens a sequence keeps, and which
 * @size:   sizeof(struct kvt_policy)
 * @kind:   enum kvt_policy_kind
 * @flags:  KVT_POLICY_*
 * @sinks:  first tokens that are never dropped
 * @window: last tokens that are never dropped
 * @budget: tokens that may be kept when an append returns and all layers have the same:
 *          what only some have yet is never dropped.  Not for KVT_WINDOW, which keeps
 *          @sinks and @window rounded out to whole extents.  It must hold both, rounded
 *          out, and one extent more.
 * @lookahead: tokens that a truncation may take back: so many more than @window are
 *          kept
 * @hot:    last tokens that stay in the cache's types; older ones are brought into
 *          its cold types, a few extents at a time (geometry with @cold).  0: never
 */
struct kvt_policy {
	uint32_t size;
	uint32_t kind;
	uint32_t flags;
	uint32_t sinks;
	uint32_t window;
	uint32_t budget;
	uint32_t lookahead;
	uint32_t hot;
};

#define KVT_POLICY_INIT { .size = sizeof(struct kvt_policy) }

/*
 * kvt_seq_set_policy() - bound a sequence from now on
 *
 * Forks inherit it.  A summary goes on where the policy before had one too; without
 * KVT_POLICY_SUMMARY it is forgotten.  Errors: -EINVAL a field is out of range, the budget
 * is below sinks + window, or merging and summaries are asked of a geometry without types.
 */
int kvt_seq_set_policy(struct kvt_seq *seq, const struct kvt_policy *policy);

/*
 * kvt_seq_note() - tell how attention was spread over the blocks of a view
 * @mass: a block's share of it; the shares of a view add up to about 1
 */
void kvt_seq_note(struct kvt_seq *seq, const struct kvt_seq_block *blocks, const float *mass,
		  uint32_t nr);

/*
 * kvt_seq_summary_attend() - attention over the compressive summary of what was dropped
 * @q_heads: a multiple of the geometry's kv_heads
 * @q:       one query token: @q_heads rows of k_dim
 * @out:     @q_heads rows of v_dim
 * @lse:     a lower bound of the log-sum-exp of the dropped tokens' scores, to merge
 *           @out with other partial results; -INFINITY when nothing was dropped, or
 *           nothing of it answers @q
 *
 * Linear attention (kernel elu + 1) over all that was dropped: an approximation.
 */
int kvt_seq_summary_attend(const struct kvt_seq *seq, uint32_t layer, uint32_t q_heads,
			   const float *q, float scale, float *out, float *lse);

struct kvt_draft;

/*
 * struct kvt_draft_config - a draft and a target sequence under one DRAM budget
 * @size:        sizeof(struct kvt_draft_config)
 * @dram_bytes:  of both pools together
 * @draft_bytes: of them, what the draft's pool has as long as the target leaves it
 * @window:      least tokens with which a draft is worth its while: below, it sits out
 * @sinks:       first tokens that a shrunk draft keeps
 * @lookahead:   tokens that one rollback may take back
 */
struct kvt_draft_config {
	uint32_t size;
	uint32_t window;
	uint32_t sinks;
	uint32_t lookahead;
	uint64_t dram_bytes;
	uint64_t draft_bytes;
};

#define KVT_DRAFT_CONFIG_INIT { .size = sizeof(struct kvt_draft_config) }

/*
 * enum kvt_draft_state
 * @KVT_DRAFT_WHOLE:   it keeps all its tokens
 * @KVT_DRAFT_BOUNDED: it keeps sinks and a window
 * @KVT_DRAFT_OUT:     it keeps none: decode without it.  When there is room again, fill
 *                     it anew from the tokens.
 */
enum kvt_draft_state {
	KVT_DRAFT_WHOLE = 0,
	KVT_DRAFT_BOUNDED = 1,
	KVT_DRAFT_OUT = 2,
};

/*
 * kvt_draft_create() - put two sequences, alone in their caches, under one budget
 *
 * Sets the DRAM budgets of both pools; the draft's policy is kvt_draft_balance()'s from then
 * on.  The sequences stay the caller's and have to outlive it.  Errors: -EINVAL a field is
 * out of range, or both are in one cache; -ENOSPC a pool cannot shrink so far, and the
 * budgets are as before.
 */
int kvt_draft_create(struct kvt_seq *target, struct kvt_seq *draft,
		     const struct kvt_draft_config *config, struct kvt_draft **pair);
void kvt_draft_destroy(struct kvt_draft *pair);

/*
 * kvt_draft_balance() - give the target what it needs, and the draft the rest
 *
 * To be called between steps.  Returns the draft's state (enum kvt_draft_state).  Errors:
 * -ENOSPC a pool cannot shrink; budgets are as before then, and their sum is never exceeded.
 */
int kvt_draft_balance(struct kvt_draft *pair);
enum kvt_draft_state kvt_draft_state(const struct kvt_draft *pair);

/*
 * kvt_draft_truncate() - roll both back to @tokens, or neither
 *
 * A draft that has fewer stays; one that cannot go back to there (its window is gone)
 * becomes empty, to be filled anew.  Errors: those of kvt_seq_truncate() of the target.
 */
int kvt_draft_truncate(struct kvt_draft *pair, uint64_t tokens);

/* Flags of kvt_seq_import(). */
#define KVT_IMPORT_AGAIN (1u << 0) /* also a sequence that was in this cache before */

/*
 * kvt_seq_export() - hand a sequence over as a stream
 * @fd:         a pipe, socket or file
 * @timeout_ms: the longest wait without progress; -1: no limit
 *
 * The stream is versioned, and every byte of it is checksummed.  Tokens that only
 * some layers have yet, and policies, are not part of it.  Errors: -ETIMEDOUT; -EIO a
 * block is lost; -ELOOP handed over too often; the error of the descriptor.  The
 * sequence stays as it is; where it is to move, drop it afterwards.
 */
int kvt_seq_export(const struct kvt_seq *seq, int fd, int timeout_ms);

/*
 * kvt_seq_import() - take a sequence from a stream
 *
 * Reads exactly the stream's bytes.  Errors: -EPIPE the stream ends early; -EILSEQ it is
 * damaged; -EPROTONOSUPPORT an unknown version; -EINVAL another geometry or model;
 * -ELOOP the sequence was in this cache before; -ENOSPC no room; -ETIMEDOUT.  On
 * failure there is no sequence, and the cache is as before.
 */
int kvt_seq_import(struct kvt_cache *cache, int fd, uint32_t flags, int timeout_ms,
		   struct kvt_seq **seq);

/*
 * kvt_seq_compress() - bring tokens before @end into the cache's cold types
 *
 * An approximation.  As many whole extents at a time as fill one of the cold types; what
 * others refer to as well stays as it is.  Returns how many tokens; errors: -EINVAL the
 * geometry has no cold types; -ENOSPC no room for the copy; -EIO.  What was done before an
 * error stays done.  struct kvt_policy has @hot to have it done by the way.
 */
int64_t kvt_seq_compress(struct kvt_seq *seq, uint64_t end);

/*
 * kvt_seq_dedup() - share what other sequences of the cache hold already
 *
 * Sealed extents of the sequence whose rows are, byte for byte, those of another that
 * went through this call are given up for it.  Reads both.  Returns how many were given
 * up; on failure those before it were.
 */
int kvt_seq_dedup(struct kvt_seq *seq);

/*
 * kvt_seq_send() - hand a sequence to another process of this machine, by descriptor
 * @socket: a connected UNIX socket
 *
 * Between pools of the module nothing is copied: the receiver gets the pool's descriptor
 * and clones the blocks, which both then have until one of them writes.  Such a sequence is
 * sealed first, and its receiver may clone anything of the pool: hand it to who may.
 * Otherwise the sequence goes through memory that both have for a moment.  Returns when the
 * receiver has it; it stays here too.  Errors: those of kvt_seq_export(); -EPROTO the
 * other end is not kvt_seq_receive(); -EREMOTEIO it could not take the sequence.
 */
int kvt_seq_send(const struct kvt_seq *seq, int socket, int timeout_ms);

/* The other end; flags and errors are those of kvt_seq_import(). */
int kvt_seq_receive(struct kvt_cache *cache, int socket, uint32_t flags, int timeout_ms,
		    struct kvt_seq **seq);

struct kvt_prefix;

#define KVT_TENANT_MAX 64

/*
 * struct kvt_prefix_config - a tree of prefixes that sequences can begin with
 * @size:        sizeof(struct kvt_prefix_config)
 * @max_extents: that the tree may refer to; 0: as many as the pool holds.  Beyond it,
 *               and when kvt_prefix_evict() asks, those go first whose reuse is worth
 *               least: seldom hit, long ago, cheap to compute again.
 */
struct kvt_prefix_config {
	uint32_t size;
	uint32_t max_extents;
};

#define KVT_PREFIX_CONFIG_INIT { .size = sizeof(struct kvt_prefix_config) }

/*
 * kvt_prefix_create() - an empty tree over a cache
 *
 * All calls on a tree may come from any thread.  Tokens themselves are compared, not hashes
 * of them.  The cache's model fingerprint and the tenant's name are part of every key, so
 * that nobody is served another's keys and values.
 */
int kvt_prefix_create(struct kvt_cache *cache, const struct kvt_prefix_config *config,
		      struct kvt_prefix **prefix);
/* Sequences that began in it live on.  NULL is allowed. */
void kvt_prefix_destroy(struct kvt_prefix *prefix);

/*
 * kvt_prefix_insert() - offer the extents of a sequence to later ones
 * @tenant: up to KVT_TENANT_MAX bytes of name; NULL is the same as ""
 * @tokens: what the sequence's first @nr tokens are
 *
 * Full extents only; they are shared, not copied.  Returns how many extents were new
 * to the tree.  Errors: -EINVAL more tokens than the sequence has; -ENODATA its first
 * tokens were dropped or merged.
 */
int kvt_prefix_insert(struct kvt_prefix *prefix, const char *tenant, const uint32_t *tokens,
		      uint32_t nr, const struct kvt_seq *seq);

/*
 * kvt_prefix_match() - a new sequence that begins with the longest known prefix
 *
 * Returns how many of @tokens it has, down to 0: the match may end inside an extent.
 * Nothing is read or copied.
 */
int64_t kvt_prefix_match(struct kvt_prefix *prefix, const char *tenant, const uint32_t *tokens,
			 uint32_t nr, struct kvt_seq **seq);

/* Let up to @extents go, the least valuable first; returns how many went. */
uint32_t kvt_prefix_evict(struct kvt_prefix *prefix, uint32_t extents);

/*
 * struct kvt_prefix_stats
 * @extents:     the tree refers to now
 * @lookups, @hits, @partial_hits: calls of kvt_prefix_match(); those that found all,
 *               and some, of their tokens
 * @tokens_asked, @tokens_found: in all of them
 * @evicted:     extents that the tree let go
 */
struct kvt_prefix_stats {
	uint64_t extents;
	uint64_t lookups;
	uint64_t hits;
	uint64_t partial_hits;
	uint64_t tokens_asked;
	uint64_t tokens_found;
	uint64_t evicted;
};

void kvt_prefix_stats(struct kvt_prefix *prefix, struct kvt_prefix_stats *stats);

struct kvt_manifest;

/* A sequence and the name under which a manifest keeps it (up to 255 bytes). */
struct kvt_named_seq {
	const char *name;
	struct kvt_seq *seq;
};

/*
 * kvt_manifest_save() - make sequences and a tree durable
 * @path:   of the manifest; replaced as a whole, or not at all
 * @prefix: NULL: none
 *
 * The pool has to be made with KVT_KEEP_FILE.  All extents are sealed and written
 * back; the manifest says where they lie.  Sequences may go on afterwards.  Slots
 * that a manifest names are not reused while the pool lives.  Errors: -EINVAL the
 * pool's store is not kept, or a name is too long or there twice; -EIO a block is
 * lost; -ENOSPC; -EFBIG the manifest has more than 4 GiB; the errors of writing a file.
 */
int kvt_manifest_save(struct kvt_cache *cache, const char *path, const struct kvt_named_seq *seqs,
		      uint32_t nr, struct kvt_prefix *prefix);

/*
 * kvt_manifest_open() - read and verify a manifest
 *
 * Errors: -EILSEQ it is damaged or not a manifest; -EPROTONOSUPPORT an unknown
 * version; the errors of reading a file.
 */
int kvt_manifest_open(const char *path, struct kvt_manifest **manifest);
void kvt_manifest_close(struct kvt_manifest *manifest);
uint32_t kvt_manifest_count(const struct kvt_manifest *manifest);
/* NULL past the last one. */
const char *kvt_manifest_name(const struct kvt_manifest *manifest, uint32_t number);

/*
 * kvt_manifest_restore() - take everything a manifest names into a fresh cache
 * @seqs:   room for kvt_manifest_count() sequences
 * @prefix: an empty tree of this cache, for the tree that was saved; NULL: leave it out
 *
 * To be called before anything is written to the pool, whose file must be the one
 * that was saved.  Reads no block: each is verified when it is first used.  All or
 * nothing.  Errors: -EINVAL another geometry, model or block size, or the slots are
 * not in the pool's file; -EILSEQ what it says makes no sense; -ENOSPC the pool is too small.
 */
int kvt_manifest_restore(const struct kvt_manifest *manifest, struct kvt_cache *cache,
			 struct kvt_prefix *prefix, struct kvt_seq **seqs);

#ifdef __cplusplus
}
#endif
#endif
