/* SPDX-License-Identifier: MIT */
/*
 * What kvtierd and its clients say to each other.
 *
 * The control socket is SOCK_SEQPACKET.  A message is a struct kvt_msg and, after it,
 * the body that its type has; a client sends a request and gets one answer with the
 * request's type and id.  An answer with an error has a text for its body.  Requests
 * of one connection are answered in any order.  What is not a message at all (too
 * short, too long, a size that is not its own) ends the connection; what is one but
 * wrong gets an error, and the connection goes on.
 *
 * Fixed-width fields, native byte order: both sides are on one machine.  Strings end
 * with a zero inside their array.  The version counts changes; both must be of one.
 */
#ifndef KVT_PROTOCOL_H
#define KVT_PROTOCOL_H

#include "kvtier_daemon.h"

#define KVT_PROTOCOL_VERSION 1
#define KVT_MSG_MAX 65536
#define KVT_MSG_FDS 4

enum kvt_msg_type {
	KVT_MSG_HELLO = 1, /* struct kvt_hello -> the same */
	KVT_MSG_CREATE = 2, /* struct kvt_create -> struct kvt_opened, descriptors */
	KVT_MSG_ATTACH = 3, /* struct kvt_attach -> struct kvt_opened, descriptors */
	KVT_MSG_MAP = 4, /* struct kvt_map, a userfaultfd -> - */
	KVT_MSG_DETACH = 5, /* struct kvt_pool_id -> - */
	KVT_MSG_REMOVE = 6, /* struct kvt_attach -> - */
	KVT_MSG_RANGE_OP = 7, /* struct kvt_ranges -> the same with results */
	KVT_MSG_QUERY = 8, /* struct kvt_query_msg -> struct kvtier_block_info[] */
	KVT_MSG_STATS = 9, /* struct kvt_pool_id -> struct kvtier_stats */
	KVT_MSG_EVENTS = 10, /* struct kvt_pool_id, value: room -> struct kvtier_event[] */
	KVT_MSG_PLAN = 11, /* struct kvt_pool_id, value: entries -> ring, doorbell */
	KVT_MSG_CHECKPOINT = 12, /* struct kvt_pool_id, value: 1: a note follows -> - */
	KVT_MSG_NOTE = 13, /* struct kvt_pool_id -> the note */
	KVT_MSG_IDLE = 14, /* struct kvt_pool_id -> - */
	KVT_MSG_STATUS = 15, /* - -> struct kvt_daemon_status */
	KVT_MSG_POOLS = 16, /* struct kvt_list -> struct kvt_list, struct kvt_daemon_pool[] */
	KVT_MSG_TENANTS = 17, /* struct kvt_list -> ..., struct kvt_daemon_tenant[] */
	KVT_MSG_TIERS = 18, /* struct kvt_list -> ..., struct kvt_daemon_tier[] */
	KVT_MSG_QUOTA = 19, /* struct kvt_quota -> - */
	KVT_MSG_BUDGET = 20, /* struct kvt_pool_id, value: bytes -> - */
	KVT_MSG_SCRUB = 21, /* struct kvt_pool_id, id 0: all -> - */
	KVT_MSG_SCRUB_STATUS = 22, /* - -> struct kvt_daemon_scrub */
	KVT_MSG_ATTEND = 23, /* struct kvt_pool_id, value: ring bytes -> ring, doorbells */
	KVT_MSG_TYPES
};

struct kvt_msg {
	uint32_t size; /* of the whole message */
	uint16_t type;
	uint16_t zero;
	uint32_t id;
	int32_t error; /* of an answer; 0 in a request */
};

struct kvt_hello {
	uint32_t version; /* KVT_PROTOCOL_VERSION */
	uint32_t module; /* answer: 1: pools are descriptors of /dev/kvtier */
	char tenant[32]; /* answer */
};

struct kvt_create {
	uint32_t flags; /* KVT_SHARED_* */
	uint32_t io_deadline_ms;
	uint64_t bytes;
	uint64_t block_bytes;
	uint64_t budget[KVTIER_NR_TIERS];
	uint64_t instance; /* by chance, the same if asked again of a new daemon; 0: none */
	char name[KVT_POOL_NAME_BYTES];
	char model[KVT_MODEL_NAME_BYTES];
};

