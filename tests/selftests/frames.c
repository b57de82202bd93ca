// SPDX-License-Identifier: MIT
/* Frames where there are few of them: pinned, held, lent to clones, and wanted by many. */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "test.h"

#define DEADLINE_MS 15000 /* what is stuck is found sooner than by the default */

static int few_frames(struct pool *pool, uint32_t shift, uint64_t blocks, uint64_t dram,
		      uint32_t flags)
{
	struct kvtier_pool_create request = pool_request(shift, blocks, dram, 2 * blocks);

	request.flags = flags | KVTIER_POOL_NO_PREDICT;
	request.io_deadline_ms = DEADLINE_MS;
	return pool_open(pool, &request);
}

/* A block that was touched through a read-only mapping, which became writable later. */
TEST(stores_after_mprotect)
{
	static const uint32_t shifts[] = { SHIFT, HUGE_SHIFT };
	struct pool pool;
	char *map;
	size_t i;

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, few_frames(&pool, shifts[i], 8, 4, KVTIER_POOL_PINNABLE));
		fill(&pool, 0, 1, 1);
		ASSERT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, 1));
		map = map_aligned(pool.fd, pool.bytes, PROT_READ);
		ASSERT_NE(MAP_FAILED, map);
		EXPECT_EQ(word_of(0, 1), *(volatile uint64_t *)map);
		ASSERT_EQ(0, mprotect(map, pool.bytes, PROT_READ | PROT_WRITE));
		fill_word((uint64_t *)map, 7, 7);
		ASSERT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, 1));
		EXPECT_EQ(word_of(7, 7), *(uint64_t *)at(&pool, 0));
		munmap(map, pool.bytes);
		pool_close(&pool);
	}
}

/* Those placed first and last cannot go; those in between can. */
TEST(between_pins)
{
	struct pool pool;

	ASSERT_EQ(0, few_frames(&pool, SHIFT, 512, 256, 0));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_PIN, 0, 70));
	fill(&pool, 70, 100, 1);
	ASSERT_EQ(0, op(&pool, KVTIER_OP_PIN, 170, 86));
	EXPECT_EQ(256, used_blocks(&pool, KVTIER_TIER_DRAM));
	EXPECT_EQ(0, try_write(at(&pool, 300)));
	fill(&pool, 300, 200, 2);
	EXPECT_EQ(0, check(&pool, 70, 100, 1));
	EXPECT_EQ(0, check(&pool, 300, 200, 2));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_UNPIN, 0, 70));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_UNPIN, 170, 86));
	EXPECT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, 512));
	pool_close(&pool);
}

struct pinner {
	struct pool *pool;
	uint64_t first;
	int ret;
};

static void *pin_some(void *arg)
{
	struct pinner *p = arg;

	p->ret = op(p->pool, KVTIER_OP_PIN, p->first, 10);
	return NULL;
}

/* Two that each may have their pins, but not both. */
TEST(pins_at_once)
{
	struct pinner p[2];
	pthread_t thread[2];
	struct pool pool;
	int round, i;

	ASSERT_EQ(0, few_frames(&pool, SHIFT, 64, 16, 0));
	for (round = 0; round < 30; round++) {
		for (i = 0; i < 2; i++) {
			p[i] = (struct pinner){ .pool = &pool, .first = i * 20 };
			ASSERT_EQ(0, pthread_create(&thread[i], NULL, pin_some, &p[i]));
		}
		for (i = 0; i < 2; i++)
			pthread_join(thread[i], NULL);
		EXPECT_TRUE(p[0].ret || p[1].ret);
		for (i = 0; i < 2; i++) {
			EXPECT_TRUE(p[i].ret == 0 || p[i].ret == -ENOSPC);
			if (!p[i].ret)
				EXPECT_EQ(0, op(&pool, KVTIER_OP_UNPIN, p[i].first, 10));
		}
	}
	pool_close(&pool);
}

/* Frames that more clones have than one can own at a time leave memory like others. */
TEST(many_sharers)
{
	struct pool pool;
	uint64_t i;

	ASSERT_EQ(0, few_frames(&pool, SHIFT, 1024, 8, 0));
	fill(&pool, 0, 8, 1);
	for (i = 0; i < 8; i++)
		ASSERT_EQ(0, op(&pool, KVTIER_OP_PROMOTE, i, 1));
	for (i = 8; i < 512; i *= 2)
		ASSERT_EQ(0, clone_blocks(&pool, i, &pool, 0, i));
	fill(&pool, 512, 64, 2);
	for (i = 0; i < 512; i++)
		EXPECT_EQ(0, check_as(&pool, i, i % 8, 1));
	EXPECT_EQ(0, check(&pool, 512, 64, 2));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, 1024));
	EXPECT_EQ(0, used_blocks(&pool, KVTIER_TIER_DRAM));
	EXPECT_EQ(72, used_blocks(&pool, KVTIER_TIER_NVME));
	pool_close(&pool);
}

