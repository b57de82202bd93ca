/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * kvtier - memory for KV caches that spans DRAM, CXL memory and NVMe.
 *
 * This header is the contract between a pager and its users.  There are two
 * pagers: the kernel's (/dev/kvtier, which speaks through the ioctls below) and
 * the one inside libkvtier (userfaultfd and io_uring; the same structs,
 * operations, states and errnos behind C functions).  What is said here without
 * naming a pager holds for both.  The few things that the user pager cannot do
 * are listed under Errors.
 */
#ifndef _LINUX_KVTIER_H
#define _LINUX_KVTIER_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * DOC: ABI changelog
 *
 * The version counts additions.  What a version has is never removed, moved or
 * given another meaning.
 *
 * - 1: pools, range operations (ioctl and io_uring), clone, query, statistics,
 *   events, checkpoint, adopt, release.
 */

/**
 * DOC: Errors
 *
 * Each errno has one meaning, wherever it appears: returned by a call, in the
 * result of a range, in an io_uring completion.
 *
 * - E2BIG: a struct has non-zero bytes past what this kernel knows.
 * - EACCES: the descriptor does not carry the right to this.
 * - EAGAIN: no event is waiting and the descriptor is non-blocking.
 * - EBADF: the source descriptor is not a pool.
 * - EBUSY: a block is pinned, held by the kernel or a device, or not sealed
 *   where it has to be.
 * - ECANCELED: the pool or the ring went away, or the command was cancelled, before the
 *   work was done.
 * - ECHILD: the pool belongs to the process that forked this one.
 * - EEXIST: the place is taken: the file is a pool already, or a block to adopt
 *   into is not empty.
 * - EFAULT: a user pointer leads nowhere.
 * - EILSEQ: what was read does not match its checksum (in events only).
 * - EINTR: a signal came before the work was done.
 * - EINVAL: the request is wrong in itself: a value out of range, not a multiple
 *   of the block size, outside the pool or the store, or at odds with another; a
 *   reserved field or an unknown flag that is set; an unpin without its pin.
 * - EIO: content could not be read or written, or is lost already.
 * - EMFILE: the user has as many pools as one may have.
 * - ENODATA: a block is empty where content is needed.
 * - ENODEV: the tier, node or store that was asked for is not there.
 * - ENOENT: no reservation has this key.
 * - ENOMEM: the kernel has no memory for its own tables.
 * - ENOSPC: a budget, or the store, has no room for this.
 * - ENOTTY: this kernel does not know the ioctl.
 * - ENXIO: the file is not a pool yet.
 * - EOPNOTSUPP: this pager cannot do that with this pool.
 * - ETIMEDOUT: an I/O or a wait passed the pool's deadline.
 * - EXDEV: the two pools cannot share blocks.
 *
 * On success an ioctl returns 0, and so does one that looked at any of its ranges:
 * then each range says how it fared.
 *
 * What the user pager does not have: a descriptor of the pool, hence no io_uring
 * commands, no passing of a pool to another process and no mapping in one (a
 * forked child's calls are ECHILD and its touches SIGSEGV); mappings other than
 * the library's own, which the program must not unmap, remap or protect;
 * KVTIER_POOL_PINNABLE; and KVTIER_POOL_FIXED_BUDGET, since nobody else has its pools.
 * It refuses a clone from one pool to another (EXDEV) and one in a pool without NVMe
 * (EOPNOTSUPP).  The rest it does as the kernel does.
 */

/**
 * DOC: Pools, blocks and tiers
 *
 * A pool is an address range cut into equal blocks of a power of two from 64 KiB
 * to 2 MiB.  A pointer into it stays valid whatever tier holds the bytes:
 *
 * - DRAM: memory of NUMA nodes with CPUs.
 * - CXL: memory of nodes without; byte-addressable too, and slower.
 * - NVMe: slots, of a block each, in a store (a block device or a file).
 *
 * A block is resident when a frame of DRAM or CXL memory holds it; its slot, if
 * it has one, may hold the same content besides.  Only resident blocks are
 * mapped, and always whole.  A touch of a block that is not mapped makes the
 * thread wait until it is.
 *
 * Contents are never wrong.  A mapped block is exactly what was last written to
 * it.  A block gets a CRC32C when it is written to a slot, and what comes back is
 * verified before it is mapped: a mismatch is an error, never data.  The CRC32C is
 * that of iSCSI (polynomial 0x1EDC6F41, reflected, initial value and final XOR all
 * ones) over the whole block.
 *
 * Budgets are hard.  A pool's blocks never occupy more of a tier than its budget
 * there: that is checked before anything is allocated.  A budget that the host's
 * limit for a tier (set by its administrator) does not cover is refused when the
 * pool is created.  A thread for which no frame can be freed waits up to the
 * pool's deadline; then its touch ends in SIGBUS and KVTIER_EVENT_PRESSURE, and
 * the block keeps its content.  Nothing is killed.  Memory whose pages somebody still
 * holds (a pipe, a device) when no block has it any more counts until they let go: to
 * the pool's budget, and when the pool is gone to the host's limit.
 *
 * Waits are bounded.  An I/O that takes longer than the pool's deadline fails the
 * blocks it concerns; everything else goes on.
 */

