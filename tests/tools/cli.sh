#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Bad input to the kvtier command: what it says, its exit status, and that nothing
# is left behind.
set -u
# shellcheck source=tests/tools/setup.sh
. "$(dirname "$0")/setup.sh"

# Good options, to which a bad one is added.
good=(--dram 64M --nvme "$work/nvme")

options()
{
	says 2 "no command 'frob'" frob &&
		says 2 "unknown option '--frob'" --frob &&
		says 2 "unknown option '--frob'" stat --frob &&
		says 2 "unknown option '-x'" stat -xw 1 &&
		says 2 "-w needs a value" stat -w &&
		says 2 "'soon' is not a number from 0.01" stat --watch soon &&
		says 2 "'0' is not a number from 0.01" stat -w 0 &&
		says 2 "unexpected argument 'x'" stat x &&
		says 2 "unknown option '--frob'" doctor --frob &&
		says 2 "unexpected argument 'x'" doctor x &&
		says 125 "unknown option '--frob'" run --frob -- true &&
		says 125 "--dram needs a value" run --dram &&
		says 125 "no COMMAND" run "${good[@]}" --
}

sizes()
{
	says 125 "--dram: '12parsecs' is not a size" run --dram 12parsecs -- true &&
		says 125 "--dram: '' is not a size" run --dram '' -- true &&
		says 125 "--dram: '-1' is not a size" run --dram -1 -- true &&
		says 125 "--dram: '0' is zero" run --dram 0 -- true &&
		says 125 "--dram: '900T' is more than the memory" run --dram 900T -- true &&
		says 125 "--block: '3K' is not a power of two" run --block 3K -- true &&
		says 125 "--block: '96K' is not a power of two" run --block 96K -- true &&
		says 125 "--block: '4M' is not a power of two" run --block 4M -- true
}

cxl()
{
	says 125 "'1G' is not NODE:SIZE" run --cxl 1G -- true &&
		says 125 "NUMA node 900 has no memory" run --cxl 900:1G -- true &&
		says 125 "NUMA node -1 has no memory" run --cxl -1:1G -- true &&
		says 125 "'x' is not a size" run --cxl 0:x -- true &&
		says 125 "less than '900T'" run --cxl 0:900T -- true
}

nvme()
{
	echo data >"$work/file"
	says 125 "there is no directory $work/none/at" run --nvme "$work/none/at/all" -- true &&
		says 125 "has data that would be overwritten" run --nvme "$work/file" -- true &&
		says 125 "neither a directory, a file nor a block" run --nvme /dev/null -- true &&
		says 125 "900T are wanted" run --nvme "$work/nvme:900T" -- true &&
		says 125 "'lots' is not a size" run --nvme "$work/nvme:lots" -- true &&
		says 125 "is zero or out of range" run --nvme "$work/nvme:0" -- true &&
		says 125 "'' is not a size" run --nvme : -- true &&
		says 125 "Not a directory" run --nvme "$work/file/x" -- true &&
		expect "the file" "$(<"$work/file")" data
}

pager()
{
	says 125 "'frob' is not auto, user or kernel" run --pager frob -- true &&
		says 125 "--pager needs a value" run --pager || return 1
	[[ ! -e /dev/kvtier ]] || { skip "the module is loaded" || return; }
	says 125 "no kernel module is loaded: run \`modprobe kvtier\`" \
		run "${good[@]}" --pager kernel -- true &&
		says 125 "loaded a shared ggml library" run "${good[@]}" --pager user -- true &&
		says 125 "loaded a shared ggml library" run "${good[@]}" --pager auto -- true
}

nvme_in_memory()
{
	[[ $(stat -f -c %T /dev/shm 2>/dev/null) == tmpfs ]] ||
		{ skip "/dev/shm is no tmpfs" || return; }
	says 125 "/dev/shm is itself in memory" run --nvme /dev/shm -- true
}

