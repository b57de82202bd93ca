// SPDX-License-Identifier: MIT
/* Description: sizes as people write them. */
#include <errno.h>
#include <string.h>

#include "size.h"
#include "unit.h"

static void understands(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "1", 1 },
		{ "4096", 4096 },
		{ "64K", 64 << 10 },
		{ "64k", 64 << 10 },
		{ "256MiB", 256u << 20 },
		{ "256MB", 256u << 20 },
		{ "1.5G", 3ull << 29 },
		{ "2T", 2ull << 40 },
		{ "512b", 512 },
		{ "0.5K", 512 },
	};
	uint64_t bytes;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(size_parse(good[i].text, &bytes), 0);
		assert_int_equal(bytes, good[i].bytes);
	}
}

static void refuses(void **state)
{
	static const char *const bad[] = { "",	 "K",	"-1",  "1X",   "1KK", "12 34", "0x10",
					   "1e", "nan", "inf", "1KiX", "4G!", " 1",    "one" };
	uint64_t bytes = 77;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (size_parse(bad[i], &bytes) != -EINVAL)
			fail_msg("\"%s\" was not refused", bad[i]);
		assert_int_equal(bytes, 77);
	}
	assert_int_equal(size_parse("0", &bytes), -ERANGE);
	assert_int_equal(size_parse("0.1", &bytes), -ERANGE);
	assert_int_equal(size_parse("99999999999999999999", &bytes), -ERANGE);
	assert_int_equal(size_parse("9000P", &bytes), -ERANGE);
}

static void shows(void **state)
{
	char buf[SIZE_TEXT];

	(void)state;
	assert_string_equal(size_text(1, buf), "1");
	assert_string_equal(size_text(65536, buf), "64K");
	assert_string_equal(size_text(3ull << 29, buf), "1.5G");
	assert_true(strlen(size_text(UINT64_MAX, buf)) < SIZE_TEXT);
}

/* What is shown is understood again, to the digits shown. */
static void round_trip(void **state)
{
	char buf[SIZE_TEXT], again[SIZE_TEXT];
	uint64_t bytes, back;

	(void)state;
	for (bytes = 1; bytes < 1ull << 60; bytes = bytes * 3 + 7) {
		assert_int_equal(size_parse(size_text(bytes, buf), &back), 0);
		assert_string_equal(size_text(back, again), buf);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(understands),
		cmocka_unit_test(refuses),
		cmocka_unit_test(shows),
		cmocka_unit_test(round_trip),
	};

	return cmocka_run_group_tests_name("size", tests, NULL, NULL);
}
