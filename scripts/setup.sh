#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# setup.sh [build] [demo] [test] [bench] [vm]: install the Debian packages that these
# need (all of them without arguments).  Says and does nothing when they are there.
set -eu

# Group, packages, and why.
# "command:package" stands for a package that is needed only without that command.
build=(
	gcc make libc6-dev                     # compile
	pkg-config                             # find the libraries
	liburing-dev libnuma-dev libisal-dev   # NVMe, CXL node, CRC32C
	libcjson-dev                           # JSON of the tools
	libinih-dev libmicrohttpd-dev          # configuration and metrics of the daemon
	libncurses-dev                         # kvtier top
)
demo=(
	git npm:npm ca-certificates            # fetch the engine and its headers
	jq                                     # read the JSON results
)
test=(
	libcmocka-dev                          # unit tests
	clang g++ gcc-multilib                 # second compiler, C++ and 32-bit header checks
	clang-tidy cppcheck shellcheck         # static analysis
	dwarves                                # struct layouts (pahole)
	mandoc                                 # man pages against the code
	tmux                                   # kvtier top in a terminal
	jq                                     # read the JSON results
)
bench=(
	fio                                    # what the disk gives at best
	jq
)

vm=(
	busybox-static cpio kmod rsync         # what the machine starts with
	xz-utils lz4                           # packed modules, a packed kernel
	flex bison bc libelf-dev               # build the debug kernel, prepare headers
	sparse                                 # check the module
	jq                                     # figures
)

fail()
{
	echo "setup.sh: $*" >&2
	exit 1
}

# The packages of the wanted groups that are not installed.
missing_packages()
{
	local wanted=() item installed

	for item; do
		case $item in
		*:*) command -v "${item%%:*}" >/dev/null || wanted+=("${item#*:}") ;;
		*) wanted+=("$item") ;;
		esac
	done
	# dpkg-query complains about packages it has never heard of; that is the question.
	# shellcheck disable=SC2016 # the format is dpkg-query's
	installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "${wanted[@]}" \
		2>/dev/null) || true
	for item in "${wanted[@]}"; do
		[[ $'\n'$installed$'\n' == *$'\n'"installed $item"$'\n'* ]] || echo "$item"
	done | sort -u
}

as_root()
{
	if [[ $EUID -eq 0 ]]; then
		"$@"
	else
		sudo "$@"
	fi
}

# apt's own words are shown only when it fails.
apt()
{
	local log

	log=$(as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq \
		-o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 "$@" 2>&1) || {
		echo "$log" >&2
		fail "apt-get $1 failed; see above"
	}
}

install_packages()
{
	command -v apt-get >/dev/null || fail "install these packages by hand (no apt-get here): $*"
	[[ $EUID -eq 0 ]] || command -v sudo >/dev/null ||
		fail "not root, and no sudo here; run this as root first:" \
			"scripts/setup.sh ${groups[*]} (it installs $*)"
	echo "installing $*" >&2
	apt update
	apt install -y --no-install-recommends "$@"
}

groups=("$@")
[[ $# -gt 0 ]] || groups=(build demo test bench vm)
packages=()
for group in "${groups[@]}"; do
	case $group in
	build) packages+=("${build[@]}") ;;
	demo) packages+=("${demo[@]}") ;;
	test) packages+=("${test[@]}") ;;
	bench) packages+=("${bench[@]}") ;;
	vm) packages+=("${vm[@]}") ;;
	*) fail "unknown group \"$group\": choose from build, demo, test, bench, vm" ;;
	esac
done
command -v dpkg-query >/dev/null ||
	fail "this is not Debian; install what these are called here: ${packages[*]#*:}"
mapfile -t missing < <(missing_packages "${packages[@]}")
[[ ${#missing[@]} -eq 0 ]] || install_packages "${missing[@]}"
