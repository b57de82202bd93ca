#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# demo.sh: one unmodified llama.cpp, three times the same prompt and generation:
#
#   all memory   as it is
#   kvtier       the cache's memory cut to a quarter, the rest on this disk
#   swap         a cgroup with the same limit, and a swap file on this disk
#
# and a table of what that costs.  Fails when the logits differ.  Memory and
# limits are the kernel's figures (cgroup and smaps), not kvtier's.
# "demo.sh check" looks at what it is given, and runs nothing.
#
# Environment: MODEL (a GGUF file; default: random weights made on the spot), CTX
# (tokens of context), GEN (tokens to generate), THREADS (1), DISK (folder for the
# disk files; default: the build folder), SWAP_SECONDS (limit of the swap run),
# B (build folder).
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=demo/cgroup.sh
. demo/cgroup.sh

B=${B:-build}
GEN=${GEN:-32}
CTX=${CTX:-}
THREADS=${THREADS:-1}
SWAP_SECONDS=${SWAP_SECONDS:-80}
# The attention of Llama-3-8B on a small body: 128 KiB of cache a token.
geometry=(--layers 32 --heads 32 --kv-heads 8 --head-dim 128 --embd 256 --ffn 256)
default_ctx=2048
# What page tables, ring buffers and counters may take beside the cache.
slack=$((16 << 20))
phase_start=

fail()
{
	[[ ! $phase_start ]] || echo >&2
	echo "demo: $*" >&2
	exit 1
}

# One line a phase: what it does, then how long it took.
phase()
{
	phase_end
	phase_start=$EPOCHREALTIME
	printf '  %-58s' "$*" >&2
}

phase_end()
{
	[[ $phase_start ]] || return 0
	jq -nr --arg a "$phase_start" --arg b "$EPOCHREALTIME" \
		'($b | tonumber) - ($a | tonumber) | "\(. * 10 | round / 10) s"' >&2
	phase_start=
}

job=
cleanup()
{
	[[ ! $job ]] || kill -KILL -- "-$job" 2>/dev/null || true
	[[ ! $job ]] || wait "$job" 2>/dev/null || true
	swap_off
	cgroup_remove
	[[ ! ${work:-} ]] || rm -rf "$work"
}

is_number()
{
	[[ $2 =~ ^[1-9][0-9]{0,8}$ ]] || fail "$1=$2 is not a number of at least 1"
}

check_input()
{
	is_number GEN "$GEN"
	is_number THREADS "$THREADS"
	is_number SWAP_SECONDS "$SWAP_SECONDS"
	[[ ! $CTX ]] || is_number CTX "$CTX"
	[[ ! ${MODEL:-} || -r $MODEL ]] || fail "cannot read MODEL=$MODEL"
	CTX=${CTX:-$default_ctx}
	[[ $CTX -gt $((GEN + 1)) ]] || fail "CTX=$CTX leaves no room for a prompt before GEN=$GEN"
}

check_programs()
{
	for program in generate mkmodel probe kvtier; do
		[[ -x $B/$program ]] || fail "$B/$program is missing; run: make demo"
	done
}

json()
{
	jq -r "$2" "$work/$1.json"
}

# pool_ranges PID: the mappings of its pools, as pairs of 16-digit addresses; for
# kernels that do not show the mappings' names.
pool_ranges()
{
	local start bytes

	"$B/kvtier" stat --json | jq -r --argjson pid "$1" '.[] | select(.pid == $pid) |
		"\(.addr) \(.addr_bytes)", "\(.arena_addr) \(.arena_bytes)"' |
		while read -r start bytes; do
			printf '%016x %016x ' $((start)) $((start + bytes))
		done
}

