// SPDX-License-Identifier: MIT
/* The attention service: the bits of kvt_attend(), errors of single queries, and fairness. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture.h"

#define RUN 64 /* tokens of a table's entry */
#define ENTRIES 40u
#define ENTRY_ROOM 66048ull /* bytes of one, not a multiple of the pool's blocks */
#define FRAMES 16 /* of 41 blocks */
#define Q_HEADS_MAX 8
#define TOKENS_MAX 96
#define DIM_MAX 64

/* What is asked for; a field of 0 is the default. */
struct variant {
	const char *name;
	uint32_t q_heads, kv_heads, dim, type;
	bool mla;
	uint32_t flags, window, sinks;
	float softcap, epsilon;
	uint32_t top_k;
	bool logits, mass, strided;
	int masks; /* 1: one for all heads, 2: for each its own, 3: of nothing */
	uint32_t tokens;
};

static const struct variant variants[] = {
	{ .name = "plain" },
	{ .name = "causal", .flags = KVT_CAUSAL, .tokens = 5 },
	{ .name = "window", .flags = KVT_CAUSAL, .window = 300, .sinks = 4, .tokens = 3 },
	{ .name = "f16, softcap", .type = KVT_F16, .softcap = 20 },
	{ .name = "int8, sink logits", .type = KVT_INT8, .logits = true, .tokens = 2 },
	{ .name = "q4_0, one head", .type = KVT_Q4_0, .kv_heads = 1 },
	{ .name = "mla", .type = KVT_BF16, .mla = true, .kv_heads = 1 },
	{ .name = "mask", .masks = 1, .mass = true },
	{ .name = "masks of heads", .masks = 2, .type = KVT_E4M3 },
	{ .name = "mask of nothing", .masks = 3, .logits = true },
	{ .name = "bf16 output, strides", .flags = KVT_OUT_BF16, .strided = true, .tokens = 4 },
	{ .name = "epsilon", .epsilon = 0.05f, .mass = true, .tokens = 2 },
	{ .name = "epsilon, masks", .epsilon = 0.2f, .masks = 2, .flags = KVT_OUT_BF16 },
	{ .name = "top k", .top_k = 3, .type = KVT_F16, .flags = KVT_CAUSAL },
	{ .name = "many tokens", .flags = KVT_CAUSAL, .tokens = TOKENS_MAX },
};

struct outputs {
	float out[2 * TOKENS_MAX * Q_HEADS_MAX * DIM_MAX];
	float lse[TOKENS_MAX * Q_HEADS_MAX];
	float mass[ENTRIES];
	struct kvt_skipped skipped;
};

/* Rows in the pool, and the same in memory of this process. */
struct rows {
	struct kvt_client *c;
	struct kvt_pool *p;
	char *mirror;
	struct kvt_seq_block here[ENTRIES], there[ENTRIES];
	float *bounds[ENTRIES];
	float q[2 * TOKENS_MAX * Q_HEADS_MAX * DIM_MAX];
	float logits[Q_HEADS_MAX];
	uint8_t masks[Q_HEADS_MAX][ENTRIES / 8 + 1];
	struct kvt_attend *attend;
};

static float chance(uint64_t *x)
{
	*x = *x * 6364136223846793005ull + 1442695040888963407ull;
	return (float)((double)(*x >> 33) / (double)(1u << 31) * 2 - 1);
}

static uint32_t or(uint32_t value, uint32_t otherwise)
{
	return value ? value : otherwise;
}

static struct rows *rows_make(const char *name)
{
	struct rows *r = calloc(1, sizeof(*r));
	uint64_t x = 7;
	size_t i;

	CHECK(r, "calloc");
	r->c = client();
	r->p = pool(r->c, name, (ENTRIES + 1) * BLOCK, FRAMES * BLOCK, 0);
	r->mirror = calloc(ENTRIES, ENTRY_ROOM);
	CHECK(r->mirror && ENTRIES * ENTRY_ROOM <= kvt_pool_bytes(r->p), "room");
	for (i = 0; i < sizeof(r->q) / sizeof(r->q[0]); i++)
		r->q[i] = chance(&x);
	for (i = 0; i < Q_HEADS_MAX; i++)
		r->logits[i] = chance(&x);
	OK(kvt_attend_create(NULL, &r->attend));
	return r;
}

