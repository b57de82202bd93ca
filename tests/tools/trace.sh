#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# kvtier trace: the figures that are known, made-up traces whose hits can be counted by
# hand, bad traces, and a real pool.
set -u
# shellcheck source=tests/tools/setup.sh
. "$(dirname "$0")/setup.sh"

traces=../shared/data/traces

replay()
{
	"$kvtier" trace replay --json "$@" >"$work/replay.json" || {
		cat "$work/replay.json"
		return 1
	}
}

result()
{
	jq -c "$1" "$work/replay.json"
}

# rounded FIELD: to a tenth, of each size.
rounded()
{
	result "[.sizes[].$1 | . * 10 | round / 10]"
}

# Prefix hits that the trace is known to have (Documentation/traces.rst).
mooncake()
{
	[[ -f $traces/mooncake_conversation_trace.jsonl ]] || { skip "no traces here" || return; }
	replay "$traces/mooncake_conversation_trace.jsonl" || return 1
	expect "requests" "$(result .requests)" 12031 &&
		expect "infinite" "$(result '.infinite_pct * 10 | round / 10')" 36.6 &&
		expect "LRU" "$(rounded lru_pct)" "[4.4,11,21.1,32.6,35.5]" || return 1
	result '.sizes | all(.belady_pct >= .lru_pct and .belady_pct >= .alone_pct and
		.dram_pct >= .alone_pct and .total_pct <= 36.65 and .total_pct > 36.6)' |
		grep -qx true || { result .sizes && return 1; }
	result '.sizes | all(.pct_belady >= 85)' | grep -qx true || { result .sizes && return 1; }
}

