#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The examples of the library, and the decoder's text against llama.cpp's.
#
#	examples.sh [BUILD]	BUILD: folder with the programs, default build
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/ktap.sh
. tests/ktap.sh

B=${1:-build}
gguf=${DATA:-../shared/data}/models/stories260K.gguf
tokens=${TOKENS:-120} # the likeliest token leads clearly: no rounding decides

work=$(mktemp -d -p "$B" examples.XXXXXX) || exit 1
work=$(realpath "$work")
trap 'rm -rf "$work"' EXIT

# decode NAME [OPTION...]: NAME.txt has the text, NAME.log the figures.
decode()
{
	local name=$1

	shift
	[[ -r $gguf ]] || { skip "no model $gguf" || return; }
	timeout 120 "$B/examples/decode" --model "$gguf" --nvme "$work" "$@" >"$work/$name.txt" \
		2>"$work/$name.log" || { cat "$work/$name.log" && return 1; }
}

same_text()
{
	cmp "$work/$1.txt" "$work/memory.txt"
}

in_memory()
{
	decode memory --tokens "$tokens" || return
	expect "greedy text" "$(head -c 37 "$work/memory.txt")" \
		", there was a little girl named Lily."
}

llama_cpp()
{
	local engine

	[[ -r $gguf ]] || { skip "no model $gguf" || return; }
	[[ -x $B/generate ]] || { skip "the engine's driver is not built" || return; }
	engine=$(scripts/engine.sh 2>/dev/null) || { skip "no engine" || return; }
	timeout 120 "$B/generate" --engine "$engine/lib" --model "$gguf" --ctx 512 --threads 1 \
		--gen "$tokens" --prompt "Once upon a time" --text "$work/engine.txt" || return 1
	same_text engine
}

on_nvme()
{
	decode nvme --tokens "$tokens" --dram 1M || return
	same_text nvme || return 1
	grep -E '[1-9][0-9]* KiB a token read from NVMe' "$work/nvme.log" ||
		{ cat "$work/nvme.log" && return 1; }
}

# The first tokens: without a cache each costs all before it.
no_cache()
{
	decode uncached --tokens 40 --no-cache && decode cached --tokens 40 || return
	cmp "$work/uncached.txt" "$work/cached.txt"
}

spec()
{
	decode spec --tokens "$tokens" --spec 4 || return
	same_text spec || return 1
	grep -E ' [1-9][0-9]* of [0-9]+ guesses right' "$work/spec.log"
}

spec_pressure()
{
	decode pressure --tokens "$tokens" --spec 3 --dram 3M || return
	same_text pressure || return 1
	# It began with a draft, and went on without.
	grep -E 'whole draft [1-9].* without [1-9]' "$work/pressure.log" ||
		{ cat "$work/pressure.log" && return 1; }
}

policies()
{
	local policy

	for policy in window fifo lru lfu heavy fifo+merge heavy+merge window+summary; do
		decode policy --tokens 60 --policy $policy --budget 48 --window 16 || return
		grep -qE '; (4[0-9]|[5-9][0-9]) tokens kept' "$work/policy.log" ||
			{ echo "$policy: $(cat "$work/policy.log")" && return 1; }
	done
}

table()
{
	decode table --table --tokens 20 --dram 1M || return
	expect "rows with the same text" "$(grep -c 'yes$' "$work/table.txt")" 3
}

# Small types cost little, policies too on a story; what full f16 says is the reference.
perplexity()
{
	printf 'Once upon a time there was a little dog. He liked to run. %.0s' 1 2 3 4 5 6 \
		>"$work/story"
	decode perplexity --perplexity --text "$work/story" --budget 64 --window 16 || return
	awk '
		$2 == "f16" && $1 == "keep" { full = $5 }
		$2 == "f32" || $2 == "bf16" || ($2 == "int8" && $1 == "keep") {
			near++
			if ($5 > full * 1.02 || $5 < full * 0.98)
				bad = 1
		}
		/%$/ { rows++; if ($5 < 1 || $5 > 100) bad = 1 }
		END { exit bad || near != 3 || rows != 23 }
	' "$work/perplexity.txt" || { cat "$work/perplexity.txt" && return 1; }
}

