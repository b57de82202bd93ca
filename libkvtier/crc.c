// SPDX-License-Identifier: MIT
#include <isa-l/crc.h>

#include "crc.h"

uint32_t kvt_crc32c(const void *buf, size_t len)
{
	return ~crc32_iscsi((unsigned char *)(uintptr_t)buf, (int)len, ~0u);
}