agentic()
{
	[[ -d $traces/agentic ]] || { skip "no traces here" || return; }
	replay --sizes 500,5k,50k --announce 0.5 "$traces"/agentic/*.json || return 1
	expect "requests" "$(result .requests)" 576 &&
		expect "a cache for all" "$(result '.sizes[2] | [.lru_pct, .belady_pct, .dram_pct] |
			unique | length')" 1 || return 1
	result '.sizes | all(.pct_belady >= 90 and .belady_pct >= .lru_pct)' | grep -qx true ||
		{ result .sizes && return 1; }
}

# A B A B of one block each, then A again: with room for one, LRU has no hit, Belady two.
counted()
{
	local id

	for id in 1 2 1 2 1; do
		echo "{\"timestamp\": $((at += 1000)), \"hash_ids\": [$id]}"
	done >"$work/abab"
	replay --sizes 1,2 "$work/abab" || return 1
	expect "accesses" "$(result '[.accesses, .distinct]')" "[5,2]" &&
		expect "infinite" "$(result .infinite_pct)" 60 &&
		expect "LRU" "$(result '[.sizes[].lru_pct]')" "[0,60]" &&
		expect "Belady" "$(result '[.sizes[].belady_pct]')" "[40,60]" &&
		expect "both tiers" "$(result '[.sizes[].total_pct]')" "[60,60]"
}
at=0

# A block without the one before it is no hit: 9 alone is there, its parent is not.
prefix()
{
	printf '{"timestamp":%d,"hash_ids":%s}\n' 0 '[1,9]' 1 '[2,9]' 2 '[1,9]' >"$work/prefix"
	replay --sizes 9 "$work/prefix" || return 1
	expect "hits" "$(result '.sizes[0] | [.lru_pct, .belady_pct, .total_pct] | map(round)')" \
		"[33,33,33]"
}

# Nothing is promoted ahead for requests that nobody knows of.  Each brings a new block,
# whose computing leaves time to read.
lookahead()
{
	local i

	for ((i = 0; i < 200; i++)); do
		echo "{\"timestamp\": $((i / 10)), \"hash_ids\": [$((i % 20)),$((1000 + i))]}"
	done >"$work/cycle"
	replay --sizes 5 --lookahead 0 "$work/cycle" || return 1
	expect "promoted" "$(result '.sizes[0] | [.promoted, .queued]')" "[0,0]" || return 1
	replay --sizes 5 --read 1T "$work/cycle" || return 1
	expect "promoted ahead" "$(result '.sizes[0].promoted > 0')" true &&
		expect "more in DRAM" "$(result '.sizes[0] | .dram_pct > .alone_pct')" true || return 1
	replay --sizes 5 --nvme 0 "$work/cycle" || return 1
	expect "hits of NVMe" "$(result '.sizes[0] | [.nvme_pct, .promoted, .written]')" "[0,0,0]"
}

order()
{
	head -n 50 "$work/cycle" >"$work/a"
	tail -n +51 "$work/cycle" >"$work/b"
	replay --sizes 5 "$work/b" "$work/a" && expect "requests" "$(result .requests)" 200 &&
		replay --sizes 5 --limit 30 "$work/cycle" &&
		expect "requests with a limit" "$(result .requests)" 30
}

speed()
{
	local begun=$SECONDS

	printf '{"timestamp":%d,"hash_ids":[1]}\n' 0 20000 >"$work/slow"
	replay --sizes 1 --speed 10 "$work/slow" || return 1
	expect_least "seconds" $((SECONDS - begun)) 1
}

# wrong TEXT CONTENT: a trace of this content is refused with a line that says TEXT.
wrong()
{
	printf '%b' "$2" >"$work/bad"
	says 1 "$1" trace replay "$work/bad"
}

bad_traces()
{
	wrong "is empty" "" &&
		wrong "line 1: not a JSON object" "hello\n" &&
		wrong "line 2: not a JSON object" '{"timestamp":0,"hash_ids":[1]}\n{"timest' &&
		wrong "line 1: 'timestamp' is not a number" '{"hash_ids":[1]}\n' &&
		wrong "line 1: 'timestamp' is not a number" '{"timestamp":-1,"hash_ids":[1]}\n' &&
		wrong "line 1: 'hash_ids' is not an array" '{"timestamp":0}\n' &&
		wrong "not a whole number below" '{"timestamp":0,"hash_ids":[1.5]}\n' &&
		wrong "not a whole number below" '{"timestamp":0,"hash_ids":[-1]}\n' &&
		wrong "not a whole number below" '{"timestamp":0,"hash_ids":[1e30]}\n' &&
		wrong "not a whole number below" '{"timestamp":0,"hash_ids":["x"]}\n' &&
		wrong "no request of this trace has a block" '{"timestamp":0,"hash_ids":[]}\n' &&
		wrong "not text" '{"timestamp":0,"hash_ids":[1]}\0\n' &&
		wrong "'block_size' is not" '{"requests":[]}' &&
		wrong "there are no requests" '{"requests":[],"block_size":64}' &&
		wrong "request 1: 't' is not" '{"requests":[{"hash_ids":[1]}],"block_size":64}' &&
		wrong "request 1: 'hash_ids'" '{"requests":[{"t":1}],"block_size":64}' &&
		wrong "version that is not 1" '{"kvtier_trace":2,"block_bytes":65536}\n' &&
		says 1 "No such file" trace replay "$work/none" &&
		says 1 "is not a file" trace replay /dev/null
}

mixed()
{
	echo '{"requests":[{"t":1,"hash_ids":[1]}],"block_size":64}' >"$work/session"
	says 1 "another kind or size" trace replay "$work/cycle" "$work/session"
}

bad_options()
{
	says 2 "replay or record" trace &&
		says 2 "'frob' is neither" trace frob &&
		says 2 "no FILE" trace replay &&
		says 2 "unknown option '--frob'" trace replay --frob x &&
		says 2 "--sizes: '0' is not" trace replay --sizes 1k,0 x &&
		says 2 "--sizes: 'x' is not" trace replay --sizes x y &&
		says 2 "--read: 'fast' is not a size" trace replay --read fast x &&
		says 2 "--prefill: '0' is not" trace replay --prefill 0 x &&
		says 2 "--announce: '-1' is not" trace replay --announce -1 x &&
		says 2 "no FILE" trace record x &&
		says 2 "one POOL" trace record -o "$work/rec" &&
		says 2 "--seconds: '0' is not" trace record --seconds 0 -o "$work/rec" x &&
		says 1 "there is no pool 'x'" trace record -o "$work/rec" x || return 1
	expect "error as JSON" "$("$kvtier" trace --json replay "$work/none" | jq -r 'keys[]')" error
}

# A session of growing prompts in a real pool: some of it in memory, all of it right.
pool()
{
	local i ids=0

	for ((i = 1; i <= 12; i++)); do
		ids+=,$(seq -s, $((20 * i - 19)) $((20 * i)))
		echo "{\"timestamp\": $((i * 100)), \"input_length\": 9000, \"hash_ids\": [$ids]}"
	done >"$work/growing"
	replay --pool "$work/nvme" --sizes 60 "$work/growing" || return 1
	expect "wrong blocks" "$(result .pool.wrong_blocks)" 0 &&
		expect "written once" "$(result '.pool.written == .distinct')" true &&
		expect "hits are those of an infinite cache" \
			"$(result '(.pool.total_pct - .infinite_pct | fabs) < 0.01')" true &&
		expect "some in memory, some not" \
			"$(result '.pool | .dram_pct > 0 and .nvme_pct > 0 and .demoted > 0')" true &&
		says 1 "cannot make a pool" trace replay --pool "$work/none/x" "$work/growing" &&
		expect_clean
}

# What script(1) shows of a terminal has a bar that reaches its end.
progress()
{
	builtin command -v script >/dev/null || { skip "no script(1)" || return; }
	script -qec "'$kvtier' trace replay --sizes 5 '$work/cycle'" "$work/typescript" >/dev/null \
		</dev/null || return 1
	grep -q '\[####*\] 100%' "$work/typescript" || { cat "$work/typescript" && return 1; }
}

ktap_case mooncake "the figures that the Mooncake trace is known for" mooncake
ktap_case agentic "coding sessions" agentic
ktap_case counted "hits that can be counted by hand" counted
ktap_case prefix "a block without its parent is no hit" prefix
ktap_case lookahead "nothing is promoted for what is not known" lookahead
ktap_case order "several files and a limit" order
ktap_case speed "pauses of the trace's time" speed
ktap_case bad_traces "traces that are wrong" bad_traces
ktap_case mixed "blocks of two sizes" mixed
ktap_case bad_options "bad options" bad_options
ktap_case pool "a real pool" pool
ktap_case progress "the progress bar" progress
ktap_end
