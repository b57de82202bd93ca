// SPDX-License-Identifier: MIT
#include <errno.h>

#include "error.h"
#include "fetch.h"
#include "pool.h"

/*
 * Reads under way that keep a fast device busy, with a little in readers' hands: no more, since
 * frames that are used again while they are still in the CPU's cache are read into faster.
 */
#define WINDOW_BYTES_LEAST (10u << 20)
#define WINDOW_BYTES_MOST (16u << 20)
#define WINDOW_MIN 2

static uint32_t window_of(uint32_t bytes, uint32_t frames, uint32_t block_bytes)
{
	uint32_t window = bytes / block_bytes;

	if (window > frames / 4)
		window = frames / 4;
	if (window > KVT_FETCH_WINDOW_MAX)
		window = KVT_FETCH_WINDOW_MAX;
	return window < WINDOW_MIN ? WINDOW_MIN : window;
}

uint32_t kvt_fetch_window_least(uint32_t frames, uint32_t block_bytes)
{
	return window_of(WINDOW_BYTES_LEAST, frames, block_bytes);
}

uint32_t kvt_fetch_window_most(uint32_t frames, uint32_t block_bytes)
{
	return window_of(WINDOW_BYTES_MOST, frames, block_bytes);
}

int kvt_fetch_open(struct kvt_pool *pool, uint32_t window, struct kvt_fetch **fetch)
{
	if (window > KVT_FETCH_WINDOW_MAX)
		return kvt_fail(-EINVAL, "a window of %u blocks: at most %u", window,
				KVT_FETCH_WINDOW_MAX);
	if (!pool->ops->fetch_open)
		return kvt_fail(-EOPNOTSUPP,
				"a pool of kvtierd is not streamed here: use kvt_attend(), or "
				"have the daemon compute by kvt_shared_attend()");
	return pool->ops->fetch_open(pool, window, fetch);
}

void kvt_fetch_close(struct kvt_fetch *f)
{
	if (f)
		f->ops->close(f);
}
