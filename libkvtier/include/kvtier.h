/* SPDX-License-Identifier: MIT */
/*
 * kvtier.h - the library's public interface.
 *
 * A pool is one range of memory cut into equal blocks.  A pointer into it is
 * valid whatever tier (DRAM, CXL, NVMe) holds the bytes; a touch of a block
 * that is not in memory waits until a verified copy is.  The words used here
 * (block, tier, open, sealed, clean, cold) are defined in <linux/kvtier.h>,
 * whose structs this library uses unchanged.
 *
 * Every function returns 0 (or a count) on success and a negative errno on
 * failure; kvt_error_detail() then says in one line what was wrong and what to
 * do about it.  Offsets and lengths are bytes from the start of the pool and
 * must be multiples of its block size.  All functions may be called from any
 * thread; none may be called on a pool that another thread destroys.
 */
#ifndef KVTIER_H
#define KVTIER_H

#include <stddef.h>
#include <stdint.h>
#include <linux/kvtier.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVT_VERSION_MAJOR 0
#define KVT_VERSION_MINOR 1

#define KVT_BLOCK_MIN (64UL << 10)
#define KVT_BLOCK_MAX (2UL << 20)

struct kvt_pool;

/* Which implementation of the contract serves a pool. */
enum kvt_pager {
	KVT_PAGER_AUTO = 0, /* the kernel's if it has what the pool needs, else the user pager */
	KVT_PAGER_USER = 1, /* userfaultfd and io_uring in this process */
	KVT_PAGER_KERNEL = 2, /* /dev/kvtier */
};

/* kvt_config.flags */
#define KVT_NO_PREDICT (1u << 0) /* do not learn and replay the order of faults */
#define KVT_KEEP_FILE (1u << 1) /* keep the NVMe file: needed to adopt it later */
#define KVT_NO_STATS_FILE (1u << 2) /* stay invisible to `kvtier stat` */

/*
 * struct kvt_config - what a pool is made of
 * @size:           sizeof(struct kvt_config), so that the struct can grow
 * @flags:          KVT_NO_PREDICT, KVT_KEEP_FILE, KVT_NO_STATS_FILE
 * @pager:          which pager; KVT_PAGER_AUTO chooses
 * @bytes:          size of the pool; rounded up to whole blocks
 * @block_bytes:    power of two, KVT_BLOCK_MIN to KVT_BLOCK_MAX; 0 chooses from
 *                  the DRAM budget (see kvt_block_bytes_for())
 * @dram_bytes:     DRAM the pool's blocks may occupy; 0 means the whole pool
 * @cxl_bytes:      memory the pool may occupy on @cxl_node; 0: no such tier
 * @cxl_node:       NUMA node of the CXL tier
 * @nvme_bytes:     space on NVMe the pool may occupy; 0: if @nvme_path is given,
 *                  what the pool needs beyond its memory, plus room to write ahead
 * @nvme_path:      directory (an unnamed file is made in it), regular file or
 *                  block device; NULL: no NVMe tier.  The kernel pager takes space
 *                  of a store that the administrator attached: it opens no path,
 *                  and NULL with @nvme_bytes above 0 asks for NVMe too.  A file is
 *                  locked (flock(2)) as long as the pool lives, or a child made by
 *                  fork() of a process that ended without destroying it
 * @io_deadline_ms: a read, a write or a wait for space that takes longer fails
 *                  the blocks it concerns; 0: 30 000
 * @name:           shown by `kvtier stat`; NULL: the program's name
 *
 * The budgets are hard.  A pool whose budgets together do not hold its size is
 * refused with -ENOSPC before anything is allocated.
 */
struct kvt_config {
	uint32_t size;
	uint32_t flags;
	enum kvt_pager pager;
	uint64_t bytes;
	uint64_t block_bytes;
	uint64_t dram_bytes;
	uint64_t cxl_bytes;
	int cxl_node;
	uint64_t nvme_bytes;
	const char *nvme_path;
	uint32_t io_deadline_ms;
	const char *name;
};

#define KVT_CONFIG_INIT { .size = sizeof(struct kvt_config), .cxl_node = -1 }

