#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# run.sh: boot a kernel in a machine with the real devices, run suites there, and
# fail on anything that the kernel, the suites or the end of it say.
#
#   tests/vm/run.sh [--kernel 6.1|6.12|latest|debug] [--topology cxl|numa|errors]
#                   [--suite NAME]... [--icount] [--shell] [--seconds N] [--list]
#
#   cxl (default)                        numa                  errors
#   CPU 0  CPU 1                         CPU 0  CPU 1          CPU 0  CPU 1
#   node 0: 3 GiB of DRAM                node 0: 3 GiB         node 0: 3 GiB
#   node 1: 512 MiB, no CPU:             node 1: 512 MiB,      node 1: DIMM, can go offline
#     CXL type-3 device - root port -      no CPU              node 2: DIMM, ZONE_MOVABLE
#     host bridge; cxl_* dax kmem
#   kv0: NVMe, 4 GiB, the store          kv0                   kv0
#   kv1: NVMe, 2 GiB, free               kv1                   kv1: errors, see blkdebug.conf
#
# The device is QEMU's, the drivers are the kernel's own.  6.1 knows no volatile CXL
# regions: there "numa" stands in, and the output says so.  QEMU interprets (TCG), so
# that it needs no nested virtualization; times mean little.  With --icount the
# guest's clock counts instructions, one a nanosecond, and rdtsc too.
#
# KTAP goes to stdout as it comes.  Exit status 0 only if the guest said "pass" as its
# last word: after the module was unloaded, nothing leaked, the kernel's log has no
# splat, and no suite failed.  Figures ("# figure NAME VALUE UNIT [TARGET]") are
# gathered in $B/vm.json; --kernel and --topology become part of their names unless
# they are 6.12 and cxl.
#
# A suite is an executable of tests/vm/suites or a program of tests/selftests.
#
# Environment: B (build folder, default build), KVTIER_CACHE, JOBS, MIGRATIONS (of the
# suite million, default 1000000), CASES (of the suite daemon, default all of the module's).
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=tests/vm/initramfs.sh
. tests/vm/initramfs.sh
# shellcheck source=tests/vm/topology.sh
. tests/vm/topology.sh

B=$(realpath -m "${B:-build}")
export B
name=6.12
topology=cxl
wanted=()
icount=
shell=
seconds=
list=
started=$SECONDS

fail()
{
	echo "tests/vm: $*" >&2
	exit 1
}

# Without a network nothing can be tested here; where it counts that is a failure.
not_there()
{
	[[ ${CI:-} != true ]] || fail "cannot have \"$1\"; see above"
	echo "1..0 # SKIP scripts/kernels.sh cannot have \"$1\""
	exit 4
}

arguments()
{
	while [[ $# -gt 0 ]]; do
		case $1 in
		--kernel | --topology | --suite | --seconds)
			[[ $# -gt 1 ]] || fail "$1 needs a value"
			;;&
		--kernel) name=$2 && shift ;;
		--topology) topology=$2 && shift ;;
		--suite) wanted+=("$2") && shift ;;
		--seconds) seconds=$2 && shift ;;
		--icount) icount=1 ;;
		--shell) shell=1 ;;
		--list) list=1 ;;
		*) fail "unknown argument \"$1\"; see the head of tests/vm/run.sh" ;;
		esac
		shift
	done
	case $name in
	6.1 | 6.12 | latest | debug) ;;
	*) fail "unknown kernel \"$name\": choose from 6.1, 6.12, latest, debug" ;;
	esac
	case $topology in
	cxl | numa | errors) ;;
	*) fail "unknown topology \"$topology\": choose from cxl, numa, errors" ;;
	esac
	[[ ! $seconds || $seconds =~ ^[1-9][0-9]*$ ]] || fail "--seconds $seconds is not a number"
	if [[ $name == 6.1 && $topology == cxl ]]; then
		topology=numa
		stand_in="# $name has no volatile CXL regions: a NUMA node without CPUs stands in"
	fi
}

# ---- suites ------------------------------------------------------------------

selftests=$B/selftests

build_selftests()
{
	[[ -e tests/selftests/Makefile ]] || return 0
	mkdir -p "$selftests"
	KSELFTEST_SOURCE=$(scripts/kernels.sh source) make -C tests/selftests OUTPUT="$selftests" \
		KSELFTEST_DIR="$(scripts/kernels.sh source)/tools/testing/selftests" \
		>"$work/selftests.log" 2>&1 || {
		cat "$work/selftests.log" >&2
		fail "the selftests do not build"
	}
}

