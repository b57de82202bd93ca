// SPDX-License-Identifier: MIT
/* Clients that know the protocol and mean ill: the daemon and its other clients go on. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"
#include "fixture.h"

/* ---- a connection by hand ---------------------------------------------------------------- */

static int connection(void)
{
	struct kvt_hello hello;
	int sock = kvt_link_connect(daemon_.socket, &hello);

	OK(sock);
	return sock;
}

static void tell(int sock, uint16_t type, const void *body, size_t bytes)
{
	struct kvt_ask ask = KVT_ASK_INIT(type);

	ask.body = body;
	ask.bytes = bytes;
	OK(kvt_link_send(sock, &ask, 1));
}

/* A pool of a connection, that no process maps. */
static uint32_t make_pool_for(int sock, const char *name, uint64_t bytes, uint64_t nvme,
			      uint32_t ms)
{
	struct kvt_create create = { .bytes = bytes, .block_bytes = BLOCK, .io_deadline_ms = ms,
				     .budget[KVTIER_TIER_NVME] = nvme };
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_CREATE);
	struct kvt_opened opened;
	uint64_t until = now_ms() + 20000 * patience_factor;
	int ret;

	snprintf(create.name, sizeof(create.name), "%s", name);
	ask.body = &create;
	ask.bytes = sizeof(create);
	ask.answer = &opened;
	ask.room = sizeof(opened);
	do /* one of this name may be on its way out */
		ret = kvt_client_ask_now(sock, &ask);
	while ((ret == -EBUSY || ret == -EEXIST) && now_ms() < until);
	OK(ret);
	return opened.pool;
}

static uint32_t make_pool(int sock, const char *name, uint64_t bytes, uint64_t nvme)
{
	return make_pool_for(sock, name, bytes, nvme, 0);
}

#define RANGE_BYTES (sizeof(struct kvt_ranges) + sizeof(struct kvtier_range))

static struct kvt_ranges *put_range(void *room, uint32_t pool, uint32_t op, uint64_t length)
{
	struct kvt_ranges *r = room;

	*r = (struct kvt_ranges){ .pool = pool, .op = op, .nr = 1 };
	r->ranges[0] = (struct kvtier_range){ .length = length };
	return r;
}

static void do_range(int sock, uint32_t pool, uint32_t op, uint64_t length)
{
	uint64_t room[RANGE_BYTES / 8];
	struct kvt_ranges *r = put_range(room, pool, op, length);
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_RANGE_OP);

	ask.body = ask.answer = room;
	ask.bytes = ask.room = RANGE_BYTES;
	OK(kvt_client_ask_now(sock, &ask));
	CHECK(!r->ranges[0].result, "operation %u: %d", op, r->ranges[0].result);
}

/* The same of a connection with answers to come before. */
static void do_range_past(int sock, uint32_t pool, uint32_t op, uint64_t length)
{
	uint64_t room[RANGE_BYTES / 8];
	struct kvt_ranges *r = put_range(room, pool, op, length);
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_RANGE_OP);
	int fds[KVT_MSG_FDS], nr;
	struct kvt_msg *answer;
	uint32_t id;

	ask.body = r;
	ask.bytes = RANGE_BYTES;
	OK(kvt_link_send(sock, &ask, 77));
	do {
		OK(kvt_link_receive(sock, &answer, fds, &nr));
		id = answer->id;
		CHECK(id != 77 || !answer->error, "operation %u: %d", op, answer->error);
		free(answer);
	} while (id != 77);
}

/* Another client is answered. */
static void others_served(const char *what)
{
	struct timeval t = { .tv_sec = 20 * (long)patience_factor };
	struct kvt_daemon_status st;
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_STATUS);
	struct kvt_msg *answer;
	int fds[KVT_MSG_FDS], nr, sock = connection();

	setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	OK(kvt_link_send(sock, &ask, 1));
	CHECK(!kvt_link_receive(sock, &answer, fds, &nr), "expected others to be served: %s", what);
	ask.answer = &st;
	ask.room = sizeof(st);
	OK(kvt_link_answer(&ask, answer, fds, nr));
	close(sock);
}

/* ---- restarts ---------------------------------------------------------------------------- */

/* Its pools are made again from their checkpoints: in other files than the clients have. */
static void lose_store(void)
{
	daemon_kill(SIGKILL);
	daemon_.empty_handed = true;
	daemon_spawn();
}

/* ---- answers that nobody reads ----------------------------------------------------------- */

/*
 * Its answers fill the socket, so that the one of a promotion, given while the pool's
 * commands are walked, cannot be sent.  How many it takes is the kernel's matter.
 */