/*
 * kvt_pool_create() - make a pool and map it into this process
 *
 * The memory reads as zeroes until written.  It is private to this process: a
 * child made by fork() does not have it (its addresses fault there).
 *
 * Errors: -EINVAL a field is out of range; -ENOSPC the budgets or the disk
 * cannot hold the pool; -ENODEV no such NUMA node, no module or no store; -EPERM
 * userfaultfd or io_uring is forbidden here; -ENOSYS the kernel lacks them;
 * -EBUSY another pool has the file, or the device is in use;
 * -EACCES, -ENOENT, -EROFS... the NVMe path (-EACCES: or /dev/kvtier) cannot be
 * opened; -ENOMEM.
 */
int kvt_pool_create(const struct kvt_config *config, struct kvt_pool **pool);

/*
 * kvt_pool_destroy() - unmap a pool and give back all it held; cannot fail
 *
 * No thread may be using the memory.  NULL is allowed.
 */
void kvt_pool_destroy(struct kvt_pool *pool);

/* Address of the pool's first byte, aligned to 2 MiB. */
void *kvt_pool_addr(const struct kvt_pool *pool);
/* Bytes in the pool: a multiple of its block size. */
size_t kvt_pool_bytes(const struct kvt_pool *pool);
size_t kvt_pool_block_bytes(const struct kvt_pool *pool);
/* "user" or "kernel". */
const char *kvt_pool_pager(const struct kvt_pool *pool);

/*
 * kvt_pool_resize() - change the DRAM budget of a live pool
 *
 * Returns once the pool occupies no more than @dram_bytes.  Errors: -EINVAL
 * below kvt_dram_bytes_min() for its block size; -ENOSPC the other tiers cannot
 * take what has to leave (the pool keeps its old budget).
 */
int kvt_pool_resize(struct kvt_pool *pool, uint64_t dram_bytes);

/*
 * kvt_range_op() - one operation over an array of ranges
 * @op:     KVTIER_OP_PROMOTE, DEMOTE, WRITEBACK, SEAL, DISCARD, PIN, UNPIN, COLD
 * @tier:   target of PROMOTE and DEMOTE, or KVTIER_TIER_NONE for the natural one
 * @flags:  KVTIER_OP_NOWAIT starts the transfers and does not wait for them
 * @ranges: offset and length of each; result is set to 0 or a negative errno
 *
 * Returns the number of ranges whose result is 0, or a negative errno when no
 * range was looked at.  What each operation does in each state of a block is
 * said in <linux/kvtier.h>.
 */
int kvt_range_op(struct kvt_pool *pool, uint32_t op, uint32_t tier, uint32_t flags,
		 struct kvtier_range *ranges, uint32_t nr);

/*
 * The same over one range: 0 or a negative errno.
 *
 * Pool memory as a buffer of O_DIRECT, io_uring or a device: pages that are held so
 * stay where they are with the kernel pager, and with the user pager from Linux 6.8 on
 * (what would move them is -EBUSY).  Below (`kvtier doctor` says so) the user pager
 * cannot see who holds a page, and what a device writes after its block has left
 * memory is lost: kvt_pin() the blocks as long as the transfer lasts.  There a pinned
 * block that is dirty is not written either: kvt_writeback(), kvt_checkpoint() and
 * kvt_clone() from it are -EBUSY.
 */
int kvt_promote(struct kvt_pool *pool, uint64_t offset, uint64_t length);
int kvt_demote(struct kvt_pool *pool, uint64_t offset, uint64_t length);
int kvt_writeback(struct kvt_pool *pool, uint64_t offset, uint64_t length);
int kvt_seal(struct kvt_pool *pool, uint64_t offset, uint64_t length);
int kvt_discard(struct kvt_pool *pool, uint64_t offset, uint64_t length);
int kvt_pin(struct kvt_pool *pool, uint64_t offset, uint64_t length);
int kvt_unpin(struct kvt_pool *pool, uint64_t offset, uint64_t length);
int kvt_cold(struct kvt_pool *pool, uint64_t offset, uint64_t length);

