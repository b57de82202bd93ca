// SPDX-License-Identifier: MIT
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

uint64_t model_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

void model_row(uint64_t stamp, bool value, uint8_t *row, uint32_t bytes)
{
	uint64_t state = stamp * 2 + value, word;
	uint32_t at, part;

	for (at = 0; at < bytes; at += part) {
		word = model_random(&state);
		part = bytes - at < sizeof(word) ? bytes - at : (uint32_t)sizeof(word);
		memcpy(row + at, &word, part);
	}
}

void model_rows(const struct kvt_geometry *g, const uint64_t *stamps, uint32_t nr, uint8_t **k,
		uint8_t **v)
{
	uint32_t i;

	*k = malloc((size_t)nr * g->k_bytes + 1);
	*v = malloc((size_t)nr * g->v_bytes + 1);
	if (!*k || !*v)
		err(1, "rows");
	for (i = 0; i < nr; i++) {
		model_row(stamps[i], false, *k + (size_t)i * g->k_bytes, g->k_bytes);
		model_row(stamps[i], true, *v + (size_t)i * g->v_bytes, g->v_bytes);
	}
}

uint32_t model_tokens(const struct model *m, uint32_t layers)
{
	uint32_t i, least = UINT32_MAX;

	for (i = 0; i < layers; i++)
		if (m->length[i] < least)
			least = m->length[i];
	return least;
}

static int compare(const struct kvt_geometry *g, const struct model *m, uint32_t layer,
		   uint32_t first, uint32_t nr, const uint8_t *k, const uint8_t *v)
{
	uint8_t row[1024];
	uint32_t i;

	for (i = 0; i < nr; i++) {
		model_row(m->stamp[layer][first + i], false, row, g->k_bytes);
		if (memcmp(row, k + (size_t)i * g->k_bytes, g->k_bytes))
			break;
		model_row(m->stamp[layer][first + i], true, row, g->v_bytes);
		if (memcmp(row, v + (size_t)i * g->v_bytes, g->v_bytes))
			break;
	}
	if (i == nr)
		return 0;
	printf("# layer %u, token %u: expected the rows of stamp %llu, got others\n", layer,
	       first + i, (unsigned long long)m->stamp[layer][first + i]);
	return 1;
}

int model_check(const struct model *m, const struct kvt_seq *seq, uint32_t layer, uint32_t first,
		uint32_t nr)
{
	const struct kvt_geometry *g = kvt_cache_geometry(kvt_seq_cache(seq));
	uint8_t *k, *v;
	int ret;

	if (g->k_bytes > 1024 || g->v_bytes > 1024)
		errx(1, "rows of more than 1024 bytes");
	k = malloc((size_t)nr * g->k_bytes + 1);
	v = malloc((size_t)nr * g->v_bytes + 1);
	if (!k || !v)
		err(1, "rows");
	ret = kvt_seq_read(seq, layer, first, nr, k, v);
	if (!ret)
		ret = compare(g, m, layer, first, nr, k, v);
	free(k);
	free(v);
	return ret;
}
