#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# module.sh KERNEL OUT [MAKE-ARGUMENT...]: build kvtier.ko and the test modules for
# a kernel of scripts/kernels.sh, in a copy, so that nothing lands in the source
# tree.  OUT/kvtier.ko, OUT/tests/vm/modules/*.ko; OUT/module.log has the words of make.
#
# Only files that changed are copied, so a second build is quick.
set -eu
cd "$(dirname "$0")/../.."

kernel=${1:?kernel missing} out=${2:?folder missing}
shift 2
headers=$(scripts/kernels.sh "$kernel")/build
mkdir -p "$out"
out=$(realpath "$out")

# Sources that are gone in the tree go in the copy too.
copy_sources()
{
	mkdir -p "$out/tests/vm"
	rsync -rlt --delete --exclude='*.o' --exclude='.*' --exclude='*.mod*' --exclude='*.ko' \
		kmod uapi "$out/"
	rsync -rlt --delete --exclude='*.o' --exclude='.*' --exclude='*.mod*' --exclude='*.ko' \
		--exclude='Module.symvers' --exclude='modules.order' tests/vm/modules "$out/tests/vm/"
	cmp -s Kbuild "$out/Kbuild" || cp Kbuild "$out/"
}

# build FOLDER [MAKE-ARGUMENT...]
build()
{
	local folder=$1

	shift
	make -C "$headers" M="$folder" -j"${JOBS:-$(nproc)}" "$@" modules >>"$out/module.log" 2>&1 || {
		grep -E 'error|\*\*\*|undefined' "$out/module.log" | head -n 20 >&2
		echo "module.sh: does not build for $kernel; all of it is in $out/module.log" >&2
		exit 1
	}
}

copy_sources
: >"$out/module.log"
build "$out" "$@"
build "$out/tests/vm/modules" "$@"
