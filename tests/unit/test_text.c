// SPDX-License-Identifier: MIT
/* Description: names of others, before they reach a terminal, JSON or XML. */
#include <stdio.h>

#include "text.h"
#include "unit.h"

static void cleaned(void **state)
{
	static const struct {
		const char *text, *wanted;
	} cases[] = {
		{ "", "" },
		{ "llama-server 3", "llama-server 3" },
		{ "b\xc3\xa4r \xe2\x82\xac \xf0\x9f\x98\x80",
		  "b\xc3\xa4r \xe2\x82\xac \xf0\x9f\x98\x80" },
		{ "a\x1b[31mred", "a?[31mred" },
		{ "two\nlines\t", "two?lines?" },
		{ "\x7f\xc2\x9b", "???" }, /* delete, and the eight-bit escape */
		{ "cut \xe2\x82", "cut ??" },
		{ "\xff\xfe", "??" },
		{ "\xc0\xaf\xe0\x80\xaf", "?????" }, /* a slash, written too long */
		{ "\xed\xa0\x80", "???" }, /* half of a pair of UTF-16 */
		{ "\xef\xbf\xbf", "???" }, /* not in XML */
		{ "\xf4\x90\x80\x80", "????" }, /* past the last */
	};
	char text[64], backwards[] = { (char)0xe2, (char)0x80, (char)0xae, 0 };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		snprintf(text, sizeof(text), "%s", cases[i].text);
		assert_string_equal(text_clean(text), cases[i].wanted);
	}
	assert_string_equal(text_clean(backwards), "???");
}

static void columns(void **state)
{
	char buf[TEXT_COLUMN];

	(void)state;
	assert_string_equal(text_column("abc", 5, buf), "abc  ");
	assert_string_equal(text_column("abcdef", 5, buf), "abcde");
	assert_string_equal(text_column("", 2, buf), "  ");
	assert_string_equal(text_column("\xc3\xa4\xe2\x82\xac", 3, buf), "\xc3\xa4\xe2\x82\xac ");
	assert_string_equal(text_column("\xc3\xa4\xe2\x82\xac", 1, buf), "\xc3\xa4");
	assert_int_equal(text_bytes("\xc3\xa4\xe2\x82\xac", 1), 2);
	assert_int_equal(text_bytes("\xc3\xa4\xe2\x82\xac", 9), 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cleaned),
		cmocka_unit_test(columns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
