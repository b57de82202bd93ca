#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# kvtier alone, top, map, pool, tier, trace record and report: on a running pool of the
# user pager, on a folder that looks like the module's, and on nothing at all.
set -u
# shellcheck source=tests/tools/setup.sh
. "$(dirname "$0")/setup.sh"

export KVTIER_SOCKET=$work/none.sock KVTIER_SYSFS=$work/sysfs
pool_user=$B/tests/tools/pool_user
[[ -x $pool_user ]] || { echo "1..0 # SKIP $pool_user is not built" && exit 4; }

# with_pool COMMAND...: while a pool called $pool_name exists.
pool_name=scanned
with_pool()
{
	local status line

	coproc "$pool_user" "$pool_name" "$work/nvme"
	local pid=$COPROC_PID in=${COPROC[1]}

	read -r -t 60 line <&"${COPROC[0]}"
	if [[ ${line:-} == ready ]] && shown_full; then
		"$@"
	else
		echo "the pool does not get ready"
		false
	fi
	status=$?
	exec {in}>&-
	wait "$pid" || status=1
	return $status
}

# Its figures are written a few times a second.
shown_full()
{
	local i

	for ((i = 0; i < 100; i++)); do
		"$kvtier" stat --json | jq -e 'length == 1 and .[0].demoted > 0' >/dev/null && return
		sleep 0.1
	done
	return 1
}

json()
{
	"$kvtier" "$@" --json >"$work/json" || {
		cat "$work/json"
		return 1
	}
}

result()
{
	jq -c "$1" "$work/json"
}

nothing()
{
	json show && expect "pools" "$(result '[(.pools | length), .daemon.running]')" "[0,false]" &&
		expect "problems" "$(result '.problems')" "[]" &&
		json pool && expect "pools" "$(result length)" 0 &&
		json top -n 1 && expect "pools" "$(result '.pools | length')" 0 &&
		json tier && expect "tiers" "$(result 'map(.by) | unique')" '["processes"]' || return 1
	expect_text "$("$kvtier")" "pools    none"
}

