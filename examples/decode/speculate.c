// SPDX-License-Identifier: MIT
/*
 * Speculation: a draft (the model's first layers) guesses some tokens, the model computes
 * them all at once and keeps those that it would have chosen.  Draft and target are under
 * one budget: as the target grows the draft keeps less, then sits out.
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>

#include "generate.h"

#define GUESS_MAX 32

struct speculation {
	const struct model *model;
	const struct options *options;
	struct text *text;
	struct stage target_stage, draft_stage;
	struct runner target, draft;
	struct kvt_draft *pair;
	float *logits; /* of the guesses and one more */
	uint32_t rounds[3]; /* by the draft's state */
	uint32_t guessed, right;
};

static uint64_t up_to_block(uint64_t bytes, uint64_t block)
{
	return (bytes + block - 1) / block * block;
}

static uint32_t draft_layers(const struct model *m, const struct options *o)
{
	if (!o->draft_layers)
		return m->layers > 1 ? m->layers - 1 : 1;
	return o->draft_layers < m->layers ? o->draft_layers : m->layers;
}

static void open_pair(struct speculation *s, struct kvt_attend *attend)
{
	const struct options *o = s->options;
	const struct model *m = s->model;
	struct kvt_draft_config config = KVT_DRAFT_CONFIG_INIT;
	uint32_t tokens = s->text->prompt + o->tokens + o->spec + 1;
	uint32_t layers = draft_layers(m, o);
	uint64_t half = o->dram / 2;

	stage_open(&s->target_stage, m, o, m->layers, tokens, half, attend);
	stage_open(&s->draft_stage, m, o, layers, tokens, half, attend);
	half = up_to_block(half, stage_block_bytes(&s->draft_stage));
	config.draft_bytes = half && half < s->draft_stage.pool_bytes ? half :
									s->draft_stage.pool_bytes;
	config.dram_bytes = o->dram ? 2 * half : s->draft_stage.pool_bytes +
							 s->target_stage.pool_bytes;
	config.window = o->block_tokens;
	config.sinks = o->sinks;
	config.lookahead = o->spec + 1;
	if (kvt_draft_create(s->target_stage.seq, s->draft_stage.seq, &config, &s->pair))
		errx(1, "%s", kvt_error_detail());
	runner_open(&s->target, m, m->layers, attend, s->target_stage.seq);
	runner_open(&s->draft, m, layers, attend, s->draft_stage.seq);
}

static void close_pair(struct speculation *s)
{
	kvt_draft_destroy(s->pair);
	runner_close(&s->target);
	runner_close(&s->draft);
	stage_close(&s->target_stage);
	stage_close(&s->draft_stage);
}

/* The draft catches up with what is known, then goes on by itself. */
static uint32_t guess(struct speculation *s, uint32_t nr, uint32_t *guesses)
{
	struct text *t = s->text;
	uint32_t known = (uint32_t)kvt_seq_tokens(s->draft.seq), i;

	/* A bounded draft drops between single tokens. */
	for (; known + 1 < t->nr; known++)
		runner_feed(&s->draft, &t->tokens[known], 1, NULL);
	runner_feed(&s->draft, &t->tokens[t->nr - 1], 1, s->logits);
	for (i = 0; i < nr; i++) {
		guesses[i] = model_best(s->model, s->logits);
		if (i + 1 < nr)
			runner_feed(&s->draft, &guesses[i], 1, s->logits);
	}
	return nr;
}

/* Returns how many guesses were what the model says; the token after them is its own. */
static uint32_t verify(struct speculation *s, const uint32_t *guesses, uint32_t nr, uint32_t *own)
{
	uint32_t fed[GUESS_MAX + 1], i;

	fed[0] = s->text->tokens[s->text->nr - 1];
	for (i = 0; i < nr; i++)
		fed[i + 1] = guesses[i];
	runner_feed(&s->target, fed, nr + 1, s->logits);
	for (i = 0; i <= nr; i++) {
		*own = model_best(s->model, s->logits + (size_t)i * s->model->vocab.nr);
		if (i == nr || *own != guesses[i])
			break;
	}
	return i;
}

static void round_of(struct speculation *s)
{
	struct text *t = s->text;
	uint32_t left = t->prompt + s->options->tokens - t->nr, nr = 0, right, own, i;
	uint32_t guesses[GUESS_MAX] = { 0 };
	int state = kvt_draft_balance(s->pair);

	if (state < 0)
		errx(1, "%s", kvt_error_detail());
	else
		s->rounds[state]++;
	if (state != KVT_DRAFT_OUT && left > 1)
		nr = guess(s, s->options->spec < left - 1 ? s->options->spec : left - 1, guesses);
	right = verify(s, guesses, nr, &own);
	for (i = 0; i < right; i++)
		t->tokens[t->nr++] = guesses[i];
	t->tokens[t->nr++] = own;
	s->guessed += nr;
	s->right += right;
	/* What is known but for the last token, which is fed next. */
	if (kvt_draft_truncate(s->pair, t->nr - 1))
		errx(1, "%s", kvt_error_detail());
}

void generate_speculating(struct text *t, const struct model *m, const struct options *o,
			  struct kvt_attend *attend)
{
	struct speculation s = { .model = m, .options = o, .text = t };
	double start;

	s.logits = floats((size_t)(GUESS_MAX + 1) * m->vocab.nr);
	open_pair(&s, attend);
	runner_feed(&s.target, t->tokens, t->prompt - 1, NULL);
	start = seconds_now();
	while (t->nr < t->prompt + o->tokens)
		round_of(&s);
	t->seconds = seconds_now() - start;
	fprintf(stderr,
		"%u tokens, %.1f a second; %u of %u guesses right; rounds with a whole draft "
		"%u, bounded %u, without %u\n",
		o->tokens, o->tokens / t->seconds, s.right, s.guessed, s.rounds[0], s.rounds[1],
		s.rounds[2]);
	close_pair(&s);
	free(s.logits);
}