/*
 * kvt_clone() - make @dst's range hold the bytes of @src's, sharing them
 *
 * Later writes to either side are not seen by the other.  The user pager shares
 * blocks on NVMe and only within one pool: -EXDEV for two pools, -EOPNOTSUPP
 * for a pool without an NVMe tier.  The kernel pager says -EXDEV for pools of two
 * block sizes or stores.  -EBUSY: a block of the target is pinned.  -EINVAL: the
 * ranges overlap or leave the pool.
 */
int kvt_clone(struct kvt_pool *dst, uint64_t dst_offset, struct kvt_pool *src,
	      uint64_t src_offset, uint64_t length);

/* State of @nr blocks from block number @first on; -EINVAL past the end. */
int kvt_query(struct kvt_pool *pool, uint64_t first, uint32_t nr, struct kvtier_block_info *infos);

/* Counters since the pool was made; fields are described in <linux/kvtier.h>. */
int kvt_stats(struct kvt_pool *pool, struct kvtier_stats *stats);

/*
 * kvt_event_fd() - a descriptor that polls readable while events wait; the kernel
 *                  pager's is the pool itself, for io_uring commands or to be passed
 *                  to another process
 * kvt_event_read() - take up to @nr events, oldest first; returns how many
 */
int kvt_event_fd(struct kvt_pool *pool);
int kvt_event_read(struct kvt_pool *pool, struct kvtier_event *events, uint32_t nr);

/*
 * kvt_checkpoint() - make a range durable and say where each of its blocks lies
 * @slots: room for @length / block size entries
 *
 * Every block of the range must be sealed (-EBUSY otherwise) and the pool made
 * with KVT_KEEP_FILE (-EINVAL otherwise).  Returns the number of entries.
 */
int kvt_checkpoint(struct kvt_pool *pool, uint64_t offset, uint64_t length,
		   struct kvtier_slot *slots);

/*
 * kvt_adopt() - take checkpointed blocks into a new pool over the same file
 *
 * Blocks become cold and sealed; each is verified against its checksum when it
 * is first promoted.  -EEXIST: a target block is not empty.  -EINVAL: a slot
 * lies outside the file, or is taken by other content.  The kernel pager takes at
 * most KVTIER_ARRAY_MAX slots at a time, on the store that the key names (-ENODEV),
 * reserved by that key (-ENOENT): see kvt_pool_set_key().
 */
int kvt_adopt(struct kvt_pool *pool, const struct kvtier_slot *slots, uint32_t nr);

/*
 * struct kvt_key - by what right slots outlive their pool
 *
 * A manifest should hold it beside its slots, and be kept as secret as the content
 * is: who has both can adopt it.  It means something to the kernel pager alone.
 * With the user pager the right to the file stands for it: it is all zeroes, setting
 * and releasing it do nothing, and slots are kept as long as the file is.
 */
struct kvt_key {
	uint8_t key[KVTIER_KEY_BYTES];
	uint8_t store[KVTIER_UUID_BYTES];
};

/*
 * kvt_pool_key()     - the key of the pool's checkpoints, of which all are one
 *                      reservation; -ENOENT: there was none yet
 * kvt_pool_set_key() - of the slots to adopt; later checkpoints are added to them
 * kvt_release()      - give up the slots of a key, which no block needs any more, on
 *                      any pool of their store; adopted blocks keep theirs.  -ENOENT:
 *                      no such key.  Not released, slots stay taken.
 */
int kvt_pool_key(struct kvt_pool *pool, struct kvt_key *key);
int kvt_pool_set_key(struct kvt_pool *pool, const struct kvt_key *key);
int kvt_release(struct kvt_pool *pool, const struct kvt_key *key);

/* The block size that KVTIER chooses for a DRAM budget (docs: design, "Block size"). */
size_t kvt_block_bytes_for(uint64_t pool_bytes, uint64_t dram_bytes);
/* The least DRAM budget a pool of this block size works with. */
uint64_t kvt_dram_bytes_min(size_t block_bytes);

/* A sentence for a negative errno as used by this library. */
const char *kvt_strerror(int error);
/* What the last failing call of this thread found wrong, and the remedy; "" if none. */
const char *kvt_error_detail(void);
/* "0.1.0" */
const char *kvt_version(void);

#ifdef __cplusplus
}
#endif
#endif