# The programs among what make left there.
selftest_programs()
{
	find "$selftests" -maxdepth 1 -type f -perm -u+x -printf '%f\n' 2>/dev/null | sort
}

# header SUITE FIELD: "# Field: value" of a suite that is a script.
header()
{
	sed -n "s/^# $2: //p" "tests/vm/suites/$1" 2>/dev/null | head -n 1
}

# Those of this topology and kernel, boot first; the ones without a topology are for asking.
default_suites()
{
	local suite

	for suite in tests/vm/suites/*; do
		suite=${suite##*/}
		[[ " $(header "$suite" Topology) " != *" $topology "* ]] || echo "$suite"
	done
	if [[ $topology == errors ]]; then
		echo offline # the others need a disk without errors
	else
		selftest_programs
	fi
}

suite_seconds()
{
	local limit

	limit=$(header "$1" Seconds)
	limit=${limit:-900} # for what hangs, on a machine several times slower than most
	[[ $name != debug ]] || limit=$((limit * 3))
	[[ ! $icount ]] || limit=$((limit * 4))
	echo "$limit"
}

put_suite()
{
	local suite=$1 file

	if [[ -e tests/vm/suites/$suite ]]; then
		cp "tests/vm/suites/$suite" "$root/suites/"
		for file in $(header "$suite" Files); do
			put_file "$file"
		done
	elif [[ -x $selftests/$suite ]]; then
		put_program "$selftests/$suite" suites
	else
		fail "no suite \"$suite\"; these are there: $(default_suites | tr '\n' ' ')"
	fi
}

# ---- the machine -------------------------------------------------------------

write_config()
{
	local suite limit words=

	total=240 # to come up and to end
	[[ $name != debug ]] || total=480
	for suite in "${wanted[@]}"; do
		limit=${seconds:-$(suite_seconds "$suite")}
		words+=" $suite:$limit"
		total=$((total + limit))
	done
	{
		echo "TOPOLOGY=$topology"
		echo "KERNEL=$name"
		echo "SUITES=\"$words\""
		echo "SHELL_WANTED=$shell"
		echo "ICOUNT=$icount"
		echo "MIGRATIONS=${MIGRATIONS:-}"
		echo "CASES=\"${CASES:-}\""
	} >"$root/vm/config"
}

make_initramfs()
{
	local suite

	root=$work/root
	put_base
	put_modules "$B/vm/$name"
	for suite in "${wanted[@]}"; do
		put_suite "$suite"
	done
	put_file build/kvtier
	put_file tests/ktap.sh
	write_config
	pack "$work/initramfs"
	rm -rf "$root"
}

qemu_arguments()
{
	machine=q35
	append="console=ttyS0 panic=-1 loglevel=7 log_buf_len=8M kasan_multi_shot nokaslr"
	append+=" random.trust_cpu=on"
	# What stands still is found; a host with other work to do is no fault of the guest's.
	append+=" watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=200"
	append+=" workqueue.watchdog_thresh=200 sysctl.kernel.hung_task_timeout_secs=300"
	# CXL refuses a hypervisor's guest.  Fast strings reach a CXL window byte by byte, where
	# words do not; five levels of page tables make KASAN report the kernel's own boot.
	args=(-nodefaults -display none -no-reboot -cpu "max,-hypervisor,-erms,-fsrm,-la57"
		-kernel "$kernel/vmlinuz" -initrd "$work/initramfs")
	"topology_$topology"
	topology_disks
	args+=(-machine "$machine")
	if [[ $icount ]]; then
		args+=(-accel "tcg,thread=single" -icount "shift=0,sleep=off" -smp 2
			-rtc "base=2024-01-01,clock=vm" -seed 1)
	else
		args+=(-accel tcg -smp 2)
	fi
	[[ ! $shell ]] || append="${append/loglevel=7/loglevel=4}"
	args+=(-append "$append")
	serial_ports
}

# ttyS0: the kernel; ttyS1: the suites; ttyS2: the monitor, for the guest.
serial_ports()
{
	if [[ $shell ]]; then
		args+=(-chardev "stdio,id=console,signal=off"
			-chardev "file,id=suites,path=$work/suites")
	else
		args+=(-chardev "file,id=console,path=$console" -chardev "stdio,id=suites,signal=off")
	fi
	args+=(-chardev "socket,id=monitor,path=$work/monitor,server=on,wait=off"
		-mon "chardev=monitor,mode=readline"
		-chardev "socket,id=guest,path=$work/monitor,reconnect-ms=1000"
		-serial chardev:console -serial chardev:suites -serial chardev:guest)
}

