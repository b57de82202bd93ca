// SPDX-License-Identifier: MIT
/* Where pools show themselves; shared by the library and the tools. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "stat_file.h"

int kvt_stat_dir(char *buf, size_t len)
{
	const char *own = getenv("KVTIER_RUNTIME_DIR");
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	int n;

	if (own && *own)
		n = snprintf(buf, len, "%s", own);
	else if (xdg && *xdg)
		n = snprintf(buf, len, "%s/kvtier", xdg);
	else if (geteuid() == 0)
		n = snprintf(buf, len, "/run/kvtier");
	else
		n = snprintf(buf, len, "/tmp/kvtier-%u", (unsigned int)geteuid());
	return n < 0 || (size_t)n >= len ? -ENAMETOOLONG : 0;
}
