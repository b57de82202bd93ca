// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "settings.h"

static struct kvt_settings settings;
static int present;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint64_t number(const char *name)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : 0;
}

static void read_environment(void)
{
	const char *cxl = getenv("KVTIER_CXL"), *pager = getenv("KVTIER_PAGER");
	char *colon = NULL;

	settings.kernel = pager && !strcmp(pager, "kernel");
	settings.dram_bytes = number("KVTIER_DRAM");
	settings.cxl_node = cxl ? (int)strtol(cxl, &colon, 10) : -1;
	if (cxl && colon && *colon == ':')
		settings.cxl_bytes = strtoull(colon + 1, NULL, 10);
	settings.nvme_path = getenv("KVTIER_NVME");
	settings.nvme_bytes = number("KVTIER_NVME_BYTES");
	settings.block_bytes = number("KVTIER_BLOCK");
	settings.session = getenv("KVTIER_SESSION");
	present = settings.dram_bytes != 0;
}

const struct kvt_settings *kvt_settings(void)
{
	pthread_once(&once, read_environment);
	return present ? &settings : NULL;
}

static void append(const char *line, size_t len, bool first_only)
{
	int fd = open(settings.session, O_WRONLY | O_APPEND | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return;
	if (first_only && (fstat(fd, &st) || st.st_size))
		len = 0;
	if (len && write(fd, line, len) < 0)
		fprintf(stderr, "kvtier: cannot write to %s\n", settings.session);
	close(fd);
}

void kvt_tell(const char *fmt, ...)
{
	char line[128];
	va_list args;
	int n;

	if (!kvt_settings() || !settings.session)
		return;
	va_start(args, fmt);
	n = vsnprintf(line, sizeof(line) - 1, fmt, args);
	va_end(args);
	if (n < 0 || n > (int)sizeof(line) - 2)
		return;
	line[n++] = '\n';
	append(line, (size_t)n, false);
}

void kvt_refuse(const char *fmt, ...)
{
	char line[640];
	va_list args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	fprintf(stderr, "kvtier: %s\n", line);
	kvt_tell("refused %d", (int)getpid());
}

/* One such line is enough, however many processes a script starts. */
__attribute__((constructor)) static void tell_loaded(void)
{
	char line[32];

	if (!kvt_settings() || !settings.session)
		return;
	snprintf(line, sizeof(line), "loaded %d\n", (int)getpid());
	append(line, strlen(line), true);
}
