// SPDX-License-Identifier: MIT
/* Counters as OpenMetrics text.  Documentation/metrics.rst says what each is; a test compares. */
#include <string.h>

#include "kvtierd.h"

static const char *const tier_names[KVTIER_NR_TIERS] = { "none", "dram", "cxl", "nvme" };

static void family(FILE *out, const char *name, const char *type, const char *unit, const char *help)
{
	fprintf(out, "# TYPE %s %s\n# UNIT %s %s\n# HELP %s %s\n", name, type, name, unit, name, help);
}

/* ---- of the daemon ----------------------------------------------------------------------- */

#define COUNT(field) offsetof(struct counters, field)

static const struct counter {
	const char *name, *unit, *help;
	size_t offset;
	bool ns; /* kept in ns, shown in seconds */
} counters[] = {
	{ "kvtier_messages", "messages", "Well-formed control messages received.", COUNT(messages), 0 },
	{ "kvtier_refused_messages", "messages", "Control messages refused.", COUNT(refused), 0 },
	{ "kvtier_connections", "connections", "Connections accepted.", COUNT(connections), 0 },
	{ "kvtier_refused_connections", "connections", "Connections refused for max-clients.",
	  COUNT(connections_refused), 0 },
	{ "kvtier_lost_clients", "clients", "Clients that went away with a pool attached.",
	  COUNT(clients_died), 0 },
	{ "kvtier_plans", "plans", "Plans accepted, or parts of them.", COUNT(plans), 0 },
	{ "kvtier_plan_ranges", "ranges", "Ranges of plans accepted.", COUNT(plan_ranges), 0 },
	{ "kvtier_turns", "turns", "Plans for pools that were idle: read before all others.",
	  COUNT(turns), 0 },
	{ "kvtier_passed_ranges", "ranges", "Ranges of plans that clients have passed.",
	  COUNT(passed), 0 },
	{ "kvtier_refused_plans", "plans", "Rings dropped for what was in them.",
	  COUNT(plans_refused), 0 },
	{ "kvtier_promoted_ahead_blocks", "blocks", "Blocks promoted ahead of a cursor.",
	  COUNT(promoted_ahead), 0 },
	{ "kvtier_written_back_blocks", "blocks", "Sealed blocks written before they had to leave.",
	  COUNT(writeback_blocks), 0 },
	{ "kvtier_spared_blocks", "blocks", "Times that the wear filter put a write off.",
	  COUNT(writeback_spared), 0 },
	{ "kvtier_drained_blocks", "blocks", "Blocks of idle pools that left memory.",
	  COUNT(drained_blocks), 0 },
	{ "kvtier_scrubbed_blocks", "blocks", "Blocks verified by scrubs.", COUNT(scrubbed), 0 },
	{ "kvtier_scrub_bad_blocks", "blocks", "... of which did not match their checksum.",
	  COUNT(scrub_bad), 0 },
	{ "kvtier_checkpoints", "checkpoints", "Checkpoints made durable.", COUNT(checkpoints), 0 },
	{ "kvtier_failed_checkpoints", "checkpoints", "Checkpoints that failed.",
	  COUNT(checkpoint_errors), 0 },
	{ "kvtier_restores", "restores", "Pools restored from checkpoints.", COUNT(restores), 0 },
	{ "kvtier_faults", "faults", "Page faults of clients served (memory files).", COUNT(faults),
	  0 },
	{ "kvtier_late_faults", "faults", "... that came while the block was being read: late pages.",
	  COUNT(late_faults), 0 },
	{ "kvtier_fault_wait_seconds", "seconds", "Time with a thread waiting in a fault, over pools.",
	  COUNT(wait_ns), 1 },
	{ "kvtier_sigbus_signals", "signals", "Accesses ended with SIGBUS.", COUNT(sigbus), 0 },
	{ "kvtier_nvme_read_bytes", "bytes", "Bytes read from slots.", COUNT(read_bytes), 0 },
	{ "kvtier_nvme_written_bytes", "bytes", "Bytes written to slots.", COUNT(write_bytes), 0 },
	{ "kvtier_io_errors", "errors", "Transfers that failed, were late or did not match.",
	  COUNT(io_errors), 0 },
	{ "kvtier_deadline_misses", "misses", "I/O and faults that passed their deadline.",
	  COUNT(deadline_misses), 0 },
	{ "kvtier_attend_queries", "queries", "Queries of the attention service answered.",
	  COUNT(attend_queries), 0 },
	{ "kvtier_reloads", "reloads", "Times that the configuration was read again.", COUNT(reloads),
	  0 },
};

