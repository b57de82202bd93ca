/* SPDX-License-Identifier: MIT */
/*
 * kvtierd: one arbiter for the pools of a machine.
 *
 * One thread and one io_uring.  What arrives, in the order of the files:
 *
 *	loop.c		completions, descriptors that are ready, timers
 *	control.c	a client's message: checked, dispatched from one table, answered
 *	client.c	a connection comes, attaches pools, dies at any point
 *	tenant.c	whose it is, and what quotas it has
 *	pool.c		pools by name and number; both kinds of them
 *	file_pool.c	... memory files whose faults we serve (no module):
 *	file_wait.c	    who waits in a fault, and for what
 *	file_fault.c	    a client touched what it has not mapped, or may not write
 *	file_move.c	    a block comes from its slot, goes to it, leaves memory
 *	file_victim.c	    which block leaves
 *	file_range.c	    range operations of clients
 *	file_table.c	    the table of blocks that outlives this process
 *	device_pool.c	... descriptors of /dev/kvtier
 *	device_sweep.c	    idle ones leave memory, cold blocks are verified
 *	device_left.c	    ended ones that a client has not let go of
 *	plan.c		what clients will touch next: rings, checked
 *	prefetch.c	promote ahead of the cursors
 *	writeback.c	write sealed blocks early; drain idle pools
 *	scrub.c		verify cold blocks
 *	checkpoint.c	make a pool durable, and take it back (manifest.c: the file)
 *	attend*.c	attention for processes that have not the memory: attention.h
 *	metrics.c	counters as OpenMetrics text (http.c: over sockets)
 *	errand.c	what of it needs the disk, step by step (pool_errand.c: pools made,
 *			taken back, removed)
 *	job.c		what may block (fsync, rename) in a second thread
 *	config.c log.c sdnotify.c main.c
 *
 * Everything belongs to the loop's thread.  Jobs and attention workers get copies.
 */
#ifndef KVTIERD_H
#define KVTIERD_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "error.h"
#include "protocol.h"
#include "slot.h"

#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull
#define NO_BLOCK UINT32_MAX
#define MAX_IOS 256
#define MAX_TENANTS 256 /* with a section */

struct kvtierd;
struct pool;
struct client;
struct plan;
struct kept;
struct left;
struct manifest;
struct errand;

/* ---- log.c: lines of key=value on stderr, with the level that the journal knows ------ */
enum log_level { LOG_ERROR = 3, LOG_WARNING = 4, LOG_INFO = 6, LOG_DEBUG = 7 };
extern enum log_level log_most;
__attribute__((format(printf, 3, 4))) void log_line(enum log_level level, const char *event,
						    const char *fmt, ...);

/* ---- config.c ------------------------------------------------------------------------ */
struct tenant_config {
	char name[32];
	char cgroup[256]; /* "": not by cgroup */
	uint32_t uid_first, uid_last; /* first > last: not by user */
	uint64_t quota[KVTIER_NR_TIERS]; /* 0: none */
	uint64_t max_metadata; /* bytes of our own memory; 0: no bound */
	uint32_t max_clients;
	uint32_t max_pools;
	uint32_t weight;
};

struct config {
	char socket[108];
	uint32_t socket_mode;
	char state_dir[256]; /* slots and manifests */
	char metrics_socket[108]; /* "": none */
	uint32_t http_port; /* on the loopback; 0: none */
	bool metrics_pools; /* each pool's, for all who ask */
	bool use_module;
	int cxl_node; /* -1: none */
	uint64_t limit[KVTIER_NR_TIERS]; /* of all pools together; 0: none */
	uint64_t write_rate; /* bytes a second of write-back */
	uint64_t scrub_rate;
	uint64_t scrub_every_s; /* 0: on request alone */
	bool wear_filter;
	uint32_t idle_ms;
	uint32_t drain_above; /* percent of a quota or limit */
	uint32_t linger_ms; /* a pool without clients and KEEP, after a restart */
	uint32_t max_clients;
	uint32_t max_pools;
	uint32_t attend_threads; /* that compute a query; 0: one for each CPU of a node */
	uint32_t attend_queries; /* that a node computes at once */
	enum log_level log_level;
	struct tenant_config default_tenant; /* quotas of who is in no section */
	struct tenant_config tenants[MAX_TENANTS];
	uint32_t nr_tenants;
};

void config_defaults(struct config *c);
/* 0, or -EINVAL with "FILE:LINE: what is wrong" as the detail. */
int config_read(struct config *c, const char *path);

