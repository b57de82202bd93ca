// SPDX-License-Identifier: MIT
/* Description: the same bits for any threads, order, place and company; what is not a number. */
#include <fenv.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "attend.h"
#include "attend_case.h"

#define ROUNDS 12

/* Hands out tasks in a random order, and now and then says that none is ready. */
struct shuffled {
	struct kvt_source source;
	pthread_mutex_t lock;
	uint32_t *order;
	uint32_t nr;
	uint32_t next;
	uint32_t done;
};

static void shuffled_start(struct kvt_source *source, const struct kvt_work *work)
{
	struct shuffled *s = (struct shuffled *)source;
	uint32_t i, other, swap;

	free(s->order);
	s->order = need(work->nr_tasks * sizeof(*s->order));
	s->nr = work->nr_tasks;
	s->next = 0;
	s->done = 0;
	for (i = 0; i < s->nr; i++)
		s->order[i] = i;
	for (i = s->nr; i > 1; i--) {
		other = (uint32_t)((noise() + 1) * 0.5f * (float)i) % i;
		swap = s->order[i - 1];
		s->order[i - 1] = s->order[other];
		s->order[other] = swap;
	}
}

static int64_t shuffled_next(struct kvt_source *source, unsigned int worker, bool wait)
{
	struct shuffled *s = (struct shuffled *)source;
	int64_t task;

	(void)worker;
	pthread_mutex_lock(&s->lock);
	if (s->next == s->nr)
		task = KVT_TASK_NONE;
	else if (!wait && s->next % 3 == 0)
		task = KVT_TASK_LATER;
	else
		task = s->order[s->next++];
	pthread_mutex_unlock(&s->lock);
	return task;
}

static void shuffled_done(struct kvt_source *source, uint32_t task, unsigned int worker)
{
	struct shuffled *s = (struct shuffled *)source;

	(void)task;
	(void)worker;
	pthread_mutex_lock(&s->lock);
	s->done++;
	pthread_mutex_unlock(&s->lock);
}

static void run_shuffled(const struct problem *p, struct kvt_attend *attend, float *out, float *lse)
{
	struct shuffled s = { .source = { shuffled_start, shuffled_next, shuffled_done } };
	struct kvt_attend_seq seq = p->seq;
	struct kvt_work w;

	seq.out = out;
	seq.lse = lse;
	pthread_mutex_init(&s.lock, NULL);
	pthread_mutex_lock(&attend->lock);
	assert_int_equal(kvt_work_init(&w, attend, &p->params, &seq, 1), 0);
	assert_int_equal(kvt_work_run(attend, &w, &s.source), 0);
	pthread_mutex_unlock(&attend->lock);
	assert_int_equal(s.done, s.nr);
	pthread_mutex_destroy(&s.lock);
	free(s.order);
}

/* The same numbers at other addresses. */
static struct kvt_seq_block *elsewhere(const struct problem *p)
{
	struct kvt_seq_block *blocks = need(p->seq.nr_blocks * sizeof(*blocks));
	uint32_t i;

	memcpy(blocks, p->blocks, p->seq.nr_blocks * sizeof(*blocks));
	for (i = 0; i < p->seq.nr_blocks; i++) {
		size_t k = (size_t)blocks[i].tokens * blocks[i].k_stride;
		size_t v = (size_t)blocks[i].tokens * blocks[i].v_stride;
		size_t shift = 4 * (size_t)(i % 16);
		char *to = need(k + v + 64);

		memcpy(to + shift, blocks[i].k, k);
		memcpy(to + shift + k, blocks[i].v, v);
		blocks[i].k = to + shift;
		blocks[i].v = to + shift + k;
	}
	return blocks;
}

static void free_elsewhere(struct kvt_seq_block *blocks, uint32_t nr)
{
	uint32_t i;

	for (i = 0; i < nr; i++)
		free((char *)(uintptr_t)blocks[i].k - 4 * (size_t)(i % 16));
	free(blocks);
}

