// SPDX-License-Identifier: MIT
/*
 * Counters as OpenMetrics text: one table says what each is, one function writes it.
 * Documentation/metrics.rst explains them; a test compares.
 *
 * What is of pools is shown as sums of their tenants, pools that ended included, so that a
 * sum never goes back.  Each pool's own are for the administrator, or for all where the
 * configuration says so.
 */
#include <string.h>

#include "kvtierd.h"

static const char *const tier_names[KVTIER_NR_TIERS] = { "none", "dram", "cxl", "nvme" };

/* Of what there is a value. */
enum scope { DAEMON, TIER, TENANT, TENANT_TIER, POOL, POOL_TIER };

enum form { U32, U64, SECONDS };

struct series {
	const char *name; /* of scope POOL: what follows kvtier_tenant_ and kvtier_pool_ */
	const char *unit;
	const char *help;
	enum scope scope;
	bool counter;
	enum form form; /* SECONDS are kept in ns */
	size_t offset; /* in struct kvtierd, struct tenant or, of pools, struct kvtier_stats */
	size_t stride; /* from one tier to the next */
};

#define FIELD(type, field) offsetof(struct type, field)
#define COUNTS(name, unit, field, help)                                                         \
	{ "kvtier_" name, unit, help, DAEMON, true, U64, FIELD(kvtierd, count.field), 0 }
#define GAUGE(name, unit, form, field, help)                                                    \
	{ "kvtier_" name, unit, help, DAEMON, false, form, FIELD(kvtierd, field), 0 }
#define OF_TENANT(name, unit, counter, form, field, help)                                       \
	{ "kvtier_tenant_" name, unit, help, TENANT, counter, form, FIELD(tenant, field), 0 }
#define OF_POOLS(name, unit, form, field, help)                                                 \
	{ name, unit, help, POOL, true, form, FIELD(kvtier_stats, field), 0 }

