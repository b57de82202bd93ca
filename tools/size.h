/* SPDX-License-Identifier: MIT */
#ifndef KVT_SIZE_H
#define KVT_SIZE_H

#include <stddef.h>
#include <stdint.h>

/*
 * "4096", "64K", "1.5G", "256MiB" (powers of 1024) to bytes.  -EINVAL: not a
 * size; -ERANGE: zero or too large.
 */
int size_parse(const char *text, uint64_t *bytes);

/* 1610612736 to "1.5G"; @buf holds at least SIZE_TEXT bytes. */
#define SIZE_TEXT 24
const char *size_text(uint64_t bytes, char *buf);

#endif
