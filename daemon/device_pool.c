// SPDX-License-Identifier: MIT
/*
 * Pools of the module: a descriptor of /dev/kvtier, which we make and clients share.
 * Faults, budgets and victims are the module's; plans become its hints and promotions.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kvtierd.h"

#define CHECKPOINT_MAX 4096u

/* A command under way in the module. */
struct device_op {
	struct op op;
	struct kvtierd *d;
	uint32_t pool;
	uint32_t block;
	uint64_t start_ns;
	uint64_t bytes; /* 0: no promotion */
	void (*done)(struct pool *p, uint32_t block, int res); /* NULL: nobody asks */
};

static int call(int fd, unsigned long number, void *arg)
{
	int ret;

	do
		ret = ioctl(fd, number, arg) < 0 ? -errno : 0;
	while (ret == -EINTR);
	return ret;
}

int device_probe(void)
{
	struct kvtier_info info = { .size = sizeof(info) };
	int fd = open(KVTIER_DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK), ret;

	if (fd < 0)
		return -errno;
	ret = call(fd, KVTIER_IOC_INFO, &info);
	close(fd);
	return ret;
}

int device_pool_create(struct pool *p)
{
	struct kvtier_pool_create arg = {
		.size = sizeof(arg),
		/* Clients have the descriptor: its budgets are their tenant's quota. */
		.flags = KVTIER_POOL_FIXED_BUDGET |
			 (p->t->flags & KVT_SHARED_KEEP ? KVTIER_POOL_KEEP : 0),
		.bytes = p->t->bytes,
		.block_shift = p->shift,
		.io_deadline_ms = p->t->deadline_ms,
	};
	uint32_t t;
	int ret;

	for (t = KVTIER_TIER_DRAM; t <= KVTIER_TIER_NVME; t++)
		arg.budget[t].bytes = p->t->budget[t];
	snprintf(arg.name, sizeof(arg.name), "%.31s", p->t->name);
	p->fd = open(KVTIER_DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (p->fd < 0)
		return kvt_fail(-errno, KVTIER_DEVICE ": %s", strerror(errno));
	ret = call(p->fd, KVTIER_IOC_POOL_CREATE, &arg);
	if (ret == -ENOSPC)
		return kvt_fail(ret,
				"the module has not so much left to give: see /sys/class/kvtier");
	if (ret == -ENODEV)
		return kvt_fail(ret, "no store is attached: have root run `echo /dev/DISK > "
				     "/sys/class/kvtier/attach_store`");
	return ret ? kvt_fail(ret, "the module refuses the pool: %s", strerror(-ret)) : 0;
}

int device_pool_take_back(struct pool *p)
{
	struct kvtier_stats st = { .size = sizeof(st) };
	int ret = call(p->fd, KVTIER_IOC_STATS, &st);

	return ret ? kvt_fail(ret, "the descriptor is no pool: %s", strerror(-ret)) : 0;
}

void device_pool_stats(struct pool *p, struct kvtier_stats *st)
{
	memset(st, 0, sizeof(*st));
	st->size = sizeof(*st);
	call(p->fd, KVTIER_IOC_STATS, st);
}

int device_pool_query(struct pool *p, uint64_t first, uint32_t nr, struct kvtier_block_info *infos)
{
	struct kvtier_query arg = { .size = sizeof(arg), .first_block = first,
				    .infos = (uintptr_t)infos, .nr = nr };
	int ret = call(p->fd, KVTIER_IOC_QUERY, &arg);

	return ret ? kvt_fail(ret, "the module: %s", strerror(-ret)) : 0;
}

/* ---- a budget: in the second thread, since the call waits for all that has to leave --------- */

struct resize {
	struct job job; /* first */
	struct pool *pool;
	struct request *request;
	int fd;
	uint64_t bytes;
};

static int resize(struct job *job)
{
	struct resize *r = (struct resize *)job;
	struct kvtier_pool_budget arg = { .size = sizeof(arg), .tier = KVTIER_TIER_DRAM,
					  .budget.bytes = r->bytes };

	return call(r->fd, KVTIER_IOC_POOL_BUDGET, &arg);
}

/* What a pool grows by is its tenant's from the beginning, what it shrinks by up to the end. */
static void charge_growth(struct pool *p, uint64_t bytes, int sign)
{
	uint64_t old = p->t->budget[KVTIER_TIER_DRAM];

	if (bytes > old)
		tenant_charge(p->d, p->tenant, KVTIER_TIER_DRAM, sign * (int64_t)(bytes - old));
}

static void resized(struct job *job, int result)
{
	struct resize *r = (struct resize *)job;
	struct pool *p = r->pool;
	uint64_t *budget = &p->t->budget[KVTIER_TIER_DRAM];

	if (result) {
		kvt_fail(result, "the module keeps the old budget: %s", strerror(-result));
		charge_growth(p, r->bytes, -1);
	} else {
		if (r->bytes < *budget)
			tenant_charge(p->d, p->tenant, KVTIER_TIER_DRAM,
				      -(int64_t)(*budget - r->bytes));
		*budget = r->bytes;
	}
	request_end(r->request, result, NULL, 0);
	p->resizing = false;
	p->ios--;
	free(r);
	file_progress(p);
}

int device_pool_budget(struct pool *p, uint64_t bytes, struct request *request)
{
	struct resize *r;

	if (p->resizing)
		return kvt_fail(-EBUSY, "another budget of pool %s is being set", p->t->name);
	r = malloc(sizeof(*r));
	if (!r)
		return kvt_fail(-ENOMEM, "no memory for the change of a budget");
	*r = (struct resize){ .job = { .work = resize, .done = resized }, .pool = p,
			      .request = request, .fd = p->fd, .bytes = bytes };
	charge_growth(p, bytes, 1);
	p->resizing = true;
	p->ios++;
	job_submit(p->d, &r->job);
	return 0;
}


/* ---- commands through the ring ----------------------------------------------------------- */

static void command_done(struct op *op, int res)
{
	struct device_op *o = (struct device_op *)op;
	struct pool *p = pool_by_id(o->d, o->pool);

	if (o->bytes) {
		o->d->reading -= o->bytes;
		if (!res)
			prefetch_measure(o->d, o->bytes, now_ns() - o->start_ns);
	}
	if (p) {
		p->ios--;
		if (o->done)
			o->done(p, o->block, res);
		if (!res && o->bytes) {
			p->tenant->promoted_bytes += o->bytes;
			p->d->count.read_bytes += o->bytes;
		}
		file_progress(p);
	}
	free(o);
}

static struct device_op *command(struct pool *p, uint32_t op, uint32_t tier, uint32_t block,
				 uint32_t nr)
{
	struct kvtier_uring_cmd cmd = { .first_block = block, .nr_blocks = nr,
					.tier = (uint8_t)tier };
	struct device_op *o = malloc(sizeof(*o));
	struct io_uring_sqe *sqe;

	if (!o)
		return NULL;
	*o = (struct device_op){ .op.done = command_done, .d = p->d, .pool = p->id, .block = block,
				 .start_ns = now_ns() };
	if (op == KVTIER_OP_PROMOTE)
		o->bytes = (uint64_t)nr << p->shift;
	sqe = loop_sqe(p->d, &o->op);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = p->fd;
	sqe->off = op; /* cmd_op, which liburing 2.3 does not name */
	memcpy((char *)sqe + 48, &cmd, sizeof(cmd));
	io_uring_sqe_set_data(sqe, &o->op);
	p->ios++;
	p->d->reading += o->bytes;
	return o;
}

int device_command(struct pool *p, uint32_t op, uint32_t tier, uint32_t block, uint32_t nr)
{
	return command(p, op, tier, block, nr) ? 0 : -ENOMEM;
}

/* Bring a block in, which verifies it, and say how that went. */
int device_verify(struct pool *p, uint32_t block,
		  void (*done)(struct pool *p, uint32_t block, int res))
{
	struct device_op *o = command(p, KVTIER_OP_PROMOTE, KVTIER_TIER_NONE, block, 1);

	if (!o)
		return -ENOMEM;
	o->done = done;
	return 0;
}

static bool is_resident(const struct kvtier_block_info *i)
{
	return i->state == KVTIER_BLOCK_OPEN || i->state == KVTIER_BLOCK_SEALED ||
	       i->state == KVTIER_BLOCK_CLEAN;
}

/*
 * The module's victims are the blocks that were hinted cold, in their order.  So for
 * each block that is to come, one that was passed last is hinted: its next use is the
 * furthest.
 */
static void hint_one(struct plan *plan)
{
	struct pool *p = plan->a->pool;
	struct kvtier_block_info info;
	uint32_t back;

	for (back = 1; back < 64 && back < plan->nr; back++) {
		uint32_t at = plan->pos >= back ? plan->pos - back : plan->pos + plan->nr - back, b;

		if (plan->pos < back && !plan->cycle)
			return;
		b = plan->order[at];
		if (plan_next_use(p, b) <= plan->hand || device_pool_query(p, b, 1, &info))
			continue;
		if (!is_resident(&info) || info.flags & KVTIER_BLOCKF_COLD)
			continue;
		device_command(p, KVTIER_OP_COLD, KVTIER_TIER_NONE, b, 1);
		return;
	}
}

/* Asked once a turn, since it is a system call. */
bool device_has_room(struct pool *p)
{
	struct kvtier_stats st;
	uint64_t room;

	if (p->room_ns == p->d->turn_ns)
		return p->room_blocks;
	device_pool_stats(p, &st);
	room = st.tier[KVTIER_TIER_DRAM].budget_bytes - st.tier[KVTIER_TIER_DRAM].used_bytes;
	p->room_blocks = room > st.tier[KVTIER_TIER_DRAM].budget_bytes ? 0 : room >> p->shift;
	p->room_ns = p->d->turn_ns;
	return p->room_blocks;
}

bool device_pool_ahead(struct plan *plan)
{
	struct pool *p = plan->a->pool;
	struct kvtier_block_info info;
	uint32_t look, b;

	for (look = 0; look < 256; look++) {
		b = plan_block_at(plan, plan->hand);
		if (b == NO_BLOCK || device_pool_query(p, b, 1, &info))
			return false;
		plan->hand++;
		if (info.state != KVTIER_BLOCK_COLD && info.state != KVTIER_BLOCK_COLD_OPEN)
			continue;
		hint_one(plan);
		if (device_command(p, KVTIER_OP_PROMOTE, KVTIER_TIER_NONE, b, 1))
			return false;
		p->room_blocks -= p->room_blocks ? 1 : 0;
		plan->ahead += !plan->brought[b];
		plan->brought[b] = 1;
		prefetch_charge(plan);
		return true;
	}
	return false;
}

/* ---- checkpoints: in the second thread --------------------------------------------------- */

static int checkpoint_run_of(int fd, uint64_t first, uint32_t nr, uint32_t shift,
			     struct manifest *m)
{
	struct kvtier_checkpoint arg = {
		.size = sizeof(arg),
		.offset = first << shift,
		.length = (uint64_t)nr << shift,
		.slots = (uintptr_t)(m->slots + m->nr),
		.nr = nr,
	};
	int ret;

	memcpy(arg.key, m->key.key, sizeof(arg.key));
	ret = call(fd, KVTIER_IOC_CHECKPOINT, &arg);
	if (ret == -EBUSY)
		return kvt_fail(ret,
				"a block from %llu on is open: on the module a checkpoint takes "
				"sealed blocks alone",
				(unsigned long long)first);
	if (ret)
		return kvt_fail(ret, "the module cannot make blocks %llu+%u durable: %s",
				(unsigned long long)first, nr, strerror(-ret));
	memcpy(m->key.key, arg.key, sizeof(arg.key));
	memcpy(m->key.store, arg.store, sizeof(arg.store));
	m->nr += arg.nr;
	return 0;
}

int device_checkpoint(int fd, uint32_t nr_blocks, uint32_t shift, struct manifest *m)
{
	struct kvtier_block_info *infos = malloc(CHECKPOINT_MAX * sizeof(*infos));
	uint32_t at, nr, i, run;
	int ret = 0;

	m->slots = calloc(nr_blocks, sizeof(*m->slots));
	if (!infos || !m->slots)
		ret = -ENOMEM;
	for (at = 0; !ret && at < nr_blocks; at += nr) {
		struct kvtier_query q = { .size = sizeof(q), .first_block = at,
					  .infos = (uintptr_t)infos };

		nr = q.nr = nr_blocks - at < CHECKPOINT_MAX ? nr_blocks - at : CHECKPOINT_MAX;
		ret = call(fd, KVTIER_IOC_QUERY, &q);
		for (i = 0; !ret && i < nr; i += run) {
			for (run = 0; i + run < nr && infos[i + run].state != KVTIER_BLOCK_EMPTY;
			     run++)
				;
			if (run)
				ret = checkpoint_run_of(fd, at + i, run, shift, m);
			else
				run = 1;
		}
	}
	free(infos);
	return ret;
}

int device_adopt(int fd, const struct manifest *m)
{
	uint32_t at, nr;

	for (at = 0; at < m->nr; at += nr) {
		struct kvtier_adopt arg = { .size = sizeof(arg),
					    .slots = (uintptr_t)(m->slots + at) };
		int ret;

		nr = arg.nr = m->nr - at < KVTIER_ARRAY_MAX ? m->nr - at : KVTIER_ARRAY_MAX;
		memcpy(arg.key, m->key.key, sizeof(arg.key));
		memcpy(arg.store, m->key.store, sizeof(arg.store));
		ret = call(fd, KVTIER_IOC_ADOPT, &arg);
		if (ret)
			return kvt_fail(ret, "the module cannot adopt the checkpoint: %s",
					strerror(-ret));
	}
	return 0;
}

int device_release(int fd, const struct kvt_key *key)
{
	struct kvtier_release arg = { .size = sizeof(arg) };

	memcpy(arg.key, key->key, sizeof(arg.key));
	return call(fd, KVTIER_IOC_RELEASE, &arg);
}
