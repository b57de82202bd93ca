// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <dlfcn.h>
#include <err.h>
#include <glob.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

/* llama.cpp changes its structs freely; the headers are those of this version. */
#define ENGINE_VERSION "0.5."

#define CPU_PREFIX "libggml-cpu-"

/* The first file in @dir that matches one of @patterns, into @path. */
static int find_library(const char *dir, const char *const *patterns, char *path, size_t len)
{
	char pattern[4096];
	glob_t found;

	for (; *patterns; patterns++) {
		snprintf(pattern, sizeof(pattern), "%s/%s", dir, *patterns);
		if (!glob(pattern, 0, NULL, &found)) {
			snprintf(path, len, "%s", found.gl_pathv[0]);
			globfree(&found);
			return 0;
		}
	}
	return -1;
}

/* Global, as if the program were linked with it: an engine's usual form. */
static void *open_library(const char *dir, const char *what, const char *const *patterns)
{
	char path[4096];
	void *library;

	if (find_library(dir, patterns, path, sizeof(path)))
		errx(1, "no %s in %s: name the folder of an engine with --engine "
			"(scripts/engine.sh fetches one and prints its folder)", what, dir);
	library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
	if (!library)
		errx(1, "cannot load the engine: %s", dlerror());
	return library;
}

static void *find_call(void *library, const char *name)
{
	void *call = dlsym(library, name);

	if (!call)
		errx(1, "the engine has no %s: it is not llama.cpp " ENGINE_VERSION "x", name);
	return call;
}

static void bind_calls(struct engine *e, void *ggml, void *llama)
{
#define BIND_GGML(name) e->name = find_call(ggml, #name);
#define BIND_LLAMA(name) e->name = find_call(llama, #name);
	GGML_CALLS(BIND_GGML)
	LLAMA_CALLS(BIND_LLAMA)
}

/* A backend scores 0 on a CPU that lacks its instructions. */
static void check_cpu(const char *path, const char *cpu)
{
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	int (*score)(void);

	if (!library)
		errx(1, "no CPU variant \"%s\" (see the engine's " CPU_PREFIX "*.so): %s", cpu,
		     dlerror());
	*(void **)&score = dlsym(library, "ggml_backend_score");
	if (score && !score())
		errx(1, "this CPU cannot run the variant \"%s\"", cpu);
	dlclose(library);
}

static void load_cpu(struct engine *e, const char *dir, const char *cpu)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/" CPU_PREFIX "%s.so", dir, cpu);
	check_cpu(path, cpu);
	if (!e->ggml_backend_load(path))
		errx(1, "the engine cannot load %s", path);
}

static int note_cpu(struct dl_phdr_info *info, size_t size, void *data)
{
	struct engine *e = data;
	const char *at = strstr(info->dlpi_name, CPU_PREFIX), *end;

	(void)size;
	if (!at)
		return 0;
	at += strlen(CPU_PREFIX);
	end = strstr(at, ".so");
	snprintf(e->cpu, sizeof(e->cpu), "%.*s", (int)(end ? end - at : (long)strlen(at)), at);
	return 1;
}

void engine_load(struct engine *e, const char *dir, const char *cpu, ggml_log_callback log,
		 void *log_data)
{
	static const char *const ggml_files[] = { "libggml.so", "libggml.so.*", "libggml.v*.so",
						  NULL };
	static const char *const llama_files[] = { "libllama.so", "libllama.so.*", "libllama.v*.so",
						   NULL };
	void *ggml = open_library(dir, "libggml", ggml_files);
	void *llama = open_library(dir, "libllama", llama_files);

	memset(e, 0, sizeof(*e));
	bind_calls(e, ggml, llama);
	if (strncmp(e->llama_version(), ENGINE_VERSION, strlen(ENGINE_VERSION)))
		errx(1, "the engine is llama.cpp %s; this program needs " ENGINE_VERSION "x",
		     e->llama_version());
	e->llama_log_set(log, log_data);
	if (cpu)
		load_cpu(e, dir, cpu);
	else
		e->ggml_backend_load_all_from_path(dir);
	if (!e->ggml_backend_dev_count())
		errx(1, "the engine in %s has no backend for this CPU", dir);
	snprintf(e->cpu, sizeof(e->cpu), "builtin");
	dl_iterate_phdr(note_cpu, e);
	e->llama_backend_init();
}