/**
 * DOC: The life of a block
 *
 * ::
 *
 *          touch           SEAL           WRITEBACK
 *   EMPTY ------> OPEN --------> SEALED ------------> CLEAN
 *                 |  ^              |                 |  ^
 *          demote |  | touch        | demote   demote |  | touch
 *         (write) |  | (read)       | (write)  (free) |  | (read)
 *                 v  |     SEAL     v                 v  |
 *               COLD_OPEN --------------------> COLD
 *
 * An open block is writable.  A sealed one (SEALED, CLEAN, COLD) is immutable: a
 * store to it is SIGBUS, wherever it is, until it is discarded.  There is no
 * unseal.  CLEAN means that its slot holds it, so demotion writes nothing; that
 * is also so for an OPEN block without KVTIER_BLOCKF_DIRTY.  MOVING is what a
 * query may see of a block on its way; touches and operations wait for it.
 *
 * BAD means that the content is lost: wrong checksum, or the medium failed or
 * stalled on a read.  A touch is SIGBUS with si_addr inside the block (si_code is
 * not specified).  DISCARD, or a clone onto it, ends that; both are EBUSY as long
 * as a stalled read may still arrive.  A failed write makes no block BAD: the
 * block stays in memory, dirty.
 *
 * The generation counts changes of content.  It grows when a block that was not
 * dirty is written to, when it is discarded and when a clone replaces it; sealing
 * and moving leave it alone.  Equal generations of one sealed block mean equal
 * bytes.
 */

/**
 * DOC: What an operation does in each state
 *
 * ::
 *
 *              EMPTY    OPEN       SEALED  CLEAN  COLD_OPEN  COLD   BAD
 *   PROMOTE    -        -          -       -      OPEN       CLEAN  EIO
 *   DEMOTE     -        COLD_OPEN  COLD    COLD   -          -      -
 *   WRITEBACK  -        not dirty  CLEAN   -      -          -      EIO
 *   SEAL       ENODATA  SEALED *   -       -      COLD       -      EIO
 *   DISCARD    -        EMPTY      EMPTY   EMPTY  EMPTY      EMPTY  EMPTY
 *   PIN        OPEN     pinned     pinned  pinned OPEN       CLEAN  EIO
 *   UNPIN      EINVAL   unpinned   ...     ...    EINVAL     EINVAL EINVAL
 *   COLD       -        hinted     hinted  hinted -          -      -
 *
 * "-": nothing to do, which is success.  "*": CLEAN if it was not dirty.  Of a
 * block that a stalled read made BAD, PROMOTE and PIN say ETIMEDOUT.
 *
 * - PROMOTE makes a block resident and maps it where the mapping allows.  Target
 *   NONE: the first of DRAM and CXL with room, and a resident block stays where it
 *   is; DRAM or CXL: there.  More blocks than memory can hold is ENOSPC.
 * - DEMOTE frees the frame, writing it to its slot first if it is dirty.  Target
 *   NONE: from DRAM to CXL where that has room, else NVMe; CXL or NVMe: there.  A
 *   block that goes to CXL keeps its state.  A pinned or held block is EBUSY.  A
 *   touch may bring the block back before the call returns.
 * - WRITEBACK writes dirty blocks to their slots; they stay resident.  A store
 *   during it is kept and leaves the block dirty.  Where a device checks what it is
 *   sent (digests, protection information) stores wait, and a held block is EBUSY.
 * - SEAL makes blocks immutable.  A store that comes at the same time either is
 *   part of what is sealed or gets SIGBUS.
 * - DISCARD empties blocks: they read as zeroes and hold neither frame nor slot,
 *   except slots that a checkpoint has reserved.  A pinned block is EBUSY.
 * - PIN promotes blocks and keeps them resident until as many UNPINs (at most
 *   65535 pins a block).  Pins that would leave fewer than KVTIER_FRAMES_MIN
 *   frames to the others are ENOSPC, unless memory holds the whole pool.
 * - COLD says that the next use of these blocks is the furthest of all: they are
 *   the first victims, in the order in which they were named.  Demotion ends the
 *   hint, and so may a touch.
 *
 * The tiers NVMe for PROMOTE, DRAM for DEMOTE and any but NONE elsewhere are
 * EINVAL.  A tier that the pool does not have is ENODEV, also for WRITEBACK and
 * for DEMOTE where nothing is below.
 *
 * A call whose arguments or ranges are malformed is refused whole (EINVAL) before
 * anything is done.  Then each range is worked on and gets its own result, 0 or a
 * negative errno; one failing does not keep others from being done.  Within a
 * range, this is looked for in all blocks before any changes: empty ones (SEAL),
 * pinned ones (DISCARD), ones not pinned (UNPIN), too many for memory (PIN,
 * PROMOTE).  If a block fails later, the operation is still done on the rest and
 * the range's result is the first failure, except that a PIN that fails holds
 * nothing.
 *
 * A signal ends the waiting: the ranges that are not done get EINTR and may be
 * named again.  All operations but PIN and UNPIN can be repeated freely, and of
 * these two one that was interrupted did nothing.
 */

/**
 * DOC: Device and pool
 *
 * Open /dev/kvtier, then KVTIER_IOC_POOL_CREATE: the file is that pool from then
 * on.  Before, all but KVTIER_IOC_INFO is ENXIO.  A pool lives until its last
 * descriptor is closed and its last mapping is gone; its frames and its slots that
 * are not reserved are given back then, which cannot fail.
 *
 * NVMe stores are attached by the host's administrator as
 * /sys/class/kvtier/storeN, not by a pool's creator, who therefore needs no right
 * to a device.  A pool names the stores it accepts by number (see struct
 * kvtier_tier_budget) and gets one of them, that with the most room; one on hold (see
 * "Checkpoint, adopt, release") only if there is no other.  The user pager is given a
 * path instead and uses it with the rights of its process.
 *
 * The descriptor is the capability: who has it may map and operate the pool; to
 * others it has no name.  sysfs shows every user of the host its counters, and the
 * administrator how many blocks are in which state; nothing more.  Who may trace a process
 * finds in /proc/PID/fdinfo/FD, as "kvtier-pool:", the id of the pool that FD is.  The
 * descriptor may be passed over a UNIX socket, and is best opened with O_CLOEXEC.  One
 * open for reading alone allows INFO and cannot become a pool: the rest is EACCES.
 *
 * No frame or slot ever shows what another pool, or an earlier life of a block,
 * left in it: a first touch finds zeroes.
 */

