// SPDX-License-Identifier: MIT
#include "conf.h"

uint64_t conf_word(uint64_t offset, uint64_t stamp)
{
	return (offset / 8 + 1) * 0x9e3779b97f4a7c15ULL ^ stamp * 0xd1342543de82ef95ULL;
}

void conf_fill(struct kvt_pool *pool, uint64_t offset, uint64_t length, uint64_t stamp)
{
	volatile uint64_t *word = (uint64_t *)((char *)kvt_pool_addr(pool) + offset);
	uint64_t i;

	for (i = 0; i < length / 8; i++)
		word[i] = conf_word(offset + 8 * i, stamp);
}

void conf_check(struct kvt_pool *pool, uint64_t offset, uint64_t length, uint64_t stamp)
{
	const volatile uint64_t *word = (uint64_t *)((char *)kvt_pool_addr(pool) + offset);
	uint64_t i;

	for (i = 0; i < length / 8; i++) {
		uint64_t want = conf_word(offset + 8 * i, stamp);
		uint64_t got = word[i];

		if (got != want)
			CONF_FAIL_NOW(
				"offset 0x%llx (block %llu): expected %016llx, got %016llx",
				(unsigned long long)(offset + 8 * i),
				(unsigned long long)((offset + 8 * i) / kvt_pool_block_bytes(pool)),
				(unsigned long long)want, (unsigned long long)got);
	}
}

void conf_check_zero(struct kvt_pool *pool, uint64_t offset, uint64_t length)
{
	const volatile uint64_t *word = (uint64_t *)((char *)kvt_pool_addr(pool) + offset);
	uint64_t i;

	for (i = 0; i < length / 8; i++)
		if (word[i])
			CONF_FAIL_NOW("offset 0x%llx: expected 0, got %016llx",
				      (unsigned long long)(offset + 8 * i),
				      (unsigned long long)word[i]);
}

/* splitmix64 */
uint64_t conf_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

char conf_touch(struct kvt_pool *pool, uint64_t block)
{
	return *(volatile char *)conf_addr(pool, block);
}
