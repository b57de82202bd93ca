// SPDX-License-Identifier: MIT
/*
 * stream: attention over keys and values of which an eighth fits in memory, the rest read
 * from NVMe while there is something else to compute; and the same bits as without.
 *
 *	stream [FOLDER]		FOLDER: where the NVMe tier is, default .
 *
 * Here with tables of blocks of one's own; kvtier_seq.h makes them (sequence.c).
 */
#include <err.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvtier_stream.h>

#define LAYERS 8U
#define KV_HEADS 4U
#define HEADS (4 * KV_HEADS)
#define DIM 64U
#define BLOCK (256UL << 10)
#define TOKENS 512U /* of a block: keys and values of this many, each KV_HEADS * DIM halves */
#define BLOCKS 16U /* of a layer */

static struct kvt_seq_block table[LAYERS][BLOCKS];
static float q[HEADS * DIM], out[LAYERS][HEADS * DIM], plain[HEADS * DIM];

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

	config.bytes = LAYERS * BLOCKS * BLOCK;
	config.dram_bytes = config.bytes / 8;
	config.block_bytes = BLOCK;
	config.nvme_path = folder;
	must(kvt_pool_create(&config, &pool));
	return pool;
}

/* A block: the keys of its tokens, then their values. */
static void fill(struct kvt_pool *pool, unsigned int layer, unsigned int i)
{
	static float rows[TOKENS * KV_HEADS * DIM];
	const uint32_t stride = KV_HEADS * (uint32_t)kvt_row_bytes(KVT_F16, DIM);
	struct kvt_seq_block *b = &table[layer][i];
	char *at = kvt_pool_addr(pool);
	size_t j;

	b->offset = (layer * BLOCKS + i) * BLOCK;
	b->position = (uint64_t)i * TOKENS;
	b->tokens = TOKENS;
	b->k = at + b->offset;
	b->v = at + b->offset + BLOCK / 2;
	b->k_type = b->v_type = KVT_F16;
	b->k_stride = b->v_stride = stride;
	for (j = 0; j < sizeof(rows) / sizeof(rows[0]); j++)
		rows[j] = (float)rand() / (float)RAND_MAX - 0.5f;
	must(kvt_quantize(KVT_F16, DIM, KV_HEADS, TOKENS, rows, at + b->offset, stride));
	must(kvt_quantize(KVT_F16, DIM, KV_HEADS, TOKENS, rows, at + b->offset + BLOCK / 2,
			  stride));
}

static struct kvt_attend_seq query(unsigned int layer, float *to)
{
	struct kvt_attend_seq seq = KVT_ATTEND_SEQ_INIT;

	seq.q_tokens = 1;
	seq.q_position = (uint64_t)BLOCKS * TOKENS;
	seq.q = q;
	seq.out = to;
	seq.blocks = table[layer];
	seq.nr_blocks = BLOCKS;
	return seq;
}

/* A decode step: each layer says which comes next, so that it is read meanwhile. */
static void step(struct kvt_stream *stream, const struct kvt_attend_params *params)
{
	unsigned int layer;

	for (layer = 0; layer < LAYERS; layer++) {
		struct kvt_attend_seq seq = query(layer, out[layer]);
		struct kvt_stream_table next = { table[(layer + 1) % LAYERS], BLOCKS };

		must(kvt_stream_attend(stream, params, &seq, 1, &next, 1, NULL));
	}
}

static bool equal_bits(const void *a, const void *b, size_t bytes)
{
	return !memcmp(a, b, bytes);
}

static void compare(struct kvt_attend *attend, const struct kvt_attend_params *params)
{
	unsigned int layer;

	for (layer = 0; layer < LAYERS; layer++) {
		struct kvt_attend_seq seq = query(layer, plain);

		must(kvt_attend(attend, params, &seq, 1)); /* waits in page faults instead */
		if (!equal_bits(plain, out[layer], sizeof(plain)))
			errx(1, "layer %u: other bits", layer);
	}
	printf("the same bits as kvt_attend() in all %u layers\n", LAYERS);
}

int main(int argc, char **argv)
{
	struct kvt_attend_params params = KVT_ATTEND_PARAMS_INIT;
	struct kvt_stream_config config = KVT_STREAM_CONFIG_INIT;
	struct kvt_stream_stats stats = { .size = sizeof(stats) };
	struct kvt_pool *pool = make_pool(argc > 1 ? argv[1] : ".");
	struct kvt_attend *attend;
	struct kvt_stream *stream;
	unsigned int i;

	params.flags = KVT_CAUSAL;
	params.q_heads = HEADS;
	params.kv_heads = KV_HEADS;
	params.k_dim = params.v_dim = DIM;
	for (i = 0; i < LAYERS * BLOCKS; i++)
		fill(pool, i / BLOCKS, i % BLOCKS);
	must(kvt_seal(pool, 0, kvt_pool_bytes(pool))); /* complete: never written again */
	for (i = 0; i < HEADS * DIM; i++)
		q[i] = (float)rand() / (float)RAND_MAX;

	must(kvt_attend_create(NULL, &attend));
	config.attend = attend;
	config.pool = pool;
	must(kvt_stream_create(&config, &stream));
	for (i = 0; i < 4; i++)
		step(stream, &params);
	must(kvt_stream_stats(stream, &stats));
	printf("%llu blocks were in memory when wanted, %llu were streamed\n",
	       (unsigned long long)stats.resident, (unsigned long long)stats.streamed);
	compare(attend, &params);
	kvt_stream_destroy(stream);
	kvt_attend_destroy(attend);
	kvt_pool_destroy(pool);
	return 0;
}