/**
 * DOC: Mappings
 *
 * mmap() with MAP_SHARED (MAP_PRIVATE is EINVAL) maps any page-aligned part of a
 * pool, any number of times; the file's offset is the pool's.  Past the end of
 * the pool is EINVAL, PROT_EXEC is EACCES.  Where a 2 MiB block meets an address
 * aligned to 2 MiB, one page-table entry maps it.  libkvtier maps the whole pool,
 * aligned so.
 *
 * - fork(): the child shares the pool, as with any shared mapping.
 * - mremap() may move and shrink a mapping, not grow it.  munmap() and mprotect()
 *   work on parts.
 * - mlock() does not keep blocks in memory, PIN does.
 * - After MADV_DONTNEED, MADV_FREE or MADV_REMOVE a page has what it held before
 *   or zeroes.  Use DISCARD.
 * - Core dumps leave the mapping out.
 * - Where a touch would be SIGBUS, a system call given that address fails as it
 *   does for any bad address.
 *
 * Pool memory may be a buffer of system calls and devices.  A block whose pages
 * are held so (get_user_pages) does not move meanwhile: what would move it is
 * EBUSY.  Of clones that share a frame the last one to leave it gets that; the holder
 * sees the content that it took hold of, whatever the clones become.
 *
 * Without KVTIER_POOL_PINNABLE every write is tracked, and a long-term pin for
 * writing (RDMA, vfio, CUDA, io_uring's registered buffers) is refused by the call
 * that asks for it, from Linux 6.5 on; before that do not ask: what such a device
 * writes later may be lost.  With it they work, and every block that was mapped where it
 * could be made writable counts as dirty; since stores are not seen, such a pool can
 * neither seal nor clone nor be cloned (EOPNOTSUPP).  The user pager cannot refuse
 * such pins; do not use them there.
 */

/**
 * DOC: Structs
 *
 * Every ioctl takes a pointer to a struct that begins with its own size.  Smaller
 * than this kernel's: the missing fields are zero, and output is cut to it; larger:
 * the rest must be zero (E2BIG); smaller than that of version 1: EINVAL.  Structs
 * grow at their end.  Elements of arrays (struct kvtier_range, kvtier_block_info,
 * kvtier_slot, kvtier_event, and what is inside another struct) never do.
 *
 * Reserved fields and undefined flags must be zero in input (EINVAL) and are zero
 * in output.  Layouts are the same for 32-bit and 64-bit programs.  User pointers
 * travel as 64-bit integers.  Offsets and lengths are bytes from the start of the
 * pool and multiples of the block size; a length of 0, or a range that leaves the
 * pool, is EINVAL.  Times are nanoseconds of CLOCK_MONOTONIC.
 */

/**
 * DOC: io_uring
 *
 * IORING_OP_URING_CMD on a pool's descriptor does one range operation: cmd_op is
 * an enum kvtier_op, and the 16 bytes of cmd are a struct kvtier_uring_cmd.  That
 * fits a 64-byte SQE; in a 128-byte one the other bytes of cmd must be zero, and so
 * must uring_cmd_flags (EINVAL).  The completion's res is what the result of that range would be.
 *
 * When the ring or the process goes, its commands are cancelled (ECANCELED); what they
 * began may still be done, but a PIN that was cancelled did nothing.  UNPIN is never
 * cancelled once it has begun.  (Before Linux 6.7 only when the process goes, and not
 * before the next block.)  IORING_OP_ASYNC_CANCEL does the same to a command with
 * IOSQE_ASYNC, on any kernel; io_uring finds no others (ENOENT), and they go on.
 */

/**
 * DOC: Events
 *
 * read() on a pool's descriptor takes whole struct kvtier_event, oldest first, as
 * many as fit; room for less than one is EINVAL.  It waits for the first unless
 * the descriptor is non-blocking (EAGAIN).  poll() says POLLIN while one waits.
 * All descriptors of a pool share one bounded queue.  When it is full the oldest
 * is dropped, and the next read begins with KVTIER_EVENT_OVERFLOW.  A reader must
 * skip types that it does not know.
 */

/**
 * DOC: Checkpoint, adopt, release
 *
 * Sealed blocks outlive their pool.  CHECKPOINT writes back the blocks of a range,
 * makes their slots durable and returns a struct kvtier_slot for each, which the
 * caller keeps (a manifest).  It reserves the slots: nothing else is written to
 * them, even when their blocks are discarded or the pool is gone, until RELEASE.
 * So make a new manifest durable first and release the old one's slots afterwards.
 *
 * ADOPT puts such blocks into empty blocks of a pool on the same store: COLD,
 * with the generation they had, which the block may have had with other bytes.  It
 * takes all of them or none.  It reads nothing: each block is verified when it is
 * first promoted, so bytes that are not the manifest's end as BAD, never as data.
 * Blocks of several pools may have one slot.
 *
 * A pool is charged for what it reserved, and for what it adopted from a pool that has
 * gone, until RELEASE, even when its blocks are discarded.  What nobody's pool has any
 * more is promised to no other user.  To its own user it is: a pool that is made to adopt
 * it may have the budget that the old one had, of which it counts as used from the start.
 *
 * A reservation is known by a key of 128 random bits that ADOPT and RELEASE need
 * (ENOENT otherwise): to know a slot's number is no right to its content.
 * Reservations last as long as the store is attached.  A store that was attached
 * anew has forgotten them, and is on hold (/sys/class/kvtier/storeN/hold): nothing
 * is written to it until the administrator says so.  Meanwhile ADOPT by
 * CAP_SYS_ADMIN makes the reservation again, under the key that it brings.
 *
 * In the user pager the right to the file stands for the key, and a reservation
 * lasts as long as its pool.  A pool on a kept file adopts before it writes.
 */

