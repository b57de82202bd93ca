// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory to memory.  A large block goes to a DMA engine (copy_dma.c), so that the
 * processor can do something else; what an engine cannot do now, or does wrong, the
 * processor does.  It reads in a way that survives a memory error in the source.
 */
#include <linux/highmem.h>
#include <linux/page-flags.h>
#include <linux/sched.h>
#include <linux/uaccess.h>

#include "copy.h"

#define PAGES_AT_A_TIME 16 /* between looks at whether others want the processor */

/* A DMA engine may do worse than fail when it reads such a page. */
static bool is_poisoned(struct folio *folio, u64 bytes)
{
	unsigned long i;

	for (i = 0; i < bytes >> PAGE_SHIFT; i++) {
		if (PageHWPoison(folio_page(folio, i)))
			return true;
	}
	return false;
}

static int copy_page_by_cpu(struct page *to, struct page *from)
{
	void *target = kmap_local_page(to);
	void *source = kmap_local_page(from);
	unsigned long missed = copy_mc_to_kernel(target, source, PAGE_SIZE);

	kunmap_local(source);
	kunmap_local(target);
	if (!missed)
		return 0;
	memory_failure_queue(page_to_pfn(from), 0); /* nobody is to get this page again */
	return -EHWPOISON;
}

static int copy_by_cpu(struct folio *to, struct folio *from, u64 bytes)
{
	unsigned long i;
	int ret = 0;

	for (i = 0; !ret && i < bytes >> PAGE_SHIFT; i++) {
		ret = copy_page_by_cpu(folio_page(to, i), folio_page(from, i));
		if (!(i % PAGES_AT_A_TIME))
			cond_resched();
	}
	return ret;
}

static int copy_by_engine(struct kvt_pool *pool, struct folio *to, struct folio *from, u64 bytes)
{
	int ret = kvt_dma_copy(to, from, bytes);

	if (!ret)
		kvt_count(pool, KVT_DMA_COPIES);
	else if (ret != -EAGAIN)
		kvt_count(pool, KVT_DMA_ERRORS);
	return ret;
}

int kvt_copy(struct kvt_pool *pool, struct folio *to, struct folio *from, u64 bytes)
{
	int ret;

	if (is_poisoned(from, bytes))
		return -EHWPOISON;
	if (bytes >= READ_ONCE(kvt_policy.dma_threshold)) {
		ret = copy_by_engine(pool, to, from, bytes);
		if (ret >= 0)
			return ret;
	}
	ret = copy_by_cpu(to, from, bytes);
	if (!ret)
		kvt_count(pool, KVT_CPU_COPIES);
	return ret;
}

int kvt_copy_init(void)
{
	return 0; /* channels are asked for when there is something to copy */
}

void kvt_copy_exit(void)
{
	kvt_dma_exit();
}
