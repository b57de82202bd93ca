// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <string.h>

#include "engine.h"

struct search {
	const char *name;
	void *own; /* this library's definition, which is not the one wanted */
	void *found;
};

static int look_into(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct search *s = arg;
	void *handle;

	(void)size;
	if (!info->dlpi_name || !strstr(info->dlpi_name, "ggml"))
		return 0;
	handle = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
	if (!handle)
		return 0;
	s->found = dlsym(handle, s->name);
	dlclose(handle);
	if (s->found == s->own)
		s->found = NULL;
	return s->found != NULL;
}

static void *search_objects(const char *name, void *own)
{
	struct search s = { .name = name, .own = own };

	dl_iterate_phdr(look_into, &s);
	return s.found;
}

void *kvt_next_symbol(const char *name)
{
	void *found = dlsym(RTLD_NEXT, name);

	return found ? found : search_objects(name, dlsym(RTLD_DEFAULT, name));
}

void *kvt_engine_symbol(const char *name)
{
	void *found = dlsym(RTLD_DEFAULT, name);

	return found ? found : search_objects(name, NULL);
}
