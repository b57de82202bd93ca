// SPDX-License-Identifier: MIT
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crc.h"
#include "error.h"
#include "manifest.h"

static int read_whole(int fd, struct kvt_manifest *m)
{
	size_t done = 0;
	ssize_t n;

	while (done < m->bytes) {
		n = read(fd, m->data + done, m->bytes - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			return -EILSEQ;
		done += (size_t)n;
	}
	return 0;
}

/* A pipe is refused, not waited for. */
static int load(const char *path, struct kvt_manifest *m)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), ret = 0;

	if (fd < 0)
		return kvt_fail(-errno, "cannot open the manifest %s: %s", path, strerror(errno));
	if (fstat(fd, &st))
		ret = -errno;
	else if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > KVT_MANIFEST_MAX)
		ret = -EILSEQ;
	if (!ret) {
		m->bytes = (size_t)st.st_size;
		m->data = malloc(m->bytes + 1);
		ret = m->data ? read_whole(fd, m) : -ENOMEM;
	}
	close(fd);
	if (ret == -EILSEQ)
		return kvt_fail(ret, "%s is not a manifest", path);
	return ret ? kvt_fail(ret, "cannot read the manifest %s: %s", path, strerror(-ret)) : 0;
}

static int check_whole(const char *path, struct kvt_manifest *m)
{
	struct kvt_manifest_header *h = &m->header;
	uint32_t crc;

	if (m->bytes < sizeof(*h) + sizeof(crc) ||
	    memcmp(m->data, KVT_MANIFEST_MAGIC, sizeof(h->magic)))
		return kvt_fail(-EILSEQ, "%s is not a manifest", path);
	memcpy(h, m->data, sizeof(*h));
	memcpy(&crc, m->data + m->bytes - sizeof(crc), sizeof(crc));
	if (crc != kvt_crc32c(m->data, m->bytes - sizeof(crc)))
		return kvt_fail(-EILSEQ, "the manifest %s is damaged: its checksum does not match",
				path);
	if (h->version != KVT_MANIFEST_VERSION || h->bytes != sizeof(*h))
		return kvt_fail(-EPROTONOSUPPORT, "the manifest %s has format version %u; this "
						  "library knows version %u", path, h->version,
				KVT_MANIFEST_VERSION);
	if (h->file_bytes != m->bytes || !h->groups || h->geometry.layers < h->groups ||
	    h->geometry.layers > 4096)
		return kvt_fail(-EILSEQ, "the manifest %s is inconsistent", path);
	return 0;
}

/* Past one sequence; its name is kept. */
static void skip_seq(struct kvt_bytes *b, const struct kvt_geometry *g, char **name)
{
	struct kvt_policy policy;
	uint32_t nr = kvt_get_count(b, 1);
	size_t keys = (size_t)g->layers * g->kv_heads * g->k_dim, skip;

	*name = calloc(1, (size_t)nr + 1);
	if (!*name)
		b->error = kvt_fail(-ENOMEM, "no memory for a name");
	else
		kvt_get(b, *name, nr);
	skip = g->layers * sizeof(uint32_t);
	if (b->nr >= skip) {
		b->data += skip;
		b->nr -= skip;
	}
	nr = kvt_get_count(b, KVT_ID_BYTES);
	b->data += (size_t)nr * KVT_ID_BYTES;
	b->nr -= (size_t)nr * KVT_ID_BYTES;
	if (kvt_get_u32(b)) {
		kvt_get(b, &policy, sizeof(policy));
		skip = (policy.flags & KVT_POLICY_SUMMARY) ?
			       sizeof(uint64_t) + (keys * g->v_dim + 2 * keys) * sizeof(float) : 0;
		if (!b->error && skip > b->nr)
			b->error = kvt_fail(-EILSEQ, "the manifest is inconsistent");
		b->data += b->error ? 0 : skip;
		b->nr -= b->error ? 0 : skip;
	}
	kvt_get_u64(b);
	nr = kvt_get_count(b, 32);
	b->data += (size_t)nr * 32;
	b->nr -= (size_t)nr * 32;
}

static int read_names(struct kvt_manifest *m)
{
	size_t extent = sizeof(uint32_t) + (size_t)m->header.groups * 20;
	size_t extents = m->header.extents * extent;
	struct kvt_bytes b = { .data = m->data + sizeof(m->header),
			       .nr = m->bytes - sizeof(m->header) - sizeof(uint32_t) };
	uint32_t i;

	if (extents > b.nr || m->header.seqs > b.nr)
		return kvt_fail(-EILSEQ, "the manifest is inconsistent: it ends too early");
	m->names = calloc(m->header.seqs ? m->header.seqs : 1, sizeof(char *));
	if (!m->names)
		return kvt_fail(-ENOMEM, "no memory for names");
	b.data += extents;
	b.nr -= extents;
	for (i = 0; !b.error && i < m->header.seqs; i++)
		skip_seq(&b, &m->header.geometry, &m->names[i]);
	return b.error;
}

int kvt_manifest_open(const char *path, struct kvt_manifest **manifest)
{
	struct kvt_manifest *m = calloc(1, sizeof(*m));
	int ret;

	*manifest = NULL;
	if (!m)
		return kvt_fail(-ENOMEM, "no memory for a manifest");
	ret = load(path, m);
	if (!ret)
		ret = check_whole(path, m);
	if (!ret)
		ret = read_names(m);
	if (ret) {
		kvt_manifest_close(m);
		return ret;
	}
	*manifest = m;
	return 0;
}

void kvt_manifest_close(struct kvt_manifest *m)
{
	uint32_t i;

	if (!m)
		return;
	for (i = 0; m->names && i < m->header.seqs; i++)
		free(m->names[i]);
	free((void *)m->names);
	free(m->data);
	free(m);
}

uint32_t kvt_manifest_count(const struct kvt_manifest *m)
{
	return m->header.seqs;
}

const char *kvt_manifest_name(const struct kvt_manifest *m, uint32_t number)
{
	return number < m->header.seqs ? m->names[number] : NULL;
}
