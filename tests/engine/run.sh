#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# An unmodified llama.cpp, alone and under `kvtier run` with memory for two fifths
# of its KV cache: the same text, the same bits in every logit, and evictions that
# really happened.
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/ktap.sh
. tests/ktap.sh

B=${B:-build}
gguf=../shared/data/models/stories260K.gguf
ctx=2048
prompt=1100 # more than half of the context: every block of the cache is used

work=$(mktemp -d "$B/engine.XXXXXX") || exit 1
work=$(realpath "$work")
trap 'rm -rf "$work"' EXIT
mkdir "$work/nvme" "$work/run"
export KVTIER_RUNTIME_DIR=$work/run

if ! engine=$(scripts/engine.sh 2>"$work/engine.log"); then
	echo "1..0 # SKIP no engine: $(tail -n 1 "$work/engine.log")"
	exit 4
fi
model=$gguf
if [[ ! -r $gguf ]]; then
	model=$work/model.gguf
	"$B/mkmodel" --layers 5 --heads 8 --kv-heads 4 --head-dim 16 --embd 64 --ffn 192 \
		-o "$model" || exit 1
fi

json()
{
	jq -r "$2" "$work/$1.json"
}

# plain NAME [OPTION...]: the engine alone; NAME.json, NAME.txt.
plain()
{
	local name=$1

	shift
	timeout 120 "$B/generate" --engine "$engine/lib" --model "$model" --ctx $ctx --gen 48 \
		--json "$work/$name.json" --text "$work/$name.txt" "$@"
}

# tiered NAME DRAM [OPTION...]: the same under kvtier; pools' figures in NAME-pools.json.
tiered()
{
	local name=$1 dram=$2

	shift 2
	timeout 240 "$B/kvtier" run --dram "$dram" --block 64K --nvme "$work/nvme" \
		--stats "$work/$name-pools.json" -- \
		"$B/generate" --engine "$engine/lib" --model "$model" --ctx $ctx --gen 48 \
		--json "$work/$name.json" --text "$work/$name.txt" "$@"
}

# The sum over the pools of a run.
pools()
{
	jq "[.[].$2] | add // 0" "$work/$1-pools.json"
}

# A cache that did not fit was moved: more blocks than it has left memory and came back.
expect_evictions()
{
	local blocks

	blocks=$(pools "$1" nr_blocks)
	expect_least "pools" "$(jq length "$work/$1-pools.json")" "$2" &&
		expect_least "demoted blocks" "$(pools "$1" demoted)" "$blocks" &&
		expect_least "promoted blocks" "$(pools "$1" promoted)" "$blocks" &&
		expect_least "written blocks" "$(pools "$1" written_blocks)" $((blocks / 2)) &&
		expect "checksum errors" "$(pools "$1" crc_errors)" 0 &&
		expect "pools beyond their budget" "$(jq '[.[].tiers.dram |
			select(.peak_bytes > .budget_bytes)] | length' "$work/$1-pools.json")" 0
}

# same NAME MEMORIES [OPTION...]: equal text and hash at two fifths of MEMORIES caches.
same()
{
	local name=$1 memories=$2 dram

	shift 2
	plain "$name-plain" "$@" || return 1
	dram=$(json "$name-plain" ".kv_bytes * 2 / 5 | floor")
	[[ $memories -gt 1 ]] || dram=$(round_up "$dram")
	tiered "$name" "$dram" "$@" || return 1
	cmp "$work/$name-plain.txt" "$work/$name.txt" || return 1
	expect "logits" "$(json "$name" .logits_fnv)" "$(json "$name-plain" .logits_fnv)" &&
		expect "generated tokens" "$(json "$name" .gen_tokens)" \
			"$(json "$name-plain" .gen_tokens)" &&
		expect_evictions "$name" "$memories"
}

# To whole blocks of 64 KiB.
round_up()
{
	echo $((($1 + 65535) / 65536 * 65536))
}

text()
{
	local tokens=200

	# The random model's blocks hold half as many tokens.
	[[ $model == "$gguf" ]] || tokens=1100
	same text 1 --prompt "Once upon a time" --gen $tokens || return 1
	[[ $model != "$gguf" ]] ||
		expect "greedy text" "$(head -c 37 "$work/text.txt")" \
			", there was a little girl named Lily."
}

save_load()
{
	local dram

	plain state-plain --prompt-tokens $prompt || return 1
	dram=$(round_up "$(json state-plain '.kv_bytes * 2 / 5 | floor')")
	tiered state-save "$dram" --prompt-tokens $prompt --save-state "$work/state" &&
		tiered state "$dram" --prompt-tokens $prompt --load-state "$work/state" || return 1
	expect "source of the prompt" "$(json state .prompt_source)" loaded &&
		expect "logits after saving" "$(json state-save .logits_fnv)" \
			"$(json state-plain .logits_fnv)" &&
		expect "logits after loading" "$(json state .logits_fnv)" \
			"$(json state-plain .logits_fnv)" &&
		expect_evictions state 1
}

# The shim follows through a shell to two engines, one after the other.
fork_exec()
{
	local dram

	plain exec-plain --prompt-tokens $prompt || return 1
	dram=$(round_up "$(json exec-plain '.kv_bytes * 2 / 5 | floor')")
	# shellcheck disable=SC2016 # expanded by the inner shell
	"$B/kvtier" run --dram "$dram" --block 64K --nvme "$work/nvme" \
		--stats "$work/exec-pools.json" -- sh -c 'for n in 1 2; do "$@" --json "$0-$n.json" ||
			exit 1; done' "$work/exec" "$B/generate" --engine "$engine/lib" \
		--model "$model" --ctx $ctx --gen 48 --prompt-tokens $prompt || return 1
	expect "logits of the first" "$(json exec-1 .logits_fnv)" "$(json exec-plain .logits_fnv)" &&
		expect "logits of the second" "$(json exec-2 .logits_fnv)" \
			"$(json exec-plain .logits_fnv)" &&
		expect_evictions exec 2
}

# Killed in the middle: nothing of it stays on the disk.
killed()
{
	local dram

	plain killed-plain --prompt-tokens $prompt || return 1
	dram=$(round_up "$(json killed-plain '.kv_bytes * 2 / 5 | floor')")
	"$B/kvtier" run --dram "$dram" --block 64K --nvme "$work/nvme" -- \
		timeout -s KILL 0.7 "$B/generate" --engine "$engine/lib" --model "$model" \
		--ctx $ctx --gen 400 --prompt-tokens $prompt
	expect "exit status" $? 137
}

nothing_left()
{
	expect "files on the NVMe tier" "$(ls -A "$work/nvme")" "" &&
		expect "files of pools" "$(ls -A "$work/run")" ""
}

ktap_case text "greedy text as without tiering" text
ktap_case long_prompt "a prompt that fills the cache" same long 1 --prompt-tokens $prompt
ktap_case flash_attention_off "values transposed" same flash 1 --prompt-tokens $prompt \
	--flash-attn 0
ktap_case two_threads "two engine threads" same threads 1 --prompt-tokens $prompt --threads 2 \
	--gen 16
ktap_case two_contexts "two contexts in a process" same contexts 2 --prompt-tokens $prompt \
	--contexts 2
ktap_case save_load "state saved and loaded through the tiers" save_load
ktap_case fork_exec "a shell that starts engines" fork_exec
ktap_case killed "an engine that is killed" killed
ktap_case nothing_left "no file stays behind" nothing_left
ktap_end
