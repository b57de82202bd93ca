// SPDX-License-Identifier: MIT
/* Checkpoints: pools that come back after a reboot; scrubs. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crc.h"
#include "fixture.h"
#include "kvtier_seq.h"

#define NOTE "what the engine wants back"

/* As after a reboot: no descriptor is left, only files. */
static void reboot(void)
{
	daemon_kill(SIGKILL);
	daemon_forget();
	daemon_spawn();
}

static void state_file(const char *name, char *path, size_t room)
{
	snprintf(path, room, "%s/state/user-%u/%s", daemon_.dir, geteuid(), name);
}

/* Fill, seal most, checkpoint, forget the client. */
static void make_checkpoint(const char *name, uint64_t version)
{
	struct kvt_client *c = client();
	struct kvt_pool *p = pool(c, name, 32 * BLOCK, 16 * BLOCK, KVT_SHARED_KEEP);
	uint64_t b;

	for (b = 0; b < 24; b++)
		fill_block(p, b, version);
	OK(kvt_seal(p, 0, (want_module ? 24 : 20) * BLOCK));
	OK(kvt_shared_checkpoint(p, NOTE, sizeof(NOTE)));
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static void restored(void)
{
	struct kvt_client *c;
	struct kvt_pool *p;
	char note[100];
	uint64_t b;

	if (want_module)
		skip("a store forgets reservations with the module alone");
	daemon_start(NULL);
	make_checkpoint("session", 1);
	reboot();
	c = client();
	OK(kvt_shared_attach(c, "session", "test", &p));
	CHECK(kvt_shared_note(p, note, sizeof(note)) == sizeof(NOTE) && !strcmp(note, NOTE),
	      "expected the note to be there again");
	CHECK(state_of(p, 0) == KVTIER_BLOCK_COLD && state_of(p, 22) == KVTIER_BLOCK_COLD_OPEN,
	      "expected sealed and open blocks as they were");
	for (b = 0; b < 24; b++)
		CHECK(!wrong_words(p, b, 1), "block %llu after a reboot", (unsigned long long)b);
	CHECK(state_of(p, 25) == KVTIER_BLOCK_EMPTY, "expected an empty block to be empty");
	/* It goes on: new content, a new checkpoint, another reboot in the middle of a third. */
	for (b = 20; b < 32; b++)
		fill_block(p, b, 2);
	OK(kvt_shared_checkpoint(p, "2", 2));
	for (b = 20; b < 32; b++)
		fill_block(p, b, 3);
	OK(kvt_demote(p, 20 * BLOCK, 12 * BLOCK));
	setenv("KVTIER_PATIENCE_MS", "100", 1);
	reboot();
	kvt_client_close(client());
	c = client();
	OK(kvt_shared_attach(c, "session", "test", &p));
	for (b = 0; b < 32; b++)
		CHECK(!wrong_words(p, b, b < 20 ? 1 : 2), "block %llu of the second checkpoint",
		      (unsigned long long)b);
	CHECK(kvt_shared_note(p, note, sizeof(note)) == 2, "the second note");
	kvt_pool_destroy(p);
	OK(kvt_shared_remove(c, "session"));
	ERROR(kvt_shared_attach(c, "session", "test", &p), -ENOENT);
	kvt_client_close(c);
}

/* Checkpoint while others write: what it holds is of one moment for each block. */
static void under_writes(void)
{
	struct kvt_client *c;
	struct kvt_pool *p;
	uint64_t b, round;

	if (want_module)
		skip("the module takes sealed blocks alone");
	daemon_start(NULL);
	c = client();
	p = pool(c, "busy", 64 * BLOCK, 24 * BLOCK, KVT_SHARED_KEEP);
	for (b = 0; b < 64; b++)
		fill_block(p, b, 1);
	for (round = 0; round < 5; round++) {
		pid_t pid = fork();

		if (!pid) {
			struct kvt_client *own = client();
			struct kvt_pool *q;
			uint64_t v;

			OK(kvt_shared_attach(own, "busy", "test", &q));
			for (v = 2;; v++)
				for (b = 0; b < 64; b++)
					*(volatile uint64_t *)((char *)kvt_pool_addr(q) +
							       b * BLOCK) = v;
		}
		pause_ms(20);
		OK(kvt_shared_checkpoint(p, NULL, 0));
		kill(pid, SIGKILL);
	}
	kvt_pool_destroy(p);
	reboot();
	setenv("KVTIER_PATIENCE_MS", "100", 1);
	c = client();
	OK(kvt_shared_attach(c, "busy", "test", &p));
	for (b = 0; b < 64; b++)
		CHECK(wrong_words(p, b, 1) <= 1, "block %llu has more than its first word changed",
		      (unsigned long long)b);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* ---- manifests that are not ours --------------------------------------------------------- */

static void patch(const char *path, off_t offset, const void *bytes, size_t nr, bool seal_it)
{
	struct stat st;
	char *data;
	uint32_t crc;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0 && !fstat(fd, &st), "%s: %m", path);
	CHECK(pwrite(fd, bytes, nr, offset) == (ssize_t)nr, "pwrite: %m");
	data = malloc((size_t)st.st_size);
	CHECK(data && pread(fd, data, (size_t)st.st_size, 0) == st.st_size, "pread: %m");
	crc = kvt_crc32c(data, (size_t)st.st_size - 4);
	if (seal_it)
		CHECK(pwrite(fd, &crc, 4, st.st_size - 4) == 4, "pwrite: %m");
	free(data);
	close(fd);
}

static void copy_file(const char *from, const char *to)
{
	char command[1200];

	snprintf(command, sizeof(command), "cp '%s' '%s'", from, to);
	CHECK(!system(command), "%s", command);
}

static void foreign_manifest(void)
{
	char path[400], saved[400], other[400];
	uint32_t version = 2;
	struct kvt_client *c;
	struct kvt_pool *p;
	struct stat st;

	if (want_module)
		skip("the file is the same with the module");
	daemon_start(NULL);
	make_checkpoint("mine", 1);
	reboot();
	state_file("mine.manifest", path, sizeof(path));
	state_file("saved", saved, sizeof(saved));
	copy_file(path, saved);
	c = client();
	ERROR(kvt_shared_attach(c, "mine", "another-model", &p), -EMEDIUMTYPE);
	reboot();
	c = client();
	patch(path, 8, &version, 4, true);
	ERROR(kvt_shared_attach(c, "mine", "test", &p), -EPROTO);
	CHECK(strstr(kvt_error_detail(), "version 2"), "expected the version to be named: %s",
	      kvt_error_detail());
	copy_file(saved, path);
	patch(path, 200, "x", 1, false);
	ERROR(kvt_shared_attach(c, "mine", "test", &p), -EILSEQ);
	copy_file(saved, path);
	CHECK(!stat(path, &st) && !truncate(path, st.st_size / 2), "truncate: %m");
	ERROR(kvt_shared_attach(c, "mine", "test", &p), -EILSEQ);
	CHECK(!truncate(path, 5), "truncate: %m");
	ERROR(kvt_shared_attach(c, "mine", "test", &p), -EINVAL);
	/* Another's manifest under our name. */
	state_file("stolen.manifest", other, sizeof(other));
	copy_file(saved, other);
	ERROR(kvt_shared_attach(c, "stolen", "test", &p), -EACCES);
	/* The right one is taken all the same. */
	copy_file(saved, path);
	OK(kvt_shared_attach(c, "mine", "test", &p));
	CHECK(!wrong_words(p, 3, 1), "a block of the right manifest");
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static void refused(void)
{
	struct kvt_client *c;
	struct kvt_pool *p;
	static char note[KVT_NOTE_MAX + 1];

	daemon_start(NULL);
	c = client();
	p = pool(c, "fleeting", 8 * BLOCK, 4 * BLOCK, 0);
	ERROR(kvt_shared_checkpoint(p, NULL, 0), -EINVAL);
	ERROR(kvt_shared_checkpoint(p, note, sizeof(note)), -EINVAL);
	ERROR(kvt_shared_note(p, note, sizeof(note)), -ENOENT);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* ---- sequences --------------------------------------------------------------------------- */

#define LAYERS 4
#define TOKENS 160 /* two extents and a half */
#define ROW 64

static struct kvt_cache *make_cache(struct kvt_pool *p)
{
	struct kvt_geometry geometry = KVT_GEOMETRY_INIT;
	struct kvt_cache *cache;

	geometry.layers = LAYERS;
	geometry.kv_heads = 1;
	geometry.k_dim = geometry.v_dim = ROW;
	geometry.block_tokens = 64;
	OK(kvt_cache_create(p, &geometry, &cache));
	return cache;
}

/* Small whole numbers: halves hold them exactly. */
static float row_value(uint32_t layer, uint32_t i)
{
	return (float)((i * 7 + layer * 13) % 512);
}

/* An engine that is killed once its sequence is durable. */
static void save_sequence(const char *path)
{
	static float rows[TOKENS * ROW];
	struct kvt_named_seq named = { .name = "kept" };
	struct kvt_pool *p = pool(client(), "kept", 32 * BLOCK, 16 * BLOCK, KVT_SHARED_KEEP);
	struct kvt_cache *cache = make_cache(p);
	uint32_t layer, i;

	OK(kvt_seq_create(cache, &named.seq));
	for (layer = 0; layer < LAYERS; layer++) {
		for (i = 0; i < TOKENS * ROW; i++)
			rows[i] = row_value(layer, i);
		OK(kvt_seq_append_float(named.seq, layer, TOKENS, rows, rows));
	}
	OK(kvt_manifest_save(cache, path, &named, 1, NULL));
	OK(kvt_shared_checkpoint(p, NULL, 0));
	kill(getpid(), SIGKILL);
}

static void check_sequence(const struct kvt_seq *seq)
{
	static float k[TOKENS * ROW], v[TOKENS * ROW];
	uint32_t layer, i;

	CHECK(kvt_seq_tokens(seq) == TOKENS, "expected %d tokens", TOKENS);
	for (layer = 0; layer < LAYERS; layer++) {
		OK(kvt_seq_read_float(seq, layer, 0, TOKENS, k, v));
		for (i = 0; i < TOKENS * ROW; i++)
			CHECK(k[i] == row_value(layer, i) && v[i] == k[i], "layer %u, element %u",
			      layer, i);
	}
}

static void kept_sequence(void)
{
	struct kvt_manifest *manifest;
	struct kvt_cache *cache;
	struct kvt_client *c;
	struct kvt_pool *p;
	struct kvt_seq *seq;
	char path[400];
	uint64_t b = 0;
	int status;
	pid_t pid;

	if (want_module)
		skip("pools of the module end with the machine");
	daemon_start(NULL);
	snprintf(path, sizeof(path), "%s/sequences", daemon_.dir);
	pid = fork();
	if (!pid)
		save_sequence(path);
	CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
	      "expected an engine that is killed, got %#x", status);
	reboot();
	c = client();
	OK(kvt_shared_attach(c, "kept", "test", &p));
	OK(kvt_manifest_open(path, &manifest));
	cache = make_cache(p);
	OK(kvt_manifest_restore(manifest, cache, NULL, &seq));
	check_sequence(seq);
	/* Blocks that are not what was saved are refused. */
	while (state_of(p, b) == KVTIER_BLOCK_EMPTY)
		b++;
	OK(kvt_discard(p, b * BLOCK, BLOCK));
	fill_block(p, b, 1);
	ERROR(kvt_manifest_restore(manifest, make_cache(p), NULL, &seq), -EINVAL);
	CHECK(strstr(kvt_error_detail(), "not what was saved"), "%s", kvt_error_detail());
	kvt_manifest_close(manifest);
	kvt_client_close(c);
}

/* ---- scrubs ------------------------------------------------------------------------------ */

static void scrubbed(void)
{
	struct kvt_daemon_scrub s;
	struct kvtier_block_info info;
	struct kvt_client *c;
	struct kvt_pool *p;
	char path[400];
	uint64_t b;
	int fd;

	daemon_start("[scrub]\nrate = 0\n");
	c = client();
	p = pool(c, "scrub", 32 * BLOCK, 8 * BLOCK, KVT_SHARED_KEEP);
	for (b = 0; b < 32; b++)
		fill_block(p, b, 1);
	OK(kvt_demote(p, 0, 32 * BLOCK));
	OK(kvt_daemon_scrub(c, 0));
	EVENTUALLY(!kvt_daemon_scrub_status(c, &s) && !s.running, "expected the scrub to end");
	CHECK(s.verified == 32 && !s.bad, "expected 32 good blocks, got %llu and %llu bad",
	      (unsigned long long)s.verified, (unsigned long long)s.bad);
	CHECK(state_of(p, 7) == KVTIER_BLOCK_COLD_OPEN, "expected blocks to stay where they were");
	ERROR(kvt_daemon_scrub(c, 99), -ENOENT);
	if (want_module) { /* its slots are on a device; selftests/damage.c spoils that */
		for (b = 0; b < 32; b++)
			CHECK(!wrong_words(p, b, 1), "block %llu", (unsigned long long)b);
		goto end;
	}
	OK(kvt_query(p, 7, 1, &info));
	state_file("scrub.slots", path, sizeof(path));
	fd = open(path, O_WRONLY | O_CLOEXEC);
	CHECK(fd >= 0 && pwrite(fd, "wrong", 5, (off_t)(info.slot * BLOCK + 99)) == 5, "%s: %m",
	      path);
	fsync(fd);
	close(fd);
	OK(kvt_daemon_scrub(c, 1));
	EVENTUALLY(!kvt_daemon_scrub_status(c, &s) && !s.running, "expected the scrub to end");
	CHECK(s.bad == 1 && state_of(p, 7) == KVTIER_BLOCK_BAD,
	      "expected it to find the bad block");
	CHECK(daemon_metric("kvtier_scrub_bad_blocks_total") == 1,
	      "expected the bad block to be counted");
end:
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

const struct test_case checkpoint_cases[] = {
	{ "restored", "a pool and its note are there after a reboot", restored, false },
	{ "under_writes", "a checkpoint while a client writes", under_writes, false },
	{ "foreign_manifest", "a manifest of another version, model or owner", foreign_manifest,
	  false },
	{ "refused", "checkpoints that cannot be", refused, false },
	{ "kept_sequence", "a sequence comes back with its pool, or is refused", kept_sequence,
	  false },
	{ "scrubbed", "a scrub finds what was changed behind our back", scrubbed, false },
	{ 0 },
};
