#!/bin/sh
# SPDX-License-Identifier: MIT
# Description: the uapi header keeps its layout, its own rules and its guide's word
set -u
cd "$(dirname "$0")" || exit 1
header=../../uapi/linux/kvtier.h
library=../../libkvtier/include/kvtier.h
guide=../../Documentation/uapi.rst
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# A test is a name and a command.  Exit 4 means that something it needs is absent.
tests=$work/tests
add() { printf '%s|%s\n' "$1" "$2" >>"$tests"; }

have() {
	command -v "$1" >/dev/null && return
	echo "no $1"
	exit 4
}

# Some installations compile for 64 bits alone.
compile() {
	have "$1"
	if ! echo '#include <linux/types.h>' | "$1" "$2" -x c -fsyntax-only - 2>/dev/null; then
		echo "$1 cannot compile with $2 (Debian: gcc-multilib)"
		exit 4
	fi
	"$@" -Wall -Wextra -Werror -I../../uapi
}

layout() { compile "$1" "$2" -std=gnu11 -Wpadded -c -o "$work/layout.o" layout.c; }

c_dialect() {
	printf '#include <linux/kvtier.h>\n#include <linux/kvtier.h>\nint dummy;\n' >"$work/alone.c"
	compile "$1" "$2" "-std=$3" -pedantic -c -o "$work/alone.o" "$work/alone.c"
}

cplusplus() { compile "$1" "$2" -std=c++11 -pedantic -c -o "$work/cc.o" header.cc; }

# Both widths as the debugging information has them, and neither with a hole.
same_by_pahole() {
	have pahole
	sed -n 's/^struct \(kvtier_[a-z_]*\) {/struct \1 \1;/p' "$header" >"$work/names"
	{ echo '#include <linux/kvtier.h>'; cat "$work/names"; } >"$work/all.c"
	for bits in 32 64; do
		compile gcc -m$bits -g -c -o "$work/$bits.o" "$work/all.c" || return
		pahole "$work/$bits.o" | grep -v -e '^/\*' -e 'last cacheline' -e 'forced al' |
			sed 's/long long unsigned int/u64/; s/[[:space:]]\+/ /g' >"$work/$bits"
	done
	if [ "$(grep -c '^struct kvtier_.* {' "$work/64")" -ne "$(wc -l <"$work/names")" ]; then
		echo "pahole does not show every struct"
		return 1
	fi
	if grep -i -e 'hole' -e 'padding' "$work/32" "$work/64"; then
		return 1
	fi
	diff "$work/32" "$work/64"
}

errnos() {
	echo '#include <errno.h>' | gcc -E -dM - | awk '/^#define E[A-Z0-9]+ / { printf "%s ", $2 }'
}

# Documentation of every name, table of errors, types, includes.
contract() { awk -v errnos="$(errnos)" -f contract.awk "$1"; }

# $1: a change that breaks a rule; $2: what contract must say about it.
contract_catches() {
	sed "$1" "$header" >"$work/broken.h"
	if cmp -s "$header" "$work/broken.h"; then
		echo "the change has no effect: $1"
		return 1
	fi
	if contract "$work/broken.h" >"$work/complaints"; then
		echo "nothing was found wrong after: $1"
		return 1
	fi
	grep -q "$2" "$work/complaints" && return
	echo "expected a complaint like '$2' after '$1', got:"
	cat "$work/complaints"
	return 1
}

# layout.c has a line for every field and every constant of the header.
layout_complete() {
	awk -v list=1 -f contract.awk "$header" | while read -r kind first second; do
		case $kind in
		field) pattern="^FIELD($first, $second, " ;;
		*) pattern="\\(^VALUE($first, \\|value of $first\"\\)" ;;
		esac
		grep -q "$pattern" layout.c || echo "layout.c lacks $kind $first $second"
	done >"$work/lacking"
	cat "$work/lacking"
	[ "$(awk -v list=1 -f contract.awk "$header" | wc -l)" -gt 100 ] && [ ! -s "$work/lacking" ]
}