nvme_unwritable()
{
	mkdir -p "$work/locked"
	chmod 555 "$work/locked"
	if [[ $EUID -eq 0 ]]; then
		command -v setpriv >/dev/null || { skip "no setpriv" || return; }
		# Root may write anywhere; somebody else must reach the program first.
		with=(setpriv --reuid 65534 --clear-groups)
		chmod 711 "$work"
		"${with[@]}" test -x "$kvtier" -a -d "$work/locked" ||
			{ skip "nobody cannot reach the build folder" || return; }
	fi
	says 125 "$work/locked cannot be written to: Permission denied" \
		run --nvme "$work/locked" -- true
}

# A disk of its own, so that it can be full.
nvme_full()
{
	local status

	[[ $EUID -eq 0 ]] || { skip "needs root for a small disk" || return; }
	truncate -s 8M "$work/disk"
	mkfs.ext4 -q "$work/disk" 2>/dev/null || { skip "no mkfs.ext4" || return; }
	mkdir -p "$work/mnt"
	mount -o loop "$work/disk" "$work/mnt" 2>/dev/null ||
		{ skip "cannot mount a loop device" || return; }
	dd if=/dev/zero of="$work/mnt/filler" bs=64K 2>/dev/null
	says 125 "free some or name another path" run --nvme "$work/mnt" -- true
	status=$?
	umount "$work/mnt"
	return $status
}

stats_file()
{
	says 125 "--stats: cannot write $work/none/f" run --stats "$work/none/f" -- true &&
		says 125 "--stats: cannot write $work: Is a dir" run --stats "$work" -- true
}

command()
{
	printf '#!%s\n' "$work/no-interpreter" >"$work/script"
	printf '%64s\n' "neither a script nor a program" >"$work/text"
	chmod +x "$work/script" "$work/text"
	says 127 "no-such-engine: not found" run "${good[@]}" -- no-such-engine &&
		says 127 "/no/such/engine: not found" run "${good[@]}" -- /no/such/engine &&
		says 127 ": not found" run "${good[@]}" -- "" &&
		says 126 "not an executable file" run "${good[@]}" -- "$work/file" &&
		says 126 "not an executable file" run "${good[@]}" -- "$work" &&
		says 126 "not a program that can be run" run "${good[@]}" -- "$work/script" &&
		says 126 "not a program that can be run" run "${good[@]}" -- "$work/text"
}

static_engine()
{
	echo 'int main(void) { return 0; }' >"$work/static.c"
	${CC:-cc} -static -o "$work/static" "$work/static.c" 2>/dev/null ||
		{ skip "no static C library" || return; }
	printf '#!%s\n' "$work/static" >"$work/static-script"
	chmod +x "$work/static-script"
	says 125 "is linked statically" run "${good[@]}" -- "$work/static" &&
		says 125 "is linked statically" run "${good[@]}" -- "$work/static-script"
}

not_an_engine()
{
	says 125 "loaded a shared ggml library" run "${good[@]}" -- true || return 1
	echo 'char s[] = "ggml_backend"; int main(int c, char **v) { return !v[0] || s[c] == 0; }' \
		>"$work/inside.c"
	${CC:-cc} -o "$work/inside" "$work/inside.c" || return 1
	says 125 "has ggml linked in statically" run "${good[@]}" -- "$work/inside"
}

exit_status()
{
	local status

	"$kvtier" run "${good[@]}" -- sh -c 'exit 7'
	expect "exit status" $? 7 || return 1
	# shellcheck disable=SC2016 # expanded by the inner shell
	"$kvtier" run "${good[@]}" -- sh -c 'kill -TERM $$'
	expect "exit status after SIGTERM" $? 143 || return 1
	"$kvtier" run "${good[@]}" -- sh -c 'trap "exit 5" USR1; while :; do sleep 0.1; done' &
	sleep 0.5
	kill -USR1 $!
	wait $!
	status=$?
	expect "exit status after a signal passed on" $status 5 && expect_clean
}

forbidden()
{
	compile deny || return 1
	with=("$work/deny" userfaultfd EPERM)
	says 125 "userfaultfd is forbidden" run "${good[@]}" -- true || return
	with=("$work/deny" userfaultfd ENOSYS)
	says 125 "this kernel has no userfaultfd" run "${good[@]}" -- true || return
	with=("$work/deny" io_uring_setup EPERM)
	says 125 "io_uring is forbidden" run "${good[@]}" -- true || return
	with=("$work/deny" io_uring_setup ENOSYS)
	says 125 "this kernel has no io_uring" run "${good[@]}" -- true
}