struct kvt_attach {
	char name[KVT_POOL_NAME_BYTES];
	char model[KVT_MODEL_NAME_BYTES];
};

/*
 * With it come the pool's descriptor (of the device, or the memory file) and the end of
 * a pipe that becomes readable when events wait.  (What the daemon writes to must not be
 * the client's to fill, or to make block: O_NONBLOCK is of the open file.)
 */
struct kvt_opened {
	uint32_t pool;
	uint32_t block_shift;
	uint64_t bytes;
	uint64_t instance; /* tells a pool from a later one of its name */
	uint32_t fds;
	uint32_t module;
};

/* With it comes the userfaultfd with which [addr, addr + pool's bytes) is registered. */
struct kvt_map {
	uint32_t pool;
	uint32_t zero;
	uint64_t addr;
};

struct kvt_pool_id {
	uint32_t pool;
	uint32_t value32;
	uint64_t value;
};

struct kvt_ranges {
	uint32_t pool;
	uint32_t op;
	uint32_t tier;
	uint32_t flags;
	uint32_t nr;
	uint32_t done; /* answer */
	struct kvtier_range ranges[];
};

#define KVT_RANGES_MAX ((KVT_MSG_MAX - sizeof(struct kvt_msg) - sizeof(struct kvt_ranges)) / \
			sizeof(struct kvtier_range))

struct kvt_query_msg {
	uint32_t pool;
	uint32_t nr;
	uint64_t first;
};

#define KVT_INFOS_MAX ((KVT_MSG_MAX - sizeof(struct kvt_msg)) / sizeof(struct kvtier_block_info))

struct kvt_list {
	uint32_t first; /* skip so many */
	uint32_t nr; /* answer: entries that follow */
	uint32_t total; /* answer */
	uint32_t zero;
};

struct kvt_quota {
	char tenant[32];
	uint32_t tier;
	uint32_t zero;
	uint64_t bytes;
};

/*
 * A plan's ring: a memory file that the daemon makes, and that cannot shrink.
 *
 * The client writes entries[head & mask], then head; the daemon takes them up to
 * head and says so in tail.  Both count entries since the ring was made.  passed
 * counts the ranges that the client is done with since the last KVT_PLAN_NEW.  Who
 * stores a passed of wake_at or more rings the doorbell; who adds entries always
 * does.  The daemon believes nothing that it reads here: it copies an entry, checks
 * the copy and uses that.  When it refuses, error is set and the ring is dead.
 */
struct kvt_plan_ring {
	uint32_t magic;
	uint32_t entries; /* a power of two */
	uint64_t head __attribute__((aligned(64))); /* the client's */
	uint64_t passed;
	uint64_t tail __attribute__((aligned(64))); /* the daemon's, as the rest */
	uint64_t wake_at;
	int32_t error;
	uint32_t zero;
	struct kvt_plan_entry {
		uint32_t block;
		uint32_t nr; /* blocks; 0: a mark */
	} entry[] __attribute__((aligned(64)));
};

#define KVT_PLAN_MAGIC 0x6b76706cu
#define KVT_PLAN_ENTRIES_MIN 64u
#define KVT_PLAN_ENTRIES_MAX (4u << 20)

/* Marks: entries of 0 blocks, by the number in their block. */
enum kvt_plan_mark {
	KVT_PLAN_NEW = 0, /* forget what came before; a plan begins */
	KVT_PLAN_CYCLE = 1, /* it repeats */
	KVT_PLAN_FLUSH = 2, /* that was all for now */
};

/*
 * A ring of the attention service: a memory file that the daemon makes.  The client
 * writes a query from data[] on, its lengths into the head, and rings; the daemon copies
 * what it has to check, writes the output behind the query, then done, and rings the other
 * bell, a pipe.  One query at a time; many rings work at once.
 */
struct kvt_remote_block {
	uint64_t k_offset; /* in the pool, of the first row */
	uint64_t v_offset; /* UINT64_MAX: values are part of the keys (MLA) */
	uint64_t position;
	uint32_t tokens;
	uint32_t span;
	uint32_t k_type;
	uint32_t v_type;
	uint32_t k_stride;
	uint32_t v_stride;
};

/* What is in data[] besides blocks, query rows, output and log-sum-exp. */
#define KVT_ASKS_MASK (1u << 0)
#define KVT_ASKS_SINKS (1u << 1)
#define KVT_ASKS_BOUNDS (1u << 2)
#define KVT_ASKS_MASS (1u << 3)
#define KVT_ASKS_SKIPPED (1u << 4)

