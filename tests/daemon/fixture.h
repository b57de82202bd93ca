/* SPDX-License-Identifier: MIT */
/*
 * Test daemons.  Each has a folder of its own and a service manager: this process, which
 * keeps the descriptors that the daemon stores and gives them to the next one.
 */
#ifndef DAEMON_FIXTURE_H
#define DAEMON_FIXTURE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "kvtier_daemon.h"
#include "spoil.h"

#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define BLOCK (64 * KIB)

/* ---- cases ------------------------------------------------------------------------------ */
struct test_case {
	const char *name;
	const char *description;
	void (*run)(void);
	bool slow; /* with --long alone */
};

extern const struct test_case pool_cases[], quota_cases[], limit_cases[], plan_cases[], bad_cases[], disk_cases[],
	restart_cases[], checkpoint_cases[], service_cases[], hostile_cases[];

/* End the case: it failed, or cannot be run here. */
__attribute__((noreturn, format(printf, 3, 4))) void fail_at(const char *file, int line,
							     const char *fmt, ...);
__attribute__((noreturn, format(printf, 1, 2))) void skip(const char *fmt, ...);
void figure(const char *name, double value, const char *unit);

#define CHECK(condition, ...)                                      \
	do {                                                       \
		if (!(condition))                                  \
			fail_at(__FILE__, __LINE__, __VA_ARGS__);  \
	} while (0)

/* The call succeeds (a count is success too). */
#define OK(call)                                                                            \
	do {                                                                                \
		int ok_ = (call);                                                           \
		if (ok_ < 0)                                                                \
			fail_at(__FILE__, __LINE__, "%s: expected success, got %d (%s)", #call, \
				ok_, kvt_error_detail());                                   \
	} while (0)

#define ERROR(call, error)                                                                       \
	do {                                                                                     \
		int err_ = (call);                                                               \
		if (err_ != (error))                                                             \
			fail_at(__FILE__, __LINE__, "%s: expected %s, got %d (%s)", #call, #error, \
				err_, kvt_error_detail());                                       \
	} while (0)

/* Wait for a condition, a bounded time. */
#define EVENTUALLY(condition, ...)                                       \
	do {                                                             \
		uint64_t until_ = now_ms() + 20000 * patience_factor;    \
		while (!(condition) && now_ms() < until_)                \
			pause_ms(2);                                     \
		CHECK(condition, __VA_ARGS__);                           \
	} while (0)

extern unsigned int patience_factor; /* --slow N */
extern bool want_module; /* --module */
extern bool want_long; /* --long */
extern unsigned int want_rounds; /* --rounds N */

uint64_t now_ms(void);
double now_s(void);
void pause_ms(unsigned int ms);

/* ---- daemons ----------------------------------------------------------------------------- */
#define STORE_MAX 4096

struct daemon {
	char dir[256];
	char socket[300];
	char config[300];
	char log[300];
	pid_t pid;
	int notify_sock;
	int ready[2]; /* a byte for each READY=1 */
	int synced[2]; /* ... for each time that the manager came to our own message */
	pthread_t manager;
	pthread_mutex_t lock; /* guards the fields below */
	struct stored {
		int fd;
		char name[64];
	} store[STORE_MAX];
	int nr_store;
	bool spoilt; /* the daemon is the one whose transfers fail */
	bool empty_handed; /* the manager names descriptors and hands none over */
};

extern struct daemon daemon_; /* of this case */

/* Write the configuration (lines besides the paths), start it and wait until it is ready. */
void daemon_start(const char *lines);
/* Called before: the transfers of this case's daemon fail as this says. */
struct spoil *daemon_spoil(void);
/* The same, and other users may reach it. */
void daemon_start_for_all(const char *lines);
void daemon_configure(const char *lines);
void daemon_spawn(void);
void daemon_kill(int signal);
void daemon_end(void);
/* As after a reboot: no descriptor is left. */
void daemon_forget(void);
const char *daemon_program(void);
/* Does the log have a line with this? */
bool daemon_logged(const char *text);
/* A line of metrics by its beginning: the value; -1: none. */
double daemon_metric(const char *begin);
double daemon_cpu_s(void);

/* Other users: a process of one that runs a function, and what that returned. */
void need_root(void);
pid_t as(uint32_t uid, int (*run)(void));
int end_of(pid_t pid);

struct kvt_client *client(void);
struct kvt_pool *pool(struct kvt_client *c, const char *name, uint64_t bytes, uint64_t dram,
		      uint32_t flags);

/* What block @b of version @v of a pool holds, as 64-bit words. */
uint64_t word_of(uint64_t b, uint64_t v, uint64_t i);
void fill_block(struct kvt_pool *p, uint64_t b, uint64_t v);
/* Words that are not as they should be. */
uint64_t wrong_words(struct kvt_pool *p, uint64_t b, uint64_t v);
uint32_t state_of(struct kvt_pool *p, uint64_t b);
uint64_t blocks_of(struct kvt_pool *p);

#endif
