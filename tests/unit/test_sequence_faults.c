// SPDX-License-Identifier: MIT
/* Description: sequences when the pager fails once, at each of its calls: nothing is lost. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvtier_seq.h"
#include "pool.h"
#include "unit.h"

#define BLOCKS 48
#define BLOCK_BYTES (64u << 10)
#define LAYERS 3
#define ROW 16
#define BT 4
#define TOKENS 64

/* A pager of plain memory.  Sealed blocks cannot be written to: a store would be a signal. */
struct fake {
	struct kvt_pool pool;
	enum { EMPTY, OPEN, SEALED } state[BLOCKS];
	uint32_t pins[BLOCKS];
	uint32_t calls; /* that could have failed so far */
	uint32_t fail_at; /* the call that fails, from 1; 0: none */
	int pin_error; /* what a pin fails with; -ENOSPC: no memory to pin one block more */
	bool at_rest; /* calls do not count */
	bool stuck[BLOCKS]; /* a device is at it: it cannot be emptied now */
	uint64_t budget; /* of DRAM */
};

static bool fails(struct fake *f)
{
	return !f->at_rest && ++f->calls == f->fail_at;
}

static int pin(struct fake *f, uint32_t b)
{
	if (fails(f))
		return f->pin_error;
	if (f->state[b] == EMPTY)
		f->state[b] = OPEN;
	f->pins[b]++;
	return 0;
}

/* A load or store follows, of which an empty block becomes an open one. */
static int promote(struct fake *f, uint32_t b)
{
	if (f->state[b] == EMPTY)
		f->state[b] = OPEN;
	return 0;
}

static int unpin(struct fake *f, uint32_t b)
{
	if (!f->pins[b])
		return -EINVAL;
	f->pins[b]--;
	return 0;
}

static int seal(struct fake *f, uint32_t b)
{
	if (fails(f))
		return -EBUSY;
	if (f->state[b] == EMPTY)
		return -ENODATA;
	f->state[b] = SEALED;
	return mprotect(f->pool.addr + (size_t)b * BLOCK_BYTES, BLOCK_BYTES, PROT_READ);
}

static int discard(struct fake *f, uint32_t b)
{
	char *at = f->pool.addr + (size_t)b * BLOCK_BYTES;

	if (f->pins[b] || f->stuck[b] || fails(f))
		return -EBUSY;
	f->state[b] = EMPTY;
	if (mprotect(at, BLOCK_BYTES, PROT_READ | PROT_WRITE))
		return -errno;
	memset(at, 0xa5, BLOCK_BYTES);
	return 0;
}

static int range_op(struct kvt_pool *pool, uint32_t op, uint32_t tier, uint32_t flags,
		    struct kvtier_range *ranges, uint32_t nr)
{
	static int (*const ops[])(struct fake *f, uint32_t b) = {
		[KVTIER_OP_PIN] = pin, [KVTIER_OP_UNPIN] = unpin, [KVTIER_OP_SEAL] = seal,
		[KVTIER_OP_DISCARD] = discard, [KVTIER_OP_PROMOTE] = promote,
	};
	struct fake *f = (struct fake *)pool;
	int done = 0;
	uint32_t i;

	(void)tier;
	(void)flags;
	if (op == KVTIER_OP_WRITEBACK)
		return (int)nr; /* there is nowhere to write to */
	for (i = 0; i < nr; i++) {
		assert_true(op <= KVTIER_OP_UNPIN && ops[op] && ranges[i].length == BLOCK_BYTES);
		ranges[i].result = ops[op](f, (uint32_t)(ranges[i].offset / BLOCK_BYTES));
		done += !ranges[i].result;
	}
	return done;
}

static int query(struct kvt_pool *pool, uint64_t first, uint32_t nr,
		 struct kvtier_block_info *infos)
{
	(void)pool;
	(void)first;
	memset(infos, 0, nr * sizeof(*infos));
	infos->state = KVTIER_BLOCK_OPEN;
	return 0;
}