static void reads_nothing(void)
{
	struct kvt_query_msg query = { .nr = 1600 };
	int before, i;

	if (want_module)
		skip("the module's pools are asked by ioctl");
	daemon_start(NULL);
	for (before = 1; before < 10; before++) {
		int sock = connection();
		uint32_t id = make_pool(sock, "unread", 1600 * BLOCK, 0);
		uint64_t room[RANGE_BYTES / 8];

		do_range(sock, id, KVTIER_OP_PIN, 16 * BLOCK);
		do_range(sock, id, KVTIER_OP_UNPIN, 16 * BLOCK);
		do_range(sock, id, KVTIER_OP_DEMOTE, 16 * BLOCK);
		query.pool = id;
		for (i = 0; i < before; i++)
			tell(sock, KVT_MSG_QUERY, &query, sizeof(query));
		put_range(room, id, KVTIER_OP_PROMOTE, 16 * BLOCK);
		tell(sock, KVT_MSG_RANGE_OP, room, sizeof(room));
		pause_ms(20);
		others_served("answers are not read");
		close(sock);
	}
	EVENTUALLY(daemon_metric("kvtier_live_pools") == 0, "expected its pools to go");
}

#define ASKERS 24
#define TIMES 20

static void *ask_much(void *arg)
{
	struct kvtier_block_info *infos = calloc(1600, sizeof(*infos));
	int i, ret = infos ? 0 : -ENOMEM;

	for (i = 0; i < TIMES && !ret; i++)
		ret = kvt_query(arg, 0, 1600, infos);
	free(infos);
	return ret ? arg : NULL;
}

static void *plan_much(void *arg)
{
	struct kvtier_range *r = calloc(2700, sizeof(*r));
	int i, j, ret = r ? 0 : -ENOMEM;

	for (i = 0; i < TIMES && ret >= 0; i++) {
		for (j = 0; j < 2700; j++)
			r[j] = (struct kvtier_range){ .offset = (uint64_t)(j % 1600) * BLOCK,
						      .length = BLOCK };
		ret = kvt_range_op(arg, KVTIER_OP_COLD, 0, 0, r, 2700);
	}
	free(r);
	return ret < 0 ? arg : NULL;
}

/* More large answers at once than a socket holds: nobody did anything wrong. */
static void ask_at_once(void)
{
	pthread_t threads[ASKERS];
	struct kvt_client *c;
	struct kvt_pool *p;
	void *failed;
	int i;

	if (want_module)
		skip("the module's pools are asked by ioctl");
	daemon_start(NULL);
	c = client();
	p = pool(c, "asked", 1600 * BLOCK, 8 * BLOCK, 0);
	fill_block(p, 1, 1);
	for (i = 0; i < ASKERS; i++)
		CHECK(!pthread_create(&threads[i], NULL, i % 3 ? ask_much : plan_much, p),
		      "a thread");
	for (i = 0; i < ASKERS; i++) {
		pthread_join(threads[i], &failed);
		CHECK(!failed, "expected each to be answered");
	}
	CHECK(!wrong_words(p, 1, 1), "expected the pool to be there");
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* ---- the attention service --------------------------------------------------------------- */

struct remote {
	struct kvt_attend_ring *ring;
	size_t bytes;
	int bell, answer;
};

static struct remote make_remote(int sock, uint32_t pool, size_t bytes)
{
	struct kvt_pool_id id = { .pool = pool, .value = bytes };
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_ATTEND);
	struct remote r = { .bytes = bytes };
	int fds[KVT_MSG_FDS];

	ask.body = &id;
	ask.bytes = sizeof(id);
	ask.fds = fds;
	OK(kvt_client_ask_now(sock, &ask));
	r.ring = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	CHECK(r.ring != MAP_FAILED, "mmap: %m");
	close(fds[0]);
	r.bell = fds[1];
	r.answer = fds[2];
	return r;
}

static void drop_remote(struct remote *r)
{
	munmap(r->ring, r->bytes);
	close(r->bell);
	close(r->answer);
}

static void ring_for(struct remote *r, uint32_t nr_blocks)
{
	uint64_t number = r->ring->query.number + 1;

	r->ring->query = (struct kvt_attend_query){ .number = number, .q_heads = 1, .kv_heads = 1,
						    .k_dim = 64, .v_dim = 64, .scale = 1,
						    .q_tokens = 1, .nr_blocks = nr_blocks };
	eventfd_write(r->bell, 1);
}

/*
 * Rows whose blocks, counted, come to 2^62 and four: times the four bytes of a number that
 * is 16.  Values that are part of the keys have no rows, but may name tokens and a stride.
 */
#define WRAPS ((1ull << 62) + 4)
#define WRAP_TOKENS ((1u << 27) - (1u << 20))
#define WRAP_ROOM 540000u

static uint64_t counted(uint64_t tokens, uint64_t v_stride)
{
	uint64_t row = 64 * sizeof(float);

	return ((tokens + row) / BLOCK) + 2 + ((tokens * v_stride + row) / BLOCK) + 2;
}

static uint32_t fill_wrapping(struct kvt_remote_block *b)
{
	uint64_t left = WRAPS, most = counted(WRAP_TOKENS, UINT32_MAX);
	uint32_t nr = 0;

	while (left) {
		uint64_t tokens = left > 3 * most ? WRAP_TOKENS : BLOCK;
		uint64_t stride = left > 3 * most ? UINT32_MAX : left - counted(BLOCK, 0);

		/* What is left must not be less than the least that a block counts. */
		if (tokens == BLOCK && stride > UINT32_MAX)
			stride = UINT32_MAX - 100;
		left -= counted(tokens, stride);
		CHECK(nr < WRAP_ROOM, "expected fewer blocks");
		b[nr++] = (struct kvt_remote_block){ .v_offset = UINT64_MAX,
						     .tokens = (uint32_t)tokens + 1, .k_stride = 1,
						     .v_stride = (uint32_t)stride };
	}
	return nr;
}

