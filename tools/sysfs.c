// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "module.h"
#include "size.h"
#include "sysfs.h"

/* What may be set, and what it looks like (Documentation/ABI has their meaning). */
enum kind { SIZE, PERCENT, NODES, NUMBER, FLAG };

static const struct setting {
	const char *folder; /* a trailing # stands for a number */
	const char *file;
	enum kind kind;
	const char *most; /* file with the largest value; NULL: none */
} settings[] = {
	{ "dram", "nodes", NODES, NULL },
	{ "cxl", "nodes", NODES, NULL },
	{ "dram", "limit_bytes", SIZE, "capacity_bytes" },
	{ "cxl", "limit_bytes", SIZE, "capacity_bytes" },
	{ "dram", "watermark_low", PERCENT, "watermark_high" },
	{ "cxl", "watermark_low", PERCENT, "watermark_high" },
	{ "dram", "watermark_high", PERCENT, NULL },
	{ "cxl", "watermark_high", PERCENT, NULL },
	{ "store#", "hold", FLAG, NULL },
	{ "policy", "dma_threshold", SIZE, NULL },
	{ "policy", "dma_timeout_ms", NUMBER, NULL },
	{ "policy", "scan_period_ms", NUMBER, NULL },
	{ "policy", "writeback_rate", SIZE, NULL },
	{ "policy", "writeback_depth", NUMBER, NULL },
	{ "policy", "min_deadline_ms", NUMBER, NULL },
	{ "policy", "max_deadline_ms", NUMBER, NULL },
	{ "policy", "max_reserved_percent", PERCENT, NULL },
	{ "policy", "max_keys", NUMBER, NULL },
	{ "policy", "max_pools", NUMBER, NULL },
};

static const char *const looks[] = {
	[SIZE] = "a size such as 0, 512M or 8G",
	[PERCENT] = "a whole number from 0 to 100",
	[NODES] = "a list of NUMA nodes such as 0,2-3",
	[NUMBER] = "a whole number",
	[FLAG] = "0 or 1",
};

static int path_of(char *path, size_t len, const char *folder, const char *file)
{
	return snprintf(path, len, "%s/%s/%s", module_class(), folder, file) < (int)len ? 0 : -1;
}

bool sysfs_read(const char *folder, const char *file, char *value, size_t len)
{
	char path[512];
	FILE *f;
	bool good;

	if (path_of(path, sizeof(path), folder, file))
		return false;
	f = fopen(path, "re");
	if (!f)
		return false;
	good = fgets(value, (int)len, f) || (value[0] = '\0', feof(f));
	fclose(f);
	value[strcspn(value, "\n")] = '\0';
	return good;
}

cJSON *sysfs_folder(const char *folder)
{
	char path[512], value[4096], *end;
	struct dirent **names;
	cJSON *o;
	int nr, i;

	if (path_of(path, sizeof(path), folder, ""))
		return NULL;
	nr = scandir(path, &names, NULL, versionsort);
	if (nr < 0)
		return NULL;
	o = cJSON_CreateObject();
	for (i = 0; i < nr; i++) {
		if (names[i]->d_type == DT_REG && strcmp(names[i]->d_name, "uevent") &&
		    strcmp(names[i]->d_name, "keys") && /* of reservations: secrets */
		    sysfs_read(folder, names[i]->d_name, value, sizeof(value))) {
			double number = strtod(value, &end);

			if (*value && !*end && strspn(value, "0123456789") == strlen(value))
				cJSON_AddNumberToObject(o, names[i]->d_name, number);
			else
				cJSON_AddStringToObject(o, names[i]->d_name, value);
		}
		free(names[i]);
	}
	free(names);
	return o;
}

/* ---- setting ------------------------------------------------------------------- */

