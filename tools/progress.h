/* SPDX-License-Identifier: MIT */
/* A bar on standard error while something takes long; silent where that is no terminal. */
#ifndef KVT_PROGRESS_H
#define KVT_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct progress {
	const char *what;
	size_t total;
	uint64_t begun_ns, drawn_ns;
	bool shown;
};

void progress_begin(struct progress *p, const char *what, size_t total);
void progress_at(struct progress *p, size_t done);
void progress_end(struct progress *p);

#endif
