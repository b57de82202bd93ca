/* SPDX-License-Identifier: MIT */
/*
 * The pager conformance suite: what any pager must do, seen through kvtier.h
 * and plain loads and stores alone.
 *
 * A case runs in a child process of its own, in a folder of its own, with a
 * time limit; a failed expectation, from whichever thread, prints what was
 * expected and what came, and ends that child.  Cases therefore do not clean
 * up after failure, only after success (leaks are looked for).
 */
#ifndef CONF_H
#define CONF_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvtier.h"

#define CONF_PASS 0
#define CONF_FAIL 1
#define CONF_SKIP 4 /* as in the kernel's selftests */

/*
 * What a pool may take beside its frames: tables, ring, stacks, malloc.
 * AddressSanitizer keeps freed memory and shadows all of it.
 */
#ifdef __SANITIZE_ADDRESS__
#define CONF_RSS_SLACK MIB(32)
#else
#define CONF_RSS_SLACK MIB(4)
#endif

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)

struct conf {
	enum kvt_pager pager;
	size_t block;	  /* --block: what cases use unless they try several */
	const char *dir;  /* of this case alone */
	int cxl_node;	  /* what cases use as the CXL tier; -1: there is none */
	unsigned int has; /* CONF_NEEDS_* that the pager offers */
};

struct conf_case {
	const char *name;
	const char *description;
	int (*run)(struct conf *c);
	unsigned int seconds; /* limit; 0: CONF_SECONDS */
	unsigned int needs;   /* CONF_NEEDS_* */
};

#define CONF_SECONDS 30

/* An entry of a table: CONF_CASE(function, "description", .seconds = 60). */
#define CONF_CASE(fn, text, ...)                                           \
	{                                                                  \
		.name = #fn, .description = text, .run = fn, ##__VA_ARGS__ \
	}

/* The slots lie in a file that the case may damage: the user pager's. */
#define CONF_NEEDS_FILE (1u << 0)
/* Pages that a device holds stay where they are: UFFDIO_MOVE, Linux 6.8. */
#define CONF_NEEDS_HELD_PAGES (1u << 1)
/* A node that can be the CXL tier. */
#define CONF_NEEDS_CXL (1u << 2)
/* Pools share blocks and stores, and slots are kept under a key: the kernel pager. */
#define CONF_NEEDS_STORE (1u << 3)

/* One table per cases_*.c, each ended by an entry without a name. */
extern const struct conf_case conf_content_cases[];
extern const struct conf_case conf_residency_cases[];
extern const struct conf_case conf_dirty_cases[];
extern const struct conf_case conf_seal_cases[];
extern const struct conf_case conf_discard_cases[];
extern const struct conf_case conf_clone_cases[];
extern const struct conf_case conf_budget_cases[];
extern const struct conf_case conf_concurrent_cases[];
extern const struct conf_case conf_damage_cases[];
extern const struct conf_case conf_space_cases[];
extern const struct conf_case conf_checkpoint_cases[];
extern const struct conf_case conf_event_cases[];
extern const struct conf_case conf_process_cases[];
extern const struct conf_case conf_syscall_cases[];
extern const struct conf_case conf_cxl_cases[];
extern const struct conf_case conf_argument_cases[];
extern const struct conf_case conf_attend_cases[];

/*
 * Each ends the case unless it holds.  The comparisons are inline so that
 * compilers and analysers know what holds afterwards.
 */
