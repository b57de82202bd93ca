/* SPDX-License-Identifier: GPL-2.0-only */
/* What happens to blocks, for tracefs: events/kvtier/. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM kvtier

#if !defined(KVT_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define KVT_TRACE_H

#include <linux/tracepoint.h>

TRACE_EVENT(kvtier_fault,
	TP_PROTO(u32 pool, u64 block, u32 kind),
	TP_ARGS(pool, block, kind),
	TP_STRUCT__entry(
		__field(u32, pool)
		__field(u64, block)
		__field(u32, kind)
	),
	TP_fast_assign(
		__entry->pool = pool;
		__entry->block = block;
		__entry->kind = kind;
	),
	TP_printk("pool=%u block=%llu kind=%s", __entry->pool, __entry->block,
		  __print_symbolic(__entry->kind, { 0, "soft" }, { 1, "hard" }, { 2, "late" },
				   { 3, "zero" }))
);

TRACE_EVENT(kvtier_map,
	TP_PROTO(u32 pool, u64 block, u32 tier),
	TP_ARGS(pool, block, tier),
	TP_STRUCT__entry(
		__field(u32, pool)
		__field(u64, block)
		__field(u32, tier)
	),
	TP_fast_assign(
		__entry->pool = pool;
		__entry->block = block;
		__entry->tier = tier;
	),
	TP_printk("pool=%u block=%llu tier=%u", __entry->pool, __entry->block, __entry->tier)
);

DECLARE_EVENT_CLASS(kvtier_result,
	TP_PROTO(u32 pool, u64 block, int error),
	TP_ARGS(pool, block, error),
	TP_STRUCT__entry(
		__field(u32, pool)
		__field(u64, block)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->pool = pool;
		__entry->block = block;
		__entry->error = error;
	),
	TP_printk("pool=%u block=%llu error=%d", __entry->pool, __entry->block, __entry->error)
);

DEFINE_EVENT(kvtier_result, kvtier_promote,
	TP_PROTO(u32 pool, u64 block, int error), TP_ARGS(pool, block, error));
DEFINE_EVENT(kvtier_result, kvtier_writeback,
	TP_PROTO(u32 pool, u64 block, int error), TP_ARGS(pool, block, error));

TRACE_EVENT(kvtier_demote,
	TP_PROTO(u32 pool, u64 block, u32 tier),
	TP_ARGS(pool, block, tier),
	TP_STRUCT__entry(
		__field(u32, pool)
		__field(u64, block)
		__field(u32, tier)
	),
	TP_fast_assign(
		__entry->pool = pool;
		__entry->block = block;
		__entry->tier = tier;
	),
	TP_printk("pool=%u block=%llu tier=%u", __entry->pool, __entry->block, __entry->tier)
);

TRACE_EVENT(kvtier_migrate,
	TP_PROTO(u32 pool, u64 block, u32 from, u32 to, int error),
	TP_ARGS(pool, block, from, to, error),
	TP_STRUCT__entry(
		__field(u32, pool)
		__field(u64, block)
		__field(u32, from)
		__field(u32, to)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->pool = pool;
		__entry->block = block;
		__entry->from = from;
		__entry->to = to;
		__entry->error = error;
	),
	TP_printk("pool=%u block=%llu from=%u to=%u error=%d", __entry->pool, __entry->block,
		  __entry->from, __entry->to, __entry->error)
);

TRACE_EVENT(kvtier_io,
	TP_PROTO(u32 store, u32 unit, u64 bytes, bool write, u64 ns, int error),
	TP_ARGS(store, unit, bytes, write, ns, error),
	TP_STRUCT__entry(
		__field(u32, store)
		__field(u32, unit)
		__field(u64, bytes)
		__field(bool, write)
		__field(u64, ns)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->store = store;
		__entry->unit = unit;
		__entry->bytes = bytes;
		__entry->write = write;
		__entry->ns = ns;
		__entry->error = error;
	),
	TP_printk("store=%u unit=%u bytes=%llu %s ns=%llu error=%d", __entry->store,
		  __entry->unit, __entry->bytes, __entry->write ? "write" : "read",
		  __entry->ns, __entry->error)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
