// SPDX-License-Identifier: GPL-2.0-only
/*
 * Range operations of workers: io_uring commands and KVTIER_OP_NOWAIT.
 *
 * A request belongs to a worker until it is done.  A command may end sooner: when it is
 * cancelled, or its ring or its process goes, it is answered at once (ECANCELED), and the
 * worker, which may be waiting for a disk, stops at its next block.  The first answer
 * counts; a pin whose answer came too late is undone.
 *
 * io_uring passes a cancellation on to its own workers alone (IOSQE_ASYNC).  One of these
 * waits for the request like a caller, and a signal tells it.
 */
#include <linux/completion.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "kvtier.h"

#define LATER_MAX (2 * KVTIER_ARRAY_MAX) /* requests of a pool that nobody waits for */

/* Bits of kvt_request.flags. */
enum request_bit {
	ANSWERED, /* whoever sets it tells the result */
	CANCELLED, /* the worker is to stop */
};

struct kvt_request {
	struct kref ref; /* the worker's, and that of a command or of who waits */
	struct work_struct work;
	struct kvt_pool *pool; /* the worker's reference */
	struct io_uring_cmd *cmd; /* NULL: somebody waits for it, or nobody */
	struct task_struct *task; /* that of the command; NULL: KVTIER_OP_NOWAIT */
	struct kvt_op op;
	u64 first, nr;
	unsigned long flags; /* enum request_bit */
	int result; /* by whom ANSWERED is set */
	struct completion answered;
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

/* false: there was an answer already. */
static bool answer(struct kvt_request *request, int result)
{
	if (test_and_set_bit(ANSWERED, &request->flags))
		return false;
	request->result = result;
	if (request->cmd) {
		in_cmd(request->cmd)->result = result;
		io_uring_cmd_complete_in_task(request->cmd, complete_in_task);
	}
	complete_all(&request->answered);
	return true;
}

bool kvt_request_ended(const struct kvt_request *request)
{
	return test_bit(CANCELLED, &request->flags) || READ_ONCE(request->pool->dying) ||
	       (request->task && request->task->signal->flags & SIGNAL_GROUP_EXIT);
}

/* Who was told ECANCELED has no pin to take back. */
static void undo(const struct kvt_request *request)
{
	const struct kvt_op unpin = { .op = KVTIER_OP_UNPIN };

	if (request->op.op == KVTIER_OP_PIN)
		kvt_range_run(request->pool, &unpin, request->first, request->nr);
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
	if (!answer(request, result) && !result)
		undo(request);
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
	init_completion(&request->answered);
	kref_get(&pool->ref);
	request->pool = pool;
	request->op = *op;
	request->op.request = request;
	request->first = first;
	request->nr = nr;
	return request;
}

/* What waits for room never keeps from its turn what makes it. */
static void enqueue(struct kvt_request *request)
{
	bool brings = request->op.op == KVTIER_OP_PROMOTE || request->op.op == KVTIER_OP_PIN;

	queue_work(request->pool->wq[brings ? KVT_QUEUE_BRING : KVT_QUEUE_OTHER], &request->work);
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
	enqueue(request);
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
	if (kvt_uring_flags(cmd) || to->__reserved)
		return -EINVAL;
	if (!to->nr_blocks || to->first_block >= pool->nr_blocks ||
	    to->nr_blocks > pool->nr_blocks - to->first_block)
		return -EINVAL;
	return 0;
}

/* One that no worker has begun never will. */
static void cancel(struct kvt_request *request, int error)
{
	struct kvt_pool *pool = request->pool;

	set_bit(CANCELLED, &request->flags);
	answer(request, error);
	if (cancel_work(&request->work)) {
		request_put(request);
		kvt_pool_put(pool);
	}
}

/* Half an UNPIN cannot be told from a whole one. */
static bool may_be_cancelled(const struct kvt_request *request)
{
	return request->op.op != KVTIER_OP_UNPIN;
}

/* Called by a worker of io_uring's, which a cancellation or the end of the ring notifies. */
static int wait_for(struct kvt_request *request)
{
	bool by_signal;
	int result;

	if (may_be_cancelled(request) && wait_for_completion_interruptible(&request->answered)) {
		by_signal = task_sigpending(current) && !fatal_signal_pending(current);
		cancel(request, by_signal ? -EINTR : -ECANCELED);
	}
	wait_for_completion(&request->answered);
	result = request->result;
	request_put(request);
	return result;
}

static int begin(struct io_uring_cmd *cmd, unsigned int issue_flags, struct kvt_pool *pool,
		 const struct kvt_op *op, const struct kvtier_uring_cmd *arg)
{
	struct kvt_request *request = request_new(pool, op, arg->first_block, arg->nr_blocks);
	bool wait = !(issue_flags & IO_URING_F_NONBLOCK);

	if (!request)
		return -ENOMEM;
	kref_get(&request->ref);
	request->task = get_task_struct(current);
	if (!wait) {
		request->cmd = cmd;
		in_cmd(cmd)->request = request;
		if (may_be_cancelled(request))
			kvt_uring_mark_cancelable(cmd, issue_flags);
	}
	enqueue(request);
	return wait ? wait_for(request) : -EIOCBQUEUED;
}

int kvt_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct kvt_pool *pool = kvt_pool_of(cmd->file);
	struct kvtier_uring_cmd arg;
	struct kvt_op op;
	int ret;

	if (issue_flags & KVT_URING_F_CANCEL) {
		cancel(in_cmd(cmd)->request, -ECANCELED);
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