static int stats(struct kvt_pool *pool, struct kvtier_stats *s)
{
	s->tier[KVTIER_TIER_DRAM].budget_bytes = ((struct fake *)pool)->budget;
	return 0;
}

static int resize(struct kvt_pool *pool, uint64_t bytes)
{
	struct fake *f = (struct fake *)pool;

	if (fails(f))
		return -ENOSPC;
	f->budget = bytes;
	return 0;
}

static int checkpoint(struct kvt_pool *pool, uint64_t offset, uint64_t length,
		      struct kvtier_slot *slots)
{
	struct fake *f = (struct fake *)pool;
	uint32_t b = (uint32_t)(offset / BLOCK_BYTES), nr = (uint32_t)(length / BLOCK_BYTES), i;

	if (fails(f))
		return -ENOSPC;
	for (i = 0; i < nr; i++) {
		if (f->state[b + i] != SEALED)
			return -EBUSY;
		slots[i] = (struct kvtier_slot){ .block = b + i, .slot = b + i };
	}
	return (int)nr;
}

static const struct kvt_pager_ops fake_ops = { .name = "fake", .range_op = range_op,
	.query = query, .stats = stats, .checkpoint = checkpoint, .resize = resize };

/* A sequence and, token by token, the story that its rows tell. */
struct told {
	struct kvt_seq *seq;
	uint8_t story[TOKENS];
	uint32_t nr;
};

struct bed {
	struct fake fake;
	struct kvt_cache *cache;
	struct told a, b, c;
	int fd;
	char manifest[40];
};

static void row(char *to, uint32_t story, uint32_t layer, uint32_t token, bool value)
{
	uint32_t i;

	for (i = 0; i < ROW; i++)
		to[i] = (char)(story * 31 + layer * 7 + token * 3 + value * 101 + i);
}

static void check(const struct told *t)
{
	char k[ROW], v[ROW], want[ROW];
	uint32_t layer, token;

	if (!t->seq)
		return;
	assert_int_equal(kvt_seq_tokens(t->seq), t->nr);
	for (layer = 0; layer < LAYERS; layer++)
		for (token = 0; token < t->nr; token++) {
			assert_int_equal(kvt_seq_read(t->seq, layer, token, 1, k, v), 0);
			row(want, t->story[token], layer, token, false);
			assert_memory_equal(k, want, ROW);
			row(want, t->story[token], layer, token, true);
			assert_memory_equal(v, want, ROW);
		}
}

static void check_all(struct bed *t)
{
	t->fake.at_rest = true;
	check(&t->a);
	check(&t->b);
	check(&t->c);
	t->fake.at_rest = false;
}

static int append(struct told *t, uint32_t story, uint32_t nr)
{
	char k[LAYERS * TOKENS][ROW], v[LAYERS * TOKENS][ROW];
	uint32_t layer, i, at = t->nr;
	int ret;

	for (layer = 0; layer < LAYERS; layer++)
		for (i = 0; i < nr; i++) {
			row(k[layer * nr + i], story, layer, at + i, false);
			row(v[layer * nr + i], story, layer, at + i, true);
		}
	ret = kvt_seq_append(t->seq, KVT_ALL_LAYERS, nr, k, v);
	for (i = 0; !ret && i < nr; i++)
		t->story[t->nr++] = (uint8_t)story;
	return ret;
}

static int fork_a(struct bed *t)
{
	int ret = kvt_seq_fork(t->a.seq, &t->b.seq);

	memcpy(t->b.story, t->a.story, sizeof(t->b.story));
	t->b.nr = t->a.nr;
	return ret;
}

static int cut_a(struct bed *t)
{
	int ret = kvt_seq_truncate(t->a.seq, 9);

	if (!ret)
		t->a.nr = 9;
	return ret;
}

