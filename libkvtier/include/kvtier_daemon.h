/* SPDX-License-Identifier: MIT */
/*
 * kvtier_daemon.h - pools that kvtierd keeps, shared by processes.
 *
 * A client is a connection to the daemon.  Pools that it makes or attaches are
 * struct kvt_pool like any other: all of <kvtier.h> works on them.  They outlive
 * their processes if asked to, and the daemon too: when it dies, calls and touches
 * of blocks that are not resident wait until it is back, at most the client's
 * patience (KVTIER_PATIENCE_MS in the environment, default 30 000); then calls are
 * -ECONNRESET and touches SIGBUS.
 *
 * Where the daemon has the module, a pool is a descriptor of /dev/kvtier.  Where it
 * has not, a pool is a memory file that the processes share, whose faults the daemon
 * serves.  What differs then: clones are -EOPNOTSUPP; a device or system call that
 * writes to pool memory needs the blocks pinned (kvt_pin()), since the daemon cannot
 * see its writes otherwise; who attaches a pool trusts the others that do.
 *
 * Names are those of a tenant.  Which tenant a process is of, the daemon decides by
 * the credentials of the socket; a pool of another tenant is -ENOENT.
 *
 * Functions return 0 or a count, or a negative errno with kvt_error_detail().  A
 * client may be used by several threads.
 */
#ifndef KVTIER_DAEMON_H
#define KVTIER_DAEMON_H

#include "kvtier.h"
#include "kvtier_attend.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVT_DAEMON_SOCKET "/run/kvtier/kvtierd.sock"
#define KVT_POOL_NAME_BYTES 64 /* with the terminating zero; letters, digits, - _ . */
#define KVT_MODEL_NAME_BYTES 64
#define KVT_NOTE_MAX 57344 /* bytes of a checkpoint's note */

struct kvt_client;

/*
 * kvt_client_open() - connect to the daemon
 * @path: its control socket; NULL: $KVTIER_SOCKET, else KVT_DAEMON_SOCKET
 *
 * Errors: -ENOENT, -ECONNREFUSED no daemon there; -EACCES no right to the socket;
 * -EPROTO a daemon of another version; -EDQUOT the tenant has as many connections as it
 * may, -ENOSPC all tenants together have.
 */
int kvt_client_open(const char *path, struct kvt_client **client);
/* Its pools must be destroyed before.  NULL is allowed. */
void kvt_client_close(struct kvt_client *client);

/* ---- pools ------------------------------------------------------------------------ */

/* kvt_shared_config.flags */
#define KVT_SHARED_KEEP (1u << 0) /* stays when nobody uses it, until it is removed */

/*
 * struct kvt_shared_config - what a shared pool is made of
 * @size:           sizeof(struct kvt_shared_config)
 * @flags:          KVT_SHARED_KEEP
 * @name:           of the pool, unique in its tenant
 * @model:          what the content is of (a model's fingerprint, a layout); who
 *                  attaches must name the same; NULL: ""
 * @bytes:          size, rounded up to whole blocks
 * @block_bytes:    as in struct kvt_config; 0 chooses
 * @dram_bytes:     most DRAM that it may occupy; 0: its size or the tenant's quota
 * @cxl_bytes:      most CXL memory; 0: none
 * @nvme_bytes:     space on NVMe, reserved at once; 0: its size and some more
 * @io_deadline_ms: as in struct kvt_config
 */
struct kvt_shared_config {
	uint32_t size;
	uint32_t flags;
	const char *name;
	const char *model;
	uint64_t bytes;
	uint64_t block_bytes;
	uint64_t dram_bytes;
	uint64_t cxl_bytes;
	uint64_t nvme_bytes;
	uint32_t io_deadline_ms;
};

#define KVT_SHARED_CONFIG_INIT { .size = sizeof(struct kvt_shared_config) }

/*
 * kvt_shared_create() - make a pool that others of the tenant may attach
 * kvt_shared_attach() - map a pool that is there, or that a checkpoint holds
 * kvt_shared_remove() - forget a pool and its checkpoint; its memory goes with its
 *                       last user
 *
 * kvt_pool_destroy() ends this process's use of a pool.
 *
 * Errors: -EEXIST the name is taken; -ENOENT there is none; -EDQUOT a limit of the
 * tenant's does not hold it; -EBUSY one of its name, or that has the room it needs, is
 * still on its way out; -ENOSPC the disk does not; -EMEDIUMTYPE the pool, or the
 * checkpoint, is of another model; -EPROTO the checkpoint is of another version;
 * -EINVAL a field is out of range; -EOPNOTSUPP this kernel lacks what sharing needs.
 */
