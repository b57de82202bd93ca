// SPDX-License-Identifier: MIT
/* Description: bad input to attention: an error that says what, and outputs as they were. */
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attend.h"
#include "attend_case.h"

#define ROWS 4
#define DIM 64
#define UNTOUCHED 0x2a

/* A good call, to be spoilt in one place. */
struct call {
	struct problem p;
	struct kvt_attend_params params;
	struct kvt_attend_seq seqs[2];
	struct kvt_seq_block blocks[2];
	float out[2][ROWS * DIM + 8];
	float lse[2][ROWS];
	float mass[2][2];
};

static struct kvt_attend *attend;
static struct call call;

static void make_call(void)
{
	const struct shape s = { .q_heads = ROWS, .kv_heads = 2, .k_dim = DIM, .v_dim = DIM,
				 .tokens = 20, .block = 12, .k_type = KVT_F16, .v_type = KVT_INT8 };
	int i;

	problem_init(&call.p, &s);
	problem_ready(&call.p);
	call.params = call.p.params;
	memcpy(call.blocks, call.p.blocks, sizeof(call.blocks));
	for (i = 0; i < 2; i++) {
		call.seqs[i] = call.p.seq;
		call.seqs[i].blocks = call.blocks;
		call.seqs[i].out = call.out[i];
		call.seqs[i].lse = call.lse[i];
		call.seqs[i].mass = call.mass[i];
	}
	memset(call.out, UNTOUCHED, sizeof(call.out));
	memset(call.lse, UNTOUCHED, sizeof(call.lse));
	memset(call.mass, UNTOUCHED, sizeof(call.mass));
}

static bool untouched(const void *p, size_t bytes)
{
	const unsigned char *at = p;

	while (bytes--)
		if (at[bytes] != UNTOUCHED)
			return false;
	return true;
}

/* The call fails, its message has @text, and nothing was written. */
static void refused(const char *text)
{
	int ret = kvt_attend(attend, &call.params, call.seqs, 2);

	if (ret != -EINVAL)
		fail_msg("\"%s\": expected -EINVAL, got %d", text, ret);
	if (!strstr(kvt_error_detail(), text))
		fail_msg("expected \"%s\" in \"%s\"", text, kvt_error_detail());
	assert_null(strchr(kvt_error_detail(), '\n'));
	assert_true(untouched(call.out, sizeof(call.out)));
	assert_true(untouched(call.lse, sizeof(call.lse)));
	assert_true(untouched(call.mass, sizeof(call.mass)));
	problem_exit(&call.p);
	make_call();
}

static int set_up(void **state)
{
	(void)state;
	attend = attend_with(NULL, 2);
	make_call();
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	problem_exit(&call.p);
	kvt_attend_destroy(attend);
	return 0;
}

#define SPOIL(change, text)                                                                        \
	do {                                                                                       \
		change;                                                                            \
		refused(text);                                                                     \
	} while (0)

static void good_as_it_is(void **state)
{
	(void)state;
	assert_int_equal(kvt_attend(attend, &call.params, call.seqs, 2), 0);
	assert_false(untouched(call.lse, sizeof(call.lse)));
	problem_exit(&call.p);
	make_call();
}

static void params(void **state)
{
	(void)state;
	SPOIL(call.params.size = 8, "KVT_ATTEND_PARAMS_INIT");
	SPOIL(call.params.flags = 0x80, "flags");
	SPOIL(call.params.q_heads = 0, "heads");
	SPOIL(call.params.q_heads = 2048, "at most");
	SPOIL(call.params.q_heads = 5, "multiple");
	SPOIL(call.params.k_dim = 60, "k_dim");
	SPOIL(call.params.k_dim = 584, "k_dim");
	SPOIL(call.params.v_dim = 0, "v_dim");
	SPOIL(call.params.scale = NAN, "scale");
	SPOIL(call.params.softcap = -1, "softcap");
	SPOIL(call.params.epsilon = 1, "epsilon");
	SPOIL(call.params.epsilon = -0.1f, "epsilon");
	SPOIL(call.params.epsilon = NAN, "epsilon");
	SPOIL(call.params.window = 5, "KVT_CAUSAL");
	SPOIL(call.params.flags = KVT_CAUSAL; call.params.sinks = 5, "sinks");
}