static int save(struct bed *t)
{
	struct kvt_named_seq named[] = { { "a", t->a.seq }, { "b", t->b.seq } };

	return kvt_manifest_save(t->cache, t->manifest, named, 2, NULL);
}

static int send_a(struct bed *t)
{
	if (ftruncate(t->fd, 0) || lseek(t->fd, 0, SEEK_SET))
		return -errno;
	return kvt_seq_export(t->a.seq, t->fd, 1000);
}

static int receive(struct bed *t)
{
	int ret;

	lseek(t->fd, 0, SEEK_SET);
	ret = kvt_seq_import(t->cache, t->fd, KVT_IMPORT_AGAIN, 1000, &t->c.seq);
	if (!ret) {
		memcpy(t->c.story, t->a.story, sizeof(t->c.story));
		t->c.nr = t->a.nr;
	}
	return ret;
}

static int first(struct bed *t) { return append(&t->a, 1, 10); }
static int more_of_a(struct bed *t) { return append(&t->a, 2, 3); }
static int more_of_b(struct bed *t) { return append(&t->b, 3, 2); }
static int other_a(struct bed *t) { return append(&t->a, 4, 4); }
static int one_of_a(struct bed *t) { return append(&t->a, 5, 1); }
static int one_of_b(struct bed *t) { return append(&t->b, 6, 1); }
static int more_of_c(struct bed *t) { return append(&t->c, 7, 5); }

static int dedup(struct bed *t)
{
	int ret = kvt_seq_dedup(t->a.seq);

	return ret < 0 ? ret : kvt_seq_dedup(t->c.seq);
}

static int (*const steps[])(struct bed *t) = {
	first, fork_a, more_of_a, more_of_b, cut_a, other_a, save, one_of_a, one_of_b, save, send_a,
	receive, more_of_c, dedup, save, one_of_a, more_of_b,
};