/* ---- loop.c ----------------------------------------------------------------------------- */
struct op {
	void (*done)(struct op *op, int res);
};

/* A descriptor that is looked at whenever it is ready. */
struct watch {
	struct op op;
	struct kvtierd *d;
	struct watch *next; /* of those that are armed later */
	int fd;
	int error; /* the last time */
	short events;
	void (*ready)(void *arg); /* NULL: stopped; goes with its last completion */
	void *arg;
};

/* Timers are few: a loop finds the next. */
struct timer {
	struct timer *next;
	uint64_t at_ns; /* 0: not set */
	void (*expire)(struct kvtierd *d);
};

int loop_init(struct kvtierd *d);
void loop_exit(struct kvtierd *d);
void loop_run(struct kvtierd *d);
struct io_uring_sqe *loop_sqe(struct kvtierd *d, struct op *op);
struct watch *watch_start(struct kvtierd *d, int fd, void (*ready)(void *arg), void *arg);
/* ... when it takes more again. */
struct watch *watch_room(struct kvtierd *d, int fd, void (*ready)(void *arg), void *arg);
void watch_stop(struct watch *w);
/*
 * A descriptor that a client has too may be made to block by it: what is there is read
 * without waiting all the same.  Nothing is written to one: a bell to a client is a pipe,
 * whose other end alone is the client's.  Closing one may wait for its file system, or for
 * a peer to take what was sent: the ring's threads do that.
 */
void close_elsewhere(struct kvtierd *d, int fd);
/* A memory file that others may go on to have: its pages go, whoever has it. */
void empty_elsewhere(struct kvtierd *d, int fd, uint64_t bytes);
ssize_t read_now(int fd, void *buf, size_t bytes);
int bell_make(int *ours, int *theirs);
void bell_ring(int ours);
void timer_add(struct kvtierd *d, struct timer *t, void (*expire)(struct kvtierd *d));
/* Set it to expire in @ns, unless it is set to expire before. */
void timer_within(struct kvtierd *d, struct timer *t, uint64_t ns);
uint64_t now_ns(void);

/* ---- job.c ------------------------------------------------------------------------------- */
struct job {
	struct job *next;
	int (*work)(struct job *job); /* in the second thread */
	void (*done)(struct job *job, int result); /* in the loop */
};
int job_start(struct kvtierd *d);
void job_stop(struct kvtierd *d);
void job_submit(struct kvtierd *d, struct job *job);

/* ---- sdnotify.c -------------------------------------------------------------------------- */
void sd_open(struct kvtierd *d);
void sd_close(void);
/* Nobody waits for the manager: what it cannot take now it is told later, in order. */
__attribute__((format(printf, 1, 2))) void sd_notifyf(const char *fmt, ...);
/* Give a descriptor to the service manager, so that it outlives us; take it back. */
void sd_store(int fd, const char *name);
void sd_unstore(const char *name);
/* May it keep so many more, as far as it says? */
bool sd_has_room(uint32_t fds);
/* Has it taken all whose names begin so? */
bool sd_is_stored(const char *prefix);
bool sd_has_manager(void);
/* Half of the watchdog's period in ns; 0: no watchdog. */
uint64_t sd_watchdog_ns(void);
/* Call @take with each descriptor that the manager kept for us; it owns it then. */
void sd_take_fds(void (*take)(void *arg, int fd, const char *name), void *arg);

/* ---- tenant.c ---------------------------------------------------------------------------- */
struct tenant {
	struct tenant *next;
	char name[32];
	uint32_t uid;
	uint64_t quota[KVTIER_NR_TIERS];
	uint64_t used[KVTIER_NR_TIERS];
	uint64_t pinned_bytes; /* of memory files */
	uint64_t metadata_bytes; /* tables, plans, rings and requests that we keep for it */
	uint64_t max_metadata;
	uint32_t weight;
	uint32_t pools, max_pools;
	uint32_t clients, max_clients;
	uint32_t fds; /* descriptors that we have open for it */
	uint64_t promoted_bytes;
	uint64_t waits;
	uint64_t refusals;
	struct kvtier_stats ended; /* of pools that ended, what is counted */
	struct kvtier_stats sums; /* metrics.c: with those that are */
	uint64_t virtual_time; /* bytes by weight: who has had least is next */
	uint64_t attend_time; /* ns of its queries in lanes, by weight */
};

