/* SPDX-License-Identifier: MIT */
/* What is wrong, in sentences, for kvtier alone, top and report. */
#ifndef KVT_PROBLEMS_H
#define KVT_PROBLEMS_H

#include <cjson/cJSON.h>

#include "system.h"

/* An array of strings, empty when nothing is. */
cJSON *problems_of(const struct system *s);

#endif
