// SPDX-License-Identifier: MIT
/*
 * Messages: one table says what each must have, one place checks it.  A handler returns
 * 0 and has answered, or will; or a negative errno with its detail, which is answered
 * for it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "device_fd.h"
#include "kvtierd.h"

struct call {
	struct client *c;
	const struct kvt_msg *msg;
	const void *body;
	size_t bytes;
	int *fds; /* a handler that keeps one sets it to -1 */
	int nr_fds;
};

static int answer(struct call *call, const void *body, size_t bytes)
{
	client_reply(call->c, call->msg->type, call->msg->id, 0, body, bytes, NULL, 0);
	return 0;
}

static int pool_of(struct call *call, struct pool **p)
{
	return pool_visible(call->c, ((const struct kvt_pool_id *)call->body)->pool, p);
}

static int hello(struct call *call)
{
	const struct kvt_hello *h = call->body;
	struct kvt_hello mine = { .version = KVT_PROTOCOL_VERSION, .module = call->c->d->module };

	if (h->version != KVT_PROTOCOL_VERSION)
		return kvt_fail(-EPROTO, "the client speaks version %u, this daemon %d", h->version,
				KVT_PROTOCOL_VERSION);
	call->c->hello = true;
	snprintf(mine.tenant, sizeof(mine.tenant), "%s", call->c->tenant->name);
	return answer(call, &mine, sizeof(mine));
}

/* ---- pools ------------------------------------------------------------------------------- */

static int create(struct call *call)
{
	return pool_create(call->c, call->msg, call->body);
}

static int attach(struct call *call)
{
	const struct kvt_attach *want = call->body;
	int ret = pool_check_name(want->name, sizeof(want->name), "a pool's name");

	if (!ret)
		ret = pool_check_model(want->model, sizeof(want->model));
	return ret ? ret : pool_attach(call->c, call->msg, want);
}

static int map(struct call *call)
{
	const struct kvt_map *m = call->body;
	struct attachment *a = attachment_of(call->c, m->pool);
	int ret;

	if (!a)
		return -ENOENT;
	if (call->nr_fds != 1)
		return kvt_fail(-EINVAL, "a mapping comes with its userfaultfd");
	if (a->pool->module)
		return kvt_fail(-EINVAL, "a pool of the module needs no userfaultfd");
	if (a->uffd >= 0 && a->addr == m->addr)
		return answer(call, NULL, 0); /* asked again: its answer was lost with a daemon */
	ret = file_pool_map(a, call->fds[0], m->addr);
	if (ret)
		return ret;
	call->fds[0] = -1;
	return answer(call, NULL, 0);
}

static int detach(struct call *call)
{
	struct attachment *a =
		attachment_of(call->c, ((const struct kvt_pool_id *)call->body)->pool);

	if (!a)
		return -ENOENT;
	attachment_free(a);
	return answer(call, NULL, 0);
}

static int drop(struct call *call)
{
	const struct kvt_attach *want = call->body;
	int ret = pool_check_name(want->name, sizeof(want->name), "a pool's name");

	return ret ? ret : pool_remove(call->c, call->msg, want->name);
}

static int range_op(struct call *call)
{
	const struct kvt_ranges *r = call->body;
	struct attachment *a = attachment_of(call->c, r->pool);

	if (!a)
		return -ENOENT;
	if (call->bytes != sizeof(*r) + (uint64_t)r->nr * sizeof(r->ranges[0]))
		return kvt_fail(-EINVAL, "a message of %zu bytes cannot hold %u ranges",
				call->bytes, r->nr);
	if (a->pool->module)
		return kvt_fail(-EOPNOTSUPP, "ask the module itself, on the pool's descriptor");
	return file_range_op(call->c, call->msg, r, a);
}

static int query(struct call *call)
{
	static struct kvtier_block_info infos[KVT_INFOS_MAX];
	const struct kvt_query_msg *q = call->body;
	struct pool *p;
	int ret = pool_visible(call->c, q->pool, &p);

	if (ret)
		return ret;
	if (q->nr > KVT_INFOS_MAX || q->first > p->nr_blocks || q->nr > p->nr_blocks - q->first)
		return kvt_fail(-EINVAL, "blocks %llu+%u: the pool has %u, a message room for %zu",
				(unsigned long long)q->first, q->nr, p->nr_blocks,
				(size_t)KVT_INFOS_MAX);
	ret = p->module ? device_pool_query(p, q->first, q->nr, infos) :
			  file_pool_query(p, q->first, q->nr, infos);
	return ret ? ret : answer(call, infos, q->nr * sizeof(infos[0]));
}