/* Root and our own user see and set what is of all. */
bool is_admin(uint32_t uid);
struct tenant *tenant_named(struct kvtierd *d, const char *name);
struct tenant *tenant_again(struct kvtierd *d, const char *name, uint32_t uid);
struct tenant *tenant_of(struct kvtierd *d, uint32_t uid, int pid);
void tenants_reconfigure(struct kvtierd *d);
/* May it occupy so much more?  0 or -EDQUOT (its quota), -ENOSPC (the host's limit). */
int tenant_room(struct kvtierd *d, const struct tenant *t, uint32_t tier, uint64_t bytes);
void tenant_charge(struct kvtierd *d, struct tenant *t, uint32_t tier, int64_t bytes);
/*
 * What else there is only so much of, each tenant apart: 0, or -EDQUOT with its detail, and
 * then the refusal is counted.  A client or pool is counted by who makes it.
 */
int tenant_client_room(struct tenant *t);
int tenant_pool_room(struct tenant *t);
/* Blocks that cannot leave memory: at most the quota, and never all of the host's limit. */
int tenant_pin_room(struct kvtierd *d, const struct tenant *t, uint64_t bytes);
void tenant_pin(struct kvtierd *d, struct tenant *t, int64_t bytes);
/* Memory and descriptors of ours.  Given back they are what was taken. */
int tenant_take(struct kvtierd *d, struct tenant *t, uint64_t bytes, uint32_t fds);
void tenant_took(struct tenant *t, uint64_t bytes, uint32_t fds);
void tenant_give(struct tenant *t, uint64_t bytes, uint32_t fds);

/* ---- client.c and control.c -------------------------------------------------------------- */

/* A client's use of a pool. */
struct attachment {
	struct attachment *next; /* of the pool's */
	struct attachment *next_of_client;
	struct pool *pool;
	struct client *client;
	int event_fd; /* a bell */
	int uffd; /* of its mapping; -1: none yet */
	struct watch *faults;
	uint64_t addr;
	uint64_t pass; /* in which a block was mapped for it */
	uint64_t used_ns; /* when its client last asked for something; 0: it never did */
	bool told_idle; /* since then it said that no turn is near */
	uint16_t *pins;
	struct plan *plan;
	struct attend_ring *attend;
};

struct client {
	struct client *next;
	struct client *prev;
	struct kvtierd *d;
	struct watch *watch;
	int sock;
	int pid;
	uint32_t uid;
	bool admin;
	bool hello;
	bool broken; /* does not read its answers, say: closed at the end of the turn */
	bool gone; /* closed; freed by clients_reap() once no request refers to it */
	uint32_t requests; /* being worked on */
	struct unsent *unsent, *unsent_last; /* answers that its socket has not room for */
	size_t unsent_bytes; /* counted as metadata: they were asked for */
	uint64_t unsent_since_ns; /* when the last of them went, or the first came */
	struct watch *room; /* while there are any */
	struct tenant *tenant;
	struct attachment *attachments;
};

/* Who waits for an answer that takes time. */
struct request {
	struct client *client;
	uint64_t bytes; /* of metadata */
	uint16_t type;
	uint32_t id;
};

int control_open(struct kvtierd *d);
void control_accept(struct kvtierd *d);
void control_close(struct kvtierd *d);
void client_accept(struct kvtierd *d, int sock);
void client_close(struct client *c, const char *why);
/* Closed at the end of the turn: who calls may be in the middle of a list. */
void client_give_up(struct client *c);
int client_signal(int sock, int pid, int signal);
void clients_reap(struct kvtierd *d);
void clients_unread(struct kvtierd *d);
void client_message(struct client *c, const struct kvt_msg *msg, const int *fds, int nr_fds);
void client_reply(struct client *c, uint16_t type, uint32_t id, int error, const void *body,
		  size_t bytes, const int *fds, int nr_fds);
int request_begin(struct client *c, const struct kvt_msg *msg, struct request **request);
void request_end(struct request *r, int error, const void *body, size_t bytes);
void request_close(struct request *r);
struct attachment *attachment_of(struct client *c, uint32_t pool);
int attachment_new(struct client *c, struct pool *p, int *event_fd);
void attachment_free(struct attachment *a);
void attachment_used(struct attachment *a);

/* ---- pool.c ------------------------------------------------------------------------------ */

/* Where the only valid content of a block of a memory file is. */
enum where {
	W_EMPTY = 0, /* nowhere: it reads as zeroes */
	W_RESIDENT, /* in the file */
	W_READING, /* in its slot, and on the way into the file, which nobody maps yet */
	W_WRITING, /* in the file, and on the way into its slot */
	W_COLD, /* in its slot */
	W_BAD, /* lost */
};

