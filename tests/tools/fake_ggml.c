// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_ggml.h"

struct ggml_tensor *ggml_get_first_tensor(const struct ggml_context *ctx)
{
	return ctx->nr ? ctx->tensors : NULL;
}

struct ggml_tensor *ggml_get_next_tensor(const struct ggml_context *ctx, struct ggml_tensor *t)
{
	return t + 1 < ctx->tensors + ctx->nr ? t + 1 : NULL;
}

const char *ggml_get_name(const struct ggml_tensor *t)
{
	return t->name;
}

size_t ggml_nbytes(const struct ggml_tensor *t)
{
	return t->bytes;
}

jmp_buf fake_jump;
static bool leaps;

void fake_leap(bool armed)
{
	leaps = armed;
}

struct ggml_backend_buffer *
ggml_backend_alloc_ctx_tensors_from_buft(struct ggml_context *ctx,
					 struct ggml_backend_buffer_type *type)
{
	struct ggml_backend_buffer *buffer = calloc(1, sizeof(*buffer));
	struct ggml_tensor *t;

	(void)type;
	if (leaps)
		longjmp(fake_jump, 1);
	if (!buffer)
		return NULL;
	for (t = ggml_get_first_tensor(ctx); t; t = ggml_get_next_tensor(ctx, t))
		buffer->bytes += t->bytes;
	if (posix_memalign(&buffer->base, 64, buffer->bytes)) {
		free(buffer);
		return NULL;
	}
	return buffer;
}

void *ggml_backend_buffer_get_base(struct ggml_backend_buffer *buffer)
{
	return buffer->base;
}

void ggml_backend_buffer_clear(struct ggml_backend_buffer *buffer, uint8_t value)
{
	memset(buffer->base, value, buffer->bytes);
}

void ggml_backend_buffer_free(struct ggml_backend_buffer *buffer)
{
	free(buffer->base);
	free(buffer);
}

struct ggml_backend_buffer *fake_cache(const char *prefix, int layers, size_t tensor_bytes)
{
	struct ggml_context ctx = { .nr = 2 * layers };
	struct ggml_backend_buffer *buffer;
	int i;

	ctx.tensors = calloc((size_t)ctx.nr, sizeof(*ctx.tensors));
	if (!ctx.tensors)
		return NULL;
	for (i = 0; i < ctx.nr; i++) {
		snprintf(ctx.tensors[i].name, sizeof(ctx.tensors[i].name), "%s_%c_l%d", prefix,
			 i & 1 ? 'v' : 'k', i / 2);
		ctx.tensors[i].bytes = tensor_bytes;
	}
	buffer = ggml_backend_alloc_ctx_tensors_from_buft(&ctx, NULL);
	free(ctx.tensors);
	return buffer;
}

void fake_clear(struct ggml_backend_buffer *buffer, uint8_t value)
{
	ggml_backend_buffer_clear(buffer, value);
}

void fake_free(struct ggml_backend_buffer *buffer)
{
	ggml_backend_buffer_free(buffer);
}
