// SPDX-License-Identifier: GPL-2.0-only
/*
 * The ioctls: one table says how large each struct is, who may call and whether there is
 * an answer; one function copies the struct in, checks its size, and copies it out.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/nospec.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "kvtier.h"

union argument {
	u32 size; /* every struct begins with it */
	struct kvtier_info info;
	struct kvtier_pool_create create;
	struct kvtier_pool_budget budget;
	struct kvtier_range_op range_op;
	struct kvtier_clone clone;
	struct kvtier_query query;
	struct kvtier_stats stats;
	struct kvtier_checkpoint checkpoint;
	struct kvtier_adopt adopt;
	struct kvtier_release release;
};

/* Does a range lie in the pool, on its blocks' borders? */
static bool in_pool(const struct kvt_pool *pool, u64 offset, u64 length)
{
	u64 mask = kvt_block_bytes(pool) - 1;

	return length && !((offset | length) & mask) && offset < pool->bytes &&
	       length <= pool->bytes - offset;
}

static int info(struct file *file, struct kvt_pool *pool, union argument *arg)
{
	struct kvtier_info *info = &arg->info;
	enum kvtier_tier tier;

	if (info->flags || info->__reserved)
		return -EINVAL;
	*info = (struct kvtier_info){
		.size = info->size,
		.abi = KVTIER_ABI_VERSION,
		.features = KVTIER_FEATURE_URING_CMD | KVTIER_FEATURE_SHARED |
			    KVTIER_FEATURE_CLONE_POOLS | KVTIER_FEATURE_PINNABLE |
			    KVTIER_FEATURE_HEAT | KVTIER_FEATURE_FIXED_BUDGET,
	};
	for (tier = KVTIER_TIER_DRAM; tier <= KVTIER_TIER_CXL; tier++) {
		info->free_bytes[tier] = kvt_tier_free(tier);
		info->nodes[tier] = kvt_tier_node_bits(tier);
	}
	info->free_bytes[KVTIER_TIER_NVME] = kvt_store_free();
	info->nodes[KVTIER_TIER_NVME] = kvt_store_bits();
	return 0;
}

static int create(struct file *file, struct kvt_pool *pool, union argument *arg)
{
	return pool ? -EEXIST : kvt_pool_create(file, &arg->create);
}

/* Who opened the file says it in its name; a descriptor goes from hand to hand. */
static bool may_set_budget(const struct file *file, const struct kvt_pool *pool)
{
	return !(pool->flags & KVTIER_POOL_FIXED_BUDGET) ||
	       uid_eq(current_euid(), file->f_cred->euid) || capable(CAP_SYS_ADMIN);
}

static int budget(struct file *file, struct kvt_pool *pool, union argument *arg)
{
	struct kvtier_pool_budget *b = &arg->budget;

	if (!may_set_budget(file, pool))
		return -EACCES;
	if (b->tier <= KVTIER_TIER_NONE || b->tier >= KVTIER_NR_TIERS || b->budget.nodes)
		return -EINVAL;
	return kvt_pool_set_budget(pool, b->tier, b->budget.bytes);
}

static int check_ranges(const struct kvt_pool *pool, const struct kvtier_range *ranges, u32 nr)
{
	u32 i;

	for (i = 0; i < nr; i++) {
		if (ranges[i].__reserved || !in_pool(pool, ranges[i].offset, ranges[i].length))
			return -EINVAL;
	}
	return 0;
}

static u32 run_ranges(struct kvt_pool *pool, const struct kvt_op *op, struct kvtier_range *ranges,
		      u32 nr)
{
	bool later = op->flags & KVTIER_OP_NOWAIT && op->op != KVTIER_OP_PIN;
	u32 i, done = 0;
	int ret = 0;

	for (i = 0; i < nr; i++) {
		u64 first = ranges[i].offset >> pool->block_shift;
		u64 blocks = ranges[i].length >> pool->block_shift;

		if (fatal_signal_pending(current))
			ret = -EINTR;
		if (ret != -EINTR)
			ret = later ? kvt_range_later(pool, op, first, blocks) :
				      kvt_range_run(pool, op, first, blocks);
		ranges[i].result = ret;
		done += !ret;
	}
	return done;
}

