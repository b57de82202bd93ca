// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vocab.h"

#define SPACE "\xe2\x96\x81" /* what stands for a space */
#define NONE UINT32_MAX

static int by_text(const void *a, const void *b, void *data)
{
	const struct vocab *v = data;

	return strcmp(v->text[*(const uint32_t *)a], v->text[*(const uint32_t *)b]);
}

static const struct gguf_value *array(const struct gguf *g, const char *key, uint32_t type)
{
	const struct gguf_value *value = gguf_find(g, key);

	if (!value || value->type != type)
		errx(1, "%s has no %s: its tokenizer is not known here", g->path, key);
	return value;
}

static void *copy_words(const struct gguf *g, const char *key, uint32_t type, uint32_t nr)
{
	const struct gguf_value *value = array(g, key, type);
	uint32_t *words = calloc(nr, sizeof(*words));

	if (!words)
		err(1, "no memory");
	if (value->nr != nr)
		errx(1, "%s: %s has another length than the vocabulary", g->path, key);
	memcpy(words, value->data, nr * sizeof(*words));
	return words;
}

static void sort(struct vocab *v)
{
	uint32_t i;

	v->sorted = calloc(v->nr, sizeof(*v->sorted));
	if (!v->sorted)
		err(1, "no memory");
	for (i = 0; i < v->nr; i++)
		v->sorted[i] = i;
	qsort_r(v->sorted, v->nr, sizeof(*v->sorted), by_text, v);
}

void vocab_load(struct vocab *v, const struct gguf *g)
{
	const struct gguf_value *tokens = array(g, "tokenizer.ggml.tokens", 8);
	const unsigned char *at = tokens->data;
	const char *text;
	uint64_t bytes;
	uint32_t i;

	if (!tokens->nr || tokens->nr > 1 << 24)
		errx(1, "%s has a vocabulary of %llu tokens", g->path,
		     (unsigned long long)tokens->nr);
	v->nr = (uint32_t)tokens->nr;
	v->text = calloc(v->nr, sizeof(char *));
	if (!v->text)
		err(1, "no memory");
	for (i = 0; i < v->nr; i++) {
		text = gguf_string(g, &at, &bytes);
		v->text[i] = strndup(text, bytes);
		if (!v->text[i])
			err(1, "no memory");
	}
	v->score = copy_words(g, "tokenizer.ggml.scores", 6, v->nr);
	v->type = copy_words(g, "tokenizer.ggml.token_type", 5, v->nr);
	v->bos = gguf_u32(g, "tokenizer.ggml.bos_token_id", 1);
	v->eos = gguf_u32(g, "tokenizer.ggml.eos_token_id", 2);
	sort(v);
}

void vocab_free(struct vocab *v)
{
	uint32_t i;

	for (i = 0; i < v->nr; i++)
		free(v->text[i]);
	free((void *)v->text);
	free(v->score);
	free(v->type);
	free(v->sorted);
}

static uint32_t find(const struct vocab *v, const char *text, size_t bytes)
{
	uint32_t low = 0, high = v->nr, middle;
	int order;

	while (low < high) {
		middle = low + (high - low) / 2;
		order = strncmp(v->text[v->sorted[middle]], text, bytes);
		if (!order && v->text[v->sorted[middle]][bytes])
			order = 1; /* longer */
		if (!order)
			return v->sorted[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NONE;
}

/* A run of text; the merged ones have no bytes. */
struct symbol {
	const char *text;
	size_t bytes;
};

static size_t utf8_bytes(const char *at)
{
	unsigned char c = (unsigned char)*at;
	size_t nr = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4, i;

	for (i = 1; i < nr; i++)
		if (((unsigned char)at[i] & 0xc0) != 0x80)
			return i;
	return nr;
}

/* Merge the neighbours whose union has the best score; false: there are none. */
static int merge_best(const struct vocab *v, struct symbol *s, uint32_t *nr)
{
	uint32_t i, best = NONE, id;
	float score = 0;

	for (i = 0; i + 1 < *nr; i++) {
		id = find(v, s[i].text, s[i].bytes + s[i + 1].bytes);
		if (id == NONE || (best != NONE && v->score[id] <= score))
			continue;
		best = i;
		score = v->score[id];
	}
	if (best == NONE)
		return 0;
	s[best].bytes += s[best + 1].bytes;
	memmove(&s[best + 1], &s[best + 2], (*nr - best - 2) * sizeof(*s));
	--*nr;
	return 1;
}

/* What is no token is told byte by byte. */
static uint32_t *emit(const struct vocab *v, const struct symbol *s, uint32_t *at)
{
	char name[8];
	size_t i;
	uint32_t id = find(v, s->text, s->bytes);

	if (id != NONE) {
		*at++ = id;
		return at;
	}
	for (i = 0; i < s->bytes; i++) {
		snprintf(name, sizeof(name), "<0x%02X>", (unsigned char)s->text[i]);
		id = find(v, name, strlen(name));
		if (id == NONE)
			errx(1, "the vocabulary has no token for byte %s", name);
		*at++ = id;
	}
	return at;
}

static char *with_spaces(const char *text)
{
	char *out = calloc(3 * strlen(text) + 4, 1), *at = out;

	if (!out)
		err(1, "no memory");
	if (*text)
		at = stpcpy(at, SPACE);
	for (; *text; text++)
		if (*text == ' ')
			at = stpcpy(at, SPACE);
		else
			*at++ = *text;
	*at = 0;
	return out;
}

uint32_t *vocab_encode(const struct vocab *v, const char *text, uint32_t *nr)
{
	char *spaced = with_spaces(text);
	size_t bytes = strlen(spaced), at;
	struct symbol *symbols = calloc(bytes + 1, sizeof(*symbols));
	uint32_t *tokens = calloc(bytes + 1, sizeof(*tokens)), *end, count = 0, i;

	if (!symbols || !tokens)
		err(1, "no memory");
	for (at = 0; at < bytes; at += symbols[count++].bytes)
		symbols[count] = (struct symbol){ spaced + at, utf8_bytes(spaced + at) };
	while (merge_best(v, symbols, &count))
		;
	end = tokens;
	*end++ = v->bos;
	for (i = 0; i < count; i++)
		end = emit(v, &symbols[i], end);
	*nr = (uint32_t)(end - tokens);
	free(symbols);
	free(spaced);
	return tokens;
}

uint32_t vocab_decode(const struct vocab *v, uint32_t token, char out[65])
{
	const char *text = token < v->nr ? v->text[token] : "";
	uint32_t nr = 0;

	if (token >= v->nr || v->type[token] == 3 || v->type[token] == 2) {
		out[0] = 0;
		return 0;
	}
	if (v->type[token] == 6) {
		out[nr++] = (char)strtoul(text + 3, NULL, 16);
		text = "";
	}
	while (*text && nr < 64) {
		if (!strncmp(text, SPACE, strlen(SPACE))) {
			out[nr++] = ' ';
			text += strlen(SPACE);
		} else {
			out[nr++] = *text++;
		}
	}
	out[nr] = 0;
	return nr;
}
