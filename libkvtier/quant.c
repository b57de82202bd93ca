// SPDX-License-Identifier: MIT
/* Rows of many tokens and heads, to and from floats, and from one type to another. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "error.h"
#include "quant.h"

size_t kvt_row_bytes(uint32_t type, uint32_t dim)
{
	if (type >= KVT_TYPES || !dim || dim > KVT_DIM_MAX || dim % kvt_types[type].multiple)
		return 0;
	return kvt_types[type].bytes(dim);
}

const char *kvt_type_name(uint32_t type)
{
	return type < KVT_TYPES ? kvt_types[type].name : NULL;
}

int kvt_type_named(const char *name)
{
	int type;

	for (type = 0; name && type < KVT_TYPES; type++)
		if (!strcmp(kvt_types[type].name, name))
			return type;
	return kvt_fail(-EINVAL, "no element type is named \"%s\"; there are f32, f16, bf16, e4m3, "
			"e5m2, int8, int4, q8_0, q4_0", name ? name : "(null)");
}

/* Rows of all heads of some tokens. */
struct plane {
	uint32_t type;
	size_t head; /* bytes */
	size_t stride;
};

static int plane_init(struct plane *p, uint32_t type, uint32_t dim, uint32_t heads,
		      uint32_t tokens, const void *rows, size_t stride)
{
	p->type = type;
	p->head = kvt_row_bytes(type, dim);
	p->stride = stride ? stride : heads * p->head;
	if (type >= KVT_TYPES)
		return kvt_fail(-EINVAL, "no element type has the number %u", type);
	if (!p->head)
		return kvt_fail(-EINVAL, "rows of %u elements: %s takes multiples of %u up to %u",
				dim, kvt_types[type].name, kvt_types[type].multiple, KVT_DIM_MAX);
	if (!heads || heads > KVT_HEADS_MAX)
		return kvt_fail(-EINVAL, "%u heads: give 1 to %u", heads, KVT_HEADS_MAX);
	if (!rows || !tokens)
		return kvt_fail(-EINVAL, rows ? "no tokens: give 1 or more"
					      : "the rows are NULL: give their address");
	if (p->stride < heads * p->head)
		return kvt_fail(-EINVAL, "a stride of %zu bytes: %u heads of %s take %zu", stride,
				heads, kvt_types[type].name, heads * p->head);
	return 0;
}

int kvt_quantize(uint32_t type, uint32_t dim, uint32_t heads, uint32_t tokens, const float *in,
		 void *rows, size_t stride)
{
	struct plane p;
	uint32_t t, h;
	int ret = plane_init(&p, type, dim, heads, tokens, rows, stride);

	if (ret)
		return ret;
	if (!in)
		return kvt_fail(-EINVAL, "the floats are NULL: give their address");
	for (t = 0; t < tokens; t++)
		for (h = 0; h < heads; h++, in += dim)
			kvt_types[type].encode(in, dim,
					       (char *)rows + t * p.stride + h * p.head);
	return 0;
}

int kvt_dequantize(uint32_t type, uint32_t dim, uint32_t heads, uint32_t tokens, const void *rows,
		   size_t stride, float *out)
{
	struct plane p;
	uint32_t t, h;
	int ret = plane_init(&p, type, dim, heads, tokens, rows, stride);

	if (ret)
		return ret;
	if (!out)
		return kvt_fail(-EINVAL, "the floats are NULL: give their address");
	for (t = 0; t < tokens; t++)
		for (h = 0; h < heads; h++, out += dim)
			kvt_types[type].decode((const char *)rows + t * p.stride + h * p.head, dim,
					       out);
	return 0;
}

/* Differences seen so far. */
struct loss {
	double most;
	double squares;
	uint64_t nr;
	int changed;
};

