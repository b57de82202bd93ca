// SPDX-License-Identifier: MIT
/*
 * generate: prompt and greedy generation on an unmodified llama.cpp.
 *
 * It knows nothing of kvtier.  The hash that it reports covers every logit of
 * every step: a wrong key or value anywhere in the cache changes it (a single
 * low bit may be lost in the engine's own rounding).  The prompt's last token is
 * always decoded on its own, so that a run that loads the other tokens' state
 * computes the same.
 */
#include <err.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"
#include "options.h"
#include "report.h"

#define CTX_STEP 256 /* the engine pads a context to this */

struct run {
	struct engine engine;
	struct options options;
	struct llama_model *model;
	const struct llama_vocab *vocab;
	struct llama_context **contexts;
	llama_token *tokens; /* of the prompt at hand */
	int nr_tokens;
	struct report report;
};

static volatile sig_atomic_t stopped;

/* The engine tells the size of its cache in a log message only. */
static void take_message(enum ggml_log_level level, const char *text, void *data)
{
	static const char key[] = "KV buffer size = ";
	const char *at = strstr(text, key);
	struct run *r = data;

	(void)level;
	if (at)
		r->report.kv_bytes += atof(at + sizeof(key) - 1) * (1 << 20);
	if (r->options.verbose)
		fputs(text, stderr);
}

static void on_stop(int sig)
{
	(void)sig;
	stopped = 1;
}