/**
 * DOC: Constants
 *
 * @KVTIER_DEVICE: what to open.
 * @KVTIER_ABI_VERSION: version of this header.
 * @KVTIER_SHIFT_MIN: log2 of the least block size, 64 KiB.
 * @KVTIER_SHIFT_MAX: log2 of the greatest block size, 2 MiB.
 * @KVTIER_FRAMES_MIN: blocks that a pool's DRAM budget must hold, unless it holds
 *   the whole pool: one faulting, one coming, one leaving, one spare.
 * @KVTIER_DEADLINE_MS: deadline of a pool that names none.
 * @KVTIER_ARRAY_MAX: most ranges of one RANGE_OP and most slots of one ADOPT.
 * @KVTIER_CLONES_MAX: most blocks of a pool that are clones of each other, as long as
 *   none of them is written to or discarded (kernel pager).
 * @KVTIER_NAME_BYTES: room for a pool's name and its terminating zero.
 * @KVTIER_KEY_BYTES: length of a reservation's key.
 * @KVTIER_UUID_BYTES: length of a store's UUID.
 * @KVTIER_NO_SLOT: "slot" of a block that has none.
 * @KVTIER_NO_NODE: "node" where there is none or it is not known.
 * @KVTIER_NR_TIERS: entries of an array indexed by enum kvtier_tier.  Part of the
 *   ABI: a later tier would get its own fields.
 * @KVTIER_NR_BLOCK_STATES: the same for enum kvtier_block_state.
 */
#define KVTIER_DEVICE "/dev/kvtier"
#define KVTIER_ABI_VERSION 1
#define KVTIER_SHIFT_MIN 16
#define KVTIER_SHIFT_MAX 21
#define KVTIER_FRAMES_MIN 4
#define KVTIER_DEADLINE_MS 30000
#define KVTIER_ARRAY_MAX 65536
#define KVTIER_CLONES_MAX 4096
#define KVTIER_NAME_BYTES 32
#define KVTIER_KEY_BYTES 16
#define KVTIER_UUID_BYTES 16
#define KVTIER_NO_SLOT (~(__u64)0)
#define KVTIER_NO_NODE (-1)
#define KVTIER_NR_TIERS 4
#define KVTIER_NR_BLOCK_STATES 8

/**
 * enum kvtier_tier - where a block is, or should go
 * @KVTIER_TIER_NONE: nowhere (an empty or bad block); as a target: the natural one
 * @KVTIER_TIER_DRAM: memory of a node with CPUs
 * @KVTIER_TIER_CXL: memory of a node without CPUs
 * @KVTIER_TIER_NVME: a slot of a store
 */
enum kvtier_tier {
	KVTIER_TIER_NONE = 0,
	KVTIER_TIER_DRAM = 1,
	KVTIER_TIER_CXL = 2,
	KVTIER_TIER_NVME = 3
};

/**
 * enum kvtier_block_state - see "The life of a block"
 * @KVTIER_BLOCK_EMPTY: reads as zeroes, occupies nothing
 * @KVTIER_BLOCK_OPEN: resident, writable
 * @KVTIER_BLOCK_SEALED: resident, immutable, not in its slot yet
 * @KVTIER_BLOCK_CLEAN: resident, immutable, also in its slot
 * @KVTIER_BLOCK_COLD_OPEN: in its slot alone, writable once touched
 * @KVTIER_BLOCK_COLD: in its slot alone, immutable
 * @KVTIER_BLOCK_MOVING: between two of these
 * @KVTIER_BLOCK_BAD: content lost
 */
enum kvtier_block_state {
	KVTIER_BLOCK_EMPTY = 0,
	KVTIER_BLOCK_OPEN = 1,
	KVTIER_BLOCK_SEALED = 2,
	KVTIER_BLOCK_CLEAN = 3,
	KVTIER_BLOCK_COLD_OPEN = 4,
	KVTIER_BLOCK_COLD = 5,
	KVTIER_BLOCK_MOVING = 6,
	KVTIER_BLOCK_BAD = 7
};

/**
 * enum kvtier_feature - bits of kvtier_info.features
 * @KVTIER_FEATURE_URING_CMD: range operations through io_uring
 * @KVTIER_FEATURE_SHARED: a pool can be used by several processes
 * @KVTIER_FEATURE_CLONE_POOLS: clones from one pool to another
 * @KVTIER_FEATURE_PINNABLE: KVTIER_POOL_PINNABLE is supported
 * @KVTIER_FEATURE_HEAT: kvtier_block_info.heat is measured
 * @KVTIER_FEATURE_FIXED_BUDGET: KVTIER_POOL_FIXED_BUDGET is supported
 */
enum kvtier_feature {
	KVTIER_FEATURE_URING_CMD = 1 << 0,
	KVTIER_FEATURE_SHARED = 1 << 1,
	KVTIER_FEATURE_CLONE_POOLS = 1 << 2,
	KVTIER_FEATURE_PINNABLE = 1 << 3,
	KVTIER_FEATURE_HEAT = 1 << 4,
	KVTIER_FEATURE_FIXED_BUDGET = 1 << 5
};

/**
 * struct kvtier_info - ioctl(KVTIER_IOC_INFO)
 * @size: sizeof(struct kvtier_info)
 * @flags: must be 0
 * @abi: output: KVTIER_ABI_VERSION of the kernel
 * @__reserved: 0
 * @features: output: bits of enum kvtier_feature
 * @free_bytes: output: what budgets of new pools may still claim of each tier
 * @nodes: output: bit N for each NUMA node N (DRAM, CXL) or store N (NVMe) below
 *         64 that belongs to the tier
 *
 * What this host offers.  Works on any descriptor of the device.
 */
