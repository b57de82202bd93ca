// SPDX-License-Identifier: MIT
/*
 * The interface's edges: sizes, reserved fields, pointers, rights, and each errno of
 * the header's table that a call can be made to return.  EILSEQ and EIO are in
 * damage.c, ETIMEDOUT and ECANCELED in stall.c and uring.c, ENOMEM in nth.c; ECHILD
 * is the user pager's.
 */
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/time.h>

#include "attr.h"
#include "test.h"

#define BLOCKS 32

union argument {
	uint32_t size;
	struct kvtier_info info;
	struct kvtier_pool_create create;
	struct kvtier_pool_budget budget;
	struct kvtier_range_op range_op;
	struct kvtier_clone clone;
	struct kvtier_query query;
	struct kvtier_stats stats;
	struct kvtier_checkpoint checkpoint;
	struct kvtier_adopt adopt;
	struct kvtier_release release;
	char bytes[4096 + 64];
};

/* What valid arguments are made of: a pool with block 0 sealed and reserved. */
static struct pool pool;
static struct kvtier_slot slot;
static uint8_t store[KVTIER_UUID_BYTES];
static uint8_t keys[64][KVTIER_KEY_BYTES];
static unsigned int nr_keys;

static int make_checkpoint(struct kvtier_checkpoint *arg)
{
	int ret;

	*arg = (struct kvtier_checkpoint){
		.size = sizeof(*arg),
		.length = pool.block,
		.slots = (uintptr_t)&slot,
		.nr = 1,
	};
	ret = call(pool.fd, KVTIER_IOC_CHECKPOINT, arg);
	if (!ret && nr_keys < 64)
		memcpy(keys[nr_keys++], arg->key, KVTIER_KEY_BYTES);
	return ret;
}

static void release_all(void)
{
	struct kvtier_release arg = { .size = sizeof(arg) };

	while (nr_keys) {
		memcpy(arg.key, keys[--nr_keys], sizeof(arg.key));
		call(pool.fd, KVTIER_IOC_RELEASE, &arg);
	}
}

/* ---- one valid argument for every call -------------------------------------------- */

static void good_info(union argument *a)
{
	a->info = (struct kvtier_info){ .size = sizeof(a->info) };
}

static void good_create(union argument *a)
{
	a->create = pool_request(SHIFT, BLOCKS, 8, BLOCKS);
}

static void good_budget(union argument *a)
{
	a->budget = (struct kvtier_pool_budget){
		.size = sizeof(a->budget),
		.tier = KVTIER_TIER_DRAM,
		.budget.bytes = 8 * pool.block,
	};
}

static void good_range_op(union argument *a)
{
	static struct kvtier_range range;

	range = (struct kvtier_range){ .offset = 4 * pool.block, .length = pool.block };
	a->range_op = (struct kvtier_range_op){
		.size = sizeof(a->range_op),
		.op = KVTIER_OP_DEMOTE,
		.nr = 1,
		.ranges = (uintptr_t)&range,
	};
}

static void good_clone(union argument *a)
{
	a->clone = (struct kvtier_clone){
		.size = sizeof(a->clone),
		.src_fd = pool.fd,
		.dst_offset = 8 * pool.block,
		.length = pool.block,
	};
}

static void good_query(union argument *a)
{
	static struct kvtier_block_info infos[BLOCKS];

	a->query = (struct kvtier_query){
		.size = sizeof(a->query),
		.infos = (uintptr_t)infos,
		.nr = BLOCKS,
	};
}

static void good_stats(union argument *a)
{
	a->stats = (struct kvtier_stats){ .size = sizeof(a->stats) };
}

static void good_checkpoint(union argument *a)
{
	a->checkpoint = (struct kvtier_checkpoint){
		.size = sizeof(a->checkpoint),
		.length = pool.block,
		.slots = (uintptr_t)&slot,
		.nr = 1,
	};
	memcpy(a->checkpoint.key, keys[0], KVTIER_KEY_BYTES);
}

static void good_adopt(union argument *a)
{
	a->adopt = (struct kvtier_adopt){ .size = sizeof(a->adopt), .slots = (uintptr_t)&slot };
	memcpy(a->adopt.key, keys[0], KVTIER_KEY_BYTES);
	memcpy(a->adopt.store, store, KVTIER_UUID_BYTES);
}

static void good_release(union argument *a)
{
	a->release = (struct kvtier_release){ .size = sizeof(a->release) };
	memset(a->release.key, 0xee, KVTIER_KEY_BYTES);
}

static const struct entry {
	const char *name;
	unsigned long number;
	uint32_t size;
	void (*fill)(union argument *a);
	int result; /* of the argument that fill() makes */
	bool fresh; /* on a file that is no pool yet */
	bool read_only; /* a descriptor for reading will do */
} table[] = {
	{ "info", KVTIER_IOC_INFO, sizeof(struct kvtier_info), good_info, 0, false, true },
	{ "create", KVTIER_IOC_POOL_CREATE, sizeof(struct kvtier_pool_create), good_create, 0, true,
	  false },
	{ "budget", KVTIER_IOC_POOL_BUDGET, sizeof(struct kvtier_pool_budget), good_budget, 0, false,
	  false },
	{ "range_op", KVTIER_IOC_RANGE_OP, sizeof(struct kvtier_range_op), good_range_op, 0, false,
	  false },
	{ "clone", KVTIER_IOC_CLONE, sizeof(struct kvtier_clone), good_clone, 0, false, false },
	{ "query", KVTIER_IOC_QUERY, sizeof(struct kvtier_query), good_query, 0, false, true },
	{ "stats", KVTIER_IOC_STATS, sizeof(struct kvtier_stats), good_stats, 0, false, true },
	{ "checkpoint", KVTIER_IOC_CHECKPOINT, sizeof(struct kvtier_checkpoint), good_checkpoint, 0,
	  false, false },
	{ "adopt", KVTIER_IOC_ADOPT, sizeof(struct kvtier_adopt), good_adopt, 0, false, false },
	{ "release", KVTIER_IOC_RELEASE, sizeof(struct kvtier_release), good_release, -ENOENT, false,
	  false },
};

