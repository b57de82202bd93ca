// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <numa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "budgets.h"
#include "command.h"
#include "host.h"
#include "kvtier.h"
#include "size.h"

static int parse(const char *option, const char *text, uint64_t *bytes)
{
	int ret = size_parse(text, bytes);

	if (ret == -EINVAL)
		return fail(EXIT_OWN, "%s: '%s' is not a size: use a number with K, M, G or T", option,
			    text);
	if (ret)
		return fail(EXIT_OWN, "%s: '%s' is zero or out of range", option, text);
	return 0;
}

int budget_dram(struct budgets *b, const char *text)
{
	uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	char have[SIZE_TEXT];
	int ret = parse("--dram", text, &b->dram_bytes);

	if (!ret && b->dram_bytes > all)
		return fail(EXIT_OWN, "--dram: '%s' is more than this host's memory (%s)", text,
			    size_text(all, have));
	return ret;
}

int budget_cxl(struct budgets *b, const char *text)
{
	char *colon;
	long node = strtol(text, &colon, 10);
	long long bytes;
	char have[SIZE_TEXT];

	if (colon == text || *colon != ':')
		return fail(EXIT_OWN, "--cxl: '%s' is not NODE:SIZE, as in 1:8G", text);
	if (parse("--cxl", colon + 1, &b->cxl_bytes))
		return EXIT_OWN;
	bytes = numa_available() < 0 || node < 0 || node > numa_max_node() ?
			-1 : numa_node_size64((int)node, NULL);
	if (bytes <= 0)
		return fail(EXIT_OWN, "--cxl: NUMA node %ld has no memory here: `kvtier doctor` lists "
				      "the nodes", node);
	if (b->cxl_bytes > (uint64_t)bytes)
		return fail(EXIT_OWN, "--cxl: node %ld has %s, less than '%s'", node,
			    size_text((uint64_t)bytes, have), colon + 1);
	b->cxl_node = (int)node;
	return 0;
}

/* A path may hold colons: only a last part that is a size counts as one. */
int budget_nvme(struct budgets *b, const char *text)
{
	const char *colon = strrchr(text, ':');
	struct stat st;

	snprintf(b->nvme_path, sizeof(b->nvme_path), "%s", text);
	if (colon && stat(text, &st)) {
		if (parse("--nvme", colon + 1, &b->nvme_bytes))
			return EXIT_OWN;
		b->nvme_path[colon - text] = '\0';
	}
	return b->nvme_path[0] ? 0 : fail(EXIT_OWN, "--nvme: no path in '%s'", text);
}

int budget_block(struct budgets *b, const char *text)
{
	uint64_t n;

	if (parse("--block", text, &n))
		return EXIT_OWN;
	if (n < KVT_BLOCK_MIN || n > KVT_BLOCK_MAX || (n & (n - 1)))
		return fail(EXIT_OWN, "--block: '%s' is not a power of two from 64K to 2M", text);
	b->block_bytes = n;
	return 0;
}

static int choose_dram(struct budgets *b)
{
	char text[SIZE_TEXT];

	if (b->dram_bytes)
		return 0;
	b->dram_bytes = host_memory() / 2 & ~(uint64_t)(KVT_BLOCK_MAX - 1);
	if (!b->dram_bytes)
		return fail(EXIT_OWN, "no memory is available here: free some or give --dram SIZE");
	fprintf(stderr, "kvtier run: --dram %s (half of the memory available now)\n",
		size_text(b->dram_bytes, text));
	return 0;
}

static int choose_nvme(struct budgets *b)
{
	char buf[4096];
	const char *dir;

	if (b->nvme_path[0])
		return 0;
	dir = host_nvme_dir(buf, sizeof(buf));
	if (!dir)
		return fail(EXIT_OWN, "no directory for the NVMe tier: /var/tmp and the cache directory "
				      "are in memory or full; give --nvme PATH on a disk");
	snprintf(b->nvme_path, sizeof(b->nvme_path), "%s", dir);
	fprintf(stderr, "kvtier run: --nvme %s (an unnamed file there, as large as needed)\n", dir);
	return 0;
}

static int check_nvme_space(const struct budgets *b, const char *dir)
{
	char want[SIZE_TEXT], have[SIZE_TEXT];
	struct statvfs fs;
	uint64_t left;

	if (statvfs(dir, &fs))
		return fail(EXIT_OWN, "--nvme: %s: %s", dir, strerror(errno));
	left = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (left < KVT_BLOCK_MAX || b->nvme_bytes > left)
		return fail(EXIT_OWN, "--nvme: %s is too full: %s free, %s wanted; free some or name "
				      "another path", dir, size_text(left, have),
			    size_text(b->nvme_bytes ? b->nvme_bytes : KVT_BLOCK_MAX, want));
	return 0;
}

static int check_nvme(const struct budgets *b)
{
	char dir[4096], *slash;
	struct stat st;
	int ret;

	snprintf(dir, sizeof(dir), "%s", b->nvme_path);
	if (!stat(dir, &st) && S_ISBLK(st.st_mode)) {
		if (access(dir, R_OK | W_OK))
			return fail(EXIT_OWN, "--nvme: %s: %s", dir, strerror(errno));
		return 0;
	}
	if (stat(dir, &st) || !S_ISDIR(st.st_mode)) {
		slash = strrchr(dir, '/');
		if (slash)
			slash[slash == dir] = '\0';
		else
			snprintf(dir, sizeof(dir), ".");
	}
	if (stat(dir, &st) || !S_ISDIR(st.st_mode))
		return fail(EXIT_OWN, "--nvme: there is no directory %s: make it or name another", dir);
	if (access(dir, W_OK | X_OK))
		return fail(EXIT_OWN, "--nvme: %s is not writable: %s; name a directory of your own",
			    dir, strerror(errno));
	ret = check_nvme_space(b, dir);
	if (ret)
		return ret;
	ret = host_direct_io(dir);
	if (ret == -EINVAL || ret == -EOPNOTSUPP)
		return fail(EXIT_OWN, "--nvme: %s has no O_DIRECT (tmpfs, overlay?): name a directory "
				      "on a disk", dir);
	return ret ? fail(EXIT_OWN, "--nvme: %s: %s", dir, strerror(-ret)) : 0;
}

static int check_kernel(void)
{
	struct host_uffd uffd;
	int ret;

	host_uffd(&uffd);
	if (uffd.error)
		return fail(EXIT_OWN, "%s", kvt_error_detail());
	ret = host_io_uring();
	if (ret == -EPERM || ret == -EACCES)
		return fail(EXIT_OWN, "io_uring is forbidden here: run `sysctl -w "
				      "kernel.io_uring_disabled=0` as root or allow the system call");
	if (ret)
		return fail(EXIT_OWN, "io_uring does not work here: %s; `kvtier doctor` says more",
			    strerror(-ret));
	return 0;
}

int budgets_complete(struct budgets *b)
{
	int ret = check_kernel();

	if (!ret)
		ret = choose_dram(b);
	if (!ret)
		ret = choose_nvme(b);
	return ret ? ret : check_nvme(b);
}
