// SPDX-License-Identifier: MIT
/*
 * mkmodel: a llama of any geometry with random weights, as a GGUF file.
 *
 * What a cache costs depends on a model's geometry, not on what it has learned.
 * Matrices are Q8_0, norms F32; the scales keep activations near 1 and make
 * attention a large part of them, so every logit depends on every key and value
 * of the prompt.  The same options give the same file on every machine.
 *
 * A file is a header (magic, counts), key-value pairs, tensor descriptions, and
 * tensor data, each tensor aligned.  All numbers are little-endian.
 */
#include <endian.h>
#include <err.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GGUF_VERSION 3
#define ALIGN 32
#define QK8_0 32
#define Q8_0_BYTES (2 + QK8_0)
/* Standard deviation of a uniform int8. */
#define INT8_DEVIATION 73.9f
/* The mean of many values is small; this lets it weigh against the residual. */
#define ATTENTION_GAIN 4.0f

enum { GGUF_U32 = 4, GGUF_I32 = 5, GGUF_F32 = 6, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9 };
enum { TENSOR_F32 = 0, TENSOR_Q8_0 = 8 };
enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_BYTE = 6 };

#define NR_SPECIAL 3
#define FIRST_PIECE (NR_SPECIAL + 256)
#define MAX_VOCAB 1024

struct geometry {
	int layers, heads, kv_heads, head_dim, embd, ffn, ctx, seed;
};

struct vocabulary {
	int nr;
	char text[MAX_VOCAB][8];
};

struct tensor {
	char name[40];
	uint32_t type;
	uint64_t columns, rows; /* rows 0: a vector */
	float gain;
};

struct writer {
	FILE *file;
	uint64_t bytes;
	uint64_t random;
};

static const char usage[] =
	"usage: mkmodel -o FILE [options]\n"
	"  --layers N     layers (16)\n"
	"  --heads N      query heads (8)\n"
	"  --kv-heads N   key and value heads (as many as query heads)\n"
	"  --head-dim N   values of a head (128)\n"
	"  --embd N       embedding (256)\n"
	"  --ffn N        feed-forward (256)\n"
	"  --ctx-train N  longest context (131072)\n"
	"  --seed N       another seed, other weights (1)\n"
	"  -o FILE        the GGUF file to write\n";

static const struct field {
	const char *name;
	size_t offset;
} fields[] = {
	{ "layers", offsetof(struct geometry, layers) },
	{ "heads", offsetof(struct geometry, heads) },
	{ "kv-heads", offsetof(struct geometry, kv_heads) },
	{ "head-dim", offsetof(struct geometry, head_dim) },
	{ "embd", offsetof(struct geometry, embd) },
	{ "ffn", offsetof(struct geometry, ffn) },
	{ "ctx-train", offsetof(struct geometry, ctx) },
	{ "seed", offsetof(struct geometry, seed) },
};

#define NR_FIELDS (sizeof(fields) / sizeof(fields[0]))
#define FIELD_KEY 256

static int number(const char *text, const char *what)
{
	char *end;
	long value = strtol(text, &end, 10);

	if (end == text || *end || value < 1 || value > 1 << 24)
		errx(1, "--%s: \"%s\" is not a number from 1 to %d", what, text, 1 << 24);
	return value;
}

static void list_options(struct option *list)
{
	size_t i;

	for (i = 0; i < NR_FIELDS; i++)
		list[i] = (struct option){ fields[i].name, required_argument, NULL, FIELD_KEY + i };
	list[i++] = (struct option){ "help", no_argument, NULL, 'h' };
	list[i] = (struct option){ 0 };
}

static void check_geometry(const struct geometry *g)
{
	if (g->heads % g->kv_heads)
		errx(1, "--heads %d is not a multiple of --kv-heads %d", g->heads, g->kv_heads);
	if (g->head_dim % 2)
		errx(1, "--head-dim %d is odd: positions rotate pairs", g->head_dim);
	if (g->embd % QK8_0 || g->ffn % QK8_0 || g->heads * g->head_dim % QK8_0)
		errx(1, "--embd, --ffn and --heads times --head-dim must be multiples of %d",
		     QK8_0);
}

