/* SPDX-License-Identifier: MIT */
/* Blocks as a picture: a cell for each, or for as many as fit; tier by colour, heat by tone. */
#ifndef KVT_HEATMAP_H
#define KVT_HEATMAP_H

#include <stdio.h>

#include "blocks.h"

void heatmap_text(FILE *out, const struct blocks *b, const char *name, int width, bool color);
/* @width: cells in a line. */
void heatmap_svg(FILE *out, const struct blocks *b, const char *name, int width);
/* "empty", "open", ... */
const char *heatmap_state(uint8_t state);
/* Text with what XML gives a meaning replaced. */
void xml_text(FILE *out, const char *text);

#endif
