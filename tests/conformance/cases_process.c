// SPDX-License-Identifier: MIT
/* Fork, exec, system calls on pool memory, and leaving. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conf.h"

static int in_child(void (*work)(struct kvt_pool *pool), struct kvt_pool *pool)
{
	pid_t pid = (pid_t)CONF_SYS(fork());
	int status;

	if (!pid) {
		work(pool);
		_exit(0);
	}
	CONF_SYS(waitpid(pid, &status, 0));
	return status;
}

static void touch_in_child(struct kvt_pool *pool)
{
	signal(SIGSEGV, SIG_DFL);
	conf_touch(pool, 0);
}

static void call_in_child(struct kvt_pool *pool)
{
	struct kvtier_stats stats;
	struct kvtier_event event;

	CONF_RET(kvt_stats(pool, &stats), -ECHILD);
	CONF_RET(kvt_demote(pool, 0, kvt_pool_block_bytes(pool)), -ECHILD);
	CONF_RET(kvt_event_read(pool, &event, 1), -ECHILD);
	kvt_pool_destroy(pool);
}

static int fork_is_apart(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8 };
	struct kvt_pool *pool = conf_pool(c, &spec);
	int status;

	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	status = in_child(touch_in_child, pool);
	CONF_EQ(WIFSIGNALED(status) ? WTERMSIG(status) : 0, SIGSEGV);
	status = in_child(call_in_child, pool);
	CONF_EQ(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 0);
	conf_check(pool, 0, kvt_pool_bytes(pool), 1);
	conf_fill(pool, 0, kvt_pool_bytes(pool), 2);
	conf_check(pool, 0, kvt_pool_bytes(pool), 2);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

struct toucher {
	struct kvt_pool *pool;
	atomic_bool stop;
	uint64_t passes;
};

static void *touch_always(void *arg)
{
	struct toucher *t = arg;

	for (; !atomic_load(&t->stop); t->passes++)
		conf_check(t->pool, 0, kvt_pool_bytes(t->pool), 1);
	return NULL;
}

static int fork_exec_in_use(struct conf *c)
{
	struct conf_spec spec = { .blocks = 32, .dram = 8 };
	struct toucher t = { .pool = conf_pool(c, &spec) };
	char *argv[] = { (char *)"sh", (char *)"-c", (char *)"exit 7", NULL };
	pthread_t thread;
	uint32_t i;

	conf_fill(t.pool, 0, kvt_pool_bytes(t.pool), 1);
	CONF_EQ(pthread_create(&thread, NULL, touch_always, &t), 0);
	for (i = 0; i < 30; i++) {
		pid_t pid = (pid_t)CONF_SYS(fork());
		int status;

		if (!pid) {
			execv("/bin/sh", argv);
			_exit(1);
		}
		CONF_SYS(waitpid(pid, &status, 0));
		CONF_EQ(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 7);
	}
	atomic_store(&t.stop, true);
	pthread_join(thread, NULL);
	CONF_GE(t.passes, 1);
	kvt_pool_destroy(t.pool);
	return CONF_PASS;
}

/* Nothing of a pool is inherited over exec. */
static int exec_inherits_nothing(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 8 };
	struct kvt_pool *pool = conf_pool(c, &spec);
	unsigned int before = 0, status;
	FILE *f = popen("ls /proc/self/fd | wc -l", "re");
	unsigned int with = 0;

	CONF_EQ(f && fscanf(f, "%u", &with) == 1, true);
	status = (unsigned int)pclose(f);
	CONF_EQ(status, 0);
	kvt_pool_destroy(pool);
	f = popen("ls /proc/self/fd | wc -l", "re");
	CONF_EQ(f && fscanf(f, "%u", &before) == 1, true);
	pclose(f);
	CONF_EQ(with, before);
	return CONF_PASS;
}

static void live_once(struct conf *c)
{
	struct conf_spec spec = { .blocks = 16, .dram = 4, .block = KVT_BLOCK_MIN };
	struct kvt_pool *pool = conf_pool(c, &spec);

	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	kvt_pool_destroy(pool);
}

static int create_destroy_200(struct conf *c)
{
	unsigned int fds, vmas, threads;
	uint64_t rss;
	uint32_t i;

	live_once(c); /* what the library sets up once stays */
	fds = conf_fd_count();
	vmas = conf_vma_count();
	threads = conf_thread_count();
	rss = conf_rss_bytes();
	for (i = 0; i < 200; i++)
		live_once(c);
	CONF_EQ(conf_fd_count(), fds);
	CONF_LE(conf_vma_count(), vmas + 4); /* malloc's own */
	CONF_EQ(conf_thread_count(), threads);
	CONF_LE(conf_rss_bytes(), rss + CONF_RSS_SLACK);
	CONF_EQ(conf_file_count(c->dir), 0);
	return CONF_PASS;
}

static int destroy_in_flight(struct conf *c)
{
	struct conf_spec spec = { .blocks = 64, .dram = 48 };
	unsigned int fds = conf_fd_count(), threads = conf_thread_count();
	uint32_t i;

	for (i = 0; i < 20; i++) {
		struct kvt_pool *pool = conf_pool(c, &spec);
		struct kvtier_range range = { .length = 32 * c->block };

		conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
		if (i & 1) {
			conf_demote_all(pool);
			CONF_EQ(kvt_range_op(pool, KVTIER_OP_PROMOTE, 0, KVTIER_OP_NOWAIT, &range,
					     1),
				1);
		} else {
			CONF_GE(kvt_range_op(pool, KVTIER_OP_DEMOTE, 0, KVTIER_OP_NOWAIT, &range,
					     1),
				0);
		}
		kvt_pool_destroy(pool);
	}
	CONF_EQ(conf_fd_count(), fds);
	CONF_EQ(conf_thread_count(), threads);
	return CONF_PASS;
}

const struct conf_case conf_process_cases[] = {
	CONF_CASE(fork_is_apart, "a child has no pool, and its parent's is unharmed"),
	CONF_CASE(fork_exec_in_use, "fork and exec while threads fault", .seconds = 60),
	CONF_CASE(exec_inherits_nothing, "no descriptor of a pool survives exec"),
	CONF_CASE(create_destroy_200, "two hundred pools leave nothing behind", .seconds = 60),
	CONF_CASE(destroy_in_flight, "a pool can go while its blocks are on the way",
		  .seconds = 90),
	{ .name = NULL },
};
