// SPDX-License-Identifier: MIT
/*
 * What moving a MiB costs, in instructions, beside what the kernel's own paging costs
 * for the same bytes in the same machine.  Where the machine's clock counts
 * instructions (QEMU's -icount; the suite's machine says so by ICOUNT) a thread's
 * processor time is that count, up to a factor that a loop of known length tells.
 * Elsewhere only what does not need that is measured.
 */
#include <errno.h>
#include <linux/loop.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "attr.h"
#include "fixture.h"

#define MIB (1ULL << 20)
#define BYTES (16 * MIB)
#define ROUNDS 3

static unsigned int number, failed;

static void result(bool good, const char *what)
{
	printf("%sok %u %s\n", good ? "" : "not ", ++number, what);
	fflush(stdout);
	failed += !good;
}

static void skipped(const char *what, const char *why)
{
	printf("ok %u %s # SKIP %s\n", ++number, what, why);
	fflush(stdout);
}

/* ---- the clock ------------------------------------------------------------------- */

static double per_ns = 1; /* instructions */

static double thread_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Two instructions a turn. */
static void turn(unsigned long turns)
{
	__asm__ volatile("1: dec %0\n\tjnz 1b" : "+r"(turns) : : "cc");
}

static void calibrate(void)
{
	const unsigned long turns = 20000000;
	double begin, best = 0, ns;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		begin = thread_ns();
		turn(turns);
		ns = thread_ns() - begin;
		if (!i || ns < best)
			best = ns;
	}
	per_ns = 2.0 * (double)turns / best;
}

/* One thing to measure: @prepare is not counted, @run is, for @bytes. */
struct job {
	const char *name;
	int (*prepare)(void);
	int (*run)(void);
	uint64_t bytes;
};

/* The least of several, in instructions a MiB; below 0: it failed. */
static double measure(const struct job *job)
{
	double begin, ns, best = -1;
	int i, ret;

	for (i = 0; i < ROUNDS; i++) {
		ret = job->prepare ? job->prepare() : 0;
		if (!ret) {
			begin = thread_ns();
			ret = job->run();
			ns = thread_ns() - begin;
		}
		if (ret) {
			printf("# %s: expected 0, got %d (%s)\n", job->name, ret, strerror(-ret));
			return -1;
		}
		if (best < 0 || ns < best)
			best = ns;
	}
	return best * per_ns / ((double)job->bytes / MIB);
}

static double report(const struct job *job)
{
	double insns = measure(job);
	char name[64];

	result(insns >= 0, job->name);
	if (insns >= 0) {
		snprintf(name, sizeof(name), "kmod.insn.%s", job->name);
		figure(name, insns, "insn/MiB");
	}
	return insns;
}

/* Not more than the kernel's own way, or than @target of it. */
static void report_ratio(const char *name, double ours, double theirs, double target)
{
	if (ours > 0 && theirs > 0)
		figure_of(name, ours / theirs, "ratio", target);
}

/* ---- pools -------------------------------------------------------------------------- */

static struct pool pool;
static char *window; /* a second mapping, in which nothing is mapped yet */

static uint64_t all(void)
{
	return BYTES >> pool.shift;
}

static void touch_pages(char *mem, uint64_t bytes, size_t step)
{
	uint64_t i;

	for (i = 0; i < bytes; i += step)
		(void)*(volatile char *)(mem + i);
}

static int everything_dirty(void)
{
	uint64_t i;
	int ret = op(&pool, KVTIER_OP_PROMOTE, 0, all());

	for (i = 0; i < BYTES; i += 4096)
		pool.mem[i]++;
	return ret;
}

static int everything_clean(void)
{
	int ret = everything_dirty();

	return ret ? ret : op(&pool, KVTIER_OP_WRITEBACK, 0, all());
}

static int everything_on_nvme(void)
{
	int ret = everything_dirty();

	return ret ? ret : op_to(&pool, KVTIER_OP_DEMOTE, KVTIER_TIER_NVME, 0, all());
}

static int everything_in_dram(void)
{
	int ret = op(&pool, KVTIER_OP_PROMOTE, 0, all());

	return ret ? ret : op_to(&pool, KVTIER_OP_PROMOTE, KVTIER_TIER_DRAM, 0, all());
}

static int everything_in_cxl(void)
{
	int ret = op(&pool, KVTIER_OP_PROMOTE, 0, all());

	return ret ? ret : op_to(&pool, KVTIER_OP_DEMOTE, KVTIER_TIER_CXL, 0, all());
}

