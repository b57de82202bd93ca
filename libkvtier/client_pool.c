// SPDX-License-Identifier: MIT
/* Shared pools: create, attach, remove, destroy, and their operations. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "error.h"

#define RESIZE_TRIES 30000

/* ---- operations on a memory file: requests ----------------------------------------- */

static int alive(const struct kvt_shared *s)
{
	if (!s->dead)
		return 0;
	return kvt_fail(-ECONNRESET, "pool %s was lost with its daemon", s->name);
}

static int ask_about(struct kvt_shared *s, uint16_t type, uint64_t value, void *answer, size_t room)
{
	struct kvt_pool_id id = { .value = value };
	struct kvt_ask ask = KVT_ASK_INIT(type);
	int ret = alive(s);

	if (ret)
		return ret;
	ask.pool = s;
	ask.body = &id;
	ask.bytes = sizeof(id);
	ask.answer = answer;
	ask.room = room;
	return kvt_client_ask(s->client, &ask);
}

/* What is pinned must be pinned again when a new daemon comes. */
static void note_pins(struct kvt_shared *s, uint32_t op, const struct kvtier_range *r)
{
	uint64_t first = r->offset >> s->kernel.pool.block_shift, i;
	uint64_t nr = r->length >> s->kernel.pool.block_shift;

	if (r->result || (op != KVTIER_OP_PIN && op != KVTIER_OP_UNPIN))
		return;
	if (!s->pins)
		s->pins = calloc(s->kernel.pool.bytes >> s->kernel.pool.block_shift,
				 sizeof(*s->pins));
	for (i = first; s->pins && i < first + nr; i++)
		s->pins[i] += op == KVTIER_OP_PIN ? 1 : -1;
}

static int some_ranges(struct kvt_shared *s, struct kvt_ranges *head, struct kvtier_range *ranges,
		       uint32_t nr)
{
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_RANGE_OP);
	size_t bytes = sizeof(*head) + nr * sizeof(*ranges);
	struct kvt_ranges *answer = malloc(bytes);
	uint32_t i;
	int ret;

	if (!answer)
		return -ENOMEM;
	head->nr = nr;
	ask.pool = s;
	ask.body = head;
	ask.bytes = sizeof(*head);
	ask.more = ranges;
	ask.more_bytes = nr * sizeof(*ranges);
	ask.answer = answer;
	ask.room = bytes;
	ret = kvt_client_ask(s->client, &ask);
	if (ret >= 0 && ((size_t)ret != bytes || answer->nr != nr))
		ret = kvt_fail(-EPROTO, "the daemon answers for other ranges");
	if (ret >= 0) {
		memcpy(ranges, answer->ranges, nr * sizeof(*ranges));
		ret = (int)answer->done;
		pthread_mutex_lock(&s->client->lock);
		for (i = 0; i < nr; i++)
			note_pins(s, head->op, &ranges[i]);
		pthread_mutex_unlock(&s->client->lock);
	}
	free(answer);
	return ret;
}

static int range_op(struct kvt_pool *pool, uint32_t op, uint32_t tier, uint32_t flags,
		    struct kvtier_range *ranges, uint32_t nr)
{
	struct kvt_shared *s = kvt_shared_of(pool);
	struct kvt_ranges head = { .op = op, .tier = tier, .flags = flags };
	uint32_t at, now;
	int ret = alive(s), done = 0;

	for (at = 0; !ret && at < nr; at += now) {
		now = nr - at < KVT_RANGES_MAX ? nr - at : KVT_RANGES_MAX;
		ret = some_ranges(s, &head, ranges + at, now);
		if (ret < 0)
			break;
		done += ret;
		ret = 0;
	}
	return ret ? ret : done;
}