#define ENTRIES (sizeof(table) / sizeof(table[0]))

/* The call with an argument, on a descriptor of the kind that it needs. */
static int call_entry(const struct entry *e, void *arg)
{
	int fd, ret;

	if (!e->fresh)
		return call(pool.fd, e->number, arg);
	fd = device_open(O_RDWR);
	ret = call(fd, e->number, arg);
	close(fd);
	return ret;
}

static int call_sized(const struct entry *e, uint32_t size, int tail)
{
	union argument a;

	memset(&a, 0, sizeof(a));
	e->fill(&a);
	a.size = size;
	if (tail)
		a.bytes[size - 1] = 1;
	return call_entry(e, &a);
}

FIXTURE(abi)
{
	struct kvtier_checkpoint checkpoint;
};

FIXTURE_SETUP(abi)
{
	ASSERT_EQ(0, pool_new(&pool, SHIFT, BLOCKS, 8, 2 * BLOCKS, KVTIER_POOL_KEEP));
	fill(&pool, 0, 2, 1);
	ASSERT_EQ(0, op(&pool, KVTIER_OP_SEAL, 0, 1));
	ASSERT_EQ(0, make_checkpoint(&self->checkpoint));
	memcpy(store, self->checkpoint.store, sizeof(store));
}

FIXTURE_TEARDOWN(abi)
{
	release_all();
	pool_close(&pool);
}

TEST_F(abi, good)
{
	union argument a;
	size_t i;

	for (i = 0; i < ENTRIES; i++) {
		memset(&a, 0, sizeof(a));
		table[i].fill(&a);
		EXPECT_EQ(table[i].result, call_entry(&table[i], &a))
			TH_LOG("%s", table[i].name);
		EXPECT_EQ(table[i].size, a.size);
	}
}

TEST_F(abi, size)
{
	size_t i;

	for (i = 0; i < ENTRIES; i++) {
		const struct entry *e = &table[i];

		EXPECT_EQ(-EINVAL, call_sized(e, 0, 0)) TH_LOG("%s", e->name);
		EXPECT_EQ(-EINVAL, call_sized(e, 4, 0)) TH_LOG("%s", e->name);
		EXPECT_EQ(-EINVAL, call_sized(e, e->size - 1, 0)) TH_LOG("%s", e->name);
		EXPECT_EQ(e->result, call_sized(e, e->size + 8, 0)) TH_LOG("%s", e->name);
		EXPECT_EQ(-E2BIG, call_sized(e, e->size + 8, 1)) TH_LOG("%s", e->name);
		EXPECT_EQ(-E2BIG, call_sized(e, e->size + 1, 1)) TH_LOG("%s", e->name);
		EXPECT_EQ(-E2BIG, call_sized(e, 4096 + 8, 0)) TH_LOG("%s", e->name);
	}
}

