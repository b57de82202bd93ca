// SPDX-License-Identifier: MIT
/* The peer: ggml's flash attention of the pinned engine, which is loaded at run time. */
#include <dlfcn.h>
#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ggml.h>
#include <ggml-backend.h>

#include <kvtier_attend.h>

#include "attend.h"

#define CALLS(X) \
	X(ggml_backend_alloc_ctx_tensors) \
	X(ggml_backend_buffer_free) \
	X(ggml_backend_cpu_buffer_from_ptr) \
	X(ggml_backend_dev_backend_reg) \
	X(ggml_backend_free) \
	X(ggml_backend_get_device) \
	X(ggml_backend_graph_compute) \
	X(ggml_backend_init_by_type) \
	X(ggml_backend_load_all_from_path) \
	X(ggml_backend_reg_get_proc_address) \
	X(ggml_backend_tensor_alloc) \
	X(ggml_backend_tensor_get) \
	X(ggml_backend_tensor_set) \
	X(ggml_build_forward_expand) \
	X(ggml_flash_attn_ext) \
	X(ggml_free) \
	X(ggml_init) \
	X(ggml_log_set) \
	X(ggml_new_graph) \
	X(ggml_new_tensor_2d) \
	X(ggml_new_tensor_4d) \
	X(ggml_view_4d)

#define CALL(name) __typeof__(name) *name;

struct peer {
	CALLS(CALL)
	ggml_backend_t backend;
	struct ggml_context *caches; /* the tensors over our bytes */
	struct ggml_context *rest;
	ggml_backend_buffer_t cache_buffer;
	ggml_backend_buffer_t rest_buffer;
	struct ggml_cgraph *graph;
	struct ggml_tensor *first;
};

static const int types[KVT_TYPES] = {
	[KVT_F32] = GGML_TYPE_F32, [KVT_F16] = GGML_TYPE_F16,	[KVT_BF16] = GGML_TYPE_BF16,
	[KVT_E4M3] = -1,	   [KVT_E5M2] = -1,		[KVT_INT8] = -1,
	[KVT_INT4] = -1,	   [KVT_Q8_0] = GGML_TYPE_Q8_0, [KVT_Q4_0] = GGML_TYPE_Q4_0,
};

int peer_takes(uint32_t type)
{
	return types[type] >= 0;
}

static void quiet(enum ggml_log_level level, const char *text, void *data)
{
	(void)level;
	(void)text;
	(void)data;
}

static void *open_library(const char *engine, const char *pattern)
{
	char path[4096];
	void *library = NULL;
	glob_t found;

	snprintf(path, sizeof(path), "%s/lib/%s", engine, pattern);
	if (glob(path, 0, NULL, &found))
		return NULL;
	library = dlopen(found.gl_pathv[0], RTLD_NOW | RTLD_GLOBAL);
	globfree(&found);
	return library;
}

static int bind_calls(struct peer *p, void *base, void *ggml)
{
#define BIND(name)                                                                                 \
	p->name = dlsym(base, #name);                                                              \
	if (!p->name)                                                                              \
		p->name = dlsym(ggml, #name);                                                      \
	if (!p->name) {                                                                            \
		fprintf(stderr, "bench-attend: the engine has no " #name "\n");                    \
		return -1;                                                                         \
	}
	CALLS(BIND)
	return 0;
}

struct peer *peer_load(const char *engine)
{
	void *base = open_library(engine, "libggml-base.so"),
	     *ggml = open_library(engine, "libggml.v*.so");
	struct peer *p = calloc(1, sizeof(*p));
	char path[4096];

	if (!p || !base || !ggml) {
		fprintf(stderr, "bench-attend: no ggml in %s/lib: %s\n", engine, dlerror());
		free(p);
		return NULL;
	}
	if (bind_calls(p, base, ggml)) {
		free(p);
		return NULL;
	}
	p->ggml_log_set(quiet, NULL);
	snprintf(path, sizeof(path), "%s/lib", engine);
	p->ggml_backend_load_all_from_path(path);
	p->backend = p->ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, NULL);
	if (!p->backend) {
		fprintf(stderr, "bench-attend: ggml has no backend for this CPU\n");
		free(p);
		return NULL;
	}
	return p;
}

static void set_threads(struct peer *p, uint32_t threads)
{
	ggml_backend_reg_t reg =
		p->ggml_backend_dev_backend_reg(p->ggml_backend_get_device(p->backend));
	void (*set)(ggml_backend_t backend, int threads);

	*(void **)&set = p->ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
	if (set)
		set(p->backend, (int)threads);
}

/* Keys or values of a layer as ggml sees a cache: [DIM, tokens, KV_HEADS]. */
static struct ggml_tensor *over(struct peer *p, const struct cache *c, const char *rows)
{
	enum ggml_type type = (enum ggml_type)types[c->type];
	struct ggml_tensor *t = p->ggml_new_tensor_2d(p->caches, type, DIM * KV_HEADS, c->tokens);

	p->ggml_backend_tensor_alloc(p->cache_buffer, t, (char *)(uintptr_t)rows);
	return p->ggml_view_4d(p->caches, t, DIM, c->tokens, KV_HEADS, 1, c->stride,
			       c->stride / KV_HEADS, c->stride * c->tokens, 0);
}

static void build(struct peer *p, const struct cache *c, struct ggml_tensor *q,
		  struct ggml_tensor *mask)
{
	struct ggml_tensor *out;
	uint32_t i;

	p->graph = p->ggml_new_graph(p->rest);
	for (i = 0; i < c->layers; i++) {
		out = p->ggml_flash_attn_ext(p->rest, q, over(p, c, cache_keys(c, i)),
					     over(p, c, cache_values(c, i)), mask,
					     1 / sqrtf(DIM), 0, 0);
		p->ggml_build_forward_expand(p->graph, out);
		if (!i)
			p->first = out;
	}
}

int peer_open(struct peer *p, const struct cache *c, uint32_t threads)
{
	struct ggml_init_params params = { .mem_size = 16 << 20, .no_alloc = true };
	void *zeroes = calloc(c->tokens, 2);
	struct ggml_tensor *q, *mask;

	if (!zeroes)
		return -1;
	set_threads(p, threads);
	p->caches = p->ggml_init(params);
	p->rest = p->ggml_init(params);
	p->cache_buffer = p->ggml_backend_cpu_buffer_from_ptr(c->rows, c->bytes);
	q = p->ggml_new_tensor_4d(p->rest, GGML_TYPE_F32, DIM, 1, Q_HEADS, 1);
	mask = p->ggml_new_tensor_4d(p->rest, GGML_TYPE_F16, c->tokens, 1, 1, 1);
	build(p, c, q, mask);
	p->rest_buffer = p->ggml_backend_alloc_ctx_tensors(p->rest, p->backend);
	p->ggml_backend_tensor_set(q, c->q, 0, sizeof(c->q));
	p->ggml_backend_tensor_set(mask, zeroes, 0, 2 * (size_t)c->tokens);
	free(zeroes);
	return 0;
}

double peer_run(struct peer *p)
{
	double start = now();

	if (p->ggml_backend_graph_compute(p->backend, p->graph) != GGML_STATUS_SUCCESS)
		return NAN;
	return now() - start;
}

void peer_output(const struct peer *p, float *out)
{
	p->ggml_backend_tensor_get(p->first, out, 0, OUT_FLOATS * sizeof(*out));
}

void peer_close(struct peer *p)
{
	p->ggml_backend_buffer_free(p->rest_buffer);
	p->ggml_backend_buffer_free(p->cache_buffer);
	p->ggml_free(p->rest);
	p->ggml_free(p->caches);
}