static int open_window(void)
{
	int ret = everything_dirty();

	if (window)
		munmap(window, BYTES);
	window = map_aligned(pool.fd, BYTES, PROT_READ);
	return window == MAP_FAILED ? -ENOMEM : ret;
}

static int touch_window(void)
{
	touch_pages(window, BYTES, pool.block);
	return 0;
}

static int empty_all(void)
{
	return op(&pool, KVTIER_OP_DISCARD, 0, all());
}

static int first_touch(void)
{
	uint64_t i;

	for (i = 0; i < BYTES; i += pool.block)
		pool.mem[i] = 1;
	return 0;
}

static int touch_all(void)
{
	touch_pages(pool.mem, BYTES, pool.block);
	return 0;
}

static int demote_all(void)
{
	return op_to(&pool, KVTIER_OP_DEMOTE, KVTIER_TIER_NVME, 0, all());
}

static int to_cxl(void)
{
	return op_to(&pool, KVTIER_OP_DEMOTE, KVTIER_TIER_CXL, 0, all());
}

static int to_dram(void)
{
	return op_to(&pool, KVTIER_OP_PROMOTE, KVTIER_TIER_DRAM, 0, all());
}

/* ---- the kernel's own ------------------------------------------------------------------ */

static char *anon;
static char swap_disk[KVT_TEXT];
static bool swapping;

static int fresh_anon(int advice)
{
	uint64_t i;

	if (anon)
		munmap(anon, BYTES);
	anon = mmap(NULL, BYTES + HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		    -1, 0);
	if (anon == MAP_FAILED)
		return -errno;
	i = -(uintptr_t)anon & (HUGE_BYTES - 1);
	munmap(anon, i);
	anon += i;
	munmap(anon + BYTES, HUGE_BYTES - i);
	return madvise(anon, BYTES, advice) ? -errno : 0;
}

static int fresh_small(void)
{
	return fresh_anon(MADV_NOHUGEPAGE);
}

static int fresh_huge(void)
{
	return fresh_anon(MADV_HUGEPAGE);
}

static int write_anon(void)
{
	uint64_t i;

	for (i = 0; i < BYTES; i += 4096)
		anon[i] = (char)i;
	return 0;
}

static int fill_anon(void)
{
	uint64_t i;
	int ret = fresh_small();

	for (i = 0; !ret && i < BYTES / 8; i++)
		((uint64_t *)anon)[i] = word_of(i * 8, 1);
	return ret;
}

/* A swap area of the disk, as mkswap(8) makes it. */
static int swap_up(void)
{
	static const char magic[] = { 'S', 'W', 'A', 'P', 'S', 'P', 'A', 'C', 'E', '2' };
	static char page[4096] __attribute__((aligned(4096)));
	uint32_t *head = (uint32_t *)(page + 1024);
	int fd, ret = 0;

	if (!spare_disk(swap_disk))
		return -ENODEV;
	head[0] = 1;
	head[1] = (uint32_t)((1024 * MIB >> 12) - 1);
	memcpy(page + sizeof(page) - sizeof(magic), magic, sizeof(magic));
	fd = open(swap_disk, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (pwrite(fd, page, sizeof(page), 0) != sizeof(page) || fsync(fd))
		ret = -EIO;
	close(fd);
	if (!ret && swapon(swap_disk, 0))
		ret = -errno;
	swapping = !ret;
	return ret;
}

static void swap_down(void)
{
	if (swapping && swapoff(swap_disk))
		printf("# swapoff: %s\n", strerror(errno));
}

static long swap_cached_kib(void)
{
	long value = -1;
	char line[256];
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "SwapCached: %ld", &value) == 1)
			break;
	if (f)
		fclose(f);
	return value;
}

/* What was paged out and is still in the cache would come back without a read. */
static int drop_swap_cache(void)
{
	int tries;

	for (tries = 0; tries < 50 && swap_cached_kib() > 256; tries++) {
		attr_write("/sys/fs/cgroup/kvtier-insn/memory.reclaim", "32M");
		usleep(20000);
	}
	return swap_cached_kib() <= 256 ? 0 : -EAGAIN;
}

/* A control group of our own, so that only our pages are reclaimed. */
static void enter_cgroup(void)
{
	attr_write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	mkdir("/sys/fs/cgroup/kvtier-insn", 0755);
	attr_writef("/sys/fs/cgroup/kvtier-insn/cgroup.procs", "%d", getpid());
}

