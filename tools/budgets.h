/* SPDX-License-Identifier: MIT */
/* The options of `kvtier run` that say how much memory of each tier to use. */
#ifndef KVT_BUDGETS_H
#define KVT_BUDGETS_H

#include <stdint.h>

#include "kvtier.h"

struct budgets {
	enum kvt_pager pager; /* never KVT_PAGER_AUTO once they are complete */
	uint64_t dram_bytes;
	uint64_t cxl_bytes;
	int cxl_node; /* -1: none */
	uint64_t nvme_bytes; /* 0: as much as needed */
	char nvme_path[4096]; /* "": none yet; the kernel pager has none */
	uint64_t block_bytes; /* 0: chosen for each cache */
};

/* Each takes an option's text; 0, or an exit code after one line said why. */
int budget_dram(struct budgets *b, const char *text);
int budget_cxl(struct budgets *b, const char *text);
int budget_nvme(struct budgets *b, const char *text);
int budget_pager(struct budgets *b, const char *text);
int budget_block(struct budgets *b, const char *text);

/* Choose what was not given, say so, and check the whole against this host. */
int budgets_complete(struct budgets *b);

#endif