static void write_counters(struct kvtierd *d, FILE *out)
{
	size_t i;

	for (i = 0; i < sizeof(counters) / sizeof(counters[0]); i++) {
		const struct counter *c = &counters[i];
		const uint64_t *value = (const uint64_t *)((const char *)&d->count + c->offset);

		family(out, c->name, "counter", c->unit, c->help);
		if (c->ns)
			fprintf(out, "%s_total %.9f\n", c->name, (double)*value / NS_PER_S);
		else
			fprintf(out, "%s_total %llu\n", c->name, (unsigned long long)*value);
	}
}

static void gauge(FILE *out, const char *name, const char *unit, const char *help, double value)
{
	family(out, name, "gauge", unit, help);
	fprintf(out, "%s %.17g\n", name, value);
}

static void write_gauges(struct kvtierd *d, FILE *out)
{
	gauge(out, "kvtier_uptime_seconds", "seconds", "Since the daemon began.",
	      (double)(now_ns() - d->started_ns) / NS_PER_S);
	gauge(out, "kvtier_connected_clients", "clients", "Connections now.", d->nr_clients);
	gauge(out, "kvtier_live_pools", "pools", "Pools now.", d->nr_pools);
	gauge(out, "kvtier_nvme_bandwidth_bytes", "bytes", "Bytes a second that reads reach, measured.",
	      (double)d->bandwidth);
	gauge(out, "kvtier_nvme_latency_seconds", "seconds", "Latency of the fastest read of late.",
	      (double)d->latency_ns / NS_PER_S);
}

/* ---- of tenants, tiers and pools --------------------------------------------------------- */

static void write_tiers(struct kvtierd *d, FILE *out)
{
	uint32_t t;

	family(out, "kvtier_tier_used_bytes", "gauge", "bytes", "What all pools occupy of a tier.");
	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++)
		fprintf(out, "kvtier_tier_used_bytes{tier=\"%s\"} %llu\n", tier_names[t],
			(unsigned long long)d->used[t]);
	family(out, "kvtier_tier_limit_bytes", "gauge", "bytes", "The host's limit of a tier, 0: none.");
	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++)
		fprintf(out, "kvtier_tier_limit_bytes{tier=\"%s\"} %llu\n", tier_names[t],
			(unsigned long long)d->config.limit[t]);
}

static void tenant_tiers(struct kvtierd *d, FILE *out, const char *name, size_t offset)
{
	const struct tenant *t;
	uint32_t tier;

	for (t = d->tenants; t; t = t->next)
		for (tier = KVTIER_TIER_DRAM; tier < KVTIER_NR_TIERS; tier++)
			fprintf(out, "%s{tenant=\"%s\",tier=\"%s\"} %llu\n", name, t->name,
				tier_names[tier],
				(unsigned long long)((const uint64_t *)((const char *)t + offset))[tier]);
}

