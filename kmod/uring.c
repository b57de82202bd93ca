// SPDX-License-Identifier: GPL-2.0-only
/*
 * Range operations that nobody waits for: io_uring commands and KVTIER_OP_NOWAIT.
 *
 * A request belongs to a worker until it is done.  A command may end sooner: when its
 * ring or its process goes, it is completed at once (ECANCELED), and the worker, which
 * may be waiting for a disk, stops at its next block.  Whoever takes the command out of
 * the request completes it.
 */
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "kvtier.h"

#define LATER_MAX (2 * KVTIER_ARRAY_MAX) /* requests of a pool that nobody waits for */

struct kvt_request {
	struct kref ref; /* the worker's and the command's */
	struct work_struct work;
	struct kvt_pool *pool; /* the worker's reference */
	struct io_uring_cmd *cmd; /* NULL: KVTIER_OP_NOWAIT, or completed; xchg() to take it */
	struct task_struct *task; /* that of the command; NULL: KVTIER_OP_NOWAIT */
	struct kvt_op op;
	u64 first, nr;
	bool cancelled;
};

/* In io_uring's room for its commands. */
struct in_cmd {
	struct kvt_request *request;
	int result;
};

static struct in_cmd *in_cmd(struct io_uring_cmd *cmd)
{
	BUILD_BUG_ON(sizeof(struct in_cmd) > sizeof(cmd->pdu));
	return (struct in_cmd *)cmd->pdu;
}

static void request_free(struct kref *ref)
{
	struct kvt_request *request = container_of(ref, struct kvt_request, ref);

	if (request->task)
		put_task_struct(request->task);
	kfree(request);
}

static void request_put(struct kvt_request *request)
{
	kref_put(&request->ref, request_free);
}

/* A cancellation may look at the request as long as the command is not done. */
static KVT_URING_TASK(complete_in_task)
{
	KVT_URING_TASK_BEGIN(cmd, issue_flags);
	struct kvt_request *request = in_cmd(cmd)->request;

	kvt_uring_done(cmd, in_cmd(cmd)->result, issue_flags);
	request_put(request);
}

static void complete_cmd(struct kvt_request *request, int result)
{
	struct io_uring_cmd *cmd = xchg(&request->cmd, NULL);

	if (!cmd)
		return;
	in_cmd(cmd)->result = result;
	io_uring_cmd_complete_in_task(cmd, complete_in_task);
}

bool kvt_request_ended(const struct kvt_request *request)
{
	return READ_ONCE(request->cancelled) || READ_ONCE(request->pool->dying) ||
	       (request->task && request->task->signal->flags & SIGNAL_GROUP_EXIT);
}

static void work(struct work_struct *work)
{
	struct kvt_request *request = container_of(work, struct kvt_request, work);
	struct kvt_pool *pool = request->pool;
	int result = -ECANCELED;

	if (!kvt_request_ended(request))
		result = kvt_range_run(pool, &request->op, request->first, request->nr);
	if (!request->task)
		atomic_dec(&pool->nr_later);
	complete_cmd(request, result);
	request_put(request);
	kvt_pool_put(pool);
}

static struct kvt_request *request_new(struct kvt_pool *pool, const struct kvt_op *op, u64 first,
				       u64 nr)
{
	struct kvt_request *request = kzalloc(sizeof(*request), GFP_KERNEL_ACCOUNT);

	if (!request)
		return NULL;
	kref_init(&request->ref);
	INIT_WORK(&request->work, work);
	kref_get(&pool->ref);
	request->pool = pool;
	request->op = *op;
	request->op.request = request;
	request->first = first;
	request->nr = nr;
	return request;
}

int kvt_range_later(struct kvt_pool *pool, const struct kvt_op *op, u64 first, u64 nr)
{
	struct kvt_request *request = NULL;
	int ret = kvt_range_look(pool, op, first, nr);

	if (ret)
		return ret;
	if (atomic_inc_return(&pool->nr_later) <= LATER_MAX)
		request = request_new(pool, op, first, nr);
	if (!request) {
		atomic_dec(&pool->nr_later);
		return -ENOMEM;
	}
	queue_work(pool->wq, &request->work);
	return 0;
}

static bool zero(const u8 *bytes, size_t nr)
{
	return !memchr_inv(bytes, 0, nr);
}

/* What the command asks for, copied: user space may change it meanwhile. */
static int parse(struct io_uring_cmd *cmd, unsigned int issue_flags, struct kvt_pool *pool,
		 struct kvtier_uring_cmd *to)
{
	const u8 *payload = kvt_uring_payload(cmd);

	memcpy(to, payload, sizeof(*to));
	if (issue_flags & IO_URING_F_SQE128 && !zero(payload + sizeof(*to), 80 - sizeof(*to)))
		return -EINVAL;
	if (to->__reserved || !to->nr_blocks || to->first_block >= pool->nr_blocks ||
	    to->nr_blocks > pool->nr_blocks - to->first_block)
		return -EINVAL;
	return 0;
}

/* One that no worker has begun never will. */
static void cancel(struct kvt_request *request)
{
	struct kvt_pool *pool = request->pool;

	WRITE_ONCE(request->cancelled, true);
	complete_cmd(request, -ECANCELED);
	if (cancel_work(&request->work)) {
		request_put(request);
		kvt_pool_put(pool);
	}
}

static int begin(struct io_uring_cmd *cmd, unsigned int issue_flags, struct kvt_pool *pool,
		 const struct kvt_op *op, const struct kvtier_uring_cmd *arg)
{
	struct kvt_request *request = request_new(pool, op, arg->first_block, arg->nr_blocks);

	if (!request)
		return -ENOMEM;
	kref_get(&request->ref);
	request->task = get_task_struct(current);
	request->cmd = cmd;
	in_cmd(cmd)->request = request;
	kvt_uring_mark_cancelable(cmd, issue_flags);
	queue_work(pool->wq, &request->work);
	return -EIOCBQUEUED;
}

int kvt_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct kvt_pool *pool = kvt_pool_of(cmd->file);
	struct kvtier_uring_cmd arg;
	struct kvt_op op;
	int ret;

	if (issue_flags & KVT_URING_F_CANCEL) {
		cancel(in_cmd(cmd)->request);
		return 0;
	}
	if (!pool)
		return -ENXIO;
	if (!(cmd->file->f_mode & FMODE_WRITE))
		return -EACCES;
	ret = parse(cmd, issue_flags, pool, &arg);
	if (ret)
		return ret;
	op = (struct kvt_op){ .op = cmd->cmd_op, .tier = arg.tier, .flags = arg.flags };
	ret = kvt_range_check(pool, &op);
	if (ret)
		return ret;
	if (op.flags & KVTIER_OP_NOWAIT && op.op != KVTIER_OP_PIN)
		return kvt_range_later(pool, &op, arg.first_block, arg.nr_blocks);
	return begin(cmd, issue_flags, pool, &op, &arg);
}
