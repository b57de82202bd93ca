// SPDX-License-Identifier: MIT
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "command.h"
#include "progress.h"

#define WIDTH 40
#define REDRAW_NS 100000000ull

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

void progress_begin(struct progress *p, const char *what, size_t total)
{
	*p = (struct progress){ .what = what, .total = total, .begun_ns = now_ns() };
	p->shown = isatty(STDERR_FILENO) && !json_errors && total;
}

void progress_at(struct progress *p, size_t done)
{
	static const char full[] = "########################################";
	uint64_t now;
	double seconds;
	int filled;

	if (!p->shown)
		return;
	now = now_ns();
	if (now - p->drawn_ns < REDRAW_NS && done < p->total)
		return;
	p->drawn_ns = now;
	filled = (int)(WIDTH * done / p->total);
	seconds = (double)(now - p->begun_ns) / 1e9;
	fprintf(stderr, "\r%-14.14s [%.*s%*s] %3zu%% %5.1f s", p->what, filled, full,
		WIDTH - filled, "", 100 * done / p->total, seconds);
	fflush(stderr);
}

void progress_end(struct progress *p)
{
	if (p->shown && p->drawn_ns)
		fprintf(stderr, "\r%78s\r", "");
	p->shown = false;
}
