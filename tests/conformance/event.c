// SPDX-License-Identifier: MIT
#include <poll.h>

#include "conf.h"

bool conf_wait_event(struct kvt_pool *pool, uint32_t type, unsigned int ms,
		     struct kvtier_event *event)
{
	struct pollfd fd = { .fd = kvt_event_fd(pool), .events = POLLIN };
	uint64_t end = conf_now_ms() + ms;
	int ret;

	for (;;) {
		while ((ret = kvt_event_read(pool, event, 1)) == 1)
			if (event->type == type)
				return true;
		CONF_RET(ret, 0);
		if (conf_now_ms() >= end)
			return false;
		CONF_SYS(poll(&fd, 1, (int)(end - conf_now_ms())));
	}
}
