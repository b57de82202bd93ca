// SPDX-License-Identifier: GPL-2.0-only
/* What read() and poll() on a pool's descriptor tell: a bounded queue, oldest first. */
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "kvtier.h"

#define EVENTS 256 /* a power of two */

struct kvt_event_ring {
	u32 first, nr; /* pool->event_lock, as all here */
	bool lost;
	struct kvtier_event event[EVENTS];
};

int kvt_event_init(struct kvt_pool *pool)
{
	pool->events = kvzalloc(sizeof(*pool->events), GFP_KERNEL_ACCOUNT);
	return pool->events ? 0 : -ENOMEM;
}

void kvt_event_exit(struct kvt_pool *pool)
{
	kvfree(pool->events);
}

static void queue(struct kvt_pool *pool, const struct kvtier_event *event)
{
	struct kvt_event_ring *ring = pool->events;
	unsigned long flags;

	spin_lock_irqsave(&pool->event_lock, flags);
	if (ring->nr == EVENTS) {
		ring->first = (ring->first + 1) % EVENTS;
		ring->nr--;
		ring->lost = true;
	}
	ring->event[(ring->first + ring->nr++) % EVENTS] = *event;
	spin_unlock_irqrestore(&pool->event_lock, flags);
	wake_up_poll(&pool->event_wait, EPOLLIN | EPOLLRDNORM);
}

void kvt_event(struct kvt_pool *pool, u32 type, int error, u64 nr, u64 blocks, u64 generation)
{
	const struct kvtier_event event = {
		.time_ns = ktime_get_ns(),
		.offset = nr << pool->block_shift,
		.length = blocks << pool->block_shift,
		.generation = generation,
		.type = type,
		.error = error,
	};

	queue(pool, &event);
}

void kvt_event_node(struct kvt_pool *pool, u32 tier, s32 node)
{
	const struct kvtier_event event = {
		.time_ns = ktime_get_ns(),
		.type = KVTIER_EVENT_NODE_OFFLINE,
		.tier = tier,
		.node = node,
	};

	queue(pool, &event);
}

static bool take(struct kvt_pool *pool, struct kvtier_event *event)
{
	struct kvt_event_ring *ring = pool->events;
	bool got = false;

	spin_lock_irq(&pool->event_lock);
	if (ring->lost) {
		*event = (struct kvtier_event){
			.time_ns = ktime_get_ns(),
			.type = KVTIER_EVENT_OVERFLOW,
		};
		ring->lost = false;
		got = true;
	} else if (ring->nr) {
		*event = ring->event[ring->first];
		ring->first = (ring->first + 1) % EVENTS;
		ring->nr--;
		got = true;
	}
	spin_unlock_irq(&pool->event_lock);
	return got;
}

/* An event that was taken and could not be told. */
static void lose(struct kvt_pool *pool)
{
	spin_lock_irq(&pool->event_lock);
	pool->events->lost = true;
	spin_unlock_irq(&pool->event_lock);
}

static bool waiting(struct kvt_pool *pool)
{
	return READ_ONCE(pool->events->nr) || READ_ONCE(pool->events->lost);
}

ssize_t kvt_event_read(struct file *file, char __user *to, size_t bytes, loff_t *pos)
{
	struct kvt_pool *pool = kvt_pool_of(file);
	struct kvtier_event event;
	size_t done = 0;

	if (!pool)
		return -ENXIO;
	if (!(file->f_mode & FMODE_WRITE))
		return -EACCES;
	if (bytes < sizeof(event))
		return -EINVAL;
	while (bytes - done >= sizeof(event)) {
		if (!take(pool, &event)) {
			if (done)
				break;
			if (file->f_flags & O_NONBLOCK)
				return -EAGAIN;
			if (wait_event_interruptible(pool->event_wait, waiting(pool)))
				return -EINTR;
			continue;
		}
		if (copy_to_user(to + done, &event, sizeof(event))) {
			lose(pool);
			return done ? done : -EFAULT;
		}
		done += sizeof(event);
	}
	return done;
}

__poll_t kvt_event_poll(struct file *file, struct poll_table_struct *wait)
{
	struct kvt_pool *pool = kvt_pool_of(file);

	if (!pool)
		return EPOLLERR;
	poll_wait(file, &pool->event_wait, wait);
	return file->f_mode & FMODE_WRITE && waiting(pool) ? EPOLLIN | EPOLLRDNORM : 0;
}
