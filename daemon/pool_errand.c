// SPDX-License-Identifier: MIT
/* Pools are made, taken back from their checkpoints and removed: what needs the disk. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "kvtierd.h"

/* Give the client what it maps. */
static int hand_over(struct client *c, uint16_t type, uint32_t id, struct pool *p)
{
	int fds[2], ret = attachment_new(c, p, &fds[1]);
	struct kvt_opened opened = {
		.pool = p->id,
		.block_shift = p->shift,
		.bytes = p->t->bytes,
		.instance = p->t->instance,
		.fds = 2,
		.module = p->module,
	};

	if (ret)
		return ret;
	fds[0] = p->fd;
	pool_activity(p);
	client_reply(c, type, id, 0, &opened, sizeof(opened), fds, 2);
	close(fds[1]);
	return 0;
}

static void set_paths(struct errand *e, const char *name)
{
	manifest_path(e->d, e->tenant->name, name, e->path, sizeof(e->path));
	snprintf(e->slots, sizeof(e->slots), "%.*sslots",
		 (int)(strlen(e->path) - strlen("manifest")), e->path);
}

static int unlink_files(struct errand *e)
{
	bool had = !access(e->path, F_OK);

	unlink(e->path);
	unlink(e->slots);
	return had || e->pool ? 0 : -ENOENT;
}

/* ---- make -------------------------------------------------------------------------------- */

static int make_slots(struct errand *e)
{
	if (!access(e->path, F_OK))
		return kvt_fail(-EEXIST, "there is a pool %s: attach it, or remove it first",
				e->create.name);
	return e->pool->module ? 0 : slots_make(e->pool);
}

static int unmade(struct errand *e, int result)
{
	(void)result;
	return kvt_fail(e->error, "the pool cannot be handed over");
}

static int made(struct errand *e, int result)
{
	struct client *c = errand_client(e);
	struct pool *p = e->pool;
	bool named = p->t->flags & KVT_SHARED_KEEP && !p->module;

	p->making = false;
	p->ios--;
	if (result) {
		pool_destroy(p);
		return result;
	}
	if (c) {
		pool_keep(p);
		e->error = hand_over(c, e->request->type, e->request->id, p);
	} else {
		e->error = -ECANCELED; /* nobody waits for it any more */
	}
	if (!e->error) {
		log_line(LOG_INFO, "pool_created", "pool=%u name=%s tenant=%s bytes=%llu block=%u "
			 "dram=%llu nvme=%llu", p->id, p->t->name, p->t->tenant,
			 (unsigned long long)p->t->bytes, p->block_bytes,
			 (unsigned long long)p->t->budget[KVTIER_TIER_DRAM],
			 (unsigned long long)p->t->budget[KVTIER_TIER_NVME]);
		return 0;
	}
	pool_destroy(p);
	return named ? errand_work(e, unlink_files, unmade) : e->error;
}

static int begin_make(struct errand *e)
{
	int ret = pool_make(e->request->client, &e->create, &e->pool);

	if (ret)
		return ret;
	if (!e->pool->making)
		return hand_over(e->request->client, e->request->type, e->request->id, e->pool);
	e->pool->ios++;
	return errand_work(e, make_slots, made);
}

int pool_create(struct client *c, const struct kvt_msg *msg, const struct kvt_create *want)
{
	struct errand *e;
	int ret = pool_check_name(want->name, sizeof(want->name), "a pool's name");

	if (!ret)
		ret = errand_new(c, msg, &e);
	if (ret)
		return ret;
	e->create = *want;
	if (want->io_deadline_ms)
		e->until_ns = c->d->turn_ns + want->io_deadline_ms * NS_PER_MS;
	set_paths(e, want->name);
	e->begin = begin_make;
	errand_run(e);
	return 0;
}

/* ---- attach ------------------------------------------------------------------------------ */

static int attach_to(struct client *c, uint16_t type, uint32_t id, struct pool *p,
		     const char *model)
{
	struct attachment *a;

	if (strcmp(p->t->model, model))
		return kvt_fail(-EMEDIUMTYPE, "pool %s is of model '%s', not '%s'", p->t->name,
				p->t->model, model);
	for (a = c->attachments; a; a = a->next_of_client)
		if (a->pool == p)
			return kvt_fail(-EBUSY, "this connection has pool %s already", p->t->name);
	return hand_over(c, type, id, p);
}

static int read_checkpoint(struct errand *e)
{
	int ret;

	if (access(e->path, F_OK))
		return kvt_fail(-ENOENT, "there is no pool %s, and no checkpoint of one",
				e->attach.name);
	ret = manifest_read(e->path, &e->manifest);
	if (ret || e->manifest.def.module)
		return ret;
	if (strcmp(e->manifest.def.tenant, e->tenant->name) ||
	    strcmp(e->manifest.def.name, e->attach.name))
		return 0; /* which checkpoint_restore() refuses */
	e->fd = slots_of_manifest(e->slots, &e->manifest.def);
	return e->fd < 0 ? e->fd : 0;
}

