// SPDX-License-Identifier: MIT
/* Pools by name and number: who may make and find them, and when they end. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "kvtierd.h"

#define MIB (1ull << 20)
#define POOL_FDS 3 /* table, memory, slots */

int pool_check_name(const char *name, size_t room, const char *what)
{
	size_t i;

	for (i = 0; i < room && name[i]; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("-_.", name[i]))
			break;
	if (i && i < room && !name[i] && name[0] != '.')
		return 0;
	return kvt_fail(-EINVAL,
			"%s has 1 to %zu letters, digits, '-', '_' and '.', and does not begin "
			"with '.'",
			what, room - 1);
}

/* It is shown in lines of logs and on terminals. */
int pool_check_model(const char *model, size_t room)
{
	size_t i;

	for (i = 0; i < room && model[i] && !iscntrl((unsigned char)model[i]) && model[i] != '"';
	     i++)
		;
	if (i < room && !model[i])
		return 0;
	return kvt_fail(-EINVAL,
			"a model's name has at most %zu bytes, no quotation marks and no control "
			"characters",
			room - 1);
}

struct pool *pool_by_id(struct kvtierd *d, uint32_t id)
{
	struct pool *p;

	for (p = d->pools; p && p->id != id; p = p->next)
		;
	return p;
}

/* To others than its tenant and the administrator a pool is not there. */
int pool_visible(struct client *c, uint32_t id, struct pool **pool)
{
	struct pool *p = pool_by_id(c->d, id);

	*pool = p;
	if (p && !p->making && (c->admin || p->tenant == c->tenant))
		return 0;
	return kvt_fail(-ENOENT, "there is no pool %u", id);
}

struct pool *pool_named(struct kvtierd *d, const struct tenant *t, const char *name)
{
	struct pool *p;

	for (p = d->pools; p; p = p->next)
		if (!p->removed && p->tenant == t && !strcmp(p->t->name, name))
			break;
	return p;
}

void pool_activity(struct pool *p)
{
	p->active_ns = p->d->turn_ns;
	if (p->idle)
		p->woken_ns = p->d->turn_ns;
	p->idle = p->told_idle = false;
	if (p->module)
		device_sweep_again(p);
	timer_within(p->d, &p->d->idle_timer, p->d->config.idle_ms * NS_PER_MS);
}

static bool is_using(const struct attachment *a)
{
	const struct kvtierd *d = a->pool->d;

	return !a->told_idle && a->used_ns &&
	       d->turn_ns - a->used_ns < d->config.idle_ms * NS_PER_MS;
}

void pool_told_idle(struct attachment *a)
{
	struct pool *p = a->pool;
	const struct attachment *other;

	a->told_idle = true;
	for (other = p->attachments; other; other = other->next)
		if (is_using(other))
			return;
	p->idle = p->told_idle = true;
	if (p->module)
		device_sweep_again(p);
	writeback_kick(p->d);
}

void pool_event(struct pool *p, uint32_t type, uint32_t b, int error)
{
	struct attachment *a;
	uint32_t at;

	if (p->nr_events == POOL_EVENTS) {
		p->event_first = (p->event_first + 1) % POOL_EVENTS;
		p->nr_events--;
		p->events_lost = true;
	}
	at = (p->event_first + p->nr_events++) % POOL_EVENTS;
	p->events[at] = (struct kvtier_event){
		.time_ns = now_ns(),
		.offset = (uint64_t)b << p->shift,
		.length = p->block_bytes,
		.generation = block_of(p, b)->generation,
		.type = type,
		.error = error,
	};
	for (a = p->attachments; a; a = a->next)
		bell_ring(a->event_fd);
}

void pool_used(struct pool *p, uint64_t used[KVTIER_NR_TIERS])
{
	struct kvtier_stats st;
	uint32_t t;

	if (!p->module) {
		memset(used, 0, KVTIER_NR_TIERS * sizeof(*used));
		used[KVTIER_TIER_DRAM] = (uint64_t)p->nr_frames << p->shift;
		used[KVTIER_TIER_NVME] = (uint64_t)(p->slots.nr - p->slots.nr_free) << p->shift;
		return;
	}
	device_pool_stats(p, &st);
	for (t = 0; t < KVTIER_NR_TIERS; t++)
		used[t] = st.tier[t].used_bytes;
}

