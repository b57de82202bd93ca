// SPDX-License-Identifier: MIT
/* Clients that know the protocol and mean ill: the daemon and its other clients go on. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
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
static uint32_t make_pool(int sock, const char *name, uint64_t bytes, uint64_t nvme)
{
	struct kvt_create create = { .bytes = bytes, .block_bytes = BLOCK,
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

const struct test_case hostile_cases[] = {
	{ "reads_nothing", "a client that does not read its answers", reads_nothing, false },
	{ 0 },
};