/* Every field that has to be zero, one at a time. */
#define ZERO(entry, type, field) \
	{ entry, #field, offsetof(struct type, field), sizeof(((struct type *)0)->field) }

static const struct {
	const char *entry;
	const char *field;
	size_t at, bytes;
} zeroes[] = {
	ZERO("info", kvtier_info, flags),
	ZERO("info", kvtier_info, __reserved),
	ZERO("create", kvtier_pool_create, budget[KVTIER_TIER_NONE].bytes),
	ZERO("create", kvtier_pool_create, budget[KVTIER_TIER_NONE].nodes),
	ZERO("create", kvtier_pool_create, id),
	ZERO("create", kvtier_pool_create, __reserved),
	ZERO("budget", kvtier_pool_budget, budget.nodes),
	ZERO("clone", kvtier_clone, flags),
	ZERO("clone", kvtier_clone, __reserved),
	ZERO("query", kvtier_query, flags),
	ZERO("query", kvtier_query, __reserved),
	ZERO("checkpoint", kvtier_checkpoint, flags),
	ZERO("checkpoint", kvtier_checkpoint, __reserved),
	ZERO("adopt", kvtier_adopt, flags),
	ZERO("adopt", kvtier_adopt, __reserved),
	ZERO("release", kvtier_release, flags),
};

static const struct entry *find(const char *name)
{
	size_t i;

	for (i = 0; i < ENTRIES; i++)
		if (!strcmp(table[i].name, name))
			return &table[i];
	return NULL;
}

TEST_F(abi, reserved)
{
	union argument a;
	size_t i, byte;

	for (i = 0; i < sizeof(zeroes) / sizeof(zeroes[0]); i++) {
		const struct entry *e = find(zeroes[i].entry);

		for (byte = 0; byte < zeroes[i].bytes; byte++) {
			memset(&a, 0, sizeof(a));
			e->fill(&a);
			a.bytes[zeroes[i].at + byte] = (char)0x80;
			EXPECT_EQ(-EINVAL, call_entry(e, &a))
				TH_LOG("%s: byte %zu of %s", e->name, byte, zeroes[i].field);
		}
	}
}

/* Undefined flags, each bit. */
TEST_F(abi, flags)
{
	union argument a;
	int bit;

	for (bit = 0; bit < 32; bit++) {
		if (1U << bit > KVTIER_POOL_FIXED_BUDGET) {
			good_create(&a);
			a.create.flags = 1U << bit;
			EXPECT_EQ(-EINVAL, call_entry(find("create"), &a)) TH_LOG("create %d", bit);
		}
		if (bit >= 1) {
			good_range_op(&a);
			a.range_op.flags = 1U << bit;
			EXPECT_EQ(-EINVAL, call_entry(find("range_op"), &a)) TH_LOG("op %d", bit);
		}
	}
	slot.flags = 1;
	good_adopt(&a);
	a.adopt.nr = 1;
	EXPECT_EQ(-EINVAL, call_entry(find("adopt"), &a));
}

TEST_F(abi, pointers)
{
	void *bad = (void *)4096;
	char *edge = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvtier_range *ranges = (struct kvtier_range *)(edge + 4096 - sizeof(*ranges));
	union argument a;
	size_t i;

	for (i = 0; i < ENTRIES; i++)
		EXPECT_EQ(-EFAULT, call_entry(&table[i], bad)) TH_LOG("%s", table[i].name);
	good_range_op(&a);
	a.range_op.ranges = (uintptr_t)bad;
	EXPECT_EQ(-EFAULT, call_entry(find("range_op"), &a));
	good_query(&a);
	a.query.infos = (uintptr_t)bad;
	EXPECT_EQ(-EFAULT, call_entry(find("query"), &a));
	good_checkpoint(&a);
	a.checkpoint.slots = (uintptr_t)bad;
	EXPECT_EQ(-EFAULT, call_entry(find("checkpoint"), &a));
	good_adopt(&a);
	a.adopt.slots = (uintptr_t)bad;
	a.adopt.nr = 1;
	EXPECT_EQ(-EFAULT, call_entry(find("adopt"), &a));

	/* The second range is not there: nothing is done to the first. */
	ASSERT_NE(MAP_FAILED, (void *)edge);
	munmap(edge + 4096, 4096);
	fill(&pool, 4, 1, 9);
	*ranges = (struct kvtier_range){ .offset = 4 * pool.block, .length = pool.block };
	good_range_op(&a);
	a.range_op.op = KVTIER_OP_DISCARD;
	a.range_op.ranges = (uintptr_t)ranges;
	a.range_op.nr = 2;
	EXPECT_EQ(-EFAULT, call_entry(find("range_op"), &a));
	EXPECT_EQ(0, check(&pool, 4, 1, 9));

	/* Results that cannot be told: nothing is done either. */
	mprotect(edge, 4096, PROT_READ);
	a.range_op.nr = 1;
	EXPECT_EQ(-EFAULT, call_entry(find("range_op"), &a));
	EXPECT_EQ(0, check(&pool, 4, 1, 9));
	munmap(edge, 4096);
}

static long long reservations(void)
{
	char path[2 * KVT_TEXT], name[KVT_TEXT];

	snprintf(path, sizeof(path), KVT_CLASS "pool%u/store", pool.id);
	if (attr_read(path, name))
		return -1;
	snprintf(path, sizeof(path), KVT_CLASS "%s/reservations", name);
	return attr_number(path);
}

/* A struct that cannot be written: nothing is done, unless there is nothing to answer. */
TEST_F(abi, answers)
{
	size_t bytes = 2 * 4096;
	union argument *a = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				 -1, 0);
	long long before = reservations();
	int fd = device_open(O_RDWR);

	ASSERT_NE(MAP_FAILED, (void *)a);
	ASSERT_LE(1, before);
	good_checkpoint(a);
	memset(a->checkpoint.key, 0, KVTIER_KEY_BYTES);
	ASSERT_EQ(0, mprotect(a, bytes, PROT_READ));
	EXPECT_EQ(-EFAULT, call(pool.fd, KVTIER_IOC_CHECKPOINT, a));
	EXPECT_EQ(before, reservations());
	ASSERT_EQ(0, mprotect(a, bytes, PROT_READ | PROT_WRITE));
	good_create(a);
	ASSERT_EQ(0, mprotect(a, bytes, PROT_READ));
	EXPECT_EQ(-EFAULT, call(fd, KVTIER_IOC_POOL_CREATE, a));
	ASSERT_EQ(0, mprotect(a, bytes, PROT_READ | PROT_WRITE));
	good_stats(a);
	EXPECT_EQ(-ENXIO, call(fd, KVTIER_IOC_STATS, a));
	close(fd);
	slot.block = 9;
	good_adopt(a);
	a->adopt.nr = 1;
	ASSERT_EQ(0, mprotect(a, bytes, PROT_READ));
	EXPECT_EQ(0, call(pool.fd, KVTIER_IOC_ADOPT, a));
	EXPECT_EQ(KVTIER_BLOCK_COLD, info(&pool, 9).state);
	ASSERT_EQ(0, mprotect(a, bytes, PROT_READ | PROT_WRITE));
	good_release(a);
	memcpy(a->release.key, keys[0], KVTIER_KEY_BYTES);
	ASSERT_EQ(0, mprotect(a, bytes, PROT_READ));
	EXPECT_EQ(0, call(pool.fd, KVTIER_IOC_RELEASE, a));
	EXPECT_EQ(-ENOENT, call(pool.fd, KVTIER_IOC_RELEASE, a));
	EXPECT_EQ(before - 1, reservations());
	munmap(a, bytes);
}

