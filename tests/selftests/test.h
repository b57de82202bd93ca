/* SPDX-License-Identifier: MIT */
/* What a program of tests includes: the harness, and pools to test. */
#ifndef KVT_SELFTEST_TEST_H
#define KVT_SELFTEST_TEST_H

#include "kselftest_harness.h"

#include "attr.h"
#include "fixture.h"

/* Seconds.  An interpreted machine with every check on takes its time. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT 900

#define KVT_MAIN(needs)                              \
	int main(int argc, char **argv)              \
	{                                            \
		require(needs);                      \
		return test_harness_run(argc, argv); \
	}

#endif
