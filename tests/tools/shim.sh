#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The preload shim below a fake ggml: what it takes over, what it leaves alone,
# how caches share a budget, and what `kvtier run` then reports.
set -u
# shellcheck source=tests/tools/setup.sh
. "$(dirname "$0")/setup.sh"

if ! compile fake_ggml -shared -fPIC || ! mv "$work/fake_ggml" "$work/libggml-fake.so" ||
	! compile fake_engine -ldl -pthread; then
	echo "Bail out! the fake engine does not compile"
	exit 1
fi

# engine CASE [OPTION...]: under kvtier; its report in $pools, its words in stderr.
engine()
{
	local name=$1 status

	shift
	"$kvtier" run --dram 16M --nvme "$work/nvme" --stats "$work/out/pools" "$@" -- \
		"$work/fake_engine" "$work/libggml-fake.so" "$name" 2>"$work/stderr"
	status=$?
	cat "$work/stderr"
	mv "$work/out/pools" "$work/pools" 2>/dev/null || echo "[]" >"$work/pools"
	return $status
}

report()
{
	jq -c "$1" "$work/pools"
}

tiered()
{
	engine "$1" "${@:3}" || return 1
	expect "pools" "$(report 'map(select(.tiered)) | length')" "$2" &&
		expect "pools with more than all DRAM" \
			"$(report 'map(select(.tiers.dram.peak_bytes > 16777216)) | length')" 0 &&
		expect "pools that moved nothing" \
			"$(report 'map(select(.bytes > 1048576 and .demoted == 0)) | length')" 0 &&
		expect_clean
}

# The engine itself looks at what the kernel counts: together they never have more
# than the process was given, though each may have had more before the others came.
several()
{
	tiered several 3 || return 1
	expect_least "blocks of the first cache that left memory" \
		"$(report 'map(select(.bytes == 33554432)) | .[0].demoted')" 100
}

fits()
{
	engine one --dram 64M || return 1
	expect_text "$(<"$work/stderr")" "fits in the DRAM budget" &&
		expect "report" "$(report 'map([.tiered, .bytes])')" '[[false,33554432]]' &&
		expect_clean
}

too_small()
{
	local least

	engine one --dram 2M
	expect "exit status of the engine" $? 3 || return 1
	expect_text "$(<"$work/stderr")" "give \`--dram " || return 1
	# shellcheck disable=SC2016 # a quote of the message
	least=$(sed -n 's/.*give `--dram \([0-9]*\)M.*/\1/p' "$work/stderr")
	expect "lines of kvtier" "$(grep -c kvtier "$work/stderr")" 1 && expect_clean || return 1
	# What it says is true, and no more than needed.
	tiered one 1 --dram "${least}M" || return 1
	engine one --dram $((least - 1))M
	expect "exit status with less" $? 3
}

# The first cache takes all of it; the second is refused, and the first lives on.
nvme_taken()
{
	engine several --nvme "$work/nvme:32M"
	expect "exit status of the engine" $? 3 || return 1
	expect_text "$(<"$work/stderr")" "NVMe" &&
		expect "lines of kvtier" "$(grep -c kvtier "$work/stderr")" 1 && expect_clean
}

weights()
{
	engine weights
	expect "exit status" $? 125 &&
		expect_text "$(<"$work/stderr")" "created no context with a KV cache" &&
		expect "report" "$(report .)" "[]" && expect_clean
}

nothing()
{
	engine nothing
	expect "exit status" $? 125 &&
		expect_text "$(<"$work/stderr")" "created no context with a KV cache" && expect_clean
}

# Without `kvtier run` around it, the shim is not there.
alone()
{
	LD_PRELOAD=$(dirname "$kvtier")/libkvtier-preload.so "$work/fake_engine" \
		"$work/libggml-fake.so" several && expect_clean
}

died()
{
	engine "$1"
	expect "exit status" $? "$2" && expect "pools" "$(report length)" 1 && expect_clean
}

# What cannot be served is said, with the cause; also through a shell, which turns
# the signal into a status.
spoilt()
{
	died "$1" 135 && expect_text "$(<"$work/stderr")" "could not be served: " &&
		expect_text "$(<"$work/stderr")" "$2" || return 1
	# shellcheck disable=SC2016 # expanded by the inner shell
	"$kvtier" run --dram 16M --nvme "$work/nvme" -- sh -c '"$@"; exit $?' sh "$work/fake_engine" \
		"$work/libggml-fake.so" "$1" 2>"$work/stderr"
	expect "exit status" $? 135 && expect_text "$(<"$work/stderr")" "could not be served: " &&
		expect_clean
}

