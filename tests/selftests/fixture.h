/* SPDX-License-Identifier: MIT */
/* Pools for tests, straight on the ioctls: counts are blocks, results negative errnos. */
#ifndef KVT_SELFTEST_FIXTURE_H
#define KVT_SELFTEST_FIXTURE_H

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <linux/kvtier.h>

#define SHIFT 16 /* of the blocks of most tests */
#define HUGE_SHIFT 21
#define HUGE_BYTES (1UL << HUGE_SHIFT)

struct pool {
	int fd;
	uint32_t id;
	uint32_t shift;
	uint64_t block; /* bytes */
	uint64_t blocks;
	uint64_t bytes;
	char *mem; /* all of it, aligned to 2 MiB */
};

/* What a program needs, or it is skipped as a whole. */
#define NEEDS_STORE (1 << 0)
#define NEEDS_CXL (1 << 1)
#define NEEDS_ROOT (1 << 2)

void require(int needs);

int device_open(int flags);
int call(int fd, unsigned long number, void *arg);
struct kvtier_info device_info(void);
int cxl_node(void); /* -1: none */

/* A request for @blocks of 1 << @shift bytes; without the least slack on NVMe. */
struct kvtier_pool_create pool_request(uint32_t shift, uint64_t blocks, uint64_t dram,
				       uint64_t nvme);
/* Open, create and map. */
int pool_open(struct pool *pool, const struct kvtier_pool_create *request);
/* The same from the figures; @flags of enum kvtier_pool_flags. */
int pool_new(struct pool *pool, uint32_t shift, uint64_t blocks, uint64_t dram, uint64_t nvme,
	     uint32_t flags);
void pool_close(struct pool *pool);
/* @bytes of address space at a multiple of 2 MiB. */
char *reserve(size_t bytes);
char *map_aligned(int fd, size_t bytes, int prot);

/* One range: its own result, or that of the call. */
int op(struct pool *pool, uint32_t which, uint64_t first, uint64_t nr);
int op_to(struct pool *pool, uint32_t which, uint32_t tier, uint64_t first, uint64_t nr);
int op_flags(struct pool *pool, uint32_t which, uint32_t flags, uint64_t first, uint64_t nr);
int clone_blocks(struct pool *dst, uint64_t to, struct pool *src, uint64_t from, uint64_t nr);
int set_budget(struct pool *pool, uint32_t tier, uint64_t blocks);
struct kvtier_block_info info(struct pool *pool, uint64_t block);
struct kvtier_stats stats(struct pool *pool);
uint64_t used_blocks(struct pool *pool, uint32_t tier);

/* What a checkpoint returned; of zeroes it is one of no checkpoint yet. */
#define MANIFEST_MAX 64
struct manifest {
	struct kvtier_slot slots[MANIFEST_MAX];
	uint32_t nr;
	uint8_t key[KVTIER_KEY_BYTES];
	uint8_t store[KVTIER_UUID_BYTES];
};

/* Add blocks to a manifest, under its key if it has one. */
int checkpoint_blocks(struct pool *pool, struct manifest *m, uint64_t first, uint32_t nr);
int adopt_blocks(struct pool *pool, const struct manifest *m);
int release_key(struct pool *pool, const struct manifest *m);

static inline char *at(struct pool *pool, uint64_t block)
{
	return pool->mem + block * pool->block;
}

/* Every word names its place and @stamp; check() returns how many words are wrong. */
void fill(struct pool *pool, uint64_t first, uint64_t nr, uint64_t stamp);
uint64_t check(struct pool *pool, uint64_t first, uint64_t nr, uint64_t stamp);
/* The same where the content was cloned from block @as. */
uint64_t check_as(struct pool *pool, uint64_t block, uint64_t as, uint64_t stamp);
uint64_t check_zero(struct pool *pool, uint64_t first, uint64_t nr);
void fill_word(uint64_t *word, uint64_t offset, uint64_t stamp);
uint64_t word_of(uint64_t offset, uint64_t stamp);
uint64_t next_random(uint64_t *state);

/* Accesses that may end in a signal: 0, SIGBUS or SIGSEGV; where is in fault_addr. */
extern uintptr_t fault_addr;
int try_read(const void *addr);
int try_write(void *addr);

uint64_t now_ms(void);
/* The next event of @type within @ms; false: none came. */
bool next_event(struct pool *pool, uint32_t type, unsigned int ms, struct kvtier_event *event);
/* A line that the machine's test collects. */
void figure(const char *name, double value, const char *unit);
void figure_of(const char *name, double value, const char *unit, double target);

#endif
