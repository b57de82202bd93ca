/* SPDX-License-Identifier: MIT */
/*
 * The file through which a pool shows itself to `kvtier stat` and `kvtier run`.
 *
 * Each pool maps one file "<pid>-<number>.pool" in kvt_stat_dir() and writes
 * its counters there a few times a second and when it is destroyed; readers
 * map it read-only.  @seq is odd while the writer is inside (a seqlock).  The
 * pool removes its file when it is destroyed, unless KVTIER_KEEP_STATS is set
 * in the environment: then it sets @closed and leaves it to `kvtier run`.  A
 * file whose process is gone (pid and start time) is stale.
 */
#ifndef KVT_STAT_FILE_H
#define KVT_STAT_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <linux/kvtier.h>

#define KVT_STAT_MAGIC 0x74617473727476bULL
#define KVT_STAT_VERSION 1

struct kvt_stat_file {
	uint64_t magic;
	uint32_t version;
	uint32_t bytes; /* sizeof(struct kvt_stat_file) */
	uint32_t pid;
	uint32_t closed; /* 1 once the pool is destroyed: last figures */
	uint64_t start_time; /* of the process, field 22 of /proc/PID/stat */
	uint64_t created_ns; /* CLOCK_MONOTONIC */
	uint64_t updated_ns;
	uint64_t addr; /* the pool's mapping in its process */
	uint64_t addr_bytes;
	uint64_t arena_addr; /* frames that are not mapped at their block's address */
	uint64_t arena_bytes;
	uint32_t seq;
	uint32_t uffd_move; /* 1: frames are moved, 0: copied (kernel before 6.8) */
	char name[64];
	char pager[16];
	char nvme_path[256];
	char last_error[256]; /* the newest failure in words, or "" */
	struct kvtier_stats stats;
};

/*
 * Where the files are: $KVTIER_RUNTIME_DIR, else $XDG_RUNTIME_DIR/kvtier, else
 * /run/kvtier for root, else /tmp/kvtier-<uid>.  Returns 0 or -ENAMETOOLONG.
 */
int kvt_stat_dir(char *buf, size_t len);

#endif
