// SPDX-License-Identifier: MIT
/* Sealed blocks outlive the pool that wrote them. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conf.h"

#define KEPT 12

struct kept {
	struct kvtier_slot slots[KEPT];
	struct kvt_key key;
};

static struct kvt_pool *kept_pool(struct conf *c, const char *path)
{
	struct conf_spec spec = { .blocks = 24,
				  .dram = 8,
				  .nvme = 48,
				  .path = path,
				  .flags = KVT_KEEP_FILE | KVT_NO_PREDICT };

	return conf_pool(c, &spec);
}

/* Twelve sealed blocks from block 4 on, and where they lie. */
static void checkpointed(struct kvt_pool *pool, struct kept *kept)
{
	struct kvtier_slot *slots = kept->slots;
	size_t block = kvt_pool_block_bytes(pool);
	uint32_t i;

	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	CONF_RET(kvt_seal(pool, 4 * block, KEPT * block), 0);
	CONF_EQ(kvt_checkpoint(pool, 4 * block, KEPT * block, slots), KEPT);
	for (i = 0; i < KEPT; i++) {
		CONF_EQ(slots[i].block, 4 + i);
		CONF_EQ(slots[i].slot, conf_info(pool, 4 + i).slot);
		CONF_EQ(slots[i].generation, conf_info(pool, 4 + i).generation);
	}
	CONF_RET(kvt_pool_key(pool, &kept->key), 0);
}

/* Another pool on the same file or store, which may adopt. */
static struct kvt_pool *heir(struct conf *c, const char *path, const struct kept *kept)
{
	struct kvt_pool *pool = kept_pool(c, path);

	if (c->has & CONF_NEEDS_STORE)
		CONF_RET(kvt_pool_set_key(pool, &kept->key), 0);
	return pool;
}

static void end(struct kvt_pool *pool, const struct kept *kept)
{
	CONF_RET(kvt_release(pool, &kept->key), 0);
	kvt_pool_destroy(pool);
}

static int checkpoint_adopt(struct conf *c)
{
	char *path = conf_path(c, "slots");
	struct kvt_pool *pool = kept_pool(c, path);
	size_t block = kvt_pool_block_bytes(pool);
	struct kept kept = {};
	uint32_t i;

	checkpointed(pool, &kept);
	kvt_pool_destroy(pool);
	pool = heir(c, path, &kept);
	CONF_RET(kvt_adopt(pool, kept.slots, KEPT), 0);
	for (i = 4; i < 4 + KEPT; i++) {
		CONF_EQ(conf_info(pool, i).state, KVTIER_BLOCK_COLD);
		CONF_EQ(conf_info(pool, i).generation, kept.slots[i - 4].generation);
	}
	conf_check_zero(pool, 0, 4 * block);
	conf_fill(pool, 16 * block, 8 * block, 2); /* new writes keep off adopted slots */
	conf_fill(pool, 0, 4 * block, 2);
	conf_demote_all(pool);
	conf_check(pool, 4 * block, KEPT * block, 1);
	conf_expect_bus_write(pool, 5, 0);
	conf_check(pool, 16 * block, 8 * block, 2);
	end(pool, &kept);
	free(path);
	return CONF_PASS;
}

static int adopt_refusals(struct conf *c)
{
	char *path = conf_path(c, "slots");
	struct kvt_pool *pool = kept_pool(c, path);
	size_t block = kvt_pool_block_bytes(pool);
	struct kept kept = {}, bad;
	uint32_t i;

	checkpointed(pool, &kept);
	CONF_RET(kvt_adopt(pool, kept.slots, 1), -EEXIST); /* of its own pool, still in use */
	kvt_pool_destroy(pool);
	pool = heir(c, path, &kept);
	bad = kept;
	bad.slots[5].slot = c->has & CONF_NEEDS_STORE ? 1ULL << 40 : 48; /* past the end */
	CONF_RET(kvt_adopt(pool, bad.slots, KEPT), -EINVAL);
	bad.slots[5].slot = kept.slots[6].slot;
	CONF_RET(kvt_adopt(pool, bad.slots, KEPT), -EINVAL);
	bad.slots[5] = kept.slots[5];
	bad.slots[5].block = 24;
	CONF_RET(kvt_adopt(pool, bad.slots, KEPT), -EINVAL);
	conf_fill(pool, 9 * block, 8, 3);
	CONF_RET(kvt_adopt(pool, kept.slots, KEPT), -EEXIST);
	for (i = 0; i < 24; i++) /* all or nothing */
		CONF_EQ(conf_info(pool, i).state, i == 9 ? KVTIER_BLOCK_OPEN : KVTIER_BLOCK_EMPTY);
	CONF_RET(kvt_discard(pool, 9 * block, block), 0);
	CONF_RET(kvt_adopt(pool, kept.slots, KEPT), 0);
	conf_check(pool, 4 * block, KEPT * block, 1);
	end(pool, &kept);
	free(path);
	return CONF_PASS;
}