/* Dirty blocks leave once they are written. */
static int resize(struct kvt_pool *pool, uint64_t dram_bytes)
{
	struct timespec pause = { .tv_nsec = 1000000 };
	int ret = ask_about(kvt_shared_of(pool), KVT_MSG_BUDGET, dram_bytes, NULL, 0), tries;
	struct kvtier_stats st;

	for (tries = 0; ret >= 0 && tries < RESIZE_TRIES; tries++) {
		ret = ask_about(kvt_shared_of(pool), KVT_MSG_STATS, 0, &st, sizeof(st));
		if (ret < 0 || st.tier[KVTIER_TIER_DRAM].used_bytes <= dram_bytes)
			return ret < 0 ? ret : 0;
		nanosleep(&pause, NULL);
	}
	return ret < 0 ? ret :
			 kvt_fail(-ETIMEDOUT, "what has to leave memory could not be written yet");
}

static int clone_blocks(struct kvt_pool *dst, uint64_t dst_offset, struct kvt_pool *src,
			uint64_t src_offset, uint64_t length)
{
	(void)dst, (void)dst_offset, (void)src, (void)src_offset, (void)length;
	return kvt_fail(-EOPNOTSUPP, "a shared pool without the module cannot clone: copy instead");
}

static int query(struct kvt_pool *pool, uint64_t first, uint32_t nr,
		 struct kvtier_block_info *infos)
{
	struct kvt_shared *s = kvt_shared_of(pool);
	int ret = alive(s);

	return ret ? ret : kvt_view_query(s->client, s, 0, first, nr, infos);
}

static int stats(struct kvt_pool *pool, struct kvtier_stats *st)
{
	int ret = ask_about(kvt_shared_of(pool), KVT_MSG_STATS, 0, st, sizeof(*st));

	return ret < 0 ? ret : 0;
}

static int event_fd(struct kvt_pool *pool)
{
	return kvt_shared_of(pool)->event_fd;
}

static int event_read(struct kvt_pool *pool, struct kvtier_event *events, uint32_t nr)
{
	uint32_t most = (KVT_MSG_MAX - sizeof(struct kvt_msg)) / sizeof(*events);
	char ignored[4096];
	int ret;

	nr = nr < most ? nr : most;
	if (!nr)
		return 0;
	if (read(kvt_shared_of(pool)->event_fd, ignored, sizeof(ignored)) < 0 && errno != EAGAIN)
		return kvt_fail(-errno, "the events' descriptor: %s", strerror(errno));
	ret = ask_about(kvt_shared_of(pool), KVT_MSG_EVENTS, nr, events, nr * sizeof(*events));
	return ret < 0 ? ret : ret / (int)sizeof(*events);
}

/* ---- come and go ---------------------------------------------------------------------- */

static void tear_down(struct kvt_shared *s)
{
	kvt_unmap_shared(s);
	kvt_plan_exit(&s->plan);
	kvt_asked_exit(&s->asked);
	if (s->event_fd >= 0)
		close(s->event_fd);
	if (s->kernel.fd >= 0)
		close(s->kernel.fd);
	pthread_mutex_destroy(&s->kernel.lock);
	free(s->pins);
	free(s);
}

/* Neither the daemon has it for us then, nor does our thread return it to the next one. */
static void detach(struct kvt_shared *s)
{
	struct kvt_pool_id id = { 0 };
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_DETACH);

	ask.pool = s;
	ask.leaves = true;
	ask.body = &id;
	ask.bytes = sizeof(id);
	kvt_client_ask(s->client, &ask);
}

/* In a child made by fork() the mapping is not there; its address may be another's. */
static void destroy(struct kvt_pool *pool)
{
	struct kvt_shared *s = kvt_shared_of(pool);

	if (pool->pid == getpid()) {
		detach(s);
	} else {
		pool->addr = NULL;
		s->plan.ring = NULL;
	}
	tear_down(s);
}

static const struct kvt_pager_ops file_ops = {
	.name = "daemon",
	.destroy = destroy,
	.resize = resize,
	.range_op = range_op,
	.clone = clone_blocks,
	.query = query,
	.stats = stats,
	.event_fd = event_fd,
	.event_read = event_read,
	.checkpoint = kvt_shared_slots,
	.adopt = kvt_shared_find,
};