static int page_out(void)
{
	return madvise(anon, BYTES, MADV_PAGEOUT) ? -errno : 0;
}

static int paged_out(void)
{
	int ret = fill_anon();

	if (!ret)
		ret = page_out();
	return ret ? ret : drop_swap_cache();
}

static int page_in(void)
{
	touch_pages(anon, BYTES, 4096);
	return 0;
}

static int move_pages_to(int node)
{
	enum { PAGES = BYTES / 4096 };
	static void *pages[PAGES];
	static int nodes[PAGES], status[PAGES];
	int i;

	for (i = 0; i < PAGES; i++) {
		pages[i] = anon + (size_t)i * 4096;
		nodes[i] = node;
	}
	if (syscall(SYS_move_pages, 0, PAGES, pages, nodes, status, 2 /* MPOL_MF_MOVE */) < 0)
		return -errno;
	return status[PAGES / 2] == node ? 0 : -EIO;
}

static int move_pages_cxl(void)
{
	return move_pages_to(cxl_node());
}

/* ---- what needs no such clock --------------------------------------------------------------- */

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Memory that the kernel keeps for itself: slabs and what is mapped in pieces. */
static double kernel_bytes(void)
{
	double sum = 0;
	char line[256];
	long value;
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Slab: %ld", &value) == 1 ||
		    sscanf(line, "VmallocUsed: %ld", &value) == 1)
			sum += (double)value * 1024;
	if (f)
		fclose(f);
	return sum;
}

#define META_BLOCKS 8192

/* All blocks of a pool used once, most of them in their slots. */
static void metadata(void)
{
	struct pool p;
	double before, after;
	uint64_t i;

	attr_write("/proc/sys/vm/drop_caches", "2");
	before = kernel_bytes();
	if (pool_new(&p, SHIFT, META_BLOCKS, 64, META_BLOCKS, KVTIER_POOL_NO_PREDICT)) {
		result(false, "metadata");
		return;
	}
	for (i = 0; i < META_BLOCKS; i++)
		*(volatile char *)at(&p, i) = 1;
	op(&p, KVTIER_OP_DEMOTE, 0, META_BLOCKS);
	attr_write("/proc/sys/vm/drop_caches", "2");
	after = kernel_bytes();
	figure_of("kmod.meta_bytes_per_block", (after - before) / META_BLOCKS, "bytes", 96);
	result(after > before, "metadata");
	pool_close(&p);
}

#define TIB (1ULL << 40)

/* A sparse file as a disk of more than a TiB. */
static int big_disk(char path[KVT_TEXT], int *file)
{
	char name[] = "/tmp/kvtier-big-XXXXXX";
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), loop, nr;

	*file = mkstemp(name);
	if (control < 0 || *file < 0)
		return -1;
	unlink(name);
	nr = ioctl(control, LOOP_CTL_GET_FREE);
	close(control);
	snprintf(path, KVT_TEXT, "/dev/loop%d", nr);
	loop = open(path, O_RDWR | O_CLOEXEC);
	if (nr < 0 || loop < 0 || ftruncate(*file, (off_t)(TIB + TIB / 16)) ||
	    ioctl(loop, LOOP_SET_FD, *file))
		return -1;
	return loop;
}

static void create_big(const char *store)
{
	struct kvtier_pool_create request;
	double begin, seconds;
	int fd = device_open(O_RDWR), ret;

	request = pool_request(SHIFT, TIB >> SHIFT, 1024, (TIB >> SHIFT) + 1024);
	request.budget[KVTIER_TIER_NVME].nodes = 1ULL << store_number(store);
	begin = now_s();
	ret = call(fd, KVTIER_IOC_POOL_CREATE, &request);
	seconds = now_s() - begin;
	if (!ret)
		figure_of("kmod.create_1tib_s", seconds, "s", 1);
	else
		printf("# create: %s\n", strerror(-ret));
	result(!ret, "create_1tib");
	close(fd);
}

static void big_pool(void)
{
	char path[KVT_TEXT], store[KVT_TEXT];
	int file, loop = big_disk(path, &file);

	if (loop < 0) {
		skipped("create_1tib", "no loop device of more than a TiB");
	} else if (store_up(path, store)) {
		result(false, "create_1tib");
	} else {
		create_big(store);
		store_down(store);
	}
	if (loop >= 0) {
		ioctl(loop, LOOP_CLR_FD);
		close(loop);
	}
	close(file);
}

/* ---- all of it ---------------------------------------------------------------------------- */