static void rows_free(struct rows *r)
{
	uint32_t i;

	for (i = 0; i < ENTRIES; i++)
		free(r->bounds[i]);
	kvt_attend_destroy(r->attend);
	kvt_pool_destroy(r->p);
	kvt_client_close(r->c);
	free(r->mirror);
	free(r);
}

static void rows_fill(struct rows *r, const struct variant *v)
{
	static float row[2][RUN * 2 * DIM_MAX];
	uint32_t heads = or(v->kv_heads, 2), dim = or(v->dim, DIM_MAX), i, k;
	size_t stride = heads * kvt_row_bytes(v->type, dim);
	uint64_t x = 11;

	for (i = 0; i < ENTRIES; i++) {
		char *base = r->mirror + i * ENTRY_ROOM;

		for (k = 0; k < RUN * heads * dim; k++) {
			/* Some blocks matter much more than others, as their bounds tell. */
			row[0][k] = chance(&x) * (i % 4 ? 0.02f : 12);
			row[1][k] = chance(&x);
		}
		OK(kvt_quantize(v->type, dim, heads, RUN, row[0], base, 0));
		OK(kvt_quantize(v->type, dim, heads, RUN, row[1], base + RUN * stride, 0));
		r->here[i] = (struct kvt_seq_block){
			.k = base, .v = v->mla ? NULL : base + RUN * stride, .position = i * RUN,
			.tokens = RUN, .k_type = v->type, .v_type = v->type,
			.k_stride = (uint32_t)stride, .v_stride = (uint32_t)stride };
		r->there[i] = r->here[i];
		r->there[i].k = (char *)kvt_pool_addr(r->p) + i * ENTRY_ROOM;
		if (!v->mla)
			r->there[i].v = (const char *)r->there[i].k + RUN * stride;
		free(r->bounds[i]);
		r->bounds[i] = NULL;
		if (i % 5 == 4)
			continue; /* nothing is known of it */
		r->bounds[i] = malloc(2ul * heads * dim * sizeof(float));
		CHECK(r->bounds[i], "malloc");
		OK(kvt_key_bounds(heads, dim, &r->here[i], r->bounds[i]));
	}
	memcpy(kvt_pool_addr(r->p), r->mirror, ENTRIES * ENTRY_ROOM);
	for (i = 0; i < sizeof(r->masks); i++)
		r->masks[i / sizeof(r->masks[0])][i % sizeof(r->masks[0])] =
			v->masks == 3 ? 0 : (uint8_t)(0x5a + 37 * i);
}

/* The call's arguments; @there: over the pool. */
static void ask(struct rows *r, const struct variant *v, bool there, struct outputs *o,
		struct kvt_attend_params *p, struct kvt_attend_seq *s)
{
	uint32_t heads = or(v->q_heads, Q_HEADS_MAX), dim = or(v->dim, DIM_MAX);

	*p = (struct kvt_attend_params)KVT_ATTEND_PARAMS_INIT;
	p->flags = v->flags;
	p->q_heads = heads;
	p->kv_heads = or(v->kv_heads, 2);
	p->k_dim = dim;
	p->v_dim = dim;
	p->softcap = v->softcap;
	p->window = v->window;
	p->sinks = v->sinks;
	p->sink_logits = v->logits ? r->logits : NULL;
	p->epsilon = v->epsilon;
	p->top_k = v->top_k;
	*s = (struct kvt_attend_seq)KVT_ATTEND_SEQ_INIT;
	/* An emulated machine computes slowly. */
	s->q_tokens = want_module && v->tokens > 5 ? 5 : or(v->tokens, 1);
	s->q_position = ENTRIES * RUN - s->q_tokens;
	s->q = r->q;
	s->blocks = there ? r->there : r->here;
	s->nr_blocks = ENTRIES;
	s->mask = v->masks ? r->masks[0] : NULL;
	s->mask_stride = v->masks == 2 ? sizeof(r->masks[0]) : 0;
	s->bounds = (const float *const *)r->bounds;
	s->out = o->out;
	s->lse = o->lse;
	s->mass = v->mass ? o->mass : NULL;
	s->skipped = &o->skipped;
	if (v->strided) {
		s->q_stride = 2 * heads * dim * sizeof(float);
		s->out_stride = heads * dim * sizeof(float) + 64;
	}
}

