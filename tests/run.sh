#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# run.sh: build every variant, run every suite, and say in one last line how many
# cases passed, failed and were skipped.  Exit status 0 only if something passed
# and nothing failed.  Documentation/testing.rst describes the suites.
#
# Environment: SUITES (names, default all), B (build folder), JOBS.
set -u
cd "$(dirname "$0")/.." || exit 1

B=${B:-build}
JOBS=${JOBS:-$(nproc)}
logs=$B/test
passed=0
failed=0
skipped=0

# wanted NAME: is this suite, or its family (the part before the dash), asked for?
wanted()
{
	[[ ! ${SUITES:-} || " $SUITES " == *" $1 "* || " $SUITES " == *" ${1%%-*} "* ]]
}

# Cases passed, failed, skipped and planned, of one suite's KTAP.
count()
{
	awk '
		/^1\.\.[0-9]+/ { planned = substr($1, 4); whole = / # SKIP/ }
		/^ok .* # SKIP/ { skipped++; next }
		/^ok / { passed++ }
		/^not ok / { failed++ }
		END { print passed + 0, failed + 0, skipped + whole, planned == "" ? -1 : planned }
	' "$1"
}

# suite NAME SECONDS COMMAND...: run it, show its KTAP, add up its cases.
suite()
{
	local name=$1 seconds=$2 status ok bad skip plan start=$SECONDS

	wanted "$name" || return 0
	shift 2
	echo "# suite: $name"
	timeout -k 10 "$seconds" "$@" 2>&1 </dev/null | tee "$logs/$name.ktap"
	status=${PIPESTATUS[0]}
	read -r ok bad skip plan < <(count "$logs/$name.ktap")
	if [[ $status -eq 124 || $status -eq 137 ]]; then
		echo "not ok - $name: expected an end within $seconds s, got none"
		bad=$((bad + 1))
	elif [[ $plan -lt 0 || ($plan -gt 0 && $plan -ne $((ok + bad + skip))) ]]; then
		echo "not ok - $name: expected $plan cases, got $((ok + bad + skip)) (exit $status)"
		bad=$((bad + 1))
	elif [[ $status -ne 0 && $status -ne 4 && $bad -eq 0 ]]; then
		echo "not ok - $name: expected exit 0, got $status"
		bad=$((bad + 1))
	fi
	passed=$((passed + ok))
	failed=$((failed + bad))
	skipped=$((skipped + skip))
	echo "# suite: $name: $ok passed, $bad failed, $skip skipped, $((SECONDS - start)) s"
}

# on_request NAME ...: a suite that only its whole name asks for.
on_request()
{
	[[ " $SUITES " != *" $1 "* ]] || suite "$@"
}

# The variants that the suites below run.
build_gcc() { make -j"$JOBS" B="$B" CC=gcc all tests; }
build_clang() { make -j"$JOBS" B="$B/clang" CC=clang all tests; }
build_asan()
{
	make -j"$JOBS" B="$B/asan" CC=gcc SANITIZE=address,undefined \
		CFLAGS='-O1 -g -fno-sanitize-recover=all' all tests
}
build_engine() { make -j"$JOBS" B="$B" CC=gcc demo-programs; }

build()
{
	# shellcheck source=tests/ktap.sh
	. tests/ktap.sh
	ktap_case build_gcc "builds without a warning with gcc" build_gcc
	ktap_case build_clang "builds without a warning with clang" build_clang
	ktap_case build_asan "builds with AddressSanitizer and UBSan" build_asan
	! wanted engine || ktap_case build_engine "builds what drives the engine" build_engine
	ktap_end
}

# Where the suite "build" is not asked for, what the others run is built here.
prepare()
{
	local name variant variants=()

	for name in ${SUITES:-build}; do
		case $name in
		build) return ;;
		uapi | lint | kbuild) ;;
		*) variants=(build_gcc) ;;
		esac
	done
	! wanted unit-clang && ! wanted conformance-2m || variants+=(build_clang)
	! wanted unit-asan && ! wanted conformance-asan && ! wanted seq-asan &&
		! wanted daemon-asan || variants+=(build_asan)
	! wanted engine || variants+=(build_engine)
	for variant in "${variants[@]}"; do
		"$variant" >"$logs/$variant.log" 2>&1 || {
			tail -n 20 "$logs/$variant.log"
			echo "0 passed, 1 failed, 0 skipped: $variant; $logs/$variant.log has all of it"
			exit 1
		}
	done
}