# The C fragments of the guide are, one after the other, a program.
guide_compiles() {
	have pkg-config
	pkg-config --exists liburing || { echo "no liburing"; exit 4; }
	awk '/^\.\. code-block:: / { inside = $3 == "c"; next }
	     /^[^ \t]/ { inside = 0 }
	     inside { sub(/^   /, ""); print }' "$guide" >"$work/guide.c"
	if ! grep -q '^int main(' "$work/guide.c"; then
		echo "no program in $guide"
		return 1
	fi
	# shellcheck disable=SC2046 # flags are words
	compile "$1" -m64 -std=gnu11 -o "$work/guide" "$work/guide.c" \
		$(pkg-config --cflags --libs liburing)
}

# Without the device the guide's program says so in one line and fails.
guide_without_device() {
	if [ -e /dev/kvtier ]; then
		echo "the device is here"
		exit 4
	fi
	guide_compiles gcc || return
	if "$work/guide" 2>"$work/said"; then
		echo "it succeeded"
		return 1
	fi
	cat "$work/said"
	[ "$(wc -l <"$work/said")" -eq 1 ] && grep -q /dev/kvtier "$work/said"
}

# What the guide names is in the header, and in the library's.
guide_names() {
	grep -o -e 'KVTIER_[A-Z0-9_]*[A-Z0-9]' -e 'struct kvtier_[a-z_]*[a-z]' \
		-e '\<kvt_[a-z_]*' "$guide" | sort -u >"$work/named"
	while read -r name; do
		cat "$header" "$library" | grep -qw -e "$name" || echo "$guide: there is no $name"
	done <"$work/named" >"$work/unknown"
	cat "$work/unknown"
	[ -s "$work/named" ] && [ ! -s "$work/unknown" ]
}

for cc in gcc clang; do
	for bits in -m64 -m32; do
		add "layout, $cc $bits" "layout $cc $bits"
		for std in gnu89 c99 c11; do
			add "$std, $cc $bits" "c_dialect $cc $bits $std"
		done
	done
	add "guide's program, $cc" "guide_compiles $cc"
done
for cxx in g++ clang++; do
	for bits in -m64 -m32; do
		add "C++11, $cxx $bits" "cplusplus $cxx $bits"
	done
done
add "pahole sees one layout and no hole" same_by_pahole
add "every name explained, every errno in the table once" "contract $header"
add "layout.c is complete" layout_complete
add "the guide's program without the device" guide_without_device
add "the guide names what exists" guide_names

catches() { add "catches $1" "contract_catches '$2' '$3'"; }
catches "an unexplained field" '/@heat:/d' 'heat is not explained'
catches "an unexplained constant" '/@KVTIER_NO_SLOT:/d' 'NO_SLOT is not explained'
catches "an unexplained enum value" '/@KVTIER_OP_SEAL:/d' 'OP_SEAL is not explained'
catches "an unexplained struct" '/^ .*struct kvtier_slot - /d' 'no comment that begins'
catches "a field that is gone" '/__u32 heat;/d' 'explains heat'
catches "an errno outside the table" '/^ . - EXDEV:/d' 'EXDEV has 0 rows'
catches "an errno that is there twice" 's/^ . - EIO:/ * - EBUSY:/' 'EBUSY has 2 rows'
catches "a row that is no errno" 's/^ . - EIO:/ * - EIEIO:/' 'EIEIO in the table'
catches "a 64-bit field without alignment" 's/__aligned_u64 slot;/__u64 slot;/' 'fixed-width'
catches "a pointer" 's/__aligned_u64 ranges;/void *ranges;/' 'fixed-width'
catches "an enum in a struct" 's/__u32 op;/enum kvtier_op op;/' 'fixed-width'
catches "another include" 's/linux.ioctl.h/stdint.h/' 'includes <stdint.h>'

number=0
failed=0
echo "TAP version 13"
echo "1..$(wc -l <"$tests")"
while IFS='|' read -r name command; do
	number=$((number + 1))
	(eval "$command") >"$work/output" 2>&1
	status=$?
	case $status in
	0) echo "ok $number $name" ;;
	4) echo "ok $number $name # SKIP $(head -n 1 "$work/output")" ;;
	*)
		failed=$((failed + 1))
		sed 's/^/# /' "$work/output"
		echo "not ok $number $name"
		;;
	esac
done <"$tests"
echo "# $((number - failed)) of $number passed or skipped"
[ "$failed" -eq 0 ]