static const struct shape mixed = {
	.q_heads = 12, .kv_heads = 4, .k_dim = 64, .v_dim = 72, .tokens = 2000, .block = 300,
	.q_tokens = 3, .flags = KVT_CAUSAL, .k_type = KVT_F16, .v_type = KVT_INT8,
};

/* Threads, order of arrival and places, all at once, for each instruction set. */
static void shuffles(const char *isa)
{
	struct kvt_attend *first = attend_with(isa, 1);
	struct kvt_seq_block *moved, *blocks;
	float *out, *lse, *again, *lse_again;
	size_t rows, round;
	struct problem p;

	if (!first)
		return;
	problem_init(&p, &mixed);
	problem_ready(&p);
	rows = problem_rows(&p);
	out = need(rows * 72 * sizeof(float));
	again = need(rows * 72 * sizeof(float));
	lse = need(rows * sizeof(float));
	lse_again = need(rows * sizeof(float));
	problem_run(&p, first, out, lse);
	moved = elsewhere(&p);
	blocks = p.blocks;
	for (round = 0; round < ROUNDS; round++) {
		struct kvt_attend *attend = attend_with(isa, 1 + (uint32_t)round % 5);

		memset(again, 0xff, rows * 72 * sizeof(float));
		p.seq.blocks = round % 2 ? moved : blocks;
		run_shuffled(&p, attend, again, lse_again);
		assert_memory_equal(out, again, rows * 72 * sizeof(float));
		assert_memory_equal(lse, lse_again, rows * sizeof(float));
		kvt_attend_destroy(attend);
	}
	free_elsewhere(moved, p.seq.nr_blocks);
	problem_exit(&p);
	free(out);
	free(again);
	free(lse);
	free(lse_again);
	kvt_attend_destroy(first);
}

static void shuffled_tasks(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(isas) / sizeof(isas[0]); i++)
		shuffles(isas[i]);
}

/* A copy between pages that nobody may touch, against the one before it or the one behind. */
struct walled {
	char *map;
	size_t pages;
	char *at;
};

static struct walled wall(const void *from, size_t bytes, bool behind)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct walled w = { .pages = (bytes + page - 1) / page * page };

	w.map = mmap(NULL, w.pages + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(w.map != MAP_FAILED);
	assert_int_equal(mprotect(w.map + page, w.pages, PROT_READ | PROT_WRITE), 0);
	w.at = w.map + page + (behind ? w.pages - bytes : 0);
	memcpy(w.at, from, bytes);
	w.pages += 2 * page;
	return w;
}

static void walls_check(const struct problem *p, struct kvt_attend *attend, const float *out,
			bool behind)
{
	size_t bytes = p->shape.kv_heads * kvt_row_bytes(p->shape.k_type, p->shape.k_dim);
	size_t all = (p->shape.tokens - 1) * (size_t)p->blocks[0].k_stride + bytes;
	struct walled k = wall(p->blocks[0].k, all, behind), v = wall(p->blocks[0].v, all, behind);
	struct kvt_seq_block block = p->blocks[0];
	size_t rows = problem_rows(p);
	float *again = need(rows * p->shape.v_dim * sizeof(float)),
	      *lse = need(rows * sizeof(float));
	struct problem moved = *p;

	block.k = k.at;
	block.v = v.at;
	moved.seq.blocks = &block;
	problem_run(&moved, attend, again, lse);
	assert_memory_equal(out, again, rows * p->shape.v_dim * sizeof(float));
	munmap(k.map, k.pages);
	munmap(v.map, v.pages);
	free(again);
	free(lse);
}

static void walls_of(const char *isa, uint32_t type, uint32_t dim, uint32_t tokens)
{
	struct shape shape = { .q_heads = 6, .kv_heads = 2, .k_dim = dim, .v_dim = dim,
			       .tokens = tokens, .k_type = type, .v_type = type };
	struct kvt_attend *attend = attend_with(isa, 1);
	float *out, *lse;
	struct problem p;

	if (!attend)
		return;
	problem_init(&p, &shape);
	problem_ready(&p);
	out = need(problem_rows(&p) * dim * sizeof(float));
	lse = need(problem_rows(&p) * sizeof(float));
	problem_run(&p, attend, out, lse);
	walls_check(&p, attend, out, false);
	walls_check(&p, attend, out, true);
	problem_exit(&p);
	kvt_attend_destroy(attend);
	free(out);
	free(lse);
}

