#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# restart.sh: kill -9 of an engine and of kvtierd while tokens are generated; then from
# kvtierd's start to the sequence's next token, against computing its prompt again.  The
# logits must have the same bits.  Prints a table and puts figures named restart.* into
# JSON, where what others measured stays.
#
# Environment: MODEL (GGUF; default: one with random weights), TOKENS (of the prompt; 2048),
# THREADS (all CPUs), ROUNDS (3), DISK (folder; default: the build folder), B, JSON
# ($B/bench.json).
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=tests/bench/figures.sh
. tests/bench/figures.sh

B=${B:-build}
JSON=${JSON:-$B/bench.json}
TOKENS=${TOKENS:-2048}
ROUNDS=${ROUNDS:-3}
daemon=
engine=

fail()
{
	echo "restart: $*" >&2
	exit 1
}

stop() # PID
{
	[[ ! $1 ]] || kill -9 "$1" 2>/dev/null || true
	[[ ! $1 ]] || wait "$1" 2>/dev/null || true
}

cleanup()
{
	stop "$engine"
	stop "$daemon"
	rm -rf "$work" "$socket"*
}

[[ -x $B/bench-restart && -x $B/kvtierd ]] || fail "$B/bench-restart is missing; run: make bench-restart"
work=$(mktemp -d "$(realpath "${DISK:-$B}")/restart.XXXXXX") || fail "cannot write to ${DISK:-$B}"
socket=$(mktemp -u /tmp/kvtier-restart.XXXXXX) # a socket's path is short
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
model=${MODEL:-$work/model.gguf}
# Attention of a 1B model on a small body: 4 layers, 8 over 8 heads of 64, 8 KiB a token.
[[ ${MODEL:-} ]] || "$B/mkmodel" --layers 4 --heads 8 --kv-heads 8 --head-dim 64 --embd 256 \
	--ffn 512 -o "$model" || fail "no MODEL, and none can be made"
cat >"$work/kvtierd.conf" <<-END
	[daemon]
	socket = $socket
	state-dir = $work/state
	module = no
	log-level = warning
	[metrics]
	socket = $socket.metrics
END

daemon_start()
{
	rm -f "$socket"
	"$B/kvtierd" --config "$work/kvtierd.conf" 2>"$work/kvtierd.log" &
	daemon=$!
	for ((try = 0; try < 5000; try++)); do
		[[ ! -S $socket ]] || return 0
		kill -0 "$daemon" 2>/dev/null || break
		sleep 0.002
	done
	fail "kvtierd does not start: $(tail -n 1 "$work/kvtierd.log")"
}

run() # compute|restore
{
	exec "$B/bench-restart" --socket "$socket" --model "$model" --tokens "$TOKENS" \
		--threads "${THREADS:-0}" --manifest "$work/manifest" "$1" >"$work/$1" 2>"$work/log"
}

compute()
{
	: >"$work/compute"
	run compute &
	engine=$!
	until [[ -s $work/compute ]]; do
		kill -0 "$engine" 2>/dev/null || fail "compute: $(tail -n 1 "$work/log")"
		sleep 0.05
	done
	sleep 0.3 # it generates meanwhile
}

now()
{
	echo "${EPOCHREALTIME/./}"
}

for ((round = 0; round < ROUNDS; round++)); do
	daemon_start
	compute
	stop "$engine"
	stop "$daemon"
	begun=$(now)
	daemon_start
	started=$(now)
	(run restore) || fail "restore: $(tail -n 1 "$work/log")"
	jq -rn --slurpfile c "$work/compute" --slurpfile r "$work/restore" \
		--argjson daemon $((started - begun)) '
		$c[0] as $c | $r[0] as $r | ($daemon / 1e6 + $r.seconds) as $s |
		"restart.vs_recompute \($c.seconds / $s)", "restart.first_token_ms \(1000 * $s)",
		"restart.recompute_ms \(1000 * $c.seconds)", "restart.durable_ms \(1000 * $c.durable_s)",
		"restart.equal \(if $c.hash == $r.hash then 1 else 0 end)"' >>"$work/samples"
	stop "$daemon"
	rm -rf "$work/state" "$work/manifest"
done

figures_of "$work/samples" >"$work/restart.json"
figures_put "$work/restart.json" "$JSON" restart.
echo "$(jq -r .bytes "$work/compute") bytes of keys and values, a prompt of $TOKENS tokens"
jq -r -f tests/bench/table.jq "$work/restart.json"
! grep -q '^restart.equal 0' "$work/samples" || fail "logits differ"
