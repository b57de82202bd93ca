/* SPDX-License-Identifier: MIT */
/*
 * The few ggml functions that the shim calls, found in whatever way the engine
 * loaded them: linked, dlopen()ed, or RTLD_LOCAL below a language runtime.
 */
#ifndef KVT_PRELOAD_ENGINE_H
#define KVT_PRELOAD_ENGINE_H

#include <stdbool.h>
#include <stddef.h>

struct ggml_context;
struct ggml_tensor;
struct ggml_backend_buffer;
struct ggml_backend_buffer_type;

/*
 * The engine's definition of @name, as the code at @caller would have found it
 * without this library; NULL: there is none.
 */
void *kvt_engine_symbol(const char *name, const void *caller);

/* Is a shared ggml library loaded now?  Safe while the process ends. */
bool kvt_engine_loaded(void);

#endif
