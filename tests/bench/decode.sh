#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# decode.sh: a decode step over a cache of 1, 2, 4 and 8 times its memory, streamed,
# against the bound of the same round and against other ways to have a cache that is
# larger than memory.  Prints a table and puts its figures into $B/bench.json, where
# what others measured stays.  Documentation/testing.rst says what they mean.
#
# Environment: TOKENS (4096), TYPES ("f16 int8"), TIMES ("1 2 4 8"), BLOCK_KIB (2048),
# WEIGHTS_MIB (4500; 0: no whole steps), THREADS (all CPUs), ROUNDS (3), STEPS (5), DISK
# (folder; default: the build folder), B.
# shellcheck disable=SC2016 # $s and the like are jq's
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=tests/bench/figures.sh
. tests/bench/figures.sh
# shellcheck source=demo/cgroup.sh
. demo/cgroup.sh

B=${B:-build}
ROUNDS=${ROUNDS:-3}
STEPS=${STEPS:-5}
TYPES=${TYPES:-f16 int8}
TIMES=${TIMES:-1 2 4 8}
MIB=$((1 << 20))
PROGRAM=$((32 * MIB)) # what the program has besides the cache
options=(--tokens "${TOKENS:-4096}" --block-kib "${BLOCK_KIB:-2048}" --threads "${THREADS:-0}"
	--steps "$STEPS" --warm 5)

fail()
{
	echo "decode: $*" >&2
	exit 1
}

say()
{
	printf '%7.0f s  %s\n' "$SECONDS" "$*" >&2
}

cleanup()
{
	swap_off
	cgroup_remove
	rm -rf "$work"
}

[[ -x $B/bench-decode && -x $B/probe ]] || fail "$B/bench-decode is missing; run: make bench-decode"
work=$(mktemp -d "$(realpath "${DISK:-$B}")/decode.XXXXXX") || fail "cannot write to ${DISK:-$B}"
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
samples=$work/samples
export KVTIER_RUNTIME_DIR=$work/run

# sample NAME FILTER [ARGUMENTS]: a value computed by jq.
sample()
{
	local name=$1

	shift
	echo "$name $(jq -n "$@")" >>"$samples"
}

# place NAME FILE [OPTIONS]: run it; its JSON is in $work/FILE.json
place()
{
	local name=$1 file=$2

	shift 2
	"$B/bench-decode" "${options[@]}" --type "$type" "$@" "$name" >"$work/$file.json" \
		2>"$work/log" || fail "$name: $(tail -n 1 "$work/log")"
}

value() # FILE FILTER
{
	jq -r "$2" "$work/$1.json"
}

# What plain O_DIRECT reads get now, with each of a few sizes and depths; a line each.
raw_rates()
{
	local config

	for config in "1048576 8" "1048576 16" "2097152 3" "2097152 8"; do
		# shellcheck disable=SC2086 # two words
		set -- $config
		"$B/probe" read --file "$work/raw" --block "$1" --qd "$2" --seconds 0.3 |
			jq '.bytes_per_s | floor'
	done
}

# The best of them over the rounds taken before and after a measurement: of each the mean
# first, since the best of single short looks at a disk that varies is more than it sustains.
best_rate() # BEFORE AFTER
{
	paste <(echo "$1") <(echo "$2") |
		awk '{ mean = ($1 + $2) / 2; if (mean > best) best = mean } END { printf "%.0f", best }'
}

all_equal=1
same_bits() # FILE FILE
{
	[[ $(value "$1" .hash) == "$(value "$2" .hash)" ]] && return 0
	say "BITS DIFFER: $1 and $2"
	all_equal=0
}

# ... and into as much memory as the pool has: few buffers stay in the CPU's cache.
wide_rate() # TIMES
{
	"$B/probe" read --file "$work/raw" --block 1048576 --qd 8 --seconds 0.3 \
		--into $(($(value memory .bytes) / $1)) | jq '.bytes_per_s | floor'
}

stream() # TIMES
{
	local times=$1 rate before wide

	before=$(raw_rates)
	wide=$(wide_rate "$times")
	place stream stream --times "$times" --path "$work"
	rate=$(best_rate "$before" "$(raw_rates)")
	wide=$(((wide + $(wide_rate "$times")) / 2))
	sample "$prefix.raw_wide_MBps.${times}x" --argjson rate "$wide" '$rate / 1000000'
	same_bits stream memory
	sample "$prefix.raw_MBps.${times}x" --argjson rate "$rate" '$rate / 1000000'
	set -- --slurpfile s "$work/stream.json" --slurpfile m "$work/memory.json" \
		--argjson rate "$rate" --argjson times "$times"
	local lets='$s[0] as $s | $m[0] as $m
		| ($s.bytes * (1 - 1 / $times) / $rate) as $disk
		| ([$m.step_s, $disk] | max) as $bound | '

	sample "$prefix.tokens_s.${times}x" "$@" "$lets 1 / \$s.step_s"
	sample "$prefix.pct_bound.${times}x" "$@" "$lets 100 * \$bound / \$s.step_s"
	[[ $times -gt 1 ]] || return 0
	sample "$prefix.hidden.${times}x" "$@" \
		"$lets [0, 100 * (1 - \$s.wait_s / \$s.transfer_s)] | max"
	sample "$prefix.hidden_most.${times}x" "$@" \
		"$lets [100, 100 * \$m.step_s / \$s.transfer_s] | min"
	sample "$prefix.overlap.${times}x" "$@" "$lets
		100 * (\$m.step_s + \$disk - \$s.step_s) / ([\$m.step_s, \$disk] | min)
		| [0, ([100, .] | min)] | max"
	sample "$prefix.read_MBps.${times}x" "$@" "$lets \$s.read_bytes / \$s.transfer_s / 1000000"
}

