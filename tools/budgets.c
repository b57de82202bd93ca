// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <numa.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "budgets.h"
#include "command.h"
#include "host.h"
#include "kvtier.h"
#include "module.h"
#include "size.h"
#include "store.h"

static int parse(const char *option, const char *text, uint64_t *bytes)
{
	int ret = size_parse(text, bytes);

	if (ret == -EINVAL)
		return fail(EXIT_OWN, "%s: '%s' is not a size: use a number with K, M, G or T",
			    option, text);
	if (ret)
		return fail(EXIT_OWN, "%s: '%s' is zero or out of range", option, text);
	return 0;
}

int budget_dram(struct budgets *b, const char *text)
{
	uint64_t all = host_memory_limit();
	char have[SIZE_TEXT];
	int ret = parse("--dram", text, &b->dram_bytes);

	if (!ret && b->dram_bytes > all)
		return fail(EXIT_OWN,
			    "--dram: '%s' is more than the memory of this host or cgroup "
			    "(%s)",
			    text, size_text(all, have));
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
	bytes = numa_available() < 0 || node < 0 || node > numa_max_node()
			? -1
			: numa_node_size64((int)node, NULL);
	if (bytes <= 0)
		return fail(EXIT_OWN,
			    "--cxl: NUMA node %ld has no memory here: the nodes are 0 to %d", node,
			    numa_available() < 0 ? 0 : numa_max_node());
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

	if (snprintf(b->nvme_path, sizeof(b->nvme_path), "%s", text) >= (int)sizeof(b->nvme_path))
		return fail(EXIT_OWN, "--nvme: the path is too long");
	if (colon && stat(text, &st)) {
		if (parse("--nvme", colon + 1, &b->nvme_bytes))
			return EXIT_OWN;
		b->nvme_path[colon - text] = '\0';
	}
	if (b->nvme_path[0] || b->nvme_bytes)
		return 0;
	return fail(EXIT_OWN, "--nvme: neither a path nor a size in '%s'", text);
}

int budget_pager(struct budgets *b, const char *text)
{
	if (!strcmp(text, "auto"))
		b->pager = KVT_PAGER_AUTO;
	else if (!strcmp(text, "user"))
		b->pager = KVT_PAGER_USER;
	else if (!strcmp(text, "kernel"))
		b->pager = KVT_PAGER_KERNEL;
	else
		return fail(EXIT_OWN, "--pager: '%s' is not auto, user or kernel", text);
	return 0;
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
	b->dram_bytes = host_memory() / 2 & ~(uint64_t)(KVT_BLOCK_MAX - 1);
	if (b->dram_bytes)
		return 0;
	return fail(EXIT_OWN, "no memory is available here: free some or give --dram SIZE");
}

static int choose_nvme(struct budgets *b)
{
	char buf[4096];
	const char *dir = host_nvme_dir(buf, sizeof(buf));

	if (!dir)
		return fail(EXIT_OWN,
			    "no directory for the NVMe tier: /var/tmp and the cache directory "
			    "are in memory or full; give --nvme PATH on a disk");
	snprintf(b->nvme_path, sizeof(b->nvme_path), "%s", dir);
	return 0;
}

static int check_nvme(const struct budgets *b)
{
	char why[512];

	if (store_check(b->nvme_path, b->nvme_bytes, why, sizeof(why)))
		return fail(EXIT_OWN, "--nvme: %s", why);
	return 0;
}

/* A path is the user pager's; without one the kernel's is taken if it has a store. */
static void choose_pager(struct budgets *b, const struct module *m)
{
	bool kernel = !b->nvme_path[0] && module_ready(m) &&
		      (b->cxl_node < 0 || m->cxl_nodes >> b->cxl_node & 1);

	if (b->pager != KVT_PAGER_AUTO)
		return;
	b->pager = kernel ? KVT_PAGER_KERNEL : KVT_PAGER_USER;
	if (kernel)
		fprintf(stderr, "kvtier run: --pager kernel (/dev/kvtier has a store)\n");
}

static int check_module(const struct budgets *b, const struct module *m)
{
	char want[SIZE_TEXT], have[SIZE_TEXT];
	const char *command, *lack = module_lack(m, &command);

	if (lack)
		return fail(EXIT_OWN, "--pager kernel: %s%s%s%s", lack, *command ? ": run `" : "",
			    command, *command ? "` as root" : "");
	if (b->nvme_path[0])
		return fail(EXIT_OWN,
			    "--nvme: the kernel pager uses the stores that are attached: give "
			    ":SIZE without a path, or --pager user");
	if (b->cxl_node >= 0 && (b->cxl_node > 63 || !(m->cxl_nodes >> b->cxl_node & 1)))
		return fail(EXIT_OWN,
			    "--cxl: node %d is none of the kernel pager's: see " MODULE_CLASS
			    "/cxl/nodes",
			    b->cxl_node);
	if (b->nvme_bytes > m->store_free)
		return fail(EXIT_OWN, "--nvme: the stores have %s left to give, %s are wanted",
			    size_text(m->store_free, have), size_text(b->nvme_bytes, want));
	return 0;
}

static int check_kernel(void)
{
	struct host_uffd uffd;
	int ret;

	host_uffd(&uffd);
	if (uffd.error)
		return fail(EXIT_OWN, "%s", kvt_error_detail());
	ret = host_io_uring();
	return ret ? fail(EXIT_OWN, "%s", host_io_uring_text(ret)) : 0;
}

/* Said only once all is well, so that an error stands alone. */
static void announce(const struct budgets *b, bool dram, bool nvme)
{
	char text[SIZE_TEXT];

	if (dram)
		fprintf(stderr, "kvtier run: --dram %s (half of the memory available now)\n",
			size_text(b->dram_bytes, text));
	if (nvme)
		fprintf(stderr,
			"kvtier run: --nvme %s (an unnamed file there, %s)\n",
			b->nvme_path, b->nvme_bytes ? "as large as given" : "as large as needed");
}

/* What the user pager needs of this host. */
static int complete_user(struct budgets *b)
{
	int ret = check_kernel();

	if (!ret && !b->nvme_path[0])
		ret = choose_nvme(b);
	return ret ? ret : check_nvme(b);
}

int budgets_complete(struct budgets *b)
{
	bool dram = !b->dram_bytes, nvme = !b->nvme_path[0];
	struct module m;
	int ret;

	module_ask(&m);
	choose_pager(b, &m);
	ret = b->pager == KVT_PAGER_KERNEL ? check_module(b, &m) : complete_user(b);
	if (!ret && dram)
		ret = choose_dram(b);
	if (!ret)
		announce(b, dram, nvme && b->nvme_path[0]);
	return ret;
}
