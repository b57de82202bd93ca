// SPDX-License-Identifier: MIT
/*
 * Make a pool durable under its name, and take it back.
 *
 * Of a memory file each block is written if it must be, and what its slot then holds is
 * captured: the slot gets one more user, so that the block is written elsewhere from now
 * on.  Then the slots and the manifest are made durable in the second thread, and the
 * slots of the manifest before are given up.  Whenever this ends, one whole manifest is
 * there, and all that it names.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kvtierd.h"

#define WRITES_MAX 32u
#define NO_SLOTS                                                                            \
	"the pool's NVMe budget has not enough slots beside those that a checkpoint keeps: " \
	"make it twice the pool's size, or seal more"

struct checkpoint {
	struct job job; /* first */
	struct pool *pool;
	struct request *request;
	struct manifest manifest;
	char path[512];
	char error_text[256];
	uint32_t at; /* blocks before are captured, or being written */
	uint32_t writing;
	uint32_t again[WRITES_MAX], nr_again; /* stored to meanwhile, and not written anew yet */
	uint32_t room;
	int error;
	bool keep_note; /* of the checkpoint before, if there is one */
	bool submitted;
};

static void release_slots(struct pool *p, const struct kvtier_slot *slots, uint32_t nr)
{
	uint32_t i;

	for (i = 0; !p->module && i < nr; i++)
		kvt_slot_put(&p->slots, (uint32_t)slots[i].slot);
}

/* The file names the new slots, and after a crash perhaps the old: none may be used. */
static void keep_both(struct checkpoint *c)
{
	struct pool *p = c->pool;
	struct manifest *m = &c->manifest;
	struct kvtier_slot *both;

	p->t->checkpoint_s = m->def.checkpoint_s;
	p->t->note_bytes = m->note_bytes;
	if (!m->nr)
		return;
	both = realloc(p->kept, ((size_t)p->nr_kept + m->nr) * sizeof(*both));
	if (!both)
		return; /* the new ones stay taken for good, then */
	memcpy(both + p->nr_kept, m->slots, m->nr * sizeof(*both));
	p->kept = both;
	p->nr_kept += m->nr;
}

static void end(struct checkpoint *c, int error)
{
	struct pool *p = c->pool;

	p->checkpoint = NULL;
	if (error) {
		p->d->count.checkpoint_errors++;
		log_line(LOG_WARNING, "checkpoint_failed", "pool=%u name=%s reason=\"%s\"", p->id,
			 p->t->name, kvt_error_detail());
		if (c->manifest.renamed)
			keep_both(c);
		else
			release_slots(p, c->manifest.slots, c->manifest.nr);
	} else {
		p->d->count.checkpoints++;
		release_slots(p, p->kept, p->nr_kept);
		free(p->kept);
		p->kept = c->manifest.slots;
		p->nr_kept = c->manifest.nr;
		p->t->checkpoint_s = c->manifest.def.checkpoint_s;
		p->t->note_bytes = c->manifest.note_bytes;
		c->manifest.slots = NULL;
		log_line(LOG_INFO, "checkpoint_done", "pool=%u name=%s blocks=%u", p->id,
			 p->t->name, p->nr_kept);
	}
	request_end(c->request, error, NULL, 0);
	manifest_free(&c->manifest);
	free(c);
}

/* ---- in the second thread ---------------------------------------------------------------- */

static void keep_old_note(struct manifest *m, struct manifest *old)
{
	free(m->note);
	m->note = old->note;
	m->note_bytes = old->note_bytes;
	old->note = NULL;
}

static int make_durable(struct job *job)
{
	struct checkpoint *c = (struct checkpoint *)job;
	struct pool *p = c->pool;
	struct manifest old = { 0 };
	bool had = (p->module || c->keep_note) && !manifest_read(c->path, &old);
	int ret = 0;

	if (had && c->keep_note)
		keep_old_note(&c->manifest, &old);
	if (p->module)
		ret = device_checkpoint(p->fd, p->nr_blocks, p->shift, &c->manifest);
	else if (fdatasync(p->slots_fd))
		ret = kvt_fail(-errno, "cannot make the slots durable: %s", strerror(errno));
	if (!ret)
		ret = manifest_write(c->path, &c->manifest);
	if (p->module && ret && !c->manifest.renamed)
		device_release(p->fd, &c->manifest.key);
	else if (p->module && had && !ret)
		device_release(p->fd, &old.key);
	manifest_free(&old);
	if (ret)
		snprintf(c->error_text, sizeof(c->error_text), "%s", kvt_error_detail());
	return ret;
}

