/* SPDX-License-Identifier: MIT */
/* What __builtin_cpu_supports() does not know in every compiler. */
#ifndef KVT_X86_CPU_H
#define KVT_X86_CPU_H

#include <cpuid.h>
#include <stdbool.h>

static inline bool has_f16c(void)
{
	unsigned int a, b, c = 0, d;

	return __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}

#endif