static void write_tenants(struct kvtierd *d, FILE *out)
{
	const struct tenant *t;

	family(out, "kvtier_tenant_used_bytes", "gauge", "bytes", "What a tenant occupies of a tier.");
	tenant_tiers(d, out, "kvtier_tenant_used_bytes", offsetof(struct tenant, used));
	family(out, "kvtier_tenant_quota_bytes", "gauge", "bytes", "A tenant's quota, 0: none.");
	tenant_tiers(d, out, "kvtier_tenant_quota_bytes", offsetof(struct tenant, quota));
	family(out, "kvtier_tenant_promoted_bytes", "counter", "bytes",
	       "Bytes read from NVMe for a tenant.");
	for (t = d->tenants; t; t = t->next)
		fprintf(out, "kvtier_tenant_promoted_bytes_total{tenant=\"%s\"} %llu\n", t->name,
			(unsigned long long)t->promoted_bytes);
	family(out, "kvtier_tenant_waits", "counter", "waits",
	       "Times that a tenant's fault found its quota, or the host's limit, used up.");
	for (t = d->tenants; t; t = t->next)
		fprintf(out, "kvtier_tenant_waits_total{tenant=\"%s\"} %llu\n", t->name,
			(unsigned long long)t->waits);
}

#define STAT(field) offsetof(struct kvtier_stats, field)

static const struct pool_counter {
	const char *name, *unit, *help;
	size_t offset;
	bool ns;
} pool_counters[] = {
	{ "kvtier_pool_faults", "faults", "Faults in a pool.", STAT(faults), 0 },
	{ "kvtier_pool_hard_faults", "faults", "... for blocks that nothing had begun to read.",
	  STAT(hard_faults), 0 },
	{ "kvtier_pool_late_faults", "faults", "... for blocks that were being read.",
	  STAT(late_faults), 0 },
	{ "kvtier_pool_fault_wait_seconds", "seconds", "Time with a thread waiting in a fault.",
	  STAT(fault_wait_ns), 1 },
	{ "kvtier_pool_read_seconds", "seconds", "Time with a read from NVMe under way.",
	  STAT(tier[KVTIER_TIER_NVME].read_ns), 1 },
	{ "kvtier_pool_promoted_blocks", "blocks", "Blocks that came from NVMe.", STAT(promoted), 0 },
	{ "kvtier_pool_demoted_blocks", "blocks", "Blocks that left memory.", STAT(demoted), 0 },
	{ "kvtier_pool_written_blocks", "blocks", "Blocks written to NVMe.", STAT(written_blocks), 0 },
	{ "kvtier_pool_crc_errors", "errors", "Blocks that did not match their checksum.",
	  STAT(crc_errors), 0 },
};

static void pool_sample(const struct pool *p, const struct pool_counter *c, FILE *out)
{
	struct kvtier_stats st;
	uint64_t value;

	if (p->module)
		device_pool_stats((struct pool *)p, &st);
	memcpy(&value, (const char *)(p->module ? &st : &p->stats) + c->offset, sizeof(value));
	fprintf(out, "%s_total{pool=\"%s\",tenant=\"%s\"} ", c->name, p->t->name, p->t->tenant);
	if (c->ns)
		fprintf(out, "%.9f\n", (double)value / NS_PER_S);
	else
		fprintf(out, "%llu\n", (unsigned long long)value);
}

static void write_pools(struct kvtierd *d, FILE *out)
{
	struct pool *p;
	uint32_t t;
	size_t i;

	family(out, "kvtier_pool_used_bytes", "gauge", "bytes", "What a pool occupies of a tier.");
	for (p = d->pools; p; p = p->next) {
		uint64_t used[KVTIER_NR_TIERS];

		pool_used(p, used);
		for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++)
			fprintf(out, "kvtier_pool_used_bytes{pool=\"%s\",tenant=\"%s\",tier=\"%s\"} "
				"%llu\n", p->t->name, p->t->tenant, tier_names[t],
				(unsigned long long)used[t]);
	}
	for (i = 0; i < sizeof(pool_counters) / sizeof(pool_counters[0]); i++) {
		const struct pool_counter *c = &pool_counters[i];

		family(out, c->name, "counter", c->unit, c->help);
		for (p = d->pools; p; p = p->next)
			pool_sample(p, c, out);
	}
}

void metrics_write(struct kvtierd *d, FILE *out)
{
	write_counters(d, out);
	write_gauges(d, out);
	write_tiers(d, out);
	write_tenants(d, out);
	write_pools(d, out);
	fputs("# EOF\n", out);
}