#define B_DIRTY (1u << 0) /* its slot does not hold it */
#define B_SEALED (1u << 1)
#define B_HINT (1u << 2) /* hinted cold */
#define B_AHEAD (1u << 3) /* promoted for a plan, not passed yet */
#define B_EVICT (1u << 4) /* leaves memory once it is written */
#define B_CAPTURE (1u << 5) /* written for a checkpoint: stores wait for the end */
#define B_STORED (1u << 6) /* a store came while it was being written */
#define B_STALLED (1u << 7) /* its I/O passed the deadline */
#define B_REUSED (1u << 8) /* used again after it was sealed: worth a write */
#define B_QUEUED (1u << 9) /* waits for write-back */

/*
 * In the table that outlives us (file_table.c).  where and B_DIRTY, B_SEALED say what a
 * successor must know, each a store of its own: the order of stores is the protocol.
 */
struct block {
	uint64_t generation;
	uint32_t slot;
	uint32_t crc;
	uint32_t frame; /* index in pool->frames while it has one */
	uint32_t heat;
	uint16_t flags;
	uint16_t pins;
	uint8_t where;
	uint8_t busy; /* operations at work on it */
	int16_t error;
};

/* Stores wait while a checkpoint writes it. */
static inline bool blk_held(const struct block *blk)
{
	return blk->where == W_WRITING && blk->flags & B_CAPTURE;
}

struct table {
	uint64_t magic;
	uint32_t version;
	uint32_t id;
	uint64_t instance;
	uint64_t bytes;
	uint64_t budget[KVTIER_NR_TIERS];
	uint32_t block_shift;
	uint32_t flags;
	uint32_t deadline_ms;
	uint32_t module;
	uint32_t uid;
	uint32_t note_bytes; /* of the checkpoint; its note and slots are in the manifest */
	uint64_t checkpoint_s; /* CLOCK_REALTIME; 0: none */
	char name[KVT_POOL_NAME_BYTES];
	char model[KVT_MODEL_NAME_BYTES];
	char tenant[32];
	/* and behind it a struct block for each block */
};

/* A thread of a client that waits in a fault. */
struct wait {
	struct wait *next, **at; /* of those for its block */
	struct wait *next_of_bucket;
	struct wanted *wanted;
	struct attachment *a;
	uint64_t since_ns;
	uint64_t addr;
	uint32_t tid;
	bool write;
};

/* A block that threads wait for. */
struct wanted {
	struct wanted *next; /* of its bucket */
	struct wanted *before, *after; /* of those that are starved */
	struct wait *waits;
	uint64_t since_ns;
	uint32_t block;
	bool starved; /* of memory, or of room for a transfer */
};

struct command;
struct checkpoint;

#define POOL_EVENTS 64

struct pool {
	struct pool *next;
	struct kvtierd *d;
	struct tenant *tenant;
	struct table *t; /* also what its definition is */
	size_t table_bytes;
	uint64_t metadata_bytes; /* counted for its tenant */
	int table_fd;
	int fd; /* the memory file, or the device's */
	uint32_t id;
	uint32_t nr_blocks;
	uint32_t shift;
	uint32_t block_bytes;
	uint32_t clients;
	struct attachment *attachments;
	uint64_t active_ns;
	uint64_t linger_until_ns; /* without clients and KEEP it goes then; 0: at once */
	bool idle; /* its client said so, or nothing happened for long */
	bool told_idle; /* its client did */
	bool making; /* its slots are still to come: nobody has it yet */
	uint64_t woken_ns; /* the turn in which it was idle no more */
	bool removed; /* no longer to be found by its name */
	bool unkept; /* the service manager has no room for its descriptors */
	bool module;

	/* Pools of the module: device_sweep.c's way through them. */
	bool resizing; /* its budget is being changed in the second thread */
	uint32_t sweep, sweep_at;
	uint64_t sweep_heat, sweep_blocks; /* heat of all in memory; how many */
	uint64_t room_ns, room_blocks; /* memory that was free in that turn of the loop */

