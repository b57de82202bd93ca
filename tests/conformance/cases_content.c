// SPDX-License-Identifier: MIT
/* What is written is what is read, whatever the order and the block size. */
#include <stdlib.h>
#include <string.h>

#include "conf.h"

enum order { SEQUENTIAL, REVERSE, STRIDED, RANDOM };

/* The @i-th of @nr (a power of two) blocks; each comes exactly once. */
static uint32_t ordered(enum order order, uint32_t i, uint32_t nr)
{
	switch (order) {
	case REVERSE:
		return nr - 1 - i;
	case STRIDED:
		return i * 7 % nr;
	case RANDOM: /* a full-period generator modulo a power of two */
		return (i * (i + 1) / 2 * 5 + 3) % nr;
	default:
		return i;
	}
}

static void write_pass(struct kvt_pool *pool, enum order order, uint64_t stamp)
{
	uint32_t nr = conf_blocks(pool), i;
	size_t block = kvt_pool_block_bytes(pool);

	for (i = 0; i < nr; i++)
		conf_fill(pool, (uint64_t)ordered(order, i, nr) * block, block, stamp);
}

static void read_pass(struct kvt_pool *pool, enum order order, uint64_t stamp)
{
	uint32_t nr = conf_blocks(pool), i;
	size_t block = kvt_pool_block_bytes(pool);

	for (i = 0; i < nr; i++)
		conf_check(pool, (uint64_t)ordered(order, i, nr) * block, block, stamp);
}

/* Four times as much as DRAM holds, written and overwritten, read three times. */
static int round_trip(struct conf *c, enum order order, size_t block)
{
	uint32_t blocks = block >= MIB(2) ? 32 : 64;
	struct conf_spec spec = { .blocks = blocks, .dram = blocks / 4, .block = block };
	struct kvt_pool *pool = conf_pool(c, &spec);
	struct kvtier_stats stats;

	write_pass(pool, order, 1);
	read_pass(pool, order, 1);
	read_pass(pool, order, 1);
	write_pass(pool, REVERSE, 2);
	read_pass(pool, order, 2);
	stats = conf_stats(pool);
	CONF_GE(stats.written_blocks, blocks / 2);
	CONF_GE(stats.hard_faults + stats.late_faults + stats.prefetched, blocks / 2);
	CONF_EQ(stats.crc_errors, 0);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

static int every_block_size(struct conf *c, enum order order)
{
	size_t block;

	for (block = KVT_BLOCK_MIN; block <= KVT_BLOCK_MAX; block *= 2)
		round_trip(c, order, block);
	return CONF_PASS;
}

static int round_trip_sequential(struct conf *c)
{
	return every_block_size(c, SEQUENTIAL);
}

static int round_trip_reverse(struct conf *c)
{
	return every_block_size(c, REVERSE);
}

static int round_trip_strided(struct conf *c)
{
	return every_block_size(c, STRIDED);
}

static int round_trip_random(struct conf *c)
{
	return every_block_size(c, RANDOM);
}

static int zero_first_touch(struct conf *c)
{
	struct conf_spec spec = { .blocks = 64, .dram = 16 };
	struct kvt_pool *pool = conf_pool(c, &spec);

	conf_check_zero(pool, 0, kvt_pool_bytes(pool));
	conf_check_zero(pool, 0, kvt_pool_bytes(pool));
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* Frames are recycled: a new block must not show an old one's bytes. */
static int zero_in_used_frames(struct conf *c)
{
	struct conf_spec spec = { .blocks = 64, .dram = 8 };
	struct kvt_pool *pool = conf_pool(c, &spec);
	uint64_t half = kvt_pool_bytes(pool) / 2;

	conf_fill(pool, 0, half, 1);
	conf_check_zero(pool, half, half);
	conf_check(pool, 0, half, 1);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* Single bytes anywhere, against an ordinary array. */
static int single_bytes(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 8 };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t bytes = kvt_pool_bytes(pool), i;
	volatile unsigned char *memory = kvt_pool_addr(pool);
	unsigned char *model = calloc(1, bytes);
	uint64_t seed = 7;

	CONF_EQ(model != NULL, true);
	for (i = 0; i < 4000; i++) {
		uint64_t at = conf_random(&seed) % bytes;
		unsigned char value = (unsigned char)conf_random(&seed);

		CONF_EQ(memory[at], model[at]);
		memory[at] = model[at] = value;
	}
	for (i = 0; i < bytes; i++)
		if (memory[i] != model[i])
			CONF_FAIL_NOW("byte %zu: expected %u, got %u", i, model[i], memory[i]);
	free(model);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* memcpy across block borders: one instruction stream, two faults. */
static int across_blocks(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 4 };
	struct kvt_pool *pool = conf_pool(c, &spec);
	size_t block = kvt_pool_block_bytes(pool), i;
	char *base = kvt_pool_addr(pool);

	conf_fill(pool, 0, kvt_pool_bytes(pool), 3);
	for (i = 1; i < 16; i++) {
		uint64_t got[2], want[2] = { conf_word(i * block - 8, 3), conf_word(i * block, 3) };

		memcpy(got, base + i * block - 8, sizeof(got));
		CONF_EQ(got[0] == want[0] && got[1] == want[1], true);
		memcpy(base + i * block - 12, "twenty-four bytes there", 24);
		CONF_EQ(memcmp(base + i * block - 12, "twenty-four bytes there", 24), 0);
	}
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

const struct conf_case conf_content_cases[] = {
	CONF_CASE(zero_first_touch, "a pool reads as zeroes until written"),
	CONF_CASE(zero_in_used_frames, "a recycled frame shows nothing of its last block"),
	CONF_CASE(round_trip_sequential, "4x oversubscribed, in order, every block size",
		  .seconds = 60),
	CONF_CASE(round_trip_reverse, "4x oversubscribed, backwards, every block size",
		  .seconds = 60),
	CONF_CASE(round_trip_strided, "4x oversubscribed, strided, every block size",
		  .seconds = 60),
	CONF_CASE(round_trip_random, "4x oversubscribed, shuffled, every block size",
		  .seconds = 60),
	CONF_CASE(single_bytes, "single bytes at random places equal an ordinary array's"),
	CONF_CASE(across_blocks, "accesses that cross a border between blocks"),
	{ .name = NULL },
};
