#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# attend.sh: attention of one query token against a plain read of the same buffer
# and ggml's flash attention over it, type after type; prints a table and puts its
# medians into $B/bench.json, beside what other benchmarks measured.
#
# Environment: TYPES, TOKENS (32768), ROUNDS (5), MIB (512), KVTIER_ISA, B (build folder).
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=tests/bench/figures.sh
. tests/bench/figures.sh

B=${B:-build}
TYPES=${TYPES:-f16 int8 q8_0 q4_0 bf16 f32 e4m3 e5m2 int4}
TOKENS=${TOKENS:-32768}
ROUNDS=${ROUNDS:-5}
MIB=${MIB:-512}

fail()
{
	echo "bench-attend: $*" >&2
	exit 1
}

# With all CPUs, and with one thread.
measure()
{
	local type=$1 threads

	for threads in "$(nproc)" 1; do
		printf '%7.0f s  %s, %d thread(s)\n' "$SECONDS" "$type" "$threads" >&2
		"$B/bench-attend" --type "$type" --engine "$engine" --tokens "$TOKENS" \
			--threads "$threads" --rounds "$ROUNDS" --mib "$MIB" >>"$samples"
		[[ $(nproc) -gt 1 ]] || break
	done
}

[[ -x $B/bench-attend ]] || fail "$B/bench-attend is missing; run: make bench-attend"
engine=$(scripts/engine.sh)
samples=$(mktemp "$B/attend.XXXXXX") || fail "cannot write to $B"
trap 'rm -f "$samples" "$samples.json"' EXIT
trap 'exit 130' INT TERM HUP
for type in $TYPES; do
	measure "$type"
done
figures_of "$samples" >"$samples.json"
figures_put "$samples.json" "$B/bench.json"
jq -r -f tests/bench/table.jq "$samples.json"
