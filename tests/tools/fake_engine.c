// SPDX-License-Identifier: MIT
/*
 * fake_engine LIBRARY CASE: an engine reduced to what it does with a KV cache.
 * The library is opened RTLD_LOCAL, as language runtimes do.  Exit status 0:
 * every byte was as it should be; 1: not, and a line says which.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <err.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake_ggml.h"

#define MIB (1 << 20)
#define LAYERS 8
#define DRAM (16 * MIB) /* what the suite gives to this process */
#define OWN (6 * MIB)	/* what the program and the pager need besides */

static struct {
	struct ggml_backend_buffer *(*cache)(const char *prefix, int layers, size_t tensor_bytes);
	void (*clear)(struct ggml_backend_buffer *buffer, uint8_t value);
	void (*free)(struct ggml_backend_buffer *buffer);
	void (*leap)(bool armed);
	jmp_buf *jump;
} ggml;

static void load(const char *path)
{
	void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);

	if (!handle)
		errx(1, "%s", dlerror());
	*(void **)&ggml.cache = dlsym(handle, "fake_cache");
	*(void **)&ggml.clear = dlsym(handle, "fake_clear");
	*(void **)&ggml.free = dlsym(handle, "fake_free");
	*(void **)&ggml.leap = dlsym(handle, "fake_leap");
	ggml.jump = dlsym(handle, "fake_jump");
	if (!ggml.cache || !ggml.clear || !ggml.free || !ggml.leap || !ggml.jump)
		errx(1, "%s is not the fake ggml", path);
}

static uint64_t pattern(size_t i, uint64_t seed)
{
	return (i + seed) * 0x9e3779b97f4a7c15ull;
}

static void fill(struct ggml_backend_buffer *b, uint64_t seed)
{
	uint64_t *words = b->base;
	size_t i;

	for (i = 0; i < b->bytes / sizeof(*words); i++)
		words[i] = pattern(i, seed);
}

static void check(const struct ggml_backend_buffer *b, uint64_t seed)
{
	const uint64_t *words = b->base;
	size_t i;

	for (i = 0; i < b->bytes / sizeof(*words); i++)
		if (words[i] != pattern(i, seed))
			errx(1, "word %zu is wrong", i);
}

static void check_zero(const struct ggml_backend_buffer *b)
{
	const uint64_t *words = b->base;
	size_t i;

	for (i = 0; i < b->bytes / sizeof(*words); i++)
		if (words[i])
			errx(1, "word %zu is not zero", i);
}

static struct ggml_backend_buffer *cache(const char *prefix, size_t bytes)
{
	struct ggml_backend_buffer *b = ggml.cache(prefix, LAYERS, bytes / LAYERS / 2);

	if (!b)
		errx(3, "no memory for %s of %zu bytes", prefix, bytes);
	return b;
}

static void one(void)
{
	struct ggml_backend_buffer *b = cache("cache", 32 * MIB);

	ggml.clear(b, 0);
	check_zero(b);
	fill(b, 1);
	check(b, 1);
	ggml.free(b);
}

/* Used, zeroed, used with a value, and made anew at what may be the same place. */
static void clear(void)
{
	struct ggml_backend_buffer *b = cache("cache", 32 * MIB);
	int i;

	fill(b, 1); /* before any clear: the next one must not be taken for the first */
	ggml.clear(b, 0);
	check_zero(b);
	fill(b, 2);
	ggml.clear(b, 0);
	check_zero(b);
	ggml.clear(b, 0x5a);
	for (i = 0; i < 32 * MIB; i += 4096)
		if (((char *)b->base)[i] != 0x5a)
			errx(1, "byte %d is not 0x5a", i);
	ggml.free(b);
	one();
}

/* The most memory this process ever had, as the kernel counts. */
static size_t most_memory(void)
{
	unsigned long kib = 0;
	char line[256];
	FILE *f = fopen("/proc/self/status", "re");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "VmHWM: %lu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib << 10;
}

/* The second comes when the first is full; a small third has less than a block a tensor. */
static void several(void)
{
	struct ggml_backend_buffer *a, *b, *c;
	size_t before = most_memory(), after;

	a = cache("cache", 32 * MIB);
	fill(a, 1);
	b = cache("cache_swa", 64 * MIB);
	fill(b, 2);
	c = cache("cache", MIB / 2);
	fill(c, 3);
	check(a, 1);
	check(b, 2);
	check(c, 3);
	ggml.free(a);
	fill(b, 4);
	check(b, 4);
	check(c, 3);
	ggml.free(b);
	ggml.free(c);
	after = most_memory();
	if (getenv("KVTIER_DRAM") && after > before + DRAM + OWN)
		errx(1, "memory grew from %zu to %zu KiB", before >> 10, after >> 10);
}

static void wait_for(pid_t pid)
{
	int status = -1;

	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		errx(1, "the child failed: status %#x", status);
}

/* The child frees what it never had, makes its own, and the parent notices nothing. */
static void forked(void)
{
	struct ggml_backend_buffer *b = cache("cache", 32 * MIB);
	pid_t pid;

	fill(b, 1);
	pid = fork();
	if (!pid) {
		struct ggml_backend_buffer *own = cache("cache", 32 * MIB);

		ggml.free(b);
		fill(own, 2);
		check(own, 2);
		ggml.free(own);
		_exit(0);
	}
	wait_for(pid);
	check(b, 1);
	ggml.free(b);
}

