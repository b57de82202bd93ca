// SPDX-License-Identifier: MIT
/*
 * Version 1 of the ABI, in numbers.
 *
 * Compiled as a 32-bit and as a 64-bit program; compiling is the test.  A later
 * version adds lines, and changes none but the size of a struct that grew at its
 * end and the version itself: anything else breaks programs that exist.  run.sh
 * sees to it that no field and no constant is missing.
 */
#include <stddef.h>
#include <linux/kvtier.h>

#define SIZE(s, bytes, align)                                       \
	_Static_assert(sizeof(struct s) == (bytes), "size of " #s); \
	_Static_assert(_Alignof(struct s) == (align), "alignment of " #s)
#define FIELD(s, field, at, bytes)                                                     \
	_Static_assert(offsetof(struct s, field) == (at), "offset of " #s "." #field); \
	_Static_assert(sizeof(((struct s *)0)->field) == (bytes), "size of " #s "." #field)
#define VALUE(name, number) _Static_assert((name) == (number), "value of " #name)

SIZE(kvtier_info, 88, 8);
FIELD(kvtier_info, size, 0, 4);
FIELD(kvtier_info, flags, 4, 4);
FIELD(kvtier_info, abi, 8, 4);
FIELD(kvtier_info, __reserved, 12, 4);
FIELD(kvtier_info, features, 16, 8);
FIELD(kvtier_info, free_bytes, 24, 32);
FIELD(kvtier_info, nodes, 56, 32);

SIZE(kvtier_tier_budget, 16, 8);
FIELD(kvtier_tier_budget, bytes, 0, 8);
FIELD(kvtier_tier_budget, nodes, 8, 8);

SIZE(kvtier_pool_create, 128, 8);
FIELD(kvtier_pool_create, size, 0, 4);
FIELD(kvtier_pool_create, flags, 4, 4);
FIELD(kvtier_pool_create, bytes, 8, 8);
FIELD(kvtier_pool_create, block_shift, 16, 4);
FIELD(kvtier_pool_create, io_deadline_ms, 20, 4);
FIELD(kvtier_pool_create, budget, 24, 64);
FIELD(kvtier_pool_create, name, 88, 32);
FIELD(kvtier_pool_create, id, 120, 4);
FIELD(kvtier_pool_create, __reserved, 124, 4);

SIZE(kvtier_pool_budget, 24, 8);
FIELD(kvtier_pool_budget, size, 0, 4);
FIELD(kvtier_pool_budget, tier, 4, 4);
FIELD(kvtier_pool_budget, budget, 8, 16);

SIZE(kvtier_range, 24, 8);
FIELD(kvtier_range, offset, 0, 8);
FIELD(kvtier_range, length, 8, 8);
FIELD(kvtier_range, result, 16, 4);
FIELD(kvtier_range, __reserved, 20, 4);

SIZE(kvtier_range_op, 32, 8);
FIELD(kvtier_range_op, size, 0, 4);
FIELD(kvtier_range_op, op, 4, 4);
FIELD(kvtier_range_op, flags, 8, 4);
FIELD(kvtier_range_op, nr, 12, 4);
FIELD(kvtier_range_op, ranges, 16, 8);
FIELD(kvtier_range_op, tier, 24, 4);
FIELD(kvtier_range_op, done, 28, 4);

SIZE(kvtier_uring_cmd, 16, 8);
FIELD(kvtier_uring_cmd, first_block, 0, 8);
FIELD(kvtier_uring_cmd, nr_blocks, 8, 4);
FIELD(kvtier_uring_cmd, flags, 12, 2);
FIELD(kvtier_uring_cmd, tier, 14, 1);
FIELD(kvtier_uring_cmd, __reserved, 15, 1);

SIZE(kvtier_clone, 48, 8);
FIELD(kvtier_clone, size, 0, 4);
FIELD(kvtier_clone, flags, 4, 4);
FIELD(kvtier_clone, src_fd, 8, 4);
FIELD(kvtier_clone, __reserved, 12, 4);
FIELD(kvtier_clone, src_offset, 16, 8);
FIELD(kvtier_clone, dst_offset, 24, 8);
FIELD(kvtier_clone, length, 32, 8);
FIELD(kvtier_clone, done, 40, 8);

SIZE(kvtier_block_info, 32, 8);
FIELD(kvtier_block_info, generation, 0, 8);
FIELD(kvtier_block_info, slot, 8, 8);
FIELD(kvtier_block_info, heat, 16, 4);
FIELD(kvtier_block_info, crc32c, 20, 4);
FIELD(kvtier_block_info, node, 24, 2);
FIELD(kvtier_block_info, tier, 26, 1);
FIELD(kvtier_block_info, state, 27, 1);
FIELD(kvtier_block_info, flags, 28, 4);

SIZE(kvtier_query, 32, 8);
FIELD(kvtier_query, size, 0, 4);
FIELD(kvtier_query, flags, 4, 4);
FIELD(kvtier_query, first_block, 8, 8);
FIELD(kvtier_query, infos, 16, 8);
FIELD(kvtier_query, nr, 24, 4);
FIELD(kvtier_query, __reserved, 28, 4);

SIZE(kvtier_tier_stats, 64, 8);
FIELD(kvtier_tier_stats, budget_bytes, 0, 8);
FIELD(kvtier_tier_stats, used_bytes, 8, 8);
FIELD(kvtier_tier_stats, peak_bytes, 16, 8);
FIELD(kvtier_tier_stats, bytes_in, 24, 8);
FIELD(kvtier_tier_stats, bytes_out, 32, 8);
FIELD(kvtier_tier_stats, io_errors, 40, 8);
FIELD(kvtier_tier_stats, read_ns, 48, 8);
FIELD(kvtier_tier_stats, write_ns, 56, 8);

SIZE(kvtier_stats, 488, 8);
FIELD(kvtier_stats, size, 0, 4);
FIELD(kvtier_stats, block_shift, 4, 4);
FIELD(kvtier_stats, bytes, 8, 8);
FIELD(kvtier_stats, nr_blocks, 16, 8);
FIELD(kvtier_stats, blocks, 24, 64);
FIELD(kvtier_stats, faults, 88, 8);
FIELD(kvtier_stats, soft_faults, 96, 8);
FIELD(kvtier_stats, hard_faults, 104, 8);
FIELD(kvtier_stats, late_faults, 112, 8);
FIELD(kvtier_stats, zero_faults, 120, 8);
FIELD(kvtier_stats, wp_faults, 128, 8);
FIELD(kvtier_stats, fault_wait_ns, 136, 8);
FIELD(kvtier_stats, prefetched, 144, 8);
FIELD(kvtier_stats, prefetch_used, 152, 8);
FIELD(kvtier_stats, prefetch_wasted, 160, 8);
FIELD(kvtier_stats, promoted, 168, 8);
FIELD(kvtier_stats, demoted, 176, 8);
FIELD(kvtier_stats, written_blocks, 184, 8);
FIELD(kvtier_stats, clean_drops, 192, 8);
FIELD(kvtier_stats, crc_errors, 200, 8);
FIELD(kvtier_stats, bad_blocks, 208, 8);
FIELD(kvtier_stats, enospc, 216, 8);
FIELD(kvtier_stats, transfer_ns, 224, 8);
FIELD(kvtier_stats, tier, 232, 256);

SIZE(kvtier_event, 48, 8);
FIELD(kvtier_event, time_ns, 0, 8);
FIELD(kvtier_event, offset, 8, 8);
FIELD(kvtier_event, length, 16, 8);
FIELD(kvtier_event, generation, 24, 8);
FIELD(kvtier_event, type, 32, 4);
FIELD(kvtier_event, error, 36, 4);
FIELD(kvtier_event, tier, 40, 4);
FIELD(kvtier_event, node, 44, 4);

SIZE(kvtier_slot, 32, 8);
FIELD(kvtier_slot, block, 0, 8);
FIELD(kvtier_slot, slot, 8, 8);
FIELD(kvtier_slot, generation, 16, 8);
FIELD(kvtier_slot, crc32c, 24, 4);
FIELD(kvtier_slot, flags, 28, 4);

SIZE(kvtier_checkpoint, 72, 8);
FIELD(kvtier_checkpoint, size, 0, 4);
FIELD(kvtier_checkpoint, flags, 4, 4);
FIELD(kvtier_checkpoint, offset, 8, 8);
FIELD(kvtier_checkpoint, length, 16, 8);
FIELD(kvtier_checkpoint, slots, 24, 8);
FIELD(kvtier_checkpoint, nr, 32, 4);
FIELD(kvtier_checkpoint, __reserved, 36, 4);
FIELD(kvtier_checkpoint, key, 40, 16);
FIELD(kvtier_checkpoint, store, 56, 16);

SIZE(kvtier_adopt, 56, 8);
FIELD(kvtier_adopt, size, 0, 4);
FIELD(kvtier_adopt, flags, 4, 4);
FIELD(kvtier_adopt, slots, 8, 8);
FIELD(kvtier_adopt, nr, 16, 4);
FIELD(kvtier_adopt, __reserved, 20, 4);
FIELD(kvtier_adopt, key, 24, 16);
FIELD(kvtier_adopt, store, 40, 16);

SIZE(kvtier_release, 24, 4);
FIELD(kvtier_release, size, 0, 4);
FIELD(kvtier_release, flags, 4, 4);
FIELD(kvtier_release, key, 8, 16);

VALUE(KVTIER_TIER_NONE, 0);
VALUE(KVTIER_TIER_DRAM, 1);
VALUE(KVTIER_TIER_CXL, 2);
VALUE(KVTIER_TIER_NVME, 3);

VALUE(KVTIER_BLOCK_EMPTY, 0);
VALUE(KVTIER_BLOCK_OPEN, 1);
VALUE(KVTIER_BLOCK_SEALED, 2);
VALUE(KVTIER_BLOCK_CLEAN, 3);
VALUE(KVTIER_BLOCK_COLD_OPEN, 4);
VALUE(KVTIER_BLOCK_COLD, 5);
VALUE(KVTIER_BLOCK_MOVING, 6);
VALUE(KVTIER_BLOCK_BAD, 7);

VALUE(KVTIER_FEATURE_URING_CMD, 1);
VALUE(KVTIER_FEATURE_SHARED, 2);
VALUE(KVTIER_FEATURE_CLONE_POOLS, 4);
VALUE(KVTIER_FEATURE_PINNABLE, 8);
VALUE(KVTIER_FEATURE_HEAT, 16);
VALUE(KVTIER_FEATURE_FIXED_BUDGET, 32);

VALUE(KVTIER_POOL_PINNABLE, 1);
VALUE(KVTIER_POOL_KEEP, 2);
VALUE(KVTIER_POOL_NO_PREDICT, 4);
VALUE(KVTIER_POOL_FAULT_EVENTS, 8);
VALUE(KVTIER_POOL_FIXED_BUDGET, 16);

VALUE(KVTIER_OP_PROMOTE, 1);
VALUE(KVTIER_OP_DEMOTE, 2);
VALUE(KVTIER_OP_WRITEBACK, 3);
VALUE(KVTIER_OP_SEAL, 4);
VALUE(KVTIER_OP_DISCARD, 5);
VALUE(KVTIER_OP_PIN, 6);
VALUE(KVTIER_OP_UNPIN, 7);
VALUE(KVTIER_OP_COLD, 8);

VALUE(KVTIER_OP_NOWAIT, 1);

VALUE(KVTIER_BLOCKF_DIRTY, 1);
VALUE(KVTIER_BLOCKF_PINNED, 2);
VALUE(KVTIER_BLOCKF_COLD, 4);
VALUE(KVTIER_BLOCKF_MAPPED, 8);
VALUE(KVTIER_BLOCKF_SHARED, 16);

VALUE(KVTIER_EVENT_FAULT, 1);
VALUE(KVTIER_EVENT_LATE, 2);
VALUE(KVTIER_EVENT_IO_ERROR, 3);
VALUE(KVTIER_EVENT_PRESSURE, 4);
VALUE(KVTIER_EVENT_BAD_BLOCK, 5);
VALUE(KVTIER_EVENT_NODE_OFFLINE, 6);
VALUE(KVTIER_EVENT_OVERFLOW, 7);

VALUE(KVTIER_ABI_VERSION, 1);
VALUE(KVTIER_SHIFT_MIN, 16);
VALUE(KVTIER_SHIFT_MAX, 21);
VALUE(KVTIER_FRAMES_MIN, 4);
VALUE(KVTIER_DEADLINE_MS, 30000);
VALUE(KVTIER_ARRAY_MAX, 65536);
VALUE(KVTIER_CLONES_MAX, 4096);
VALUE(KVTIER_NAME_BYTES, 32);
VALUE(KVTIER_KEY_BYTES, 16);
VALUE(KVTIER_UUID_BYTES, 16);
VALUE(KVTIER_NO_SLOT, 0xffffffffffffffffULL);
VALUE(KVTIER_NO_NODE, -1);
VALUE(KVTIER_NR_TIERS, 4);
VALUE(KVTIER_NR_BLOCK_STATES, 8);
VALUE(KVTIER_IOC_TYPE, 'k');
VALUE(KVTIER_IOC_INFO, 0x6ba0);
VALUE(KVTIER_IOC_POOL_CREATE, 0x6ba1);
VALUE(KVTIER_IOC_POOL_BUDGET, 0x6ba2);
VALUE(KVTIER_IOC_RANGE_OP, 0x6ba3);
VALUE(KVTIER_IOC_CLONE, 0x6ba4);
VALUE(KVTIER_IOC_QUERY, 0x6ba5);
VALUE(KVTIER_IOC_STATS, 0x6ba6);
VALUE(KVTIER_IOC_CHECKPOINT, 0x6ba7);
VALUE(KVTIER_IOC_ADOPT, 0x6ba8);
VALUE(KVTIER_IOC_RELEASE, 0x6ba9);

_Static_assert(sizeof(KVTIER_DEVICE) == sizeof("/dev/kvtier"), "value of KVTIER_DEVICE");
