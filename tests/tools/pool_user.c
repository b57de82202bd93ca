// SPDX-License-Identifier: MIT
/*
 * pool_user NAME DIR: a pool of 32 MiB with 8 MiB of DRAM, 20 MiB of which are scanned
 * again and again until its standard input ends.
 * pool_user NAME: the same 8 MiB of blocks in a pool of the daemon, kept, sealed, written.
 * Prints "ready" once the content is there.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kvtier_daemon.h"

#define BLOCK 65536ul
#define MIB (1ul << 20)

static int own(const char *name, const char *dir, struct kvt_pool **pool)
{
	struct kvt_config config = KVT_CONFIG_INIT;

	config.bytes = 32 * MIB;
	config.block_bytes = BLOCK;
	config.dram_bytes = 8 * MIB;
	config.nvme_path = dir;
	config.name = name;
	config.pager = KVT_PAGER_USER;
	return kvt_pool_create(&config, pool);
}

static int shared(const char *name, struct kvt_pool **pool)
{
	struct kvt_shared_config config = KVT_SHARED_CONFIG_INIT;
	struct kvt_client *client;
	int ret = kvt_client_open(NULL, &client);

	if (ret)
		return ret;
	config.name = name;
	config.bytes = 32 * MIB;
	config.block_bytes = BLOCK;
	config.dram_bytes = 8 * MIB;
	config.flags = KVT_SHARED_KEEP;
	return kvt_shared_create(client, &config, pool);
}

/* Returns when the standard input has ended. */
static void scan(const char *memory, size_t bytes)
{
	struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };
	volatile char sum = 0;
	size_t i;

	while (poll(&in, 1, 50) == 0)
		for (i = 0; i < bytes; i += 4096)
			sum = (char)(sum + memory[i]);
}

int main(int argc, char **argv)
{
	struct kvt_pool *pool;
	size_t bytes = 20 * MIB;
	int ret = argc > 2 ? own(argv[1], argv[2], &pool) : shared(argv[1], &pool);

	if (ret) {
		fprintf(stderr, "pool_user: %d %s\n", ret, kvt_error_detail());
		return 1;
	}
	memset(kvt_pool_addr(pool), 1, bytes);
	if (argc == 2)
		ret = kvt_seal(pool, 0, bytes) ?: kvt_writeback(pool, 0, bytes);
	if (ret) {
		fprintf(stderr, "pool_user: %d %s\n", ret, kvt_error_detail());
		return 1;
	}
	puts("ready");
	fflush(stdout);
	scan(kvt_pool_addr(pool), argc > 2 ? bytes : 4 * MIB);
	kvt_pool_destroy(pool);
	return 0;
}