/* The module does the work: only the end of a pool is the daemon's matter too. */
static const struct kvt_pager_ops device_ops = {
	.name = "daemon",
	.destroy = destroy,
	.resize = resize,
	.range_op = kvt_kernel_range_op,
	.clone = kvt_kernel_clone,
	.query = kvt_kernel_query,
	.stats = kvt_kernel_stats,
	.event_fd = kvt_kernel_event_fd,
	.event_read = kvt_kernel_event_read,
	.checkpoint = kvt_shared_slots,
	.adopt = kvt_shared_find,
};

bool kvt_is_shared(const struct kvt_pool *pool)
{
	return pool->ops == &file_ops || pool->ops == &device_ops;
}

static int hand_over(struct kvt_shared *s, int sock)
{
	struct kvt_map map = { .pool = s->id, .addr = (uintptr_t)s->kernel.pool.addr };
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_MAP);
	int ret;

	if (s->module)
		return 0;
	ask.body = &map;
	ask.bytes = sizeof(map);
	ask.fd = s->uffd;
	ask.pool = s;
	ret = sock < 0 ? kvt_client_ask(s->client, &ask) : kvt_client_ask_now(sock, &ask);
	return ret < 0 ? ret : 0;
}

static void adopt_opened(struct kvt_shared *s, const struct kvt_opened *o)
{
	s->id = o->pool;
	s->instance = o->instance;
	s->module = o->module;
	s->kernel.pool.ops = o->module ? &device_ops : &file_ops;
	s->kernel.pool.bytes = o->bytes;
	s->kernel.pool.block_shift = o->block_shift;
	s->kernel.pool.block_bytes = 1u << o->block_shift;
}

/* Ask for a pool, map it, and let the daemon serve its faults. */
static int open_pool(struct kvt_client *c, const struct kvt_ask *request, const char *name,
		     const char *model, struct kvt_pool **pool)
{
	struct kvt_shared *s = calloc(1, sizeof(*s));
	struct kvt_ask ask = *request;
	struct kvt_opened opened;
	int fds[KVT_MSG_FDS], ret;

	*pool = NULL;
	if (!s)
		return -ENOMEM;
	s->kernel.fd = s->event_fd = s->uffd = -1;
	s->kernel.pool.pid = getpid();
	s->client = c;
	pthread_mutex_init(&s->kernel.lock, NULL);
	kvt_plan_init(&s->plan);
	kvt_asked_init(&s->asked);
	snprintf(s->name, sizeof(s->name), "%s", name);
	snprintf(s->model, sizeof(s->model), "%s", model);
	ask.answer = &opened;
	ask.room = sizeof(opened);
	ask.fds = fds;
	ret = kvt_client_ask(c, &ask);
	if (ret < 0)
		goto fail;
	s->kernel.fd = fds[0];
	s->event_fd = fds[1];
	if (ret != sizeof(opened) || fds[0] < 0 || fds[1] < 0) {
		ret = kvt_fail(-EPROTO, "the daemon answers without the pool's descriptors");
		goto fail;
	}
	adopt_opened(s, &opened);
	ret = kvt_map_shared(s);
	if (!ret) {
		/* From here on the thread returns it, should the daemon go away. */
		pthread_mutex_lock(&c->lock);
		s->next = c->pools;
		c->pools = s;
		pthread_mutex_unlock(&c->lock);
		ret = hand_over(s, -1);
	}
	if (ret) {
		detach(s);
		goto fail;
	}
	*pool = &s->kernel.pool;
	return 0;
fail:
	tear_down(s);
	return ret;
}

static int copy_text(char *to, size_t room, const char *text, const char *what)
{
	if (!text)
		text = "";
	if (strlen(text) >= room)
		return kvt_fail(-EINVAL, "%s has at most %zu bytes", what, room - 1);
	memset(to, 0, room);
	snprintf(to, room, "%s", text);
	return 0;
}

/* One of its name, or that has what it needs, may be on its way out. */
#define LEAVING_TRIES 150
#define LEAVING_PAUSE_NS 10000000

