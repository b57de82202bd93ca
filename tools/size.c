// SPDX-License-Identifier: MIT
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "size.h"

static const char units[] = "KMGTP";

static int unit_shift(const char *text, int *shift)
{
	const char *unit = *text ? strchr(units, toupper((unsigned char)*text)) : NULL;

	*shift = 0;
	if (!*text || !strcasecmp(text, "b"))
		return 0;
	if (!unit)
		return -EINVAL;
	*shift = 10 * (int)(unit - units + 1);
	text++;
	return !*text || !strcasecmp(text, "b") || !strcasecmp(text, "ib") ? 0 : -EINVAL;
}

int size_parse(const char *text, uint64_t *bytes)
{
	double number;
	char *end;
	int shift;

	if (!isdigit((unsigned char)*text) && *text != '.')
		return -EINVAL;
	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
		return -EINVAL;
	number = strtod(text, &end);
	if (end == text || unit_shift(end, &shift))
		return -EINVAL;
	number *= (double)(1ull << shift);
	if (!(number >= 1) || number >= 9e18)
		return -ERANGE;
	*bytes = (uint64_t)number;
	return 0;
}

const char *size_text(uint64_t bytes, char *buf)
{
	double number = (double)bytes;
	int unit = -1;

	while (number >= 1024 && unit < (int)strlen(units) - 1) {
		number /= 1024;
		unit++;
	}
	if (unit < 0)
		snprintf(buf, SIZE_TEXT, "%llu", (unsigned long long)bytes);
	else if (number >= 100 || number == (uint64_t)number)
		snprintf(buf, SIZE_TEXT, "%.0f%c", number, units[unit]);
	else
		snprintf(buf, SIZE_TEXT, "%.1f%c", number, units[unit]);
	return buf;
}