# A report on a pipe is written, not replaced; one behind a link leaves the link.
report_places()
{
	local line

	line=$("$kvtier" run --dram 16M --nvme "$work/nvme" --stats /dev/stdout -- \
		"$work/fake_engine" "$work/libggml-fake.so" one | jq -c 'map(.bytes)')
	expect "report on a pipe" "$line" "[33554432]" || return 1
	echo old >"$work/real"
	ln -s "$work/real" "$work/link"
	"$kvtier" run --dram 16M --nvme "$work/nvme" --stats "$work/link" -- "$work/fake_engine" \
		"$work/libggml-fake.so" one || return 1
	[[ -L $work/link ]] || { echo "the link was replaced" && return 1; }
	expect "report behind a link" "$(jq -c 'map(.bytes)' "$work/real")" "[33554432]"
}

# Links that somebody put where a report might be written first lead nowhere; a report keeps its mode.
report_planted()
{
	mkdir "$work/shared"
	echo precious >"$work/victim"
	echo old >"$work/shared/x"
	chmod 640 "$work/shared/x"
	# shellcheck disable=SC2016 # expanded by the inner shell
	bash -c 'ln -s "$1/victim" "$1/shared/x.tmp$$"
		exec "$2" run --dram 16M --nvme "$1/nvme" --stats "$1/shared/x" -- \
			"$1/fake_engine" "$1/libggml-fake.so" one' - "$work" "$kvtier" || return 1
	expect "what the link leads to" "$(<"$work/victim")" precious &&
		expect "report" "$(jq -c 'map(.bytes)' "$work/shared/x")" "[33554432]" &&
		expect "its mode" "$(stat -c %a "$work/shared/x")" 640
}

# While it runs, `kvtier stat` shows it.
watched()
{
	local i pools=0

	# shellcheck disable=SC2016 # expanded by the inner shell
	"$kvtier" run --dram 16M --nvme "$work/nvme" -- sh -c 'for i in 1 2 3 4; do "$@"; done' sh \
		"$work/fake_engine" "$work/libggml-fake.so" several &
	for ((i = 0; i < 100 && pools == 0; i++)); do
		pools=$("$kvtier" stat --json | jq length)
		[[ $pools -eq 0 ]] || "$kvtier" stat >"$work/table"
		sleep 0.02
	done
	wait $! || return 1
	expect_least "pools seen" "$pools" 1 &&
		expect_text "$(<"$work/table")" "fake_engine (pid " &&
		expect_text "$(<"$work/table")" "hits " && expect_clean
}

ktap_case one "a cache that does not fit" tiered one 1
ktap_case blocks_64k "small blocks" tiered one 1 --block 64K
ktap_case blocks_1m "large blocks" tiered one 1 --block 1M
ktap_case clear "cleared fresh and used, with zero and another value" tiered clear 2
ktap_case several "three caches share a budget" several
ktap_case threads "caches of two threads at once" tiered threads 6
ktap_case forked "a child that frees what it never had" tiered forked 2
ktap_case resized "caches that are measured and resized" tiered resized 2
ktap_case jumped "an allocation that is left by longjmp()" tiered jumped 1
ktap_case leave "an engine that exits without freeing" tiered leave 1
ktap_case fits "a cache that fits is left alone" fits
ktap_case too_small "a budget below the least, which is named" too_small
ktap_case nvme_taken "NVMe space that is taken" nvme_taken
ktap_case weights "other allocations are left alone" weights
ktap_case nothing "an engine that makes no context" nothing
ktap_case alone "the shim without kvtier run" alone
ktap_case killed "an engine that is killed" died die 137
ktap_case damaged "a file overwritten underneath" spoilt damaged "checksum"
ktap_case cut_off "a file truncated underneath" spoilt cut_off "could not be read"
ktap_case report_places "reports on pipes and behind links" report_places
ktap_case report_planted "a report follows no link that was planted beside it" report_planted
ktap_case watched "stat shows running pools" watched
ktap_end
