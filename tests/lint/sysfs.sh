#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The sysfs files that the module's sources make, and those that Documentation/ABI
# describes: the same names and modes, and of the policy the same ranges and defaults.
# tests/vm/suites/sysfs compares the document with the running module.
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/ktap.sh
. tests/ktap.sh

document=Documentation/ABI/testing/sysfs-class-kvtier
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP

# agree DOCUMENT SOURCE...
agree()
{
	local described=$1 difference

	shift
	awk -f tests/lint/abi.awk "$described" >"$work/described" || return 1
	awk -f tests/lint/attributes.awk kmod/kvtier.h "$@" | sort >"$work/made"
	[[ ${PIPESTATUS[0]} -eq 0 ]] || return 1
	# The document may say more of a range than the sources show.
	awk 'NR == FNR { shown[$1] = $3; next }
		shown[$1] == "-" { $3 = $4 = $5 = "-" }
		{ print }' "$work/made" "$work/described" | sort >"$work/comparable"
	difference=$(diff "$work/made" "$work/comparable") || {
		echo "the sources (<) and $document (>) differ (path, mode, range, default):"
		echo "$difference"
		return 1
	}
}

sources()
{
	agree "$document" kmod/*sysfs*.c
}

# complains TEXT COMMAND...: it fails, and says so.
complains()
{
	local text=$1 said

	shift
	! said=$("$@" 2>&1) || {
		echo "nothing was found wrong"
		return 1
	}
	[[ $said == *"$text"* ]] || {
		echo "expected a complaint about $text, got: $said"
		return 1
	}
}

changed()
{
	sed "$2" "$1" >"$work/${1##*/}"
	! cmp -s "$1" "$work/${1##*/}" || {
		echo "the change has no effect: $2"
		return 1
	}
}

# What is wrong in a document with this change is seen.
document_fault()
{
	changed "$document" "$2" && complains "$1" agree "$work/${document##*/}" kmod/*sysfs*.c
}

# ... in a source.
source_fault()
{
	changed kmod/sysfs.c "$2" &&
		complains "$1" agree "$document" "$work/sysfs.c" kmod/store_sysfs.c
}

faults()
{
	document_fault policy/scan_period_ms 's,policy/scan_period_ms,policy/scan_period,' &&
		document_fault "store<N>/hold" 's,(RW) 1: the store,(RO) 1: the store,' &&
		document_fault policy/dma_timeout_ms 's,to 60000 mill,to 60001 mill,' &&
		document_fault policy/writeback_rate 's,Default: 268435456,Default: 26843545,' &&
		document_fault twice 's,dram/used_bytes,cxl/used_bytes,' &&
		document_fault Contact '/^Contact:/d' &&
		source_fault "no group lists" '/&stats_held/d' &&
		source_fault policy/dma_threshold 's/^POLICY_U32(dma_threshold, 1,/POLICY_U32(dma_threshold, 0,/' &&
		source_fault policy/max_deadline_ms 's/max_deadline_ms = 600000/max_deadline_ms = 60000/' &&
		source_fault dram/fresh 's/^static DEVICE_ATTR_RO(bandwidth);/&\nstatic DEVICE_ATTR_RO(fresh);/; s/^.&dev_attr_bandwidth.attr,/&\n\t\&dev_attr_fresh.attr,/'
}

ktap_case sources "the module's sysfs files are documented, and no others" sources
ktap_case faults "a difference is seen, whichever side it is on" faults
ktap_end