static struct outputs *local(struct rows *r, const struct variant *v)
{
	struct outputs *o = calloc(1, sizeof(*o));
	struct kvt_attend_params p;
	struct kvt_attend_seq s;

	CHECK(o, "calloc");
	ask(r, v, false, o, &p, &s);
	OK(kvt_attend(r->attend, &p, &s, 1));
	return o;
}

static int remote(struct rows *r, const struct variant *v, struct outputs *o)
{
	struct kvt_attend_params p;
	struct kvt_attend_seq s;

	memset(o, 0, sizeof(*o));
	ask(r, v, true, o, &p, &s);
	return kvt_shared_attend(r->p, &p, &s, 1);
}

/* To the bit. */
static bool same(const void *a, const void *b, size_t bytes)
{
	return !memcmp(a, b, bytes);
}

static void expect_equal(struct rows *r, const struct variant *v, const struct outputs *here)
{
	struct outputs *there = malloc(sizeof(*there));

	CHECK(there, "malloc");
	OK(remote(r, v, there));
	CHECK(same(here->out, there->out, sizeof(here->out)), "%s: other output", v->name);
	CHECK(same(here->lse, there->lse, sizeof(here->lse)), "%s: other log-sum-exp", v->name);
	CHECK(same(here->mass, there->mass, sizeof(here->mass)), "%s: other mass", v->name);
	CHECK(same(&here->skipped, &there->skipped, sizeof(here->skipped)),
	      "%s: %u of %u blocks skipped, share %g, not %g", v->name, there->skipped.blocks,
	      here->skipped.blocks, there->skipped.share, here->skipped.share);
	if (v->epsilon > 0 || v->top_k)
		CHECK(here->skipped.pairs, "%s: expected blocks to be skipped", v->name);
	free(there);
}

static void all_variants(void)
{
	struct rows *r = rows_make("attended");
	struct outputs *here;
	size_t i;

	for (i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
		rows_fill(r, &variants[i]);
		here = local(r, &variants[i]);
		OK(kvt_demote(r->p, 0, kvt_pool_bytes(r->p)));
		expect_equal(r, &variants[i], here);
		expect_equal(r, &variants[i], here);
		free(here);
	}
	CHECK(daemon_metric("kvtier_attend_queries_total ") == 2 * (double)i,
	      "expected %zu queries", 2 * i);
	/* And so does the next daemon. */
	here = local(r, &variants[i - 1]);
	daemon_kill(SIGKILL);
	daemon_spawn();
	expect_equal(r, &variants[i - 1], here);
	free(here);
	rows_free(r);
}

/* How many nodes have CPUs: ranges, between commas. */
static uint32_t nodes_with_cpus(void)
{
	FILE *file = fopen("/sys/devices/system/node/has_cpu", "re");
	char line[256] = "", *at = line;
	uint32_t nr = 0;

	if (file) {
		at = fgets(line, sizeof(line), file);
		fclose(file);
	}
	while (at && *at >= '0' && *at <= '9') {
		unsigned long first = strtoul(at, &at, 10), last = first;

		if (*at == '-')
			last = strtoul(at + 1, &at, 10);
		nr += (uint32_t)(last - first) + 1;
		at += *at == ',';
	}
	return nr;
}

