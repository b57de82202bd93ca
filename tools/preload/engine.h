/* SPDX-License-Identifier: MIT */
/*
 * The few ggml functions that the shim calls, found in whatever way the engine
 * loaded them: linked, dlopen()ed, or RTLD_LOCAL below a language runtime.
 */
#ifndef KVT_PRELOAD_ENGINE_H
#define KVT_PRELOAD_ENGINE_H

#include <stddef.h>

struct ggml_context;
struct ggml_tensor;
struct ggml_backend_buffer;
struct ggml_backend_buffer_type;

/* The next definition of @name behind this library's own; NULL: there is none. */
void *kvt_next_symbol(const char *name);

/* The engine's definition of a function that this library does not interpose. */
void *kvt_engine_symbol(const char *name);

#endif
