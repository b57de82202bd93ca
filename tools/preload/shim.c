// SPDX-License-Identifier: MIT
/*
 * The preload shim: an engine built on ggml gets its KV cache from a pool.
 *
 * ggml allocates a cache by ggml_backend_alloc_ctx_tensors_from_buft() for a
 * context whose tensors are named cache_*, which on the CPU ends in one
 * posix_memalign() on the same thread.  Only that allocation is replaced.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "buffers.h"
#include "cache.h"
#include "engine.h"
#include "settings.h"

#define EXPORT __attribute__((visibility("default")))

typedef struct ggml_backend_buffer *(*alloc_fn)(struct ggml_context *,
						struct ggml_backend_buffer_type *);
typedef void (*clear_fn)(struct ggml_backend_buffer *, uint8_t);
typedef void *(*base_fn)(struct ggml_backend_buffer *);
typedef int (*memalign_fn)(void **, size_t, size_t);
typedef void (*free_fn)(void *);
typedef void *(*realloc_fn)(void *, size_t);
typedef size_t (*usable_fn)(void *);

/*
 * The cache whose memory this thread is being asked for, and the frame of who asks: an
 * exception clears it, and what longjmp() left behind is seen by a frame that is above.
 */
static __thread const struct kvt_cache *wanted;
static __thread const char *wanted_below;

static atomic_bool met_ggml;

static void meet_ggml(void)
{
	if (kvt_settings() && !atomic_exchange(&met_ggml, true))
		kvt_tell("ggml %d", (int)getpid());
}

/* An engine that made no context is still worth telling from no engine at all. */
__attribute__((destructor)) static void look_back(void)
{
	if (kvt_settings() && kvt_engine_loaded())
		meet_ggml();
}

static void want_nothing(const char *below)
{
	(void)below;
	wanted = NULL;
}

EXPORT struct ggml_backend_buffer *
ggml_backend_alloc_ctx_tensors_from_buft(struct ggml_context *ctx,
					 struct ggml_backend_buffer_type *type)
{
	const void *caller = __builtin_return_address(0);
	alloc_fn next =
		(alloc_fn)kvt_engine_symbol("ggml_backend_alloc_ctx_tensors_from_buft", caller);
	static __thread struct kvt_cache cache;
	__attribute__((cleanup(want_nothing))) char below;
	struct ggml_backend_buffer *buffer;

	if (!next)
		abort();
	meet_ggml();
	wanted_below = &below;
	wanted = kvt_settings() && kvt_is_cache(ctx, caller, &cache) ? &cache : NULL;
	buffer = next(ctx, type);
	if (wanted && buffer)
		kvt_tell("elsewhere %d", (int)getpid());
	return buffer;
}

/*
 * The function of that name that would be called without us.  dlsym() may itself allocate and
 * free: until the answer is there it is NULL, and glibc's own will do.
 */
static void *next_of(_Atomic(void *) *next, const char *name)
{
	static __thread int asking;
	void *f = atomic_load_explicit(next, memory_order_relaxed);

	if (!f && !asking) {
		asking = 1;
		f = dlsym(RTLD_NEXT, name);
		asking = 0;
		atomic_store(next, f);
	}
	return f;
}

static int real_memalign(void **ptr, size_t alignment, size_t bytes)
{
	static _Atomic(void *) next;
	memalign_fn f = (memalign_fn)next_of(&next, "posix_memalign");

	return f ? f(ptr, alignment, bytes) : ENOMEM;
}

EXPORT int posix_memalign(void **ptr, size_t alignment, size_t bytes)
{
	const struct kvt_cache *cache = wanted;
	bool plain;
	int ret;

	if (cache && (const char *)__builtin_frame_address(0) > wanted_below)
		cache = wanted = NULL;
	if (!cache || bytes < cache->bytes)
		return real_memalign(ptr, alignment, bytes);
	wanted = NULL;
	*ptr = kvt_buffer_add(cache, bytes, &plain);
	if (*ptr)
		return 0;
	if (!plain)
		return ENOMEM;
	ret = real_memalign(ptr, alignment, bytes);
	if (!ret)
		kvt_buffer_add_plain(*ptr, bytes);
	return ret;
}

