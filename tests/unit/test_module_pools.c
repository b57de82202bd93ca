// SPDX-License-Identifier: MIT
/* Pools of the kernel pager, read from a folder that looks like the module's class. */
#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "module.h"

static char class[] = "/tmp/kvtier-class-XXXXXX";

static void put(int id, const char *name, const char *value)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/pool%d", class, id);
	mkdir(path, 0700);
	snprintf(path, sizeof(path), "%s/pool%d/%s", class, id, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fprintf(f, "%s\n", value);
	fclose(f);
}

static void put_pool(int id, const char *name, const char *demoted)
{
	put(id, "name", name);
	put(id, "store", "store0");
	put(id, "block_bytes", "262144");
	put(id, "bytes", "16777216");
	put(id, "nr_blocks", "64");
	put(id, "demoted", demoted);
	put(id, "dram_used_bytes", "1048576");
	put(id, "nvme_bytes_out", "777");
}

static int make_class(void **state)
{
	(void)state;
	if (!mkdtemp(class))
		return -1;
	put_pool(3, "engine", "11");
	put_pool(12, "other one", "22");
	return 0;
}

static int remove_class(void **state)
{
	char command[64];

	(void)state;
	snprintf(command, sizeof(command), "rm -r %s", class);
	return system(command);
}

/* The one that a process shows keeps its process and gets live figures; the other is new. */
static void merged(void **state)
{
	struct kvt_stat_file ours = {
		.pid = 77, .kernel_id = 3, .name = "mine", .pager = "kernel"
	};
	struct kvt_stat_file user = { .pid = 78, .kernel_id = -1, .name = "user", .pager = "user" };
	struct pools pools = { 0 };

	(void)state;
	ours.stats.demoted = 5;
	ours.stats.blocks[KVTIER_BLOCK_COLD] = 9;
	user.stats.demoted = 6;
	assert_int_equal(pools_add(&pools, &ours, "a"), 0);
	assert_int_equal(pools_add(&pools, &user, "b"), 0);
	assert_int_equal(module_pools(&pools, class), 0);
	assert_int_equal(pools.nr, 3);
	assert_int_equal(pools.pool[0].pid, 77);
	assert_string_equal(pools.pool[0].name, "mine");
	assert_int_equal(pools.pool[0].stats.demoted, 11);
	assert_int_equal(pools.pool[0].stats.block_shift, 18);
	assert_int_equal(pools.pool[0].stats.tier[KVTIER_TIER_DRAM].used_bytes, 1048576);
	assert_int_equal(pools.pool[0].stats.tier[KVTIER_TIER_NVME].bytes_out, 777);
	assert_int_equal(pools.pool[0].stats.blocks[KVTIER_BLOCK_COLD], 9);
	assert_int_equal(pools.pool[1].stats.demoted, 6);
	assert_int_equal(pools.pool[2].pid, 0);
	assert_int_equal(pools.pool[2].kernel_id, 12);
	assert_string_equal(pools.pool[2].name, "other one");
	assert_string_equal(pools.pool[2].nvme_path, "store0");
	assert_int_equal(pools.pool[2].stats.demoted, 22);
	pools_free(&pools);
}

/* A pool that goes while it is read, files of other names, and no module at all. */
static void nothing_there(void **state)
{
	struct pools pools = { 0 };
	char path[256];

	(void)state;
	snprintf(path, sizeof(path), "%s/pool7", class);
	mkdir(path, 0700);
	snprintf(path, sizeof(path), "%s/pool9x", class);
	mkdir(path, 0700);
	assert_int_equal(module_pools(&pools, class), 0);
	assert_int_equal(pools.nr, 2);
	pools_free(&pools);
	assert_int_equal(module_pools(&pools, "/no/such/class"), 0);
	assert_int_equal(pools.nr, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(merged),
		cmocka_unit_test(nothing_there),
	};

	return cmocka_run_group_tests_name("module_pools", tests, make_class, remove_class);
}