	/* Memory files. */
	char *alias; /* our own mapping */
	int slots_fd;
	struct kvt_slots slots;
	uint32_t *frames; /* blocks that have memory, in no order */
	uint32_t nr_frames;
	uint32_t pinned; /* blocks */
	uint32_t ios; /* under way */
	struct waits *waits; /* file_wait.c's */
	uint32_t nr_waits;
	uint64_t wait_since_ns; /* when the first of them came */
	uint64_t waits_expire_ns; /* before none of them does; 0: not known */
	uint64_t passes; /* see attachment.pass */
	struct command *commands;
	uint64_t visit_ns; /* the turn in which commands may visit ... */
	uint32_t visits; /* ... so many blocks more */
	struct checkpoint *checkpoint;
	uint32_t *queue; /* sealed blocks to write back, a ring */
	uint32_t queue_first, queue_nr;
	struct kvtier_slot *kept; /* slots that the durable manifest names */
	uint32_t nr_kept;
	uint32_t attending; /* queries in lanes */
	struct doubts *doubts; /* slots that a killed predecessor may still be writing to */
	uint64_t full_until_ns; /* do not write before: the disk was full */
	uint32_t scrub_at;
	uint64_t random;

	struct kvtier_stats stats;
	struct kvtier_stats shown; /* as a client was told last: counted over all blocks */
	uint64_t shown_ns, shown_took_ns;
	uint64_t read_since_ns, write_since_ns;
	uint32_t reads, writes;
	struct kvtier_event events[POOL_EVENTS];
	uint32_t event_first, nr_events;
	bool events_lost;
};

static inline struct block *block_of(const struct pool *p, uint32_t b)
{
	return (struct block *)(p->t + 1) + b;
}

static inline char *block_addr(const struct pool *p, uint32_t b)
{
	return p->alias + ((uint64_t)b << p->shift);
}

/* @making: with all but its slots; or the one that a predecessor made when this was asked for. */
int pool_make(struct client *c, const struct kvt_create *want, struct pool **pool);
struct pool *pool_named(struct kvtierd *d, const struct tenant *t, const char *name);
int pool_one_more(struct client *c);
void pool_add(struct pool *p);
void pool_keep(struct pool *p);
struct pool *pool_by_id(struct kvtierd *d, uint32_t id);
int pool_visible(struct client *c, uint32_t id, struct pool **pool);
void pool_unused(struct pool *p);
void pool_destroy(struct pool *p);
void pool_discard(struct pool *p);
void pool_activity(struct pool *p);
/* One of its clients says that no turn is near: it is idle once the others are, too. */
void pool_told_idle(struct attachment *a);
void pool_event(struct pool *p, uint32_t type, uint32_t b, int error);
int pool_check_model(const char *model, size_t room);
int pool_check_name(const char *name, size_t room, const char *what);
void pool_used(struct pool *p, uint64_t used[KVTIER_NR_TIERS]);
int pool_new(struct kvtierd *d, const struct table *def, struct tenant *t, struct pool **pool);
void pools_take_fds(struct kvtierd *d);
void pools_take_back(struct kvtierd *d);
void pools_expire(struct kvtierd *d);
int pool_budget(struct pool *p, uint64_t dram_bytes, struct request *r);
/* Does the service manager have what a successor needs of it? */
bool pool_is_kept(const struct pool *p);

/* ---- file_*.c ---------------------------------------------------------------------------- */
int file_pool_probe(void);
int file_pool_create(struct pool *p); /* all but its slots */
int file_pool_restore(struct pool *p, int slots_fd);
int file_pool_take_back(struct pool *p);
void file_pool_destroy(struct pool *p);
int file_pool_map(struct attachment *a, int uffd, uint64_t addr);
void file_pool_stats(struct pool *p, struct kvtier_stats *st);
int file_pool_query(struct pool *p, uint64_t first, uint32_t nr, struct kvtier_block_info *infos);
int table_create(struct pool *p, const struct table *def);
int table_map(struct pool *p, int fd);
void slots_path(const struct pool *p, char *buf, size_t room);
/* They may block: in the second thread. */
int slots_make(struct pool *p);
int slots_of_manifest(const char *path, const struct table *def);

void file_faults(void *attachment);
void file_serve(struct pool *p, uint32_t b);
void file_serve_starved(struct pool *p);
void file_drop_waits(struct attachment *a);
void file_fail_waits(struct pool *p, uint32_t b);
void file_wait_deadlines(struct kvtierd *d);
void file_map_block(struct attachment *a, uint32_t b, bool write);
/* -ENOMEM: the thread must be woken, to ask again. */
int wait_add(struct attachment *a, uint32_t b, uint32_t tid, uint64_t addr, bool write);
void wait_free(struct pool *p, struct wait *w);
void waits_each(struct pool *p, void (*visit)(struct pool *p, struct wait *w, void *arg),
		void *arg);