/* ---- make -------------------------------------------------------------------------------- */

static int check_sizes(const struct kvt_create *want, uint64_t block)
{
	if (!want->bytes)
		return kvt_fail(-EINVAL, "a pool of 0 bytes");
	if (block < KVT_BLOCK_MIN || block > KVT_BLOCK_MAX || block & (block - 1))
		return kvt_fail(-EINVAL,
				"block size %llu is not a power of two from %lu to %lu bytes",
				(unsigned long long)block, KVT_BLOCK_MIN, KVT_BLOCK_MAX);
	if (want->bytes > UINT64_MAX / 4 || want->bytes / block >= UINT32_MAX / 2)
		return kvt_fail(-EINVAL, "a pool of %llu MiB is too large for blocks of %llu KiB",
				(unsigned long long)(want->bytes / MIB),
				(unsigned long long)block >> 10);
	if (want->flags & ~KVT_SHARED_KEEP)
		return kvt_fail(-EINVAL, "unknown flags %#x of a pool", want->flags);
	if (want->io_deadline_ms > 3600000)
		return kvt_fail(-EINVAL, "an I/O deadline is at most 3600000 ms");
	return 0;
}

static uint64_t at_most(uint64_t value, uint64_t limit)
{
	return limit && limit < value ? limit : value;
}

/* Budgets: what was asked for, or what is sensible, in whole blocks. */
static int choose_budgets(struct client *c, const struct kvt_create *want, struct table *def)
{
	uint64_t block = 1ull << def->block_shift, least = 4 * block;
	uint64_t dram = want->budget[KVTIER_TIER_DRAM], nvme = want->budget[KVTIER_TIER_NVME];

	if (!dram || dram > def->bytes)
		dram = def->bytes;
	if (!want->budget[KVTIER_TIER_DRAM])
		dram = at_most(at_most(dram, c->tenant->quota[KVTIER_TIER_DRAM]),
			       c->d->config.limit[KVTIER_TIER_DRAM]);
	dram &= ~(block - 1);
	if (least > def->bytes)
		least = def->bytes;
	if (dram < least)
		return kvt_fail(-EINVAL,
				"a DRAM budget of %llu KiB is too small: blocks of %llu KiB need "
				"at least %llu KiB",
				(unsigned long long)dram >> 10, (unsigned long long)block >> 10,
				(unsigned long long)least >> 10);
	/* A checkpoint holds slots while their blocks are written anew elsewhere. */
	if (!nvme)
		nvme = def->bytes * (def->flags & KVT_SHARED_KEEP ? 2 : 1) + def->bytes / 8 +
		       16 * block;
	nvme = (nvme + block - 1) & ~(block - 1);
	if (nvme < def->bytes - dram + least)
		return kvt_fail(-ENOSPC,
				"%llu MiB of memory and %llu MiB of NVMe cannot hold %llu MiB",
				(unsigned long long)(dram / MIB), (unsigned long long)(nvme / MIB),
				(unsigned long long)(def->bytes / MIB));
	def->budget[KVTIER_TIER_DRAM] = dram;
	def->budget[KVTIER_TIER_CXL] = want->budget[KVTIER_TIER_CXL] & ~(block - 1);
	def->budget[KVTIER_TIER_NVME] = nvme;
	return 0;
}

static int check_tier(struct client *c, uint32_t tier, const char *name, uint64_t bytes, bool whole)
{
	struct tenant *t = c->tenant;
	uint64_t used = t->used[tier];
	int ret = tenant_room(c->d, t, tier, bytes);

	/* Memory is counted as it is used: only what can never be had is refused. */
	if (!whole) {
		ret = t->quota[tier] && bytes > t->quota[tier] ? -EDQUOT : 0;
		used = 0;
	}
	if (ret == -EDQUOT && device_left_lately(c->d, t))
		return kvt_fail(-EBUSY, "a pool of tenant %s is still on its way out: try again",
				t->name);
	if (ret == -EDQUOT)
		return kvt_fail(
			ret,
			"the pool wants %llu MiB of %s; tenant %s has used %llu of %llu MiB: "
			"lower it, or have its quota raised",
			(unsigned long long)(bytes / MIB), name, t->name,
			(unsigned long long)(used / MIB),
			(unsigned long long)(t->quota[tier] / MIB));
	if (ret)
		return kvt_fail(ret,
				"the pool wants %llu MiB of %s, more than the host's limit leaves: "
				"see [tiers] of the daemon's configuration",
				(unsigned long long)(bytes / MIB), name);
	return 0;
}

