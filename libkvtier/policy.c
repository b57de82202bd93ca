// SPDX-License-Identifier: MIT
/* Which pieces of a bounded sequence may go, and which goes next. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "policy.h"

#define MASS_DECAY 0.98f /* of attention noted a step ago: about the last 50 steps count */

static uint64_t round_out(const struct kvt_cache *c, uint64_t tokens)
{
	uint32_t extent = c->layouts[KVT_HOT].tokens;

	return (tokens + extent - 1) / extent * extent;
}

static int check_budget(const struct kvt_cache *c, const struct kvt_policy *p)
{
	uint64_t recent = (uint64_t)p->window + p->lookahead;
	uint64_t least = round_out(c, p->sinks) + round_out(c, recent) + c->layouts[KVT_HOT].tokens;

	if (p->kind == KVT_KEEP_ALL)
		return 0;
	if (!p->window)
		return kvt_fail(-EINVAL,
				"a window of 0 tokens: at least the last one must be kept");
	if (p->kind == KVT_WINDOW && !p->budget)
		return 0;
	if (p->budget < p->sinks + recent)
		return kvt_fail(-EINVAL,
				"a budget of %u tokens is below %u sinks + %llu window and "
				"lookahead",
				p->budget, p->sinks, (unsigned long long)recent);
	if (p->budget < least)
		return kvt_fail(-EINVAL, "a budget of %u tokens is too small: in extents of %u, %u "
					 "sinks and a window of %llu need %llu", p->budget,
				c->layouts[KVT_HOT].tokens, p->sinks, (unsigned long long)recent,
				(unsigned long long)least);
	return 0;
}

static int check_policy(const struct kvt_cache *c, const struct kvt_policy *p)
{
	const struct kvt_geometry *g = &c->geometry;

	if (p->size != sizeof(*p))
		return kvt_fail(-EINVAL,
				"kvt_policy.size is %u; this library knows %zu: start from "
				"KVT_POLICY_INIT",
				p->size, sizeof(*p));
	if (p->kind > KVT_HEAVY)
		return kvt_fail(-EINVAL, "there is no policy %u", p->kind);
	if (p->flags & ~(KVT_POLICY_MERGE | KVT_POLICY_SUMMARY))
		return kvt_fail(-EINVAL, "unknown flags %#x in kvt_policy", p->flags);
	if ((p->flags & KVT_POLICY_MERGE) && p->kind == KVT_WINDOW)
		return kvt_fail(-EINVAL, "a window keeps nothing but itself: merge under another "
					 "policy, or summarise");
	if (p->hot && !g->cold)
		return kvt_fail(-EINVAL,
				"%u hot tokens, but the geometry has no cold types to bring "
				"older ones into",
				p->hot);
	if (p->flags && (!g->v_dim || kvt_geometry_typed(g)))
		return kvt_fail(-EINVAL, "merging and summaries need to know the keys and values: "
					 "give the geometry kv_heads, k_dim, v_dim and types");
	return check_budget(c, p);
}

/* What was dropped so far is taken over. */
static int take_summary(struct kvt_seq *seq, struct kvt_policy_state *state)
{
	if (!(state->policy.flags & KVT_POLICY_SUMMARY))
		return 0;
	if (!seq->policy || !seq->policy->summary)
		return kvt_summary_new(&seq->cache->geometry, &state->summary);
	state->summary = seq->policy->summary;
	seq->policy->summary = NULL;
	return 0;
}

int kvt_seq_set_policy(struct kvt_seq *seq, const struct kvt_policy *policy)
{
	struct kvt_policy_state *state;
	int ret = check_policy(seq->cache, policy);

	if (ret)
		return ret;
	state = calloc(1, sizeof(*state));
	if (!state)
		return kvt_fail(-ENOMEM, "no memory for a policy");
	state->policy = *policy;
	ret = take_summary(seq, state);
	if (ret) {
		free(state);
		return ret;
	}
	kvt_policy_free(seq);
	seq->policy = state;
	kvt_policy_enforce(seq);
	return 0;
}

void kvt_policy_free(struct kvt_seq *seq)
{
	if (!seq->policy)
		return;
	kvt_summary_free(seq->policy->summary);
	free(seq->policy);
	seq->policy = NULL;
}

int kvt_policy_fork(const struct kvt_seq *from, struct kvt_seq *to)
{
	int ret;

	if (!from->policy)
		return 0;
	to->policy = calloc(1, sizeof(*to->policy));
	if (!to->policy)
		return kvt_fail(-ENOMEM, "no memory for a policy");
	to->policy->policy = from->policy->policy;
	if (!from->policy->summary)
		return 0;
	ret = kvt_summary_copy(&from->cache->geometry, from->policy->summary,
			       &to->policy->summary);
	return ret;
}

/* Tokens before the end that the next one needs. */
uint32_t kvt_policy_window(const struct kvt_seq *seq)
{
	return seq->policy ? seq->policy->policy.window : 0;
}

bool kvt_policy_summarised(const struct kvt_seq *seq)
{
	return seq->policy && seq->policy->summary && seq->policy->summary->tokens;
}