/* All blocks are looked at: of a large pool that has a tenth of our time, however often it is asked. */
#define COUNT_PART 10u
#define COUNT_MANY 65536u

static void count_again(struct pool *p)
{
	uint64_t begun = now_ns();

	if (p->shown_ns && !p->module && p->nr_blocks >= COUNT_MANY &&
	    begun - p->shown_ns < COUNT_PART * p->shown_took_ns)
		return;
	if (p->module)
		device_pool_stats(p, &p->shown);
	else
		file_pool_stats(p, &p->shown);
	p->shown_ns = now_ns();
	p->shown_took_ns = p->shown_ns - begun;
}

static int stats(struct call *call)
{
	struct pool *p;
	int ret = pool_of(call, &p);

	if (!ret)
		count_again(p);
	return ret ? ret : answer(call, &p->shown, sizeof(p->shown));
}

static int events(struct call *call)
{
	const struct kvt_pool_id *id = call->body;
	struct attachment *a = attachment_of(call->c, id->pool);
	struct kvtier_event out[POOL_EVENTS + 1];
	uint32_t nr = 0;
	struct pool *p;

	if (!a)
		return -ENOENT;
	p = a->pool;
	if (p->events_lost && id->value) {
		out[nr++] = (struct kvtier_event){ .time_ns = now_ns(),
						   .type = KVTIER_EVENT_OVERFLOW };
		p->events_lost = false;
	}
	while (nr < id->value && p->nr_events) {
		out[nr++] = p->events[p->event_first];
		p->event_first = (p->event_first + 1) % POOL_EVENTS;
		p->nr_events--;
	}
	return answer(call, out, nr * sizeof(out[0]));
}

static int plan(struct call *call)
{
	const struct kvt_pool_id *id = call->body;
	struct attachment *a = attachment_of(call->c, id->pool);
	int fds[2], ret;

	if (!a)
		return -ENOENT;
	ret = plan_ring_make(a, id->value, fds);
	if (ret)
		return ret;
	client_reply(call->c, call->msg->type, call->msg->id, 0, NULL, 0, fds, 2);
	close(fds[0]);
	return 0;
}

static int attention(struct call *call)
{
	const struct kvt_pool_id *id = call->body;
	struct attachment *a = attachment_of(call->c, id->pool);
	int fds[3], ret;

	if (!a)
		return -ENOENT;
	ret = attend_ring_make(a, id->value, fds);
	if (ret)
		return ret;
	client_reply(call->c, call->msg->type, call->msg->id, 0, NULL, 0, fds, 3);
	close(fds[0]);
	close(fds[2]);
	return 0;
}

static int checkpoint(struct call *call)
{
	const struct kvt_pool_id *id = call->body;
	struct request *r;
	struct pool *p;
	int ret = pool_of(call, &p);

	if (ret)
		return ret;
	if (call->bytes - sizeof(*id) > KVT_NOTE_MAX)
		return kvt_fail(-EINVAL, "a note has at most %d bytes", KVT_NOTE_MAX);
	ret = request_begin(call->c, call->msg, &r);
	if (ret)
		return ret;
	ret = checkpoint_begin(p, r, id + 1, call->bytes - sizeof(*id), !id->value);
	if (!ret)
		return 0;
	request_end(r, ret, NULL, 0);
	return 0;
}

static int note(struct call *call)
{
	struct pool *p;
	int ret = pool_of(call, &p);

	return ret ? ret : pool_note(call->c, call->msg, p);
}

static int idle(struct call *call)
{
	struct attachment *a =
		attachment_of(call->c, ((const struct kvt_pool_id *)call->body)->pool);

	if (!a)
		return -ENOENT;
	if (a->plan) /* its bell may be heard after this, and is no turn */
		plan_catch_up(a->plan);
	pool_told_idle(a);
	return answer(call, NULL, 0);
}

/* ---- what an operator sees and sets ------------------------------------------------------ */