static int check_quotas(struct client *c, const struct table *def)
{
	int ret = check_tier(c, KVTIER_TIER_DRAM, "DRAM", def->budget[KVTIER_TIER_DRAM],
			     c->d->module);

	if (!ret && def->budget[KVTIER_TIER_CXL])
		ret = check_tier(c, KVTIER_TIER_CXL, "CXL memory", def->budget[KVTIER_TIER_CXL],
				 c->d->module);
	if (!ret)
		ret = check_tier(c, KVTIER_TIER_NVME, "NVMe", def->budget[KVTIER_TIER_NVME], true);
	return ret;
}

int pool_one_more(struct client *c)
{
	if (c->d->nr_pools >= c->d->config.max_pools)
		return kvt_fail(-ENOSPC, "the daemon has %u pools, its max-pools", c->d->nr_pools);
	return tenant_pool_room(c->tenant);
}

static bool has_instance(const struct kvtierd *d, uint64_t instance)
{
	const struct pool *p;

	for (p = d->pools; p && p->t->instance != instance; p = p->next)
		;
	return p;
}

/* A predecessor made it and was killed before it could say so: the client asks again. */
static bool is_asked_again(const struct pool *p, const struct kvt_create *want)
{
	return want->instance && p->t->instance == want->instance && !p->clients;
}

static int define(struct client *c, const struct kvt_create *want, struct table *def)
{
	uint64_t block = want->block_bytes;
	int ret = pool_check_name(want->name, sizeof(want->name), "a pool's name");

	if (!ret)
		ret = pool_check_model(want->model, sizeof(want->model));
	if (ret)
		return ret;
	if (!block)
		block = kvt_block_bytes_for(want->bytes, want->budget[KVTIER_TIER_DRAM]);
	ret = check_sizes(want, block);
	if (ret)
		return ret;
	memset(def, 0, sizeof(*def));
	def->block_shift = (uint32_t)__builtin_ctzll(block);
	def->bytes = (want->bytes + block - 1) & ~(block - 1);
	def->flags = want->flags;
	def->deadline_ms = want->io_deadline_ms ? want->io_deadline_ms : 30000;
	def->module = c->d->module;
	def->uid = c->uid;
	memcpy(def->name, want->name, sizeof(def->name));
	memcpy(def->model, want->model, sizeof(def->model));
	memcpy(def->tenant, c->tenant->name, sizeof(def->tenant));
	def->instance = want->instance;
	if ((!def->instance || has_instance(c->d, def->instance)) &&
	    getrandom(&def->instance, sizeof(def->instance), 0) != sizeof(def->instance))
		return -errno;
	return choose_budgets(c, want, def);
}

/* What a block of a pool of the module takes of the kernel's memory, in our name. */
#define MODULE_BLOCK_BYTES 56

/* Our own memory for it: the table, lists, counts of slots; of one that is kept, two manifests. */
static uint64_t metadata_of(const struct table *def)
{
	uint64_t blocks = def->bytes >> def->block_shift, each = MODULE_BLOCK_BYTES;

	if (!def->module)
		each = sizeof(struct block) + sizeof(*((struct pool *)0)->frames) +
		       sizeof(*((struct pool *)0)->queue);
	if (def->flags & KVT_SHARED_KEEP)
		each += 2 * sizeof(struct kvtier_slot);
	return sizeof(struct pool) + sizeof(*def) + blocks * each +
	       (def->budget[KVTIER_TIER_NVME] >> def->block_shift) * sizeof(uint16_t);
}

