# SPDX-License-Identifier: MIT
#
# The three runs against the bound of this machine: a decode step reads the whole
# cache, so it takes at least what it takes with all memory, and at least what
# the disk needs for the bytes that do not fit.

def same($all):
	if .complete then .logits_fnv == $all.logits_fnv
	elif .gen_tokens > 0 then
		.contexts[0].gen_step_fnv[-1] == $all.contexts[0].gen_step_fnv[.gen_tokens - 1]
	else true end;

# $bound is null for the run that has all memory.
def run($name; $all; $bound; $kv; $peak; $limit):
	{
		name: $name, prompt_tps, gen_tps, gen_tokens, complete,
		step_s: .gen_step_median_s,
		pct_bound: (if $bound and .gen_step_median_s > 0
			then 100 * $bound / .gen_step_median_s else null end),
		kv_resident: $kv, peak: $peak, limit: $limit,
		logits_fnv: (if .complete then .logits_fnv else .contexts[0].gen_step_fnv[-1] end),
		same: same($all)
	};

# The kernel may join an unnamed cache and its neighbour into one mapping.
def cache: [., $all[0].kv_bytes] | min;

$all[0] as $a | $kvtier[0] as $k
| ($a.prompt_tokens + $a.gen_tokens / 2) as $tokens
| ($a.kv_bytes * ([$tokens / $a.ctx, 1] | min)) as $live
| (([$live - $quarter, 0] | max) / $disk) as $disk_s
| ([$a.gen_step_median_s, $disk_s] | max) as $bound
| (if $no_cgroup == "" then $limit else null end) as $enforced
| {
	kv_bytes: $a.kv_bytes, live_bytes: $live, dram_bytes: $quarter, cpu: $a.cpu,
	disk_bytes_per_s: $disk, bound_disk_s: $disk_s,
	bound_compute_s: $a.gen_step_median_s, bound_s: $bound,
	no_swap: $no_swap, no_cgroup: $no_cgroup,
	runs: ([
		($a | run("all memory"; $a; null; $all_kv | cache; $all_peak; null)),
		($k | run("kvtier"; $a; $bound; $kvtier_kv; $kvtier_peak; $enforced))
	] + if $swap then
		[$swap | run("swap"; $a; $bound; $swap_kv | cache; $swap_peak; $enforced)]
	else [] end),
	stats: $stats[0]
}
