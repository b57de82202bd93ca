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
 * A pool is looked at in windows of blocks, and at most SLICE_NS long at a time, however many
 * mappings it has; the next time it goes on from there.  The core has functions to walk page
 * tables, and exports none of them.
 */
#include <linux/ktime.h>
#include <linux/pgtable.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "compat/pte.h"
#include "kvtier.h"

#define SLICE_NS (10 * NSEC_PER_MSEC)
#define STEP 64 /* blocks between looks at the clock */
#define MAPPINGS_MAX 1024 /* of further mappings nothing is learned */

#define HEAT_USE KVT_HEAT_USE
#define HEAT_MAX 255
#define PROBE_MAX 256 /* blocks put on probation in a scan */

/* Where a mapping of the pool was; to be looked up again. */
struct mapping {
	struct mm_struct *mm; /* mmgrab() */
	unsigned long start;
};

struct mappings {
	u32 nr;
	struct mapping at[MAPPINGS_MAX];
};

/* One look at a pool. */
struct look {
	struct kvt_pool *pool;
	struct mappings *mappings;
	u64 until; /* ns */
	u32 nr; /* blocks of the window */
	u32 probes; /* how many more may be put on probation */
};

static bool is_late(const struct look *look)
{
	cond_resched();
	return ktime_get_ns() >= look->until;
}

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

/* false: there was no time for all of its blocks. */
static bool look_at_vma(const struct look *look, struct vm_area_struct *vma)
{
	struct kvt_pool *pool = look->pool;
	struct kvt_scan *scan = &pool->scan;
	u64 first = vma->vm_pgoff >> pool->order;
	u64 end = ((vma->vm_pgoff + vma_pages(vma) - 1) >> pool->order) + 1;
	struct kvt_block *block;
	u32 looked = 0;
	u64 nr;

	end = min(end, scan->first + look->nr);
	for (nr = max3(first, scan->first, scan->block); nr < end; nr++) {
		block = kvt_block_peek(pool, nr);
		if (!block)
			nr |= KVT_CHUNK_BLOCKS - 1; /* nor the rest of its chunk */
		else if (test_bit(KVT_BLOCK_MAPPED, &block->flags) && used_block(pool, vma, nr))
			__set_bit(nr - scan->first, scan->used);
		if (!(++looked % STEP) && is_late(look)) {
			scan->block = nr + 1;
			return false;
		}
	}
	return true;
}

/* The mapping, if it is still there and its process is not busy with changes to it. */
static bool look_at_mapping(const struct look *look, const struct mapping *mapping)
{
	struct vm_area_struct *vma;
	bool done = true;

	if (!mmget_not_zero(mapping->mm))
		return true;
	if (mmap_read_trylock(mapping->mm)) {
		vma = find_vma(mapping->mm, mapping->start);
		if (vma && vma->vm_start <= mapping->start && kvt_is_our_vma(vma, look->pool))
			done = look_at_vma(look, vma);
		mmap_read_unlock(mapping->mm);
	}
	mmput(mapping->mm);
	return done;
}

/* Those of the pool's file that come first in it. */
static struct mappings *find_mappings(struct kvt_pool *pool)
{
	struct mappings *mappings = kvmalloc(sizeof(*mappings), GFP_KERNEL);
	const struct vm_area_struct *vma;
	struct mapping *mapping;
	struct rb_node *node;

