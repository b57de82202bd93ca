// SPDX-License-Identifier: MIT
/* Description: where pools show themselves: a full or foreign folder costs the figures, nothing else. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pool.h"
#include "stat_file.h"
#include "unit.h"

#define BLOCKS 4096
#define BLOCK_BYTES (64u << 10)

#define SKIPPED 4

static char folder[64];

static int set_up(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/kvtier-stat-XXXXXX");
	return mkdtemp(folder) && !setenv("KVTIER_RUNTIME_DIR", folder, 1) ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	return rmdir(folder);
}

static struct kvt_pool *make_pool(void)
{
	struct kvt_config config = KVT_CONFIG_INIT;
	struct kvt_pool *pool;

	config.pager = KVT_PAGER_USER;
	config.bytes = (uint64_t)BLOCKS * BLOCK_BYTES;
	config.block_bytes = BLOCK_BYTES;
	if (kvt_pool_create(&config, &pool))
		return NULL;
	memset(kvt_pool_addr(pool), 1, BLOCK_BYTES);
	return pool;
}

/* A filesystem of this size on the folder, seen by this process alone. */
static bool mount_small(const char *size)
{
	char options[32];

	snprintf(options, sizeof(options), "mode=0700,size=%s", size);
	return !unshare(CLONE_NEWNS) && !mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) &&
	       !mount("kvtier-test", folder, "tmpfs", 0, options);
}

static void fill_up(void)
{
	static const char zeroes[4096];
	char path[80];
	int fd;

	snprintf(path, sizeof(path), "%s/full", folder);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	while (fd >= 0 && write(fd, zeroes, sizeof(zeroes)) > 0)
		;
	close(fd);
}

/* In a child, since it changes what it sees mounted: 0, 1 or SKIPPED. */
static int end_of(int (*run)(void))
{
	int status;
	pid_t pid = fork();

	assert_return_code(pid, errno);
	if (!pid)
		_exit(run());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
		skip();
	return status;
}

static int make_in_full(void)
{
	struct kvt_pool *pool;

	if (!mount_small("64k"))
		return SKIPPED;
	fill_up();
	pool = make_pool();
	if (!pool)
		return SKIPPED;
	kvt_pool_destroy(pool);
	return 0;
}

/* There is room for the figures and none for the blocks; then somebody asks for those. */
static int look_in_full(void)
{
	char path[128];
	struct kvt_stat_file *f;
	struct kvt_pool *pool;
	int fd, i;

	if (!mount_small("256k"))
		return SKIPPED;
	pool = make_pool();
	if (!pool)
		return SKIPPED;
	fill_up();
	snprintf(path, sizeof(path), "%s/%d-0.pool", folder, (int)getpid());
	fd = open(path, O_RDWR | O_CLOEXEC);
	f = mmap(NULL, sizeof(*f), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || f == MAP_FAILED)
		return 1;
	f->blocks_until_ns = f->accesses_until_ns = UINT64_MAX;
	for (i = 0; i < 5; i++) { /* figures are written a few times a second */
		usleep(100000);
		memset((char *)kvt_pool_addr(pool) + (size_t)(i + 1) * BLOCK_BYTES, 1, 64);
	}
	kvt_pool_destroy(pool);
	return f->blocks_ns != 0;
}

static void full(void **state)
{
	(void)state;
	assert_int_equal(end_of(make_in_full), 0);
}

static void full_view(void **state)
{
	(void)state;
	assert_int_equal(end_of(look_in_full), 0);
}

/* Nothing is put where others may write, or where a link leads. */
static void foreign(void **state)
{
	char link_path[80], buf[128];
	struct kvt_stat_out out;

	(void)state;
	assert_int_equal(chmod(folder, 0777), 0);
	assert_int_equal(kvt_stat_dir_make(buf, sizeof(buf)), -EPERM);
	assert_int_equal(kvt_stat_create(&out, NULL, "user", 0), -1);
	assert_int_equal(chmod(folder, 0700), 0);
	snprintf(link_path, sizeof(link_path), "%s-link", folder);
	assert_int_equal(symlink(folder, link_path), 0);
	setenv("KVTIER_RUNTIME_DIR", link_path, 1);
	assert_true(kvt_stat_dir_make(buf, sizeof(buf)) < 0);
	assert_int_equal(kvt_stat_create(&out, NULL, "user", 0), -1);
	assert_int_equal(unlink(link_path), 0);
	setenv("KVTIER_RUNTIME_DIR", folder, 1);
	memset(&out, 0, sizeof(out));
	assert_int_equal(kvt_stat_create(&out, NULL, "user", 0), 0);
	kvt_stat_close(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(full, set_up, tear_down),
		cmocka_unit_test_setup_teardown(full_view, set_up, tear_down),
		cmocka_unit_test_setup_teardown(foreign, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
