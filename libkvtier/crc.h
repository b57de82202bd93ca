/* SPDX-License-Identifier: MIT */
#ifndef KVT_CRC_H
#define KVT_CRC_H

#include <stddef.h>
#include <stdint.h>

/* CRC32C (Castagnoli, RFC 3720 B.4) of @len bytes; "123456789" gives 0xe3069283. */
uint32_t kvt_crc32c(const void *buf, size_t len);

#endif
