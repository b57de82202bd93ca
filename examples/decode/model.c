// SPDX-License-Identifier: MIT
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static float *tensor(const struct model *m, uint32_t layer, const char *name, uint64_t row,
		     uint64_t rows)
{
	char full[64];

	snprintf(full, sizeof(full), "blk.%u.%s.weight", layer, name);
	return gguf_floats(&m->gguf, full, row, rows);
}

static void load_layer(struct model *m, uint32_t i)
{
	uint64_t q = (uint64_t)m->heads * m->head_dim, kv = (uint64_t)m->kv_heads * m->head_dim;
	struct layer *l = &m->layer[i];

	l->attn_norm = tensor(m, i, "attn_norm", m->dim, 1);
	l->q = tensor(m, i, "attn_q", m->dim, q);
	l->k = tensor(m, i, "attn_k", m->dim, kv);
	l->v = tensor(m, i, "attn_v", m->dim, kv);
	l->o = tensor(m, i, "attn_output", q, m->dim);
	l->ffn_norm = tensor(m, i, "ffn_norm", m->dim, 1);
	l->gate = tensor(m, i, "ffn_gate", m->dim, m->ffn);
	l->up = tensor(m, i, "ffn_up", m->dim, m->ffn);
	l->down = tensor(m, i, "ffn_down", m->ffn, m->dim);
}

static uint32_t need(const struct gguf *g, const char *key, uint32_t most)
{
	uint32_t value = gguf_u32(g, key, 0);

	if (!value || value > most)
		errx(1, "%s: %s is %u, expected 1 to %u", g->path, key, value, most);
	return value;
}

static void load_shape(struct model *m)
{
	const struct gguf *g = &m->gguf;
	const struct gguf_value *arch = gguf_find(g, "general.architecture");
	const unsigned char *at = arch ? arch->data : NULL;
	uint64_t bytes = 0;
	const char *name = arch && arch->type == 8 ? gguf_string(g, &at, &bytes) : "";

	if (bytes != 5 || memcmp(name, "llama", 5) != 0)
		errx(1, "%s is not a llama model", g->path);
	m->dim = need(g, "llama.embedding_length", 1 << 16);
	m->ffn = need(g, "llama.feed_forward_length", 1 << 18);
	m->layers = need(g, "llama.block_count", 1024);
	m->heads = need(g, "llama.attention.head_count", KVT_HEADS_MAX);
	m->kv_heads = gguf_u32(g, "llama.attention.head_count_kv", m->heads);
	m->head_dim = gguf_u32(g, "llama.attention.key_length", m->dim / m->heads);
	m->rope_dims = gguf_u32(g, "llama.rope.dimension_count", m->head_dim);
	m->ctx = need(g, "llama.context_length", 1 << 24);
	m->eps = gguf_f32(g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	m->rope_base = gguf_f32(g, "llama.rope.freq_base", 10000);
	if (!m->kv_heads || m->heads % m->kv_heads || !m->head_dim || m->head_dim % 8 ||
	    m->head_dim > KVT_DIM_MAX || m->rope_dims > m->head_dim)
		errx(1, "%s: %u heads over %u of %u elements make no sense here", g->path, m->heads,
		     m->kv_heads, m->head_dim);
}

/* FNV-1a: caches of two models must not be taken for each other. */
static uint64_t fingerprint(const struct gguf *g)
{
	uint64_t hash = 0xcbf29ce484222325ULL;
	const unsigned char *at;

	for (at = g->map; at < g->end; at++)
		hash = (hash ^ *at) * 0x100000001b3ULL;
	return hash;
}

void model_load(struct model *m, const char *path)
{
	uint32_t i, tied = 1;
	uint64_t t;

	memset(m, 0, sizeof(*m));
	gguf_open(&m->gguf, path);
	load_shape(m);
	m->fingerprint = fingerprint(&m->gguf);
	vocab_load(&m->vocab, &m->gguf);
	m->embd = gguf_floats(&m->gguf, "token_embd.weight", m->dim, m->vocab.nr);
	m->norm = gguf_floats(&m->gguf, "output_norm.weight", m->dim, 1);
	for (t = 0; t < m->gguf.nr_tensors; t++)
		tied &= strcmp(m->gguf.tensors[t].name, "output.weight") != 0;
	m->out = gguf_floats(&m->gguf, tied ? "token_embd.weight" : "output.weight", m->dim,
			     m->vocab.nr);
	m->layer = calloc(m->layers, sizeof(*m->layer));
	if (!m->layer)
		err(1, "no memory");
	for (i = 0; i < m->layers; i++)
		load_layer(m, i);
}

void model_free(struct model *m)
{
	uint32_t i;

	for (i = 0; i < m->layers; i++) {
		struct layer *l = &m->layer[i];

		free(l->attn_norm);
		free(l->q);
		free(l->k);
		free(l->v);
		free(l->o);
		free(l->ffn_norm);
		free(l->gate);
		free(l->up);
		free(l->down);
	}
	free(m->layer);
	free(m->embd);
	free(m->norm);
	free(m->out);
	vocab_free(&m->vocab);
	gguf_close(&m->gguf);
}

uint32_t model_best(const struct model *m, const float *logits)
{
	uint32_t i, best = 0;

	for (i = 1; i < m->vocab.nr; i++)
		if (logits[i] > logits[best])
			best = i;
	return best;
}
