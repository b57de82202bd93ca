/* SPDX-License-Identifier: MIT */
#ifndef KVT_ERROR_H
#define KVT_ERROR_H

/* Record for this thread what was wrong and what to do about it, in one line. */
__attribute__((format(printf, 1, 2))) void kvt_error_record(const char *fmt, ...);

/*
 * The same, with the value @error (a negative errno), so that callers can
 * `return kvt_fail()`.  A macro: whoever analyses a caller sees that it is not 0.
 */
#define kvt_fail(error, ...)               \
	({                                 \
		int error_ = (error);      \
		kvt_error_record(__VA_ARGS__); \
		error_;                    \
	})

#endif
