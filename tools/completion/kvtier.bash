# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Completion of kvtier's commands, options and paths.

# The subcommand on the line; empty: none yet.
_kvtier_command()
{
	local i

	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		show | run | stat | top | map | pool | tier | scrub | plan | trace | report | doctor)
			echo "${COMP_WORDS[i]}"
			return
			;;
		esac
	done
}

# Where the words of the command that `kvtier run` starts begin; 0: not yet.
_kvtier_engine_at()
{
	local i

	for ((i = 2; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--) echo $((i + 1)) && return ;;
		--pager | --dram | --cxl | --nvme | --block | --stats) i=$((i + 1)) ;;
		-*) ;;
		*) echo "$i" && return ;;
		esac
	done
	echo 0
}

_kvtier_run()
{
	local at

	at=$(_kvtier_engine_at)
	if [[ $at -gt 0 ]] && declare -F _command_offset >/dev/null; then
		_command_offset "$at"
		return
	fi
	case $before in
	--nvme | --stats) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
	--block) mapfile -t COMPREPLY < <(compgen -W "64K 128K 256K 512K 1M 2M" -- "$word") ;;
	--pager) mapfile -t COMPREPLY < <(compgen -W "auto user kernel" -- "$word") ;;
	--dram | --cxl) ;;
	*)
		mapfile -t COMPREPLY < <(compgen -W "--pager --dram --cxl --nvme --block --stats --json \
			-h --help --" -- "$word")
		[[ $word == -* ]] || mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -c -- "$word")
		;;
	esac
}

_kvtier()
{
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} words

	COMPREPLY=()
	case $(_kvtier_command) in
	run)
		_kvtier_run
		return
		;;
	show) words="--json -h --help" ;;
	stat) words="--json -w --watch -h --help" ;;
	top) words="-b --batch -n --count -d --delay -s --sort --json -h --help" ;;
	map) words="--svg --width --color --json -h --help" ;;
	pool) words="list show set checkpoint --json -h --help" ;;
	tier) words="list show set quota dram cxl nvme policy --json -h --help" ;;
	scrub) words="--all --background --json -h --help" ;;
	plan) words="--keys --values --dram --cxl --nvme --json -h --help" ;;
	trace) words="replay record --sizes --nvme --lookahead --announce --read --prefill --token \
		--limit --pool --speed -o --output --seconds --json -h --help" ;;
	report) words="--bench --stats --json -h --help" ;;
	doctor) words="--nvme --json -h --help" ;;
	*) words="show run stat top map pool tier scrub plan trace report doctor --json -h --help \
		-V --version" ;;
	esac
	case $before in
	-w | --watch | -d | --delay) words="1 2 5 10" ;;
	-s | --sort) words="read late dram size name" ;;
	--color) words="auto always never" ;;
	--keys | --values) words="f32 f16 bf16 q8_0 q5_0 q5_1 q4_0 q4_1 iq4_nl" ;;
	--nvme | --pool | --svg | --bench | --stats | -o | --output)
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
		return
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
	case $(_kvtier_command) in
	plan | trace | report)
		[[ $word == -* ]] || mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- "$word")
		;;
	esac
}

complete -o filenames -o bashdefault -F _kvtier kvtier
