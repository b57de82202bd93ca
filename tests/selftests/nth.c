// SPDX-License-Identifier: MIT
/*
 * Every allocation of every call fails once: the call says ENOMEM or gets along, and
 * nothing is lost, half done or left behind.  Needs a kernel with fault injection.
 */
#include <sys/mman.h>

#include "test.h"

#define BLOCKS 32
#define DRAM 16
#define MOST 400 /* allocations of one call */

static struct pool pool;
static struct kvtier_slot slots[4];
static uint8_t key[KVTIER_KEY_BYTES], store[KVTIER_UUID_BYTES];

static int fail_nth; /* /proc/self/fail-nth: to open it anew would count */

/* The @nth allocation of this thread from now on fails; 0: none. */
static int arm(int nth)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%d", nth);

	return pwrite(fail_nth, text, (size_t)length, 0) == length ? 0 : -errno;
}

/* Did that allocation come? */
static bool came(void)
{
	char text[16] = { 0 };

	return pread(fail_nth, text, sizeof(text) - 1, 0) > 0 && !atoi(text);
}

FIXTURE(nth)
{
	int unused;
};

FIXTURE_SETUP(nth)
{
	fail_nth = open("/proc/self/fail-nth", O_RDWR | O_CLOEXEC);
	if (fail_nth < 0)
		SKIP(return, "this kernel has no fault injection");
	attr_write("/sys/kernel/debug/failslab/ignore-gfp-wait", "N");
	attr_write("/sys/kernel/debug/failslab/verbose", "0");
	attr_write("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N");
	attr_write("/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem", "N");
	attr_write("/sys/kernel/debug/fail_page_alloc/min-order", "0");
	attr_write("/sys/kernel/debug/fail_page_alloc/verbose", "0");
	ASSERT_EQ(0, pool_new(&pool, SHIFT, BLOCKS, DRAM, 3 * BLOCKS,
			      KVTIER_POOL_KEEP | KVTIER_POOL_NO_PREDICT));
	fill(&pool, 0, 16, 1);
	ASSERT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, 16));
}

FIXTURE_TEARDOWN(nth)
{
	pool_close(&pool);
	close(fail_nth);
}

/*
 * Call @step with the first, second, ... allocation failing, until it needs no more.
 * @undo brings the pool back to where it was.
 */
static void sweep(struct __test_metadata *_metadata, const char *name, int (*step)(void),
		  void (*undo)(void))
{
	int nth, ret = 0, failed = 0;
	bool done;

	for (nth = 1; nth < MOST; nth++) {
		ASSERT_EQ(0, arm(nth));
		ret = step();
		done = !came();
		ASSERT_EQ(0, arm(0));
		if (done)
			break;
		EXPECT_TRUE(!ret || ret == -ENOMEM || ret == -ENOSPC || ret == -EBUSY)
			TH_LOG("%s, allocation %d: %d", name, nth, ret);
		failed += ret != 0;
		if (undo)
			undo();
		EXPECT_EQ(0, check(&pool, 0, 16, 1)) TH_LOG("%s, allocation %d", name, nth);
		ASSERT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, 16));
	}
	EXPECT_EQ(0, ret) TH_LOG("%s", name);
	EXPECT_LT(nth, MOST);
	if (undo)
		undo();
	EXPECT_EQ(0, check(&pool, 0, 16, 1)) TH_LOG("%s", name);
	printf("# %s: %d allocations, %d of them fatal to the call\n", name, nth - 1, failed);
}

static struct pool made;

static int create(void)
{
	struct kvtier_pool_create request = pool_request(SHIFT, BLOCKS, DRAM, BLOCKS);
	int ret;

	made.fd = device_open(O_RDWR);
	if (made.fd < 0)
		return made.fd;
	ret = call(made.fd, KVTIER_IOC_POOL_CREATE, &request);
	close(made.fd);
	return ret;
}

TEST_F(nth, create)
{
	struct kvtier_info before = device_info(), after;

	sweep(_metadata, "create", create, NULL);
	after = device_info();
	EXPECT_EQ(0, memcmp(before.free_bytes, after.free_bytes, sizeof(after.free_bytes)));
}

static int map_and_touch(void)
{
	char *map = mmap(NULL, pool.bytes, PROT_READ, MAP_SHARED, pool.fd, 0);
	int signal;

	if (map == MAP_FAILED)
		return -errno;
	signal = try_read(map + 3 * pool.block);
	munmap(map, pool.bytes);
	return signal ? -ENOMEM : 0;
}

TEST_F(nth, map_and_touch)
{
	sweep(_metadata, "mmap and read", map_and_touch, NULL);
}

static int first_touch(void)
{
	return try_write(at(&pool, 20)) ? -ENOMEM : 0;
}

static void empty_20(void)
{
	op(&pool, KVTIER_OP_DISCARD, 20, 1);
}

