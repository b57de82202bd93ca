// SPDX-License-Identifier: MIT
/*
 * Save: number the extents, seal and checkpoint them, write a temporary file, make it
 * durable, and only then give it the manifest's name.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "crc.h"
#include "error.h"
#include "manifest.h"
#include "policy.h"

int kvt_mark(struct kvt_marks *marks, struct kvt_extent *extent)
{
	uint32_t room = marks->room ? 2 * marks->room : 64;
	struct kvt_extent **list;

	if (extent->mark)
		return 0;
	if (marks->nr == marks->room) {
		list = realloc(marks->list, (size_t)room * sizeof(struct kvt_extent *));
		if (!list)
			return kvt_fail(-ENOMEM, "no memory for a list of %u extents", room);
		marks->list = list;
		marks->room = room;
	}
	marks->list[marks->nr++] = extent;
	extent->mark = marks->nr;
	return 0;
}

/* A block whose slot is to be reserved, and where the answer goes. */
struct wish {
	uint32_t block;
	struct kvtier_slot *slot;
};

static int by_block(const void *a, const void *b)
{
	const struct wish *x = a, *y = b;

	return x->block < y->block ? -1 : x->block > y->block;
}

/* Neighbouring blocks go together: each checkpoint waits for the device once. */
static int checkpoint(struct kvt_cache *c, struct wish *wishes, uint32_t nr)
{
	uint64_t bytes = kvt_pool_block_bytes(c->pool);
	struct kvtier_slot *slots = calloc(nr ? nr : 1, sizeof(*slots));
	uint32_t first, end, i;
	int ret = slots ? 0 : kvt_fail(-ENOMEM, "no memory for %u slots", nr);

	qsort(wishes, nr, sizeof(*wishes), by_block);
	for (first = 0; ret >= 0 && first < nr; first = end) {
		for (end = first + 1; end < nr; end++)
			if (wishes[end].block != wishes[end - 1].block + 1)
				break;
		/* Many writes at a time; what fails, the checkpoint says. */
		kvt_writeback(c->pool, wishes[first].block * bytes, (end - first) * bytes);
		ret = kvt_checkpoint(c->pool, wishes[first].block * bytes, (end - first) * bytes,
				     slots);
		for (i = first; ret >= 0 && i < end; i++)
			*wishes[i].slot = slots[i - first];
	}
	free(slots);
	return ret < 0 ? ret : 0;
}

static int make_wishes(struct kvt_cache *c, struct kvt_extent *const *list, uint32_t nr,
		       struct wish *wishes)
{
	uint32_t i, group;

	for (i = 0; i < nr; i++) {
		struct kvtier_slot *slots = calloc(c->groups, sizeof(*slots));

		if (!slots)
			return kvt_fail(-ENOMEM, "no memory for slots");
		list[i]->slots = slots;
		for (group = 0; group < c->groups; group++)
			*wishes++ = (struct wish){ list[i]->blocks[group], &slots[group] };
	}
	return 0;
}

static int keep_new(struct kvt_cache *c, struct kvt_extent *const *list, uint32_t nr)
{
	struct wish *wishes = calloc((size_t)nr * c->groups, sizeof(*wishes));
	uint32_t i;
	int ret;

	if (!wishes)
		return kvt_fail(-ENOMEM, "no memory for %u extents", nr);
	ret = make_wishes(c, list, nr, wishes);
	if (!ret)
		ret = checkpoint(c, wishes, nr * c->groups);
	free(wishes);
	for (i = 0; ret && i < nr; i++) {
		free(list[i]->slots);
		list[i]->slots = NULL;
	}
	return ret;
}

int kvt_keep_slots(struct kvt_cache *c, struct kvt_extent *const *list, uint32_t nr)
{
	struct kvt_extent **fresh = calloc(nr ? nr : 1, sizeof(struct kvt_extent *));
	uint32_t i, nr_fresh = 0;
	int ret = fresh ? 0 : kvt_fail(-ENOMEM, "no memory for %u extents", nr);

	for (i = 0; !ret && i < nr; i++) {
		if (list[i]->slots)
			continue;
		ret = kvt_extent_seal(c, list[i]);
		fresh[nr_fresh++] = list[i];
	}
	if (!ret && nr_fresh)
		ret = keep_new(c, fresh, nr_fresh);
	free(fresh);
	return ret;
}

static void put_extents(struct kvt_bytes *b, const struct kvt_cache *c,
			const struct kvt_marks *marks)
{
	uint32_t i, group;

	for (i = 0; i < marks->nr; i++) {
		kvt_put_u32(b, marks->list[i]->layout);
		for (group = 0; group < c->groups; group++) {
			kvt_put_u64(b, marks->list[i]->slots[group].slot);
			kvt_put_u64(b, marks->list[i]->slots[group].generation);
			kvt_put_u32(b, marks->list[i]->slots[group].crc32c);
		}
	}
}

