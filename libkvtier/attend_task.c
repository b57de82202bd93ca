// SPDX-License-Identifier: MIT
/*
 * A task: the partials of some heads over a leaf, tile by tile.  Rows of keys and
 * values lie head beside head, so the heads of a tile come one after the other and the
 * memory of the next tile is fetched meanwhile, in its own order.
 */
#include <math.h>
#include <string.h>

#include "attend.h"
#include "quant.h"

/* What of a tile a query row may see. */
enum sight {
	NOTHING,
	SOME, /* some rows some of it */
	ALL,
};

/*
 * A tile at work.
 * @first:         its first row in the block
 * @keys, @values: of the head at hand
 * @next_keys, @next_values: what to fetch meanwhile: this for the first head, then on
 */
struct tile {
	const struct kvt_work *w;
	const struct kvt_seq_block *block;
	struct kvt_scratch *scratch;
	uint32_t seq;
	uint32_t first;
	uint32_t nr;
	enum sight sight;
	struct kvt_rows keys;
	struct kvt_rows values;
	uint32_t key_type;
	uint32_t value_type;
	struct kvt_ahead next_keys;
	struct kvt_ahead next_values;
};

static uint64_t position_of(const struct kvt_work *w, uint32_t seq, uint32_t token)
{
	return w->seqs[seq].q_position + (uint64_t)w->pass * w->q_tile + token;
}

/* Later query tokens see no earlier start and no earlier end. */
static enum sight sight_of(const struct kvt_work *w, uint32_t seq, const struct kvt_seq_block *b,
			   uint32_t first, uint32_t nr)
{
	uint32_t tokens = kvt_work_tokens(w, seq), end = first + nr;
	struct kvt_range early, late;

	if (!tokens)
		return NOTHING;
	early = kvt_range_of(&w->params, b, position_of(w, seq, 0));
	late = kvt_range_of(&w->params, b, position_of(w, seq, tokens - 1));
	if (first >= late.sink && (end <= early.low || first >= late.high))
		return NOTHING;
	if (late.low <= first && end <= early.high)
		return ALL;
	return SOME;
}

static const uint8_t *head_of(const void *base, uint32_t stride, uint32_t row, uint32_t type,
			      uint32_t dim, uint32_t head)
{
	return (const uint8_t *)base + (size_t)row * stride + head * kvt_row_bytes(type, dim);
}

/* One side of the next tile of a task, to be fetched while @heads heads are computed. */
static struct kvt_ahead look_ahead(const struct kvt_task *task, const void *base, uint32_t stride,
				   uint32_t type, uint32_t dim, uint32_t first, uint32_t nr,
				   uint32_t heads)
{
	size_t width = task->heads * kvt_row_bytes(type, dim), i;
	struct kvt_ahead a = { head_of(base, stride, first, type, dim, task->head), 0 };

	if (stride - width < 64) {
		a.bytes = (size_t)nr * stride / heads;
		return a;
	}
	for (i = 0; i < nr * width; i += 64) /* rows far apart: the pieces, at once */
		__builtin_prefetch(a.at + i / width * stride + i % width, 0, 2);
	return a;
}

static void look_ahead_tile(struct tile *t, const struct kvt_task *task, uint32_t seq,
			    const struct kvt_seq_block *b, uint32_t first, uint32_t nr,
			    uint32_t heads)
{
	const struct kvt_attend_params *p = &t->w->params;

	if (sight_of(t->w, seq, b, first, nr) == NOTHING)
		return;
	t->next_keys = look_ahead(task, b->k, b->k_stride, b->k_type, p->k_dim, first, nr, heads);
	if (b->v)
		t->next_values = look_ahead(task, b->v, b->v_stride, b->v_type, p->v_dim, first, nr,
					    heads);
}

static uint32_t tile_rows(const struct kvt_leaf *leaf, uint32_t done)
{
	return leaf->rows - done < KVT_TILE ? leaf->rows - done : KVT_TILE;
}

/* The tile after this one: of the same leaf, or the first of the next task. */
static void look_after(struct tile *t, const struct kvt_task *task,
		       const struct kvt_task *after, uint32_t done)
{
	const struct kvt_leaf *leaf = &t->w->leaves[task->leaf];

	/* Nothing: what is at hand anyway. */
	t->next_keys = (struct kvt_ahead){ (const void *)t->scratch->scores, 0 };
	t->next_values = t->next_keys;
	if (done < leaf->rows) {
		look_ahead_tile(t, task, t->seq, t->block, leaf->first + done,
				tile_rows(leaf, done), task->heads);
		return;
	}
	if (!after)
		return;
	leaf = &t->w->leaves[after->leaf];
	look_ahead_tile(t, after, leaf->seq, kvt_leaf_block(t->w, leaf), leaf->first,
			tile_rows(leaf, 0), task->heads);
}

