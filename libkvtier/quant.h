/* SPDX-License-Identifier: MIT */
/* Rows of one head, to and from floats: the specification of every type's layout. */
#ifndef KVT_QUANT_H
#define KVT_QUANT_H

#include <stdint.h>

#include "kvtier_attend.h"

#define KVT_GROUP 32 /* elements that share a scale in the grouped types */

struct kvt_type_ops {
	const char *name;
	uint32_t align; /* of rows, in bytes */
	uint32_t multiple; /* of dim */
	uint32_t (*bytes)(uint32_t dim);
	void (*decode)(const void *row, uint32_t dim, float *out);
	void (*encode)(const float *in, uint32_t dim, void *row);
};

extern const struct kvt_type_ops kvt_types[KVT_TYPES];

/* Groups of a row. */
static inline uint32_t kvt_groups(uint32_t dim)
{
	return (dim + KVT_GROUP - 1) / KVT_GROUP;
}

#endif
