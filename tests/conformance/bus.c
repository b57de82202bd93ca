// SPDX-License-Identifier: MIT
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "conf.h"

static __thread sigjmp_buf escape;
static __thread volatile bool armed;
static __thread volatile uintptr_t bus_addr;

static void on_bus(int sig, siginfo_t *info, void *context)
{
	static const char text[] = "# SIGBUS outside an access that may fail\n";
	ssize_t written;

	(void)sig;
	(void)context;
	if (!armed) {
		written = write(STDOUT_FILENO, text, sizeof(text) - 1);
		(void)written;
		_exit(CONF_FAIL);
	}
	bus_addr = (uintptr_t)info->si_addr;
	siglongjmp(escape, 1);
}

void conf_bus_install(void)
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_sigaction = on_bus;
	action.sa_flags = SA_SIGINFO;
	CONF_SYS(sigaction(SIGBUS, &action, NULL));
}

struct conf_bus conf_try_read(const void *addr)
{
	struct conf_bus bus = { 0 };

	armed = true;
	if (sigsetjmp(escape, 1)) {
		armed = false;
		bus.hit = true;
		bus.addr = bus_addr;
		return bus;
	}
	(void)*(const volatile char *)addr;
	armed = false;
	return bus;
}

struct conf_bus conf_try_write(void *addr, char value)
{
	struct conf_bus bus = { 0 };

	armed = true;
	if (sigsetjmp(escape, 1)) {
		armed = false;
		bus.hit = true;
		bus.addr = bus_addr;
		return bus;
	}
	*(volatile char *)addr = value;
	armed = false;
	return bus;
}

static void expect_in_block(struct kvt_pool *pool, uint64_t block, const char *access,
			    struct conf_bus bus)
{
	uintptr_t start = (uintptr_t)conf_addr(pool, block);

	if (!bus.hit)
		CONF_FAIL_NOW("%s of block %llu: expected SIGBUS, got none", access,
			      (unsigned long long)block);
	if (bus.addr < start || bus.addr >= start + kvt_pool_block_bytes(pool))
		CONF_FAIL_NOW("si_addr: expected in block %llu at %#lx, got %#lx",
			      (unsigned long long)block, (unsigned long)start,
			      (unsigned long)bus.addr);
}

void conf_expect_bus_read(struct kvt_pool *pool, uint64_t block, size_t at)
{
	expect_in_block(pool, block, "read", conf_try_read(conf_addr(pool, block) + at));
}

void conf_expect_bus_write(struct kvt_pool *pool, uint64_t block, size_t at)
{
	expect_in_block(pool, block, "write", conf_try_write(conf_addr(pool, block) + at, 1));
}