static void wrapping_query(void)
{
	int sock;
	uint32_t id, nr;
	struct remote r;

	if (want_module)
		skip("the module's pools are not served");
	daemon_start(NULL);
	sock = connection();
	id = make_pool(sock, "wrapping", 128 * MIB, 0);
	r = make_remote(sock, id, (sizeof(*r.ring) + WRAP_ROOM * sizeof(struct kvt_remote_block) +
				   MIB + 4095) & ~4095ull);
	nr = fill_wrapping((struct kvt_remote_block *)r.ring->data);
	ring_for(&r, nr);
	EVENTUALLY(__atomic_load_n(&r.ring->done, __ATOMIC_ACQUIRE) == 1, "expected an answer");
	CHECK(r.ring->error == -E2BIG, "expected -E2BIG, got %d", r.ring->error);
	others_served("a query that wraps");
	drop_remote(&r);
	close(sock);
}

/* Many short rows in one block of the pool; and more than memory can ever hold at once. */
#define SHORT_ROWS 400u

static void crowded_block(void)
{
	struct kvt_pool_id budget = { .value = 4 * BLOCK };
	struct kvt_remote_block *b;
	struct remote r;
	uint32_t id, i;
	int sock;

	if (want_module)
		skip("the module's pools are not served");
	daemon_start(NULL);
	sock = connection();
	budget.pool = id = make_pool_for(sock, "crowded", 16 * BLOCK, 0, 300);
	r = make_remote(sock, id, MIB);
	b = (struct kvt_remote_block *)r.ring->data;
	for (i = 0; i < SHORT_ROWS; i++)
		b[i] = (struct kvt_remote_block){ .k_offset = i * 64ull,
						  .v_offset = BLOCK / 2 + i * 64ull,
						  .position = i,
						  .tokens = 1,
						  .span = 1,
						  .k_type = KVT_F16,
						  .v_type = KVT_F16,
						  .k_stride = 128,
						  .v_stride = 128 };
	ring_for(&r, SHORT_ROWS);
	EVENTUALLY(__atomic_load_n(&r.ring->done, __ATOMIC_ACQUIRE) == 1, "expected an answer");
	CHECK(!r.ring->error, "expected success, got %d", r.ring->error);
	tell(sock, KVT_MSG_BUDGET, &budget, sizeof(budget));
	b[0] = (struct kvt_remote_block){ .v_offset = UINT64_MAX, .tokens = 15, .span = 15,
					  .k_type = KVT_F16, .k_stride = BLOCK };
	ring_for(&r, 1);
	EVENTUALLY(__atomic_load_n(&r.ring->done, __ATOMIC_ACQUIRE) == 2, "expected an answer");
	CHECK(r.ring->error == -ENOSPC, "expected -ENOSPC, got %d", r.ring->error);
	drop_remote(&r);
	close(sock);
}

/* A good query with some of its numbers changed: each is answered, and what it touched let go. */
#define MANGLED 300u

static void good_query(struct kvt_attend_query *q, struct kvt_remote_block *b)
{
	uint32_t i;

	*q = (struct kvt_attend_query){ .q_heads = 4, .kv_heads = 2, .k_dim = 64, .v_dim = 64,
					.q_tokens = 2, .nr_blocks = 8, .top_k = 2, .nr_bounds = 3,
					.asks = KVT_ASKS_MASK | KVT_ASKS_BOUNDS | KVT_ASKS_MASS |
						KVT_ASKS_SKIPPED | KVT_ASKS_SINKS };
	for (i = 0; i < 8; i++)
		b[i] = (struct kvt_remote_block){ .k_offset = i * BLOCK + 64,
						  .v_offset = (i + 4) * BLOCK,
						  .position = 64 * i,
						  .tokens = 64,
						  .k_type = KVT_F16,
						  .v_type = KVT_INT8,
						  .k_stride = 256,
						  .v_stride = 136 };
}

static uint32_t next_chance(uint64_t *x)
{
	*x = *x * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(*x >> 33);
}

static void mangle(struct kvt_attend_query *q, struct kvt_remote_block *b, uint64_t *x)
{
	static const uint32_t odd[] = { 0, 1, 2, 7, 63, 65535, 1u << 20, 1u << 31, UINT32_MAX };
	uint32_t value = next_chance(x), *words = (uint32_t *)q;
	uint32_t nr = sizeof(*q) / sizeof(*words), at;

	if (value % 3)
		value = odd[next_chance(x) % (sizeof(odd) / sizeof(odd[0]))];
	if (next_chance(x) % 2) {
		words = (uint32_t *)b;
		nr = 8 * sizeof(*b) / sizeof(*words);
	}
	at = next_chance(x) % nr;
	if (words == (uint32_t *)q && at < 2)
		return; /* the number, which is how it is told that it was answered */
	memcpy(&words[at], &value, sizeof(value));
}

