#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# trace.sh: hit rates of kvtier's tiers beside infinite, LRU and Belady, at several sizes,
# over the traces of peers.  Deterministic: a model, not a measurement of this machine.
# Prints tables and puts figures named trace.* into $B/bench.json, where the others stay.
#
# Environment: B (build folder), TRACES (folder of the traces), ANNOUNCE (seconds by which
# a coding session's client tells of its next turn; 0.5).
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=tests/bench/figures.sh
. tests/bench/figures.sh

B=${B:-build}
TRACES=${TRACES:-../shared/data/traces}
ANNOUNCE=${ANNOUNCE:-0.5}
sizes_mooncake=1k,5k,10k,30k,50k
sizes_agentic=500,1k,2k,5k,10k,20k
work=$(mktemp -d "$B/trace.XXXXXX")
trap 'rm -rf "$work"' EXIT

[[ -f $TRACES/mooncake_conversation_trace.jsonl && -d $TRACES/agentic ]] || {
	echo "trace: no traces in $TRACES: name their folder in TRACES" >&2
	exit 1
}

# replay NAME TITLE OPTION... FILE...: a table, and the figures in $work/NAME.json
replay()
{
	local name=$1

	echo "$2"
	shift 2
	"$B/kvtier" trace replay "$@"
	echo
	"$B/kvtier" trace replay --json "$@" >"$work/$name.json"
}

replay mooncake "Mooncake conversation: what waits is known" --sizes $sizes_mooncake \
	"$TRACES/mooncake_conversation_trace.jsonl"
replay agentic "Coding sessions: turns are announced $ANNOUNCE s ahead" --sizes $sizes_agentic \
	--announce "$ANNOUNCE" "$TRACES"/agentic/*.json
replay unannounced "Coding sessions: nothing is announced" --sizes $sizes_agentic \
	"$TRACES"/agentic/*.json

# The worst size of each, with and without what is known of the future; then all sizes.
jq -n --slurpfile m "$work/mooncake.json" --slurpfile a "$work/agentic.json" \
	--slurpfile u "$work/unannounced.json" '
	def figure($name; $all; $target): {name: $name, value: ($all | min), unit: "%",
		target: $target, n: ($all | length), min: ($all | min), max: ($all | max)};
	def each($name; $all): $all[] | {name: ($name + "." + (.blocks | tostring)),
		value: .pct_belady, unit: "%", target: null, n: 1, min: .pct_belady, max: .pct_belady};
	($m[0].sizes) as $m | ($a[0].sizes) as $a | ($u[0].sizes) as $u |
	[figure("trace.mooncake.pct_belady"; [$m[].pct_belady]; 90),
	 figure("trace.agentic.pct_belady"; [$a[].pct_belady]; 90),
	 figure("trace.agentic.unannounced.pct_belady"; [$u[].pct_belady]; null),
	 figure("trace.mooncake.alone.pct_belady"; [$m[].alone_pct_belady]; null),
	 figure("trace.agentic.alone.pct_belady"; [$a[].alone_pct_belady]; null),
	 each("trace.mooncake.pct_belady"; $m), each("trace.agentic.pct_belady"; $a)]' \
	>"$work/figures.json"
figures_put "$work/figures.json" "$B/bench.json" trace.
jq -r '.[] | select(.name | test("^trace.*pct_belady$")) |
	"\(.name): \(.value * 10 | round / 10) % at the worst size (to \(.max * 10 | round / 10))"' \
	"$B/bench.json"