static void sequences(void **state)
{
	(void)state;
	SPOIL(call.seqs[1].size = 0, "KVT_ATTEND_SEQ_INIT");
	SPOIL(call.seqs[1].q_tokens = 0, "query tokens");
	SPOIL(call.seqs[1].q_tokens = KVT_QUERY_MAX + 1, "query tokens");
	SPOIL(call.seqs[1].q = NULL, "q is NULL");
	SPOIL(call.seqs[1].out = NULL, "out is NULL");
	SPOIL(call.seqs[1].blocks = NULL, "no blocks");
	SPOIL(call.seqs[1].nr_blocks = 0, "no blocks");
	SPOIL(call.seqs[1].q_stride = 100, "q_stride");
	SPOIL(call.seqs[1].out_stride = ROWS * DIM * 4 + 2, "out_stride");
	SPOIL(call.seqs[1].out = (char *)call.out[1] + 1, "aligned");
	SPOIL(call.seqs[1].q_position = UINT64_MAX, "q_position");
}

static void blocks(void **state)
{
	(void)state;
	SPOIL(call.blocks[1].k = NULL, "k is NULL");
	SPOIL(call.blocks[1].tokens = 0, "no tokens");
	SPOIL(call.blocks[1].span = 1, "span");
	SPOIL(call.blocks[1].position = UINT64_MAX, "position");
	SPOIL(call.blocks[1].k_type = KVT_TYPES, "element type");
	SPOIL(call.blocks[1].v_type = 77, "element type");
	SPOIL(call.blocks[1].k_stride = 2 * DIM * 2 - 2, "k_stride");
	SPOIL(call.blocks[1].k_stride++, "k_stride");
	SPOIL(call.blocks[1].v_stride = 0, "v_stride");
	SPOIL(call.blocks[1].v = (const char *)call.blocks[1].v + 1, "aligned");
	SPOIL(call.params.k_dim = 72; call.params.v_dim = 72; call.blocks[0].k_stride = 4000;
	      call.blocks[0].v_stride = 4000; call.blocks[0].k_type = KVT_Q8_0, "multiples of 32");
	SPOIL(call.params.v_dim = 128; call.blocks[0].v = NULL; call.seqs[0].out_stride = 4096;
	      call.seqs[1].out_stride = 4096, "part");
}

static void overlaps(void **state)
{
	(void)state;
	SPOIL(call.seqs[1].out = call.out[0], "overlap");
	SPOIL(call.seqs[1].out = call.out[0] + ROWS * DIM - 1, "overlap");
	SPOIL(call.seqs[0].lse = call.out[1], "overlap");
	SPOIL(call.seqs[0].mass = call.lse[1], "overlap");
	SPOIL(call.seqs[0].q = call.out[1], "overlap");
	SPOIL(call.blocks[0].k = call.out[0]; call.blocks[0].tokens = 1, "overlap");
	SPOIL(call.blocks[1].v = call.lse[1]; call.blocks[1].tokens = 1, "overlap");
	SPOIL(call.params.sink_logits = call.lse[0], "overlap");
	SPOIL(call.seqs[0].mask = (const uint8_t *)call.mass[1], "overlap");
}

static void nothing_at_all(void **state)
{
	(void)state;
	assert_int_equal(kvt_attend(NULL, &call.params, call.seqs, 2), -EINVAL);
	assert_int_equal(kvt_attend(attend, NULL, call.seqs, 2), -EINVAL);
	assert_int_equal(kvt_attend(attend, &call.params, NULL, 2), -EINVAL);
	assert_int_equal(kvt_attend(attend, &call.params, call.seqs, 0), -EINVAL);
	assert_true(untouched(call.out, sizeof(call.out)));
}

static void create_config(const char *isa, uint32_t size, uint32_t flags, uint32_t threads,
			  int error, const char *text)
{
	struct kvt_attend_config config = { .size = size, .flags = flags, .threads = threads,
					    .isa = isa };
	struct kvt_attend *none = NULL;

	assert_int_equal(kvt_attend_create(&config, &none), error);
	assert_null(none);
	assert_non_null(strstr(kvt_error_detail(), text));
}

static void creation(void **state)
{
	const uint32_t size = sizeof(struct kvt_attend_config);

	(void)state;
	create_config("mmx", size, 0, 1, -EINVAL, "avx512");
	create_config(NULL, 3, 0, 1, -EINVAL, "KVT_ATTEND_CONFIG_INIT");
	create_config(NULL, size, 0x40, 1, -EINVAL, "flags");
	create_config(NULL, size, 0, 5000, -EINVAL, "threads");
	assert_int_equal(kvt_attend_create(NULL, NULL), -EINVAL);
}

