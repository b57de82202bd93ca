/* SPDX-License-Identifier: GPL-2.0-only */
/* What differs between the kernels that kvtier supports, 6.1 to 6.18.  Only here. */
#ifndef KVT_COMPAT_H
#define KVT_COMPAT_H

#include <linux/device.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mempolicy.h>
#include <linux/memcontrol.h>
#include <linux/version.h>
#include <linux/pagemap.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
#include <linux/io_uring/cmd.h>
#else
#include <linux/io_uring.h>
#endif

#include "bdev.h"

#define KVT_KERNEL(a, b) (LINUX_VERSION_CODE >= KERNEL_VERSION(a, b, 0))

/* class_create() lost its owner in 6.4. */
static inline struct class *kvt_class_create(const char *name)
{
#if KVT_KERNEL(6, 4)
	return class_create(name);
#else
	return class_create(THIS_MODULE, name);
#endif
}

/* Class attributes' show and store got a const class in 6.4. */
#if KVT_KERNEL(6, 4)
#define KVT_CLASS_CONST const
#else
#define KVT_CLASS_CONST
#endif

/* A binary attribute's read got a const attribute in 6.16. */
#if KVT_KERNEL(6, 16)
#define KVT_BIN_CONST const
#else
#define KVT_BIN_CONST
#endif

/* hex2bin() is not in linux/kernel.h any more; 6.12 has its new header, 6.1 does not. */
#if KVT_KERNEL(6, 12)
#include <linux/hex.h>
#else
#include <linux/kernel.h>
#endif

static inline void kvt_vma_set_flags(struct vm_area_struct *vma, unsigned long flags)
{
#if KVT_KERNEL(6, 3)
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
}

static inline void kvt_vma_clear_flags(struct vm_area_struct *vma, unsigned long flags)
{
#if KVT_KERNEL(6, 3)
	vm_flags_clear(vma, flags);
#else
	vma->vm_flags &= ~flags;
#endif
}

/* Let go of the lock under which a fault was called; only before VM_FAULT_RETRY. */
static inline void kvt_release_fault_lock(struct vm_fault *vmf)
{
#if KVT_KERNEL(6, 4)
	release_fault_lock(vmf);
#else
	mmap_read_unlock(vmf->vma->vm_mm);
#endif
}

/*
 * Before 6.18 the core maps one page of a folio below PMD size at a fault; then
 * map.c inserts the whole block itself.
 */
#define KVT_CORE_MAPS_FOLIO KVT_KERNEL(6, 18)

/*
 * A ->map_pages that maps nothing makes the core call ->fault under the VMA lock,
 * from 6.6 on.  Before that it would only cost time.
 */
#define KVT_WANTS_MAP_PAGES KVT_KERNEL(6, 6)

#ifdef CONFIG_NUMA
#if KVT_KERNEL(6, 7)
#define KVT_GET_POLICY_ARGS \
	struct vm_area_struct *vma, unsigned long addr, pgoff_t *ilx
#define kvt_get_policy_ilx() (*ilx = 0)
#else
#define KVT_GET_POLICY_ARGS struct vm_area_struct *vma, unsigned long addr
#define kvt_get_policy_ilx() ((void)0)
#endif
#endif

static inline struct mem_cgroup *kvt_memcg_of_current(void)
{
#ifdef CONFIG_MEMCG
	return get_mem_cgroup_from_mm(current->mm);
#else
	return NULL;
#endif
}

static inline void kvt_memcg_put(struct mem_cgroup *memcg)
{
#ifdef CONFIG_MEMCG
	if (memcg)
		mem_cgroup_put(memcg);
#endif
}

/* What may still be charged to it and to those above it, in bytes. */
static inline u64 kvt_memcg_room(struct mem_cgroup *memcg)
{
	u64 room = ULONG_MAX;
#ifdef CONFIG_MEMCG
	for (; memcg; memcg = parent_mem_cgroup(memcg)) {
		unsigned long used = page_counter_read(&memcg->memory);
		unsigned long most = READ_ONCE(memcg->memory.max);

		room = min_t(u64, room, most > used ? (u64)(most - used) << PAGE_SHIFT : 0);
	}
#endif
	return room;
}

/* What a submission asked for in sqe->uring_cmd_flags. */
static inline u32 kvt_uring_flags(const struct io_uring_cmd *cmd)
{
#ifdef IORING_URING_CMD_MASK
	return cmd->flags & IORING_URING_CMD_MASK;
#else
	return cmd->flags & IORING_URING_CMD_FIXED;
#endif
}

/* What a 16-byte io_uring command carries. */
static inline const void *kvt_uring_payload(struct io_uring_cmd *cmd)
{
#if defined(io_uring_sqe128_cmd)
	return cmd->sqe->cmd;
#elif KVT_KERNEL(6, 6)
	return io_uring_sqe_cmd(cmd->sqe);
#else
	return cmd->cmd;
#endif
}

/*
 * The head of a function that io_uring_cmd_complete_in_task() calls, and what begins
 * its body: the command and the flags to complete it with.
 */
#ifdef IO_URING_CMD_TASK_WORK_ISSUE_FLAGS
#define KVT_URING_TASK(name) void name(struct io_tw_req kvt_tw, io_tw_token_t kvt_token)
#define KVT_URING_TASK_BEGIN(cmd, flags)				\
	struct io_uring_cmd *cmd = io_uring_cmd_from_tw(kvt_tw);	\
	unsigned int flags = IO_URING_CMD_TASK_WORK_ISSUE_FLAGS
#else
#define KVT_URING_TASK(name) void name(struct io_uring_cmd *kvt_cmd, unsigned int kvt_flags)
#define KVT_URING_TASK_BEGIN(cmd, flags)	\
	struct io_uring_cmd *cmd = kvt_cmd;	\
	unsigned int flags = kvt_flags
#endif

/*
 * From 6.7 on a command can be told that its ring or its task goes: by ->uring_cmd with
 * this flag, under the ring's lock, and only as long as it is not done.
 */
#if KVT_KERNEL(6, 7)
#define KVT_URING_F_CANCEL IO_URING_F_CANCEL
#else
#define KVT_URING_F_CANCEL 0U
#endif

static inline void kvt_uring_mark_cancelable(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
#if KVT_KERNEL(6, 7)
	io_uring_cmd_mark_cancelable(cmd, issue_flags);
#endif
}

/* Complete a command; 6.18 dropped the second result. */
static inline void kvt_uring_done(struct io_uring_cmd *cmd, int result, unsigned int issue_flags)
{
#if KVT_KERNEL(6, 18)
	io_uring_cmd_done(cmd, result, issue_flags);
#else
	io_uring_cmd_done(cmd, result, 0, issue_flags);
#endif
}

#endif
