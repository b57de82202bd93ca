/* SPDX-License-Identifier: MIT */
/* A GGUF file, read in place.  What is damaged or missing ends the program with one line. */
#ifndef DECODE_GGUF_H
#define DECODE_GGUF_H

#include <stddef.h>
#include <stdint.h>

struct gguf_value {
	char *key;
	uint32_t type; /* of an array: of its elements */
	uint64_t nr; /* elements; 1 if it is no array */
	const unsigned char *data;
};

struct gguf_tensor {
	char *name;
	uint32_t type; /* ggml's number */
	uint64_t row, rows; /* elements of a row; rows */
	uint64_t offset;
};

struct gguf {
	const char *path;
	const unsigned char *map, *end, *data;
	struct gguf_value *values;
	uint64_t nr_values;
	struct gguf_tensor *tensors;
	uint64_t nr_tensors;
};

void gguf_open(struct gguf *g, const char *path);
void gguf_close(struct gguf *g);

/* NULL: there is none. */
const struct gguf_value *gguf_find(const struct gguf *g, const char *key);
uint32_t gguf_u32(const struct gguf *g, const char *key, uint32_t otherwise);
float gguf_f32(const struct gguf *g, const char *key, float otherwise);
/* Walk a string array: the string at @*at, which then is the next one's place. */
const char *gguf_string(const struct gguf *g, const unsigned char **at, uint64_t *bytes);

/* Floats of a tensor of @rows rows of @row elements; free() them. */
float *gguf_floats(const struct gguf *g, const char *name, uint64_t row, uint64_t rows);

#endif