/* Nothing of what the caller has in the struct comes back as if it were counted. */
TEST_F(abi, stats_are_whole)
{
	struct kvtier_tier_stats none = {};
	struct kvtier_stats s;

	memset(&s, 0xff, sizeof(s));
	s.size = sizeof(s);
	ASSERT_EQ(0, call(pool.fd, KVTIER_IOC_STATS, &s));
	EXPECT_EQ(0, s.prefetched);
	EXPECT_EQ(0, s.prefetch_used);
	EXPECT_EQ(0, s.prefetch_wasted);
	EXPECT_EQ(0, memcmp(&none, &s.tier[KVTIER_TIER_NONE], sizeof(none)));
}

/* The struct itself, and what it points to, may be memory of the pool. */
TEST_F(abi, arguments_in_the_pool)
{
	struct kvtier_range *range = (struct kvtier_range *)at(&pool, 5);
	struct kvtier_range_op *arg = (struct kvtier_range_op *)at(&pool, 6);

	ASSERT_EQ(0, op(&pool, KVTIER_OP_DISCARD, 4, 4));
	*range = (struct kvtier_range){ .offset = 4 * pool.block, .length = 4 * pool.block };
	*arg = (struct kvtier_range_op){
		.size = sizeof(*arg),
		.op = KVTIER_OP_DEMOTE,
		.nr = 1,
		.ranges = (uintptr_t)range,
	};
	ASSERT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 5, 1));
	EXPECT_EQ(0, call(pool.fd, KVTIER_IOC_RANGE_OP, arg));
	EXPECT_EQ(0, range->result);
	EXPECT_EQ(1, arg->done);
}

TEST_F(abi, unknown_commands)
{
	unsigned long number;
	uint32_t size = 64;

	EXPECT_EQ(-ENOTTY, call(pool.fd, _IO(KVTIER_IOC_TYPE, 0x9f), &size));
	for (number = 0xaa; number < 0xc0; number++)
		EXPECT_EQ(-ENOTTY, call(pool.fd, _IO(KVTIER_IOC_TYPE, number), &size));
	EXPECT_EQ(-ENOTTY, call(pool.fd, _IO('x', 0xa0), &size));
	EXPECT_EQ(-ENOTTY, call(pool.fd, _IOWR(KVTIER_IOC_TYPE, 0xa0, struct kvtier_info), &size));
	EXPECT_EQ(-ENOTTY, call(pool.fd, 0x5401 /* TCGETS */, &size));
}

TEST_F(abi, not_a_pool_yet)
{
	struct kvtier_event event;
	union argument a;
	size_t i;
	int fd = device_open(O_RDWR);

	ASSERT_LE(0, fd);
	for (i = 0; i < ENTRIES; i++) {
		if (table[i].number == KVTIER_IOC_INFO || table[i].fresh)
			continue;
		memset(&a, 0, sizeof(a));
		table[i].fill(&a);
		EXPECT_EQ(-ENXIO, call(fd, table[i].number, &a)) TH_LOG("%s", table[i].name);
	}
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0));
	EXPECT_EQ(ENXIO, errno);
	EXPECT_EQ(-1, read(fd, &event, sizeof(event)));
	EXPECT_EQ(ENXIO, errno);
	good_clone(&a);
	a.clone.src_fd = fd;
	EXPECT_EQ(-EBADF, call(pool.fd, KVTIER_IOC_CLONE, &a));
	good_create(&a);
	EXPECT_EQ(0, call(fd, KVTIER_IOC_POOL_CREATE, &a));
	good_create(&a);
	EXPECT_EQ(-EEXIST, call(fd, KVTIER_IOC_POOL_CREATE, &a));
	close(fd);
}

/* Only who may write can make a pool, and only who may read can show it to others. */
TEST_F(abi, rights)
{
	int reader = device_open(O_RDONLY), writer = device_open(O_WRONLY);
	union argument a;

	ASSERT_LE(0, reader);
	ASSERT_LE(0, writer);
	good_info(&a);
	EXPECT_EQ(0, call(reader, KVTIER_IOC_INFO, &a));
	good_create(&a);
	EXPECT_EQ(-EACCES, call(reader, KVTIER_IOC_POOL_CREATE, &a));
	good_create(&a);
	EXPECT_EQ(0, call(writer, KVTIER_IOC_POOL_CREATE, &a));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 4096, PROT_READ, MAP_SHARED, writer, 0));
	EXPECT_EQ(EACCES, errno);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, writer, 0));
	EXPECT_EQ(EACCES, errno);
	good_clone(&a);
	a.clone.src_fd = writer;
	EXPECT_EQ(-EACCES, call(pool.fd, KVTIER_IOC_CLONE, &a));
	close(reader);
	close(writer);
}