static int range_op(struct file *file, struct kvt_pool *pool, union argument *arg)
{
	struct kvtier_range_op *r = &arg->range_op;
	const struct kvt_op op = { .op = r->op, .tier = r->tier, .flags = r->flags };
	void __user *user = u64_to_user_ptr(r->ranges);
	struct kvtier_range *ranges;
	size_t bytes = r->nr * sizeof(*ranges);
	int ret;

	ret = kvt_range_check(pool, &op);
	if (ret || r->nr > KVTIER_ARRAY_MAX)
		return ret ? ret : -EINVAL;
	r->done = 0;
	if (!r->nr)
		return 0;
	ranges = vmemdup_user(user, bytes);
	if (IS_ERR(ranges))
		return PTR_ERR(ranges);
	ret = check_ranges(pool, ranges, r->nr);
	if (!ret && copy_to_user(user, ranges, bytes)) /* can results be told? */
		ret = -EFAULT;
	if (!ret) {
		r->done = run_ranges(pool, &op, ranges, r->nr);
		if (copy_to_user(user, ranges, bytes))
			ret = -EFAULT;
	}
	kvfree(ranges);
	return ret;
}

static int clone_from(struct kvt_pool *dst, struct file *source, struct kvtier_clone *c)
{
	struct kvt_pool *src = source->f_op == &kvt_fops ? kvt_pool_of(source) : NULL;

	if (!src)
		return -EBADF;
	if (!(source->f_mode & FMODE_READ))
		return -EACCES;
	if (src->block_shift != dst->block_shift)
		return -EXDEV;
	if (!in_pool(src, c->src_offset, c->length))
		return -EINVAL;
	return kvt_clone(dst, c->dst_offset >> dst->block_shift, src,
			 c->src_offset >> src->block_shift, c->length >> dst->block_shift,
			 &c->done);
}

static int clone(struct file *file, struct kvt_pool *pool, union argument *arg)
{
	struct kvtier_clone *c = &arg->clone;
	struct file *source;
	int ret;

	c->done = 0;
	if (c->flags || c->__reserved || !in_pool(pool, c->dst_offset, c->length))
		return -EINVAL;
	source = fget(c->src_fd);
	if (!source)
		return -EBADF;
	ret = clone_from(pool, source, c);
	c->done <<= pool->block_shift;
	fput(source);
	return ret;
}

#define QUERY_BATCH 64

static int query(struct file *file, struct kvt_pool *pool, union argument *arg)
{
	struct kvtier_query *q = &arg->query;
	struct kvtier_block_info __user *to = u64_to_user_ptr(q->infos);
	struct kvtier_block_info *infos;
	u32 i, nr, done;
	int ret = 0;

	if (q->flags || q->__reserved || q->first_block > pool->nr_blocks ||
	    q->nr > pool->nr_blocks - q->first_block)
		return -EINVAL;
	infos = kmalloc_array(QUERY_BATCH, sizeof(*infos), GFP_KERNEL);
	if (!infos)
		return -ENOMEM;
	for (done = 0; !ret && done < q->nr; done += nr) {
		nr = min_t(u32, QUERY_BATCH, q->nr - done);
		for (i = 0; i < nr; i++)
			kvt_block_info(pool, q->first_block + done + i, &infos[i]);
		if (copy_to_user(to + done, infos, nr * sizeof(*infos)))
			ret = -EFAULT;
		else if (signal_pending(current))
			ret = done + nr < q->nr ? -EINTR : 0;
		cond_resched();
	}
	kfree(infos);
	return ret;
}

static int stats(struct file *file, struct kvt_pool *pool, union argument *arg)
{
	kvt_stats(pool, &arg->stats);
	return 0;
}

static int checkpoint(struct file *file, struct kvt_pool *pool, union argument *arg)
{
	struct kvtier_checkpoint *c = &arg->checkpoint;

	if (c->flags || c->__reserved || !in_pool(pool, c->offset, c->length))
		return -EINVAL;
	return kvt_checkpoint(pool, c);
}

static int adopt(struct file *file, struct kvt_pool *pool, union argument *arg)
{
	if (arg->adopt.flags || arg->adopt.__reserved)
		return -EINVAL;
	return kvt_adopt(pool, &arg->adopt);
}

static int release(struct file *file, struct kvt_pool *pool, union argument *arg)
{
	if (arg->release.flags)
		return -EINVAL;
	return kvt_release(pool, &arg->release);
}

