// SPDX-License-Identifier: MIT
/*
 * Plans: entries into the ring, and how far the client has come.
 *
 * The last plan is kept, because a new daemon's ring is empty: it is published again
 * from where the client is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "error.h"

#define RING_ENTRIES 4096u
#define MARKS 3u /* new, cycle, flush */

void kvt_plan_init(struct kvt_plan *plan)
{
	pthread_mutex_init(&plan->lock, NULL);
	plan->doorbell = -1;
}

static void drop_ring(struct kvt_plan *plan)
{
	if (plan->ring)
		munmap(plan->ring, plan->bytes);
	if (plan->doorbell >= 0)
		close(plan->doorbell);
	plan->ring = NULL;
	plan->doorbell = -1;
	plan->head = 0;
}

void kvt_plan_exit(struct kvt_plan *plan)
{
	drop_ring(plan);
	free(plan->last);
	pthread_mutex_destroy(&plan->lock);
}

static int map_ring(struct kvt_plan *plan, int fds[], uint32_t entries)
{
	size_t bytes =
		sizeof(struct kvt_plan_ring) + (size_t)entries * sizeof(struct kvt_plan_entry);
	void *ring = MAP_FAILED;
	int error = EPROTO;

	if (fds[0] >= 0 && fds[1] >= 0) {
		ring = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
		error = errno;
	}
	if (fds[0] >= 0)
		close(fds[0]);
	if (ring == MAP_FAILED) {
		if (fds[1] >= 0)
			close(fds[1]);
		return kvt_fail(-error, "cannot map a plan's ring: %s", strerror(error));
	}
	plan->ring = ring;
	plan->bytes = bytes;
	plan->doorbell = fds[1];
	plan->entries = entries;
	plan->head = 0;
	return 0;
}

/* A ring with room for @nr entries, over @sock or as any request. */
static int make_ring(struct kvt_shared *s, uint64_t nr, int sock)
{
	struct kvt_plan *plan = &s->plan;
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_PLAN);
	struct kvt_pool_id id = { .pool = s->id };
	uint32_t entries = RING_ENTRIES;
	int fds[KVT_MSG_FDS], ret;

	while (entries < nr)
		entries *= 2;
	id.value = entries;
	ask.pool = s;
	ask.body = &id;
	ask.bytes = sizeof(id);
	ask.fds = fds;
	ret = sock < 0 ? kvt_client_ask(s->client, &ask) : kvt_client_ask_now(sock, &ask);
	if (ret < 0)
		return ret;
	drop_ring(plan);
	return map_ring(plan, fds, entries);
}

static void put_entry(struct kvt_plan *plan, uint32_t block, uint32_t nr)
{
	struct kvt_plan_entry *e = &plan->ring->entry[plan->head++ & (plan->entries - 1)];

	e->block = block;
	e->nr = nr;
}

/* Write what is to come into the ring; there is room. */
static void put_plan(struct kvt_plan *plan, const struct kvt_plan_entry *entries, uint64_t nr,
		     uint32_t flags)
{
	uint64_t i;

	if (nr && !entries)
		return;
	if (!(flags & KVT_PLAN_APPEND)) {
		plan->passed = 0;
		__atomic_store_n(&plan->ring->passed, 0, __ATOMIC_RELEASE);
		put_entry(plan, KVT_PLAN_NEW, 0);
	}
	for (i = 0; i < nr; i++)
		put_entry(plan, entries[i].block, entries[i].nr);
	if (flags & KVT_PLAN_REPEAT)
		put_entry(plan, KVT_PLAN_CYCLE, 0);
	put_entry(plan, KVT_PLAN_FLUSH, 0);
	__atomic_store_n(&plan->ring->head, plan->head, __ATOMIC_RELEASE);
	eventfd_write(plan->doorbell, 1);
}

static uint64_t room(const struct kvt_plan *plan)
{
	uint64_t tail = __atomic_load_n(&plan->ring->tail, __ATOMIC_ACQUIRE);

	return plan->head - tail <= plan->entries ? plan->entries - (plan->head - tail) : 0;
}

