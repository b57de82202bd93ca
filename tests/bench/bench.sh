#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# bench.sh: what kvtier costs and gains on this machine, against the peers and
# against the machine's own bounds, all in one run; rounds are interleaved and
# medians reported, since machines are noisy.  Prints a table and writes
# $B/bench.json: an array of {name, value, unit, target, n, min, max}.
#
# Environment: ROUNDS (5), DISK (folder for the disk files; default: the build
# folder), B (build folder), PARTS ("nvme block engine long": some of them).
#
# The bound of a decode step is the larger of two terms measured in the same
# round: the step with all memory, and the bytes that do not fit divided by what
# a plain io_uring O_DIRECT reader gets from the disk.
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=tests/bench/figures.sh
. tests/bench/figures.sh
# shellcheck source=demo/cgroup.sh
. demo/cgroup.sh

B=${B:-build}
ROUNDS=${ROUNDS:-5}
PARTS=${PARTS:-nvme block engine long}
MIB=$((1 << 20))

fail()
{
	echo "bench: $*" >&2
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

work=$(mktemp -d "$(realpath "${DISK:-$B}")/bench.XXXXXX") || fail "cannot write to ${DISK:-$B}"
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
samples=$work/samples
export KVTIER_RUNTIME_DIR=$work/run

# sample NAME VALUE: one measured value; medians are taken at the end.
sample()
{
	echo "$1 $2" >>"$samples"
}

ratio()
{
	jq -n --argjson a "$1" --argjson b "$2" '$a / $b'
}

raw_rate()
{
	local block best=0 rate

	for block in 1048576 2097152; do
		rate=$("$B/probe" read --file "$1" --block $block --qd 8 --seconds 0.5 |
			jq '.bytes_per_s | floor')
		[[ $rate -le $best ]] || best=$rate
	done
	echo "$best"
}

fio_rate() # FILE BLOCK DEPTH SECONDS
{
	fio --name=r --filename="$1" --direct=1 --rw=read --bs="$2" --iodepth="$3" \
		--ioengine=io_uring --runtime="$4" --time_based --output-format=json |
		jq '.jobs[0].read.bw_bytes'
}

# What fio gets with the best of a few block sizes and depths, now.
best_fio()
{
	local config rate best=0

	for config in "256k 16" "1m 8" "1m 16" "2m 8"; do
		# shellcheck disable=SC2086 # two words
		rate=$(fio_rate "$1" $config 1)
		[[ $rate -le $best ]] || best=$rate
	done
	echo "$best"
}

part_nvme()
{
	local round ours theirs file=$work/pool

	say "nvme: a pool of 1 GiB with 256 MiB of memory against fio on its file"
	"$B/poolscan" --file "$file" --mib 1024 --dram-mib 256 >"$work/scan"
	for ((round = 0; round < ROUNDS; round++)); do
		theirs=$(best_fio "$file")
		ours=$("$B/poolscan" --file "$file" --mib 1024 --dram-mib 256 |
			jq '.bytes_per_s')
		sample nvme.read.MBps "$(ratio "$ours" 1000000)"
		sample nvme.fio.MBps "$(ratio "$theirs" 1000000)"
		sample nvme.read.pct_fio "$(ratio "$((100 * ours))" "$theirs")"
	done
	rm -f "$file"
}

# Which block size the default should be, at a large and a small budget.
part_block()
{
	local round block rate

	say "block: the same scan with each block size"
	for ((round = 0; round < ROUNDS; round++)); do
		for block in 64 128 256 512 1024 2048; do
			rate=$("$B/poolscan" --file "$work/pool" --mib 1024 --dram-mib 256 \
				--block-kib $block | jq '.bytes_per_s')
			sample "block.${block}K.MBps" "$(ratio "$rate" 1000000)"
		done
	done
	rm -f "$work/pool"
}

# generate NAME MODEL [PREFIX... --] : its result in $work/NAME.json
generate()
{
	local name=$1 model=$2

	shift 2
	"$@" "$B/generate" --engine "$engine/lib" --model "$model" --ctx "$ctx" \
		--prompt-tokens "$prompt" --gen "$gen" --load-state "$state" \
		--json "$work/$name.json" >"$work/log" 2>&1 || return 1
}

value()
{
	jq -r "$2" "$work/$1.json"
}

# The prompt is decoded once, with all memory; the runs take its state from a file.
prepare() # MODEL
{
	state=$work/state
	rm -f "$state"
	"$B/generate" --engine "$engine/lib" --model "$1" --ctx "$ctx" --prompt-tokens "$prompt" \
		--gen 1 --threads 2 --save-state "$state" >"$work/log" 2>&1 ||
		fail "the engine failed: $(tail -n 1 "$work/log")"
}

all_equal=1
same_logits()
{
	[[ $(value "$1" .logits_fnv) == "$(value "$2" .logits_fnv)" ]] && return 0
	say "LOGITS DIFFER: $1 and $2"
	all_equal=0
}

tiered() # NAME MODEL DRAM
{
	generate "$1" "$2" "$B/kvtier" run --dram "$3" --nvme "$work" \
		--stats "$work/$1.stats" -- || fail "$1: $(tail -n 1 "$work/log")"
}

# One tiered run against the bound of the same round.
against_bound() # SUFFIX MODEL TIMES
{
	local dram=$((kv / $3)) rate disk bound step

	rate=$(raw_rate "$work/raw")
	tiered tiered "$2" "$dram"
	rate=$(((rate + $(raw_rate "$work/raw")) / 2))
	same_logits tiered all
	disk=$(ratio $((kv - dram)) "$rate")
	bound=$(jq -n --argjson a "$(value all .gen_step_median_s)" --argjson b "$disk" '[$a, $b] | max')
	step=$(value tiered .gen_step_median_s)
	sample "engine.gen.pct_bound.$1" "$(jq -n --argjson a "$bound" --argjson b "$step" '100 * $a / $b')"
	sample "engine.gen.step_ms.$1" "$(jq -n --argjson a "$step" '1000 * $a')"
	sample "engine.gen.bound_ms.$1" "$(jq -n --argjson a "$bound" '1000 * $a')"
	sample "engine.gen.pct_all_memory.$1" \
		"$(jq -n --argjson a "$(value all .gen_step_median_s)" --argjson b "$step" '100 * $a / $b')"
	sample "engine.prefetch.accuracy.$1" "$(jq '100 * .[0].prefetch_accuracy' "$work/tiered.stats")"
	sample "engine.prefetch.hidden.$1" "$(jq '100 * .[0].hidden_fraction' "$work/tiered.stats")"
}

# The same limit of memory, and swap on the same disk; its steps are few, for time.
against_swap() # SUFFIX MODEL
{
	local limit

	[[ ! $cgroup_missing ]] || { swap_missing=$cgroup_missing && return 0; }
	limit=$((base + kv / 4 + 4 * MIB))
	swap_on "$work/swap" $((kv + 256 * MIB)) || return 0
	cgroup_create bench-swap "$limit"
	gen=6 generate swap "$2" timeout 200 "${cgroup_enter[@]}" &&
		sample "engine.gen.vs_swap.4x$1" "$(ratio "$(value swap .gen_step_median_s)" \
			"$(value tiered .gen_step_median_s)")" &&
		sample "engine.gen.swap_step_ms$1" "$(jq '1000 * .gen_step_median_s' "$work/swap.json")"
	cgroup_remove
	swap_off
}

engine_rounds() # SUFFIX MODEL
{
	local round

	for ((round = 0; round < ROUNDS; round++)); do
		generate all "$2" env || fail "the engine failed: $(tail -n 1 "$work/log")"
		sample "engine.gen.all_memory_ms$1" "$(jq '1000 * .gen_step_median_s' "$work/all.json")"
		kv=$(value all '.kv_bytes | floor')
		base=$(($(value all .hwm_kb) * 1024 - kv))
		against_bound "4x$1" "$2" 4
		against_swap "$1" "$2"
		[[ $1 ]] || against_bound 2x "$2" 2
		[[ $1 ]] || against_bound 8x "$2" 8
		say "engine$1: round $((round + 1)) of $ROUNDS"
	done
}

# Llama-3-8B's attention (32 layers, 32 query heads over 8 KV heads of 128, f16:
# 128 KiB a token) on a small body; and one with as many KV as query heads, whose
# attention computes four times less a byte, so that the disk is the bound.
part_engine()
{
	dd if=/dev/urandom of="$work/raw" bs=1M count=512 conv=fsync status=none
	prompt=2032 gen=14 ctx=2048
	say "engine: 32 layers of 32 over 8 heads, $prompt tokens decoded once"
	"$B/mkmodel" --layers 32 --heads 32 --kv-heads 8 --head-dim 128 --embd 256 --ffn 256 \
		-o "$work/gqa.gguf"
	prepare "$work/gqa.gguf"
	engine_rounds "" "$work/gqa.gguf"
	say "engine: 32 layers of 8 over 8 heads"
	"$B/mkmodel" --layers 32 --heads 8 --kv-heads 8 --head-dim 128 --embd 256 --ffn 256 \
		-o "$work/mha.gguf"
	prepare "$work/mha.gguf"
	engine_rounds .mha "$work/mha.gguf"
	rm -f "$work/raw"
}

# A prompt of 16k tokens decoded in tiers from its first token on, then at 2, 4, 8.
part_long()
{
	local times

	prompt=16368 gen=4 ctx=16384
	say "long: 16 layers of 2 over 2 heads of 64, $prompt tokens, decoded in a quarter of the memory"
	"$B/mkmodel" --layers 16 --heads 2 --kv-heads 2 --head-dim 64 --embd 128 --ffn 128 \
		-o "$work/long.gguf"
	prepare "$work/long.gguf"
	generate all "$work/long.gguf" env || fail "the engine failed: $(tail -n 1 "$work/log")"
	kv=$(value all '.kv_bytes | floor')
	for times in 2 4 8; do
		tiered tiered "$work/long.gguf" $((kv / times))
		same_logits tiered all
	done
	"$B/kvtier" run --dram $((kv / 4)) --nvme "$work" -- "$B/generate" --engine "$engine/lib" \
		--model "$work/long.gguf" --ctx "$ctx" --prompt-tokens "$prompt" --gen "$gen" \
		--json "$work/prompt.json" >"$work/log" 2>&1 || fail "long: $(tail -n 1 "$work/log")"
	"$B/generate" --engine "$engine/lib" --model "$work/long.gguf" --ctx "$ctx" \
		--prompt-tokens "$prompt" --gen "$gen" --json "$work/plain.json" >"$work/log" 2>&1 ||
		fail "long: $(tail -n 1 "$work/log")"
	same_logits prompt plain
	sample engine.prompt.pct_all_memory.16k \
		"$(jq -n --argjson a "$(value prompt .prompt_tps)" --argjson b "$(value plain .prompt_tps)" '100 * $a / $b')"
}

machine()
{
	local model

	model=$(awk -F ': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)
	echo "machine: $model, $(nproc) CPUs, $(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' \
		/proc/meminfo), Linux $(uname -r | cut -d- -f1)"
	"$B/probe" dram | jq -r '"memory read: " + (. | tostring)'
}

[[ -x $B/poolscan ]] || fail "$B/poolscan is missing; run: make bench"
cgroup_find
swap_missing=
engine=$(scripts/engine.sh)
: >"$samples"
for part in $PARTS; do
	"part_$part"
done
[[ ! -s $work/all.json ]] || sample engine.hash_equal $all_equal
figures_of "$samples" >"$work/bench.json"
mv "$work/bench.json" "$B/bench.json"
machine
jq -r -f tests/bench/table.jq "$B/bench.json"
[[ ! $swap_missing ]] || echo "swap was not measured: $swap_missing"
[[ $all_equal -eq 1 ]] || fail "logits differ"
