# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# A memory cgroup (v1 or v2) for one run, and a swap file.  Sourced.
#
# cgroup_missing says why there is none, or is empty; without one the functions
# do nothing and cgroup_enter, the command prefix that enters it, is `env`.

# shellcheck disable=SC2034 # cgroup_enter and the *_missing are read by the caller

cgroup_missing=
cgroup_enter=(env)
cgroup_root=
cgroup_version=
cgroup=

cgroup_find()
{
	cgroup_missing="no memory cgroup here"
	if [[ $EUID -ne 0 ]]; then
		cgroup_missing="needs root"
		return
	fi
	cgroup_root=$(awk '$3 == "cgroup" && $4 ~ /(^|,)memory(,|$)/ { print $2; exit }' \
		/proc/mounts)
	cgroup_version=1
	if [[ ! $cgroup_root ]]; then
		cgroup_root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
		cgroup_version=2
		grep -qsw memory "$cgroup_root/cgroup.controllers" || return 0
		echo +memory 2>/dev/null >"$cgroup_root/cgroup.subtree_control" || return 0
	fi
	mkdir "$cgroup_root/kvtier-probe.$$" 2>/dev/null || return 0
	rmdir "$cgroup_root/kvtier-probe.$$"
	cgroup_missing=
}

# cgroup_create NAME [LIMIT [no-swap]]
cgroup_create()
{
	[[ ! $cgroup_missing ]] || return 0
	cgroup=$cgroup_root/kvtier-$1.$$
	mkdir "$cgroup"
	# shellcheck disable=SC2016 # expanded by the inner shell
	cgroup_enter=(sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$cgroup")
	[[ $# -gt 1 ]] || return 0
	if [[ $cgroup_version -eq 1 ]]; then
		echo "$2" >"$cgroup/memory.limit_in_bytes"
		# Not every kernel accounts swap; then the host's own swap, if any, may help.
		[[ $# -lt 3 ]] ||
			echo "$2" 2>/dev/null >"$cgroup/memory.memsw.limit_in_bytes" || true
	else
		echo "$2" >"$cgroup/memory.max"
		[[ $# -lt 3 ]] || echo 0 2>/dev/null >"$cgroup/memory.swap.max" || true
	fi
}

# Most memory charged so far, in bytes; 0 when the kernel does not say.
cgroup_peak()
{
	local file=memory.peak

	[[ $cgroup_version -eq 2 ]] || file=memory.max_usage_in_bytes
	if [[ $cgroup && -r $cgroup/$file ]]; then
		cat "$cgroup/$file"
	else
		echo 0
	fi
}

# Ends what still runs inside; a dying process keeps its cgroup for a moment.
cgroup_remove()
{
	local try pid

	[[ $cgroup ]] || return 0
	for ((try = 0; try < 50; try++)); do
		while read -r pid; do
			kill -KILL "$pid" 2>/dev/null || true
		done <"$cgroup/cgroup.procs"
		rmdir "$cgroup" 2>/dev/null && break
		sleep 0.1
	done
	cgroup=
	cgroup_enter=(env)
}

swap_file=

# swap_on FILE BYTES: false, and swap_missing says why, when there is no way.
swap_on()
{
	local log

	if log=$({ fallocate -l "$2" "$1" && chmod 600 "$1" &&
		mkswap "$1" && swapon "$1"; } 2>&1); then
		swap_file=$1
		return 0
	fi
	rm -f "$1"
	swap_missing="no swap file: ${log##*$'\n'}"
	return 1
}

swap_off()
{
	[[ $swap_file ]] || return 0
	swapoff "$swap_file" || true
	rm -f "$swap_file"
	swap_file=
}
