/* SPDX-License-Identifier: MIT */
/* What one run of the generator measured, and how it is told. */
#ifndef DEMO_REPORT_H
#define DEMO_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#define FNV_SEED 1469598103934665603ULL
#define FNV_PRIME 1099511628211ULL

/* One context's prompt and generation. */
struct turn {
	bool loaded; /* the prompt came from --load-state */
	int prompt_tokens; /* decoded (or loaded) so far */
	double prompt_s;
	int gen_tokens;
	double gen_s;
	double *step_s; /* per generated token */
	uint64_t *step_fnv; /* of all logits up to and including that step */
	uint64_t logits_fnv;
};

struct report {
	bool complete; /* false: stopped by a signal, figures are of the part done */
	const char *cpu;
	int threads;
	uint32_t ctx;
	double kv_bytes; /* all contexts, as the engine says; 0 if it does not say */
	int nr_turns;
	struct turn *turns;
	uint64_t logits_fnv; /* over all turns in order */
	char *text;
	size_t text_bytes;
};

/* The hash of @bytes after what was hashed into @fnv before. */
uint64_t fnv_bytes(uint64_t fnv, const void *data, size_t bytes);
/* The same by whole 32-bit words: one round for each logit. */
uint64_t fnv_words(uint64_t fnv, const void *data, size_t words);

void report_line(const struct report *r);
void report_json(const struct report *r, const char *path);
/* Write @data to a file that appears under @path only when complete; "-" is stdout. */
void write_file(const char *path, const void *data, size_t bytes);

#endif