# The folder of which free bytes are said is the one that kvtier run would choose.
nvme_folder()
{
	local dir

	dir=$("$kvtier" doctor --json | jq -r '.[] | select(.check == "o_direct").text |
		capture("works in (?<dir>.*)").dir')
	[[ $dir ]] || { skip "no disk with O_DIRECT here" || return; }
	expect_text "$("$kvtier")" "free in $dir" && json tier &&
		expect "folder" "$(result '.[] | select(.tier == "nvme").where')" "\"$dir\""
}

# A daemon that cannot be asked is not taken for none.
silent_daemon()
{
	local text

	: >"$work/plain"
	export KVTIER_SOCKET=$work/plain/x
	text=$("$kvtier") || return 1
	expect_text "$text" "daemon   cannot be asked" && expect_text "$text" "kvtierd cannot be reached" &&
		json show && expect "problems" "$(result '.problems | length')" 1 &&
		says 1 "which cannot be asked" map other &&
		expect_text "$("$kvtier" top -b -n 1)" "daemon: cannot be asked"
}

screen()
{
	local text

	json && expect "pool" "$(result '.pools[0] | [.name, .bytes]')" '["scanned",33554432]' &&
		expect "sums" "$(result '.tiers.dram | .used_bytes <= .budget_bytes and .used_bytes > 0')" \
			true || return 1
	text=$("$kvtier") || return 1
	expect_text "$text" "scanned" && expect_text "$text" "wrong    nothing" || return 1
	[[ $(wc -l <<<"$text") -le 24 && $(awk '{ print length }' <<<"$text" | sort -n | tail -n 1) -le 80 ]] ||
		{ echo "more than a screen: $text" && return 1; }
}

pools()
{
	json pool && expect "pools" "$(result 'map(.name)')" '["scanned"]' &&
		json pool show scanned && expect "pool" "$(result '[.name, .pager]')" '["scanned","user"]' ||
		return 1
	expect_text "$("$kvtier" pool show scanned)" "block_bytes" &&
		expect_text "$("$kvtier" pool)" "scanned" &&
		fails 1 "only its own process can resize it" pool set scanned dram 16M &&
		fails 1 "is not a pool of kvtierd" pool checkpoint scanned
}

# As says(), while a pool's files are there.
fails()
{
	local status=$1 text=$2

	shift 2
	"$kvtier" "$@" >"$work/stdout" 2>"$work/stderr"
	expect "exit status of kvtier $*" $? "$status" && expect "output" "$(<"$work/stdout")" "" &&
		expect "lines" "$(wc -l <"$work/stderr")" 1 && expect_text "$(<"$work/stderr")" "$text"
}

# Of 512 blocks 320 have content, of which 128 fit in memory.
map()
{
	json map scanned || return 1
	expect "blocks" "$(result '[(.blocks | length), .source, .heat_known]')" '[512,"file",true]' &&
		expect "empty blocks" "$(result '[.blocks[] | select(.state == "empty")] | length')" 192 &&
		expect "blocks in memory" "$(result '[.blocks[] | select(.tier == "dram")] |
			length > 32 and length <= 128')" true &&
		expect "hot blocks" "$(result '[.blocks[] | select(.heat > 128)] | length > 64')" true &&
		expect "hot empty blocks" "$(result '[.blocks[] | select(.state == "empty" and .heat > 0)] |
			length')" 0 || return 1
	"$kvtier" map scanned --width 64 --color never >"$work/map" || return 1
	expect "lines" "$(wc -l <"$work/map")" 10 && expect_text "$(<"$work/map")" "empty 192" || return 1
	"$kvtier" map scanned --svg "$work/map.svg" || return 1
	expect "cells" "$(grep -c '<title>block' "$work/map.svg")" 512 && well_formed "$work/map.svg" &&
		fails 1 "cannot write" map scanned --svg "$work/none/map.svg" &&
		fails 1 "there is no pool 'other'" map other
}

well_formed()
{
	! builtin command -v python3 >/dev/null ||
		python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$1"
}

record()
{
	json trace record --seconds 1 -o "$work/recorded" scanned || return 1
	expect "lost" "$(result .lost)" 0 &&
		expect_least "accesses" "$(result .accesses)" 100 &&
		expect "lines" "$(wc -l <"$work/recorded")" "$(($(result .accesses) + 1))" &&
		expect "blocks that were not scanned" \
			"$(tail -n +2 "$work/recorded" | jq 'select(.hash_ids[0] >= 320)')" "" &&
		json trace replay --sizes 128 "$work/recorded" || return 1
	expect "blocks" "$(result '.distinct <= 320 and .distinct > 100')" true &&
		expect "Belady is above LRU" "$(result '.sizes[0] | .belady_pct >= .lru_pct')" true &&
		fails 1 "cannot write" trace record -o "$work/none/x" scanned
}

# The recorder stops with the pool.
record_to_end()
{
	local pid

	"$kvtier" trace record --json -o "$work/recorded" scanned >"$work/json" &
	pid=$!
	sleep 0.5
	echo "$pid" >"$work/recorder"
}

recorded_to_end()
{
	with_pool record_to_end || return 1
	wait "$(<"$work/recorder")"
	expect "exit status" $? 0 && expect "accesses" "$(result '.accesses > 0')" true
}

top()
{
	"$kvtier" top -b -n 2 -d 0.5 >"$work/top" || return 1
	expect "looks" "$(grep -c '^kvtier top' "$work/top")" 2 &&
		expect "pool" "$(grep -c '^scanned' "$work/top")" 2 || return 1
	"$kvtier" top --json -n 2 -d 0.5 | tail -n 1 >"$work/json"
	expect "bytes are read" "$(result '.pools[0].read_bytes_per_s > 0 and
		.tiers.nvme.out_bytes_per_s == .pools[0].read_bytes_per_s and
		.tiers.dram.in_bytes_per_s > 0')" true
}

# on_screen WIDTH HEIGHT COMMAND...: with top in such a terminal.
on_screen()
{
	local tmux=(tmux -S "$work/tmux" -f /dev/null) i shown="" status width=$1 height=$2

	shift 2
	builtin command -v tmux >/dev/null || { skip "no tmux" || return; }
	TERM=xterm "${tmux[@]}" new-session -d -x "$width" -y "$height" \
		"KVTIER_RUNTIME_DIR=$KVTIER_RUNTIME_DIR KVTIER_SOCKET=$KVTIER_SOCKET \
		KVTIER_SYSFS=$KVTIER_SYSFS '$kvtier' top -d 0.3; echo left with \$?; sleep 30" ||
		{ skip "tmux does not start" || return; }
	"$@"
	status=$?
	"${tmux[@]}" kill-server
	[[ $status -eq 0 ]] || echo "$shown"
	return $status
}

keys()
{
	shows scanned && "${tmux[@]}" send-keys s && shows "by late" &&
		"${tmux[@]}" send-keys h && shows "pause, or go on" &&
		"${tmux[@]}" send-keys h && shows "HIDDEN" && "${tmux[@]}" send-keys q &&
		shows "left with 0"
}

# Where there is no room for the head all scrolls; ctrl-C leaves as q does.
small_keys()
{
	shows "kvtier top" && for ((i = 0; i < 4; i++)); do
		"${tmux[@]}" send-keys Down
	done && shows "scanned" && "${tmux[@]}" send-keys C-c && shows "left with 0"
}

# The screen of on_screen() shows this within 20 s.
shows()
{
	for ((i = 0; i < 100; i++)); do
		shown=$("${tmux[@]}" capture-pane -p) || return 1
		[[ $shown != *"$1"* ]] || return 0
		sleep 0.2
	done
	echo "the screen does not show \"$1\""
	return 1
}

# No control characters, and UTF-8, wherever a name is shown.
names()
{
	local bad=$'b\xc3\xa4d ?[31m?na<me?'

	{
		"$kvtier" && "$kvtier" stat && "$kvtier" pool && "$kvtier" map "$bad" --color never &&
			"$kvtier" pool show "$bad" && "$kvtier" top -b -n 1
	} >"$work/text" || return 1
	expect "control characters" "$(LC_ALL=C tr -d '\n[:print:]\200-\377' <"$work/text" | wc -c)" 0 &&
		iconv -f utf-8 "$work/text" >/dev/null && json stat &&
		expect "name" "$(result '.[0].name')" "\"$bad\"" &&
		"$kvtier" map "$bad" --svg "$work/map.svg" && well_formed "$work/map.svg" &&
		"$kvtier" report "$work/report.html" && iconv -f utf-8 "$work/report.html" >/dev/null &&
		expect_text "$(<"$work/report.html")" "na&lt;me"
}

no_color()
{
	local no

	builtin command -v script >/dev/null || { skip "no script(1)" || return; }
	for no in "" 1; do
		NO_COLOR=$no TERM=xterm script -qec "'$kvtier' map scanned" "$work/typescript" \
			>/dev/null </dev/null || return 1
		expect "colours with NO_COLOR=$no" "$(grep -c $'\e\\[' "$work/typescript" | sed 's/^[1-9].*/some/')" \
			"$([[ $no ]] && echo 0 || echo some)" || return 1
	done
}

not_written()
{
	local arguments

	[[ -c /dev/full ]] || { skip "no /dev/full" || return; }
	for arguments in "" --json "pool --json" --help "top -b -n 1"; do
		# shellcheck disable=SC2086 # words
		"$kvtier" $arguments >/dev/full 2>"$work/stderr"
		expect "exit status of kvtier $arguments" $? 1 &&
			expect_text "$(<"$work/stderr")" "cannot write the output: No space left" || return 1
	done
}

report()
{
	jq -n '[{name: "a & b", value: 3, unit: "x", target: 4, min: 2, max: 5}]' >"$work/bench"
	"$kvtier" report --bench "$work/bench" "$work/report.html" || return 1
	expect "plots" "$(grep -c '<svg' "$work/report.html")" 8 &&
		expect "references elsewhere" "$(grep -cE 'src=|href=|@import|url\(' "$work/report.html")" 0 &&
		expect_text "$(<"$work/report.html")" "a &amp; b" &&
		expect_text "$(<"$work/report.html")" "scanned"
}

report_of_files()
{
	"$kvtier" stat --json >"$work/none.json" &&
		"$kvtier" report --stats "$work/none.json" "$work/report.html" || return 1
	printf '[{"name":"a\033[1m\377\303\244<","value":1,"target":2,"unit":"\377"},7]' >"$work/odd.json"
	"$kvtier" report --bench "$work/odd.json" --stats "$work/odd.json" "$work/report.html" &&
		iconv -f utf-8 "$work/report.html" >/dev/null &&
		expect "control characters" "$(grep -c $'\e' "$work/report.html")" 0 || return 1
	echo '{}' >"$work/object.json"
	says 1 "is not a JSON array" report --bench "$work/object.json" "$work/r" &&
		says 1 "--bench: cannot read" report --bench "$work/none" "$work/r" &&
		says 1 "cannot write" report "$work/none/r" && says 2 "one OUT.html" report
}

# What looks like the module's folder.
make_class()
{
	mkdir -p "$work/sysfs/dram" "$work/sysfs/policy" "$work/sysfs/store0"
	echo 0 >"$work/sysfs/dram/nodes"
	echo 8589934592 >"$work/sysfs/dram/capacity_bytes"
	echo 4294967296 >"$work/sysfs/dram/limit_bytes"
	echo 1048576 >"$work/sysfs/dram/used_bytes"
	echo 20 >"$work/sysfs/dram/watermark_high"
	echo 10 >"$work/sysfs/dram/watermark_low"
	echo 1 >"$work/sysfs/policy/writeback_rate"
	echo /dev/disk >"$work/sysfs/store0/devices"
	echo 1000 >"$work/sysfs/store0/size_bytes"
	echo 1 >"$work/sysfs/store0/hold"
}

tiers()
{
	make_class
	json tier && expect "tiers of the module" "$(result '[.[] | select(.by == "module") |
		[.tier, .where, .limit_bytes]]')" \
		'[["dram","nodes 0",4294967296],["nvme","store0 /dev/disk",1000]]' &&
		json tier show dram && expect "a setting" "$(result .limit_bytes)" 4294967296 || return 1
	"$kvtier" tier set dram limit_bytes 2G &&
		expect "what was written" "$(<"$work/sysfs/dram/limit_bytes")" 2147483648 &&
		"$kvtier" tier set dram nodes 0,2-3 && "$kvtier" tier set store0 hold 0 &&
		"$kvtier" tier set policy writeback_rate 100M &&
		expect "what was written" "$(cat "$work"/sysfs/{dram/nodes,store0/hold,policy/writeback_rate} |
			tr '\n' ' ')" "0,2-30104857600"
}