# ---- the end -----------------------------------------------------------------

# Splats that the guest itself did not live to see.
console_is_clean()
{
	local found

	found=$(sed -n '/kvtier-vm: suites begin/,$p' "$console" | grep -aE -f tests/vm/splats) ||
		return 0
	echo "# in the kernel's log ($console):" "${found%%$'\n'*}"
	return 1
}

# The figures of this run beside those of others; those of a broken machine are none.
write_figures()
{
	local suffix=

	[[ " ${wanted[*]}" != *" break_"* ]] || return 0
	[[ $name == 6.12 ]] || suffix+=.$name
	[[ $topology == cxl || $name == 6.1 ]] || suffix+=.$topology
	[[ -s $B/vm.json ]] || echo '[]' >"$B/vm.json"
	tr -d '\r' <"$work/raw" | grep -E '^# figure [a-z0-9_.<>-]+ -?[0-9]' >"$work/figures" || return 0
	jq -R -n --arg suffix "$suffix" --slurpfile old "$B/vm.json" -f tests/vm/figures.jq \
		"$work/figures" >"$work/vm.json" && mv "$work/vm.json" "$B/vm.json"
}

# ---- from the beginning to the end -------------------------------------------

check_programs()
{
	local program

	for program in busybox jq cpio depmod rsync gcc; do
		command -v $program >/dev/null ||
			fail "$program is missing; install it with: scripts/setup.sh build test vm"
	done
}

prepare()
{
	local what

	for what in qemu source "$name"; do
		scripts/kernels.sh "$what" >/dev/null || not_there "$what"
	done
	qemu=$(scripts/kernels.sh qemu)/bin/qemu-system-x86_64
	kernel=$(scripts/kernels.sh "$name")
	release=$(<"$kernel/release")
	# By the name that objects were made under: what they depend on is known by it.
	make B="$(realpath -m --relative-to=. "$B")" all tests demo-programs >"$work/make.log" 2>&1 || {
		cat "$work/make.log" >&2
		fail "the programs do not build"
	}
	build_selftests
	[[ ${#wanted[@]} -gt 0 ]] || mapfile -t wanted < <(default_suites)
}

# The suites' lines as they come: mawk reads a page of them at a time unless it is told.
run_machine()
{
	local at_once=()

	[[ $(awk -W version 2>&1 </dev/null) != mawk* ]] || at_once=(-W interactive)
	timeout -k 5 "$total" "$qemu" "${args[@]}" </dev/null 2>"$work/qemu.log" | tee "$work/raw" |
		awk "${at_once[@]}" -f tests/vm/ktap.awk | tee "$work/ktap" || true
}

# Everything said, and the verdict among it?
judge()
{
	local clean=0

	console_is_clean || clean=1
	write_figures
	echo "# vm: $((SECONDS - started)) s; the kernel's log is in $console"
	if ! grep -q '^ok [0-9]* verdict' "$work/ktap"; then
		sed 's/^/# qemu: /' "$work/qemu.log" | head -n 5
		tail -n 15 "$console" | tr -d '\r' | sed 's/^/# console: /'
		return 1
	fi
	! grep -q '^not ok ' "$work/ktap" && [[ $clean -eq 0 ]]
}

main()
{
	arguments "$@"
	mkdir -p "$B/vm"
	work=$(mktemp -d "$B/vm/run.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' INT TERM HUP
	[[ ! ${stand_in:-} ]] || echo "$stand_in"
	check_programs
	prepare
	if [[ $list ]]; then
		printf '%s\n' "${wanted[@]}"
		return 0
	fi
	tests/vm/module.sh "$name" "$B/vm/$name" >&2
	make_initramfs
	console=$B/vm/$name-$topology.console
	: >"$console"
	qemu_arguments
	if [[ $shell ]]; then
		"$qemu" "${args[@]}"
		return
	fi
	echo "# vm: Linux $release, topology $topology," \
		"$("$qemu" -version | head -n 1), at most $total s"
	run_machine
	judge
}

# The whole file is read before anything is run, so it may be changed meanwhile.
main "$@"; exit
