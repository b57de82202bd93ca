// SPDX-License-Identifier: GPL-2.0-only
/*
 * Page tables.  A pool has an inode of its own, whose address space finds every
 * mapping of the pool in any process.  ->fault returns the block's folio and the core
 * makes the entry: of PMD size where block and address allow, of pages otherwise.
 *
 * What keeps bytes right:
 *
 * - A block is taken from all page tables before it moves (kvt_unmap), and its folio
 *   must then have no reference but the frame's: a fault that is still to make its
 *   entry holds one and the folio lock, and so does whoever pinned a page
 *   (kvt_isolate).
 * - Whoever found a block's folio in a page table holds a reference to it, so it
 *   cannot cease to be that block's, or that of one that shares it, meanwhile.
 *   ->page_mkwrite relies on that: it does not own the block, but has the folio lock,
 *   under which a block's way out of a shared frame is taken too.
 * - Pools without KVTIER_POOL_PINNABLE have ->page_mkwrite, so each first store to a
 *   page of a clean block is seen, and a sealed or shared block is never writable.
 *   With it, stores are not seen: a block that was mapped writable counts as dirty.
 * - Who holds pages of a frame that clones had found them through any of these.  So the
 *   frame is written to by the last of them only when nobody holds it (frame->lent).
 */
#include <linux/delay.h>
#include <linux/fs_context.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/pseudo_fs.h>
#include <linux/rmap.h>
#include <linux/slab.h>
#include <linux/writeback.h>

#include "kvtier.h"
#include "trace.h"

#define KVTIER_MAGIC 0x6b767469

static struct vfsmount *mount;
static int mounts;

static int init_fs_context(struct fs_context *fc)
{
	return init_pseudo(fc, KVTIER_MAGIC) ? 0 : -ENOMEM;
}

static struct file_system_type filesystem = {
	.name = "kvtier",
	.owner = THIS_MODULE,
	.init_fs_context = init_fs_context,
	.kill_sb = kill_anon_super,
};

static const struct address_space_operations address_space_ops = {
	.dirty_folio = noop_dirty_folio,
};

int kvt_map_pool(struct kvt_pool *pool)
{
	struct inode *inode;
	int ret;

	ret = simple_pin_fs(&filesystem, &mount, &mounts);
	if (ret)
		return ret;
	inode = alloc_anon_inode(mount->mnt_sb);
	if (IS_ERR(inode)) {
		simple_release_fs(&mount, &mounts);
		return PTR_ERR(inode);
	}
	/* The core makes no PMD entry past the end of a file. */
	i_size_write(inode, pool->bytes);
	inode->i_mapping->a_ops = &address_space_ops;
	pool->inode = inode;
	pool->mapping = inode->i_mapping;
	return 0;
}

void kvt_unmap_pool(struct kvt_pool *pool)
{
	if (!pool->inode)
		return;
	iput(pool->inode);
	simple_release_fs(&mount, &mounts);
}

/* ---- out of the page tables ------------------------------------------------- */

void kvt_unmap(struct kvt_pool *pool, u64 nr, u64 blocks)
{
	struct kvt_block *block;
	bool mapped = false;
	u64 i;

	for (i = 0; i < blocks; i++) {
		block = kvt_block_peek(pool, nr + i);
		if (block && test_and_clear_bit(KVT_BLOCK_MAPPED, &block->flags))
			mapped = true;
	}
	if (!mapped)
		return;
	unmap_mapping_range(pool->mapping, nr << pool->block_shift, blocks << pool->block_shift, 1);
	kvt_count(pool, KVT_UNMAPS);
}

/* A thread between finding a page and letting go of it may lose its processor meanwhile. */
#define ISOLATE_TRIES 20
#define ISOLATE_PATIENCE_US 100

/*
 * With the folio locked no fault is about to make an entry.  Nor does a clone come to have the
 * frame under lru_lock: if nobody has or holds it then, it is the block's as if never lent.
 */
static bool freeze_alone(struct kvt_pool *pool, struct kvt_frame *frame)
{
	bool alone;

	spin_lock(&pool->lru_lock);
	alone = folio_ref_freeze(frame->folio, 1);
	if (alone) {
		folio_ref_unfreeze(frame->folio, 1);
		if (frame->sharers == 1)
			WRITE_ONCE(frame->lent, false);
	}
	spin_unlock(&pool->lru_lock);
	return alone;
}