struct kvtier_info {
	__u32 size;
	__u32 flags;
	__u32 abi;
	__u32 __reserved;
	__aligned_u64 features;
	__aligned_u64 free_bytes[KVTIER_NR_TIERS];
	__aligned_u64 nodes[KVTIER_NR_TIERS];
};

/**
 * struct kvtier_tier_budget - what a pool may occupy of one tier
 * @bytes: hard limit, a multiple of the block size; 0: the pool does not use it
 * @nodes: bit N allows NUMA node N (DRAM, CXL) or store N (NVMe); 0: any of the
 *         tier.  Numbers above 63 can only be had by 0.
 */
struct kvtier_tier_budget {
	__aligned_u64 bytes;
	__aligned_u64 nodes;
};

/**
 * enum kvtier_pool_flags - bits of kvtier_pool_create.flags
 * @KVTIER_POOL_PINNABLE: allow long-term pins at the price of exact write tracking
 *                        (see "Mappings"); EOPNOTSUPP where not supported
 * @KVTIER_POOL_KEEP: the pool will be checkpointed or adopts; needs NVMe (EINVAL)
 * @KVTIER_POOL_NO_PREDICT: promote on touch and request alone; do not learn the
 *                          order of faults and run ahead
 * @KVTIER_POOL_FAULT_EVENTS: queue KVTIER_EVENT_FAULT and KVTIER_EVENT_LATE too
 * @KVTIER_POOL_FIXED_BUDGET: budgets are changed by the user who opened the file (its
 *                            effective user then) or with CAP_SYS_ADMIN alone, whoever
 *                            else has the descriptor
 */
enum kvtier_pool_flags {
	KVTIER_POOL_PINNABLE = 1 << 0,
	KVTIER_POOL_KEEP = 1 << 1,
	KVTIER_POOL_NO_PREDICT = 1 << 2,
	KVTIER_POOL_FAULT_EVENTS = 1 << 3,
	KVTIER_POOL_FIXED_BUDGET = 1 << 4
};

/**
 * struct kvtier_pool_create - ioctl(KVTIER_IOC_POOL_CREATE)
 * @size: sizeof(struct kvtier_pool_create)
 * @flags: bits of enum kvtier_pool_flags
 * @bytes: size of the pool, a multiple of the block size; fewer than 2^32 - 1
 *         blocks
 * @block_shift: log2 of the block size, KVTIER_SHIFT_MIN to KVTIER_SHIFT_MAX
 * @io_deadline_ms: bound of an I/O and of a wait for space; 0: KVTIER_DEADLINE_MS;
 *                  EINVAL: not within what the administrator allows
 * @budget: indexed by enum kvtier_tier; that of KVTIER_TIER_NONE must be 0
 * @name: shown in sysfs and by tools; zero-terminated; empty: the name of the
 *        calling program
 * @id: must be 0; output: the pool is /sys/class/kvtier/pool<id>
 * @__reserved: 0
 *
 * Nothing is allocated but tables.  Refused are a DRAM budget below
 * KVTIER_FRAMES_MIN blocks and below the pool (EINVAL); budgets that together do
 * not hold the pool or, where NVMe is needed for that, not KVTIER_FRAMES_MIN
 * blocks more (ENOSPC); more than the host has left to give (ENOSPC); nodes and
 * stores that are not there or cannot be used (ENODEV); a file that is a pool
 * already (EEXIST); more pools of one user than policy/max_pools (EMFILE).
 */
struct kvtier_pool_create {
	__u32 size;
	__u32 flags;
	__aligned_u64 bytes;
	__u32 block_shift;
	__u32 io_deadline_ms;
	struct kvtier_tier_budget budget[KVTIER_NR_TIERS];
	char name[KVTIER_NAME_BYTES];
	__u32 id;
	__u32 __reserved;
};

/**
 * struct kvtier_pool_budget - ioctl(KVTIER_IOC_POOL_BUDGET)
 * @size: sizeof(struct kvtier_pool_budget)
 * @tier: KVTIER_TIER_DRAM, KVTIER_TIER_CXL or KVTIER_TIER_NVME
 * @budget: the new budget; its nodes must be 0: they stay as they are
 *
 * Change one budget of a live pool.  Returns when the pool occupies no more than
 * the new one.  EINVAL below the least that KVTIER_IOC_POOL_CREATE takes; ENOSPC
 * when the other tiers cannot hold what has to leave, or the host has no more to
 * give, ENODEV for a tier that the pool was made without; EACCES for others than
 * KVTIER_POOL_FIXED_BUDGET allows; then the old budget stays.
 */
struct kvtier_pool_budget {
	__u32 size;
	__u32 tier;
	struct kvtier_tier_budget budget;
};

/**
 * enum kvtier_op - range operations; see "What an operation does in each state"
 * @KVTIER_OP_PROMOTE: bring into byte-addressable memory
 * @KVTIER_OP_DEMOTE: move to a slower tier
 * @KVTIER_OP_WRITEBACK: write to the slot, keep resident
 * @KVTIER_OP_SEAL: make immutable
 * @KVTIER_OP_DISCARD: empty
 * @KVTIER_OP_PIN: bring in and keep resident
 * @KVTIER_OP_UNPIN: take back one pin
 * @KVTIER_OP_COLD: hint: these are used last
 */
enum kvtier_op {
	KVTIER_OP_PROMOTE = 1,
	KVTIER_OP_DEMOTE = 2,
	KVTIER_OP_WRITEBACK = 3,
	KVTIER_OP_SEAL = 4,
	KVTIER_OP_DISCARD = 5,
	KVTIER_OP_PIN = 6,
	KVTIER_OP_UNPIN = 7,
	KVTIER_OP_COLD = 8
};

/**
 * DOC: Flags of a range operation
 *
 * @KVTIER_OP_NOWAIT: return when the transfers have been started.  A result of 0
 *   then means that; what goes wrong later is an event.  PIN waits all the same.
 */
