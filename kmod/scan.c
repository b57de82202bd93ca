// SPDX-License-Identifier: GPL-2.0-only
/*
 * Heat.  The processor marks a page table entry that it uses; the worker comes by
 * every scan_period_ms, looks which blocks have such marks, and takes the marks away.
 * A frame's heat grows by HEAT_USE if it was used since, and loses a quarter each
 * time, so a frame that is used in every period gets to 255 and one that no longer is
 * falls to 0 in thirteen.
 *
 * The marks say when an entry was last loaded into a TLB, not when it was last used: one
 * that stays in a TLB looks idle.  So a frame that has come to 0 is put on probation, where
 * memory does not hold the pool: it is taken out of the page tables and stays where it is.
 * If it is touched again, that costs a soft fault, and shows that it is in use.
 *
 * A pool is looked at in windows of blocks, and at most SLICE_NS long at a time; the next
 * time it goes on from there.  The core has functions to walk page tables, and exports
 * none of them.
 */
#include <linux/bitmap.h>
#include <linux/ktime.h>
#include <linux/pgtable.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "compat/pte.h"
#include "kvtier.h"

#define WINDOW_BLOCKS 4096
#define SLICE_NS (10 * NSEC_PER_MSEC)
#define MAPPINGS_MAX 1024 /* of further mappings nothing is learned */

#define HEAT_USE KVT_HEAT_USE
#define HEAT_MAX 255
#define PROBE_MAX 256 /* blocks put on probation in a scan */

struct window {
	u64 first;
	u32 nr;
	DECLARE_BITMAP(used, WINDOW_BLOCKS);
};

/* Where a mapping of the pool was; to be looked up again. */
struct mapping {
	struct mm_struct *mm; /* mmgrab() */
	unsigned long start;
};

struct mappings {
	u32 nr;
	struct mapping at[MAPPINGS_MAX];
};

/* ---- page tables --------------------------------------------------------------- */

/* Entries of pages, in one table. */
static bool used_ptes(struct vm_area_struct *vma, pmd_t *pmd, pmd_t table, unsigned long addr,
		      unsigned long end)
{
	spinlock_t *lock = pte_lockptr(vma->vm_mm, &table);
	bool used = false;
	pte_t *pte;

	spin_lock(lock);
	/* Else the table has been taken away; RCU keeps its memory. */
	if (pmd_val(READ_ONCE(*pmd)) == pmd_val(table)) {
		pte = pte_offset_kernel(&table, addr);
		for (; addr < end; addr += PAGE_SIZE, pte++) {
			if (pte_present(*pte) && pte_young(*pte))
				used |= kvt_pte_clear_young(vma, addr, pte);
		}
	}
	spin_unlock(lock);
	return used;
}

/* An entry of PMD size. */
static bool used_pmd(struct vm_area_struct *vma, pmd_t *pmd, unsigned long addr)
{
	spinlock_t *lock = pmd_lock(vma->vm_mm, pmd);
	bool used = false;

	if (pmd_present(*pmd) && pmd_leaf(*pmd) && pmd_young(*pmd))
		used = kvt_pmd_clear_young(vma, addr, pmd);
	spin_unlock(lock);
	return used;
}

