/* SPDX-License-Identifier: MIT */
/* One look of kvtier top, as lines; who shows them is the terminal or a file. */
#ifndef KVT_TOP_FRAME_H
#define KVT_TOP_FRAME_H

#include <cjson/cJSON.h>

#include "system.h"

#define TOP_WIDTH 160
#define TOP_LINES 512
#define TOP_TENANTS 8 /* shown: a screen has pools, too */

enum top_sort { TOP_BY_READ, TOP_BY_LATE, TOP_BY_DRAM, TOP_BY_SIZE, TOP_BY_NAME, TOP_NR_SORTS };
extern const char *const top_sorts[TOP_NR_SORTS];

enum top_style { TOP_PLAIN, TOP_HEAD, TOP_WRONG };

struct top_frame {
	char line[TOP_LINES][TOP_WIDTH];
	uint8_t style[TOP_LINES];
	int nr;
	int first_pool; /* lines before this one do not scroll */
};

/* What happened between two looks. */
struct top_look {
	const struct system *now;
	const struct pools *before; /* NULL: the first look, figures since each pool was made */
	const struct pools *shared_before;
	const struct kvt_daemon_tenant *tenants_before;
	uint32_t nr_tenants_before;
	double seconds;
	enum top_sort sort;
};

void top_draw(struct top_frame *f, const struct top_look *look);
cJSON *top_json(const struct top_look *look);

#endif
