/* SPDX-License-Identifier: MIT */
#ifndef KVT_ERROR_H
#define KVT_ERROR_H

/*
 * Record for this thread what was wrong and what to do about it, in one line,
 * and return @error (a negative errno) so that callers can `return kvt_fail()`.
 */
__attribute__((format(printf, 2, 3))) int kvt_fail(int error, const char *fmt, ...);

#endif