void waits_exit(struct pool *p);
/* NULL: nobody waits for it. */
struct wanted *wanted_of(const struct pool *p, uint32_t b);
void wanted_starves(struct pool *p, struct wanted *n, bool starved);
/* Of the starved, the one that came first; NULL: there are none. */
struct wanted *wanted_first(const struct pool *p);
int file_protect(struct pool *p, uint32_t b);

int file_take_frame(struct pool *p, uint32_t b, uint64_t next_use);
int file_zero_fill(struct pool *p, uint32_t b);
int file_read(struct pool *p, uint32_t b, uint64_t next_use);
int file_write(struct pool *p, uint32_t b, uint16_t why);
int file_evict(struct pool *p, uint32_t b);
void file_drop(struct pool *p, uint32_t b);
int file_discard(struct pool *p, uint32_t b);
void file_dirty(struct pool *p, uint32_t b);
void file_bad(struct pool *p, uint32_t b, int error);
void file_io_deadlines(struct kvtierd *d);
bool file_came(void);
void file_verify(void);
void file_progress(struct pool *p);

uint32_t file_victim(struct pool *p, uint64_t nearer_than);
struct pool *file_victim_pool(struct pool *p, int why);

int file_range_op(struct client *c, const struct kvt_msg *msg, const struct kvt_ranges *body,
		  struct attachment *a);
void file_run_commands(struct pool *p);
void file_cancel_commands(struct pool *p, struct client *c);
void file_unpin_all(struct attachment *a);

/* ---- device_pool.c ----------------------------------------------------------------------- */
int device_probe(void);
int device_pool_create(struct pool *p);
int device_pool_take_back(struct pool *p);
void device_pool_stats(struct pool *p, struct kvtier_stats *st);
int device_pool_query(struct pool *p, uint64_t first, uint32_t nr, struct kvtier_block_info *infos);
int device_pool_budget(struct pool *p, uint64_t bytes, struct request *r);
/* device_left.c: it ends here; while a client has its descriptor it stays counted. */
void device_pool_left(struct pool *p);
void devices_left(struct kvtierd *d);
bool device_left_lately(const struct kvtierd *d, const struct tenant *t);
/* A command through the ring, whose end nobody waits for. */
int device_command(struct pool *p, uint32_t op, uint32_t tier, uint32_t block, uint32_t nr);
int device_verify(struct pool *p, uint32_t block,
		  void (*done)(struct pool *p, uint32_t block, int res));
/* An idle pool leaves memory, a few blocks a call; false: the rate's bound is reached. */
bool device_drain(struct pool *p, bool *any);
bool device_drained(const struct pool *p);
void device_sweep_again(struct pool *p);
uint64_t device_cold_blocks(struct pool *p);
bool device_to_verify(struct pool *p, uint32_t b);
bool device_is_bad(struct pool *p, uint32_t b);
/* Promote what a plan on the module needs next; false: not now. */
bool device_pool_ahead(struct plan *plan);
bool device_has_room(struct pool *p);
/* In the second thread: slots of all that is not empty, reserved under a new key. */
int device_checkpoint(int fd, uint32_t nr_blocks, uint32_t shift, struct manifest *m);
int device_adopt(int fd, const struct manifest *m);
int device_release(int fd, const struct kvt_key *key);

/* ---- plan.c and prefetch.c --------------------------------------------------------------- */
struct plan {
	struct plan *next; /* of all */
	struct attachment *a;
	struct kvt_plan_ring *ring;
	size_t ring_bytes;
	uint64_t metadata_bytes; /* counted for its tenant */
	uint32_t entries;
	int doorbell;
	struct watch *watch;
	uint64_t tail;
	uint32_t part, part_nr; /* of the last entry: blocks that are still to be taken */
	bool more; /* of the ring, or of the way to the cursor: in the next turn */
	bool cycle;
	bool dead;

	/* The plan as we took it: positions are blocks, in order. */
	uint32_t *order; /* block at each position */
	uint32_t *again; /* 1 and the next position of the same block; 0: none */
	uint32_t nr, room;
	uint32_t *starts; /* position at which each range begins */
	uint32_t nr_ranges, room_ranges;
	uint32_t *first; /* per block: 1 and its first position; 0: not in the plan */
	uint32_t *last; /* ... its last */
	uint32_t *at; /* ... its next, seen from the cursor */
	uint64_t seen; /* what the client said last that it had passed */
	uint32_t range; /* the cursor, in ranges */
	uint32_t pos; /* ... and in positions */
	uint32_t hand; /* positions ahead of the cursor that prefetch has looked at */
	uint32_t ahead; /* blocks with B_AHEAD, or that are marked as brought */
	uint8_t *brought; /* per block of a pool of the module; else NULL */
	uint64_t blocked_ns; /* the turn in which there was no room */
	uint64_t moved_ns; /* when the cursor last moved */
	uint64_t pace_ns; /* a position, on average */
	uint32_t stride; /* positions that its client passes at once */
	uint64_t asked; /* ranges after which we wanted to be told */
	uint64_t had_bytes; /* promoted for it; or what others had when it came */
	uint64_t since_ns; /* when it was announced */
	bool woken; /* its pool was idle when it rang */
	bool turn; /* ... and this is what was announced then */
};

