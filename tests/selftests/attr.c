// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attr.h"

int attr_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

int attr_writef(const char *path, const char *fmt, ...)
{
	char text[KVT_TEXT];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	return attr_write(path, text);
}

int attr_read(const char *path, char text[KVT_TEXT])
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	text[0] = '\0';
	if (fd < 0)
		return -errno;
	n = read(fd, text, KVT_TEXT - 1);
	if (n < 0)
		n = -errno;
	close(fd);
	if (n < 0)
		return (int)n;
	text[n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return 0;
}

long long attr_number(const char *path)
{
	char text[KVT_TEXT];

	return attr_read(path, text) ? -1 : strtoll(text, NULL, 10);
}

bool disk_by_serial(const char *serial, char path[KVT_TEXT])
{
	char text[KVT_TEXT];
	bool found = false;
	glob_t disks;
	size_t i;

	if (glob("/sys/block/nvme*n*/device/serial", 0, NULL, &disks))
		return false;
	for (i = 0; i < disks.gl_pathc && !found; i++) {
		if (attr_read(disks.gl_pathv[i], text))
			continue;
		text[strcspn(text, " ")] = '\0';
		if (strcmp(text, serial))
			continue;
		/* "/sys/block/" NAME "/device/serial" */
		snprintf(path, KVT_TEXT, "/dev/%.*s",
			 (int)(strlen(disks.gl_pathv[i]) - strlen("/sys/block//device/serial")),
			 disks.gl_pathv[i] + strlen("/sys/block/"));
		found = !access(path, F_OK); /* a path of a multipath disk has no device */
	}
	globfree(&disks);
	return found;
}

bool spare_disk(char path[KVT_TEXT])
{
	int fd;

	if (!disk_by_serial("kv1", path))
		return false;
	fd = open(path, O_RDWR | O_EXCL | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

bool store_of(const char *device, char path[KVT_TEXT])
{
	char text[KVT_TEXT], file[2 * KVT_TEXT];
	bool found = false;
	glob_t stores;
	size_t i;

	if (glob(KVT_CLASS "store[0-9]*", 0, NULL, &stores))
		return false;
	for (i = 0; i < stores.gl_pathc && !found; i++) {
		snprintf(file, sizeof(file), "%s/devices", stores.gl_pathv[i]);
		found = !attr_read(file, text) && !strcmp(text, device);
		if (found)
			snprintf(path, KVT_TEXT, "%s", stores.gl_pathv[i]);
	}
	globfree(&stores);
	return found;
}

long long store_attr(const char *path, const char *name)
{
	char file[2 * KVT_TEXT];

	snprintf(file, sizeof(file), "%s/%s", path, name);
	return attr_number(file);
}

int store_write(const char *path, const char *name, const char *text)
{
	char file[2 * KVT_TEXT];

	snprintf(file, sizeof(file), "%s/%s", path, name);
	return attr_write(file, text);
}

int store_attach(const char *device, char path[KVT_TEXT])
{
	int ret = attr_write(KVT_CLASS "attach_store", device);
	char real[4096];

	if (ret)
		return ret;
	if (!realpath(device, real))
		return -errno;
	return store_of(strrchr(real, '/') + 1, path) ? 0 : -ENOENT;
}

int store_detach(const char *path)
{
	return store_write(path, "detach", "1");
}

int store_up(const char *device, char path[KVT_TEXT])
{
	int ret = attr_writef(KVT_CLASS "format_store", "%s force", device);

	return ret ? ret : store_attach(device, path);
}

int store_down(const char *path)
{
	store_write(path, "hold", "0");
	return store_detach(path);
}

bool store_settled(const char *path)
{
	int tries = 1200;

	while (store_attr(path, "stalled") != 0 && tries--)
		usleep(50000);
	return store_attr(path, "stalled") == 0;
}

int store_number(const char *path)
{
	return atoi(path + strlen(KVT_CLASS "store"));
}
