// SPDX-License-Identifier: MIT
#include <err.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tables.h"

static const char own_text[] =
	"Once upon a time, there was a little girl named Lily. She loved to play outside in the "
	"park with her friends. One day, she saw a big red ball under a tree. She wanted to play "
	"with it, but a small dog was there too. The dog looked sad. Lily asked, \"Why are you "
	"sad, little dog?\" The dog said, \"I lost my mom and I do not know where she is.\" Lily "
	"wanted to help. She took the dog by the paw and they walked and walked. They looked in "
	"the garden, and they looked near the lake. Then they saw a big dog who was running to "
	"them. \"Mom!\" said the little dog. The big dog was so happy. She gave Lily a big hug "
	"and said, \"Thank you for being so kind.\" Lily smiled. The two dogs played with her "
	"and the red ball all day. When the sun went down, Lily went home and told her mom all "
	"about it. Her mom said that she was very proud of her. From that day on, Lily and the "
	"dogs were the best of friends, and they played in the park every day.";

static void row(const char *name, const struct text *t, const struct options *o, bool same)
{
	printf("%-22s %10.1f %16.1f %18.1f   %s\n", name, o->tokens / t->seconds,
	       (double)t->computed / o->tokens, (double)t->read_bytes / o->tokens / 1024,
	       same ? "yes" : "NO");
}

static bool equal(const struct text *a, const struct text *b)
{
	return a->nr == b->nr && !memcmp(a->tokens, b->tokens, a->nr * sizeof(*a->tokens));
}

int table_cache(const struct model *m, const struct options *o, struct kvt_attend *attend)
{
	struct text without, memory, nvme;
	bool same;

	text_open(&without, m, o);
	text_open(&memory, m, o);
	text_open(&nvme, m, o);
	generate_uncached(&without, m, o, attend);
	generate_plain(&memory, m, o, attend, 0);
	generate_plain(&nvme, m, o, attend, o->dram ? o->dram : 4 * KVT_BLOCK_MAX);
	printf("%-22s %10s %16s %18s   %s\n", "keys and values", "tokens/s", "computed/token",
	       "NVMe KiB/token", "same text");
	row("computed each time", &without, o, true);
	row("cached in memory", &memory, o, equal(&memory, &without));
	row("cached, mostly NVMe", &nvme, o, equal(&nvme, &without));
	same = equal(&memory, &without) && equal(&nvme, &without);
	text_close(&without);
	text_close(&memory);
	text_close(&nvme);
	return !same;
}

static double log_probability(const float *logits, uint32_t nr, uint32_t token)
{
	double most = (double)logits[0], sum;
	uint32_t i;

	for (i = 1; i < nr; i++)
		most = (double)logits[i] > most ? (double)logits[i] : most;
	sum = exp((double)logits[0] - most);
	for (i = 1; i < nr; i++)
		sum += exp((double)logits[i] - most);
	return (double)logits[token] - most - log(sum);
}

struct measured {
	double perplexity;
	uint32_t token_bytes;
	uint64_t kept;
};

static struct measured measure(const struct model *m, const struct options *o,
			       struct kvt_attend *attend, const uint32_t *tokens, uint32_t nr)
{
	float *logits = floats(m->vocab.nr);
	struct measured result;
	struct runner r;
	struct stage s;
	double sum = 0;
	uint32_t i;

	stage_open(&s, m, o, m->layers, nr, o->dram, attend);
	stage_policy(&s, o);
	runner_open(&r, m, m->layers, attend, s.seq);
	for (i = 0; i + 1 < nr; i++) {
		runner_feed(&r, &tokens[i], 1, logits);
		sum += log_probability(logits, m->vocab.nr, tokens[i + 1]);
	}
	result.perplexity = exp(-sum / (nr - 1));
	result.token_bytes = stage_token_bytes(&s);
	result.kept = kvt_seq_kept_tokens(s.seq);
	runner_close(&r);
	stage_close(&s);
	free(logits);
	return result;
}

static char *read_text(const char *path)
{
	FILE *f = fopen(path, "r");
	char *text = NULL;
	size_t room = 0;

	if (!f)
		err(1, "cannot read %s", path);
	if (getdelim(&text, &room, '\0', f) < 1)
		errx(1, "%s is empty", path);
	fclose(f);
	return text;
}

static void perplexity_row(const struct model *m, const struct options *o,
			   struct kvt_attend *attend, const char *policy, const uint32_t *tokens,
			   uint32_t nr, double *full)
{
	struct measured r = measure(m, o, attend, tokens, nr);

	if (!*full)
		*full = r.perplexity;
	printf("%-15s %-5s %11u %12llu %12.4f %+9.3f %%\n", policy, kvt_type_name(o->type),
	       r.token_bytes, (unsigned long long)r.kept, r.perplexity,
	       100 * (r.perplexity / *full - 1));
}

void table_perplexity(const struct model *m, const struct options *options,
		      struct kvt_attend *attend)
{
	static const uint32_t types[] = { KVT_F16, KVT_F32, KVT_BF16, KVT_E4M3, KVT_E5M2, KVT_INT8,
					  KVT_INT4, KVT_Q8_0, KVT_Q4_0 };
	static const char *const policies[] = { "window", "fifo", "lru", "lfu", "heavy",
						"fifo+merge", "heavy+merge", "window+summary" };
	char *text = options->text ? read_text(options->text) : NULL;
	struct options o = *options;
	uint32_t nr, i, *tokens = vocab_encode(&m->vocab, text ? text : own_text, &nr);
	double full = 0;

	nr = nr < m->ctx ? nr : m->ctx;
	if (nr < 2)
		errx(1, "a text of %u tokens has no perplexity", nr);
	printf("%u tokens; policies keep %u of them (%u sinks)\n", nr, o.budget, o.sinks);
	printf("%-15s %-5s %11s %12s %12s %11s\n", "policy", "type", "bytes/token", "tokens kept",
	       "perplexity", "to full f16");
	o.policy = o.flags = 0;
	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		o.type = types[i];
		if (kvt_row_bytes(o.type, m->head_dim))
			perplexity_row(m, &o, attend, "keep", tokens, nr, &full);
	}
	for (i = 0; i < 2 * sizeof(policies) / sizeof(policies[0]); i++) {
		o.type = i % 2 ? KVT_INT8 : KVT_F16;
		options_policy(policies[i / 2], &o.policy, &o.flags);
		perplexity_row(m, &o, attend, policies[i / 2], tokens, nr, &full);
	}
	free(tokens);
	free(text);
}