tier_errors()
{
	make_class
	says 2 "'lots' is not a size" tier set dram limit_bytes lots &&
		says 1 "is more than capacity_bytes, which is 8589934592" tier set dram limit_bytes 9G &&
		says 1 "is more than watermark_high" tier set dram watermark_low 30 &&
		says 2 "'101' is not a whole number from 0 to 100" tier set dram watermark_high 101 &&
		says 2 "'x' is not a list of NUMA nodes" tier set dram nodes x &&
		says 2 "'2' is not 0 or 1" tier set store0 hold 2 &&
		says 2 "nothing called 'frob' that can be set: nodes, limit_bytes" tier set dram frob 1 &&
		says 2 "nothing called '../dram'" tier set ../dram limit_bytes 1 &&
		says 2 "nothing called '..'" tier show .. &&
		says 1 "has no cxl" tier set cxl limit_bytes 1G &&
		says 1 "there is no $work/sysfs/cxl" tier show cxl &&
		says 2 "set wants other arguments" tier set dram &&
		says 2 "'frob' is not list, show, set or quota" tier frob &&
		says 2 "'ssd' is not dram, cxl or nvme" tier quota me ssd 1G &&
		says 1 "no kvtierd answers" tier quota me dram 1G || return 1
	expect "unchanged" "$(<"$work/sysfs/dram/limit_bytes")" 4294967296
}

