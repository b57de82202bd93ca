// SPDX-License-Identifier: MIT
/* The plan of a call: leaves, tasks, passes, and where partials go. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attend.h"
#include "error.h"

#define PARTIALS_MAX (256ul << 20) /* bytes of partials of one pass, where it can be kept */
#define TASKS_PER_THREAD 4

static uint32_t leaves_of(const struct kvt_seq_block *b)
{
	return b->tokens / KVT_LEAF + (b->tokens % KVT_LEAF != 0);
}

static uint64_t leaves_of_seq(const struct kvt_attend_seq *s)
{
	uint64_t nr = 0;
	uint32_t i;

	for (i = 0; i < s->nr_blocks; i++)
		nr += leaves_of(&s->blocks[i]);
	return nr;
}

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* What the plan needs, counted before there is memory for it. */
struct count {
	uint64_t leaves;
	uint64_t blocks;
	uint64_t tasks;
	uint64_t partials; /* rows, of one pass */
	uint64_t queries; /* rows, of one pass */
	uint64_t outputs; /* rows, of all passes */
	uint32_t tokens; /* the most query tokens of a sequence */
	uint32_t heads; /* of a task */
};

static void count_plan(const struct kvt_work *w, struct count *c)
{
	uint32_t i;

	memset(c, 0, sizeof(*c));
	c->tokens = 1;
	for (i = 0; i < w->nr_seqs; i++) {
		c->leaves += leaves_of_seq(&w->seqs[i]);
		c->blocks += w->seqs[i].nr_blocks;
		c->outputs += (uint64_t)w->seqs[i].q_tokens * w->params.q_heads;
		if (w->seqs[i].q_tokens > c->tokens)
			c->tokens = w->seqs[i].q_tokens;
	}
}

static void count_rows(const struct kvt_work *w, struct count *c)
{
	uint64_t rows;
	uint32_t i;

	c->partials = 0;
	c->queries = 0;
	for (i = 0; i < w->nr_seqs; i++) {
		rows = (uint64_t)least(w->seqs[i].q_tokens, w->q_tile) * w->params.q_heads;
		c->queries += rows;
		c->partials += rows * leaves_of_seq(&w->seqs[i]);
	}
}

/* Query tokens of a pass: all, or as many as keep partials small. */
static void choose_tile(struct kvt_work *w, struct count *c)
{
	w->q_tile = c->tokens;
	for (;;) {
		count_rows(w, c);
		if (w->q_tile == 1 || c->partials * (w->v_pad + 2) * 4 <= PARTIALS_MAX)
			break;
		w->q_tile = (w->q_tile + 1) / 2;
	}
	w->passes = (c->tokens + w->q_tile - 1) / w->q_tile;
}

/* Few leaves are cut by heads, so that every thread has something to do. */
static void choose_heads(const struct kvt_work *w, struct count *c, uint32_t threads)
{
	uint64_t wanted = threads > 1 ? (uint64_t)threads * TASKS_PER_THREAD : 1;
	uint32_t cuts = 1;

	while (cuts < w->params.kv_heads && cuts * c->leaves < wanted)
		cuts++;
	c->heads = 1 + (w->params.kv_heads - 1) / cuts;
	c->tasks = c->leaves * ((w->params.kv_heads + c->heads - 1) / c->heads);
}

/* The next @bytes of the memory; with no memory yet, only how much it has to be. */
static void *take(char *memory, size_t *used, size_t bytes)
{
	char *at = memory ? memory + *used : NULL;

	*used += (bytes + 63) / 64 * 64;
	return at;
}

static size_t place(struct kvt_work *w, const struct count *c, char *memory)
{
	size_t used = 0;

	w->leaves = take(memory, &used, c->leaves * sizeof(*w->leaves));
	w->seq_leaf = take(memory, &used, (w->nr_seqs + 1ul) * sizeof(*w->seq_leaf));
	w->tasks = take(memory, &used, c->tasks * sizeof(*w->tasks));
	w->seq_block = take(memory, &used, (w->nr_seqs + 1ul) * sizeof(*w->seq_block));
	w->block_task = take(memory, &used, (c->blocks + 1) * sizeof(*w->block_task));
	w->states = take(memory, &used, c->blocks * sizeof(*w->states));
	w->queries = take(memory, &used, c->queries * w->query_bytes);
	w->bad = take(memory, &used, c->queries);
	w->query_row = take(memory, &used, w->nr_seqs * sizeof(*w->query_row));
	w->outputs = take(memory, &used, c->partials * w->v_pad * sizeof(float));
	w->sums = take(memory, &used, c->partials * 2 * sizeof(float));
	w->partial_row = take(memory, &used, w->nr_seqs * sizeof(*w->partial_row));
	w->staged = take(memory, &used, c->outputs * w->params.v_dim * sizeof(float));
	w->staged_lse = take(memory, &used, c->outputs * sizeof(float));
	w->staged_row = take(memory, &used, w->nr_seqs * sizeof(*w->staged_row));
	return used;
}

/* Memory that is large enough, kept from call to call: fresh pages would cost a fault each. */
static int provide(struct kvt_attend *attend, size_t bytes)
{
	if (attend->memory_bytes >= bytes)
		return 0;
	free(attend->memory);
	attend->memory = aligned_alloc(64, bytes);
	attend->memory_bytes = attend->memory ? bytes : 0;
	return attend->memory ? 0 : kvt_fail(-ENOMEM, "no memory for partial results: %zu MiB; "
					     "attend to fewer sequences at once", bytes >> 20);
}

