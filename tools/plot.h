/* SPDX-License-Identifier: MIT */
/* Horizontal bars, stacked of parts, as inline SVG. */
#ifndef KVT_PLOT_H
#define KVT_PLOT_H

#include <stdbool.h>
#include <stdio.h>

#define PLOT_BARS 64
#define PLOT_PARTS 4
#define PLOT_LABEL 144

struct plot_bar {
	char label[PLOT_LABEL];
	double value[PLOT_PARTS]; /* NaN: not known */
};

struct plot {
	const char *title;
	const char *const *parts; /* their names */
	int nr_parts;
	bool bytes; /* values are sizes */
	double most; /* the length of a full bar; 0: the longest */
	struct plot_bar bar[PLOT_BARS];
	int nr_bars;
};

/* The next bar, zeroed; NULL: there are enough. */
struct plot_bar *plot_bar(struct plot *p);
void plot_draw(FILE *out, const struct plot *p);

#endif
