/* SPDX-License-Identifier: MIT */
#ifndef DECODE_GENERATE_H
#define DECODE_GENERATE_H

#include "stage.h"

/* What a run made. */
struct text {
	uint32_t *tokens; /* prompt and generated */
	uint32_t nr, prompt;
	double seconds; /* of generating */
	uint64_t computed; /* tokens whose keys and values were computed */
	uint64_t read_bytes; /* from NVMe, while generating */
};

void text_open(struct text *t, const struct model *m, const struct options *o);
void text_close(struct text *t);
/* The generated part to stdout. */
void text_print(const struct text *t, const struct model *m);

/* Greedy generation with the cache in @dram bytes of memory (0: all), or without one. */
void generate_plain(struct text *t, const struct model *m, const struct options *o,
		    struct kvt_attend *attend, uint64_t dram);
void generate_uncached(struct text *t, const struct model *m, const struct options *o,
		       struct kvt_attend *attend);
/* The same text by guesses of a draft that the model verifies. */
void generate_speculating(struct text *t, const struct model *m, const struct options *o,
			  struct kvt_attend *attend);

double seconds_now(void);
float *floats(size_t nr);

#endif
