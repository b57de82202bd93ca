/* SPDX-License-Identifier: MIT */
#ifndef DECODE_TABLES_H
#define DECODE_TABLES_H

#include "generate.h"

/* Without cache, in memory, mostly on NVMe; returns 1 when their texts differ. */
int table_cache(const struct model *m, const struct options *o, struct kvt_attend *attend);
/* Perplexity of a text by policy and type. */
void table_perplexity(const struct model *m, const struct options *o, struct kvt_attend *attend);

#endif
