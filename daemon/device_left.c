// SPDX-License-Identifier: MIT
/*
 * Pools of the module that ended here and not there: a client has the descriptor still, and
 * memory and slots of the host with it.  So long they are counted for its tenant.  A pool is in
 * sysfs until its last descriptor is closed; its number may be another's then, which the
 * inode tells.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device_fd.h"
#include "kvtierd.h"

#define LATELY_NS NS_PER_S /* so long a client may take to let go of it */
#define LOOK_SOON_NS (10 * NS_PER_MS)

struct left {
	struct left *next;
	struct tenant *tenant;
	uint64_t budget[KVTIER_NR_TIERS];
	uint64_t since_ns;
	ino_t inode;
	int device_id;
};

static ino_t inode_of(int device_id)
{
	struct stat st;
	char path[64];

	snprintf(path, sizeof(path), "/sys/class/kvtier/pool%d/", device_id);
	return device_id < 0 || stat(path, &st) ? 0 : st.st_ino;
}

static void uncount(struct kvtierd *d, struct tenant *t, const uint64_t *budget)
{
	uint32_t tier;

	t->pools--;
	for (tier = KVTIER_TIER_DRAM; tier < KVTIER_NR_TIERS; tier++)
		tenant_charge(d, t, tier, -(int64_t)budget[tier]);
}

/* Before our own descriptor is closed: what it reserves stays its tenant's until all are. */
void device_pool_left(struct pool *p)
{
	int device_id = kvt_device_pool((uint32_t)getpid(), p->fd);
	ino_t inode = inode_of(device_id);
	struct left *l = inode ? malloc(sizeof(*l)) : NULL;
	struct kvtierd *d = p->d;

	if (!l) {
		uncount(d, p->tenant, p->t->budget);
		return;
	}
	*l = (struct left){ .next = d->left, .tenant = p->tenant, .since_ns = d->turn_ns,
			    .inode = inode, .device_id = device_id };
	memcpy(l->budget, p->t->budget, sizeof(l->budget));
	d->left = l;
	timer_within(d, &d->left_timer, LOOK_SOON_NS);
}

void devices_left(struct kvtierd *d)
{
	struct left **at = &d->left, *l;
	bool lately = false;

	while ((l = *at)) {
		if (inode_of(l->device_id) == l->inode) {
			lately |= d->turn_ns - l->since_ns < LATELY_NS;
			at = &l->next;
			continue;
		}
		uncount(d, l->tenant, l->budget);
		*at = l->next;
		free(l);
	}
	if (d->left)
		timer_within(d, &d->left_timer, lately ? LOOK_SOON_NS : NS_PER_S);
}

/* Has the tenant one that may be on its way out, and so some room in a moment? */
bool device_left_lately(const struct kvtierd *d, const struct tenant *t)
{
	const struct left *l;

	for (l = d->left; l; l = l->next)
		if (l->tenant == t && d->turn_ns - l->since_ns < LATELY_NS)
			return true;
	return false;
}