static const char *parse_options(struct geometry *g, int argc, char **argv)
{
	struct option options[NR_FIELDS + 2];
	const char *path = NULL;
	int key;

	*g = (struct geometry){ 16, 8, 0, 128, 256, 256, 131072, 1 };
	list_options(options);
	while ((key = getopt_long(argc, argv, "ho:", options, NULL)) != -1) {
		if (key == 'h') {
			fputs(usage, stdout);
			exit(0);
		} else if (key == 'o') {
			path = optarg;
		} else if (key >= FIELD_KEY) {
			const struct field *f = &fields[key - FIELD_KEY];

			*(int *)((char *)g + f->offset) = number(optarg, f->name);
		} else {
			errx(1, "try mkmodel --help");
		}
	}
	if (optind < argc)
		errx(1, "unexpected argument \"%s\"; try mkmodel --help", argv[optind]);
	if (!path)
		errx(1, "-o FILE is missing; try mkmodel --help");
	if (!g->kv_heads)
		g->kv_heads = g->heads;
	check_geometry(g);
	return path;
}

static void add_piece(struct vocabulary *v, const char *format, int a, int b)
{
	snprintf(v->text[v->nr++], sizeof(v->text[0]), format, a, b);
}

/* The blank of SentencePiece, letters, and syllables of a vowel and another letter. */
static void make_vocabulary(struct vocabulary *v)
{
	static const char vowels[] = "aeiou";
	int a, b;

	v->nr = 0;
	add_piece(v, "<unk>", 0, 0);
	add_piece(v, "<s>", 0, 0);
	add_piece(v, "</s>", 0, 0);
	for (a = 0; a < 256; a++)
		add_piece(v, "<0x%02X>", a, 0);
	add_piece(v, "\xe2\x96\x81", 0, 0);
	for (a = 'a'; a <= 'z'; a++) {
		add_piece(v, "%c", a, 0);
		add_piece(v, "\xe2\x96\x81%c", a, 0);
	}
	for (a = 'a'; a <= 'z'; a++)
		for (b = 'a'; b <= 'z'; b++)
			if (!strchr(vowels, a) != !strchr(vowels, b))
				add_piece(v, "%c%c", a, b);
}

static uint32_t token_type(int token)
{
	if (token == 0)
		return TOKEN_UNKNOWN;
	if (token < NR_SPECIAL)
		return TOKEN_CONTROL;
	return token < FIRST_PIECE ? TOKEN_BYTE : TOKEN_NORMAL;
}

static void put(struct writer *w, const void *data, size_t bytes)
{
	if (fwrite(data, 1, bytes, w->file) != bytes)
		err(1, "cannot write the model");
	w->bytes += bytes;
}

static void put_u32(struct writer *w, uint32_t value)
{
	value = htole32(value);
	put(w, &value, sizeof(value));
}

static void put_u64(struct writer *w, uint64_t value)
{
	value = htole64(value);
	put(w, &value, sizeof(value));
}

static void put_f32(struct writer *w, float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	put_u32(w, bits);
}

static void put_string(struct writer *w, const char *text)
{
	put_u64(w, strlen(text));
	put(w, text, strlen(text));
}

static void put_padding(struct writer *w)
{
	static const char zeroes[ALIGN];

	put(w, zeroes, -w->bytes % ALIGN);
}

static void put_key(struct writer *w, const char *key, uint32_t type)
{
	put_string(w, key);
	put_u32(w, type);
}

static void put_array_key(struct writer *w, const char *key, uint32_t type, uint64_t nr)
{
	put_key(w, key, GGUF_ARRAY);
	put_u32(w, type);
	put_u64(w, nr);
}

#define NR_MODEL_KEYS 13

