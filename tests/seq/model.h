/* SPDX-License-Identifier: MIT */
/*
 * What a sequence must hold, kept in plain memory: for each layer a stamp a token,
 * from which the bytes of its rows follow.
 */
#ifndef MODEL_H
#define MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include <kvtier_seq.h>

#define MODEL_LAYERS 8
#define MODEL_TOKENS 512

struct model {
	uint32_t length[MODEL_LAYERS];
	uint64_t stamp[MODEL_LAYERS][MODEL_TOKENS];
};

uint64_t model_random(uint64_t *state);
/* The key (or value) row that @stamp stands for. */
void model_row(uint64_t stamp, bool value, uint8_t *row, uint32_t bytes);
/* Rows of fresh stamps, as kvt_seq_append() takes them; free() both. */
void model_rows(const struct kvt_geometry *g, const uint64_t *stamps, uint32_t nr, uint8_t **k,
		uint8_t **v);
uint32_t model_tokens(const struct model *m, uint32_t layers);

/*
 * Rows @first and on of a layer are what the model says; 0, or the error of the read,
 * or 1 after a message on a mismatch.
 */
int model_check(const struct model *m, const struct kvt_seq *seq, uint32_t layer, uint32_t first,
		uint32_t nr);

#endif
