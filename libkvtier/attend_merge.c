// SPDX-License-Identifier: MIT
/* Partial results into one: in a fixed tree, whoever computed them. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "attend.h"
#include "error.h"
#include "number.h"

/* What a partial knows besides its o[]; nothing attended to: l is 0, and o[] means nothing. */
struct sum {
	float m;
	float l;
};

/* The same row of all leaves of a sequence. */
struct row {
	const struct kvt_work *w;
	float *o;
	const float *sums;
	size_t step; /* rows from leaf to leaf */
	uint32_t nr;
};

static struct sum join(const struct row *r, struct sum a, float *oa, struct sum b, const float *ob)
{
	float m = a.m > b.m ? a.m : b.m, less = m == -INFINITY ? 0 : m, wa, wb;

	if (b.l == 0)
		return a;
	if (a.l == 0) {
		memcpy(oa, ob, r->w->v_pad * sizeof(*oa));
		return b;
	}
	wa = kvt_exp(a.m - less);
	wb = kvt_exp(b.m - less);
	r->w->isa->blend(oa, wa, ob, wb, r->w->v_pad);
	return (struct sum){ m, a.l * wa + b.l * wb };
}

/* Merge leaves [first, first + size), @size a power of two, into the first. */
static struct sum tree(const struct row *r, uint32_t first, uint32_t size)
{
	uint32_t half = size / 2;
	struct sum a, b;

	if (size == 1)
		return (struct sum){ r->sums[2 * first * r->step],
				     r->sums[2 * first * r->step + 1] };
	a = tree(r, first, half);
	if (first + half >= r->nr)
		return a;
	b = tree(r, first + half, half);
	return join(r, a, r->o + first * r->step * r->w->v_pad, b,
		    r->o + (first + half) * r->step * r->w->v_pad);
}

static void fill(float *out, float x, uint32_t nr)
{
	uint32_t i;

	for (i = 0; i < nr; i++)
		out[i] = x;
}

/* A score without a value. */
static struct sum add_sink(struct sum s, float logit, float *times)
{
	float m = s.m > logit || s.l == 0 ? s.m : logit;

	if (s.l == 0) {
		*times = 0;
		return (struct sum){ logit, logit == -INFINITY ? 0 : 1 };
	}
	*times = kvt_exp(s.m - m);
	return (struct sum){ m, s.l * *times + kvt_exp(logit - m) };
}

static float finish(const struct kvt_work *w, struct sum s, uint32_t q_head, const float *o,
		    float *out)
{
	bool any = s.l != 0;
	float times = 1;
	uint32_t i;

	if (w->params.sink_logits)
		s = add_sink(s, w->params.sink_logits[q_head], &times);
	if (any)
		for (i = 0; i < w->params.v_dim; i++)
			out[i] = o[i] * (times / s.l);
	else
		fill(out, 0, w->params.v_dim);
	return s.l == 0 ? -INFINITY : s.m + logf(s.l);
}

/* Where a query row's output is staged: rows are token after token, heads within it. */
static size_t staged_at(const struct kvt_work *w, uint32_t seq, uint32_t head, uint32_t row)
{
	size_t token = (size_t)w->pass * w->q_tile + row / w->group;

	return w->staged_row[seq] + token * w->params.q_heads + head * w->group + row % w->group;
}

static void merge_row(const struct kvt_work *w, uint32_t seq, uint32_t head, uint32_t row)
{
	size_t partial = kvt_work_partial(w, w->seq_leaf[seq], head) + row;
	struct row r = { w, w->outputs + partial * w->v_pad, w->sums + 2 * partial,
			 (size_t)w->params.kv_heads * kvt_work_rows(w, seq),
			 w->seq_leaf[seq + 1] - w->seq_leaf[seq] };
	size_t at = staged_at(w, seq, head, row);
	float *out = w->staged + at * w->params.v_dim;
	uint32_t size = 1;

	if (w->bad[kvt_work_query(w, seq, head) + row]) {
		fill(out, NAN, w->params.v_dim);
		w->staged_lse[at] = NAN;
		return;
	}
	while (size < r.nr)
		size *= 2;
	w->staged_lse[at] =
		finish(w, tree(&r, 0, size), head * w->group + row % w->group, r.o, out);
}

void kvt_merge_head(const struct kvt_work *w, uint32_t seq, uint32_t head)
{
	uint32_t rows = kvt_work_rows(w, seq), row;

	for (row = 0; row < rows; row++)
		merge_row(w, seq, head, row);
}

/* What a leaf's rows of a head have of the whole; the merge left the sums as they were. */
static double mass_of(const struct kvt_work *w, uint32_t leaf, uint32_t head)
{
	uint32_t seq = w->leaves[leaf].seq, rows = kvt_work_rows(w, seq), row;
	const float *sums = w->sums + 2 * kvt_work_partial(w, leaf, head);
	double mass = 0;
	float lse;

	for (row = 0; row < rows; row++, sums += 2) {
		lse = w->staged_lse[staged_at(w, seq, head, row)];
		if (sums[1] != 0 && isfinite(lse))
			mass += (double)(kvt_exp(sums[0] - lse) * sums[1]);
	}
	return mass;
}