static void compare(struct loss *loss, const float *before, const float *after, uint32_t dim)
{
	uint32_t i;
	double d;

	for (i = 0; i < dim; i++) {
		if (before[i] == after[i] || (before[i] != before[i] && after[i] != after[i])) {
			loss->nr += isfinite(before[i]) != 0;
			continue;
		}
		loss->changed = 1;
		if (!isfinite(before[i]))
			continue;
		d = fabs((double)after[i] - (double)before[i]);
		loss->nr++;
		loss->squares += d * d;
		if (!(d <= loss->most))
			loss->most = d;
	}
}

/* One token's row of all heads; @dst may be NULL: look only.  A head at a time, front to back. */
static void convert_token(const struct kvt_requantize *r, const struct plane *from,
			  const struct plane *to, const char *src, char *dst, struct loss *loss)
{
	float before[KVT_DIM_MAX], after[KVT_DIM_MAX];
	uint8_t row[4 * KVT_DIM_MAX];
	uint32_t h;

	for (h = 0; h < r->heads; h++) {
		kvt_types[from->type].decode(src + h * from->head, r->dim, before);
		kvt_types[to->type].encode(before, r->dim, row);
		kvt_types[to->type].decode(row, r->dim, after);
		compare(loss, before, after, r->dim);
		if (dst)
			memcpy(dst + h * to->head, row, to->head);
	}
}

static void convert(struct kvt_requantize *r, const struct plane *from, const struct plane *to,
		    char *dst, struct loss *loss)
{
	uint32_t t;

	memset(loss, 0, sizeof(*loss));
	for (t = 0; t < r->tokens; t++)
		convert_token(r, from, to, (const char *)r->src + t * from->stride,
			      dst ? dst + t * to->stride : NULL, loss);
	r->max_error = (float)loss->most;
	r->rms_error = loss->nr ? (float)sqrt(loss->squares / (double)loss->nr) : 0;
}

static size_t plane_bytes(const struct plane *p, const struct kvt_requantize *r)
{
	return (r->tokens - 1) * p->stride + r->heads * p->head;
}

static int check_places(const struct kvt_requantize *r, const struct plane *from,
			const struct plane *to)
{
	const char *src = r->src, *dst = r->dst;

	if (src == dst) {
		if (to->head <= from->head && to->stride <= from->stride)
			return 0;
		return kvt_fail(-EINVAL, "in place: rows of %s and their stride may not be longer "
				"than those of %s; give another @dst", kvt_types[to->type].name,
				kvt_types[from->type].name);
	}
	if (src < dst + plane_bytes(to, r) && dst < src + plane_bytes(from, r))
		return kvt_fail(-EINVAL, "the old and the new rows overlap; begin at the same "
				"address or keep them apart");
	return 0;
}

int kvt_requantize(struct kvt_requantize *r)
{
	struct plane from, to;
	struct loss loss;
	int ret;

	if (!r || r->size != sizeof(*r) || r->flags & ~KVT_LOSSY)
		return kvt_fail(-EINVAL, "kvt_requantize: %s", !r ? "NULL" :
				r->size != sizeof(*r) ? "use KVT_REQUANTIZE_INIT"
						      : "unknown flags; use KVT_LOSSY or 0");
	ret = plane_init(&from, r->from, r->dim, r->heads, r->tokens, r->src, r->src_stride);
	if (!ret)
		ret = plane_init(&to, r->to, r->dim, r->heads, r->tokens, r->dst, r->dst_stride);
	if (!ret)
		ret = check_places(r, &from, &to);
	if (ret)
		return ret;
	if (!(r->flags & KVT_LOSSY)) {
		convert(r, &from, &to, NULL, &loss);
		if (loss.changed)
			return kvt_fail(-EDOM,
					"%s does not hold these %s numbers exactly (off by up "
					"to %g); allow it with KVT_LOSSY",
					kvt_types[r->to].name, kvt_types[r->from].name,
					(double)r->max_error);
	}
	convert(r, &from, &to, r->dst, &loss);
	return 0;
}
