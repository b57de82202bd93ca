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

static void look_into(struct search *s, const char *object)
{
	void *handle = dlopen(object, RTLD_LAZY | RTLD_NOLOAD);

	if (!handle)
		return;
	s->found = dlsym(handle, s->name);
	dlclose(handle);
	if (s->found == s->own)
		s->found = NULL;
}

static int look_into_each(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct search *s = arg;

	(void)size;
	if (info->dlpi_name && info->dlpi_name[0])
		look_into(s, info->dlpi_name);
	return s->found != NULL;
}

/*
 * The caller's own library and what it links comes first: there may be two
 * engines in a process.  Of a program, only what comes after this library is
 * asked; last, any library at all.
 */
void *kvt_engine_symbol(const char *name, const void *caller)
{
	struct search s = { .name = name };
	Dl_info self, from;

	s.own = dlsym(RTLD_DEFAULT, name);
	if (!dladdr(s.own, &self) || !dladdr((void *)look_into, &from) ||
	    self.dli_fbase != from.dli_fbase)
		s.own = NULL;
	if (dladdr(caller, &from) && from.dli_fname)
		look_into(&s, from.dli_fname);
	if (!s.found)
		s.found = dlsym(RTLD_NEXT, name);
	if (!s.found)
		dl_iterate_phdr(look_into_each, &s);
	return s.found;
}

static int is_ggml(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)size;
	(void)arg;
	return info->dlpi_name && strstr(info->dlpi_name, "ggml");
}

bool kvt_engine_loaded(void)
{
	return dl_iterate_phdr(is_ggml, NULL);
}