#define KVTIER_OP_NOWAIT (1U << 0)

/**
 * struct kvtier_range - one range of a range operation
 * @offset: first byte
 * @length: bytes
 * @result: output: 0 or a negative errno
 * @__reserved: must be 0
 */
struct kvtier_range {
	__aligned_u64 offset;
	__aligned_u64 length;
	__s32 result;
	__u32 __reserved;
};

/**
 * struct kvtier_range_op - ioctl(KVTIER_IOC_RANGE_OP)
 * @size: sizeof(struct kvtier_range_op)
 * @op: one of enum kvtier_op
 * @flags: KVTIER_OP_NOWAIT or 0
 * @nr: ranges, at most KVTIER_ARRAY_MAX; with 0 nothing is done
 * @ranges: pointer to as many struct kvtier_range
 * @tier: target of PROMOTE and DEMOTE, of enum kvtier_tier
 * @done: output: how many ranges have result 0
 *
 * Ranges are worked on in the order given; they may overlap.
 */
struct kvtier_range_op {
	__u32 size;
	__u32 op;
	__u32 flags;
	__u32 nr;
	__aligned_u64 ranges;
	__u32 tier;
	__u32 done;
};

/**
 * struct kvtier_uring_cmd - payload of IORING_OP_URING_CMD; see "io_uring"
 * @first_block: first block, as a number (offset / block size)
 * @nr_blocks: number of blocks, so that 16 bytes reach any range of a pool
 * @flags: KVTIER_OP_NOWAIT or 0
 * @tier: as in struct kvtier_range_op
 * @__reserved: must be 0
 */
struct kvtier_uring_cmd {
	__aligned_u64 first_block;
	__u32 nr_blocks;
	__u16 flags;
	__u8 tier;
	__u8 __reserved;
};

/**
 * struct kvtier_clone - ioctl(KVTIER_IOC_CLONE), on the target's descriptor
 * @size: sizeof(struct kvtier_clone)
 * @flags: must be 0
 * @src_fd: descriptor of the source pool; may be the target's own
 * @__reserved: must be 0
 * @src_offset: first byte in the source
 * @dst_offset: first byte in the target
 * @length: bytes
 * @done: output: bytes cloned, from the start; @length on success
 *
 * Make the target's blocks hold the source's content, sharing slots, and within a
 * pool frames, until one side is written to.  From pool to pool a source block that
 * its slot does not hold is written there first.  Neither sees later writes to the other.  What
 * the target held is gone; an empty block clones to an empty one, a sealed one to
 * a sealed one.  The source must be readable, the target writable (EACCES).
 *
 * EINVAL: the ranges overlap in one pool.  EXDEV: different block sizes or stores.
 * EBUSY: a target block is pinned.  EIO: a source block is BAD.  EOPNOTSUPP: a pool
 * with KVTIER_POOL_PINNABLE.  These are found before anything changes; later failures
 * (ENOSPC, also for more than KVTIER_CLONES_MAX; EBUSY for a held block; ETIMEDOUT)
 * leave the first @done bytes cloned and the rest as it was, but for the block at
 * which it failed, which may be empty.
 */
struct kvtier_clone {
	__u32 size;
	__u32 flags;
	__s32 src_fd;
	__u32 __reserved;
	__aligned_u64 src_offset;
	__aligned_u64 dst_offset;
	__aligned_u64 length;
	__aligned_u64 done;
};

/**
 * enum kvtier_block_flags - bits of kvtier_block_info.flags
 * @KVTIER_BLOCKF_DIRTY: has content that its slot does not hold
 * @KVTIER_BLOCKF_PINNED: pinned by KVTIER_OP_PIN
 * @KVTIER_BLOCKF_COLD: hinted by KVTIER_OP_COLD
 * @KVTIER_BLOCKF_MAPPED: at least one page table may map it
 * @KVTIER_BLOCKF_SHARED: its frame or slot is also another block's or reserved
 */
enum kvtier_block_flags {
	KVTIER_BLOCKF_DIRTY = 1 << 0,
	KVTIER_BLOCKF_PINNED = 1 << 1,
	KVTIER_BLOCKF_COLD = 1 << 2,
	KVTIER_BLOCKF_MAPPED = 1 << 3,
	KVTIER_BLOCKF_SHARED = 1 << 4
};

/**
 * struct kvtier_block_info - one block, as KVTIER_IOC_QUERY sees it
 * @generation: changes of content so far
 * @slot: its slot in the store, or KVTIER_NO_SLOT
 * @heat: how much it is used; only comparisons within a pool mean anything; 0
 *        without KVTIER_FEATURE_HEAT
 * @crc32c: checksum of its slot; 0 if dirty or without a slot
 * @node: NUMA node of its frame, or KVTIER_NO_NODE
 * @tier: enum kvtier_tier: of its frame if it has one, else of its slot
 * @state: enum kvtier_block_state
 * @flags: bits of enum kvtier_block_flags
 *
 * A snapshot: by the time it is read the block may have moved.
 */
struct kvtier_block_info {
	__aligned_u64 generation;
	__aligned_u64 slot;
	__u32 heat;
	__u32 crc32c;
	__s16 node;
	__u8 tier;
	__u8 state;
	__u32 flags;
};

/**
 * struct kvtier_query - ioctl(KVTIER_IOC_QUERY)
 * @size: sizeof(struct kvtier_query)
 * @flags: must be 0
 * @first_block: number of the first block
 * @infos: pointer to @nr struct kvtier_block_info
 * @nr: blocks; past the end of the pool is EINVAL
 * @__reserved: must be 0
 */
struct kvtier_query {
	__u32 size;
	__u32 flags;
	__aligned_u64 first_block;
	__aligned_u64 infos;
	__u32 nr;
	__u32 __reserved;
};