static int open_soon(struct kvt_client *client, const struct kvt_ask *ask, const char *name,
		     const char *model, struct kvt_pool **pool)
{
	struct timespec pause = { .tv_nsec = LEAVING_PAUSE_NS };
	int ret, tries;

	for (tries = 0; (ret = open_pool(client, ask, name, model, pool)) == -EBUSY; tries++) {
		if (tries == LEAVING_TRIES)
			return ret;
		nanosleep(&pause, NULL);
	}
	return ret;
}

int kvt_shared_create(struct kvt_client *client, const struct kvt_shared_config *config,
		      struct kvt_pool **pool)
{
	struct kvt_shared_config c = KVT_SHARED_CONFIG_INIT;
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_CREATE);
	struct kvt_create create = { 0 };
	int ret;

	*pool = NULL;
	if (config->size < 16 || config->size > sizeof(c))
		return kvt_fail(-EINVAL,
				"kvt_shared_config.size is %u; this library knows %zu: "
				"start from KVT_SHARED_CONFIG_INIT",
				config->size, sizeof(c));
	memcpy(&c, config, config->size);
	ret = copy_text(create.name, sizeof(create.name), c.name, "a pool's name");
	if (!ret)
		ret = copy_text(create.model, sizeof(create.model), c.model, "a model's name");
	if (ret)
		return ret;
	if (getrandom(&create.instance, sizeof(create.instance), 0) != sizeof(create.instance))
		return kvt_fail(-errno, "no random number: %s", strerror(errno));
	create.flags = c.flags;
	create.bytes = c.bytes;
	create.block_bytes = c.block_bytes;
	create.io_deadline_ms = c.io_deadline_ms;
	create.budget[KVTIER_TIER_DRAM] = c.dram_bytes;
	create.budget[KVTIER_TIER_CXL] = c.cxl_bytes;
	create.budget[KVTIER_TIER_NVME] = c.nvme_bytes;
	ask.body = &create;
	ask.bytes = sizeof(create);
	return open_soon(client, &ask, create.name, create.model, pool);
}

int kvt_shared_attach(struct kvt_client *client, const char *name, const char *model,
		      struct kvt_pool **pool)
{
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_ATTACH);
	struct kvt_attach attach;
	int ret;

	*pool = NULL;
	ret = copy_text(attach.name, sizeof(attach.name), name, "a pool's name");
	if (!ret)
		ret = copy_text(attach.model, sizeof(attach.model), model, "a model's name");
	if (ret)
		return ret;
	ask.body = &attach;
	ask.bytes = sizeof(attach);
	return open_pool(client, &ask, attach.name, attach.model, pool);
}

int kvt_shared_remove(struct kvt_client *client, const char *name)
{
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_REMOVE);
	struct kvt_attach attach;
	int ret = copy_text(attach.name, sizeof(attach.name), name, "a pool's name");

	memset(attach.model, 0, sizeof(attach.model));
	if (ret)
		return ret;
	ask.body = &attach;
	ask.bytes = sizeof(attach);
	ret = kvt_client_ask(client, &ask);
	return ret < 0 ? ret : 0;
}

/* ---- a new daemon ------------------------------------------------------------------------ */

static int pin_again(const struct kvt_shared *s, int sock)
{
	struct kvt_ranges head = { .pool = s->id, .op = KVTIER_OP_PIN, .nr = 1 };
	struct kvtier_range range = { .length = s->kernel.pool.block_bytes };
	char answer[sizeof(head) + sizeof(range)];
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_RANGE_OP);
	uint64_t nr = s->kernel.pool.bytes >> s->kernel.pool.block_shift, b;
	uint32_t i;
	int ret = 0;

	ask.body = &head;
	ask.bytes = sizeof(head);
	ask.more = &range;
	ask.more_bytes = sizeof(range);
	ask.answer = answer;
	ask.room = sizeof(answer);
	for (b = 0; s->pins && b < nr; b++) {
		range.offset = b << s->kernel.pool.block_shift;
		for (i = 0; i < s->pins[b] && ret >= 0; i++)
			ret = kvt_client_ask_now(sock, &ask);
	}
	return ret < 0 ? ret : 0;
}

