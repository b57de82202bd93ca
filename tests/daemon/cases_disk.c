// SPDX-License-Identifier: MIT
/*
 * A disk that stalls, errs: the daemon's state-dir is a filesystem on a loop device, mounted
 * in a namespace of the case's own, so that everything is gone with it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../slow_disk.h"
#include "fixture.h"

#define DISK_BYTES (64 * MIB)
#define DEADLINE_MS 500

struct disk {
	struct loop_disk loop;
	struct throttle throttle;
	char mounted[300];
};

static void make_device(struct disk *d)
{
	char path[400];

	snprintf(path, sizeof(path), "%s/disk", daemon_.dir);
	if (!loop_attach(&d->loop, path, DISK_BYTES))
		skip("no loop device here (needs root)");
}

/* The daemon's state-dir is on a disk of its own. */
static void mount_disk(struct disk *d)
{
	char command[128];

	make_device(d);
	snprintf(command, sizeof(command), "mkfs.ext4 -q -F %s >/dev/null 2>&1", d->loop.path);
	if (system(command))
		skip("no mkfs.ext4");
	snprintf(d->mounted, sizeof(d->mounted), "%s/state", daemon_.dir);
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		skip("no mount namespace: %m");
	mkdir(d->mounted, 0700);
	if (mount(d->loop.path, d->mounted, "ext4", 0, NULL))
		skip("cannot mount a filesystem: %m");
}

static void join_group(struct disk *d)
{
	if (!throttle_begin(&d->throttle, &d->loop, daemon_.pid))
		skip("no blkio cgroup that throttles here");
}

/* The daemon has ended: the group is empty. */
static void leave_group(struct disk *d)
{
	daemon_end();
	EVENTUALLY(throttle_end(&d->throttle), "expected an empty cgroup");
	CHECK(!umount2(d->mounted, MNT_DETACH), "umount: %m");
	close(d->loop.fd);
}

static struct kvt_pool *strict_pool(struct kvt_client *c, const char *name)
{
	struct kvt_shared_config config = KVT_SHARED_CONFIG_INIT;
	struct kvt_pool *p;
	uint64_t b;

	config.name = name;
	config.model = "test";
	config.bytes = 32 * BLOCK;
	config.block_bytes = BLOCK;
	config.io_deadline_ms = DEADLINE_MS;
	OK(kvt_shared_create(c, &config, &p));
	for (b = 0; b < 32; b++)
		fill_block(p, b, 1);
	return p;
}

static void check_whole(struct kvt_pool *p, uint64_t first)
{
	uint64_t b;

	for (b = first; b < 32; b++)
		CHECK(!wrong_words(p, b, 1), "block %llu", (unsigned long long)b);
}

/* Somebody in memory goes on, and is answered: quickly, since nothing of it waits. */
static void goes_on(struct kvt_pool *p)
{
	uint64_t begun = now_ms();
	struct kvtier_stats st;

	check_whole(p, 0);
	fill_block(p, 3, 1);
	OK(kvt_stats(p, &st));
	CHECK(now_ms() - begun < 1000 * patience_factor,
	      "expected others to go on, it took %llu ms", (unsigned long long)(now_ms() - begun));
}

/* A touch of a block that does not come in time ends with SIGBUS, in a process of its own. */
static void touch_in_vain(const char *name)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		struct kvt_client *c = client();
		struct kvt_pool *p;

		signal(SIGBUS, SIG_DFL);
		OK(kvt_shared_attach(c, name, "test", &p));
		_exit(wrong_words(p, 9, 1) ? 2 : 0);
	}
	CHECK(waitpid(pid, &status, 0) == pid, "waitpid: %m");
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS, "expected SIGBUS, got %#x",
	      status);
}

/* Two pools of a daemon whose disk can be stalled. */
struct bed {
	struct disk disk;
	struct kvt_client *client;
	struct kvt_pool *stalled, *other;
};

static void set_up(struct bed *t)
{
	if (want_module)
		skip("the module's own store: see selftests/stall.c");
	mount_disk(&t->disk);
	daemon_start(NULL);
	join_group(&t->disk);
	t->client = client();
	t->stalled = strict_pool(t->client, "stalled");
	t->other = strict_pool(t->client, "other");
}

static void tear_down(struct bed *t)
{
	kvt_pool_destroy(t->stalled);
	kvt_pool_destroy(t->other);
	kvt_client_close(t->client);
	leave_group(&t->disk);
}