static void attended(void)
{
	char text[64];

	daemon_start("[attend]\nthreads = 2\n");
	all_variants();
	/* Here all CPUs are ours: there is a lane on each node that has some, CXL memory has none. */
	snprintf(text, sizeof(text), "event=attention_started nodes=%u ", nodes_with_cpus());
	CHECK(!want_module || !nodes_with_cpus() || daemon_logged(text), "expected %s", text);
}

static void one_lane(void)
{
	daemon_start("[attend]\nthreads = 1\nqueries = 1\n");
	all_variants();
}

/* ---- what is refused ---------------------------------------------------------------------- */

/* With the words that kvt_attend() has for it. */
static void refused_alike(struct rows *r, const struct kvt_attend_params *p,
			  struct kvt_attend_seq *s)
{
	char words[512];
	int ret;

	s->blocks = r->here;
	ret = kvt_attend(r->attend, p, s, 1);
	CHECK(ret < 0, "expected kvt_attend() to refuse it");
	snprintf(words, sizeof(words), "%s", kvt_error_detail());
	s->blocks = r->there;
	ERROR(kvt_shared_attend(r->p, p, s, 1), ret);
	CHECK(!strcmp(words, kvt_error_detail()), "expected '%s', got '%s'", words,
	      kvt_error_detail());
}

static void refused(void)
{
	static const struct variant plain = { .name = "plain", .flags = KVT_CAUSAL };
	static struct outputs o;
	struct kvt_attend_params p, good;
	struct kvt_attend_seq s, good_s;
	struct outputs *here;
	struct rows *r;

	daemon_start(NULL);
	r = rows_make("refused");
	rows_fill(r, &plain);
	here = local(r, &plain);
	ask(r, &plain, true, &o, &good, &good_s);
#define REFUSED(change) (p = good, s = good_s, (change), refused_alike(r, &p, &s))
	REFUSED(p.size = 1);
	REFUSED(p.flags = 1u << 9);
	REFUSED(p.kv_heads = 3);
	REFUSED(p.v_dim = 12);
	REFUSED(p.epsilon = 1);
	REFUSED((p.epsilon = 0.5f, p.top_k = 2));
	REFUSED((p.flags = 0, p.window = 9));
	REFUSED(p.softcap = -1);
	REFUSED(s.q_tokens = KVT_QUERY_MAX + 1);
	REFUSED(s.nr_blocks = 0);
	REFUSED((s.mask = r->masks[0], s.mask_stride = 1));
	REFUSED(s.lse = s.out);
	r->here[3].tokens = r->there[3].tokens = 0;
	REFUSED((void)0);
	r->here[3].tokens = r->there[3].tokens = RUN;
	r->here[3].k_type = r->there[3].k_type = 77;
	REFUSED((void)0);
	r->here[3].k_type = r->there[3].k_type = KVT_F32;
#undef REFUSED
	r->there[3].k_stride = 1u << 30;
	ERROR(remote(r, &plain, &o), -EINVAL);
	r->there[3].k_stride = r->here[3].k_stride;
	r->there[3].v = r->mirror;
	ERROR(remote(r, &plain, &o), -EINVAL);
	CHECK(strstr(kvt_error_detail(), "block 3 is not in the pool"), "got '%s'",
	      kvt_error_detail());
	r->there[3].v =
		(const char *)kvt_pool_addr(r->p) + ((const char *)r->here[3].v - r->mirror);
	expect_equal(r, &plain, here);
	free(here);
	rows_free(r);
}

/* ---- a block that went bad ------------------------------------------------------------------ */

/* Slots of the module's store begin here on its device. */
#define DATA_OFFSET (1 << 20)

