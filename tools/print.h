/* SPDX-License-Identifier: MIT */
#ifndef KVT_PRINT_H
#define KVT_PRINT_H

#include <cjson/cJSON.h>

/* One line of JSON on the standard output; @o is deleted.  0, or 1 after one line said why. */
int print_object(cJSON *o);

/* "97.3%", or "-" for NaN. */
#define PERCENT_TEXT 8
const char *percent_text(double part, char buf[PERCENT_TEXT]);

#endif
