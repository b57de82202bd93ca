// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>

#include "error.h"
#include "sequence_type.h"

uint64_t kvt_type_row_bytes(uint32_t type, uint32_t dim)
{
	return type == 0 ? dim * 4ull : 0;
}

int kvt_type_load(uint32_t type, uint32_t dim, uint32_t heads, const void *rows, uint32_t nr,
		  float *out)
{
	memcpy(out, rows, nr * heads * kvt_type_row_bytes(type, dim));
	return 0;
}

int kvt_type_store(uint32_t type, uint32_t dim, uint32_t heads, const float *in, uint32_t nr,
		   void *rows)
{
	memcpy(rows, in, nr * heads * kvt_type_row_bytes(type, dim));
	return 0;
}
