// SPDX-License-Identifier: GPL-2.0-only
/* Range operations that nobody waits for: io_uring commands and KVTIER_OP_NOWAIT. */
#include <linux/slab.h>

#include "kvtier.h"

struct kvt_request {
	struct work_struct work;
	struct kvt_pool *pool;
	struct io_uring_cmd *cmd; /* NULL: KVTIER_OP_NOWAIT */
	struct kvt_op op;
	u64 first, nr;
	int result;
};

/* In io_uring's room for its commands. */
struct in_cmd {
	struct kvt_request *request;
};

static struct in_cmd *in_cmd(struct io_uring_cmd *cmd)
{
	BUILD_BUG_ON(sizeof(struct in_cmd) > sizeof(cmd->pdu));
	return (struct in_cmd *)cmd->pdu;
}

static KVT_URING_TASK(complete_in_task)
{
	KVT_URING_TASK_BEGIN(cmd, issue_flags);
	struct kvt_request *request = in_cmd(cmd)->request;
	int result = request->result;

	kfree(request);
	kvt_uring_done(cmd, result, issue_flags);
}

static void work(struct work_struct *work)
{
	struct kvt_request *request = container_of(work, struct kvt_request, work);
	struct kvt_pool *pool = request->pool;

	request->result = kvt_range_run(pool, &request->op, request->first, request->nr);
	if (request->cmd)
		io_uring_cmd_complete_in_task(request->cmd, complete_in_task);
	else
		kfree(request);
	kvt_pool_put(pool);
}

static struct kvt_request *request_new(struct kvt_pool *pool, const struct kvt_op *op, u64 first,
				   u64 nr)
{
	struct kvt_request *request = kzalloc(sizeof(*request), GFP_KERNEL);

	if (!request)
		return NULL;
	INIT_WORK(&request->work, work);
	kref_get(&pool->ref);
	request->pool = pool;
	request->op = *op;
	request->first = first;
	request->nr = nr;
	return request;
}

int kvt_range_later(struct kvt_pool *pool, const struct kvt_op *op, u64 first, u64 nr)
{
	struct kvt_request *request = request_new(pool, op, first, nr);

	if (!request)
		return -ENOMEM;
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

int kvt_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct kvt_pool *pool = kvt_pool_of(cmd->file);
	struct kvtier_uring_cmd arg;
	struct kvt_request *request;
	struct kvt_op op;
	int ret;

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
	request = request_new(pool, &op, arg.first_block, arg.nr_blocks);
	if (!request)
		return -ENOMEM;
	request->cmd = cmd;
	in_cmd(cmd)->request = request;
	queue_work(pool->wq, &request->work);
	return -EIOCBQUEUED;
}