static void mangled_queries(void)
{
	struct kvt_attend_query q;
	struct kvt_remote_block *b;
	uint64_t x = 17, number;
	struct remote r;
	uint32_t id, i, served = 0;
	int sock;

	daemon_start("[attend]\nthreads = 2\n");
	sock = connection();
	id = make_pool_for(sock, "mangled", 32 * BLOCK, 0, 2000);
	r = make_remote(sock, id, MIB);
	b = (struct kvt_remote_block *)r.ring->data;
	for (number = 1; number <= MANGLED; number++) {
		for (i = 0; i < MIB / 4 - 64; i++)
			((uint32_t *)r.ring->data)[i] = number % 2 ? next_chance(&x) : 0x3f000000;
		good_query(&q, b);
		memset(r.ring->data + kvt_attend_places(&q).has_bounds, number % 4 ? 0x70 : 0xff,
		       1);
		for (i = number % 4; i; i--)
			mangle(&q, b, &x);
		q.number = number;
		r.ring->query = q;
		eventfd_write(r.bell, 1);
		/* ... and while it is under way. */
		if (number % 5 == 0)
			memset(r.ring->data, 0xee, 8 * sizeof(*b));
		EVENTUALLY(__atomic_load_n(&r.ring->done, __ATOMIC_ACQUIRE) == number,
			   "expected an answer to query %llu", (unsigned long long)number);
		served += !r.ring->error;
	}
	CHECK(served && served < MANGLED, "expected some to be served, not %u", served);
	others_served("queries that are wrong");
	drop_remote(&r);
	close(sock);
}

/* ---- descriptors that are the client's too ----------------------------------------------- */

/* All that may be had from a descriptor: it blocks, and is full. */
static void spoil(int fd)
{
	static const uint64_t most = UINT64_MAX - 1;
	char path[64];
	int again;

	if (write(fd, &most, sizeof(most)) < 0)
		CHECK(errno == EBADF || errno == EAGAIN, "write: %m");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	while (again >= 0 && write(again, &most, sizeof(most)) > 0)
		;
	if (again >= 0)
		close(again);
	CHECK(!fcntl(fd, F_SETFL, 0), "fcntl: %m");
}

/* Rung and taken back at once: who reads it when it is told may find nothing. */
static void ring_and_take(int bell)
{
	eventfd_t ignored;
	int i;

	CHECK(!fcntl(bell, F_SETFL, 0), "fcntl: %m");
	for (i = 0; i < 3000; i++) {
		eventfd_write(bell, 1);
		fcntl(bell, F_SETFL, O_NONBLOCK);
		eventfd_read(bell, &ignored);
		fcntl(bell, F_SETFL, 0);
	}
}

static void spoilt_bells(void)
{
	struct rlimit none = { 0, RLIM_INFINITY };
	struct kvt_plan_range range = { 0, BLOCK };
	struct kvt_client *c;
	struct kvt_pool *p;
	struct remote r;
	int sock;

	if (want_module)
		skip("the module's pools are not served");
	daemon_start(NULL);
	sock = connection();
	r = make_remote(sock, make_pool(sock, "spoilt", 16 * BLOCK, 0), MIB);
	spoil(r.answer);
	ring_for(&r, 0);
	EVENTUALLY(__atomic_load_n(&r.ring->done, __ATOMIC_ACQUIRE) == 1, "expected an answer");
	others_served("the bell of an answer is full");
	ring_and_take(r.bell);
	others_served("the bell of a query is empty");
	drop_remote(&r);
	c = client();
	p = pool(c, "events", 16 * BLOCK, 8 * BLOCK, 0);
	fill_block(p, 0, 1);
	OK(kvt_plan_publish(p, &range, 1, 0));
	ring_and_take(kvt_shared_of(p)->plan.doorbell);
	others_served("the bell of a plan is empty");
	spoil(kvt_event_fd(p));
	CHECK(!prlimit(daemon_.pid, RLIMIT_FSIZE, &none, NULL), "prlimit: %m");
	CHECK(kvt_writeback(p, 0, BLOCK) < 0, "expected writing back to fail");
	others_served("the bell of events is full");
	kvt_client_close(c);
	close(sock);
}

/* A client's userfaultfd that blocks, and threads that never let it be empty. */
static void *zap_and_touch(void *arg)
{
	char *addr = kvt_pool_addr(arg);
	uint64_t until = now_ms() + 1000;
	unsigned int i;

	while (now_ms() < until)
		for (i = 0; i < 64; i++) {
			madvise(addr + i % 8 * BLOCK, 4096, MADV_DONTNEED);
			(void)*(volatile char *)(addr + i % 8 * BLOCK);
		}
	return NULL;
}

