/* SPDX-License-Identifier: MIT */
/*
 * As much of ggml as the preload shim sees: a context of named tensors whose
 * memory is one posix_memalign().
 */
#ifndef FAKE_GGML_H
#define FAKE_GGML_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ggml_tensor {
	char name[32];
	size_t bytes;
};

struct ggml_context {
	struct ggml_tensor *tensors;
	int nr;
};

struct ggml_backend_buffer_type;
struct ggml_backend_buffer {
	void *base;
	size_t bytes;
};

struct ggml_tensor *ggml_get_first_tensor(const struct ggml_context *ctx);
struct ggml_tensor *ggml_get_next_tensor(const struct ggml_context *ctx, struct ggml_tensor *t);
const char *ggml_get_name(const struct ggml_tensor *t);
size_t ggml_nbytes(const struct ggml_tensor *t);
struct ggml_backend_buffer *
ggml_backend_alloc_ctx_tensors_from_buft(struct ggml_context *ctx,
					 struct ggml_backend_buffer_type *type);
void *ggml_backend_buffer_get_base(struct ggml_backend_buffer *buffer);
void ggml_backend_buffer_clear(struct ggml_backend_buffer *buffer, uint8_t value);
void ggml_backend_buffer_free(struct ggml_backend_buffer *buffer);

/* What an engine's libllama would do, inside the library's own scope. */
struct ggml_backend_buffer *fake_cache(const char *prefix, int layers, size_t tensor_bytes);
void fake_clear(struct ggml_backend_buffer *buffer, uint8_t value);
void fake_free(struct ggml_backend_buffer *buffer);
/* The next allocation of a context is left by a jump. */
void fake_leap(bool armed);
extern jmp_buf fake_jump;

#endif