static int check_plan(const struct kvt_pool *pool, const struct kvt_plan_range *ranges, uint32_t nr,
		      uint32_t flags)
{
	uint64_t mask = pool->block_bytes - 1;
	uint32_t i;

	if (!kvt_is_shared(pool))
		return -EOPNOTSUPP;
	if (flags & ~(KVT_PLAN_REPEAT | KVT_PLAN_APPEND))
		return kvt_fail(-EINVAL, "unknown flags %#x of a plan", flags);
	if (nr > KVT_PLAN_ENTRIES_MAX - MARKS)
		return kvt_fail(-EINVAL, "a plan has at most %u ranges",
				KVT_PLAN_ENTRIES_MAX - MARKS);
	for (i = 0; i < nr; i++) {
		const struct kvt_plan_range *r = &ranges[i];

		if (((r->offset | r->length) & mask) || !r->length || r->offset >= pool->bytes ||
		    r->length > pool->bytes - r->offset)
			return kvt_fail(-EINVAL,
					"range %u of the plan (offset %llu, length %llu) is not "
					"of whole blocks inside the pool of %llu bytes",
					i, (unsigned long long)r->offset,
					(unsigned long long)r->length,
					(unsigned long long)pool->bytes);
	}
	return 0;
}

/* Keep the plan for a new daemon; what is passed of one that does not repeat may go. */
static int remember(struct kvt_shared *s, const struct kvt_plan_range *ranges, uint32_t nr,
		    uint32_t flags)
{
	struct kvt_plan *plan = &s->plan;
	uint32_t shift = s->kernel.pool.block_shift, i;
	uint64_t old = flags & KVT_PLAN_APPEND ? plan->nr_last : 0;
	struct kvt_plan_entry *last;

	if (old + nr > KVT_PLAN_ENTRIES_MAX - MARKS)
		return kvt_fail(-EAGAIN, "a plan has at most %u ranges: publish a new one",
				KVT_PLAN_ENTRIES_MAX - MARKS);
	if (old + nr > plan->room_last) {
		last = realloc(plan->last, 2 * (old + nr) * sizeof(*last));
		if (!last)
			return -ENOMEM;
		plan->last = last;
		plan->room_last = 2 * (old + nr);
	}
	for (i = 0; i < nr; i++)
		plan->last[old + i] =
			(struct kvt_plan_entry){ (uint32_t)(ranges[i].offset >> shift),
						 (uint32_t)(ranges[i].length >> shift) };
	plan->nr_last = old + nr;
	plan->cycle = flags & KVT_PLAN_REPEAT || (old && plan->cycle);
	return 0;
}

int kvt_plan_publish(struct kvt_pool *pool, const struct kvt_plan_range *ranges, uint32_t nr,
		     uint32_t flags)
{
	struct kvt_shared *s = kvt_shared_of(pool);
	struct kvt_plan *plan = &s->plan;
	int ret = check_plan(pool, ranges, nr, flags);
	uint64_t need;

	if (ret)
		return ret;
	pthread_mutex_lock(&plan->lock);
	if (plan->ring && __atomic_load_n(&plan->ring->error, __ATOMIC_ACQUIRE))
		drop_ring(plan);
	if (plan->ring && plan->entries >= nr + MARKS && room(plan) < nr + MARKS)
		ret = kvt_fail(-EAGAIN, "the daemon has not taken the last ranges yet");
	if (!ret)
		ret = remember(s, ranges, nr, flags);
	if (ret)
		goto unlock;
	need = (flags & KVT_PLAN_APPEND ? plan->nr_last : nr) + MARKS;
	if (!plan->ring || plan->entries < nr + MARKS)
		ret = make_ring(s, need, -1);
	else
		need = nr + MARKS;
	if (!ret) {
		/* A new ring knows nothing of what these are to be appended to. */
		uint64_t put = need - MARKS, passed = plan->passed;
		bool whole = put != nr;

		put_plan(plan, plan->last + plan->nr_last - put, put,
			 whole ? (plan->cycle ? KVT_PLAN_REPEAT : 0) : flags);
		if (whole) {
			plan->passed = passed;
			__atomic_store_n(&plan->ring->passed, passed, __ATOMIC_SEQ_CST);
		}
	}
unlock:
	pthread_mutex_unlock(&plan->lock);
	return ret;
}