static void set_up(struct bed *t, uint32_t fail_at, int pin_error)
{
	struct kvt_geometry g = KVT_GEOMETRY_INIT;

	memset(t, 0, sizeof(*t));
	t->fake.pool = (struct kvt_pool){ .ops = &fake_ops, .bytes = BLOCKS * BLOCK_BYTES,
					  .block_bytes = BLOCK_BYTES, .block_shift = 16,
					  .pid = getpid() };
	t->fake.pool.addr = mmap(NULL, t->fake.pool.bytes, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(t->fake.pool.addr, MAP_FAILED);
	t->fake.fail_at = fail_at;
	t->fake.pin_error = pin_error;
	t->fake.budget = BLOCKS * BLOCK_BYTES;
	t->fd = memfd_create("stream", MFD_CLOEXEC);
	snprintf(t->manifest, sizeof(t->manifest), "%s/kvtier-faults-%d",
		 access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm", getpid());
	g.layers = LAYERS;
	g.k_bytes = g.v_bytes = ROW;
	g.block_tokens = BT;
	assert_int_equal(kvt_cache_create(&t->fake.pool, &g, &t->cache), 0);
	assert_int_equal(kvt_seq_create(t->cache, &t->a.seq), 0);
}

/* All blocks can be had again, those that could not be emptied at once, too. */
static void tear_down(struct bed *t)
{
	struct kvt_cache_stats s;

	kvt_seq_destroy(t->a.seq);
	kvt_seq_destroy(t->b.seq);
	kvt_seq_destroy(t->c.seq);
	memset(&t->a, 0, sizeof(t->a));
	assert_int_equal(kvt_seq_create(t->cache, &t->a.seq), 0);
	assert_int_equal(append(&t->a, 9, BLOCKS / LAYERS * BT), 0);
	check(&t->a);
	kvt_seq_destroy(t->a.seq);
	kvt_cache_stats(t->cache, &s);
	assert_int_equal(s.free_blocks, s.blocks);
	assert_int_equal(s.extents, 0);
	assert_int_equal(s.references, 0);
	kvt_cache_destroy(t->cache);
	munmap(t->fake.pool.addr, t->fake.pool.bytes);
	close(t->fd);
	unlink(t->manifest);
}

/* Returns how many calls there were. */
static uint32_t run(uint32_t fail_at, int pin_error)
{
	struct bed t;
	uint32_t i, calls;

	set_up(&t, fail_at, pin_error);
	for (i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		if (steps[i](&t) < 0) { /* as before; and it works the next time */
			assert_true(t.fake.calls >= t.fake.fail_at && t.fake.fail_at);
			check_all(&t);
			assert_true(steps[i](&t) >= 0);
		}
		check_all(&t);
	}
	calls = t.fake.calls;
	t.fake.at_rest = true;
	tear_down(&t);
	return calls;
}

static void each(int pin_error)
{
	uint32_t calls = run(0, 0), i;

	assert_true(calls > 100);
	for (i = 1; i <= calls; i++)
		run(i, pin_error);
}

static void lost_blocks(void **state)
{
	(void)state;
	each(-EIO);
}

static void little_memory(void **state)
{
	(void)state;
	each(-ENOSPC);
}

/* Blocks that could not be emptied are had as soon as they can be, whichever they are. */
static void stuck_blocks(void **state)
{
	struct bed t;
	uint32_t i;

	(void)state;
	set_up(&t, 0, 0);
	memset(t.fake.stuck, true, sizeof(t.fake.stuck));
	assert_int_equal(append(&t.a, 1, BLOCKS / LAYERS * BT), 0);
	kvt_seq_destroy(t.a.seq);
	memset(&t.a, 0, sizeof(t.a));
	assert_int_equal(kvt_seq_create(t.cache, &t.a.seq), 0);
	assert_int_equal(append(&t.a, 1, 1), -ENOSPC);
	for (i = 0; i + LAYERS <= BLOCKS; i += LAYERS) {
		memset(t.fake.stuck + i, false, LAYERS);
		assert_int_equal(append(&t.a, 2, BT), 0);
		check(&t.a);
	}
	tear_down(&t);
}

/* A pool that cannot have its share: both keep what they had. */
static void draft_budgets(void **state)
{
	struct kvt_draft_config config = KVT_DRAFT_CONFIG_INIT;
	struct kvt_draft *pair;
	struct bed target, draft;

	(void)state;
	set_up(&target, 1, 0);
	set_up(&draft, 0, 0);
	config.dram_bytes = 40 * BLOCK_BYTES;
	config.draft_bytes = 30 * BLOCK_BYTES;
	config.window = 1;
	assert_int_equal(kvt_draft_create(target.a.seq, draft.a.seq, &config, &pair), -ENOSPC);
	assert_null(pair);
	assert_int_equal(draft.fake.budget, BLOCKS * BLOCK_BYTES);
	assert_int_equal(kvt_draft_create(target.a.seq, draft.a.seq, &config, &pair), 0);
	assert_int_equal(draft.fake.budget, 30 * BLOCK_BYTES);
	/* The draft has shrunk when the target cannot grow. */
	assert_int_equal(append(&target.a, 1, 40), 0);
	target.fake.calls = target.fake.fail_at - 1;
	assert_int_equal(kvt_draft_balance(pair), -ENOSPC);
	assert_int_equal(draft.fake.budget, 30 * BLOCK_BYTES);
	assert_int_equal(target.fake.budget, 10 * BLOCK_BYTES);
	assert_int_equal(kvt_draft_balance(pair), KVT_DRAFT_OUT);
	assert_int_equal(draft.fake.budget + target.fake.budget, 40 * BLOCK_BYTES);
	assert_int_equal(draft.fake.budget, 6 * BLOCK_BYTES);
	kvt_draft_destroy(pair);
	tear_down(&target);
	tear_down(&draft);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lost_blocks),
		cmocka_unit_test(little_memory),
		cmocka_unit_test(stuck_blocks),
		cmocka_unit_test(draft_budgets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