static void durable(struct job *job, int result)
{
	struct checkpoint *c = (struct checkpoint *)job;
	struct pool *p = c->pool;

	if (result)
		kvt_fail(result, "%s", c->error_text[0] ? c->error_text : strerror(-result));
	end(c, result);
	file_progress(p);
}

/* ---- capture ----------------------------------------------------------------------------- */

static int capture(struct checkpoint *c, uint32_t b)
{
	struct block *blk = block_of(c->pool, b);
	struct manifest *m = &c->manifest;

	if (m->nr == c->room) {
		uint32_t room = c->room ? 2 * c->room : 256;
		struct kvtier_slot *slots = realloc(m->slots, room * sizeof(*slots));

		if (!slots)
			return kvt_fail(-ENOMEM, "no memory for a manifest");
		m->slots = slots;
		c->room = room;
	}
	if (kvt_slot_share(&c->pool->slots, blk->slot))
		return kvt_fail(-EMLINK, "a slot has too many users");
	m->slots[m->nr++] = (struct kvtier_slot){
		.block = b,
		.slot = blk->slot,
		.generation = blk->generation,
		.crc32c = blk->crc,
		.flags = blk->flags & B_SEALED ? 1 : 0,
	};
	return 0;
}

/* The write of a block that we asked for is done. */
void checkpoint_written(struct pool *p, uint32_t b)
{
	struct checkpoint *c = p->checkpoint;
	struct block *blk = block_of(p, b);

	if (!c)
		return;
	c->writing--;
	if (blk->error) {
		c->error = kvt_fail(blk->error, "block %u could not be written: %s", b,
				    strerror(-blk->error));
		blk->error = 0;
	} else if (blk->flags & B_DIRTY && !c->error) {
		c->again[c->nr_again++] = b;
	} else if (!c->error) {
		c->error = capture(c, b);
	}
}

/* There is no free slot left: the checkpoint ends, and gives back what it has captured. */
void checkpoint_starved(struct pool *p)
{
	if (p->checkpoint && !p->checkpoint->submitted && !p->checkpoint->error)
		p->checkpoint->error = kvt_fail(-ENOSPC, NO_SLOTS);
}

/* Blocks that are not sealed may all be written anew, beside what the checkpoint names. */
static int check_room(struct pool *p)
{
	uint64_t need = p->nr_blocks, frames = p->t->budget[KVTIER_TIER_DRAM] >> p->shift;
	uint32_t b;

	for (b = 0; b < p->nr_blocks; b++) {
		const struct block *blk = block_of(p, b);

		need += blk->where != W_EMPTY && !(blk->flags & B_SEALED);
	}
	return need > p->slots.nr + frames / 2 ? kvt_fail(-ENOSPC, NO_SLOTS) : 0;
}

/* The next block: 0 it is dealt with, -EAGAIN not now, or why it cannot be. */
static int take_block(struct checkpoint *c, uint32_t b)
{
	struct pool *p = c->pool;
	struct block *blk = block_of(p, b);
	int ret;

	if (blk->where == W_EMPTY)
		return 0;
	if (blk->where == W_BAD)
		return kvt_fail(-EIO, "block %u is lost: discard it first", b);
	if (blk->where == W_READING || blk->where == W_WRITING)
		return -EAGAIN;
	if (!(blk->flags & B_DIRTY))
		return capture(c, b);
	ret = file_write(p, b, B_CAPTURE);
	if (ret == -ENOSPC)
		return kvt_fail(ret, NO_SLOTS);
	c->writing += !ret;
	return ret;
}