static void stalls_reads(void)
{
	struct bed t;
	int error;

	set_up(&t);
	OK(kvt_demote(t.stalled, 0, 32 * BLOCK));
	CHECK(throttle_set(&t.disk.throttle, "read", BLOCK / 4),
	      "cannot throttle"); /* four seconds a block */
	touch_in_vain("stalled");
	goes_on(t.other);
	error = kvt_promote(t.stalled, 10 * BLOCK, BLOCK);
	CHECK(error == -ETIMEDOUT, "expected -ETIMEDOUT, got %d", error);
	CHECK(daemon_metric("kvtier_io_errors_total ") >= 1, "expected it to be counted");
	goes_on(t.other);
	CHECK(throttle_set(&t.disk.throttle, "read", 0), "cannot stop throttling");
	/* What came late is seen now, and is right. */
	EVENTUALLY(state_of(t.stalled, 9) != KVTIER_BLOCK_BAD &&
			   state_of(t.stalled, 10) != KVTIER_BLOCK_BAD,
		   "expected late blocks to be had again");
	check_whole(t.stalled, 0);
	tear_down(&t);
}

static void stalls_writes(void)
{
	struct bed t;
	int error;

	set_up(&t);
	CHECK(throttle_set(&t.disk.throttle, "write", BLOCK / 4), "cannot throttle");
	error = kvt_demote(t.stalled, 0, BLOCK);
	CHECK(error == -ETIMEDOUT, "expected -ETIMEDOUT, got %d", error);
	goes_on(t.other);
	check_whole(t.stalled, 0);
	fill_block(t.stalled, 0, 1);
	error = kvt_shared_checkpoint(t.stalled, NULL, 0);
	CHECK(error < 0, "expected no checkpoint of a stalled disk");
	goes_on(t.other);
	CHECK(throttle_set(&t.disk.throttle, "write", 0), "cannot stop throttling");
	check_whole(t.stalled, 0);
	EVENTUALLY(!kvt_demote(t.stalled, 0, 32 * BLOCK), "expected the disk to be had again");
	check_whole(t.stalled, 0);
	tear_down(&t);
}

/* ---- a filesystem that stalls ------------------------------------------------------------- */

/*
 * Frozen, it lets nobody change it: opens that make a file, fallocate(), unlink() and writes
 * wait.  A process of its own thaws it, also when this one is killed.
 */
struct guard {
	pid_t pid;
	int alive;
};

static struct guard freeze(const struct disk *d)
{
	int fd = open(d->mounted, O_RDONLY | O_DIRECTORY | O_CLOEXEC), alive[2];
	struct guard guard;
	char byte;

	CHECK(fd >= 0 && !pipe2(alive, O_CLOEXEC), "%s: %m", d->mounted);
	guard = (struct guard){ fork(), alive[1] };
	if (!guard.pid) {
		setsid();
		close(alive[1]);
		if (read(alive[0], &byte, 1) >= 0)
			ioctl(fd, FITHAW, 0);
		_exit(0);
	}
	close(alive[0]);
	if (ioctl(fd, FIFREEZE, 0))
		skip("a filesystem cannot be frozen here: %m");
	close(fd);
	return guard;
}

static void thaw(struct guard guard)
{
	CHECK(write(guard.alive, "t", 1) == 1, "write: %m");
	close(guard.alive);
	CHECK(waitpid(guard.pid, NULL, 0) == guard.pid, "waitpid: %m");
}

static int make_late(void)
{
	struct kvt_shared_config config = KVT_SHARED_CONFIG_INIT;
	struct kvt_pool *p;

	config.name = "late";
	config.model = "test";
	config.bytes = 8 * BLOCK;
	config.block_bytes = BLOCK;
	config.flags = KVT_SHARED_KEEP;
	config.io_deadline_ms = DEADLINE_MS;
	return -kvt_shared_create(client(), &config, &p);
}

static int remove_kept(void)
{
	return -kvt_shared_remove(client(), "kept");
}

/* A call of a process of its own, which may wait. */
static pid_t call(int (*run)(void))
{
	pid_t pid = fork();

	if (!pid)
		_exit(run());
	CHECK(pid > 0, "fork: %m");
	return pid;
}

static bool is_there(const struct disk *d, const char *name)
{
	char command[400];

	snprintf(command, sizeof(command), "find '%s' -name '%s' | grep -q .", d->mounted, name);
	return !system(command);
}