static const struct series table[] = {
	COUNTS("messages", "messages", messages, "Well-formed control messages received."),
	COUNTS("refused_messages", "messages", refused, "Control messages refused."),
	COUNTS("connections", "connections", connections, "Connections accepted."),
	COUNTS("refused_connections", "connections", connections_refused,
	       "Connections refused for max-clients."),
	COUNTS("lost_clients", "clients", clients_died,
	       "Clients that went away with a pool attached."),
	COUNTS("plans", "plans", plans, "Plans accepted, or parts of them."),
	COUNTS("plan_ranges", "ranges", plan_ranges, "Ranges of plans accepted."),
	COUNTS("turns", "turns", turns, "Plans for pools that were idle: read before all others."),
	COUNTS("passed_ranges", "ranges", passed, "Ranges of plans that clients have passed."),
	COUNTS("refused_plans", "plans", plans_refused, "Rings dropped for what was in them."),
	COUNTS("promoted_ahead_blocks", "blocks", promoted_ahead,
	       "Blocks promoted ahead of a cursor."),
	COUNTS("written_back_blocks", "blocks", writeback_blocks,
	       "Sealed blocks written before they had to leave."),
	COUNTS("spared_blocks", "blocks", writeback_spared,
	       "Times that the wear filter put a write off."),
	COUNTS("drained_blocks", "blocks", drained_blocks,
	       "Blocks of idle pools that left memory."),
	COUNTS("scrubbed_blocks", "blocks", scrubbed, "Blocks verified by scrubs."),
	COUNTS("scrub_bad_blocks", "blocks", scrub_bad,
	       "... of which did not match their checksum."),
	COUNTS("checkpoints", "checkpoints", checkpoints, "Checkpoints made durable."),
	COUNTS("failed_checkpoints", "checkpoints", checkpoint_errors, "Checkpoints that failed."),
	COUNTS("restores", "restores", restores, "Pools restored from checkpoints."),
	COUNTS("faults", "faults", faults, "Page faults of clients served (memory files)."),
	COUNTS("late_faults", "faults", late_faults,
	       "... that came while the block was being read: late pages."),
	{ "kvtier_fault_wait_seconds", "seconds",
	  "Time with a thread waiting in a fault, over pools.", DAEMON, true, SECONDS,
	  FIELD(kvtierd, count.wait_ns), 0 },
	COUNTS("sigbus_signals", "signals", sigbus, "Accesses ended with SIGBUS."),
	COUNTS("nvme_read_bytes", "bytes", read_bytes, "Bytes read from slots."),
	COUNTS("nvme_written_bytes", "bytes", write_bytes, "Bytes written to slots."),
	COUNTS("io_errors", "errors", io_errors,
	       "Transfers that failed, were late or did not match."),
	COUNTS("deadline_misses", "misses", deadline_misses,
	       "I/O and faults that passed their deadline."),
	COUNTS("attend_queries", "queries", attend_queries,
	       "Queries of the attention service answered."),
	COUNTS("reloads", "reloads", reloads, "Times that the configuration was read again."),

	GAUGE("uptime_seconds", "seconds", SECONDS, uptime_ns, "Since the daemon began."),
	GAUGE("connected_clients", "clients", U32, nr_clients, "Connections now."),
	GAUGE("live_pools", "pools", U32, nr_pools, "Pools now."),
	GAUGE("unkept_pools", "pools", U32, nr_unkept,
	      "Pools that would end with the daemon: the service manager has not their descriptors."),
	GAUGE("nvme_bandwidth_bytes", "bytes", U64, bandwidth,
	      "Bytes a second that reads reach, measured."),
	GAUGE("nvme_latency_seconds", "seconds", SECONDS, latency_ns,
	      "Latency of the fastest read of late."),

	{ "kvtier_tier_used_bytes", "bytes", "What all pools occupy of a tier.", TIER, false, U64,
	  FIELD(kvtierd, used), sizeof(uint64_t) },
	{ "kvtier_tier_limit_bytes", "bytes", "The host's limit of a tier, 0: none.", TIER, false,
	  U64, FIELD(kvtierd, config.limit), sizeof(uint64_t) },
	{ "kvtier_tenant_used_bytes", "bytes", "What a tenant occupies of a tier.", TENANT_TIER,
	  false, U64, FIELD(tenant, used), sizeof(uint64_t) },
	{ "kvtier_tenant_quota_bytes", "bytes", "A tenant's quota, 0: none.", TENANT_TIER, false,
	  U64, FIELD(tenant, quota), sizeof(uint64_t) },

	OF_TENANT("connected_clients", "clients", false, U32, clients,
		  "A tenant's connections now."),
	OF_TENANT("max_clients", "clients", false, U32, max_clients, "... and at most."),
	OF_TENANT("live_pools", "pools", false, U32, pools, "A tenant's pools now."),
	OF_TENANT("max_pools", "pools", false, U32, max_pools, "... and at most."),
	OF_TENANT("metadata_bytes", "bytes", false, U64, metadata_bytes,
		  "The daemon's own memory for a tenant: tables, plans, rings, requests."),
	OF_TENANT("max_metadata_bytes", "bytes", false, U64, max_metadata,
		  "... and at most, 0: no bound."),
	OF_TENANT("open_descriptors", "descriptors", false, U32, fds,
		  "Descriptors that the daemon has open for a tenant."),
	OF_TENANT("pinned_bytes", "bytes", false, U64, pinned_bytes,
		  "Pinned memory of a tenant's memory files."),
	OF_TENANT("promoted_bytes", "bytes", true, U64, promoted_bytes,
		  "Bytes read from NVMe for a tenant."),
	OF_TENANT("waits", "waits", true, U64, waits,
		  "Times that a tenant's fault found its quota, or the host's limit, used up."),
	OF_TENANT("refusals", "refusals", true, U64, refusals,
		  "Times that one of a tenant's own limits refused something."),

	OF_POOLS("faults", "faults", U64, faults, "Faults of threads in pools."),
	OF_POOLS("hard_faults", "faults", U64, hard_faults,
		 "... for blocks that nothing had begun to read."),
	OF_POOLS("late_faults", "faults", U64, late_faults, "... for blocks that were being read."),
	OF_POOLS("fault_wait_seconds", "seconds", SECONDS, fault_wait_ns,
		 "Time with a thread waiting in a fault."),
	OF_POOLS("read_seconds", "seconds", SECONDS, tier[KVTIER_TIER_NVME].read_ns,
		 "Time with a read from NVMe under way."),
	OF_POOLS("promoted_blocks", "blocks", U64, promoted, "Blocks that came from NVMe."),
	OF_POOLS("demoted_blocks", "blocks", U64, demoted, "Blocks that left memory."),
	OF_POOLS("written_blocks", "blocks", U64, written_blocks, "Blocks written to NVMe."),
	OF_POOLS("crc_errors", "errors", U64, crc_errors,
		 "Blocks that did not match their checksum."),

	{ "kvtier_pool_used_bytes", "bytes", "What a pool occupies of a tier.", POOL_TIER, false,
	  U64, FIELD(kvtier_stats, tier[0].used_bytes), sizeof(struct kvtier_tier_stats) },
};

#define FOR_EACH_SERIES(s) \
	for (s = table; s < table + sizeof(table) / sizeof(table[0]); s++)

/* ---- text -------------------------------------------------------------------------------- */

