/* SPDX-License-Identifier: MIT */
/* The kernel module: whether it can serve here, and the pools that it has. */
#ifndef KVT_MODULE_H
#define KVT_MODULE_H

#include <stdbool.h>
#include <stdint.h>

#include "pools.h"

#define MODULE_CLASS "/sys/class/kvtier"

/* MODULE_CLASS, or $KVTIER_SYSFS, which stands for it in tests. */
const char *module_class(void);

struct module {
	int error; /* of opening the device: 0, -ENODEV: no module, -EACCES, ... */
	uint64_t cxl_nodes; /* bit per NUMA node, as in struct kvtier_info */
	uint64_t stores; /* bit per store */
	uint64_t store_free; /* bytes that a new pool may have there */
};

void module_ask(struct module *m);
/* It has all that a cache in tiers needs. */
bool module_ready(const struct module *m);
/* What is missing, and in @mend the command that mends it; NULL: nothing. */
const char *module_lack(const struct module *m, const char **mend);
/* A store that waits for its administrator, or -1. */
int module_store_on_hold(const struct module *m);

/*
 * Bring the figures of kernel pools among @pools up to date and add those of others,
 * from the class folder @class (MODULE_CLASS).  0 or -ENOMEM.
 */
int module_pools(struct pools *pools, const char *class);

#endif
