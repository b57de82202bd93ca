/* SPDX-License-Identifier: MIT */
/*
 * The kernel pager: a pool is a descriptor of /dev/kvtier and a mapping of it.  All
 * that the user pager does, the module does; what is left here is to say it in the
 * module's words, and to say what was wrong in the user's.
 *
 *	kernel_device.c	open the device, what the host offers, why it refuses a pool
 *	kernel_range.c	range operations, clones and queries
 *	kernel_keep.c	checkpoint, adopt, release, and the key that they need
 *	kernel_fetch.c	readers that say what they will read, through io_uring
 *	kernel_stat.c	counters, events, and the file for `kvtier stat`
 *	pager_kernel.c	create and destroy, and the table of operations
 *
 * A call that a signal ends is made again from where it was: callers of this library
 * are not told of signals.
 */
#ifndef KVT_KERNEL_H
#define KVT_KERNEL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "pool.h"
#include "stat_file.h"

struct kvt_kernel {
	struct kvt_pool pool; /* first: the API's handle */
	int fd;
	uint32_t id; /* /sys/class/kvtier/pool<id> */

	pthread_mutex_t lock; /* guards the next two; held over a checkpoint */
	struct kvt_key key; /* of the pool's checkpoints; zero: none yet */

	atomic_uint nr_fetches; /* of this process, which share what may be pinned */

	struct kvt_stat_out stat;
	struct kvt_kernel *next; /* in kernel_stat.c's list; its lock */
};

static inline struct kvt_kernel *kvt_kernel_of(struct kvt_pool *pool)
{
	return (struct kvt_kernel *)pool;
}

/* kernel_device.c */

/* A new descriptor of /dev/kvtier, or a negative errno with its detail. */
int kvt_kernel_open(void);
/* Can the module serve such a pool?  Says nothing if not. */
bool kvt_kernel_serves(const struct kvt_config *config);
/* Make @fd a pool as @config says; *@id is its number. */
int kvt_kernel_create(int fd, const struct kvt_config *config, uint32_t *id);
/* An ioctl: 0 or a negative errno.  The second again after a signal. */
int kvt_kernel_try(int fd, unsigned long number, void *arg);
int kvt_kernel_call(int fd, unsigned long number, void *arg);

/* kernel_range.c */
int kvt_kernel_resize(struct kvt_pool *pool, uint64_t dram_bytes);
int kvt_kernel_range_op(struct kvt_pool *pool, uint32_t op, uint32_t tier, uint32_t flags,
			struct kvtier_range *ranges, uint32_t nr);
int kvt_kernel_clone(struct kvt_pool *dst, uint64_t dst_offset, struct kvt_pool *src,
		     uint64_t src_offset, uint64_t length);
/* From a pool of which there is a descriptor alone. */
int kvt_kernel_clone_from(struct kvt_pool *dst, uint64_t dst_offset, int src_fd,
			  uint64_t src_offset, uint64_t length);
int kvt_kernel_query(struct kvt_pool *pool, uint64_t first, uint32_t nr,
		     struct kvtier_block_info *infos);

/* kernel_keep.c */
int kvt_kernel_checkpoint(struct kvt_pool *pool, uint64_t offset, uint64_t length,
			  struct kvtier_slot *slots);
int kvt_kernel_adopt(struct kvt_pool *pool, const struct kvtier_slot *slots, uint32_t nr);
int kvt_kernel_key(struct kvt_pool *pool, struct kvt_key *key);
int kvt_kernel_set_key(struct kvt_pool *pool, const struct kvt_key *key);
int kvt_kernel_release(struct kvt_pool *pool, const struct kvt_key *key);

/* kernel_fetch.c */
int kvt_kernel_fetch_open(struct kvt_pool *pool, uint32_t window, struct kvt_fetch **fetch);

/* kernel_stat.c */
int kvt_kernel_stats(struct kvt_pool *pool, struct kvtier_stats *stats);
int kvt_kernel_event_fd(struct kvt_pool *pool);
int kvt_kernel_event_read(struct kvt_pool *pool, struct kvtier_event *events, uint32_t nr);
void kvt_kernel_stat_open(struct kvt_kernel *k, const struct kvt_config *config);
void kvt_kernel_stat_close(struct kvt_kernel *k);

#endif