static bool take_alone(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	struct folio *folio = block->frame->folio;

	kvt_unmap(pool, nr, 1);
	if (!freeze_alone(pool, block->frame))
		return false;
	if (folio_test_clear_dirty(folio))
		kvt_set_dirty(block);
	return true;
}

int kvt_isolate(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	struct folio *folio = block->frame->folio;
	bool alone;
	int try;

	for (try = 0; try < ISOLATE_TRIES; try++) {
		if (try)
			usleep_range(try * ISOLATE_PATIENCE_US / 2, try * ISOLATE_PATIENCE_US);
		folio_lock(folio);
		alone = take_alone(pool, nr, block);
		folio_unlock(folio);
		if (alone)
			return 0;
	}
	kvt_count(pool, KVT_PINNED_BUSY);
	return -EBUSY;
}

/* Its own entries only; the frame stays where it is, for others. */
static void unmap_shared(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	struct folio *folio = block->frame->folio;

	folio_lock(folio);
	kvt_unmap(pool, nr, 1);
	folio_unlock(folio);
}

int kvt_withdraw(struct kvt_pool *pool, u64 nr, struct kvt_block *block, bool *isolated)
{
	*isolated = false;
	while (!kvt_frame_shared(block->frame)) {
		if (!kvt_isolate(pool, nr, block)) {
			*isolated = true;
			return 0;
		}
		if (!kvt_frame_shared(block->frame)) /* else a clone came to have it */
			return -EBUSY;
	}
	unmap_shared(pool, nr, block);
	return 0;
}

int kvt_isolate_try(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	struct folio *folio = block->frame->folio;
	bool alone;

	if (!folio_trylock(folio))
		return -EBUSY;
	alone = take_alone(pool, nr, block);
	folio_unlock(folio);
	return alone ? 0 : -EBUSY;
}

/* The same for all the blocks of a shared frame (owner of them all). */
int kvt_isolate_group(struct kvt_pool *pool, const struct kvt_group *group)
{
	struct kvt_block *block = kvt_block_peek(pool, group->at[0]);
	struct folio *folio = block->frame->folio;
	u32 i;

	folio_lock(folio);
	for (i = 1; i < group->nr; i++)
		kvt_unmap(pool, group->at[i], 1);
	folio_unlock(folio);
	return kvt_isolate(pool, group->at[0], block);
}

void kvt_write_protect(struct kvt_pool *pool, struct kvt_block *block)
{
	struct folio *folio = block->frame->folio;

	folio_lock(folio);
	folio_mkclean(folio);
	if (folio_test_clear_dirty(folio))
		kvt_set_dirty(block); /* by somebody who held its pages: it has changed */
	clear_bit(KVT_BLOCK_DIRTY, &block->flags);
	folio_unlock(folio);
}

/* ---- into them ----------------------------------------------------------------- */

#if !KVT_CORE_MAPS_FOLIO
#define INSERT_PAGES 16

static int insert_pages(struct vm_area_struct *vma, unsigned long addr, struct folio *folio,
			unsigned long first, unsigned long nr)
{
	struct page *pages[INSERT_PAGES];
	unsigned long i, left = nr;
	bool poisoned = false;
	int ret = -EBUSY;

	for (i = 0; i < nr; i++) {
		pages[i] = folio_page(folio, first + i);
		poisoned |= PageHWPoison(pages[i]);
	}
	if (!poisoned)
		ret = vm_insert_pages(vma, addr, pages, &left);
	/* Some are there: another thread was faster, or only a part was unmapped. */
	for (i = 0; ret == -EBUSY && i < nr; i++) {
		int one = -EBUSY; /* a memory error: its own touch will tell */

		if (!PageHWPoison(pages[i]))
			one = vm_insert_page(vma, addr + i * PAGE_SIZE, pages[i]);
		if (one && one != -EBUSY)
			ret = one;
	}
	return ret == -EBUSY ? 0 : ret;
}

/* Map what the VMA has of a block, for reading; folio locked. */
vm_fault_t kvt_insert_block(struct kvt_pool *pool, struct vm_fault *vmf, struct folio *folio)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long sub = vmf->pgoff & ((1UL << pool->order) - 1);
	unsigned long addr = vmf->address & PAGE_MASK;
	unsigned long before = min(sub, (addr - vma->vm_start) >> PAGE_SHIFT);
	unsigned long after = min((1UL << pool->order) - sub, (vma->vm_end - addr) >> PAGE_SHIFT);
	unsigned long i, nr;
	int ret = 0;

	for (i = sub - before; !ret && i < sub + after; i += nr) {
		nr = min_t(unsigned long, INSERT_PAGES, sub + after - i);
		ret = insert_pages(vma, addr + (i - sub) * PAGE_SIZE, folio, i, nr);
	}
	if (ret == -ENOMEM)
		return VM_FAULT_OOM;
	return ret ? VM_FAULT_SIGBUS : VM_FAULT_NOPAGE;
}