static int restore(struct errand *e, struct client *c)
{
	struct pool *p;
	int ret = pool_one_more(c);

	if (!ret)
		ret = checkpoint_restore(e, e->attach.name, e->attach.model, &p);
	if (ret)
		return ret;
	pool_add(p);
	pool_keep(p);
	e->d->count.restores++;
	log_line(LOG_INFO, "pool_restored", "pool=%u name=%s tenant=%s blocks=%u", p->id,
		 p->t->name, p->t->tenant, p->nr_kept);
	return attach_to(c, e->request->type, e->request->id, p, e->attach.model);
}

static int was_read(struct errand *e, int result)
{
	struct client *c = errand_client(e);
	int ret = result;

	if (!ret && c)
		ret = restore(e, c);
	if (e->fd >= 0)
		close_elsewhere(e->d, e->fd);
	return ret;
}

static int begin_attach(struct errand *e)
{
	struct client *c = e->request->client;
	struct pool *p = pool_named(e->d, e->tenant, e->attach.name);

	if (p) /* somebody made it, or took it back, meanwhile */
		return attach_to(c, e->request->type, e->request->id, p, e->attach.model);
	return errand_work(e, read_checkpoint, was_read);
}

int pool_attach(struct client *c, const struct kvt_msg *msg, const struct kvt_attach *want)
{
	struct pool *p = pool_named(c->d, c->tenant, want->name);
	struct errand *e;
	int ret;

	if (p && !p->making)
		return attach_to(c, msg->type, msg->id, p, want->model);
	ret = errand_new(c, msg, &e);
	if (ret)
		return ret;
	e->attach = *want;
	set_paths(e, want->name);
	e->begin = begin_attach;
	errand_run(e);
	return 0;
}

/* ---- remove ------------------------------------------------------------------------------ */

static int removed(struct errand *e, int result)
{
	struct client *c = errand_client(e);
	struct pool *p = e->pool;

	if (!p && result)
		return kvt_fail(-ENOENT, "there is no pool %s", e->attach.name);
	if (p) {
		p->ios--;
		p->t->flags &= ~KVT_SHARED_KEEP;
		if (!p->clients)
			pool_destroy(p);
	}
	if (c)
		client_reply(c, e->request->type, e->request->id, 0, NULL, 0, NULL, 0);
	return 0;
}

/* Nobody finds it from now on; it stays until its files are gone. */
static void take_away(struct errand *e, struct pool *p)
{
	e->pool = p;
	p->removed = true;
	p->ios++;
}

static int read_key(struct errand *e)
{
	if (access(e->path, F_OK))
		return kvt_fail(-ENOENT, "there is no pool %s", e->attach.name);
	return manifest_read(e->path, &e->manifest);
}

/* The slots of a pool of the module are reserved by the manifest's key. */
static int release_slots(struct errand *e, int result)
{
	struct pool *p;
	int ret;

	if (!e->pool) {
		ret = result ? result : checkpoint_restore(e, e->attach.name, NULL, &p);
		if (ret)
			return ret;
		pool_add(p);
		take_away(e, p);
	}
	if (!result)
		device_release(e->pool->fd, &e->manifest.key);
	return errand_work(e, unlink_files, removed);
}

/* Also of a checkpoint that is just being made durable: by then it is. */
static bool has_key(const struct pool *p)
{
	return p->module && (p->t->checkpoint_s || p->checkpoint);
}

static int begin_remove(struct errand *e)
{
	struct pool *p = pool_named(e->d, e->tenant, e->attach.name);

	if (p)
		take_away(e, p);
	if (p ? has_key(p) : e->d->module)
		return errand_work(e, read_key, release_slots);
	return errand_work(e, unlink_files, removed);
}

int pool_remove(struct client *c, const struct kvt_msg *msg, const char *name)
{
	struct errand *e;
	int ret = errand_new(c, msg, &e);

	if (ret)
		return ret;
	snprintf(e->attach.name, sizeof(e->attach.name), "%s", name);
	set_paths(e, name);
	e->begin = begin_remove;
	errand_run(e);
	return 0;
}

/* ---- notes ------------------------------------------------------------------------------- */

static int read_note(struct errand *e)
{
	return manifest_read(e->path, &e->manifest);
}

static int note_read(struct errand *e, int result)
{
	struct client *c = errand_client(e);

	if (!result && c)
		client_reply(c, e->request->type, e->request->id, 0, e->manifest.note,
			     e->manifest.note_bytes, NULL, 0);
	return result;
}

static int begin_note(struct errand *e)
{
	return errand_work(e, read_note, note_read);
}

int pool_note(struct client *c, const struct kvt_msg *msg, struct pool *p)
{
	struct errand *e;
	int ret;

	if (!p->t->checkpoint_s)
		return kvt_fail(-ENOENT, "pool %s has no checkpoint", p->t->name);
	ret = errand_new(c, msg, &e);
	if (ret)
		return ret;
	manifest_path(c->d, p->t->tenant, p->t->name, e->path, sizeof(e->path));
	e->begin = begin_note;
	errand_run(e);
	return 0;
}