void kvt_merge_mass(const struct kvt_work *w, uint32_t seq)
{
	uint32_t leaf, head;

	for (leaf = w->seq_leaf[seq]; leaf < w->seq_leaf[seq + 1]; leaf++)
		for (head = 0; head < w->params.kv_heads; head++)
			w->states[kvt_work_block(w, seq, w->leaves[leaf].block)].mass +=
				mass_of(w, leaf, head);
}

static void write_row(const struct kvt_work *w, const float *from, char *to)
{
	size_t i, nr = (size_t)w->params.q_heads * w->params.v_dim;
	uint16_t half;

	if (!(w->params.flags & KVT_OUT_BF16)) {
		memcpy(to, from, nr * sizeof(*from));
		return;
	}
	for (i = 0; i < nr; i++) {
		half = kvt_to_bf16(from[i]);
		memcpy(to + 2 * i, &half, sizeof(half));
	}
}

void kvt_merge_write(const struct kvt_work *w, uint32_t seq)
{
	const struct kvt_attend_seq *s = &w->seqs[seq];
	size_t dense = (size_t)w->params.q_heads * w->params.v_dim;
	size_t stride = s->out_stride ? s->out_stride
				      : dense * (w->params.flags & KVT_OUT_BF16 ? 2 : 4);
	uint32_t i;

	for (i = 0; i < s->q_tokens; i++)
		write_row(w, w->staged + w->staged_row[seq] * w->params.v_dim + i * dense,
			  (char *)s->out + i * stride);
	if (s->lse)
		memcpy(s->lse, w->staged_lse + w->staged_row[seq],
		       (size_t)s->q_tokens * w->params.q_heads * sizeof(*s->lse));
	for (i = 0; s->mass && i < s->nr_blocks; i++)
		s->mass[i] = (float)(w->states[kvt_work_block(w, seq, i)].mass /
				     ((double)s->q_tokens * w->params.q_heads));
}

/* A row of the whole, from the same row of the parts. */
static float merge_parts(const struct kvt_attend_part *parts, uint32_t nr, size_t row,
			 uint32_t dim, float *out)
{
	float m = -INFINITY, l = 0, weight, whole[KVT_DIM_MAX] = { 0 };
	uint32_t i, j;

	for (i = 0; i < nr; i++)
		if (!(parts[i].lse[row] <= m))
			m = parts[i].lse[row];
	for (i = 0; i < nr; i++) {
		if (parts[i].lse[row] == -INFINITY)
			continue;
		weight = kvt_exp(parts[i].lse[row] - m);
		l += weight;
		for (j = 0; j < dim; j++)
			whole[j] += weight * parts[i].out[row * dim + j];
	}
	for (j = 0; j < dim; j++)
		out[j] = l == 0 ? 0 : whole[j] / l;
	return l == 0 ? -INFINITY : m + logf(l);
}

/* The same memory is allowed, a shifted one is not. */
static bool shifted(const float *a, const float *b, size_t nr)
{
	return a != b && a < b + nr && b < a + nr;
}

int kvt_attend_merge(const struct kvt_attend_part *parts, uint32_t nr, uint32_t rows,
		     uint32_t v_dim, float *out, float *lse)
{
	size_t row, all = (size_t)rows * v_dim;
	float sum;
	uint32_t i;

	if (!parts || !nr || !rows || !out)
		return kvt_fail(-EINVAL, "kvt_attend_merge: %s", !parts || !nr ? "no parts" :
				!rows ? "no rows" : "out is NULL");
	if (!v_dim || v_dim % 8 || v_dim > KVT_DIM_MAX)
		return kvt_fail(-EINVAL, "v_dim %u: must be a multiple of 8 up to %u", v_dim,
				KVT_DIM_MAX);
	for (i = 0; i < nr; i++) {
		if (!parts[i].out || !parts[i].lse)
			return kvt_fail(-EINVAL, "part %u: out and lse are needed", i);
		if (shifted(out, parts[i].out, all) || (lse && shifted(lse, parts[i].lse, rows)) ||
		    (out < parts[i].lse + rows && parts[i].lse < out + all) ||
		    (lse && lse < parts[i].out + all && parts[i].out < lse + rows))
			return kvt_fail(-EINVAL, "part %u overlaps the whole; give the very same "
					"memory, or other", i);
	}
	if (lse && lse < out + all && out < lse + rows)
		return kvt_fail(-EINVAL, "out and lse overlap; keep them apart");
	for (row = 0; row < rows; row++) {
		sum = merge_parts(parts, nr, row, v_dim, out + row * v_dim);
		if (lse)
			lse[row] = sum;
	}
	return 0;
}
