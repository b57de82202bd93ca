/* SPDX-License-Identifier: MIT */
/*
 * A read that failed is no lost block yet.  Want of memory and the like passes: until the
 * deadline; what a medium says is asked for again once or twice.
 */
#ifndef KVT_RETRY_H
#define KVT_RETRY_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

#define KVT_READ_TRIES 2u
#define KVT_READ_AGAIN_NS 1000000ull /* the pause before */

/* @res: what came back instead of the block; @tries: so often it was tried again before. */
static inline bool kvt_read_may_pass(int res, uint32_t tries)
{
	return res == -EAGAIN || res == -EINTR || res == -ENOMEM || tries < KVT_READ_TRIES;
}

#endif
