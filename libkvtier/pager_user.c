// SPDX-License-Identifier: MIT
/* The user pager's loop, and how a pool comes and goes. */
#define _GNU_SOURCE
#include <errno.h>
#include <numa.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "error.h"
#include "user.h"
#include "vma.h"

#define RING_ENTRIES 256
#define PAGER_NICE (-10)

#define IDLE_NS 500000000ll /* nothing waits: only to publish and to see stalls */
#define RETRY_NS 1000000ll /* something waits for a frame, or for a pin to go */

uint64_t kvt_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void watch(struct kvt_user *u, int fd, uint64_t tag)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	if (!sqe)
		return;
	io_uring_prep_poll_multishot(sqe, fd, POLLIN);
	io_uring_sqe_set_data64(sqe, tag);
}

static void handle_cqe(struct kvt_user *u, const struct io_uring_cqe *cqe)
{
	eventfd_t ignored;

	switch (cqe->user_data) {
	case KVT_TAG_FAULTS:
		if (!(cqe->flags & IORING_CQE_F_MORE))
			watch(u, u->uffd.fd, KVT_TAG_FAULTS);
		break;
	case KVT_TAG_WAKE:
		eventfd_read(u->wake_fd, &ignored);
		if (!(cqe->flags & IORING_CQE_F_MORE))
			watch(u, u->wake_fd, KVT_TAG_WAKE);
		break;
	case KVT_TAG_SYNC:
		kvt_user_sync_done(u, cqe->res);
		break;
	default:
		kvt_user_io_done(u, (uint32_t)cqe->user_data, cqe->res);
	}
}

/* A finished transfer leaves room for the next, which need not wait for our checks. */
static void keep_device_busy(struct kvt_user *u)
{
	kvt_user_fetches(u);
	kvt_user_prefetch(u);
	if (io_uring_sq_ready(&u->ring))
		io_uring_submit(&u->ring);
}

/* A thread that waits matters more than a transfer that is done: look in between. */
static void reap(struct kvt_user *u)
{
	struct io_uring_cqe *cqe;

	kvt_user_faults(u);
	while (!io_uring_peek_cqe(&u->ring, &cqe)) {
		struct io_uring_cqe copy = *cqe;

		io_uring_cqe_seen(&u->ring, cqe);
		handle_cqe(u, &copy);
		kvt_user_faults(u);
		keep_device_busy(u);
	}
}

static void sleep_until_event(struct kvt_user *u)
{
	bool retry = u->nr_waits || u->active || u->fetch_blocked || u->agains;
	struct __kernel_timespec ts = { .tv_nsec = u->more_faults ? 0 :
						   retry	   ? RETRY_NS :
								     IDLE_NS };
	struct io_uring_cqe *cqe;

	io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &ts, NULL);
}

static bool stopped(struct kvt_user *u)
{
	bool stop;

	pthread_mutex_lock(&u->lock);
	stop = u->stop;
	pthread_mutex_unlock(&u->lock);
	return stop;
}

/* Transfers under way use the frames: wait for them before anything is unmapped. */
static void drain(struct kvt_user *u)
{
	u->ending = true;
	while (u->reads + u->writes || u->syncing) {
		kvt_user_io_again(u, u->now_ns);
		sleep_until_event(u);
		reap(u);
	}
}

static void *pager_thread(void *arg)
{
	struct kvt_user *u = arg;

	prctl(PR_SET_NAME, "kvtier-pager");
	/* Whoever faults waits for this thread; without the right to it, it does without. */
	setpriority(PRIO_PROCESS, (id_t)gettid(), PAGER_NICE);
	watch(u, u->uffd.fd, KVT_TAG_FAULTS);
	watch(u, u->wake_fd, KVT_TAG_WAKE);
	while (!stopped(u)) {
		sleep_until_event(u);
		u->now_ns = kvt_now_ns();
		reap(u);
		kvt_user_take_commands(u);
		kvt_user_run_commands(u);
		kvt_user_fetches(u);
		kvt_user_serve(u);
		kvt_user_balance(u);
		kvt_user_prefetch(u);
		kvt_user_io_again(u, u->now_ns);
		kvt_user_io_deadlines(u, u->now_ns);
		kvt_user_stat_publish(u, false);
	}
	kvt_user_cancel_commands(u);
	drain(u);
	return NULL;
}

