#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# What is said of the module against its sources: each message of the kernel's log is in
# Documentation/kernel.rst with what to do about it, each ioctl in kvtier(4), each trace
# event where it is explained.  tests/lint/sysfs.sh does the same for sysfs.
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/ktap.sh
. tests/ktap.sh

guide=Documentation/kernel.rst
page=Documentation/man/kvtier.4

# The longest part of each message without a conversion in it, and where it is.
messages()
{
	grep -HnE '\bpr_(emerg|alert|crit|err|warn|notice|info)(_once|_ratelimited)?\("' "$@" |
		awk '{
			where = $0
			sub(/[ \t].*/, "", where)
			text = $0
			sub(/^[^"]*"/, "", text)
			sub(/(\\n)?",?.*/, "", text)
			gsub(/%[-0-9.*#]*(ll|l|z|p[gUb]+)?[a-zA-Z]?/, "\001", text)
			best = ""
			nr = split(text, part, "\001")
			for (i = 1; i <= nr; i++)
				if (length(part[i]) > length(best))
					best = part[i]
			gsub(/^[ :]+|[ :(]+$/, "", best)
			print where "\t" best
		}'
}

# lacking FILE: of the lines "place<TAB>text" those whose text is not in the file.
lacking()
{
	local where text words

	words=$(tr -s ' \n' ' ' <"$1")
	while IFS=$'\t' read -r where text; do
		[[ $words == *"$text"* ]] || echo "$where is not in $1: $text"
	done
}

none()
{
	local found

	found=$(cat)
	[[ ! $found ]] || { echo "$found"; return 1; }
}

all_messages()
{
	local found

	found=$(messages kmod/*.c)
	expect_least "messages found" "$(wc -l <<<"$found")" 25 &&
		lacking $guide <<<"$found" | none
}

# A message that nobody explains is found.
a_new_message()
{
	[[ $(printf 'x.c:1:\tthe moon is in the wrong house\n' | lacking $guide) == *moon* ]] &&
		expect "what is looked for" \
			"$(printf '\tpr_warn("pool%%u: it is %%s, and %%llu is not known\\n", a);\n' >"$work"
				messages "$work" | cut -f 2)" "is not known"
}

ioctls()
{
	expect "ioctls in kvtier.4" "$(sed -n 's/^\.It Dv \(KVTIER_IOC_\)/\1/p' $page | sort)" \
		"$(sed -n 's/^#define \(KVTIER_IOC_[A-Z_]*\) _IO.*/\1/p' uapi/linux/kvtier.h | sort)"
}

events()
{
	local found

	found=$(sed -nE 's/^(TRACE_EVENT|DEFINE_EVENT)\((.*, )?(kvtier_[a-z]+),.*/\3/p' kmod/trace.h)
	# shellcheck disable=SC2016 # the quotes are the document's
	expect "trace events in kernel.rst" \
		"$(sed -nE 's/^``(kvtier_[a-z]+)`` .*/\1/p' $guide | sort)" "$(sort <<<"$found")"
}

man_page()
{
	command -v mandoc >/dev/null || { skip "mandoc is not installed" || return; }
	mandoc -T lint -W warning $page
}

work=$(mktemp) || exit 1
trap 'rm -f "$work"' EXIT
trap 'exit 1' INT TERM HUP
ktap_case messages "every message is explained" all_messages
ktap_case a_new_message "one that is not is found" a_new_message
ktap_case ioctls "kvtier(4) names every ioctl" ioctls
ktap_case events "every trace event is explained" events
ktap_case man_page "kvtier(4) is well-formed" man_page
ktap_end
