// SPDX-License-Identifier: MIT
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "generate.h"

double seconds_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

float *floats(size_t nr)
{
	float *f = malloc(nr * sizeof(*f));

	if (!f)
		err(1, "no memory");
	return f;
}

void text_open(struct text *t, const struct model *m, const struct options *o)
{
	uint32_t *prompt, nr;

	memset(t, 0, sizeof(*t));
	prompt = vocab_encode(&m->vocab, o->prompt, &nr);
	t->tokens = calloc((size_t)nr + o->tokens + 1, sizeof(*t->tokens));
	if (!t->tokens)
		err(1, "no memory");
	if ((uint64_t)nr + o->tokens > m->ctx)
		errx(1, "%u tokens of prompt and %u to generate; the model has learnt %u", nr,
		     o->tokens, m->ctx);
	memcpy(t->tokens, prompt, nr * sizeof(*prompt));
	t->nr = t->prompt = nr;
	free(prompt);
}

void text_close(struct text *t)
{
	free(t->tokens);
}

void text_print(const struct text *t, const struct model *m)
{
	char piece[65];
	uint32_t i, bytes;

	for (i = t->prompt; i < t->nr; i++) {
		bytes = vocab_decode(&m->vocab, t->tokens[i], piece);
		fwrite(piece, 1, bytes, stdout);
	}
	fflush(stdout);
}

/* The prompt but for its last token; bounded sequences drop between single tokens. */
static void feed_prompt(struct runner *r, const struct text *t, const struct options *o)
{
	uint32_t i;

	if (!o->policy)
		runner_feed(r, t->tokens, t->prompt - 1, NULL);
	else
		for (i = 0; i + 1 < t->prompt; i++)
			runner_feed(r, &t->tokens[i], 1, NULL);
}

void generate_plain(struct text *t, const struct model *m, const struct options *o,
		    struct kvt_attend *attend, uint64_t dram)
{
	float *logits = floats(m->vocab.nr);
	struct runner r;
	struct stage s;
	double start;
	uint64_t before;

	stage_open(&s, m, o, m->layers, t->prompt + o->tokens, dram, attend);
	stage_policy(&s, o);
	runner_open(&r, m, m->layers, attend, s.seq);
	feed_prompt(&r, t, o);
	start = seconds_now();
	before = stage_read_bytes(&s);
	while (t->nr < t->prompt + o->tokens) {
		runner_feed(&r, &t->tokens[t->nr - 1], 1, logits);
		t->tokens[t->nr++] = model_best(m, logits);
	}
	t->seconds = seconds_now() - start;
	t->read_bytes = stage_read_bytes(&s) - before;
	t->computed = o->tokens;
	fprintf(stderr,
		"%u tokens, %.1f a second; %u bytes a token, %llu KiB of memory for %llu KiB; "
		"%llu KiB a token read from NVMe; %llu tokens kept\n",
		o->tokens, o->tokens / t->seconds, stage_token_bytes(&s),
		(unsigned long long)s.dram_bytes >> 10, (unsigned long long)s.pool_bytes >> 10,
		(unsigned long long)(t->read_bytes / o->tokens) >> 10,
		(unsigned long long)kvt_seq_kept_tokens(s.seq));
	runner_close(&r);
	stage_close(&s);
	free(logits);
}

void generate_uncached(struct text *t, const struct model *m, const struct options *o,
		       struct kvt_attend *attend)
{
	float *logits = floats(m->vocab.nr);
	double start = seconds_now();
	struct runner r;
	struct stage s;

	stage_open(&s, m, o, m->layers, t->prompt + o->tokens, 0, attend);
	runner_open(&r, m, m->layers, attend, s.seq);
	while (t->nr < t->prompt + o->tokens) {
		if (kvt_seq_truncate(s.seq, 0))
			errx(1, "%s", kvt_error_detail());
		runner_feed(&r, t->tokens, t->nr - 1, NULL);
		runner_feed(&r, &t->tokens[t->nr - 1], 1, logits);
		t->computed += t->nr;
		t->tokens[t->nr++] = model_best(m, logits);
	}
	t->seconds = seconds_now() - start;
	fprintf(stderr, "%u tokens, %.1f a second, without a cache\n", o->tokens,
		o->tokens / t->seconds);
	runner_close(&r);
	stage_close(&s);
	free(logits);
}
