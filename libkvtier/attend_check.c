// SPDX-License-Identifier: MIT
/* What a caller may have got wrong: all of it is found before anything is computed. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attend.h"
#include "error.h"
#include "quant.h"

#define FAIL(...) kvt_fail(-EINVAL, __VA_ARGS__)

static int check_heads(const struct kvt_attend_params *p)
{
	if (!p->kv_heads || !p->q_heads)
		return FAIL("no heads: set q_heads and kv_heads");
	if (p->q_heads > KVT_HEADS_MAX)
		return FAIL("%u query heads: at most %u are served at once", p->q_heads,
			    KVT_HEADS_MAX);
	if (p->q_heads % p->kv_heads)
		return FAIL("%u query heads over %u key/value heads: must be a multiple",
			    p->q_heads, p->kv_heads);
	return 0;
}

static int check_dim(const char *name, uint32_t dim)
{
	if (!dim || dim % 8 || dim > KVT_DIM_MAX)
		return FAIL("%s %u: must be a multiple of 8 up to %u", name, dim, KVT_DIM_MAX);
	return 0;
}

static int check_numbers(const struct kvt_attend_params *p)
{
	if (!isfinite(p->scale))
		return FAIL("scale %g: must be finite; 0 stands for 1 / sqrt(k_dim)",
			    (double)p->scale);
	if (!isfinite(p->softcap) || p->softcap < 0)
		return FAIL("softcap %g: must be finite and not negative", (double)p->softcap);
	if (!(p->epsilon >= 0 && p->epsilon < 1))
		return FAIL("epsilon %g: must be at least 0 and below 1", (double)p->epsilon);
	if ((p->window || p->sinks) && !(p->flags & KVT_CAUSAL))
		return FAIL("a window or sinks without KVT_CAUSAL: set it");
	if (p->sinks && !p->window)
		return FAIL("sinks without a window: all positions are attended to anyway");
	return 0;
}

static int check_params(const struct kvt_attend_params *p)
{
	int ret;

	if (!p || p->size != sizeof(*p))
		return FAIL("params: %s", p ? "use KVT_ATTEND_PARAMS_INIT" : "NULL");
	if (p->flags & ~(KVT_CAUSAL | KVT_OUT_BF16))
		return FAIL("params: unknown flags %#x", p->flags);
	ret = check_heads(p);
	if (!ret)
		ret = check_dim("k_dim", p->k_dim);
	if (!ret)
		ret = check_dim("v_dim", p->v_dim);
	return ret ? ret : check_numbers(p);
}

/* One side of a block: keys or values. */
static int check_rows(uint32_t seq, uint32_t block, const char *side, const void *base,
		      uint32_t type, uint32_t stride, uint32_t heads, uint32_t dim)
{
	size_t bytes = heads * kvt_row_bytes(type, dim);

	if (type >= KVT_TYPES)
		return FAIL("sequence %u, block %u: %s_type %u is no element type", seq, block,
			    side, type);
	if (!bytes)
		return FAIL("sequence %u, block %u: %s has no rows of %u elements: only of "
			    "multiples of %u", seq, block, kvt_types[type].name, dim,
			    kvt_types[type].multiple);
	if (stride < bytes || stride % kvt_types[type].align)
		return FAIL(
			"sequence %u, block %u: %s_stride %u: %u heads of %s take %zu bytes, in "
			"multiples of %u",
			seq, block, side, stride, heads, kvt_types[type].name, bytes,
			kvt_types[type].align);
	if ((uintptr_t)base % kvt_types[type].align)
		return FAIL("sequence %u, block %u: %s is not aligned to the %u bytes of %s", seq,
			    block, side, kvt_types[type].align, kvt_types[type].name);
	return 0;
}

/* May values be the first elements of keys?  No group's scale may be cut off. */
static bool is_part(uint32_t type, const struct kvt_attend_params *p)
{
	return p->v_dim == p->k_dim || (p->v_dim < p->k_dim && kvt_row_bytes(type, p->v_dim) &&
					(type != KVT_INT4 || p->v_dim % KVT_GROUP == 0));
}