static void put_summary(struct kvt_bytes *b, const struct kvt_geometry *g,
			const struct kvt_summary *s)
{
	size_t keys = (size_t)g->layers * g->kv_heads * g->k_dim;

	kvt_put_u64(b, s->tokens);
	kvt_put(b, s->memory, keys * g->v_dim * sizeof(float));
	kvt_put(b, s->norm, keys * sizeof(float));
	kvt_put(b, s->keys, keys * sizeof(float));
}

static void put_policy(struct kvt_bytes *b, const struct kvt_seq *seq)
{
	kvt_put_u32(b, seq->policy != NULL);
	if (!seq->policy)
		return;
	kvt_put(b, &seq->policy->policy, sizeof(seq->policy->policy));
	if (seq->policy->summary)
		put_summary(b, &seq->cache->geometry, seq->policy->summary);
}

static void put_seq(struct kvt_bytes *b, const struct kvt_named_seq *named)
{
	const struct kvt_seq *seq = named->seq;
	uint32_t i;

	kvt_put_u32(b, (uint32_t)strlen(named->name));
	kvt_put(b, named->name, strlen(named->name));
	kvt_put(b, seq->length, seq->cache->geometry.layers * sizeof(seq->length[0]));
	kvt_put_u32(b, seq->nr_path);
	kvt_put(b, seq->path, seq->nr_path * sizeof(*seq->path));
	put_policy(b, seq);
	kvt_put_u64(b, seq->clock);
	kvt_put_u32(b, seq->nr_pieces);
	for (i = 0; i < seq->nr_pieces; i++) {
		kvt_put_u32(b, seq->pieces[i].extent->mark - 1);
		kvt_put_u32(b, seq->pieces[i].position);
		kvt_put_u32(b, seq->pieces[i].rows);
		kvt_put_u32(b, seq->pieces[i].span);
		kvt_put_u32(b, seq->pieces[i].uses);
		kvt_put_u64(b, seq->pieces[i].used);
		kvt_put(b, &seq->pieces[i].mass, sizeof(float));
	}
}

static int sync_folder(const char *path)
{
	char *copy = strdup(path);
	int fd, ret = 0;

	if (!copy)
		return kvt_fail(-ENOMEM, "no memory for a path");
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd))
		ret = kvt_fail(-errno, "cannot make %s durable: %s", copy, strerror(errno));
	if (fd >= 0)
		close(fd);
	free(copy);
	return ret;
}

static int write_whole(int fd, const struct kvt_bytes *b)
{
	size_t done = 0;
	ssize_t n;

	while (done < b->nr) {
		n = write(fd, b->data + done, b->nr - done);
		if (n < 0 && errno != EINTR)
			return -errno;
		done += n > 0 ? (size_t)n : 0;
	}
	return fsync(fd) ? -errno : 0;
}

static int replace(const char *path, const struct kvt_bytes *b)
{
	char *temporary;
	int fd, ret;

	if (asprintf(&temporary, "%s.XXXXXX", path) < 0)
		return kvt_fail(-ENOMEM, "no memory for a path");
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0) {
		ret = kvt_fail(-errno, "cannot write %s: %s", temporary, strerror(errno));
		free(temporary);
		return ret;
	}
	ret = write_whole(fd, b);
	close(fd);
	if (!ret && rename(temporary, path))
		ret = -errno;
	if (ret) {
		unlink(temporary);
		ret = kvt_fail(ret, "cannot write %s: %s", path, strerror(-ret));
	}
	free(temporary);
	return ret ? ret : sync_folder(path);
}

static int check_names(const struct kvt_cache *c, const struct kvt_named_seq *seqs, uint32_t nr)
{
	uint32_t i, j;

	for (i = 0; i < nr; i++) {
		if (seqs[i].seq->cache != c)
			return kvt_fail(-EINVAL, "sequence %s is in another cache", seqs[i].name);
		if (strlen(seqs[i].name) > KVT_NAME_MAX)
			return kvt_fail(-EINVAL, "a sequence's name has %zu bytes: at most %d",
					strlen(seqs[i].name), KVT_NAME_MAX);
		for (j = 0; j < i; j++)
			if (!strcmp(seqs[i].name, seqs[j].name))
				return kvt_fail(-EINVAL, "two sequences are named %s",
						seqs[i].name);
	}
	return 0;
}

static int mark_all(const struct kvt_named_seq *seqs, uint32_t nr, struct kvt_prefix *prefix,
		    struct kvt_marks *marks)
{
	uint32_t i, j;
	int ret = 0;