/*
 * Is it the file that we have mapped?  Memory files differ by their numbers.  The
 * device's are one file by that; a kernel without kcmp(2) is believed.
 */
static bool same_file(const struct kvt_shared *s, int fd)
{
	struct stat ours, theirs;

	if (fstat(s->kernel.fd, &ours) || fstat(fd, &theirs) || ours.st_dev != theirs.st_dev ||
	    ours.st_ino != theirs.st_ino)
		return false;
	return !s->module ||
	       syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, s->kernel.fd, fd) <= 0;
}

/* It is not ours any more: nor does the daemon keep it for us. */
static int give_up(const struct kvt_shared *s, uint32_t id, int sock)
{
	struct kvt_pool_id pool = { .pool = id };
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_DETACH);

	ask.body = &pool;
	ask.bytes = sizeof(pool);
	kvt_client_ask_now(sock, &ask);
	return kvt_fail(-ESTALE, "pool %s is another than before", s->name);
}

int kvt_shared_return(struct kvt_shared *s, int sock)
{
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_ATTACH);
	struct kvt_attach attach = { 0 };
	struct kvt_opened opened;
	int fds[KVT_MSG_FDS], ret;
	bool same;

	memcpy(attach.name, s->name, sizeof(attach.name));
	memcpy(attach.model, s->model, sizeof(attach.model));
	ask.body = &attach;
	ask.bytes = sizeof(attach);
	ask.answer = &opened;
	ask.room = sizeof(opened);
	ask.fds = fds;
	ret = kvt_client_ask_now(sock, &ask);
	if (ret < 0)
		return ret;
	same = ret == sizeof(opened) && opened.instance == s->instance && fds[0] >= 0 &&
	       same_file(s, fds[0]);
	if (fds[0] >= 0)
		close(fds[0]);
	if (fds[1] >= 0) {
		dup3(fds[1], s->event_fd, O_CLOEXEC);
		close(fds[1]);
	}
	if (!same) /* made again from its checkpoint, say: our stores would go nowhere */
		return give_up(s, opened.pool, sock);
	s->id = opened.pool;
	ret = hand_over(s, sock);
	if (!ret && !s->module)
		ret = pin_again(s, sock);
	if (!ret)
		kvt_plan_return(s, sock);
	return ret;
}

/* ---- checkpoints ------------------------------------------------------------------------- */

static int check_shared(const struct kvt_pool *pool)
{
	if (kvt_is_shared(pool))
		return 0;
	return kvt_fail(-EOPNOTSUPP, "the pool is this process's own: see kvt_shared_create()");
}

int kvt_shared_checkpoint(struct kvt_pool *pool, const void *note, size_t bytes)
{
	struct kvt_shared *s = kvt_shared_of(pool);
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_CHECKPOINT);
	struct kvt_pool_id id = { .value = 1 };
	int ret = check_shared(pool);

	if (!ret)
		ret = alive(s);
	if (ret)
		return ret;
	if (bytes > KVT_NOTE_MAX)
		return kvt_fail(-EINVAL, "a note has at most %d bytes", KVT_NOTE_MAX);
	ask.pool = s;
	ask.body = &id;
	ask.bytes = sizeof(id);
	ask.more = note;
	ask.more_bytes = bytes;
	ret = kvt_client_ask(s->client, &ask);
	return ret < 0 ? ret : 0;
}

int kvt_shared_note(struct kvt_pool *pool, void *note, size_t room)
{
	int ret = check_shared(pool);
	char *whole;

	if (ret)
		return ret;
	whole = malloc(KVT_NOTE_MAX);
	if (!whole)
		return -ENOMEM;
	ret = ask_about(kvt_shared_of(pool), KVT_MSG_NOTE, 0, whole, KVT_NOTE_MAX);
	if (ret > 0 && room)
		memcpy(note, whole, (size_t)ret < room ? (size_t)ret : room);
	free(whole);
	return ret;
}
