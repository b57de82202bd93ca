#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Help, man pages, completion and code name the same options, variables and figures.
set -u
# shellcheck source=tests/tools/setup.sh
. "$(dirname "$0")/setup.sh"
# shellcheck source=tools/completion/kvtier.bash
. tools/completion/kvtier.bash

man=Documentation/man

# Options at the start of the indented lines of a help text.
options_of_help()
{
	"$kvtier" "$@" --help | sed -nE 's/^ +(-.*)/\1/p' | sed -E 's/  .*//' |
		grep -oE -- '(^|[ ,])--?[A-Za-z][a-z]*' | tr -d ' ,' | sort -u
}

# Options in the list of a man page.
options_of_man()
{
	sed -n 's/^\.It Fl //p' "$man/$1.1" | tr ',' '\n' | sed -E 's/^ *(Fl )?([^ ]+).*/-\2/' | sort -u
}

# What completion offers for the last of these words.
completed()
{
	local COMP_WORDS=(kvtier "$@") COMP_CWORD=$# COMPREPLY

	_kvtier
	printf '%s\n' "${COMPREPLY[@]}" | grep -vx -e -- | sort -u
}

agree()
{
	local page=kvtier${1:+-$1} help

	help=$(options_of_help "$@")
	[[ $help == *--help* ]] || { echo "no options found in the help: $help" && return 1; }
	expect "options in $page.1" "$(options_of_man "$page")" "$help" &&
		expect "options of the completion" "$(completed "$@" -)" "$help"
}

commands()
{
	local help

	help=$("$kvtier" --help | sed -nE 's/^  ([a-z]+) .*/\1/p' | sort)
	# shellcheck disable=SC2086 # a word each
	expect "commands in kvtier.1" "$(sed -n 's/^\.It Cm //p' $man/kvtier.1 | sort)" "$help" &&
		expect "man pages" "$(cd $man && printf '%s\n' kvtier-*.1)" \
			"$(printf 'kvtier-%s.1\n' $help)" &&
		expect "commands of the completion" "$(completed "" | grep -v '^-')" "$help"
}

# Variables that the library or the tools read, and those in the man pages.
variables()
{
	local code

	code=$(grep -ohE '(getenv|number|setenv|unsetenv|set_number)\("(KVTIER_[A-Z_]+)"' \
		tools/*.c tools/preload/*.c libkvtier/*.c | grep -oE 'KVTIER_[A-Z_]+' | sort -u)
	expect "variables in the man pages" \
		"$(sed -n 's/^\.It Ev \(KVTIER_\)/\1/p' $man/*.[1-8] | sort -u)" "$code"
}

# Members of the JSON objects, in one list.
figures()
{
	local name names

	names=$(grep -hoE 'ToObject\([a-z]+, "[a-z_]+"|\{ "[a-z_]+", s->' tools/pools.c |
		grep -oE '"[a-z_]+"' | tr -d '"' | sort -u)
	expect_least "members found" "$(wc -l <<<"$names")" 30 || return 1
	for name in $names; do
		grep -qE "^(\.It Va |\.Va ).*\b$name\b" $man/kvtier-stat.1 || {
			echo "$name is not in kvtier-stat.1"
			return 1
		}
	done
}

checks()
{
	expect "checks in kvtier-doctor.1" "$(sed -n 's/^\.It Cm //p' $man/kvtier-doctor.1)" \
		"$("$kvtier" doctor --json | jq -r '.[].check')"
}

exit_statuses()
{
	local status help

	help=$("$kvtier" run --help | sed -n '/^Exit status/,$p')
	for status in 125 126 127 128; do
		expect_text "$help" "$status" || return 1
		grep -q "^\.It $status" $man/kvtier-run.1 || {
			echo "$status is not in kvtier-run.1"
			return 1
		}
	done
}

formatted()
{
	builtin command -v mandoc >/dev/null || { skip "mandoc is not installed" || return; }
	mandoc -T lint -W warning $man/*.[1-8]
}

ktap_case commands "commands" commands
ktap_case kvtier "options of kvtier" agree
ktap_case run "options of kvtier run" agree run
ktap_case stat "options of kvtier stat" agree stat
ktap_case doctor "options of kvtier doctor" agree doctor
ktap_case variables "environment variables" variables
ktap_case figures "members of the JSON" figures
ktap_case checks "checks of the doctor" checks
ktap_case exit_statuses "exit statuses" exit_statuses
ktap_case formatted "man pages are well-formed" formatted
ktap_end
