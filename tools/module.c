// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/kvtier.h>

#include "module.h"

const char *module_class(void)
{
	const char *own = getenv("KVTIER_SYSFS");

	return own && *own ? own : MODULE_CLASS;
}

void module_ask(struct module *m)
{
	struct kvtier_info info = { .size = sizeof(info) };
	int fd = open(KVTIER_DEVICE, O_RDWR | O_CLOEXEC);

	*m = (struct module){ 0 };
	if (fd < 0) {
		m->error = errno == ENOENT || errno == ENXIO ? -ENODEV : -errno;
		return;
	}
	if (ioctl(fd, KVTIER_IOC_INFO, &info)) {
		m->error = -errno;
	} else {
		m->cxl_nodes = info.nodes[KVTIER_TIER_CXL];
		m->stores = info.nodes[KVTIER_TIER_NVME];
		m->store_free = info.free_bytes[KVTIER_TIER_NVME];
	}
	close(fd);
}

bool module_ready(const struct module *m)
{
	return !m->error && m->stores && module_store_on_hold(m) < 0;
}

const char *module_lack(const struct module *m, const char **mend)
{
	static char command[96];

	*mend = "";
	if (m->error == -ENODEV) {
		*mend = "modprobe kvtier";
		return "no kernel module is loaded";
	}
	if (m->error == -EACCES || m->error == -EPERM) {
		*mend = "usermod -aG kvtier \"$USER\"";
		return "the kernel module's device may not be opened";
	}
	if (m->error)
		return "the kernel module's device does not answer";
	if (!m->stores) {
		*mend = "echo /dev/disk/by-id/DISK > " MODULE_CLASS "/attach_store";
		return "the kernel module has no store: no disk is attached to it";
	}
	if (module_store_on_hold(m) >= 0) {
		snprintf(command, sizeof(command), "echo 0 > " MODULE_CLASS "/store%d/hold",
			 module_store_on_hold(m));
		*mend = command;
		return "a store of the kernel module is on hold: it is written to once what is to be "
		       "kept was adopted and its hold is lifted";
	}
	return NULL;
}

int module_store_on_hold(const struct module *m)
{
	char path[64];
	int store, ch;
	FILE *f;

	for (store = 0; store < 64; store++) {
		if (!(m->stores >> store & 1))
			continue;
		snprintf(path, sizeof(path), MODULE_CLASS "/store%d/hold", store);
		f = fopen(path, "re");
		ch = f ? fgetc(f) : EOF;
		if (f)
			fclose(f);
		if (ch == '1')
			return store;
	}
	return -1;
}
