// SPDX-License-Identifier: MIT
/*
 * Read a GGUF header.  Nothing in the file is trusted: every length is held against what
 * is left of the file before it is used, and nothing is allocated by what it says.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "gguf.h"

#define MAGIC 0x46554747u
#define KEY_MAX 256
#define KEYS_MAX 65536
#define DEPTH_MAX 2

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, NR_TYPES };
static const uint8_t type_bytes[NR_TYPES] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

/* The members that matter, as they are found. */
struct found {
	uint64_t layers, heads, kv_heads, key_length, value_length, embedding, context;
	uint64_t lora_rank, rope, window;
	uint32_t nr_kv_heads; /* entries of an array; 0: a number or absent */
};

struct reader {
	FILE *f;
	uint64_t left; /* bytes of the file */
	uint64_t at;
	char key[KEY_MAX];
	struct gguf_model *model;
	struct found found;
	char *why;
	size_t len;
};

__attribute__((format(printf, 2, 3))) static int wrong(struct reader *r, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(r->why, r->len, fmt, args);
	va_end(args);
	return -EINVAL;
}

/* ---- bytes --------------------------------------------------------------------- */

static int need(struct reader *r, uint64_t bytes)
{
	if (bytes <= r->left)
		return 0;
	return wrong(r, "the header is cut off at byte %" PRIu64 "%s%s: fetch the file again",
		     r->at, r->key[0] ? ", in " : "", r->key);
}

static int take(struct reader *r, void *to, uint64_t bytes)
{
	if (need(r, bytes))
		return -EINVAL;
	if (fread(to, 1, bytes, r->f) != bytes)
		return wrong(r, "cannot read byte %" PRIu64, r->at);
	r->left -= bytes;
	r->at += bytes;
	return 0;
}

static int skip(struct reader *r, uint64_t bytes)
{
	if (need(r, bytes))
		return -EINVAL;
	if (fseeko(r->f, (off_t)bytes, SEEK_CUR))
		return wrong(r, "cannot read byte %" PRIu64, r->at);
	r->left -= bytes;
	r->at += bytes;
	return 0;
}

/* As text, cut to @room; what is not printable becomes a question mark. */
static int take_string(struct reader *r, char *to, size_t room)
{
	uint64_t bytes, kept;
	size_t i;

	if (take(r, &bytes, sizeof(bytes)) || need(r, bytes))
		return -EINVAL;
	kept = bytes < room ? bytes : room - 1;
	if (take(r, to, kept))
		return -EINVAL;
	to[kept] = '\0';
	for (i = 0; i < kept; i++)
		if (to[i] < ' ' || to[i] > '~')
			to[i] = '?';
	return skip(r, bytes - kept);
}

/* ---- values -------------------------------------------------------------------- */

static int take_integer(struct reader *r, uint32_t type, uint64_t *value)
{
	*value = 0;
	if (take(r, value, type_bytes[type])) /* little-endian, as this is */
		return -EINVAL;
	if ((type == I8 && *value > INT8_MAX) || (type == I16 && *value > INT16_MAX) ||
	    (type == I32 && *value > INT32_MAX) || (type == I64 && *value > INT64_MAX))
		return wrong(r, "%s is negative", r->key);
	return 0;
}

static bool is_integer(uint32_t type)
{
	return type <= I32 || type == U64 || type == I64;
}

static int skip_value(struct reader *r, uint32_t type, int depth);

static int take_array_head(struct reader *r, uint32_t *type, uint64_t *nr)
{
	if (take(r, type, sizeof(*type)) || take(r, nr, sizeof(*nr)))
		return -EINVAL;
	if (*type >= NR_TYPES)
		return wrong(r, "%s has elements of the unknown type %" PRIu32, r->key, *type);
	if (*nr > r->left) /* each has a byte at least */
		return wrong(r, "%s has %" PRIu64 " elements, more than the file has bytes", r->key,
			     *nr);
	return 0;
}

static int skip_array(struct reader *r, int depth)
{
	uint32_t type;
	uint64_t nr, i;
	int ret = take_array_head(r, &type, &nr);

	if (ret)
		return ret;
	if (type_bytes[type])
		return skip(r, nr * type_bytes[type]);
	for (i = 0; i < nr && !ret; i++)
		ret = skip_value(r, type, depth + 1);
	return ret;
}