static int check_block(const struct kvt_attend_params *p, const struct kvt_attend_seq *s,
		       uint32_t seq, uint32_t number)
{
	const struct kvt_seq_block *b = &s->blocks[number];
	int ret;

	if (!b->k)
		return FAIL("sequence %u, block %u: k is NULL", seq, number);
	if (!b->tokens)
		return FAIL("sequence %u, block %u: no tokens; leave it out", seq, number);
	if (b->span && b->span < b->tokens)
		return FAIL("sequence %u, block %u: %u rows span %u positions", seq, number,
			    b->tokens, b->span);
	if (b->position > UINT64_MAX / 4)
		return FAIL("sequence %u, block %u: position %llu is too large", seq, number,
			    (unsigned long long)b->position);
	ret = check_rows(seq, number, "k", b->k, b->k_type, b->k_stride, p->kv_heads, p->k_dim);
	if (ret)
		return ret;
	if (b->v)
		return check_rows(seq, number, "v", b->v, b->v_type, b->v_stride, p->kv_heads,
				  p->v_dim);
	if (!is_part(b->k_type, p))
		return FAIL("sequence %u, block %u: v is NULL, and %u values are not a part of %u "
			    "keys of %s", seq, number, p->v_dim, p->k_dim,
			    kvt_types[b->k_type].name);
	return 0;
}

static size_t out_bytes(const struct kvt_attend_params *p)
{
	return (size_t)p->q_heads * p->v_dim * (p->flags & KVT_OUT_BF16 ? 2 : 4);
}

static size_t q_bytes(const struct kvt_attend_params *p)
{
	return (size_t)p->q_heads * p->k_dim * 4;
}

static int check_strides(const struct kvt_attend_params *p, const struct kvt_attend_seq *s,
			 uint32_t seq)
{
	unsigned int align = p->flags & KVT_OUT_BF16 ? 2 : 4;

	if (s->q_stride && (s->q_stride < q_bytes(p) || s->q_stride % 4))
		return FAIL("sequence %u: q_stride %zu: a token's queries take %zu bytes, in "
			    "multiples of 4", seq, s->q_stride, q_bytes(p));
	if (s->out_stride && (s->out_stride < out_bytes(p) || s->out_stride % align))
		return FAIL("sequence %u: out_stride %zu: a token's outputs take %zu bytes, in "
			    "multiples of %u", seq, s->out_stride, out_bytes(p), align);
	if ((uintptr_t)s->q % 4 || (uintptr_t)s->out % align || (uintptr_t)s->lse % 4 ||
	    (uintptr_t)s->mass % 4)
		return FAIL("sequence %u: q, out, lse or mass is not aligned to its numbers", seq);
	if (s->mask && s->mask_stride && s->mask_stride < (s->nr_blocks + 7) / 8)
		return FAIL("sequence %u: mask_stride %u: %u blocks take %u bytes", seq,
			    s->mask_stride, s->nr_blocks, (s->nr_blocks + 7) / 8);
	return 0;
}

static int check_seq(const struct kvt_attend_params *p, const struct kvt_attend_seq *s,
		     uint32_t seq)
{
	uint32_t i;
	int ret;

	if (s->size != sizeof(*s))
		return FAIL("sequence %u: use KVT_ATTEND_SEQ_INIT", seq);
	if (!s->q_tokens || s->q_tokens > KVT_QUERY_MAX)
		return FAIL("sequence %u: %u query tokens: give 1 to %u", seq, s->q_tokens,
			    KVT_QUERY_MAX);
	if (!s->q || !s->out)
		return FAIL("sequence %u: %s is NULL", seq, s->q ? "out" : "q");
	if (!s->blocks || !s->nr_blocks)
		return FAIL("sequence %u: no blocks; a sequence has at least one token", seq);
	if (s->q_position > UINT64_MAX / 4)
		return FAIL("sequence %u: q_position %llu is too large", seq,
			    (unsigned long long)s->q_position);
	ret = check_strides(p, s, seq);
	for (i = 0; !ret && i < s->nr_blocks; i++)
		ret = check_block(p, s, seq, i);
	return ret;
}

/* Memory of the call, to find what overlaps. */
struct extent {
	uintptr_t start;
	uintptr_t end;
	uint32_t seq;
	const char *name;
};

