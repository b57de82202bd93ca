// SPDX-License-Identifier: MIT
#include <stdint.h>
#include <string.h>

#include "text.h"

/* Bytes of the character that begins here: 0: it is none, or one that moves a cursor. */
static int character(const unsigned char *s)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	int bytes = s[0] < 0x80 ? 1 : s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2, i;
	uint32_t code = bytes == 1 ? s[0] : s[0] & (0x7f >> bytes);

	if (s[0] >= 0x80 && (s[0] < 0xc2 || s[0] > 0xf4))
		return 0;
	for (i = 1; i < bytes; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (s[i] & 0x3f);
	}
	if (code < ' ' || (code >= 0x7f && code < 0xa0) || code < least[bytes] || code > 0x10ffff)
		return 0;
	/* Surrogates; two that XML does not have; marks that turn the line's direction. */
	if ((code >= 0xd800 && code < 0xe000) || (code & 0xfffe) == 0xfffe)
		return 0;
	if ((code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069))
		return 0;
	return bytes;
}

char *text_clean(char *text)
{
	unsigned char *from = (unsigned char *)text, *to = from;
	int bytes;

	while (*from) {
		bytes = character(from);
		if (!bytes) {
			*to++ = '?';
			from++;
			continue;
		}
		memmove(to, from, (size_t)bytes);
		to += bytes;
		from += bytes;
	}
	*to = '\0';
	return text;
}

/* The next character; @text is clean. */
static const char *next(const char *text)
{
	do
		text++;
	while ((*text & 0xc0) == 0x80);
	return text;
}

int text_bytes(const char *text, int width)
{
	const char *end = text;

	while (*end && width-- > 0)
		end = next(end);
	return (int)(end - text);
}

const char *text_column(const char *text, int width, char buf[TEXT_COLUMN])
{
	const char *end = text;

	for (; *end && width > 0; width--)
		end = next(end);
	memcpy(buf, text, (size_t)(end - text));
	memset(buf + (end - text), ' ', (size_t)width);
	buf[end - text + width] = '\0';
	return buf;
}