int kvt_shared_create(struct kvt_client *client, const struct kvt_shared_config *config,
		      struct kvt_pool **pool);
int kvt_shared_attach(struct kvt_client *client, const char *name, const char *model,
		      struct kvt_pool **pool);
int kvt_shared_remove(struct kvt_client *client, const char *name);

/*
 * kvt_shared_checkpoint() - make the pool's content durable under its name
 * @note:  what the caller wants back with it (tokens, tables)
 * @bytes: of @note, at most KVT_NOTE_MAX
 *
 * Every block that is not empty is written, open ones as they are now.  When it
 * returns 0, kvt_shared_attach() has the content back even after a reboot.  An older
 * checkpoint of the pool is replaced, as a whole or not at all.
 *
 * Sequences in a pool come back with it: kvt_manifest_save() first, then this; after
 * kvt_shared_attach() kvt_manifest_restore() into a cache that is made as the saved one
 * was.  It finds blocks where they were, and refuses (-EINVAL) what is not as saved.
 *
 * kvt_shared_note() - copy the note of the checkpoint; returns its length, at most
 * @room bytes of which are copied; -ENOENT: there is no checkpoint.
 */
int kvt_shared_checkpoint(struct kvt_pool *pool, const void *note, size_t bytes);
int kvt_shared_note(struct kvt_pool *pool, void *note, size_t room);

/* ---- plans ------------------------------------------------------------------------ */

/* What the next steps will touch, in order; in bytes, multiples of the block size. */
struct kvt_plan_range {
	uint64_t offset;
	uint64_t length;
};

#define KVT_PLAN_REPEAT (1u << 0) /* after the last range comes the first again */
#define KVT_PLAN_APPEND (1u << 1) /* these come after those already published */

/*
 * kvt_plan_publish() - tell the daemon what comes next, which announces a turn too
 * kvt_plan_passed()  - @nr more ranges are done with; cheap: no system call as a rule
 * kvt_plan_wait()    - until the daemon has accepted all that was published
 * kvt_plan_idle()    - no turn is near: the pool may leave memory
 *
 * Errors: -EOPNOTSUPP the pool is not of a daemon; -EAGAIN more ranges than the ring
 * has room for now; -EINVAL a range outside the pool; -EDQUOT the tenant's max-metadata has
 * no room for its ring; of wait: -ETIMEDOUT, and -EBADMSG, -EDQUOT (its positions are more
 * than max-metadata leaves) or -E2BIG: the daemon refused the ring, which is dropped:
 * publish again.
 */
int kvt_plan_publish(struct kvt_pool *pool, const struct kvt_plan_range *ranges, uint32_t nr,
		     uint32_t flags);
int kvt_plan_passed(struct kvt_pool *pool, uint64_t nr);
int kvt_plan_wait(struct kvt_pool *pool, uint32_t timeout_ms);
int kvt_plan_idle(struct kvt_pool *pool);

/* ---- attention --------------------------------------------------------------------- */

/*
 * kvt_shared_attend() - kvt_attend(), computed by the daemon, next to the memory
 *
 * For who does not map the rows, or is not on their node: blocks that are not in memory are
 * brought in, and the daemon's threads on the node next to most of them compute.  All of
 * @params and @seqs is as for kvt_attend(), and so is each bit of the outputs, whatever is in
 * memory.  Only the rows must be in the pool, as this process maps it; it does not touch
 * them.  Sequences are computed one after the other: if one fails, those before it have
 * their outputs.  A thread that calls while another one's call for the pool is under way
 * waits for that.
 *
 * Errors: those of kvt_attend(); -EINVAL also for rows outside the pool; -E2BIG the query
 * (with bounds, say) has more than 256 MiB, or the daemon would have to remember too much of
 * it; -EIO a block is bad, which is an error of this query alone; -ENOSPC the rows of one
 * block of a table do not fit into the pool's memory at once; -ETIMEDOUT no memory was free
 * within the pool's I/O deadline; -ECONNRESET.
 */
int kvt_shared_attend(struct kvt_pool *pool, const struct kvt_attend_params *params,
		      const struct kvt_attend_seq *seqs, uint32_t nr);

/* ---- what an operator sees and sets ------------------------------------------------ */

/* kvt_daemon_pool.flags, besides those that it was made with */
#define KVT_POOL_OUTLIVES (1u << 31)