static pmd_t *find_pmd(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pud;

	if (pgd_none(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	if (p4d_none(*p4d))
		return NULL;
	pud = pud_offset(p4d, addr);
	if (pud_none(*pud) || pud_leaf(*pud))
		return NULL;
	return pmd_offset(pud, addr);
}

/* Within what one PMD entry covers. */
static bool used_here(struct vm_area_struct *vma, unsigned long addr, unsigned long end)
{
	pmd_t *pmd = find_pmd(vma->vm_mm, addr), value;
	bool used = false;

	if (!pmd)
		return false;
	rcu_read_lock();
	value = READ_ONCE(*pmd);
	if (pmd_present(value) && pmd_leaf(value))
		used = used_pmd(vma, pmd, addr);
	else if (pmd_present(value))
		used = used_ptes(vma, pmd, value, addr, end);
	rcu_read_unlock();
	return used;
}

static bool used_range(struct vm_area_struct *vma, unsigned long addr, unsigned long end)
{
	unsigned long next;
	bool used = false;

	for (; addr < end; addr = next) {
		next = pmd_addr_end(addr, end);
		used |= used_here(vma, addr, next);
	}
	return used;
}

/* ---- mappings --------------------------------------------------------------------- */

static bool used_block(struct kvt_pool *pool, struct vm_area_struct *vma, u64 nr)
{
	pgoff_t first = max_t(pgoff_t, nr << pool->order, vma->vm_pgoff);
	pgoff_t end = min_t(pgoff_t, (nr + 1) << pool->order, vma->vm_pgoff + vma_pages(vma));
	unsigned long base = vma->vm_start - (vma->vm_pgoff << PAGE_SHIFT);

	return used_range(vma, base + (first << PAGE_SHIFT), base + (end << PAGE_SHIFT));
}

static void look_at_vma(struct kvt_pool *pool, struct vm_area_struct *vma, struct window *window)
{
	u64 first = vma->vm_pgoff >> pool->order;
	u64 end = ((vma->vm_pgoff + vma_pages(vma) - 1) >> pool->order) + 1;
	struct kvt_block *block;
	u64 nr;

	end = min(end, window->first + window->nr);
	for (nr = max(first, window->first); nr < end; nr++) {
		block = kvt_block_peek(pool, nr);
		if (!block)
			nr |= KVT_CHUNK_BLOCKS - 1; /* nor the rest of its chunk */
		else if (test_bit(KVT_BLOCK_MAPPED, &block->flags) && used_block(pool, vma, nr))
			__set_bit(nr - window->first, window->used);
	}
}

/* The mapping, if it is still there and its process is not busy with changes to it. */
static void look_at_mapping(struct kvt_pool *pool, const struct mapping *mapping,
			    struct window *window)
{
	struct vm_area_struct *vma;

	if (!mmget_not_zero(mapping->mm))
		return;
	if (mmap_read_trylock(mapping->mm)) {
		vma = find_vma(mapping->mm, mapping->start);
		if (vma && vma->vm_start <= mapping->start && kvt_is_our_vma(vma, pool))
			look_at_vma(pool, vma, window);
		mmap_read_unlock(mapping->mm);
	}
	mmput(mapping->mm);
}

static struct mappings *find_mappings(struct kvt_pool *pool)
{
	struct mappings *mappings = kvmalloc(sizeof(*mappings), GFP_KERNEL);
	struct kvt_vma *v;

	if (!mappings)
		return NULL;
	mappings->nr = 0;
	mutex_lock(&pool->vma_lock);
	list_for_each_entry(v, &pool->vmas, link) {
		struct mapping *mapping = &mappings->at[mappings->nr];

		if (mappings->nr == MAPPINGS_MAX)
			break;
		mapping->mm = v->vma->vm_mm;
		mapping->start = READ_ONCE(v->vma->vm_start);
		mmgrab(mapping->mm);
		mappings->nr++;
	}
	mutex_unlock(&pool->vma_lock);
	return mappings;
}

static void drop_mappings(struct mappings *mappings)
{
	while (mappings->nr)
		mmdrop(mappings->at[--mappings->nr].mm);
	kvfree(mappings);
}

/* ---- frames ------------------------------------------------------------------------- */

/*
 * A frame that clones have is warmed by each of them, and cools once.  One that is not
 * mapped has not been shown to be idle: it may have been brought in ahead of its touch.
 * But on probation it has.
 */
static void update_frame(struct kvt_frame *frame, u64 nr, const struct kvt_block *block, bool used)
{
	u32 heat = frame->heat;

	if (frame->block == nr)
		heat -= DIV_ROUND_UP(heat, 4);
	if (used)
		heat = min_t(u32, heat + HEAT_USE, HEAT_MAX);
	else if (!heat && !frame->probed && !test_bit(KVT_BLOCK_MAPPED, &block->flags))
		heat = 1;
	frame->heat = heat;
}

static void update_chunk(struct kvt_pool *pool, u64 first, u64 end, const struct window *window)
{
	struct kvt_block *block;
	u64 nr;

	spin_lock(&pool->lru_lock); /* no frame is freed meanwhile */
	for (nr = first; nr < end; nr++) {
		block = kvt_block_peek(pool, nr);
		if (!block->frame)
			continue;
		update_frame(block->frame, nr, block,
			     test_bit(nr - window->first, window->used));
		if (block->frame->list == KVT_LIST_HELD &&
		    !folio_maybe_dma_pinned(block->frame->folio))
			kvt_frame_list(pool, block->frame, KVT_LIST_ACTIVE);
	}
	spin_unlock(&pool->lru_lock);
}

static void update_frames(struct kvt_pool *pool, const struct window *window)
{
	u64 nr, next, end = window->first + window->nr;

	for (nr = window->first; nr < end; nr = next) {
		next = min_t(u64, end, round_down(nr, KVT_CHUNK_BLOCKS) + KVT_CHUNK_BLOCKS);
		if (kvt_block_peek(pool, nr))
			update_chunk(pool, nr, next, window);
	}
}

/* ---- probation ------------------------------------------------------------------------ */

static bool seems_idle(const struct kvt_block *block)
{
	return test_bit(KVT_BLOCK_MAPPED, &block->flags) && !test_bit(KVT_BLOCK_BUSY, &block->flags);
}

/* Owner of the block; nothing is waited for. */
static bool probe(struct kvt_pool *pool, u64 nr, struct kvt_block *block)
{
	struct kvt_frame *frame = block->frame;

	if (!frame || frame->heat || frame->probed || block->pins || kvt_frame_shared(frame) ||
	    !folio_trylock(frame->folio))
		return false;
	kvt_unmap(pool, nr, 1);
	frame->probed = true;
	folio_unlock(frame->folio);
	return true;
}

static u32 probe_window(struct kvt_pool *pool, const struct window *window, u32 left)
{
	struct kvt_block *block;
	u64 nr;

	for (nr = window->first; left && nr < window->first + window->nr; nr++) {
		block = kvt_block_peek(pool, nr);
		if (!block) {
			nr |= KVT_CHUNK_BLOCKS - 1;
			continue;
		}
		if (!seems_idle(block) || !kvt_block_try(block))
			continue;
		left -= probe(pool, nr, block);
		kvt_block_unlock(pool, block);
	}
	return left;
}

static bool fits(struct kvt_pool *pool)
{
	return READ_ONCE(pool->share[KVTIER_TIER_DRAM].budget) >= pool->nr_blocks;
}

/* ---- the scan ------------------------------------------------------------------------- */

static bool is_empty(struct kvt_pool *pool, const struct window *window)
{
	u64 nr;

	for (nr = window->first; nr < window->first + window->nr; nr += KVT_CHUNK_BLOCKS) {
		if (kvt_block_peek(pool, nr))
			return false;
	}
	return true;
}

/* How many more may be put on probation. */
static u32 scan_window(struct kvt_pool *pool, const struct mappings *mappings,
		       struct window *window, u32 probes)
{
	u32 i;

	if (is_empty(pool, window))
		return probes;
	bitmap_zero(window->used, WINDOW_BLOCKS);
	for (i = 0; i < mappings->nr; i++) {
		look_at_mapping(pool, &mappings->at[i], window);
		cond_resched();
	}
	update_frames(pool, window);
	return probe_window(pool, window, probes);
}

void kvt_scan_pool(struct kvt_pool *pool)
{
	struct mappings *mappings = find_mappings(pool);
	struct window window = { .first = pool->scan_hand };
	u64 start = ktime_get_ns(), left = pool->nr_blocks;
	u32 probes = fits(pool) ? 0 : PROBE_MAX;

	if (!mappings)
		return; /* another time */
	for (; left && ktime_get_ns() - start < SLICE_NS; left -= window.nr) {
		window.nr = min3(left, (u64)WINDOW_BLOCKS, pool->nr_blocks - window.first);
		probes = scan_window(pool, mappings, &window, probes);
		window.first += window.nr;
		if (window.first == pool->nr_blocks)
			window.first = 0;
		cond_resched();
	}
	pool->scan_hand = (u32)window.first;
	drop_mappings(mappings);
}
