// SPDX-License-Identifier: MIT
#include <err.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <kvtier.h>
#include <kvtier_attend.h>

#include "gguf.h"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, NR_TYPES };

static const uint8_t type_bytes[NR_TYPES] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

struct cursor {
	const struct gguf *g;
	const unsigned char *at;
};

static void *allocate(size_t nr, size_t bytes)
{
	void *p = calloc(nr ? nr : 1, bytes);

	if (!p)
		err(1, "no memory");
	return p;
}

static const unsigned char *take(struct cursor *c, uint64_t bytes)
{
	const unsigned char *at = c->at;

	if (bytes > (uint64_t)(c->g->end - at))
		errx(1, "%s is damaged: it ends too early", c->g->path);
	c->at += bytes;
	return at;
}

static uint32_t take_u32(struct cursor *c)
{
	uint32_t value;

	memcpy(&value, take(c, sizeof(value)), sizeof(value));
	return value;
}

static uint64_t take_u64(struct cursor *c)
{
	uint64_t value;

	memcpy(&value, take(c, sizeof(value)), sizeof(value));
	return value;
}

static char *take_string(struct cursor *c)
{
	uint64_t bytes = take_u64(c);
	const unsigned char *at = take(c, bytes);
	char *s = allocate(bytes + 1, 1);

	memcpy(s, at, bytes);
	return s;
}

static void skip(struct cursor *c, uint32_t type, uint64_t nr)
{
	if (type >= NR_TYPES || type == ARRAY)
		errx(1, "%s is damaged: a value of type %u", c->g->path, type);
	if (type != STRING) {
		if (nr > (uint64_t)(c->g->end - c->at))
			errx(1, "%s is damaged: an array is longer than the file", c->g->path);
		take(c, nr * type_bytes[type]);
		return;
	}
	while (nr--)
		take(c, take_u64(c));
}

static void read_value(struct cursor *c, struct gguf_value *v)
{
	v->key = take_string(c);
	v->type = take_u32(c);
	v->nr = 1;
	if (v->type == ARRAY) {
		v->type = take_u32(c);
		v->nr = take_u64(c);
	}
	v->data = c->at;
	skip(c, v->type, v->nr);
}

static void read_tensor(struct cursor *c, struct gguf_tensor *t)
{
	uint32_t dims, i;

	t->name = take_string(c);
	dims = take_u32(c);
	t->row = dims ? take_u64(c) : 1;
	for (t->rows = 1, i = 1; i < dims; i++)
		t->rows *= take_u64(c);
	t->type = take_u32(c);
	t->offset = take_u64(c);
}

static void map_file(struct gguf *g)
{
	int fd = open(g->path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *map;

	if (fd < 0 || fstat(fd, &st))
		err(1, "cannot open the model %s", g->path);
	map = st.st_size ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)
			 : MAP_FAILED;
	if (map == MAP_FAILED)
		errx(1, "cannot map the model %s", g->path);
	close(fd);
	g->map = map;
	g->end = g->map + st.st_size;
}

void gguf_open(struct gguf *g, const char *path)
{
	struct cursor c = { .g = g };
	uint64_t i, align;

	memset(g, 0, sizeof(*g));
	g->path = path;
	map_file(g);
	c.at = g->map;
	if (memcmp(take(&c, 4), "GGUF", 4) != 0)
		errx(1, "%s is not a GGUF file", path);
	if (take_u32(&c) < 2)
		errx(1, "%s is in a version of GGUF before 2", path);
	g->nr_tensors = take_u64(&c);
	g->nr_values = take_u64(&c);
	if (g->nr_tensors > (uint64_t)(g->end - c.at) || g->nr_values > (uint64_t)(g->end - c.at))
		errx(1, "%s is damaged: more tensors or values than bytes", path);
	g->values = allocate(g->nr_values, sizeof(*g->values));
	g->tensors = allocate(g->nr_tensors, sizeof(*g->tensors));
	for (i = 0; i < g->nr_values; i++)
		read_value(&c, &g->values[i]);
	for (i = 0; i < g->nr_tensors; i++)
		read_tensor(&c, &g->tensors[i]);
	align = gguf_u32(g, "general.alignment", 32);
	align = align ? align : 1;
	g->data = g->map + ((uint64_t)(c.at - g->map) + align - 1) / align * align;
}