static const struct command {
	int (*run)(struct file *file, struct kvt_pool *pool, union argument *arg);
	u32 size; /* of the struct */
	u32 size_min; /* of version 1's */
	bool any_file; /* the file need not be a pool */
	bool read_only; /* a descriptor opened for reading will do */
	bool answers; /* the struct has output */
	bool always_out; /* ... after a failure too */
} commands[] = {
#define SIZES(type) .size = sizeof(type), .size_min = sizeof(type)
	[_IOC_NR(KVTIER_IOC_INFO)] = { info, SIZES(struct kvtier_info), .any_file = true,
				       .read_only = true, .answers = true },
	[_IOC_NR(KVTIER_IOC_POOL_CREATE)] = { create, SIZES(struct kvtier_pool_create),
					      .any_file = true, .answers = true },
	[_IOC_NR(KVTIER_IOC_POOL_BUDGET)] = { budget, SIZES(struct kvtier_pool_budget) },
	[_IOC_NR(KVTIER_IOC_RANGE_OP)] = { range_op, SIZES(struct kvtier_range_op),
					   .answers = true },
	[_IOC_NR(KVTIER_IOC_CLONE)] = { clone, SIZES(struct kvtier_clone), .answers = true,
					.always_out = true },
	[_IOC_NR(KVTIER_IOC_QUERY)] = { query, SIZES(struct kvtier_query), .read_only = true },
	[_IOC_NR(KVTIER_IOC_STATS)] = { stats, SIZES(struct kvtier_stats), .read_only = true,
					.answers = true },
	[_IOC_NR(KVTIER_IOC_CHECKPOINT)] = { checkpoint, SIZES(struct kvtier_checkpoint),
					     .answers = true },
	[_IOC_NR(KVTIER_IOC_ADOPT)] = { adopt, SIZES(struct kvtier_adopt) },
	[_IOC_NR(KVTIER_IOC_RELEASE)] = { release, SIZES(struct kvtier_release) },
};

static const struct command *find(unsigned int number)
{
	unsigned int nr = _IOC_NR(number);

	if (number != _IO(KVTIER_IOC_TYPE, nr) || nr >= ARRAY_SIZE(commands))
		return NULL;
	nr = array_index_nospec(nr, ARRAY_SIZE(commands));
	return commands[nr].run ? &commands[nr] : NULL;
}

static int copy_in(const struct command *command, union argument *arg, void __user *user,
		   u32 *size)
{
	if (get_user(*size, (u32 __user *)user))
		return -EFAULT;
	if (*size < command->size_min)
		return -EINVAL;
	if (*size > PAGE_SIZE)
		return -E2BIG;
	return copy_struct_from_user(arg, command->size, user, *size);
}

/* Also before anything is done: an answer that cannot be given is no reason to undo it. */
static int copy_out(const struct command *command, union argument *arg, void __user *user,
		    u32 size)
{
	if (!command->answers)
		return 0;
	arg->size = size;
	return copy_to_user(user, arg, min(size, command->size)) ? -EFAULT : 0;
}

/* A call that makes a key has no effect if nobody can be told the key. */
static bool makes_key(const struct command *command, const union argument *arg)
{
	return command->run == checkpoint && !memchr_inv(arg->checkpoint.key, 0, KVTIER_KEY_BYTES);
}

long kvt_ioctl(struct file *file, unsigned int number, unsigned long user)
{
	const struct command *command = find(number);
	struct kvt_pool *pool = kvt_pool_of(file);
	void __user *at = (void __user *)user;
	union argument arg = {};
	bool new_key;
	u32 size;
	int ret;

	if (!command)
		return -ENOTTY;
	if (!pool && !command->any_file)
		return -ENXIO;
	if (!command->read_only && !(file->f_mode & FMODE_WRITE))
		return -EACCES;
	ret = copy_in(command, &arg, at, &size);
	if (!ret)
		ret = copy_out(command, &arg, at, size);
	if (ret)
		return ret;
	new_key = makes_key(command, &arg);
	ret = command->run(file, pool, &arg);
	if (ret && !command->always_out)
		return ret;
	if (!copy_out(command, &arg, at, size))
		return ret;
	if (new_key)
		kvt_unreserve(pool, arg.checkpoint.key);
	return -EFAULT;
}
