// SPDX-License-Identifier: MIT
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "fixture.h"

#define SKIPPED 4 /* the selftests' exit status */

static void skip_all(const char *why)
{
	printf("TAP version 13\n1..0 # SKIP %s\n", why);
	exit(SKIPPED);
}

void require(int needs)
{
	int fd = device_open(O_RDWR);

	if (fd == -ENOENT || fd == -ENXIO || fd == -ENODEV)
		skip_all("no " KVTIER_DEVICE ": load the module");
	if (fd < 0)
		skip_all("no right to " KVTIER_DEVICE);
	close(fd);
	if (needs & NEEDS_ROOT && geteuid())
		skip_all("needs root");
	if (needs & NEEDS_STORE && !device_info().nodes[KVTIER_TIER_NVME])
		skip_all("no store is attached");
	if (needs & NEEDS_CXL && cxl_node() < 0)
		skip_all("no node without CPUs");
}

int device_open(int flags)
{
	int fd = open(KVTIER_DEVICE, flags | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int call(int fd, unsigned long number, void *arg)
{
	return ioctl(fd, number, arg) < 0 ? -errno : 0;
}

struct kvtier_info device_info(void)
{
	struct kvtier_info info = { .size = sizeof(info) };
	int fd = device_open(O_RDONLY);

	if (fd < 0 || call(fd, KVTIER_IOC_INFO, &info))
		memset(&info, 0, sizeof(info));
	if (fd >= 0)
		close(fd);
	return info;
}

int cxl_node(void)
{
	return __builtin_ffsll((long long)device_info().nodes[KVTIER_TIER_CXL]) - 1;
}

/* ---- pools ------------------------------------------------------------------- */

struct kvtier_pool_create pool_request(uint32_t shift, uint64_t blocks, uint64_t dram,
				       uint64_t nvme)
{
	struct kvtier_pool_create request = {
		.size = sizeof(request),
		.bytes = blocks << shift,
		.block_shift = shift,
		.name = "selftest",
	};

	request.budget[KVTIER_TIER_DRAM].bytes = dram << shift;
	request.budget[KVTIER_TIER_NVME].bytes = nvme << shift;
	return request;
}

char *reserve(size_t bytes)
{
	char *map = mmap(NULL, bytes + HUGE_BYTES, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (map == MAP_FAILED)
		return NULL;
	return map + (-(uintptr_t)map & (HUGE_BYTES - 1));
}

char *map_aligned(int fd, size_t bytes, int prot)
{
	char *addr = reserve(bytes);

	if (!addr)
		return MAP_FAILED;
	return mmap(addr, bytes, prot, MAP_SHARED | MAP_FIXED, fd, 0);
}

int pool_open(struct pool *pool, const struct kvtier_pool_create *request)
{
	struct kvtier_pool_create made = *request;
	int ret;

	memset(pool, 0, sizeof(*pool));
	pool->fd = device_open(O_RDWR);
	if (pool->fd < 0)
		return pool->fd;
	ret = call(pool->fd, KVTIER_IOC_POOL_CREATE, &made);
	if (ret) {
		close(pool->fd);
		return ret;
	}
	pool->id = made.id;
	pool->shift = made.block_shift;
	pool->block = 1ULL << made.block_shift;
	pool->bytes = made.bytes;
	pool->blocks = made.bytes >> made.block_shift;
	pool->mem = map_aligned(pool->fd, pool->bytes, PROT_READ | PROT_WRITE);
	if (pool->mem == MAP_FAILED) {
		ret = -errno;
		close(pool->fd);
	}
	return ret;
}

int pool_new(struct pool *pool, uint32_t shift, uint64_t blocks, uint64_t dram, uint64_t nvme,
	     uint32_t flags)
{
	struct kvtier_pool_create request = pool_request(shift, blocks, dram, nvme);

	request.flags = flags;
	return pool_open(pool, &request);
}

void pool_close(struct pool *pool)
{
	munmap(pool->mem, pool->bytes);
	close(pool->fd);
}

static int run(struct pool *pool, uint32_t which, uint32_t tier, uint32_t flags, uint64_t first,
	       uint64_t nr)
{
	struct kvtier_range range = { .offset = first * pool->block, .length = nr * pool->block };
	struct kvtier_range_op arg = {
		.size = sizeof(arg),
		.op = which,
		.tier = tier,
		.flags = flags,
		.nr = 1,
		.ranges = (uintptr_t)&range,
	};
	int ret = call(pool->fd, KVTIER_IOC_RANGE_OP, &arg);

	return ret ? ret : range.result;
}

int op(struct pool *pool, uint32_t which, uint64_t first, uint64_t nr)
{
	return run(pool, which, KVTIER_TIER_NONE, 0, first, nr);
}

int op_to(struct pool *pool, uint32_t which, uint32_t tier, uint64_t first, uint64_t nr)
{
	return run(pool, which, tier, 0, first, nr);
}

int op_flags(struct pool *pool, uint32_t which, uint32_t flags, uint64_t first, uint64_t nr)
{
	return run(pool, which, KVTIER_TIER_NONE, flags, first, nr);
}

int clone_blocks(struct pool *dst, uint64_t to, struct pool *src, uint64_t from, uint64_t nr)
{
	struct kvtier_clone arg = {
		.size = sizeof(arg),
		.src_fd = src->fd,
		.src_offset = from * src->block,
		.dst_offset = to * dst->block,
		.length = nr * dst->block,
	};

	return call(dst->fd, KVTIER_IOC_CLONE, &arg);
}

int set_budget(struct pool *pool, uint32_t tier, uint64_t blocks)
{
	struct kvtier_pool_budget arg = {
		.size = sizeof(arg),
		.tier = tier,
		.budget.bytes = blocks * pool->block,
	};

	return call(pool->fd, KVTIER_IOC_POOL_BUDGET, &arg);
}

struct kvtier_block_info info(struct pool *pool, uint64_t block)
{
	struct kvtier_block_info info = { 0 };
	struct kvtier_query query = {
		.size = sizeof(query),
		.first_block = block,
		.infos = (uintptr_t)&info,
		.nr = 1,
	};

	if (call(pool->fd, KVTIER_IOC_QUERY, &query))
		info.state = UINT8_MAX;
	return info;
}

struct kvtier_stats stats(struct pool *pool)
{
	struct kvtier_stats stats = { .size = sizeof(stats) };

	if (call(pool->fd, KVTIER_IOC_STATS, &stats))
		memset(&stats, 0, sizeof(stats));
	return stats;
}

uint64_t used_blocks(struct pool *pool, uint32_t tier)
{
	return stats(pool).tier[tier].used_bytes / pool->block;
}

/* ---- checkpoints ----------------------------------------------------------------- */

int checkpoint_blocks(struct pool *pool, struct manifest *m, uint64_t first, uint32_t nr)
{
	struct kvtier_checkpoint arg = {
		.size = sizeof(arg),
		.offset = first * pool->block,
		.length = nr * pool->block,
		.slots = (uintptr_t)&m->slots[m->nr],
		.nr = MANIFEST_MAX - m->nr,
	};
	int ret;

	memcpy(arg.key, m->key, sizeof(arg.key));
	ret = call(pool->fd, KVTIER_IOC_CHECKPOINT, &arg);
	if (ret)
		return ret;
	m->nr += arg.nr;
	memcpy(m->key, arg.key, sizeof(m->key));
	memcpy(m->store, arg.store, sizeof(m->store));
	return 0;
}

int adopt_blocks(struct pool *pool, const struct manifest *m)
{
	struct kvtier_adopt arg = {
		.size = sizeof(arg),
		.slots = (uintptr_t)m->slots,
		.nr = m->nr,
	};

	memcpy(arg.key, m->key, sizeof(arg.key));
	memcpy(arg.store, m->store, sizeof(arg.store));
	return call(pool->fd, KVTIER_IOC_ADOPT, &arg);
}

int release_key(struct pool *pool, const struct manifest *m)
{
	struct kvtier_release arg = { .size = sizeof(arg) };

	memcpy(arg.key, m->key, sizeof(arg.key));
	return call(pool->fd, KVTIER_IOC_RELEASE, &arg);
}

/* ---- content ------------------------------------------------------------------- */

uint64_t word_of(uint64_t offset, uint64_t stamp)
{
	return (offset + 1) * 0x9e3779b97f4a7c15ULL ^ stamp * 0xbf58476d1ce4e5b9ULL;
}

void fill_word(uint64_t *word, uint64_t offset, uint64_t stamp)
{
	*(volatile uint64_t *)word = word_of(offset, stamp);
}

void fill(struct pool *pool, uint64_t first, uint64_t nr, uint64_t stamp)
{
	uint64_t *words = (uint64_t *)pool->mem, i;
	uint64_t begin = first * pool->block / 8, end = (first + nr) * pool->block / 8;

	for (i = begin; i < end; i++)
		words[i] = word_of(i * 8, stamp);
}

uint64_t check(struct pool *pool, uint64_t first, uint64_t nr, uint64_t stamp)
{
	uint64_t i, wrong = 0;

	for (i = first; i < first + nr; i++)
		wrong += check_as(pool, i, i, stamp);
	return wrong;
}

uint64_t check_as(struct pool *pool, uint64_t block, uint64_t as, uint64_t stamp)
{
	const uint64_t *words = (const uint64_t *)at(pool, block);
	uint64_t i, wrong = 0;

	for (i = 0; i < pool->block / 8; i++)
		wrong += words[i] != word_of(as * pool->block + i * 8, stamp);
	return wrong;
}

uint64_t check_zero(struct pool *pool, uint64_t first, uint64_t nr)
{
	const uint64_t *words = (const uint64_t *)at(pool, first);
	uint64_t i, wrong = 0;

	for (i = 0; i < nr * pool->block / 8; i++)
		wrong += words[i] != 0;
	return wrong;
}

uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* ---- signals --------------------------------------------------------------------- */

uintptr_t fault_addr;
static __thread sigjmp_buf escape;

static void on_fault(int signal, siginfo_t *info, void *context)
{
	fault_addr = (uintptr_t)info->si_addr;
	siglongjmp(escape, signal);
}

static void install(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };

	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
}

static void uninstall(void)
{
	signal(SIGBUS, SIG_DFL);
	signal(SIGSEGV, SIG_DFL);
}

int try_read(const void *addr)
{
	int signal = sigsetjmp(escape, 1);

	if (!signal) {
		install();
		(void)*(const volatile char *)addr;
	}
	uninstall();
	return signal;
}

int try_write(void *addr)
{
	int signal = sigsetjmp(escape, 1);

	if (!signal) {
		install();
		*(volatile char *)addr = 1;
	}
	uninstall();
	return signal;
}

/* ---- waiting and telling --------------------------------------------------------- */

uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

bool next_event(struct pool *pool, uint32_t type, unsigned int ms, struct kvtier_event *event)
{
	struct pollfd fd = { .fd = pool->fd, .events = POLLIN };
	uint64_t end = now_ms() + ms, now = now_ms();

	while (now < end && poll(&fd, 1, (int)(end - now)) == 1) {
		if (read(pool->fd, event, sizeof(*event)) != sizeof(*event))
			return false;
		if (event->type == type)
			return true;
		now = now_ms();
	}
	return false;
}

void figure(const char *name, double value, const char *unit)
{
	printf("# figure %s %.10g %s\n", name, value, unit);
	fflush(stdout);
}

void figure_of(const char *name, double value, const char *unit, double target)
{
	printf("# figure %s %.10g %s %.10g\n", name, value, unit, target);
	fflush(stdout);
}