# Every tests/unit program of a variant as one suite.
unit()
{
	local variant=$1 number=0 bad=0 program

	echo "KTAP version 1"
	for program in "$variant"/tests/unit/test_*; do
		[[ -x $program ]] || continue
		while read -r line; do
			case $line in
			*"ok "*" # SKIP "*) # cmocka has "not ok" there
				echo "ok $((++number)) ${program##*/test_}.${line##* # SKIP } # SKIP"
				;;
			"ok "*) echo "ok $((++number)) ${program##*/test_}.${line#ok * - }" ;;
			"not ok "*)
				echo "not ok $((++number)) ${program##*/test_}.${line#not ok * - }"
				bad=1
				;;
			1..*) ;;
			*) echo "# $line" ;;
			esac
		done < <(CMOCKA_MESSAGE_OUTPUT=TAP timeout 60 "$program" 2>&1 ||
			echo "not ok - exit status $?")
	done
	echo "1..$number"
	return $bad
}

# Leaks are looked for when a case's process ends; the small quarantine keeps freed memory out
# of what the cases measure.
sanitized=(env ASAN_OPTIONS=detect_leaks=1:quarantine_size_mb=8 UBSAN_OPTIONS=print_stacktrace=1)

# in_vm NAME...: the arguments of tests/vm/run.sh for these suites.
in_vm()
{
	printf -- '--suite %s ' "$@"
}

# What runs on the module: on 6.12, on another kernel, and with every check on.
read -ra each_time < <(in_vm boot abi adopt budget clone frames limits migrate protect stall store \
	stripe trace uring policy conformance daemon engine seq \
	tools)
read -ra shorter < <(in_vm boot abi budget clone limits map million protect store uring)
read -ra checked < <(in_vm boot nth abi clone limits million protect store)

case ${1:-} in
build | unit) "$@" && exit 0 || exit 1 ;; # suites that are functions of this file
esac

mkdir -p "$logs" || exit 1
prepare
suite build 900 "$0" build
suite uapi 120 tests/uapi/run.sh
suite lint 1200 tests/lint/run.sh
suite install 120 tests/install/run.sh
suite unit 120 "$0" unit "$B"
suite unit-clang 120 "$0" unit "$B/clang"
suite unit-asan 120 "${sanitized[@]}" "$0" unit "$B/asan"
suite conformance 600 "$B/conformance" --pager user --dir "$logs"
suite conformance-2m 600 "$B/clang/conformance" --pager user --dir "$logs" --block 2048
suite conformance-copy 600 env KVTIER_UFFD=copy "$B/conformance" --pager user --dir "$logs" \
	--block 64
suite conformance-asan 900 "${sanitized[@]}" "$B/asan/conformance" --pager user \
	--dir "$logs" --slow 4
suite conformance-kernel 600 "$B/conformance" --pager kernel --dir "$logs"
suite seq 600 tests/seq/run.sh "$B"
suite seq-asan 600 "${sanitized[@]}" OPS=8000 SESSIONS=2 tests/seq/run.sh "$B/asan"
suite examples 600 tests/seq/examples.sh "$B"
suite daemon 300 "$B/tests/daemon/suite" --dir "$logs" --slow 2
suite daemon-asan 600 "${sanitized[@]}" "$B/asan/tests/daemon/suite" --dir "$logs" --slow 6 --rounds 3
suite daemon-docs 120 tests/daemon/run.sh
suite tools 300 tests/tools/run.sh
suite engine 600 tests/engine/run.sh
suite kbuild 3600 tests/vm/kbuild.sh
suite vm-6.12 3600 tests/vm/run.sh --kernel 6.12 "${each_time[@]}"
suite vm-6.1 3600 env MIGRATIONS=50000 tests/vm/run.sh --kernel 6.1 "${shorter[@]}"
# Builds the kernel first; a CXL device that is interpreted is too slow for all of its checks.
suite vm-debug 7200 tests/vm/run.sh --kernel debug --topology numa "${checked[@]}"
if [[ ${SUITES:-} ]]; then # for asking: they take long
	on_request vm-all 7200 tests/vm/run.sh --kernel 6.12
	on_request vm-latest 7200 tests/vm/run.sh --kernel latest
	on_request vm-errors 3600 tests/vm/run.sh --topology errors
	on_request vm-icount 3600 tests/vm/run.sh --icount --suite boot --suite insn
	on_request vm-controls 3600 tests/vm/controls.sh
	on_request vm-million 14400 tests/vm/run.sh --topology numa --suite boot --suite million
fi

echo "$passed passed, $failed failed, $skipped skipped"
[[ $failed -eq 0 && $passed -gt 0 ]]