void checkpoint_run(struct pool *p)
{
	struct checkpoint *c = p->checkpoint;

	if (c->submitted)
		return;
	if (p->removed && !c->error)
		c->error = kvt_fail(-ECANCELED, "pool %s was removed meanwhile", p->t->name);
	while (!c->error && (c->nr_again || (c->at < p->nr_blocks && c->writing < WRITES_MAX))) {
		int ret = take_block(c, c->nr_again ? c->again[c->nr_again - 1] : c->at);

		if (ret == -EAGAIN)
			return;
		c->error = ret;
		if (c->nr_again)
			c->nr_again--;
		else
			c->at++;
	}
	if (c->writing)
		return;
	if (c->error) {
		end(c, c->error);
		return;
	}
	if (c->at == p->nr_blocks) {
		c->submitted = true;
		job_submit(p->d, &c->job);
	}
}

static int take_note(struct checkpoint *c, const void *note, size_t bytes)
{
	c->manifest.note = malloc(bytes + 1);
	if (!c->manifest.note)
		return -ENOMEM;
	memcpy(c->manifest.note, note, bytes);
	c->manifest.note_bytes = (uint32_t)bytes;
	return 0;
}

/* The answer comes when it is durable. */
int checkpoint_begin(struct pool *p, struct request *r, const void *note, size_t bytes,
		     bool keep_note)
{
	struct checkpoint *c;
	int ret;

	if (!(p->t->flags & KVT_SHARED_KEEP))
		return kvt_fail(-EINVAL,
				"pool %s was made without KVT_SHARED_KEEP: nothing of it stays",
				p->t->name);
	if (p->checkpoint || p->removed)
		return kvt_fail(-EBUSY, "a checkpoint of pool %s is under way", p->t->name);
	ret = p->module ? 0 : check_room(p);
	if (ret)
		return ret;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->job = (struct job){ .work = make_durable, .done = durable };
	c->pool = p;
	c->request = r;
	c->manifest.def = *p->t;
	c->manifest.def.checkpoint_s = (uint64_t)time(NULL);
	manifest_path(p->d, p->t->tenant, p->t->name, c->path, sizeof(c->path));
	c->keep_note = keep_note;
	if (take_note(c, note, bytes)) {
		free(c);
		return -ENOMEM;
	}
	p->checkpoint = c;
	if (p->module)
		c->at = p->nr_blocks;
	checkpoint_run(p);
	timer_within(p->d, &p->d->waits, 2 * NS_PER_MS);
	return 0;
}

/* ---- take back --------------------------------------------------------------------------- */

static int check_manifest(struct kvtierd *d, const struct tenant *t, const char *name,
			  const struct manifest *m)
{
	const struct table *def = &m->def;
	int ret;

	if (strcmp(def->tenant, t->name) || strcmp(def->name, name))
		return kvt_fail(-EACCES,
				"the checkpoint of %s is of pool %s of tenant %s, not of %s", name,
				def->name, def->tenant, t->name);
	if ((bool)def->module != d->module)
		return kvt_fail(-EPROTO,
				"the checkpoint of %s was made %s the module, and this daemon "
				"runs %s it",
				name, def->module ? "with" : "without",
				d->module ? "with" : "without");
	ret = tenant_room(d, t, KVTIER_TIER_NVME, def->budget[KVTIER_TIER_NVME]);
	if (ret)
		return kvt_fail(ret,
				"%s: the tenant's quota or the host's limit of NVMe does not hold "
				"the checkpoint",
				name);
	return 0;
}

static int fill_blocks(struct pool *p, const struct manifest *m)
{
	uint32_t i;

	for (i = 0; i < m->nr; i++) {
		const struct kvtier_slot *s = &m->slots[i];
		struct block *blk;

		if (s->block >= p->nr_blocks || s->slot >= p->slots.nr ||
		    block_of(p, (uint32_t)s->block)->where != W_EMPTY ||
		    kvt_slot_claim(&p->slots, (uint32_t)s->slot) ||
		    kvt_slot_share(&p->slots, (uint32_t)s->slot))
			return kvt_fail(-EINVAL,
					"the checkpoint names a block or slot twice, or one that "
					"is not there");
		blk = block_of(p, (uint32_t)s->block);
		blk->generation = s->generation;
		blk->slot = (uint32_t)s->slot;
		blk->crc = s->crc32c;
		blk->flags = s->flags ? B_SEALED : 0;
		blk->where = W_COLD;
	}
	return 0;
}

