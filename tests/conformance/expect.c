// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "conf.h"

static void note_line(const char *fmt, va_list args)
{
	char line[512];

	vsnprintf(line, sizeof(line), fmt, args);
	flockfile(stdout);
	printf("# %s\n", line);
	fflush(stdout);
	funlockfile(stdout);
}

void conf_note(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	note_line(fmt, args);
	va_end(args);
}

int conf_skip(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	note_line(fmt, args);
	va_end(args);
	return CONF_SKIP;
}

/* _exit: other threads may wait in a fault, and atexit handlers for them. */
void conf_fail(const char *file, int line, const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	conf_note("%s:%d: %s", file, line, text);
	_exit(CONF_FAIL);
}

void conf_unexpected(const char *file, int line, const char *what, int64_t got, const char *words,
		     int64_t want)
{
	conf_fail(file, line, "%s: expected %s%lld, got %lld", what, words, (long long)want,
		  (long long)got);
}

void conf_ret(const char *file, int line, const char *what, int got, int want)
{
	if (got == want)
		return;
	conf_fail(file, line, "%s: expected %d (%s), got %d (%s; detail: %s)", what, want,
		  want < 0 ? strerror(-want) : "success", got, got < 0 ? strerror(-got) : "success",
		  kvt_error_detail());
}

int64_t conf_sys(const char *file, int line, const char *what, int64_t got)
{
	if (got < 0)
		conf_fail(file, line, "%s: expected success, got %s", what, strerror(errno));
	return got;
}