int plan_ring_make(struct attachment *a, uint64_t entries, int fds[2]);
void plan_free(struct plan *plan);
void plans_run(struct kvtierd *d);
void plan_catch_up(struct plan *plan);
/* Positions until the block is used; UINT64_MAX: no plan names it. */
uint64_t plan_next_use(const struct pool *p, uint32_t b);
/* Time that a position of the pool's plan takes, ns; 0: not known. */
uint64_t plan_pace(const struct pool *p);
uint64_t plan_left(const struct plan *plan);
/* The block at a distance from the cursor; NO_BLOCK: the plan ends before. */
uint32_t plan_block_at(const struct plan *plan, uint32_t distance);
void plan_wake_again(struct plan *plan);
void prefetch_run(struct kvtierd *d);
void prefetch_charge(struct plan *plan);
bool prefetch_defers(const struct pool *p);
/* Bytes that are to be on their way, if there is so much to do. */
uint64_t prefetch_in_flight(const struct pool *p);
void prefetch_measure(struct kvtierd *d, uint64_t bytes, uint64_t latency_ns);

/* ---- writeback.c, scrub.c, checkpoint.c, manifest.c -------------------------------------- */
void writeback_queue(struct pool *p, uint32_t b);
void writeback_run(struct kvtierd *d);
/* May so much be written now?  Then it is counted. */
bool writeback_spend(struct kvtierd *d, uint64_t bytes);
void writeback_kick(struct kvtierd *d);
int scrub_begin(struct kvtierd *d, struct pool *only);
void scrub_run(struct kvtierd *d);
void scrub_forget(struct kvtierd *d, const struct pool *p);
int checkpoint_begin(struct pool *p, struct request *r, const void *note, size_t bytes,
		     bool keep_note);
void checkpoint_run(struct pool *p);
void checkpoint_starved(struct pool *p);
void checkpoint_written(struct pool *p, uint32_t b);
/* Of what was read.  @model: NULL, whichever it is of; @slots_fd is the pool's then. */
int checkpoint_restore(struct errand *e, const char *name, const char *model, struct pool **pool);
void checkpoint_sweep(struct kvtierd *d);
void checkpoint_reload_kept(struct pool *p);

struct manifest {
	struct table def; /* without blocks */
	struct kvt_key key;
	struct kvtier_slot *slots; /* flags: B_SEALED */
	uint32_t nr;
	char *note;
	uint32_t note_bytes;
	bool renamed; /* written, and the one that a reader finds; durable or not */
};
void manifest_path(const struct kvtierd *d, const char *tenant, const char *name, char *buf,
		   size_t room);
int manifest_write(const char *path, struct manifest *m);
int manifest_read(const char *path, struct manifest *m);
void manifest_free(struct manifest *m);

/* ---- errand.c and pool_errand.c: what needs the disk of state-dir ------------------------ */
#define ERRAND_WORKS 1 /* a step has begun the next */
#define ERRAND_NS (30 * NS_PER_S) /* so long a client waits for one */

struct errand {
	struct job job; /* first */
	struct errand *next;
	struct kvtierd *d;
	struct tenant *tenant;
	struct request *request; /* NULL: its time was up, and it was answered */
	uint64_t until_ns;
	int (*begin)(struct errand *e); /* in the loop: ERRAND_WORKS, 0 (answered) or an error */
	int (*work)(struct errand *e); /* in the second thread */
	int (*then)(struct errand *e, int result); /* in the loop, as begin() */
	char why[256]; /* the work's error in words */

	struct pool *pool;
	struct manifest manifest;
	int fd; /* of slots */
	int error;
	char path[512]; /* of the manifest */
	char slots[512];
	union {
		struct kvt_create create;
		struct kvt_attach attach;
	};
};

int errand_new(struct client *c, const struct kvt_msg *msg, struct errand **errand);
void errand_run(struct errand *e);
int errand_work(struct errand *e, int (*work)(struct errand *e),
		int (*then)(struct errand *e, int result));