static int status(struct call *call)
{
	struct kvtierd *d = call->c->d;
	struct kvt_daemon_status st = {
		.uptime_ms = (now_ns() - d->started_ns) / NS_PER_MS,
		.pid = (uint32_t)getpid(),
		.clients = d->nr_clients,
		.pools = d->nr_pools,
	};
	struct tenant *t;

	for (t = d->tenants; t; t = t->next)
		st.tenants++;
	snprintf(st.version, sizeof(st.version), "%s", kvt_version());
	snprintf(st.backend, sizeof(st.backend), "%s", d->module ? "module" : "user");
	return answer(call, &st, sizeof(st));
}

/* A list's page: entries that are wanted are put behind one another. */
struct page {
	struct kvt_list head;
	char entries[KVT_MSG_MAX - sizeof(struct kvt_msg) - sizeof(struct kvt_list)];
};

static struct page page;

static void *page_entry(const struct kvt_list *want, size_t each)
{
	uint32_t at = page.head.total++;

	if (at < want->first || (page.head.nr + 1) * each > sizeof(page.entries))
		return NULL;
	return memset(page.entries + page.head.nr++ * each, 0, each);
}

static int answer_page(struct call *call, size_t each)
{
	return answer(call, &page, sizeof(page.head) + page.head.nr * each);
}

static void show_pool(const struct pool *p, struct kvt_daemon_pool *out)
{
	const struct attachment *a;
	uint64_t now = now_ns();
	int device;

	out->id = p->id;
	out->clients = p->clients;
	memcpy(out->name, p->t->name, sizeof(out->name));
	memcpy(out->tenant, p->t->tenant, sizeof(out->tenant));
	memcpy(out->model, p->t->model, sizeof(out->model));
	out->bytes = p->t->bytes;
	out->block_bytes = p->block_bytes;
	out->idle_ms = (now - p->active_ns) / NS_PER_MS;
	out->flags = p->t->flags | (pool_is_kept(p) ? KVT_POOL_OUTLIVES : 0);
	out->checkpoint = UINT32_MAX;
	if (p->t->checkpoint_s)
		out->checkpoint = (uint32_t)((uint64_t)time(NULL) - p->t->checkpoint_s);
	for (a = p->attachments; a; a = a->next)
		out->plan_left += plan_left(a->plan);
	memcpy(out->budget, p->t->budget, sizeof(out->budget));
	pool_used((struct pool *)p, out->used);
	device = p->module ? kvt_device_pool((uint32_t)getpid(), p->fd) : -1;
	if (device >= 0)
		snprintf(out->device, sizeof(out->device), "pool%d", device);
}

static int pools(struct call *call)
{
	struct pool *p;

	page.head = (struct kvt_list){ 0 };
	for (p = call->c->d->pools; p; p = p->next) {
		struct kvt_daemon_pool *out;

		if (p->removed || (!call->c->admin && p->tenant != call->c->tenant))
			continue;
		out = page_entry(call->body, sizeof(*out));
		if (out)
			show_pool(p, out);
	}
	return answer_page(call, sizeof(struct kvt_daemon_pool));
}

static int tenants(struct call *call)
{
	struct tenant *t;

	page.head = (struct kvt_list){ 0 };
	for (t = call->c->d->tenants; t; t = t->next) {
		struct kvt_daemon_tenant *out;

		if (!call->c->admin && t != call->c->tenant)
			continue;
		out = page_entry(call->body, sizeof(*out));
		if (!out)
			continue;
		memcpy(out->name, t->name, sizeof(out->name));
		out->pools = t->pools;
		out->clients = t->clients;
		out->weight = t->weight;
		memcpy(out->quota, t->quota, sizeof(out->quota));
		memcpy(out->used, t->used, sizeof(out->used));
		out->promoted_bytes = t->promoted_bytes;
		out->waits = t->waits;
	}
	return answer_page(call, sizeof(struct kvt_daemon_tenant));
}

static int tiers(struct call *call)
{
	struct kvtierd *d = call->c->d;
	uint32_t tier;

	page.head = (struct kvt_list){ 0 };
	for (tier = KVTIER_TIER_DRAM; tier <= KVTIER_TIER_NVME; tier++) {
		struct kvt_daemon_tier *out;

		if (tier == KVTIER_TIER_CXL && d->config.cxl_node < 0)
			continue;
		out = page_entry(call->body, sizeof(*out));
		if (!out)
			continue;
		out->tier = tier;
		out->node = KVTIER_NO_NODE;
		out->limit = d->config.limit[tier];
		out->used = d->used[tier];
		if (tier != KVTIER_TIER_NVME)
			continue;
		snprintf(out->where, sizeof(out->where), "%.127s", d->config.state_dir);
		out->read_bytes = d->count.read_bytes;
		out->written_bytes = d->count.write_bytes;
		out->read_bytes_per_s = d->bandwidth;
		out->read_latency_ns = d->latency_ns;
		out->errors = d->count.io_errors;
	}
	return answer_page(call, sizeof(struct kvt_daemon_tier));
}