/* Nothing is read but the rows, whatever vectors would take. */
static void between_walls(void **state)
{
	static const uint32_t dims[] = { 8, 32, 40, 96, 128 }, tokens[] = { 1, 17, 64, 67 };
	uint32_t isa, type, d, t;

	(void)state;
	for (isa = 0; isa < sizeof(isas) / sizeof(*isas); isa++)
		for (type = 0; type < KVT_TYPES; type++)
			for (d = 0; d < sizeof(dims) / sizeof(*dims); d++)
				for (t = 0; kvt_row_bytes(type, dims[d]) && t < 4; t++)
					walls_of(isas[isa], type, dims[d], tokens[t]);
}

/* A query token computed beside others has the bits that it has alone. */
static void company(void **state)
{
	struct shape s = mixed;
	struct kvt_attend *attend;
	float *out, *alone;
	struct problem p;
	uint32_t i, t;

	(void)state;
	s.q_tokens = 37;
	problem_init(&p, &s);
	problem_ready(&p);
	out = need(problem_rows(&p) * 72 * sizeof(float));
	alone = need(12 * 72 * sizeof(float));
	for (i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
		attend = attend_with(isas[i], 2);
		if (!attend)
			continue;
		problem_run(&p, attend, out, NULL);
		for (t = 0; t < s.q_tokens; t += 9) {
			struct problem one = p;

			one.seq.q_tokens = 1;
			one.seq.q_position += t;
			one.seq.q += t * s.q_heads * s.k_dim;
			problem_run(&one, attend, alone, NULL);
			assert_memory_equal(alone, out + (size_t)t * 12 * 72,
					    12 * 72 * sizeof(float));
		}
		kvt_attend_destroy(attend);
	}
	free(out);
	free(alone);
	problem_exit(&p);
}

/* The caller's floating point modes change no bit, and are as before afterwards. */
static void caller_modes(void **state)
{
	struct kvt_attend *attend = attend_with(NULL, 1);
	struct shape s = mixed;
	float *out, *again;
	struct problem p;

	(void)state;
	problem_init(&p, &s);
	problem_ready(&p);
	out = need(problem_rows(&p) * 72 * sizeof(float));
	again = need(problem_rows(&p) * 72 * sizeof(float));
	problem_run(&p, attend, out, NULL);
	fesetround(FE_UPWARD);
#if defined(__x86_64__)
	_mm_setcsr(_mm_getcsr() | 0x8040); /* denormals are zero, in and out */
#endif
	problem_run(&p, attend, again, NULL);
	assert_int_equal(fegetround(), FE_UPWARD);
#if defined(__x86_64__)
	assert_int_equal(_mm_getcsr() & 0x8040, 0x8040);
	_mm_setcsr(_mm_getcsr() & ~0x8040u);
#endif
	fesetround(FE_TONEAREST);
	assert_memory_equal(out, again, problem_rows(&p) * 72 * sizeof(float));
	free(out);
	free(again);
	problem_exit(&p);
	kvt_attend_destroy(attend);
}

