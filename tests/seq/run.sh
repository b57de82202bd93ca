#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The programs of this folder as one suite: their cases under "program.case".
#
#	run.sh [BUILD]		BUILD: folder with the programs, default build
#
# Environment: OPS (of the random programs), SESSIONS (of the trace), DATA.
set -u
cd "$(dirname "$0")/../.." || exit 1

build=${1:-build}
data=${DATA:-../shared/data}
dir=$(mktemp -d -p "$build" seq.XXXXXX) || exit 1
scratch=$dir
trap 'rm -rf "$dir" "$scratch"' EXIT

# Stores in memory where there is room: what is tested here is not the disk.
if [[ $(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1) -gt 2000000 ]]; then
	scratch=$(mktemp -d -p /dev/shm kvtier-seq.XXXXXX) || scratch=$dir
fi

agentic()
{
	local traces=("$data"/traces/agentic/*.json)

	if [[ ! -e ${traces[0]} ]]; then
		echo "ok 1 agentic # SKIP no traces in $data"
		return
	elif ! command -v jq >/dev/null; then
		echo "ok 1 agentic # SKIP jq is not installed"
		return
	fi
	jq -rn -f tests/seq/agentic.jq "${traces[@]:0:${SESSIONS:-5}}" >"$dir/trace" || return
	"$build/tests/seq/agentic" --dir "$scratch" "$dir/trace"
}

run()
{
	case $1 in
	property) "$build/tests/seq/property" --ops "${OPS:-20000}" --dir "$scratch" ;;
	agentic) agentic ;;
	*) "$build/tests/seq/$1" --dir "$scratch" ;;
	esac
}

echo "KTAP version 1"
for program in sequence prefix manifest policy transfer agentic property; do
	run $program 2>&1 || echo "# $program: exit status $?"
	echo "# end of $program"
done | awk '
	function end() { if (planned != cases) {
		print "not ok " ++number " " name ": expected " planned + 0 " cases, got " cases
		bad = 1
	} }
	/^KTAP version/ { next }
	/^1\.\./ { planned = substr($1, 4); next }
	/^ok .* # SKIP/ && !planned { planned = 1 }
	/^(not )?ok / {
		cases++
		bad = bad || /^not/
		sub(/ok [0-9]+ /, "ok " ++number " ")
		print
		next
	}
	/^# end of / { name = $4; end(); planned = cases = 0; next }
	{ print }
	END { print "1.." number; exit bad || !number }
'