static void family(FILE *out, const struct series *s, const char *prefix)
{
	fprintf(out, "# TYPE %s%s %s\n", prefix, s->name, s->counter ? "counter" : "gauge");
	fprintf(out, "# UNIT %s%s %s\n", prefix, s->name, s->unit);
	fprintf(out, "# HELP %s%s %s\n", prefix, s->name, s->help);
}

/* @labels: "" or such as tenant="name" */
static void sample(FILE *out, const struct series *s, const char *prefix, const char *labels,
		   const void *of, uint32_t tier)
{
	const char *at = (const char *)of + s->offset + tier * s->stride;
	uint64_t value = s->form == U32 ? *(const uint32_t *)at : *(const uint64_t *)at;

	fprintf(out, "%s%s%s%s%s%s ", prefix, s->name, s->counter ? "_total" : "",
		*labels ? "{" : "", labels, *labels ? "}" : "");
	if (s->form == SECONDS)
		fprintf(out, "%.9f\n", (double)value / NS_PER_S);
	else
		fprintf(out, "%llu\n", (unsigned long long)value);
}

/* Of each tier, where it has tiers. */
static void samples(FILE *out, const struct series *s, const char *prefix, const char *labels,
		    const void *of)
{
	uint32_t tier;

	if (!s->stride) {
		sample(out, s, prefix, labels, of, 0);
		return;
	}
	for (tier = KVTIER_TIER_DRAM; tier < KVTIER_NR_TIERS; tier++) {
		char all[256];

		snprintf(all, sizeof(all), "%s%stier=\"%s\"", labels, *labels ? "," : "",
			 tier_names[tier]);
		sample(out, s, prefix, all, of, tier);
	}
}

static void write_tenants(struct kvtierd *d, FILE *out, const struct series *s, const char *prefix)
{
	const struct tenant *t;
	char labels[64];

	family(out, s, prefix);
	for (t = d->tenants; t; t = t->next) {
		snprintf(labels, sizeof(labels), "tenant=\"%s\"", t->name);
		samples(out, s, prefix, labels, *prefix ? (const void *)&t->sums : t);
	}
}

static void write_pools(struct kvtierd *d, FILE *out, const struct series *s, const char *prefix)
{
	const struct pool *p;
	char labels[160];

	family(out, s, prefix);
	for (p = d->pools; p; p = p->next) {
		snprintf(labels, sizeof(labels), "pool=\"%s\",tenant=\"%s\"", p->t->name,
			 p->t->tenant);
		samples(out, s, prefix, labels, &p->stats);
	}
}

static void write_series(struct kvtierd *d, FILE *out, const struct series *s, bool pools)
{
	switch (s->scope) {
	case DAEMON:
	case TIER:
		family(out, s, "");
		samples(out, s, "", "", d);
		break;
	case TENANT:
	case TENANT_TIER:
		write_tenants(d, out, s, "");
		break;
	case POOL:
		write_tenants(d, out, s, "kvtier_tenant_");
		if (pools)
			write_pools(d, out, s, "kvtier_pool_");
		break;
	case POOL_TIER:
		if (pools)
			write_pools(d, out, s, "");
	}
}

/* ---- sums -------------------------------------------------------------------------------- */

/* What is not counted as it happens. */
static void look(struct pool *p)
{
	uint64_t used[KVTIER_NR_TIERS];
	uint32_t t;

	if (p->module) {
		device_pool_stats(p, &p->stats);
		return;
	}
	pool_used(p, used);
	for (t = 0; t < KVTIER_NR_TIERS; t++)
		p->stats.tier[t].used_bytes = used[t];
}

static void add_to(struct kvtier_stats *sums, const struct kvtier_stats *of)
{
	const struct series *s;

	FOR_EACH_SERIES(s)
		if (s->scope == POOL)
			*(uint64_t *)((char *)sums + s->offset) +=
				*(const uint64_t *)((const char *)of + s->offset);
}

static void sum_up(struct kvtierd *d)
{
	struct tenant *t;
	struct pool *p;

	for (t = d->tenants; t; t = t->next)
		t->sums = t->ended;
	d->nr_unkept = 0;
	for (p = d->pools; p; p = p->next) {
		d->nr_unkept += !pool_is_kept(p);
		look(p);
		add_to(&p->tenant->sums, &p->stats);
	}
}

void metrics_pool_ended(struct pool *p)
{
	look(p);
	add_to(&p->tenant->ended, &p->stats);
}

void metrics_write(struct kvtierd *d, FILE *out, bool pools)
{
	const struct series *s;

	d->uptime_ns = now_ns() - d->started_ns;
	sum_up(d);
	FOR_EACH_SERIES(s)
		write_series(d, out, s, pools);
	fputs("# EOF\n", out);
}
