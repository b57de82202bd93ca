// SPDX-License-Identifier: MIT
/*
 * A manifest: what a named pool is, and where its blocks lie.  Little-endian:
 *
 *	header		magic, version, lengths, the pool's definition, key and store
 *	slots		block, slot, generation, CRC32C, flags of each block
 *	note		the client's own bytes
 *	checksum	CRC32C of all before
 *
 * It is written beside its name, made durable and renamed, and the folder made durable:
 * who reads it finds the old one or the new one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crc.h"
#include "kvtierd.h"

#define MAGIC "KVTPOOL\n"
#define VERSION 1

struct header {
	char magic[8];
	uint32_t version;
	uint32_t bytes; /* of this struct */
	uint64_t file_bytes;
	uint32_t nr;
	uint32_t note_bytes;
	uint64_t instance;
	uint64_t pool_bytes;
	uint64_t budget[KVTIER_NR_TIERS];
	uint32_t block_shift;
	uint32_t flags;
	uint32_t deadline_ms;
	uint32_t module;
	uint32_t uid;
	uint32_t zero;
	uint64_t written_s;
	char name[KVT_POOL_NAME_BYTES];
	char model[KVT_MODEL_NAME_BYTES];
	char tenant[32];
	struct kvt_key key;
};

void manifest_path(const struct kvtierd *d, const char *tenant, const char *name, char *buf,
		   size_t room)
{
	snprintf(buf, room, "%s/%s/%s.manifest", d->config.state_dir, tenant, name);
}

void manifest_free(struct manifest *m)
{
	free(m->slots);
	free(m->note);
	memset(m, 0, sizeof(*m));
}

static void fill_header(struct header *h, const struct manifest *m)
{
	const struct table *t = &m->def;

	*h = (struct header){
		.magic = MAGIC,
		.version = VERSION,
		.bytes = sizeof(*h),
		.nr = m->nr,
		.note_bytes = m->note_bytes,
		.instance = t->instance,
		.pool_bytes = t->bytes,
		.block_shift = t->block_shift,
		.flags = t->flags,
		.deadline_ms = t->deadline_ms,
		.module = t->module,
		.uid = t->uid,
		.written_s = t->checkpoint_s,
		.key = m->key,
	};
	h->file_bytes = sizeof(*h) + (uint64_t)m->nr * sizeof(m->slots[0]) + m->note_bytes +
			sizeof(uint32_t);
	memcpy(h->budget, t->budget, sizeof(h->budget));
	memcpy(h->name, t->name, sizeof(h->name));
	memcpy(h->model, t->model, sizeof(h->model));
	memcpy(h->tenant, t->tenant, sizeof(h->tenant));
}

static int write_all(int fd, const char *data, size_t bytes)
{
	while (bytes) {
		ssize_t n = write(fd, data, bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENOSPC;
		data += n;
		bytes -= (size_t)n;
	}
	return 0;
}

static int open_folder(const char *path)
{
	char *dir = strdup(path), *slash = dir ? strrchr(dir, '/') : NULL;
	int fd = -ENOMEM;

	if (slash) {
		*slash = 0;
		fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			fd = -errno;
	}
	free(dir);
	return fd;
}

/* The folder is opened before anything changes: once the name is the new file's, all but
 * its durability is done, and @renamed says so to whoever gets an error. */
static int replace(const char *path, const char *data, size_t bytes, bool *renamed)
{
	int fd, ret, folder = open_folder(path);
	char temp[520];

	if (folder < 0)
		return folder;
	snprintf(temp, sizeof(temp), "%s.new", path);
	fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0) {
		ret = -errno;
		close(folder);
		return ret;
	}
	ret = write_all(fd, data, bytes);
	if (!ret && fsync(fd))
		ret = -errno;
	close(fd);
	if (!ret && rename(temp, path))
		ret = -errno;
	*renamed = !ret;
	if (ret)
		unlink(temp);
	else if (fsync(folder))
		ret = -errno;
	close(folder);
	return ret;
}

int manifest_write(const char *path, struct manifest *m)
{
	struct header h;
	size_t slots = (size_t)m->nr * sizeof(m->slots[0]);
	uint32_t crc;
	char *data;
	int ret;

	fill_header(&h, m);
	data = malloc(h.file_bytes);
	if (!data)
		return -ENOMEM;
	memcpy(data, &h, sizeof(h));
	if (slots)
		memcpy(data + sizeof(h), m->slots, slots);
	if (m->note_bytes)
		memcpy(data + sizeof(h) + slots, m->note, m->note_bytes);
	crc = kvt_crc32c(data, h.file_bytes - sizeof(crc));
	memcpy(data + h.file_bytes - sizeof(crc), &crc, sizeof(crc));
	ret = replace(path, data, h.file_bytes, &m->renamed);
	free(data);
	return ret ? kvt_fail(ret, "%s: cannot write it: %s", path, strerror(-ret)) : 0;
}