int kvt_plan_passed(struct kvt_pool *pool, uint64_t nr)
{
	struct kvt_plan *plan = &kvt_shared_of(pool)->plan;

	if (!kvt_is_shared(pool))
		return -EOPNOTSUPP;
	pthread_mutex_lock(&plan->lock);
	plan->passed += nr;
	if (plan->ring) {
		__atomic_store_n(&plan->ring->passed, plan->passed, __ATOMIC_SEQ_CST);
		if (plan->passed >= __atomic_load_n(&plan->ring->wake_at, __ATOMIC_SEQ_CST))
			eventfd_write(plan->doorbell, 1);
	}
	pthread_mutex_unlock(&plan->lock);
	return 0;
}

static int taken(struct kvt_plan *plan)
{
	int ret = 0;

	pthread_mutex_lock(&plan->lock);
	if (plan->ring) {
		ret = __atomic_load_n(&plan->ring->error, __ATOMIC_ACQUIRE);
		if (!ret && __atomic_load_n(&plan->ring->tail, __ATOMIC_ACQUIRE) != plan->head)
			ret = -EAGAIN;
	}
	pthread_mutex_unlock(&plan->lock);
	return ret;
}

int kvt_plan_wait(struct kvt_pool *pool, uint32_t timeout_ms)
{
	struct timespec pause = { .tv_nsec = 200000 }, t;
	uint64_t now, until;
	int ret;

	if (!kvt_is_shared(pool))
		return -EOPNOTSUPP;
	clock_gettime(CLOCK_MONOTONIC, &t);
	until = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000 + timeout_ms;
	do {
		ret = taken(&kvt_shared_of(pool)->plan);
		if (!ret)
			return 0;
		if (ret == -EDQUOT || ret == -E2BIG)
			return kvt_fail(
				ret,
				"the plan names more positions than the daemon keeps%s: publish "
				"less at once",
				ret == -EDQUOT ? " for this tenant" : "");
		if (ret != -EAGAIN)
			return kvt_fail(-EBADMSG,
					"the daemon refused the plan: an entry is malformed or "
					"outside the pool; publish another");
		nanosleep(&pause, NULL);
		clock_gettime(CLOCK_MONOTONIC, &t);
		now = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
	} while (now < until);
	return kvt_fail(-ETIMEDOUT, "the daemon has not taken the plan within %u ms", timeout_ms);
}

int kvt_plan_idle(struct kvt_pool *pool)
{
	struct kvt_shared *s = kvt_shared_of(pool);
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_IDLE);
	struct kvt_pool_id id = { 0 };
	int ret;

	if (!kvt_is_shared(pool))
		return -EOPNOTSUPP;
	ask.pool = s;
	ask.body = &id;
	ask.bytes = sizeof(id);
	ret = kvt_client_ask(s->client, &ask);
	return ret < 0 ? ret : 0;
}

/*
 * The new daemon knows no plan: publish ours again.  A thread in kvt_plan_publish()
 * may hold the lock and wait for us; then it makes the ring itself.
 */
void kvt_plan_return(struct kvt_shared *s, int sock)
{
	struct kvt_plan *plan = &s->plan;
	uint64_t passed;

	if (pthread_mutex_trylock(&plan->lock))
		return;
	passed = plan->passed;
	if (plan->ring && !make_ring(s, plan->nr_last + MARKS, sock) && plan->ring) {
		put_plan(plan, plan->last, plan->nr_last, plan->cycle ? KVT_PLAN_REPEAT : 0);
		plan->passed = passed;
		__atomic_store_n(&plan->ring->passed, passed, __ATOMIC_SEQ_CST);
		eventfd_write(plan->doorbell, 1);
	}
	pthread_mutex_unlock(&plan->lock);
}