static void stalls_names(void)
{
	struct kvt_pool *kept, *gone, *again;
	struct kvt_client *more;
	pid_t remover;
	struct bed t;
	struct guard guard;
	int error;

	set_up(&t);
	more = client();
	kept = pool(more, "kept", 8 * BLOCK, 8 * BLOCK, KVT_SHARED_KEEP);
	gone = pool(more, "gone", 8 * BLOCK, 8 * BLOCK, 0);
	fill_block(kept, 0, 1);
	OK(kvt_shared_checkpoint(kept, "note", 4));
	kvt_pool_destroy(kept);
	guard = freeze(&t.disk);
	/* To make a pool takes longer than it may; the next waits in vain for the same disk. */
	error = end_of(call(make_late));
	CHECK(error == ETIMEDOUT, "expected ETIMEDOUT, got %d", error);
	goes_on(t.other);
	error = end_of(call(make_late));
	CHECK(error == ETIMEDOUT, "expected ETIMEDOUT again, got %d", error);
	remover = call(remove_kept);
	kvt_pool_destroy(gone); /* its file goes with it */
	error = kvt_demote(t.stalled, 0, BLOCK);
	CHECK(error == -ETIMEDOUT, "expected -ETIMEDOUT, got %d", error);
	goes_on(t.other);
	goes_on(t.stalled);
	CHECK(!waitpid(remover, NULL, WNOHANG), "expected the removal to wait");
	thaw(guard);
	error = end_of(remover);
	CHECK(!error, "expected the removal to go on, got %d", error);
	CHECK(!is_there(&t.disk, "kept.*"), "expected no file of what was removed");
	/* Nothing is left of what nobody waited for any more. */
	EVENTUALLY(!is_there(&t.disk, "late.*"), "expected no slots of a pool that was given up");
	again = pool(more, "late", 8 * BLOCK, 8 * BLOCK, KVT_SHARED_KEEP);
	kvt_pool_destroy(again);
	OK(kvt_shared_remove(more, "late"));
	EVENTUALLY(!kvt_demote(t.stalled, 0, 32 * BLOCK), "expected the disk to be had again");
	check_whole(t.stalled, 0);
	kvt_client_close(more);
	tear_down(&t);
}

/* ---- a disk that errs ------------------------------------------------------------------- */

#define FEW 16u

/* Promote until all failures have been met; a transfer may slip past them. */
static int promote_through(struct kvt_pool *p, const struct spoil *spoil)
{
	int ret, round;

	for (round = 0; round < 1000; round++) {
		ret = kvt_promote(p, 0, 4 * BLOCK);
		if (ret || !spoil->failures)
			return ret;
		OK(kvt_demote(p, 0, 4 * BLOCK));
	}
	return -ETIME;
}

static void fail_next(struct spoil *spoil, int nr, int error)
{
	spoil->error = error;
	spoil->failures = nr;
}

static void check_few(struct kvt_pool *p, uint64_t first)
{
	uint64_t b;

	for (b = first; b < FEW; b++)
		CHECK(!wrong_words(p, b, 1), "block %llu", (unsigned long long)b);
}

/* Want of memory, as often as the kernel likes; the medium once; half a block. */
static void errs_for_a_moment(void)
{
	static const struct {
		int nr, error;
	} moments[] = {
		{ 50, -EAGAIN }, { 50, -ENOMEM }, { 50, -EINTR }, { 1, -EIO }, { 1, BLOCK / 2 }
	};
	struct kvt_daemon_scrub scrub;
	struct spoil *spoil;
	struct kvt_client *c;
	struct kvt_pool *p;
	size_t i;
	uint64_t b;

	if (want_module)
		skip("the module's own store: see selftests");
	spoil = daemon_spoil();
	daemon_start(NULL);
	c = client();
	p = pool(c, "errs", FEW * BLOCK, 8 * BLOCK, 0);
	for (b = 0; b < FEW; b++)
		fill_block(p, b, 1);
	OK(kvt_demote(p, 0, FEW * BLOCK));
	for (i = 0; i < sizeof(moments) / sizeof(moments[0]); i++) {
		fail_next(spoil, moments[i].nr, moments[i].error);
		OK(promote_through(p, spoil));
		OK(kvt_demote(p, 0, 4 * BLOCK));
	}
	/* What a scrub reads is judged no faster. */
	fail_next(spoil, 2, -EIO);
	OK(kvt_daemon_scrub(c, 0));
	EVENTUALLY(!kvt_daemon_scrub_status(c, &scrub) && !scrub.running,
		   "expected the scrub to end");
	CHECK(!spoil->failures && scrub.verified == FEW && !scrub.bad,
	      "expected %u good blocks, got %llu verified, %llu bad", FEW,
	      (unsigned long long)scrub.verified, (unsigned long long)scrub.bad);
	CHECK(daemon_metric("kvtier_io_errors_total ") == 0, "expected no block to be lost");
	check_few(p, 0);
	/* For good: an error soon, and the other blocks are as they were. */
	OK(kvt_demote(p, 0, BLOCK));
	fail_next(spoil, 1 << 30, -EIO);
	while (!(i = (size_t)-kvt_promote(p, 0, BLOCK)))
		OK(kvt_demote(p, 0, BLOCK));
	CHECK(i == EIO && state_of(p, 0) == KVTIER_BLOCK_BAD, "expected a bad block");
	fail_next(spoil, 0, 0);
	check_few(p, 1);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

const struct test_case disk_cases[] = {
	{ "stalls_names", "a filesystem that stalls: pools are made and removed late, others go on",
	  stalls_names, false },
	{ "errs_for_a_moment",
	  "reads that fail once or twice, or for want of memory: no block is lost",
	  errs_for_a_moment, false },
	{ "stalls_reads", "a disk that stalls reads: errors for who waits, others go on",
	  stalls_reads, false },
	{ "stalls_writes", "a disk that stalls writes: nothing is lost, others go on",
	  stalls_writes, false },
	{ 0 },
};
