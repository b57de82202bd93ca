// SPDX-License-Identifier: MIT
/* Which instruction set computes. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "isa.h"

/* The best one last. */
static const struct kvt_isa *const isas[] = {
	&kvt_isa_c,
#if defined(__x86_64__)
#define NAMES "c, avx2, avx512, avx512vnni"
	&kvt_isa_avx2,
	&kvt_isa_avx512,
	&kvt_isa_avx512vnni,
#else
#define NAMES "c"
#endif
};

#define NR_ISAS (sizeof(isas) / sizeof(isas[0]))

static int named(const char *name, const struct kvt_isa **isa)
{
	size_t i;

	for (i = 0; i < NR_ISAS; i++) {
		if (strcmp(isas[i]->name, name))
			continue;
		if (!isas[i]->usable())
			return kvt_fail(-EOPNOTSUPP,
					"this CPU lacks the instructions of %s; choose "
					"another KVTIER_ISA, or none for the best",
					name);
		*isa = isas[i];
		return 0;
	}
	return kvt_fail(-EINVAL, "no instruction set is named \"%s\"; there are " NAMES, name);
}

static const struct kvt_isa *best(void)
{
	size_t i = NR_ISAS - 1;

	while (!isas[i]->usable())
		i--;
	return isas[i];
}

/* Replaces itself with what it finds, so that the environment and the CPU are asked once. */
static _Atomic(const struct kvt_isa *) usual;

int kvt_isa_find(const char *name, const struct kvt_isa **isa)
{
	const char *forced = getenv("KVTIER_ISA");
	int ret;

	if (name && *name)
		return named(name, isa);
	*isa = atomic_load(&usual);
	if (*isa)
		return 0;
	if (forced && *forced) {
		ret = named(forced, isa);
		if (ret)
			return ret;
	} else {
		*isa = best();
	}
	atomic_store(&usual, *isa);
	return 0;
}
