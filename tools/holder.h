/* SPDX-License-Identifier: MIT */
/* Who has a pool of the module open. */
#ifndef KVT_HOLDER_H
#define KVT_HOLDER_H

#include <stddef.h>
#include <stdint.h>

/*
 * A descriptor of pool @id, borrowed from a process that has it open (pidfd_getfd, which
 * needs the right to trace that process); @likely is looked at first, 0: nobody.  -1, and
 * in @why what is wrong.
 */
int holder_borrow(int id, uint32_t likely, char *why, size_t room);

#endif