/* A pool that has its numbers and its table, and no memory yet. */
int pool_new(struct kvtierd *d, const struct table *def, struct tenant *t, struct pool **pool)
{
	struct table with_id = *def;
	struct pool *p;
	uint64_t metadata = metadata_of(def);
	int ret = tenant_take(d, t, metadata, POOL_FDS);

	if (ret)
		return ret;
	p = calloc(1, sizeof(*p));
	if (!p)
		goto no_memory;
	p->d = d;
	p->tenant = t;
	p->fd = p->table_fd = p->slots_fd = -1;
	p->module = def->module;
	p->shift = def->block_shift;
	p->block_bytes = 1u << p->shift;
	p->nr_blocks = (uint32_t)(def->bytes >> p->shift);
	p->id = with_id.id = ++d->last_pool;
	p->random = def->instance | 1;
	p->unkept = true;
	p->metadata_bytes = metadata;
	if (table_create(p, &with_id)) {
		free(p);
		goto no_memory;
	}
	*pool = p;
	return 0;

no_memory:
	tenant_give(t, metadata, POOL_FDS);
	return kvt_fail(-ENOMEM, "no memory for a pool's table");
}

void pool_add(struct pool *p)
{
	struct kvtierd *d = p->d;

	p->next = d->pools;
	d->pools = p;
	d->nr_pools++;
	p->tenant->pools++;
	tenant_charge(d, p->tenant, KVTIER_TIER_NVME, (int64_t)p->t->budget[KVTIER_TIER_NVME]);
	if (p->module) {
		tenant_charge(d, p->tenant, KVTIER_TIER_DRAM,
			      (int64_t)p->t->budget[KVTIER_TIER_DRAM]);
		tenant_charge(d, p->tenant, KVTIER_TIER_CXL,
			      (int64_t)p->t->budget[KVTIER_TIER_CXL]);
	}
	pool_activity(p);
}

static void store_name(const struct pool *p, char kind, char *name, size_t room)
{
	snprintf(name, room, "kvt-%016llx-%c", (unsigned long long)p->t->instance, kind);
}

/* What a successor needs goes to the service manager. */
void pool_keep(struct pool *p)
{
	const int fds[] = { p->table_fd, p->fd, p->slots_fd };
	const char kinds[] = "tds";
	char name[64];
	int i;

	p->unkept = !sd_has_room(3);
	if (p->unkept) {
		log_line(LOG_WARNING, "pool_not_kept",
			 "pool=%u name=%s tenant=%s reason=\"the service "
			 "manager has no room for its descriptors: raise FileDescriptorStoreMax=\"",
			 p->id, p->t->name, p->t->tenant);
		return;
	}
	for (i = 0; i < 3; i++) {
		store_name(p, kinds[i], name, sizeof(name));
		if (fds[i] >= 0)
			sd_store(fds[i], name);
	}
}

bool pool_is_kept(const struct pool *p)
{
	char name[64];

	store_name(p, 't', name, sizeof(name));
	name[strlen(name) - 1] = 0;
	return !p->unkept && sd_is_stored(name);
}

static void unkeep_fds(struct pool *p)
{
	char name[64];
	const char *kind;

	for (kind = p->slots_fd < 0 ? "td" : "tds"; !p->unkept && *kind; kind++) {
		store_name(p, *kind, name, sizeof(name));
		sd_unstore(name);
	}
}

/* Where a pool went another one may be kept. */
static void keep_more(struct kvtierd *d)
{
	struct pool *p;

	for (p = d->pools; p && sd_has_room(3); p = p->next)
		if (p->unkept && !p->removed && !p->making)
			pool_keep(p);
}

/* One that came to nothing, and was never shown. */
void pool_discard(struct pool *p)
{
	/* The last one: the module waits for its transfers, and frees all blocks. */
	if (p->module && p->fd >= 0)
		close_elsewhere(p->d, p->fd);
	if (!p->module)
		file_pool_destroy(p);
	if (p->table_fd >= 0)
		close(p->table_fd);
	tenant_give(p->tenant, p->metadata_bytes, POOL_FDS);
	munmap(p->t, p->table_bytes);
	free(p->kept);
	free(p);
}