/**
 * struct kvtier_tier_stats - one tier of a pool
 * @budget_bytes: what the pool may occupy
 * @used_bytes: what it occupies; for NVMe with the slots it has reserved, and what it
 *              is to adopt where the store had no room besides
 * @peak_bytes: the most it ever occupied
 * @bytes_in: moved into this tier; for NVMe: written
 * @bytes_out: moved out of it; for NVMe: read
 * @io_errors: transfers that failed, were late or did not match their checksum
 * @read_ns: time with at least one read of this tier under way
 * @write_ns: time with at least one write to it under way
 */
struct kvtier_tier_stats {
	__aligned_u64 budget_bytes;
	__aligned_u64 used_bytes;
	__aligned_u64 peak_bytes;
	__aligned_u64 bytes_in;
	__aligned_u64 bytes_out;
	__aligned_u64 io_errors;
	__aligned_u64 read_ns;
	__aligned_u64 write_ns;
};

/**
 * struct kvtier_stats - ioctl(KVTIER_IOC_STATS)
 * @size: sizeof(struct kvtier_stats)
 * @block_shift: output, as all that follows: log2 of the block size
 * @bytes: size of the pool
 * @nr_blocks: the same in blocks
 * @blocks: how many blocks are in each enum kvtier_block_state now
 * @faults: touches of blocks that were not mapped; the sum of the next four
 * @soft_faults: ... the block was resident: mapping it was all
 * @hard_faults: ... it had to be read, and nothing had begun to
 * @late_faults: ... its transfer was under way already: a late page
 * @zero_faults: ... it was empty: a first touch
 * @wp_faults: stores to blocks mapped read-only (tracking, and sealed blocks)
 * @fault_wait_ns: time during which at least one thread waited in a fault for NVMe
 * @prefetched: blocks that the pager began to promote unasked, ahead of a touch
 * @prefetch_used: ... and that were then touched, or passed in the learned order
 * @prefetch_wasted: ... and that left memory before they were
 * @promoted: blocks that came from NVMe into memory
 * @demoted: blocks that left memory for NVMe
 * @written_blocks: blocks written to NVMe
 * @clean_drops: demotions that had nothing to write
 * @crc_errors: blocks that did not match their checksum
 * @bad_blocks: blocks that are BAD now
 * @enospc: writes that the store refused for want of space
 * @transfer_ns: time with at least one read from NVMe under way
 * @tier: indexed by enum kvtier_tier; that of KVTIER_TIER_NONE is 0
 *
 * Counters run from the pool's creation and never go back.  Touches of mapped
 * blocks are not seen by a pager, so there is no counter of hits.
 *
 * The hidden fraction, the part of the transfer time that no thread waited for, is
 * 1 - @fault_wait_ns / @transfer_ns, at least 0 (a wait also covers what comes
 * before and after the read) and undefined when @transfer_ns is 0.  Prefetch
 * accuracy is @prefetch_used / (@prefetch_used + @prefetch_wasted).
 */
struct kvtier_stats {
	__u32 size;
	__u32 block_shift;
	__aligned_u64 bytes;
	__aligned_u64 nr_blocks;
	__aligned_u64 blocks[KVTIER_NR_BLOCK_STATES];
	__aligned_u64 faults;
	__aligned_u64 soft_faults;
	__aligned_u64 hard_faults;
	__aligned_u64 late_faults;
	__aligned_u64 zero_faults;
	__aligned_u64 wp_faults;
	__aligned_u64 fault_wait_ns;
	__aligned_u64 prefetched;
	__aligned_u64 prefetch_used;
	__aligned_u64 prefetch_wasted;
	__aligned_u64 promoted;
	__aligned_u64 demoted;
	__aligned_u64 written_blocks;
	__aligned_u64 clean_drops;
	__aligned_u64 crc_errors;
	__aligned_u64 bad_blocks;
	__aligned_u64 enospc;
	__aligned_u64 transfer_ns;
	struct kvtier_tier_stats tier[KVTIER_NR_TIERS];
};

/**
 * enum kvtier_event_type - what a struct kvtier_event tells
 * @KVTIER_EVENT_FAULT: a thread waited for a block that nothing had begun to read
 * @KVTIER_EVENT_LATE: ... for one whose promotion was under way
 * @KVTIER_EVENT_IO_ERROR: a write failed; the block stays in memory
 * @KVTIER_EVENT_PRESSURE: a touch found no room within the deadline (error
 *                         -ENOSPC), or the host asks the pool to shrink (error 0:
 *                         demote what can go)
 * @KVTIER_EVENT_BAD_BLOCK: the block became BAD: -EILSEQ, -EIO or -ETIMEDOUT
 * @KVTIER_EVENT_NODE_OFFLINE: a node or store of the pool is going away; its
 *                             blocks are being moved, or become BAD
 * @KVTIER_EVENT_OVERFLOW: events before the next one were lost
 */
enum kvtier_event_type {
	KVTIER_EVENT_FAULT = 1,
	KVTIER_EVENT_LATE = 2,
	KVTIER_EVENT_IO_ERROR = 3,
	KVTIER_EVENT_PRESSURE = 4,
	KVTIER_EVENT_BAD_BLOCK = 5,
	KVTIER_EVENT_NODE_OFFLINE = 6,
	KVTIER_EVENT_OVERFLOW = 7
};

/**
 * struct kvtier_event - what read() on a pool's descriptor returns
 * @time_ns: when
 * @offset: first byte concerned
 * @length: bytes concerned; 0: the whole pool, or none in particular
 * @generation: of the block
 * @type: enum kvtier_event_type
 * @error: negative errno as the storage or memory reported it, or 0; not limited
 *         to the table under "Errors"
 * @tier: of the node that goes away; 0 in other events
 * @node: that node, or store; 0 in other events
 */
