# SPDX-License-Identifier: MIT
#
# The sysfs files that the sources of the module make, in the format of abi.awk.  To be
# given kmod/kvtier.h, for its constants, and then the sources.  Exit status 1 and a line
# on stderr for what this does not understand.

function complain(text)
{
	print FILENAME ":" FNR ": " text | "cat >&2"
	wrong = 1
}

# The arguments of a macro: "NAME(a, b)" -> argument[1], argument[2].
function arguments(    text, nr)
{
	text = $0
	sub(/^[^(]*\(/, "", text)
	sub(/\)[^)]*$/, "", text)
	nr = split(text, argument, /, */)
	return nr
}

function is_attribute(name, mode)
{
	modes[FILENAME, name] = mode
	unused[FILENAME, name] = FILENAME ":" FNR
}

function number(word)
{
	return word in constant ? constant[word] : word
}

function list(group, name,    i, nr, place, where)
{
	nr = split(places[group], place, " ")
	if (nr == 0)
		complain("it is not known where the group " group " is in sysfs")
	if (!((FILENAME, name) in modes)) {
		complain("it is not known what " name " is")
		return
	}
	delete unused[FILENAME, name]
	for (i = 1; i <= nr; i++) {
		where = "/sys/class/kvtier/" place[i] name
		print where, modes[FILENAME, name], (name in least) ? least[name] : "-",
			(name in most) ? most[name] : "-", (name in value) ? value[name] : "-"
		found++
	}
}

BEGIN {
	places["tier"] = "dram/ cxl/"
	places["policy"] = "policy/"
	places["pool"] = "pool<N>/"
	places["kvt_store"] = "store<N>/"
	constant["U32_MAX"] = "4294967295"
	constant["U64_MAX"] = "18446744073709551615"
}

/^#define [A-Z_]+ [0-9]+( |$)/ { constant[$2] = $3 }

# A macro's own lines make nothing.
/^#define/ || continued {
	continued = /\\$/
	next
}

/^static (DEVICE|CLASS)_ATTR_(RO|RW|WO)\(/ {
	arguments()
	is_attribute(argument[1], /_RO/ ? "444" : /_RW/ ? "644" : "200")
}

/^static (KVT_BIN_CONST )?BIN_ATTR_ADMIN_RO\(/ { arguments(); is_attribute(argument[1], "400") }
/^KVT_STORE_NUMBER\(/ { arguments(); is_attribute(argument[1], "444") }
/^(STATS|COUNTER)\(/ { arguments(); is_attribute(argument[1], "444") }
/^BLOCKS\(/ { arguments(); is_attribute(argument[1], "400") }

/^TIERS\(/ {
	arguments()
	is_attribute("dram_" argument[1], "444")
	is_attribute("cxl_" argument[1], "444")
	is_attribute("nvme_" argument[1], "444")
}

/^POLICY(_U32)?\(/ {
	nr = arguments()
	is_attribute(argument[1], "644")
	least[argument[1]] = number(argument[nr - 1])
	most[argument[1]] = number(argument[nr])
}

/^struct kvt_policy kvt_policy = \{/ { in_policy = 1 }
in_policy && /^\t\.[a-z_]+ = / {
	name = substr($1, 2)
	text = $0
	sub(/^[^=]*= /, "", text)
	sub(/,$/, "", text)
	if (split(text, shift, / << /) == 2)
		text = sprintf("%.0f", shift[1] * 2 ^ shift[2])
	value[name] = text
}
/^};/ { in_policy = 0; group = "" }

/^static struct attribute \*[a-z_]+_attrs\[\] = \{/ {
	group = $0
	sub(/^static struct attribute \*/, "", group)
	sub(/_attrs.*/, "", group)
	next
}
group != "" && /&/ {
	name = $1
	sub(/^&(dev_attr_|stats_)/, "", name)
	sub(/\.attr.*/, "", name)
	list(group, name)
}
group != "" && /TIERS_OF/ {
	arguments()
	list(group, "dram_" argument[1])
	list(group, "cxl_" argument[1])
	list(group, "nvme_" argument[1])
}

/class_create_file\(.*&class_attr_/ {
	name = $0
	sub(/.*&class_attr_/, "", name)
	sub(/[^a-z_].*/, "", name)
	delete unused[FILENAME, name]
	print "/sys/class/kvtier/" name, modes[FILENAME, name], "-", "-", "-"
	found++
}

# Those of stores alone are such.
/device_create_bin_file\(.*&bin_attr_/ {
	name = $0
	sub(/.*&bin_attr_/, "", name)
	sub(/[^a-z_].*/, "", name)
	list("kvt_store", name)
}

END {
	for (name in unused)
		complain(unused[name] " makes a file that no group lists")
	if (!found)
		complain("no file of sysfs found")
	exit wrong
}
