/* SPDX-License-Identifier: MIT */
/* Element types, as far as sequences have to know them. */
#ifndef KVT_SEQUENCE_TYPE_H
#define KVT_SEQUENCE_TYPE_H

#include <stdint.h>

/* Bytes of one head's row of @dim elements; 0: the type is unknown or does not fit. */
uint64_t kvt_type_row_bytes(uint32_t type, uint32_t dim);
/* @nr rows of @heads heads, to and from floats. */
int kvt_type_load(uint32_t type, uint32_t dim, uint32_t heads, const void *rows, uint32_t nr,
		  float *out);
int kvt_type_store(uint32_t type, uint32_t dim, uint32_t heads, const float *in, uint32_t nr,
		   void *rows);

#endif
