/* SPDX-License-Identifier: MIT */
/*
 * Cases of tests/seq: each runs in a process of its own, with a time limit, so that a
 * crash or a wait without end is that case's failure.  Output is KTAP.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <kvtier_seq.h>

struct check_case {
	const char *name;
	const char *what; /* it shows */
	void (*run)(const char *dir);
};

/* main() of a program of cases: [--dir DIR] [--pager user|kernel] [NAME...] */
int check_main(int argc, char **argv, const struct check_case *cases, unsigned int nr);

void check_fail(const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Has an expectation of this process failed? */
bool check_failed(void);
/* The case cannot be run here; does not return. */
void check_skip(const char *why) __attribute__((noreturn));

#define CHECK(cond)                                                              \
	do {                                                                     \
		if (!(cond))                                                     \
			check_fail(__FILE__, __LINE__, "expected %s (%s)", #cond, \
				   kvt_error_detail());                          \
	} while (0)

#define CHECK_EQ(expr, want)                                                           \
	do {                                                                           \
		long long got_ = (long long)(expr), want_ = (long long)(want);         \
		if (got_ != want_)                                                     \
			check_fail(__FILE__, __LINE__, "%s: expected %lld, got %lld (%s)", \
				   #expr, want_, got_, kvt_error_detail());            \
	} while (0)

/* Fails as it should, and says why: the message has @word. */
#define CHECK_ERR(expr, want, word)                                                        \
	do {                                                                               \
		CHECK_EQ(expr, want);                                                      \
		if (!strstr(kvt_error_detail(), word) || strchr(kvt_error_detail(), '\n')) \
			check_fail(__FILE__, __LINE__,                                     \
				   "expected one line with \"%s\", got \"%s\"", word,      \
				   kvt_error_detail());                                    \
	} while (0)

/* A pool and a cache over it. */
struct place {
	struct kvt_pool *pool;
	struct kvt_cache *cache;
	const struct kvt_geometry *g;
	char *file; /* kept slots of the pool; NULL: in an unnamed file */
};

struct place_config {
	uint32_t layers, layers_per_block, block_tokens;
	uint32_t kv_heads, dim; /* floats, unless @k_type and @v_type say otherwise */
	uint32_t k_type, v_type;
	uint32_t cold, cold_type;
	uint32_t blocks, dram, nvme; /* blocks of 64 KiB; nvme 0: none */
	const char *file;
	char model;
};

void place_open(struct place *place, const char *dir, const struct place_config *config);
void place_close(struct place *place);

/* Rows of tokens @first to @first + @nr of a story: floats that depend on it, all layers. */
void story_append(struct kvt_seq *seq, uint32_t story, uint32_t first, uint32_t nr);
/* The layer's rows from @first on are those of the story; 0, or what the read said, or 1. */
int story_check(const struct kvt_seq *seq, uint32_t story, uint32_t first, uint32_t nr);

#endif