# refused STATUS WORD [OPTION...]: one line, with the word in it.
refused()
{
	local status=$1 word=$2 got=0 said

	shift 2
	said=$("$B/examples/decode" "$@" 2>&1 >/dev/null) || got=$?
	expect "exit status of $*" $got "$status" || return 1
	[[ $said == *"$word"* && $(wc -l <<<"$said") -eq 1 ]] ||
		{ echo "$*: expected one line with $word, got: $said" && return 1; }
}

bad_input()
{
	refused 2 --model || return 1
	refused 1 "cannot open" --model "$work/none" || return 1
	echo "no model at all" >"$work/text"
	refused 1 "not a GGUF" --model "$work/text" || return 1
	[[ -r $gguf ]] || return 0
	head -c 300000 "$gguf" >"$work/cut"
	refused 1 "damaged" --model "$work/cut" &&
		refused 2 "--type" --model "$gguf" --type f8 &&
		refused 2 "--policy" --model "$gguf" --policy best &&
		refused 2 "--dram" --model "$gguf" --dram lots &&
		refused 2 "--tokens" --model "$gguf" --tokens 0 &&
		refused 1 "too small" --model "$gguf" --dram 64K &&
		refused 1 "has learnt 512" --model "$gguf" --tokens 600 &&
		refused 1 "below 4 sinks" --model "$gguf" --policy lru --budget 20 --window 32
}

example()
{
	"$B/examples/$1" "$work"
}

prefix_twice()
{
	example prefix && example prefix >"$work/second" || return 1
	cat "$work/second"
	expect "prompts found whole" "$(grep -c ' 256 of 256 tokens are there' "$work/second")" 3
}

# In and after a daemon: made by the first run, found by the others.
shared()
{
	local daemon run

	cat >"$work/conf" <<-EOF
		[daemon]
		socket = $work/socket
		state-dir = $work/state
		module = no
		[metrics]
		socket = $work/metrics
	EOF
	for run in "made the pool" "found the pool"; do
		"$B/kvtierd" --config "$work/conf" 2>"$work/daemon.log" &
		daemon=$!
		for _ in $(seq 100); do
			[[ ! -S $work/socket ]] || break
			sleep 0.1
		done
		[[ -S $work/socket ]] || break
		"$B/examples/shared" "$work/socket" >"$work/shared" 2>&1
		kill "$daemon"
		wait "$daemon"
		grep -q "^$run" "$work/shared" || break
		grep -q "^read all 64" "$work/shared" || break
		run=
	done
	[[ $run ]] || return 0
	! grep -q "Linux 6.4 or newer" "$work/daemon.log" || { skip "needs Linux 6.4" || return; }
	cat "$work/daemon.log" "$work/shared"
	return 1
}

ktap_case pool "a pool written, sealed, cloned, read back" example pool
ktap_case stream "attention streamed from NVMe" example stream
ktap_case shared "a pool that outlives the daemon" shared
ktap_case sequence "a sequence, a fork, a rollback, attention" example sequence
ktap_case prefix "prefixes that outlive the program" prefix_twice
ktap_case policy "what policies keep" example policy
ktap_case transfer "prefill in one process, decode in another" example transfer
ktap_case decode_memory "greedy text, all in memory" in_memory
ktap_case decode_llama_cpp "the text is llama.cpp's" llama_cpp
ktap_case decode_nvme "the same with most on NVMe" on_nvme
ktap_case decode_no_cache "the same without a cache" no_cache
ktap_case decode_spec "the same with a draft that guesses" spec
ktap_case decode_spec_pressure "the same when the draft has to shrink" spec_pressure
ktap_case decode_policies "text under every policy, within its budget" policies
ktap_case decode_table "with and without cache" table
ktap_case decode_perplexity "perplexity by policy and type" perplexity
ktap_case decode_bad_input "bad input is refused in one line" bad_input
ktap_end