static int start_thread(struct kvt_user *u)
{
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&u->thread, NULL, pager_thread, u);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ret ? kvt_fail(-ret, "cannot start the pager's thread: %s", strerror(ret)) : 0;
}

static int check_node(const struct kvt_config *c)
{
	if (!c->cxl_bytes)
		return 0;
	if (numa_available() < 0 || c->cxl_node > numa_max_node() ||
	    numa_node_size64(c->cxl_node, NULL) <= 0)
		return kvt_fail(-ENODEV,
				"NUMA node %d has no memory here: `numactl -H` lists the nodes",
				c->cxl_node);
	return 0;
}

static int init_blocks(struct kvt_user *u, const struct kvt_config *c)
{
	uint32_t b;

	u->blocks = calloc(u->nr_blocks, sizeof(*u->blocks));
	u->hints = calloc(u->nr_blocks, sizeof(*u->hints));
	if (!u->blocks || !u->hints)
		return -ENOMEM;
	for (b = 0; b < u->nr_blocks; b++) {
		u->blocks[b].slot = KVT_SLOT_NONE;
		u->blocks[b].place = KVT_PLACE_NONE;
	}
	return kvt_slots_init(&u->slots, (uint32_t)(c->nvme_bytes >> u->pool.block_shift));
}

/*
 * Copying into new pages needs one frame for the moment that both exist; a pool
 * that never evicts cannot set one aside and exceeds its budget by it then.
 */
static uint32_t dram_frames(const struct kvt_user *u, const struct kvt_config *c)
{
	uint32_t frames = (uint32_t)(c->dram_bytes >> u->pool.block_shift);

	return u->uffd.can_move || frames == u->nr_blocks || !c->nvme_path ? frames : frames - 1;
}

static int init_arenas(struct kvt_user *u, const struct kvt_config *c)
{
	uint32_t cxl = (uint32_t)(c->cxl_bytes >> u->pool.block_shift);
	uint32_t t;
	int ret;

	ret = kvt_arena_init(&u->arena[KVTIER_TIER_DRAM], u->pool.block_bytes, u->nr_blocks,
			     dram_frames(u, c), -1);
	if (!ret && cxl)
		ret = kvt_arena_init(&u->arena[KVTIER_TIER_CXL], u->pool.block_bytes, cxl, cxl,
				     c->cxl_node);
	for (t = KVTIER_TIER_DRAM; !ret && t <= KVTIER_TIER_CXL; t++) {
		const struct kvt_arena *a = &u->arena[t];

		if (a->nr_places)
			ret = kvt_uffd_register(&u->uffd, a->base,
						(size_t)a->nr_places * a->block_bytes, false);
	}
	return ret;
}

static int init_pool_memory(struct kvt_user *u)
{
	int ret;

	ret = kvt_vma_map(u->pool.bytes, u->pool.block_bytes, "kvtier-pool", &u->mapping,
			  &u->mapping_bytes, (void **)&u->pool.addr);
	return ret ? ret : kvt_uffd_register(&u->uffd, u->pool.addr, u->pool.bytes, true);
}

static int init_ring(struct kvt_user *u)
{
	int ret = io_uring_queue_init(RING_ENTRIES, &u->ring, 0);

	u->ring.ring_fd = ret ? -1 : u->ring.ring_fd;
	if (ret == -EPERM || ret == -EACCES)
		return kvt_fail(-EPERM,
				"io_uring is forbidden here: run `sysctl -w "
				"kernel.io_uring_disabled=0` as root or allow the system call");
	if (ret == -ENOSYS)
		return kvt_fail(ret, "this kernel has no io_uring: Linux 5.13 or newer is needed");
	if (ret == -ENOMEM)
		return kvt_fail(ret, "no memory for io_uring: raise `ulimit -l`");
	return ret ? kvt_fail(ret, "cannot set up io_uring: %s", strerror(-ret)) : 0;
}

static int init_fds(struct kvt_user *u)
{
	u->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	u->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (u->wake_fd < 0 || u->event_fd < 0)
		return kvt_fail(-errno, "cannot make an eventfd: %s", strerror(errno));
	return 0;
}

