// SPDX-License-Identifier: MIT
/* Events: a bounded queue from the pager thread to whoever reads it. */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "user.h"

void kvt_user_event(struct kvt_user *u, uint32_t type, uint32_t b, int error)
{
	struct kvtier_event event = {
		.time_ns = kvt_now_ns(),
		.offset = (uint64_t)b << u->pool.block_shift,
		.length = u->pool.block_bytes,
		.generation = kvt_block(u, b)->generation,
		.type = type,
		.error = error,
	};

	pthread_mutex_lock(&u->lock);
	if (u->nr_events == KVT_EVENTS) {
		u->event_first = (u->event_first + 1) % KVT_EVENTS;
		u->nr_events--;
		u->events_lost = true;
	}
	u->events[(u->event_first + u->nr_events++) % KVT_EVENTS] = event;
	eventfd_write(u->event_fd, 1);
	pthread_mutex_unlock(&u->lock);
}

int kvt_user_event_fd(struct kvt_pool *pool)
{
	return kvt_user_of(pool)->event_fd;
}

/* The descriptor stays readable exactly as long as events wait. */
int kvt_user_event_read(struct kvt_pool *pool, struct kvtier_event *events, uint32_t nr)
{
	struct kvt_user *u = kvt_user_of(pool);
	uint32_t n = 0;
	eventfd_t ignored;

	pthread_mutex_lock(&u->lock);
	if (nr && u->events_lost) {
		u->events_lost = false;
		events[n++] = (struct kvtier_event){ .time_ns = kvt_now_ns(),
						     .type = KVTIER_EVENT_OVERFLOW };
	}
	while (n < nr && u->nr_events) {
		events[n++] = u->events[u->event_first];
		u->event_first = (u->event_first + 1) % KVT_EVENTS;
		u->nr_events--;
	}
	if (!u->nr_events && !u->events_lost)
		eventfd_read(u->event_fd, &ignored);
	pthread_mutex_unlock(&u->lock);
	return (int)n;
}