static bool is_folder(const char *pattern, const char *folder)
{
	size_t n = strcspn(pattern, "#");

	if (!pattern[n])
		return !strcmp(pattern, folder);
	return !strncmp(pattern, folder, n) && folder[n] &&
	       strspn(folder + n, "0123456789") == strlen(folder + n);
}

static const struct setting *find(const char *folder, const char *file)
{
	size_t i;

	for (i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
		if (is_folder(settings[i].folder, folder) && !strcmp(settings[i].file, file))
			return &settings[i];
	return NULL;
}

static int unknown(const char *folder, const char *file)
{
	char names[512] = "";
	size_t i, n = 0;

	for (i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
		if (is_folder(settings[i].folder, folder))
			n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s", n ? ", " : "",
					      settings[i].file);
	if (!n)
		return fail(EXIT_USAGE, "there is nothing called '%s': dram, cxl, storeN or policy",
			    folder);
	return fail(EXIT_USAGE, "%s has nothing called '%s' that can be set: %s", folder, file,
		    names);
}

static bool is_number(const char *text)
{
	return *text && strlen(text) <= 19 && strspn(text, "0123456789") == strlen(text);
}

static bool is_list(const char *text)
{
	return isdigit((unsigned char)*text) && strspn(text, "0123456789,-") == strlen(text) &&
	       isdigit((unsigned char)text[strlen(text) - 1]);
}

/* The value as the module takes it, in @plain; false: it does not look like one. */
static bool plain_value(enum kind kind, const char *value, char *plain, size_t len)
{
	uint64_t bytes;

	if (kind == SIZE && strcmp(value, "0")) {
		if (size_parse(value, &bytes))
			return false;
		snprintf(plain, len, "%llu", (unsigned long long)bytes);
		return true;
	}
	snprintf(plain, len, "%s", value);
	if (kind == NODES)
		return is_list(value);
	if (kind == FLAG)
		return !strcmp(value, "0") || !strcmp(value, "1");
	return is_number(value) && (kind != PERCENT || strtoul(value, NULL, 10) <= 100);
}

static int check_most(const struct setting *s, const char *folder, const char *value,
		      const char *plain)
{
	char most[64];

	if (!s->most || !sysfs_read(folder, s->most, most, sizeof(most)) ||
	    strtoull(plain, NULL, 10) <= strtoull(most, NULL, 10))
		return 0;
	return fail(1, "%s %s: '%s' is more than %s, which is %s", folder, s->file, value, s->most,
		    most);
}

static int refused(const char *folder, const char *file, const char *value, int error)
{
	if (error == EACCES || error == EPERM)
		return fail(1, "%s %s: only root may set it", folder, file);
	if (error == EBUSY)
		return fail(1, "%s %s: something there is pinned, held or has no other room",
			    folder, file);
	return fail(1, "%s %s: the module refuses '%s': %s", folder, file, value, strerror(error));
}

static int write_value(const char *folder, const char *file, const char *value, const char *plain)
{
	char path[512];
	ssize_t n;
	int fd, error;

	if (path_of(path, sizeof(path), folder, file))
		return fail(1, "the path of %s is too long", folder);
	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return fail(1, "there is no %s: the kernel module is not loaded, or has no %s",
			    path, folder);
	if (fd < 0)
		return refused(folder, file, value, errno);
	n = write(fd, plain, strlen(plain));
	error = errno;
	close(fd);
	return n == (ssize_t)strlen(plain) ? 0 : refused(folder, file, value, n < 0 ? error : EIO);
}

int sysfs_set(const char *folder, const char *file, const char *value)
{
	const struct setting *s = find(folder, file);
	char plain[512];
	int ret;

	if (!s)
		return unknown(folder, file);
	if (!plain_value(s->kind, value, plain, sizeof(plain)))
		return fail(EXIT_USAGE, "%s %s: '%s' is not %s", folder, file, value,
			    looks[s->kind]);
	ret = check_most(s, folder, value, plain);
	return ret ?: write_value(folder, file, value, plain);
}