static int skip_value(struct reader *r, uint32_t type, int depth)
{
	uint64_t bytes;

	if (depth > DEPTH_MAX)
		return wrong(r, "%s has arrays in arrays in arrays", r->key);
	if (type == ARRAY)
		return skip_array(r, depth);
	if (type != STRING)
		return skip(r, type_bytes[type]);
	return take(r, &bytes, sizeof(bytes)) ?: skip(r, bytes);
}

/* Layers may differ in their number of KV heads. */
static int take_kv_heads(struct reader *r)
{
	uint64_t nr, i, value;
	uint32_t type;

	if (take_array_head(r, &type, &nr))
		return -EINVAL;
	if (!is_integer(type) || !nr || nr > GGUF_LAYERS_MAX)
		return wrong(r, "%s is not an array of 1 to %d whole numbers", r->key,
			     GGUF_LAYERS_MAX);
	for (i = 0; i < nr; i++) {
		if (take_integer(r, type, &value))
			return -EINVAL;
		if (value > UINT16_MAX)
			return wrong(r, "%s: %" PRIu64 " heads", r->key, value);
		r->model->kv_heads[i] = (uint32_t)value;
	}
	r->found.nr_kv_heads = (uint32_t)nr;
	return 0;
}

/* The part of the key behind the architecture's name; NULL: a key of something else. */
static const char *own_part(const struct reader *r)
{
	size_t n = strlen(r->model->architecture);

	if (!n || strncmp(r->key, r->model->architecture, n) || r->key[n] != '.')
		return NULL;
	return r->key + n + 1;
}

static uint64_t *place_of(struct reader *r)
{
	const struct {
		const char *name;
		uint64_t *value;
	} members[] = {
		{ "block_count", &r->found.layers },
		{ "attention.head_count", &r->found.heads },
		{ "attention.head_count_kv", &r->found.kv_heads },
		{ "attention.key_length", &r->found.key_length },
		{ "attention.value_length", &r->found.value_length },
		{ "attention.kv_lora_rank", &r->found.lora_rank },
		{ "attention.sliding_window", &r->found.window },
		{ "rope.dimension_count", &r->found.rope },
		{ "embedding_length", &r->found.embedding },
		{ "context_length", &r->found.context },
	};
	const char *part = own_part(r);
	size_t i;

	for (i = 0; part && i < sizeof(members) / sizeof(members[0]); i++)
		if (!strcmp(part, members[i].name))
			return members[i].value;
	return NULL;
}

static int take_member(struct reader *r)
{
	uint64_t *place;
	uint32_t type;

	r->key[0] = '\0';
	if (take_string(r, r->key, sizeof(r->key)) || take(r, &type, sizeof(type)))
		return -EINVAL;
	if (!r->key[0])
		return wrong(r, "a key without a name at byte %" PRIu64, r->at);
	if (type >= NR_TYPES)
		return wrong(r, "%s has the unknown type %" PRIu32, r->key, type);
	if (!strcmp(r->key, "general.architecture") && type == STRING)
		return take_string(r, r->model->architecture, sizeof(r->model->architecture));
	if (!strcmp(r->key, "general.name") && type == STRING)
		return take_string(r, r->model->name, sizeof(r->model->name));
	place = place_of(r);
	if (place == &r->found.kv_heads && type == ARRAY)
		return take_kv_heads(r);
	if (!place)
		return skip_value(r, type, 0);
	if (type == ARRAY && place == &r->found.heads) /* of each layer: not needed */
		return skip_value(r, type, 0);
	if (!is_integer(type))
		return wrong(r, "%s is not a whole number", r->key);
	return take_integer(r, type, place);
}

/* ---- the whole ----------------------------------------------------------------- */

static int take_head(struct reader *r, uint64_t *nr)
{
	uint32_t magic, version;
	uint64_t tensors;

	if (take(r, &magic, sizeof(magic)))
		return -EINVAL;
	if (magic != MAGIC)
		return wrong(r, "it is not a GGUF file");
	if (take(r, &version, sizeof(version)))
		return -EINVAL;
	if (version == __builtin_bswap32(2) || version == __builtin_bswap32(3))
		return wrong(r, "it is a big-endian GGUF file: convert it");
	if (version < 2 || version > 3)
		return wrong(r, "GGUF version %" PRIu32 " is not known: 2 and 3 are", version);
	if (take(r, &tensors, sizeof(tensors)) || take(r, nr, sizeof(*nr)))
		return -EINVAL;
	if (tensors > r->left / 24)
		return wrong(r, "it says that it has %" PRIu64 " tensors: the file is too short",
			     tensors);
	if (*nr > KEYS_MAX)
		return wrong(r, "it says that it has %" PRIu64 " keys: more than %d", *nr,
			     KEYS_MAX);
	return 0;
}