/* A manifest that does not belong to the file, or a file that changed since. */
static int adopt_wrong_bytes(struct conf *c)
{
	char *path = conf_path(c, "slots");
	struct kvt_pool *pool = kept_pool(c, path);
	struct kept kept = {};
	char byte = 'x';
	int fd;

	checkpointed(pool, &kept);
	kvt_pool_destroy(pool);
	fd = (int)CONF_SYS(open(path, O_RDWR | O_CLOEXEC));
	CONF_EQ(pwrite(fd, &byte, 1, (off_t)(kept.slots[3].slot * c->block + 99)), 1);
	CONF_SYS(fsync(fd));
	close(fd);
	kept.slots[7].crc32c ^= 1;
	pool = heir(c, path, &kept);
	CONF_RET(kvt_adopt(pool, kept.slots, KEPT), 0);
	conf_expect_bus_read(pool, 4 + 3, 0);
	conf_expect_bus_read(pool, 4 + 7, 0);
	CONF_EQ(conf_stats(pool).crc_errors, 2);
	conf_check(pool, 4 * c->block, 3 * c->block, 1);
	conf_check(pool, 12 * c->block, 4 * c->block, 1);
	end(pool, &kept);
	free(path);
	return CONF_PASS;
}

/* Slots that a manifest may name are not written again, whatever happens to the blocks. */
static int checkpoint_reserves(struct conf *c)
{
	char *path = conf_path(c, "slots");
	struct kvt_pool *pool = kept_pool(c, path);
	size_t block = kvt_pool_block_bytes(pool);
	struct kept kept = {};
	uint64_t stamp;

	checkpointed(pool, &kept);
	CONF_RET(kvt_discard(pool, 0, kvt_pool_bytes(pool)), 0);
	for (stamp = 2; stamp < 5; stamp++) {
		conf_fill(pool, 0, kvt_pool_bytes(pool), stamp);
		conf_demote_all(pool);
	}
	conf_check(pool, 0, kvt_pool_bytes(pool), 4);
	kvt_pool_destroy(pool);
	pool = heir(c, path, &kept);
	CONF_RET(kvt_adopt(pool, kept.slots, KEPT), 0);
	conf_check(pool, 4 * block, KEPT * block, 1);
	end(pool, &kept);
	free(path);
	return CONF_PASS;
}

static int checkpoint_refusals(struct conf *c)
{
	char *path = conf_path(c, "slots");
	struct conf_spec spec = { .blocks = 16, .dram = 8 };
	struct kvt_pool *pool = conf_pool(c, &spec);
	struct kvtier_slot slots[16];
	struct kvt_key key;

	conf_fill(pool, 0, 4 * c->block, 1);
	CONF_RET(kvt_seal(pool, 0, 4 * c->block), 0);
	CONF_RET(kvt_checkpoint(pool, 0, 4 * c->block, slots), -EINVAL); /* no kept file */
	kvt_pool_destroy(pool);
	pool = kept_pool(c, path);
	conf_fill(pool, 0, 4 * c->block, 1);
	CONF_RET(kvt_seal(pool, 0, 3 * c->block), 0);
	CONF_RET(kvt_checkpoint(pool, 0, 4 * c->block, slots), -EBUSY); /* one is open */
	CONF_RET(kvt_checkpoint(pool, 0, c->block + 1, slots), -EINVAL);
	CONF_RET(kvt_checkpoint(pool, 24 * c->block, c->block, slots), -EINVAL);
	CONF_EQ(kvt_checkpoint(pool, 0, 3 * c->block, slots), 3);
	CONF_RET(kvt_pool_key(pool, &key), 0);
	CONF_RET(kvt_release(pool, &key), 0);
	kvt_pool_destroy(pool);
	free(path);
	return CONF_PASS;
}