void kvt_policy_forget(struct kvt_seq *seq)
{
	if (seq->policy && seq->policy->summary)
		kvt_summary_clear(&seq->cache->geometry, seq->policy->summary);
}

/* All layers have it whole, and it is neither a sink nor in the window. */
bool kvt_piece_droppable(const struct kvt_seq *seq, const struct kvt_piece *p, uint64_t tokens)
{
	const struct kvt_policy *policy = &seq->policy->policy;
	uint64_t end = (uint64_t)p->position + p->span;

	return p->position >= policy->sinks &&
	       end + policy->window + policy->lookahead <= tokens;
}

void kvt_piece_remove(struct kvt_seq *seq, struct kvt_piece *p)
{
	uint32_t i = (uint32_t)(p - seq->pieces);

	kvt_extent_put(seq->cache, p->extent);
	memmove(p, p + 1, (seq->nr_pieces - i - 1) * sizeof(*p));
	seq->nr_pieces--;
	if (i < seq->nr_sealed)
		seq->nr_sealed--;
}

double kvt_piece_worth(const struct kvt_seq *seq, const struct kvt_piece *p)
{
	switch (seq->policy->policy.kind) {
	case KVT_LRU:
		return (double)p->used;
	case KVT_LFU:
		return p->uses;
	case KVT_HEAVY:
		return (double)p->mass / p->rows;
	default:
		return p->position;
	}
}

static struct kvt_piece *victim(const struct kvt_seq *seq)
{
	struct kvt_piece *p, *worst = NULL;
	uint64_t tokens = kvt_seq_tokens(seq);

	for (p = seq->pieces; p < seq->pieces + seq->nr_pieces; p++)
		if (kvt_piece_droppable(seq, p, tokens) &&
		    (!worst || kvt_piece_worth(seq, p) < kvt_piece_worth(seq, worst)))
			worst = p;
	return worst;
}

/* Rows that some layer has. */
static uint64_t kept(const struct kvt_seq *seq)
{
	const struct kvt_piece *p;
	uint32_t layer, longest = 0;
	uint64_t sum = 0;

	for (layer = 1; layer < seq->cache->geometry.layers; layer++)
		if (seq->length[layer] > seq->length[longest])
			longest = layer;
	for (p = seq->pieces; p < seq->pieces + seq->nr_pieces; p++)
		sum += kvt_piece_rows(seq, p, longest);
	return sum;
}

static bool too_many(const struct kvt_seq *seq)
{
	const struct kvt_policy *policy = &seq->policy->policy;

	if (policy->kind == KVT_KEEP_ALL)
		return false;
	if (policy->kind == KVT_WINDOW)
		return true; /* all that may go, goes */
	return kept(seq) > policy->budget;
}

static void drop(struct kvt_seq *seq, struct kvt_piece *p)
{
	/* A lost block cannot be summarised; it is dropped all the same. */
	if (seq->policy->summary)
		kvt_summary_add(seq, p);
	pthread_mutex_lock(&seq->cache->lock);
	seq->cache->stats.dropped_tokens += p->span;
	pthread_mutex_unlock(&seq->cache->lock);
	kvt_piece_remove(seq, p);
}

/* When a whole cold extent more has become old. */
static void compress_old(struct kvt_seq *seq)
{
	struct kvt_policy_state *state = seq->policy;
	uint64_t tokens = kvt_seq_tokens(seq), end;

	if (tokens <= state->policy.hot)
		return;
	end = tokens - state->policy.hot;
	if (end < state->compressed) /* it was truncated */
		state->compressed = 0;
	if (end < state->compressed + seq->cache->layouts[KVT_COLDER].tokens && state->compressed)
		return;
	state->compressed = end;
	/* Without room for the smaller copy the larger one stays. */
	kvt_seq_compress(seq, end);
}

void kvt_policy_enforce(struct kvt_seq *seq)
{
	struct kvt_piece *p;

	if (seq->policy && seq->policy->policy.hot)
		compress_old(seq);
	while (seq->policy && too_many(seq)) {
		if ((seq->policy->policy.flags & KVT_POLICY_MERGE) && kvt_policy_merge(seq) == 1)
			continue;
		p = victim(seq);
		if (!p)
			return;
		drop(seq, p);
	}
}

static struct kvt_piece *piece_of(const struct kvt_seq *seq, uint64_t position)
{
	struct kvt_piece *p = kvt_piece_at(seq, position);

	return p && p->position + (uint64_t)p->span > position ? p : NULL;
}

void kvt_seq_note(struct kvt_seq *seq, const struct kvt_seq_block *blocks, const float *mass,
		  uint32_t nr)
{
	struct kvt_piece *p;
	uint32_t i;

	seq->clock++;
	for (i = 0; i < nr; i++) {
		p = piece_of(seq, blocks[i].position);
		if (!p)
			continue;
		p->mass = p->mass * MASS_DECAY + mass[i];
		if (mass[i] * nr < 1)
			continue;
		p->uses++;
		p->used = seq->clock;
	}
}
