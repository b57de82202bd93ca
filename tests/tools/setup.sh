# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Sourced by the suites of this folder: a scratch folder, the built command, and
# a check that it leaves nothing behind.

cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/ktap.sh
. tests/ktap.sh

B=${B:-build}
kvtier=$(realpath "$B")/kvtier
[[ -x $kvtier ]] || { echo "1..0 # SKIP $B/kvtier is not built" && exit 4; }
work=$(mktemp -d "$(realpath "$B")/tools.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
mkdir "$work/run" "$work/nvme" "$work/out"
export KVTIER_RUNTIME_DIR=$work/run

# compile NAME [OPTION...]: tests/tools/NAME.c to $work/NAME.
compile()
{
	local name=$1

	shift
	${CC:-cc} -std=gnu11 -O1 -Wall -Wextra -Werror -o "$work/$name" "tests/tools/$name.c" "$@"
}

# Files that a command should have removed.
expect_clean()
{
	expect "files of pools" "$(ls -A "$work/run")" "" &&
		expect "files on the NVMe tier" "$(ls -A "$work/nvme")" "" &&
		expect "files beside --stats" "$(ls -A "$work/out")" ""
}

# says STATUS TEXT ARGUMENT...: kvtier with these arguments exits with STATUS and
# one line that contains TEXT; nothing is left behind.
says()
{
	local status=$1 text=$2 got

	shift 2
	"${with[@]}" "$kvtier" "$@" >"$work/stdout" 2>"$work/stderr" </dev/null
	got=$?
	[[ $got -ne 77 ]] || { skip "seccomp cannot be used here" || return; }
	expect "exit status of kvtier $*" "$got" "$status" &&
		expect "output" "$(<"$work/stdout")" "" &&
		expect "lines" "$(wc -l <"$work/stderr")" 1 &&
		expect_text "$(<"$work/stderr")" "$text" &&
		expect_clean
}
with=()

expect_text()
{
	[[ $1 == *"$2"* ]] || {
		echo "expected \"$2\" in: $1"
		return 1
	}
}