static void spoilt_faults(void)
{
	pthread_t threads[4];
	struct kvt_client *c;
	struct kvt_pool *p;
	int i;

	if (want_module)
		skip("pools of the module have no userfaultfd");
	daemon_start(NULL);
	c = client();
	p = pool(c, "faults", 16 * BLOCK, 16 * BLOCK, 0);
	CHECK(!fcntl(kvt_shared_of(p)->uffd, F_SETFL, 0), "fcntl: %m");
	for (i = 0; i < 8; i++)
		fill_block(p, (uint64_t)i, 1);
	others_served("a userfaultfd that blocks");
	for (i = 0; i < 4; i++)
		CHECK(!pthread_create(&threads[i], NULL, zap_and_touch, p), "a thread");
	for (i = 0; i < 20; i++)
		others_served("faults without an end");
	for (i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	CHECK(!wrong_words(p, 7, 1), "expected the pool to be there");
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static int open_uffd(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
		skip("no userfaultfd with such features here");
	return fd;
}

/* A userfaultfd with events would stop whoever serves its faults. */
static void uffd_with_events(void)
{
	static const uint64_t wrong[] = { UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_EVENT_REMOVE,
					  UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_EVENT_UNMAP, 0 };
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_MAP);
	struct kvt_map map = { .addr = BLOCK };
	int sock;
	size_t i;

	if (want_module)
		skip("pools of the module have no userfaultfd");
	daemon_start(NULL);
	sock = connection();
	map.pool = make_pool(sock, "events", 8 * BLOCK, 0);
	ask.body = &map;
	ask.bytes = sizeof(map);
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		ask.fd = open_uffd(wrong[i]);
		ERROR(kvt_client_ask_now(sock, &ask), -EINVAL);
		close(ask.fd);
	}
	ask.fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	ERROR(kvt_client_ask_now(sock, &ask), -EINVAL);
	close(ask.fd);
	ask.fd = open_uffd(UFFD_FEATURE_THREAD_ID);
	OK(kvt_client_ask_now(sock, &ask));
	close(ask.fd);
	close(sock);
}

/* A connected socket whose end waits for a peer that takes nothing; -1: none here. */
static int lingering(int *peer)
{
	struct linger on = { 1, 30000 };
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t bytes = sizeof(to);
	static char text[65536];
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), sock;

	sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (l < 0 || sock < 0 || bind(l, (struct sockaddr *)&to, sizeof(to)) || listen(l, 1) ||
	    getsockname(l, (struct sockaddr *)&to, &bytes) ||
	    connect(sock, (struct sockaddr *)&to, sizeof(to)))
		return -1;
	*peer = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	close(l);
	while (send(sock, text, sizeof(text), MSG_DONTWAIT) > 0)
		;
	CHECK(!setsockopt(sock, SOL_SOCKET, SO_LINGER, &on, sizeof(on)), "setsockopt: %m");
	return sock;
}

/* Descriptors that nobody asked for, and whose last user the daemon becomes. */
static void slow_to_close(void)
{
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_STATUS);
	int sock, peer[3], i;

	daemon_start(NULL);
	sock = connection();
	kill(daemon_.pid, SIGSTOP); /* or we might be the last to close one */
	for (i = 0; i < 3; i++) {
		ask.fd = lingering(&peer[i]);
		if (ask.fd < 0)
			skip("no loopback here");
		OK(kvt_link_send(sock, &ask, 1));
		close(ask.fd);
	}
	kill(daemon_.pid, SIGCONT);
	others_served("descriptors that are slow to close");
	close(sock);
	for (i = 0; i < 3; i++)
		close(peer[i]);
}

/* ---- metrics ----------------------------------------------------------------------------- */

/* As many silent connections as there may be: they end, and others are answered. */
static void silent_scrapers(void)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int socks[64], i;

	daemon_start(NULL);
	snprintf(to.sun_path, sizeof(to.sun_path), "%.90s/metrics", daemon_.dir);
	for (i = 0; i < 64; i++) {
		socks[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		CHECK(socks[i] >= 0 && !connect(socks[i], (struct sockaddr *)&to, sizeof(to)),
		      "connect: %m");
	}
	pause_ms(100);
	CHECK(daemon_metric("kvtier_live_pools") == 0,
	      "expected metrics once the silent ones are gone");
	for (i = 0; i < 64; i++)
		close(socks[i]);
}

/* ---- models ------------------------------------------------------------------------------ */

/* A name that would be a line of the log; and the wrong one, which must not leave a pool open. */
static void odd_models(void)
{
	struct kvt_shared_config config = KVT_SHARED_CONFIG_INIT;
	struct kvt_client *c;
	struct kvt_pool *p;

	daemon_start(NULL);
	c = client();
	config.name = "odd";
	config.bytes = 8 * BLOCK;
	config.block_bytes = BLOCK;
	config.flags = KVT_SHARED_KEEP;
	config.model = "m\n<3>level=error event=forged";
	ERROR(kvt_shared_create(c, &config, &p), -EINVAL);
	config.model = "m\" event=\"forged";
	ERROR(kvt_shared_create(c, &config, &p), -EINVAL);
	if (want_module)
		skip("on the module a checkpoint takes sealed blocks alone");
	p = pool(c, "odd", 8 * BLOCK, 8 * BLOCK, KVT_SHARED_KEEP);
	fill_block(p, 0, 1);
	OK(kvt_shared_checkpoint(p, "x", 1));
	kvt_pool_destroy(p);
	kvt_client_close(c);
	lose_store();
	c = client();
	ERROR(kvt_shared_attach(c, "odd", "m\nforged", &p), -EINVAL);
	ERROR(kvt_shared_attach(c, "odd", "another", &p), -EMEDIUMTYPE);
	CHECK(daemon_metric("kvtier_live_pools") == 0, "expected nothing to be open for that");
	kvt_client_close(c);
}

