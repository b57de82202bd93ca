// SPDX-License-Identifier: MIT
/*
 * Counters and events, and the file through which the tools know which process has
 * which pool.  Live figures are in sysfs; the file holds the last ones, which sysfs
 * forgets with the pool: they are written when it is destroyed or the process exits.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <unistd.h>

#include "error.h"
#include "kernel.h"

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kvt_kernel *shown; /* pools with a file; list_lock */

int kvt_kernel_stats(struct kvt_pool *pool, struct kvtier_stats *stats)
{
	*stats = (struct kvtier_stats){ .size = sizeof(*stats) };
	return kvt_kernel_call(kvt_kernel_of(pool)->fd, KVTIER_IOC_STATS, stats);
}

int kvt_kernel_event_fd(struct kvt_pool *pool)
{
	return kvt_kernel_of(pool)->fd;
}

int kvt_kernel_event_read(struct kvt_pool *pool, struct kvtier_event *events, uint32_t nr)
{
	ssize_t n;

	if (!nr)
		return 0;
	if (nr > KVTIER_ARRAY_MAX)
		nr = KVTIER_ARRAY_MAX;
	do
		n = read(kvt_kernel_of(pool)->fd, events, nr * sizeof(*events));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	return (int)((size_t)n / sizeof(*events));
}

/* ---- the file ------------------------------------------------------------------ */

static void publish(struct kvt_kernel *k)
{
	struct kvtier_stats stats;

	if (!kvt_kernel_stats(&k->pool, &stats))
		kvt_stat_write(&k->stat, &stats, "");
}

void kvt_kernel_stat_open(struct kvt_kernel *k, const struct kvt_config *config)
{
	if (config->flags & KVT_NO_STATS_FILE ||
	    kvt_stat_create(&k->stat, config->name, "kernel", 0))
		return;
	k->stat.file->kernel_id = (int32_t)k->id;
	k->stat.file->addr = (uintptr_t)k->pool.addr;
	k->stat.file->addr_bytes = k->pool.bytes;
	publish(k);
	kvt_stat_show(&k->stat);
	pthread_mutex_lock(&list_lock);
	k->next = shown;
	shown = k;
	pthread_mutex_unlock(&list_lock);
}

static void take_out(struct kvt_kernel *k)
{
	struct kvt_kernel **at;

	pthread_mutex_lock(&list_lock);
	for (at = &shown; *at; at = &(*at)->next) {
		if (*at == k) {
			*at = k->next;
			break;
		}
	}
	pthread_mutex_unlock(&list_lock);
}

void kvt_kernel_stat_close(struct kvt_kernel *k)
{
	if (!k->stat.file)
		return;
	take_out(k);
	publish(k);
	kvt_stat_close(&k->stat);
}

/* A program that ends without destroying its pools has figures all the same. */
__attribute__((destructor)) static void publish_last(void)
{
	struct kvt_kernel *k;

	if (pthread_mutex_trylock(&list_lock)) /* in a child of a fork it may be held for ever */
		return;
	for (k = shown; k; k = k->next)
		if (k->pool.pid == getpid())
			publish(k);
	pthread_mutex_unlock(&list_lock);
}