/* The tasks of a leaf. */
static uint32_t cut_heads(struct kvt_work *w, const struct count *c, uint32_t leaf, uint32_t task)
{
	uint32_t head;

	for (head = 0; head < w->params.kv_heads; head += c->heads)
		w->tasks[task++] = (struct kvt_task){
			leaf, (uint16_t)head, (uint16_t)least(c->heads, w->params.kv_heads - head)
		};
	return task;
}

/* The leaves and tasks of a block. */
static void cut_block(struct kvt_work *w, const struct count *c, uint32_t seq, uint32_t block)
{
	uint32_t tokens = w->seqs[seq].blocks[block].tokens, first;

	w->block_task[kvt_work_block(w, seq, block)] = w->nr_tasks;
	memset(&w->states[kvt_work_block(w, seq, block)], 0, sizeof(*w->states));
	for (first = 0; first < tokens; first += KVT_LEAF) {
		w->leaves[w->nr_leaves] = (struct kvt_leaf){
			seq, block, first, least(KVT_LEAF, tokens - first)
		};
		w->nr_tasks = cut_heads(w, c, w->nr_leaves++, w->nr_tasks);
		if (tokens - first <= KVT_LEAF)
			break;
	}
}

static void cut_all(struct kvt_work *w, const struct count *c)
{
	size_t queries = 0, partials = 0, outputs = 0, rows;
	uint32_t seq, i;

	w->seq_block[0] = 0;
	for (seq = 0; seq < w->nr_seqs; seq++) {
		w->seq_leaf[seq] = w->nr_leaves;
		w->seq_block[seq + 1] = w->seq_block[seq] + w->seqs[seq].nr_blocks;
		for (i = 0; i < w->seqs[seq].nr_blocks; i++)
			cut_block(w, c, seq, i);
		rows = (size_t)least(w->seqs[seq].q_tokens, w->q_tile) * w->params.q_heads;
		w->query_row[seq] = queries;
		w->partial_row[seq] = partials;
		w->staged_row[seq] = outputs;
		queries += rows;
		partials += rows * (w->nr_leaves - w->seq_leaf[seq]);
		outputs += (size_t)w->seqs[seq].q_tokens * w->params.q_heads;
	}
	w->seq_leaf[seq] = w->nr_leaves;
	w->block_task[w->seq_block[seq]] = w->nr_tasks;
}

int kvt_work_init(struct kvt_work *w, struct kvt_attend *attend,
		  const struct kvt_attend_params *params, const struct kvt_attend_seq *seqs,
		  uint32_t nr)
{
	struct count c;
	int ret;

	memset(w, 0, sizeof(*w));
	w->params = *params;
	if (w->params.scale == 0)
		w->params.scale = 1 / sqrtf((float)params->k_dim);
	w->seqs = seqs;
	w->nr_seqs = nr;
	w->isa = attend->isa;
	w->group = params->q_heads / params->kv_heads;
	w->v_pad = kvt_pad(params->v_dim);
	w->query_bytes = w->isa->query_bytes(params->k_dim);
	count_plan(w, &c);
	choose_tile(w, &c);
	choose_heads(w, &c, kvt_team_threads(attend->team));
	if (c.tasks > INT32_MAX || c.blocks > INT32_MAX)
		return kvt_fail(-EINVAL, "%llu pieces of sequences are too many for one call",
				(unsigned long long)c.tasks);
	ret = provide(attend, place(w, &c, NULL));
	if (ret)
		return ret;
	place(w, &c, attend->memory);
	cut_all(w, &c);
	return 0;
}

static bool all_finite(const float *q, uint32_t dim)
{
	float sum = 0;
	uint32_t i;

	for (i = 0; i < dim; i++)
		sum += q[i] - q[i];
	return sum == 0;
}

static void prepare_row(struct kvt_work *w, const float *q, size_t row)
{
	static const float zero[KVT_DIM_MAX];

	w->bad[row] = !all_finite(q, w->params.k_dim);
	w->isa->prepare(w->bad[row] ? zero : q, w->params.k_dim,
			w->queries + row * w->query_bytes);
}

static void prepare_seq(struct kvt_work *w, uint32_t seq)
{
	const struct kvt_attend_seq *s = &w->seqs[seq];
	size_t stride = s->q_stride ? s->q_stride : (size_t)w->params.q_heads * w->params.k_dim * 4;
	uint32_t token, head, tokens = kvt_work_tokens(w, seq);

	for (token = 0; token < tokens; token++) {
		const char *q = (const char *)s->q + (w->pass * (size_t)w->q_tile + token) * stride;

		for (head = 0; head < w->params.q_heads; head++)
			prepare_row(w,
				    (const float *)(const void *)q + (size_t)head * w->params.k_dim,
				    kvt_work_query(w, seq, head / w->group) + token * w->group +
					    head % w->group);
	}
}

void kvt_work_start(struct kvt_work *w, uint32_t pass)
{
	uint32_t seq;

	w->pass = pass;
	for (seq = 0; seq < w->nr_seqs; seq++)
		prepare_seq(w, seq);
}

bool kvt_mask_has(const struct kvt_attend_seq *s, uint32_t head, uint32_t block)
{
	return !s->mask || s->mask[(size_t)head * s->mask_stride + block / 8] >> block % 8 & 1;
}

bool kvt_work_wants(const struct kvt_work *w, uint32_t seq, uint32_t block)
{
	const struct kvt_attend_seq *s = &w->seqs[seq];
	const struct kvt_seq_block *b = &s->blocks[block];
	struct kvt_range early = kvt_range_of(&w->params, b, s->q_position);
	struct kvt_range late = kvt_range_of(&w->params, b, s->q_position + s->q_tokens - 1);
	uint32_t head = 0;

	while (head < w->params.kv_heads && !kvt_mask_has(s, head, block))
		head++;
	return head < w->params.kv_heads && (late.sink || early.low < late.high);
}