static int need_admin(struct call *call)
{
	if (call->c->admin)
		return 0;
	return kvt_fail(-EPERM, "only root and the daemon's own user may do that");
}

static int quota(struct call *call)
{
	const struct kvt_quota *q = call->body;
	int ret = need_admin(call);
	struct tenant *t;

	if (ret)
		return ret;
	if (!memchr(q->tenant, 0, sizeof(q->tenant)) || q->zero || q->tier < KVTIER_TIER_DRAM ||
	    q->tier > KVTIER_TIER_NVME)
		return kvt_fail(-EINVAL, "a quota is of dram, cxl or nvme and of a named tenant");
	t = tenant_named(call->c->d, q->tenant);
	if (!t)
		return kvt_fail(-ENOENT, "there is no tenant %s", q->tenant);
	t->quota[q->tier] = q->bytes;
	log_line(LOG_INFO, "quota_set", "tenant=%s tier=%u bytes=%llu", t->name, q->tier,
		 (unsigned long long)q->bytes);
	return answer(call, NULL, 0);
}

static int budget(struct call *call)
{
	struct request *r;
	struct pool *p;
	int ret = pool_of(call, &p);

	if (!ret)
		ret = request_begin(call->c, call->msg, &r);
	if (ret)
		return ret;
	ret = pool_budget(p, ((const struct kvt_pool_id *)call->body)->value, r);
	if (ret)
		request_end(r, ret, NULL, 0);
	return 0;
}

static int scrub(struct call *call)
{
	struct pool *p = NULL;
	int ret = ((const struct kvt_pool_id *)call->body)->pool ? pool_of(call, &p) :
								   need_admin(call);

	if (!ret)
		ret = scrub_begin(call->c->d, p);
	return ret ? ret : answer(call, NULL, 0);
}

static int scrub_status(struct call *call)
{
	return answer(call, &call->c->d->scrub.result, sizeof(call->c->d->scrub.result));
}

/* ---- the table --------------------------------------------------------------------------- */

static const struct handler {
	int (*handle)(struct call *call);
	size_t least, most; /* bytes of the body */
} handlers[KVT_MSG_TYPES] = {
	[KVT_MSG_HELLO] = { hello, sizeof(struct kvt_hello), sizeof(struct kvt_hello) },
	[KVT_MSG_CREATE] = { create, sizeof(struct kvt_create), sizeof(struct kvt_create) },
	[KVT_MSG_ATTACH] = { attach, sizeof(struct kvt_attach), sizeof(struct kvt_attach) },
	[KVT_MSG_MAP] = { map, sizeof(struct kvt_map), sizeof(struct kvt_map) },
	[KVT_MSG_DETACH] = { detach, sizeof(struct kvt_pool_id), sizeof(struct kvt_pool_id) },
	[KVT_MSG_REMOVE] = { drop, sizeof(struct kvt_attach), sizeof(struct kvt_attach) },
	[KVT_MSG_RANGE_OP] = { range_op, sizeof(struct kvt_ranges), KVT_MSG_MAX },
	[KVT_MSG_QUERY] = { query, sizeof(struct kvt_query_msg), sizeof(struct kvt_query_msg) },
	[KVT_MSG_STATS] = { stats, sizeof(struct kvt_pool_id), sizeof(struct kvt_pool_id) },
	[KVT_MSG_EVENTS] = { events, sizeof(struct kvt_pool_id), sizeof(struct kvt_pool_id) },
	[KVT_MSG_PLAN] = { plan, sizeof(struct kvt_pool_id), sizeof(struct kvt_pool_id) },
	[KVT_MSG_CHECKPOINT] = { checkpoint, sizeof(struct kvt_pool_id), KVT_MSG_MAX },
	[KVT_MSG_NOTE] = { note, sizeof(struct kvt_pool_id), sizeof(struct kvt_pool_id) },
	[KVT_MSG_IDLE] = { idle, sizeof(struct kvt_pool_id), sizeof(struct kvt_pool_id) },
	[KVT_MSG_STATUS] = { status, 0, 0 },
	[KVT_MSG_POOLS] = { pools, sizeof(struct kvt_list), sizeof(struct kvt_list) },
	[KVT_MSG_TENANTS] = { tenants, sizeof(struct kvt_list), sizeof(struct kvt_list) },
	[KVT_MSG_TIERS] = { tiers, sizeof(struct kvt_list), sizeof(struct kvt_list) },
	[KVT_MSG_QUOTA] = { quota, sizeof(struct kvt_quota), sizeof(struct kvt_quota) },
	[KVT_MSG_BUDGET] = { budget, sizeof(struct kvt_pool_id), sizeof(struct kvt_pool_id) },
	[KVT_MSG_SCRUB] = { scrub, sizeof(struct kvt_pool_id), sizeof(struct kvt_pool_id) },
	[KVT_MSG_SCRUB_STATUS] = { scrub_status, 0, 0 },
	[KVT_MSG_ATTEND] = { attention, sizeof(struct kvt_pool_id), sizeof(struct kvt_pool_id) },
};

