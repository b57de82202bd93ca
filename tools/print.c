// SPDX-License-Identifier: MIT
#include <math.h>
#include <stdio.h>

#include "command.h"
#include "print.h"

int print_object(cJSON *o)
{
	char *text = cJSON_PrintUnformatted(o);

	cJSON_Delete(o);
	if (!text)
		return fail(1, "out of memory");
	puts(text);
	cJSON_free(text);
	return 0;
}

const char *percent_text(double part, char buf[PERCENT_TEXT])
{
	if (isnan(part))
		return "-";
	snprintf(buf, PERCENT_TEXT, "%.1f%%", 100 * (part > 9 ? 9 : part));
	return buf;
}
