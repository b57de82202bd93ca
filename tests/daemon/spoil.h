/* SPDX-License-Identifier: MIT */
/* What transfers of the daemon's are to come back with. */
#ifndef DAEMON_SPOIL_H
#define DAEMON_SPOIL_H

#define SPOIL_BLOCK 65536 /* bytes of a transfer that is meant */

struct spoil {
	volatile int failures; /* so many of them fail ... */
	volatile int error; /* ... like this; positive: so many bytes came */
	volatile int polls; /* so many that are begun end at once, for want of memory */
};

#endif