static const struct job of_pools[] = {
	{ "first_touch", empty_all, first_touch, BYTES },
	{ "map_resident", open_window, touch_window, BYTES },
	{ "promote_nvme_map", everything_on_nvme, touch_all, BYTES },
	{ "demote_clean", everything_clean, demote_all, BYTES },
	{ "demote_dirty", everything_dirty, demote_all, BYTES },
	{ "dram_to_cxl", everything_in_dram, to_cxl, BYTES },
	{ "cxl_to_dram", everything_in_cxl, to_dram, BYTES },
};

#define OF_POOLS (sizeof(of_pools) / sizeof(of_pools[0]))

static const struct job of_kernel[] = {
	{ "anon_fault", fresh_small, write_anon, BYTES },
	{ "anon_fault_thp", fresh_huge, write_anon, BYTES },
	{ "move_pages", fill_anon, move_pages_cxl, BYTES },
	{ "swap_out", fill_anon, page_out, BYTES },
	{ "swap_in", paged_out, page_in, BYTES },
};

#define OF_KERNEL (sizeof(of_kernel) / sizeof(of_kernel[0]))

static int make_pool(uint32_t shift)
{
	struct kvtier_pool_create request =
		pool_request(shift, BYTES >> shift, BYTES >> shift, (BYTES >> shift) + 4);

	request.flags = KVTIER_POOL_NO_PREDICT;
	if (cxl_node() >= 0)
		request.budget[KVTIER_TIER_CXL].bytes = BYTES;
	return pool_open(&pool, &request);
}

static bool needs_cxl(const struct job *job)
{
	return job->run == to_cxl || job->run == to_dram || job->run == move_pages_cxl;
}

static bool needs_swap(const struct job *job)
{
	return job->run == page_out || job->run == page_in;
}

static double measure_pool(uint32_t shift, const char *suffix, double *values)
{
	char name[64];
	struct job job;
	size_t i;

	if (make_pool(shift)) {
		result(false, "pool");
		return -1;
	}
	for (i = 0; i < OF_POOLS; i++) {
		job = of_pools[i];
		snprintf(name, sizeof(name), "%s%s", job.name, suffix);
		job.name = name;
		values[i] = -1;
		if (needs_cxl(&job) && cxl_node() < 0)
			skipped(name, "no node without CPUs");
		else
			values[i] = report(&job);
	}
	if (window)
		munmap(window, BYTES);
	window = NULL;
	pool_close(&pool);
	return 0;
}

static void measure_kernel(double *values)
{
	size_t i;

	for (i = 0; i < OF_KERNEL; i++) {
		values[i] = -1;
		if (needs_cxl(&of_kernel[i]) && cxl_node() < 0)
			skipped(of_kernel[i].name, "no node without CPUs");
		else if (needs_swap(&of_kernel[i]) && !swapping)
			skipped(of_kernel[i].name, "no free disk for swap");
		else
			values[i] = report(&of_kernel[i]);
	}
}

static void compare(const double *ours, const double *theirs)
{
	report_ratio("kmod.insn.first_touch_vs_anon_thp", ours[0], theirs[1], 1);
	report_ratio("kmod.insn.promote_vs_swapin", ours[2], theirs[4], 1.0 / 3);
	report_ratio("kmod.insn.demote_dirty_vs_swapout", ours[4], theirs[3], 1);
	report_ratio("kmod.insn.dram_to_cxl_vs_move_pages", ours[5], theirs[2], 1);
}

static void count_instructions(void)
{
	double huge[OF_POOLS] = { 0 }, small[OF_POOLS] = { 0 }, kernel[OF_KERNEL] = { 0 };
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
	enter_cgroup();
	calibrate();
	printf("# %.3f instructions a nanosecond\n", per_ns);
	if (swap_up())
		printf("# no swap: %s\n", strerror(errno));
	measure_kernel(kernel);
	swap_down();
	if (!measure_pool(HUGE_SHIFT, "", huge) && !measure_pool(SHIFT, "_64k", small))
		compare(huge, kernel);
}

int main(void)
{
	const char *icount = getenv("ICOUNT");
	bool counts = icount && *icount;

	require(NEEDS_STORE | NEEDS_ROOT);
	printf("TAP version 13\n1..%zu\n", 2 + (counts ? OF_KERNEL + 2 * OF_POOLS : 1));
	metadata();
	big_pool();
	if (counts)
		count_instructions();
	else
		skipped("instructions", "the machine's clock does not count them: use --icount");
	return failed != 0;
}
