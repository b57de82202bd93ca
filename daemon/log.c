// SPDX-License-Identifier: MIT
/* One line an event: event=NAME key=value ..., the journal's level in front of it. */
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "kvtierd.h"

enum log_level log_most = LOG_INFO;

static const char *level_name(enum log_level level)
{
	switch (level) {
	case LOG_ERROR:
		return "error";
	case LOG_WARNING:
		return "warning";
	case LOG_INFO:
		return "info";
	default:
		return "debug";
	}
}

void log_line(enum log_level level, const char *event, const char *fmt, ...)
{
	char line[1024];
	va_list args;
	int at = 0, n;

	if (level > log_most)
		return;
	if (getenv("JOURNAL_STREAM"))
		at = snprintf(line, sizeof(line), "<%d>", level);
	at += snprintf(line + at, sizeof(line) - (size_t)at, "level=%s event=%s ",
		       level_name(level), event);
	va_start(args, fmt);
	n = vsnprintf(line + at, sizeof(line) - (size_t)at - 1, fmt, args);
	va_end(args);
	at = n < 0 || at + n >= (int)sizeof(line) - 1 ? (int)sizeof(line) - 2 : at + n;
	line[at++] = '\n';
	/* A log that nobody reads is no reason to stop. */
	if (write(STDERR_FILENO, line, (size_t)at) < 0)
		return;
}