	for (i = 0; i < nr; i++)
		for (j = 0; !ret && j < seqs[i].seq->nr_pieces; j++)
			ret = kvt_mark(marks, seqs[i].seq->pieces[j].extent);
	return ret || !prefix ? ret : kvt_prefix_mark(prefix, marks);
}

static void unmark(struct kvt_marks *marks)
{
	uint32_t i;

	for (i = 0; i < marks->nr; i++)
		marks->list[i]->mark = 0;
	free(marks->list);
}

static int put_all(struct kvt_cache *c, const struct kvt_named_seq *seqs, uint32_t nr,
		   struct kvt_prefix *prefix, const struct kvt_marks *marks, struct kvt_bytes *b)
{
	struct kvt_manifest_header header = {
		.version = KVT_MANIFEST_VERSION, .bytes = sizeof(header),
		.block_bytes = kvt_pool_block_bytes(c->pool), .geometry = c->geometry,
		.groups = c->groups, .extents = marks->nr, .seqs = nr,
	};
	uint32_t i;
	int ret;

	memcpy(header.magic, KVT_MANIFEST_MAGIC, sizeof(header.magic));
	ret = marks->nr ? kvt_pool_key(c->pool, &header.key) : 0;
	if (ret)
		return kvt_fail(ret, "the key of the pool's slots cannot be had: %s",
				kvt_strerror(ret));
	kvt_put(b, &header, sizeof(header));
	put_extents(b, c, marks);
	for (i = 0; i < nr; i++)
		put_seq(b, &seqs[i]);
	if (prefix)
		header.nodes = kvt_prefix_save(prefix, b);
	header.file_bytes = b->nr + sizeof(uint32_t);
	if (b->error)
		return b->error;
	if (header.file_bytes > KVT_MANIFEST_MAX)
		return kvt_fail(-EFBIG,
				"a manifest of %llu MiB, more than %llu: save fewer sequences "
				"in one",
				(unsigned long long)header.file_bytes >> 20,
				KVT_MANIFEST_MAX >> 20);
	memcpy(b->data, &header, sizeof(header));
	kvt_put_u32(b, kvt_crc32c(b->data, b->nr));
	return b->error;
}

static int gather(struct kvt_cache *c, const struct kvt_named_seq *seqs, uint32_t nr,
		  struct kvt_prefix *prefix, struct kvt_bytes *b)
{
	struct kvt_marks marks = { 0 };
	int ret = mark_all(seqs, nr, prefix, &marks);

	if (!ret)
		ret = kvt_keep_slots(c, marks.list, marks.nr);
	if (!ret)
		ret = put_all(c, seqs, nr, prefix, &marks, b);
	unmark(&marks);
	return ret;
}

/*
 * The tree's extents are written before it has to stand still: what is left to write then is
 * what came meanwhile.
 */
static int settle_tree(struct kvt_cache *c, struct kvt_prefix *prefix)
{
	struct kvt_marks marks = { 0 };
	uint32_t i;
	int ret;

	pthread_mutex_lock(&prefix->lock);
	ret = kvt_prefix_mark(prefix, &marks);
	for (i = 0; i < marks.nr; i++)
		kvt_extent_get(c, marks.list[i]);
	pthread_mutex_unlock(&prefix->lock);
	for (i = 0; i < marks.nr; i++)
		marks.list[i]->mark = 0;
	if (!ret)
		ret = kvt_keep_slots(c, marks.list, marks.nr);
	for (i = 0; i < marks.nr; i++)
		kvt_extent_put(c, marks.list[i]);
	free((void *)marks.list);
	return ret;
}

/* The tree stands still meanwhile: its nodes must not go between two passes. */
static int gather_with_tree(struct kvt_cache *c, const struct kvt_named_seq *seqs, uint32_t nr,
			    struct kvt_prefix *prefix, struct kvt_bytes *b)
{
	int ret = settle_tree(c, prefix);

	if (ret)
		return ret;
	pthread_mutex_lock(&prefix->lock);
	ret = gather(c, seqs, nr, prefix, b);
	pthread_mutex_unlock(&prefix->lock);
	return ret;
}

int kvt_manifest_save(struct kvt_cache *c, const char *path, const struct kvt_named_seq *seqs,
		      uint32_t nr, struct kvt_prefix *prefix)
{
	struct kvt_bytes b = { 0 };
	int ret = check_names(c, seqs, nr);

	if (ret)
		return ret;
	if (prefix && prefix->cache != c)
		return kvt_fail(-EINVAL, "the prefix tree is of another cache");
	pthread_mutex_lock(&c->save_lock);
	if (prefix)
		ret = gather_with_tree(c, seqs, nr, prefix, &b);
	else
		ret = gather(c, seqs, nr, NULL, &b);
	if (!ret)
		ret = replace(path, &b);
	pthread_mutex_unlock(&c->save_lock);
	free(b.data);
	return ret;
}
