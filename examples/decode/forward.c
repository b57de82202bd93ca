// SPDX-License-Identifier: MIT
/* A chunk of tokens through the layers; keys and values go into the sequence. */
#include <err.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

/* Where a chunk's intermediate results lie in the runner's room. */
struct work {
	float *x, *normed, *q, *k, *v, *heads, *gate, *up, *add;
};

static struct work work_of(const struct runner *r)
{
	const struct model *m = r->model;
	size_t dim = (size_t)CHUNK_MAX * m->dim, ffn = (size_t)CHUNK_MAX * m->ffn;
	size_t q = (size_t)CHUNK_MAX * m->heads * m->head_dim;
	size_t kv = (size_t)CHUNK_MAX * m->kv_heads * m->head_dim;
	struct work w = { .x = r->room };

	w.normed = w.x + dim;
	w.add = w.normed + dim;
	w.q = w.add + dim;
	w.heads = w.q + q;
	w.k = w.heads + q;
	w.v = w.k + kv;
	w.gate = w.v + kv;
	w.up = w.gate + ffn;
	return w;
}

void runner_open(struct runner *r, const struct model *m, uint32_t layers,
		 struct kvt_attend *attend, struct kvt_seq *seq)
{
	size_t floats = (size_t)CHUNK_MAX * (3 * (size_t)m->dim + 2 * (size_t)m->ffn +
					     2 * (size_t)m->heads * m->head_dim +
					     2 * (size_t)m->kv_heads * m->head_dim);

	*r = (struct runner){ .model = m, .layers = layers, .attend = attend, .seq = seq };
	r->room = malloc(floats * sizeof(*r->room));
	if (!r->room)
		err(1, "no memory");
}

void runner_close(struct runner *r)
{
	free(r->room);
}

static void rms_norm(const struct model *m, const float *x, const float *weight, uint32_t nr,
		     float *out)
{
	uint32_t t, i;

	for (t = 0; t < nr; t++, x += m->dim, out += m->dim) {
		double sum = 0;
		float scale;

		for (i = 0; i < m->dim; i++)
			sum += (double)x[i] * (double)x[i];
		scale = 1 / sqrtf((float)(sum / m->dim) + m->eps);
		for (i = 0; i < m->dim; i++)
			out[i] = x[i] * scale * weight[i];
	}
}

static float dot(const float *a, const float *b, uint32_t nr)
{
	float sum[8] = { 0 };
	uint32_t i, j;

	for (i = 0; i + 8 <= nr; i += 8)
		for (j = 0; j < 8; j++)
			sum[j] += a[i + j] * b[i + j];
	for (; i < nr; i++)
		sum[0] += a[i] * b[i];
	return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

/* Each row of the result depends on its row of @x alone, whatever the chunk. */
static void multiply(const float *weight, const float *x, uint32_t row, uint32_t rows, uint32_t nr,
		     float *out)
{
	uint32_t t, i;

	for (i = 0; i < rows; i++)
		for (t = 0; t < nr; t++)
			out[(size_t)t * rows + i] = dot(weight + (size_t)i * row,
							x + (size_t)t * row, row);
}

static void rope(const struct model *m, float *x, uint32_t heads, uint32_t nr, uint64_t position)
{
	uint32_t t, h, i;

	for (t = 0; t < nr; t++)
		for (h = 0; h < heads; h++, x += m->head_dim)
			for (i = 0; i < m->rope_dims; i += 2) {
				float angle = (float)(position + t) *
					      powf(m->rope_base, -(float)i / (float)m->rope_dims);
				float c = cosf(angle), s = sinf(angle), a = x[i], b = x[i + 1];

				x[i] = a * c - b * s;
				x[i + 1] = a * s + b * c;
			}
}

static void add(float *x, const float *y, size_t nr)
{
	size_t i;

	for (i = 0; i < nr; i++)
		x[i] += y[i];
}

static void attention(struct runner *r, const struct work *w, uint32_t layer, uint32_t nr,
		      uint64_t position)
{
	const struct model *m = r->model;
	struct kvt_attend_params params = KVT_ATTEND_PARAMS_INIT;
	struct kvt_seq_query query = { .seq = r->seq, .q_tokens = nr, .q_position = position,
				       .q = w->q, .out = w->heads,
				       .cold_blocks = r->cold_blocks };

	params.flags = KVT_CAUSAL;
	params.q_heads = m->heads;
	params.kv_heads = m->kv_heads;
	params.k_dim = params.v_dim = m->head_dim;
	if (kvt_seq_append_float(r->seq, layer, nr, w->k, w->v) ||
	    kvt_seq_attend(r->attend, &params, layer, &query, 1))
		errx(1, "%s", kvt_error_detail());
}

static void run_layer(struct runner *r, const struct work *w, uint32_t i, uint32_t nr,
		      uint64_t position)
{
	const struct model *m = r->model;
	const struct layer *l = &m->layer[i];
	uint32_t q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
	size_t j;

	rms_norm(m, w->x, l->attn_norm, nr, w->normed);
	multiply(l->q, w->normed, m->dim, q, nr, w->q);
	multiply(l->k, w->normed, m->dim, kv, nr, w->k);
	multiply(l->v, w->normed, m->dim, kv, nr, w->v);
	rope(m, w->q, m->heads, nr, position);
	rope(m, w->k, m->kv_heads, nr, position);
	attention(r, w, i, nr, position);
	multiply(l->o, w->heads, q, m->dim, nr, w->add);
	add(w->x, w->add, (size_t)nr * m->dim);
	rms_norm(m, w->x, l->ffn_norm, nr, w->normed);
	multiply(l->gate, w->normed, m->dim, m->ffn, nr, w->gate);
	multiply(l->up, w->normed, m->dim, m->ffn, nr, w->up);
	for (j = 0; j < (size_t)nr * m->ffn; j++)
		w->gate[j] = w->gate[j] / (1 + expf(-w->gate[j])) * w->up[j];
	multiply(l->down, w->gate, m->ffn, m->dim, nr, w->add);
	add(w->x, w->add, (size_t)nr * m->dim);
}

static void feed_chunk(struct runner *r, const uint32_t *tokens, uint32_t nr, float *logits)
{
	const struct model *m = r->model;
	struct work w = work_of(r);
	uint64_t position = kvt_seq_tokens(r->seq);
	uint32_t t, i;

	for (t = 0; t < nr; t++)
		memcpy(w.x + (size_t)t * m->dim, m->embd + (size_t)tokens[t] * m->dim,
		       m->dim * sizeof(float));
	for (i = 0; i < r->layers; i++)
		run_layer(r, &w, i, nr, position);
	if (!logits)
		return;
	rms_norm(m, w.x, m->norm, nr, w.normed);
	multiply(m->out, w.normed, m->dim, m->vocab.nr, nr, logits);
}

void runner_feed(struct runner *r, const uint32_t *tokens, uint32_t nr, float *logits)
{
	uint32_t part;

	for (; nr; nr -= part, tokens += part) {
		part = nr < CHUNK_MAX ? nr : CHUNK_MAX;
		feed_chunk(r, tokens, part, logits);
		if (logits)
			logits += (size_t)part * r->model->vocab.nr;
	}
}