TEST(as_many_clones_as_may_be)
{
	struct pool pool;
	uint64_t i;

	ASSERT_EQ(0, few_frames(&pool, SHIFT, KVTIER_CLONES_MAX + 16, 8, 0));
	fill(&pool, 0, 1, 1);
	for (i = 1; i < KVTIER_CLONES_MAX; i *= 2)
		ASSERT_EQ(0, clone_blocks(&pool, i, &pool, 0, i));
	EXPECT_EQ(-ENOSPC, clone_blocks(&pool, KVTIER_CLONES_MAX, &pool, 9, 1));
	EXPECT_EQ(KVTIER_BLOCK_EMPTY, info(&pool, KVTIER_CLONES_MAX).state);
	EXPECT_EQ(0, try_write(at(&pool, 100)));
	EXPECT_EQ(0, clone_blocks(&pool, KVTIER_CLONES_MAX, &pool, 9, 1));
	EXPECT_EQ(0, check_as(&pool, KVTIER_CLONES_MAX, 0, 1));
	EXPECT_EQ(-ENOSPC, clone_blocks(&pool, KVTIER_CLONES_MAX + 1, &pool, 9, 1));
	EXPECT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, pool.blocks));
	EXPECT_EQ(0, op(&pool, KVTIER_OP_DISCARD, 0, pool.blocks));
	EXPECT_EQ(0, used_blocks(&pool, KVTIER_TIER_NVME));
	pool_close(&pool);
}

/* Who holds a clone's page goes on seeing that clone, whatever the others become. */
TEST(held_page_of_a_clone)
{
	struct iovec page = { .iov_len = 4096 };
	uint64_t words[512], i, wrong = 0;
	struct pool pool;
	int ends[2], ret;

	ASSERT_EQ(0, few_frames(&pool, SHIFT, 16, 8, 0));
	ASSERT_EQ(0, pipe(ends));
	fill(&pool, 0, 1, 1);
	ASSERT_EQ(0, clone_blocks(&pool, 1, &pool, 0, 1));
	EXPECT_EQ(0, check_as(&pool, 1, 0, 1));
	page.iov_base = at(&pool, 1);
	ASSERT_EQ(4096, vmsplice(ends[1], &page, 1, 0));
	ret = op(&pool, KVTIER_OP_DISCARD, 1, 1);
	EXPECT_TRUE(ret == 0 || ret == -EBUSY);
	EXPECT_EQ(-EBUSY, op(&pool, KVTIER_OP_DEMOTE, 0, 2));
	fill(&pool, 0, 1, 2); /* alone with the frame now */
	EXPECT_EQ(0, check(&pool, 0, 1, 2));
	ASSERT_EQ(4096, read(ends[0], words, 4096));
	for (i = 0; i < 512; i++)
		wrong += words[i] != word_of(i * 8, 1);
	EXPECT_EQ(0, wrong);
	EXPECT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, 2));
	EXPECT_EQ(0, check(&pool, 0, 1, 2));
	close(ends[0]);
	close(ends[1]);
	pool_close(&pool);
}

struct mover {
	struct pool *pool;
	volatile bool stop;
	bool clones;
	uint64_t seed, done;
	int error;
};

static void *demote_batches(void *arg)
{
	struct mover *m = arg;
	int ret;

	while (!m->stop) {
		ret = op(m->pool, KVTIER_OP_DEMOTE, next_random(&m->seed) % 32, 32);
		if (ret && ret != -EBUSY)
			m->error = ret;
		m->done++;
	}
	return NULL;
}

static void *touch_all(void *arg)
{
	struct mover *m = arg;
	uint64_t nr;
	int ret;

	while (!m->stop) {
		nr = next_random(&m->seed) % 64;
		ret = m->clones || m->seed & 64 ? try_write(at(m->pool, nr) + 8) :
						  try_read(at(m->pool, nr));
		if (ret)
			m->error = ret;
		m->done++;
	}
	return NULL;
}

static void *clone_always(void *arg)
{
	struct mover *m = arg;
	uint64_t from;
	int ret;

	while (!m->stop) {
		from = next_random(&m->seed) % 32;
		ret = clone_blocks(m->pool, 32 + from, m->pool, from, 1);
		if (ret && ret != -EBUSY)
			m->error = ret;
		m->done++;
	}
	return NULL;
}

/* Nobody waits in a circle, and nothing stays held that nobody holds. */
static int all_at_once(struct pool *pool, bool clones)
{
	void *(*run[])(void *) = { demote_batches, demote_batches, touch_all, touch_all,
				   clones ? clone_always : touch_all };
	struct mover m[5];
	pthread_t thread[5];
	int i, errors = 0;

	for (i = 0; i < 5; i++) {
		m[i] = (struct mover){ .pool = pool, .seed = i + 1, .clones = clones };
		errors += !!pthread_create(&thread[i], NULL, run[i], &m[i]);
	}
	usleep(4000000);
	for (i = 0; i < 5; i++)
		m[i].stop = true;
	for (i = 0; i < 5; i++) {
		pthread_join(thread[i], NULL);
		if (m[i].error)
			printf("# thread %d: %d after %llu\n", i, m[i].error,
			       (unsigned long long)m[i].done);
		errors += !!m[i].error;
	}
	return errors;
}

