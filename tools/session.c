// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "command.h"
#include "pools.h"
#include "session.h"

#define SETTLE_MS 2000
#define SETTLE_STEP_MS 20

static int cannot_write(const char *path, int error)
{
	return fail(EXIT_OWN, "--stats: cannot write %s: %s", path, strerror(error));
}

int session_check_stats(const char *path)
{
	char dir[4096], *slash;
	struct stat st;

	if (!stat(path, &st)) {
		if (S_ISDIR(st.st_mode))
			return cannot_write(path, EISDIR);
		if (access(path, W_OK))
			return cannot_write(path, errno);
		if (!S_ISREG(st.st_mode))
			return 0;
	}
	if (snprintf(dir, sizeof(dir), "%s", path) >= (int)sizeof(dir))
		return cannot_write(path, ENAMETOOLONG);
	slash = strrchr(dir, '/');
	if (slash)
		slash[slash == dir] = '\0';
	return access(slash ? dir : ".", W_OK | X_OK) ? cannot_write(path, errno) : 0;
}

int session_begin(struct session *s)
{
	struct timespec now;
	char dir[256];
	int fd, folder;

	memset(s, 0, sizeof(*s));
	clock_gettime(CLOCK_MONOTONIC, &now);
	s->begun_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	folder = kvt_stat_dir_make(dir, sizeof(dir));
	if (folder == -ENAMETOOLONG)
		return fail(EXIT_OWN, "the path of the runtime directory is too long");
	if (folder == -EPERM)
		return fail(EXIT_OWN,
			    "%s belongs to somebody else, or anybody may write there; set "
			    "KVTIER_RUNTIME_DIR to a directory of your own",
			    dir);
	if (folder < 0)
		return fail(EXIT_OWN,
			    "cannot make %s: %s; set KVTIER_RUNTIME_DIR to a directory of "
			    "your own",
			    dir, strerror(-folder));
	close(folder);
	snprintf(s->path, sizeof(s->path), "%s/" SESSION_PREFIX "%d-XXXXXX", dir, (int)getpid());
	fd = mkostemp(s->path, O_CLOEXEC);
	if (fd < 0)
		return fail(EXIT_OWN,
			    "cannot make a file in %s: %s; set KVTIER_RUNTIME_DIR to a "
			    "directory of your own",
			    dir, strerror(errno));
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

static cJSON *plain_json(uint32_t pid, unsigned long long bytes)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddNumberToObject(o, "pid", pid);
	cJSON_AddBoolToObject(o, "tiered", false);
	cJSON_AddNumberToObject(o, "bytes", (double)bytes);
	return o;
}

/* The shim's lines are "WORD PID [BYTES]"; see tools/preload/. */
static void read_line(struct session *s, const char *line, cJSON *array)
{
	const struct {
		const char *word;
		uint32_t *count;
	} words[] = {
		{ "loaded", &s->loaded },
		{ "ggml", &s->engines },
		{ "pool", &s->pools },
		{ "plain", &s->plain },
		{ "elsewhere", &s->elsewhere },
		{ "refused", &s->refused },
	};
	unsigned long long bytes = 0;
	unsigned int pid = 0;
	char word[16];
	size_t i;

	if (sscanf(line, "%15s %u %llu", word, &pid, &bytes) < 2)
		return;
	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (!strcmp(word, words[i].word))
			++*words[i].count;
	if (!strcmp(word, "pool"))
		add_pid(s, pid);
	if (!strcmp(word, "plain"))
		cJSON_AddItemToArray(array, plain_json(pid, bytes));
}

static void read_lines(struct session *s, cJSON *array)
{
	char line[512];
	FILE *f = fopen(s->path, "re");

	while (f && fgets(line, sizeof(line), f))
		read_line(s, line, array);
	if (f)
		fclose(f);
}

/* An earlier process may have had the same number. */
static bool ours(const struct kvt_stat_file *pool, void *arg)
{
	const struct session *s = arg;
	uint32_t i;

	for (i = 0; i < s->nr_pids; i++)
		if (s->pids[i] == pool->pid && pool->created_ns >= s->begun_ns)
			return true;
	return false;
}

/* A new file beside the one it will replace, under a name that nobody can have taken before. */
static FILE *open_beside(char *temp, mode_t mode)
{
	int fd = mkostemp(temp, O_CLOEXEC);
	FILE *f = fd < 0 || fchmod(fd, mode) ? NULL : fdopen(fd, "w");

	if (!f && fd >= 0) {
		unlink(temp);
		close(fd);
	}
	return f;
}

/* As it was, or as any new file. */
static mode_t mode_of(const struct stat *st, bool there)
{
	mode_t mask = umask(0);

	umask(mask);
	return there ? st->st_mode & 0777 : 0666 & ~mask;
}

/* A file is replaced whole; a device, pipe or terminal is written to. */
static int write_text(const char *path, const char *text)
{
	bool replace, there;
	struct stat st;
	char temp[4200];
	int ret = 0;
	FILE *f;

	there = !stat(path, &st);
	replace = !there || S_ISREG(st.st_mode);
	snprintf(temp, sizeof(temp), replace ? "%s.XXXXXX" : "%s", path);
	f = replace ? open_beside(temp, mode_of(&st, there)) : fopen(temp, "we");
	if (!f)
		return cannot_write(path, errno);
	if (fprintf(f, "%s\n", text) < 0)
		ret = errno;
	if (fclose(f) && !ret)
		ret = errno;
	if (replace && !ret && rename(temp, path))
		ret = errno;
	if (!ret)
		return 0;
	if (replace)
		unlink(temp);
	return cannot_write(path, ret);
}

static int write_json(const char *path, const struct pools *pools, cJSON *array)
{
	char *text, *target;
	size_t i;
	int ret;

	for (i = 0; i < pools->nr; i++)
		cJSON_AddItemToArray(array, pool_json(&pools->pool[i]));
	text = cJSON_Print(array);
	if (!text)
		return cannot_write(path, ENOMEM);
	target = realpath(path, NULL); /* what a link leads to, not the link */
	ret = write_text(target ? target : path, text);
	free(target);
	cJSON_free(text);
	return ret;
}

static bool any_alive(const struct session *s)
{
	uint32_t i;

	for (i = 0; i < s->nr_pids; i++)
		if (process_alive(s->pids[i]))
			return true;
	return false;
}

/* COMMAND may have killed its engine and itself: an engine takes a while to be gone. */
static void settle(const struct session *s)
{
	int i;

	for (i = 0; i < SETTLE_MS / SETTLE_STEP_MS && any_alive(s); i++)
		usleep(SETTLE_STEP_MS * 1000);
}

int session_end(struct session *s, const char *stats_path, bool killed)
{
	cJSON *array = cJSON_CreateArray();
	struct pools pools;
	size_t i;
	int ret = 0;

	read_lines(s, array);
	if (killed)
		settle(s);
	unlink(s->path);
	if (pools_read(&pools, ours, s))
		memset(&pools, 0, sizeof(pools));
	for (i = 0; i < pools.nr; i++)
		if (pools.pool[i].last_error[0])
			snprintf(s->last_error, sizeof(s->last_error), "%s",
				 pools.pool[i].last_error);
	if (stats_path)
		ret = write_json(stats_path, &pools, array);
	for (i = 0; i < pools.nr; i++)
		if (!pool_alive(&pools.pool[i]))
			unlink(pools.path[i]);
	pools_free(&pools);
	cJSON_Delete(array);
	free(s->pids);
	s->pids = NULL;
	return ret;
}