static void *make_many(void *arg)
{
	uint64_t seed = (uintptr_t)arg;
	int i;

	for (i = 0; i < 3; i++) {
		struct ggml_backend_buffer *b = cache("cache", 24 * MIB);

		fill(b, seed + (uint64_t)i);
		check(b, seed + (uint64_t)i);
		ggml.free(b);
	}
	return NULL;
}

static void threads(void)
{
	pthread_t thread[2];
	uintptr_t i;

	for (i = 0; i < 2; i++)
		if (pthread_create(&thread[i], NULL, make_many, (void *)(100 * i)))
			errx(1, "no thread");
	for (i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
}

/* Weights are large and aligned as well, and none of our business. */
static void weights(void)
{
	struct ggml_backend_buffer *b = cache("blk", 32 * MIB);
	void *plain = NULL;

	fill(b, 1);
	if (posix_memalign(&plain, 2 * MIB, 32 * MIB))
		errx(1, "no memory");
	memset(plain, 1, 32 * MIB);
	check(b, 1);
	free(plain);
	free(memalign(4096, MIB));
	ggml.free(b);
}

/* A pool shows its figures a few times a second; what exit() cuts off is not in them. */
static void leave(void)
{
	fill(cache("cache", 32 * MIB), 1);
	usleep(1200000);
	exit(0);
}

static void die(void)
{
	fill(cache("cache", 32 * MIB), 1);
	raise(SIGKILL);
}

/* Spoil every file of ours that has no name any more: the NVMe tier. */
static int spoil_files(bool cut)
{
	static const char junk[MIB];
	char name[64], link[256];
	int fd, target, spoilt = 0;

	for (fd = 3; fd < 64; fd++) {
		ssize_t n;

		snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
		n = readlink(name, link, sizeof(link) - 1);
		if (n < 0)
			continue;
		link[n] = '\0';
		if (link[0] != '/' || !strstr(link, "(deleted)") || !strstr(link, "/nvme/"))
			continue;
		target = open(name, O_WRONLY | O_CLOEXEC);
		if (target < 0)
			err(1, "%s", name);
		if (cut && ftruncate(target, 0))
			err(1, "%s", name);
		for (n = 0; !cut && n < 32; n++)
			if (pwrite(target, junk, sizeof(junk), n * MIB) != sizeof(junk))
				err(1, "%s", name);
		fsync(target);
		close(target);
		spoilt++;
	}
	return spoilt;
}

static void spoil(bool cut)
{
	struct ggml_backend_buffer *b = cache("cache", 32 * MIB);

	fill(b, 1);
	if (!spoil_files(cut))
		errx(1, "the file of the NVMe tier was not found");
	check(b, 1);
	errx(1, "all of the cache could be read");
}

static void damaged(void)
{
	spoil(false);
}

static void cut_off(void)
{
	spoil(true);
}

/* A cache that is measured, resized and freed as C23 has it, though none of that is ggml's. */
static void resized(void)
{
	void (*sized)(void *, size_t);
	struct ggml_backend_buffer *b = cache("cache", 32 * MIB), *c;
	volatile size_t many = SIZE_MAX / 2;
	size_t bytes = b->bytes;
	void *more;

	fill(b, 1);
	if (getenv("KVTIER_DRAM") && malloc_usable_size(b->base) < bytes)
		errx(1, "%zu of %zu bytes are usable", malloc_usable_size(b->base), bytes);
	b->bytes = 4 * MIB;
	b->base = realloc(b->base, b->bytes);
	if (!b->base)
		errx(1, "no memory");
	check(b, 1);
	b->base = reallocarray(b->base, 8, MIB);
	check(b, 1);
	more = reallocarray(b->base, many, 4);
	if (more)
		errx(1, "more than there can be");
	ggml.free(b);
	c = cache("cache", 32 * MIB);
	fill(c, 2);
	check(c, 2);
	*(void **)&sized = dlsym(RTLD_DEFAULT, "free_sized");
	if (!sized)
		sized = (void (*)(void *, size_t))(void *)free;
	sized(c->base, c->bytes);
	free(c);
	b = cache("cache", 2 * MIB); /* fits: plain memory */
	fill(b, 3);
	b->base = realloc(b->base, 4 * MIB);
	check(b, 3);
	more = realloc(b->base, 0); /* NOLINT(clang-analyzer-optin.portability.UnixAPI) */
	if (more)
		errx(1, "something of nothing");
	free(b);
}

/* The allocation is left by longjmp(): what is allocated later is nobody's cache. */
static void jumped(void)
{
	struct ggml_backend_buffer *b;
	void *plain = NULL;

	if (!setjmp(*ggml.jump)) {
		ggml.leap(true);
		cache("cache", 32 * MIB);
		errx(1, "it did not jump");
	}
	ggml.leap(false);
	if (posix_memalign(&plain, 64, 32 * MIB))
		errx(1, "no memory");
	memset(plain, 1, 32 * MIB);
	free(plain);
	b = cache("cache", 32 * MIB);
	fill(b, 1);
	check(b, 1);
	ggml.free(b);
}

static void nothing(void)
{
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "one", one },		{ "clear", clear },	{ "several", several },
	{ "forked", forked },	{ "threads", threads }, { "weights", weights },
	{ "leave", leave },	{ "die", die },		{ "damaged", damaged },
	{ "cut_off", cut_off }, { "nothing", nothing }, { "resized", resized },
	{ "jumped", jumped },
};

int main(int argc, char **argv)
{
	size_t i;

	if (argc != 3)
		errx(1, "usage: fake_engine LIBRARY CASE");
	load(argv[1]);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (strcmp(argv[2], cases[i].name))
			continue;
		cases[i].run();
		return 0;
	}
	errx(1, "there is no case %s", argv[2]);
}
