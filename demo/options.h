/* SPDX-License-Identifier: MIT */
/* What the generator is asked for; `generate --help` explains each. */
#ifndef DEMO_OPTIONS_H
#define DEMO_OPTIONS_H

#include <llama.h>

struct options {
	const char *engine, *model, *cpu, *flash, *prompt, *save, *load, *json, *text;
	int ctx, prompt_tokens, gen, threads, batch, contexts, mark_fd, verbose;
	enum llama_flash_attn_type flash_attn;
};

/* Ends the program with one line when an argument is wrong. */
void parse_options(struct options *o, int argc, char **argv);

#endif
