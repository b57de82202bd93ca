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
#define KVT_STAT_VERSION 2

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
	int32_t kernel_id; /* the pool is /sys/class/kvtier/pool<id>; -1: the user pager's */
	uint32_t reserved;
	char name[64];
	char pager[16];
	char nvme_path[256];
	char last_error[256]; /* the newest failure in words, or "" */
	struct kvtier_stats stats;
};

/* A pool's own file; @file is NULL where there is none. */
struct kvt_stat_out {
	struct kvt_stat_file *file;
	char path[256];
};

/*
 * Make and map a file that says who and where the pool is; @name may be NULL.  The
 * caller fills in what else it knows and writes figures before it shows the file.
 * 0 or -1: a pool that cannot show itself works all the same.
 */
int kvt_stat_create(struct kvt_stat_out *out, const char *name, const char *pager);
void kvt_stat_show(struct kvt_stat_out *out);
void kvt_stat_write(struct kvt_stat_out *out, const struct kvtier_stats *stats,
		    const char *last_error);
/* The last figures are written: the file goes, or stays for `kvtier run`. */
void kvt_stat_close(struct kvt_stat_out *out);
/* In a child made by fork(): the file is the parent's. */
void kvt_stat_forget(struct kvt_stat_out *out);

/*
 * Where the files are: $KVTIER_RUNTIME_DIR, else $XDG_RUNTIME_DIR/kvtier, else
 * /run/kvtier for root, else /tmp/kvtier-<uid>.  Returns 0 or -ENAMETOOLONG.
 */
int kvt_stat_dir(char *buf, size_t len);

#endif