/* ---- read -------------------------------------------------------------------------------- */

static int read_file(const char *path, char **data, size_t *bytes)
{
	struct stat st;
	ssize_t n = -1;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	*data = NULL;
	if (fd < 0)
		return -errno;
	if (!fstat(fd, &st)) {
		*bytes = (size_t)st.st_size;
		*data = malloc(*bytes + 1);
		n = *data ? read(fd, *data, *bytes) : -1;
	}
	close(fd);
	if (n == (ssize_t)*bytes)
		return 0;
	free(*data);
	*data = NULL;
	return -EIO;
}

/* The version first: what follows may look otherwise in another one. */
static int check_header(const char *path, const char *data, size_t bytes, struct header *h)
{
	uint32_t crc;

	if (bytes < offsetof(struct header, file_bytes) || memcmp(data, MAGIC, sizeof(h->magic)))
		return kvt_fail(-EINVAL, "%s is no manifest of a pool", path);
	memcpy(h, data, offsetof(struct header, file_bytes));
	if (h->version != VERSION)
		return kvt_fail(-EPROTO,
				"%s is of version %u, this daemon knows version %d: restore it "
				"with the kvtierd that wrote it, or remove the pool",
				path, h->version, VERSION);
	if (bytes < sizeof(*h) + sizeof(crc) || h->bytes != sizeof(*h))
		return kvt_fail(-EINVAL, "%s is cut short", path);
	memcpy(h, data, sizeof(*h));
	memcpy(&crc, data + bytes - sizeof(crc), sizeof(crc));
	if (h->file_bytes != bytes || kvt_crc32c(data, bytes - sizeof(crc)) != crc ||
	    bytes != sizeof(*h) + (uint64_t)h->nr * sizeof(struct kvtier_slot) + h->note_bytes +
			     sizeof(crc))
		return kvt_fail(-EILSEQ, "%s does not match its checksum", path);
	if (h->block_shift < KVTIER_SHIFT_MIN || h->block_shift > KVTIER_SHIFT_MAX ||
	    h->pool_bytes >> h->block_shift >= UINT32_MAX / 2 || h->note_bytes > KVT_NOTE_MAX ||
	    memchr(h->name, 0, sizeof(h->name)) == NULL ||
	    memchr(h->model, 0, sizeof(h->model)) == NULL ||
	    memchr(h->tenant, 0, sizeof(h->tenant)) == NULL)
		return kvt_fail(-EINVAL, "%s has fields out of range", path);
	return 0;
}

static void take_header(struct manifest *m, const struct header *h)
{
	struct table *t = &m->def;

	memset(m, 0, sizeof(*m));
	t->instance = h->instance;
	t->bytes = h->pool_bytes;
	t->block_shift = h->block_shift;
	t->flags = h->flags;
	t->deadline_ms = h->deadline_ms;
	t->module = h->module;
	t->uid = h->uid;
	t->checkpoint_s = h->written_s;
	t->note_bytes = h->note_bytes;
	memcpy(t->budget, h->budget, sizeof(t->budget));
	memcpy(t->name, h->name, sizeof(t->name));
	memcpy(t->model, h->model, sizeof(t->model));
	memcpy(t->tenant, h->tenant, sizeof(t->tenant));
	m->key = h->key;
}

int manifest_read(const char *path, struct manifest *m)
{
	struct header h = { 0 };
	size_t bytes = 0, slots;
	char *data;
	int ret = read_file(path, &data, &bytes);

	if (ret)
		return kvt_fail(ret, "%s: %s", path, strerror(-ret));
	ret = check_header(path, data, bytes, &h);
	if (ret)
		goto out;
	take_header(m, &h);
	slots = (size_t)h.nr * sizeof(struct kvtier_slot);
	m->slots = malloc(slots + 1);
	m->note = malloc(h.note_bytes + 1);
	if (!m->slots || !m->note) {
		manifest_free(m);
		ret = -ENOMEM;
		goto out;
	}
	memcpy(m->slots, data + sizeof(h), slots);
	memcpy(m->note, data + sizeof(h) + slots, h.note_bytes);
	m->nr = h.nr;
	m->note_bytes = h.note_bytes;
out:
	free(data);
	return ret;
}