static bool is_stopped(void *data)
{
	(void)data;
	return stopped;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static bool is_plain(const struct run *r, llama_token token)
{
	const int special = LLAMA_TOKEN_ATTR_UNKNOWN | LLAMA_TOKEN_ATTR_UNUSED |
			    LLAMA_TOKEN_ATTR_CONTROL;

	return !(r->engine.llama_vocab_get_attr(r->vocab, token) & special) &&
	       !r->engine.llama_vocab_is_eog(r->vocab, token);
}

/* Each context gets another prompt, so that a mix-up of caches shows. */
static void random_prompt(struct run *r, int seed)
{
	uint64_t state = 1 + seed;
	int nr_vocab = r->engine.llama_vocab_n_tokens(r->vocab);
	int i, tries = 0;

	r->nr_tokens = r->options.prompt_tokens;
	r->tokens[0] = r->engine.llama_vocab_bos(r->vocab);
	for (i = r->tokens[0] >= 0; i < r->nr_tokens;) {
		r->tokens[i] = next_random(&state) % nr_vocab;
		if (is_plain(r, r->tokens[i]))
			i++;
		else if (++tries > 1000 + 100 * r->nr_tokens)
			errx(1, "the model's vocabulary has hardly any plain tokens");
	}
}

static void text_prompt(struct run *r, int room)
{
	const char *text = r->options.prompt;

	r->nr_tokens = r->engine.llama_tokenize(r->vocab, text, strlen(text), r->tokens, room, true,
						true);
	if (r->nr_tokens <= 0)
		errx(1, "the model cannot tokenize this prompt");
}

static void make_prompt(struct run *r, int seed)
{
	/* Byte tokens, and a few that the model adds by itself. */
	const char *text = r->options.prompt;
	int room = text ? (int)strlen(text) + 16 : r->options.prompt_tokens;

	free(r->tokens);
	r->tokens = malloc(room * sizeof(*r->tokens));
	if (!r->tokens)
		err(1, "malloc");
	if (text)
		text_prompt(r, room);
	else
		random_prompt(r, seed);
}

static void load_model(struct run *r)
{
	struct llama_model_params params = r->engine.llama_model_default_params();

	if (access(r->options.model, R_OK))
		err(1, "cannot read the model %s", r->options.model);
	r->model = r->engine.llama_model_load_from_file(r->options.model, params);
	if (!r->model)
		errx(1, "the engine cannot load the model %s; -v shows why", r->options.model);
	r->vocab = r->engine.llama_model_get_vocab(r->model);
}

static struct llama_context_params context_params(const struct run *r)
{
	struct llama_context_params params = r->engine.llama_context_default_params();
	const struct options *o = &r->options;

	params.n_ctx = o->ctx;
	params.n_batch = params.n_ubatch = o->batch;
	params.n_threads = params.n_threads_batch = o->threads;
	params.flash_attn_type = o->flash_attn;
	params.abort_callback = is_stopped;
	return params;
}

static void check_room(struct run *r)
{
	struct options *o = &r->options;
	int need = r->nr_tokens + o->gen;

	if (!o->ctx)
		o->ctx = (need + CTX_STEP - 1) / CTX_STEP * CTX_STEP;
	if (need > o->ctx)
		errx(1, "--ctx %d is too small: %d prompt tokens and %d to generate need %d",
		     o->ctx, r->nr_tokens, o->gen, need);
}

static void create_contexts(struct run *r)
{
	struct llama_context_params params = context_params(r);
	int i;

	r->contexts = calloc(r->options.contexts, sizeof(*r->contexts));
	if (!r->contexts)
		err(1, "calloc");
	for (i = 0; i < r->options.contexts; i++) {
		r->contexts[i] = r->engine.llama_init_from_model(r->model, params);
		if (!r->contexts[i])
			errx(1, "the engine cannot create a context of %d tokens; -v shows why",
			     r->options.ctx);
	}
	r->report.ctx = r->engine.llama_n_ctx(r->contexts[0]);
}

/* False: stopped by a signal. */
static bool decode(struct run *r, struct llama_context *context, llama_token *tokens, int nr)
{
	int ret = r->engine.llama_decode(context, r->engine.llama_batch_get_one(tokens, nr));

	if (ret == 2 && stopped)
		return false;
	if (ret)
		errx(1, "the engine failed to decode (%d); -v shows why", ret);
	return true;
}

static bool decode_prompt(struct run *r, struct llama_context *context, struct turn *t)
{
	int last = r->nr_tokens - 1, batch = r->options.batch;

	while (t->prompt_tokens < last) {
		int left = last - t->prompt_tokens, nr = left < batch ? left : batch;

		if (!decode(r, context, r->tokens + t->prompt_tokens, nr))
			return false;
		t->prompt_tokens += nr;
	}
	return true;
}

/* The tokens in the file must be this prompt's. */
static void load_state(struct run *r, struct llama_context *context, struct turn *t)
{
	llama_token *tokens = malloc(r->nr_tokens * sizeof(*tokens));
	size_t nr = 0;

	if (!tokens)
		err(1, "malloc");
	if (access(r->options.load, R_OK))
		err(1, "cannot read the state %s", r->options.load);
	if (!r->engine.llama_state_seq_load_file(context, r->options.load, 0, tokens, r->nr_tokens,
						 &nr))
		errx(1, "the engine cannot load the state %s; -v shows why", r->options.load);
	if ((int)nr != r->nr_tokens - 1 || memcmp(tokens, r->tokens, nr * sizeof(*tokens)))
		errx(1, "the state %s is of another prompt", r->options.load);
	free(tokens);
	t->loaded = true;
	t->prompt_tokens = nr;
}

static void save_state(struct run *r, struct llama_context *context)
{
	const char *path = r->options.save;
	char temp[PATH_MAX];

	snprintf(temp, sizeof(temp), "%s.%d", path, (int)getpid());
	if (!r->engine.llama_state_seq_save_file(context, temp, 0, r->tokens, r->nr_tokens - 1) ||
	    rename(temp, path)) {
		unlink(temp);
		errx(1, "cannot write the state %s", path);
	}
}

static float *take_logits(struct run *r, struct llama_context *context, struct turn *t)
{
	float *logits = r->engine.llama_get_logits_ith(context, -1);
	int nr = r->engine.llama_vocab_n_tokens(r->vocab);

	if (!logits)
		errx(1, "the engine has no logits for the last token");
	t->logits_fnv = fnv_words(t->logits_fnv, logits, nr);
	r->report.logits_fnv = fnv_words(r->report.logits_fnv, logits, nr);
	return logits;
}

static bool run_prompt(struct run *r, struct llama_context *context, struct turn *t)
{
	double start = now();
	bool done = true;

	if (r->options.load)
		load_state(r, context, t);
	else
		done = decode_prompt(r, context, t);
	t->prompt_s = now() - start;
	if (done && r->options.save)
		save_state(r, context);
	start = now();
	if (done && decode(r, context, r->tokens + r->nr_tokens - 1, 1)) {
		take_logits(r, context, t);
		t->prompt_tokens++;
	} else {
		done = false;
	}
	t->prompt_s += now() - start;
	return done;
}

static llama_token best_token(const struct run *r, const float *logits)
{
	int nr = r->engine.llama_vocab_n_tokens(r->vocab), best = 0, i;

	for (i = 0; i < nr; i++) {
		if (logits[i] != logits[i])
			errx(1, "the engine computed a NaN");
		if (logits[i] > logits[best])
			best = i;
	}
	return best;
}

static void keep_text(struct run *r, llama_token token)
{
	struct report *report = &r->report;
	char piece[256];
	int bytes = r->engine.llama_token_to_piece(r->vocab, token, piece, sizeof(piece), 0, false);

	if (bytes <= 0)
		return;
	report->text = realloc(report->text, report->text_bytes + bytes);
	if (!report->text)
		err(1, "realloc");
	memcpy(report->text + report->text_bytes, piece, bytes);
	report->text_bytes += bytes;
}

static bool run_generation(struct run *r, struct llama_context *context, struct turn *t)
{
	float *logits = r->engine.llama_get_logits_ith(context, -1);

	while (t->gen_tokens < r->options.gen) {
		llama_token token = best_token(r, logits);
		double start = now();

		if (!decode(r, context, &token, 1))
			return false;
		logits = take_logits(r, context, t);
		t->step_s[t->gen_tokens] = now() - start;
		t->gen_s += t->step_s[t->gen_tokens];
		t->step_fnv[t->gen_tokens++] = t->logits_fnv;
		keep_text(r, token);
	}
	return true;
}

static void mark_generation(const struct run *r)
{
	if (r->options.mark_fd >= 0 && write(r->options.mark_fd, "gen\n", 4) != 4)
		err(1, "--mark-fd %d", r->options.mark_fd);
}

static bool run_turn(struct run *r, int i)
{
	struct turn *t = &r->report.turns[i];

	r->report.nr_turns = i + 1;
	t->logits_fnv = FNV_SEED;
	t->step_s = calloc(r->options.gen + 1, sizeof(*t->step_s));
	t->step_fnv = calloc(r->options.gen + 1, sizeof(*t->step_fnv));
	if (!t->step_s || !t->step_fnv)
		err(1, "calloc");
	make_prompt(r, i);
	if (!run_prompt(r, r->contexts[i], t))
		return false;
	mark_generation(r);
	return run_generation(r, r->contexts[i], t);
}

static void run_turns(struct run *r)
{
	int i;

	r->report.turns = calloc(r->options.contexts, sizeof(*r->report.turns));
	if (!r->report.turns)
		err(1, "calloc");
	r->report.logits_fnv = FNV_SEED;
	r->report.complete = true;
	for (i = 0; i < r->options.contexts && r->report.complete; i++)
		r->report.complete = run_turn(r, i);
}

static void tell(struct run *r)
{
	const struct options *o = &r->options;

	r->report.cpu = r->engine.cpu;
	r->report.threads = o->threads;
	if (o->text)
		write_file(o->text, r->report.text, r->report.text_bytes);
	if (o->json)
		report_json(&r->report, o->json);
	if (!o->json || strcmp(o->json, "-"))
		report_line(&r->report);
}

static void release(struct run *r)
{
	int i;

	for (i = 0; i < r->options.contexts; i++) {
		r->engine.llama_free(r->contexts[i]);
		if (i < r->report.nr_turns) {
			free(r->report.turns[i].step_s);
			free(r->report.turns[i].step_fnv);
		}
	}
	r->engine.llama_model_free(r->model);
	free(r->contexts);
	free(r->tokens);
	free(r->report.turns);
	free(r->report.text);
}

int main(int argc, char **argv)
{
	static struct run r;
	struct sigaction stop = { .sa_handler = on_stop };

	parse_options(&r.options, argc, argv);
	engine_load(&r.engine, r.options.engine, r.options.cpu, take_message, &r);
	load_model(&r);
	make_prompt(&r, 0);
	check_room(&r);
	create_contexts(&r);
	sigaction(SIGTERM, &stop, NULL);
	sigaction(SIGINT, &stop, NULL);
	run_turns(&r);
	tell(&r);
	release(&r);
	return r.report.complete ? 0 : 2;
}
