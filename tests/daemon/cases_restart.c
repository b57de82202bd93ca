// SPDX-License-Identifier: MIT
/* kill -9 of engines and of the daemon, at any point. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"
#include "fixture.h"

#define BLOCKS 96u
#define FRAMES 24u

/*
 * What an engine has done, in memory that outlives it: of each block the version that it
 * has written whole, and one that it may have begun.
 */
struct journal {
	uint64_t done[BLOCKS];
	uint64_t begun[BLOCKS];
	uint8_t sealed[BLOCKS];
	uint64_t steps;
	uint64_t wrong;
};

static struct journal *journal;

static void make_journal(void)
{
	journal = mmap(NULL, sizeof(*journal), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	CHECK(journal != MAP_FAILED, "mmap: %m");
}

static uint64_t rnd(uint64_t *x)
{
	*x = *x * 6364136223846793005ull + 1442695040888963407ull;
	return *x >> 33;
}

/* Each word of a block is of a version that was written to it: what was done, or begun. */
static uint64_t wrong_in(struct kvt_pool *p, uint32_t b)
{
	const volatile uint64_t *w = (void *)((char *)kvt_pool_addr(p) + (uint64_t)b * BLOCK);
	uint64_t done = journal->done[b], begun = journal->begun[b], wrong = 0, i;

	for (i = 0; i < BLOCK / 8; i++) {
		uint64_t v = w[i];

		if (!done && !v)
			continue;
		wrong += v != word_of(b, done, i) && v != word_of(b, begun, i);
	}
	return wrong;
}

static void settle(struct kvt_pool *p, uint32_t b)
{
	journal->wrong += wrong_in(p, b);
	if (journal->done[b] == journal->begun[b] || journal->sealed[b])
		return;
	fill_block(p, b, journal->begun[b]);
	journal->done[b] = journal->begun[b];
}

static void step(struct kvt_pool *p, uint64_t *x)
{
	uint32_t b = (uint32_t)(rnd(x) % BLOCKS), what = (uint32_t)(rnd(x) % 16);
	uint64_t at = (uint64_t)b * BLOCK;
	struct kvt_plan_range r[8];
	uint32_t i;

	journal->wrong += wrong_in(p, b);
	if (what < 8 && !journal->sealed[b]) {
		journal->begun[b]++;
		fill_block(p, b, journal->begun[b]);
		journal->done[b] = journal->begun[b];
	} else if (what < 10) {
		kvt_demote(p, at, BLOCK);
	} else if (what == 10) {
		kvt_writeback(p, at, BLOCK);
	} else if (what == 11 && journal->done[b] && b % 3 == 0) {
		if (!kvt_seal(p, at, BLOCK))
			journal->sealed[b] = 1;
	} else if (what == 12) {
		for (i = 0; i < 8; i++)
			r[i] = (struct kvt_plan_range){ (b + i) % BLOCKS * (uint64_t)BLOCK, BLOCK };
		kvt_plan_publish(p, r, 8, KVT_PLAN_REPEAT);
	} else if (what == 13) {
		kvt_plan_passed(p, 3);
	} else if (what == 14 && rnd(x) % 4 == 0) {
		kvt_shared_checkpoint(p, "note", 4);
	}
	journal->steps++;
}

/* An engine: takes the pool, or makes it, and works until it is killed. */
static pid_t engine(uint64_t seed)
{
	pid_t pid = fork();
	struct kvt_client *c;
	struct kvt_pool *p;
	uint32_t b;
	int ret;

	if (pid)
		return pid;
	signal(SIGBUS, SIG_DFL);
	c = client();
	ret = kvt_shared_attach(c, "engine", "test", &p);
	if (ret == -ENOENT)
		p = pool(c, "engine", (uint64_t)BLOCKS * BLOCK, (uint64_t)FRAMES * BLOCK,
			 KVT_SHARED_KEEP);
	else if (ret)
		fail_at(__FILE__, __LINE__, "attach: %d (%s)", ret, kvt_error_detail());
	for (b = 0; b < BLOCKS; b++)
		settle(p, b);
	for (;;)
		step(p, &seed);
}

static void check_all(void)
{
	struct kvt_client *c = client();
	struct kvt_pool *p;
	uint64_t wrong = journal->wrong;
	uint32_t b;

	OK(kvt_shared_attach(c, "engine", "test", &p));
	for (b = 0; b < BLOCKS; b++) {
		uint64_t now = wrong_in(p, b);

		if (now)
			printf("# block %u (sealed %u, done %llu, begun %llu, state %u): %llu wrong words\n",
			       b, journal->sealed[b], (unsigned long long)journal->done[b],
			       (unsigned long long)journal->begun[b], state_of(p, b),
			       (unsigned long long)now);
		wrong += now;
	}
	figure("crash.wrong_bytes", (double)wrong * 8, "bytes");
	figure("crash.steps", (double)journal->steps, "steps");
	CHECK(!wrong, "expected no wrong word");
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

enum { ENGINE = 1, DAEMON = 2 };

static void kills(int whom)
{
	unsigned int rounds = want_long && want_rounds < 100 ? 100 : want_rounds, i;
	uint64_t x = (uint64_t)whom * 977 + 5;
	pid_t pid;

	if (want_module)
		signal(SIGBUS, SIG_DFL);
	make_journal();
	daemon_start("[writeback]\nwear-filter = no\n[idle]\nafter-ms = 50\ndrain-above = 30\n"
		     "[default]\ndram = 2M\n");
	pid = engine(1);
	for (i = 0; i < rounds; i++) {
		pause_ms(20 + (unsigned int)(rnd(&x) % (120 * patience_factor)));
		if (whom & ENGINE) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
		}
		if (whom & DAEMON) {
			daemon_kill(SIGKILL);
			daemon_spawn();
		}
		if (whom & ENGINE)
			pid = engine(i + 2);
		CHECK(waitpid(pid, NULL, WNOHANG) == 0, "expected the engine to live in round %u",
		      i);
	}
	EVENTUALLY(__atomic_load_n(&journal->steps, __ATOMIC_RELAXED) > 20,
		   "expected the engine to get on");
	CHECK(waitpid(pid, NULL, WNOHANG) == 0, "expected the engine to live to the end");
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	check_all();
	figure("crash.kills", rounds, "kills");
}

static void kill_engine(void)
{
	kills(ENGINE);
}

static void kill_daemon(void)
{
	kills(DAEMON);
}

static void kill_both(void)
{
	kills(ENGINE | DAEMON);
}

/* ---- the daemon alone -------------------------------------------------------------------- */

/* A client goes on across restarts: its mapping, its pins, its plan, its events. */
static void upgrade(void)
{
	struct kvtier_block_info info;
	struct kvt_plan_range r = { 0, 8 * BLOCK };
	struct kvt_daemon_pool pools[2];
	struct kvt_client *c;
	struct kvt_pool *p;
	uint64_t b, round;

	daemon_start(NULL);
	c = client();
	p = pool(c, "lasting", 32 * BLOCK, 12 * BLOCK, 0);
	for (b = 0; b < 32; b++)
		fill_block(p, b, 1);
	OK(kvt_pin(p, 3 * BLOCK, 2 * BLOCK));
	OK(kvt_plan_publish(p, &r, 1, KVT_PLAN_REPEAT));
	for (round = 0; round < 4; round++) {
		daemon_kill(round % 2 ? SIGKILL : SIGTERM);
		daemon_spawn();
		for (b = 0; b < 32; b++)
			CHECK(!wrong_words(p, b, round + 1), "block %llu after restart %llu",
			      (unsigned long long)b, (unsigned long long)round);
		for (b = 0; b < 32; b++)
			fill_block(p, b, round + 2);
		if (!want_module) {
			OK(kvt_query(p, 3, 1, &info));
			CHECK(info.flags & KVTIER_BLOCKF_PINNED,
			      "expected the pin to be there again");
		}
		/* A mapping of the module's works while the client's thread is still on its way. */
		EVENTUALLY(kvt_daemon_pools(c, pools, 2) == 1 && pools[0].plan_left == 1,
			   "expected the plan to be there again");
	}
	OK(kvt_unpin(p, 3 * BLOCK, 2 * BLOCK));
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static int ask_for_pool(uint64_t instance, struct kvt_opened *opened)
{
	struct kvt_create create = { .flags = KVT_SHARED_KEEP, .bytes = 8 * BLOCK,
				     .block_bytes = BLOCK, .instance = instance,
				     .name = "twice", .model = "test" };
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_CREATE);
	struct kvt_hello hello;
	int sock = kvt_link_connect(daemon_.socket, &hello), ret;

	OK(sock);
	ask.body = &create;
	ask.bytes = sizeof(create);
	ask.answer = opened;
	ask.room = sizeof(*opened);
	ret = kvt_client_ask_now(sock, &ask);
	close(sock);
	return ret;
}

/* A daemon that is killed once it has made a pool, and before its client knows. */
static void asked_again(void)
{
	struct kvt_opened first, second, other;
	struct kvt_client *c;

	daemon_start(NULL);
	OK(ask_for_pool(77, &first));
	daemon_kill(SIGKILL);
	daemon_spawn();
	ERROR(ask_for_pool(78, &other), -EEXIST);
	OK(ask_for_pool(77, &second));
	CHECK(first.instance == 77 && second.instance == 77, "expected one pool, got %llu and %llu",
	      (unsigned long long)first.instance, (unsigned long long)second.instance);
	c = client();
	OK(kvt_shared_remove(c, "twice"));
	kvt_client_close(c);
}

/* Names of descriptors that are not there: not those that the daemon opens itself. */
static void not_handed_over(void)
{
	struct kvt_client *c;
	struct kvt_pool *p;

	daemon_start(NULL);
	c = client();
	p = pool(c, "gone", 8 * BLOCK, 4 * BLOCK, 0);
	fill_block(p, 0, 1);
	daemon_kill(SIGKILL);
	daemon_.empty_handed = true;
	daemon_spawn();
	CHECK(daemon_logged("event=descriptor_missing"), "expected a line of the log");
	kvt_pool_destroy(p);
	p = pool(c, "new", 8 * BLOCK, 4 * BLOCK, 0);
	fill_block(p, 7, 2);
	CHECK(!wrong_words(p, 7, 2), "expected a daemon that works");
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* A thread waits in a fault while the daemon is away. */
static void fault_across(void)
{
	struct kvt_client *c;
	struct kvt_pool *p;
	uint64_t b;
	pid_t pid;
	int status, at_work[2];
	char byte = 0;

	CHECK(!pipe2(at_work, O_CLOEXEC), "pipe: %m");
	daemon_start(NULL);
	c = client();
	p = pool(c, "across", 16 * BLOCK, 4 * BLOCK, KVT_SHARED_KEEP);
	for (b = 0; b < 16; b++)
		fill_block(p, b, 1);
	pid = fork();
	if (!pid) {
		struct kvt_client *own = client();
		struct kvt_pool *q;

		OK(kvt_shared_attach(own, "across", "test", &q));
		CHECK(write(at_work[1], &byte, 1) == 1, "write: %m");
		for (b = 0;; b++)
			if (wrong_words(q, b % 16, 1))
				_exit(2);
			else if (b > 5000)
				_exit(0);
	}
	close(at_work[1]);
	CHECK(read(at_work[0], &byte, 1) == 1, "expected the reader to begin");
	for (b = 0; b < 3; b++) {
		pause_ms(30);
		daemon_kill(SIGKILL);
		pause_ms(100);
		daemon_spawn();
	}
	CHECK(waitpid(pid, &status, 0) == pid && !status, "expected the reader to go on, got %#x",
	      status);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* No daemon comes back: calls and touches fail, in a bounded time. */
static void never_back(void)
{
	struct kvtier_stats st;
	struct kvt_client *c;
	struct kvt_pool *p;
	int status, got;
	sigset_t set;
	pid_t pid;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (want_module)
		skip("a pool of the module lives without its daemon");
	daemon_start(NULL);
	pid = fork();
	if (!pid) {
		uint64_t b;

		signal(SIGBUS, SIG_DFL);
		setenv("KVTIER_PATIENCE_MS", "300", 1);
		c = client();
		p = pool(c, "orphan", 16 * BLOCK, 4 * BLOCK, 0);
		for (b = 0; b < 16; b++)
			fill_block(p, b, 1);
		kill(getppid(), SIGUSR1); /* who kills the daemon */
		pause_ms(200);
		ERROR(kvt_stats(p, &st), -ECONNRESET);
		for (b = 0; b < 16; b++)
			wrong_words(p, b, 1);
		_exit(0);
	}
	CHECK(!sigwait(&set, &got), "sigwait");
	daemon_kill(SIGKILL);
	CHECK(waitpid(pid, &status, 0) == pid, "waitpid: %m");
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS, "expected SIGBUS, got %#x",
	      status);
}

const struct test_case restart_cases[] = {
	{ "upgrade", "mapping, pins and plan outlive the daemon", upgrade, false },
	{ "asked_again", "a lost request for a pool is asked again", asked_again, false },
	{ "not_handed_over", "the manager names what it has not", not_handed_over, false },
	{ "fault_across", "a fault waits for the next daemon", fault_across, false },
	{ "never_back", "a daemon that does not come back is an error in bounded time", never_back,
	  false },
	{ "kill_engine", "kill -9 of an engine at random points", kill_engine, false },
	{ "kill_daemon", "kill -9 of the daemon at random points", kill_daemon, false },
	{ "kill_both", "kill -9 of both at random points", kill_both, false },
	{ 0 },
};