/* Who waits for it; NULL: nobody. */
struct client *errand_client(const struct errand *e);
void errands_expire(struct kvtierd *d);
void errands_stop(struct kvtierd *d);
/* Each answers, now or later; or returns an error. */
int pool_create(struct client *c, const struct kvt_msg *msg, const struct kvt_create *want);
int pool_attach(struct client *c, const struct kvt_msg *msg, const struct kvt_attach *want);
int pool_remove(struct client *c, const struct kvt_msg *msg, const char *name);
int pool_note(struct client *c, const struct kvt_msg *msg, struct pool *p);

/* ---- attend*.c: attention for clients that have not the memory ---------------------------- */
int attend_ring_make(struct attachment *a, uint64_t bytes, int fds[3]);
void attend_ring_free(struct attachment *a);
void attend_run(struct kvtierd *d);
void attend_progress(struct pool *p);
void attend_stop(struct kvtierd *d);

/* ---- metrics.c and http.c ---------------------------------------------------------------- */
/* @pools: each pool's counters too, beside its tenant's sums. */
void metrics_write(struct kvtierd *d, FILE *out, bool pools);
void metrics_pool_ended(struct pool *p);
int http_open(struct kvtierd *d);
void http_run(struct kvtierd *d);
void http_close(struct kvtierd *d);

/* ---- the daemon -------------------------------------------------------------------------- */
struct counters {
	uint64_t messages, refused, connections, connections_refused, clients_died;
	uint64_t plans, plan_ranges, plans_refused, turns, promoted_ahead, passed;
	uint64_t writeback_blocks, writeback_spared, drained_blocks;
	uint64_t scrubbed, scrub_bad, checkpoints, checkpoint_errors, restores;
	uint64_t faults, late_faults, wait_ns, sigbus;
	uint64_t read_bytes, write_bytes, io_errors, deadline_misses;
	uint64_t attend_queries, reloads;
};

struct kvtierd {
	struct config config;
	const char *config_path;
	struct io_uring ring;
	bool many_cpus; /* enough for threads beside this one and the clients' */
	bool stop;
	uint64_t started_ns;
	uint64_t uptime_ns; /* metrics.c: as last shown */
	uint32_t nr_unkept; /* so is this */
	uint64_t turn_ns; /* when this turn of the loop began */

	uint32_t nr_watches;
	struct watch *late; /* could not be armed: tried again */
	struct timer *timers;
	struct timer watchdog, waits, writeback, scrub_timer, idle_timer, attend_timer, unread,
		plan_timer, http_timer, notes, late_timer, accept_timer, errand_timer, left_timer;
	int signal_fd;
	struct watch *signal_watch;
	int listen_fd;
	struct watch *listen_watch;

	struct client *clients;
	uint32_t nr_clients;
	bool clients_gone; /* some wait to be closed or freed */
	struct tenant *tenants;
	uint32_t nr_tenants;
	struct pool *pools;
	struct kept *kept; /* of a predecessor, not taken back yet */
	uint32_t nr_pools;
	uint32_t last_pool;
	bool module;
	uint32_t max_fds; /* that this process may have open */
	uint64_t used[KVTIER_NR_TIERS];
	uint64_t pinned_bytes;

	struct left *left; /* pools of the module that clients still have */
	struct plan *plans;
	uint64_t plan_turn_ns; /* the turn in which plans may take ... */
	uint32_t plan_work; /* ... so many positions more */
	uint64_t bandwidth; /* bytes a second that reads were measured to reach */
	uint64_t latency_ns; /* of the fastest read of late */
	uint64_t fastest_ns; /* ... since that time */
	uint64_t fastest_since_ns;
	uint64_t measured_bytes, measured_since_ns;
	uint64_t reading; /* bytes under way */
	uint64_t begun; /* transfers, ever */
	uint64_t virtual_now; /* of the tenant that was served last */
	uint64_t had_now; /* by the plan that was, before */

	uint64_t write_credit; /* bytes that may be written now */
	uint64_t write_credit_ns; /* when that was true */
	/* The pool whose turn it is when there is credit again; 0: the first. */
	uint32_t write_next;

	struct scrub {
		struct kvt_daemon_scrub result;
		uint32_t pool; /* id; 0: none under way */
		bool all;
		bool reading;
		char *buffer;
	} scrub;

	struct jobs *jobs;
	struct errand *errand; /* under way */
	struct errand *errands, **errands_end; /* wait for that */
	struct http *http;
	struct attend_service *attend;
	struct counters count;
};

#endif
