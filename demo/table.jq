# SPDX-License-Identifier: MIT
# The demo's result for people.

def pad($n): tostring | if length < $n then . + " " * ($n - length) else . end;
def lpad($n): tostring | if length < $n then " " * ($n - length) + . else . end;
def round1: . * 10 | round / 10;
def round2: . * 100 | round / 100;
def mib: if . then "\(. / 1048576 | round) MiB" else "-" end;
def rate: if . and . > 0 then (if . < 10 then round2 else round1 end) else "-" end;

# Counters by their name in the contract, wherever --stats puts them.
def counter($name): [.. | objects | .[$name]? | numbers] | add // 0;

def row: "\(.[0] | pad(11))\(.[1] | lpad(9))\(.[2] | lpad(9))\(.[3] | lpad(10))\(.[4] | lpad(9))" +
	"\(.[5] | lpad(10))\(.[6] | lpad(10))\(.[7] | lpad(10))  \(.[8])";

def table:
	(["", "prompt/s", "gen/s", "step ms", "% bound", "KV in RAM", "used", "limit", "logits"] | row),
	(.runs[] | [
		.name, (.prompt_tps | rate), (.gen_tps | rate),
		(if .step_s > 0 then .step_s * 1000 | round1 else "-" end),
		(if .pct_bound then .pct_bound | round1 else "-" end),
		(.kv_resident | mib), (if .peak > 0 then .peak | mib else "-" end), (.limit | mib),
		(if .same | not then "DIFFERENT" elif .complete then .logits_fnv
		elif .gen_tokens > 0 then "equal so far" else "-" end)
	] | row);

def against_swap:
	(.runs[] | select(.name == "kvtier")) as $k
	| (.runs[] | select(.name == "swap")) // null
	| if . == null then empty
	elif .gen_tokens == 0 then "swap: stopped at its time limit before the first token"
	else "kvtier generates \($k.gen_tps / .gen_tps | round1) times as fast as swap"
		+ if .complete then "" else " (swap was stopped after token \(.gen_tokens))" end
	end;

def tiers:
	.stats | [
		"blocks read back \(counter("promoted")), written \(counter("written_blocks"))",
		"faults that waited for the disk \(counter("hard_faults"))",
		"that came early for a prefetch \(counter("late_faults"))",
		"prefetched \(counter("prefetched")), used \(counter("prefetch_used"))",
		"transfer time hidden \(counter("hidden_fraction") * 100 | round) %",
		"checksum errors \(counter("crc_errors"))"
	] | join("; ");

table,
"",
"bound: a step takes at least \(.bound_s * 1000 | round1) ms (computing \(
	.bound_compute_s * 1000 | round1) ms, disk \(.bound_disk_s * 1000 | round1) ms at \(
	.disk_bytes_per_s / 1e6 | round) MB/s)",
"cache: \(.kv_bytes | mib), of it \(.live_bytes | mib) in use; kvtier had \(.dram_bytes | mib)",
"tiers: \(tiers)",
against_swap,
(if .no_swap != "" then "swap: not run (\(.no_swap))" else empty end),
(if .no_cgroup != "" then "limit: not enforced (\(.no_cgroup))" else empty end)
