/* SPDX-License-Identifier: MIT */
#ifndef DECODE_OPTIONS_H
#define DECODE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

struct options {
	const char *model;
	const char *prompt;
	const char *text; /* file whose perplexity is asked for; NULL: a text of our own */
	const char *nvme;
	uint64_t dram; /* bytes; 0: all */
	uint32_t tokens;
	uint32_t block_tokens;
	uint32_t threads;
	uint32_t type;
	uint32_t policy, flags; /* enum kvt_policy_kind, KVT_POLICY_* */
	uint32_t budget, sinks, window;
	uint32_t spec; /* tokens that a draft guesses; 0: no draft */
	uint32_t draft_layers; /* 0: all but one */
	bool no_cache, table, perplexity;
};

void options_parse(struct options *o, int argc, char **argv);

/* "window", "fifo+merge", ... to a policy; false: there is none of that name. */
bool options_policy(const char *name, uint32_t *kind, uint32_t *flags);

#endif