/* Rows as floats, where they are not used as they are.  Nothing is fetched ahead after that. */
static void decode(const struct kvt_isa *isa, uint32_t *type, struct kvt_rows *rows, float *to,
		   struct kvt_ahead *ahead)
{
	uint32_t pad = kvt_pad(rows->dim), pace = kvt_ahead_pace(ahead, rows->nr), i;

	for (i = 0; i < rows->nr; i++) {
		isa->decode[*type](rows->base + i * rows->stride, rows->dim, to + (size_t)i * pad);
		kvt_ahead_fetch(ahead, pace);
	}
	ahead->bytes = 0;
	rows->base = (const void *)to;
	rows->stride = pad * sizeof(float);
	*type = KVT_F32;
}

static bool decoded(const struct kvt_isa *isa, uint32_t type, uint32_t rows, bool there)
{
	return type != KVT_F32 && (!there || rows > isa->few[type]);
}

/* Where the rows are that come after those of a head. */
static void look_soon(const struct tile *t, uint32_t head, bool last)
{
	const struct kvt_attend_params *p = &t->w->params;
	const struct kvt_seq_block *b = t->block;
	struct kvt_scratch *s = t->scratch;

	s->soon_values = (struct kvt_soon){ (const void *)s->scores, 0, 0 };
	s->soon_keys = s->soon_values;
	if (b->v)
		s->soon_values = (struct kvt_soon){
			head_of(b->v, b->v_stride, t->first, b->v_type, p->v_dim, head),
			b->v_stride, t->nr };
	if (!last)
		s->soon_keys = (struct kvt_soon){
			head_of(b->k, b->k_stride, t->first, b->k_type, p->k_dim, head + 1),
			b->k_stride, t->nr };
}

/* Set up the keys and values of a head. */
static void open_head(struct tile *t, uint32_t head, uint32_t rows)
{
	const struct kvt_attend_params *p = &t->w->params;
	const struct kvt_seq_block *b = t->block;
	const struct kvt_isa *isa = t->w->isa;

	t->scratch->ahead_keys = t->next_keys;
	t->scratch->ahead_values = t->next_values;
	t->next_keys.at += t->next_keys.bytes;
	t->next_values.at += t->next_values.bytes;
	t->key_type = b->k_type;
	t->keys =
		(struct kvt_rows){ head_of(b->k, b->k_stride, t->first, b->k_type, p->k_dim, head),
				   b->k_stride, t->nr, p->k_dim };
	if (decoded(isa, b->k_type, rows, isa->score[b->k_type] != NULL))
		decode(isa, &t->key_type, &t->keys, t->scratch->keys, &t->scratch->ahead_keys);
	if (!b->v) {
		t->values = t->keys;
		t->value_type = t->key_type;
		t->values.dim = p->v_dim;
	} else {
		t->value_type = b->v_type;
		t->values = (struct kvt_rows){ head_of(b->v, b->v_stride, t->first, b->v_type,
						       p->v_dim, head),
					       b->v_stride, t->nr, p->v_dim };
	}
	if (decoded(isa, t->value_type, rows, isa->add[t->value_type] != NULL))
		decode(isa, &t->value_type, &t->values, t->scratch->values,
		       &t->scratch->ahead_values);
}

/* Cut [low, high) of the block to the tile, and count from its first row. */
static bool in_tile(const struct tile *t, uint32_t *low, uint32_t *high)
{
	*low = *low > t->first ? *low - t->first : 0;
	*high = *high > t->first ? *high - t->first : 0;
	if (*high > t->nr)
		*high = t->nr;
	return *low < *high;
}

/* Scores [from, to) count for nothing. */
static void hide(float *s, uint32_t from, uint32_t to)
{
	for (; from < to; from++)
		s[from] = -INFINITY;
}

static void add_range(const struct tile *t, uint32_t low, uint32_t high, const float *p,
		      float shrink, float *o)
{
	struct kvt_rows rows = t->values;

	rows.base += low * rows.stride;
	rows.nr = high - low;
	t->w->isa->add[t->value_type](&rows, p + low, &shrink, 1, o, t->w->v_pad, t->scratch);
}

