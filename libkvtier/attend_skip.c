// SPDX-License-Identifier: MIT
/*
 * Leaving out what cannot matter (epsilon), or all but what promises most (top_k).
 *
 * The score of a key is at most the sum of max(q * low, q * high) over its elements, low and
 * high being the bounds of its block: so the block's n tokens have together at most
 * n * exp(that) of the softmax's sum.  The strongest blocks by this bound are attended to
 * first; that gives a sum Z of which the whole one is no less.  Then blocks are left out, the
 * weakest first, as long as what they may have together stays below epsilon / (1 - epsilon) of
 * Z in every row: S / (Z + S) is then at most epsilon.  In the end the others are attended
 * to, in one call with masks.
 *
 * Everything is decided by bounds and by a sum that has the same bits everywhere.
 *
 * A bound is widened by what the instruction sets' arithmetic may be off by, SLACK of the
 * sum of |q| * max(|low|, |high|).
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attend.h"
#include "error.h"

#define SLACK (1.0 / 16384)
/* One of so many blocks is attended to first. */
#define FIRST_OF 16

/* A sequence, while it is decided about. */
struct choice {
	const struct kvt_attend_params *params;
	const struct kvt_attend_seq *seq;
	uint32_t group, rows; /* query rows of a key/value head, of all tokens */
	uint32_t mask_bytes;
	uint8_t *mask; /* [kv_heads][mask_bytes]: what is attended to */
	double *most; /* [kv_heads][nr_blocks][rows]: log of what a block may have */
	float *out, *lse; /* of the first call */
	uint32_t *order; /* blocks by promise */
	double *promise, *sum;
};

static double *most_of(const struct choice *c, uint32_t head, uint32_t block)
{
	return c->most + ((size_t)head * c->seq->nr_blocks + block) * c->rows;
}

static uint8_t *mask_of(const struct choice *c, uint32_t head)
{
	return c->mask + (size_t)head * c->mask_bytes;
}

static void set_mask(const struct choice *c, uint32_t head, uint32_t block, bool on)
{
	uint8_t bit = (uint8_t)(1u << block % 8), *byte = mask_of(c, head) + block / 8;

	*byte = on ? *byte | bit : *byte & (uint8_t)~bit;
}

static bool is_chosen(const struct choice *c, uint32_t head, uint32_t block)
{
	return mask_of(c, head)[block / 8] >> block % 8 & 1;
}

/* ---- what a block may have ----------------------------------------------- */

static double capped(const struct kvt_attend_params *p, double score)
{
	return p->softcap > 0 ? p->softcap * tanh(score / p->softcap) : score;
}

/* The highest score that a query may have with keys within bounds. */
static double highest(const struct kvt_attend_params *p, const float *q, const float *low,
		      const float *high)
{
	double scale = p->scale != 0 ? p->scale : 1 / sqrt((double)p->k_dim);
	double best = 0, size = 0;
	uint32_t i;

	for (i = 0; i < p->k_dim; i++) {
		double x = scale * q[i], a = x * low[i], b = x * high[i];

		best += a > b ? a : b;
		size += fabs(a) > fabs(b) ? fabs(a) : fabs(b);
	}
	best = capped(p, best + SLACK * size);
	return isnan(best) ? INFINITY : best;
}

/* Can any query token see any of it? */
static bool in_sight(const struct choice *c, uint32_t block)
{
	const struct kvt_seq_block *b = &c->seq->blocks[block];
	struct kvt_range early = kvt_range_of(c->params, b, c->seq->q_position);
	struct kvt_range late = kvt_range_of(c->params, b,
					     c->seq->q_position + c->seq->q_tokens - 1);

	return late.sink || early.low < late.high;
}

static const float *query_of(const struct choice *c, uint32_t head, uint32_t row)
{
	const struct kvt_attend_params *p = c->params;
	size_t stride = c->seq->q_stride ? c->seq->q_stride : (size_t)p->q_heads * p->k_dim * 4;
	const char *token = (const char *)c->seq->q + row / c->group * stride;

	return (const float *)(const void *)token +
	       (size_t)(head * c->group + row % c->group) * p->k_dim;
}

/* -infinity: not seen or masked; infinity: nothing is known, so it is read. */
static void bound_block(const struct choice *c, uint32_t head, uint32_t block)
{
	const float *bounds = c->seq->bounds ? c->seq->bounds[block] : NULL;
	double *most = most_of(c, head, block), tokens = log(c->seq->blocks[block].tokens);
	bool there = in_sight(c, block) && kvt_mask_has(c->seq, head, block);
	uint32_t row;

	for (row = 0; row < c->rows; row++) {
		const float *low = bounds ? bounds + (size_t)head * 2 * c->params->k_dim : NULL;

		if (!there)
			most[row] = -INFINITY;
		else if (!low)
			most[row] = INFINITY;
		else
			most[row] = tokens + highest(c->params, query_of(c, head, row), low,
						     low + c->params->k_dim);
	}
}

