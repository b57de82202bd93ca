# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2154 # root, kernel, release: run.sh's
#
# What the guest starts from.  Sourced by run.sh; $root is the folder that becomes
# the initramfs.  The guest's /kvtier is a small copy of the repository, in which
# the programs that were built here and the tests' scripts lie at their usual places.

# Drivers of the topologies and the suites; a kernel may have them built in.
guest_modules=(nvme loop ext4 crc32c_generic crc32c-intel libcrc32c cxl_acpi cxl_pci cxl_mem
	cxl_port dax_cxl kmem device_dax dm-mod dm-delay dm-flakey null_blk hwpoison-inject)

# put_libraries PROGRAM: the shared libraries that it needs, in /lib by their names.
put_libraries()
{
	local library

	ldd "$1" 2>/dev/null | grep -oE '/[^ ]+' | while read -r library; do
		[[ $library == */ld-linux* ]] && continue
		cp -Lnu "$library" "$root/lib/" 2>/dev/null || true
	done
}

# put_program FILE FOLDER
put_program()
{
	mkdir -p "$root/$2"
	cp -L "$1" "$root/$2/"
	put_libraries "$1"
}

put_base()
{
	local applet bash

	mkdir -p "$root"/{bin,usr,lib,lib64,dev,proc,run,sys,tmp,vm,suites,cache,kvtier/build,etc}
	ln -s ../bin "$root/usr/bin"
	cp -L /lib64/ld-linux-x86-64.so.2 "$root/lib64/"
	cp "$(command -v busybox)" "$root/bin/busybox"
	for applet in $("$root/bin/busybox" --list); do
		[[ $applet == busybox ]] || ln -s busybox "$root/bin/$applet"
	done
	bash=$(command -v bash)
	put_program "$bash" bin
	put_program "$(command -v jq)" bin
	echo 'root:x:0:0:root:/tmp:/bin/sh' >"$root/etc/passwd"
	echo 'root:x:0:' >"$root/etc/group"
	cp tests/vm/cxl.sh tests/vm/splats tests/vm/lost.awk "$root/vm/"
	put_program tests/vm/monitor bin
	cp tests/vm/init "$root/init"
}

# put_module NAME: it and what it needs, uncompressed.
put_module()
{
	local files file to

	files=$(sed -nE "s|^([^:]*/${1//[-_]/[-_]}\.ko[^:]*): ?(.*)|\1 \2|p" \
		"$kernel/modules/modules.dep")
	for file in $files; do
		to=$root/lib/modules/$release/${file%.xz}
		[[ ! -e $to ]] || continue
		mkdir -p "${to%/*}"
		case $file in
		*.xz) xz -dc "$kernel/modules/$file" >"$to" ;;
		*) cp "$kernel/modules/$file" "$to" ;;
		esac
	done
}

# put_modules BUILT: the kernel's own, then ours.
put_modules()
{
	local module dependency

	for module in "${guest_modules[@]}"; do
		put_module "$module"
	done
	mkdir -p "$root/lib/modules/$release/extra"
	for module in "$1"/*.ko "$1"/tests/vm/modules/*.ko; do
		[[ -e $module ]] || continue
		cp "$module" "$root/lib/modules/$release/extra/"
		for dependency in $(modinfo -F depends "$module" | tr ',' ' '); do
			put_module "$dependency"
		done
	done
	cp "$kernel"/modules/modules.{builtin,order}* "$root/lib/modules/$release/" 2>/dev/null || true
	depmod -b "$root" "$release"
}

# put_file PATH: a program or another file of the repository or the build folder.
put_file()
{
	case $1 in
	engine) put_engine ;;
	build/*) put_program "$B/${1#build/}" "kvtier/$(dirname "$1")" ;;
	*)
		mkdir -p "$root/kvtier/$(dirname "$1")"
		cp -RL "$1" "$root/kvtier/$1"
		;;
	esac
}

# The pinned engine where scripts/engine.sh of the guest finds it.
put_engine()
{
	local engine program library

	engine=$(scripts/engine.sh)
	mkdir -p "$root/cache/${engine##*/}"
	cp -RL "$engine/lib" "$root/cache/${engine##*/}/"
	put_file scripts/engine.sh
	for library in "$engine"/lib/*.so*; do
		LD_LIBRARY_PATH=$engine/lib put_libraries "$library"
	done
	for program in generate mkmodel kvtier libkvtier-preload.so; do
		put_file "build/$program"
	done
}

# pack FILE
pack()
{
	(cd "$root" && find . -print0 | sort -z | cpio --null -o -H newc --quiet -R 0:0) >"$1"
}