static void put_model_keys(struct writer *w, const struct geometry *g, uint32_t nr_vocab)
{
	const struct {
		const char *key;
		uint32_t value;
	} numbers[] = {
		{ "general.file_type", 7 }, /* mostly Q8_0 */
		{ "llama.context_length", g->ctx },
		{ "llama.embedding_length", g->embd },
		{ "llama.block_count", g->layers },
		{ "llama.feed_forward_length", g->ffn },
		{ "llama.attention.head_count", g->heads },
		{ "llama.attention.head_count_kv", g->kv_heads },
		{ "llama.attention.key_length", g->head_dim },
		{ "llama.attention.value_length", g->head_dim },
		{ "llama.rope.dimension_count", g->head_dim },
		{ "llama.vocab_size", nr_vocab },
	};
	size_t i;

	put_key(w, "general.architecture", GGUF_STRING);
	put_string(w, "llama");
	put_key(w, "llama.attention.layer_norm_rms_epsilon", GGUF_F32);
	put_f32(w, 1e-5f);
	for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		put_key(w, numbers[i].key, GGUF_U32);
		put_u32(w, numbers[i].value);
	}
}

#define NR_VOCABULARY_KEYS 8

static void put_vocabulary_keys(struct writer *w, const struct vocabulary *v)
{
	static const char *const ids[] = { "unknown", "bos", "eos" };
	char key[64];
	int i;

	put_key(w, "tokenizer.ggml.model", GGUF_STRING);
	put_string(w, "llama");
	put_array_key(w, "tokenizer.ggml.tokens", GGUF_STRING, v->nr);
	for (i = 0; i < v->nr; i++)
		put_string(w, v->text[i]);
	put_array_key(w, "tokenizer.ggml.scores", GGUF_F32, v->nr);
	for (i = 0; i < v->nr; i++)
		put_f32(w, -i);
	put_array_key(w, "tokenizer.ggml.token_type", GGUF_I32, v->nr);
	for (i = 0; i < v->nr; i++)
		put_u32(w, token_type(i));
	for (i = 0; i < NR_SPECIAL; i++) {
		snprintf(key, sizeof(key), "tokenizer.ggml.%s_token_id", ids[i]);
		put_key(w, key, GGUF_U32);
		put_u32(w, i);
	}
	put_key(w, "tokenizer.ggml.add_bos_token", GGUF_BOOL);
	put(w, "\1", 1);
}

static void add_tensor(struct tensor **at, const char *name, uint64_t columns, uint64_t rows,
		       float gain)
{
	struct tensor *t = (*at)++;

	snprintf(t->name, sizeof(t->name), "%s.weight", name);
	t->type = rows ? TENSOR_Q8_0 : TENSOR_F32;
	t->columns = columns;
	t->rows = rows;
	t->gain = gain;
}

#define LAYER_TENSORS 9

static void add_layer(struct tensor **at, const struct geometry *g, int layer)
{
	uint64_t q = (uint64_t)g->heads * g->head_dim, kv = (uint64_t)g->kv_heads * g->head_dim;
	const struct {
		const char *name;
		uint64_t columns, rows;
		float gain;
	} parts[LAYER_TENSORS] = {
		{ "attn_norm", g->embd, 0, 1 },
		{ "attn_q", g->embd, q, 1 },
		{ "attn_k", g->embd, kv, 1 },
		{ "attn_v", g->embd, kv, 1 },
		{ "attn_output", q, g->embd, ATTENTION_GAIN },
		{ "ffn_norm", g->embd, 0, 1 },
		{ "ffn_gate", g->embd, g->ffn, 1 },
		{ "ffn_up", g->embd, g->ffn, 1 },
		{ "ffn_down", g->ffn, g->embd, 1 },
	};
	char name[32];
	int i;

	for (i = 0; i < LAYER_TENSORS; i++) {
		snprintf(name, sizeof(name), "blk.%d.%s", layer, parts[i].name);
		add_tensor(at, name, parts[i].columns, parts[i].rows, parts[i].gain);
	}
}

static struct tensor *list_tensors(const struct geometry *g, int nr_vocab, int *nr)
{
	struct tensor *list, *at;
	int i;

