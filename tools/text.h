/* SPDX-License-Identifier: MIT */
/* Text of others, which may hold anything, on a terminal, in JSON and in XML. */
#ifndef KVT_TEXT_H
#define KVT_TEXT_H

/* Control characters, and bytes that are no UTF-8, become '?'.  Returns @text. */
char *text_clean(char *text);

/* How many bytes its first @width characters have. */
int text_bytes(const char *text, int width);

#define TEXT_COLUMN 260 /* room for a column of up to 64 characters */

/* @text cut or padded to @width characters, for a table. */
const char *text_column(const char *text, int width, char buf[TEXT_COLUMN]);

#endif