/* ---- the order of promise ------------------------------------------------ */

static double promise_of(const struct choice *c, uint32_t head, uint32_t block)
{
	const double *most = most_of(c, head, block);
	double best = -INFINITY;
	uint32_t row;

	for (row = 0; row < c->rows; row++)
		best = most[row] > best ? most[row] : best;
	return best;
}

/* The greatest promise first; equal ones by number, so that there is one order alone. */
static bool before(const struct choice *c, uint32_t a, uint32_t b)
{
	return c->promise[a] != c->promise[b] ? c->promise[a] > c->promise[b] : a < b;
}

/* Heap sort: the last of the order at the root. */
static void sift(const struct choice *c, uint32_t at, uint32_t nr)
{
	uint32_t child, was = c->order[at];

	while ((child = 2 * at + 1) < nr) {
		if (child + 1 < nr && before(c, c->order[child], c->order[child + 1]))
			child++;
		if (!before(c, was, c->order[child]))
			break;
		c->order[at] = c->order[child];
		at = child;
	}
	c->order[at] = was;
}

/* Returns how many blocks are seen at all; those come first. */
static uint32_t sort_blocks(const struct choice *c, uint32_t head)
{
	uint32_t nr = c->seq->nr_blocks, i, seen = 0;

	for (i = 0; i < nr; i++) {
		c->promise[i] = promise_of(c, head, i);
		c->order[i] = i;
		seen += c->promise[i] > -INFINITY;
	}
	for (i = nr / 2; i--;)
		sift(c, i, nr);
	for (i = nr; i-- > 1;) {
		uint32_t root = c->order[0];

		c->order[0] = c->order[i];
		c->order[i] = root;
		sift(c, 0, i);
	}
	return seen;
}

/* ---- choose -------------------------------------------------------------- */

/* The first @nr of the order, and what nothing is known of. */
static void choose_first(const struct choice *c, uint32_t head, uint32_t nr)
{
	uint32_t seen = sort_blocks(c, head), i;

	memset(mask_of(c, head), 0, c->mask_bytes);
	for (i = 0; i < seen && c->promise[c->order[i]] == INFINITY; i++)
		set_mask(c, head, c->order[i], true);
	for (nr += i; i < seen && i < nr; i++)
		set_mask(c, head, c->order[i], true);
}

static float lse_of(const struct choice *c, uint32_t head, uint32_t row)
{
	return c->lse[(size_t)(row / c->group) * c->params->q_heads + head * c->group +
		      row % c->group];
}

/* May the block go too?  In every row all that goes must stay below the limit. */
static bool spare(const struct choice *c, uint32_t head, uint32_t block, double limit)
{
	const double *most = most_of(c, head, block);
	uint32_t row;

	for (row = 0; row < c->rows; row++)
		if (!(c->sum[row] + exp(most[row] - lse_of(c, head, row)) <= limit))
			return false;
	for (row = 0; row < c->rows; row++)
		c->sum[row] += exp(most[row] - lse_of(c, head, row));
	return true;
}

/* Epsilon: all that is seen, but for the weakest. */
static void choose_all_but(const struct choice *c, uint32_t head)
{
	double limit = (1 - SLACK) * c->params->epsilon / (1 - (double)c->params->epsilon);
	uint32_t seen = sort_blocks(c, head), i;

	memset(c->sum, 0, c->rows * sizeof(*c->sum));
	for (i = seen; i--;) {
		uint32_t block = c->order[i];

		if (!is_chosen(c, head, block) && !spare(c, head, block, limit))
			set_mask(c, head, block, true);
	}
}

/* ---- what was left out --------------------------------------------------- */

/* The share of the softmax that is missing, at most, in any row of a head. */
static double missing(const struct choice *c, uint32_t head, const float *lse)
{
	double worst = 0;
	uint32_t row, block;

	for (row = 0; row < c->rows; row++) {
		float whole = lse[(size_t)(row / c->group) * c->params->q_heads + head * c->group +
				  row % c->group];
		double sum = 0, share;

		for (block = 0; block < c->seq->nr_blocks; block++) {
			double most = most_of(c, head, block)[row];

			if (most > -INFINITY && !is_chosen(c, head, block))
				sum += exp(most - whole);
		}
		share = isfinite(sum) ? sum / (1 + sum) : 1;
		worst = share > worst ? share : worst;
	}
	return worst;
}

static uint64_t bytes_of(const struct choice *c, const struct kvt_seq_block *b)
{
	uint64_t k = kvt_row_bytes(b->k_type, c->params->k_dim);
	uint64_t v = b->v ? kvt_row_bytes(b->v_type, c->params->v_dim) : 0;

	return b->tokens * (k + v);
}