static bool spoil_slot(const char *name, struct kvt_pool *p, uint64_t block, const char *content)
{
	static char bytes[BLOCK] __attribute__((aligned(4096)));
	struct kvtier_block_info info;
	char path[400];
	off_t at;
	int fd;

	OK(kvt_query(p, block, 1, &info));
	at = (off_t)(info.slot * BLOCK) + (want_module ? DATA_OFFSET : 0);
	if (want_module)
		snprintf(path, sizeof(path), "/dev/disk/by-id/nvme-kv0");
	else
		snprintf(path, sizeof(path), "%s/state/user-%u/%s.slots", daemon_.dir, getuid(),
			 name);
	fd = open(path, O_RDWR | O_CLOEXEC | (want_module ? O_DIRECT : 0));
	CHECK(fd >= 0 && pread(fd, bytes, BLOCK, at) == (ssize_t)BLOCK, "%s: %m", path);
	if (memcmp(bytes, content, BLOCK)) {
		close(fd);
		return false;
	}
	bytes[100] ^= 0x10;
	CHECK(pwrite(fd, bytes, BLOCK, at) == (ssize_t)BLOCK && !fsync(fd), "%s: %m", path);
	close(fd);
	return true;
}

static struct rows *kept_rows(const char *name)
{
	struct rows *r = rows_make("scratch");
	struct kvt_pool *scratch = r->p;

	r->p = pool(r->c, name, (ENTRIES + 1) * BLOCK, FRAMES * BLOCK, KVT_SHARED_KEEP);
	kvt_pool_destroy(scratch);
	return r;
}

static void damaged(void)
{
	static const struct variant plain = { .name = "plain" };
	static struct outputs o;
	struct outputs *here;
	struct rows *r;
	uint32_t i;

	daemon_start(NULL);
	r = kept_rows("damaged");
	rows_fill(r, &plain);
	OK(kvt_seal(r->p, 0, kvt_pool_bytes(r->p) - BLOCK));
	OK(kvt_demote(r->p, 0, kvt_pool_bytes(r->p) - BLOCK));
	if (!spoil_slot("damaged", r->p, 5, r->mirror + 5 * BLOCK))
		skip("the slot is not where it is looked for");
	for (i = 0; i < 3; i++)
		ERROR(remote(r, &plain, &o), -EIO);
	CHECK(state_of(r->p, 5) == KVTIER_BLOCK_BAD, "expected block 5 to be bad");
	/* Whoever does not need it is served; entries 4 and 5 have rows in it. */
	for (i = 4; i <= 5; i++) {
		r->here[i] = r->here[0];
		r->there[i] = r->there[0];
	}
	here = local(r, &plain);
	expect_equal(r, &plain, here);
	CHECK(!daemon_logged("level=error event=start_failed"), "expected the daemon to live");
	free(here);
	rows_free(r);
}

/* ---- clients that die, and little memory for many ------------------------------------------- */

static struct rows *attach_rows(const struct rows *r, const char *name)
{
	struct rows *mine = calloc(1, sizeof(*mine));
	uint32_t i;

	CHECK(mine, "calloc");
	*mine = *r;
	mine->c = client();
	OK(kvt_shared_attach(mine->c, name, "test", &mine->p));
	for (i = 0; i < ENTRIES; i++) {
		mine->there[i].k = (char *)kvt_pool_addr(mine->p) + i * ENTRY_ROOM;
		mine->there[i].v = (const char *)mine->there[i].k +
				   ((const char *)r->here[i].v - (const char *)r->here[i].k);
	}
	return mine;
}

/* Asks until it is killed; so many are answered. */
static pid_t asker(const struct rows *r, const char *name, const struct variant *v,
		   uint32_t *answers)
{
	static struct outputs o;
	pid_t pid = fork();
	struct rows *mine;

	if (pid)
		return pid;
	mine = attach_rows(r, name);
	for (;;) {
		OK(remote(mine, v, &o));
		__atomic_add_fetch(answers, 1, __ATOMIC_SEQ_CST);
	}
}

static uint32_t *shared_counters(void)
{
	uint32_t *n = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(n != MAP_FAILED, "mmap: %m");
	return n;
}

static uint32_t counted(uint32_t *n)
{
	return __atomic_load_n(n, __ATOMIC_SEQ_CST);
}

#define DYING 4