int pool_make(struct client *c, const struct kvt_create *want, struct pool **pool)
{
	struct kvtierd *d = c->d;
	struct table def;
	struct pool *p;
	int ret = define(c, want, &def);

	if (ret)
		return ret;
	p = pool_named(d, c->tenant, def.name);
	if (p && is_asked_again(p, want)) {
		*pool = p;
		return 0;
	}
	if (p)
		return kvt_fail(-EEXIST, "there is a pool %s: attach it, or remove it first",
				def.name);
	devices_left(d);
	ret = pool_one_more(c);
	if (!ret)
		ret = check_quotas(c, &def);
	if (!ret)
		ret = pool_new(d, &def, c->tenant, &p);
	if (ret)
		return ret;
	ret = p->module ? device_pool_create(p) : file_pool_create(p);
	if (ret) {
		pool_discard(p);
		return ret;
	}
	p->making = true;
	pool_add(p);
	*pool = p;
	return 0;
}

/* ---- end --------------------------------------------------------------------------------- */

/* No client has it any more. */
void pool_unused(struct pool *p)
{
	if (p->d->stop && sd_has_manager())
		return; /* our successor has it */
	if (p->removed || !(p->t->flags & KVT_SHARED_KEEP))
		pool_destroy(p);
}

void pool_destroy(struct pool *p)
{
	struct kvtierd *d = p->d;
	struct pool **at;

	p->removed = true;
	if (p->ios || p->checkpoint)
		return; /* file_progress() comes here again */
	scrub_forget(d, p);
	metrics_pool_ended(p);
	unkeep_fds(p);
	log_line(LOG_INFO, "pool_destroyed", "pool=%u name=%s tenant=%s", p->id, p->t->name,
		 p->t->tenant);
	for (at = &d->pools; *at != p; at = &(*at)->next)
		;
	*at = p->next;
	d->nr_pools--;
	if (p->module) {
		device_pool_left(p);
	} else {
		p->tenant->pools--;
		tenant_charge(d, p->tenant, KVTIER_TIER_NVME,
			      -(int64_t)p->t->budget[KVTIER_TIER_NVME]);
	}
	pool_discard(p);
	keep_more(d);
}

static int check_budget(const struct pool *p, uint64_t dram_bytes)
{
	uint64_t least = 4ull << p->shift, old = p->t->budget[KVTIER_TIER_DRAM];
	uint64_t nvme = p->t->budget[KVTIER_TIER_NVME];
	int ret;

	if (least > p->t->bytes)
		least = p->t->bytes;
	if (dram_bytes < least)
		return kvt_fail(-EINVAL,
				"a DRAM budget below %llu KiB is too small for blocks of %u KiB",
				(unsigned long long)least >> 10, p->block_bytes >> 10);
	if (p->t->bytes - dram_bytes + least > nvme)
		return kvt_fail(-ENOSPC, "its %llu MiB of NVMe cannot take what has to leave DRAM",
				(unsigned long long)(nvme / MIB));
	if (dram_bytes > old && p->tenant->quota[KVTIER_TIER_DRAM] &&
	    dram_bytes > p->tenant->quota[KVTIER_TIER_DRAM])
		return kvt_fail(-EDQUOT, "tenant %s has a quota of %llu MiB of DRAM",
				p->tenant->name,
				(unsigned long long)(p->tenant->quota[KVTIER_TIER_DRAM] / MIB));
	/* The module's pools reserve their budgets; ours are counted as they fill. */
	ret = p->module && dram_bytes > old ? tenant_room(p->d, p->tenant, KVTIER_TIER_DRAM,
							  dram_bytes - old) : 0;
	if (ret)
		return kvt_fail(
			ret, "the tenant's quota or the host's limit of DRAM has not %llu MiB left",
			(unsigned long long)((dram_bytes - old) / MIB));
	return 0;
}