/* Free whatever has been set up; in reverse, and each step knows if there is anything. */
static void tear_down(struct kvt_user *u)
{
	if (u->ring.ring_fd >= 0)
		io_uring_queue_exit(&u->ring);
	kvt_uffd_close(&u->uffd);
	if (u->mapping)
		munmap(u->mapping, u->mapping_bytes);
	kvt_arena_exit(&u->arena[KVTIER_TIER_CXL]);
	kvt_arena_exit(&u->arena[KVTIER_TIER_DRAM]);
	kvt_nvme_close(&u->nvme);
	kvt_slots_exit(&u->slots);
	kvt_order_exit(&u->order);
	free(u->waits);
	free(u->hints);
	free(u->blocks);
	if (u->event_fd >= 0)
		close(u->event_fd);
	if (u->wake_fd >= 0)
		close(u->wake_fd);
	pthread_mutex_destroy(&u->lock);
	free(u);
}

static int set_up(struct kvt_user *u, const struct kvt_config *c)
{
	int ret = check_node(c);

	if (!ret)
		ret = kvt_uffd_open(&u->uffd);
	if (!ret)
		ret = init_ring(u);
	if (!ret)
		ret = init_fds(u);
	if (!ret)
		ret = init_blocks(u, c);
	if (!ret)
		ret = kvt_order_init(&u->order, u->nr_blocks);
	if (!ret && c->nvme_path)
		ret = kvt_nvme_open(&u->nvme, c->nvme_path, c->nvme_bytes,
				    c->flags & KVT_KEEP_FILE);
	if (!ret)
		ret = init_arenas(u, c);
	if (!ret)
		ret = init_pool_memory(u);
	if (ret)
		return ret;
	kvt_user_prefetch_init(u);
	kvt_user_stat_open(u, c->name);
	ret = start_thread(u);
	if (ret)
		kvt_user_stat_close(u);
	return ret;
}

static int create(const struct kvt_config *c, struct kvt_pool **pool)
{
	struct kvt_user *u = calloc(1, sizeof(*u));
	int ret;

	if (!u)
		return -ENOMEM;
	u->pool.pid = getpid();
	u->pool.bytes = c->bytes;
	u->pool.block_bytes = (uint32_t)c->block_bytes;
	u->pool.block_shift = (uint32_t)__builtin_ctzll(c->block_bytes);
	u->nr_blocks = (uint32_t)(c->bytes >> u->pool.block_shift);
	u->flags = c->flags;
	u->deadline_ns = (uint64_t)c->io_deadline_ms * 1000000;
	u->ring.ring_fd = u->uffd.fd = u->nvme.fd = u->wake_fd = u->event_fd = -1;
	pthread_mutex_init(&u->lock, NULL);
	ret = set_up(u, c);
	if (ret)
		tear_down(u);
	else
		*pool = &u->pool;
	return ret;
}

/* In a child made by fork() there is neither the thread nor the memory. */
static void forget_in_child(struct kvt_user *u)
{
	memset(u->arena, 0, sizeof(u->arena));
	u->mapping = NULL;
	kvt_stat_forget(&u->stat);
	tear_down(u);
}

static void destroy(struct kvt_pool *pool)
{
	struct kvt_user *u = kvt_user_of(pool);

	if (pool->pid != getpid()) {
		forget_in_child(u);
		return;
	}
	pthread_mutex_lock(&u->lock);
	u->stop = true;
	pthread_mutex_unlock(&u->lock);
	eventfd_write(u->wake_fd, 1);
	pthread_join(u->thread, NULL);
	kvt_user_stat_close(u);
	kvt_nvme_release(&u->nvme);
	tear_down(u);
}

const struct kvt_pager_ops kvt_pager_user = {
	.name = "user",
	.create = create,
	.destroy = destroy,
	.resize = kvt_user_resize,
	.range_op = kvt_user_range_op,
	.clone = kvt_user_clone,
	.query = kvt_user_query,
	.stats = kvt_user_stats,
	.event_fd = kvt_user_event_fd,
	.event_read = kvt_user_event_read,
	.checkpoint = kvt_user_checkpoint,
	.adopt = kvt_user_adopt,
	.fetch_open = kvt_user_fetch_open,
};