# Largest resident size of the cache so far, as smaps has it: of kvtier's mappings
# or, without any, of the engine's largest anonymous mapping.
kv_rss=0
ranges=
sample_kv()
{
	local pid kb

	read -r pid <"$work/pid" || return 0
	[[ $1 != kvtier || $ranges ]] || ranges=$(pool_ranges "$pid")
	kb=$(awk -v ranges="$ranges" '
		function wide(hex) { return substr("0000000000000000", 1 + length(hex)) hex }
		BEGIN { nr = split(ranges, range, " ") }
		/^[0-9a-f]+-[0-9a-f]+ / {
			split($1, at, "-")
			ours = /\[anon:kvtier/
			for (i = 1; i < nr; i += 2)
				if (wide(at[1]) "" < range[i + 1] && wide(at[2]) "" > range[i])
					ours = 1
			anonymous = $5 == 0
		}
		/^Rss:/ && ours { sum += $2 }
		/^Rss:/ && anonymous && $2 > largest { largest = $2 }
		END { print sum ? sum : largest + 0 }' "/proc/$pid/smaps") || return 0
	[[ ${kb:-0} -le $kv_rss ]] || kv_rss=$kb
}

# run NAME SECONDS [PREFIX...]: the same engine and work under a prefix command;
# results in NAME.json, its memory in kv[NAME] and peak[NAME] (bytes).
declare -A kv=([swap]=0) peak=([swap]=0)
run()
{
	local name=$1 seconds=$2 status=0

	shift 2
	rm -f "$work/pid"
	kv_rss=0
	ranges=
	# shellcheck disable=SC2016 # expanded by the inner shell
	timeout -k 10 "$seconds" "$@" sh -c 'echo $$ >"$0"; exec "$@"' "$work/pid" \
		"$B/generate" --engine "$engine/lib" --model "$model" --ctx "$CTX" \
		--prompt-tokens $((CTX - GEN)) --gen "$GEN" --threads "$THREADS" \
		--json "$work/$name.json" >"$work/$name.log" 2>&1 &
	job=$!
	{
		while kill -0 "$job"; do
			sample_kv "$name"
			sleep 0.5
		done
		wait "$job" || status=$?
	} 2>/dev/null # not the shell's own words on a killed job
	job=
	kv[$name]=$((kv_rss * 1024))
	peak[$name]=$(cgroup_peak)
	return "$status"
}

# Why the run NAME failed, in one line.
last_words()
{
	local line

	line=$(tail -n 1 "$work/$1.log")
	echo "${line:-killed; it needs more than its limit of memory}"
}

# The best of a few block sizes, in bytes a second: the disk at its best.
disk_rate=0
probe_disk()
{
	local block rate

	for block in 262144 1048576 2097152; do
		rate=$("$B/probe" read --file "$work/disk" --block $block --qd 8 --seconds 0.7 |
			jq '.bytes_per_s | floor') || fail "cannot measure the disk"
		[[ $rate -le $disk_rate ]] || disk_rate=$rate
	done
}

make_probe_file()
{
	dd if=/dev/urandom of="$work/disk" bs=1M count=512 conv=fsync status=none ||
		fail "cannot write 512 MiB to $work; name another folder with DISK="
}

run_all_memory()
{
	phase "engine with all memory"
	cgroup_create all
	run all 0 "${cgroup_enter[@]}" || fail "the engine failed: $(last_words all)"
	cgroup_remove
	kv_bytes=$(json all '.kv_bytes | floor')
	quarter=$((kv_bytes / 4))
	# The rest of the engine keeps what it needed; only the cache is cut.
	if [[ ${peak[all]} -gt $kv_bytes ]]; then
		limit=$((peak[all] - kv_bytes + quarter + slack))
	else
		limit=$(($(json all .hwm_kb) * 1024 - kv_bytes + quarter + slack))
	fi
}

run_kvtier()
{
	phase "kvtier, cache memory $((quarter >> 20)) of $((kv_bytes >> 20)) MiB"
	cgroup_create kvtier "$limit" no-swap
	run kvtier 0 "${cgroup_enter[@]}" "$B/kvtier" run --dram "$quarter" --nvme "$work" \
		--stats "$work/stats.json" -- ||
		fail "the engine under kvtier failed: $(last_words kvtier)"
	cgroup_remove
}

run_swap()
{
	[[ ! $cgroup_missing ]] || { swap_missing=$cgroup_missing && return 0; }
	swap_on "$work/swap" $((kv_bytes + (256 << 20))) || return 0
	phase "swap, the same limit, at most $SWAP_SECONDS s"
	cgroup_create swap "$limit"
	# Stopped at its time limit, it still says how far it came.
	run swap "$SWAP_SECONDS" "${cgroup_enter[@]}" || [[ -s $work/swap.json ]] ||
		swap_missing="the engine did not survive it: $(last_words swap)"
	cgroup_remove
	swap_off
}

# Everything that the table says, as one JSON object.
summary()
{
	local swap=null

	[[ $swap_missing ]] || swap=$(cat "$work/swap.json")
	jq -n --slurpfile all "$work/all.json" --slurpfile kvtier "$work/kvtier.json" \
		--argjson swap "$swap" --slurpfile stats "$work/stats.json" \
		--argjson disk "$disk_rate" --argjson quarter "$quarter" --argjson limit "$limit" \
		--argjson all_kv "${kv[all]}" --argjson all_peak "${peak[all]}" \
		--argjson kvtier_kv "${kv[kvtier]}" --argjson kvtier_peak "${peak[kvtier]}" \
		--argjson swap_kv "${kv[swap]}" --argjson swap_peak "${peak[swap]}" \
		--arg no_swap "$swap_missing" --arg no_cgroup "$cgroup_missing" \
		-f demo/summary.jq
}

check_hashes()
{
	jq -e '[.runs[] | .same] | all' "$B/demo.json" >/dev/null ||
		fail "the logits differ from the run with all memory"
}

check_input
[[ ${1:-} != check ]] || exit 0
check_programs
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
work=$(mktemp -d "$(realpath "${DISK:-$B}")/demo.XXXXXX" 2>/dev/null) ||
	fail "cannot write to ${DISK:-$B}; name another folder with DISK="
cgroup_find

echo "kvtier demo: $((CTX - GEN)) prompt tokens, $GEN to generate, $THREADS thread(s)" >&2
phase "engine"
engine=$(scripts/engine.sh 2>"$work/engine.log") || fail "$(tail -n 1 "$work/engine.log")"
if [[ ${MODEL:-} ]]; then
	# Read it here: its pages then count for no run's limit, in all three alike.
	phase "model ${MODEL##*/}"
	model=$(realpath "$MODEL")
	cat "$model" >/dev/null
else
	phase "model with random weights"
	model=$work/model.gguf
	"$B/mkmodel" "${geometry[@]}" -o "$model"
fi
run_all_memory
phase "disk at its best"
make_probe_file
probe_disk
run_kvtier
phase "disk again"
probe_disk
swap_missing=
run_swap
phase_end
summary >"$work/demo.json"
mv "$work/demo.json" "$B/demo.json"
jq -r -f demo/table.jq "$B/demo.json"
check_hashes