void gguf_close(struct gguf *g)
{
	uint64_t i;

	for (i = 0; i < g->nr_values; i++)
		free(g->values[i].key);
	for (i = 0; i < g->nr_tensors; i++)
		free(g->tensors[i].name);
	free(g->values);
	free(g->tensors);
	munmap((void *)(uintptr_t)g->map, (size_t)(g->end - g->map));
}

const struct gguf_value *gguf_find(const struct gguf *g, const char *key)
{
	uint64_t i;

	for (i = 0; i < g->nr_values; i++)
		if (!strcmp(g->values[i].key, key))
			return &g->values[i];
	return NULL;
}

uint32_t gguf_u32(const struct gguf *g, const char *key, uint32_t otherwise)
{
	const struct gguf_value *v = gguf_find(g, key);

	if (!v)
		return otherwise;
	if (v->nr != 1 || type_bytes[v->type] < 1 || v->type == F32 || v->type == F64)
		errx(1, "%s: %s is not a whole number", g->path, key);
	if (type_bytes[v->type] == 1)
		return *v->data;
	if (type_bytes[v->type] < 4)
		errx(1, "%s: %s is a short number", g->path, key);
	memcpy(&otherwise, v->data, sizeof(otherwise));
	return otherwise;
}

float gguf_f32(const struct gguf *g, const char *key, float otherwise)
{
	const struct gguf_value *v = gguf_find(g, key);

	if (v && (v->nr != 1 || v->type != F32))
		errx(1, "%s: %s is not a float", g->path, key);
	if (v)
		memcpy(&otherwise, v->data, sizeof(otherwise));
	return otherwise;
}

const char *gguf_string(const struct gguf *g, const unsigned char **at, uint64_t *bytes)
{
	struct cursor c = { .g = g, .at = *at };
	const unsigned char *s;

	*bytes = take_u64(&c);
	s = take(&c, *bytes);
	*at = c.at;
	return (const char *)s;
}

/* ggml's number of a type to the library's. */
static int type_of(uint32_t ggml)
{
	switch (ggml) {
	case 0:
		return KVT_F32;
	case 1:
		return KVT_F16;
	case 2:
		return KVT_Q4_0;
	case 8:
		return KVT_Q8_0;
	case 30:
		return KVT_BF16;
	default:
		return -1;
	}
}

/* Rows are taken apart into pieces that the library's converters take. */
#define PIECE 32

static float *convert(const struct gguf *g, const struct gguf_tensor *t, int type)
{
	uint32_t piece = t->row % PIECE ? 1 : PIECE;
	uint64_t bytes = type == KVT_F32 ? t->row * 4 :
					   t->row / PIECE * kvt_row_bytes((uint32_t)type, PIECE);
	float *out = allocate(t->row * t->rows, sizeof(*out));

	if (type != KVT_F32 && piece == 1)
		errx(1, "%s: rows of tensor %s are not a multiple of %d", g->path, t->name, PIECE);
	if (t->offset > (uint64_t)(g->end - g->data) || !bytes ||
	    t->rows > (uint64_t)(g->end - g->data - t->offset) / bytes)
		errx(1, "%s is damaged: tensor %s lies outside", g->path, t->name);
	if (type == KVT_F32)
		memcpy(out, g->data + t->offset, bytes * t->rows);
	else if (kvt_dequantize((uint32_t)type, PIECE, (uint32_t)(t->row / PIECE),
				(uint32_t)t->rows, g->data + t->offset, 0, out))
		errx(1, "%s: tensor %s: %s", g->path, t->name, kvt_error_detail());
	return out;
}

float *gguf_floats(const struct gguf *g, const char *name, uint64_t row, uint64_t rows)
{
	const struct gguf_tensor *t = NULL;
	uint64_t i;

	for (i = 0; i < g->nr_tensors && !t; i++)
		if (!strcmp(g->tensors[i].name, name))
			t = &g->tensors[i];
	if (!t)
		errx(1, "%s has no tensor %s: this example runs plain llama models", g->path, name);
	if (t->row != row || t->rows != rows)
		errx(1, "%s: tensor %s is %llu x %llu, expected %llu x %llu", g->path, name,
		     (unsigned long long)t->rows, (unsigned long long)t->row,
		     (unsigned long long)rows, (unsigned long long)row);
	if (type_of(t->type) < 0)
		errx(1, "%s: tensor %s has ggml type %u; f32, f16, bf16, q8_0 and q4_0 are known",
		     g->path, name, t->type);
	return convert(g, t, type_of(t->type));
}
