// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "error.h"
#include "kvtier.h"

static __thread char detail[512];

int kvt_fail(int error, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(detail, sizeof(detail), fmt, args);
	va_end(args);
	return error;
}

const char *kvt_error_detail(void)
{
	return detail;
}

static const struct {
	int error;
	const char *text;
} sentences[] = {
	{ EINVAL, "an argument is out of range or not aligned to a block" },
	{ ENOSPC, "the budgets of the tiers cannot hold this" },
	{ EBUSY, "a block is pinned, moving or not yet sealed" },
	{ EIO, "content could not be read or written, or was lost before" },
	{ ETIMEDOUT, "an I/O or a wait for space passed its deadline" },
	{ EOPNOTSUPP, "this pager cannot do that" },
	{ EXDEV, "source and target are different pools" },
	{ EPERM, "the kernel forbids userfaultfd or io_uring to this process" },
	{ ENOSYS, "the kernel is too old" },
	{ ENODEV, "no such NUMA node or device" },
	{ EEXIST, "a target block is not empty" },
	{ ECHILD, "the pool belongs to the parent process" },
	{ ENODATA, "a block is empty where content is needed" },
	{ ECANCELED, "the pool went away before the work was done" },
	{ EDOM, "numbers would change, and nobody allowed that" },
};

const char *kvt_strerror(int error)
{
	size_t i;

	if (error >= 0)
		return "success";
	for (i = 0; i < sizeof(sentences) / sizeof(sentences[0]); i++)
		if (sentences[i].error == -error)
			return sentences[i].text;
	return strerror(-error);
}

const char *kvt_version(void)
{
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
	return TEXT(KVT_VERSION_MAJOR) "." TEXT(KVT_VERSION_MINOR) ".0";
}