static int dispatch(struct call *call)
{
	const struct handler *h;

	if (call->msg->type >= KVT_MSG_TYPES || !handlers[call->msg->type].handle)
		return kvt_fail(-ENOTTY, "there is no message of type %u", call->msg->type);
	h = &handlers[call->msg->type];
	if (call->bytes < h->least || call->bytes > h->most)
		return kvt_fail(-EINVAL, "a message of type %u has %zu to %zu bytes, not %zu",
				call->msg->type, h->least, h->most, call->bytes);
	if (!call->c->hello && call->msg->type != KVT_MSG_HELLO)
		return kvt_fail(-EPROTO, "a connection begins with hello");
	return h->handle(call);
}

void client_message(struct client *c, const struct kvt_msg *msg, const int *fds, int nr_fds)
{
	struct call call = {
		.c = c,
		.msg = msg,
		.body = msg + 1,
		.bytes = msg->size - sizeof(*msg),
		.fds = (int *)fds,
		.nr_fds = nr_fds,
	};
	int ret;

	kvt_fail(0, "%s", "");
	ret = dispatch(&call);
	if (!ret)
		return;
	c->d->count.refused++;
	log_line(LOG_DEBUG, "request_refused", "pid=%d tenant=%s type=%u error=%d reason=\"%s\"",
		 c->pid, c->tenant->name, msg->type, ret, kvt_error_detail());
	client_reply(c, msg->type, msg->id, ret, NULL, 0, NULL, 0);
}

/* ---- the socket -------------------------------------------------------------------------- */

/* In a turn: who connects without end is not all that we do. */
#define ACCEPTS_MAX 64
#define ACCEPT_AGAIN_NS (100 * NS_PER_MS)

static void accept_ready(void *arg)
{
	struct kvtierd *d = arg;
	int sock, left;

	for (left = ACCEPTS_MAX; left; left--) {
		sock = accept4(d->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (sock < 0)
			break;
		client_accept(d, sock);
	}
	if (!left)
		timer_within(d, &d->accept_timer, 0);
	else if (errno != EAGAIN) /* out of descriptors, say: nothing tells us of new ones */
		timer_within(d, &d->accept_timer, ACCEPT_AGAIN_NS);
}

void control_accept(struct kvtierd *d)
{
	accept_ready(d);
}

int control_open(struct kvtierd *d)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };

	snprintf(to.sun_path, sizeof(to.sun_path), "%s", d->config.socket);
	unlink(to.sun_path); /* of a daemon that was killed: main.c has its lock */
	d->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (d->listen_fd < 0 || bind(d->listen_fd, (struct sockaddr *)&to, sizeof(to)) ||
	    chmod(to.sun_path, d->config.socket_mode) || listen(d->listen_fd, 4096))
		return kvt_fail(-errno, "%s: cannot listen there: %s", to.sun_path,
				strerror(errno));
	d->listen_watch = watch_start(d, d->listen_fd, accept_ready, d);
	return d->listen_watch ? 0 : -ENOMEM;
}

void control_close(struct kvtierd *d)
{
	struct client *c;

	for (c = d->clients; c; c = c->next)
		client_close(c, "the daemon ends");
	watch_stop(d->listen_watch);
	d->listen_watch = NULL;
	if (d->listen_fd >= 0) {
		close(d->listen_fd);
		unlink(d->config.socket);
	}
	d->listen_fd = -1;
}