static void report(const struct choice *c, const float *lse)
{
	struct kvt_skipped *s = c->seq->skipped;
	uint32_t block, head;

	memset(s, 0, sizeof(*s));
	for (head = 0; head < c->params->kv_heads; head++) {
		double share = missing(c, head, lse);

		s->share = share > s->share ? share : s->share;
	}
	for (block = 0; block < c->seq->nr_blocks; block++) {
		uint32_t out = 0;

		for (head = 0; head < c->params->kv_heads; head++)
			out += promise_of(c, head, block) > -INFINITY && !is_chosen(c, head, block);
		s->pairs += out;
		s->blocks += out == c->params->kv_heads;
		s->bytes += out * bytes_of(c, &c->seq->blocks[block]);
	}
}

/* ---- one call and its sequences ------------------------------------------ */

static void choice_exit(struct choice *c)
{
	free(c->mask);
	free(c->most);
	free(c->out);
	free(c->lse);
	free(c->order);
	free(c->promise);
	free(c->sum);
}

static int choice_init(struct choice *c, const struct kvt_attend_params *p,
		       const struct kvt_attend_seq *seq)
{
	uint32_t head, block, nr = seq->nr_blocks;
	size_t outputs = (size_t)seq->q_tokens * p->q_heads;

	c->params = p;
	c->seq = seq;
	c->group = p->q_heads / p->kv_heads;
	c->rows = c->group * seq->q_tokens;
	c->mask_bytes = (nr + 7) / 8;
	c->mask = calloc(p->kv_heads, c->mask_bytes);
	c->most = calloc((size_t)p->kv_heads * nr * c->rows, sizeof(*c->most));
	c->out = calloc(outputs * p->v_dim, sizeof(*c->out));
	c->lse = calloc(outputs, sizeof(*c->lse));
	c->order = calloc(nr, sizeof(*c->order));
	c->promise = calloc(nr, sizeof(*c->promise));
	c->sum = calloc(c->rows, sizeof(*c->sum));
	if (!c->mask || !c->most || !c->out || !c->lse || !c->order || !c->promise || !c->sum)
		return kvt_fail(-ENOMEM, "no memory for the bounds of %u blocks", nr);
	for (head = 0; head < p->kv_heads; head++)
		for (block = 0; block < nr; block++)
			bound_block(c, head, block);
	return 0;
}

/* A call with the masks of now: to @c's own output, or to the caller's. */
static int run(struct choice *c, struct kvt_attend_seq *seqs, uint32_t nr, bool first,
	       kvt_attend_fn attend, void *ctx)
{
	struct kvt_attend_params params = *c->params;
	uint32_t i;

	params.epsilon = 0;
	params.top_k = 0;
	if (first)
		params.flags &= ~KVT_OUT_BF16;
	for (i = 0; i < nr; i++) {
		seqs[i] = *c[i].seq;
		seqs[i].mask = c[i].mask;
		seqs[i].mask_stride = c[i].mask_bytes;
		if (first) {
			seqs[i].out = c[i].out;
			seqs[i].out_stride = 0;
			seqs[i].mass = NULL;
		}
		if (first || !seqs[i].lse)
			seqs[i].lse = c[i].lse;
	}
	return attend(ctx, &params, seqs, nr);
}

static uint32_t first_of(const struct choice *c)
{
	return c->seq->nr_blocks / FIRST_OF + 1;
}

static int choose_and_run(struct choice *c, struct kvt_attend_seq *seqs, uint32_t nr,
			  kvt_attend_fn attend, void *ctx)
{
	const struct kvt_attend_params *p = c->params;
	uint32_t i, head;
	int ret = 0;

	for (i = 0; i < nr; i++)
		for (head = 0; head < p->kv_heads; head++)
			choose_first(&c[i], head, p->top_k ? p->top_k : first_of(&c[i]));
	if (!p->top_k) {
		ret = run(c, seqs, nr, true, attend, ctx);
		for (i = 0; !ret && i < nr; i++)
			for (head = 0; head < p->kv_heads; head++)
				choose_all_but(&c[i], head);
	}
	if (!ret)
		ret = run(c, seqs, nr, false, attend, ctx);
	for (i = 0; !ret && i < nr; i++)
		if (seqs[i].skipped)
			report(&c[i], seqs[i].lse);
	return ret;
}

int kvt_attend_skipping(const struct kvt_attend_params *params, const struct kvt_attend_seq *seqs,
			uint32_t nr, kvt_attend_fn attend, void *ctx)
{
	struct choice *choices;
	struct kvt_attend_seq *masked;
	uint32_t i;
	int ret = 0;

	if (params->epsilon > 0 && params->top_k)
		return kvt_fail(-EINVAL, "epsilon and top_k: choose one");
	choices = calloc(nr, sizeof(*choices));
	masked = calloc(nr, sizeof(*masked));
	if (!choices || !masked)
		ret = kvt_fail(-ENOMEM, "no memory for %u sequences", nr);
	for (i = 0; !ret && i < nr; i++)
		ret = choice_init(&choices[i], params, &seqs[i]);
	if (!ret)
		ret = choose_and_run(choices, masked, nr, attend, ctx);
	for (i = 0; choices && i < nr; i++)
		choice_exit(&choices[i]);
	free(choices);
	free(masked);
	return ret;
}