extern void __libc_free(void *ptr);

static void real_free(void *ptr)
{
	static _Atomic(void *) next;
	free_fn f = (free_fn)next_of(&next, "free");

	if (f)
		f(ptr);
	else
		__libc_free(ptr);
}

EXPORT void free(void *ptr)
{
	if (!kvt_buffer_remove(ptr))
		real_free(ptr);
}

EXPORT void free_sized(void *ptr, size_t bytes)
{
	(void)bytes;
	free(ptr);
}

EXPORT void free_aligned_sized(void *ptr, size_t alignment, size_t bytes)
{
	(void)alignment;
	(void)bytes;
	free(ptr);
}

/* ---- whoever resizes or measures a cache ------------------------------------------------- */

extern void *__libc_realloc(void *ptr, size_t bytes);

static void *real_realloc(void *ptr, size_t bytes)
{
	static _Atomic(void *) next;
	realloc_fn f = (realloc_fn)next_of(&next, "realloc");

	return f ? f(ptr, bytes) : __libc_realloc(ptr, bytes);
}

/* A pool has one size: what it holds moves to memory of the allocator's. */
static void *leave_pool(void *pool, size_t had, size_t bytes)
{
	void *ptr = malloc(bytes);

	if (!ptr)
		return NULL;
	memcpy(ptr, pool, had < bytes ? had : bytes);
	free(pool);
	return ptr;
}

static void *resize_plain(void *ptr, size_t had, size_t bytes)
{
	void *new;

	kvt_buffer_remove(ptr);
	new = real_realloc(ptr, bytes);
	if (new)
		kvt_buffer_add_plain(new, bytes);
	else if (bytes)
		kvt_buffer_add_plain(ptr, had);
	return new;
}

EXPORT void *realloc(void *ptr, size_t bytes)
{
	enum kvt_owner owner;
	size_t had = 0;

	owner = kvt_buffer_owner(ptr, &had);
	if (owner == KVT_NOT_OURS)
		return real_realloc(ptr, bytes);
	if (owner == KVT_PLAIN)
		return resize_plain(ptr, had, bytes);
	if (!bytes) {
		free(ptr);
		return NULL;
	}
	if (owner == KVT_POOL)
		return leave_pool(ptr, had, bytes);
	errno = ENOMEM; /* its bytes are not in this process */
	return NULL;
}

EXPORT void *reallocarray(void *ptr, size_t nr, size_t each)
{
	size_t bytes;

	if (!__builtin_mul_overflow(nr, each, &bytes))
		return realloc(ptr, bytes);
	errno = ENOMEM;
	return NULL;
}

EXPORT size_t malloc_usable_size(void *ptr)
{
	static _Atomic(void *) next;
	usable_fn f = (usable_fn)next_of(&next, "malloc_usable_size");
	size_t bytes = 0;

	if (kvt_buffer_owner(ptr, &bytes) >= KVT_POOL)
		return bytes;
	return f ? f(ptr) : 0;
}

/* Engines zero a new cache byte by byte; a pool just drops what it holds, if anything. */
EXPORT void ggml_backend_buffer_clear(struct ggml_backend_buffer *buffer, uint8_t value)
{
	const void *caller = __builtin_return_address(0);
	base_fn base = (base_fn)kvt_engine_symbol("ggml_backend_buffer_get_base", caller);
	clear_fn next;

	if (!value && base && kvt_buffer_zero(base(buffer)))
		return;
	next = (clear_fn)kvt_engine_symbol("ggml_backend_buffer_clear", caller);
	if (!next)
		abort();
	next(buffer, value);
}