#define CONF_COMPARE(got, op, want, words)                                                     \
	do {                                                                                   \
		int64_t conf_got = (int64_t)(got), conf_want = (int64_t)(want);                \
		if (!(conf_got op conf_want))                                                  \
			conf_unexpected(__FILE__, __LINE__, #got, conf_got, words, conf_want); \
	} while (0)
#define CONF_EQ(got, want) CONF_COMPARE(got, ==, want, "")
#define CONF_LE(got, limit) CONF_COMPARE(got, <=, limit, "at most ")
#define CONF_GE(got, limit) CONF_COMPARE(got, >=, limit, "at least ")
/* A negative errno, named in words; 0 for success. */
#define CONF_RET(got, want) conf_ret(__FILE__, __LINE__, #got, (int)(got), (int)(want))
/* A call that sets errno; gives its value. */
#define CONF_SYS(got) conf_sys(__FILE__, __LINE__, #got, (int64_t)(got))
#define CONF_FAIL_NOW(...) conf_fail(__FILE__, __LINE__, __VA_ARGS__)

/* expect.c */
__attribute__((noreturn)) void conf_unexpected(const char *file, int line, const char *what,
					       int64_t got, const char *words, int64_t want);
void conf_ret(const char *file, int line, const char *what, int got, int want);
int64_t conf_sys(const char *file, int line, const char *what, int64_t got);
__attribute__((noreturn, format(printf, 3, 4))) void conf_fail(const char *file, int line,
							       const char *fmt, ...);
/* A KTAP diagnostic line. */
__attribute__((format(printf, 1, 2))) void conf_note(const char *fmt, ...);
/* A note that says why, and CONF_SKIP for the case to return. */
__attribute__((format(printf, 1, 2))) int conf_skip(const char *fmt, ...);

/* pools.c: pools described in blocks. */
struct conf_spec {
	uint32_t blocks;
	uint32_t dram;	/* blocks; 0: the least that works, or @blocks if that is less */
	uint32_t nvme;	/* blocks; 0: as the library chooses */
	uint32_t flags; /* KVT_* */
	uint32_t deadline_ms;
	size_t block;	  /* bytes; 0: the suite's */
	bool no_nvme;	  /* memory only */
	const char *path; /* NULL: the case's folder */
};

struct kvt_pool *conf_pool(struct conf *c, const struct conf_spec *spec);
/* The same without expecting success. */
int conf_pool_try(struct conf *c, const struct conf_spec *spec, struct kvt_pool **pool);
struct kvt_config conf_config(struct conf *c, const struct conf_spec *spec);
uint32_t conf_min_dram(struct conf *c, size_t block);
char *conf_addr(struct kvt_pool *pool, uint64_t block);
uint32_t conf_blocks(struct kvt_pool *pool);
struct kvtier_block_info conf_info(struct kvt_pool *pool, uint64_t block);
struct kvtier_stats conf_stats(struct kvt_pool *pool);
bool conf_resident(struct kvt_pool *pool, uint64_t block);
/* Write every block out of memory; afterwards none is resident. */
void conf_demote_all(struct kvt_pool *pool);
/* Path of a file in the case's folder, in a buffer of its own. */
char *conf_path(struct conf *c, const char *name);

/*
 * pattern.c: every 8-byte word names its offset and @stamp, so that a byte of
 * another block, another version or another pool is never taken for the right
 * one.
 */
void conf_fill(struct kvt_pool *pool, uint64_t offset, uint64_t length, uint64_t stamp);
void conf_check(struct kvt_pool *pool, uint64_t offset, uint64_t length, uint64_t stamp);
void conf_check_zero(struct kvt_pool *pool, uint64_t offset, uint64_t length);
/* The word that @stamp has at @offset. */
uint64_t conf_word(uint64_t offset, uint64_t stamp);
/* A small seeded generator: the same numbers on every machine. */
uint64_t conf_random(uint64_t *state);
/* Read one byte of a block; returns it so that the load is made. */
char conf_touch(struct kvt_pool *pool, uint64_t block);

/* bus.c: accesses that may end in SIGBUS. */
struct conf_bus {
	bool hit;
	uintptr_t addr; /* si_addr */
};

void conf_bus_install(void);
struct conf_bus conf_try_read(const void *addr);
struct conf_bus conf_try_write(void *addr, char value);
/* Expect SIGBUS with si_addr inside block @block. */
void conf_expect_bus_read(struct kvt_pool *pool, uint64_t block, size_t at);
void conf_expect_bus_write(struct kvt_pool *pool, uint64_t block, size_t at);

/* account.c: what the kernel says this process uses. */
uint64_t conf_rss_bytes(void);
uint64_t conf_fault_count(void);
unsigned int conf_fd_count(void);
unsigned int conf_vma_count(void);
unsigned int conf_thread_count(void);
unsigned int conf_file_count(const char *dir);
uint64_t conf_now_ms(void);

/* event.c: events of one kind. */
/* Wait up to @ms for an event of @type; false when none came. */
bool conf_wait_event(struct kvt_pool *pool, uint32_t type, unsigned int ms,
		     struct kvtier_event *event);

#endif
