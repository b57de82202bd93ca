#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# kernels.sh WHAT: fetch what the module is built against and tested in, once;
# print its folder.  Progress goes to stderr.  Nothing is installed and /etc/apt
# is not touched: the packages are unpacked in a cache outside the repository.
#
#   6.1, 6.12  Debian 12's kernels      vmlinuz  modules/  build/  release
#   latest     the newest kernel of Debian 13's backports, 6.18 or newer: the same
#   debug      KASAN, lockdep and kin: 6.12's source with tests/vm/debug.config
#   source     6.12's source: checkpatch, kselftest_harness.h
#   qemu       QEMU with CXL, for any machine: bin/qemu-system-x86_64
#
# Every folder is named by the packages' versions, so a newer one in the suites is
# fetched when it appears.  The suites are asked once a day; without a network the
# newest folder that is there is used.
#
# Environment: KVTIER_CACHE (default ~/.cache/kvtier), JOBS.
set -eu
cd "$(dirname "$0")/.."

layout=1 # of the folders made below; count up when it changes
JOBS=${JOBS:-$(nproc)}
cache=${KVTIER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvtier}/kernels
suites=(bookworm bookworm-updates bookworm-security bookworm-backports trixie-backports)

fail()
{
	echo "kernels.sh: $*" >&2
	exit 1
}

need()
{
	local command

	for command; do
		command -v "$command" >/dev/null ||
			fail "$command is missing; install it with: scripts/setup.sh vm"
	done
}