/* Blocks of a pool, most of them on a file, give what plain memory gives. */
static void over_a_pool(void **state)
{
	struct kvt_config config = KVT_CONFIG_INIT;
	struct kvt_seq_block *moved;
	struct kvt_attend *attend;
	float out[12 * 72 * 3], again[12 * 72 * 3];
	struct kvt_pool *pool;
	struct shape s = mixed;
	struct problem p;
	uint32_t i;
	char *at;

	(void)state;
	config.pager = KVT_PAGER_USER;
	config.bytes = 8 << 20;
	config.block_bytes = KVT_BLOCK_MIN;
	config.dram_bytes = 2 << 20;
	config.nvme_path = "/tmp";
	if (kvt_pool_create(&config, &pool))
		skip(); /* userfaultfd or io_uring is forbidden here */
	attend = attend_with(NULL, 2);
	problem_init(&p, &s);
	problem_ready(&p);
	problem_run(&p, attend, out, NULL);
	moved = need(p.seq.nr_blocks * sizeof(*moved));
	memcpy(moved, p.blocks, p.seq.nr_blocks * sizeof(*moved));
	for (i = 0; i < p.seq.nr_blocks; i++) {
		at = (char *)kvt_pool_addr(pool) + (size_t)i * (512 << 10);
		memcpy(at, moved[i].k, (size_t)moved[i].tokens * moved[i].k_stride);
		memcpy(at + (256 << 10), moved[i].v, (size_t)moved[i].tokens * moved[i].v_stride);
		moved[i].k = at;
		moved[i].v = at + (256 << 10);
	}
	p.seq.blocks = moved;
	for (i = 0; i < 3; i++) {
		kvt_demote(pool, (uint64_t)i * (1 << 20), 2 << 20);
		problem_run(&p, attend, again, NULL);
		assert_memory_equal(out, again, sizeof(out));
	}
	p.seq.blocks = p.blocks;
	free(moved);
	problem_exit(&p);
	kvt_attend_destroy(attend);
	kvt_pool_destroy(pool);
}

static bool all_nan(const float *x, size_t nr)
{
	while (nr--)
		if (!isnan(x[nr]))
			return false;
	return true;
}

/* What is not a number, put into one place of one head; the other head is not touched. */
struct poison {
	const char *name;
	uint32_t type;
	float q, k, v; /* 0: leave it */
	bool row; /* the whole row is NaN, else only the element */
};

static const struct poison poisons[] = {
	{ "q NaN", KVT_F16, .q = NAN, .row = true },
	{ "q infinite", KVT_F16, .q = INFINITY, .row = true },
	{ "q infinite, bytes", KVT_INT8, .q = -INFINITY, .row = true },
	{ "k NaN", KVT_F32, .k = NAN, .row = true },
	{ "k NaN, half", KVT_F16, .k = NAN, .row = true },
	{ "k NaN, bf16", KVT_BF16, .k = NAN, .row = true },
	{ "k NaN, e4m3", KVT_E4M3, .k = NAN, .row = true },
	{ "k NaN, e5m2", KVT_E5M2, .k = NAN, .row = true },
	{ "k scale", KVT_INT8, .k = NAN, .row = true },
	{ "k group scale", KVT_Q8_0, .k = INFINITY, .row = true },
	{ "k nibble scale", KVT_Q4_0, .k = NAN, .row = true },
	{ "v NaN", KVT_F32, .v = NAN },
	{ "v NaN, half", KVT_F16, .v = NAN },
	{ "v scale", KVT_INT8, .v = NAN, .row = true },
};

static void poison_check(const struct poison *poison, const char *isa)
{
	struct shape s = { .q_heads = 4, .kv_heads = 2, .k_dim = 64, .v_dim = 64, .tokens = 100,
			   .k_type = poison->type, .v_type = poison->type };
	struct kvt_attend *attend = attend_with(isa, 1);
	float out[4 * 64], lse[4];
	struct problem p;
	uint32_t i;

	if (!attend)
		return;
	problem_init(&p, &s);
	if (poison->q != 0)
		p.q[17] = poison->q;
	if (poison->k != 0)
		p.k[(50 * 2) * 64 + 17] = poison->k;
	if (poison->v != 0)
		p.v[(50 * 2) * 64 + 17] = poison->v;
	problem_ready(&p);
	problem_run(&p, attend, out, lse);
	if (poison->row ? !all_nan(out, 64) : !isnan(out[17]) || isnan(out[16]))
		fail_msg("%s, %s: head 0 is %g %g", isa, poison->name, (double)out[16],
			 (double)out[17]);
	if (isnan(lse[0]) != (poison->row && poison->v == 0))
		fail_msg("%s, %s: lse is %g", isa, poison->name, (double)lse[0]);
	for (i = 2 * 64; i < 4 * 64; i++) /* the heads of the other keys */
		if (isnan(out[i]))
			fail_msg("%s, %s: head 2 is NaN", isa, poison->name);
	problem_exit(&p);
	kvt_attend_destroy(attend);
}

