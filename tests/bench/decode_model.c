// SPDX-License-Identifier: MIT
/* A cache like a model's, and a step over it: each layer's query comes of the layer before. */
#include <stdlib.h>
#include <string.h>

#include "decode.h"

#define VARIANTS 13 /* different contents of blocks, beside a row of each block's own */

static uint64_t state = 1;

/* splitmix64, as a number from -1 to 1 */
static float noise(void)
{
	uint64_t z = state += 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	z ^= z >> 31;
	return (float)(z >> 40) / (float)(1 << 23) - 1;
}

static void *get(size_t nr, size_t bytes)
{
	void *memory = calloc(nr, bytes);

	if (!memory)
		die("no memory");
	return memory;
}

void model_init(struct model *m, const struct options *o)
{
	struct kvt_attend_config config = KVT_ATTEND_CONFIG_INIT;
	size_t heads = (size_t)o->q_heads * o->dim, i;

	memset(m, 0, sizeof(*m));
	m->o = o;
	config.threads = o->threads;
	if (kvt_attend_create(&config, &m->attend))
		die("%s", kvt_error_detail());
	m->params = (struct kvt_attend_params)KVT_ATTEND_PARAMS_INIT;
	m->params.q_heads = o->q_heads;
	m->params.kv_heads = o->kv_heads;
	m->params.k_dim = m->params.v_dim = o->dim;
	m->row = o->kv_heads * kvt_row_bytes(o->type, o->dim);
	m->block_tokens = (uint32_t)(o->block_bytes / (2 * m->row));
	if (!m->block_tokens)
		die("a block of %zu KiB holds no token of %zu bytes", o->block_bytes >> 10,
		    2 * m->row);
	m->layer_blocks = (o->tokens + m->block_tokens - 1) / m->block_tokens;
	m->layer_bytes = m->layer_blocks * o->block_bytes;
	m->bytes = o->layers * m->layer_bytes;
	m->tables = get((size_t)o->layers * m->layer_blocks, sizeof(*m->tables));
	m->q = get(heads, sizeof(float));
	m->first_q = get(heads, sizeof(float));
	m->out = get(heads, sizeof(float));
	if (o->weights_mib)
		m->weights = weights_new(o);
	for (i = 0; i < heads; i++)
		m->first_q[i] = 2 * noise();
}

static struct kvt_seq_block block_at(const struct model *m, char *at, uint32_t number)
{
	uint32_t first = number * m->block_tokens, left = m->o->tokens - first;

	return (struct kvt_seq_block){
		.k = at,
		.v = at + m->block_tokens * m->row,
		.position = first,
		.tokens = left < m->block_tokens ? left : m->block_tokens,
		.k_type = m->o->type,
		.v_type = m->o->type,
		.k_stride = (uint32_t)m->row,
		.v_stride = (uint32_t)m->row,
	};
}

void model_place(struct model *m, char *base)
{
	uint32_t layer, b;

	for (layer = 0; layer < m->o->layers; layer++)
		for (b = 0; b < m->layer_blocks; b++)
			m->tables[layer * m->layer_blocks + b] = block_at(
				m, base + layer * m->layer_bytes + b * m->o->block_bytes, b);
}

static void make_rows(const struct model *m, uint32_t tokens, char *rows)
{
	uint32_t heads = m->o->kv_heads, dim = m->o->dim, i;
	float *row = get((size_t)heads * dim, sizeof(float));

	while (tokens--) {
		for (i = 0; i < heads * dim; i++)
			row[i] = noise();
		if (kvt_quantize(m->o->type, dim, heads, 1, row, rows, 0))
			die("%s", kvt_error_detail());
		rows += m->row;
	}
	free(row);
}

/* The same content each time: it depends on the shape and the type alone. */
void model_fill(struct model *m, char *base)
{
	size_t size = m->o->block_bytes, used = 2 * m->block_tokens * m->row;
	char *variants = get(VARIANTS, size);
	uint32_t b;

	state = 1;
	for (b = 0; b < VARIANTS; b++)
		make_rows(m, 2 * m->block_tokens, variants + b * size);
	for (b = 0; b < m->o->layers * m->layer_blocks; b++) {
		memcpy(base + b * size, variants + b % VARIANTS * size, used);
		make_rows(m, 1, base + b * size);
		make_rows(m, 1, base + b * size + m->block_tokens * m->row);
	}
	free(variants);
}

static void mix(uint64_t *hash, const void *data, size_t bytes)
{
	const unsigned char *at = data;

	while (bytes--)
		*hash = (*hash ^ *at++) * 0x100000001b3ull;
}

int model_step(struct model *m, struct place *p)
{
	size_t heads = (size_t)m->o->q_heads * m->o->dim, i;
	struct kvt_attend_seq seq = KVT_ATTEND_SEQ_INIT;
	uint32_t layer;
	int ret;

	m->hash = 0xcbf29ce484222325ull;
	memcpy(m->q, m->first_q, heads * sizeof(float));
	seq.q_tokens = 1;
	seq.q_position = m->o->tokens - 1;
	seq.q = m->q;
	seq.out = m->out;
	seq.nr_blocks = m->layer_blocks;
	for (layer = 0; layer < m->o->layers; layer++) {
		seq.blocks = m->tables + (size_t)layer * m->layer_blocks;
		ret = p->attend(p, m, layer, &seq);
		if (ret)
			return ret;
		mix(&m->hash, m->out, heads * sizeof(float));
		if (m->weights) {
			uint64_t sum = weights_run(m->weights, layer, m->out);

			mix(&m->hash, &sum, sizeof(sum));
		}
		for (i = 0; i < heads; i++)
			m->q[i] = m->first_q[i] + 8 * m->out[i];
	}
	return 0;
}

void model_exit(struct model *m)
{
	if (m->weights)
		weights_free(m->weights);
	kvt_attend_destroy(m->attend);
	free(m->tables);
	free(m->q);
	free(m->first_q);
	free(m->out);
}
