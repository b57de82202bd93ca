// SPDX-License-Identifier: MIT
/*
 * A draft and a target sequence, in two pools, under one DRAM budget.
 *
 * Under pressure the draft shrinks first: it keeps a window of its tokens that fits what
 * the target leaves, and below a least window it sits out (no tokens at all) until there
 * is room again.  It is never killed, and the target never waits for it.  A rollback is
 * done to both or to neither.
 */
#include <errno.h>
#include <stdlib.h>

#include "error.h"
#include "policy.h"

struct kvt_draft {
	struct kvt_seq *target, *draft;
	struct kvt_draft_config config;
	uint32_t window; /* that the draft's policy keeps */
	uint64_t draft_bytes; /* of DRAM that its pool has now */
	enum kvt_draft_state state;
};

static struct kvt_pool *pool_of(const struct kvt_seq *seq)
{
	return seq->cache->pool;
}

static uint64_t least_bytes(const struct kvt_seq *seq)
{
	return kvt_dram_bytes_min(kvt_pool_block_bytes(pool_of(seq)));
}

static uint64_t used_bytes(const struct kvt_seq *seq)
{
	struct kvt_cache_stats stats;

	kvt_cache_stats(seq->cache, &stats);
	return (stats.blocks - stats.free_blocks) * kvt_pool_block_bytes(pool_of(seq));
}

/* Tokens of the draft that fit @bytes, with room for the extents that are cut at both ends. */
static uint64_t tokens_in(const struct kvt_seq *seq, uint64_t bytes)
{
	const struct kvt_cache *c = seq->cache;
	uint64_t extents = bytes / kvt_pool_block_bytes(c->pool) / c->groups;

	return extents > 3 ? (extents - 3) * c->layouts[KVT_HOT].tokens : 0;
}

/* Sinks and lookahead take their part first. */
static uint32_t window_in(const struct kvt_draft *d, uint64_t bytes)
{
	uint64_t tokens = tokens_in(d->draft, bytes);
	uint64_t other = (uint64_t)d->config.sinks + d->config.lookahead;

	return tokens > other ? (uint32_t)(tokens - other) : 0;
}

/* What may the draft have?  All that the target does not need, up to its share. */
static uint64_t share(const struct kvt_draft *d)
{
	uint64_t block = kvt_pool_block_bytes(pool_of(d->draft));
	uint64_t need = used_bytes(d->target) + least_bytes(d->target);
	uint64_t rest = d->config.dram_bytes > need ? d->config.dram_bytes - need : 0;
	uint64_t least = least_bytes(d->draft);

	rest = rest < d->config.draft_bytes ? rest : d->config.draft_bytes;
	rest = rest / block * block;
	return rest > least ? rest : least;
}

static int bound(struct kvt_draft *d, uint32_t window)
{
	struct kvt_policy policy = KVT_POLICY_INIT;

	policy.kind = KVT_WINDOW;
	policy.sinks = d->config.sinks;
	policy.window = window;
	policy.lookahead = d->config.lookahead;
	return kvt_seq_set_policy(d->draft, &policy);
}

static bool dropped(const struct kvt_seq *seq)
{
	return kvt_seq_kept_tokens(seq) < kvt_seq_tokens(seq);
}

/* The draft keeps what fits @bytes. */
static int shed(struct kvt_draft *d, uint64_t bytes)
{
	uint32_t window = window_in(d, bytes);
	bool whole = !dropped(d->draft);
	int ret;

	if (window < d->config.window) {
		d->state = KVT_DRAFT_OUT;
		return kvt_seq_truncate(d->draft, 0);
	}
	/* What was dropped is gone: a longer window could not be rolled back to. */
	if (!whole && window > d->window)
		window = d->window;
	ret = bound(d, window);
	if (ret)
		return ret;
	d->window = window;
	d->state = dropped(d->draft) ? KVT_DRAFT_BOUNDED : KVT_DRAFT_WHOLE;
	return 0;
}

/*
 * The one that shrinks goes first: together they never have more than the budget.  Where the
 * other cannot grow, it gets back what it had.
 */