static int by_start(const void *a, const void *b)
{
	const struct extent *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

static void add_extent(struct extent *list, size_t *nr, const void *base, size_t bytes,
		       uint32_t seq, const char *name)
{
	if (base)
		list[(*nr)++] =
			(struct extent){ (uintptr_t)base, (uintptr_t)base + bytes, seq, name };
}

static size_t strided(size_t stride, size_t bytes, size_t nr)
{
	return (nr - 1) * (stride ? stride : bytes) + bytes;
}

static size_t outputs_of(const struct kvt_attend_params *p, const struct kvt_attend_seq *seqs,
			 uint32_t nr, struct extent *list)
{
	size_t n = 0;
	uint32_t i;

	for (i = 0; i < nr; i++) {
		const struct kvt_attend_seq *s = &seqs[i];

		add_extent(list, &n, s->out, strided(s->out_stride, out_bytes(p), s->q_tokens), i,
			   "out");
		add_extent(list, &n, s->lse, (size_t)4 * s->q_tokens * p->q_heads, i, "lse");
		add_extent(list, &n, s->mass, (size_t)4 * s->nr_blocks, i, "mass");
	}
	qsort(list, n, sizeof(*list), by_start);
	return n;
}

/* Does this input meet an output?  Outputs are sorted and do not overlap. */
static int check_input(const struct extent *outputs, size_t nr, const void *base, size_t bytes,
		       uint32_t seq, const char *name)
{
	uintptr_t start = (uintptr_t)base, end = start + bytes;
	size_t low = 0, high = nr, mid;

	if (!base)
		return 0;
	while (low < high) { /* the first that ends after our start */
		mid = (low + high) / 2;
		if (outputs[mid].end <= start)
			low = mid + 1;
		else
			high = mid;
	}
	if (low < nr && outputs[low].start < end)
		return FAIL("%s of sequence %u overlaps %s of sequence %u; keep them apart",
			    outputs[low].name, outputs[low].seq, name, seq);
	return 0;
}

static int check_inputs(const struct kvt_attend_params *p, const struct kvt_attend_seq *s,
			uint32_t seq, const struct extent *outputs, size_t nr)
{
	uint32_t i;
	int ret = check_input(outputs, nr, s->q, strided(s->q_stride, q_bytes(p), s->q_tokens), seq,
			      "q");

	if (!ret && s->mask)
		ret = check_input(outputs, nr, s->mask,
				  strided(s->mask_stride, (s->nr_blocks + 7) / 8,
					  s->mask_stride ? p->kv_heads : 1),
				  seq, "mask");
	for (i = 0; !ret && i < s->nr_blocks; i++) {
		const struct kvt_seq_block *b = &s->blocks[i];

		ret = check_input(outputs, nr, b->k, (size_t)b->tokens * b->k_stride, seq, "k");
		if (!ret)
			ret = check_input(outputs, nr, b->v, (size_t)b->tokens * b->v_stride, seq,
					  "v");
	}
	return ret;
}

static int check_overlaps(const struct kvt_attend_params *p, const struct kvt_attend_seq *seqs,
			  uint32_t nr)
{
	struct extent *outputs = malloc(3 * (size_t)nr * sizeof(*outputs));
	size_t n, i;
	int ret = 0;

	if (!outputs)
		return kvt_fail(-ENOMEM, "no memory for the check of %u sequences", nr);
	n = outputs_of(p, seqs, nr, outputs);
	for (i = 1; !ret && i < n; i++)
		if (outputs[i].start < outputs[i - 1].end)
			ret = FAIL("%s of sequence %u overlaps %s of sequence %u; keep them apart",
				   outputs[i - 1].name, outputs[i - 1].seq, outputs[i].name,
				   outputs[i].seq);
	if (!ret)
		ret = check_input(outputs, n, p->sink_logits, (size_t)4 * p->q_heads, 0,
				  "sink_logits");
	for (i = 0; !ret && i < nr; i++)
		ret = check_inputs(p, &seqs[i], (uint32_t)i, outputs, n);
	free(outputs);
	return ret;
}

int kvt_attend_check(const struct kvt_attend_params *params, const struct kvt_attend_seq *seqs,
		     uint32_t nr)
{
	int ret = check_params(params);
	uint32_t i;

	if (ret)
		return ret;
	if (!seqs || !nr)
		return FAIL("no sequences: give at least one");
	for (i = 0; !ret && i < nr; i++)
		ret = check_seq(params, &seqs[i], i);
	return ret ? ret : check_overlaps(params, seqs, nr);
}