struct kvtier_event {
	__aligned_u64 time_ns;
	__aligned_u64 offset;
	__aligned_u64 length;
	__aligned_u64 generation;
	__u32 type;
	__s32 error;
	__u32 tier;
	__s32 node;
};

/**
 * struct kvtier_slot - where a checkpointed block lies
 * @block: its number in the pool; the number to adopt it as
 * @slot: its slot; it begins at byte @slot * block size of the store's data
 * @generation: of its content
 * @crc32c: of its content
 * @flags: 0
 */
struct kvtier_slot {
	__aligned_u64 block;
	__aligned_u64 slot;
	__aligned_u64 generation;
	__u32 crc32c;
	__u32 flags;
};

/**
 * struct kvtier_checkpoint - ioctl(KVTIER_IOC_CHECKPOINT)
 * @size: sizeof(struct kvtier_checkpoint)
 * @flags: must be 0
 * @offset: first byte
 * @length: bytes
 * @slots: pointer to room for one struct kvtier_slot a block
 * @nr: room, in entries; output: entries written.  Too little is EINVAL.
 * @__reserved: must be 0
 * @key: zero: make a new reservation, whose key is the output; the key of an
 *       earlier one: add these slots to it
 * @store: output: UUID of the store, which the manifest should keep
 *
 * Needs KVTIER_POOL_KEEP (EINVAL).  Every block of the range must be sealed
 * (EBUSY).  More than the administrator allows a user to reserve is ENOSPC.  On failure
 * nothing is reserved.
 */
struct kvtier_checkpoint {
	__u32 size;
	__u32 flags;
	__aligned_u64 offset;
	__aligned_u64 length;
	__aligned_u64 slots;
	__u32 nr;
	__u32 __reserved;
	__u8 key[KVTIER_KEY_BYTES];
	__u8 store[KVTIER_UUID_BYTES];
};

/**
 * struct kvtier_adopt - ioctl(KVTIER_IOC_ADOPT)
 * @size: sizeof(struct kvtier_adopt)
 * @flags: must be 0
 * @slots: pointer to @nr struct kvtier_slot, as a checkpoint returned them; their
 *         block may be another
 * @nr: entries, at most KVTIER_ARRAY_MAX
 * @__reserved: must be 0
 * @key: of the reservation that covers them
 * @store: UUID of the store they are in
 *
 * Entries may share a slot, as clones do.  EINVAL: a slot or block does not exist,
 * a block is named twice, or a slot with two checksums.  EEXIST: a block is not
 * empty.  ENODEV: the pool is on another store.  ENOENT: not reserved by this key.
 * ENOSPC: over the pool's budget of NVMe.
 */
struct kvtier_adopt {
	__u32 size;
	__u32 flags;
	__aligned_u64 slots;
	__u32 nr;
	__u32 __reserved;
	__u8 key[KVTIER_KEY_BYTES];
	__u8 store[KVTIER_UUID_BYTES];
};

/**
 * struct kvtier_release - ioctl(KVTIER_IOC_RELEASE)
 * @size: sizeof(struct kvtier_release)
 * @flags: must be 0
 * @key: of the reservation
 *
 * End a reservation, on any pool of its store.  Slots that no block has are free
 * from then on; adopted blocks keep theirs.  ENOENT: no such key.
 */
struct kvtier_release {
	__u32 size;
	__u32 flags;
	__u8 key[KVTIER_KEY_BYTES];
};

/**
 * DOC: ioctl numbers
 *
 * They do not encode the struct's size, which is the struct's first field.
 *
 * @KVTIER_IOC_TYPE: kvtier uses 0xa0 to 0xbf of this letter.
 * @KVTIER_IOC_INFO: struct kvtier_info: what the host offers
 * @KVTIER_IOC_POOL_CREATE: struct kvtier_pool_create: make this file a pool
 * @KVTIER_IOC_POOL_BUDGET: struct kvtier_pool_budget: change a budget
 * @KVTIER_IOC_RANGE_OP: struct kvtier_range_op: operate on ranges
 * @KVTIER_IOC_CLONE: struct kvtier_clone: share blocks, copy on write
 * @KVTIER_IOC_QUERY: struct kvtier_query: where blocks are
 * @KVTIER_IOC_STATS: struct kvtier_stats: counters
 * @KVTIER_IOC_CHECKPOINT: struct kvtier_checkpoint: make sealed blocks durable
 * @KVTIER_IOC_ADOPT: struct kvtier_adopt: take them back
 * @KVTIER_IOC_RELEASE: struct kvtier_release: give up their slots
 */
#define KVTIER_IOC_TYPE 'k'
#define KVTIER_IOC_INFO _IO(KVTIER_IOC_TYPE, 0xa0)
#define KVTIER_IOC_POOL_CREATE _IO(KVTIER_IOC_TYPE, 0xa1)
#define KVTIER_IOC_POOL_BUDGET _IO(KVTIER_IOC_TYPE, 0xa2)
#define KVTIER_IOC_RANGE_OP _IO(KVTIER_IOC_TYPE, 0xa3)
#define KVTIER_IOC_CLONE _IO(KVTIER_IOC_TYPE, 0xa4)
#define KVTIER_IOC_QUERY _IO(KVTIER_IOC_TYPE, 0xa5)
#define KVTIER_IOC_STATS _IO(KVTIER_IOC_TYPE, 0xa6)
#define KVTIER_IOC_CHECKPOINT _IO(KVTIER_IOC_TYPE, 0xa7)
#define KVTIER_IOC_ADOPT _IO(KVTIER_IOC_TYPE, 0xa8)
#define KVTIER_IOC_RELEASE _IO(KVTIER_IOC_TYPE, 0xa9)

#endif /* _LINUX_KVTIER_H */