static int resize_both(struct kvt_pool *shrinks, uint64_t bytes, uint64_t had,
		       struct kvt_pool *grows, uint64_t more)
{
	int ret = kvt_pool_resize(shrinks, bytes);

	if (ret)
		return ret;
	ret = kvt_pool_resize(grows, more);
	if (ret)
		kvt_pool_resize(shrinks, had);
	return ret;
}

static int move_budget(struct kvt_draft *d, uint64_t draft_bytes)
{
	struct kvt_pool *draft = pool_of(d->draft), *target = pool_of(d->target);
	uint64_t all = d->config.dram_bytes;
	int ret = 0;

	if (draft_bytes < d->draft_bytes)
		ret = resize_both(draft, draft_bytes, d->draft_bytes, target, all - draft_bytes);
	else if (draft_bytes > d->draft_bytes)
		ret = resize_both(target, all - draft_bytes, all - d->draft_bytes, draft,
				  draft_bytes);
	if (!ret)
		d->draft_bytes = draft_bytes;
	return ret;
}

int kvt_draft_balance(struct kvt_draft *d)
{
	uint64_t bytes = share(d);
	int ret = shed(d, bytes);

	if (!ret)
		ret = move_budget(d, bytes);
	return ret ? ret : (int)d->state;
}

enum kvt_draft_state kvt_draft_state(const struct kvt_draft *d)
{
	return d->state;
}

/* The draft may be behind; a cut that it cannot make ends in an empty draft, which is in step. */
int kvt_draft_truncate(struct kvt_draft *d, uint64_t tokens)
{
	uint64_t draft = kvt_seq_tokens(d->draft);
	int ret = kvt_seq_truncate(d->target, tokens);

	if (ret || draft <= tokens)
		return ret;
	if (kvt_seq_truncate(d->draft, tokens))
		ret = kvt_seq_truncate(d->draft, 0);
	return ret;
}

static int check_config(const struct kvt_draft_config *c, const struct kvt_seq *target,
			const struct kvt_seq *draft)
{
	if (c->size != sizeof(*c))
		return kvt_fail(-EINVAL,
				"kvt_draft_config.size is %u; this library knows %zu: start "
				"from KVT_DRAFT_CONFIG_INIT",
				c->size, sizeof(*c));
	if (target->cache == draft->cache)
		return kvt_fail(-EINVAL,
				"draft and target are in one cache: they need a pool each");
	if (!c->window)
		return kvt_fail(-EINVAL, "a least window of 0 tokens: a draft needs its last one");
	if (c->draft_bytes < least_bytes(draft) ||
	    c->dram_bytes < c->draft_bytes + least_bytes(target))
		return kvt_fail(-EINVAL, "a budget of %llu KiB with %llu for the draft: the draft "
					 "needs at least %llu KiB, the target %llu",
				(unsigned long long)c->dram_bytes >> 10,
				(unsigned long long)c->draft_bytes >> 10,
				(unsigned long long)least_bytes(draft) >> 10,
				(unsigned long long)least_bytes(target) >> 10);
	return 0;
}

int kvt_draft_create(struct kvt_seq *target, struct kvt_seq *draft,
		     const struct kvt_draft_config *config, struct kvt_draft **out)
{
	struct kvtier_stats before = { .size = sizeof(before) };
	struct kvt_draft *d;
	int ret = check_config(config, target, draft);

	*out = NULL;
	if (!ret)
		ret = kvt_stats(pool_of(draft), &before);
	if (ret)
		return ret;
	d = calloc(1, sizeof(*d));
	if (!d)
		return kvt_fail(-ENOMEM, "no memory for a draft");
	d->target = target;
	d->draft = draft;
	d->config = *config;
	d->draft_bytes = config->draft_bytes;
	ret = resize_both(pool_of(draft), config->draft_bytes,
			  before.tier[KVTIER_TIER_DRAM].budget_bytes, pool_of(target),
			  config->dram_bytes - config->draft_bytes);
	if (ret) {
		free(d);
		return ret;
	}
	*out = d;
	return 0;
}

/* The sequences are the caller's. */
void kvt_draft_destroy(struct kvt_draft *d)
{
	free(d);
}
