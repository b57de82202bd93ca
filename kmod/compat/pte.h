/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page table entries' accessed bits.  x86 has the functions for that in the kernel
 * proper and does not export them; like here, they clear the bit and leave the TLBs
 * alone.
 */
#ifndef KVT_COMPAT_PTE_H
#define KVT_COMPAT_PTE_H

#include <linux/bitops.h>
#include <linux/mm.h>
#include <linux/pgtable.h>

#ifdef CONFIG_X86

static inline bool kvt_pte_clear_young(struct vm_area_struct *vma, unsigned long addr, pte_t *pte)
{
	return test_and_clear_bit(_PAGE_BIT_ACCESSED, (unsigned long *)&pte->pte);
}

static inline bool kvt_pmd_clear_young(struct vm_area_struct *vma, unsigned long addr, pmd_t *pmd)
{
	return test_and_clear_bit(_PAGE_BIT_ACCESSED, (unsigned long *)pmd);
}

#else

static inline bool kvt_pte_clear_young(struct vm_area_struct *vma, unsigned long addr, pte_t *pte)
{
	return ptep_test_and_clear_young(vma, addr, pte);
}

static inline bool kvt_pmd_clear_young(struct vm_area_struct *vma, unsigned long addr, pmd_t *pmd)
{
	return pmdp_test_and_clear_young(vma, addr, pmd);
}

#endif

#endif
