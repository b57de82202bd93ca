// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pools.h"
#include "trace_events.h"

#define INSTANCE "kvtier-"
#define EVENT "events/kvtier/kvtier_fault"
#define MARK ": kvtier_fault: "

static const char *tracing(void)
{
	static const char *const places[] = { "/sys/kernel/tracing", "/sys/kernel/debug/tracing" };

	return access("/sys/kernel/tracing/instances", F_OK) ? places[1] : places[0];
}

static int set(const struct trace_events *e, const char *file, const char *value)
{
	char path[256];
	int fd, ret;

	snprintf(path, sizeof(path), "%s/%s", e->dir, file);
	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret = write(fd, value, strlen(value)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

static void remove_stale(const char *instances)
{
	DIR *dir = opendir(instances);
	struct dirent *e;
	char path[512];

	while (dir && (e = readdir(dir))) {
		if (strncmp(e->d_name, INSTANCE, strlen(INSTANCE)) ||
		    process_alive((uint32_t)strtoul(e->d_name + strlen(INSTANCE), NULL, 10)))
			continue;
		if (snprintf(path, sizeof(path), "%s/%s", instances, e->d_name) < (int)sizeof(path))
			rmdir(path);
	}
	if (dir)
		closedir(dir);
}

/* One event of one pool, with the clock of clock_gettime(); 512 KiB a CPU. */
static int set_up(struct trace_events *e)
{
	char filter[32], path[256];
	int ret;

	snprintf(filter, sizeof(filter), "pool==%d", e->pool);
	ret = set(e, "trace_clock", "mono") ?: set(e, "buffer_size_kb", "512") ?:
	      set(e, EVENT "/filter", filter) ?: set(e, EVENT "/enable", "1");
	if (ret)
		return ret;
	snprintf(path, sizeof(path), "%s/trace_pipe", e->dir);
	e->pipe = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	return e->pipe < 0 ? -errno : 0;
}

static const char *lack(int error)
{
	if (error == -EACCES || error == -EPERM)
		return "tracing is root's: record as root";
	if (error == -ENOENT)
		return "this kernel has no trace events, or tracefs is not mounted: run "
		       "`mount -t tracefs tracefs /sys/kernel/tracing`";
	return strerror(-error);
}

int trace_events_open(struct trace_events *e, int pool, char *why, size_t room)
{
	char instances[96];
	int ret;

	*e = (struct trace_events){ .pool = pool, .pipe = -1 };
	snprintf(instances, sizeof(instances), "%s/instances", tracing());
	snprintf(e->dir, sizeof(e->dir), "%s/" INSTANCE "%d", instances, (int)getpid());
	remove_stale(instances);
	ret = mkdir(e->dir, 0700) ? -errno : set_up(e);
	if (!ret)
		return 0;
	snprintf(why, room, "the module's trace events cannot be had: %s", lack(ret));
	trace_events_close(e);
	return -1;
}

void trace_events_stop(struct trace_events *e)
{
	set(e, EVENT "/enable", "0");
}

/* More text behind what is left of it; false: there is none now. */
static bool read_more(struct trace_events *e)
{
	ssize_t n;

	memmove(e->text, e->text + e->at, e->nr - e->at);
	e->nr -= e->at;
	e->at = 0;
	if (e->nr == sizeof(e->text) - 1)
		e->nr = 0; /* not a line */
	n = read(e->pipe, e->text + e->nr, sizeof(e->text) - 1 - e->nr);
	if (n <= 0)
		return false;
	e->nr += (size_t)n;
	return true;
}

/* The mark's last appearance: a program may be called anything. */
static const char *last_mark(const char *line)
{
	const char *found = NULL, *next = line;

	while ((next = strstr(next, MARK)))
		found = next++;
	return found;
}

/* "  PROGRAM-123  [001] d..1.  1234.567890: kvtier_fault: pool=3 block=17 kind=hard" */
static bool parse(struct trace_events *e, const char *line, struct trace_event *event)
{
	const char *mark = last_mark(line), *clock = mark;
	unsigned long long seconds, us, block, lost;
	char kind[8];
	unsigned int pool;

	if (sscanf(line, "CPU:%*u [LOST %llu EVENTS]", &lost) == 1)
		e->lost += lost;
	while (clock && clock > line && clock[-1] != ' ')
		clock--;
	if (!mark || sscanf(clock, "%llu.%6llu", &seconds, &us) != 2 ||
	    sscanf(mark + strlen(MARK), "pool=%u block=%llu kind=%7s", &pool, &block, kind) != 3)
		return false;
	*event = (struct trace_event){ .ns = seconds * 1000000000 + us * 1000,
				       .block = block,
				       .missed = !strcmp(kind, "hard") || !strcmp(kind, "late") };
	return (int)pool == e->pool;
}

bool trace_events_take(struct trace_events *e, struct trace_event *event)
{
	char *line, *end;

	while (1) {
		line = e->text + e->at;
		end = memchr(line, '\n', e->nr - e->at);
		if (!end) {
			if (!read_more(e))
				return false;
			continue;
		}
		*end = '\0';
		e->at = (size_t)(end + 1 - e->text);
		if (parse(e, line, event))
			return true;
	}
}

void trace_events_close(struct trace_events *e)
{
	if (e->pipe >= 0)
		close(e->pipe);
	e->pipe = -1;
	if (e->dir[0])
		rmdir(e->dir);
	e->dir[0] = '\0';
}
