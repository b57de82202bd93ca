// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "conf.h"

/* Value of a line "NAME: VALUE" in /proc/self/status. */
static uint64_t status_value(const char *name)
{
	unsigned long long value = 0;
	size_t len = strlen(name);
	bool found = false;
	char line[256];
	FILE *f = fopen("/proc/self/status", "re");

	CONF_EQ(f != NULL, true);
	while (!found && fgets(line, sizeof(line), f))
		found = !strncmp(line, name, len) && line[len] == ':' &&
			sscanf(line + len + 1, "%llu", &value) == 1;
	fclose(f);
	CONF_EQ(found, true);
	return value;
}

/*
 * The memory counters of the whole process, not the sum over its mappings: a
 * frame that moves from one mapping to another while smaps is being read would
 * be counted twice.  The kernel pager's frames are counted as a file's.
 */
uint64_t conf_rss_bytes(void)
{
	return KIB(status_value("RssAnon") + status_value("RssShmem") + status_value("RssFile"));
}

unsigned int conf_thread_count(void)
{
	return (unsigned int)status_value("Threads");
}

/* Faults of the calling thread. */
uint64_t conf_fault_count(void)
{
	struct rusage usage;

	CONF_SYS(getrusage(RUSAGE_THREAD, &usage));
	return (uint64_t)(usage.ru_minflt + usage.ru_majflt);
}

unsigned int conf_file_count(const char *dir)
{
	unsigned int count = 0;
	struct dirent *entry;
	DIR *d = opendir(dir);

	CONF_EQ(d != NULL, true);
	while ((entry = readdir(d)))
		count += entry->d_name[0] != '.';
	closedir(d);
	return count;
}

unsigned int conf_fd_count(void)
{
	return conf_file_count("/proc/self/fd");
}

unsigned int conf_vma_count(void)
{
	unsigned int lines = 0;
	FILE *f = fopen("/proc/self/maps", "re");
	int ch;

	CONF_EQ(f != NULL, true);
	while ((ch = fgetc(f)) != EOF)
		lines += ch == '\n';
	fclose(f);
	return lines;
}

uint64_t conf_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}