static int bring_back(struct pool *p, struct errand *e)
{
	int ret, fd = e->fd;

	if (p->module) {
		ret = device_pool_create(p);
		return ret ? ret : device_adopt(p->fd, &e->manifest);
	}
	e->fd = -1;
	ret = file_pool_restore(p, fd);
	return ret ? ret : fill_blocks(p, &e->manifest);
}

int checkpoint_restore(struct errand *e, const char *name, const char *model, struct pool **pool)
{
	struct manifest *m = &e->manifest;
	struct pool *p;
	int ret = check_manifest(e->d, e->tenant, name, m);

	if (!ret && model && strcmp(m->def.model, model))
		ret = kvt_fail(-EMEDIUMTYPE, "pool %s is of model '%s', not '%s'", name,
			       m->def.model, model);
	if (!ret)
		ret = pool_new(e->d, &m->def, e->tenant, &p);
	if (ret)
		return ret;
	ret = bring_back(p, e);
	if (ret) {
		pool_discard(p);
		return ret;
	}
	p->kept = m->slots;
	p->nr_kept = m->nr;
	m->slots = NULL;
	*pool = p;
	return 0;
}

/* After a restart: the slots that the durable manifest names stay taken. */
void checkpoint_reload_kept(struct pool *p)
{
	struct manifest m;
	char path[512];
	uint32_t i;

	manifest_path(p->d, p->t->tenant, p->t->name, path, sizeof(path));
	if (!(p->t->flags & KVT_SHARED_KEEP) || manifest_read(path, &m))
		return;
	if (m.def.instance == p->t->instance) {
		for (i = 0; i < m.nr; i++)
			if (m.slots[i].slot < p->slots.nr &&
			    kvt_slot_claim(&p->slots, (uint32_t)m.slots[i].slot))
				kvt_slot_share(&p->slots, (uint32_t)m.slots[i].slot);
		p->kept = m.slots;
		p->nr_kept = m.nr;
		p->t->checkpoint_s = m.def.checkpoint_s;
		p->t->note_bytes = m.note_bytes;
		m.slots = NULL;
	}
	manifest_free(&m);
}

/* ---- what is left of pools that nobody has ----------------------------------------------- */

static bool in_use(struct kvtierd *d, const char *tenant, const char *name)
{
	struct pool *p;

	for (p = d->pools; p; p = p->next)
		if (!strcmp(p->t->tenant, tenant) && !strcmp(p->t->name, name))
			return true;
	return false;
}

static void sweep_folder(struct kvtierd *d, const char *tenant)
{
	char path[512];
	struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/%s", d->config.state_dir, tenant);
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		char name[256], *dot;

		snprintf(name, sizeof(name), "%s", e->d_name);
		dot = strrchr(name, '.');
		if (!dot || strcmp(dot, ".slots"))
			continue;
		*dot = 0;
		manifest_path(d, tenant, name, path, sizeof(path));
		if (!access(path, F_OK) || in_use(d, tenant, name))
			continue;
		unlinkat(dirfd(dir), e->d_name, 0);
		log_line(LOG_INFO, "slots_removed",
			 "name=%s tenant=%s reason=\"no checkpoint names "
			 "them\"",
			 name, tenant);
	}
	if (dir)
		closedir(dir);
}

/* Slots of pools that were not made durable before the machine went down. */
void checkpoint_sweep(struct kvtierd *d)
{
	DIR *dir = opendir(d->config.state_dir);
	struct dirent *e;

	while (dir && (e = readdir(dir)))
		if (e->d_type == DT_DIR && e->d_name[0] != '.')
			sweep_folder(d, e->d_name);
	if (dir)
		closedir(dir);
}
