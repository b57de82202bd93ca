/* SPDX-License-Identifier: MIT */
/* What `kvtier run` told the shim, in environment variables (kvtier-run(1), ENVIRONMENT). */
#ifndef KVT_PRELOAD_SETTINGS_H
#define KVT_PRELOAD_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kvt_settings {
	bool kernel; /* KVTIER_PAGER: which pager serves the caches */
	uint64_t dram_bytes; /* KVTIER_DRAM: of all caches of this process together */
	uint64_t cxl_bytes; /* KVTIER_CXL=NODE:BYTES */
	int cxl_node;
	const char *nvme_path; /* KVTIER_NVME; NULL: the kernel pager's stores */
	uint64_t nvme_bytes; /* KVTIER_NVME_BYTES; 0: as much as needed */
	uint64_t block_bytes; /* KVTIER_BLOCK; 0: chosen */
	const char *session; /* KVTIER_SESSION: file that takes a line per event */
};

/* NULL: this process was not started by `kvtier run`. */
const struct kvt_settings *kvt_settings(void);

/* Tell `kvtier run`: a line of its session's file, "WORD PID [BYTES]". */
__attribute__((format(printf, 1, 2))) void kvt_tell(const char *fmt, ...);
/* Tell the user why an allocation fails, and `kvtier run` that one did. */
__attribute__((format(printf, 1, 2))) void kvt_refuse(const char *fmt, ...);

#endif