TEST_F(abi, foreign_descriptors)
{
	int null = open("/dev/null", O_RDWR), pipe_fds[2];
	union argument a;

	ASSERT_EQ(0, pipe(pipe_fds));
	good_clone(&a);
	a.clone.src_fd = null;
	EXPECT_EQ(-EBADF, call(pool.fd, KVTIER_IOC_CLONE, &a));
	a.clone.src_fd = pipe_fds[0];
	EXPECT_EQ(-EBADF, call(pool.fd, KVTIER_IOC_CLONE, &a));
	a.clone.src_fd = -1;
	EXPECT_EQ(-EBADF, call(pool.fd, KVTIER_IOC_CLONE, &a));
	a.clone.src_fd = 1 << 20;
	EXPECT_EQ(-EBADF, call(pool.fd, KVTIER_IOC_CLONE, &a));
	close(null);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

/* ---- ranges --------------------------------------------------------------------------- */

static int range_result(uint64_t offset, uint64_t length, uint32_t reserved)
{
	struct kvtier_range ranges[2] = {
		{ .offset = 2 * pool.block, .length = pool.block },
		{ .offset = offset, .length = length, .__reserved = reserved },
	};
	struct kvtier_range_op arg = {
		.size = sizeof(arg),
		.op = KVTIER_OP_DISCARD,
		.nr = 2,
		.ranges = (uintptr_t)ranges,
	};

	return call(pool.fd, KVTIER_IOC_RANGE_OP, &arg);
}

TEST_F(abi, ranges)
{
	const uint64_t block = pool.block, end = pool.bytes, top = ~0ULL & ~(block - 1);
	const struct {
		uint64_t offset, length;
		uint32_t reserved;
	} bad[] = {
		{ 0, 0, 0 },		{ end, block, 0 },	     { end - block, 2 * block, 0 },
		{ 0, end + block, 0 },	{ top, block, 0 },	     { top, 2 * block, 0 },
		{ block, top, 0 },	{ 1, block, 0 },	     { 0, block + 1, 0 },
		{ 4096, block, 0 },	{ 0, 4096, 0 },		     { ~0ULL, ~0ULL, 0 },
		{ 0, block, 1 },	{ 1ULL << 63, 1ULL << 63, 0 },
	};
	struct kvtier_range range = { .length = block };
	struct kvtier_range_op many = {
		.size = sizeof(many),
		.op = KVTIER_OP_DEMOTE,
		.ranges = (uintptr_t)&range,
		.nr = KVTIER_ARRAY_MAX + 1,
	};
	size_t i;

	fill(&pool, 2, 1, 3);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		EXPECT_EQ(-EINVAL, range_result(bad[i].offset, bad[i].length, bad[i].reserved))
			TH_LOG("range %zu", i);
	/* Refused whole: the good range before each of them was not discarded. */
	EXPECT_EQ(0, check(&pool, 2, 1, 3));
	EXPECT_EQ(-EINVAL, call(pool.fd, KVTIER_IOC_RANGE_OP, &many));
	many.nr = 0;
	EXPECT_EQ(0, call(pool.fd, KVTIER_IOC_RANGE_OP, &many));
}

/* They may overlap: each is worked on in turn, and may undo what made the next possible. */
TEST_F(abi, overlapping_ranges)
{
	struct kvtier_range ranges[3] = {
		{ .offset = 2 * pool.block, .length = 4 * pool.block },
		{ .offset = 3 * pool.block, .length = 2 * pool.block },
		{ .offset = 2 * pool.block, .length = 4 * pool.block },
	};
	struct kvtier_range_op arg = {
		.size = sizeof(arg),
		.op = KVTIER_OP_PIN,
		.nr = 3,
		.ranges = (uintptr_t)ranges,
	};

	ASSERT_EQ(0, set_budget(&pool, KVTIER_TIER_DRAM, 16));
	EXPECT_EQ(0, call(pool.fd, KVTIER_IOC_RANGE_OP, &arg));
	EXPECT_EQ(3, arg.done);
	arg.op = KVTIER_OP_UNPIN;
	EXPECT_EQ(0, call(pool.fd, KVTIER_IOC_RANGE_OP, &arg));
	EXPECT_EQ(3, arg.done);
	EXPECT_EQ(0, call(pool.fd, KVTIER_IOC_RANGE_OP, &arg));
	EXPECT_EQ(0, arg.done);
	EXPECT_EQ(-EINVAL, ranges[1].result);
}

TEST_F(abi, operations)
{
	static const uint32_t targets[][2] = {
		{ KVTIER_OP_PROMOTE, KVTIER_TIER_NVME }, { KVTIER_OP_DEMOTE, KVTIER_TIER_DRAM },
		{ KVTIER_OP_PROMOTE, KVTIER_NR_TIERS },	 { KVTIER_OP_DEMOTE, 77 },
		{ KVTIER_OP_WRITEBACK, KVTIER_TIER_NVME }, { KVTIER_OP_SEAL, KVTIER_TIER_DRAM },
		{ KVTIER_OP_DISCARD, KVTIER_TIER_CXL },	 { KVTIER_OP_PIN, KVTIER_TIER_DRAM },
		{ KVTIER_OP_UNPIN, KVTIER_TIER_DRAM },	 { KVTIER_OP_COLD, KVTIER_TIER_NVME },
		{ 0, 0 },				 { KVTIER_OP_COLD + 1, 0 },
		{ ~0U, 0 },
	};
	size_t i;

	for (i = 0; i < sizeof(targets) / sizeof(targets[0]); i++)
		EXPECT_EQ(-EINVAL, op_to(&pool, targets[i][0], targets[i][1], 2, 1))
			TH_LOG("operation %u, tier %u", targets[i][0], targets[i][1]);
	/* A tier that the pool does not have. */
	EXPECT_EQ(-ENODEV, op_to(&pool, KVTIER_OP_PROMOTE, KVTIER_TIER_CXL, 2, 1));
	EXPECT_EQ(-ENODEV, op_to(&pool, KVTIER_OP_DEMOTE, KVTIER_TIER_CXL, 2, 1));
}

/* The table "What an operation does in each state", for the states that a call can make. */
TEST_F(abi, states)
{
	ASSERT_EQ(0, op(&pool, KVTIER_OP_DISCARD, 2, 6));
	EXPECT_EQ(KVTIER_BLOCK_EMPTY, info(&pool, 3).state);
	EXPECT_EQ(0, op(&pool, KVTIER_OP_PROMOTE, 3, 1));
	EXPECT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 3, 1));
	EXPECT_EQ(0, op(&pool, KVTIER_OP_WRITEBACK, 3, 1));
	EXPECT_EQ(-ENODATA, op(&pool, KVTIER_OP_SEAL, 3, 1));
	EXPECT_EQ(0, op(&pool, KVTIER_OP_DISCARD, 3, 1));
	EXPECT_EQ(-EINVAL, op(&pool, KVTIER_OP_UNPIN, 3, 1));
	EXPECT_EQ(0, op(&pool, KVTIER_OP_COLD, 3, 1));
	EXPECT_EQ(KVTIER_BLOCK_EMPTY, info(&pool, 3).state);
	EXPECT_EQ(0, op(&pool, KVTIER_OP_PIN, 3, 1));
	EXPECT_EQ(KVTIER_BLOCK_OPEN, info(&pool, 3).state);
	EXPECT_EQ(-EBUSY, op(&pool, KVTIER_OP_DEMOTE, 3, 1));
	EXPECT_EQ(-EBUSY, op(&pool, KVTIER_OP_DISCARD, 3, 1));
	EXPECT_EQ(0, op(&pool, KVTIER_OP_UNPIN, 3, 1));
	fill(&pool, 3, 1, 5);
	EXPECT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 3, 1));
	EXPECT_EQ(KVTIER_BLOCK_COLD_OPEN, info(&pool, 3).state);
	EXPECT_EQ(-EINVAL, op(&pool, KVTIER_OP_UNPIN, 3, 1));
	EXPECT_EQ(0, op(&pool, KVTIER_OP_SEAL, 3, 1));
	EXPECT_EQ(KVTIER_BLOCK_COLD, info(&pool, 3).state);
	EXPECT_EQ(0, op(&pool, KVTIER_OP_PROMOTE, 3, 1));
	EXPECT_EQ(KVTIER_BLOCK_CLEAN, info(&pool, 3).state);
	EXPECT_EQ(0, check(&pool, 3, 1, 5));
	fill(&pool, 4, 1, 5);
	EXPECT_EQ(0, op(&pool, KVTIER_OP_SEAL, 4, 1));
	EXPECT_EQ(KVTIER_BLOCK_SEALED, info(&pool, 4).state);
	EXPECT_EQ(0, op(&pool, KVTIER_OP_WRITEBACK, 4, 1));
	EXPECT_EQ(KVTIER_BLOCK_CLEAN, info(&pool, 4).state);
}

