#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Positive control: what the checks of the VM look for is made to happen, and the run
# must fail and say why.  A check that never fires proves nothing.
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/ktap.sh
. tests/ktap.sh

B=${B:-build}
log=$(mktemp -d "$B/vm-controls.XXXXXX") || exit 1
trap 'rm -rf "$log"' EXIT

# breaks NAME ARGUMENT...: a run that must fail.
breaks()
{
	local name=$1

	shift
	if tests/vm/run.sh "$@" >"$log/$name" 2>&1; then
		cat "$log/$name"
		echo "expected the run to fail, it passed"
		return 1
	fi
}

# says NAME PATTERN...
says()
{
	local name=$1 pattern

	shift
	for pattern; do
		grep -qE "$pattern" "$log/$name" || {
			tail -n 40 "$log/$name"
			echo "expected the run to say /$pattern/"
			return 1
		}
	done
}

debug_kernel()
{
	breaks debug --kernel debug --suite break_rules || return 1
	says debug 'WARNING: .*kvt_test_splat|WARNING: CPU.*splat_warn' 'circular locking' \
		'sleeping function called from invalid context' \
		'KASAN: slab-use-after-free' 'KASAN: slab-out-of-bounds' \
		'^# unreferenced object' 'verdict .*kmemleak: [1-9][0-9]* objects are lost' \
		'verdict .*splats in the kernel' \
		'verdict .*taint' 'verdict .*lockdep found something'
}

leak()
{
	breaks leak --suite break_memory || return 1
	says leak 'verdict fail: expected less than [0-9]+ KiB more memory in use than before'
}

no_verdict()
{
	breaks silent --suite break_machine || return 1
	says silent '^not ok .*break_machine.end expected' '^not ok .* verdict expected, got none'
}

hang()
{
	breaks hang --suite break_clock --seconds 3 || return 1
	says hang 'expected an end within 3 s' '^not ok .*break_clock.plan'
}

ktap_case debug_kernel "lockdep, KASAN, atomic sleep, WARN and a lost object end in the verdict" \
	debug_kernel
ktap_case leak "pages that nobody frees" leak
ktap_case no_verdict "a machine that goes off in a suite" no_verdict
ktap_case hang "a suite without an end" hang
ktap_end
