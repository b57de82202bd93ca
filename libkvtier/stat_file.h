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

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/kvtier.h>

#define KVT_STAT_MAGIC 0x74617473727476bULL
#define KVT_STAT_VERSION 3

/*
 * Behind the struct, where @view_blocks is not 0: one struct kvt_stat_block for each
 * block, then a ring of KVT_STAT_ACCESSES accesses.  A reader that may write to the
 * file asks for either by setting a time until which it is wanted; the pager then
 * refreshes the blocks each time that it writes its figures, and adds to the ring.
 * Memory that nobody asked for is never touched, so it does not exist; and what is
 * asked for is reserved before it is touched, since a store that finds the filesystem
 * full would be a SIGBUS.
 */
struct kvt_stat_block {
	uint8_t state; /* enum kvtier_block_state */
	uint8_t tier; /* enum kvtier_tier */
	uint8_t flags; /* enum kvtier_block_flags */
	uint8_t heat; /* 255: seen in use just now; 0: never, or hours ago */
};

enum kvt_stat_how {
	KVT_STAT_READ, /* a touch that the pager saw */
	KVT_STAT_WRITE, /* a store that it saw */
	KVT_STAT_PASSED, /* mapped ahead of its use, and the touches around it were seen */
};

struct kvt_stat_access {
	uint64_t ns; /* CLOCK_MONOTONIC */
	uint32_t block;
	uint8_t how; /* enum kvt_stat_how */
	uint8_t missed; /* it was not in memory */
	uint16_t reserved;
};

#define KVT_STAT_ACCESSES 65536u

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
	uint64_t view_blocks; /* blocks that can be shown; 0: none */
	uint64_t blocks_until_ns; /* written by readers: refresh the blocks until then */
	uint64_t accesses_until_ns; /* written by readers: add to the ring until then */
	uint64_t blocks_ns; /* when the blocks were refreshed */
	uint64_t nr_accesses; /* ever added to the ring */
};

static inline size_t kvt_stat_bytes(uint64_t blocks)
{
	if (!blocks)
		return sizeof(struct kvt_stat_file);
	return sizeof(struct kvt_stat_file) + (blocks + 1) / 2 * 2 * sizeof(struct kvt_stat_block) +
	       KVT_STAT_ACCESSES * sizeof(struct kvt_stat_access);
}

static inline struct kvt_stat_block *kvt_stat_blocks(const struct kvt_stat_file *f)
{
	return (struct kvt_stat_block *)(f + 1);
}

static inline struct kvt_stat_access *kvt_stat_ring(const struct kvt_stat_file *f)
{
	return (struct kvt_stat_access *)(kvt_stat_blocks(f) + (f->view_blocks + 1) / 2 * 2);
}

/* A pool's own file; @file is NULL where there is none. */
struct kvt_stat_out {
	struct kvt_stat_file *file;
	size_t bytes; /* of its mapping */
	int fd;
	int view; /* 1: what is behind the struct has memory; -1: there is none; 0: not asked yet */
	char path[256];
};

/*
 * Make and map a file that says who and where the pool is; @name may be NULL; @blocks:
 * of how many blocks it has a view, 0: none.  The caller fills in what else it knows
 * and writes figures before it shows the file.
 * 0 or -1: a pool that cannot show itself works all the same.
 */
int kvt_stat_create(struct kvt_stat_out *out, const char *name, const char *pager,
		    uint64_t blocks);
void kvt_stat_show(struct kvt_stat_out *out);
void kvt_stat_write(struct kvt_stat_out *out, const struct kvtier_stats *stats,
		    const char *last_error);
/* Does a reader want this now? */
static inline bool kvt_stat_wanted(const uint64_t *until_ns, uint64_t now_ns)
{
	return __atomic_load_n(until_ns, __ATOMIC_RELAXED) > now_ns;
}
/* May the blocks and the ring be written to?  What they need is reserved at the first call. */
bool kvt_stat_view(struct kvt_stat_out *out);
void kvt_stat_add(struct kvt_stat_out *out, const struct kvt_stat_access *access);
/* The last figures are written: the file goes, or stays for `kvtier run`. */
void kvt_stat_close(struct kvt_stat_out *out);
/* In a child made by fork(): the file is the parent's. */
void kvt_stat_forget(struct kvt_stat_out *out);

/*
 * Where the files are: $KVTIER_RUNTIME_DIR, else $XDG_RUNTIME_DIR/kvtier, else
 * /run/kvtier-0 for root, else /tmp/kvtier-<uid>.  Returns 0 or -ENAMETOOLONG.
 */
int kvt_stat_dir(char *buf, size_t len);
/*
 * Make it where it is not there; a descriptor of it, or a negative errno.  In a folder
 * like /tmp somebody else may have made it, or a link: -EPERM unless it is this user's
 * own and closed to the writes of others, -ELOOP or -ENOTDIR where it is none.
 */
int kvt_stat_dir_make(char *buf, size_t len);

#endif