doctor()
{
	local denied

	"$kvtier" doctor --nvme "$work/nvme" --json >"$work/doctor.json" || {
		cat "$work/doctor.json"
		return 1
	}
	expect "checks" "$(jq -r '[.[].check] | join(" ")' "$work/doctor.json")" \
		"kernel userfaultfd io_uring memlock o_direct numa huge_pages swap module" || return 1
	"$kvtier" doctor --nvme "$work/none/x" --json >"$work/doctor.json"
	expect "exit status" $? 1 &&
		expect "o_direct" "$(jq -r '.[] | select(.check == "o_direct").verdict' \
			"$work/doctor.json")" missing || return 1
	compile deny || return 1
	for denied in userfaultfd io_uring_setup; do
		"$work/deny" $denied EPERM "$kvtier" doctor --nvme "$work/nvme" --json >"$work/doctor.json"
		case $? in
		77) skip "seccomp cannot be used here" || return ;;
		1) ;;
		*) echo "without $denied: expected exit 1" && return 1 ;;
		esac
		jq -e --arg check "${denied%_setup}" '.[] | select(.check == $check) |
			.verdict == "missing" and .mend != ""' "$work/doctor.json" >/dev/null ||
			{ cat "$work/doctor.json" && return 1; }
	done
	expect_clean
}

# json_error STATUS ARGUMENT...: one object with a sentence, wherever --json stands.
json_error()
{
	local status=$1 got

	shift
	"$kvtier" "$@" >"$work/stdout" 2>"$work/stderr"
	got=$?
	expect "exit status of kvtier $*" $got "$status" &&
		expect "standard error" "$(<"$work/stderr")" "" &&
		jq -e '(.error | length) > 10 and keys == ["error"]' "$work/stdout" >/dev/null &&
		expect_clean
}

json()
{
	json_error 2 --json frob && json_error 2 frob --json && json_error 2 stat --frob --json &&
		json_error 2 doctor --json x && json_error 125 run --dram x --json -- true &&
		json_error 125 --json run --dram 0 -- true &&
		json_error 127 run --json "${good[@]}" -- no-such-engine || return 1
	# What follows COMMAND is COMMAND's.
	says 125 "not a size" run --dram x -- true --json || return 1
	expect "no pools" "$("$kvtier" stat --json)" "[]" &&
		expect "no pools" "$("$kvtier" --json | jq -c .pools)" "[]"
}

# Files of processes that are gone are removed, whatever state they are in.
stale()
{
	local gone

	sleep 0 &
	gone=$!
	wait "$gone"
	: >"$work/run/$gone-0.pool"
	head -c 4096 /dev/zero >"$work/run/$gone-1.pool"
	: >"$work/run/run-$gone-abcdef"
	: >"$work/run/notes.txt"
	expect_text "$("$kvtier" stat)" "no pools are running" || return 1
	expect "what is left" "$(ls -A "$work/run")" notes.txt || return 1
	rm "$work/run/notes.txt"
}

ktap_case options "unknown commands, options and arguments" options
ktap_case sizes "sizes that are none, zero or too large" sizes
ktap_case cxl "NUMA nodes that are not there" cxl
ktap_case nvme "paths that cannot be the NVMe tier" nvme
ktap_case pager "pagers that are unknown or not there" pager
ktap_case nvme_in_memory "a path in memory" nvme_in_memory
ktap_case nvme_unwritable "a path that may not be written" nvme_unwritable
ktap_case nvme_full "a disk that is full" nvme_full
ktap_case stats_file "a report that cannot be written" stats_file
ktap_case command "commands that cannot be run" command
ktap_case static_engine "a command linked statically" static_engine
ktap_case not_an_engine "a command without a KV cache" not_an_engine
ktap_case exit_status "the command's status and signals pass through" exit_status
ktap_case forbidden "a host that forbids or lacks what is needed" forbidden
ktap_case doctor "doctor finds what is missing" doctor
ktap_case json "errors as JSON" json
ktap_case stale "files of ended processes" stale
ktap_end