/* To know a slot is no right to it: the key of its reservation is, and its store. */
static int adopt_needs_key(struct conf *c)
{
	struct kvt_pool *pool = kept_pool(c, NULL), *next;
	struct kept kept = {}, wrong;

	CONF_RET(kvt_pool_key(pool, &kept.key), -ENOENT); /* no checkpoint yet */
	CONF_RET(kvt_pool_set_key(pool, &kept.key), -EINVAL); /* zeroes */
	checkpointed(pool, &kept);
	kvt_pool_destroy(pool);
	next = kept_pool(c, NULL);
	CONF_RET(kvt_adopt(next, kept.slots, KEPT), -ENOENT);
	wrong = kept;
	wrong.key.key[3] ^= 1;
	CONF_RET(kvt_release(next, &wrong.key), -ENOENT);
	CONF_RET(kvt_pool_set_key(next, &wrong.key), 0);
	CONF_RET(kvt_adopt(next, kept.slots, KEPT), -ENOENT);
	wrong = kept;
	wrong.key.store[3] ^= 1;
	CONF_RET(kvt_pool_set_key(next, &wrong.key), 0);
	CONF_RET(kvt_adopt(next, kept.slots, KEPT), -ENODEV);
	CONF_RET(kvt_pool_set_key(next, &kept.key), 0);
	CONF_RET(kvt_adopt(next, kept.slots, KEPT), 0);
	CONF_RET(kvt_release(next, &kept.key), 0);
	CONF_RET(kvt_release(next, &kept.key), -ENOENT);
	conf_check(next, 4 * c->block, KEPT * c->block, 1); /* adopted blocks keep theirs */
	kvt_pool_destroy(next);
	return CONF_PASS;
}

/* Two pools over one file would each think that all slots are free. */
static int kept_file_once(struct conf *c)
{
	char *path = conf_path(c, "kept");
	struct conf_spec spec = {
		.blocks = 8, .dram = 4, .path = path, .flags = KVT_KEEP_FILE | KVT_NO_PREDICT
	};
	struct kvt_pool *pool = conf_pool(c, &spec), *second;
	pid_t child;
	int wait_for[2];

	conf_fill(pool, 0, kvt_pool_bytes(pool), 1);
	conf_demote_all(pool);
	CONF_RET(conf_pool_try(c, &spec, &second), -EBUSY);
	CONF_EQ(strstr(kvt_error_detail(), path) != NULL, true);
	spec.flags = KVT_NO_PREDICT;
	CONF_RET(conf_pool_try(c, &spec, &second), -EBUSY);
	conf_check(pool, 0, kvt_pool_bytes(pool), 1);
	/* A child that lives on does not keep it. */
	CONF_SYS(pipe(wait_for));
	child = (pid_t)CONF_SYS(fork());
	if (!child) {
		close(wait_for[1]);
		_exit(read(wait_for[0], &child, 1) > 0);
	}
	kvt_pool_destroy(pool);
	CONF_RET(conf_pool_try(c, &spec, &second), -EEXIST); /* not kept: it has data */
	spec.flags |= KVT_KEEP_FILE;
	pool = conf_pool(c, &spec);
	close(wait_for[0]);
	close(wait_for[1]);
	CONF_SYS(waitpid(child, NULL, 0));
	kvt_pool_destroy(pool);
	CONF_SYS(unlink(path));
	free(path);
	return CONF_PASS;
}

const struct conf_case conf_checkpoint_cases[] = {
	CONF_CASE(checkpoint_adopt, "a new pool over the same file takes the blocks back, sealed"),
	CONF_CASE(checkpoint_reserves, "slots of a checkpoint are never reused"),
	CONF_CASE(checkpoint_refusals, "each bad checkpoint is refused with its own errno"),
	CONF_CASE(adopt_refusals, "each bad slot table is refused whole"),
	CONF_CASE(adopt_needs_key, "slots are adopted under their key, on their store",
		  .needs = CONF_NEEDS_STORE),
	CONF_CASE(kept_file_once,
		  "a second pool over the same file is refused as long as one has it",
		  .needs = CONF_NEEDS_FILE),
	CONF_CASE(adopt_wrong_bytes, "bytes that do not match the table are never shown",
		  .needs = CONF_NEEDS_FILE),
	{ .name = NULL },
};
