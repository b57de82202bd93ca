// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "elf_check.h"

#define INTERPRETERS_MAX 4

static int check_file(const char *path)
{
	struct stat st;

	if (stat(path, &st))
		return errno == ENOTDIR ? -ENOENT : -errno;
	if (!S_ISREG(st.st_mode) || access(path, X_OK))
		return -EACCES;
	return 0;
}

int find_program(const char *command, char *path, size_t len)
{
	const char *dirs = getenv("PATH"), *end;
	int ret, denied = 0;

	if (!*command)
		return -ENOENT;
	if (strchr(command, '/')) {
		snprintf(path, len, "%s", command);
		return check_file(path);
	}
	for (dirs = dirs ? dirs : "/usr/local/bin:/usr/bin:/bin"; *dirs;
	     dirs = *end ? end + 1 : end) {
		end = strchrnul(dirs, ':');
		snprintf(path, len, "%.*s/%s", end > dirs ? (int)(end - dirs) : 1,
			 end > dirs ? dirs : ".", command);
		ret = check_file(path);
		if (!ret)
			return 0;
		denied |= ret == -EACCES;
	}
	return denied ? -EACCES : -ENOENT;
}

static int has_interpreter(int fd, const Elf64_Ehdr *header)
{
	Elf64_Phdr ph;
	int i;

	for (i = 0; i < header->e_phnum; i++) {
		off_t at = (off_t)(header->e_phoff + (uint64_t)i * header->e_phentsize);

		if (pread(fd, &ph, sizeof(ph), at) != sizeof(ph))
			return -ENOEXEC;
		if (ph.p_type == PT_INTERP)
			return 1;
	}
	return 0;
}

static int check_script(char *line, int depth);

static int check_program(const char *path, int depth)
{
	union {
		Elf64_Ehdr elf;
		char text[256];
	} head = { 0 };
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret;
	ssize_t n;

	/* Executable but unreadable: let exec decide. */
	if (fd < 0)
		return errno == EACCES ? 1 : -errno;
	n = read(fd, &head, sizeof(head) - 1);
	if (n >= 2 && !memcmp(head.text, "#!", 2))
		ret = check_script(head.text + 2, depth);
	else if (n < (ssize_t)sizeof(head.elf) || memcmp(head.elf.e_ident, ELFMAG, SELFMAG))
		ret = -ENOEXEC;
	else if (head.elf.e_ident[EI_CLASS] != ELFCLASS64)
		ret = 0;
	else
		ret = has_interpreter(fd, &head.elf);
	close(fd);
	return ret;
}

static int check_script(char *line, int depth)
{
	char *name, *rest = line, path[4096];
	int ret;

	line[strcspn(line, "\n")] = '\0';
	name = strtok_r(NULL, " \t", &rest);
	if (!name || depth >= INTERPRETERS_MAX)
		return -ENOEXEC;
	if (!strcmp(name, "/usr/bin/env")) {
		name = strtok_r(NULL, " \t", &rest);
		if (!name || *name == '-' || strchr(name, '='))
			return 1;
		ret = find_program(name, path, sizeof(path));
		return ret ? ret : check_program(path, depth + 1);
	}
	return check_program(name, depth + 1);
}

int is_dynamic(const char *path)
{
	return check_program(path, 0);
}

bool has_text(const char *path, const char *text)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *map;
	bool found;

	if (fd < 0)
		return false;
	map = fstat(fd, &st) || !st.st_size
		      ? MAP_FAILED
		      : mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		return false;
	found = memmem(map, (size_t)st.st_size, text, strlen(text)) != NULL;
	munmap(map, (size_t)st.st_size);
	return found;
}
