# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# KTAP for suites written in shell.  Sourced.  A case is a function or command:
# exit status 0 passes, 4 skips (its last line says why), anything else fails;
# what a failing case prints is shown.

ktap_number=0
ktap_failed=0

# ktap_case NAME DESCRIPTION COMMAND...
ktap_case()
{
	local name=$1 description=$2 output status=0

	shift 2
	[[ $ktap_number -gt 0 ]] || echo "KTAP version 1"
	ktap_number=$((ktap_number + 1))
	echo "# $name: Description: $description"
	output=$("$@" 2>&1) || status=$?
	case $status in
	0) echo "ok $ktap_number $name" ;;
	4) echo "ok $ktap_number $name # SKIP ${output##*$'\n'}" ;;
	*)
		printf '# %s\n' "${output//$'\n'/$'\n# '}"
		echo "not ok $ktap_number $name"
		ktap_failed=$((ktap_failed + 1))
		;;
	esac
}

# The plan, and the suite's exit status.
ktap_end()
{
	echo "1..$ktap_number"
	[[ $ktap_failed -eq 0 && $ktap_number -gt 0 ]]
}

# expect WHAT GOT WANTED
expect()
{
	[[ $2 == "$3" ]] || {
		echo "$1: expected $3, got $2"
		return 1
	}
}

# expect_least WHAT GOT LEAST
expect_least()
{
	[[ $2 -ge $3 ]] || {
		echo "$1: expected at least $3, got $2"
		return 1
	}
}

skip()
{
	echo "$*"
	return 4
}
