// SPDX-License-Identifier: MIT
/*
 * shared: a pool that kvtierd keeps: the first run makes and fills it, later ones find it,
 * also after the daemon has ended or the machine was booted anew.
 *
 *	shared [SOCKET]		SOCKET: the daemon's; default $KVTIER_SOCKET, else its usual place
 *	shared --remove [SOCKET]
 */
#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <kvtier_daemon.h>

#define NAME "example"
#define MODEL "bytes that count up" /* who attaches must mean the same content */
#define BLOCK (256UL << 10)
#define BLOCKS 64UL

static int must(int ret)
{
	if (ret < 0)
		errx(1, "%s", kvt_error_detail());
	return ret;
}

static struct kvt_pool *make(struct kvt_client *client)
{
	struct kvt_shared_config config = KVT_SHARED_CONFIG_INIT;
	struct kvt_pool *pool;
	size_t i;

	config.flags = KVT_SHARED_KEEP; /* stays when this program ends */
	config.name = NAME;
	config.model = MODEL;
	config.bytes = BLOCKS * BLOCK;
	config.block_bytes = BLOCK;
	config.dram_bytes = BLOCKS / 4 * BLOCK;
	must(kvt_shared_create(client, &config, &pool));
	for (i = 0; i < BLOCKS; i++)
		memset((char *)kvt_pool_addr(pool) + i * BLOCK, (int)i, BLOCK);
	must(kvt_seal(pool, 0, kvt_pool_bytes(pool)));
	/* Durable, with a note of whatever one needs to make sense of it. */
	must(kvt_shared_checkpoint(pool, "64 blocks", sizeof("64 blocks")));
	printf("made the pool \"%s\"\n", NAME);
	return pool;
}

static struct kvt_pool *attach_or_make(struct kvt_client *client)
{
	char note[32] = "";
	struct kvt_pool *pool;
	int ret = kvt_shared_attach(client, NAME, MODEL, &pool);

	if (ret == -ENOENT)
		return make(client);
	must(ret);
	must(kvt_shared_note(pool, note, sizeof(note) - 1));
	printf("found the pool \"%s\", with the note \"%s\"\n", NAME, note);
	return pool;
}

/* The daemon reads ahead of whoever says what comes next: here all of it, backwards. */
static void read_by_plan(struct kvt_pool *pool)
{
	const unsigned char *at = kvt_pool_addr(pool);
	struct kvt_plan_range plan[BLOCKS];
	size_t i;

	for (i = 0; i < BLOCKS; i++)
		plan[i] = (struct kvt_plan_range){ (BLOCKS - 1 - i) * BLOCK, BLOCK };
	must(kvt_plan_publish(pool, plan, BLOCKS, 0));
	for (i = 0; i < BLOCKS; i++) {
		if (at[plan[i].offset] != (unsigned char)(BLOCKS - 1 - i))
			errx(1, "block %zu has another's content", BLOCKS - 1 - i);
		must(kvt_plan_passed(pool, 1));
	}
	printf("read all %lu blocks by a plan\n", BLOCKS);
}

int main(int argc, char **argv)
{
	int remove = argc > 1 && !strcmp(argv[1], "--remove");
	struct kvt_client *client;
	struct kvt_pool *pool;

	must(kvt_client_open(argc > 1 + remove ? argv[1 + remove] : NULL, &client));
	if (remove) {
		must(kvt_shared_remove(client, NAME));
	} else {
		pool = attach_or_make(client);
		read_by_plan(pool);
		kvt_pool_destroy(pool); /* of this process: the daemon keeps it */
	}
	kvt_client_close(client);
	return 0;
}
