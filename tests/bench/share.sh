#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# share.sh: two engines and eight idle sessions over one kvtierd, whose memory is a
# quarter of what they would need.  Prints a table and puts figures named share.* into
# $B/bench.json, where what others measured stays.  Documentation/testing.rst says what
# they mean.
#
# Environment: MIB (memory of all; 512), THREADS (of an engine; half the CPUs), ROUNDS (2),
# SLICES (5) of SLICE_S (4) seconds, BLOCK_KIB (256), DISK (folder; default: the build
# folder), B.  HUGE (1): while it runs, memory files that ask for it may have pages as large
# as a block, which kvtierd(8) recommends and root may set; 0: the machine is left as it is.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=tests/bench/figures.sh
. tests/bench/figures.sh

B=${B:-build}
ROUNDS=${ROUNDS:-2}
MIB=${MIB:-512}
BLOCK_KIB=${BLOCK_KIB:-256}
cpus=$(nproc)
THREADS=${THREADS:-$((cpus > 1 ? cpus / 2 : 1))}
daemon=
huge=/sys/kernel/mm/transparent_hugepage/hugepages-${BLOCK_KIB}kB/shmem_enabled
huge_was=
pages="pages of 4 KiB"

fail()
{
	echo "share: $*" >&2
	exit 1
}

say()
{
	printf '%7.0f s  %s\n' "$SECONDS" "$*" >&2
}

daemon_stop()
{
	[[ ! $daemon ]] || kill "$daemon" 2>/dev/null || true
	[[ ! $daemon ]] || wait "$daemon" 2>/dev/null || true
	daemon=
}

cleanup()
{
	[[ ! $huge_was ]] || echo "$huge_was" >"$huge"
	daemon_stop
	rm -rf "$work" "$socket"*
}

[[ -x $B/bench-share && -x $B/kvtierd ]] || fail "$B/bench-share is missing; run: make bench-share"
work=$(mktemp -d "$(realpath "${DISK:-$B}")/share.XXXXXX") || fail "cannot write to ${DISK:-$B}"
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
# A socket's path is short.
socket=$(mktemp -u /tmp/kvtier-share.XXXXXX)

if [[ ${HUGE:-1} != 0 && -w $huge ]]; then
	huge_was=$(sed 's/.*\[\(.*\)\].*/\1/' "$huge")
	echo advise >"$huge"
	pages="pages of as much"
fi

daemon_start()
{
	cat >"$work/kvtierd.conf" <<-END
		[daemon]
		socket = $socket
		state-dir = $work/state
		module = no
		log-level = warning
		[metrics]
		socket = $socket.metrics
		[tiers]
		dram = ${MIB}M
		[writeback]
		rate = 0
		[idle]
		drain-above = 0
	END
	"$B/kvtierd" --config "$work/kvtierd.conf" 2>"$work/kvtierd.log" &
	daemon=$!
	for ((try = 0; try < 100; try++)); do
		[[ ! -S $socket ]] || return 0
		kill -0 "$daemon" 2>/dev/null || break
		sleep 0.1
	done
	fail "kvtierd does not start: $(tail -n 1 "$work/kvtierd.log")"
}

for ((round = 0; round < ROUNDS; round++)); do
	daemon_start
	timeout 120 "$B/bench-share" --socket "$socket" --raw "$work/raw" --mib "$MIB" \
		--threads "$THREADS" --slices "${SLICES:-5}" --seconds "${SLICE_S:-4}" --block-kib "$BLOCK_KIB" \
		>>"$work/samples" 2>"$work/log" || fail "$(tail -n 1 "$work/log")"
	[[ ! -s $work/kvtierd.log ]] || say "kvtierd says: $(tail -n 1 "$work/kvtierd.log")"
	daemon_stop
	rm -rf "$work/raw" "$work/state" "$socket"*
	say "round $((round + 1)) of $ROUNDS"
done

figures_of "$work/samples" >"$work/share.json"
figures_put "$work/share.json" "$B/bench.json" share.
echo "$cpus CPUs, $THREADS threads an engine, $MIB MiB for all, blocks of $BLOCK_KIB KiB, $pages"
jq -r -f tests/bench/table.jq "$work/share.json"