/* What a fresh process gets that has KVTIER_ISA set: it is looked at once. */
static int forced_to(const char *isa)
{
	struct kvt_attend *a;
	int status, ret;
	pid_t child = fork();

	assert_true(child >= 0);
	if (!child) {
		setenv("KVTIER_ISA", isa, 1);
		ret = kvt_attend_create(NULL, &a);
		_exit(ret == -EINVAL	 ? 2 :
		      ret == -EOPNOTSUPP ? 3 :
					   strcmp(kvt_attend_isa(a), isa) != 0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void forced(void **state)
{
	size_t i;

	(void)state;
	assert_int_equal(forced_to("c"), 0);
	assert_int_equal(forced_to("sse"), 2);
	for (i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
		struct kvt_attend *a = attend_with(isas[i], 1);

		assert_int_equal(forced_to(isas[i]), a ? 0 : 3);
		kvt_attend_destroy(a);
	}
}

/* The threads are the parent's: a child is told, and does not wait for them for ever. */
static void in_a_child(void **state)
{
	int status;
	pid_t child = fork();

	(void)state;
	assert_true(child >= 0);
	if (!child)
		_exit(kvt_attend(attend, &call.params, call.seqs, 2) == -ECHILD ? 0 : 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

/* A source that fails in the middle: the call fails with its error, and writes nothing. */
static int64_t failing_next(struct kvt_source *source, unsigned int worker, bool wait)
{
	static atomic_uint calls;
	unsigned int call;

	(void)source;
	(void)worker;
	if (!wait)
		return KVT_TASK_LATER;
	call = atomic_fetch_add(&calls, 1);
	return call == 1 ? kvt_task_error(-EIO) : (int64_t)call;
}

static void block_gone_bad(void **state)
{
	struct kvt_source source = { .next = failing_next };
	struct kvt_work w;

	(void)state;
	pthread_mutex_lock(&attend->lock);
	assert_int_equal(kvt_work_init(&w, attend, &call.params, call.seqs, 2), 0);
	assert_int_equal(kvt_work_run(attend, &w, &source), -EIO);
	pthread_mutex_unlock(&attend->lock);
	assert_true(untouched(call.out, sizeof(call.out)));
	good_as_it_is(NULL); /* and the next call is not hurt */
}

static void merges(void **state)
{
	float out[3][16], lse[3][2] = { { 0 } };
	struct kvt_attend_part parts[] = { { out[0], lse[0] }, { out[1], lse[1] } };

	(void)state;
	memset(out, 0, sizeof(out));
	assert_int_equal(kvt_attend_merge(parts, 2, 2, 8, out[2], lse[2]), 0);
	assert_int_equal(kvt_attend_merge(NULL, 2, 2, 8, out[2], lse[2]), -EINVAL);
	assert_int_equal(kvt_attend_merge(parts, 0, 2, 8, out[2], lse[2]), -EINVAL);
	assert_int_equal(kvt_attend_merge(parts, 2, 0, 8, out[2], lse[2]), -EINVAL);
	assert_int_equal(kvt_attend_merge(parts, 2, 2, 7, out[2], lse[2]), -EINVAL);
	assert_int_equal(kvt_attend_merge(parts, 2, 2, 8, NULL, lse[2]), -EINVAL);
	assert_int_equal(kvt_attend_merge(parts, 2, 2, 8, out[0] + 1, lse[2]), -EINVAL);
	assert_int_equal(kvt_attend_merge(parts, 2, 2, 8, out[2], out[2]), -EINVAL);
	parts[1].lse = NULL;
	assert_int_equal(kvt_attend_merge(parts, 2, 2, 8, out[2], lse[2]), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(forced),
		cmocka_unit_test(creation),
		cmocka_unit_test_setup_teardown(good_as_it_is, set_up, tear_down),
		cmocka_unit_test_setup_teardown(params, set_up, tear_down),
		cmocka_unit_test_setup_teardown(sequences, set_up, tear_down),
		cmocka_unit_test_setup_teardown(blocks, set_up, tear_down),
		cmocka_unit_test_setup_teardown(overlaps, set_up, tear_down),
		cmocka_unit_test_setup_teardown(nothing_at_all, set_up, tear_down),
		cmocka_unit_test_setup_teardown(in_a_child, set_up, tear_down),
		cmocka_unit_test_setup_teardown(block_gone_bad, set_up, tear_down),
		cmocka_unit_test(merges),
	};

	return cmocka_run_group_tests_name("attend_input", tests, NULL, NULL);
}