static int bounded(struct reader *r, const char *name, uint64_t value, uint64_t least,
		   uint64_t most)
{
	if (value >= least && value <= most)
		return 0;
	if (!value)
		return wrong(r, "the header does not say %s.%s", r->model->architecture, name);
	return wrong(r, "%s.%s is %" PRIu64 ": more than %" PRIu64, r->model->architecture, name,
		     value, most);
}

static int set_kv_heads(struct reader *r)
{
	const struct found *f = &r->found;
	uint64_t each = f->kv_heads ? f->kv_heads : f->heads;
	uint32_t i;

	if (f->nr_kv_heads && f->nr_kv_heads < f->layers)
		return wrong(r, "%s.attention.head_count_kv has %" PRIu32 " entries for %" PRIu64
			     " layers", r->model->architecture, f->nr_kv_heads, f->layers);
	if (f->nr_kv_heads)
		return 0;
	if (bounded(r, "attention.head_count_kv", each, 1, UINT16_MAX))
		return -EINVAL;
	for (i = 0; i < f->layers; i++)
		r->model->kv_heads[i] = (uint32_t)each;
	return 0;
}

static int set_lengths(struct reader *r)
{
	struct found *f = &r->found;

	if (f->lora_rank) { /* MLA: one latent and one rope part a token and layer */
		if (bounded(r, "attention.kv_lora_rank", f->lora_rank, 1, 65536) ||
		    bounded(r, "rope.dimension_count", f->rope, 1, 65536))
			return -EINVAL;
		r->model->latent = (uint32_t)(f->lora_rank + f->rope);
		return 0;
	}
	if (!f->key_length && f->heads && !(f->embedding % f->heads))
		f->key_length = f->embedding / f->heads;
	if (!f->value_length)
		f->value_length = f->key_length;
	if (bounded(r, "attention.key_length", f->key_length, 1, 65536) ||
	    bounded(r, "attention.value_length", f->value_length, 1, 65536))
		return -EINVAL;
	r->model->key_length = (uint32_t)f->key_length;
	r->model->value_length = (uint32_t)f->value_length;
	return 0;
}

static int conclude(struct reader *r)
{
	struct found *f = &r->found;

	if (!r->model->architecture[0])
		return wrong(r, "the header does not say general.architecture");
	if (bounded(r, "block_count", f->layers, 1, GGUF_LAYERS_MAX) ||
	    (!f->nr_kv_heads && bounded(r, "attention.head_count", f->heads, 1, UINT16_MAX)))
		return -EINVAL;
	if (f->context > UINT32_MAX || f->window > UINT32_MAX)
		return wrong(r, "a context of %" PRIu64 " tokens is out of range",
			     f->context > f->window ? f->context : f->window);
	r->model->layers = (uint32_t)f->layers;
	r->model->heads = (uint32_t)f->heads;
	r->model->context = f->context;
	r->model->window = (uint32_t)f->window;
	return set_kv_heads(r) ?: set_lengths(r);
}

static int read_header(struct reader *r)
{
	uint64_t nr = 0, i;
	int ret = take_head(r, &nr);

	for (i = 0; i < nr && !ret; i++)
		ret = take_member(r);
	return ret ?: conclude(r);
}

int gguf_read(const char *path, struct gguf_model *model, char *why, size_t len)
{
	struct reader r = { .model = model, .why = why, .len = len };
	struct stat st;
	int ret;

	memset(model, 0, sizeof(*model));
	r.f = fopen(path, "re");
	if (!r.f || fstat(fileno(r.f), &st)) {
		ret = -errno;
		snprintf(why, len, "%s", strerror(errno));
	} else if (!S_ISREG(st.st_mode)) {
		ret = wrong(&r, "it is not a file");
	} else {
		r.left = (uint64_t)st.st_size;
		ret = read_header(&r);
	}
	if (r.f)
		fclose(r.f);
	return ret;
}
