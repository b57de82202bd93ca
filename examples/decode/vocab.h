/* SPDX-License-Identifier: MIT */
/* Text to tokens and back: SentencePiece as llama models use it. */
#ifndef DECODE_VOCAB_H
#define DECODE_VOCAB_H

#include "gguf.h"

struct vocab {
	uint32_t nr;
	char **text;
	float *score;
	uint32_t *type; /* 1 plain, 2 unknown, 3 control, 6 a byte */
	uint32_t bos, eos;
	uint32_t *sorted; /* ids by text */
};

void vocab_load(struct vocab *v, const struct gguf *g);
void vocab_free(struct vocab *v);
/* Tokens of @text after the beginning-of-sequence token; free() them. */
uint32_t *vocab_encode(const struct vocab *v, const char *text, uint32_t *nr);
/* Text of a token into @out (up to 64 bytes and a zero); returns its bytes. */
uint32_t vocab_decode(const struct vocab *v, uint32_t token, char out[65]);

#endif