bad_options()
{
	says 2 "unknown option '--frob'" --frob && says 2 "unexpected argument 'x'" show x &&
		says 2 "unexpected argument 'x'" top x && says 1 "this is no terminal" top &&
		says 2 "--count: '0' is not" top -n 0 && says 2 "--delay: 'x' is not" top -d x &&
		says 2 "--sort: 'x' is not" top -s x && says 2 "one POOL" map &&
		says 2 "--width: '2' is not" map --width 2 x && says 2 "--color: 'x' is not" map --color x y &&
		says 2 "show wants other arguments" pool show &&
		says 2 "'frob' is not list, show, set" pool frob && says 1 "there is no pool 'x'" pool show x &&
		says 2 "one POOL, or --all" scrub && says 2 "--all and 'x'" scrub --all x &&
		says 1 "no kvtierd answers" scrub --all || return 1
	expect "error as JSON" "$("$kvtier" map --json x | jq -r 'keys[]')" error &&
		expect "error as JSON" "$("$kvtier" scrub --json --all | jq -r 'keys[]')" error
}

ktap_case nothing "a host with nothing on it" nothing
ktap_case nvme_folder "free bytes of the right disk" nvme_folder
ktap_case silent_daemon "a daemon that cannot be asked" silent_daemon
ktap_case screen "the system on one screen" with_pool screen
ktap_case pools "kvtier pool" with_pool pools
ktap_case map "where the blocks of another process are" with_pool map
ktap_case record "accesses of a running pool, and their replay" with_pool record
ktap_case record_to_end "a recorder ends with the pool" recorded_to_end
ktap_case top "top as text and JSON" with_pool top
ktap_case top_screen "top in a terminal of 80 by 24" with_pool on_screen 80 24 keys
ktap_case top_small "top in a terminal of 20 by 5" with_pool on_screen 20 5 small_keys
pool_name=$'b\xc3\xa4d \e[31m\nna<me\xff'
ktap_case names "a name that is made to do harm" with_pool names
pool_name=scanned
ktap_case no_color "a terminal without colours" with_pool no_color
ktap_case not_written "output that cannot be written" not_written
ktap_case report "a report with plots" with_pool report
ktap_case report_of_files "a report of files, and files that are wrong" report_of_files
ktap_case tiers "settings of the module" tiers
ktap_case tier_errors "settings that are wrong" tier_errors
ktap_case bad_options "bad options" bad_options
ktap_end