/* ---- work without an end ----------------------------------------------------------------- */

#define MANY (1u << 20) /* blocks */

static struct kvt_plan_ring *make_plan(int sock, uint32_t pool, uint32_t entries, int *bell)
{
	struct kvt_pool_id id = { .pool = pool, .value = entries };
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_PLAN);
	struct kvt_plan_ring *ring;
	int fds[KVT_MSG_FDS];

	ask.body = &id;
	ask.bytes = sizeof(id);
	ask.fds = fds;
	OK(kvt_client_ask_now(sock, &ask));
	ring = mmap(NULL, sizeof(*ring) + entries * sizeof(ring->entry[0]), PROT_READ | PROT_WRITE,
		    MAP_SHARED, fds[0], 0);
	CHECK(ring != MAP_FAILED, "mmap: %m");
	close(fds[0]);
	*bell = fds[1];
	return ring;
}

/* A ring full of marks, and one of plans over the whole pool that are forgotten at once. */
static void endless_plan(void)
{
	struct kvt_plan_ring *ring;
	int sock, bell, round;
	uint32_t id, i;

	if (want_module)
		skip("the module has not so large a pool here");
	daemon_start(NULL);
	sock = connection();
	id = make_pool(sock, "endless", (uint64_t)MANY * BLOCK, 4 * BLOCK);
	for (round = 0; round < 2; round++) {
		ring = make_plan(sock, id, 131072, &bell);
		for (i = 0; round && i < 131072; i += 2)
			ring->entry[i] = (struct kvt_plan_entry){ 0, MANY };
		__atomic_store_n(&ring->head, 131072, __ATOMIC_RELEASE);
		eventfd_write(bell, 1);
		pause_ms(50);
		others_served(round ? "whole pools in a plan" : "marks in a plan");
		if (!round)
			EVENTUALLY(__atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE) == 131072,
				   "expected the marks to be taken");
		munmap(ring, sizeof(*ring) + 131072 * sizeof(ring->entry[0]));
		close(bell);
	}
	close(sock);
}

/* One message, and some billions of blocks to look at: others are answered first. */
static void endless_ranges(void)
{
	uint32_t nr = KVT_RANGES_MAX, i;
	struct kvt_ranges *r;
	int sock;
	char byte;

	if (want_module)
		skip("the module has not so large a pool here");
	daemon_start(NULL);
	sock = connection();
	r = calloc(1, sizeof(*r) + nr * sizeof(r->ranges[0]));
	CHECK(r, "calloc");
	*r = (struct kvt_ranges){ .op = KVTIER_OP_COLD, .nr = nr };
	r->pool = make_pool(sock, "endless", (uint64_t)MANY * BLOCK, 4 * BLOCK);
	for (i = 0; i < nr; i++)
		r->ranges[i].length = (uint64_t)MANY * BLOCK;
	tell(sock, KVT_MSG_RANGE_OP, r, sizeof(*r) + nr * sizeof(r->ranges[0]));
	pause_ms(50);
	others_served("a message of many ranges");
	CHECK(recv(sock, &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN,
	      "expected others to be served before it");
	close(sock);
	free(r);
	EVENTUALLY(daemon_metric("kvtier_live_pools") == 0, "expected its pool to go");
}

/* ---- pins -------------------------------------------------------------------------------- */

/* A discard waits for a write at its beginning; what is pinned meanwhile stays. */
static void pinned_meanwhile(void)
{
	uint64_t room[3][RANGE_BYTES / 8];
	int i, sock, nr, fds[KVT_MSG_FDS], result = 1;
	uint32_t id;

	if (want_module)
		skip("the module does its pools' operations");
	daemon_start(NULL);
	sock = connection();
	id = make_pool(sock, "pinned", 32 * BLOCK, 0);
	do_range(sock, id, KVTIER_OP_PIN, 17 * BLOCK);
	do_range(sock, id, KVTIER_OP_UNPIN, 17 * BLOCK);
	put_range(room[0], id, KVTIER_OP_WRITEBACK, 16 * BLOCK);
	put_range(room[1], id, KVTIER_OP_DISCARD, 17 * BLOCK);
	put_range(room[2], id, KVTIER_OP_PIN, BLOCK)->ranges[0].offset = 16 * BLOCK;
	kill(daemon_.pid, SIGSTOP);
	for (i = 0; i < 3; i++)
		tell(sock, KVT_MSG_RANGE_OP, room[i], RANGE_BYTES);
	kill(daemon_.pid, SIGCONT);
	for (i = 0; i < 3; i++) {
		struct kvt_ranges *r;
		struct kvt_msg *answer;

		OK(kvt_link_receive(sock, &answer, fds, &nr));
		r = (struct kvt_ranges *)(answer + 1);
		if (r->op == KVTIER_OP_DISCARD)
			result = r->ranges[0].result;
		else
			CHECK(!r->ranges[0].result, "operation %u: %d", r->op, r->ranges[0].result);
		free(answer);
	}
	CHECK(result == -EBUSY, "expected -EBUSY of the discard, got %d", result);
	close(sock);
}

/* What a device does: store to a pinned block, unseen by who serves our faults. */
static void store_unseen(struct kvt_pool *p)
{
	uint64_t *words = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED,
			       kvt_shared_of(p)->kernel.fd, 0), i;

	CHECK(words != MAP_FAILED, "mmap: %m");
	for (i = 0; i < BLOCK / 8; i++)
		words[i] = word_of(0, 2, i);
	munmap(words, BLOCK);
}

