# SPDX-License-Identifier: MIT
#
# Read the header and say what breaks its own rules; silence and 0 when nothing does.
# -v errnos="EPERM ENOENT ...": every errno that there is
# -v list=1: instead, print what the header declares: "field STRUCT FIELD", "value NAME"

function complain(text)
{
	if (!list)
		printf "%s:%d: %s\n", FILENAME, FNR, text
	bad = 1
}

function declare(kind, name)
{
	if (list)
		print kind, name
}

# Names that a kernel-doc line explains: " * @name: text".
function note_name(line)
{
	if (line !~ /^ \* @[A-Za-z_0-9]+: /)
		return
	sub(/^ \* @/, "", line)
	sub(/: .*/, "", line)
	in_comment[line] = 1
	explained[line] = 1
}

function start_comment()
{
	split("", in_comment)
	title = ""
	commenting = 1
}

function note_errnos(line,    n, i, word)
{
	n = split(line, word, /[^A-Za-z0-9_]+/)
	for (i = 1; i <= n; i++)
		if (word[i] in is_errno)
			mentioned[word[i]] = FNR
}

function note_row(line)
{
	sub(/^ \* - /, "", line)
	sub(/:.*/, "", line)
	rows[line]++
	if (!(line in is_errno))
		complain(line " in the table of errors is no errno")
}

function start_body(kind, name)
{
	body = name
	body_kind = kind
	if (title != kind " " name)
		complain(kind " " name " has no comment that begins with its name")
}

function end_body(    name)
{
	for (name in in_comment)
		complain("the comment on " body " explains " name ", which it does not have")
	body = ""
}

function member(name)
{
	if (!(name in in_comment))
		complain(body "." name " is not explained")
	delete in_comment[name]
	if (body_kind == "enum")
		declare("value", name)
	else
		declare("field", body " " name)
}

function check_type(line)
{
	if (line ~ /\*/ || line ~ / : [0-9]/ ||
	    line !~ /^\t(__u8|__u16|__u32|__s16|__s32|__aligned_u64|char|struct kvtier_[a-z_]+) /)
		complain("not a fixed-width type, aligned alike everywhere:" line)
	if (line ~ /^\tchar / && line !~ /\[/)
		complain("a lone char:" line)
}

BEGIN {
	n = split(errnos, list_of_errnos, " ")
	for (i = 1; i <= n; i++)
		is_errno[list_of_errnos[i]] = 1
}

/^\/\*\*$/ { start_comment(); next }
/^\/\*/ { commenting = 1; }
commenting {
	note_errnos($0)
	note_name($0)
	if (title == "" && $0 ~ /^ \* (struct|enum) /)
		title = $2 " " $3
	if ($0 ~ /^ \* DOC: /)
		in_table = $0 ~ /: Errors$/
	if (in_table && $0 ~ /^ \* - /)
		note_row($0)
	if ($0 ~ /\*\/$/)
		commenting = 0
	next
}

/^#include/ {
	if ($2 != "<linux/ioctl.h>" && $2 != "<linux/types.h>")
		complain("includes " $2)
}
/^#define/ && $2 != "_LINUX_KVTIER_H" {
	name = $2
	sub(/\(.*/, "", name)
	declare("value", name)
	if (!(name in explained))
		complain(name " is not explained")
}
/^(struct|enum) [a-z_]+ \{$/ { start_body($1, $2); next }
/^};$/ { end_body(); next }
body != "" {
	name = $0
	if (body_kind == "struct") {
		check_type($0)
		sub(/(\[[A-Za-z_0-9]+\])?;$/, "", name)
		sub(/.*[ \t]/, "", name)
	} else {
		name = $1
	}
	member(name)
}

END {
	for (e in mentioned)
		if (rows[e] != 1)
			complain(e " has " rows[e] + 0 " rows in the table of errors")
	exit bad && !list
}
