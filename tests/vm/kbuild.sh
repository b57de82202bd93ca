#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# The module builds against every kernel that it is meant for, without a word of the
# compiler at W=1 or of sparse about its own files; checkpatch finds nothing.
set -u
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/ktap.sh
. tests/ktap.sh

B=${B:-build}

# Warnings about our files; the kernel's own headers have theirs.
own_warnings()
{
	grep -E '(^|/)(kmod|uapi|tests/vm/modules)/[^ ]*: (warning|error):' "$1"
}

# Without a network nothing can be built; where it counts that is a failure.
is_there()
{
	scripts/kernels.sh "$1" >/dev/null && return
	[[ ${CI:-} != true ]] || return 1
	skip "scripts/kernels.sh cannot have \"$1\""
}

# builds KERNEL [C=2]
builds()
{
	local out=$B/kbuild/$1

	is_there "$1" || return
	tests/vm/module.sh "$1" "$out" W=1 "${@:2}" || return 1
	! own_warnings "$out/module.log" || return 1
	[[ -s $out/kvtier.ko ]] || { echo "no $out/kvtier.ko" && return 1; }
	[[ ! ${2:-} ]] || grep -q ' CHECK ' "$out/module.log" ||
		{ echo "sparse did not run" && return 1; }
}

# What "make dkms" puts there builds by its own configuration, as DKMS would do it.
dkms()
{
	local out source dkms_tree kernel_source_dir kernel

	is_there 6.12 || return
	out=$(realpath -m "$B/kbuild/dkms")
	rm -rf "$out"
	make -s dkms DESTDIR="$out" || return 1
	dkms_tree=$out/tree
	kernel_source_dir=$(scripts/kernels.sh 6.12)/build
	source=$(echo "$out"/usr/src/kvtier-*)
	# shellcheck source=packaging/dkms/dkms.conf
	. "$source/dkms.conf" || return 1
	expect "the sources' folder" "${source##*/}" "$PACKAGE_NAME-$PACKAGE_VERSION" || return 1
	mkdir -p "$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION"
	cp -R "$source" "$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION/build"
	eval "${MAKE[0]}" >"$out/log" 2>&1 || { tail -n 20 "$out/log" && return 1; }
	[[ -s $dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION/build/${BUILT_MODULE_NAME[0]}.ko ]] ||
		{ echo "no ${BUILT_MODULE_NAME[0]}.ko" && return 1; }
	for kernel in 6.1 6.12 latest; do
		scripts/kernels.sh "$kernel" >/dev/null || continue
		[[ $(<"$(scripts/kernels.sh "$kernel")/release") =~ $BUILD_EXCLUSIVE_KERNEL ]] ||
			{ echo "DKMS would leave out $kernel" && return 1; }
	done
}

# What it may not complain about: the compat headers ask for the kernel's version with the
# macro that has it, and have macros that drop an argument; attributes are defined by macros
# of several definitions.
ignored=LINUX_VERSION_CODE,CONSTANT_COMPARISON,MACRO_ARG_UNUSED
ignored+=,COMPLEX_MACRO,MULTISTATEMENT_MACRO_USE_DO_WHILE

checkpatch()
{
	local source

	is_there source || return
	source=$(scripts/kernels.sh source)
	git ls-files --cached --others --exclude-standard 'kmod/*.[ch]' 'kmod/compat/*.h' \
		'tests/vm/modules/*.c' uapi/linux/kvtier.h |
		xargs perl "$source/scripts/checkpatch.pl" --no-tree --no-summary --quiet \
			--terse --max-line-length=100 --ignore "$ignored" -f
}

command -v sparse >/dev/null || { echo "1..0 # no sparse; run: scripts/setup.sh vm" && exit 1; }
ktap_case 6.1 "builds for 6.1 with W=1 and sparse" builds 6.1 C=2
ktap_case 6.12 "builds for 6.12 with W=1 and sparse" builds 6.12 C=2
# Debian 12's sparse is too old for its headers.
ktap_case latest "builds for the newest backported kernel with W=1" builds latest
ktap_case dkms "what make dkms installs builds by its configuration" dkms
ktap_case checkpatch "the kernel's own checker of style" checkpatch
ktap_end