/*
 * struct kvt_daemon_pool - one pool
 * @id:         number, for the calls below
 * @clients:    processes that have it
 * @idle_ms:    since it was last touched or planned for
 * @flags:      KVT_SHARED_KEEP, and KVT_POOL_OUTLIVES: the service manager has what the next
 *              daemon needs to go on with it
 * @checkpoint: age in seconds of its checkpoint; UINT32_MAX: none
 * @plan_left:  ranges of its plan that are still to come
 * @budget, @used: bytes of each tier
 * @device:     its name in /sys/class/kvtier; "": a pool of the user pager
 */
struct kvt_daemon_pool {
	uint32_t id;
	uint32_t clients;
	char name[KVT_POOL_NAME_BYTES];
	char tenant[32];
	char model[KVT_MODEL_NAME_BYTES];
	uint64_t bytes;
	uint64_t block_bytes;
	uint64_t idle_ms;
	uint32_t flags;
	uint32_t checkpoint;
	uint64_t plan_left;
	uint64_t budget[KVTIER_NR_TIERS];
	uint64_t used[KVTIER_NR_TIERS];
	char device[16];
	uint64_t reserved[2];
};

/* One tenant; quotas of 0 are none. */
struct kvt_daemon_tenant {
	char name[32];
	uint32_t pools;
	uint32_t clients;
	uint32_t weight; /* of its share of the bandwidth */
	uint32_t reserved32;
	uint64_t quota[KVTIER_NR_TIERS];
	uint64_t used[KVTIER_NR_TIERS];
	uint64_t promoted_bytes; /* read from NVMe for it */
	uint64_t waits; /* faults that had to wait for its quota */
	uint64_t reserved[4];
};

/* One tier of the host, as the daemon knows it. */
struct kvt_daemon_tier {
	uint32_t tier; /* enum kvtier_tier */
	int32_t node; /* NUMA node, or KVTIER_NO_NODE */
	char where[128]; /* folder or device of the NVMe tier */
	uint64_t limit; /* bytes that all pools together may occupy; 0: none */
	uint64_t used;
	uint64_t read_bytes;
	uint64_t written_bytes;
	uint64_t read_bytes_per_s; /* measured */
	uint64_t read_latency_ns;
	uint64_t errors;
	uint64_t reserved[4];
};

/* What a scrub found; it goes on in the daemon until @running is 0. */
struct kvt_daemon_scrub {
	uint64_t verified; /* blocks, since the scrub began */
	uint64_t bad;
	uint64_t left;
	uint32_t running;
	uint32_t reserved;
};

/* The daemon itself. */
struct kvt_daemon_status {
	char version[16];
	char backend[16]; /* "module" or "user" */
	uint64_t uptime_ms;
	uint32_t pid;
	uint32_t clients;
	uint32_t pools;
	uint32_t tenants;
	uint64_t reserved[8];
};

/*
 * Lists: @room entries at most are filled in; returns how many there are.  Other
 * tenants' pools are shown, and quotas set, to root and the daemon's own user alone
 * (-EPERM).  Pools are named by id (-ENOENT: no such pool, or another tenant's).
 */
int kvt_daemon_status(struct kvt_client *client, struct kvt_daemon_status *status);
int kvt_daemon_pools(struct kvt_client *client, struct kvt_daemon_pool *pools, uint32_t room);
int kvt_daemon_tenants(struct kvt_client *client, struct kvt_daemon_tenant *tenants, uint32_t room);
int kvt_daemon_tiers(struct kvt_client *client, struct kvt_daemon_tier *tiers, uint32_t room);
int kvt_daemon_stats(struct kvt_client *client, uint32_t id, struct kvtier_stats *stats);
int kvt_daemon_query(struct kvt_client *client, uint32_t id, uint64_t first, uint32_t nr,
		     struct kvtier_block_info *infos);
/* A quota of a tenant (0: none), until the configuration is read again. */
int kvt_daemon_set_quota(struct kvt_client *client, const char *tenant, uint32_t tier,
			 uint64_t bytes);
/* The DRAM budget of a pool. */
int kvt_daemon_set_budget(struct kvt_client *client, uint32_t id, uint64_t bytes);
/* Begin to verify the cold blocks of a pool, of all for @id 0; and ask how far it is. */
int kvt_daemon_scrub(struct kvt_client *client, uint32_t id);
int kvt_daemon_scrub_status(struct kvt_client *client, struct kvt_daemon_scrub *scrub);
/* kvt_shared_checkpoint() of a pool, keeping its note. */
int kvt_daemon_checkpoint(struct kvt_client *client, uint32_t id);

#ifdef __cplusplus
}
#endif
#endif