	if (!mappings)
		return NULL;
	mappings->nr = 0;
	i_mmap_lock_read(pool->mapping);
	for (node = rb_first_cached(&pool->mapping->i_mmap);
	     node && mappings->nr < MAPPINGS_MAX; node = rb_next(node)) {
		vma = rb_entry(node, struct vm_area_struct, shared.rb);
		mapping = &mappings->at[mappings->nr++];
		mapping->mm = vma->vm_mm;
		mapping->start = READ_ONCE(vma->vm_start);
		mmgrab(mapping->mm);
	}
	i_mmap_unlock_read(pool->mapping);
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

static void update_chunk(struct kvt_pool *pool, u64 first, u64 end)
{
	struct kvt_block *block;
	u64 nr;

	spin_lock(&pool->lru_lock); /* no frame is freed meanwhile */
	for (nr = first; nr < end; nr++) {
		block = kvt_block_peek(pool, nr);
		if (!block->frame)
			continue;
		update_frame(block->frame, nr, block,
			     test_bit(nr - pool->scan.first, pool->scan.used));
		if (block->frame->list == KVT_LIST_HELD &&
		    !folio_maybe_dma_pinned(block->frame->folio))
			kvt_frame_list(pool, block->frame, KVT_LIST_ACTIVE);
	}
	spin_unlock(&pool->lru_lock);
}

static void update_frames(const struct look *look)
{
	struct kvt_pool *pool = look->pool;
	u64 nr, next, end = pool->scan.first + look->nr;

	for (nr = pool->scan.first; nr < end; nr = next) {
		next = min_t(u64, end, round_down(nr, KVT_CHUNK_BLOCKS) + KVT_CHUNK_BLOCKS);
		if (kvt_block_peek(pool, nr))
			update_chunk(pool, nr, next);
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

static void probe_window(struct look *look)
{
	struct kvt_pool *pool = look->pool;
	struct kvt_block *block;
	u64 nr, end = pool->scan.first + look->nr;

	for (nr = pool->scan.first; look->probes && nr < end; nr++) {
		block = kvt_block_peek(pool, nr);
		if (!block) {
			nr |= KVT_CHUNK_BLOCKS - 1;
			continue;
		}
		if (!seems_idle(block) || !kvt_block_try(block))
			continue;
		look->probes -= probe(pool, nr, block);
		kvt_block_unlock(pool, block);
	}
}

static bool fits(struct kvt_pool *pool)
{
	return READ_ONCE(pool->share[KVTIER_TIER_DRAM].budget) >= pool->nr_blocks;
}

/* ---- the scan ------------------------------------------------------------------------- */

static bool is_empty(const struct look *look)
{
	u64 nr, first = look->pool->scan.first;

	for (nr = first; nr < first + look->nr; nr += KVT_CHUNK_BLOCKS) {
		if (kvt_block_peek(look->pool, nr))
			return false;
	}
	return true;
}

/* false: there was no time for all of them. */
static bool look_at_mappings(const struct look *look)
{
	struct kvt_scan *scan = &look->pool->scan;

	while (scan->mapping < look->mappings->nr) {
		if (!look_at_mapping(look, &look->mappings->at[scan->mapping]))
			return false;
		scan->mapping++;
		scan->block = 0;
		if (is_late(look))
			return false;
	}
	return true;
}

/* What was seen in any of the mappings counts once all have been looked at. */
static bool scan_window(struct look *look)
{
	if (is_empty(look))
		return true;
	if (!look_at_mappings(look))
		return false;
	update_frames(look);
	probe_window(look);
	return true;
}

static void next_window(const struct look *look)
{
	u64 next = look->pool->scan.first + look->nr;

	look->pool->scan = (struct kvt_scan){ .first = next < look->pool->nr_blocks ? next : 0 };
}

void kvt_scan_pool(struct kvt_pool *pool)
{
	struct look look = { .pool = pool, .mappings = find_mappings(pool) };
	u64 left = pool->nr_blocks;

	if (!look.mappings)
		return; /* another time */
	look.until = ktime_get_ns() + SLICE_NS;
	look.probes = fits(pool) ? 0 : PROBE_MAX;
	while (left) {
		look.nr = min3(left, (u64)KVT_SCAN_WINDOW, pool->nr_blocks - pool->scan.first);
		if (!scan_window(&look))
			break;
		next_window(&look);
		left -= look.nr;
		if (is_late(&look))
			break;
	}
	drop_mappings(look.mappings);
}