/* 0: @r is answered, or will be. */
int pool_budget(struct pool *p, uint64_t dram_bytes, struct request *r)
{
	int ret;

	dram_bytes &= ~(uint64_t)(p->block_bytes - 1);
	if (dram_bytes > p->t->bytes)
		dram_bytes = p->t->bytes;
	ret = check_budget(p, dram_bytes);
	if (ret)
		return ret;
	if (p->module)
		return device_pool_budget(p, dram_bytes, r);
	p->t->budget[KVTIER_TIER_DRAM] = dram_bytes;
	request_end(r, 0, NULL, 0);
	file_progress(p);
	return 0;
}

/* ---- after a restart --------------------------------------------------------------------- */

/* Descriptors of one pool, as the service manager kept them. */
struct kept {
	struct kept *next;
	uint64_t instance;
	int fds[3]; /* table, memory, slots */
};

static void take_fd(void *arg, int fd, const char *name)
{
	static const char kinds[] = "tds";
	struct kept **list = arg, *k;
	unsigned long long instance;
	const char *kind;
	char letter;

	kind = sscanf(name, "kvt-%16llx-%c", &instance, &letter) == 2 ? strchr(kinds, letter) :
									NULL;
	if (!kind) {
		close(fd);
		return;
	}
	for (k = *list; k && k->instance != instance; k = k->next)
		;
	if (!k) {
		k = calloc(1, sizeof(*k));
		if (!k) {
			close(fd);
			return;
		}
		*k = (struct kept){ .next = *list, .instance = instance, .fds = { -1, -1, -1 } };
		*list = k;
	}
	if (k->fds[kind - kinds] >= 0)
		close(k->fds[kind - kinds]);
	k->fds[kind - kinds] = fd;
}

static struct pool *open_kept(struct kvtierd *d, struct kept *k)
{
	struct pool *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->d = d;
	p->table_fd = k->fds[0];
	p->fd = k->fds[1];
	p->slots_fd = k->fds[2];
	if (table_map(p, p->table_fd) || p->t->instance != k->instance) {
		if (p->t)
			munmap(p->t, p->table_bytes);
		free(p);
		return NULL;
	}
	p->tenant = tenant_again(d, p->t->tenant, p->t->uid);
	p->random = p->t->instance | 1;
	if (!p->tenant || (p->module ? device_pool_take_back(p) : file_pool_take_back(p))) {
		munmap(p->t, p->table_bytes);
		free(p);
		return NULL;
	}
	return p;
}

static void take_back(struct kvtierd *d, struct kept *k)
{
	struct pool *p = k->fds[0] >= 0 && k->fds[1] >= 0 ? open_kept(d, k) : NULL;
	int i;

	if (!p) {
		log_line(LOG_ERROR, "pool_lost", "instance=%016llx reason=\"%s\"",
			 (unsigned long long)k->instance,
			 k->fds[0] < 0 || k->fds[1] < 0 ? "descriptors are missing" :
							  kvt_error_detail());
		for (i = 0; i < 3; i++)
			if (k->fds[i] >= 0)
				close(k->fds[i]);
		return;
	}
	p->metadata_bytes = metadata_of(p->t);
	tenant_took(p->tenant, p->metadata_bytes, POOL_FDS);
	pool_add(p);
	if (p->id > d->last_pool)
		d->last_pool = p->id;
	p->linger_until_ns = d->turn_ns + d->config.linger_ms * NS_PER_MS;
	log_line(LOG_INFO, "pool_taken_back", "pool=%u name=%s tenant=%s resident=%u", p->id,
		 p->t->name, p->t->tenant, p->nr_frames);
}

/* Before anything is opened: a descriptor that is not there would become one of ours. */
void pools_take_fds(struct kvtierd *d)
{
	sd_take_fds(take_fd, &d->kept);
}

void pools_take_back(struct kvtierd *d)
{
	struct kept *k;

	while ((k = d->kept)) {
		d->kept = k->next;
		take_back(d, k);
		free(k);
	}
}

/* Pools whose clients did not come back after a restart. */
void pools_expire(struct kvtierd *d)
{
	struct pool *p, *next;

	for (p = d->pools; p; p = next) {
		next = p->next;
		if (p->linger_until_ns && !p->clients && p->linger_until_ns <= d->turn_ns) {
			p->linger_until_ns = 0;
			pool_unused(p);
		}
	}
}