static void not_numbers(void **state)
{
	size_t i, j;

	(void)state;
	for (i = 0; i < sizeof(poisons) / sizeof(poisons[0]); i++)
		for (j = 0; j < sizeof(isas) / sizeof(isas[0]); j++)
			poison_check(&poisons[i], isas[j]);
}

/* A score of -infinity is a weight of 0; when all are, nothing was attended to. */
static void minus_infinity(void **state)
{
	struct shape s = { .q_heads = 2, .kv_heads = 1, .k_dim = 64, .v_dim = 64, .tokens = 100 };
	float out[2 * 64], lse[2];
	struct kvt_attend *attend;
	struct problem p;
	size_t i, round;
	uint32_t t, d;

	(void)state;
	for (i = 0; i < sizeof(isas) / sizeof(isas[0]); i++)
		for (round = 0; round < 2; round++) {
			attend = attend_with(isas[i], 1);
			if (!attend)
				continue;
			problem_init(&p, &s);
			for (d = 0; d < 128; d++)
				p.q[d] = fabsf(p.q[d]) + 0.1f;
			for (t = 0; t < (round ? 100u : 60u); t++)
				p.k[t * 64 + 5] = -INFINITY;
			problem_ready(&p);
			for (d = 0; d < 2; d++) /* infinite in the bound too */
				p.most_score[d] = 50;
			problem_run(&p, attend, out, lse);
			check_row(&p, isas[i], 0, out, lse[0]);
			check_row(&p, isas[i], 1, out + 64, lse[1]);
			assert_true(!round || lse[0] == -INFINITY);
			problem_exit(&p);
			kvt_attend_destroy(attend);
		}
}

/* What is masked is never looked at: neither rows beyond a causal end nor masked blocks. */
static void masked_is_unseen(void **state)
{
	struct shape s = { .q_heads = 4, .kv_heads = 2, .k_dim = 64, .v_dim = 64, .tokens = 200,
			   .block = 90, .q_tokens = 2, .flags = KVT_CAUSAL };
	uint8_t mask = 0x5;
	float out[2 * 4 * 64], again[2 * 4 * 64];
	struct kvt_attend *attend;
	struct problem p;
	size_t i;
	uint32_t t;

	(void)state;
	for (s.k_type = KVT_F32; s.k_type <= KVT_INT8; s.k_type += KVT_INT8)
		for (i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
			attend = attend_with(isas[i], 1);
			if (!attend)
				continue;
			s.v_type = s.k_type;
			problem_init(&p, &s);
			problem_ready(&p);
			p.seq.mask = &mask;
			p.seq.q_position = 184; /* sees rows 180..185 of block 2 */
			problem_run(&p, attend, out, NULL);
			memset((char *)(uintptr_t)p.blocks[1].v, 0xff, 90 * p.blocks[1].v_stride);
			for (t = 6; t < 20; t++)
				memset((char *)(uintptr_t)p.blocks[2].v + t * p.blocks[2].v_stride,
				       0xff, 2 * kvt_row_bytes(s.k_type, 64));
			problem_run(&p, attend, again, NULL);
			assert_memory_equal(out, again, sizeof(out));
			assert_false(isnan(again[0]));
			p.seq.mask = NULL;
			problem_exit(&p);
			kvt_attend_destroy(attend);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shuffled_tasks),
		cmocka_unit_test(between_walls),
		cmocka_unit_test(company),
		cmocka_unit_test(caller_modes),
		cmocka_unit_test(over_a_pool),
		cmocka_unit_test(not_numbers),
		cmocka_unit_test(minus_infinity),
		cmocka_unit_test(masked_is_unseen),
	};

	return cmocka_run_group_tests_name("attend_bits", tests, NULL, NULL);
}