static void pinned_restart(void)
{
	struct kvt_client *c;
	struct kvt_pool *p;
	int pipes[2];
	char byte;
	pid_t pid;

	if (want_module)
		skip("the module knows its pins itself");
	daemon_start(NULL);
	CHECK(!pipe(pipes), "pipe: %m");
	pid = fork();
	if (!pid) {
		c = client();
		p = pool(c, "device", 8 * BLOCK, 8 * BLOCK, KVT_SHARED_KEEP);
		fill_block(p, 0, 1);
		OK(kvt_pin(p, 0, BLOCK));
		OK(kvt_writeback(p, 0, BLOCK));
		store_unseen(p);
		if (write(pipes[1], "x", 1) == 1)
			pause();
		_exit(1);
	}
	close(pipes[1]);
	CHECK(read(pipes[0], &byte, 1) == 1, "expected the client to get there");
	daemon_kill(SIGKILL);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	daemon_spawn();
	c = client();
	OK(kvt_shared_attach(c, "device", "test", &p));
	OK(kvt_demote(p, 0, BLOCK));
	CHECK(!wrong_words(p, 0, 2), "expected what the device stored");
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* ---- a daemon that lost what its manager kept -------------------------------------------- */

static void other_memory(void)
{
	struct kvtier_stats st;
	struct kvt_client *c;
	struct kvt_pool *p, *q;

	if (want_module)
		skip("a pool of the module lives without its daemon");
	daemon_start(NULL);
	c = client();
	p = pool(c, "again", 8 * BLOCK, 8 * BLOCK, KVT_SHARED_KEEP);
	fill_block(p, 0, 1);
	OK(kvt_shared_checkpoint(p, "one", 3));
	fill_block(p, 0, 2);
	lose_store();
	ERROR(kvt_stats(p, &st), -ECONNRESET);
	ERROR(kvt_shared_checkpoint(p, "two", 3), -ECONNRESET);
	/* What was durable is there, for whoever attaches: on this connection too. */
	OK(kvt_shared_attach(c, "again", "test", &q));
	CHECK(!wrong_words(q, 0, 1), "expected what the checkpoint has");
	kvt_pool_destroy(q);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static void *discard_it(void *arg)
{
	return kvt_discard(arg, 0, BLOCK) < 0 ? arg : NULL;
}

/*
 * Numbers of pools change where pools are made again.  A call that was under way is not
 * asked again about whoever has the number now.
 */
static void other_number(void)
{
	struct kvt_pool *p[2], *q[2];
	struct kvt_client *c;
	pthread_t thread;
	void *failed;
	int i;

	if (want_module)
		skip("the module does its pools' operations");
	daemon_start(NULL);
	c = client();
	p[0] = pool(c, "first", 8 * BLOCK, 8 * BLOCK, KVT_SHARED_KEEP);
	p[1] = pool(c, "second", 8 * BLOCK, 8 * BLOCK, KVT_SHARED_KEEP);
	for (i = 0; i < 2; i++) {
		fill_block(p[i], 0, 1);
		OK(kvt_shared_checkpoint(p[i], "one", 3));
	}
	kill(daemon_.pid, SIGSTOP);
	CHECK(!pthread_create(&thread, NULL, discard_it, p[0]), "a thread");
	pause_ms(100);
	lose_store();
	pthread_join(thread, &failed);
	CHECK(failed, "expected the discard to fail: its pool is lost");
	kvt_pool_destroy(p[0]);
	kvt_pool_destroy(p[1]);
	OK(kvt_shared_attach(c, "first", "test", &q[0]));
	OK(kvt_shared_attach(c, "second", "test", &q[1]));
	for (i = 0; i < 2; i++)
		CHECK(!wrong_words(q[i], 0, 1), "expected what the checkpoint of pool %d has", i);
	kvt_client_close(c);
}

/* ---- what the daemon keeps for a client --------------------------------------------------- */

/* Requests that wait, without end: those that its tenant has no more room for are refused. */
static void endless_requests(void)
{
	uint32_t nr = KVT_RANGES_MAX, i, pinned, cold;
	struct kvt_msg *answer;
	struct kvt_ranges *r;
	int sock, fds[KVT_MSG_FDS], nr_fds;

	if (want_module)
		skip("the module does its pools' operations");
	daemon_start("[default]\ndram = 1M\nmax-metadata = 1M\n");
	sock = connection();
	cold = make_pool(sock, "cold", 16 * BLOCK, 0);
	do_range(sock, cold, KVTIER_OP_PIN, BLOCK);
	do_range(sock, cold, KVTIER_OP_UNPIN, BLOCK);
	do_range(sock, cold, KVTIER_OP_DEMOTE, BLOCK);
	pinned = make_pool(sock, "pinned", 16 * BLOCK, 0);
	do_range(sock, pinned, KVTIER_OP_PIN, 16 * BLOCK);
	r = calloc(1, sizeof(*r) + nr * sizeof(r->ranges[0]));
	CHECK(r, "calloc");
	*r = (struct kvt_ranges){ .pool = cold, .op = KVTIER_OP_PROMOTE, .nr = nr };
	for (i = 0; i < nr; i++)
		r->ranges[i].length = BLOCK;
	/* No memory is free for it: not one of these ends. */
	for (i = 0; i < 20; i++)
		tell(sock, KVT_MSG_RANGE_OP, r, sizeof(*r) + nr * sizeof(r->ranges[0]));
	OK(kvt_link_receive(sock, &answer, fds, &nr_fds));
	CHECK(answer->error == -EDQUOT, "expected -EDQUOT, got %d", answer->error);
	free(answer);
	others_served("requests without end");
	/* With its pins all goes on. */
	do_range_past(sock, pinned, KVTIER_OP_UNPIN, 16 * BLOCK);
	close(sock);
	free(r);
	EVENTUALLY(daemon_metric("kvtier_tenant_metadata_bytes{tenant=\"user-0\"}") == 0,
		   "expected nothing to be counted for who is gone");
}

/* A pool's memory goes with it, also of a client that keeps its descriptor. */
static void kept_memory(void)
{
	struct kvt_create create = { .name = "kept", .bytes = 16 * BLOCK, .block_bytes = BLOCK };
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_CREATE);
	struct kvt_pool_id id = { 0 };
	struct kvt_opened opened;
	int sock, fds[KVT_MSG_FDS];
	struct stat st;

	if (want_module)
		skip("the module's pools live as long as their descriptors");
	daemon_start(NULL);
	sock = connection();
	ask.body = &create;
	ask.bytes = sizeof(create);
	ask.answer = &opened;
	ask.room = sizeof(opened);
	ask.fds = fds;
	OK(kvt_client_ask_now(sock, &ask));
	id.pool = opened.pool;
	do_range(sock, id.pool, KVTIER_OP_PIN, 8 * BLOCK);
	CHECK(!fstat(fds[0], &st) && st.st_blocks >= 8 * (long)BLOCK / 512, "expected memory");
	tell(sock, KVT_MSG_DETACH, &id, sizeof(id));
	EVENTUALLY(!fstat(fds[0], &st) && !st.st_blocks,
		   "expected its memory to go, %ld KiB are left", (long)st.st_blocks / 2);
	close(sock);
}

const struct test_case hostile_cases[] = {
	{ "reads_nothing", "a client that does not read its answers", reads_nothing, false },
	{ "wrapping_query", "a query whose rows are too many to count", wrapping_query, false },
	{ "crowded_block", "more rows in a block than a byte counts, and more than memory holds",
	  crowded_block, false },
	{ "other_memory", "a pool that was made again is not the one that was mapped", other_memory,
	  false },
	{ "other_number", "a call that was lost is not asked of another pool", other_number,
	  false },
	{ "ask_at_once", "more answers at once than a socket holds", ask_at_once, false },
	{ "mangled_queries", "queries with numbers of chance in them", mangled_queries, false },
	{ "spoilt_bells", "eventfds and pipes that are full, empty, and block", spoilt_bells,
	  false },
	{ "spoilt_faults", "a userfaultfd that blocks, and is never empty", spoilt_faults, false },
	{ "uffd_with_events", "a userfaultfd that has more to tell than faults", uffd_with_events,
	  false },
	{ "slow_to_close", "descriptors whose end takes long", slow_to_close, false },
	{ "pinned_meanwhile", "a block that is pinned while its discard waits", pinned_meanwhile,
	  false },
	{ "pinned_restart", "what a device stored, after the daemon and its client died",
	  pinned_restart, false },
	{ "endless_plan", "a ring that takes for ever to be taken", endless_plan, false },
	{ "endless_ranges", "a message that takes for ever to be worked on", endless_ranges,
	  false },
	{ "silent_scrapers", "connections for metrics that ask nothing", silent_scrapers, false },
	{ "odd_models", "names of models that are not for a log, or not the pool's", odd_models,
	  false },
	{ "endless_requests", "requests that wait are bounded, by tenant", endless_requests,
	  false },
	{ "kept_memory", "memory of a pool that ended is free, whoever has it open", kept_memory,
	  false },
	{ 0 },
};
