// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "command.h"
#include "pools.h"
#include "session.h"

int session_begin(struct session *s)
{
	char dir[256];
	int fd;

	memset(s, 0, sizeof(*s));
	if (kvt_stat_dir(dir, sizeof(dir)))
		return fail(EXIT_OWN, "the path of the runtime directory is too long");
	if (mkdir(dir, 0700) && errno != EEXIST)
		return fail(EXIT_OWN, "cannot make %s: %s; set KVTIER_RUNTIME_DIR to a directory of "
				      "your own", dir, strerror(errno));
	snprintf(s->path, sizeof(s->path), "%s/run-XXXXXX", dir);
	fd = mkostemp(s->path, O_CLOEXEC);
	if (fd < 0)
		return fail(EXIT_OWN, "cannot make a file in %s: %s; set KVTIER_RUNTIME_DIR to a "
				      "directory of your own", dir, strerror(errno));
	close(fd);
	return 0;
}

static void add_pid(struct session *s, uint32_t pid)
{
	uint32_t i, *grown;

	for (i = 0; i < s->nr_pids; i++)
		if (s->pids[i] == pid)
			return;
	grown = realloc(s->pids, (s->nr_pids + 1) * sizeof(*grown));
	if (!grown)
		return;
	s->pids = grown;
	s->pids[s->nr_pids++] = pid;
}

static void read_lines(struct session *s)
{
	char line[512];
	unsigned int pid;
	FILE *f = fopen(s->path, "re");

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "pool %u", &pid) == 1) {
			add_pid(s, pid);
			s->pools++;
		} else if (!strncmp(line, "plain ", 6)) {
			s->plain++;
		} else if (!strncmp(line, "refused", 7)) {
			s->refused++;
		}
	}
	if (f)
		fclose(f);
}

/* Ours, and finished: a process left in the background keeps its own. */
static bool ours(const struct kvt_stat_file *pool, void *arg)
{
	const struct session *s = arg;
	uint32_t i;

	for (i = 0; i < s->nr_pids; i++)
		if (s->pids[i] == pool->pid)
			return true;
	return false;
}

static int write_json(const char *path, const struct pools *pools)
{
	cJSON *array = cJSON_CreateArray();
	char temp[4200], *text;
	size_t i;
	FILE *f;
	int ret = 0;

	for (i = 0; i < pools->nr; i++)
		cJSON_AddItemToArray(array, pool_json(&pools->pool[i]));
	text = cJSON_Print(array);
	cJSON_Delete(array);
	snprintf(temp, sizeof(temp), "%s.tmp%d", path, getpid());
	f = text ? fopen(temp, "we") : NULL;
	if (!f || fprintf(f, "%s\n", text) < 0)
		ret = -1;
	if (f && fclose(f))
		ret = -1;
	if (!ret && rename(temp, path))
		ret = -1;
	if (ret) {
		ret = fail(EXIT_OWN, "--stats: cannot write %s: %s", path, strerror(errno));
		unlink(temp);
	}
	cJSON_free(text);
	return ret;
}

int session_end(struct session *s, const char *stats_path)
{
	struct pools pools;
	size_t i;
	int ret = 0;

	read_lines(s);
	if (pools_read(&pools, ours, s))
		memset(&pools, 0, sizeof(pools));
	for (i = 0; i < pools.nr; i++)
		if (pools.pool[i].last_error[0])
			snprintf(s->last_error, sizeof(s->last_error), "%s", pools.pool[i].last_error);
	if (stats_path)
		ret = write_json(stats_path, &pools);
	for (i = 0; i < pools.nr; i++)
		if (!pool_alive(&pools.pool[i]))
			unlink(pools.path[i]);
	pools_free(&pools);
	unlink(s->path);
	free(s->pids);
	s->pids = NULL;
	return ret;
}
