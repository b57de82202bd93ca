// SPDX-License-Identifier: MIT
#include <stdio.h>

#include "device_fd.h"

int kvt_device_pool(uint32_t pid, int fd)
{
	char path[64], line[128];
	int id = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%u/fdinfo/%d", pid, fd);
	f = fopen(path, "re");
	if (!f)
		return -1;
	while (id < 0 && fgets(line, sizeof(line), f))
		if (sscanf(line, "kvtier-pool: %d", &id) != 1)
			id = -1;
	fclose(f);
	return id;
}
