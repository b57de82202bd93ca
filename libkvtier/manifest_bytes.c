// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "manifest.h"

void kvt_put(struct kvt_bytes *b, const void *data, size_t bytes)
{
	size_t room = b->room ? b->room : 4096;
	char *grown;

	while (room < b->nr + bytes)
		room *= 2;
	if (!b->error && room > b->room) {
		grown = realloc(b->data, room);
		if (!grown) {
			b->error = kvt_fail(-ENOMEM, "no memory for a manifest of %zu bytes", room);
			return;
		}
		b->data = grown;
		b->room = room;
	}
	if (b->error || !bytes)
		return;
	memcpy(b->data + b->nr, data, bytes);
	b->nr += bytes;
}

void kvt_put_u32(struct kvt_bytes *b, uint32_t value)
{
	kvt_put(b, &value, sizeof(value));
}

void kvt_put_u64(struct kvt_bytes *b, uint64_t value)
{
	kvt_put(b, &value, sizeof(value));
}

void kvt_get(struct kvt_bytes *b, void *data, size_t bytes)
{
	if (!b->error && bytes > b->nr)
		b->error = kvt_fail(-EILSEQ, "the manifest is inconsistent: it ends too early");
	if (b->error) {
		memset(data, 0, bytes);
		return;
	}
	memcpy(data, b->data, bytes);
	b->data += bytes;
	b->nr -= bytes;
}

uint32_t kvt_get_u32(struct kvt_bytes *b)
{
	uint32_t value;

	kvt_get(b, &value, sizeof(value));
	return value;
}

uint64_t kvt_get_u64(struct kvt_bytes *b)
{
	uint64_t value;

	kvt_get(b, &value, sizeof(value));
	return value;
}

uint32_t kvt_get_count(struct kvt_bytes *b, size_t each)
{
	uint32_t nr = kvt_get_u32(b);

	if (b->error || (uint64_t)nr * each <= b->nr)
		return b->error ? 0 : nr;
	b->error =
		kvt_fail(-EILSEQ, "the manifest is inconsistent: a table is longer than the file");
	return 0;
}
