// SPDX-License-Identifier: MIT
/* Events: a descriptor to poll, a queue in order, an honest overflow. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "conf.h"

#define ROOM 4096

static bool readable(struct kvt_pool *pool)
{
	struct pollfd fd = { .fd = kvt_event_fd(pool), .events = POLLIN };

	return CONF_SYS(poll(&fd, 1, 0)) == 1;
}

/* Every block on NVMe, and the file cut off: each promotion is an event. */
static struct kvt_pool *lost_pool(struct conf *c, uint32_t blocks)
{
	char *path = conf_path(c, "slots");
	struct conf_spec spec = { .blocks = blocks,
				  .dram = 16,
				  .block = KVT_BLOCK_MIN,
				  .path = path,
				  .flags = KVT_NO_PREDICT | KVT_KEEP_FILE };
	struct kvt_pool *pool = conf_pool(c, &spec);
	uint32_t i;

	for (i = 0; i < blocks; i++)
		conf_fill(pool, i * KVT_BLOCK_MIN, 8, 1);
	conf_demote_all(pool);
	CONF_SYS(truncate(path, 0));
	free(path);
	return pool;
}

static int events_in_order(struct conf *c)
{
	struct kvt_pool *pool = lost_pool(c, 16);
	struct kvtier_event event;
	uint64_t last = 0;
	uint32_t i;

	CONF_EQ(readable(pool), false);
	CONF_EQ(kvt_event_read(pool, &event, 1), 0);
	for (i = 0; i < 8; i++)
		CONF_RET(kvt_promote(pool, (7 - i) * KVT_BLOCK_MIN, KVT_BLOCK_MIN), -EIO);
	CONF_EQ(readable(pool), true);
	CONF_EQ(kvt_event_read(pool, &event, 0), 0);
	for (i = 0; i < 8; i++) {
		CONF_EQ(conf_wait_event(pool, KVTIER_EVENT_BAD_BLOCK, 1000, &event), true);
		CONF_EQ(event.offset, (7 - i) * KVT_BLOCK_MIN);
		CONF_GE(event.time_ns, last);
		last = event.time_ns;
	}
	while (kvt_event_read(pool, &event, 1) == 1)
		CONF_EQ(event.type != KVTIER_EVENT_BAD_BLOCK, true);
	CONF_EQ(readable(pool), false);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

/* More than the queue holds: the newest are there, and that some are not is said. */
static int events_overflow(struct conf *c)
{
	struct kvt_pool *pool = lost_pool(c, ROOM / 4);
	struct kvtier_event *events = calloc(ROOM, sizeof(*events));
	uint32_t blocks = conf_blocks(pool), i;
	int n;

	CONF_EQ(events != NULL, true);
	for (i = 0; i < blocks; i++)
		CONF_RET(kvt_promote(pool, i * KVT_BLOCK_MIN, KVT_BLOCK_MIN), -EIO);
	n = kvt_event_read(pool, events, ROOM);
	CONF_GE(n, 2);
	if (n < (int)blocks) {
		CONF_EQ(events[0].type, KVTIER_EVENT_OVERFLOW);
		CONF_GE(n, 65);
	}
	CONF_EQ(events[n - 1].offset, (blocks - 1) * KVT_BLOCK_MIN);
	for (i = 2; i < (uint32_t)n; i++)
		CONF_GE(events[i].offset, events[i - 1].offset);
	CONF_EQ(readable(pool), false);
	CONF_EQ(kvt_event_read(pool, events, ROOM), 0);
	CONF_RET(kvt_discard(pool, 0, KVT_BLOCK_MIN), 0);
	free(events);
	kvt_pool_destroy(pool);
	return CONF_PASS;
}

const struct conf_case conf_event_cases[] = {
	CONF_CASE(events_in_order, "events come once, oldest first, and poll tells of them",
		  .needs = CONF_NEEDS_FILE),
	CONF_CASE(events_overflow, "a full queue drops the oldest and says so", .seconds = 60,
		  .needs = CONF_NEEDS_FILE),
	{ .name = NULL },
};
