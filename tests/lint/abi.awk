# SPDX-License-Identifier: MIT
#
# What a file of Documentation/ABI says of each path:
#
#	PATH MODE MIN MAX DEFAULT
#
# Mode is that of "(RO)", "(RO-root)", "(RW)" or "(WO)" at the head of the description; the others
# come from its lines "Range: MIN to MAX" and "Default: VALUE", and are "-" without.
# What is wrong with the file itself goes to stderr, and the exit status is 1.

function complain(text)
{
	print FILENAME ":" FNR ": " text | "cat >&2"
	wrong = 1
}

function flush_entry(    i)
{
	if (nr == 0)
		return
	for (i in fields)
		if (!(i in seen))
			complain(path[1] ": no line \"" i ":\"")
	if (mode == "")
		complain(path[1] ": the description does not begin with (RO), (RO-root), (RW) or (WO)")
	for (i = 1; i <= nr; i++) {
		if (path[i] in known)
			complain(path[i] " is described twice")
		known[path[i]] = 1
		print path[i], mode, least, most, value
	}
	nr = 0
}

function begin_entry()
{
	flush_entry()
	split("", seen)
	mode = ""
	least = most = value = "-"
}

BEGIN {
	fields["Date"]
	fields["KernelVersion"]
	fields["Contact"]
	fields["Description"]
	modes["(RO)"] = "444"
	modes["(RO-root)"] = "400"
	modes["(RW)"] = "644"
	modes["(WO)"] = "200"
	tag = "none"
}

/^What:/ {
	if (tag != "What")
		begin_entry()
	if ($2 !~ /^\/sys\//)
		complain("no path of sysfs: " $2)
	path[++nr] = $2
}

/^[A-Z][A-Za-z]*:/ {
	tag = $1
	sub(/:.*/, "", tag)
	seen[tag] = 1
	next
}

tag == "Description" && mode == "" && $1 in modes { mode = modes[$1] }
tag == "Description" && $1 == "Range:" { least = $2; most = $4 }
tag == "Description" && $1 == "Default:" { value = $2 }

END {
	flush_entry()
	exit wrong
}
