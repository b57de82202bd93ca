// SPDX-License-Identifier: MIT
/*
 * pool: memory of which an eighth is ever resident; written, sealed, cloned, read back.
 *
 *	pool [FOLDER]		FOLDER: where the NVMe tier is, default .
 */
#include <err.h>
#include <stdio.h>
#include <string.h>

#include <kvtier.h>

#define BLOCK (256UL << 10)
#define BLOCKS 256UL

/* Every call of the library is 0 (or a count), or a negative errno with a line that says why. */
static int must(int ret)
{
	if (ret < 0)
		errx(1, "%s", kvt_error_detail());
	return ret;
}

static struct kvt_pool *make_pool(const char *folder)
{
	struct kvt_config config = KVT_CONFIG_INIT;
	struct kvt_pool *pool;

	config.bytes = BLOCKS * BLOCK;
	config.dram_bytes = BLOCKS / 8 * BLOCK;
	config.block_bytes = BLOCK;
	config.nvme_path = folder;
	must(kvt_pool_create(&config, &pool));
	return pool;
}

static unsigned char *block(struct kvt_pool *pool, size_t i)
{
	return (unsigned char *)kvt_pool_addr(pool) + i * BLOCK;
}

static void show(const char *what, struct kvt_pool *pool)
{
	static struct kvtier_block_info info[BLOCKS];
	unsigned int i, resident = 0, sealed = 0;

	must(kvt_query(pool, 0, BLOCKS, info));
	for (i = 0; i < BLOCKS; i++) {
		resident += info[i].tier == KVTIER_TIER_DRAM;
		sealed += info[i].state == KVTIER_BLOCK_SEALED ||
			  info[i].state == KVTIER_BLOCK_CLEAN || info[i].state == KVTIER_BLOCK_COLD;
	}
	printf("%-28s %3u of %lu blocks in memory, %3u sealed\n", what, resident, BLOCKS, sealed);
}

int main(int argc, char **argv)
{
	struct kvt_pool *pool = make_pool(argc > 1 ? argv[1] : ".");
	struct kvtier_stats stats;
	size_t i, half = BLOCKS / 2;

	/* Plain stores: what no longer fits is written to NVMe, out of their way. */
	for (i = 0; i < half; i++)
		memset(block(pool, i), (int)i, BLOCK);
	show("half of it filled", pool);

	/* From here on a store there is SIGBUS; a sealed block is written at most once. */
	must(kvt_seal(pool, 0, half * BLOCK));
	show("and sealed", pool);

	/* Nothing is copied, neither in memory nor on disk. */
	must(kvt_clone(pool, half * BLOCK, pool, 0, half * BLOCK));
	show("cloned into the other half", pool);

	/* A hint of what comes next, which does not wait for it; the loads go anywhere. */
	must(kvt_range_op(pool, KVTIER_OP_PROMOTE, KVTIER_TIER_NONE, KVTIER_OP_NOWAIT,
			  &(struct kvtier_range){ .offset = half * BLOCK, .length = 8 * BLOCK },
			  1));
	for (i = 0; i < BLOCKS; i++)
		if (block(pool, i)[i] != (unsigned char)(i % half))
			errx(1, "block %zu has another's content", i);
	show("all of it read", pool);

	must(kvt_stats(pool, &stats));
	printf("blocks written %llu, read back %llu; loads and stores that waited for NVMe %llu\n",
	       (unsigned long long)stats.written_blocks, (unsigned long long)stats.promoted,
	       (unsigned long long)(stats.hard_faults + stats.late_faults));
	kvt_pool_destroy(pool);
	return 0;
}