# A whole step: after each layer's attention its part of a model's weights is multiplied.
whole()
{
	local rate before
	local weights=(--weights-mib "$weights_mib")

	place memory whole_memory "${weights[@]}"
	before=$(raw_rates)
	place stream whole --times 4 --path "$work" "${weights[@]}"
	rate=$(best_rate "$before" "$(raw_rates)")
	same_bits whole whole_memory
	set -- --slurpfile s "$work/whole.json" --slurpfile m "$work/whole_memory.json" \
		--argjson rate "$rate"
	sample decode.whole.memory_ms "$@" '1000 * $m[0].step_s'
	sample decode.whole.pct_bound.4x "$@" '$s[0] as $s
		| 100 * ([$m[0].step_s, $s.bytes * 3 / 4 / $rate] | max) / $s.step_s'
	sample decode.whole.hidden.4x "$@" \
		'$s[0] as $s | [0, 100 * (1 - $s.wait_s / $s.transfer_s)] | max'
}

# against NAME FILE: how many times longer a step takes there than streamed
against()
{
	same_bits "$2" memory
	sample "$prefix.$1.4x" --slurpfile s "$work/stream4.json" --slurpfile o "$work/$2.json" \
		'$o[0].step_s / $s[0].step_s'
}

in_cgroup() # NAME FILE OPTIONS...
{
	local limit=$(($(value memory .bytes) / 4 + PROGRAM)) name=$1 file=$2

	shift 2
	cgroup_create "bench-$file" "$limit"
	"${cgroup_enter[@]}" "$B/bench-decode" "${options[@]}" --type "$type" "$@" "$name" \
		>"$work/$file.json" 2>"$work/log" || fail "$file: $(tail -n 1 "$work/log")"
	cgroup_remove
}

others()
{
	cp "$work/stream.json" "$work/stream4.json"
	place touch touch --times 4 --path "$work"
	against vs_touch touch
	place write write --path "$work/file"
	place pread pread --times 4 --path "$work/file"
	against vs_pread pread
	if [[ ! $cgroup_missing ]]; then
		in_cgroup map map --path "$work/file" --warm 1 --steps 2
		against vs_map map
	fi
	rm -f "$work/file"
	[[ ! $cgroup_missing ]] || { swap_missing=$cgroup_missing && return 0; }
	swap_on "$work/swap" $(($(value memory .bytes) + 256 * MIB)) || return 0
	in_cgroup memory swap --warm 1 --steps 2
	against vs_swap swap
	swap_off
}

# Llama-3-8B's at 4 bits, or as much of them as leaves half of the free memory alone.
free_mib=$(awk '/^MemAvailable/ { printf "%d", $2 / 1024 }' /proc/meminfo)
weights_mib=${WEIGHTS_MIB:-4500}
[[ $weights_mib -le $((free_mib / 2)) ]] || weights_mib=$((free_mib / 2))

swap_missing=
cgroup_find
: >"$samples"
dd if=/dev/urandom of="$work/raw" bs=1M count=512 conv=fsync status=none
for ((round = 1; round <= ROUNDS; round++)); do
	for type in $TYPES; do
		prefix=decode
		[[ $type == f16 ]] || prefix=decode.$type
		place memory memory
		sample "$prefix.memory_ms" --slurpfile m "$work/memory.json" '1000 * $m[0].step_s'
		for times in $TIMES; do
			stream "$times"
			[[ $times -ne 4 ]] || others
		done
		[[ $type != f16 || $weights_mib -eq 0 ]] || whole
	done
	say "round $round of $ROUNDS"
done
sample decode.equal "$all_equal"
figures_of "$samples" >"$work/new.json"
figures_put "$work/new.json" "$B/bench.json"
jq -r -f tests/bench/table.jq "$work/new.json"
[[ ! $swap_missing ]] || echo "swap was not measured: $swap_missing"
[[ ! $cgroup_missing ]] || echo "a mapped file was not measured: $cgroup_missing"
[[ $weights_mib -eq ${WEIGHTS_MIB:-4500} ]] ||
	echo "whole steps read $weights_mib MiB of weights: there is no memory for more"
[[ $all_equal -eq 1 ]] || fail "bits differ"