	*nr = 3 + LAYER_TENSORS * g->layers;
	at = list = calloc(*nr, sizeof(*list));
	if (!list)
		err(1, "calloc");
	add_tensor(&at, "token_embd", g->embd, nr_vocab, 1);
	add_tensor(&at, "output_norm", g->embd, 0, 1);
	add_tensor(&at, "output", g->embd, nr_vocab, 1);
	for (i = 0; i < g->layers; i++)
		add_layer(&at, g, i);
	return list;
}

static uint64_t tensor_bytes(const struct tensor *t)
{
	if (t->type == TENSOR_F32)
		return t->columns * sizeof(float);
	return t->columns * t->rows / QK8_0 * Q8_0_BYTES;
}

static void put_descriptions(struct writer *w, const struct tensor *tensors, int nr)
{
	uint64_t offset = 0;
	int i;

	for (i = 0; i < nr; i++) {
		const struct tensor *t = &tensors[i];

		put_string(w, t->name);
		put_u32(w, t->rows ? 2 : 1);
		put_u64(w, t->columns);
		if (t->rows)
			put_u64(w, t->rows);
		put_u32(w, t->type);
		put_u64(w, offset);
		offset += (tensor_bytes(t) + ALIGN - 1) / ALIGN * ALIGN;
	}
}

/* A positive normal number only; the fraction is cut. */
static uint16_t half_bits(float value)
{
	int exponent;
	float fraction = frexpf(value, &exponent); /* 0.5 to 1 */

	if (exponent < -13)
		return 0x0400; /* the least normal one */
	return (uint16_t)((exponent + 14) << 10 | ((int)(fraction * 2048) & 0x3ff));
}

static uint64_t next_random(struct writer *w)
{
	uint64_t z = w->random += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static void put_matrix(struct writer *w, const struct tensor *t)
{
	uint16_t scale = htole16(half_bits(t->gain / sqrtf(t->columns) / INT8_DEVIATION));
	uint64_t blocks = t->columns * t->rows / QK8_0;
	uint8_t block[Q8_0_BYTES];
	uint64_t word;
	int i;

	memcpy(block, &scale, sizeof(scale));
	while (blocks--) {
		for (i = 2; i < Q8_0_BYTES; i += sizeof(word)) {
			word = htole64(next_random(w));
			memcpy(block + i, &word, sizeof(word));
		}
		put(w, block, sizeof(block));
	}
}

static void put_vector(struct writer *w, const struct tensor *t)
{
	uint64_t i;

	for (i = 0; i < t->columns; i++)
		put_f32(w, t->gain);
}

static void put_model(struct writer *w, const struct geometry *g)
{
	static struct vocabulary vocabulary;
	struct tensor *tensors;
	int nr, i;

	make_vocabulary(&vocabulary);
	tensors = list_tensors(g, vocabulary.nr, &nr);
	put(w, "GGUF", 4);
	put_u32(w, GGUF_VERSION);
	put_u64(w, nr);
	put_u64(w, NR_MODEL_KEYS + NR_VOCABULARY_KEYS);
	put_model_keys(w, g, vocabulary.nr);
	put_vocabulary_keys(w, &vocabulary);
	put_descriptions(w, tensors, nr);
	put_padding(w);
	for (i = 0; i < nr; i++) {
		if (tensors[i].type == TENSOR_F32)
			put_vector(w, &tensors[i]);
		else
			put_matrix(w, &tensors[i]);
		put_padding(w);
	}
	free(tensors);
}

/* So that a model that stops half-way is not left behind, however it ends. */
static char temp[PATH_MAX];

static void remove_temp(void)
{
	if (*temp)
		unlink(temp);
}

int main(int argc, char **argv)
{
	struct geometry geometry;
	const char *path = parse_options(&geometry, argc, argv);
	struct writer w = { .random = geometry.seed };

	snprintf(temp, sizeof(temp), "%s.%d", path, (int)getpid());
	w.file = fopen(temp, "wxe");
	if (!w.file)
		err(1, "cannot write %s", path);
	atexit(remove_temp);
	put_model(&w, &geometry);
	if (fclose(w.file) || rename(temp, path))
		err(1, "cannot write %s", path);
	*temp = '\0';
	return 0;
}