TEST_F(nth, first_touch)
{
	sweep(_metadata, "first touch", first_touch, empty_20);
}

static int promote(void)
{
	return op(&pool, KVTIER_OP_PROMOTE, 0, 12);
}

TEST_F(nth, promote)
{
	sweep(_metadata, "promote", promote, NULL);
}

static int dirty_and_demote(void)
{
	uint64_t i;
	int ret;

	for (i = 0; i < 8; i++)
		if (try_write(at(&pool, 20 + i)))
			return -ENOMEM;
	ret = op(&pool, KVTIER_OP_DEMOTE, 20, 8);
	return ret;
}

static void empty_rest(void)
{
	op(&pool, KVTIER_OP_DISCARD, 16, 16);
}

TEST_F(nth, demote)
{
	sweep(_metadata, "write and demote", dirty_and_demote, empty_rest);
}

static int pin(void)
{
	int ret = op(&pool, KVTIER_OP_PIN, 2, 8), i;

	for (i = 0; ret && i < 8; i++)
		if (info(&pool, 2 + (uint64_t)i).flags & KVTIER_BLOCKF_PINNED)
			return -1; /* it holds nothing */
	return ret;
}

static void unpin(void)
{
	op(&pool, KVTIER_OP_UNPIN, 2, 8);
}

TEST_F(nth, pin)
{
	sweep(_metadata, "pin", pin, unpin);
}

static int clone(void)
{
	int ret = clone_blocks(&pool, 20, &pool, 0, 8);

	return ret ? ret : check_as(&pool, 23, 3, 1) ? -1 : 0;
}

TEST_F(nth, clone)
{
	sweep(_metadata, "clone", clone, empty_rest);
}

static int checkpoint(void)
{
	struct kvtier_checkpoint arg = {
		.size = sizeof(arg),
		.offset = 20 * pool.block,
		.length = 4 * pool.block,
		.slots = (uintptr_t)slots,
		.nr = 4,
	};
	int ret = call(pool.fd, KVTIER_IOC_CHECKPOINT, &arg);

	memcpy(key, arg.key, sizeof(key));
	memcpy(store, arg.store, sizeof(store));
	return ret;
}

static void release(void)
{
	struct kvtier_release arg = { .size = sizeof(arg) };

	memcpy(arg.key, key, sizeof(key));
	call(pool.fd, KVTIER_IOC_RELEASE, &arg);
}

TEST_F(nth, checkpoint)
{
	fill(&pool, 20, 4, 1);
	ASSERT_EQ(0, op(&pool, KVTIER_OP_SEAL, 20, 4));
	sweep(_metadata, "checkpoint", checkpoint, release);
	EXPECT_EQ(0, check(&pool, 20, 4, 1));
}

/* The allocation that fails may be the query's own; then the next one does not. */
static bool is_in_state(uint64_t block, uint8_t state)
{
	return info(&pool, block).state == state || info(&pool, block).state == state;
}

static int adopt(void)
{
	struct kvtier_adopt arg = { .size = sizeof(arg), .slots = (uintptr_t)slots, .nr = 4 };
	int ret, i;

	memcpy(arg.key, key, sizeof(key));
	memcpy(arg.store, store, sizeof(store));
	ret = call(pool.fd, KVTIER_IOC_ADOPT, &arg);
	for (i = 0; i < 4; i++)
		if (!is_in_state(slots[i].block, ret ? KVTIER_BLOCK_EMPTY : KVTIER_BLOCK_COLD))
			return -1; /* all of them or none */
	return ret;
}

TEST_F(nth, adopt)
{
	fill(&pool, 20, 4, 1);
	ASSERT_EQ(0, op(&pool, KVTIER_OP_SEAL, 20, 4));
	ASSERT_EQ(0, checkpoint());
	empty_rest();
	sweep(_metadata, "adopt", adopt, empty_rest);
	release();
}

static int query(void)
{
	struct kvtier_block_info infos[BLOCKS];
	struct kvtier_query arg = {
		.size = sizeof(arg),
		.infos = (uintptr_t)infos,
		.nr = BLOCKS,
	};

	return call(pool.fd, KVTIER_IOC_QUERY, &arg);
}

TEST_F(nth, query)
{
	sweep(_metadata, "query", query, NULL);
}

static int budget(void)
{
	int ret = set_budget(&pool, KVTIER_TIER_DRAM, 8);

	return ret ? ret : set_budget(&pool, KVTIER_TIER_DRAM, DRAM);
}

TEST_F(nth, budget)
{
	sweep(_metadata, "budget", budget, NULL);
	EXPECT_EQ(DRAM * pool.block, stats(&pool).tier[KVTIER_TIER_DRAM].budget_bytes);
}

KVT_MAIN(NEEDS_STORE | NEEDS_ROOT)