static void clients_die(void)
{
	static const struct variant heavy = { .name = "heavy", .tokens = TOKENS_MAX };
	uint32_t *answers = shared_counters(), i, round, before;
	struct outputs *here;
	pid_t pids[DYING];
	struct rows *r;

	daemon_start("[attend]\nthreads = 2\nqueries = 3\n");
	r = rows_make("dying");
	rows_fill(r, &heavy);
	here = local(r, &heavy);
	OK(kvt_demote(r->p, 0, kvt_pool_bytes(r->p)));
	for (round = 0; round < want_rounds; round++) {
		before = counted(answers);
		for (i = 0; i < DYING; i++)
			pids[i] = asker(r, "dying", &heavy, answers);
		EVENTUALLY(counted(answers) >= before + 2, "expected answers");
		pause_ms(round * 3);
		for (i = 0; i < DYING; i++)
			CHECK(!kill(pids[i], SIGKILL) && waitpid(pids[i], NULL, 0) == pids[i],
			      "an asker");
		expect_equal(r, &heavy, here);
	}
	/* Nothing is held for the dead: all can leave memory. */
	OK(kvt_demote(r->p, 0, kvt_pool_bytes(r->p)));
	for (i = 0; i < ENTRIES; i++)
		CHECK(state_of(r->p, i) != KVTIER_BLOCK_OPEN, "block %u is still in memory", i);
	free(here);
	rows_free(r);
}

/* ---- tenants -------------------------------------------------------------------------------- */

#define ASKERS 5

static int many_askers(uint32_t *answers)
{
	static const struct variant heavy = { .name = "heavy", .tokens = TOKENS_MAX };
	struct rows *r = rows_make("heavy");
	int i;

	rows_fill(r, &heavy);
	for (i = 0; i < ASKERS; i++)
		asker(r, "heavy", &heavy, answers);
	for (;;)
		pause();
	return 0;
}

/* How many of the other tenant's are answered while one of ours is, at least. */
static int light_asker(uint32_t *answers)
{
	static const struct variant light = { .name = "light" };
	static struct outputs o;
	struct rows *r = rows_make("light");
	uint32_t before, least = UINT32_MAX, i;

	rows_fill(r, &light);
	OK(remote(r, &light, &o));
	for (i = 0; i < 6; i++) {
		before = counted(answers);
		while (counted(answers) == before)
			pause_ms(1);
		before = counted(answers);
		OK(remote(r, &light, &o));
		least = counted(answers) - before < least ? counted(answers) - before : least;
	}
	rows_free(r);
	return (int)least;
}

/* In one line for all they would be as many as the other tenant asks. */
static void fair(void)
{
	uint32_t *answers = shared_counters();
	int status;
	pid_t pid;

	if (getuid())
		skip("needs root");
	daemon_start("[tenant alice]\nuser = 12345\n[tenant bob]\nuser = 12346\n"
		     "[attend]\nthreads = 1\nqueries = 1\n");
	CHECK(!chmod(daemon_.dir, 0755) && !chmod(daemon_.socket, 0666), "chmod: %m");
	if (!fork()) {
		CHECK(!setgid(12345) && !setuid(12345), "setuid: %m");
		_exit(many_askers(answers));
	}
	EVENTUALLY(counted(answers) >= ASKERS, "expected answers");
	pid = fork();
	if (!pid) {
		CHECK(!setgid(12346) && !setuid(12346), "setuid: %m");
		_exit(light_asker(answers));
	}
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status), "an asker: %#x", status);
	CHECK(WEXITSTATUS(status) <= 2,
	      "expected one query of the other tenant's before ours, not %d", WEXITSTATUS(status));
}

const struct test_case attend_cases[] = {
	{ "attended", "the daemon's attention has the bits of one's own, with every option",
	  attended, false },
	{ "one_lane", "... and with one thread", one_lane, false },
	{ "attend_refused", "what kvt_attend() refuses, and rows outside the pool", refused,
	  false },
	{ "attend_damaged", "a damaged block is an error of the queries that need it", damaged,
	  false },
	{ "attend_dying", "clients die while they wait for attention", clients_die, false },
	{ "attend_fair", "a tenant with one query does not wait for all of another's", fair,
	  false },
	{ 0 },
};