TEST(demoted_together)
{
	static const uint32_t shifts[] = { SHIFT, HUGE_SHIFT };
	struct pool pool;
	int i;

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, few_frames(&pool, shifts[i], 64, 8, 0));
		EXPECT_EQ(0, all_at_once(&pool, false));
		EXPECT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, 64));
		EXPECT_EQ(0, used_blocks(&pool, KVTIER_TIER_DRAM));
		pool_close(&pool);
	}
}

TEST(clones_written_together)
{
	struct pool pool;

	ASSERT_EQ(0, few_frames(&pool, SHIFT, 64, 4, 0));
	fill(&pool, 0, 32, 1);
	EXPECT_EQ(0, all_at_once(&pool, true));
	EXPECT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, 64));
	EXPECT_EQ(0, used_blocks(&pool, KVTIER_TIER_DRAM));
	EXPECT_EQ(0, op(&pool, KVTIER_OP_DISCARD, 0, 64));
	EXPECT_EQ(0, used_blocks(&pool, KVTIER_TIER_NVME));
	pool_close(&pool);
}

/* A budget of slots, with slots that several have, and with blocks that are in theirs alone. */
TEST(fewer_slots)
{
	struct pool pool;

	ASSERT_EQ(0, few_frames(&pool, SHIFT, 64, 64, 0));
	fill(&pool, 0, 16, 1);
	ASSERT_EQ(0, clone_blocks(&pool, 16, &pool, 0, 16));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_WRITEBACK, 0, 32));
	EXPECT_EQ(16, used_blocks(&pool, KVTIER_TIER_NVME));
	ASSERT_EQ(0, set_budget(&pool, KVTIER_TIER_NVME, 8));
	EXPECT_GE(8, used_blocks(&pool, KVTIER_TIER_NVME));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, 4));
	ASSERT_EQ(0, set_budget(&pool, KVTIER_TIER_NVME, 0));
	EXPECT_EQ(0, used_blocks(&pool, KVTIER_TIER_NVME));
	EXPECT_EQ(0, check(&pool, 0, 16, 1));
	EXPECT_EQ(0, check_as(&pool, 20, 4, 1));
	ASSERT_EQ(0, set_budget(&pool, KVTIER_TIER_NVME, 64)); /* it was made with some */
	ASSERT_EQ(0, op(&pool, KVTIER_OP_DEMOTE, 0, 64));
	EXPECT_EQ(0, check(&pool, 0, 16, 1));
	pool_close(&pool);
}

/* Pins count against a budget that is lowered, too. */
TEST(lowered_to_pins)
{
	struct pool pool;

	ASSERT_EQ(0, few_frames(&pool, SHIFT, 64, 32, 0));
	ASSERT_EQ(0, op(&pool, KVTIER_OP_PIN, 0, 10));
	EXPECT_EQ(-ENOSPC, set_budget(&pool, KVTIER_TIER_DRAM, 12));
	EXPECT_EQ(0, set_budget(&pool, KVTIER_TIER_DRAM, 14));
	fill(&pool, 0, 64, 1);
	EXPECT_EQ(0, check(&pool, 0, 64, 1));
	pool_close(&pool);
}

#define PERIOD KVT_CLASS "policy/scan_period_ms"

static bool wait_unmapped(struct pool *pool, uint64_t block)
{
	uint64_t until = now_ms() + 30000;

	while (info(pool, block).flags & KVTIER_BLOCKF_MAPPED) {
		if (now_ms() > until)
			return false;
		usleep(20000);
	}
	return true;
}

/* What looks idle is taken out of the page tables, stays in memory, and is warm when touched. */
TEST(probation)
{
	long long period = attr_number(PERIOD);
	uint64_t hard, soft;
	struct pool pool;

	ASSERT_EQ(0, few_frames(&pool, SHIFT, 64, 32, 0));
	if (attr_write(PERIOD, "50"))
		SKIP(return, "needs root, to look more often");
	fill(&pool, 0, 16, 1);
	EXPECT_TRUE(wait_unmapped(&pool, 5));
	EXPECT_EQ(0, attr_write(PERIOD, "0"));
	usleep(200000);
	EXPECT_EQ(KVTIER_TIER_DRAM, info(&pool, 5).tier);
	EXPECT_EQ(0, info(&pool, 5).heat);
	hard = stats(&pool).hard_faults;
	soft = stats(&pool).soft_faults;
	EXPECT_EQ(0, check(&pool, 5, 1, 1));
	EXPECT_EQ(hard, stats(&pool).hard_faults);
	EXPECT_LT(soft, stats(&pool).soft_faults);
	EXPECT_LE(64, info(&pool, 5).heat);
	EXPECT_EQ(0, attr_writef(PERIOD, "%lld", period));
	pool_close(&pool);
}

KVT_MAIN(NEEDS_STORE)