struct kvt_attend_query {
	uint64_t number; /* the client counts; done follows */
	uint64_t q_position;
	uint32_t flags;
	uint32_t q_heads;
	uint32_t kv_heads;
	uint32_t k_dim;
	uint32_t v_dim;
	float scale;
	float softcap;
	uint32_t window;
	uint32_t sinks;
	uint32_t q_tokens;
	uint32_t nr_blocks;
	float epsilon;
	uint32_t top_k;
	uint32_t asks; /* KVT_ASKS_* */
	uint32_t mask_heads; /* masks: one for each of kv_heads; 0: one for all */
	uint32_t nr_bounds; /* blocks that have bounds */
	uint32_t zero;
	uint32_t zero2;
};

struct kvt_attend_ring {
	struct kvt_attend_query query; /* the client's */
	uint64_t done __attribute__((aligned(64))); /* the daemon's */
	int32_t error;
	uint32_t zero;
	/* The parts in the order of struct kvt_attend_places, each aligned to 64 bytes. */
	char data[] __attribute__((aligned(64)));
};

#define KVT_ATTEND_RING_MAX (256ull << 20)

/* Where the parts of a query lie in data[], after its blocks. */
struct kvt_attend_places {
	uint64_t q; /* floats */
	uint64_t mask; /* (nr_blocks + 7) / 8 bytes a mask */
	uint64_t sinks; /* a float a query head */
	uint64_t has_bounds; /* a bit a block */
	uint64_t bounds; /* of those that have, in their order */
	uint64_t out; /* floats, or bf16 */
	uint64_t lse; /* floats */
	uint64_t mass; /* a float a block */
	uint64_t skipped; /* struct kvt_skipped */
	uint64_t bytes;
};

static inline uint64_t kvt_mask_bytes(const struct kvt_attend_query *q)
{
	return (q->mask_heads ? q->mask_heads : 1) * (((uint64_t)q->nr_blocks + 7) / 8);
}

static inline uint64_t kvt_bounds_bytes(const struct kvt_attend_query *q)
{
	return 2ull * q->kv_heads * q->k_dim * sizeof(float);
}

static inline uint64_t kvt_place(uint64_t *at, uint64_t bytes)
{
	uint64_t here = *at;

	*at += (bytes + 63) & ~63ull;
	return here;
}

static inline struct kvt_attend_places kvt_attend_places(const struct kvt_attend_query *q)
{
	uint64_t rows = (uint64_t)q->q_tokens * q->q_heads, at = 0;
	struct kvt_attend_places p;

	kvt_place(&at, (uint64_t)q->nr_blocks * sizeof(struct kvt_remote_block));
	p.q = kvt_place(&at, rows * q->k_dim * sizeof(float));
	p.mask = kvt_place(&at, q->asks & KVT_ASKS_MASK ? kvt_mask_bytes(q) : 0);
	p.sinks = kvt_place(&at, q->asks & KVT_ASKS_SINKS ? q->q_heads * sizeof(float) : 0);
	p.has_bounds = kvt_place(&at, q->asks & KVT_ASKS_BOUNDS ? (q->nr_blocks + 7) / 8 : 0);
	p.bounds = kvt_place(&at, q->nr_bounds * kvt_bounds_bytes(q));
	p.out = kvt_place(&at, rows * q->v_dim * (q->flags & KVT_OUT_BF16 ? 2 : 4));
	p.lse = kvt_place(&at, rows * sizeof(float));
	p.mass = kvt_place(&at, q->asks & KVT_ASKS_MASS ? q->nr_blocks * sizeof(float) : 0);
	p.skipped = kvt_place(&at, q->asks & KVT_ASKS_SKIPPED ? sizeof(struct kvt_skipped) : 0);
	p.bytes = at;
	return p;
}

/* Bytes from a block's first row to the end of its last. */
static inline uint64_t kvt_remote_rows(uint32_t type, uint32_t stride, uint32_t tokens,
				       uint32_t heads, uint32_t dim)
{
	uint64_t row = (uint64_t)heads * kvt_row_bytes(type, dim);

	return tokens ? (uint64_t)(tokens - 1) * (stride ? stride : row) + row : 0;
}

#endif