/* ---- budgets and pools ------------------------------------------------------------------ */

static int create_result(const struct kvtier_pool_create *request)
{
	struct kvtier_pool_create copy = *request;
	int fd = device_open(O_RDWR), ret = call(fd, KVTIER_IOC_POOL_CREATE, &copy);

	close(fd);
	return ret;
}

TEST_F(abi, bad_pools)
{
	const struct kvtier_pool_create good = pool_request(SHIFT, BLOCKS, 8, BLOCKS);
	struct kvtier_pool_create bad;

#define REFUSED(error, change)                                             \
	do {                                                               \
		bad = good;                                                \
		change;                                                    \
		EXPECT_EQ(error, create_result(&bad)) TH_LOG("%s", #change); \
	} while (0)

	EXPECT_EQ(0, create_result(&good));
	REFUSED(-EINVAL, bad.bytes = 0);
	REFUSED(-EINVAL, bad.bytes += 4096);
	REFUSED(-EINVAL, bad.bytes = ~0ULL);
	REFUSED(-EINVAL, bad.bytes = (uint64_t)UINT32_MAX << SHIFT);
	REFUSED(-EINVAL, bad.block_shift = SHIFT - 1);
	REFUSED(-EINVAL, bad.block_shift = KVTIER_SHIFT_MAX + 1);
	REFUSED(-EINVAL, bad.block_shift = 1U << 31);
	REFUSED(-EINVAL, bad.io_deadline_ms = UINT32_MAX);
	REFUSED(-EINVAL, memset(bad.name, 'x', sizeof(bad.name)));
	REFUSED(-EINVAL, bad.budget[KVTIER_TIER_DRAM].bytes = 0);
	REFUSED(-EINVAL, bad.budget[KVTIER_TIER_DRAM].bytes = (KVTIER_FRAMES_MIN - 1) << SHIFT);
	REFUSED(-EINVAL, bad.budget[KVTIER_TIER_DRAM].bytes += 4096);
	REFUSED(-EINVAL, bad.budget[KVTIER_TIER_NVME].bytes += 1);
	REFUSED(-EINVAL, bad.budget[KVTIER_TIER_CXL].nodes = 2);
	REFUSED(-EINVAL, (bad.flags = KVTIER_POOL_KEEP, bad.budget[KVTIER_TIER_NVME].bytes = 0,
			  bad.budget[KVTIER_TIER_DRAM].bytes = bad.bytes));
	REFUSED(-ENOSPC, bad.budget[KVTIER_TIER_NVME].bytes = 0);
	REFUSED(-ENOSPC, bad.budget[KVTIER_TIER_NVME].bytes = (BLOCKS - 8 + 3ULL) << SHIFT);
	REFUSED(-ENOSPC, bad.budget[KVTIER_TIER_NVME].bytes = 1ULL << 50);
	REFUSED(-ENOSPC, bad.budget[KVTIER_TIER_DRAM].bytes = 1ULL << 50);
	REFUSED(-ENODEV, bad.budget[KVTIER_TIER_DRAM].nodes = 1ULL << 63);
	REFUSED(-ENODEV, bad.budget[KVTIER_TIER_NVME].nodes = 1ULL << 63);
	REFUSED(-ENODEV, (bad.budget[KVTIER_TIER_CXL].bytes = 4ULL << SHIFT,
			  bad.budget[KVTIER_TIER_CXL].nodes = 1));
#undef REFUSED
	/* Nothing of them is left. */
	EXPECT_EQ(8 * pool.block, stats(&pool).tier[KVTIER_TIER_DRAM].budget_bytes);
}

TEST_F(abi, refused_pools_claim_nothing)
{
	struct kvtier_info before = device_info(), after;
	struct kvtier_pool_create bad = pool_request(SHIFT, BLOCKS, 8, BLOCKS);
	int tier;

	bad.budget[KVTIER_TIER_NVME].nodes = 1ULL << 63;
	EXPECT_EQ(-ENODEV, create_result(&bad));
	bad.budget[KVTIER_TIER_NVME].nodes = 0;
	bad.budget[KVTIER_TIER_NVME].bytes = 1ULL << 50;
	EXPECT_EQ(-ENOSPC, create_result(&bad));
	after = device_info();
	for (tier = 0; tier < KVTIER_NR_TIERS; tier++)
		EXPECT_EQ(before.free_bytes[tier], after.free_bytes[tier]);
}

TEST_F(abi, bad_budgets)
{
	struct kvtier_pool_budget arg;
	union argument a;

#define BUDGET(error, change)                                                               \
	do {                                                                                \
		good_budget(&a);                                                            \
		arg = a.budget;                                                             \
		change;                                                                     \
		EXPECT_EQ(error, call(pool.fd, KVTIER_IOC_POOL_BUDGET, &arg)) TH_LOG("%s", #change); \
	} while (0)

	BUDGET(-EINVAL, arg.tier = KVTIER_TIER_NONE);
	BUDGET(-EINVAL, arg.tier = KVTIER_NR_TIERS);
	BUDGET(-EINVAL, arg.tier = ~0U);
	BUDGET(-EINVAL, arg.budget.bytes += 1);
	BUDGET(-EINVAL, arg.budget.bytes = 0);
	BUDGET(-EINVAL, arg.budget.bytes = (KVTIER_FRAMES_MIN - 1) * pool.block);
	BUDGET(-EINVAL, (arg.tier = KVTIER_TIER_NVME, arg.budget.bytes = 0)); /* it keeps */
	BUDGET(-ENOSPC, arg.budget.bytes = 1ULL << 50);
	BUDGET(-ENOSPC, (arg.tier = KVTIER_TIER_NVME, arg.budget.bytes = 1ULL << 50));
	BUDGET(-ENOSPC, (arg.tier = KVTIER_TIER_NVME, arg.budget.bytes = 8 * pool.block));
	BUDGET(-ENODEV, (arg.tier = KVTIER_TIER_CXL, arg.budget.bytes = 8 * pool.block));
#undef BUDGET
	EXPECT_EQ(8 * pool.block, stats(&pool).tier[KVTIER_TIER_DRAM].budget_bytes);
	EXPECT_EQ(2 * BLOCKS * pool.block, stats(&pool).tier[KVTIER_TIER_NVME].budget_bytes);
}

TEST_F(abi, query_past_the_end)
{
	struct kvtier_block_info infos[BLOCKS + 1];
	struct kvtier_query query = { .size = sizeof(query), .infos = (uintptr_t)infos };

	query.nr = BLOCKS + 1;
	EXPECT_EQ(-EINVAL, call(pool.fd, KVTIER_IOC_QUERY, &query));
	query.nr = 1;
	query.first_block = BLOCKS;
	EXPECT_EQ(-EINVAL, call(pool.fd, KVTIER_IOC_QUERY, &query));
	query.first_block = ~0ULL;
	query.nr = 2;
	EXPECT_EQ(-EINVAL, call(pool.fd, KVTIER_IOC_QUERY, &query));
	query.first_block = 0;
	query.nr = BLOCKS;
	EXPECT_EQ(0, call(pool.fd, KVTIER_IOC_QUERY, &query));
	EXPECT_EQ(KVTIER_BLOCK_CLEAN, infos[0].state);
	EXPECT_EQ(KVTIER_BLOCK_EMPTY, infos[BLOCKS - 1].state);
}

/* ---- checkpoint, adopt, release ----------------------------------------------------------- */

TEST_F(abi, bad_checkpoints)
{
	struct pool plain;
	union argument a;

#define BAD(error, change)                                                                       \
	do {                                                                                     \
		good_checkpoint(&a);                                                             \
		change;                                                                          \
		EXPECT_EQ(error, call(pool.fd, KVTIER_IOC_CHECKPOINT, &a)) TH_LOG("%s", #change); \
	} while (0)

	BAD(-EINVAL, a.checkpoint.nr = 0);
	BAD(-EINVAL, a.checkpoint.length = 0);
	BAD(-EINVAL, a.checkpoint.length = pool.block + 1);
	BAD(-EINVAL, a.checkpoint.offset = pool.bytes);
	BAD(-EINVAL, a.checkpoint.length = 2 * pool.block); /* room for one */
	BAD(-EBUSY, a.checkpoint.offset = pool.block); /* open */
	BAD(-EBUSY, a.checkpoint.offset = 20 * pool.block); /* empty */
	BAD(-ENOENT, memset(a.checkpoint.key, 0x77, KVTIER_KEY_BYTES));
#undef BAD
	ASSERT_EQ(0, pool_new(&plain, SHIFT, BLOCKS, 8, BLOCKS, 0));
	good_checkpoint(&a);
	EXPECT_EQ(-EINVAL, call(plain.fd, KVTIER_IOC_CHECKPOINT, &a)); /* not KEEP */
	good_adopt(&a);
	EXPECT_EQ(-EINVAL, call(plain.fd, KVTIER_IOC_ADOPT, &a));
	pool_close(&plain);
}

TEST_F(abi, bad_adopts)
{
	struct kvtier_slot two[2];
	union argument a;

	slot.block = 9;
	two[0] = slot;
	two[1] = slot;
	two[1].block = 10;
#define BAD(error, change)                                                                  \
	do {                                                                                \
		struct kvtier_slot saved[2] = { two[0], two[1] };                           \
		good_adopt(&a);                                                             \
		a.adopt.slots = (uintptr_t)two;                                             \
		a.adopt.nr = 2;                                                             \
		change;                                                                     \
		EXPECT_EQ(error, call(pool.fd, KVTIER_IOC_ADOPT, &a)) TH_LOG("%s", #change); \
		EXPECT_EQ(KVTIER_BLOCK_EMPTY, info(&pool, 9).state);                        \
		memcpy(two, saved, sizeof(two));                                            \
	} while (0)

	BAD(-EINVAL, two[1].block = 9); /* twice */
	BAD(-EINVAL, two[1].block = BLOCKS);
	BAD(-EINVAL, two[1].slot = 1ULL << 40);
	BAD(-EINVAL, two[1].slot = ~0ULL);
	BAD(-EINVAL, two[1].crc32c ^= 1); /* a slot has one checksum */
	BAD(-EINVAL, a.adopt.nr = KVTIER_ARRAY_MAX + 1);
	BAD(-ENODEV, a.adopt.store[0] ^= 1);
	BAD(-ENOENT, a.adopt.key[0] ^= 1);
	BAD(-ENOENT, memset(a.adopt.key, 0, KVTIER_KEY_BYTES));
	BAD(-ENOENT, two[1].slot += 1000); /* not in the reservation */
	BAD(-EEXIST, two[1].block = 1);
#undef BAD
	good_adopt(&a);
	a.adopt.slots = (uintptr_t)two;
	a.adopt.nr = 2;
	EXPECT_EQ(0, call(pool.fd, KVTIER_IOC_ADOPT, &a));
	EXPECT_EQ(KVTIER_BLOCK_COLD, info(&pool, 10).state);
	EXPECT_EQ(0, check_as(&pool, 9, 0, 1));
	EXPECT_EQ(0, check_as(&pool, 10, 0, 1));
}

/* What cannot be copied is told of as lost. */
TEST_F(abi, events_to_nowhere)
{
	struct kvtier_event event;
	struct pool told;

	ASSERT_EQ(0, pool_new(&told, SHIFT, BLOCKS, 8, BLOCKS, KVTIER_POOL_FAULT_EVENTS));
	fill(&told, 0, 1, 1);
	ASSERT_EQ(0, op(&told, KVTIER_OP_DEMOTE, 0, 1));
	EXPECT_EQ(0, check(&told, 0, 1, 1));
	EXPECT_EQ(-1, read(told.fd, (void *)4096, sizeof(event)));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_TRUE(next_event(&told, KVTIER_EVENT_OVERFLOW, 1000, &event));
	pool_close(&told);
}

/* ---- reading events ------------------------------------------------------------------------ */

static void on_alarm(int signal)
{
	(void)signal;
}

TEST_F(abi, events)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct itimerval soon = { .it_value.tv_usec = 200000 };
	struct pollfd fd = { .fd = pool.fd, .events = POLLIN };
	struct kvtier_event event;

	EXPECT_EQ(0, poll(&fd, 1, 0));
	EXPECT_EQ(-1, read(pool.fd, &event, sizeof(event) - 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, read(pool.fd, &event, 0));
	EXPECT_EQ(EINVAL, errno);
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	EXPECT_EQ(-1, read(pool.fd, &event, sizeof(event)));
	EXPECT_EQ(EINTR, errno);
	ASSERT_EQ(0, fcntl(pool.fd, F_SETFL, O_NONBLOCK));
	EXPECT_EQ(-1, read(pool.fd, &event, sizeof(event)));
	EXPECT_EQ(EAGAIN, errno);
}

/* What a pinnable pool cannot do. */
TEST_F(abi, pinnable)
{
	struct pool pinnable;

	ASSERT_EQ(0, pool_new(&pinnable, SHIFT, BLOCKS, 8, BLOCKS, KVTIER_POOL_PINNABLE));
	fill(&pinnable, 0, 2, 1);
	EXPECT_EQ(-EOPNOTSUPP, op(&pinnable, KVTIER_OP_SEAL, 0, 1));
	EXPECT_EQ(-EOPNOTSUPP, clone_blocks(&pinnable, 4, &pinnable, 0, 1));
	EXPECT_EQ(-EOPNOTSUPP, clone_blocks(&pool, 8, &pinnable, 0, 1));
	EXPECT_EQ(-EOPNOTSUPP, clone_blocks(&pinnable, 4, &pool, 1, 1));
	EXPECT_EQ(0, op(&pinnable, KVTIER_OP_DEMOTE, 0, 2));
	EXPECT_EQ(0, check(&pinnable, 0, 2, 1));
	pool_close(&pinnable);
}

KVT_MAIN(NEEDS_STORE)