# apt_in SUITES COMMAND...: apt-get or apt-cache as if no package were installed and
# only these suites existed.
apt_in()
{
	local wanted=$1 command=$2 list=$work/suites.list suite

	shift 2
	for suite in ${wanted//+/ }; do
		sed -n "s/^$suite //p" "$apt/sites"
	done >"$list"
	"$command" -qq -o Dir::State="$apt" -o Dir::State::Lists="$apt/lists" \
		-o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
		-o Dir::Etc::SourceList="$list" -o Dir::Etc::SourceParts=/dev/null \
		-o APT::Sandbox::User= -o APT::Install-Recommends=0 "$@"
}

# The machine's own mirrors, with the suites that are needed: "SUITE deb URI SUITE main".
write_sites()
{
	local keys=/usr/share/keyrings/debian-archive-keyring.gpg suite uri main security

	# shellcheck disable=SC2016 # the format is apt's
	apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
		sort -u >"$apt/own"
	main=$(awk '$1 == "bookworm" { print $2; exit }' "$apt/own")
	security=$(awk '$1 == "bookworm-security" { print $2; exit }' "$apt/own")
	[[ $main && -r $keys ]] ||
		fail "no Debian 12 mirror in /etc/apt; the kernels are Debian's packages"
	for suite in "${suites[@]}"; do
		uri=$main
		[[ $suite != *-security ]] || uri=${security:-${main%debian/}debian-security}
		echo "$suite deb [signed-by=$keys] $uri $suite main"
	done >"$apt/sites"
}

# Ask the suites, at most once a day.
update()
{
	local all

	[[ ! $(find "$apt/updated" -mtime -1 2>/dev/null) ]] || return 0
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
	: >"$apt/status"
	write_sites
	all=${suites[*]}
	apt_in "${all// /+}" apt-get update >"$apt/log" 2>&1 || {
		[[ -e $apt/updated ]] ||
			fail "cannot reach Debian's mirror: $(tail -n 1 "$apt/log")"
		echo "kernels.sh: Debian's mirror did not answer; using what it had before" >&2
	}
	touch "$apt/updated"
}

# candidate SUITES PACKAGE: the newest version there.
candidate()
{
	apt_in "$1" apt-cache show --no-all-versions "$2" 2>/dev/null |
		sed -n 's/^Version: //p' | head -n 1
}

# depends SUITES PACKAGE PATTERN: the dependency of its newest version that matches.
depends()
{
	apt_in "$1" apt-cache show --no-all-versions "$2" | sed -n 's/^Depends: //p' |
		tr -d ' ' | tr ',' '\n' | sed 's/(.*//' | grep -E -m1 "$3"
}

# unpack SUITES FOLDER PACKAGE...
unpack()
{
	local from=$1 to=$2 deb

	shift 2
	if [[ $# -le 8 ]]; then
		echo "fetching $*" >&2
	else # with all that it depends on, which come before it
		echo "fetching ${*: -1} and $(($# - 1)) packages more" >&2
	fi
	rm -rf "$work/debs"
	mkdir -p "$work/debs" "$to"
	(cd "$work/debs" && apt_in "$from" apt-get download "$@" >"$work/log" 2>&1) ||
		fail "cannot fetch $*: $(tail -n 1 "$work/log")"
	for deb in "$work"/debs/*.deb; do
		dpkg-deb -x "$deb" "$to"
	done
	rm -rf "$work/debs"
}

# finish FOLDER: what was made in $work/new becomes the folder.  Another call may have
# been faster; its folder is the same.  A build folder knows its own place.
finish()
{
	[[ ! -f $work/new/build/Makefile || -L $work/new/build ]] ||
		sed -i "s|$work/new/build|$1/build|" "$work/new/build/Makefile"
	mv -T "$work/new" "$1" 2>/dev/null || [[ -d $1 ]] || fail "cannot create $1"
}

# The image in the unpacked root: newer packages have it beside the modules.
image_of()
{
	(cd "$1" && ls "boot/vmlinuz-$2" "usr/lib/modules/$2/vmlinuz" 2>/dev/null) | head -n 1
}

# The image's parts under the names that the caller knows, from the unpacked root.
lay_out_image()
{
	local root=$1 release

	release=$(basename "$root"/lib/modules/* 2>/dev/null)
	[[ -d $root/lib/modules/$release ]] || {
		release=$(basename "$root"/usr/lib/modules/*)
		ln -s usr/lib "$root/lib"
	}
	echo "$release" >"$work/new/release"
	ln -s "root/$(image_of "$root" "$release")" "$work/new/vmlinuz"
	ln -s "root/lib/modules/$release" "$work/new/modules"
	rm -f "$work/new/modules/build" "$work/new/modules/source"
	depmod -b "$root" "$release"
}

# Debian's headers name their common part by its place in /usr/src.
relocate_headers()
{
	local makefile=$1/Makefile

	# shellcheck disable=SC2016 # make's
	sed -i 's|/usr/src/|$(dir $(abspath $(lastword $(MAKEFILE_LIST))))../|' "$makefile"
}

# distribution_kernel NAME SUITES PACKAGE-SUFFIX: image and headers as packaged.
distribution_kernel()
{
	local name=$1 from=$2 suffix=$3 version image headers folder

	version=$(candidate "$from" "linux-image-$suffix")
	[[ $version ]] || fail "no kernel $name in the suites $from"
	folder=$cache/$name-$version-$layout
	if [[ ! -d $folder ]]; then
		image=$(depends "$from" "linux-image-$suffix" '^linux-image-[0-9]')
		headers=$(depends "$from" "linux-headers-$suffix" '^linux-headers-[0-9]')
		unpack "$from" "$work/new/root" "$image" "$headers" "${headers%-amd64}-common" \
			"$(depends "$from" "$headers" '^linux-kbuild-')"
		lay_out_image "$work/new/root"
		ln -s "root/usr/src/$headers" "$work/new/build"
		relocate_headers "$work/new/root/usr/src/$headers"
		finish "$folder"
	fi
	echo "$folder"
}

# source_tree SUITES: the newest source there, unpacked.
source_tree()
{
	local from=$1 package=$2 version folder

	version=$(candidate "$from" "$package")
	[[ $version ]] || fail "no $package in the suites $from"
	folder=$cache/source-$version-$layout
	if [[ ! -d $folder ]]; then
		unpack "$from" "$work/source" "$package"
		mkdir -p "$work/new"
		tar -xJf "$work"/source/usr/src/linux-source-*.tar.xz -C "$work/new" \
			--strip-components=1
		rm -rf "$work/source"
		finish "$folder"
	fi
	echo "$folder"
}

# The headers' programs are built for a newer C library than Debian 12's: they are made
# from the source, with the image's configuration and its checksums of symbols.
latest_kernel()
{
	local from=trixie-backports version image headers release source folder

	version=$(candidate $from linux-image-amd64)
	[[ $version ]] || fail "no kernel in $from"
	dpkg --compare-versions "$version" ge 6.18 ||
		fail "expected a kernel of at least 6.18 in $from, it has $version"
	folder=$cache/latest-$version-$layout
	if [[ ! -d $folder ]]; then
		image=$(depends $from linux-image-amd64 '^linux-image-[0-9]')
		headers=$(depends $from linux-headers-amd64 '^linux-headers-[0-9]')
		source=$(source_tree $from "linux-source-$(cut -d. -f1,2 <<<"$version")")
		mapfile -t parts < <(image_parts $from "$image")
		unpack $from "$work/new/root" "${parts[@]}" "$headers"
		lay_out_image "$work/new/root"
		release=$(<"$work/new/release")
		prepare_build "$source" "$work/new/root/usr/src/$headers" "$release"
		finish "$folder"
	fi
	echo "$folder"
}

# From 6.19 on an image package names where its files are: itself or others beside it.
image_parts()
{
	local part

	echo "$2"
	for part in binary modules base; do
		depends "$1" "$2" "^linux-$part-[0-9]" || true
	done
}

prepare_build()
{
	local source=$1 headers=$2 release=$3 build=$work/new/build

	need flex bison bc
	echo "preparing the build folder of $release" >&2
	mkdir "$build"
	cp "$headers/.config" "$build/.config"
	make -C "$source" O="$build" KERNELRELEASE="$release" olddefconfig modules_prepare \
		-j"$JOBS" >"$work/log" 2>&1 ||
		fail "modules_prepare failed: $(grep -m1 -i error "$work/log")"
	cp "$headers/Module.symvers" "$build/"
	echo "$release" >"$build/include/config/kernel.release"
}

# The options of debug.config that did not come out as asked, one a line.
lost_options()
{
	grep -E '^CONFIG_(KASAN|PROVE_LOCKING|DEBUG_|FAIL|CXL|DEV_DAX|MEM|NUMA|IO_URING|BLK)[A-Z_]*=y' \
		tests/vm/debug.config | grep -vxFf "$1" || true
}

debug_kernel()
{
	local source version key folder build lost

	source=$(source_tree bookworm+bookworm-updates+bookworm-security linux-source-6.12)
	version=${source##*/source-}
	key=$(cat tests/vm/debug.config <(gcc --version) | sha256sum)
	folder=$cache/debug-$version-${key:0:12}
	if [[ ! -d $folder ]]; then
		need flex bison bc lz4
		build=$work/new/build
		mkdir -p "$build"
		echo "building the debug kernel, once; about 8 minutes on two cores" >&2
		make -C "$source" O="$build" tinyconfig >"$work/log" 2>&1
		"$source/scripts/kconfig/merge_config.sh" -m -O "$build" "$build/.config" \
			tests/vm/debug.config >>"$work/log" 2>&1
		make -C "$source" O="$build" olddefconfig >>"$work/log" 2>&1
		lost=$(lost_options "$build/.config")
		[[ ! $lost ]] || fail "this kernel does not take: ${lost//$'\n'/ }"
		make -C "$source" O="$build" -j"$JOBS" bzImage modules >>"$work/log" 2>&1 ||
			fail "the debug kernel does not build: $(grep -m1 -iE 'error|\*\*\*' "$work/log")"
		lay_out_debug "$build"
		finish "$folder"
	fi
	echo "$folder"
}

lay_out_debug()
{
	local build=$1 release

	release=$(<"$build/include/config/kernel.release")
	echo "$release" >"$work/new/release"
	cp "$build/arch/x86/boot/bzImage" "$work/new/vmlinuz"
	make -C "$build" INSTALL_MOD_PATH="$work/new/root" modules_install >>"$work/log" 2>&1
	mkdir -p "$work/new/root/lib/modules/$release"
	ln -s "root/lib/modules/$release" "$work/new/modules"
	rm -f "$work/new/modules/build" "$work/new/modules/source"
	# What a module needs to be built stays; objects of the kernel itself do not.
	find "$build" \( -name '*.o' -o -name '*.a' -o -name '.*.cmd' -o -name 'vmlinux*' \) \
		-not -path '*/scripts/*' -not -path '*/tools/objtool/*' -type f -delete
}

# With every library that it needs, down to the C library: it runs on any machine.
qemu()
{
	local from=bookworm+bookworm-updates+bookworm-security+bookworm-backports version folder
	local package=qemu-system-x86

	version=$(candidate bookworm-backports $package)
	[[ $version ]] || fail "no $package in bookworm-backports"
	folder=$cache/qemu-${version#*:}-$layout
	if [[ ! -d $folder ]]; then
		mapfile -t debs < <(apt_in $from apt-get install --simulate \
			-t bookworm-backports $package 2>"$work/log" |
			sed -nE 's/^Inst ([^ ]+) \(([^ ]+) .*/\1=\2/p')
		[[ ${#debs[@]} -gt 0 ]] || fail "cannot resolve $package: $(tail -n 1 "$work/log")"
		unpack $from "$work/new/root" "${debs[@]}"
		write_qemu_wrapper
		"$work/new/bin/qemu-system-x86_64" -version >"$work/log" 2>&1 ||
			fail "the unpacked QEMU does not run: $(tail -n 1 "$work/log")"
		finish "$folder"
	fi
	echo "$folder"
}

write_qemu_wrapper()
{
	mkdir "$work/new/bin"
	cat >"$work/new/bin/qemu-system-x86_64" <<-'END'
		#!/bin/sh
		# The unpacked QEMU with the libraries and the firmware it was built for.
		root=$(dirname "$(readlink -f "$0")")/../root
		lib=$root/usr/lib/x86_64-linux-gnu
		exec env QEMU_MODULE_DIR="$lib/qemu" "$root/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" \
			--library-path "$root/lib/x86_64-linux-gnu:$lib:$lib/pulseaudio" \
			"$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/qemu" \
			-L "$root/usr/share/seabios" "$@"
	END
	chmod +x "$work/new/bin/qemu-system-x86_64"
}

[[ $# -eq 1 ]] || fail "expected one of: 6.1 6.12 latest debug source qemu"
need apt-get apt-cache dpkg-deb xz depmod
[[ $(uname -sm) == "Linux x86_64" ]] ||
	fail "the kernels are for Linux x86_64, this is $(uname -sm)"
apt=$cache/apt
mkdir -p "$apt"
work=$(mktemp -d "$cache/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP
exec 8>"$apt/lock-update" 9>"$cache/lock-${1//[^a-z0-9.]/}"
flock 8
update
exec 8>&-
# One call fetches, the others find it done.
flock -w 3600 9 || fail "another call has been fetching \"$1\" for an hour; end it and try again"
case $1 in
6.1) distribution_kernel 6.1 bookworm+bookworm-updates+bookworm-security amd64 ;;
6.12) distribution_kernel 6.12 bookworm+bookworm-updates+bookworm-security 6.12-amd64 ;;
latest) latest_kernel ;;
debug) debug_kernel ;;
source) source_tree bookworm+bookworm-updates+bookworm-security linux-source-6.12 ;;
qemu) qemu ;;
*) fail "unknown \"$1\": expected one of: 6.1 6.12 latest debug source qemu" ;;
esac