bool kvt_inserts_blocks(struct kvt_pool *pool)
{
	return pool->order < HPAGE_PMD_ORDER;
}
#endif

/*
 * The first store to a page that is mapped read-only.  The caller holds a reference
 * to the folio, which it found in a page table at this address.
 */
vm_fault_t kvt_mkwrite(struct vm_fault *vmf)
{
	struct kvt_pool *pool = vmf->vma->vm_private_data;
	u64 nr = vmf->pgoff >> pool->order;
	struct kvt_block *block = kvt_block_peek(pool, nr);
	struct folio *folio = page_folio(vmf->page);
	vm_fault_t ret = VM_FAULT_LOCKED;

	if (pte_present(vmf->orig_pte))
		kvt_count(pool, KVT_WP_FAULTS);
	folio_lock(folio);
	if (READ_ONCE(block->frame) != folio->private) {
		ret = VM_FAULT_NOPAGE; /* moved meanwhile: touch it again */
	} else if (test_bit(KVT_BLOCK_SEALED, &block->flags)) {
		ret = VM_FAULT_SIGBUS;
	} else if (kvt_is_lent(nr, block)) {
		/* The touch after this one comes to ->fault, which makes a copy. */
		unmap_mapping_range(pool->mapping, nr << pool->block_shift,
				    kvt_block_bytes(pool), 1);
		ret = VM_FAULT_NOPAGE;
	} else {
		folio->index = (pgoff_t)nr << pool->order; /* it may have been a clone's */
		kvt_set_dirty(block);
		set_bit(KVT_BLOCK_MAPPED, &block->flags); /* it may have been unmapped meanwhile */
	}
	if (ret != VM_FAULT_LOCKED)
		folio_unlock(folio);
	return ret;
}

/* ---- mappings ----------------------------------------------------------------------- */

#if KVT_WANTS_MAP_PAGES
static vm_fault_t map_pages(struct vm_fault *vmf, pgoff_t first, pgoff_t last)
{
	return 0;
}
#endif

#ifdef CONFIG_NUMA
/* Without one of its own that lacks MPOL_F_MOF a mapping is scanned by NUMA balancing. */
static struct mempolicy mempolicy = { .refcnt = ATOMIC_INIT(1), .mode = MPOL_LOCAL };

static struct mempolicy *get_policy(KVT_GET_POLICY_ARGS)
{
	kvt_get_policy_ilx();
	return &mempolicy;
}
#endif

static const struct vm_operations_struct tracked_ops = {
	.fault = kvt_fault,
	.page_mkwrite = kvt_mkwrite,
#if KVT_WANTS_MAP_PAGES
	.map_pages = map_pages,
#endif
#ifdef CONFIG_NUMA
	.get_policy = get_policy,
#endif
};

static const struct vm_operations_struct pinnable_ops = {
	.fault = kvt_fault,
#if KVT_WANTS_MAP_PAGES
	.map_pages = map_pages,
#endif
#ifdef CONFIG_NUMA
	.get_policy = get_policy,
#endif
};

bool kvt_is_our_vma(const struct vm_area_struct *vma, const struct kvt_pool *pool)
{
	return (vma->vm_ops == &tracked_ops || vma->vm_ops == &pinnable_ops) &&
	       vma->vm_private_data == pool;
}

int kvt_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct kvt_pool *pool = kvt_pool_of(file);

	if (!pool)
		return -ENXIO;
	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (vma->vm_pgoff + vma_pages(vma) < vma->vm_pgoff ||
	    vma->vm_pgoff + vma_pages(vma) > pool->bytes >> PAGE_SHIFT)
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EACCES;
	kvt_vma_clear_flags(vma, VM_MAYEXEC);
	kvt_vma_set_flags(vma, VM_DONTEXPAND | VM_DONTDUMP);
#if !KVT_CORE_MAPS_FOLIO
	/* Not for PMD entries: of such a mapping the core would not give them back. */
	if (kvt_inserts_blocks(pool))
		kvt_vma_set_flags(vma, VM_MIXEDMAP);
#endif
	vma->vm_private_data = pool;
	vma->vm_ops = pool->flags & KVTIER_POOL_PINNABLE ? &pinnable_ops : &tracked_ops;
	return 0;
}