/* A row that does not see all of the tile.  What it does not see is never multiplied. */
static void row_of_some(const struct tile *t, struct kvt_range range, float *s, float *sums,
			float *o)
{
	uint32_t sink_low = 0, sink_high = range.sink, low = range.low, high = range.high;
	bool sinks = in_tile(t, &sink_low, &sink_high), rest = in_tile(t, &low, &high);
	float shrink[KVT_ROWS];

	hide(s, sinks ? sink_high : 0, rest ? low : t->nr);
	if (rest)
		hide(s, high, t->nr);
	if (!sinks && !rest)
		return;
	t->w->isa->softmax(s, 1, sums, shrink);
	if (sinks)
		add_range(t, sink_low, sink_high, s, shrink[0], o);
	if (rest)
		add_range(t, low, high, s, sinks ? 1 : shrink[0], o);
}

/* Query rows [row, row + nr) of a head. */
static void tile_rows_run(const struct tile *t, uint32_t row, uint32_t nr, const char *queries,
			  float *sums, float *o)
{
	const struct kvt_work *w = t->w;
	float *s = t->scratch->scores, shrink[KVT_ROWS];
	struct kvt_ahead *ahead = &t->scratch->ahead_values;
	uint32_t pace = kvt_ahead_pace(ahead, 8 * nr), i; /* a part of it for the softmax */

	w->isa->score[t->key_type](&t->keys, queries, w->query_bytes, nr, s, t->scratch);
	ahead->bytes -= ahead->bytes / 8;
	for (i = 0; i < nr; i++, s += KVT_TILE) {
		kvt_ahead_fetch(ahead, pace);
		w->isa->cap(s, w->params.scale, w->params.softcap);
		hide(s, t->nr, KVT_TILE);
		if (t->sight != ALL)
			row_of_some(t, kvt_range_of(&w->params, t->block,
						    position_of(w, t->seq, (row + i) / w->group)),
				    s, &sums[2 * i], o + (size_t)i * w->v_pad);
	}
	if (t->sight != ALL)
		return;
	w->isa->softmax(t->scratch->scores, nr, sums, shrink);
	w->isa->add[t->value_type](&t->values, t->scratch->scores, shrink, nr, o, w->v_pad,
				   t->scratch);
}

static void head_run(struct tile *t, uint32_t leaf, uint32_t head, bool last)
{
	const struct kvt_work *w = t->w;
	uint32_t rows = kvt_work_rows(w, t->seq), row, nr;
	size_t partial = kvt_work_partial(w, leaf, head);
	const char *queries = w->queries + kvt_work_query(w, t->seq, head) * w->query_bytes;

	look_soon(t, head, last);
	open_head(t, head, rows);
	for (row = 0; row < rows; row += nr) {
		nr = rows - row < KVT_ROWS ? rows - row : KVT_ROWS;
		tile_rows_run(t, row, nr, queries + (size_t)row * w->query_bytes,
			      w->sums + 2 * (partial + row),
			      w->outputs + (partial + row) * w->v_pad);
	}
}

/* Nothing attended to yet. */
static void clear(const struct kvt_work *w, const struct kvt_task *task, bool outputs)
{
	uint32_t rows = kvt_work_rows(w, w->leaves[task->leaf].seq) * task->heads, i;
	size_t partial = kvt_work_partial(w, task->leaf, task->head);

	for (i = 0; i < rows; i++) {
		w->sums[2 * (partial + i)] = -INFINITY;
		w->sums[2 * (partial + i) + 1] = 0;
	}
	if (outputs)
		memset(w->outputs + partial * w->v_pad, 0,
		       (size_t)rows * w->v_pad * sizeof(*w->outputs));
}

void kvt_task_run(const struct kvt_work *w, const struct kvt_task *task,
		  const struct kvt_task *after, struct kvt_scratch *scratch)
{
	const struct kvt_leaf *leaf = &w->leaves[task->leaf];
	struct tile t = { .w = w, .block = kvt_leaf_block(w, leaf), .scratch = scratch,
			  .seq = leaf->seq };
	bool seen = sight_of(w, t.seq, t.block, leaf->first, leaf->rows) != NOTHING;
	uint32_t done, head;

	clear(w, task, seen);
	for (done = 0; seen && done < leaf->rows; done += t.nr) {
		t.first = leaf->first + done;
		t.nr = tile_rows(leaf, done);
		t.sight = sight_of(w, t.seq, t.block, t.first, t.nr);
		if (t.sight == NOTHING)
			continue;
		look_after(&t, task, after, done + t.nr);
		for (head = task->head; head < task->head + task->heads; head++)
			if (kvt_mask_has(&w->seqs[t.seq], head, leaf->block))
				head_run(&t, task->leaf, head,
					 head + 1 == (uint32_t)task->head + task->heads);
	}
}
